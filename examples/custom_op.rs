//! An op of a program's own: a shader, its CPU twin, its gradient, and a check that they agree.
//!
//! Softsign, y = x / (1 + |x|), is not among Everstep's ops. It passes through the same funnel as they do: the tape, the
//! gate and the recording see no difference.
//!
//! ```text
//! cargo run --release --example custom_op
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use everstep::device::{Args, Dispatch, GpuTraits, Kernel, Shader};
use everstep::prelude::*;
use everstep::tensor::{Error, Inferred, Op, Result, Saved, apply, record_kernel};

/// The kernel with its parameters. Inputs, then outputs, are storage bindings 0, 1, .. of group 0, the uniform is group 1.
#[derive(Debug)]
struct SoftsignKernel {
    count: u32,
}

const SHADER: &str = "
struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // A long grid is folded into two dimensions.
    let index = (id.x + id.y * workgroups.x) * 256u + lane;
    if index < params.count {
        y[index] = x[index] / (1.0 + abs(x[index]));
    }
}
";

impl Kernel for SoftsignKernel {
    fn name(&self) -> &'static str {
        "softsign"
    }

    fn run(&self, args: &mut Args<'_>) {
        let x = args.input::<f32>(0);
        for (y, x) in args.output::<f32>(0).iter_mut().zip(x).take(self.count as usize) {
            *y = x / (1.0 + x.abs());
        }
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let (shader, params) = (Shader::Custom(SHADER.into()), vec![self.count]);
        let workgroups = gpu.grid((self.count as usize).div_ceil(256));
        (self.count > 0).then_some(Dispatch { shader, params, workgroups })
    }
}

/// The op: what it makes of its inputs, and its gradient.
#[derive(Debug)]
struct Softsign;

impl Op for Softsign {
    fn name(&self) -> &'static str {
        "softsign"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        match inputs[0].dtype() {
            DType::F32 => Ok(Inferred::one(*inputs[0].shape(), DType::F32)),
            other => Err(Error::DTypes { op: self.name(), found: vec![other] }),
        }
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        record_kernel(SoftsignKernel { count: outputs[0].count() as u32 }, inputs, outputs)
    }

    /// dy/dx = 1 / (1 + |x|)^2 = (1 - |y|)^2: written in tensor ops, so it has a gradient of its own.
    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let y = &saved.outputs[0];
        let rest = y.maximum(&y.neg()?)?.neg()?.add_scalar(1.0)?;
        Ok(vec![Some(gradient.mul(&rest.mul(&rest)?)?)])
    }
}

fn softsign(x: &Tensor) -> Result<Tensor> {
    apply(Softsign, &[x])
}

/// The largest difference between the gradient of sum(f(x) w) and its difference quotient.
fn check_gradient(f: impl Fn(&Tensor) -> Result<Tensor>, values: &[f32], device: &Device) -> Result<f32> {
    let weights: Vec<f32> = (0..values.len()).map(|index| 0.5 + 0.25 * index as f32).collect();
    let weights = Tensor::from_slice(&weights, &[values.len()], device)?;
    let total = |values: &[f32]| {
        let x = Tensor::from_slice(values, &[values.len()], device)?.requires_grad()?;
        Ok::<_, Error>((f(&x)?.mul(&weights)?.sum_all()?, x))
    };
    let (sum, x) = total(values)?;
    sum.backward()?;
    let gradient: Vec<f32> = x.grad().map_or(Ok(vec![]), |gradient| gradient.to_vec())?;
    let (step, mut worst) = (0.01, 0.0f32);
    for (index, gradient) in gradient.iter().enumerate() {
        let moved = |by: f32| {
            let mut values = values.to_vec();
            values[index] += by;
            total(&values)?.0.item::<f32>()
        };
        worst = worst.max((gradient - (moved(step)? - moved(-step)?) / (2.0 * step)).abs());
    }
    Ok(worst)
}

fn main() -> everstep::Result<()> {
    let values = [-3.0f32, -1.0, -0.25, 0.125, 0.5, 2.0, 7.0];
    for device in [Device::cpu(), Device::best()?] {
        let x = Tensor::from_slice(&values, &[values.len()], &device)?;
        println!("{device}\n  softsign: {:?}", softsign(&x)?.to_vec::<f32>()?);
        let worst = check_gradient(softsign, &values, &device)?;
        println!("  gradient: within {worst:.1e} of the difference quotient");
        // The quotient itself is off by the step squared and by the rounding of the sum.
        assert!(worst < 2e-3, "the gradient of softsign is wrong");
    }
    Ok(())
}
