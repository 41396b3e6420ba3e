//! Any bytes behind a gzip header, and any bytes inside good gzip: the IDX reader returns.
#![no_main]

use std::io::Write;

use everstep_data::IdxArray;
use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::fuzz_target;

/// A gzip header without options, for a stream of deflate.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

fuzz_target!(|bytes: &[u8]| {
    let _ = IdxArray::from_bytes(&[&HEADER[..], bytes].concat(), "fuzz");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let compressed = encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to memory");
    // Compressed or not, an input that is no gzip itself reads the same.
    if !bytes.starts_with(&HEADER[..2]) {
        let (plain, unpacked) = (IdxArray::from_bytes(bytes, "fuzz"), IdxArray::from_bytes(&compressed, "fuzz"));
        assert_eq!(plain.is_ok(), unpacked.is_ok());
    }
});
