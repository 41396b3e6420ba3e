// uses: shared/float_bits, shared/index

// The position of the largest element of each row, the first of equals; a NaN counts as the largest.
//
// Shapes: source [kept.., count], any strides; result u32 [kept..], contiguous.
// Threads: one per row, 64 to a workgroup. llvmpipe ends a thread's loop after 65,535 elements, without a word.
// Bytes: 4 per element read, 4 per row written. Operations: a comparison per element.

struct Params {
    outputs: u32, // rows
    count: u32, // elements per row
    offset: u32, // position of the first element of the source
    stride: u32, // distance of neighbours in a row
    kept_dims: array<vec4<u32>, 2>,
    kept_strides: array<vec4<u32>, 2>,
}

@group(0) @binding(0) var<storage, read> source: array<f32>;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = workgroup_number(id, count) * 64u + lane;
    if row >= params.outputs {
        return;
    }
    let start = params.offset + position(row, params.kept_dims, params.kept_strides);
    var best = source[start];
    var at = 0u;
    for (var index = 1u; index < params.count && !is_nan(best); index += 1u) {
        let candidate = source[start + index * params.stride];
        if is_nan(candidate) || candidate > best {
            best = candidate;
            at = index;
        }
    }
    result[row] = at;
}
