//! The arena: everything that training changes, each kind in one contiguous buffer.
//!
//! Values and gradients of all parameters lie in slots of the same offsets in two buffers, and so does each of an
//! optimizer's states. Running buffers lie in two more, committed and pending. So a gradient norm is one reduction, an
//! update one dispatch, a snapshot one copy per buffer.

use std::ops::Range;
use std::sync::Arc;

use everstep_device::{ALIGNMENT, Buffer, DType, Device, Layout, Region, Shape};

use crate::{Error, Parameter, Result, RunningBuffer, State, Tensor, Visit};

/// Parameters in contiguous buffers, group after group. While it lives, it owns them.
///
/// After a loss of its device ([`Device::rebuild`]) a restored snapshot brings it back; until then what reads it is
/// [`everstep_device::Error::DeviceLost`].
pub struct Arena {
    device: Device,
    parameters: Vec<Parameter>,
    // Where each parameter's slot is, padding included.
    slots: Vec<Range<usize>>,
    groups: Vec<Range<usize>>,
    elements: usize,
    values: Buffer,
    gradients: Buffer,
    running: Option<Running>,
    // The device's failed recordings, losses among them, when the gradients were last zeroed as a whole.
    failures: u64,
    // Parameters hold this weakly, to know whether their arena still lives.
    _owner: Arc<()>,
}

/// What forward passes change: committed and pending, in slots of the same offsets.
pub(crate) struct Running {
    buffers: Vec<RunningBuffer>,
    pub(crate) elements: usize,
    pub(crate) committed: Buffer,
    pub(crate) pending: Buffer,
}

/// Elements between the starts that slots may have.
const STEP: usize = ALIGNMENT / 4;

impl Arena {
    /// Moves the parameters of each group into a new arena. A parameter that is named twice (tied weights) has one slot,
    /// in the first group that names it.
    ///
    /// # Errors
    /// [`Error::NoParameters`], [`Error::ParameterInUse`], [`Error::Devices`], [`Error::DTypes`] where one is not f32,
    /// [`everstep_device::Error::TooLarge`].
    pub fn new(groups: &[Vec<Parameter>]) -> Result<Self> {
        Self::with_buffers(groups, &[])
    }

    /// The same, with running buffers: from now on they change only by steps that commit.
    ///
    /// # Errors
    /// As [`Arena::new`], also for a buffer.
    pub fn with_buffers(groups: &[Vec<Parameter>], buffers: &[RunningBuffer]) -> Result<Self> {
        let first = groups.iter().flatten().next().ok_or(Error::NoParameters)?;
        let device = first.device();
        let mut parameters: Vec<Parameter> = Vec::new();
        let mut slots = Vec::new();
        let mut ranges = Vec::new();
        let mut elements = 0;
        for group in groups {
            let begin = elements;
            for parameter in group {
                if parameters.iter().any(|known| known.is(parameter)) {
                    continue;
                }
                check(parameter, &device)?;
                parameters.push(parameter.clone());
                let start = elements;
                elements += parameter.shape().count().next_multiple_of(STEP);
                slots.push(start..elements);
            }
            ranges.push(begin..elements);
        }
        buffers.iter().try_for_each(|buffer| check_buffer(buffer, &device))?;
        // An arena of empty parameters still has buffers.
        let elements = elements.max(STEP);
        let values = device.windowed_buffer("arena", elements * 4)?;
        let gradients = device.windowed_buffer("arena", elements * 4)?;
        let owner = Arc::new(());
        let (groups, running, failures) = (ranges, None, device.failures());
        let _owner = owner.clone();
        let mut arena =
            Self { device, parameters, slots, groups, elements, values, gradients, running, failures, _owner };
        arena.zero(&arena.values, elements)?;
        arena.zero(&arena.gradients, elements)?;
        let (running, places) = arena.running_of(buffers)?;
        for (parameter, slot) in arena.parameters.iter().zip(&arena.slots) {
            let value = arena.slot(&arena.values, slot.start, parameter.shape())?;
            parameter.rehome(value, arena.slot(&arena.gradients, slot.start, parameter.shape())?, &owner)?;
        }
        if let Some(running) = &running {
            for (buffer, &start) in running.buffers.iter().zip(&places) {
                let committed = arena.slot(&running.committed, start, &buffer.shape())?;
                buffer.rehome(committed, arena.slot(&running.pending, start, &buffer.shape())?, &owner)?;
            }
        }
        arena.running = running;
        Ok(arena)
    }

    /// The two buffers that these lie in, each once, and where each begins.
    fn running_of(&self, buffers: &[RunningBuffer]) -> Result<(Option<Running>, Vec<usize>)> {
        let (mut each, mut places): (Vec<RunningBuffer>, _) = (Vec::new(), Vec::new());
        let mut elements = 0;
        for buffer in buffers {
            if each.iter().any(|known| known.is(buffer)) {
                continue;
            }
            each.push(buffer.clone());
            places.push(elements);
            elements += buffer.shape().count().next_multiple_of(STEP);
        }
        if elements == 0 {
            return Ok((None, Vec::new()));
        }
        let committed = self.device.windowed_buffer("arena", elements * 4)?;
        let pending = self.device.windowed_buffer("arena", elements * 4)?;
        self.zero(&committed, elements)?;
        self.zero(&pending, elements)?;
        Ok((Some(Running { buffers: each, elements, committed, pending }), places))
    }

    pub(crate) fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// The running buffers, in the order of their slots.
    pub fn buffers(&self) -> &[RunningBuffer] {
        self.running.as_ref().map_or(&[], |running| &running.buffers)
    }

    /// The first element of each running buffer's slot.
    pub fn buffer_starts(&self) -> Vec<usize> {
        let mut next = 0;
        let start = |buffer: &RunningBuffer| {
            let start = next;
            next += buffer.shape().count().next_multiple_of(STEP);
            start
        };
        self.buffers().iter().map(start).collect()
    }

    fn slot(&self, buffer: &Buffer, start: usize, shape: &Shape) -> Result<Tensor> {
        let region = self.part(buffer, start, shape.count())?;
        Ok(Tensor::over(region, Layout::contiguous(*shape), DType::F32))
    }

    fn part(&self, buffer: &Buffer, start: usize, count: usize) -> Result<Region> {
        let outside = Error::Shape { op: "arena", shape: Shape::scalar(), rule: "a slot inside the arena" };
        buffer.part(start * 4, count * 4).ok_or(outside)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The parameters, in the order of their slots.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The range of elements of each parameter's slot in every buffer of the arena's size, padding included.
    pub fn slots(&self) -> &[Range<usize>] {
        &self.slots
    }

    /// The range of elements of each group.
    pub fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    /// The ranges of elements that learn, each with its group: neighbouring trainable parameters are one range.
    pub fn trainable(&self) -> Vec<(usize, Range<usize>)> {
        let mut ranges: Vec<(usize, Range<usize>)> = Vec::new();
        for (parameter, slot) in self.parameters.iter().zip(&self.slots) {
            let group = self.groups.iter().position(|group| group.contains(&slot.start));
            let Some(group) = group.filter(|_| parameter.is_trainable()) else { continue };
            match ranges.last_mut() {
                Some((last, range)) if *last == group && range.end == slot.start => range.end = slot.end,
                _ => ranges.push((group, slot.clone())),
            }
        }
        ranges
    }

    /// Whether [`Arena::trainable`] would give `ranges`.
    pub fn is_trainable(&self, ranges: &[(usize, Range<usize>)]) -> bool {
        let learns = |slot: &Range<usize>| ranges.iter().any(|(_, range)| range.contains(&slot.start));
        let mut slots = self.parameters.iter().zip(&self.slots).filter(|(_, slot)| !slot.is_empty());
        slots.all(|(parameter, slot)| parameter.is_trainable() == learns(slot))
    }

    /// Elements of each buffer, padding included.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// The parameters' values.
    pub fn values(&self) -> &Buffer {
        &self.values
    }

    /// The parameters' gradients.
    pub fn gradients(&self) -> &Buffer {
        &self.gradients
    }

    /// The elements of one of the arena's buffers that belong to `parameter`; `None` where another arena holds it.
    ///
    /// # Errors
    /// [`Error::Shape`] where the buffer is not of the arena's size.
    pub fn part_of(&self, buffer: &Buffer, parameter: &Parameter) -> Result<Option<Tensor>> {
        let index = self.parameters.iter().position(|known| known.is(parameter));
        index.map(|index| self.slot(buffer, self.slots[index].start, parameter.shape())).transpose()
    }

    /// A new buffer of the arena's size, zeroed: an optimizer's state.
    ///
    /// # Errors
    /// [`everstep_device::Error::TooLarge`].
    pub fn state(&self) -> Result<Buffer> {
        let buffer = self.device.windowed_buffer("arena", self.elements * 4)?;
        self.zero(&buffer, self.elements)?;
        Ok(buffer)
    }

    /// Zeroes a buffer that [`Arena::state`] gave.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn zero_state(&self, state: &Buffer) -> Result<()> {
        self.zero(state, self.elements)
    }

    /// `range` in pieces that a kernel can bind: (first element, count).
    pub fn windows(&self, range: Range<usize>) -> impl Iterator<Item = (usize, usize)> + use<> {
        let most = (self.device.window_bytes() / 4 / STEP * STEP).max(STEP);
        let end = range.end;
        range.step_by(most).map(move |start| (start, most.min(end - start)))
    }

    /// The part of one of the arena's buffers from element `start`, a multiple of 64, `count` elements long.
    ///
    /// # Errors
    /// [`Error::Shape`] where it leaves the buffer.
    pub fn window(&self, buffer: &Buffer, start: usize, count: usize) -> Result<Region> {
        self.part(buffer, start, count)
    }

    fn zero(&self, buffer: &Buffer, elements: usize) -> Result<()> {
        for (start, count) in self.windows(0..elements) {
            let layout = Layout::contiguous(Shape::new(&[count])?);
            Tensor::over(self.part(buffer, start, count)?, layout, DType::F32).fill(0.0)?;
        }
        Ok(())
    }

    /// Ends the collection of gradients for a step: slots that none reached are zeroed, frozen parameters' too.
    pub fn finish_gradients(&self) -> Result<()> {
        self.parameters.iter().try_for_each(Parameter::finish_gradient)
    }

    /// Whether no gradient has been collected since the last step.
    pub fn is_at_rest(&self) -> bool {
        self.parameters.iter().all(Parameter::is_at_rest)
    }

    /// The parameters' values and the running buffers, committed and pending: gradients are made anew by every step.
    fn visit_buffers(&self, visit: &mut Visit<'_>) -> Result<()> {
        visit.buffer("values", &self.values)?;
        let Some(running) = &self.running else { return Ok(()) };
        visit.buffer("committed", &running.committed)?;
        visit.buffer("pending", &running.pending)
    }

    /// A number that changes with every change of a parameter's values, by a step or by hand.
    pub fn version(&self) -> u64 {
        self.parameters.iter().map(Parameter::version).fold(0, u64::wrapping_add)
    }

    /// Marks every parameter and running buffer as changed: tapes from before are stale.
    pub fn mark_changed(&self) {
        self.parameters.iter().for_each(Parameter::changed);
        self.buffers().iter().for_each(RunningBuffer::changed);
    }
}

impl State for Arena {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        self.visit_buffers(visit)?;
        if visit.is_restore() {
            let failures = self.device.failures();
            if failures != self.failures {
                // After a loss there is nothing between the slots, which the judgement of a step reads with them.
                self.zero(&self.gradients, self.elements)?;
                self.failures = failures;
            }
            self.parameters.iter().for_each(Parameter::zero_grad);
            self.mark_changed();
        }
        Ok(())
    }
}

fn check(parameter: &Parameter, device: &Device) -> Result<()> {
    let own = parameter.device();
    if !own.is(device) {
        return Err(Error::Devices { op: "arena", left: device.to_string(), right: own.to_string() });
    }
    if parameter.dtype() != DType::F32 {
        return Err(Error::DTypes { op: "arena", found: vec![parameter.dtype()] });
    }
    // Before any parameter moves: a failed optimizer leaves all of them as they were.
    if parameter.is_owned() {
        return Err(Error::ParameterInUse { shape: *parameter.shape() });
    }
    Ok(())
}

fn check_buffer(buffer: &RunningBuffer, device: &Device) -> Result<()> {
    let own = buffer.device();
    if !own.is(device) {
        return Err(Error::Devices { op: "arena", left: device.to_string(), right: own.to_string() });
    }
    if buffer.is_owned() {
        return Err(Error::ParameterInUse { shape: buffer.shape() });
    }
    Ok(())
}
