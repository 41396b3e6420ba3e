//! Any bytes, read as a table in several ways: the CSV reader returns, and what it returns fits together.
#![no_main]

use everstep_data::{CsvConfig, CsvDataset, Dataset};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let configs = [
        CsvConfig::value(0),
        CsvConfig::value(1).features([0]).header(false),
        CsvConfig::names(0).header(false).delimiter(';'),
        CsvConfig::numbers("class", 10),
    ];
    for config in configs {
        if let Ok(table) = CsvDataset::from_bytes(bytes, "fuzz", &config) {
            assert_eq!(table.spec().x.shape, [table.feature_names().len()]);
            for index in 0..table.len() {
                let label = table.label(index).expect("an index below the length");
                assert!(label.is_none_or(|label| Some(label as usize) < table.classes()));
            }
        }
    }
});
