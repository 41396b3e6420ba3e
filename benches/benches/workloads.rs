//! Every workload: `cargo bench --bench workloads`, on the device that `EVERSTEP_DEVICE` names.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use everstep::device::DeviceKind;
use everstep::prelude::*;
use everstep_benches::workloads;

fn benches(criterion: &mut Criterion) -> everstep::Result<()> {
    let device = Device::best()?;
    let large = device.info().kind == DeviceKind::Gpu && !device.info().software;
    for workload in workloads::all(large) {
        let mut work = workload.prepare(&device)?;
        let mut failure = None;
        criterion.bench_function(&workload.name, |bencher| {
            bencher.iter(|| {
                if let Err(error) = work() {
                    failure = Some(error);
                }
            });
        });
        failure.map_or(Ok(()), Err)?;
    }
    Ok(())
}

fn all(criterion: &mut Criterion) {
    if let Err(error) = benches(criterion) {
        panic!("{error}");
    }
}

criterion_group! {
    name = group;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = all
}
criterion_main!(group);
