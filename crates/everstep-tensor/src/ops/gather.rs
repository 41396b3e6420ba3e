//! Elements picked and added by indices along a dimension: embedding, gather, scatter and their kin.

use std::sync::Arc;

use everstep_device::cpu::{Gather as PickKernel, Indexing, ScatterAdd as SendKernel};
use everstep_device::status::Code;
use everstep_device::{Command, DType, Generator, Kernel, Shape, Work};

use super::reference::{Array, Domain, indices};
use super::table::{Case, Cases, EXACT, Entry, FLOAT, Gradient, NUMBERS, Tolerance};
use crate::op::{Inferred, Op, Saved, apply};
use crate::{Error, Result, Tensor};

/// The elements along `axis` of a source at indices: of an index per element, or `[count]`, one per row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pick {
    code: Code,
    axis: usize,
    // The size of the source's dimension `axis`.
    bound: usize,
    whole_rows: bool,
}

/// The gradient of [`Pick`]: the elements of a source added where indices send them, 0 elsewhere.
#[derive(Clone, Copy, Debug)]
struct Send(Pick);

impl Pick {
    /// How the kernels see it. `shape` is the source's of a pick or the result's of a send, but for dimension `axis`.
    fn indexing(&self, shape: &Shape, indices: &Tensor) -> Indexing {
        let count = if self.whole_rows { indices.count() } else { indices.shape()[self.axis] };
        let (outer, inner) = (shape[..self.axis].iter().product(), shape[self.axis + 1..].iter().product());
        Indexing { outer, bound: self.bound, count, inner, whole_rows: self.whole_rows, code: self.code }
    }

    /// Runs a kernel that reports.
    fn run(kernel: impl Kernel, op: &'static str, inputs: &[&Tensor], output: &Tensor) -> Result<()> {
        let (source, indices) = (inputs[0].dense()?, inputs[1].dense()?);
        let device = source.device();
        Ok(device.record(Command {
            op,
            work: Work::Kernel(Arc::new(kernel)),
            inputs: vec![source.slice_of_buffer(), indices.slice_of_buffer()],
            outputs: vec![output.slice_of_buffer(), device.status()],
        })?)
    }

    fn check(&self, inputs: &[&Tensor], dtypes: &[DType]) -> Result<()> {
        let (source, indices) = (inputs[0], inputs[1]);
        if !dtypes.contains(&source.dtype()) || indices.dtype() != DType::U32 {
            return Err(Error::DTypes { op: self.code.name(), found: vec![source.dtype(), indices.dtype()] });
        }
        if self.bound == 0 && indices.count() > 0 {
            return Err(Error::Empty { op: self.code.name(), shape: *source.shape() });
        }
        Ok(())
    }
}

impl Op for Pick {
    fn name(&self) -> &'static str {
        self.code.name()
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        self.check(inputs, &[DType::F32, DType::U32, DType::I32, DType::Bool])?;
        let shape = inputs[0].shape();
        let Indexing { count, .. } = self.indexing(shape, inputs[1]);
        // The source may be a view of few elements, and what is picked of it more than can be addressed.
        Ok(Inferred::one(Shape::new(&shape.with(self.axis, count))?, inputs[0].dtype()))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let missing = if inputs[0].dtype().is_float() { f32::NAN.to_bits() } else { 0 };
        let indexing = self.indexing(inputs[0].shape(), inputs[1]);
        Self::run(PickKernel { indexing, missing }, self.name(), inputs, &outputs[0])
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(Send(*self), &[gradient, &saved.inputs[1]])?), None])
    }
}

impl Op for Send {
    fn name(&self) -> &'static str {
        self.0.code.name()
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        self.0.check(inputs, FLOAT)?;
        Ok(Inferred::one(Shape::new(&inputs[0].shape().with(self.0.axis, self.0.bound))?, DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let kernel = SendKernel(self.0.indexing(outputs[0].shape(), inputs[1]));
        Pick::run(kernel, self.name(), inputs, &outputs[0])
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(self.0, &[gradient, &saved.inputs[1]])?), None])
    }
}

/// Whole rows of `tensor` along `axis`.
pub(super) fn rows_of(tensor: &Tensor, axis: usize) -> Pick {
    Pick { code: Code::IndexSelect, axis, bound: tensor.shape()[axis], whole_rows: true }
}

/// Of values [C] those at `labels` [rows]; a label out of range is reported as that of a cross-entropy.
pub(super) fn labelled(values: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let pick = Pick { code: Code::CrossEntropy, axis: 0, bound: values.shape()[0], whole_rows: true };
    apply(pick, &[values, labels])
}

/// Of each row of [rows, C] the element at its label: [rows].
pub(super) fn label_of(rows: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let pick = Pick { code: Code::CrossEntropy, axis: 1, bound: rows.shape()[1], whole_rows: false };
    apply(pick, &[rows, &labels.unsqueeze(1)?])?.squeeze(1)
}

/// The first elements of each dimension but `axis`, as many as `shape` has.
fn within(source: &Tensor, shape: &Shape, axis: Option<usize>) -> Result<Tensor> {
    let cut = |tensor: Tensor, other: usize| match Some(other) == axis || tensor.shape()[other] == shape[other] {
        true => Ok(tensor),
        false => tensor.slice(other as isize, ..shape[other]),
    };
    (0..shape.rank()).try_fold(source.clone(), cut)
}

impl Tensor {
    /// The rows of this tensor, a table [V, D], that `ids` name: u32 [..], to [.., D] (PyTorch's
    /// `functional.embedding`). The gradient of a row is the sum of those of its uses, in their order, without atomics.
    ///
    /// # Errors
    /// [`Error::Shape`] where this tensor is not [V, D], [`Error::DTypes`] where `ids` are not u32, [`Error::Empty`]
    /// without rows. An id at or above V is found on the device: its row is NaN, the step that uses it is refused, and
    /// the next read-back gives [`everstep_device::Error::OutOfRange`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let table = Tensor::from_slice(&[0.0f32, 1.0, 10.0, 11.0, 20.0, 21.0], &[3, 2], &Device::cpu())?;
    /// let ids = Tensor::from_slice(&[2u32, 0], &[2], &Device::cpu())?;
    /// assert_eq!(table.embedding(&ids)?.to_vec::<f32>()?, [20.0, 21.0, 0.0, 1.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn embedding(&self, ids: &Tensor) -> Result<Tensor> {
        let &[bound, width] = &self.shape()[..] else {
            let rule = "a table of embeddings is [rows, width]";
            return Err(Error::Shape { op: "embedding", shape: *self.shape(), rule });
        };
        let shape = Shape::new(&[&ids.shape()[..], &[width]].concat())?;
        let flat = ids.reshape(&[ids.count()])?;
        apply(Pick { code: Code::Embedding, axis: 0, bound, whole_rows: true }, &[self, &flat])?.reshape_to(shape)
    }

    /// The elements at `indices`, u32 `[N]`, along `axis`, whose size becomes N. Indices may repeat.
    ///
    /// # Errors
    /// [`Error::Axis`], [`Error::Shape`] where `indices` have another rank, [`Error::DTypes`], [`Error::Empty`]. An
    /// index out of range is found on the device, as in [`Tensor::embedding`]; it picks NaN, or 0 of integers.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2], &Device::cpu())?;
    /// let columns = Tensor::from_slice(&[1u32, 1, 0], &[3], &Device::cpu())?;
    /// assert_eq!(x.index_select(1, &columns)?.to_vec::<f32>()?, [2.0, 2.0, 1.0, 4.0, 4.0, 3.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn index_select(&self, axis: isize, indices: &Tensor) -> Result<Tensor> {
        let axis = self.axis("index_select", axis)?;
        check_list("index_select", indices)?;
        apply(rows_of(self, axis), &[self, indices])
    }

    /// This tensor with slice k of `source` along `axis` added to its slice `indices[k]`; those sent to one place are
    /// added in their order. `indices` are u32 `[N]`, `source` has this tensor's shape but N at `axis`.
    ///
    /// # Errors
    /// [`Error::Axis`], [`Error::Shape`], [`Error::Shapes`], [`Error::DTypes`], [`Error::Empty`]. An index out of range
    /// is found on the device, as in [`Tensor::embedding`]; then all is NaN.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let indices = Tensor::from_slice(&[1u32, 1, 0], &[3], &Device::cpu())?;
    /// let source = Tensor::from_slice(&[1.0f32, 2.0, 4.0], &[3], &Device::cpu())?;
    /// let sums = Tensor::zeros(&[2], &Device::cpu())?.index_add(0, &indices, &source)?;
    /// assert_eq!(sums.to_vec::<f32>()?, [4.0, 3.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn index_add(&self, axis: isize, indices: &Tensor, source: &Tensor) -> Result<Tensor> {
        let axis = self.axis("index_add", axis)?;
        check_list("index_add", indices)?;
        if source.rank() != self.rank() || *source.shape() != self.shape().with(axis, indices.count()) {
            let rule = "source has the tensor's shape, but one slice per index along the axis";
            return Err(Error::Shapes { op: "index_add", left: *self.shape(), right: *source.shape(), rule });
        }
        let pick = Pick { code: Code::IndexAdd, axis, bound: self.shape()[axis], whole_rows: true };
        self.add(&apply(Send(pick), &[source, indices])?)
    }

    /// Of each place of `index`, u32, the element of this tensor there, but along `axis` at the index: for axis 1 of
    /// three, `result[i, j, k] = self[i, index[i, j, k], k]`. `index` has this tensor's rank and, but at `axis`, at most
    /// its sizes; the result has its shape.
    ///
    /// # Errors
    /// [`Error::Axis`], [`Error::Shapes`], [`Error::DTypes`], [`Error::Empty`]. An index out of range is found on the
    /// device, as in [`Tensor::embedding`]; it picks NaN, or 0 of integers.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2], &Device::cpu())?;
    /// let index = Tensor::from_slice(&[1u32, 0], &[2, 1], &Device::cpu())?;
    /// assert_eq!(x.gather(1, &index)?.to_vec::<f32>()?, [2.0, 3.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn gather(&self, axis: isize, index: &Tensor) -> Result<Tensor> {
        let axis = self.axis("gather", axis)?;
        check_places("gather", self.shape(), index.shape(), Some(axis))?;
        let pick = Pick { code: Code::Gather, axis, bound: self.shape()[axis], whole_rows: false };
        apply(pick, &[&within(self, index.shape(), Some(axis))?, index])
    }

    /// This tensor with the elements of `source` added at the places that `index`, u32, names along `axis`: for axis 1
    /// of three, `self[i, index[i, j, k], k] += source[i, j, k]`. Those sent to one place are added in their order. All
    /// have one rank; `index` has at most the sizes of `source`, and but at `axis` of this tensor.
    ///
    /// # Errors
    /// [`Error::Axis`], [`Error::Shapes`], [`Error::DTypes`], [`Error::Empty`]. An index out of range is found on the
    /// device, as in [`Tensor::embedding`]; what it could have been added to is NaN.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let index = Tensor::from_slice(&[1u32, 1, 0], &[1, 3], &Device::cpu())?;
    /// let source = Tensor::from_slice(&[1.0f32, 2.0, 4.0], &[1, 3], &Device::cpu())?;
    /// let sums = Tensor::ones(&[1, 2], &Device::cpu())?.scatter_add(1, &index, &source)?;
    /// assert_eq!(sums.to_vec::<f32>()?, [5.0, 4.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn scatter_add(&self, axis: isize, index: &Tensor, source: &Tensor) -> Result<Tensor> {
        let axis = self.axis("scatter_add", axis)?;
        check_places("scatter_add", self.shape(), index.shape(), Some(axis))?;
        check_places("scatter_add", source.shape(), index.shape(), None)?;
        let pick = Pick { code: Code::ScatterAdd, axis, bound: self.shape()[axis], whole_rows: false };
        let sums = apply(Send(pick), &[&within(source, index.shape(), None)?, index])?;
        let behind = |(&size, &used): (&usize, &usize)| (0, size - used);
        let padding: Vec<_> = self.shape().iter().zip(sums.shape().iter()).map(behind).collect();
        self.add(&sums.pad(&padding, 0.0)?)
    }

    /// Of each id of this tensor, u32 [..], a row of `classes` numbers: 1 at the id, else 0, as f32 [.., classes].
    ///
    /// # Errors
    /// [`Error::DTypes`] where this tensor is not u32. An id at or above `classes` is found on the device, as in
    /// [`Tensor::embedding`]; its row is NaN.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let ids = Tensor::from_slice(&[2u32, 0], &[2], &Device::cpu())?;
    /// assert_eq!(ids.one_hot(3)?.to_vec::<f32>()?, [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn one_hot(&self, classes: usize) -> Result<Tensor> {
        let shape = Shape::new(&[&self.shape()[..], &[classes]].concat())?;
        let column = [self.count(), 1];
        let one = Tensor::ones(&[1, 1], self.device())?.broadcast_to(&column)?;
        let pick = Pick { code: Code::OneHot, axis: 1, bound: classes, whole_rows: false };
        apply(Send(pick), &[&one, &self.reshape(&column)?])?.reshape_to(shape)
    }
}

fn check_list(op: &'static str, indices: &Tensor) -> Result<()> {
    let rule = "indices are a list: rank 1";
    if indices.rank() == 1 { Ok(()) } else { Err(Error::Shape { op, shape: *indices.shape(), rule }) }
}

/// Whether `index` lies within `shape`, but for dimension `axis`.
fn check_places(op: &'static str, shape: &Shape, index: &Shape, axis: Option<usize>) -> Result<()> {
    let fits = |other: usize| Some(other) == axis || index[other] <= shape[other];
    if shape.rank() == index.rank() && (0..shape.rank()).all(fits) {
        return Ok(());
    }
    let rule = "index has the same rank, and, but along the axis it points into, at most the same sizes";
    Err(Error::Shapes { op, left: *shape, right: *index, rule })
}

const PICKED: Entry =
    Entry { name: "", dtypes: NUMBERS, gradient: Gradient::Any, tolerance: EXACT, cases: Cases::Listed(|_| vec![]) };

const ADDED: Tolerance = Tolerance { relative: 1e-6, absolute: 2e-6, why: "some additions of terms that cancel" };

/// (source, axis, places)
type Shapes = (&'static [usize], isize, &'static [usize]);

fn positive(axis: isize, shape: &[usize]) -> usize {
    axis.rem_euclid(shape.len() as isize) as usize
}

/// A case of f32, and one of u32 for every second.
fn sources(number: usize, shape: &[usize], generator: &mut Generator) -> Vec<Array> {
    let mut sources = vec![Array::draw(shape, Domain::between(-3.0, 3.0), generator)];
    if number % 2 == 1 {
        sources.push(Array::integers(shape, DType::U32, 0, 1 << 31, generator));
    }
    sources
}

/// What lies at `index`, but along `axis` at `place`.
fn at(x: &Array, index: &[usize], axis: usize, place: f64) -> f64 {
    let mut index = index.to_vec();
    index[axis] = place as usize;
    x.at(&index)
}

pub(super) const EMBEDDING: Entry = Entry {
    name: "embedding",
    cases: Cases::Listed(|generator| {
        let shapes: [(&[usize], &[usize]); 8] = [
            (&[5, 3], &[4]),
            (&[4, 2], &[2, 3]),
            (&[6, 7], &[]),
            (&[1, 1], &[3]),
            (&[3, 4], &[0]),
            (&[3, 0], &[2]),
            (&[2, 5], &[1, 2, 1, 3, 1]),
            (&[65, 70], &[300]),
        ];
        let mut cases = Vec::new();
        for (number, (table, ids)) in shapes.into_iter().enumerate() {
            for source in sources(number, table, generator) {
                let places = Array::integers(ids, DType::U32, 0, table[0] as u32, generator);
                let label = format!("{} {table:?} ids {ids:?}", source.dtype);
                cases.push(Case::new(
                    label,
                    vec![source, places],
                    |x| x[0].embedding(&x[1]),
                    |x| {
                        let width = x[0].shape[1];
                        let shape = [&x[1].shape[..], &[width]].concat();
                        let row = |index: &[usize]| x[1].at(&index[..index.len() - 1]) as usize;
                        let value = |index: &[usize]| x[0].values[row(index) * width + index[index.len() - 1]];
                        Array::from_fn(&shape, value).with_dtype(x[0].dtype)
                    },
                ));
            }
        }
        cases
    }),
    ..PICKED
};

pub(super) const INDEX_SELECT: Entry = Entry {
    name: "index_select",
    cases: Cases::Listed(|generator| {
        let shapes: [Shapes; 7] = [
            (&[5, 3], 0, &[4]),
            (&[3, 5], -1, &[7]),
            (&[2, 3, 4], 1, &[5]),
            (&[4], 0, &[1]),
            (&[2, 3], 1, &[0]),
            (&[0, 3], 1, &[2]),
            (&[1, 2, 1, 3, 2, 2], 3, &[4]),
        ];
        let mut cases = Vec::new();
        for (number, (shape, axis, list)) in shapes.into_iter().enumerate() {
            let along = positive(axis, shape);
            for source in sources(number, shape, generator) {
                let places = Array::integers(list, DType::U32, 0, shape[along] as u32, generator);
                let label = format!("{} {shape:?} axis {axis} places {list:?}", source.dtype);
                let apply = move |x: &[Tensor]| x[0].index_select(axis, &x[1]);
                cases.push(Case::new(label, vec![source, places], apply, move |x| {
                    let mut shape = x[0].shape.clone();
                    shape[along] = x[1].count();
                    let value = |index: &[usize]| at(&x[0], index, along, x[1].values[index[along]]);
                    Array::from_fn(&shape, value).with_dtype(x[0].dtype)
                }));
            }
        }
        cases
    }),
    ..PICKED
};

pub(super) const GATHER: Entry = Entry {
    name: "gather",
    cases: Cases::Listed(|generator| {
        let shapes: [Shapes; 8] = [
            (&[3, 5], 1, &[3, 2]),
            (&[3, 5], 0, &[7, 5]),
            (&[2, 3, 4], -2, &[2, 6, 4]),
            (&[4, 5], 1, &[2, 6]),
            (&[4], 0, &[9]),
            (&[2, 3], 1, &[2, 0]),
            (&[0, 3], 1, &[0, 2]),
            (&[1, 2, 2, 3, 1, 3], 3, &[1, 2, 1, 4, 1, 2]),
        ];
        let mut cases = Vec::new();
        for (number, (shape, axis, places)) in shapes.into_iter().enumerate() {
            let along = positive(axis, shape);
            for source in sources(number, shape, generator) {
                let index = Array::integers(places, DType::U32, 0, shape[along] as u32, generator);
                let label = format!("{} {shape:?} axis {axis} index {places:?}", source.dtype);
                let apply = move |x: &[Tensor]| x[0].gather(axis, &x[1]);
                cases.push(Case::new(label, vec![source, index], apply, move |x| {
                    let value = |index: &[usize]| at(&x[0], index, along, x[1].at(index));
                    Array::from_fn(&x[1].shape, value).with_dtype(x[0].dtype)
                }));
            }
        }
        cases
    }),
    ..PICKED
};

/// `base` with every element of `source` added where `place` sends its index.
fn scattered(base: &Array, source: &Array, places: &[usize], place: impl Fn(&[usize]) -> Vec<usize>) -> Array {
    let mut result = base.clone();
    for index in indices(places) {
        let to = place(&index);
        let linear = to.iter().zip(&base.shape).fold(0, |linear, (&at, &size)| linear * size + at);
        result.values[linear] += source.at(&index);
    }
    result
}

pub(super) const INDEX_ADD: Entry = Entry {
    name: "index_add",
    dtypes: FLOAT,
    tolerance: ADDED,
    cases: Cases::Listed(|generator| {
        let shapes: [Shapes; 6] = [
            (&[4, 3], 0, &[5]),
            (&[3, 5], -1, &[9]),
            (&[2, 3, 4], 1, &[2]),
            (&[2, 3], 1, &[0]),
            (&[2, 0], 0, &[3]),
            (&[1, 2, 1, 3, 2, 2], 3, &[4]),
        ];
        let mut cases = Vec::new();
        for (shape, axis, list) in shapes {
            let along = positive(axis, shape);
            let mut many = shape.to_vec();
            many[along] = list[0];
            let inputs = vec![
                Array::draw(shape, Domain::between(-3.0, 3.0), generator),
                Array::integers(list, DType::U32, 0, shape[along] as u32, generator),
                Array::draw(&many, Domain::between(-3.0, 3.0), generator),
            ];
            let apply = move |x: &[Tensor]| x[0].index_add(axis, &x[1], &x[2]);
            cases.push(Case::new(format!("{shape:?} axis {axis} places {list:?}"), inputs, apply, move |x| {
                scattered(&x[0], &x[2], &x[2].shape, |index| {
                    let mut index = index.to_vec();
                    index[along] = x[1].values[index[along]] as usize;
                    index
                })
            }));
        }
        cases
    }),
    ..PICKED
};

pub(super) const SCATTER_ADD: Entry = Entry {
    name: "scatter_add",
    dtypes: FLOAT,
    tolerance: ADDED,
    cases: Cases::Listed(|generator| {
        // (base, axis, index, source)
        type Sizes = (&'static [usize], isize, &'static [usize], &'static [usize]);
        let shapes: [Sizes; 8] = [
            (&[3, 5], 1, &[3, 7], &[3, 7]),
            (&[3, 5], 0, &[4, 5], &[4, 5]),
            (&[2, 3, 6], -2, &[2, 4, 6], &[2, 4, 6]),
            (&[4, 5], 1, &[2, 6], &[3, 7]),
            (&[2], 0, &[9], &[9]),
            (&[2, 3], 1, &[2, 0], &[2, 0]),
            (&[0, 3], 1, &[0, 2], &[0, 2]),
            (&[1, 2, 2, 3, 1, 3], 3, &[1, 2, 1, 4, 1, 2], &[1, 2, 1, 4, 1, 2]),
        ];
        let mut cases = Vec::new();
        for (shape, axis, places, source) in shapes {
            let along = positive(axis, shape);
            let inputs = vec![
                Array::draw(shape, Domain::between(-3.0, 3.0), generator),
                Array::integers(places, DType::U32, 0, shape[along] as u32, generator),
                Array::draw(source, Domain::between(-3.0, 3.0), generator),
            ];
            let apply = move |x: &[Tensor]| x[0].scatter_add(axis, &x[1], &x[2]);
            cases.push(Case::new(format!("{shape:?} axis {axis} index {places:?}"), inputs, apply, move |x| {
                scattered(&x[0], &x[2], &x[1].shape, |index| {
                    let mut to = index.to_vec();
                    to[along] = x[1].at(index) as usize;
                    to
                })
            }));
        }
        cases
    }),
    ..PICKED
};

pub(super) const ONE_HOT: Entry = Entry {
    name: "one_hot",
    dtypes: &[DType::U32],
    gradient: Gradient::No("ids are integers"),
    cases: Cases::Listed(|generator| {
        let shapes: [(&[usize], usize); 5] = [(&[4], 3), (&[2, 3], 5), (&[], 2), (&[0], 4), (&[1, 2, 1, 3, 1], 1)];
        let case = |(shape, classes): (&'static [usize], usize)| {
            let ids = Array::integers(shape, DType::U32, 0, classes as u32, generator);
            Case::new(
                format!("{shape:?} of {classes}"),
                vec![ids],
                move |x| x[0].one_hot(classes),
                move |x| {
                    let shape = [&x[0].shape[..], &[classes]].concat();
                    let last = shape.len() - 1;
                    let hot = |index: &[usize]| x[0].at(&index[..last]) == index[last] as f64;
                    Array::from_fn(&shape, |index| f64::from(u8::from(hot(index))))
                },
            )
        };
        shapes.into_iter().map(case).collect()
    }),
    ..PICKED
};
