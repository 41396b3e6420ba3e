// uses: shared/convolution_weight, shared/index

// conv2d_backward_weight.wgsl for drivers in software that run 8 threads in the lanes of a processor's vector, as
// conv2d_lanes.wgsl: lanes lie along weights, and an element of dy, which all of them need, is loaded by one lane and broadcast.
//
// Shapes: those of conv2d_backward_weight.wgsl.
// Threads: a workgroup of 32 computes 128 weights of each of 32 outputs; a thread 4 weights, one behind the other, of all 32.
// Subgroups have 8 threads.
// Bytes: x once per tap and 32 outputs, dy once per 128 weights (from the cache), the parts once.
// Operations: 2 per product. Per 4 positions a thread loads 16 elements of x and 16 of dy for 512 multiply-adds.
// llvmpipe ends a thread's loops after 65,535 rounds, without a word: the host makes parts small enough.

// 1: the rows of dy are no multiple of 4.
override TAIL: u32 = 0u;

const ROWS: u32 = 32u;
// A thread loads elements of one of two outputs: 4 positions for each.
const PAIRS: u32 = 16u;

// The pixels that column `column` of dy meets under four taps; zeros in the padding, and past the last column.
fn pixels_of(starts: vec4<u32>, columns: vec4<u32>, column: u32) -> vec4<f32> {
    let at = columns + column * params.stride_width;
    var inside = (starts != vec4<u32>(NOWHERE)) & (at < vec4<u32>(params.input_width));
    if TAIL == 1u {
        inside &= vec4<bool>(column < params.output_width);
    }
    let places = select(vec4<u32>(), starts + at, inside);
    return select(vec4<f32>(), vec4<f32>(x[places.x], x[places.y], x[places.z], x[places.w]), inside);
}

// Writes a weight of one output.
fn store(start: u32, index: u32, sum: f32) {
    if index < params.channels * params.kernel_height * params.kernel_width {
        parts[start + index] = sum;
    }
}

@compute @workgroup_size(32)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) neighbour: u32,
) {
    let depth = params.channels * params.kernel_height * params.kernel_width;
    let depth_parts = (depth + 127u) / 128u;
    let output_parts = (params.outputs + ROWS - 1u) / ROWS;
    let number = workgroup_number(id, count);
    let strip = number / depth_parts;
    let plane_part = strip / output_parts;
    let part = plane_part / params.groups;
    if part >= params.parts {
        return;
    }
    let group = plane_part % params.groups;
    let output = strip % output_parts * ROWS;
    let index = (number % depth_parts * 32u + lane) * 4u;
    let taps = array<Tap, 4>(tap_of(index), tap_of(index + 1u), tap_of(index + 2u), tap_of(index + 3u));
    let columns = vec4<u32>(taps[0].column, taps[1].column, taps[2].column, taps[3].column) - params.padding_width;
    let positions = params.output_height * params.output_width;
    let step = neighbour % 4u;
    var outputs: array<u32, PAIRS>;
    for (var pair = 0u; pair < PAIRS; pair++) {
        outputs[pair] = min(output + 2u * pair + neighbour / 4u, params.outputs - 1u) * positions;
    }
    var sums: array<vec4<f32>, ROWS>;
    let first = part * params.part_rows;
    // Where all threads of a subgroup are past the last weight, there is nothing to do.
    let last = min(first + params.part_rows, params.batch * params.output_height);
    let end = select(0u, last, index - 4u * neighbour < depth);
    for (var line = first; line < end; line += 1u) {
        let plane = line / params.output_height * params.groups + group;
        let row = line % params.output_height;
        let starts = vec4<u32>(
            image_row(plane, row, taps[0]),
            image_row(plane, row, taps[1]),
            image_row(plane, row, taps[2]),
            image_row(plane, row, taps[3]),
        );
        let line_start = plane * params.outputs * positions + row * params.output_width;
        for (var column = 0u; column < params.output_width; column += 4u) {
            let x0 = pixels_of(starts, columns, column);
            let x1 = pixels_of(starts, columns, column + 1u);
            let x2 = pixels_of(starts, columns, column + 2u);
            let x3 = pixels_of(starts, columns, column + 3u);
            var own = column + step;
            if TAIL == 1u {
                own = min(own, params.output_width - 1u);
            }
            for (var pair = 0u; pair < PAIRS; pair++) {
                // The broadcasts are of lanes by number: all of them are active, as the loops' ends are the same for all.
                var g = dy[outputs[pair] + line_start + own];
                if TAIL == 1u {
                    g = select(0.0, g, column + step < params.output_width);
                }
                var sum = sums[2u * pair];
                sum = fma(vec4<f32>(subgroupBroadcast(g, 0u)), x0, sum);
                sum = fma(vec4<f32>(subgroupBroadcast(g, 1u)), x1, sum);
                sum = fma(vec4<f32>(subgroupBroadcast(g, 2u)), x2, sum);
                sums[2u * pair] = fma(vec4<f32>(subgroupBroadcast(g, 3u)), x3, sum);
                sum = sums[2u * pair + 1u];
                sum = fma(vec4<f32>(subgroupBroadcast(g, 4u)), x0, sum);
                sum = fma(vec4<f32>(subgroupBroadcast(g, 5u)), x1, sum);
                sum = fma(vec4<f32>(subgroupBroadcast(g, 6u)), x2, sum);
                sums[2u * pair + 1u] = fma(vec4<f32>(subgroupBroadcast(g, 7u)), x3, sum);
            }
        }
    }
    let start = (part * params.groups + group) * params.outputs;
    let stores = (min(params.outputs - output, ROWS) + 7u) / 8u;
    for (var eight = 0u; eight < stores; eight++) {
        for (var own = 0u; own < 8u; own++) {
            var sum = select(sums[own], sums[own + 8u], eight == 1u);
            sum = select(sum, sums[own + 16u], eight == 2u);
            sum = select(sum, sums[own + 24u], eight == 3u);
            // Outputs past the end are the last one again, the same value at the same place by the same thread.
            let to = (start + min(output + eight * 8u + own, params.outputs - 1u)) * depth;
            store(to, index, sum.x);
            store(to, index + 1u, sum.y);
            store(to, index + 2u, sum.z);
            store(to, index + 3u, sum.w);
        }
    }
}
