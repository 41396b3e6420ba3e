//! A small real data set that needs no file.

use crate::{Dataset, IdxArray, ImageDataset, Result, Subset};

const IMAGES: &[u8] = include_bytes!("../data/digits-images-idx3-ubyte.gz");
const LABELS: &[u8] = include_bytes!("../data/digits-labels-idx1-ubyte.gz");

/// 1,797 handwritten digits of 8x8 pixels with their classes 0 to 9, the samples of scikit-learn's `load_digits`.
///
/// Pixels are k / 16 with k from 0 to 16; `x` is `[64]` (or `[1, 8, 8]` by [`ImageDataset::with_channel`]).
/// `with_divisor(1.0)` gives scikit-learn's own values, 0 to 16.
///
/// Source: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998
/// (CC BY 4.0), its test part.
///
/// # Errors
/// None that is known; the type is that of the reader.
pub fn digits() -> Result<ImageDataset> {
    let images = IdxArray::from_bytes(IMAGES, "digits-images-idx3-ubyte.gz")?;
    let labels = IdxArray::from_bytes(LABELS, "digits-labels-idx1-ubyte.gz")?;
    ImageDataset::from_idx(images, labels, 10)?.with_divisor(16.0)
}

/// [`digits`] in two parts, 80% to train and 20% to test, each class by that share; the same for the same `seed`.
///
/// # Errors
/// As [`digits`].
pub fn digits_split(seed: u64) -> Result<(Subset<ImageDataset>, Subset<ImageDataset>)> {
    digits()?.split_stratified(0.8, seed)
}
