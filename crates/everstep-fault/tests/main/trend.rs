//! Slow faults in made-up series: each is told in time, and healthy ones never.

use everstep_fault::{Error, Slow, SlowFaults, Trend};
use everstep_tensor::{Generator, Result, Snapshot, State, Visit};

const SEEDS: u64 = 20;
/// The loss of a classifier of ten classes that knows nothing.
const BLIND: f32 = std::f32::consts::LN_10;
/// When the faults begin.
const FAULT: usize = 2000;

/// A series of losses and norms by step, with random numbers of its own.
type Series = fn(step: usize, noise: &mut Generator) -> (f32, f32);

/// What is told of the first `steps` steps, each with its step.
fn told(series: Series, steps: usize, seed: u64) -> Vec<(usize, Slow)> {
    let (mut trend, mut noise) = (Trend::new(SlowFaults::default()), Generator::new(seed));
    let told = |step| {
        let (loss, norm) = series(step, &mut noise);
        trend.take(loss, norm).map(|fault| (step, fault))
    };
    (0..steps).filter_map(told).collect()
}

/// `mean` times a factor whose logarithm has the standard deviation `spread`.
fn around(mean: f32, spread: f32, noise: &mut Generator) -> f32 {
    mean * (spread * noise.normal() - spread * spread / 2.0).exp()
}

/// A loss that falls from `BLIND` by a factor of e every `period` steps.
fn decay(step: usize, period: f32) -> f32 {
    BLIND * (-(step as f32) / period).exp()
}

/// A loss and norm that have learned.
fn learned(step: usize, noise: &mut Generator) -> (f32, f32) {
    (around(0.1 + decay(step, 300.0), 0.3, noise), around(0.3, 0.5, noise))
}

const HEALTHY: [(&str, Series); 14] = [
    ("learns", learned),
    ("learns to nothing, jumping", |step, noise| {
        let loss = around(decay(step, 300.0).max(1e-7), 2.0, noise);
        (loss, loss)
    }),
    ("cannot learn", |_, noise| (BLIND + 0.5 * noise.normal(), around(0.2, 0.5, noise))),
    ("cannot learn, one sample a batch", |_, noise| (around(1.0, 1.5, noise), around(1.0, 1.5, noise))),
    ("restarts", |step, noise| {
        let rate = (1.0 + (step % 2500) as f32 / 2500.0 * std::f32::consts::PI).cos().max(-1.0) + 1.0;
        (around(0.2 + 0.4 * rate + decay(step, 500.0), 0.3, noise), around(1.0, 0.5, noise))
    }),
    ("slow", |step, noise| (BLIND - 1e-4 * step as f32 + 0.2 * noise.normal(), around(0.5, 0.5, noise))),
    ("a shock that heals", |step, noise| {
        let (loss, norm) = learned(step, noise);
        (loss + if step < FAULT { 0.0 } else { 2.0 * decay(step - FAULT, 150.0) }, norm)
    }),
    ("spikes", |step, noise| {
        let (loss, norm) = learned(step, noise);
        (loss * if step % 700 == 699 { 1e6 } else { 1.0 }, norm)
    }),
    ("a model of text", |step, noise| {
        (1.4 + 2.8 * decay(step, 800.0) / BLIND + 0.1 * noise.normal(), around(0.6, 0.3, noise))
    }),
    ("a bound on a likelihood", |step, noise| {
        (-1000.0 + 1001.0 * decay(step, 300.0) / BLIND + 60.0 * noise.normal(), around(50.0, 0.5, noise))
    }),
    ("a policy's objective", |_, noise| (noise.normal(), around(1.0, 0.5, noise))),
    ("harder data every so often", |step, noise| {
        (around(0.1 + decay(step % 2000, 200.0) * 0.8, 0.3, noise), around(1.0, 0.5, noise))
    }),
    ("a margin that most batches keep", |step, noise| match noise.uniform() < 0.2 || step < 100 {
        true => (around(0.5, 0.5, noise), around(1.0, 0.5, noise)),
        false => (0.0, 0.0),
    }),
    ("fits exactly", |step, _| if step < 500 { (decay(step, 50.0), decay(step, 50.0)) } else { (0.0, 0.0) }),
];

#[test]
fn healthy_series_raise_no_alarm() {
    for (name, series) in HEALTHY {
        for seed in 0..SEEDS {
            assert_eq!(told(series, 10_000, seed), [], "{name}, seed {seed}");
        }
    }
}

/// Each with the most steps until it is told.
const FAULTY: [(&str, Slow, usize, Series); 10] = [
    ("climbs by and by", Slow::Divergence, 900, |step, noise| {
        let (loss, norm) = learned(step, noise);
        (loss + 0.004 * step.saturating_sub(FAULT) as f32, norm)
    }),
    ("climbs by and by, and stays", Slow::Divergence, 900, |step, noise| {
        let (loss, norm) = learned(step, noise);
        (loss + 0.004 * step.saturating_sub(FAULT).min(500) as f32, norm)
    }),
    ("climbs like e^x", Slow::Divergence, 700, |step, noise| {
        let (loss, norm) = learned(step, noise);
        let factor = (step.saturating_sub(FAULT) as f32 / 100.0).min(80.0).exp();
        (loss * factor, norm * factor.min(1e10))
    }),
    ("a shock to blindness", Slow::Plateau, 340, |step, noise| {
        let (loss, norm) = learned(step, noise);
        if step < FAULT { (loss, norm) } else { (BLIND + 0.05 * noise.normal(), norm) }
    }),
    ("a shock far beyond", Slow::Divergence, 240, |step, noise| {
        let (loss, norm) = learned(step, noise);
        if step < FAULT { (loss, norm) } else { (around(1e6, 0.1, noise), norm) }
    }),
    ("a shock after little was learned", Slow::Plateau, 600, |step, noise| {
        let loss = if step < FAULT { 1.8 + 0.7 * decay(step, 50.0) / BLIND } else { 2.33 };
        (loss + 0.1 * noise.normal(), around(0.6, 0.3, noise))
    }),
    ("a model of text that knows letters alone", Slow::Plateau, 400, |step, noise| {
        let loss = if step < FAULT { 1.4 + 2.8 * decay(step, 300.0) / BLIND } else { 3.3 };
        (loss + 0.1 * noise.normal(), around(0.6, 0.3, noise))
    }),
    ("vanishes early", Slow::Vanishing, 230, |step, noise| {
        (BLIND + 0.05 * noise.normal(), around(if step < FAULT { 0.5 } else { 1e-6 }, 0.5, noise))
    }),
    ("vanishes by and by", Slow::Vanishing, 800, |step, noise| {
        let norm = 0.5 * (-(step.saturating_sub(FAULT) as f32) / 50.0).exp().max(1e-7);
        (BLIND + 0.05 * noise.normal(), around(norm, 0.5, noise))
    }),
    ("dies half-way", Slow::Vanishing, 230, |step, noise| match step < FAULT {
        true => (around(1.0 + decay(step, 300.0), 0.2, noise), around(0.5, 0.5, noise)),
        false => (around(1.0, 0.2, noise), 0.0),
    }),
];

#[test]
fn slow_faults_are_told_in_time() {
    for (name, expected, most, series) in FAULTY {
        for seed in 0..SEEDS {
            let told = told(series, FAULT + 2000, seed);
            let &(step, fault) = told.first().unwrap_or_else(|| panic!("{name}, seed {seed}: nothing told"));
            assert_eq!(fault, expected, "{name}, seed {seed}: {told:?}");
            let delay = step as i64 - FAULT as i64;
            assert!((100..=most as i64).contains(&delay), "{name}, seed {seed}: {told:?}");
            // Again after every further window, but not before.
            assert!(told.len() > 2 && told.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 200), "{name}: {told:?}");
        }
    }
}

/// From the first step on: no gradient is reason enough, with nothing to compare with.
#[test]
fn a_dead_model_is_told() {
    assert_eq!(told(|_, _| (BLIND, 0.0), 500, 0), [(199, Slow::Vanishing), (399, Slow::Vanishing)]);
    assert_eq!(told(|_, _| (0.0, 0.0), 500, 0), []);
}

#[test]
fn each_detector_can_be_off() {
    let off = SlowFaults::off();
    for (name, expected, _, series) in FAULTY {
        for (settings, is_on) in [
            (off, false),
            (SlowFaults { divergence: Some(0.5), ..off }, expected == Slow::Divergence),
            (SlowFaults { plateau: Some(0.5), ..off }, expected == Slow::Plateau),
            (SlowFaults { vanishing: Some(1e-4), ..off }, expected == Slow::Vanishing),
        ] {
            let (mut trend, mut noise) = (Trend::new(settings), Generator::new(0));
            let faults = (0..FAULT + 900).filter_map(|step| {
                let (loss, norm) = series(step, &mut noise);
                trend.take(loss, norm)
            });
            assert_eq!(faults.into_iter().any(|fault| fault == expected), is_on, "{name}, {settings:?}");
        }
    }
}

/// After an answer there is a window without a report, whatever the trend knew before.
#[test]
fn an_answer_gets_a_window() {
    let mut trend = Trend::new(SlowFaults::default());
    let take =
        |steps: usize, loss: f32, trend: &mut Trend| (1..=steps).filter(|_| trend.take(loss, 1.0).is_some()).count();
    take(500, 1.0, &mut trend);
    take(500, 0.1, &mut trend);
    assert_eq!(take(250, 1.0, &mut trend), 0);
    trend.answered();
    assert_eq!(take(199, 1.0, &mut trend), 0);
    assert_eq!(take(1, 1.0, &mut trend), 1);
}

/// What no device commits, and the largest that it does: nothing in a trend is ever not finite, as JSON wants it.
#[test]
fn extreme_values_do_no_harm() {
    let extreme = [f32::MAX, f32::MIN, f32::NAN, f32::INFINITY, 0.0, -0.0, f32::MIN_POSITIVE, 1e-45, 1.0];
    for seed in 0..SEEDS {
        let (mut trend, mut random) = (Trend::new(SlowFaults::default()), Generator::new(seed));
        for _ in 0..3000 {
            let mut draw = || extreme[(random.uniform() * extreme.len() as f32) as usize % extreme.len()];
            trend.take(draw(), draw().abs());
            let json = serde_json::to_string(&trend).unwrap();
            assert_eq!(serde_json::from_str::<Trend>(&json).unwrap(), trend, "{json}");
        }
    }
}

struct Kept(Trend);

impl State for Kept {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        visit.value("trend", &mut self.0)
    }
}

/// A run that goes back to a snapshot is told the same faults at the same steps.
#[test]
fn a_restored_trend_goes_on_as_before() {
    for (name, _, _, series) in FAULTY {
        let (mut kept, mut noise) = (Kept(Trend::new(SlowFaults::default())), Generator::new(3));
        let records: Vec<_> = (0..FAULT + 900).map(|step| series(step, &mut noise)).collect();
        let (before, after) = records.split_at(FAULT + 123);
        for &(loss, norm) in before {
            kept.0.take(loss, norm);
        }
        let mut snapshot = Snapshot::default();
        snapshot.save(&mut kept).unwrap();
        let mut rest = || after.iter().map(|&(loss, norm)| kept.0.take(loss, norm)).collect::<Vec<_>>();
        let expected = rest();
        assert!(expected.iter().any(Option::is_some), "{name}");
        snapshot.restore(&mut kept).unwrap();
        let mut rest = || after.iter().map(|&(loss, norm)| kept.0.take(loss, norm)).collect::<Vec<_>>();
        assert_eq!(rest(), expected, "{name}");
    }
}

#[test]
fn settings_are_checked_and_read() {
    let default = SlowFaults::default();
    assert!(default.check().is_ok() && SlowFaults::off().check().is_ok());
    for wrong in [
        SlowFaults { window: 7, ..default },
        SlowFaults { warm_up: 0, ..default },
        SlowFaults { divergence: Some(0.0), ..default },
        SlowFaults { plateau: Some(f32::NAN), ..default },
        SlowFaults { plateau: Some(f32::INFINITY), ..default },
        SlowFaults { vanishing: Some(1.0), ..default },
    ] {
        assert!(matches!(wrong.check(), Err(Error::Setting { .. })), "{wrong:?}");
    }
    let read = serde_json::from_str::<SlowFaults>(r#"{"window":50,"plateau":null}"#).unwrap();
    assert_eq!(read, SlowFaults { window: 50, plateau: None, ..default });
    assert!(serde_json::from_str::<SlowFaults>(r#"{"windows":50}"#).is_err());
    assert_eq!(serde_json::to_string(&Slow::Vanishing).unwrap(), r#""vanishing""#);
}
