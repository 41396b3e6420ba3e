//! Slow faults of real training, with the guard's own answers off.

use everstep_data::{Loader, LoaderConfig, digits};
use everstep_fault::{Cause, Error, Event, Guard, Policy, Slow, SlowFaults, Trend};
use everstep_nn::{Init, Linear, LinearConfig, Module};
use everstep_optim::{AdamW, LearningRate, Rule, Sgd};
use everstep_tensor::{Activation, Detection, Device, Generator, Tensor, Verdict};

const SEEDS: u64 = 2;

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Mlp {
    layers: Vec<Linear>,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    fn new(sizes: &[usize], bias: bool, activation: Activation, seed: u64, device: &Device) -> Self {
        let mut generator = Generator::new(seed);
        let mut layer = |pair: &[usize]| {
            let config = LinearConfig::new(pair[0], pair[1]).weight_init(Init::Orthogonal { gain: 1.4 });
            config.bias(bias).init(&mut generator, device).unwrap()
        };
        Self { layers: sizes.windows(2).map(&mut layer).collect(), activation }
    }

    fn loss(&self, x: &Tensor, y: &Tensor) -> Result<Tensor, Error> {
        let last = self.layers.len() - 1;
        let mut hidden = self.layers[..last].iter();
        let x = hidden.try_fold(x.clone(), |x, layer| layer.forward_with(&x, self.activation))?;
        Ok(self.layers[last].forward(&x)?.cross_entropy(y)?)
    }
}

/// What is told of a run of so many committed steps, each with its step; `harm` is done before each.
fn told(model: &Mlp, mut guard: Guard, seed: u64, steps: usize, harm: impl Fn(usize)) -> Vec<(usize, Slow)> {
    let device = guard.optimizer().device().clone();
    let mut loader = Loader::new(digits().unwrap(), LoaderConfig::new(32).shuffle(seed), &device).unwrap();
    let (mut trend, mut told, mut committed) = (Trend::new(SlowFaults::default()), Vec::new(), 0);
    // Steps that are refused do not count, but end too.
    for attempt in 0..2 * steps {
        harm(attempt);
        let report = guard.step(&mut loader, |batch| model.loss(&batch.x, &batch.y)).unwrap();
        let records = report.map_or_else(|| guard.take_records(), |report| report.records);
        for record in records.iter().filter(|record| record.verdict == Verdict::Commit) {
            committed += 1;
            told.extend(trend.take(record.loss, record.norm).map(|fault| (committed, fault)));
        }
        if committed >= steps {
            break;
        }
    }
    told
}

fn guard(rule: impl Rule, model: &Mlp, rate: impl LearningRate) -> Guard {
    Guard::with_optimizer(model, rule.build(model).unwrap().schedule(rate), Policy::off()).unwrap()
}

/// The learning rate goes up eightfold every 100 steps: the fourth one is too high, and what was learned is lost.
#[test]
fn a_rising_learning_rate_is_told() {
    let device = Device::isolated_cpu();
    for seed in 0..SEEDS {
        for is_sgd in [false, true] {
            let model = Mlp::new(&[64, 48, 48, 10], true, Activation::Relu, seed, &device);
            let rise = |rate: f64| move |committed: u64| rate * 8f64.powi((committed / 100) as i32);
            let guard = match is_sgd {
                true => guard(Sgd::new(0.01), &model, rise(0.01)),
                false => guard(AdamW::new(1e-3), &model, rise(1e-3)),
            };
            let told = told(&model, guard, seed, 800, |_| ());
            let in_time = told.first().is_some_and(|(step, _)| (500..650).contains(step));
            // A rate may throw it there at once, or the next one drive it on.
            let rises = told.iter().all(|(_, fault)| matches!(fault, Slow::Divergence | Slow::Plateau));
            assert!(in_time && rises, "SGD: {is_sgd}, seed {seed}: {told:?}");
        }
    }
}

const DEEP: [usize; 5] = [64, 32, 32, 32, 10];

/// Weight decay that outweighs all learning: in a model without biases each layer's gradients are made of the others' weights.
#[test]
fn weights_that_decay_are_told() {
    let device = Device::isolated_cpu();
    for seed in 0..SEEDS {
        let model = Mlp::new(&DEEP, false, Activation::Relu, seed, &device);
        let guard = guard(Sgd::new(0.1).weight_decay(1.0), &model, |_| 0.1);
        let told = told(&model, guard, seed, 300, |_| ());
        assert!(matches!(told[..], [(200..300, Slow::Vanishing)]), "seed {seed}: {told:?}");
    }
}

/// A model that has learned, and whose weights are then all but lost.
#[test]
fn lost_weights_are_told() {
    let device = Device::isolated_cpu();
    for seed in 0..SEEDS {
        for activation in [Activation::Relu, Activation::Tanh] {
            let model = Mlp::new(&DEEP, false, activation, seed, &device);
            let lose = |step: usize| {
                for parameter in model.parameters().iter().filter(|_| step == 300) {
                    parameter.set(&parameter.tensor().mul_scalar(1e-3).unwrap()).unwrap();
                }
            };
            let guard = guard(Sgd::new(0.1), &model, |_| 0.1);
            let told = told(&model, guard, seed, 600, lose);
            assert!(matches!(told[..], [(480..520, Slow::Vanishing)]), "{activation:?}, seed {seed}: {told:?}");
        }
    }
}

/// A learning rate that spoils what was learned, and that no single step gives away: the guard goes back to before it, and the
/// model learns with a lower one.
#[test]
fn a_model_that_was_spoiled_learns_again() {
    let device = Device::isolated_cpu();
    let model = Mlp::new(&[64, 48, 48, 10], true, Activation::Relu, 0, &device);
    let rate = |committed: u64| if committed < 150 { 1e-3 } else { 0.3 };
    let detection = Detection { rate_ratio: None, score: None, norm_ratio: None, ..Detection::spikes() };
    let policy = Policy { detection, snapshot_cost: None, ..Policy::default() };
    let optimizer = AdamW::new(1e-3).build(&model).unwrap().schedule(rate);
    let mut guard = Guard::with_optimizer(&model, optimizer, policy).unwrap();
    let mut loader = Loader::new(digits().unwrap(), LoaderConfig::new(32).shuffle(0), &device).unwrap();
    let (mut events, mut losses) = (Vec::new(), Vec::new());
    for _ in 0..3000 {
        let report = guard.step(&mut loader, |batch| model.loss(&batch.x, &batch.y)).unwrap();
        events.extend(report.iter().flat_map(|report| report.events.clone()));
        losses.extend(report.iter().flat_map(|report| report.records.iter().map(|record| record.loss)));
    }
    let lowered = events.iter().filter(|event| matches!(event, Event::LearningRateLowered { .. })).count();
    assert!((1..=3).contains(&lowered), "{events:?}");
    assert!(matches!(guard.diagnoses()[0].cause, Cause::Slow(_)), "{events:?}");
    let last = &losses[losses.len() - 100..];
    assert!(last.iter().sum::<f32>() / 100.0 < 0.3, "{last:?}");
}
