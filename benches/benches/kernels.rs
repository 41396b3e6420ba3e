//! Kernels one by one: `cargo bench --bench kernels`, on the device that `EVERSTEP_DEVICE` names.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everstep::prelude::*;
use everstep_benches::device;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Runs what was recorded and waits for it, by reading one element back.
fn synchronise(tensor: &Tensor) -> everstep::Result<()> {
    let mut first = tensor.clone();
    while first.rank() > 0 {
        first = first.slice(0, ..1)?.squeeze(0)?;
    }
    first.item::<f32>()?;
    Ok(())
}

/// Benches `work`, which makes the tensor to wait for.
fn bench(criterion: &mut Criterion, name: &str, throughput: Throughput, work: impl Fn() -> everstep::Result<Tensor>) {
    let mut group = criterion.benchmark_group("kernels");
    group.throughput(throughput).sample_size(20);
    group.bench_function(name, |bencher| {
        bencher.iter(|| work().and_then(|tensor| synchronise(&tensor)).map_err(|error| eprint_error(&error)));
    });
}

#[expect(clippy::print_stderr, reason = "a bench has nowhere else to say it")]
fn eprint_error(error: &everstep::Error) {
    eprintln!("{error}");
}

fn kernels(criterion: &mut Criterion) -> Outcome {
    let device = device()?;
    let mut generator = Generator::new(0);
    for n in [256, 512, 1024] {
        let a = Tensor::randn(&[n, n], &mut generator, &device)?;
        let b = Tensor::randn(&[n, n], &mut generator, &device)?;
        let operations = Throughput::Elements(2 * (n as u64).pow(3));
        bench(criterion, &format!("matmul_{n}"), operations, || Ok(a.matmul(&b)?));
    }
    let x = Tensor::randn(&[4096, 1024], &mut generator, &device)?;
    let row = Tensor::randn(&[1024], &mut generator, &device)?;
    let elements = Throughput::Elements(4096 * 1024);
    bench(criterion, "add", elements.clone(), || Ok(x.add(&x)?));
    bench(criterion, "add_row", elements.clone(), || Ok(x.add(&row)?));
    bench(criterion, "gelu", elements.clone(), || Ok(x.gelu()?));
    bench(criterion, "transpose_copy", elements.clone(), || Ok(x.t()?.contiguous()?));
    bench(criterion, "sum_rows", elements.clone(), || Ok(x.sum(&[1], false)?));
    bench(criterion, "sum_columns", elements.clone(), || Ok(x.sum(&[0], false)?));
    bench(criterion, "softmax", elements, || Ok(x.softmax(-1)?));
    Ok(())
}

fn all(criterion: &mut Criterion) {
    if let Err(error) = kernels(criterion) {
        panic!("{error}");
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
