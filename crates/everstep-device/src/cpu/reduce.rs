//! Sums, products and extremes over dimensions, in a fixed order.

use rayon::prelude::*;

use super::math;
use super::memory::{Axes, Writer};
use super::scratch;
use super::simd::simd;
use crate::layout::MAX_RANK;
use crate::params::params;
use crate::{Args, Dispatch, GpuTraits, Kernel, Layout, Shader};

/// What a reduction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Reduction {
    /// The sum; 0 of nothing.
    Sum = 0,
    /// The largest; NaN where any is; negative infinity of nothing.
    Max = 1,
    /// The smallest; NaN where any is; infinity of nothing.
    Min = 2,
    /// The product; 1 of nothing.
    Prod = 3,
}

/// `scale` times the sum, or an extreme or the product, over the last `reduced` dimensions of a layout whose kept dimensions come
/// first. Input: any strides. Output: the kept elements, contiguous.
#[derive(Clone, Debug)]
pub struct Reduce {
    /// The input, kept dimensions first.
    pub input: Layout,
    /// How many trailing dimensions are reduced.
    pub reduced: usize,
    /// What to compute.
    pub reduction: Reduction,
    /// Factor on a sum: 1 / count makes a mean.
    pub scale: f32,
}

params! {
    /// The uniform of `reduce.wgsl` and `reduce_columns.wgsl`.
    pub struct ReduceParams {
        outputs: u32, count: u32, offset: u32, scale: f32,
        kept_dims: [u32; 8], kept_strides: [u32; 8],
        reduced_dims: [u32; 8], reduced_strides: [u32; 8],
    }
}

/// Elements summed at a stretch before partial sums are combined; also the rows of a column block.
const BLOCK: usize = 1024;
/// Elements of a row that one thread takes.
const PART: usize = 64 * BLOCK;
/// Rows added one after the other in a sum over columns, before such partial sums are added up.
const ROWS: usize = 128;
/// Columns a thread takes at a time.
const COLUMNS: usize = 512;

/// The dimensions of one side, collapsed, and where their elements lie.
struct Side {
    dims: Axes,
    strides: Axes,
    count: usize,
}

impl Side {
    fn new(layout: &Layout, axes: std::ops::Range<usize>) -> Self {
        let (shape, strides) = (layout.shape(), layout.strides());
        let mut side = Self { dims: Axes::new(), strides: Axes::new(), count: 1 };
        for axis in axes.filter(|&axis| shape[axis] != 1) {
            side.count *= shape[axis];
            match (side.dims.last_mut(), side.strides.last_mut()) {
                (Some(dim), Some(stride)) if *stride == strides[axis] * shape[axis] => {
                    (*dim, *stride) = (*dim * shape[axis], strides[axis]);
                }
                _ => {
                    side.dims.push(shape[axis]);
                    side.strides.push(strides[axis]);
                }
            }
        }
        side
    }

    fn position(&self, mut index: usize) -> usize {
        let mut position = 0;
        for (dim, stride) in self.dims.iter().zip(&self.strides).rev() {
            position += index % dim * stride;
            index /= dim;
        }
        position
    }

    fn is_run(&self) -> bool {
        self.strides.len() <= 1 && self.strides.iter().all(|&stride| stride == 1)
    }

    fn words(values: &[usize], fill: u32) -> [u32; 8] {
        let lead = MAX_RANK - values.len();
        std::array::from_fn(|axis| match axis {
            _ if axis < lead || axis >= MAX_RANK => fill,
            _ => values[axis - lead] as u32,
        })
    }
}

/// Joins the elements in lanes, and the lanes by halves, as the reductions of `math.rs`.
#[inline(always)]
fn fold(values: &[f32], empty: f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 32;
    let mut lanes = [empty; LANES];
    let groups = values.chunks_exact(LANES);
    let rest = groups.remainder();
    for group in groups {
        for (lane, value) in lanes.iter_mut().zip(group) {
            *lane = join(*lane, *value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = join(*lane, *value);
    }
    for width in [16, 8, 4, 2, 1] {
        for index in 0..width {
            lanes[index] = join(lanes[index], lanes[index + width]);
        }
    }
    // Every NaN becomes the same one: whose payload survives an operation is not specified.
    if lanes[0].is_nan() { f32::NAN } else { lanes[0] }
}

#[inline(always)]
fn smaller(best: f32, value: f32) -> f32 {
    if best.is_nan() || best < value { best } else { value }
}

simd! {
    fn product(values: &[f32]) -> f32 {
        fold(values, 1.0, |total, value| total * value)
    }
}

simd! {
    fn least(values: &[f32]) -> f32 {
        fold(values, f32::INFINITY, smaller)
    }
}

simd! {
    fn accumulate_product(row: &[f32], totals: &mut [f32]) {
        for (total, value) in totals.iter_mut().zip(row) {
            *total *= *value;
        }
    }
}

simd! {
    fn accumulate_min(row: &[f32], totals: &mut [f32]) {
        for (total, value) in totals.iter_mut().zip(row) {
            *total = smaller(*total, *value);
        }
    }
}

simd! {
    /// One more row into the running sums or maxima of columns.
    fn accumulate_sum(row: &[f32], totals: &mut [f32]) {
        for (total, value) in totals.iter_mut().zip(row) {
            *total += *value;
        }
    }
}

simd! {
    fn accumulate_max(row: &[f32], totals: &mut [f32]) {
        for (total, value) in totals.iter_mut().zip(row) {
            *total = if total.is_nan() || *total > *value { *total } else { *value };
        }
    }
}

impl Reduce {
    fn sides(&self) -> (Side, Side) {
        let rank = self.input.shape().rank();
        let kept = rank - self.reduced;
        (Side::new(&self.input, 0..kept), Side::new(&self.input, kept..rank))
    }

    fn empty(&self) -> f32 {
        match self.reduction {
            Reduction::Sum => 0.0,
            Reduction::Max => f32::NEG_INFINITY,
            Reduction::Min => f32::INFINITY,
            Reduction::Prod => 1.0,
        }
    }

    /// A run of memory; a long one in parts of a fixed size, so that threads can share it.
    fn row(&self, values: &[f32]) -> f32 {
        let part = match self.reduction {
            Reduction::Sum => math::sum,
            Reduction::Max => math::max,
            Reduction::Min => least,
            Reduction::Prod => product,
        };
        if values.len() <= PART {
            return part(values);
        }
        let mut parts = scratch::take(values.len().div_ceil(PART));
        parts.par_iter_mut().zip(values.par_chunks(PART)).for_each(|(part_of, values)| *part_of = part(values));
        part(&parts)
    }

    fn combine(&self, a: f32, b: f32) -> f32 {
        match self.reduction {
            Reduction::Sum => a + b,
            Reduction::Prod => a * b,
            _ if a.is_nan() || b.is_nan() => f32::NAN,
            Reduction::Max => a.max(b),
            Reduction::Min => a.min(b),
        }
    }

    /// One output from elements anywhere: gathered block by block, the blocks' results combined in order.
    fn gather(&self, source: &[f32], start: usize, reduced: &Side) -> f32 {
        let mut block = [0.0f32; BLOCK];
        let mut total = self.empty();
        for first in (0..reduced.count).step_by(BLOCK) {
            let length = BLOCK.min(reduced.count - first);
            for (index, value) in block[..length].iter_mut().enumerate() {
                *value = source[start + reduced.position(first + index)];
            }
            total = self.combine(total, self.row(&block[..length]));
        }
        total
    }

    /// Each output from a run of memory.
    fn rows(&self, source: &[f32], output: &mut [f32], kept: &Side, reduced: &Side) {
        let base = self.input.offset();
        let least = (16 * BLOCK / reduced.count.max(1)).max(1);
        output.par_iter_mut().with_min_len(least).enumerate().for_each(|(index, value)| {
            let start = base + kept.position(index);
            *value = self.row(&source[start..start + reduced.count]);
        });
    }

    /// Outputs that are neighbours in memory: whole rows are added, `ROWS` at a time, and those sums added in order.
    fn columns(&self, source: &[f32], output: &mut [f32], reduced: &Side) {
        let base = self.input.offset();
        let accumulate = match self.reduction {
            Reduction::Sum => accumulate_sum,
            Reduction::Max => accumulate_max,
            Reduction::Min => accumulate_min,
            Reduction::Prod => accumulate_product,
        };
        output.par_chunks_mut(COLUMNS).enumerate().for_each(|(chunk, totals)| {
            totals.fill(self.empty());
            let mut partial = [0.0f32; COLUMNS];
            let partial = &mut partial[..totals.len()];
            for first in (0..reduced.count).step_by(ROWS) {
                partial.fill(self.empty());
                for row in first..(first + ROWS).min(reduced.count) {
                    let start = base + chunk * COLUMNS + reduced.position(row);
                    accumulate(&source[start..start + totals.len()], partial);
                }
                accumulate(partial, totals);
            }
        });
    }
}

impl Kernel for Reduce {
    fn name(&self) -> &'static str {
        "reduce"
    }

    fn run(&self, args: &mut Args<'_>) {
        let source = args.input::<f32>(0);
        let (kept, reduced) = self.sides();
        let output = &mut args.output::<f32>(0)[..kept.count];
        if reduced.count == 0 {
            output.fill(self.empty());
        } else if reduced.is_run() {
            self.rows(source, output, &kept, &reduced);
        } else if kept.is_run() {
            self.columns(source, output, &reduced);
        } else {
            let outputs = Writer::new(output);
            let least = (BLOCK / reduced.count.max(1)).max(1);
            (0..kept.count).into_par_iter().with_min_len(least).for_each(|index| {
                let start = self.input.offset() + kept.position(index);
                // SAFETY: each index is written once.
                unsafe { outputs.scatter(index, 1, &[self.gather(source, start, &reduced)]) };
            });
        }
        if self.scale != 1.0 {
            output.iter_mut().for_each(|value| *value *= self.scale);
        }
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let (kept, reduced) = self.sides();
        let params = ReduceParams {
            outputs: kept.count as u32,
            count: reduced.count as u32,
            offset: self.input.offset() as u32,
            scale: self.scale,
            kept_dims: Side::words(&kept.dims, 1),
            kept_strides: Side::words(&kept.strides, 0),
            reduced_dims: Side::words(&reduced.dims, 1),
            reduced_strides: Side::words(&reduced.strides, 0),
        };
        // One thread per output where neighbouring threads read neighbouring elements or a driver in software makes
        // workgroup memory slow; else one workgroup per output. The software driver llvmpipe ends a thread's loops
        // after 65,535 rounds, silently, so long sums are shared by a workgroup there too.
        let columns = (gpu.software && reduced.count <= 16384)
            || reduced.count <= 64
            || (kept.count >= 4096 && !reduced.is_run());
        let (name, workgroups) = match columns {
            true => ("reduce_columns", kept.count.div_ceil(64)),
            false => ("reduce", kept.count),
        };
        // Without dimensions, or with one, which is the last.
        let even = reduced.dims.len() <= 1;
        let constants = vec![("REDUCTION", self.reduction as u32), ("EVEN", u32::from(even))];
        let shader = Shader::File { name, constants };
        let workgroups = gpu.grid(workgroups);
        (kept.count > 0).then(|| Dispatch { shader, params: params.words(), workgroups })
    }
}

/// The position of the largest element of each row, the first of equals; a NaN counts as the largest.
///
/// Input: rows first, one reduced dimension last, any strides. Output: u32 per row.
#[derive(Clone, Debug)]
pub struct ArgMax {
    /// The input, the dimension searched last.
    pub input: Layout,
}

params! {
    /// The uniform of `argmax.wgsl`.
    pub struct ArgMaxParams {
        outputs: u32, count: u32, offset: u32, stride: u32,
        kept_dims: [u32; 8], kept_strides: [u32; 8],
    }
}

impl Kernel for ArgMax {
    fn name(&self) -> &'static str {
        "argmax"
    }

    fn run(&self, args: &mut Args<'_>) {
        let source = args.input::<f32>(0);
        let shape = self.input.shape();
        let last = shape.rank() - 1;
        let (kept, stride) = (Side::new(&self.input, 0..last), self.input.strides()[last]);
        let output = &mut args.output::<u32>(0)[..kept.count];
        output.par_iter_mut().with_min_len((BLOCK / shape[last].max(1)).max(1)).enumerate().for_each(|(row, value)| {
            let start = self.input.offset() + kept.position(row);
            let (mut best, mut at) = (source[start], 0);
            for index in 1..shape[last] {
                let candidate = source[start + index * stride];
                if !best.is_nan() && (candidate > best || candidate.is_nan()) {
                    (best, at) = (candidate, index);
                }
            }
            *value = at as u32;
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let shape = self.input.shape();
        let last = shape.rank() - 1;
        let kept = Side::new(&self.input, 0..last);
        let params = ArgMaxParams {
            outputs: kept.count as u32,
            count: shape[last] as u32,
            offset: self.input.offset() as u32,
            stride: self.input.strides()[last] as u32,
            kept_dims: Side::words(&kept.dims, 1),
            kept_strides: Side::words(&kept.strides, 0),
        };
        let shader = Shader::File { name: "argmax", constants: vec![] };
        let workgroups = gpu.grid(kept.count.div_ceil(64));
        (kept.count > 0).then(|| Dispatch { shader, params: params.words(), workgroups })
    }
}
