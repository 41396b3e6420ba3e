//! Changing the element type.

use everstep_device::{DType, functions};

use super::pointwise::call;
use crate::{Error, Result, Tensor};

impl Tensor {
    /// The elements as another dtype. Floats become integers by rounding towards zero, saturating; NaN becomes 0. No
    /// gradient flows to or from integers.
    ///
    /// # Errors
    /// [`Error::DTypes`] for a pair of dtypes without a cast.
    pub fn cast(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        match dtype {
            DType::F32 => call(&functions::CAST_F32, &[self]),
            DType::U32 => call(&functions::CAST_U32, &[self]),
            DType::I32 => call(&functions::CAST_I32, &[self]),
            other => Err(Error::DTypes { op: "cast", found: vec![self.dtype(), other] }),
        }
    }
}
