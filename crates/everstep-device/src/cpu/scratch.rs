//! Memory for what kernels compute on the way: given back and used again, so that a captured step allocates none.
//!
//! Pieces come in classes of size and belong to no thread: which thread takes which task changes from step to step, and a thread's
//! own would still grow when every task has long been run. Where a class has none left, it gets as many as all threads
//! could want at once.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::Pod;

/// Bytes of the smallest class: a page.
const SMALLEST: usize = 4096;
/// Up to here a thread may want several pieces of a class at once.
const SMALL: usize = 256 << 10;
/// Past this a piece is for one thread to prepare and all to read: there is one of it.
const LARGE: usize = 4 << 20;

/// A cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

type Piece = Box<[Line]>;

/// Pieces that nobody has: of [`SMALLEST`] bytes, of twice as many, and so on.
static FREE: Mutex<[Vec<Piece>; usize::BITS as usize]> = Mutex::new([const { Vec::new() }; usize::BITS as usize]);

fn free() -> MutexGuard<'static, [Vec<Piece>; usize::BITS as usize]> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Elements of a piece of memory, which is given back when this is dropped.
pub(super) struct Scratch<T> {
    piece: Piece,
    class: usize,
    count: usize,
    elements: PhantomData<T>,
}

/// Memory of this many elements, whatever they hold, from the beginning of a cache line on.
pub(super) fn take<T: Pod>(count: usize) -> Scratch<T> {
    let bytes = (count * size_of::<T>()).next_power_of_two().max(SMALLEST);
    let class = (bytes / SMALLEST).trailing_zeros() as usize;
    // Apart, so that the lock is open again when there are to be more.
    let piece = free()[class].pop();
    Scratch { piece: piece.unwrap_or_else(|| more(class, bytes)), class, count, elements: PhantomData }
}

/// As [`take`], all zero.
pub(super) fn zeroed<T: Pod>(count: usize) -> Scratch<T> {
    let mut scratch = take(count);
    scratch.fill(T::zeroed());
    scratch
}

/// Memory that holds these.
pub(super) fn filled<T: Pod>(values: impl ExactSizeIterator<Item = T>) -> Scratch<T> {
    let mut scratch = take(values.len());
    scratch.iter_mut().zip(values).for_each(|(to, value)| *to = value);
    scratch
}

/// Gives back to the system what nobody has.
pub(super) fn trim() {
    let mut pieces = free();
    pieces.iter_mut().for_each(|class| *class = Vec::new());
}

/// A new piece, and spare ones.
fn more(class: usize, bytes: usize) -> Piece {
    let count = match bytes {
        _ if bytes <= SMALL => 4 * super::threads(),
        _ if bytes <= LARGE => super::threads(),
        _ => 1,
    };
    let piece = || vec![Line([0; 64]); bytes / 64].into_boxed_slice();
    let spare: Vec<Piece> = (1..count).map(|_| piece()).collect();
    let pieces = &mut free()[class];
    pieces.extend(spare);
    // So that giving them back does not allocate.
    pieces.reserve(count);
    piece()
}

impl<T: Pod> Deref for Scratch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.piece)[..self.count]
    }
}

impl<T: Pod> DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.piece)[..self.count]
    }
}

impl<T> Drop for Scratch<T> {
    fn drop(&mut self) {
        let piece = std::mem::take(&mut self.piece);
        free()[self.class].push(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // That they are used again is for the test of allocations to see: here others may trim in between.
    #[test]
    fn pieces_are_apart_and_begin_at_cache_lines() {
        let (mut first, second) = (zeroed::<f32>(1000), filled((0..1000).map(|value| value as f32)));
        first.fill(-1.0);
        trim();
        let third = zeroed::<f32>(1000);
        assert!(first.iter().all(|value| *value == -1.0) && third.iter().all(|value| *value == 0.0));
        assert!(second.iter().enumerate().all(|(at, value)| *value == at as f32));
        assert!([&first, &second, &third].iter().all(|piece| piece.as_ptr().addr().is_multiple_of(64)));
        assert!(take::<f32>(0).is_empty());
    }
}
