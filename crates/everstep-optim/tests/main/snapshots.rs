//! Snapshots of an optimizer: a run that goes on from one is the run that it was.

use std::collections::BTreeSet;

use everstep_device::control::fault;
use everstep_optim::{AdamW, ReduceOnPlateau, Rule};
use everstep_tensor::{Error, Snapshot, Verdict};

use crate::common::*;

/// From a snapshot on, with records that come late, past steps that were refused, held and tentative.
#[test]
fn a_restored_run_goes_on_bit_for_bit() {
    on_each_device(|device| {
        for (name, build) in OPTIMIZERS {
            for in_flight in [0, 4, 8] {
                let context = format!("{}, {name}, {in_flight} in flight", on(device));
                let model = Model::new(device);
                let mut optimizer = judged(build(&model).unwrap(), Verdict::Hold, in_flight).unwrap();
                healthy(&model, &mut optimizer, 0..3);
                let mut snapshot = Snapshot::default();
                snapshot.save(&mut optimizer).unwrap();
                let before = state(&optimizer);
                healthy(&model, &mut optimizer, 3..8);
                let expected = state(&optimizer);
                assert_ne!(expected.committed, before.committed);
                // A step that holds all later ones, with records of both under way.
                attempt(&model, &mut optimizer, 8, Some(Fault::NanInput)).unwrap();
                healthy(&model, &mut optimizer, 9..11);
                snapshot.restore(&mut optimizer).unwrap();
                assert_same(&context, &state(&optimizer), &before);
                assert_eq!(optimizer.gate().committed(), 3, "{context}");
                optimizer.take_records();
                healthy(&model, &mut optimizer, 3..8);
                let records = optimizer.finish().unwrap();
                assert!(records.iter().all(|record| record.verdict == Verdict::Commit), "{context}: {records:?}");
                assert_eq!(
                    records.iter().map(|record| record.attempt).collect::<Vec<_>>(),
                    [12, 13, 14, 15, 16],
                    "{context}"
                );
                assert_same(&context, &state(&optimizer), &expected);
                // Memory that changed, so that the step has partly written.
                crate::detection::flip(optimizer.arena().values(), 1, 3);
                healthy(&model, &mut optimizer, 8..10);
                assert!(optimizer.finish().unwrap()[0].tentative, "{context}");
                snapshot.restore(&mut optimizer).unwrap();
                assert_same(&context, &state(&optimizer), &before);
                healthy(&model, &mut optimizer, 3..8);
                assert_same(&context, &state(&optimizer), &expected);
            }
        }
    });
}

/// A record of bad data that is under way when the state is restored is delivered, and no error of the restore.
#[test]
fn records_under_way_are_kept() {
    on_each_device(|device| {
        let model = Model::new(device);
        let mut optimizer = judged(OPTIMIZERS[3].1(&model).unwrap(), Verdict::Reject, 8).unwrap();
        let mut snapshot = Snapshot::default();
        snapshot.save(&mut optimizer).unwrap();
        healthy(&model, &mut optimizer, 0..2);
        attempt(&model, &mut optimizer, 2, Some(Fault::Label)).unwrap();
        attempt(&model, &mut optimizer, 3, Some(Fault::Label)).unwrap();
        healthy(&model, &mut optimizer, 4..5);
        snapshot.restore(&mut optimizer).unwrap();
        let faults: Vec<_> = optimizer.take_records().iter().map(|record| record.faults & fault::DATA).collect();
        assert_eq!(faults, [0, 0, fault::DATA, fault::DATA, 0], "{}", on(device));
    });
}

/// Saving waits for nothing, and uses the memory of the last time again.
#[test]
fn saving_does_not_wait() {
    on_each_device(|device| {
        let model = Model::new(device);
        let mut optimizer = OPTIMIZERS[4].1(&model).unwrap();
        let mut snapshot = Snapshot::default();
        healthy(&model, &mut optimizer, 0..2);
        snapshot.save(&mut optimizer).unwrap();
        let ids = |snapshot: &Snapshot| snapshot.buffers().values().map(|buffer| buffer.id()).collect::<BTreeSet<_>>();
        let (first, before) = (ids(&snapshot), device.counters());
        for step in 2..12 {
            healthy(&model, &mut optimizer, step..step + 1);
            snapshot.save(&mut optimizer).unwrap();
        }
        let after = device.counters();
        assert_eq!(after.blocking_reads, before.blocking_reads, "{}", on(device));
        assert_eq!(ids(&snapshot), first, "{}", on(device));
        // Values and two moments, running buffers, control block and sums: gradients are no part of it.
        let bytes = 3 * 4 * optimizer.arena().elements();
        assert!((bytes..bytes + 8192).contains(&snapshot.bytes()), "{} of {bytes}", snapshot.bytes());
    });
}

/// A copy whose memory has changed is found out by the first step after its restore.
#[test]
fn a_damaged_copy_is_seen() {
    on_each_device(|device| {
        let model = Model::new(device);
        let mut optimizer = OPTIMIZERS[4].1(&model).unwrap();
        healthy(&model, &mut optimizer, 0..2);
        let mut snapshot = Snapshot::default();
        snapshot.save(&mut optimizer).unwrap();
        crate::detection::flip(&snapshot.buffers()["arena.values"], 0, 0);
        snapshot.restore(&mut optimizer).unwrap();
        optimizer.take_records();
        healthy(&model, &mut optimizer, 2..3);
        let record = optimizer.finish().unwrap()[0];
        assert!(record.tentative && record.faults == fault::STATE, "{}: {record:?}", on(device));
    });
}

#[test]
fn a_plateau_is_part_of_it() {
    on_each_device(|device| {
        let model = Model::new(device);
        let plateau = ReduceOnPlateau::new().factor(0.5).patience(1).delay(8);
        let mut optimizer = AdamW::new(0.01).build(&model).unwrap().reduce_on_plateau(plateau).unwrap();
        let mut snapshot = Snapshot::default();
        optimizer.observe(0, 1.0).unwrap();
        snapshot.save(&mut optimizer).unwrap();
        let run = |optimizer: &mut everstep_optim::Optimizer| {
            for step in 0..4 {
                optimizer.observe(step, 1.0).unwrap();
            }
            optimizer.learning_rate(0, 20)
        };
        let reduced = run(&mut optimizer);
        assert!(reduced < 0.01);
        snapshot.restore(&mut optimizer).unwrap();
        assert_eq!((optimizer.learning_rate(0, 20), run(&mut optimizer)), (0.01, reduced));
    });
}

/// What does not fit changes nothing.
#[test]
fn a_snapshot_of_something_else_is_refused() {
    on_each_device(|device| {
        let model = Model::new(device);
        let mut optimizer = OPTIMIZERS[4].1(&model).unwrap();
        healthy(&model, &mut optimizer, 0..2);
        let mut other = Snapshot::default();
        let small = everstep_tensor::Parameter::new(&everstep_tensor::Tensor::ones(&[3], device).unwrap()).unwrap();
        other.save(&mut AdamW::new(0.1).build(&small).unwrap()).unwrap();
        let before = state(&optimizer);
        for (snapshot, part) in [(other, "arena.values"), (Snapshot::default(), "arena.values")] {
            let error = snapshot.restore(&mut optimizer).unwrap_err();
            assert!(matches!(&error, Error::State { part: found, .. } if found == part), "{}: {error}", on(device));
            assert_same(on(device), &state(&optimizer), &before);
        }
        // SGD has one state, AdamW two.
        let model = Model::new(device);
        let mut sgd = OPTIMIZERS[0].1(&model).unwrap();
        let mut snapshot = Snapshot::default();
        snapshot.save(&mut sgd).unwrap();
        let error = snapshot.restore(&mut optimizer).unwrap_err();
        assert!(error.to_string().contains("`state1` is not in the snapshot"), "{error}");
        assert_same(on(device), &state(&optimizer), &before);
    });
}
