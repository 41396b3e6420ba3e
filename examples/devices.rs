//! Devices: what this machine has, what is chosen, and that all compute the same.
//!
//! ```text
//! cargo run --release --example devices
//! EVERSTEP_DEVICE=gpu:0 cargo run --release --example devices
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::time::Instant;

use everstep::prelude::*;

fn main() -> everstep::Result<()> {
    println!("found  {}", Device::cpu());
    for adapter in Device::gpus() {
        println!("found  {adapter}");
    }
    println!("chosen {}\n", Device::best()?);

    let mut expected = None;
    let names =
        std::iter::once("cpu".to_string()).chain(Device::gpus().into_iter().map(|gpu| format!("gpu:{}", gpu.index)));
    for name in names {
        let device = Device::from_name(&name)?;
        let (seconds, result) = multiply(&device)?;
        let gflops = 2.0 * 512f64.powi(3) / seconds / 1e9;
        println!("{name}: a 512 x 512 matrix product takes {:.2} ms, {gflops:.1} GFLOP/s", seconds * 1e3);
        let expected = expected.get_or_insert_with(|| result.clone());
        let worst = expected.iter().zip(&result).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("    largest difference from the CPU engine: {worst:e}");
    }

    if let Err(error) = Device::from_name("gpu:no such adapter") {
        println!("\nan error: {error}");
    }
    Ok(())
}

/// The seconds a product takes, the best of five, and its elements.
fn multiply(device: &Device) -> everstep::Result<(f64, Vec<f32>)> {
    let mut generator = Generator::new(1);
    let a = Tensor::randn(&[512, 512], &mut generator, device)?;
    let b = Tensor::randn(&[512, 512], &mut generator, device)?;
    let mut best = (f64::INFINITY, Vec::new());
    for _ in 0..5 {
        let start = Instant::now();
        let result = a.matmul(&b)?.to_vec()?;
        best = (start.elapsed().as_secs_f64().min(best.0), result);
    }
    Ok(best)
}
