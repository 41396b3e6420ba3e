//! The IDX format of MNIST (<http://yann.lecun.com/exdb/mnist/>), plain or in gzip.
//!
//! ```text
//! byte 0, 1   zero
//! byte 2      element type: 08 u8, 09 i8, 0b i16, 0c i32, 0d f32, 0e f64
//! byte 3      D, the number of dimensions
//! 4 bytes     each dimension, u32, big-endian; D of them
//! the rest    the elements, big-endian, in C order
//! ```
//!
//! The size that the header declares is compared with the input's before any memory is asked for. Of a compressed input
//! no more is decompressed than the header declares, and memory grows with what has arrived.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::{Error, IdxProblem, Result};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The most bytes that one byte of deflate can stand for: 258 for every two bits.
const DEFLATE_RATIO: u64 = 1032;
/// What is first asked for, before any data has arrived; later twice what has arrived.
const FIRST_BLOCK: usize = 64 * 1024;

/// The elements of an IDX file.
#[derive(Clone, Debug, PartialEq)]
pub enum IdxValues {
    /// Type 08.
    U8(Vec<u8>),
    /// Type 09.
    I8(Vec<i8>),
    /// Type 0b.
    I16(Vec<i16>),
    /// Type 0c.
    I32(Vec<i32>),
    /// Type 0d.
    F32(Vec<f32>),
    /// Type 0e.
    F64(Vec<f64>),
}

impl IdxValues {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of the element type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::I16(_) => "i16",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
        }
    }
}

/// An array out of an IDX file.
#[derive(Clone, Debug, PartialEq)]
pub struct IdxArray {
    file: PathBuf,
    shape: Vec<usize>,
    values: IdxValues,
}

impl IdxArray {
    /// Reads an IDX file, plain or in gzip (told by its first bytes, not by its name).
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be opened; [`Error::Idx`] where it is not an IDX file, whole and nothing more.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |source| Error::Io { file: path.to_path_buf(), source };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        Self::read(BufReader::new(file), length, path)
    }

    /// Reads an IDX file that lies in memory; errors call it `name`.
    ///
    /// # Errors
    /// [`Error::Idx`] where it is not an IDX file, whole and nothing more.
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self> {
        Self::read(bytes, bytes.len() as u64, Path::new(name))
    }

    /// The file, or the name given to the bytes.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements in C order.
    pub fn values(&self) -> &IdxValues {
        &self.values
    }

    /// The elements and the shape.
    pub fn into_parts(self) -> (IdxValues, Vec<usize>) {
        (self.values, self.shape)
    }

    /// The bytes of an array of u8 with `rank` dimensions, or an error that says `expected`.
    pub(crate) fn into_bytes(self, rank: usize, expected: &'static str) -> Result<(Vec<u8>, Vec<usize>)> {
        match self.values {
            IdxValues::U8(bytes) if self.shape.len() == rank => Ok((bytes, self.shape)),
            values => {
                let problem = IdxProblem::Kind { expected, found: values.type_name(), shape: self.shape };
                Err(Error::Idx { file: self.file, offset: 2, problem })
            }
        }
    }

    fn read(mut source: impl BufRead, length: u64, file: &Path) -> Result<Self> {
        let at_start =
            |source| Error::Idx { file: file.to_path_buf(), offset: 0, problem: IdxProblem::Read { source } };
        if source.fill_buf().map_err(at_start)?.starts_with(&GZIP_MAGIC) {
            let decoder = MultiGzDecoder::new(source);
            return Reader { source: decoder, file, offset: 0, input: Input::Gzip(length) }.array();
        }
        Reader { source, file, offset: 0, input: Input::Plain(length) }.array()
    }
}

/// The input's length in bytes, which bounds what a header may declare.
#[derive(Clone, Copy)]
enum Input {
    Plain(u64),
    Gzip(u64),
}

/// What a header says.
struct Header {
    element_type: u8,
    shape: Vec<usize>,
    data_length: usize,
}

/// Reads one array from front to back and knows where it is.
struct Reader<'a, R> {
    source: R,
    file: &'a Path,
    offset: u64,
    input: Input,
}

impl<R: Read> Reader<'_, R> {
    fn array(mut self) -> Result<IdxArray> {
        let header = self.header()?;
        let total = self.offset + header.data_length as u64;
        self.check_size(total)?;
        let data = self.data(header.data_length, total)?;
        // Reading to the end is also what makes the gzip decoder compare its checksum.
        if self.fill(&mut [0])? != 0 {
            return Err(self.error(total, IdxProblem::Trailing { expected: total }));
        }
        Ok(IdxArray {
            file: self.file.to_path_buf(),
            shape: header.shape,
            values: self.values(header.element_type, data)?,
        })
    }

    fn header(&mut self) -> Result<Header> {
        let mut magic = [0; 4];
        self.exact(&mut magic, 4)?;
        let [zero, also_zero, element_type, rank] = magic;
        if (zero, also_zero) != (0, 0) {
            return Err(self.error(0, IdxProblem::Magic { found: [zero, also_zero] }));
        }
        let width = element_width(element_type)
            .ok_or_else(|| self.error(2, IdxProblem::ElementType { found: element_type }))?;
        if rank == 0 {
            return Err(self.error(3, IdxProblem::NoDimensions));
        }
        let mut dimensions = vec![0; 4 * usize::from(rank)];
        self.exact(&mut dimensions, 4 + 4 * u64::from(rank))?;
        let shape: Vec<u32> = dimensions
            .chunks_exact(4)
            .map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        match byte_length(&shape, width) {
            Some(data_length) => {
                Ok(Header { element_type, shape: shape.iter().map(|&size| size as usize).collect(), data_length })
            }
            None => Err(self.error(4, IdxProblem::TooLarge { shape })),
        }
    }

    /// Compares what header and data need with what the input can hold.
    fn check_size(&self, total: u64) -> Result<()> {
        match self.input {
            Input::Plain(length) if length < total => {
                Err(self.error(length, IdxProblem::Truncated { expected: total, found: length }))
            }
            Input::Plain(length) if length > total => Err(self.error(total, IdxProblem::Trailing { expected: total })),
            Input::Gzip(length) if total > length.saturating_mul(DEFLATE_RATIO) => {
                Err(self.error(4, IdxProblem::Incompressible { expected: total, compressed: length }))
            }
            _ => Ok(()),
        }
    }

    /// The next `length` bytes. Memory is asked for in steps of what has arrived, never more than `length` in all.
    fn data(&mut self, length: usize, total: u64) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        while data.len() < length {
            let start = data.len();
            let step = start.max(FIRST_BLOCK).min(length - start);
            data.try_reserve_exact(step).map_err(|_| no_memory(start + step))?;
            data.resize(start + step, 0);
            self.exact(&mut data[start..], total)?;
        }
        Ok(data)
    }

    /// Fills `buffer`; `total` is how many bytes were expected where the input ends before that.
    fn exact(&mut self, buffer: &mut [u8], total: u64) -> Result<()> {
        let filled = self.fill(buffer)?;
        if filled < buffer.len() {
            return Err(self.error(self.offset, IdxProblem::Truncated { expected: total, found: self.offset }));
        }
        Ok(())
    }

    /// Fills `buffer` as far as the input goes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.source.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    self.offset += count as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.error(self.offset, IdxProblem::Read { source })),
            }
        }
        Ok(filled)
    }

    fn values(&self, element_type: u8, data: Vec<u8>) -> Result<IdxValues> {
        Ok(match element_type {
            0x08 => IdxValues::U8(data),
            0x09 => IdxValues::I8(decode(&data, i8::from_be_bytes)?),
            0x0b => IdxValues::I16(decode(&data, i16::from_be_bytes)?),
            0x0c => IdxValues::I32(decode(&data, i32::from_be_bytes)?),
            0x0d => IdxValues::F32(decode(&data, f32::from_be_bytes)?),
            0x0e => IdxValues::F64(decode(&data, f64::from_be_bytes)?),
            found => return Err(self.error(2, IdxProblem::ElementType { found })),
        })
    }

    fn error(&self, offset: u64, problem: IdxProblem) -> Error {
        Error::Idx { file: self.file.to_path_buf(), offset, problem }
    }
}

/// The bytes of one element.
fn element_width(element_type: u8) -> Option<usize> {
    match element_type {
        0x08 | 0x09 => Some(1),
        0x0b => Some(2),
        0x0c | 0x0d => Some(4),
        0x0e => Some(8),
        _ => None,
    }
}

/// The bytes of all elements, where a `Vec` could hold so many. A zero counts as one for the limit, so that whoever
/// multiplies some dimensions of an accepted shape, in any order, meets no overflow.
fn byte_length(shape: &[u32], width: usize) -> Option<usize> {
    let times = |length: usize, &size: &u32| length.checked_mul(usize::try_from(size.max(1)).ok()?);
    let length = shape.iter().try_fold(width, times)?;
    // The header, at most 1,024 bytes, is added to it later.
    let fits = length <= isize::MAX as usize - 1024;
    fits.then_some(if shape.contains(&0) { 0 } else { length })
}

fn decode<const N: usize, T>(data: &[u8], element: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
    let (elements, _) = data.as_chunks::<N>();
    let mut values = Vec::new();
    values.try_reserve_exact(elements.len()).map_err(|_| no_memory(data.len()))?;
    values.extend(elements.iter().map(|&bytes| element(bytes)));
    Ok(values)
}

fn no_memory(bytes: usize) -> Error {
    Error::OutOfMemory { what: "the data of an IDX file", bytes: Some(bytes) }
}
