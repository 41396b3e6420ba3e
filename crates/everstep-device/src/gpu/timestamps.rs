//! When a GPU ran each command, for [`crate::profile`]: timestamps around them, read back by a callback, without a wait.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wgpu::{BindGroup, Buffer, BufferUsages, CommandEncoder, Features, QuerySet};

use super::driver::Driver;
use super::executor::{GpuExecutor, Step};
use crate::passes::PlannedCommand;
use crate::profile::{self, Profile, Subject};

/// Timestamps of a set: what WebGPU allows.
const SET: u32 = 4096;
/// Bytes of a timestamp.
const STAMP: u64 = 8;
/// Commands whose times may be under way; beyond it they are counted alone, so that memory is bounded.
const MOST_AWAITED: usize = 1 << 16;
/// How long the clocks' comparison may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a device needs to be timed, as far as the adapter has it; nothing where nobody profiles.
pub(super) fn features(adapter: &wgpu::Adapter) -> Features {
    if !profile::is_on() {
        return Features::empty();
    }
    adapter.features() & (Features::TIMESTAMP_QUERY | Features::TIMESTAMP_QUERY_INSIDE_ENCODERS)
}

/// Takes timestamps on one device.
pub(super) struct Timer {
    sets: Vec<QuerySet>,
    // Whether copies can be timed, too: timestamps anywhere, not only around passes.
    anywhere: bool,
    // Nanoseconds of a tick.
    period: f64,
    // The device's clock, in nanoseconds, where the host's profile has 0; once the two were compared.
    origin: Option<f64>,
}

/// Timestamps on their way to the host.
struct Arriving {
    buffer: Buffer,
    count: u64,
}

impl Timer {
    /// `None` where nobody profiles, or the adapter has no timestamps.
    pub(super) fn new(driver: &Driver, queue: &wgpu::Queue) -> Option<Self> {
        let features = driver.device().features();
        if !profile::is_on() || !features.contains(Features::TIMESTAMP_QUERY) {
            return None;
        }
        let anywhere = features.contains(Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);
        Some(Self { sets: Vec::new(), anywhere, period: f64::from(queue.get_timestamp_period()), origin: None })
    }

    /// Provides for so many timestamps.
    fn reserve(&mut self, device: &wgpu::Device, count: u32) {
        while (self.sets.len() as u32) * SET < count {
            self.sets.push(device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count: SET,
            }));
        }
    }

    /// Encodes steps between timestamps `first` and the next one.
    fn encode(&self, encoder: &mut CommandEncoder, steps: &[Step], uniforms: Option<&BindGroup>, first: u32) {
        let (set, at) = (&self.sets[(first / SET) as usize], first % SET);
        if self.anywhere {
            encoder.write_timestamp(set, at);
            GpuExecutor::encode(encoder, steps, uniforms, None);
            encoder.write_timestamp(set, at + 1);
        } else {
            let times = wgpu::ComputePassTimestampWrites {
                query_set: set,
                beginning_of_pass_write_index: Some(at),
                end_of_pass_write_index: Some(at + 1),
            };
            GpuExecutor::encode(encoder, steps, uniforms, Some(times));
        }
    }

    /// Encodes that `count` timestamps go to the host; `None` where there is no memory for them.
    fn resolve(&self, driver: &Driver, encoder: &mut CommandEncoder, count: u32) -> Option<Arriving> {
        let size = u64::from(count) * STAMP;
        let create = |usage| {
            let descriptor = wgpu::BufferDescriptor { label: Some("profile"), size, usage, mapped_at_creation: false };
            driver.allocate((size as usize, || 0), || driver.device().create_buffer(&descriptor)).ok()
        };
        let resolved = create(BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC)?;
        let buffer = create(BufferUsages::MAP_READ | BufferUsages::COPY_DST)?;
        for (index, set) in self.sets.iter().enumerate() {
            let first = index as u32 * SET;
            if first < count {
                encoder.resolve_query_set(set, 0..(count - first).min(SET), &resolved, u64::from(first) * STAMP);
            }
        }
        encoder.copy_buffer_to_buffer(&resolved, 0, &buffer, 0, size);
        Some(Arriving { buffer, count: u64::from(count) })
    }
}

impl Arriving {
    /// Once they are there, hands the timestamps over, in ticks; an empty slice where they did not come.
    fn then(self, work: impl FnOnce(&[u64]) + Send + 'static) {
        let Self { buffer, count } = self;
        let mapped = buffer.clone();
        buffer.map_async(wgpu::MapMode::Read, .., move |outcome| {
            let view = outcome.ok().and_then(|()| mapped.get_mapped_range(..).ok());
            let ticks: Vec<u64> = view.map_or_else(Vec::new, |view| {
                let ticks = view.chunks_exact(8).take(count as usize);
                ticks.map(|bytes| bytes.try_into().map_or(0, u64::from_le_bytes)).collect()
            });
            work(&ticks);
        });
    }
}

/// A command that is timed, and where in the host's time it ran at the earliest.
struct Timed {
    subjects: Vec<Subject>,
    submitted_ns: u64,
    period: f64,
    origin: f64,
}

impl Timed {
    fn arrived(&self, profile: &Profile, ticks: &[u64]) {
        profile.awaited().fetch_sub(self.subjects.len(), Ordering::AcqRel);
        let host_ns = |ticks: u64| (ticks as f64 * self.period - self.origin).max(0.0) as u64;
        // What ran side by side is counted once, and nothing ran before it was submitted.
        let mut over = self.submitted_ns;
        for (index, subject) in self.subjects.iter().enumerate() {
            match ticks.get(2 * index..2 * index + 2) {
                Some(&[start, end]) if start > 0 && end >= start => {
                    let (start, end) = (host_ns(start).max(over), host_ns(end).max(over));
                    over = end;
                    profile.ran(*subject, start, end);
                }
                _ => profile.untimed(subject),
            }
        }
    }
}

fn workgroups(steps: &[Step]) -> [u32; 3] {
    steps
        .iter()
        .rev()
        .find_map(|step| if let Step::Dispatch { workgroups, .. } = step { Some(*workgroups) } else { None })
        .unwrap_or_default()
}

impl GpuExecutor {
    /// As [`GpuExecutor::submit`], and notes when each command ran. `firsts` are the commands' first steps.
    pub(super) fn submit_timed(
        &self,
        profile: &Arc<Profile>,
        commands: &[PlannedCommand],
        firsts: &[usize],
        steps: &[Step],
        uniforms: Option<&BindGroup>,
    ) {
        let mut timer = self.timer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let range =
            |index: usize| -> Range<usize> { firsts[index]..firsts.get(index + 1).copied().unwrap_or(steps.len()) };
        let subject =
            |index: usize| Subject { workgroups: workgroups(&steps[range(index)]), ..Subject::new(&commands[index]) };
        let busy = profile.awaited().load(Ordering::Acquire) + commands.len() > MOST_AWAITED;
        let origin = timer.as_mut().filter(|_| !busy).and_then(|timer| self.compare_clocks(timer, profile));
        let (Some(timer), Some(origin)) = (timer.as_mut(), origin) else {
            (0..commands.len()).for_each(|index| profile.untimed(&subject(index)));
            return self.submit(steps, uniforms);
        };
        timer.reserve(self.driver.device(), 2 * commands.len() as u32);
        let mut encoder = self.driver.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut subjects = Vec::with_capacity(commands.len());
        for index in 0..commands.len() {
            let (steps, subject) = (&steps[range(index)], subject(index));
            let dispatches = steps.iter().any(|step| matches!(step, Step::Dispatch { .. }));
            if steps.is_empty() || !(timer.anywhere || dispatches) {
                profile.untimed(&subject);
                Self::encode(&mut encoder, steps, uniforms, None);
            } else {
                timer.encode(&mut encoder, steps, uniforms, 2 * subjects.len() as u32);
                subjects.push(subject);
            }
        }
        let arriving = match subjects.len() as u32 {
            0 => None,
            count => timer.resolve(&self.driver, &mut encoder, 2 * count),
        };
        let timed = Timed { subjects, submitted_ns: profile.now_ns(), period: timer.period, origin };
        self.queue.submit([encoder.finish()]);
        let Some(arriving) = arriving else {
            return timed.subjects.iter().for_each(|subject| profile.untimed(subject));
        };
        profile.awaited().fetch_add(timed.subjects.len(), Ordering::AcqRel);
        let profile = profile.clone();
        arriving.then(move |ticks| timed.arrived(&profile, ticks));
    }

    /// What the device's clock shows where the profile's is 0: asked once, and waited for. The host sees a timestamp late, so the
    /// earliest of three answers is nearest.
    fn compare_clocks(&self, timer: &mut Timer, profile: &Profile) -> Option<f64> {
        if timer.origin.is_none() {
            let answers = (0..3).filter_map(|_| self.clock(timer, profile));
            timer.origin = answers.reduce(f64::max);
        }
        timer.origin
    }

    fn clock(&self, timer: &mut Timer, profile: &Profile) -> Option<f64> {
        timer.reserve(self.driver.device(), 2);
        let mut encoder = self.driver.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if timer.anywhere {
            encoder.write_timestamp(&timer.sets[0], 0);
            encoder.write_timestamp(&timer.sets[0], 1);
        } else {
            let writes = wgpu::ComputePassTimestampWrites {
                query_set: &timer.sets[0],
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            };
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes: Some(writes) };
            drop(encoder.begin_compute_pass(&descriptor));
        }
        let arriving = timer.resolve(&self.driver, &mut encoder, 2)?;
        let index = self.queue.submit([encoder.finish()]);
        let found = Arc::new(AtomicU64::new(0));
        let sink = found.clone();
        arriving.then(move |ticks| sink.store(ticks.get(1).copied().unwrap_or(0), Ordering::Release));
        let how = wgpu::PollType::Wait { submission_index: Some(index), timeout: Some(PATIENCE) };
        // An error of the device is told by what comes next.
        self.driver.poll(how).ok()?;
        let ticks = found.load(Ordering::Acquire);
        (ticks > 0).then(|| ticks as f64 * timer.period - profile.now_ns() as f64)
    }
}
