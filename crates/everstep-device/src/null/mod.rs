//! The null executor: plans are counted and dropped, read-backs are zeros. It needs no hardware and no time.

use crate::Result;
use crate::passes::{Place, Plan};
use crate::readback::{Bytes, Parts};

#[derive(Debug, Default)]
pub(crate) struct NullExecutor;

impl NullExecutor {
    #[expect(clippy::unnecessary_wraps, reason = "the executors' common signature")]
    pub(crate) fn run(&mut self, _: &Plan) -> Result<()> {
        Ok(())
    }

    pub(crate) fn read(&self, places: &[Place]) -> Parts {
        places.iter().map(|place| Bytes::from_elem(0, place.bytes)).collect()
    }
}
