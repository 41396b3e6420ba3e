//! Elements picked along one dimension by indices, and its gradient: elements added where indices send them.

use rayon::prelude::*;

use super::memory::Writer;
use super::simd::simd;
use crate::params::params;
use crate::status::{self, Code};
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

params! {
    /// The uniform of `gather.wgsl` and `scatter_add.wgsl`.
    pub struct IndexParams { outer: u32, bound: u32, count: u32, inner: u32, missing: u32, code: u32 }
}

/// Shapes of a gather or a scatter: one dimension of `bound` places, one of `count`, and what lies outside and inside of
/// it.
#[derive(Clone, Copy, Debug)]
pub struct Indexing {
    /// Elements of the dimensions before.
    pub outer: usize,
    /// Size of the dimension that indices point into.
    pub bound: usize,
    /// Size of the dimension in their place.
    pub count: usize,
    /// Elements of the dimensions behind: a row.
    pub inner: usize,
    /// Whether indices are `[count]`, one for the rows of all `outer`; else `[outer, count, inner]`, one per element.
    pub whole_rows: bool,
    /// Which op reports an index at or above `bound`.
    pub code: Code,
}

/// Elements a thread takes at a time.
const CHUNK: usize = 16 * 1024;
/// Columns a thread adds at a time: two cache lines.
const COLUMNS: usize = 32;

simd! {
    fn add_row(row: &[f32], totals: &mut [f32]) {
        for (total, value) in totals.iter_mut().zip(row) {
            *total += *value;
        }
    }
}

impl Indexing {
    fn params(&self, missing: u32) -> IndexParams {
        IndexParams {
            outer: self.outer as u32,
            bound: self.bound as u32,
            count: self.count as u32,
            inner: self.inner as u32,
            missing,
            code: self.code as u32,
        }
    }

    fn indices(&self) -> usize {
        if self.whole_rows { self.count } else { self.outer * self.count * self.inner }
    }

    fn shader(&self, name: &'static str) -> Shader {
        Shader::File { name, constants: vec![("WHOLE_ROWS", u32::from(self.whole_rows))] }
    }

    fn check(&self, inputs: &[usize], outputs: &[usize], from: usize, to: usize) -> Result<(), &'static str> {
        let [source, indices] = *inputs else { return Err("it takes a source and indices") };
        let [result, status] = *outputs else { return Err("it gives a result and a status") };
        let (source_rows, result_rows) = (self.outer * from * self.inner, self.outer * to * self.inner);
        let fits = source >= source_rows && indices >= self.indices() && result >= result_rows;
        if fits && status >= status::WORDS { Ok(()) } else { Err("an operand is shorter than its shape") }
    }

    /// Reports the largest index that is out of range; whether there is one.
    fn report(&self, indices: &[u32], words: &mut [u32]) -> bool {
        let worst = indices.iter().copied().max().filter(|&index| index as usize >= self.bound);
        if let Some(worst) = worst {
            status::report(words, self.code, worst, self.bound as u32);
        }
        worst.is_some()
    }
}

/// `result[o, p, i] = source[o, k, i]`, where k is the index of `[o, p, i]`, or of `[p]` for whole rows.
///
/// Inputs: source `[outer, bound, inner]` of any 32-bit type, indices u32, both contiguous. Outputs: the result
/// `[outer, count, inner]`; the device's status, which learns of an index at or above `bound`: it picks `missing`.
#[derive(Clone, Debug)]
pub struct Gather {
    /// Shapes.
    pub indexing: Indexing,
    /// Bits of what an index out of range picks.
    pub missing: u32,
}

impl Kernel for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        self.indexing.check(inputs, outputs, self.indexing.bound, self.indexing.count)
    }

    fn run(&self, args: &mut Args<'_>) {
        let Indexing { outer, bound, count, inner, whole_rows, .. } = self.indexing;
        let (source, indices) = (args.inputs[0], &args.inputs[1][..self.indexing.indices()]);
        let [result, words] = &mut args.outputs[..] else { return };
        let result = &mut result[..outer * count * inner];
        self.indexing.report(indices, words);
        let rows = (CHUNK / inner.max(1)).max(1);
        result.par_chunks_mut((rows * inner).max(1)).enumerate().for_each(|(chunk, part)| {
            for (number, row) in part.chunks_mut(inner).enumerate() {
                let number = chunk * rows + number;
                let (outer, place) = (number / count, number % count);
                let start = |index: u32| (outer * bound + index as usize) * inner;
                if !whole_rows {
                    let picks = indices[number * inner..][..inner].iter().enumerate();
                    row.iter_mut().zip(picks).for_each(|(value, (column, &index))| {
                        let inside = (index as usize) < bound;
                        *value = if inside { source[start(index) + column] } else { self.missing };
                    });
                } else if (indices[place] as usize) < bound {
                    row.copy_from_slice(&source[start(indices[place])..][..inner]);
                } else {
                    row.fill(self.missing);
                }
            }
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let Indexing { outer, count, inner, .. } = self.indexing;
        let elements = outer * count * inner;
        let (shader, params) = (self.indexing.shader("gather"), self.indexing.params(self.missing).words());
        (elements > 0).then(|| Dispatch { shader, params, workgroups: gpu.grid(elements.div_ceil(256)) })
    }
}

/// `result[o, b, i]` = the sum over p of `source[o, p, i]` where the index of `[o, p, i]`, or of `[p]` for whole rows, is b:
/// the gradient of [`Gather`]. Terms are added in the order of p.
///
/// Inputs: source f32 `[outer, count, inner]`, indices u32, both contiguous. Outputs: the result `[outer, bound, inner]`;
/// the device's status, which learns of an index at or above `bound`: what it could have led to is NaN.
#[derive(Clone, Debug)]
pub struct ScatterAdd(pub Indexing);

impl ScatterAdd {
    /// Adds the columns `from..to` of one `outer` to a result of zeros. Each output takes its terms in the order of the places,
    /// however the columns are shared among threads.
    fn columns(&self, data: (&[f32], &[u32]), result: &Writer<'_, f32>, outer: usize, (from, to): (usize, usize)) {
        let Indexing { bound, count, inner, whole_rows, .. } = self.0;
        let (source, indices) = data;
        // SAFETY: the parts of different calls are disjoint: another `outer`, or other columns.
        let row = |row: usize| unsafe { result.range((outer * bound + row) * inner + from, to - from) };
        for place in 0..count {
            let start = (outer * count + place) * inner;
            if !whole_rows {
                for column in from..to {
                    let index = indices[start + column] as usize;
                    if index < bound {
                        row(index)[column - from] += source[start + column];
                    }
                }
            } else if (indices[place] as usize) < bound {
                add_row(&source[start + from..start + to], row(indices[place] as usize));
            }
        }
    }

    /// NaN wherever an index that is out of range could have led.
    fn poison(&self, indices: &[u32], result: &mut [f32]) {
        let Indexing { outer, bound, count, inner, whole_rows, .. } = self.0;
        if whole_rows {
            return result.fill(f32::NAN);
        }
        for (at, _) in indices.iter().enumerate().filter(|&(_, &index)| index as usize >= bound) {
            let (outer, column) = (at / (count * inner).max(1) % outer.max(1), at % inner);
            (0..bound).for_each(|row| result[(outer * bound + row) * inner + column] = f32::NAN);
        }
    }
}

impl Kernel for ScatterAdd {
    fn name(&self) -> &'static str {
        "scatter_add"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        self.0.check(inputs, outputs, self.0.count, self.0.bound)
    }

    fn run(&self, args: &mut Args<'_>) {
        let Indexing { outer, bound, count, inner, .. } = self.0;
        let (source, indices) = (args.input::<f32>(0), &args.inputs[1][..self.0.indices()]);
        let [result, words] = &mut args.outputs[..] else { return };
        let result: &mut [f32] = &mut bytemuck::cast_slice_mut(result)[..outer * bound * inner];
        result.par_chunks_mut(CHUNK).for_each(|part| part.fill(0.0));
        let writer = Writer::new(result);
        let blocks = inner.div_ceil(COLUMNS);
        let least = (CHUNK / (count * COLUMNS.min(inner)).max(1)).max(1);
        (0..outer * blocks).into_par_iter().with_min_len(least).for_each(|task| {
            let from = task % blocks * COLUMNS;
            self.columns((source, indices), &writer, task / blocks, (from, (from + COLUMNS).min(inner)));
        });
        if self.0.report(indices, words) {
            self.poison(indices, result);
        }
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let Indexing { outer, bound, inner, .. } = self.0;
        let threads = outer * bound * inner.div_ceil(4);
        let (shader, params) = (self.0.shader("scatter_add"), self.0.params(0).words());
        (threads > 0).then(|| Dispatch { shader, params, workgroups: gpu.grid(threads.div_ceil(64)) })
    }
}
