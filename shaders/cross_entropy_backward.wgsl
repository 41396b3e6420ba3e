// uses: shared/activation, shared/index

// d logits = (softmax(logits) - one-hot(label)) times the row's gradient. A row whose label is outside 0..classes is NaN,
// because its sums are.
//
// Shapes: logits [rows, classes] contiguous, labels u32 [rows], sums [rows, 2] of cross_entropy.wgsl, gradient [rows]
// (stride 0 where all rows have the same); d_logits [rows, classes].
// Threads: one per element, 256 to a workgroup.
// Bytes: 8 per element, and 16 per row. Operations: one exponential and one division per element.

struct Params {
    rows: u32,
    classes: u32,
    label_offset: u32,
    label_stride: u32,
    gradient_offset: u32,
    gradient_stride: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read> sums: array<f32>;
@group(0) @binding(3) var<storage, read> gradient: array<f32>;
@group(0) @binding(4) var<storage, read_write> d_logits: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup_number(id, count) * 256u + lane;
    if index >= params.rows * params.classes {
        return;
    }
    let row = index / params.classes;
    let label = min(labels[params.label_offset + row * params.label_stride], params.classes - 1u);
    let expected = select(0.0, 1.0, index - row * params.classes == label);
    let difference = exp_f32(logits[index] - sums[2u * row]) / sums[2u * row + 1u] - expected;
    d_logits[index] = difference * gradient[params.gradient_offset + row * params.gradient_stride];
}
