// uses: shared/activation, shared/index

// Convolution of images in groups of channels, with bias and activation; or, TRANSPOSED, the gradient of its input,
// which is the same walk over taps and channels with the roles of both images exchanged.
//
// Shapes: x [batch, groups, channels, height, width], w [groups, outputs, channels, kernel height, kernel width], y
// [batch, groups, outputs, height, width], contiguous. What is read (the source) is x, or dy where TRANSPOSED; what is
// written (the result) is y, or dx.
// Threads: a workgroup of 64 computes 256 positions, over all images, of 8 channels; a thread 4 positions, 64 apart so that
// neighbours read neighbours, of 8 channels in registers. All threads of a workgroup read the same weights.
// Bytes: the source once per tap and 8 result channels (mostly from the cache), the weight once per 256 positions, the
// result once. Operations: 2 per product; 32 multiply-adds per 12 reads.
// llvmpipe ends a thread's loops after 65,535 rounds, without a word: taps times channels reach that far there.

// 1: add the bias.
override BIAS: u32 = 0u;
// What to apply last, by its number in shared/activation.wgsl.
override ACTIVATION: u32 = 0u;
// 1: from dy to dx.
override TRANSPOSED: u32 = 0u;

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

// The pixel `distance` further on; 0 in the padding.
fn value(pixel: u32, distance: u32) -> f32 {
    if pixel == NOWHERE {
        return 0.0;
    }
    return source[pixel + distance];
}

// Writes one channel at four positions.
fn store(places: vec4<u32>, group: u32, channel: u32, sums: vec4<f32>) {
    if channel >= params.results {
        return;
    }
    var sum = sums;
    if BIAS == 1u {
        sum += bias[group * params.results + channel];
    }
    let start = channel * params.result_height * params.result_width;
    if places.x != NOWHERE {
        result[places.x + start] = activate(ACTIVATION, sum.x);
    }
    if places.y != NOWHERE {
        result[places.y + start] = activate(ACTIVATION, sum.y);
    }
    if places.z != NOWHERE {
        result[places.z + start] = activate(ACTIVATION, sum.z);
    }
    if places.w != NOWHERE {
        result[places.w + start] = activate(ACTIVATION, sum.w);
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let number = workgroup_number(id, count);
    let position_parts = (params.batch * params.result_height * params.result_width + 255u) / 256u;
    let channel_parts = (params.results + 7u) / 8u;
    let strip = number / position_parts;
    let group = strip / channel_parts;
    if group >= params.groups {
        return;
    }
    let channel = strip % channel_parts * 8u;
    let index = number % position_parts * 256u + lane;
    let place0 = place_of(index, group);
    let place1 = place_of(index + 64u, group);
    let place2 = place_of(index + 128u, group);
    let place3 = place_of(index + 192u, group);

    // The weights of 8 channels of the result; past the last one its own again, which is not written.
    let taps = params.kernel_height * params.kernel_width;
    let group_start = group * params.sources * params.results * taps;
    let last = params.results - 1u;
    let low = group_start
        + min(vec4<u32>(channel) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last)) * params.weight_result;
    let high = group_start
        + min(vec4<u32>(channel) + vec4<u32>(4u, 5u, 6u, 7u), vec4<u32>(last)) * params.weight_result;
    let plane = params.source_height * params.source_width;
    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    var sum4 = vec4<f32>();
    var sum5 = vec4<f32>();
    var sum6 = vec4<f32>();
    var sum7 = vec4<f32>();
    for (var tap = 0u; tap < taps; tap += 1u) {
        let rows = tap / params.kernel_width * params.dilation_height;
        let columns = tap % params.kernel_width * params.dilation_width;
        let pixels = vec4<u32>(
            pixel(place0, rows, columns),
            pixel(place1, rows, columns),
            pixel(place2, rows, columns),
            pixel(place3, rows, columns),
        );
        var distance = 0u;
        var at = tap;
        for (var from_channel = 0u; from_channel < params.sources; from_channel += 1u) {
            let x = vec4<f32>(
                value(pixels.x, distance),
                value(pixels.y, distance),
                value(pixels.z, distance),
                value(pixels.w, distance),
            );
            sum0 += weight[low.x + at] * x;
            sum1 += weight[low.y + at] * x;
            sum2 += weight[low.z + at] * x;
            sum3 += weight[low.w + at] * x;
            sum4 += weight[high.x + at] * x;
            sum5 += weight[high.y + at] * x;
            sum6 += weight[high.z + at] * x;
            sum7 += weight[high.w + at] * x;
            distance += plane;
            at += params.weight_source;
        }
    }
    let places = vec4<u32>(place0.result, place1.result, place2.result, place3.result);
    store(places, group, channel, sum0);
    store(places, group, channel + 1u, sum1);
    store(places, group, channel + 2u, sum2);
    store(places, group, channel + 3u, sum3);
    store(places, group, channel + 4u, sum4);
    store(places, group, channel + 5u, sum5);
    store(places, group, channel + 6u, sum6);
    store(places, group, channel + 7u, sum7);
}
