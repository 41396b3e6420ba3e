// uses: shared/activation, shared/float_bits, shared/index, shared/rows, shared/tree

// y = e^(x - max x) / sum e^(x - max x) per row. A NaN or plus infinity makes its whole row NaN, and so does a row
// of nothing but minus infinity; a minus infinity among other numbers gives 0.
//
// Shapes: x, y [rows, columns], contiguous.
// Threads: LANES per row, 64 to a workgroup; thread t takes columns t, t + LANES, .., and trees join the threads.
// Bytes: x three times (after the first from the cache), y once: 16 per element at most, 8 with a cache.
// Operations: two exponentials per element, which is cheaper than storing one and reading it back.

struct Params {
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
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
    var part = f32_from_bits(0xff800000u);
    for (var column = lane % LANES; column < params.columns; column += LANES) {
        part = max_f32(part, x[start + column]);
    }
    let largest = tree_max(lane, part);
    part = 0.0;
    for (var column = lane % LANES; column < params.columns; column += LANES) {
        part += exp_f32(x[start + column] - largest);
    }
    let factor = 1.0 / tree_sum(lane, part);
    for (var column = lane % LANES; column < end; column += LANES) {
        y[start + column] = exp_f32(x[start + column] - largest) * factor;
    }
}
