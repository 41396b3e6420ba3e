//! The ring of snapshots, with a counter for a state.

use everstep_fault::Ring;
use everstep_tensor::{Result, State, Visit};

#[derive(Default)]
struct Counter(u64);

impl State for Counter {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        visit.value("count", &mut self.0)
    }
}

fn attempts(ring: &Ring) -> Vec<u64> {
    ring.kept().into_iter().map(|kept| kept.0).collect()
}

/// The oldest reaches back to at least half of the run's length that the ring has room for, whatever its length.
#[test]
fn ages_grow() {
    for capacity in 1..8 {
        let mut ring = Ring::new(capacity);
        for attempt in 0..400 {
            ring.save(attempt, &mut Counter(attempt)).unwrap();
            ring.trust(attempt, 3);
            let kept = ring.kept();
            assert!(kept.len() <= capacity && kept.windows(2).all(|pair| pair[0].0 < pair[1].0), "{kept:?}");
            // The last trusted one has not made room, and one snapshot alone stays the first.
            assert!(kept.iter().any(|kept| kept.1) || attempt < 3, "{capacity}, {attempt}: {kept:?}");
            if capacity >= 4 && attempt >= 64 {
                let ages: Vec<u64> = kept.iter().map(|kept| attempt - kept.0).collect();
                assert!(ages[0] >= 8, "{capacity}, {attempt}: {ages:?}");
                assert!(ages[capacity - 1] <= 2, "{capacity}, {attempt}: {ages:?}");
            }
        }
    }
}

/// With a reach there is always one that is as old, and the newest are as close as ever.
#[test]
fn a_reach_is_kept() {
    for capacity in 4..8 {
        let mut ring = Ring::new(capacity).reaching(60);
        for attempt in (0..1000).step_by(5) {
            ring.save(attempt, &mut Counter(attempt)).unwrap();
            ring.trust(attempt, 3);
            let oldest = attempts(&ring)[0];
            assert!(oldest == 0 || attempt - oldest >= 60, "{capacity}, {attempt}: {:?}", ring.kept());
            assert_eq!(attempts(&ring).last(), Some(&attempt), "{capacity}");
            // And not much older, where there is no room for more.
            assert!(capacity > 4 || attempt - oldest <= 180, "{capacity}, {attempt}: {:?}", ring.kept());
        }
    }
}

#[test]
fn a_restore_drops_what_is_newer() {
    let mut ring = Ring::new(5);
    (0..5).for_each(|attempt| ring.save(attempt * 10, &mut Counter(attempt)).unwrap());
    let mut state = Counter::default();
    assert_eq!(ring.restore(1, &mut state).unwrap(), Some(30));
    assert_eq!((state.0, attempts(&ring)), (3, vec![0, 10, 20, 30]));
    ring.forget_from(20);
    assert_eq!(ring.restore(0, &mut state).unwrap(), Some(10));
    assert_eq!(ring.restore(usize::MAX, &mut state).unwrap(), Some(0));
    assert_eq!((state.0, attempts(&ring)), (0, vec![0]));
    ring.forget_from(0);
    assert_eq!(ring.restore(0, &mut state).unwrap(), None);
    assert_eq!(Ring::new(0).restore(0, &mut state).unwrap(), None);
}
