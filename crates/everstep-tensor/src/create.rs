//! Tensors of regular numbers.

use everstep_device::{DType, Device, Element, Shape};

use crate::{Error, Result, Tensor};

impl Tensor {
    /// `start`, `start + step`, .. before `end`: f32, u32 or i32, computed in f64.
    ///
    /// # Errors
    /// [`Error::Argument`] where `step` is 0 or leads away from `end`, or a bound is not finite; [`Error::DTypes`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// assert_eq!(Tensor::arange(0u32, 3, 1, &Device::cpu())?.to_vec::<u32>()?, [0, 1, 2]);
    /// assert_eq!(Tensor::arange(1.0f32, 0.0, -0.5, &Device::cpu())?.to_vec::<f32>()?, [1.0, 0.5]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn arange<T: Element + Into<f64>>(start: T, end: T, step: T, device: &Device) -> Result<Tensor> {
        let (start, end, step): (f64, f64, f64) = (start.into(), end.into(), step.into());
        let count = ((end - start) / step).ceil();
        // NaN too; so large a count has its own error below.
        if !(count >= 0.0 && step != 0.0 && start.is_finite() && step.is_finite()) {
            let range = "numbers other than 0 that lead from start to end";
            return Err(Error::Argument { op: "arange", name: "step", value: step, range });
        }
        // Refuses a size that host memory could not hold either.
        let shape = Shape::new(&[count as usize])?;
        Self::unwritten("arange", shape, T::DTYPE, device)?;
        let values = (0..shape.count()).map(|at| start + at as f64 * step);
        match T::DTYPE {
            DType::F32 => Self::from_vec(values.map(|value| value as f32).collect(), &shape, device),
            DType::U32 => Self::from_vec(values.map(|value| value as u32).collect(), &shape, device),
            DType::I32 => Self::from_vec(values.map(|value| value as i32).collect(), &shape, device),
            other => Err(Error::DTypes { op: "arange", found: vec![other] }),
        }
    }

    /// `count` numbers at equal distances from `start` to `end`, both among them; of one, `start`.
    ///
    /// # Errors
    /// Those of [`Tensor::from_vec`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// assert_eq!(Tensor::linspace(0.0, 1.0, 3, &Device::cpu())?.to_vec::<f32>()?, [0.0, 0.5, 1.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn linspace(start: f32, end: f32, count: usize, device: &Device) -> Result<Tensor> {
        let shape = Shape::new(&[count])?;
        Self::unwritten("linspace", shape, DType::F32, device)?;
        let (start, end, steps) = (f64::from(start), f64::from(end), count.saturating_sub(1).max(1));
        let step = (end - start) / steps as f64;
        // Counted from the nearer end, so that both are exact.
        let value = |at: usize| match at <= steps / 2 {
            true => (start + at as f64 * step) as f32,
            false => (end - (steps - at) as f64 * step) as f32,
        };
        Self::from_vec((0..count).map(value).collect(), &shape, device)
    }

    /// The identity matrix [`size`, `size`].
    ///
    /// # Errors
    /// Those of [`Tensor::zeros`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// assert_eq!(Tensor::eye(2, &Device::cpu())?.to_vec::<f32>()?, [1.0, 0.0, 0.0, 1.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn eye(size: usize, device: &Device) -> Result<Tensor> {
        let ones = Tensor::ones(&[size, 1], device)?;
        // A row of 1 and `size` zeros, `size` times without the last zeros: each 1 comes one place later.
        let row = ones.pad(&[(0, 0), (0, size)], 0.0)?.reshape(&[size * (size + 1)])?;
        row.slice(0, ..size * size)?.reshape(&[size, size])?.contiguous()
    }
}
