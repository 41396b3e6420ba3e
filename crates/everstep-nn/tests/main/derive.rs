//! What `#[derive(Module)]` makes of each kind of type: which parameters, under which names, in which order.
#![allow(dead_code, reason = "fields and variants are there to be visited, or not to be")]

use std::marker::PhantomData;

use everstep_nn::{Dropout, Linear, Mode, Module};
use everstep_tensor::{Activation, Device, Generator, Parameter, Tensor};

fn parameter() -> Parameter {
    Parameter::new(&Tensor::zeros(&[2], &Device::cpu()).unwrap()).unwrap()
}

fn linear() -> Linear {
    Linear::new(2, 2, &mut Generator::new(0), &Device::cpu()).unwrap()
}

fn names(module: &impl Module) -> Vec<String> {
    module.named_parameters().into_iter().map(|(name, _)| name).collect()
}

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Plain {
    scale: Parameter,
    hidden: Linear,
    width: usize,
    rate: f32,
    activation: Activation,
    label: String,
    last: Parameter,
}

#[test]
fn fields_in_their_order() {
    let model = Plain {
        scale: parameter(),
        hidden: linear(),
        width: 3,
        rate: 0.5,
        activation: Activation::Relu,
        label: "plain".into(),
        last: parameter(),
    };
    assert_eq!(names(&model), ["scale", "hidden.weight", "hidden.bias", "last"]);
}

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Pair(Linear, f64, Parameter);

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Unit;

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Raw {
    r#type: Parameter,
    r#match: Linear,
}

#[test]
fn tuple_structs_unit_structs_and_raw_names() {
    assert_eq!(names(&Pair(linear(), 1.0, parameter())), ["0.weight", "0.bias", "2"]);
    assert!(names(&Unit).is_empty());
    assert_eq!(names(&Raw { r#type: parameter(), r#match: linear() }), ["type", "match.weight", "match.bias"]);
}

#[derive(Module)]
#[module(crate = everstep_nn)]
enum Head {
    Empty,
    One(Linear),
    Two(Linear, Linear),
    Named {
        gate: Parameter,
        #[module(skip)]
        note: Vec<u128>,
        inner: Box<Head>,
    },
    Skipped(#[module(skip)] PhantomData<u128>, Parameter),
}

#[derive(Module)]
#[module(crate = everstep_nn)]
enum Never {}

#[derive(Module)]
#[module(crate = everstep_nn)]
enum Choice {
    Left,
    Right,
}

#[test]
fn enums_have_the_fields_of_their_variant() {
    assert!(names(&Head::Empty).is_empty());
    assert_eq!(names(&Head::One(linear())), ["0.weight", "0.bias"]);
    assert_eq!(names(&Head::Two(linear(), linear())), ["0.weight", "0.bias", "1.weight", "1.bias"]);
    let inner = Box::new(Head::One(linear()));
    let named = Head::Named { gate: parameter(), note: vec![1], inner };
    assert_eq!(names(&named), ["gate", "inner.0.weight", "inner.0.bias"]);
    assert_eq!(names(&Head::Skipped(PhantomData, parameter())), ["1"]);
    assert!(names(&Choice::Left).is_empty() && names(&Choice::Right).is_empty());
    let never: Option<Never> = None;
    assert!(names(&never).is_empty());
}

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Block<M, const DEPTH: usize> {
    layers: [M; DEPTH],
    norm: Option<M>,
}

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Bounded<'a, M: Module, F>
where
    F: Fn(f32) -> f32,
{
    inner: M,
    name: &'static str,
    #[module(skip)]
    function: F,
    #[module(skip)]
    text: &'a str,
    kind: PhantomData<F>,
}

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Tree<M> {
    value: M,
    children: Vec<Tree<M>>,
}

#[test]
fn generic_types() {
    let block = Block::<_, 2> { layers: [linear(), linear()], norm: Some(linear()) };
    let expected = ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "norm.weight", "norm.bias"];
    assert_eq!(names(&block), expected);
    let text = String::from("text");
    let bounded = Bounded { inner: parameter(), name: "bounded", function: |x| x, text: &text, kind: PhantomData };
    assert_eq!(names(&bounded), ["inner"]);
    let leaf = || Tree { value: parameter(), children: vec![] };
    let tree = Tree { value: parameter(), children: vec![leaf(), Tree { value: parameter(), children: vec![leaf()] }] };
    let expected = ["value", "children.0.value", "children.1.value", "children.1.children.0.value"];
    assert_eq!(names(&tree), expected);
}

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Containers {
    list: Vec<Parameter>,
    array: [Parameter; 2],
    boxed: Box<Linear>,
    object: Box<dyn Module>,
    objects: Vec<Box<dyn Module>>,
    present: Option<Parameter>,
    absent: Option<Parameter>,
    single: (Parameter,),
    pair: (Parameter, Linear),
    mixed: (u32, Parameter, bool, Vec<Parameter>, Mode, Dropout),
    #[module(skip)]
    skipped: Parameter,
}

#[test]
fn containers_number_their_elements() {
    let model = Containers {
        list: vec![parameter(), parameter()],
        array: [parameter(), parameter()],
        boxed: Box::new(linear()),
        object: Box::new(parameter()),
        objects: vec![Box::new(linear()), Box::new(Unit), Box::new(parameter())],
        present: Some(parameter()),
        absent: None,
        single: (parameter(),),
        pair: (parameter(), linear()),
        mixed: (
            1,
            parameter(),
            true,
            vec![parameter()],
            Mode::training(),
            Dropout::new(0.5, &mut Generator::new(0)).unwrap(),
        ),
        skipped: parameter(),
    };
    let expected = "list.0 list.1 array.0 array.1 boxed.weight boxed.bias object objects.0.weight objects.0.bias \
        objects.2 present single.0 pair.0 pair.1.weight pair.1.bias mixed.1 mixed.3.0";
    assert_eq!(names(&model).join(" "), expected);
    assert_eq!(model.random_streams().len(), 1);
}

#[test]
fn a_tied_parameter_is_listed_once_under_its_first_name() {
    #[derive(Module)]
    #[module(crate = everstep_nn)]
    struct Tied {
        embedding: Parameter,
        body: Linear,
        output: Linear,
    }
    let (embedding, body) = (parameter(), linear());
    let output = Linear { weight: body.weight.clone(), bias: Some(embedding.clone()) };
    let model = Tied { embedding, body, output };
    assert_eq!(names(&model), ["embedding", "body.weight", "body.bias"]);
    assert!(model.parameters()[1].is(&model.output.weight));
    // Equal values do not make two parameters one.
    assert_eq!(names(&vec![parameter(), parameter()]), ["0", "1"]);
}
