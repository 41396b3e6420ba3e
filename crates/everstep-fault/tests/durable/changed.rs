//! A run that is taken up with something else than what it began with.

use everstep_data::{Loader, LoaderConfig, Transform, Transformed, digits_split};
use everstep_fault::chaos::Plan;
use everstep_fault::checkpoint::MemoryStorage;
use everstep_fault::{Error, Guard};
use everstep_optim::{AdamW, Rule, Schedule, Sgd};
use everstep_tensor::Device;

use crate::run::{Counted, Model, Run, STEPS, data, guard, on_demand, policy};

fn begun() -> MemoryStorage {
    let storage = MemoryStorage::new();
    let mut run = Run::new(storage.clone(), on_demand(), &Plan::default(), &Device::isolated_cpu()).unwrap();
    run.until(8).unwrap();
    storage
}

/// What is said, and that the checkpoint is as good as before.
fn refused(storage: &MemoryStorage, outcome: Result<Guard, Error>, expected: &str) {
    let error = outcome.err().unwrap();
    let Error::Changed { difference } = &error else { panic!("{error}") };
    assert!(difference.contains(expected), "{difference}");
    let run = Run::new(storage.clone(), on_demand(), &Plan::default(), &Device::isolated_cpu()).unwrap();
    assert_eq!(run.pulled(), 8);
}

#[test]
fn another_model_is_named() {
    let (storage, device) = (begun(), Device::isolated_cpu());
    let model = Model::new(17, 1, &device);
    let other = guard(&model, policy(), &Plan::default());
    let outcome = other.with_checkpoints(storage.clone(), on_demand(), &mut data(&device));
    refused(&storage, outcome, "model.buffers.norm.running_mean was [16] and is [17]");
    // Other random numbers than those of the layers that draw.
    let model = Model::new(16, 2, &device);
    let other = guard(&model, policy(), &Plan::default());
    let outcome = other.with_checkpoints(storage.clone(), on_demand(), &mut data(&device));
    refused(&storage, outcome, "model.random_streams");
}

#[test]
fn another_optimizer_is_named() {
    let (storage, device) = (begun(), Device::isolated_cpu());
    let model = Model::new(16, 1, &device);
    let other = Guard::new(&model, Sgd::new(0.1), policy()).unwrap();
    let outcome = other.with_checkpoints(storage.clone(), on_demand(), &mut data(&device));
    refused(&storage, outcome, "optimizer.");
    let model = Model::new(16, 1, &device);
    let rule = AdamW::new(1e-3).build(&model).unwrap().clip_norm(1.0).unwrap();
    let other = Guard::with_optimizer(&model, rule, policy()).unwrap();
    let outcome = other.with_checkpoints(storage.clone(), on_demand(), &mut data(&device));
    refused(&storage, outcome, "optimizer.groups.0.rule");
    let model = Model::new(16, 1, &device);
    let rule = AdamW::new(3e-3).build(&model).unwrap().clip_norm(1.0).unwrap();
    let rule = rule.schedule(Schedule::cosine(STEPS * 2, 0.1));
    let other = Guard::with_optimizer(&model, rule, policy()).unwrap();
    let outcome = other.with_checkpoints(storage.clone(), on_demand(), &mut data(&device));
    refused(&storage, outcome, "optimizer.schedule");
}

#[test]
fn another_data_set_is_named() {
    let (storage, device) = (begun(), Device::isolated_cpu());
    let loader = |config: LoaderConfig, whole: bool| {
        let digits = everstep_data::digits().unwrap();
        let loader = match whole {
            true => Loader::new(digits, config, &device),
            false => Loader::new(digits_split(0).unwrap().0, config, &device),
        };
        (loader.unwrap(), Counted::default())
    };
    let shifted = everstep_data::digits().unwrap();
    let config = || LoaderConfig::new(64).shuffle(7);
    let shifted = Transformed::new(shifted, [Transform::Normalise { mean: vec![1.0], std: vec![1.0] }], 0);
    let others = [
        (loader(config(), false), "data.samples was 1797 and is 1438"),
        (loader(LoaderConfig::new(32).shuffle(7), true), "data.batch_size was 64 and is 32"),
        (loader(LoaderConfig::new(64).shuffle(8), true), "data.shuffle was 7 and is 8"),
        ((Loader::new(shifted.unwrap(), config(), &device).unwrap(), Counted::default()), "data.values_hash was"),
    ];
    for (mut other, expected) in others {
        let model = Model::new(16, 1, &device);
        let guard = guard(&model, policy(), &Plan::default());
        let outcome = guard.with_checkpoints(storage.clone(), on_demand(), &mut other);
        let error = outcome.err().unwrap();
        let Error::Changed { difference } = &error else { panic!("{error}") };
        assert!(
            difference.contains("data.") && (difference.contains(expected) || expected.contains("samples")),
            "{difference}"
        );
    }
}
