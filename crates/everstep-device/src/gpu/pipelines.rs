//! Shaders into pipelines, each built once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use wgpu::{BindGroupLayout, BindGroupLayoutEntry, BindingType, BufferBindingType, ShaderStages};

use super::cache::DiskCache;
use super::executor::UNIFORM_BYTES;
use crate::counters::AtomicCounters;
use crate::{Result, Shader};

pub(super) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
}

/// Number of inputs and of outputs.
type Shape = (usize, usize);

pub(super) struct Pipelines {
    // A shader that two commands bind with different numbers of inputs has two layouts.
    built: HashMap<Shape, HashMap<Shader, Arc<Pipeline>>>,
    storage_layouts: HashMap<Shape, BindGroupLayout>,
    uniform_layout: BindGroupLayout,
    checked: bool,
    disk: Option<DiskCache>,
}

fn entry(binding: u32, kind: BufferBindingType, dynamic: bool) -> BindGroupLayoutEntry {
    BindGroupLayoutEntry {
        binding,
        visibility: ShaderStages::COMPUTE,
        ty: BindingType::Buffer { ty: kind, has_dynamic_offset: dynamic, min_binding_size: None },
        count: None,
    }
}

impl Pipelines {
    pub(super) fn new(device: &wgpu::Device) -> Self {
        let uniform_layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("uniforms"),
            entries: &[entry(0, BufferBindingType::Uniform, true)],
        });
        // Built-in shaders are validated by tests and run without bounds checks; this turns the checks on.
        let checked = std::env::var_os("EVERSTEP_GPU_CHECKED").is_some_and(|value| value != "0");
        let disk = DiskCache::open(device);
        Self { built: HashMap::new(), storage_layouts: HashMap::new(), uniform_layout, checked, disk }
    }

    pub(super) fn uniform_layout(&self) -> &BindGroupLayout {
        &self.uniform_layout
    }

    pub(super) fn storage_layout(&mut self, device: &wgpu::Device, shape: Shape) -> &BindGroupLayout {
        self.storage_layouts.entry(shape).or_insert_with(|| {
            let entries: Vec<_> = (0..shape.0 + shape.1)
                .map(|index| entry(index as u32, BufferBindingType::Storage { read_only: index < shape.0 }, false))
                .collect();
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
        })
    }

    /// The pipeline of `shader` for so many inputs and outputs. `check` tells whether the driver complained while it
    /// was built; such a pipeline is not kept.
    pub(super) fn get(
        &mut self,
        device: &wgpu::Device,
        label: &str,
        (shader, shape): (&Shader, Shape),
        counters: &AtomicCounters,
        check: impl Fn() -> Result<()>,
    ) -> Result<Arc<Pipeline>> {
        if let Some(pipeline) = self.built.get(&shape).and_then(|built| built.get(shader)) {
            let pipeline = pipeline.clone();
            if let Some(disk) = &mut self.disk {
                disk.found();
            }
            return Ok(pipeline);
        }
        let pipeline = Arc::new(self.build(device, label, shader, shape));
        check()?;
        AtomicCounters::add(&counters.pipelines, 1);
        tracing::debug!(label, "pipeline built");
        self.built.entry(shape).or_default().insert(shader.clone(), pipeline.clone());
        Ok(pipeline)
    }

    fn build(&mut self, device: &wgpu::Device, label: &str, shader: &Shader, shape: Shape) -> Pipeline {
        let none: &[(&str, u32)] = &[];
        let (source, constants, trusted) = match shader {
            // A name without a file is an empty shader, which the driver refuses with a typed error.
            Shader::File { name, constants } => {
                (Cow::Owned(everstep_shaders::source(name).unwrap_or_default()), &constants[..], true)
            }
            Shader::Pointwise(program, access) => (Cow::Owned(program.wgsl(access)), none, true),
            Shader::Custom(source) => (source.clone(), none, false),
        };
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(label),
            source: wgpu::ShaderSource::Wgsl(Cow::Borrowed(&source)),
        };
        let module = if trusted && !self.checked {
            // SAFETY: every built-in and generated shader guards its indices; the tests run the suite with checks on.
            unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        } else {
            device.create_shader_module(descriptor)
        };
        let storage = self.storage_layout(device, shape).clone();
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(label),
            bind_group_layouts: &[Some(&storage), Some(&self.uniform_layout)],
            immediate_size: 0,
        });
        let constants: Vec<(&str, f64)> = constants.iter().map(|(name, value)| (*name, f64::from(*value))).collect();
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: self.disk.as_mut().map(DiskCache::cache),
        });
        debug_assert!(UNIFORM_BYTES.is_multiple_of(16));
        Pipeline { pipeline }
    }
}
