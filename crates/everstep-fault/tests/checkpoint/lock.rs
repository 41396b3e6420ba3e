use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Arc;

use everstep_fault::checkpoint::{CheckpointError, LocalStorage, MemoryStorage, Storage, Store};

const FOLDER: &str = "EVERSTEP_TEST_CHECKPOINT_FOLDER";

fn open(folder: &std::path::Path) -> Result<Store, CheckpointError> {
    Store::open(Arc::new(LocalStorage::new(folder).unwrap()))
}

#[test]
fn a_second_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let memory = MemoryStorage::new();
    for storage in [Arc::new(LocalStorage::new(folder.path()).unwrap()) as Arc<dyn Storage>, Arc::new(memory)] {
        let first = Store::open(storage.clone()).unwrap();
        let error = Store::open(storage.clone()).unwrap_err();
        assert!(matches!(error, CheckpointError::Locked { .. }), "{error}");
        assert!(Store::read_only(storage.clone()).list().is_ok(), "looking is allowed");
        drop(first);
        Store::open(storage).unwrap();
    }
}

#[test]
fn what_a_dead_holder_left_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    for stale in [&b"process 1, since 1970-01-01 00:00:00 UTC\n"[..], b"", &[0xFF; 5000]] {
        std::fs::write(folder.path().join("lock"), stale).unwrap();
        let _store = open(folder.path()).unwrap();
        let error = open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}, since 2", std::process::id())), "{error}");
    }
}

#[test]
fn another_process_holds_it_until_it_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lock::holds_the_lock_when_asked", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("holds it")));
    let error = open(folder.path()).unwrap_err();
    let holder = format!("process {}", child.id());
    assert!(matches!(&error, CheckpointError::Locked { holder: told, .. } if told.contains(&holder)), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    open(folder.path()).unwrap();
}

/// The other process of the test above; by itself it does nothing.
#[test]
fn holds_the_lock_when_asked() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let _store = open(folder.as_ref()).unwrap();
    println!("holds it");
    // Until it is killed, or its parent has ended.
    let _ = std::io::stdin().read(&mut [0]);
}
