// uses: shared/index

// Partial gradients of weight and bias: g (x - mean) rstd and g, summed over blocks of 64 rows.
//
// Shapes: x, gradient [rows, columns], statistics [rows, 2], partials [blocks, 2, columns], contiguous.
// Threads: one per block and column, 64 to a workgroup, neighbours in neighbouring columns.
// Bytes: 8 per element. Operations: 5 per element.

const ROWS: u32 = 64u; // WEIGHT_ROWS of its twin

struct Params {
    rows: u32,
    columns: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> statistics: array<f32>;
@group(0) @binding(2) var<storage, read> gradient: array<f32>;
@group(0) @binding(3) var<storage, read_write> partials: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let number = workgroup_number(id, count) * 64u + lane;
    let block = number / params.columns;
    let column = number % params.columns;
    let first = block * ROWS;
    if first >= params.rows {
        return;
    }
    var weight = 0.0;
    var bias = 0.0;
    for (var row = first; row < min(first + ROWS, params.rows); row++) {
        let at = row * params.columns + column;
        let g = gradient[at];
        weight += (x[at] - statistics[2u * row]) * statistics[2u * row + 1u] * g;
        bias += g;
    }
    partials[2u * block * params.columns + column] = weight;
    partials[(2u * block + 1u) * params.columns + column] = bias;
}
