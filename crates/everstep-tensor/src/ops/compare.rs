//! Comparisons, the logic of truth values, and choices by them. No gradient flows through a comparison; through a
//! choice it flows to what was chosen.

use everstep_device::functions::{self, Function};
use everstep_device::{DType, Generator};

use super::pointwise::{call, call_with};
use super::reference::{Array, Domain};
use super::table::{Case, Cases, EXACT, Entry, Gradient, NUMBERS};
#[cfg(doc)]
use crate::Error;
use crate::{Result, Tensor};

/// Methods that compare two tensors, and a tensor with a number.
macro_rules! comparisons {
    ($($(#[$doc:meta])* $name:ident, $scalar:ident => $function:ident: [$($x:expr),+] => [$($y:expr),+];)+) => {
        impl Tensor {
            $($(#[$doc])*
            ///
            /// The result is of dtype bool. No gradient flows.
            ///
            /// # Errors
            /// [`Error::Shapes`] where the shapes do not broadcast, [`Error::DTypes`], [`Error::Devices`].
            ///
            #[doc = concat!(
                "```\n# use everstep_tensor::{Device, Tensor};\nlet x = Tensor::from_vec::<f32>(vec![",
                $(stringify!($x), ", ",)+ "], &[3], &Device::cpu())?;\n",
                "let two = Tensor::scalar(2.0f32, &Device::cpu())?;\n",
                "assert_eq!(x.", stringify!($name), "(&two)?.to_vec::<bool>()?, [", $(stringify!($y), ", ",)+
                "]);\n# Ok::<(), everstep_tensor::Error>(())\n```"
            )]
            pub fn $name(&self, other: &Tensor) -> Result<Tensor> {
                call(&functions::$function, &[&self.detach(), &other.detach()])
            }

            /// The same with a number on the right.
            ///
            /// # Errors
            /// [`Error::DTypes`]; [`Error::Argument`] for a number that an integer dtype cannot hold.
            ///
            #[doc = concat!(
                "```\n# use everstep_tensor::{Device, Tensor};\nlet x = Tensor::from_vec::<f32>(vec![",
                $(stringify!($x), ", ",)+ "], &[3], &Device::cpu())?;\nassert_eq!(x.", stringify!($scalar),
                "(2.0)?.to_vec::<bool>()?, [", $(stringify!($y), ", ",)+
                "]);\n# Ok::<(), everstep_tensor::Error>(())\n```"
            )]
            pub fn $scalar(&self, other: f32) -> Result<Tensor> {
                call_with(&functions::$function, &[&self.detach()], &[other])
            })+
        }
    };
}

comparisons! {
    /// Whether x equals y, broadcast. NaN equals nothing.
    eq, eq_scalar => EQ: [1.0, 2.0, f32::NAN] => [false, true, false];
    /// Whether x differs from y, broadcast. NaN differs from everything.
    ne, ne_scalar => NE: [1.0, 2.0, f32::NAN] => [true, false, true];
    /// Whether x is less than y, broadcast; false where either is NaN.
    lt, lt_scalar => LT: [1.0, 2.0, f32::NAN] => [true, false, false];
    /// Whether x is at most y, broadcast; false where either is NaN.
    le, le_scalar => LE: [1.0, 2.0, 3.0] => [true, true, false];
    /// Whether x is more than y, broadcast; false where either is NaN.
    gt, gt_scalar => GT: [1.0, 2.0, 3.0] => [false, false, true];
    /// Whether x is at least y, broadcast; false where either is NaN.
    ge, ge_scalar => GE: [1.0, 2.0, f32::NAN] => [false, true, false];
}

impl Tensor {
    /// Whether both are true, of tensors of bool, broadcast.
    ///
    /// # Errors
    /// [`Error::Shapes`] where the shapes do not broadcast, [`Error::DTypes`], [`Error::Devices`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_vec::<f32>(vec![1.0, 2.0, 3.0], &[3], &Device::cpu())?;
    /// assert_eq!(x.gt_scalar(1.0)?.logical_and(&x.lt_scalar(3.0)?)?.to_vec::<bool>()?, [false, true, false]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn logical_and(&self, other: &Tensor) -> Result<Tensor> {
        call(&functions::LOGICAL_AND, &[self, other])
    }

    /// Whether one or both are true, of tensors of bool, broadcast.
    ///
    /// # Errors
    /// As [`Tensor::logical_and`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_vec::<f32>(vec![1.0, 2.0, 3.0], &[3], &Device::cpu())?;
    /// assert_eq!(x.lt_scalar(2.0)?.logical_or(&x.gt_scalar(2.0)?)?.to_vec::<bool>()?, [true, false, true]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn logical_or(&self, other: &Tensor) -> Result<Tensor> {
        call(&functions::LOGICAL_OR, &[self, other])
    }

    /// Whether one is true and the other is not, of tensors of bool, broadcast.
    ///
    /// # Errors
    /// As [`Tensor::logical_and`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_vec::<f32>(vec![1.0, 2.0, 3.0], &[3], &Device::cpu())?;
    /// assert_eq!(x.ge_scalar(2.0)?.logical_xor(&x.ge_scalar(3.0)?)?.to_vec::<bool>()?, [false, true, false]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn logical_xor(&self, other: &Tensor) -> Result<Tensor> {
        call(&functions::LOGICAL_XOR, &[self, other])
    }

    /// Whether it is false, of a tensor of bool.
    ///
    /// # Errors
    /// [`Error::DTypes`] where the dtype is not bool.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![true, false], &[2], &Device::cpu())?;
    /// assert_eq!(x.logical_not()?.to_vec::<bool>()?, [false, true]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn logical_not(&self) -> Result<Tensor> {
        call(&functions::LOGICAL_NOT, &[self])
    }

    /// The elements of `yes` where this tensor of bool is true, else those of `no`; all three broadcast, `yes` and `no`
    /// of one dtype: PyTorch's `where(condition, yes, no)`. The gradient flows to what was chosen, and is zero elsewhere,
    /// whatever lies there.
    ///
    /// # Errors
    /// [`Error::Shapes`] where the shapes do not broadcast, [`Error::DTypes`], [`Error::Devices`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_vec::<f32>(vec![1.0, -2.0], &[2], &Device::cpu())?;
    /// let zero = Tensor::scalar(0.0f32, &Device::cpu())?;
    /// assert_eq!(x.gt(&zero)?.where_cond(&x, &zero)?.to_vec::<f32>()?, [1.0, 0.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn where_cond(&self, yes: &Tensor, no: &Tensor) -> Result<Tensor> {
        call(&functions::WHERE_COND, &[self, yes, no])
    }
}

const STEPWISE: Gradient = Gradient::No("it is constant wherever it is continuous");

/// A function that compares, and its two methods.
#[derive(Debug)]
pub(super) struct Comparison {
    function: &'static Function,
    apply: fn(&Tensor, &Tensor) -> Result<Tensor>,
    apply_scalar: fn(&Tensor, f32) -> Result<Tensor>,
}

/// The entry of a comparison.
pub(super) const fn comparison(
    function: &'static Function,
    apply: fn(&Tensor, &Tensor) -> Result<Tensor>,
    apply_scalar: fn(&Tensor, f32) -> Result<Tensor>,
    dtypes: &'static [DType],
) -> Entry {
    let cases = Cases::Comparison(Comparison { function, apply, apply_scalar });
    Entry { name: function.name, dtypes, gradient: STEPWISE, tolerance: EXACT, cases }
}

const SHAPES: [(&[usize], &[usize]); 6] = [
    (&[3, 5], &[3, 5]),
    (&[3, 5], &[5]),
    (&[], &[1]),
    (&[0], &[1]),
    (&[2, 1, 3, 1, 2, 2], &[3, 1, 1, 2]),
    (&[3, 701], &[3, 701]),
];

impl Comparison {
    pub(super) fn cases(&self, generator: &mut Generator) -> Vec<Case> {
        let (apply, apply_scalar, reference) = (self.apply, self.apply_scalar, self.function.reference);
        let mut cases = Vec::new();
        for dtype in [DType::F32, DType::U32, DType::I32, DType::Bool] {
            if self.function.overload(&[dtype; 2]).is_none() {
                continue;
            }
            let (low, count) = match dtype {
                DType::U32 => (u32::MAX as i64 - 2, 3), // as i32 these are negative
                DType::Bool => (0, 2),
                _ => (-1, 3),
            };
            let shapes = if dtype == DType::F32 { &SHAPES[..] } else { &SHAPES[..2] };
            for (left, right) in shapes {
                let inputs = [left, right].map(|shape| {
                    let mut array = Array::integers(shape, dtype, low, count, generator);
                    if dtype == DType::U32 {
                        array.values.iter_mut().step_by(2).for_each(|value| *value = 1.0);
                    }
                    array
                });
                let expected = move |x: &[Array]| Array::zip(&[&x[0], &x[1]], reference).with_dtype(DType::Bool);
                let label = format!("{dtype} {left:?} with {right:?}");
                cases.push(Case::new(label, inputs.to_vec(), move |x| apply(&x[0], &x[1]), expected));
            }
            if dtype != DType::Bool {
                let input = Array::integers(&[3, 5], dtype, 0, 3, generator);
                let expected = move |x: &[Array]| x[0].map(|value| reference(&[value, 1.0])).with_dtype(DType::Bool);
                let label = format!("{dtype} with 1");
                cases.push(Case::new(label, vec![input], move |x| apply_scalar(&x[0], 1.0), expected));
            }
        }
        cases
    }
}

/// The entry of a function of truth values, with how it is applied.
const fn logical(function: &'static Function, cases: fn(&mut Generator) -> Vec<Case>) -> Entry {
    let gradient = Gradient::No("truth values have no gradient");
    Entry { name: function.name, dtypes: &[DType::Bool], gradient, tolerance: EXACT, cases: Cases::Listed(cases) }
}

fn logical_cases(
    generator: &mut Generator,
    function: &'static Function,
    apply: fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> Vec<Case> {
    let case = |(left, right): (&[usize], &[usize])| {
        let inputs = [left, right].map(|shape| Array::integers(shape, DType::Bool, 0, 2, generator));
        let expected = |x: &[Array]| Array::zip(&[&x[0], &x[1]], function.reference).with_dtype(DType::Bool);
        Case::new(format!("{left:?} with {right:?}"), inputs.to_vec(), move |x| apply(&x[0], &x[1]), expected)
    };
    SHAPES[..5].iter().copied().map(case).collect()
}

pub(super) const LOGICAL_AND: Entry = logical(&functions::LOGICAL_AND, |generator| {
    logical_cases(generator, &functions::LOGICAL_AND, Tensor::logical_and)
});
pub(super) const LOGICAL_OR: Entry =
    logical(&functions::LOGICAL_OR, |generator| logical_cases(generator, &functions::LOGICAL_OR, Tensor::logical_or));
pub(super) const LOGICAL_XOR: Entry = logical(&functions::LOGICAL_XOR, |generator| {
    logical_cases(generator, &functions::LOGICAL_XOR, Tensor::logical_xor)
});

pub(super) const LOGICAL_NOT: Entry = logical(&functions::LOGICAL_NOT, |generator| {
    let shapes: [&[usize]; 4] = [&[7], &[3, 5], &[], &[0]];
    let case = |shape: &[usize]| {
        let input = Array::integers(shape, DType::Bool, 0, 2, generator);
        let expected = |x: &[Array]| x[0].map(|value| 1.0 - value);
        Case::new(format!("{shape:?}"), vec![input], |x| x[0].logical_not(), expected)
    };
    shapes.map(case).into()
});

pub(super) const WHERE_COND: Entry = Entry {
    name: "where_cond",
    dtypes: &[DType::Bool],
    gradient: Gradient::Any,
    tolerance: EXACT,
    cases: Cases::Listed(where_cases),
};

fn where_cases(generator: &mut Generator) -> Vec<Case> {
    let shapes: [[&[usize]; 3]; 6] = [
        [&[3, 5], &[3, 5], &[3, 5]],
        [&[3, 1], &[5], &[]],
        [&[2, 1, 3], &[4, 1], &[1, 1, 3]],
        [&[], &[0], &[1]],
        [&[], &[], &[]],
        [&[2, 1, 2, 1, 3, 1], &[1, 2, 1, 2, 1, 3], &[3]],
    ];
    let mut cases = Vec::new();
    for (number, [condition, yes, no]) in shapes.into_iter().enumerate() {
        let dtypes = if number == 0 { NUMBERS } else { &NUMBERS[..1] };
        for &dtype in dtypes.iter().chain((number == 0).then_some(&DType::Bool)) {
            let mut value = |shape: &[usize]| match dtype {
                DType::F32 => Array::draw(shape, Domain::between(-3.0, 3.0), generator),
                _ => Array::integers(shape, dtype, 0, 2, generator),
            };
            let (yes, no) = (value(yes), value(no));
            let inputs = vec![Array::integers(condition, DType::Bool, 0, 2, generator), yes, no];
            let reference = functions::WHERE_COND.reference;
            let expected = move |x: &[Array]| Array::zip(&[&x[0], &x[1], &x[2]], reference).with_dtype(dtype);
            let label = format!("{dtype} {condition:?}");
            cases.push(Case::new(label, inputs, |x| x[0].where_cond(&x[1], &x[2]), expected));
        }
    }
    cases
}
