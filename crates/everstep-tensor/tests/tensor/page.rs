//! The page of ops, `docs/OPS.md`, is what the table says.

use std::fmt::Write;
use std::path::Path;

use everstep_tensor::ops;
use everstep_tensor::ops::table::{Entry, Gradient};

const HEAD: &str = "# Ops

Written from the table of ops (`crates/everstep-tensor/src/ops/table.rs`); a test fails where this page is not what the table
says, and rewrites it with `EVERSTEP_WRITE_DOCS=1 cargo test -p everstep-tensor --test tensor page`.

Each op is a method of `Tensor` of this name or a function of `everstep::tensor`, and runs on the CPU engine and on every GPU.
On both it is tested against a reference in f64: contiguous, transposed, sliced with a step, repeated by a stride of 0, empty,
of odd sizes and of up to six dimensions; its gradients against finite differences of the reference, of the order stated:
*any* means that gradients of gradients are tested too. The error is that of an element x of an f32 result.

";

fn gradient(entry: &Entry) -> String {
    match entry.gradient {
        Gradient::Any => "any order".into(),
        Gradient::First(why) => format!("first order: {why}"),
        Gradient::No(why) => format!("none: {why}"),
    }
}

fn error(entry: &Entry) -> String {
    let tolerance = entry.tolerance;
    match (tolerance.relative == 0.0, tolerance.absolute == 0.0) {
        (true, true) => "exact".into(),
        (false, true) => format!("{:e} \\|x\\|", tolerance.relative),
        (true, false) => format!("{:e}", tolerance.absolute),
        (false, false) => format!("{:e} \\|x\\| + {:e}", tolerance.relative, tolerance.absolute),
    }
}

fn page() -> String {
    let mut entries: Vec<&Entry> = ops::ALL.iter().collect();
    entries.sort_by_key(|entry| entry.name);
    let mut text = format!("{HEAD}{} ops.\n\n| op | dtypes | gradient | error |\n|---|---|---|---|\n", entries.len());
    for entry in entries {
        let dtypes: Vec<_> = entry.dtypes.iter().map(|dtype| dtype.name()).collect();
        let (dtypes, gradient, error) = (dtypes.join(", "), gradient(entry), error(entry));
        writeln!(text, "| `{}` | {dtypes} | {gradient} | {error} |", entry.name).unwrap();
    }
    text
}

#[test]
fn the_page_of_ops_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/OPS.md");
    let expected = page();
    if std::env::var_os("EVERSTEP_WRITE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "docs/OPS.md is not what the table says: EVERSTEP_WRITE_DOCS=1 rewrites it");
}
