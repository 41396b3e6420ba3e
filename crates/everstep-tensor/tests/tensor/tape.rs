//! The tape: what it adds up, what it keeps, what it frees, and what it refuses.

use everstep_tensor::{
    Arena, Device, Error, GradientOptions, Parameter, Result, Tensor, gradients, is_recording, no_grad,
};

use crate::common::devices;

fn leaf(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, &[values.len()], &Device::cpu()).unwrap().requires_grad().unwrap()
}

fn grad(tensor: &Tensor) -> Vec<f32> {
    tensor.grad().unwrap().to_vec().unwrap()
}

#[test]
fn backward_passes_add_up() {
    let x = leaf(&[1.0, -2.0, 3.0]);
    for pass in 1..4 {
        x.mul(&x).unwrap().sum_all().unwrap().backward().unwrap();
        let expected: Vec<f32> = [2.0, -4.0, 6.0].map(|value| value * pass as f32).to_vec();
        assert_eq!(grad(&x), expected);
    }
    let parameter = Parameter::new(&x.detach()).unwrap();
    parameter.tensor().sum_all().unwrap().backward().unwrap();
    parameter.zero_grad();
    assert!(parameter.grad().is_none());
    parameter.tensor().sum_all().unwrap().backward().unwrap();
    assert_eq!(parameter.grad().unwrap().to_vec::<f32>().unwrap(), [1.0; 3]);
}

/// One leaf used in several places, under two handles, gets the sum of their gradients.
#[test]
fn tied_uses_share_one_gradient() {
    let parameter = Parameter::new(&Tensor::from_slice(&[2.0f32, 5.0], &[2], &Device::cpu()).unwrap()).unwrap();
    let tied = parameter.clone();
    let (a, b) = (parameter.tensor(), tied.tensor());
    let y = a.mul(&b).unwrap().add(&a.mul_scalar(3.0).unwrap()).unwrap().sum_all().unwrap(); // x^2 + 3 x
    let both = gradients(&y, &[&a, &b], GradientOptions { retain: true, ..Default::default() }).unwrap();
    y.backward().unwrap();
    assert_eq!(parameter.grad().unwrap().to_vec::<f32>().unwrap(), [7.0, 13.0]);
    assert_eq!(tied.grad().unwrap().to_vec::<f32>().unwrap(), [7.0, 13.0]);
    for found in both {
        assert_eq!(found.unwrap().to_vec::<f32>().unwrap(), [7.0, 13.0]);
    }
}

#[test]
fn detached_and_unrecorded_uses_are_constants() {
    let x = leaf(&[3.0]);
    x.mul(&x.detach()).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(grad(&x), [3.0]);
    assert_eq!(x.detach().sum_all().unwrap().backward(), Err(Error::NoTape));
    let y = no_grad(|| {
        assert!(!is_recording());
        x.mul(&x).unwrap().sum_all().unwrap()
    });
    assert!(is_recording());
    assert_eq!(y.backward(), Err(Error::NoTape));
    assert_eq!(Tensor::scalar(1.0f32, &Device::cpu()).unwrap().backward(), Err(Error::NoTape));
    // A panic inside does not leave the tape off.
    let _ = std::panic::catch_unwind(|| no_grad(|| std::panic::resume_unwind(Box::new(()))));
    assert!(is_recording());
}

#[test]
fn frozen_parameters_get_no_gradient() {
    let parameter = Parameter::new(&Tensor::ones(&[2], &Device::cpu()).unwrap()).unwrap();
    parameter.set_trainable(false);
    assert_eq!(parameter.tensor().sum_all().unwrap().backward(), Err(Error::NoTape));
    let x = leaf(&[1.0, 1.0]);
    parameter.tensor().mul(&x).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(parameter.grad().is_none() && x.grad().is_some());
}

#[test]
fn a_tape_is_walked_once_unless_retained() {
    let x = leaf(&[3.0]);
    let y = x.exp().unwrap().sum_all().unwrap();
    let retain = GradientOptions { retain: true, ..Default::default() };
    for _ in 0..3 {
        assert!(gradients(&y, &[&x], retain).unwrap()[0].is_some());
    }
    y.backward().unwrap();
    assert!(matches!(y.backward(), Err(Error::TapeFreed { .. })));
    assert!(matches!(gradients(&y, &[&x], retain), Err(Error::TapeFreed { .. })));
    assert!(x.grad().is_some());
}

#[test]
fn only_scalars_have_a_backward_pass() {
    let x = leaf(&[1.0, 2.0]);
    let shape = *x.shape();
    assert_eq!(x.backward(), Err(Error::NotScalar { shape }));
    assert!(matches!(gradients(&x, &[&x], GradientOptions::default()), Err(Error::NotScalar { .. })));
    // One element is one number, whatever its rank.
    x.sum(&[0], true).unwrap().backward().unwrap();
    assert_eq!(grad(&x), [1.0, 1.0]);
}

#[test]
fn gradients_of_what_does_not_lead_there_are_none() {
    let (x, other) = (leaf(&[1.0]), leaf(&[1.0]));
    let constant = x.detach();
    let y = x.mul_scalar(2.0).unwrap();
    let found = gradients(&y, &[&x, &other, &constant, &y], GradientOptions::default()).unwrap();
    let found: Vec<Option<f32>> = found.into_iter().map(|g| g.map(|g| g.item().unwrap())).collect();
    assert_eq!(found, [Some(2.0), None, None, Some(1.0)]);
    assert!(x.grad().is_none(), "`gradients` leaves the leaves alone");
}

#[test]
fn a_tape_from_before_a_change_is_refused() {
    let parameter = Parameter::new(&Tensor::ones(&[2], &Device::cpu()).unwrap()).unwrap();
    let before = parameter.tensor().exp().unwrap().sum_all().unwrap();
    parameter.set(&Tensor::zeros(&[2], &Device::cpu()).unwrap()).unwrap();
    assert!(matches!(before.backward(), Err(Error::StaleParameter { op: "exp" })));
    parameter.tensor().exp().unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(parameter.grad().unwrap().to_vec::<f32>().unwrap(), [1.0, 1.0]);

    let before = parameter.tensor().exp().unwrap().sum_all().unwrap();
    let arena = Arena::new(&[vec![parameter.clone()]]).unwrap();
    assert!(matches!(before.backward(), Err(Error::StaleParameter { op: "exp" })));
    let view = parameter.tensor().reshape(&[2, 1]).unwrap();
    arena.mark_changed();
    assert!(matches!(view.sum_all().unwrap().backward(), Err(Error::StaleParameter { .. })));
}

#[test]
fn setting_a_parameter_leaves_other_tensors_alone() {
    for device in devices().iter() {
        let value = Tensor::from_slice(&[1.0f32, 2.0], &[2, 1], device).unwrap();
        let parameter = Parameter::new(&value.broadcast_to(&[2, 3]).unwrap()).unwrap();
        let new = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], device).unwrap();
        parameter.set(&new).unwrap();
        assert_eq!(parameter.tensor().to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "{device}");
        assert_eq!(value.to_vec::<f32>().unwrap(), [1.0, 2.0], "{device}");
    }
}

/// Values and gradients of parameters in one arena lie in one buffer, and may be set from each other.
#[test]
fn parameters_of_one_arena_can_be_set_from_each_other() {
    for device in devices().iter() {
        let new = |value: f32| Parameter::new(&Tensor::full(&[70, 2], value, device).unwrap()).unwrap();
        let (a, b) = (new(1.0), new(2.0));
        let _arena = Arena::new(&[vec![a.clone(), b.clone()]]).unwrap();
        a.set(&b.tensor()).unwrap();
        assert_eq!(a.tensor().to_vec::<f32>().unwrap(), [2.0; 140], "{device}");
        a.set(&a.tensor()).unwrap();
        b.set(&a.tensor().mul_scalar(3.0).unwrap()).unwrap();
        assert_eq!(a.tensor().to_vec::<f32>().unwrap(), [2.0; 140], "{device}");
        assert_eq!(b.tensor().to_vec::<f32>().unwrap(), [6.0; 140], "{device}");
        // The gradient of each is the other's value.
        for _ in 0..2 {
            a.tensor().mul(&b.tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        }
        assert_eq!(a.grad().unwrap().to_vec::<f32>().unwrap(), [12.0; 140], "{device}");
        assert_eq!(b.grad().unwrap().to_vec::<f32>().unwrap(), [4.0; 140], "{device}");
    }
}

/// A history of any length is freed in a loop: walked, dropped unwalked, and as a chain of views.
#[test]
fn a_long_chain_is_freed_without_recursion() {
    let device = Device::null();
    let chain = |length: usize, step: fn(&Tensor) -> Result<Tensor>| {
        let x = Tensor::zeros(&[1], &device).unwrap().requires_grad().unwrap();
        (0..length).fold(x, |x, _| step(&x).unwrap())
    };
    drop(chain(100_000, |x| x.add_scalar(1.0)));
    drop(chain(50_000, |x| x.unsqueeze(0)?.reshape(&[1])));
    chain(100_000, |x| x.add_scalar(1.0)).sum_all().unwrap().backward().unwrap();
    // Branching ones: every node has two users, and the number of paths doubles with each.
    drop(chain(20_000, |x| x.exp()?.add(&x.tanh()?)));
    chain(10_000, |x| x.mul(x)).sum_all().unwrap().backward().unwrap();
}

/// What the backward pass no longer needs is gone as it goes on: forward and backward over 40 tensors of 1 MiB take
/// the memory of the forward pass and a few more.
#[test]
fn memory_is_released_while_the_tape_is_walked() {
    const MIB: u64 = 1 << 20;
    const LENGTH: u64 = 40;
    let run = |forward_first: bool| {
        let device = Device::isolated_cpu();
        let x = Tensor::zeros(&[1 << 18], &device).unwrap().requires_grad().unwrap();
        let y = (0..LENGTH).fold(x.clone(), |y, _| y.tanh().unwrap()).sum_all().unwrap();
        if forward_first {
            device.flush().unwrap();
            let held = device.counters().memory_bytes;
            assert!((LENGTH * MIB..(LENGTH + 3) * MIB).contains(&held), "forward holds {held}");
        }
        y.backward().unwrap();
        x.grad().unwrap().to_vec::<f32>().unwrap();
        let peak = device.counters().memory_bytes;
        device.trim().unwrap();
        (peak, device.counters().memory_bytes)
    };
    for forward_first in [false, true] {
        let (peak, left) = run(forward_first);
        assert!(peak < (LENGTH + 5) * MIB, "{peak} at most, {forward_first}");
        assert!(left < 3 * MIB, "{left} left, {forward_first}");
    }
    let device = Device::isolated_cpu();
    let x = Tensor::zeros(&[1 << 18], &device).unwrap().requires_grad().unwrap();
    no_grad(|| (0..LENGTH).fold(x, |y, _| y.tanh().unwrap()).sum_all().unwrap().item::<f32>()).unwrap();
    assert!(device.counters().memory_bytes < 4 * MIB, "without a tape: {}", device.counters().memory_bytes);
}

/// Operators are the methods.
#[test]
fn operators_are_the_methods() {
    let (x, y) = (leaf(&[6.0, 8.0]), leaf(&[2.0, 4.0]));
    let values = |tensor: Result<Tensor>| tensor.unwrap().to_vec::<f32>().unwrap();
    assert_eq!([values(&x + &y), values(&x - &y)].concat(), [8.0, 12.0, 4.0, 4.0]);
    assert_eq!([values(&x * &y), values(&x / &y)].concat(), [12.0, 32.0, 3.0, 2.0]);
    assert_eq!([values(&x + 1.0), values(&x - 1.0)].concat(), [7.0, 9.0, 5.0, 7.0]);
    assert_eq!([values(&x * 2.0), values(&x / 2.0)].concat(), [12.0, 16.0, 3.0, 4.0]);
    assert_eq!(
        [values(-&x), values(x.mean_all()), values(x.sum_all()), values(x.max_all())].concat(),
        [-6.0, -8.0, 7.0, 14.0, 8.0]
    );
}
