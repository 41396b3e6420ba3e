//! Products of halves that are read where they lie: against f64 on the CPU engine and in the variants of software and real GPUs, and
//! those on cooperative matrices with these written out, as software has none.

use everstep_device::cpu::{Matmul, MatmulHalf};
use everstep_device::functions::Activation;
use everstep_device::{
    Args, Buffer, Cooperative, DType, Device, Dispatch, Element, Generator, GpuTraits, Kernel, Layout, Shader, bf16,
    f16,
};
use everstep_testing::assert_close;

use crate::variants::{both, matrices, normals, product};
use crate::{run, shape, slice, upload, words};

const HALVES: [DType; 2] = [DType::F16, DType::BF16];

/// The bytes of values as halves.
fn encoded(dtype: DType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F16 => f16::encode(&values.iter().map(|&value| f16::from_f32(value)).collect::<Vec<_>>()).to_vec(),
        _ => bf16::encode(&values.iter().map(|&value| bf16::from_f32(value)).collect::<Vec<_>>()).to_vec(),
    }
}

fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        DType::F16 => f16::decode(bytes).into_iter().map(f16::to_f32).collect(),
        DType::BF16 => bf16::decode(bytes).into_iter().map(bf16::to_f32).collect(),
        _ => f32::decode(bytes),
    }
}

/// Half the distance of neighbours, of numbers up to 2.
fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2f64.powi(-11),
        DType::BF16 => 2f64.powi(-8),
        _ => 0.0,
    }
}

/// What the kernel makes of a, b and bias, all NaN before.
fn multiply(device: &Device, kernel: &MatmulHalf, operands: [&[f32]; 3], count: usize) -> Vec<f32> {
    let inputs: Vec<Buffer> = operands.iter().map(|values| upload(device, &encoded(kernel.operands, values))).collect();
    let size = (count * kernel.result.size()).next_multiple_of(4).max(4);
    let target = upload(device, &vec![0xff; size]);
    run(device, kernel.clone(), &inputs.iter().map(slice).collect::<Vec<_>>(), &[slice(&target)]);
    decoded(kernel.result, bytemuck::cast_slice(&words::<u32>(&target)))[..count].to_vec()
}

/// `values` as they are when stored as halves.
fn stored(dtype: DType, values: Vec<f32>) -> Vec<f32> {
    let count = values.len();
    decoded(dtype, &encoded(dtype, &values))[..count].to_vec()
}

/// All ways of turning a and b, with and without a bias of every second of some numbers, behind `offset` halves of something else.
fn check(device: &Device, generator: &mut Generator, [batches, m, n, k]: [usize; 4], offset: usize) {
    let turns = [(false, false), (true, false), (false, true), (true, true)];
    for (turn, (a_turned, b_turned)) in turns.into_iter().enumerate() {
        let (a, b) = (matrices([batches, m, k], a_turned, 1), matrices([batches, k, n], b_turned, offset));
        // Both kinds of halves and of results, and both with a bias and without one, by turns.
        for (case, operands) in [(turn, HALVES[0]), (turn + 1, HALVES[1]), (turn + 2, HALVES[0]), (turn + 3, HALVES[1])]
        {
            let result = if n % 2 == 1 || case % 4 < 2 { DType::F32 } else { operands };
            let left = stored(operands, normals(generator, a.end().max(1)));
            let right = stored(operands, normals(generator, b.end().max(1)));
            let biases = stored(operands, normals(generator, 2 * n + 1));
            let (bias, activation) =
                if case % 2 == 0 { (Some((1, 2)), Activation::Relu) } else { (None, Activation::None) };
            let kernel = MatmulHalf { product: Matmul { a, b, bias, activation }, operands, result };
            let found = multiply(device, &kernel, [&left, &right, &biases], batches * m * n);
            let own: Vec<f32> = biases.iter().skip(1).step_by(2).copied().collect();
            let mut expected = product((&a, &left), (&b, &right), bias.map(|_| &own[..]));
            if activation == Activation::Relu {
                expected.iter_mut().for_each(|value| *value = value.max(0.0));
            }
            let name = format!("{batches} x {m} x {n} x {k} {a_turned} {b_turned} {offset} {operands} to {result}");
            // Sums of k products, each rounded to a part in 2^24 of sums about as large as the root of k; the result is rounded
            // once more to a half, of which the smallest are 2^-24 apart.
            let absolute = 2e-6 * (k as f64 + 1.0).sqrt() + 2f64.powi(-25);
            assert_close(&name, &found, &expected, 1e-5 + unit(result), absolute);
        }
    }
}

const SIZES: [[usize; 4]; 11] = [
    [1, 32, 128, 64],
    [1, 33, 131, 65],
    [1, 1, 2, 1],
    [2, 70, 36, 30],
    [3, 9, 65, 12],
    [1, 40, 10, 50],
    [2, 130, 64, 3],
    [1, 8, 8, 0],
    [1, 129, 255, 40],
    // So many that a real GPU takes the large tiles.
    [64, 100, 130, 9],
    [0, 3, 4, 5],
];

/// Both sides of every edge of the tiles, odd K and N, and matrices that begin within a word.
#[test]
fn products_of_halves_are_right_in_every_variant() {
    both("halves::products_of_halves_are_right_in_every_variant", |device| {
        let mut generator = Generator::new(31);
        for sizes in SIZES {
            check(device, &mut generator, sizes, 4);
        }
        check(device, &mut generator, [2, 33, 36, 20], 1);
        check(device, &mut generator, [2, 5, 7, 9], 3);
    });
}

#[test]
fn products_of_halves_are_right_on_the_cpu() {
    let mut generator = Generator::new(31);
    SIZES.iter().for_each(|sizes| check(&Device::cpu(), &mut generator, *sizes, 1));
}

/// Denormals are numbers, the largest do not overflow on the way, and what does is infinite; NaN and infinity stay in their rows.
#[test]
fn extreme_halves_are_multiplied_exactly() {
    both("halves::extreme_halves_are_multiplied_exactly", |device| {
        for device in [device, &Device::cpu()] {
            let square = |rows, columns| Layout::contiguous(shape(&[rows, columns]));
            let (a, b) = (square(6, 2), square(2, 2));
            let tiny = 2f32.powi(-24);
            let left =
                [tiny, 3.0 * tiny, 65504.0, -65504.0, 65504.0, 65504.0, f32::NAN, 1.0, f32::INFINITY, 1.0, 1.0, 0.0];
            let right = [1.0, 2.0, 1.0, 0.5];
            let product = Matmul { a, b, bias: None, activation: Activation::None };
            let kernel = |result| MatmulHalf { product: product.clone(), operands: DType::F16, result };
            let single = multiply(device, &kernel(DType::F32), [&left, &right, &[0.0]], 12);
            let expected = [4.0 * tiny, 3.5 * tiny, 0.0, 98256.0, 131_008.0, 163_760.0];
            assert_eq!(single[..6], expected, "{device}");
            assert!(single[6].is_nan() && single[7].is_nan(), "{device}");
            assert_eq!(single[8..], [f32::INFINITY, f32::INFINITY, 1.0, 2.0], "{device}");
            let half = multiply(device, &kernel(DType::F16), [&left, &right, &[0.0]], 12);
            // 3.5 units of the smallest half go to the even of two.
            assert_eq!(half[..3], [4.0 * tiny, 4.0 * tiny, 0.0], "{device}");
            assert!(half[3..6].iter().all(|value| *value == f32::INFINITY), "{device}");
            assert!(half[6].is_nan() && half[7].is_nan() && half[8].is_infinite(), "{device}");
        }
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    let square = Layout::contiguous(shape(&[3, 3]));
    let product = Matmul { a: square, b: square, bias: None, activation: Activation::None };
    let check = |operands, result, inputs: [usize; 3], output: usize| {
        MatmulHalf { product: product.clone(), operands, result }.check(&inputs, &[output])
    };
    assert_eq!(check(DType::F16, DType::F32, [5, 5, 0], 9), Ok(()));
    // Nine halves are in five words.
    assert!(
        check(DType::F16, DType::F32, [4, 5, 0], 9).is_err() && check(DType::F16, DType::F32, [5, 5, 0], 8).is_err()
    );
    assert!(check(DType::F16, DType::F16, [5, 5, 0], 9).is_err(), "rows of three halves");
    assert!(
        check(DType::F16, DType::BF16, [5, 5, 0], 9).is_err() && check(DType::F32, DType::F32, [9, 9, 0], 9).is_err()
    );
}

/// `matmul_cooperative.wgsl` with each operation on cooperative matrices as a function, for subgroups of 8 threads, in f32: an operand is
/// a place in workgroup memory, read when it is multiplied, and a thread holds every eighth row of the sums. All else is as on a
/// GPU that has such matrices: what is staged where, which subgroup does what, what is stored.
#[derive(Debug)]
struct WrittenOut {
    kernel: MatmulHalf,
    gpu: GpuTraits,
}

const OPERATIONS: &str = "
var<private> own: u32;
const ROWS: u32 = SIDE / 8u;
const FOURS: u32 = SIDE / 4u;
// The place of the first element, the distances of rows and of columns.
alias Operand = vec3<u32>;
alias Sums = array<vec4<f32>, 8>;
fn rows_of_tile_a(at: u32, pitch: u32) -> Operand { return vec3<u32>(at, pitch, 1u); }
fn columns_of_tile_a(at: u32, pitch: u32) -> Operand { return vec3<u32>(at, 1u, pitch); }
fn rows_of_tile_b(at: u32, pitch: u32) -> Operand { return vec3<u32>(at, pitch, 1u); }
fn columns_of_tile_b(at: u32, pitch: u32) -> Operand { return vec3<u32>(at, 1u, pitch); }
fn multiply_add(left: Operand, right: Operand, first: Sums) -> Sums {
    var sums = first;
    for (var step = 0u; step < SIDE; step++) {
        for (var four = 0u; four < FOURS; four++) {
            let at = right.x + step * right.y + four * 4u * right.z;
            let columns = vec4<f32>(tile_b[at], tile_b[at + right.z], tile_b[at + 2u * right.z], tile_b[at + 3u * right.z]);
            for (var row = 0u; row < ROWS; row++) {
                sums[row * FOURS + four] += tile_a[left.x + (own + row * 8u) * left.y + step * left.z] * columns;
            }
        }
    }
    return sums;
}
fn rows_of_blocks(at: u32, pitch: u32) -> Sums {
    var sums: Sums;
    for (var four = 0u; four < ROWS * FOURS; four++) {
        let place = at + (own + four / FOURS * 8u) * pitch + four % FOURS * 4u;
        sums[four] = vec4<f32>(blocks[place], blocks[place + 1u], blocks[place + 2u], blocks[place + 3u]);
    }
    return sums;
}
fn store_rows(values: Sums, at: u32, pitch: u32) {
    var sums = values;
    for (var four = 0u; four < ROWS * FOURS; four++) {
        let place = at + (own + four / FOURS * 8u) * pitch + four % FOURS * 4u;
        for (var column = 0u; column < 4u; column++) { blocks[place + column] = sums[four][column]; }
    }
}
";

impl WrittenOut {
    fn text(name: &str, constants: &[(&str, u32)]) -> String {
        let mut text = everstep_shaders::source(name).unwrap();
        for (name, value) in constants {
            let line = text.lines().find(|line| line.starts_with(&format!("override {name}: "))).unwrap().to_string();
            text = text.replace(&line, &format!("const {name}: u32 = {value}u;"));
        }
        let kept = |line: &&str| !["//", "enable ", "alias Matrix"].iter().any(|word| line.trim().starts_with(word));
        let mut text: String = text.lines().filter(kept).map(|line| format!("{line}\n")).collect();
        for (from, matrix) in [("tile_a", "MatrixA"), ("tile_b", "MatrixB"), ("blocks", "MatrixC")] {
            for (operation, order) in [("coopLoadT", "rows"), ("coopLoad", "columns")] {
                text = text.replace(&format!("{operation}<{matrix}>(&{from}["), &format!("{order}_of_{from}(["));
            }
            text = text.replace(&format!("-> {matrix} "), "-> Operand ");
        }
        for sums in ["upper_left", "upper_right", "lower_left", "lower_right"] {
            text = text.replace(&format!("coopStoreT({sums}, &blocks["), &format!("store_rows({sums}, ["));
        }
        // A place in an array is an index now.
        text = text
            .replace("([", "(")
            .replace("], PITCH", ", PITCH")
            .replace("], SIDE)", ", SIDE)")
            .replace(", [block", ", block");
        text = text
            .replace("coopMultiplyAdd(", "multiply_add(")
            .replace("f16>", "f32>")
            .replace("array<f16,", "array<f32,");
        text = text.replace(
            "@builtin(subgroup_id) subgroup: u32,\n) {\n",
            "@builtin(subgroup_id) subgroup: u32,\n@builtin(subgroup_invocation_id) thread: u32,\n) {\nown = thread % 8u;\n",
        );
        assert!(!text.contains("coop") && text.contains("own = thread"), "{text}");
        text + OPERATIONS
    }
}

impl Kernel for WrittenOut {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn run(&self, _: &mut Args<'_>) {}

    fn dispatch(&self, _: &GpuTraits) -> Option<Dispatch> {
        let dispatch = self.kernel.dispatch(&self.gpu)?;
        let Shader::File { name, constants } = &dispatch.shader else { panic!("{dispatch:?}") };
        assert!(name.starts_with("matmul_cooperative"), "{name} of {self:?}");
        Some(Dispatch { shader: Shader::Custom(Self::text(name, constants).into()), ..dispatch })
    }
}

/// Operands turned all ways, tiles full and not, exactly four subgroups and more.
#[test]
fn products_on_cooperative_matrices_written_out_are_right() {
    // Only there do subgroups have 8 threads.
    let Some(device) = everstep_testing::gpu().filter(|device| device.info().software) else { return };
    let mut generator = Generator::new(32);
    let cases = [
        ((16, 8), [2, 64, 66, 48], (false, true), DType::F16),
        ((16, 8), [1, 70, 36, 18], (true, false), DType::F32),
        ((16, 32), [1, 36, 32, 16], (false, false), DType::F16),
        ((8, 8), [3, 34, 30, 26], (true, true), DType::F16),
        ((8, 8), [1, 17, 33, 8], (false, true), DType::F32),
    ];
    for ((side, lanes), [batches, m, n, k], (a_turned, b_turned), result) in cases {
        let (a, b) = (matrices([batches, m, k], a_turned, 2), matrices([batches, k, n], b_turned, 4));
        let left = stored(DType::F16, normals(&mut generator, a.end()));
        let right = stored(DType::F16, normals(&mut generator, b.end()));
        let biases = stored(DType::F16, normals(&mut generator, n));
        let product_of = Matmul { a, b, bias: Some((0, 1)), activation: Activation::Relu };
        let kernel = MatmulHalf { product: product_of, operands: DType::F16, result };
        let cooperative = Some(Cooperative { side, lanes });
        let gpu = GpuTraits { software: false, subgroup: 0, max_workgroups: 65_535, cooperative };
        let inputs = [&left, &right, &biases].map(|values| upload(&device, &encoded(DType::F16, values)));
        let target = upload(&device, &vec![0xff; batches * m * n * result.size()]);
        run(&device, WrittenOut { kernel, gpu }, &inputs.each_ref().map(slice), &[slice(&target)]);
        let found = decoded(result, bytemuck::cast_slice(&words::<u32>(&target)));
        let mut expected = product((&a, &left), (&b, &right), Some(&biases));
        expected.iter_mut().for_each(|value| *value = value.max(0.0));
        let name = format!("{side} {lanes} {batches} x {m} x {n} x {k} {a_turned} {b_turned} to {result}");
        // As in `check`.
        let absolute = 2e-6 * (k as f64 + 1.0).sqrt() + 2f64.powi(-25);
        assert_close(&name, &found, &expected, 1e-5 + unit(result), absolute);
    }
}
