//! The embedded digits and MNIST.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

mod common;

use std::path::{Path, PathBuf};

use common::{gzip, idx, whole};
use everstep_data::{Dataset, Error, FieldSpec, IdxArray, IdxProblem, ImageDataset, digits, digits_split, mnist};

#[test]
fn the_digits_are_scikit_learns() {
    let digits = digits().unwrap();
    assert_eq!((digits.len(), digits.classes(), digits.size()), (1797, Some(10), [8, 8]));
    // load_digits(): images.sum(), bincount(target), images[0], images[-1][0], target[:10], target[-5:]
    assert_eq!(digits.pixels().iter().map(|&pixel| u64::from(pixel)).sum::<u64>(), 561_718);
    assert_eq!(digits.pixels().iter().max(), Some(&16));
    let mut counts = [0; 10];
    digits.labels().iter().for_each(|&label| counts[usize::from(label)] += 1);
    assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    #[rustfmt::skip]
    let first = [
        0, 0, 5, 13, 9, 1, 0, 0,
        0, 0, 13, 15, 10, 15, 5, 0,
        0, 3, 15, 2, 0, 11, 8, 0,
        0, 4, 12, 0, 0, 8, 8, 0,
        0, 5, 8, 0, 0, 9, 8, 0,
        0, 4, 11, 0, 1, 12, 7, 0,
        0, 2, 14, 5, 10, 12, 0, 0,
        0, 0, 6, 13, 10, 0, 0, 0,
    ];
    assert_eq!(digits.pixels()[..64], first);
    assert_eq!(digits.pixels()[1796 * 64..][..8], [0, 0, 10, 14, 8, 1, 0, 0]);
    assert_eq!(digits.labels()[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(digits.labels()[1792..], [9, 0, 8, 9, 8]);
}

#[test]
fn pixels_become_numbers_as_they_are_read() {
    let batch = whole(digits().unwrap());
    assert_eq!(batch.x.shape(), [1797, 64]);
    assert_eq!(batch.x.as_f32().unwrap()[..6], [0.0, 0.0, 0.3125, 0.8125, 0.5625, 0.0625]);
    let raw = digits().unwrap().with_divisor(1.0).unwrap().with_channel();
    assert_eq!(raw.spec().x, FieldSpec::f32(&[1, 8, 8]));
    let batch = whole(raw);
    assert_eq!(batch.x.shape(), [1797, 1, 8, 8]);
    assert_eq!(batch.x.as_f32().unwrap()[2..4], [5.0, 13.0]);
    for divisor in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(matches!(digits().unwrap().with_divisor(divisor).unwrap_err(), Error::Divisor { .. }));
    }
}

#[test]
fn the_digits_split_by_class() {
    let (train, test) = digits_split(0).unwrap();
    assert_eq!((train.len(), test.len()), (1438, 359));
    let mut counts = [0; 10];
    whole(test).y.as_u32().unwrap().iter().for_each(|&label| counts[label as usize] += 1);
    assert!(counts.iter().all(|count| (34..=37).contains(count)), "{counts:?}");
}

/// A directory that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("everstep-data-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.join(name), bytes).unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn mnist_is_four_files_plain_or_gzip() {
    let directory = Directory::new("mnist");
    let error = mnist(&directory.0).unwrap_err();
    assert!(matches!(&error, Error::MissingFile { file } if file.ends_with("train-images-idx3-ubyte")), "{error}");
    directory.write("train-images-idx3-ubyte.gz", &gzip(&idx(8, &[2, 1, 3], &[0, 51, 102, 153, 204, 255])));
    directory.write("train-labels-idx1-ubyte", &idx(8, &[2], &[4, 9]));
    directory.write("t10k-images-idx3-ubyte", &idx(8, &[1, 1, 3], &[1, 2, 3]));
    directory.write("t10k-labels-idx1-ubyte.gz", &gzip(&idx(8, &[1], &[0])));
    let (train, test) = mnist(&directory.0).unwrap();
    assert_eq!((train.len(), test.len()), (2, 1));
    let batch = whole(train);
    assert_eq!(batch.x.as_f32().unwrap(), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
    assert_eq!(batch.y.as_u32().unwrap(), [4, 9]);
    directory.write("t10k-labels-idx1-ubyte.gz", &gzip(&idx(8, &[2], &[0, 0])));
    let error = mnist(&directory.0).unwrap_err();
    assert!(matches!(error, Error::Counts { x: 1, y: 2, .. }), "{error}");
}

#[test]
fn images_and_labels_must_belong_together() {
    let array = |bytes: Vec<u8>, name: &str| IdxArray::from_bytes(&bytes, name).unwrap();
    let images = || array(idx(8, &[2, 1, 1], &[1, 2]), "images");
    let labels = |labels: &[u8]| array(idx(8, &[labels.len() as u32], labels), "labels");
    assert_eq!(ImageDataset::from_idx(images(), labels(&[0, 1]), 2).unwrap().labels(), [0, 1]);
    let error = ImageDataset::from_idx(images(), labels(&[0, 1, 1]), 2).unwrap_err();
    assert_eq!(error.to_string(), "there are 2 samples of `x` (images) and 3 of `y` (labels): they must be as many");
    let error = ImageDataset::from_idx(images(), labels(&[0, 2]), 2).unwrap_err();
    assert_eq!(error.to_string(), "labels: at byte 9: expected a label below 2, found 2");
    let floats = array(idx(0x0d, &[2, 1, 1], &[0; 8]), "floats");
    for images in [labels(&[0, 1]), floats] {
        let error = ImageDataset::from_idx(images, labels(&[0, 1]), 2).unwrap_err();
        assert!(matches!(error, Error::Idx { problem: IdxProblem::Kind { .. }, .. }), "{error}");
    }
    // Images without pixels are images.
    let flat = array(idx(8, &[2, 0, 7], &[]), "none");
    assert_eq!(whole(ImageDataset::from_idx(flat, labels(&[0, 1]), 2).unwrap()).x.shape(), [2, 0]);
}

/// The directory of the real MNIST: `mnist` in the one that `EVERSTEP_DATA` names.
fn real_mnist() -> Option<PathBuf> {
    let directory = std::env::var_os("EVERSTEP_DATA").map(|data| Path::new(&data).join("mnist"));
    directory.filter(|directory| directory.is_dir())
}

#[test]
fn the_real_mnist() {
    let Some(directory) = real_mnist() else {
        println!("skipped: EVERSTEP_DATA names no directory with `mnist` in it");
        return;
    };
    let (train, test) = mnist(directory).unwrap();
    assert_eq!((train.len(), test.len()), (7_996, 10_000));
    assert_eq!(test.spec().x, FieldSpec::f32(&[784]));
    assert_eq!(test.clone().with_channel().spec().x, FieldSpec::f32(&[1, 28, 28]));
    assert_eq!(test.labels()[..8], [7, 2, 1, 0, 4, 1, 4, 9]);
    assert_eq!(train.labels()[..8], [5, 0, 4, 1, 9, 2, 1, 3]);
    let values = whole(test);
    let values = values.x.as_f32().unwrap();
    assert!(values.iter().all(|value| (0.0..=1.0).contains(value)) && values.contains(&1.0));
}
