//! Self-attention over all heads at once, without a matrix of probabilities in memory.

use super::{WORKGROUP, word, workgroup_a_row};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, Choice, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// `softmax(q·kᵀ / sqrt(d))·v` for every head.
///
/// Input `qkv [B, T, 3·H·d]`, the last dimension ordered (3, H, d): the result of one projection for
/// queries, keys and values. Outputs: `o [B, T, H·d]`, the heads side by side, and
/// `logsumexp [B, H, T]` of each row of `q·kᵀ / sqrt(d)`, for the backward pass. Gradients flow only
/// through `o`.
///
/// Online softmax over the keys in increasing order (FlashAttention, arXiv 2205.14135): memory grows with T,
/// not with T², and a row's bits do not depend on the batch size.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// H, the number of heads.
    pub num_heads: usize,
}

/// The gradient of [`Attention`]. Inputs `qkv`, `o`, `logsumexp` and `d_o`; outputs `d_qkv` and, as
/// scratch, `delta [B, H, T]`, the dot products of `d_o` and `o` by row and head.
#[derive(Clone, Copy, Debug)]
pub struct AttentionBackward {
    /// H, the number of heads.
    pub num_heads: usize,
}

shader_struct! {
    pub(super) struct AttentionParams {
        batches: u32,
        tokens: u32,
        heads: u32,
        blocks: u32,
        scale: f32,
    }
}

/// Sizes of an attention layer.
#[derive(Clone, Copy)]
struct Geometry {
    batches: usize,
    tokens: usize,
    heads: usize,
    head_dim: usize,
}

impl Geometry {
    fn new(num_heads: usize, qkv: &[usize]) -> Self {
        let [batches, tokens, width] = *qkv else { panic!("qkv is [B, T, 3·H·d], not {qkv:?}") };
        assert_eq!(width % (3 * num_heads), 0, "qkv {qkv:?} must split into 3 x {num_heads} heads");
        Self { batches, tokens, heads: num_heads, head_dim: width / (3 * num_heads) }
    }

    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    /// The range in `qkv` of a token's query (`part` 0), key (1) or value (2) for one head.
    fn qkv(&self, batch: usize, token: usize, part: usize, head: usize) -> std::ops::Range<usize> {
        let start = (((batch * self.tokens + token) * 3 + part) * self.heads + head) * self.head_dim;
        start..start + self.head_dim
    }

    /// The range of a token's output for one head in `o`.
    fn o(&self, batch: usize, token: usize, head: usize) -> std::ops::Range<usize> {
        let start = ((batch * self.tokens + token) * self.heads + head) * self.head_dim;
        start..start + self.head_dim
    }

    /// Scaled products of one query with all keys.
    fn logits(&self, qkv: &[f64], batch: usize, head: usize, query: usize) -> Vec<f64> {
        let q = &qkv[self.qkv(batch, query, 0, head)];
        (0..self.tokens).map(|key| self.scale() * dot(q, &qkv[self.qkv(batch, key, 1, head)])).collect()
    }

    fn heads(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.batches).flat_map(move |batch| (0..self.heads).map(move |head| (batch, head)))
    }

    /// A pass over all rows of all heads: `rows` of a head in each workgroup.
    fn pass(&self, kernel: Kernel, rows: usize, reads: &[Binding], writes: &[Binding]) -> Dispatch<Binding> {
        let [batches, tokens, heads] = [self.batches, self.tokens, self.heads].map(word);
        let blocks = self.tokens.div_ceil(rows);
        let params = AttentionParams { batches, tokens, heads, blocks: word(blocks), scale: self.scale() as f32 };
        let workgroups = self.batches * self.heads * blocks;
        workgroup_a_row(kernel.with("HEAD_DIM", word(self.head_dim)), reads, writes, &params, workgroups)
    }

    /// The same in subgroups of `lanes`, which share rows.
    fn pass_in_subgroups(
        &self,
        shader: &'static str,
        lanes: u32,
        reads: &[Binding],
        writes: &[Binding],
    ) -> Dispatch<Binding> {
        let kernel = Kernel::new(shader).with("SUBGROUP", lanes).with("ROWS", word(ROWS));
        self.pass(kernel, ROWS, reads, writes)
    }

    /// The same with one row per invocation. The shaders: element by element, and with vectors of four.
    fn pass_in_registers(
        &self,
        [element, vec4]: [&'static str; 2],
        reads: &[Binding],
        writes: &[Binding],
    ) -> Dispatch<Binding> {
        let shader = if self.has_vectors() { vec4 } else { element };
        self.pass(Kernel::new(shader), WORKGROUP as usize, reads, writes)
    }

    /// The same with tiles in workgroup memory.
    fn pass_in_tiles(&self, shader: &'static str, reads: &[Binding], writes: &[Binding]) -> Dispatch<Binding> {
        self.pass(Kernel::new(shader), TILE_ROWS, reads, writes)
    }

    /// Whether heads consist of whole vectors of four. Software drivers gain from these here, too.
    fn has_vectors(&self) -> bool {
        self.head_dim.is_multiple_of(4)
    }

    /// Whether keys and values get their gradients in two passes, which compute the probabilities twice. GPUs have
    /// registers for at most three large heads per invocation; a fourth would be spilled to memory.
    fn needs_two_passes(&self, profile: &DeviceProfile) -> bool {
        !profile.cpu && self.has_vectors() && self.head_dim > FOUR_IN_REGISTERS
    }
}

/// Rows of a head that a subgroup owns.
const ROWS: usize = 4;

/// The largest head of which a GPU has registers for four per invocation.
const FOUR_IN_REGISTERS: usize = 32;

/// Rows of a head that a workgroup owns in kernels with tiles.
const TILE_ROWS: usize = 64;

/// Heads for which GPUs use tiles: smaller ones leave lanes without elements of the result, and larger ones have no room in
/// registers.
const IN_TILES: std::ops::RangeInclusive<usize> = 32..=128;

/// The kernels, by the names that request them.
pub(super) const KERNELS: [&str; 3] = ["attention_register", "attention_subgroup", "attention_tiled"];

/// How the kernels divide the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// `attention_register`: one row per invocation. Runs everywhere.
    Register,
    /// `attention_subgroup`: subgroups of this many lanes share rows.
    Subgroup(u32),
    /// `attention_tiled`: workgroups share tiles of rows.
    Tiled,
}

impl Variant {
    /// The variant with this name, if the device can run it for these heads.
    fn named(name: &str, geometry: &Geometry, profile: &DeviceProfile) -> Option<Self> {
        match name {
            "attention_register" => Some(Self::Register),
            "attention_subgroup" => profile.subgroup_size.map(Self::Subgroup),
            "attention_tiled" => {
                (geometry.has_vectors() && geometry.head_dim <= *IN_TILES.end()).then_some(Self::Tiled)
            }
            _ => None,
        }
    }

    /// The requested variant, or else the usual one.
    fn of(op: &dyn Op, geometry: &Geometry, profile: &DeviceProfile) -> Self {
        let named = |name| Self::named(name, geometry, profile);
        let asked = profile.wanted(&workload(op, geometry)).find_map(named);
        asked.or_else(|| named(usual(geometry, profile))).expect("the usual variant runs on every device")
    }
}

/// The name of the variant without a measurement: subgroups share rows on software drivers, where loads are expensive,
/// and barriers even more so. GPUs use tiles, but for small heads one row per invocation. Never a function of the batch
/// or the number of tokens.
fn usual(geometry: &Geometry, profile: &DeviceProfile) -> &'static str {
    match profile.subgroup_size {
        Some(_) if profile.cpu => "attention_subgroup",
        _ if !profile.cpu && geometry.has_vectors() && IN_TILES.contains(&geometry.head_dim) => "attention_tiled",
        _ => "attention_register",
    }
}

/// The name under which measurements are stored.
fn workload(op: &dyn Op, geometry: &Geometry) -> String {
    format!("{} head_dim={}", op.name(), geometry.head_dim)
}

fn choice(op: &dyn Op, num_heads: usize, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Choice {
    let geometry = Geometry::new(num_heads, shapes.inputs[0]);
    let runs = |name: &&str| Variant::named(name, &geometry, profile).is_some();
    Choice {
        workload: workload(op, &geometry),
        kernels: KERNELS.into_iter().filter(runs).collect(),
        usual: usual(&geometry, profile),
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(sum: &mut [f64], factor: f64, x: &[f64]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += factor * x;
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let geometry = Geometry::new(self.num_heads, inputs[0]);
        vec![
            vec![geometry.batches, geometry.tokens, geometry.heads * geometry.head_dim],
            vec![geometry.batches, geometry.heads, geometry.tokens],
        ]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        inputs: &[Tensor],
        outputs: &[Tensor],
        gradients: &[Option<Tensor>],
        _: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        assert!(gradients[1].is_none(), "gradients flow only through the first output of attention");
        let Some(d_o) = gradients[0] else { return vec![None] };
        let op = AttentionBackward { num_heads: self.num_heads };
        vec![Some(graph.push(op, &[inputs[0], outputs[0], outputs[1], d_o])[0])]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let geometry = Geometry::new(self.num_heads, shapes.inputs[0]);
        let (reads, writes) = ([Binding::Input(0)], [0, 1].map(Binding::Output));
        vec![match Variant::of(self, &geometry, profile) {
            Variant::Tiled => geometry.pass_in_tiles("attention_tiled", &reads, &writes),
            Variant::Subgroup(lanes) => geometry.pass_in_subgroups("attention_subgroup", lanes, &reads, &writes),
            Variant::Register => geometry.pass_in_registers(["attention", "attention_vec4"], &reads, &writes),
        }]
    }

    fn choice(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Option<Choice> {
        Some(choice(self, self.num_heads, shapes, profile))
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let geometry = Geometry::new(self.num_heads, shapes.inputs[0]);
        let qkv = inputs[0];
        let mut o = vec![0.0; shapes.output_elements(0)];
        let mut logsumexp = Vec::with_capacity(shapes.output_elements(1));
        for (batch, head) in geometry.heads() {
            for query in 0..geometry.tokens {
                let logits = geometry.logits(qkv, batch, head, query);
                let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = logits.iter().map(|s| (s - largest).exp()).sum();
                logsumexp.push(largest + total.ln());
                for (key, s) in logits.iter().enumerate() {
                    let weight = (s - largest).exp() / total;
                    add_scaled(&mut o[geometry.o(batch, query, head)], weight, &qkv[geometry.qkv(batch, key, 2, head)]);
                }
            }
        }
        vec![o, logsumexp]
    }

    fn flops(&self, shapes: &Shapes<'_>) -> u64 {
        products(self.num_heads, shapes, 2)
    }
}

impl Op for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(inputs[1], inputs[3], "the gradient of o must have the shape of o");
        vec![inputs[0].to_vec(), inputs[2].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let geometry = Geometry::new(self.num_heads, shapes.inputs[0]);
        let [qkv, o, logsumexp, d_o] = [0, 1, 2, 3].map(Binding::Input);
        let [d_qkv, delta] = [0, 1].map(Binding::Output);
        let (query_reads, query_writes) = ([qkv, o, logsumexp, d_o], [d_qkv, delta]);
        let reads = [qkv, logsumexp, d_o, delta];
        match Variant::of(self, &geometry, profile) {
            Variant::Tiled => {
                let pass = |shader, reads: &[_], writes: &[_]| geometry.pass_in_tiles(shader, reads, writes);
                let query = pass("attention_backward_query_tiled", &[qkv, logsumexp, d_o, o], &query_writes);
                if geometry.head_dim > FOUR_IN_REGISTERS {
                    let key = pass("attention_backward_key_tiled", &reads, &[d_qkv]);
                    vec![query, key, pass("attention_backward_value_tiled", &reads[..3], &[d_qkv])]
                } else {
                    vec![query, pass("attention_backward_key_value_tiled", &reads, &[d_qkv])]
                }
            }
            Variant::Subgroup(lanes) => {
                let pass = |shader, reads: &[_], writes: &[_]| geometry.pass_in_subgroups(shader, lanes, reads, writes);
                vec![
                    pass("attention_backward_query_subgroup", &query_reads, &query_writes),
                    pass("attention_backward_key_value_subgroup", &reads, &[d_qkv]),
                ]
            }
            Variant::Register => {
                let pass = |shaders, reads: &[_], writes: &[_]| geometry.pass_in_registers(shaders, reads, writes);
                let query = ["attention_backward_query", "attention_backward_query_vec4"];
                let mut found = vec![pass(query, &query_reads, &query_writes)];
                if geometry.needs_two_passes(profile) {
                    found.push(pass(["attention_backward_key"; 2], &reads, &[d_qkv]));
                    found.push(pass(["attention_backward_value"; 2], &reads[..3], &[d_qkv]));
                } else {
                    let key_value = ["attention_backward_key_value", "attention_backward_key_value_vec4"];
                    found.push(pass(key_value, &reads, &[d_qkv]));
                }
                found
            }
        }
    }

    fn choice(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Option<Choice> {
        Some(choice(self, self.num_heads, shapes, profile))
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let geometry = Geometry::new(self.num_heads, shapes.inputs[0]);
        let [qkv, o, logsumexp, d_o] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        let mut d_qkv = vec![0.0; shapes.output_elements(0)];
        let mut deltas = Vec::with_capacity(shapes.output_elements(1));
        for (batch, head) in geometry.heads() {
            for query in 0..geometry.tokens {
                let row = geometry.o(batch, query, head);
                let delta = dot(&d_o[row.clone()], &o[row.clone()]);
                let denominator = logsumexp[deltas.len()];
                deltas.push(delta);
                let at_q = geometry.qkv(batch, query, 0, head);
                for (key, s) in geometry.logits(qkv, batch, head, query).into_iter().enumerate() {
                    let (at_k, at_v) = (geometry.qkv(batch, key, 1, head), geometry.qkv(batch, key, 2, head));
                    let weight = (s - denominator).exp();
                    let d_logit = geometry.scale() * weight * (dot(&d_o[row.clone()], &qkv[at_v.clone()]) - delta);
                    add_scaled(&mut d_qkv[at_q.clone()], d_logit, &qkv[at_k.clone()]);
                    add_scaled(&mut d_qkv[at_k], d_logit, &qkv[at_q.clone()]);
                    add_scaled(&mut d_qkv[at_v], weight, &d_o[row.clone()]);
                }
            }
        }
        vec![d_qkv, deltas]
    }

    fn flops(&self, shapes: &Shapes<'_>) -> u64 {
        products(self.num_heads, shapes, 7)
    }
}

/// Floating-point operations of `count` products of T x d by d x T per head.
fn products(num_heads: usize, shapes: &Shapes<'_>, count: u64) -> u64 {
    let geometry = Geometry::new(num_heads, shapes.inputs[0]);
    2 * count * (geometry.batches * geometry.heads * geometry.tokens * geometry.tokens * geometry.head_dim) as u64
}
