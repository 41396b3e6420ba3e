// uses: shared/index, shared/pool

// The mean of each window: of a kernel that slides over the image and its padding, or of windows that follow from the
// sizes (adaptive).
//
// Shapes: x [planes, input height, input width], y [planes, output height, output width], contiguous.
// Threads: one per output, 64 to a workgroup.
// Bytes: x once per window that covers it (from the cache), y once. Operations: one addition per pixel of a window, each
// row of it a partial sum of its own.

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
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
    let start = index / positions * params.input_height * params.input_width;
    let position = index % positions;
    let rows = window(
        position / params.output_width, params.kernel_height, params.stride_height, params.padding_height,
        params.input_height, params.output_height,
    );
    let columns = window(
        position % params.output_width, params.kernel_width, params.stride_width, params.padding_width,
        params.input_width, params.output_width,
    );
    var sum = 0.0;
    for (var row = rows.start; row < rows.end; row += 1u) {
        var partial = 0.0;
        for (var column = columns.start; column < columns.end; column += 1u) {
            partial += x[start + row * params.input_width + column];
        }
        sum += partial;
    }
    y[index] = sum / f32(rows.count * columns.count);
}
