//! Attention with what text encoders need: a causal mask, a bias of the logits, masked keys, any scale. Forward only.

use super::{word, workgroup_a_row};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DType, DeviceProfile, Op, Shapes};

/// `softmax(scale · q·kᵀ + bias)·v` for every head.
///
/// Inputs `q [batches · queries, H·d]`, `k` and `v [batches · keys, H·d]`, with the heads side by side; then, if
/// the op has them, `bias [H, queries, keys]` and `mask [batches, keys]` (u32; 0 hides a key from all queries of its
/// sample). Output `o [batches · queries, H·d]`. A query that sees no key gets zeros.
#[derive(Clone, Copy, Debug)]
pub struct AttentionBias {
    /// Number of samples that the rows are split into.
    pub batches: usize,
    /// H, the number of heads, each of at most [`AttentionBias::MAX_HEAD_DIM`] elements.
    pub num_heads: usize,
    /// Factor of the products: 1/sqrt(d) in most networks, 1 in T5.
    pub scale: f32,
    /// Query i sees only keys 0 to i; there are as many queries as keys.
    pub causal: bool,
    /// Whether there is an input with biases.
    pub has_bias: bool,
    /// Whether there is an input that masks keys.
    pub has_mask: bool,
}

/// Sizes of one attention.
#[derive(Clone, Copy)]
struct Geometry {
    queries: usize,
    keys: usize,
    width: usize,
    head_dim: usize,
}

impl AttentionBias {
    /// The largest head that the kernel has registers for.
    pub const MAX_HEAD_DIM: usize = 256;

    /// Attention without a mask or bias, scaled by 1/sqrt(d).
    pub fn plain(batches: usize, num_heads: usize, head_dim: usize) -> Self {
        let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
        Self { batches, num_heads, scale, causal: false, has_bias: false, has_mask: false }
    }

    fn geometry(&self, q: &[usize], k: &[usize]) -> Geometry {
        let [width, of_k] = [q, k].map(|shape| shape[shape.len() - 1]);
        let [queries, keys] = [q, k].map(|shape| shape.iter().product::<usize>() / width / self.batches);
        assert_eq!(width, of_k, "q and k have the same heads");
        assert_eq!(width % self.num_heads, 0, "{width} columns must split into {} heads", self.num_heads);
        Geometry { queries, keys, width, head_dim: width / self.num_heads }
    }
}

shader_struct! {
    pub(super) struct AttentionBiasParams {
        batches: u32,
        queries: u32,
        keys: u32,
        heads: u32,
        head_dim: u32,
        causal: u32,
        has_bias: u32,
        has_mask: u32,
        scale: f32,
    }
}

impl Op for AttentionBias {
    fn name(&self) -> &'static str {
        "attention_bias"
    }

    fn input_type(&self, index: usize) -> DType {
        if self.has_mask && index == 3 + usize::from(self.has_bias) { DType::U32 } else { DType::F32 }
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let geometry = self.geometry(inputs[0], inputs[1]);
        assert_eq!(inputs[1], inputs[2], "every key has a value");
        assert!(geometry.head_dim <= Self::MAX_HEAD_DIM, "a head of {} elements is too large", geometry.head_dim);
        assert!(!self.causal || geometry.queries == geometry.keys, "a causal mask needs as many queries as keys");
        let mut others = inputs[3..].iter();
        if self.has_bias {
            assert_eq!(
                others.next(),
                Some(&&[self.num_heads, geometry.queries, geometry.keys][..]),
                "shape of the bias"
            );
        }
        if self.has_mask {
            assert_eq!(others.next(), Some(&&[self.batches, geometry.keys][..]), "shape of the mask");
        }
        vec![inputs[0].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let geometry = self.geometry(shapes.inputs[0], shapes.inputs[1]);
        let params = AttentionBiasParams {
            batches: word(self.batches),
            queries: word(geometry.queries),
            keys: word(geometry.keys),
            heads: word(self.num_heads),
            head_dim: word(geometry.head_dim),
            causal: self.causal.into(),
            has_bias: self.has_bias.into(),
            has_mask: self.has_mask.into(),
            scale: self.scale,
        };
        // A missing input is not read; the query is bound in its place.
        let bias = Binding::Input(if self.has_bias { 3 } else { 0 });
        let mask = Binding::Input(if self.has_mask { 3 + usize::from(self.has_bias) } else { 0 });
        let reads = [Binding::Input(0), Binding::Input(1), Binding::Input(2), bias, mask];
        let rows = self.batches * self.num_heads * geometry.queries;
        vec![workgroup_a_row(Kernel::new("attention_bias"), &reads, &[Binding::Output(0)], &params, rows)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let geometry = self.geometry(shapes.inputs[0], shapes.inputs[1]);
        let [q, k, v] = [inputs[0], inputs[1], inputs[2]];
        let bias = self.has_bias.then(|| inputs[3]);
        let mask = self.has_mask.then(|| inputs[3 + usize::from(self.has_bias)]);
        let mut o = vec![0.0; q.len()];
        for (row, o) in o.chunks_mut(geometry.head_dim).enumerate() {
            let (head, query) = (row % self.num_heads, row / self.num_heads % geometry.queries);
            let batch = row / self.num_heads / geometry.queries;
            let at = |key: usize| (batch * geometry.keys + key) * geometry.width + head * geometry.head_dim;
            let is_seen = |key: &usize| {
                (!self.causal || *key <= query) && mask.is_none_or(|mask| mask[batch * geometry.keys + key] != 0.0)
            };
            let logit = |key: usize| {
                let products = (0..geometry.head_dim).map(|c| q[row * geometry.head_dim + c] * k[at(key) + c]);
                let bias = bias.map_or(0.0, |bias| bias[(head * geometry.queries + query) * geometry.keys + key]);
                (key, f64::from(self.scale) * products.sum::<f64>() + bias)
            };
            let logits: Vec<(usize, f64)> = (0..geometry.keys).filter(is_seen).map(logit).collect();
            let largest = logits.iter().map(|(_, logit)| *logit).fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logits.iter().map(|(_, logit)| (logit - largest).exp()).sum();
            for (key, logit) in logits {
                for (c, o) in o.iter_mut().enumerate() {
                    *o += (logit - largest).exp() / total * v[at(key) + c];
                }
            }
        }
        vec![o]
    }

    fn flops(&self, shapes: &Shapes<'_>) -> u64 {
        let geometry = self.geometry(shapes.inputs[0], shapes.inputs[1]);
        4 * (self.batches * geometry.queries * geometry.keys * geometry.width) as u64
    }
}
