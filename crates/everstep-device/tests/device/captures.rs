//! Recordings that are kept and run again on other inputs.

use everstep_device::capture::{Capture, Kept, Trace};
use everstep_device::{Buffer, Device, Error};

use crate::{add, alone, new, run, slice, undisturbed, upload_words, words};

/// (input + weight) + (input + weight), through temporaries; what came of keeping it, and the result.
fn step(device: &Device, input: &Buffer, weight: &Buffer, earlier: Option<&Trace>) -> (Kept, Buffer) {
    let start = device.begin_capture().unwrap();
    let sum = add(input, weight);
    let result = add(&sum, &sum);
    drop(sum);
    let kept = device.end_capture(start, &[slice(input)], vec![result.region()], earlier).unwrap();
    (kept, result)
}

/// A kept recording of [`step`], and its result.
fn captured(device: &Device, weight: &Buffer) -> (Capture, Buffer) {
    let inputs = [1.0f32, 2.0].map(|value| upload_words(device, &[value; 100]));
    let (Kept::Trace(trace), _) = step(device, &inputs[0], weight, None) else { panic!("nothing to compare with") };
    let (Kept::Capture(capture), result) = step(device, &inputs[1], weight, Some(&trace)) else { panic!("another") };
    assert_eq!(words::<f32>(&result), [2.0 * (2.0 + words::<f32>(weight)[0]); 100]);
    (capture, result)
}

const ALONE: &str = "captures::a_kept_recording_runs_on_other_inputs";

#[test]
fn a_kept_recording_runs_on_other_inputs() {
    alone(ALONE, &[], || {
        for device in undisturbed() {
            let weight = upload_words(&device, &[0.5f32; 100]);
            let (capture, result) = captured(&device, &weight);
            let inputs: Vec<_> = (0..5).map(|value| upload_words(&device, &[value as f32; 100])).collect();
            let other = |input: &Buffer| words::<f32>(&add(&add(input, input), input));
            assert_eq!(other(&inputs[1]), [3.0; 100]);
            let before = device.counters();
            for round in 0..3 {
                for (value, input) in inputs.iter().enumerate() {
                    assert!(device.replay(&capture, &[slice(input)]).unwrap());
                    assert_eq!(words::<f32>(&result), [2.0 * (value as f32 + 0.5); 100], "{device}, round {round}");
                    // Other work in between takes what memory it finds.
                    assert_eq!(other(input), [3.0 * value as f32; 100]);
                }
            }
            let now = device.counters();
            assert_eq!(now.replays - before.replays, 15);
            assert_eq!(now.pipelines, before.pipelines, "{device}");
        }
    });
}

/// Each input is bound once, whatever is run how often.
#[test]
fn bind_groups_of_kept_recordings_stay() {
    if everstep_testing::gpu().is_none() {
        return;
    }
    let device = Device::isolated_gpu("").unwrap();
    let weight = upload_words(&device, &[0.5f32; 100]);
    let (capture, _result) = captured(&device, &weight);
    let inputs = [3.0f32, 4.0].map(|value| upload_words(&device, &[value; 100]));
    let replay = |input: &Buffer| assert!(device.replay(&capture, &[slice(input)]).unwrap());
    inputs.iter().for_each(replay);
    let before = device.counters().bind_groups;
    (0..10).for_each(|_| inputs.iter().for_each(replay));
    assert_eq!(device.counters().bind_groups, before);
}

#[test]
fn other_work_is_another_recording() {
    for device in undisturbed() {
        let weights = [1.0f32, 2.0].map(|value| upload_words(&device, &[value; 100]));
        let input = upload_words(&device, &[1.0f32; 100]);
        let (Kept::Trace(trace), _) = step(&device, &input, &weights[0], None) else { panic!("nothing") };
        assert!(matches!(step(&device, &input, &weights[1], Some(&trace)).0, Kept::Trace(_)), "another weight");
        let smaller = upload_words(&device, &[1.0f32; 50]);
        let weight = upload_words(&device, &[1.0f32; 50]);
        assert!(matches!(step(&device, &smaller, &weight, Some(&trace)).0, Kept::Trace(_)), "another size");
        assert!(matches!(step(&device, &input, &weights[0], Some(&trace)).0, Kept::Capture(_)));
    }
}

#[test]
fn what_cannot_run_again_is_refused_with_the_reason() {
    let device = Device::isolated_cpu();
    let weight = upload_words(&device, &[1.0f32; 100]);
    let input = upload_words(&device, &[1.0f32; 100]);
    let refused = |record: &dyn Fn() -> Vec<Buffer>, inputs: &[Buffer]| {
        let start = device.begin_capture().unwrap();
        let _held = record();
        let inputs: Vec<_> = inputs.iter().map(slice).collect();
        match device.end_capture(start, &inputs, vec![], None).unwrap() {
            Kept::Refused(reason) => reason,
            other => panic!("{other:?}"),
        }
    };
    let only = [input.clone()];
    assert_eq!(refused(&|| vec![add(&input, &weight)], &only), "a tensor made in it is still in use");
    let reads = || {
        assert_eq!(words::<f32>(&add(&input, &weight)), [2.0; 100]);
        drop(add(&input, &weight));
        vec![]
    };
    assert_eq!(refused(&reads, &only), "it was run in parts: it reads a result back, or is too long");
    let writes = || {
        crate::copy(&device, slice(&weight), slice(&input));
        vec![]
    };
    assert_eq!(refused(&writes, &only), "it changes one of its inputs");
    let again = [input.clone(), input.clone()];
    let adds = || {
        drop(add(&input, &weight));
        vec![]
    };
    assert_eq!(refused(&adds, &again), "two of its inputs are parts of one buffer");
    assert_eq!(refused(&Vec::new, &only), "it has no work");
}

/// Its memory would be another tensor's by then.
#[test]
fn a_kept_recording_ends_with_a_tensor_that_it_reads() {
    for device in undisturbed() {
        let weight = upload_words(&device, &[0.5f32; 100]);
        let (capture, _result) = captured(&device, &weight);
        let input = upload_words(&device, &[1.0f32; 100]);
        assert!(device.replay(&capture, &[slice(&input)]).unwrap());
        drop(weight);
        assert!(!device.replay(&capture, &[slice(&input)]).unwrap(), "{device}");
    }
}

#[test]
fn memory_of_kept_recordings_is_given_back() {
    let device = Device::isolated_cpu();
    let weight = upload_words(&device, &[0.5f32; 100]);
    let (capture, result) = captured(&device, &weight);
    let input = upload_words(&device, &[1.0f32; 100]);
    assert!(device.replay(&capture, &[slice(&input)]).unwrap());
    device.trim().unwrap();
    assert!(!device.replay(&capture, &[slice(&input)]).unwrap());
    let held = device.counters().memory_bytes;
    drop((capture, result));
    device.trim().unwrap();
    assert!(device.counters().memory_bytes < held);
}

#[test]
fn a_lost_device_has_no_kept_recordings() {
    let device = Device::isolated_cpu();
    let weight = upload_words(&device, &[0.5f32; 100]);
    let (capture, _result) = captured(&device, &weight);
    let input = upload_words(&device, &[1.0f32; 100]);
    device.flush().unwrap();
    device.destroy();
    assert!(matches!(device.replay(&capture, &[slice(&input)]), Err(Error::DeviceLost { .. })));
    device.rebuild().unwrap();
    let input = upload_words(&device, &[1.0f32; 100]);
    assert!(!device.replay(&capture, &[slice(&input)]).unwrap());
}

/// A capture asks for its inputs, and an input that was never written is an error, not old memory.
#[test]
fn inputs_must_be_there() {
    let device = Device::isolated_cpu();
    let weight = upload_words(&device, &[0.5f32; 100]);
    let (capture, _result) = captured(&device, &weight);
    assert!(matches!(device.replay(&capture, &[]), Err(Error::Command { op: "replay", .. })));
    let unwritten = new(&device, 400);
    assert!(matches!(device.replay(&capture, &[slice(&unwritten)]), Err(Error::Unwritten { op: "replay" })));
    let short = upload_words(&device, &[1.0f32; 50]);
    assert!(matches!(device.replay(&capture, &[slice(&short)]), Err(Error::Command { op: "replay", .. })));
    let input = upload_words(&device, &[1.0f32; 100]);
    assert!(device.replay(&capture, &[slice(&input)]).unwrap(), "it is still there");
}

/// What another thread records would be run again with it.
#[test]
fn work_of_other_threads_in_between_is_never_kept() {
    let device = Device::isolated_cpu();
    let weight = upload_words(&device, &[0.5f32; 100]);
    let input = upload_words(&device, &[1.0f32; 100]);
    let (Kept::Trace(trace), _) = step(&device, &input, &weight, None) else { panic!("nothing") };
    let start = device.begin_capture().unwrap();
    std::thread::scope(|scope| scope.spawn(|| drop(add(&weight, &weight))).join().unwrap());
    let result = add(&add(&input, &weight), &input);
    let kept = device.end_capture(start, &[slice(&input)], vec![result.region()], Some(&trace)).unwrap();
    assert!(matches!(kept, Kept::Refused("another thread recorded work in between")), "{kept:?}");
    assert!(matches!(step(&device, &input, &weight, Some(&trace)).0, Kept::Capture(_)), "the next one is alone");
}

/// What has run has run: a driver without room for what is kept of it is no error of the recording.
#[test]
fn a_recording_that_there_is_no_room_to_keep_has_run() {
    if everstep_testing::gpu().is_none() {
        return;
    }
    let device = Device::isolated_gpu("").unwrap();
    let weight = upload_words(&device, &[0.5f32; 100]);
    let input = upload_words(&device, &[1.0f32; 100]);
    // The second one finds all that it needs in the pool.
    let (Kept::Trace(trace), result) = step(&device, &input, &weight, None) else { panic!("nothing") };
    assert_eq!(words::<f32>(&result), [3.0; 100]);
    drop(result);
    let held = device.counters().memory_bytes;
    device.limit_memory(1);
    let (kept, result) = step(&device, &input, &weight, Some(&trace));
    device.limit_memory(usize::MAX);
    assert!(matches!(kept, Kept::Refused("the device has no room to keep it")), "{kept:?}");
    assert_eq!(words::<f32>(&result), [3.0; 100]);
    assert_eq!(device.counters().memory_bytes, held);
    assert!(matches!(step(&device, &input, &weight, Some(&trace)).0, Kept::Capture(_)), "the next one has room");
}

/// A kernel of the program's own without a shader cannot be compared.
#[test]
fn a_kernel_without_a_shader_is_never_kept() {
    #[derive(Debug)]
    struct Opaque;
    impl everstep_device::Kernel for Opaque {
        fn name(&self) -> &'static str {
            "opaque"
        }
        fn run(&self, args: &mut everstep_device::Args<'_>) {
            args.outputs[0].fill(0);
        }
        fn dispatch(&self, _: &everstep_device::GpuTraits) -> Option<everstep_device::Dispatch> {
            None
        }
    }
    let device = Device::isolated_cpu();
    let start = device.begin_capture().unwrap();
    let output = new(&device, 400);
    run(&device, Opaque, &[], &[slice(&output)]);
    let kept = device.end_capture(start, &[], vec![output.region()], None).unwrap();
    assert!(matches!(kept, Kept::Refused(reason) if reason.contains("shader")), "{kept:?}");
}
