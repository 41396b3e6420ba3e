//! One plain function, compiled for several instruction sets.
//!
//! The CPU engine contains no intrinsics outside of `tile_avx512.rs` but those of [`fetch`]. A loop is written once, in safe Rust, and the [`simd!`] macro compiles it
//! three times: for the target's baseline, for AVX2 and for AVX-512. LLVM vectorises each copy to the width it is
//! allowed to use, and a call runs the best copy that the processor supports.
//!
//! All copies give the same bits: Rust neither reorders nor contracts floating-point operations (the `fma` feature
//! only permits fused operations that the source asks for, and no body may ask for one), so the instruction set
//! changes how many elements one instruction handles and nothing else.

use std::sync::atomic::{AtomicU8, Ordering};

/// The instruction sets that a function written with `simd!` is compiled for, from the narrowest to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Level {
    /// What every processor of the target architecture has (SSE2 on x86-64).
    Baseline = 1,
    /// AVX2, FMA and BMI2: 8 f32 lanes.
    Avx2 = 2,
    /// AVX-512 F, BW, DQ and VL: 16 f32 lanes.
    Avx512 = 3,
}

/// The level found by the first call of [`level`]; 0 until then.
static DETECTED: AtomicU8 = AtomicU8::new(0);

/// The widest level this processor supports: detected once, the same for the whole process.
#[inline]
pub(crate) fn level() -> Level {
    let level = match DETECTED.load(Ordering::Relaxed) {
        3 => Level::Avx512,
        2 => Level::Avx2,
        1 => Level::Baseline,
        _ => remember(detect()),
    };
    #[cfg(test)]
    let level = limit::apply(level);
    level
}

/// Stores a detected level. Two threads that race here store the same value.
#[cold]
fn remember(level: Level) -> Level {
    DETECTED.store(level as u8, Ordering::Relaxed);
    level
}

/// Asks the memory for cache lines from an element on, wherever it lies: nothing is read, so an address outside of any slice
/// does no harm. The hardware fetches ahead by itself only within a page, and only where it sees a pattern.
#[inline(always)]
pub(crate) fn fetch(from: *const f32, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..lines {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every processor of this architecture has the instruction, which neither reads nor faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(line * LINE).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, lines);
}

/// Elements of a cache line.
pub(crate) const LINE: usize = 16;

/// Asks for all of a slice, which is worth it where other work follows before it is read.
#[inline(always)]
pub(crate) fn fetch_all(values: &[f32]) {
    fetch(values.as_ptr(), values.len().div_ceil(LINE));
}

/// Asks the processor. Each level requires the features of the one below, so that the order of [`Level`] is true.
fn detect() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        if !(avx2 && is_x86_feature_detected!("bmi2")) {
            return Level::Baseline;
        }
        let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        if avx512 && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl") {
            return Level::Avx512;
        }
        Level::Avx2
    }
    #[cfg(not(target_arch = "x86_64"))]
    Level::Baseline
}

/// Compiles each plain function in it once per [`Level`] and calls the widest copy that the processor supports.
///
/// Arguments are `name: Type` (no patterns, no generics, no explicit lifetimes). Functions that the body calls must
/// be `#[inline(always)]`, or they may be compiled for the baseline only. That holds for a function passed on as an
/// `impl Fn` too: the call goes through a shim that LLVM inlines only if the function is small, so large ones are
/// called by name in the loop itself. The call of the whole costs an atomic load and a predictable branch.
///
/// ```ignore
/// simd! {
///     /// Adds `bias` to every element.
///     pub(crate) fn add_scalar(values: &mut [f32], bias: f32) {
///         for value in values {
///             *value += bias;
///         }
///     }
/// }
/// ```
macro_rules! simd {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $(-> $output:ty)? $body:block
    )+) => {$(
        $(#[$attribute])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name($($argument: $kind),*) $(-> $output)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn simd_body($($argument: $kind),*) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,bmi2")]
                #[allow(clippy::too_many_arguments)]
                fn simd_avx2($($argument: $kind),*) $(-> $output)? {
                    simd_body($($argument),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")]
                #[allow(clippy::too_many_arguments)]
                fn simd_avx512($($argument: $kind),*) $(-> $output)? {
                    simd_body($($argument),*)
                }
                match $crate::cpu::simd::level() {
                    // SAFETY: `level` returns these only on a processor that has all of the features.
                    $crate::cpu::simd::Level::Avx512 => unsafe { simd_avx512($($argument),*) },
                    // SAFETY: as above.
                    $crate::cpu::simd::Level::Avx2 => unsafe { simd_avx2($($argument),*) },
                    $crate::cpu::simd::Level::Baseline => simd_body($($argument),*),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            simd_body($($argument),*)
        }
    )+};
}
pub(crate) use simd;

/// Lets a test run the narrower copies: a limit on the level, for the calling thread alone.
#[cfg(test)]
pub(crate) mod limit {
    use super::Level;
    use std::cell::Cell;

    thread_local!(static LIMIT: Cell<Level> = const { Cell::new(Level::Avx512) });

    /// The narrower of the processor's level and this thread's limit.
    pub(super) fn apply(level: Level) -> Level {
        level.min(LIMIT.get())
    }

    /// Runs `work` on every level that the processor supports, the baseline first. Work that `work` hands to other
    /// threads is not limited.
    pub(crate) fn on_each_level<T>(mut work: impl FnMut() -> T) -> Vec<(Level, T)> {
        let widest = super::level();
        let levels = [Level::Baseline, Level::Avx2, Level::Avx512];
        let results = levels.into_iter().filter(|level| *level <= widest).map(|level| {
            LIMIT.set(level);
            (level, work())
        });
        let results = results.collect();
        LIMIT.set(Level::Avx512);
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    simd! {
        /// A body with an early return, a reference result and a slice argument.
        pub(crate) fn first_negative(values: &[f32], otherwise: usize,) -> usize {
            for (index, value) in values.iter().enumerate() {
                if *value < 0.0 {
                    return index;
                }
            }
            otherwise
        }
    }

    simd! {
        fn multiply_add(values: &mut [f32], factor: f32, addend: f32) {
            for value in values {
                *value = *value * factor + addend;
            }
        }
    }

    #[test]
    fn levels_are_ordered_and_stable() {
        assert!(Level::Baseline < Level::Avx2 && Level::Avx2 < Level::Avx512);
        assert_eq!(level(), detect());
        assert_eq!(level(), level());
    }

    #[test]
    fn each_level_runs_once_and_the_limit_ends() {
        let levels: Vec<Level> = limit::on_each_level(level)
            .into_iter()
            .map(|(limit, seen)| {
                assert_eq!(limit, seen);
                seen
            })
            .collect();
        assert_eq!(levels[0], Level::Baseline);
        assert_eq!(levels.last(), Some(&level()));
    }

    #[test]
    fn returns_and_slices_pass_through() {
        for (_, found) in limit::on_each_level(|| first_negative(&[1.0, 2.0, -3.0], 9)) {
            assert_eq!(found, 2);
        }
        assert_eq!(first_negative(&[], 9), 9);
    }

    /// With contraction, `x * factor + addend` would lose the rounding of the product and give other bits.
    #[test]
    fn nothing_is_contracted() {
        let start: Vec<f32> = (0..1000).map(|index| 1.0 + index as f32 * 1.234_567e-3).collect();
        let results = limit::on_each_level(|| {
            let mut values = start.clone();
            multiply_add(&mut values, 1.000_123, -1.0);
            values
        });
        for (level, values) in &results {
            for (value, first) in values.iter().zip(&results[0].1) {
                assert_eq!(value.to_bits(), first.to_bits(), "{level:?}");
            }
        }
    }
}
