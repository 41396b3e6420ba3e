//! The whole engine against PyTorch's numbers (see `goldens/make_goldens.py`), and the facade as a program uses it.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // The helpers beside the tests are tests too; errors are printed.

mod common;
mod facade;
mod layers;
mod ops;
mod optimizers;
mod training;
