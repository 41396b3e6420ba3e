//! Convolution as matrix products: images unfolded into columns, a block of positions at a time, and columns folded back.

use std::ops::Range;

use super::conv::ConvGeometry;
use super::scratch;
use super::simd::simd;

/// Positions of a block of columns: as many rows of a product's left operand as `gemm` multiplies without first copying
/// the right one, and few enough to stay in a second-level cache.
const BLOCK: usize = 128;
/// Positions that the products handle at a time.
const LANES: usize = 16;

/// How many positions a block of columns has, of `positions` in all: blocks of one size, so that the last one is not a
/// small rest.
pub(super) fn block_of(positions: usize) -> usize {
    let blocks = positions.div_ceil(BLOCK).max(1);
    positions.div_ceil(blocks).next_multiple_of(LANES).min(positions).max(1)
}

/// The blocks of a range of positions.
pub(super) fn blocks(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(size).map(move |start| start..(start + size).min(end))
}

/// A range in parts of at most `most`, as even as whole numbers allow.
pub(super) fn even(count: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = count.div_ceil(most).max(1);
    (0..parts).map(move |part| part * count / parts..(part + 1) * count / parts)
}

/// Calls `work` with buffers of these sizes, whatever they hold.
pub(super) fn with_scratch(sizes: [usize; 3], work: impl FnOnce([&mut [f32]; 3])) {
    // Whole cache lines, so that each begins at one where the first does.
    let rounded = sizes.map(|size| size.next_multiple_of(LANES));
    let mut values = scratch::take(rounded.iter().sum());
    let (first, rest) = values.split_at_mut(rounded[0]);
    let (second, rest) = rest.split_at_mut(rounded[1]);
    work([&mut first[..sizes[0]], &mut second[..sizes[1]], &mut rest[..sizes[2]]]);
}

/// Stretches of a block's positions, each in one row of outputs: where it begins in the block, its row and first column
/// of outputs, its length.
#[inline(always)]
fn runs(g: &ConvGeometry, range: &Range<usize>) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let (width, count) = (g.output[1], range.end - range.start);
    let (mut row, mut first, mut at) = (range.start / width, range.start % width, 0);
    std::iter::from_fn(move || {
        let length = (width - first).min(count - at);
        let run = (at, row, first, length);
        (at, row, first) = (at + length, row + 1, 0);
        (length > 0).then_some(run)
    })
}

/// Copies a run of pixels that are neighbours, whole vectors at a time. What it writes past the run's end, within
/// `target`, is for the next run to overwrite.
#[inline(always)]
pub(super) fn copy_run(source: &[f32], target: &mut [f32], count: usize) {
    let mut at = 0;
    while at < count {
        match (target[at..].first_chunk_mut::<LANES>(), source[at..].first_chunk::<LANES>()) {
            (Some(target), Some(source)) => *target = *source,
            _ => return target[at..count].copy_from_slice(&source[at..count]),
        }
        at += LANES;
    }
}

/// Adds a run, whole vectors at a time as far as it goes.
#[inline(always)]
fn add_run(source: &[f32], target: &mut [f32]) {
    #[inline(always)]
    fn add<const N: usize>(source: &[f32; N], target: &mut [f32; N]) {
        for (target, source) in target.iter_mut().zip(source) {
            *target += *source;
        }
    }
    let (vectors, source) = source.as_chunks::<LANES>();
    let (targets, target) = target.as_chunks_mut::<LANES>();
    vectors.iter().zip(targets).for_each(|(source, target)| add(source, target));
    let (vectors, source) = source.as_chunks::<4>();
    let (targets, target) = target.as_chunks_mut::<4>();
    vectors.iter().zip(targets).for_each(|(source, target)| add(source, target));
    target.iter_mut().zip(source).for_each(|(target, source)| *target += *source);
}

/// The rows of the padded image that a block of positions meets: the first, and how many.
fn band(g: &ConvGeometry, range: &Range<usize>) -> (usize, usize) {
    let first = range.start / g.output[1] * g.stride[0];
    let last = (range.end - 1) / g.output[1] * g.stride[0] + (g.kernel[0] - 1) * g.dilation[0];
    (first, last + 1 - first)
}

/// Elements of the buffer that [`unfold`] and [`fold`] want beside the columns, for any block of `count` positions.
pub(super) fn band_size(g: &ConvGeometry, count: usize) -> usize {
    let rows = (count.div_ceil(g.output[1].max(1)) + 1) * g.stride[0] + g.kernel[0] * g.dilation[0];
    rows.min(g.input[0] + 2 * g.padding[0]) * (g.input[1] + 2 * g.padding[1])
}

/// The part of a band's rows that lies inside the image, as rows of the band.
fn rows_inside(g: &ConvGeometry, first: usize, rows: usize) -> Range<usize> {
    let start = g.padding[0].saturating_sub(first).min(rows);
    start..(g.input[0] + g.padding[0]).saturating_sub(first).clamp(start, rows)
}

simd! {
    /// `columns[channel, tap, position]` = the pixel that output `position` meets under the tap, 0 in the padding. Each
    /// channel's rows are first copied into a band with the padding around them, where no tap is a special case.
    pub(super) fn unfold(g: &ConvGeometry, planes: &[f32], range: Range<usize>, columns: &mut [f32], band_rows: &mut [f32]) {
        let (count, width) = (range.end - range.start, g.input[1] + 2 * g.padding[1]);
        let (first, rows) = band(g, &range);
        let inside = rows_inside(g, first, rows);
        let band = &mut band_rows[..rows * width];
        band.fill(0.0);
        for channel in 0..columns.len() / (count * g.taps()) {
            let plane = &planes[channel * g.pixels()..(channel + 1) * g.pixels()];
            for row in inside.clone() {
                let source = &plane[(first + row - g.padding[0]) * g.input[1]..][..g.input[1]];
                band[row * width + g.padding[1]..][..g.input[1]].copy_from_slice(source);
            }
            for tap in 0..g.taps() {
                let (tap_row, tap_column) = (tap / g.kernel[1] * g.dilation[0], tap % g.kernel[1] * g.dilation[1]);
                let start = (channel * g.taps() + tap) * count;
                for (at, row, column, length) in runs(g, &range) {
                    let place = (row * g.stride[0] + tap_row - first) * width + column * g.stride[1] + tap_column;
                    match g.stride[1] {
                        1 => copy_run(&band[place..], &mut columns[start + at..], length),
                        stride => {
                            let pixels = band[place..].iter().step_by(stride);
                            let target = &mut columns[start + at..start + at + length];
                            target.iter_mut().zip(pixels).for_each(|(target, pixel)| *target = *pixel);
                        }
                    }
                }
            }
        }
    }
}

simd! {
    /// Adds each column's elements to the pixels that [`unfold`] would have read them from, in a fixed order.
    pub(super) fn fold(g: &ConvGeometry, columns: &[f32], range: Range<usize>, planes: &mut [f32], band_rows: &mut [f32]) {
        let (count, width) = (range.end - range.start, g.input[1] + 2 * g.padding[1]);
        let (first, rows) = band(g, &range);
        let inside = rows_inside(g, first, rows);
        let band = &mut band_rows[..rows * width];
        for (channel, columns) in columns.chunks_exact(count * g.taps()).enumerate() {
            band.fill(0.0);
            for (tap, column) in columns.chunks_exact(count).enumerate() {
                let (tap_row, tap_column) = (tap / g.kernel[1] * g.dilation[0], tap % g.kernel[1] * g.dilation[1]);
                for (at, row, column_at, length) in runs(g, &range) {
                    let place = (row * g.stride[0] + tap_row - first) * width + column_at * g.stride[1] + tap_column;
                    let source = &column[at..at + length];
                    match g.stride[1] {
                        1 => add_run(source, &mut band[place..place + length]),
                        stride => {
                            let pixels = band[place..].iter_mut().step_by(stride);
                            pixels.zip(source).for_each(|(pixel, value)| *pixel += *value);
                        }
                    }
                }
            }
            let plane = &mut planes[channel * g.pixels()..(channel + 1) * g.pixels()];
            for row in inside.clone() {
                let target = &mut plane[(first + row - g.padding[0]) * g.input[1]..][..g.input[1]];
                add_run(&band[row * width + g.padding[1]..][..g.input[1]], target);
            }
        }
    }
}
