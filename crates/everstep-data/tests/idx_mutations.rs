//! The IDX reader on thousands of damaged inputs: it returns, and it asks for no more memory than the input justifies.
//!
//! One test alone in its program, because the allocator counts for the whole of it.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

mod common;
#[path = "common/watched.rs"]
mod watched;

use common::{gzip, idx, mutate};
use everstep_data::IdxArray;
use everstep_device::philox::Generator;
use watched::largest;

/// What the gzip decoder and the reader's first block may take whatever the input.
const BASE: usize = 96 * 1024;
const ROUNDS: u64 = 8_000;

#[test]
fn damaged_inputs_neither_panic_nor_take_memory() {
    let data: Vec<u8> = (0..640u32).map(|index| (index * index % 17) as u8).collect();
    let plain =
        [idx(8, &[10, 8, 8], &data), idx(0x0d, &[20, 8], &data), idx(0x0e, &[80], &data), idx(9, &[640], &data)];
    let (mut read, mut refused) = (0, 0);
    let mut check = |bytes: &[u8], seed: u64| {
        let (largest, outcome) = largest(|| IdxArray::from_bytes(bytes, "damaged"));
        match outcome {
            Ok(_) => read += 1,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
        assert!(largest <= BASE, "seed {seed}: {largest} bytes for an input of {}", bytes.len());
    };
    for seed in 0..ROUNDS {
        let mut random = Generator::new(seed);
        let good = &plain[random.below(4) as usize];
        // The plain file damaged, the gzip file damaged, and the damaged file in good gzip.
        let mut bytes = good.clone();
        mutate(&mut bytes, &mut random);
        check(&bytes, seed);
        check(&gzip(&bytes), seed);
        let mut bytes = gzip(good);
        mutate(&mut bytes, &mut random);
        check(&bytes, seed);
    }
    assert_eq!(read + refused, 3 * ROUNDS);
    // Damage to the data alone leaves a plain file readable, so there must be some of both.
    assert!(read > ROUNDS / 10 && refused > ROUNDS, "{read} {refused}");
}
