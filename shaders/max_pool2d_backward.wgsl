// uses: shared/index, shared/pool

// The gradient of a maximum over windows: each pixel adds up, in order, the gradients of the outputs that it is the
// maximum of.
//
// Shapes: places u32 and dy [planes, output height, output width], dx [planes, input height, input width], contiguous.
// Threads: one per pixel, 64 to a workgroup.
// Bytes: places and dy once per window that covers a pixel (from the cache), dx once. Operations: a comparison and an
// addition per such window.

@group(0) @binding(0) var<storage, read> places: array<u32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup_number(id, count) * 64u + lane;
    let pixels = params.input_height * params.input_width;
    if index >= params.planes * pixels {
        return;
    }
    let place = index % pixels;
    let start = index / pixels * params.output_height * params.output_width;
    let height = (params.kernel_height - 1u) * params.dilation_height + 1u;
    let width = (params.kernel_width - 1u) * params.dilation_width + 1u;
    let rows = reached(
        place / params.input_width, height, params.stride_height, params.padding_height, params.input_height,
        params.output_height,
    );
    let columns = reached(
        place % params.input_width, width, params.stride_width, params.padding_width, params.input_width,
        params.output_width,
    );
    var sum = 0.0;
    for (var row = rows.x; row < rows.y; row += 1u) {
        for (var column = columns.x; column < columns.y; column += 1u) {
            let at = start + row * params.output_width + column;
            if places[at] == place {
                sum += dy[at];
            }
        }
    }
    dx[index] = sum;
}
