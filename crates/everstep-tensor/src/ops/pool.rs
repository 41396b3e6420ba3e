//! Maxima and means over windows of signals and images.

use everstep_device::cpu::{
    AvgPool as AvgKernel, AvgPoolBackward as AvgBackwardKernel, MaxPool as MaxKernel,
    MaxPoolBackward as MaxBackwardKernel, MaxPoolGather as GatherKernel, PoolGeometry,
};
use everstep_device::{DType, Generator, Shape};

use super::reference::{Array, Domain};
use super::table::{Case, Cases, EXACT, Entry, FLOAT, Gradient, Tolerance};
use crate::op::{Inferred, Op, Saved, apply, record_kernel};
use crate::window::{check, extent, outputs};
use crate::{Error, Pair, PoolOptions, Result, Tensor};

/// Shapes of a pooling, and what they are to the kernels.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    geometry: PoolGeometry,
    x: Shape,
    y: Shape,
}

/// The last `dims` dimensions of x, as an image; those of a signal have height 1.
fn image(op: &'static str, x: &Tensor, dims: usize) -> Result<[usize; 2]> {
    let Some(lead) = x.rank().checked_sub(dims) else {
        return Err(Error::Shape { op, shape: *x.shape(), rule: "it pools over the last dimension, or the last two" });
    };
    let mut size = [1; 2];
    size[2 - dims..].copy_from_slice(&x.shape()[lead..]);
    if size.contains(&0) { Err(Error::Empty { op, shape: *x.shape() }) } else { Ok(size) }
}

impl Sizes {
    /// With the last `dims` dimensions of x replaced by those of the output.
    fn over(x: &Tensor, dims: usize, mut geometry: PoolGeometry) -> Result<Self> {
        let lead = &x.shape()[..x.rank() - dims];
        geometry.planes = lead.iter().product();
        let y = Shape::new(&[lead, &geometry.output[2 - dims..]].concat())?;
        Ok(Self { geometry, x: *x.shape(), y })
    }

    /// Of windows that slide.
    fn sliding(op: &'static str, x: &Tensor, options: &PoolOptions, dims: usize) -> Result<Self> {
        let input = image(op, x, dims)?;
        let of = |pair: Pair, other: usize| if dims == 1 { [other, pair.0[1]] } else { pair.0 };
        let (kernel, padding, dilation) = (of(options.kernel, 1), of(options.padding, 0), of(options.dilation, 1));
        let stride = of(options.stride.unwrap_or(options.kernel), 1);
        check(op, "kernel", &kernel, 1)?;
        check(op, "stride", &stride, 1)?;
        check(op, "dilation", &dilation, 1)?;
        let mut output = [1; 2];
        for axis in 0..2 {
            let reach = extent(kernel[axis], dilation[axis]);
            if padding[axis] > reach / 2 {
                let (name, value) = ("padding", padding[axis] as f64);
                return Err(Error::Argument { op, name, value, range: "0 to half a window" });
            }
            let rule = "a window must fit into the padded input";
            let wrong = Error::Shape { op, shape: *x.shape(), rule };
            output[axis] = outputs(input[axis], reach, stride[axis], padding[axis]).ok_or(wrong)?;
        }
        let count_padding = options.count_padding;
        let adaptive = false;
        let geometry =
            PoolGeometry { planes: 0, input, output, kernel, stride, padding, dilation, count_padding, adaptive };
        Self::over(x, dims, geometry)
    }

    /// Of as many windows as asked for.
    fn adaptive(op: &'static str, x: &Tensor, output: [usize; 2], dims: usize) -> Result<Self> {
        let input = image(op, x, dims)?;
        check(op, "output", &output, 1)?;
        if (0..2).any(|axis| input[axis].saturating_mul(output[axis]) >= 1 << 31) {
            let rule = "the input's size times the output's must stay below 2^31";
            return Err(Error::Shape { op, shape: *x.shape(), rule });
        }
        let geometry = PoolGeometry {
            planes: 0,
            input,
            output,
            kernel: [1; 2],
            stride: [1; 2],
            padding: [0; 2],
            dilation: [1; 2],
            count_padding: false,
            adaptive: true,
        };
        Self::over(x, dims, geometry)
    }
}

fn only_f32(op: &'static str, input: &Tensor) -> Result<()> {
    if input.dtype() == DType::F32 { Ok(()) } else { Err(Error::DTypes { op, found: vec![input.dtype()] }) }
}

/// The largest of each window; keeps where it was.
#[derive(Clone, Debug)]
struct MaxPool(Sizes);

/// dx from those places and dy.
#[derive(Clone, Debug)]
struct MaxPoolBackward(Sizes);

/// The pixels at those places: the transpose.
#[derive(Clone, Debug)]
struct MaxPoolGather(Sizes);

/// The mean of each window.
#[derive(Clone, Debug)]
struct AvgPool(Sizes);

/// dx from dy.
#[derive(Clone, Debug)]
struct AvgPoolBackward(Sizes);

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        only_f32(self.name(), inputs[0])?;
        // Places are counted in 32 bits.
        if u32::try_from(self.0.geometry.pixels()).is_err() {
            let rule = "an image has more pixels than 32 bits can count";
            return Err(Error::Shape { op: self.name(), shape: self.0.x, rule });
        }
        Ok(Inferred::New(vec![(self.0.y, DType::F32), (self.0.y, DType::U32)]))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        record_kernel(MaxKernel(self.0.geometry), inputs, outputs)
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(MaxPoolBackward(self.0), &[&saved.outputs[1], gradient])?)])
    }
}

impl Op for MaxPoolBackward {
    fn name(&self) -> &'static str {
        "max_pool2d_backward"
    }

    fn infer(&self, _: &[&Tensor]) -> Result<Inferred> {
        Ok(Inferred::one(self.0.x, DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        record_kernel(MaxBackwardKernel(self.0.geometry), inputs, outputs)
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![None, Some(apply(MaxPoolGather(self.0), &[&saved.inputs[0], gradient])?)])
    }
}

impl Op for MaxPoolGather {
    fn name(&self) -> &'static str {
        "max_pool2d_gather"
    }

    fn infer(&self, _: &[&Tensor]) -> Result<Inferred> {
        Ok(Inferred::one(self.0.y, DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        record_kernel(GatherKernel(self.0.geometry), inputs, outputs)
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![None, Some(apply(MaxPoolBackward(self.0), &[&saved.inputs[0], gradient])?)])
    }
}

impl Op for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        only_f32(self.name(), inputs[0])?;
        Ok(Inferred::one(self.0.y, DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        record_kernel(AvgKernel(self.0.geometry), inputs, outputs)
    }

    fn vjp(&self, _: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(AvgPoolBackward(self.0), &[gradient])?)])
    }
}

impl Op for AvgPoolBackward {
    fn name(&self) -> &'static str {
        "avg_pool2d_backward"
    }

    fn infer(&self, _: &[&Tensor]) -> Result<Inferred> {
        Ok(Inferred::one(self.0.x, DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        record_kernel(AvgBackwardKernel(self.0.geometry), inputs, outputs)
    }

    /// It is linear: its gradient is the mean again.
    fn vjp(&self, _: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(AvgPool(self.0), &[gradient])?)])
    }
}

impl Tensor {
    /// The largest pixel of each window over the last two dimensions: x `[.., H, W]` (this tensor) gives `[.., H', W']`
    /// with H' = floor((H + 2 p - d (k - 1) - 1) / s) + 1 for windows of k pixels, stride s, padding p and dilation d. NaN
    /// where one is; the gradient flows to the first of equal pixels, as in PyTorch.
    ///
    /// # Errors
    /// [`Error::Argument`] for a window, stride or dilation of 0, or a padding beyond half a window; [`Error::Empty`] for
    /// an image without pixels; [`Error::Shape`] where no window fits; [`Error::DTypes`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 5.0, 2.0, 3.0], &[1, 1, 2, 2], &Device::cpu())?.requires_grad()?;
    /// let y = x.max_pool2d(2)?;
    /// assert_eq!((y.shape().to_vec(), y.item::<f32>()?), (vec![1, 1, 1, 1], 5.0));
    /// y.sum_all()?.backward()?;
    /// assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [0.0, 1.0, 0.0, 0.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn max_pool2d(&self, options: impl Into<PoolOptions>) -> Result<Tensor> {
        apply(MaxPool(Sizes::sliding("max_pool2d", self, &options.into(), 2)?), &[self])
    }

    /// As [`Tensor::max_pool2d`], over the last dimension alone.
    ///
    /// # Errors
    /// As [`Tensor::max_pool2d`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, PoolOptions, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 5.0, 2.0, 3.0], &[1, 4], &Device::cpu())?;
    /// assert_eq!(x.max_pool1d(PoolOptions::new(2).stride(1))?.to_vec::<f32>()?, [5.0, 5.0, 3.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn max_pool1d(&self, options: impl Into<PoolOptions>) -> Result<Tensor> {
        apply(MaxPool(Sizes::sliding("max_pool1d", self, &options.into(), 1)?), &[self])
    }

    /// The mean of each window over the last two dimensions, of shapes as in [`Tensor::max_pool2d`]. The zeros of the
    /// padding count, unless `count_padding` says otherwise.
    ///
    /// # Errors
    /// As [`Tensor::max_pool2d`]; [`Error::Argument`] for a dilation, which means do not have.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 5.0, 2.0, 4.0], &[1, 1, 2, 2], &Device::cpu())?;
    /// assert_eq!(x.avg_pool2d([1, 2])?.to_vec::<f32>()?, [3.0, 3.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn avg_pool2d(&self, options: impl Into<PoolOptions>) -> Result<Tensor> {
        self.mean_of_windows("avg_pool2d", &options.into(), 2)
    }

    /// As [`Tensor::avg_pool2d`], over the last dimension alone.
    ///
    /// # Errors
    /// As [`Tensor::avg_pool2d`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 5.0, 2.0, 4.0], &[1, 4], &Device::cpu())?;
    /// assert_eq!(x.avg_pool1d(2)?.to_vec::<f32>()?, [3.0, 3.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn avg_pool1d(&self, options: impl Into<PoolOptions>) -> Result<Tensor> {
        self.mean_of_windows("avg_pool1d", &options.into(), 1)
    }

    fn mean_of_windows(&self, op: &'static str, options: &PoolOptions, dims: usize) -> Result<Tensor> {
        if let Some(&value) = options.dilation.0[2 - dims..].iter().find(|&&dilation| dilation != 1) {
            return Err(Error::Argument { op, name: "dilation", value: value as f64, range: "1 to 1" });
        }
        apply(AvgPool(Sizes::sliding(op, self, options, dims)?), &[self])
    }

    /// The mean of each of `output` windows over the last two dimensions: window i of n over m pixels covers those from
    /// floor(i m / n) up to, not including, ceil((i + 1) m / n). An output of 1 is the mean of the whole image.
    ///
    /// # Errors
    /// [`Error::Argument`] for an output of 0; [`Error::Empty`] for an image without pixels; [`Error::Shape`],
    /// [`Error::DTypes`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 5.0, 2.0, 4.0, 3.0, 3.0], &[1, 1, 2, 3], &Device::cpu())?;
    /// assert_eq!(x.adaptive_avg_pool2d(1)?.to_vec::<f32>()?, [3.0]);
    /// assert_eq!(x.adaptive_avg_pool2d([2, 2])?.to_vec::<f32>()?, [3.0, 3.5, 3.5, 3.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn adaptive_avg_pool2d(&self, output: impl Into<Pair>) -> Result<Tensor> {
        apply(AvgPool(Sizes::adaptive("adaptive_avg_pool2d", self, output.into().0, 2)?), &[self])
    }

    /// As [`Tensor::adaptive_avg_pool2d`], over the last dimension alone.
    ///
    /// # Errors
    /// As [`Tensor::adaptive_avg_pool2d`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 5.0, 3.0], &[1, 3], &Device::cpu())?;
    /// assert_eq!(x.adaptive_avg_pool1d(2)?.to_vec::<f32>()?, [3.0, 4.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn adaptive_avg_pool1d(&self, output: usize) -> Result<Tensor> {
        apply(AvgPool(Sizes::adaptive("adaptive_avg_pool1d", self, [1, output], 1)?), &[self])
    }
}

const PIXELS: Domain = Domain::between(-3.0, 3.0);

pub(super) const MAX_POOL2D: Entry = Entry {
    name: "max_pool2d",
    dtypes: FLOAT,
    gradient: Gradient::Any,
    tolerance: EXACT,
    cases: Cases::Listed(|generator| {
        let uses: [(&[usize], PoolOptions); 8] = [
            (&[1, 2, 4, 4], PoolOptions::new(2)),
            (&[2, 1, 3, 5], PoolOptions::new([2, 3]).stride(1).padding([1, 0])),
            (&[1, 1, 6, 5], PoolOptions::new([3, 2]).stride([1, 2]).dilation([2, 1]).padding([2, 1])),
            (&[3, 4], PoolOptions::new(3).stride(2).padding(1)),
            (&[0, 2, 3, 3], PoolOptions::new(2)),
            (&[2, 1, 1, 2, 3, 4], PoolOptions::new([1, 4]).stride(1)),
            (&[2, 3, 20, 70], PoolOptions::new(3).stride(2).padding(1)),
            (&[3, 7, 9], PoolOptions::new([3, 1]).stride(3)),
        ];
        let mut of = |one| sliding_case(one, generator, Tensor::max_pool2d, max, 2);
        // A window with no pixel: minus infinity.
        let none: (&[usize], PoolOptions) = (&[1, 1, 1, 2], PoolOptions::new(2).dilation([2, 1]).padding([1, 0]));
        let last = of(none).with_orders(0);
        uses.into_iter().map(of).chain([last]).collect()
    }),
};

pub(super) const MAX_POOL1D: Entry = Entry {
    name: "max_pool1d",
    cases: Cases::Listed(|generator| {
        let uses: [(&[usize], PoolOptions); 4] = [
            (&[2, 2, 7], PoolOptions::new(3).stride(2).padding(1)),
            (&[5], PoolOptions::new([9, 2]).padding([4, 0])),
            (&[2, 0, 4], PoolOptions::new(2)),
            (&[2, 3, 90], PoolOptions::new(4).dilation(2).stride(1)),
        ];
        uses.into_iter().map(|one| sliding_case(one, generator, Tensor::max_pool1d, max, 1)).collect()
    }),
    ..MAX_POOL2D
};

pub(super) const AVG_POOL2D: Entry = Entry {
    name: "avg_pool2d",
    dtypes: FLOAT,
    gradient: Gradient::Any,
    tolerance: Tolerance {
        relative: 6e-7,
        absolute: 1e-6,
        why: "a sum of some numbers up to 3, which cancel, in rows, and a division: some units of 2^-23 of the largest",
    },
    cases: Cases::Listed(|generator| {
        let uses: [(&[usize], PoolOptions); 7] = [
            (&[1, 2, 4, 4], PoolOptions::new(2)),
            (&[2, 1, 3, 5], PoolOptions::new([2, 3]).stride([1, 2]).padding(1)),
            (&[2, 1, 4, 5], PoolOptions::new([2, 3]).stride([1, 2]).padding(1).count_padding(false)),
            (&[3, 5], PoolOptions::new(3).stride(1).padding(1)),
            (&[0, 2, 3, 3], PoolOptions::new(2)),
            (&[2, 1, 1, 2, 3, 4], PoolOptions::new([1, 4]).stride(1)),
            (&[2, 3, 20, 70], PoolOptions::new([5, 4]).stride([2, 3]).padding([2, 1])),
        ];
        uses.into_iter().map(|one| sliding_case(one, generator, Tensor::avg_pool2d, mean, 2)).collect()
    }),
};

pub(super) const AVG_POOL1D: Entry = Entry {
    name: "avg_pool1d",
    cases: Cases::Listed(|generator| {
        let uses: [(&[usize], PoolOptions); 3] = [
            (&[2, 2, 7], PoolOptions::new(3).stride(2).padding(1)),
            (&[6], PoolOptions::new([9, 4]).padding([4, 1]).count_padding(false)),
            (&[2, 0, 4], PoolOptions::new(2)),
        ];
        uses.into_iter().map(|one| sliding_case(one, generator, Tensor::avg_pool1d, mean, 1)).collect()
    }),
    ..AVG_POOL2D
};

pub(super) const ADAPTIVE_AVG_POOL2D: Entry = Entry {
    name: "adaptive_avg_pool2d",
    cases: Cases::Listed(|generator| {
        let uses: [(&[usize], [usize; 2]); 6] = [
            (&[2, 2, 4, 5], [2, 3]),
            (&[1, 2, 4, 3], [1, 1]),
            (&[3, 4], [5, 2]),
            (&[0, 3, 3], [2, 2]),
            (&[2, 1, 1, 2, 3, 4], [3, 4]),
            (&[2, 3, 33, 40], [7, 7]),
        ];
        uses.into_iter().map(|one| adaptive_case(one, generator)).collect()
    }),
    ..AVG_POOL2D
};

pub(super) const ADAPTIVE_AVG_POOL1D: Entry = Entry {
    name: "adaptive_avg_pool1d",
    cases: Cases::Listed(|generator| {
        let uses: [(&[usize], [usize; 2]); 3] = [(&[2, 2, 7], [1, 3]), (&[4], [1, 6]), (&[2, 0, 4], [1, 2])];
        uses.into_iter().map(|one| adaptive_case(one, generator)).collect()
    }),
    ..AVG_POOL2D
};

/// Of the pixels of a window, `None` in the padding.
type OfWindow = fn(&[Option<f64>], &PoolOptions) -> f64;

fn max(pixels: &[Option<f64>], _: &PoolOptions) -> f64 {
    super::reference::largest(&pixels.iter().flatten().copied().collect::<Vec<_>>())
}

fn mean(pixels: &[Option<f64>], options: &PoolOptions) -> f64 {
    let inside: Vec<f64> = pixels.iter().flatten().copied().collect();
    let count = if options.count_padding { pixels.len() } else { inside.len() };
    inside.iter().sum::<f64>() / count as f64
}

fn sliding_case(
    (shape, options): (&[usize], PoolOptions),
    generator: &mut Generator,
    apply: fn(&Tensor, PoolOptions) -> Result<Tensor>,
    of: OfWindow,
    dims: usize,
) -> Case {
    let label = format!("{shape:?} {options:?}");
    let input = Array::draw(shape, PIXELS, generator);
    let reference = move |x: &[Array]| {
        let pair = |pair: Pair, other: usize| if dims == 1 { [other, pair.0[1]] } else { pair.0 };
        let (kernel, padding) = (pair(options.kernel, 1), pair(options.padding, 0));
        let (stride, dilation) = (pair(options.stride.unwrap_or(options.kernel), 1), pair(options.dilation, 1));
        let size = [0, 1].map(|axis| {
            let pixels = if axis + dims < 2 { 1 } else { x[0].shape[x[0].shape.len() + axis - 2] };
            (pixels + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) / stride[axis] + 1
        });
        pooled(&x[0], dims, size, |at, image| {
            let pixel = |tap: usize| {
                let tap = [tap / kernel[1], tap % kernel[1]];
                let place = [0, 1].map(|a: usize| (at[a] * stride[a] + tap[a] * dilation[a]).wrapping_sub(padding[a]));
                image(place)
            };
            of(&(0..kernel[0] * kernel[1]).map(pixel).collect::<Vec<_>>(), &options)
        })
    };
    Case::new(label, vec![input], move |x| apply(&x[0], options), reference)
}

fn adaptive_case((shape, output): (&[usize], [usize; 2]), generator: &mut Generator) -> Case {
    let dims = if output[0] == 1 && shape.len() < 4 && output[1] > 1 { 1 } else { 2 };
    let label = format!("{shape:?} to {output:?}");
    let input = Array::draw(shape, PIXELS, generator);
    let apply = move |x: &[Tensor]| match dims {
        1 => x[0].adaptive_avg_pool1d(output[1]),
        _ => x[0].adaptive_avg_pool2d(output),
    };
    let reference = move |x: &[Array]| {
        let rank = x[0].shape.len();
        let size = [0, 1].map(|axis| if axis + dims < 2 { 1 } else { x[0].shape[rank + axis - 2] });
        pooled(&x[0], dims, output, |at, image| {
            let range = |axis: usize| {
                let (pixels, outputs) = (size[axis] as f64, output[axis] as f64);
                let bound = |at: usize| at as f64 * pixels / outputs;
                // Exact: the products are small integers, and a quotient that is an integer comes out as one.
                bound(at[axis]).floor() as usize..bound(at[axis] + 1).ceil() as usize
            };
            let places = range(0).flat_map(|row| range(1).map(move |column| [row, column]));
            let pixels: Vec<f64> = places.filter_map(image).collect();
            pixels.iter().sum::<f64>() / pixels.len() as f64
        })
    };
    Case::new(label, vec![input], apply, reference)
}

/// `of` each position of windows over the last `dims` dimensions, with the pixels of its plane by their place.
fn pooled(
    x: &Array,
    dims: usize,
    size: [usize; 2],
    of: impl Fn([usize; 2], &dyn Fn([usize; 2]) -> Option<f64>) -> f64,
) -> Array {
    let lead = x.shape.len() - dims;
    let image = [0, 1].map(|axis| if axis + dims < 2 { 1 } else { x.shape[lead + dims + axis - 2] });
    let planes: usize = x.shape[..lead].iter().product();
    let y = Array::from_fn(&[planes, size[0], size[1]], |at| {
        let pixel = |place: [usize; 2]| {
            let inside = place[0] < image[0] && place[1] < image[1];
            inside.then(|| x.values[(at[0] * image[0] + place[0]) * image[1] + place[1]])
        };
        of([at[1], at[2]], &pixel)
    });
    y.reshaped(&[&x.shape[..lead], &size[2 - dims..]].concat())
}
