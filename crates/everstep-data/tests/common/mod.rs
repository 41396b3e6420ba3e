//! What several tests use.
#![allow(dead_code)] // Each test program uses a part of it.

use std::io::Write;

use everstep_data::{At, Dataset, FieldSpec, HostBatch, HostLoader, HostTensor, InMemoryDataset, LoaderConfig, Result};
use everstep_data::{SampleMut, SampleSpec};
use everstep_device::philox::Generator;
use flate2::{Compression, write::GzEncoder};

/// `n` samples whose `x` is their index and its double, and whose `y` is their index modulo `classes`.
pub(crate) fn numbers(n: usize, classes: usize) -> InMemoryDataset {
    let x: Vec<f32> = (0..n).flat_map(|index| [index as f32, 2.0 * index as f32]).collect();
    let y: Vec<u32> = (0..n).map(|index| (index % classes) as u32).collect();
    let x = HostTensor::new(x, &[n, 2]).unwrap();
    InMemoryDataset::new(x, HostTensor::new(y, &[n]).unwrap()).unwrap().with_classes(classes).unwrap()
}

/// All samples of a dataset as one batch, in its order.
pub(crate) fn whole(dataset: impl Dataset + 'static) -> HostBatch {
    let config = LoaderConfig::new(dataset.len()).prefetch(0);
    HostLoader::new(dataset, config).unwrap().next_batch().unwrap().unwrap()
}

/// A dataset of `len` scalar samples that does what `behaviour` says with each index.
pub(crate) struct Scripted<F> {
    pub(crate) len: usize,
    pub(crate) spec: SampleSpec,
    pub(crate) behaviour: F,
}

impl<F: Fn(usize) -> Result<f32> + Send + Sync> Scripted<F> {
    pub(crate) fn new(len: usize, behaviour: F) -> Self {
        Self { len, spec: SampleSpec { x: FieldSpec::f32(&[]), y: FieldSpec::u32(&[]) }, behaviour }
    }
}

impl<F: Fn(usize) -> Result<f32> + Send + Sync> Dataset for Scripted<F> {
    fn len(&self) -> usize {
        self.len
    }

    fn spec(&self) -> &SampleSpec {
        &self.spec
    }

    fn read(&self, At { index, .. }: At, sample: SampleMut<'_>) -> Result<()> {
        sample.x.f32(1)?[0] = (self.behaviour)(index)?;
        sample.y.u32(1)?[0] = index as u32;
        Ok(())
    }
}

/// An IDX file.
pub(crate) fn idx(element_type: u8, shape: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, element_type, shape.len() as u8];
    bytes.extend(shape.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(data);
    bytes
}

/// The same bytes in gzip.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Changes `bytes` in one to four places: a bit, a byte, a cut, a run taken out or doubled, a huge number.
pub(crate) fn mutate(bytes: &mut Vec<u8>, random: &mut Generator) {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len() as u32) as usize;
        let run = at..(at + 1 + random.below(16) as usize).min(bytes.len());
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(run)),
            4 => bytes.extend_from_within(run),
            5 => bytes[run].fill(0xff),
            // The start, a header as a rule, is small beside the rest, so it gets a share of its own.
            _ => bytes[at % 16] = random.below(256) as u8,
        }
    }
}
