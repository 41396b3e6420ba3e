//! Indices out of range, tensors of regular numbers, and misuse of the ops that move and join.

use everstep_device::Error as DeviceError;
use everstep_tensor::{CrossEntropyOptions, Device, Error, GradientOptions, Result, RowReduction, Tensor, gradients};

use crate::common::{alone_with_gpu, devices};

fn list(values: &[u32], device: &Device) -> Tensor {
    Tensor::from_slice(values, &[values.len()], device).unwrap()
}

fn nan_places(tensor: &Tensor) -> Vec<usize> {
    // The first read takes the report.
    let _ = tensor.to_vec::<f32>();
    let values = tensor.to_vec::<f32>().unwrap();
    (0..values.len()).filter(|&at| values[at].is_nan()).collect()
}

/// Told with the next read, and NaN where it could have mattered.
#[test]
fn an_index_out_of_range_is_told_and_poisons() {
    let check = |device: &Device| {
        let (x, ids) = (Tensor::ones(&[3, 2], device).unwrap(), list(&[2, 7, 0], device));
        let told = |tensor: Result<Tensor>, op: &'static str, value: u32, bound: u32, nan: &[usize]| {
            let tensor = tensor.unwrap();
            let wrong = DeviceError::OutOfRange { op, value, bound };
            assert_eq!(tensor.to_vec::<f32>(), Err(Error::Device(wrong)), "{op} on {device}");
            assert_eq!(nan_places(&tensor), nan, "{op} on {device}");
        };
        told(x.embedding(&ids), "embedding", 7, 3, &[2, 3]);
        told(x.index_select(0, &ids), "index_select", 7, 3, &[2, 3]);
        told(x.index_add(0, &ids, &x), "index_add", 7, 3, &[0, 1, 2, 3, 4, 5]);
        told(ids.one_hot(5), "one_hot", 7, 5, &[5, 6, 7, 8, 9]);
        let index = Tensor::from_slice(&[0u32, 1, 1, 9, 0, 1], &[3, 2], device).unwrap();
        told(x.gather(1, &index), "gather", 9, 2, &[3]);
        told(x.scatter_add(1, &index, &x), "scatter_add", 9, 2, &[2, 3]);
        told(x.scatter_add(0, &index, &x), "scatter_add", 9, 3, &[1, 3, 5]);
        let weighted = CrossEntropyOptions::default().class_weights([1.0, 2.0]).reduction(RowReduction::None);
        told(x.cross_entropy_with(&ids, &weighted), "cross_entropy", 7, 2, &[0, 1]);
        // Integers have no NaN.
        let numbers = list(&[5, 6, 7], device).index_select(0, &ids).unwrap();
        assert!(numbers.to_vec::<u32>().is_err());
        assert_eq!(numbers.to_vec::<u32>().unwrap(), [7, 0, 5], "{device}");
        // The gradient of the table is NaN as well, so no gate passes it.
        let table = x.requires_grad().unwrap();
        let loss = table.embedding(&ids).unwrap().sum_all().unwrap();
        let found = gradients(&loss, &[&table], GradientOptions::default()).unwrap().remove(0).unwrap();
        assert_eq!(nan_places(&found), [0, 1, 2, 3, 4, 5], "{device}");
    };
    check(&Device::isolated_cpu());
    alone_with_gpu(check);
}

/// A label that is ignored may be anything.
#[test]
fn an_ignored_label_is_no_error() {
    for device in devices().iter() {
        let logits = Tensor::from_slice(&[0.0f32, 0.0, f32::NAN, 0.0], &[2, 2], device).unwrap();
        let options = CrossEntropyOptions::default().ignore_index(u32::MAX);
        for smoothing in [0.0, 0.25] {
            let options = options.clone().label_smoothing(smoothing);
            let loss = logits.cross_entropy_with(&list(&[1, u32::MAX], device), &options).unwrap();
            assert!((loss.item::<f32>().unwrap() - 2f32.ln()).abs() < 1e-6, "{device}");
        }
        let nothing = logits.cross_entropy_with(&list(&[u32::MAX; 2], device), &options).unwrap();
        assert!(nothing.item::<f32>().unwrap().is_nan(), "as in PyTorch");
    }
}

/// Rows of one id, and a table wider and longer than a thread's share.
#[test]
fn the_gradient_of_a_table_is_the_sum_of_its_uses() {
    for device in devices().iter() {
        let (rows, width, uses) = (9u32, 70, 700u32);
        let table = Tensor::zeros(&[rows as usize, width], device).unwrap().requires_grad().unwrap();
        // Row 3 is never used, row 0 most.
        let ids: Vec<u32> =
            (0..uses).map(|at| [0, at % rows][at as usize % 2]).map(|id| id + u32::from(id == 3)).collect();
        let loss = table.embedding(&list(&ids, device)).unwrap().sum_all().unwrap();
        let found = gradients(&loss, &[&table], GradientOptions::default()).unwrap().remove(0).unwrap();
        let found = found.to_vec::<f32>().unwrap();
        for (row, values) in found.chunks(width).enumerate() {
            let expected = ids.iter().filter(|&&id| id as usize == row).count() as f32;
            assert!(values.iter().all(|&value| value == expected), "row {row} on {device}: {values:?}, {expected}");
        }
    }
}

#[test]
fn regular_numbers_are_exact() {
    let device = Device::cpu();
    let range = |start: f32, end: f32, step: f32| Tensor::arange(start, end, step, &device);
    assert_eq!(range(0.0, 1.1, 0.25).unwrap().to_vec::<f32>().unwrap(), [0.0, 0.25, 0.5, 0.75, 1.0]);
    assert_eq!(Tensor::arange(3i32, -3, -2, &device).unwrap().to_vec::<i32>().unwrap(), [3, 1, -1]);
    assert_eq!(range(2.0, 2.0, 1.0).unwrap().shape(), &[0]);
    for (start, end, step) in
        [(0.0, 1.0, 0.0), (0.0, 1.0, -1.0), (0.0, f32::NAN, 1.0), (1.0, 0.0, 1.0), (f32::NEG_INFINITY, 0.0, 1.0)]
    {
        assert!(matches!(range(start, end, step), Err(Error::Argument { op: "arange", .. })), "{start} {end} {step}");
    }
    assert!(matches!(range(0.0, f32::INFINITY, 1.0), Err(Error::Device(_))));
    let line = |count: usize| Tensor::linspace(-1.0, 2.0, count, &device).unwrap().to_vec::<f32>().unwrap();
    assert_eq!((line(0), line(1), line(4)), (vec![], vec![-1.0], vec![-1.0, 0.0, 1.0, 2.0]));
    for size in [0, 1, 3] {
        let eye = Tensor::eye(size, &device).unwrap().to_vec::<f32>().unwrap();
        let expected: Vec<f32> = (0..size * size).map(|at| f32::from(u8::from(at / size == at % size))).collect();
        assert_eq!(eye, expected);
    }
}

macro_rules! each_is {
    ($pattern:pat, $($call:expr),+ $(,)?) => {
        $(match $call {
            Err($pattern) => {}
            other => panic!("{}: {other:?}", stringify!($call)),
        })+
    };
}

#[test]
fn misuse_of_what_moves_and_joins_is_a_typed_error() {
    let device = Device::cpu();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, &device).unwrap();
    let (x, ids) = (zeros(&[2, 3]), list(&[0, 1], &device));
    let square = ids.reshape(&[1, 2]).unwrap();
    each_is!(Error::Shape { .. }, zeros(&[3]).embedding(&ids), x.index_select(0, &square), x.index_add(0, &square, &x));
    each_is!(Error::DTypes { .. }, x.embedding(&x), x.gather(0, &x), x.index_select(0, &zeros(&[1])), x.one_hot(2));
    each_is!(Error::Empty { .. }, zeros(&[0, 3]).embedding(&ids), zeros(&[0, 2]).gather(0, &square));
    each_is!(Error::Empty { .. }, zeros(&[2, 0]).min(&[1], false), zeros(&[2, 0]).logsumexp(&[1], false));
    each_is!(
        Error::Shapes { .. },
        x.gather(0, &ids),
        x.gather(1, &list(&[0; 9], &device).reshape(&[3, 3]).unwrap()),
        x.scatter_add(0, &square, &zeros(&[1, 1])),
        x.index_add(0, &ids, &zeros(&[2, 4])),
        Tensor::cat(&[&x, &zeros(&[2, 4])], 0),
        Tensor::cat(&[&x, &zeros(&[3])], 0),
        Tensor::stack(&[&x, &zeros(&[2, 4])], 0),
        x.cross_entropy_soft(&zeros(&[2, 4]), &CrossEntropyOptions::default()),
        x.cross_entropy_with(&list(&[1], &device), &CrossEntropyOptions::default()),
    );
    each_is!(Error::NoInputs { op: "cat" }, Tensor::cat(&[], 0), Tensor::stack(&[], 0));
    each_is!(Error::DTypes { op: "cat", .. }, Tensor::cat(&[&ids, &zeros(&[2])], 0));
    each_is!(
        Error::Axis { .. },
        Tensor::cat(&[&x], 2),
        Tensor::stack(&[&x], 3),
        x.split(&[2], 2),
        x.chunk(1, -3),
        x.flip(&[2]),
        x.cumsum(2),
        x.log_softmax(-3),
        x.argmin(2, false),
        x.var(&[2], 1, false),
        x.index_select(2, &ids),
        x.gather(-3, &ids),
    );
    each_is!(Error::AxisTwice { .. }, x.flip(&[0, -2]), x.prod(&[1, 1], true), x.logsumexp(&[0, 0], true));
    let options = CrossEntropyOptions::default;
    each_is!(
        Error::Argument { .. },
        x.split(&[1], 0),
        x.chunk(0, 0),
        x.pad(&[(1, 1)], 0.0),
        x.repeat(&[2]),
        x.norm(f32::NAN, &[0], false),
        x.norm(-1.0, &[0], false),
        x.cross_entropy_with(&ids, &options().label_smoothing(1.5)),
        x.cross_entropy_with(&ids, &options().label_smoothing(f32::NAN)),
        x.cross_entropy_with(&ids, &options().class_weights([1.0])),
        x.cross_entropy_soft(&x, &options().ignore_index(1)),
    );
    each_is!(Error::Shape { .. }, zeros(&[3]).tril(0), zeros(&[]).triu(1));
    each_is!(Error::Device(_), x.pad(&[(usize::MAX, 1), (0, 0)], 0.0), x.repeat(&[usize::MAX, usize::MAX]));
}

/// Where all are equal there is no slope, as in PyTorch.
#[test]
fn gradients_where_a_root_is_zero_are_zero() {
    for device in devices().iter() {
        type Size = fn(&Tensor) -> Result<Tensor>;
        let sizes: [Size; 4] = [
            |x| x.std(&[0], 1, false),
            |x| x.sub(x)?.norm(2.0, &[0], false),
            |x| x.sub(x)?.norm(3.0, &[0], false),
            |x| x.sub(x)?.norm(1.0, &[0], false),
        ];
        for size in sizes {
            let x = Tensor::full(&[3], 2.5, device).unwrap().requires_grad().unwrap();
            let loss = size(&x).unwrap();
            assert_eq!(loss.item::<f32>().unwrap(), 0.0);
            let found = gradients(&loss, &[&x], GradientOptions::default()).unwrap().remove(0).unwrap();
            assert_eq!(found.to_vec::<f32>().unwrap(), [0.0; 3], "{device}");
        }
    }
}
