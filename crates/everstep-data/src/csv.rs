//! Tables of numbers out of CSV files.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::csv_rows::{Rows, cut};
use crate::{At, CsvProblem, Dataset, Error, HostTensor, InMemoryDataset, Result, SampleMut, SampleSpec, Values};

/// A column of a CSV file, by its index from 0 or by its name in the header.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Column {
    /// The index, from 0.
    Index(usize),
    /// The name, without the white space around it.
    Name(String),
}

impl fmt::Display for Column {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(formatter, "{index}"),
            Self::Name(name) => write!(formatter, "{name:?}"),
        }
    }
}

impl From<usize> for Column {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl From<&str> for Column {
    fn from(name: &str) -> Self {
        Self::Name(name.to_string())
    }
}

impl From<String> for Column {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

/// What is in the column of the targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// Classes by name: `y` is u32, `[]`, a class's place among the names.
    Names {
        /// The column.
        column: Column,
        /// The names in the order of their classes; `None` takes those in the file, sorted as text.
        #[serde(default)]
        names: Option<Vec<String>>,
    },
    /// Classes by number, 0 to `classes - 1`: `y` is u32, `[]`.
    Numbers {
        /// The column.
        column: Column,
        /// The number of classes.
        classes: usize,
    },
    /// A number to predict: `y` is f32, `[]`.
    Value {
        /// The column.
        column: Column,
    },
}

impl Target {
    /// The column.
    pub fn column(&self) -> &Column {
        match self {
            Self::Names { column, .. } | Self::Numbers { column, .. } | Self::Value { column } => column,
        }
    }
}

/// How a CSV file is read. A field that is absent in serialised form takes the default given here.
///
/// ```
/// use everstep_data::CsvConfig;
///
/// let by_name = CsvConfig::names("species").features(["sepal width", "petal width"]);
/// let by_index = CsvConfig::value(13).header(false).delimiter(';');
/// # assert!(by_name != by_index);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvConfig {
    /// The column of the targets and what is in it; no default.
    pub target: Target,
    /// The columns of the features, in the order of `x`; `None` (the default) takes all but the target, in the file's.
    #[serde(default)]
    pub features: Option<Vec<Column>>,
    /// Whether the first row names the columns; by default it does.
    #[serde(default = "default_header")]
    pub header: bool,
    /// What stands between two values, one ASCII character; a comma by default.
    #[serde(default = "default_delimiter")]
    pub delimiter: char,
}

fn default_header() -> bool {
    true
}

fn default_delimiter() -> char {
    ','
}

impl CsvConfig {
    /// A file whose `column` holds classes by name; see [`CsvConfig::class_names`] for their order.
    pub fn names(column: impl Into<Column>) -> Self {
        Self::new(Target::Names { column: column.into(), names: None })
    }

    /// A file whose `column` holds classes by number, 0 to `classes - 1`.
    pub fn numbers(column: impl Into<Column>, classes: usize) -> Self {
        Self::new(Target::Numbers { column: column.into(), classes })
    }

    /// A file whose `column` holds numbers to predict.
    pub fn value(column: impl Into<Column>) -> Self {
        Self::new(Target::Value { column: column.into() })
    }

    fn new(target: Target) -> Self {
        Self { target, features: None, header: default_header(), delimiter: default_delimiter() }
    }

    /// Takes these columns as features, by index or by name, in this order.
    pub fn features<C: Into<Column>>(self, columns: impl IntoIterator<Item = C>) -> Self {
        Self { features: Some(columns.into_iter().map(Into::into).collect()), ..self }
    }

    /// Fixes the class names and their order, as for a test file that must agree with its training file. Only for
    /// classes by name; another target stays as it is.
    pub fn class_names<N: Into<String>>(mut self, class_names: impl IntoIterator<Item = N>) -> Self {
        if let Target::Names { names, .. } = &mut self.target {
            *names = Some(class_names.into_iter().map(Into::into).collect());
        }
        self
    }

    /// Whether the first row names the columns.
    pub fn header(self, header: bool) -> Self {
        Self { header, ..self }
    }

    /// What stands between two values.
    pub fn delimiter(self, delimiter: char) -> Self {
        Self { delimiter, ..self }
    }
}

/// A table of numbers with one target per row: `x` is f32, `[F]`; `y` is a class (u32, `[]`) or a value (f32, `[]`).
///
/// Values may be quoted, blank lines are skipped, and white space around a value is no part of it. A value that is
/// missing, no number or not finite is an error that names its line and column; nothing is guessed. The table lies in
/// memory, four bytes a value, and is read in steps; a row may have 4 MiB of text.
///
/// ```
/// use everstep_data::{CsvConfig, CsvDataset, Dataset};
///
/// # fn main() -> everstep_data::Result<()> {
/// let text = "width,length,kind\n0.5,1.5,reed\n2.0,0.25,iris\n1.0,1.0,reed\n";
/// let flowers = CsvDataset::from_bytes(text.as_bytes(), "flowers.csv", &CsvConfig::names("kind"))?;
/// assert_eq!((flowers.len(), flowers.classes()), (3, Some(2)));
/// assert_eq!(flowers.feature_names(), ["width", "length"]);
/// assert_eq!(flowers.class_names(), ["iris", "reed"]);
/// assert_eq!(flowers.label(0)?, Some(1));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CsvDataset {
    table: InMemoryDataset,
    feature_names: Vec<String>,
    class_names: Vec<String>,
}

impl CsvDataset {
    /// Reads a CSV file.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be opened; [`Error::Csv`] where it is not what `config` says;
    /// [`Error::OutOfMemory`].
    pub fn from_path(path: impl AsRef<Path>, config: &CsvConfig) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| Error::Io { file: path.to_path_buf(), source })?;
        Self::read(file, path, config)
    }

    /// Reads a CSV file that lies in memory; errors call it `name`.
    ///
    /// # Errors
    /// [`Error::Csv`] where it is not what `config` says; [`Error::OutOfMemory`].
    pub fn from_bytes(bytes: &[u8], name: &str, config: &CsvConfig) -> Result<Self> {
        Self::read(bytes, Path::new(name), config)
    }

    /// The names of the features, in the order of `x`; their indices as text where the file has no header.
    pub fn feature_names(&self) -> &[String] {
        &self.feature_names
    }

    /// The names of the classes, in the order of their numbers; empty unless the target is classes by name.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn read(source: impl Read, file: &Path, config: &CsvConfig) -> Result<Self> {
        let delimiter = u8::try_from(config.delimiter).ok().filter(|byte| byte.is_ascii());
        let delimiter = delimiter.filter(|byte| !matches!(byte, b'"' | b'\n' | b'\r' | b'\0'));
        let mut rows = Rows::new(source, delimiter.unwrap_or(b','), file);
        if delimiter.is_none() {
            return Err(rows.error(None, CsvProblem::Delimiter { found: config.delimiter }));
        }
        if !rows.advance()? {
            return Err(rows.error(None, CsvProblem::Empty));
        }
        if config.header {
            rows.take_names()?;
        }
        let columns = Columns::new(&rows, config)?;
        let mut table = Table::new(&rows, &config.target)?;
        let mut more = if config.header { rows.advance()? } else { true };
        while more {
            table.push(&rows, &columns)?;
            more = rows.advance()?;
        }
        table.finish(columns)
    }
}

/// Which columns are used for what.
struct Columns {
    features: Vec<usize>,
    feature_names: Vec<String>,
    target: usize,
    width: usize,
}

impl Columns {
    /// The columns that `config` asks for, found in the first row.
    fn new<R: Read>(rows: &Rows<'_, R>, config: &CsvConfig) -> Result<Self> {
        let width = rows.width();
        let target = find(rows, config.target.column())?;
        let features: Vec<usize> = match &config.features {
            Some(columns) => columns.iter().map(|column| find(rows, column)).collect::<Result<_>>()?,
            None => (0..width).filter(|&index| index != target).collect(),
        };
        if features.is_empty() {
            return Err(rows.error(None, CsvProblem::NoFeatures));
        }
        let mut used = features.clone();
        used.push(target);
        used.sort_unstable();
        if let Some(pair) = used.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(rows.error(None, CsvProblem::RepeatedColumn { column: rows.column(pair[0]) }));
        }
        let name = |&index: &usize| rows.column(index).name.unwrap_or_else(|| index.to_string());
        let feature_names = features.iter().map(name).collect();
        Ok(Self { features, feature_names, target, width })
    }
}

/// The index of a column that is asked for.
fn find<R: Read>(rows: &Rows<'_, R>, column: &Column) -> Result<usize> {
    let unknown = || {
        let columns = match rows.names() {
            Some(names) => cut_list(names),
            None => format!("0 to {}, without names as `header` is false", rows.width().saturating_sub(1)),
        };
        rows.error(None, CsvProblem::UnknownColumn { wanted: column.clone(), columns })
    };
    match column {
        Column::Index(index) if *index < rows.width() => Ok(*index),
        Column::Index(_) => Err(unknown()),
        Column::Name(name) => {
            let names = rows.names().unwrap_or_default();
            let mut found = names.iter().enumerate().filter(|(_, other)| *other == name.trim());
            match (found.next(), found.next()) {
                (Some((index, _)), None) => Ok(index),
                (None, _) => Err(unknown()),
                (Some(_), Some(_)) => Err(rows.error(None, CsvProblem::AmbiguousColumn { name: name.clone() })),
            }
        }
    }
}

/// The first names of a list that may be long.
fn cut_list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(16).map(|name| format!("{:?}", cut(name))).collect();
    let rest =
        if names.len() > shown.len() { format!(" and {} more", names.len() - shown.len()) } else { String::new() };
    shown.join(", ") + &rest
}

/// The table while it is read.
struct Table {
    x: Vec<f32>,
    targets: Targets,
}

/// The targets read so far, and what is needed to read the next.
enum Targets {
    /// Classes by name. Names that were not given get numbers as they come, until the file has been read.
    Names {
        labels: Vec<u32>,
        numbers: BTreeMap<String, u32>,
        given: bool,
    },
    Numbers {
        labels: Vec<u32>,
        classes: usize,
    },
    Values(Vec<f32>),
}

impl Table {
    fn new<R: Read>(rows: &Rows<'_, R>, target: &Target) -> Result<Self> {
        let targets = match target {
            Target::Names { names, .. } => {
                let mut numbers = BTreeMap::new();
                for (number, name) in (0..).zip(names.iter().flatten()) {
                    let name = name.trim().to_string();
                    if numbers.insert(name.clone(), number).is_some() {
                        return Err(rows.error(None, CsvProblem::RepeatedName { name }));
                    }
                }
                Targets::Names { labels: Vec::new(), numbers, given: names.is_some() }
            }
            Target::Numbers { classes, .. } => Targets::Numbers { labels: Vec::new(), classes: *classes },
            Target::Value { .. } => Targets::Values(Vec::new()),
        };
        Ok(Self { x: Vec::new(), targets })
    }

    /// Adds the present row.
    fn push<R: Read>(&mut self, rows: &Rows<'_, R>, columns: &Columns) -> Result<()> {
        if rows.width() != columns.width {
            let problem = CsvProblem::Values { expected: columns.width, found: rows.width() };
            return Err(rows.error(None, problem));
        }
        reserve(&mut self.x, columns.features.len())?;
        for &index in &columns.features {
            self.x.push(rows.number(index)?);
        }
        self.targets.push(rows, columns.target)
    }

    fn finish(self, columns: Columns) -> Result<CsvDataset> {
        let (y, classes, class_names) = self.targets.finish();
        let x = HostTensor::new(self.x, &[y.len(), columns.features.len()])?;
        let shape = [y.len()];
        let mut table = InMemoryDataset::new(x, HostTensor::new(y, &shape)?)?;
        if let Some(classes) = classes {
            table = table.with_classes(classes)?;
        }
        Ok(CsvDataset { table, feature_names: columns.feature_names, class_names })
    }
}

impl Targets {
    fn push<R: Read>(&mut self, rows: &Rows<'_, R>, index: usize) -> Result<()> {
        match self {
            Self::Names { labels, numbers, given } => {
                let name = rows.present(index)?;
                let number = match numbers.get(name) {
                    Some(&number) => number,
                    None if *given => {
                        let problem = CsvProblem::ClassName { found: cut(name), names: numbers.len() };
                        return Err(rows.error(Some(index), problem));
                    }
                    None => {
                        let number = numbers.len() as u32;
                        numbers.insert(name.to_string(), number);
                        number
                    }
                };
                push(labels, number)
            }
            Self::Numbers { labels, classes } => {
                let text = rows.present(index)?;
                match text.parse::<u32>().ok().filter(|&label| (label as usize) < *classes) {
                    Some(label) => push(labels, label),
                    None => {
                        let problem = CsvProblem::ClassNumber { found: cut(text), classes: *classes };
                        Err(rows.error(Some(index), problem))
                    }
                }
            }
            Self::Values(values) => push(values, rows.number(index)?),
        }
    }

    /// The targets, the number of classes and the classes' names.
    fn finish(self) -> (Values, Option<usize>, Vec<String>) {
        match self {
            Self::Names { mut labels, numbers, given } => {
                // The map is sorted by name; a number that came with the name becomes the name's rank.
                let mut by_number: Vec<(u32, String)> =
                    numbers.into_iter().map(|(name, number)| (number, name)).collect();
                if !given {
                    let mut ranks = vec![0; by_number.len()];
                    (0..).zip(&mut by_number).for_each(|(rank, (number, _))| {
                        ranks[*number as usize] = rank;
                        *number = rank;
                    });
                    labels.iter_mut().for_each(|label| *label = ranks[*label as usize]);
                }
                by_number.sort_unstable();
                let names: Vec<String> = by_number.into_iter().map(|(_, name)| name).collect();
                (labels.into(), Some(names.len()), names)
            }
            Self::Numbers { labels, classes } => (labels.into(), Some(classes), Vec::new()),
            Self::Values(values) => (values.into(), None, Vec::new()),
        }
    }
}

fn push<T>(values: &mut Vec<T>, value: T) -> Result<()> {
    reserve(values, 1)?;
    values.push(value);
    Ok(())
}

fn reserve<T>(values: &mut Vec<T>, more: usize) -> Result<()> {
    let bytes = values.len().checked_add(more).and_then(|length| length.checked_mul(size_of::<T>()));
    values.try_reserve(more).map_err(|_| Error::OutOfMemory { what: "the table of a CSV file", bytes })
}

impl Dataset for CsvDataset {
    fn len(&self) -> usize {
        self.table.len()
    }

    fn spec(&self) -> &SampleSpec {
        self.table.spec()
    }

    fn read(&self, at: At, sample: SampleMut<'_>) -> Result<()> {
        self.table.read(at, sample)
    }

    fn classes(&self) -> Option<usize> {
        self.table.classes()
    }

    fn label(&self, index: usize) -> Result<Option<u32>> {
        self.table.label(index)
    }
}
