//! `fuse`: joins chains of pointwise commands into one, so that what flows between them stays in registers.
//!
//! Which commands form a group depends on their sequence alone, never on which tensors the program still holds: an intermediate
//! that is wanted becomes one more output. So a recording is fused in the same way whenever it comes, and gives the same bits.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::cpu::Pointwise;
use crate::expr::{Joined, Program};
use crate::{BufferId, Command, Kernel, Layout, Slice, Work};

/// Storage bindings that a group may need with every intermediate wanted: WebGPU promises eight.
const MAX_OPERANDS: usize = 8;
/// Instructions of a group: a shader's registers are few.
const MAX_INSTRUCTIONS: usize = 48;

/// A part of a buffer, and where in it each element lies.
type Operand = (Slice, Layout);

/// Chains that may grow at a time; the oldest makes room.
const MAX_OPEN: usize = 16;

/// A chain that may still grow.
struct Group {
    members: Vec<usize>,
    // What it reads from elsewhere, each place once, and what it writes.
    inputs: Vec<Operand>,
    outputs: Vec<Operand>,
    instructions: usize,
}

fn pointwise(command: &Command) -> Option<&Pointwise> {
    match &command.work {
        Work::Kernel(kernel) => (&**kernel as &dyn std::any::Any).downcast_ref::<Pointwise>(),
        _ => None,
    }
}

impl Group {
    fn of(index: usize, command: &Command, kernel: &Pointwise) -> Self {
        let mut group = Self { members: vec![], inputs: vec![], outputs: vec![], instructions: 0 };
        group.push(index, command, kernel);
        group
    }

    fn push(&mut self, index: usize, command: &Command, kernel: &Pointwise) {
        for input in places(&command.inputs, &kernel.inputs) {
            if !self.outputs.contains(&input) && !self.inputs.contains(&input) {
                self.inputs.push(input);
            }
        }
        self.outputs.extend(places(&command.outputs, &kernel.outputs));
        self.members.push(index);
        self.instructions += kernel.program.instructions().len();
    }

    /// Whether `command` takes up something that the chain has made, and the two can be one kernel.
    fn takes(&self, commands: &[Command], index: usize, kernel: &Pointwise) -> bool {
        let command = &commands[index];
        let Some(first) = self.members.first().and_then(|&first| pointwise(&commands[first])) else { return false };
        let continues = places(&command.inputs, &kernel.inputs).any(|input| self.outputs.contains(&input));
        if !continues || first.shape != kernel.shape {
            return false;
        }
        // What the chain has written is read as it was written, or not at all.
        let clashes = |slice: &Slice| self.outputs.iter().any(|(output, _)| output.buffer == slice.buffer);
        let same = |input: &Operand| self.outputs.contains(input) || !clashes(&input.0);
        let apart =
            |slice: &Slice| !clashes(slice) && self.inputs.iter().all(|(input, _)| input.buffer != slice.buffer);
        if !places(&command.inputs, &kernel.inputs).all(|input| same(&input)) || !command.outputs.iter().all(apart) {
            return false;
        }
        let mut grown = Self { members: vec![], inputs: self.inputs.clone(), outputs: self.outputs.clone(), ..*self };
        grown.push(index, command, kernel);
        let aliased = |(input, _): &Operand| grown.outputs.iter().any(|(output, _)| output.buffer == input.buffer);
        grown.inputs.len() + grown.outputs.len() <= MAX_OPERANDS
            && grown.instructions <= MAX_INSTRUCTIONS
            && !grown.inputs.iter().any(aliased)
    }

    /// Whether its commands can still run later than `command`, which is not one of them.
    fn can_wait_for(&self, command: &Command) -> bool {
        let reads = |slice: &Slice| self.outputs.iter().any(|(output, _)| output.buffer == slice.buffer);
        let writes = |slice: &Slice| reads(slice) || self.inputs.iter().any(|(input, _)| input.buffer == slice.buffer);
        !command.inputs.iter().any(reads) && !command.outputs.iter().any(writes)
    }
}

fn places<'a>(slices: &'a [Slice], layouts: &'a [Layout]) -> impl Iterator<Item = Operand> + 'a {
    slices.iter().copied().zip(layouts.iter().copied())
}

/// The chains of two or more commands. Several may grow at a time; a command joins the one that it continues.
fn groups(commands: &[Command], fences: &[usize]) -> Vec<Group> {
    let (mut open, mut done): (Vec<Group>, Vec<Group>) = (Vec::new(), Vec::new());
    for (index, command) in commands.iter().enumerate() {
        if fences.contains(&index) {
            done.append(&mut open);
        }
        let kernel = pointwise(command).filter(|kernel| kernel.shape.count() > 0);
        let at = kernel.and_then(|kernel| open.iter().position(|group| group.takes(commands, index, kernel)));
        let own = at.map(|at| open.remove(at));
        // The rest must not be hindered by this command, nor by the whole chain that now runs here.
        let chain: Vec<usize> = own.iter().flat_map(|group| &group.members).copied().chain([index]).collect();
        let (still, over): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|group| chain.iter().all(|&member| group.can_wait_for(&commands[member])));
        open = still;
        done.extend(over);
        match (own, kernel) {
            (Some(mut group), Some(kernel)) => {
                group.push(index, command, kernel);
                open.push(group);
            }
            (None, Some(kernel)) => open.push(Group::of(index, command, kernel)),
            _ => {}
        }
        if open.len() > MAX_OPEN {
            done.push(open.remove(0));
        }
    }
    done.extend(open);
    done.retain(|group| group.members.len() > 1);
    done
}

/// Joins the chains of `commands`; none goes beyond one of `fences`, the positions of commands. `dead` names buffers without handles: what only the chain itself reads of them is not
/// written. Returns how many commands went.
pub fn fuse(commands: &mut Vec<Command>, fences: &[usize], dead: &HashSet<BufferId>) -> usize {
    let groups = groups(commands, fences);
    if groups.is_empty() {
        return 0;
    }
    let mut readers: HashMap<BufferId, Vec<usize>> = HashMap::new();
    for (index, command) in commands.iter().enumerate() {
        command.inputs.iter().for_each(|slice| readers.entry(slice.buffer).or_default().push(index));
    }
    let mut replaced: HashMap<usize, Option<Command>> = HashMap::new();
    for group in &groups {
        let wanted = |slice: &Slice| {
            let elsewhere = |at: &usize| !group.members.contains(at);
            !dead.contains(&slice.buffer) || readers.get(&slice.buffer).is_some_and(|at| at.iter().any(elsewhere))
        };
        let Some((last, rest)) = group.members.split_last() else { continue };
        if let Some(joined) = join(commands, group, wanted) {
            rest.iter().for_each(|&member| drop(replaced.insert(member, None)));
            replaced.insert(*last, Some(joined));
        }
    }
    let before = commands.len();
    let old = std::mem::take(commands);
    commands.extend(old.into_iter().enumerate().filter_map(|(index, command)| match replaced.remove(&index) {
        Some(replacement) => replacement,
        None => Some(command),
    }));
    before - commands.len()
}

/// One command for a chain, which writes what is wanted of it; `None` where nothing is, and the plan drops all of it.
fn join(commands: &[Command], group: &Group, wanted: impl Fn(&Slice) -> bool) -> Option<Command> {
    let mut joined = Joined::default();
    // Where each of the chain's values is, by the operand that holds it.
    let mut values: HashMap<Operand, usize> = HashMap::new();
    let mut scalars = Vec::new();
    let (mut inputs, mut outputs): (Vec<Operand>, Vec<Operand>) = (Vec::new(), Vec::new());
    for &member in &group.members {
        let (command, kernel) = (&commands[member], pointwise(&commands[member])?);
        let mut arguments = Vec::with_capacity(command.inputs.len());
        for (input, dtype) in places(&command.inputs, &kernel.inputs).zip(kernel.program.inputs()) {
            arguments.push(match values.get(&input) {
                Some(&value) => value,
                None => {
                    let value = joined.input(*dtype);
                    inputs.push(input);
                    values.insert(input, value);
                    value
                }
            });
        }
        let results = joined.append(&kernel.program, &arguments, scalars.len());
        scalars.extend_from_slice(&kernel.scalars);
        for (output, value) in places(&command.outputs, &kernel.outputs).zip(results) {
            values.insert(output, value);
            outputs.push(output);
        }
    }
    outputs.retain(|(slice, _)| wanted(slice));
    let results: Vec<usize> = outputs.iter().map(|output| values[output]).collect();
    let last = commands.get(*group.members.last()?)?;
    let (program, used): (Program, Vec<usize>) = joined.finish(&results)?;
    let inputs: Vec<_> = used.into_iter().map(|input| inputs[input]).collect();
    let layouts = |operands: &[Operand]| operands.iter().map(|(_, layout)| *layout).collect();
    let slices = |operands: &[Operand]| operands.iter().map(|(slice, _)| *slice).collect();
    let shape = pointwise(last)?.shape;
    let (program, inputs_of, outputs_of) = (Arc::new(program), layouts(&inputs), layouts(&outputs));
    let kernel = Pointwise { program, shape, inputs: inputs_of, outputs: outputs_of, scalars };
    let work = Work::Kernel(Arc::new(kernel) as Arc<dyn Kernel>);
    Some(Command { op: last.op, work, inputs: slices(&inputs), outputs: slices(&outputs) })
}
