//! The loader: order, cursors, the worker thread, and what goes wrong in a dataset.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use common::{Scripted, numbers};
use everstep_data::{
    At, Cursor, Dataset, Error, FieldSpec, HostBatch, HostLoader, LoaderConfig, MAX_PREFETCH, SampleSpec,
};
use everstep_tensor::Snapshot;

fn config(batch_size: usize, prefetch: usize) -> LoaderConfig {
    LoaderConfig::new(batch_size).shuffle(3).prefetch(prefetch)
}

fn take(loader: &mut HostLoader, calls: usize) -> Vec<Option<HostBatch>> {
    (0..calls).map(|_| loader.next_batch().unwrap()).collect()
}

/// A restored loader gives what it gave then, with a worker that had run ahead and without; a place past its end is refused.
#[test]
fn a_snapshot_holds_the_place() {
    for prefetch in [0, 3] {
        let mut loader = HostLoader::new(numbers(10, 2), config(3, prefetch)).unwrap();
        take(&mut loader, 6);
        let mut snapshot = Snapshot::default();
        snapshot.save(&mut loader).unwrap();
        let expected = take(&mut loader, 7);
        snapshot.restore(&mut loader).unwrap();
        assert_eq!(take(&mut loader, 7), expected);
        let before = loader.cursor();
        let mut small = HostLoader::new(numbers(2, 2), config(1, prefetch)).unwrap();
        let error = snapshot.restore(&mut small).unwrap_err();
        assert!(error.to_string().contains("`cursor`"), "{error}");
        assert_eq!((small.cursor().position, loader.cursor()), (0, before));
    }
}

#[test]
fn an_epoch_has_every_sample_once() {
    for (drop_last, batches, seen) in [(false, 4, 10), (true, 3, 9)] {
        for prefetch in [0, 1, 2, 50] {
            let mut loader = HostLoader::new(numbers(10, 2), config(3, prefetch).drop_last(drop_last)).unwrap();
            assert_eq!(loader.epoch_batches(), batches);
            let mut orders = Vec::new();
            for epoch in 0..3 {
                assert_eq!(loader.cursor(), Cursor { seed: 3, epoch, position: 0 });
                let all: Vec<HostBatch> = loader.epoch().map(Result::unwrap).collect();
                assert_eq!(all.len(), batches);
                let ids: Vec<u64> = all.iter().flat_map(|batch| batch.ids.clone()).collect();
                let mut sorted = ids.clone();
                sorted.sort_unstable();
                sorted.dedup();
                assert_eq!((ids.len(), sorted.len()), (seen, seen));
                orders.push(ids);
            }
            assert!(orders[0] != orders[1] && orders[1] != orders[2]);
        }
    }
}

#[test]
fn rows_belong_to_their_ids() {
    let mut loader = HostLoader::new(numbers(10, 4), config(4, 2)).unwrap();
    for batch in loader.epoch().map(Result::unwrap) {
        assert_eq!(batch.x.shape(), [batch.len(), 2]);
        for (row, &id) in batch.ids.iter().enumerate() {
            assert_eq!(batch.x.as_f32().unwrap()[2 * row..][..2], [id as f32, 2.0 * id as f32]);
            assert_eq!(u64::from(batch.y.as_u32().unwrap()[row]), id % 4);
        }
    }
}

#[test]
fn without_shuffle_the_order_is_the_datasets() {
    let mut loader = HostLoader::new(numbers(5, 2), LoaderConfig::new(2)).unwrap();
    for _ in 0..2 {
        let ids: Vec<Vec<u64>> = loader.epoch().map(|batch| batch.unwrap().ids).collect();
        assert_eq!(ids, [vec![0, 1], vec![2, 3], vec![4]]);
    }
}

#[test]
fn the_worker_changes_nothing() {
    let run = |prefetch| take(&mut HostLoader::new(numbers(23, 2), config(4, prefetch)).unwrap(), 40);
    let plain = run(0);
    assert_eq!(plain.iter().filter(|batch| batch.is_none()).count(), 5);
    for prefetch in [1, 2, 3, 7, 100] {
        assert_eq!(run(prefetch), plain);
    }
}

#[test]
fn every_cursor_resumes_exactly() {
    for (drop_last, prefetch) in [(false, 0), (true, 0), (false, 3), (true, 3)] {
        let config = config(4, prefetch).drop_last(drop_last);
        let mut original = HostLoader::new(numbers(18, 2), config.clone()).unwrap();
        let mut cursors = Vec::new();
        let mut all = Vec::new();
        for _ in 0..18 {
            cursors.push(original.cursor());
            all.push(original.next_batch().unwrap());
        }
        let mut rewound = HostLoader::new(numbers(18, 2), config.clone().shuffle(99)).unwrap();
        for (at, &cursor) in cursors.iter().enumerate().rev() {
            // Through JSON, as a checkpoint would.
            let text = serde_json::to_string(&cursor).unwrap();
            rewound.seek(serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(rewound.cursor(), cursor);
            assert_eq!(take(&mut rewound, 18 - at), all[at..]);
        }
        for (batch, pair) in all.iter().zip(cursors.windows(2)) {
            if let Some(batch) = batch {
                assert_eq!([batch.before, batch.after], [pair[0], pair[1]]);
            }
        }
    }
}

#[test]
fn an_epoch_that_was_left_goes_on() {
    let mut loader = HostLoader::new(numbers(10, 2), config(3, 2)).unwrap();
    let first = loader.epoch().next().unwrap().unwrap();
    let rest: Vec<HostBatch> = loader.epoch().map(Result::unwrap).collect();
    assert_eq!((first.ids.len(), rest.len()), (3, 3));
    assert_eq!(loader.cursor(), Cursor { seed: 3, epoch: 1, position: 0 });
}

#[test]
fn configurations_that_cannot_be_are_errors() {
    let new = |n, config| HostLoader::new(numbers(n, 2), config).err().unwrap();
    assert!(matches!(new(0, LoaderConfig::new(1)), Error::EmptyDataset { .. }));
    for drop_last in [false, true] {
        for batch_size in [0, 11, usize::MAX] {
            let error = new(10, LoaderConfig::new(batch_size).drop_last(drop_last));
            assert!(matches!(error, Error::BatchSize { samples: 10, .. }), "{error}");
        }
    }
    assert_eq!(
        new(10, LoaderConfig::new(11)).to_string(),
        "batch_size is 11, but the dataset has 10 samples: use 1 to 10"
    );
    assert!(matches!(new(10, LoaderConfig::new(1).prefetch(MAX_PREFETCH + 1)), Error::Prefetch { .. }));
    let mut loader = HostLoader::new(numbers(10, 2), LoaderConfig::new(10).prefetch(MAX_PREFETCH)).unwrap();
    assert_eq!(loader.epoch().count(), 1);
}

#[test]
fn a_cursor_past_the_end_is_an_error() {
    let mut loader = HostLoader::new(numbers(10, 2), config(3, 2)).unwrap();
    loader.next_batch().unwrap();
    let before = loader.cursor();
    for position in [11, u64::MAX] {
        let error = loader.seek(Cursor { seed: 0, epoch: 0, position }).unwrap_err();
        assert!(matches!(error, Error::Cursor { samples: 10, .. }), "{error}");
        assert_eq!(loader.cursor(), before);
    }
    // The end of the last epoch that there is.
    loader.seek(Cursor { seed: 0, epoch: u64::MAX, position: 10 }).unwrap();
    assert_eq!(take(&mut loader, 1), [None]);
    assert_eq!(loader.epoch().count(), 4);
}

#[test]
fn the_configuration_is_strict() {
    let parsed: LoaderConfig = serde_json::from_str(r#"{"batch_size": 8, "shuffle": 5}"#).unwrap();
    assert_eq!(parsed, LoaderConfig::new(8).shuffle(5));
    let text = serde_json::to_string(&parsed.clone().prefetch(4).drop_last(true)).unwrap();
    assert_eq!(serde_json::from_str::<LoaderConfig>(&text).unwrap(), parsed.prefetch(4).drop_last(true));
    assert!(serde_json::from_str::<LoaderConfig>(r#"{"batch_size": 8, "shufle": 5}"#).is_err());
    assert!(serde_json::from_str::<LoaderConfig>("{}").is_err());
    assert!(serde_json::from_str::<Cursor>(r#"{"seed":1,"epoch":1,"position":0,"batch":1}"#).is_err());
}

#[test]
fn an_error_of_the_dataset_comes_in_its_place() {
    for prefetch in [0, 1, 8] {
        let fails = Arc::new(AtomicUsize::new(2));
        let left = Arc::clone(&fails);
        let dataset = Scripted::new(8, move |index| {
            let failing = index == 5 && left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
            if failing { Err(Error::dataset(index, "the disk is wet")) } else { Ok(index as f32) }
        });
        let mut loader = HostLoader::new(dataset, LoaderConfig::new(2).prefetch(prefetch)).unwrap();
        let mut epoch = loader.epoch();
        assert_eq!(epoch.next().unwrap().unwrap().ids, [0, 1]);
        assert_eq!(epoch.next().unwrap().unwrap().ids, [2, 3]);
        let error = epoch.next().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the dataset could not read sample 5: the disk is wet");
        assert!(epoch.next().is_none());
        // The batch is tried again, and a second time it is there.
        assert_eq!(loader.cursor().position, 4);
        assert!(matches!(loader.next_batch().unwrap_err(), Error::Dataset { index: 5, .. }));
        assert_eq!(loader.next_batch().unwrap().unwrap().ids, [4, 5]);
        assert_eq!(loader.next_batch().unwrap().unwrap().ids, [6, 7]);
        assert_eq!(loader.next_batch().unwrap(), None);
    }
}

#[test]
fn a_panic_of_the_dataset_is_an_error() {
    for prefetch in [0, 2] {
        let dataset = Scripted::new(4, |index| {
            assert!(index != 3, "no sample number {index}");
            Ok(0.0)
        });
        let mut loader = HostLoader::new(dataset, LoaderConfig::new(2).prefetch(prefetch)).unwrap();
        assert_eq!(loader.next_batch().unwrap().unwrap().ids, [0, 1]);
        for _ in 0..2 {
            let error = loader.next_batch().unwrap_err();
            assert!(matches!(error, Error::DatasetPanic { index: 3, .. }), "{error}");
            assert!(error.to_string().ends_with("no sample number 3"), "{error}");
        }
        loader.seek(Cursor { seed: 0, epoch: 1, position: 0 }).unwrap();
        assert_eq!(loader.next_batch().unwrap().unwrap().ids, [0, 1]);
    }
}

#[test]
fn a_dataset_that_contradicts_its_spec_is_an_error() {
    let mut dataset = Scripted::new(4, |_| Ok(0.0));
    dataset.spec = SampleSpec { x: FieldSpec::u32(&[]), y: FieldSpec::u32(&[]) };
    let mut loader = HostLoader::new(dataset, LoaderConfig::new(2)).unwrap();
    assert!(matches!(loader.next_batch().unwrap_err(), Error::Field { .. }));
}

#[test]
fn samples_that_no_memory_holds_are_an_error() {
    for shape in [vec![1 << 40, 1 << 40], vec![1 << 45]] {
        let mut dataset = Scripted::new(4, |_| Ok(0.0));
        dataset.spec.x = FieldSpec::f32(&shape);
        let mut loader = HostLoader::new(dataset, LoaderConfig::new(2)).unwrap();
        assert!(matches!(loader.next_batch().unwrap_err(), Error::OutOfMemory { .. }));
    }
}

/// Wraps a dataset and claims fewer classes than it has.
struct Fewer<D>(D);

impl<D: Dataset> Dataset for Fewer<D> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn spec(&self) -> &SampleSpec {
        self.0.spec()
    }

    fn read(&self, at: At, sample: everstep_data::SampleMut<'_>) -> everstep_data::Result<()> {
        self.0.read(at, sample)
    }

    fn classes(&self) -> Option<usize> {
        Some(3)
    }
}

#[test]
fn a_class_out_of_range_is_found_on_the_host() {
    let mut loader = HostLoader::new(Fewer(numbers(8, 4)), LoaderConfig::new(4)).unwrap();
    let error = loader.next_batch().unwrap_err();
    assert!(matches!(error, Error::Label { id: 3, label: 3, classes: 3 }), "{error}");
}

#[test]
fn the_worker_builds_no_more_than_it_should_and_ends_with_the_loader() {
    for depth in [1usize, 3] {
        let dataset = Arc::new(AtomicUsize::new(0));
        let reads = Arc::clone(&dataset);
        let source = Scripted::new(1000, move |_| {
            reads.fetch_add(1, SeqCst);
            Ok(0.0)
        });
        let source = Arc::new(source);
        let mut loader = HostLoader::new(Arc::clone(&source), LoaderConfig::new(10).prefetch(depth)).unwrap();
        assert_eq!(dataset.load(SeqCst), 0);
        loader.next_batch().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let built = dataset.load(SeqCst) / 10;
        assert!(built <= 1 + depth, "{built} batches were built with a depth of {depth}");
        drop(loader);
        // The thread is gone, and with it its handle on the dataset.
        assert_eq!(Arc::strong_count(&source), 1);
    }
}

#[test]
fn a_loader_can_be_moved_to_another_thread() {
    let mut loader = HostLoader::new(numbers(10, 2), config(5, 2)).unwrap();
    let ids = std::thread::spawn(move || loader.epoch().count()).join().unwrap();
    assert_eq!(ids, 2);
}
