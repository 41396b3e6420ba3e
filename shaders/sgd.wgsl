// uses: shared/control, shared/index, shared/penalty, shared/tally

// Stochastic gradient descent, as PyTorch's: g = clip g + l1 sign(p) + weight_decay p; b = momentum b + row[1] g;
// p -= row[0] (nesterov: g + momentum b, else b), with the group's schedule row (learning rate, 1 - dampening).
//
// Shapes: gradients, values, buffers: windows of the arena; the control block; the sums of the step. The elements
// start..start + count.
// Threads: one per TIMES elements, 256 to a workgroup. Nothing is written where the verdict is not COMMIT.
// Bytes: 20 per element. Operations: 8 per element.

const TALLIES: u32 = 2u;
const STRIDE: u32 = 1u;

struct Params {
    start: u32,
    count: u32,
    group: u32,
    momentum: f32,
    weight_decay: f32,
    nesterov: u32,
    l1: f32,
    clip_value: f32, // largest magnitude of a gradient
}

@group(0) @binding(0) var<storage, read> gradients: array<f32>;
@group(0) @binding(1) var<storage, read> control: array<u32>;
@group(0) @binding(2) var<storage, read_write> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> buffers: array<f32>;
@group(0) @binding(4) var<storage, read_write> sums: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> params: Params;

// One element of the window.
fn update(index: u32) {
    let clip = bitcast<f32>(control[CLIP]);
    let row = CURRENT + params.group * ROW_WORDS;
    let learning_rate = bitcast<f32>(control[row]);
    let undamped = bitcast<f32>(control[row + 1u]);
    let before = values[index];
    let g = penalised_gradient(gradients[index], clip, params.clip_value, before, params.l1, params.weight_decay);
    let moving = params.momentum * buffers[index] + undamped * g;
    buffers[index] = accept(1u, index, buffers[index], moving);
    var direction = moving;
    if params.nesterov != 0u {
        direction = g + params.momentum * moving;
    }
    values[index] = accept(0u, index, before, before - learning_rate * direction);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    update_all(workgroup_number(id, count), lane);
}
