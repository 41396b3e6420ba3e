//! The weights of a checkpoint in another model, and in any other program.

use everstep_fault::chaos::Plan;
use everstep_fault::checkpoint::LocalStorage;
use everstep_fault::{Error, load_weights};
use everstep_nn::safetensors::LoadOptions;
use everstep_nn::{Linear, Module};
use everstep_tensor::{Device, Generator};

use crate::run::{Model, Run, on_demand};

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Other {
    body: Linear,
    head: Linear,
}

#[test]
fn weights_that_fit_are_taken_over() {
    let device = Device::isolated_cpu();
    let folder = tempfile::tempdir().unwrap();
    let storage = LocalStorage::new(folder.path()).unwrap();
    let mut run = Run::new(storage, on_demand(), &Plan::default(), &device).unwrap();
    run.until(5).unwrap();
    // While the run goes on, too.
    let same = Model::new(16, 9, &device);
    let report = load_weights(folder.path(), &same, &LoadOptions::new()).unwrap();
    assert!(report.missing.is_empty() && report.unexpected.is_empty(), "{report:?}");
    for ((name, found), (_, expected)) in same.named_parameters().iter().zip(run.model.named_parameters()) {
        let values = |tensor: everstep_tensor::Tensor| tensor.to_vec::<f32>().unwrap();
        assert_eq!(values(found.tensor()), values(expected.tensor()), "{name}");
    }
    let mean = |model: &Model| model.norm.named_buffers()[0].1.tensor().to_vec::<f32>().unwrap();
    assert_eq!(mean(&same), mean(&run.model));

    let mut generator = Generator::new(3);
    let head = Linear::new(16, 3, &mut generator, &device).unwrap();
    let other = Other { body: Linear::new(64, 16, &mut generator, &device).unwrap(), head };
    let options = LoadOptions::new().replace("hidden.*", "body.*");
    assert!(matches!(load_weights(folder.path(), &other, &options), Err(Error::Nn(_))));
    let report = load_weights(folder.path(), &other, &options.partial()).unwrap();
    assert_eq!((report.loaded.len(), report.missing.len()), (2, 2), "{report:?}");

    let empty = tempfile::tempdir().unwrap();
    let error = load_weights(empty.path(), &same, &LoadOptions::new()).unwrap_err();
    assert!(matches!(error, Error::NothingSaved { .. }), "{error}");
}
