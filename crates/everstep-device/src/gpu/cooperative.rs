//! Cooperative matrices: asked of adapters that list them, and used where they give what the plain kernel gives.
//!
//! Drivers and shader compilers are young here. So a device is opened with a trial: a few products by both kernels, and
//! whatever is not as it should be (an error, a number that differs) leaves the device as one without such matrices.
//!
//! One reason is known: naga 30 declares Vulkan's memory model for these shaders, and does not mark what threads share through
//! workgroup memory (wgpu, issue 8805). Drivers that keep to barriers all the same pass the trial. `EVERSTEP_GPU_VARIANTS=plain`
//! keeps a device from trying.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use wgpu::{Adapter, CooperativeMatrixProperties, CooperativeScalarType, Features};

use super::executor::GpuExecutor;
use crate::counters::AtomicCounters;
use crate::cpu::{Matmul, MatmulHalf};
use crate::functions::Activation;
use crate::passes::{MemoryId, Place, Plan, PlannedCommand};
use crate::{Args, Cooperative, DType, Dispatch, Element, GpuTraits, Kernel, Layout, Shape, Work, f16};

/// What a device needs for the kernels.
pub(super) const FEATURES: Features =
    Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(Features::SHADER_F16).union(Features::SUBGROUP);
/// Workgroup memory of `matmul_cooperative.wgsl` with matrices of 16 x 16: two tiles of 64 x 40 f16, four matrices of f32.
const WORKGROUP_BYTES: u32 = 2 * 2 * 64 * 40 + 4 * 4 * 16 * 16;

/// The matrices that an adapter offers; else what is missing.
pub(super) fn offered(adapter: &Adapter) -> Result<Cooperative, &'static str> {
    if std::env::var_os("EVERSTEP_GPU_VARIANTS").is_some_and(|value| value == "plain") {
        return Err("EVERSTEP_GPU_VARIANTS asks for plain kernels");
    }
    if !adapter.features().contains(FEATURES) {
        return Err("the adapter lacks cooperative matrices, f16 or subgroups");
    }
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let side = side(&adapter.cooperative_matrix_properties()).ok_or("no matrices of f16 with sums in f32")?;
    // Where a driver chooses between sizes, there are more subgroups than four in a workgroup, which does no harm.
    let lanes = info.subgroup_max_size;
    let threads = lanes.saturating_mul(4);
    let most = limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x);
    if lanes == 0 || threads > most || limits.max_compute_workgroup_storage_size < WORKGROUP_BYTES {
        return Err("four subgroups or their tiles do not fit into a workgroup");
    }
    Ok(Cooperative { side, lanes })
}

/// The largest square matrices of f16 with sums in f32 that there are kernels for.
fn side(offered: &[CooperativeMatrixProperties]) -> Option<u32> {
    let fits = |side: &u32| {
        let square = |p: &CooperativeMatrixProperties| [p.m_size, p.n_size, p.k_size] == [*side; 3];
        let types = |p: &CooperativeMatrixProperties| (p.ab_type, p.cr_type);
        offered.iter().any(|p| square(p) && types(p) == (CooperativeScalarType::F16, CooperativeScalarType::F32))
    };
    [16, 8].into_iter().find(fits)
}

/// Lets the device use these matrices, if it gives on them what it gives without.
///
/// # Errors
/// Why not; the device is then as it was, unless it is lost.
pub(super) fn adopt(executor: &mut GpuExecutor, cooperative: Cooperative) -> Result<(), String> {
    let plain = executor.traits.clone();
    let traits = GpuTraits { cooperative: Some(cooperative), ..plain.clone() };
    let (first, second) =
        (|kernel: &MatmulHalf| kernel.dispatch(&plain), |kernel: &MatmulHalf| kernel.dispatch(&traits));
    let outcome = catch_unwind(AssertUnwindSafe(|| compare(executor, [&first, &second])));
    outcome.unwrap_or_else(|_| {
        executor.driver.life().end("the driver failed at cooperative matrices");
        Err("the driver panicked".into())
    })?;
    executor.traits = traits;
    Ok(())
}

/// A product, and its a, b and bias.
type Trial = (MatmulHalf, [Vec<f16>; 3]);

/// A way to run a product.
type Way<'a> = &'a dyn Fn(&MatmulHalf) -> Option<Dispatch>;

/// A dispatch that was chosen before.
#[derive(Debug)]
struct Chosen(Dispatch);

impl Kernel for Chosen {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn run(&self, _: &mut Args<'_>) {}

    fn dispatch(&self, _: &GpuTraits) -> Option<Dispatch> {
        Some(self.0.clone())
    }
}

/// Every trial both ways.
fn compare(executor: &mut GpuExecutor, ways: [Way<'_>; 2]) -> Result<(), String> {
    for (kernel, operands) in trials()? {
        let [expected, found] = ways.map(|way| run(executor, &kernel, &operands, way));
        same(&found?, &expected?).map_err(|reason| format!("{reason} of {kernel:?}"))?;
    }
    Ok(())
}

/// Whether all values are the same, bit for bit but for those of NaN.
///
/// Nothing is rounded on the way to what the trials compare: all products and sums are multiples of a common unit and fewer than
/// 2^24 of it, which f32 holds exactly, in whatever order they are added. So a right kernel has no error, and the tolerance is none.
fn same(found: &[f32], expected: &[f32]) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{} values and not {}", found.len(), expected.len()));
    }
    let equal = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    match found.iter().zip(expected).position(|pair| !equal(pair)) {
        Some(at) => Err(format!("value {at} is {} and not {}", found[at], expected[at])),
        None => Ok(()),
    }
}

/// Products that end within tiles of 32 and of 64, of operands turned all ways, as f16 and as f32, with bias and relu and without.
/// Elements are whole numbers from -8 to 23, whose sums over 520 of them are around 29,000: most of those are no f16, which shows if
/// sums are. Every third row is negated. Where there is no bias, some rows are the smallest halves, and there are an infinity
/// and a NaN.
fn trials() -> Result<Vec<Trial>, String> {
    let [batches, m, n, k] = [2, 140, 134, 520];
    let turns = [(false, false), (true, false), (false, true), (true, true)];
    let trial = |(number, (a_turned, b_turned)): (usize, (bool, bool))| {
        let (bias, activation) = match number % 2 {
            0 => (None, Activation::None),
            _ => (Some((1, 1)), Activation::Relu),
        };
        let (a, b) = (layout([batches, m, k], a_turned)?, layout([batches, k, n], b_turned)?);
        let whole = |at: usize, seed: u32| (hashed(at as u32 ^ seed) % 32) as f32 - 8.0;
        let mut left: Vec<f32> = (0..batches * m * k).map(|at| whole(at, 0x1000_0000)).collect();
        let at = |row: usize, step: usize| row * a.strides()[1] + step * a.strides()[2];
        for row in (1..m).step_by(3) {
            (0..k).for_each(|step| left[at(row, step)] *= -1.0);
        }
        if bias.is_none() {
            for row in (0..m).step_by(5) {
                (0..k).for_each(|step| left[at(row, step)] *= 2f32.powi(-24));
            }
            left[at(7, 1)] = f32::INFINITY;
            left[at(m - 1, k - 1)] = f32::NAN;
        }
        let right = (0..batches * k * n).map(|at| whole(at, 0x2000_0000)).collect();
        let biases = (0..n + 1).map(|at| whole(at, 0x3000_0000)).collect();
        let result = if number < 2 { DType::F32 } else { DType::F16 };
        let kernel = MatmulHalf { product: Matmul { a, b, bias, activation }, operands: DType::F16, result };
        Ok((kernel, [left, right, biases].map(|values: Vec<f32>| values.into_iter().map(f16::from_f32).collect())))
    };
    let list: crate::Result<Vec<_>> = turns.into_iter().enumerate().map(trial).collect();
    list.map_err(|error| error.to_string())
}

fn layout([batches, rows, columns]: [usize; 3], turned: bool) -> crate::Result<Layout> {
    match turned {
        true => Layout::contiguous(Shape::new(&[batches, columns, rows])?).permute(&[0, 2, 1]),
        false => Ok(Layout::contiguous(Shape::new(&[batches, rows, columns])?)),
    }
}

/// Bits that look random, by multiplications and shifts (the finisher of MurmurHash3).
fn hashed(number: u32) -> u32 {
    let number = (number ^ (number >> 16)).wrapping_mul(0x85eb_ca6b);
    let number = (number ^ (number >> 13)).wrapping_mul(0xc2b2_ae35);
    number ^ (number >> 16)
}

/// What the kernel makes of the operands, run one way.
fn run(
    executor: &mut GpuExecutor,
    kernel: &MatmulHalf,
    operands: &[Vec<f16>; 3],
    way: Way<'_>,
) -> Result<Vec<f32>, String> {
    let dispatch = way(kernel).ok_or("a product without a shader")?;
    let size = kernel.product.a.shape()[0] * kernel.product.a.shape()[1] * kernel.product.b.shape()[2];
    let uploads = operands.each_ref().map(|halves| f16::encode(halves));
    let target = size * kernel.result.size();
    let memory: Vec<MemoryId> = (0..4).map(MemoryId).collect();
    let bytes = [uploads[0].len(), uploads[1].len(), uploads[2].len(), target];
    let places: Vec<Place> =
        memory.iter().zip(bytes).map(|(&memory, bytes)| Place { memory, offset: 0, bytes }).collect();
    let command = |work, inputs: &[Place], output: &Place| PlannedCommand {
        op: "cooperative",
        work,
        inputs: inputs.to_vec(),
        outputs: vec![*output],
    };
    let mut plan = Plan::default();
    plan.commands =
        uploads.into_iter().zip(&places).map(|(data, place)| command(Work::Upload(data), &[], place)).collect();
    // What a kernel leaves out shows.
    let before: Arc<[u8]> = vec![0xff; target].into();
    plan.commands.push(command(Work::Upload(before), &[], &places[3]));
    plan.commands.push(command(Work::Kernel(Arc::new(Chosen(dispatch))), &places[..3], &places[3]));
    let create: Vec<_> = memory.iter().copied().zip(bytes).collect();
    let outcome = executor
        .create(&create)
        .and_then(|()| executor.run(&plan, &AtomicCounters::default(), None))
        .and_then(|()| executor.read(&places[3..], None)?.wait());
    executor.destroy(&memory);
    let parts = outcome.map_err(|error| error.to_string())?;
    Ok(match kernel.result {
        DType::F16 => f16::decode(&parts[0]).into_iter().map(f16::to_f32).collect(),
        _ => f32::decode(&parts[0]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shader;

    #[test]
    fn the_largest_squares_of_f16_with_sums_in_f32_are_taken() {
        use CooperativeScalarType::{F16, F32};
        let of = |sizes: [u32; 3], ab_type, cr_type| CooperativeMatrixProperties {
            m_size: sizes[0],
            n_size: sizes[1],
            k_size: sizes[2],
            ab_type,
            cr_type,
            saturating_accumulation: false,
        };
        assert_eq!(side(&[]), None);
        assert_eq!(side(&[of([16; 3], F16, F16), of([8; 3], F32, F32), of([16, 8, 16], F16, F32)]), None);
        assert_eq!(side(&[of([8; 3], F16, F32)]), Some(8));
        assert_eq!(side(&[of([8; 3], F16, F32), of([16; 3], F32, F32), of([16; 3], F16, F32)]), Some(16));
    }

    #[test]
    fn what_differs_is_found() {
        assert_eq!(same(&[1.0, f32::NAN, f32::INFINITY], &[1.0, -f32::NAN, f32::INFINITY]), Ok(()));
        assert_eq!(same(&[1.0, 2.0, 2.0], &[1.0, 3.0, 4.0]), Err("value 1 is 2 and not 3".into()));
        for (found, expected) in [(0.0, -0.0), (f32::NAN, 1.0), (1.0, f32::NAN), (4500.0, 4501.0)] {
            assert!(same(&[found], &[expected]).is_err(), "{found} {expected}");
        }
        assert!(same(&[1.0], &[]).is_err());
    }

    /// Nothing is rounded: f64 and f32 agree, forwards and backwards; and sums in f16 would not.
    #[test]
    fn trials_are_exact() {
        let mut no_halves = 0;
        for (kernel, [left, right, biases]) in trials().unwrap() {
            let (a, b) = (&kernel.product.a, &kernel.product.b);
            let (rows, columns, steps) = (a.shape()[1], b.shape()[2], a.shape()[2]);
            for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                let value = |step: usize| {
                    let left = left[row * a.strides()[1] + step * a.strides()[2]].to_f32();
                    left * right[step * b.strides()[1] + column * b.strides()[2]].to_f32()
                };
                let first = if kernel.product.bias.is_some() { biases[1 + column].to_f32() } else { 0.0 };
                let forwards = (0..steps).fold(first, |sum, step| sum + value(step));
                let backwards = (0..steps).rev().fold(0.0, |sum, step| sum + value(step)) + first;
                let exact = (0..steps).fold(f64::from(first), |sum, step| sum + f64::from(value(step)));
                if exact.is_finite() {
                    assert_eq!((f64::from(forwards), f64::from(backwards)), (exact, exact));
                    no_halves += usize::from(f16::from_f32(forwards).to_f32() != forwards);
                } else {
                    assert!(!forwards.is_finite() && !backwards.is_finite());
                }
            }
        }
        assert!(no_halves > 5000, "{no_halves}");
    }

    /// An executor on the best GPU; `None` on a machine without one, unless tests must have one.
    fn executor() -> Option<Box<GpuExecutor>> {
        use crate::executor::Executor;
        let found = super::super::adapters::choose("");
        if std::env::var_os("EVERSTEP_REQUIRE_GPU").is_some_and(|value| value == "1") {
            found.as_ref().unwrap();
        }
        let (index, adapter) = found.ok()?;
        let opened = super::super::adapters::connect(index, &adapter, 0, &Arc::default()).unwrap();
        match opened.executor {
            Executor::Gpu(executor) => Some(executor),
            _ => None,
        }
    }

    const SOFTWARE: GpuTraits = GpuTraits { software: true, subgroup: 0, max_workgroups: 65_535, cooperative: None };
    const HARDWARE: GpuTraits = GpuTraits { software: false, ..SOFTWARE };

    /// Two right kernels agree, and one that is wrong in one place is found.
    #[test]
    fn kernels_are_told_apart() {
        let Some(mut executor) = executor() else { return };
        let (rows, tiles) =
            (|kernel: &MatmulHalf| kernel.dispatch(&SOFTWARE), |kernel: &MatmulHalf| kernel.dispatch(&HARDWARE));
        assert_eq!(compare(&mut executor, [&rows, &tiles]), Ok(()));
        let no_relu = |kernel: &MatmulHalf| {
            let mut dispatch = kernel.dispatch(&HARDWARE)?;
            if let Shader::File { constants, .. } = &mut dispatch.shader {
                constants.iter_mut().filter(|(name, _)| *name == "ACTIVATION").for_each(|(_, value)| *value = 0);
            }
            Some(dispatch)
        };
        assert!(compare(&mut executor, [&rows, &no_relu]).unwrap_err().starts_with("value "));
        // One workgroup too few: a part of the last matrix is what was there before.
        let too_few = |kernel: &MatmulHalf| {
            let dispatch = kernel.dispatch(&HARDWARE)?;
            Some(Dispatch { workgroups: [dispatch.workgroups[0] - 1, 1, 1], ..dispatch })
        };
        assert!(compare(&mut executor, [&rows, &too_few]).unwrap_err().contains("is NaN and not"));
        let one_step_short = |kernel: &MatmulHalf| {
            let mut dispatch = kernel.dispatch(&HARDWARE)?;
            dispatch.params[2] -= 1;
            Some(dispatch)
        };
        assert!(compare(&mut executor, [&rows, &one_step_short]).is_err());
        let nothing = |_: &MatmulHalf| None;
        assert!(compare(&mut executor, [&rows, &nothing]).is_err());
    }

    /// A device that does not have what it is said to have stays as it was, and goes on.
    #[test]
    fn matrices_that_are_not_there_are_not_used() {
        let Some(mut executor) = executor() else { return };
        if let Some(found) = executor.traits.cooperative {
            assert_eq!(adopt(&mut executor, found), Ok(()));
            return;
        }
        for side in [16, 8] {
            let reason = adopt(&mut executor, Cooperative { side, lanes: 8 }).unwrap_err();
            assert!(reason.to_lowercase().contains("matmul"), "{reason}");
            assert_eq!(executor.traits.cooperative, None);
        }
        let (rows, tiles) =
            (|kernel: &MatmulHalf| kernel.dispatch(&SOFTWARE), |kernel: &MatmulHalf| kernel.dispatch(&HARDWARE));
        assert_eq!(compare(&mut executor, [&rows, &tiles]), Ok(()));
    }
}
