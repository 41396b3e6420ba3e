//! House rules that a machine can check, over the files of the repository. Each test lists every place at once.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Lines that a file may have.
const MAX_LINES: usize = 600;

/// A text file of the repository.
struct File {
    /// Relative to the repository, with `/`.
    path: String,
    text: String,
}

impl File {
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    fn extension(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    /// The file's name without its extension.
    fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.split('.').next().unwrap_or_default()
    }

    /// The lines of code outside comments and outside the file's tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut in_tests = false;
        self.lines().filter(move |(_, line)| {
            in_tests = (in_tests || line.starts_with("#[cfg(test)]")) && !line.starts_with('}');
            !in_tests && !line.trim_start().starts_with("//")
        })
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The text files of the repository, without what is built.
fn files() -> Vec<File> {
    const BUILT: [&str; 6] = [".git", "target", "corpus", "artifacts", "node_modules", "__pycache__"];
    let root = root();
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if BUILT.contains(&&*name) {
                continue;
            } else if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
                files.push(File { path, text });
            }
        }
    }
    assert!(files.len() > 50, "the repository was not found");
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// What breaks a rule, and where.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn add(&mut self, file: &File, line: usize, what: impl Display) {
        self.0.push(format!("{}:{line}: {what}", file.path));
    }

    #[track_caller]
    fn none(self, rule: &str) {
        assert!(self.0.is_empty(), "{rule}\n{}\n", self.0.join("\n"));
    }
}

#[test]
fn only_the_gpu_executor_says_wgpu() {
    let mut findings = Findings::default();
    for file in files().iter().filter(|f| f.extension() == "rs" && !f.is_in("crates/everstep-device/src/gpu/")) {
        let uses = |line: &str| line.contains("wgpu::") || line.trim_start().starts_with("use wgpu");
        for (line, text) in file.code().filter(|(_, text)| uses(text) && !text.contains("\"wgpu::")) {
            findings.add(file, line, text.trim());
        }
    }
    findings.none("`wgpu` stays in crates/everstep-device/src/gpu:");
}

#[test]
fn no_file_is_too_long() {
    let mut findings = Findings::default();
    for file in files().iter().filter(|file| ["rs", "wgsl"].contains(&file.extension())) {
        let lines = file.text.lines().count();
        if lines > MAX_LINES {
            findings.add(file, lines, "too long");
        }
    }
    findings.none("a file past 600 lines is two files:");
}

#[test]
fn unwrap_and_expect_live_in_tests() {
    let mut findings = Findings::default();
    let tests =
        |file: &File| file.path.contains("/tests/") || file.is_in("crates/everstep-testing/") || file.is_in("fuzz/");
    for file in files().iter().filter(|file| file.extension() == "rs" && !tests(file)) {
        let forbidden = |text: &str| [".unwrap()", ".expect(", ".unwrap_err()"].iter().any(|call| text.contains(call));
        for (line, text) in file.code().filter(|(_, text)| forbidden(text)) {
            findings.add(file, line, text.trim());
        }
    }
    findings.none("`unwrap` and `expect` live in tests; return an error:");
}

#[test]
fn every_shader_is_used() {
    let files = files();
    let mut findings = Findings::default();
    // The table of uniforms names all shaders; what counts is that a kernel chooses one.
    let kernels = |file: &&File| file.is_in("crates/everstep-device/src/") && !file.path.ends_with("/cpu/mod.rs");
    let code: String = files.iter().filter(kernels).flat_map(|file| file.code().map(|(_, line)| line)).collect();
    let heads: Vec<&str> = files
        .iter()
        .filter(|file| file.extension() == "wgsl")
        .filter_map(|file| file.text.lines().next()?.strip_prefix("// uses:"))
        .flat_map(|names| names.split(',').map(str::trim))
        .collect();
    // Kernels that are another one with such a file in the place of another name it there alone.
    let table =
        files.iter().find(|file| file.path == "shaders/lib.rs").and_then(|file| file.text.split_once("DERIVED"));
    let derived = table.and_then(|(_, rest)| rest.split_once("\nfn ")).map_or("", |(table, _)| table);
    for file in files.iter().filter(|file| file.is_in("shaders/") && file.extension() == "wgsl") {
        let shared = format!("shared/{}", file.stem());
        let used = if file.is_in("shaders/shared/") {
            let quoted = format!("\"{shared}\"");
            heads.contains(&shared.as_str()) || code.contains(&quoted) || derived.contains(&quoted)
        } else {
            code.contains(&format!("\"{}\"", file.stem()))
        };
        if !used {
            findings.add(file, 1, "no kernel uses it");
        }
    }
    findings.none("a shader that nothing runs is removed:");
}

#[test]
fn every_package_inherits_lints_licence_and_rust_version() {
    let mut findings = Findings::default();
    let member = |file: &&File| file.path.ends_with("/Cargo.toml") && !file.is_in("fuzz/");
    let files = files();
    let members: Vec<_> = files.iter().filter(member).collect();
    assert!(members.len() >= 12, "{} packages", members.len());
    for file in members {
        for wanted in [
            "[lints]\nworkspace = true",
            "\nlicense.workspace = true",
            "\nrust-version.workspace = true",
            "\ndescription = ",
        ] {
            if !file.text.contains(wanted) {
                findings.add(file, 1, format!("lacks `{}`", wanted.trim().replace('\n', " ")));
            }
        }
    }
    findings.none("packages inherit from the workspace:");
}

/// The targets of a page's links, with their lines: `[text](target)` and `[label]: target`.
fn links(file: &File) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    let mut in_code = false;
    for (number, line) in file.lines() {
        in_code ^= line.trim_start().starts_with("```");
        if in_code {
            continue;
        }
        links.extend(line.split("](").skip(1).filter_map(|rest| Some((number, rest.split_once(')')?.0))));
        let label = line.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
        links.extend(label.map(|(_, target)| (number, target.trim())));
    }
    links
}

#[test]
fn links_in_the_documentation_are_alive() {
    let mut findings = Findings::default();
    let mut count = 0;
    for file in files().iter().filter(|file| file.extension() == "md") {
        let folder = root().join(&file.path).parent().map(Path::to_path_buf).unwrap_or_default();
        for (line, target) in links(file) {
            let path = target.split('#').next().unwrap_or_default();
            let outside = path.is_empty() || path.contains("://") || path.starts_with("mailto:");
            count += 1;
            if !outside && !folder.join(path).exists() {
                findings.add(file, line, format!("no `{path}`"));
            }
        }
    }
    assert!(count > 5, "{count} links found");
    findings.none("links point at files that exist:");
}

#[test]
fn no_file_names_a_place_on_one_machine() {
    // Put together here, so that this file does not break its own rule.
    let places = ["work", "home", "root", "Users"].map(|folder| format!("/{folder}/"));
    let mut findings = Findings::default();
    for file in files().iter() {
        for (line, text) in file.lines() {
            let begins = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}~*".contains(c));
            if places.iter().any(|place| text.match_indices(place.as_str()).any(|(at, _)| begins(at))) {
                findings.add(file, line, text.trim());
            }
        }
    }
    findings.none("paths are relative, or come from the environment:");
}

/// Each file of `ops/` has a module line, and a place in the table. (The methods of `elementwise` stand there by
/// themselves, as `Tensor::exp`.)
#[test]
fn every_op_is_in_the_table() {
    const OPS: &str = "crates/everstep-tensor/src/ops/";
    const NO_OPS: [&str; 4] = ["mod", "table", "reference", "elementwise"];
    let files = files();
    let text = |name: &str| {
        let file = files.iter().find(|file| file.path == format!("{OPS}{name}.rs"));
        file.map(|file| file.text.as_str()).unwrap_or_default()
    };
    let table = text("table").split_once("pub static ALL").expect("ops/table.rs has no `pub static ALL`").1;
    let mut findings = Findings::default();
    for file in files.iter().filter(|file| file.is_in(OPS) && !NO_OPS.contains(&file.stem())) {
        if !text("mod").contains(&format!("mod {};", file.stem())) {
            findings.add(file, 1, "no module of ops/mod.rs");
        }
        let rows = file.lines().filter_map(|(line, text)| {
            let (name, rest) = text.trim_start().strip_prefix("pub(super) const ")?.split_once(':')?;
            rest.trim_start().starts_with("Entry").then_some((line, name))
        });
        let rows: Vec<_> = rows.collect();
        for (line, row) in &rows {
            if !table.contains(&format!("{}::{row},", file.stem())) {
                findings.add(file, *line, format!("the table lacks `{row}`"));
            }
        }
        if rows.is_empty() && !table.contains(&format!("{}::", file.stem())) {
            findings.add(file, 1, "the table has no row of this file");
        }
    }
    findings.none("every op is in ops::ALL, from which its tests are generated:");
}

/// Every public method of `Tensor` shows how it is called, and what comes of it.
#[test]
fn every_method_of_a_tensor_has_an_example() {
    // What they give is in every other example's asserts; one of their own would say less than their names.
    const ACCESSORS: [&str; 6] = ["shape", "rank", "count", "dtype", "layout", "device"];
    let mut findings = Findings::default();
    let mut count = 0;
    for file in files().iter().filter(|file| file.is_in("crates/everstep-tensor/src/")) {
        // Where the block of methods is indented that the line lies in, and whether its method has an example so far.
        let (mut block, mut example) = (None, false);
        for (line, text) in file.lines() {
            let code = text.trim_start();
            let indent = text.len() - code.len();
            if code == "impl Tensor {" {
                block = Some(indent);
            } else if code.starts_with('}') && block.is_some_and(|block| indent <= block) {
                block = None;
            }
            example |= code.starts_with("/// ```") || code.contains("example!(") || code.contains("\"```\\n");
            let method = code.strip_prefix("pub fn ").or_else(|| code.strip_prefix("pub const fn "));
            let name = method.and_then(|method| method.split(['(', '<']).next()).filter(|_| block.is_some());
            if let Some(name) = name {
                count += 1;
                if !example && !ACCESSORS.contains(&name) {
                    findings.add(file, line, format!("`{name}`"));
                }
            }
            // The next method's comment begins after an empty line or after this one.
            example &= !code.is_empty() && name.is_none();
        }
    }
    assert!(count > 100, "{count} methods found");
    findings.none("every public method of `Tensor` has an example in its comment:");
}

#[test]
fn no_page_says_anything_twice() {
    let mut findings = Findings::default();
    for file in files().iter().filter(|file| file.extension() == "md") {
        let mut seen = std::collections::HashSet::new();
        let mut in_code = false;
        for (line, text) in file.lines() {
            in_code ^= text.starts_with("```");
            // Short lines, and a program's, may well come again.
            if text.len() > 60 && !in_code && !seen.insert(text) {
                findings.add(file, line, "as an earlier line");
            }
        }
    }
    findings.none("pages without repeated lines:");
}
