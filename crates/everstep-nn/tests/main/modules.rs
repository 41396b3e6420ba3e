//! What a module can tell of itself, and switch.

use everstep_nn::{Dropout, Item, Linear, LinearConfig, Module, Visitor};
use everstep_tensor::{Device, Generator, Tensor};

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Model {
    first: Linear,
    dropout: Dropout,
    blocks: Vec<(Linear, Dropout)>,
}

fn model() -> Model {
    let mut generator = Generator::new(0);
    let device = Device::cpu();
    let first = Linear::new(784, 128, &mut generator, &device).unwrap();
    let dropout = Dropout::new(0.5, &mut generator).unwrap();
    let inner = LinearConfig::new(128, 10).bias(false).init(&mut generator, &device).unwrap();
    Model { first, blocks: vec![(inner, Dropout::new(0.5, &mut generator).unwrap())], dropout }
}

#[test]
fn the_summary_is_a_table() {
    let model = model();
    let expected = "\
parameter                         shape      elements
first.weight                 [128, 784]        100352
first.bias                        [128]           128
blocks.0.0.weight             [10, 128]          1280
total                                          101760";
    assert_eq!(model.summary().to_string(), expected);
    assert_eq!((model.summary().total(), model.summary().trainable()), (101_760, 101_760));

    model.first.weight.set_trainable(false);
    let expected = "\
parameter                         shape      elements
first.weight                 [128, 784]        100352  frozen
first.bias                        [128]           128
blocks.0.0.weight             [10, 128]          1280
total                                          101760 (1408 trainable)";
    assert_eq!(model.summary().to_string(), expected);
    assert_eq!(model.summary().trainable(), 1408);

    let none: Vec<Linear> = vec![];
    assert_eq!(none.summary().total(), 0);
    assert_eq!(none.summary().to_string().lines().count(), 2);
}

#[test]
fn a_visitor_meets_every_item_under_its_name() {
    let model = model();
    let mut found = Vec::new();
    let mut meet = |name: &str, item: Item<'_>| {
        let kind = match item {
            Item::Parameter(_) => "parameter",
            Item::Buffer(_) => "buffer",
            Item::Random(_) => "random",
            Item::Mode(_) => "mode",
        };
        found.push(format!("{name} {kind}"));
    };
    model.visit(&mut Visitor::new(&mut meet));
    let expected = [
        "first.weight parameter",
        "first.bias parameter",
        "dropout.stream random",
        "dropout.mode mode",
        "blocks.0.0.weight parameter",
        "blocks.0.1.stream random",
        "blocks.0.1.mode mode",
    ];
    assert_eq!(found, expected);
    assert_eq!(model.random_streams().len(), 2);
}

#[test]
fn train_and_eval_switch_every_dropout() {
    let model = model();
    let x = Tensor::ones(&[4, 64], &Device::cpu()).unwrap();
    let dropped = |dropout: &Dropout| dropout.forward(&x).unwrap().to_vec::<f32>().unwrap().contains(&0.0);
    let both = || (dropped(&model.dropout), dropped(&model.blocks[0].1));
    assert_eq!(both(), (true, true), "a new layer trains");
    model.eval();
    assert_eq!(both(), (false, false));
    model.blocks[0].train();
    assert_eq!(both(), (false, true), "a part switches alone");
    model.train();
    assert_eq!(both(), (true, true));
}
