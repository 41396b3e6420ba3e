use everstep_fault::checkpoint::{Health, Manifest, utc};
use serde_json::Value;

use crate::helpers::{Random, manifest};

fn again(manifest: &Manifest) -> Manifest {
    Manifest::from_bytes("", "", &manifest.to_bytes().unwrap()).unwrap()
}

#[test]
fn numbers_come_back_with_every_bit() {
    let mut random = Random(7);
    let doubles: Vec<f64> =
        (0..100_000).map(|_| f64::from_bits(random.next())).filter(|value| value.is_finite()).collect();
    let singles: Vec<f32> =
        (0..100_000).map(|_| f32::from_bits(random.next() as u32)).filter(|value| value.is_finite()).collect();
    assert!(doubles.len() > 99_000 && singles.len() > 99_000);
    let mut written = manifest(1);
    written.values.insert("doubles".to_owned(), doubles.iter().copied().map(Value::from).collect());
    written.values.insert("singles".to_owned(), singles.iter().copied().map(Value::from).collect());
    let read = again(&written);
    let value = |name: &str, index: usize| read.values[name][index].as_f64().unwrap();
    for (index, double) in doubles.iter().enumerate() {
        assert_eq!(value("doubles", index).to_bits(), double.to_bits(), "{double:e}");
    }
    for (index, single) in singles.iter().enumerate() {
        assert_eq!((value("singles", index) as f32).to_bits(), single.to_bits(), "{single:e}");
    }
}

#[test]
fn numbers_of_health_come_back_with_every_bit() {
    let mut random = Random(8);
    for _ in 0..100_000 {
        let bits = random.next();
        let (loss, metric) = (f32::from_bits(bits as u32), f64::from_bits(bits));
        if loss.is_finite() && metric.is_finite() {
            let health = Health { trusted: true, loss: Some(loss), norm: None, metric: Some(metric) };
            let text = serde_json::to_string(&health).unwrap();
            let read: Health = serde_json::from_str(&text).unwrap();
            assert_eq!(read.loss.map(f32::to_bits), Some(loss.to_bits()), "{loss:e}");
            assert_eq!(read.metric.map(f64::to_bits), Some(metric.to_bits()), "{metric:e}");
        }
    }
}

#[test]
fn special_numbers() {
    for (loss, metric) in [(-0.0, -0.0), (f32::MIN_POSITIVE, f64::MAX), (f32::from_bits(1), f64::from_bits(1))] {
        let mut written = manifest(u64::MAX / 64);
        written.health = Health { trusted: false, loss: Some(loss), norm: None, metric: Some(metric) };
        (written.attempt, written.committed) = (u64::MAX, (1 << 53) + 1);
        let read = again(&written);
        assert_eq!(read, written);
        assert_eq!(read.health.loss.map(f32::to_bits), Some(loss.to_bits()));
        assert_eq!(read.health.metric.map(f64::to_bits), Some(metric.to_bits()));
    }
}

#[test]
fn times_for_people() {
    assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
    assert_eq!(utc(1_763_733_600_123), "2025-11-21 14:00:00 UTC");
    assert_eq!(utc(4_102_444_799_999), "2099-12-31 23:59:59 UTC");
}
