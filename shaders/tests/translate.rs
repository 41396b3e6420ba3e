//! Every kernel is valid WGSL for plain WebGPU and becomes SPIR-V, MSL and HLSL.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not count as tests")]

use std::collections::BTreeSet;

use everstep_shaders::{DERIVED, FILES, SHARED, source, uses, with_shared};
use naga::back::pipeline_constants::process_overrides;
use naga::back::{PipelineConstants, hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage, TypeInner};

fn is_cooperative(name: &str) -> bool {
    name.contains("_cooperative")
}

/// Parses and validates a shader with no capability beyond WebGPU's; those written for the lanes of a subgroup have
/// subgroups too, and those on cooperative matrices what these need.
fn validate(name: &str, text: &str) -> (Module, ModuleInfo) {
    let module =
        naga::front::wgsl::parse_str(text).unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(text)));
    // Words of two f16 are read as f32 by every WebGPU.
    let webgpu = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let capabilities = match name {
        name if is_cooperative(name) => {
            webgpu | Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16 | Capabilities::COOPERATIVE_MATRIX
        }
        name if name.ends_with("_lanes") => webgpu | Capabilities::SUBGROUP,
        _ => webgpu,
    };
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(text)));
    (module, info)
}

/// Translates a shader for each kind of GPU, specialised by `constants`.
fn translate(name: &str, text: &str, constants: &[(&str, f64)]) {
    let (module, info) = validate(name, text);
    let entry = Some((ShaderStage::Compute, "main"));
    let constants: PipelineConstants = constants.iter().map(|(key, value)| (key.to_string(), *value)).collect();
    let (module, info) = process_overrides(&module, &info, entry, &constants).unwrap();
    // The version that has subgroups, which wgpu too asks for where a driver has it.
    let options = spv::Options { lang_version: (1, 3), ..Default::default() };
    let words = spv::write_vec(&module, &info, &options, None).unwrap();
    assert!(words.len() > 20, "{name}");
    let options = msl::Options { lang_version: (2, 4), ..Default::default() };
    let (text, translation) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default()).unwrap();
    assert!(text.contains("kernel") && translation.entry_point_names.iter().all(Result::is_ok), "{name}");
    // HLSL has no cooperative matrices, and no device on DX12 says that it does.
    if is_cooperative(name) {
        return;
    }
    let mut text = String::new();
    let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_0, ..Default::default() };
    let pipeline = hlsl::PipelineOptions::default();
    let reflection = hlsl::Writer::new(&mut text, &options, &pipeline).write(&module, &info, None).unwrap();
    assert!(text.contains("numthreads") && reflection.entry_point_names.iter().all(Result::is_ok), "{name}");
}

/// Values of every override of a shader at which it is translated, beside the defaults.
fn variants(module: &Module) -> Vec<Vec<(&str, f64)>> {
    let names: Vec<&str> = module.overrides.iter().filter_map(|(_, o)| o.name.as_deref()).collect();
    (0..6)
        .map(|value| {
            names
                .iter()
                .map(|name| match *name {
                    "ACTIVATION" => (*name, f64::from(value)),
                    "REDUCTION" => (*name, f64::from(value % 4)),
                    "LANES" => (*name, f64::from([64, 1, 8, 16, 32, 64][value as usize])),
                    _ => (*name, f64::from(value % 2)),
                })
                .collect()
        })
        .collect()
}

/// The names of all kernels.
fn kernels() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name).chain(DERIVED.iter().map(|(name, _, _)| *name))
}

#[test]
fn every_kernel_becomes_spirv_msl_and_hlsl() {
    for name in kernels() {
        let text = source(name).unwrap();
        let (module, _) = validate(name, &text);
        translate(name, &text, &[]);
        variants(&module).iter().for_each(|constants| translate(name, &text, constants));
    }
}

/// Names and byte offsets of the fields of a kernel's uniform, in order.
fn params_fields(name: &str) -> Vec<(String, u32)> {
    let (module, _) = validate(name, &source(name).unwrap());
    let uniform =
        module.global_variables.iter().map(|(_, variable)| variable).find(|v| v.space == AddressSpace::Uniform);
    let Some(uniform) = uniform else { return Vec::new() };
    let TypeInner::Struct { members, .. } = &module.types[uniform.ty].inner else { panic!("{name}: no struct") };
    members.iter().map(|member| (member.name.clone().unwrap(), member.offset)).collect()
}

#[test]
fn uniforms_are_read_as_declared() {
    assert_eq!(params_fields("softmax"), [("rows".to_string(), 0), ("columns".to_string(), 4)]);
    assert_eq!(params_fields("reduce"), params_fields("reduce_columns"));
    assert_eq!(params_fields("matmul"), params_fields("matmul_rows"));
    assert_eq!(params_fields("matmul"), params_fields("matmul_lanes"));
    assert_eq!(params_fields("matmul"), params_fields("matmul_large"));
    assert_eq!(params_fields("matmul"), params_fields("matmul_ragged_lanes"));
    assert_eq!(params_fields("conv2d"), params_fields("conv2d_tiles"));
    assert_eq!(params_fields("conv2d"), params_fields("conv2d_lanes"));
    assert_eq!(params_fields("adam"), params_fields("adam_quads"));
    assert_eq!(params_fields("attention"), params_fields("attention_lanes"));
    assert_eq!(params_fields("attention"), params_fields("attention_backward_lanes"));
    for (name, fields, last) in
        [("reduce", 8, 112), ("argmax", 6, 48), ("matmul", 15, 80), ("adam", 12, 44), ("gate", 16, 60)]
    {
        let read = params_fields(name);
        assert_eq!((read.len(), read.last().map(|field| field.1)), (fields, Some(last)), "{name}");
    }
    assert!(FILES.iter().all(|(name, _)| !params_fields(name).is_empty()));
}

/// Group 0 holds bindings 0, 1, .. of storage, all read-only ones first; group 1 the uniform.
#[test]
fn bindings_follow_the_rule() {
    for name in kernels() {
        let (module, _) = validate(name, &source(name).unwrap());
        let mut storage = Vec::new();
        for (_, variable) in module.global_variables.iter() {
            let Some(binding) = variable.binding else { continue };
            match variable.space {
                AddressSpace::Storage { access } => {
                    assert_eq!(binding.group, 0, "{name}");
                    storage.push((binding.binding, access.contains(naga::StorageAccess::STORE)));
                }
                AddressSpace::Uniform => assert_eq!((binding.group, binding.binding), (1, 0), "{name}"),
                _ => panic!("{name}: a binding of another kind"),
            }
        }
        storage.sort_unstable();
        assert!(
            storage.iter().enumerate().all(|(index, (binding, _))| *binding == index as u32),
            "{name}: {storage:?}"
        );
        assert!(storage.is_sorted_by_key(|(_, write)| *write), "{name}: {storage:?}");
        assert!(storage.len() <= 8, "{name}");
        let entry = &module.entry_points[0];
        assert_eq!((module.entry_points.len(), entry.name.as_str()), (1, "main"), "{name}");
    }
}

/// Names of the functions, constants, overrides and variables that a file declares.
fn declared(file: &str) -> Vec<&str> {
    let lines = file.lines().filter_map(|line| {
        let rest = ["fn ", "const ", "override ", "var<workgroup> "].iter().find_map(|word| line.strip_prefix(word));
        rest.or_else(|| {
            line.split_once("var<storage, ").and_then(|(_, rest)| rest.split_once("> ")).map(|(_, rest)| rest)
        })
    });
    lines.filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()).collect()
}

fn words(file: &str) -> BTreeSet<&str> {
    let code = file.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_')).collect()
}

/// Whether a file has the word with a parenthesis behind it.
fn calls(file: &str, name: &str) -> bool {
    let within = |before: &str| before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    file.match_indices(&format!("{name}(")).any(|(at, _)| !within(&file[..at]))
}

#[test]
fn what_a_file_uses_it_needs_and_every_shared_file_is_used() {
    let mut used = BTreeSet::new();
    for (name, file) in FILES.iter().chain(SHARED) {
        let words = words(file);
        for shared in uses(file) {
            let (_, text) = SHARED.iter().find(|(key, _)| *key == shared).unwrap();
            assert!(declared(text).iter().any(|name| words.contains(name)), "{name} does not need {shared}");
            used.insert(shared);
        }
        // And it names every file whose functions it calls.
        for (other, text) in SHARED.iter().filter(|(other, _)| other != name) {
            let called = declared(text).into_iter().find(|name| calls(file, name));
            // A file that it names may declare it too: one that takes the place of the other.
            let known = |file: &str| called.is_some_and(|called| declared(file).contains(&called));
            let own = known(file) || SHARED.iter().any(|(name, text)| uses(file).contains(name) && known(text));
            assert!(called.is_none() || own || uses(file).contains(other), "{name} calls {called:?} of {other}");
        }
    }
    used.extend(GENERATED);
    used.extend(DERIVED.iter().map(|(_, _, [_, to])| *to));
    assert_eq!(used, SHARED.iter().map(|(name, _)| *name).collect());
}

/// The shared files of generated pointwise shaders.
const GENERATED: &[&str] =
    &["shared/activation", "shared/elementary", "shared/float_bits", "shared/half", "shared/logic"];

/// What generated pointwise shaders call: the names of functions/table.rs with the dtypes of arguments and value.
const POINTWISE: &[(&str, &[&str], &str)] = &[
    ("exp_f32", &["f32"], "f32"),
    ("log_f32", &["f32"], "f32"),
    ("sqrt_f32", &["f32"], "f32"),
    ("tanh_f32", &["f32"], "f32"),
    ("sigmoid_f32", &["f32"], "f32"),
    ("erf_f32", &["f32"], "f32"),
    ("relu_f32", &["f32"], "f32"),
    ("gelu_f32", &["f32"], "f32"),
    ("gelu_tanh_f32", &["f32"], "f32"),
    ("max_f32", &["f32", "f32"], "f32"),
    ("min_f32", &["f32", "f32"], "f32"),
    ("relu_gate_f32", &["f32", "f32"], "f32"),
    ("max_share_f32", &["f32", "f32", "f32"], "f32"),
    ("abs_f32", &["f32"], "f32"),
    ("sign_f32", &["f32"], "f32"),
    ("floor_f32", &["f32"], "f32"),
    ("ceil_f32", &["f32"], "f32"),
    ("round_f32", &["f32"], "f32"),
    ("recip_f32", &["f32"], "f32"),
    ("rsqrt_f32", &["f32"], "f32"),
    ("silu_f32", &["f32"], "f32"),
    ("softplus_f32", &["f32"], "f32"),
    ("expm1_f32", &["f32"], "f32"),
    ("log1p_f32", &["f32"], "f32"),
    ("sin_f32", &["f32"], "f32"),
    ("cos_f32", &["f32"], "f32"),
    ("elu_f32", &["f32", "f32"], "f32"),
    ("leaky_relu_f32", &["f32", "f32"], "f32"),
    ("pow_f32", &["f32", "f32"], "f32"),
    ("rem_f32", &["f32", "f32"], "f32"),
    ("clamp_f32", &["f32", "f32", "f32"], "f32"),
    ("rem_u32", &["u32", "u32"], "u32"),
    ("rem_i32", &["i32", "i32"], "i32"),
    ("eq_f32", &["f32", "f32"], "u32"),
    ("ne_f32", &["f32", "f32"], "u32"),
    ("lt_f32", &["f32", "f32"], "u32"),
    ("le_f32", &["f32", "f32"], "u32"),
    ("gt_f32", &["f32", "f32"], "u32"),
    ("ge_f32", &["f32", "f32"], "u32"),
    ("where_f32", &["u32", "f32", "f32"], "f32"),
    ("bool_from_f32", &["f32"], "u32"),
    ("eq_u32", &["u32", "u32"], "u32"),
    ("ne_u32", &["u32", "u32"], "u32"),
    ("lt_u32", &["u32", "u32"], "u32"),
    ("le_u32", &["u32", "u32"], "u32"),
    ("gt_u32", &["u32", "u32"], "u32"),
    ("ge_u32", &["u32", "u32"], "u32"),
    ("where_u32", &["u32", "u32", "u32"], "u32"),
    ("bool_from_u32", &["u32"], "u32"),
    ("eq_i32", &["i32", "i32"], "u32"),
    ("ne_i32", &["i32", "i32"], "u32"),
    ("lt_i32", &["i32", "i32"], "u32"),
    ("le_i32", &["i32", "i32"], "u32"),
    ("gt_i32", &["i32", "i32"], "u32"),
    ("ge_i32", &["i32", "i32"], "u32"),
    ("where_i32", &["u32", "i32", "i32"], "i32"),
    ("bool_from_i32", &["i32"], "u32"),
    ("not_bool", &["u32"], "u32"),
    ("f16_from_f32", &["f32"], "u32"),
    ("f32_from_f16", &["u32"], "f32"),
    ("bf16_from_f32", &["f32"], "u32"),
    ("f32_from_bf16", &["u32"], "f32"),
    ("u32_from_f32", &["f32"], "u32"),
    ("i32_from_f32", &["f32"], "i32"),
];

#[test]
fn pointwise_functions_are_there() {
    for (name, args, result) in POINTWISE {
        let bindings: String = args
            .iter()
            .enumerate()
            .map(|(index, dtype)| {
                format!("@group(0) @binding({index}) var<storage, read> in{index}: array<{dtype}>;\n")
            })
            .collect();
        let calls: Vec<String> = (0..args.len()).map(|index| format!("in{index}[id.x]")).collect();
        let body = format!(
            "{bindings}@group(0) @binding({}) var<storage, read_write> out: array<{result}>;\n\
             @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{\n\
             out[id.x] = {name}({});\n}}\n",
            args.len(),
            calls.join(", "),
        );
        translate(name, &with_shared(GENERATED, &body), &[]);
    }
}
