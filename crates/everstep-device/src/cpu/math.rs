//! Elementary functions of f32 that vectorise, and reductions whose order never changes.
//!
//! Each function exists twice: `name_f32`, branch-free scalar code for use inside a loop of one's own, and `name`,
//! that loop over slices, compiled for every SIMD level. Both give the same bits on every level. Every function
//! returns NaN for NaN, rounds results below the smallest normal number correctly instead of flushing them, and
//! overflows to infinity.
//!
//! Every polynomial here is a minimax fit made for this file: a Remez exchange in 40 digits that minimises the relative
//! error of the whole function, its coefficients rounded to f32 one after the other, from the constant term up, with
//! the rest fitted again after each. Selections are written as `if` without side effects, which LLVM turns into blends;
//! their conditions are chosen so that NaN takes the intended side.

use super::simd::simd;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_PI, LOG2_E};

/// Adding 1.5 * 2^23 pushes the fraction out of an f32: the sum is rounded to an integer (to nearest, ties to even) and
/// the low bits of its representation are that integer. This needs no instruction that SSE2 lacks, unlike `round`.
const ROUND: f32 = 12_582_912.0;

/// The upper part of ln 2, with 9 significant bits, so that its product with an exponent is exact (as in Cephes).
const LN_2_HIGH: f32 = f32::from_bits(0x3f31_8000);
/// ln 2 - [`LN_2_HIGH`].
const LN_2_LOW: f32 = f32::from_bits(0xb95e_8083);

/// The value of a polynomial; the constant term comes first. Horner's rule over pairs of terms: half the depth of the
/// plain rule, which is what limits it, for one more multiplication.
#[inline(always)]
fn polynomial<const COUNT: usize>(x: f32, coefficients: [f32; COUNT]) -> f32 {
    let square = x * x;
    let mut index = (COUNT - 1) / 2 * 2;
    let mut sum = coefficients[index];
    if index + 1 < COUNT {
        sum += coefficients[index + 1] * x;
    }
    while index > 0 {
        index -= 2;
        sum = sum * square + (coefficients[index] + coefficients[index + 1] * x);
    }
    sum
}

/// 2^exponent, for exponents from -126 to 127.
#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits((exponent.wrapping_add(127) as u32) << 23)
}

/// Splits x = exponent * ln 2 + rest with |rest| <= 0.3475, for |x| below 2^15.
#[inline(always)]
fn split_by_ln_2(x: f32) -> (i32, f32) {
    let shifted = x * LOG2_E + ROUND;
    let exponent = shifted - ROUND;
    let rest = (x - exponent * LN_2_HIGH) - exponent * LN_2_LOW;
    (shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32, rest)
}

/// e^x. At most 2 ulp.
#[inline(always)]
pub(crate) fn exp_f32(x: f32) -> f32 {
    // Beyond these bounds the result is 0 or infinity anyway; inside them the exponent fits. NaN becomes a number here,
    // so that every step below sees finite values, and is put back at the end.
    let bounded = if x > -104.0 { x } else { -104.0 };
    let bounded = if bounded < 89.0 { bounded } else { 89.0 };
    let (exponent, rest) = split_by_ln_2(bounded);
    let curve = polynomial(rest, [0.499_999_94, 0.166_665_21, 0.041_668_165, 0.008_368_727, 0.001_382_980_8]);
    let mantissa = 1.0 + (rest + rest * rest * curve);
    // Two factors: one power of two cannot hold the exponents of overflow and of gradual underflow. Only the second
    // product can round.
    let half = exponent >> 1;
    let result = mantissa * power_of_two(half) * power_of_two(exponent.wrapping_sub(half));
    if x.is_nan() { x } else { result }
}

/// e^rest - 1 for |rest| <= 0.3475.
#[inline(always)]
fn expm1_near_zero(rest: f32) -> f32 {
    let curve = polynomial(rest, [0.5, 0.166_666_66, 0.041_666_493, 0.008_333_538, 0.001_393_327_5, 0.000_197_734_47]);
    rest + rest * rest * curve
}

/// e^x - 1. At most 4 ulp, near zero too.
#[inline(always)]
pub(crate) fn expm1_f32(x: f32) -> f32 {
    let bounded = if x > -20.0 { x } else { -20.0 };
    let bounded = if bounded < 89.0 { bounded } else { 89.0 };
    let (exponent, rest) = split_by_ln_2(bounded);
    let near = expm1_near_zero(rest);
    // 2^e (1 + near) - 1, halved until the last step, since 2^128 is no f32. That would cost a denormal its last bit,
    // so exponent 0 takes `near` as it is.
    let scale = power_of_two(exponent.wrapping_sub(1));
    let scaled = 2.0 * (scale * near + (scale - 0.5));
    let result = if exponent == 0 { near } else { scaled };
    if x.is_nan() { x } else { result.copysign(x) }
}

/// Splits a positive normal x = 2^exponent (1 + fraction) with 1 + fraction between sqrt(1/2) and sqrt(2).
#[inline(always)]
fn split_by_two(x: f32) -> (f32, f32) {
    const SQRT_HALF: u32 = 0x3f35_04f3;
    let offset = x.to_bits().wrapping_sub(SQRT_HALF);
    let mantissa = f32::from_bits((offset & 0x007f_ffff).wrapping_add(SQRT_HALF));
    (((offset as i32) >> 23) as f32, mantissa - 1.0)
}

/// exponent * ln 2 + ln(1 + fraction) + correction, for a small correction.
#[inline(always)]
fn join_log(exponent: f32, fraction: f32, correction: f32) -> f32 {
    #[rustfmt::skip]
    const CURVE: [f32; 9] = [
        0.333_333_14, -0.250_000_15, 0.200_020_87, -0.166_677_74, 0.142_203_91, -0.124_115_646, 0.118_875_83,
        -0.116_272_934, 0.066_777_32,
    ];
    let curve = polynomial(fraction, CURVE);
    let square = fraction * fraction;
    let small = square * fraction * curve + (exponent * LN_2_LOW + correction);
    exponent * LN_2_HIGH + (fraction - (0.5 * square - small))
}

/// What a logarithm returns where its argument (for `log1p`, one more than it) is not a positive finite number.
#[inline(always)]
fn log_domain(argument: f32, result: f32) -> f32 {
    let result = if argument < f32::INFINITY { result } else { argument };
    let result = if argument == 0.0 { f32::NEG_INFINITY } else { result };
    if argument < 0.0 { f32::NAN } else { result }
}

/// ln x. At most 2 ulp; -inf for either zero, NaN for negative numbers.
#[inline(always)]
pub(crate) fn log_f32(x: f32) -> f32 {
    const TWO_POW_25: f32 = 33_554_432.0;
    let denormal = x < f32::MIN_POSITIVE;
    let normal = if denormal { x * TWO_POW_25 } else { x };
    let (exponent, fraction) = split_by_two(normal);
    let exponent = if denormal { exponent - 25.0 } else { exponent };
    log_domain(x, join_log(exponent, fraction, 0.0))
}

/// ln(1 + x) for finite x > -1; the sign of zero is lost.
#[inline(always)]
fn log1p_bounded(x: f32) -> f32 {
    let sum = 1.0 + x;
    // What the addition rounded away, computed without rounding: the smaller operand minus what arrived of it.
    let lost = if x < 1.0 { x - (sum - 1.0) } else { 1.0 - (sum - x) };
    let (exponent, fraction) = split_by_two(sum);
    let near = exponent == 0.0;
    let fraction = if near { x } else { fraction };
    let correction = if near { 0.0 } else { lost / sum };
    join_log(exponent, fraction, correction)
}

/// ln(1 + x). At most 4 ulp, near zero too; -inf for -1, NaN below.
#[inline(always)]
pub(crate) fn log1p_f32(x: f32) -> f32 {
    let result = log_domain(1.0 + x, log1p_bounded(x).copysign(x));
    if x.is_nan() { x } else { result }
}

/// tanh x = (e^2x - 1) / (e^2x + 1). At most 4 ulp.
#[inline(always)]
pub(crate) fn tanh_f32(x: f32) -> f32 {
    // From 9.02 on, the nearest f32 is 1.
    let magnitude = x.abs();
    let bounded = if magnitude < 10.0 { magnitude } else { 10.0 };
    let (exponent, rest) = split_by_ln_2(2.0 * bounded);
    let scale = power_of_two(exponent);
    let growth = scale * expm1_near_zero(rest) + (scale - 1.0);
    let result = (growth / (growth + 2.0)).copysign(x);
    if x.is_nan() { x } else { result }
}

/// 1 / (1 + e^-x). At most 4 ulp, in the tail near zero too.
#[inline(always)]
pub(crate) fn sigmoid_f32(x: f32) -> f32 {
    // The power that cannot overflow. Its sign is set, not flipped, so that NaN keeps one representation.
    let power = exp_f32(-x.abs());
    let numerator = if x >= 0.0 { 1.0 } else { power };
    numerator / (1.0 + power)
}

/// ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|). At most 4 ulp.
#[inline(always)]
pub(crate) fn softplus_f32(x: f32) -> f32 {
    let positive = if x > 0.0 { x } else { 0.0 };
    positive + log1p_bounded(exp_f32(-x.abs()))
}

/// The boundary between the two approximations of erf.
const ERF_SPLIT: f32 = 0.85;

/// erf x for |x| <= [`ERF_SPLIT`], as x + x P(x^2).
#[inline(always)]
fn erf_near_zero(x: f32) -> f32 {
    let coefficients = [0.128_379_17, -0.376_125_9, 0.112_828_65, -0.026_807_288, 0.005_057_703_7, -0.000_634_851_87];
    x + x * polynomial(x * x, coefficients)
}

/// 1 - erf x for x >= [`ERF_SPLIT`], within 1.1e-8, as the fourth power of a polynomial: the fourth root falls slowly
/// enough for one of low degree. Exactly 0 from 4 on, where the true value is below 1.6e-8.
#[inline(always)]
fn erfc_tail(x: f32) -> f32 {
    #[rustfmt::skip]
    const ROOT: [f32; 10] = [
        1.000_416_6, -0.284_388_4, -0.114_148_21, 0.009_318_973, 0.022_185_395, -0.001_420_031_5, -0.003_075_955_4,
        0.000_997_054_7, -0.000_121_104_92, 5.154_879e-6,
    ];
    let root = polynomial(x, ROOT);
    let square = root * root;
    if x >= 4.0 { 0.0 } else { square * square }
}

/// The error function. At most 4 ulp.
#[inline(always)]
pub(crate) fn erf_f32(x: f32) -> f32 {
    let magnitude = x.abs();
    let far = (1.0 - erfc_tail(magnitude)).copysign(x);
    let result = if magnitude < ERF_SPLIT { erf_near_zero(x) } else { far };
    if x.is_nan() { x } else { result }
}

/// The tanh approximation of GELU, 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), written as the equal
/// x / (1 + e^-2u), which does not cancel. For x >= -1 at most 4 ulp; below, where 2u magnifies the rounding of u, the
/// absolute error is at most 1e-7.
#[inline(always)]
pub(crate) fn gelu_tanh_f32(x: f32) -> f32 {
    // 2 sqrt(2/pi), and that times 0.044715.
    const LINEAR: f32 = 1.595_769;
    const CUBIC: f32 = 0.071_354_814;
    // From -20 on the quotient is -0; without the bound it would be NaN for -inf.
    let bounded = if x < -20.0 { -20.0 } else { x };
    bounded / (1.0 + exp_f32(bounded * (-LINEAR - CUBIC * (bounded * bounded))))
}

/// GELU, 0.5 x (1 + erf(x / sqrt 2)). For x >= -1 at most 4 ulp; below, where the sum cancels, the absolute error is at
/// most 1e-7.
#[inline(always)]
pub(crate) fn gelu_erf_f32(x: f32) -> f32 {
    let bounded = if x < -20.0 { -20.0 } else { x };
    let scaled = bounded * FRAC_1_SQRT_2;
    let magnitude = scaled.abs();
    // The normal distribution function: each side of zero reads its own tail, which spares the negative one the sum.
    let tail = 0.5 * erfc_tail(magnitude);
    let far = if scaled < 0.0 { tail } else { 1.0 - tail };
    let near = 0.5 + 0.5 * erf_near_zero(scaled);
    let result = bounded * if magnitude < ERF_SPLIT { near } else { far };
    if x.is_nan() { x } else { result }
}

/// The largest magnitude that [`turn`] reduces. Above it, sin and cos ask the standard library.
const TURN_LIMIT: f32 = 131_072.0;

/// sin(x + quarter * pi / 2) for 0 <= x <= [`TURN_LIMIT`].
///
/// The reduction x - n pi / 2 runs in f64, with the 33-bit upper part of pi / 2 (exact products) and the rest: in f32
/// it would need five parts to stay accurate near the zeros.
#[inline(always)]
fn turn(x: f32, quarter: u32) -> f32 {
    const HALF_PI_HIGH: f64 = f64::from_bits(0x3ff9_21fb_5440_0000);
    const HALF_PI_LOW: f64 = 6.077_100_506_506_192e-11;
    let shifted = x * FRAC_2_PI + ROUND;
    let quarters = f64::from(shifted - ROUND);
    let rest = ((f64::from(x) - quarters * HALF_PI_HIGH) - quarters * HALF_PI_LOW) as f32;
    let square = rest * rest;
    let sine = rest + rest * square * polynomial(square, [-0.166_666_52, 0.008_332_014, -0.000_194_956_62]);
    let curve = polynomial(square, [0.041_666_653, -0.001_388_756_9, 2.445_392_2e-5]);
    let cosine = 1.0 - (0.5 * square - square * square * curve);
    let quadrant = shifted.to_bits().wrapping_add(quarter);
    let result = if quadrant & 1 == 0 { sine } else { cosine };
    f32::from_bits(result.to_bits() ^ ((quadrant & 2) << 30))
}

/// sin x for |x| <= [`TURN_LIMIT`]; an odd function to the last bit.
#[inline(always)]
fn sin_bounded(x: f32) -> f32 {
    f32::from_bits(turn(x.abs(), 0).to_bits() ^ (x.to_bits() & 0x8000_0000))
}

/// cos x for |x| <= [`TURN_LIMIT`].
#[inline(always)]
fn cos_bounded(x: f32) -> f32 {
    turn(x.abs(), 1)
}

/// sin x. At most 4 ulp. It branches on the magnitude, so a loop over it does not vectorise: use [`sin`] there.
#[inline(always)]
pub(crate) fn sin_f32(x: f32) -> f32 {
    if x.abs() <= TURN_LIMIT { sin_bounded(x) } else { x.sin() }
}

/// cos x. At most 4 ulp. It branches on the magnitude, so a loop over it does not vectorise: use [`cos`] there.
#[inline(always)]
pub(crate) fn cos_f32(x: f32) -> f32 {
    if x.abs() <= TURN_LIMIT { cos_bounded(x) } else { x.cos() }
}

/// Generates the slice form of each function. The loop stands in the macro because a function passed as `impl Fn` is
/// inlined only if it is small, and a loop that calls does not vectorise.
macro_rules! slice_forms {
    ($($name:ident: $scalar:ident;)*) => {
        $(simd! {
            #[doc = concat!("Writes [`", stringify!($scalar), "`] of each element of `x` to `y`, of equal length.")]
            pub(crate) fn $name(x: &[f32], y: &mut [f32]) {
                debug_assert_eq!(x.len(), y.len());
                for (value, result) in x.iter().zip(y) {
                    *result = $scalar(*value);
                }
            }
        })*
    };
}

slice_forms! {
    exp: exp_f32; expm1: expm1_f32; log: log_f32; log1p: log1p_f32;
    tanh: tanh_f32; sigmoid: sigmoid_f32; softplus: softplus_f32; erf: erf_f32;
    gelu_tanh: gelu_tanh_f32; gelu_erf: gelu_erf_f32;
    sin_within_limit: sin_bounded; cos_within_limit: cos_bounded;
}

/// Runs `bounded` on the chunks that lie wholly within [`TURN_LIMIT`], `any` on each element of the others. The two
/// agree within the limit, so a result does not depend on its neighbours.
fn map_turn(x: &[f32], y: &mut [f32], bounded: fn(&[f32], &mut [f32]), any: fn(f32) -> f32) {
    debug_assert_eq!(x.len(), y.len());
    for (values, results) in x.chunks(BLOCK).zip(y.chunks_mut(BLOCK)) {
        if values.iter().fold(true, |within, value| within & (value.abs() <= TURN_LIMIT)) {
            bounded(values, results);
        } else {
            for (value, result) in values.iter().zip(results) {
                *result = any(*value);
            }
        }
    }
}

/// Writes [`sin_f32`] of each element of `x` to `y`, of equal length.
pub(crate) fn sin(x: &[f32], y: &mut [f32]) {
    map_turn(x, y, sin_within_limit, sin_f32);
}

/// Writes [`cos_f32`] of each element of `x` to `y`, of equal length.
pub(crate) fn cos(x: &[f32], y: &mut [f32]) {
    map_turn(x, y, cos_within_limit, cos_f32);
}

/// Accumulators of a reduction: enough to hide the latency of an addition, few enough for the registers of SSE2.
const LANES: usize = 32;
/// Elements of one block of a reduction.
const BLOCK: usize = 1024;

/// Adds neighbouring blocks, then neighbouring pairs and so on, as their sums arrive, so that the error grows with the
/// logarithm of their number. `partial[k]` holds the sum of 2^k blocks where bit k of `count` is set.
struct Pairwise {
    partial: [f32; usize::BITS as usize],
    count: usize,
}

impl Pairwise {
    const EMPTY: Self = Pairwise { partial: [0.0; usize::BITS as usize], count: 0 };

    #[inline(always)]
    fn push(&mut self, block: f32) {
        let full = self.count.trailing_ones() as usize;
        let merged = self.partial[..full].iter().fold(block, |sum, earlier| earlier + sum);
        self.partial[full] = merged;
        self.count += 1;
    }

    /// The total. Every NaN becomes the same one: which operand's payload survives an addition is not specified.
    #[inline(always)]
    fn finish(&self) -> f32 {
        let set = |index: usize| self.count >> index & 1 == 1;
        let levels = usize::BITS - self.count.leading_zeros();
        let total = (0..levels as usize).filter(|index| set(*index)).fold(0.0, |sum, k| self.partial[k] + sum);
        if total.is_nan() { f32::NAN } else { total }
    }
}

/// Joins `term(x, y)` of every pair into [`LANES`] lanes, and the lanes by halves.
#[inline(always)]
fn fold(x: &[f32], y: &[f32], empty: f32, term: impl Fn(f32, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [empty; LANES];
    let (x_groups, y_groups) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let (x_rest, y_rest) = (x_groups.remainder(), y_groups.remainder());
    for (x_group, y_group) in x_groups.zip(y_groups) {
        for ((lane, x), y) in lanes.iter_mut().zip(x_group).zip(y_group) {
            *lane = join(*lane, term(*x, *y));
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane = join(*lane, term(*x, *y));
    }
    for width in [16, 8, 4, 2, 1] {
        for index in 0..width {
            lanes[index] = join(lanes[index], lanes[index + width]);
        }
    }
    lanes[0]
}

/// The sum of `term(x, y)` over both slices, in the order that all sums of this file share.
#[inline(always)]
fn sum_of(x: &[f32], y: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut total = Pairwise::EMPTY;
    for (x_block, y_block) in x.chunks(BLOCK).zip(y.chunks(BLOCK)) {
        total.push(fold(x_block, y_block, 0.0, &term, |sum, term| sum + term));
    }
    total.finish()
}

/// The larger of two numbers, or the NaN among them.
#[inline(always)]
fn larger(best: f32, value: f32) -> f32 {
    if value > best || value.is_nan() { value } else { best }
}

simd! {
    /// The sum of the elements, 0 if there are none: blocks of 1,024 in 32 lanes, joined pairwise.
    pub(crate) fn sum(x: &[f32]) -> f32 {
        sum_of(x, x, |x, _| x)
    }

    /// The sum of the squares, in the order of [`sum`].
    pub(crate) fn sum_squares(x: &[f32]) -> f32 {
        sum_of(x, x, |x, _| x * x)
    }

    /// The scalar product of two slices of equal length, in the order of [`sum`].
    pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
        debug_assert_eq!(x.len(), y.len());
        sum_of(x, y, |x, y| x * y)
    }

    /// The largest element: NaN if any is NaN, -inf if there are none.
    pub(crate) fn max(x: &[f32]) -> f32 {
        let best = fold(x, x, f32::NEG_INFINITY, |value, _| value, larger);
        if best.is_nan() { f32::NAN } else { best }
    }

    /// Writes e^(x - shift) to `y`, of equal length, and returns its sum in the order of [`sum`]. With `shift` the
    /// maximum of `x` this is the middle of a softmax; a row of nothing but -inf gives NaN.
    pub(crate) fn exp_sum(x: &[f32], shift: f32, y: &mut [f32]) -> f32 {
        debug_assert_eq!(x.len(), y.len());
        let mut total = Pairwise::EMPTY;
        for (values, powers) in x.chunks(BLOCK).zip(y.chunks_mut(BLOCK)) {
            for (value, power) in values.iter().zip(powers.iter_mut()) {
                *power = exp_f32(value - shift);
            }
            total.push(fold(powers, powers, 0.0, |power, _| power, |sum, power| sum + power));
        }
        total.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::limit::on_each_level;
    use super::*;

    /// Name, slice form, scalar form, f64 reference, largest error in ulp.
    type Row = (&'static str, fn(&[f32], &mut [f32]), fn(f32) -> f32, fn(f64) -> f64, f64);

    /// erf by its series without cancellation, 2/sqrt(pi) e^(-x^2) sum 2^n x^(2n+1) / (2n+1)!!.
    fn erf_f64(x: f64) -> f64 {
        if x.is_nan() || x.abs() > 5.5 {
            return if x.is_nan() { x } else { 1f64.copysign(x) };
        }
        let (mut term, mut sum, mut odd) = (x, x, 1.0);
        while term.abs() > sum.abs() * 1e-17 {
            odd += 2.0;
            term *= 2.0 * x * x / odd;
            sum += term;
        }
        sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
    }

    /// The factor of x in either GELU; at -inf the product is 0, not NaN.
    fn gated(x: f64, gate: f64) -> f64 {
        if x == f64::NEG_INFINITY { -0.0 } else { x * gate }
    }

    fn gelu_tanh_f64(x: f64) -> f64 {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
        gated(x, 1.0 / (1.0 + (-2.0 * inner).exp()))
    }

    const FUNCTIONS: [Row; 12] = [
        ("exp", exp, exp_f32, f64::exp, 2.0),
        ("expm1", expm1, expm1_f32, f64::exp_m1, 4.0),
        ("log", log, log_f32, f64::ln, 2.0),
        ("log1p", log1p, log1p_f32, f64::ln_1p, 4.0),
        ("tanh", tanh, tanh_f32, f64::tanh, 4.0),
        ("sigmoid", sigmoid, sigmoid_f32, |x| 1.0 / (1.0 + (-x).exp()), 4.0),
        ("softplus", softplus, softplus_f32, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), 4.0),
        ("erf", erf, erf_f32, erf_f64, 4.0),
        ("sin", sin, sin_f32, f64::sin, 4.0),
        ("cos", cos, cos_f32, f64::cos, 4.0),
        ("gelu_tanh", gelu_tanh, gelu_tanh_f32, gelu_tanh_f64, 4.0),
        ("gelu_erf", gelu_erf, gelu_erf_f32, |x| gated(x, 0.5 + 0.5 * erf_f64(x * 0.5f64.sqrt())), 4.0),
    ];

    /// Special values, every 37,217th bit pattern (a prime), and dense points where the functions bend.
    fn points() -> Vec<f32> {
        let special = [0.0, f32::MIN_POSITIVE, f32::from_bits(1), f32::from_bits(0x007f_ffff), f32::MAX, f32::INFINITY];
        let edges = [1.0, 0.85, 4.0, 20.0, 88.722_84, 89.0, 103.97, 104.0, 131_072.0, 710.0];
        let nan = [f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0x7fff_ffff), f32::from_bits(0xffc1_2345)];
        let mut points: Vec<f32> = special.iter().chain(&edges).flat_map(|value| [*value, -*value]).collect();
        points.extend(nan);
        points.extend((0..=u32::MAX / 37_217).map(|index| f32::from_bits(index * 37_217)));
        points.extend((0..60_000).map(|index| (index - 30_000) as f32 * 1.234_567e-4));
        points.extend((0..60_000).map(|index| (index - 30_000) as f32 * 3.678_9e-3));
        points.extend((0..40_000).map(|index| (index as f64 * std::f64::consts::FRAC_PI_2) as f32));
        points
    }

    fn is_nan_by_bits(value: f32) -> bool {
        value.to_bits() & 0x7fff_ffff > 0x7f80_0000
    }

    /// The distance to the reference in units of the last place of the reference. Infinity counts as 2^128.
    fn error_ulp(result: f32, reference: f64) -> f64 {
        let finite = |value: f64| value.clamp(-(2f64.powi(128)), 2f64.powi(128));
        let exponent = ((reference.abs().to_bits() >> 52) as i32 - 1023).clamp(-126, 127);
        (finite(result.into()) - finite(reference)).abs() / 2f64.powi(exponent - 23)
    }

    #[test]
    fn accurate_everywhere_and_the_same_on_every_level() {
        let points = points();
        for (name, slice, scalar, reference, bound) in FUNCTIONS {
            let mut results = vec![0.0; points.len()];
            for (level, results) in on_each_level(|| {
                slice(&points, &mut results);
                results.clone()
            }) {
                for (x, result) in points.iter().zip(results) {
                    assert_eq!(result.to_bits(), scalar(*x).to_bits(), "{name}({x:e}) on {level:?}");
                }
            }
            let (mut worst, mut worst_absolute) = (0.0f64, 0.0f64);
            for (x, result) in points.iter().zip(&results) {
                let expected = reference(f64::from(*x));
                assert_eq!(is_nan_by_bits(*result), expected.is_nan(), "{name}({x:e}) = {result}");
                if expected == 0.0 || expected.is_infinite() {
                    assert_eq!(result.to_bits(), (expected as f32).to_bits(), "{name}({x:e}) = {result}");
                }
                // The negative tail of gelu is held to an absolute error, as its documentation says. A NaN, which both
                // are by now, leaves a maximum unchanged.
                if name.starts_with("gelu") && *x < -1.0 {
                    worst_absolute = worst_absolute.max((f64::from(*result) - expected).abs());
                } else {
                    worst = worst.max(error_ulp(*result, expected));
                }
            }
            println!("{name}: {worst:.2} ulp, absolute {worst_absolute:.1e}");
            assert!(worst <= bound && worst_absolute <= 1e-7, "{name}: {worst} ulp, {worst_absolute}");
        }
    }

    #[test]
    fn reductions_agree_on_every_level_and_with_f64() {
        let values: Vec<f32> = (0..100_003u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 * 6e-8).collect();
        // Around the boundaries of lanes, blocks and pairs of blocks.
        for length in [0, 1, 31, 32, 33, 1023, 1024, 1025, 3072, 5000, 65_536, 100_003] {
            let (x, mut powers) = (&values[..length], vec![0.0; length]);
            let all = on_each_level(|| [sum(x), sum_squares(x), dot(x, x), max(x), exp_sum(x, 1.0, &mut powers)]);
            for (level, results) in &all {
                assert_eq!(results.map(f32::to_bits), all[0].1.map(f32::to_bits), "{level:?} at {length}");
            }
            let total = |term: fn(f64) -> f64| x.iter().map(|value| term(f64::from(*value))).sum::<f64>();
            let squares = total(|value| value * value);
            let expected = [total(|value| value), squares, squares, all[0].1[3].into(), total(|v| (v - 1.0).exp())];
            for (result, expected) in all[0].1.iter().zip(expected) {
                let close = f64::from(*result) == expected || (f64::from(*result) / expected - 1.0).abs() < 1e-6;
                assert!(close, "{result} {expected} {length}");
            }
            assert_eq!(max(x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }

    #[test]
    fn reductions_propagate_nan_from_every_place() {
        let mut values = vec![1.0f32; 2100];
        values[0] = f32::INFINITY;
        for place in (1..values.len()).step_by(7) {
            values[place] = f32::from_bits(0xffc0_0007);
            let x = &values;
            for (level, all) in on_each_level(|| [max(x), sum(x), dot(x, x), exp_sum(x, 0.0, &mut vec![0.0; x.len()])])
            {
                assert!(all.into_iter().all(is_nan_by_bits), "{place} {level:?}");
            }
            values[place] = 1.0;
        }
        assert_eq!([max(&values), max(&[]), sum(&[])], [f32::INFINITY, f32::NEG_INFINITY, 0.0]);
    }
}
