//! Heap allocations, counted, and told apart by whose code makes them.
//!
//! A program that wants to count makes [`Counting`] its global allocator. Counting alone costs next to nothing. With
//! [`by_owner`], each allocation also keeps the stack that it was made from, and belongs to the innermost crate there that is
//! not Rust's own or a mere container: what a `Vec` of `gemm` takes is `gemm`'s, what a closure of a kernel takes is ours, on
//! whichever thread it runs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// The system's allocator, counting.
pub struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);
static KEEPS_STACKS: AtomicBool = AtomicBool::new(false);
static STACKS: Mutex<Vec<Backtrace>> = Mutex::new(Vec::new());

thread_local! {
    // Keeping a stack allocates, too.
    static IS_COUNTING: Cell<bool> = const { Cell::new(false) };
}

/// Crates whose allocations are made for whoever calls them.
const CONTAINERS: [&str; 9] =
    ["std", "core", "alloc", "hashbrown", "smallvec", "arrayvec", "bytemuck", "everstep_benches", "test"];

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn note() {
    COUNT.fetch_add(1, Relaxed);
    // A thread that ends has no such mark any more.
    if KEEPS_STACKS.load(Relaxed) && IS_COUNTING.try_with(|is| !is.replace(true)).unwrap_or(false) {
        let stack = Backtrace::force_capture();
        STACKS.lock().unwrap_or_else(PoisonError::into_inner).push(stack);
        IS_COUNTING.set(false);
    }
}

/// Allocations of the process so far, where [`Counting`] is its allocator.
pub fn count() -> u64 {
    COUNT.load(Relaxed)
}

/// An allocation's owner, and the innermost function of the owner's that made it.
pub type Site = (String, String);

/// How many allocations `work` makes on all threads, by owner and function.
pub fn by_owner<T>(work: impl FnOnce() -> T) -> (T, BTreeMap<Site, usize>) {
    STACKS.lock().unwrap_or_else(PoisonError::into_inner).clear();
    KEEPS_STACKS.store(true, Relaxed);
    let result = work();
    KEEPS_STACKS.store(false, Relaxed);
    let stacks = std::mem::take(&mut *STACKS.lock().unwrap_or_else(PoisonError::into_inner));
    let mut sites = BTreeMap::new();
    for stack in &stacks {
        *sites.entry(owner(&stack.to_string())).or_insert(0) += 1;
    }
    (result, sites)
}

/// Allocations of Everstep's own crates among `sites`.
pub fn ours(sites: &BTreeMap<Site, usize>) -> usize {
    sites.iter().filter(|((owner, _), _)| owner.starts_with("everstep")).map(|(_, count)| count).sum()
}

/// The innermost function of a stack that is neither Rust's own nor a container's.
fn owner(stack: &str) -> Site {
    // A line names a function, the outer ones of those that were inlined without a number, or where it is.
    let lines = stack.lines().map(str::trim_start).filter(|line| !line.starts_with("at "));
    let functions = lines.map(|line| match line.split_once(": ") {
        Some((number, function)) if number.parse::<usize>().is_ok() => function,
        _ => line,
    });
    let owned = functions.map(|function| (crate_of(function), function));
    let mut known = owned.filter(|(name, _)| !name.is_empty() && !CONTAINERS.contains(name));
    known.next().map_or(("unknown".into(), String::new()), |(name, function)| (name.into(), function.into()))
}

/// The crate that a function is of: the first name in its path, past what a trait's impl puts before it. Empty for a name of the
/// system's or of C.
fn crate_of(function: &str) -> &str {
    let start = function.trim_start_matches(['<', '&', '*', '(', '[']);
    let start = start.strip_prefix("dyn ").or(start.strip_prefix("mut ")).unwrap_or(start);
    let end = start.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(start.len());
    if start[end..].starts_with("::") || start[end..].starts_with('[') { &start[..end] } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_is_its_innermost_crates() {
        let stack = "   0: std::backtrace::Backtrace::create\n   1: __rust_alloc\n             at lib.rs:1:2\n   2: \
                     alloc::vec::Vec<T>::push\n   3: <gemm_common::cache::X as core::fmt::Debug>::fmt\n   4: everstep_device::run";
        assert_eq!(owner(stack).0, "gemm_common");
        assert_eq!(
            owner("  9: <alloc::vec::Vec<everstep::A> as Clone>::clone\n 10: everstep_device::f").0,
            "everstep_device"
        );
        assert_eq!(
            owner("  1: alloc::vec::f\n      everstep_device::inlined\n  2: rayon::g").1,
            "everstep_device::inlined"
        );
        assert_eq!(owner("  1: malloc\n").0, "unknown");
    }
}
