//! The plain arithmetic of pointwise functions over blocks, compiled for each SIMD level.

use super::math::{expm1_f32, sigmoid_f32};
use super::simd::simd;

/// The f32 of an f16, both by their bits.
#[inline(always)]
fn half_to_single(half: u32) -> u32 {
    let magnitude = half & 0x7fff;
    let normal = (magnitude << 13) + 0x3800_0000;
    // A denormal is its bits times 2^-24; infinity and NaN have another distance between the exponents.
    let denormal = (magnitude as i32 as f32 * (1.0 / 16_777_216.0)).to_bits();
    let result = if magnitude < 0x0400 { denormal } else { normal };
    let result = if magnitude >= 0x7c00 { (magnitude << 13) + 0x7000_0000 } else { result };
    result | (half & 0x8000) << 16
}

/// The nearest f16 of an f32, the even one of two, both by their bits. What is 65,520 or more is infinite.
#[inline(always)]
fn half_from_single(single: u32) -> u32 {
    const LARGEST: u32 = 0x4780_0000; // 2^16
    let magnitude = single & 0x7fff_ffff;
    let bounded = if magnitude < LARGEST { magnitude } else { LARGEST };
    let normal = (bounded.wrapping_sub(0x3800_0000).wrapping_add(0x0fff + ((bounded >> 13) & 1))) >> 13;
    // The last place of 0.5 is that of the denormals, 2^-24: the sum is rounded there, and its low bits are the result.
    let denormal = (f32::from_bits(bounded) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let result = if bounded < 0x3880_0000 { denormal } else { normal };
    let nan = 0x7e00 | ((magnitude >> 13) & 0x03ff);
    let result = if magnitude > 0x7f80_0000 { nan } else { result };
    result | (single >> 16) & 0x8000
}

/// A function of one, two or three slices, element by element.
macro_rules! lanes {
    ($($name:ident($($arg:ident: $in:ty),+) -> $out:ty = $body:expr;)+) => {
        $(simd! {
            pub(crate) fn $name($($arg: &[$in],)+ destination: &mut [$out]) {
                let count = destination.len();
                $(let $arg = &$arg[..count];)+
                for index in 0..count {
                    $(let $arg = $arg[index];)+
                    destination[index] = $body;
                }
            }
        })+
    };
}

lanes! {
    add(a: f32, b: f32) -> f32 = a + b;
    sub(a: f32, b: f32) -> f32 = a - b;
    mul(a: f32, b: f32) -> f32 = a * b;
    div(a: f32, b: f32) -> f32 = a / b;
    add_u32(a: u32, b: u32) -> u32 = a.wrapping_add(b);
    sub_u32(a: u32, b: u32) -> u32 = a.wrapping_sub(b);
    mul_u32(a: u32, b: u32) -> u32 = a.wrapping_mul(b);
    neg(a: f32) -> f32 = -a;
    sqrt(a: f32) -> f32 = a.sqrt();
    // Written so that a NaN in either argument stays: the comparison with it is false.
    maximum(a: f32, b: f32) -> f32 = if a.is_nan() || a > b { a } else { b };
    minimum(a: f32, b: f32) -> f32 = if a.is_nan() || a < b { a } else { b };
    relu(a: f32) -> f32 = if a <= 0.0 { 0.0 } else { a };
    relu_gate(a: f32, b: f32) -> f32 = if a <= 0.0 { 0.0 } else { b };
    max_share(a: f32, b: f32, c: f32) -> f32 = if a > b { c } else if a == b { 0.5 * c } else { 0.0 };
    abs(a: f32) -> f32 = a.abs();
    // A zero and a NaN are their own sign.
    sign(a: f32) -> f32 = if a > 0.0 { 1.0 } else if a < 0.0 { -1.0 } else { a };
    floor(a: f32) -> f32 = a.floor();
    ceil(a: f32) -> f32 = a.ceil();
    round(a: f32) -> f32 = a.round_ties_even();
    recip(a: f32) -> f32 = 1.0 / a;
    rsqrt(a: f32) -> f32 = 1.0 / a.sqrt();
    // From -200 on the product is -0; without the bound it would be NaN for -inf.
    silu(a: f32) -> f32 = (if a < -200.0 { -200.0 } else { a }) * sigmoid_f32(a);
    elu(a: f32, b: f32) -> f32 = if a > 0.0 { a } else { b * expm1_f32(a) };
    leaky_relu(a: f32, b: f32) -> f32 = if a > 0.0 { a } else { a * b };
    clamp(a: f32, b: f32, c: f32) -> f32 = {
        let raised = if a.is_nan() || a > b { a } else { b };
        if raised.is_nan() || raised < c { raised } else { c }
    };
    rem_u32(a: u32, b: u32) -> u32 = if b == 0 { 0 } else { a % b };
    rem_i32(a: i32, b: i32) -> i32 = {
        let left = if b == 0 { 0 } else { a.wrapping_rem(b) };
        if left != 0 && (left < 0) != (b < 0) { left + b } else { left }
    };
    eq(a: f32, b: f32) -> u32 = u32::from(a == b);
    ne(a: f32, b: f32) -> u32 = u32::from(a != b);
    lt(a: f32, b: f32) -> u32 = u32::from(a < b);
    le(a: f32, b: f32) -> u32 = u32::from(a <= b);
    gt(a: f32, b: f32) -> u32 = u32::from(a > b);
    ge(a: f32, b: f32) -> u32 = u32::from(a >= b);
    eq_u32(a: u32, b: u32) -> u32 = u32::from(a == b);
    ne_u32(a: u32, b: u32) -> u32 = u32::from(a != b);
    lt_u32(a: u32, b: u32) -> u32 = u32::from(a < b);
    le_u32(a: u32, b: u32) -> u32 = u32::from(a <= b);
    gt_u32(a: u32, b: u32) -> u32 = u32::from(a > b);
    ge_u32(a: u32, b: u32) -> u32 = u32::from(a >= b);
    lt_i32(a: i32, b: i32) -> u32 = u32::from(a < b);
    le_i32(a: i32, b: i32) -> u32 = u32::from(a <= b);
    gt_i32(a: i32, b: i32) -> u32 = u32::from(a > b);
    ge_i32(a: i32, b: i32) -> u32 = u32::from(a >= b);
    and(a: u32, b: u32) -> u32 = a & b;
    or(a: u32, b: u32) -> u32 = a | b;
    xor(a: u32, b: u32) -> u32 = a ^ b;
    not(a: u32) -> u32 = u32::from(a == 0);
    choose(a: u32, b: u32, c: u32) -> u32 = if a != 0 { b } else { c };
    bool_from_f32(a: f32) -> u32 = u32::from(a != 0.0);
    bool_from_u32(a: u32) -> u32 = u32::from(a != 0);
    f32_from_f16(a: u32) -> u32 = half_to_single(a);
    f16_from_f32(a: u32) -> u32 = half_from_single(a);
    f32_from_bf16(a: u32) -> u32 = a << 16;
    bf16_from_f32(a: u32) -> u32 = {
        // Half of the last place kept, and 1 less where that place is even: a tie goes to the even one. NaN stays NaN,
        // also where all that made it one lies in the half that goes.
        let rounded = a.wrapping_add(0x7fff + ((a >> 16) & 1)) >> 16;
        if a & 0x7fff_ffff > 0x7f80_0000 { (a >> 16) | 0x0040 } else { rounded }
    };
    f32_from_u32(a: u32) -> f32 = a as f32;
    f32_from_i32(a: i32) -> f32 = a as f32;
    u32_from_f32(a: f32) -> u32 = a as u32;
    i32_from_f32(a: f32) -> i32 = a as i32;
    copy(a: u32) -> u32 = a;
}
