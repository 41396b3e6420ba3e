//! What can be wrong in a CSV file, and where.

use std::fmt;

use crate::Column;

/// A column of a CSV file, for errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvColumn {
    /// The column's index, from 0.
    pub index: usize,
    /// The column's name, where the file has a header.
    pub name: Option<String>,
}

impl fmt::Display for CsvColumn {
    /// The index as [`Column::Index`] counts it, and the name.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "column {}", self.index)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(formatter, " ({name:?})"))
    }
}

/// What is wrong at one place of a CSV file, or with what was asked of it there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CsvProblem {
    /// A delimiter that is not one ASCII character, or that means something else.
    #[error("{found:?} cannot be a delimiter: use one ASCII character other than a quote, a line break or a null")]
    Delimiter {
        /// The delimiter that was asked for.
        found: char,
    },
    /// A file without a row to tell the columns by.
    #[error("expected a row, found the end of the file")]
    Empty,
    /// A column that is not there.
    #[error("there is no column {wanted}; the columns are {columns}")]
    UnknownColumn {
        /// What was asked for.
        wanted: Column,
        /// What is there.
        columns: String,
    },
    /// A column that is asked for by a name that several have.
    #[error("several columns are called {name:?}: ask for one by its index, from 0")]
    AmbiguousColumn {
        /// The name.
        name: String,
    },
    /// A column that is asked for twice, among the features or as feature and target.
    #[error("{column} is asked for twice: use it once, as a feature or as the target")]
    RepeatedColumn {
        /// The column.
        column: CsvColumn,
    },
    /// No column is left for the features.
    #[error("no column is left for the features: name at least one beside the target")]
    NoFeatures,
    /// A row with more or fewer values than the first.
    #[error(
        "expected {expected} values as in the first row, found {found}: check `delimiter`, and quote what holds it"
    )]
    Values {
        /// The number of values in the first row.
        expected: usize,
        /// The number of values found.
        found: usize,
    },
    /// A value that is not there.
    #[error("the value is missing: fill it in, take the row out, or leave the column out of `features`")]
    Missing,
    /// A value that is no number.
    #[error("expected a number, found {found:?}: mend it, take the row out, or leave the column out of `features`")]
    Number {
        /// The value, cut where it is long.
        found: String,
    },
    /// A value that f32 cannot hold, or that is no finite number to begin with.
    #[error("expected a finite number that f32 can hold, found {found:?}: mend it or take the row out")]
    NotFinite {
        /// The value, cut where it is long.
        found: String,
    },
    /// A target that is no class number.
    #[error("expected a class, a whole number below {classes}, found {found:?}: mend it, or use `CsvConfig::names`")]
    ClassNumber {
        /// The value, cut where it is long.
        found: String,
        /// The number of classes.
        classes: usize,
    },
    /// A target that is not one of the class names that were given.
    #[error("the class {found:?} is not among the {names} that were given: add it there, or take the row out")]
    ClassName {
        /// The value, cut where it is long.
        found: String,
        /// The number of names.
        names: usize,
    },
    /// The same class name was given twice.
    #[error("the class name {name:?} was given twice: leave one out")]
    RepeatedName {
        /// The name.
        name: String,
    },
    /// A value, or a header, that is not UTF-8.
    #[error("the text is not UTF-8: convert the file, as with `iconv -t utf-8`")]
    Utf8,
    /// A quote that does not end, in a row that begins here.
    #[error("a quote is left open up to the end of the file: close it, or double a quote that is meant")]
    OpenQuote,
    /// A row that does not end.
    #[error("no row ends within {limit} bytes: is a quote left open?")]
    LongRow {
        /// The number of bytes that a row may have.
        limit: usize,
    },
    /// The input could not be read any further.
    #[error("reading stopped: {source}")]
    Read {
        /// What the reader says.
        source: std::io::Error,
    },
}
