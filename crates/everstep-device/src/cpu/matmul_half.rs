//! Matrix products of halves with sums in f32.

use super::lanes;
use super::matmul::Matmul;
use super::scratch::{self, Scratch};
use crate::gpu_tiles::{self, Tiles};
use crate::{Args, DType, Dispatch, GpuTraits, Kernel, Shader};

/// [`Matmul`] of a, b and bias that are halves, with no copy of them in f32: C = activation(A B + bias), summed in f32, and rounded
/// once where C is of halves too.
///
/// Made for GPUs. On the CPU engine ops give [`Matmul`] copies in f32, which lie in memory that the recording plans; the
/// twin here makes them itself.
#[derive(Clone, Debug)]
pub struct MatmulHalf {
    /// The product; its layouts count halves.
    pub product: Matmul,
    /// f16 or bf16: what a, b and bias are.
    pub operands: DType,
    /// The same or f32: what c is. Of halves, N must be even, so that no two rows share a word of memory.
    pub result: DType,
}

impl Kernel for MatmulHalf {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        if !self.operands.is_half() || ![self.operands, DType::F32].contains(&self.result) {
            return Err("matmul of halves takes f16 or bf16 and gives the same or f32");
        }
        let in_words = |dtype: DType, words: &[usize]| -> Vec<usize> {
            words.iter().map(|words| words.saturating_mul(4 / dtype.size())).collect()
        };
        self.product.check(&in_words(self.operands, inputs), &in_words(self.result, outputs))?;
        let whole = self.result == DType::F32 || self.product.sizes().1.is_multiple_of(2);
        if whole { Ok(()) } else { Err("rows of halves must be whole words") }
    }

    fn operations(&self) -> u64 {
        self.product.operations()
    }

    fn run(&self, args: &mut Args<'_>) {
        let wide = |index: usize| widened(self.operands, args.inputs[index]);
        let (a, b, bias) = (wide(0), wide(1), self.product.bias.map(|_| wide(2)));
        let inputs = [&a[..], &b[..], bias.as_deref().unwrap_or(&[])].map(bytemuck::cast_slice);
        if self.result == DType::F32 {
            return self.product.compute(inputs, args.output(0));
        }
        let elements = self.product.elements();
        let mut sums = scratch::take(elements);
        self.product.compute(inputs, &mut sums);
        round(self.operands, bytemuck::cast_slice(&sums), &mut args.outputs[0][..elements / 2]);
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let product = &self.product;
        let operands = (self.operands, [&product.a, &product.b]);
        let Tiles { name, mut constants, workgroups } =
            gpu_tiles::matmul_half(gpu, product.sizes(), product.batches(), operands);
        constants.extend(product.epilogue());
        constants.push(("BF16", u32::from(self.operands == DType::BF16)));
        constants.push(("SINGLES", u32::from(self.result == DType::F32)));
        let shader = Shader::File { name, constants };
        let (params, workgroups) = (product.params().words(), gpu.grid(workgroups));
        (product.elements() > 0).then_some(Dispatch { shader, params, workgroups })
    }
}

/// Halves handled at a time.
const BLOCK: usize = 1024;

/// The bits of all the halves in `words` as f32.
fn widened(dtype: DType, words: &[u32]) -> Scratch<u32> {
    let widen = if dtype == DType::F16 { lanes::f32_from_f16 } else { lanes::f32_from_bf16 };
    let mut wide = scratch::take(2 * words.len());
    let mut halves = [0; BLOCK];
    for (words, wide) in words.chunks(BLOCK / 2).zip(wide.chunks_mut(BLOCK)) {
        for (pair, word) in halves.chunks_exact_mut(2).zip(words) {
            pair.copy_from_slice(&[word & 0xffff, word >> 16]);
        }
        widen(&halves[..wide.len()], wide);
    }
    wide
}

/// The bits of f32 as halves, two to a word.
fn round(dtype: DType, singles: &[u32], words: &mut [u32]) {
    let mut halves = [0; BLOCK];
    for (singles, words) in singles.chunks(BLOCK).zip(words.chunks_mut(BLOCK / 2)) {
        let halves = &mut halves[..singles.len()];
        match dtype {
            DType::F16 => lanes::f16_from_f32(singles, halves),
            _ => lanes::bf16_from_f32(singles, halves),
        }
        for (word, pair) in words.iter_mut().zip(halves.chunks_exact(2)) {
            *word = pair[0] | pair[1] << 16;
        }
    }
}
