//! Finding adapters and opening devices on them.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wgpu::{Adapter, Backends, DeviceType, Instance};

use super::cooperative;
use super::driver::Driver;
use super::executor::GpuExecutor;
use crate::device::SizeLimits;
use crate::executor::Executor;
use crate::loss::{Current, Opened, Source};
use crate::select::no_device;
use crate::{ALIGNMENT, AdapterInfo, Cooperative, Device, DeviceInfo, DeviceKind, Error, GpuTraits, Result};

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

/// The adapter named by index or part of its name, `""` for the first, and its index.
pub(super) fn choose(wanted: &str) -> Result<(usize, Adapter)> {
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
    Ok((index, adapters.swap_remove(index)))
}

/// Opens the adapter of that name; the same device for the same adapter.
pub(crate) fn open(wanted: &str) -> Result<Device> {
    static OPEN: Mutex<Option<HashMap<usize, Device>>> = Mutex::new(None);
    let (index, adapter) = choose(wanted)?;
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = open.get_or_insert_default();
    // One that has fallen back to the CPU is no GPU any more.
    if let Some(device) = open.get(&index).filter(|device| device.info().kind == DeviceKind::Gpu) {
        return Ok(device.clone());
    }
    let device = Device::open(Source::Gpu(Identity { index, adapter }))?;
    open.insert(index, device.clone());
    Ok(device)
}

/// As [`open`], a device of its own.
pub(crate) fn open_isolated(wanted: &str) -> Result<Device> {
    let (index, adapter) = choose(wanted)?;
    Device::open(Source::Gpu(Identity { index, adapter }))
}

/// Which adapter a device is opened on, and again after a loss.
#[derive(Clone)]
pub(crate) struct Identity {
    index: usize,
    adapter: Adapter,
}

impl Identity {
    pub(crate) fn open(&self, generation: u64, failures: &Arc<AtomicU64>) -> Result<Opened> {
        let outcome = connect(self.index, &self.adapter, generation, failures);
        if outcome.is_ok() || generation == 0 {
            return outcome;
        }
        // A card that was away may be another adapter to the system, or on another driver.
        self.again().map_or(outcome, |adapter| connect(self.index, &adapter, generation, failures))
    }

    /// The same adapter, as the system knows it now.
    fn again(&self) -> Option<Adapter> {
        let own = self.adapter.get_info();
        let found = pollster::block_on(instance().enumerate_adapters(own.backend.into()));
        found.into_iter().find(|adapter| {
            let info = adapter.get_info();
            let same = |info: &wgpu::AdapterInfo| (info.vendor, info.device, info.device_pci_bus_id.clone());
            info.name == own.name && same(&info) == same(&own)
        })
    }
}

/// Threads of every subgroup; 0 where shaders cannot use them, or where the driver chooses between sizes.
fn subgroup(adapter: &Adapter) -> u32 {
    let info = adapter.get_info();
    let usable = adapter.features().contains(wgpu::Features::SUBGROUP);
    let fixed = usable && info.subgroup_min_size == info.subgroup_max_size;
    if fixed { info.subgroup_min_size } else { 0 }
}

fn experimental() -> wgpu::ExperimentalFeatures {
    // SAFETY: wgpu asks whoever enables what is experimental to put up with its bugs. The one kernel that does is tried against
    // another when the device is opened, and shaders of programs are checked as ever.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// Opens an adapter: with cooperative matrices where it has them and they are right, else without.
pub(super) fn connect(index: usize, adapter: &Adapter, generation: u64, failures: &Arc<AtomicU64>) -> Result<Opened> {
    let outcome = match cooperative::offered(adapter) {
        Ok(offered) => connect_with(index, adapter, generation, failures, Some(offered)),
        Err(reason) => {
            tracing::debug!(index, reason, "no cooperative matrices");
            return connect_with(index, adapter, generation, failures, None);
        }
    };
    // A device that was lost over them, or that the driver refused with them, may do well without.
    match outcome {
        Ok(opened) if !opened.current.life.is_over() => Ok(opened),
        outcome => {
            let reason = outcome.err().map_or("the device was lost".into(), |error| error.to_string());
            tracing::debug!(index, reason, "opened again without cooperative matrices");
            connect_with(index, adapter, generation, failures, None)
        }
    }
}

fn connect_with(
    index: usize,
    adapter: &Adapter,
    generation: u64,
    failures: &Arc<AtomicU64>,
    offered: Option<Cooperative>,
) -> Result<Opened> {
    let description = describe(index, adapter);
    let limits = adapter.limits();
    let request = adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("everstep"),
        required_features: super::timestamps::features(adapter)
            | adapter.features() & (wgpu::Features::SUBGROUP | wgpu::Features::PIPELINE_CACHE)
            | offered.map_or(wgpu::Features::empty(), |_| cooperative::FEATURES),
        experimental_features: offered.map_or(wgpu::ExperimentalFeatures::disabled(), |_| experimental()),
        required_limits: limits.clone(),
        memory_hints: wgpu::MemoryHints::Performance,
        ..Default::default()
    });
    let (device, queue) = pollster::block_on(request).map_err(|error| Error::NoDevice {
        name: format!("gpu:{index}"),
        reason: error.to_string(),
        found: format!("The adapter is {description}"),
    })?;
    // What real GPUs run is tested on drivers in software too.
    let as_hardware = std::env::var_os("EVERSTEP_GPU_VARIANTS").is_some_and(|value| value == "hardware");
    let traits = GpuTraits {
        software: description.software && !as_hardware,
        subgroup: subgroup(adapter),
        max_workgroups: limits.max_compute_workgroups_per_dimension,
        cooperative: None,
    };
    let info = DeviceInfo {
        kind: DeviceKind::Gpu,
        name: description.name,
        driver: description.driver,
        software: description.software,
        traits: Some(traits.clone()),
    };
    let sizes = SizeLimits {
        buffer: (
            "max_buffer_size",
            usize::try_from(limits.max_buffer_size).unwrap_or(usize::MAX) / ALIGNMENT * ALIGNMENT,
        ),
        binding: ("max_storage_buffer_binding_size", limits.max_storage_buffer_binding_size as usize),
    };
    let mut current = Current::new(info, sizes, generation, failures);
    let driver = Driver::new(device, current.life.clone());
    let mut executor = GpuExecutor::new(driver.clone(), queue, traits);
    match offered.map(|offered| cooperative::adopt(&mut executor, offered)) {
        Some(Err(reason)) => tracing::debug!(index, reason, "cooperative matrices are not used"),
        Some(Ok(())) => tracing::debug!(index, ?offered, "cooperative matrices are used"),
        None => {}
    }
    current.driver = Some(driver);
    Ok(Opened { executor: Executor::Gpu(Box::new(executor)), current })
}
