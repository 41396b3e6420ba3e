// Halves, as words that hold their 16 bits, by integer operations: a device's own conversions may flush denormals and
// are undefined beyond the range of a half. The twins of cpu/lanes.rs.

// A NaN stays one, also where all that made it one lies in the half that goes.
fn bf16_from_f32(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    // Half of the last place kept, and 1 less where that place is even: a tie goes to the even one.
    let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
    return select(rounded, (bits >> 16u) | 0x0040u, (bits & 0x7fffffffu) > 0x7f800000u);
}

fn f32_from_bf16(half_bits: u32) -> f32 {
    return bitcast<f32>(half_bits << 16u);
}

// The nearest f16, the even one of two. What is 65520 or more is infinite.
fn f16_from_f32(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return sign | 0x7e00u | ((magnitude >> 13u) & 0x03ffu);
    }
    if magnitude >= 0x47800000u {
        return sign | 0x7c00u;
    }
    if magnitude >= 0x38800000u {
        return sign | ((magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13u) & 1u)) >> 13u);
    }
    // A denormal counts units of 2^-24. Below half of one it is zero.
    if magnitude <= 0x33000000u {
        return sign;
    }
    let shift = 126u - (magnitude >> 23u);
    let mantissa = (magnitude & 0x007fffffu) | 0x00800000u;
    let below_half = (1u << (shift - 1u)) - 1u;
    return sign | ((mantissa + below_half + ((mantissa >> shift) & 1u)) >> shift);
}

fn f32_from_f16(half_bits: u32) -> f32 {
    let magnitude = half_bits & 0x7fffu;
    let sign = (half_bits & 0x8000u) << 16u;
    if magnitude >= 0x7c00u {
        return bitcast<f32>(sign | ((magnitude << 13u) + 0x70000000u));
    }
    if magnitude >= 0x0400u {
        return bitcast<f32>(sign | ((magnitude << 13u) + 0x38000000u));
    }
    // Its bits times 2^-24, a normal number of f32.
    return bitcast<f32>(sign | bitcast<u32>(f32(magnitude) * 5.9604644775390625e-8));
}
