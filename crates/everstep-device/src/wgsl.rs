//! WGSL for a pointwise program: one thread per element, operands found as the access pattern says.
//!
//! The uniform is a list of words: the element count, each operand's offset, the collapsed dimensions, and the strides
//! of each strided operand, then the scalars, in the order that `Pointwise::dispatch` writes them.

use std::fmt::Write;

use crate::DType;
use crate::expr::{Access, Find, Instruction, Program};
use crate::functions::Wgsl;

fn wgsl_type(dtype: DType) -> &'static str {
    match dtype {
        DType::U32 | DType::Bool => "u32",
        DType::I32 => "i32",
        DType::F32 | DType::F16 | DType::BF16 => "f32",
    }
}

fn word(index: usize) -> String {
    format!("params.words[{}][{}]", index / 4, index % 4)
}

/// The index expression of each operand, over `i` and the dimensions' indices `d0`, `d1`, ..
fn indices(access: &Access) -> (Vec<String>, usize) {
    let operands = access.operands.len();
    let mut next = 1 + operands + access.rank;
    let index = |(operand, find): (usize, &Find)| {
        let mut text = word(1 + operand);
        match find {
            Find::Linear => text += " + i",
            Find::Single => {}
            Find::Strided => {
                for axis in 0..access.rank {
                    let _ = write!(text, " + d{axis} * {}", word(next + axis));
                }
                next += access.rank;
            }
        }
        text
    };
    let list = access.operands.iter().enumerate().map(index).collect();
    (list, next)
}

fn constant(bits: u32, dtype: DType) -> String {
    match dtype {
        // WGSL refuses a constant expression that is NaN or infinite.
        DType::F32 if !f32::from_bits(bits).is_finite() => format!("f32_from_bits({bits}u)"),
        DType::F32 => format!("bitcast<f32>({bits}u)"),
        DType::I32 => format!("bitcast<i32>({bits}u)"),
        _ => format!("{bits}u"),
    }
}

impl Program {
    /// Its shader in WGSL, for operands found by `access`.
    pub fn wgsl(&self, access: &Access) -> String {
        let inputs = self.inputs().len();
        let (indices, words) = indices(access);
        let mut text = String::new();
        let dtypes = self.inputs().iter().copied().chain(self.outputs().iter().map(|&at| self.dtype(at)));
        for (binding, dtype) in dtypes.enumerate() {
            let mode = if binding < inputs { "read" } else { "read_write" };
            let kind = wgsl_type(dtype);
            let _ =
                writeln!(text, "@group(0) @binding({binding}) var<storage, {mode}> operand{binding}: array<{kind}>;");
        }
        let all_words = words + self.scalars();
        let _ = writeln!(text, "struct Params {{ words: array<vec4<u32>, {}> }}", all_words.div_ceil(4));
        text += "@group(1) @binding(0) var<uniform> params: Params;\n\n@compute @workgroup_size(256)\nfn main(\n    \
             @builtin(workgroup_id) group: vec3<u32>,\n    @builtin(num_workgroups) groups: vec3<u32>,\n    \
             @builtin(local_invocation_index) lane: u32,\n) {\n    \
             let i = (group.x + group.y * groups.x) * 256u + lane;\n    if (i >= params.words[0][0]) { return; }\n";
        if access.operands.contains(&Find::Strided) {
            let first = 1 + access.operands.len();
            let _ = writeln!(text, "    var rest = i;");
            for axis in (0..access.rank).rev() {
                let dim = word(first + axis);
                let _ = writeln!(text, "    let d{axis} = rest % {dim};\n    rest = rest / {dim};");
            }
        }
        for (at, instruction) in self.instructions().iter().enumerate() {
            let value = match instruction {
                Instruction::Input(input) => format!("operand{input}[{}]", indices[*input]),
                Instruction::Constant(bits) => constant(*bits, self.dtype(at)),
                Instruction::Scalar(index) => format!("bitcast<f32>({})", word(words + index)),
                Instruction::Apply { function, overload, args } => {
                    match (function.overloads[*overload].wgsl, &args[..]) {
                        (Wgsl::Infix(operator), [a, b]) => format!("v{a} {operator} v{b}"),
                        (Wgsl::Infix(name) | Wgsl::Call(name), args) => {
                            let args: Vec<String> = args.iter().map(|arg| format!("v{arg}")).collect();
                            format!("{name}({})", args.join(", "))
                        }
                    }
                }
            };
            let _ = writeln!(text, "    let v{at} = {value};");
        }
        for (output, at) in self.outputs().iter().enumerate() {
            let operand = inputs + output;
            let _ = writeln!(text, "    operand{operand}[{}] = v{at};", indices[operand]);
        }
        text += "}\n";
        everstep_shaders::with_shared(&["shared/activation", "shared/float_bits"], &text)
    }
}
