//! Any bytes, as they are: the IDX reader returns.
#![no_main]

use everstep_data::{IdxArray, ImageDataset};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(array) = IdxArray::from_bytes(bytes, "fuzz") {
        assert_eq!(array.values().len(), array.shape().iter().product::<usize>());
        // As images, as labels, and as both.
        let _ = ImageDataset::from_idx(array.clone(), array, 10);
    }
});
