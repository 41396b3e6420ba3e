//! A device that is lost, and comes back.
//!
//! A [`Device`] is a stable handle with a generation inside: after a loss it is given a new executor, and the program's
//! handles go on working. What lay on it is gone: each buffer must be written anew, and is an error until then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, TryLockError, mpsc};
use std::time::Duration;

use crate::device::{Engine, SizeLimits, lock};
use crate::executor::Executor;
use crate::life::Life;
use crate::passes::Allocator;
use crate::profile::Profile;
use crate::{BufferId, Device, DeviceInfo, DeviceKind, Result, cpu, null};

/// No submission has this number.
const NEVER: u64 = u64::MAX;
/// How long a rebuild waits for the old executor to give back its memory, which the new one may need.
const PARTING: Duration = Duration::from_secs(2);
/// The same where the driver may hang.
const HUNG_PARTING: Duration = Duration::from_millis(50);

/// How a device is opened, and opened again.
#[derive(Clone)]
pub(crate) enum Source {
    Cpu,
    #[cfg(feature = "gpu")]
    Gpu(crate::gpu::Identity),
    Null,
}

/// An executor, and what is known of it.
pub(crate) struct Opened {
    pub(crate) executor: Executor,
    pub(crate) current: Current,
}

/// What a device is now. Apart from the engine, so that nobody who asks waits for a running recording.
pub(crate) struct Current {
    pub(crate) info: Arc<DeviceInfo>,
    pub(crate) limits: SizeLimits,
    pub(crate) life: Arc<Life>,
    #[cfg(feature = "gpu")]
    pub(crate) driver: Option<crate::gpu::Driver>,
}

impl Source {
    /// Opens it as generation `generation` of a device that counts its `failures`.
    pub(crate) fn open(&self, generation: u64, failures: &Arc<AtomicU64>) -> Result<Opened> {
        match self {
            Self::Cpu => Ok(open_cpu(generation, failures)),
            #[cfg(feature = "gpu")]
            Self::Gpu(identity) => identity.open(generation, failures),
            Self::Null => Ok(open_null(generation, failures)),
        }
    }
}

pub(crate) fn open_cpu(generation: u64, failures: &Arc<AtomicU64>) -> Opened {
    let (name, driver) = cpu::describe();
    let info = DeviceInfo { kind: DeviceKind::Cpu, name, driver, software: false, traits: None };
    // Kernels count elements in 32 bits, on every device.
    let limit = ("the machine's memory, or 2^32 elements,", cpu::memory_limit().min(u32::MAX as usize * 4));
    let current = Current::new(info, SizeLimits { buffer: limit, binding: limit }, generation, failures);
    let executor = cpu::CpuExecutor::new(current.life.clone());
    Opened { executor: Executor::Cpu(executor), current }
}

pub(crate) fn open_null(generation: u64, failures: &Arc<AtomicU64>) -> Opened {
    let info = DeviceInfo {
        kind: DeviceKind::Null,
        name: "null".into(),
        driver: "none".into(),
        software: false,
        traits: None,
    };
    let limit = ("the address space", isize::MAX as usize);
    let current = Current::new(info, SizeLimits { buffer: limit, binding: limit }, generation, failures);
    Opened { executor: Executor::Null(null::NullExecutor), current }
}

impl Current {
    pub(crate) fn new(info: DeviceInfo, limits: SizeLimits, generation: u64, failures: &Arc<AtomicU64>) -> Self {
        let life = Life::new(info.to_string(), generation, failures.clone());
        Self {
            info: Arc::new(info),
            limits,
            life,
            #[cfg(feature = "gpu")]
            driver: None,
        }
    }

    /// Ends its life, and what the driver holds of it.
    fn destroy(&self, reason: &str) {
        self.life.end(reason);
        #[cfg(feature = "gpu")]
        if let Some(driver) = &self.driver {
            driver.destroy();
        }
    }
}

/// Faults that were planned for a device.
pub(crate) struct Planned {
    destroy_at: AtomicU64,
    stall_at: AtomicU64,
    // Whether the device cannot come back.
    gone: AtomicBool,
}

impl Default for Planned {
    fn default() -> Self {
        Self { destroy_at: AtomicU64::new(NEVER), stall_at: AtomicU64::new(NEVER), gone: AtomicBool::new(false) }
    }
}

/// Whether a plan is for submission `number` or one before, once.
fn is_due(plan: &AtomicU64, number: u64) -> bool {
    let at = plan.load(Ordering::Acquire);
    at != NEVER && at <= number && plan.compare_exchange(at, NEVER, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

impl Device {
    /// Destroys the device as a driver's reset would: all that lies on it is gone, and each later flush, read and wait is
    /// [`crate::Error::DeviceLost`], until [`Device::rebuild`]. For tests and planned faults. Waits for nothing.
    pub fn destroy(&self) {
        self.end("it was destroyed on request");
    }

    /// As [`Device::destroy`], just before the submission of this number is made: [`crate::Counters::submissions`] is the
    /// number of the next one. Where that was made already, the next one is meant. The last call counts.
    pub fn destroy_at(&self, submission: u64) {
        self.shared().planned.destroy_at.store(submission, Ordering::Release);
    }

    /// As [`Device::destroy`], and each [`Device::rebuild`] fails: for a card that fell off the bus.
    /// [`Device::fall_back_to_cpu`] still works.
    pub fn destroy_for_good(&self) {
        self.shared().planned.gone.store(true, Ordering::Release);
        self.end("it was destroyed for good on request");
    }

    /// From the submission of this number on, counted as for [`Device::destroy_at`], no read-back completes, as on a device
    /// that hangs, until it is lost or rebuilt. Read-backs begun before do complete. For tests of what watches over a device.
    pub fn stall_at(&self, submission: u64) {
        self.shared().planned.stall_at.store(submission, Ordering::Release);
    }

    /// From now on more than so many bytes of buffers are out of memory, as on a smaller device, until it is rebuilt. For tests
    /// and planned faults.
    pub fn limit_memory(&self, bytes: usize) {
        self.life().limit_memory(bytes);
    }

    /// Declares a device lost that no longer answers. Waits for nothing; hosts that wait for a read-back of it get
    /// [`crate::Error::DeviceLost`] with `reason`.
    pub fn declare_lost(&self, reason: &str) {
        let life = self.life();
        life.hang();
        life.end(reason);
    }

    /// Why the device is lost; `None` while it is not.
    pub fn lost(&self) -> Option<String> {
        self.life().why()
    }

    /// How often the device was given a new executor: by [`Device::rebuild`] or [`Device::fall_back_to_cpu`].
    pub fn generation(&self) -> u64 {
        self.life().generation()
    }

    /// Gives the device a new executor of the same kind on the same adapter, with nothing on it; a device that is not lost
    /// is lost by it first. Waiting commands are dropped. Buffers from before exist as handles with nothing written: what
    /// reads one before all of what it reads has been written anew is [`crate::Error::DeviceLost`]. So are waits for
    /// read-backs from before.
    ///
    /// It waits for a recording that another thread runs right now, and a moment for the old executor to give back its
    /// memory, but not for one that was declared lost.
    ///
    /// # Errors
    /// [`crate::Error::NoDevice`] or another error of opening the device; [`crate::Error::DeviceLost`] after
    /// [`Device::destroy_for_good`]. The device is lost then, and it can be tried again.
    pub fn rebuild(&self) -> Result<()> {
        let mut engine = lock(&self.shared().engine);
        let source = engine.source.clone();
        self.replace(&mut engine, source)
    }

    /// Turns this handle into one on a CPU engine of its own, as [`Device::rebuild`] does for the same device: for a GPU
    /// that does not come back.
    ///
    /// # Errors
    /// None so far.
    pub fn fall_back_to_cpu(&self) -> Result<()> {
        let mut engine = lock(&self.shared().engine);
        self.shared().planned.gone.store(false, Ordering::Release);
        self.replace(&mut engine, Source::Cpu)
    }

    fn replace(&self, engine: &mut Engine, source: Source) -> Result<()> {
        let shared = self.shared();
        self.life().end("it was given up for a new one");
        if shared.planned.gone.load(Ordering::Acquire) {
            return Err(self.life().error());
        }
        engine.retire();
        let opened = source.open(self.generation() + 1, &shared.failures)?;
        tracing::info!(device = %opened.current.info, generation = opened.current.life.generation(), "device rebuilt");
        engine.install(source, opened.executor, &opened.current.life, shared.next_buffer.load(Ordering::Relaxed));
        shared.counters.memory_bytes.store(0, Ordering::Relaxed);
        shared.planned.stall_at.store(NEVER, Ordering::Release);
        self.drop_recording();
        // What was recorded since the loss is gone without having failed.
        shared.failures.fetch_add(1, Ordering::AcqRel);
        *lock(&shared.profile) = Profile::reopen(&opened.current.info);
        *lock(&shared.current) = opened.current;
        Ok(())
    }

    fn end(&self, reason: &str) {
        lock(&self.shared().current).destroy(reason);
        // A running recording sees it at its next command; else the memory is given back here.
        match self.shared().engine.try_lock() {
            Ok(mut engine) => engine.abandon(),
            Err(TryLockError::Poisoned(engine)) => engine.into_inner().abandon(),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// Counts a submission that is about to be made, after the faults that were planned for it.
    pub(crate) fn before_submission(&self, engine: &mut Engine) -> Result<()> {
        let shared = self.shared();
        let number = shared.counters.submissions.load(Ordering::Relaxed);
        if is_due(&shared.planned.destroy_at, number) {
            lock(&shared.current).destroy(&format!("it was destroyed as planned, before submission {number}"));
        }
        engine.check()?;
        if is_due(&shared.planned.stall_at, number) {
            engine.life.stall();
        }
        shared.counters.submissions.store(number + 1, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn life(&self) -> Arc<Life> {
        lock(&self.shared().current).life.clone()
    }
}

impl Engine {
    /// [`crate::Error::DeviceLost`] where the executor's life is over; its memory is given back then.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.life.check().inspect_err(|_| self.abandon())
    }

    /// Where the executor's life is over, gives its memory back, as far as that needs no driver.
    fn abandon(&mut self) {
        if let (true, Executor::Cpu(executor)) = (self.life.is_over(), &mut self.executor) {
            executor.clear();
        }
    }

    /// Lets the executor go. A driver that may hang is left to a thread of its own.
    pub(crate) fn retire(&mut self) {
        let executor = std::mem::replace(&mut self.executor, Executor::Null(null::NullExecutor));
        if executor.answers_at_once() || !self.life.is_over() {
            return;
        }
        let (sender, receiver) = mpsc::channel();
        // A driver that panics over a lost device does so there, too.
        let work = move || {
            drop(executor);
            // Nobody may be waiting any more.
            let _ = sender.send(());
        };
        if std::thread::Builder::new().name("everstep-retire".into()).spawn(work).is_ok() {
            let patience = if self.life.is_hung() { HUNG_PARTING } else { PARTING };
            // Past it the new executor has to do with what memory there is.
            let _ = receiver.recv_timeout(patience);
        }
    }

    /// Takes up a new executor. Buffers below `first` lay on the old one.
    fn install(&mut self, source: Source, executor: Executor, life: &Arc<Life>, first: u64) {
        self.allocator = Allocator::after_loss(BufferId(first), self.life.error());
        self.captures.clear();
        self.executor = executor;
        self.source = source;
        self.life = life.clone();
    }
}
