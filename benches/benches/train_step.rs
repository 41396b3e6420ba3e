//! Whole training steps: `cargo bench --bench train_step`, on the device that `EVERSTEP_DEVICE` names.

use criterion::{Criterion, criterion_group, criterion_main};
use everstep_benches::{MlpStep, device};

fn steps(criterion: &mut Criterion) -> everstep::Result<()> {
    let device = device()?;
    let workloads: [(&str, &[usize], usize); 2] =
        [("seed_net_step", &[784, 64, 10], 32), ("mlp_step", &[784, 512, 512, 10], 128)];
    for (name, sizes, batch) in workloads {
        let mut step = MlpStep::new(sizes, batch, &device)?;
        criterion.bench_function(name, |bencher| bencher.iter(|| step.run().is_ok()));
    }
    Ok(())
}

fn all(criterion: &mut Criterion) {
    if let Err(error) = steps(criterion) {
        panic!("{error}");
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
