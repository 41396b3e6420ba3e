//! Convolution of batches of images, in groups of channels: its geometry, and the forward kernel.

use std::ops::Range;

use rayon::prelude::*;

use super::conv_direct::{After, Direct};
use super::conv_lower::{band_size, block_of, unfold, with_scratch};
use super::matmul::{Matrix, activate, multiply_unpacked};
use super::memory::Writer;
use super::simd::simd;
use crate::functions::Activation;
use crate::gpu_tiles::{self, Tiles};
use crate::params::params;
use crate::profile::count;
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

/// The sizes of a convolution: y\[b, o, p\] = sum over c, t of x\[b, c, p stride + t dilation - padding\] w\[o, c, t\].
///
/// x is `[batch, groups channels, input..]`, w `[groups outputs, channels, kernel..]`, y `[batch, groups outputs, output..]`,
/// all contiguous; pairs are (height, width).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvGeometry {
    /// Images.
    pub batch: usize,
    /// Groups of channels that have nothing to do with each other.
    pub groups: usize,
    /// Channels of x per group.
    pub channels: usize,
    /// Channels of y per group.
    pub outputs: usize,
    /// Size of an image of x.
    pub input: [usize; 2],
    /// Size of an image of y.
    pub output: [usize; 2],
    /// Taps.
    pub kernel: [usize; 2],
    /// Distance of the pixels that neighbouring outputs begin at.
    pub stride: [usize; 2],
    /// Zeros around an image of x, on each side.
    pub padding: [usize; 2],
    /// Distance of the pixels that neighbouring taps meet.
    pub dilation: [usize; 2],
}

impl ConvGeometry {
    /// Pixels of one channel of x.
    pub fn pixels(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Elements of one channel of y.
    pub fn positions(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Products that an element of y is the sum of.
    pub fn depth(&self) -> usize {
        self.channels * self.taps()
    }

    /// Floating-point operations of the sum, and of either gradient: each of its products is made and added.
    pub(crate) fn operations(&self) -> u64 {
        count(&[2, self.output_count(), self.depth()])
    }

    /// Elements of x.
    pub fn input_count(&self) -> usize {
        self.batch * self.groups * self.channels * self.pixels()
    }

    /// Elements of w.
    pub fn weight_count(&self) -> usize {
        self.groups * self.outputs * self.depth()
    }

    /// Elements of y.
    pub fn output_count(&self) -> usize {
        self.batch * self.groups * self.outputs * self.positions()
    }

    /// Whether an image is its own matrix of columns.
    pub(super) fn is_matrix(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0]
    }

    /// Whether the numbers go together: strides to divide by, and no tap past the padding at the far side.
    pub(super) fn is_sound(&self) -> bool {
        (0..2).all(|axis| {
            let reach = (self.output[axis].saturating_sub(1) * self.stride[axis]) as u64
                + (self.kernel[axis].saturating_sub(1) * self.dilation[axis]) as u64;
            let end = self.input[axis] as u64 + 2 * self.padding[axis] as u64;
            self.stride[axis] > 0 && self.dilation[axis] > 0 && (self.output[axis] == 0 || reach < end.max(1))
        })
    }
}

params! {
    /// The uniform of `conv2d.wgsl` and its variants.
    pub struct ConvParams {
        batch: u32, groups: u32, sources: u32, results: u32,
        weight_source: u32, weight_result: u32, source_height: u32, source_width: u32,
        result_height: u32, result_width: u32, kernel_height: u32, kernel_width: u32,
        stride_height: u32, stride_width: u32, padding_height: u32, padding_width: u32,
        dilation_height: u32, dilation_width: u32,
    }
}

impl ConvParams {
    /// The parameters of y from x, or of dx from dy.
    pub(super) fn new(g: &ConvGeometry, transposed: bool) -> Self {
        let (sources, results) = if transposed { (g.outputs, g.channels) } else { (g.channels, g.outputs) };
        let (source, result) = if transposed { (g.output, g.input) } else { (g.input, g.output) };
        let (in_distance, out_distance) = (g.taps() as u32, g.depth() as u32);
        Self {
            batch: g.batch as u32,
            groups: g.groups as u32,
            sources: sources as u32,
            results: results as u32,
            weight_source: if transposed { out_distance } else { in_distance },
            weight_result: if transposed { in_distance } else { out_distance },
            source_height: source[0] as u32,
            source_width: source[1] as u32,
            result_height: result[0] as u32,
            result_width: result[1] as u32,
            kernel_height: g.kernel[0] as u32,
            kernel_width: g.kernel[1] as u32,
            stride_height: g.stride[0] as u32,
            stride_width: g.stride[1] as u32,
            padding_height: g.padding[0] as u32,
            padding_width: g.padding[1] as u32,
            dilation_height: g.dilation[0] as u32,
            dilation_width: g.dilation[1] as u32,
        }
    }

    /// One run of the shader that suits the sizes.
    pub(super) fn dispatch(&self, gpu: &GpuTraits, own: [(&'static str, u32); 3]) -> Option<Dispatch> {
        let positions = self.batch as usize * self.result_height as usize * self.result_width as usize;
        let channels = (self.sources as usize, self.results as usize);
        let Tiles { name, mut constants, workgroups } =
            gpu_tiles::conv2d(gpu, channels, positions, self.groups as usize);
        let strided = self.stride_height.max(self.stride_width) > 1;
        constants.extend(own);
        constants.push(("STRIDED", u32::from(strided)));
        let shader = Shader::File { name, constants };
        (workgroups > 0).then(|| Dispatch { shader, params: self.words(), workgroups: gpu.grid(workgroups) })
    }
}

/// y = activation(x * w + bias). Inputs: x, w, bias `[groups outputs]` (anything where there is none); output: y.
#[derive(Clone, Debug)]
pub struct Conv {
    /// The sizes.
    pub geometry: ConvGeometry,
    /// Whether the third input is added.
    pub bias: bool,
    /// Applied last.
    pub activation: Activation,
}

simd! {
    /// to = from + bias
    fn add_bias(from: &[f32], bias: f32, to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from + bias;
        }
    }
}

simd! {
    /// to = max(from + bias, 0), NaN kept.
    fn add_bias_relu(from: &[f32], bias: f32, to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            let sum = *from + bias;
            *to = if sum <= 0.0 { 0.0 } else { sum };
        }
    }
}

/// Columns of a product's right operand up to which `gemm` does not copy the left one first.
const UNPACKED: usize = 48;
/// Multiply-adds under which a piece of work is not worth a thread.
pub(super) const SMALL: usize = 1 << 16;

impl Conv {
    /// One block of positions of all outputs of a group of an image: `plane` counts both.
    fn block(
        &self,
        plane: usize,
        range: Range<usize>,
        (x, weight, bias): (&[f32], &[f32], &[f32]),
        y: &Writer<'_, f32>,
    ) {
        let g = &self.geometry;
        let (depth, count, group) = (g.depth(), range.len(), plane % g.groups);
        let x = &x[plane * g.channels * g.pixels()..(plane + 1) * g.channels * g.pixels()];
        let weight = &weight[group * g.outputs * depth..(group + 1) * g.outputs * depth];
        let lowered = if g.is_matrix() { [0, 0] } else { [depth * count, band_size(g, count)] };
        with_scratch([lowered[0], lowered[1], g.outputs * count], |[columns, band, sums]| {
            let columns = if g.is_matrix() {
                Matrix { values: &x[range.start.min(x.len())..], row: g.pixels(), column: 1 }
            } else {
                unfold(g, x, range.clone(), columns, band);
                Matrix { values: columns, row: count, column: 1 }
            };
            // So many outputs at a time that `gemm` reads the columns where they are.
            for (number, sums) in sums.chunks_mut(UNPACKED * count).enumerate() {
                let weight = Matrix { values: &weight[number * UNPACKED * depth..], row: depth, column: 1 };
                multiply_unpacked((sums.len() / count, count, depth), (weight, columns), (sums, count), false);
            }
            for (output, sums) in sums.chunks_exact(count).enumerate() {
                let bias = if self.bias { bias[group * g.outputs + output] } else { 0.0 };
                let start = (plane * g.outputs + output) * g.positions() + range.start;
                // SAFETY: blocks of positions of the planes of y are disjoint.
                let to = unsafe { y.range(start, count) };
                match self.activation {
                    Activation::Relu => add_bias_relu(sums, bias, to),
                    activation => {
                        add_bias(sums, bias, to);
                        activate(activation, to);
                    }
                }
            }
        });
    }
}

impl Kernel for Conv {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (&[x, weight, bias], &[y]) = (inputs, outputs) else {
            return Err("conv2d has three inputs and one output");
        };
        let g = &self.geometry;
        let biases = if self.bias { g.groups * g.outputs } else { 0 };
        let inside = g.input_count() <= x && g.weight_count() <= weight && biases <= bias && g.output_count() <= y;
        if g.is_sound() && inside { Ok(()) } else { Err("an operand of conv2d leaves its slice") }
    }

    fn operations(&self) -> u64 {
        self.geometry.operations()
    }

    fn run(&self, args: &mut Args<'_>) {
        let g = &self.geometry;
        let inputs = (args.input::<f32>(0), args.input::<f32>(1), args.input::<f32>(2));
        let y = &mut args.output::<f32>(0)[..g.output_count()];
        if y.is_empty() {
            return;
        }
        if let Some(direct) = Direct::forward(g) {
            let after = After { bias: self.bias.then_some(inputs.2), activation: self.activation };
            return direct.run(inputs.0, inputs.1, after, y);
        }
        let y = Writer::new(y);
        let size = block_of(g.positions());
        let (positions, parts) = (g.positions(), g.positions().div_ceil(size));
        let tasks = g.batch * g.groups * parts;
        let least = SMALL / (size * g.outputs * g.depth()).max(1);
        (0..tasks).into_par_iter().with_min_len(least.max(1)).for_each(|task| {
            let start = task % parts * size;
            self.block(task / parts, start..(start + size).min(positions), inputs, &y);
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let constants = [("BIAS", u32::from(self.bias)), ("ACTIVATION", self.activation as u32), ("TRANSPOSED", 0)];
        ConvParams::new(&self.geometry, false).dispatch(gpu, constants)
    }
}
