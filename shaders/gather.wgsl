// uses: shared/index, shared/status

// Elements picked along one dimension: result[o, p, i] = source[o, k, i], where k is indices[o, p, i], or indices[p]
// where whole rows are picked. An index outside 0..bound is reported; what it should have picked is `missing`.
//
// Shapes: source [outer, bound, inner], indices u32 [outer, count, inner] or [count], result [outer, count, inner], all
// contiguous, elements of any 32-bit type.
// Threads: one per element of the result, 256 to a workgroup; neighbours write, and in whole rows read, neighbours.
// Bytes: 8 per element and 4 per index. Operations: three divisions per element.

// 1: one index serves the whole row [inner] of every `outer`.
override WHOLE_ROWS: u32 = 0u;

struct Params {
    outer: u32,
    bound: u32, // what indices must stay below
    count: u32, // places along the dimension
    inner: u32, // elements of a row
    missing: u32, // bits written for an index out of range
    code: u32, // by which this op reports
}

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read> indices: array<u32>;
@group(0) @binding(2) var<storage, read_write> result: array<u32>;
@group(0) @binding(3) var<storage, read_write> status: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let element = workgroup_number(id, count) * 256u + lane;
    if element >= params.outer * params.count * params.inner {
        return;
    }
    let row = element / params.inner;
    let outer = row / params.count;
    var at = element;
    if WHOLE_ROWS == 1u {
        at = row - outer * params.count;
    }
    let index = indices[at];
    if index >= params.bound {
        report(params.code, index, params.bound);
        result[element] = params.missing;
        return;
    }
    result[element] = source[(outer * params.bound + index) * params.inner + (element - row * params.inner)];
}
