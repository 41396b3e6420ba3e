use std::fs;
use std::sync::Arc;

use everstep_fault::Error;
use everstep_fault::checkpoint::{
    CheckpointError, LocalStorage, MemoryStorage, Retention, Storage, Store, TensorSource,
};
use safetensors::{Dtype, SafeTensors};

use crate::helpers::{Content, files, manifest, open, two_generations};

const DTYPES: [Dtype; 13] = [
    Dtype::BOOL,
    Dtype::U8,
    Dtype::I8,
    Dtype::F8_E4M3,
    Dtype::I16,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I32,
    Dtype::U32,
    Dtype::F32,
    Dtype::F64,
    Dtype::I64,
    Dtype::C64,
];

fn many() -> Content {
    let mut content = Content::empty(9);
    for (number, dtype) in DTYPES.into_iter().enumerate() {
        for (shape, what) in
            [(&[][..], "scalar"), (&[0], "empty"), (&[3, 0, 2], "hollow"), (&[3], "odd"), (&[2, 3, 5], "more")]
        {
            content.add(&format!("{what}.{dtype}"), number % 3, dtype, shape, number as u64);
        }
    }
    content.add("half bytes", 7, Dtype::F4, &[6], 5);
    content.add("a \"name\" with \u{1F600} and \\", 7, Dtype::F32, &[1], 6);
    content.add("large", 8, Dtype::F32, &[70_001], 7);
    content
}

#[test]
fn everything_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");
    let content = many();
    for pieces in [1, 3] {
        let store = Store::open(Arc::new(LocalStorage::new(&path).unwrap())).unwrap();
        let saved = store.save(content.manifest.clone(), &content.sources(pieces)).unwrap();
        let loaded = store.load(saved.generation).unwrap();
        assert!(content.is(&loaded));
        assert_eq!(store.verify(saved.generation).unwrap(), loaded.manifest);
        assert_eq!(store.load_newest().unwrap().loaded, Some(loaded.clone()));
        assert_eq!(saved.bytes, content.tensors.values().map(|(_, tensor)| tensor.bytes.len() as u64).sum::<u64>());
        assert_eq!(loaded.manifest.files.len(), 5);
    }
    // Nothing of the second save's data was written, and nothing else is there.
    assert_eq!(fs::read_dir(&path).unwrap().count(), 5 + 2 + 1);
    let reader = Store::read_only(Arc::new(LocalStorage::existing(&path)));
    assert_eq!(reader.list().unwrap().iter().map(|listed| listed.generation).collect::<Vec<_>>(), [2, 1]);
    assert!(matches!(reader.load(7), Err(CheckpointError::Missing { generation: 7, .. })));
}

#[test]
fn the_files_are_safetensors() {
    let storage = MemoryStorage::new();
    let content = many();
    content.save(&open(&storage).unwrap()).unwrap();
    let mut seen = 0;
    for name in files(&storage, ".safetensors") {
        let bytes = storage.content(&name).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(header % 8, 0);
        for (name, view) in tensors.iter() {
            let (_, tensor) = &content.tensors[name];
            assert_eq!((view.dtype(), view.shape(), view.data()), (tensor.dtype, &tensor.shape[..], &tensor.bytes[..]));
            let offset = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
            assert!(view.data().is_empty() || offset.is_multiple_of(tensor.dtype.bitsize().div_ceil(8)), "{name}");
            seen += 1;
        }
    }
    assert_eq!(seen, content.tensors.len());
}

#[test]
fn the_same_content_gives_the_same_files() {
    let [a, b] = [0, 1].map(|_| {
        let storage = MemoryStorage::new();
        many().save(&open(&storage).unwrap()).unwrap();
        let contents = storage.list().unwrap().into_iter().map(|name| (storage.content(&name), name));
        contents.collect::<Vec<_>>()
    });
    assert_eq!(a, b);
}

#[test]
fn a_group_that_has_not_changed_is_not_written_again() {
    let (storage, contents) = two_generations();
    assert_eq!(files(&storage, ".safetensors").len(), 3, "one that both have, and one of each");
    let store = open(&storage).unwrap();
    let again = contents[1].save(&store).unwrap();
    let manifest = storage.content("generation-000000000003.json").unwrap();
    assert_eq!(again.written, manifest.len() as u64);
    assert_eq!(store.prune(&Retention { last: 1, every: None, best: 0 }).unwrap(), [1, 2]);
    assert_eq!(files(&storage, ".safetensors").len(), 2, "the shared one stays");
    assert!(contents[1].is(&store.load(3).unwrap()));
}

#[test]
fn a_shared_file_that_was_damaged_is_written_again() {
    let (storage, contents) = two_generations();
    let store = open(&storage).unwrap();
    for name in files(&storage, ".safetensors") {
        let mut bytes = storage.content(&name).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        storage.replace(&name, bytes);
    }
    assert!(store.load(2).is_err());
    let saved = contents[1].save(&store).unwrap();
    assert!(contents[1].is(&store.load(saved.generation).unwrap()));
    assert!(contents[1].is(&store.load(2).unwrap()), "and the older generation is whole again");
}

#[test]
fn a_run_without_tensors_or_finite_health() {
    let storage = MemoryStorage::new();
    let store = open(&storage).unwrap();
    let mut content = Content::empty(1);
    content.manifest.health.loss = Some(f32::NAN);
    content.manifest.health.metric = Some(f64::INFINITY);
    content.save(&store).unwrap();
    (content.manifest.health.loss, content.manifest.health.metric) = (None, None);
    assert!(content.is(&store.load(1).unwrap()));
}

#[test]
fn what_cannot_be_saved_is_named() {
    let store = open(&MemoryStorage::new()).unwrap();
    let tensor = |name: &str, shape: &[usize]| TensorSource {
        name: name.to_owned(),
        group: 0,
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        pieces: vec![&[0; 4]],
    };
    let refused = |tensors: &[TensorSource<'_>], told: &str| {
        let error = store.save(manifest(1), tensors).unwrap_err();
        assert!(matches!(error, CheckpointError::Invalid { .. }) && error.to_string().contains(told), "{error}");
    };
    refused(&[tensor("a", &[]), tensor("a", &[1])], "another tensor has that name");
    refused(&[tensor("__metadata__", &[1])], "something else");
    refused(&[tensor("b", &[2])], "takes 8 bytes, and there are 4");
    refused(&[tensor("c", &[usize::MAX, 2])], "tensor \"c\"");
    let mut deep = manifest(1);
    let nested = (0..200).fold(serde_json::Value::Null, |value, _| serde_json::Value::Array(vec![value]));
    deep.values.insert("deep".to_owned(), nested);
    assert!(matches!(store.save(deep, &[]), Err(CheckpointError::Invalid { .. })));
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn names_of_files_lead_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let local = LocalStorage::new(folder.path().join("inner")).unwrap();
    let memory = MemoryStorage::new();
    for name in ["", ".", "..", "../a", "a/b", "a\\b", "C:a", "a\0"] {
        for storage in [&local as &dyn Storage, &memory] {
            assert!(storage.create(name).is_err(), "{name:?}");
            assert!(storage.open(name).is_err() && storage.remove(name).is_err(), "{name:?}");
            assert!(storage.rename("a", name).is_err() && storage.rename(name, "a").is_err(), "{name:?}");
        }
    }
}

#[test]
fn question_marks_work() {
    fn fails() -> Result<(), Error> {
        Store::read_only(Arc::new(MemoryStorage::new())).load(1)?;
        Ok(())
    }
    assert!(matches!(fails(), Err(Error::Checkpoint(error)) if matches!(*error, CheckpointError::Missing { .. })));
}
