//! A device that is lost in the middle of training: rebuilt and restored, the run is the one without the loss.

use everstep_device::DeviceKind;
use everstep_optim::{AdamW, Error, Optimizer, Result, Rule};
use everstep_tensor::{Device, HostSnapshot, Parameter, Record, RunningBuffer, Snapshot, Tensor};

use crate::common::*;

/// Devices of their own.
fn isolated() -> Vec<Device> {
    // Required or skipped as for any test on a GPU.
    let gpu = everstep_testing::gpu().map(|_| Device::isolated_gpu("").unwrap());
    std::iter::once(Device::isolated_cpu()).chain(gpu).collect()
}

fn mirror(optimizer: &mut Optimizer) -> HostSnapshot {
    let mut snapshot = Snapshot::default();
    snapshot.save(optimizer).unwrap();
    let mut download = snapshot.download().unwrap();
    loop {
        if let Some(copy) = download.try_take().unwrap() {
            return copy;
        }
    }
}

fn restore(mirror: &HostSnapshot, optimizer: &mut Optimizer) -> everstep_tensor::Result<()> {
    mirror.upload(optimizer.device())?.restore(optimizer)
}

/// The steps after the snapshot, and their records without the number of the attempt, which counts on.
fn steps(model: &Model, optimizer: &mut Optimizer) -> Result<Vec<Record>> {
    (3..8).try_for_each(|index| attempt(model, optimizer, index, None))?;
    let records = optimizer.finish()?;
    Ok(records.into_iter().map(|record| Record { attempt: 0, ..record }).collect())
}

#[track_caller]
fn assert_lost(context: &str, error: &dyn std::error::Error) {
    assert!(error.to_string().contains("was lost"), "{context}: {error}");
}

/// A model with a snapshot of its optimizer after three steps.
fn trained(device: &Device, in_flight: usize) -> (Model, Optimizer, HostSnapshot) {
    let model = Model::new(device);
    let optimizer = AdamW::new(0.01).build(&model).unwrap();
    let mut optimizer = judged(optimizer, everstep_tensor::Verdict::Hold, in_flight).unwrap();
    healthy(&model, &mut optimizer, 0..3);
    optimizer.finish().unwrap();
    let mirror = mirror(&mut optimizer);
    (model, optimizer, mirror)
}

#[test]
fn a_run_with_a_loss_is_the_run_without_one() {
    for device in isolated() {
        for in_flight in [0, 4] {
            let (model, mut optimizer, mirror) = trained(&device, in_flight);
            let first = device.counters().submissions;
            let expected = steps(&model, &mut optimizer).unwrap();
            let submissions = device.counters().submissions - first;
            let after = state(&optimizer);
            assert!(submissions >= 10, "a recording and a record per step: {submissions}");
            for at in 0..submissions {
                let context = format!("{}, {in_flight} in flight, lost before submission {at}", on(&device));
                restore(&mirror, &mut optimizer).unwrap();
                optimizer.take_records();
                device.destroy_at(device.counters().submissions + at);
                assert_lost(&context, &steps(&model, &mut optimizer).unwrap_err());
                device.rebuild().unwrap();
                restore(&mirror, &mut optimizer).unwrap();
                optimizer.take_records();
                assert_eq!(steps(&model, &mut optimizer).unwrap(), expected, "{context}");
                assert_same(&context, &state(&optimizer), &after);
            }
        }
    }
}

/// The way back may be lost as well.
#[test]
fn a_loss_within_a_restore_is_one_more_loss() {
    for device in isolated() {
        let (model, mut optimizer, mirror) = trained(&device, 4);
        let expected = steps(&model, &mut optimizer).unwrap();
        let after = state(&optimizer);
        let first = device.counters().submissions;
        restore(&mirror, &mut optimizer).unwrap();
        for at in 0..device.counters().submissions - first {
            let context = format!("{}, lost before submission {at} of the restore", on(&device));
            device.destroy_at(device.counters().submissions + at);
            assert_lost(&context, &restore(&mirror, &mut optimizer).unwrap_err());
            device.rebuild().unwrap();
        }
        restore(&mirror, &mut optimizer).unwrap();
        optimizer.take_records();
        assert_eq!(steps(&model, &mut optimizer).unwrap(), expected, "{}", on(&device));
        assert_same(on(&device), &state(&optimizer), &after);
    }
}

/// What it drew at random is drawn again, however far the step had come that the loss ended.
#[test]
fn a_step_that_was_begun_begins_anew() {
    for device in isolated() {
        let (model, mut optimizer, mirror) = trained(&device, 0);
        let expected = steps(&model, &mut optimizer).unwrap();
        restore(&mirror, &mut optimizer).unwrap();
        backward(&model, 3, None).unwrap();
        device.destroy();
        assert_lost("flush", &device.flush().unwrap_err());
        device.rebuild().unwrap();
        restore(&mirror, &mut optimizer).unwrap();
        optimizer.take_records();
        assert_eq!(steps(&model, &mut optimizer).unwrap(), expected, "{}", on(&device));
    }
}

/// No step runs on what the loss has left, whether or not the parameters were written by hand.
#[test]
fn without_a_restore_nothing_goes_on() {
    for device in isolated() {
        let (model, mut optimizer, mirror) = trained(&device, 0);
        let values: Vec<Vec<f32>> =
            optimizer.arena().parameters().iter().map(|p| p.tensor().to_vec().unwrap()).collect();
        device.destroy();
        device.rebuild().unwrap();
        assert_lost("at first", &attempt(&model, &mut optimizer, 3, None).unwrap_err());
        for (parameter, values) in optimizer.arena().parameters().iter().zip(values) {
            assert_lost("a parameter", &parameter.tensor().to_vec::<f32>().unwrap_err());
            parameter.set(&Tensor::from_vec(values, parameter.shape(), &device).unwrap()).unwrap();
        }
        assert_lost("by hand", &attempt(&model, &mut optimizer, 3, None).unwrap_err());
        assert_lost("again", &attempt(&model, &mut optimizer, 3, None).unwrap_err());
        restore(&mirror, &mut optimizer).unwrap();
        steps(&model, &mut optimizer).unwrap();
    }
}

/// Snapshots on the device are gone with it, and say so; the state is left to be restored from elsewhere.
#[test]
fn a_snapshot_on_the_device_is_lost_with_it() {
    for device in isolated() {
        let (model, mut optimizer, mirror) = trained(&device, 0);
        let mut snapshot = Snapshot::default();
        snapshot.save(&mut optimizer).unwrap();
        let expected = steps(&model, &mut optimizer).unwrap();
        device.rebuild().unwrap();
        assert_lost("snapshot", &snapshot.restore(&mut optimizer).unwrap_err());
        restore(&mirror, &mut optimizer).unwrap();
        // Its memory serves again.
        snapshot.save(&mut optimizer).unwrap();
        steps(&model, &mut optimizer).unwrap();
        snapshot.restore(&mut optimizer).unwrap();
        optimizer.take_records();
        assert_eq!(steps(&model, &mut optimizer).unwrap(), expected, "{}", on(&device));
    }
}

#[test]
fn what_no_optimizer_holds_is_gone_until_it_is_set() {
    for device in isolated() {
        let ones = || Tensor::ones(&[3], &device).unwrap();
        let (parameter, buffer) = (Parameter::new(&ones()).unwrap(), RunningBuffer::new(&ones()).unwrap());
        device.rebuild().unwrap();
        assert_lost("parameter", &parameter.tensor().to_vec::<f32>().unwrap_err());
        assert_lost("buffer", &buffer.tensor().to_vec::<f32>().unwrap_err());
        let refused = AdamW::new(0.1).build(&parameter).map(drop);
        assert_lost("optimizer", &refused.unwrap_err());
        parameter.set(&ones()).unwrap();
        buffer.set(&ones()).unwrap();
        assert_eq!(parameter.tensor().to_vec::<f32>().unwrap(), buffer.tensor().to_vec::<f32>().unwrap());
        AdamW::new(0.1).build(&parameter).unwrap();
    }
}

/// For a GPU that does not come back: the rest of the run is that of a CPU which begins with the same state.
#[test]
fn training_goes_on_on_the_cpu() {
    for device in isolated() {
        let (model, mut optimizer, mirror) = trained(&device, 4);
        device.destroy_for_good();
        assert_lost("at first", &attempt(&model, &mut optimizer, 3, None).unwrap_err());
        let refused: Result<(), Error> = device.rebuild().map_err(|error| everstep_tensor::Error::from(error).into());
        assert_lost("for good", &refused.unwrap_err());
        device.fall_back_to_cpu().unwrap();
        restore(&mirror, &mut optimizer).unwrap();
        optimizer.take_records();
        let found = steps(&model, &mut optimizer).unwrap();
        assert_eq!(device.info().kind, DeviceKind::Cpu);
        let other = Device::isolated_cpu();
        let (model, mut reference, _) = trained(&other, 4);
        restore(&mirror, &mut reference).unwrap();
        reference.take_records();
        assert_eq!(steps(&model, &mut reference).unwrap(), found);
        assert_same("on the cpu", &state(&optimizer), &state(&reference));
    }
}
