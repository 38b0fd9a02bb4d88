//! Names and shapes of the transformer's parameters, as in published files without their prefix.

use super::MiniT2iConfig;
use crate::flow::noise::Stream;
use crate::model::initialise::{normal, xavier_uniform};
use crate::model::layout::{Entry, Layout};

/// The row that stands for padding, and for all rows if there is no prompt.
pub(super) const MASK_TOKEN: &str = "mask_token";

/// A block of one stream or, with a prefix for each, the part of a stream in a block of two.
struct Names {
    tensors: Vec<(String, Vec<usize>, bool)>,
}

impl Names {
    fn tensor(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.tensors.push((name.into(), shape.to_vec(), true));
    }

    fn linear(&mut self, layer: &str, outputs: usize, inputs: usize) {
        self.tensor(format!("{layer}.weight"), &[outputs, inputs]);
        self.tensor(format!("{layer}.bias"), &[outputs]);
    }

    /// The layers of a stream up to attention.
    fn attended(&mut self, stream: &str, width: usize) {
        self.tensor(format!("{stream}norm1.weight"), &[width]);
        self.linear(&format!("{stream}qkv"), 3 * width, width);
    }

    /// The layers of a stream after attention.
    fn rest(&mut self, stream: &str, width: usize, hidden: usize) {
        self.linear(&format!("{stream}attn_proj"), width, width);
        self.tensor(format!("{stream}norm2.weight"), &[width]);
        for (layer, outputs, inputs) in [("w1", hidden, width), ("w2", width, hidden), ("w3", hidden, width)] {
            self.tensor(format!("{stream}mlp.{layer}.weight"), &[outputs, inputs]);
        }
    }

    /// The norms of queries and keys.
    fn head_norms(&mut self, block: &str, head_dim: usize) {
        for norm in ["q_norm", "k_norm"] {
            self.tensor(format!("{block}{norm}.weight"), &[head_dim]);
        }
    }
}

impl MiniT2iConfig {
    /// Names and shapes of all parameters that have an effect.
    pub fn layout(&self) -> Layout {
        let (width, patch, channels, hidden) = (self.hidden(), self.patch_size, self.channels, self.mlp_hidden);
        let mut names = Names { tensors: Vec::new() };
        names.tensor("img_embedder.proj1.weight", &[self.patch_width, channels, patch, patch]);
        names.tensor("img_embedder.proj2.weight", &[width, self.patch_width, 1, 1]);
        names.tensor("img_embedder.proj2.bias", &[width]);
        names.tensor("txt_embedder.weight", &[width, self.context_dim]);
        names.tensor(MASK_TOKEN, &[1, 1, self.context_dim]);
        for block in 0..self.text_depth {
            let name = format!("txt_preamble_blocks.{block}.");
            names.attended(&name, width);
            names.head_norms(&name, self.head_dim);
            names.rest(&name, width, hidden);
        }
        for block in 0..self.depth {
            let name = format!("double_blocks.{block}.");
            names.head_norms(&name, self.head_dim);
            for stream in ["img_", "txt_"] {
                let stream = format!("{name}{stream}");
                names.attended(&stream, width);
                if stream.ends_with("img_") || self.keeps_text(block) {
                    names.rest(&stream, width, hidden);
                }
            }
        }
        names.tensor("final_layer.norm_final.weight", &[width]);
        names.linear("final_layer.linear", channels * patch * patch, width);
        Layout::new(names.tensors).published_with(Self::PREFIX)
    }

    /// Whether the text continues after a block: the last one only reads it.
    pub(super) fn keeps_text(&self, block: usize) -> bool {
        block + 1 < self.depth
    }

    /// Whether published files have such a tensor although nothing depends on it: the time and the pooled prompt are
    /// embedded and then not used, and so is the text after its last attention.
    pub(in crate::model) fn is_unused(&self, tensor: &str) -> bool {
        if ["t_embedder.", "pooled_embedder."].iter().any(|start| tensor.starts_with(start)) {
            return true;
        }
        let last = format!("double_blocks.{}.txt_", self.depth - 1);
        let rest = tensor.strip_prefix(last.as_str());
        rest.is_some_and(|rest| ["attn_proj.", "norm2.", "mlp."].iter().any(|start| rest.starts_with(start)))
    }

    /// A parameter before training: norms 1, embeddings normal(0.02), everything that ends a residual branch or makes the
    /// output zero, other linear layers Xavier uniform.
    pub(in crate::model) fn draw(&self, entry: &Entry, stream: &mut Stream) -> Vec<f32> {
        let ends = |parts: &[&str]| parts.iter().any(|part| entry.name.ends_with(part));
        match entry.name.as_str() {
            name if name.contains("norm") => vec![1.0; entry.elements()],
            _ if ends(&[".bias", "attn_proj.weight", "mlp.w2.weight", "final_layer.linear.weight"]) => {
                vec![0.0; entry.elements()]
            }
            MASK_TOKEN => normal(entry.elements(), 0.02, stream),
            _ => xavier_uniform(entry, stream),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::TextNetwork;

    const B16: &str = r#"{"_class_name": "MiniT2IMMJiTModel", "image_size": 512, "patch_size": 16, "in_channels": 3,
        "txt_input_size": 1024, "hidden_size": 768, "txt_hidden_size": 768, "cond_vec_size": 768, "depth_double": 17,
        "txt_preamble_depth": 2, "num_heads": 12, "head_dim": 64, "mlp_ratio": 2.6667, "pca_channels": 128,
        "prompt_length": 256, "n_T": 100, "prediction": "x", "sampler": "euler", "cfg_channels": 3,
        "cfg_interval": [0.0, 1.0], "llm": "google/flan-t5-large"}"#;

    fn said(from: &str, to: &str) -> String {
        assert!(B16.contains(from), "{from}");
        let error = TextNetwork::from_json("config.json", B16.replace(from, to).as_bytes()).unwrap_err();
        error.to_string()
    }

    #[test]
    fn the_published_models_have_as_many_parameters_as_are_counted() {
        let network = TextNetwork::from_json("config.json", B16.as_bytes()).unwrap();
        // The published file has 258,122,880. Without effect are the embedding of the time (256 to 768 to 768) and of
        // the pooled prompt, and the end of the last block's text.
        let (width, hidden, text) = (768, 2048, 1024);
        let time = 256 * width + width + width * width + width;
        let end = width * width + width + width + 3 * width * hidden;
        let expected = 258_122_880 - time - width * text - end;
        assert_eq!(network.layout([512, 512]).parameter_count(), expected);
        let large = B16
            .replace(
                "\"hidden_size\": 768, \"txt_hidden_size\": 768",
                "\"hidden_size\": 1248, \"txt_hidden_size\": 1248",
            )
            .replace("17", "23")
            .replace(
                "\"num_heads\": 12, \"head_dim\": 64, \"mlp_ratio\": 2.6667",
                "\"num_heads\": 24, \"head_dim\": 52, \"mlp_ratio\": 2.7",
            );
        let network = TextNetwork::from_json("config.json", large.as_bytes()).unwrap();
        let (width, hidden) = (1248, 3376);
        let time = 256 * width + width + width * width + width;
        let end = width * width + width + width + 3 * width * hidden;
        let expected = 911_766_696 - time - width * text - end;
        assert_eq!(network.layout([512, 512]).parameter_count(), expected);
    }

    #[test]
    fn wrong_configurations_are_rejected_with_the_reason() {
        for (from, to, reason) in [
            ("MiniT2IMMJiTModel", "FluxTransformer2DModel", "`_class_name` \"FluxTransformer2DModel\""),
            ("\"prediction\": \"x\"", "\"prediction\": \"v\"", "`prediction` = \"v\", but only \"x\""),
            ("\"sampler\": \"euler\"", "\"sampler\": \"heun\"", "`sampler` = \"heun\", but only \"euler\""),
            ("[0.0, 1.0]", "[0.1, 1.0]", "`cfg_interval` = [0.1,1.0]"),
            ("\"cfg_channels\": 3", "\"cfg_channels\": 2", "`cfg_channels` = 2, but only 3"),
            ("\"n_T\"", "\"use_gates\"", "`use_gates` = 100, which is not known"),
            ("\"depth_double\": 17", "\"depth_double\": 0", "`depth_double` = 0: it must be from 1"),
            ("\"depth_double\": 17,", "", "missing field `depth_double`"),
            ("\"in_channels\": 3", "\"in_channels\": 4", "`cfg_channels` = 3, but only 4"),
            ("\"hidden_size\": 768", "\"hidden_size\": 760", "12 heads of 64 make tokens of 768"),
            ("\"head_dim\": 64", "\"head_dim\": 62", "`head_dim` = 62: it must be a multiple of 4"),
            (
                "\"patch_size\": 16",
                "\"patch_size\": 24",
                "`image_size` = 512: it must be a multiple of `patch_size` = 24",
            ),
            ("\"mlp_ratio\": 2.6667", "\"mlp_ratio\": 900.0", "the hidden layer of a block"),
            ("\"mlp_ratio\": 2.6667", "\"mlp_ratio\": 1e30", "the hidden layer of a block"),
            ("\"mlp_ratio\": 2.6667", "\"mlp_ratio\": -1.0", "the hidden layer of a block"),
            ("\"prompt_length\": 256", "\"prompt_length\": 5000", "`prompt_length` = 5000: it must be at most 4096"),
            ("{", "", "not the configuration of a transformer"),
        ] {
            let message = said(from, to);
            assert!(message.contains("config.json") && message.contains(reason), "{message}\nlacks: {reason}");
        }
    }
}
