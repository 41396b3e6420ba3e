// What the kernels of a convolution's weight gradient have in common: parameters, bindings, and where a tap meets x.
// conv2d_backward_weight.wgsl says what the parts are.

struct Params {
    batch: u32,
    groups: u32,
    channels: u32, // of x per group
    outputs: u32, // channels of dy per group
    input_height: u32,
    input_width: u32,
    output_height: u32,
    output_width: u32,
    kernel_height: u32,
    kernel_width: u32,
    stride_height: u32,
    stride_width: u32,
    padding_height: u32,
    padding_width: u32,
    dilation_height: u32,
    dilation_width: u32,
    parts: u32,
    part_rows: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> parts: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

// What stands for a place that is not there.
const NOWHERE: u32 = 0xffffffffu;

// A weight's channel of x, and the distance of its tap from the kernel's corner.
struct Tap {
    channel: u32,
    row: u32,
    column: u32,
}

// That of weight `index` of an output; the last one past the end.
fn tap_of(index: u32) -> Tap {
    let taps = params.kernel_height * params.kernel_width;
    let known = min(index, params.channels * taps - 1u);
    let tap = known % taps;
    return Tap(
        known / taps,
        tap / params.kernel_width * params.dilation_height,
        tap % params.kernel_width * params.dilation_width,
    );
}

// Where the row of x that a row of dy meets under a tap begins; NOWHERE in the padding. Before the first one the number wraps
// around, and so is past the end.
fn image_row(plane: u32, row: u32, tap: Tap) -> u32 {
    let line = row * params.stride_height + tap.row - params.padding_height;
    let start = ((plane * params.channels + tap.channel) * params.input_height + line) * params.input_width;
    return select(NOWHERE, start, line < params.input_height);
}
