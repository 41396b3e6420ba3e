// uses: shared/activation, shared/control, shared/index, shared/penalty, shared/tally

// RMSprop (Hinton, 2012), as PyTorch's: s = alpha s + (1 - alpha) g^2; centered: a = alpha a + (1 - alpha) g and
// v = s - a^2, else v = s; d = g / (sqrt(v) + epsilon); momentum: b = momentum b + d, p -= rate b, else p -= rate d.
//
// Shapes: gradients, values, squares, averages, buffers: windows of the arena; the control block; the sums of the
// step. The elements start..start + count.
// Threads: one per TIMES elements, 256 to a workgroup. Nothing is written where the verdict is not COMMIT.
// Bytes: 20 per element, 8 more with momentum, 8 more where centered. Operations: 12 per element, a root and a division
// among them.

const TALLIES: u32 = 4u;
const STRIDE: u32 = 1u;

struct Params {
    start: u32,
    count: u32,
    group: u32,
    centered: u32,
    alpha: f32,
    rest: f32, // 1 - alpha, computed in f64
    epsilon: f32,
    momentum: f32,
    weight_decay: f32,
    l1: f32,
    clip_value: f32,
}

@group(0) @binding(0) var<storage, read> gradients: array<f32>;
@group(0) @binding(1) var<storage, read> control: array<u32>;
@group(0) @binding(2) var<storage, read_write> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> squares: array<f32>;
@group(0) @binding(4) var<storage, read_write> averages: array<f32>;
@group(0) @binding(5) var<storage, read_write> buffers: array<f32>;
@group(0) @binding(6) var<storage, read_write> sums: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> params: Params;

// One element of the window.
fn update(index: u32) {
    let clip = bitcast<f32>(control[CLIP]);
    let learning_rate = bitcast<f32>(control[CURRENT + params.group * ROW_WORDS]);
    let before = values[index];
    let g = penalised_gradient(gradients[index], clip, params.clip_value, before, params.l1, params.weight_decay);
    let square = params.alpha * squares[index] + params.rest * (g * g);
    squares[index] = accept(1u, index, squares[index], square);
    var variance = square;
    if params.centered != 0u {
        let average = params.alpha * averages[index] + params.rest * g;
        averages[index] = accept(2u, index, averages[index], average);
        // Rounding may take it below zero.
        let difference = square - average * average;
        variance = select(difference, 0.0, difference < 0.0);
    }
    var direction = g / (sqrt_f32(variance) + params.epsilon);
    if params.momentum > 0.0 {
        direction += params.momentum * buffers[index];
        buffers[index] = accept(3u, index, buffers[index], direction);
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
