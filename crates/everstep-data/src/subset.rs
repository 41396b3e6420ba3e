//! A view of a dataset by indices, and the split that makes two of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{At, Dataset, Error, Permutation, Result, SampleMut, SampleSpec};

/// Some samples of a dataset, in an order of their own. Its ids are the base dataset's.
#[derive(Debug)]
pub struct Subset<D> {
    base: Arc<D>,
    indices: Arc<[usize]>,
}

impl<D> Clone for Subset<D> {
    fn clone(&self) -> Self {
        Self { base: Arc::clone(&self.base), indices: Arc::clone(&self.indices) }
    }
}

impl<D: Dataset> Subset<D> {
    /// The samples `indices` of `base`; an index may come more than once.
    ///
    /// # Errors
    /// [`Error::Index`] where an index is not below the length of `base`.
    pub fn new(base: Arc<D>, indices: Vec<usize>) -> Result<Self> {
        let samples = base.len();
        match indices.iter().find(|&&index| index >= samples) {
            Some(&index) => Err(Error::Index { index, samples }),
            None => Ok(Self { base, indices: indices.into() }),
        }
    }

    /// The dataset of which this is a view.
    pub fn base(&self) -> &Arc<D> {
        &self.base
    }

    /// The indices into the base dataset.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }

    fn base_index(&self, index: usize) -> Result<usize> {
        self.indices.get(index).copied().ok_or(Error::Index { index, samples: self.indices.len() })
    }
}

impl<D: Dataset> Dataset for Subset<D> {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn spec(&self) -> &SampleSpec {
        self.base.spec()
    }

    fn read(&self, at: At, sample: SampleMut<'_>) -> Result<()> {
        self.base.read(At { index: self.base_index(at.index)?, ..at }, sample)
    }

    fn classes(&self) -> Option<usize> {
        self.base.classes()
    }

    fn label(&self, index: usize) -> Result<Option<u32>> {
        self.base.label(self.base_index(index)?)
    }

    fn id(&self, index: usize) -> u64 {
        // Past the end there is no sample to name; `read` gives the error.
        self.indices.get(index).map_or(u64::MAX, |&base_index| self.base.id(base_index))
    }
}

/// See [`Dataset::split_stratified`].
pub(crate) fn split_stratified<D: Dataset>(base: Arc<D>, fraction: f64, seed: u64) -> Result<(Subset<D>, Subset<D>)> {
    let wanted = share(base.len(), fraction)?;
    let members = members_by_class(&*base)?;
    let quotas = quotas(&members, fraction, wanted);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for ((label, members), quota) in members.iter().zip(quotas) {
        let order = Permutation::new(members.len(), seed, u64::from(*label));
        for (place, &index) in members.iter().enumerate() {
            // Every member's place in the shuffled class is another one, so `quota` of them lie below `quota`.
            let chosen = order.get(place).is_some_and(|to| to < quota);
            if chosen { &mut first } else { &mut second }.push(index);
        }
    }
    first.sort_unstable();
    second.sort_unstable();
    Ok((Subset::new(Arc::clone(&base), first)?, Subset::new(base, second)?))
}

/// See [`Dataset::split_random`].
pub(crate) fn split_random<D: Dataset>(base: Arc<D>, fraction: f64, seed: u64) -> Result<(Subset<D>, Subset<D>)> {
    let samples = base.len();
    let wanted = share(samples, fraction)?;
    let order = Permutation::new(samples, seed, 0);
    // Every sample's place in the shuffle is another one, so `wanted` of them lie below `wanted`.
    let chosen = |&index: &usize| order.get(index).is_some_and(|place| place < wanted);
    let (first, second) = (0..samples).partition(chosen);
    Ok((Subset::new(Arc::clone(&base), first)?, Subset::new(base, second)?))
}

/// `fraction` of `samples`, rounded, where that leaves something on both sides.
fn share(samples: usize, fraction: f64) -> Result<usize> {
    if samples == 0 {
        return Err(Error::EmptyDataset { action: "a split" });
    }
    let wanted = (samples as f64 * fraction).round();
    // Written so that NaN is refused too.
    if !(fraction > 0.0 && fraction < 1.0 && wanted >= 1.0 && wanted < samples as f64) {
        return Err(Error::Fraction { fraction, samples });
    }
    Ok(wanted as usize)
}

/// The samples of each class, in order. Classes without samples do not appear.
fn members_by_class(base: &impl Dataset) -> Result<BTreeMap<u32, Vec<usize>>> {
    let classes = base.classes().ok_or(Error::NoLabels)?;
    let mut members: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for index in 0..base.len() {
        let label = base.label(index)?.ok_or(Error::NoLabels)?;
        if label as usize >= classes {
            return Err(Error::Label { id: base.id(index), label, classes });
        }
        members.entry(label).or_default().push(index);
    }
    Ok(members)
}

/// How many of each class go into the first part: its share rounded down, and one more for the classes whose share lost
/// most by that, lower classes first, until there are `wanted` in all (the largest-remainder method).
fn quotas(members: &BTreeMap<u32, Vec<usize>>, fraction: f64, wanted: usize) -> Vec<usize> {
    let shares: Vec<f64> = members.values().map(|members| members.len() as f64 * fraction).collect();
    let mut quotas: Vec<usize> = shares.iter().map(|share| share.floor() as usize).collect();
    let mut by_loss: Vec<usize> = (0..shares.len()).collect();
    by_loss.sort_by(|&a, &b| shares[b].fract().total_cmp(&shares[a].fract()));
    let missing = wanted.saturating_sub(quotas.iter().sum());
    for &class in by_loss.iter().take(missing) {
        quotas[class] += 1;
    }
    quotas
}
