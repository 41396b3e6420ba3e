// What the pooling kernels have in common: parameters, and which pixels a window covers.

struct Params {
    planes: u32, // images times channels
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
    dilation_height: u32, // of max_pool2d alone
    dilation_width: u32,
    count_padding: u32, // 1: an average counts the zeros around the image
    adaptive: u32, // 1: windows follow from the sizes alone
}

// The place of the maximum of a window that has no pixel.
const NOWHERE: u32 = 0xffffffffu;

// The pixels of one axis that a window of an average covers, and by how much its sum is divided.
struct Window {
    start: u32,
    end: u32,
    count: u32,
}

fn window(at: u32, kernel: u32, stride: u32, padding: u32, input: u32, output: u32) -> Window {
    if params.adaptive == 1u {
        let start = at * input / output;
        let end = ((at + 1u) * input + output - 1u) / output;
        return Window(start, end, end - start);
    }
    // Counted from the padding's edge.
    let first = at * stride;
    let last = min(first + kernel, input + 2u * padding);
    let start = max(first, padding) - padding;
    let end = min(max(last, padding) - padding, input);
    return Window(start, end, select(end - start, last - first, params.count_padding == 1u));
}

// The outputs of one axis whose windows reach over `at`: the first, and one past the last. `extent` is the pixels from a
// window's first to its last.
fn reached(at: u32, extent: u32, stride: u32, padding: u32, input: u32, output: u32) -> vec2<u32> {
    if params.adaptive == 1u {
        return vec2<u32>(at * output / input, ((at + 1u) * output + input - 1u) / input);
    }
    let place = at + padding;
    let first = select((place + stride - extent) / stride, 0u, place < extent);
    return vec2<u32>(first, min(place / stride + 1u, output));
}
