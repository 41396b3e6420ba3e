//! Encodes a plan into command buffers and submits them.
//!
//! Scalars of all commands of a flush lie in one uniform buffer, bound once with a dynamic offset per dispatch; host
//! data of a flush lies in one staging buffer. So a flush makes two queue writes, however long it is.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};

use smallvec::SmallVec;
use wgpu::{BindGroup, Buffer, BufferUsages, ComputePass};

use super::driver::Driver;
use super::kept::KeptPlan;
use super::pipelines::{Pipeline, Pipelines};
use super::read::{PendingRead, StagingPool, rounded};
use super::timestamps::Timer;
use crate::counters::AtomicCounters;
use crate::device::Noting;
use crate::passes::{MemoryId, Place, Plan, PlannedCommand};
use crate::{ALIGNMENT, Error, GpuTraits, Result, Work};

/// Bytes of uniform a shader may have: the smallest limit of WebGPU is 16 KiB, no kernel here needs 1.
pub(super) const UNIFORM_BYTES: u64 = 1024;
/// Bind groups kept; past it the cache starts afresh.
const MAX_BIND_GROUPS: usize = 1 << 16;

/// A buffer of memory and a number for cache keys that is never used twice.
pub(super) struct Memory {
    pub(super) buffer: Buffer,
    unique: u64,
}

/// A bind group's storage bindings: how many are inputs, and each one's (memory, offset, bytes).
type BindKey = (usize, Vec<(u64, usize, usize)>);

pub(crate) struct GpuExecutor {
    device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) traits: GpuTraits,
    pub(super) driver: Driver,
    memory: Vec<Option<Memory>>,
    next_unique: u64,
    // Copies of inputs that overlap an output, by order of use in a flush.
    copies: Vec<Memory>,
    pipelines: Pipelines,
    bind_groups: HashMap<BindKey, BindGroup>,
    // The one looked up last: its memory is used again.
    key: BindKey,
    pub(super) kept: HashMap<u64, KeptPlan>,
    // Steps of one command: their memory is used again.
    pub(super) fresh: Vec<Step>,
    uniforms: Option<(Buffer, BindGroup)>,
    uploads: Option<Buffer>,
    staging: StagingPool,
    pub(super) timer: Mutex<Option<Timer>>,
}

/// What the commands of one run have in common while they become steps.
pub(super) struct Encoding<'a> {
    // Copies of inputs that overlap an output, by order of use, and how many are used.
    pub(super) copies: &'a mut Vec<Memory>,
    pub(super) used: usize,
    pub(super) uploads: Option<&'a Buffer>,
    pub(super) counters: &'a AtomicCounters,
}

/// Whether an operand is an input in memory that the command also writes.
fn is_aliased(command: &PlannedCommand, operand: usize) -> bool {
    let input = command.inputs.get(operand);
    input.is_some_and(|input| command.outputs.iter().any(|output| output.memory == input.memory))
}

fn binding_entry<'a>(
    (index, (buffer, (_, offset, bytes))): (usize, (&'a Buffer, &(u64, usize, usize))),
) -> wgpu::BindGroupEntry<'a> {
    let size = NonZeroU64::new((*bytes as u64).next_multiple_of(4).max(4));
    let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: *offset as u64, size });
    wgpu::BindGroupEntry { binding: index as u32, resource }
}

/// What a flush puts into the shared buffers, and where.
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) uniforms: Vec<u8>,
    pub(super) uploads: Vec<u8>,
    pub(super) commands: Vec<Encoded>,
}

#[derive(Clone)]
pub(super) enum Encoded {
    Dispatch { pipeline: Arc<Pipeline>, uniform: u32, workgroups: [u32; 3] },
    Upload { offset: u64 },
    Copy,
    Nothing,
}

/// What is encoded: a command is one or more of these.
pub(super) enum Step {
    Dispatch { pipeline: Arc<Pipeline>, group: BindGroup, uniform: u32, workgroups: [u32; 3] },
    Transfer { source: Buffer, from: u64, target: Buffer, to: u64, bytes: u64 },
}

impl GpuExecutor {
    pub(super) fn new(driver: Driver, queue: wgpu::Queue, traits: GpuTraits) -> Self {
        let device = driver.device().clone();
        let pipelines = Pipelines::new(&device);
        Self {
            staging: StagingPool::default(),
            timer: Mutex::new(Timer::new(&driver, &queue)),
            device,
            queue,
            traits,
            driver,
            memory: Vec::new(),
            next_unique: 0,
            copies: Vec::new(),
            pipelines,
            bind_groups: HashMap::new(),
            key: BindKey::default(),
            kept: HashMap::new(),
            fresh: Vec::new(),
            uniforms: None,
            uploads: None,
        }
    }

    /// Bytes of all buffers.
    fn resident(&self) -> usize {
        let memory = self.memory.iter().flatten().chain(&self.copies).map(|memory| &memory.buffer);
        let shared = self.uniforms.as_ref().map(|(buffer, _)| buffer).into_iter().chain(&self.uploads);
        memory.chain(shared).map(|buffer| buffer.size() as usize).sum()
    }

    fn new_buffer(&self, label: Option<&str>, size: u64, usage: BufferUsages) -> Result<Buffer> {
        let descriptor = wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false };
        self.driver.allocate((size as usize, || self.resident()), || self.device.create_buffer(&descriptor))
    }

    fn new_memory(&mut self, bytes: usize) -> Result<Memory> {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        // A size class may be larger than the buffer it serves, and than the device allows.
        let size = (bytes as u64).min(self.device.limits().max_buffer_size / ALIGNMENT as u64 * ALIGNMENT as u64);
        let buffer = self.new_buffer(None, size, usage)?;
        self.next_unique += 1;
        Ok(Memory { buffer, unique: self.next_unique })
    }

    pub(crate) fn create(&mut self, create: &[(MemoryId, usize)]) -> Result<()> {
        for &(id, bytes) in create {
            let memory = self.new_memory(bytes)?;
            self.memory.resize_with(self.memory.len().max(id.0 + 1), || None);
            self.memory[id.0] = Some(memory);
        }
        self.driver.check("allocate")
    }

    pub(crate) fn destroy(&mut self, memory: &[MemoryId]) {
        for id in memory {
            if let Some(slot) = self.memory.get_mut(id.0) {
                *slot = None;
            }
        }
        self.bind_groups.clear();
        self.copies.clear();
        self.uploads = None;
        self.staging.trim();
    }

    pub(crate) fn run(&mut self, plan: &Plan, counters: &AtomicCounters, profile: Noting<'_>) -> Result<()> {
        let prepared = self.prepare(plan, counters)?;
        self.write_shared(&prepared)?;
        let (uploads, mut copies) = (self.uploads.clone(), std::mem::take(&mut self.copies));
        let mut steps = Vec::with_capacity(plan.commands.len());
        // The first step of each command, for a profile.
        let mut firsts = Vec::new();
        let mut encoding = Encoding { copies: &mut copies, used: 0, uploads: uploads.as_ref(), counters };
        let outcome = plan.commands.iter().zip(&prepared.commands).try_for_each(|(command, encoded)| {
            if profile.is_some() {
                firsts.push(steps.len());
            }
            self.steps_of(command, encoded, &mut encoding, &mut steps)
        });
        self.copies = copies;
        outcome?;
        let uniforms = self.uniforms.as_ref().map(|(_, group)| group);
        match profile {
            None => self.submit(&steps, uniforms),
            Some(profile) => self.submit_timed(profile, &plan.commands, &firsts, &steps, uniforms),
        }
        let op = plan.commands.last().map_or("flush", |command| command.op);
        self.driver.check(op)
    }

    /// Encodes steps, dispatches that follow each other in one pass, and submits them.
    pub(super) fn submit(&self, steps: &[Step], uniforms: Option<&BindGroup>) {
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some("flush") };
        let mut encoder = self.device.create_command_encoder(&descriptor);
        Self::encode(&mut encoder, steps, uniforms, None);
        self.queue.submit([encoder.finish()]);
    }

    /// Encodes steps. Of passes that `times` are written of there may be one.
    pub(super) fn encode(
        encoder: &mut wgpu::CommandEncoder,
        steps: &[Step],
        uniforms: Option<&BindGroup>,
        mut times: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) {
        let mut pass: Option<ComputePass<'static>> = None;
        for step in steps {
            match step {
                Step::Dispatch { pipeline, group, uniform, workgroups } => {
                    let pass = pass.get_or_insert_with(|| {
                        let timestamp_writes = times.take();
                        let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
                        encoder.begin_compute_pass(&descriptor).forget_lifetime()
                    });
                    pass.set_pipeline(&pipeline.pipeline);
                    pass.set_bind_group(0, group, &[]);
                    if let Some(uniforms) = uniforms {
                        pass.set_bind_group(1, uniforms, &[*uniform]);
                    }
                    pass.dispatch_workgroups(workgroups[0], workgroups[1], workgroups[2]);
                }
                Step::Transfer { source, from, target, to, bytes } => {
                    pass = None;
                    encoder.copy_buffer_to_buffer(source, *from, target, *to, *bytes);
                }
            }
        }
    }

    /// Appends the steps of one command.
    pub(super) fn steps_of(
        &mut self,
        command: &PlannedCommand,
        encoded: &Encoded,
        encoding: &mut Encoding<'_>,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let lost = || Error::Unwritten { op: command.op };
        match encoded {
            Encoded::Nothing => {}
            Encoded::Dispatch { pipeline, uniform, workgroups } => {
                let group = self.group_of(command, encoding, steps)?;
                let (uniform, workgroups) = (*uniform, *workgroups);
                steps.push(Step::Dispatch { pipeline: pipeline.clone(), group, uniform, workgroups });
            }
            Encoded::Upload { offset } => {
                let target = &command.outputs[0];
                if let (Some(uploads), Some(memory)) = (encoding.uploads, self.buffer(target)) {
                    steps.push(Step::Transfer {
                        source: uploads.clone(),
                        from: *offset,
                        target: memory.buffer.clone(),
                        to: target.offset as u64,
                        bytes: (target.bytes as u64).next_multiple_of(4),
                    });
                }
            }
            Encoded::Copy => {
                let (from, to) = (&command.inputs[0], &command.outputs[0]);
                // One within one buffer takes a detour, because wgpu allows none.
                let (source, start) = if from.memory == to.memory {
                    let copy = self.copy_elsewhere(from, encoding, steps)?.ok_or_else(lost)?;
                    (encoding.copies[copy].buffer.clone(), 0)
                } else {
                    (self.buffer(from).ok_or_else(lost)?.buffer.clone(), from.offset as u64)
                };
                let target = self.buffer(to).ok_or_else(lost)?.buffer.clone();
                let bytes = (to.bytes as u64).next_multiple_of(4);
                steps.push(Step::Transfer { source, from: start, target, to: to.offset as u64, bytes });
            }
        }
        Ok(())
    }

    pub(super) fn buffer(&self, place: &Place) -> Option<&Memory> {
        self.memory.get(place.memory.0)?.as_ref()
    }

    /// Chooses pipelines and lays out the shared buffers.
    pub(super) fn prepare(&mut self, plan: &Plan, counters: &AtomicCounters) -> Result<Prepared> {
        let mut prepared = Prepared::default();
        let alignment = self.device.limits().min_uniform_buffer_offset_alignment.max(16) as usize;
        for command in &plan.commands {
            let encoded = match &command.work {
                Work::Upload(data) if data.is_empty() => Encoded::Nothing,
                Work::Upload(data) => {
                    let offset = prepared.uploads.len() as u64;
                    prepared.uploads.extend_from_slice(data);
                    prepared.uploads.resize(prepared.uploads.len().next_multiple_of(ALIGNMENT), 0);
                    Encoded::Upload { offset }
                }
                Work::Copy if command.outputs[0].bytes == 0 => Encoded::Nothing,
                Work::Copy => Encoded::Copy,
                Work::Kernel(kernel) => match kernel.dispatch(&self.traits) {
                    None => Encoded::Nothing,
                    Some(dispatch) => {
                        let shader = (&dispatch.shader, (command.inputs.len(), command.outputs.len()));
                        let check = || self.driver.check(command.op);
                        let pipeline = self.pipelines.get(&self.device, kernel.name(), shader, counters, check)?;
                        let uniform = prepared.uniforms.len() as u32;
                        prepared.uniforms.extend_from_slice(bytemuck::cast_slice(&dispatch.params));
                        prepared.uniforms.resize(prepared.uniforms.len().next_multiple_of(alignment), 0);
                        Encoded::Dispatch { pipeline, uniform, workgroups: dispatch.workgroups }
                    }
                },
            };
            prepared.commands.push(encoded);
        }
        Ok(prepared)
    }

    fn write_shared(&mut self, prepared: &Prepared) -> Result<()> {
        let uniform_bytes = prepared.uniforms.len() as u64 + UNIFORM_BYTES;
        if self.uniforms.as_ref().is_none_or(|(buffer, _)| buffer.size() < uniform_bytes) {
            self.uniforms = Some(self.uniform_buffer(uniform_bytes)?);
        }
        if let Some((buffer, _)) = self.uniforms.as_ref().filter(|_| !prepared.uniforms.is_empty()) {
            self.queue.write_buffer(buffer, 0, &prepared.uniforms);
        }
        if prepared.uploads.is_empty() {
            return Ok(());
        }
        let bytes = prepared.uploads.len() as u64;
        if self.uploads.as_ref().is_none_or(|buffer| buffer.size() < bytes) {
            self.uploads = Some(self.shared_buffer("uploads", bytes, BufferUsages::COPY_SRC)?);
        }
        if let Some(buffer) = &self.uploads {
            self.queue.write_buffer(buffer, 0, &prepared.uploads);
        }
        Ok(())
    }

    pub(super) fn shared_buffer(&self, label: &str, bytes: u64, usage: BufferUsages) -> Result<Buffer> {
        self.new_buffer(Some(label), rounded(&self.device, bytes), usage | BufferUsages::COPY_DST)
    }

    /// A buffer for uniforms, bound with a dynamic offset.
    pub(super) fn uniform_buffer(&self, bytes: u64) -> Result<(Buffer, BindGroup)> {
        let buffer = self.shared_buffer("uniforms", bytes, BufferUsages::UNIFORM)?;
        let size = NonZeroU64::new(UNIFORM_BYTES);
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("uniforms"),
            layout: self.pipelines.uniform_layout(),
            entries: &[wgpu::BindGroupEntry {
                binding: 0,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &buffer, offset: 0, size }),
            }],
        });
        Ok((buffer, group))
    }

    /// The bind group of a command's storage. wgpu tracks usage per buffer, so an input in a buffer that the command also
    /// writes is first copied elsewhere.
    fn group_of(
        &mut self,
        command: &PlannedCommand,
        encoding: &mut Encoding<'_>,
        steps: &mut Vec<Step>,
    ) -> Result<BindGroup> {
        let lost = || Error::Unwritten { op: command.op };
        let (inputs, first_copy) = (command.inputs.len(), encoding.used);
        let mut key = std::mem::take(&mut self.key);
        key.0 = inputs;
        key.1.clear();
        for (index, place) in command.inputs.iter().chain(&command.outputs).enumerate() {
            key.1.push(if is_aliased(command, index) {
                let copy = self.copy_elsewhere(place, encoding, steps)?.ok_or_else(lost)?;
                (encoding.copies[copy].unique, 0, place.bytes)
            } else {
                // An empty place may begin at the end of its memory, where nothing can be bound.
                let offset = if place.bytes == 0 { 0 } else { place.offset };
                (self.buffer(place).ok_or_else(lost)?.unique, offset, place.bytes)
            });
        }
        if let Some(group) = self.bind_groups.get(&key) {
            let group = group.clone();
            self.key = key;
            return Ok(group);
        }
        let mut copies = encoding.copies[first_copy..encoding.used].iter();
        let mut buffers = Vec::with_capacity(key.1.len());
        for (index, place) in command.inputs.iter().chain(&command.outputs).enumerate() {
            let memory = if is_aliased(command, index) { copies.next() } else { self.buffer(place) };
            buffers.push(memory.ok_or_else(lost)?.buffer.clone());
        }
        let entries: Vec<_> = buffers.iter().zip(&key.1).enumerate().map(binding_entry).collect();
        let layout = self.pipelines.storage_layout(&self.device, (inputs, buffers.len() - inputs));
        let group =
            self.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries });
        if self.bind_groups.len() >= MAX_BIND_GROUPS {
            self.bind_groups.clear();
        }
        AtomicCounters::add(&encoding.counters.bind_groups, 1);
        self.bind_groups.insert(key, group.clone());
        Ok(group)
    }

    /// Appends copying a place into memory that no other command of this flush touches, and gives its position among the
    /// copies; `None` where it was never written. The copies keep their order from flush to flush and only grow, so bind groups
    /// of them stay cached.
    fn copy_elsewhere(
        &mut self,
        place: &Place,
        encoding: &mut Encoding<'_>,
        steps: &mut Vec<Step>,
    ) -> Result<Option<usize>> {
        let Some(source) = self.buffer(place).map(|memory| memory.buffer.clone()) else { return Ok(None) };
        let bytes = place.bytes.next_multiple_of(4);
        let at = encoding.used;
        if encoding.copies.get(at).is_none_or(|copy| (copy.buffer.size() as usize) < bytes) {
            let copy = self.new_memory(crate::passes::size_class(bytes))?;
            match encoding.copies.get_mut(at) {
                Some(smaller) => *smaller = copy,
                None => encoding.copies.push(copy),
            }
        }
        encoding.used += 1;
        if bytes > 0 {
            let (from, bytes) = (place.offset as u64, bytes as u64);
            let target = encoding.copies[at].buffer.clone();
            steps.push(Step::Transfer { source, from, target, to: 0, bytes });
        }
        Ok(Some(at))
    }

    /// Begins to copy places into memory that the host can map, and zeroes `clear` behind them.
    pub(crate) fn read(&mut self, places: &[Place], clear: Option<Place>) -> Result<PendingRead> {
        let sources: Option<SmallVec<[_; 4]>> =
            places.iter().map(|place| Some((&self.buffer(place)?.buffer, place.offset, place.bytes))).collect();
        let sources = sources.ok_or(Error::Unwritten { op: "read" })?;
        let clear = clear.and_then(|place| Some((&self.buffer(&place)?.buffer, place.offset, place.bytes)));
        let read = self.staging.read((&self.driver, &self.queue), &sources, clear, || self.resident())?;
        self.driver.check("read")?;
        Ok(read)
    }
}
