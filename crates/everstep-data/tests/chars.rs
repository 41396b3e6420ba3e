//! Text as characters: vocabularies, windows, the split, and what cannot be.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

mod common;

use common::whole;
use everstep_data::{
    At, CharDataset, Dataset, Error, FieldMut, FieldSpec, HostLoader, LoaderConfig, SampleMut, Vocabulary,
};

#[test]
fn a_vocabulary_is_sorted_and_goes_there_and_back() {
    // In Python: chars = sorted(set(text)); [chars.index(c) for c in text]
    let text = "Zoë says:\n\"né à 9h30\" 🦀🦀\t-- fin";
    let vocabulary = Vocabulary::from_text(text);
    assert!(vocabulary.characters().is_sorted_by(|a, b| a < b));
    let tokens = vocabulary.encode(text).unwrap();
    assert_eq!(tokens.len(), text.chars().count());
    assert_eq!(tokens.iter().copied().max(), Some(vocabulary.len() as u32 - 1));
    assert_eq!(vocabulary.decode(&tokens).unwrap(), text);
    for (token, &character) in (0..).zip(vocabulary.characters()) {
        assert_eq!(vocabulary.token(character), Some(token));
    }
    assert_eq!(Vocabulary::from_text("banana").encode("nab").unwrap(), [2, 0, 1]);
    let empty = Vocabulary::from_text("");
    assert!(empty.is_empty() && empty.encode("").unwrap().is_empty() && empty.decode(&[]).unwrap().is_empty());
}

#[test]
fn vocabularies_that_are_given() {
    let vocabulary = Vocabulary::new("zya".chars()).unwrap();
    assert_eq!((vocabulary.len(), vocabulary.encode("azy").unwrap()), (3, vec![2, 0, 1]));
    // As a checkpoint would keep it: one string, in the order of the tokens.
    let text = serde_json::to_string(&vocabulary).unwrap();
    assert_eq!(text, "\"zya\"");
    assert_eq!(serde_json::from_str::<Vocabulary>(&text).unwrap(), vocabulary);
    assert!(serde_json::from_str::<Vocabulary>("\"zyz\"").unwrap_err().to_string().contains("'z'"));
    let error = Vocabulary::new("abca".chars()).unwrap_err();
    assert!(matches!(error, Error::RepeatedCharacter { character: 'a' }), "{error}");
}

#[test]
fn what_is_not_in_the_vocabulary_is_an_error() {
    let vocabulary = Vocabulary::from_text("abc");
    let error = vocabulary.encode("cé\u{7}b").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the character 'é' at position 1 is not among the 3 of the vocabulary: take it out, or make the vocabulary from a \
         text that has it"
    );
    let error = vocabulary.decode(&[0, 2, 3]).unwrap_err();
    assert!(matches!(error, Error::UnknownToken { token: 3, position: 2, vocabulary: 3 }), "{error}");
    let error = CharDataset::with_vocabulary("abcd", vocabulary, 2).unwrap_err();
    assert!(matches!(error, Error::UnknownCharacter { character: 'd', position: 3, .. }), "{error}");
}

#[test]
fn windows_and_their_targets() {
    let dataset = CharDataset::new("abcdef", 3).unwrap();
    assert_eq!((dataset.len(), dataset.context(), dataset.stride(), dataset.classes()), (3, 3, 1, Some(6)));
    assert_eq!((&dataset.spec().x, &dataset.spec().y), (&FieldSpec::u32(&[3]), &FieldSpec::u32(&[3])));
    assert_eq!((dataset.tokens(), dataset.label(0).unwrap()), (&[0, 1, 2, 3, 4, 5][..], None));
    let batch = whole(dataset);
    assert_eq!(batch.x.as_u32().unwrap(), [0, 1, 2, 1, 2, 3, 2, 3, 4]);
    assert_eq!(batch.y.as_u32().unwrap(), [1, 2, 3, 2, 3, 4, 3, 4, 5]);
    assert_eq!((batch.x.shape(), batch.ids), (&[3, 3][..], vec![0, 1, 2]));
}

#[test]
fn every_length_context_and_stride() {
    for length in 1..14usize {
        let text: String = ('a'..).take(length).collect();
        for (context, stride) in (0..length + 2).flat_map(|context| (1..6).map(move |stride| (context, stride))) {
            // The starts of windows that have a character after their end.
            let starts: Vec<u64> =
                (0..length).step_by(stride).filter(|at| at + context < length).map(|at| at as u64).collect();
            let dataset = CharDataset::new(&text, context).and_then(|dataset| dataset.with_stride(stride));
            if context == 0 || starts.is_empty() {
                let error = dataset.unwrap_err();
                assert!(matches!(error, Error::Context { tokens, .. } if tokens == length), "{error}");
                continue;
            }
            let dataset = dataset.unwrap();
            assert_eq!(dataset.len(), starts.len());
            assert_eq!(dataset.id(starts.len()), u64::MAX);
            let batch = whole(dataset.clone());
            assert_eq!(batch.ids, starts);
            let rows = batch.x.as_u32().unwrap().chunks(context).zip(batch.y.as_u32().unwrap().chunks(context));
            for ((x, y), &start) in rows.zip(&starts) {
                assert!((start as u32..).zip(x).all(|(token, x)| *x == token));
                assert!((start as u32 + 1..).zip(y).all(|(token, y)| *y == token));
            }
            let (mut x, mut y) = (vec![0; context], vec![0; context]);
            let sample = SampleMut { x: FieldMut::U32(&mut x), y: FieldMut::U32(&mut y) };
            let error = dataset.read(At::index(dataset.len()), sample).unwrap_err();
            assert!(matches!(error, Error::Index { samples, .. } if samples == starts.len()), "{error}");
        }
    }
}

#[test]
fn no_window_crosses_the_border_of_a_split() {
    let text: String = ('a'..='z').chain('A'..='Z').collect();
    for fraction in [0.2, 0.5, 0.77, 0.9] {
        let (train, test) = CharDataset::new(&text, 4).unwrap().split(fraction).unwrap();
        let border = (52.0 * fraction) as usize;
        assert_eq!((train.tokens().len(), test.tokens().len()), (border, 52 - border));
        assert_eq!(train.vocabulary(), test.vocabulary());
        let all: Vec<u32> = train.tokens().iter().chain(test.tokens()).copied().collect();
        assert_eq!(train.vocabulary().decode(&all).unwrap(), text);
        let border = border as u64;
        assert!(whole(train).ids.iter().all(|start| start + 4 < border));
        // The ids of both parts count from the start of the whole text.
        assert!(whole(test).ids.into_iter().eq(border..=52 - 5));
    }
    // A part of a part, with a stride.
    let (_, rest) = CharDataset::new(&text, 4).unwrap().with_stride(3).unwrap().split(0.5).unwrap();
    let (middle, _) = rest.split(0.5).unwrap();
    assert_eq!((middle.stride(), whole(middle).ids), (3, vec![26, 29, 32]));
}

#[test]
fn splits_that_cannot_be_are_errors() {
    let dataset = CharDataset::new("abcdefghij", 3).unwrap();
    for fraction in [0.0, 1.0, -0.5, 1.5, f64::NAN, f64::INFINITY, 0.05] {
        let error = dataset.clone().split(fraction).unwrap_err();
        assert!(matches!(error, Error::Fraction { samples: 10, .. }), "{fraction}: {error}");
    }
    let error = dataset.clone().split(0.3).unwrap_err();
    assert!(matches!(error, Error::Context { context: 3, tokens: 3 }), "{error}");
    let error = dataset.clone().split(0.8).unwrap_err();
    assert!(matches!(error, Error::Context { context: 3, tokens: 2 }), "{error}");
    assert!(matches!(dataset.clone().with_stride(0).unwrap_err(), Error::Stride));
    // A window has many classes, so there is none to split by.
    assert!(matches!(dataset.split_stratified(0.5, 0).unwrap_err(), Error::NoLabels));
    for (text, context) in [("", 1), ("a", 1), ("abc", 0), ("abc", 3), ("abc", usize::MAX)] {
        assert!(matches!(CharDataset::new(text, context).unwrap_err(), Error::Context { .. }), "{text} {context}");
    }
}

#[test]
fn a_shuffled_epoch_has_every_window_once() {
    let text: String = ('a'..='z').collect();
    let dataset = CharDataset::new(&text, 5).unwrap();
    let mut loader = HostLoader::new(dataset, LoaderConfig::new(4).shuffle(1)).unwrap();
    let mut epochs = Vec::new();
    for _ in 0..2 {
        let ids: Vec<u64> = loader.epoch().flat_map(|batch| batch.unwrap().ids).collect();
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..21));
        epochs.push(ids);
    }
    assert_ne!(epochs[0], epochs[1]);
}

#[test]
fn files_are_read_and_named_in_errors() {
    let directory = std::env::temp_dir().join(format!("everstep-data-chars-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("poem.txt");
    std::fs::write(&path, "né\r\nà Paris").unwrap();
    let dataset = CharDataset::from_path(&path, 4).unwrap();
    assert_eq!(dataset.vocabulary().decode(dataset.tokens()).unwrap(), "né\r\nà Paris");
    let bytes = b"na\xefve";
    std::fs::write(&path, bytes).unwrap();
    let message = CharDataset::from_path(&path, 2).unwrap_err().to_string();
    assert!(message.ends_with("poem.txt: at byte 2: the text is not UTF-8: convert it, as with `iconv -t utf-8`"));
    let error = CharDataset::from_bytes(bytes, "poem", 2).unwrap_err();
    assert!(matches!(error, Error::Utf8 { offset: 2, .. }), "{error}");
    let missing = CharDataset::from_path(directory.join("missing"), 2).unwrap_err();
    assert!(matches!(&missing, Error::Io { file, .. } if file.ends_with("missing")), "{missing}");
    assert!(matches!(CharDataset::from_path(&directory, 2).unwrap_err(), Error::Io { .. }));
    std::fs::remove_dir_all(&directory).unwrap();
}
