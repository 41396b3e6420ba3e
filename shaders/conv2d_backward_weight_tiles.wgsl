// uses: shared/convolution_tiles, shared/convolution_weight, shared/index, shared/mixed_radix

// conv2d_backward_weight.wgsl as a product of matrices, for GPUs with fast workgroup memory: each part [outputs, depth] = A B
// over its positions, where A is dy, B has a column for each channel of x and tap, and no B is ever written: its tiles are
// gathered from x.
//
// Shapes: those of conv2d_backward_weight.wgsl; depth = channels * taps.
// Threads: a workgroup of 128 computes 64 outputs x 64 weights of a part; a thread 8 outputs, in two halves 32 apart, of 4
// neighbouring weights. Tiles of A (64 x 8) and B (8 x 64) go through workgroup memory; while a tile is multiplied, each thread
// already reads its elements of the next. Neighbours read neighbouring positions.
// Bytes: x once per tap and 64 outputs (mostly from the cache), dy once per 64 weights, the parts once.
// Operations: 2 per product. Per position a thread reads 3 vec4 of workgroup memory for 32 multiply-adds.

// The elements of four outputs of dy at a position: (image, row, column). Past the last output that one again, which is not
// written.
fn read_outputs(at: vec3<u32>, group: u32, output: u32) -> vec4<f32> {
    let positions = params.output_height * params.output_width;
    let outputs = min(vec4<u32>(output) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.outputs - 1u));
    let planes = vec4<u32>((at.x * params.groups + group) * params.outputs) + outputs;
    let places = planes * positions + at.y * params.output_width + at.z;
    return vec4<f32>(dy[places.x], dy[places.y], dy[places.z], dy[places.w]);
}

// The pixel that a position meets under a tap; 0 in the padding.
fn read_pixel(at: vec3<u32>, group: u32, tap: Tap) -> f32 {
    let start = image_row(at.x * params.groups + group, at.y, tap);
    let column = at.z * params.stride_width + tap.column - params.padding_width;
    if start == NOWHERE || column >= params.input_width {
        return 0.0;
    }
    return x[start + column];
}

// Writes four weights of one output.
fn store(start: u32, output: u32, index: u32, sums: vec4<f32>) {
    if output >= params.outputs {
        return;
    }
    let depth = params.channels * params.kernel_height * params.kernel_width;
    for (var own = 0u; own < 4u; own++) {
        if index + own < depth {
            parts[start + output * depth + index + own] = sums[own];
        }
    }
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let depth = params.channels * params.kernel_height * params.kernel_width;
    let depth_tiles = (depth + TILE - 1u) / TILE;
    let output_tiles = (params.outputs + TILE - 1u) / TILE;
    let number = workgroup_number(id, count);
    let strip = number / depth_tiles;
    let plane = strip / output_tiles;
    let part = plane / params.groups;
    if part >= params.parts {
        return;
    }
    let group = plane % params.groups;
    let output = strip % output_tiles * TILE;
    let index = number % depth_tiles * TILE;
    let first = part * params.part_rows * params.output_width;
    let end = min((part + 1u) * params.part_rows, params.batch * params.output_height) * params.output_width;

    // What a thread reads: one position of four outputs and of four weights.
    let own_step = lane % DEPTH;
    let own_output = output + lane / DEPTH * 4u;
    let own_index = index + lane / DEPTH * 4u;
    let taps = array<Tap, 4>(tap_of(own_index), tap_of(own_index + 1u), tap_of(own_index + 2u), tap_of(own_index + 3u));
    let slot = own_step * PITCH + lane / DEPTH;
    let sizes = vec2<u32>(params.output_height, params.output_width);
    let ahead = digits(DEPTH, sizes);
    var at = digits(first + own_step, sizes);

    // Eight outputs, of each the four weights.
    var sums: array<vec4<f32>, 8>;
    var next_a = vec4<f32>();
    var next_b = vec4<f32>();
    // One round more than there are tiles: each reads the tile that the next one multiplies.
    for (var position = first; position < end + DEPTH; position += DEPTH) {
        // The tiles of the previous step have been multiplied.
        workgroupBarrier();
        tile_a[slot] = next_a;
        tile_b[slot] = next_b;
        workgroupBarrier();
        next_a = vec4<f32>();
        next_b = vec4<f32>();
        if position + own_step < end {
            next_a = read_outputs(at, group, own_output);
            next_b = vec4<f32>(
                read_pixel(at, group, taps[0]),
                read_pixel(at, group, taps[1]),
                read_pixel(at, group, taps[2]),
                read_pixel(at, group, taps[3]),
            );
        }
        at = plus(at, ahead, sizes);
        multiply_tiles(lane, &sums);
    }
    let start = (part * params.groups + group) * params.outputs * depth;
    for (var own = 0u; own < 8u; own++) {
        store(start, output + row_of_sum(lane, own), index + lane % 16u * 4u, sums[own]);
    }
}
