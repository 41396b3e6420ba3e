//! The CSV reader, on good files and on each kind of bad one.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

mod common;

use std::path::Path;

use common::whole;
use everstep_data::{
    Column, CsvColumn, CsvConfig, CsvDataset, CsvProblem, Dataset, Error, FieldSpec, HostLoader, LoaderConfig, Target,
};

const FLOWERS: &str = "\
width, length,kind,weight
0.5,1.5,reed,10
-2,.25,iris,20
1e1,+1,reed,30
";

fn read(text: &str, config: &CsvConfig) -> CsvDataset {
    CsvDataset::from_bytes(text.as_bytes(), "some.csv", config).unwrap()
}

/// Line, column and problem of the error that reading `bytes` gives.
fn problem(bytes: &[u8], config: &CsvConfig) -> (u64, Option<CsvColumn>, CsvProblem) {
    match CsvDataset::from_bytes(bytes, "some.csv", config).unwrap_err() {
        Error::Csv { file, line, column, problem } => {
            assert_eq!(file, Path::new("some.csv"));
            (line, column, problem)
        }
        other => panic!("{other}"),
    }
}

fn message(text: &str, config: &CsvConfig) -> String {
    CsvDataset::from_bytes(text.as_bytes(), "some.csv", config).unwrap_err().to_string()
}

fn x(dataset: &CsvDataset) -> Vec<f32> {
    whole(dataset.clone()).x.as_f32().unwrap().to_vec()
}

fn classes(dataset: &CsvDataset) -> Vec<u32> {
    whole(dataset.clone()).y.as_u32().unwrap().to_vec()
}

#[test]
fn classes_by_name() {
    let dataset = read(FLOWERS, &CsvConfig::names("kind"));
    assert_eq!((dataset.len(), dataset.classes()), (3, Some(2)));
    assert_eq!((&dataset.spec().x, &dataset.spec().y), (&FieldSpec::f32(&[3]), &FieldSpec::u32(&[])));
    assert_eq!(dataset.feature_names(), ["width", "length", "weight"]);
    assert_eq!(dataset.class_names(), ["iris", "reed"]);
    assert_eq!(x(&dataset), [0.5, 1.5, 10.0, -2.0, 0.25, 20.0, 10.0, 1.0, 30.0]);
    assert_eq!(classes(&dataset), [1, 0, 1]);
    assert_eq!(dataset.label(2).unwrap(), Some(1));
    assert!(matches!(dataset.label(3).unwrap_err(), Error::Index { index: 3, samples: 3 }));
}

#[test]
fn class_names_that_are_given_keep_their_order() {
    let dataset = read(FLOWERS, &CsvConfig::names(2).class_names(["reed", "rose", "iris"]));
    assert_eq!((dataset.classes(), classes(&dataset)), (Some(3), vec![0, 2, 0]));
    assert_eq!(dataset.class_names(), ["reed", "rose", "iris"]);
    // A test file in the classes of its training file.
    let test = read("kind,a\nrose,1\n", &CsvConfig::names("kind").class_names(dataset.class_names().iter().cloned()));
    assert_eq!(classes(&test), [1]);
    let (line, column, found) = problem(FLOWERS.as_bytes(), &CsvConfig::names("kind").class_names(["reed"]));
    assert!(matches!(found, CsvProblem::ClassName { names: 1, .. }), "{found}");
    assert_eq!((line, column), (3, Some(CsvColumn { index: 2, name: Some("kind".into()) })));
    let (_, _, found) = problem(FLOWERS.as_bytes(), &CsvConfig::names("kind").class_names(["reed", "reed"]));
    assert!(matches!(found, CsvProblem::RepeatedName { .. }), "{found}");
}

#[test]
fn many_class_names_are_sorted_as_text() {
    let names = ["d", "b", "10", "é", "9", "a", "d", "c", "9"];
    let text: String = names.iter().map(|name| format!("1,{name}\n")).collect();
    let dataset = read(&text, &CsvConfig::names(1).header(false));
    assert_eq!(dataset.class_names(), ["10", "9", "a", "b", "c", "d", "é"]);
    assert_eq!(classes(&dataset), [5, 3, 0, 6, 1, 2, 5, 4, 1]);
    assert_eq!(dataset.feature_names(), ["0"]);
}

#[test]
fn classes_by_number() {
    let config = CsvConfig::numbers("digit", 10);
    let dataset = read("digit,a,b\n7,1,2\n0,3,4\n", &config);
    assert_eq!((dataset.classes(), classes(&dataset), dataset.class_names().len()), (Some(10), vec![7, 0], 0));
    for wrong in ["10", "-1", "1.0", "seven", "99999999999"] {
        let (line, column, found) = problem(format!("digit,a\n3,1\n{wrong},1\n").as_bytes(), &config);
        assert!(matches!(found, CsvProblem::ClassNumber { classes: 10, .. }), "{found}");
        assert_eq!((line, column.unwrap().index), (3, 0));
    }
}

#[test]
fn values_to_predict() {
    let dataset = read(FLOWERS, &CsvConfig::value("weight").features(["length", "width"]));
    assert_eq!((dataset.classes(), dataset.label(0).unwrap()), (None, None));
    assert_eq!(dataset.spec().y, FieldSpec::f32(&[]));
    assert_eq!(dataset.feature_names(), ["length", "width"]);
    let batch = whole(dataset);
    assert_eq!(batch.x.as_f32().unwrap(), [1.5, 0.5, 0.25, -2.0, 1.0, 10.0]);
    assert_eq!((batch.y.as_f32().unwrap(), batch.y.shape()), (&[10.0, 20.0, 30.0][..], &[3][..]));
}

#[test]
fn columns_by_index_and_by_name_are_the_same() {
    let by_name = read(FLOWERS, &CsvConfig::value("weight").features(["length", "width"]));
    let by_index = read(FLOWERS, &CsvConfig::value(3).features([1, 0]));
    let mixed = read(FLOWERS, &CsvConfig::value(3).features([Column::from("length"), Column::from(0)]));
    assert!(x(&by_name) == x(&by_index) && x(&by_name) == x(&mixed));
    assert_eq!(by_index.feature_names(), ["length", "width"]);
}

#[test]
fn the_many_ways_to_write_the_same_table() {
    let expected = vec![1.0, 2.0, 4.0, 5.0];
    let config = CsvConfig::numbers("c", 8);
    for text in [
        "a,b,c\n1,2,3\n4,5,6\n",
        "a,b,c\n1,2,3\n4,5,6",
        "a,b,c\r\n1,2,3\r\n4,5,6\r\n",
        "a,b,c\r1,2,3\r4,5,6\r",
        "\n\na,b,c\n\n1,2,3\n\r\n\n4,5,6\n\n",
        "\u{feff}a,b,c\n1,2,3\n4,5,6\n",
        " a ,b, c\n 1, 2 ,3\n4\t,5,\u{a0}6\n",
        "\"a\",b,\"c\"\n\"1\",2,3\n4,\" 5\",\"6\"",
    ] {
        let dataset = read(text, &config);
        assert_eq!((x(&dataset), classes(&dataset)), (expected.clone(), vec![3, 6]), "{text:?}");
    }
    let dataset = read("1;2;3\n4;5;6\n", &CsvConfig::numbers(2, 8).header(false).delimiter(';'));
    assert_eq!(x(&dataset), expected);
}

#[test]
fn columns_that_are_not_used_may_hold_anything() {
    let text = b"a,note,b\n1,\"two\nlines, \"\"quoted\"\"\",2\n3,\xff\xfe,4\n5,,6\n";
    let config = CsvConfig::value("b").features(["a"]);
    let dataset = CsvDataset::from_bytes(text, "some.csv", &config).unwrap();
    assert_eq!(x(&dataset), [1.0, 3.0, 5.0]);
}

#[test]
fn garbage_is_an_error_with_its_place() {
    let config = CsvConfig::value("c");
    let expected = "some.csv: line 3, column 1 (\"b\"): expected a number, found \"n/a\": mend it, take the row out, or leave \
                    the column out of `features`";
    assert_eq!(message("a,b,c\n1,2,3\n4,n/a,6\n", &config), expected);
    let expected = "some.csv: line 2, column 0 (\"a\"): the value is missing: fill it in, take the row out, or leave the \
                    column out of `features`";
    assert_eq!(message("a,b,c\n ,2,3\n", &config), expected);
    let headerless = CsvConfig::value(0).header(false);
    assert!(message("1,2\n3,\n", &headerless).starts_with("some.csv: line 2, column 1: the value is missing"));
    for wrong in ["NaN", "inf", "-Infinity", "1e39", "-9e999"] {
        let (line, column, found) = problem(format!("1,2\n3,{wrong}\n").as_bytes(), &headerless);
        assert!(matches!(&found, CsvProblem::NotFinite { found } if found == wrong), "{found}");
        assert_eq!((line, column.unwrap().index), (2, 1));
    }
    for wrong in ["1_000", "0x10", "1.2.3", "1 2", "--1", "e5", "1f", "TRUE"] {
        let (_, _, found) = problem(format!("1,2\n3,{wrong}\n").as_bytes(), &headerless);
        assert!(matches!(&found, CsvProblem::Number { found } if found == wrong), "{found}");
    }
    let (_, column, found) = problem(b"1,2\n\xff,4\n", &headerless);
    assert!(column.unwrap().index == 0 && matches!(found, CsvProblem::Utf8), "{found}");
    // A value of any length makes a message of bounded length.
    assert!(message(&format!("1,2\n3,{}\n", "é".repeat(100_000)), &headerless).len() < 300);
}

#[test]
fn lines_are_counted_as_an_editor_counts_them() {
    let config = CsvConfig::value(0).features([1, 2]).header(false);
    let line_of = |text: &str| {
        let (line, column, _) = problem(text.as_bytes(), &config);
        (line, column.map(|column| column.index))
    };
    for end in ["\n", "\r\n", "\r"] {
        let line_of = |text: &str| line_of(&text.replace('\n', end));
        assert_eq!(line_of("x,2,3"), (1, Some(1 - 1)));
        assert_eq!(line_of("1,2,3\n1,2,3\n1,x,3\n1,2,3\n"), (3, Some(1)));
        assert_eq!(line_of("\n1,2,3\n\n\n1,x,3"), (5, Some(1)));
        // Line breaks inside quotes: the row begins on line 2, its values on lines 2, 2 and 4.
        assert_eq!(line_of("1,2,3\n1,\"\nx\n\",3\n"), (2, Some(1)));
        assert_eq!(line_of("1,2,3\n1,\"\n2\n\",x\n"), (4, Some(2)));
        assert_eq!(line_of("1,2,3\n\n\"\n1\",2\n"), (3, None));
        // A quote left open takes the rest of the file in.
        assert_eq!(line_of("1,2,3\n1,\"2,3\n1,2,3\n"), (2, None));
    }
    for open in ["1,2,3\n\n1,2,\"3", "1,2,3\n\n1,2,\"3\n", "1,2,3\n\n1,\"2\",\"3\"\"\n\n"] {
        let (line, _, found) = problem(open.as_bytes(), &config);
        assert!(line == 3 && matches!(found, CsvProblem::OpenQuote), "{line}: {found}");
    }
}

#[test]
fn rows_of_another_width_are_errors() {
    let config = CsvConfig::value(0);
    for (text, found_values, at) in [("a,b\n1,2\n1,2,3\n", 3, 3), ("a,b\n1\n", 1, 2), ("a,b\n1,2\n\n1,2,\n", 3, 4)] {
        let (line, column, found) = problem(text.as_bytes(), &config);
        assert!(matches!(found, CsvProblem::Values { expected: 2, found } if found == found_values), "{found}");
        assert_eq!((line, column), (at, None));
    }
}

#[test]
fn columns_that_cannot_be_are_errors() {
    let header = |config: &CsvConfig| {
        let (line, _, found) = problem(b"\na,b,b,c\n1,2,3,4\n", config);
        assert_eq!(line, 2);
        found
    };
    let found = header(&CsvConfig::value("d"));
    assert_eq!(found.to_string(), "there is no column \"d\"; the columns are \"a\", \"b\", \"b\", \"c\"");
    assert!(matches!(header(&CsvConfig::value(4)), CsvProblem::UnknownColumn { wanted: Column::Index(4), .. }));
    assert!(matches!(header(&CsvConfig::value("b")), CsvProblem::AmbiguousColumn { .. }));
    let found = header(&CsvConfig::value("a").features(["c", "a"]));
    assert_eq!(found.to_string(), "column 0 (\"a\") is asked for twice: use it once, as a feature or as the target");
    assert!(matches!(header(&CsvConfig::value("a").features([1, 1])), CsvProblem::RepeatedColumn { .. }));
    assert!(matches!(header(&CsvConfig::value("a").features::<usize>([])), CsvProblem::NoFeatures));
    let (_, _, found) = problem(b"1\n2\n", &CsvConfig::value(0).header(false));
    assert!(matches!(found, CsvProblem::NoFeatures), "{found}");
    let (_, _, found) = problem(b"1,2\n", &CsvConfig::value("a").header(false));
    assert_eq!(
        found.to_string(),
        "there is no column \"a\"; the columns are 0 to 1, without names as `header` is false"
    );
    for delimiter in ['"', '\n', '\r', '\0', 'é', '→'] {
        let (_, _, found) = problem(b"a,b\n1,2\n", &CsvConfig::value(0).delimiter(delimiter));
        assert!(matches!(found, CsvProblem::Delimiter { found } if found == delimiter), "{found}");
    }
    // The names of a thousand columns do not all go into the message.
    let wide: Vec<String> = (0..1000).map(|index| format!("column{index}")).collect();
    assert!(message(&wide.join(","), &CsvConfig::value("z")).ends_with("\"column15\" and 984 more"));
}

#[test]
fn empty_files() {
    for text in ["", "\n", "\r\n\r\n", "\u{feff}"] {
        let (_, _, found) = problem(text.as_bytes(), &CsvConfig::value(0));
        assert!(matches!(found, CsvProblem::Empty), "{text:?}: {found}");
        let (_, _, found) = problem(text.as_bytes(), &CsvConfig::value(0).header(false));
        assert!(matches!(found, CsvProblem::Empty), "{text:?}: {found}");
    }
    // A header alone is a table without rows.
    for config in [CsvConfig::value("a"), CsvConfig::numbers("a", 3), CsvConfig::names("a")] {
        let dataset = read("a,b\n", &config);
        assert!(dataset.is_empty() && dataset.spec().x.shape == [1]);
        let error = HostLoader::new(dataset, LoaderConfig::new(1)).err().unwrap();
        assert!(matches!(error, Error::EmptyDataset { .. }), "{error}");
    }
}

#[test]
fn large_tables_and_odd_widths() {
    for (rows, width) in [(1, 2), (3, 17), (10_001, 5), (2, 20_000)] {
        let value = |row: usize, column: usize| (row * 31 + column * 7) % 1000;
        let line = |row| (0..width).map(|column| value(row, column).to_string()).collect::<Vec<_>>().join(",") + "\n";
        let text: String = (0..rows).map(line).collect();
        let dataset = read(&text, &CsvConfig::value(width / 2).header(false));
        let batch = whole(dataset);
        let columns = || (0..width).filter(|&column| column != width / 2);
        let expected = (0..rows).flat_map(|row| columns().map(move |column| value(row, column) as f32));
        assert!(batch.x.as_f32().unwrap().iter().copied().eq(expected));
        assert!(batch.y.as_f32().unwrap().iter().copied().eq((0..rows).map(|row| value(row, width / 2) as f32)));
    }
}

#[test]
fn files_are_read_and_named_in_errors() {
    let directory = std::env::temp_dir().join(format!("everstep-data-csv-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("flowers.csv");
    std::fs::write(&path, FLOWERS).unwrap();
    let config = CsvConfig::names("kind");
    assert_eq!(CsvDataset::from_path(&path, &config).unwrap().len(), 3);
    std::fs::write(&path, "a,kind\nx,reed\n").unwrap();
    let message = CsvDataset::from_path(&path, &config).unwrap_err().to_string();
    assert!(message.contains("flowers.csv: line 2, column 0 (\"a\"): expected a number, found \"x\""), "{message}");
    let missing = CsvDataset::from_path(directory.join("missing"), &config).unwrap_err();
    assert!(matches!(&missing, Error::Io { file, .. } if file.ends_with("missing")), "{missing}");
    assert!(CsvDataset::from_path(&directory, &config).is_err());
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn the_configuration_is_strict() {
    let text = r#"{"target": {"names": {"column": "kind"}}, "features": ["width", 1], "delimiter": ";"}"#;
    let parsed: CsvConfig = serde_json::from_str(text).unwrap();
    let features = [Column::from("width"), Column::from(1)];
    assert_eq!(parsed, CsvConfig::names("kind").features(features).delimiter(';'));
    for config in [parsed, CsvConfig::numbers(0, 3).header(false), CsvConfig::names(1).class_names(["a", "b"])] {
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<CsvConfig>(&text).unwrap(), config);
    }
    assert_eq!(CsvConfig::value("a").target.column(), &Column::from("a"));
    let value = CsvConfig::value("a").class_names(["b"]);
    assert_eq!(value.target, Target::Value { column: "a".to_string().into() });
    for wrong in [
        r#"{"target": {"value": {"column": 0}}, "heather": true}"#,
        r#"{"target": {"value": {"column": 0, "classes": 2}}}"#,
        r#"{"target": {"value": {"column": -1}}}"#,
        r#"{"target": {"median": {"column": 0}}}"#,
        "{}",
    ] {
        assert!(serde_json::from_str::<CsvConfig>(wrong).is_err(), "{wrong}");
    }
}
