//! HOLD keeps the state before a bad step in place, however late the host learns of it.

use everstep_device::control::{self, fault};
use everstep_optim::{Optimizer, Result};
use everstep_tensor::{Device, Record, Verdict};

use crate::common::{
    Build, Fault, Model, OPTIMIZERS, State, assert_same, attempt, healthy, is_label, judged, on, on_each_device, state,
};

/// The batches of a run, and the one that goes wrong the first time.
const BATCHES: u64 = 10;
const BAD: u64 = 4;

/// A training loop that goes back: when a record says HOLD it clears the hold and takes up the refused batch again.
struct Driver {
    model: Model,
    optimizer: Optimizer,
    next: u64,
    fault: Option<Fault>,
    // The batch of each attempt.
    batches: Vec<u64>,
    // Attempts whose records are of before the last return.
    settled: usize,
    records: Vec<Record>,
}

impl Driver {
    fn new(device: &Device, build: Build, fault: Fault, in_flight: usize) -> Self {
        let model = Model::new(device);
        let optimizer = judged(build(&model).unwrap(), Verdict::Hold, in_flight).unwrap();
        Self { model, optimizer, next: 0, fault: Some(fault), batches: vec![], settled: 0, records: vec![] }
    }

    /// The error of a bad label is news that the records have, too.
    fn unless_label(outcome: Result<()>) {
        if let Err(error) = outcome {
            assert!(is_label(&error), "{error}");
        }
    }

    fn run(&mut self) {
        loop {
            while self.next < BATCHES {
                assert!(self.batches.len() < 100, "no step commits any more");
                let fault = self.fault.filter(|_| self.next == BAD);
                self.batches.push(self.next);
                Self::unless_label(attempt(&self.model, &mut self.optimizer, self.next, fault));
                self.next += 1;
                let records = self.optimizer.take_records();
                self.look_at(records);
            }
            match self.optimizer.finish() {
                Ok(records) => self.look_at(records),
                Err(error) => {
                    assert!(is_label(&error), "{error}");
                    let records = self.optimizer.take_records();
                    self.look_at(records);
                }
            }
            if self.next == BATCHES {
                return;
            }
        }
    }

    fn look_at(&mut self, records: Vec<Record>) {
        for record in records {
            self.records.push(record);
            if record.verdict == Verdict::Hold && record.attempt as usize > self.settled {
                self.settled = self.batches.len();
                self.next = self.batches[record.attempt as usize - 1];
                self.fault = None;
                self.optimizer.release().unwrap();
            }
        }
    }
}

fn clean(device: &Device, build: Build) -> State {
    let model = Model::new(device);
    let mut optimizer = build(&model).unwrap();
    healthy(&model, &mut optimizer, 0..BATCHES);
    state(&optimizer)
}

/// The records of a run whose batch `BAD` was refused and which learned of it `lag` steps late.
fn assert_records(context: &str, driver: &Driver, fault: Fault) {
    let records = &driver.records;
    let attempts: Vec<u32> = records.iter().map(|record| record.attempt).collect();
    assert_eq!(attempts, (1..=records.len() as u32).collect::<Vec<_>>(), "{context}: one record per attempt, in order");
    assert_eq!(records.len(), driver.batches.len(), "{context}");
    let bad = BAD as usize;
    assert!(records[..bad].iter().all(|record| record.verdict == Verdict::Commit && record.faults == 0), "{context}");
    assert_eq!((records[bad].verdict, records[bad].faults), (Verdict::Hold, fault.bits()), "{context}");
    let held: Vec<_> = records[bad + 1..].iter().take_while(|record| record.verdict == Verdict::Hold).collect();
    assert!(held.iter().all(|record| record.faults == fault::HELD), "{context}: what came after it was well");
    assert!(records[bad..=bad + held.len()].iter().all(|record| record.committed == BAD as u32), "{context}");
    let again = &records[bad + 1 + held.len()..];
    assert_eq!(again.len() as u64, BATCHES - BAD, "{context}");
    assert!(again.iter().all(|record| record.verdict == Verdict::Commit && record.faults == 0), "{context}");
    let committed: Vec<_> = again.iter().map(|record| u64::from(record.committed)).collect();
    assert_eq!(committed, (BAD + 1..=BATCHES).collect::<Vec<_>>(), "{context}");
}

#[test]
fn a_verdict_learned_late_changes_no_bit_of_the_result() {
    on_each_device(|device| {
        for (number, (name, build)) in OPTIMIZERS.into_iter().enumerate() {
            let expected = clean(device, build);
            for lag in 0..=8 {
                let context = format!("{} {name}, {lag} steps late", on(device));
                let fault = Fault::ALL[(lag + number) % Fault::ALL.len()];
                let mut driver = Driver::new(device, build, fault, lag);
                driver.run();
                assert_records(&context, &driver, fault);
                // Held: as many as the lag, or as there were batches left.
                let held = driver.batches.len() as u64 - BATCHES - 1;
                assert_eq!(held, (lag as u64).min(BATCHES - BAD - 1), "{context}: steps held");
                assert_same(&context, &state(&driver.optimizer), &expected);
            }
        }
    });
}

#[test]
fn every_step_is_refused_until_the_release() {
    on_each_device(|device| {
        let (_, build) = OPTIMIZERS[3];
        let model = Model::new(device);
        let mut optimizer = judged(build(&model).unwrap(), Verdict::Hold, 0).unwrap();
        healthy(&model, &mut optimizer, 0..3);
        let before = state(&optimizer);
        attempt(&model, &mut optimizer, 3, Some(Fault::InfiniteGradient)).unwrap();
        for index in 3..40 {
            healthy(&model, &mut optimizer, [index]);
        }
        // A fault in a held step is told as well.
        attempt(&model, &mut optimizer, 40, Some(Fault::NanInput)).unwrap();
        assert_same(on(device), &state(&optimizer), &before);
        assert_eq!(optimizer.gate().read_control().unwrap()[control::HELD], 1);
        let records = optimizer.finish().unwrap();
        assert!(records[4..41].iter().all(|record| (record.verdict, record.faults) == (Verdict::Hold, fault::HELD)));
        assert_eq!(records[41].faults, fault::HELD | Fault::NanInput.bits());
        optimizer.release().unwrap();
        healthy(&model, &mut optimizer, 3..BATCHES);
        assert_same(on(device), &state(&optimizer), &clean(device, build));
    });
}

#[test]
fn the_answer_to_faults_can_change_between_steps() {
    on_each_device(|device| {
        let (_, build) = OPTIMIZERS[1];
        let model = Model::new(device);
        let mut optimizer = judged(build(&model).unwrap(), Verdict::Reject, 4).unwrap();
        healthy(&model, &mut optimizer, 0..2);
        attempt(&model, &mut optimizer, 60, Some(Fault::NanLoss)).unwrap();
        let mut optimizer = judged(optimizer, Verdict::Hold, 2).unwrap();
        healthy(&model, &mut optimizer, 2..3);
        attempt(&model, &mut optimizer, 61, Some(Fault::NanLoss)).unwrap();
        healthy(&model, &mut optimizer, 62..64);
        optimizer.release().unwrap();
        // COMMIT is no answer to a fault: it counts as REJECT.
        let mut optimizer = judged(optimizer, Verdict::Commit, 2).unwrap();
        attempt(&model, &mut optimizer, 64, Some(Fault::NanLoss)).unwrap();
        healthy(&model, &mut optimizer, 3..BATCHES);
        let verdicts: Vec<_> = optimizer.finish().unwrap().iter().map(|record| record.verdict).collect();
        let (commit, reject, hold) = (Verdict::Commit, Verdict::Reject, Verdict::Hold);
        assert_eq!(verdicts[..9], [commit, commit, reject, commit, hold, hold, hold, reject, commit]);
        assert_same(on(device), &state(&optimizer), &clean(device, build));
    });
}
