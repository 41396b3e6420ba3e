//! Metrics against scikit-learn's.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

use everstep_train::{Average, ConfusionMatrix, Error, Mean, Scores};

const TARGETS: [u32; 16] = [0, 1, 2, 2, 1, 0, 3, 3, 2, 1, 0, 2, 1, 1, 3, 2];
const PREDICTIONS: [u32; 16] = [0, 2, 2, 2, 1, 0, 1, 2, 2, 1, 1, 0, 1, 2, 2, 2];

fn matrix(classes: usize) -> ConfusionMatrix {
    ConfusionMatrix::from_slices(classes, &TARGETS, &PREDICTIONS).unwrap()
}

fn close(scores: Scores, golden: [f64; 3], support: u64) {
    let found = [scores.precision, scores.recall, scores.f1];
    assert!(found.iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-15), "{found:?} {golden:?}");
    assert_eq!(scores.support, support);
}

// from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support
// t = [0, 1, 2, 2, 1, 0, 3, 3, 2, 1, 0, 2, 1, 1, 3, 2]
// p = [0, 2, 2, 2, 1, 0, 1, 2, 2, 1, 1, 0, 1, 2, 2, 2]
// print(confusion_matrix(t, p), accuracy_score(t, p))
// for classes in (4, 5):
//     labels = range(classes)
//     print(precision_recall_fscore_support(t, p, labels=labels, zero_division=0))
//     for average in ("macro", "weighted"):
//         print(precision_recall_fscore_support(t, p, labels=labels, average=average, zero_division=0))
#[test]
fn golden_numbers_of_scikit_learn() {
    let confusion = matrix(4);
    let golden = [[2, 1, 0, 0], [0, 3, 2, 0], [1, 0, 4, 0], [0, 1, 2, 0]];
    for (target, row) in (0u32..).zip(golden) {
        for (prediction, count) in (0u32..).zip(row) {
            assert_eq!(confusion.count(target, prediction).unwrap(), count);
        }
    }
    assert_eq!((confusion.total(), confusion.accuracy()), (16, 0.5625));
    close(confusion.scores(0).unwrap(), [0.6666666666666666, 0.6666666666666666, 0.6666666666666666], 3);
    close(confusion.scores(1).unwrap(), [0.6, 0.6, 0.6], 5);
    close(confusion.scores(2).unwrap(), [0.5, 0.8, 0.6153846153846154], 5);
    // Never predicted: the divisor of its precision is zero.
    close(confusion.scores(3).unwrap(), [0.0, 0.0, 0.0], 3);
    close(confusion.average(Average::Macro), [0.44166666666666665, 0.5166666666666666, 0.4705128205128205], 16);
    close(confusion.average(Average::Weighted), [0.46875, 0.5625, 0.5048076923076923], 16);
}

#[test]
fn a_class_that_never_appears_counts_in_the_macro_average_alone() {
    let confusion = matrix(5);
    assert_eq!(confusion.accuracy(), 0.5625);
    close(confusion.all_scores()[4], [0.0, 0.0, 0.0], 0);
    close(confusion.average(Average::Macro), [0.35333333333333333, 0.4133333333333333, 0.3764102564102564], 16);
    close(confusion.average(Average::Weighted), [0.46875, 0.5625, 0.5048076923076923], 16);
}

#[test]
fn an_empty_matrix_scores_zero() {
    let confusion = ConfusionMatrix::new(2).unwrap();
    assert_eq!((confusion.total(), confusion.accuracy()), (0, 0.0));
    close(confusion.average(Average::Macro), [0.0; 3], 0);
    close(confusion.average(Average::Weighted), [0.0; 3], 0);
}

#[test]
fn parts_merge_into_the_whole() {
    let mut parts = ConfusionMatrix::from_slices(4, &TARGETS[..5], &PREDICTIONS[..5]).unwrap();
    parts.merge(&ConfusionMatrix::from_slices(4, &TARGETS[5..], &PREDICTIONS[5..]).unwrap()).unwrap();
    assert_eq!(parts, matrix(4));
    assert_eq!(parts.merge(&matrix(5)).unwrap_err(), Error::Merge { classes: 4, other: 5 });
}

#[test]
fn what_does_not_fit_is_an_error_and_counts_nothing() {
    let mut confusion = matrix(4);
    let error = confusion.add(4, 0).unwrap_err();
    assert_eq!(error.to_string(), "the target is class 4, but there are 4 classes: classes are 0 to classes - 1");
    let error = confusion.add_slices(&[0, 1], &[0, u32::MAX]).unwrap_err();
    assert_eq!(error, Error::Class { role: "prediction", class: u32::MAX, classes: 4 });
    assert_eq!(confusion.add_slices(&[0], &[]).unwrap_err(), Error::Lengths { targets: 1, predictions: 0 });
    assert!(confusion.scores(4).is_err() && confusion.count(0, 4).is_err());
    assert_eq!(confusion, matrix(4));
    for classes in [0, 1 << 31, usize::MAX] {
        assert_eq!(ConfusionMatrix::new(classes).unwrap_err(), Error::Classes { classes });
    }
}

#[test]
fn the_table_is_aligned() {
    let mut confusion = matrix(4);
    (0..100).for_each(|_| confusion.add(3, 3).unwrap());
    let table = "\
target \\ predicted    0    1    2    3  recall
                 0    2    1    0    0  0.6667
                 1    0    3    2    0  0.6000
                 2    1    0    4    0  0.8000
                 3    0    1    2  100  0.9709
";
    assert_eq!(confusion.to_string(), table);
}

#[test]
fn a_saved_matrix_is_checked() {
    let text = serde_json::to_string(&matrix(4)).unwrap();
    assert_eq!(serde_json::from_str::<ConfusionMatrix>(&text).unwrap(), matrix(4));
    let bad = [
        r#"{"classes": 2, "counts": [1, 2, 3]}"#,
        r#"{"classes": 0, "counts": []}"#,
        r#"{"classes": 1, "counts": [1], "total": 1}"#,
        r#"{"classes": 18446744073709551615, "counts": [1]}"#,
    ];
    for text in bad {
        assert!(serde_json::from_str::<ConfusionMatrix>(text).is_err(), "{text}");
    }
    // Counts as high as they go neither overflow nor leave the range.
    let full = format!(r#"{{"classes": 2, "counts": [{max}, {max}, {max}, {max}]}}"#, max = u64::MAX);
    let mut full: ConfusionMatrix = serde_json::from_str(&full).unwrap();
    full.add(0, 0).unwrap();
    full.merge(&full.clone()).unwrap();
    let scores = full.average(Average::Macro);
    assert!((0.0..=1.0).contains(&scores.f1) && (0.0..=1.0).contains(&full.accuracy()));
}

#[test]
fn a_mean_is_weighted_by_samples() {
    let mut mean = Mean::new();
    assert_eq!(mean.value(), None);
    mean.add(2.0, 32);
    mean.add(f64::NAN, 0);
    mean.add(1.0, 16);
    assert_eq!((mean.value(), mean.samples()), (Some(80.0 / 48.0), 48));
    let mut other = Mean::new();
    other.add(0.5, 2);
    other.merge(&mean);
    assert_eq!(other.value(), Some(81.0 / 50.0));
    let text = serde_json::to_string(&other).unwrap();
    assert_eq!(serde_json::from_str::<Mean>(&text).unwrap(), other);
    other.add(f64::NAN, 1);
    assert!(other.value().unwrap().is_nan());
}
