// uses: shared/activation, shared/control, shared/penalty

// What adam.wgsl and adam_quads.wgsl have in common: parameters and the update of an element, which adam.wgsl describes.
//
// A kernel that uses this declares `var<uniform> params: AdamParams` and the binding `control`.

struct AdamParams {
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

// Learning rate, step size and correction of the group's row, and the clipping factor: read once per thread.
var<private> schedule: vec4<f32>;

fn read_schedule() {
    let row = CURRENT + params.group * ROW_WORDS;
    schedule = bitcast<vec4<f32>>(vec4<u32>(control[row], control[row + 1u], control[row + 2u], control[CLIP]));
}

// What becomes of (p, m, v) with a gradient.
fn updated(before: vec3<f32>, gradient: f32) -> vec3<f32> {
    var coupled = params.weight_decay;
    var decayed = before.x;
    if params.decoupled != 0u {
        coupled = 0.0;
        decayed -= schedule.x * params.weight_decay * before.x;
    }
    let g = penalised_gradient(gradient, schedule.w, params.clip_value, before.x, params.l1, coupled);
    let m = params.beta1 * before.y + params.rest1 * g;
    let v = params.beta2 * before.z + params.rest2 * (g * g);
    return vec3<f32>(decayed - schedule.y * (m / (sqrt_f32(v) * schedule.z + params.epsilon)), m, v);
}
