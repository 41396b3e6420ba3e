//! Encodes a plan into command buffers and submits them.
//!
//! Scalars of all commands of a flush lie in one uniform buffer, bound once with a dynamic offset per dispatch; host
//! data of a flush lies in one staging buffer. So a flush makes two queue writes, however long it is.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use wgpu::{BindGroup, Buffer, BufferUsages, CommandEncoder, ComputePass};

use super::driver::Driver;
use super::pipelines::{Pipeline, Pipelines};
use super::read::{PendingRead, StagingPool, rounded};
use crate::counters::AtomicCounters;
use crate::passes::{MemoryId, Place, Plan, PlannedCommand};
use crate::{ALIGNMENT, Error, GpuTraits, Result, Work};

/// Bytes of uniform a shader may have: the smallest limit of WebGPU is 16 KiB, no kernel here needs 1.
pub(super) const UNIFORM_BYTES: u64 = 1024;
/// Bind groups kept; past it the cache starts afresh.
const MAX_BIND_GROUPS: usize = 1 << 16;

/// A buffer of memory and a number for cache keys that is never used twice.
struct Memory {
    buffer: Buffer,
    unique: u64,
}

/// A bind group's storage bindings: how many are inputs, and each one's (memory, offset, bytes).
type BindKey = (usize, Vec<(u64, usize, usize)>);

/// A storage binding: the buffer, its number, first byte and length.
type Binding = (Buffer, u64, usize, usize);

fn binding_entry((index, (buffer, _, offset, bytes)): (usize, &Binding)) -> wgpu::BindGroupEntry<'_> {
    let size = NonZeroU64::new((*bytes as u64).next_multiple_of(4).max(4));
    let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: *offset as u64, size });
    wgpu::BindGroupEntry { binding: index as u32, resource }
}

pub(crate) struct GpuExecutor {
    device: wgpu::Device,
    queue: wgpu::Queue,
    traits: GpuTraits,
    driver: Driver,
    memory: Vec<Option<Memory>>,
    next_unique: u64,
    // Copies of inputs that overlap an output, by order of use in a flush.
    copies: Vec<Memory>,
    pipelines: Pipelines,
    bind_groups: HashMap<BindKey, BindGroup>,
    uniforms: Option<(Buffer, BindGroup)>,
    uploads: Option<Buffer>,
    staging: StagingPool,
}

/// What a flush puts into the shared buffers, and where.
#[derive(Default)]
struct Prepared {
    uniforms: Vec<u8>,
    uploads: Vec<u8>,
    commands: Vec<Encoded>,
}

enum Encoded {
    Dispatch { pipeline: Arc<Pipeline>, uniform: u32, workgroups: [u32; 3] },
    Upload { offset: u64 },
    Copy,
    Nothing,
}

impl GpuExecutor {
    pub(super) fn new(driver: Driver, queue: wgpu::Queue, traits: GpuTraits) -> Self {
        let device = driver.device().clone();
        let pipelines = Pipelines::new(&device);
        Self {
            staging: StagingPool::default(),
            device,
            queue,
            traits,
            driver,
            memory: Vec::new(),
            next_unique: 0,
            copies: Vec::new(),
            pipelines,
            bind_groups: HashMap::new(),
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

    pub(crate) fn run(&mut self, plan: &Plan, counters: &AtomicCounters) -> Result<()> {
        let prepared = self.prepare(plan, counters)?;
        self.write_shared(&prepared)?;
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some("flush") };
        let mut encoder = self.device.create_command_encoder(&descriptor);
        let mut pass: Option<ComputePass<'static>> = None;
        let mut copies = 0;
        for (command, encoded) in plan.commands.iter().zip(&prepared.commands) {
            match encoded {
                Encoded::Dispatch { pipeline, uniform, workgroups } => {
                    let bindings = self.bindings(command, &mut encoder, &mut pass, &mut copies)?;
                    let group = self.bind_group(command.inputs.len(), bindings, counters)?;
                    let pass = pass.get_or_insert_with(|| {
                        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime()
                    });
                    pass.set_pipeline(&pipeline.pipeline);
                    pass.set_bind_group(0, &group, &[]);
                    if let Some((_, uniforms)) = &self.uniforms {
                        pass.set_bind_group(1, uniforms, &[*uniform]);
                    }
                    pass.dispatch_workgroups(workgroups[0], workgroups[1], workgroups[2]);
                }
                Encoded::Upload { offset } => {
                    pass = None;
                    let target = &command.outputs[0];
                    if let (Some(uploads), Some(memory)) = (&self.uploads, self.buffer(target)) {
                        let bytes = (target.bytes as u64).next_multiple_of(4);
                        encoder.copy_buffer_to_buffer(uploads, *offset, &memory.buffer, target.offset as u64, bytes);
                    }
                }
                Encoded::Copy => {
                    pass = None;
                    self.copy(command, &mut encoder, &mut copies)?;
                }
                Encoded::Nothing => {}
            }
        }
        drop(pass);
        self.queue.submit([encoder.finish()]);
        let op = plan.commands.last().map_or("flush", |command| command.op);
        self.driver.check(op)
    }

    /// Encodes a copy; one within one buffer takes a detour, because wgpu allows none.
    fn copy(&mut self, command: &PlannedCommand, encoder: &mut CommandEncoder, copies: &mut usize) -> Result<()> {
        let lost = || Error::Unwritten { op: command.op };
        let (from, to) = (&command.inputs[0], &command.outputs[0]);
        let (source, start) = if from.memory == to.memory {
            (self.copy_elsewhere(from, encoder, copies)?.ok_or_else(lost)?.buffer.clone(), 0)
        } else {
            (self.buffer(from).ok_or_else(lost)?.buffer.clone(), from.offset as u64)
        };
        let target = &self.buffer(to).ok_or_else(lost)?.buffer;
        let bytes = (to.bytes as u64).next_multiple_of(4);
        encoder.copy_buffer_to_buffer(&source, start, target, to.offset as u64, bytes);
        Ok(())
    }

    fn buffer(&self, place: &Place) -> Option<&Memory> {
        self.memory.get(place.memory.0)?.as_ref()
    }

    /// Chooses pipelines and lays out the shared buffers.
    fn prepare(&mut self, plan: &Plan, counters: &AtomicCounters) -> Result<Prepared> {
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
            let buffer = self.shared_buffer("uniforms", uniform_bytes, BufferUsages::UNIFORM)?;
            let size = NonZeroU64::new(UNIFORM_BYTES);
            let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("uniforms"),
                layout: self.pipelines.uniform_layout(),
                entries: &[wgpu::BindGroupEntry {
                    binding: 0,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &buffer, offset: 0, size }),
                }],
            });
            self.uniforms = Some((buffer, group));
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

    fn shared_buffer(&self, label: &str, bytes: u64, usage: BufferUsages) -> Result<Buffer> {
        self.new_buffer(Some(label), rounded(&self.device, bytes), usage | BufferUsages::COPY_DST)
    }

    /// The command's storage bindings. wgpu tracks usage per buffer, so an input in a buffer that the command also
    /// writes is first copied elsewhere.
    fn bindings(
        &mut self,
        command: &PlannedCommand,
        encoder: &mut CommandEncoder,
        pass: &mut Option<ComputePass<'static>>,
        copies: &mut usize,
    ) -> Result<Vec<Binding>> {
        let lost = || Error::Unwritten { op: command.op };
        let mut bindings = Vec::with_capacity(command.inputs.len() + command.outputs.len());
        for input in &command.inputs {
            if command.outputs.iter().any(|output| output.memory == input.memory) {
                *pass = None;
                let copy = self.copy_elsewhere(input, encoder, copies)?.ok_or_else(lost)?;
                bindings.push((copy.buffer.clone(), copy.unique, 0, input.bytes));
            } else {
                bindings.push(self.binding(input).ok_or_else(lost)?);
            }
        }
        for output in &command.outputs {
            bindings.push(self.binding(output).ok_or_else(lost)?);
        }
        Ok(bindings)
    }

    fn binding(&self, place: &Place) -> Option<Binding> {
        let memory = self.buffer(place)?;
        // An empty place may begin at the end of its memory, where nothing can be bound.
        let offset = if place.bytes == 0 { 0 } else { place.offset };
        Some((memory.buffer.clone(), memory.unique, offset, place.bytes))
    }

    /// Encodes copying a place into memory that no other command of this flush touches; `None` where it was never
    /// written. The copies keep their order from flush to flush and only grow, so bind groups of them stay cached.
    fn copy_elsewhere(
        &mut self,
        place: &Place,
        encoder: &mut CommandEncoder,
        copies: &mut usize,
    ) -> Result<Option<&Memory>> {
        let Some(source) = self.buffer(place).map(|memory| memory.buffer.clone()) else { return Ok(None) };
        let bytes = place.bytes.next_multiple_of(4);
        if self.copies.get(*copies).is_none_or(|copy| (copy.buffer.size() as usize) < bytes) {
            let copy = self.new_memory(crate::passes::size_class(bytes))?;
            match self.copies.get_mut(*copies) {
                Some(smaller) => *smaller = copy,
                None => self.copies.push(copy),
            }
        }
        let copy = &self.copies[*copies];
        *copies += 1;
        if bytes > 0 {
            encoder.copy_buffer_to_buffer(&source, place.offset as u64, &copy.buffer, 0, bytes as u64);
        }
        Ok(Some(copy))
    }

    fn bind_group(&mut self, inputs: usize, bindings: Vec<Binding>, counters: &AtomicCounters) -> Result<BindGroup> {
        let key: BindKey =
            (inputs, bindings.iter().map(|(_, unique, offset, bytes)| (*unique, *offset, *bytes)).collect());
        if let Some(group) = self.bind_groups.get(&key) {
            return Ok(group.clone());
        }
        let entries: Vec<_> = bindings.iter().enumerate().map(binding_entry).collect();
        let layout = self.pipelines.storage_layout(&self.device, (inputs, bindings.len() - inputs));
        let group =
            self.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries });
        if self.bind_groups.len() >= MAX_BIND_GROUPS {
            self.bind_groups.clear();
        }
        AtomicCounters::add(&counters.bind_groups, 1);
        self.bind_groups.insert(key, group.clone());
        Ok(group)
    }

    /// Begins to copy places into memory that the host can map, and zeroes `clear` behind them.
    pub(crate) fn read(&mut self, places: &[Place], clear: Option<Place>) -> Result<PendingRead> {
        let sources: Option<Vec<_>> =
            places.iter().map(|place| Some((&self.buffer(place)?.buffer, place.offset, place.bytes))).collect();
        let sources = sources.ok_or(Error::Unwritten { op: "read" })?;
        let clear = clear.and_then(|place| Some((&self.buffer(&place)?.buffer, place.offset, place.bytes)));
        let read = self.staging.read((&self.driver, &self.queue), &sources, clear, || self.resident())?;
        self.driver.check("read")?;
        Ok(read)
    }
}
