//! Matrix products from tiles: both operands are first copied into the order in which the tiles read them.
//!
//! The left operand becomes panels of 8 rows, the right one panels of 48 columns, both cut along K into blocks of one size.
//! An element is the sum of its blocks' sums in their order, and the blocks follow from K alone: so neither the other sizes nor
//! the threads show in its bits.

use std::ops::Range;

use rayon::prelude::*;
use smallvec::SmallVec;

use super::matmul::Matrix;
use super::memory::Writer;
use super::scratch;
use super::simd::{Level, level};
pub(super) use super::tile::LANES;
use super::tile::{self, Apart, Bias, COLUMNS, Finish, First, ROWS, Tile};

/// The largest block of K: its panel of columns, 72 KiB, is fetched from the second-level cache ahead of its use.
const DEPTH: usize = 384;
/// Rows of C that a task multiplies, of large products.
const TASK_ROWS: usize = 128;
/// Panels of columns that it multiplies them with, at most.
const TASK_PANELS: usize = 8;
/// Multiply-adds under which a task is not worth handing out, and under which a product is left to one thread.
const SMALL: usize = 1 << 18;
/// Multiply-adds from which on a product is left to `gemm`.
const LARGE: usize = 1 << 27;
/// Elements that are worth a thread's copying.
const COPIED: usize = 1 << 13;
/// Elements of both operands that are copied before their tiles are multiplied: 2 MiB, which the tiles then find in the caches.
const PACKED: usize = 1 << 19;
/// Rows and columns of a piece that a larger product is cut into.
const PIECE: [usize; 2] = [4096, 8192];
/// Steps that the right operand is fetched ahead.
const AHEAD: usize = 10;

/// Whether a product of these sizes is one for tiles. Vectors are not: copying them costs more than multiplying. Nor are large
/// products, which `gemm` multiplies as fast.
pub(super) fn suits((m, n, k): (usize, usize, usize)) -> bool {
    level() == Level::Avx512 && m >= ROWS && n >= ROWS && k > 0 && m * n * k < LARGE
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
    /// Whether tiles read it where it is: its rows or columns are neighbours, and whole vectors of them are there.
    direct: bool,
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

    /// A panel's part over `block`, and the elements between its steps; `packed` holds those of the steps from `first` on.
    fn part<'s>(&'s self, packed: &'s [f32], panel: usize, block: &Range<usize>, first: usize) -> (&'s [f32], usize) {
        if self.direct {
            let start = panel * self.width + block.start * self.matrix.column;
            return (&self.matrix.values[start..], self.matrix.column);
        }
        let width = self.widths(panel).1;
        (&packed[self.start(panel, block, first)..][..width * block.len()], width)
    }

    /// Whether the elements of a step are neighbours.
    fn is_flat(&self, steps: usize) -> bool {
        let end = (steps - 1) * self.matrix.column + self.count.next_multiple_of(self.round);
        self.matrix.row == 1 && end <= self.matrix.values.len()
    }

    /// Copies neighbouring panels. Where the elements of a step are neighbours, those of all panels are read together.
    fn copy_few(&self, panels: Range<usize>, block: Range<usize>, to: &mut [f32]) {
        let size = self.width * block.len();
        let whole = panels.end * self.width <= self.count;
        if self.matrix.row != 1 || self.width != ROWS || !whole {
            panels.zip(to.chunks_mut(size)).for_each(|(panel, to)| self.copy(panel, block.clone(), to));
            return;
        }
        let (first, count) = (panels.start * ROWS, panels.len() * ROWS);
        for (step, at) in block.enumerate() {
            let (from, _) = self.matrix.values[first + at * self.matrix.column..][..count].as_chunks::<ROWS>();
            for (panel, from) in from.iter().enumerate() {
                to[panel * size + step * ROWS..][..ROWS].copy_from_slice(from);
            }
        }
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
        let left = Panels { matrix: self.a, count: m, width: ROWS, round: 1, direct: false };
        (left, Panels { matrix: b, count: n, width: COLUMNS, round: LANES, direct: false })
    }

    /// Multiplies panels of rows with panels of columns, block after block; the panels hold these blocks.
    ///
    /// # Safety
    /// The panels are copied, `c` points to the whole of C, and no other thread touches these parts of it.
    unsafe fn tiles(
        &self,
        (a, b): (&Panels<'_>, &Panels<'_>),
        (rows, panels): (Range<usize>, Range<usize>),
        (left, right): (&[f32], &[f32]),
        ranges: &[Range<usize>],
        (c, c_row): (*mut f32, usize),
    ) {
        for block in ranges {
            for panel in panels.clone() {
                let columns = b.widths(panel).0;
                let finish = self.finish(block, panel);
                let (right, right_step) = b.part(right, panel, block, ranges[0].start);
                for row in rows.clone() {
                    let count = a.widths(row).0;
                    let (left, left_step) = a.part(left, row, block, ranges[0].start);
                    let tile = Tile {
                        steps: block.len(),
                        left: left.as_ptr(),
                        left_step,
                        right: right.as_ptr(),
                        places: Apart(right_step),
                        ahead: AHEAD * right_step,
                        result: c.wrapping_add(row * ROWS * c_row + panel * COLUMNS),
                        distance: c_row,
                    };
                    // SAFETY: the panels hold these steps, C the tile by the caller's word, and `suits` knows the processor.
                    unsafe { tile::multiply(&tile, (count, columns.div_ceil(LANES)), First(columns), finish) };
                }
            }
        }
    }

    /// What becomes of the sums of a block in a panel of columns.
    fn finish(&self, block: &Range<usize>, panel: usize) -> Finish {
        let last = block.end == self.sizes.2;
        let bias = self.bias.filter(|_| last);
        let bias = bias.map_or(Bias::None, |bias| Bias::Columns(bias[panel * COLUMNS..].as_ptr()));
        Finish { add: self.add || block.start > 0, bias, relu: self.relu && last }
    }

    /// On the calling thread alone.
    pub(super) fn here(&self, c: &mut [f32], c_row: usize) {
        self.check(c.len(), c_row);
        let (mut a, mut b) = self.panels();
        let k = self.sizes.2;
        (a.direct, b.direct) = (a.is_flat(k), b.is_flat(k));
        let size = blocks(k).next().map_or(0, |block| block.len());
        let room = |panels: &Panels<'_>| if panels.direct { 0 } else { panels.elements(size) };
        let mut packed = scratch::take(room(&b) + room(&a));
        let (right, left) = packed.split_at_mut(room(&b));
        for block in blocks(k) {
            for (panels, to) in [(&a, &mut *left), (&b, &mut *right)] {
                for panel in (0..panels.number()).filter(|_| !panels.direct) {
                    let start = panels.start(panel, &block, block.start);
                    panels.copy(panel, block.clone(), &mut to[start..]);
                }
            }
            let c = (c.as_mut_ptr(), c_row);
            // SAFETY: copied above, or flat, checked, and this thread has all of c.
            unsafe { self.tiles((&a, &b), (0..a.number(), 0..b.number()), (left, right), &[block], c) };
        }
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
        let ranges: SmallVec<[Range<usize>; 128]> = blocks(k).collect();
        let size = ranges[0].len();
        // So many blocks are copied at a time.
        let group = (PACKED / (a.elements(size) + b.elements(size))).clamp(1, ranges.len());
        let steps = (group * size).min(k);
        let rows = task_rows(m, b.number()) / ROWS;
        let bands = a.number().div_ceil(rows);
        // Panels of columns that follow one another find the band's rows in the cache.
        let wide = (bands * b.number() / (4 * rayon::current_num_threads())).clamp(1, TASK_PANELS);
        let strips = b.number().div_ceil(wide);
        // A panel of columns that one task alone reads is copied by that task, just before.
        let own = bands == 1;
        let room = if own { rayon::current_num_threads() * COLUMNS * size } else { b.elements(steps) };
        let mut packed = scratch::take(room + a.elements(steps));
        let (right, left) = packed.split_at_mut(room);
        for group in ranges.chunks(group) {
            let shared = if own { Panels { count: 0, ..b } } else { b };
            copy_panels([(a, &mut *left), (shared, &mut *right)], group);
            let (right, slots) = if own { (&[][..], &mut *right) } else { (&*right, &mut [][..]) };
            let (left, slots) = (&*left, Writer::new(slots));
            let work = rows * ROWS * (wide * COLUMNS).min(n) * group.len() * size;
            let tasks = (0..bands * strips).into_par_iter().with_min_len((SMALL / work).max(1));
            tasks.for_each(|task| {
                let (band, strip) = (task / strips * rows, task % strips * wide);
                let band = band..(band + rows).min(a.number());
                let strip = strip..(strip + wide).min(b.number());
                let c = (c.pointer().wrapping_add(start), c_row);
                if own {
                    let slot = rayon::current_thread_index().unwrap_or(0) * COLUMNS * size;
                    // SAFETY: a thread has a slot of its own, and a task does not wait for others.
                    let slot = unsafe { slots.range(slot, COLUMNS * size) };
                    // SAFETY: copied above; tasks are disjoint parts of C, which `check` has seen to lie in it.
                    return unsafe { self.strip((&a, left), strip, slot, group, c) };
                }
                // SAFETY: copied above; tasks are disjoint parts of C, which `check` has seen to lie in it.
                unsafe { self.tiles((&a, &b), (band, strip), (left, right), group, c) };
            });
        }
    }

    /// Copies panels of columns to `slot`, one after the other and block after block, and multiplies all rows with each.
    ///
    /// # Safety
    /// As [`Self::tiles`].
    unsafe fn strip(
        &self,
        (a, left): (&Panels<'_>, &[f32]),
        panels: Range<usize>,
        slot: &mut [f32],
        ranges: &[Range<usize>],
        (c, c_row): (*mut f32, usize),
    ) {
        for panel in panels {
            let first = panel * COLUMNS;
            let one = Product {
                sizes: (self.sizes.0, COLUMNS.min(self.sizes.1 - first), self.sizes.2),
                b: Matrix { values: &self.b.values[first * self.b.column..], ..self.b },
                bias: self.bias.map(|bias| &bias[first..]),
                ..*self
            };
            let (_, b) = one.panels();
            for block in ranges {
                b.copy(0, block.clone(), slot);
                let left = &left[a.elements(block.start - ranges[0].start)..];
                let c = (c.wrapping_add(first), c_row);
                // SAFETY: copied, and by the caller's word.
                unsafe { one.tiles((a, &b), (0..a.number(), 0..1), (left, slot), std::slice::from_ref(block), c) };
            }
        }
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
    // As many panels of rows make a task as one of columns has room for.
    let few = COLUMNS / ROWS;
    let row_parts = a.number().div_ceil(few);
    let row_tasks = row_parts * group.len();
    let least = (COPIED / (COLUMNS * group[0].len())).max(1);
    let tasks = (0..row_tasks + b.number() * group.len()).into_par_iter().with_min_len(least);
    tasks.for_each(|task| {
        if let Some(task) = task.checked_sub(row_tasks) {
            let (block, panel) = (&group[task / b.number()], task % b.number());
            let start = b.start(panel, block, group[0].start);
            // SAFETY: panels over blocks are disjoint ranges.
            let to = unsafe { right.range(start, b.widths(panel).1 * block.len()) };
            return b.copy(panel, block.clone(), to);
        }
        let (block, first) = (&group[task / row_parts], task % row_parts * few);
        let panels = first..(first + few).min(a.number());
        let start = a.start(first, block, group[0].start);
        let end = a.start(panels.end - 1, block, group[0].start) + a.widths(panels.end - 1).1 * block.len();
        // SAFETY: as above; neighbouring panels lie one behind the other.
        a.copy_few(panels, block.clone(), unsafe { left.range(start, end - start) });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Generator;

    /// A matrix of draws, row after row or column after column, with a gap behind each.
    fn draw(generator: &mut Generator, rows: usize, columns: usize, turned: bool) -> (Vec<f32>, usize, usize) {
        let (row, column) = if turned { (1, rows + 3) } else { (columns + 3, 1) };
        ((0..(rows + 3) * (columns + 3)).map(|_| generator.normal()).collect(), row, column)
    }

    /// Every shape of a tile, blocks of K, both orders of both operands, on one and many threads and on the calling one.
    #[test]
    fn products_are_the_same_sums_wherever_they_are_computed() {
        let mut generator = Generator::new(2);
        let sizes =
            [(8, 8, 1), (9, 17, 5), (15, 33, 40), (70, 49, 385), (131, 200, 64), (64, 128, 1200), (300, 97, 769)];
        for ((m, n, k), turned) in sizes.into_iter().flat_map(|size| (0..4).map(move |turned| (size, turned))) {
            if !suits((m, n, k)) {
                return;
            }
            let (a, a_row, a_column) = draw(&mut generator, m, k, turned & 1 == 1);
            let (b, b_row, b_column) = draw(&mut generator, k, n, turned & 2 == 2);
            let bias: Vec<f32> = (0..n.next_multiple_of(LANES)).map(|_| generator.normal()).collect();
            let start: Vec<f32> = (0..m * n).map(|_| generator.normal()).collect();
            let product = Product {
                sizes: (m, n, k),
                a: Matrix { values: &a, row: a_row, column: a_column },
                b: Matrix { values: &b, row: b_row, column: b_column },
                add: true,
                bias: Some(&bias),
                relu: true,
            };
            let mut here = start.clone();
            product.here(&mut here, n);
            for threads in [1, 2, 3, 5, 17] {
                let mut c = start.clone();
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| product.on_all(&mut c, n));
                let same = c.iter().zip(&here).all(|(c, here)| c.to_bits() == here.to_bits());
                assert!(same, "{m} x {n} x {k}, {turned}, {threads} threads");
            }
            for (at, found) in here.iter().enumerate() {
                let (row, column) = (at / n, at % n);
                let terms = || {
                    (0..k)
                        .map(|l| f64::from(a[row * a_row + l * a_column]) * f64::from(b[l * b_row + column * b_column]))
                };
                let sum = terms().sum::<f64>() + f64::from(start[at]) + f64::from(bias[column]);
                let size =
                    terms().map(f64::abs).sum::<f64>() + f64::from(start[at].abs()) + f64::from(bias[column].abs());
                // Each of k + 2 additions rounds by half an ulp of a sum that is at most `size`.
                let tolerance = (k + 2) as f64 * f64::from(f32::EPSILON) * size;
                assert!((f64::from(*found) - sum.max(0.0)).abs() <= tolerance, "{m} x {n} x {k}, {turned}, at {at}");
            }
        }
    }

    #[test]
    fn relu_of_a_tile_keeps_nan_and_infinity() {
        let (m, n, k) = (9, 50, 3);
        if !suits((m, n, k)) {
            return;
        }
        let (mut a, mut b) = (vec![1.0f32; m * k], vec![-1.0f32; k * n]);
        a[4 * k] = f32::NAN;
        b[49] = f32::INFINITY;
        let matrix = |values, row| Matrix { values, row, column: 1 };
        let sizes = (m, n, k);
        let product = Product { sizes, a: matrix(&a, k), b: matrix(&b, n), add: false, bias: None, relu: true };
        let mut c = vec![9.0; m * n];
        product.here(&mut c, n);
        for (at, value) in c.iter().enumerate() {
            match (at / n, at % n) {
                (4, _) => assert_eq!(value.to_bits() & 0x7fff_ffff, f32::NAN.to_bits()),
                (_, 49) => assert_eq!(value.to_bits(), f32::INFINITY.to_bits()),
                _ => assert_eq!(value.to_bits(), 0),
            }
        }
    }
}
