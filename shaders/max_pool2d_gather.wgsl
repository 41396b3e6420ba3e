// uses: shared/index, shared/pool

// The pixel at each window's place, 0 where it has none: the transpose of max_pool2d_backward.wgsl.
//
// Shapes: places u32 and y [planes, output height, output width], x [planes, input height, input width], contiguous.
// Threads: one per output, 64 to a workgroup.
// Bytes: places and y once, x once per output. Operations: none.

@group(0) @binding(0) var<storage, read> places: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup_number(id, count) * 64u + lane;
    let positions = params.output_height * params.output_width;
    if index >= params.planes * positions {
        return;
    }
    let place = places[index];
    var value = 0.0;
    if place != NOWHERE {
        value = x[index / positions * params.input_height * params.input_width + place];
    }
    y[index] = value;
}
