// uses: shared/activation, shared/convolution, shared/index

// conv2d.wgsl for drivers in software that run 8 threads in the lanes of a processor's vector, as matmul_lanes.wgsl: lanes lie
// along positions, and an element of the weight, which all of them need, is loaded by one lane and broadcast.
//
// Shapes: those of conv2d.wgsl.
// Threads: a workgroup of 32 computes 128 positions, over all images, of 32 channels; a thread 4 positions, one behind the
// other, of all 32. Subgroups have 8 threads.
// Bytes: the source once per tap and 32 result channels, the weight once per 128 positions (from the cache), the result once.
// Operations: 2 per product. Per tap and 4 channels a thread loads 16 elements of the source and 16 of the weight for 512
// multiply-adds.
// llvmpipe ends a thread's loops after 65,535 rounds: taps times channels reach four times that far there.

// 1: the source's channels are no multiple of 4.
override TAIL: u32 = 0u;

const ROWS: u32 = 32u;
// A thread loads weights of one of two channels of the result: 4 channels of the source for each.
const PAIRS: u32 = 16u;

// The pixels of channel `channel` of the source; zeros in the padding, and past the last channel.
fn pixels_of(places: vec4<u32>, inside: vec4<bool>, channel: u32) -> vec4<f32> {
    var known = channel;
    if TAIL == 1u {
        known = min(channel, params.sources - 1u);
    }
    let at = places + known * params.source_height * params.source_width;
    let values = vec4<f32>(source[at.x], source[at.y], source[at.z], source[at.w]);
    if TAIL == 1u {
        return select(vec4<f32>(), values, inside & vec4<bool>(channel < params.sources));
    }
    return select(vec4<f32>(), values, inside);
}

@compute @workgroup_size(32)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) neighbour: u32,
) {
    let positions = params.batch * params.result_height * params.result_width;
    let position_parts = (positions + 127u) / 128u;
    let channel_parts = (params.results + ROWS - 1u) / ROWS;
    let number = workgroup_number(id, count);
    let strip = number / position_parts;
    let group = strip / channel_parts;
    if group >= params.groups {
        return;
    }
    let channel = strip % channel_parts * ROWS;
    let index = (number % position_parts * 32u + lane) * 4u;
    let place0 = place_of(index, group);
    let place1 = place_of(index + 1u, group);
    let place2 = place_of(index + 2u, group);
    let place3 = place_of(index + 3u, group);

    let taps = params.kernel_height * params.kernel_width;
    let step = neighbour % 4u;
    var weights: array<u32, PAIRS>;
    for (var pair = 0u; pair < PAIRS; pair++) {
        let own = min(channel + 2u * pair + neighbour / 4u, params.results - 1u);
        weights[pair] = group * params.sources * params.results * taps + own * params.weight_result;
    }
    var sums: array<vec4<f32>, ROWS>;
    // Where all threads of a subgroup are past the last position, there is nothing to do.
    let end = select(0u, taps, index - 4u * neighbour < positions);
    for (var tap = 0u; tap < end; tap += 1u) {
        let rows = tap / params.kernel_width * params.dilation_height;
        let columns = tap % params.kernel_width * params.dilation_width;
        let places = vec4<u32>(
            pixel(place0, rows, columns),
            pixel(place1, rows, columns),
            pixel(place2, rows, columns),
            pixel(place3, rows, columns),
        );
        let inside = places != vec4<u32>(NOWHERE);
        let known = select(vec4<u32>(), places, inside);
        for (var depth = 0u; depth < params.sources; depth += 4u) {
            let x0 = pixels_of(known, inside, depth);
            let x1 = pixels_of(known, inside, depth + 1u);
            let x2 = pixels_of(known, inside, depth + 2u);
            let x3 = pixels_of(known, inside, depth + 3u);
            var own = depth + step;
            if TAIL == 1u {
                own = min(own, params.sources - 1u);
            }
            let at = own * params.weight_source + tap;
            for (var pair = 0u; pair < PAIRS; pair++) {
                // The broadcasts are of lanes by number: all of them are active, as the loops' ends are the same for all.
                var w = weight[weights[pair] + at];
                if TAIL == 1u {
                    w = select(0.0, w, depth + step < params.sources);
                }
                var sum = sums[2u * pair];
                sum = fma(vec4<f32>(subgroupBroadcast(w, 0u)), x0, sum);
                sum = fma(vec4<f32>(subgroupBroadcast(w, 1u)), x1, sum);
                sum = fma(vec4<f32>(subgroupBroadcast(w, 2u)), x2, sum);
                sums[2u * pair] = fma(vec4<f32>(subgroupBroadcast(w, 3u)), x3, sum);
                sum = sums[2u * pair + 1u];
                sum = fma(vec4<f32>(subgroupBroadcast(w, 4u)), x0, sum);
                sum = fma(vec4<f32>(subgroupBroadcast(w, 5u)), x1, sum);
                sum = fma(vec4<f32>(subgroupBroadcast(w, 6u)), x2, sum);
                sums[2u * pair + 1u] = fma(vec4<f32>(subgroupBroadcast(w, 7u)), x3, sum);
            }
        }
    }
    // Eight channels at a time, and none past the end: as a loop, because the code of all the stores takes longer to build
    // than everything above.
    let plane = params.result_height * params.result_width;
    let stores = (min(params.results - channel, ROWS) + 7u) / 8u;
    for (var eight = 0u; eight < stores; eight++) {
        for (var own = 0u; own < 8u; own++) {
            var sum = select(sums[own], sums[own + 8u], eight == 1u);
            sum = select(sum, sums[own + 16u], eight == 2u);
            sum = select(sum, sums[own + 24u], eight == 3u);
            // Channels past the end are the last one again, the same value at the same place by the same thread.
            let to = min(channel + eight * 8u + own, params.results - 1u);
            if BIAS == 1u {
                sum += bias[group * params.results + to];
            }
            if place0.result != NOWHERE {
                result[place0.result + to * plane] = activate(ACTIVATION, sum.x);
            }
            if place1.result != NOWHERE {
                result[place1.result + to * plane] = activate(ACTIVATION, sum.y);
            }
            if place2.result != NOWHERE {
                result[place2.result + to * plane] = activate(ACTIVATION, sum.z);
            }
            if place3.result != NOWHERE {
                result[place3.result + to * plane] = activate(ACTIVATION, sum.w);
            }
        }
    }
}
