//! One device, many threads.

use std::sync::mpsc;
use std::time::Duration;

use everstep_device::Device;
use everstep_testing::devices;
use rayon::prelude::*;

use crate::{add, slice, upload_words, words};

/// Enough elements that the CPU engine splits the work.
const COUNT: usize = 40_000;

/// Fails after two minutes instead of hanging.
fn in_time(body: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        done.send(()).unwrap();
    });
    match wait.recv_timeout(Duration::from_secs(120)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("a deadlock"),
        _ => thread.join().unwrap(),
    }
}

/// A little program of its own data, whose result says whether another one's got in.
fn program(device: &Device, seed: usize) {
    let x = upload_words(device, &vec![seed as f32; COUNT]);
    let mut y = add(&x, &x);
    for _ in 0..5 {
        y = add(&y, &x);
    }
    let copy = device.read(&[slice(&y)]).unwrap();
    drop(x);
    assert_eq!(words::<f32>(&y), vec![7.0 * seed as f32; COUNT], "{device}, program {seed}");
    drop(y);
    let first: Vec<f32> = bytemuck::allocation::pod_collect_to_vec(&copy.wait().unwrap()[0][..8]);
    assert_eq!(first, [7.0 * seed as f32; 2], "{device}, program {seed}");
}

#[test]
fn threads_share_a_device() {
    in_time(|| {
        for device in devices() {
            std::thread::scope(|scope| {
                for thread in 0..8 {
                    let device = device.clone();
                    scope.spawn(move || (0..6).for_each(|round| program(&device, thread * 10 + round)));
                }
            });
        }
    });
}

#[test]
fn tasks_of_rayon_share_a_device() {
    in_time(|| {
        for device in devices() {
            (0..32).into_par_iter().for_each(|task| program(&device, task));
            for threads in [1, 4] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                // Tasks that wait for tasks, each with the device.
                pool.install(|| {
                    rayon::join(
                        || (0..8).into_par_iter().for_each(|task| program(&device, task)),
                        || rayon::join(|| program(&device, 50), || program(&device, 51)),
                    )
                });
            }
        }
    });
}

/// A buffer may be dropped on any thread, at any time.
#[test]
fn handles_travel_between_threads() {
    in_time(|| {
        for device in devices() {
            let (sender, receiver) = mpsc::channel();
            let other = device.clone();
            let consumer = std::thread::spawn(move || {
                let mut total = 0.0;
                for buffer in receiver {
                    total += words::<f32>(&add(&buffer, &buffer))[0];
                }
                (total, other.flush())
            });
            for value in 0..50 {
                sender.send(upload_words(&device, &[value as f32; 100])).unwrap();
            }
            drop(sender);
            assert_eq!(consumer.join().unwrap(), (2.0 * (0..50).sum::<i32>() as f32, Ok(())), "{device}");
        }
    });
}
