//! Shapes and strided layouts: where each element of a tensor lies in its buffer.

use std::fmt;
use std::ops::Deref;

use smallvec::SmallVec;

use crate::{Error, Result};

/// The largest rank of a tensor.
pub const MAX_RANK: usize = 6;

/// The sizes of a tensor's dimensions, outermost first; rank 0 is a scalar.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// The shape with these dimensions.
    ///
    /// # Errors
    /// [`Error::Rank`] past [`MAX_RANK`] dimensions, [`Error::Overflow`] where the element count does not fit.
    pub fn new(dims: &[usize]) -> Result<Self> {
        if dims.len() > MAX_RANK {
            return Err(Error::Rank { rank: dims.len(), maximum: MAX_RANK });
        }
        // Zero dimensions must not hide an overflow: the strides are products of the others.
        let product = dims.iter().filter(|&&d| d > 0).try_fold(1usize, |product, &d| product.checked_mul(d));
        if product.is_none_or(|count| count > isize::MAX as usize / 8) {
            return Err(Error::Overflow { dims: dims.to_vec() });
        }
        let mut shape = Self { dims: [1; MAX_RANK], rank: dims.len() };
        shape.dims[..dims.len()].copy_from_slice(dims);
        Ok(shape)
    }

    /// The shape of a scalar.
    pub const fn scalar() -> Self {
        Self { dims: [1; MAX_RANK], rank: 0 }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.iter().product()
    }

    /// The shape both broadcast to, by NumPy's rule: aligned at the last dimension, 1 stretches.
    pub fn broadcast(&self, other: &Self) -> Option<Self> {
        let mut result = if self.rank >= other.rank { *self } else { *other };
        let shorter = if self.rank >= other.rank { other } else { self };
        let lead = result.rank - shorter.rank;
        for (axis, &size) in shorter.iter().enumerate() {
            let target = &mut result.dims[lead + axis];
            if *target == 1 {
                *target = size;
            } else if size != 1 && size != *target {
                return None;
            }
        }
        Some(result)
    }

    /// This shape with the dimension at `axis` replaced.
    pub fn with(mut self, axis: usize, size: usize) -> Self {
        self.dims[axis] = size;
        self
    }

    /// Strides, in elements, of a contiguous row-major tensor.
    pub fn contiguous_strides(&self) -> [usize; MAX_RANK] {
        let mut strides = [0; MAX_RANK];
        let mut step = 1;
        for axis in (0..self.rank).rev() {
            strides[axis] = step;
            step *= self.dims[axis].max(1);
        }
        strides
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank]
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl PartialEq<[usize]> for Shape {
    fn eq(&self, other: &[usize]) -> bool {
        **self == *other
    }
}

impl<const N: usize> PartialEq<[usize; N]> for Shape {
    fn eq(&self, other: &[usize; N]) -> bool {
        **self == other[..]
    }
}

/// A strided view of a buffer: element `(i, j, ..)` lies at `offset + i * strides[0] + j * strides[1] + ..`,
/// counted in elements. A stride of 0 repeats.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    shape: Shape,
    strides: [usize; MAX_RANK],
    offset: usize,
}

impl Layout {
    /// The row-major layout of `shape`, from the buffer's start.
    pub fn contiguous(shape: Shape) -> Self {
        Self { shape, strides: shape.contiguous_strides(), offset: 0 }
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Strides in elements, one per dimension.
    pub fn strides(&self) -> &[usize] {
        &self.strides[..self.shape.rank]
    }

    /// Position of the first element.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Whether no two elements lie at one position: what may be written through. Sufficient, not necessary: each
    /// dimension, from the smallest stride on, steps past all that lies within it.
    pub fn is_injective(&self) -> bool {
        let sizes = self.shape.iter().zip(self.strides());
        let mut dims: Vec<_> = sizes.filter(|&(&size, _)| size != 1).map(|(&size, &stride)| (stride, size)).collect();
        dims.sort_unstable();
        let mut extent = 1;
        self.shape.count() == 0
            || dims.into_iter().all(|(stride, size)| {
                let apart = stride >= extent;
                extent += stride * (size - 1);
                apart
            })
    }

    /// Whether the elements lie one after the other in row-major order (from any offset).
    pub fn is_contiguous(&self) -> bool {
        let mut step = 1;
        self.shape.count() == 0
            || (0..self.shape.rank).rev().all(|axis| {
                let size = self.shape[axis];
                let fits = size == 1 || self.strides[axis] == step;
                step *= size;
                fits
            })
    }

    /// One past the largest position an element lies at; 0 without elements.
    pub fn end(&self) -> usize {
        if self.shape.count() == 0 {
            return 0;
        }
        let last: usize = self.shape.iter().zip(self.strides()).map(|(size, stride)| (size - 1) * stride).sum();
        self.offset + last + 1
    }

    /// The view with its dimensions in another order: dimension `axis` of the result is `axes[axis]` of this one.
    pub fn permute(&self, axes: &[usize]) -> Result<Self> {
        let rank = self.shape.rank;
        let mut seen = [false; MAX_RANK];
        let valid = axes.len() == rank && axes.iter().all(|&a| a < rank && !std::mem::replace(&mut seen[a], true));
        if !valid {
            return Err(Error::Permutation { axes: axes.to_vec(), shape: self.shape });
        }
        let mut result = *self;
        for (to, &from) in axes.iter().enumerate() {
            result.shape.dims[to] = self.shape.dims[from];
            result.strides[to] = self.strides[from];
        }
        Ok(result)
    }

    /// The view of the elements `start`, `start + step`, .. before `end` along `axis`.
    pub fn slice(&self, axis: usize, start: usize, end: usize, step: usize) -> Result<Self> {
        if axis >= self.shape.rank || start > end || end > self.shape[axis] || step == 0 {
            return Err(Error::Slice { axis, start, end, step, shape: self.shape });
        }
        let mut result = *self;
        result.offset += start * self.strides[axis];
        result.shape.dims[axis] = (end - start).div_ceil(step);
        // The stride of one element or none means nothing, and a huge step would overflow it.
        if result.shape.dims[axis] > 1 {
            result.strides[axis] = self.strides[axis] * step;
        }
        Ok(result)
    }

    /// The view stretched to `shape`; `None` where a dimension neither matches nor is 1.
    pub fn broadcast_to(&self, shape: &Shape) -> Option<Self> {
        let lead = shape.rank.checked_sub(self.shape.rank)?;
        let mut result = Self { shape: *shape, strides: [0; MAX_RANK], offset: self.offset };
        for axis in 0..self.shape.rank {
            if self.shape[axis] == shape[lead + axis] {
                result.strides[lead + axis] = self.strides[axis];
            } else if self.shape[axis] != 1 {
                return None;
            }
        }
        Some(result)
    }

    /// The same elements in row-major order under another shape, where strides can say so; else `None`, and the
    /// caller copies first. The counts must match.
    pub fn reshape(&self, shape: &Shape) -> Option<Self> {
        let mut result = Self { offset: self.offset, ..Self::contiguous(*shape) };
        if self.shape.count() != shape.count() {
            return None;
        }
        if shape.count() == 0 || self.is_contiguous() {
            return Some(result);
        }
        // Every merged run of this layout must be covered by whole dimensions of the new shape.
        let merged = Collapsed::new(&self.shape, [self]);
        let mut runs = merged.dims().iter().zip(merged.strides(0)).rev();
        let (mut size, mut stride) = runs.next().map(|(&size, &stride)| (size, stride))?;
        for axis in (0..shape.rank).rev() {
            let want = shape[axis];
            if want == 1 {
                continue;
            }
            if size == 1 {
                (size, stride) = runs.next().map(|(&size, &stride)| (size, stride))?;
            }
            if size % want != 0 {
                return None;
            }
            result.strides[axis] = stride;
            size /= want;
            stride *= want;
        }
        Some(result)
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}+{:?}", self.shape, self.offset, self.strides())
    }
}

/// Several layouts of one shape with neighbouring dimensions merged wherever every layout allows it, so that a
/// kernel walks as few dimensions as possible. Dimensions of size 1 are gone; rank is at least 1.
#[derive(Clone, Debug)]
pub struct Collapsed<const N: usize> {
    rank: usize,
    dims: [usize; MAX_RANK],
    strides: [[usize; MAX_RANK]; N],
}

impl<const N: usize> Collapsed<N> {
    /// Merges `layouts`, all of shape `shape`.
    pub fn new(shape: &Shape, layouts: [&Layout; N]) -> Self {
        let mut strides = [[0; MAX_RANK]; N];
        let mut dims = [1; MAX_RANK];
        let mut all = Vec::with_capacity(N);
        all.extend(layouts.iter().map(|layout| layout.strides));
        let rank = collapse(shape, &all, &mut dims, |axis, operand, stride| strides[operand][axis] = stride);
        Self { rank, dims, strides }
    }

    /// The merged dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// The strides of layout `index` over the merged dimensions.
    pub fn strides(&self, index: usize) -> &[usize] {
        &self.strides[index][..self.rank]
    }
}

/// The merging behind [`Collapsed`], for any number of operands: fills `dims`, reports each merged stride, returns
/// the merged rank.
pub(crate) fn collapse(
    shape: &Shape,
    strides: &[[usize; MAX_RANK]],
    dims: &mut [usize; MAX_RANK],
    mut report: impl FnMut(usize, usize, usize),
) -> usize {
    let mut groups: SmallVec<[(usize, usize); MAX_RANK]> = SmallVec::new(); // (size, innermost axis of the group)
    for axis in 0..shape.rank {
        let size = shape[axis];
        if size == 1 {
            continue;
        }
        match groups.last_mut() {
            Some(last) if strides.iter().all(|s| s[last.1] == s[axis] * size) => *last = (last.0 * size, axis),
            _ => groups.push((size, axis)),
        }
    }
    if groups.is_empty() {
        dims[0] = 1;
        (0..strides.len()).for_each(|operand| report(0, operand, 0));
        return 1;
    }
    for (to, &(size, axis)) in groups.iter().enumerate() {
        dims[to] = size;
        strides.iter().enumerate().for_each(|(operand, s)| report(to, operand, s[axis]));
    }
    groups.len()
}

impl Layout {
    pub(crate) fn raw_strides(&self) -> [usize; MAX_RANK] {
        self.strides
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(layout: &Layout) -> Vec<usize> {
        let shape = layout.shape();
        (0..shape.count())
            .map(|mut linear| {
                let mut position = layout.offset();
                for axis in (0..shape.rank()).rev() {
                    position += linear % shape[axis] * layout.strides()[axis];
                    linear /= shape[axis];
                }
                position
            })
            .collect()
    }

    fn layout(dims: &[usize]) -> Layout {
        Layout::contiguous(Shape::new(dims).unwrap())
    }

    #[test]
    fn shapes_are_checked() {
        assert!(matches!(Shape::new(&[1; 7]), Err(Error::Rank { rank: 7, .. })));
        assert!(matches!(Shape::new(&[usize::MAX, 3]), Err(Error::Overflow { .. })));
        assert!(matches!(Shape::new(&[0, usize::MAX, 3]), Err(Error::Overflow { .. })));
        assert_eq!(Shape::new(&[]).unwrap(), Shape::scalar());
        let broadcast = |a: &[usize], b: &[usize]| Shape::new(a).unwrap().broadcast(&Shape::new(b).unwrap());
        assert_eq!(broadcast(&[3, 1], &[2, 1, 4]).unwrap(), [2, 3, 4]);
        assert_eq!(broadcast(&[], &[0, 4]).unwrap(), [0, 4]);
        assert_eq!(broadcast(&[1], &[0]).unwrap(), [0]);
        assert_eq!(broadcast(&[2], &[3]), None);
    }

    #[test]
    fn views_address_what_they_say() {
        let base = layout(&[2, 3, 4]);
        assert_eq!(positions(&base), (0..24).collect::<Vec<_>>());
        assert_eq!(positions(&layout(&[2, 3]).permute(&[1, 0]).unwrap()), [0, 3, 1, 4, 2, 5]);
        assert_eq!(positions(&layout(&[2, 5]).slice(1, 1, 5, 2).unwrap()), [1, 3, 6, 8]);
        let stretched = layout(&[3, 1]).broadcast_to(&Shape::new(&[2, 3, 2]).unwrap()).unwrap();
        assert_eq!(positions(&stretched), [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]);
        assert_eq!(stretched.end(), 3);
        assert!(base.permute(&[0, 0, 1]).is_err() && base.permute(&[0, 1]).is_err());
        assert!(base.slice(3, 0, 1, 1).is_err() && base.slice(0, 2, 1, 1).is_err() && base.slice(0, 0, 2, 0).is_err());
        assert_eq!(base.slice(1, 3, 3, 1).unwrap().shape().count(), 0);
    }

    /// A reshape as a view exists exactly where the copy would see the same elements in the same order.
    #[test]
    fn reshape_keeps_the_order_or_refuses() {
        let views = [
            layout(&[4, 6]),
            layout(&[4, 6]).permute(&[1, 0]).unwrap(),
            layout(&[4, 6]).slice(1, 0, 6, 2).unwrap(),
            layout(&[4, 6]).slice(0, 1, 3, 1).unwrap(),
            layout(&[2, 3, 4]).permute(&[2, 0, 1]).unwrap(),
            layout(&[1, 1]).broadcast_to(&Shape::new(&[4, 6]).unwrap()).unwrap(),
        ];
        let targets: [&[usize]; 8] = [&[24], &[12], &[2, 6], &[6, 4], &[4, 3, 2], &[3, 4], &[2, 2, 3], &[4, 1, 6]];
        let mut kept = 0;
        for view in &views {
            for target in targets.iter().map(|t| Shape::new(t).unwrap()) {
                if let Some(reshaped) = view.reshape(&target) {
                    assert_eq!(positions(&reshaped), positions(view), "{view:?} to {target}");
                    kept += 1;
                } else if view.shape().count() == target.count() {
                    assert!(!view.is_contiguous(), "{view:?} to {target}");
                }
            }
        }
        assert!(kept > 12, "{kept}");
        let split = layout(&[4, 6]).permute(&[1, 0]).unwrap();
        assert!(split.reshape(&Shape::new(&[2, 3, 4]).unwrap()).is_some(), "splitting a dimension needs no copy");
        assert!(split.reshape(&Shape::new(&[24]).unwrap()).is_none(), "merging transposed ones does");
    }

    #[test]
    fn layouts_that_repeat_elements_are_seen() {
        let base = layout(&[4, 6]);
        assert!(base.is_injective() && base.permute(&[1, 0]).unwrap().is_injective());
        assert!(base.slice(1, 1, 6, 2).unwrap().is_injective() && layout(&[]).is_injective());
        let repeat = |from: &[usize], to: &[usize]| layout(from).broadcast_to(&Shape::new(to).unwrap()).unwrap();
        assert!(!repeat(&[1, 6], &[4, 6]).is_injective() && !repeat(&[1], &[2]).is_injective());
        assert!(repeat(&[1, 6], &[0, 6]).is_injective() && repeat(&[1, 6], &[1, 1, 6]).is_injective());
    }

    #[test]
    fn collapsing_merges_what_all_operands_allow() {
        let shape = Shape::new(&[2, 3, 1, 4]).unwrap();
        let (a, b) = (Layout::contiguous(shape), layout(&[4]).broadcast_to(&shape).unwrap());
        let alone = Collapsed::new(&shape, [&a]);
        assert_eq!((alone.dims(), alone.strides(0)), (&[24][..], &[1][..]));
        let both = Collapsed::new(&shape, [&a, &b]);
        assert_eq!((both.dims(), both.strides(0), both.strides(1)), (&[6, 4][..], &[4, 1][..], &[0, 1][..]));
        let scalar = Collapsed::new(&Shape::scalar(), [&Layout::contiguous(Shape::scalar())]);
        assert_eq!((scalar.dims(), scalar.strides(0)), (&[1][..], &[0][..]));
    }
}
