//! A small model with batch norm and dropout, its batches, and steps that go wrong on purpose.

use std::sync::{Mutex, PoisonError};

use everstep_device::control::{self, fault};
use everstep_device::{Buffer, DeviceKind};
use everstep_nn::{BatchNorm1d, Dropout, Linear, Module};
use everstep_optim::{Adam, AdamW, Error, Optimizer, Result, Rmsprop, Rule, Schedule, Sgd};
use everstep_tensor::{Activation, Device, Generator, RunningBuffer, StepOptions, Tensor, Verdict};

/// Runs a test on a CPU device of its own and on the GPU.
pub(crate) fn on_each_device(test: impl Fn(&Device)) {
    test(&Device::isolated_cpu());
    on_gpu(test);
}

/// Runs a test on the GPU, where there is one. It is one device for the whole process, with one data status and one set
/// of counters: so one test has it at a time.
pub(crate) fn on_gpu(test: impl Fn(&Device)) {
    static GPU: Mutex<()> = Mutex::new(());
    if let Some(gpu) = everstep_testing::gpu() {
        let _alone = GPU.lock().unwrap_or_else(PoisonError::into_inner);
        test(&gpu);
    }
}

/// How each optimizer is made.
pub(crate) type Build = fn(&Model) -> Result<Optimizer>;

/// Every optimizer, each with weight decay, gradients that are clipped and a learning rate that falls.
pub(crate) const OPTIMIZERS: [(&str, Build); 7] = [
    ("sgd", |model| prepare(Sgd::new(0.1).weight_decay(0.01), model)),
    ("sgd with momentum", |model| prepare(Sgd::new(0.1).momentum(0.9).dampening(0.1).weight_decay(0.01), model)),
    ("sgd with nesterov", |model| prepare(Sgd::new(0.1).momentum(0.9).nesterov(true), model)),
    ("adam", |model| prepare(Adam::new(0.01).weight_decay(0.01), model)),
    ("adamw", |model| prepare(AdamW::new(0.01), model)),
    ("rmsprop", |model| prepare(Rmsprop::new(0.01).centered(true).momentum(0.5).epsilon(1e-3).l1(1e-3), model)),
    ("adamw in groups", |model| {
        let optimizer = AdamW::new(0.01).groups(model).group("*.bias", AdamW::new(0.1).weight_decay(0.0))?.build()?;
        Ok(optimizer.clip_norm(0.5)?.clip_value(0.125)?.schedule(Schedule::exponential(0.95)))
    }),
];

fn prepare(rule: impl Rule, model: &Model) -> Result<Optimizer> {
    let rate = rule.learning_rate();
    Ok(rule.build(model)?.clip_norm(0.5)?.schedule(move |committed| rate * 0.95f64.powf(committed as f64)))
}

/// The same optimizer with another answer to faults and another distance between host and records.
pub(crate) fn judged(optimizer: Optimizer, on_fault: Verdict, in_flight: usize) -> Result<Optimizer> {
    optimizer.with_options(StepOptions { max_norm: Some(0.5), on_fault, in_flight, ..StepOptions::default() })
}

#[derive(Module)]
#[module(crate = everstep_nn)]
pub(crate) struct Model {
    pub(crate) norm: BatchNorm1d,
    pub(crate) input: Linear,
    dropout: Dropout,
    pub(crate) output: Linear,
}

pub(crate) const FEATURES: usize = 6;
pub(crate) const CLASSES: u32 = 4;
pub(crate) const ROWS: usize = 8;

impl Model {
    /// Always the same numbers.
    pub(crate) fn new(device: &Device) -> Self {
        let mut generator = Generator::new(11);
        Self {
            norm: BatchNorm1d::new(FEATURES, device).unwrap(),
            input: Linear::new(FEATURES, 16, &mut generator, device).unwrap(),
            dropout: Dropout::new(0.25, &mut generator).unwrap(),
            output: Linear::new(16, CLASSES as usize, &mut generator, device).unwrap(),
        }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // In front: behind a layer with a bias, the bias would have no gradient but rounding errors.
        let hidden = self.input.forward_with(&self.norm.forward(x)?, Activation::Relu)?;
        Ok(self.output.forward(&self.dropout.forward(&hidden)?)?)
    }
}

/// What goes wrong in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// A NaN in the batch.
    NanInput,
    /// A finite loss whose gradient is +inf.
    InfiniteGradient,
    /// Finite gradients whose norm overflows.
    NormOverflow,
    /// A loss that is NaN beside gradients that are finite.
    NanLoss,
    /// A label out of range, whose row's loss is NaN.
    Label,
    /// A batch so large that its variance overflows, while all gradients are finite.
    HugeInput,
}

impl Fault {
    pub(crate) const ALL: [Self; 6] =
        [Self::NanInput, Self::InfiniteGradient, Self::NormOverflow, Self::NanLoss, Self::Label, Self::HugeInput];

    /// What the record says of it.
    pub(crate) fn bits(self) -> u32 {
        match self {
            Self::NanInput => fault::GRADIENT | fault::LOSS | fault::BUFFER,
            Self::InfiniteGradient => fault::GRADIENT,
            Self::NormOverflow => fault::NORM,
            Self::NanLoss => fault::LOSS,
            Self::HugeInput => fault::BUFFER,
            Self::Label => fault::DATA | fault::GRADIENT | fault::LOSS,
        }
    }
}

/// Batch `index`: always the same numbers.
pub(crate) fn batch(index: u64, device: &Device, fault: Option<Fault>) -> Result<(Tensor, Tensor)> {
    let mut generator = Generator::new(1000 + index);
    let mut x: Vec<f32> = (0..ROWS * FEATURES).map(|_| generator.normal()).collect();
    let mut y: Vec<u32> = (0..ROWS).map(|_| generator.below(CLASSES)).collect();
    match fault {
        Some(Fault::NanInput) => x[7] = f32::NAN,
        Some(Fault::HugeInput) => x[7] = 1e30,
        Some(Fault::Label) => y[3] = CLASSES + 5,
        _ => {}
    }
    Ok((Tensor::from_vec(x, &[ROWS, FEATURES], device)?, Tensor::from_vec(y, &[ROWS], device)?))
}

/// Forward and backward of batch `index`: the loss that the step is judged by.
pub(crate) fn backward(model: &Model, index: u64, fault: Option<Fault>) -> Result<Tensor> {
    let (x, y) = batch(index, &model.input.weight.device(), fault)?;
    let mut loss = model.forward(&x)?.cross_entropy(&y)?;
    // 0, with a gradient of 1 for each weight.
    let weight = model.output.weight.tensor();
    let nothing = weight.sub(&weight.detach())?.sum_all()?;
    match fault {
        Some(Fault::InfiniteGradient) => loss = loss.add(&nothing.mul_scalar(1e30)?.mul_scalar(1e30)?)?,
        Some(Fault::NormOverflow) => loss = loss.add(&nothing.mul_scalar(1e30)?)?,
        _ => {}
    }
    loss.backward()?;
    Ok(if fault == Some(Fault::NanLoss) { loss.mul_scalar(f32::NAN)? } else { loss })
}

/// One step on batch `index`.
pub(crate) fn attempt(model: &Model, optimizer: &mut Optimizer, index: u64, fault: Option<Fault>) -> Result<()> {
    let loss = backward(model, index, fault)?;
    optimizer.step(&loss)
}

/// Steps on batches that are well.
pub(crate) fn healthy(model: &Model, optimizer: &mut Optimizer, batches: impl IntoIterator<Item = u64>) {
    batches.into_iter().for_each(|index| attempt(model, optimizer, index, None).unwrap());
}

/// Whether the error is that of a label out of range.
pub(crate) fn is_label(error: &Error) -> bool {
    let label = everstep_device::Error::OutOfRange { op: "cross_entropy", value: CLASSES + 5, bound: CLASSES };
    *error == everstep_tensor::Error::from(label).into()
}

/// Everything that a step may change: each bit of the values and of the optimizer's states, padding included, of the
/// running buffers, committed and pending, and the number of committed steps.
#[derive(Clone, PartialEq)]
pub(crate) struct State {
    values: Vec<u32>,
    states: Vec<Vec<u32>>,
    buffers: Vec<[Vec<u32>; 2]>,
    pub(crate) committed: u32,
}

pub(crate) fn words(buffer: &Buffer) -> Vec<u32> {
    let parts = buffer.device().read(&[buffer.region().slice()]).unwrap().wait().unwrap();
    bytemuck::pod_collect_to_vec(&parts[0])
}

pub(crate) fn state(optimizer: &Optimizer) -> State {
    let bits = |tensor: Tensor| tensor.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
    let both = |buffer: &RunningBuffer| [bits(buffer.tensor()), bits(buffer.pending().unwrap())];
    State {
        buffers: optimizer.arena().buffers().iter().map(both).collect(),
        values: words(optimizer.arena().values()),
        states: optimizer.states().iter().map(words).collect(),
        committed: optimizer.gate().read_control().unwrap()[control::COMMITTED],
    }
}

#[track_caller]
pub(crate) fn assert_same(context: &str, found: &State, expected: &State) {
    assert_eq!(found.committed, expected.committed, "{context}: committed steps");
    let differ = |a: &[u32], b: &[u32]| (0..a.len().max(b.len())).filter(|&at| a.get(at) != b.get(at)).count();
    assert_eq!(differ(&found.values, &expected.values), 0, "{context}: values that differ");
    assert_eq!((found.buffers.len(), &found.buffers), (2, &expected.buffers), "{context}: running buffers");
    for (number, (found, expected)) in found.states.iter().zip(&expected.states).enumerate() {
        assert_eq!(differ(found, expected), 0, "{context}: elements of state {number} that differ");
    }
}

/// Which device, for messages.
pub(crate) fn on(device: &Device) -> &'static str {
    if device.info().kind == DeviceKind::Cpu { "cpu" } else { "gpu" }
}
