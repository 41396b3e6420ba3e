//! `elide`: lets a producer write straight into the place that its result is copied to.
//!
//! A gradient is computed into a temporary and copied into its arena slot. Where nothing else wants the temporary, its
//! producer can write the slot itself, and the copy is gone: a read and a write of every gradient less.

use std::collections::{HashMap, HashSet};

use crate::{ALIGNMENT, BufferId, Command, Slice, Work};

/// Where a buffer is written and how often it is read.
#[derive(Default)]
struct Uses {
    writers: Vec<usize>,
    readers: usize,
}

/// Redirects producers into the targets of copies. `sizes` and `dead` as for the plan: only a buffer without handles,
/// written once as a whole and read by the copy alone, can be left out. One that an earlier recording has written
/// (`resident`) stays, because this recording may write only a part of it. Returns how many copies went.
pub fn elide(
    commands: &mut Vec<Command>,
    sizes: &HashMap<BufferId, usize>,
    dead: &HashSet<BufferId>,
    resident: impl Fn(BufferId) -> bool,
) -> usize {
    let mut uses: HashMap<BufferId, Uses> = HashMap::new();
    for (index, command) in commands.iter().enumerate() {
        command.inputs.iter().for_each(|input| uses.entry(input.buffer).or_default().readers += 1);
        command.outputs.iter().for_each(|output| uses.entry(output.buffer).or_default().writers.push(index));
    }
    let mut gone = HashSet::new();
    for copy in 0..commands.len() {
        if !matches!(commands[copy].work, Work::Copy) {
            continue;
        }
        let (from, to) = (commands[copy].inputs[0], commands[copy].outputs[0]);
        let whole = from.offset == 0 && sizes.get(&from.buffer) == Some(&from.bytes) && from.bytes == to.bytes;
        let single = uses.get(&from.buffer).filter(|uses| uses.readers == 1 && uses.writers.len() == 1);
        let whole = whole && !resident(from.buffer) && to.offset.is_multiple_of(ALIGNMENT);
        let Some(producer) = single.filter(|_| whole && dead.contains(&from.buffer)).map(|uses| uses.writers[0]) else {
            continue;
        };
        if redirectable(commands, producer, copy, to) {
            for output in commands[producer].outputs.iter_mut().filter(|output| output.buffer == from.buffer) {
                *output = to;
            }
            gone.insert(copy);
        }
    }
    let mut index = 0;
    commands.retain(|_| {
        index += 1;
        !gone.contains(&(index - 1))
    });
    gone.len()
}

/// Whether `producer` may write `to` in place of the copy at `copy`: it does not touch that buffer otherwise (a GPU
/// binds a buffer once per dispatch), and nothing in between looks at the place.
fn redirectable(commands: &[Command], producer: usize, copy: usize, to: Slice) -> bool {
    let overlaps = |slice: &Slice| {
        slice.buffer == to.buffer && slice.offset < to.offset + to.bytes && to.offset < slice.offset + slice.bytes
    };
    let looks = |command: &Command| command.inputs.iter().chain(&command.outputs).any(overlaps);
    producer < copy
        && matches!(commands[producer].work, Work::Kernel(_))
        && !commands[producer].touches(to.buffer)
        && !commands[producer + 1..copy].iter().any(looks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Args, Dispatch, GpuTraits, Kernel};
    use std::sync::Arc;

    #[derive(Debug)]
    struct Nothing;

    impl Kernel for Nothing {
        fn name(&self) -> &'static str {
            "nothing"
        }
        fn run(&self, _: &mut Args<'_>) {}
        fn dispatch(&self, _: &GpuTraits) -> Option<Dispatch> {
            None
        }
    }

    const ARENA: u64 = 100;
    /// A buffer that an earlier recording has written.
    const WRITTEN: BufferId = BufferId(9);

    fn whole(id: u64) -> Slice {
        Slice { buffer: BufferId(id), offset: 0, bytes: 256 }
    }

    fn slot(index: usize) -> Slice {
        Slice { buffer: BufferId(ARENA), offset: index * 256, bytes: 256 }
    }

    fn command(work: Work, inputs: &[Slice], outputs: &[Slice]) -> Command {
        Command { op: "test", work, inputs: inputs.to_vec(), outputs: outputs.to_vec() }
    }

    fn kernel(inputs: &[Slice], outputs: &[Slice]) -> Command {
        command(Work::Kernel(Arc::new(Nothing)), inputs, outputs)
    }

    fn copy(from: Slice, to: Slice) -> Command {
        command(Work::Copy, &[from], &[to])
    }

    fn run(commands: &mut Vec<Command>, dead: &[u64]) -> usize {
        let sizes = (0..10).map(|id| (BufferId(id), 256)).chain([(BufferId(ARENA), 4096)]).collect();
        elide(commands, &sizes, &dead.iter().map(|&id| BufferId(id)).collect(), |id| id == WRITTEN)
    }

    #[test]
    fn a_producer_writes_the_slot_itself() {
        let mut commands = vec![
            kernel(&[whole(1)], &[whole(2)]),
            kernel(&[whole(1)], &[whole(3)]),
            copy(whole(2), slot(0)),
            copy(whole(3), slot(1)),
        ];
        assert_eq!(run(&mut commands, &[2, 3]), 2);
        assert_eq!(commands.len(), 2);
        assert_eq!((commands[0].outputs[0], commands[1].outputs[0]), (slot(0), slot(1)));
    }

    #[test]
    fn what_is_still_wanted_is_copied() {
        let chain = || vec![kernel(&[whole(1)], &[whole(2)]), copy(whole(2), slot(0))];
        assert_eq!(run(&mut chain(), &[]), 0, "a handle lives");
        let mut commands = chain();
        commands.push(kernel(&[whole(2)], &[whole(3)]));
        assert_eq!(run(&mut commands, &[2, 3]), 0, "another reader");
        let mut commands = chain();
        commands.insert(1, kernel(&[], &[whole(2)]));
        assert_eq!(run(&mut commands, &[2]), 0, "another writer");
        let mut commands = vec![kernel(&[whole(1)], &[whole(9)]), copy(whole(9), slot(0))];
        assert_eq!(run(&mut commands, &[9]), 0, "an earlier writer");
        let unaligned = Slice { offset: 4, ..slot(0) };
        let mut commands = vec![kernel(&[whole(1)], &[whole(2)]), copy(whole(2), unaligned)];
        assert_eq!(run(&mut commands, &[2]), 0, "a place that no kernel can bind");
        let part = Slice { bytes: 128, ..whole(2) };
        let mut commands = vec![kernel(&[whole(1)], &[part]), copy(part, Slice { bytes: 128, ..slot(0) })];
        assert_eq!(run(&mut commands, &[2]), 0, "a part");
    }

    #[test]
    fn the_order_of_accesses_to_the_slot_stays() {
        let mut commands = vec![kernel(&[slot(0)], &[whole(2)]), copy(whole(2), slot(0))];
        assert_eq!(run(&mut commands, &[2]), 0, "the producer reads the arena");
        let mut commands =
            vec![kernel(&[whole(1)], &[whole(2)]), kernel(&[slot(0)], &[whole(3)]), copy(whole(2), slot(0))];
        assert_eq!(run(&mut commands, &[2, 3]), 0, "the slot is read in between");
        let mut commands =
            vec![kernel(&[whole(1)], &[whole(2)]), kernel(&[slot(1)], &[whole(3)]), copy(whole(2), slot(0))];
        assert_eq!(run(&mut commands, &[2, 3]), 1, "another slot does not matter");
    }
}
