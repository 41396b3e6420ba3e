//! Runs' states to save.

use std::collections::BTreeMap;
use std::sync::Arc;

use everstep_data::Cursor;
use everstep_fault::Place;
use everstep_fault::checkpoint::{
    CheckpointError, Health, Loaded, LoadedTensor, Manifest, MemoryStorage, Parent, Saved, Storage, Store, TensorSource,
};
use safetensors::Dtype;
use serde_json::json;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A state of a run.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) manifest: Manifest,
    pub(crate) tensors: BTreeMap<String, (usize, LoadedTensor)>,
}

pub(crate) fn manifest(step: u64) -> Manifest {
    Manifest {
        format_version: 1,
        engine_version: env!("CARGO_PKG_VERSION").to_owned(),
        generation: 0,
        run: "0123456789abcdef0123456789abcdef".to_owned(),
        parent: Some(Parent { run: "f".repeat(32), generation: 3 }),
        created_ms: 1_763_733_600_123 + step,
        device: "CPU".to_owned(),
        model_hash: "0".repeat(64),
        place: Place { step, cursor: Cursor { seed: u64::MAX, epoch: 1, position: step * 32 } },
        attempt: step + 2,
        committed: step,
        health: Health { trusted: true, loss: Some(0.1 + step as f32), norm: Some(1e-40), metric: None },
        identity: json!({"model": {"layers": [784, 10]}, "optimizer": "Adam \"quoted\""}),
        values: BTreeMap::from([
            ("loader".to_owned(), json!({"epoch": 1, "position": step * 32})),
            ("schedule".to_owned(), json!([0.1, 1e-300, -0.0, u64::MAX])),
        ]),
        files: Vec::new(),
        tensors: Vec::new(),
    }
}

impl Content {
    pub(crate) fn empty(step: u64) -> Self {
        Self { manifest: manifest(step), tensors: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, name: &str, group: usize, dtype: Dtype, shape: &[usize], seed: u64) {
        let mut random = Random(seed);
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let bytes = (0..bytes).map(|_| random.next() as u8).collect();
        self.tensors.insert(name.to_owned(), (group, LoadedTensor { dtype, shape: shape.to_vec(), bytes }));
    }

    /// Two groups, of which the first is the same for every seed.
    pub(crate) fn small(seed: u64) -> Self {
        let mut content = Self::empty(seed);
        content.add("frozen", 0, Dtype::F32, &[7], 1);
        content.add("model.weight", 1, Dtype::F32, &[3, 5], seed * 10 + 2);
        content.add("model.count", 1, Dtype::U64, &[], seed * 10 + 3);
        content
    }

    /// The bytes in `pieces` pieces, the first of which is empty.
    pub(crate) fn sources(&self, pieces: usize) -> Vec<TensorSource<'_>> {
        let pieces = |bytes: &'_ [u8]| bytes.len().div_ceil(pieces).max(1);
        let mut sources = Vec::new();
        for (name, (group, tensor)) in &self.tensors {
            let (name, shape) = (name.clone(), tensor.shape.clone());
            let chunks = tensor.bytes.chunks(pieces(&tensor.bytes));
            let pieces = [&[][..]].into_iter().chain(chunks).collect();
            sources.push(TensorSource { name, group: *group, dtype: tensor.dtype, shape, pieces });
        }
        sources
    }

    pub(crate) fn save(&self, store: &Store) -> Result<Saved, CheckpointError> {
        store.save(self.manifest.clone(), &self.sources(2))
    }

    /// Whether that is what was saved.
    pub(crate) fn is(&self, loaded: &Loaded) -> bool {
        let mut manifest = self.manifest.clone();
        manifest.generation = loaded.manifest.generation;
        manifest.files.clone_from(&loaded.manifest.files);
        manifest.tensors.clone_from(&loaded.manifest.tensors);
        let tensors = self.tensors.iter().map(|(name, (_, tensor))| (name, tensor));
        manifest == loaded.manifest && loaded.tensors.iter().eq(tensors)
    }
}

/// A store whose reads and writes are small, so that there are several of each file.
pub(crate) fn open(storage: &(impl Storage + Clone + 'static)) -> Result<Store, CheckpointError> {
    Ok(Store::open(Arc::new(storage.clone()))?.with_chunk_bytes(100))
}

/// A storage with generations 1 and 2.
pub(crate) fn two_generations() -> (MemoryStorage, [Content; 2]) {
    let storage = MemoryStorage::new();
    let contents = [Content::small(1), Content::small(2)];
    let store = open(&storage).unwrap();
    contents.iter().for_each(|content| assert!(content.save(&store).is_ok()));
    drop(store);
    (storage, contents)
}

pub(crate) fn files(storage: &impl Storage, ends: &str) -> Vec<String> {
    let mut names = storage.list().unwrap();
    names.retain(|name| name.ends_with(ends));
    names
}
