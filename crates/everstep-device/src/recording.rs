//! Work as data: an op appends commands to its device's open recording; passes rewrite it; an executor runs it.

use std::any::Any;
use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use crate::expr::Program;
use crate::{ALIGNMENT, BufferId, Slice};

/// One unit of work: what to do, what it reads, what it writes.
#[derive(Clone, Debug)]
pub struct Command {
    /// The op that recorded it, for messages.
    pub op: &'static str,
    /// What to do.
    pub work: Work,
    /// What it reads. Commands do not keep buffers alive.
    pub inputs: Vec<Slice>,
    /// What it writes. A kernel that updates in place names the slice here alone.
    pub outputs: Vec<Slice>,
}

/// What a command does.
#[derive(Clone, Debug)]
pub enum Work {
    /// Runs a kernel.
    Kernel(Arc<dyn Kernel>),
    /// Writes host bytes into the output.
    Upload(Arc<[u8]>),
    /// Copies the input, byte for byte, into the output of the same size.
    Copy,
}

impl Command {
    /// Whether it reads or writes `buffer`.
    pub fn touches(&self, buffer: BufferId) -> bool {
        self.inputs.iter().chain(&self.outputs).any(|slice| slice.buffer == buffer)
    }

    /// What must have been written before it runs: its inputs, and the outputs that it changes where they lie.
    pub fn reads(&self) -> impl Iterator<Item = &Slice> {
        let updates = |index: usize| matches!(&self.work, Work::Kernel(kernel) if kernel.updates(index));
        let updated = self.outputs.iter().enumerate().filter(move |(index, _)| updates(*index));
        self.inputs.iter().chain(updated.map(|(_, slice)| slice))
    }

    /// Whether it can run on any executor: what is wrong with it otherwise. `size` tells the bytes of a buffer.
    pub(crate) fn check(&self, size: impl Fn(BufferId) -> Option<usize>) -> std::result::Result<(), &'static str> {
        let alignment = if matches!(self.work, Work::Kernel(_)) { ALIGNMENT } else { 4 };
        for slice in self.inputs.iter().chain(&self.outputs) {
            let bytes = size(slice.buffer).ok_or("a slice of a buffer that no longer exists")?;
            if slice.offset.checked_add(slice.bytes).is_none_or(|end| end > bytes) {
                return Err("a slice leaves its buffer");
            }
            if !slice.offset.is_multiple_of(alignment) {
                return Err("a slice does not start where it may");
            }
        }
        for (index, output) in self.outputs.iter().enumerate() {
            if self.outputs[..index].iter().any(|earlier| earlier.overlaps(output)) {
                return Err("two outputs overlap");
            }
        }
        match (&self.work, &self.inputs[..], &self.outputs[..]) {
            (Work::Kernel(kernel), inputs, outputs) => {
                let words = |slices: &[Slice]| slices.iter().map(|slice| slice.bytes.div_ceil(4)).collect::<Vec<_>>();
                kernel.check(&words(inputs), &words(outputs))
            }
            (Work::Upload(data), [], [output]) if data.len() == output.bytes => Ok(()),
            (Work::Copy, [input], [output]) if input.bytes == output.bytes => Ok(()),
            _ => Err("the sizes of source and target differ"),
        }
    }
}

/// A kernel with its parameters: the CPU twin and the shader of one operation.
///
/// The inputs and outputs of its command are the shader's storage bindings 0, 1, .. of group 0, inputs first; its
/// parameters are the uniform of group 1.
pub trait Kernel: Any + Debug + Send + Sync {
    /// The name its shader, its CPU twin and its op share.
    fn name(&self) -> &'static str;

    /// Whether it can run on inputs and outputs of these sizes in 32-bit words: what is wrong otherwise. Asked when its
    /// command is recorded; where it answers well, no element outside them is touched.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self, _inputs: &[usize], _outputs: &[usize]) -> std::result::Result<(), &'static str> {
        Ok(())
    }

    /// Whether it reads what output `index` held before, which something must have written then.
    fn updates(&self, _index: usize) -> bool {
        false
    }

    /// Floating-point operations of a run, a multiplication and an addition counted as two, for [`crate::profile`]; 0 where the bytes
    /// that it moves are what takes the time.
    fn operations(&self) -> u64 {
        0
    }

    /// Runs it on the CPU. It may not use the device that runs it.
    fn run(&self, args: &mut Args<'_>);

    /// How to run it on a GPU; `None` where there is nothing to do (an empty output). Kernels of equal names and equal dispatches
    /// are the same work, on the CPU too: that is how a recording is known again ([`crate::capture`]). A step with a kernel that
    /// has no shader is never captured.
    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch>;
}

/// What a kernel sees of memory on the CPU: 32-bit words of each input and each output of its command.
#[derive(Debug, Default)]
pub struct Args<'a> {
    /// The inputs.
    pub inputs: Vec<&'a [u32]>,
    /// The outputs, disjoint from each other and from the inputs. Their contents are whatever was there before.
    pub outputs: Vec<&'a mut [u32]>,
}

impl<'a> Args<'a> {
    /// Input `index` as elements of `T`.
    pub fn input<T: bytemuck::Pod>(&self, index: usize) -> &'a [T] {
        bytemuck::cast_slice(self.inputs[index])
    }

    /// Output `index` as elements of `T`.
    pub fn output<T: bytemuck::Pod>(&mut self, index: usize) -> &mut [T] {
        bytemuck::cast_slice_mut(self.outputs[index])
    }
}

/// What a kernel may want to know of a GPU to choose its variant and grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuTraits {
    /// A software driver: workgroup memory is slow, lanes belong along the columns.
    pub software: bool,
    /// Threads of every subgroup, where shaders may use subgroups and all have the same size; else 0.
    pub subgroup: u32,
    /// The largest grid dimension.
    pub max_workgroups: u32,
    /// The cooperative matrices that shaders may use.
    pub cooperative: Option<Cooperative>,
}

/// Matrices that a subgroup multiplies as one operation: of f16, with sums in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cooperative {
    /// Their rows and columns: 8 or 16.
    pub side: u32,
    /// Threads of a subgroup, at most.
    pub lanes: u32,
}

impl GpuTraits {
    /// A grid of at least `workgroups` workgroups, folded into two dimensions where one is too long. Kernels see the
    /// workgroup's number as `id.x + id.y * count.x` and ignore those past the end.
    pub fn grid(&self, workgroups: usize) -> [u32; 3] {
        let limit = self.max_workgroups as usize;
        let rows = workgroups.div_ceil(limit).max(1);
        [workgroups.div_ceil(rows) as u32, rows as u32, 1]
    }
}

/// One run of a shader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatch {
    /// Which shader.
    pub shader: Shader,
    /// The uniform's words; empty where the shader has none.
    pub params: Vec<u32>,
    /// Workgroups in x, y and z.
    pub workgroups: [u32; 3],
}

/// Names a shader; equal names are one pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Shader {
    /// A file of `shaders/`, specialised by the values of its `override` constants.
    File {
        /// The file's name without `.wgsl`.
        name: &'static str,
        /// Values of `override` constants.
        constants: Vec<(&'static str, u32)>,
    },
    /// A pointwise shader generated from a program over operands of these kinds.
    Pointwise(Arc<Program>, crate::expr::Access),
    /// WGSL given by a program that uses Everstep.
    Custom(Cow<'static, str>),
}

/// The commands recorded since the last flush.
#[derive(Debug, Default)]
pub struct Recording {
    commands: Vec<Command>,
    fences: Vec<usize>,
    upload_bytes: usize,
}

impl Recording {
    /// Appends a command.
    pub fn push(&mut self, command: Command) {
        if let Work::Upload(data) = &command.work {
            self.upload_bytes += data.len();
        }
        self.commands.push(command);
    }

    /// Puts a command before all others.
    pub(crate) fn push_first(&mut self, command: Command) {
        self.push(command);
        self.commands.rotate_right(1);
        self.fences.iter_mut().for_each(|fence| *fence += 1);
    }

    /// The commands, oldest first.
    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// Bytes of host data held by uploads.
    pub fn upload_bytes(&self) -> usize {
        self.upload_bytes
    }

    /// What follows is not joined with what is there.
    pub fn fence(&mut self) {
        self.fences.push(self.commands.len());
    }

    /// The commands, oldest first, and the positions of those behind a fence.
    pub fn into_parts(self) -> (Vec<Command>, Vec<usize>) {
        (self.commands, self.fences)
    }
}
