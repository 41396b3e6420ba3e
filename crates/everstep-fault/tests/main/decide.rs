//! Decisions as a table, and their bounds.

use everstep_device::control::fault;
use everstep_fault::{Action, Budget, Cause, History, Policy, Slow, Tally, decide};
use everstep_tensor::{Generator, Record};

fn history(faults: u32, suspect: Option<Cause>, incident: Tally) -> History {
    let words: Vec<u32> = (0..16).map(|word| if word == 3 { faults } else { 0 }).collect();
    let record = Record::from_words(&words);
    History { record, slow: None, suspect, isolated: false, incident, run: incident }
}

/// After one replay.
fn tally(examinations: u32, skips: u32, rewinds: u32, lowerings: u32) -> Tally {
    Tally { replays: 1, examinations, skips, rewinds, lowerings, ..Tally::default() }
}

#[test]
fn the_ladder_as_a_table() {
    let policy = Policy::default();
    let (gradient, rate, state) = (fault::GRADIENT, fault::RATE, fault::STATE);
    let first = history(gradient, None, Tally::default());
    let limited = Tally { limits: 1, ..tally(0, 0, 0, 0) };
    let rewind = |generations| Action::Rewind { generations };
    let (data, both) = (Some(Cause::Data), Some(Cause::DataAndState));
    let (of_state, computation) = (Some(Cause::State), Some(Cause::Computation));
    for (past, expected) in [
        (first, Action::Replay),
        (history(rate, None, Tally::default()), Action::Replay),
        (history(state, None, Tally::default()), Action::Replay),
        (history(gradient, None, tally(0, 0, 0, 0)), Action::Examine),
        (history(gradient, None, tally(4, 0, 0, 0)), Action::Skip),
        (history(gradient, data, tally(1, 0, 0, 0)), Action::Skip),
        (History { isolated: true, ..history(gradient, data, tally(1, 0, 0, 0)) }, Action::Quarantine),
        (history(gradient, data, tally(1, 31, 0, 0)), Action::Skip),
        (history(gradient, data, tally(1, 32, 0, 0)), Action::Stop(Budget::Ladder)),
        (history(gradient, both, tally(1, 0, 0, 0)), Action::Skip),
        (history(gradient, both, tally(1, 2, 0, 0)), rewind(0)),
        (history(gradient, of_state, tally(1, 0, 0, 0)), rewind(0)),
        (history(gradient, of_state, tally(1, 0, 1, 0)), rewind(1)),
        (history(gradient, of_state, tally(1, 0, 3, 0)), Action::LowerRate),
        (history(gradient, of_state, tally(1, 0, 3, 4)), Action::Stop(Budget::Ladder)),
        (history(gradient, computation, tally(1, 0, 0, 0)), rewind(0)),
        (history(gradient, computation, tally(1, 0, 1, 0)), Action::Stop(Budget::Ladder)),
        // The device has compared its memory, and the rates: nothing is left to find out.
        (history(state, None, tally(0, 0, 0, 0)), rewind(0)),
        (history(rate, None, tally(0, 0, 0, 0)), Action::LimitRate),
        (history(rate, None, limited), Action::Stop(Budget::Ladder)),
        (History { slow: Some(Slow::Divergence), ..first }, Action::LowerRate),
        (History { slow: Some(Slow::Plateau), ..history(0, None, tally(0, 0, 0, 4)) }, Action::Stop(Budget::Ladder)),
    ] {
        assert_eq!(decide(&past, &policy), expected, "{past:?}");
    }
    assert_eq!(decide(&first, &Policy::strict()), Action::Stop(Budget::Strict));
    assert_eq!(decide(&first, &Policy::off()), Action::Ignore);
    assert_eq!(decide(&first, &Policy::observe()), Action::Ignore);
    let used = History { run: Tally { replays: 1000, ..Tally::default() }, ..first };
    assert_eq!(decide(&used, &policy), Action::Stop(Budget::Actions));
}

/// Whatever the faults are, and whatever they are taken for, an incident ends, and within the sum of its budgets.
#[test]
fn every_incident_ends() {
    let mut generator = Generator::new(5);
    let causes =
        [Cause::Data, Cause::DataAndState, Cause::State, Cause::Computation, Cause::LearningRate, Cause::Passing];
    for _ in 0..2000 {
        let policy = Policy {
            examinations: generator.below(4),
            quarantines: generator.below(4),
            skips_before_rewind: generator.below(4),
            skips: generator.below(10),
            rewinds: generator.below(4),
            lowerings: generator.below(4),
            actions: 1 + u64::from(generator.below(30)),
            ..Policy::default()
        };
        let mut past = history(0, None, Tally::default());
        let Policy { examinations, quarantines, skips_before_rewind, skips, rewinds, lowerings, .. } = policy;
        // One replay, one limit of the rate, and a computation's only rewind among the rewinds.
        let most = 2 + examinations + quarantines + skips_before_rewind.max(skips) + rewinds + lowerings;
        for step in 0.. {
            assert!(step <= u64::from(most).min(policy.actions), "{policy:?}");
            past.record.faults = 1 << generator.below(13);
            past.slow = (generator.below(8) == 0).then_some(Slow::Divergence);
            past.isolated = generator.below(2) == 0;
            past.suspect = causes.get(generator.below(8) as usize).copied();
            let before = past.incident.actions();
            match decide(&past, &policy) {
                Action::Stop(_) => break,
                Action::Ignore => panic!("{policy:?}"),
                action => past.incident.count(action),
            }
            past.run = past.incident;
            assert_eq!(past.incident.actions(), before + 1);
        }
    }
}

#[test]
fn policies_travel_as_json() {
    for policy in [Policy::default(), Policy::strict(), Policy::observe(), Policy::off()] {
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy, "{text}");
    }
    let some: Policy = serde_json::from_str(r#"{"answer": "stop", "interval": 7}"#).unwrap();
    assert_eq!((some.interval, some.snapshots), (7, Policy::default().snapshots));
    assert!(serde_json::from_str::<Policy>(r#"{"intervall": 7}"#).is_err());
}
