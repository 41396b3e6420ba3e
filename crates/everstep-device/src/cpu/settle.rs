//! The end of a step for buffers that forward passes change.

use crate::control::{self, Verdict};
use crate::params::params;
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

params! {
    /// The uniform of `settle.wgsl`.
    pub struct SettleParams { count: u32 }
}

/// A commit makes the pending buffers the committed ones, a refusal the other way round.
///
/// Input: control block. Outputs: committed, pending, `[count]` each.
#[derive(Clone, Debug)]
pub struct Settle(pub SettleParams);

impl Kernel for Settle {
    fn name(&self) -> &'static str {
        "settle"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (&[control], &[committed, pending]) = (inputs, outputs) else {
            return Err("settle has one input and two outputs");
        };
        let count = self.0.count as usize;
        let inside = control > control::VERDICT && count <= committed && count <= pending;
        if inside { Ok(()) } else { Err("an operand of settle leaves its slice") }
    }

    fn updates(&self, _: usize) -> bool {
        true
    }

    fn run(&self, args: &mut Args<'_>) {
        let count = self.0.count as usize;
        let commit = args.inputs[0][control::VERDICT] == Verdict::Commit as u32;
        let [committed, pending] = &mut args.outputs[..] else { return };
        let (committed, pending) = (&mut committed[..count], &mut pending[..count]);
        match commit {
            true => committed.copy_from_slice(pending),
            false => pending.copy_from_slice(committed),
        }
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let shader = Shader::File { name: "settle", constants: vec![] };
        let workgroups = gpu.grid((self.0.count as usize).div_ceil(256));
        (self.0.count > 0).then(|| Dispatch { shader, params: self.0.words(), workgroups })
    }
}
