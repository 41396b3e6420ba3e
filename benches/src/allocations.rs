//! Heap allocations, counted, and told apart by whose code makes them.
//!
//! A program that wants to count makes [`Counting`] its global allocator. Counting alone costs next to nothing. With
//! [`by_owner`], each allocation also keeps the stack that it was made from, and belongs to the innermost crate there that is
//! not Rust's own or a mere container: what a `Vec` of `gemm` takes is `gemm`'s, what a closure of a kernel takes is ours, on
//! whichever thread it runs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// The system's allocator, counting.
pub struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);
static KEEPS_STACKS: AtomicBool = AtomicBool::new(false);
static STACKS: Mutex<Option<HashMap<Stack, (Backtrace, usize)>>> = Mutex::new(None);

/// Addresses of the innermost functions, for telling stacks apart: to name them takes a thousand times longer.
type Stack = [usize; 48];

unsafe extern "C" {
    fn _Unwind_Backtrace(each: extern "C" fn(*mut c_void, *mut c_void) -> i32, argument: *mut c_void) -> i32;
    fn _Unwind_GetIP(frame: *mut c_void) -> usize;
}

fn stack() -> Stack {
    extern "C" fn each(frame: *mut c_void, argument: *mut c_void) -> i32 {
        // SAFETY: the argument of the only call below, which outlives it.
        let (stack, count) = unsafe { &mut *argument.cast::<(Stack, usize)>() };
        let Some(slot) = stack.get_mut(*count) else { return 5 };
        // SAFETY: the unwinder's own frame.
        *slot = unsafe { _Unwind_GetIP(frame) };
        *count += 1;
        0
    }
    let mut found: (Stack, usize) = ([0; 48], 0);
    // SAFETY: the callback only reads addresses.
    unsafe { _Unwind_Backtrace(each, (&raw mut found).cast()) };
    found.0
}

thread_local! {
    // Keeping a stack allocates, too.
    static IS_COUNTING: Cell<bool> = const { Cell::new(false) };
}

/// Crates whose allocations are made for whoever calls them.
const CONTAINERS: [&str; 4] = ["hashbrown", "smallvec", "arrayvec", "bytemuck"];

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
        let key = stack();
        if let Some(stacks) = &mut *STACKS.lock().unwrap_or_else(PoisonError::into_inner) {
            stacks.entry(key).or_insert_with(|| (Backtrace::force_capture(), 0)).1 += 1;
        }
        IS_COUNTING.set(false);
    }
}

/// Allocations of the process so far, where [`Counting`] is its allocator.
pub fn count() -> u64 {
    COUNT.load(Relaxed)
}

/// An allocation's owner, and the innermost function of the owner's that made it.
pub type Site = (String, String);

/// How many allocations `work` makes on all threads, by owner and function. It needs a platform that unwinds as Linux and macOS do.
pub fn by_owner<T>(work: impl FnOnce() -> T) -> (T, BTreeMap<Site, usize>) {
    *STACKS.lock().unwrap_or_else(PoisonError::into_inner) = Some(HashMap::new());
    KEEPS_STACKS.store(true, Relaxed);
    let result = work();
    KEEPS_STACKS.store(false, Relaxed);
    let stacks = STACKS.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
    let mut sites = BTreeMap::new();
    for (stack, count) in stacks.values() {
        *sites.entry(owner(&stack.to_string())).or_insert(0) += count;
    }
    (result, sites)
}

/// Allocations of Everstep's own crates among `sites`.
pub fn ours(sites: &BTreeMap<Site, usize>) -> usize {
    sites.iter().filter(|((owner, _), _)| owner.starts_with("everstep")).map(|(_, count)| count).sum()
}

/// The innermost function of a stack that is neither Rust's own nor a container's. Crates are told by where their sources lie:
/// debug information need not have a function's whole path.
fn owner(stack: &str) -> Site {
    let mut function = "";
    for line in stack.lines().map(str::trim_start) {
        let Some(place) = line.strip_prefix("at ") else {
            function =
                line.split_once(": ").filter(|(number, _)| number.parse::<usize>().is_ok()).map_or(line, |(_, f)| f);
            continue;
        };
        let name = crate_of(place);
        if !name.is_empty() && !CONTAINERS.contains(&name) {
            return (name.into(), function.into());
        }
    }
    ("unknown".into(), String::new())
}

/// The crate that a file is of: one of this workspace's, or one that was fetched, `name-1.2.3`. Empty for Rust's own.
fn crate_of(place: &str) -> &str {
    if let Some((_, rest)) = place.split_once("/registry/src/") {
        let package = rest.split('/').nth(1).unwrap_or_default();
        return package.rsplit_once('-').map_or(package, |(name, _)| name);
    }
    place.split("crates/").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_is_its_innermost_crates() {
        let stack = "   0: alloc\n             at ./benches/src/allocations.rs:60:9\n   1: grow_one\n             at \
                     /rustc/0a1b/library/alloc/src/raw_vec.rs:1:2\n      push\n             at \
                     /cargo/registry/src/index/gemm-f32-0.19.0/src/lib.rs:3:4\n   2: everstep_device::run\n             at \
                     ./crates/everstep-device/src/device.rs:5:6";
        assert_eq!(owner(stack), ("gemm-f32".into(), "push".into()));
        let inlined = stack.replace("gemm-f32-0.19.0", "smallvec-1.15.1");
        assert_eq!(owner(&inlined), ("everstep-device".into(), "everstep_device::run".into()));
        assert_eq!(owner("  1: malloc\n"), ("unknown".into(), String::new()));
    }
}
