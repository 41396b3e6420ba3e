//! Runs planned commands one after the other, each on all threads.

use std::sync::{Arc, OnceLock};

use rayon::ThreadPool;
use rayon::prelude::*;

use super::memory::{Memory, Operands};
use super::scratch::{self, Scratch};
use super::simd;
use crate::device::Noting;
use crate::life::Life;
use crate::passes::{MemoryId, Place, Plan, PlannedCommand};
use crate::readback::{Bytes, Parts};
use crate::{Args, Error, Result, Work};

/// The threads of the CPU engine: one pool per process, apart from rayon's global one. A kernel's thread that waits
/// steals only kernels' work, never a task of the program's that might want this device.
fn pool() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    POOL.get_or_init(|| {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        rayon::ThreadPoolBuilder::new()
            .thread_name(|index| format!("everstep-{index}"))
            .start_handler(move |index| stay(&cores, index))
            .build()
            .ok()
    })
    .as_ref()
}

/// Keeps a thread of the pool on a core of its own, where the pool has one for each core that the process may use. The
/// caller sleeps while kernels run; without this, Linux at times leaves two threads on one core and the caller's idle for
/// tens of milliseconds. A smaller pool shares the machine with others and goes where there is room.
fn stay(cores: &[core_affinity::CoreId], index: usize) {
    if rayon::current_num_threads() == cores.len() {
        // Where the system refuses, the thread runs anywhere, as it would without.
        core_affinity::set_for_current(cores[index]);
    }
}

/// Threads of the CPU engine: as many as the machine has, or `RAYON_NUM_THREADS`.
pub(crate) fn threads() -> usize {
    pool().map_or(1, ThreadPool::current_num_threads)
}

#[derive(Debug)]
pub(crate) struct CpuExecutor {
    memory: Vec<Option<Memory>>,
    // Of the last command: its vectors are used again.
    args: Args<'static>,
    life: Arc<Life>,
    limit: usize,
}

impl CpuExecutor {
    pub(crate) fn new(life: Arc<Life>) -> Self {
        Self { memory: Vec::new(), args: Args::default(), life, limit: memory_limit() }
    }

    /// Gives all memory back.
    pub(crate) fn clear(&mut self) {
        self.memory = Vec::new();
    }

    pub(crate) fn create(&mut self, create: &[(MemoryId, usize)]) -> Result<()> {
        for &(id, bytes) in create {
            let resident: usize = self.memory.iter().flatten().map(|memory| memory.count() * 4).sum();
            // The system may promise more than it has and end the process later: so the sum is checked, too.
            let limit = self.limit.min(self.life.memory_limit());
            let fits = resident.checked_add(bytes).is_some_and(|total| total <= limit);
            let memory = if fits { Memory::new(bytes) } else { None };
            let none = || Error::OutOfMemory { device: self.life.device().into(), bytes, resident };
            let memory = memory.ok_or_else(none)?;
            self.memory.resize_with(self.memory.len().max(id.0 + 1), || None);
            self.memory[id.0] = Some(memory);
        }
        Ok(())
    }

    pub(crate) fn destroy(&mut self, memory: &[MemoryId]) {
        scratch::trim();
        for id in memory {
            if let Some(slot) = self.memory.get_mut(id.0) {
                *slot = None;
            }
        }
    }

    pub(crate) fn run(&mut self, plan: &Plan, profile: Noting<'_>) -> Result<()> {
        let mut args = std::mem::take(&mut self.args);
        let this = &*self;
        let mut command = |command: &PlannedCommand| this.command(command, &mut args);
        let run = || match profile {
            None => plan.commands.iter().try_for_each(command),
            Some(profile) => plan.commands.iter().try_for_each(|each| profile.command(each, || command(each))),
        };
        let outcome = match pool() {
            None => run(),
            // A caller on some rayon worker would run other tasks of its pool while it waits, and one of those could
            // ask for the device that this call holds. A thread that only waits cannot.
            Some(pool) if rayon::current_thread_index().is_some() => {
                let outcome = std::thread::scope(|scope| {
                    let thread = std::thread::Builder::new().spawn_scoped(scope, || pool.install(run))?;
                    Ok(thread.join())
                });
                let failed = |error: std::io::Error| Error::Driver {
                    device: self.life.device().into(),
                    op: "run".into(),
                    reason: error.to_string(),
                };
                outcome.map_err(failed)?.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
            Some(pool) => pool.install(run),
        };
        self.args = args;
        outcome
    }

    fn command(&self, command: &PlannedCommand, storage: &mut Args<'static>) -> Result<()> {
        self.life.check()?;
        let lost = || Error::Unwritten { op: command.op };
        let words = |place: &Place| self.words(place).ok_or_else(lost);
        // An input that overlaps an output is read from a copy: kernels may assume that they are apart.
        let mut copies: Operands<Scratch<u32>> = Operands::new();
        for input in command.inputs.iter().filter(|i| command.outputs.iter().any(|o| overlap(i, o))) {
            let (pointer, count) = words(input)?;
            // SAFETY: within the memory, and nothing writes it during this copy.
            let words = unsafe { std::slice::from_raw_parts(pointer, count) };
            let mut copy = scratch::take(count);
            copy.copy_from_slice(words);
            copies.push(copy);
        }
        let mut copied = copies.iter();
        let mut args = emptied(std::mem::take(storage));
        for input in &command.inputs {
            let aliased = command.outputs.iter().any(|output| overlap(input, output));
            let (pointer, count) = words(input)?;
            args.inputs.push(match copied.as_slice().first().filter(|_| aliased) {
                Some(_) => copied.next().map_or(&[][..], |copy| &copy[..]),
                // SAFETY: within the memory; no output overlaps it, so nothing writes it while the kernel runs.
                None => unsafe { std::slice::from_raw_parts(pointer, count) },
            });
        }
        for (index, output) in command.outputs.iter().enumerate() {
            if command.outputs[..index].iter().any(|earlier| overlap(earlier, output)) {
                let reason = "two outputs overlap".into();
                return Err(Error::Driver { device: self.life.device().into(), op: command.op.into(), reason });
            }
            let (pointer, count) = words(output)?;
            // SAFETY: within the memory, apart from every input (copied otherwise) and from the other outputs.
            args.outputs.push(unsafe { std::slice::from_raw_parts_mut(pointer, count) });
        }
        match &command.work {
            Work::Kernel(kernel) => kernel.run(&mut args),
            Work::Upload(data) => {
                let target: &mut [u8] = bytemuck::cast_slice_mut(&mut *args.outputs[0]);
                target[..data.len()].copy_from_slice(data);
            }
            Work::Copy => copy(args.outputs[0], args.inputs[0]),
        }
        *storage = emptied(args);
        Ok(())
    }

    /// The words of a place, rounded up to whole words.
    fn words(&self, place: &Place) -> Option<(*mut u32, usize)> {
        let memory = self.memory.get(place.memory.0)?.as_ref()?;
        let (start, count) = (place.offset / 4, place.bytes.div_ceil(4));
        // SAFETY: the start lies within the memory, checked first.
        (start + count <= memory.count()).then(|| (unsafe { memory.pointer().add(start) }, count))
    }

    /// The bytes of `places`; `clear` is zeroed behind them.
    pub(crate) fn read(&mut self, places: &[Place], clear: Option<Place>) -> Parts {
        let bytes = |place: &Place| {
            let Some((pointer, count)) = self.words(place) else { return Bytes::new() };
            // SAFETY: within the memory, and `&self` means that nothing runs.
            let words = unsafe { std::slice::from_raw_parts(pointer, count) };
            bytes_of(&bytemuck::cast_slice(words)[..place.bytes])
        };
        let read = places.iter().map(bytes).collect();
        if let Some((pointer, count)) = clear.and_then(|place| self.words(&place)) {
            // SAFETY: within the memory, and `&mut self` means that nothing else looks at it.
            unsafe { std::slice::from_raw_parts_mut(pointer, count) }.fill(0);
        }
        read
    }
}

/// The same vectors without what is in them, which may outlive it. Collecting into the vector that one came from keeps its memory.
fn emptied<'a>(mut args: Args<'_>) -> Args<'a> {
    args.inputs.clear();
    args.outputs.clear();
    Args {
        inputs: args.inputs.into_iter().map(|_| &[][..]).collect(),
        outputs: args.outputs.into_iter().map(|_| &mut [][..]).collect(),
    }
}

/// Words that a thread copies at a time: so many that handing them out costs little beside it.
const COPY_BLOCK: usize = 64 * 1024;

/// A copy of bytes: of many on all threads, as of a state that is saved. New memory costs more than the copy, page by page, and
/// that is shared, too.
fn bytes_of(bytes: &[u8]) -> Bytes {
    match pool() {
        // A caller on some rayon worker would run other tasks while it waits.
        Some(pool) if bytes.len() > 16 * COPY_BLOCK && rayon::current_thread_index().is_none() => {
            let mut copy = vec![0; bytes.len()];
            let blocks = copy.par_chunks_mut(4 * COPY_BLOCK).zip(bytes.par_chunks(4 * COPY_BLOCK));
            pool.install(|| blocks.for_each(|(to, from)| to.copy_from_slice(from)));
            Bytes::from_vec(copy)
        }
        _ => Bytes::from_slice(bytes),
    }
}

/// Copies words on all threads: one alone does not keep the memory busy, and snapshots are large.
fn copy(to: &mut [u32], from: &[u32]) {
    debug_assert_eq!(to.len(), from.len(), "checked when it was recorded");
    let blocks = to.par_chunks_mut(COPY_BLOCK).zip(from.par_chunks(COPY_BLOCK));
    blocks.for_each(|(to, from)| to.copy_from_slice(from));
}

fn overlap(a: &Place, b: &Place) -> bool {
    a.memory == b.memory && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
}

/// The processor, as the CPU device names itself.
pub(crate) fn describe() -> (String, String) {
    let from_system = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_string())
    });
    let name = from_system.unwrap_or_else(|| std::env::consts::ARCH.to_string());
    (name, format!("{} threads, {:?}", threads(), simd::level()))
}

/// The memory that all buffers together can have: the machine's or the control group's, where it can be found out.
pub(crate) fn memory_limit() -> usize {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<usize>().ok()?.checked_mul(1024)
    });
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse::<usize>().ok());
    machine.into_iter().chain(group).min().unwrap_or(isize::MAX as usize)
}
