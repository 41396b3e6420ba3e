// uses: shared/adam, shared/index, shared/tally

// adam.wgsl four elements at a time, where the window begins at a multiple of 4 and has a multiple of 4: the same bits.
//
// Shapes: gradients, values, m, v: windows of the arena, as vec4; the control block; the sums of the step. The elements
// start..start + count.
// Threads: one per 4 TIMES elements, 256 to a workgroup. Nothing is written where the verdict is not COMMIT.
// Bytes: 28 per element. Operations: 15 per element, a root and two divisions among them.

const TALLIES: u32 = 3u;
const STRIDE: u32 = 4u;

@group(0) @binding(0) var<storage, read> gradients: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> control: array<u32>;
@group(0) @binding(2) var<storage, read_write> values: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> first_moments: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> second_moments: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> sums: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> params: AdamParams;

// Four elements of the window.
fn update(index: u32) {
    let at = index / 4u;
    let p = values[at];
    let m = first_moments[at];
    let v = second_moments[at];
    let g = gradients[at];
    let x = updated(vec3<f32>(p.x, m.x, v.x), g.x);
    let y = updated(vec3<f32>(p.y, m.y, v.y), g.y);
    let z = updated(vec3<f32>(p.z, m.z, v.z), g.z);
    let w = updated(vec3<f32>(p.w, m.w, v.w), g.w);
    first_moments[at] = accept_quad(1u, index, m, vec4<f32>(x.y, y.y, z.y, w.y));
    second_moments[at] = accept_quad(2u, index, v, vec4<f32>(x.z, y.z, z.z, w.z));
    values[at] = accept_quad(0u, index, p, vec4<f32>(x.x, y.x, z.x, w.x));
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
