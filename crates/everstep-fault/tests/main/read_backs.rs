//! What healthy steps wait for: nothing.

use everstep_data::{Loader, LoaderConfig};
use everstep_device::DeviceKind;
use everstep_fault::{Error, Guard, Policy};
use everstep_nn::Linear;
use everstep_optim::AdamW;
use everstep_tensor::{Device, Generator, Verdict};

use crate::guard::on_each_device;

const STEPS: usize = 1000;

/// A small model under the default policy: 1,000 committed steps, with their snapshots and the ends of their epochs.
fn train(device: &Device) {
    let model = Linear::new(64, 10, &mut Generator::new(1), device).unwrap();
    // All snapshots of its interval, however slow the machine is just now.
    let policy = Policy { snapshot_cost: None, ..Policy::default() };
    let mut guard = Guard::new(&model, AdamW::new(1e-3), policy).unwrap();
    let config = LoaderConfig::new(16).shuffle(7);
    let mut loader = Loader::new(everstep_data::digits().unwrap(), config, device).unwrap();
    let (mut steps, mut committed) = (0, 0);
    while steps < STEPS {
        let report = guard.step(&mut loader, |batch| Ok::<_, Error>(model.forward(&batch.x)?.cross_entropy(&batch.y)?));
        let report = report.unwrap();
        steps += usize::from(report.is_some());
        let (records, events) = report
            .map_or_else(|| (guard.take_records(), guard.take_events()), |report| (report.records, report.events));
        assert!(events.is_empty(), "{device}: {events:?}");
        committed += records.iter().filter(|record| record.verdict == Verdict::Commit).count();
    }
    guard.finish(&mut loader).unwrap();
    committed += guard.take_records().iter().filter(|record| record.verdict == Verdict::Commit).count();
    assert_eq!((committed, guard.take_events().len()), (STEPS, 0), "{device}");
    assert_eq!(guard.ring().kept().len(), Policy::default().snapshots, "{device}");
}

/// Each record comes by a read-back of its own that the host begins and leaves, and the executor counts those that it stood
/// still for. Where a host runs more than `in_flight` steps ahead, the oldest step's record holds it back: at most one in each
/// step, and none on the CPU engine, whose work is done when it is recorded.
#[test]
fn a_thousand_healthy_steps_wait_for_nothing() {
    on_each_device(|device| {
        let before = device.counters();
        train(device);
        let now = device.counters();
        assert_eq!(now.blocking_reads - before.blocking_reads, 0, "{device}");
        // Each step reads its record; on a GPU each trusted snapshot is mirrored, the first and then one in 50 steps, in five
        // buffers: values, two moments, control block and sums.
        let mirrored = if device.info().kind == DeviceKind::Gpu { 5 * (1 + STEPS as u64 / 50) } else { 0 };
        let reads = now.reads - before.reads - STEPS as u64;
        assert!(reads <= mirrored, "{device}: {reads} of {mirrored}");
        let paced = now.paced_reads - before.paced_reads;
        let most = if device.info().kind == DeviceKind::Gpu { STEPS as u64 } else { 0 };
        assert!(paced <= most, "{device}: {paced} paced");
    });
}
