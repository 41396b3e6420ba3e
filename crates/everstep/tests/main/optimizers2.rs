//! RMSprop, penalties, clipping by value, parameter groups and schedules.

use everstep::optim::{Plateau, ReduceOnPlateau};
use everstep::prelude::*;
use everstep_testing::array;
use serde_json::Value;

use crate::common::{Scale, Worst, goldens, number, text};
use crate::optimizers::Params;

fn cases(kind: &str) -> Vec<Value> {
    goldens("optimizers2.json").cases().iter().filter(|case| text(&case["kind"]) == kind).cloned().collect()
}

/// A rule from PyTorch's names for its settings, over the case's own.
fn rule<R: for<'de> serde::Deserialize<'de>>(config: &Value, over: &Value) -> R {
    let mut settings = config.as_object().unwrap().clone();
    settings.extend(over.as_object().cloned().unwrap_or_default());
    for (torch, own) in [("lr", "learning_rate"), ("eps", "epsilon")] {
        if let Some(value) = settings.remove(torch) {
            settings.insert(own.into(), value);
        }
    }
    serde_json::from_value(settings.into()).unwrap()
}

fn build(case: &Value, params: &Params) -> Optimizer {
    fn of<R: Rule + for<'de> serde::Deserialize<'de>>(case: &Value, params: &Params) -> Optimizer {
        let (config, bias) = (&case["config"], &case["bias_config"]);
        let base = rule::<R>(config, &Value::Null);
        match bias {
            Value::Null => base.build(params).unwrap(),
            // PyTorch gives a group the optimizer's settings; the L1 penalty there is the script's own, and is not.
            _ => {
                let mut over = serde_json::json!({"l1": 0.0});
                over.as_object_mut().unwrap().extend(bias.as_object().unwrap().clone());
                base.groups(params).group("b", rule::<R>(config, &over)).unwrap().build().unwrap()
            }
        }
    }
    let optimizer = match text(&case["optimizer"]) {
        "sgd" => of::<Sgd>(case, params),
        "adam" => of::<Adam>(case, params),
        "adamw" => of::<AdamW>(case, params),
        "rmsprop" => of::<Rmsprop>(case, params),
        other => panic!("no optimizer {other}"),
    };
    let optimizer = match case["max_norm"].as_f64() {
        Some(norm) => optimizer.clip_norm(norm as f32).unwrap(),
        None => optimizer,
    };
    match case["max_value"].as_f64() {
        Some(value) => optimizer.clip_value(value as f32).unwrap(),
        None => optimizer,
    }
}

#[test]
fn rules_and_groups_are_those_of_pytorch() {
    let start = &cases("start")[0]["params"];
    let runs = cases("run");
    assert_eq!(runs.len(), 14);
    for device in everstep_testing::devices() {
        let mut worst = Worst::default();
        for case in &runs {
            let params = Params::new(start, &device);
            let mut optimizer = build(case, &params);
            for step in 0..12 {
                let loss = params.loss(step).unwrap();
                loss.backward().unwrap();
                optimizer.step(&loss).unwrap();
            }
            assert!(optimizer.finish().unwrap().iter().all(|record| record.verdict == Verdict::Commit));
            for (key, parameter) in params.named_parameters() {
                let place = format!("{}, {key}", text(&case["name"]));
                let expected = &case["after64"][&key];
                worst.note(text(&case["optimizer"]), &place, &parameter.tensor(), expected, Scale::Array);
            }
        }
        // A dozen steps of a handful of roundings each; PyTorch's own float32 is off by as much.
        worst.assert(&device, |_| 1e-6);
    }
}

#[test]
fn schedules_are_those_of_pytorch() {
    let cases = cases("schedule");
    assert_eq!(cases.len(), 8);
    for case in &cases {
        let schedule: Schedule = serde_json::from_value(case["schedule"].clone()).unwrap();
        schedule.check().unwrap();
        let again: Schedule = serde_json::from_str(&serde_json::to_string(&schedule).unwrap()).unwrap();
        assert_eq!(again, schedule);
        for (step, rate) in array(&case["rates64"]).1.into_iter().enumerate() {
            let found = number(&case["base"]) * schedule.factor(step as u64);
            // PyTorch multiplies step by step what is here one formula, and the fixture has 13 digits.
            assert!((found - rate).abs() <= 1e-11 * rate, "{}, step {step}: {found}, not {rate}", case["name"]);
        }
    }
}

#[test]
fn plateaus_are_those_of_pytorch() {
    let cases = cases("plateau");
    assert_eq!(cases.len(), 5);
    for case in &cases {
        let config: ReduceOnPlateau = serde_json::from_value(case["config"].clone()).unwrap();
        let mut plateau: Plateau = config.start().unwrap();
        let (metrics, rates) = (array(&case["metrics64"]).1, array(&case["rates64"]).1);
        for (at, (&metric, &rate)) in metrics.iter().zip(&rates).enumerate() {
            let found = number(&case["base"]) * plateau.observe(metric);
            // The fixture has 13 digits.
            assert!((found - rate).abs() <= 1e-12, "{}, metric {at}: {found}, not {rate}", case["name"]);
        }
        // A threshold relative to a negative best value is met by that value itself, as in PyTorch.
        assert_eq!(rates.last() < rates.first(), text(&case["name"]) != "plateau_negative", "{}", case["name"]);
    }
}
