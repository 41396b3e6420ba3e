//! Bytes to the device, within it, and back.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use everstep_device::{Device, Error, Readback, Result, Slice};
use everstep_testing::devices;

use crate::{add, alone, bytes, copy, new, slice, undisturbed, upload, upload_to, upload_words, words};

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + seed * 7 + (at >> 8)) as u8).collect()
}

#[test]
fn uploads_of_any_size_come_back() {
    for device in devices() {
        let sizes = [0, 1, 2, 3, 4, 5, 7, 255, 256, 257, 1000, 4096, 65_537, 3 << 20];
        let buffers: Vec<_> = sizes.iter().map(|&size| upload(&device, &pattern(size, size))).collect();
        let all: Vec<_> = buffers.iter().map(slice).collect();
        let together = device.read(&all).unwrap().wait().unwrap();
        for ((buffer, size), part) in buffers.iter().zip(sizes).zip(together) {
            assert_eq!(part, pattern(size, size), "{device}, {size} bytes, with others");
            assert_eq!(bytes(&device, slice(buffer)).unwrap(), pattern(size, size), "{device}, {size} bytes");
        }
    }
}

#[test]
fn copies_of_any_size_reach_their_place_alone() {
    for device in devices() {
        // The last one is more than a thread copies at a time.
        for size in [0usize, 1, 3, 4, 6, 64, 255, 256, 1001, 600_001] {
            let room = (512 + size).next_multiple_of(256).max(2048);
            let (from, to) = (upload(&device, &pattern(room, 1)), upload(&device, &pattern(room, 2)));
            let part = |buffer, offset| Slice { offset, bytes: size, ..slice(buffer) };
            copy(&device, part(&from, 512), part(&to, 256));
            let mut expected = pattern(room, 2);
            expected[256..256 + size].copy_from_slice(&pattern(room, 1)[512..512 + size]);
            // Sizes are rounded up to words: what follows within the last word is nobody's.
            let end = (256 + size).next_multiple_of(4);
            let found = bytes(&device, slice(&to)).unwrap();
            assert_eq!(found[..256 + size], expected[..256 + size], "{device}, {size} bytes");
            assert_eq!(found[end..], expected[end..], "{device}, {size} bytes");
        }
    }
}

#[test]
fn a_copy_within_one_buffer_is_as_if_by_way_of_another() {
    for device in devices() {
        for (from, to) in [(0, 1024), (1024, 0), (0, 256), (256, 0), (0, 4), (8, 0), (512, 512)] {
            let buffer = upload(&device, &pattern(2048, 3));
            let part = |offset| Slice { offset, bytes: 1000, ..slice(&buffer) };
            copy(&device, part(from), part(to));
            let mut expected = pattern(2048, 3);
            expected.copy_within(from..from + 1000, to);
            assert_eq!(bytes(&device, slice(&buffer)).unwrap(), expected, "{device}: {from} to {to}");
        }
    }
}

#[test]
fn parts_are_written_and_read_on_their_own() {
    for device in devices() {
        let buffer = upload(&device, &pattern(1024, 4));
        let part = buffer.part(512, 300).unwrap();
        upload_to(&device, &pattern(300, 5), part.slice());
        let mut expected = pattern(1024, 4);
        expected[512..812].copy_from_slice(&pattern(300, 5));
        let parts = device.read(&[part.slice(), slice(&buffer), part.slice()]).unwrap().wait().unwrap();
        assert_eq!(parts, [expected[512..812].to_vec(), expected.clone(), expected[512..812].to_vec()], "{device}");
        assert!(
            buffer.part(100, 4).is_none() && buffer.part(512, 513).is_none() && buffer.part(256, usize::MAX).is_none()
        );
    }
}

fn poll_until_there(read: &mut Readback) -> Result<Vec<Vec<u8>>> {
    let start = Instant::now();
    loop {
        if let Some(parts) = read.try_take()? {
            return Ok(parts);
        }
        assert!(start.elapsed() < Duration::from_secs(60), "never arrived");
        std::thread::yield_now();
    }
}

#[test]
fn a_read_back_is_taken_once_without_waiting() {
    for device in devices() {
        let buffer = upload_words(&device, &[1u32, 2, 3]);
        let mut read = device.read(&[slice(&buffer)]).unwrap();
        assert_eq!(poll_until_there(&mut read).unwrap()[0].len(), 12, "{device}");
        assert_eq!(read.try_take(), Ok(None), "{device}");
        assert_eq!(read.try_take(), Ok(None), "{device}");
        assert!(matches!(read.wait(), Err(Error::Command { op: "read", .. })), "{device}: nothing is left to wait for");
        let empty = device.read(&[]).unwrap().wait().unwrap();
        assert_eq!(empty, Vec::<Vec<u8>>::new(), "{device}: no slices, no parts");
    }
}

/// Counts how often it was woken.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_read_back_is_a_future() {
    for device in devices() {
        let buffer = upload_words(&device, &[5u32, 6]);
        let wakes = Arc::new(Counting::default());
        let waker = Waker::from(wakes.clone());
        let mut read = pin!(device.read(&[slice(&add(&buffer, &buffer))]).unwrap());
        let mut pending = 0;
        let parts = loop {
            match read.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(parts) => break parts.unwrap(),
                Poll::Pending => pending += 1,
            }
            assert!(wakes.0.load(Ordering::Relaxed) >= pending, "{device}: whoever is pending is woken");
        };
        assert_eq!(parts[0].len(), 8, "{device}");
    }
}

/// Each read-back holds what was there when it began, however late and in whichever order it is taken.
#[test]
fn many_read_backs_are_in_flight() {
    for device in devices() {
        let counter = upload_words(&device, &[0u32; 300]);
        let one = upload_words(&device, &[1u32; 300]);
        let mut reads = Vec::new();
        for _ in 0..40 {
            let whole = slice(&counter);
            crate::run(&device, crate::addition(everstep_device::DType::U32, 300), &[whole, slice(&one)], &[whole]);
            reads.push(device.read(&[whole]).unwrap());
        }
        let expect = |parts: Vec<Vec<u8>>, step: usize| {
            let found: Vec<u32> = bytemuck::allocation::pod_collect_to_vec(&parts[0]);
            assert_eq!(found, [step as u32 + 1; 300], "{device}, step {step}");
        };
        for (step, mut read) in reads.into_iter().enumerate().rev() {
            match step % 4 {
                0 => expect(read.wait().unwrap(), step),
                1 => expect(read.pace().unwrap(), step),
                2 => expect(poll_until_there(&mut read).unwrap(), step),
                _ => drop(read), // never looked at
            }
        }
        assert_eq!(words::<u32>(&counter), [40; 300], "{device}");
    }
}

#[test]
fn standing_still_is_counted_by_its_reason() {
    alone("transfers::standing_still_is_counted_by_its_reason", &[], || {
        for device in undisturbed() {
            let buffer = upload_words(&device, &[1u32]);
            let counted = |act: &dyn Fn(&Device)| {
                let before = device.counters();
                act(&device);
                let now = device.counters();
                (
                    now.reads - before.reads,
                    now.blocking_reads - before.blocking_reads,
                    now.paced_reads - before.paced_reads,
                )
            };
            let read = |device: &Device| device.read(&[slice(&buffer)]).unwrap();
            assert_eq!(counted(&|device| drop(read(device).wait().unwrap())), (1, 1, 0), "{device}");
            assert_eq!(counted(&|device| drop(poll_until_there(&mut read(device)).unwrap())), (1, 0, 0), "{device}");
            assert_eq!(counted(&|device| drop(read(device))), (1, 0, 0), "{device}");
            // Pacing counts only where the result was not there yet.
            let (reads, blocked, paced) = counted(&|device| drop(read(device).pace().unwrap()));
            assert!(reads == 1 && blocked == 0 && paced <= 1, "{device}");
        }
        let device = Device::isolated_cpu();
        let buffer = upload_words(&device, &[1u32]);
        drop(device.read(&[slice(&buffer)]).unwrap().pace().unwrap());
        assert_eq!(device.counters().paced_reads, 0, "the CPU engine has it at once");
    });
}

#[test]
fn an_upload_overwrites_and_a_new_buffer_is_written_in_part() {
    for device in devices() {
        let buffer = new(&device, 1024);
        upload_to(&device, &[1; 256], buffer.part(0, 256).unwrap().slice());
        upload_to(&device, &[2; 256], buffer.part(256, 256).unwrap().slice());
        upload_to(&device, &[3; 128], buffer.part(256, 128).unwrap().slice());
        let found = bytes(&device, buffer.part(0, 512).unwrap().slice()).unwrap();
        assert_eq!(found, [vec![1; 256], vec![3; 128], vec![2; 128]].concat(), "{device}");
    }
}
