//! Choosing a device by name, by environment, or the best there is.

use everstep_device::{Device, DeviceKind, Error};

use crate::{alone, is_alone};

/// As if the user had chosen nothing.
const UNSET: [(&str, &str); 2] = [("EVERSTEP_DEVICE", ""), ("WGPU_ADAPTER_NAME", "")];

/// The name and the list of what was found, of the error for a name without a device.
#[track_caller]
fn refused(outcome: everstep_device::Result<Device>) -> (String, String) {
    match outcome {
        Err(Error::NoDevice { name, found, .. }) => (name, found),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_cpu_is_one_device_and_isolated_ones_are_their_own() {
    for name in ["cpu", "CPU", " cpu\n"] {
        assert!(Device::from_name(name).unwrap().is(&Device::cpu()), "{name:?}");
    }
    assert_eq!(Device::cpu(), Device::cpu().clone());
    let isolated = Device::isolated_cpu();
    assert_ne!(isolated, Device::cpu());
    assert_ne!(isolated, Device::isolated_cpu());
    assert_eq!(isolated.info(), Device::cpu().info());
    let info = isolated.info();
    assert!(info.kind == DeviceKind::Cpu && !info.software && !info.name.is_empty());
    assert!(isolated.to_string().starts_with("cpu: ") && isolated.to_string().contains("threads"), "{isolated}");
}

#[test]
fn every_adapter_is_chosen_by_index_and_by_name() {
    for adapter in Device::gpus() {
        let index = adapter.index;
        let by_index = Device::from_name(&format!("gpu:{index}")).unwrap();
        assert!(by_index.is(&Device::gpu(&index.to_string()).unwrap()), "{adapter}");
        let info = by_index.info();
        assert_eq!((info.kind, &info.name, info.software), (DeviceKind::Gpu, &adapter.name, adapter.software));
        let part: String = adapter.name.chars().take(6).collect();
        for name in [adapter.name.clone(), adapter.name.to_uppercase(), part] {
            let found = Device::from_name(&format!(" GPU: {name} ")).unwrap();
            let info = found.info();
            assert!(info.name.to_lowercase().contains(name.to_lowercase().trim()), "{name} gave {found}");
        }
    }
    let Some(gpu) = everstep_testing::gpu() else { return };
    assert!(gpu.is(&Device::from_name("gpu").unwrap()) && gpu.is(&Device::from_name("gpu:0").unwrap()));
    let found = Device::gpus();
    let software = found.iter().position(|adapter| adapter.software).unwrap_or(found.len());
    assert!(found[software..].iter().all(|adapter| adapter.software), "real ones come first: {found:?}");
    if found.iter().any(|adapter| adapter.name.contains("llvmpipe")) {
        let software = Device::from_name("gpu:llvmpipe").unwrap();
        assert!(software.info().software && software.info().name.contains("llvmpipe"));
    }
}

#[test]
fn a_name_without_a_device_is_an_error_that_says_what_there_is() {
    let garbage =
        ["", " ", "gpu:", "gpu: ", "gpu:nosuch", "gpu:99", "gpu:-1", "gpu0", "cpu:0", "tpu", "\u{1f600}", "g\0"];
    for name in garbage {
        let (named, found) = refused(Device::from_name(name));
        assert_eq!(named.trim(), name.trim(), "{name:?}");
        assert!(found.starts_with("Found: cpu"), "{found}");
        for adapter in Device::gpus() {
            assert!(found.contains(&adapter.to_string()), "{found}");
        }
    }
    let message = Device::from_name("gpu:nosuch").unwrap_err().to_string();
    assert!(message.contains("`gpu:nosuch`") && message.contains("Use `auto`, `cpu`, `gpu`"), "{message}");
}

#[test]
fn the_best_device_is_never_a_software_driver() {
    alone("selection::the_best_device_is_never_a_software_driver", &UNSET, || {
        let best = Device::best().unwrap();
        assert!(!best.info().software, "{best}");
        assert!(best.is(&Device::from_name("auto").unwrap()));
        let real = Device::gpus().iter().any(|adapter| !adapter.software);
        assert_eq!(best.info().kind, if real { DeviceKind::Gpu } else { DeviceKind::Cpu });
    });
}

#[test]
fn everstep_device_names_the_best_device() {
    let with = |name: &str, check: &dyn Fn(everstep_device::Result<Device>)| {
        alone("selection::everstep_device_names_the_best_device", &[("EVERSTEP_DEVICE", name)], || {
            check(Device::best());
            check(Device::from_name("Auto"));
        });
    };
    for name in ["cpu", " CPU "] {
        with(name, &|best| assert!(best.unwrap().is(&Device::cpu())));
    }
    for name in ["auto", "AUTO", " Auto ", "", " "] {
        with(name, &|best| assert!(!best.unwrap().info().software));
    }
    with("nonsense", &|best| assert_eq!(refused(best).0, "nonsense"));
    with("gpu:nosuch", &|best| assert_eq!(refused(best).0, "gpu:nosuch"));
    if is_alone() || everstep_testing::gpu().is_some() {
        with("gpu", &|best| assert!(best.unwrap().is(&Device::gpu("").unwrap())));
    }
}

#[test]
fn wgpu_adapter_name_narrows_the_choice() {
    let test = "selection::wgpu_adapter_name_narrows_the_choice";
    alone(test, &[("EVERSTEP_DEVICE", ""), ("WGPU_ADAPTER_NAME", "nosuch")], || {
        assert_eq!(Device::gpus(), []);
        assert!(Device::best().unwrap().is(&Device::cpu()));
        for name in ["gpu", "gpu:0"] {
            let (named, found) = refused(Device::from_name(name));
            assert!(named == name && found.contains("no GPU"), "{named}: {found}");
        }
    });
    for adapter in Device::gpus() {
        let name = adapter.name.to_uppercase();
        alone(test, &[("EVERSTEP_DEVICE", ""), ("WGPU_ADAPTER_NAME", &name)], || {
            assert!(Device::gpus().iter().all(|found| found.name.to_uppercase().contains(&name)));
            assert_eq!(Device::gpu("").unwrap().info().name, Device::gpus()[0].name);
        });
    }
}
