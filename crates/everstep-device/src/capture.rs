//! Recordings that are kept: the same work once more on other inputs, without recording it anew.
//!
//! Two recordings are the same where their commands are, buffers made within them called by the order in which they come. Then
//! the second one's plan is kept, memory included, and run again by [`Device::replay`]. The memory of what dies within it is
//! shared with whoever else runs in between, and with other kept recordings.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::counters::AtomicCounters;
use crate::device::{Engine, Noting, lock};
use crate::passes::{Place, Plan};
use crate::{BufferId, Command, Device, Dispatch, Error, GpuTraits, Region, Result, Slice, Work};

/// Where a recording begins that may be kept: what [`Device::begin_capture`] gives.
#[derive(Debug)]
pub struct Start {
    // Buffers from here on are made within it.
    first: BufferId,
    flushes: u64,
}

/// The commands of a recording, comparable with those of another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace(Vec<Traced>);

impl Trace {
    /// Buffers that were there before and are not inputs.
    fn outer(&self) -> impl Iterator<Item = BufferId> + '_ {
        let slices = self.0.iter().flat_map(|command| command.inputs.iter().chain(&command.outputs));
        slices.filter_map(|slice| if let Of::Outer(buffer) = slice.of { Some(buffer) } else { None })
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Traced {
    op: &'static str,
    work: TracedWork,
    inputs: Vec<TracedSlice>,
    outputs: Vec<TracedSlice>,
}

#[derive(Clone, Debug, PartialEq)]
enum TracedWork {
    Kernel(&'static str, Option<Dispatch>),
    Upload(Arc<[u8]>),
    Copy,
}

#[derive(Clone, Debug, PartialEq)]
struct TracedSlice {
    of: Of,
    offset: usize,
    bytes: usize,
}

/// What a slice is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Of {
    /// An input, by its position.
    Input(usize),
    /// A buffer made within the recording, by the order in which they come.
    Made(usize),
    /// A buffer that was there before.
    Outer(BufferId),
}

/// What came of a recording that might have been kept. It has run in any case.
#[derive(Debug)]
pub enum Kept {
    /// It is the same as the earlier one, and can be run again.
    Capture(Capture),
    /// It is another one, for the next to be compared with.
    Trace(Trace),
    /// It cannot be run again, for this reason.
    Refused(&'static str),
}

/// A kept recording. It is forgotten when this is dropped.
#[derive(Debug)]
pub struct Capture {
    id: u64,
    device: Device,
    trace: Trace,
    // What it writes anew each time and the program reads.
    _outputs: Vec<Region>,
}

impl Capture {
    /// Its commands.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.device.forget_capture(self.id);
    }
}

/// A kept recording as the engine has it.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) plan: Plan,
    pub(crate) patches: Vec<Patch>,
    // Bytes of each input.
    sizes: Vec<usize>,
    // Buffers that were there before and are not inputs.
    outer: HashSet<BufferId>,
}

/// An input of a planned command that is a part of an input of the whole.
#[derive(Debug)]
pub(crate) struct Patch {
    pub(crate) command: usize,
    pub(crate) at: usize,
    input: usize,
    // From the input's first byte on.
    offset: usize,
}

/// For comparing kernels alone: any GPU's would do.
const TRAITS: GpuTraits = GpuTraits { software: false, max_workgroups: 65_535, subgroup: 0, cooperative: None };

/// Gives buffers names that do not change from recording to recording.
struct Naming<'a> {
    inputs: &'a [Slice],
    first: BufferId,
    made: HashMap<BufferId, usize>,
}

impl Naming<'_> {
    fn of(&mut self, buffer: BufferId) -> Of {
        if let Some(index) = self.inputs.iter().position(|input| input.buffer == buffer) {
            return Of::Input(index);
        }
        if buffer < self.first {
            return Of::Outer(buffer);
        }
        let next = self.made.len();
        Of::Made(*self.made.entry(buffer).or_insert(next))
    }

    fn slice(&mut self, slice: &Slice) -> TracedSlice {
        let of = self.of(slice.buffer);
        // An input may lie anywhere in its buffer; what counts is where in the input.
        let base = if let Of::Input(index) = of { self.inputs[index].offset } else { 0 };
        TracedSlice { of, offset: slice.offset.wrapping_sub(base), bytes: slice.bytes }
    }

    fn command(&mut self, command: &Command) -> std::result::Result<Traced, &'static str> {
        let work = match &command.work {
            Work::Kernel(kernel) => {
                let dispatch = kernel.dispatch(&TRAITS);
                if dispatch.is_none() && command.outputs.iter().any(|output| output.bytes > 0) {
                    return Err("a kernel of it says nothing that it can be compared by: it has no shader");
                }
                TracedWork::Kernel(kernel.name(), dispatch)
            }
            Work::Upload(data) => TracedWork::Upload(data.clone()),
            Work::Copy => TracedWork::Copy,
        };
        let outputs: Vec<_> = command.outputs.iter().map(|slice| self.slice(slice)).collect();
        if outputs.iter().any(|output| matches!(output.of, Of::Input(_))) {
            return Err("it changes one of its inputs");
        }
        let inputs = command.inputs.iter().map(|slice| self.slice(slice)).collect();
        Ok(Traced { op: command.op, work, inputs, outputs })
    }
}

/// What a flush is asked to keep.
pub(crate) struct Request<'a> {
    start: Start,
    inputs: &'a [Slice],
    outputs: &'a [Region],
}

impl Request<'_> {
    /// The trace of the recording, or why there can be none.
    pub(crate) fn trace(
        &self,
        commands: &[Command],
        dead: &HashSet<BufferId>,
        flushes: u64,
    ) -> std::result::Result<Trace, &'static str> {
        if flushes != self.start.flushes {
            return Err("it was run in parts: it reads a result back, or is too long");
        }
        let alone = |(at, input): (usize, &Slice)| self.inputs[..at].iter().all(|other| other.buffer != input.buffer);
        if !self.inputs.iter().enumerate().all(alone) {
            return Err("two of its inputs are parts of one buffer");
        }
        let mut naming = Naming { inputs: self.inputs, first: self.start.first, made: HashMap::new() };
        let traced = commands.iter().map(|command| naming.command(command)).collect::<std::result::Result<_, _>>()?;
        let wanted = |id: &BufferId| self.outputs.iter().any(|output| output.buffer().id() == *id);
        if naming.made.keys().any(|id| !dead.contains(id) && !wanted(id)) {
            return Err("a tensor made in it is still in use");
        }
        let trace = Trace(traced);
        if trace.outer().any(|id| dead.contains(&id)) {
            return Err("a tensor that it reads is gone");
        }
        Ok(trace)
    }

    /// The planned recording as it is run again. `place` tells where an input lies.
    fn captured(&self, plan: Plan, trace: &Trace, place: impl Fn(Slice) -> Option<Place>) -> Captured {
        let inputs: Vec<_> = self.inputs.iter().map(|&input| place(input)).collect();
        let mut patches = Vec::new();
        for (command, planned) in plan.commands.iter().enumerate() {
            for (at, found) in planned.inputs.iter().enumerate() {
                let is_of = |input: &Option<Place>| input.is_some_and(|input| input.memory == found.memory);
                if let Some(input) = inputs.iter().position(is_of) {
                    let start = inputs[input].map_or(0, |input| input.offset);
                    patches.push(Patch { command, at, input, offset: found.offset.saturating_sub(start) });
                }
            }
        }
        let sizes = self.inputs.iter().map(|input| input.bytes).collect();
        Captured { patches, sizes, outer: trace.outer().collect(), plan }
    }
}

impl Device {
    /// Begins a recording that may be kept: runs what is open.
    ///
    /// # Errors
    /// As [`Device::flush`].
    pub fn begin_capture(&self) -> Result<Start> {
        self.flush()?;
        let mut recorder = lock(&self.shared().recorder);
        // Two threads that capture at once disturb each other, and neither is kept.
        let other = recorder.capturing.is_some_and(|(thread, _)| thread != std::thread::current().id());
        recorder.capturing = Some((std::thread::current().id(), other));
        drop(recorder);
        let first = BufferId(self.shared().next_buffer.load(Ordering::Relaxed));
        Ok(Start { first, flushes: self.counters().flushes })
    }

    /// Runs the open recording, as a flush does. Where it is the same as `earlier`, on other inputs, it is kept. `inputs` are
    /// what differs from run to run and is only read, `outputs` what is made in it and read by the program.
    ///
    /// # Errors
    /// As [`Device::flush`].
    pub fn end_capture(
        &self,
        start: Start,
        inputs: &[Slice],
        outputs: Vec<Region>,
        earlier: Option<&Trace>,
    ) -> Result<Kept> {
        let mut engine = lock(&self.shared().engine);
        let capturing = lock(&self.shared().recorder).capturing.take();
        let alone = capturing.is_some_and(|(thread, disturbed)| !disturbed && thread == std::thread::current().id());
        let request = Request { start, inputs, outputs: &outputs };
        let (trace, plan) = match self.flush_engine(&mut engine, Some(&request))? {
            (Some(Ok(_)), Some(_)) if !alone => return Ok(Kept::Refused("another thread recorded work in between")),
            (Some(Ok(trace)), Some(plan)) => (trace, plan),
            (Some(Err(reason)), _) => return Ok(Kept::Refused(reason)),
            _ => return Ok(Kept::Refused("it has no work")),
        };
        if earlier != Some(&trace) {
            return Ok(Kept::Trace(trace));
        }
        let captured = request.captured(plan, &trace, |slice| engine.allocator.place(slice));
        match engine.keep(captured) {
            Ok(id) => Ok(Kept::Capture(Capture { id, device: self.clone(), trace, _outputs: outputs })),
            Err(error @ Error::DeviceLost { .. }) => Err(error),
            // The work has been done: an error would say that it has not.
            Err(error) => {
                tracing::debug!(%error, "a recording is not kept");
                Ok(Kept::Refused("the device has no room to keep it"))
            }
        }
    }

    /// Runs a kept recording on other inputs of the same sizes. `false` where it is no longer there, and nothing was done: the
    /// device was lost, memory was short, or a tensor that it reads is gone.
    ///
    /// # Errors
    /// As [`Device::flush`]; [`crate::Error::Command`] where the inputs are not those of the capture in number.
    pub fn replay(&self, capture: &Capture, inputs: &[Slice]) -> Result<bool> {
        let mut engine = lock(&self.shared().engine);
        self.flush_engine(&mut engine, None)?;
        if !engine.captures.contains_key(&capture.id) {
            return Ok(false);
        }
        self.before_submission(&mut engine)?;
        let counters = &self.shared().counters;
        let profile = self.profile();
        let _span = profile.clone().map(|profile| profile.host("replay"));
        let outcome = engine.replay(capture.id, inputs, counters, profile.as_ref());
        outcome.inspect_err(|_| {
            self.shared().failures.fetch_add(1, Ordering::AcqRel);
        })?;
        Ok(true)
    }
}

impl Engine {
    /// Keeps a recording that has just run.
    fn keep(&mut self, captured: Captured) -> Result<u64> {
        self.allocator.share(&captured.plan.temporaries);
        let id = self.next_capture;
        self.next_capture += 1;
        let outcome = self.executor.keep(id, &captured.plan);
        self.captures.insert(id, captured);
        outcome.inspect_err(|_| self.drop_capture(id))?;
        Ok(id)
    }

    /// Forgets a kept recording: its memory is anyone's.
    pub(crate) fn drop_capture(&mut self, id: u64) {
        if let Some(captured) = self.captures.remove(&id) {
            self.allocator.unshare(&captured.plan.temporaries);
            self.executor.drop_kept(id);
        }
    }

    /// As [`Engine::drop_capture`], all of them.
    pub(crate) fn drop_captures(&mut self) {
        for id in self.captures.keys().copied().collect::<Vec<_>>() {
            self.drop_capture(id);
        }
    }

    /// Forgets the kept recordings that read one of `gone`.
    pub(crate) fn drop_captures_of(&mut self, gone: &HashSet<BufferId>) {
        let stale = |captured: &Captured| gone.iter().any(|buffer| captured.outer.contains(buffer));
        let stale: Vec<_> = self.captures.iter().filter(|(_, captured)| stale(captured)).map(|(&id, _)| id).collect();
        stale.into_iter().for_each(|id| self.drop_capture(id));
    }

    fn replay(&mut self, id: u64, inputs: &[Slice], counters: &AtomicCounters, profile: Noting<'_>) -> Result<()> {
        let Self { captures, allocator, executor, life, .. } = self;
        let Some(captured) = captures.get_mut(&id) else { return Ok(()) };
        if !captured.sizes.iter().copied().eq(inputs.iter().map(|input| input.bytes)) {
            return Err(Error::Command {
                op: "replay",
                reason: "its inputs are not of the sizes of those that it was captured with",
            });
        }
        for patch in &captured.patches {
            let input = allocator.written_place("replay", inputs[patch.input])?;
            let place = &mut captured.plan.commands[patch.command].inputs[patch.at];
            (place.memory, place.offset) = (input.memory, input.offset + patch.offset);
        }
        AtomicCounters::add(&counters.flushes, 1);
        AtomicCounters::add(&counters.replays, 1);
        AtomicCounters::add(&counters.commands, captured.plan.commands.len());
        let outcome = executor.replay(id, captured, counters, profile);
        outcome.map_err(|error| life.check().err().unwrap_or(error))
    }
}
