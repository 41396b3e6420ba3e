//! Memory: limits with names, running out of it, and giving it back.

use everstep_device::{Args, Device, DeviceKind, Dispatch, Error, GpuTraits, Kernel};
use everstep_testing::devices;

use crate::{add, alone, new, run, slice, undisturbed, upload_words, words};

#[test]
fn too_large_names_the_limit() {
    for device in devices() {
        let gpu = device.info().kind == DeviceKind::Gpu;
        let names = |limit: &str, gpu_limit: &str| limit.contains(if gpu { gpu_limit } else { "the machine's memory" });
        for bytes in [usize::MAX, isize::MAX as usize, device.window_bytes() + 4096] {
            let error = device.buffer("matmul", bytes).unwrap_err();
            let message = error.to_string();
            let Error::TooLarge { op: "matmul", bytes: asked, limit_name, limit } = error else { panic!("{error:?}") };
            assert!(asked == bytes && limit < bytes, "{device}: {message}");
            assert!(names(limit_name, "max_storage_buffer_binding_size"), "{device}: {message}");
            assert!(message.contains(limit_name) && message.contains(&limit.to_string()), "{message}");
        }
        let outcome = device.windowed_buffer("arena", usize::MAX);
        let named = matches!(outcome, Err(Error::TooLarge { limit_name, .. }) if names(limit_name, "max_buffer_size"));
        assert!(named, "{device}: {outcome:?}");
        // Asking costs nothing: memory is assigned when something is written.
        drop(device.buffer("matmul", device.window_bytes()).unwrap());
    }
}

/// Writes nothing, to anything.
#[derive(Debug)]
struct Touch;

impl Kernel for Touch {
    fn name(&self) -> &'static str {
        "touch"
    }

    fn run(&self, _: &mut Args<'_>) {}

    fn dispatch(&self, _: &GpuTraits) -> Option<Dispatch> {
        None
    }
}

/// The CPU engine runs out of address space long before memory is touched.
#[test]
fn running_out_of_memory_is_an_error_after_which_the_device_works() {
    let device = Device::isolated_cpu();
    let held = upload_words(&device, &[1.0f32; 64]);
    // Memory of the pool, which the lost recording takes first.
    drop(add(&held, &held));
    device.flush().unwrap();
    let before = device.counters().memory_bytes;
    let largest = device.window_bytes();
    let buffers: Vec<_> = (0..(1usize << 48).div_ceil(largest) + 1).map(|_| new(&device, largest)).collect();
    let lost = add(&held, &held);
    for some in buffers.chunks(100) {
        run(&device, Touch, &[], &some.iter().map(slice).collect::<Vec<_>>());
    }
    match device.flush() {
        Err(Error::OutOfMemory { bytes, device: name, .. }) => assert!(bytes >= largest && name.starts_with("cpu")),
        other => panic!("{other:?}"),
    }
    assert!(device.counters().memory_bytes <= before, "nothing of the failed recording stays");
    assert!(matches!(device.read(&[slice(&lost)]), Err(Error::Unwritten { .. })));
    assert_eq!(words::<f32>(&add(&held, &held)), [2.0; 64]);
}

/// A GPU may refuse a buffer that its limits allow: lavapipe does, past 2 GiB.
#[test]
fn a_buffer_that_the_driver_refuses_is_an_error_after_which_the_device_works() {
    alone("memory::a_buffer_that_the_driver_refuses_is_an_error_after_which_the_device_works", &[], || {
        let Some(device) = everstep_testing::gpu() else { return };
        let held = upload_words(&device, &[1.0f32; 64]);
        for bytes in [1usize << 31, 3 << 30, (4 << 30) - 256] {
            let Ok(buffer) = device.windowed_buffer("arena", bytes) else { continue };
            run(&device, Touch, &[], &[slice(&buffer)]);
            let outcome = device.flush();
            assert!(matches!(outcome, Ok(()) | Err(Error::OutOfMemory { .. })), "{bytes} bytes: {outcome:?}");
            drop(buffer);
            device.trim().unwrap();
        }
        let held = if device.read(&[slice(&held)]).is_ok() { held } else { upload_words(&device, &[1.0f32; 64]) };
        assert_eq!(words::<f32>(&add(&held, &held)), [2.0; 64]);
    });
}

#[test]
fn dropped_memory_serves_again_and_trimming_gives_it_back() {
    alone("memory::dropped_memory_serves_again_and_trimming_gives_it_back", &[], || {
        for device in undisturbed() {
            const BYTES: u64 = 1 << 20;
            let memory = || device.counters().memory_bytes;
            let ones = upload_words(&device, &vec![1.0f32; BYTES as usize / 4]);
            device.flush().unwrap();
            let base = memory();
            for _ in 0..10 {
                let sum = add(&ones, &ones);
                device.flush().unwrap();
                assert_eq!(memory(), base + BYTES, "{device}: one more buffer, again and again");
                drop(sum);
            }
            let mut sum = add(&ones, &ones);
            for _ in 0..20 {
                sum = add(&sum, &ones);
            }
            device.flush().unwrap();
            assert_eq!(memory(), base + 2 * BYTES, "{device}: a chain needs two buffers");
            assert_eq!(words::<f32>(&sum)[..3], [22.0; 3]);
            device.trim().unwrap();
            assert_eq!(memory(), base + BYTES, "{device}: what is held stays");
            let clone = sum.clone();
            drop(sum);
            device.trim().unwrap();
            assert_eq!(memory(), base + BYTES, "{device}: a clone holds it");
            drop(clone);
            device.trim().unwrap();
            assert_eq!(memory(), base, "{device}");
            assert_eq!(words::<f32>(&add(&ones, &ones))[..3], [2.0; 3], "{device}: after trimming");
        }
    });
}

/// What a limit does, on devices of their own: the whole of a device's memory could not be asked for.
fn limited(test: impl Fn(&Device)) {
    let gpu = everstep_testing::gpu().map(|_| Device::isolated_gpu("").unwrap());
    std::iter::once(Device::isolated_cpu()).chain(gpu).for_each(|device| test(&device));
}

const MIB: usize = 1 << 20;

#[test]
fn out_of_memory_says_what_was_asked_for_and_what_was_there() {
    limited(|device| {
        let held = upload_words(device, &vec![1.0f32; MIB / 4]);
        device.flush().unwrap();
        let before = device.counters().memory_bytes;
        device.limit_memory(before as usize + MIB / 2);
        let _sum = add(&held, &held);
        match device.flush() {
            Err(Error::OutOfMemory { bytes, resident, device: name }) => {
                assert!(
                    bytes == MIB && resident >= MIB && name == device.to_string(),
                    "{bytes} of {resident} on {name}"
                );
            }
            other => panic!("{device}: {other:?}"),
        }
        assert_eq!(device.counters().memory_bytes, before, "{device}");
        device.limit_memory(usize::MAX);
        assert_eq!(words::<f32>(&add(&held, &held))[..3], [2.0; 3], "{device}");
        // A loss comes before it.
        device.limit_memory(0);
        device.destroy();
        let _sum = add(&held, &held);
        assert!(matches!(device.flush(), Err(Error::DeviceLost { .. })), "{device}");
        device.rebuild().unwrap();
        upload_words(device, &[1.0f32; 64]);
        device.flush().unwrap();
    });
}

/// Where the pool is all that is in the way, it is given back, whatever the memory is for.
#[test]
fn the_pool_makes_room() {
    limited(|device| {
        let pooled = || {
            device.limit_memory(usize::MAX);
            device.trim().unwrap();
            drop(upload_words(device, &vec![1.0f32; 3 * MIB / 4]));
            let held = upload_words(device, &[0.5f32; 64]);
            let large = upload_words(device, &vec![2.0f32; 3 * MIB / 4]);
            device.flush().unwrap();
            drop(large);
            device.flush().unwrap();
            held
        };
        // For a buffer, for the upload into one, for the way back of one.
        for limit in [3 * MIB, 4 * MIB, 5 * MIB] {
            let held = pooled();
            device.limit_memory(limit + MIB / 2);
            let large = upload_words(device, &vec![2.0f32; MIB / 4]);
            assert_eq!(words::<f32>(&large)[..3], [2.0; 3], "{device}");
            assert_eq!(words::<f32>(&held)[..3], [0.5; 3], "{device}");
        }
    });
}

/// A GPU's upload and read-back need memory of their own.
#[test]
fn no_room_for_a_transfer_is_out_of_memory_too() {
    let Some(device) = everstep_testing::gpu().map(|_| Device::isolated_gpu("").unwrap()) else { return };
    let held = upload_words(&device, &vec![1.0f32; MIB]);
    device.flush().unwrap();
    device.trim().unwrap();
    let memory = device.counters().memory_bytes as usize;
    device.limit_memory(memory + MIB + MIB / 2);
    let lost = upload_words(&device, &vec![1.0f32; MIB / 4]);
    let outcome = device.flush();
    assert!(matches!(outcome, Err(Error::OutOfMemory { .. })), "an upload: {outcome:?}");
    assert!(matches!(device.read(&[slice(&lost)]), Err(Error::Unwritten { .. })));
    device.limit_memory(memory + MIB);
    let outcome = device.read(&[slice(&held)]).map(drop);
    assert!(matches!(outcome, Err(Error::OutOfMemory { .. })), "a read-back: {outcome:?}");
    device.limit_memory(usize::MAX);
    assert_eq!(words::<f32>(&held).len(), MIB);
}
