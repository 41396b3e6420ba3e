//! Maxima and means over windows of images, and their gradients.

use rayon::prelude::*;

use super::scratch::{self, Scratch};
use super::simd::simd;
use crate::params::params;
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

/// The sizes of a pooling: x `[planes, input..]`, y `[planes, output..]`, both contiguous; pairs are (height, width).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolGeometry {
    /// Images times channels.
    pub planes: usize,
    /// Size of an image of x.
    pub input: [usize; 2],
    /// Size of an image of y.
    pub output: [usize; 2],
    /// Size of a window.
    pub kernel: [usize; 2],
    /// Distance of neighbouring windows.
    pub stride: [usize; 2],
    /// Pixels around an image on each side: they are no maximum, and zeros of a mean.
    pub padding: [usize; 2],
    /// Distance of neighbouring pixels of a window: 1 for means.
    pub dilation: [usize; 2],
    /// Whether a mean counts the padding.
    pub count_padding: bool,
    /// Whether the windows of a mean follow from the sizes of x and y alone.
    pub adaptive: bool,
}

params! {
    /// The uniform of the pooling shaders.
    pub struct PoolParams {
        planes: u32, input_height: u32, input_width: u32, output_height: u32, output_width: u32,
        kernel_height: u32, kernel_width: u32, stride_height: u32, stride_width: u32,
        padding_height: u32, padding_width: u32, dilation_height: u32, dilation_width: u32,
        count_padding: u32, adaptive: u32,
    }
}

/// Elements of x that a thread takes at a time, at least.
const ELEMENTS: usize = 16 * 1024;

/// The pixels of one axis that a window of a mean covers, and by how much its sum is divided.
#[derive(Clone, Copy)]
struct Window {
    start: usize,
    end: usize,
    count: usize,
}

impl PoolGeometry {
    /// Pixels of a plane of x.
    pub fn pixels(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Elements of a plane of y.
    pub fn positions(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Whether the numbers go together: nothing to divide by is 0, and no window begins behind the image.
    fn is_sound(&self) -> bool {
        (0..2).all(|axis| {
            // An adaptive window has neither stride nor kernel.
            let last = self.output[axis].saturating_sub(1) * self.stride[axis];
            let sizes =
                [self.input[axis], self.output[axis], self.kernel[axis], self.stride[axis], self.dilation[axis]];
            !sizes.contains(&0) && (self.adaptive || last < self.input[axis] + self.padding[axis])
        })
    }

    fn fits(&self, input: usize, output: usize) -> Result<(), &'static str> {
        let inside = self.planes * self.pixels() <= input && self.planes * self.positions() <= output;
        if self.is_sound() && inside { Ok(()) } else { Err("an operand of a pooling leaves its slice") }
    }

    fn window(&self, axis: usize, at: usize) -> Window {
        let (input, output) = (self.input[axis], self.output[axis]);
        if self.adaptive {
            let (start, end) = (at * input / output, ((at + 1) * input).div_ceil(output));
            return Window { start, end, count: end - start };
        }
        let padding = self.padding[axis];
        let first = at * self.stride[axis];
        let last = (first + self.kernel[axis]).min(input + 2 * padding);
        let (start, end) = (first.saturating_sub(padding), last.saturating_sub(padding).min(input));
        Window { start, end, count: if self.count_padding { last - first } else { end.saturating_sub(start) } }
    }

    /// Planes a thread takes at a time, at least.
    fn least(&self) -> usize {
        (ELEMENTS / self.pixels().max(1)).max(1)
    }

    fn dispatch(&self, name: &'static str, threads: usize, gpu: &GpuTraits) -> Option<Dispatch> {
        let params = PoolParams {
            planes: self.planes as u32,
            input_height: self.input[0] as u32,
            input_width: self.input[1] as u32,
            output_height: self.output[0] as u32,
            output_width: self.output[1] as u32,
            kernel_height: self.kernel[0] as u32,
            kernel_width: self.kernel[1] as u32,
            stride_height: self.stride[0] as u32,
            stride_width: self.stride[1] as u32,
            padding_height: self.padding[0] as u32,
            padding_width: self.padding[1] as u32,
            dilation_height: self.dilation[0] as u32,
            dilation_width: self.dilation[1] as u32,
            count_padding: u32::from(self.count_padding),
            adaptive: u32::from(self.adaptive),
        };
        let shader = Shader::File { name, constants: vec![] };
        let workgroups = gpu.grid((self.planes * threads).div_ceil(64));
        (self.planes * threads > 0).then(|| Dispatch { shader, params: params.words(), workgroups })
    }
}

/// Where a window has no pixel.
const NOWHERE: u32 = u32::MAX;

simd! {
    /// Takes the pixels that are larger than the best so far, of all windows of a plane under one tap: the first of
    /// equals; a NaN is larger than any number, and nothing than a NaN. Without branches, so that it becomes vector code.
    fn take_larger(pixels: &[f32], corners: &[u32], ahead: u32, best: &mut [f32], places: &mut [u32]) {
        for (((pixel, corner), best), place) in pixels.iter().zip(corners).zip(best).zip(places) {
            let larger = (*pixel > *best) | (pixel.is_nan() & !best.is_nan());
            *place = if larger { corner.wrapping_add(ahead) } else { *place };
            *best = if larger { *pixel } else { *best };
        }
    }
}

/// Places of the windows' first pixels, from the image's corner; they wrap around where those are in the padding.
fn corners(g: &PoolGeometry) -> Scratch<u32> {
    let place = |row: usize, column: usize| {
        let row = (row * g.stride[0]).wrapping_sub(g.padding[0]);
        row.wrapping_mul(g.input[1]).wrapping_add(column * g.stride[1]).wrapping_sub(g.padding[1]) as u32
    };
    let width = g.output[1];
    scratch::filled((0..g.output[0] * width).map(|at| place(at / width, at % width)))
}

/// The pixels of all windows of a plane under the tap that is so many rows and columns ahead; minus infinity in the
/// padding.
fn tap_pixels(g: &PoolGeometry, x: &[f32], ahead: [usize; 2], pixels: &mut [f32]) {
    let (width, stride) = (g.output[1], g.stride[1]);
    let first = g.padding[1].saturating_sub(ahead[1]).div_ceil(stride).min(width);
    let last = (g.input[1] + g.padding[1]).saturating_sub(ahead[1]).div_ceil(stride).clamp(first, width);
    for (out_row, line) in pixels.chunks_exact_mut(width).enumerate() {
        let row = (out_row * g.stride[0] + ahead[0]).wrapping_sub(g.padding[0]);
        if row >= g.input[0] || first == last {
            line.fill(f32::NEG_INFINITY);
            continue;
        }
        line[..first].fill(f32::NEG_INFINITY);
        line[last..].fill(f32::NEG_INFINITY);
        let source = &x[row * g.input[1]..(row + 1) * g.input[1]][first * stride + ahead[1] - g.padding[1]..];
        let line = &mut line[first..last];
        match stride {
            1 => line.copy_from_slice(&source[..last - first]),
            2 => line.iter_mut().zip(source.chunks(2)).for_each(|(pixel, pair)| *pixel = pair[0]),
            _ => line.iter_mut().zip(source.iter().step_by(stride)).for_each(|(pixel, value)| *pixel = *value),
        }
    }
}

/// The first place of a window inside the image.
fn first_place(g: &PoolGeometry, window: usize) -> Option<u32> {
    let (row, column) = (window / g.output[1] * g.stride[0], window % g.output[1] * g.stride[1]);
    (0..g.kernel[0] * g.kernel[1]).find_map(|tap| {
        let row = (row + tap / g.kernel[1] * g.dilation[0]).wrapping_sub(g.padding[0]);
        let column = (column + tap % g.kernel[1] * g.dilation[1]).wrapping_sub(g.padding[1]);
        (row < g.input[0] && column < g.input[1]).then(|| (row * g.input[1] + column) as u32)
    })
}

/// The largest pixels of a plane's windows, and their places.
fn max_plane(g: &PoolGeometry, corners: &[u32], x: &[f32], y: &mut [f32], places: &mut [u32], pixels: &mut [f32]) {
    y.fill(f32::NEG_INFINITY);
    places.fill(NOWHERE);
    for tap in 0..g.kernel[0] * g.kernel[1] {
        let ahead = [tap / g.kernel[1] * g.dilation[0], tap % g.kernel[1] * g.dilation[1]];
        tap_pixels(g, x, ahead, pixels);
        take_larger(pixels, corners, (ahead[0] * g.input[1] + ahead[1]) as u32, y, places);
    }
    // Windows of nothing but minus infinity.
    for (window, place) in places.iter_mut().enumerate().filter(|(_, place)| **place == NOWHERE) {
        *place = first_place(g, window).unwrap_or(NOWHERE);
    }
}

/// y = the largest pixel of each window, NaN where one is. Input: x. Outputs: y; the place of that pixel in its plane,
/// the first of equals, as u32.
#[derive(Clone, Debug)]
pub struct MaxPool(pub PoolGeometry);

impl Kernel for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (&[x], &[y, places]) = (inputs, outputs) else { return Err("max_pool2d has one input and two outputs") };
        self.0.fits(x, y.min(places))
    }

    fn run(&self, args: &mut Args<'_>) {
        let g = &self.0;
        let (pixels, positions) = (g.pixels(), g.positions());
        let x = &args.input::<f32>(0)[..g.planes * pixels];
        let [y, places] = &mut args.outputs[..] else { return };
        let y: &mut [f32] = bytemuck::cast_slice_mut(&mut y[..g.planes * positions]);
        let outputs = y.par_chunks_mut(positions).zip(places[..g.planes * positions].par_chunks_mut(positions));
        let corners = corners(g);
        let outputs = outputs.with_min_len(g.least()).zip(x.par_chunks(pixels));
        let quarters = g.is_quarters();
        let buffer = || scratch::take(if quarters { 4 * positions } else { positions });
        outputs.for_each_init(buffer, |buffer, ((y, places), x)| match quarters {
            true => max_quarters(g, &corners, x, y, places, buffer),
            false => max_plane(g, &corners, x, y, places, buffer),
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        self.0.dispatch("max_pool2d", self.0.positions(), gpu)
    }
}

impl PoolGeometry {
    /// Whether the windows are 2 x 2, side by side, and cover the image.
    fn is_quarters(&self) -> bool {
        let (input, output) = (self.input, self.output);
        let plain = self.padding == [0, 0] && self.dilation == [1, 1] && self.stride == [2, 2];
        plain && self.kernel == [2, 2] && input == output.map(|size| 2 * size)
    }
}

/// Columns of a row that are handled at a time.
const FEW: usize = 4;

simd! {
    /// The larger pixel of each pair of rows, the upper of equals, and whether it is the lower one (1 or 0): rows of `width` pixels
    /// become rows without gaps.
    fn larger_of_rows(x: &[f32], width: usize, best: &mut [f32], lower: &mut [u32]) {
        #[inline(always)]
        fn choose(upper: f32, below: f32, best: &mut f32, lower: &mut u32) {
            let larger = (below > upper) | (below.is_nan() & !upper.is_nan());
            *best = if larger { below } else { upper };
            *lower = u32::from(larger);
        }
        let rows = best.chunks_exact_mut(width).zip(lower.chunks_exact_mut(width));
        for (pair, (best, lower)) in x.chunks_exact(2 * width).zip(rows) {
            let (upper, below) = pair.split_at(width);
            let ((uppers, upper), (belows, below)) = (upper.as_chunks::<FEW>(), below.as_chunks::<FEW>());
            let ((bests, best), (lowers, lower)) = (best.as_chunks_mut::<FEW>(), lower.as_chunks_mut::<FEW>());
            for (((upper, below), best), lower) in uppers.iter().zip(belows).zip(bests).zip(lowers) {
                for at in 0..FEW {
                    choose(upper[at], below[at], &mut best[at], &mut lower[at]);
                }
            }
            for at in 0..upper.len() {
                choose(upper[at], below[at], &mut best[at], &mut lower[at]);
            }
        }
    }
}

simd! {
    /// The larger of each two neighbours, of equals the one that comes first in its window, and its place.
    fn larger_of_pairs(best: &[f32], lower: &[u32], corners: &[u32], width: u32, y: &mut [f32], places: &mut [u32]) {
        let count = y.len();
        let (best, lower, corners) = (&best[..2 * count], &lower[..2 * count], &corners[..count]);
        let places = &mut places[..count];
        for at in 0..count {
            let (left, right) = (best[2 * at], best[2 * at + 1]);
            let (left_lower, right_lower) = (lower[2 * at], lower[2 * at + 1]);
            let same = (left == right) | (left.is_nan() & right.is_nan());
            // The upper right pixel comes before the lower left one.
            let first = same & (left_lower > right_lower);
            let larger = (right > left) | (right.is_nan() & !left.is_nan()) | first;
            y[at] = if larger { right } else { left };
            places[at] = corners[at] + if larger { 1 + width * right_lower } else { width * left_lower };
        }
    }
}

/// Windows of a row that are handled at a time, going backward.
const MANY: usize = 16;

/// The two pixels of each window in one row of the image, as one word: the gradient where the maximum is, 0 where it is not.
/// `corner` is the place of the first one.
#[inline(always)]
fn give_back<const N: usize>(places: &[u32; N], dy: &[f32; N], corner: u32) -> [u64; N] {
    std::array::from_fn(|at| {
        let (place, dy) = (places[at].wrapping_sub(corner + 2 * at as u32), u64::from(dy[at].to_bits()));
        // Without branches, so that it becomes vector code; in memory the left pixel comes first.
        let (left, right) = (u64::from(place == 0).wrapping_neg(), u64::from(place == 1).wrapping_neg());
        (dy & left | (dy << 32) & right).to_le()
    })
}

simd! {
    /// dx of a plane whose windows are quarters, `width` in a row: every pixel is written. Whole vectors at a time, as far as they
    /// go: what a row writes too much, the next one overwrites.
    fn spread_quarters(places: &[u32], dy: &[f32], width: usize, dx: &mut [f32]) {
        let (dx, _) = dx.as_chunks_mut::<2>();
        for (row, start) in (0..dy.len()).step_by(width).enumerate() {
            for line in [2 * row, 2 * row + 1] {
                let corner = (line * 2 * width) as u32;
                let mut first = 0;
                while first < width {
                    let (places, dy) = (&places[start + first..], &dy[start + first..]);
                    let (pixels, corner) = (&mut dx[line * width + first..], corner + 2 * first as u32);
                    let whole = (places.first_chunk::<MANY>(), dy.first_chunk::<MANY>(), pixels.first_chunk_mut::<MANY>());
                    if let (Some(places), Some(dy), Some(pixels)) = whole {
                        *pixels = bytemuck::cast(give_back(places, dy, corner));
                        first += MANY;
                    } else {
                        pixels[0] = bytemuck::cast(give_back(&[places[0]], &[dy[0]], corner)[0]);
                        first += 1;
                    }
                }
            }
        }
    }
}

/// As [`max_plane`], of windows that are quarters: the plane as a whole, because its rows are too short for vectors.
fn max_quarters(g: &PoolGeometry, corners: &[u32], x: &[f32], y: &mut [f32], places: &mut [u32], pixels: &mut [f32]) {
    let (best, lower) = pixels.split_at_mut(2 * y.len());
    let lower: &mut [u32] = bytemuck::cast_slice_mut(&mut lower[..2 * y.len()]);
    larger_of_rows(x, g.input[1], best, lower);
    larger_of_pairs(best, lower, corners, g.input[1] as u32, y, places);
}

/// dx of [`MaxPool`]: each place adds up, in order, the gradients of the windows whose maximum it is. Inputs: places, dy;
/// output: dx.
#[derive(Clone, Debug)]
pub struct MaxPoolBackward(pub PoolGeometry);

impl Kernel for MaxPoolBackward {
    fn name(&self) -> &'static str {
        "max_pool2d_backward"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (&[places, dy], &[dx]) = (inputs, outputs) else { return Err("two inputs and one output") };
        self.0.fits(dx, dy.min(places))
    }

    fn run(&self, args: &mut Args<'_>) {
        let g = &self.0;
        let (pixels, positions) = (g.pixels(), g.positions());
        let (places, dy) = (args.input::<u32>(0), args.input::<f32>(1));
        let dx = &mut args.output::<f32>(0)[..g.planes * pixels];
        let inputs = places.par_chunks(positions).zip(dy.par_chunks(positions));
        let planes = dx.par_chunks_mut(pixels).with_min_len(g.least()).zip(inputs);
        if g.is_quarters() {
            return planes.for_each(|(dx, (places, dy))| spread_quarters(places, dy, g.output[1], dx));
        }
        planes.for_each(|(dx, (places, dy))| {
            dx.fill(0.0);
            for (place, dy) in places.iter().zip(dy) {
                if let Some(dx) = dx.get_mut(*place as usize) {
                    *dx += *dy;
                }
            }
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        self.0.dispatch("max_pool2d_backward", self.0.pixels(), gpu)
    }
}

/// y = the pixel of x at each place, 0 where a window has none: what [`MaxPoolBackward`] is the transpose of. Inputs:
/// places, x; output: y.
#[derive(Clone, Debug)]
pub struct MaxPoolGather(pub PoolGeometry);

impl Kernel for MaxPoolGather {
    fn name(&self) -> &'static str {
        "max_pool2d_gather"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (&[places, x], &[y]) = (inputs, outputs) else { return Err("two inputs and one output") };
        self.0.fits(x, y.min(places))
    }

    fn run(&self, args: &mut Args<'_>) {
        let g = &self.0;
        let (pixels, positions) = (g.pixels(), g.positions());
        let (places, x) = (args.input::<u32>(0), args.input::<f32>(1));
        let y = &mut args.output::<f32>(0)[..g.planes * positions];
        let inputs = places.par_chunks(positions).zip(x.par_chunks(pixels));
        y.par_chunks_mut(positions).with_min_len(g.least()).zip(inputs).for_each(|(y, (places, x))| {
            for (y, place) in y.iter_mut().zip(places) {
                *y = x.get(*place as usize).copied().unwrap_or(0.0);
            }
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        self.0.dispatch("max_pool2d_gather", self.0.positions(), gpu)
    }
}

simd! {
    /// to += from
    fn add_row(from: &[f32], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to += *from;
        }
    }
}

/// y = the mean of each window. Input: x; output: y.
#[derive(Clone, Debug)]
pub struct AvgPool(pub PoolGeometry);

impl AvgPool {
    /// Rows of a window are added up as a whole, so that the work runs along the image's rows.
    fn plane(&self, x: &[f32], y: &mut [f32]) {
        let (g, width) = (&self.0, self.0.input[1]);
        let mut sums = scratch::take(width);
        for (out_row, y) in y.chunks_exact_mut(g.output[1]).enumerate() {
            let rows = g.window(0, out_row);
            sums.fill(0.0);
            (rows.start..rows.end).for_each(|row| add_row(&x[row * width..(row + 1) * width], &mut sums));
            for (out_column, y) in y.iter_mut().enumerate() {
                let columns = g.window(1, out_column);
                let sum: f32 = sums[columns.start..columns.end.max(columns.start)].iter().sum();
                *y = sum / (rows.count * columns.count) as f32;
            }
        }
    }
}

impl Kernel for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (&[x], &[y]) = (inputs, outputs) else { return Err("avg_pool2d has one input and one output") };
        self.0.fits(x, y)
    }

    fn run(&self, args: &mut Args<'_>) {
        let g = &self.0;
        let (pixels, positions) = (g.pixels(), g.positions());
        let x = &args.input::<f32>(0)[..g.planes * pixels];
        let y = &mut args.output::<f32>(0)[..g.planes * positions];
        y.par_chunks_mut(positions).with_min_len(g.least()).zip(x.par_chunks(pixels)).for_each(|(y, x)| {
            self.plane(x, y);
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        self.0.dispatch("avg_pool2d", self.0.positions(), gpu)
    }
}

/// dx of [`AvgPool`]: each pixel adds up its shares in the order of the windows. Input: dy; output: dx.
#[derive(Clone, Debug)]
pub struct AvgPoolBackward(pub PoolGeometry);

impl AvgPoolBackward {
    fn plane(&self, dy: &[f32], dx: &mut [f32]) {
        let (g, width) = (&self.0, self.0.input[1]);
        let mut shares = scratch::take(width);
        dx.fill(0.0);
        for (out_row, dy) in dy.chunks_exact(g.output[1]).enumerate() {
            let rows = g.window(0, out_row);
            shares.fill(0.0);
            for (out_column, dy) in dy.iter().enumerate() {
                let columns = g.window(1, out_column);
                let share = *dy / (rows.count * columns.count) as f32;
                shares[columns.start..columns.end.max(columns.start)].iter_mut().for_each(|sum| *sum += share);
            }
            (rows.start..rows.end).for_each(|row| add_row(&shares, &mut dx[row * width..(row + 1) * width]));
        }
    }
}

impl Kernel for AvgPoolBackward {
    fn name(&self) -> &'static str {
        "avg_pool2d_backward"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (&[dy], &[dx]) = (inputs, outputs) else { return Err("one input and one output") };
        self.0.fits(dx, dy)
    }

    fn run(&self, args: &mut Args<'_>) {
        let g = &self.0;
        let (pixels, positions) = (g.pixels(), g.positions());
        let dy = &args.input::<f32>(0)[..g.planes * positions];
        let dx = &mut args.output::<f32>(0)[..g.planes * pixels];
        dx.par_chunks_mut(pixels).with_min_len(g.least()).zip(dy.par_chunks(positions)).for_each(|(dx, dy)| {
            self.plane(dy, dx);
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        self.0.dispatch("avg_pool2d_backward", self.0.pixels(), gpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::limit::on_each_level;

    /// The windows of quarters give the bits and places that any windows give, with ties, both zeros, infinities and NaN.
    #[test]
    fn quarters_are_windows_like_others() {
        let some = [0.0, -0.0, 1.0, -1.0, 2.0, f32::NEG_INFINITY, f32::INFINITY, f32::from_bits(0x7fc0_0123)];
        for output in [[1, 1], [3, 5], [14, 14], [7, 33]] {
            let g = PoolGeometry {
                planes: 1,
                input: output.map(|size| 2 * size),
                output,
                kernel: [2, 2],
                stride: [2, 2],
                padding: [0, 0],
                dilation: [1, 1],
                count_padding: false,
                adaptive: false,
            };
            assert!(g.is_quarters());
            let (positions, corners) = (g.positions(), corners(&g));
            let mut state = 1u32;
            let mut draw = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                some[(state >> 24) as usize % some.len()]
            };
            let x: Vec<f32> = (0..g.pixels()).map(|_| draw()).collect();
            let run = |quarters: bool| {
                let (mut y, mut places) = (vec![9.0f32; positions], vec![9u32; positions]);
                let mut buffer = vec![9.0f32; 4 * positions];
                match quarters {
                    true => max_quarters(&g, &corners, &x, &mut y, &mut places, &mut buffer),
                    false => max_plane(&g, &corners, &x, &mut y, &mut places, &mut buffer[..positions]),
                }
                (y.into_iter().map(f32::to_bits).collect::<Vec<_>>(), places)
            };
            let expected = run(false);
            for (level, found) in on_each_level(|| run(true)) {
                assert_eq!(found, expected, "{output:?} {level:?}");
            }
            let dy: Vec<f32> = (0..positions).map(|at| at as f32 + 1.0).collect();
            let mut scattered = vec![0.0; g.pixels()];
            expected.1.iter().zip(&dy).for_each(|(place, dy)| scattered[*place as usize] += *dy);
            let spread = on_each_level(|| {
                let mut dx = vec![9.0; g.pixels()];
                spread_quarters(&expected.1, &dy, output[1], &mut dx);
                dx
            });
            for (level, dx) in spread {
                assert_eq!(dx, scattered, "{output:?} {level:?}");
            }
        }
    }
}
