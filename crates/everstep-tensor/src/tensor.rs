//! The tensor: a strided view of device memory, with its place on the autograd tape.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use everstep_device::cpu::Pointwise;
use everstep_device::expr::{Expr, Program};
use everstep_device::{
    ALIGNMENT, Command, DType, Device, Element, Generator, Layout, Readback, Region, Shape, Slice, Work, bf16, f16,
    functions,
};

use crate::autograd::Node;
use crate::{Error, Result, ops};

/// An n-dimensional array on a device.
///
/// Cloning is cheap and shares the elements; ops make new tensors or views. Work is recorded and runs at a read-back.
#[derive(Clone)]
pub struct Tensor(Arc<Inner>);

pub(crate) struct Inner {
    region: Region,
    layout: Layout,
    dtype: DType,
    node: Option<Arc<Node>>,
    version: Option<Version>,
}

/// The state of a parameter that a tensor was taken at.
#[derive(Clone)]
pub(crate) struct Version {
    pub(crate) current: Arc<AtomicU64>,
    pub(crate) taken: u64,
}

impl Version {
    /// Whether the parameter has not changed since.
    pub(crate) fn is_current(&self) -> bool {
        self.current.load(Ordering::Acquire) == self.taken
    }

    /// What it is the same as while the parameter lives: where its changes are counted, and how many there were.
    pub(crate) fn key(&self) -> (usize, u64) {
        (Arc::as_ptr(&self.current) as usize, self.taken)
    }
}

impl Inner {
    pub(crate) fn into_node(self) -> Option<Arc<Node>> {
        self.node
    }
}

/// Everything a new tensor is made of.
pub(crate) struct Parts {
    pub(crate) region: Region,
    pub(crate) layout: Layout,
    pub(crate) dtype: DType,
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) version: Option<Version>,
}

impl Tensor {
    pub(crate) fn from_parts(parts: Parts) -> Self {
        let Parts { region, layout, dtype, node, version } = parts;
        Self(Arc::new(Inner { region, layout, dtype, node, version }))
    }

    /// A tensor without content yet: the command that writes it follows.
    pub(crate) fn unwritten(op: &'static str, shape: Shape, dtype: DType, device: &Device) -> Result<Self> {
        // Halves lie two to a word, and buffers are whole words.
        let region = device.buffer(op, (shape.count() * dtype.size()).next_multiple_of(4))?.region();
        Ok(Self::over(region, Layout::contiguous(shape), dtype))
    }

    /// A tensor over memory that exists.
    pub(crate) fn over(region: Region, layout: Layout, dtype: DType) -> Self {
        Self::from_parts(Parts { region, layout, dtype, node: None, version: None })
    }

    /// The same elements under another layout, without history.
    pub(crate) fn view(&self, layout: Layout) -> Self {
        let version = self.0.version.clone();
        Self::from_parts(Parts { region: self.0.region.clone(), layout, dtype: self.0.dtype, node: None, version })
    }

    pub(crate) fn with_node(&self, node: Arc<Node>) -> Self {
        let Inner { region, layout, dtype, version, .. } = &*self.0;
        let (region, version) = (region.clone(), version.clone());
        Self::from_parts(Parts { region, layout: *layout, dtype: *dtype, node: Some(node), version })
    }

    pub(crate) fn with_version(&self, version: Version) -> Self {
        let Inner { region, layout, dtype, node, .. } = &*self.0;
        let (region, node, version) = (region.clone(), node.clone(), Some(version));
        Self::from_parts(Parts { region, layout: *layout, dtype: *dtype, node, version })
    }

    pub(crate) fn version(&self) -> Option<&Version> {
        self.0.version.as_ref()
    }

    pub(crate) fn node(&self) -> Option<&Arc<Node>> {
        self.0.node.as_ref()
    }

    pub(crate) fn into_inner(self) -> Option<Inner> {
        Arc::into_inner(self.0)
    }

    /// Whether the parameter behind this tensor is still as it was when the tensor was taken.
    pub(crate) fn is_current(&self) -> bool {
        self.0.version.as_ref().is_none_or(Version::is_current)
    }

    pub(crate) fn region(&self) -> &Region {
        &self.0.region
    }

    pub(crate) fn slice_of_buffer(&self) -> Slice {
        self.0.region.slice()
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        self.0.layout.shape()
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape().rank()
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        self.shape().count()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// Where each element lies.
    pub fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.0.region.buffer().device()
    }

    /// A tensor of `data` in row-major order.
    ///
    /// # Errors
    /// [`everstep_device::Error::DataLength`] where the count does not match `shape`.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.matmul(&x)?.to_vec::<f32>()?, [7.0, 10.0, 15.0, 22.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn from_slice<T: Element>(data: &[T], shape: &[usize], device: &Device) -> Result<Self> {
        let shape = Shape::new(shape)?;
        if data.len() != shape.count() {
            let (expected, found) = (shape.count(), data.len());
            return Err(everstep_device::Error::DataLength { dtype: T::DTYPE, shape, expected, found }.into());
        }
        let tensor = Self::unwritten("from_slice", shape, T::DTYPE, device)?;
        tensor.upload(data)?;
        Ok(tensor)
    }

    /// Records writing `data`, in row-major order, to a new tensor.
    fn upload<T: Element>(&self, data: &[T]) -> Result<()> {
        let work = Work::Upload(T::encode(data));
        let outputs = vec![self.slice_of_buffer()];
        Ok(self.device().record(Command { op: "from_slice", work, inputs: vec![], outputs })?)
    }

    /// As [`Tensor::from_slice`], of a vector.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1u32, 2, 3], &[3], &Device::cpu())?;
    /// assert_eq!(x.to_vec::<u32>()?, [1, 2, 3]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn from_vec<T: Element>(data: Vec<T>, shape: &[usize], device: &Device) -> Result<Self> {
        Self::from_slice(&data, shape, device)
    }

    /// A scalar: rank 0.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// assert_eq!(Tensor::scalar(2.5f32, &Device::cpu())?.item::<f32>()?, 2.5);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn scalar<T: Element>(value: T, device: &Device) -> Result<Self> {
        Self::from_slice(&[value], &[], device)
    }

    /// `shape` filled with one number.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// assert_eq!(Tensor::full(&[2, 2], 0.5, &Device::cpu())?.to_vec::<f32>()?, [0.5; 4]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn full(shape: &[usize], value: f32, device: &Device) -> Result<Self> {
        let tensor = Self::unwritten("full", Shape::new(shape)?, DType::F32, device)?;
        tensor.fill(value)?;
        Ok(tensor)
    }

    /// `shape` filled with zeros.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// assert_eq!(Tensor::zeros(&[3], &Device::cpu())?.to_vec::<f32>()?, [0.0; 3]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn zeros(shape: &[usize], device: &Device) -> Result<Self> {
        Self::full(shape, 0.0, device)
    }

    /// `shape` filled with ones.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// assert_eq!(Tensor::ones(&[3], &Device::cpu())?.to_vec::<f32>()?, [1.0; 3]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn ones(shape: &[usize], device: &Device) -> Result<Self> {
        Self::full(shape, 1.0, device)
    }

    /// Uniform numbers in [`low`, `high`), generated on the host: the same on every device.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Generator, Tensor};
    /// let x = Tensor::rand(&[100], -1.0, 1.0, &mut Generator::new(0), &Device::cpu())?;
    /// assert!(x.to_vec::<f32>()?.iter().all(|value| (-1.0..1.0).contains(value)));
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn rand(shape: &[usize], low: f32, high: f32, generator: &mut Generator, device: &Device) -> Result<Self> {
        Self::drawn("rand", shape, device, || low + (high - low) * generator.uniform())
    }

    /// Numbers of the standard normal distribution, generated on the host: the same on every device.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Generator, Tensor};
    /// let x = Tensor::randn(&[1000], &mut Generator::new(0), &Device::cpu())?;
    /// assert!(x.mean_all()?.item::<f32>()?.abs() < 0.1);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn randn(shape: &[usize], generator: &mut Generator, device: &Device) -> Result<Self> {
        Self::drawn("randn", shape, device, || generator.normal())
    }

    /// Numbers from the host. The tensor comes first: it refuses a size that host memory could not hold either.
    fn drawn(op: &'static str, shape: &[usize], device: &Device, mut draw: impl FnMut() -> f32) -> Result<Self> {
        let tensor = Self::unwritten(op, Shape::new(shape)?, DType::F32, device)?;
        tensor.upload(&(0..tensor.count()).map(|_| draw()).collect::<Vec<f32>>())?;
        Ok(tensor)
    }

    /// Records writing `value` to every element of this tensor's layout.
    pub(crate) fn fill(&self, value: f32) -> Result<()> {
        let program = Arc::new(Program::new(&[], &[Expr::scalar(0)]));
        self.write_pointwise("fill", program, &[], vec![value])
    }

    /// Records writing `source`, of the same shape, into this tensor's layout: as a plain copy where both are whole
    /// regions, which the device may leave out by letting `source`'s producer write here.
    pub(crate) fn write(&self, op: &'static str, source: &Tensor) -> Result<()> {
        let whole = |tensor: &Tensor| tensor.layout().is_contiguous() && tensor.layout().offset() == 0;
        let (from, to) = (source.slice_of_buffer(), self.slice_of_buffer());
        let same = source.shape() == self.shape() && source.dtype() == self.dtype() && from.bytes == to.bytes;
        if same && whole(source) && whole(self) {
            let (inputs, outputs) = (vec![from], vec![to]);
            return Ok(self.device().record(Command { op, work: Work::Copy, inputs, outputs })?);
        }
        let program = Arc::new(Program::new(&[self.dtype()], &[Expr::input(0, self.dtype())]));
        self.write_pointwise(op, program, &[source], vec![])
    }

    /// Records writing `source`, of the same shape, into this tensor's layout, f32 as halves or halves as f32.
    pub(crate) fn write_cast(&self, op: &'static str, source: &Tensor) -> Result<()> {
        let cast = match self.dtype() {
            DType::F16 => &functions::CAST_F16,
            DType::BF16 => &functions::CAST_BF16,
            _ => &functions::CAST_F32,
        };
        let none = || Error::DTypes { op, found: vec![source.dtype(), self.dtype()] };
        let expr = Expr::apply(cast, vec![Expr::input(0, source.dtype())]).ok_or_else(none)?;
        self.write_pointwise(op, Arc::new(Program::new(&[source.dtype()], &[expr])), &[source], vec![])
    }

    /// Records a pointwise program of `inputs`, broadcast to this tensor's shape, into this tensor's layout.
    pub(crate) fn write_pointwise(
        &self,
        op: &'static str,
        program: Arc<Program>,
        inputs: &[&Tensor],
        scalars: Vec<f32>,
    ) -> Result<()> {
        let shape = *self.shape();
        let broadcast = |input: &&Tensor| {
            let rule = "each dimension must be equal or 1";
            let wrong = || Error::Shapes { op, left: *input.shape(), right: shape, rule };
            input.layout().broadcast_to(&shape).ok_or_else(wrong)
        };
        let layouts = inputs.iter().map(broadcast).collect::<Result<Vec<_>>>()?;
        let kernel = Pointwise { program, shape, inputs: layouts, outputs: vec![*self.layout()], scalars };
        Ok(self.device().record(Command {
            op,
            work: Work::Kernel(Arc::new(kernel)),
            inputs: inputs.iter().map(|input| input.slice_of_buffer()).collect(),
            outputs: vec![self.slice_of_buffer()],
        })?)
    }

    /// A tensor of the same elements that kernels which know no strides can take: row-major from where a region
    /// may start. It is this one where it already is.
    pub(crate) fn dense(&self) -> Result<Self> {
        let layout = self.layout();
        if layout.is_contiguous() {
            if layout.offset() == 0 {
                return Ok(self.clone());
            }
            let slice = self.slice_of_buffer();
            let start = slice.offset + layout.offset() * self.dtype().size();
            let bytes = self.count() * self.dtype().size();
            if let Some(region) = self.region().buffer().part(start, bytes).filter(|_| start.is_multiple_of(ALIGNMENT))
            {
                let version = self.0.version.clone();
                let layout = Layout::contiguous(*self.shape());
                return Ok(Self::from_parts(Parts { region, layout, dtype: self.dtype(), node: None, version }));
            }
        }
        let copy = Self::unwritten("contiguous", *self.shape(), self.dtype(), self.device())?;
        copy.write("contiguous", &self.view(*layout))?;
        Ok(copy)
    }

    /// Begins to read the elements back, in row-major order. The host does not wait.
    ///
    /// # Errors
    /// [`Error::ReadAs`] where `T` is not the dtype; those of the recording.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], &[2], &Device::cpu())?;
    /// let twice = x.mul_scalar(2.0)?.read::<f32>()?;
    /// // The host may do something else here.
    /// assert_eq!(twice.wait()?, [2.0, 4.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn read<T: Element>(&self) -> Result<TensorRead<T>> {
        if self.dtype() != T::DTYPE {
            return Err(Error::ReadAs { found: self.dtype(), wanted: T::DTYPE });
        }
        let dense = self.dense()?;
        let slice = Slice { bytes: self.count() * self.dtype().size(), ..dense.slice_of_buffer() };
        Ok(TensorRead { readback: self.device().read(&[slice])?, element: std::marker::PhantomData })
    }

    /// The elements in row-major order; waits for them.
    ///
    /// # Errors
    /// As [`Tensor::read`], and [`everstep_device::Error::OutOfRange`] where an op met data outside its range.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], &[2], &Device::cpu())?;
    /// assert_eq!(x.add_scalar(0.5)?.to_vec::<f32>()?, [1.5, 2.5]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.read::<T>()?.wait()
    }

    /// The only element; waits for it.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`], and [`Error::Shape`] where there is not exactly one element.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], &[2], &Device::cpu())?;
    /// assert_eq!(x.sum_all()?.item::<f32>()?, 3.0);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn item<T: Element>(&self) -> Result<T> {
        let wrong = Error::Shape { op: "item", shape: *self.shape(), rule: "it takes exactly one element" };
        if self.count() != 1 {
            return Err(wrong);
        }
        self.to_vec::<T>()?.pop().ok_or(wrong)
    }

    /// The same elements on another device. No gradient flows through the move.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::ones(&[2], &Device::cpu())?;
    /// assert_eq!(x.to_device(&Device::isolated_cpu())?.to_vec::<f32>()?, [1.0; 2]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if self.device().is(device) {
            return Ok(self.clone());
        }
        match self.dtype() {
            DType::F32 => Self::from_vec(self.to_vec::<f32>()?, self.shape(), device),
            DType::I32 => Self::from_vec(self.to_vec::<i32>()?, self.shape(), device),
            DType::U32 => Self::from_vec(self.to_vec::<u32>()?, self.shape(), device),
            DType::F16 => Self::from_vec(self.to_vec::<f16>()?, self.shape(), device),
            DType::BF16 => Self::from_vec(self.to_vec::<bf16>()?, self.shape(), device),
            DType::Bool => Self::from_vec(self.to_vec::<bool>()?, self.shape(), device),
            other => Err(Error::DTypes { op: "to_device", found: vec![other] }),
        }
    }

    /// `axis` counted from the front; negative ones count from the back.
    pub(crate) fn axis(&self, op: &'static str, axis: isize) -> Result<usize> {
        let rank = self.rank() as isize;
        let positive = if axis < 0 { axis + rank } else { axis };
        if (0..rank).contains(&positive) {
            Ok(positive as usize)
        } else {
            Err(Error::Axis { op, axis, shape: *self.shape() })
        }
    }

    /// The elements `range` along `axis` (negative: from the back), as a view.
    ///
    /// # Errors
    /// [`Error::Axis`]; [`everstep_device::Error::Slice`] where the range leaves the dimension.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.slice(1, 1..)?.to_vec::<f32>()?, [2.0, 4.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn slice(&self, axis: isize, range: impl RangeBounds<usize>) -> Result<Self> {
        let axis = self.axis("slice", axis)?;
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.shape()[axis],
        };
        ops::view::slice(self, axis, start, end, 1)
    }
}

/// A read-back of a tensor's elements under way.
#[must_use = "a read-back that is dropped is never seen"]
pub struct TensorRead<T> {
    readback: Readback,
    element: std::marker::PhantomData<T>,
}

impl<T: Element> TensorRead<T> {
    /// The elements, if they have arrived; `None` before, and after they were taken.
    pub fn try_take(&mut self) -> Result<Option<Vec<T>>> {
        Ok(self.readback.try_take()?.map(elements))
    }

    /// Waits for the elements.
    pub fn wait(self) -> Result<Vec<T>> {
        Ok(elements(self.readback.wait()?))
    }
}

fn elements<T: Element>(parts: Vec<Vec<u8>>) -> Vec<T> {
    parts.into_iter().next().map(|bytes| T::decode(&bytes)).unwrap_or_default()
}
