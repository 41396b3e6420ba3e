//! What holds parameters: a tree that a visitor walks.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use everstep_tensor::{Parameter, RandomStream, RunningBuffer, Shape, structure_changed};

use crate::{Error, Pattern, Result};

/// Whether a layer trains: dropout drops only then, and batch norm uses the batch's own statistics.
#[derive(Debug)]
pub struct Mode(AtomicBool);

impl Mode {
    /// Training.
    pub fn training() -> Self {
        Self(AtomicBool::new(true))
    }

    /// Whether it trains.
    pub fn is_training(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Switches.
    pub fn set_training(&self, training: bool) {
        if self.0.swap(training, Ordering::Relaxed) != training {
            structure_changed();
        }
    }
}

/// What a visitor meets at the leaves of a module.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A parameter.
    Parameter(&'a Parameter),
    /// A buffer that its forward pass changes.
    Buffer(&'a RunningBuffer),
    /// A layer's random numbers.
    Random(&'a RandomStream),
    /// A layer's mode.
    Mode(&'a Mode),
}

/// Walks a module, keeping the names of the fields that lead to where it is.
pub struct Visitor<'a> {
    path: String,
    meet: &'a mut dyn FnMut(&str, Item<'_>),
}

impl<'a> Visitor<'a> {
    /// A visitor that calls `meet` with the dotted name of each item.
    pub fn new(meet: &'a mut dyn FnMut(&str, Item<'_>)) -> Self {
        Self { path: String::new(), meet }
    }

    /// Goes down into a field.
    pub fn child(&mut self, name: &str, module: &dyn Module) {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        module.visit(self);
        self.path.truncate(length);
    }

    /// Meets an item at the present place.
    pub fn item(&mut self, item: Item<'_>) {
        (self.meet)(&self.path, item);
    }
}

/// A layer, or anything made of layers. Derive it: `#[derive(Module)]`.
pub trait Module {
    /// Visits every field under its name.
    fn visit(&self, visitor: &mut Visitor<'_>);

    /// Every parameter with its name, `layer.weight`, in the order of the fields. A tied one is listed once, under the
    /// first name that leads to it.
    fn named_parameters(&self) -> Vec<(String, Parameter)>
    where
        Self: Sized,
    {
        let mut list: Vec<(String, Parameter)> = Vec::new();
        let mut meet = |name: &str, item: Item<'_>| {
            if let Item::Parameter(parameter) = item
                && !list.iter().any(|(_, known)| known.is(parameter))
            {
                list.push((name.to_string(), parameter.clone()));
            }
        };
        self.visit(&mut Visitor::new(&mut meet));
        list
    }

    /// Every parameter, each once.
    fn parameters(&self) -> Vec<Parameter>
    where
        Self: Sized,
    {
        self.named_parameters().into_iter().map(|(_, parameter)| parameter).collect()
    }

    /// Every running buffer with its name, such as `norm.running_mean`; a shared one once.
    fn named_buffers(&self) -> Vec<(String, RunningBuffer)>
    where
        Self: Sized,
    {
        let mut list: Vec<(String, RunningBuffer)> = Vec::new();
        let mut meet = |name: &str, item: Item<'_>| {
            if let Item::Buffer(buffer) = item
                && !list.iter().any(|(_, known)| known.is(buffer))
            {
                list.push((name.to_string(), buffer.clone()));
            }
        };
        self.visit(&mut Visitor::new(&mut meet));
        list
    }

    /// The random streams of its layers.
    fn random_streams(&self) -> Vec<RandomStream>
    where
        Self: Sized,
    {
        let mut list = Vec::new();
        let mut meet = |_: &str, item: Item<'_>| {
            if let Item::Random(stream) = item {
                list.push(stream.clone());
            }
        };
        self.visit(&mut Visitor::new(&mut meet));
        list
    }

    /// Switches every layer to training: dropout drops, batch norm takes the batch's statistics.
    fn train(&self)
    where
        Self: Sized,
    {
        set_training(self, true);
    }

    /// Switches every layer to evaluation: dropout passes through, batch norm takes the running statistics.
    fn eval(&self)
    where
        Self: Sized,
    {
        set_training(self, false);
    }

    /// Freezes the parameters whose names match a glob pattern, such as `encoder.*` (see [`Pattern`]): no gradient is
    /// collected for them, and no step changes them. Returns how many matched.
    ///
    /// ```
    /// # use everstep_nn::{Linear, Module};
    /// # use everstep_tensor::{Device, Generator};
    /// let model = Linear::new(4, 2, &mut Generator::new(0), &Device::cpu())?;
    /// assert_eq!(model.freeze("*weight")?, 1);
    /// assert!(!model.weight.is_trainable());
    /// assert!(model.freeze("encoder.*").is_err());
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Pattern`] where it is none, [`Error::NoMatch`] where no parameter's name matches it.
    fn freeze(&self, pattern: &str) -> Result<usize>
    where
        Self: Sized,
    {
        set_trainable(self, pattern, false)
    }

    /// Lets the parameters whose names match a pattern learn again; the counterpart of [`Module::freeze`].
    ///
    /// # Errors
    /// As [`Module::freeze`].
    fn unfreeze(&self, pattern: &str) -> Result<usize>
    where
        Self: Sized,
    {
        set_trainable(self, pattern, true)
    }

    /// Forgets the gradients that backward passes have collected. An optimizer's step does so by itself.
    fn zero_grad(&self)
    where
        Self: Sized,
    {
        self.parameters().iter().for_each(Parameter::zero_grad);
    }

    /// A table of the parameters.
    fn summary(&self) -> Summary
    where
        Self: Sized,
    {
        let row = |(name, parameter): (String, Parameter)| (name, *parameter.shape(), parameter.is_trainable());
        Summary { rows: self.named_parameters().into_iter().map(row).collect() }
    }
}

fn set_training(module: &impl Module, training: bool) {
    let mut meet = |_: &str, item: Item<'_>| {
        if let Item::Mode(mode) = item {
            mode.set_training(training);
        }
    };
    module.visit(&mut Visitor::new(&mut meet));
}

fn set_trainable(module: &impl Module, pattern: &str, trainable: bool) -> Result<usize> {
    let parsed = Pattern::new(pattern)?;
    let named = module.named_parameters();
    let found: Vec<_> = named.iter().filter(|(name, _)| parsed.matches(name)).collect();
    if found.is_empty() {
        return Err(Error::NoMatch { pattern: pattern.into() });
    }
    found.iter().for_each(|(_, parameter)| parameter.set_trainable(trainable));
    Ok(found.len())
}

/// The parameters of a module as a table; print it.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    rows: Vec<(String, Shape, bool)>,
}

impl Summary {
    /// Elements of all parameters.
    pub fn total(&self) -> usize {
        self.rows.iter().map(|(_, shape, _)| shape.count()).sum()
    }

    /// Elements of the parameters that learn.
    pub fn trainable(&self) -> usize {
        self.rows.iter().filter(|row| row.2).map(|(_, shape, _)| shape.count()).sum()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.0.len()).max().unwrap_or(0).max("parameter".len());
        writeln!(f, "{:width$}  {:>20}  {:>12}", "parameter", "shape", "elements")?;
        for (name, shape, trainable) in &self.rows {
            let frozen = if *trainable { "" } else { "  frozen" };
            writeln!(f, "{name:width$}  {:>20}  {:>12}{frozen}", shape.to_string(), shape.count())?;
        }
        write!(f, "{:width$}  {:>20}  {:>12}", "total", "", self.total())?;
        if self.trainable() < self.total() {
            write!(f, " ({} trainable)", self.trainable())?;
        }
        Ok(())
    }
}

impl Module for Parameter {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.item(Item::Parameter(self));
    }
}

impl Module for RunningBuffer {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.item(Item::Buffer(self));
    }
}

impl Module for RandomStream {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.item(Item::Random(self));
    }
}

impl Module for Mode {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.item(Item::Mode(self));
    }
}

impl<M: Module> Module for Vec<M> {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.iter().enumerate().for_each(|(index, module)| visitor.child(&index.to_string(), module));
    }
}

impl<M: Module, const N: usize> Module for [M; N] {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.iter().enumerate().for_each(|(index, module)| visitor.child(&index.to_string(), module));
    }
}

impl<M: Module> Module for Option<M> {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        if let Some(module) = self {
            module.visit(visitor);
        }
    }
}

macro_rules! pointers {
    ($($pointer:ident),+) => {
        $(impl<M: Module + ?Sized> Module for $pointer<M> {
            fn visit(&self, visitor: &mut Visitor<'_>) {
                (**self).visit(visitor);
            }
        })+
    };
}

pointers!(Box, Rc, Arc);

/// Tuples name their elements by number.
macro_rules! tuple {
    ($($type:ident $index:tt),+) => {
        impl<$($type: Module),+> Module for ($($type,)+) {
            fn visit(&self, visitor: &mut Visitor<'_>) {
                $(visitor.child(stringify!($index), &self.$index);)+
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);

impl<T: ?Sized> Module for std::marker::PhantomData<T> {
    fn visit(&self, _: &mut Visitor<'_>) {}
}

/// Plain values hold no parameters.
macro_rules! plain {
    ($($type:ty),+) => {
        $(impl Module for $type {
            fn visit(&self, _: &mut Visitor<'_>) {}
        })+
    };
}

plain!(bool, u8, u32, u64, i32, i64, usize, isize, f32, f64, String, &'static str, everstep_tensor::Activation);
