//! Manifests and headers that were never written, with hashes that are right.

use everstep_fault::checkpoint::{CheckpointError, Loaded, Manifest, MemoryStorage, Storage, Store, seal};

use crate::helpers::{Random, open, two_generations};

const NEWEST: &str = "generation-000000000002.json";

#[test]
fn unknown_versions_are_refused_and_kept() {
    for version in ["0", "2", "4294967297"] {
        let (storage, contents) = two_generations();
        let inner = format!(r#"{{"of the future":[1],"format_version":{version}}}"#);
        storage.replace(NEWEST, seal(inner.as_bytes()));
        let store = open(&storage).unwrap();
        let error = store.load(2).unwrap_err();
        assert!(matches!(&error, CheckpointError::Version { known: 1, found, .. } if found.to_string() == version));
        let newest = store.load_newest().unwrap();
        assert!(contents[0].is(&newest.loaded.unwrap()));
        assert_eq!(newest.damaged, [(2, error.clone())], "it is told");
        assert!(storage.content(NEWEST).is_some(), "and not set aside");
        storage.remove("generation-000000000001.json").unwrap();
        assert_eq!(store.load_newest().unwrap_err(), error, "where nothing else loads");
    }
    let (storage, _) = two_generations();
    for inner in ["{}", "[]", "", "null", r#"{"format_version":-1}"#, r#"{"format_version":1}"#] {
        storage.replace(NEWEST, seal(inner.as_bytes()));
        assert!(matches!(open(&storage).unwrap().load(2), Err(CheckpointError::Damaged { .. })), "{inner}");
    }
}

/// Changes some bytes, or takes some away, or adds some.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const LIKELY: &[u8] = b"0123456789{}[]\",:-eE.\\ ntf\xFF";
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len().max(1));
        let likely = LIKELY[random.below(LIKELY.len())];
        match random.below(5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = likely,
            2 => bytes.insert(at, likely),
            3 => drop(bytes.drain(at..(at + random.below(20)).min(bytes.len()))),
            _ => {
                let part = bytes[at..(at + random.below(60)).min(bytes.len())].to_vec();
                let to = random.below(bytes.len().max(1));
                bytes.splice(to..to, part);
            }
        }
    }
}

/// What is given fits together.
fn is_valid(loaded: &Loaded) -> bool {
    loaded.manifest.tensors.len() == loaded.tensors.len()
        && loaded.manifest.tensors.iter().all(|entry| {
            let tensor = &loaded.tensors[&entry.name];
            tensor.shape == entry.shape
                && tensor.dtype.to_string() == entry.dtype
                && tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize() == tensor.bytes.len() * 8
                && blake3::hash(&tensor.bytes).to_hex().as_str() == entry.hash
        })
}

#[test]
fn mutated_manifests() {
    let (storage, _) = two_generations();
    let whole = storage.content(NEWEST).unwrap();
    let inner = &whole[86..whole.len() - 2];
    assert_eq!(seal(inner), whole);
    let (mut random, mut loaded, mut parsed) = (Random(1), 0, 0);
    for _ in 0..10_000 {
        let mut mutated = inner.to_vec();
        mutate(&mut mutated, &mut random);
        storage.replace(NEWEST, seal(&mutated));
        parsed += usize::from(Manifest::from_bytes("", "", &seal(&mutated)).is_ok());
        let store = Store::read_only(std::sync::Arc::new(storage.clone()));
        match store.load(2) {
            Ok(generation) => {
                assert!(is_valid(&generation));
                loaded += 1;
            }
            Err(CheckpointError::Damaged { .. } | CheckpointError::Version { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(store.list().is_ok());
    }
    assert!(parsed > loaded && loaded > 100, "{parsed} and {loaded}: the parts behind the hash were reached");
}

/// A generation whose file of tensors is `bytes`, with hashes that are right.
fn with_data(storage: &MemoryStorage, manifest: &Manifest, bytes: &[u8]) -> Store {
    let hash = blake3::hash(bytes).to_hex().to_string();
    let name = format!("tensors-{}.safetensors", &hash[..16]);
    let mut manifest = manifest.clone();
    let file = manifest.files.last_mut().unwrap();
    let old = std::mem::replace(&mut file.name, name.clone());
    (file.bytes, file.hash) = (bytes.len() as u64, hash);
    for tensor in manifest.tensors.iter_mut().filter(|tensor| tensor.file == old) {
        tensor.file.clone_from(&name);
    }
    let storage = storage.after_power_loss();
    storage.replace(&name, bytes.to_vec());
    storage.replace(NEWEST, manifest.to_bytes().unwrap());
    Store::read_only(std::sync::Arc::new(storage))
}

#[test]
fn mutated_headers() {
    let (storage, contents) = two_generations();
    let manifest = open(&storage).unwrap().load(2).unwrap().manifest;
    let whole = storage.content(&manifest.files.last().unwrap().name).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let (mut random, mut loaded) = (Random(2), 0);
    for round in 0..10_000 {
        let mut mutated = whole[..header].to_vec();
        if round % 10 == 0 {
            mutate(&mut mutated, &mut random);
        } else {
            // The length fits, so that the header is parsed.
            let mut text = mutated.split_off(8);
            mutate(&mut text, &mut random);
            mutated = [&(text.len() as u64).to_le_bytes()[..], &text].concat();
        }
        mutated.extend_from_slice(&whole[header..]);
        match with_data(&storage, &manifest, &mutated).load(2) {
            Ok(generation) => {
                assert!(contents[1].is(&generation) && is_valid(&generation));
                loaded += 1;
            }
            Err(CheckpointError::Damaged { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(loaded > 10, "white space does not matter: {loaded}");
}

#[test]
fn sizes_that_no_memory_holds() {
    let (storage, _) = two_generations();
    let manifest = open(&storage).unwrap().load(2).unwrap().manifest;
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let info = r#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,18446744073709551615]}}"#;
    let offsets = [&(info.len() as u64).to_le_bytes()[..], info.as_bytes()].concat();
    for bytes in [huge, offsets, vec![], vec![0; 7], vec![0; 8]] {
        let error = with_data(&storage, &manifest, &bytes).load(2).unwrap_err();
        assert!(matches!(error, CheckpointError::Damaged { .. }), "{error}");
    }
    assert!(storage.list().is_ok());
}
