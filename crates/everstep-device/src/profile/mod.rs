//! What takes the time: each command as an event, for Perfetto and as a table.
//!
//! With `EVERSTEP_PROFILE=FILE` in the environment every device of the process notes when its commands ran, and three files are
//! written: `FILE`, a trace that opens in <https://ui.perfetto.dev> or `chrome://tracing`; `FILE.txt`, a table of kernels with time,
//! bytes/s and FLOP/s beside what this device reached when it was measured at its opening; `FILE.table.json`, the same as data. They
//! are written when the process ends normally (a return from `main`, or `std::process::exit`; not a crash) and by
//! [`crate::Device::write_profile`], each time whole: to a temporary file that is renamed. A file that cannot be written is told
//! through `tracing` and ends no run. Where two processes are given one name, the last to end has its say.
//!
//! - The CPU engine takes the time around each kernel. A GPU takes timestamps, where its adapter has them, which come back without a
//!   wait; a command that the adapter cannot time is counted alone, and the table says how many were.
//! - Bytes are those of the slices that a command was given, each read or written once. A kernel that looks at a part of its operand
//!   (`gather`) moves less, one that reads an operand several times may move more.
//! - FLOPs are those of [`crate::Kernel::operations`]: known for products, convolutions and attention.
//! - The trace holds [`MAX_EVENTS`] events and says how many it left out. The table counts them all.
//! - A GPU's commands are timed one by one, in passes of their own: what runs side by side without a profile does not with one.
//!
//! Off, it costs a look at a static per flush.

mod ceilings;
mod table;
mod trace;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use ceilings::Ceilings;
use table::Row;

use crate::passes::PlannedCommand;
use crate::{Device, DeviceInfo, DeviceKind, Work};

/// Events that a trace holds at most: about 80 MiB of file.
pub const MAX_EVENTS: usize = 1 << 19;
/// The variable that names the file.
const VARIABLE: &str = "EVERSTEP_PROFILE";

/// What an event is of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Subject {
    pub(crate) kernel: &'static str,
    pub(crate) op: &'static str,
    pub(crate) bytes: u64,
    pub(crate) operations: u64,
    // Zero where there are none.
    pub(crate) workgroups: [u32; 3],
}

impl Subject {
    pub(crate) fn new(command: &PlannedCommand) -> Self {
        let (kernel, operations) = match &command.work {
            Work::Kernel(kernel) => (kernel.name(), kernel.operations()),
            Work::Upload(_) => ("upload", 0),
            Work::Copy => ("copy", 0),
        };
        let updates = |index: usize| matches!(&command.work, Work::Kernel(kernel) if kernel.updates(index));
        let read = command.inputs.iter().map(|place| place.bytes as u64);
        // What is changed where it lies is read and written.
        let written = command.outputs.iter().enumerate();
        let written = written.map(|(index, place)| place.bytes as u64 * if updates(index) { 2 } else { 1 });
        Self { kernel, op: command.op, bytes: read.chain(written).sum(), operations, workgroups: [0; 3] }
    }
}

/// The lines of a trace that belong to one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Track {
    Host,
    Device,
}

#[derive(Clone, Copy, Debug)]
struct Event {
    device: usize,
    track: Track,
    subject: Subject,
    start_ns: u64,
    duration_ns: u64,
}

/// What is noted of one device, or of one of its lives.
#[derive(Debug)]
struct Noted {
    name: String,
    // How its kernels are timed.
    clock: &'static str,
    ceilings: Option<Ceilings>,
    rows: BTreeMap<(&'static str, &'static str), Row>,
    // Commands whose times are under way.
    awaited: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Notes {
    events: Vec<Event>,
    left_out: u64,
    devices: Vec<Noted>,
}

/// What the process notes.
#[derive(Debug)]
struct Session {
    file: PathBuf,
    start: Instant,
    notes: Mutex<Notes>,
}

impl Session {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn session() -> Option<&'static Session> {
    static SESSION: OnceLock<Option<Session>> = OnceLock::new();
    let open = || {
        let file = std::env::var_os(VARIABLE).filter(|file| !file.is_empty())?;
        trace::write_at_exit();
        Some(Session { file: file.into(), start: Instant::now(), notes: Mutex::default() })
    };
    SESSION.get_or_init(open).as_ref()
}

/// Whether this process is profiled.
pub(crate) fn is_on() -> bool {
    session().is_some()
}

/// Where one device notes what it does.
#[derive(Debug)]
pub(crate) struct Profile {
    session: &'static Session,
    device: usize,
    awaited: Arc<AtomicUsize>,
}

impl Profile {
    /// Of a device that was just opened, whose ceilings are measured first; `None` where there is no profile.
    pub(crate) fn open(device: &Device) -> Option<Arc<Self>> {
        let session = session()?;
        let info = device.info();
        let known = session.notes().devices.iter().find(|noted| noted.name == info.to_string()).map(|d| d.ceilings);
        let ceilings = known.unwrap_or_else(|| Ceilings::measure(device));
        Self::enter(session, &info, ceilings)
    }

    /// Of a device that came back, maybe as another one.
    pub(crate) fn reopen(info: &DeviceInfo) -> Option<Arc<Self>> {
        let session = session()?;
        let name = info.to_string();
        let known = session.notes().devices.iter().find(|noted| noted.name == name).and_then(|noted| noted.ceilings);
        Self::enter(session, info, known)
    }

    #[expect(clippy::unnecessary_wraps, reason = "its callers' result")]
    fn enter(session: &'static Session, info: &DeviceInfo, ceilings: Option<Ceilings>) -> Option<Arc<Self>> {
        let clock = match info.kind {
            DeviceKind::Gpu => "the GPU's timestamps",
            DeviceKind::Cpu | DeviceKind::Null => "the host's clock around each command",
        };
        let awaited: Arc<AtomicUsize> = Arc::default();
        let mut notes = session.notes();
        let noted = Noted { name: info.to_string(), clock, ceilings, rows: BTreeMap::new(), awaited: awaited.clone() };
        notes.devices.push(noted);
        Some(Arc::new(Self { session, device: notes.devices.len() - 1, awaited }))
    }

    /// Nanoseconds since the profile began.
    pub(crate) fn now_ns(&self) -> u64 {
        nanoseconds(self.session.start.elapsed())
    }

    /// Runs a command and notes how long that took.
    pub(crate) fn command<T>(&self, command: &PlannedCommand, run: impl FnOnce() -> T) -> T {
        let start = self.now_ns();
        let outcome = run();
        self.ran(Subject::new(command), start, self.now_ns());
        outcome
    }

    /// Notes that the device ran `subject` from `start` to `end`.
    pub(crate) fn ran(&self, subject: Subject, start: u64, end: u64) {
        let mut notes = self.session.notes();
        let duration_ns = end.saturating_sub(start);
        notes.row(self.device, &subject).add(&subject, duration_ns);
        notes.push(Event { device: self.device, track: Track::Device, subject, start_ns: start, duration_ns });
    }

    /// Notes that the device ran `subject`, nobody knows how long.
    #[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "the CPU engine times all it runs"))]
    pub(crate) fn untimed(&self, subject: &Subject) {
        self.session.notes().row(self.device, subject).calls += 1;
    }

    /// Notes what the host does until the result is dropped.
    pub(crate) fn host(self: Arc<Self>, name: &'static str) -> Span {
        Span { start: self.now_ns(), profile: self, name }
    }

    /// Commands whose times are under way.
    #[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "the CPU engine has none"))]
    pub(crate) fn awaited(&self) -> &AtomicUsize {
        &self.awaited
    }
}

impl Notes {
    fn row(&mut self, device: usize, subject: &Subject) -> &mut Row {
        self.devices[device].rows.entry((subject.kernel, subject.op)).or_default()
    }

    fn push(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS { self.events.push(event) } else { self.left_out += 1 }
    }

    /// Commands whose times have not come back.
    fn awaited(&self) -> usize {
        self.devices.iter().map(|noted| noted.awaited.load(Ordering::Acquire)).sum()
    }
}

/// Something that the host does.
#[must_use = "it ends when it is dropped"]
pub(crate) struct Span {
    profile: Arc<Profile>,
    name: &'static str,
    start: u64,
}

impl Drop for Span {
    fn drop(&mut self) {
        let Profile { session, device, .. } = *self.profile;
        let subject = Subject { kernel: self.name, op: "", bytes: 0, operations: 0, workgroups: [0; 3] };
        let duration_ns = self.profile.now_ns().saturating_sub(self.start);
        session.notes().push(Event { device, track: Track::Host, subject, start_ns: self.start, duration_ns });
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The product of sizes as a count of operations.
pub(crate) fn count(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product: u64, &factor| product.saturating_mul(factor as u64))
}

impl Device {
    /// Where this device notes what it does, while the process is profiled.
    pub(crate) fn profile(&self) -> Option<Arc<Profile>> {
        if is_on() { crate::device::lock(&self.shared().profile).clone() } else { None }
    }

    /// Notes what the host does until the result is dropped.
    pub(crate) fn host_span(&self, name: &'static str) -> Option<Span> {
        self.profile().map(|profile| profile.host(name))
    }

    /// Waits until all work of this device is done, and writes the files of [`crate::profile`]: the file's name, or `None` where the
    /// process is not profiled or it could not be written, which `tracing` tells.
    ///
    /// # Errors
    /// As [`Device::synchronize`].
    pub fn write_profile(&self) -> crate::Result<Option<PathBuf>> {
        let Some(session) = session() else { return Ok(None) };
        self.synchronize()?;
        Ok(session.write().then(|| session.file.clone()))
    }
}
