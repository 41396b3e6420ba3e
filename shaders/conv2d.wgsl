// uses: shared/activation, shared/convolution, shared/index

// Convolution of images in groups of channels, with bias and activation; or, TRANSPOSED, the gradient of its input, which is
// the same walk over taps and channels with the roles of both images exchanged. This one is for results of few channels;
// conv2d_tiles.wgsl and conv2d_lanes.wgsl are for more.
//
// Shapes: x [batch, groups, channels, height, width], w [groups, outputs, channels, kernel height, kernel width], y
// [batch, groups, outputs, height, width], contiguous. What is read (the source) is x, or dy where TRANSPOSED; what is
// written (the result) is y, or dx.
// Threads: a workgroup of 64 computes 256 positions, over all images, of 8 channels; a thread 4 positions, 64 apart so that
// neighbours read neighbours, of 8 channels in registers. All threads of a workgroup read the same weights.
// Bytes: the source once per tap and 8 result channels (mostly from the cache), the weight once per 256 positions, the
// result once. Operations: 2 per product; 32 multiply-adds per 12 reads.
// llvmpipe ends a thread's loops after 65,535 rounds, without a word: taps times channels reach that far there.

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
