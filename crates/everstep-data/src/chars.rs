//! Text as characters, for language models.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{At, Dataset, Error, FieldSpec, Result, SampleMut, SampleSpec, Vocabulary};

/// The windows of a text: `x` is u32, `[T]`, the tokens of T characters; `y`, u32, `[T]`, those one character later.
///
/// T is the context. Windows begin at every character, or by [`CharDataset::with_stride`] at every so many; a loader
/// that shuffles draws them at random. A sample's id is the place of its first character in the whole text, from 0.
///
/// ```
/// use everstep_data::{CharDataset, Dataset, HostLoader, LoaderConfig};
///
/// # fn main() -> everstep_data::Result<()> {
/// let text = "to be, or not to be: that is the question";
/// let (train, test) = CharDataset::new(text, 8)?.split(0.7)?;
/// assert_eq!((train.len(), test.len()), (20, 5));
/// let vocabulary = train.vocabulary().clone();
/// let mut loader = HostLoader::new(train, LoaderConfig::new(4).shuffle(7))?;
/// for batch in loader.epoch() {
///     let batch = batch?;
///     assert_eq!((batch.x.shape(), batch.y.shape()), (&[4, 8][..], &[4, 8][..]));
///     let start = batch.ids[0] as usize;
///     assert_eq!(vocabulary.decode(&batch.x.as_u32().unwrap()[..8])?, text[start..start + 8]);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CharDataset {
    vocabulary: Arc<Vocabulary>,
    text: Arc<[u32]>,
    part: Range<usize>,
    context: usize,
    stride: usize,
    spec: SampleSpec,
}

impl CharDataset {
    /// The windows of `text`, with the vocabulary of its own characters.
    ///
    /// # Errors
    /// [`Error::Context`] where it is 0 or the text too short for one window.
    pub fn new(text: &str, context: usize) -> Result<Self> {
        Self::with_vocabulary(text, Vocabulary::from_text(text), context)
    }

    /// The windows of `text`, in a vocabulary that is given, such as that of the text that a model was trained on.
    ///
    /// ```
    /// use everstep_data::{CharDataset, Error, Vocabulary};
    ///
    /// let bases = Vocabulary::new("ACGT".chars())?;
    /// assert_eq!(CharDataset::with_vocabulary("GATTACA", bases.clone(), 3)?.tokens(), [2, 0, 3, 3, 0, 1, 0]);
    /// let error = CharDataset::with_vocabulary("GAUUACA", bases, 3).unwrap_err();
    /// assert!(matches!(error, Error::UnknownCharacter { character: 'U', position: 2, .. }));
    /// # Ok::<(), everstep_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownCharacter`]; [`Error::Context`].
    pub fn with_vocabulary(text: &str, vocabulary: Vocabulary, context: usize) -> Result<Self> {
        let text: Arc<[u32]> = vocabulary.encode(text)?.into();
        let window = FieldSpec::u32(&[context]);
        let spec = SampleSpec { x: window.clone(), y: window };
        let part = 0..text.len();
        Self { vocabulary: Arc::new(vocabulary), text, part, context, stride: 1, spec }.checked()
    }

    /// Reads a text file, as UTF-8 and otherwise as it is.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Utf8`]; [`Error::Context`].
    pub fn from_path(path: impl AsRef<Path>, context: usize) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| Error::Io { file: path.to_path_buf(), source })?;
        Self::new(utf8(&bytes, path)?, context)
    }

    /// Reads a text file that lies in memory; errors call it `name`.
    ///
    /// # Errors
    /// [`Error::Utf8`]; [`Error::Context`].
    pub fn from_bytes(bytes: &[u8], name: &str, context: usize) -> Result<Self> {
        Self::new(utf8(bytes, Path::new(name))?, context)
    }

    /// The same text with windows that begin `stride` characters apart; with the context as stride they do not overlap.
    ///
    /// # Errors
    /// [`Error::Stride`] where it is 0.
    pub fn with_stride(self, stride: usize) -> Result<Self> {
        if stride == 0 {
            return Err(Error::Stride);
        }
        Ok(Self { stride, ..self })
    }

    /// The first `fraction` of the text, rounded down to a character, and the rest. No window has characters of both,
    /// so what is tested was not seen in training.
    ///
    /// # Errors
    /// [`Error::Fraction`] where a part would be empty; [`Error::Context`] where one is too short for a window.
    pub fn split(self, fraction: f64) -> Result<(Self, Self)> {
        let characters = self.part.len();
        let wanted = (characters as f64 * fraction).floor();
        // Written so that NaN is refused too.
        if !(fraction > 0.0 && fraction < 1.0 && wanted >= 1.0 && wanted < characters as f64) {
            return Err(Error::Fraction { fraction, samples: characters });
        }
        let border = self.part.start + wanted as usize;
        let first = Self { part: self.part.start..border, ..self.clone() };
        let second = Self { part: border..self.part.end, ..self };
        Ok((first.checked()?, second.checked()?))
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The tokens of the text, or of this part of it.
    pub fn tokens(&self) -> &[u32] {
        &self.text[self.part.clone()]
    }

    /// The characters in a window, T.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The characters from the start of one window to the start of the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// `self`, where there is at least one window.
    fn checked(self) -> Result<Self> {
        if self.context == 0 || self.context >= self.part.len() {
            return Err(Error::Context { context: self.context, tokens: self.part.len() });
        }
        Ok(self)
    }
}

/// The text of bytes.
fn utf8<'a>(bytes: &'a [u8], file: &Path) -> Result<&'a str> {
    let wrong = |error: std::str::Utf8Error| Error::Utf8 { file: PathBuf::from(file), offset: error.valid_up_to() };
    std::str::from_utf8(bytes).map_err(wrong)
}

impl Dataset for CharDataset {
    fn len(&self) -> usize {
        // The last window ends one character before the end, for its target. The part is longer than the context.
        (self.part.len() - self.context - 1) / self.stride + 1
    }

    fn spec(&self) -> &SampleSpec {
        &self.spec
    }

    fn read(&self, At { index, .. }: At, sample: SampleMut<'_>) -> Result<()> {
        if index >= self.len() {
            return Err(Error::Index { index, samples: self.len() });
        }
        let window = &self.tokens()[index * self.stride..][..self.context + 1];
        sample.x.u32(self.context)?.copy_from_slice(&window[..self.context]);
        sample.y.u32(self.context)?.copy_from_slice(&window[1..]);
        Ok(())
    }

    fn classes(&self) -> Option<usize> {
        Some(self.vocabulary.len())
    }

    fn id(&self, index: usize) -> u64 {
        // Past the end there is no sample to name; `read` gives the error.
        if index < self.len() { (self.part.start + index * self.stride) as u64 } else { u64::MAX }
    }
}
