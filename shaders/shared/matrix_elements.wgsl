// uses: shared/activation, shared/matrices

// The operands of a matmul kernel that reads and writes single elements of f32. shared/matrix_halves takes the place of this file
// in the kernels of halves.

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

fn element_of_a(at: u32) -> f32 {
    return a[at];
}

fn element_of_b(at: u32) -> f32 {
    return b[at];
}

// Where the sums of four neighbouring columns begin: their biases.
fn first_biases(column: u32) -> vec4<f32> {
    if BIAS == 0u {
        return vec4<f32>();
    }
    let place = bias_places(column);
    return vec4<f32>(bias[place.x], bias[place.y], bias[place.z], bias[place.w]);
}

// Writes up to four neighbours of a row of c.
fn store(batch: u32, row: u32, column: u32, values: vec4<f32>) {
    if row >= params.m {
        return;
    }
    let at = (batch * params.m + row) * params.n + column;
    if column < params.n {
        c[at] = activate(ACTIVATION, values.x);
    }
    if column + 1u < params.n {
        c[at + 1u] = activate(ACTIVATION, values.y);
    }
    if column + 2u < params.n {
        c[at + 2u] = activate(ACTIVATION, values.z);
    }
    if column + 3u < params.n {
        c[at + 3u] = activate(ACTIVATION, values.w);
    }
}
