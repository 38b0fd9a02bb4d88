//! Standard normals drawn on the device.

use super::{independent, word};
use crate::flow::noise::{NoiseKey, normals};
use crate::gpu::{Dispatch, Kernel, ShaderStruct, shader_struct};
use crate::graph::{Binding, DType, DeviceProfile, Op, Shapes};

/// The noise of [`crate::flow::noise`]: [`NoiseWords`] `[R, 5]` to `[R, row_shape..]` f32.
///
/// A row is a function only of its key. Words are the same on every device, and normals differ only by f32
/// rounding, because their logarithm, sine and cosine are not the driver's.
#[derive(Clone, Debug)]
pub struct PhiloxNormal {
    /// Shape of the noise for one key.
    pub row_shape: Vec<usize>,
    /// Whether to return the random words (u32) instead of normals.
    pub raw: bool,
}

shader_struct! {
    /// A [`NoiseKey`] as shaders take it.
    #[derive(PartialEq, Eq)]
    pub struct NoiseWords {
        /// Low half of the seed.
        pub seed_low: u32,
        /// High half of the seed.
        pub seed_high: u32,
        /// The key's rollout.
        pub rollout: u32,
        /// The key's sample.
        pub sample: u32,
        /// The key's step.
        pub step: u32,
    }
}

impl From<NoiseKey> for NoiseWords {
    fn from(NoiseKey { seed, rollout, sample, step }: NoiseKey) -> Self {
        Self { seed_low: seed as u32, seed_high: (seed >> 32) as u32, rollout, sample, step }
    }
}

impl From<NoiseWords> for NoiseKey {
    fn from(NoiseWords { seed_low, seed_high, rollout, sample, step }: NoiseWords) -> Self {
        Self { seed: u64::from(seed_low) | u64::from(seed_high) << 32, rollout, sample, step }
    }
}

impl PhiloxNormal {
    /// Standard normals.
    pub fn new(row_shape: &[usize]) -> Self {
        Self { row_shape: row_shape.to_vec(), raw: false }
    }

    fn columns(&self) -> usize {
        self.row_shape.iter().product()
    }
}

shader_struct! {
    pub(super) struct PhiloxNormalParams {
        rows: u32,
        columns: u32,
        blocks: u32,
    }
}

impl Op for PhiloxNormal {
    fn name(&self) -> &'static str {
        "philox_normal"
    }

    fn input_type(&self, _: usize) -> DType {
        DType::U32
    }

    fn output_type(&self, _: usize) -> DType {
        if self.raw { DType::U32 } else { DType::F32 }
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(inputs[0][1..], [NoiseWords::WORDS], "each row needs a key");
        vec![[&inputs[0][..1], &self.row_shape].concat()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (rows, columns) = (shapes.inputs[0][0], self.columns());
        let blocks = columns.div_ceil(4);
        let kernel = Kernel::new("philox_normal").with("RAW", u32::from(self.raw));
        let params = PhiloxNormalParams { rows: word(rows), columns: word(columns), blocks: word(blocks) };
        vec![independent(kernel, &[Binding::Input(0)], &[Binding::Output(0)], &params, rows * blocks)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let columns = self.columns();
        let row = |words: &[f64]| {
            let words: [u32; NoiseWords::WORDS] = std::array::from_fn(|index| words[index] as u32);
            let key = NoiseKey::from(bytemuck::cast::<_, NoiseWords>(words));
            if self.raw {
                (0_u32..).flat_map(|block| key.block(block)).map(f64::from).take(columns).collect()
            } else {
                normals(key, columns)
            }
        };
        vec![inputs[0].chunks(NoiseWords::WORDS).flat_map(row).collect()]
    }
}
