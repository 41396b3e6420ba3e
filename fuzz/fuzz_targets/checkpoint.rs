//! Any bytes as a manifest, and as a file of tensors that a manifest refers to: loading returns, and what it returns fits
//! together. The hashes are right, so that what lies behind them is reached.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use everstep_data::Cursor;
use everstep_fault::Place;
use everstep_fault::checkpoint::{FileEntry, Health, Manifest, MemoryStorage, Store, TensorEntry, seal};
use libfuzzer_sys::fuzz_target;

const NAME: &str = "generation-000000000001.json";

fn load(storage: &MemoryStorage) {
    let store = Store::read_only(Arc::new(storage.clone()));
    if let Ok(loaded) = store.load(1) {
        assert_eq!(loaded.manifest.tensors.len(), loaded.tensors.len());
        for (name, tensor) in &loaded.tensors {
            let bits = tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize();
            assert_eq!(bits, tensor.bytes.len() * 8, "{name}");
        }
    }
    let _ = store.list();
}

/// A manifest that says of `bytes` what their header says.
fn manifest_of(bytes: &[u8]) -> Manifest {
    let hash = blake3::hash(bytes).to_hex().to_string();
    let name = format!("tensors-{}.safetensors", &hash[..16]);
    let tensor = |(tensor, view): (&str, safetensors::tensor::TensorView<'_>)| TensorEntry {
        name: tensor.to_owned(),
        file: name.clone(),
        dtype: view.dtype().to_string(),
        shape: view.shape().to_vec(),
        hash: blake3::hash(view.data()).to_hex().to_string(),
    };
    let tensors = safetensors::SafeTensors::deserialize(bytes).map(|file| file.iter().map(tensor).collect());
    Manifest {
        format_version: 1,
        engine_version: String::new(),
        generation: 1,
        run: String::new(),
        parent: None,
        created_ms: 0,
        device: String::new(),
        model_hash: String::new(),
        place: Place { step: 1, cursor: Cursor { seed: 0, epoch: 0, position: 0 } },
        attempt: 0,
        committed: 0,
        health: Health::default(),
        identity: serde_json::Value::Null,
        values: BTreeMap::new(),
        tensors: tensors.unwrap_or_default(),
        files: vec![FileEntry { name, bytes: bytes.len() as u64, hash }],
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = Manifest::from_bytes("fuzz", NAME, bytes);
    let storage = MemoryStorage::new();
    storage.replace(NAME, seal(bytes));
    load(&storage);

    let manifest = manifest_of(bytes);
    if let Ok(file) = manifest.to_bytes() {
        storage.replace(NAME, file);
        storage.replace(&manifest.files[0].name, bytes.to_vec());
        load(&storage);
    }
});
