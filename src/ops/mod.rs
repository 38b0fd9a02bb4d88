//! The ops. An op has the same name everywhere: in `shaders/NAME.wgsl`, in `src/ops/NAME.rs` (shape rule, gradient,
//! dispatch and f64 twin) and in its tests.

mod activation;
mod adamw;
mod add;
mod add_broadcast;
mod affine_norm;
mod attention;
mod attention_bias;
mod conv2d;
mod copy_columns;
mod copy_tokens;
mod cross_entropy;
mod embedding;
mod gated_activation;
mod gated_residual;
mod group_norm;
mod guidance;
mod half_precision;
mod layer_norm;
mod matmul;
mod matmul_joined;
mod mean_squared_error;
mod nft_loss;
mod patchify;
mod philox_normal;
mod policy_objective;
mod policy_stats;
mod rms_norm;
mod rope;
mod sampler_step;
mod scale;
mod softmax_rows;
mod sum_rows;
mod sum_squares;
mod time_features;
mod velocity_of_data;

pub use activation::Activation;
pub use adamw::{AdamW, AdamWSettings, AdamWStep, Optimized};
pub use add::{Accumulate, Add};
pub use add_broadcast::AddBroadcast;
pub use affine_norm::AffineNorm;
pub use attention::{Attention, AttentionBackward};
pub use attention_bias::AttentionBias;
pub use conv2d::{Conv2d, conv2d_weight};
pub use copy_columns::{Join, Split};
pub use copy_tokens::{JoinTokens, SplitTokens, TokenParts, join_tokens};
pub use cross_entropy::{CrossEntropy, cross_entropy};
pub use embedding::Embedding;
pub use gated_activation::GatedActivation;
pub use gated_residual::GatedResidual;
pub use group_norm::GroupNorm;
pub use guidance::Guidance;
pub use half_precision::{FromHalf, HalfRange, ToHalf};
pub use layer_norm::LayerNorm;
pub use matmul::{MatMul, linear, linear_in};
pub use mean_squared_error::{MeanSquaredError, mean_squared_error};
pub use nft_loss::{NftLoss, NftSettings};
pub use patchify::{Patches, Patchify, Unpatchify};
pub use philox_normal::{NoiseWords, PhiloxNormal};
pub use policy_objective::{Outcome, OutcomeTwin, PolicyObjective, PolicySettings};
pub use policy_stats::{PolicyStats, policy_stats};
pub use rms_norm::RmsNorm;
pub use rope::{Rope, rope_table, rope_table_2d};
pub use sampler_step::{SamplerRow, SamplerStep, sampler_step};
pub use scale::Scale;
pub use softmax_rows::SoftmaxRows;
pub use sum_rows::SumRows;
pub use sum_squares::{SumSquares, Summed, sum_squares, sum_squares_of};
pub use time_features::{TimeFeatures, time_frequencies};
pub use velocity_of_data::VelocityOfData;

use crate::error::{Error, Result};
use crate::gpu::{Dispatch, Kernel, Params, ShaderStruct, StructLayout, grid_1d, shader_struct};
use crate::graph::{Binding, DeviceProfile};

/// Every variant that `FLOWDPPO_KERNEL` can force.
pub fn variants() -> impl Iterator<Item = &'static str> {
    let matmul = matmul::KERNELS.iter().map(|(name, _)| *name);
    matmul.chain(attention::KERNELS).chain(conv2d::KERNELS).chain(layer_norm::KERNELS).chain(rms_norm::KERNELS)
}

/// Checks the name in `FLOWDPPO_KERNEL`, which forces a variant in every op that has one of that name.
///
/// # Errors
/// [`Error::Input`] with all names if it is unknown.
pub fn check_forced() -> Result<()> {
    match std::env::var("FLOWDPPO_KERNEL") {
        Ok(name) if !name.is_empty() && !variants().any(|variant| variant == name) => Err(Error::input(format!(
            "FLOWDPPO_KERNEL={name} is not a variant of a kernel: it must be {}, or not set",
            variants().collect::<Vec<_>>().join(", ")
        ))),
        _ => Ok(()),
    }
}

/// Every struct that ops share with their shaders, for the test that compares them.
#[doc(hidden)]
pub fn layouts() -> Vec<StructLayout> {
    vec![
        ElementsParams::LAYOUT,
        RowsColumnsParams::LAYOUT,
        ElementsColumnsParams::LAYOUT,
        SumPairsParams::LAYOUT,
        adamw::AdamWStep::LAYOUT,
        add_broadcast::AddBroadcastParams::LAYOUT,
        affine_norm::AffineNormParams::LAYOUT,
        attention::AttentionParams::LAYOUT,
        attention_bias::AttentionBiasParams::LAYOUT,
        conv2d::Conv2dParams::LAYOUT,
        copy_columns::CopyColumnsParams::LAYOUT,
        copy_tokens::CopyTokensParams::LAYOUT,
        cross_entropy::CrossEntropyParams::LAYOUT,
        cross_entropy::CrossEntropyBackwardParams::LAYOUT,
        embedding::EmbeddingParams::LAYOUT,
        embedding::EmbeddingBackwardParams::LAYOUT,
        gated_activation::GatedActivationBackwardParams::LAYOUT,
        gated_residual::GatedResidualParams::LAYOUT,
        group_norm::GroupNormParams::LAYOUT,
        group_norm::GroupNormPartialParams::LAYOUT,
        group_norm::GroupNormStatsParams::LAYOUT,
        guidance::GuidanceParams::LAYOUT,
        half_precision::ToHalfParams::LAYOUT,
        layer_norm::LayerNormParams::LAYOUT,
        layer_norm::LayerNormBackwardModulationParams::LAYOUT,
        matmul::MatMulParams::LAYOUT,
        nft_loss::NftSettings::LAYOUT,
        patchify::PatchifyParams::LAYOUT,
        philox_normal::NoiseWords::LAYOUT,
        philox_normal::PhiloxNormalParams::LAYOUT,
        policy_objective::Outcome::LAYOUT,
        policy_objective::PolicyObjectiveParams::LAYOUT,
        policy_objective::PolicySettings::LAYOUT,
        policy_stats::PolicyStatsParams::LAYOUT,
        rms_norm::RmsNormParams::LAYOUT,
        rope::RopeParams::LAYOUT,
        sampler_step::SamplerRow::LAYOUT,
        scale::ScaleParams::LAYOUT,
        softmax_rows::SoftmaxRowsParams::LAYOUT,
        sum_rows::RowSumsParams::LAYOUT,
        sum_rows::SumRowsParams::LAYOUT,
        sum_squares::SumSquaresParams::LAYOUT,
        time_features::TimeFeaturesParams::LAYOUT,
        velocity_of_data::VelocityOfDataParams::LAYOUT,
        velocity_of_data::VelocityOfDataBackwardParams::LAYOUT,
    ]
}

/// Invocations per workgroup in kernels with one invocation per element, row or tile.
const WORKGROUP: u64 = 64;

/// The same in kernels that do little more than read and write: few, large workgroups.
const LARGE_WORKGROUP: u64 = 256;

/// A dispatch of `invocations` that work independently of each other; the shader guards the remainder.
fn independent(
    kernel: Kernel,
    reads: &[Binding],
    writes: &[Binding],
    params: &impl ShaderStruct,
    invocations: usize,
) -> Dispatch<Binding> {
    let grid = grid_1d((invocations as u64).div_ceil(WORKGROUP));
    Dispatch { kernel, reads: reads.to_vec(), writes: writes.to_vec(), params: Params::of(params), grid }
}

/// A dispatch over `elements` in rows of `columns`, of a kernel with the constant `PACKED`: its invocations have four
/// elements each if rows consist of whole vectors, or else one. Both compute the same. GPUs load vectors faster, and
/// software drivers spend most of the time of such a kernel on invocations.
fn by_element(
    kernel: Kernel,
    [reads, writes]: [&[Binding]; 2],
    params: &impl ShaderStruct,
    [elements, columns]: [usize; 2],
) -> Dispatch<Binding> {
    let packed = columns.is_multiple_of(4);
    let packs = if packed { elements / 4 } else { elements };
    let grid = grid_1d((packs as u64).div_ceil(LARGE_WORKGROUP));
    let (reads, writes) = (reads.to_vec(), writes.to_vec());
    Dispatch { kernel: kernel.with("PACKED", packed.into()), reads, writes, params: Params::of(params), grid }
}

/// The number of elements of a tensor, and the length of its rows. One dimension may be that of the rows: they then have
/// one element each.
fn elements_and_columns(shape: &[usize]) -> [usize; 2] {
    [shape.iter().product(), if shape.len() > 1 { shape[shape.len() - 1] } else { 1 }]
}

/// A dispatch with one workgroup per row; the shader guards the remainder.
fn workgroup_a_row(
    kernel: Kernel,
    reads: &[Binding],
    writes: &[Binding],
    params: &impl ShaderStruct,
    rows: usize,
) -> Dispatch<Binding> {
    let grid = grid_1d(rows as u64);
    Dispatch { kernel, reads: reads.to_vec(), writes: writes.to_vec(), params: Params::of(params), grid }
}

shader_struct! {
    /// Of kernels with one invocation per element.
    struct ElementsParams {
        elements: u32,
    }
}

impl ElementsParams {
    fn of(elements: usize) -> Self {
        Self { elements: word(elements) }
    }
}

shader_struct! {
    /// Of kernels that work on whole rows.
    struct RowsColumnsParams {
        rows: u32,
        columns: u32,
    }
}

impl RowsColumnsParams {
    fn of(rows: usize, columns: usize) -> Self {
        Self { rows: word(rows), columns: word(columns) }
    }
}

shader_struct! {
    /// Of kernels with one invocation per element that read something of its row, too.
    struct ElementsColumnsParams {
        elements: u32,
        columns: u32,
    }
}

impl ElementsColumnsParams {
    fn of(elements: usize, columns: usize) -> Self {
        Self { elements: word(elements), columns: word(columns) }
    }
}

shader_struct! {
    struct SumPairsParams {
        rows: u32,
        chunks: u32,
    }
}

/// A dispatch that adds up the pairs `[rows, chunks, 2]` of each row's chunks to `[rows, 2]`.
fn sum_pairs(partial: Binding, totals: Binding, rows: usize, chunks: usize) -> Dispatch<Binding> {
    let params = SumPairsParams { rows: word(rows), chunks: word(chunks) };
    workgroup_a_row(Kernel::new("sum_pairs"), &[partial], &[totals], &params, rows)
}

/// Whether a kernel should read rows of `columns` columns four elements at a time: GPUs load vectors
/// faster, CPU drivers do not.
fn takes_vectors(columns: usize, profile: &DeviceProfile) -> bool {
    !profile.cpu && columns.is_multiple_of(4)
}

/// A shape as (rows, columns): all dimensions but the first belong to the row.
fn rows_and_columns(shape: &[usize]) -> (usize, usize) {
    (shape[0], shape[1..].iter().product())
}

/// A size as a shader parameter. A size of more than 32 bits belongs to a tensor that no device can allocate: binding
/// it fails, so the value used here is never read.
fn word(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
