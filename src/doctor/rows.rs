//! Whether the bits of a row depend on the other rows, for every variant of a kernel that can be forced. Flow-DPPO relies
//! on it: the ratio of a fresh sample is exactly 1 in any batch.

use std::sync::Arc;

use serde::Serialize;

use super::ops::{attention, rms_norm};
use super::{Row, Work};
use crate::bench::cases::{Case, Types, conv2d, layer_norm, matmul_d_x, matmul_of};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{DType, DeviceProfile, Tensor};
use crate::ops::{self, Conv2d};

/// More than the 64 rows of the largest tile.
const ROWS: usize = 67;

/// One row, some rows, and a tile with the first row of the next.
const FEWER: [usize; 3] = [1, 5, 65];

/// A variant of kernels, and whether its rows are independent.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CheckedVariant {
    /// The name that `FLOWDPPO_KERNEL` takes, or "as chosen".
    pub(super) name: &'static str,
    pub(super) passed: bool,
    /// Ops and shapes that it was tried with.
    pub(super) cases: usize,
    /// What depends on what, or why there is nothing to try.
    pub(super) detail: String,
}

/// Ops whose inputs and kept results have a row, or a sample, per first index, or are weights. Of the matrix products one
/// has odd sizes, and the others are read four elements at a time.
fn cases(rows: usize) -> [Case; 10] {
    [
        matmul_of(DType::F32, [rows, 37, 45]),
        matmul_of(DType::F32, [rows, 132, 64]),
        matmul_of(DType::F16, [rows, 66, 40]),
        matmul_of(DType::Q8_0, [rows, 68, 96]),
        matmul_d_x(DType::F32, [rows, 40, 36]),
        matmul_of(Types { precision: DType::F16, ..DType::F32.into() }, [rows, 132, 64]),
        attention([rows, 17, 3, 8]),
        conv2d(Conv2d::same(3), [rows, 17, 36, 7]),
        layer_norm(true, [rows, 9, 68]),
        rms_norm(&[rows, 9, 136], 68, false),
    ]
}

pub(super) fn run(work: &mut Work<'_>) -> Result<()> {
    let variants: Vec<Option<&'static str>> = [None].into_iter().chain(ops::variants().map(Some)).collect();
    for (index, variant) in variants.iter().enumerate() {
        if !work.has_time(variants.len() - index) {
            break;
        }
        let found = match check(&work.gpu, *variant) {
            Err(cause @ Error::DeviceLost(_)) => return Err(cause),
            found => found,
        };
        let name = variant.unwrap_or("as chosen");
        let row = match found {
            Ok(0) => CheckedVariant { name, passed: true, cases: 0, detail: "this device cannot run it".into() },
            Ok(cases) => CheckedVariant { name, passed: true, cases, detail: String::new() },
            Err(cause) => CheckedVariant { name, passed: false, cases: 0, detail: cause.to_string() },
        };
        work.rows.push(Row::Variant(row));
    }
    Ok(())
}

/// In how many cases the rows of a variant are independent.
fn check(gpu: &Arc<Gpu>, variant: Option<&str>) -> Result<usize> {
    let profile = DeviceProfile::of(gpu);
    let forced = variant.map(str::to_owned).or_else(|| profile.forced.clone());
    let profile = DeviceProfile { forced, ..profile };
    let mut count = 0;
    for (index, case) in cases(ROWS).iter().enumerate() {
        if variant.is_some_and(|variant| !has(case, &profile, variant)) {
            continue;
        }
        let all = results(gpu, &profile, case)?;
        for rows in FEWER {
            for (few, all) in results(gpu, &profile, &cases(rows)[index])?.iter().zip(&all) {
                if few[..] != all[..few.len()] {
                    return Err(Error::failed(format!("{}: {rows} rows have other bits alone", case.name)));
                }
            }
        }
        count += 1;
    }
    Ok(count)
}

/// Whether an op of a case has this variant on the device.
fn has(case: &Case, profile: &DeviceProfile, variant: &str) -> bool {
    case.graph.nodes().iter().any(|node| {
        let choice = node.op.choice(&case.graph.shapes(node), profile);
        choice.is_some_and(|choice| choice.kernels.contains(&variant))
    })
}

/// The bits of every kept result.
fn results(gpu: &Arc<Gpu>, profile: &DeviceProfile, case: &Case) -> Result<Vec<Vec<u32>>> {
    let mut plan = case.bind_as(gpu, profile)?;
    plan.run()?;
    let kept = case.tensors().into_iter().filter(|tensor: &Tensor| case.graph.is_kept(*tensor));
    kept.map(|tensor| plan.read(&[tensor])).collect()
}
