//! Files of text encoders: other types, shards, and mistakes, each of which leads to one sentence.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowdppo_wgpu::gpu::Gpu;
use flowdppo_wgpu::model::text::{
    ClipConfig, ClipTextConfig, ClipVisionConfig, PicturePreparation, T5Config, Tokenizer, Tokens, Weights,
    encode_clip_text, encode_t5, read_config,
};
use flowdppo_wgpu::model::{Tensors, read_tensors, write_tensors};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;

use super::text::{TOLERANCE, assert_close};
use crate::common::{cutting_stores, formats, gpu};

const POSITIONS: &str = "text_model.embeddings.position_embedding.weight";

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn tensors() -> Tensors {
    read_tensors(&formats("sd35_tiny_pipeline/text_encoder/model.safetensors")).expect("the file is complete")
}

fn config() -> ClipTextConfig {
    read_config(&formats("sd35_tiny_pipeline/text_encoder/config.json")).expect("the file is complete")
}

/// Writes tensors in 16 bits.
fn write_half(path: &Path, tensors: &Tensors, dtype: Dtype) {
    let half = |value: &f32| match dtype {
        Dtype::F16 => f16::from_f32(*value).to_le_bytes(),
        _ => bf16::from_f32(*value).to_le_bytes(),
    };
    let bytes: BTreeMap<&String, Vec<u8>> =
        tensors.iter().map(|(name, (_, values))| (name, values.iter().flat_map(half).collect())).collect();
    let views = bytes
        .iter()
        .map(|(name, bytes)| (*name, TensorView::new(dtype, tensors[*name].0.clone(), bytes).expect("the sizes fit")));
    fs::write(path, safetensors::serialize(views, None).expect("they fit")).expect("the folder is writable");
}

/// The message of an error, which is one sentence that contains all these words.
fn assert_says<T: std::fmt::Debug>(result: flowdppo_wgpu::Result<T>, words: &[&str]) {
    let message = result.expect_err("it is bad").to_string();
    assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
    assert!(!message.contains(". ") && !message.ends_with('.') && !message.contains('\n'), "{message}");
}

#[test]
fn weights_of_16_bits_are_widened() {
    let (folder, tensors) = (folder(), tensors());
    let path = folder.path().join("model.fp16.safetensors");
    let (shape, values) = &tensors[POSITIONS];
    for dtype in [Dtype::F16, Dtype::BF16] {
        write_half(&path, &tensors, dtype);
        let weights = Weights::open(folder.path(), "text_model.").expect("it is the only variant");
        let read = weights.read(POSITIONS.strip_prefix("text_model.").expect("it is one"), shape).expect("it is there");
        let rounded = values.iter().map(|value| match dtype {
            Dtype::F16 => f16::from_f32(*value).to_f32(),
            _ => bf16::from_f32(*value).to_f32(),
        });
        assert_eq!(read, rounded.collect::<Vec<_>>());
        let rows =
            weights.read_rows("embeddings.position_embedding.weight", [77, 16], &[3, 76, 3]).expect("they exist");
        assert_eq!(rows, [&read[48..64], &read[76 * 16..], &read[48..64]].concat());
        assert!(!weights.has("text_projection.weight"), "it has another prefix");
    }
    fs::copy(&path, folder.path().join("model.bf16.safetensors")).expect("the folder is writable");
    assert_says(Weights::open(folder.path(), ""), &["several variants", "model.bf16", "model.fp16"]);
}

#[test]
fn shards_are_joined_to_one_model() {
    let (folder, tensors) = (folder(), tensors());
    let mut shards = [Tensors::new(), Tensors::new()];
    let mut map = BTreeMap::new();
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        map.insert(name.clone(), format!("model-0000{}-of-00002.safetensors", index % 2 + 1));
        shards[index % 2].insert(name.clone(), tensor.clone());
    }
    let [first, second] = [1, 2].map(|shard| folder.path().join(format!("model-0000{shard}-of-00002.safetensors")));
    let index = folder.path().join("model.safetensors.index.json");
    let write_index = |map: &BTreeMap<String, String>| {
        let text = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
        fs::write(&index, text).expect("the folder is writable");
    };
    write_index(&map);
    write_tensors(&first, &shards[0]).expect("the folder is writable");
    assert_says(Weights::open(folder.path(), ""), &["cannot read", "model-00002-of-00002"]);
    write_tensors(&second, &shards[1]).expect("the folder is writable");
    let weights = Weights::open(folder.path(), "").expect("both are there");
    for (name, (shape, values)) in &tensors {
        assert_eq!(weights.read(name, shape).expect("it is there"), *values, "{name}");
    }
    map.insert("another".to_owned(), "model-00001-of-00002.safetensors".to_owned());
    write_index(&map);
    assert_says(Weights::open(folder.path(), ""), &["missing the tensor `another`"]);
    map.insert("another".to_owned(), "../model.safetensors".to_owned());
    write_index(&map);
    assert_says(Weights::open(folder.path(), ""), &["`../model.safetensors`", "not a file next to it"]);
    fs::write(&index, "{").expect("the folder is writable");
    assert_says(Weights::open(folder.path(), ""), &["not an index of shards"]);
}

/// Where only one variant was downloaded, its shards are taken.
#[test]
fn shards_of_a_variant_are_found() {
    let (folder, tensors) = (folder(), tensors());
    let shard = |number: usize| format!("model.fp16-0000{number}-of-00002.safetensors");
    let (mut map, mut shards) = (BTreeMap::new(), [Tensors::new(), Tensors::new()]);
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        map.insert(name.clone(), shard(index % 2 + 1));
        shards[index % 2].insert(name.clone(), tensor.clone());
    }
    for (number, tensors) in (1..).zip(&shards) {
        write_half(&folder.path().join(shard(number)), tensors, Dtype::F16);
    }
    let index = folder.path().join("model.safetensors.index.fp16.json");
    let text = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(index, text).expect("the folder is writable");
    let weights = Weights::open(folder.path(), "").expect("it is the only variant");
    for (name, (shape, values)) in &tensors {
        let rounded: Vec<f32> = values.iter().map(|value| f16::from_f32(*value).to_f32()).collect();
        assert_eq!(weights.read(name, shape).expect("it is there"), rounded, "{name}");
    }
}

#[test]
fn bad_weights_lead_to_one_sentence() {
    let (folder, whole) = (folder(), tensors());
    let path = folder.path().join("model.safetensors");
    assert_says(Weights::open(folder.path(), ""), &["neither model.safetensors nor"]);
    for bytes in [&b""[..], b"short", &[255; 40], b"\x02\0\0\0\0\0\0\0{]"] {
        fs::write(&path, bytes).expect("the folder is writable");
        assert_says(Weights::open(folder.path(), ""), &["not a complete safetensors file"]);
    }
    let tokens = || Tokens::new(vec![3; 77], vec![77], 77);
    let encode = |tensors: &Tensors| {
        write_tensors(&path, tensors)?;
        encode_clip_text(gpu(), &config(), &Weights::open(&path, "")?, &tokens())
    };
    encode(&whole).expect("it is complete");
    let bytes = fs::read(&path).expect("it is there");
    fs::write(&path, &bytes[..bytes.len() - 1]).expect("the folder is writable");
    assert_says(Weights::open(folder.path(), ""), &["not a complete safetensors file", "ends within"]);

    let last = "text_model.encoder.layers.2.mlp.fc2.weight";
    let mut tensors = whole.clone();
    tensors.remove(last);
    assert_says(encode(&tensors), &["missing the tensor", last, "[16, 64]"]);
    let mut tensors = whole.clone();
    tensors.insert(last.to_owned(), (vec![64, 16], vec![0.0; 1024]));
    assert_says(encode(&tensors), &[last, "[64, 16]", "[16, 64]"]);
    let mut tensors = whole.clone();
    tensors.get_mut(last).expect("it is there").1[7] = f32::NAN;
    assert_says(encode(&tensors), &[last, "not finite at element 7"]);
    // Without a projection, its size must equal that of the states.
    let mut tensors = whole;
    tensors.remove("text_projection.weight");
    assert_says(encode(&tensors), &["missing the tensor `text_projection.weight`", "[12, 16]"]);
}

/// A file of T5's weights that can be changed, and a device that needs the feed-forward matrices in 16 bits.
struct SmallDevice {
    folder: TempDir,
    config: T5Config,
    tensors: Tensors,
    gpu: Arc<Gpu>,
}

impl SmallDevice {
    fn new() -> Self {
        let source = formats("sd35_tiny_pipeline/text_encoder_3");
        let config = read_config(&source.join("config.json")).expect("it is complete");
        let tensors = read_tensors(&source.join("model.safetensors")).expect("it is complete");
        // They have 12 KiB in 32 bits.
        Self { folder: folder(), config, tensors, gpu: cutting_stores(8 << 10) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("model.safetensors")
    }

    fn encode(&self, gpu: &Arc<Gpu>) -> flowdppo_wgpu::Result<Vec<f32>> {
        let tokens = Tokens::new((1..65).collect(), vec![64], 64);
        encode_t5(gpu, &self.config, &Weights::open(&self.path(), "")?, &tokens, false)
    }
}

/// Nothing is rounded again.
#[test]
fn matrices_of_16_bits_stay_as_they_are() {
    let it = SmallDevice::new();
    for dtype in [Dtype::F16, Dtype::BF16] {
        write_half(&it.path(), &it.tensors, dtype);
        let [small, large] = [&it.gpu, gpu()].map(|gpu| it.encode(gpu).expect("they fit"));
        assert_close(&format!("{dtype:?} in 16 bits"), &small, &large, TOLERANCE);
    }
}

#[test]
fn matrices_beyond_16_bits_lead_to_one_sentence() {
    let it = SmallDevice::new();
    let last = "encoder.block.1.layer.1.DenseReluDense.wo.weight";
    let encode = |change: &dyn Fn(&mut [f32])| {
        let mut tensors = it.tensors.clone();
        change(&mut tensors.get_mut(last).expect("it is there").1);
        write_tensors(&it.path(), &tensors)?;
        it.encode(&it.gpu)
    };
    encode(&|values| values[5] = 65_504.0).expect("it is the largest number in 16 bits");
    let message = ["model.safetensors", last, "MiB in one piece", "16 bits cannot keep it"];
    assert_says(encode(&|values| values[5] = -1e5), &[&message[..], &["1 of its 3072 values", "65504"]].concat());
    let small = |values: &mut [f32]| values.iter_mut().for_each(|value| *value *= 1e-7);
    assert_says(encode(&small), &[&message[..], &["round to 0"]].concat());
}

#[test]
fn bad_configurations_lead_to_one_sentence() {
    let good = config();
    let check = |config: ClipTextConfig| config.check("config.json");
    check(good.clone()).expect("it is good");
    assert_says(check(ClipTextConfig { hidden_act: "mish".into(), ..good.clone() }), &["`hidden_act`", "\"mish\""]);
    assert_says(check(ClipTextConfig { num_hidden_layers: 0, ..good.clone() }), &["`num_hidden_layers` is 0"]);
    assert_says(check(ClipTextConfig { num_attention_heads: 3, ..good.clone() }), &["`num_attention_heads` 3"]);
    assert_says(check(ClipTextConfig { vocab_size: 1 << 40, ..good.clone() }), &["`vocab_size`", "65535"]);
    let vision = ClipVisionConfig { patch_size: 300, ..ClipVisionConfig::default() };
    assert_says(vision.check("config.json"), &["`patch_size` 300"]);

    let t5: T5Config =
        read_config(&formats("sd35_tiny_pipeline/text_encoder_3/config.json")).expect("the file is complete");
    t5.check("config.json").expect("it is good");
    let other = T5Config { feed_forward_proj: "relu".into(), ..t5.clone() };
    assert_says(other.check("config.json"), &["`feed_forward_proj` is \"relu\"", "1.1"]);
    let other = T5Config { relative_attention_num_buckets: 7, ..t5.clone() };
    assert_says(other.check("config.json"), &["`relative_attention_num_buckets` is 7"]);
    let weights = Weights::open(&formats("sd35_tiny_pipeline/text_encoder_3"), "").expect("it is complete");
    let tokens = Tokens::new(vec![1, 500], vec![2], 2);
    assert_says(encode_t5(gpu(), &t5, &weights, &tokens, false), &["knows 120 tokens", "token 500"]);
    let weights = Weights::open(&formats("sd35_tiny_pipeline/text_encoder"), "").expect("it is complete");
    let tokens = Tokens::new(vec![1; 78], vec![78], 78);
    assert_says(encode_clip_text(gpu(), &good, &weights, &tokens), &["78 tokens", "77"]);

    let folder = folder();
    assert_says(ClipConfig::read(folder.path()), &["config.json"]);
    fs::write(folder.path().join("config.json"), "7").expect("the folder is writable");
    assert_says(ClipConfig::read(folder.path()), &["config.json", "configuration"]);
}

#[test]
fn bad_tokenizers_lead_to_one_sentence() {
    let (folder, good) = (folder(), formats("sd35_tiny_pipeline/tokenizer"));
    let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).expect("the folder is writable");
    let open = || Tokenizer::open(folder.path());
    assert_says(open(), &["neither tokenizer.json nor both vocab.json and merges.txt"]);
    write("spiece.model", "");
    assert_says(open(), &["spiece.model", "tokenizer.json"]);
    fs::copy(good.join("merges.txt"), folder.path().join("merges.txt")).expect("the folder is writable");
    write("vocab.json", "{\"a\": 1}");
    assert_says(open(), &["vocab.json", "<|startoftext|>"]);
    write("vocab.json", "{");
    assert_says(open(), &["vocab.json"]);
    fs::copy(good.join("vocab.json"), folder.path().join("vocab.json")).expect("the folder is writable");
    open().expect("CLIP's special tokens are known");
    write("merges.txt", "one two three");
    assert_says(open(), &["is not a supported tokenizer"]);
    write("tokenizer.json", "{}");
    assert_says(open(), &["is not a supported tokenizer"]);
}

#[test]
fn unsupported_preprocessing_leads_to_one_sentence() {
    let (folder, vision) = (folder(), ClipVisionConfig::default());
    let read = |text: &str| {
        fs::write(folder.path().join("preprocessor_config.json"), text).expect("the folder is writable");
        PicturePreparation::read(folder.path(), &vision)
    };
    // Old files have plain numbers.
    let old = read(r#"{"size": 224, "crop_size": 224}"#).expect("it is good");
    assert_eq!(old, PicturePreparation::of_clip(&vision));
    assert_says(read(r#"{"size": 224, "resample": 2}"#), &["`resample` is 2"]);
    assert_says(read(r#"{"size": {"width": 3}}"#), &["`size`", "shortest_edge"]);
    assert_says(read(r#"{"size": 200}"#), &["200", "224"]);
    assert_says(read(r#"{"size": 224, "image_std": [1, 0, 1]}"#), &["`image_std`"]);
    assert_says(read("{}"), &["preprocessor_config.json", "size"]);
}
