//! The workloads that other engines are timed on too.
//!
//! A train step is forward, mean cross-entropy, backward and AdamW (rate 1e-3, betas 0.9 and 0.999, epsilon 1e-8, weight
//! decay 0.01), its input already on the device, under a guard with the default policy. All are f32.

use std::rc::Rc;

use everstep::device::{Command, Work as CommandWork};
use everstep::fault;
use everstep::nn::transformer::{Gpt, GptConfig};
use everstep::optim::{CapturedStep, KeptStep};
use everstep::prelude::*;

use crate::models::{Cnn, Mlp};

/// A piece of work that can be run again and again; the run is done, on the device too, when it returns.
pub type Work = Box<dyn FnMut() -> everstep::Result<()>>;

/// A model in training on one batch for ever.
pub struct Training {
    /// The model.
    pub model: Rc<dyn Module>,
    /// Of the model's parameters.
    pub optimizer: Optimizer,
    /// The loss of the model as it is now.
    pub loss: Box<dyn Fn() -> everstep::Result<Tensor>>,
}

/// A workload by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// The name that all engines call it by.
    pub name: String,
    /// What one run handles: a unit such as `samples`, and how many.
    pub amount: (&'static str, f64),
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Matmul(usize),
    Step(Model),
    LayerNorm,
    Softmax,
    AdamW,
}

/// What a train step is a step of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Model {
    Mlp(&'static [usize], usize),
    Cnn,
    Gpt { large: bool },
}

const CNN_BATCH: usize = 64;
const ROWS: [usize; 2] = [4096, 1024];
const PARAMETERS: usize = 10_000_000;

/// Every workload; `large` ones are for a GPU.
pub fn all(large: bool) -> Vec<Workload> {
    let workload = |name: &str, amount, kind| Workload { name: name.into(), amount, kind };
    let sizes = if large { [1024, 2048, 4096, 8192] } else { [256, 512, 1024, 2048] };
    let matmul = |n: usize| {
        let gflop = 2.0 * (n as f64).powi(3) / 1e9;
        workload(&format!("matmul_{n}"), ("gflop", gflop), Kind::Matmul(n))
    };
    let (_, batch) = gpt_config(large);
    let tokens = batch * gpt_config(large).0.context;
    let mib = (ROWS[0] * ROWS[1] * 4) as f64 / f64::from(1 << 20);
    let mut list: Vec<_> = sizes.map(matmul).into();
    list.extend([
        workload("seed_net_step", ("samples", 32.0), Kind::Step(Model::Mlp(&[784, 64, 10], 32))),
        workload("mlp_step", ("samples", 128.0), Kind::Step(Model::Mlp(&[784, 512, 512, 10], 128))),
        workload("cnn_step", ("samples", CNN_BATCH as f64), Kind::Step(Model::Cnn)),
        workload("gpt_step", ("tokens", tokens as f64), Kind::Step(Model::Gpt { large })),
        workload("layer_norm_fwd_bwd", ("mib", mib), Kind::LayerNorm),
        workload("softmax_fwd_bwd", ("mib", mib), Kind::Softmax),
        workload("adamw_10m", ("params", PARAMETERS as f64), Kind::AdamW),
    ]);
    list
}

/// The transformer and its batch.
fn gpt_config(large: bool) -> (GptConfig, usize) {
    if large { (GptConfig::new(65, 384, 6, 6, 256), 64) } else { (GptConfig::new(65, 128, 4, 4, 64), 12) }
}

impl Workload {
    /// Makes models and inputs on `device`.
    ///
    /// # Errors
    /// Those of making tensors and layers.
    pub fn prepare(&self, device: &Device) -> everstep::Result<Work> {
        let mut generator = Generator::new(1);
        Ok(match self.kind {
            Kind::Matmul(n) => matmul(n, &mut generator, device)?,
            Kind::Step(model) => train_step(model.training(device)?)?,
            Kind::LayerNorm => rows(&mut generator, device, |x| Ok(x.layer_norm(&ROWS[1..], None, None, 1e-5)?))?,
            Kind::Softmax => rows(&mut generator, device, |x| Ok(x.softmax(-1)?))?,
            Kind::AdamW => adamw(&mut generator, device)?,
        })
    }

    /// The model and the batch of a train step, the same ones each time; `None` for other work.
    ///
    /// # Errors
    /// Those of making tensors and layers.
    pub fn training(&self, device: &Device) -> everstep::Result<Option<Training>> {
        let Kind::Step(model) = self.kind else { return Ok(None) };
        model.training(device).map(Some)
    }
}

impl Model {
    fn training(self, device: &Device) -> everstep::Result<Training> {
        let mut generator = Generator::new(1);
        match self {
            Model::Mlp(sizes, batch) => {
                let x = Tensor::randn(&[batch, sizes[0]], &mut generator, device)?;
                let y = classes(batch, device)?;
                let loss = move |model: &Mlp| Ok(model.forward(&x)?.cross_entropy(&y)?);
                Training::new(Mlp::new(sizes, device)?, loss)
            }
            Model::Cnn => {
                let x = Tensor::randn(&[CNN_BATCH, 1, 28, 28], &mut generator, device)?;
                let y = classes(CNN_BATCH, device)?;
                let loss = move |model: &Cnn| Ok(model.forward(&x)?.cross_entropy(&y)?);
                Training::new(Cnn::new(device)?, loss)
            }
            Model::Gpt { large } => {
                let (config, batch) = gpt_config(large);
                let count = batch * config.context;
                let tokens = (0..count).map(|index| (index * 7919 % config.vocab) as u32).collect();
                let tokens = Tensor::from_vec(tokens, &[batch, config.context], device)?;
                let loss = move |model: &Gpt| Ok(model.forward(&tokens)?.cross_entropy(&tokens)?);
                Training::new(config.init(&mut Generator::new(0), device)?, loss)
            }
        }
    }
}

impl Training {
    fn new<M: Module + 'static>(
        model: M,
        loss: impl Fn(&M) -> everstep::Result<Tensor> + 'static,
    ) -> everstep::Result<Self> {
        let optimizer = AdamW::new(1e-3).build(&model)?;
        let model = Rc::new(model);
        Ok(Self { model: model.clone(), optimizer, loss: Box::new(move || loss(&model)) })
    }

    /// Runs a step, and waits for it.
    ///
    /// # Errors
    /// Those of the ops and of the optimizer.
    pub fn step(&mut self) -> everstep::Result<()> {
        let loss = (self.loss)()?;
        loss.backward()?;
        self.optimizer.step(&loss)?;
        // Waits for the step: the record is the last that it writes.
        self.optimizer.finish()?;
        Ok(())
    }

    /// The step as it is captured, from a few recorded ones; `None` where it cannot be.
    ///
    /// # Errors
    /// As [`Training::step`].
    pub fn capture(&mut self) -> everstep::Result<Option<CapturedStep>> {
        let (mut captured, mut trace) = (None, None);
        for _ in 0..4 {
            let start = self.optimizer.begin_step()?;
            let loss = (self.loss)()?;
            loss.backward()?;
            match self.optimizer.end_step(start, &loss, &[], trace.as_ref())? {
                KeptStep::Captured(step) => captured = Some(step),
                KeptStep::Trace(new) => trace = Some(new),
                KeptStep::Refused(_) => {}
            }
            self.optimizer.deliver()?;
            self.optimizer.finish()?;
        }
        Ok(captured)
    }
}

fn classes(count: usize, device: &Device) -> everstep::Result<Tensor> {
    Ok(Tensor::from_vec((0..count as u32).map(|index| index % 10).collect(), &[count], device)?)
}

fn matmul(n: usize, generator: &mut Generator, device: &Device) -> everstep::Result<Work> {
    let a = Tensor::randn(&[n, n], generator, device)?;
    let b = Tensor::randn(&[n, n], generator, device)?;
    let device = device.clone();
    device.synchronize()?;
    Ok(Box::new(move || {
        let _c = a.matmul(&b)?;
        Ok(device.synchronize()?)
    }))
}

/// Steps under a guard with the default policy, each waited for.
fn train_step(training: Training) -> everstep::Result<Work> {
    let Training { model, optimizer, loss } = training;
    let mut guard = Guard::with_optimizer(&model, optimizer, Policy::default())?;
    let mut batches = Always::default();
    Ok(Box::new(move || {
        guard.step(&mut batches, |()| loss())?;
        guard.finish(&mut batches)?;
        Ok(())
    }))
}

/// The batch that a workload always has: it holds it itself.
#[derive(Debug, Default)]
pub struct Always {
    taken: u64,
}

impl State for Always {
    fn visit(&mut self, visit: &mut Visit<'_>) -> everstep::tensor::Result<()> {
        visit.value("taken", &mut self.taken)
    }
}

impl Batches for Always {
    type Batch = ();

    fn next_batch(&mut self) -> fault::Result<Option<()>> {
        self.taken += 1;
        Ok(Some(()))
    }

    fn cursor(&self) -> Cursor {
        Cursor { seed: 0, epoch: 0, position: self.taken }
    }

    fn seek(&mut self, cursor: Cursor) -> fault::Result<()> {
        self.taken = cursor.position;
        Ok(())
    }
}

/// Forward over rows, times a fixed matrix, sum, backward.
fn rows(
    generator: &mut Generator,
    device: &Device,
    op: impl Fn(&Tensor) -> everstep::Result<Tensor> + 'static,
) -> everstep::Result<Work> {
    let x = Tensor::randn(&ROWS, generator, device)?;
    let weights = Tensor::randn(&ROWS, generator, device)?;
    let device = device.clone();
    device.synchronize()?;
    Ok(Box::new(move || {
        let x = x.requires_grad()?;
        op(&x)?.mul(&weights)?.sum_all()?.backward()?;
        Ok(device.synchronize()?)
    }))
}

/// The update kernel alone, over gradients that stay as they are: neither judged nor gated anew.
fn adamw(generator: &mut Generator, device: &Device) -> everstep::Result<Work> {
    let parameter = Parameter::new(&Tensor::randn(&[PARAMETERS], generator, device)?)?;
    let rule = AdamW::new(1e-3);
    let mut optimizer = rule.clone().build(&parameter)?;
    let loss = parameter.tensor().mul(&Tensor::randn(&[PARAMETERS], generator, device)?)?.sum_all()?;
    loss.backward()?;
    // One whole step leaves the gradients in the arena and the learning rate in the control block.
    optimizer.step(&loss)?;
    optimizer.finish()?;
    drop(loss);
    Ok(Box::new(move || {
        let arena = optimizer.arena();
        for (start, count) in arena.windows(0..arena.elements()) {
            let part = |buffer| Ok::<_, everstep::Error>(arena.window(buffer, start, count)?.slice());
            let mut outputs = vec![part(arena.values())?];
            for state in optimizer.states() {
                outputs.push(part(state)?);
            }
            outputs.push(optimizer.gate().sums_slice());
            arena.device().record(Command {
                op: "adamw",
                work: CommandWork::Kernel(rule.kernel(&everstep::optim::Span::new(0, count, 0))),
                inputs: vec![part(arena.gradients())?, optimizer.gate().control_slice()],
                outputs,
            })?;
        }
        Ok(arena.device().synchronize()?)
    }))
}
