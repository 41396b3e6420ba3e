//! Everstep: a deep-learning engine in which **a training step is a transaction**.
//!
//! It owns its tensor, its autograd tape, its shaders, its optimizers and its memory, so it sees a fault on the device in
//! the step that made it and refuses that step there: parameters and optimizer state keep every bit.
//!
//! ```
//! use everstep::prelude::*;
//!
//! #[derive(Module)]
//! struct Mlp {
//!     hidden: Linear,
//!     output: Linear,
//! }
//!
//! fn main() -> everstep::Result<()> {
//!     let device = Device::best()?;
//!     let (mut generator, (train, test)) = (Generator::new(0), digits_split(0)?);
//!     let hidden = Linear::new(64, 32, &mut generator, &device)?;
//!     let model = Mlp { hidden, output: Linear::new(32, 10, &mut generator, &device)? };
//!     let forward = |x: &Tensor| model.output.forward(&model.hidden.forward_with(x, Activation::Relu)?);
//!     let mut optimizer = AdamW::new(3e-3).build(&model)?;
//!     let mut loader = Loader::new(train, LoaderConfig::new(32).shuffle(0), &device)?;
//!     for _ in 0..3 {
//!         for batch in loader.epoch() {
//!             let batch = batch?;
//!             let loss = forward(&batch.x)?.cross_entropy(&batch.y)?;
//!             loss.backward()?;
//!             optimizer.step(&loss)?;
//!         }
//!     }
//! #   let test = Loader::new(test, LoaderConfig::new(359), &device)?.next_batch()?.unwrap();
//! #   let found = no_grad(|| forward(&test.x))?.argmax(-1, false)?.to_vec::<u32>()?;
//! #   let right = found.iter().zip(test.y.to_vec::<u32>()?).filter(|(a, b)| *a == b).count();
//! #   assert!(right > 300, "{right}");
//!     Ok(())
//! }
//! ```

mod error;

pub use error::{Error, Result};
pub use everstep_data as data;
pub use everstep_device as device;
pub use everstep_fault as fault;
pub use everstep_fault::{run, supervise};
pub use everstep_nn as nn;
pub use everstep_optim as optim;
pub use everstep_tensor as tensor;
pub use everstep_train as train;

/// What a program usually needs.
pub mod prelude {
    pub use everstep_data::{
        At, Batch, CharDataset, CsvConfig, CsvDataset, Cursor, Dataset, InMemoryDataset, Loader, LoaderConfig, Subset,
        Transform, Transformed, Vocabulary, digits, digits_split, mnist,
    };
    pub use everstep_fault::{Batches, Checkpointing, Event, Guard, Policy, Report, Shutdown, Supervision};
    pub use everstep_nn::init::gain;
    pub use everstep_nn::transformer::{Gpt, GptConfig, SelfAttention, TransformerBlock};
    pub use everstep_nn::{AdaptiveAvgPool1d, AdaptiveAvgPool2d, AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d};
    pub use everstep_nn::{BatchNorm1d, BatchNorm2d, GroupNorm, MultiHeadAttention, RmsNorm};
    pub use everstep_nn::{Conv1d, Conv1dConfig, Conv2d, Conv2dConfig};
    pub use everstep_nn::{Dropout, Embedding, Fan, Init, Layer, LayerNorm, Linear, LinearConfig, Module, Sequential};
    pub use everstep_optim::{Adam, AdamW, MixedPrecision, Optimizer, ReduceOnPlateau, Rmsprop, Rule, Schedule, Sgd};
    pub use everstep_tensor::{
        Activation, AttentionOptions, ConvOptions, DType, Detection, Device, Generator, GradientOptions, Parameter,
        PoolOptions, Precision, Record, Shape, Snapshot, State, StepOptions, Tensor, Verdict, Visit, autocast, bf16,
        f16, gradients, no_grad,
    };
    pub use everstep_train::{Average, ConfusionMatrix, Mean, Scores};
}
