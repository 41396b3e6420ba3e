//! Any program over elements: the CPU interpreter, and the access pattern its shader is generated for.
//!
//! The interpreter runs each instruction over blocks of [`BLOCK`] elements that stay in the L1 cache; the
//! instruction's function is vectorised. Blocks are independent, so threads and block borders never show in the bits.

use std::sync::Arc;

use rayon::prelude::*;

use super::memory::{Axes, Operands, Writer, collapse_all};
use super::scratch::{self, Scratch};
use crate::expr::{Access, Find, Instruction, Program};
use crate::layout::MAX_RANK;
use crate::{Args, DType, Dispatch, GpuTraits, Kernel, Layout, Shader, Shape};

/// Elements per block: a few values of 4 KiB fit the smallest L1 caches.
const BLOCK: usize = 1024;
/// Elements a thread takes at a time.
const CHUNK: usize = 16 * BLOCK;

/// A program over operands of one shape.
#[derive(Clone, Debug)]
pub struct Pointwise {
    /// What to compute.
    pub program: Arc<Program>,
    /// The shape of every output.
    pub shape: Shape,
    /// Where each input's elements lie, broadcast to `shape`.
    pub inputs: Vec<Layout>,
    /// Where each output's elements go.
    pub outputs: Vec<Layout>,
    /// The call's scalars.
    pub scalars: Vec<f32>,
}

/// The operands walked with as few dimensions as possible.
struct Walk {
    dims: Axes,
    strides: Operands<Axes>,
    offsets: Operands<usize>,
    finds: Operands<Find>,
    count: usize,
}

impl Pointwise {
    fn walk(&self) -> Walk {
        let layouts: Operands<&Layout> = self.inputs.iter().chain(&self.outputs).collect();
        let (dims, strides) = collapse_all(&self.shape, &layouts);
        let contiguous = {
            let mut expected = Axes::from_elem(1, dims.len());
            (1..dims.len()).rev().for_each(|axis| expected[axis - 1] = expected[axis] * dims[axis]);
            expected
        };
        let count = self.shape.count();
        let find = |strides: &Axes| match () {
            () if strides.iter().all(|&stride| stride == 0) => Find::Single,
            () if *strides == contiguous => Find::Linear,
            () => Find::Strided,
        };
        let finds = strides.iter().map(find).collect();
        Walk { dims, strides, offsets: layouts.iter().map(|l| l.offset()).collect(), finds, count }
    }
}

impl Walk {
    /// Calls `each(position in the block, position in the buffer, run length, stride)` for the runs of operand
    /// `operand` that make up the elements `start..start + length`.
    fn runs(&self, operand: usize, start: usize, length: usize, mut each: impl FnMut(usize, usize, usize, usize)) {
        let strides = &self.strides[operand];
        let last = self.dims.len() - 1;
        let mut index = [0; MAX_RANK];
        let mut rest = start;
        for axis in (0..=last).rev() {
            index[axis] = rest % self.dims[axis];
            rest /= self.dims[axis];
        }
        let mut done = 0;
        while done < length {
            let run = (self.dims[last] - index[last]).min(length - done);
            let position: usize = (0..=last).map(|axis| index[axis] * strides[axis]).sum();
            each(done, self.offsets[operand] + position, run, strides[last]);
            done += run;
            index[last] = 0;
            for axis in (0..last).rev() {
                index[axis] += 1;
                if index[axis] < self.dims[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
    }

    /// The elements from `start` on as words, whatever the size they have in memory.
    fn gather<T: Copy + Into<u32>>(&self, operand: usize, start: usize, source: &[T], block: &mut [u32]) {
        self.runs(operand, start, block.len(), |at, position, run, stride| {
            let target = &mut block[at..at + run];
            match stride {
                0 => target.fill(source[position].into()),
                1 => target.iter_mut().zip(&source[position..position + run]).for_each(|(t, s)| *t = (*s).into()),
                _ => {
                    target.iter_mut().zip(source[position..].iter().step_by(stride)).for_each(|(t, s)| *t = (*s).into())
                }
            }
        });
    }
}

/// An output, shared by the threads: whole words, or halves that lie packed.
enum Target<'a> {
    Words(Writer<'a, u32>),
    Halves(Writer<'a, u16>),
}

impl<'a> Target<'a> {
    fn new(memory: &'a mut [u32], dtype: DType, end: usize) -> Self {
        if !dtype.is_half() {
            return Self::Words(Writer::new(memory));
        }
        let halves: &mut [u16] = bytemuck::cast_slice_mut(memory);
        // The half behind an odd count is nobody's; it is zero on every executor.
        if end % 2 == 1 {
            halves[end] = 0;
        }
        Self::Halves(Writer::new(halves))
    }

    /// Writes `values` at `start`, `start + stride`, ..
    ///
    /// # Safety
    /// No other live reference may overlap those elements.
    unsafe fn scatter(&self, start: usize, stride: usize, values: &[u32]) {
        match self {
            // SAFETY: by the caller's word.
            Self::Words(writer) => unsafe { writer.scatter(start, stride, values) },
            // SAFETY: by the caller's word; packed outputs are contiguous, which `check` has seen to.
            Self::Halves(writer) => unsafe { writer.range(start, values.len()) }
                .iter_mut()
                .zip(values)
                .for_each(|(target, value)| *target = *value as u16),
        }
    }
}

impl Kernel for Pointwise {
    fn name(&self) -> &'static str {
        "pointwise"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let program = &self.program;
        let counts = (program.inputs().len(), program.outputs().len(), program.scalars());
        if (self.inputs.len(), self.outputs.len()) != (counts.0, counts.1) || self.scalars.len() < counts.2 {
            return Err("a pointwise program wants a layout per operand and all its scalars");
        }
        let operands = self.inputs.iter().zip(inputs).chain(self.outputs.iter().zip(outputs)).zip(program.operands());
        let leaves = |layout: &Layout, words: usize, dtype: DType| {
            *layout.shape() != self.shape || layout.end() > words.saturating_mul(4 / dtype.size())
        };
        if (inputs.len(), outputs.len()) != (counts.0, counts.1)
            || operands.into_iter().any(|((layout, &words), dtype)| leaves(layout, words, dtype))
        {
            return Err("an operand of a pointwise program leaves its slice or has another shape");
        }
        let halves = program.operands().skip(counts.0).map(DType::is_half);
        let mut halves = self.outputs.iter().zip(outputs).zip(halves).filter(|(_, half)| *half);
        // Whole words are written: each must be of this output alone.
        let alone = |layout: &Layout, words: usize| {
            let end = layout.end();
            layout.is_contiguous()
                && layout.offset().is_multiple_of(2)
                && (end.is_multiple_of(2) || end.div_ceil(2) == words)
        };
        if !halves.all(|((layout, &words), _)| alone(layout, words)) {
            return Err("a packed output of a pointwise program is not a run of whole words");
        }
        let injective = self.outputs.iter().all(Layout::is_injective);
        if injective { Ok(()) } else { Err("an output of a pointwise program repeats elements") }
    }

    fn run(&self, args: &mut Args<'_>) {
        let walk = self.walk();
        let inputs = &args.inputs[..];
        let dtypes = self.program.operands().skip(inputs.len());
        let outputs = args.outputs.iter_mut().zip(&self.outputs).zip(dtypes);
        let writers: Operands<_> =
            outputs.map(|((memory, layout), dtype)| Target::new(memory, dtype, layout.end())).collect();
        let chunks = walk.count.div_ceil(CHUNK);
        let rows = || self.rows();
        let chunk = |rows: &mut Scratch<u32>, chunk: usize| {
            let end = ((chunk + 1) * CHUNK).min(walk.count);
            for start in (chunk * CHUNK..end).step_by(BLOCK) {
                self.block(&walk, rows, inputs, &writers, start, BLOCK.min(end - start));
            }
        };
        if chunks <= 1 {
            let mut rows = rows();
            (0..chunks).for_each(|index| chunk(&mut rows, index));
        } else {
            (0..chunks).into_par_iter().for_each_init(rows, chunk);
        }
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let walk = self.walk();
        let mut params: Vec<u32> = vec![walk.count as u32];
        params.extend(walk.offsets.iter().map(|&offset| offset as u32));
        params.extend(walk.dims.iter().map(|&dim| dim as u32));
        for (strides, find) in walk.strides.iter().zip(&walk.finds) {
            if *find == Find::Strided {
                params.extend(strides.iter().map(|&stride| stride as u32));
            }
        }
        // A joined program may need fewer than its parts did.
        params.extend(self.scalars.iter().take(self.program.scalars()).map(|scalar| scalar.to_bits()));
        if self.program.is_joined() {
            params.push(0);
        }
        let access = Access { rank: walk.dims.len(), operands: walk.finds.to_vec() };
        // A thread writes a whole word: two elements where an output is packed.
        let elements = if self.program.packs_output() { 512 } else { 256 };
        let workgroups = gpu.grid(walk.count.div_ceil(elements));
        let shader = Shader::Pointwise(self.program.clone(), access);
        (walk.count > 0).then_some(Dispatch { shader, params, workgroups })
    }
}

impl Pointwise {
    /// The values of one block, a row of [`BLOCK`] per instruction. What is the same everywhere is there already.
    fn rows(&self) -> Scratch<u32> {
        let instructions = self.program.instructions();
        let mut rows = scratch::take(instructions.len() * BLOCK);
        for (instruction, row) in instructions.iter().zip(rows.chunks_exact_mut(BLOCK)) {
            match instruction {
                Instruction::Constant(bits) => row.fill(*bits),
                Instruction::Scalar(index) => row.fill(self.scalars[*index].to_bits()),
                Instruction::Input(_) | Instruction::Apply { .. } => {}
            }
        }
        rows
    }

    fn block(
        &self,
        walk: &Walk,
        rows: &mut [u32],
        inputs: &[&[u32]],
        outputs: &[Target<'_>],
        start: usize,
        length: usize,
    ) {
        for (at, instruction) in self.program.instructions().iter().enumerate() {
            // An instruction uses what earlier ones have left.
            let (before, row) = rows.split_at_mut(at * BLOCK);
            let row = &mut row[..length];
            match instruction {
                Instruction::Input(input) if self.in_place(walk, *input) => {}
                Instruction::Input(input) => match self.program.inputs()[*input].is_half() {
                    true => walk.gather(*input, start, bytemuck::cast_slice::<u32, u16>(inputs[*input]), row),
                    false => walk.gather(*input, start, inputs[*input], row),
                },
                Instruction::Constant(_) | Instruction::Scalar(_) => {}
                Instruction::Apply { function, overload, args } => {
                    let value = |at: &usize| self.value(walk, before, inputs, *at, start, length);
                    let run = function.overloads[*overload].run;
                    if let Some((output, Target::Words(writer))) = self.direct(walk, at).map(|at| (at, &outputs[at])) {
                        let offset = walk.offsets[self.inputs.len() + output] + start;
                        // SAFETY: blocks are disjoint ranges of a linear output, and each is run once.
                        let target = unsafe { writer.range(offset, length) };
                        run_on(run, args, value, target);
                    } else {
                        run_on(run, args, value, row);
                    }
                }
            }
        }
        for (output, &at) in self.program.outputs().iter().enumerate() {
            if self.direct(walk, at) != Some(output) {
                let value = self.value(walk, rows, inputs, at, start, length);
                walk.runs(self.inputs.len() + output, start, length, |from, to, run, stride| {
                    // SAFETY: an output's layout maps distinct elements to distinct positions, and blocks are disjoint.
                    unsafe { outputs[output].scatter(to, stride, &value[from..from + run]) };
                });
            }
        }
    }

    /// Whether the elements of an input are read where they lie: one after the other, a word each.
    fn in_place(&self, walk: &Walk, input: usize) -> bool {
        walk.finds[input] == Find::Linear && !self.program.inputs()[input].is_half()
    }

    /// The output that instruction `at` may write in place of a scratch row: a linear one of whole words whose value
    /// nothing else uses.
    fn direct(&self, walk: &Walk, at: usize) -> Option<usize> {
        let mut outputs = self.program.outputs().iter().enumerate().filter(|&(_, &position)| position == at);
        let (output, _) = outputs.next()?;
        let instructions = self.program.instructions();
        let used = |i: &Instruction| matches!(i, Instruction::Apply { args, .. } if args.contains(&at));
        let computed = matches!(instructions[at], Instruction::Apply { .. });
        let single = computed && outputs.next().is_none() && !instructions.iter().any(used);
        let whole = walk.finds[self.inputs.len() + output] == Find::Linear && !self.program.dtype(at).is_half();
        (single && whole).then_some(output)
    }

    fn value<'a>(
        &self,
        walk: &Walk,
        rows: &'a [u32],
        inputs: &[&'a [u32]],
        at: usize,
        start: usize,
        length: usize,
    ) -> &'a [u32] {
        match &self.program.instructions()[at] {
            Instruction::Input(input) if self.in_place(walk, *input) => {
                let from = walk.offsets[*input] + start;
                &inputs[*input][from..from + length]
            }
            _ => &rows[at * BLOCK..][..length],
        }
    }
}

fn run_on<'a>(run: fn(&[&[u32]], &mut [u32]), args: &[usize], value: impl Fn(&usize) -> &'a [u32], target: &mut [u32]) {
    match args {
        [a] => run(&[value(a)], target),
        [a, b] => run(&[value(a), value(b)], target),
        [a, b, c] => run(&[value(a), value(b), value(c)], target),
        more => run(&more.iter().map(value).collect::<Operands<_>>(), target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::Expr;
    use crate::functions::CAST_BF16;

    /// The cast of `count` elements to bf16, whose result lies as `output` says.
    fn cast(count: usize, output: Layout) -> Pointwise {
        let formula = Expr::call(&CAST_BF16, &[Expr::input(0, DType::F32)]);
        let program = Arc::new(Program::new(&[DType::F32], &[formula]));
        let shape = Shape::new(&[count]).unwrap();
        let inputs = vec![Layout::contiguous(shape)];
        Pointwise { program, shape, inputs, outputs: vec![output], scalars: vec![] }
    }

    fn part(count: usize, of: usize, start: usize, step: usize) -> Layout {
        let end = (start + count * step).min(of);
        Layout::contiguous(Shape::new(&[of]).unwrap()).slice(0, start, end, step).unwrap()
    }

    /// A GPU writes whole words, so none may hold a half of something else.
    #[test]
    fn packed_outputs_are_runs_of_whole_words() {
        let check = |count: usize, output: Layout, words: usize| cast(count, output).check(&[count], &[words]).is_ok();
        assert!(check(6, part(6, 6, 0, 1), 3) && check(5, part(5, 5, 0, 1), 3) && check(0, part(0, 0, 0, 1), 0));
        assert!(check(4, part(4, 9, 2, 1), 5) && check(5, part(5, 9, 4, 1), 5));
        assert!(!check(4, part(4, 9, 1, 1), 5), "from the second half of a word");
        assert!(!check(3, part(3, 9, 2, 1), 5), "up to the first half of a word that is not the last");
        assert!(!check(4, part(4, 9, 0, 2), 5), "with a step");
        assert!(!check(7, part(7, 7, 0, 1), 3), "beyond its memory");
    }

    #[test]
    fn halves_are_packed_and_an_odd_tail_is_zero() {
        let values = [1.0f32, -2.0, 0.5, f32::INFINITY, 3.0].map(f32::to_bits);
        for count in 0..=5usize {
            let mut words = [u32::MAX; 3];
            let length = count.div_ceil(2);
            let kernel = cast(count, part(count, count, 0, 1));
            kernel.run(&mut Args { inputs: vec![&values[..count]], outputs: vec![&mut words[..length]] });
            let whole = [0xc000_3f80u32, 0x7f80_3f00, 0x0000_4040];
            for (at, word) in words[..length].iter().enumerate() {
                let mask = if 2 * at + 1 < count { u32::MAX } else { 0xffff };
                assert_eq!(*word, whole[at] & mask, "{count} {at}");
            }
            // A thread per word: 512 elements to a workgroup.
            let gpu = GpuTraits { software: true, subgroup: 0, max_workgroups: 65_535, cooperative: None };
            assert_eq!(kernel.dispatch(&gpu).map(|dispatch| dispatch.workgroups), (count > 0).then_some([1, 1, 1]));
        }
        let wide = cast(1025, part(1025, 1025, 0, 1));
        let gpu = GpuTraits { software: true, subgroup: 0, max_workgroups: 65_535, cooperative: None };
        assert_eq!(wide.dispatch(&gpu).unwrap().workgroups, [3, 1, 1]);
    }
}
