//! What runs the plans: a closed set.

use crate::capture::Captured;
use crate::counters::AtomicCounters;
use crate::device::Noting;
use crate::passes::{MemoryId, Place, Plan};
use crate::readback::Pending;
use crate::{Result, cpu, null};

/// The closed set of executors.
pub(crate) enum Executor {
    Cpu(cpu::CpuExecutor),
    #[cfg(feature = "gpu")]
    Gpu(Box<crate::gpu::GpuExecutor>),
    Null(null::NullExecutor),
}

impl Executor {
    #[cfg_attr(not(feature = "gpu"), expect(unused_variables, reason = "the GPU executor counts more"))]
    pub(crate) fn run(&mut self, plan: &Plan, counters: &AtomicCounters, profile: Noting<'_>) -> Result<()> {
        match self {
            Self::Cpu(executor) => executor.run(plan, profile),
            #[cfg(feature = "gpu")]
            Self::Gpu(executor) => executor.run(plan, counters, profile),
            Self::Null(executor) => executor.run(plan),
        }
    }

    /// Prepares for [`Executor::replay`] of a plan that has just run.
    pub(crate) fn keep(&mut self, id: u64, plan: &Plan) -> Result<()> {
        match self {
            #[cfg(feature = "gpu")]
            Self::Gpu(executor) => executor.keep(id, plan),
            _ => {
                let _ = (id, plan);
                Ok(())
            }
        }
    }

    pub(crate) fn drop_kept(&mut self, id: u64) {
        match self {
            #[cfg(feature = "gpu")]
            Self::Gpu(executor) => executor.drop_kept(id),
            _ => {
                let _ = id;
            }
        }
    }

    /// Runs a kept plan whose inputs have been put in place.
    #[cfg_attr(not(feature = "gpu"), expect(unused_variables, reason = "the GPU executor counts more"))]
    pub(crate) fn replay(
        &mut self,
        id: u64,
        captured: &Captured,
        counters: &AtomicCounters,
        profile: Noting<'_>,
    ) -> Result<()> {
        match self {
            Self::Cpu(executor) => executor.run(&captured.plan, profile),
            #[cfg(feature = "gpu")]
            Self::Gpu(executor) => executor.replay(id, captured, counters, profile),
            Self::Null(executor) => executor.run(&captured.plan),
        }
    }

    pub(crate) fn create(&mut self, plan: &Plan) -> Result<()> {
        match self {
            Self::Cpu(executor) => executor.create(&plan.create),
            #[cfg(feature = "gpu")]
            Self::Gpu(executor) => executor.create(&plan.create),
            Self::Null(_) => Ok(()),
        }
    }

    pub(crate) fn destroy(&mut self, memory: &[MemoryId]) {
        match self {
            Self::Cpu(executor) => executor.destroy(memory),
            #[cfg(feature = "gpu")]
            Self::Gpu(executor) => executor.destroy(memory),
            Self::Null(_) => {}
        }
    }

    /// Whether it can be dropped by whoever has it: no driver has a say in it.
    pub(crate) fn answers_at_once(&self) -> bool {
        matches!(self, Self::Cpu(_) | Self::Null(_))
    }

    /// Begins to read `places`, and zeroes `clear` behind them.
    pub(crate) fn read(&mut self, places: &[Place], clear: Option<Place>) -> Result<Pending> {
        match self {
            Self::Cpu(executor) => Ok(Pending::Ready(executor.read(places, clear))),
            #[cfg(feature = "gpu")]
            Self::Gpu(executor) => executor.read(places, clear).map(Pending::Gpu),
            Self::Null(executor) => Ok(Pending::Ready(executor.read(places))),
        }
    }
}
