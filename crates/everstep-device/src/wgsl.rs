//! WGSL for a pointwise program: one thread per element or per word of two halves, operands found as the access pattern
//! says.
//!
//! The uniform is a list of words: the element count, each operand's offset, the collapsed dimensions, and the strides
//! of each strided operand, then the scalars, in the order that `Pointwise::dispatch` writes them.

use std::fmt::Write;

use crate::DType;
use crate::expr::{Access, Find, Instruction, Program};
use crate::functions::Wgsl;

/// The shared files in which functions of the table are.
const FUNCTIONS: [&str; 5] =
    ["shared/activation", "shared/elementary", "shared/float_bits", "shared/half", "shared/logic"];

fn wgsl_type(dtype: DType) -> &'static str {
    match dtype {
        // A half is a word of its 16 bits: loads and stores alone know that two lie in a word of memory.
        DType::U32 | DType::Bool | DType::F16 | DType::BF16 => "u32",
        DType::I32 => "i32",
        DType::F32 => "f32",
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

/// The element at an index: a word, or a half of one.
fn load(operand: usize, index: &str, dtype: DType) -> String {
    match dtype.is_half() {
        true => format!("(operand{operand}[({index}) >> 1u] >> ((({index}) & 1u) * 16u)) & 0xffffu"),
        false => format!("operand{operand}[{index}]"),
    }
}

impl Program {
    /// Its shader in WGSL, for operands found by `access`.
    ///
    /// A thread computes one element; where an output is of halves, the two elements of one word.
    pub fn wgsl(&self, access: &Access) -> String {
        let (indices, words) = indices(access);
        let mut text = self.declarations(words);
        text += "@group(1) @binding(0) var<uniform> params: Params;\n\n@compute @workgroup_size(256)\nfn main(\n    \
             @builtin(workgroup_id) group: vec3<u32>,\n    @builtin(num_workgroups) groups: vec3<u32>,\n    \
             @builtin(local_invocation_index) lane: u32,\n) {\n    \
             let thread = (group.x + group.y * groups.x) * 256u + lane;\n";
        if self.packs_output() {
            text += "    if (thread * 2u >= params.words[0][0]) { return; }\n";
            for operand in self.packed_outputs() {
                let _ = writeln!(text, "    var packed{operand} = 0u;");
            }
            text += "    for (var side = 0u; side < 2u; side += 1u) {\n    let i = thread * 2u + side;\n    \
                     if (i >= params.words[0][0]) { break; }\n";
        } else {
            text += "    let i = thread;\n    if (i >= params.words[0][0]) { return; }\n";
        }
        self.element(access, &indices, words, &mut text);
        if self.packs_output() {
            text += "    }\n";
            for operand in self.packed_outputs() {
                // Its offset is even.
                let _ = writeln!(text, "    operand{operand}[{} / 2u + thread] = packed{operand};", word(1 + operand));
            }
        }
        text += "}\n";
        everstep_shaders::with_shared(&self.shared(&text), &text)
    }

    /// The bindings and the uniform's type.
    fn declarations(&self, words: usize) -> String {
        let mut text = String::new();
        for (binding, dtype) in self.operands().enumerate() {
            let mode = if binding < self.inputs().len() { "read" } else { "read_write" };
            let kind = wgsl_type(dtype);
            let _ =
                writeln!(text, "@group(0) @binding({binding}) var<storage, {mode}> operand{binding}: array<{kind}>;");
        }
        // The last one of a joined program is zero.
        let all_words = words + self.scalars() + usize::from(self.is_joined());
        let _ = writeln!(text, "struct Params {{ words: array<vec4<u32>, {}> }}", all_words.div_ceil(4));
        text
    }

    /// The operands that are outputs of halves.
    fn packed_outputs(&self) -> impl Iterator<Item = usize> + '_ {
        let operands = self.operands().enumerate().skip(self.inputs().len());
        operands.filter(|(_, dtype)| dtype.is_half()).map(|(operand, _)| operand)
    }

    /// The computation of element `i`, and its stores.
    fn element(&self, access: &Access, indices: &[String], words: usize, text: &mut String) {
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
                Instruction::Input(input) => load(*input, &indices[*input], self.dtype(at)),
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
            let _ = match self.is_sealed(at) {
                // No compiler knows that the word is zero, so none sees what the value was made of. Some contract across
                // what they see, and llvmpipe (Mesa 22.3) takes tanh exp tanh x for something else altogether.
                true => {
                    let zero = word(words + self.scalars());
                    writeln!(text, "    let v{at} = bitcast<f32>(bitcast<u32>({value}) ^ {zero});")
                }
                false => writeln!(text, "    let v{at} = {value};"),
            };
        }
        for (output, at) in self.outputs().iter().enumerate() {
            let operand = self.inputs().len() + output;
            let _ = match self.dtype(*at).is_half() {
                true => writeln!(text, "    packed{operand} |= (v{at} & 0xffffu) << (side * 16u);"),
                false => writeln!(text, "    operand{operand}[{}] = v{at};", indices[operand]),
            };
        }
    }

    /// The shared files that declare what its shader calls.
    fn shared(&self, text: &str) -> Vec<&'static str> {
        let call = |instruction: &Instruction| match instruction {
            Instruction::Apply { function, overload, .. } => match function.overloads[*overload].wgsl {
                Wgsl::Call(name) => Some(format!("fn {name}(")),
                Wgsl::Infix(_) => None,
            },
            _ => None,
        };
        let mut declared: Vec<String> = self.instructions().iter().filter_map(call).collect();
        declared.extend(text.contains("f32_from_bits(").then(|| "fn f32_from_bits(".into()));
        let files = everstep_shaders::SHARED.iter().filter(|(name, _)| FUNCTIONS.contains(name));
        let needed = files.filter(|(_, file)| declared.iter().any(|declaration| file.contains(declaration.as_str())));
        needed.map(|(name, _)| *name).collect()
    }
}
