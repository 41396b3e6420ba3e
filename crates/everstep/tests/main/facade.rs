//! The facade as a program uses it.

use everstep::prelude::*;

#[derive(Module)]
struct Mlp {
    hidden: Linear,
    dropout: Dropout,
    output: Linear,
}

impl Mlp {
    fn new(device: &Device) -> everstep::Result<Self> {
        let mut generator = Generator::new(0);
        Ok(Self {
            hidden: LinearConfig::new(64, 64).init(&mut generator, device)?,
            dropout: Dropout::new(0.1, &mut generator)?,
            output: Linear::new(64, 10, &mut generator, device)?,
        })
    }

    fn forward(&self, x: &Tensor) -> everstep::Result<Tensor> {
        let hidden = self.hidden.forward_with(x, Activation::Relu)?;
        Ok(self.output.forward(&self.dropout.forward(&hidden)?)?)
    }
}

/// Share of the test digits that are told right, after `epochs`.
fn accuracy(device: &Device, epochs: usize) -> everstep::Result<f64> {
    let (train, test) = digits_split(0)?;
    let model = Mlp::new(device)?;
    let mut optimizer = AdamW::new(3e-3).build(&model)?.clip_norm(1.0)?;
    let mut loader = Loader::new(train, LoaderConfig::new(64).shuffle(0), device)?;
    for _ in 0..epochs {
        for batch in loader.epoch() {
            let batch = batch?;
            let loss = model.forward(&batch.x)?.cross_entropy(&batch.y)?;
            loss.backward()?;
            optimizer.step(&loss)?;
        }
    }
    assert!(optimizer.finish()?.iter().all(|record| record.verdict == Verdict::Commit));
    model.eval();
    let mut scores = ConfusionMatrix::new(10)?;
    let mut loader = Loader::new(test, LoaderConfig::new(128), device)?;
    for batch in loader.epoch() {
        let batch = batch?;
        let found = no_grad(|| model.forward(&batch.x))?.argmax(-1, false)?;
        scores.add_slices(&batch.y.to_vec()?, &found.to_vec()?)?;
    }
    Ok(scores.accuracy())
}

#[test]
fn a_program_learns_to_read_digits() {
    for device in everstep_testing::devices() {
        let found = accuracy(&device, 4).unwrap();
        assert!(found > 0.9, "{device}: {found}");
    }
}

#[test]
fn every_error_becomes_the_programs_error() {
    fn device() -> everstep::Result<()> {
        Device::from_name("abacus")?;
        Ok(())
    }
    fn tensor() -> everstep::Result<()> {
        let device = Device::cpu();
        (&Tensor::zeros(&[2], &device)? + &Tensor::zeros(&[3], &device)?)?;
        Ok(())
    }
    fn layer() -> everstep::Result<()> {
        Linear::new(0, 1, &mut Generator::new(0), &Device::cpu())?;
        Ok(())
    }
    fn optimizer() -> everstep::Result<()> {
        Sgd::new(-1.0).build(&Linear::new(1, 1, &mut Generator::new(0), &Device::cpu())?)?;
        Ok(())
    }
    fn data() -> everstep::Result<()> {
        Loader::new(digits()?, LoaderConfig::new(0), &Device::cpu())?;
        Ok(())
    }
    fn metrics() -> everstep::Result<()> {
        ConfusionMatrix::new(0)?;
        Ok(())
    }
    use everstep::Error;
    assert!(matches!(device(), Err(Error::Device(everstep::device::Error::NoDevice { .. }))));
    assert!(matches!(tensor(), Err(Error::Tensor(everstep::tensor::Error::Shapes { op: "add", .. }))));
    assert!(matches!(layer(), Err(Error::Nn(everstep::nn::Error::Setting { layer: "Linear", .. }))));
    assert!(matches!(optimizer(), Err(Error::Optim(everstep::optim::Error::Setting { optimizer: "Sgd", .. }))));
    assert!(matches!(data(), Err(Error::Data(_))));
    assert!(matches!(metrics(), Err(Error::Train(_))));
    // The message is the first error's own, and it travels between threads.
    let message = layer().unwrap_err().to_string();
    assert_eq!(message, "Linear: `in_features` is 0, it must be at least 1");
    let boxed: Box<dyn std::error::Error + Send + Sync> = tensor().unwrap_err().into();
    assert!(boxed.to_string().contains("`add`"));
}
