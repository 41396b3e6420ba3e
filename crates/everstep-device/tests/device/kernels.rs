//! Kernels of programs that use this crate, shaders that do not compile, aliasing, errors in data, large grids.

use std::borrow::Cow;

use everstep_device::cpu::{CrossEntropy, CrossEntropyParams};
use everstep_device::{Args, Buffer, DType, Device, DeviceKind, Dispatch, Error, GpuTraits, Kernel, Shader, Slice};
use everstep_testing::devices;

use crate::{addition, alone, bytes, new, run, slice, undisturbed, upload_words, words};

/// A kernel as a user writes one: y = factor x over f32, in any WGSL.
#[derive(Debug)]
struct Scale {
    factor: f32,
    count: usize,
    source: Cow<'static, str>,
}

const SCALE: &str = "
    struct Params { factor: f32, count: u32 }
    @group(0) @binding(0) var<storage, read> x: array<f32>;
    @group(0) @binding(1) var<storage, read_write> y: array<f32>;
    @group(1) @binding(0) var<uniform> params: Params;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        if id.x < params.count { y[id.x] = params.factor * x[id.x]; }
    }";

impl Scale {
    fn new(factor: f32, count: usize) -> Self {
        Self { factor, count, source: SCALE.into() }
    }
}

impl Kernel for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn run(&self, args: &mut Args<'_>) {
        let x = args.input::<f32>(0);
        args.output::<f32>(0).iter_mut().zip(x).for_each(|(y, x)| *y = self.factor * x);
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let params = vec![self.factor.to_bits(), self.count as u32];
        let shader = Shader::Custom(self.source.clone());
        (self.count > 0).then(|| Dispatch { shader, params, workgroups: gpu.grid(self.count.div_ceil(64)) })
    }
}

/// Writes 7 to the first word of each output: no inputs needed, no uniform.
#[derive(Debug)]
struct Seven;

impl Kernel for Seven {
    fn name(&self) -> &'static str {
        "seven"
    }

    fn run(&self, args: &mut Args<'_>) {
        args.outputs.iter_mut().for_each(|output| output[0] = 7);
    }

    fn dispatch(&self, _: &GpuTraits) -> Option<Dispatch> {
        let source = "@group(0) @binding(1) var<storage, read_write> y: array<u32>;
            @compute @workgroup_size(1) fn main() { y[0] = 7u; }";
        Some(Dispatch { shader: Shader::Custom(source.into()), params: vec![], workgroups: [1; 3] })
    }
}

fn scale(x: &Buffer, factor: f32) -> Buffer {
    let y = new(x.device(), x.bytes());
    run(x.device(), Scale::new(factor, x.bytes() / 4), &[slice(x)], &[slice(&y)]);
    y
}

#[test]
fn a_programs_own_kernel_runs_everywhere() {
    for device in devices() {
        for count in [0usize, 1, 63, 64, 65, 1000] {
            let x: Vec<f32> = (0..count).map(|i| i as f32 - 5.0).collect();
            let y = scale(&scale(&upload_words(&device, &x), 3.0), -0.5);
            assert_eq!(words::<f32>(&y), x.iter().map(|x| -0.5 * (3.0 * x)).collect::<Vec<_>>(), "{device}, {count}");
        }
    }
}

#[test]
fn an_empty_input_at_the_end_of_its_buffer_can_be_bound() {
    for device in devices() {
        let (x, y) = (upload_words(&device, &[1u32; 64]), new(&device, 4));
        run(&device, Seven, &[x.part(256, 0).unwrap().slice()], &[slice(&y)]);
        assert_eq!(words::<u32>(&y), [7], "{device}");
    }
}

/// The same source, its bindings two inputs and an output or an input and two outputs.
#[test]
fn a_shader_serves_commands_of_different_shapes() {
    for device in devices() {
        let x = upload_words(&device, &[1u32; 8]);
        let (y, z) = (new(&device, 4), new(&device, 4));
        run(&device, Seven, &[slice(&x)], &[slice(&y)]);
        run(&device, Seven, &[], &[slice(&z), slice(&new(&device, 32))]);
        assert_eq!(words::<u32>(&y), [7], "{device}");
        let outcome = bytes(&device, slice(&z));
        assert!(outcome.is_ok(), "{device}: {outcome:?}");
    }
}

#[test]
fn a_shader_that_does_not_compile_is_an_error_and_the_device_works_on() {
    alone("kernels::a_shader_that_does_not_compile_is_an_error_and_the_device_works_on", &[], || {
        let wrong = [
            "this is no WGSL".to_string(),
            String::new(),
            SCALE.replace("params.factor * x[id.x]", "params.factor * id"),
            SCALE.replace("fn main", "fn other"),
            SCALE.replace("@binding(1)", "@binding(5)"),
            SCALE.replace("@workgroup_size(64)", "@workgroup_size(1000000)"),
        ];
        for device in undisturbed() {
            let held = upload_words(&device, &[1.0f32; 8]);
            device.flush().unwrap();
            for source in &wrong {
                // The second time it is not in a cache either.
                for time in 0..2 {
                    let y = new(&device, 32);
                    let kernel = Scale { source: source.clone().into(), ..Scale::new(2.0, 8) };
                    run(&device, kernel, &[slice(&held)], &[slice(&y)]);
                    let outcome = device.flush();
                    if device.info().kind == DeviceKind::Cpu {
                        assert_eq!(outcome, Ok(()));
                        continue;
                    }
                    match outcome {
                        Err(Error::Driver { op, reason, .. }) => {
                            assert!(op == "test" && !reason.is_empty(), "{op}: {reason}")
                        }
                        other => panic!("{device}, time {time}, {source}: {other:?}"),
                    }
                    let outcome = bytes(&device, slice(&y));
                    assert!(matches!(outcome, Err(Error::Unwritten { .. })), "{outcome:?}");
                }
                assert_eq!(words::<f32>(&scale(&held, 2.0)), [2.0; 8], "{device}");
            }
        }
    });
}

#[test]
fn an_input_may_be_the_output_or_overlap_it() {
    for device in devices() {
        // (first byte of a, of b, of the sum), 100 elements each, in one buffer of 1024 bytes
        for (a, b, sum) in [(0, 0, 0), (0, 256, 0), (256, 0, 0), (0, 512, 256), (512, 256, 0), (256, 256, 512)] {
            let x: Vec<f32> = (0..256).map(|i| (i * i % 97) as f32).collect();
            let buffer = upload_words(&device, &x);
            let part = |offset| Slice { offset, bytes: 400, ..slice(&buffer) };
            run(&device, addition(DType::F32, 100), &[part(a), part(b)], &[part(sum)]);
            let mut expected = x.clone();
            for i in 0..100 {
                expected[sum / 4 + i] = x[a / 4 + i] + x[b / 4 + i];
            }
            assert_eq!(words::<f32>(&buffer), expected, "{device}: {a} + {b} into {sum}");
        }
    }
}

#[test]
fn two_outputs_may_be_parts_of_one_buffer() {
    for device in devices() {
        let x = upload_words(&device, &[1.0f32, 2.0]);
        let both = upload_words(&device, &[0.0f32; 128]);
        let (low, high) = (Slice { bytes: 8, ..slice(&both) }, both.part(256, 8).unwrap().slice());
        let mut kernel = addition(DType::F32, 2);
        let sum = everstep_device::expr::Expr::input(0, DType::F32) + everstep_device::expr::Expr::input(1, DType::F32);
        let twice = sum.clone() + sum.clone();
        kernel.program = std::sync::Arc::new(everstep_device::expr::Program::new(&[DType::F32; 2], &[sum, twice]));
        kernel.outputs = vec![kernel.outputs[0]; 2];
        run(&device, kernel, &[slice(&x), slice(&x)], &[low, high]);
        let found = words::<f32>(&both);
        assert_eq!((&found[..3], &found[64..67]), (&[2.0, 4.0, 0.0][..], &[4.0, 8.0, 0.0][..]), "{device}");
    }
}

/// Records the cross-entropy of rows of 10 equal logits: the loss.
fn cross_entropy(device: &Device, labels: &[u32]) -> Buffer {
    let rows = labels.len();
    let (logits, labels) = (upload_words(device, &vec![0.0f32; rows * 10]), upload_words(device, labels));
    let (loss, sums) = (new(device, rows * 4), new(device, rows * 8));
    let params = CrossEntropyParams { rows: rows as u32, classes: 10, label_stride: 1, ..Default::default() };
    let inputs = [slice(&logits), slice(&labels)];
    run(device, CrossEntropy(params), &inputs, &[slice(&loss), slice(&sums), device.status()]);
    loss
}

#[test]
fn an_error_in_data_appears_with_the_next_read_back_and_is_gone_after() {
    alone("kernels::an_error_in_data_appears_with_the_next_read_back_and_is_gone_after", &[], || {
        for device in undisturbed() {
            let read = |labels: &[u32]| device.read(&[slice(&cross_entropy(&device, labels))]).unwrap();
            let error = |value: u32| Err(Error::OutOfRange { op: "cross_entropy", value, bound: 10 });
            let good = |when: &str| {
                let loss: Vec<f32> = words(&cross_entropy(&device, &[0, 9, 5]));
                assert!(loss.iter().all(|loss| (loss - 10f32.ln()).abs() < 1e-5), "{device} {when}: {loss:?}");
            };
            good("at first");
            let before = read(&[1, 2, 3]);
            assert_eq!(read(&[3, 12, 700, 11, 9, 10]).wait(), error(700), "{device}: the worst of several");
            assert!(before.wait().is_ok(), "{device}: a read-back from before is not blamed");
            good("after");
            // It reaches whichever read-back comes next, by whichever way it is taken, and no later one.
            let lost = cross_entropy(&device, &[10]);
            let other = upload_words(&device, &[1u32]);
            let mut next = device.read(&[slice(&other)]).unwrap();
            let outcome = loop {
                match next.try_take() {
                    Ok(None) => {}
                    outcome => break outcome,
                }
            };
            assert_eq!(outcome, error(10).map(Some), "{device}");
            assert_eq!(words::<u32>(&other), [1], "{device}");
            drop(lost);
            assert_eq!(read(&[u32::MAX]).pace(), error(u32::MAX), "{device}");
            // Several in flight: each tells its own.
            let (first, fine, second) = (read(&[20]), read(&[2]), read(&[30]));
            assert_eq!(second.wait(), error(30), "{device}");
            assert_eq!(first.wait(), error(20), "{device}");
            assert!(fine.wait().is_ok(), "{device}");
            good("at last");
        }
    });
}

#[test]
fn grids_cover_all_workgroups_with_little_to_spare() {
    let gpu = GpuTraits { software: false, subgroup: 0, max_workgroups: 65_535, cooperative: None };
    for workgroups in [0usize, 1, 2, 65_534, 65_535, 65_536, 65_537, 131_071, 1 << 20, (1 << 24) + 1, 65_535 * 65_535] {
        let [x, y, z] = gpu.grid(workgroups);
        let total = x as usize * y as usize;
        assert!(x <= 65_535 && y <= 65_535 && z == 1, "{workgroups}");
        assert!(total >= workgroups && total - workgroups < (y as usize).max(2), "{workgroups}: {x} x {y}");
        assert!(y == 1 || workgroups > 65_535, "{workgroups}: folded without need");
    }
}

/// Past 65,535 workgroups of 256 the grid has a second row.
#[test]
fn a_grid_of_two_rows_reaches_every_element() {
    let Some(device) = everstep_testing::gpu() else { return };
    let count = 65_535 * 256 + 12_345;
    if count * 4 > device.window_bytes() {
        return;
    }
    let x = upload_words(&device, &(0..count as u32).collect::<Vec<_>>());
    let y = new(&device, count * 4);
    run(&device, addition(DType::U32, count), &[slice(&x), slice(&x)], &[slice(&y)]);
    let found = words::<u32>(&y);
    let wrong = found.iter().enumerate().find(|&(at, &value)| value != 2 * at as u32);
    assert_eq!((found.len(), wrong), (count, None));
}
