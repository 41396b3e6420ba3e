// What the matmul kernels have in common: parameters, the batch, and where biases lie.

// 1: add the bias.
override BIAS: u32 = 0u;
// What to apply last, by its number in shared/activation.wgsl.
override ACTIVATION: u32 = 0u;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batches: u32,
    a_offset: u32,
    a_row: u32, // distance of neighbouring rows
    a_column: u32, // distance of neighbouring columns
    bias_offset: u32,
    b_offset: u32,
    b_row: u32,
    b_column: u32,
    bias_stride: u32,
    batch_dims: vec4<u32>, // the last is the fastest; unused leading ones are 1
    a_batch: vec4<u32>, // distances of neighbouring matrices
    b_batch: vec4<u32>,
}

@group(1) @binding(0) var<uniform> params: Params;

// Which part of which matrix a workgroup computes: (batch, part of the rows, part of the columns). The batch is past
// the end for a workgroup too many.
fn part_of(number: u32, row_parts: u32, column_parts: u32) -> vec3<u32> {
    let strip = number / column_parts;
    return vec3<u32>(strip / row_parts, strip % row_parts, number % column_parts);
}

// Where matrix `index` of the batch begins in a and in b.
fn batch_offsets(index: u32) -> vec2<u32> {
    let dims = params.batch_dims;
    var rest = index;
    var at = vec4<u32>(0u);
    at.w = rest % dims.w;
    rest /= dims.w;
    at.z = rest % dims.z;
    rest /= dims.z;
    at.y = rest % dims.y;
    at.x = rest / dims.y % dims.x;
    let a_at = at * params.a_batch;
    let b_at = at * params.b_batch;
    return vec2<u32>(
        params.a_offset + a_at.x + a_at.y + a_at.z + a_at.w,
        params.b_offset + b_at.x + b_at.y + b_at.z + b_at.w,
    );
}

// Where the biases of four neighbouring columns lie; past the end that of the last column.
fn bias_places(column: u32) -> vec4<u32> {
    let at = min(vec4<u32>(column) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.n - 1u));
    return vec4<u32>(params.bias_offset) + at * params.bias_stride;
}
