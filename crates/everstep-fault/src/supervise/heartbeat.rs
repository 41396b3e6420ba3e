//! How a supervised run shows that it goes on: a small file that it overwrites at each step, and that the process above it
//! reads. It says nothing about the state; the checkpoint does.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The environment variable that names the file.
pub(super) const VARIABLE: &str = "EVERSTEP_HEARTBEAT";

/// Bytes of the file: sequence number, step, whether it rests, and a check of the three, as little-endian 64-bit words.
const BYTES: usize = 32;

/// What an empty file's zeros do not give as a check ("everstep").
const MAGIC: u64 = u64::from_le_bytes(*b"everstep");

/// What a run has said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beat {
    /// Its number, from 1.
    pub(super) sequence: u64,
    /// The newest step that has begun.
    pub(super) step: u64,
    /// Whether no further step is expected soon.
    pub(super) rests: bool,
}

impl Beat {
    fn to_bytes(self) -> [u8; BYTES] {
        let rests = u64::from(self.rests);
        let mut bytes = [0; BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip([self.sequence, self.step, rests, self.check()]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// `None` for an empty file, and for one that was read while it was written.
    fn from_bytes(bytes: &[u8; BYTES]) -> Option<Self> {
        let mut words = [0; 4];
        for (word, place) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(place.try_into().ok()?);
        }
        let beat = Self { sequence: words[0], step: words[1], rests: words[2] == 1 };
        (words[3] == beat.check()).then_some(beat)
    }

    fn check(self) -> u64 {
        let mixed = self.sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.step.rotate_left(32);
        MAGIC ^ mixed ^ u64::from(self.rests)
    }
}

/// The run's side.
struct Writer {
    file: File,
    sequence: AtomicU64,
    step: AtomicU64,
}

/// `None` in a process that nobody supervises, or whose file cannot be opened.
static WRITER: OnceLock<Option<Writer>> = OnceLock::new();

/// A step begins. Costs nothing in a process that nobody supervises, else one small write.
pub(crate) fn beat(step: u64) {
    if let Some(writer) = writer() {
        writer.step.store(step, Ordering::Relaxed);
        writer.write(false);
    }
}

/// No step is expected soon, as after the last one of an epoch, when a program evaluates and saves: until the next beat, the
/// silence may be as long as that before the first.
pub(crate) fn rest() {
    if let Some(writer) = writer() {
        writer.write(true);
    }
}

fn writer() -> Option<&'static Writer> {
    let open = || {
        let path = std::env::var_os(VARIABLE).filter(|_| super::is_supervised())?;
        let file = OpenOptions::new().write(true).open(path).ok()?;
        Some(Writer { file, sequence: AtomicU64::new(0), step: AtomicU64::new(0) })
    };
    WRITER.get_or_init(open).as_ref()
}

impl Writer {
    fn write(&self, rests: bool) {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = Beat { sequence, step: self.step.load(Ordering::Relaxed), rests }.to_bytes();
        // A beat that is lost is no reason to stop: the next one says the same.
        #[cfg(unix)]
        let _ = std::os::unix::fs::FileExt::write_at(&self.file, &bytes, 0);
        #[cfg(windows)]
        let _ = std::os::windows::fs::FileExt::seek_write(&self.file, &bytes, 0);
        #[cfg(not(any(unix, windows)))]
        let _ = bytes;
    }
}

/// The side of the process above: makes the file, and removes it in the end.
#[derive(Debug)]
pub(super) struct Reader {
    file: File,
    path: PathBuf,
}

impl Reader {
    /// A new file in the temporary directory. Each child has its own, so that none is taken for the one before it, and none
    /// misses a file that was tidied away in the meantime.
    pub(super) fn new() -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("everstep-{}-{number}.beat", std::process::id()));
            // Never a file that is there: the directory is everybody's.
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut reader = Self { file, path };
                    // The blocks are there from now on: a full disk does not silence the run.
                    reader.file.write_all(&[0; BYTES])?;
                    return Ok(reader);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The last beat; `None` before the first, or where reading met a write: the next time tells.
    pub(super) fn read(&mut self) -> Option<Beat> {
        let mut bytes = [0; BYTES];
        self.file.seek(SeekFrom::Start(0)).ok()?;
        self.file.read_exact(&mut bytes).ok()?;
        Beat::from_bytes(&bytes)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_comes_back_and_a_torn_one_does_not() {
        let beat = Beat { sequence: 7, step: 1 << 40, rests: false };
        let later = Beat { sequence: 8, step: (1 << 40) + 1, rests: true };
        for each in [beat, later] {
            assert_eq!(Beat::from_bytes(&each.to_bytes()), Some(each));
        }
        assert_eq!(Beat::from_bytes(&[0; BYTES]), None);
        for cut in (8..BYTES).step_by(8) {
            let torn = [&later.to_bytes()[..cut], &beat.to_bytes()[cut..]].concat();
            assert_eq!(Beat::from_bytes(&torn.try_into().unwrap()), None, "torn at byte {cut}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_the_file_goes() {
        let mut reader = Reader::new().unwrap();
        assert_eq!(reader.read(), None);
        let file = OpenOptions::new().write(true).open(reader.path()).unwrap();
        let writer = Writer { file, sequence: AtomicU64::new(0), step: AtomicU64::new(12) };
        for (rests, sequence) in [(false, 1), (true, 2)] {
            writer.write(rests);
            assert_eq!(reader.read(), Some(Beat { sequence, step: 12, rests }));
        }
        let path = reader.path().to_owned();
        drop(reader);
        assert!(!path.exists());
        writer.write(false);
    }

    #[test]
    fn without_a_supervisor_a_beat_is_nothing() {
        beat(1);
        rest();
        assert!(writer().is_none());
    }
}
