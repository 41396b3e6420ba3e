//! A guard whose run outlives its process: it saves checkpoints, and goes on with the newest.

use std::path::PathBuf;
use std::sync::Arc;

use everstep_device::{Device, DeviceKind};
use everstep_nn::Module;
use everstep_optim::Rule;
use everstep_tensor::{Snapshot, buffer_sizes};
use serde_json::json;

use crate::checkpoint::{Loaded, LocalStorage, Parent, Storage, Store};
use crate::durable::Durable;
use crate::layout::{Layout, difference, optimizer_identity};
use crate::state::Whole;
use crate::supervise::heartbeat;
use crate::{Batches, Checkpointing, Error, Event, Guard, Phase, Policy, Result, Resumed, Shutdown};

/// Snapshots that there are at least where checkpoints are made of them, and how many steps apart.
const LEAST_SNAPSHOTS: usize = 2;
const USUAL_INTERVAL: u64 = 50;

impl Guard {
    /// A guard whose run outlives its process: it saves checkpoints in `folder` while it runs, and where there are some
    /// already, it goes on with the newest: parameters, optimizer, batches and everything else are as they were, in the middle
    /// of an epoch too, and on the same device the run ends with the bits of one that nothing interrupted.
    ///
    /// ```
    /// # use everstep_data::{Loader, LoaderConfig};
    /// # use everstep_fault::{Guard, Policy};
    /// # use everstep_nn::Linear;
    /// # use everstep_optim::Sgd;
    /// # use everstep_tensor::{Device, Generator};
    /// # let device = Device::cpu();
    /// # let runs = tempfile::tempdir()?;
    /// # let folder = runs.path().join("digits");
    /// # for expected in [0, 2] {
    /// let model = Linear::new(64, 10, &mut Generator::new(0), &device)?;
    /// let mut data = Loader::new(everstep_data::digits()?, LoaderConfig::new(32).shuffle(0), &device)?;
    /// let mut guard = Guard::resume_or_new(&folder, &model, Sgd::new(0.1), Policy::default(), &mut data)?;
    /// # assert_eq!(data.cursor().epoch, expected);
    /// loop {
    ///     while data.cursor().epoch < 2 {
    ///         while let Some(_report) = guard.step(&mut data, |batch| {
    ///             Ok::<_, Box<dyn std::error::Error>>(model.forward(&batch.x)?.cross_entropy(&batch.y)?)
    ///         })? {}
    ///     }
    ///     // Saves the end, too.
    ///     if guard.finish(&mut data)? {
    ///         break;
    ///     }
    /// }
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Guard::new`] and [`Guard::with_checkpoints`].
    pub fn resume_or_new<B: Batches>(
        folder: impl Into<PathBuf>,
        model: &impl Module,
        rule: impl Rule,
        policy: Policy,
        batches: &mut B,
    ) -> Result<Self> {
        let guard = Self::new(model, rule, policy)?;
        guard.with_checkpoints_in(folder, Checkpointing::default(), batches)
    }

    /// As [`Guard::with_checkpoints`], in a folder, which is made where it is missing.
    ///
    /// # Errors
    /// As [`Guard::with_checkpoints`].
    pub fn with_checkpoints_in<B: Batches>(
        self,
        folder: impl Into<PathBuf>,
        config: Checkpointing,
        batches: &mut B,
    ) -> Result<Self> {
        let folder = folder.into();
        let storage = LocalStorage::new(&folder);
        let storage = storage.map_err(|error| Error::File { path: folder, problem: error.to_string() })?;
        self.with_checkpoints(storage, config, batches)
    }

    /// Saves checkpoints in `storage` from now on, of each newer trusted snapshot as far as `config` allows, and goes on with
    /// the newest that is there and whole. A damaged one is told, set aside and never tried again, and the one before it is
    /// taken. A policy without snapshots gets two.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], also where another process works there; [`Error::Changed`] where model, optimizer or data are
    /// others than those of the checkpoint; those of restoring it.
    pub fn with_checkpoints<B: Batches>(
        mut self,
        storage: impl Storage + 'static,
        config: Checkpointing,
        batches: &mut B,
    ) -> Result<Self> {
        config.check()?;
        let store = Store::open(Arc::new(storage))?;
        let newest = store.load_newest()?;
        for (generation, error) in newest.damaged {
            tracing::warn!(generation, %error, "a checkpoint is damaged");
            self.events.push(Event::GenerationDamaged { generation, problem: error.to_string() });
        }
        let identity = json!({
            "model": self.names.identity(),
            "optimizer": optimizer_identity(&self.names, &self.optimizer),
            "data": batches.identity()?,
        });
        self.keep_snapshots();
        let mut durable = Durable::new(store, config, identity);
        if let Some(loaded) = newest.loaded {
            self.go_on_with(loaded, &mut durable, batches)?;
        }
        self.durable = Some(durable);
        Ok(self)
    }

    /// Snapshots are what checkpoints are made of.
    fn keep_snapshots(&mut self) {
        let Policy { interval, snapshots, .. } = &mut self.policy;
        *interval = if *interval == 0 { USUAL_INTERVAL } else { *interval };
        *snapshots = (*snapshots).max(LEAST_SNAPSHOTS);
        self.ring.limit(*snapshots, None, LEAST_SNAPSHOTS);
    }

    fn go_on_with<B: Batches>(&mut self, loaded: Loaded, durable: &mut Durable, batches: &mut B) -> Result<()> {
        let manifest = &loaded.manifest;
        if let Some(difference) = difference("", &manifest.identity, durable.identity()) {
            return Err(Error::Changed { difference });
        }
        let device = describe(self.optimizer.device());
        let resumed = Resumed {
            generation: manifest.generation,
            place: manifest.place,
            other_device: (manifest.device != device).then(|| manifest.device.clone()),
        };
        durable.parent = Some(Parent { run: manifest.run.clone(), generation: manifest.generation });
        durable.found(manifest.attempt, manifest.generation);
        self.trusts_start = manifest.health.trusted;
        self.take_over(loaded, batches)?;
        // A program that goes on counts from the epoch that it is in.
        self.memory.ended = batches.cursor().epoch;
        let Resumed { generation, place, other_device } = resumed.clone();
        tracing::info!(generation, %place, "resumed");
        self.events.push(Event::Resumed { generation, to: place, device_changed: other_device });
        self.resumed = Some(resumed);
        Ok(())
    }

    /// Everything is as a checkpoint has it.
    pub(crate) fn take_over<B: Batches>(&mut self, loaded: Loaded, batches: &mut B) -> Result<()> {
        let copy = self.layout(batches)?.snapshot(loaded)?;
        let snapshot = copy.upload(self.optimizer.device())?;
        let Self { optimizer, progress, seen, memory, .. } = self;
        snapshot.restore(&mut Whole { optimizer, progress, seen, batches, memory: Some(memory) })?;
        self.last_snapshot = self.optimizer.gate().attempts();
        Ok(())
    }

    pub(crate) fn layout<B: Batches>(&mut self, batches: &mut B) -> Result<Layout> {
        let Self { optimizer, progress, seen, memory, .. } = self;
        let sizes = buffer_sizes(&mut Whole { optimizer, progress, seen, batches, memory: Some(memory) })?;
        Ok(Layout::of(&self.names, &self.optimizer, &sizes))
    }

    /// What the guard went on with, where there was a checkpoint.
    pub fn resumed(&self) -> Option<&Resumed> {
        self.resumed.as_ref()
    }

    /// A metric of the model as it is, the smaller the better, such as a validation loss: a checkpoint of this very state, as
    /// [`Guard::save_checkpoint`] saves it next, carries it, and [`crate::checkpoint::Retention::best`] keeps the best ones.
    pub fn report_metric(&mut self, metric: f64) {
        let attempt = self.optimizer.gate().attempts();
        if let Some(durable) = &mut self.durable {
            durable.metric = metric.is_finite().then_some((attempt, metric));
        }
    }

    /// Ends the run when `shutdown` is requested: the step under way ends, a checkpoint is saved, and [`Guard::step`] returns
    /// [`Error::Stopped`].
    #[must_use]
    pub fn stop_on(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// Waits for the records of all steps so far, as [`Guard::take_records`] then tells them, and answers to a refused step
    /// among them. Where there are checkpoints, the state is saved: an event tells whether that worked. For the end of a run,
    /// which it is where it says `true`. With `false` batches were taken back, those of a refused step or of all steps that the
    /// loss of a device has undone: then the loop has to go on, and finish again.
    ///
    /// ```text
    /// loop {
    ///     while data.cursor().epoch < epochs {
    ///         while let Some(report) = guard.step(&mut data, |batch| model.loss(batch))? {}
    ///     }
    ///     if guard.finish(&mut data)? {
    ///         break;
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`Guard::step`].
    pub fn finish<B: Batches>(&mut self, batches: &mut B) -> Result<bool> {
        let end = batches.cursor();
        loop {
            self.enter(Phase::Computing);
            let outcome = self.finish_once(batches);
            self.enter(Phase::Outside);
            match outcome {
                Err(error) if !self.outlive(batches)? => return Err(error),
                Err(_) => {}
                Ok(()) => break,
            }
        }
        let is_done = batches.cursor() == end && self.case.is_none();
        if !is_done {
            // The ends of these epochs come once more: the program goes by the cursor.
            self.memory.ended = self.memory.ended.min(batches.cursor().epoch);
        }
        Ok(is_done)
    }

    fn finish_once<B: Batches>(&mut self, batches: &mut B) -> Result<()> {
        self.collect()?;
        self.take_in(batches)?;
        match self.durable.is_some().then(|| self.save_checkpoint(batches)) {
            // The event tells it: what could not be saved is no reason to lose what was computed.
            None | Some(Ok(_) | Err(Error::Checkpoint(_) | Error::Writer { .. })) => Ok(()),
            Some(Err(error)) => Err(error),
        }
    }

    /// Saves a checkpoint of the state as it is now, once the records of all steps so far are in, and waits until it is on the
    /// disk: its generation.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it could not be saved, or there are none; the earlier ones are as they were. Those of
    /// [`Guard::finish`].
    pub fn save_checkpoint<B: Batches>(&mut self, batches: &mut B) -> Result<u64> {
        if self.durable.is_none() {
            return Err(Error::NoCheckpoints);
        }
        self.collect()?;
        self.take_in(batches)?;
        let attempt = self.optimizer.gate().attempts();
        // From here on it is the disk that is waited for: no device is to be given up for that.
        self.enter(Phase::Outside);
        heartbeat::rest();
        let layout = self.layout(batches)?;
        let copy = self.copy(batches)?;
        let trusted = self.ring.newest_trusted().is_some_and(|(newest, _)| newest == attempt);
        let device = describe(self.optimizer.device());
        let Some(durable) = &mut self.durable else { return Err(Error::NoCheckpoints) };
        let (events, outcome) = durable.save_now((attempt, trusted), copy, layout, &device);
        self.events.extend(events);
        outcome
    }

    /// The state as it is, in the host's memory.
    fn copy<B: Batches>(&mut self, batches: &mut B) -> Result<everstep_tensor::HostSnapshot> {
        let mut snapshot = Snapshot::default();
        self.note_place(batches);
        let Self { optimizer, progress, seen, memory, incident, .. } = self;
        // The answers of an incident that is not over are not final: who goes on meets it anew.
        let skipped = memory.skipped.clone();
        if let Some(incident) = incident {
            memory.skipped.retain(|cursor| !incident.skipped.contains(cursor));
        }
        let outcome = snapshot.save(&mut Whole { optimizer, progress, seen, batches, memory: Some(memory) });
        memory.skipped = skipped;
        outcome?;
        Ok(snapshot.download()?.wait()?.unwrap_or_default())
    }

    /// Takes the copies of the state one further: nothing waits. What goes wrong with one is told, and is no reason to end the
    /// run, unless the device is lost.
    pub(crate) fn turn_copies<B: Batches>(&mut self, batches: &mut B) -> Result<()> {
        let mirrored = if self.has_mirror() { self.mirror.turn(&self.ring).map_err(Error::from) } else { Ok(()) };
        for outcome in [mirrored, self.turn_checkpoints(batches)] {
            match outcome {
                Err(error) if self.optimizer.device().lost().is_some() => return Err(error),
                Err(error) => self.events.push(Event::SaveFailed { problem: error.to_string() }),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn turn_checkpoints<B: Batches>(&mut self, batches: &mut B) -> Result<()> {
        let Some(durable) = &mut self.durable else { return Ok(()) };
        let device = describe(self.optimizer.device());
        self.events.extend(durable.turn(&device)?);
        let newest = self.ring.newest_trusted().map(|(attempt, _)| attempt);
        if !newest.is_some_and(|attempt| durable.wants(attempt)) {
            return Ok(());
        }
        let layout = self.layout(batches)?;
        if let (Some(durable), Some((attempt, snapshot))) = (&mut self.durable, self.ring.newest_trusted()) {
            durable.begin(attempt, snapshot, layout)?;
            self.events.extend(durable.turn(&device)?);
        }
        Ok(())
    }

    /// Ends the run where that is asked for.
    pub(crate) fn stop_if_asked<B: Batches>(&mut self, batches: &mut B) -> Result<()> {
        if !self.shutdown.requested() {
            return Ok(());
        }
        let outcome = match self.save_checkpoint(batches) {
            Err(Error::NoCheckpoints) => Ok(None),
            // The step runs again on another device, and then the run stops.
            Err(error) if self.optimizer.device().lost().is_some() => return Err(error),
            outcome => outcome.map(Some),
        };
        crate::shutdown::stopped();
        Err(match outcome {
            Ok(generation) => Error::Stopped { generation, problem: None },
            Err(error) => {
                let generation = self.durable.as_ref().and_then(|durable| durable.saved).map(|saved| saved.1);
                Error::Stopped { generation, problem: Some(error.to_string()) }
            }
        })
    }
}

/// A device, as far as bits depend on it: not by its number of threads.
pub(crate) fn describe(device: &Device) -> String {
    let info = device.info();
    match info.kind {
        DeviceKind::Cpu => {
            let level = info.driver.rsplit(", ").next().unwrap_or_default();
            format!("cpu: {} ({level})", info.name)
        }
        _ => info.to_string(),
    }
}
