//! Decisions as a table, and their bounds.

use everstep_device::control::fault;
use everstep_fault::{Action, Budget, History, Policy, Tally, decide};
use everstep_tensor::{Generator, Record};

fn history(faults: u32, replays: u32, skips: u32, rewinds: u32, lowerings: u32) -> History {
    let words: Vec<u32> = (0..16).map(|word| if word == 3 { faults } else { 0 }).collect();
    let tally = Tally { replays, skips, rewinds, lowerings };
    History { record: Record::from_words(&words), incident: tally, run: tally }
}

#[test]
fn the_ladder_as_a_table() {
    let policy = Policy::default();
    let (gradient, rate) = (fault::GRADIENT, fault::RATE);
    for (past, expected) in [
        (history(gradient, 0, 0, 0, 0), Action::Replay),
        (history(gradient, 1, 0, 0, 0), Action::Skip),
        (history(gradient, 1, 1, 0, 0), Action::Skip),
        (history(gradient, 1, 2, 0, 0), Action::Rewind { generations: 0 }),
        (history(gradient, 1, 2, 1, 0), Action::Skip),
        (history(gradient, 1, 31, 1, 0), Action::Skip),
        (history(gradient, 1, 32, 1, 0), Action::Rewind { generations: 1 }),
        (history(gradient, 1, 32, 2, 0), Action::LowerRate),
        (history(gradient, 1, 32, 2, 3), Action::LowerRate),
        (history(gradient, 1, 32, 2, 4), Action::Stop(Budget::Ladder)),
        (history(rate, 1, 2, 0, 0), Action::Rewind { generations: 0 }),
        (history(rate, 1, 3, 1, 0), Action::Skip),
        (history(rate, 1, 4, 1, 0), Action::LowerRate),
        (history(rate, 1, 4, 1, 1), Action::LowerRate),
    ] {
        assert_eq!(decide(&past, &policy), expected, "{past:?}");
    }
    let first = history(gradient, 0, 0, 0, 0);
    assert_eq!(decide(&first, &Policy::strict()), Action::Stop(Budget::Strict));
    assert_eq!(decide(&first, &Policy::off()), Action::Ignore);
    let used = History { run: Tally { replays: 1000, ..Tally::default() }, ..first };
    assert_eq!(decide(&used, &policy), Action::Stop(Budget::Actions));
}

/// Whatever the faults are, an incident ends, and within the sum of its budgets.
#[test]
fn every_incident_ends() {
    let mut generator = Generator::new(5);
    for _ in 0..2000 {
        let policy = Policy {
            skips_before_rewind: generator.below(4),
            skips: generator.below(10),
            rewinds: generator.below(4),
            lowerings: generator.below(4),
            actions: 1 + u64::from(generator.below(30)),
            ..Policy::default()
        };
        let mut past = history(0, 0, 0, 0, 0);
        let most = 1 + policy.skips_before_rewind.max(policy.skips) + policy.rewinds + policy.lowerings;
        for step in 0.. {
            assert!(step <= u64::from(most).min(policy.actions), "{policy:?}");
            past.record.faults = 1 << generator.below(13);
            let before = past.incident.actions();
            match decide(&past, &policy) {
                Action::Stop(_) => break,
                Action::Ignore => panic!("{policy:?}"),
                Action::Replay => past.incident.replays += 1,
                Action::Skip => past.incident.skips += 1,
                Action::Rewind { .. } => past.incident.rewinds += 1,
                Action::LowerRate => past.incident.lowerings += 1,
            }
            past.run = past.incident;
            assert_eq!(past.incident.actions(), before + 1);
        }
    }
}

#[test]
fn policies_travel_as_json() {
    for policy in [Policy::default(), Policy::strict(), Policy::off()] {
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy, "{text}");
    }
    let some: Policy = serde_json::from_str(r#"{"answer": "stop", "interval": 7}"#).unwrap();
    assert_eq!((some.interval, some.snapshots), (7, Policy::default().snapshots));
    assert!(serde_json::from_str::<Policy>(r#"{"intervall": 7}"#).is_err());
}
