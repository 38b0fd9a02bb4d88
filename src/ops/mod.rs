//! One op, one name, one place: `shaders/NAME.wgsl`, `src/ops/NAME.rs` (shape rule, gradient, dispatch and
//! f64 twin) and its tests carry the same name.

mod activation;
mod add;
mod add_broadcast;
mod copy_columns;
mod embedding;
mod gated_residual;
mod guidance;
mod layer_norm;
mod matmul;
mod patchify;
mod scale;
mod sum_rows;
mod time_features;

pub use activation::Activation;
pub use add::{Accumulate, Add};
pub use add_broadcast::AddBroadcast;
pub use copy_columns::{Join, Split};
pub use embedding::Embedding;
pub use gated_residual::GatedResidual;
pub use guidance::Guidance;
pub use layer_norm::LayerNorm;
pub use matmul::{MatMul, linear};
pub use patchify::{Patches, Patchify, Unpatchify};
pub use scale::Scale;
pub use sum_rows::SumRows;
pub use time_features::{TimeFeatures, time_frequencies};

use crate::gpu::{Dispatch, Kernel, grid_1d};
use crate::graph::Binding;

/// Invocations of a workgroup in kernels that give every element, row or tile an invocation of its own.
const WORKGROUP: u64 = 64;

/// A dispatch in which `invocations` work independently of each other; the shader guards the remainder.
fn independent(
    kernel: Kernel,
    reads: &[Binding],
    writes: &[Binding],
    params: Vec<u32>,
    invocations: usize,
) -> Dispatch<Binding> {
    let grid = grid_1d((invocations as u64).div_ceil(WORKGROUP));
    Dispatch { kernel, reads: reads.to_vec(), writes: writes.to_vec(), params, grid }
}

/// A size as a shader parameter.
fn word(size: usize) -> u32 {
    u32::try_from(size).expect("tensors have fewer than 2^32 elements, as a buffer has at most 4 GiB")
}
