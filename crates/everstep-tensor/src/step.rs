//! The step as a transaction, the host's side: it records the judgement, and reads the verdicts late and in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use everstep_device::control::{self, Record, Verdict};
use everstep_device::cpu::{
    Gate, GateParams, HEALTH_BLOCK, Health, HealthParams, Seal, SealParams, Settle, SettleParams,
};
use everstep_device::{Buffer, Command, DType, Device, Layout, Readback, Shape, Slice, Work};

use crate::{Arena, Detection, Error, RandomStream, Result, State, Tensor, Visit};

/// How steps are judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOptions {
    /// Gradients are scaled so that their norm is at most this; `None` for no clipping.
    pub max_norm: Option<f32>,
    /// What a faulty step gets: [`Verdict::Reject`] refuses it alone, [`Verdict::Hold`] it and every later one until
    /// [`StepGate::release`]. [`Verdict::Commit`] is no answer to a fault and counts as `Reject`.
    pub on_fault: Verdict,
    /// How many steps the host may be ahead of the records it has seen, 0 to 16: a record is delivered when the step
    /// that many later has been recorded, so that what a program does with it depends on no timing.
    pub in_flight: usize,
    /// What counts as a fault beside what is not finite.
    pub detection: Detection,
    /// Multiplies the loss before the backward pass, so that gradients of half precision do not vanish; `None` for none.
    pub loss_scale: Option<LossScale>,
}

/// A factor on the loss that looks for its own size: it falls when a gradient overflows, which refuses that step alone, and
/// grows after a stretch without one (Micikevicius et al., 2018). Powers of two change no bit of what does not overflow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    /// To begin with, 1 or more.
    pub initial: f32,
    /// What it grows by, 1 or more.
    pub growth: f32,
    /// What it falls by, more than 0 and less than 1, but never below 1: from there on an overflow is a fault.
    pub backoff: f32,
    /// Committed steps without an overflow until it grows.
    pub interval: u32,
    /// The most that it grows to.
    pub most: f32,
}

impl Default for LossScale {
    /// PyTorch's `GradScaler`: 65,536, doubled every 2,000 steps, halved at an overflow; at most 2^24.
    fn default() -> Self {
        Self { initial: 65536.0, growth: 2.0, backoff: 0.5, interval: 2000, most: 16_777_216.0 }
    }
}

impl LossScale {
    fn check(&self) -> Result<()> {
        let rules = [
            ("initial", self.initial, self.initial >= 1.0 && self.initial.is_finite(), "finite and 1 or more"),
            ("growth", self.growth, self.growth >= 1.0 && self.growth.is_finite(), "finite and 1 or more"),
            ("backoff", self.backoff, self.backoff > 0.0 && self.backoff < 1.0, "more than 0 and less than 1"),
            ("interval", self.interval as f32, self.interval > 0, "1 or more"),
            (
                "most",
                self.most,
                self.most >= self.initial && self.most.is_finite(),
                "finite and at least the initial one",
            ),
        ];
        let broken = rules.into_iter().find(|rule| !rule.2);
        broken.map_or(Ok(()), |(name, value, _, range)| {
            Err(Error::Argument { op: "loss_scale", name, value: value.into(), range })
        })
    }
}

impl Default for StepOptions {
    fn default() -> Self {
        Self {
            max_norm: None,
            on_fault: Verdict::Reject,
            in_flight: 4,
            detection: Detection::default(),
            loss_scale: None,
        }
    }
}

impl StepOptions {
    fn check(&self) -> Result<()> {
        let argument = |name, value, range| Err(Error::Argument { op: "step", name, value, range });
        match self.max_norm {
            Some(norm) if norm.is_nan() || norm <= 0.0 => argument("max_norm", f64::from(norm), "more than 0"),
            _ if self.in_flight > MAX_IN_FLIGHT => argument("in_flight", self.in_flight as f64, "0 to 16"),
            _ => {
                self.loss_scale.map_or(Ok(()), |scale| scale.check())?;
                self.detection.check()
            }
        }
    }
}

/// Most steps in flight: the schedule's window holds four times as many.
const MAX_IN_FLIGHT: usize = control::WINDOW / 4;

/// Judges the steps of one arena: owns its control block.
pub struct StepGate {
    device: Device,
    groups: usize,
    control: Tensor,
    // What the last update and this one have read and written.
    sums: Tensor,
    options: StepOptions,
    // The record of the step judged last.
    record: Option<Tensor>,
    waiting: VecDeque<Readback>,
    // Of the last record that came in: its memory is used again.
    words: Vec<u32>,
    attempts: u64,
    // Judgements and restores: what is drawn at random within a step begins anew at each.
    moments: Arc<AtomicU64>,
    // Steps committed as far as delivered records tell.
    committed: u64,
    // Whether a delivered record says that the state has partly been written.
    tentative: bool,
    // Committed counts that the schedule on the device covers.
    schedule: std::ops::Range<u64>,
    // The device's failed recordings when it was written: what was recorded before another one may be lost.
    failures: u64,
}

impl StepGate {
    /// A gate for `groups` parameter groups of an arena on `device`.
    ///
    /// # Errors
    /// [`Error::Argument`] where the options are out of range.
    pub fn new(device: &Device, groups: usize, options: StepOptions) -> Result<Self> {
        options.check()?;
        let words = control::words(groups);
        let control = Tensor::from_vec(vec![0u32; words], &[words], device)?;
        let sums = Tensor::from_vec(vec![0u32; control::SUMS], &[control::SUMS], device)?;
        Ok(Self {
            device: device.clone(),
            groups,
            control,
            sums,
            options,
            record: None,
            // Room ahead, so that no step is the one that makes it.
            waiting: VecDeque::with_capacity(control::WINDOW),
            words: Vec::with_capacity(control::RECORD_WORDS),
            attempts: 0,
            moments: Arc::default(),
            committed: 0,
            tentative: false,
            schedule: 0..0,
            failures: device.failures(),
        })
    }

    /// Judges by other options from the next step on.
    ///
    /// # Errors
    /// [`Error::Argument`] where they are out of range.
    pub fn set_options(&mut self, options: StepOptions) -> Result<()> {
        options.check()?;
        if self.options.loss_scale != options.loss_scale {
            let initial = options.loss_scale.map_or(0.0, |scale| scale.initial);
            self.write(control::LOSS_SCALE, &[initial.to_bits(), 0])?;
        }
        self.options = options;
        Ok(())
    }

    /// The control block, see [`everstep_device::control`]: an input of every optimizer's kernel.
    pub fn control_slice(&self) -> Slice {
        self.control.slice_of_buffer()
    }

    /// The sums of the step, see [`control::SUMS`]: the last output of every optimizer's kernel.
    pub fn sums_slice(&self) -> Slice {
        self.sums.slice_of_buffer()
    }

    /// Steps judged so far, refused ones included.
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// Steps committed as far as delivered records tell.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The most steps that may be committed by now: those known of, and those whose records are under way.
    pub fn latest(&self) -> u64 {
        self.committed + self.waiting.len() as u64
    }

    /// The scalar that the loss is multiplied by before its backward pass, as the device has it; `None` without one.
    pub fn loss_scale(&self) -> Option<Tensor> {
        self.options.loss_scale?;
        let layout = Layout::contiguous(Shape::new(&[control::words(self.groups)]).ok()?);
        let layout = layout.slice(0, control::LOSS_SCALE, control::LOSS_SCALE + 1, 1).ok()?;
        Some(Tensor::over(self.control.region().clone(), layout, DType::F32))
    }

    /// Whether records are under way.
    pub fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Lets a layer's random numbers count by committed steps: a refused step that runs again draws the same.
    pub fn adopt(&self, stream: &RandomStream) {
        stream.adopt(&self.control, control::COMMITTED, &self.moments);
    }

    /// Writes `words` into the control block at word `at`.
    fn write(&self, at: usize, words: &[u32]) -> Result<()> {
        self.upload(self.words(at, words.len()), words)
    }

    fn upload(&self, slice: Slice, words: &[u32]) -> Result<()> {
        let work = Work::Upload(Arc::from(bytemuck::cast_slice::<u32, u8>(words)));
        Ok(self.device.record(Command { op: "control", work, inputs: vec![], outputs: vec![slice] })?)
    }

    fn words(&self, at: usize, count: usize) -> Slice {
        let whole = self.control.slice_of_buffer();
        Slice { offset: whole.offset + at * 4, bytes: count * 4, ..whole }
    }

    /// Makes sure that the device has a schedule row for the next step, whichever steps before it were refused.
    /// `row(committed, group)` gives the row for the step that follows `committed` committed ones. `changed` says that
    /// rows already written are void. From the first row on that is not finite the device has none: such a step is
    /// refused with [`control::fault::SCHEDULE`].
    pub fn supply(&mut self, changed: bool, row: impl Fn(u64, usize) -> [f32; control::ROW_WORDS]) -> Result<()> {
        let latest = self.latest();
        let lost = self.failures != self.device.failures();
        if !changed && !lost && self.schedule.contains(&latest) {
            return Ok(());
        }
        if lost {
            // An update may have run without what follows it.
            self.expect_changes()?;
            self.upload(self.sums_slice(), &[0; control::SUMS])?;
        }
        let start = self.committed;
        let rows: Vec<_> = (start..start + control::WINDOW as u64)
            .map(|step| (0..self.groups).flat_map(|group| row(step, group)).collect::<Vec<f32>>())
            .take_while(|rows| rows.iter().all(|value| value.is_finite()))
            .collect();
        let words: Vec<u32> = rows.iter().flatten().map(|value| value.to_bits()).collect();
        if !words.is_empty() {
            self.write(control::schedule_start(self.groups), &words)?;
        }
        self.write(control::START, &[start as u32, rows.len() as u32])?;
        self.schedule = start..start + rows.len() as u64;
        self.failures = self.device.failures();
        Ok(())
    }

    /// Whether a tensor can be the loss of a step.
    ///
    /// # Errors
    /// [`Error::NotScalar`], [`Error::DTypes`], [`Error::Devices`].
    pub fn check(&self, loss: &Tensor) -> Result<()> {
        if loss.count() != 1 {
            return Err(Error::NotScalar { shape: *loss.shape() });
        }
        if loss.dtype() != DType::F32 {
            return Err(Error::DTypes { op: "step", found: vec![loss.dtype()] });
        }
        if !loss.device().is(&self.device) {
            let (left, right) = (self.device.to_string(), loss.device().to_string());
            return Err(Error::Devices { op: "step", left, right });
        }
        Ok(())
    }

    /// Records the judgement of a step: the gradients of `arena` and its pending buffers are read once, and the verdict is
    /// written where the optimizer's kernels, recorded after it, see it.
    ///
    /// # Errors
    /// As [`StepGate::check`].
    pub fn judge(&mut self, arena: &Arena, loss: &Tensor) -> Result<()> {
        self.check(loss)?;
        let buffers = arena.running().map(|running| (&running.pending, running.elements));
        let sources: Vec<_> = std::iter::once((arena.gradients(), arena.elements())).chain(buffers).collect();
        let blocks = sources.iter().map(|(_, elements)| elements.div_ceil(HEALTH_BLOCK)).collect::<Vec<_>>();
        let partials = self.record_health(arena, &sources)?;
        let on_fault = if self.options.on_fault == Verdict::Hold { Verdict::Hold } else { Verdict::Reject };
        let scale = self.options.loss_scale;
        let gate = Gate(GateParams {
            blocks: blocks[0] as u32,
            loss_offset: loss.layout().offset() as u32,
            groups: self.groups as u32,
            on_fault: on_fault as u32,
            max_norm: self.options.max_norm.unwrap_or(0.0),
            buffer_blocks: blocks[1..].iter().sum::<usize>() as u32,
            loss_limit: self.options.detection.loss_limit.unwrap_or(f32::MAX),
            score: self.options.detection.score.unwrap_or(f32::MAX),
            log_ratio: self.options.detection.norm_ratio.map_or(f32::MAX, f32::ln),
            rate_ratio: self.options.detection.rate_ratio.unwrap_or(f32::MAX),
            warm_up: self.options.detection.warm_up,
            advisory: self.options.detection.advisory(),
            scale_interval: scale.map_or(0, |scale| scale.interval),
            scale_growth: scale.map_or(1.0, |scale| scale.growth),
            scale_backoff: scale.map_or(1.0, |scale| scale.backoff),
            scale_most: scale.map_or(1.0, |scale| scale.most),
        });
        let record = Tensor::unwritten("gate", Shape::new(&[control::RECORD_WORDS])?, DType::U32, &self.device)?;
        self.device.record(Command {
            op: "gate",
            work: Work::Kernel(Arc::new(gate)),
            inputs: vec![partials.slice_of_buffer(), loss.slice_of_buffer()],
            outputs: vec![self.control.slice_of_buffer(), self.device.status(), record.slice_of_buffer()],
        })?;
        self.record = Some(record);
        self.attempts += 1;
        self.moments.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The health of each buffer, given with its count of elements, block after block. One command where there is one
    /// that a kernel can bind; else one per window, each copied into its part.
    fn record_health(&self, arena: &Arena, sources: &[(&Buffer, usize)]) -> Result<Tensor> {
        // Windows are cut where blocks of partial results begin.
        let most = (self.device.window_bytes() / 4 / HEALTH_BLOCK * HEALTH_BLOCK).max(HEALTH_BLOCK);
        let mut parts = Vec::new();
        for &(buffer, elements) in sources {
            for start in (0..elements).step_by(most) {
                let count = most.min(elements - start);
                let words = Shape::new(&[4 * count.div_ceil(HEALTH_BLOCK)])?;
                let part = Tensor::unwritten("health", words, DType::U32, &self.device)?;
                self.device.record(Command {
                    op: "health",
                    work: Work::Kernel(Arc::new(Health(HealthParams { count: count as u32 }))),
                    inputs: vec![arena.window(buffer, start, count)?.slice()],
                    outputs: vec![part.slice_of_buffer()],
                })?;
                parts.push(part);
            }
        }
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        let words = parts.iter().map(Tensor::count).sum();
        let partials = Tensor::unwritten("health", Shape::new(&[words])?, DType::U32, &self.device)?;
        let mut at = 0;
        for part in &parts {
            let layout = partials.layout().slice(0, at, at + part.count(), 1)?;
            partials.view(layout).write("health", part)?;
            at += part.count();
        }
        Ok(partials)
    }

    /// Records the look at what the update kernels have read and written, after all of them: a fault of theirs makes the
    /// step a tentative HOLD.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn seal(&self) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        let Detection { check_state, warm_up, window, .. } = self.options.detection;
        let seal = Seal(SealParams {
            check: u32::from(check_state),
            warm_up,
            window: window as f32,
            groups: self.groups as u32,
            advisory: self.options.detection.advisory(),
        });
        Ok(self.device.record(Command {
            op: "seal",
            work: Work::Kernel(Arc::new(seal)),
            inputs: vec![],
            outputs: vec![self.control.slice_of_buffer(), self.sums.slice_of_buffer(), record.slice_of_buffer()],
        })?)
    }

    /// Says that parameters or states were changed on purpose since the last step: they are not compared with what it left.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn expect_changes(&self) -> Result<()> {
        self.write(control::SUMMED_BEFORE, &[0])
    }

    /// Records what the verdict means for the running buffers of `arena`; the last work of a step that looks at it.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn settle(&self, arena: &Arena) -> Result<()> {
        let Some(running) = arena.running() else { return Ok(()) };
        for (start, count) in arena.windows(0..running.elements) {
            let part = |buffer: &Buffer| arena.window(buffer, start, count).map(|region| region.slice());
            self.device.record(Command {
                op: "settle",
                work: Work::Kernel(Arc::new(Settle(SettleParams { count: count as u32 }))),
                inputs: vec![self.control.slice_of_buffer()],
                outputs: vec![part(&running.committed)?, part(&running.pending)?],
            })?;
        }
        Ok(())
    }

    /// Where the record of the step judged last is written; `None` where it was delivered.
    pub fn record(&self) -> Option<&Tensor> {
        self.record.as_ref()
    }

    /// Counts a step that was not recorded anew: what was kept of an earlier one has run, and its record is `record`.
    pub fn replayed(&mut self, record: &Tensor) {
        self.record = Some(record.clone());
        self.attempts += 1;
        self.moments.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the step: runs the recording, begins to read its record, and appends the records that are due to `records`.
    ///
    /// # Errors
    /// [`everstep_device::Error::OutOfRange`] once its record is appended, for a step that met data outside its range:
    /// that step was refused, and training can go on. Later records come with the next call.
    pub fn deliver(&mut self, records: &mut impl Extend<Record>) -> Result<()> {
        if let Some(record) = self.record.take() {
            // The record carries the data status that its step found; the device's own is about later work.
            self.waiting.push_back(self.device.read_unchecked(&[record.slice_of_buffer()])?);
        }
        self.take(self.options.in_flight, records)
    }

    /// Waits for every record that is still under way, and appends them to `records`.
    ///
    /// # Errors
    /// As [`StepGate::deliver`].
    pub fn drain(&mut self, records: &mut impl Extend<Record>) -> Result<()> {
        self.take(0, records)
    }

    fn take(&mut self, leave: usize, records: &mut impl Extend<Record>) -> Result<()> {
        while self.waiting.len() > leave {
            let Some(readback) = self.waiting.pop_front() else { break };
            readback.pace_words(&mut self.words)?;
            let record = Record::from_words(&self.words);
            self.committed = u64::from(record.committed);
            self.tentative |= record.tentative;
            let [code, value, bound] = record.status;
            records.extend([record]);
            if let Some(error) = everstep_device::status::error(&[code, value, bound, 0]) {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Forgets the records under way, and takes over a control block that another moment has left: attempts count on.
    fn resume(&mut self) -> Result<()> {
        self.waiting.clear();
        self.record = None;
        self.tentative = false;
        // A step that failed halfway may have drawn already.
        self.moments.fetch_add(1, Ordering::Relaxed);
        // Unchecked: a status that some forward pass has left is about work that is void now.
        let words = [self.words(control::COMMITTED, 1), self.words(control::ATTEMPT, 1)];
        let parts = self.device.read_unchecked(&words)?.wait()?;
        let word =
            |index: usize| parts.get(index).and_then(|bytes| bytes.first_chunk().copied().map(u32::from_le_bytes));
        self.committed = word(0).unwrap_or_default().into();
        // Those of another process count on, too.
        self.attempts = self.attempts.max(word(1).unwrap_or_default().into());
        self.write(control::ATTEMPT, &[self.attempts() as u32])?;
        self.write(control::HELD, &[0])?;
        self.write(control::TENTATIVE, &[0])?;
        // The rows on the device may follow a schedule of that time.
        self.schedule = 0..0;
        // All of it has run: what earlier failures took is here again.
        self.failures = self.device.failures();
        Ok(())
    }

    /// Clears a HOLD: the next step is judged on its own. It is done at the return, whatever fails later. After a tentative
    /// one the caller answers for the state, which has partly been written: see [`Record::tentative`].
    pub fn release(&mut self) -> Result<()> {
        self.write(control::HELD, &[0])?;
        if std::mem::take(&mut self.tentative) {
            self.expect_changes()?;
        }
        Ok(self.device.flush()?)
    }

    /// Refuses every step from the next one on, until [`StepGate::release`] or a restore: their records tell what would have
    /// become of them.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn hold(&mut self) -> Result<()> {
        self.write(control::HELD, &[1])
    }

    /// The words of the control block; waits for them.
    pub fn read_control(&self) -> Result<Vec<u32>> {
        self.control.to_vec()
    }
}

/// The control block and the sums. A restore waits for the device, drops the records of steps under way, and clears a HOLD.
impl State for StepGate {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        visit.buffer("control", self.control.region().buffer())?;
        visit.buffer("sums", self.sums.region().buffer())?;
        if visit.is_restore() { self.resume() } else { Ok(()) }
    }
}
