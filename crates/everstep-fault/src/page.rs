//! A post-mortem as one page of HTML that needs nothing else: no script, no font, no picture from elsewhere.

use everstep_tensor::Verdict;

use crate::curve::Curve;
use crate::html::{Html, Table, bytes, count, list, number};
use crate::{Answer, Cause, Event, Point, PostMortem, Told};

/// The page stays one that a browser shows at once and a person reads: of more than this, it has the ends, and says so. The
/// JSON beside it has all.
const INCIDENTS: usize = 20;
const EVENTS: usize = 300;
const RECORDS: usize = 30;
const PARAMETERS: usize = 300;
const SAMPLES: usize = 100;
/// Records shown before and after a faulty one.
const AROUND: usize = 3;

impl PostMortem {
    /// The post-mortem as a page of HTML, for a person who was not there: one file that works without a network, in dark, in
    /// light and on paper. Of very many incidents, events or parameters it has some, and says so; [`PostMortem::write`]
    /// puts all of them into the JSON.
    pub fn to_html(&self) -> String {
        let mut html = Html::default();
        self.opening(&mut html);
        html.section("incidents", "Incidents", |html| self.incidents(html));
        html.section("curves", "Loss and gradient norm", |html| self.curves(html));
        html.section("records", "Records around the incidents", |html| self.table_of_records(html));
        html.section("events", "Events", |html| self.table_of_events(html));
        html.section("parameters", "Parameters", |html| self.table_of_parameters(html));
        html.section("snapshots", "Snapshots", |html| self.table_of_snapshots(html));
        html.section("policy", "Policy", |html| self.policy_as_text(html));
        html.page(&format!("Post-mortem: {}", self.headline()), include_str!("page.css"))
    }

    fn opening(&self, html: &mut Html) {
        html.element("p", "kicker", &format!("Post-mortem of a training run, Everstep {}", self.version));
        html.element("h1", "", &self.headline());
        if self.chaos {
            html.element(
                "p",
                "banner",
                "Faults were planned in this run. They are no news of the machine, the data or the program. The events tell \
                 which ones were made.",
            );
        }
        let left_out = match self.quarantined.is_empty() {
            true => "none".into(),
            false => list(&self.quarantined, SAMPLES),
        };
        html.table(Table::of_fields([
            ("Device", self.device.clone()),
            ("Steps committed", self.committed.to_string()),
            ("Steps tried", self.attempts.to_string()),
            ("What was done", self.tally.to_string()),
            ("Steps lost to incidents", self.lost_steps().to_string()),
            ("Samples left out", left_out),
        ]));
        let note = "A step is committed, or it changes nothing. An attempt is one try of a step. A lost step is an attempt that \
                    does not count in the end: it was refused, held behind a refused one, part of an examination, or undone \
                    by a rewind.";
        html.element("p", "note", note);
        html.links(&[
            ("incidents", "Incidents"),
            ("curves", "Curves"),
            ("records", "Records"),
            ("events", "Events"),
            ("parameters", "Parameters"),
            ("snapshots", "Snapshots"),
            ("policy", "Policy"),
        ]);
    }

    /// What happened, whether the run has recovered, and what that has cost, in one sentence.
    fn headline(&self) -> String {
        let lost = count(self.lost_steps(), "step was lost", "steps were lost");
        let failed = self.diagnoses.iter().filter(|diagnosis| !diagnosis.recovered).count();
        let Some(last) = self.diagnoses.last() else { return self.headline_without_incident().into() };
        let all = self.diagnoses.len() as u64;
        let (step, cause) = (last.place.step, name_of(last.cause));
        let mut text = match (all, failed) {
            (1, 0) => format!("The run met one fault ({cause}), at step {step}, and recovered; {lost}"),
            (1, _) => format!("The run met one fault ({cause}), at step {step}, and gave up; {lost}"),
            (_, 0) => format!("The run met {all} faults and recovered from all of them; {lost}"),
            (_, 1) if !last.recovered => {
                format!("The run met {all} faults and gave up on the last ({cause}), at step {step}; {lost}")
            }
            _ => format!("The run met {all} faults and gave up on {failed} of them; {lost}"),
        };
        if self.is_in_incident() {
            text += ", and another fault is not over yet";
        }
        text + "."
    }

    fn headline_without_incident(&self) -> &'static str {
        let faults = self.curve.iter().any(|point| point.refused);
        match self.policy.answer {
            _ if self.attempts == 0 => "The run has not tried a step yet.",
            Answer::Ignore if faults => {
                "The run met faulty steps, and its policy is to go on without an answer to them."
            }
            _ if faults || self.is_in_incident() => "The run has met a fault that is not over yet.",
            _ => "The run met no fault.",
        }
    }

    /// Whether a fault was told, and not yet how it ended.
    fn is_in_incident(&self) -> bool {
        let is_end = |told: &Told| matches!(told.event, Event::Recovered { .. } | Event::GaveUp { .. });
        let is_fault = |told: &Told| matches!(told.event, Event::Detected { .. } | Event::DetectedSlow { .. });
        let answered = self.policy.answer != Answer::Ignore;
        answered && self.events.iter().rev().take_while(|told| !is_end(told)).any(is_fault)
    }

    fn lost_steps(&self) -> u64 {
        self.diagnoses.iter().map(|diagnosis| diagnosis.lost_steps).sum()
    }

    fn incidents(&self, html: &mut Html) {
        if self.diagnoses.is_empty() {
            html.paragraph("There is no incident that is over.");
        }
        for (index, diagnosis) in ends(&self.diagnoses, INCIDENTS) {
            match diagnosis {
                Some(diagnosis) => self.incident(index + 1, diagnosis, html),
                None => html.paragraph(&left_out(self.diagnoses.len() - INCIDENTS, "incident", "incidents")),
            }
        }
    }

    fn curves(&self, html: &mut Html) {
        let label = |(index, diagnosis): (usize, &crate::Diagnosis)| {
            (diagnosis.attempt, format!("{} {}", index + 1, name_of(diagnosis.cause)))
        };
        let incidents: Vec<_> = self.diagnoses.iter().enumerate().map(label).collect();
        let loss: fn(&Point) -> Option<f32> = |point| point.loss;
        for (name, value, log) in [("loss", loss, false), ("gradient norm", |point: &Point| point.norm, true)] {
            let curve = Curve { name, points: &self.curve, value, log, incidents: &incidents };
            let caption = format!(
                "The {name} of each step that was tried. Dots are faulty steps; those at the upper edge are not finite or \
                 beyond the scale. Dashed lines are where incidents began, each with its number and cause."
            );
            match curve.to_svg() {
                Some(svg) => html.figure(&svg, &caption),
                None => html.paragraph(&format!("There is no finite {name} to show.")),
            }
        }
    }

    /// The records around the faulty ones, or without any the last ones.
    fn table_of_records(&self, html: &mut Html) {
        let is_of_incident = |attempt: u32| self.diagnoses.iter().any(|it| it.attempt == u64::from(attempt));
        let faulty: Vec<_> = self
            .records
            .iter()
            .map(|recorded| recorded.record.faults != 0 || is_of_incident(recorded.record.attempt))
            .collect();
        let is_near = |&index: &usize| {
            let near = index.saturating_sub(AROUND)..=(index + AROUND).min(faulty.len() - 1);
            !faulty.contains(&true) || faulty[near].contains(&true)
        };
        let shown: Vec<_> = (0..faulty.len()).filter(is_near).collect();
        let shown = &shown[shown.len().saturating_sub(RECORDS)..];
        if shown.is_empty() {
            return html.paragraph("There are no records near an incident.");
        }
        let mut table = Table::new(&["Attempt", "Step", "Loss", "Gradient norm", "Verdict", "Reasons"]);
        let mut before = shown[0];
        for &index in shown {
            if index > before + 1 {
                table.row("gap", &["…", "…", "", "", "", ""].map(String::from));
            }
            before = index;
            let (record, place) = (&self.records[index].record, self.records[index].place);
            let verdict = match record.verdict {
                Verdict::Commit => "commit",
                Verdict::Reject => "reject this step",
                Verdict::Hold => "hold from here on",
            };
            let numbers =
                [record.attempt.to_string(), place.step.to_string(), number(record.loss), number(record.norm)];
            let class = if record.faults != 0 { "faulty" } else { "" };
            table.row(class, &[&numbers[..], &[verdict.into(), record.reasons()]].concat());
        }
        html.table(table);
        let note = format!(
            "The run keeps its last {}. Steps that were held behind a refused one, and trials of an examination, are not among \
             them.",
            count(self.records.len() as u64, "record", "records")
        );
        html.element("p", "note", &note);
    }

    fn table_of_events(&self, html: &mut Html) {
        if self.events.is_empty() {
            return html.paragraph("Nothing was told.");
        }
        html.element("p", "note", "Each with the attempts that the run had made when it was told.");
        html.items(ends(&self.events, EVENTS).map(|(_, told)| match told {
            Some(told) => (told.attempt.to_string(), sentence(told)),
            None => ("…".into(), left_out(self.events.len() - EVENTS, "event", "events")),
        }));
    }

    fn table_of_parameters(&self, html: &mut Html) {
        if self.parameters.is_empty() {
            return html.paragraph("There are no parameters.");
        }
        let mut table = Table::new(&["Name", "Shape", "RMS", "Largest", "Not finite", "Zeros"]);
        // Those that are not finite are what one looks for.
        let mut order: Vec<_> = self.parameters.iter().collect();
        order.sort_by_key(|parameter| parameter.non_finite == 0);
        for parameter in order.iter().take(PARAMETERS) {
            let crate::ParameterSummary { name, shape, rms, largest, non_finite, zeros } = parameter;
            let numbers = [number(*rms), number(*largest), non_finite.to_string(), zeros.to_string()];
            let class = if *non_finite > 0 { "faulty" } else { "" };
            table.row(class, &[&[name.clone(), format!("{shape:?}")], &numbers[..]].concat());
        }
        html.paragraph("As they are now: the root mean square and the largest magnitude of the finite elements.");
        html.table(table);
        if order.len() > PARAMETERS {
            html.paragraph(&left_out(order.len() - PARAMETERS, "parameter", "parameters"));
        }
    }

    fn table_of_snapshots(&self, html: &mut Html) {
        if self.snapshots.is_empty() {
            return html.paragraph("No snapshot is kept.");
        }
        let mut table = Table::new(&["Taken after attempt", "Age in attempts", "Trusted"]);
        for (attempt, is_trusted) in &self.snapshots {
            let trusted = if *is_trusted { "yes" } else { "not yet: too few healthy steps since" };
            table.row("", &[attempt.to_string(), self.attempts.saturating_sub(*attempt).to_string(), trusted.into()]);
        }
        html.table(table);
        html.paragraph(&format!("They take {} on the device.", bytes(self.snapshot_bytes)));
    }

    fn policy_as_text(&self, html: &mut Html) {
        html.paragraph("How the run was guarded, as JSON. A limit that is null is none.");
        // It has no field that JSON lacks; if ever it has, its fields are still told.
        let text = serde_json::to_string_pretty(&self.policy).unwrap_or_else(|_| format!("{:#?}", self.policy));
        html.element("pre", "", &text);
    }
}

/// The first items and the last ones, with their numbers from 0, of more than `most` as many; `None` for those between.
fn ends<T>(items: &[T], most: usize) -> impl Iterator<Item = (usize, Option<&T>)> {
    let first = if items.len() > most { most / 2 } else { items.len() };
    let last = if items.len() > most { items.len() - (most - first) } else { items.len() };
    let gap = (first < last).then_some((first, None));
    let item = |(index, item)| (index, Some(item));
    items.iter().enumerate().take(first).map(item).chain(gap).chain(items.iter().enumerate().skip(last).map(item))
}

fn left_out(number: usize, singular: &str, plural: &str) -> String {
    let verb = if number == 1 { "is" } else { "are" };
    format!("{} {verb} left out; the JSON has all.", count(number as u64, singular, plural))
}

/// What a fault was, in a word or two.
pub(crate) fn name_of(cause: Cause) -> String {
    match cause {
        Cause::Passing => "passing fault".into(),
        Cause::Data => "data".into(),
        Cause::DataAndState => "data on this state".into(),
        Cause::State => "state".into(),
        Cause::Computation => "computation".into(),
        Cause::LearningRate => "learning rate".into(),
        Cause::Slow(slow) => format!("{slow:?}").to_lowercase(),
    }
}

/// An event as a sentence; what is not finite in words.
fn sentence(told: &Told) -> String {
    match &told.event {
        Event::Detected { record, place } => {
            let (reasons, loss, norm) = (record.reasons(), number(record.loss), number(record.norm));
            format!("{place}: seen on the device: {reasons} (loss {loss}, gradient norm {norm})")
        }
        _ => told.text.clone(),
    }
}
