//! A device that is lost, and comes back.

use std::time::{Duration, Instant};

use everstep_device::{Args, Buffer, Device, DeviceKind, Dispatch, Error, GpuTraits, Kernel, Result, Slice};

use crate::{add, bytes, copy, new, run, slice, upload, upload_to, upload_words, words};

/// Devices of their own: what is done to them disturbs no other test.
fn isolated() -> Vec<Device> {
    // Required or skipped as for any test on a GPU.
    let gpu = everstep_testing::gpu().map(|_| Device::isolated_gpu("").unwrap());
    [Device::isolated_cpu(), Device::null()].into_iter().chain(gpu).collect()
}

/// The reason of a loss.
#[track_caller]
fn lost<T>(outcome: Result<T>) -> String {
    match outcome {
        Err(Error::DeviceLost { reason, .. }) => reason,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it should be lost"),
    }
}

/// A program of seven submissions, and what it reads.
fn program(device: &Device) -> Result<Vec<Vec<u8>>> {
    let mut value = upload_words(device, &[1.0f32, 2.0, 3.0]);
    device.flush()?;
    let mut seen = Vec::new();
    for _ in 0..3 {
        value = add(&value, &value);
        seen.push(bytes(device, slice(&value))?);
    }
    Ok(seen)
}

const SUBMISSIONS: u64 = 7;

#[test]
fn a_loss_at_any_submission_is_an_error_after_which_the_rebuilt_device_works() {
    for device in isolated() {
        let undisturbed = program(&device).unwrap();
        let before = device.counters().submissions;
        assert_eq!(before, SUBMISSIONS, "{device}");
        for at in 0..SUBMISSIONS {
            let (submissions, failures) = (device.counters().submissions, device.failures());
            device.destroy_at(submissions + at);
            let reason = lost(program(&device));
            assert!(reason.contains(&format!("submission {}", submissions + at)), "{reason}");
            assert_eq!(device.counters().submissions, submissions + at, "{device}: not made");
            assert_eq!(device.lost(), Some(reason));
            assert!(device.failures() > failures, "{device}");
            assert_eq!(device.generation(), at);
            device.rebuild().unwrap();
            assert_eq!((device.lost(), device.generation()), (None, at + 1));
            assert_eq!(program(&device).unwrap(), undisturbed, "{device}, lost before {at}");
        }
    }
}

#[test]
fn after_a_loss_every_error_says_so() {
    for device in isolated() {
        let held = upload_words(&device, &[1.0f32; 64]);
        let (mut begun, other) = (device.read(&[slice(&held)]).unwrap(), device.read(&[slice(&held)]).unwrap());
        device.destroy();
        assert!(lost(begun.try_take()).contains("on request"), "{device}");
        lost(other.wait());
        lost(device.flush());
        lost(device.read(&[slice(&held)]));
        lost(device.read_unchecked(&[]));
        lost(device.synchronize());
        lost(device.trim());
        let sum = add(&held, &held);
        lost(device.flush());
        // More than any device has, and from nothing: the loss comes first.
        let nothing = new(&device, 64);
        run(&device, Touch, &[], &[slice(&device.windowed_buffer("much", device.window_bytes()).unwrap())]);
        lost(device.flush());
        lost(device.read(&[slice(&nothing)]));
        device.destroy();
        device.declare_lost("again");
        assert!(device.lost().unwrap().contains("on request"), "the first reason stays");
        device.rebuild().unwrap();
        assert!(matches!(bytes(&device, slice(&new(&device, 64))), Err(Error::Unwritten { .. })), "{device}");
        lost(bytes(&device, slice(&sum)));
    }
}

#[test]
fn what_lay_on_a_lost_device_is_lost_until_it_is_written_anew() {
    for device in isolated() {
        let (whole, parts) = (upload(&device, &[1; 1024]), upload(&device, &[1; 1024]));
        device.flush().unwrap();
        device.destroy();
        let between = upload(&device, &[1; 1024]);
        device.rebuild().unwrap();
        for gone in [&whole, &parts, &between] {
            let reason = lost(bytes(&device, slice(gone)));
            assert!(reason.contains("on request") && reason.contains("lay on it"), "{reason}");
            copy(&device, slice(gone), slice(&new(&device, 1024)));
            // Nobody holds the result, so nobody misses it.
            device.flush().unwrap();
            let target = new(&device, 1024);
            copy(&device, slice(gone), slice(&target));
            assert!(lost(device.flush()).contains("`copy`"), "{device}");
        }
        upload_to(&device, &[5; 1024], slice(&whole));
        let read = |slice: Slice| bytes(&device, slice).map(|bytes| bytes == vec![5; bytes.len()]);
        let null = device.info().kind == DeviceKind::Null;
        assert_eq!(read(slice(&whole)), Ok(!null), "{device}");
        let part = |offset, bytes| Slice { offset, bytes, ..slice(&parts) };
        upload_to(&device, &[5; 512], part(0, 512));
        assert_eq!(read(part(256, 256)), Ok(!null), "{device}");
        lost(bytes(&device, part(256, 512)));
        lost(bytes(&device, slice(&parts)));
        // A recording that fails has written nothing.
        upload_to(&device, &[5; 512], part(512, 512));
        let target = new(&device, 1024);
        copy(&device, slice(&between), slice(&target));
        lost(device.flush());
        lost(bytes(&device, slice(&parts)));
        upload_to(&device, &[5; 512], part(512, 512));
        assert_eq!(read(slice(&parts)), Ok(!null), "{device}");
    }
}

#[derive(Debug)]
struct Touch;

impl Kernel for Touch {
    fn name(&self) -> &'static str {
        "touch"
    }

    fn updates(&self, index: usize) -> bool {
        index == 1
    }

    fn run(&self, _: &mut Args<'_>) {}

    fn dispatch(&self, _: &GpuTraits) -> Option<Dispatch> {
        None
    }
}

#[test]
fn what_a_kernel_changes_where_it_lies_must_be_there() {
    for device in isolated() {
        let old = upload(&device, &[1; 64]);
        let touch = |changed: &Buffer| {
            run(&device, Touch, &[], &[slice(&new(&device, 64)), slice(changed)]);
            device.flush()
        };
        touch(&old).unwrap();
        assert!(matches!(touch(&new(&device, 64)), Err(Error::Unwritten { op: "test" })), "{device}");
        device.rebuild().unwrap();
        assert!(lost(touch(&old)).contains("given up"), "{device}");
    }
}

/// What another thread does some time after a host began to wait, and how long the host waited.
fn meanwhile(device: &Device, act: impl FnOnce(&Device) + Send, wait: impl FnOnce() -> String) -> (String, Duration) {
    std::thread::scope(|scope| {
        let acted = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            act(device);
            Instant::now()
        });
        let reason = wait();
        let woken = Instant::now();
        (reason, woken.duration_since(acted.join().unwrap()))
    })
}

/// Generous: the machine that tests may be busy.
const PROMPT: Duration = Duration::from_millis(500);

#[test]
fn a_host_that_waits_for_a_stalled_device_wakes_up_when_it_is_lost() {
    type Act = fn(&Device);
    let acts: [(&str, Act); 3] = [
        ("watchdog", |device| device.declare_lost("the watchdog says so")),
        ("on request", Device::destroy),
        ("given up", |device| device.rebuild().unwrap()),
    ];
    for device in isolated() {
        for (said, act) in acts {
            let held = upload_words(&device, &[1.0f32; 64]);
            device.flush().unwrap();
            let before = device.read(&[slice(&held)]).unwrap();
            device.stall_at(device.counters().submissions);
            let mut stalled = device.read(&[slice(&held)]).unwrap();
            before.wait().unwrap();
            assert_eq!(stalled.try_take(), Ok(None), "{device}");
            let (reason, late) = meanwhile(&device, act, || lost(stalled.pace()));
            assert!(reason.contains(said) && late < PROMPT, "{device}: {reason}, {late:?}");
            device.rebuild().unwrap();
            assert_eq!(words::<f32>(&upload_words(&device, &[0.0f32])), [0.0], "{device}");
        }
    }
}

#[test]
fn a_device_is_lost_while_another_thread_uses_it() {
    for device in isolated() {
        for round in 0..3 {
            let use_it = || loop {
                match program(&device) {
                    Ok(_) => {}
                    outcome => return lost(outcome),
                }
            };
            let (reason, late) = meanwhile(&device, Device::destroy, use_it);
            assert!(reason.contains("on request") && late < PROMPT, "{device}: {reason}, {late:?}");
            device.rebuild().unwrap();
            program(&device).unwrap();
            assert_eq!(device.generation(), round + 1);
        }
    }
}

#[test]
fn what_is_destroyed_for_good_does_not_come_back_and_falls_back_to_the_cpu() {
    for device in isolated() {
        let held = upload_words(&device, &[1.0f32; 64]);
        device.flush().unwrap();
        let clone = device.clone();
        device.destroy_for_good();
        for _ in 0..2 {
            assert!(lost(device.rebuild()).contains("for good"), "{device}");
            assert!(device.lost().is_some());
        }
        clone.fall_back_to_cpu().unwrap();
        assert_eq!((device.info().kind, device.generation()), (DeviceKind::Cpu, 1));
        assert_eq!(device.window_bytes(), Device::cpu().window_bytes());
        lost(bytes(&device, slice(&held)));
        let ones = upload_words(&device, &[1.0f32; 64]);
        assert_eq!(words::<f32>(&add(&ones, &ones)), [2.0; 64]);
        device.rebuild().unwrap();
        assert_eq!((device.info().kind, device.generation()), (DeviceKind::Cpu, 2));
    }
}

#[test]
fn two_devices_do_not_disturb_each_other() {
    for (device, other) in isolated().into_iter().zip(isolated()) {
        assert_ne!(device, other);
        let held = upload_words(&other, &[3.0f32; 8]);
        other.flush().unwrap();
        device.destroy();
        program(&other).unwrap();
        device.rebuild().unwrap();
        assert_eq!((other.lost(), other.generation(), other.failures()), (None, 0, 0), "{other}");
        assert!(words::<f32>(&held).len() == 8 && device.counters().memory_bytes == 0, "{device}");
    }
}

#[test]
fn memory_is_counted_anew_after_a_rebuild() {
    for device in isolated() {
        let held: Vec<_> = (0..8).map(|_| upload(&device, &[1; 4096])).collect();
        device.flush().unwrap();
        assert!(device.counters().memory_bytes >= 8 * 4096, "{device}");
        device.rebuild().unwrap();
        drop(held);
        let one = upload(&device, &[1; 4096]);
        device.flush().unwrap();
        assert!(device.counters().memory_bytes < 2 * 4096, "{device}");
        drop(one);
        device.trim().unwrap();
        device.flush().unwrap();
    }
}
