//! `plan`: drops commands that nobody needs and assigns memory to buffers.
//!
//! A buffer without a handle is a temporary: its memory serves the next buffer of its size class as soon as the last
//! command that touches it has run. Memory is shared as a whole, never in parts, because a GPU tracks usage per buffer.
//! The smallest free id is taken first, so the same commands over the same pool get the same memory, which keeps
//! bind groups cached.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;

use super::coverage::Coverage;
use crate::{BufferId, Command, Error, Result, Slice, Work};

/// Names a piece of an executor's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemoryId(pub usize);

/// A part of a piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The memory.
    pub memory: MemoryId,
    /// First byte.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
}

/// A command whose slices are places.
#[derive(Clone, Debug)]
pub struct PlannedCommand {
    /// The op that recorded it.
    pub op: &'static str,
    /// What to do.
    pub work: Work,
    /// What it reads.
    pub inputs: Vec<Place>,
    /// What it writes.
    pub outputs: Vec<Place>,
}

/// What an executor is to do for one recording.
#[derive(Debug, Default)]
pub struct Plan {
    /// Memory to create first, with its size in bytes.
    pub create: Vec<(MemoryId, usize)>,
    /// The commands, in order.
    pub commands: Vec<PlannedCommand>,
    /// Buffers that this recording writes first and that have handles: where it fails, they are unwritten.
    pub fresh: Vec<BufferId>,
    /// How many commands were dropped because nothing needs what they write.
    pub dropped: usize,
    /// Memory of buffers without handles that this recording writes first: between its commands alone it holds something.
    pub temporaries: Vec<MemoryId>,
    // What is written of buffers that a lost device held.
    rewritten: HashMap<BufferId, Coverage>,
}

impl Plan {
    /// The memory that the commands touch.
    pub fn memory(&self) -> HashSet<MemoryId> {
        let places = self.commands.iter().flat_map(|command| command.inputs.iter().chain(&command.outputs));
        places.map(|place| place.memory).collect()
    }
}

/// The size of the memory that serves a buffer of `bytes`: four classes per doubling, so at most a quarter is waste.
pub fn size_class(bytes: usize) -> usize {
    let bytes = bytes.max(crate::ALIGNMENT);
    let step = (bytes.next_power_of_two() / 8).max(crate::ALIGNMENT);
    bytes.div_ceil(step) * step
}

/// Which buffer has which memory; shared by all executors, pure bookkeeping.
#[derive(Debug, Default)]
pub struct Allocator {
    resident: HashMap<BufferId, MemoryId>,
    sizes: Vec<usize>, // by MemoryId; 0 where the memory was given back
    free: BTreeMap<usize, BTreeSet<MemoryId>>,
    // Memory that kept recordings use from their first command to their last, with how many do. Whoever runs in between may use
    // it, too, for what dies within one recording.
    shared: HashMap<MemoryId, usize>,
    // Of that, what no command is using; full but while a recording is planned.
    idle: BTreeMap<usize, BTreeSet<MemoryId>>,
    // Buffers below this one lay on a device that was lost as the error says.
    past: Option<(BufferId, Error)>,
    // Of those, what was written since, until that is all of it.
    rewritten: HashMap<BufferId, Coverage>,
}

impl Allocator {
    /// Where a buffer lies, if it was ever written.
    pub fn place(&self, slice: Slice) -> Option<Place> {
        let memory = *self.resident.get(&slice.buffer)?;
        Some(Place { memory, offset: slice.offset, bytes: slice.bytes })
    }

    /// As [`Allocator::place`].
    ///
    /// # Errors
    /// Where `op` would read what nothing wrote: [`Error::DeviceLost`] where it lay on a device that was lost, else
    /// [`Error::Unwritten`].
    pub fn written_place(&self, op: &'static str, slice: Slice) -> Result<Place> {
        let covered = self.rewritten.get(&slice.buffer).is_none_or(|written| written.contains(slice));
        self.place(slice).filter(|_| covered).ok_or_else(|| self.unwritten(op, slice.buffer))
    }

    fn unwritten(&self, op: &'static str, buffer: BufferId) -> Error {
        match &self.past {
            Some((first, Error::DeviceLost { device, reason })) if buffer < *first => {
                let reason = format!(
                    "{reason}; `{op}` needs a tensor that lay on it and was not written anew: restore a state, or make it again"
                );
                Error::DeviceLost { device: device.clone(), reason }
            }
            _ => Error::Unwritten { op },
        }
    }

    /// An empty one, for the device that comes after one that was lost as `error` says: buffers below `first` lay on that.
    pub fn after_loss(first: BufferId, error: Error) -> Self {
        Self { past: Some((first, error)), ..Self::default() }
    }

    /// After a recording has run: what it has written of buffers that a lost device held counts.
    pub fn confirm(&mut self, plan: &mut Plan) {
        for (buffer, written) in plan.rewritten.drain() {
            match written.is_whole() {
                true => self.rewritten.remove(&buffer),
                false => self.rewritten.insert(buffer, written),
            };
        }
    }

    /// Bytes of all memory, in use or free.
    pub fn total_bytes(&self) -> usize {
        // The null device's buffers may add up to more than can be counted.
        self.sizes.iter().fold(0, |total, &size| total.saturating_add(size))
    }

    /// Takes the memory of buffers without handles back into the pool.
    pub fn release(&mut self, buffers: impl IntoIterator<Item = BufferId>) {
        for buffer in buffers {
            self.rewritten.remove(&buffer);
            if let Some(memory) = self.resident.remove(&buffer) {
                let pool = if self.shared.contains_key(&memory) { &mut self.idle } else { &mut self.free };
                pool.entry(self.sizes[memory.0]).or_default().insert(memory);
            }
        }
    }

    /// Sets memory apart for a recording that is kept; it is free at this moment.
    pub fn share(&mut self, temporaries: &[MemoryId]) {
        for &memory in temporaries {
            let users = self.shared.entry(memory).or_insert(0);
            *users += 1;
            if *users == 1 {
                self.move_between(memory, true);
            }
        }
    }

    /// Takes back what [`Allocator::share`] did.
    pub fn unshare(&mut self, temporaries: &[MemoryId]) {
        for memory in temporaries {
            let Some(users) = self.shared.get_mut(memory) else { continue };
            *users -= 1;
            if *users == 0 {
                self.shared.remove(memory);
                self.move_between(*memory, false);
            }
        }
    }

    fn move_between(&mut self, memory: MemoryId, to_idle: bool) {
        let size = self.sizes[memory.0];
        let (from, to) = if to_idle { (&mut self.free, &mut self.idle) } else { (&mut self.idle, &mut self.free) };
        if from.get_mut(&size).is_some_and(|pool| pool.remove(&memory)) {
            to.entry(size).or_default().insert(memory);
        }
    }

    /// Whether a buffer has been written by an earlier recording.
    pub fn is_resident(&self, buffer: BufferId) -> bool {
        self.resident.contains_key(&buffer)
    }

    /// Forgets all free memory but that in `keep`; the executor destroys what is returned.
    pub fn trim(&mut self, keep: &HashSet<MemoryId>) -> Vec<MemoryId> {
        let mut freed = Vec::new();
        for free in self.free.values_mut() {
            freed.extend(free.iter().copied().filter(|memory| !keep.contains(memory)));
            free.retain(|memory| keep.contains(memory));
        }
        freed.iter().for_each(|memory| self.sizes[memory.0] = 0);
        freed
    }

    /// Forgets memory that could not be created, and the buffers that were to lie in it.
    pub fn forget(&mut self, memory: &HashSet<MemoryId>) {
        self.resident.retain(|_, at| !memory.contains(at));
        self.shared.retain(|at, _| !memory.contains(at));
        self.free.values_mut().chain(self.idle.values_mut()).for_each(|free| free.retain(|at| !memory.contains(at)));
        memory.iter().for_each(|at| self.sizes[at.0] = 0);
    }

    /// Plans `commands`. `sizes` tells the size of each buffer they touch, `dead` names the buffers without handles:
    /// theirs is the memory that is shared.
    ///
    /// # Errors
    /// [`Error::Unwritten`] where a command reads what nothing wrote, [`Error::DeviceLost`] where that lay on a device that
    /// was lost.
    pub fn plan(
        &mut self,
        commands: Vec<Command>,
        sizes: &HashMap<BufferId, usize>,
        dead: &HashSet<BufferId>,
    ) -> Result<Plan> {
        let mut plan = Plan::default();
        let commands = drop_unneeded(commands, dead, &mut plan.dropped);
        match self.check_written(&commands, sizes) {
            Ok(rewritten) => plan.rewritten = rewritten,
            Err(error) => {
                self.release(dead.iter().copied());
                return Err(error);
            }
        }
        plan.fresh = self.first_written(&commands, dead);
        let mut last_use: HashMap<BufferId, usize> = HashMap::new();
        for (index, command) in commands.iter().enumerate() {
            for slice in command.inputs.iter().chain(&command.outputs) {
                last_use.insert(slice.buffer, index);
            }
        }
        self.release(dead.iter().copied().filter(|id| !last_use.contains_key(id)));
        for (index, command) in commands.into_iter().enumerate() {
            let inputs: Vec<_> = command.inputs.iter().filter_map(|&slice| self.place(slice)).collect();
            let mut outputs = Vec::with_capacity(command.outputs.len());
            for &slice in &command.outputs {
                outputs.push(self.assign(slice, sizes, dead.contains(&slice.buffer), &mut plan));
            }
            let touched = command.inputs.iter().chain(&command.outputs).map(|slice| slice.buffer);
            self.release(touched.filter(|id| dead.contains(id) && last_use[id] == index).collect::<Vec<_>>());
            plan.commands.push(PlannedCommand { op: command.op, work: command.work, inputs, outputs });
        }
        Ok(plan)
    }

    /// Whether everything that is read is written before. Gives what is written of buffers that a lost device held: a
    /// part of such a buffer says nothing of the others.
    fn check_written(
        &self,
        commands: &[Command],
        sizes: &HashMap<BufferId, usize>,
    ) -> Result<HashMap<BufferId, Coverage>> {
        let mut written = HashSet::new();
        let mut rewritten: HashMap<BufferId, Coverage> = HashMap::new();
        let first = self.past.as_ref().map_or(BufferId(0), |(first, _)| *first);
        for command in commands {
            let known = |slice: &Slice| match rewritten.get(&slice.buffer).or(self.rewritten.get(&slice.buffer)) {
                Some(part) => part.contains(*slice),
                None => written.contains(&slice.buffer) || self.resident.contains_key(&slice.buffer),
            };
            if let Some(missing) = command.reads().find(|slice| !known(slice)) {
                return Err(self.unwritten(command.op, missing.buffer));
            }
            for output in &command.outputs {
                let id = output.buffer;
                if id < first && (self.rewritten.contains_key(&id) || !self.resident.contains_key(&id)) {
                    let begun = || self.rewritten.get(&id).cloned();
                    let new = || Coverage::of(sizes.get(&id).copied().unwrap_or(usize::MAX));
                    rewritten.entry(id).or_insert_with(|| begun().unwrap_or_else(new)).add(*output);
                }
                written.insert(id);
            }
        }
        Ok(rewritten)
    }

    fn first_written(&self, commands: &[Command], dead: &HashSet<BufferId>) -> Vec<BufferId> {
        let written = commands.iter().flat_map(|command| &command.outputs).map(|slice| slice.buffer);
        written.filter(|id| !dead.contains(id) && !self.resident.contains_key(id)).collect()
    }

    fn assign(&mut self, slice: Slice, sizes: &HashMap<BufferId, usize>, temporary: bool, plan: &mut Plan) -> Place {
        if let Some(&memory) = self.resident.get(&slice.buffer) {
            return Place { memory, offset: slice.offset, bytes: slice.bytes };
        }
        let class = size_class(sizes.get(&slice.buffer).copied().unwrap_or(slice.offset + slice.bytes));
        let idle = if temporary { take(&mut self.idle, class..=class) } else { None };
        let free = || self.free.get_mut(&class).and_then(BTreeSet::pop_first);
        let found = idle.or_else(free);
        // Of a smaller batch than that of a kept recording: better too large a piece than one more.
        let larger = || if temporary { take(&mut self.idle, class..=class.saturating_mul(LARGER)) } else { None };
        let memory = found.or_else(larger).unwrap_or_else(|| {
            self.sizes.push(class);
            let memory = MemoryId(self.sizes.len() - 1);
            plan.create.push((memory, class));
            memory
        });
        if temporary && !plan.temporaries.contains(&memory) {
            plan.temporaries.push(memory);
        }
        self.resident.insert(slice.buffer, memory);
        Place { memory, offset: slice.offset, bytes: slice.bytes }
    }
}

/// How much larger than what it serves the memory of kept recordings may be.
const LARGER: usize = 8;

/// The first free memory of the smallest of these sizes.
fn take(pool: &mut BTreeMap<usize, BTreeSet<MemoryId>>, sizes: RangeInclusive<usize>) -> Option<MemoryId> {
    pool.range_mut(sizes).find_map(|(_, free)| free.pop_first())
}

/// Drops every command whose outputs are all dead and never read after it.
fn drop_unneeded(commands: Vec<Command>, dead: &HashSet<BufferId>, dropped: &mut usize) -> Vec<Command> {
    let mut read_later: HashSet<BufferId> = HashSet::new();
    let mut keep = vec![true; commands.len()];
    for (index, command) in commands.iter().enumerate().rev() {
        keep[index] = command.outputs.iter().any(|o| !dead.contains(&o.buffer) || read_later.contains(&o.buffer));
        if keep[index] {
            read_later.extend(command.inputs.iter().map(|slice| slice.buffer));
        }
    }
    *dropped = keep.iter().filter(|&&kept| !kept).count();
    commands.into_iter().zip(keep).filter_map(|(command, kept)| kept.then_some(command)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(id: u64, bytes: usize) -> Slice {
        Slice { buffer: BufferId(id), offset: 0, bytes }
    }

    fn command(inputs: &[u64], output: u64, bytes: usize) -> Command {
        let inputs = inputs.iter().map(|&id| slice(id, bytes)).collect();
        Command { op: "test", work: Work::Copy, inputs, outputs: vec![slice(output, bytes)] }
    }

    fn plan(allocator: &mut Allocator, commands: Vec<Command>, dead: &[u64]) -> Result<Plan> {
        let mut sizes = HashMap::new();
        for s in commands.iter().flat_map(|c| c.inputs.iter().chain(&c.outputs)) {
            sizes.insert(s.buffer, s.bytes);
        }
        allocator.plan(commands, &sizes, &dead.iter().map(|&id| BufferId(id)).collect())
    }

    #[test]
    fn a_chain_of_temporaries_needs_two_buffers() {
        let mut allocator = Allocator::default();
        let mut commands = vec![command(&[], 1, 1000)];
        commands.extend((1..10).map(|i| command(&[i], i + 1, 1000)));
        let result = plan(&mut allocator, commands, &[1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
        assert_eq!(result.create.len(), 2);
        for planned in &result.commands {
            assert!(planned.inputs.iter().all(|input| input.memory != planned.outputs[0].memory));
        }
        // The survivor keeps its memory; the other one serves the next recording.
        let again = plan(&mut allocator, vec![command(&[10], 11, 1000)], &[]).unwrap();
        assert!(again.create.is_empty());
    }

    #[test]
    fn what_nobody_needs_is_not_run() {
        let mut allocator = Allocator::default();
        let commands = vec![command(&[], 1, 4), command(&[1], 2, 4), command(&[1], 3, 4), command(&[3], 4, 4)];
        let result = plan(&mut allocator, commands, &[1, 3, 4]).unwrap();
        assert_eq!((result.commands.len(), result.dropped), (2, 2));
    }

    #[test]
    fn the_same_recording_gets_the_same_memory() {
        let mut allocator = Allocator::default();
        let step = |base: u64| -> Vec<Command> {
            vec![
                command(&[], base + 1, 512),
                command(&[base + 1], base + 2, 4096),
                command(&[base + 1, base + 2], base + 3, 512),
                command(&[base + 3, base + 2], base + 4, 4096),
            ]
        };
        let mut places = Vec::new();
        for round in 1..4 {
            let base = round * 10;
            let result = plan(&mut allocator, step(base), &[base + 1, base + 2, base + 3]).unwrap();
            places.push(result.commands.iter().map(|c| c.outputs[0].memory).collect::<Vec<_>>());
            assert_eq!(result.create.is_empty(), round > 1);
            allocator.release([BufferId(base + 4)]);
        }
        assert_eq!(places[1], places[2]);
    }

    #[test]
    fn reading_the_unwritten_is_an_error_and_plans_nothing() {
        let mut allocator = Allocator::default();
        let result = plan(&mut allocator, vec![command(&[7], 8, 4)], &[]);
        assert!(matches!(result, Err(Error::Unwritten { op: "test" })));
        assert_eq!(allocator.total_bytes(), 0);
    }

    #[test]
    fn what_a_failed_recording_was_to_write_first_is_known() {
        let mut allocator = Allocator::default();
        plan(&mut allocator, vec![command(&[], 1, 300)], &[]).unwrap();
        let commands = vec![command(&[1], 2, 300), command(&[2], 3, 300), command(&[3], 1, 300)];
        assert_eq!(plan(&mut allocator, commands, &[2]).unwrap().fresh, [BufferId(3)]);
    }

    #[test]
    fn an_error_still_frees_what_has_no_handle() {
        let mut allocator = Allocator::default();
        plan(&mut allocator, vec![command(&[], 1, 300)], &[]).unwrap();
        assert!(plan(&mut allocator, vec![command(&[7], 8, 4)], &[1]).is_err());
        assert_eq!(allocator.trim(&HashSet::new()), [MemoryId(0)]);
    }

    #[test]
    fn size_classes_waste_at_most_a_quarter() {
        for bytes in (1..100_000).step_by(37) {
            let class = size_class(bytes);
            assert!(class >= bytes && class.is_multiple_of(256), "{bytes} -> {class}");
            assert!(bytes < 2048 || class * 4 <= bytes * 5, "{bytes} -> {class}");
            assert_eq!(size_class(class), class);
        }
    }

    #[test]
    fn trimming_forgets_only_what_is_free() {
        let mut allocator = Allocator::default();
        plan(&mut allocator, vec![command(&[], 1, 300), command(&[], 2, 300)], &[]).unwrap();
        allocator.release([BufferId(1)]);
        assert_eq!(allocator.trim(&HashSet::new()), [MemoryId(0)]);
        assert_eq!(allocator.total_bytes(), 512);
        assert!(allocator.place(slice(2, 300)).is_some() && allocator.place(slice(1, 300)).is_none());
    }
}
