//! Thousands of calls with random arguments: a result or a typed error, never a panic.

use everstep_tensor::{Activation, DType, Device, Error, Generator, RandomStream, Result, Tensor};

use crate::common::alone_with_gpu;

/// Elements up to which a result is an input of later calls.
const LARGEST: usize = 4000;
/// Tensors that calls choose from.
const POOL: usize = 24;

/// Random arguments: mostly small and right, now and then far off.
struct Arguments {
    generator: Generator,
    pool: Vec<Tensor>,
    device: Device,
}

impl Arguments {
    fn below(&mut self, bound: u32) -> usize {
        self.generator.below(bound) as usize
    }

    fn size(&mut self) -> usize {
        match self.below(60) {
            0 => usize::MAX,
            1 => 1 << 33,
            2 | 3 => 0,
            other => other % 5 + usize::from(other > 8),
        }
    }

    fn shape(&mut self) -> Vec<usize> {
        let rank = [0, 1, 2, 2, 2, 3, 3, 4, 6, 7][self.below(10)];
        (0..rank).map(|_| self.size()).collect()
    }

    fn axis(&mut self) -> isize {
        match self.below(40) {
            0 => isize::MIN,
            1 => isize::MAX,
            other => other as isize % 6 - 3,
        }
    }

    fn axes(&mut self) -> Vec<isize> {
        let count = self.below(4);
        (0..count).map(|_| self.axis()).collect()
    }

    fn tensor(&mut self) -> Tensor {
        let index = self.below(POOL as u32);
        self.pool[index].clone()
    }

    fn new_tensor(&mut self) -> Result<Tensor> {
        let shape = self.shape();
        let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        let Some(count) = count.filter(|&count| count <= LARGEST) else {
            return Tensor::zeros(&shape, &self.device);
        };
        match self.below(8) {
            0 => Tensor::from_vec((0..count).map(|at| at as u32 % 5).collect(), &shape, &self.device),
            1 => Tensor::from_vec((0..count).map(|at| at as i32 - 3).collect(), &shape, &self.device),
            2 => Tensor::randn(&shape, &mut self.generator, &self.device)?.requires_grad(),
            _ => Tensor::rand(&shape, -2.0, 2.0, &mut self.generator, &self.device),
        }
    }

    /// One call of an op, chosen at random.
    fn call(&mut self) -> Result<Tensor> {
        let (x, y) = (self.tensor(), self.tensor());
        let (axis, other) = (self.axis(), self.axis());
        match self.below(36) {
            0 => x.add(&y),
            1 => x.sub(&y),
            2 => x.mul(&y),
            3 => x.div(&y),
            4 => x.maximum(&y),
            5 => x.minimum(&y),
            6 => x.eq(&y)?.where_cond(&x, &y),
            7 => x.tanh()?.gelu()?.exp()?.pow(&y),
            8 => x.sigmoid()?.log()?.sqrt(),
            9 => x.relu()?.erf()?.gelu_tanh()?.neg()?.rem(&y),
            10 => x.add_scalar(0.5)?.mul_scalar(f32::NAN),
            11 => x.sum(&self.axes(), axis > 0),
            12 => x.mean(&self.axes(), axis > 0),
            13 => x.max(&self.axes(), axis > 0),
            14 => x.argmax(axis, other > 0),
            15 => x.softmax(axis),
            16 | 17 => x.matmul(&y),
            18 => x.t()?.matmul(&y),
            19 => {
                let bias = self.tensor();
                let activations = [Activation::None, Activation::Relu, Activation::Gelu, Activation::Tanh];
                x.linear(&y, Some(&bias).filter(|_| axis > 0), activations[self.below(4)])
            }
            20 => x.cross_entropy_rows(&y.cast(DType::U32)?),
            21 => {
                let labels = x.argmax(-1, false)?;
                x.cross_entropy(&labels)
            }
            22 => {
                let draw = RandomStream::new(&mut self.generator).draw(&self.device)?;
                x.dropout([0.0, 0.5, 1.0, -1.0][self.below(4)], &draw)
            }
            23 => x.reshape(&self.shape()),
            24 => x.flatten_from(axis),
            25 => x.permute(&self.axes()),
            26 => x.permute(&(0..x.rank() as isize).rev().collect::<Vec<_>>()),
            27 => x.transpose(axis, other),
            28 => x.slice(axis, self.size()..self.size()),
            29 => x.slice_step(axis, self.size(), self.size(), self.size()),
            30 => x.broadcast_to(&self.shape()),
            31 => x.unsqueeze(axis),
            32 => x.squeeze(axis),
            33 => x.copy()?.contiguous(),
            34 => x.cast([DType::F32, DType::U32, DType::I32, DType::F16, DType::Bool][self.below(5)]),
            _ => self.new_tensor(),
        }
    }
}

/// How many calls of `count` gave a result.
fn fuzz(device: &Device, seed: u64, count: usize) -> usize {
    let one = Tensor::ones(&[1], device).unwrap();
    let mut arguments = Arguments { generator: Generator::new(seed), pool: vec![one; POOL], device: device.clone() };
    let mut results = 0;
    for number in 0..count {
        // What is too large, a view that repeats without end too, is made but not used again.
        let outcome = if number < 3 * POOL { arguments.new_tensor() } else { arguments.call() };
        let tensor = match outcome {
            Ok(tensor) => tensor,
            Err(error) => {
                assert!(!is_defect(&error), "{error}");
                continue;
            }
        };
        results += 1;
        if tensor.count() > LARGEST {
            let _ = tensor.exp();
            continue;
        }
        if number % 50 == 0 && tensor.count() == 1 {
            let _ = tensor.backward();
        }
        if number % 20 == 0 {
            let _ = tensor.to_string();
        }
        let place = arguments.below(POOL as u32);
        // Histories stay short.
        arguments.pool[place] = if number % 7 == 0 { tensor.detach() } else { tensor };
    }
    device.flush().unwrap();
    results
}

/// Errors that no argument may cause.
fn is_defect(error: &Error) -> bool {
    use everstep_device::Error::{DeviceLost, Driver, OutOfMemory, Unwritten};
    matches!(error, Error::Device(DeviceLost { .. } | Driver { .. } | OutOfMemory { .. } | Unwritten { .. }))
}

#[test]
fn random_calls_never_panic() {
    for seed in 0..4 {
        let results = fuzz(&Device::null(), seed, 1500);
        assert!(results > 500, "{results} of 1500 calls meant something");
        fuzz(&Device::isolated_cpu(), seed, 1500);
    }
}

/// On a GPU, fewer: a new pattern of access is a new shader. The driver refuses nothing.
#[test]
fn random_calls_on_a_gpu_never_panic() {
    alone_with_gpu(|gpu| {
        fuzz(gpu, 77, 500);
        let x = Tensor::ones(&[3], gpu).unwrap();
        // The first read-back may tell of labels out of range.
        let _ = x.to_vec::<f32>();
        assert_eq!(x.to_vec::<f32>().unwrap(), [1.0; 3]);
    });
}
