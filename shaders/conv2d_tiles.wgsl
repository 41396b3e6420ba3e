// uses: shared/activation, shared/convolution, shared/convolution_tiles, shared/index, shared/mixed_radix

// conv2d.wgsl as a product of matrices, for GPUs with fast workgroup memory: C [results, positions] = A B, where A is the
// weight, B has a row for each channel of the source and tap, and no B is ever written: its tiles are gathered from the source.
//
// Shapes: those of conv2d.wgsl. K = sources * taps, the taps of a channel one behind the other.
// Threads: a workgroup of 128 computes 64 channels of 64 positions, over all images; a thread 8 channels, in two halves 32
// apart, of 4 positions, 16 apart so that neighbours read and write neighbours. Tiles of A (64 x 8) and B (8 x 64) go through
// workgroup memory; while a tile is multiplied, each thread already reads its elements of the next.
// Bytes: the source once per tap and 64 result channels (mostly from the cache), the weight once per 64 positions, the result
// once. Operations: 2 per product. Per step of K a thread reads 3 vec4 of workgroup memory for 32 multiply-adds.

// Weights of four channels of the result, from `row` on, at a step of K: (channel, row and column of the tap). Past the last
// channel of the result that one again, which is not written; past the end of K zeros.
fn read_weights(start: u32, row: u32, at: vec3<u32>) -> vec4<f32> {
    if at.x >= params.sources {
        return vec4<f32>();
    }
    let rows = min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.results - 1u));
    let place = start + at.x * params.weight_source + at.y * params.kernel_width + at.z;
    let places = vec4<u32>(place) + rows * params.weight_result;
    return vec4<f32>(weight[places.x], weight[places.y], weight[places.z], weight[places.w]);
}

// The pixel under a tap; 0 in the padding.
fn read_pixel(place: Place, distance: u32, tap: vec2<u32>) -> f32 {
    let at = pixel(place, tap.x, tap.y);
    if at == NOWHERE {
        return 0.0;
    }
    return source[at + distance];
}

// The pixels at four positions at a step of K; past its end zeros.
fn read_pixels(places: array<Place, 4>, at: vec3<u32>) -> vec4<f32> {
    if at.x >= params.sources {
        return vec4<f32>();
    }
    let tap = at.yz * vec2<u32>(params.dilation_height, params.dilation_width);
    let distance = at.x * params.source_height * params.source_width;
    return vec4<f32>(
        read_pixel(places[0], distance, tap),
        read_pixel(places[1], distance, tap),
        read_pixel(places[2], distance, tap),
        read_pixel(places[3], distance, tap),
    );
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
    for (var own = 0u; own < 4u; own++) {
        if places[own] != NOWHERE {
            result[places[own] + start] = activate(ACTIVATION, sum[own]);
        }
    }
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let number = workgroup_number(id, count);
    let position_tiles = (params.batch * params.result_height * params.result_width + TILE - 1u) / TILE;
    let channel_tiles = (params.results + TILE - 1u) / TILE;
    let strip = number / position_tiles;
    let group = strip / channel_tiles;
    if group >= params.groups {
        return;
    }
    let first_channel = strip % channel_tiles * TILE;
    let row = lane / 16u;
    let column = lane % 16u;
    let index = number % position_tiles * TILE + column;
    let places = array<Place, 4>(
        place_of(index, group),
        place_of(index + 16u, group),
        place_of(index + 32u, group),
        place_of(index + 48u, group),
    );

    let kernel = vec2<u32>(params.kernel_height, params.kernel_width);
    let depth_end = params.sources * kernel.x * kernel.y;
    let weight_start = group * params.results * depth_end;
    // The step of K whose weights, and whose pixels, a thread reads. Neighbours read neighbouring weights.
    var at_a = digits(lane % DEPTH, kernel);
    var at_b = digits(row, kernel);
    let ahead = digits(DEPTH, kernel);
    let rows_a = first_channel + lane / DEPTH * 4u;
    let slot_a = lane % DEPTH * PITCH + lane / DEPTH;
    let slot_b = row * PITCH + column;

    // Eight channels, of each the four positions.
    var sums: array<vec4<f32>, 8>;
    var next_a = read_weights(weight_start, rows_a, at_a);
    var next_b = read_pixels(places, at_b);
    for (var depth = 0u; depth < depth_end; depth += DEPTH) {
        // The tiles of the previous step have been multiplied.
        workgroupBarrier();
        tile_a[slot_a] = next_a;
        tile_b[slot_b] = next_b;
        workgroupBarrier();
        at_a = plus(at_a, ahead, kernel);
        at_b = plus(at_b, ahead, kernel);
        next_a = read_weights(weight_start, rows_a, at_a);
        next_b = read_pixels(places, at_b);
        multiply_tiles(lane, &sums);
    }
    let results = vec4<u32>(places[0].result, places[1].result, places[2].result, places[3].result);
    for (var own = 0u; own < 8u; own++) {
        store(results, group, first_channel + row_of_sum(lane, own), sums[own]);
    }
}
