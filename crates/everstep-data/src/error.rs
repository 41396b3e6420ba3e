//! The crate's one error type.

use std::path::PathBuf;

use crate::{CsvColumn, CsvProblem, Cursor, ElementType, TransformProblem};

/// The result of this crate's fallible calls.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between a file and a batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A batch could not be put on its device.
    #[error(transparent)]
    Tensor(#[from] everstep_tensor::Error),
    /// A dataset without samples was to be loaded or split.
    #[error("the dataset is empty: {action} needs at least one sample")]
    EmptyDataset {
        /// What needs the samples.
        action: &'static str,
    },
    /// A batch size of zero, or one larger than the dataset.
    #[error("batch_size is {batch_size}, but the dataset has {samples} samples: use 1 to {samples}")]
    BatchSize {
        /// The batch size that was asked for.
        batch_size: usize,
        /// The number of samples in the dataset.
        samples: usize,
    },
    /// A prefetch depth over [`MAX_PREFETCH`](crate::MAX_PREFETCH).
    #[error("prefetch is {prefetch} batches: use 0 (no worker thread) to {max}")]
    Prefetch {
        /// The depth that was asked for.
        prefetch: usize,
        /// The largest depth.
        max: usize,
    },
    /// A cursor that points past the end of the dataset.
    #[error("the cursor {cursor:?} lies past the {samples} samples of an epoch: was it saved with another dataset?")]
    Cursor {
        /// The cursor.
        cursor: Cursor,
        /// The number of samples in the dataset.
        samples: usize,
    },
    /// A fraction that is not strictly between 0 and 1, or that leaves one part without samples.
    #[error("a fraction of {fraction} leaves one part of {samples} samples empty: use one between 0 and 1")]
    Fraction {
        /// The fraction that was asked for.
        fraction: f64,
        /// The number of samples in the dataset.
        samples: usize,
    },
    /// A stratified split of a dataset that has no class labels.
    #[error("the dataset has no class labels to split by: implement `Dataset::classes` and `Dataset::label`")]
    NoLabels,
    /// A class label that is not below the number of classes.
    #[error("sample {id} has the label {label}, but there are {classes} classes: labels are 0 to classes - 1")]
    Label {
        /// The sample's index in the base dataset.
        id: u64,
        /// The label.
        label: u32,
        /// The number of classes.
        classes: usize,
    },
    /// A sample index past the end of a dataset.
    #[error("sample {index} was asked for, but the dataset has {samples} samples")]
    Index {
        /// The index.
        index: usize,
        /// The number of samples.
        samples: usize,
    },
    /// A field of a sample was written with values of another type or number.
    #[error(
        "a sample's field holds {length} values of {element}, but {found_length} values of {found_element} came: \
             `Dataset::spec` and `Dataset::read` must agree"
    )]
    Field {
        /// The field's element type.
        element: ElementType,
        /// The field's number of values.
        length: usize,
        /// The element type that was written.
        found_element: ElementType,
        /// The number of values that were written.
        found_length: usize,
    },
    /// Values whose number does not fit their shape.
    #[error("{length} values do not fill the shape {shape:?}")]
    Shape {
        /// The shape.
        shape: Vec<usize>,
        /// The number of values.
        length: usize,
    },
    /// Two things that belong together, one for one, differ in number.
    #[error("there are {x} samples of `x` ({x_source}) and {y} of `y` ({y_source}): they must be as many")]
    Counts {
        /// The number of inputs.
        x: usize,
        /// Where the inputs are from.
        x_source: String,
        /// The number of targets.
        y: usize,
        /// Where the targets are from.
        y_source: String,
    },
    /// A divisor of pixel values that is zero, negative or not finite.
    #[error("pixels cannot be divided by {divisor}: use a finite number above 0")]
    Divisor {
        /// The divisor.
        divisor: f32,
    },
    /// More memory than there is, or than can be addressed.
    #[error("no memory for {what} ({bytes:?} bytes): use smaller batches or samples")]
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// How much, where the number can be represented.
        bytes: Option<usize>,
    },
    /// An error of a dataset that is not this crate's.
    #[error("the dataset could not read sample {index}: {source}")]
    Dataset {
        /// The sample's index.
        index: usize,
        /// What the dataset says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A dataset panicked.
    #[error("the dataset panicked while it read sample {index}: {message}")]
    DatasetPanic {
        /// The sample's index.
        index: usize,
        /// The message of the panic.
        message: String,
    },
    /// The loader's worker thread could not be started.
    #[error("the loader's worker thread could not be started: {source}; `prefetch: 0` works without one")]
    WorkerStart {
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The loader's worker thread ended without saying why.
    #[error("the loader's worker thread ended early; the next call starts another")]
    WorkerLost,
    /// A file could not be opened or read.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Neither a file nor its gzip version is there.
    #[error("neither {} nor {}.gz is there", file.display(), file.display())]
    MissingFile {
        /// The name without `.gz`.
        file: PathBuf,
    },
    /// A file that is not the IDX file it should be.
    #[error("{}: at byte {offset}: {problem}", file.display())]
    Idx {
        /// The file, or the name given to the bytes.
        file: PathBuf,
        /// The offset in the IDX data, after decompression.
        offset: u64,
        /// What is wrong there.
        problem: IdxProblem,
    },
    /// A file that is not the CSV file it should be.
    #[error("{}: line {line}{}: {problem}", file.display(), in_column(column.as_ref()))]
    Csv {
        /// The file, or the name given to the bytes.
        file: PathBuf,
        /// The line, from 1; for a value the line on which it begins.
        line: u64,
        /// The column, where the problem is one value's.
        column: Option<CsvColumn>,
        /// What is wrong there.
        problem: CsvProblem,
    },
    /// A text that is not UTF-8.
    #[error("{}: at byte {offset}: the text is not UTF-8: convert it, as with `iconv -t utf-8`", file.display())]
    Utf8 {
        /// The file, or the name given to the bytes.
        file: PathBuf,
        /// The offset of the first byte that is wrong.
        offset: usize,
    },
    /// A text with a character that the vocabulary lacks.
    #[error(
        "the character {character:?} at position {position} is not among the {vocabulary} of the vocabulary: \
             take it out, or make the vocabulary from a text that has it"
    )]
    UnknownCharacter {
        /// The character.
        character: char,
        /// Its position in characters, from 0.
        position: usize,
        /// The number of characters in the vocabulary.
        vocabulary: usize,
    },
    /// A token that stands for no character.
    #[error("the token {token} at position {position} is not below the {vocabulary} of the vocabulary")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Its position, from 0.
        position: usize,
        /// The number of characters in the vocabulary.
        vocabulary: usize,
    },
    /// A vocabulary with the same character twice.
    #[error("the character {character:?} is in the vocabulary twice: leave one out")]
    RepeatedCharacter {
        /// The character.
        character: char,
    },
    /// A context of zero, or a text too short for one window.
    #[error(
        "a context of {context} needs it to be at least 1 and a text of {context} + 1 characters; this has {tokens}"
    )]
    Context {
        /// The context that was asked for.
        context: usize,
        /// The number of characters in the text.
        tokens: usize,
    },
    /// A stride of zero.
    #[error("windows cannot be 0 characters apart: use a stride of 1 or more")]
    Stride,
    /// A transform that cannot be applied to the samples it is to be applied to.
    #[error("transform {position} ({transform}): {problem}")]
    Transform {
        /// The transform's place in the list, from 0.
        position: usize,
        /// The transform's name.
        transform: String,
        /// What is wrong with it.
        problem: TransformProblem,
    },
    /// Samples whose `x` is not f32 where something needs it to be.
    #[error("`x` holds {found} values, but {action} needs f32")]
    NotFloat {
        /// The element type of `x`.
        found: ElementType,
        /// What needs f32.
        action: &'static str,
    },
    /// A sample with a NaN or an infinity where statistics are computed.
    #[error("sample {id} holds {value} at place {place}, so its data has no mean: clean the data first")]
    NotFinite {
        /// The sample's index in the base dataset.
        id: u64,
        /// The place in `x`, in C order.
        place: usize,
        /// The value.
        value: f32,
    },
}

fn in_column(column: Option<&CsvColumn>) -> String {
    column.map_or_else(String::new, |column| format!(", {column}"))
}

impl Error {
    /// What an implementation of [`Dataset`](crate::Dataset) returns for an error of its own about sample `index`.
    pub fn dataset(index: usize, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Dataset { index, source: source.into() }
    }
}

/// What is wrong at one place of an IDX file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdxProblem {
    /// Neither IDX nor gzip.
    #[error("expected two zero bytes (IDX) or 1f 8b (gzip), found {:02x} {:02x}", found[0], found[1])]
    Magic {
        /// The first two bytes.
        found: [u8; 2],
    },
    /// An element type that IDX does not have.
    #[error("expected an element type (08, 09, 0b, 0c, 0d or 0e), found {found:02x}")]
    ElementType {
        /// The byte.
        found: u8,
    },
    /// An array without dimensions.
    #[error("expected at least one dimension, found none")]
    NoDimensions,
    /// A shape whose size in bytes cannot be represented.
    #[error("the header declares the shape {shape:?}, which is too large to address")]
    TooLarge {
        /// The declared shape.
        shape: Vec<u32>,
    },
    /// The input ends before the declared data does.
    #[error("expected {expected} bytes in all, found {found}: the file is cut short or its header is wrong")]
    Truncated {
        /// The number of bytes that header and data need.
        expected: u64,
        /// The number of bytes found.
        found: u64,
    },
    /// The header declares more data than the compressed input can hold.
    #[error("the header declares {expected} bytes in all, which {compressed} bytes of gzip cannot hold")]
    Incompressible {
        /// The number of bytes that header and data need.
        expected: u64,
        /// The number of compressed bytes.
        compressed: u64,
    },
    /// Something follows the declared data.
    #[error("expected the end of the file after {expected} bytes, found more")]
    Trailing {
        /// The number of bytes that header and data need.
        expected: u64,
    },
    /// The input could not be read or decompressed any further.
    #[error("reading stopped: {source}")]
    Read {
        /// What the reader or the gzip decoder says.
        source: std::io::Error,
    },
    /// An array of another kind than the reader asked for.
    #[error("expected {expected}, found {found} of shape {shape:?}")]
    Kind {
        /// What was expected.
        expected: &'static str,
        /// The element type found.
        found: &'static str,
        /// The shape found.
        shape: Vec<usize>,
    },
    /// A label that is not below the number of classes.
    #[error("expected a label below {classes}, found {label}")]
    Label {
        /// The label.
        label: u8,
        /// The number of classes.
        classes: usize,
    },
}
