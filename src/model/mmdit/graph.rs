//! The forward pass.

use super::MmditConfig;
use super::layout::{POSITIONS, TIME_FEATURES, keeps_context};
use crate::graph::{Graph, Tensor};
use crate::model::condition::Prompts;
use crate::model::layout::Parameters;
use crate::ops::{
    Activation, Add, AddBroadcast, Attention, GatedResidual, LayerNorm, Patches, Patchify, RmsNorm, Split, SplitTokens,
    TimeFeatures, TokenParts, Unpatchify, join_tokens, time_frequencies,
};

/// Added to the mean square of a query or a key.
const EPSILON: f32 = 1e-6;

/// A transformer being recorded into a graph.
#[derive(Debug)]
pub struct Mmdit<'a> {
    config: &'a MmditConfig,
    parameters: Parameters,
}

/// The streams between two blocks: the image's tokens and, until the last block, the text's.
#[derive(Clone, Copy)]
struct Streams {
    image: Tensor,
    text: Tensor,
}

impl<'a> Mmdit<'a> {
    /// A network whose parameters have been declared in the graph, with the positions of the latents' size.
    pub fn new(config: &'a MmditConfig, parameters: Parameters) -> Self {
        Self { config, parameters }
    }

    /// The velocity dx/dsigma = noise − data: latents `x [B, channels, height, width]`, `time [B]` (from
    /// [`MmditConfig::time_of`]) and the prompts to a tensor like `x`. Padding counts as text: nothing is masked.
    ///
    /// # Panics
    /// If shapes do not fit; [`crate::model::TextNetwork::check_size`] checks those of a request.
    pub fn velocity(&self, graph: &mut Graph, x: Tensor, time: Tensor, prompts: Prompts) -> Tensor {
        let config = self.config;
        let [_, channels, height, width] = *graph.shape(x) else { panic!("latents have four dimensions") };
        assert_eq!(channels, config.channels, "the latents' channels");
        let patches = self.patches([height, width]);
        let pooled = prompts.pooled.expect("the network takes pooled embeddings");
        let condition = graph.scope("time_text_embed", |graph| self.condition(graph, time, pooled));
        let image = graph.scope("pos_embed", |graph| {
            let patches = graph.apply(Patchify(patches), &[x]);
            let tokens = self.linear(graph, "pos_embed.proj", patches);
            let positions = self.parameters.get(POSITIONS);
            let count = graph.elements(positions);
            assert_eq!(count, sample_elements(graph, tokens), "the positions belong to another size of latents");
            graph.apply(AddBroadcast, &[tokens, positions])
        });
        let text = self.linear(graph, "context_embedder", prompts.context);
        let mut streams = Streams { image, text };
        for block in 0..config.depth {
            let name = format!("transformer_blocks.{block}");
            streams = graph.scope(&name, |graph| graph.segment(|graph| self.block(graph, block, streams, condition)));
        }
        let parts = self.modulation(graph, "norm_out.linear", condition, 2);
        // Here, and in the text's last norm, the scale comes first.
        let normal = graph.push(LayerNorm, &[streams.image, parts[1], parts[0]])[0];
        let vectors = self.linear(graph, "proj_out", normal);
        graph.apply(Unpatchify(Patches { channel_first: false, ..patches }), &[vectors])
    }

    fn patches(&self, [height, width]: [usize; 2]) -> Patches {
        Patches {
            channels: self.config.channels,
            vector_channels: self.config.channels,
            height,
            width,
            patch_size: self.config.patch_size,
            channel_first: true,
            factor: 1.0,
        }
    }

    /// SiLU of the sum of the embeddings of time and of the pooled prompt, `[B, hidden]`: the input of every adaLN layer.
    fn condition(&self, graph: &mut Graph, time: Tensor, pooled: Tensor) -> Tensor {
        let frequencies = graph.constant("frequencies", &[TIME_FEATURES], time_frequencies(TIME_FEATURES));
        let features = graph.apply(TimeFeatures, &[time, frequencies]);
        let [time, pooled] = [("timestep_embedder", features), ("text_embedder", pooled)].map(|(embedder, x)| {
            let name = |layer: &str| format!("time_text_embed.{embedder}.{layer}");
            let hidden = self.linear(graph, &name("linear_1"), x);
            let hidden = graph.apply(Activation::Silu, &[hidden]);
            self.linear(graph, &name("linear_2"), hidden)
        });
        let sum = graph.apply(Add, &[time, pooled]);
        graph.apply(Activation::Silu, &[sum])
    }

    /// One block. The last one leaves the text unchanged, because nothing reads it afterwards.
    fn block(&self, graph: &mut Graph, block: usize, streams: Streams, condition: Tensor) -> Streams {
        let name = |layer: &str| format!("transformer_blocks.{block}.{layer}");
        let (is_dual, keeps_context) = (self.config.dual_attention.contains(&block), keeps_context(self.config, block));
        // Shift, scale and gate of the attention, of the MLP, and of the second attention.
        let of_image = self.modulation(graph, &name("norm1.linear"), condition, if is_dual { 9 } else { 6 });
        let parts = if keeps_context { 6 } else { 2 };
        let of_text = self.modulation(graph, &name("norm1_context.linear"), condition, parts);
        let normal = |graph: &mut Graph, x, shift, scale| graph.push(LayerNorm, &[x, shift, scale])[0];
        let image = normal(graph, streams.image, of_image[0], of_image[1]);
        let (shift, scale) = if keeps_context { (of_text[0], of_text[1]) } else { (of_text[1], of_text[0]) };
        let text = normal(graph, streams.text, shift, scale);
        let attended = self.joint_attention(graph, &name("attn"), Streams { image, text }, keeps_context);
        let mut x = graph.apply(GatedResidual, &[streams.image, attended[0], of_image[2]]);
        if is_dual {
            // It reads the input of the first attention, not its result.
            let image = normal(graph, streams.image, of_image[6], of_image[7]);
            let again = self.self_attention(graph, &name("attn2"), image);
            x = graph.apply(GatedResidual, &[x, again, of_image[8]]);
        }
        let image = self.mlp(graph, &name("ff"), x, &of_image[3..6]);
        let Some(attended) = attended.get(1) else { return Streams { image, ..streams } };
        let e = graph.apply(GatedResidual, &[streams.text, *attended, of_text[2]]);
        Streams { image, text: self.mlp(graph, &name("ff_context"), e, &of_text[3..6]) }
    }

    /// Attention of all tokens to all tokens. Returns the projected results for the image and, if needed, for the text.
    fn joint_attention(&self, graph: &mut Graph, layer: &str, streams: Streams, keeps_context: bool) -> Vec<Tensor> {
        let name = |part: &str| format!("{layer}.{part}");
        let image =
            self.queries_keys_values(graph, layer, ["to_q", "to_k", "to_v"], ["norm_q", "norm_k"], streams.image);
        // In the last block nothing reads the results of the text's tokens, so their queries are zeros.
        let projections = [if keeps_context { "add_q_proj" } else { "" }, "add_k_proj", "add_v_proj"];
        let text = self.queries_keys_values(graph, layer, projections, ["norm_added_q", "norm_added_k"], streams.text);
        let tokens = [streams.image, streams.text].map(|stream| graph.shape(stream)[1]);
        let qkv = join_tokens(graph, &[&image, &text]);
        let attended = graph.push(Attention { num_heads: self.config.num_heads }, &[qkv])[0];
        let parts = TokenParts { tokens: tokens.to_vec(), columns: 1, present: vec![true, keeps_context] };
        let parts = graph.push(SplitTokens(parts), &[attended]);
        let layers = ["to_out.0", "to_add_out"].into_iter().zip(parts);
        layers.map(|(layer, part)| self.linear(graph, &name(layer), part)).collect()
    }

    /// Attention among the image's tokens.
    fn self_attention(&self, graph: &mut Graph, layer: &str, x: Tensor) -> Tensor {
        let parts = self.queries_keys_values(graph, layer, ["to_q", "to_k", "to_v"], ["norm_q", "norm_k"], x);
        let qkv = join_tokens(graph, &[&parts]);
        let attended = graph.push(Attention { num_heads: self.config.num_heads }, &[qkv])[0];
        self.linear(graph, &format!("{layer}.to_out.0"), attended)
    }

    /// Projections of tokens by the layers with these names; queries and keys are normalised per head. An empty name
    /// stands for no projection.
    fn queries_keys_values(
        &self,
        graph: &mut Graph,
        layer: &str,
        projections: [&str; 3],
        norms: [&str; 2],
        x: Tensor,
    ) -> [Option<Tensor>; 3] {
        let norms = norms.map(Some).into_iter().chain([None]);
        let mut parts = projections.into_iter().zip(norms).map(|(projection, norm)| {
            if projection.is_empty() {
                return None;
            }
            let y = self.linear(graph, &format!("{layer}.{projection}"), x);
            let Some(norm) = norm.filter(|_| self.config.qk_norm) else { return Some(y) };
            let weight = self.parameters.get(&format!("{layer}.{norm}.weight"));
            Some(graph.push(RmsNorm { epsilon: EPSILON }, &[y, weight])[0])
        });
        std::array::from_fn(|_| parts.next().flatten())
    }

    /// `x` plus the gated MLP of its modulated norm.
    fn mlp(&self, graph: &mut Graph, layer: &str, x: Tensor, modulation: &[Tensor]) -> Tensor {
        let normal = graph.push(LayerNorm, &[x, modulation[0], modulation[1]])[0];
        let hidden = self.linear(graph, &format!("{layer}.net.0.proj"), normal);
        let hidden = graph.apply(Activation::Gelu, &[hidden]);
        let hidden = self.linear(graph, &format!("{layer}.net.2"), hidden);
        graph.apply(GatedResidual, &[x, hidden, modulation[2]])
    }

    fn modulation(&self, graph: &mut Graph, layer: &str, condition: Tensor, parts: usize) -> Vec<Tensor> {
        let all = self.linear(graph, layer, condition);
        graph.push(Split { parts }, &[all])
    }

    fn linear(&self, graph: &mut Graph, layer: &str, x: Tensor) -> Tensor {
        graph.scope(layer, |graph| self.parameters.linear(graph, layer, x))
    }
}

impl MmditConfig {
    /// Records one block alone, whose parameters have been declared in the graph: the tokens of the image and of the text,
    /// `[B, tokens, hidden]`, and the condition of the adaLN layers, `[B, hidden]`, to new tokens of both. The last block
    /// leaves the text unchanged.
    pub fn record_block(
        &self,
        graph: &mut Graph,
        parameters: Parameters,
        block: usize,
        [image, text]: [Tensor; 2],
        condition: Tensor,
    ) -> [Tensor; 2] {
        let streams = Mmdit::new(self, parameters).block(graph, block, Streams { image, text }, condition);
        [streams.image, streams.text]
    }
}

/// Elements of a sample's tokens.
fn sample_elements(graph: &Graph, tokens: Tensor) -> usize {
    graph.shape(tokens)[1..].iter().product()
}
