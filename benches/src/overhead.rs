//! What a guard's protection costs: steps under `Policy::default()` against steps under `Policy::off()`.
//!
//! Two copies of a workload run in one process, blocks of [`BLOCK_STEPS`] steps of one and the other in turn, and the order
//! of the two is swapped from pair to pair: a machine that slows down slows down both. The figure is
//! (time of the protected block / time of the other) - 1, pair by pair.
//!
//! With a snapshot every 50 steps two of five blocks hold one. A median over all pairs would be one over those without: it would
//! leave the snapshots out. So the pairs with a snapshot and those without have a median each, and the overhead is the
//! mean of the two, weighted by how many pairs there are.
//!
//! Two copies can differ steadily for as long as both live, probably by where their memory lies: 133 pairs of one life
//! once found that protection makes steps 1.7 % faster, with an interval that left 0 out. So both are made anew every
//! ten pairs, in swapped order, and the 95 % confidence interval is a seeded bootstrap's that draws those lives
//! anew, and within each life and kind the pairs: it lies between the 2.5th and the 97.5th percentile.

use std::error::Error;
use std::time::{Duration, Instant};

use everstep::prelude::*;

use crate::workloads::{Always, Training, Workload};

/// Result of a measurement, which fails where a step was refused, too.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Steps of a block.
pub const BLOCK_STEPS: usize = 20;

/// Pairs of blocks until both copies are made anew.
const LIFE_PAIRS: usize = 10;

/// Fewest lives of the copies: 100 blocks of each.
const LEAST_LIVES: usize = 10;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2000;

/// Restores that are timed.
const RESTORES: usize = 25;

/// The workloads that are measured, each with the largest overhead that it may have. The interval is at most so wide
/// as this, too, unless the time is up.
pub const LIMITS: [(&str, f64); 4] =
    [("cnn_step", 0.01), ("gpt_step", 0.01), ("mlp_step", 0.03), ("seed_net_step", 0.03)];

/// The workloads that are measured where none is named.
pub const USUAL: [&str; 3] = ["cnn_step", "gpt_step", "mlp_step"];

/// What protection costs on a workload.
#[derive(Clone, Copy, Debug)]
pub struct Overhead {
    /// How much longer a protected step takes, as a part of one that is not.
    pub overhead: f64,
    /// The overhead's 95 % confidence interval.
    pub interval: [f64; 2],
    /// The median over the pairs without a snapshot, and over those with one.
    pub medians: [f64; 2],
    /// The median over all pairs, whichever kind they are of.
    pub plain_median: f64,
    /// Blocks of each copy.
    pub blocks: usize,
    /// Median of a step's time without protection, in ms.
    pub step_ms: f64,
    /// Bytes of the snapshots in the ring.
    pub snapshot_bytes: usize,
    /// Snapshots taken within the blocks that count.
    pub snapshots: usize,
    /// Time to go back to a snapshot in the ring, in steps.
    pub restore_steps: f64,
}

/// A copy of the workload under a guard.
struct Copy {
    guard: Guard,
    loss: Box<dyn Fn() -> everstep::Result<Tensor>>,
    batches: Always,
}

impl Copy {
    fn new(training: Training, policy: Policy) -> Result<Self> {
        let guard = Guard::with_optimizer(&training.model, training.optimizer, policy)?;
        Ok(Self { guard, loss: training.loss, batches: Always::default() })
    }

    /// Runs a block and waits for its steps: its time, and the snapshots that it has taken.
    fn block(&mut self) -> Result<(Duration, usize)> {
        let newest = self.newest();
        let begin = Instant::now();
        for _ in 0..BLOCK_STEPS {
            let report = self.guard.step(&mut self.batches, |()| (self.loss)())?;
            let report = report.ok_or("the workload has no end")?;
            check(&report.records, &report.events)?;
        }
        self.guard.finish(&mut self.batches)?;
        let time = begin.elapsed();
        check(&self.guard.take_records(), &self.guard.take_events())?;
        let new = self.guard.ring().kept().iter().filter(|kept| Some(kept.0) > newest).count();
        Ok((time, new))
    }

    /// The attempt of the newest snapshot.
    fn newest(&self) -> Option<u64> {
        self.guard.ring().kept().last().map(|kept| kept.0)
    }
}

/// Recovery takes time that is not protection's: a run in which something happened measures nothing.
fn check(records: &[Record], events: &[Event]) -> Result<()> {
    if let Some(event) = events.first() {
        return Err(format!("healthy steps had an event: {event}").into());
    }
    match records.iter().find(|record| record.verdict != Verdict::Commit) {
        Some(record) => Err(format!("a healthy step was refused: {}", record.reasons()).into()),
        None => Ok(()),
    }
}

/// Pairs of blocks of one life of the two copies.
#[derive(Clone, Debug, Default)]
struct Pairs {
    // Ratios less 1 of the pairs without a snapshot, and with one or more.
    ratios: [Vec<f64>; 2],
    plain_seconds: Vec<f64>,
    snapshots: usize,
    snapshot_bytes: usize,
}

impl Pairs {
    /// Makes both copies, with protection and without, the latter first where `swapped`; warms them up, and runs the pairs.
    fn run(workload: &Workload, device: &Device, swapped: bool) -> Result<Self> {
        let copy = |policy| Copy::new(training(workload, device)?, policy);
        let first = copy(if swapped { Policy::off() } else { Policy::default() })?;
        let second = copy(if swapped { Policy::default() } else { Policy::off() })?;
        let [mut protected, mut plain] = if swapped { [second, first] } else { [first, second] };
        // A ring that fills up asks the system for memory, which it never does again.
        let Policy { snapshots, interval, .. } = Policy::default();
        while protected.guard.optimizer().gate().attempts() < snapshots as u64 * interval {
            protected.block()?;
        }
        plain.block()?;
        let mut pairs = Self::default();
        for index in 0..LIFE_PAIRS {
            pairs.pair(&mut protected, &mut plain, index % 2 == 1)?;
        }
        pairs.snapshot_bytes = protected.guard.ring().bytes();
        Ok(pairs)
    }

    fn pair(&mut self, protected: &mut Copy, plain: &mut Copy, swapped: bool) -> Result<()> {
        let before = if swapped { Some(plain.block()?) } else { None };
        let (time, snapshots) = protected.block()?;
        let (plain_time, _) = before.map_or_else(|| plain.block(), Ok)?;
        self.ratios[usize::from(snapshots > 0)].push(time.as_secs_f64() / plain_time.as_secs_f64() - 1.0);
        self.plain_seconds.push(plain_time.as_secs_f64());
        self.snapshots += snapshots;
        Ok(())
    }
}

/// The ratios of all lives.
fn pooled<'a>(lives: impl IntoIterator<Item = &'a [Vec<f64>; 2]>) -> [Vec<f64>; 2] {
    lives.into_iter().fold([vec![], vec![]], |mut all, life| {
        all.iter_mut().zip(life).for_each(|(all, life)| all.extend(life));
        all
    })
}

fn training(workload: &Workload, device: &Device) -> Result<Training> {
    Ok(workload.training(device)?.ok_or_else(|| format!("{} is no train step", workload.name))?)
}

/// Measures what protection costs on `workload`, in about `budget` or, for the fewest blocks, longer.
///
/// # Errors
/// For a workload that is not among the [`LIMITS`], a step that is refused; those of the steps.
pub fn measure(workload: &Workload, device: &Device, budget: Duration) -> Result<Overhead> {
    let limit = LIMITS.iter().find(|limit| limit.0 == workload.name);
    let (_, limit) = limit.ok_or_else(|| format!("{} is no train step", workload.name))?;
    let start = Instant::now();
    let restore_seconds = restore_seconds(training(workload, device)?)?;
    let mut lives: Vec<Pairs> = Vec::new();
    let interval = loop {
        lives.push(Pairs::run(workload, device, lives.len() % 2 == 1)?);
        device.trim()?;
        if lives.len() < LEAST_LIVES || !lives.len().is_multiple_of(2) {
            continue;
        }
        let interval = bootstrap(&lives.iter().map(|life| life.ratios.clone()).collect::<Vec<_>>());
        if interval[1] - interval[0] <= *limit || start.elapsed() >= budget {
            break interval;
        }
    };
    let mut plain_seconds: Vec<_> = lives.iter().flat_map(|life| life.plain_seconds.clone()).collect();
    let step_seconds = median(&mut plain_seconds) / BLOCK_STEPS as f64;
    let mut ratios = pooled(lives.iter().map(|life| &life.ratios));
    Ok(Overhead {
        overhead: weighted(&mut ratios),
        interval,
        plain_median: median(&mut ratios.concat()),
        medians: ratios.each_mut().map(|kind| median(kind)),
        blocks: plain_seconds.len(),
        step_ms: step_seconds * 1e3,
        snapshot_bytes: lives.iter().map(|life| life.snapshot_bytes).max().unwrap_or(0),
        snapshots: lives.iter().map(|life| life.snapshots).sum(),
        restore_steps: restore_seconds / step_seconds,
    })
}

/// The median time to go back to a snapshot of the optimizer, each time from a later step: what a rewind within the ring copies.
fn restore_seconds(mut training: Training) -> Result<f64> {
    let device = training.optimizer.device().clone();
    training.step()?;
    let mut snapshot = Snapshot::default();
    snapshot.save(&mut training.optimizer)?;
    let mut seconds = Vec::new();
    for _ in 0..RESTORES {
        training.step()?;
        device.synchronize()?;
        let begin = Instant::now();
        snapshot.restore(&mut training.optimizer)?;
        device.synchronize()?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    Ok(median(&mut seconds))
}

/// The median; of an even count, the mean of the two in the middle; 0 of none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        Some(&upper) if values.len() % 2 == 1 => upper,
        Some(&upper) => f64::midpoint(values[middle - 1], upper),
        None => 0.0,
    }
}

/// The medians of both kinds, weighted by their counts.
fn weighted(kinds: &mut [Vec<f64>; 2]) -> f64 {
    let total = kinds.iter().map(Vec::len).sum::<usize>().max(1);
    kinds.iter_mut().map(|kind| median(kind) * kind.len() as f64).sum::<f64>() / total as f64
}

/// The 2.5th and the 97.5th percentile of what [`weighted`] makes of resamples: lives are drawn anew, and the pairs of each
/// drawn life within each kind. The seed is fixed: the same pairs give the same interval.
fn bootstrap(lives: &[[Vec<f64>; 2]]) -> [f64; 2] {
    let mut generator = Generator::new(0);
    let mut resample = || {
        let mut drawn = [vec![], vec![]];
        for _ in 0..lives.len() {
            let life = &lives[generator.below(lives.len() as u32) as usize];
            for (drawn, kind) in drawn.iter_mut().zip(life) {
                drawn.extend(kind.iter().map(|_| kind[generator.below(kind.len() as u32) as usize]));
            }
        }
        weighted(&mut drawn)
    };
    let mut found: Vec<_> = (0..RESAMPLES).map(|_| resample()).collect();
    found.sort_unstable_by(f64::total_cmp);
    [found[RESAMPLES / 40], found[RESAMPLES - 1 - RESAMPLES / 40]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_count_as_often_as_they_are_taken() {
        // A median over all of them would be 0.
        let mut kinds = [vec![0.0, 0.0, 0.0], vec![0.1, 0.1]];
        assert!((weighted(&mut kinds) - 0.04).abs() < 1e-12);
        assert_eq!(weighted(&mut [vec![], vec![3.0, 1.0]]), 2.0);
    }

    #[test]
    fn the_interval_is_that_of_the_median() {
        // Of 101 evenly spaced values, order statistics give 40 and 60.
        let life = [(0..101).map(f64::from).collect(), vec![]];
        let [low, high] = bootstrap(std::slice::from_ref(&life));
        assert!((low - 40.0).abs() <= 2.0 && (high - 60.0).abs() <= 2.0, "{low} to {high}");
        assert_eq!(bootstrap(&[life]), [low, high]);
    }

    #[test]
    fn lives_that_differ_widen_the_interval() {
        let life = |overhead: f64| [vec![overhead; 6], vec![overhead; 4]];
        let lives: Vec<_> = (0..10).map(|index| life(f64::from(index))).collect();
        let [low, high] = bootstrap(&lives);
        assert!(low < 2.5 && high > 6.5, "{low} to {high}");
    }

    #[test]
    fn a_short_run_measures_something() {
        let device = Device::isolated_cpu();
        let list = crate::workloads::all(false);
        let workload = list.iter().find(|workload| workload.name == "seed_net_step").unwrap();
        let found = measure(workload, &device, Duration::ZERO).unwrap();
        assert_eq!(found.blocks, LEAST_LIVES * LIFE_PAIRS);
        assert_eq!(found.snapshots, found.blocks * BLOCK_STEPS / Policy::default().interval as usize);
        assert!(found.interval[0] <= found.overhead && found.overhead <= found.interval[1], "{found:?}");
        assert!(found.step_ms > 0.0 && found.restore_steps > 0.0 && found.snapshot_bytes > 0, "{found:?}");
    }
}
