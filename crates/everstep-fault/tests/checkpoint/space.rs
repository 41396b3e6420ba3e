use everstep_fault::checkpoint::{CheckpointError, Failure, FaultyStorage, MemoryStorage, Storage};

use crate::helpers::{Content, files, open, two_generations};

#[test]
fn a_full_disk_changes_nothing_and_the_next_save_works() {
    let (storage, contents) = two_generations();
    let used: u64 = storage.list().unwrap().iter().map(|name| storage.content(name).unwrap().len() as u64).sum();
    storage.set_capacity(Some(used + 1000));
    let store = open(&storage).unwrap();
    let new = Content::small(3);
    let before = storage.list().unwrap();
    match new.save(&store).unwrap_err() {
        CheckpointError::Full { needed, free, .. } => assert!(needed > 1000 && free == 1000),
        error => panic!("{error}"),
    }
    assert_eq!(storage.list().unwrap(), before);
    assert!(contents[1].is(&store.load_newest().unwrap().loaded.unwrap()));
    storage.set_capacity(None);
    let saved = new.save(&store).unwrap();
    assert!(new.is(&store.load(saved.generation).unwrap()));
}

/// Says that it does not know how much room there is.
#[derive(Clone, Debug)]
struct Silent(MemoryStorage);

impl Storage for Silent {
    fn list(&self) -> std::io::Result<Vec<String>> {
        self.0.list()
    }
    fn create(&self, name: &str) -> std::io::Result<Box<dyn everstep_fault::checkpoint::WriteFile>> {
        self.0.create(name)
    }
    fn open(&self, name: &str) -> std::io::Result<Box<dyn everstep_fault::checkpoint::ReadFile>> {
        self.0.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.0.remove(name)
    }
    fn sync(&self) -> std::io::Result<()> {
        self.0.sync()
    }
    fn free_bytes(&self) -> std::io::Result<Option<u64>> {
        Ok(None)
    }
    fn lock(&self) -> std::io::Result<Box<dyn Send + Sync>> {
        self.0.lock()
    }
    fn place(&self) -> String {
        self.0.place()
    }
}

#[test]
fn a_disk_that_fills_up_meanwhile() {
    let (start, contents) = two_generations();
    let used: u64 = start.list().unwrap().iter().map(|name| start.content(name).unwrap().len() as u64).sum();
    let (mut full, mut saved) = (0, 0);
    for room in (0..4000).step_by(50) {
        let storage = start.after_power_loss().capacity(used + room);
        let store = open(&Silent(storage.clone())).unwrap();
        match Content::small(3).save(&store) {
            Ok(_) => saved += 1,
            Err(CheckpointError::Full { .. }) => {
                full += 1;
                assert_eq!(files(&storage, ""), files(&start, ""), "what was written is removed");
                assert!(contents[1].is(&store.load_newest().unwrap().loaded.unwrap()));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(full > 10 && saved > 10, "{full} and {saved}");
}

#[test]
fn partial_files_of_a_crash_are_removed() {
    let (start, _) = two_generations();
    let files_before = files(&start, "");
    let (mut left_over, mut at) = (0, 0);
    loop {
        let memory = start.after_power_loss();
        let faulty = FaultyStorage::new(memory.clone(), at, Failure::PowerLoss);
        let done = open(&faulty).and_then(|store| Content::small(3).save(&store)).is_ok();
        let crashed = memory.after_power_loss_seeded(at);
        left_over += files(&crashed, ".partial").len();
        drop(open(&crashed).unwrap());
        assert!(files(&crashed, ".partial").is_empty());
        assert!(files_before.iter().all(|name| crashed.content(name).is_some()));
        at += 1;
        if done {
            break;
        }
    }
    assert!(left_over > 3);
}
