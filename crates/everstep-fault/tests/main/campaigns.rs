//! Short samples of the campaigns; the example of that name runs them whole.

use everstep_device::Device;

use crate::{attribution, confusion, injections};

#[test]
fn random_faults_leave_no_trace() {
    let summary = injections::injections(0..250, 1, &Device::isolated_cpu()).unwrap();
    assert!(summary.escapes == 0, "{summary:#?}");
    // That it has seen something: most faults are large.
    assert!(summary.detected > 100 && summary.identical > 80, "{summary:#?}");
    if let Some(gpu) = everstep_testing::gpu() {
        let summary = injections::injections(0..12, 2, &gpu).unwrap();
        assert!(summary.escapes == 0 && summary.detected > 3, "{summary:#?}");
    }
}

#[test]
fn a_nan_is_traced_to_its_op() {
    let sweep = attribution::attribution(9, &Device::isolated_cpu()).unwrap();
    assert!(sweep.failures.is_empty() && sweep.named == sweep.detected, "{sweep:#?}");
    assert!(sweep.ops >= 10 && sweep.detected > 100 && sweep.harmless < 5, "{sweep:#?}");
    if let Some(gpu) = everstep_testing::gpu() {
        let sweep = attribution::attribution(50, &gpu).unwrap();
        assert!(sweep.failures.is_empty() && sweep.detected > 5, "{sweep:#?}");
    }
}

#[test]
fn faults_are_told_apart() {
    let matrix = confusion::confusion(12, 3, &Device::isolated_cpu()).unwrap();
    assert!(matrix.accuracy >= 0.95, "{matrix:#?}");
    assert_eq!(matrix.counts["clean"].get("clean"), Some(&12), "{matrix:#?}");
}
