// Comparisons that keep NaN.
//
// A shader compiler may assume that NaN does not exist, so whether a number is NaN is asked of its bits. In each
// function that test is the outermost choice: whatever a compiler makes of the comparison of floats inside (it may turn
// one into `max`, which drops NaN), the NaN is put back.

// An f32 from its bits. A function, because WGSL refuses a constant expression that is NaN or infinite.
fn f32_from_bits(bits: u32) -> f32 {
    return bitcast<f32>(bits);
}

fn nan_f32() -> f32 {
    return f32_from_bits(0x7fc00000u);
}

fn infinity_f32() -> f32 {
    return f32_from_bits(0x7f800000u);
}

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// Infinite or NaN: the exponent is all ones.
fn is_non_finite(x: f32) -> bool {
    return is_non_finite_bits(bitcast<u32>(x));
}

fn is_non_finite_bits(bits: u32) -> bool {
    return (bits & 0x7f800000u) == 0x7f800000u;
}

// The larger; NaN where either is.
fn max_f32(a: f32, b: f32) -> f32 {
    return select(select(select(b, a, a > b), b, is_nan(b)), a, is_nan(a));
}

// The smaller; NaN where either is.
fn min_f32(a: f32, b: f32) -> f32 {
    return select(select(select(b, a, a < b), b, is_nan(b)), a, is_nan(a));
}

// Negative, a zero or minus infinity, but not NaN: x <= 0, on the bits.
fn is_at_most_zero(x: f32) -> bool {
    let bits = bitcast<u32>(x);
    return bits == 0u || (bits >= 0x80000000u && bits <= 0xff800000u);
}

// b where a is positive or NaN, else 0.
fn relu_gate_f32(a: f32, b: f32) -> f32 {
    return select(b, 0.0, is_at_most_zero(a));
}

// c where a is the larger, half of it where a equals b, else (NaN too) 0.
fn max_share_f32(a: f32, b: f32, c: f32) -> f32 {
    let share = select(select(0.0, 0.5 * c, a == b), c, a > b);
    return select(share, 0.0, is_nan(a) || is_nan(b));
}

// Towards zero; saturating where it does not fit; 0 for NaN. As Rust's `as`.
fn u32_from_f32(x: f32) -> u32 {
    if is_at_most_zero(x) || is_nan(x) {
        return 0u;
    }
    if x >= 4294967296.0 {
        return 0xffffffffu;
    }
    return u32(x);
}

// Towards zero; saturating where it does not fit; 0 for NaN. As Rust's `as`.
fn i32_from_f32(x: f32) -> i32 {
    if is_nan(x) {
        return 0;
    }
    if x >= 2147483648.0 {
        return 2147483647;
    }
    if x <= -2147483648.0 {
        return i32(-2147483648);
    }
    return i32(x);
}
