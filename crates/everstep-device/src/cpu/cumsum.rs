//! Running sums along a dimension.

use rayon::prelude::*;

use super::memory::Writer;
use crate::params::params;
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

params! {
    /// The uniform of `cumsum.wgsl`.
    pub struct CumsumParams { outer: u32, count: u32, inner: u32, backwards: u32 }
}

/// Columns a thread takes at a time.
const COLUMNS: usize = 64;
/// Elements a thread takes at least.
const LEAST: usize = 16 * 1024;

/// Running sums along the middle of `[outer, count, inner]`, contiguous, from the first element on, or from the last.
#[derive(Clone, Debug)]
pub struct Cumsum(pub CumsumParams);

impl Cumsum {
    fn sizes(&self) -> [usize; 3] {
        [self.0.outer, self.0.count, self.0.inner].map(|size| size as usize)
    }

    /// A line of neighbours.
    fn line(&self, x: &[f32], y: &mut [f32]) {
        let mut total = 0.0;
        let mut add = |(sum, value): (&mut f32, &f32)| {
            total += value;
            // Every NaN becomes the same one: whose payload survives an addition is not specified.
            *sum = if total.is_nan() { f32::NAN } else { total };
        };
        match self.0.backwards {
            1 => y.iter_mut().zip(x).rev().for_each(&mut add),
            _ => y.iter_mut().zip(x).for_each(&mut add),
        }
    }

    /// The columns `from..to` of one `outer`.
    fn columns(&self, x: &[f32], y: &Writer<'_, f32>, outer: usize, (from, to): (usize, usize)) {
        let [_, count, inner] = self.sizes();
        let mut totals = [0.0f32; COLUMNS];
        for step in 0..count {
            let row = if self.0.backwards == 1 { count - 1 - step } else { step };
            let start = (outer * count + row) * inner;
            // SAFETY: the parts of different calls are disjoint: another `outer`, or other columns.
            let sums = unsafe { y.range(start + from, to - from) };
            for ((sum, total), value) in sums.iter_mut().zip(&mut totals).zip(&x[start + from..start + to]) {
                *total += value;
                *sum = if total.is_nan() { f32::NAN } else { *total };
            }
        }
    }
}

impl Kernel for Cumsum {
    fn name(&self) -> &'static str {
        "cumsum"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let elements = self.sizes().into_iter().product::<usize>();
        let fits = matches!((inputs, outputs), ([x], [y]) if *x >= elements && *y >= elements);
        if fits { Ok(()) } else { Err("an operand is shorter than its shape") }
    }

    fn run(&self, args: &mut Args<'_>) {
        let [outer, count, inner] = self.sizes();
        let x = args.input::<f32>(0);
        let y = &mut args.output::<f32>(0)[..outer * count * inner];
        if inner == 1 {
            let lines = y.par_chunks_mut(count.max(1)).zip(x.par_chunks(count.max(1)));
            return lines.with_min_len((LEAST / count.max(1)).max(1)).for_each(|(y, x)| self.line(x, y));
        }
        let y = Writer::new(y);
        let blocks = inner.div_ceil(COLUMNS);
        let least = (LEAST / (count * COLUMNS.min(inner)).max(1)).max(1);
        (0..outer * blocks).into_par_iter().with_min_len(least).for_each(|task| {
            let from = task % blocks * COLUMNS;
            self.columns(x, &y, task / blocks, (from, (from + COLUMNS).min(inner)));
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let [outer, count, inner] = self.sizes();
        let shader = Shader::File { name: "cumsum", constants: vec![] };
        let workgroups = gpu.grid((outer * inner).div_ceil(64));
        (outer * count * inner > 0).then(|| Dispatch { shader, params: self.0.words(), workgroups })
    }
}
