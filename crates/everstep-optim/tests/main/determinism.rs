//! The same run gives the same bits; split batches give the same gradients.

use everstep_optim::{Optimizer, Result, Rule, Sgd};
use everstep_tensor::{Activation, Device, Tensor};

use crate::common::{Model, OPTIMIZERS, assert_same, batch, healthy, on, on_each_device, on_gpu, state};

#[test]
fn the_same_run_gives_the_same_bits() {
    on_each_device(|device| {
        for (name, build) in OPTIMIZERS {
            let run = || {
                let model = Model::new(device);
                let mut optimizer = build(&model).unwrap();
                healthy(&model, &mut optimizer, 0..15);
                state(&optimizer)
            };
            assert_same(&format!("{} {name}", on(device)), &run(), &run());
        }
    });
}

/// A step as `common::attempt` makes it, with a flush after every call where `flush`.
fn attempt(model: &Model, optimizer: &mut Optimizer, index: u64, flush: bool) -> Result<()> {
    let device = optimizer.device().clone();
    let settle = || if flush { device.flush() } else { Ok(()) };
    let (x, y) = batch(index, &device, None)?;
    settle()?;
    let hidden = model.input.forward(&x)?;
    settle()?;
    let hidden = hidden.relu()?;
    settle()?;
    let loss = model.output.forward_with(&hidden, Activation::Tanh)?.cross_entropy(&y)?;
    settle()?;
    loss.backward()?;
    settle()?;
    optimizer.step(&loss)?;
    settle()?;
    Ok(())
}

#[test]
fn where_recordings_are_cut_changes_no_bit() {
    on_each_device(|device| {
        for (name, build) in OPTIMIZERS {
            let run = |flush| {
                let model = Model::new(device);
                let mut optimizer = build(&model).unwrap();
                (0..6).for_each(|index| attempt(&model, &mut optimizer, index, flush).unwrap());
                state(&optimizer)
            };
            assert_same(&format!("{} {name}", on(device)), &run(true), &run(false));
        }
    });
}

#[test]
fn two_halves_of_a_batch_give_its_gradient() {
    on_each_device(|device| {
        let gradients = |parts: &[(usize, usize)]| -> Result<Vec<f32>> {
            let model = Model::new(device);
            everstep_nn::Module::eval(&model);
            let mut optimizer = Sgd::new(1.0).build(&model)?;
            let (x, y) = batch(0, device, None)?;
            let mut losses = Vec::new();
            for &(start, end) in parts {
                let share = (end - start) as f32 / 8.0;
                let logits = model.forward(&x.slice(0, start..end)?)?;
                let loss = logits.cross_entropy(&y.slice(0, start..end)?)?.mul_scalar(share)?;
                loss.backward()?;
                losses.push(loss);
            }
            let before = optimizer.arena().parameters().iter().map(|p| p.tensor().to_vec::<f32>());
            let before: Vec<f32> = before.collect::<everstep_tensor::Result<Vec<_>>>()?.concat();
            let mut total: Tensor = losses[0].clone();
            for loss in &losses[1..] {
                total = total.add(loss)?;
            }
            optimizer.step(&total)?;
            // What the step took away, at a learning rate of 1, is what had been collected.
            let after = optimizer.arena().parameters().iter().map(|p| p.tensor().to_vec::<f32>());
            let after = after.collect::<everstep_tensor::Result<Vec<_>>>()?.concat();
            assert_eq!(optimizer.finish()?.len(), 1);
            Ok(before.iter().zip(after).map(|(before, after)| before - after).collect())
        };
        let whole: Vec<f64> = gradients(&[(0, 8)]).unwrap().into_iter().map(f64::from).collect();
        // Sums of eight terms in another order, and the subtraction above rounds at the size of the values, 0.4.
        for parts in [&[(0, 4), (4, 8)][..], &[(0, 1), (1, 6), (6, 8)]] {
            everstep_testing::assert_close(on(device), &gradients(parts).unwrap(), &whole, 1e-6, 1e-7);
        }
    });
}

#[test]
fn devices_agree_on_a_run() {
    let run = |device: &Device, build: crate::common::Build| {
        let model = Model::new(device);
        let mut optimizer = build(&model).unwrap();
        healthy(&model, &mut optimizer, 0..20);
        let parameters = optimizer.arena().parameters().iter().map(|p| p.tensor().to_vec::<f32>().unwrap());
        parameters.flatten().collect::<Vec<f32>>()
    };
    on_gpu(|gpu| {
        for (name, build) in OPTIMIZERS {
            let cpu: Vec<f64> = run(&Device::isolated_cpu(), build).into_iter().map(f64::from).collect();
            // Drawn masks and batches are the same bits; exp and the order of sums differ by a few units in the last
            // place, which Adam's division by a small root magnifies.
            everstep_testing::assert_close(name, &run(gpu, build), &cpu, 1e-5, 1e-5);
        }
    });
}
