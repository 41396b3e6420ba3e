//! Which shader computes what on which kind of GPU, and how its work is cut into workgroups.
//!
//! Drivers in software run the threads of a subgroup in the lanes of a processor's vector. There the `_lanes` shaders are
//! the fast ones; they are written for 8 lanes, which is what llvmpipe has on a processor with AVX.

use crate::{Cooperative, DType, GpuTraits, Layout};

/// Lanes that the `_lanes` shaders are written for.
const LANES: u32 = 8;
/// Threads of a workgroup of the kernels of rows.
const ROW_GROUP: usize = 64;

/// Workgroups that keep a GPU busy: tiles are made no larger where there would be fewer.
const BUSY: usize = 64;

/// Whether the `_lanes` shaders run, and run well.
fn lanes(gpu: &GpuTraits) -> bool {
    gpu.software && gpu.subgroup == LANES
}

/// A variant of a shader: its name, constants of its own, and how many workgroups it takes.
#[derive(Debug, PartialEq)]
pub(crate) struct Tiles {
    pub(crate) name: &'static str,
    pub(crate) constants: Vec<(&'static str, u32)>,
    pub(crate) workgroups: usize,
}

/// Whether a vec4 holds four neighbours along an axis, counted from the last.
fn in_fours(layout: &Layout, from_last: usize) -> bool {
    in_groups(layout, from_last, 4)
}

/// Whether so many neighbours along an axis, counted from the last, can be read as one: no gaps, and every row along it begins at
/// a multiple of their number, and ends at one.
fn in_groups(layout: &Layout, from_last: usize, size: usize) -> bool {
    let (shape, strides) = (layout.shape(), layout.strides());
    let along = shape.rank() - 1 - from_last;
    let aligned = |axis: usize| axis == along || shape[axis] == 1 || strides[axis].is_multiple_of(size);
    let gapless = strides[along] == 1 && shape[along].is_multiple_of(size);
    gapless && layout.offset().is_multiple_of(size) && (0..shape.rank()).all(aligned)
}

/// Tiles of workgroup memory, the larger ones where there are enough of them to keep a GPU busy.
fn square_tiles([plain, large]: [&'static str; 2], (m, n): (usize, usize), batches: usize) -> Tiles {
    let tiles = |size: usize| m.div_ceil(size) * n.div_ceil(size) * batches;
    let (name, workgroups) = match tiles(128) {
        enough if enough >= BUSY && m.min(n) >= 96 => (large, enough),
        _ => (plain, tiles(64)),
    };
    Tiles { name, constants: vec![], workgroups }
}

/// Four rows for each thread, without workgroup memory.
fn rows_of_four(name: &'static str, (m, n): (usize, usize), batches: usize) -> Tiles {
    let threads = n.div_ceil(4).next_multiple_of(8).next_power_of_two().min(64);
    let workgroups = m.div_ceil(4) * n.div_ceil(4 * threads) * batches;
    Tiles { name, constants: vec![("LANES", threads as u32)], workgroups }
}

/// The shader of C = A B of m x n x k, `batches` times.
pub(crate) fn matmul(gpu: &GpuTraits, (m, n, k): (usize, usize, usize), batches: usize, b: &Layout) -> Tiles {
    if !gpu.software {
        return square_tiles(["matmul", "matmul_large"], (m, n), batches);
    }
    // Of few rows the tile of 32 would be mostly empty.
    if lanes(gpu) && m > 6 && k > 0 {
        // Other widths than one would only be more pipelines, each of which takes a quarter of a second to build.
        let mut constants = vec![("LANES", 32), ("TAIL", u32::from(!k.is_multiple_of(4)))];
        let workgroups = m.div_ceil(32) * n.div_ceil(128) * batches;
        let (rows, columns) = (in_fours(b, 0), in_fours(b, 1));
        if !n.is_multiple_of(4) || !(rows || columns) {
            return Tiles { name: "matmul_ragged_lanes", constants, workgroups };
        }
        constants.push(("TRANSPOSED", u32::from(!rows)));
        return Tiles { name: "matmul_lanes", constants, workgroups };
    }
    rows_of_four("matmul_rows", (m, n), batches)
}

/// The shader of such a product of halves. There is none for lanes in software, where halves save nothing.
pub(crate) fn matmul_half(
    gpu: &GpuTraits,
    (m, n, k): (usize, usize, usize),
    batches: usize,
    (operands, layouts): (DType, [&Layout; 2]),
) -> Tiles {
    if let Some(tiles) = cooperative(gpu, (m, n, k), batches, layouts).filter(|_| operands == DType::F16) {
        return tiles;
    }
    match gpu.software {
        true => rows_of_four("matmul_half_rows", (m, n), batches),
        false => square_tiles(["matmul_half", "matmul_half_large"], (m, n), batches),
    }
}

/// The shader of such a product on cooperative matrices, where there are any, a half of their tile is full, and pairs of f16 can be
/// read as words.
fn cooperative(
    gpu: &GpuTraits,
    (m, n, k): (usize, usize, usize),
    batches: usize,
    layouts: [&Layout; 2],
) -> Option<Tiles> {
    let Cooperative { side, lanes } = gpu.cooperative?;
    let name = match side {
        16 => "matmul_cooperative",
        8 => "matmul_cooperative_8",
        _ => return None,
    };
    let side = side as usize;
    if m.min(n) < 2 * side || k < side {
        return None;
    }
    let turned = |layout: &Layout| (0..2).find(|from_last| in_groups(layout, *from_last, 2));
    let (a_turned, b_turned) = (turned(layouts[0])?, turned(layouts[1])?);
    let constants = vec![("LANES", 4 * lanes), ("A_TURNED", a_turned as u32), ("B_TURNED", b_turned as u32)];
    Some(Tiles { name, constants, workgroups: m.div_ceil(4 * side) * n.div_ceil(4 * side) * batches })
}

/// Steps of K under which a part is not worth its write and its sum.
const PART: usize = 256;

/// Into how many parts of how many steps K is cut, where the tiles of C alone would leave most of a GPU idle; the last steps
/// may be left over.
pub(crate) fn split(gpu: &GpuTraits, (m, n, k): (usize, usize, usize), batches: usize) -> Option<(usize, usize)> {
    let tiles = m.div_ceil(64) * n.div_ceil(64) * batches;
    if gpu.software || tiles == 0 || tiles > BUSY / 2 || k < 4 * PART {
        return None;
    }
    let parts = (2 * BUSY / tiles).min(k / PART);
    // Whole steps of a tile.
    let length = k / parts / 16 * 16;
    Some((k / length, length))
}

/// Channels of a result up to which no tiles of a convolution are worth it: most of them would be empty.
const FEW_CHANNELS: usize = 8;

/// The shader of a convolution, or of its input's gradient, from so many channels per group to so many.
pub(crate) fn conv2d(gpu: &GpuTraits, (sources, results): (usize, usize), positions: usize, groups: usize) -> Tiles {
    let few = results <= FEW_CHANNELS;
    let (name, [high, wide]) = match (few, gpu.software) {
        (false, false) => ("conv2d_tiles", [64, 64]),
        (false, true) if lanes(gpu) => ("conv2d_lanes", [32, 128]),
        _ => ("conv2d", [8, 256]),
    };
    let tail = (name == "conv2d_lanes").then(|| ("TAIL", u32::from(!sources.is_multiple_of(4))));
    let workgroups = results.div_ceil(high) * positions.div_ceil(wide) * groups;
    Tiles { name, constants: tail.into_iter().collect(), workgroups }
}

/// The shader of the gradient of a convolution's weight, [outputs, depth] in so many parts and groups, from rows of `width`.
pub(crate) fn conv2d_backward_weight(
    gpu: &GpuTraits,
    (outputs, depth, width): (usize, usize, usize),
    parts: usize,
) -> Tiles {
    let few = outputs <= FEW_CHANNELS;
    let (name, [high, wide]) = match (few, gpu.software) {
        (false, false) => ("conv2d_backward_weight_tiles", [64, 64]),
        (false, true) if lanes(gpu) => ("conv2d_backward_weight_lanes", [32, 128]),
        _ => ("conv2d_backward_weight", [4, 256]),
    };
    let tail = (name == "conv2d_backward_weight_lanes").then(|| ("TAIL", u32::from(!width.is_multiple_of(4))));
    let workgroups = outputs.div_ceil(high) * depth.div_ceil(wide) * parts;
    Tiles { name, constants: tail.into_iter().collect(), workgroups }
}

/// How many threads share a row of a kernel of rows, and how many workgroups that makes.
pub(crate) fn rows(gpu: &GpuTraits, rows: usize, columns: usize) -> (u32, usize) {
    let threads = match gpu.software {
        // Alone, a thread needs no barriers; but its sums are long, and llvmpipe ends its loops after 65,535 rounds.
        true if rows >= 8 && columns <= 4096 => 1,
        true => ROW_GROUP,
        false => columns.next_power_of_two().clamp(4, ROW_GROUP),
    };
    (threads as u32, rows.div_ceil(ROW_GROUP / threads))
}

/// How many times a thread of an update kernel takes `stride` elements, and how many workgroups of 256 that makes.
pub(crate) fn updates(gpu: &GpuTraits, count: usize, stride: usize) -> (u32, usize) {
    // What a thread adds to the sums of the step at its end is a lock for each on a driver in software.
    let times = if gpu.software { 16 } else { 8 / stride };
    (times as u32, count.div_ceil(256 * times * stride))
}

/// The constants of attention in lanes, where it can be; `operands` are all that it reads and writes as rows.
pub(crate) fn attention_lanes(
    gpu: &GpuTraits,
    (width, value_width): (usize, usize),
    masked: bool,
    operands: &[&Layout],
) -> Option<Vec<(&'static str, u32)>> {
    let fits = |width: usize| (4..=64).contains(&width);
    let fours = operands.iter().all(|layout| in_fours(layout, 0) && !layout.shape().contains(&0));
    let all = lanes(gpu) && fits(width) && fits(value_width) && fours;
    let constants = [width as u32 / 4, value_width as u32 / 4, u32::from(masked)];
    all.then(|| ["WIDTH", "VALUE_WIDTH", "MASKED"].into_iter().zip(constants).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;

    const GPU: GpuTraits = GpuTraits { software: false, subgroup: 32, max_workgroups: 65_535, cooperative: None };
    const SOFTWARE: GpuTraits = GpuTraits { software: true, subgroup: 8, max_workgroups: 65_535, cooperative: None };
    const NARROW: GpuTraits = GpuTraits { software: true, subgroup: 4, max_workgroups: 65_535, cooperative: None };

    fn dense(dims: &[usize]) -> Layout {
        Layout::contiguous(Shape::new(dims).unwrap())
    }

    fn name(gpu: &GpuTraits, sizes: (usize, usize, usize), b: &Layout) -> &'static str {
        matmul(gpu, sizes, 1, b).name
    }

    #[test]
    fn matmul_in_lanes_needs_columns_in_fours() {
        let b = dense(&[64, 128]);
        assert_eq!(name(&SOFTWARE, (32, 128, 64), &b), "matmul_lanes");
        assert_eq!(name(&NARROW, (32, 128, 64), &b), "matmul_rows");
        assert_eq!(name(&SOFTWARE, (4, 128, 64), &b), "matmul_rows");
        assert_eq!(name(&SOFTWARE, (32, 126, 64), &dense(&[64, 126])), "matmul_ragged_lanes");
        assert_eq!(name(&SOFTWARE, (32, 128, 64), &dense(&[128, 64]).permute(&[1, 0]).unwrap()), "matmul_lanes");
        // Transposed, with columns of 65; and rows that begin one element behind a multiple of 4.
        assert_eq!(name(&SOFTWARE, (32, 128, 65), &dense(&[128, 65]).permute(&[1, 0]).unwrap()), "matmul_ragged_lanes");
        assert_eq!(name(&SOFTWARE, (32, 8, 64), &dense(&[64, 9]).slice(1, 1, 9, 1).unwrap()), "matmul_ragged_lanes");
        let tiles = matmul(&SOFTWARE, (33, 132, 65), 2, &dense(&[2, 65, 132]));
        assert_eq!((tiles.workgroups, &tiles.constants[1..]), (8, &[("TAIL", 1), ("TRANSPOSED", 0)][..]));
        assert_eq!(matmul(&SOFTWARE, (3, 10, 65), 1, &dense(&[65, 10])).constants, [("LANES", 8)]);
    }

    #[test]
    fn tiles_are_large_where_there_are_enough() {
        assert_eq!(name(&GPU, (1024, 1024, 64), &dense(&[64, 1024])), "matmul_large");
        assert_eq!(name(&GPU, (512, 512, 64), &dense(&[64, 512])), "matmul");
        assert_eq!(matmul(&GPU, (65, 64, 3), 100, &dense(&[100, 3, 64])).name, "matmul");
    }

    /// The shader of a product of such halves, of dense operands.
    fn half(gpu: &GpuTraits, (m, n, k): (usize, usize, usize), operands: DType) -> Tiles {
        matmul_half(gpu, (m, n, k), 1, (operands, [&dense(&[m, k]), &dense(&[k, n])]))
    }

    #[test]
    fn k_is_cut_where_tiles_are_few() {
        assert_eq!(split(&GPU, (64, 128, 12_544), 1), Some((49, 256)));
        assert_eq!(split(&GPU, (10, 10, 100_003), 1), Some((130, 768)));
        assert_eq!((split(&GPU, (320, 384, 1024), 1), split(&GPU, (1, 1, 1023), 1)), (Some((4, 256)), None));
        assert_eq!((split(&GPU, (512, 512, 4096), 1), split(&GPU, (64, 64, 4096), 33)), (None, None));
        assert_eq!((split(&SOFTWARE, (64, 128, 12_544), 1), split(&GPU, (0, 8, 4096), 1)), (None, None));
    }

    #[test]
    fn convolutions_have_tiles_where_channels_fill_them() {
        let wide = |gpu| conv2d(gpu, (9, 64), 1000, 2);
        assert_eq!((wide(&GPU).name, wide(&GPU).workgroups), ("conv2d_tiles", 32));
        assert_eq!((wide(&SOFTWARE).name, wide(&SOFTWARE).workgroups), ("conv2d_lanes", 32));
        assert_eq!(wide(&SOFTWARE).constants, [("TAIL", 1)]);
        assert_eq!((wide(&NARROW).name, conv2d(&GPU, (64, 8), 1000, 2).workgroups), ("conv2d", 8));
        let weight = |gpu, outputs| conv2d_backward_weight(gpu, (outputs, 288, 28), 16);
        assert_eq!((weight(&GPU, 65).name, weight(&GPU, 65).workgroups), ("conv2d_backward_weight_tiles", 160));
        assert_eq!(weight(&SOFTWARE, 64).name, "conv2d_backward_weight_lanes");
        assert_eq!((weight(&SOFTWARE, 1).name, weight(&SOFTWARE, 0).workgroups), ("conv2d_backward_weight", 0));
    }

    #[test]
    fn halves_have_shaders_of_their_own() {
        let name = |gpu: &GpuTraits, sizes| half(gpu, sizes, DType::F16).name;
        assert_eq!(name(&GPU, (1024, 1024, 64)), "matmul_half_large");
        assert_eq!((name(&GPU, (512, 512, 64)), name(&SOFTWARE, (512, 512, 64))), ("matmul_half", "matmul_half_rows"));
    }

    #[test]
    fn cooperative_matrices_are_for_large_products_of_f16_in_pairs() {
        let gpu = GpuTraits { cooperative: Some(Cooperative { side: 16, lanes: 32 }), ..GPU };
        let tiles = half(&gpu, (65, 130, 18), DType::F16);
        assert_eq!((tiles.name, tiles.workgroups), ("matmul_cooperative", 2 * 3));
        assert_eq!(tiles.constants, [("LANES", 128), ("A_TURNED", 0), ("B_TURNED", 0)]);
        let name = |sizes, operands| half(&gpu, sizes, operands).name;
        assert_eq!(name((65, 130, 18), DType::BF16), "matmul_half");
        // Too few rows, columns or steps; an odd size along which elements lie.
        for sizes in [(31, 130, 18), (65, 30, 18), (65, 130, 14), (65, 130, 17), (65, 131, 18)] {
            assert_eq!(name(sizes, DType::F16), "matmul_half", "{sizes:?}");
        }
        // An odd number of rows alone is none along which elements lie, unless A is turned.
        let turned = |rows, columns| dense(&[columns, rows]).permute(&[1, 0]).unwrap();
        let of = |a: &Layout, b: &Layout| {
            matmul_half(&gpu, (a.shape()[0], b.shape()[1], a.shape()[1]), 1, (DType::F16, [a, b]))
        };
        assert_eq!(of(&turned(65, 32), &dense(&[32, 64])).name, "matmul_half");
        let both = of(&turned(64, 33), &turned(33, 64));
        assert_eq!(both.name, "matmul_half", "an odd K that B lies along");
        let both = of(&turned(64, 34), &turned(34, 65));
        assert_eq!((both.name, &both.constants[1..]), ("matmul_cooperative", &[("A_TURNED", 1), ("B_TURNED", 1)][..]));
        // Behind one half of something else, no pair lies in a word; behind two it does.
        let behind = |first| dense(&[64, 70]).slice(1, first, first + 64, 1).unwrap();
        assert_eq!(of(&behind(1), &dense(&[64, 64])).name, "matmul_half");
        assert_eq!(of(&behind(2), &dense(&[64, 64])).name, "matmul_cooperative");
        // Matrices of a batch that are the same one; and those whose rows are apart by gaps.
        let batch = Shape::new(&[3, 64, 64]).unwrap();
        let shared = dense(&[1, 64, 64]).broadcast_to(&batch).unwrap();
        let tiles = matmul_half(&gpu, (64, 64, 64), 3, (DType::F16, [&shared, &dense(&[3, 64, 64])]));
        assert_eq!((tiles.name, tiles.workgroups), ("matmul_cooperative", 3));
        assert_eq!(of(&dense(&[64, 128]).slice(1, 0, 128, 2).unwrap(), &dense(&[64, 64])).name, "matmul_half");

        let small = GpuTraits { cooperative: Some(Cooperative { side: 8, lanes: 32 }), ..GPU };
        assert_eq!(half(&small, (33, 32, 8), DType::F16).workgroups, 2);
        assert_eq!(half(&small, (33, 32, 8), DType::F16).name, "matmul_cooperative_8");
        let unknown = GpuTraits { cooperative: Some(Cooperative { side: 32, lanes: 32 }), ..GPU };
        assert_eq!(half(&unknown, (512, 512, 64), DType::F16).name, "matmul_half");
    }

    #[test]
    fn rows_have_as_many_threads_as_they_have_work_for() {
        assert_eq!(rows(&GPU, 10, 1000), (64, 10));
        assert_eq!(rows(&GPU, 10, 10), (16, 3));
        assert_eq!(rows(&SOFTWARE, 130, 1000), (1, 3));
        assert_eq!((rows(&SOFTWARE, 3, 1000), rows(&SOFTWARE, 130, 5000)), ((64, 3), (64, 130)));
    }
}
