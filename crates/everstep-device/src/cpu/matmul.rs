//! Matrix products with bias and activation in the epilogue: the `gemm` crate, then the activation per row block.

use gemm::Parallelism;
use rayon::prelude::*;

use super::memory::Writer;
use super::product::{self, Product};
use super::scratch;
use crate::functions::Activation;
use crate::gpu_tiles::{self, Tiles};
use crate::params::params;
use crate::profile::count;
use crate::{Args, DType, Dispatch, GpuTraits, Kernel, Layout, Shader};

/// C = activation(A B + bias), for each matrix of a batch.
///
/// Inputs: a `[.., M, K]`, b `[.., K, N]`, bias `[N]` (anything where there is none); output: c `[.., M, N]`,
/// contiguous. The batch dimensions of the layouts are broadcast to one another's; at most four of them.
#[derive(Clone, Debug)]
pub struct Matmul {
    /// Layout of a, batch dimensions broadcast to the output's.
    pub a: Layout,
    /// Layout of b, likewise.
    pub b: Layout,
    /// Position of the bias's first element and the distance between its elements.
    pub bias: Option<(usize, usize)>,
    /// Applied last.
    pub activation: Activation,
}

/// Rows of the epilogue that a thread takes at a time.
const ROWS: usize = 16;
/// Rows and columns of C that one thread multiplies by itself, of large products.
const TILE: [usize; 2] = [2048, 256];
/// Columns under which a strip of C is not cut for another thread.
const NARROW: usize = 64;
/// Rows and columns under which the rest of C is left to its neighbour: `gemm` has other ways for vectors, with other sums.
const LEAST: usize = 16;
/// Multiply-adds under which a matrix is left to one thread.
const SMALL: usize = 64 * 64 * 64;

params! {
    /// The uniform of `matmul.wgsl` and `matmul_rows.wgsl`.
    pub struct MatmulParams {
        m: u32, n: u32, k: u32, batches: u32,
        a_offset: u32, a_row: u32, a_column: u32, bias_offset: u32,
        b_offset: u32, b_row: u32, b_column: u32, bias_stride: u32,
        batch_dims: [u32; 4], a_batch: [u32; 4], b_batch: [u32; 4],
    }
}

/// How many parts of `step` there are, the last one larger where less than [`LEAST`] would be left.
fn parts(size: usize, step: usize) -> usize {
    (size / step + usize::from(size % step >= LEAST)).max(1)
}

impl Matmul {
    /// (M, N, K).
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        let (a, b) = (self.a.shape(), self.b.shape());
        (a[a.rank() - 2], b[b.rank() - 1], a[a.rank() - 1])
    }

    fn batch_dims(&self) -> &[usize] {
        let shape = self.a.shape();
        &shape[..shape.rank() - 2]
    }

    pub(super) fn batches(&self) -> usize {
        self.batch_dims().iter().product()
    }

    /// Elements of C.
    pub(super) fn elements(&self) -> usize {
        let (m, n, _) = self.sizes();
        self.batches() * m * n
    }

    /// Where matrix `index` of the batch begins in a and in b.
    fn batch_offsets(&self, mut index: usize) -> (usize, usize) {
        let (mut a, mut b) = (self.a.offset(), self.b.offset());
        for (axis, &size) in self.batch_dims().iter().enumerate().rev() {
            a += index % size * self.a.strides()[axis];
            b += index % size * self.b.strides()[axis];
            index /= size;
        }
        (a, b)
    }

    /// A part of one matrix of the batch into `c`, which holds the bias where there is one: the rows and columns given as
    /// (first, count).
    ///
    /// # Safety
    /// `c` points to the m x n elements of the whole matrix, and no other thread touches the part.
    unsafe fn multiply(
        &self,
        (a, b): (&[f32], &[f32]),
        c: *mut f32,
        index: usize,
        [(row, m), (column, n)]: [(usize, usize); 2],
        parallelism: Parallelism,
    ) {
        let (_, columns, k) = self.sizes();
        let (a_at, b_at) = self.batch_offsets(index);
        let stride = |layout: &Layout, from_end: usize| layout.strides()[layout.shape().rank() - from_end];
        assert!(self.a.end() <= a.len() && self.b.end() <= b.len(), "matmul outside its operands");
        assert!(self.b.shape()[self.b.shape().rank() - 2] == k, "matrices of matmul that do not go together");
        let (a_at, b_at) = (a_at + row * stride(&self.a, 2), b_at + column * stride(&self.b, 1));
        // SAFETY: the layouts' ends lie within the slices, the shapes go together, and c holds the part. Without elements
        // nothing is read, and the position of the first may lie anywhere: hence `wrapping_add`.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                c.add(row * columns + column),
                1,
                columns as isize,
                self.bias.is_some(),
                a.as_ptr().wrapping_add(a_at),
                stride(&self.a, 1) as isize,
                stride(&self.a, 2) as isize,
                b.as_ptr().wrapping_add(b_at),
                stride(&self.b, 1) as isize,
                stride(&self.b, 2) as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    }

    /// One matrix of the batch, by all threads. Large ones are cut into tiles, each of which one thread multiplies by
    /// itself: that has no barrier, and is up to a quarter faster than the threads of `gemm` (docs/REJECTED.md has the tiles
    /// that were not). Every element is the same sum either way, whose order `gemm` chooses by K alone.
    fn multiply_whole(&self, operands: (&[f32], &[f32]), c: &mut [f32], index: usize) {
        let (m, n, _) = self.sizes();
        assert!(c.len() >= m * n, "matmul outside its output");
        let threads = rayon::current_num_threads();
        let (high, wide) = (parts(m, TILE[0]), parts(n, TILE[1]));
        let whole = Writer::new(c);
        if high * wide < threads && n < threads * NARROW {
            // SAFETY: this thread has all of c.
            unsafe { self.multiply(operands, whole.pointer(), index, [(0, m), (0, n)], Parallelism::Rayon(0)) };
            return;
        }
        // Few tiles are as many as there are threads, or a multiple, but for narrow ones.
        let wide = if high == 1 { wide.next_multiple_of(threads).min(n / NARROW).max(1) } else { wide };
        let width = n.div_ceil(wide).next_multiple_of(LEAST);
        let wide = parts(n, width);
        // The last part takes what is left.
        let part = |size: usize, step: usize, number: usize, parts: usize| {
            let first = number * step;
            (first, if number + 1 == parts { size - first } else { step })
        };
        (0..high * wide).into_par_iter().with_max_len(1).for_each(|tile| {
            let (row, column) = (part(m, TILE[0], tile % high, high), part(n, width, tile / high, wide));
            // SAFETY: tiles are disjoint.
            unsafe { self.multiply(operands, whole.pointer(), index, [row, column], Parallelism::None) };
        });
    }

    /// Matrix `index` of the batch as a product of tiles.
    fn product<'a>(&self, (a, b): (&'a [f32], &'a [f32]), bias: Option<&'a [f32]>, index: usize) -> Product<'a> {
        let (a_at, b_at) = self.batch_offsets(index);
        let matrix = |values: &'a [f32], layout: &Layout, at: usize| {
            let strides = &layout.strides()[layout.shape().rank() - 2..];
            Matrix { values: &values[at.min(values.len())..], row: strides[0], column: strides[1] }
        };
        Product {
            sizes: self.sizes(),
            a: matrix(a, &self.a, a_at),
            b: matrix(b, &self.b, b_at),
            add: false,
            bias,
            relu: self.activation == Activation::Relu,
        }
    }

    /// C from a, b and the bias, which nobody looks at where there is none.
    pub(super) fn compute(&self, [a, b, bias]: [&[f32]; 3], c: &mut [f32]) {
        let (m, n, k) = self.sizes();
        let batches: usize = self.batch_dims().iter().product();
        let c = &mut c[..batches * m * n];
        if c.is_empty() {
            return;
        }
        if product::suits((m, n, k)) {
            self.multiply_tiles((a, b), bias, c);
            if self.activation != Activation::Relu {
                self.activate(c, ROWS * n);
            }
            return;
        }
        if batches > 1 && m * n * k <= SMALL {
            let matrices = Writer::new(c);
            (0..batches).into_par_iter().with_min_len((SMALL / (m * n * k).max(1)).max(1)).for_each(|index| {
                // SAFETY: matrices of the batch are disjoint ranges.
                let matrix = unsafe { matrices.range(index * m * n, m * n) };
                self.preload_bias(bias, matrix, n);
                // SAFETY: as above.
                unsafe { self.multiply((a, b), matrix.as_mut_ptr(), index, [(0, m), (0, n)], Parallelism::None) };
            });
        } else {
            for (index, matrix) in c.chunks_exact_mut(m * n).enumerate() {
                self.preload_bias(bias, matrix, n);
                self.multiply_whole((a, b), matrix, index);
            }
        }
        self.activate(c, ROWS * n);
    }

    /// All matrices of the batch from tiles, with bias and relu.
    fn multiply_tiles(&self, operands: (&[f32], &[f32]), bias: &[f32], c: &mut [f32]) {
        let (m, n, k) = self.sizes();
        let bias = self.bias.map(|(offset, stride)| {
            let mut whole = scratch::zeroed::<f32>(n.next_multiple_of(product::LANES));
            whole[..n].iter_mut().enumerate().for_each(|(column, value)| *value = bias[offset + column * stride]);
            whole
        });
        let product = |index| self.product(operands, bias.as_deref(), index);
        if c.len() > m * n && m * n * k <= SMALL {
            let least = (SMALL / (m * n * k)).max(1);
            let matrices = c.par_chunks_exact_mut(m * n).with_min_len(least).enumerate();
            matrices.for_each(|(index, matrix)| product(index).here(matrix, n));
        } else {
            c.chunks_exact_mut(m * n).enumerate().for_each(|(index, matrix)| product(index).on_all(matrix, n));
        }
    }

    fn preload_bias(&self, bias: &[f32], c: &mut [f32], n: usize) {
        if let Some((offset, stride)) = self.bias {
            for row in c.chunks_exact_mut(n) {
                row.iter_mut().enumerate().for_each(|(column, value)| *value = bias[offset + column * stride]);
            }
        }
    }

    /// The second half of the epilogue, over blocks of rows that still lie in cache.
    fn activate(&self, values: &mut [f32], rows: usize) {
        if self.activation != Activation::None {
            values.par_chunks_mut(rows).for_each(|rows| activate(self.activation, rows));
        }
    }

    /// The uniform of every shader of a product.
    pub(super) fn params(&self) -> MatmulParams {
        let (m, n, k) = self.sizes();
        let dims = self.batch_dims();
        let lead = 4 - dims.len();
        let batch = |strides: &[usize]| -> [u32; 4] {
            std::array::from_fn(|axis| if axis < lead { 0 } else { strides[axis - lead] as u32 })
        };
        let (a, b) = (self.a.strides(), self.b.strides());
        MatmulParams {
            m: m as u32,
            n: n as u32,
            k: k as u32,
            batches: self.batches() as u32,
            a_offset: self.a.offset() as u32,
            a_row: a[a.len() - 2] as u32,
            a_column: a[a.len() - 1] as u32,
            bias_offset: self.bias.map_or(0, |bias| bias.0) as u32,
            b_offset: self.b.offset() as u32,
            b_row: b[b.len() - 2] as u32,
            b_column: b[b.len() - 1] as u32,
            bias_stride: self.bias.map_or(0, |bias| bias.1) as u32,
            batch_dims: std::array::from_fn(|axis| if axis < lead { 1 } else { dims[axis - lead] as u32 }),
            a_batch: batch(a),
            b_batch: batch(b),
        }
    }

    /// The constants of every shader of a product.
    pub(super) fn epilogue(&self) -> [(&'static str, u32); 2] {
        [("BIAS", u32::from(self.bias.is_some())), ("ACTIVATION", self.activation as u32)]
    }
}

/// The activation of values that lie in cache, in place.
pub(super) fn activate(activation: Activation, values: &mut [f32]) {
    let Some(overload) = activation.function().and_then(|f| f.overload(&[DType::F32])) else { return };
    let mut before = [0.0f32; 1024];
    for block in values.chunks_mut(before.len()) {
        let before = &mut before[..block.len()];
        before.copy_from_slice(block);
        (overload.run)(&[bytemuck::cast_slice(before)], bytemuck::cast_slice_mut(block));
    }
}

/// A matrix within a slice: element (i, j) lies at `i * row + j * column`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) values: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

impl Matrix<'_> {
    /// Whether `rows` rows of `columns` elements lie within the slice.
    pub(super) fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }
}

/// C = A B, or C += A B where `add`, on the calling thread alone: A [m, k], B [k, n], C [m, n] with its rows `c_row`
/// apart.
pub(super) fn multiply_here(
    sizes: (usize, usize, usize),
    (a, b): (Matrix<'_>, Matrix<'_>),
    (c, c_row): (&mut [f32], usize),
    add: bool,
) {
    if product::suits(sizes) {
        return Product { sizes, a, b, add, bias: None, relu: false }.here(c, c_row);
    }
    multiply_unpacked(sizes, (a, b), (c, c_row), add);
}

/// As [`multiply_here`], by `gemm`, which reads rows of a few hundred elements where they are.
pub(super) fn multiply_unpacked(
    (m, n, k): (usize, usize, usize),
    (a, b): (Matrix<'_>, Matrix<'_>),
    (c, c_row): (&mut [f32], usize),
    add: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.holds(m, k) && b.holds(k, n), "a matrix leaves its slice");
    assert!(c_row >= n && (m - 1) * c_row + n <= c.len(), "a product leaves its slice");
    // SAFETY: all three matrices lie within their slices, and no element of C lies at two places.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_row as isize,
            add,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

impl Kernel for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (&[a, b, bias], &[c]) = (inputs, outputs) else { return Err("matmul has three inputs and one output") };
        let (left, right) = (self.a.shape(), self.b.shape());
        let rank = left.rank();
        if !(2..=6).contains(&rank) || right.rank() != rank || left[..rank - 2] != right[..rank - 2] {
            return Err("the operands of matmul are batches of matrices of one batch shape");
        }
        if left[rank - 1] != right[rank - 2] {
            return Err("the matrices of matmul do not go together");
        }
        let (m, n, _) = self.sizes();
        let batches: usize = self.batch_dims().iter().product();
        let bias_end =
            self.bias.map_or(0, |(offset, stride)| offset + n.saturating_sub(1) * stride + usize::from(n > 0));
        let inside = self.a.end() <= a && self.b.end() <= b && bias_end <= bias && batches * m * n <= c;
        if inside { Ok(()) } else { Err("an operand of matmul leaves its slice") }
    }

    fn operations(&self) -> u64 {
        let (m, n, k) = self.sizes();
        self.batch_dims().iter().fold(count(&[2, m, n, k]), |all, &size| all.saturating_mul(size as u64))
    }

    fn run(&self, args: &mut Args<'_>) {
        let inputs = [args.input(0), args.input(1), args.input(2)];
        self.compute(inputs, args.output(0));
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let Tiles { name, mut constants, workgroups } = gpu_tiles::matmul(gpu, self.sizes(), self.batches(), &self.b);
        constants.extend(self.epilogue());
        let shader = Shader::File { name, constants };
        let (params, workgroups) = (self.params().words(), gpu.grid(workgroups));
        (self.elements() > 0).then_some(Dispatch { shader, params, workgroups })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Generator, Shape};

    fn product((m, n, k): (usize, usize, usize), a: &[f32], b: &[f32], threads: usize) -> Vec<f32> {
        let layout = |rows, columns| Layout::contiguous(Shape::new(&[rows, columns]).unwrap());
        let kernel = Matmul { a: layout(m, k), b: layout(k, n), bias: None, activation: Activation::None };
        let mut c = vec![f32::NAN; m * n];
        let mut args = Args {
            inputs: vec![bytemuck::cast_slice(a), bytemuck::cast_slice(b), &[]],
            outputs: vec![bytemuck::cast_slice_mut(&mut c)],
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| kernel.run(&mut args));
        c
    }

    /// Sizes on both sides of every tile's edge, vectors, and a part of one row or column that would be left over.
    #[test]
    fn tiles_give_the_same_bits_on_any_number_of_threads() {
        let mut generator = Generator::new(1);
        for (m, n, k) in [
            (2049, 64, 600),
            (2047, 70, 9),
            (2064, 300, 37),
            (4100, 17, 40),
            (1, 4097, 130),
            (3, 4097, 33),
            (40, 4097, 70),
            (4097, 1, 70),
            (64, 513, 515),
            (70, 257, 1100),
            (5, 7, 30_000),
        ] {
            let mut random = |count: usize| (0..count).map(|_| generator.normal()).collect::<Vec<f32>>();
            let (a, b) = (random(m * k), random(k * n));
            let one = product((m, n, k), &a, &b, 1);
            for threads in [2, 3, 5, 17] {
                let found = product((m, n, k), &a, &b, threads);
                let differ = (0..m * n).filter(|&at| found[at].to_bits() != one[at].to_bits()).count();
                assert_eq!(differ, 0, "{m} x {n} x {k} on {threads} threads");
            }
            for at in (0..m * n).step_by(m * n / 997 + 1).chain([m * n - 1]) {
                let (row, column) = (at / n, at % n);
                let terms = || (0..k).map(|l| f64::from(a[row * k + l]) * f64::from(b[l * n + column]));
                let (expected, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                // Each of k additions rounds by half an ulp of a sum that is at most `size`.
                let tolerance = k as f64 * f64::from(f32::EPSILON) * size;
                assert!((f64::from(one[at]) - expected).abs() <= tolerance, "{m} x {n} x {k} at {at}");
            }
        }
    }
}
