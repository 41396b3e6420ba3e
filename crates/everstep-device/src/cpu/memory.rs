//! Memory of the CPU engine, and shared access to it from disjoint blocks.

use std::alloc::{Layout as Allocation, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ptr::NonNull;

use smallvec::SmallVec;

use crate::layout::{MAX_RANK, collapse};
use crate::{Layout, Shape};

/// A piece of memory of 32-bit words, aligned for the widest vector registers and for cache lines.
#[derive(Debug)]
pub(super) struct Memory {
    words: NonNull<u32>,
    count: usize,
    // What the allocator gave; the words begin at its first aligned byte.
    start: NonNull<u8>,
}

// SAFETY: a `Memory` owns its words, as a `Vec` does.
unsafe impl Send for Memory {}
// SAFETY: as above; shared access is reading.
unsafe impl Sync for Memory {}

impl Memory {
    const ALIGN: usize = 64;
    /// A large page of the usual processors, which from twice as many bytes on a piece begins at and asks for.
    const LARGE_PAGE: usize = 2 << 20;

    /// What the first word of a piece lies at a multiple of.
    fn align(bytes: usize) -> usize {
        if bytes >= 2 * Self::LARGE_PAGE { Self::LARGE_PAGE } else { Self::ALIGN }
    }

    /// Aligned by hand: asked for zeroed memory of a larger alignment than its own, the allocator writes the zeros, which
    /// for a large piece takes seconds, where the system has pages of zeros at hand that cost nothing until they are used.
    fn allocation(bytes: usize) -> Option<Allocation> {
        Allocation::from_size_align(bytes.checked_add(Self::align(bytes))?, 16).ok()
    }

    /// Zeroed memory of at least `bytes` bytes; `None` where the system has none left.
    pub(super) fn new(bytes: usize) -> Option<Self> {
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(Self::allocation(bytes)?) })?;
        let ahead = start.addr().get().next_multiple_of(Self::align(bytes)) - start.addr().get();
        // SAFETY: fewer bytes than the alignment, and so many were asked for on top.
        let words = unsafe { start.add(ahead) }.cast();
        if bytes >= 2 * Self::LARGE_PAGE {
            ask_for_large_pages(words, bytes / Self::LARGE_PAGE * Self::LARGE_PAGE);
        }
        Some(Self { words, count: bytes / 4, start })
    }

    pub(super) fn pointer(&self) -> *mut u32 {
        self.words.as_ptr()
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(allocation) = Self::allocation(self.count * 4) {
            // SAFETY: allocated in `new` with the same layout: sizes are multiples of 4.
            unsafe { dealloc(self.start.as_ptr(), allocation) };
        }
    }
}

/// Large pages need fewer look-ups of addresses: passes over arrays that no cache holds take a tenth less time. Whole pages
/// alone, so that no more memory is used than is asked for. Where the system has none, the pages are small ones.
fn ask_for_large_pages(start: NonNull<u32>, bytes: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: these pages are the caller's, and the advice does not change what they hold.
    let _ = unsafe { rustix::mm::madvise(start.as_ptr().cast(), bytes, rustix::mm::Advice::LinuxHugepage) };
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

/// A mutable slice that threads write disjoint parts of.
pub(super) struct Writer<'a, T = u32> {
    pointer: *mut T,
    count: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: the unsafe methods demand disjoint parts of their callers.
unsafe impl<T: Send> Send for Writer<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Writer<'_, T> {}

impl<'a, T: Copy> Writer<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { pointer: slice.as_mut_ptr(), count: slice.len(), slice: PhantomData }
    }

    /// The first element.
    pub(super) fn pointer(&self) -> *mut T {
        self.pointer
    }

    /// The elements `start..start + length`.
    ///
    /// # Safety
    /// No other live reference may overlap them.
    #[expect(clippy::mut_from_ref, reason = "the caller vouches for disjointness")]
    pub(super) unsafe fn range(&self, start: usize, length: usize) -> &mut [T] {
        assert!(start.checked_add(length).is_some_and(|end| end <= self.count), "a block outside its output");
        // SAFETY: within the slice, and disjoint by the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), length) }
    }

    /// Writes `values` at `start`, `start + stride`, ..
    ///
    /// # Safety
    /// No other live reference may overlap those elements.
    pub(super) unsafe fn scatter(&self, start: usize, stride: usize, values: &[T]) {
        let Some(last) = values.len().checked_sub(1) else { return };
        assert!(start + last * stride < self.count, "a block outside its output");
        for (index, value) in values.iter().enumerate() {
            // SAFETY: at most `start + last * stride`, checked above.
            unsafe { self.pointer.add(start + index * stride).write(*value) };
        }
    }
}

/// One value per axis.
pub(super) type Axes = SmallVec<[usize; MAX_RANK]>;
/// One value per operand of a command: as many as a GPU binds at once lie on the stack.
pub(super) type Operands<T> = SmallVec<[T; 8]>;

/// [`collapse`] for any number of layouts: the merged dimensions and each layout's strides over them.
pub(super) fn collapse_all(shape: &Shape, layouts: &[&Layout]) -> (Axes, Operands<Axes>) {
    let raw: Operands<_> = layouts.iter().map(|layout| layout.raw_strides()).collect();
    let mut dims = [1; MAX_RANK];
    let mut strides: Operands<_> = layouts.iter().map(|_| [0; MAX_RANK]).collect();
    let rank = collapse(shape, &raw, &mut dims, |axis, operand, stride| strides[operand][axis] = stride);
    (Axes::from_slice(&dims[..rank]), strides.iter().map(|s| Axes::from_slice(&s[..rank])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_zero_whatever_its_size() {
        let large = 2 * Memory::LARGE_PAGE;
        for bytes in [4, 256, large - 4, large, large + 260, 5 * Memory::LARGE_PAGE + 12] {
            let memory = Memory::new(bytes).unwrap();
            assert_eq!((memory.count(), memory.pointer().addr() % Memory::align(bytes)), (bytes / 4, 0));
            // SAFETY: the memory's words, which nothing else looks at.
            let words = unsafe { std::slice::from_raw_parts_mut(memory.pointer(), memory.count()) };
            assert!(words.iter().all(|word| *word == 0), "{bytes} bytes");
            words.fill(1);
        }
    }
}
