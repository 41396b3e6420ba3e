//! A dataset that lies in memory.

use crate::{At, Dataset, ElementType, Error, FieldSpec, HostTensor, Result, SampleMut, SampleSpec, Values};

/// A dataset in memory: two tensors whose first dimension counts the samples.
///
/// ```
/// use everstep_data::{Dataset, HostTensor, InMemoryDataset};
///
/// # fn main() -> everstep_data::Result<()> {
/// let x = HostTensor::new(vec![0.0f32, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0], &[4, 2])?;
/// let y = HostTensor::new(vec![0u32, 1, 1, 0], &[4])?;
/// let xor = InMemoryDataset::new(x, y)?.with_classes(2)?;
/// assert_eq!((xor.len(), xor.classes()), (4, Some(2)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct InMemoryDataset {
    x: Values,
    y: Values,
    spec: SampleSpec,
    samples: usize,
    classes: Option<usize>,
}

impl InMemoryDataset {
    /// The dataset of the inputs `x`, `[N, ...]`, and the targets `y`, `[N, ...]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where a tensor has no dimension; [`Error::Counts`] where the first dimensions differ.
    pub fn new(x: HostTensor, y: HostTensor) -> Result<Self> {
        let (x, x_samples, x_spec) = into_samples(x)?;
        let (y, y_samples, y_spec) = into_samples(y)?;
        if x_samples != y_samples {
            let source = || "a tensor in memory".to_string();
            return Err(Error::Counts { x: x_samples, x_source: source(), y: y_samples, y_source: source() });
        }
        Ok(Self { x, y, spec: SampleSpec { x: x_spec, y: y_spec }, samples: x_samples, classes: None })
    }

    /// Says that the targets are classes, 0 to `classes - 1`.
    ///
    /// # Errors
    /// [`Error::NoLabels`] where `y` is not u32; [`Error::Label`] where a target is not below `classes`.
    pub fn with_classes(mut self, classes: usize) -> Result<Self> {
        let labels = self.y.as_u32().ok_or(Error::NoLabels)?;
        if let Some(at) = labels.iter().position(|&label| label as usize >= classes) {
            let id = (at / (labels.len() / self.samples).max(1)) as u64;
            return Err(Error::Label { id, label: labels[at], classes });
        }
        self.classes = Some(classes);
        Ok(self)
    }
}

/// The values of a tensor, how many samples they are, and what each is.
fn into_samples(tensor: HostTensor) -> Result<(Values, usize, FieldSpec)> {
    let (values, shape) = tensor.into_parts();
    match shape.split_first() {
        Some((&samples, rest)) => {
            let spec = FieldSpec { element: values.element(), shape: rest.to_vec() };
            Ok((values, samples, spec))
        }
        None => Err(Error::Shape { length: values.len(), shape }),
    }
}

impl Dataset for InMemoryDataset {
    fn len(&self) -> usize {
        self.samples
    }

    fn spec(&self) -> &SampleSpec {
        &self.spec
    }

    fn read(&self, At { index, .. }: At, sample: SampleMut<'_>) -> Result<()> {
        if index >= self.samples {
            return Err(Error::Index { index, samples: self.samples });
        }
        for (values, field) in [(&self.x, sample.x), (&self.y, sample.y)] {
            let length = values.len() / self.samples;
            values.copy_to(index * length..(index + 1) * length, field)?;
        }
        Ok(())
    }

    fn classes(&self) -> Option<usize> {
        self.classes
    }

    fn label(&self, index: usize) -> Result<Option<u32>> {
        if index >= self.samples {
            return Err(Error::Index { index, samples: self.samples });
        }
        let single = self.spec.y.element == ElementType::U32 && self.spec.y.shape.is_empty();
        Ok(self.y.as_u32().filter(|_| single && self.classes.is_some()).map(|labels| labels[index]))
    }
}
