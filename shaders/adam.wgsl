// uses: shared/activation, shared/control, shared/index, shared/penalty, shared/tally

// Adam (Kingma and Ba, 2015) and AdamW (Loshchilov and Hutter, 2019): m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
// p -= row[1] m / (sqrt(v) row[2] + epsilon), with the group's schedule row (learning rate, learning rate / (1 - b1^t),
// 1 / sqrt(1 - b2^t)). l1 sign(p) and weight_decay p are added to g; where `decoupled`, the latter is not, and
// p -= learning rate * weight_decay * p first.
//
// Shapes: gradients, values, m, v: windows of the arena; the control block; the sums of the step. The elements
// start..start + count.
// Threads: one per ELEMENTS elements, 256 to a workgroup. Nothing is written where the verdict is not COMMIT.
// Bytes: 28 per element. Operations: 15 per element, a root and two divisions among them.

const TALLIES: u32 = 3u;

struct Params {
    start: u32,
    count: u32,
    group: u32,
    decoupled: u32, // 1: AdamW
    beta1: f32,
    beta2: f32,
    rest1: f32, // 1 - beta1, computed in f64
    rest2: f32, // 1 - beta2, likewise
    epsilon: f32,
    weight_decay: f32,
    l1: f32,
    clip_value: f32, // largest magnitude of a gradient
}

@group(0) @binding(0) var<storage, read> gradients: array<f32>;
@group(0) @binding(1) var<storage, read> control: array<u32>;
@group(0) @binding(2) var<storage, read_write> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> first_moments: array<f32>;
@group(0) @binding(4) var<storage, read_write> second_moments: array<f32>;
@group(0) @binding(5) var<storage, read_write> sums: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> params: Params;

// Learning rate, step size and correction of the group's row, and the clipping factor: read once per thread.
var<private> schedule: vec4<f32>;

fn read_schedule() {
    let row = CURRENT + params.group * ROW_WORDS;
    schedule = bitcast<vec4<f32>>(vec4<u32>(control[row], control[row + 1u], control[row + 2u], control[CLIP]));
}

// One element of the window.
fn update(index: u32) {
    let learning_rate = schedule.x;
    let before = values[index];
    let first_before = first_moments[index];
    let second_before = second_moments[index];
    var coupled = params.weight_decay;
    var decayed = before;
    if params.decoupled != 0u {
        coupled = 0.0;
        decayed -= learning_rate * params.weight_decay * before;
    }
    let g = penalised_gradient(gradients[index], schedule.w, params.clip_value, before, params.l1, coupled);
    let m = params.beta1 * first_before + params.rest1 * g;
    let v = params.beta2 * second_before + params.rest2 * (g * g);
    first_moments[index] = accept(1u, index, first_before, m);
    second_moments[index] = accept(2u, index, second_before, v);
    let after = decayed - schedule.y * (m / (sqrt_f32(v) * schedule.z + params.epsilon));
    values[index] = accept(0u, index, before, after);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    read_schedule();
    update_all(workgroup_number(id, count), lane);
}
