//! The gradients of a convolution: of its input, and of its weight.

use std::ops::Range;

use rayon::prelude::*;
use smallvec::SmallVec;

use super::conv::{ConvGeometry, ConvParams, SMALL};
use super::conv_direct::{After, Direct, DirectWeight};
use super::conv_lower::{band_size, block_of, blocks, fold, unfold, with_scratch};
use super::matmul::{Matrix, multiply_unpacked};
use super::memory::Writer;
use crate::functions::Activation;
use crate::gpu_tiles::{self, Tiles};
use crate::params::params;
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

/// Rows of columns that a piece of work handles: so many channels of x, times their taps.
const ROWS: usize = 320;

/// The pieces that the channels of x in a group are cut into.
fn channel_blocks(g: &ConvGeometry) -> SmallVec<[Range<usize>; 16]> {
    blocks(0..g.channels, (ROWS / g.taps().max(1)).max(1)).collect()
}

/// dx from dy. Inputs: dy, w, anything (the shader's bias, which is not read); output: dx, in the shapes of
/// [`ConvGeometry`].
#[derive(Clone, Debug)]
pub struct ConvBackwardInput {
    /// The sizes of the forward convolution.
    pub geometry: ConvGeometry,
}

impl ConvBackwardInput {
    /// Some channels of x of a group of an image; `plane` counts both.
    fn planes(&self, plane: usize, channels: Range<usize>, (dy, weight): (&[f32], &[f32]), dx: &mut [f32]) {
        let g = &self.geometry;
        let (depth, rows) = (g.depth(), channels.len() * g.taps());
        let group = plane % g.groups;
        let dy = &dy[plane * g.outputs * g.positions()..(plane + 1) * g.outputs * g.positions()];
        // The transposed weight, from the first of these channels on.
        let weight = &weight[group * g.outputs * depth..(group + 1) * g.outputs * depth];
        let weight = Matrix { values: &weight[(channels.start * g.taps()).min(weight.len())..], row: 1, column: depth };
        if g.is_matrix() {
            let dy = Matrix { values: dy, row: g.positions(), column: 1 };
            return multiply_unpacked((rows, g.positions(), g.outputs), (weight, dy), (dx, g.positions()), false);
        }
        dx.fill(0.0);
        let size = block_of(g.positions());
        with_scratch([rows * size, band_size(g, size), 0], |[columns, band, _]| {
            for range in blocks(0..g.positions(), size) {
                let count = range.len();
                let columns = &mut columns[..rows * count];
                let dy = Matrix { values: &dy[range.start.min(dy.len())..], row: g.positions(), column: 1 };
                multiply_unpacked((rows, count, g.outputs), (weight, dy), (columns, count), false);
                fold(g, columns, range, dx, band);
            }
        });
    }
}

impl Kernel for ConvBackwardInput {
    fn name(&self) -> &'static str {
        "conv2d_backward_input"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (&[dy, weight, _], &[dx]) = (inputs, outputs) else { return Err("three inputs and one output") };
        let g = &self.geometry;
        let inside = g.output_count() <= dy && g.weight_count() <= weight && g.input_count() <= dx;
        if g.is_sound() && inside { Ok(()) } else { Err("an operand of conv2d_backward_input leaves its slice") }
    }

    fn operations(&self) -> u64 {
        self.geometry.operations()
    }

    fn run(&self, args: &mut Args<'_>) {
        let g = &self.geometry;
        let inputs = (args.input::<f32>(0), args.input::<f32>(1));
        let dx = &mut args.output::<f32>(0)[..g.input_count()];
        if dx.is_empty() {
            return;
        }
        if let Some(direct) = Direct::backward(g) {
            return direct.run(inputs.0, inputs.1, After { bias: None, activation: Activation::None }, dx);
        }
        let dx = Writer::new(dx);
        let pieces = channel_blocks(g);
        let work = g.outputs * g.depth() * g.positions() / pieces.len().max(1);
        let tasks = (0..g.batch * g.groups * pieces.len()).into_par_iter();
        tasks.with_min_len((SMALL / work.max(1)).max(1)).for_each(|task| {
            let (plane, channels) = (task / pieces.len(), pieces[task % pieces.len()].clone());
            let start = (plane * g.channels + channels.start) * g.pixels();
            // SAFETY: ranges of channels are disjoint.
            let dx = unsafe { dx.range(start, channels.len() * g.pixels()) };
            self.planes(plane, channels, inputs, dx);
        });
    }

    /// The same shader as the forward pass: it walks over the taps of a position.
    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let constants = [("BIAS", 0), ("ACTIVATION", 0), ("TRANSPOSED", 1)];
        ConvParams::new(&self.geometry, true).dispatch(gpu, constants)
    }
}

params! {
    /// The uniform of `conv2d_backward_weight.wgsl` and its variants.
    pub struct ConvWeightParams {
        batch: u32, groups: u32, channels: u32, outputs: u32,
        input_height: u32, input_width: u32, output_height: u32, output_width: u32,
        kernel_height: u32, kernel_width: u32, stride_height: u32, stride_width: u32,
        padding_height: u32, padding_width: u32, dilation_height: u32, dilation_width: u32,
        parts: u32, part_rows: u32,
    }
}

/// Parts of the gradient of a weight, whose sum it is: part i adds up the rows of dy from `i * part_rows` on, where row
/// `b * height + h` is row h of image b. Inputs: x, dy; output: `[parts, groups outputs, channels, kernel..]`.
#[derive(Clone, Debug)]
pub struct ConvBackwardWeight {
    geometry: ConvGeometry,
    part_rows: usize,
}

/// Positions of a block of columns here, where they are what a product adds up: long sums, still within a cache.
const WEIGHT_BLOCK: usize = 256;
/// Elements of an image that are fetched while another one is added: no more than stay in a second-level cache.
const FETCHED: usize = 1 << 17;
/// The most parts: work for so many threads where the channels alone are none.
const PARTS: usize = 16;
/// Elements that all parts together may have, beyond those of one.
const PART_ELEMENTS: usize = 1 << 21;
/// Elements of dy that a part may add up: llvmpipe ends a thread's loops after 65,535 rounds.
const PART_POSITIONS: usize = 48 * 1024;

impl ConvBackwardWeight {
    /// Cuts the sum into parts: a function of the sizes alone.
    pub fn new(geometry: ConvGeometry) -> Self {
        let (rows, height) = (geometry.batch * geometry.output[0], geometry.output[0].max(1));
        let wanted = (PART_ELEMENTS / geometry.weight_count().max(1)).clamp(1, PARTS);
        let part_rows = rows.div_ceil(wanted).max(1);
        // Whole images where they are small.
        let part_rows = if part_rows > height { part_rows.next_multiple_of(height) } else { part_rows };
        let part_rows = part_rows.min((PART_POSITIONS / geometry.output[1].max(1)).max(1));
        Self { geometry, part_rows }
    }

    /// The number of parts.
    pub fn parts(&self) -> usize {
        (self.geometry.batch * self.geometry.output[0]).div_ceil(self.part_rows).max(1)
    }

    /// The gradients of the weights of some channels of a group, from one part of the rows.
    fn part(
        &self,
        direct: Option<&DirectWeight>,
        (part, group, channels): (usize, usize, Range<usize>),
        inputs: (&[f32], &[f32]),
        to: &Writer<'_, f32>,
    ) {
        let g = &self.geometry;
        let (width, height) = (g.output[1], g.output[0].max(1));
        let rows = channels.len() * g.taps();
        let (mut row, end) = (part * self.part_rows, ((part + 1) * self.part_rows).min(g.batch * g.output[0]));
        let size = g.positions().div_ceil(g.positions().div_ceil(WEIGHT_BLOCK).max(1));
        let (buffers, distance) = match direct {
            Some(direct) => (direct.buffers(channels.len()), direct.distance()),
            None => ([rows * size, band_size(g, size)], g.outputs),
        };
        with_scratch([buffers[0], buffers[1], distance * rows], |[first_buffer, second_buffer, sums]| {
            sums.fill(0.0);
            while row < end {
                let (image, first) = (row / height, row % height);
                let last = height.min(first + end - row);
                let plane = image * g.groups + group;
                let (x, dy) = self.image(inputs, plane, &channels);
                if let Some(direct) = direct {
                    let next = if image + 1 < g.batch { plane + g.groups } else { plane };
                    let mut next = self.next(direct, inputs, next, &channels);
                    for some in blocks(first..last, direct.rows()) {
                        let buffers = [&mut *first_buffer, &mut *second_buffer];
                        direct.add((x, dy), (channels.len(), some), buffers, sums, &mut next);
                    }
                } else {
                    for range in blocks(first * width..last * width, size) {
                        self.block((x, dy), range, [first_buffer, second_buffer, sums], rows);
                    }
                }
                row += last - first;
            }
            for output in 0..g.outputs {
                let start = ((part * g.groups + group) * g.outputs + output) * g.depth() + channels.start * g.taps();
                // SAFETY: the rows of parts, groups, outputs and ranges of channels are disjoint.
                let to = unsafe { to.range(start, rows) };
                let sums = sums[output..].iter().step_by(distance);
                to.iter_mut().zip(sums).for_each(|(to, sum)| *to = *sum);
            }
        });
    }

    /// Some channels of x of a group of an image, and all of dy; `plane` counts both.
    fn image<'a>(
        &self,
        (x, dy): (&'a [f32], &'a [f32]),
        plane: usize,
        channels: &Range<usize>,
    ) -> (&'a [f32], &'a [f32]) {
        let g = &self.geometry;
        let x = &x[(plane * g.channels + channels.start) * g.pixels()..][..channels.len() * g.pixels()];
        (x, &dy[plane * g.outputs * g.positions()..(plane + 1) * g.outputs * g.positions()])
    }

    /// An image in the parts in which it is fetched while another one is added; none of a large one.
    fn next<'a>(
        &self,
        direct: &DirectWeight,
        inputs: (&'a [f32], &'a [f32]),
        plane: usize,
        channels: &Range<usize>,
    ) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        let (x, dy) = self.image(inputs, plane, channels);
        let (x, dy) = if x.len() + dy.len() > FETCHED { (&[][..], &[][..]) } else { (x, dy) };
        let size = (x.len() + dy.len()).div_ceil(direct.fetches(channels.len()).max(1)).max(1);
        x.chunks(size).chain(dy.chunks(size))
    }

    /// Adds columns dy^T over a block of positions of one image to the sums, `[rows, outputs]`: that way round it is dy,
    /// the smaller one, that `gemm` has to copy first.
    fn block(&self, (x, dy): (&[f32], &[f32]), range: Range<usize>, buffers: [&mut [f32]; 3], rows: usize) {
        let (g, count, [columns, band, sums]) = (&self.geometry, range.len(), buffers);
        let dy = Matrix { values: &dy[range.start.min(dy.len())..], row: 1, column: g.positions() };
        let columns = if g.is_matrix() {
            Matrix { values: &x[range.start..], row: g.pixels(), column: 1 }
        } else {
            let columns = &mut columns[..rows * count];
            unfold(g, x, range, columns, band);
            Matrix { values: columns, row: count, column: 1 }
        };
        multiply_unpacked((rows, g.outputs, count), (columns, dy), (sums, g.outputs), true);
    }
}

impl Kernel for ConvBackwardWeight {
    fn name(&self) -> &'static str {
        "conv2d_backward_weight"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (&[x, dy], &[parts]) = (inputs, outputs) else { return Err("two inputs and one output") };
        let g = &self.geometry;
        let inside = g.input_count() <= x && g.output_count() <= dy && self.parts() * g.weight_count() <= parts;
        if g.is_sound() && inside { Ok(()) } else { Err("an operand of conv2d_backward_weight leaves its slice") }
    }

    fn operations(&self) -> u64 {
        self.geometry.operations()
    }

    fn run(&self, args: &mut Args<'_>) {
        let g = &self.geometry;
        let inputs = (args.input::<f32>(0), args.input::<f32>(1));
        let to = &mut args.output::<f32>(0)[..self.parts() * g.weight_count()];
        if to.is_empty() {
            return;
        }
        let to = Writer::new(to);
        let direct = DirectWeight::new(g);
        let pieces = channel_blocks(g);
        let work = g.outputs * g.depth() * self.part_rows * g.output[1] / pieces.len().max(1);
        let tasks = (0..self.parts() * g.groups * pieces.len()).into_par_iter();
        tasks.with_min_len((SMALL / work.max(1)).max(1)).for_each(|task| {
            let (plane, channels) = (task / pieces.len(), pieces[task % pieces.len()].clone());
            self.part(direct.as_ref(), (plane / g.groups, plane % g.groups, channels), inputs, &to);
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let g = &self.geometry;
        let params = ConvWeightParams {
            batch: g.batch as u32,
            groups: g.groups as u32,
            channels: g.channels as u32,
            outputs: g.outputs as u32,
            input_height: g.input[0] as u32,
            input_width: g.input[1] as u32,
            output_height: g.output[0] as u32,
            output_width: g.output[1] as u32,
            kernel_height: g.kernel[0] as u32,
            kernel_width: g.kernel[1] as u32,
            stride_height: g.stride[0] as u32,
            stride_width: g.stride[1] as u32,
            padding_height: g.padding[0] as u32,
            padding_width: g.padding[1] as u32,
            dilation_height: g.dilation[0] as u32,
            dilation_width: g.dilation[1] as u32,
            parts: self.parts() as u32,
            part_rows: self.part_rows as u32,
        };
        let sizes = (g.outputs, g.depth(), g.output[1]);
        let Tiles { name, constants, workgroups } =
            gpu_tiles::conv2d_backward_weight(gpu, sizes, self.parts() * g.groups);
        let shader = Shader::File { name, constants };
        (workgroups > 0).then(|| Dispatch { shader, params: params.words(), workgroups: gpu.grid(workgroups) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::conv::Conv;
    use super::super::simd::limit::on_each_level;
    use super::*;
    use crate::Generator;

    fn geometry(
        planes: [usize; 4],
        input: [usize; 2],
        kernel: [usize; 2],
        padding: [usize; 2],
        dilation: [usize; 2],
    ) -> ConvGeometry {
        let [batch, groups, channels, outputs] = planes;
        let output = std::array::from_fn(|axis| input[axis] + 2 * padding[axis] - (kernel[axis] - 1) * dilation[axis]);
        ConvGeometry { batch, groups, channels, outputs, input, output, kernel, stride: [1, 1], padding, dilation }
    }

    /// y, dx and the parts of dw, one behind the other.
    fn all(g: ConvGeometry, [x, weight, dy]: [&[f32]; 3]) -> Vec<f32> {
        let run = |kernel: &dyn Kernel, inputs: [&[f32]; 3], count: usize| {
            let mut output = vec![f32::NAN; count];
            let inputs = inputs.map(bytemuck::cast_slice).to_vec();
            kernel.run(&mut Args { inputs, outputs: vec![bytemuck::cast_slice_mut(&mut output)] });
            output
        };
        let forward = Conv { geometry: g, bias: true, activation: Activation::Relu };
        let mut found = run(&forward, [x, weight, &dy[..g.groups * g.outputs]], g.output_count());
        found.extend(run(&ConvBackwardInput { geometry: g }, [dy, weight, weight], g.input_count()));
        let of_weight = ConvBackwardWeight::new(g);
        found.extend(run(&of_weight, [x, dy, dy], of_weight.parts() * g.weight_count()));
        found
    }

    /// Convolutions from tiles are those of the other levels, and the same on any number of threads.
    #[test]
    fn tiles_convolve_as_products_do() {
        let mut generator = Generator::new(3);
        for g in [
            geometry([2, 1, 1, 8], [28, 28], [3, 3], [1, 1], [1, 1]),
            geometry([3, 2, 5, 17], [9, 31], [3, 3], [1, 1], [1, 1]),
            geometry([1, 1, 70, 50], [12, 13], [3, 3], [0, 0], [1, 1]),
            geometry([2, 1, 3, 9], [16, 40], [5, 4], [2, 1], [1, 2]),
            geometry([1, 1, 2, 11], [1, 300], [1, 7], [0, 3], [1, 1]),
            geometry([1, 1, 4, 8], [90, 90], [2, 2], [1, 1], [1, 1]),
        ] {
            let mut draw = |count: usize| (0..count).map(|_| generator.normal()).collect::<Vec<f32>>();
            let operands = [draw(g.input_count()), draw(g.weight_count()), draw(g.output_count())];
            let operands = [&operands[0][..], &operands[1][..], &operands[2][..]];
            let on = |threads: usize, work: &(dyn Fn() -> Vec<(super::super::simd::Level, Vec<f32>)> + Sync)| {
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
            };
            // One thread, because a limit on the level is that of a thread.
            let levels = on(1, &|| on_each_level(|| all(g, operands)));
            let Some((level, widest)) = levels.last() else { panic!("no level") };
            // Each result is a sum of so many products of draws around 1, in another order.
            let terms = g.depth().max(g.outputs * g.taps()).max(g.batch * g.positions()) as f32;
            for (other, found) in &levels {
                for (at, (found, expected)) in found.iter().zip(widest).enumerate() {
                    assert!(
                        (found - expected).abs() <= terms.sqrt() * 1e-5,
                        "{g:?} {other:?}, at {at}: {found} {expected}"
                    );
                }
            }
            for threads in [2, 3, 5, 17] {
                let found = on(threads, &|| vec![(*level, all(g, operands))]).remove(0).1;
                let same = found.iter().zip(widest).all(|(found, one)| found.to_bits() == one.to_bits());
                assert!(same, "{g:?} on {threads} threads");
            }
        }
    }
}
