//! The readers of CSV and text on thousands of damaged inputs: they return, and take no more memory than the input
//! justifies.
//!
//! One test alone in its program, because the allocator counts for the whole of it.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

mod common;
#[path = "common/watched.rs"]
mod watched;

use common::{mutate, whole};
use everstep_data::{CharDataset, CsvConfig, CsvDataset, CsvProblem, Dataset, Error};
use everstep_device::philox::Generator;
use watched::largest;

/// The reader's buffer and the first fields of the parser.
const BASE: usize = 64 * 1024;
const ROUNDS: u64 = 20_000;

fn table() -> Vec<u8> {
    let row = |row: u32| format!("{},\"{}\",{:.3},abc\r\n", row % 7, row * row % 97, row as f32 / 3.0);
    let rows: String = (0..40).map(row).collect();
    format!("class,\"two words\",x,name\r\n{rows}").into_bytes()
}

#[test]
fn damaged_inputs_neither_panic_nor_take_memory() {
    let configs = [
        CsvConfig::numbers("class", 7).features(["two words", "x"]),
        CsvConfig::names("name"),
        CsvConfig::names(0).features([2, 1]),
        CsvConfig::value("x").features([0, 1]),
        CsvConfig::value(2).features([0, 1]).header(false),
        CsvConfig::names(3).class_names(["abc", "abd"]),
    ];
    let good = table();
    for config in configs.iter().filter(|config| config.header) {
        assert_eq!(CsvDataset::from_bytes(&good, "good", config).unwrap().len(), 40);
    }
    let (mut read, mut refused) = (0, 0);
    for seed in 0..ROUNDS {
        let mut random = Generator::new(seed);
        let mut bytes = good.clone();
        if seed % 2 == 0 {
            mutate(&mut bytes, &mut random);
        }
        // Quotes, delimiters and line breaks are what the parser turns on.
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len() as u32) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte = b"\",\n\r;\0 "[random.below(7) as usize];
            }
        }
        let config = &configs[random.below(6) as usize];
        let (most, outcome) = largest(|| CsvDataset::from_bytes(&bytes, "damaged", config));
        assert!(most <= BASE, "seed {seed}: {most} bytes for an input of {}", bytes.len());
        match outcome {
            Ok(dataset) => {
                read += 1;
                if !dataset.is_empty() {
                    let batch = whole(dataset);
                    assert!(batch.x.as_f32().unwrap().iter().all(|value| value.is_finite()));
                }
            }
            Err(error) => {
                refused += 1;
                assert!(matches!(&error, Error::Csv { line: 1..=100, .. }), "{error}");
                assert!(error.to_string().len() < 1000);
            }
        }
        let (most, outcome) = largest(|| CharDataset::from_bytes(&bytes, "damaged", 1 + seed as usize % 300));
        assert!(most <= BASE, "seed {seed}: {most} bytes for a text of {}", bytes.len());
        match outcome {
            Ok(text) => {
                assert_eq!(text.vocabulary().decode(text.tokens()).unwrap().as_bytes(), bytes);
                assert!(whole(text).len() <= bytes.len());
            }
            Err(error) => assert!(matches!(error, Error::Utf8 { .. } | Error::Context { .. }), "{error}"),
        }
    }
    assert!(read > ROUNDS / 10 && refused > ROUNDS / 4, "{read} {refused}");
    rows_without_end();
}

/// A row that does not end is given up, long before all of it lies in memory.
fn rows_without_end() {
    let config = CsvConfig::value(0);
    for filler in [b'7', b',', b'\n'] {
        let mut bytes = b"a,b\n1,2\n\"".to_vec();
        bytes.resize(40 << 20, filler);
        let (most, outcome) = largest(|| CsvDataset::from_bytes(&bytes, "endless", &config));
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Csv { line: 3, problem: CsvProblem::LongRow { .. }, .. }), "{error}");
        assert!(most <= 8 << 20, "{most}");
    }
    // The ends of four million values are eight bytes each.
    let bytes = vec![b','; 40 << 20];
    let (most, outcome) = largest(|| CsvDataset::from_bytes(&bytes, "wide", &config));
    assert!(matches!(outcome.unwrap_err(), Error::Csv { line: 1, problem: CsvProblem::LongRow { .. }, .. }));
    assert!(most <= 64 << 20, "{most}");
}
