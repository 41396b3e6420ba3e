//! What an update rule is.

use std::fmt;
use std::sync::Arc;

use everstep_device::Kernel;
use everstep_nn::Module;

use crate::{Groups, Optimizer, Result};

/// The part of the arena that one kernel updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Its first element, counted in the slices that the kernel gets.
    pub start: usize,
    /// How many elements.
    pub count: usize,
    /// The parameter group, whose schedule row the kernel reads.
    pub group: usize,
    /// The largest magnitude of a gradient, applied after the clipping of the norm; `f32::MAX` for no clipping.
    pub clip_value: f32,
}

impl Span {
    /// Elements `start..start + count` of `group`, without clipping by value.
    pub fn new(start: usize, count: usize, group: usize) -> Self {
        Self { start, count, group, clip_value: f32::MAX }
    }
}

/// An update rule: what a step does to a range of the arena.
pub trait Rule: fmt::Debug + Send + Sync + 'static {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Checks the settings.
    ///
    /// # Errors
    /// [`crate::Error::Setting`].
    fn check(&self) -> Result<()>;

    /// The learning rate to begin with.
    fn learning_rate(&self) -> f64;

    /// How many state buffers of the arena's size it keeps: the same for every rule of a type, because parameter groups
    /// share them.
    fn states(&self) -> usize;

    /// What the kernel needs to know of the step after `committed` committed ones: computed here in f64, read on the
    /// device by the committed counter.
    fn row(&self, learning_rate: f64, committed: u64) -> [f32; 4];

    /// The kernel over the elements of `span`. Inputs: gradients, control block; outputs: values, then the states, then the
    /// sums of the step ([`everstep_device::control::SUMS`]), to which it adds what it reads and writes. What
    /// it does to a gradient, in this order: scale it by the control block's clipping factor, limit it to the span's
    /// `clip_value`, add the gradients of the rule's penalties.
    fn kernel(&self, span: &Span) -> Arc<dyn Kernel>;

    /// An optimizer of all parameters of `model`, which move into its arena.
    ///
    /// # Errors
    /// [`crate::Error::Setting`]; those of [`everstep_tensor::Arena::new`].
    fn build(self, model: &impl Module) -> Result<Optimizer>
    where
        Self: Sized,
    {
        Optimizer::new(self, model)
    }

    /// Begins an optimizer of `model` of which some parameters follow a rule of other settings: see [`Groups::group`].
    fn groups<M: Module>(self, model: &M) -> Groups<'_, Self, M>
    where
        Self: Sized,
    {
        Groups::new(self, model)
    }
}
