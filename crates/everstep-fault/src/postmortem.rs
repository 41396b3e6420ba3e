//! Everything that is known of a run that met faults, as JSON and as a page to read.

use std::path::Path;

use everstep_tensor::{Parameter, Record, Verdict};
use serde::{Serialize, Serializer};

use crate::{Diagnosis, Event, Guard, Place, Point, Policy, Tally};

/// A record as JSON has it: what is not finite as text, and the bits by which another run is compared.
#[derive(Serialize)]
struct RecordView {
    attempt: u32,
    committed: u32,
    verdict: &'static str,
    faults: u32,
    reasons: String,
    loss: Option<f32>,
    norm: Option<f32>,
    loss_bits: String,
    norm_bits: String,
    largest: f32,
    non_finite: u32,
    tentative: bool,
    loss_score: Option<f32>,
    norm_score: Option<f32>,
}

pub(crate) fn record<S: Serializer>(record: &Record, serializer: S) -> Result<S::Ok, S::Error> {
    let finite = |value: f32| value.is_finite().then_some(value);
    let bits = |value: f32| format!("{:08x}", value.to_bits());
    let verdict = match record.verdict {
        Verdict::Commit => "commit",
        Verdict::Reject => "reject",
        Verdict::Hold => "hold",
    };
    RecordView {
        attempt: record.attempt,
        committed: record.committed,
        verdict,
        faults: record.faults,
        reasons: record.reasons(),
        loss: finite(record.loss),
        norm: finite(record.norm),
        loss_bits: bits(record.loss),
        norm_bits: bits(record.norm),
        largest: record.largest,
        non_finite: record.non_finite,
        tentative: record.tentative,
        loss_score: finite(record.loss_score),
        norm_score: finite(record.norm_score),
    }
    .serialize(serializer)
}

/// Everything that is known of a run: what happened, what was done, and how to see it again.
#[derive(Clone, Debug, Serialize)]
pub struct PostMortem {
    /// The version of this crate.
    pub version: &'static str,
    /// The device.
    pub device: String,
    /// Whether faults were planned: then they are no news of the machine.
    pub chaos: bool,
    /// The command that gives the same run, bit for bit, on the same device: this program's own, unless it was set.
    pub replay: String,
    /// How the run was guarded.
    pub policy: Policy,
    /// Steps that were tried.
    pub attempts: u64,
    /// Steps that count.
    pub committed: u64,
    /// What was done altogether.
    pub tally: Tally,
    /// Each incident, oldest first, one that is not over as well.
    pub diagnoses: Vec<Diagnosis>,
    /// What happened, oldest first; the last thousand.
    pub events: Vec<Told>,
    /// The samples that are left out.
    pub quarantined: Vec<u64>,
    /// The loss and the gradient norm over the whole run.
    pub curve: Vec<Point>,
    /// The last records.
    pub records: Vec<Recorded>,
    /// Each parameter as it is now.
    pub parameters: Vec<ParameterSummary>,
    /// The attempts after which snapshots are kept, each with whether it is trusted.
    pub snapshots: Vec<(u64, bool)>,
    /// Their bytes on the device.
    pub snapshot_bytes: usize,
}

/// An event, and when it was told.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// Attempts so far.
    pub attempt: u64,
    /// As a sentence.
    pub text: String,
    /// As data.
    pub event: Event,
}

/// A record, and of which step.
#[derive(Clone, Debug, Serialize)]
pub struct Recorded {
    /// The step.
    pub place: Place,
    /// Its record.
    #[serde(serialize_with = "record")]
    pub record: Record,
}

/// What the values of a parameter are like.
#[derive(Clone, Debug, Serialize)]
pub struct ParameterSummary {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The root of the mean square of its finite elements.
    pub rms: f64,
    /// The largest magnitude among them.
    pub largest: f32,
    /// Elements that are not finite.
    pub non_finite: usize,
    /// Elements that are zero.
    pub zeros: usize,
}

impl ParameterSummary {
    fn new(name: &str, shape: &[usize], elements: &[f32]) -> Self {
        let finite = || elements.iter().filter(|element| element.is_finite());
        let squares: f64 = finite().map(|&element| f64::from(element) * f64::from(element)).sum();
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            rms: (squares / finite().count().max(1) as f64).sqrt(),
            largest: finite().fold(0.0, |largest, element| element.abs().max(largest)),
            non_finite: elements.len() - finite().count(),
            zeros: elements.iter().filter(|element| **element == 0.0).count(),
        }
    }
}

impl Guard {
    /// What is known of the run by now. Waits for the parameters.
    ///
    /// # Errors
    /// Those of reading them.
    pub fn post_mortem(&self) -> crate::Result<PostMortem> {
        let summary = |(name, parameter): &(String, Parameter)| {
            let elements = parameter.tensor().detach().peek()?;
            Ok::<_, crate::Error>(ParameterSummary::new(name, parameter.shape(), &elements))
        };
        let attempts = self.optimizer.gate().attempts();
        // After an error, what led to it is in no report yet.
        let pending =
            self.events.iter().map(|event| Told { attempt: attempts, text: event.to_string(), event: event.clone() });
        Ok(PostMortem {
            version: env!("CARGO_PKG_VERSION"),
            device: self.optimizer.device().to_string(),
            chaos: self.chaos.is_some(),
            replay: std::env::args().collect::<Vec<_>>().join(" "),
            policy: self.policy,
            attempts,
            committed: self.optimizer.gate().committed(),
            tally: self.memory.run,
            diagnoses: self.diagnoses.iter().cloned().chain(self.open_incident()).collect(),
            events: self.log.events.iter().cloned().chain(pending).collect(),
            quarantined: self.memory.quarantined.iter().copied().collect(),
            curve: self.log.points.clone(),
            records: self.log.records.iter().map(|&(record, place)| Recorded { place, record }).collect(),
            parameters: self.names.parameters.iter().map(summary).collect::<crate::Result<_>>()?,
            snapshots: self.ring.kept(),
            snapshot_bytes: self.ring.bytes(),
        })
    }
}

impl PostMortem {
    /// Writes `post_mortem.json` and `post_mortem.html` into `folder`, which is made where it is not there.
    ///
    /// # Errors
    /// [`crate::Error::File`].
    pub fn write(&self, folder: impl AsRef<Path>) -> crate::Result<()> {
        let folder = folder.as_ref();
        let failed = |path: &Path, problem: String| crate::Error::File { path: path.into(), problem };
        std::fs::create_dir_all(folder).map_err(|error| failed(folder, error.to_string()))?;
        let json = serde_json::to_string_pretty(self).map_err(|error| failed(folder, error.to_string()))?;
        for (name, text) in [("post_mortem.json", json), ("post_mortem.html", self.to_html())] {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|error| failed(&path, error.to_string()))?;
        }
        Ok(())
    }
}
