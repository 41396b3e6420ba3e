//! A refused step leaves no trace, and holds back nothing after it.

use everstep_tensor::{Device, Verdict};

use crate::common::{
    Build, Fault, Model, OPTIMIZERS, State, assert_same, attempt, healthy, is_label, judged, on, on_each_device, state,
};

/// What batches 0 to 11 lead to.
fn clean(device: &Device, build: Build) -> State {
    let model = Model::new(device);
    let mut optimizer = build(&model).unwrap();
    healthy(&model, &mut optimizer, 0..12);
    state(&optimizer)
}

#[test]
fn a_refused_step_changes_no_bit() {
    on_each_device(|device| {
        for (name, build) in OPTIMIZERS {
            let model = Model::new(device);
            let mut optimizer = judged(build(&model).unwrap(), Verdict::Reject, 0).unwrap();
            // The first step is the one that sets up momentum: one is refused before it, too.
            for (index, fault) in Fault::ALL.into_iter().enumerate() {
                let context = format!("{} {name}, {fault:?}", on(device));
                let before = state(&optimizer);
                match attempt(&model, &mut optimizer, 100 + index as u64, Some(fault)) {
                    Ok(()) => assert_ne!(fault, Fault::Label, "{context}"),
                    Err(error) => assert!(fault == Fault::Label && is_label(&error), "{context}: {error}"),
                }
                assert_same(&context, &state(&optimizer), &before);
                let [record] = optimizer.take_records()[..] else { panic!("{context}: not one record") };
                assert_eq!((record.verdict, record.faults), (Verdict::Reject, fault.bits()), "{context}");
                healthy(&model, &mut optimizer, [index as u64]);
                let after = state(&optimizer);
                assert!(after != before, "{context}: the healthy step after it changed nothing");
                assert_eq!(optimizer.take_records().len(), 1);
            }
        }
    });
}

#[test]
fn a_run_with_refused_steps_ends_as_the_run_without_them() {
    on_each_device(|device| {
        for (name, build) in OPTIMIZERS {
            for in_flight in [0, 4, 16] {
                let model = Model::new(device);
                let mut optimizer = judged(build(&model).unwrap(), Verdict::Reject, in_flight).unwrap();
                let mut told = 0;
                let mut refused = 0;
                for index in 0..12 {
                    // Faults before batches 0, 2, 4, ..; two in a row before batch 6.
                    let faults = if index % 2 == 0 { 1 + usize::from(index == 6) } else { 0 };
                    for _ in 0..faults {
                        let fault = Fault::ALL[refused % Fault::ALL.len()];
                        told += usize::from(attempt(&model, &mut optimizer, 50 + index, Some(fault)).is_err());
                        refused += 1;
                    }
                    told += usize::from(attempt(&model, &mut optimizer, index, None).is_err());
                }
                while optimizer.finish().is_err() {
                    told += 1;
                }
                let context = format!("{} {name}, {in_flight} in flight", on(device));
                assert_eq!((refused, told), (7, 1), "{context}: refused steps, errors for the label");
                assert_eq!(optimizer.gate().committed(), 12, "{context}");
                assert_same(&context, &state(&optimizer), &clean(device, build));
            }
        }
    });
}

#[test]
fn what_is_kept_is_kept_through_many_refusals() {
    on_each_device(|device| {
        let (_, build) = OPTIMIZERS[4];
        let model = Model::new(device);
        let mut optimizer = judged(build(&model).unwrap(), Verdict::Reject, 4).unwrap();
        healthy(&model, &mut optimizer, 0..2);
        let before = state(&optimizer);
        // More than the rows of the schedule and the records that the device keeps.
        for index in 0..100 {
            attempt(&model, &mut optimizer, 100 + index, Some(Fault::NanInput)).unwrap();
        }
        assert_same(on(device), &state(&optimizer), &before);
        healthy(&model, &mut optimizer, 2..12);
        assert_same(on(device), &state(&optimizer), &clean(device, build));
    });
}
