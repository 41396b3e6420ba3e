//! The smallest training loop: find the line that noisy points lie on.
//!
//! ```text
//! cargo run --release --example linear_regression
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use everstep::nn::loss::{Reduction, mse};
use everstep::prelude::*;

fn main() -> everstep::Result<()> {
    let device = Device::best()?;
    let mut generator = Generator::new(0);

    // 256 points of y = 3 a - 2 b + 0.5, and a little noise.
    let x = Tensor::randn(&[256, 2], &mut generator, &device)?;
    let slopes = Tensor::from_slice(&[3.0f32, -2.0], &[2, 1], &device)?;
    let noise = Tensor::randn(&[256, 1], &mut generator, &device)?.mul_scalar(0.05)?;
    let y = x.matmul(&slopes)?.add_scalar(0.5)?.add(&noise)?;

    // A model is anything that holds parameters; this one is a single layer: y = x W^T + b.
    let model = Linear::new(2, 1, &mut generator, &device)?;
    let mut optimizer = Sgd::new(0.1).momentum(0.9).build(&model)?;

    for step in 1..=60 {
        // Forward: ops are recorded, and a tape remembers them.
        let loss = mse(&model.forward(&x)?, &y, Reduction::Mean)?;
        // Backward: the tape is walked in reverse, and gradients are collected.
        loss.backward()?;
        // The device judges the step, and updates the parameters unless something is wrong with it.
        optimizer.step(&loss)?;
        if step % 20 == 0 {
            println!("step {step}: loss {:.5}", loss.item::<f32>()?);
        }
    }

    let (weight, bias) = (model.weight.tensor().to_vec::<f32>()?, model.bias.as_ref().map(Parameter::tensor));
    let bias = bias.map_or(Ok(0.0), |bias| bias.item::<f32>())?;
    println!("found y = {:.3} a + {:.3} b + {bias:.3}, drawn from y = 3 a - 2 b + 0.5", weight[0], weight[1]);
    Ok(())
}
