// uses: shared/index, shared/rows, shared/tree

// y = (x - mean) rstd weight + bias per row, rstd = 1 / sqrt(mean (x - mean)^2 + epsilon); without CENTRED the mean is taken
// for 0. Keeps mean and rstd for the gradient.
//
// Shapes: x, y [rows, columns], weight and bias [columns] (bound to x where there is none), statistics [rows, 2], contiguous.
// Threads: LANES per row, 64 to a workgroup; thread t takes columns t, t + LANES, .., and trees join the threads.
// Bytes: x three times (after the first from the cache), y once: 16 per element at most, 8 with a cache.
// Operations: about 7 per element.

override CENTRED: u32 = 1u;
override WEIGHT: u32 = 1u;
override BIAS: u32 = 1u;

struct Params {
    rows: u32,
    columns: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read_write> statistics: array<f32>;
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
    var mean = 0.0;
    if CENTRED == 1u {
        var part = 0.0;
        for (var column = lane % LANES; column < params.columns; column += LANES) {
            part += x[start + column];
        }
        mean = tree_sum(lane, part) / f32(params.columns);
    }
    var part = 0.0;
    for (var column = lane % LANES; column < params.columns; column += LANES) {
        let difference = x[start + column] - mean;
        part += difference * difference;
    }
    let rstd = 1.0 / sqrt(tree_sum(lane, part) / f32(params.columns) + params.epsilon);
    for (var column = lane % LANES; column < end; column += LANES) {
        var value = (x[start + column] - mean) * rstd;
        if WEIGHT == 1u {
            value *= weight[column];
        }
        if BIAS == 1u {
            value += bias[column];
        }
        y[start + column] = value;
    }
    if own < params.rows && lane % LANES == 0u {
        statistics[2u * row] = mean;
        statistics[2u * row + 1u] = rstd;
    }
}
