//! A sample of the example of this name: healthy training, of which nothing is to be said.

use everstep_data::{Loader, LoaderConfig, digits};
use everstep_fault::{Error, Guard, Policy};
use everstep_nn::Linear;
use everstep_optim::Adam;
use everstep_tensor::{Activation, Device, Generator};

const STEPS: usize = 600;

/// At the usual learning rate, and at one that is ten times too high but still learns.
#[test]
fn healthy_training_raises_no_alarm() {
    let device = Device::isolated_cpu();
    for (seed, rate) in [(0, 1e-3), (1, 1e-3), (0, 1e-2), (1, 1e-2)] {
        let mut generator = Generator::new(seed);
        let hidden = Linear::new(64, 48, &mut generator, &device).unwrap();
        let output = Linear::new(48, 10, &mut generator, &device).unwrap();
        let model = (hidden, output);
        let mut loader = Loader::new(digits().unwrap(), LoaderConfig::new(32).shuffle(seed), &device).unwrap();
        let mut guard = Guard::new(&model, Adam::new(rate), Policy::default()).unwrap();
        let (mut steps, mut told, mut last) = (0, Vec::new(), 0.0);
        while steps < STEPS {
            let report = guard.step(&mut loader, |batch| {
                let hidden = model.0.forward_with(&batch.x, Activation::Relu)?;
                Ok::<_, Error>(model.1.forward(&hidden)?.cross_entropy(&batch.y)?)
            });
            let (records, events) = match report.unwrap() {
                Some(report) => (report.records, report.events),
                None => (guard.take_records(), guard.take_events()),
            };
            told.extend(events);
            for record in records {
                (steps, last) = (steps + 1, record.loss);
            }
        }
        let context = format!("seed {seed}, rate {rate}");
        assert_eq!((told, guard.tally().actions()), (vec![], 0), "{context}");
        assert!(last < 1.0, "{context}: it has not learned: {last}");
    }
}
