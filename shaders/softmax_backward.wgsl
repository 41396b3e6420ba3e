// uses: shared/index, shared/rows, shared/tree

// dx = y (g - sum g y) per row: the gradient of softmax, from its value.
//
// Shapes: y, g, dx [rows, columns], contiguous.
// Threads: LANES per row, 64 to a workgroup; thread t takes columns t, t + LANES, .., and trees join the threads.and a tree joins the threads.
// Bytes: y and g twice (the second time from the cache), dx once: 20 per element at most, 12 with a cache.
// Operations: four per element.

struct Params {
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<storage, read> y: array<f32>;
@group(0) @binding(1) var<storage, read> gradient: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = row_of(workgroup_number(id, count), lane);
    let row = min(own, params.rows - 1u);
    let end = select(0u, params.columns, own < params.rows);
    let start = row * params.columns;
    var part = 0.0;
    for (var column = lane % LANES; column < params.columns; column += LANES) {
        part += y[start + column] * gradient[start + column];
    }
    let shift = tree_sum(lane, part);
    for (var column = lane % LANES; column < end; column += LANES) {
        dx[start + column] = y[start + column] * (gradient[start + column] - shift);
    }
}
