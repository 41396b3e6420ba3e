//! The whole engine against PyTorch's numbers (see `goldens/make_goldens.py`), and the facade as a program uses it.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // The helpers beside the tests are tests too; errors are printed.

mod batch_norm;
mod common;
mod conv;
mod facade;
mod indexing;
mod layers;
mod losses;
mod norms;
mod ops;
mod optimizers;
mod optimizers2;
mod pointwise;
mod pytorch_files;
mod training;
