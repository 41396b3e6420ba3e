// uses: shared/float_bits, shared/index, shared/pool

// The largest pixel of each window, and where it is: the first of equals; a NaN counts as the largest. Where a window
// lies in the padding altogether the result is minus infinity and the place NOWHERE.
//
// Shapes: x [planes, input height, input width], y and places [planes, output height, output width], contiguous; a place
// is row * input width + column.
// Threads: one per output, 64 to a workgroup.
// Bytes: x once per window that covers it (from the cache), y and places once. Operations: one comparison per tap.

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> places: array<u32>;
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
    let first_row = position / params.output_width * params.stride_height;
    let first_column = position % params.output_width * params.stride_width;
    var largest = f32_from_bits(0xff800000u);
    var place = NOWHERE;
    for (var tap_row = 0u; tap_row < params.kernel_height; tap_row += 1u) {
        // Before the first row the number wraps around, and so is past the end.
        let row = first_row + tap_row * params.dilation_height - params.padding_height;
        if row >= params.input_height {
            continue;
        }
        for (var tap_column = 0u; tap_column < params.kernel_width; tap_column += 1u) {
            let column = first_column + tap_column * params.dilation_width - params.padding_width;
            if column >= params.input_width {
                continue;
            }
            let at = row * params.input_width + column;
            let value = x[start + at];
            let larger = select(value > largest, true, is_nan(value) || place == NOWHERE);
            if larger && !is_nan(largest) {
                largest = value;
                place = at;
            }
        }
    }
    y[index] = largest;
    places[index] = place;
}
