//! Transforms: their values, their random numbers, and what cannot be applied.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

mod common;

use std::sync::{Arc, Mutex};

use common::{numbers, whole};
use everstep_data::{
    At, Dataset, Error, FieldMut, HostBatch, HostLoader, HostTensor, InMemoryDataset, LoaderConfig, Permutation,
    SampleMut, Subset, Transform, TransformProblem, digits,
};

fn flip(probability: f32) -> Transform {
    Transform::FlipHorizontal { probability }
}

/// `n` images of `shape` whose values are 1, 2, 3, .. in each.
fn images(n: usize, shape: &[usize]) -> InMemoryDataset {
    let length: usize = shape.iter().product();
    let values: Vec<f32> = (0..n).flat_map(|_| (1..=length).map(|value| value as f32)).collect();
    let x = HostTensor::new(values, &[&[n], shape].concat()).unwrap();
    InMemoryDataset::new(x, HostTensor::new(vec![0u32; n], &[n]).unwrap()).unwrap()
}

fn read(dataset: &impl Dataset, index: usize, epoch: u64) -> Vec<f32> {
    let (mut x, mut y) = (vec![0.0; dataset.spec().x.length().unwrap()], [0]);
    dataset.read(At { index, epoch }, SampleMut { x: FieldMut::F32(&mut x), y: FieldMut::U32(&mut y) }).unwrap();
    x
}

/// The values of 1, 2, 3, .. in `shape` after `transform`.
fn once(shape: &[usize], transform: Transform) -> Vec<f32> {
    read(&images(1, shape).transformed([transform], 0).unwrap(), 0, 0)
}

fn every_random_transform() -> Vec<Transform> {
    vec![
        Transform::Reshape { shape: vec![1, 8, 8] },
        flip(0.5),
        Transform::FlipVertical { probability: 0.5 },
        Transform::Rotate { degrees: 30.0 },
        Transform::Crop { size: [7, 6], padding: 2 },
        Transform::Noise { std: 0.1 },
        Transform::custom("scale", |values, _, generator| {
            let factor = generator.uniform();
            values.iter_mut().for_each(|value| *value *= factor);
            Ok(())
        }),
    ]
}

fn nothing() -> Transform {
    Transform::custom("nothing", |_, _, _| Ok(()))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn values_by_hand() {
    assert_eq!(once(&[2, 3], flip(1.0)), [3.0, 2.0, 1.0, 6.0, 5.0, 4.0]);
    assert_eq!(once(&[2, 3], Transform::FlipVertical { probability: 1.0 }), [4.0, 5.0, 6.0, 1.0, 2.0, 3.0]);
    let normalise = |mean: &[f64], std: &[f64]| Transform::Normalise { mean: mean.to_vec(), std: std.to_vec() };
    assert_eq!(once(&[2, 2], normalise(&[1.0], &[2.0])), [0.0, 0.5, 1.0, 1.5]);
    assert_eq!(once(&[2, 1, 2], normalise(&[1.0, 3.5], &[0.5, 0.25])), [0.0, 2.0, -2.0, 2.0]);
    assert_eq!(once(&[3], normalise(&[1.0, 1.0, 1.0], &[2.0])), [0.0, 0.5, 1.0]);
    assert_eq!(once(&[], normalise(&[3.0], &[2.0])), [-1.0]);
    assert_eq!(once(&[2, 3], Transform::Reshape { shape: vec![3, 2] }), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    // f64 on the way: in f32 the difference of these would be 0.
    let fine = Transform::Normalise { mean: vec![1.0 - 1e-9], std: vec![1e-9] };
    assert!((once(&[1], fine)[0] - 1.0).abs() < 1e-6);
}

#[test]
fn what_changes_nothing_keeps_every_bit() {
    for transform in [
        flip(0.0),
        Transform::FlipVertical { probability: 0.0 },
        Transform::Crop { size: [8, 8], padding: 0 },
        Transform::Rotate { degrees: 0.0 },
        Transform::Noise { std: 0.0 },
        Transform::Normalise { mean: vec![0.0], std: vec![1.0] },
        Transform::Reshape { shape: vec![8, 8] },
        nothing(),
    ] {
        let name = transform.name().to_string();
        let square = Transform::Reshape { shape: vec![8, 8] };
        let transformed = digits().unwrap().transformed([square, transform], 3).unwrap();
        for index in 0..20 {
            assert_eq!(bits(&read(&transformed, index, 1)), bits(&read(&digits().unwrap(), index, 0)), "{name}");
        }
    }
    let untouched = digits().unwrap().transformed([], 0).unwrap();
    assert_eq!((untouched.len(), untouched.classes(), untouched.label(5).unwrap()), (1797, Some(10), Some(5)));
    assert_eq!(whole(untouched), whole(digits().unwrap()));
}

#[test]
fn two_sure_flips_are_nothing() {
    for shape in [vec![1, 1], vec![3, 5, 7], vec![2, 3, 4, 5], vec![8, 1], vec![1, 8]] {
        let plain = read(&images(1, &shape), 0, 0);
        for transform in [flip(1.0), Transform::FlipVertical { probability: 1.0 }] {
            let twice = images(1, &shape).transformed([transform.clone(), transform], 9).unwrap();
            assert_eq!(read(&twice, 0, 4), plain);
        }
    }
}

#[test]
fn shapes_follow_the_list() {
    let list = [
        Transform::Reshape { shape: vec![1, 8, 8] },
        Transform::Crop { size: [5, 9], padding: 3 },
        Transform::Normalise { mean: vec![0.0], std: vec![1.0] },
        Transform::Reshape { shape: vec![45] },
    ];
    let transformed = digits().unwrap().transformed(list.clone(), 0).unwrap();
    assert_eq!((&transformed.spec().x.shape[..], transformed.seed()), (&[45][..], 0));
    assert!(transformed.transforms().eq(&list));
    assert_eq!(transformed.base().len(), transformed.len());
    let batch = whole(Subset::new(Arc::new(transformed), (0..7).collect()).unwrap());
    assert_eq!(batch.x.shape(), [7, 45]);
    // Images without a pixel are images too.
    for shape in [[0, 3], [3, 0]] {
        let list = [flip(1.0), Transform::FlipVertical { probability: 1.0 }, Transform::Rotate { degrees: 9.0 }];
        let list = list.into_iter().chain([Transform::Crop { size: [1, 2], padding: 1 }]);
        assert_eq!(read(&images(1, &shape).transformed(list, 0).unwrap(), 0, 0), [0.0, 0.0]);
    }
}

/// The first numbers of three generators, from an implementation of Philox in Python:
/// ```python
/// M = 2**32 - 1
/// def philox(c, k):
///     for r in range(10):
///         if r: k = [(k[0] + 0x9E3779B9) & M, (k[1] + 0xBB67AE85) & M]
///         a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
///         c = [b >> 32 ^ c[1] ^ k[0], b & M, a >> 32 ^ c[3] ^ k[1], a & M]
///     return c
/// def uniforms(seed, epoch, id, place):  # in units of 2**-24
///     key = philox([epoch & M, epoch >> 32, 0x7472616e, 0], [seed & M, seed >> 32])[:2]
///     return [w >> 8 for w in philox([0, id & M, id >> 32, 0x7472616e + place], key)]
/// ```
#[test]
fn random_numbers_from_python() {
    let draw = || {
        Transform::custom("draw", |values, _, generator| {
            values.iter_mut().for_each(|value| *value = generator.uniform() * 16_777_216.0);
            Ok(())
        })
    };
    let drawn = |seed, epoch, index, places: usize| {
        let list: Vec<Transform> = (0..places).map(|_| draw()).collect();
        read(&images(6, &[4]).transformed(list, seed).unwrap(), index, epoch)
    };
    assert_eq!(drawn(7, 2, 5, 1), [4983352.0, 11875532.0, 514884.0, 3890316.0]);
    assert_eq!(drawn(7, 2, 5, 2), [14100136.0, 9717480.0, 12196336.0, 16119667.0]);
    assert_eq!(drawn(1 << 40, 1 << 33, 3, 1), [8403707.0, 13749324.0, 4493635.0, 10598900.0]);
}

#[test]
fn another_seed_epoch_sample_or_place_is_another_number() {
    let noise = || Transform::Noise { std: 1.0 };
    let read = |seed, epoch, index, list: Vec<Transform>| {
        bits(&read(&images(8, &[16]).transformed(list, seed).unwrap(), index, epoch))
    };
    let one = read(1, 1, 1, vec![noise()]);
    assert_eq!(one, read(1, 1, 1, vec![noise()]));
    for other in [read(2, 1, 1, vec![noise()]), read(1, 2, 1, vec![noise()]), read(1, 1, 2, vec![noise()])] {
        assert_ne!(one, other);
    }
    // The second place draws other numbers than the first.
    assert_ne!(one, read(1, 1, 1, vec![nothing(), noise()]));
    // What comes after a transform does not change what it draws.
    assert_eq!(one, read(1, 1, 1, vec![noise(), nothing()]));
}

#[test]
fn the_same_bits_in_any_order_and_view() {
    let transformed = Arc::new(digits().unwrap().transformed(every_random_transform(), 5).unwrap());
    let straight: Vec<Vec<f32>> = (0..40).map(|index| read(&transformed, index, 3)).collect();
    for index in (0..40).rev() {
        assert_eq!(read(&transformed, index, 3), straight[index]);
    }
    // A subset of the transformed and the transformed subset name the samples alike.
    let indices: Vec<usize> = vec![17, 3, 39, 3];
    let outside = Subset::new(Arc::clone(&transformed), indices.clone()).unwrap();
    let inside = Subset::new(Arc::new(digits().unwrap()), indices.clone()).unwrap();
    let inside = inside.transformed(transformed.transforms().cloned(), 5).unwrap();
    for (at, &index) in indices.iter().enumerate() {
        assert_eq!(read(&outside, at, 3), straight[index]);
        assert_eq!(read(&inside, at, 3), straight[index]);
    }
}

#[test]
fn the_same_bits_after_a_resume_and_with_the_worker() {
    let loader = |prefetch| {
        let (part, _) = digits().unwrap().split_stratified(0.02, 1).unwrap();
        let transformed = part.transformed(every_random_transform(), 5).unwrap();
        HostLoader::new(transformed, LoaderConfig::new(7).shuffle(2).prefetch(prefetch)).unwrap()
    };
    let take = |loader: &mut HostLoader, calls: usize| -> Vec<Option<HostBatch>> {
        (0..calls).map(|_| loader.next_batch().unwrap()).collect()
    };
    let all = take(&mut loader(0), 20);
    assert!(all.iter().filter(|batch| batch.is_none()).count() >= 2);
    for prefetch in [1, 3, 8] {
        assert_eq!(take(&mut loader(prefetch), 20), all);
    }
    for prefetch in [0, 3] {
        let mut resumed = loader(prefetch);
        for (at, batch) in all.iter().enumerate().rev() {
            let Some(batch) = batch else { continue };
            resumed.seek(batch.before).unwrap();
            assert_eq!(take(&mut resumed, 20 - at), all[at..]);
        }
    }
    // Another epoch has other pictures of the same samples.
    let picture = |epoch: u64, id: u64| {
        let batches = all.iter().flatten().filter(|batch| batch.before.epoch == epoch);
        let mut rows = batches
            .flat_map(|batch| batch.ids.iter().copied().zip(batch.x.as_f32().unwrap().chunks(42)).collect::<Vec<_>>());
        rows.find(|(other, _)| *other == id).map(|(_, row)| row.to_vec())
    };
    let id = all[0].as_ref().unwrap().ids[0];
    assert!(picture(0, id).is_some() && picture(0, id) != picture(1, id));
}

#[test]
fn probabilities_are_kept() {
    let n = 20_000;
    for probability in [0.1, 0.5, 0.9] {
        let both = [flip(probability), Transform::FlipVertical { probability }];
        let flipped = images(n, &[2, 2]).transformed(both, 11).unwrap();
        let mut counts = [0u32; 4];
        for index in 0..n {
            // 1 2     1, 2, 3 or 4 comes first when nothing, the columns, the rows or both are turned.
            // 3 4
            counts[read(&flipped, index, 2)[0] as usize - 1] += 1;
        }
        let p = f64::from(probability);
        let expected = [(1.0 - p) * (1.0 - p), p * (1.0 - p), (1.0 - p) * p, p * p];
        for (count, share) in counts.into_iter().zip(expected) {
            // Five standard deviations of a binomial distribution.
            let bound = 5.0 * (n as f64 * share * (1.0 - share)).sqrt();
            assert!((f64::from(count) - n as f64 * share).abs() < bound, "{probability}: {counts:?}");
        }
    }
}

#[test]
fn every_crop_is_as_likely() {
    // 3x4 with a margin of 1 is 5x6; a crop of 3x3 has 3 * 4 places, which its middle pixel tells apart.
    let n = 12_000;
    let cropped = images(n, &[3, 4]).transformed([Transform::Crop { size: [3, 3], padding: 1 }], 3).unwrap();
    let mut counts = [0u32; 12];
    (0..n).for_each(|index| counts[read(&cropped, index, 0)[4] as usize - 1] += 1);
    let expected = n as f64 / 12.0;
    let statistic: f64 = counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
    // Five standard deviations above the mean of a chi-square of 11 degrees.
    assert!(statistic < 11.0 + 5.0 * 22f64.sqrt(), "{counts:?}");
}

#[test]
fn noise_and_angles_have_their_distributions() {
    let n = 40_000;
    let zeros = |shape: &[usize]| {
        let x = HostTensor::new(vec![0.0f32; n * shape.iter().product::<usize>()], &[&[n], shape].concat()).unwrap();
        InMemoryDataset::new(x, HostTensor::new(vec![0u32; n], &[n]).unwrap()).unwrap()
    };
    let noisy = zeros(&[2]).transformed([Transform::Noise { std: 3.0 }], 1).unwrap();
    let values: Vec<f64> = (0..n).flat_map(|index| read(&noisy, index, 0)).map(f64::from).collect();
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let together = values.chunks(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / n as f64;
    // Five standard errors: std / sqrt(n), variance * sqrt(2 / n), variance / sqrt(n).
    assert!(mean.abs() < 5.0 * 3.0 / count.sqrt(), "{mean}");
    assert!((variance - 9.0).abs() < 5.0 * 9.0 * (2.0 / count).sqrt(), "{variance}");
    assert!(together.abs() < 5.0 * 9.0 / (n as f64).sqrt(), "{together}");
    // A 1 to the right of the centre moves up or down as the image is turned, by the sine of the angle.
    let mut pixel = vec![0.0f32; 9 * n];
    pixel.chunks_mut(9).for_each(|image| image[5] = 1.0);
    let x = HostTensor::new(pixel, &[n, 3, 3]).unwrap();
    let pixels = InMemoryDataset::new(x, HostTensor::new(vec![0u32; n], &[n]).unwrap()).unwrap();
    let turned = pixels.transformed([Transform::Rotate { degrees: 1.0 }], 1).unwrap();
    let largest = 1f64.to_radians();
    let (mut up, mut sum) = (0u32, 0.0);
    for index in 0..n {
        let image = read(&turned, index, 0);
        // Anticlockwise is up, to the row above, by sin a; down to the row below otherwise.
        let angle = f64::from(image[2] - image[8]).asin();
        assert!(angle.abs() <= largest * 1.01, "{angle}");
        up += u32::from(angle > 0.0);
        sum += angle.abs() / largest;
    }
    let share = f64::from(up) / n as f64;
    assert!((share - 0.5).abs() < 5.0 * 0.5 / (n as f64).sqrt(), "{share}");
    // A uniform number has the mean 1/2 and the deviation 1/sqrt(12); interpolation costs less than 0.4%.
    let mean = sum / n as f64;
    assert!((mean - 0.5).abs() < 0.004 + 5.0 * 0.289 / (n as f64).sqrt(), "{mean}");
}

#[test]
fn a_custom_transform_sees_the_shape_and_its_errors_arrive() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let look = Transform::custom("look", move |values, shape, _| {
        record.lock().unwrap().push((values.len(), shape.to_vec()));
        Ok(())
    });
    assert_eq!((look.name(), look.clone() == look), ("look", true));
    assert!(look != Transform::custom("look", |_, _, _| Ok(())));
    assert!(format!("{look:?}").contains("look"));
    assert!(serde_json::to_string(&look).is_err());
    let crop = Transform::Crop { size: [1, 2], padding: 0 };
    read(&images(1, &[2, 3]).transformed([look.clone(), crop, look], 0).unwrap(), 0, 0);
    assert_eq!(*seen.lock().unwrap(), [(6, vec![2, 3]), (2, vec![1, 2])]);
    for prefetch in [0, 2] {
        let refuse = Transform::custom("refuse", |_, _, _| Err(Error::dataset(4, "too dark")));
        let config = LoaderConfig::new(2).prefetch(prefetch);
        let mut loader = HostLoader::new(numbers(4, 2).transformed([refuse], 0).unwrap(), config.clone()).unwrap();
        assert!(loader.next_batch().unwrap_err().to_string().ends_with("too dark"));
        let panic = Transform::custom("panic", |_, _, _| panic!("no light"));
        let mut loader = HostLoader::new(numbers(4, 2).transformed([panic], 0).unwrap(), config).unwrap();
        assert!(matches!(loader.next_batch().unwrap_err(), Error::DatasetPanic { index: 0, .. }));
    }
}

#[test]
fn transforms_that_do_not_fit_are_errors() {
    let problem = |transform: Transform| {
        let list = [Transform::Reshape { shape: vec![2, 2, 3] }, transform];
        match images(1, &[12]).transformed(list, 0).unwrap_err() {
            Error::Transform { position: 1, problem, .. } => problem,
            other => panic!("{other}"),
        }
    };
    let normalise = |mean: &[f64], std: &[f64]| Transform::Normalise { mean: mean.to_vec(), std: std.to_vec() };
    for (field, transform) in [
        ("mean", normalise(&[f64::NAN], &[1.0])),
        ("std", normalise(&[0.0], &[0.0])),
        ("std", normalise(&[0.0], &[1.0, -1.0])),
        ("std", normalise(&[0.0], &[f64::INFINITY])),
        ("probability", flip(1.5)),
        ("probability", flip(f32::NAN)),
        ("probability", Transform::FlipVertical { probability: -0.1 }),
        ("degrees", Transform::Rotate { degrees: -1.0 }),
        ("degrees", Transform::Rotate { degrees: f32::INFINITY }),
        ("std", Transform::Noise { std: -1.0 }),
        ("std", Transform::Noise { std: f32::NAN }),
    ] {
        let found = problem(transform);
        assert!(matches!(&found, TransformProblem::Range { field: name, .. } if *name == field), "{found}");
    }
    for (mean, std) in [(&[][..], &[1.0][..]), (&[0.0; 3], &[1.0]), (&[0.0], &[1.0; 12])] {
        assert!(matches!(problem(normalise(mean, std)), TransformProblem::Channels { .. }));
    }
    for (size, padding) in [([0, 3], 0), ([2, 4], 0), ([5, 3], 1), ([1, 1], usize::MAX), ([1, 1], 1 << 40)] {
        let found = problem(Transform::Crop { size, padding });
        assert!(matches!(found, TransformProblem::CropSize { image: [2, 3], .. }), "{found}");
    }
    for shape in [vec![], vec![11], vec![usize::MAX, 2]] {
        assert!(matches!(problem(Transform::Reshape { shape }), TransformProblem::Reshape { .. }));
    }
    for transform in [flip(0.5), Transform::Rotate { degrees: 1.0 }, Transform::Crop { size: [1, 1], padding: 0 }] {
        let error = digits().unwrap().transformed([transform], 0).unwrap_err();
        assert!(matches!(&error, Error::Transform { position: 0, problem: TransformProblem::NotImage { .. }, .. }));
    }
    assert_eq!(
        digits().unwrap().transformed([flip(0.5)], 0).unwrap_err().to_string(),
        "transform 0 (flip_horizontal): an image is needed, [H, W] or [C, H, W], but `x` is [64]: put a `Reshape` before"
    );
    let tokens = HostTensor::new(vec![0u32; 4], &[2, 2]).unwrap();
    let text = InMemoryDataset::new(tokens.clone(), tokens).unwrap();
    assert!(matches!(Transform::standardise(&text).unwrap_err(), Error::NotFloat { .. }));
    assert!(matches!(text.transformed([], 0).unwrap_err(), Error::NotFloat { .. }));
}

#[test]
fn the_serialised_form_is_strict() {
    let list: Vec<Transform> = every_random_transform().into_iter().take(6).collect();
    let text = serde_json::to_string(&list).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Transform>>(&text).unwrap(), list);
    let parsed: Transform = serde_json::from_str(r#"{"crop": {"size": [28, 28]}}"#).unwrap();
    assert_eq!(parsed, Transform::Crop { size: [28, 28], padding: 0 });
    for wrong in [r#"{"noise": {"std": 1, "mean": 0}}"#, r#"{"noise": {}}"#, r#"{"blur": {}}"#, r#"{"custom": 1}"#] {
        assert!(serde_json::from_str::<Transform>(wrong).is_err(), "{wrong}");
    }
}

/// Means and deviations from Python: `statistics.fmean(column), statistics.pstdev(column)`.
#[test]
fn standardising_columns() {
    let rows = [[1.0f32, 0.5, -3.0], [2.0, 0.5, 0.0], [4.0, 0.5, 1e6], [8.0, 0.5, 7.0]];
    let x = HostTensor::new(rows.concat(), &[4, 3]).unwrap();
    let dataset = InMemoryDataset::new(x, HostTensor::new(vec![0.0f32; 4], &[4]).unwrap()).unwrap();
    let fitted = Transform::standardise(&dataset).unwrap();
    let Transform::Normalise { mean, std } = &fitted else { panic!("{fitted:?}") };
    // The second column never changes, so nothing is divided.
    for (found, expected) in [(mean, [3.75, 0.5, 250001.0]), (std, [2.680951323690902, 1.0, 433012.12455715373])] {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-12 * b.abs()), "{found:?}");
    }
    // The parameters go through JSON to where the model serves.
    let fitted = serde_json::from_str(&serde_json::to_string(&fitted).unwrap()).unwrap();
    let batch = whole(dataset.transformed([fitted], 0).unwrap());
    for column in 0..3 {
        let values: Vec<f64> =
            batch.x.as_f32().unwrap().iter().skip(column).step_by(3).map(|&x| f64::from(x)).collect();
        let mean = values.iter().sum::<f64>() / 4.0;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 4.0;
        let expected = if column == 1 { 0.0 } else { 1.0 };
        assert!(mean.abs() < 1e-6 && (variance - expected).abs() < 1e-6, "{column}: {mean} {variance}");
    }
}

#[test]
fn standardising_is_fitted_on_the_part_it_is_given() {
    let part = Subset::new(Arc::new(numbers(10, 2)), vec![2, 4]).unwrap();
    let expected = Transform::Normalise { mean: vec![3.0, 6.0], std: vec![1.0, 2.0] };
    assert_eq!(Transform::standardise(&part).unwrap(), expected);
    // Channels of images: the mean is that of all their pixels.
    let fitted = Transform::standardise(&images(3, &[2, 2, 2])).unwrap();
    let Transform::Normalise { mean, std } = &fitted else { panic!("{fitted:?}") };
    assert!((mean[0] - 2.5).abs() < 1e-12 && (mean[1] - 6.5).abs() < 1e-12, "{mean:?}");
    assert!(std.len() == 2 && std.iter().all(|std| (std - 1.25f64.sqrt()).abs() < 1e-12), "{std:?}");
    let error = Transform::standardise(&images(0, &[2])).unwrap_err();
    assert!(matches!(error, Error::EmptyDataset { .. }), "{error}");
    let x = HostTensor::new(vec![1.0, 2.0, 3.0, f32::NAN], &[2, 2]).unwrap();
    let broken = InMemoryDataset::new(x, HostTensor::new(vec![0u32; 2], &[2]).unwrap()).unwrap();
    let error = Transform::standardise(&broken).unwrap_err();
    assert!(matches!(error, Error::NotFinite { id: 1, place: 1, .. }), "{error}");
    // Far from zero, sums of squares would lose everything.
    let far: Vec<f32> = (0..1000).map(|index| 16_777_216.0 + 2.0 * (index % 2) as f32).collect();
    let x = HostTensor::new(far, &[1000]).unwrap();
    let far = InMemoryDataset::new(x, HostTensor::new(vec![0u32; 1000], &[1000]).unwrap()).unwrap();
    let Transform::Normalise { mean, std } = Transform::standardise(&far).unwrap() else { panic!() };
    assert!((mean[0] - 16_777_217.0).abs() < 1e-6 && (std[0] - 1.0).abs() < 1e-9, "{mean:?} {std:?}");
}

#[test]
fn a_random_split_puts_every_sample_into_one_part() {
    for (samples, fraction) in [(2, 0.5), (10, 0.8), (1797, 0.33)] {
        let (first, second) = numbers(samples, 2).split_random(fraction, 4).unwrap();
        assert_eq!(first.len(), (samples as f64 * fraction).round() as usize);
        assert!(first.indices().is_sorted() && second.indices().is_sorted());
        let order = Permutation::new(samples, 4, 0);
        assert!(first.indices().iter().all(|&index| order.get(index).unwrap() < first.len()));
        let mut all = [first.indices(), second.indices()].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..samples));
    }
    let indices = |seed| numbers(100, 2).split_random(0.5, seed).unwrap().0.indices().to_vec();
    assert!(indices(1) == indices(1) && indices(1) != indices(2));
    for fraction in [0.0, 1.0, f64::NAN, 0.01, 0.99] {
        let error = numbers(10, 2).split_random(fraction, 0).unwrap_err();
        assert!(matches!(error, Error::Fraction { samples: 10, .. }), "{error}");
    }
    assert!(matches!(numbers(0, 2).split_random(0.5, 0).unwrap_err(), Error::EmptyDataset { .. }));
}
