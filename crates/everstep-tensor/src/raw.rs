//! Looking at memory, and changing it, past everything that keeps account of it: for diagnosis and planned faults.

use everstep_device::{Command, DType, Element, Region, Slice, Work, bf16, f16};

use crate::{Error, Result, Tensor, no_grad};

impl Tensor {
    /// The elements in row-major order, halves as f32; waits for them. Data errors are neither told nor cleared, and no
    /// [`crate::Probe`] sees it: whatever is under way goes on as if nobody had looked.
    ///
    /// # Errors
    /// [`Error::NotFloat`]; those of the device.
    ///
    /// ```
    /// # use everstep_tensor::{DType, Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.5], &[2], &Device::cpu())?.cast(DType::F16)?;
    /// assert_eq!(x.peek()?, [1.0, 2.5]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn peek(&self) -> Result<Vec<f32>> {
        if !self.dtype().is_float() {
            return Err(Error::NotFloat { dtype: self.dtype() });
        }
        let dense = no_grad(|| self.dense())?;
        let slice = Slice { bytes: self.count() * self.dtype().size(), ..dense.slice_of_buffer() };
        let parts = self.device().read_unchecked(&[slice])?.wait()?;
        let bytes = parts.into_iter().next().unwrap_or_default();
        Ok(match self.dtype() {
            DType::F16 => f16::decode(&bytes).into_iter().map(f16::to_f32).collect(),
            DType::BF16 => bf16::decode(&bytes).into_iter().map(bf16::to_f32).collect(),
            _ => f32::decode(&bytes),
        })
    }

    /// The part of a buffer that its layout counts from.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// assert_eq!(Tensor::zeros(&[2, 3], &Device::cpu())?.memory().bytes(), 24);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn memory(&self) -> Region {
        self.region().clone()
    }

    /// Whether it lies in the same piece of memory as `other`.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::zeros(&[2, 3], &Device::cpu())?;
    /// assert!(x.shares_memory(&x.t()?) && !x.shares_memory(&x.copy()?));
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn shares_memory(&self, other: &Self) -> bool {
        self.slice_of_buffer().overlaps(&other.slice_of_buffer())
    }

    /// Changes the elements where they lie, as a fault of the memory would: nothing is marked as changed, and every tensor that
    /// shares the memory has the new ones. Waits for what they were.
    ///
    /// # Errors
    /// [`Error::DTypes`] where it is not f32, [`Error::Shape`] where its elements do not lie in row-major order without gaps;
    /// those of the device.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::zeros(&[3], &Device::cpu())?;
    /// x.tamper(|elements| elements[1] = f32::NAN)?;
    /// assert!(x.to_vec::<f32>()?[1].is_nan());
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn tamper(&self, change: impl FnOnce(&mut [f32])) -> Result<()> {
        if self.dtype() != DType::F32 {
            return Err(Error::DTypes { op: "tamper", found: vec![self.dtype()] });
        }
        if !self.layout().is_contiguous() || self.layout().offset() != 0 {
            let rule = "elements in row-major order without gaps";
            return Err(Error::Shape { op: "tamper", shape: *self.shape(), rule });
        }
        if self.count() == 0 {
            return Ok(());
        }
        let mut elements = self.peek()?;
        change(&mut elements);
        let slice = Slice { bytes: elements.len() * 4, ..self.slice_of_buffer() };
        let work = Work::Upload(f32::encode(&elements));
        Ok(self.device().record(Command { op: "tamper", work, inputs: vec![], outputs: vec![slice] })?)
    }
}
