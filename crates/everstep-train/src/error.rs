//! The crate's one error type.

/// The result of this crate's fallible calls.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong around training.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A class that is not below the number of classes.
    #[error("the {role} is class {class}, but there are {classes} classes: classes are 0 to classes - 1")]
    Class {
        /// Whether it is a target, a prediction or a question's subject.
        role: &'static str,
        /// The class.
        class: u32,
        /// The number of classes.
        classes: usize,
    },
    /// A confusion matrix without classes, or with more than memory holds.
    #[error("a confusion matrix of {classes} classes cannot be held: use at least 1, and few enough to square")]
    Classes {
        /// The number of classes.
        classes: usize,
    },
    /// Targets and predictions differ in number.
    #[error("there are {targets} targets and {predictions} predictions: they must be as many")]
    Lengths {
        /// The number of targets.
        targets: usize,
        /// The number of predictions.
        predictions: usize,
    },
    /// Two confusion matrices of different numbers of classes.
    #[error("a confusion matrix of {other} classes cannot be merged into one of {classes}")]
    Merge {
        /// The number of classes of the one merged into.
        classes: usize,
        /// The number of classes of the other.
        other: usize,
    },
    /// Saved counts that are not a square of the saved number of classes.
    #[error("a confusion matrix of {classes} classes has classes * classes counts, but {counts} came")]
    Counts {
        /// The number of classes.
        classes: usize,
        /// The number of counts.
        counts: usize,
    },
}
