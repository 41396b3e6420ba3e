//! What pointwise functions are, in f64: the oracle of the tests, written for clarity.

/// erf to full f64 precision, for references: the series of positive terms where it converges fast, else the continued
/// fraction of erfc (Abramowitz and Stegun 7.1.6 and 7.1.14).
pub fn erf_f64(x: f64) -> f64 {
    let magnitude = x.abs();
    if magnitude.is_nan() || magnitude > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    if magnitude < 3.0 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
        }
        return sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let mut fraction = magnitude;
    for k in (1..=60).rev() {
        fraction = magnitude + f64::from(k) / 2.0 / fraction;
    }
    x.signum() * (1.0 - (-x * x).exp() / fraction * std::f64::consts::FRAC_2_SQRT_PI / 2.0)
}

/// x (1 + curve) / 2, where 0 times infinity is 0: the limit on the left.
pub(super) fn gelu_f64(x: f64, curve: f64) -> f64 {
    if x == f64::NEG_INFINITY { 0.0 } else { 0.5 * x * (1.0 + curve) }
}

pub(super) fn gelu_tanh_f64(x: f64) -> f64 {
    gelu_f64(x, ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

/// x / (1 + e^-x); 0 at minus infinity: the limit.
pub(super) fn silu_f64(x: f64) -> f64 {
    if x == f64::NEG_INFINITY { 0.0 } else { x / (1.0 + (-x).exp()) }
}

/// ln(1 + e^x), without overflow.
pub(super) fn softplus_f64(x: f64) -> f64 {
    if x.is_nan() { x } else { x.max(0.0) + (-x.abs()).exp().ln_1p() }
}

/// x above 0, else alpha (e^x - 1).
pub(super) fn elu_f64(x: f64, alpha: f64) -> f64 {
    if x > 0.0 { x } else { alpha * x.exp_m1() }
}

/// -1, 0 or 1, or NaN.
pub(super) fn sign_f64(x: f64) -> f64 {
    if x == 0.0 || x.is_nan() { x } else { x.signum() }
}

/// The larger and the smaller of two; NaN where either is.
pub(super) fn max_f64(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

pub(super) fn min_f64(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

/// a - b floor(a / b): what is left has the sign of b.
pub(super) fn rem_f64(a: f64, b: f64) -> f64 {
    let left = a % b;
    if left != 0.0 && (left < 0.0) != (b < 0.0) { left + b } else { left }
}

pub(super) fn truth(condition: bool) -> f64 {
    f64::from(u8::from(condition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_of_erf_is_exact() {
        // Python's math.erf, which rounds the C library's.
        for (x, y) in
            [(0.5, 0.5204998778130465), (1.0, 0.8427007929497149), (2.9, 0.9999589021219005), (3.5, 0.9999992569016276)]
        {
            assert!((erf_f64(x) - y).abs() < 1e-15 && (erf_f64(-x) + y).abs() < 1e-15, "{x}");
        }
    }
}
