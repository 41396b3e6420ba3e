//! Datasets in memory, views of them, and the stratified split.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

mod common;

use std::sync::Arc;

use common::{numbers, whole};
use everstep_data::{Dataset, ElementType, Error, FieldMut, FieldSpec, HostTensor, InMemoryDataset, Subset, digits};

#[test]
fn a_dataset_in_memory_gives_its_samples() {
    let dataset = numbers(5, 2);
    assert_eq!(dataset.spec().x, FieldSpec::f32(&[2]));
    assert_eq!(dataset.spec().y, FieldSpec::u32(&[]));
    let batch = whole(dataset);
    assert_eq!((batch.x.shape(), batch.y.shape()), (&[5, 2][..], &[5][..]));
    assert_eq!(batch.x.as_f32().unwrap(), [0.0, 0.0, 1.0, 2.0, 2.0, 4.0, 3.0, 6.0, 4.0, 8.0]);
    assert_eq!(batch.y.as_u32().unwrap(), [0, 1, 0, 1, 0]);
    assert_eq!(batch.ids, [0, 1, 2, 3, 4]);
}

#[test]
fn sequences_with_sequences_as_targets() {
    let tokens = |values: [u32; 6]| HostTensor::new(values.to_vec(), &[2, 3]).unwrap();
    let dataset = InMemoryDataset::new(tokens([1, 2, 3, 4, 5, 6]), tokens([2, 3, 4, 5, 6, 7])).unwrap();
    let error = dataset.clone().with_classes(6).unwrap_err();
    assert!(matches!(error, Error::Label { id: 1, label: 6, classes: 6 }), "{error}");
    let dataset = dataset.with_classes(8).unwrap();
    // A sequence of classes is no class to split by.
    assert_eq!(dataset.label(0).unwrap(), None);
    assert!(matches!(dataset.clone().split_stratified(0.5, 0).unwrap_err(), Error::NoLabels));
    let batch = whole(dataset);
    assert_eq!(batch.y.shape(), [2, 3]);
    assert_eq!(batch.y.as_u32().unwrap(), [2, 3, 4, 5, 6, 7]);
}

#[test]
fn tensors_that_do_not_fit_are_errors() {
    let error = HostTensor::new(vec![0.0f32; 5], &[2, 3]).unwrap_err();
    assert_eq!(error.to_string(), "5 values do not fill the shape [2, 3]");
    assert!(matches!(HostTensor::new(vec![0u32], &[usize::MAX, 2]).unwrap_err(), Error::Shape { .. }));
    let tensor = |n: usize| HostTensor::new(vec![0.0f32; n], &[n]).unwrap();
    assert!(matches!(InMemoryDataset::new(tensor(2), tensor(3)).unwrap_err(), Error::Counts { x: 2, y: 3, .. }));
    let scalar = HostTensor::new(vec![1u32], &[]).unwrap();
    assert!(matches!(InMemoryDataset::new(scalar, tensor(1)).unwrap_err(), Error::Shape { .. }));
    let error = InMemoryDataset::new(tensor(2), tensor(2)).unwrap().with_classes(2).unwrap_err();
    assert!(matches!(error, Error::NoLabels));
}

#[test]
fn fields_check_what_is_written() {
    let mut memory = [0.0f32; 3];
    let error = FieldMut::F32(&mut memory).f32(4).unwrap_err();
    assert!(matches!(error, Error::Field { element: ElementType::F32, length: 3, found_length: 4, .. }), "{error}");
    let error = FieldMut::F32(&mut memory).u32(3).unwrap_err();
    assert!(matches!(error, Error::Field { found_element: ElementType::U32, .. }), "{error}");
}

#[test]
fn a_subset_keeps_the_ids_of_its_base() {
    let base = Arc::new(numbers(10, 3));
    let subset = Subset::new(Arc::clone(&base), vec![7, 2, 2]).unwrap();
    let view = Subset::new(Arc::new(subset.clone()), vec![0, 2]).unwrap();
    assert_eq!(subset.label(0).unwrap(), Some(1));
    assert!(matches!(subset.label(3).unwrap_err(), Error::Index { index: 3, samples: 3 }));
    assert_eq!(whole(subset).ids, [7, 2, 2]);
    let batch = whole(view);
    assert_eq!(batch.ids, [7, 2]);
    assert_eq!(batch.x.as_f32().unwrap(), [7.0, 14.0, 2.0, 4.0]);
    let error = Subset::new(base, vec![1, 10]).unwrap_err();
    assert!(matches!(error, Error::Index { index: 10, samples: 10 }));
}

#[test]
fn a_split_puts_every_sample_into_one_part() {
    for (samples, classes, fraction) in [(1797, 10, 0.8), (100, 7, 0.5), (10, 10, 0.1), (2, 2, 0.5), (103, 3, 0.99)] {
        let (first, second) = numbers(samples, classes).split_stratified(fraction, 11).unwrap();
        assert_eq!(first.len(), (samples as f64 * fraction).round() as usize);
        let mut all: Vec<usize> = first.indices().iter().chain(second.indices()).copied().collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..samples));
        for class in 0..classes {
            let of_class = |index: &&usize| **index % classes == class;
            let members = (0..samples).filter(|index| of_class(&index)).count();
            let taken = first.indices().iter().filter(of_class).count();
            assert!((taken as f64 - members as f64 * fraction).abs() < 1.0, "{class}: {taken} of {members}");
        }
    }
}

#[test]
fn a_split_belongs_to_its_seed() {
    let indices = |seed| digits().unwrap().split_stratified(0.8, seed).unwrap().0.indices().to_vec();
    assert_eq!(indices(1), indices(1));
    assert_ne!(indices(1), indices(2));
    // Not the first samples of each class: about a fifth of the first hundred belong to the second part.
    let early = indices(1).iter().filter(|&&index| index < 100).count();
    assert!((65..95).contains(&early), "{early}");
}

#[test]
fn splits_that_cannot_be_are_errors() {
    for fraction in [0.0, 1.0, -0.5, 1.5, f64::NAN, f64::INFINITY, 0.01, 0.99] {
        let error = numbers(10, 2).split_stratified(fraction, 0).unwrap_err();
        assert!(matches!(error, Error::Fraction { samples: 10, .. }), "{fraction}: {error}");
    }
    let error = numbers(10, 2).split_stratified(1.0, 0).unwrap_err();
    assert_eq!(error.to_string(), "a fraction of 1 leaves one part of 10 samples empty: use one between 0 and 1");
    assert!(matches!(numbers(0, 2).split_stratified(0.5, 0).unwrap_err(), Error::EmptyDataset { .. }));
}
