//! The only layer that uses wgpu: adapters, the device, buffers, pipelines, submission, timing.
//!
//! Everything above it works with [`Buffer`]s, [`Dispatch`]es and [`Command`]s.

mod adapter;
mod device;
mod layout;
mod pending;
mod pipeline;
mod pipeline_cache;
mod profiler;
pub mod shader;
mod submission;
mod timing;
mod tuning;
mod waiting;
mod workspace;

#[cfg(not(target_arch = "wasm32"))]
pub use adapter::adapters;
pub use adapter::{AdapterDescription, DeviceKind, LimitsMode, Matrices, Options};
pub use device::{Buffer, Counters, Gpu, Submitted};
#[doc(hidden)]
pub use layout::Member;
pub use layout::{Params, ShaderStruct, StructLayout};
pub(crate) use layout::{shader_struct, shader_struct_with_twin};
pub use pending::SUBMISSION_BUDGET;
pub use pipeline::{BoundDispatch, Dispatch, Kernel, PARAMS_STRIDE, Region, grid_1d};
pub use profiler::{Event, ITERATION, Phase, Profiler, Recording, Totals, Work};
pub use submission::{Command, STAGING_BYTES, Throttle};
pub use timing::Timing;
pub use tuning::Tuning;
pub use workspace::Workspace;
