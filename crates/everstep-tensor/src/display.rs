//! How tensors print: `Debug` says what they are, `Display` what they hold.

use std::fmt;

use everstep_device::{DType, Shape};

use crate::{Result, Tensor};

/// Elements shown at each end of a dimension that is cut short.
const EDGE: usize = 3;
/// Elements up to which everything is shown.
const WHOLE: usize = 1000;

impl fmt::Debug for Tensor {
    /// Dtype, shape, device; reads nothing back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.node().is_some() { ", on tape" } else { "" };
        write!(f, "Tensor({}{}, {}{kind})", self.dtype(), self.shape(), self.device().info().name)
    }
}

impl fmt::Display for Tensor {
    /// The elements, long dimensions cut short, then shape and dtype. Waits for them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match texts(self) {
            Ok(texts) => {
                let width = texts.shown.iter().map(String::len).max().unwrap_or(0);
                let mut next = texts.shown.iter();
                write_level(f, self.shape(), texts.cut, 0, width, &mut next)?;
            }
            Err(error) => write!(f, "<{error}>")?,
        }
        write!(f, " {}{}", self.dtype(), self.shape())
    }
}

/// The elements that are shown, in order.
struct Texts {
    shown: Vec<String>,
    cut: bool,
}

fn texts(tensor: &Tensor) -> Result<Texts> {
    let cut = tensor.count() > WHOLE;
    // Only what is shown is read back: the edges of each long dimension.
    let mut parts = vec![tensor.detach()];
    if cut {
        for axis in 0..tensor.rank() {
            let size = tensor.shape()[axis];
            if size > 2 * EDGE {
                let at = axis as isize;
                let split = |part: &Tensor| Ok([part.slice(at, ..EDGE)?, part.slice(at, size - EDGE..)?]);
                parts = parts.iter().map(split).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
            }
        }
    }
    Ok(Texts { shown: shown_order(tensor, &parts)?, cut })
}

/// Reads the corner pieces and puts their elements into the row-major order of what is shown.
fn shown_order(tensor: &Tensor, parts: &[Tensor]) -> Result<Vec<String>> {
    if parts.len() == 1 {
        return elements(&parts[0]);
    }
    let (shape, rank) = (tensor.shape(), tensor.rank());
    let long: Vec<usize> = (0..rank).filter(|&axis| shape[axis] > 2 * EDGE).collect();
    let sizes: Vec<usize> = shape.iter().map(|&size| if size > 2 * EDGE { 2 * EDGE } else { size }).collect();
    let read = parts.iter().map(elements).collect::<Result<Vec<_>>>()?;
    let total: usize = sizes.iter().product();
    let mut shown = Vec::with_capacity(total);
    for linear in 0..total {
        let (mut rest, mut index) = (linear, vec![0; rank]);
        for axis in (0..rank).rev() {
            index[axis] = rest % sizes[axis];
            rest /= sizes[axis];
        }
        let mut piece = 0;
        for &axis in &long {
            piece = 2 * piece + index[axis] / EDGE;
            index[axis] %= EDGE;
        }
        let within = index.iter().zip(parts[piece].shape().iter()).fold(0, |at, (i, size)| at * size + i);
        shown.push(read[piece][within].clone());
    }
    Ok(shown)
}

fn elements(tensor: &Tensor) -> Result<Vec<String>> {
    Ok(match tensor.dtype() {
        DType::U32 => tensor.to_vec::<u32>()?.iter().map(ToString::to_string).collect(),
        DType::I32 => tensor.to_vec::<i32>()?.iter().map(ToString::to_string).collect(),
        DType::Bool => tensor.to_vec::<bool>()?.iter().map(ToString::to_string).collect(),
        _ => {
            let values = tensor.detach().cast(DType::F32)?.to_vec::<f32>()?;
            let scientific = values.iter().any(|v| v.is_finite() && *v != 0.0 && !(1e-4..1e6).contains(&v.abs()));
            values
                .iter()
                .map(|v| if scientific && v.is_finite() { format!("{v:.4e}") } else { format!("{v:.4}") })
                .collect()
        }
    })
}

fn write_level(
    f: &mut fmt::Formatter<'_>,
    shape: &Shape,
    cut: bool,
    axis: usize,
    width: usize,
    next: &mut std::slice::Iter<'_, String>,
) -> fmt::Result {
    if axis == shape.rank() {
        return write!(f, "{:>width$}", next.next().map_or("", String::as_str));
    }
    let size = shape[axis];
    let short = cut && size > 2 * EDGE;
    let count = if short { 2 * EDGE } else { size };
    let inner = axis + 1 == shape.rank();
    write!(f, "[")?;
    for index in 0..count {
        if index > 0 {
            match inner {
                true => write!(f, ", ")?,
                false => write!(f, ",{}{:indent$}", "\n".repeat(shape.rank() - 1 - axis), "", indent = axis + 1)?,
            }
        }
        if short && index == EDGE {
            match inner {
                true => write!(f, "..., ")?,
                false => write!(f, "...,{}{:indent$}", "\n".repeat(shape.rank() - 1 - axis), "", indent = axis + 1)?,
            }
        }
        write_level(f, shape, cut, axis + 1, width, next)?;
    }
    write!(f, "]")
}
