//! The shaders, as text: one file a pipeline, compiled into the binary.
//!
//! Two small mechanisms keep every file readable as plain WGSL:
//! - a line `//!import NAME` is replaced by `shaders/shared/NAME.wgsl`;
//! - a line `const NAME: u32 = 8u;` is a default that a [`Kernel`](super::Kernel) may replace, for
//!   what WGSL cannot size at pipeline creation (arrays in registers).

use std::borrow::Cow;

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
    "attention",
    "attention_backward_key_value",
    "attention_backward_key_value_subgroup",
    "attention_backward_query",
    "attention_backward_query_subgroup",
    "attention_subgroup",
    "copy_columns",
    "cross_entropy",
    "cross_entropy_backward",
    "ema",
    "embedding",
    "embedding_backward",
    "fill",
    "gated_residual",
    "gated_residual_backward",
    "gated_residual_backward_gate",
    "gelu",
    "gelu_backward",
    "guidance",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_backward_modulation",
    "matmul_register",
    "matmul_subgroup",
    "matmul_tiled",
    "mean_squared_error",
    "mean_squared_error_backward",
    "patchify",
    "philox_normal",
    "policy_objective",
    "policy_objective_backward",
    "policy_stats",
    "policy_stats_backward",
    "sampler_step",
    "scale",
    "silu",
    "silu_backward",
    "sum_rows",
    "sum_squares",
    "sum_squares_finish",
    "time_features",
    "unpatchify",
];

/// `(name, text)` of what pipelines import.
const SHARED: &[(&str, &str)] = shaders!["shared/":
    "block_sum",
    "cos_sin",
    "gelu_tanh",
    "grid",
    "matmul",
    "non_finite",
    "patch_index",
    "philox",
    "sigmoid",
];

/// The text of a shader with its imports in place and the constants replaced.
///
/// # Panics
/// If the shader, an import or a constant does not exist: a mistake in this program, found by any test
/// that touches the kernel.
pub fn source(name: &str, constants: &[(&'static str, u32)]) -> String {
    let find = |table: &[(&'static str, &'static str)], name: &str| {
        table.iter().find(|(key, _)| *key == name).map(|(_, text)| *text)
    };
    let text = find(PIPELINES, name).unwrap_or_else(|| panic!("no shader is called `{name}`"));
    let mut used = 0;
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        if let Some(import) = line.strip_prefix("//!import ") {
            out.push_str(find(SHARED, import.trim()).unwrap_or_else(|| panic!("{name}.wgsl imports `{import}`")));
        } else {
            let replaced = constants.iter().find(|(constant, _)| line.starts_with(&format!("const {constant}: u32 =")));
            used += usize::from(replaced.is_some());
            out.push_str(&match replaced {
                Some((constant, value)) => Cow::Owned(format!("const {constant}: u32 = {value}u;")),
                None => Cow::Borrowed(line),
            });
        }
        out.push('\n');
    }
    assert_eq!(used, constants.len(), "{name}.wgsl lacks one of the constants {constants:?}");
    out
}

/// Every pipeline's name and text with its default constants, for tests that translate them all.
pub fn all() -> Vec<(String, String)> {
    PIPELINES.iter().map(|(name, _)| ((*name).to_owned(), source(name, &[]))).collect()
}
