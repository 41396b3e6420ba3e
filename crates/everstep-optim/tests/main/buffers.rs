//! Running buffers are part of the step. That a refused one leaves them as they were is asserted wherever whole states
//! are compared; here is the rest.

use everstep_device::{Command, Work};
use everstep_nn::Module;
use everstep_optim::{Rule, Sgd};
use everstep_tensor::{Device, Tensor};

use crate::common::{Model, batch, healthy, on, on_each_device};

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_vec().unwrap()
}

/// Without an optimizer nothing is refused, and what forward passes write counts at once; with one, when the step commits.
#[test]
fn buffers_change_by_steps_where_there_are_any() {
    on_each_device(|device| {
        let [free, owned] = [(); 2].map(|()| Model::new(device));
        let mut optimizer = Sgd::new(0.0).build(&owned).unwrap();
        let begin = values(&owned.norm.running_mean.tensor());
        let (x, y) = batch(0, device, None).unwrap();
        free.forward(&x).unwrap();
        let loss = owned.forward(&x).unwrap().cross_entropy(&y).unwrap();
        let after = values(&free.norm.running_mean.tensor());
        assert_ne!(after, begin, "{}", on(device));
        assert_eq!(values(&owned.norm.running_mean.tensor()), begin, "{}: not yet", on(device));
        assert_eq!(values(&owned.norm.running_mean.pending().unwrap()), after, "{}: pending", on(device));
        loss.backward().unwrap();
        optimizer.step(&loss).unwrap();
        assert_eq!(values(&owned.norm.running_mean.tensor()), after, "{}: committed", on(device));
    });
}

/// Two passes in one step both count, as in PyTorch, where gradients are collected over several batches.
#[test]
fn several_passes_of_a_step_add_up() {
    on_each_device(|device| {
        let [free, owned] = [(); 2].map(|()| Model::new(device));
        let mut optimizer = Sgd::new(0.0).build(&owned).unwrap();
        let mut last = None;
        for index in 0..3 {
            let (x, y) = batch(index, device, None).unwrap();
            free.forward(&x).unwrap();
            let loss = owned.forward(&x).unwrap().cross_entropy(&y).unwrap();
            loss.backward().unwrap();
            last = Some(loss);
        }
        optimizer.step(&last.unwrap()).unwrap();
        for (found, expected) in owned.named_buffers().iter().zip(free.named_buffers()) {
            assert_eq!(values(&found.1.tensor()), values(&expected.1.tensor()), "{} on {}", found.0, on(device));
        }
    });
}

/// A batch that fails at the device takes what it wrote with it: the next step starts from what was committed.
#[test]
fn a_failed_recording_leaves_no_mark() {
    let device = Device::isolated_cpu();
    let [hurt, well] = [(); 2].map(|()| Model::new(&device));
    let mut optimizers = [&hurt, &well].map(|model| Sgd::new(0.1).build(model).unwrap());
    healthy(&hurt, &mut optimizers[0], [0]);
    healthy(&well, &mut optimizers[1], [0]);
    let (x, _) = batch(1, &device, None).unwrap();
    hurt.forward(&x).unwrap();
    // The recording is lost as a whole, by a copy of what nobody has written.
    let [nothing, target] = [(); 2].map(|()| device.buffer("test", 256).unwrap());
    let (inputs, outputs) = (vec![nothing.region().slice()], vec![target.region().slice()]);
    device.record(Command { op: "copy", work: Work::Copy, inputs, outputs }).unwrap();
    assert!(device.flush().is_err());
    healthy(&hurt, &mut optimizers[0], [2]);
    healthy(&well, &mut optimizers[1], [2]);
    for (found, expected) in hurt.named_buffers().iter().zip(well.named_buffers()) {
        assert_eq!(values(&found.1.tensor()), values(&expected.1.tensor()), "{}", found.0);
    }
}

#[test]
fn a_buffer_outlives_its_optimizer_and_has_one_at_a_time() {
    let device = Device::isolated_cpu();
    let model = Model::new(&device);
    let mut optimizer = Sgd::new(0.1).build(&model).unwrap();
    healthy(&model, &mut optimizer, 0..3);
    let committed = values(&model.norm.running_var.tensor());
    assert!(Sgd::new(0.1).build(&model).is_err());
    model.forward(&batch(7, &device, None).unwrap().0).unwrap();
    drop(optimizer);
    assert_eq!(values(&model.norm.running_var.pending().unwrap()), committed, "what was pending is gone");
    model.forward(&batch(7, &device, None).unwrap().0).unwrap();
    assert_ne!(values(&model.norm.running_var.tensor()), committed, "no transaction any more");
    let mut optimizer = Sgd::new(0.1).build(&model).unwrap();
    healthy(&model, &mut optimizer, [3]);
}

/// A backward pass over running statistics that a step has changed would be wrong, and is an error.
#[test]
fn a_tape_over_statistics_from_before_a_step_is_stale() {
    on_each_device(|device| {
        let model = Model::new(device);
        let mut optimizer = Sgd::new(0.1).build(&model).unwrap();
        model.norm.eval();
        let x = batch(0, device, None).unwrap().0.requires_grad().unwrap();
        let y = model.norm.forward(&x).unwrap().sum_all().unwrap();
        model.norm.train();
        healthy(&model, &mut optimizer, [1]);
        assert!(y.backward().is_err(), "{}", on(device));
    });
}
