//! Plans that are run again: bind groups, uniforms and host data are there already, and only what lies elsewhere this time is
//! bound anew.

use wgpu::{BindGroup, Buffer, BufferUsages};

use super::executor::{Encoded, Encoding, GpuExecutor, Memory, Prepared, Step, UNIFORM_BYTES};
use crate::Result;
use crate::capture::Captured;
use crate::counters::AtomicCounters;
use crate::device::Noting;
use crate::passes::Plan;

/// A plan ready to be submitted.
pub(super) struct KeptPlan {
    steps: Vec<Step>,
    uniforms: Option<BindGroup>,
    uploads: Option<Buffer>,
    copies: Vec<Memory>,
    // What each command becomes, and the first of its steps and of its copies.
    commands: Vec<(Encoded, usize, usize)>,
}

impl GpuExecutor {
    /// Makes `plan`, which has run, ready to be run again as `id`.
    pub(crate) fn keep(&mut self, id: u64, plan: &Plan) -> Result<()> {
        // Its pipelines are built.
        let counters = AtomicCounters::default();
        let Prepared { uniforms, uploads, commands } = self.prepare(plan, &counters)?;
        let uniforms = match uniforms.is_empty() {
            true => None,
            false => {
                let (buffer, group) = self.uniform_buffer(uniforms.len() as u64 + UNIFORM_BYTES)?;
                self.queue.write_buffer(&buffer, 0, &uniforms);
                Some(group)
            }
        };
        let uploads = match uploads.is_empty() {
            true => None,
            false => {
                let buffer = self.shared_buffer("uploads", uploads.len() as u64, BufferUsages::COPY_SRC)?;
                self.queue.write_buffer(&buffer, 0, &uploads);
                Some(buffer)
            }
        };
        let (mut steps, mut copies, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let mut encoding = Encoding { copies: &mut copies, used: 0, uploads: uploads.as_ref(), counters: &counters };
        for (command, encoded) in plan.commands.iter().zip(commands) {
            let start = (steps.len(), encoding.used);
            self.steps_of(command, &encoded, &mut encoding, &mut steps)?;
            places.push((encoded, start.0, start.1));
        }
        self.kept.insert(id, KeptPlan { steps, uniforms, uploads, copies, commands: places });
        self.driver.check("capture")
    }

    pub(crate) fn drop_kept(&mut self, id: u64) {
        self.kept.remove(&id);
    }

    /// Submits a kept plan, with its inputs where they lie now.
    pub(crate) fn replay(
        &mut self,
        id: u64,
        captured: &Captured,
        counters: &AtomicCounters,
        profile: Noting<'_>,
    ) -> Result<()> {
        let Some(mut kept) = self.kept.remove(&id) else { return Ok(()) };
        let outcome = self.bind_anew(&mut kept, captured, counters);
        if outcome.is_ok() {
            match profile {
                None => self.submit(&kept.steps, kept.uniforms.as_ref()),
                Some(profile) => {
                    let firsts: Vec<_> = kept.commands.iter().map(|(_, first, _)| *first).collect();
                    let commands = &captured.plan.commands;
                    self.submit_timed(profile, commands, &firsts, &kept.steps, kept.uniforms.as_ref());
                }
            }
        }
        self.kept.insert(id, kept);
        outcome?;
        self.driver.check("replay")
    }

    /// Makes the steps anew of the commands that read an input of the whole.
    fn bind_anew(&mut self, kept: &mut KeptPlan, captured: &Captured, counters: &AtomicCounters) -> Result<()> {
        let mut done = None;
        for patch in captured.patches.iter().map(|patch| patch.command) {
            if done == Some(patch) {
                continue;
            }
            done = Some(patch);
            let (encoded, first, used) = &kept.commands[patch];
            let mut encoding =
                Encoding { copies: &mut kept.copies, used: *used, uploads: kept.uploads.as_ref(), counters };
            self.fresh.clear();
            let mut fresh = std::mem::take(&mut self.fresh);
            let outcome = self.steps_of(&captured.plan.commands[patch], encoded, &mut encoding, &mut fresh);
            for (at, step) in fresh.drain(..).enumerate() {
                kept.steps[first + at] = step;
            }
            self.fresh = fresh;
            outcome?;
        }
        Ok(())
    }
}
