//! The command, on a small store.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use everstep_data::Cursor;
use everstep_fault::Place;
use everstep_fault::checkpoint::{Health, LocalStorage, Manifest, Store, TensorSource};
use safetensors::Dtype;
use serde_json::{Value, json};

fn save(folder: &Path, step: u64) {
    let manifest = Manifest {
        format_version: 1,
        engine_version: "0.1.0".to_owned(),
        generation: 0,
        run: "a".repeat(32),
        parent: None,
        created_ms: 1_763_733_600_000,
        device: "CPU".to_owned(),
        model_hash: "b".repeat(64),
        place: Place { step, cursor: Cursor { seed: 1, epoch: 2, position: 3 } },
        attempt: step + 1,
        committed: step,
        health: Health { trusted: step < 20, loss: Some(0.25), norm: None, metric: None },
        identity: json!({"model": "small"}),
        values: BTreeMap::from([("schedule".to_owned(), json!(0.1))]),
        files: Vec::new(),
        tensors: Vec::new(),
    };
    let bytes = [step as u8; 24];
    let tensor = TensorSource {
        name: "weight".to_owned(),
        group: 0,
        dtype: Dtype::F32,
        shape: vec![2, 3],
        pieces: vec![&bytes],
    };
    let store = Store::open(Arc::new(LocalStorage::new(folder).unwrap())).unwrap();
    store.save(manifest, &[tensor]).unwrap();
}

/// Standard output, standard error and the exit code.
fn everstep(folder: &Path, arguments: &[&str]) -> (String, String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everstep"));
    let output = command.arg("checkpoint").arg(arguments[0]).arg(folder).args(&arguments[1..]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

fn of_json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn two() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), 10);
    save(folder.path(), 20);
    folder
}

fn damage(folder: &Path, name: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if name(path.file_name().unwrap().to_str().unwrap()) {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            std::fs::write(&path, bytes).unwrap();
        }
    }
}

#[test]
fn list_tells_each_generation() {
    let folder = two();
    let (text, _, code) = everstep(folder.path(), &["list"]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["generation", "created", "step", "epoch", "committed", "trusted", "loss", "size", "ok"]);
    assert_eq!(lines[1][..2], ["2", "2025-11-21"]);
    assert_eq!(lines[1][4..8], ["20", "2", "20", "no"]);
    assert_eq!(lines[2][4..9], ["10", "2", "10", "yes", "0.25"]);
    assert_eq!((lines.len(), code), (3, 0));
    let json = of_json(&everstep(folder.path(), &["list", "--json"]).0);
    assert_eq!(json["generations"][1]["generation"], 1);
    assert_eq!(json["set_aside"], json!([]));
    let one = everstep(folder.path(), &["list", "--generation", "1"]).0;
    assert_eq!(one.lines().count(), 2);
}

#[test]
fn verify_finds_damage() {
    let folder = two();
    let (text, _, code) = everstep(folder.path(), &["verify"]);
    assert_eq!((text.matches(": ok, ").count(), code), (2, 0), "{text}");
    let newest = Store::read_only(Arc::new(LocalStorage::existing(folder.path()))).load(2).unwrap();
    damage(folder.path(), |name| name == newest.manifest.files[0].name);
    let (text, _, code) = everstep(folder.path(), &["verify"]);
    assert!(text.contains("generation 2: ") && text.contains("that generation is lost"), "{text}");
    assert!(text.contains("generation 1: ok, "), "{text}");
    assert_eq!(code, 1);
    assert_eq!(everstep(folder.path(), &["verify", "--generation", "1"]).2, 0);
    let (text, _, code) = everstep(folder.path(), &["verify", "--json"]);
    let json = of_json(&text);
    assert_eq!((&json["ok"], &json["generations"][0]["ok"], code), (&json!(false), &json!(false), 1));
    assert_eq!(everstep(folder.path(), &["list"]).2, 0, "`list` looks at manifests alone");
    damage(folder.path(), |name| name.starts_with("generation-"));
    assert_eq!(everstep(folder.path(), &["list"]).2, 1);
}

#[test]
fn show_tells_what_the_run_had_come_to() {
    let folder = two();
    let (text, _, code) = everstep(folder.path(), &["show"]);
    for part in ["step 20 (epoch 2, sample 3)", "20 of 21 attempts", "{\"model\":\"small\"}", "weight", "[2, 3]"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(code, 0);
    let json = of_json(&everstep(folder.path(), &["show", "--generation", "1", "--json"]).0);
    assert_eq!((&json["place"]["step"], &json["tensors"][0]["dtype"]), (&json!(10), &json!("F32")));
    // While it is in use.
    let _store = Store::open(Arc::new(LocalStorage::new(folder.path()).unwrap())).unwrap();
    assert_eq!(everstep(folder.path(), &["show"]).2, 0);
}

#[test]
fn what_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let (_, error, code) = everstep(&folder.path().join("none"), &["list"]);
    assert!(error.starts_with("everstep: ") && error.contains("listing the files"), "{error}");
    assert_eq!(code, 1);
    assert!(!folder.path().join("none").exists(), "looking makes no folder");
    assert_eq!(everstep(folder.path(), &["verify"]).2, 0);
    assert_eq!(everstep(folder.path(), &["show"]).2, 1);
    save(folder.path(), 1);
    let (_, error, code) = everstep(folder.path(), &["show", "--generation", "9"]);
    assert!(error.contains("has no generation 9") && code == 1, "{error}");
    assert_eq!(everstep(folder.path(), &["show", "--nonsense"]).2, 2);
}
