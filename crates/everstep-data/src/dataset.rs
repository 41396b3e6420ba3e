//! What a dataset is: samples of known shape, read one at a time into memory that the caller owns.

use std::fmt;
use std::sync::Arc;

use crate::{Error, Result, Subset, Transform, Transformed};

/// The element type of a sample's field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// 32-bit floating point: pixels, features, regression targets.
    F32,
    /// 32-bit unsigned integers: class labels, tokens.
    U32,
}

impl fmt::Display for ElementType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::F32 => "f32",
            Self::U32 => "u32",
        })
    }
}

/// The element type and shape of one field of a sample, without the batch dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldSpec {
    /// The element type.
    pub element: ElementType,
    /// The shape; `[]` is a scalar.
    pub shape: Vec<usize>,
}

impl FieldSpec {
    /// A field of f32 values.
    pub fn f32(shape: &[usize]) -> Self {
        Self { element: ElementType::F32, shape: shape.to_vec() }
    }

    /// A field of u32 values.
    pub fn u32(shape: &[usize]) -> Self {
        Self { element: ElementType::U32, shape: shape.to_vec() }
    }

    /// The number of values: the product of the shape, or `None` where it overflows.
    pub fn length(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |length, &dimension| length.checked_mul(dimension))
    }
}

/// The two fields of a sample: `x`, what goes into the model, and `y`, what should come out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleSpec {
    /// The input.
    pub x: FieldSpec,
    /// The target.
    pub y: FieldSpec,
}

/// The memory of one field of one sample, to be written.
#[derive(Debug)]
pub enum FieldMut<'a> {
    /// Values of an [`ElementType::F32`] field.
    F32(&'a mut [f32]),
    /// Values of an [`ElementType::U32`] field.
    U32(&'a mut [u32]),
}

impl<'a> FieldMut<'a> {
    /// The f32 values to write, `length` of them, or [`Error::Field`] where the field is another.
    pub fn f32(self, length: usize) -> Result<&'a mut [f32]> {
        match self {
            Self::F32(values) if values.len() == length => Ok(values),
            other => Err(other.mismatch(ElementType::F32, length)),
        }
    }

    /// The u32 values to write, `length` of them, or [`Error::Field`] where the field is another.
    pub fn u32(self, length: usize) -> Result<&'a mut [u32]> {
        match self {
            Self::U32(values) if values.len() == length => Ok(values),
            other => Err(other.mismatch(ElementType::U32, length)),
        }
    }

    fn mismatch(&self, found_element: ElementType, found_length: usize) -> Error {
        let (element, length) = match self {
            Self::F32(values) => (ElementType::F32, values.len()),
            Self::U32(values) => (ElementType::U32, values.len()),
        };
        Error::Field { element, length, found_element, found_length }
    }
}

/// The memory of one sample, to be written. What is not written stays zero.
#[derive(Debug)]
pub struct SampleMut<'a> {
    /// The input.
    pub x: FieldMut<'a>,
    /// The target.
    pub y: FieldMut<'a>,
}

/// Which sample is read, and when.
///
/// Most datasets need the index alone; what augments its samples draws other numbers in each epoch.
///
/// ```
/// # use everstep_data::At;
/// assert_eq!(At::index(3), At { index: 3, epoch: 0 });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct At {
    /// The sample's index in the dataset that is asked.
    pub index: usize,
    /// The epoch of the loader's cursor, from 0.
    pub epoch: u64,
}

impl At {
    /// Sample `index` in epoch 0.
    pub fn index(index: usize) -> Self {
        Self { index, epoch: 0 }
    }
}

/// Samples of one shape, with random access.
///
/// Reading must be a pure function of [`At`], index and epoch: a loader that goes back to an earlier cursor expects to
/// see the same samples again, and reads them on whichever thread. `len` and `spec` do not change.
///
/// ```
/// use everstep_data::{At, Dataset, FieldSpec, Result, SampleMut, SampleSpec};
///
/// /// Windows of a series of numbers, each with the window one number later as its target.
/// struct Windows { series: Vec<f32>, spec: SampleSpec }
///
/// impl Windows {
///     fn new(series: Vec<f32>, context: usize) -> Self {
///         Self { series, spec: SampleSpec { x: FieldSpec::f32(&[context]), y: FieldSpec::f32(&[context]) } }
///     }
/// }
///
/// impl Dataset for Windows {
///     fn len(&self) -> usize {
///         self.series.len().saturating_sub(self.spec.x.shape[0])
///     }
///     fn spec(&self) -> &SampleSpec {
///         &self.spec
///     }
///     fn read(&self, at: At, sample: SampleMut<'_>) -> Result<()> {
///         let context = self.spec.x.shape[0];
///         sample.x.f32(context)?.copy_from_slice(&self.series[at.index..at.index + context]);
///         sample.y.f32(context)?.copy_from_slice(&self.series[at.index + 1..at.index + 1 + context]);
///         Ok(())
///     }
/// }
/// ```
pub trait Dataset: Send + Sync {
    /// The number of samples.
    fn len(&self) -> usize;

    /// Whether there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape and element type of a sample's fields.
    fn spec(&self) -> &SampleSpec;

    /// Writes the sample of `at` into `sample`, whose fields have the lengths that [`Dataset::spec`] says.
    ///
    /// # Errors
    /// [`Error::Index`] past the end; [`Error::dataset`] for an error of the implementation's own.
    fn read(&self, at: At, sample: SampleMut<'_>) -> Result<()>;

    /// The number of classes, where `y` is a u32 field of classes. A loader refuses a `y` that is not below it.
    fn classes(&self) -> Option<usize> {
        None
    }

    /// The class of sample `index`, without reading its `x`; `None` where samples have no single class.
    fn label(&self, index: usize) -> Result<Option<u32>> {
        let _ = index;
        Ok(None)
    }

    /// The number that names sample `index` in batches and errors: its index, unless a view such as [`Subset`] gives
    /// its index in the base dataset, or a dataset such as [`CharDataset`](crate::CharDataset) its place in the source.
    fn id(&self, index: usize) -> u64 {
        index as u64
    }

    /// Splits the dataset in two: about `fraction` of each class into the first part, the rest into the second.
    ///
    /// The first part has `fraction` of all samples, rounded, and of each class `fraction`, rounded up or down. Which
    /// samples is a pure function of `seed` and the labels; both parts keep the base dataset's order.
    ///
    /// # Errors
    /// [`Error::EmptyDataset`]; [`Error::Fraction`] where a part would be empty; [`Error::NoLabels`]; [`Error::Label`].
    fn split_stratified(self, fraction: f64, seed: u64) -> Result<(Subset<Self>, Subset<Self>)>
    where
        Self: Sized,
    {
        crate::subset::split_stratified(Arc::new(self), fraction, seed)
    }

    /// Splits the dataset in two at random: `fraction` of the samples, rounded, into the first part, the rest into the
    /// second. It needs no classes, so it suits regression; see [`Dataset::split_stratified`] for classes.
    ///
    /// Which samples is a pure function of `seed` and the length; both parts keep the base dataset's order.
    ///
    /// # Errors
    /// [`Error::EmptyDataset`]; [`Error::Fraction`] where a part would be empty.
    fn split_random(self, fraction: f64, seed: u64) -> Result<(Subset<Self>, Subset<Self>)>
    where
        Self: Sized,
    {
        crate::subset::split_random(Arc::new(self), fraction, seed)
    }

    /// The dataset with `transforms` applied to each `x`, one after the other, as it is read; see [`Transformed`].
    ///
    /// # Errors
    /// As [`Transformed::new`].
    fn transformed(self, transforms: impl IntoIterator<Item = Transform>, seed: u64) -> Result<Transformed<Self>>
    where
        Self: Sized,
    {
        Transformed::new(self, transforms, seed)
    }
}

/// A pointer to a dataset is one, so that one dataset can be in several loaders.
macro_rules! forward {
    ($pointer:ident) => {
        impl<D: Dataset + ?Sized> Dataset for $pointer<D> {
            fn len(&self) -> usize {
                (**self).len()
            }

            fn spec(&self) -> &SampleSpec {
                (**self).spec()
            }

            fn read(&self, at: At, sample: SampleMut<'_>) -> Result<()> {
                (**self).read(at, sample)
            }

            fn classes(&self) -> Option<usize> {
                (**self).classes()
            }

            fn label(&self, index: usize) -> Result<Option<u32>> {
                (**self).label(index)
            }

            fn id(&self, index: usize) -> u64 {
                (**self).id(index)
            }
        }
    };
}

forward!(Arc);
forward!(Box);
