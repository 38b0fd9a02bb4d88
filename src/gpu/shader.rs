//! The shaders as text: one file per pipeline, compiled into the binary.
//!
//! Two small mechanisms keep every file plain WGSL:
//! - a line `//!import NAME` is replaced by `shaders/shared/NAME.wgsl`, `//!import epilogue` by the file in
//!   `shaders/epilogues` with the number given by the constant `EPILOGUE`; in the same way `weights` and `weights_vec4`
//!   (`WEIGHTS`), `precision` (`PRECISION`) and `matrices` (`MATRICES`) are files of folders of these names. `//!import
//!   pack` is replaced by `pack_vec4` instead if the constant `PACKED` is 1. A line `enable NAME;` of an import moves to
//!   the top, where WGSL wants it;
//! - a line `const NAME: u32 = 8u;` is a default that a [`Kernel`](super::Kernel) may replace if `CONSTANTS` lists
//!   the name, for what WGSL cannot size at pipeline creation (arrays in registers).

use std::borrow::Cow;
use std::collections::BTreeSet;

macro_rules! shaders {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $folder, $name, ".wgsl")))),*]
    };
}

/// `(name, text)` of every pipeline.
const PIPELINES: &[(&str, &str)] = shaders!["":
    "accumulate",
    "adamw",
    "add",
    "add_broadcast",
    "affine_norm",
    "attention",
    "attention_backward_key",
    "attention_backward_key_tiled",
    "attention_backward_key_value",
    "attention_backward_key_value_subgroup",
    "attention_backward_key_value_tiled",
    "attention_backward_key_value_vec4",
    "attention_backward_query",
    "attention_backward_query_subgroup",
    "attention_backward_query_tiled",
    "attention_backward_query_vec4",
    "attention_backward_value",
    "attention_backward_value_tiled",
    "attention_bias",
    "attention_subgroup",
    "attention_tiled",
    "attention_vec4",
    "bench_empty",
    "conv2d",
    "conv2d_tiled",
    "copy_columns",
    "copy_tokens",
    "cross_entropy",
    "cross_entropy_backward",
    "embedding",
    "embedding_backward",
    "finished",
    "from_half",
    "gated_activation",
    "gated_activation_backward",
    "gated_residual",
    "gated_residual_backward",
    "gated_residual_backward_gate",
    "gated_residual_backward_gate_vec4",
    "gelu",
    "gelu_backward",
    "gelu_erf",
    "gelu_erf_backward",
    "group_norm",
    "group_norm_partial",
    "group_norm_stats",
    "guidance",
    "join_six",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_backward_modulation",
    "layer_norm_backward_modulation_vec4",
    "layer_norm_backward_workgroup",
    "layer_norm_backward_workgroup_vec4",
    "layer_norm_workgroup",
    "layer_norm_workgroup_vec4",
    "matmul_cooperative",
    "matmul_cooperative_vec4",
    "matmul_register",
    "matmul_square128",
    "matmul_square128_vec4",
    "matmul_subgroup",
    "matmul_tile128",
    "matmul_tile128_vec4",
    "matmul_tiled",
    "matmul_tiled_vec4",
    "mean_squared_error",
    "mean_squared_error_backward",
    "nft_loss",
    "nft_loss_backward",
    "patchify",
    "philox_normal",
    "policy_objective",
    "policy_objective_backward",
    "policy_stats",
    "policy_stats_backward",
    "policy_stats_vec4",
    "quick_gelu",
    "quick_gelu_backward",
    "rms_norm",
    "rms_norm_backward",
    "rms_norm_backward_weight",
    "rms_norm_backward_weight_vec4",
    "rms_norm_backward_workgroup",
    "rms_norm_backward_workgroup_vec4",
    "rms_norm_workgroup",
    "rms_norm_workgroup_vec4",
    "roofline_copy",
    "roofline_fma",
    "rope",
    "sampler_step",
    "scale",
    "silu",
    "silu_backward",
    "softmax_rows",
    "split_six",
    "sum_pairs",
    "sum_rows",
    "sum_squares",
    "time_features",
    "to_half",
    "unpatchify",
    "velocity_of_data",
    "velocity_of_data_backward",
];

/// `(name, text)` of every import.
const SHARED: &[(&str, &str)] = shaders!["shared/":
    "add_products",
    "attention",
    "attention_backward_key_value",
    "attention_backward_query",
    "attention_params",
    "attention_row",
    "attention_subgroup",
    "attention_tiles",
    "attention_tiles_backward",
    "block_max",
    "block_sum",
    "conv2d",
    "cos_sin",
    "decayed",
    "each",
    "elements",
    "elements_columns",
    "fours",
    "fours_vec4",
    "gate",
    "gated_residual_backward_gate",
    "gated_residual_params",
    "gelu",
    "grid",
    "half",
    "head",
    "head_backward",
    "head_backward_vec4",
    "head_vec4",
    "layer_norm_backward_modulation",
    "layer_norm_backward_workgroup",
    "layer_norm_params",
    "layer_norm_workgroup",
    "matmul",
    "nft_settings",
    "non_finite",
    "normal_cdf",
    "operands",
    "operands_vec4",
    "outcome",
    "pack_vec4",
    "patch_index",
    "patchify_params",
    "philox",
    "policy_objective_params",
    "policy_stats",
    "products_8x8",
    "q8_0",
    "rms_norm_backward_weight",
    "rms_norm_backward_workgroup",
    "rms_norm_workgroup",
    "row_sums",
    "row_sums_params",
    "rows_columns",
    "sampler_row",
    "sigmoid",
    "silu",
    "tiles",
    "tiles_128",
    "tiles_128x128",
    "tiles_of_matrices",
];

/// `(name, text)` of the epilogues of matmul kernels, in the order of their numbers, see [`epilogue`].
const EPILOGUES: &[(&str, &str)] = shaders!["epilogues/":
    "none",
    "gelu",
    "gelu_backward",
    "gated_residual",
];

/// `(name, text)` of how a matmul kernel loads an element of its second operand, by the number from [`weights`].
const WEIGHTS: &[(&str, &str)] = shaders!["weights/": "f32", "f16", "q8_0"];

/// The same for four elements at a time, in the same order.
const WEIGHTS_VEC4: &[(&str, &str)] = shaders!["weights/": "f32_vec4", "f16_vec4", "q8_0_vec4"];

/// `(name, text)` of what elements of both operands are rounded to, by the number from [`precision`].
const PRECISIONS: &[(&str, &str)] = shaders!["precision/": "f32", "f16", "f16_integer"];

/// `(name, text)` of the sizes of cooperative matrices, by the number from [`matrices`].
const MATRICES: &[(&str, &str)] = shaders!["matrices/": "8", "16"];

/// What kernels take one of at a time: elements, or vectors of four by the constant `PACKED`.
const PACKS: &[(&str, &str)] = shaders!["shared/": "pack", "pack_vec4"];

/// The number of an epilogue.
///
/// # Panics
/// If no epilogue has this name.
pub fn epilogue(name: &str) -> u32 {
    number(EPILOGUES, name)
}

/// The number of a type of weights.
///
/// # Panics
/// If no type has this name.
pub fn weights(name: &str) -> u32 {
    number(WEIGHTS, name)
}

/// The number of a precision of products.
///
/// # Panics
/// If none has this name.
pub fn precision(name: &str) -> u32 {
    number(PRECISIONS, name)
}

/// The number of a size of cooperative matrices.
///
/// # Panics
/// If none has this name.
pub fn matrices(name: &str) -> u32 {
    number(MATRICES, name)
}

fn number(table: &[(&str, &str)], name: &str) -> u32 {
    let found = table.iter().position(|(key, _)| *key == name);
    found.unwrap_or_else(|| panic!("no import is named `{name}`")) as u32
}

/// The values that a constant may have.
#[derive(Clone, Copy, Debug)]
enum Values {
    /// One of these.
    OneOf(&'static [u32]),
    /// Any size that a model or a device may have, such as these.
    SuchAs(&'static [u32]),
}

/// The constants that kernels may replace. [`all`] builds every shader with all of these values.
const CONSTANTS: &[(&str, Values)] = &[
    ("ACTIVATION", Values::OneOf(&[0, 1])),
    ("CHUNK", Values::OneOf(&[4096])),
    ("COLUMNS", Values::OneOf(&[1, 2])),
    ("DIVERGENCE", Values::OneOf(&[0, 1, 2])),
    ("EPILOGUE", Values::OneOf(&[0, 1, 2, 3])),
    // A single element, a partial vector of four, whole vectors, sizes in use, and more than a subgroup.
    ("HEAD_DIM", Values::SuchAs(&[1, 5, 8, 16, 32, 64, 72, 128])),
    ("LOG_PROB", Values::OneOf(&[0, 1])),
    ("MATRICES", Values::OneOf(&[0, 1])),
    ("OBJECTIVE", Values::OneOf(&[0, 1, 2, 3, 4])),
    ("OUTPUTS", Values::OneOf(&[4, 8, 16])),
    ("PACKED", Values::OneOf(&[0, 1])),
    ("PIXELS", Values::OneOf(&[1, 2, 4])),
    ("PRECISION", Values::OneOf(&[0, 1, 2])),
    ("RAW", Values::OneOf(&[0, 1])),
    ("ROWS", Values::OneOf(&[4, 8, 16])),
    ("SUBGROUP", Values::SuchAs(&[4, 8, 16, 32, 64])),
    ("WEIGHTS", Values::OneOf(&[0, 1, 2])),
];

/// Whether a line of WGSL defines this constant.
fn defines(line: &str, constant: &str) -> bool {
    line.strip_prefix("const ")
        .and_then(|rest| rest.strip_prefix(constant))
        .is_some_and(|rest| rest.starts_with(": u32 ="))
}

/// The text of a shader with its imports resolved and the constants replaced.
///
/// # Panics
/// If the shader, an import or a constant does not exist, or [`CONSTANTS`] does not allow the value: a bug
/// in this program, which any test of the kernel finds.
pub fn source(name: &str, constants: &[(&'static str, u32)]) -> String {
    let text = find(PIPELINES, name).unwrap_or_else(|| panic!("no shader is named `{name}`"));
    for (constant, value) in constants {
        let known = CONSTANTS.iter().any(|(key, values)| match values {
            Values::OneOf(values) => key == constant && values.contains(value),
            Values::SuchAs(_) => key == constant,
        });
        assert!(known, "{name}.wgsl with {constant} = {value} is not among the tested constants");
    }
    let mut out = String::with_capacity(2 * text.len());
    let used = expand(name, text, constants, &mut out);
    assert_eq!(used, constants.len(), "{name}.wgsl lacks one of the constants {constants:?}");
    with_directives_first(out)
}

/// The text with its `enable` directives at the top, each once.
fn with_directives_first(text: String) -> String {
    if !text.lines().any(is_directive) {
        return text;
    }
    let directives: BTreeSet<&str> = text.lines().filter(|line| is_directive(line)).collect();
    let lines = directives.into_iter().chain(text.lines().filter(|line| !is_directive(line)));
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn is_directive(line: &str) -> bool {
    line.starts_with("enable ")
}

fn find(table: &[(&'static str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(key, _)| *key == name).map(|(_, text)| *text)
}

/// Appends a text with its imports resolved recursively; returns the number of constants replaced.
fn expand(name: &str, text: &str, constants: &[(&'static str, u32)], out: &mut String) -> usize {
    let mut used = 0;
    for line in text.lines() {
        if let Some(import) = line.strip_prefix("//!import ") {
            let numbered = |table: &[(&str, &'static str)], constant: &str| {
                let number = constants.iter().find(|(key, _)| *key == constant);
                table[number.map_or(0, |(_, number)| *number as usize)].1
            };
            let imported = match import.trim() {
                "epilogue" => numbered(EPILOGUES, "EPILOGUE"),
                "weights" => numbered(WEIGHTS, "WEIGHTS"),
                "weights_vec4" => numbered(WEIGHTS_VEC4, "WEIGHTS"),
                "precision" => numbered(PRECISIONS, "PRECISION"),
                "matrices" => numbered(MATRICES, "MATRICES"),
                "pack" => numbered(PACKS, "PACKED"),
                import => find(SHARED, import).unwrap_or_else(|| panic!("{name}.wgsl imports `{import}`")),
            };
            used += expand(name, imported, constants, out);
            continue;
        }
        let replaced = constants.iter().find(|(constant, _)| defines(line, constant));
        used += usize::from(replaced.is_some());
        out.push_str(&match replaced {
            Some((constant, value)) => Cow::Owned(format!("const {constant}: u32 = {value}u;")),
            None => Cow::Borrowed(line),
        });
        out.push('\n');
    }
    used
}

/// The name and text of every pipeline with every combination of its constants, for tests that compile all of
/// them.
pub fn all() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, text) in PIPELINES {
        let mut variants = vec![((*name).to_owned(), Vec::new())];
        for (constant, values) in CONSTANTS {
            if !text.lines().any(|line| defines(line, constant)) {
                continue;
            }
            let (Values::OneOf(values) | Values::SuchAs(values)) = values;
            let mut longer = Vec::new();
            for (label, constants) in &variants {
                for value in *values {
                    let constants = [constants.as_slice(), &[(*constant, *value)]].concat();
                    longer.push((format!("{label}.{constant}={value}"), constants));
                }
            }
            variants = longer;
        }
        found.extend(variants.into_iter().map(|(label, constants)| (label, source(name, &constants))));
    }
    found
}
