//! The mean and spread of a dataset.

use crate::host::Values;
use crate::{At, Dataset, ElementType, Error, Result, SampleMut, Transform};

impl Transform {
    /// The [`Transform::Normalise`] that gives each entry of the first dimension of `x` (the columns of `[F]`, the
    /// channels of `[C, H, W]`) the mean 0 and the standard deviation 1 over `dataset`, which is read once, in epoch 0.
    ///
    /// Fit it on the training part alone and use it for both parts. Computed in f64 (Welford, "Note on a method for
    /// calculating corrected sums of squares and products", 1962); the standard deviation is that of the population,
    /// `sqrt(mean((x - mean)^2))`, as in scikit-learn's `StandardScaler`. An entry that never changes gets a std of 1.
    ///
    /// ```
    /// use everstep_data::{CsvConfig, CsvDataset, Dataset, Transform};
    ///
    /// # fn main() -> everstep_data::Result<()> {
    /// let text = "rooms,area,price\n2,50,100\n3,70,150\n4,120,210\n1,30,70\n5,140,260\n";
    /// let houses = CsvDataset::from_bytes(text.as_bytes(), "houses.csv", &CsvConfig::value("price"))?;
    /// let (train, test) = houses.split_random(0.8, 7)?;
    /// let standardise = Transform::standardise(&train)?;
    /// let train = train.transformed([standardise.clone()], 7)?;
    /// let test = test.transformed([standardise], 7)?;
    /// # assert_eq!((train.len(), test.len()), (4, 1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::EmptyDataset`]; [`Error::NotFloat`] where `x` is not f32; [`Error::NotFinite`];
    /// [`Error::OutOfMemory`]; what the dataset returns.
    pub fn standardise(dataset: &impl Dataset) -> Result<Self> {
        let spec = dataset.spec();
        if spec.x.element != ElementType::F32 {
            return Err(Error::NotFloat { found: spec.x.element, action: "standardising" });
        }
        let channels = spec.x.shape.first().copied().unwrap_or(1);
        let large = |field: Option<usize>| field.ok_or(Error::OutOfMemory { what: "a sample", bytes: None });
        let (x_length, y_length) = (large(spec.x.length())?, large(spec.y.length())?);
        if dataset.is_empty() || x_length == 0 {
            return Err(Error::EmptyDataset { action: "standardising" });
        }
        let mut statistics = vec![Statistics::default(); channels];
        for index in 0..dataset.len() {
            let (mut x, mut y) = (Values::zeros(spec.x.element, x_length)?, Values::zeros(spec.y.element, y_length)?);
            let sample = SampleMut { x: x.field_mut(0..x_length), y: y.field_mut(0..y_length) };
            dataset.read(At::index(index), sample)?;
            for (place, &value) in x.as_f32().unwrap_or_default().iter().enumerate() {
                if !value.is_finite() {
                    return Err(Error::NotFinite { id: dataset.id(index), place, value });
                }
                statistics[place / (x_length / channels)].add(f64::from(value));
            }
        }
        let std = statistics.iter().map(Statistics::std).collect();
        Ok(Self::Normalise { mean: statistics.iter().map(|channel| channel.mean).collect(), std })
    }
}

/// The mean and the sum of squared differences from it of the values so far.
#[derive(Clone, Debug, Default)]
struct Statistics {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Statistics {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let before = value - self.mean;
        self.mean += before / self.count;
        self.squares += before * (value - self.mean);
    }

    /// The standard deviation; 1 where there is none, so that dividing by it is nothing.
    fn std(&self) -> f64 {
        let std = (self.squares / self.count).sqrt();
        if std > 0.0 { std } else { 1.0 }
    }
}
