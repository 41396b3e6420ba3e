//! What the GPU is given: the uniforms of kernels are as their Rust structs say, and generated pointwise shaders are
//! valid and become SPIR-V, MSL and HLSL.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not count as tests")]

use everstep_device::DType::{self, BF16, Bool, F16, F32, I32, U32};
use everstep_device::cpu::UNIFORMS;
use everstep_device::expr::{Access, Expr, Find, Program};
use everstep_device::functions::{self, Function};
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, TypeInner};

/// Parses and validates a shader with no capability beyond WebGPU's; those for the lanes of a subgroup have subgroups too, and those
/// on cooperative matrices what these need.
fn validate(name: &str, text: &str) -> (Module, ModuleInfo) {
    let module =
        naga::front::wgsl::parse_str(text).unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(text)));
    let webgpu = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let cooperative = Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16 | Capabilities::COOPERATIVE_MATRIX;
    let capabilities = match name {
        "matmul_cooperative" => webgpu | cooperative,
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

/// Translates a shader for each kind of GPU.
fn translate(name: &str, text: &str) {
    let (module, info) = validate(name, text);
    let words = spv::write_vec(&module, &info, &spv::Options::default(), None).unwrap();
    assert!(words.len() > 20, "{name}");
    let options = msl::Options { lang_version: (2, 4), ..Default::default() };
    let (text, translation) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default()).unwrap();
    assert!(text.contains("kernel") && translation.entry_point_names.iter().all(Result::is_ok), "{name}");
    let mut text = String::new();
    let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_0, ..Default::default() };
    let pipeline = hlsl::PipelineOptions::default();
    let reflection = hlsl::Writer::new(&mut text, &options, &pipeline).write(&module, &info, None).unwrap();
    assert!(text.contains("numthreads") && reflection.entry_point_names.iter().all(Result::is_ok), "{name}");
}

/// Names and byte offsets of the fields of a kernel's uniform, in order.
fn params_fields(name: &str) -> Vec<(String, usize)> {
    let (module, _) = validate(name, &everstep_shaders::source(name).unwrap());
    let uniform = module.global_variables.iter().map(|(_, v)| v).find(|v| v.space == AddressSpace::Uniform);
    let TypeInner::Struct { members, .. } = &module.types[uniform.unwrap().ty].inner else {
        panic!("{name}: no struct")
    };
    members.iter().map(|member| (member.name.clone().unwrap(), member.offset as usize)).collect()
}

#[test]
fn uniforms_are_laid_out_as_their_structs() {
    for (name, fields) in UNIFORMS {
        let declared = params_fields(name);
        let expected: Vec<_> = fields.iter().map(|(name, offset)| (name.to_string(), *offset)).collect();
        assert_eq!(declared, expected, "{name}");
    }
}

/// Each kernel's file is in the list, once, in order: so no uniform goes unchecked.
#[test]
fn every_kernel_is_in_the_list_of_uniforms() {
    let listed: Vec<_> = UNIFORMS.iter().map(|(name, _)| *name).collect();
    let files: Vec<_> = everstep_shaders::FILES.iter().map(|(name, _)| *name).collect();
    assert_eq!(listed, files);
}

/// Every pattern of access a shader is generated for, of so many operands: all alike, and each of them alone among
/// others of another kind.
fn patterns(operands: usize) -> Vec<Access> {
    use Find::{Linear, Single, Strided};
    let mut patterns = vec![
        Access { rank: 1, operands: vec![Linear; operands] },
        Access { rank: 1, operands: vec![Single; operands] },
        Access { rank: 6, operands: vec![Strided; operands] },
    ];
    for alone in 0..operands {
        let mixed = |usual: Find, own: Find| (0..operands).map(|at| if at == alone { own } else { usual }).collect();
        patterns.push(Access { rank: 2, operands: mixed(Linear, Strided) });
        patterns.push(Access { rank: 3, operands: mixed(Strided, Linear) });
        patterns.push(Access { rank: 1, operands: mixed(Linear, Single) });
    }
    patterns
}

fn inputs(dtypes: &[DType]) -> Vec<Expr> {
    dtypes.iter().enumerate().map(|(index, &dtype)| Expr::input(index, dtype)).collect()
}

fn applied(function: &'static Function, dtypes: &[DType]) -> Expr {
    Expr::apply(function, inputs(dtypes)).unwrap()
}

#[test]
fn every_function_becomes_a_shader_for_every_pattern_of_access() {
    for function in functions::ALL {
        for overload in function.overloads {
            let program = Program::new(overload.args, &[applied(function, overload.args)]);
            let name = format!("{} {:?}", function.name, overload.args);
            for access in patterns(overload.args.len() + 1) {
                translate(&format!("{name} {access:?}"), &program.wgsl(&access));
            }
        }
    }
}

/// Gradients are longer formulas, with constants; they take inputs, the value, and the value's gradient.
#[test]
fn every_derivative_becomes_a_shader() {
    for function in functions::ALL.iter().filter(|function| function.derivative.is_some()) {
        for overload in function.overloads.iter().filter(|overload| overload.result.is_float()) {
            let count = overload.args.len();
            let [value, gradient] = [count, count + 1].map(|index| Expr::input(index, overload.result));
            let parts = applied(function, overload.args).gradients(count, &value, &gradient).unwrap();
            let parts: Vec<Expr> = parts.into_iter().flatten().collect();
            let dtypes = [overload.args, &[overload.result; 2]].concat();
            let program = Program::new(&dtypes, &parts);
            let access = Access { rank: 2, operands: vec![Find::Linear; count + 2 + parts.len()] };
            translate(function.name, &program.wgsl(&access));
        }
    }
}

/// Scalars, constants of every dtype (NaN and infinity too, which WGSL has no way to write), several outputs, copies.
#[test]
fn scalars_constants_and_several_outputs_become_a_shader() {
    let x = Expr::input(0, F32);
    let scaled = x.clone() * Expr::scalar(0) + Expr::scalar(4);
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-40, f32::MAX];
    let sum = special.into_iter().fold(scaled.clone(), |sum, value| sum + Expr::constant(value));
    let whole = |dtype| Expr::constant_bits(u32::MAX, dtype);
    let integer = Expr::apply(&functions::MUL, vec![Expr::input(1, I32), whole(I32)]).unwrap();
    let unsigned = Expr::apply(&functions::ADD, vec![Expr::input(2, U32), whole(U32)]).unwrap();
    let truth = Expr::apply(&functions::CAST_F32, vec![Expr::input(3, Bool)]).unwrap();
    let dtypes = [F32, I32, U32, Bool];
    let program = Program::new(&dtypes, &[scaled, sum, integer, unsigned, truth]);
    assert_eq!(program.scalars(), 5);
    for access in patterns(9) {
        translate(&format!("{access:?}"), &program.wgsl(&access));
    }
    for dtype in [F32, I32, U32, Bool, F16, BF16] {
        let copy = Program::new(&[dtype], &[Expr::input(0, dtype)]);
        patterns(2).iter().for_each(|access| translate("copy", &copy.wgsl(access)));
    }
    let fill = Program::new(&[], &[Expr::scalar(0)]);
    patterns(1).iter().for_each(|access| translate("fill", &fill.wgsl(access)));
}

/// The bindings that the executor makes: inputs read-only and first, then outputs, the uniform in a group of its own;
/// and the uniform has room for every word that a call supplies.
#[test]
fn bindings_and_words_are_as_the_executor_supplies_them() {
    let program = Program::new(
        &[F32, U32],
        &[Expr::input(0, F32) * Expr::scalar(1), Expr::apply(&functions::CAST_F32, vec![Expr::input(1, U32)]).unwrap()],
    );
    let access = Access { rank: 3, operands: vec![Find::Strided, Find::Linear, Find::Single, Find::Strided] };
    let (module, _) = validate("bindings", &program.wgsl(&access));
    let mut storage = Vec::new();
    for (_, variable) in module.global_variables.iter() {
        let Some(binding) = variable.binding else { continue };
        match variable.space {
            AddressSpace::Storage { access } => {
                assert_eq!(binding.group, 0);
                storage.push((binding.binding, access.contains(naga::StorageAccess::STORE)));
            }
            AddressSpace::Uniform => {
                assert_eq!((binding.group, binding.binding), (1, 0));
                // The count, 4 offsets, 3 dimensions, 3 strides of 2 operands, 2 scalars: 16 words.
                let size = module.types[variable.ty].inner.size(module.to_ctx());
                assert_eq!(size, 64);
            }
            other => panic!("a binding of {other:?}"),
        }
    }
    assert_eq!(storage, [(0, false), (1, false), (2, true), (3, true)]);
}
