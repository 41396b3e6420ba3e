//! Choosing a device: by constructor, by name, or the best there is.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::loss::{self, Source};
use crate::{Device, Error, Result};

/// A GPU that this machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdapterInfo {
    /// Its index in `gpu:<index>`.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The API it is reached through, and its driver.
    pub driver: String,
    /// A driver that runs on the CPU.
    pub software: bool,
}

impl fmt::Display for AdapterInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let software = if self.software { ", software" } else { "" };
        write!(f, "gpu:{} {} ({}{software})", self.index, self.name, self.driver)
    }
}

impl Device {
    /// The CPU engine. Every call gives the same device.
    pub fn cpu() -> Self {
        static CPU: OnceLock<Device> = OnceLock::new();
        CPU.get_or_init(Self::isolated_cpu).clone()
    }

    /// A CPU device of its own, with its own recording, memory and counters.
    pub fn isolated_cpu() -> Self {
        let failures = Arc::default();
        let opened = loss::open_cpu(0, &failures);
        Self::from_opened(Source::Cpu, opened, failures)
    }

    /// A device that plans work and drops it: for tests of recordings. Read-backs are zeros.
    pub fn null() -> Self {
        let failures = Arc::default();
        let opened = loss::open_null(0, &failures);
        Self::from_opened(Source::Null, opened, failures)
    }

    /// The device that `EVERSTEP_DEVICE` names (see [`Device::from_name`]), else a real GPU, else the CPU engine.
    ///
    /// A software GPU driver is never chosen: the CPU engine is 25 to 100 times faster.
    ///
    /// # Errors
    /// [`Error::NoDevice`] where `EVERSTEP_DEVICE` names none.
    pub fn best() -> Result<Self> {
        match std::env::var("EVERSTEP_DEVICE") {
            Ok(name) if !matches!(name.trim().to_ascii_lowercase().as_str(), "" | "auto") => Self::from_name(&name),
            _ => Ok(Self::auto()),
        }
    }

    /// The device of a name: `auto` (as [`Device::best`]), `cpu`, `gpu` (the best adapter, a software one if there is
    /// no other), `gpu:<index>` or `gpu:<part of the adapter's name>`. Programs take it from their command line.
    ///
    /// # Errors
    /// [`Error::NoDevice`] with what was found and what to install.
    pub fn from_name(name: &str) -> Result<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "auto" => Self::best(),
            "cpu" => Ok(Self::cpu()),
            "gpu" => Self::gpu(""),
            other => match other.strip_prefix("gpu:").map(str::trim) {
                Some(adapter) if !adapter.is_empty() => Self::gpu(adapter),
                _ => Err(no_device(name, "this is no device's name")),
            },
        }
    }

    /// A GPU: `""` for the best adapter, else its index or a part of its name. `WGPU_BACKEND` and
    /// `WGPU_ADAPTER_NAME` narrow the choice. Every call for the same adapter gives the same device, until that has fallen
    /// back to the CPU.
    ///
    /// # Errors
    /// [`Error::NoDevice`] with what was found and what to install.
    pub fn gpu(adapter: &str) -> Result<Self> {
        #[cfg(feature = "gpu")]
        return crate::gpu::open(adapter);
        #[cfg(not(feature = "gpu"))]
        Err(no_device(&format!("gpu:{adapter}"), "this program was built without the feature `gpu`"))
    }

    /// A GPU device of its own, on the adapter that [`Device::gpu`] would choose, with its own recording, memory, pipelines
    /// and counters: what is done to it disturbs no other.
    ///
    /// # Errors
    /// [`Error::NoDevice`] as for [`Device::gpu`].
    pub fn isolated_gpu(adapter: &str) -> Result<Self> {
        #[cfg(feature = "gpu")]
        return crate::gpu::open_isolated(adapter);
        #[cfg(not(feature = "gpu"))]
        Self::gpu(adapter)
    }

    /// The GPUs of this machine, best first; empty without any, or without the feature `gpu`.
    pub fn gpus() -> Vec<AdapterInfo> {
        #[cfg(feature = "gpu")]
        return crate::gpu::adapters();
        #[cfg(not(feature = "gpu"))]
        Vec::new()
    }

    fn auto() -> Self {
        // To ask drivers takes long; a machine that can have no GPU is spared it.
        #[cfg(feature = "gpu")]
        let found = if crate::gpu::may_exist() { Self::gpus() } else { Vec::new() };
        #[cfg(not(feature = "gpu"))]
        let found = Self::gpus();
        let real = found.iter().find(|adapter| !adapter.software);
        let device = match real.map(|adapter| Self::gpu(&adapter.index.to_string())) {
            Some(Ok(device)) => device,
            Some(Err(error)) => {
                tracing::warn!(%error, "the GPU cannot be used; falling back to the CPU engine");
                Self::cpu()
            }
            None => Self::cpu(),
        };
        tracing::info!(device = %device, "device chosen");
        device
    }
}

/// The error for a name without a device, with the list of what there is.
pub(crate) fn no_device(name: &str, reason: &str) -> Error {
    let found = Device::gpus();
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    let found = match (list.is_empty(), cfg!(feature = "gpu")) {
        (false, _) => format!("Found: cpu, {}", list.join(", ")),
        (true, true) => {
            "Found: cpu; no GPU. On Linux install the vendor's Vulkan driver and its loader (Debian, Ubuntu: \
             `apt install mesa-vulkan-drivers libvulkan1`, which also brings a software driver); on Windows and macOS \
             update the system's graphics driver"
                .to_string()
        }
        (true, false) => "Found: cpu. Build with the feature `gpu` for the others".to_string(),
    };
    Error::NoDevice { name: name.to_string(), reason: reason.to_string(), found }
}
