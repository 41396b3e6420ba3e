//! The plain arithmetic of pointwise functions over blocks, compiled for each SIMD level.

use super::simd::simd;

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
    equal(a: f32, b: f32) -> f32 = if a == b { 1.0 } else { 0.0 };
    equal_u32(a: u32, b: u32) -> f32 = if a == b { 1.0 } else { 0.0 };
    f32_from_u32(a: u32) -> f32 = a as f32;
    f32_from_i32(a: i32) -> f32 = a as f32;
    u32_from_f32(a: f32) -> u32 = a as u32;
    i32_from_f32(a: f32) -> i32 = a as i32;
    copy(a: u32) -> u32 = a;
}
