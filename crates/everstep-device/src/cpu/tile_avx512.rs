//! The tiles of `tile.rs` in the intrinsics of AVX-512.

use std::arch::x86_64::{
    __m512, _CMP_LE_OQ, _MM_HINT_T0, _mm_prefetch, _mm256_storeu_ps, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
    _mm512_castps512_ps256, _mm512_cmp_ps_mask, _mm512_extractf32x8_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_compress_ps, _mm512_maskz_loadu_ps, _mm512_maskz_mov_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps,
    _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use super::tile::{Bias, Columns, Finish, LANES, Steps, Taps, Tile};

/// Steps that the left operand is fetched ahead.
const AHEAD: usize = 32;

/// # Safety
/// As [`multiply`], of M rows and V vectors.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn fixed<const M: usize, const V: usize, S: Steps, C: Columns>(tile: &Tile<S>, columns: C, finish: Finish) {
    let Tile { steps, left, left_step, right, places, ahead, result, distance } = *tile;
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    if finish.add || C::GAPS {
        for row in 0..M {
            for v in 0..V {
                _mm_prefetch::<_MM_HINT_T0>(result.wrapping_add(row * distance + columns.of(v).1).cast());
            }
        }
    }
    for step in 0..steps {
        // SAFETY: both operands have so many steps; what is fetched ahead is never looked at.
        unsafe {
            let (left, right) = (left.add(step * left_step), right.add(places.at(step)));
            _mm_prefetch::<_MM_HINT_T0>(left.wrapping_add(AHEAD * left_step).cast());
            let vectors: [__m512; V] = std::array::from_fn(|v| {
                _mm_prefetch::<_MM_HINT_T0>(right.wrapping_add(ahead + LANES * v).cast());
                _mm512_loadu_ps(right.add(LANES * v))
            });
            for (row, sums) in sums.iter_mut().enumerate() {
                let factor = _mm512_set1_ps(*left.add(row));
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = _mm512_fmadd_ps(factor, vector, *sum);
                }
            }
        }
    }
    // Row by row in the source: sums that a loop reaches by its index would lie in memory, all the time.
    macro_rules! finish {
        ($($row:literal)+) => {
            $(if let Some(sums) = sums.get($row) {
                for (v, sum) in sums.iter().enumerate() {
                    let (kept, place) = columns.of(v);
                    let (mut mask, mut value) = (kept, *sum);
                    if C::GAPS {
                        mask = ((1u32 << kept.count_ones()) - 1) as u16;
                        value = _mm512_maskz_compress_ps(kept, value);
                    }
                    // SAFETY: the mask leaves out what is not kept; the bias has whole vectors, or a row's.
                    unsafe {
                        let at = result.add($row * distance).wrapping_add(place);
                        if finish.add {
                            value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), value);
                        }
                        match finish.bias {
                            Bias::None => {}
                            Bias::Columns(bias) => value = _mm512_add_ps(value, _mm512_loadu_ps(bias.add(LANES * v))),
                            Bias::Rows(bias) => value = _mm512_add_ps(value, _mm512_set1_ps(*bias.add($row))),
                        }
                        if finish.relu {
                            let zero = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(value, _mm512_setzero_ps());
                            value = _mm512_maskz_mov_ps(!zero, value);
                        }
                        _mm512_mask_storeu_ps(at, mask, value);
                    }
                }
            })+
        };
    }
    finish!(0 1 2 3 4 5 6 7);
}

/// # Safety
/// As [`super::tile::multiply`].
#[inline]
pub(super) unsafe fn multiply<S: Steps, C: Columns>(tile: &Tile<S>, size: (usize, usize), columns: C, finish: Finish) {
    macro_rules! choose {
        ($($m:literal)+) => {
            match size {
                $(
                    // SAFETY: by the caller's word.
                    ($m, 1) => unsafe { fixed::<$m, 1, S, C>(tile, columns, finish) },
                    // SAFETY: as above.
                    ($m, 2) => unsafe { fixed::<$m, 2, S, C>(tile, columns, finish) },
                    // SAFETY: as above.
                    ($m, _) => unsafe { fixed::<$m, 3, S, C>(tile, columns, finish) },
                )+
                _ => {}
            }
        };
    }
    choose!(1 2 3 4 5 6 7 8);
}

/// # Safety
/// As [`super::tile::add_taps`], of M places and V vectors.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn fixed_taps<const M: usize, const V: usize>(tile: &Taps<'_>) {
    let Taps { size: (rows, width), left, pitch, places, right, sums: result, distance } = *tile;
    let Some(places) = places.first_chunk::<M>() else { return };
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    for row in 0..rows {
        // SAFETY: rows of the left operand and of positions, by the caller's word.
        let (left, right) = unsafe { (left.add(row * pitch), right.add(row * width * V * LANES)) };
        for at in 0..width {
            // SAFETY: as above.
            unsafe {
                let (left, right) = (left.add(at), right.add(at * V * LANES));
                let vectors: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(right.add(LANES * v)));
                for (sums, place) in sums.iter_mut().zip(places) {
                    let factor = _mm512_set1_ps(*left.add(*place));
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        *sum = _mm512_fmadd_ps(factor, vector, *sum);
                    }
                }
            }
        }
    }
    for (tap, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            // SAFETY: rows of whole vectors.
            unsafe {
                let at = result.add(tap * distance + LANES * v);
                _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), *sum));
            }
        }
    }
}

/// # Safety
/// As [`super::tile::add_taps`].
#[inline]
pub(super) unsafe fn add_taps(tile: &Taps<'_>, vectors: usize) {
    macro_rules! choose {
        ($($m:literal)+) => {
            match (tile.places.len(), vectors) {
                $(
                    // SAFETY: by the caller's word.
                    ($m, 1) => unsafe { fixed_taps::<$m, 1>(tile) },
                    // SAFETY: as above.
                    ($m, 2) => unsafe { fixed_taps::<$m, 2>(tile) },
                    // SAFETY: as above.
                    ($m, _) => unsafe { fixed_taps::<$m, 3>(tile) },
                )+
                _ => {}
            }
        };
    }
    choose!(1 2 3 4 5 6 7 8 9);
}

/// The transpose of a matrix of 16 rows, each in a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512; 16]) -> [__m512; 16] {
    // Pairs of elements, pairs of pairs, and then blocks of four within the rows.
    let pairs: [__m512; 16] = std::array::from_fn(|at| {
        let (a, b) = (rows[at & !1], rows[at | 1]);
        if at % 2 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) }
    });
    let fours: [__m512; 16] = std::array::from_fn(|at| {
        // Of four rows: elements 0, 1, 2, 3 of each block.
        let (first, element) = (at / 4 * 4, at % 4);
        let (a, b) = (pairs[first + element / 2], pairs[first + 2 + element / 2]);
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        _mm512_castpd_ps(if element % 2 == 0 { _mm512_unpacklo_pd(a, b) } else { _mm512_unpackhi_pd(a, b) })
    });
    let eights: [__m512; 16] = std::array::from_fn(|at| {
        // Of eight rows: blocks 0 and 2, or 1 and 3, of element at % 4.
        let (half, odd, element) = (at / 8, at / 4 % 2, at % 4);
        let (a, b) = (fours[half * 8 + element], fours[half * 8 + 4 + element]);
        if odd == 0 { _mm512_shuffle_f32x4::<0x88>(a, b) } else { _mm512_shuffle_f32x4::<0xdd>(a, b) }
    });
    std::array::from_fn(|at| {
        let (block, element) = (at / 4, at % 4);
        let (a, b) = (eights[block % 2 * 4 + element], eights[8 + block % 2 * 4 + element]);
        if block < 2 { _mm512_shuffle_f32x4::<0x88>(a, b) } else { _mm512_shuffle_f32x4::<0xdd>(a, b) }
    })
}

/// `to[step * width + lane] = from[lane * distance + step]` for 16 lanes and 16 steps.
///
/// # Safety
/// The processor has AVX-512 F. Both hold these elements.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose_16(from: *const f32, distance: usize, to: *mut f32, width: usize) {
    // SAFETY: by the caller's word.
    let rows = std::array::from_fn(|lane| unsafe { _mm512_loadu_ps(from.add(lane * distance)) });
    for (step, vector) in transposed(rows).into_iter().enumerate() {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to.add(step * width), vector) };
    }
}

/// `to[step * 8 + lane] = from[lane * distance + step]` for 8 lanes and 32 steps.
///
/// # Safety
/// The processor has AVX-512 F and DQ. Both hold these elements.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) unsafe fn transpose_8(from: *const f32, distance: usize, to: *mut f32) {
    // Steps from 16 on are rows of their own.
    // SAFETY: by the caller's word.
    let rows = std::array::from_fn(|row| unsafe { _mm512_loadu_ps(from.add(row % 8 * distance + row / 8 * 16)) });
    for (step, vector) in transposed(rows).into_iter().enumerate() {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_ps(to.add(step * 8), _mm512_castps512_ps256(vector));
            _mm256_storeu_ps(to.add((step + 16) * 8), _mm512_extractf32x8_ps::<1>(vector));
        }
    }
}
