//! A run outlives its device: another one is opened, the host's copy of the state is loaded, and the steps since then run again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use everstep_device::DeviceKind;
use everstep_tensor::{HostSnapshot, Snapshot, State, Visit};

use crate::state::Whole;
use crate::supervise::heartbeat;
use crate::watchdog::Watchdog;
use crate::{Batches, Error, Event, Guard, Phase, Place, Result, Stall, WatchdogConfig};

/// A state that is a part of another one.
struct Named<'a>(&'static str, &'a mut dyn State);

impl State for Named<'_> {
    fn visit(&mut self, visit: &mut Visit<'_>) -> everstep_tensor::Result<()> {
        visit.within(self.0, self.1)
    }
}

/// The first wait between two attempts to open a device again, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

impl Guard {
    /// The newest trusted snapshot in the host's memory, and the attempt after which it was taken: `None` before the first has
    /// arrived, and on the CPU engine, whose snapshots lie there.
    pub fn mirror(&self) -> Option<(u64, &HostSnapshot)> {
        self.mirror.newest().map(|(attempt, copy)| (attempt, &**copy))
    }

    /// Goes back to what a snapshot holds, such as [`Guard::mirror`] of a guard whose device was lost: optimizer, batches and
    /// the guard's own counts. Snapshots of what comes after it are dropped.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::State`] where it does not fit, and nothing is changed.
    pub fn restore<B: Batches>(&mut self, snapshot: &Snapshot, batches: &mut B) -> Result<()> {
        self.collect()?;
        self.inbox.clear();
        let Self { optimizer, progress, seen, .. } = self;
        snapshot.restore(&mut Whole { optimizer, progress, seen, batches, memory: None })?;
        self.under_way.clear();
        (self.incident, self.case, self.replaying) = (None, None, None);
        self.ring.forget_from(0);
        self.save(batches)
    }

    /// A watchdog of the steps, which gives up a GPU that does not answer; `None` where there is no thread for it.
    pub(crate) fn watch_over(&self, config: WatchdogConfig) -> Option<Watchdog> {
        let device = self.optimizer.device().clone();
        // What stalls when it runs again is not the device's fault alone: once for each step.
        let last = AtomicU64::new(0);
        let on_stall = move |stall: &Stall| {
            let again = last.swap(stall.step, Ordering::Relaxed) == stall.step;
            if stall.phase == Phase::Computing && !again && device.info().kind == DeviceKind::Gpu {
                device.declare_lost(&stall.to_string());
            }
        };
        let started = Watchdog::start(config, on_stall);
        started.inspect_err(|error| tracing::warn!(%error, "no watchdog")).ok()
    }

    /// Tells the watchdog what the run is at, and takes over what it has noticed.
    pub(crate) fn enter(&mut self, phase: Phase) {
        let Some(watchdog) = &self.watchdog else { return };
        watchdog.enter(phase, self.progress.pulled + 1);
        if phase == Phase::Computing {
            self.take_stalls();
        }
    }

    fn take_stalls(&mut self) {
        let stalls = self.watchdog.iter().flat_map(Watchdog::take_stalls);
        self.events.extend(stalls.map(|stall| Event::Stalled { stall }));
    }

    /// After an error: whether it was the loss of the device, and the run can go on.
    pub(crate) fn outlive<B: Batches>(&mut self, batches: &mut B) -> Result<bool> {
        while let Some(reason) = self.optimizer.device().lost() {
            if self.losses >= self.policy.device_losses || !self.has_copy() {
                return Ok(false);
            }
            self.enter(Phase::Outside);
            self.take_stalls();
            heartbeat::rest();
            self.losses += 1;
            let place = Place { step: self.progress.pulled + 1, cursor: batches.cursor() };
            tracing::warn!(%reason, %place, "the device was lost");
            self.events.push(Event::DeviceLost { reason: reason.clone(), place });
            if !self.open_again(&reason)? {
                return Ok(false);
            }
            match self.load_copy(batches) {
                Ok(()) => return Ok(true),
                // Lost once more.
                Err(_) if self.optimizer.device().lost().is_some() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Whether the state is anywhere but on the device.
    fn has_copy(&self) -> bool {
        self.mirror.newest().is_some() || self.durable.as_ref().is_some_and(|durable| durable.saved.is_some())
    }

    /// Opens the device again; where there is none in time, the CPU engine, if the policy allows it.
    fn open_again(&mut self, reason: &str) -> Result<bool> {
        let device = self.optimizer.device().clone();
        let (start, mut wait) = (Instant::now(), FIRST_WAIT);
        while let Err(error) = device.rebuild() {
            tracing::warn!(%error, "the device does not come back");
            let left = Duration::from_millis(self.policy.device_wait_ms).saturating_sub(start.elapsed());
            if !left.is_zero() {
                std::thread::sleep(wait.min(left));
                wait = (wait * 2).min(LONGEST_WAIT);
                continue;
            }
            if !self.policy.cpu_fallback {
                return Ok(false);
            }
            device.fall_back_to_cpu().map_err(everstep_tensor::Error::from)?;
            self.events.push(Event::FellBackToCpu { reason: reason.to_owned() });
            break;
        }
        Ok(true)
    }

    /// Everything is as the host's copy has it, or the newest checkpoint where there is none.
    fn load_copy<B: Batches>(&mut self, batches: &mut B) -> Result<()> {
        self.forget_the_device();
        // Set between epochs, of which no copy has been made: it belongs behind the end of an epoch that runs again.
        if self.between_epochs.take().is_some() && self.touched {
            let mut settings = Snapshot::default();
            settings.amend("settings", &mut self.optimizer.settings())?;
            self.set_later = Some((self.memory.ended, settings));
        }
        let is_trusted = match self.mirror.newest().map(|(_, copy)| copy.clone()) {
            Some(copy) => {
                self.restore_copy(&copy, batches)?;
                self.mirror.is_trusted()
            }
            None => self.load_checkpoint(batches)?,
        };
        if batches.cursor().epoch >= self.memory.ended {
            self.set_again(self.memory.ended, batches)?;
        }
        match is_trusted {
            true => self.save_trusted(batches)?,
            false => self.save(batches)?,
        }
        // Everything is compiled anew: what a step took so far says nothing of the next ones.
        self.watchdog = self.policy.watchdog.and_then(|config| self.watch_over(config));
        let attempt = self.optimizer.gate().attempts();
        let to = Place { step: self.progress.pulled + 1, cursor: batches.cursor() };
        let device = self.optimizer.device().to_string();
        tracing::warn!(%device, %to, "the device is back");
        self.events.push(Event::DeviceRebuilt { device, attempt, to });
        Ok(())
    }

    /// Everything is as the newest whole checkpoint has it: whether it was trusted.
    fn load_checkpoint<B: Batches>(&mut self, batches: &mut B) -> Result<bool> {
        let Some(store) = self.durable.as_ref().map(|durable| durable.store.clone()) else { return Ok(false) };
        let Some(loaded) = store.load_newest()?.loaded else { return Err(Error::NoCheckpoints) };
        let (is_trusted, ended) = (loaded.manifest.health.trusted, self.memory.ended);
        self.take_over(loaded, batches)?;
        // The program of this process has been told of them.
        self.memory.ended = self.memory.ended.max(ended);
        Ok(is_trusted)
    }

    fn restore_copy<B: Batches>(&mut self, copy: &HostSnapshot, batches: &mut B) -> Result<()> {
        let snapshot = copy.upload(self.optimizer.device())?;
        let Self { optimizer, progress, seen, .. } = self;
        snapshot.restore(&mut Whole { optimizer, progress, seen, batches, memory: None })?;
        if self.set_later.is_some() {
            snapshot.restore(&mut Named("settings", &mut self.optimizer.settings()))?;
        }
        Ok(())
    }

    /// What the program had set when `epoch` began, as it begins again.
    pub(crate) fn set_again<B: Batches>(&mut self, epoch: u64, batches: &mut B) -> Result<()> {
        let Some((_, settings)) = self.set_later.take_if(|(later, _)| *later == epoch) else { return Ok(()) };
        settings.restore(&mut Named("settings", &mut self.optimizer.settings()))?;
        self.save_for_good(batches)
    }

    /// What lay on the device, or was about its steps, is void.
    fn forget_the_device(&mut self) {
        self.ring.clear();
        self.mirror.forget_download();
        self.durable.iter_mut().for_each(|durable| durable.forget_copy());
        self.optimizer.zero_grad();
        self.optimizer.take_records();
        self.inbox.clear();
        self.under_way.clear();
        if let Some(incident) = &self.incident {
            // Its answers were not final, and it begins anew.
            self.memory.skipped.retain(|cursor| !incident.skipped.contains(cursor));
        }
        (self.incident, self.case, self.replaying) = (None, None, None);
        self.found.clear();
    }
}
