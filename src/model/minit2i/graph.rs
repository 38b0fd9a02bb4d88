//! The forward pass.

use super::MiniT2iConfig;
use super::layout::MASK_TOKEN;
use crate::graph::{Graph, Tensor};
use crate::model::condition::Prompts;
use crate::model::initialise::sin_cos_positions;
use crate::model::layout::Parameters;
use crate::ops::{
    Add, AddBroadcast, Attention, GatedActivation, MatMul, Patches, Patchify, RmsNorm, Rope, SplitTokens, TokenParts,
    Unpatchify, VelocityOfData, join_tokens, rope_table, rope_table_2d,
};

/// Added to every mean square.
const EPSILON: f32 = 1e-6;

/// A transformer being recorded into a graph.
#[derive(Debug)]
pub struct MiniT2i<'a> {
    config: &'a MiniT2iConfig,
    parameters: Parameters,
}

/// The streams between two blocks: the text's tokens and the image's.
#[derive(Clone, Copy)]
struct Streams {
    text: Tensor,
    image: Tensor,
}

/// Angles of the tokens' positions, see [`Rope`].
#[derive(Clone, Copy)]
struct Tables {
    text: Tensor,
    image: Tensor,
}

impl<'a> MiniT2i<'a> {
    /// A network whose parameters have been declared in the graph.
    pub fn new(config: &'a MiniT2iConfig, parameters: Parameters) -> Self {
        Self { config, parameters }
    }

    /// The velocity dx/dsigma = noise − data: states `x [B, 3, height, width]`, their noise levels `sigma [B]` and the
    /// prompts to a tensor like `x`.
    ///
    /// # Panics
    /// If shapes do not fit; [`crate::model::TextNetwork::check_size`] checks those of a request.
    pub fn velocity(&self, graph: &mut Graph, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor {
        let data = self.data(graph, x, prompts);
        graph.apply(VelocityOfData { floor: MiniT2iConfig::SIGMA_FLOOR }, &[x, data, sigma])
    }

    /// The clean states that the network predicts.
    fn data(&self, graph: &mut Graph, x: Tensor, prompts: Prompts) -> Tensor {
        let config = self.config;
        let [_, _, height, width] = *graph.shape(x) else { panic!("states have four dimensions") };
        let [rows, columns] = config.tokens([height, width]);
        let patches = self.patches([height, width]);
        let mut image = graph.scope("img_embedder", |graph| {
            // The network takes pictures.
            let factor = (1.0 / MiniT2iConfig::PIXEL_SCALE) as f32;
            let vectors = graph.apply(Patchify(Patches { factor, ..patches }), &[x]);
            let narrow = self.linear(graph, "img_embedder.proj1", vectors);
            let tokens = self.linear(graph, "img_embedder.proj2", narrow);
            let positions = sin_cos_positions([rows, columns], config.hidden());
            let positions = graph.constant("positions", &[1, rows * columns, config.hidden()], positions);
            graph.apply(AddBroadcast, &[tokens, positions])
        });
        let mut text = graph.scope("txt_embedder", |graph| self.text(graph, prompts));
        let (tokens, head) = (graph.shape(text)[1], config.head_dim);
        let tables = Tables {
            text: graph.constant("text angles", &[tokens, head], rope_table(tokens, head)),
            image: graph.constant("image angles", &[rows * columns, head], rope_table_2d(rows, columns, head)),
        };
        for block in 0..config.text_depth {
            let name = format!("txt_preamble_blocks.{block}");
            text = graph.scope(&name, |graph| {
                graph.segment(|graph| self.text_block(graph, &format!("{name}."), text, tables.text))
            });
        }
        for block in 0..config.depth {
            let name = format!("double_blocks.{block}");
            let streams = Streams { text, image };
            Streams { text, image } =
                graph.scope(&name, |graph| graph.segment(|graph| self.block(graph, block, streams, tables)));
        }
        graph.scope("final_layer", |graph| {
            let normal = self.norm(graph, "final_layer.norm_final", image);
            let vectors = self.linear(graph, "final_layer.linear", normal);
            let factor = MiniT2iConfig::PIXEL_SCALE as f32;
            graph.apply(Unpatchify(Patches { channel_first: false, factor, ..patches }), &[vectors])
        })
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

    /// The text's tokens: rows of padding, which are zeros, are replaced by a learned one.
    fn text(&self, graph: &mut Graph, prompts: Prompts) -> Tensor {
        let padding = prompts.padding.expect("the network is told which rows are padding");
        let learned = self.parameters.get(MASK_TOKEN);
        let instead = graph.apply(MatMul::default(), &[padding, learned]);
        let context = graph.apply(Add, &[prompts.context, instead]);
        self.linear(graph, "txt_embedder", context)
    }

    /// A block of the text alone.
    fn text_block(&self, graph: &mut Graph, name: &str, text: Tensor, angles: Tensor) -> Tensor {
        let parts = self.queries_keys_values(graph, [name, name], text, angles);
        let qkv = join_tokens(graph, &[&parts.map(Some)]);
        let attended = graph.push(Attention { num_heads: self.config.num_heads }, &[qkv])[0];
        self.rest(graph, name, text, attended)
    }

    /// A block of both streams. The last one leaves the text unchanged, because nothing reads it afterwards.
    fn block(&self, graph: &mut Graph, block: usize, streams: Streams, angles: Tables) -> Streams {
        let name = format!("double_blocks.{block}.");
        let keeps_text = self.config.keeps_text(block);
        let [of_text, of_image] = [("txt_", streams.text, angles.text), ("img_", streams.image, angles.image)]
            .map(|(stream, x, angles)| self.queries_keys_values(graph, [&format!("{name}{stream}"), &name], x, angles));
        let mut of_text = of_text.map(Some);
        if !keeps_text {
            // Nothing reads the results of the text's tokens, so their queries are zeros.
            of_text[0] = None;
        }
        let qkv = join_tokens(graph, &[&of_text, &of_image.map(Some)]);
        let attended = graph.push(Attention { num_heads: self.config.num_heads }, &[qkv])[0];
        let tokens = [streams.text, streams.image].map(|stream| graph.shape(stream)[1]).to_vec();
        let parts = TokenParts { tokens, columns: 1, present: vec![keeps_text, true] };
        let parts = graph.push(SplitTokens(parts), &[attended]);
        let of_image = *parts.last().expect("the image's is present");
        let image = self.rest(graph, &format!("{name}img_"), streams.image, of_image);
        let text = match keeps_text {
            true => self.rest(graph, &format!("{name}txt_"), streams.text, parts[0]),
            false => streams.text,
        };
        Streams { text, image }
    }

    /// Queries, keys and values of tokens, with the names of the stream and of the block, whose norms all streams share.
    fn queries_keys_values(
        &self,
        graph: &mut Graph,
        [stream, block]: [&str; 2],
        x: Tensor,
        angles: Tensor,
    ) -> [Tensor; 3] {
        let normal = self.norm(graph, &format!("{stream}norm1"), x);
        let qkv = self.linear(graph, &format!("{stream}qkv"), normal);
        let parts = graph.push(SplitTokens(TokenParts::all(&[graph.shape(x)[1]], 3)), &[qkv]);
        let [q, k] = [("q_norm", parts[0]), ("k_norm", parts[1])].map(|(norm, part)| {
            let normal = self.norm(graph, &format!("{block}{norm}"), part);
            graph.apply(Rope { inverse: false }, &[normal, angles])
        });
        [q, k, parts[2]]
    }

    /// What follows attention in a stream: both residual branches.
    fn rest(&self, graph: &mut Graph, stream: &str, x: Tensor, attended: Tensor) -> Tensor {
        let projected = self.linear(graph, &format!("{stream}attn_proj"), attended);
        let x = graph.apply(Add, &[x, projected]);
        let normal = self.norm(graph, &format!("{stream}norm2"), x);
        let [gate, hidden] = ["w1", "w3"].map(|layer| self.linear(graph, &format!("{stream}mlp.{layer}"), normal));
        let hidden = graph.apply(GatedActivation::Silu, &[gate, hidden]);
        let hidden = self.linear(graph, &format!("{stream}mlp.w2"), hidden);
        graph.apply(Add, &[x, hidden])
    }

    fn norm(&self, graph: &mut Graph, layer: &str, x: Tensor) -> Tensor {
        let weight = self.parameters.get(&format!("{layer}.weight"));
        graph.push(RmsNorm { epsilon: EPSILON }, &[x, weight])[0]
    }

    fn linear(&self, graph: &mut Graph, layer: &str, x: Tensor) -> Tensor {
        graph.scope(layer, |graph| self.parameters.linear(graph, layer, x))
    }
}
