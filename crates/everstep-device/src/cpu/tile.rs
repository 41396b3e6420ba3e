//! The inner loop of products and convolutions where the processor has AVX-512: a tile of the result in registers.
//!
//! A tile has up to 8 rows and 3 vectors of columns: 24 sums, and for each step three loads of the right operand and eight
//! broadcasts of the left one for 24 fused multiply-adds, of which the processor starts two per cycle. Intrinsics say so,
//! in `tile_avx512.rs`, because nothing else keeps the sums in registers for certain; other processors have the `gemm` crate.
//!
//! An element is the sum of its products in the order of the steps, rounded once each, whatever tile it lies in.

/// Rows of a tile.
pub(super) const ROWS: usize = 8;
/// Columns of a vector.
pub(super) const LANES: usize = 16;
/// Columns of a tile.
pub(super) const COLUMNS: usize = 3 * LANES;

/// Where the row of the right operand lies that belongs to a step.
pub(super) trait Steps: Copy {
    /// Elements from the first row's first to this row's.
    ///
    /// # Safety
    /// There are more than `step` of them.
    unsafe fn at(self, step: usize) -> usize;
}

/// Rows one after the other, so far apart.
#[derive(Clone, Copy)]
pub(super) struct Apart(pub(super) usize);

impl Steps for Apart {
    #[inline(always)]
    unsafe fn at(self, step: usize) -> usize {
        step * self.0
    }
}

/// Rows at these places.
#[derive(Clone, Copy)]
pub(super) struct Places<'a>(pub(super) &'a [usize]);

impl Steps for Places<'_> {
    #[inline(always)]
    unsafe fn at(self, step: usize) -> usize {
        // SAFETY: by the caller's word.
        unsafe { *self.0.get_unchecked(step) }
    }
}

/// What is added to a tile's sums.
#[derive(Clone, Copy)]
pub(super) enum Bias {
    None,
    /// One for each column, whole vectors of them; of tiles that keep all columns.
    Columns(*const f32),
    /// One for each row.
    Rows(*const f32),
}

/// Which columns of a tile the result has.
pub(super) trait Columns: Copy {
    /// Whether there may be others between them: those that are kept then move together.
    const GAPS: bool;

    /// Those of a vector, by bits, and where the first of them lies in a row of the result.
    fn of(self, vector: usize) -> (u16, usize);
}

/// So many, and none behind them.
#[derive(Clone, Copy)]
pub(super) struct First(pub(super) usize);

impl Columns for First {
    const GAPS: bool = false;

    #[inline(always)]
    fn of(self, vector: usize) -> (u16, usize) {
        let count = self.0.saturating_sub(LANES * vector).min(LANES);
        (((1u32 << count) - 1) as u16, LANES * vector)
    }
}

/// These of each vector.
#[derive(Clone, Copy, Default)]
pub(super) struct Kept(pub(super) [(u16, usize); COLUMNS / LANES]);

impl Columns for Kept {
    const GAPS: bool = true;

    #[inline(always)]
    fn of(self, vector: usize) -> (u16, usize) {
        self.0[vector]
    }
}

/// What becomes of a tile's sums.
#[derive(Clone, Copy)]
pub(super) struct Finish {
    /// Whether they are added to what the result holds.
    pub(super) add: bool,
    /// Then added.
    pub(super) bias: Bias,
    /// Whether what is not positive then becomes 0; a NaN stays.
    pub(super) relu: bool,
}

/// A tile's operands. Left: step after step, the elements of its rows. Right: rows of whole vectors.
pub(super) struct Tile<S> {
    pub(super) steps: usize,
    pub(super) left: *const f32,
    /// Elements between the steps of the left operand.
    pub(super) left_step: usize,
    pub(super) right: *const f32,
    pub(super) places: S,
    /// Elements that the right operand is fetched ahead.
    pub(super) ahead: usize,
    pub(super) result: *mut f32,
    /// Elements between the rows of the result.
    pub(super) distance: usize,
}

/// The most taps of a tile of [`Taps`]: 27 sums and 3 vectors are 30 of 32 registers.
pub(super) const TAPS: usize = 9;

/// Operands of a tile that adds up over positions: sums\[tap, column\] += over positions left\[position + place\] right\[position,
/// column\].
pub(super) struct Taps<'a> {
    /// Rows, and positions of a row.
    pub(super) size: (usize, usize),
    /// The first position of the first row; rows are `pitch` elements apart.
    pub(super) left: *const f32,
    pub(super) pitch: usize,
    /// Where each tap lies, from a position on.
    pub(super) places: &'a [usize],
    /// Position after position, its vectors.
    pub(super) right: *const f32,
    /// Rows of whole vectors, so many elements apart.
    pub(super) sums: *mut f32,
    pub(super) distance: usize,
}

/// Adds a tile of `vectors` vectors.
///
/// # Safety
/// The level is [`super::simd::Level::Avx512`]. There are 1 to [`TAPS`] places and 1 to 3 vectors, all that the tile reads is
/// there, and no other thread touches the sums.
#[inline]
pub(super) unsafe fn add_taps(tile: &Taps<'_>, vectors: usize) {
    debug_assert!((1..=TAPS).contains(&tile.places.len()) && (1..=3).contains(&vectors));
    #[cfg(target_arch = "x86_64")]
    // SAFETY: by the caller's word.
    unsafe {
        super::tile_avx512::add_taps(tile, vectors)
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (tile, vectors);
}

/// result = left right, for a tile of these rows and vectors of columns, finished as told.
///
/// # Safety
/// The level is [`super::simd::Level::Avx512`]. `left` holds the rows' elements of every step, `right` the vectors, at the place of every
/// step, `result` the columns that are kept, which no other thread touches. Rows are 1 to [`ROWS`], vectors 1 to 3.
#[inline]
pub(super) unsafe fn multiply<S: Steps, C: Columns>(tile: &Tile<S>, size: (usize, usize), columns: C, finish: Finish) {
    debug_assert!((1..=ROWS).contains(&size.0) && (1..=COLUMNS / LANES).contains(&size.1));
    #[cfg(target_arch = "x86_64")]
    // SAFETY: by the caller's word.
    unsafe {
        super::tile_avx512::multiply(tile, size, columns, finish)
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (tile, size, columns, finish);
}

/// `to[step * width + lane] = from[lane * distance + step]` for 16 lanes and 16 steps.
///
/// # Safety
/// The level is [`super::simd::Level::Avx512`], and both hold these elements.
#[inline]
pub(super) unsafe fn transpose_16(from: *const f32, distance: usize, to: *mut f32, width: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: by the caller's word.
    unsafe {
        super::tile_avx512::transpose_16(from, distance, to, width)
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, distance, to, width);
}

/// `to[step * 8 + lane] = from[lane * distance + step]` for 8 lanes and 32 steps.
///
/// # Safety
/// As [`transpose_16`].
#[inline]
pub(super) unsafe fn transpose_8(from: *const f32, distance: usize, to: *mut f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: by the caller's word.
    unsafe {
        super::tile_avx512::transpose_8(from, distance, to)
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, distance, to);
}
