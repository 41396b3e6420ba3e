//! A training loop by hand, in which some steps go wrong: the device refuses them, and nothing is lost.
//!
//! A batch of NaN arrives at step 60. Its step is judged on the device and refused there; the parameters, Adam's moments
//! and the learning-rate schedule keep every bit, and the loop goes on without having waited for a verdict.
//!
//! ```text
//! cargo run --release --example custom_training_loop
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use everstep::prelude::*;

#[derive(Module)]
struct Net {
    first: Linear,
    dropout: Dropout,
    second: Linear,
}

impl Net {
    fn new(generator: &mut Generator, device: &Device) -> everstep::Result<Self> {
        let first = LinearConfig::new(64, 96).weight_init(Init::KaimingNormal { gain: gain::RELU, fan: Fan::In });
        Ok(Self {
            first: first.init(generator, device)?,
            dropout: Dropout::new(0.2, generator)?,
            second: Linear::new(96, 10, generator, device)?,
        })
    }

    fn forward(&self, x: &Tensor) -> everstep::Result<Tensor> {
        let hidden = self.dropout.forward(&self.first.forward(x)?.gelu()?)?;
        Ok(self.second.forward(&hidden)?)
    }
}

fn main() -> everstep::Result<()> {
    let device = Device::best()?;
    let (train, test) = digits_split(0)?;
    let mut train = Loader::new(train, LoaderConfig::new(48).shuffle(1), &device)?;
    let mut test = Loader::new(test, LoaderConfig::new(359), &device)?;

    let net = Net::new(&mut Generator::new(1), &device)?;
    // The learning rate is a function of committed steps: a refused one does not advance it.
    let rate = |committed: u64| 3e-3 * (1.0 - committed as f64 / 300.0).max(0.1);
    let mut optimizer = AdamW::new(3e-3).build(&net)?.clip_norm(1.0)?.schedule(rate);

    let mut step = 0;
    for epoch in 1..=8 {
        for batch in train.epoch() {
            let batch = batch?;
            step += 1;
            // Something is wrong with this batch.
            let x = if step == 60 { batch.x.mul_scalar(f32::NAN)? } else { batch.x };
            let loss = net.forward(&x)?.cross_entropy(&batch.y)?;
            loss.backward()?;
            optimizer.step(&loss)?;
        }
        // Records arrive a few steps late; here the epoch ends, and the loop waits for the last ones.
        let records = optimizer.finish()?;
        for record in records.iter().filter(|record| record.verdict != Verdict::Commit) {
            println!(
                "step {} was refused: loss {}, {} gradients not finite",
                record.attempt, record.loss, record.non_finite
            );
        }
        let committed = records.iter().rfind(|record| record.verdict == Verdict::Commit);
        let loss = committed.map_or(f32::NAN, |record| record.loss);
        println!("epoch {epoch}: loss {loss:.4}, {} steps committed", optimizer.gate().committed());
    }

    net.eval();
    if let Some(batch) = test.next_batch()? {
        let found = no_grad(|| net.forward(&batch.x))?.argmax(-1, false)?;
        let confusion = ConfusionMatrix::from_slices(10, &batch.y.to_vec()?, &found.to_vec()?)?;
        println!("test accuracy {:.4}", confusion.accuracy());
    }
    Ok(())
}
