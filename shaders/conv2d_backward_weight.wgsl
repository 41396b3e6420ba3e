// uses: shared/convolution_weight, shared/index

// The gradient of a convolution's weight, in parts whose sum it is: part i adds up the rows of dy from i * part_rows on,
// where row b * height + h is row h of image b. A second kernel adds the parts, so that the order of summation is fixed. This
// one is for few outputs; conv2d_backward_weight_tiles.wgsl and conv2d_backward_weight_lanes.wgsl are for more.
//
// Shapes: x [batch, groups, channels, height, width], dy [batch, groups, outputs, height, width], parts [parts, groups,
// outputs, channels, kernel height, kernel width], contiguous.
// Threads: a workgroup of 64 computes 256 weights of each of 4 outputs; a thread 4 weights, 64 apart, of 4 outputs in
// registers. All threads of a workgroup read the same dy. Each row of dy is a partial sum of its own.
// Bytes: x once per tap and 4 outputs, dy once per 256 weights (mostly from the cache), the parts once.
// Operations: 2 per product; 16 multiply-adds per 8 reads.
// llvmpipe ends a thread's loops after 65,535 rounds, without a word: the host makes parts small enough.

// The pixel that column `column` of dy meets under a tap; 0 in the padding.
fn value(start: u32, column: u32, tap: Tap) -> f32 {
    let at = column * params.stride_width + tap.column - params.padding_width;
    if start == NOWHERE || at >= params.input_width {
        return 0.0;
    }
    return x[start + at];
}

// Writes four weights of one output.
fn store(part: u32, group: u32, output: u32, index: u32, sums: vec4<f32>) {
    if output >= params.outputs {
        return;
    }
    let depth = params.channels * params.kernel_height * params.kernel_width;
    let start = ((part * params.groups + group) * params.outputs + output) * depth;
    if index < depth {
        parts[start + index] = sums.x;
    }
    if index + 64u < depth {
        parts[start + index + 64u] = sums.y;
    }
    if index + 128u < depth {
        parts[start + index + 128u] = sums.z;
    }
    if index + 192u < depth {
        parts[start + index + 192u] = sums.w;
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let depth_parts = (params.channels * params.kernel_height * params.kernel_width + 255u) / 256u;
    let output_parts = (params.outputs + 3u) / 4u;
    let number = workgroup_number(id, count);
    let strip = number / depth_parts;
    let plane_part = strip / output_parts;
    let part = plane_part / params.groups;
    if part >= params.parts {
        return;
    }
    let group = plane_part % params.groups;
    let output = strip % output_parts * 4u;
    let index = number % depth_parts * 256u + lane;
    let tap0 = tap_of(index);
    let tap1 = tap_of(index + 64u);
    let tap2 = tap_of(index + 128u);
    let tap3 = tap_of(index + 192u);
    // Past the last output its own gradients again, whose sums are not written.
    let outputs = min(vec4<u32>(output) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.outputs - 1u));
    let positions = params.output_height * params.output_width;

    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    let end = min((part + 1u) * params.part_rows, params.batch * params.output_height);
    for (var line = part * params.part_rows; line < end; line += 1u) {
        let plane = line / params.output_height * params.groups + group;
        let row = line % params.output_height;
        let start0 = image_row(plane, row, tap0);
        let start1 = image_row(plane, row, tap1);
        let start2 = image_row(plane, row, tap2);
        let start3 = image_row(plane, row, tap3);
        let start = (vec4<u32>(plane * params.outputs) + outputs) * positions + row * params.output_width;
        var row0 = vec4<f32>();
        var row1 = vec4<f32>();
        var row2 = vec4<f32>();
        var row3 = vec4<f32>();
        for (var column = 0u; column < params.output_width; column += 1u) {
            let pixels = vec4<f32>(
                value(start0, column, tap0),
                value(start1, column, tap1),
                value(start2, column, tap2),
                value(start3, column, tap3),
            );
            row0 += dy[start.x + column] * pixels;
            row1 += dy[start.y + column] * pixels;
            row2 += dy[start.z + column] * pixels;
            row3 += dy[start.w + column] * pixels;
        }
        sum0 += row0;
        sum1 += row1;
        sum2 += row2;
        sum3 += row3;
    }
    store(part, group, output, index, sum0);
    store(part, group, output + 1u, index, sum1);
    store(part, group, output + 2u, index, sum2);
    store(part, group, output + 3u, index, sum3);
}
