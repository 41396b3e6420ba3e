//! Mixed precision: in a scope of f16 or bf16, ops whose cost is in their products take halves, and those that sum or
//! raise to powers take f32, whatever they are given. The scope is looked at in the funnel of `op.rs`, and
//! where a pointwise function's dtypes choose its formula.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use everstep_device::{DType, Layout, Slice};

use crate::{Result, Tensor};

/// What the products of a forward pass are computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// What they are given.
    #[default]
    F32,
    /// Halves of 11 significant bits and a largest number of 65,504.
    F16,
    /// Halves of 8 significant bits and the range of f32.
    BF16,
}

impl Precision {
    /// The dtype of the halves; `None` for f32.
    pub const fn half(self) -> Option<DType> {
        match self {
            Self::F32 => None,
            Self::F16 => Some(DType::F16),
            Self::BF16 => Some(DType::BF16),
        }
    }
}

/// What an op takes in the scope of [`autocast`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Autocast {
    /// What it is given: the result of f32 with halves is f32.
    #[default]
    AsGiven,
    /// Halves: its cost is in products, which f32 adds up.
    Halves,
    /// f32: it adds up many numbers, or its results leave the range of halves.
    Single,
}

/// A cast of a parameter is the same for all its uses in a scope: the same elements, of the same version, on a tape or off.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    slice: Slice,
    layout: Layout,
    // The address of the parameter's count of changes, and the count.
    version: (usize, u64),
    has_node: bool,
}

struct Cast {
    // Keeps alive what the key names.
    _source: Tensor,
    cast: Tensor,
}

thread_local! {
    static PRECISION: Cell<Precision> = const { Cell::new(Precision::F32) };
    static CASTS: RefCell<HashMap<Key, Cast>> = RefCell::new(HashMap::new());
}

/// Runs `work` with the products of its forward passes on halves of `precision`; parameters stay as they are and get
/// gradients of their own dtype. The conventions are those of PyTorch's `torch.autocast`:
///
/// - matmul, convolution and attention cast what they take to halves, accumulate in f32, and give halves;
/// - sums, means, norms, softmax, losses, exponentials and powers take and give f32;
/// - all else takes what it is given, and f32 with halves makes f32.
///
/// A parameter is cast once in a scope, not once per use. A backward pass computes in the dtypes of its forward pass, in the
/// scope or outside. A scope within a scope takes its place until it ends: [`Precision::F32`] switches the casts off.
///
/// ```
/// # use everstep_tensor::{DType, Device, Parameter, Precision, Tensor, autocast};
/// # let device = Device::cpu();
/// let weight = Parameter::new(&Tensor::ones(&[4, 2], &device)?)?;
/// let x = Tensor::ones(&[3, 4], &device)?;
/// let (y, loss) = autocast(Precision::F16, || {
///     let y = x.matmul(&weight.tensor())?;
///     Ok::<_, everstep_tensor::Error>((y.clone(), y.mean_all()?))
/// })?;
/// assert_eq!((y.dtype(), loss.dtype()), (DType::F16, DType::F32));
/// loss.backward()?;
/// assert_eq!(weight.grad().unwrap().dtype(), DType::F32);
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
pub fn autocast<T>(precision: Precision, work: impl FnOnce() -> T) -> T {
    let _scope = Scope::enter(precision);
    work()
}

/// The precision of this thread's scope.
pub(crate) fn precision() -> Precision {
    PRECISION.get()
}

/// A scope, until it is dropped.
pub(crate) struct Scope {
    outer: (Precision, HashMap<Key, Cast>),
}

impl Scope {
    pub(crate) fn enter(precision: Precision) -> Self {
        Self { outer: (PRECISION.replace(precision), CASTS.take()) }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        PRECISION.set(self.outer.0);
        CASTS.set(std::mem::take(&mut self.outer.1));
    }
}

/// Forgets the casts of this scope: a backward pass has freed what they left on the tape.
pub(crate) fn forget_casts() {
    if precision() != Precision::F32 {
        CASTS.take();
    }
}

/// The inputs of an op as it takes them in this scope; `None` where they are as given.
pub(crate) fn inputs(takes: Autocast, inputs: &[&Tensor]) -> Result<Option<Vec<Tensor>>> {
    let Some(half) = precision().half() else { return Ok(None) };
    let dtype = match takes {
        Autocast::AsGiven => return Ok(None),
        Autocast::Halves => half,
        Autocast::Single => DType::F32,
    };
    let differs = |input: &Tensor| input.dtype().is_float() && input.dtype() != dtype;
    if !inputs.iter().any(|input| differs(input)) {
        return Ok(None);
    }
    let cast = |input: &&Tensor| if differs(input) { cast(input, dtype) } else { Ok((*input).clone()) };
    inputs.iter().map(cast).collect::<Result<_>>().map(Some)
}

/// A tensor as another dtype: of a parameter, the one cast of this scope.
fn cast(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    let Some(version) = tensor.version() else { return cast_in_order(tensor, dtype) };
    let key = Key {
        slice: tensor.slice_of_buffer(),
        layout: *tensor.layout(),
        version: version.key(),
        has_node: tensor.node().is_some(),
    };
    if let Some(known) = CASTS.with_borrow(|casts| casts.get(&key).map(|known| known.cast.clone())) {
        return Ok(known);
    }
    // It is the parameter still, to whoever asks which layer an op belongs to.
    let cast = cast_in_order(tensor, dtype)?.with_version(version.clone());
    let known = Cast { _source: tensor.clone(), cast: cast.clone() };
    CASTS.with_borrow_mut(|casts| casts.insert(key, known));
    Ok(cast)
}

/// A cast whose elements lie in memory in the order in which those of `tensor` do, so that nothing is transposed on the way
/// there, and the gradient of a transposed weight comes out in the weight's own order.
fn cast_in_order(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    match memory_order(tensor.layout()) {
        Some(axes) => {
            let signed = |axes: &[usize]| axes.iter().map(|&axis| axis as isize).collect::<Vec<_>>();
            tensor.permute(&signed(&axes))?.cast(dtype)?.permute(&signed(&inverse(&axes)))
        }
        None => tensor.cast(dtype),
    }
}

/// The axes in the order in which their elements lie in memory, of a permuted view of elements without gaps; `None` for a
/// row-major layout and any other.
pub(crate) fn memory_order(layout: &Layout) -> Option<Vec<usize>> {
    if layout.is_contiguous() {
        return None;
    }
    let strides = layout.strides();
    let mut axes: Vec<usize> = (0..strides.len()).collect();
    axes.sort_by_key(|&axis| std::cmp::Reverse(strides[axis]));
    let ordered = layout.permute(&axes).ok()?;
    ordered.is_contiguous().then_some(axes)
}

/// The permutation that takes another one back.
pub(crate) fn inverse(axes: &[usize]) -> Vec<usize> {
    let mut back = vec![0; axes.len()];
    axes.iter().enumerate().for_each(|(place, &axis)| back[axis] = place);
    back
}
