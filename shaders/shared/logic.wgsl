// uses: shared/float_bits

// Comparisons, choices and truth values, words of 0 or 1. A comparison with NaN is false but for `ne`; NaN is asked of
// the bits, in the outermost choice, as in float_bits.wgsl.

fn word_of(condition: bool) -> u32 {
    return select(0u, 1u, condition);
}

fn ordered(a: f32, b: f32) -> bool {
    return !is_nan(a) && !is_nan(b);
}

fn eq_f32(a: f32, b: f32) -> u32 {
    return word_of(select(false, a == b, ordered(a, b)));
}

fn ne_f32(a: f32, b: f32) -> u32 {
    return 1u - eq_f32(a, b);
}

fn lt_f32(a: f32, b: f32) -> u32 {
    return word_of(select(false, a < b, ordered(a, b)));
}

fn le_f32(a: f32, b: f32) -> u32 {
    return word_of(select(false, a <= b, ordered(a, b)));
}

fn gt_f32(a: f32, b: f32) -> u32 {
    return lt_f32(b, a);
}

fn ge_f32(a: f32, b: f32) -> u32 {
    return le_f32(b, a);
}

fn eq_u32(a: u32, b: u32) -> u32 {
    return word_of(a == b);
}

fn ne_u32(a: u32, b: u32) -> u32 {
    return word_of(a != b);
}

fn lt_u32(a: u32, b: u32) -> u32 {
    return word_of(a < b);
}

fn le_u32(a: u32, b: u32) -> u32 {
    return word_of(a <= b);
}

fn gt_u32(a: u32, b: u32) -> u32 {
    return word_of(a > b);
}

fn ge_u32(a: u32, b: u32) -> u32 {
    return word_of(a >= b);
}

fn eq_i32(a: i32, b: i32) -> u32 {
    return word_of(a == b);
}

fn ne_i32(a: i32, b: i32) -> u32 {
    return word_of(a != b);
}

fn lt_i32(a: i32, b: i32) -> u32 {
    return word_of(a < b);
}

fn le_i32(a: i32, b: i32) -> u32 {
    return word_of(a <= b);
}

fn gt_i32(a: i32, b: i32) -> u32 {
    return word_of(a > b);
}

fn ge_i32(a: i32, b: i32) -> u32 {
    return word_of(a >= b);
}

fn not_bool(a: u32) -> u32 {
    return word_of(a == 0u);
}

// On the bits: a choice between floats could be turned into one that drops NaN.
fn where_f32(condition: u32, a: f32, b: f32) -> f32 {
    return bitcast<f32>(select(bitcast<u32>(b), bitcast<u32>(a), condition != 0u));
}

fn where_u32(condition: u32, a: u32, b: u32) -> u32 {
    return select(b, a, condition != 0u);
}

fn where_i32(condition: u32, a: i32, b: i32) -> i32 {
    return select(b, a, condition != 0u);
}

// Not a zero of either sign; a NaN is none. (A denormal is none either, also where arithmetic would flush it.)
fn bool_from_f32(x: f32) -> u32 {
    return word_of((bitcast<u32>(x) & 0x7fffffffu) != 0u);
}

fn bool_from_u32(x: u32) -> u32 {
    return word_of(x != 0u);
}

fn bool_from_i32(x: i32) -> u32 {
    return word_of(x != 0);
}

// What is left of a division; 0 by 0.
fn rem_u32(a: u32, b: u32) -> u32 {
    return select(a % max(b, 1u), 0u, b == 0u);
}

// With the sign of the divisor; 0 by 0.
fn rem_i32(a: i32, b: i32) -> i32 {
    // -1 leaves nothing, and would overflow with the smallest number.
    if b == 0 || b == -1 {
        return 0;
    }
    let left = a % b;
    return select(left, left + b, left != 0 && (left < 0) != (b < 0));
}
