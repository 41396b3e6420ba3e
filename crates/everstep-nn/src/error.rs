//! What can go wrong when layers are made.

use std::path::PathBuf;

use everstep_tensor::Shape;

/// Result of making a layer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a layer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] everstep_tensor::Error),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// `read` or `write`.
        action: &'static str,
        /// What kind of failure.
        kind: std::io::ErrorKind,
        /// What the system says.
        reason: String,
    },
    /// A file that is not of its format.
    #[error("{} is no safetensors file: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file whose names are not those of the module.
    #[error(
        "{} does not fit the module: missing {missing:?}, unexpected {unexpected:?}; rename keys, or load in part",
        path.display()
    )]
    Keys {
        /// The file.
        path: PathBuf,
        /// Names of the module that it does not have.
        missing: Vec<String>,
        /// Keys that the module does not want.
        unexpected: Vec<String>,
    },
    /// A tensor of a file that has another shape than its parameter.
    #[error("`{key}` has shape {file:?} in the file{}, and {model} in the module",
        if *.transposed { ", to be transposed" } else { "" })]
    FileShape {
        /// The tensor's key.
        key: String,
        /// Its shape in the file.
        file: Vec<usize>,
        /// The parameter's.
        model: Shape,
        /// Whether the options say that the file has it transposed.
        transposed: bool,
    },
    /// A tensor of a file whose elements are no floats.
    #[error("`{key}` holds {dtype}; f32, f16, bf16 and f64 can be loaded")]
    FileDType {
        /// The tensor's key.
        key: String,
        /// Its dtype.
        dtype: String,
    },
    /// Two tensors of a file for one name.
    #[error("both `{first}` and `{second}` become `{name}`")]
    KeyTwice {
        /// The name.
        name: String,
        /// A key.
        first: String,
        /// Another one.
        second: String,
    },
    /// A pattern over names that is none.
    #[error("`{pattern}` is no pattern: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A pattern that no name matches.
    #[error("no parameter's name matches `{pattern}`; `named_parameters` lists the names")]
    NoMatch {
        /// The pattern.
        pattern: String,
    },
    /// A setting that makes no layer.
    #[error("{layer}: `{field}` is {value}, it must be {rule}")]
    Setting {
        /// The layer.
        layer: &'static str,
        /// The setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
}
