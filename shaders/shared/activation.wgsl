// uses: shared/float_bits

// Elementary functions and activations, the twins of cpu/math.rs: the same reductions and the same polynomials, so that
// a GPU's own exp, log or tanh (whose accuracy differs, and which may overflow to NaN) never shows in a result.
//
// NaN gives NaN, by the bits. Where an argument is clamped first, clamp may turn NaN into a number, so it is put back
// last. Denormal results may be flushed to zero by the device.

const LOG2_E: f32 = 1.44269504;
const FRAC_1_SQRT_2: f32 = 0.70710678;
// ln 2 in two parts, the first with 9 significant bits, so that its product with an exponent is exact (as in Cephes).
const LN_2_HIGH: f32 = 0.693359375;
const LN_2_LOW: f32 = -2.12194440e-4;

// 2^exponent, for exponents from -126 to 127.
fn power_of_two(exponent: i32) -> f32 {
    return bitcast<f32>(bitcast<u32>(exponent + 127) << 23u);
}

// The magnitude of the first with the sign of the second.
fn copy_sign(magnitude: f32, sign_of: f32) -> f32 {
    return bitcast<f32>((bitcast<u32>(magnitude) & 0x7fffffffu) | (bitcast<u32>(sign_of) & 0x80000000u));
}

// x - exponent * ln 2, in two exact steps.
fn without_exponent(x: f32, exponent: f32) -> f32 {
    return (x - exponent * LN_2_HIGH) - exponent * LN_2_LOW;
}

// e^x.
fn exp_f32(x: f32) -> f32 {
    // Beyond these bounds the result is 0 or infinity anyway.
    let bounded = clamp(x, -104.0, 89.0);
    let whole = floor(bounded * LOG2_E + 0.5);
    let rest = without_exponent(bounded, whole);
    let curve = (((0.0013829808 * rest + 0.008368727) * rest + 0.041668165) * rest + 0.16666521) * rest + 0.49999994;
    let mantissa = 1.0 + (rest + rest * rest * curve);
    // Two factors: one power of two cannot hold the exponents of overflow and of gradual underflow.
    let exponent = i32(whole);
    let half = exponent >> 1u;
    let result = mantissa * power_of_two(half) * power_of_two(exponent - half);
    return select(result, x, is_nan(x));
}

// e^rest - 1 for |rest| <= 0.35.
fn expm1_near_zero(rest: f32) -> f32 {
    let curve = ((((0.00019773447 * rest + 0.0013933275) * rest + 0.008333538) * rest + 0.041666493) * rest
        + 0.16666666) * rest + 0.5;
    return rest + rest * rest * curve;
}

// exponent * ln 2 + ln(1 + fraction) + correction, for a small correction and 1 + fraction between sqrt(1/2) and sqrt(2).
fn join_log(exponent: f32, fraction: f32, correction: f32) -> f32 {
    let upper = (((0.06677732 * fraction - 0.11627293) * fraction + 0.11887583) * fraction - 0.12411565) * fraction
        + 0.14220391;
    let curve = (((upper * fraction - 0.16667774) * fraction + 0.20002087) * fraction - 0.25000015) * fraction
        + 0.33333314;
    let square = fraction * fraction;
    let small = square * fraction * curve + (exponent * LN_2_LOW + correction);
    return exponent * LN_2_HIGH + (fraction - (0.5 * square - small));
}

// ln x; minus infinity for either zero, NaN below zero.
fn log_f32(x: f32) -> f32 {
    let given = bitcast<u32>(x);
    if (given & 0x7fffffffu) == 0u {
        return f32_from_bits(0xff800000u);
    }
    if given > 0x7f800000u {
        return nan_f32();
    }
    if given == 0x7f800000u {
        return x;
    }
    // A denormal is its bits times 2^-149, which no device that flushes denormals can lose.
    let denormal = given < 0x00800000u;
    let normal = select(given, bitcast<u32>(f32(given)), denormal);
    // x = 2^exponent (1 + fraction), with 1 + fraction between sqrt(1/2) and sqrt(2).
    let offset = normal - 0x3f3504f3u;
    let fraction = bitcast<f32>((offset & 0x007fffffu) + 0x3f3504f3u) - 1.0;
    let exponent = f32(bitcast<i32>(offset) >> 23u) - select(0.0, 149.0, denormal);
    return join_log(exponent, fraction, 0.0);
}

// The square root; NaN below zero.
fn sqrt_f32(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    // The zeros and infinity are their own roots, also where a device computes x times 1 / sqrt(x).
    if (bits & 0x7fffffffu) == 0u || bits == 0x7f800000u {
        return x;
    }
    if bits > 0x7f800000u {
        return nan_f32();
    }
    return sqrt(x);
}

// tanh x = (e^2x - 1) / (e^2x + 1).
fn tanh_f32(x: f32) -> f32 {
    // From 9.02 on, the nearest f32 is 1.
    let twice = 2.0 * min(abs(x), 10.0);
    let whole = floor(twice * LOG2_E + 0.5);
    let scale = power_of_two(i32(whole));
    let growth = scale * expm1_near_zero(without_exponent(twice, whole)) + (scale - 1.0);
    return select(copy_sign(growth / (growth + 2.0), x), x, is_nan(x));
}

// 1 / (1 + e^-x), by the power that cannot overflow.
fn sigmoid_f32(x: f32) -> f32 {
    let power = exp_f32(-abs(x));
    return select(select(power, 1.0, x >= 0.0) / (1.0 + power), x, is_nan(x));
}

// The boundary between the two approximations of erf.
const ERF_SPLIT: f32 = 0.85;

// erf x for |x| <= ERF_SPLIT.
fn erf_near_zero(x: f32) -> f32 {
    let square = x * x;
    let curve = ((((-0.00063485187 * square + 0.0050577037) * square - 0.026807288) * square + 0.11282865) * square
        - 0.3761259) * square + 0.12837917;
    return x + x * curve;
}

// 1 - erf x for x >= ERF_SPLIT, within 1.1e-8, as the fourth power of a polynomial; 0 from 4 on.
fn erfc_tail(x: f32) -> f32 {
    let y = min(x, 4.0);
    let upper = (((5.154879e-6 * y - 0.00012110492) * y + 0.0009970547) * y - 0.0030759554) * y - 0.0014200315;
    let root = ((((upper * y + 0.022185395) * y + 0.009318973) * y - 0.11414821) * y - 0.2843884) * y + 1.0004166;
    let square = root * root;
    return select(square * square, 0.0, x >= 4.0);
}

// The error function.
fn erf_f32(x: f32) -> f32 {
    let magnitude = abs(x);
    let far = copy_sign(1.0 - erfc_tail(magnitude), x);
    return select(select(far, erf_near_zero(x), magnitude < ERF_SPLIT), x, is_nan(x));
}

// x where it is positive or NaN, else 0.
fn relu_f32(x: f32) -> f32 {
    return relu_gate_f32(x, x);
}

// x Phi(x), by erf. Each side of zero reads its own tail, so that nothing cancels.
fn gelu_f32(x: f32) -> f32 {
    // From -20 on the product is -0; without the bound it would be NaN for minus infinity.
    let bounded = max(x, -20.0);
    let scaled = bounded * FRAC_1_SQRT_2;
    let magnitude = abs(scaled);
    let tail = 0.5 * erfc_tail(magnitude);
    let far = select(1.0 - tail, tail, scaled < 0.0);
    let near = 0.5 + 0.5 * erf_near_zero(scaled);
    return select(bounded * select(far, near, magnitude < ERF_SPLIT), x, is_nan(x));
}

// 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), written as the equal x / (1 + e^-2u).
fn gelu_tanh_f32(x: f32) -> f32 {
    let bounded = max(x, -20.0);
    let power = exp_f32(bounded * (-1.595769 - 0.071354814 * (bounded * bounded)));
    return select(bounded / (1.0 + power), x, is_nan(x));
}

// The values of ACTIVATION, the numbers of `Activation` in functions/mod.rs; 0 is none.
const ACTIVATION_RELU: u32 = 1u;
const ACTIVATION_GELU: u32 = 2u;
const ACTIVATION_GELU_TANH: u32 = 3u;
const ACTIVATION_TANH: u32 = 4u;
const ACTIVATION_SIGMOID: u32 = 5u;

// The activation of that number. `kind` is an override where it is called, so one branch is left.
fn activate(kind: u32, x: f32) -> f32 {
    if kind == ACTIVATION_RELU {
        return relu_f32(x);
    }
    if kind == ACTIVATION_GELU {
        return gelu_f32(x);
    }
    if kind == ACTIVATION_GELU_TANH {
        return gelu_tanh_f32(x);
    }
    if kind == ACTIVATION_TANH {
        return tanh_f32(x);
    }
    if kind == ACTIVATION_SIGMOID {
        return sigmoid_f32(x);
    }
    return x;
}
