//! Checks the layers of the program, and the names that ops, shaders and tests share, against the source, so that they
//! cannot drift from the documents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules from the top down. A module names only modules of lower layers.
const LAYERS: [&[&str]; 31] = [
    &["cli"],
    &["preflight"],
    &["sweep", "dashboard", "supervised", "inspect", "doctor"],
    &["bench"],
    &["rl"],
    &["evaluate", "preview", "text_to_image"],
    &["reward"],
    &["sampling", "pretrain", "fit_classifier", "self_test", "saved"],
    &["optimizer", "assets", "memory"],
    &["model"],
    &["autodiff"],
    &["ops"],
    &["profile"],
    &["roofline"],
    &["graph"],
    &["gpu"],
    &["report"],
    &["compare"],
    &["plot"],
    &["run"],
    &["data"],
    &["config"],
    &["shapes"],
    &["flow"],
    &["cache"],
    &["ranks"],
    &["files", "classes", "sniff", "shape"],
    &["text"],
    &["error"],
    // The roots: `lib` only declares, `main` only calls `cli`.
    &["lib"],
    &["main"],
];

/// Shaders that no op runs, with the module that does.
const NOT_OF_OPS: [(&str, &str); 4] =
    [("bench_empty", "bench"), ("finished", "gpu"), ("roofline_copy", "roofline"), ("roofline_fma", "roofline")];

/// Ops whose kernels have other names than their file: each direction, function or half has its own.
const OTHER_NAMES: [(&str, &[&str]); 7] = [
    (
        "activation",
        &[
            "gelu",
            "gelu_backward",
            "gelu_erf",
            "gelu_erf_backward",
            "quick_gelu",
            "quick_gelu_backward",
            "silu",
            "silu_backward",
        ],
    ),
    ("add", &["accumulate"]),
    ("copy_columns", &["join_six", "split_six"]),
    ("half_precision", &["from_half", "to_half"]),
    // A matmul kernel with an epilogue: shaders/epilogues.
    ("matmul_joined", &[]),
    ("patchify", &["unpatchify"]),
    // Also the second pass of `policy_stats`.
    ("sum_squares", &["sum_pairs"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder with this extension, and their text.
fn files(folder: &str, ending: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, ending: &str, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, ending, found);
            } else if path.extension().is_some_and(|other| other == ending) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), ending, &mut found);
    found.sort();
    assert!(!found.is_empty(), "{folder}");
    found
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

/// The names of the files directly in a folder, without their extension.
fn stems(folder: &str, ending: &str) -> BTreeSet<String> {
    let directly = |path: &PathBuf| path.parent() == Some(&root().join(folder));
    files(folder, ending).iter().map(|(path, _)| path).filter(|path| directly(path)).map(|path| stem(path)).collect()
}

/// The top-level module that a file of `src` belongs to.
fn module_of(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    inside.with_extension("").iter().next().unwrap().to_string_lossy().into_owned()
}

/// Code without comments and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The names behind `crate::` in code: `crate::a::b`, `crate::{a::b, c}`.
fn named(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let word =
        |text: &str| text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect::<String>();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(word(rest));
            continue;
        };
        let (mut depth, mut starts) = (0, true);
        for (at, letter) in list.char_indices() {
            match letter {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => starts = true,
                letter if starts && !letter.is_whitespace() => {
                    names.insert(word(&list[at..]));
                    starts = false;
                }
                _ => {}
            }
        }
    }
    // These two are re-exported by the root.
    names.into_iter().map(|name| if name == "Error" || name == "Result" { "error".into() } else { name }).collect()
}

#[test]
fn names_are_found_in_every_form() {
    let code = code("use crate::a::{B, c};\nuse crate::{d::{E, f}, g, Error};\nlet x = crate::h(1); // crate::no\n");
    assert_eq!(named(&code).iter().map(String::as_str).collect::<Vec<_>>(), ["a", "d", "error", "g", "h"]);
}

#[test]
fn modules_name_only_modules_of_the_layers_below() {
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (path, text) in files("src", "rs") {
        let module = module_of(&path);
        seen.insert(module.clone());
        if ["lib", "main"].contains(&module.as_str()) || path.ends_with("tests.rs") {
            continue;
        }
        let Some(own) = layer(&module) else { panic!("src/{module} is in no layer: add it to LAYERS") };
        for name in named(&code(&text)).into_iter().filter(|name| *name != module) {
            // Macros and other items of the root are not modules.
            if layer(&name).is_some_and(|other| other <= own) {
                wrong.push(format!("{}: {module} names {name}, which is not below it", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let planned: BTreeSet<String> =
        LAYERS.iter().flat_map(|layer| layer.iter().map(|name| (*name).to_owned())).collect();
    assert_eq!(seen, planned, "the layers match the source tree");
}

/// The floors in ARCHITECTURE.md are the layers, in their order.
#[test]
fn the_architecture_lists_the_layers_in_their_order() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let list = text.split("## Floors").nth(1).and_then(|rest| rest.split("```").nth(1)).unwrap();
    let layer = |name: &str| LAYERS[..LAYERS.len() - 2].iter().position(|layer| layer.contains(&name));
    let (mut listed, mut seen) = (Vec::new(), BTreeSet::new());
    // The names come first in a line, and before what they do; parts of a module are indented.
    for line in list.lines().skip(1).filter(|line| !line.starts_with("  ")) {
        let names = line.split_whitespace().map(|name| name.trim_end_matches('/'));
        let modules = names.map_while(|name| Some((layer(name)?, name)));
        listed.extend(modules.filter(|(_, name)| seen.insert(*name)));
    }
    assert!(listed.is_sorted_by_key(|(layer, _)| layer), "{listed:?}");
    let all = LAYERS[..LAYERS.len() - 2].concat();
    assert_eq!(seen, BTreeSet::from_iter(all));
}

/// Kernels of an op carry its name, as its file does: `layer_norm`, `layer_norm_backward`.
#[test]
fn every_shader_carries_the_name_of_its_op() {
    // An op is a file, and what a folder of its name contains.
    let mut ops: BTreeMap<String, String> = BTreeMap::new();
    for (path, text) in files("src/ops", "rs") {
        let op = path.strip_prefix(root().join("src/ops")).unwrap().with_extension("");
        let op = op.iter().next().unwrap().to_string_lossy().into_owned();
        ops.entry(op).or_default().push_str(&text);
    }
    ops.remove("mod");
    let other_names = |op: &str| OTHER_NAMES.iter().find(|(name, _)| *name == op).map_or(&[][..], |(_, names)| names);
    let mut with_shader = BTreeSet::new();
    for shader in stems("shaders", "wgsl") {
        if let Some((_, module)) = NOT_OF_OPS.iter().find(|(name, _)| *name == shader) {
            let text: String = files("src", "rs")
                .into_iter()
                .filter(|(path, _)| module_of(path) == *module)
                .map(|file| file.1)
                .collect();
            assert!(text.contains(&format!("\"{shader}\"")), "src/{module} does not run shaders/{shader}.wgsl");
            continue;
        }
        let owners: Vec<(&String, &String)> = (ops.iter())
            .filter(|(op, _)| {
                let is_named = shader == **op || shader.starts_with(&format!("{op}_"));
                is_named || other_names(op).contains(&shader.as_str())
            })
            .filter(|(_, text)| text.contains(&format!("\"{shader}\"")))
            .collect();
        assert_eq!(
            owners.len(),
            1,
            "shaders/{shader}.wgsl must have the name of one op in src/ops that runs it: {owners:?}"
        );
        with_shader.insert(owners[0].0.clone());
    }
    for op in ops.keys() {
        let is_joined = OTHER_NAMES.iter().any(|(name, names)| name == op && names.is_empty());
        assert!(with_shader.contains(op) || is_joined, "no shader carries the name of src/ops/{op}.rs");
    }
}

/// A file or a test of `tests/ops` for each op, by its name.
#[test]
fn every_op_has_a_test_of_its_name() {
    let tests = files("tests/ops", "rs");
    for op in stems("src/ops", "rs").iter().filter(|op| *op != "mod") {
        let has_file = tests.iter().any(|(path, _)| stem(path) == *op);
        let has_test = tests.iter().any(|(_, text)| text.contains(&format!("#[test]\nfn {op}")));
        assert!(has_file || has_test, "tests/ops has neither {op}.rs nor a test whose name begins with {op}");
    }
}
