//! Labelled images of bytes, among them MNIST.

use std::path::{Path, PathBuf};

use crate::{At, Dataset, Error, FieldSpec, IdxArray, IdxProblem, Result, SampleMut, SampleSpec};

/// Grey images with class labels. Pixels stay bytes in memory and become f32 as a sample is read: `byte / divisor`.
///
/// `x` is flat, `[H * W]`, unless [`ImageDataset::with_channel`] makes it `[1, H, W]`; `y` is the class, u32, `[]`.
#[derive(Clone, Debug)]
pub struct ImageDataset {
    pixels: Vec<u8>,
    labels: Vec<u8>,
    size: [usize; 2],
    classes: usize,
    divisor: f32,
    spec: SampleSpec,
}

impl ImageDataset {
    /// The images of an IDX file (u8, `[N, H, W]`) with the labels of another (u8, `[N]`), below `classes`.
    ///
    /// # Errors
    /// [`Error::Idx`] where an array is of another kind or a label is out of range, [`Error::Counts`] where the arrays
    /// differ in N.
    pub fn from_idx(images: IdxArray, labels: IdxArray, classes: usize) -> Result<Self> {
        let (x_file, y_file) = (images.file().to_path_buf(), labels.file().to_path_buf());
        let (pixels, image_shape) = images.into_bytes(3, "images of u8 with three dimensions")?;
        let (labels, label_shape) = labels.into_bytes(1, "labels of u8 with one dimension")?;
        if image_shape[0] != label_shape[0] {
            return Err(Error::Counts {
                x: image_shape[0],
                x_source: x_file.display().to_string(),
                y: label_shape[0],
                y_source: y_file.display().to_string(),
            });
        }
        if let Some(at) = labels.iter().position(|&label| usize::from(label) >= classes) {
            // Eight bytes of header come before the labels of a file with one dimension.
            let problem = IdxProblem::Label { label: labels[at], classes };
            return Err(Error::Idx { file: y_file, offset: 8 + at as u64, problem });
        }
        let size = [image_shape[1], image_shape[2]];
        let spec = SampleSpec { x: FieldSpec::f32(&[size[0].saturating_mul(size[1])]), y: FieldSpec::u32(&[]) };
        Ok(Self { pixels, labels, size, classes, divisor: 255.0, spec })
    }

    /// The same images as `[1, H, W]`, for convolutions.
    pub fn with_channel(mut self) -> Self {
        self.spec.x = FieldSpec::f32(&[1, self.size[0], self.size[1]]);
        self
    }

    /// The same images with their pixels divided by `divisor`; 255 unless said otherwise.
    ///
    /// # Errors
    /// [`Error::Divisor`] where it is not a finite number above 0.
    pub fn with_divisor(mut self, divisor: f32) -> Result<Self> {
        if !(divisor.is_finite() && divisor > 0.0) {
            return Err(Error::Divisor { divisor });
        }
        self.divisor = divisor;
        Ok(self)
    }

    /// The height and width in pixels, H and W.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// The pixels as they are stored, `[N, H, W]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The labels, `[N]`.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    fn checked_label(&self, index: usize) -> Result<u32> {
        let label = self.labels.get(index).ok_or(Error::Index { index, samples: self.labels.len() })?;
        Ok(u32::from(*label))
    }
}

impl Dataset for ImageDataset {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn spec(&self) -> &SampleSpec {
        &self.spec
    }

    fn read(&self, At { index, .. }: At, sample: SampleMut<'_>) -> Result<()> {
        let label = self.checked_label(index)?;
        let length = self.pixels.len() / self.labels.len();
        let image = &self.pixels[index * length..(index + 1) * length];
        for (value, &pixel) in sample.x.f32(length)?.iter_mut().zip(image) {
            *value = f32::from(pixel) / self.divisor;
        }
        sample.y.u32(1)?[0] = label;
        Ok(())
    }

    fn classes(&self) -> Option<usize> {
        Some(self.classes)
    }

    fn label(&self, index: usize) -> Result<Option<u32>> {
        self.checked_label(index).map(Some)
    }
}

/// MNIST from its four files in `directory`, each plain or with `.gz`: the training part and the test part.
///
/// Pixels are 0 to 1, `x` is `[784]` (or `[1, 28, 28]` by [`ImageDataset::with_channel`]), `y` 0 to 9. Other data sets in
/// the same four files and with ten classes, such as Fashion-MNIST, are read as well (LeCun, Cortes and Burges, 1998).
///
/// # Errors
/// [`Error::MissingFile`]; [`Error::Io`]; [`Error::Idx`]; [`Error::Counts`].
pub fn mnist(directory: impl AsRef<Path>) -> Result<(ImageDataset, ImageDataset)> {
    let directory = directory.as_ref();
    let part = |name: &str| {
        let images = IdxArray::from_path(plain_or_gzip(directory.join(format!("{name}-images-idx3-ubyte")))?)?;
        let labels = IdxArray::from_path(plain_or_gzip(directory.join(format!("{name}-labels-idx1-ubyte")))?)?;
        ImageDataset::from_idx(images, labels, 10)
    };
    Ok((part("train")?, part("t10k")?))
}

/// `path`, or `path` with `.gz` after it: the one that is there.
fn plain_or_gzip(path: PathBuf) -> Result<PathBuf> {
    if path.exists() {
        return Ok(path);
    }
    let mut compressed = path.clone().into_os_string();
    compressed.push(".gz");
    let compressed = PathBuf::from(compressed);
    if compressed.exists() { Ok(compressed) } else { Err(Error::MissingFile { file: path }) }
}
