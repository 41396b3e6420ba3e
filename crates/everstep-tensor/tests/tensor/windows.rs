//! Convolutions and poolings beyond the table's cases: gradients of large ones, of gradients, and what is refused.

use everstep_device::DeviceKind;
use everstep_tensor::{
    Activation, ConvOptions, Device, Error, Generator, GradientOptions, PoolOptions, Result, Tensor, gradients,
};

use crate::common::devices;

fn randn(shape: &[usize], generator: &mut Generator, device: &Device) -> Tensor {
    Tensor::randn(shape, generator, device).unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (a.to_vec::<f32>().unwrap(), b.to_vec::<f32>().unwrap());
    a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Shapes that the kernels cut into several blocks of positions, of channels, of images; strides and groups among them.
fn large_uses() -> Vec<([usize; 4], [usize; 4], ConvOptions)> {
    let plain = ConvOptions::default();
    vec![
        ([3, 16, 31, 33], [9, 16, 3, 3], plain.padding(1)),
        ([2, 90, 9, 8], [5, 90, 3, 3], plain.stride([1, 2]).padding(2).dilation(2)),
        ([21, 6, 14, 13], [12, 3, 3, 4], plain.groups(2).padding([1, 0])),
        ([2, 8, 30, 30], [12, 8, 1, 1], plain),
        ([2, 8, 15, 15], [12, 8, 1, 1], plain.stride(2)),
    ]
}

/// A convolution is linear in x and in w, so y . h = x . dx = w . dw for the gradients dx and dw of y . h, and what is right
/// in the forward pass is so in both gradients. Random directions: an element that were wrong would show.
#[test]
fn gradients_of_large_convolutions_are_the_transposes() {
    for device in devices().iter() {
        for (x, weight, options) in large_uses() {
            let mut generator = Generator::new(7);
            let x = randn(&x, &mut generator, device).requires_grad().unwrap();
            let w = randn(&weight, &mut generator, device).requires_grad().unwrap();
            let y = x.conv2d(&w, None, &options, Activation::None).unwrap();
            let h = randn(y.shape(), &mut generator, device);
            let found = gradients(&y.mul(&h).unwrap().sum_all().unwrap(), &[&x, &w], GradientOptions::default());
            let [dx, dw] = <[_; 2]>::try_from(found.unwrap()).unwrap().map(Option::unwrap);
            // In fresh directions, not in that of x itself: v . dx = h . (v * w), and u . dw = h . (x * u).
            let v = randn(x.shape(), &mut generator, device);
            let u = randn(w.shape(), &mut generator, device);
            let along_x = dot(&v.conv2d(&w.detach(), None, &options, Activation::None).unwrap(), &h);
            let along_w = dot(&x.detach().conv2d(&u, None, &options, Activation::None).unwrap(), &h);
            let size = dot(&h, &h).sqrt() * dot(&y, &y).sqrt();
            for (found, expected) in [(dot(&v, &dx), along_x), (dot(&u, &dw), along_w)] {
                let error = (found - expected).abs() / size;
                assert!(error < 1e-6, "{:?} {options:?} on {device}: {found}, not {expected}", x.shape());
            }
        }
    }
}

/// Every element of large gradients, on both executors.
#[test]
fn gradients_of_large_convolutions_are_the_same_on_a_gpu() {
    let devices = devices();
    let Some(gpu) = devices.iter().find(|device| device.info().kind == DeviceKind::Gpu) else { return };
    for (x, weight, options) in large_uses() {
        let run = |device: &Device| -> Vec<Vec<f32>> {
            let mut generator = Generator::new(8);
            let x = randn(&x, &mut generator, device).requires_grad().unwrap();
            let w = randn(&weight, &mut generator, device).requires_grad().unwrap();
            let y = x.conv2d(&w, None, &options, Activation::Relu).unwrap();
            let h = randn(y.shape(), &mut generator, device);
            let loss = y.mul(&h).unwrap().sum_all().unwrap();
            let found = gradients(&loss, &[&x, &w], GradientOptions::default()).unwrap();
            found.into_iter().map(|gradient| gradient.unwrap().to_vec().unwrap()).collect()
        };
        for (on_cpu, on_gpu) in run(&Device::cpu()).iter().zip(run(gpu)) {
            let largest = on_cpu.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            let wrong = on_cpu.iter().zip(&on_gpu).position(|(a, b)| (a - b).abs() > 2e-5 * largest);
            assert_eq!(wrong, None, "{options:?}");
        }
    }
}

/// The second derivative of sum of squares of y = pool x along v: 2 pool(v) spread back, where the pooling is linear near x.
#[test]
fn the_gradient_of_a_pooling_has_one() {
    for device in devices().iter() {
        let options = PoolOptions::new(3).stride(2).padding(1);
        let mut generator = Generator::new(9);
        let x = randn(&[2, 2, 5, 7], &mut generator, device).requires_grad().unwrap();
        let v = randn(x.shape(), &mut generator, device);
        let slope = |x: &Tensor| -> Result<Tensor> {
            let y = x.max_pool2d(options)?;
            let found =
                gradients(&y.mul(&y)?.sum_all()?, &[x], GradientOptions { create_graph: true, ..Default::default() })?;
            Ok(found[0].clone().unwrap())
        };
        let second =
            gradients(&slope(&x).unwrap().mul(&v).unwrap().sum_all().unwrap(), &[&x], GradientOptions::default())
                .unwrap()[0]
                .clone()
                .unwrap();
        // A step so small that no maximum moves; the slope is linear in it.
        let moved = |sign: f32| {
            let moved = x.detach().add(&v.mul_scalar(sign / 1024.0).unwrap()).unwrap();
            slope(&moved.requires_grad().unwrap()).unwrap().to_vec::<f32>().unwrap()
        };
        let (ahead, behind) = (moved(1.0), moved(-1.0));
        for ((second, ahead), behind) in second.to_vec::<f32>().unwrap().iter().zip(ahead).zip(behind) {
            let expected = (ahead - behind) * 512.0;
            assert!((second - expected).abs() < 2e-3, "{second}, not {expected} on {device}");
        }
    }
}

#[test]
fn the_first_of_equal_pixels_has_the_gradient() {
    for device in devices().iter() {
        let x = Tensor::ones(&[1, 1, 3, 3], device).unwrap().requires_grad().unwrap();
        let y = x.max_pool2d(PoolOptions::new(2).stride(1)).unwrap();
        y.sum_all().unwrap().backward().unwrap();
        let expected = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(x.grad().unwrap().to_vec::<f32>().unwrap(), expected, "{device}");
    }
}

#[test]
fn settings_that_are_none_are_refused() {
    let device = Device::null();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, &device).unwrap();
    let (x, w) = (zeros(&[1, 4, 5, 5]), zeros(&[2, 4, 3, 3]));
    let none = Activation::None;
    let conv = |options: ConvOptions| x.conv2d(&w, None, &options, none).unwrap_err();
    let plain = ConvOptions::default();
    let huge = usize::MAX;
    for (name, options) in [
        ("stride", plain.stride(0)),
        ("stride", plain.stride([1, huge])),
        ("dilation", plain.dilation([0, 1])),
        ("dilation", plain.dilation(huge)),
        ("padding", plain.padding(huge)),
        ("groups", plain.groups(0)),
        ("groups", plain.groups(huge)),
    ] {
        assert!(matches!(conv(options), Error::Argument { op: "conv2d", name: found, .. } if found == name), "{name}");
    }
    let shapes = |outcome: Result<Tensor>| assert!(matches!(outcome, Err(Error::Shapes { .. })), "{outcome:?}");
    shapes(x.conv2d(&w, None, &plain.groups(2), none));
    shapes(x.conv2d(&w, None, &plain.groups(3), none));
    shapes(x.conv2d(&w, None, &plain.dilation(3), none));
    shapes(x.conv2d(&zeros(&[2, 3, 3, 3]), None, &plain, none));
    shapes(x.conv2d(&zeros(&[2, 4, 6, 3]), None, &plain, none));
    shapes(x.conv2d(&zeros(&[2, 4, 0, 3]), None, &plain, none));
    shapes(x.conv2d(&w, Some(&zeros(&[3])), &plain, none));
    shapes(x.conv2d(&w, Some(&zeros(&[2, 1])), &plain, none));
    shapes(x.conv2d(&zeros(&[2, 4, 3]), None, &plain, none));
    shapes(x.conv1d(&zeros(&[2, 4, 3]), None, &plain, none));
    shapes(zeros(&[]).conv1d(&zeros(&[]), None, &plain, none));
    let pool = PoolOptions::new;
    let argument = |outcome: Result<Tensor>| assert!(matches!(outcome, Err(Error::Argument { .. })), "{outcome:?}");
    argument(x.max_pool2d(0));
    argument(x.max_pool2d(huge));
    argument(x.max_pool2d(pool(2).stride([1, 0])));
    argument(x.max_pool2d(pool(3).padding(2)));
    argument(x.max_pool2d(pool(2).dilation(0)));
    argument(x.avg_pool2d(pool(2).dilation(2)));
    argument(x.avg_pool1d(pool(2).padding([0, huge])));
    argument(x.adaptive_avg_pool2d([0, 1]));
    argument(x.adaptive_avg_pool1d(huge));
    assert!(matches!(x.max_pool2d(6), Err(Error::Shape { .. })));
    assert!(matches!(zeros(&[3]).max_pool2d(1), Err(Error::Shape { .. })));
    assert!(matches!(zeros(&[2, 0]).avg_pool1d(1), Err(Error::Empty { .. })));
    assert!(matches!(zeros(&[2, 0]).adaptive_avg_pool1d(1), Err(Error::Empty { .. })));
}
