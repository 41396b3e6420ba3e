//! Powers and remainders of f32 that vectorise, exact to the last bit or nearly: their inner work is in f64.

use super::simd::simd;

/// Elements that are looked at together for the fast path of a remainder.
const BLOCK: usize = 1024;

/// The value of a polynomial; the constant term comes first.
#[inline(always)]
fn polynomial<const COUNT: usize>(x: f64, coefficients: [f64; COUNT]) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, coefficient| sum * x + coefficient)
}

/// log2 x for x >= 0, as 2 atanh((m - 1) / (m + 1)) of the mantissa, by its series: within 2^-40 of itself.
#[inline(always)]
fn log2(x: f32) -> f64 {
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    // 2 / ln 2 / (2 k + 1)
    const SERIES: [f64; 9] = {
        let mut series = [0.0; 9];
        let mut k = 0;
        while k < 9 {
            series[k] = 2.0 * std::f64::consts::LOG2_E / (2 * k + 1) as f64;
            k += 1;
        }
        series
    };
    let offset = f64::from(x).to_bits().wrapping_sub(SQRT_HALF);
    let mantissa = f64::from_bits((offset & 0x000f_ffff_ffff_ffff).wrapping_add(SQRT_HALF));
    // The exponent of an f32 fits 32 bits, which every instruction set converts.
    let exponent = f64::from(((offset >> 32) as i32) >> 20);
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let result = exponent + s * polynomial(s * s, SERIES);
    let result = if x == 0.0 { f64::NEG_INFINITY } else { result };
    if x == f32::INFINITY { f64::INFINITY } else { result }
}

/// 2^x, 0 and infinity of an f32 beyond +-200; a number for NaN.
#[inline(always)]
fn exp2(x: f64) -> f64 {
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52: the sum's low bits are the rounded number
    const SERIES: [f64; 10] = {
        // ln(2)^k / k!
        let mut series = [1.0; 10];
        let mut k = 1;
        while k < 10 {
            series[k] = series[k - 1] * std::f64::consts::LN_2 / k as f64;
            k += 1;
        }
        series
    };
    let bounded = if x > -200.0 { x } else { -200.0 };
    let bounded = if bounded < 200.0 { bounded } else { 200.0 };
    let shifted = bounded + ROUND;
    let rest = bounded - (shifted - ROUND);
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    polynomial(rest, SERIES) * scale
}

/// a^b as C's `pow`: 1 where b is 0 or a is 1, whatever the other is; the sign of a negative base by whether b is odd,
/// and NaN where it is no integer. Within 1 ulp.
#[inline(always)]
pub(crate) fn pow_f32(a: f32, b: f32) -> f32 {
    let magnitude = a.abs();
    let power = exp2(f64::from(b) * log2(magnitude)) as f32;
    // (+-1)^(+-inf) is 1; the product above is NaN.
    let power = if magnitude == 1.0 { 1.0 } else { power };
    // From 2^24 on every f32 is an even integer, infinity too.
    let large = b.abs() >= 16_777_216.0;
    let whole = b as i32;
    let odd = !large & (whole & 1 == 1) & (whole as f32 == b);
    let integer = large | (whole as f32 == b);
    let negative = a.to_bits() >> 31 == 1;
    let power = if negative & odd { -power } else { power };
    // A negative zero has a power of any exponent, and so has minus infinity.
    let fractional = negative & !integer & (a != 0.0) & (a != f32::NEG_INFINITY);
    let power = if fractional { f32::NAN } else { power };
    let power = if a.is_nan() | b.is_nan() { f32::NAN } else { power };
    if (a == 1.0) | (b == 0.0) { 1.0 } else { power }
}

simd! {
    /// Writes [`pow_f32`] of each pair to `y`.
    pub(crate) fn pow(a: &[f32], b: &[f32], y: &mut [f32]) {
        let count = y.len();
        let (a, b) = (&a[..count], &b[..count]);
        for index in 0..count {
            y[index] = pow_f32(a[index], b[index]);
        }
    }

    /// Remainders where every quotient is finite and below 2^26: then the product below is exact in f64, and so is what
    /// it leaves.
    fn rem_near(a: &[f32], b: &[f32], y: &mut [f32]) {
        let count = y.len();
        let (a, b) = (&a[..count], &b[..count]);
        for index in 0..count {
            let (dividend, divisor) = (f64::from(a[index]), f64::from(b[index]));
            let left = dividend - (dividend / divisor).trunc() * divisor;
            y[index] = with_sign_of((left as f32).copysign(a[index]), b[index]);
        }
    }
}

/// What truncation left, moved to the divisor's sign.
#[inline(always)]
fn with_sign_of(left: f32, divisor: f32) -> f32 {
    let other = (left != 0.0) & ((left < 0.0) != (divisor < 0.0));
    if other { left + divisor } else { left }
}

/// a - b floor(a / b), exactly: the remainder of C's `fmod`, and b once more where the signs differ.
pub(crate) fn rem(a: &[f32], b: &[f32], y: &mut [f32]) {
    for ((a, b), y) in a.chunks(BLOCK).zip(b.chunks(BLOCK)).zip(y.chunks_mut(BLOCK)) {
        let near = |(a, b): (&f32, &f32)| (a.abs() < b.abs() * 67_108_864.0) & (b.abs() < f32::MAX);
        if a.iter().zip(b).fold(true, |all, pair| all & near(pair)) {
            rem_near(a, b, y);
        } else {
            for ((a, b), y) in a.iter().zip(b).zip(y) {
                *y = with_sign_of(a % b, *b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::limit::on_each_level;
    use super::*;

    const SPECIAL: [f32; 22] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        2.0,
        -2.0,
        3.0,
        -3.0,
        0.5,
        -0.5,
        1.5,
        -1.5,
        1e-40,
        -1e-40,
        1e30,
        -1e30,
        16_777_217.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN_POSITIVE,
    ];

    /// Pairs of special numbers, and of bit patterns from all over and from around 1.
    fn pairs() -> (Vec<f32>, Vec<f32>) {
        let mut pairs: Vec<(f32, f32)> = SPECIAL.iter().flat_map(|&a| SPECIAL.map(|b| (a, b))).collect();
        let mut state = 1u32;
        let mut word = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state ^ (state >> 15)
        };
        pairs.extend((0..30_000).map(|_| (f32::from_bits(word()), f32::from_bits(word()))));
        let mut number = |scale: f32| (word() as f32 / 2_147_483_648.0 - 1.0) * scale;
        pairs.extend((0..60_000).map(|_| (1.5 + number(1.499), number(90.0))));
        pairs.extend((0..20_000).map(|_| (number(20.0), number(12.0).trunc())));
        pairs.into_iter().unzip()
    }

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn powers_are_those_of_f64_on_every_level() {
        let (a, b) = pairs();
        let mut y = vec![0.0; a.len()];
        for (level, y) in on_each_level(|| {
            pow(&a, &b, &mut y);
            y.clone()
        }) {
            for ((&a, &b), &y) in a.iter().zip(&b).zip(&y) {
                let exact = f64::from(a).powf(f64::from(b));
                let rounded = exact as f32;
                let ulp = f64::from(rounded.abs().next_up()) - f64::from(rounded.abs());
                let near = exact.is_finite() && (f64::from(y) - exact).abs() <= ulp;
                let signed = y.is_nan() || y.is_sign_negative() == rounded.is_sign_negative();
                assert!((same(y, rounded) || near) && signed, "{a:e}^{b:e} = {y:e}, not {exact:e}, on {level:?}");
            }
        }
    }

    #[test]
    fn remainders_are_exact_and_do_not_depend_on_their_neighbours() {
        let (a, b) = pairs();
        let mut y = vec![0.0; a.len()];
        for (level, y) in on_each_level(|| {
            rem(&a, &b, &mut y);
            y.clone()
        }) {
            for ((&a, &b), &y) in a.iter().zip(&b).zip(&y) {
                let left = a % b;
                let expected = if left != 0.0 && (left < 0.0) != (b < 0.0) { left + b } else { left };
                assert!(same(y, expected), "{a:e} rem {b:e} = {y:e}, not {expected:e}, on {level:?}");
            }
        }
        // Alone, and among those of the other path.
        let (a, b) = ([7.5f32, -7.5, 7.5, -1e-30, 5.0], [2.0f32, 2.0, -2.0, 1.0, -5.0]);
        let (mut alone, mut among) = ([0.0; 5], [0.0; 6]);
        rem(&a, &b, &mut alone);
        rem(&[&a[..], &[1e30]].concat(), &[&b[..], &[1.0]].concat(), &mut among);
        assert_eq!(alone.map(f32::to_bits)[..], among.map(f32::to_bits)[..5]);
        assert_eq!(alone, [1.5, 0.5, -0.5, 1.0, 0.0]);
    }
}
