// uses: shared/activation, shared/half, shared/matrices

// The operands of a matmul kernel on halves, two to a word of memory: a, b and bias are f16 or bf16, c is f32 or such a half. Takes
// the place of shared/matrix_elements, so that a kernel of halves is the kernel of f32 but for what it reads and writes.

// 1: halves are bf16; else f16.
override BF16: u32 = 0u;
// 1: c is f32; else halves, and N is even: then no two rows share a word.
override SINGLES: u32 = 0u;

@group(0) @binding(0) var<storage, read> a: array<u32>;
@group(0) @binding(1) var<storage, read> b: array<u32>;
@group(0) @binding(2) var<storage, read> bias: array<u32>;
@group(0) @binding(3) var<storage, read_write> c: array<u32>;

// Half `at` of those in `word`, exactly. A device may take a denormal f16 (below 2^-14) for zero.
fn half_of_word(word: u32, at: u32) -> f32 {
    let low = word >> ((at & 1u) * 16u);
    if BF16 == 1u {
        return bitcast<f32>(low << 16u);
    }
    return unpack2x16float(low).x;
}

fn element_of_a(at: u32) -> f32 {
    return half_of_word(a[at >> 1u], at);
}

fn element_of_b(at: u32) -> f32 {
    return half_of_word(b[at >> 1u], at);
}

fn bias_of(at: u32) -> f32 {
    return half_of_word(bias[at >> 1u], at);
}

// Where the sums of four neighbouring columns begin: their biases.
fn first_biases(column: u32) -> vec4<f32> {
    if BIAS == 0u {
        return vec4<f32>();
    }
    let place = bias_places(column);
    return vec4<f32>(bias_of(place.x), bias_of(place.y), bias_of(place.z), bias_of(place.w));
}

// Two neighbours of c as a word of halves.
fn pair_of_halves(first: f32, second: f32) -> u32 {
    if BF16 == 1u {
        return bf16_from_f32(first) | (bf16_from_f32(second) << 16u);
    }
    return f16_from_f32(first) | (f16_from_f32(second) << 16u);
}

// Writes up to four neighbours of a row of c, from a column that is a multiple of 4.
fn store(batch: u32, row: u32, column: u32, values: vec4<f32>) {
    if row >= params.m {
        return;
    }
    let at = (batch * params.m + row) * params.n + column;
    var last = array<f32, 4>(
        activate(ACTIVATION, values.x),
        activate(ACTIVATION, values.y),
        activate(ACTIVATION, values.z),
        activate(ACTIVATION, values.w),
    );
    if SINGLES == 1u {
        for (var own = 0u; own < 4u && column + own < params.n; own++) {
            c[at + own] = bitcast<u32>(last[own]);
        }
        return;
    }
    for (var own = 0u; own < 4u && column + own < params.n; own += 2u) {
        c[(at + own) >> 1u] = pair_of_halves(last[own], last[own + 1u]);
    }
}
