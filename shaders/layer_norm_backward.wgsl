// uses: shared/index, shared/rows, shared/tree

// dx = rstd (g w - mean(g w) - n mean(g w n)) per row, n = (x - mean) rstd; without CENTRED the first mean is 0.
//
// Shapes: x, gradient, dx [rows, columns], weight [columns] (bound to x where there is none), statistics [rows, 2], contiguous.
// Threads: LANES per row, 64 to a workgroup; thread t takes columns t, t + LANES, .., and trees join the threads.
// Bytes: x and gradient twice (the second time from the cache), dx once: 20 per element at most. Operations: about 12.

override CENTRED: u32 = 1u;
override WEIGHT: u32 = 1u;

struct Params {
    rows: u32,
    columns: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> statistics: array<f32>;
@group(0) @binding(3) var<storage, read> gradient: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

fn weighted(at: u32, column: u32) -> f32 {
    if WEIGHT == 1u {
        return gradient[at] * weight[column];
    }
    return gradient[at];
}

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
    let mean = statistics[2u * row];
    let rstd = statistics[2u * row + 1u];
    var sum = 0.0;
    var product = 0.0;
    for (var column = lane % LANES; column < params.columns; column += LANES) {
        let g = weighted(start + column, column);
        sum += g;
        product += g * ((x[start + column] - mean) * rstd);
    }
    var average = 0.0;
    if CENTRED == 1u {
        average = tree_sum(lane, sum) / f32(params.columns);
    }
    let slope = tree_sum(lane, product) / f32(params.columns);
    for (var column = lane % LANES; column < end; column += LANES) {
        let normal = (x[start + column] - mean) * rstd;
        dx[start + column] = rstd * (weighted(start + column, column) - average - normal * slope);
    }
}
