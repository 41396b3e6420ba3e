//! A device that is lost at any moment of a run: another one takes its place, and the run ends with the same bits.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

use everstep_data::{Dataset, Loader, LoaderConfig};
use everstep_fault::checkpoint::MemoryStorage;
use everstep_fault::{Batches, Checkpointing, Error, Event, Guard, Phase, Policy, WatchdogConfig};
use everstep_nn::{BatchNorm1d, Dropout, Linear, Module};
use everstep_optim::{AdamW, Rule};
use everstep_tensor::{Device, Generator, State, Tensor, Visit};

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Model {
    hidden: Linear,
    norm: BatchNorm1d,
    dropout: Dropout,
    output: Linear,
}

impl Model {
    fn new(device: &Device) -> Self {
        let mut generator = Generator::new(1);
        let hidden = Linear::new(64, 8, &mut generator, device).unwrap();
        let (norm, dropout) = (BatchNorm1d::new(8, device).unwrap(), Dropout::new(0.2, &mut generator).unwrap());
        Self { hidden, norm, dropout, output: Linear::new(8, 10, &mut generator, device).unwrap() }
    }

    fn loss(&self, x: &Tensor, y: &Tensor) -> Result<Tensor, Error> {
        let hidden = self.norm.forward(&self.hidden.forward(x)?)?.relu()?;
        Ok(self.output.forward(&self.dropout.forward(&hidden)?)?.cross_entropy(y)?)
    }
}

const STEPS: u64 = 24;

fn policy() -> Policy {
    let watchdog = None;
    Policy { interval: 6, snapshot_cost: None, probation: 2, device_wait_ms: 0, watchdog, ..Policy::default() }
}

struct Run {
    model: Model,
    guard: Guard,
    data: Loader,
    events: Vec<Event>,
}

impl Run {
    fn new(policy: Policy, device: &Device) -> Self {
        let model = Model::new(device);
        let rule = AdamW::new(3e-3).build(&model).unwrap().clip_norm(1.0).unwrap();
        let guard = Guard::with_optimizer(&model, rule, policy).unwrap();
        let config = LoaderConfig::new(16).shuffle(7).prefetch(0);
        let data = Loader::new(everstep_data::digits().unwrap(), config, device).unwrap();
        Self { model, guard, data, events: Vec::new() }
    }

    fn device(&self) -> Device {
        self.guard.optimizer().device().clone()
    }

    fn step(&mut self) -> Result<(), Error> {
        let Self { model, guard, data, events } = self;
        let report = guard.step(data, |batch| model.loss(&batch.x, &batch.y));
        events.extend(guard.take_events());
        events.extend(report?.into_iter().flat_map(|report| report.events));
        Ok(())
    }

    fn until(&mut self, steps: u64) -> Result<(), Error> {
        // What was undone at the very end runs again, too.
        loop {
            while self.data.cursor().position < steps * 16 {
                self.step()?;
            }
            let is_done = self.guard.finish(&mut self.data)?;
            self.events.extend(self.guard.take_events());
            if is_done {
                return Ok(());
            }
        }
    }

    fn bits(&self) -> Vec<Vec<u32>> {
        let values = |tensor: Tensor| -> Vec<u32> {
            tensor.to_vec::<f32>().unwrap().iter().map(|value| value.to_bits()).collect()
        };
        let parameters = self.model.parameters().into_iter().map(|parameter| values(parameter.tensor()));
        parameters.chain(self.model.named_buffers().into_iter().map(|(_, buffer)| values(buffer.tensor()))).collect()
    }

    fn count(&self, wanted: fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| wanted(event)).count()
    }
}

/// A GPU that no other test has. Without one the test says so, where that may be.
fn gpu() -> Option<Device> {
    everstep_testing::gpu().map(|_| Device::isolated_gpu("").unwrap())
}

fn lost(event: &Event) -> bool {
    matches!(event, Event::DeviceLost { .. })
}

fn rebuilt(event: &Event) -> bool {
    matches!(event, Event::DeviceRebuilt { .. })
}

/// Of the run without a loss: its bits, and the submissions of its steps, all of which come behind the first one's begin.
fn undisturbed(device: &Device) -> (Vec<Vec<u32>>, std::ops::Range<u64>) {
    let mut run = Run::new(policy(), device);
    run.step().unwrap();
    let first = device.counters().submissions;
    run.until(STEPS).unwrap();
    let end = device.counters().submissions;
    (run.bits(), first..end)
}

/// At every submission of a run of 24 steps, one after the other.
#[test]
fn a_run_outlives_its_device_at_every_submission() {
    let Some(device) = gpu() else { return };
    let (expected, submissions) = undisturbed(&device);
    assert!(submissions.end - submissions.start >= 2 * STEPS - 2, "{submissions:?}");
    let own = submissions.end - submissions.start;
    for at in 0..own {
        let mut run = Run::new(policy(), &device);
        run.step().unwrap();
        device.destroy_at(device.counters().submissions + at);
        run.until(STEPS).unwrap();
        assert_eq!(run.bits(), expected, "submission {at}: {:?}", run.events);
        assert_eq!((run.count(lost), run.count(rebuilt)), (1, 1), "submission {at}: {:?}", run.events);
    }
}

/// Several times in a run; also while it comes back.
#[test]
fn a_run_outlives_many_losses() {
    let Some(device) = gpu() else { return };
    let (expected, _) = undisturbed(&device);
    let mut run = Run::new(policy(), &device);
    for step in [3, 7, 8, 15, 16] {
        run.until(step).unwrap();
        device.destroy();
    }
    run.until(STEPS).unwrap();
    assert_eq!(run.bits(), expected, "{:?}", run.events);
    assert_eq!((run.count(lost), run.count(rebuilt)), (5, 5), "{:?}", run.events);
    // Past the budget the error is what it is: a loss, and not that of memory.
    let mut run = Run::new(Policy { device_losses: 1, ..policy() }, &device);
    run.until(2).unwrap();
    device.destroy();
    run.until(4).unwrap();
    device.destroy();
    let error = run.until(6).unwrap_err().to_string();
    assert!(error.contains("lost"), "{error}");
    device.rebuild().unwrap();
}

/// Epochs of six batches: the ends that a program is told are as many as without a loss, wherever it goes, and what the program
/// did between them is done once.
#[test]
fn epochs_are_counted_whatever_is_lost() {
    let Some(device) = gpu() else { return };
    let train = |loss_at: Option<u64>| {
        let Run { model, mut guard, .. } = Run::new(policy(), &device);
        let (part, _) = everstep_data::digits().unwrap().split_stratified(0.0535, 0).unwrap();
        let mut data = Loader::new(part, LoaderConfig::new(16).shuffle(7).prefetch(0), &device).unwrap();
        assert_eq!(data.epoch_batches(), 6);
        let (mut ends, mut submissions) = (0, device.counters().submissions);
        loop {
            while data.cursor().epoch < 4 {
                while guard.step(&mut data, |batch| model.loss(&batch.x, &batch.y)).unwrap().is_some() {
                    if let Some(at) = loss_at.filter(|_| submissions != 0) {
                        // Counted from behind the first step.
                        device.destroy_at(device.counters().submissions + at);
                        submissions = 0;
                    }
                }
                ends += 1;
                let rate = guard.optimizer().learning_rate(0, guard.optimizer().gate().committed());
                guard.optimizer_mut().set_learning_rate(rate * 0.5);
            }
            if guard.finish(&mut data).unwrap() {
                break;
            }
        }
        let bits = model.output.weight.tensor().to_vec::<f32>().unwrap();
        let bits: Vec<u32> = bits.iter().map(|value| value.to_bits()).collect();
        (ends, bits, device.counters().submissions - submissions)
    };
    let (ends, expected, submissions) = train(None);
    assert_eq!(ends, 4);
    for at in (0..submissions - 20).step_by(5) {
        let (ends, bits, _) = train(Some(at));
        assert_eq!((ends, bits == expected), (4, true), "submission {at} of {submissions}");
    }
}

/// A device that does not come back: the CPU engine takes over, and says so, or the error stands.
#[test]
fn the_cpu_engine_takes_over() {
    let Some(device) = gpu() else { return };
    let mut run = Run::new(policy(), &device);
    run.until(9).unwrap();
    device.destroy_for_good();
    run.until(STEPS).unwrap();
    assert_eq!(run.device().info().kind, everstep_device::DeviceKind::Cpu);
    assert_eq!(run.count(|event| matches!(event, Event::FellBackToCpu { .. })), 1, "{:?}", run.events);
    let cpu = Device::isolated_cpu();
    let (expected, _) = undisturbed(&cpu);
    for (found, expected) in run.bits().iter().flatten().zip(expected.iter().flatten()) {
        let (found, expected) = (f32::from_bits(*found), f32::from_bits(*expected));
        // Nine steps of another device's rounding, grown by fifteen of Adam.
        assert!((found - expected).abs() < 2e-3 * expected.abs().max(1.0), "{found} and {expected}");
    }

    let device = Device::isolated_gpu("").unwrap();
    let mut run = Run::new(Policy { cpu_fallback: false, ..policy() }, &device);
    run.until(9).unwrap();
    device.destroy_for_good();
    let error = run.until(STEPS).unwrap_err().to_string();
    assert!(error.contains("lost"), "{error}");
}

/// On the CPU engine the snapshots are gone with the device: a checkpoint is not.
#[test]
fn a_checkpoint_outlives_a_device_without_a_mirror() {
    let device = Device::isolated_cpu();
    let (expected, _) = undisturbed(&device);
    let mut run = Run::new(policy(), &device);
    run.guard = run.guard.with_checkpoints(MemoryStorage::new(), Checkpointing::default(), &mut run.data).unwrap();
    run.until(5).unwrap();
    device.destroy();
    run.until(STEPS).unwrap();
    assert_eq!(run.bits(), expected, "{:?}", run.events);
    assert_eq!(run.count(rebuilt), 1);
    // Without one there is nothing to go on with.
    let mut run = Run::new(policy(), &device);
    run.until(5).unwrap();
    device.destroy();
    assert!(run.until(STEPS).unwrap_err().to_string().contains("lost"));
}

/// What the program holds on the device outside of the state is gone, and its use says why.
#[test]
fn a_tensor_outside_the_state_is_an_error() {
    let Some(device) = gpu() else { return };
    let mut run = Run::new(policy(), &device);
    let scale = Tensor::scalar(2.0f32, &device).unwrap();
    let Run { model, guard, data, .. } = &mut run;
    let mut step = |scale: &Tensor| {
        guard.step(data, |batch| Ok::<_, Error>(model.loss(&batch.x, &batch.y)?.mul(scale)?)).map(drop)
    };
    step(&scale).unwrap();
    device.destroy();
    let error = step(&scale).unwrap_err().to_string();
    assert!(error.contains("lost"), "{error}");
    // Made anew, the run goes on.
    step(&Tensor::scalar(2.0f32, &device).unwrap()).unwrap();
}

/// A device that no longer answers is given up, and the run ends with the same bits.
#[test]
fn a_stalled_device_is_taken_for_lost() {
    let Some(device) = gpu() else { return };
    let (expected, _) = undisturbed(&device);
    // Steps of a software driver on a busy machine take longer now and then: what is too short a floor only costs a rebuild.
    let watchdog = Some(WatchdogConfig { factor: 10.0, floor_ms: 1500, least: 8 });
    let mut run = Run::new(Policy { watchdog, ..policy() }, &device);
    run.until(14).unwrap();
    device.stall_at(device.counters().submissions + 3);
    run.until(STEPS).unwrap();
    assert_eq!(run.bits(), expected, "{:?}", run.events);
    assert!(run.count(rebuilt) >= 1, "{:?}", run.events);
    let stalled = |event: &Event| matches!(event, Event::Stalled { stall } if stall.phase == Phase::Computing);
    assert!(run.count(stalled) >= 1, "{:?}", run.events);
}

/// Batches that once take their time.
struct Slow {
    loader: Loader,
    at: u64,
}

impl State for Slow {
    fn visit(&mut self, visit: &mut Visit<'_>) -> everstep_tensor::Result<()> {
        self.loader.visit(visit)
    }
}

impl Batches for Slow {
    type Batch = everstep_data::Batch;

    fn next_batch(&mut self) -> Result<Option<Self::Batch>, Error> {
        if self.loader.cursor().position == self.at {
            std::thread::sleep(std::time::Duration::from_millis(1500));
        }
        Ok(self.loader.next_batch()?)
    }

    fn cursor(&self) -> everstep_data::Cursor {
        self.loader.cursor()
    }

    fn seek(&mut self, cursor: everstep_data::Cursor) -> Result<(), Error> {
        Ok(self.loader.seek(cursor)?)
    }
}

/// A loader that stands still is told, and no device suffers for it.
#[test]
fn a_stalled_loader_is_told_apart() {
    let Some(device) = gpu() else { return };
    let watchdog = Some(WatchdogConfig { factor: 10.0, floor_ms: 500, least: 8 });
    let Run { model, mut guard, data, .. } = Run::new(Policy { watchdog, ..policy() }, &device);
    let mut data = Slow { loader: data, at: 12 * 16 };
    let mut stalls = Vec::new();
    for _ in 0..16 {
        let report = guard.step(&mut data, |batch| model.loss(&batch.x, &batch.y)).unwrap().unwrap();
        stalls.extend(report.events.into_iter().filter_map(|event| match event {
            Event::Stalled { stall } if stall.phase == Phase::Loading => Some(stall),
            _ => None,
        }));
    }
    // A busy machine may make others.
    assert!(stalls.iter().any(|stall| stall.step == 13 && stall.waited_ms >= 500), "{stalls:?}");
}
