//! Kernels one by one, forward and with their gradients: `cargo bench --bench kernels`, on the device that
//! `EVERSTEP_DEVICE` names.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everstep::nn::loss;
use everstep::prelude::*;

/// Times `work`: what it makes is kept until the device is done.
fn bench(
    criterion: &mut Criterion,
    device: &Device,
    name: &str,
    elements: usize,
    work: impl Fn() -> everstep::Result<Tensor>,
) -> everstep::Result<()> {
    let mut failure = None;
    let mut group = criterion.benchmark_group("kernels");
    group.throughput(Throughput::Elements(elements as u64)).sample_size(20);
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let made = work().and_then(|tensor| {
                device.synchronize()?;
                Ok(tensor)
            });
            failure = made.err().or(failure.take());
        });
    });
    group.finish();
    failure.map_or(Ok(()), Err)
}

type Op = fn(&Tensor) -> everstep::Result<Tensor>;

/// Ops of one tensor [4096, 1024], and their gradients.
const ROWS: &[(&str, Op)] = &[
    ("add", |x| Ok(x.add(&x.detach())?)),
    ("exp", |x| Ok(x.exp()?)),
    ("gelu_tanh", |x| Ok(x.gelu_tanh()?)),
    ("transpose_copy", |x| Ok(x.t()?.contiguous()?)),
    ("sum_rows", |x| Ok(x.sum(&[1], false)?)),
    ("sum_columns", |x| Ok(x.sum(&[0], false)?)),
    ("max_rows", |x| Ok(x.max(&[1], false)?)),
    ("cumsum", |x| Ok(x.cumsum(-1)?)),
    ("softmax", |x| Ok(x.softmax(-1)?)),
    ("log_softmax", |x| Ok(x.log_softmax(-1)?)),
    ("layer_norm", |x| Ok(x.layer_norm(&[1024], None, None, 1e-5)?)),
    ("mse", |x| Ok(loss::mse(x, &x.detach(), Default::default())?)),
];

/// `op` of `x`, and where gradients flow its gradient too.
fn rows(criterion: &mut Criterion, device: &Device, generator: &mut Generator) -> everstep::Result<()> {
    let x = Tensor::randn(&[4096, 1024], generator, device)?;
    for (name, op) in ROWS {
        bench(criterion, device, name, x.count(), || op(&x))?;
        bench(criterion, device, &format!("{name}_backward"), x.count(), || {
            let x = x.requires_grad()?;
            op(&x)?.sum_all()?.backward()?;
            Ok(x.grad().unwrap_or(x))
        })?;
    }
    Ok(())
}

fn matrices(criterion: &mut Criterion, device: &Device, generator: &mut Generator) -> everstep::Result<()> {
    for n in [256, 512, 1024] {
        let a = Tensor::randn(&[n, n], generator, device)?;
        let b = Tensor::randn(&[n, n], generator, device)?;
        bench(criterion, device, &format!("matmul_{n}"), 2 * n.pow(3), || Ok(a.matmul(&b)?))?;
        bench(criterion, device, &format!("matmul_{n}_transposed"), 2 * n.pow(3), || Ok(a.matmul(&b.t()?)?))?;
    }
    Ok(())
}

/// The kernels of convolutional nets and transformers at the sizes of the workloads, forward and backward.
fn networks(criterion: &mut Criterion, device: &Device, generator: &mut Generator) -> everstep::Result<()> {
    let image = Tensor::randn(&[64, 32, 28, 28], generator, device)?;
    let filters = Tensor::randn(&[64, 32, 3, 3], generator, device)?;
    let query = Tensor::randn(&[12, 4, 64, 32], generator, device)?;
    let table = Tensor::randn(&[65, 128], generator, device)?;
    let ids = Tensor::from_vec((0..768u32).map(|id| id * 7919 % 65).collect(), &[768], device)?;
    let logits = Tensor::randn(&[768, 65], generator, device)?;
    let causal = AttentionOptions { causal: true, ..Default::default() };
    type Case<'a> = (&'a str, &'a Tensor, Box<dyn Fn(&Tensor) -> everstep::Result<Tensor> + 'a>);
    let cases: [Case<'_>; 5] = [
        (
            "conv2d",
            &image,
            Box::new(|x| Ok(x.conv2d(&filters, None, &ConvOptions::default().padding(1), Activation::None)?)),
        ),
        ("max_pool2d", &image, Box::new(|x| Ok(x.max_pool2d(2)?))),
        ("attention", &query, Box::new(|q| Ok(q.scaled_dot_product_attention(q, q, &causal)?))),
        ("embedding", &table, Box::new(|table| Ok(table.embedding(&ids)?))),
        ("cross_entropy", &logits, Box::new(|x| Ok(x.cross_entropy(&ids)?))),
    ];
    for (name, input, op) in &cases {
        bench(criterion, device, name, input.count(), || op(input))?;
        bench(criterion, device, &format!("{name}_backward"), input.count(), || {
            let leaf = input.requires_grad()?;
            op(&leaf)?.sum_all()?.backward()?;
            Ok(leaf.grad().unwrap_or(leaf))
        })?;
    }
    Ok(())
}

fn all(criterion: &mut Criterion) {
    let benches = || {
        let (device, mut generator) = (Device::best()?, Generator::new(0));
        matrices(criterion, &device, &mut generator)?;
        rows(criterion, &device, &mut generator)?;
        networks(criterion, &device, &mut generator)
    };
    let outcome: everstep::Result<()> = { benches }();
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
