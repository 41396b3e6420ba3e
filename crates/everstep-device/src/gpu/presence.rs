//! Whether this machine can have a GPU at all, without asking a driver: to load and start all of them takes 0.1 to 0.2 s, which a
//! machine without a GPU would pay at each start of a program.

use std::ffi::OsStr;
use std::path::Path;

/// How the device nodes begin through which Vulkan's drivers for x86-64 Linux reach a GPU: the kernel's DRM (Intel, AMD, Nouveau,
/// virtual GPUs), NVIDIA's own, AMD's compute driver, and Windows' GPU under WSL.
const NODES: [&str; 4] = ["dri", "nvidia", "kfd", "dxg"];
/// How the variables begin by which someone points Vulkan or wgpu at a driver, or at a GPU elsewhere (Mesa's `venus`).
const VARIABLES: [&str; 4] = ["VK_", "WGPU_", "VN_", "VTEST"];

/// Whether a GPU may be there. `false` only where none can be: on x86-64 Linux, whose drivers' device nodes are known, without one of
/// them, and where the environment says nothing of drivers. Everywhere else, and on any doubt, the drivers must be asked.
pub(crate) fn may_exist() -> bool {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return true;
    }
    std::env::vars_os().any(|(name, value)| points_at_a_driver(&name, &value)) || has_node(Path::new("/dev"))
}

fn points_at_a_driver(name: &OsStr, value: &OsStr) -> bool {
    !value.is_empty() && VARIABLES.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
}

/// Whether `folder` has a GPU's device node, or cannot be read.
fn has_node(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return true };
    let is_node = |name: &OsStr| NODES.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()));
    entries.into_iter().any(|entry| entry.map_or(true, |entry| is_node(&entry.file_name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_or_a_doubt_means_that_drivers_are_asked() {
        let folder = std::env::temp_dir().join(format!("everstep-presence-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["null", "vga_arbiter", "random", "fb0"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        assert!(!has_node(&folder));
        for name in ["dri", "nvidia0", "nvidiactl", "kfd", "dxg"] {
            std::fs::write(folder.join(name), "").unwrap();
            assert!(has_node(&folder), "{name}");
            std::fs::remove_file(folder.join(name)).unwrap();
        }
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(has_node(&folder), "what cannot be read is a doubt");
    }

    #[test]
    fn a_variable_about_drivers_means_that_they_are_asked() {
        for name in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "WGPU_BACKEND", "VN_DEBUG", "VTEST_SOCKET_NAME"] {
            assert!(points_at_a_driver(name.as_ref(), "x".as_ref()), "{name}");
            assert!(!points_at_a_driver(name.as_ref(), "".as_ref()), "{name} is empty");
        }
        assert!(!points_at_a_driver("EVERSTEP_DEVICE".as_ref(), "auto".as_ref()));
    }
}
