// uses: shared/activation, shared/index

// C = activation(the sum of its parts + bias): the second half of a product whose K was cut, always in the same order.
//
// Shapes: parts [count, elements], rest [elements] where REST, bias [columns], c [elements], the elements those of matrices with
// so many columns.
// Threads: one per element of C, 64 to a workgroup; neighbours read neighbours.
// Bytes: 4 per element and part, C once. Operations: one addition per element and part.

// 1: one part more, in a buffer of its own.
override REST: u32 = 0u;
// 1: add the bias.
override BIAS: u32 = 0u;
// What to apply last, by its number in shared/activation.wgsl.
override ACTIVATION: u32 = 0u;

struct Params {
    elements: u32,
    columns: u32,
    count: u32,
    bias_offset: u32,
    bias_stride: u32,
}

@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read> rest: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup_number(id, count) * 64u + lane;
    if index >= params.elements {
        return;
    }
    var sum = parts[index];
    for (var part = 1u; part < params.count; part += 1u) {
        sum += parts[part * params.elements + index];
    }
    if REST == 1u {
        sum += rest[index];
    }
    if BIAS == 1u {
        sum += bias[params.bias_offset + index % params.columns * params.bias_stride];
    }
    c[index] = activate(ACTIVATION, sum);
}
