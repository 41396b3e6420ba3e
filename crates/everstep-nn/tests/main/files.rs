//! Weights in files: what comes back, what does not fit, and what a hostile file may do.

use std::path::{Path, PathBuf};

use everstep_nn::safetensors::{LoadOptions, load_safetensors, save_safetensors};
use everstep_nn::{BatchNorm1d, Error, Linear, Module, Relu, Sequential};
use everstep_tensor::{Arena, Device, Generator, Parameter, Tensor};

/// A file in the system's folder for them, removed when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("everstep-{}-{name}.safetensors", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn model(seed: u64, device: &Device) -> Sequential {
    let mut generator = Generator::new(seed);
    let mut layer = |input, output| Linear::new(input, output, &mut generator, device).unwrap();
    Sequential::new().with(layer(3, 4)).with(Relu).with(layer(4, 2))
}

fn values(module: &impl Module) -> Vec<Vec<f32>> {
    module.parameters().iter().map(|parameter| parameter.tensor().to_vec().unwrap()).collect()
}

/// A file of tensors, as the format has it.
fn write(path: &Path, tensors: &[(&str, &str, &[usize], &[u8])]) {
    let mut offset = 0;
    let entries: Vec<String> = tensors
        .iter()
        .map(|(key, dtype, shape, bytes)| {
            let start = offset;
            offset += bytes.len();
            format!(r#""{key}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{offset}]}}"#)
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    tensors.iter().for_each(|(.., bytes)| file.extend(*bytes));
    std::fs::write(path, file).unwrap();
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn what_is_saved_comes_back_on_every_device_and_into_an_arena() {
    let file = Scratch::new("round");
    for device in everstep_testing::devices() {
        let source = model(1, &device);
        save_safetensors(&source, &file.0).unwrap();
        let target = model(2, &device);
        let arena = Arena::new(&[target.parameters()]).unwrap();
        assert_ne!(values(&target), values(&source));
        let report = load_safetensors(&target, &file.0, &LoadOptions::new()).unwrap();
        assert_eq!(report.loaded, ["0.weight", "0.bias", "2.weight", "2.bias"]);
        assert!(report.missing.is_empty() && report.unexpected.is_empty());
        assert_eq!(values(&target), values(&source));
        assert!(arena.parameters()[0].is(&target.parameters()[0]), "it is still the arena's");
        // Saving again replaces the file, and the same values give the same bytes.
        let before = std::fs::read(&file.0).unwrap();
        save_safetensors(&target, &file.0).unwrap();
        assert_eq!(std::fs::read(&file.0).unwrap(), before);
    }
    let missing = save_safetensors(&model(1, &Device::cpu()), "/no/such/folder/model.safetensors").unwrap_err();
    assert!(matches!(missing, Error::File { action: "write", kind: std::io::ErrorKind::NotFound, .. }));
    let missing = load_safetensors(&model(1, &Device::cpu()), "/no/such/file", &LoadOptions::new()).unwrap_err();
    assert!(matches!(missing, Error::File { action: "read", .. }), "{missing}");
}

#[test]
fn names_that_differ_are_told_or_loaded_in_part() {
    let (device, file) = (Device::cpu(), Scratch::new("names"));
    let target = model(1, &device);
    let before = values(&target);
    let (weight, bias, other) = (bytes(&[0.5; 12]), bytes(&[1.0, 2.0, 3.0, 4.0]), bytes(&[9.0]));
    write(
        &file.0,
        &[("0.weight", "F32", &[4, 3], &weight), ("body.0.bias", "F32", &[4], &bias), ("x", "F32", &[1], &other)],
    );
    let error = load_safetensors(&target, &file.0, &LoadOptions::new()).unwrap_err();
    let Error::Keys { missing, unexpected, .. } = &error else { panic!("{error}") };
    assert_eq!((missing.join(" "), unexpected.join(" ")), ("0.bias 2.weight 2.bias".into(), "body.0.bias x".into()));
    assert_eq!(values(&target), before);

    let options = LoadOptions::new().partial().replace("body.*", "*");
    let report = load_safetensors(&target, &file.0, &options).unwrap();
    assert_eq!(
        (report.loaded.join(" "), report.missing.join(" ")),
        ("0.weight 0.bias".into(), "2.weight 2.bias".into())
    );
    assert_eq!(report.unexpected, ["x"]);
    let after = values(&target);
    assert_eq!((&after[0][..], &after[1][..]), (&[0.5; 12][..], &[1.0, 2.0, 3.0, 4.0][..]));
    assert_eq!(after[2..], before[2..]);

    let report = load_safetensors(&target, &file.0, &options.clone().ignore("x")).unwrap();
    assert!(report.unexpected.is_empty());
    let twice = load_safetensors(&target, &file.0, &options.clone().rename("x", "0.weight")).unwrap_err();
    assert!(matches!(twice, Error::KeyTwice { .. }), "{twice}");
    let wrong = load_safetensors(&target, &file.0, &options.replace("0.*", "*.*")).unwrap_err();
    assert!(matches!(wrong, Error::Pattern { .. }), "{wrong}");
}

#[test]
fn key_maps_name_what_stars_stand_for() {
    let name = |options: &LoadOptions, key: &str| options.name_of(key).unwrap().unwrap();
    let options = LoadOptions::new()
        .replace("model.*", "*")
        .replace("layers.*.attn.*", "blocks.*.attention.*")
        .rename("wte", "tok.weight");
    assert_eq!(name(&options, "model.layers.10.attn.q.weight"), "blocks.10.attention.q.weight");
    assert_eq!(name(&options, "layers.1.mlp"), "layers.1.mlp");
    assert_eq!(name(&options, "model.wte"), "tok.weight");
    assert_eq!(name(&options, "model.wtex"), "wtex");
    assert_eq!(name(&LoadOptions::new().replace("*", "x.*"), "a.b"), "x.a.b");
    assert_eq!(name(&LoadOptions::new().replace("a*b*c", "*-*"), "aXbYbc"), "X-Yb");
    assert_eq!(name(&LoadOptions::new().replace("a*a", "*"), "a"), "a");
    assert_eq!(name(&LoadOptions::new().replace("a*", "fixed"), "abc"), "fixed");
}

#[test]
fn shapes_and_dtypes_are_checked_before_anything_changes() {
    let (device, file) = (Device::cpu(), Scratch::new("shapes"));
    let layer = Linear::new(3, 2, &mut Generator::new(0), &device).unwrap();
    let before = values(&layer);
    let (weight, bias) = (bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), bytes(&[7.0, 8.0]));
    let load = |options: &LoadOptions| load_safetensors(&layer, &file.0, options);

    write(&file.0, &[("bias", "F32", &[2], &bias), ("weight", "F32", &[3, 2], &weight)]);
    let error = load(&LoadOptions::new()).unwrap_err();
    assert_eq!(error.to_string(), "`weight` has shape [3, 2] in the file, and [2, 3] in the module");
    assert_eq!(values(&layer), before, "the bias, which fits, has not been set");
    load(&LoadOptions::new().transpose("*weight")).unwrap();
    assert_eq!(values(&layer), [vec![1.0, 3.0, 5.0, 2.0, 4.0, 6.0], vec![7.0, 8.0]]);
    let error = load(&LoadOptions::new().transpose("*")).unwrap_err();
    assert_eq!(error.to_string(), "`bias` has shape [2] in the file, to be transposed, and [2] in the module");

    // The same numbers in other formats: 1.5 and -2 are exact in all of them.
    let half = [0x3e00u16, 0xc000].map(u16::to_le_bytes).concat();
    let brain = [0x3fc0u16, 0xc000].map(u16::to_le_bytes).concat();
    let double = [1.5f64, -2.0].map(f64::to_le_bytes).concat();
    for (dtype, data) in [("F16", &half), ("BF16", &brain), ("F64", &double)] {
        write(&file.0, &[("bias", dtype, &[2], data)]);
        load(&LoadOptions::new().partial()).unwrap();
        assert_eq!(values(&layer)[1], [1.5, -2.0], "{dtype}");
    }
    write(&file.0, &[("bias", "I64", &[2], &[0; 16])]);
    let error = load(&LoadOptions::new().partial()).unwrap_err();
    assert_eq!(error, Error::FileDType { key: "bias".into(), dtype: "I64".into() });
}

#[test]
fn a_tied_parameter_is_found_under_any_of_its_names() {
    #[derive(Module)]
    #[module(crate = everstep_nn)]
    struct Tied {
        encoder: Parameter,
        decoder: Parameter,
    }
    let (device, file) = (Device::cpu(), Scratch::new("tied"));
    let weight = Linear::new(1, 2, &mut Generator::new(0), &device).unwrap().weight;
    let tied = Tied { encoder: weight.clone(), decoder: weight };
    for keys in [&["encoder"][..], &["decoder"], &["encoder", "decoder"]] {
        let data = bytes(&[keys.len() as f32, 2.0]);
        let entries: Vec<_> = keys.iter().map(|key| (*key, "F32", &[2usize, 1][..], &data[..])).collect();
        write(&file.0, &entries);
        let report = load_safetensors(&tied, &file.0, &LoadOptions::new()).unwrap();
        assert_eq!(report.loaded, keys);
        assert_eq!(values(&tied), [vec![keys.len() as f32, 2.0]]);
    }
    save_safetensors(&tied, &file.0).unwrap();
    assert_eq!(load_safetensors(&tied, &file.0, &LoadOptions::new()).unwrap().loaded, ["encoder"]);
}

/// Every damaged file is an error or harmless; none panics, none takes memory by what it claims.
#[test]
fn hostile_files_are_errors() {
    let (device, file) = (Device::cpu(), Scratch::new("hostile"));
    let layer = Linear::new(3, 2, &mut Generator::new(0), &device).unwrap();
    save_safetensors(&layer, &file.0).unwrap();
    let good = std::fs::read(&file.0).unwrap();
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let load = |bytes: &[u8]| {
        std::fs::write(&file.0, bytes).unwrap();
        load_safetensors(&layer, &file.0, &LoadOptions::new())
    };
    for length in [0, 7, 8, 20, 8 + header, good.len() - 1] {
        assert!(matches!(load(&good[..length]), Err(Error::Format { .. })), "cut to {length}");
    }
    for claim in [u64::MAX, u64::MAX - 8, 1 << 62, 100_000_001, good.len() as u64, 0] {
        let mut bytes = good.clone();
        bytes[..8].copy_from_slice(&claim.to_le_bytes());
        assert!(matches!(load(&bytes), Err(Error::Format { .. })), "a header of {claim} bytes");
    }
    for text in [
        r#"{"bias":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}}"#,
        r#"{"bias":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        r#"{"bias":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615]}}"#,
        r#"{"bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"weight":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
        r#"{"bias":{"dtype":"Q9","shape":[2],"data_offsets":[0,8]}}"#,
        "[[[[",
    ] {
        let bytes = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &[0; 8]].concat();
        assert!(matches!(load(&bytes), Err(Error::Format { .. })), "{text}");
    }
    let mut generator = Generator::new(1);
    let before = values(&layer);
    for _ in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..1 + generator.below(3) {
            let at = generator.below(8 + header as u32) as usize;
            bytes[at] = generator.below(256) as u8;
        }
        if load(&bytes).is_err() {
            assert_eq!(values(&layer), before);
        } else {
            // Names and shapes were spared; swapped offsets may give each parameter the other's bits.
            load(&good).unwrap();
        }
    }
}

/// The running statistics of a batch norm are in the file, and PyTorch's counter of batches beside them is no obstacle.
#[test]
fn running_buffers_are_saved_and_loaded() {
    let file = Scratch::new("buffers");
    let path = &file.0;
    for device in everstep_testing::devices() {
        let norm = BatchNorm1d::new(2, &device).unwrap();
        let x = Tensor::from_slice(&[1.0f32, 5.0, 3.0, -9.0], &[2, 2], &device).unwrap();
        norm.forward(&x).unwrap();
        save_safetensors(&norm, path).unwrap();
        let other = BatchNorm1d::new(2, &device).unwrap();
        let report = load_safetensors(&other, path, &LoadOptions::new()).unwrap();
        assert_eq!(report.loaded, ["weight", "bias", "running_mean", "running_var"]);
        for ((name, found), (_, expected)) in other.named_buffers().iter().zip(norm.named_buffers()) {
            let [found, expected] = [found, &expected].map(|buffer| buffer.tensor().to_vec::<f32>().unwrap());
            assert_eq!(found, expected, "{name}");
            assert_ne!(found, [0.0, 0.0], "{name}");
        }
        let four = bytes(&[1.0, 2.0]);
        let counter = 3i64.to_le_bytes();
        let mut tensors: Vec<(&str, &str, &[usize], &[u8])> =
            ["bias", "running_mean", "running_var", "weight"].map(|name| (name, "F32", &[2][..], &four[..])).to_vec();
        tensors.push(("num_batches_tracked", "I64", &[], &counter));
        write(path, &tensors);
        let report = load_safetensors(&other, path, &LoadOptions::new()).unwrap();
        assert!(report.unexpected.is_empty(), "{report:?}");
        assert_eq!(other.running_var.tensor().to_vec::<f32>().unwrap(), [1.0, 2.0]);
        tensors.remove(1);
        write(path, &tensors);
        let error = load_safetensors(&other, path, &LoadOptions::new()).unwrap_err();
        assert!(matches!(&error, Error::Keys { missing, .. } if missing[..] == ["running_mean"]), "{error}");
    }
}
