// uses: shared/index, shared/pool

// The gradient of a mean over windows: each pixel adds up, in order, its shares of the gradients of the outputs whose
// windows cover it.
//
// Shapes: dy [planes, output height, output width], dx [planes, input height, input width], contiguous.
// Threads: one per pixel, 64 to a workgroup.
// Bytes: dy once per window that covers a pixel (from the cache), dx once. Operations: a division and an addition per
// such window.

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read_write> dx: array<f32>;
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
    let rows = reached(
        place / params.input_width, params.kernel_height, params.stride_height, params.padding_height,
        params.input_height, params.output_height,
    );
    let columns = reached(
        place % params.input_width, params.kernel_width, params.stride_width, params.padding_width,
        params.input_width, params.output_width,
    );
    var sum = 0.0;
    for (var row = rows.x; row < rows.y; row += 1u) {
        let height = window(
            row, params.kernel_height, params.stride_height, params.padding_height, params.input_height,
            params.output_height,
        );
        for (var column = columns.x; column < columns.y; column += 1u) {
            let width = window(
                column, params.kernel_width, params.stride_width, params.padding_width, params.input_width,
                params.output_width,
            );
            sum += dy[start + row * params.output_width + column] / f32(height.count * width.count);
        }
    }
    dx[index] = sum;
}
