//! Tensors: making them, computing with them, views, gradients, errors.
//!
//! ```text
//! cargo run --release --example tensors
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use everstep::prelude::*;

fn main() -> everstep::Result<()> {
    let device = Device::best()?;
    println!("on {device}\n");

    // From data, from a constant, from counter-based random numbers: the same on every device.
    let a = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], &device)?;
    let mut generator = Generator::new(42);
    let noise = Tensor::randn(&[2, 3], &mut generator, &device)?;
    println!("a =\n{a}\nnoise =\n{noise}\n");

    // Work is recorded, and runs when a result is read. Shapes broadcast as in NumPy and PyTorch.
    let row_mean = a.mean(&[-1], true)?;
    let centred = (&a - &row_mean)?;
    println!("a - mean of its rows =\n{centred}\nsoftmax =\n{}\n", centred.softmax(-1)?);

    // Views share memory: transposing, slicing and broadcasting copy nothing.
    let product = a.matmul(&a.t()?)?;
    println!("a a^T =\n{product}\nits second column = {}\n", product.slice(1, 1..2)?.squeeze(1)?);

    // Gradients: a tape is kept behind tensors that ask for it.
    let x = Tensor::from_slice(&[-1.0f32, 0.5, 2.0], &[3], &device)?.requires_grad()?;
    let y = x.mul(&x)?.tanh()?.sum_all()?;
    y.backward()?;
    println!("y = sum tanh(x^2) = {y}");
    if let Some(gradient) = x.grad() {
        println!("dy/dx = {gradient}\n");
    }

    // What does not fit is an error that says why.
    if let Err(error) = a.matmul(&a) {
        println!("an error: {error}");
    }
    Ok(())
}
