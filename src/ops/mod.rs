//! One op, one name, one place: `shaders/NAME.wgsl`, `src/ops/NAME.rs` (shape rule, gradient, dispatch and
//! f64 twin) and its tests carry the same name.

mod add;
mod attention;
mod matmul;
mod sum_rows;

pub use add::{Accumulate, Add};
pub use attention::{Attention, AttentionBackward};
pub use matmul::{MatMul, linear};
pub use sum_rows::SumRows;

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
