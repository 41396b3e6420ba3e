//! Convolution with a stride of 1 from tiles, without a matrix of columns.
//!
//! A band of rows is copied once with its padding. In it, a tap lies the same number of elements ahead of every output, if the
//! outputs are counted along the padded rows: so the right operand of a tile is the band itself, read from one place per channel
//! and tap. What is computed for the columns that lie in the padding (2 of 30, of a 3 x 3 kernel and images of 28) is dropped.
//!
//! The gradient of the input is the same convolution, of the gradient of the result with the kernel turned around.

use std::ops::Range;

use rayon::prelude::*;

use super::conv::ConvGeometry;
use super::conv_lower::{copy_run, even, with_scratch};
use super::matmul::{Matrix, activate};
use super::memory::Writer;
use super::product::interleave;
use super::scratch::{self, Scratch};
use super::simd::{Level, level, simd};
use super::tile::{self, COLUMNS, Finish, LANES, Places, ROWS, Tile};
use crate::functions::Activation;

/// Steps of a tile, at most: so the part of a band that a tile reads stays in the first-level cache for all outputs.
const DEPTH: usize = 320;
/// Positions whose sums are kept at a time, in elements of all outputs together.
const SUMS: usize = 1 << 15;
/// Elements of a band.
const BAND: usize = 1 << 16;
/// Elements of weights that are worth handing out.
const COPIED: usize = 1 << 14;

/// A convolution with a stride of 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Direct {
    batch: usize,
    groups: usize,
    /// Channels per group of what is read and of what is written.
    sources: usize,
    results: usize,
    source: [usize; 2],
    result: [usize; 2],
    kernel: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    /// Whether the kernel is turned around, and its channels exchanged.
    transposed: bool,
}

impl Direct {
    /// y from x; `None` where tiles are not for it.
    pub(super) fn forward(g: &ConvGeometry) -> Option<Self> {
        Self {
            batch: g.batch,
            groups: g.groups,
            sources: g.channels,
            results: g.outputs,
            source: g.input,
            result: g.output,
            kernel: g.kernel,
            padding: g.padding,
            dilation: g.dilation,
            transposed: false,
        }
        .checked(g)
    }

    /// dx from dy.
    pub(super) fn backward(g: &ConvGeometry) -> Option<Self> {
        let around = |axis: usize| (g.kernel[axis].saturating_sub(1) * g.dilation[axis]).checked_sub(g.padding[axis]);
        Self {
            batch: g.batch,
            groups: g.groups,
            sources: g.outputs,
            results: g.channels,
            source: g.output,
            result: g.input,
            kernel: g.kernel,
            padding: [around(0)?, around(1)?],
            dilation: g.dilation,
            transposed: true,
        }
        .checked(g)
    }

    fn checked(self, g: &ConvGeometry) -> Option<Self> {
        let empty = [self.batch, self.groups, self.sources, self.results, self.taps()].contains(&0)
            || self.source.contains(&0)
            || self.result.contains(&0);
        // As long as no more is dropped than is kept.
        let fits = suits(g) && !empty && self.pitch() < 2 * self.result[1];
        (fits && (0..2).all(|axis| self.reach(axis) + self.result[axis] == self.source[axis] + 2 * self.padding[axis]))
            .then_some(self)
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Elements from the first to the last tap.
    fn reach(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilation[axis]
    }

    /// Elements of a padded row.
    fn pitch(&self) -> usize {
        self.source[1] + 2 * self.padding[1]
    }

    /// The blocks of sources that make up the steps of a tile.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        even(self.sources, (DEPTH / self.taps()).max(1))
    }

    /// The weights of all groups in the order in which tiles read them: blocks of sources, in them panels of results, in them
    /// steps.
    fn weights(&self, weight: &[f32]) -> Scratch<f32> {
        let (taps, size) = (self.taps(), self.sources * self.results * self.taps());
        let mut packed = scratch::take(self.groups * size);
        for (group, packed) in packed.chunks_exact_mut(size).enumerate() {
            let weight = &weight[group * size..(group + 1) * size];
            let (result, source) =
                if self.transposed { (taps, self.results * taps) } else { (self.sources * taps, taps) };
            for block in self.blocks() {
                let depth = block.len() * taps;
                let packed = &mut packed[block.start * taps * self.results..][..depth * self.results];
                packed
                    .par_chunks_mut(ROWS * depth)
                    .with_min_len((COPIED / (ROWS * depth)).max(1))
                    .enumerate()
                    .for_each(|(panel, packed)| {
                        let (first, rows) = (panel * ROWS, packed.len() / depth);
                        for (step, packed) in packed.chunks_exact_mut(rows).enumerate() {
                            let tap = if self.transposed { taps - 1 - step % taps } else { step % taps };
                            let at = (block.start + step / taps) * source + tap;
                            let weight = weight[at + first * result..].iter().step_by(result);
                            packed.iter_mut().zip(weight).for_each(|(to, from)| *to = *from);
                        }
                    });
            }
        }
        packed
    }

    /// Where each step of a block of sources finds the right operand, in a band whose channels are `plane` elements.
    fn places(&self, sources: usize, plane: usize) -> Scratch<usize> {
        let place = |step: usize| {
            let (source, tap) = (step / self.taps(), step % self.taps());
            let (row, column) = (tap / self.kernel[1] * self.dilation[0], tap % self.kernel[1] * self.dilation[1]);
            source * plane + row * self.pitch() + column
        };
        scratch::filled((0..sources * self.taps()).map(place))
    }

    /// Rows of results that a task computes.
    fn task_rows(&self) -> usize {
        let (height, halo) = (self.result[0], self.reach(0));
        let room = BAND.max(4 * halo * self.sources * self.pitch()) / (self.sources * self.pitch());
        let shared = (height * self.batch * self.groups).div_ceil(4 * rayon::current_num_threads());
        room.saturating_sub(halo).min(shared).clamp(1, height)
    }

    /// y from x.
    pub(super) fn run(&self, x: &[f32], weight: &[f32], after: After<'_>, y: &mut [f32]) {
        let weights = self.weights(weight);
        let rows = self.task_rows();
        let bands = self.result[0].div_ceil(rows);
        let most = self.blocks().map(|block| block.len()).max().unwrap_or(0);
        let places = self.places(most, (rows + self.reach(0)) * self.pitch());
        let y = Writer::new(y);
        (0..self.batch * self.groups * bands).into_par_iter().with_max_len(1).for_each(|task| {
            let (plane, first) = (task / bands, task % bands * rows);
            let band = first..(first + rows).min(self.result[0]);
            self.band((x, &weights), &places, (plane, band, rows), after, &y);
        });
    }

    /// The results of some rows of an image and a group; `plane` counts both.
    fn band(
        &self,
        (x, weights): (&[f32], &[f32]),
        places: &[usize],
        (plane, rows, most): (usize, Range<usize>, usize),
        after: After<'_>,
        y: &Writer<'_, f32>,
    ) {
        let (pitch, size) = (self.pitch(), self.results * self.sources * self.taps());
        let weights = &weights[plane % self.groups * size..][..size];
        let channel = (most + self.reach(0)) * pitch;
        let outputs = (rows.len() - 1) * pitch + self.result[1];
        let most = (SUMS / self.results / COLUMNS).max(1) * COLUMNS;
        let count = most.min(outputs.next_multiple_of(COLUMNS));
        // A tile's vectors may reach beyond the last row.
        with_scratch([self.sources * channel + COLUMNS, self.results * count, 0], |[band, sums, _]| {
            self.pad(x, plane, &rows, (channel, band));
            for start in (0..outputs).step_by(count) {
                let here = count.min(outputs - start);
                for block in self.blocks() {
                    let weights = &weights[block.start * self.taps() * self.results..];
                    let band = &band[block.start * channel + start..];
                    self.tiles((weights, band), (&block, channel, here), places, (sums, count));
                }
                let kept = |end: usize| end / pitch * self.result[1] + (end % pitch).min(self.result[1]);
                let (from, length) = (rows.start * self.result[1] + kept(start), kept(start + here) - kept(start));
                for (result, sums) in sums.chunks_exact(count).enumerate() {
                    let channel = plane * self.results + result;
                    // SAFETY: blocks of positions of the channels of y are disjoint.
                    let to = unsafe { y.range(channel * self.result[0] * self.result[1] + from, length) };
                    let bias = after.bias.map_or(0.0, |bias| bias[channel % (self.groups * self.results)]);
                    keep(sums, (start % pitch, pitch, self.result[1]), bias, after.activation == Activation::Relu, to);
                    if after.activation != Activation::Relu {
                        activate(after.activation, to);
                    }
                }
            }
        });
    }

    /// The sums of all results at `count` neighbouring positions of the band, over a block of sources.
    fn tiles(
        &self,
        (weights, band): (&[f32], &[f32]),
        (block, channel, count): (&Range<usize>, usize, usize),
        places: &[usize],
        (sums, distance): (&mut [f32], usize),
    ) {
        let steps = block.len() * self.taps();
        let places = &places[..steps];
        let finish = Finish { add: block.start > 0, bias: std::ptr::null(), relu: false };
        assert!(weights.len() >= self.results * steps && sums.len() >= self.results * distance && count <= distance);
        assert!(band.len() >= places[steps - 1] + count.next_multiple_of(LANES), "a tile leaves its band");
        for column in (0..count).step_by(COLUMNS) {
            for row in (0..self.results).step_by(ROWS) {
                let tile = Tile {
                    steps,
                    left: weights[row * steps..].as_ptr(),
                    left_step: ROWS.min(self.results - row),
                    right: band[column..].as_ptr(),
                    places: Places(places),
                    ahead: channel,
                    result: sums[row * distance + column..].as_mut_ptr(),
                    distance,
                };
                let size = (ROWS.min(self.results - row), COLUMNS.min(count - column));
                // SAFETY: the assertions; `suits` knows the processor.
                unsafe { tile::multiply(&tile, size, finish) };
            }
        }
    }

    /// Copies the rows that some rows of results are computed from, with the padding around them.
    fn pad(&self, x: &[f32], plane: usize, rows: &Range<usize>, (channel, band): (usize, &mut [f32])) {
        let pixels = self.source[0] * self.source[1];
        let x = &x[plane * self.sources * pixels..(plane + 1) * self.sources * pixels];
        for (x, band) in x.chunks_exact(pixels).zip(band.chunks_exact_mut(channel)) {
            pad_rows(x, self.source, self.padding, rows.start..rows.end + self.reach(0), band);
        }
    }
}

/// Whether the processor has tiles, and the convolution a stride of 1.
fn suits(g: &ConvGeometry) -> bool {
    level() == Level::Avx512 && g.stride == [1, 1] && !g.is_matrix() && g.taps() > 0
}

simd! {
    /// Copies rows of an image as they lie in its padded form, where they are counted.
    fn pad_rows(x: &[f32], size: [usize; 2], padding: [usize; 2], rows: Range<usize>, to: &mut [f32]) {
        let [height, width] = size;
        let pitch = width + 2 * padding[1];
        for row in rows.clone() {
            let start = (row - rows.start) * pitch;
            match row.checked_sub(padding[0]).filter(|row| *row < height) {
                None => to[start..start + pitch].fill(0.0),
                Some(row) => {
                    to[start..start + padding[1]].fill(0.0);
                    // What a row writes too much, the zeros behind it and the next row overwrite.
                    copy_run(&x[row * width..], &mut to[start + padding[1]..], width);
                    to[start + padding[1] + width..start + pitch].fill(0.0);
                }
            }
        }
    }
}

/// What a convolution's sums go through.
#[derive(Clone, Copy)]
pub(super) struct After<'a> {
    /// One for each result of each group.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) activation: Activation,
}

simd! {
    /// Writes sums plus bias, through relu where asked for, without the columns that lie in the padding: (first column,
    /// columns of a row, columns that are kept). Whole vectors at a time: what a row writes too much, the next one overwrites.
    fn keep(sums: &[f32], row: (usize, usize, usize), bias: f32, relu: bool, to: &mut [f32]) {
        let (mut column, pitch, width) = row;
        let (mut from, mut at) = (0, 0);
        while at < to.len() {
            let length = width.saturating_sub(column).min(to.len() - at);
            for start in (0..length).step_by(LANES) {
                let (sums, to) = (&sums[from + start..], &mut to[at + start..]);
                match (sums.first_chunk::<LANES>(), to.first_chunk_mut::<LANES>()) {
                    (Some(sums), Some(to)) => {
                        for (to, sum) in to.iter_mut().zip(sums) {
                            let value = *sum + bias;
                            *to = if relu && value <= 0.0 { 0.0 } else { value };
                        }
                    }
                    _ => {
                        for (to, sum) in to.iter_mut().zip(sums).take(length - start) {
                            let value = *sum + bias;
                            *to = if relu && value <= 0.0 { 0.0 } else { value };
                        }
                    }
                }
            }
            at += length;
            from += pitch - column;
            column = 0;
        }
    }
}

/// The gradient of a weight from tiles: the taps of a channel are the rows, up to 48 outputs the columns, and the steps are the
/// positions.
pub(super) struct DirectWeight {
    geometry: ConvGeometry,
    /// Where the taps of a channel lie, from a position on.
    places: Scratch<usize>,
}

/// Positions of a block: with 32 outputs, 28 KiB.
const POSITIONS: usize = 224;

impl DirectWeight {
    pub(super) fn new(g: &ConvGeometry) -> Option<Self> {
        if !suits(g) || g.outputs < ROWS {
            return None;
        }
        let pitch = g.input[1] + 2 * g.padding[1];
        let place = |tap: usize| tap / g.kernel[1] * g.dilation[0] * pitch + tap % g.kernel[1] * g.dilation[1];
        Some(Self { geometry: *g, places: scratch::filled((0..g.taps()).map(place)) })
    }

    /// Outputs whose sums a tile has.
    fn wide(&self) -> usize {
        even(self.geometry.outputs.div_ceil(LANES), 3).next().map_or(1, |vectors| vectors.len()) * LANES
    }

    /// Elements from one row of sums to the next.
    pub(super) fn distance(&self) -> usize {
        self.geometry.outputs.next_multiple_of(self.wide())
    }

    /// Rows of outputs that are added at a time.
    pub(super) fn rows(&self) -> usize {
        (POSITIONS / self.geometry.output[1].max(1)).max(1)
    }

    /// Elements of the two buffers that [`Self::add`] works in, for so many channels.
    pub(super) fn buffers(&self, channels: usize) -> [usize; 2] {
        let g = &self.geometry;
        let rows = self.rows() + (g.kernel[0] - 1) * g.dilation[0];
        let band = channels * rows * (g.input[1] + 2 * g.padding[1]);
        [band, self.rows() * g.output[1] * self.distance()]
    }

    /// Adds what some rows of an image's group give to the sums `[channels, taps, distance]`: x and dy are that image's,
    /// x from the first of the channels on.
    pub(super) fn add(
        &self,
        (x, dy): (&[f32], &[f32]),
        (channels, rows): (usize, Range<usize>),
        [band, turned]: [&mut [f32]; 2],
        sums: &mut [f32],
    ) {
        let (g, wide, distance) = (&self.geometry, self.wide(), self.distance());
        let (width, pitch) = (g.output[1], g.input[1] + 2 * g.padding[1]);
        let (taps, positions) = (g.taps(), rows.len() * width);
        let channel = (rows.len() + (g.kernel[0] - 1) * g.dilation[0]) * pitch;
        assert!(sums.len() >= channels * taps * distance && band.len() >= channels * channel);
        for (x, band) in x.chunks_exact(g.pixels()).zip(band.chunks_exact_mut(channel)).take(channels) {
            pad_rows(x, g.input, g.padding, rows.start..rows.start + channel / pitch, band);
        }
        for first in (0..g.outputs).step_by(wide) {
            let dy =
                Matrix { values: &dy[first * g.positions() + rows.start * width..], row: g.positions(), column: 1 };
            let turned = &mut turned[..positions * wide];
            interleave(dy, (wide.min(g.outputs - first), wide), positions, turned);
            for number in 0..channels {
                for some in even(taps, tile::TAPS) {
                    let tile = tile::Taps {
                        size: (rows.len(), width),
                        left: band[number * channel..].as_ptr(),
                        pitch,
                        places: &self.places[some.clone()],
                        right: turned.as_ptr(),
                        sums: sums[(number * taps + some.start) * distance + first..].as_mut_ptr(),
                        distance,
                    };
                    // SAFETY: the assertion, the size of `turned`, and a band whose rows the taps do not leave; `suits` knows
                    // the processor.
                    unsafe { tile::add_taps(&tile, wide / LANES) };
                }
            }
        }
    }
}
