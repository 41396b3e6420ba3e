//! How good a model is, in numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Counts of (target, prediction) pairs of a classifier with `classes` classes.
///
/// With `c[t][p]` the count of target t and prediction p: precision of class k is `c[k][k] / sum_t c[t][k]`, its recall
/// `c[k][k] / sum_p c[k][p]`, its F1 `2 c[k][k] / (sum_t c[t][k] + sum_p c[k][p])`. A quotient whose divisor is zero is 0,
/// as in scikit-learn with `zero_division=0`. Counts stop at `u64::MAX`.
///
/// ```
/// use everstep_train::{Average, ConfusionMatrix};
///
/// # fn main() -> everstep_train::Result<()> {
/// let mut confusion = ConfusionMatrix::new(3)?;
/// confusion.add_slices(&[0, 1, 2, 2], &[0, 1, 2, 1])?;
/// assert_eq!(confusion.accuracy(), 0.75);
/// assert_eq!(confusion.scores(2)?.recall, 0.5);
/// println!("{confusion}macro F1: {:.3}", confusion.average(Average::Macro).f1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SavedMatrix")]
pub struct ConfusionMatrix {
    classes: usize,
    /// `counts[target * classes + prediction]`.
    counts: Vec<u64>,
}

/// A confusion matrix as it comes out of a file, not yet checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedMatrix {
    classes: usize,
    counts: Vec<u64>,
}

impl TryFrom<SavedMatrix> for ConfusionMatrix {
    type Error = Error;

    fn try_from(SavedMatrix { classes, counts }: SavedMatrix) -> Result<Self> {
        if classes == 0 {
            return Err(Error::Classes { classes });
        }
        if classes.checked_mul(classes) != Some(counts.len()) {
            return Err(Error::Counts { classes, counts: counts.len() });
        }
        Ok(Self { classes, counts })
    }
}

/// How the scores of classes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Average {
    /// Every class counts the same, also one that never appeared (scikit-learn with `labels=range(classes)`).
    Macro,
    /// Every class counts by its support.
    Weighted,
}

/// Precision, recall and F1, of one class or averaged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// The share of right ones among the predictions of the class.
    pub precision: f64,
    /// The share of right ones among the targets of the class.
    pub recall: f64,
    /// The harmonic mean of precision and recall.
    pub f1: f64,
    /// The number of targets.
    pub support: u64,
}

impl ConfusionMatrix {
    /// An empty matrix.
    ///
    /// # Errors
    /// [`Error::Classes`] for 0 classes, or for so many that their square does not fit into memory.
    pub fn new(classes: usize) -> Result<Self> {
        let too_many = Error::Classes { classes };
        let cells = classes.checked_mul(classes).filter(|&cells| cells > 0).ok_or_else(|| too_many.clone())?;
        let mut counts = Vec::new();
        counts.try_reserve_exact(cells).map_err(|_| too_many)?;
        counts.resize(cells, 0);
        Ok(Self { classes, counts })
    }

    /// The matrix of `targets` and their `predictions`.
    ///
    /// # Errors
    /// Those of [`ConfusionMatrix::new`] and [`ConfusionMatrix::add_slices`].
    pub fn from_slices(classes: usize, targets: &[u32], predictions: &[u32]) -> Result<Self> {
        let mut matrix = Self::new(classes)?;
        matrix.add_slices(targets, predictions)?;
        Ok(matrix)
    }

    /// Counts one pair.
    ///
    /// # Errors
    /// [`Error::Class`] where either is not below the number of classes; nothing is counted then.
    pub fn add(&mut self, target: u32, prediction: u32) -> Result<()> {
        let cell = self.cell(target, prediction)?;
        self.counts[cell] = self.counts[cell].saturating_add(1);
        Ok(())
    }

    /// Counts the pairs of two slices of the same length.
    ///
    /// # Errors
    /// [`Error::Lengths`]; [`Error::Class`]. Nothing is counted then.
    pub fn add_slices(&mut self, targets: &[u32], predictions: &[u32]) -> Result<()> {
        if targets.len() != predictions.len() {
            return Err(Error::Lengths { targets: targets.len(), predictions: predictions.len() });
        }
        let pairs = || targets.iter().zip(predictions);
        pairs().try_for_each(|(&target, &prediction)| self.cell(target, prediction).map(drop))?;
        pairs().try_for_each(|(&target, &prediction)| self.add(target, prediction))
    }

    /// Adds the counts of `other`.
    ///
    /// # Errors
    /// [`Error::Merge`] where it has another number of classes.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.classes != other.classes {
            return Err(Error::Merge { classes: self.classes, other: other.classes });
        }
        for (count, &more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(more);
        }
        Ok(())
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How often `target` was answered with `prediction`.
    ///
    /// # Errors
    /// [`Error::Class`].
    pub fn count(&self, target: u32, prediction: u32) -> Result<u64> {
        Ok(self.counts[self.cell(target, prediction)?])
    }

    /// The number of pairs.
    pub fn total(&self) -> u64 {
        sum(self.counts.iter())
    }

    /// The share of right predictions; 0 where there are no pairs.
    pub fn accuracy(&self) -> f64 {
        ratio(sum(self.counts.iter().step_by(self.classes + 1)), self.total())
    }

    /// The scores of one class.
    ///
    /// # Errors
    /// [`Error::Class`].
    pub fn scores(&self, class: u32) -> Result<Scores> {
        self.check("class asked for", class).map(|class| self.class_scores(class))
    }

    /// The scores of every class, in order.
    pub fn all_scores(&self) -> Vec<Scores> {
        (0..self.classes).map(|class| self.class_scores(class)).collect()
    }

    /// The scores of all classes, averaged; the support is the number of pairs. All 0 where there are none.
    pub fn average(&self, average: Average) -> Scores {
        let total = self.total();
        let mut mean = Scores { precision: 0.0, recall: 0.0, f1: 0.0, support: total };
        for class in 0..self.classes {
            let scores = self.class_scores(class);
            let weight = match average {
                Average::Macro => 1.0 / self.classes as f64,
                Average::Weighted => ratio(scores.support, total),
            };
            mean.precision += weight * scores.precision;
            mean.recall += weight * scores.recall;
            mean.f1 += weight * scores.f1;
        }
        mean
    }

    fn class_scores(&self, class: usize) -> Scores {
        let right = self.counts[class * (self.classes + 1)];
        let support = sum(self.counts[class * self.classes..][..self.classes].iter());
        let predicted = sum(self.counts[class..].iter().step_by(self.classes));
        // The sum of the two in f64, where it cannot overflow.
        let both = predicted as f64 + support as f64;
        let f1 = if both == 0.0 { 0.0 } else { 2.0 * right as f64 / both };
        Scores { precision: ratio(right, predicted), recall: ratio(right, support), f1, support }
    }

    fn cell(&self, target: u32, prediction: u32) -> Result<usize> {
        Ok(self.check("target", target)? * self.classes + self.check("prediction", prediction)?)
    }

    fn check(&self, role: &'static str, class: u32) -> Result<usize> {
        let index = usize::try_from(class).ok().filter(|&index| index < self.classes);
        index.ok_or(Error::Class { role, class, classes: self.classes })
    }
}

fn sum<'a>(counts: impl Iterator<Item = &'a u64>) -> u64 {
    counts.fold(0, |sum, &count| sum.saturating_add(count))
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A table: a row for each target, a column for each prediction, and each class's recall at the end of its row.
impl fmt::Display for ConfusionMatrix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CORNER: &str = "target \\ predicted";
        let widest = self.counts.iter().max().map_or(0, |count| count.to_string().len());
        let width = widest.max((self.classes - 1).to_string().len());
        write!(formatter, "{CORNER}")?;
        for class in 0..self.classes {
            write!(formatter, "  {class:>width$}")?;
        }
        writeln!(formatter, "  recall")?;
        for (class, row) in self.counts.chunks_exact(self.classes).enumerate() {
            write!(formatter, "{class:>corner$}", corner = CORNER.len())?;
            for count in row {
                write!(formatter, "  {count:>width$}")?;
            }
            writeln!(formatter, "  {:>6.4}", self.class_scores(class).recall)?;
        }
        Ok(())
    }
}

/// A running mean in f64, weighted by the number of samples: the mean loss of an epoch whose last batch is smaller.
///
/// NaN and infinity go in and stay: a mean of losses one of which was not finite is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mean {
    sum: f64,
    samples: u64,
}

impl Mean {
    /// A mean of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the mean `value` of `samples` samples. With 0 samples nothing is added.
    pub fn add(&mut self, value: f64, samples: usize) {
        if samples > 0 {
            self.sum += value * samples as f64;
            self.samples = self.samples.saturating_add(samples as u64);
        }
    }

    /// Adds what `other` has seen.
    pub fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        self.samples = self.samples.saturating_add(other.samples);
    }

    /// The mean; `None` where nothing was added.
    pub fn value(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.sum / self.samples as f64)
    }

    /// The number of samples.
    pub fn samples(&self) -> u64 {
        self.samples
    }
}
