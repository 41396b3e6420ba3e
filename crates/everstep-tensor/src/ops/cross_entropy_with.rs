//! Cross-entropy with smoothed labels, weighted classes, ignored labels, or targets that are probabilities, by PyTorch's
//! definition. Derived ops; without options it is the fused [`Tensor::cross_entropy`].

use everstep_device::{DType, Shape};
use serde::{Deserialize, Serialize};

use super::gather;
use super::reduce::{gated, indicator, indicator_of};
use super::reference::{Array, Domain, largest, sum};
use super::table::{Case, Cases, Entry, FLOAT, Gradient, Tolerance};
use crate::{Error, Result, Tensor};

/// What becomes of the losses of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowReduction {
    /// Their mean, weighted by the weights of their labels; ignored rows do not count.
    #[default]
    Mean,
    /// Their sum.
    Sum,
    /// Nothing: one loss per row, 0 of an ignored one.
    None,
}

/// Settings of [`Tensor::cross_entropy_with`], those of PyTorch's `CrossEntropyLoss`.
///
/// ```
/// # use everstep_tensor::CrossEntropyOptions;
/// let options = CrossEntropyOptions::default().label_smoothing(0.1).ignore_index(7);
/// let written = r#"{"label_smoothing": 0.1, "ignore_index": 7}"#;
/// assert_eq!(serde_json::from_str::<CrossEntropyOptions>(written).unwrap(), options);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrossEntropyOptions {
    /// A factor for the losses of each class.
    pub class_weights: Option<Vec<f32>>,
    /// The share of a label that is spread evenly over all classes: 0 to 1.
    pub label_smoothing: f32,
    /// Rows of this label have loss 0 and no gradient.
    pub ignore_index: Option<u32>,
    /// What becomes of the losses of the rows.
    pub reduction: RowReduction,
}

impl CrossEntropyOptions {
    /// A factor for the losses of each class.
    ///
    /// ```
    /// # use everstep_tensor::{CrossEntropyOptions, Device, Tensor};
    /// let logits = Tensor::from_slice(&[0.0f32, 100.0, 0.0, 100.0], &[2, 2], &Device::cpu())?;
    /// let labels = Tensor::from_slice(&[0u32, 1], &[2], &Device::cpu())?;
    /// let options = CrossEntropyOptions::default().class_weights([1.0, 3.0]);
    /// // 100 of the first row and 0 of the second, with weights 1 and 3.
    /// assert_eq!(logits.cross_entropy_with(&labels, &options)?.item::<f32>()?, 25.0);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn class_weights(self, weights: impl Into<Vec<f32>>) -> Self {
        Self { class_weights: Some(weights.into()), ..self }
    }

    /// The share of a label that is spread evenly over all classes: 0 to 1.
    ///
    /// ```
    /// # use everstep_tensor::{CrossEntropyOptions, Device, Tensor};
    /// let logits = Tensor::from_slice(&[0.0f32, 100.0, 0.0, 100.0], &[2, 2], &Device::cpu())?;
    /// let labels = Tensor::from_slice(&[0u32, 1], &[2], &Device::cpu())?;
    /// let options = CrossEntropyOptions::default().label_smoothing(0.5);
    /// // Labels of 3/4 and 1/4: losses 75 and 25.
    /// assert_eq!(logits.cross_entropy_with(&labels, &options)?.item::<f32>()?, 50.0);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn label_smoothing(self, share: f32) -> Self {
        Self { label_smoothing: share, ..self }
    }

    /// Rows of this label have loss 0 and no gradient.
    ///
    /// ```
    /// # use everstep_tensor::{CrossEntropyOptions, Device, Tensor};
    /// let logits = Tensor::from_slice(&[0.0f32, 100.0, 0.0, 100.0], &[2, 2], &Device::cpu())?;
    /// let labels = Tensor::from_slice(&[0u32, 1], &[2], &Device::cpu())?;
    /// let options = CrossEntropyOptions::default().ignore_index(1);
    /// assert_eq!(logits.cross_entropy_with(&labels, &options)?.item::<f32>()?, 100.0);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn ignore_index(self, label: u32) -> Self {
        Self { ignore_index: Some(label), ..self }
    }

    /// What becomes of the losses of the rows.
    ///
    /// ```
    /// # use everstep_tensor::{CrossEntropyOptions, Device, RowReduction, Tensor};
    /// let logits = Tensor::from_slice(&[0.0f32, 100.0, 0.0, 100.0], &[2, 2], &Device::cpu())?;
    /// let labels = Tensor::from_slice(&[0u32, 1], &[2], &Device::cpu())?;
    /// let options = CrossEntropyOptions::default().reduction(RowReduction::None);
    /// assert_eq!(logits.cross_entropy_with(&labels, &options)?.to_vec::<f32>()?, [100.0, 0.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn reduction(self, reduction: RowReduction) -> Self {
        Self { reduction, ..self }
    }

    /// The weights as a tensor [C], if there are any.
    fn weights(&self, logits: &Tensor, classes: usize) -> Result<Option<Tensor>> {
        let op = "cross_entropy";
        let wrong = |name, value: f64, range| Err(Error::Argument { op, name, value, range });
        if !(0.0..=1.0).contains(&self.label_smoothing) {
            return wrong("label smoothing", f64::from(self.label_smoothing), "0 to 1");
        }
        match &self.class_weights {
            Some(weights) if weights.len() != classes => {
                wrong("number of class weights", weights.len() as f64, "the number of classes alone")
            }
            Some(weights) => Tensor::from_slice(weights, &[classes], logits.device()).map(Some),
            None => Ok(None),
        }
    }
}

/// What of a row is counted: its factor in a weighted mean.
struct Rows {
    losses: Tensor,
    // None: 1 for each.
    factors: Option<Tensor>,
}

impl Rows {
    fn reduced(self, reduction: RowReduction, shape: &Shape) -> Result<Tensor> {
        match (reduction, self.factors) {
            (RowReduction::Mean, None) => self.losses.mean_all(),
            (RowReduction::Mean, Some(factors)) => self.losses.sum_all()?.div(&factors.sum_all()?),
            (RowReduction::Sum, _) => self.losses.sum_all(),
            (RowReduction::None, _) => self.losses.reshape_to(*shape),
        }
    }
}

impl Tensor {
    /// The loss of logits [.., C] (this tensor) with labels u32 [..], by PyTorch's definition: with p the softmax, w the
    /// class weights and s the smoothing, a row of label y has the loss
    /// (1 - s) w_y (-log p_y) + s / C sum_c w_c (-log p_c), or 0 where y is ignored; the mean divides by the sum of w_y of
    /// the rows that are not.
    ///
    /// # Errors
    /// As [`Tensor::cross_entropy`], and [`Error::Argument`] where the smoothing is not in 0..=1 or there is not one weight
    /// per class. The mean of nothing but ignored rows is NaN.
    ///
    /// ```
    /// # use everstep_tensor::{CrossEntropyOptions, Device, Tensor};
    /// let logits = Tensor::zeros(&[2, 4], &Device::cpu())?;
    /// let labels = Tensor::from_slice(&[1u32, 9], &[2], &Device::cpu())?;
    /// let options = CrossEntropyOptions::default().label_smoothing(0.1).ignore_index(9);
    /// let loss = logits.cross_entropy_with(&labels, &options)?.item::<f32>()?;
    /// assert!((loss - 4f32.ln()).abs() < 1e-6);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn cross_entropy_with(&self, labels: &Tensor, options: &CrossEntropyOptions) -> Result<Tensor> {
        let rule = "logits are [.., classes], labels [..]";
        let wrong = Error::Shapes { op: "cross_entropy", left: *self.shape(), right: *labels.shape(), rule };
        let Some((&classes, rows)) = self.shape().split_last() else { return Err(wrong) };
        if *rows != **labels.shape() {
            return Err(wrong);
        }
        if (self.dtype(), labels.dtype()) != (DType::F32, DType::U32) {
            let found = vec![self.dtype(), labels.dtype()];
            return Err(Error::DTypes { op: "cross_entropy", found });
        }
        if classes == 0 {
            return Err(Error::Empty { op: "cross_entropy", shape: *self.shape() });
        }
        let weights = options.weights(self, classes)?;
        let count = labels.count();
        let logits = self.reshape_to(Shape::new(&[count, classes])?)?;
        let (kept, inside) = match options.ignore_index {
            Some(ignored) => kept(&labels.reshape(&[count])?, ignored).map(|(kept, labels)| (Some(kept), labels))?,
            None => (None, labels.reshape(&[count])?),
        };
        let rows = weighted(&logits, &inside, weights.as_ref(), options.label_smoothing)?;
        let rows = match (kept, rows) {
            (None, rows) => rows,
            (Some(kept), Rows { losses, factors }) => {
                let factors = factors.map_or_else(|| Ok(kept.clone()), |factors| factors.mul(&kept))?;
                Rows { losses: gated(&kept, &losses)?, factors: Some(factors) }
            }
        };
        rows.reduced(options.reduction, labels.shape())
    }

    /// As [`Tensor::cross_entropy_with`] with probabilities [.., C] in the place of labels: a row of probabilities t has
    /// the loss sum_c w_c ((1 - s) t_c + s / C) (-log p_c), and the mean is that of all rows.
    ///
    /// # Errors
    /// As [`Tensor::cross_entropy_with`], and [`Error::Argument`] where a label is to be ignored.
    ///
    /// ```
    /// # use everstep_tensor::{CrossEntropyOptions, Device, Tensor};
    /// let logits = Tensor::zeros(&[1, 2], &Device::cpu())?;
    /// let target = Tensor::full(&[1, 2], 0.5, &Device::cpu())?;
    /// let loss = logits.cross_entropy_soft(&target, &CrossEntropyOptions::default())?.item::<f32>()?;
    /// assert!((loss - 2f32.ln()).abs() < 1e-6);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn cross_entropy_soft(&self, target: &Tensor, options: &CrossEntropyOptions) -> Result<Tensor> {
        let rule = "logits and probabilities are [.., classes]";
        let wrong = Error::Shapes { op: "cross_entropy", left: *self.shape(), right: *target.shape(), rule };
        let Some((&classes, rows)) = self.shape().split_last().filter(|_| self.shape() == target.shape()) else {
            return Err(wrong);
        };
        if let Some(label) = options.ignore_index {
            let (name, value) = ("ignored label", f64::from(label));
            return Err(Error::Argument {
                op: "cross_entropy",
                name,
                value,
                range: "none: probabilities have no label",
            });
        }
        if classes == 0 {
            return Err(Error::Empty { op: "cross_entropy", shape: *self.shape() });
        }
        let weights = options.weights(self, classes)?;
        let mut target = target.clone();
        if options.label_smoothing != 0.0 {
            let spread = options.label_smoothing / classes as f32;
            target = target.mul_scalar(1.0 - options.label_smoothing)?.add_scalar(spread)?;
        }
        if let Some(weights) = weights {
            target = target.mul(&weights)?;
        }
        let losses = self.log_softmax(-1)?.mul(&target)?.sum(&[-1], false)?.neg()?;
        Rows { losses, factors: None }.reduced(options.reduction, &Shape::new(rows)?)
    }
}

/// 1 for the rows that are not ignored, else 0; and the labels, with 0 for an ignored one, which may be out of range.
fn kept(labels: &Tensor, ignored: u32) -> Result<(Tensor, Tensor)> {
    let hit = indicator(labels, &Tensor::scalar(ignored, labels.device())?)?;
    let kept = indicator_of(&hit, 0.0)?;
    let inside = labels.mul(&kept.cast(DType::U32)?)?;
    Ok((kept, inside))
}

/// The losses of logits [rows, C] and labels [rows].
fn weighted(logits: &Tensor, labels: &Tensor, weights: Option<&Tensor>, smoothing: f32) -> Result<Rows> {
    let factors = weights.map(|weights| gather::labelled(weights, labels)).transpose()?;
    let scaled = |losses: Tensor| factors.as_ref().map_or_else(|| Ok(losses.clone()), |factors| losses.mul(factors));
    if smoothing == 0.0 {
        let losses = scaled(logits.cross_entropy_rows(labels)?)?;
        return Ok(Rows { losses, factors });
    }
    let classes = logits.shape()[1];
    let logs = logits.log_softmax(-1)?;
    let of_label = scaled(gather::label_of(&logs, labels)?)?.mul_scalar(smoothing - 1.0)?;
    let all = weights.map_or_else(|| Ok(logs.clone()), |weights| logs.mul(weights))?;
    let spread = all.sum(&[-1], false)?.mul_scalar(-smoothing / classes as f32)?;
    Ok(Rows { losses: of_label.add(&spread)?, factors })
}

pub(super) const CROSS_ENTROPY_WITH: Entry = Entry {
    name: "cross_entropy_with",
    dtypes: FLOAT,
    gradient: Gradient::Any,
    tolerance: Tolerance {
        relative: 2e-6,
        absolute: 4e-6,
        why: "log-softmax cancels: a few units of the logits, up to 8, and sums of its terms over the classes",
    },
    cases: Cases::Listed(|generator| {
        let plain = CrossEntropyOptions::default;
        let weights = |classes: usize| (1..=classes).map(|class| class as f32 / 4.0).collect::<Vec<_>>();
        let options: [(&[usize], CrossEntropyOptions); 9] = [
            (&[5, 4], plain().label_smoothing(0.1).class_weights(weights(4)).ignore_index(2)),
            (&[5, 4], plain()),
            (&[2, 3, 3], plain().label_smoothing(0.3)),
            (&[4, 3], plain().class_weights(weights(3)).reduction(RowReduction::Sum)),
            (&[6, 2], plain().ignore_index(1).reduction(RowReduction::None)),
            (&[2, 2, 4], plain().class_weights(weights(4)).ignore_index(0).reduction(RowReduction::None)),
            (&[5, 3], plain().class_weights(weights(3)).ignore_index(77)),
            (&[3], plain().label_smoothing(1.0)),
            (&[0, 3], plain().label_smoothing(0.1).ignore_index(1).reduction(RowReduction::Sum)),
        ];
        let case = |(shape, options): (&'static [usize], CrossEntropyOptions)| {
            let (classes, rows) = (shape[shape.len() - 1], &shape[..shape.len() - 1]);
            let logits = Array::draw(shape, Domain::between(-8.0, 8.0), generator);
            let mut labels = Array::integers(rows, DType::U32, 0, classes as u32, generator);
            if let (Some(77), Some(first)) = (options.ignore_index, labels.values.first_mut()) {
                *first = 77.0;
            }
            let (used, label) = (options.clone(), format!("{shape:?} {options:?}"));
            let apply = move |x: &[Tensor]| x[0].cross_entropy_with(&x[1], &used);
            Case::new(label, vec![logits, labels], apply, move |x| {
                let losses =
                    x[1].values.iter().map(|&label| (label, options.ignore_index.map(f64::from) != Some(label)));
                let rows = x[0].values.chunks(classes).zip(losses).map(|(row, (label, kept))| {
                    let target: Vec<f64> =
                        (0..classes).map(|class| f64::from(u8::from(class as f64 == label))).collect();
                    if kept { row_loss(row, &target, &options) } else { (0.0, 0.0) }
                });
                reduced(rows.collect(), &x[1].shape, options.reduction)
            })
        };
        options.into_iter().map(case).collect()
    }),
};

pub(super) const CROSS_ENTROPY_SOFT: Entry = Entry {
    name: "cross_entropy_soft",
    cases: Cases::Listed(|generator| {
        let plain = CrossEntropyOptions::default;
        let options: [(&[usize], CrossEntropyOptions); 4] = [
            (&[3, 4], plain()),
            (&[2, 3, 3], plain().label_smoothing(0.2).class_weights([0.5, 2.0, 1.0])),
            (&[2, 3], plain().label_smoothing(0.5).reduction(RowReduction::None)),
            (&[3], plain().class_weights([0.5, 2.0, 1.0]).reduction(RowReduction::Sum)),
        ];
        let case = |(shape, options): (&'static [usize], CrossEntropyOptions)| {
            let logits = Array::draw(shape, Domain::between(-8.0, 8.0), generator);
            let target = Array::draw(shape, Domain::between(0.0, 1.0), generator);
            let (used, label) = (options.clone(), format!("{shape:?} {options:?}"));
            let apply = move |x: &[Tensor]| x[0].cross_entropy_soft(&x[1], &used);
            Case::new(label, vec![logits, target], apply, move |x| {
                let (classes, lead) = (x[0].shape[x[0].shape.len() - 1], &x[0].shape[..x[0].shape.len() - 1]);
                let pairs = x[0].values.chunks(classes).zip(x[1].values.chunks(classes));
                let rows = pairs.map(|(row, target)| (row_loss(row, target, &options).0, 1.0));
                reduced(rows.collect(), lead, options.reduction)
            })
        };
        options.into_iter().map(case).collect()
    }),
    ..CROSS_ENTROPY_WITH
};

/// The loss of a row with probabilities, and the weight of those.
fn row_loss(row: &[f64], target: &[f64], options: &CrossEntropyOptions) -> (f64, f64) {
    let (classes, smoothing) = (row.len() as f64, f64::from(options.label_smoothing));
    let weight = |class: usize| options.class_weights.as_ref().map_or(1.0, |weights| f64::from(weights[class]));
    let top = largest(row);
    let total = top + sum(&row.iter().map(|x| (x - top).exp()).collect::<Vec<_>>()).ln();
    let term = |(class, x): (usize, &f64)| {
        let share = (1.0 - smoothing) * target[class] + smoothing / classes;
        if share == 0.0 { 0.0 } else { weight(class) * share * (total - x) }
    };
    let loss = row.iter().enumerate().map(term).sum();
    (loss, (0..row.len()).map(|class| weight(class) * target[class]).sum())
}

fn reduced(rows: Vec<(f64, f64)>, shape: &[usize], reduction: RowReduction) -> Array {
    let (losses, factors): (Vec<f64>, Vec<f64>) = rows.into_iter().unzip();
    match reduction {
        RowReduction::Mean => Array::new(&[], vec![sum(&losses) / sum(&factors)]),
        RowReduction::Sum => Array::new(&[], vec![sum(&losses)]),
        RowReduction::None => Array::new(shape, losses),
    }
}
