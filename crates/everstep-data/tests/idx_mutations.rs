//! The IDX reader on thousands of damaged inputs: it returns, and it asks for no more memory than the input justifies.
//!
//! One test alone in its program, because the allocator counts for the whole of it.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::{gzip, idx};
use everstep_data::IdxArray;
use everstep_device::philox::Generator;

/// The system's allocator, with a record of the largest request.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        LARGEST.fetch_max(new_size, Relaxed);
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// What the gzip decoder and the reader's first block may take whatever the input.
const BASE: usize = 96 * 1024;
const ROUNDS: u64 = 8_000;

/// Changes `bytes` in one to four places: a bit, a byte, a cut, a run taken out or doubled, a huge number.
fn mutate(bytes: &mut Vec<u8>, random: &mut Generator) {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len() as u32) as usize;
        let run = at..(at + 1 + random.below(16) as usize).min(bytes.len());
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(run)),
            4 => bytes.extend_from_within(run),
            5 => bytes[run].fill(0xff),
            // The header is small beside the data, so it gets a share of its own.
            _ => bytes[at % 16] = random.below(256) as u8,
        }
    }
}

#[test]
fn damaged_inputs_neither_panic_nor_take_memory() {
    let data: Vec<u8> = (0..640u32).map(|index| (index * index % 17) as u8).collect();
    let plain =
        [idx(8, &[10, 8, 8], &data), idx(0x0d, &[20, 8], &data), idx(0x0e, &[80], &data), idx(9, &[640], &data)];
    let (mut read, mut refused) = (0, 0);
    let mut check = |bytes: &[u8], seed: u64| {
        LARGEST.store(0, Relaxed);
        match IdxArray::from_bytes(bytes, "damaged") {
            Ok(_) => read += 1,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
        let largest = LARGEST.load(Relaxed);
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
