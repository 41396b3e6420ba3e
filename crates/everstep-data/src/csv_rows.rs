//! The rows of a CSV file, one at a time in bounded memory, each with its line.

use std::io::{self, Read};
use std::path::Path;

use csv::{ByteRecord, Reader, ReaderBuilder};

use crate::{CsvColumn, CsvProblem, Error, Result};

/// The bytes that one row may have: what the parser holds in memory.
const MAX_ROW: usize = 4 << 20;

/// Reads rows from front to back.
pub(crate) struct Rows<'a, R> {
    reader: Reader<Lines<R>>,
    record: ByteRecord,
    names: Option<Vec<String>>,
    file: &'a Path,
}

impl<'a, R: Read> Rows<'a, R> {
    pub(crate) fn new(source: R, delimiter: u8, file: &'a Path) -> Self {
        let lines = Lines { source, left: MAX_ROW, after_return: false, last: b'\n', ended: false };
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .buffer_capacity(32 * 1024)
            .from_reader(lines);
        Self { reader, record: ByteRecord::new(), names: None, file }
    }

    /// Goes to the next row that is not blank; `false` at the end.
    pub(crate) fn advance(&mut self) -> Result<bool> {
        self.reader.get_mut().left = MAX_ROW;
        let (reader, record) = (&mut self.reader, &mut self.record);
        match reader.read_byte_record(record) {
            // A whole row ends with a line break, before the parser asks for more. What ends here ends inside quotes.
            Ok(true) if reader.get_ref().ended => Err(self.error(None, CsvProblem::OpenQuote)),
            Ok(more) => Ok(more),
            Err(_) if reader.get_ref().left == 0 => {
                // The row's own line, not the one far below on which the patience ended.
                let line = record.position().map_or(1, |position| position.line());
                let problem = CsvProblem::LongRow { limit: MAX_ROW };
                Err(Error::Csv { file: self.file.to_path_buf(), line, column: None, problem })
            }
            Err(error) => {
                let source = match error.into_kind() {
                    csv::ErrorKind::Io(source) => source,
                    other => io::Error::other(format!("{other:?}")),
                };
                Err(self.error(None, CsvProblem::Read { source }))
            }
        }
    }

    /// Takes the present row as the columns' names.
    pub(crate) fn take_names(&mut self) -> Result<()> {
        let names: Result<_> = (0..self.width()).map(|index| Ok(self.text(index)?.to_string())).collect();
        self.names = Some(names?);
        Ok(())
    }

    /// The columns' names, where there is a header.
    pub(crate) fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    /// The number of values in the present row.
    pub(crate) fn width(&self) -> usize {
        self.record.len()
    }

    /// Value `index` of the present row, without the white space around it.
    pub(crate) fn text(&self, index: usize) -> Result<&str> {
        let bytes = self.record.get(index).unwrap_or_default();
        let text = std::str::from_utf8(bytes).map_err(|_| self.error(Some(index), CsvProblem::Utf8))?;
        Ok(text.trim())
    }

    /// Value `index` of the present row as a number.
    pub(crate) fn number(&self, index: usize) -> Result<f32> {
        let text = self.present(index)?;
        match text.parse::<f32>() {
            Ok(value) if value.is_finite() => Ok(value),
            Ok(_) => Err(self.error(Some(index), CsvProblem::NotFinite { found: cut(text) })),
            Err(_) => Err(self.error(Some(index), CsvProblem::Number { found: cut(text) })),
        }
    }

    /// Value `index` of the present row, which is not empty.
    pub(crate) fn present(&self, index: usize) -> Result<&str> {
        match self.text(index)? {
            "" => Err(self.error(Some(index), CsvProblem::Missing)),
            text => Ok(text),
        }
    }

    pub(crate) fn column(&self, index: usize) -> CsvColumn {
        CsvColumn { index, name: self.names().and_then(|names| names.get(index).cloned()) }
    }

    /// The error of the present row, or of one of its values.
    pub(crate) fn error(&self, column: Option<usize>, problem: CsvProblem) -> Error {
        // What is behind the parser ends with the row's line break (but for a quote left open), so the row ends on the
        // line before. From there back to where value or row begins it is as many lines as there are breaks in values.
        let within = |index: usize| {
            let bytes = self.record.get(index).unwrap_or_default();
            bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
        };
        let breaks: u64 = (column.unwrap_or(0)..self.record.len()).map(within).sum();
        let after = u64::from(!self.record.is_empty() && !self.reader.get_ref().ended);
        let line = self.reader.position().line().saturating_sub(breaks + after).max(1);
        let column = column.map(|index| self.column(index));
        Error::Csv { file: self.file.to_path_buf(), line, column, problem }
    }
}

/// The start of a value, for an error.
pub(crate) fn cut(text: &str) -> String {
    let mut characters = text.chars();
    let mut start: String = characters.by_ref().take(40).collect();
    if characters.next().is_some() {
        start.push('…');
    }
    start
}

/// A source whose line breaks, `\n`, `\r\n` or `\r`, all become `\n`, the last line's included, so that lines can be
/// counted; and that refuses to give more than `left` bytes.
struct Lines<R> {
    source: R,
    left: usize,
    after_return: bool,
    last: u8,
    ended: bool,
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            return Err(io::Error::other("a row is too long"));
        }
        let room = buffer.len().min(self.left);
        loop {
            let count = match self.source.read(&mut buffer[..room]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                count => count?,
            };
            if count == 0 {
                return Ok(self.end(buffer));
            }
            let kept = self.unify(&mut buffer[..count]);
            // Nothing is kept of a `\n` whose `\r` came before; zero bytes would mean the end.
            if kept > 0 {
                self.left -= kept;
                return Ok(kept);
            }
        }
    }
}

impl<R> Lines<R> {
    /// The line break that the last line lacks.
    fn end(&mut self, buffer: &mut [u8]) -> usize {
        if self.last == b'\n' {
            self.ended = true;
            return 0;
        }
        (buffer[0], self.last) = (b'\n', b'\n');
        1
    }

    /// Makes every line break `\n`, in place; the number of bytes that are left.
    fn unify(&mut self, bytes: &mut [u8]) -> usize {
        let mut kept = 0;
        for at in 0..bytes.len() {
            let byte = bytes[at];
            let second_half = byte == b'\n' && self.after_return;
            self.after_return = byte == b'\r';
            if !second_half {
                bytes[kept] = if byte == b'\r' { b'\n' } else { byte };
                self.last = bytes[kept];
                kept += 1;
            }
        }
        kept
    }
}
