//! Work as data: what is planned, what is dropped, what is refused, when it runs.

use std::sync::Arc;

use everstep_device::{ALIGNMENT, Command, Counters, DType, Device, DeviceKind, Error, Result, Slice, Work};
use everstep_testing::devices;

use crate::{add, addition, alone, bytes, copy, new, slice, undisturbed, upload, upload_words, words};

/// What the counters counted since.
fn since(device: &Device, before: Counters) -> (u64, u64, u64) {
    let now = device.counters();
    (now.flushes - before.flushes, now.commands - before.commands, now.dropped - before.dropped)
}

/// A device that plans and forgets, its first recording behind it.
fn null() -> (Device, Counters) {
    let device = Device::null();
    device.flush().unwrap();
    // Each op stays a command of its own: `fusing.rs` joins them.
    device.set_fuse(false);
    let counters = device.counters();
    (device, counters)
}

#[test]
fn nothing_runs_before_a_flush_and_an_empty_flush_is_none() {
    let (device, before) = null();
    let a = upload_words(&device, &[1.0f32; 100]);
    let _sum = add(&a, &a);
    assert_eq!(since(&device, before), (0, 0, 0));
    device.flush().unwrap();
    assert_eq!(since(&device, before), (1, 2, 0));
    assert_eq!(device.counters().upload_bytes - before.upload_bytes, 400);
    device.flush().unwrap();
    assert_eq!(since(&device, before), (1, 2, 0));
}

#[test]
fn what_nobody_holds_is_dropped_and_what_a_result_needs_is_not() {
    let (device, before) = null();
    let a = upload_words(&device, &[1.0f32; 64]);
    drop(add(&add(&a, &a), &a)); // two commands for nothing
    let kept = add(&add(&a, &a), &a); // two commands, the first one's result a temporary
    device.flush().unwrap();
    assert_eq!(since(&device, before), (1, 3, 2));
    drop((a, kept));
    device.flush().unwrap();
    assert_eq!(since(&device, before), (1, 3, 2), "dropping alone is no recording");
}

#[test]
fn a_read_back_runs_the_recording_and_is_counted() {
    let (device, before) = null();
    let a = upload_words(&device, &[1.0f32; 3]);
    assert_eq!(bytes(&device, slice(&a)).unwrap(), [0; 12], "the null device reads zeros");
    let now = device.counters();
    assert_eq!((now.flushes - before.flushes, now.reads - before.reads), (1, 1));
    assert_eq!(now.blocking_reads - before.blocking_reads, 1);
}

#[test]
fn a_long_recording_runs_by_itself() {
    let (device, before) = null();
    let mut value = upload_words(&device, &[1.0f32; 4]);
    let commands = (1..).take_while(|_| {
        value = add(&value, &value);
        since(&device, before).0 == 0
    });
    let commands = commands.count() + 2; // the upload, and the command that made it run
    assert_eq!(since(&device, before), (1, commands as u64, 0));
    assert!((1000..10_000).contains(&commands), "{commands}");
}

#[test]
fn much_waiting_host_data_runs_by_itself() {
    let (device, before) = null();
    let data: Arc<[u8]> = Arc::from(vec![0u8; 4 << 20]);
    let target = new(&device, data.len());
    let uploads = (1..100).take_while(|_| {
        let work = Work::Upload(data.clone());
        device.record(Command { op: "upload", work, inputs: vec![], outputs: vec![slice(&target)] }).unwrap();
        since(&device, before).0 == 0
    });
    assert!((4..64).contains(&uploads.count()), "tens of megabytes wait, not more");
}

#[test]
fn a_command_that_cannot_run_is_refused_where_it_is_recorded() {
    for device in devices().into_iter().chain([Device::null()]) {
        let a = upload(&device, &[7; 1000]);
        let b = new(&device, 1000);
        let whole = slice(&b);
        let upload = |bytes: usize| Work::Upload(Arc::from(vec![0u8; bytes]));
        let kernel = || Work::Kernel(Arc::new(addition(DType::F32, 10)));
        let gone = slice(&new(&device, 1000));
        device.flush().unwrap();
        let part = |offset, bytes| Slice { offset, bytes, ..whole };
        let refused: [(Work, Vec<Slice>, Vec<Slice>); 12] = [
            (upload(999), vec![], vec![whole]),
            (upload(1001), vec![], vec![whole]),
            (upload(1000), vec![], vec![]),
            (Work::Copy, vec![part(0, 10)], vec![part(512, 20)]),
            (Work::Copy, vec![], vec![whole]),
            (Work::Copy, vec![slice(&a)], vec![part(4, 1000)]),
            (Work::Copy, vec![slice(&a)], vec![part(usize::MAX, 1000)]),
            (Work::Copy, vec![part(2, 8)], vec![part(512, 8)]),
            (Work::Copy, vec![slice(&a)], vec![gone]),
            (kernel(), vec![gone, gone], vec![whole]),
            (kernel(), vec![slice(&a), slice(&a)], vec![part(ALIGNMENT / 2, 40)]),
            (kernel(), vec![slice(&a), slice(&a)], vec![part(0, 300), part(ALIGNMENT, 40)]),
        ];
        for (work, inputs, outputs) in refused {
            let command = Command { op: "wrong", work, inputs, outputs };
            let outcome = device.record(command.clone());
            assert!(matches!(outcome, Err(Error::Command { op: "wrong", .. })), "{device}: {command:?}: {outcome:?}");
        }
        copy(&device, slice(&a), whole);
        let expected = if device.info().kind == DeviceKind::Null { 0 } else { 7 };
        assert_eq!(bytes(&device, whole).unwrap(), [expected; 1000], "{device}");
    }
}

#[test]
fn reading_the_unwritten_is_an_error() {
    for device in devices().into_iter().chain([Device::null()]) {
        let nothing = new(&device, 64);
        let outcome = device.read(&[slice(&nothing)]);
        assert!(matches!(outcome, Err(Error::Unwritten { op: "read" })), "{device}");
    }
}

/// A recording that fails is lost as a whole; the device is not, and neither is what it held before.
#[test]
fn a_device_outlives_a_recording_that_fails() {
    alone("recording::a_device_outlives_a_recording_that_fails", &[], || {
        for device in undisturbed() {
            let check = |when: &str| {
                // The first recording resets the device's status, without which nothing can be read.
                let (nothing, target) = (new(&device, 64), new(&device, 64));
                let lost = upload(&device, &[1; 64]);
                copy(&device, slice(&nothing), slice(&target));
                assert!(matches!(device.flush(), Err(Error::Unwritten { op: "copy" })), "{device} {when}");
                for buffer in [&lost, &target] {
                    let outcome: Result<_> = bytes(&device, slice(buffer));
                    assert!(matches!(outcome, Err(Error::Unwritten { .. })), "{device} {when}: {outcome:?}");
                }
                assert_eq!(bytes(&device, slice(&upload(&device, &[2; 64]))).unwrap(), [2; 64], "{device} {when}");
            };
            check("at first");
            let held = upload_words(&device, &[1.0f32, 2.0]);
            device.flush().unwrap();
            check("later");
            assert_eq!(words::<f32>(&held), [1.0, 2.0], "{device}");
        }
    });
}
