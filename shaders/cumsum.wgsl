// uses: shared/index

// Running sums along one dimension, forwards or (their gradient) backwards.
//
// Shapes: x, y [outer, count, inner], contiguous.
// Threads: one per line, that is per element of outer and inner, 64 to a workgroup: neighbours in inner read neighbours.
// A line of n elements takes n steps one after the other, on any GPU. llvmpipe ends a thread's loop after 65,535
// elements, without a word.
// Bytes: 8 per element. Operations: one addition per element.

struct Params {
    outer: u32,
    count: u32,
    inner: u32,
    backwards: u32, // 1: from the last element to the first
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
    let line = workgroup_number(id, count) * 64u + lane;
    if line >= params.outer * params.inner {
        return;
    }
    let outer = line / params.inner;
    let start = outer * params.count * params.inner + (line - outer * params.inner);
    var total = 0.0;
    for (var step = 0u; step < params.count; step += 1u) {
        let at = start + select(step, params.count - 1u - step, params.backwards == 1u) * params.inner;
        total += x[at];
        y[at] = total;
    }
}
