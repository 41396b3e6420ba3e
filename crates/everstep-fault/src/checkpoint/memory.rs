//! A storage in memory, for tests: it knows what a loss of power would leave.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::storage::{ReadFile, Storage, WriteFile, check_name};

/// Files in memory. Clones share them. What was not synced is known, so that a loss of power can be tried.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Clone, Debug, Default)]
struct Disk {
    // By their numbers; names refer to them.
    contents: Vec<Content>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    // Since the last sync.
    changes: Vec<Change>,
    capacity: Option<u64>,
    locked: bool,
}

#[derive(Clone, Debug, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
}

/// A change of a name: it reaches the disk as a whole or not at all.
#[derive(Clone, Debug)]
enum Change {
    Create(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

impl MemoryStorage {
    /// Without files.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, full at `bytes`.
    #[must_use]
    pub fn capacity(self, bytes: u64) -> Self {
        self.set_capacity(Some(bytes));
        self
    }

    /// Full at `bytes` from now on, or never.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity = bytes;
    }

    /// The bytes of a file.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk();
        disk.names.get(name).and_then(|&number| disk.contents.get(number)).map(|content| content.now.clone())
    }

    /// Gives a file other bytes, or makes one, durable at once: damage, for tests.
    pub fn replace(&self, name: &str, bytes: Vec<u8>) {
        let mut disk = self.disk();
        let number = disk.number_or_new(name);
        let content = Content { synced: bytes.clone(), now: bytes };
        disk.contents.get_mut(number).into_iter().for_each(|place| place.clone_from(&content));
        disk.synced_names.insert(name.to_owned(), number);
    }

    /// What is there after a loss of power that took all that was not synced.
    pub fn after_power_loss(&self) -> Self {
        let disk = self.disk();
        let contents = disk.contents.iter().map(|content| content.synced.clone()).collect();
        disk.restarted(contents, disk.synced_names.clone())
    }

    /// What may be there after a loss of power: each change of a name since the last sync may have reached the disk or not;
    /// of a file that was not synced the old bytes may be there, the new ones, the beginning of them, or zeros.
    pub fn after_power_loss_seeded(&self, seed: u64) -> Self {
        let disk = self.disk();
        let mut random = Random(seed);
        let mut names = disk.synced_names.clone();
        for change in &disk.changes {
            if random.below(2) == 0 {
                change.apply(&mut names);
            }
        }
        let contents = disk.contents.iter().map(|content| content.torn(&mut random)).collect();
        disk.restarted(contents, names)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, number) => names.insert(name.clone(), *number),
            Self::Rename(from, to, number) => {
                names.remove(from);
                names.insert(to.clone(), *number)
            }
            Self::Remove(name) => names.remove(name),
        };
    }
}

impl Content {
    fn torn(&self, random: &mut Random) -> Vec<u8> {
        if self.now == self.synced {
            return self.now.clone();
        }
        let reached = random.below(self.now.len() as u64 + 1) as usize;
        let beginning = self.now.get(..reached).unwrap_or_default().to_vec();
        match random.below(5) {
            0 => self.synced.clone(),
            1 => self.now.clone(),
            2 => beginning,
            3 => vec![0; self.now.len()],
            _ => {
                let mut bytes = beginning;
                bytes.resize(self.now.len(), 0);
                bytes
            }
        }
    }
}

impl Disk {
    fn restarted(&self, contents: Vec<Vec<u8>>, names: BTreeMap<String, usize>) -> MemoryStorage {
        let contents = contents.into_iter().map(|bytes| Content { synced: bytes.clone(), now: bytes }).collect();
        let synced_names = names.clone();
        let disk = Self { contents, names, synced_names, changes: Vec::new(), capacity: self.capacity, locked: false };
        MemoryStorage { disk: Arc::new(Mutex::new(disk)) }
    }

    fn free(&self) -> Option<u64> {
        let content = |number: &usize| self.contents.get(*number).map_or(0, |content| content.now.len() as u64);
        let used: u64 = self.names.values().map(content).sum();
        self.capacity.map(|capacity| capacity.saturating_sub(used))
    }

    fn number(&self, name: &str) -> io::Result<usize> {
        check_name(name)?;
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn number_or_new(&mut self, name: &str) -> usize {
        if let Some(&number) = self.names.get(name) {
            return number;
        }
        let number = self.contents.len();
        self.contents.push(Content::default());
        self.change(Change::Create(name.to_owned(), number));
        number
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }
}

impl Storage for MemoryStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn WriteFile>> {
        check_name(name)?;
        let mut disk = self.disk();
        let number = disk.number_or_new(name);
        // As file systems do it: the same file, cut off.
        disk.contents.get_mut(number).into_iter().for_each(|content| content.now.clear());
        Ok(Box::new(MemoryFile { storage: self.clone(), number, position: 0 }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadFile>> {
        let number = self.disk().number(name)?;
        Ok(Box::new(MemoryFile { storage: self.clone(), number, position: 0 }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(to)?;
        let mut disk = self.disk();
        let number = disk.number(from)?;
        disk.change(Change::Rename(from.to_owned(), to.to_owned(), number));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.number(name)?;
        disk.change(Change::Remove(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.synced_names = disk.names.clone();
        disk.changes.clear();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(self.disk().free())
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let mut disk = self.disk();
        if disk.locked {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another store of this process"));
        }
        disk.locked = true;
        Ok(Box::new(Lock(self.clone())))
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}

struct Lock(MemoryStorage);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.disk().locked = false;
    }
}

struct MemoryFile {
    storage: MemoryStorage,
    number: usize,
    position: usize,
}

impl WriteFile for MemoryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.storage.disk();
        let room = disk.free().map_or(usize::MAX, |free| usize::try_from(free).unwrap_or(usize::MAX));
        if room == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let bytes = bytes.get(..room).unwrap_or(bytes);
        disk.contents.get_mut(self.number).into_iter().for_each(|content| content.now.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.storage.disk();
        disk.contents.get_mut(self.number).into_iter().for_each(|content| content.synced = content.now.clone());
        Ok(())
    }
}

impl ReadFile for MemoryFile {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let disk = self.storage.disk();
        let content = disk.contents.get(self.number).map_or(&[][..], |content| &content.now);
        let rest = content.get(self.position..).unwrap_or_default();
        let read = rest.len().min(bytes.len());
        bytes.iter_mut().zip(rest).for_each(|(byte, &read)| *byte = read);
        self.position += read;
        Ok(read)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.storage.disk().contents.get(self.number).map_or(0, |content| content.now.len() as u64))
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}
