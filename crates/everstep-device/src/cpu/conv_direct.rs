//! Convolution with a stride of 1 from tiles, without a matrix of columns.
//!
//! A band of rows is copied once with its padding, where the zeros behind a row are those before the next. In it, a tap lies the
//! same number of elements ahead of every output, if the outputs are counted along the padded rows: so the right operand of a
//! tile is the band itself, read from one place per channel and tap. What is computed for the columns that lie in the padding (1
//! of 29, of a 3 x 3 kernel and images of 28) is dropped as the tile is stored.
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
use super::simd::{Level, fetch_all, level, simd};
use super::tile::{self, Bias, COLUMNS, Finish, Kept, LANES, Places, ROWS, Tile};
use crate::functions::Activation;

/// Steps of a tile, at most: so the part of a band that a tile reads stays in the first-level cache for all outputs.
const DEPTH: usize = 320;
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

    /// Elements from one padded row to the next.
    fn pitch(&self) -> usize {
        (self.source[1] + self.padding[1]).max(self.result[1])
    }

    /// Elements of a channel's band, for so many rows of results: behind the last row there are zeros too.
    fn channel(&self, rows: usize) -> usize {
        (rows + self.reach(0)) * self.pitch() + self.padding[1]
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
        let places = self.places(most, self.channel(rows));
        assert!(y.len() >= self.batch * self.groups * self.results * self.result[0] * self.result[1]);
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
        let size = self.results * self.sources * self.taps();
        let weights = &weights[plane % self.groups * size..][..size];
        let whole = rows.len() == self.result[0];
        let (channel, plane_size) = (self.channel(most), self.result[0] * self.result[1]);
        let outputs = (rows.len() - 1) * self.pitch() + self.result[1];
        let bias = after.bias.map(|bias| &bias[plane % self.groups * self.results..][..self.results]);
        // A tile's vectors may reach beyond the last row.
        with_scratch([self.sources * channel + COLUMNS, 0, 0], |[band, _, _]| {
            self.pad(x, plane, &rows, (channel, band));
            // The next image comes while this one is computed.
            let next = (plane + 1) * self.sources * self.source[0] * self.source[1];
            let next = if whole { &x[next.min(x.len())..] } else { &[] };
            let next = &next[..next.len().min(self.sources * self.source[0] * self.source[1])];
            let tiles = outputs.div_ceil(COLUMNS) * self.results.div_ceil(ROWS);
            let mut next = next.chunks(next.len().div_ceil(tiles).max(LANES));
            for start in (0..outputs).step_by(COLUMNS) {
                let (kept, vectors) = self.kept(start, outputs);
                for block in self.blocks() {
                    let last = block.end == self.sources;
                    let steps = (channel, &places[..block.len() * self.taps()]);
                    let right = &band[block.start * channel + start..];
                    for row in (0..self.results).step_by(ROWS) {
                        let bias = bias.filter(|_| last).map_or(Bias::None, |bias| Bias::Rows(bias[row..].as_ptr()));
                        let relu = last && after.activation == Activation::Relu;
                        let finish = Finish { add: block.start > 0, bias, relu };
                        let left = &weights[(block.start * self.results + row * block.len()) * self.taps()..];
                        let result = (plane * self.results + row) * plane_size + rows.start * self.result[1];
                        // SAFETY: within y, whose length `run` has asserted; bands of channels are disjoint.
                        unsafe {
                            let result = y.pointer().add(result);
                            self.tile(
                                (left, right),
                                steps,
                                (self.results - row).min(ROWS),
                                (kept, vectors),
                                (result, finish),
                            );
                        }
                        next.next().into_iter().for_each(fetch_all);
                    }
                }
            }
        });
        if !matches!(after.activation, Activation::None | Activation::Relu) {
            for result in plane * self.results..(plane + 1) * self.results {
                let first = result * plane_size + rows.start * self.result[1];
                // SAFETY: blocks of positions of the channels of y are disjoint.
                activate(after.activation, unsafe { y.range(first, rows.len() * self.result[1]) });
            }
        }
    }

    /// Which of the positions that a tile computes are columns of results, and its vectors; positions are counted along the
    /// padded rows, and there are `outputs` of them.
    fn kept(&self, start: usize, outputs: usize) -> (Kept, usize) {
        let (pitch, width) = (self.pitch(), self.result[1]);
        let vectors = (outputs - start).div_ceil(LANES).min(COLUMNS / LANES);
        let mut kept = Kept::default();
        for (vector, (mask, place)) in kept.0.iter_mut().enumerate().take(vectors) {
            let first = start + vector * LANES;
            let (mut at, mut column, count) = (0, first % pitch, LANES.min(outputs - first));
            *place = first / pitch * width + column.min(width);
            while at < count {
                let run = width.saturating_sub(column).min(count - at);
                *mask |= (((1u32 << run) - 1) << at) as u16;
                (at, column) = (at + run + pitch - column.max(width).min(pitch), 0);
            }
        }
        (kept, vectors)
    }

    /// The sums of some results at the positions of a tile, over a block of sources: from the weights of the first of them on and
    /// the band from the tile on; (elements of a channel, places of the steps).
    ///
    /// # Safety
    /// The result holds what is kept, and no other thread touches it.
    #[inline]
    unsafe fn tile(
        &self,
        (weights, band): (&[f32], &[f32]),
        (channel, places): (usize, &[usize]),
        rows: usize,
        (kept, vectors): (Kept, usize),
        (result, finish): (*mut f32, Finish),
    ) {
        let steps = places.len();
        assert!(weights.len() >= rows * steps, "a tile leaves its weights");
        assert!(band.len() >= places[steps - 1] + vectors * LANES, "a tile leaves its band");
        let tile = Tile {
            steps,
            left: weights.as_ptr(),
            left_step: rows,
            right: band.as_ptr(),
            places: Places(places),
            ahead: channel,
            result,
            distance: self.result[0] * self.result[1],
        };
        // SAFETY: the assertions and the caller's word; `suits` knows the processor.
        unsafe { tile::multiply(&tile, (rows, vectors), kept, finish) };
    }

    /// Copies the rows that some rows of results are computed from, with the padding around them.
    fn pad(&self, x: &[f32], plane: usize, rows: &Range<usize>, (channel, band): (usize, &mut [f32])) {
        let pixels = self.source[0] * self.source[1];
        let x = &x[plane * self.sources * pixels..(plane + 1) * self.sources * pixels];
        for (x, band) in x.chunks_exact(pixels).zip(band.chunks_exact_mut(channel)) {
            pad_rows(x, self.source, (self.padding, self.pitch()), rows.start..rows.end + self.reach(0), band);
        }
    }
}

/// Whether the processor has tiles, and the convolution a stride of 1.
fn suits(g: &ConvGeometry) -> bool {
    level() == Level::Avx512 && g.stride == [1, 1] && !g.is_matrix() && g.taps() > 0
}

simd! {
    /// Copies rows of an image as they lie in its padded form, where they are counted: `form` is its padding, and the elements from
    /// one row to the next. What a run writes too much, the next one overwrites.
    fn pad_rows(x: &[f32], size: [usize; 2], form: ([usize; 2], usize), rows: Range<usize>, to: &mut [f32]) {
        let ([height, width], (padding, pitch)) = (size, form);
        for row in rows.clone() {
            let to = &mut to[(row - rows.start) * pitch..];
            match row.checked_sub(padding[0]).filter(|row| *row < height) {
                None => zero_run(to, pitch),
                Some(row) => {
                    zero_run(to, padding[1]);
                    copy_run(&x[row * width..], &mut to[padding[1]..], width);
                    zero_run(&mut to[padding[1] + width..], pitch - padding[1] - width);
                }
            }
        }
        let rest = &mut to[rows.len() * pitch..];
        zero_run(rest, padding[1].min(rest.len()));
    }
}

/// Zeros, whole vectors at a time.
#[inline(always)]
fn zero_run(to: &mut [f32], count: usize) {
    for at in (0..count).step_by(LANES) {
        match to[at..].first_chunk_mut::<LANES>() {
            Some(vector) => *vector = [0.0; LANES],
            None => to[at..count].fill(0.0),
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

    /// How often [`Self::add`] fetches a part for the whole of an image.
    pub(super) fn fetches(&self, channels: usize) -> usize {
        self.geometry.output[0].div_ceil(self.rows()) * self.geometry.outputs.div_ceil(self.wide()) * channels
    }

    /// Elements of the two buffers that [`Self::add`] works in, for so many channels.
    pub(super) fn buffers(&self, channels: usize) -> [usize; 2] {
        let g = &self.geometry;
        let rows = self.rows() + (g.kernel[0] - 1) * g.dilation[0];
        let band = channels * rows * (g.input[1] + 2 * g.padding[1]);
        [band, self.rows() * g.output[1] * self.distance()]
    }

    /// Adds what some rows of an image's group give to the sums `[channels, taps, distance]`: x and dy are that image's,
    /// x from the first of the channels on. With each channel comes one of the next parts to fetch.
    pub(super) fn add<'a>(
        &self,
        (x, dy): (&[f32], &[f32]),
        (channels, rows): (usize, Range<usize>),
        [band, turned]: [&mut [f32]; 2],
        sums: &mut [f32],
        next: &mut impl Iterator<Item = &'a [f32]>,
    ) {
        let (g, wide, distance) = (&self.geometry, self.wide(), self.distance());
        let (width, pitch) = (g.output[1], g.input[1] + 2 * g.padding[1]);
        let (taps, positions) = (g.taps(), rows.len() * width);
        let channel = (rows.len() + (g.kernel[0] - 1) * g.dilation[0]) * pitch;
        assert!(sums.len() >= channels * taps * distance && band.len() >= channels * channel);
        for (x, band) in x.chunks_exact(g.pixels()).zip(band.chunks_exact_mut(channel)).take(channels) {
            pad_rows(x, g.input, (g.padding, pitch), rows.start..rows.start + channel / pitch, band);
        }
        for first in (0..g.outputs).step_by(wide) {
            let dy =
                Matrix { values: &dy[first * g.positions() + rows.start * width..], row: g.positions(), column: 1 };
            let turned = &mut turned[..positions * wide];
            interleave(dy, (wide.min(g.outputs - first), wide), positions, turned);
            for number in 0..channels {
                next.next().into_iter().for_each(fetch_all);
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
