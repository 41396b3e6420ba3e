// uses: shared/adam, shared/index, shared/tally

// Adam (Kingma and Ba, 2015) and AdamW (Loshchilov and Hutter, 2019): m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
// p -= row[1] m / (sqrt(v) row[2] + epsilon), with the group's schedule row (learning rate, learning rate / (1 - b1^t),
// 1 / sqrt(1 - b2^t)). l1 sign(p) and weight_decay p are added to g; where `decoupled`, the latter is not, and
// p -= learning rate * weight_decay * p first.
//
// Shapes: gradients, values, m, v: windows of the arena; the control block; the sums of the step. The elements
// start..start + count.
// Threads: one per TIMES elements, 256 to a workgroup. Nothing is written where the verdict is not COMMIT.
// Bytes: 28 per element. Operations: 15 per element, a root and two divisions among them.

const TALLIES: u32 = 3u;
const STRIDE: u32 = 1u;

@group(0) @binding(0) var<storage, read> gradients: array<f32>;
@group(0) @binding(1) var<storage, read> control: array<u32>;
@group(0) @binding(2) var<storage, read_write> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> first_moments: array<f32>;
@group(0) @binding(4) var<storage, read_write> second_moments: array<f32>;
@group(0) @binding(5) var<storage, read_write> sums: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> params: AdamParams;

// One element of the window.
fn update(index: u32) {
    let before = vec3<f32>(values[index], first_moments[index], second_moments[index]);
    let after = updated(before, gradients[index]);
    first_moments[index] = accept(1u, index, before.y, after.y);
    second_moments[index] = accept(2u, index, before.z, after.z);
    values[index] = accept(0u, index, before.x, after.x);
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
