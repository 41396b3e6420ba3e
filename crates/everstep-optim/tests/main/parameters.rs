//! Which parameters a step moves: those that gradients reached, those that none did, frozen and tied ones.

use everstep_device::control::fault;
use everstep_nn::Module;
use everstep_optim::{Adam, AdamW, Optimizer, Result, Rule, Sgd};
use everstep_tensor::{Device, Generator, Parameter, Tensor, Verdict};

use crate::common::{on_each_device, words};

/// Three parameters of unequal sizes, neighbours in the arena.
#[derive(Module)]
#[module(crate = everstep_nn)]
struct Three {
    first: Parameter,
    second: Parameter,
    third: Parameter,
}

impl Three {
    fn new(device: &Device) -> Self {
        let mut generator = Generator::new(5);
        let mut parameter =
            |shape: &[usize]| Parameter::new(&Tensor::randn(shape, &mut generator, device).unwrap()).unwrap();
        Self { first: parameter(&[70]), second: parameter(&[3, 5]), third: parameter(&[2]) }
    }

    fn all(&self) -> [&Parameter; 3] {
        [&self.first, &self.second, &self.third]
    }

    /// A step on the sum of squares of some of them.
    fn step(&self, optimizer: &mut Optimizer, used: &[&Parameter]) -> Result<()> {
        let mut loss = Tensor::scalar(0.0f32, optimizer.device())?;
        for parameter in used {
            let value = parameter.tensor();
            loss = loss.add(&value.mul(&value)?.sum_all()?)?;
        }
        loss.backward()?;
        optimizer.step(&loss)
    }
}

fn values(parameter: &Parameter) -> Vec<f32> {
    parameter.tensor().to_vec().unwrap()
}

fn bits(parameter: &Parameter) -> Vec<u32> {
    values(parameter).into_iter().map(f32::to_bits).collect()
}

type Build = fn(&Three) -> Result<Optimizer>;
const BUILDS: [Build; 3] = [
    |model| Sgd::new(0.1).momentum(0.9).weight_decay(0.1).build(model),
    |model| Adam::new(0.1).weight_decay(0.1).build(model),
    |model| AdamW::new(0.1).weight_decay(0.1).build(model),
];

/// PyTorch leaves a parameter out of a step where its gradient is `None`. Here its slot is zeroed, so that the step stays
/// one kernel over the arena: it takes part with a gradient of zero. Momentum moves it on, weight decay shrinks it.
#[test]
fn a_parameter_that_no_gradient_reached_has_a_gradient_of_zero() {
    on_each_device(|device| {
        for build in BUILDS {
            let run = |leave_out: bool| {
                let model = Three::new(device);
                let mut optimizer = build(&model).unwrap();
                model.step(&mut optimizer, &model.all()).unwrap();
                for _ in 0..4 {
                    let loss = model.first.tensor().mul(&model.first.tensor()).unwrap().sum_all().unwrap();
                    // The other way to say it: a gradient that is there, and zero.
                    let zero = |parameter: &Parameter| parameter.tensor().mul_scalar(0.0).unwrap().sum_all().unwrap();
                    let rest = zero(&model.second).add(&zero(&model.third)).unwrap();
                    let loss = if leave_out { loss } else { loss.add(&rest).unwrap() };
                    loss.backward().unwrap();
                    assert_eq!(model.second.grad().is_none(), leave_out);
                    optimizer.step(&loss).unwrap();
                }
                (model.all().map(bits), optimizer.states().iter().map(words).collect::<Vec<_>>())
            };
            assert!(run(true) == run(false));
        }
        // Never reached at all: AdamW's decay alone.
        let model = Three::new(device);
        let before = values(&model.third);
        let mut optimizer = AdamW::new(0.1).weight_decay(0.1).build(&model).unwrap();
        (0..3).for_each(|_| model.step(&mut optimizer, &[&model.first]).unwrap());
        let expected: Vec<f64> = before.iter().map(|&value| f64::from(value) * 0.99f64.powi(3)).collect();
        // Three roundings of a value and of its decay.
        everstep_testing::assert_close("decay", &values(&model.third), &expected, 4e-7, 0.0);
    });
}

/// An earlier step's gradient does not linger in the slot.
#[test]
fn a_gradient_counts_for_one_step() {
    on_each_device(|device| {
        let model = Three::new(device);
        let mut optimizer = Sgd::new(0.1).build(&model).unwrap();
        model.step(&mut optimizer, &model.all()).unwrap();
        let before = bits(&model.second);
        model.step(&mut optimizer, &[&model.first]).unwrap();
        assert_eq!(bits(&model.second), before);
        // Neither one that was forgotten, nor one that came before the optimizer was made.
        model.second.tensor().sum_all().unwrap().backward().unwrap();
        model.second.zero_grad();
        model.step(&mut optimizer, &[&model.first]).unwrap();
        assert_eq!(bits(&model.second), before);
        let records = optimizer.finish().unwrap();
        assert!(records[2].norm < records[1].norm, "the norm is that of the first parameter alone");
    });
}

#[test]
fn a_gradient_collected_before_the_optimizer_was_made_counts() {
    on_each_device(|device| {
        let model = Three::new(device);
        let before = values(&model.third);
        let loss = model.third.tensor().sum_all().unwrap();
        loss.backward().unwrap();
        let mut optimizer = Sgd::new(1.0).build(&model).unwrap();
        optimizer.step(&loss.detach()).unwrap();
        let expected: Vec<f32> = before.iter().map(|value| value - 1.0).collect();
        assert_eq!(values(&model.third), expected);
    });
}

#[test]
fn a_frozen_parameter_keeps_values_and_state() {
    on_each_device(|device| {
        for build in BUILDS {
            for frozen in 0..3 {
                let model = Three::new(device);
                let mut optimizer = build(&model).unwrap();
                (0..2).for_each(|_| model.step(&mut optimizer, &model.all()).unwrap());
                let still = model.all()[frozen];
                still.set_trainable(false);
                let before = (bits(still), optimizer.states().iter().map(words).collect::<Vec<_>>());
                (0..3).for_each(|_| model.step(&mut optimizer, &model.all()).unwrap());
                assert_eq!(bits(still), before.0, "frozen parameter {frozen}");
                // Its slot: the first takes two steps of 64 elements, the others one each.
                let slot = [0..128, 128..192, 192..256][frozen].clone();
                for (now, then) in optimizer.states().iter().map(words).zip(&before.1) {
                    assert!(now[slot.clone()] == then[slot.clone()], "frozen parameter {frozen}");
                    assert!(now != *then, "the others moved on");
                }
                still.set_trainable(true);
                model.step(&mut optimizer, &model.all()).unwrap();
                assert_ne!(bits(still), before.0, "it learns again");
            }
        }
    });
}

#[test]
fn what_a_frozen_parameter_has_collected_is_no_fault() {
    on_each_device(|device| {
        let model = Three::new(device);
        let mut optimizer = AdamW::new(0.1).build(&model).unwrap();
        let before = bits(&model.second);
        // Its gradient is infinite, and then it is frozen.
        let huge = model.second.tensor().mul_scalar(1e30).unwrap().mul_scalar(1e30).unwrap();
        huge.sum_all().unwrap().backward().unwrap();
        model.second.set_trainable(false);
        model.step(&mut optimizer, &[&model.first]).unwrap();
        let [record] = optimizer.finish().unwrap()[..] else { panic!() };
        assert_eq!((record.verdict, record.non_finite), (Verdict::Commit, 0));
        model.second.set_trainable(true);
        let huge = model.second.tensor().mul_scalar(1e30).unwrap().mul_scalar(1e30).unwrap();
        huge.sum_all().unwrap().backward().unwrap();
        let loss = model.first.tensor().sum_all().unwrap();
        optimizer.step(&loss).unwrap();
        assert_eq!(optimizer.finish().unwrap()[0].faults, fault::GRADIENT, "and one that learns is judged again");
        assert_eq!(bits(&model.second), before);
    });
}

#[test]
fn a_model_may_be_frozen_whole() {
    on_each_device(|device| {
        let model = Three::new(device);
        let mut optimizer = AdamW::new(0.1).build(&model).unwrap();
        model.all().iter().for_each(|parameter| parameter.set_trainable(false));
        let before = words(optimizer.arena().values());
        let loss = Tensor::scalar(1.0f32, device).unwrap();
        optimizer.step(&loss).unwrap();
        assert_eq!(optimizer.finish().unwrap()[0].verdict, Verdict::Commit);
        assert!(words(optimizer.arena().values()) == before);
    });
}

#[test]
fn a_tied_parameter_has_one_slot_and_the_sum_of_its_gradients() {
    #[derive(Module)]
    #[module(crate = everstep_nn)]
    struct Tied {
        encoder: Parameter,
        decoder: Parameter,
    }
    on_each_device(|device| {
        let weight = Parameter::new(&Tensor::from_slice(&[1.0f32, 2.0], &[2], device).unwrap()).unwrap();
        let model = Tied { encoder: weight.clone(), decoder: weight };
        let mut optimizer = Sgd::new(0.25).build(&model).unwrap();
        assert_eq!((optimizer.arena().parameters().len(), optimizer.arena().elements()), (1, 64));
        let loss = model.encoder.tensor().add(&model.decoder.tensor().mul_scalar(3.0).unwrap()).unwrap();
        let loss = loss.sum_all().unwrap();
        loss.backward().unwrap();
        optimizer.step(&loss).unwrap();
        assert_eq!(values(&model.decoder), [0.0, 1.0]);
        assert_eq!(values(&model.encoder), [0.0, 1.0]);
    });
}

#[test]
fn values_set_between_steps_are_trained_on() {
    on_each_device(|device| {
        let model = Three::new(device);
        let mut optimizer = Sgd::new(0.5).build(&model).unwrap();
        model.step(&mut optimizer, &[&model.third]).unwrap();
        model.third.set(&Tensor::from_slice(&[8.0f32, -4.0], &[2], device).unwrap()).unwrap();
        // Gradient 2 x, rate a half: straight to zero.
        model.step(&mut optimizer, &[&model.third]).unwrap();
        assert_eq!(values(&model.third), [0.0, 0.0]);
    });
}
