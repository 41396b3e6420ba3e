//! The weights of a checkpoint for another model: what fits, and no more.

use std::path::PathBuf;
use std::sync::Arc;

use everstep_nn::Module;
use everstep_nn::safetensors::{LoadOptions, LoadReport, load_safetensors_bytes};
use safetensors::tensor::TensorView;

use crate::checkpoint::{LocalStorage, Store};
use crate::{Error, Result};

/// Gives a model the parameters and running buffers of the newest whole checkpoint in `folder`, under the names that its own
/// model gave them, as far as `options` map and want them: for transfer learning, and for whatever only needs the weights.
/// Optimizer, data and counters stay out of it, and the folder may be in use.
///
/// ```no_run
/// # use everstep_fault::load_weights;
/// # use everstep_nn::Linear;
/// # use everstep_nn::safetensors::LoadOptions;
/// # use everstep_tensor::{Device, Generator};
/// # let head = Linear::new(64, 3, &mut Generator::new(0), &Device::cpu())?;
/// // `body.0.weight` there is `0.weight` here; the old head is left out.
/// let report = load_weights("runs/digits", &head, &LoadOptions::new().replace("body.*", "*").partial())?;
/// println!("{} tensors taken over, {} left as they were", report.loaded.len(), report.missing.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::NothingSaved`]; [`Error::Checkpoint`] where none is whole; those of
/// [`load_safetensors`](everstep_nn::safetensors::load_safetensors).
pub fn load_weights(folder: impl Into<PathBuf>, model: &impl Module, options: &LoadOptions) -> Result<LoadReport> {
    let folder = folder.into();
    let newest = Store::read_only(Arc::new(LocalStorage::existing(&folder))).load_newest()?;
    let Some(loaded) = newest.loaded else {
        let nothing = Error::NothingSaved { folder: folder.clone() };
        return Err(newest.damaged.into_iter().next().map_or(nothing, |(_, error)| error.into()));
    };
    let failed = |error: safetensors::SafeTensorError| Error::File { path: folder.clone(), problem: error.to_string() };
    let weights = loaded.tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("model.")?, tensor)));
    let views = weights
        .map(|(name, tensor)| {
            Ok((name, TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).map_err(failed)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(views, None).map_err(failed)?;
    Ok(load_safetensors_bytes(model, &bytes, &folder, options)?)
}
