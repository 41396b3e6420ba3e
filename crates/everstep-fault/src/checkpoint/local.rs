//! A folder of this machine.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::storage::{ReadFile, Storage, WriteFile, check_name};
use super::time::utc;

/// The file that is locked.
const LOCK: &str = "lock";

/// A folder of this machine.
#[derive(Clone, Debug)]
pub struct LocalStorage {
    folder: PathBuf,
}

impl LocalStorage {
    /// The folder, which is made where it is missing.
    ///
    /// # Errors
    /// Those of making it.
    pub fn new(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        let exists = |folder: &Path| folder.as_os_str().is_empty() || folder.is_dir();
        let missing: Vec<&Path> = folder.ancestors().take_while(|folder| !exists(folder)).collect();
        fs::create_dir_all(&folder)?;
        // The name of a new folder lies in the one above it.
        missing.iter().rev().filter_map(|folder| folder.parent()).try_for_each(sync_folder)?;
        Ok(Self { folder })
    }

    /// The folder, which is not made: [`Storage::list`] says where it is missing.
    pub fn existing(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        check_name(name)?;
        Ok(self.folder.join(name))
    }

    fn holder(&self) -> String {
        let told = fs::read_to_string(self.folder.join(LOCK)).unwrap_or_default();
        let told: String = told.chars().filter(|character| !character.is_control()).take(200).collect();
        if told.is_empty() { "another process".to_owned() } else { told }
    }
}

impl Storage for LocalStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // What has another name is not of a checkpoint.
            if let (Ok(name), true) = (entry.file_name().into_string(), entry.file_type()?.is_file()) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn WriteFile>> {
        Ok(Box::new(LocalFile(File::create(self.path(name)?)?)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadFile>> {
        let file = File::open(self.path(name)?)?;
        forget_cached(&file);
        Ok(Box::new(LocalFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from)?, self.path(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name)?)
    }

    fn sync(&self) -> io::Result<()> {
        sync_folder(&self.folder)
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        fs4::available_space(&self.folder).map(Some)
    }

    /// The system frees the lock when the process ends, in whatever way: what the file tells is for the message alone.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.path(LOCK)?);
        let mut file = options?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::Error::new(io::ErrorKind::WouldBlock, self.holder())),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let told = format!("process {}, since {}\n", std::process::id(), utc(now));
        // A disk that is full is no reason not to hold it.
        let _ = file.set_len(0).and_then(|()| file.write_all(told.as_bytes()));
        Ok(Box::new(file))
    }

    fn place(&self) -> String {
        self.folder.display().to_string()
    }
}

struct LocalFile(File);

impl WriteFile for LocalFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

impl ReadFile for LocalFile {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// A file that was just written would be read from memory, and damage on the disk would not be seen. It is advice: where the
/// system does not take it, the hash of what is cached is checked.
fn forget_cached(file: &File) {
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}

/// Elsewhere a folder cannot be opened, and its file system's journal orders what happens to names.
fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}
