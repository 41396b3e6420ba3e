//! A device: an open recording in front of an executor.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use smallvec::SmallVec;

use crate::capture::{Captured, Request, Trace};
use crate::counters::AtomicCounters;
use crate::executor::Executor;
use crate::life::Life;
use crate::loss::{Current, Opened, Planned, Source};
use crate::passes::{Allocator, MemoryId, Place, Plan, elide, fuse};
use crate::profile::{self, Profile};
use crate::readback::{Pending, Readback};
use crate::{Buffer, BufferId, Command, Counters, Error, GpuTraits, Recording, Result, Slice, Work, status};

/// Commands after which a recording runs without being asked to: bounds the work that waits on the host.
const FLUSH_COMMANDS: usize = 4096;
/// Bytes of waiting host data after which a recording runs.
const FLUSH_UPLOAD_BYTES: usize = 64 << 20;
/// The buffer of the data status; it is never dropped.
const STATUS: BufferId = BufferId(0);

/// What runs the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceKind {
    /// The native CPU engine.
    Cpu,
    /// A GPU, or a software driver of one, through wgpu.
    Gpu,
    /// Nothing: work is planned and dropped. For tests of recordings.
    Null,
}

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// What runs the work.
    pub kind: DeviceKind,
    /// The processor's or adapter's name.
    pub name: String,
    /// What it is driven by: SIMD level and threads, or the GPU's API and driver.
    pub driver: String,
    /// A GPU driver that runs on the CPU.
    pub software: bool,
    /// Of a GPU, what its kernels choose by.
    pub traits: Option<GpuTraits>,
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Gpu => "gpu",
            DeviceKind::Null => "null",
        };
        write!(f, "{kind}: {} ({})", self.name, self.driver)
    }
}

/// The limits on sizes, each with the name by which an error calls it: of a buffer, and of the part of one that a
/// kernel can see at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SizeLimits {
    pub(crate) buffer: (&'static str, usize),
    pub(crate) binding: (&'static str, usize),
}

/// A handle on a device; clones are the same device.
#[derive(Clone)]
pub struct Device(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) current: Mutex<Current>,
    pub(crate) planned: Planned,
    pub(crate) next_buffer: AtomicU64,
    fuses: AtomicBool,
    pub(crate) failures: Arc<AtomicU64>,
    pub(crate) counters: AtomicCounters,
    pub(crate) recorder: Mutex<Recorder>,
    // Apart from the recorder, so that dropping a handle never waits for a running recording.
    dropped: Mutex<Vec<BufferId>>,
    dropped_captures: Mutex<Vec<u64>>,
    pub(crate) engine: Mutex<Engine>,
    pub(crate) profile: Mutex<Option<Arc<Profile>>>,
}

impl Drop for Shared {
    /// A driver that hangs must not take the program with it.
    fn drop(&mut self) {
        self.engine.get_mut().unwrap_or_else(PoisonError::into_inner).retire();
    }
}

// Said once, here: to prove it anew, through all of wgpu's types, for every type that holds a tensor is more than
// rustdoc's recursion allows.
// SAFETY: what a device shares is `Send` and `Sync`, which the compiler checks below.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

const fn assert_shared<T: Send + Sync>() {}
const _: () = assert_shared::<Arc<Shared>>();

/// What came of a flush: a recording's trace where it was asked for, and its plan where there was one.
pub(crate) type Ran = (Option<std::result::Result<Trace, &'static str>>, Option<Plan>);

/// Where an executor notes what it runs, while the process is profiled.
pub(crate) type Noting<'a> = Option<&'a Arc<Profile>>;

/// A recording, the sizes of the buffers that it touches, and buffers without handles.
type Taken = ((Vec<Command>, Vec<usize>), HashMap<BufferId, usize>, HashSet<BufferId>);

#[derive(Default)]
pub(crate) struct Recorder {
    recording: Recording,
    sizes: HashMap<BufferId, usize>,
    // The thread whose recording may be kept, and whether another one has recorded since it began.
    pub(crate) capturing: Option<(ThreadId, bool)>,
}

pub(crate) struct Engine {
    pub(crate) allocator: Allocator,
    pub(crate) captures: HashMap<u64, Captured>,
    pub(crate) next_capture: u64,
    pub(crate) executor: Executor,
    pub(crate) source: Source,
    pub(crate) life: Arc<Life>,
}

impl Engine {
    /// Runs a plan whose memory is there. What the executor needs beside it may not fit: then the pool is given back and
    /// it is tried once more. Nothing was submitted until then.
    fn run(&mut self, plan: &Plan, counters: &AtomicCounters, profile: Noting<'_>) -> Result<()> {
        match self.executor.run(plan, counters, profile) {
            Err(Error::OutOfMemory { .. }) => {
                self.give_back(&plan.memory());
                self.executor.run(plan, counters, profile)
            }
            outcome => outcome,
        }
    }

    /// As [`Executor::read`], with a second try as in [`Engine::run`].
    fn read(&mut self, places: &[Place], clear: Option<Place>) -> Result<Pending> {
        let outcome = match self.executor.read(places, clear) {
            Err(Error::OutOfMemory { .. }) => {
                self.give_back(&HashSet::new());
                self.executor.read(places, clear)
            }
            outcome => outcome,
        };
        match outcome {
            Ok(_) if self.life.is_stalled() => Ok(Pending::Stalled),
            outcome => outcome.map_err(|error| self.life.check().err().unwrap_or(error)),
        }
    }

    /// Gives pooled memory back to the system, but that in `keep`; whether there was any.
    fn give_back(&mut self, keep: &HashSet<MemoryId>) -> bool {
        // What was kept to save time can be made again.
        self.drop_captures();
        let trimmed = self.allocator.trim(keep);
        self.executor.destroy(&trimmed);
        !trimmed.is_empty()
    }

    /// After memory ran out: what can be freed is freed.
    fn undo_create(&mut self, plan: &Plan) {
        let created: HashSet<_> = plan.create.iter().map(|(memory, _)| *memory).collect();
        self.allocator.forget(&created);
        self.give_back(&HashSet::new());
        self.executor.destroy(&created.into_iter().collect::<Vec<_>>());
    }

    /// Creates the plan's memory. Where there is too little, the pooled memory that the plan does not use is given back
    /// first: it serves only buffers of its own size, and shapes may have changed since.
    fn create(&mut self, plan: &Plan) -> Result<()> {
        let Err(error) = self.executor.create(plan) else { return Ok(()) };
        if self.give_back(&plan.memory()) { self.executor.create(plan) } else { Err(error) }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// A device of its own.
    #[cfg(feature = "gpu")]
    pub(crate) fn open(source: Source) -> Result<Self> {
        let failures = Arc::default();
        let opened = source.open(0, &failures)?;
        Ok(Self::from_opened(source, opened, failures))
    }

    pub(crate) fn from_opened(source: Source, opened: Opened, failures: Arc<AtomicU64>) -> Self {
        let Opened { executor, current } = opened;
        let engine = Engine {
            allocator: Allocator::default(),
            captures: HashMap::new(),
            next_capture: 0,
            executor,
            source,
            life: current.life.clone(),
        };
        let device = Self(Arc::new(Shared {
            current: Mutex::new(current),
            planned: Planned::default(),
            next_buffer: AtomicU64::new(STATUS.0 + 1),
            fuses: AtomicBool::new(true),
            failures,
            counters: AtomicCounters::default(),
            recorder: Mutex::default(),
            dropped: Mutex::default(),
            dropped_captures: Mutex::default(),
            engine: Mutex::new(engine),
            profile: Mutex::default(),
        }));
        lock(&device.0.recorder).sizes.insert(STATUS, device.status().bytes);
        device.drop_recording();
        if profile::is_on() {
            let profile = Profile::open(&device);
            *lock(&device.0.profile) = profile;
        }
        device
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    /// Empties the open recording, but for what a new executor needs first.
    pub(crate) fn drop_recording(&self) {
        let mut recorder = lock(&self.0.recorder);
        recorder.recording = Recording::default();
        recorder.recording.push(self.status_reset());
    }

    /// What it is now: [`Device::fall_back_to_cpu`] changes it.
    pub fn info(&self) -> Arc<DeviceInfo> {
        lock(&self.0.current).info.clone()
    }

    fn limits(&self) -> SizeLimits {
        lock(&self.0.current).limits
    }

    /// Whether two handles are the same device.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What it did so far.
    pub fn counters(&self) -> Counters {
        self.0.counters.snapshot()
    }

    /// Whether chains of pointwise commands are joined, as they are by default. The CPU engine gives the same bits either way;
    /// a GPU's compiler may contract across what is joined.
    pub fn set_fuse(&self, fuse: bool) {
        self.0.fuses.store(fuse, Ordering::Relaxed);
    }

    /// A new buffer of `bytes` bytes for `op`, which a kernel can bind as a whole. Its memory is assigned when a
    /// recording writes it.
    ///
    /// # Errors
    /// [`Error::TooLarge`] past the device's limit for one binding.
    pub fn buffer(&self, op: &'static str, bytes: usize) -> Result<Buffer> {
        let (limit_name, limit) = self.limits().binding;
        if bytes > limit {
            return Err(Error::TooLarge { op, bytes, limit_name, limit });
        }
        self.windowed_buffer(op, bytes)
    }

    /// A new buffer that kernels bind in windows of at most [`Device::window_bytes`].
    ///
    /// # Errors
    /// [`Error::TooLarge`] past the device's limit for one buffer.
    pub fn windowed_buffer(&self, op: &'static str, bytes: usize) -> Result<Buffer> {
        let (limit_name, limit) = self.limits().buffer;
        if bytes > limit {
            return Err(Error::TooLarge { op, bytes, limit_name, limit });
        }
        let id = BufferId(self.0.next_buffer.fetch_add(1, Ordering::Relaxed));
        lock(&self.0.recorder).sizes.insert(id, bytes);
        Ok(Buffer::new(self.clone(), id, bytes))
    }

    /// The largest part of a buffer that a kernel can bind, in bytes, a multiple of [`crate::ALIGNMENT`].
    pub fn window_bytes(&self) -> usize {
        self.limits().binding.1 / crate::ALIGNMENT * crate::ALIGNMENT
    }

    /// Where kernels report data outside its range, see [`status`].
    pub fn status(&self) -> Slice {
        Slice { buffer: STATUS, offset: 0, bytes: status::WORDS * 4 }
    }

    /// Appends a command to the open recording, which runs where it has grown too long. On a lost device it is dropped.
    ///
    /// # Errors
    /// [`Error::Command`] where no executor could run it; those of the recording where it runs.
    pub fn record(&self, command: Command) -> Result<()> {
        let mut recorder = lock(&self.0.recorder);
        let check = command.check(|buffer| recorder.sizes.get(&buffer).copied());
        check.map_err(|reason| Error::Command { op: command.op, reason })?;
        recorder.recording.push(command);
        if let Some((thread, disturbed)) = &mut recorder.capturing {
            *disturbed |= *thread != std::thread::current().id();
        }
        let commands = recorder.recording.commands().len();
        let full = commands >= FLUSH_COMMANDS || recorder.recording.upload_bytes() >= FLUSH_UPLOAD_BYTES;
        drop(recorder);
        if full { self.flush() } else { Ok(()) }
    }

    /// What is recorded from here on is not joined with what was recorded before, as between a step and what comes before it.
    pub fn fence(&self) {
        lock(&self.0.recorder).recording.fence();
    }

    /// How many recordings have failed, each with all its commands; it counts losses of the device, too. What was written
    /// by a command recorded before the last failure may not have been.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Acquire)
    }

    /// Runs the open recording. On a GPU it is submitted and runs on by itself, on the CPU it has run at the return.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Unwritten`], [`Error::DeviceLost`], [`Error::Driver`]. None of the recording's
    /// results exist then: memory that it was to write first is unwritten, other memory may hold what it did before.
    pub fn flush(&self) -> Result<()> {
        self.flush_engine(&mut lock(&self.0.engine), None).map(drop)
    }

    /// As [`Device::flush`]; for a recording that may be kept, its trace and its plan.
    pub(crate) fn flush_engine(&self, engine: &mut Engine, request: Option<&Request<'_>>) -> Result<Ran> {
        let Some(((commands, fences), sizes, dead)) = self.take_recording(engine) else {
            engine.check()?;
            return Ok((None, None));
        };
        // On a lost device the recording is dropped.
        engine.check()?;
        if commands.is_empty() {
            engine.allocator.release(dead);
            return Ok((None, None));
        }
        let flushes = self.counters().flushes;
        let trace = request.map(|request| request.trace(&commands, &dead, flushes));
        let resets = commands.iter().any(|command| command.outputs[..] == [self.status()]);
        let plan = self.run(engine, (commands, &fences), &sizes, &dead).inspect_err(|_| {
            self.0.failures.fetch_add(1, Ordering::AcqRel);
            if resets {
                lock(&self.0.recorder).recording.push_first(self.status_reset());
            }
        })?;
        Ok((trace, Some(plan)))
    }

    fn run(
        &self,
        engine: &mut Engine,
        (mut commands, fences): (Vec<Command>, &[usize]),
        sizes: &HashMap<BufferId, usize>,
        dead: &HashSet<BufferId>,
    ) -> Result<Plan> {
        let (counters, profile) = (&self.0.counters, self.profile());
        let _span = profile.clone().map(|profile| profile.host("flush"));
        let fused = if self.0.fuses.load(Ordering::Relaxed) { fuse(&mut commands, fences, dead) } else { 0 };
        let elided = elide(&mut commands, sizes, dead, |buffer| engine.allocator.is_resident(buffer));
        let mut plan = engine.allocator.plan(commands, sizes, dead)?;
        AtomicCounters::add(&counters.flushes, 1);
        AtomicCounters::add(&counters.commands, plan.commands.len());
        AtomicCounters::add(&counters.dropped, plan.dropped);
        AtomicCounters::add(&counters.fused, fused);
        AtomicCounters::add(&counters.elided, elided);
        for command in &plan.commands {
            if let Work::Upload(data) = &command.work {
                AtomicCounters::add(&counters.upload_bytes, data.len());
            }
        }
        let created = engine.create(&plan);
        let out_of_memory = created.is_err();
        let outcome = created
            .and_then(|()| self.before_submission(engine))
            .and_then(|()| engine.run(&plan, counters, profile.as_ref()));
        let outcome = outcome.map_err(|error| engine.life.check().err().unwrap_or(error));
        if outcome.is_err() {
            // Its results are unwritten; memory that held something before keeps it.
            engine.allocator.release(plan.fresh.iter().copied());
        } else {
            engine.allocator.confirm(&mut plan);
        }
        if out_of_memory {
            engine.undo_create(&plan);
        }
        counters.memory_bytes.store(engine.allocator.total_bytes() as u64, Ordering::Relaxed);
        outcome.map(|()| plan)
    }

    /// What is open, with the sizes of its buffers and those whose last handle is gone; `None` where there is nothing to do.
    fn take_recording(&self, engine: &mut Engine) -> Option<Taken> {
        let mut recorder = lock(&self.0.recorder);
        lock(&self.0.dropped_captures).drain(..).for_each(|id| engine.drop_capture(id));
        let mut dropped = lock(&self.0.dropped);
        if recorder.recording.commands().is_empty() && dropped.is_empty() {
            return None;
        }
        let dead: HashSet<_> = dropped.drain(..).collect();
        drop(dropped);
        if !engine.captures.is_empty() {
            engine.drop_captures_of(&dead);
        }
        let recorded = std::mem::take(&mut recorder.recording).into_parts();
        let touched = recorded.0.iter().flat_map(|command| command.inputs.iter().chain(&command.outputs));
        let sizes = touched.filter_map(|s| Some((s.buffer, *recorder.sizes.get(&s.buffer)?))).collect();
        dead.iter().for_each(|id| {
            recorder.sizes.remove(id);
        });
        Some((recorded, sizes, dead))
    }

    /// Runs the open recording and begins to read `slices` back. The host does not wait for a GPU. Data errors reported so
    /// far go with this read-back, and later ones with a later one.
    ///
    /// # Errors
    /// Those of the recording, and [`Error::Unwritten`] where a slice was never computed; [`Error::DeviceLost`] also where
    /// it lay on the device before it was lost.
    pub fn read(&self, slices: &[Slice]) -> Result<Readback> {
        self.begin_read(slices, true)
    }

    /// As [`Device::read`], of what says itself whether it is valid: data errors are neither told nor cleared.
    ///
    /// # Errors
    /// Those of the recording, and [`Error::Unwritten`] where a slice was never computed; [`Error::DeviceLost`] also where
    /// it lay on the device before it was lost.
    pub fn read_unchecked(&self, slices: &[Slice]) -> Result<Readback> {
        self.begin_read(slices, false)
    }

    fn begin_read(&self, slices: &[Slice], with_status: bool) -> Result<Readback> {
        let mut engine = lock(&self.0.engine);
        self.flush_engine(&mut engine, None)?;
        let status = with_status.then(|| self.status());
        let places = slices.iter().copied().chain(status);
        let places = places.map(|slice| engine.allocator.written_place("read", slice));
        let places = places.collect::<Result<SmallVec<[_; 4]>>>()?;
        let clear = places.last().copied().filter(|_| with_status);
        self.before_submission(&mut engine)?;
        let pending = engine.read(&places, clear)?;
        AtomicCounters::add(&self.0.counters.reads, 1);
        Ok(Readback::new(self.clone(), engine.life.clone(), pending, with_status))
    }

    /// Runs the open recording and waits until all work is done: for timing, and before a device is handed over.
    ///
    /// # Errors
    /// Those of the recording; [`Error::OutOfRange`] where an op met data outside its range since the last read-back.
    pub fn synchronize(&self) -> Result<()> {
        self.read(&[])?.wait().map(drop)
    }

    /// Gives pooled memory that no tensor uses back to the system.
    pub fn trim(&self) -> Result<()> {
        let mut engine = lock(&self.0.engine);
        self.flush_engine(&mut engine, None)?;
        engine.give_back(&HashSet::new());
        self.0.counters.memory_bytes.store(engine.allocator.total_bytes() as u64, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn count_blocking_read(&self) {
        AtomicCounters::add(&self.0.counters.blocking_reads, 1);
    }

    pub(crate) fn count_paced_read(&self) {
        AtomicCounters::add(&self.0.counters.paced_reads, 1);
    }

    fn status_reset(&self) -> Command {
        let zero = Work::Upload(Arc::from(vec![0u8; status::WORDS * 4]));
        Command { op: "status", work: zero, inputs: vec![], outputs: vec![self.status()] }
    }

    pub(crate) fn forget_capture(&self, id: u64) {
        lock(&self.0.dropped_captures).push(id);
    }

    /// Called when the last handle on a buffer is gone.
    pub(crate) fn forget(&self, buffer: BufferId) {
        lock(&self.0.dropped).push(buffer);
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.info())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info().fmt(f)
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        self.is(other)
    }
}
