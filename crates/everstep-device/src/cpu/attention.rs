//! Scaled dot-product attention and its gradient, without the matrix of scores in memory.
//!
//! One pass over blocks of queries: scores by `gemm`, softmax, values by `gemm`, all in scratch that fits a cache. A block
//! belongs to one thread, and its keys come in order, so threads never show in the bits.

use rayon::prelude::*;

use super::math;
use super::matmul::{Matrix, multiply_here};
use super::memory::Writer;
use super::scratch::{self, Scratch};
use super::simd::simd;
use crate::gpu_tiles;
use crate::params::params;
use crate::profile::count;
use crate::{Args, Dispatch, GpuTraits, Kernel, Layout, Shader};

/// Queries of a block: their scores against 1,000 keys are 256 KiB.
const QUERIES: usize = 64;
/// The widest head that the shaders have accumulators for.
pub const WIDEST_HEAD: usize = 256;

params! {
    /// The uniform of `attention.wgsl` and `attention_backward.wgsl`. Of each operand offset, and distances between rows and
    /// between columns; and the distances between its matrices along four batch dimensions.
    pub struct AttentionParams {
        batches: u32, queries: u32, keys: u32, width: u32,
        value_width: u32, scale: f32, causal: u32, masked: u32,
        batch_dims: [u32; 4],
        q: [u32; 4], q_batch: [u32; 4], k: [u32; 4], k_batch: [u32; 4], v: [u32; 4], v_batch: [u32; 4],
        mask: [u32; 4], mask_batch: [u32; 4], y: [u32; 4], y_batch: [u32; 4], g: [u32; 4], g_batch: [u32; 4],
        dq: [u32; 4], dq_batch: [u32; 4], dk: [u32; 4], dk_batch: [u32; 4], dv: [u32; 4], dv_batch: [u32; 4],
    }
}

/// Which scores there are.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Queries `[.., T, D]`.
    pub q: Layout,
    /// Keys `[.., S, D]`.
    pub k: Layout,
    /// Values `[.., S, E]`.
    pub v: Layout,
    /// Added to the scores, broadcast to `[.., T, S]`.
    pub mask: Option<Layout>,
    /// Where the result `[.., T, E]` lies.
    pub y: Layout,
    /// Factor on the scores.
    pub scale: f32,
    /// Whether query i sees the keys up to i alone.
    pub causal: bool,
}

/// A batch of matrices.
fn sizes(layout: &Layout) -> (usize, usize) {
    let shape = layout.shape();
    (shape[shape.rank() - 2], shape[shape.rank() - 1])
}

fn batch_dims(layout: &Layout) -> &[usize] {
    &layout.shape()[..layout.shape().rank() - 2]
}

/// Where matrix `index` of the batch begins.
fn batch_offset(layout: &Layout, mut index: usize) -> usize {
    let mut offset = layout.offset();
    for (axis, &size) in batch_dims(layout).iter().enumerate().rev() {
        offset += index % size * layout.strides()[axis];
        index /= size;
    }
    offset
}

/// The rows from `first` on of matrix `index`.
fn rows_of<'a>(values: &'a [f32], layout: &Layout, index: usize, first: usize) -> Matrix<'a> {
    let rank = layout.shape().rank();
    let (row, column) = (layout.strides()[rank - 2], layout.strides()[rank - 1]);
    let start = (batch_offset(layout, index) + first * row).min(values.len());
    Matrix { values: &values[start..], row, column }
}

fn transposed(matrix: Matrix<'_>) -> Matrix<'_> {
    Matrix { row: matrix.column, column: matrix.row, ..matrix }
}

fn dense(values: &[f32], columns: usize) -> Matrix<'_> {
    Matrix { values, row: columns, column: 1 }
}

/// Writes a block of dense rows to the place of the rows from `first` on of matrix `index`.
///
/// # Safety
/// No other thread touches those rows.
unsafe fn store(target: &Writer<'_, f32>, layout: &Layout, index: usize, first: usize, rows: &[f32], columns: usize) {
    let rank = layout.shape().rank();
    let (row, column) = (layout.strides()[rank - 2], layout.strides()[rank - 1]);
    let start = batch_offset(layout, index) + first * row;
    for (at, values) in rows.chunks_exact(columns.max(1)).enumerate() {
        // SAFETY: by the caller's word.
        unsafe { target.scatter(start + at * row, column, values) };
    }
}

simd! {
    fn scale_and_add(scores: &mut [f32], scale: f32, mask: &[f32]) {
        for (score, mask) in scores.iter_mut().zip(mask) {
            *score = *score * scale + *mask;
        }
    }
}

simd! {
    /// ds = p (dp - delta) scale, in place of dp.
    fn score_gradient(p: &[f32], dp: &mut [f32], delta: f32, scale: f32) {
        for (dp, p) in dp.iter_mut().zip(p) {
            *dp = *p * (*dp - delta) * scale;
        }
    }
}

/// What a thread works in.
struct Work {
    scores: Scratch<f32>,
    powers: Scratch<f32>,
    result: Scratch<f32>,
    mask: Scratch<f32>,
}

impl Attention {
    /// (T, S, D, E)
    fn sizes(&self) -> (usize, usize, usize, usize) {
        let (queries, width) = sizes(&self.q);
        let (keys, value_width) = sizes(&self.v);
        (queries, keys, width, value_width)
    }

    fn batches(&self) -> usize {
        batch_dims(&self.q).iter().product()
    }

    fn work(&self) -> Work {
        let (queries, keys, width, value_width) = self.sizes();
        let rows = QUERIES.min(queries);
        Work {
            scores: scratch::take(rows * keys),
            powers: scratch::take(rows * keys),
            result: scratch::take(rows * width.max(value_width)),
            mask: scratch::take(keys),
        }
    }

    /// The keys that a block of queries before `end` sees.
    fn seen(&self, end: usize) -> usize {
        let keys = self.sizes().1;
        if self.causal { keys.min(end) } else { keys }
    }

    /// The keys that query `row` sees.
    fn visible(&self, row: usize) -> usize {
        self.seen(row + 1)
    }

    /// The scaled and masked scores of the queries `first..end` against the keys they see, row after row.
    fn scores(&self, q: &[f32], k: &[f32], mask: &[f32], index: usize, (first, end): (usize, usize), work: &mut Work) {
        let (width, seen) = (self.sizes().2, self.seen(end));
        let rows = end - first;
        let scores = &mut work.scores[..rows * seen];
        let keys = transposed(rows_of(k, &self.k, index, 0));
        let operands = (rows_of(q, &self.q, index, first), keys);
        multiply_here((rows, seen, width), operands, (&mut *scores, seen.max(1)), false);
        if width == 0 {
            scores.fill(0.0);
        }
        let added = &mut work.mask[..seen];
        if self.mask.is_none() {
            added.fill(0.0);
        }
        for (at, scores) in scores.chunks_exact_mut(seen.max(1)).enumerate() {
            if let Some(layout) = &self.mask {
                let row = rows_of(mask, layout, index, first + at);
                added.iter_mut().enumerate().for_each(|(key, value)| *value = row.values[key * row.column]);
            }
            scale_and_add(scores, self.scale, added);
        }
    }

    /// The rows of powers times the values, into the result.
    fn weigh(&self, v: &[f32], index: usize, (first, end): (usize, usize), work: &mut Work) {
        let (seen, columns, rows) = (self.seen(end), self.sizes().3, end - first);
        let values = rows_of(v, &self.v, index, 0);
        let (powers, result) = (&work.powers[..rows * seen], &mut work.result[..rows * columns]);
        // A product of matrices multiplies what a query does not see by 0, which a NaN or an infinity survives.
        let finite = |key: usize| (0..columns).all(|e| values.values[key * values.row + e * values.column].is_finite());
        if !self.causal || (first..seen).all(finite) {
            return multiply_here(
                (rows, columns, seen),
                (dense(powers, seen), values),
                (result, columns.max(1)),
                false,
            );
        }
        for at in 0..rows {
            let (visible, row) = (self.visible(first + at), dense(&powers[at * seen..], seen));
            let result = &mut result[at * columns..][..columns];
            multiply_here((1, columns, visible), (row, values), (result, columns.max(1)), false);
        }
    }

    fn layout_words(layout: Option<&Layout>) -> ([u32; 4], [u32; 4]) {
        let Some(layout) = layout else { return Default::default() };
        let strides = layout.strides();
        let rank = strides.len();
        let lead = 4 - (rank - 2);
        let batch = std::array::from_fn(|axis| if axis < lead { 0 } else { strides[axis - lead] as u32 });
        ([layout.offset() as u32, strides[rank - 2] as u32, strides[rank - 1] as u32, 0], batch)
    }

    fn params(&self) -> AttentionParams {
        let (queries, keys, width, value_width) = self.sizes();
        let dims = batch_dims(&self.q);
        let lead = 4 - dims.len();
        let mut params = AttentionParams {
            batches: self.batches() as u32,
            queries: queries as u32,
            keys: keys as u32,
            width: width as u32,
            value_width: value_width as u32,
            scale: self.scale,
            causal: u32::from(self.causal),
            masked: u32::from(self.mask.is_some()),
            batch_dims: std::array::from_fn(|axis| if axis < lead { 1 } else { dims[axis - lead] as u32 }),
            ..Default::default()
        };
        (params.q, params.q_batch) = Self::layout_words(Some(&self.q));
        (params.k, params.k_batch) = Self::layout_words(Some(&self.k));
        (params.v, params.v_batch) = Self::layout_words(Some(&self.v));
        (params.mask, params.mask_batch) = Self::layout_words(self.mask.as_ref());
        (params.y, params.y_batch) = Self::layout_words(Some(&self.y));
        params
    }

    /// Whether shapes go together and all lies within the slices.
    fn check_operands(&self, words: [usize; 5]) -> Result<(), &'static str> {
        let (queries, keys, width, value_width) = self.sizes();
        let rank = self.q.shape().rank();
        let layouts = [&self.q, &self.k, &self.v, self.mask.as_ref().unwrap_or(&self.q), &self.y];
        if !(2..=6).contains(&rank) || layouts.iter().any(|layout| layout.shape().rank() != rank) {
            return Err("the operands of attention are batches of matrices of one rank");
        }
        let fits = sizes(&self.k) == (keys, width)
            && sizes(&self.y) == (queries, value_width)
            && self.mask.as_ref().is_none_or(|mask| sizes(mask) == (queries, keys))
            && layouts.iter().all(|layout| batch_dims(layout) == batch_dims(&self.q));
        if !fits {
            return Err("the operands of attention do not go together");
        }
        let inside = layouts.iter().zip(words).all(|(layout, words)| layout.end() <= words);
        if inside && self.y.is_injective() { Ok(()) } else { Err("an operand of attention leaves its slice") }
    }
}

/// y = softmax(q k^T scale + mask) v (Vaswani et al., 2017). A query that sees nothing, or only minus infinity, gives 0.
///
/// Inputs: q, k, v, mask (anything where there is none). Outputs: y; per query the logarithm of the sum of its powers,
/// `[batch, T]`, contiguous, plus infinity for one that sees nothing.
impl Attention {
    /// How many scores there are, of all batches.
    fn score_count(&self) -> u64 {
        let ((queries, _), (keys, _)) = (sizes(&self.q), sizes(&self.k));
        let seen = if self.causal {
            // Query i sees i + 1 keys, as far as there are so many.
            let growing = queries.min(keys);
            growing * (growing + 1) / 2 + (queries - growing) * keys
        } else {
            queries * keys
        };
        batch_dims(&self.q).iter().fold(seen as u64, |all, &size| all.saturating_mul(size as u64))
    }
}

impl Kernel for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (&[q, k, v, mask], &[y, sums]) = (inputs, outputs) else {
            return Err("attention has four inputs and two outputs");
        };
        self.check_operands([q, k, v, if self.mask.is_some() { mask } else { q }, y])?;
        let inside = self.batches() * self.sizes().0 <= sums;
        if inside { Ok(()) } else { Err("the sums of attention leave their slice") }
    }

    /// A score is a dot product over D, and its part in a result one over E.
    fn operations(&self) -> u64 {
        let (width, value_width) = (sizes(&self.q).1, sizes(&self.v).1);
        count(&[2, width + value_width]).saturating_mul(self.score_count())
    }

    fn run(&self, args: &mut Args<'_>) {
        let (queries, _, _, value_width) = self.sizes();
        let (q, k, v) = (args.input::<f32>(0), args.input::<f32>(1), args.input::<f32>(2));
        let mask = args.input::<f32>(3);
        let [y, sums] = &mut args.outputs[..] else { return };
        let (y, sums) = (Writer::new(bytemuck::cast_slice_mut(y)), Writer::new(bytemuck::cast_slice_mut(sums)));
        let blocks = queries.div_ceil(QUERIES);
        (0..self.batches() * blocks).into_par_iter().for_each_init(
            || self.work(),
            |work, task| {
                let (index, first) = (task / blocks, task % blocks * QUERIES);
                let end = (first + QUERIES).min(queries);
                self.scores(q, k, mask, index, (first, end), work);
                let (rows, seen) = (end - first, self.seen(end));
                // SAFETY: each block of queries is one task's.
                let sums: &mut [f32] = unsafe { sums.range(index * queries + first, rows) };
                for (at, sum) in sums.iter_mut().enumerate() {
                    let (scores, powers) = (&work.scores[at * seen..], &mut work.powers[at * seen..][..seen]);
                    *sum = softmax_row(&scores[..seen], self.visible(first + at), powers);
                }
                self.weigh(v, index, (first, end), work);
                let result = &mut work.result[..rows * value_width];
                if seen == 0 {
                    result.fill(0.0);
                }
                // SAFETY: as above.
                unsafe { store(&y, &self.y, index, first, result, value_width) };
            },
        );
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let (queries, _, width, value_width) = self.sizes();
        let rows = self.batches() * queries;
        let operands = [&self.q, &self.k, &self.v, &self.y];
        let (shader, groups) =
            match gpu_tiles::attention_lanes(gpu, (width, value_width), self.mask.is_some(), &operands) {
                Some(constants) => {
                    let shader = Shader::File { name: "attention_lanes", constants };
                    (shader, (self.batches() * queries.div_ceil(8)).div_ceil(8))
                }
                None => (Shader::File { name: "attention", constants: vec![] }, rows),
            };
        (rows > 0).then(|| Dispatch { shader, params: self.params().words(), workgroups: gpu.grid(groups) })
    }
}

/// The softmax of the first `visible` scores, 0 behind them; the logarithm of the sum of powers.
fn softmax_row(scores: &[f32], visible: usize, powers: &mut [f32]) -> f32 {
    let largest = math::max(&scores[..visible]);
    powers[visible..].fill(0.0);
    if largest == f32::NEG_INFINITY {
        powers.fill(0.0);
        return f32::INFINITY;
    }
    let total = math::exp_sum(&scores[..visible], largest, &mut powers[..visible]);
    super::softmax::scale(&mut powers[..visible], 1.0 / total);
    largest + math::log_f32(total)
}

/// The gradients of q, k and v: with p the probabilities, dv = p^T g, ds = p (g v^T - sum(g y)) scale, dq = ds k, dk = ds^T q.
///
/// Inputs: q, k, v, mask, y, sums, g; output: one buffer that holds dq, dk and dv at their layouts.
#[derive(Clone, Debug)]
pub struct AttentionBackward {
    /// As forward.
    pub forward: Attention,
    /// Where the gradient of y lies.
    pub g: Layout,
    /// Where that of q goes.
    pub dq: Layout,
    /// Where that of k goes.
    pub dk: Layout,
    /// Where that of v goes.
    pub dv: Layout,
}

/// What the backward pass reads.
struct Operands<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    mask: &'a [f32],
    y: &'a [f32],
    sums: &'a [f32],
    g: &'a [f32],
}

impl AttentionBackward {
    /// One matrix of the batch: its keys' gradients are sums over all its queries.
    fn matrix(
        &self,
        o: &Operands<'_>,
        index: usize,
        target: &Writer<'_, f32>,
        work: &mut Work,
        [dk, dv]: [&mut [f32]; 2],
    ) {
        let f = &self.forward;
        let (queries, _, width, value_width) = f.sizes();
        dk.fill(0.0);
        dv.fill(0.0);
        for first in (0..queries).step_by(QUERIES) {
            let end = (first + QUERIES).min(queries);
            let (rows, seen) = (end - first, f.seen(end));
            f.scores(o.q, o.k, o.mask, index, (first, end), work);
            let (scores, powers) = (&mut work.scores[..rows * seen], &mut work.powers[..rows * seen]);
            for (at, powers) in powers.chunks_exact_mut(seen.max(1)).enumerate() {
                let visible = f.visible(first + at);
                math::exp_sum(
                    &scores[at * seen..][..visible],
                    o.sums[index * queries + first + at],
                    &mut powers[..visible],
                );
                powers[visible..].fill(0.0);
            }
            let gradient = rows_of(o.g, &self.g, index, first);
            let weights = transposed(dense(powers, seen));
            multiply_here((seen, value_width, rows), (weights, gradient), (&mut *dv, value_width.max(1)), true);
            // The scores are done with: the gradients of the probabilities take their place.
            let values = transposed(rows_of(o.v, &f.v, index, 0));
            multiply_here((rows, seen, value_width), (gradient, values), (&mut *scores, seen.max(1)), false);
            let y = rows_of(o.y, &f.y, index, first);
            for at in 0..rows {
                let term = |e: usize| {
                    gradient.values[at * gradient.row + e * gradient.column] * y.values[at * y.row + e * y.column]
                };
                let delta: f32 = (0..value_width).map(term).sum();
                let row = at * seen..(at + 1) * seen;
                score_gradient(&powers[row.clone()], &mut scores[row], delta, f.scale);
            }
            let slopes = dense(scores, seen);
            let operands = (transposed(slopes), rows_of(o.q, &f.q, index, first));
            multiply_here((seen, width, rows), operands, (&mut *dk, width.max(1)), true);
            let result = &mut work.result[..rows * width];
            let keys = rows_of(o.k, &f.k, index, 0);
            multiply_here((rows, width, seen), (slopes, keys), (&mut *result, width.max(1)), false);
            if seen == 0 {
                result.fill(0.0);
            }
            // SAFETY: each matrix of the batch is one task's.
            unsafe { store(target, &self.dq, index, first, result, width) };
        }
        // SAFETY: as above.
        unsafe {
            store(target, &self.dk, index, 0, dk, width);
            store(target, &self.dv, index, 0, dv, value_width);
        }
    }
}

impl Kernel for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (&[q, k, v, mask, y, sums, g], &[target]) = (inputs, outputs) else {
            return Err("attention_backward has seven inputs and one output");
        };
        let f = &self.forward;
        f.check_operands([q, k, v, if f.mask.is_some() { mask } else { q }, y])?;
        let pairs = [(&self.g, &f.y), (&self.dq, &f.q), (&self.dk, &f.k), (&self.dv, &f.v)];
        if pairs.iter().any(|(own, other)| own.shape() != other.shape()) {
            return Err("the gradients of attention have the shapes of what they belong to");
        }
        let written = [&self.dq, &self.dk, &self.dv];
        let inside = f.batches() * f.sizes().0 <= sums
            && self.g.end() <= g
            && written.iter().all(|layout| layout.end() <= target && layout.is_injective());
        if inside { Ok(()) } else { Err("an operand of attention_backward leaves its slice") }
    }

    /// The score again, its gradient, and its parts in the three results.
    fn operations(&self) -> u64 {
        let (width, value_width) = (sizes(&self.forward.q).1, sizes(&self.forward.v).1);
        count(&[2, 3 * width + 2 * value_width]).saturating_mul(self.forward.score_count())
    }

    fn run(&self, args: &mut Args<'_>) {
        let input = |index: usize| args.input::<f32>(index);
        let operands = Operands {
            q: input(0),
            k: input(1),
            v: input(2),
            mask: input(3),
            y: input(4),
            sums: input(5),
            g: input(6),
        };
        let target = Writer::new(bytemuck::cast_slice_mut(&mut *args.outputs[0]));
        let (_, keys, width, value_width) = self.forward.sizes();
        let work = || (self.forward.work(), scratch::take(keys * width), scratch::take(keys * value_width));
        (0..self.forward.batches()).into_par_iter().for_each_init(work, |(work, dk, dv), index| {
            self.matrix(&operands, index, &target, work, [dk, dv]);
        });
    }

    /// Workgroups of queries, and behind them those of keys.
    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let f = &self.forward;
        let mut params = f.params();
        (params.g, params.g_batch) = Attention::layout_words(Some(&self.g));
        (params.dq, params.dq_batch) = Attention::layout_words(Some(&self.dq));
        (params.dk, params.dk_batch) = Attention::layout_words(Some(&self.dk));
        (params.dv, params.dv_batch) = Attention::layout_words(Some(&self.dv));
        let (queries, keys, width, value_width) = f.sizes();
        let operands = [&f.q, &f.k, &f.v, &f.y, &self.g, &self.dq, &self.dk, &self.dv];
        let (shader, groups) = match gpu_tiles::attention_lanes(gpu, (width, value_width), f.mask.is_some(), &operands)
        {
            Some(constants) => {
                let of = |rows: usize| (f.batches() * rows.div_ceil(8)).div_ceil(8);
                (Shader::File { name: "attention_backward_lanes", constants }, of(queries) + of(keys))
            }
            None => {
                let shader = Shader::File { name: "attention_backward", constants: vec![] };
                (shader, f.batches() * (queries + keys))
            }
        };
        (groups > 0).then(|| Dispatch { shader, params: params.words(), workgroups: gpu.grid(groups) })
    }
}
