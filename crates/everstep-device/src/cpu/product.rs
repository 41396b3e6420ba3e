//! Matrix products from tiles: both operands are first copied into the order in which the tiles read them.
//!
//! The left operand becomes panels of 8 rows, the right one panels of 48 columns, both cut along K into blocks of one size.
//! An element is the sum of its blocks' sums in their order, and the blocks follow from K alone: so neither the other sizes nor
//! the threads show in its bits.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::matmul::Matrix;
use super::memory::Writer;
use super::simd::{Level, level};
pub(super) use super::tile::LANES;
use super::tile::{self, Apart, COLUMNS, Finish, ROWS, Tile};

/// The largest block of K: its panel of columns, 72 KiB, is fetched from the second-level cache ahead of its use.
const DEPTH: usize = 384;
/// Rows of C that a task multiplies, of large products.
const TASK_ROWS: usize = 128;
/// Panels of columns that it multiplies them with, at most.
const TASK_PANELS: usize = 8;
/// Multiply-adds under which a task is not worth handing out, and under which a product is left to one thread.
const SMALL: usize = 1 << 18;
/// Elements that are worth a thread's copying.
const COPIED: usize = 1 << 13;
/// Elements of both operands that are copied before their tiles are multiplied.
const PACKED: usize = 1 << 22;
/// Rows and columns of a piece that a larger product is cut into.
const PIECE: [usize; 2] = [4096, 8192];
/// Elements between a row of the right operand and the one that is fetched meanwhile.
const AHEAD: usize = 512;

/// A cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// Calls `work` with this many elements, whatever they hold, from the beginning of a cache line on. A thread keeps them for
/// the next call.
pub(super) fn with_lines(count: usize, work: impl FnOnce(&mut [f32])) {
    thread_local!(static LINES: Cell<Vec<Line>> = const { Cell::new(Vec::new()) });
    let mut lines = LINES.take();
    if lines.len() * LANES < count {
        lines = vec![Line([0.0; LANES]); count.div_ceil(LANES)];
    }
    work(&mut bytemuck::cast_slice_mut(&mut lines)[..count]);
    LINES.set(lines);
}

/// Whether a product of these sizes is one for tiles. Vectors are not: copying them costs more than multiplying.
pub(super) fn suits((m, n, k): (usize, usize, usize)) -> bool {
    level() == Level::Avx512 && m >= ROWS && n >= ROWS && k > 0
}

/// The product C = A B, or C += A B, then plus bias and through relu.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    /// Rows and columns of C, and what is added up.
    pub(super) sizes: (usize, usize, usize),
    pub(super) a: Matrix<'a>,
    pub(super) b: Matrix<'a>,
    /// Whether C holds the beginning of the sum.
    pub(super) add: bool,
    /// Whole vectors for the columns.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) relu: bool,
}

/// One operand in panels: of `count` rows of A or columns of B.
#[derive(Clone, Copy)]
struct Panels<'a> {
    matrix: Matrix<'a>,
    count: usize,
    /// Rows or columns of a panel, and a multiple that the last one is filled up to with zeros.
    width: usize,
    round: usize,
}

impl Panels<'_> {
    fn number(&self) -> usize {
        self.count.div_ceil(self.width)
    }

    /// Rows or columns of a panel, and with the zeros behind them.
    fn widths(&self, panel: usize) -> (usize, usize) {
        let lanes = self.width.min(self.count - panel * self.width);
        (lanes, lanes.next_multiple_of(self.round))
    }

    /// Elements of all panels over so many steps.
    fn elements(&self, steps: usize) -> usize {
        self.count.next_multiple_of(self.round) * steps
    }

    /// Where a panel's part over `block` begins among panels over the steps from `first` on.
    fn start(&self, panel: usize, block: &Range<usize>, first: usize) -> usize {
        self.elements(block.start - first) + panel * self.width * block.len()
    }

    fn copy(&self, panel: usize, block: Range<usize>, to: &mut [f32]) {
        let (lanes, width) = self.widths(panel);
        let Matrix { values, row, column } = self.matrix;
        let from = &values[(panel * self.width * row + block.start * column).min(values.len())..];
        interleave(Matrix { values: from, row, column }, (lanes, width), block.len(), to);
    }
}

/// `to[step * width + lane]` = element (lane, step) of a matrix, 0 from lane `lanes` on.
///
/// The processor has AVX-512.
pub(super) fn interleave(from: Matrix<'_>, (lanes, width): (usize, usize), steps: usize, to: &mut [f32]) {
    assert!(from.holds(lanes, steps) && lanes <= width && to.len() >= steps * width, "an operand leaves its slice");
    let Matrix { values, row, column } = from;
    if row == 1 {
        for (step, to) in to.chunks_exact_mut(width).take(steps).enumerate() {
            copy_lanes(&values[step * column..], lanes, to);
        }
        return;
    }
    let mut done = 0;
    if column == 1 && lanes == ROWS && width == ROWS {
        while done + 2 * LANES <= steps {
            // SAFETY: the assertion, and the caller's processor.
            unsafe { tile::transpose_8(values.as_ptr().add(done), row, to.as_mut_ptr().add(done * width)) };
            done += 2 * LANES;
        }
    }
    let whole = if column == 1 && width >= LANES { lanes / LANES * LANES } else { 0 };
    if whole > 0 {
        while done + LANES <= steps {
            for lane in (0..whole).step_by(LANES) {
                let (from, to) = (&values[lane * row + done..], &mut to[done * width + lane..]);
                // SAFETY: the assertion, and the caller's processor.
                unsafe { tile::transpose_16(from.as_ptr(), row, to.as_mut_ptr(), width) };
            }
            for step in done..done + LANES {
                let rest = &mut to[step * width..(step + 1) * width][whole..];
                rest.iter_mut().enumerate().for_each(|(at, to)| {
                    *to = if whole + at < lanes { values[(whole + at) * row + step] } else { 0.0 };
                });
            }
            done += LANES;
        }
    }
    for step in done..steps {
        let to = &mut to[step * width..(step + 1) * width];
        let (filled, rest) = to.split_at_mut(lanes);
        filled.iter_mut().enumerate().for_each(|(lane, to)| *to = values[lane * row + step * column]);
        rest.fill(0.0);
    }
}

/// Neighbours, and zeros behind them; of the usual numbers without a call.
#[inline(always)]
fn copy_lanes(from: &[f32], lanes: usize, to: &mut [f32]) {
    #[inline(always)]
    fn fixed<const N: usize>(from: &[f32], to: &mut [f32]) -> bool {
        let (Some(from), Some(to)) = (from.first_chunk::<N>(), to.first_chunk_mut::<N>()) else { return false };
        *to = *from;
        true
    }
    let copied = match (lanes, to.len()) {
        (ROWS, ROWS) => fixed::<ROWS>(from, to),
        (COLUMNS, COLUMNS) => fixed::<COLUMNS>(from, to),
        (32, 32) => fixed::<32>(from, to),
        (LANES, LANES) => fixed::<LANES>(from, to),
        _ => false,
    };
    if !copied {
        to[..lanes].copy_from_slice(&from[..lanes]);
        to[lanes..].fill(0.0);
    }
}

/// The blocks of K.
fn blocks(k: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let size = k.div_ceil(k.div_ceil(DEPTH).max(1)).max(1);
    (0..k).step_by(size).map(move |start| start..(start + size).min(k))
}

impl<'a> Product<'a> {
    fn check(&self, c: usize, c_row: usize) {
        let (m, n, k) = self.sizes;
        assert!(self.a.holds(m, k) && self.b.holds(k, n), "a matrix leaves its slice");
        assert!(c_row >= n && m > 0 && (m - 1) * c_row + n <= c, "a product leaves its slice");
        assert!(self.bias.is_none_or(|bias| bias.len() >= n.next_multiple_of(LANES)), "a bias is too short");
    }

    fn panels(&self) -> (Panels<'a>, Panels<'a>) {
        let (m, n, _) = self.sizes;
        let b = Matrix { row: self.b.column, column: self.b.row, ..self.b };
        let left = Panels { matrix: self.a, count: m, width: ROWS, round: 1 };
        (left, Panels { matrix: b, count: n, width: COLUMNS, round: LANES })
    }

    /// Multiplies panels of rows with panels of columns, block after block; the panels hold these blocks.
    ///
    /// # Safety
    /// The panels are copied, `c` points to the whole of C, and no other thread touches these parts of it.
    unsafe fn tiles(
        &self,
        (rows, panels): (Range<usize>, Range<usize>),
        (left, right): (&[f32], &[f32]),
        ranges: &[Range<usize>],
        (c, c_row): (*mut f32, usize),
    ) {
        let (a, b) = self.panels();
        for block in ranges {
            for panel in panels.clone() {
                let (columns, width) = b.widths(panel);
                let finish = self.finish(block, panel);
                let right = &right[b.start(panel, block, ranges[0].start)..][..width * block.len()];
                for row in rows.clone() {
                    let count = a.widths(row).0;
                    let left = &left[a.start(row, block, ranges[0].start)..][..count * block.len()];
                    let tile = Tile {
                        steps: block.len(),
                        left: left.as_ptr(),
                        right: right.as_ptr(),
                        places: Apart(width),
                        ahead: AHEAD,
                        result: c.wrapping_add(row * ROWS * c_row + panel * COLUMNS),
                        distance: c_row,
                    };
                    // SAFETY: the panels hold these steps, C the tile by the caller's word, and `suits` knows the processor.
                    unsafe { tile::multiply(&tile, (count, columns), finish) };
                }
            }
        }
    }

    /// What becomes of the sums of a block in a panel of columns.
    fn finish(&self, block: &Range<usize>, panel: usize) -> Finish {
        let last = block.end == self.sizes.2;
        let bias = self.bias.filter(|_| last).map_or(std::ptr::null(), |bias| bias[panel * COLUMNS..].as_ptr());
        Finish { add: self.add || block.start > 0, bias, relu: self.relu && last }
    }

    /// On the calling thread alone.
    pub(super) fn here(&self, c: &mut [f32], c_row: usize) {
        self.check(c.len(), c_row);
        let (a, b) = self.panels();
        let k = self.sizes.2;
        let size = blocks(k).next().map_or(0, |block| block.len());
        let (right_size, left_size) = (b.elements(size), a.elements(size));
        with_lines(right_size + left_size, |packed| {
            let (right, left) = packed.split_at_mut(right_size);
            for block in blocks(k) {
                for panel in 0..a.number() {
                    let start = a.start(panel, &block, block.start);
                    a.copy(panel, block.clone(), &mut left[start..]);
                }
                for panel in 0..b.number() {
                    let start = b.start(panel, &block, block.start);
                    b.copy(panel, block.clone(), &mut right[start..]);
                }
                let c = (c.as_mut_ptr(), c_row);
                // SAFETY: copied above, checked, and this thread has all of c.
                unsafe { self.tiles((0..a.number(), 0..b.number()), (left, right), &[block], c) };
            }
        });
    }

    /// On all threads.
    pub(super) fn on_all(&self, c: &mut [f32], c_row: usize) {
        let (m, n, k) = self.sizes;
        self.check(c.len(), c_row);
        let c = Writer::new(c);
        for top in (0..m).step_by(PIECE[0]) {
            for side in (0..n).step_by(PIECE[1]) {
                let at = |matrix: Matrix<'a>, row, column| Matrix {
                    values: &matrix.values[row * matrix.row + column * matrix.column..],
                    ..matrix
                };
                let piece = Product {
                    sizes: (PIECE[0].min(m - top), PIECE[1].min(n - side), k),
                    a: at(self.a, top, 0),
                    b: at(self.b, 0, side),
                    bias: self.bias.map(|bias| &bias[side..]),
                    ..*self
                };
                piece.piece(&c, top * c_row + side, c_row);
            }
        }
    }

    fn piece(&self, c: &Writer<'_, f32>, start: usize, c_row: usize) {
        let (m, n, k) = self.sizes;
        let (a, b) = self.panels();
        let ranges: Vec<Range<usize>> = blocks(k).collect();
        let size = ranges[0].len();
        // So many blocks are copied at a time.
        let group = (PACKED / (a.elements(size) + b.elements(size))).clamp(1, ranges.len());
        let steps = (group * size).min(k);
        with_lines(b.elements(steps) + a.elements(steps), |packed| {
            let (right, left) = packed.split_at_mut(b.elements(steps));
            for group in ranges.chunks(group) {
                copy_panels([(a, &mut *left), (b, &mut *right)], group);
                let (left, right) = (&*left, &*right);
                let rows = task_rows(m, b.number()) / ROWS;
                let bands = a.number().div_ceil(rows);
                // Panels of columns that follow one another find the band's rows in the cache.
                let wide = (bands * b.number() / (4 * rayon::current_num_threads())).clamp(1, TASK_PANELS);
                let strips = b.number().div_ceil(wide);
                let work = rows * ROWS * (wide * COLUMNS).min(n) * group.len() * size;
                let tasks = (0..bands * strips).into_par_iter().with_min_len((SMALL / work).max(1));
                tasks.for_each(|task| {
                    let (band, strip) = (task / strips * rows, task % strips * wide);
                    let band = band..(band + rows).min(a.number());
                    let strip = strip..(strip + wide).min(b.number());
                    let c = (c.pointer().wrapping_add(start), c_row);
                    // SAFETY: copied above; tasks are disjoint parts of C, which `check` has seen to lie in it.
                    unsafe { self.tiles((band, strip), (left, right), group, c) };
                });
            }
        });
    }
}

/// Rows of C that a task multiplies with a panel of columns: fewer where there would be too few tasks to share.
fn task_rows(m: usize, panels: usize) -> usize {
    let shared = (m * panels).div_ceil(4 * rayon::current_num_threads());
    TASK_ROWS.min(shared).next_multiple_of(ROWS)
}

/// Copies both operands over a group of blocks.
fn copy_panels([(a, left), (b, right)]: [(Panels<'_>, &mut [f32]); 2], group: &[Range<usize>]) {
    let (left, right) = (Writer::new(left), Writer::new(right));
    let copy = |panels: &Panels<'_>, to: &Writer<'_, f32>, task: usize| {
        let (block, panel) = (&group[task / panels.number()], task % panels.number());
        let start = panels.start(panel, block, group[0].start);
        // SAFETY: panels over blocks are disjoint ranges.
        let to = unsafe { to.range(start, panels.widths(panel).1 * block.len()) };
        panels.copy(panel, block.clone(), to);
    };
    // As many panels of rows make a task as one of columns has room for.
    let rows = COLUMNS / ROWS;
    let (row_panels, column_panels) = (a.number() * group.len(), b.number() * group.len());
    let row_tasks = row_panels.div_ceil(rows);
    let least = (COPIED / (COLUMNS * group[0].len())).max(1);
    (0..row_tasks + column_panels).into_par_iter().with_min_len(least).for_each(|task| {
        match task.checked_sub(row_tasks) {
            Some(task) => copy(&b, &right, task),
            None => (task * rows..((task + 1) * rows).min(row_panels)).for_each(|task| copy(&a, &left, task)),
        }
    });
}
