// uses: shared/activation, shared/index

// d logits = (softmax(logits) - one-hot(label)) times the row's gradient. A label outside 0..classes is the last class.
//
// Shapes: logits [rows, classes] contiguous, labels u32 [rows], log_sum [rows], gradient [rows] (stride 0 where all
// rows have the same); d_logits [rows, classes].
// Threads: one per element, 256 to a workgroup.
// Bytes: 8 per element, and 12 per row. Operations: one exponential and one division per element.

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
@group(0) @binding(2) var<storage, read> log_sum: array<f32>;
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
    let difference = exp_f32(logits[index] - log_sum[row]) - expected;
    d_logits[index] = difference * gradient[params.gradient_offset + row * params.gradient_stride];
}
