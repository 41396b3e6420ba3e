// uses: shared/activation, shared/float_bits

// More functions of single elements, which generated pointwise shaders call: the twins of cpu/math.rs, cpu/power.rs and
// cpu/lanes.rs. NaN gives NaN, by the bits, in the outermost choice.
//
// A driver's compiler may simplify (1 + x) - 1 to x. Where a rounding error is computed, the rounded number is cut by a
// mask on its bits first, which no compiler sees through.

fn magnitude_bits(x: f32) -> u32 {
    return bitcast<u32>(x) & 0x7fffffffu;
}

fn is_negative(x: f32) -> bool {
    return bitcast<u32>(x) >= 0x80000000u;
}

// The number without its lower 12 bits: products of two such numbers are exact.
fn upper_part(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) & 0xfffff000u);
}

fn abs_f32(x: f32) -> f32 {
    return bitcast<f32>(magnitude_bits(x));
}

// -1, 0 or 1.
fn sign_f32(x: f32) -> f32 {
    return select(copy_sign(1.0, x), x, magnitude_bits(x) == 0u || is_nan(x));
}

fn floor_f32(x: f32) -> f32 {
    return select(floor(x), x, is_non_finite(x));
}

fn ceil_f32(x: f32) -> f32 {
    return select(ceil(x), x, is_non_finite(x));
}

// To the nearest integer, the even one of two.
fn round_f32(x: f32) -> f32 {
    return select(round(x), x, is_non_finite(x));
}

// 1 / x. WGSL says nothing of a division by zero or by infinity.
fn recip_f32(x: f32) -> f32 {
    let bits = magnitude_bits(x);
    if bits == 0u {
        return copy_sign(infinity_f32(), x);
    }
    if bits >= 0x7f800000u {
        return select(copy_sign(0.0, x), x, bits > 0x7f800000u);
    }
    return 1.0 / x;
}

// 1 / sqrt(x); infinite at 0, NaN below.
fn rsqrt_f32(x: f32) -> f32 {
    return recip_f32(sqrt_f32(x));
}

// c where b is more than c; NaN where any is.
fn clamp_f32(a: f32, b: f32, c: f32) -> f32 {
    return min_f32(max_f32(a, b), c);
}

// a above zero, else b a.
fn leaky_relu_f32(a: f32, b: f32) -> f32 {
    return select(select(a * b, a, a > 0.0), a, is_nan(a));
}

// x / (1 + e^-x); 0, its limit, at minus infinity.
fn silu_f32(x: f32) -> f32 {
    return select(max(x, -200.0) * sigmoid_f32(x), x, is_nan(x));
}

// e^x - 1, exact near zero too.
fn expm1_f32(x: f32) -> f32 {
    let bounded = clamp(x, -20.0, 89.0);
    let whole = floor(bounded * LOG2_E + 0.5);
    let near = expm1_near_zero(without_exponent(bounded, whole));
    // 2^e (1 + near) - 1, halved until the last step, since 2^128 is no f32.
    let scale = power_of_two(i32(whole) - 1);
    let scaled = 2.0 * (scale * near + (scale - 0.5));
    return select(copy_sign(select(scaled, near, whole == 0.0), x), x, is_nan(x));
}

// a above zero, else b (e^a - 1).
fn elu_f32(a: f32, b: f32) -> f32 {
    return select(select(b * expm1_f32(a), a, a > 0.0), a, is_nan(a));
}

// ln(1 + x) for finite x > -1.
fn log1p_bounded(x: f32) -> f32 {
    let sum = 1.0 + x;
    // Within sqrt(1/2) and sqrt(2) the fraction is x itself.
    if sum >= 0.70710677 && sum < 1.4142135 {
        return join_log(0.0, x, 0.0);
    }
    // ln(1 + x) = ln(cut) + ln(1 + t), where 1 + x = cut (1 + t) and t is below 2^-11.
    let cut = upper_part(sum);
    let t = (x - (cut - 1.0)) / cut;
    let offset = bitcast<u32>(cut) - 0x3f3504f3u;
    let fraction = bitcast<f32>((offset & 0x007fffffu) + 0x3f3504f3u) - 1.0;
    return join_log(f32(bitcast<i32>(offset) >> 23u), fraction, t - 0.5 * t * t);
}

// ln(1 + x), exact near zero too; minus infinity at -1, NaN below.
fn log1p_f32(x: f32) -> f32 {
    if is_nan(x) || bitcast<u32>(x) == 0x7f800000u {
        return x;
    }
    if is_negative(x) && magnitude_bits(x) >= 0x3f800000u {
        return select(nan_f32(), f32_from_bits(0xff800000u), magnitude_bits(x) == 0x3f800000u);
    }
    return log1p_bounded(x);
}

// ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|).
fn softplus_f32(x: f32) -> f32 {
    if is_non_finite(x) {
        return select(x, 0.0, bitcast<u32>(x) == 0xff800000u);
    }
    return max(x, 0.0) + log1p_bounded(exp_f32(-abs(x)));
}

// The 64-bit product as (low, high), by 16-bit parts: no sum below exceeds 32 bits.
fn wide_product(a: u32, b: u32) -> vec2<u32> {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let low = a_low * b_low;
    let first = a_high * b_low + (low >> 16u);
    let second = a_low * b_high + (first & 0xffffu);
    return vec2<u32>(a * b, a_high * b_high + (first >> 16u) + (second >> 16u));
}

// What an angle leaves beyond whole quarters of a turn, at most pi/4 either way, and the quarters modulo 4.
struct Turn {
    rest: f32,
    quarters: u32,
}

// For 0 <= x <= 200, by pi/2 in three parts: the first two have 16 bits, so that their products with a number of
// quarters are exact.
fn turn_near(x: f32) -> Turn {
    let quarters = floor(x * 0.63661975 + 0.5);
    let rest = ((x - quarters * 1.57080078125) + quarters * 4.454399459064007e-6) + quarters * 5.564431554416771e-11;
    return Turn(rest, u32(quarters));
}

// For a finite x of any size (Payne and Hanek, 1983): the 64 bits of x / (pi/2) around the binary point, from those bits
// of 2/pi that matter.
fn turn_far(x: f32) -> Turn {
    // 2/pi, shifted right by 2.
    var words = array<u32, 7>(
        0x28be60dbu, 0x9391054au, 0x7f09d5f4u, 0x7d4d3770u, 0x36d8a566u, 0x4f10e410u, 0u,
    );
    let bits = magnitude_bits(x);
    let mantissa = ((bits & 0x007fffffu) | 0x00800000u) << 8u;
    let exponent = (bits >> 23u) - 126u;
    let index = exponent >> 5u;
    let shift = exponent & 31u;
    var high = select(0u, words[max(index, 1u) - 1u], index > 0u);
    var middle = words[index];
    var low = words[index + 1u];
    if shift > 0u {
        high = (high << shift) | (middle >> (32u - shift));
        middle = (middle << shift) | (low >> (32u - shift));
        low = (low << shift) | (words[index + 2u] >> (32u - shift));
    }
    let first = wide_product(mantissa, low);
    let second = wide_product(mantissa, middle);
    // Quarters in the upper 2 bits, then 62 bits of their fraction.
    var lower = second.x + first.y;
    var upper = second.y + select(0u, 1u, lower < first.y) + mantissa * high;
    var quarters = upper >> 30u;
    upper &= 0x3fffffffu;
    // From a half on, it is counted down from the next quarter.
    let negative = upper >= 0x20000000u;
    if negative {
        quarters += 1u;
        lower = ~lower + 1u;
        upper = (~upper + select(0u, 1u, lower == 0u)) & 0x3fffffffu;
    }
    // The upper 32 bits that are not zero.
    let lead = select(countLeadingZeros(upper), 32u + countLeadingZeros(lower), upper == 0u);
    var top = lower << (lead & 31u);
    if lead < 32u {
        top = upper << lead;
        if lead > 0u {
            top |= lower >> (32u - lead);
        }
    }
    // Times pi/2 and 2^-30, the weight of the lowest bit of `upper`.
    let rest = f32(top) * 1.5707964 * power_of_two(-30 - i32(lead));
    return Turn(select(rest, -rest, negative), quarters);
}

// sin(x + quarter pi/2) for x >= 0; NaN for infinity.
fn turned(x: f32, quarter: u32) -> f32 {
    if is_non_finite(x) {
        return nan_f32();
    }
    var turn: Turn;
    if x <= 200.0 {
        turn = turn_near(x);
    } else {
        turn = turn_far(x);
    }
    let rest = turn.rest;
    let square = rest * rest;
    let sine = rest + rest * square * ((-0.00019495662 * square + 0.008332014) * square - 0.16666652);
    let curve = (2.4453922e-5 * square - 0.0013887569) * square + 0.041666653;
    let cosine = 1.0 - (0.5 * square - square * square * curve);
    let quadrant = turn.quarters + quarter;
    let result = select(cosine, sine, (quadrant & 1u) == 0u);
    return bitcast<f32>(bitcast<u32>(result) ^ ((quadrant & 2u) << 30u));
}

// The sine of an angle in radians.
fn sin_f32(x: f32) -> f32 {
    let result = turned(abs_f32(x), 0u);
    return select(bitcast<f32>(bitcast<u32>(result) ^ (bitcast<u32>(x) & 0x80000000u)), x, is_nan(x));
}

// The cosine of an angle in radians.
fn cos_f32(x: f32) -> f32 {
    return select(turned(abs_f32(x), 1u), x, is_nan(x));
}

// A number as the sum of two, the first of 12 bits.
struct Pair {
    upper: f32,
    lower: f32,
}

// ln x for a positive finite x, with about 30 bits.
fn precise_log(x: f32) -> Pair {
    let given = bitcast<u32>(x);
    let denormal = given < 0x00800000u;
    let normal = select(given, bitcast<u32>(f32(given)), denormal);
    let offset = normal - 0x3f3504f3u;
    let fraction = bitcast<f32>((offset & 0x007fffffu) + 0x3f3504f3u) - 1.0;
    let exponent = f32(bitcast<i32>(offset) >> 23u) - select(0.0, 149.0, denormal);
    // ln(1 + f) = 2 atanh(s) with s = f / (2 + f); what the quotient's upper part leaves is divided again.
    let divisor = 2.0 + fraction;
    let divisor_upper = upper_part(divisor);
    let divisor_lower = fraction - (divisor_upper - 2.0);
    let s = fraction / divisor;
    let s_upper = upper_part(s);
    let s_lower = ((fraction - s_upper * divisor_upper) - s_upper * divisor_lower) / divisor;
    let square = s * s;
    let curve = (((0.1818 * square + 0.22222222) * square + 0.2857143) * square + 0.4) * square + 0.6666667;
    let small = s * square * curve + (2.0 * s_lower + exponent * LN_2_LOW);
    // The large terms are exact; so is what the cut of their sum leaves.
    let whole = exponent * LN_2_HIGH;
    let upper = upper_part(whole + 2.0 * s_upper);
    return Pair(upper, ((whole - upper) + 2.0 * s_upper) + small);
}

// |a|^b for a positive finite |a| other than 1 and a finite b: e^(b ln|a|), the product in two parts.
fn positive_power(a: f32, b: f32) -> f32 {
    // Beyond this the power of any f32 but 1 is 0 or infinite.
    let exponent = clamp(b, -4.294967e9, 4.294967e9);
    let logarithm = precise_log(a);
    let exponent_upper = upper_part(exponent);
    let exponent_lower = exponent - exponent_upper;
    let upper = exponent_upper * logarithm.upper;
    if upper > 95.0 {
        return infinity_f32();
    }
    if upper < -110.0 {
        return 0.0;
    }
    let lower = exponent_lower * logarithm.upper + exponent * logarithm.lower;
    let whole = floor((upper + lower) * LOG2_E + 0.5);
    let rest = without_exponent(upper, whole) + lower;
    let mantissa = 1.0 + expm1_near_zero(rest);
    let scale = i32(clamp(whole, -180.0, 140.0));
    let half_scale = scale >> 1u;
    return mantissa * power_of_two(half_scale) * power_of_two(scale - half_scale);
}

// a^b as C's `pow`: 1 where b is 0 or a is 1, whatever the other is.
fn pow_f32(a: f32, b: f32) -> f32 {
    let base = magnitude_bits(a);
    let exponent = magnitude_bits(b);
    if exponent == 0u || bitcast<u32>(a) == 0x3f800000u {
        return 1.0;
    }
    if base > 0x7f800000u || exponent > 0x7f800000u {
        return nan_f32();
    }
    // From 2^24 on every f32 is an even integer, infinity too.
    let large = exponent >= 0x4b800000u;
    let bounded = select(b, 0.0, large);
    let integer = bounded == trunc(bounded);
    let odd = integer && !large && (i32(bounded) & 1) == 1;
    var power: f32;
    if base == 0u || base == 0x7f800000u || (exponent == 0x7f800000u && base != 0x3f800000u) {
        // 0, infinity, or a power of infinity: what grows does so without end.
        let grows = (base > 0x3f800000u) != is_negative(b);
        power = select(0.0, infinity_f32(), grows);
    } else if base == 0x3f800000u {
        power = 1.0;
    } else {
        power = positive_power(abs_f32(a), b);
    }
    if !is_negative(a) {
        return power;
    }
    // A negative zero has a power of any exponent, and so has minus infinity.
    if !integer && base != 0u && base != 0x7f800000u {
        return nan_f32();
    }
    return select(power, -power, odd);
}

// a - b floor(a / b), exactly: the mantissa's long division, 8 bits at a time, and b once more where the signs differ.
fn rem_f32(a: f32, b: f32) -> f32 {
    let dividend = magnitude_bits(a);
    let divisor = magnitude_bits(b);
    if dividend >= 0x7f800000u || divisor == 0u || divisor > 0x7f800000u {
        return nan_f32();
    }
    var left = a;
    if dividend >= divisor {
        // A denormal has the exponent 1 and no hidden bit.
        let divisor_exponent = max(divisor >> 23u, 1u);
        let divisor_mantissa = (divisor & 0x007fffffu) | select(0x00800000u, 0u, divisor < 0x00800000u);
        var distance = max(dividend >> 23u, 1u) - divisor_exponent;
        var mantissa = (dividend & 0x007fffffu) | select(0x00800000u, 0u, dividend < 0x00800000u);
        mantissa %= divisor_mantissa;
        while distance > 0u {
            let step = min(distance, 8u);
            mantissa = (mantissa << step) % divisor_mantissa;
            distance -= step;
        }
        let scale = i32(divisor_exponent) - 150;
        let half_scale = scale >> 1u;
        left = copy_sign(f32(mantissa) * power_of_two(half_scale) * power_of_two(scale - half_scale), a);
    }
    let other = magnitude_bits(left) != 0u && is_negative(left) != is_negative(b);
    // With an infinite divisor of the other sign it is that divisor.
    return select(left, select(left + b, b, divisor == 0x7f800000u), other);
}
