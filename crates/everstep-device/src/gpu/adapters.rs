//! Finding adapters and opening devices on them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wgpu::{Adapter, Backends, DeviceType, Instance};

use super::executor::{Faults, GpuExecutor};
use crate::device::{Executor, SizeLimits};
use crate::select::no_device;
use crate::{ALIGNMENT, AdapterInfo, Device, DeviceInfo, DeviceKind, Error, GpuTraits, Result};

fn instance() -> &'static Instance {
    static INSTANCE: OnceLock<Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        // The shaders and the work are checked by this crate's tests; `WGPU_VALIDATION` and friends turn layers on.
        descriptor.flags = wgpu::InstanceFlags::empty();
        Instance::new(descriptor.with_env())
    })
}

/// The adapters that can compute, best first: discrete before integrated before virtual before software. The system is
/// asked once: that takes time, and some drivers talk to standard error at each question.
fn usable() -> Vec<Adapter> {
    static FOUND: OnceLock<Vec<Adapter>> = OnceLock::new();
    let all = FOUND.get_or_init(|| pollster::block_on(instance().enumerate_adapters(Backends::all())));
    let wanted = std::env::var("WGPU_ADAPTER_NAME").ok().map(|name| name.to_lowercase());
    let mut found = all.clone();
    found.retain(|adapter| {
        let name = adapter.get_info().name.to_lowercase();
        let computes = adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS);
        computes && wanted.as_ref().is_none_or(|wanted| name.contains(wanted.as_str()))
    });
    found.sort_by_key(|adapter| match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu | DeviceType::Other => 2,
        DeviceType::Cpu => 3,
    });
    found
}

fn describe(index: usize, adapter: &Adapter) -> AdapterInfo {
    let info = adapter.get_info();
    let driver = format!("{}: {} {}", info.backend, info.driver, info.driver_info);
    AdapterInfo { index, name: info.name, driver: driver.trim().into(), software: info.device_type == DeviceType::Cpu }
}

pub(crate) fn adapters() -> Vec<AdapterInfo> {
    usable().iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect()
}

/// Opens the adapter named by index or part of its name, `""` for the first; the same device for the same adapter.
pub(crate) fn open(wanted: &str) -> Result<Device> {
    static OPEN: Mutex<Option<HashMap<usize, Device>>> = Mutex::new(None);
    let mut adapters = usable();
    let by_name = || {
        let wanted = wanted.to_lowercase();
        adapters.iter().position(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted))
    };
    let index = match wanted.parse::<usize>() {
        Ok(index) => (index < adapters.len()).then_some(index),
        Err(_) => by_name(),
    };
    let Some(index) = index else {
        let reason = if adapters.is_empty() { "no GPU adapter was found" } else { "no adapter matches" };
        return Err(no_device(&if wanted.is_empty() { "gpu".into() } else { format!("gpu:{wanted}") }, reason));
    };
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = open.get_or_insert_default();
    if let Some(device) = open.get(&index) {
        return Ok(device.clone());
    }
    let device = connect(index, &adapters.swap_remove(index))?;
    open.insert(index, device.clone());
    Ok(device)
}

fn connect(index: usize, adapter: &Adapter) -> Result<Device> {
    let description = describe(index, adapter);
    let limits = adapter.limits();
    let request = adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("everstep"),
        required_features: wgpu::Features::empty(),
        required_limits: limits.clone(),
        memory_hints: wgpu::MemoryHints::Performance,
        ..Default::default()
    });
    let (device, queue) = pollster::block_on(request).map_err(|error| Error::NoDevice {
        name: format!("gpu:{index}"),
        reason: error.to_string(),
        found: format!("The adapter is {description}"),
    })?;
    let faults = Arc::new(Faults::default());
    let sink = faults.clone();
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| sink.refused(error.to_string())));
    let sink = faults.clone();
    device.set_device_lost_callback(move |reason, message| sink.lost(format!("{reason:?} {message}")));

    let traits =
        GpuTraits { software: description.software, max_workgroups: limits.max_compute_workgroups_per_dimension };
    let info = DeviceInfo {
        kind: DeviceKind::Gpu,
        name: description.name,
        driver: description.driver,
        software: description.software,
    };
    let sizes = SizeLimits {
        buffer: (
            "max_buffer_size",
            usize::try_from(limits.max_buffer_size).unwrap_or(usize::MAX) / ALIGNMENT * ALIGNMENT,
        ),
        binding: ("max_storage_buffer_binding_size", limits.max_storage_buffer_binding_size as usize),
    };
    let executor = GpuExecutor::new(device, queue, traits, info.to_string(), faults);
    Ok(Device::from_executor(Executor::Gpu(Box::new(executor)), info, sizes))
}
