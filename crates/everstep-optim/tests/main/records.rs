//! The records: one per attempt, in order, with what the step was; and no waiting for them.

use everstep_device::control::fault;
use everstep_nn::Module;
use everstep_optim::{Optimizer, Result, Rule, Sgd};
use everstep_tensor::{Device, StepOptions, Tensor, Verdict};

use crate::common::{
    CLASSES, Fault, Model, OPTIMIZERS, attempt, backward, batch, healthy, is_label, judged, on_each_device,
};

/// Norm, largest finite magnitude and count of non-finite values of what the parameters have collected.
fn measure(optimizer: &Optimizer) -> (f64, f32, u32) {
    let gradients = optimizer.arena().parameters().iter().map(|parameter| parameter.grad().unwrap());
    let all: Vec<f32> = gradients.flat_map(|gradient| gradient.to_vec::<f32>().unwrap()).collect();
    let norm = all.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
    let largest = all.iter().filter(|g| g.is_finite()).fold(0.0f32, |largest, g| largest.max(g.abs()));
    (norm, largest, all.iter().filter(|g| !g.is_finite()).count() as u32)
}

#[test]
fn records_say_what_each_step_was() {
    on_each_device(|device| {
        let (_, build) = OPTIMIZERS[4];
        let model = Model::new(device);
        let mut optimizer = judged(build(&model).unwrap(), Verdict::Reject, 3).unwrap();
        let plan = [None, None, Some(Fault::NanInput), None, Some(Fault::NormOverflow), Some(Fault::NanLoss), None];
        let plan = [&plan[..], &[Some(Fault::InfiniteGradient), Some(Fault::Label), None, None]].concat();
        let (mut expected, mut records, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for (index, &fault) in plan.iter().enumerate() {
            let loss = backward(&model, index as u64, fault).unwrap();
            // The label's error is for the step: any read-back before it would take it.
            let readable = fault != Some(Fault::Label);
            expected.push((fault, readable.then(|| (loss.item::<f32>().unwrap(), measure(&optimizer)))));
            if let Err(error) = optimizer.step(&loss) {
                told.push((index, error));
            }
            let delivered = optimizer.take_records();
            // Each with the step that comes `in_flight` later, neither sooner nor later.
            assert_eq!(delivered.len(), usize::from(index >= 3), "after step {index}");
            records.extend(delivered);
        }
        records.extend(match optimizer.finish() {
            Ok(_) => panic!("the label's record was still under way"),
            Err(error) => {
                told.push((plan.len(), error));
                optimizer.take_records()
            }
        });
        records.extend(optimizer.finish().unwrap());
        assert!(matches!(&told[..], [(11, error)] if is_label(error)), "{told:?}");

        assert_eq!(records.len(), plan.len());
        let mut committed = 0;
        for (index, (record, (fault, measured))) in records.iter().zip(&expected).enumerate() {
            committed += u32::from(fault.is_none());
            assert_eq!((record.attempt as usize, record.committed), (index + 1, committed), "step {index}");
            let verdict = if fault.is_none() { Verdict::Commit } else { Verdict::Reject };
            assert_eq!((record.verdict, record.faults), (verdict, fault.map_or(0, Fault::bits)), "step {index}");
            if let Some((loss, (norm, largest, non_finite))) = measured {
                assert_eq!((record.non_finite, record.largest), (*non_finite, *largest), "step {index}");
                assert_eq!(record.loss.to_bits(), loss.to_bits(), "step {index}");
                let overflow = fault.is_some_and(|fault| fault != Fault::NanLoss);
                // Some hundred squares added in f32.
                let close = (f64::from(record.norm) / norm - 1.0).abs() < 1e-6;
                let right = if overflow { !record.norm.is_finite() } else { close };
                assert!(right, "step {index}: {}, {norm}", record.norm);
            }
            let status = if *fault == Some(Fault::Label) { [1, CLASSES + 5, CLASSES] } else { [0; 3] };
            assert_eq!(record.status, status, "step {index}");
        }
    });
}

/// One parameter, moved by a gradient of 1.
fn countdown(device: &Device, in_flight: usize) -> (everstep_tensor::Parameter, Optimizer) {
    let parameter = everstep_tensor::Parameter::new(&Tensor::zeros(&[3], device).unwrap()).unwrap();
    let optimizer = Sgd::new(1.0).build(&parameter).unwrap();
    (parameter, optimizer.with_options(StepOptions { in_flight, ..StepOptions::default() }).unwrap())
}

#[test]
fn a_label_out_of_range_is_told_once_and_training_goes_on() {
    on_each_device(|device| {
        for in_flight in [0, 2, 16] {
            let (_, build) = OPTIMIZERS[0];
            let model = Model::new(device);
            let mut optimizer = judged(build(&model).unwrap(), Verdict::Reject, in_flight).unwrap();
            let mut told = Vec::new();
            for index in 0..8u64 {
                let fault = [2, 5, 6].contains(&index).then_some(Fault::Label);
                if let Err(error) = attempt(&model, &mut optimizer, index, fault) {
                    assert!(is_label(&error), "{error}");
                    told.push(index as usize);
                }
            }
            let due: Vec<_> = [2, 5, 6].into_iter().map(|bad| bad + in_flight).filter(|&at| at < 8).collect();
            assert_eq!(told, due, "{in_flight} in flight: the steps that told");
            for _ in due.len()..3 {
                assert!(is_label(&optimizer.finish().unwrap_err()));
            }
            // No record went missing with the errors.
            let records = optimizer.finish().unwrap();
            assert_eq!(records.iter().map(|record| record.attempt).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
            assert_eq!(optimizer.gate().committed(), 5);
            // Later results are not blamed for it.
            assert!(model.forward(&batch(0, device, None).unwrap().0).unwrap().to_vec::<f32>().is_ok());
        }
    });
}

#[test]
fn a_batch_read_on_the_way_tells_of_its_label_there() {
    on_each_device(|device| {
        let model = Model::new(device);
        let mut optimizer = judged(OPTIMIZERS[0].1(&model).unwrap(), Verdict::Reject, 0).unwrap();
        let (x, y) = batch(0, device, Some(Fault::Label)).unwrap();
        let loss = model.forward(&x).unwrap().cross_entropy(&y).unwrap();
        assert!(is_label(&loss.item::<f32>().unwrap_err().into()));
        // Told, and so forgotten: the step is refused for its NaN, and the next one is judged on its own.
        loss.backward().unwrap();
        optimizer.step(&loss).unwrap();
        healthy(&model, &mut optimizer, [1]);
        let records = optimizer.finish().unwrap();
        assert_eq!((records[0].verdict, records[0].faults), (Verdict::Reject, fault::GRADIENT | fault::LOSS));
        assert_eq!((records[1].verdict, records[1].faults), (Verdict::Commit, 0));
    });
}

#[test]
fn healthy_steps_never_stand_still() {
    on_each_device(|device| {
        let (_, build) = OPTIMIZERS[4];
        let model = Model::new(device);
        let mut optimizer = build(&model).unwrap();
        healthy(&model, &mut optimizer, 0..8);
        let before = device.counters();
        healthy(&model, &mut optimizer, 8..208);
        let after = device.counters();
        assert_eq!(after.blocking_reads, before.blocking_reads);
        assert_eq!(after.reads - before.reads, 200, "one record per step");
        assert_eq!(after.flushes - before.flushes, 200, "each step runs at once");
        // Memory, pipelines and bind groups are those of the first steps.
        assert_eq!((after.memory_bytes, after.pipelines), (before.memory_bytes, before.pipelines));
        assert_eq!(optimizer.finish().unwrap().len(), 208);
        assert_eq!(device.counters().blocking_reads, before.blocking_reads, "`finish` paces");
    });
}

#[test]
fn records_that_nobody_takes_are_bounded() {
    let device = Device::isolated_cpu();
    let (parameter, mut optimizer) = countdown(&device, 4);
    let run = |optimizer: &mut Optimizer| -> Result<()> {
        for _ in 0..4200 {
            let loss = parameter.tensor().sum_all()?;
            loss.backward()?;
            optimizer.step(&loss)?;
        }
        Ok(())
    };
    run(&mut optimizer).unwrap();
    let records = optimizer.finish().unwrap();
    assert_eq!((records.len(), records.last().unwrap().attempt), (4096, 4200), "the latest are kept");
    assert_eq!(parameter.parameters()[0].tensor().to_vec::<f32>().unwrap(), [-4200.0; 3]);
}
