//! Profiles: each in a process of its own, because the variable is read once, and files are written at the end.

use std::path::{Path, PathBuf};

use everstep_device::capture::Kept;
use everstep_device::cpu::{
    Attention, AttentionBackward, Conv, ConvBackwardInput, ConvBackwardWeight, ConvGeometry, Matmul,
};
use everstep_device::functions::Activation;
use everstep_device::{Device, Kernel, Layout};
use serde_json::Value;

use crate::{add, alone, copy, is_alone, new, run, shape, slice, upload_words, words};

/// A folder of its own that is gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("everstep-profile-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.0.join(name)).unwrap()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A sum, a product, a copy, and a step that is captured and run again; prints how many commands that were.
fn work(device: &Device) {
    let before = device.counters().commands;
    let a = upload_words(device, &vec![1.5f32; 64 * 64]);
    let sum = add(&a, &a);
    let product = new(device, 64 * 64 * 4);
    let square = Layout::contiguous(shape(&[64, 64]));
    let matmul = Matmul { a: square, b: square, bias: None, activation: Activation::None };
    run(device, matmul, &[slice(&a), slice(&sum), slice(&a)], &[slice(&product)]);
    let kept = new(device, product.bytes());
    copy(device, slice(&product), slice(&kept));
    assert_eq!(words::<f32>(&kept)[0], 64.0 * 1.5 * 3.0);
    let step = |earlier: Option<&_>| {
        let start = device.begin_capture().unwrap();
        let out = add(&a, &a);
        let outputs = vec![out.region()];
        (device.end_capture(start, &[slice(&a)], outputs, earlier).unwrap(), out)
    };
    let (Kept::Trace(trace), _first) = step(None) else { panic!("the first is no capture") };
    let (Kept::Capture(capture), out) = step(Some(&trace)) else { panic!("the second is the same") };
    assert!(device.replay(&capture, &[slice(&a)]).unwrap() && device.replay(&capture, &[slice(&a)]).unwrap());
    assert_eq!(words::<f32>(&out)[0], 3.0);
    println!("commands {}", device.counters().commands - before);
}

/// The events of one line of the trace's only device that worked.
fn track(trace: &Value, tid: u64) -> Vec<&Value> {
    let events = trace["traceEvents"].as_array().unwrap().iter();
    events.filter(|event| event["ph"] == "X" && event["tid"] == tid).collect()
}

/// What [`work`] on one device leaves behind.
#[track_caller]
fn check(folder: &Folder, text: &str) {
    let commands: u64 = text.lines().find_map(|line| line.strip_prefix("commands ")).unwrap().parse().unwrap();
    assert_eq!(folder.names(), ["trace.json", "trace.json.table.json", "trace.json.txt"], "whole files, no others");
    let (trace, table) = (folder.json("trace.json"), folder.json("trace.json.table.json"));
    let (host, device) = (track(&trace, 1), track(&trace, 2));
    let rows = table["devices"][0]["rows"].as_array().unwrap();
    let sum = |key: &str| rows.iter().map(|row| row[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("calls"), commands, "each command is counted: {rows:?}");
    assert_eq!(sum("timed"), device.len() as u64, "and has an event where it was timed");
    assert_eq!(sum("timed"), commands, "which these devices can");
    for name in ["flush", "replay", "wait"] {
        assert!(host.iter().any(|event| event["name"] == name), "{name}");
    }
    let ns = |event: &Value, key: &str| (event[key].as_f64().unwrap() * 1e3).round() as u64;
    let mut end = 0;
    for event in &device {
        assert!(ns(event, "ts") >= end, "one at a time: {event}");
        end = ns(event, "ts") + ns(event, "dur");
    }
    let whole = end - ns(device[0], "ts");
    assert!(device.iter().map(|event| ns(event, "dur")).sum::<u64>() <= whole);
    assert_eq!(sum("ns"), device.iter().map(|event| ns(event, "dur")).sum::<u64>());
    let product = device.iter().find(|event| event["name"] == "matmul").unwrap();
    assert_eq!((&product["args"]["flops"], &product["args"]["op"]), (&Value::from(2 * 64 * 64 * 64), &"test".into()));
    assert_eq!(product["args"]["bytes"], 4 * 64 * 64 * 4, "a, b, what stands for a bias, and the product");
    assert!(table["devices"][0]["ceilings"]["operations_per_s"].as_f64().unwrap() > 0.0);
    let text = std::fs::read_to_string(folder.0.join("trace.json.txt")).unwrap();
    assert!(text.contains("measured ceilings") && text.contains("matmul"), "{text}");
}

#[test]
fn each_command_of_the_cpu_engine_has_an_event() {
    let folder = Folder::new("cpu");
    let file = folder.0.join("trace.json");
    let text =
        profiled("profile::each_command_of_the_cpu_engine_has_an_event", &file, || work(&Device::isolated_cpu()));
    if !is_alone() {
        check(&folder, &text);
    }
}

#[test]
fn each_command_of_a_gpu_has_an_event() {
    if !is_alone() && everstep_testing::gpu().is_none() {
        return;
    }
    let folder = Folder::new("gpu");
    let file = folder.0.join("trace.json");
    let text =
        profiled("profile::each_command_of_a_gpu_has_an_event", &file, || work(&everstep_testing::gpu().unwrap()));
    if !is_alone() {
        check(&folder, &text);
    }
}

#[test]
fn a_profile_is_written_on_request() {
    let folder = Folder::new("request");
    let file = folder.0.join("trace.json");
    profiled("profile::a_profile_is_written_on_request", &file, || {
        let device = Device::isolated_cpu();
        let file = device.write_profile().unwrap().unwrap();
        assert!(file.is_file());
        // One that was rebuilt goes on in lines of its own.
        device.rebuild().unwrap();
        upload_words(&device, &[1u32]);
        device.write_profile().unwrap().unwrap();
        let trace: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let names = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["name"] == "process_name");
        assert_eq!(names.count(), 2);
    });
}

#[test]
fn without_the_variable_there_is_no_file_and_a_bad_name_ends_nothing() {
    alone(
        "profile::without_the_variable_there_is_no_file_and_a_bad_name_ends_nothing",
        &[("EVERSTEP_PROFILE", "")],
        || {
            let device = Device::isolated_cpu();
            work(&device);
            assert_eq!(device.write_profile().unwrap(), None);
        },
    );
    let nowhere = "no-such-folder/trace.json";
    let variables = [("EVERSTEP_PROFILE", nowhere)];
    alone("profile::without_the_variable_there_is_no_file_and_a_bad_name_ends_nothing", &variables, || {
        let device = Device::isolated_cpu();
        work(&device);
        assert_eq!(device.write_profile().unwrap(), None);
    });
    assert!(!Path::new(nowhere).exists());
}

/// [`alone`] with a profile in `file`. A case's name has to be the same in both processes, and the file's is not.
fn profiled(test: &str, file: &Path, body: impl FnOnce()) -> String {
    let inherited = std::env::var("EVERSTEP_PROFILE").ok();
    let file = inherited.filter(|_| is_alone()).unwrap_or_else(|| file.to_str().unwrap().to_string());
    alone(test, &[("EVERSTEP_PROFILE", &file)], body)
}

#[test]
fn kernels_count_their_operations() {
    let layout = |dims: &[usize]| Layout::contiguous(shape(dims));
    let matmul = Matmul { a: layout(&[3, 4, 5]), b: layout(&[3, 5, 6]), bias: None, activation: Activation::Relu };
    assert_eq!(matmul.operations(), 2 * 3 * 4 * 5 * 6);
    for (queries, keys) in [(5, 5), (3, 7), (7, 3)] {
        for causal in [false, true] {
            let q = layout(&[2, queries, 8]);
            let (k, v, y) = (layout(&[2, keys, 8]), layout(&[2, keys, 4]), layout(&[2, queries, 4]));
            let forward = Attention { q, k, v, mask: None, y, scale: 1.0, causal };
            let seen: u64 = (0..queries).map(|i| if causal { keys.min(i + 1) } else { keys } as u64).sum();
            assert_eq!(forward.operations(), 2 * seen * (2 * 8 + 2 * 4), "{queries} {keys} {causal}");
            let backward = AttentionBackward { forward, g: y, dq: q, dk: k, dv: v };
            assert_eq!(backward.operations(), 2 * seen * (6 * 8 + 4 * 4));
        }
    }
    let geometry = ConvGeometry {
        batch: 2,
        groups: 3,
        channels: 4,
        outputs: 5,
        input: [6, 6],
        output: [4, 4],
        kernel: [3, 3],
        stride: [1, 1],
        padding: [0, 0],
        dilation: [1, 1],
    };
    let each = 2 * (2 * 3 * 5 * 16) * (4 * 9);
    assert_eq!(Conv { geometry, bias: true, activation: Activation::None }.operations(), each);
    assert_eq!(ConvBackwardInput { geometry }.operations(), each);
    assert_eq!(ConvBackwardWeight::new(geometry).operations(), each);
    assert_eq!(crate::addition(everstep_device::DType::F32, 10).operations(), 0);
}
