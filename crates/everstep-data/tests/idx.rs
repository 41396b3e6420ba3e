//! The IDX reader, on good files and on each kind of bad one.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

mod common;

use std::io::Write;
use std::path::Path;

use common::{gzip, idx};
use everstep_data::{Error, IdxArray, IdxProblem, IdxValues};

fn problem(bytes: &[u8]) -> (u64, IdxProblem) {
    match IdxArray::from_bytes(bytes, "some.idx").unwrap_err() {
        Error::Idx { file, offset, problem } => {
            assert_eq!(file, Path::new("some.idx"));
            (offset, problem)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn every_element_type_is_read() {
    let cases: [(u8, Vec<u8>, IdxValues); 6] = [
        (0x08, vec![0, 1, 255], IdxValues::U8(vec![0, 1, 255])),
        (0x09, vec![0, 1, 255], IdxValues::I8(vec![0, 1, -1])),
        (0x0b, vec![0, 1, 255, 255, 128, 0], IdxValues::I16(vec![1, -1, i16::MIN])),
        (0x0c, [1, -1, i32::MIN].map(i32::to_be_bytes).concat(), IdxValues::I32(vec![1, -1, i32::MIN])),
        (0x0d, [1.5, -0.0, f32::MAX].map(f32::to_be_bytes).concat(), IdxValues::F32(vec![1.5, -0.0, f32::MAX])),
        (0x0e, [1.5, -0.0, f64::MAX].map(f64::to_be_bytes).concat(), IdxValues::F64(vec![1.5, -0.0, f64::MAX])),
    ];
    for (element_type, data, values) in cases {
        let plain = idx(element_type, &[3, 1], &data);
        for bytes in [gzip(&plain), plain] {
            let array = IdxArray::from_bytes(&bytes, "some.idx").unwrap();
            assert_eq!((array.shape(), array.values()), (&[3, 1][..], &values));
        }
    }
}

#[test]
fn large_and_empty_arrays_are_read() {
    let data: Vec<u8> = (0..300_000u32).map(|index| (index * 7 % 251) as u8).collect();
    for bytes in [idx(8, &[300, 1000], &data), gzip(&idx(8, &[300, 1000], &data))] {
        let array = IdxArray::from_bytes(&bytes, "large.idx").unwrap();
        assert_eq!(array.into_parts(), (IdxValues::U8(data.clone()), vec![300, 1000]));
    }
    for shape in [&[0][..], &[u32::MAX, 0, 7]] {
        assert!(IdxArray::from_bytes(&idx(8, shape, &[]), "empty.idx").unwrap().values().is_empty());
    }
}

#[test]
fn gzip_in_several_members_is_read() {
    let plain = idx(8, &[4], &[1, 2, 3, 4]);
    let bytes = [gzip(&plain[..6]), gzip(&plain[6..])].concat();
    assert_eq!(IdxArray::from_bytes(&bytes, "two.gz").unwrap().values(), &IdxValues::U8(vec![1, 2, 3, 4]));
}

#[test]
fn bad_headers_are_errors() {
    let (offset, found) = problem(b"PNG!....");
    assert!(offset == 0 && matches!(found, IdxProblem::Magic { found: [b'P', b'N'] }), "{found}");
    let (offset, found) = problem(&idx(0x0a, &[1], &[0]));
    assert!(offset == 2 && matches!(found, IdxProblem::ElementType { found: 0x0a }), "{found}");
    let (offset, found) = problem(&[0, 0, 8, 0]);
    assert!(offset == 3 && matches!(found, IdxProblem::NoDimensions), "{found}");
    for bytes in [&[][..], &[0], &[0, 0, 8], &[0, 0, 8, 1, 0, 0]] {
        let (offset, found) = problem(bytes);
        assert!(matches!(found, IdxProblem::Truncated { .. }), "{found}");
        assert_eq!(offset, bytes.len() as u64);
    }
    // The second one has no elements, but the product of its dimensions overflows on the way there.
    for shape in [&[u32::MAX, u32::MAX][..], &[u32::MAX, u32::MAX, 0, u32::MAX]] {
        let (offset, found) = problem(&idx(0x0e, shape, &[]));
        assert!(offset == 4 && matches!(found, IdxProblem::TooLarge { .. }), "{found}");
    }
}

#[test]
fn a_header_that_does_not_fit_the_data_is_an_error() {
    let (offset, found) = problem(&idx(8, &[5], &[1, 2, 3]));
    assert!(matches!(found, IdxProblem::Truncated { expected: 13, found: 11 }), "{found}");
    assert_eq!(offset, 11);
    let (offset, found) = problem(&idx(8, &[2], &[1, 2, 3]));
    assert!(offset == 10 && matches!(found, IdxProblem::Trailing { expected: 10 }), "{found}");
    let (offset, found) = problem(&gzip(&idx(8, &[5], &[1, 2, 3])));
    assert!(offset == 11 && matches!(found, IdxProblem::Truncated { expected: 13, found: 11 }), "{found}");
    let (offset, found) = problem(&gzip(&idx(8, &[2], &[1, 2, 3])));
    assert!(offset == 10 && matches!(found, IdxProblem::Trailing { expected: 10 }), "{found}");
}

#[test]
fn a_claim_that_the_input_cannot_hold_is_refused_before_reading() {
    let (_, found) = problem(&idx(8, &[4_000_000_000], &[1, 2, 3]));
    assert!(matches!(found, IdxProblem::Truncated { expected: 4_000_000_008, found: 11 }), "{found}");
    let (_, found) = problem(&gzip(&idx(8, &[4_000_000_000], &[1, 2, 3])));
    assert!(matches!(found, IdxProblem::Incompressible { expected: 4_000_000_008, .. }), "{found}");
}

#[test]
fn a_gzip_bomb_is_read_no_further_than_its_header_says() {
    let bomb = gzip(&idx(8, &[10], &vec![0; 50_000_000]));
    let (offset, found) = problem(&bomb);
    assert!(offset == 18 && matches!(found, IdxProblem::Trailing { expected: 18 }), "{found}");
}

#[test]
fn damaged_gzip_is_an_error() {
    let plain = idx(8, &[64], &[7; 64]);
    let whole = gzip(&plain);
    for end in 2..whole.len() {
        assert!(IdxArray::from_bytes(&whole[..end], "cut.gz").is_err(), "{end}");
    }
    // The checksum and the length stand in the last eight bytes.
    for at in whole.len() - 8..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        let (offset, found) = problem(&bytes);
        assert!(offset == 72 && matches!(found, IdxProblem::Read { .. }), "{at}: {found}");
    }
    let (_, found) = problem(&[&whole[..], b"more"].concat());
    assert!(matches!(found, IdxProblem::Read { .. }), "{found}");
}

#[test]
fn files_are_read_and_named_in_errors() {
    let directory = std::env::temp_dir().join(format!("everstep-data-idx-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("labels-idx1-ubyte");
    let mut bytes = idx(8, &[3], &[1, 2, 3]);
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(IdxArray::from_path(&path).unwrap().values(), &IdxValues::U8(vec![1, 2, 3]));
    // Gzip is told by its first bytes, not by the name.
    std::fs::write(&path, gzip(&bytes)).unwrap();
    assert_eq!(IdxArray::from_path(&path).unwrap().shape(), [3]);
    bytes.write_all(&[4]).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let message = IdxArray::from_path(&path).unwrap_err().to_string();
    let expected = "labels-idx1-ubyte: at byte 11: expected the end of the file after 11 bytes, found more";
    assert!(message.ends_with(expected), "{message}");
    let missing = IdxArray::from_path(directory.join("missing")).unwrap_err();
    assert!(matches!(&missing, Error::Io { file, .. } if file.ends_with("missing")), "{missing}");
    assert!(IdxArray::from_path(&directory).is_err());
    std::fs::remove_dir_all(&directory).unwrap();
}
