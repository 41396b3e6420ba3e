//! The WGSL kernels of Everstep, one file per kernel, and the functions they share.
//!
//! A file whose first line is `// uses: shared/float_bits, shared/index` is completed by those files, and by what they
//! use in turn: [`source`] and [`with_shared`] put each of them in front once. A shared file may refer to names that
//! the kernel declares, such as `status` or `LANES`; its head says so.

/// Names and texts of files, embedded.
macro_rules! table {
    ($($name:literal),+ $(,)?) => { &[$(($name, include_str!(concat!($name, ".wgsl")))),+] };
}

/// Every kernel: its name and its file as it is on disk.
pub const FILES: &[(&str, &str)] = table![
    "adam",
    "adam_quads",
    "argmax",
    "attention",
    "attention_backward",
    "attention_backward_lanes",
    "attention_lanes",
    "avg_pool2d",
    "avg_pool2d_backward",
    "conv2d",
    "conv2d_backward_weight",
    "conv2d_backward_weight_lanes",
    "conv2d_backward_weight_tiles",
    "conv2d_lanes",
    "conv2d_tiles",
    "cross_entropy",
    "cross_entropy_backward",
    "cumsum",
    "dropout",
    "gate",
    "gather",
    "health",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_backward_weight",
    "log_softmax",
    "log_softmax_backward",
    "matmul",
    "matmul_cooperative",
    "matmul_lanes",
    "matmul_large",
    "matmul_ragged_lanes",
    "matmul_rows",
    "matmul_sum",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool2d_gather",
    "reduce",
    "reduce_columns",
    "rmsprop",
    "scatter_add",
    "seal",
    "settle",
    "sgd",
    "softmax",
    "softmax_backward",
];

/// Every shared file, by the name that `uses` calls it.
pub const SHARED: &[(&str, &str)] = table![
    "shared/activation",
    "shared/adam",
    "shared/attention",
    "shared/attention_lanes",
    "shared/attention_score",
    "shared/control",
    "shared/convolution",
    "shared/convolution_tiles",
    "shared/convolution_weight",
    "shared/cooperative_16",
    "shared/cooperative_8",
    "shared/elementary",
    "shared/float_bits",
    "shared/half",
    "shared/index",
    "shared/logic",
    "shared/matrices",
    "shared/matrix_elements",
    "shared/matrix_halves",
    "shared/matrix_lanes",
    "shared/matrix_tiles",
    "shared/mixed_radix",
    "shared/penalty",
    "shared/philox",
    "shared/pool",
    "shared/reduction",
    "shared/rows",
    "shared/status",
    "shared/tally",
    "shared/tree",
];

/// Kernels that are another one with one shared file in the place of another: their name, that kernel's, what goes and what comes.
pub const DERIVED: &[(&str, &str, [&str; 2])] = &[
    ("matmul_cooperative_8", "matmul_cooperative", ["shared/cooperative_16", "shared/cooperative_8"]),
    ("matmul_half", "matmul", HALVES),
    ("matmul_half_large", "matmul_large", HALVES),
    ("matmul_half_rows", "matmul_rows", HALVES),
];

const HALVES: [&str; 2] = ["shared/matrix_elements", "shared/matrix_halves"];

fn find(table: &[(&'static str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(key, _)| *key == name).map(|(_, text)| *text)
}

/// The shared files that a file names in its first line.
pub fn uses(file: &str) -> Vec<&str> {
    let line = file.lines().next().and_then(|line| line.strip_prefix("// uses:"));
    line.into_iter().flat_map(|names| names.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect()
}

/// The complete WGSL of the kernel `name`; `None` for an unknown name.
pub fn source(name: &str) -> Option<String> {
    let derived = DERIVED.iter().find(|(key, _, _)| *key == name);
    let file = find(FILES, derived.map_or(name, |(_, kernel, _)| kernel))?;
    Some(complete(&uses(file), file, derived.map(|(_, _, swap)| *swap)))
}

/// A shader written by a program, completed: the shared files `names` (such as `"shared/activation"`) and those they
/// use, each once, then `body`. An unknown name adds nothing; the shader compiler then reports what is missing.
pub fn with_shared(names: &[&str], body: &str) -> String {
    complete(names, body, None)
}

/// As [`with_shared`], with the second file of `swap` wherever the first is named.
fn complete(names: &[&str], body: &str, swap: Option<[&str; 2]>) -> String {
    let (mut text, mut done) = (String::new(), Vec::new());
    for name in names {
        append(name, swap, &mut text, &mut done);
    }
    text.push_str(body);
    text
}

/// Appends a shared file after the files it uses, unless it is there already.
fn append(name: &str, swap: Option<[&str; 2]>, text: &mut String, done: &mut Vec<&'static str>) {
    let name = swap.filter(|[from, _]| *from == name).map_or(name, |[_, to]| to);
    let Some((key, file)) = SHARED.iter().find(|(key, _)| *key == name) else { return };
    if done.contains(key) {
        return;
    }
    done.push(key);
    for used in uses(file) {
        append(used, swap, text, done);
    }
    text.push_str(file);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn on_disk(folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> =
            names.filter_map(|name| Some(format!("{folder}{}", name.strip_suffix(".wgsl")?))).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_tables_are_the_files_on_disk_in_order() {
        assert_eq!(FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>(), on_disk(""));
        assert_eq!(SHARED.iter().map(|(name, _)| *name).collect::<Vec<_>>(), on_disk("shared/"));
    }

    #[test]
    fn uses_name_shared_files() {
        for (name, file) in FILES.iter().chain(SHARED) {
            for used in uses(file) {
                assert!(find(SHARED, used).is_some(), "{name} uses {used}");
            }
        }
    }

    #[test]
    fn a_derived_kernel_has_one_file_in_the_place_of_another() {
        for (name, kernel, [from, to]) in DERIVED {
            let (text, plain) = (source(name).unwrap(), source(kernel).unwrap());
            let (gone, come) = (find(SHARED, from).unwrap(), find(SHARED, to).unwrap());
            assert!(plain.contains(gone) && !plain.contains(come), "{name}");
            assert!(
                text.contains(come) && !text.contains(gone) && text.ends_with(find(FILES, kernel).unwrap()),
                "{name}"
            );
            assert!(find(FILES, name).is_none(), "{name} is two kernels");
        }
    }

    #[test]
    fn each_shared_file_is_there_once() {
        let text = with_shared(&["shared/activation", "shared/tree", "shared/float_bits"], "fn own() {}\n");
        for function in ["fn is_nan(", "fn exp_f32(", "fn tree_sum(", "fn own("] {
            assert_eq!(text.matches(function).count(), 1, "{function}");
        }
        assert!(text.find("fn is_nan(") < text.find("fn exp_f32(") && text.ends_with("fn own() {}\n"));
        assert_eq!(source("no_such_kernel"), None);
    }
}
