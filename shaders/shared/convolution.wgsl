// What the convolution kernels have in common: parameters, bindings, and where an element of the source lies. conv2d.wgsl says
// what the source and the result are.

// 1: add the bias.
override BIAS: u32 = 0u;
// What to apply last, by its number in shared/activation.wgsl.
override ACTIVATION: u32 = 0u;
// 1: from dy to dx.
override TRANSPOSED: u32 = 0u;
// 1: a stride is more than 1. Without, nothing needs to be divided by it.
override STRIDED: u32 = 1u;

struct Params {
    batch: u32,
    groups: u32,
    sources: u32, // channels per group of the source
    results: u32, // and of the result
    weight_source: u32, // distance of the weights of neighbouring channels of the source
    weight_result: u32, // and of the result
    source_height: u32,
    source_width: u32,
    result_height: u32,
    result_width: u32,
    kernel_height: u32,
    kernel_width: u32,
    stride_height: u32,
    stride_width: u32,
    padding_height: u32,
    padding_width: u32,
    dilation_height: u32,
    dilation_width: u32,
}

@group(0) @binding(0) var<storage, read> source: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> result: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

// What stands for a place that is not there.
const NOWHERE: u32 = 0xffffffffu;

// A position of the result: where its image's group begins in the source and in the result, and its coordinates.
struct Place {
    source: u32,
    result: u32,
    row: u32,
    column: u32,
}

// Position `index` of all images; the last one past the end, where `result` is nowhere.
fn place_of(index: u32, group: u32) -> Place {
    let positions = params.result_height * params.result_width;
    let inside = index < params.batch * positions;
    let known = select(0u, index, inside);
    let plane = known / positions * params.groups + group;
    let position = known % positions;
    let source_start = plane * params.sources * params.source_height * params.source_width;
    let result_start = plane * params.results * positions + position;
    return Place(
        source_start,
        select(NOWHERE, result_start, inside),
        position / params.result_width,
        position % params.result_width,
    );
}

// The coordinate of the source that `at` of the result meets `ahead` pixels into the kernel; NOWHERE between strides. Before
// the first pixel it wraps around, and so is past the end.
fn met(at: u32, ahead: u32, stride: u32, padding: u32) -> u32 {
    if TRANSPOSED == 0u {
        return at * stride + ahead - padding;
    }
    let distance = at + padding;
    if STRIDED == 0u {
        return distance - ahead;
    }
    if distance < ahead || (distance - ahead) % stride != 0u {
        return NOWHERE;
    }
    return (distance - ahead) / stride;
}

// Where the pixel under a tap lies in the source's first channel; NOWHERE in the padding.
fn pixel(place: Place, ahead_rows: u32, ahead_columns: u32) -> u32 {
    let row = met(place.row, ahead_rows, params.stride_height, params.padding_height);
    let column = met(place.column, ahead_columns, params.stride_width, params.padding_width);
    let inside = row < params.source_height && column < params.source_width;
    return select(NOWHERE, place.source + row * params.source_width + column, inside);
}
