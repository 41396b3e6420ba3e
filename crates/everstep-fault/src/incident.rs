//! The part of a page that is about one incident.

use everstep_tensor::fault;

use crate::html::{Html, Table, count, list, number};
use crate::page::name_of;
use crate::{Cause, Diagnosis, Event, PostMortem};

/// Samples named at most.
const SAMPLES: usize = 100;
/// A longer command stands on the page once.
const COMMAND: usize = 2000;

impl PostMortem {
    pub(crate) fn incident(&self, index: usize, diagnosis: &Diagnosis, html: &mut Html) {
        let heading = format!("{index}. Step {}: {}", diagnosis.place.step, name_of(diagnosis.cause));
        html.article(&format!("incident-{index}"), &heading, |html| {
            html.paragraph(&format!("Cause: {}.", diagnosis.cause));
            html.element("h4", "", "Where");
            html.table(Table::of_fields([place_of(diagnosis), origin_of(diagnosis)].concat()));
            html.element("h4", "", "How it was told apart");
            html.table(trials_of(diagnosis));
            html.element("h4", "", "What was done");
            self.answer_to(diagnosis, html);
            html.element("h4", "", "How to see it again");
            self.recipe_of(index, diagnosis, html);
        });
    }

    fn answer_to(&self, diagnosis: &Diagnosis, html: &mut Html) {
        html.paragraph(&format!("{}.", diagnosis.tally));
        if !diagnosis.samples.is_empty() {
            html.paragraph(&format!("Samples left out from then on: {}.", list(&diagnosis.samples, SAMPLES)));
        }
        let lost = count(diagnosis.lost_steps, "step was lost", "steps were lost");
        if diagnosis.recovered {
            html.element("p", "good", &format!("The run recovered; {lost}."));
            return;
        }
        let budget = self.events.iter().find_map(|told| match &told.event {
            Event::GaveUp { budget, diagnosis: given_up } if given_up.attempt == diagnosis.attempt => Some(*budget),
            _ => None,
        });
        let reason = budget.map_or(String::new(), |budget| format!(": {budget}"));
        html.element("p", "bad", &format!("The policy gave up{reason}; {lost}."));
        html.paragraph(
            "The state is that before the refused step, or, where the step had partly written, that of a snapshot.",
        );
    }

    fn recipe_of(&self, index: usize, diagnosis: &Diagnosis, html: &mut Html) {
        match self.replay.len() {
            0 => html.paragraph("The run's command is not known: start the program with the same seeds and settings."),
            COMMAND.. if index > 1 => html.paragraph("With the command of the first incident."),
            _ => html.element("pre", "command", &self.replay),
        }
        let Diagnosis { attempt, place, record, .. } = diagnosis;
        let same = if self.chaos { "On the same device, with the same plan of faults," } else { "On the same device" };
        html.paragraph(&format!(
            "{same} it gives the same run, bit for bit. The fault appears at attempt {attempt}, which tries step {}. \
             It is the same fault if that attempt's record has these bits:",
            place.step
        ));
        let mut table = Table::new(&["", "Value", "Bits (hexadecimal)"]);
        for (name, value) in [("Loss", record.loss), ("Gradient norm", record.norm)] {
            table.row("", &[name.into(), number(value), format!("{:08x}", value.to_bits())]);
        }
        html.table(table);
        let caution = match diagnosis.cause {
            Cause::Passing => {
                "A passing fault of a device seldom comes again: healthy bits there confirm that it was one."
            }
            Cause::State if record.faults & fault::STATE != 0 => {
                "Memory that changed by itself seldom does so again: healthy bits there confirm it."
            }
            _ => return,
        };
        if !self.chaos {
            html.element("p", "note", caution);
        }
    }
}

/// Which step it was.
fn place_of(diagnosis: &Diagnosis) -> Vec<(&'static str, String)> {
    let Diagnosis { attempt, place, record, reasons, .. } = diagnosis;
    let reasons = if reasons.is_empty() { "committed: the series of steps stood out".into() } else { reasons.clone() };
    vec![
        ("Step", format!("{} (attempt {attempt})", place.step)),
        ("Epoch", format!("{} (counted from 0)", place.cursor.epoch)),
        ("Batch", format!("begins at sample {} of the epoch's order", place.cursor.position)),
        ("Shuffle seed", place.cursor.seed.to_string()),
        ("Seen", reasons),
        ("Loss", number(record.loss)),
        ("Gradient norm", number(record.norm)),
        ("Largest finite gradient", number(record.largest)),
        ("Gradients not finite", record.non_finite.to_string()),
    ]
}

/// Where in the step the first value that is not finite came up.
fn origin_of(diagnosis: &Diagnosis) -> Vec<(&'static str, String)> {
    let Some(origin) = &diagnosis.origin else {
        let unknown = match diagnosis.tally.replays {
            0 => "not known: the step did not run again with a look at every op",
            _ => "not known: when the step ran again, no op gave a value that is not finite",
        };
        return vec![("Op", unknown.into())];
    };
    let op = match (origin.op, origin.backward_of) {
        ("gradient", _) => "none: it lay in the gradient of a parameter, and all ops before were clean".into(),
        (op, Some(of)) => format!("{op} in the backward pass of {of}"),
        (op, None) if origin.number == 0 => format!("{op}, the step's first op"),
        (op, None) => format!("{op}, after {}", count(origin.number, "other op", "other ops")),
    };
    let value = match origin.value.as_str() {
        "NaN" => "not a number (NaN)",
        "inf" => "infinity",
        "-inf" => "minus infinity",
        other => other,
    };
    vec![
        ("Op", op),
        ("Layer", origin.layer.clone().unwrap_or_else(|| "none: no parameter was used before it".into())),
        ("Tensor shape", format!("{:?}", origin.shape)),
        ("First element", format!("{:?}, which is {value}", origin.element)),
        ("Sample", origin.sample.map_or("not known".into(), |sample| sample.to_string())),
        (
            "It read",
            origin
                .from
                .as_ref()
                .map_or("nothing known that was not finite before".into(), |from| format!("{from}, not finite before")),
        ),
    ]
}

/// What was tried to tell what it is, and what the outcomes say.
fn trials_of(diagnosis: &Diagnosis) -> Table {
    let trial = |name: &str, outcome: Option<bool>, faulty: &str, clean: &str| {
        let (outcome, says) = match outcome {
            Some(true) => ("yes", faulty),
            Some(false) => ("no", clean),
            None => ("not tried", ""),
        };
        [name, outcome, says].map(String::from)
    };
    let Diagnosis { record, samples, tally, on_other_state, with_other_batch, .. } = diagnosis;
    // A replay that is clean ends the incident: nothing else was done then.
    let is_gone = diagnosis.recovered && tally.replays == 1 && tally.actions() == 1;
    let again = (tally.replays > 0).then_some(!is_gone);
    let mut table = Table::new(&["What was tried", "Faulty?", "What it says"]);
    for (bit, name, says) in [
        (fault::STATE, "Memory against what the last step left in it", "A bit has changed between two steps."),
        (fault::RATE, "The learning rate against those before", "It has jumped."),
    ] {
        if record.faults & bit != 0 {
            table.row("", &trial(name, Some(true), says, ""));
        }
    }
    let rows = [
        ("The same step again", again, "It did not pass by itself.", "It was gone: a passing fault."),
        (
            "This batch on another state",
            *on_other_state,
            "The fault follows the batch.",
            "The batch alone is not enough.",
        ),
        (
            "Another batch on this state",
            *with_other_batch,
            "It is not this batch alone.",
            "The state alone is not enough.",
        ),
    ];
    for (name, outcome, faulty, clean) in rows {
        table.row("", &trial(name, outcome, faulty, clean));
    }
    if tally.examinations > 0 && diagnosis.cause == Cause::Data {
        let row = match samples.len() {
            0 => {
                ["no single one".into(), "More than a few samples are faulty, or the batch was left out whole.".into()]
            }
            1 => ["yes".into(), format!("The fault follows sample {}.", samples[0])],
            _ => ["yes".into(), format!("The fault follows samples {}.", list(samples, SAMPLES))],
        };
        table.row("", &[&["Halves of the batch, and halves of those".into()], &row[..]].concat());
    }
    table
}
