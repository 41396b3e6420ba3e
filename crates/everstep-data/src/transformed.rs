//! A dataset whose samples are changed as they are read.

use everstep_device::philox::{Generator, philox4x32_10};

use crate::host::zeros;
use crate::{At, Dataset, ElementType, Error, FieldMut, Result, SampleMut, SampleSpec, Transform};

/// The streams of random numbers that transforms use, one per place in the list ("tran" in ASCII, and the ones after).
const STREAM: u32 = 0x7472_616e;

/// A dataset with a list of [`Transform`]s applied to each `x`; `y`, ids and classes stay.
///
/// The random numbers are a pure function of (seed, epoch, id, place in the list): another picture in every epoch, and
/// the same one again whenever the same epoch is read, after a resume, in another order, on another thread, through a
/// [`Subset`](crate::Subset) or not. Around a dataset that is itself transformed, use another seed, since the places in
/// both lists begin at 0.
///
/// ```
/// use everstep_data::{At, Dataset, FieldMut, SampleMut, Transform, digits};
///
/// # fn main() -> everstep_data::Result<()> {
/// let noisy = digits()?.transformed([Transform::Noise { std: 0.1 }], 7)?;
/// let read = |epoch| -> everstep_data::Result<[f32; 64]> {
///     let (mut x, mut y) = ([0.0; 64], [0]);
///     noisy.read(At { index: 3, epoch }, SampleMut { x: FieldMut::F32(&mut x), y: FieldMut::U32(&mut y) })?;
///     Ok(x)
/// };
/// assert!(read(0)? == read(0)? && read(0)? != read(1)?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Transformed<D> {
    base: D,
    steps: Vec<Step>,
    seed: u64,
    base_length: usize,
    spec: SampleSpec,
}

/// A transform and the shape that it is applied to.
#[derive(Clone, Debug)]
struct Step {
    transform: Transform,
    shape: Vec<usize>,
}

impl<D: Dataset> Transformed<D> {
    /// The samples of `base` with `transforms` applied to each `x`, one after the other.
    ///
    /// # Errors
    /// [`Error::NotFloat`] where `x` is not f32; [`Error::Transform`] where a transform does not suit what comes to it.
    pub fn new(base: D, transforms: impl IntoIterator<Item = Transform>, seed: u64) -> Result<Self> {
        let mut spec = base.spec().clone();
        if spec.x.element != ElementType::F32 {
            return Err(Error::NotFloat { found: spec.x.element, action: "a transform" });
        }
        let base_length = spec.x.length().ok_or(Error::OutOfMemory { what: "a sample", bytes: None })?;
        let mut steps = Vec::new();
        for (position, transform) in transforms.into_iter().enumerate() {
            let unfit = |problem| Error::Transform { position, transform: transform.name().to_string(), problem };
            let output = transform.output(&spec.x.shape).map_err(unfit)?;
            let shape = std::mem::replace(&mut spec.x.shape, output);
            steps.push(Step { transform, shape });
        }
        Ok(Self { base, steps, seed, base_length, spec })
    }

    /// The dataset without the transforms.
    pub fn base(&self) -> &D {
        &self.base
    }

    /// The transforms, in the order in which they are applied.
    pub fn transforms(&self) -> impl ExactSizeIterator<Item = &Transform> {
        self.steps.iter().map(|step| &step.transform)
    }

    /// The seed of the random numbers.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The random numbers of sample `id` in `epoch`, for the transform at each place.
    fn generators(&self, epoch: u64, id: u64) -> impl Iterator<Item = Generator> {
        let halves = |number: u64| [number as u32, (number >> 32) as u32];
        // Seed and epoch together are a key; the counter has room for the sample and the place.
        let [low, high] = halves(epoch);
        let [low, high, ..] = philox4x32_10([low, high, STREAM, 0], halves(self.seed));
        let key = u64::from(low) | u64::from(high) << 32;
        (STREAM..).map(move |stream| Generator::with_stream(key, stream).at_step(id))
    }
}

impl<D: Dataset> Dataset for Transformed<D> {
    fn len(&self) -> usize {
        self.base.len()
    }

    fn spec(&self) -> &SampleSpec {
        &self.spec
    }

    fn read(&self, at: At, sample: SampleMut<'_>) -> Result<()> {
        let mut values = zeros(self.base_length)?;
        self.base.read(at, SampleMut { x: FieldMut::F32(&mut values), y: sample.y })?;
        for (step, mut generator) in self.steps.iter().zip(self.generators(at.epoch, self.base.id(at.index))) {
            step.transform.apply(&mut values, &step.shape, &mut generator)?;
        }
        sample.x.f32(values.len())?.copy_from_slice(&values);
        Ok(())
    }

    fn classes(&self) -> Option<usize> {
        self.base.classes()
    }

    fn label(&self, index: usize) -> Result<Option<u32>> {
        self.base.label(index)
    }

    fn id(&self, index: usize) -> u64 {
        self.base.id(index)
    }
}
