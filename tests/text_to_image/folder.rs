//! Published models on disk: folders, shards, variants, single files and the hub's cache contain the same tensors.

use std::collections::BTreeMap;

use flowdppo_wgpu::model::folder::{
    Hub, Pipeline, SingleFile, State, StoredAs, StoredTensors, component_class, open_weights, read_config, to_diffusers,
};
use flowdppo_wgpu::model::{Tensors, read_tensors, serialize_tensors};
use flowdppo_wgpu::{Error, Result};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;

use crate::common::formats;

/// The transformer as diffusers saved it, in f32.
fn transformer() -> Tensors {
    read_tensors(&formats("sd35_tiny_pipeline/transformer/diffusion_pytorch_model.safetensors")).unwrap()
}

fn read_all(tensors: &StoredTensors) -> Tensors {
    let read = |(name, stored): (&String, &flowdppo_wgpu::model::folder::StoredTensor)| {
        let values = stored.read().unwrap_or_else(|cause| panic!("{cause}"));
        (name.clone(), (stored.shape().to_vec(), values))
    };
    tensors.tensors().iter().map(read).collect()
}

/// Asserts equal names and shapes, and values that are those of `expected` after `round`, to the bit.
fn assert_same(found: &Tensors, expected: &Tensors, round: impl Fn(f32) -> f32) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, (shape, values)) in found {
        let (expected_shape, expected) = &expected[name];
        assert_eq!(shape, expected_shape, "{name}");
        let wrong = values.iter().zip(expected).position(|(a, b)| a.to_bits() != round(*b).to_bits());
        assert_eq!(wrong, None, "{name}");
    }
}

/// The message of an error, which must be about the input and one line long.
fn message<T>(result: Result<T>) -> String {
    match result {
        Err(Error::Input(message)) => {
            assert!(!message.contains('\n') && message.len() < 600, "{message}");
            message
        }
        Err(other) => panic!("another kind of error: {other:?}"),
        Ok(_) => panic!("nothing is wrong"),
    }
}

fn place(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    folder
}

fn small(names: &[&str]) -> Vec<u8> {
    serialize_tensors(&names.iter().map(|name| ((*name).to_owned(), (vec![2, 2], vec![1.0; 4]))).collect())
}

#[test]
fn folders_variants_and_shards_contain_the_same_tensors() {
    let expected = transformer();
    let open = |name: &str| read_all(&open_weights(&formats(name), None).unwrap());
    assert_same(&open("sd35_tiny_pipeline/transformer"), &expected, |value| value);
    assert_same(&open("sd35_tiny_variants/transformer_sharded"), &expected, |value| value);
    // The stored numbers are the f32 ones rounded once; reading them is exact.
    for name in ["transformer_fp16", "transformer_sharded_fp16"] {
        assert_same(&open(&format!("sd35_tiny_variants/{name}")), &expected, |value| f16::from_f32(value).to_f32());
    }
    assert_same(&open("sd35_tiny_variants/transformer_bf16"), &expected, |value| bf16::from_f32(value).to_f32());
}

#[test]
fn single_files_are_split_into_current_tensors() {
    let file = SingleFile::open(&formats("sd35_tiny_variants/sd35_tiny_single_file.safetensors")).unwrap();
    assert_eq!((file.components.keys().copied().collect::<Vec<_>>(), file.others), (vec!["transformer", "vae"], 0));
    assert_same(&read_all(&file.components["transformer"]), &transformer(), |value| value);
    let vae = read_tensors(&formats("sd35_tiny_pipeline/vae/diffusion_pytorch_model.safetensors")).unwrap();
    assert_same(&read_all(&file.components["vae"]), &vae, |value| value);

    let file = SingleFile::open(&formats("sd35_tiny_variants/sd35_tiny_single_file_fp8_e4m3.safetensors")).unwrap();
    let stored = &file.components["transformer"];
    let attention = stored.get("transformer_blocks.0.attn.to_q.weight").unwrap();
    assert_eq!(attention.stored_as(), StoredAs::Plain(Dtype::F8_E4M3));
    for (name, (_, values)) in read_all(stored) {
        for (value, exact) in values.iter().zip(&transformer()[&name].1) {
            // Three fraction bits: half of 2⁻³ of the number, or of the smallest step, 2⁻⁹.
            assert!((value - exact).abs() <= exact.abs() / 16.0 + 1.0 / 1024.0, "{name}: {value} for {exact}");
        }
    }
}

#[test]
fn a_gguf_file_contains_the_same_tensors_in_blocks() {
    let file = SingleFile::open(&formats("quant_vectors/sd35_tiny_q8_0.gguf")).unwrap();
    let (stored, expected) = (&file.components["transformer"], transformer());
    assert!(stored.tensors().values().any(|tensor| tensor.stored_as() == StoredAs::Q8_0));
    let found = read_all(stored);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, (shape, values)) in &found {
        let (expected_shape, exact) = &expected[name];
        assert_eq!(shape, expected_shape, "{name}");
        let largest = exact.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        for (value, exact) in values.iter().zip(exact) {
            // Half a step of 1/127 of the largest number of a block, and the scale's own rounding to 11 bits.
            assert!((value - exact).abs() <= largest * (0.5 / 127.0 + 1.0 / 1024.0), "{name}: {value} for {exact}");
        }
    }
}

/// The tables and blocks that the gguf package and torch decoded.
#[test]
fn stored_numbers_have_their_reference_values() {
    let vectors = read_tensors(&formats("quant_vectors/quant.safetensors")).unwrap();
    let codes: Vec<u8> = (0..=255).collect();
    for (dtype, table) in [(Dtype::F8_E4M3, "f8_e4m3fn.table"), (Dtype::F8_E5M2, "f8_e5m2.table")] {
        let found = StoredAs::Plain(dtype).widen(&codes).unwrap();
        for (code, (value, expected)) in found.iter().zip(&vectors[table].1).enumerate() {
            // The file encodes values that JSON cannot represent.
            let value = match value {
                value if value.is_nan() => 12345.0,
                value if value.is_infinite() => 1e30_f32.copysign(*value),
                value => *value,
            };
            assert_eq!(value, *expected, "{table}: {code:#04x}");
        }
    }
    let blocks = [
        ("q8_0", StoredAs::Q8_0),
        ("q4_0", StoredAs::Q4_0),
        ("q4_1", StoredAs::Q4_1),
        ("q5_0", StoredAs::Q5_0),
        ("bf16", StoredAs::Plain(Dtype::BF16)),
    ];
    for (name, stored_as) in blocks {
        let bytes: Vec<u8> = vectors[&format!("{name}.bytes")].1.iter().map(|byte| *byte as u8).collect();
        let found = stored_as.widen(&bytes).unwrap();
        let expected = &vectors[&format!("{name}.dequant")].1;
        assert_eq!(found.len(), expected.len());
        for (value, expected) in found.iter().zip(expected) {
            // A product and a sum in f32, which may have been fused on one side.
            assert!((value - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{name}: {value} for {expected}");
        }
    }
}

#[test]
fn rows_of_a_tensor_are_read_alone() {
    let stored = open_weights(&formats("sd35_tiny_pipeline/transformer"), None).unwrap();
    let table = stored.get("pos_embed.pos_embed").unwrap();
    let all = table.read().unwrap();
    // Rows 5 and 6 of the 16 x 16 table of width 32, columns 3 to 9.
    for row in [5, 6] {
        let from = (row * 16 + 3) * 32;
        let part = table.range(from..from + 7 * 32).unwrap();
        assert_eq!(part.read().unwrap(), all[from..from + 7 * 32]);
    }
    let bias = stored.get("proj_out.weight").unwrap();
    assert_eq!(bias.rows(3..5).unwrap().read().unwrap(), bias.read().unwrap()[3 * 32..5 * 32]);
    assert!(message(bias.rows(60..65)).contains("tensor `proj_out.weight` has shape [64, 32], but 65 rows are needed"));
    let gguf = StoredTensors::open(&formats("quant_vectors/sd35_tiny_q8_0.gguf")).unwrap();
    let blocks = gguf.tensors().values().find(|tensor| tensor.stored_as() == StoredAs::Q8_0).unwrap();
    assert!(message(blocks.range(16..48)).contains("in blocks of 32 numbers"));
}

#[test]
fn the_variant_is_chosen_in_a_fixed_order() {
    let [plain, half, other] = [small(&["plain"]), small(&["half"]), small(&["other"])];
    let has = |folder: &TempDir, variant| {
        let tensors = open_weights(folder.path(), variant).unwrap();
        tensors.tensors().keys().next().unwrap().clone()
    };
    let stem = "diffusion_pytorch_model";
    let all = place(&[
        (&format!("{stem}.safetensors"), plain.clone()),
        (&format!("{stem}.fp16.safetensors"), half.clone()),
        (&format!("{stem}.non_ema.safetensors"), other.clone()),
    ]);
    assert_eq!(
        (has(&all, None), has(&all, Some("fp16")), has(&all, Some("non_ema"))),
        ("plain".into(), "half".into(), "other".into())
    );
    let text = message(open_weights(all.path(), Some("bf16")));
    assert!(text.contains("no weights of the variant \"bf16\": its variants are none, fp16, non_ema"), "{text}");
    let two = place(&[("model.fp16.safetensors", half), ("model.bf16.safetensors", other.clone())]);
    assert_eq!(has(&two, None), "half");
    assert_eq!(has(&place(&[("model.bf16.safetensors", other.clone())]), None), "other");
    let none = place(&[("model.bf16.safetensors", other.clone()), ("model.fp32.safetensors", other)]);
    assert!(message(open_weights(none.path(), None)).contains("variants bf16, fp32: choose one"));
    let pickle = place(&[("pytorch_model.bin", vec![])]);
    assert!(message(open_weights(pickle.path(), None)).contains("has its weights in pytorch_model.bin, but only"));
    let shard = place(&[("model-00001-of-00002.safetensors", plain)]);
    assert!(message(open_weights(shard.path(), None)).contains("but no index"));
    assert!(
        message(open_weights(place(&[]).path(), None)).contains("has no weights: expected diffusion_pytorch_model")
    );
}

#[test]
fn a_pipeline_names_its_components() {
    let folder = formats("sd35_tiny_pipeline");
    let pipeline = Pipeline::open(&folder).unwrap();
    assert_eq!(pipeline.kind.class, "StableDiffusion3Pipeline");
    assert!(pipeline.components.iter().all(|component| component.state == State::Present));
    assert_same(&read_all(&pipeline.weights("transformer", None).unwrap()), &transformer(), |value| value);
    assert_eq!(pipeline.config("text_encoder_3").unwrap()["d_model"], 48);
    let config = read_config(&folder.join("vae")).unwrap();
    assert_eq!(component_class(&folder.join("vae"), &config).unwrap(), ("AutoencoderKL".into(), vec!["vae"]));

    let index = std::fs::read_to_string(folder.join("model_index.json")).unwrap();
    let without = index.replace("\"transformers\",\n    \"T5EncoderModel\"", "null,\n    null");
    let some = place(&[("model_index.json", without.into_bytes()), ("vae/config.json", b"{}".to_vec())]);
    let pipeline = Pipeline::open(some.path()).unwrap();
    let state = |name: &str| pipeline.components.iter().find(|component| component.name == name).unwrap().state;
    assert_eq!(
        [state("vae"), state("text_encoder_3"), state("transformer")],
        [State::Present, State::Null, State::Missing]
    );
    let text = message(pipeline.weights("transformer", None));
    assert!(text.contains("has no folder `transformer`, which its model_index.json names: download it"), "{text}");
    assert!(message(pipeline.weights("text_encoder_3", None)).contains("it is null in its"));

    for (from, to, expected) in [
        (
            "StableDiffusion3Pipeline",
            "FluxPipeline",
            "is of a FluxPipeline, which is not supported: only StableDiffusion3Pipeline",
        ),
        (
            "SD3Transformer2DModel",
            "UNet2DConditionModel",
            "`transformer` is a UNet2DConditionModel, which is not supported: expected SD3",
        ),
        ("_class_name", "class", "has no `_class_name`"),
        ("{", "[", "is not an object in JSON"),
    ] {
        let changed = place(&[("model_index.json", index.replacen(from, to, 1).into_bytes())]);
        let text = message(Pipeline::open(changed.path()));
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn older_names_are_converted_to_current_ones() {
    let vae = read_tensors(&formats("sd35_tiny_pipeline/vae/diffusion_pytorch_model.safetensors")).unwrap();
    let old = vae.iter().map(|(name, tensor)| {
        let old = name.replace(".to_q.", ".query.").replace(".to_k.", ".key.").replace(".to_v.", ".value.");
        (old.replace(".to_out.0.", ".proj_attn."), tensor.clone())
    });
    let bytes = serialize_tensors(&old.collect());
    let folder = place(&[("diffusion_pytorch_model.safetensors", bytes)]);
    let stored = open_weights(folder.path(), None).unwrap();
    assert!(stored.tensors().contains_key("encoder.mid_block.attentions.0.query.weight"));
    assert_same(&read_all(&to_diffusers("vae", &stored).unwrap()), &vae, |value| value);
    // The layers of TAESD, whose decoder starts with one without weights.
    let tensors: Vec<u8> =
        small(&["decoder.1.weight", "decoder.3.conv.0.bias", "encoder.0.weight", "encoder.1.conv.2.bias"]);
    let folder = place(&[("taesd.safetensors", tensors)]);
    let file = SingleFile::open(&folder.path().join("taesd.safetensors")).unwrap();
    let expected = [
        "decoder.layers.0.weight",
        "decoder.layers.2.conv.0.bias",
        "encoder.layers.0.weight",
        "encoder.layers.1.conv.2.bias",
    ];
    assert_eq!(file.components["vae"].tensors().keys().collect::<Vec<_>>(), expected);
}

fn hub(model: &str, commits: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for commit in commits {
        let snapshot = folder.path().join(format!("models--{}/snapshots/{commit}", model.replace('/', "--")));
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::write(snapshot.join("model_index.json"), commit).unwrap();
    }
    folder
}

#[test]
fn the_hubs_cache_is_searched_and_never_filled() {
    let model = "stabilityai/stable-diffusion-3.5-medium";
    let cache = hub(model, &["aaa", "bbb"]);
    let hub = Hub(cache.path().to_owned());
    let refs = cache.path().join("models--stabilityai--stable-diffusion-3.5-medium/refs");
    std::fs::create_dir_all(&refs).unwrap();
    for commit in ["aaa", "bbb"] {
        std::fs::write(refs.join("main"), format!("{commit}\n")).unwrap();
        assert!(hub.find(model).unwrap().ends_with(commit));
    }
    // A reference to a missing snapshot, or to a path outside.
    for commit in ["ccc", "../../.."] {
        std::fs::write(refs.join("main"), commit).unwrap();
        let found = hub.find(model).unwrap();
        assert!(found.join("model_index.json").is_file() && found.parent().unwrap().ends_with("snapshots"));
    }
    let text = message(hub.find("black-forest-labs/FLUX.1-dev"));
    for part in [
        "neither a file nor in the cache",
        "licence at https://huggingface.co/black-forest-labs/FLUX.1-dev",
        "`huggingface-cli download black-forest-labs/FLUX.1-dev`",
        "`git clone https://huggingface.co/black-forest-labs/FLUX.1-dev`",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

/// The layout of the hub's own programs: snapshots are links into `blobs`.
#[cfg(unix)]
#[test]
fn links_of_a_snapshot_are_followed() {
    use std::os::unix::fs::symlink;
    let cache = hub("a/b", &["123"]);
    let snapshot = Hub(cache.path().to_owned()).find("a/b").unwrap();
    std::fs::create_dir_all(snapshot.join("transformer")).unwrap();
    let blobs = cache.path().join("models--a--b/blobs");
    std::fs::create_dir(&blobs).unwrap();
    std::fs::copy(formats("sd35_tiny_pipeline/transformer/diffusion_pytorch_model.safetensors"), blobs.join("f00"))
        .unwrap();
    let link = snapshot.join("transformer/diffusion_pytorch_model.safetensors");
    symlink("../../../blobs/f00", &link).unwrap();
    assert_same(&read_all(&open_weights(link.parent().unwrap(), None).unwrap()), &transformer(), |value| value);
    std::fs::remove_file(blobs.join("f00")).unwrap();
    assert!(message(open_weights(link.parent().unwrap(), None)).contains("cannot read"));
}

/// A header with these tensors: name, shape and range of bytes.
fn header(tensors: &[(&str, usize, [usize; 2])]) -> Vec<u8> {
    let entries: serde_json::Map<String, serde_json::Value> = tensors
        .iter()
        .map(|(name, count, range)| {
            ((*name).to_owned(), serde_json::json!({ "dtype": "F32", "shape": [count], "data_offsets": range }))
        })
        .collect();
    let json = serde_json::to_vec(&entries).unwrap();
    [&(json.len() as u64).to_le_bytes()[..], &json].concat()
}

#[test]
fn damaged_files_lead_to_one_sentence() {
    let whole = small(&["a", "b"]);
    let huge = [&u64::MAX.to_le_bytes()[..], b"{\"a\": 1}"].concat();
    let long = [&1000_u64.to_le_bytes()[..], b"{}"].concat();
    let overlapping = [header(&[("a", 2, [0, 8]), ("b", 2, [4, 12])]), vec![0; 12]].concat();
    let gap = [header(&[("a", 1, [0, 4]), ("b", 1, [8, 12])]), vec![0; 12]].concat();
    let wrong_size = [header(&[("a", 3, [0, 8])]), vec![0; 8]].concat();
    let not_json = [&4_u64.to_le_bytes()[..], b"nope"].concat();
    let cases: [(&str, Vec<u8>, &str); 13] = [
        ("truncated data", whole[..whole.len() - 1].to_vec(), "its tensors end at byte"),
        ("truncated header", whole[..20].to_vec(), "its header claims"),
        ("no length", whole[..5].to_vec(), "it has 5 bytes"),
        ("more behind", [whole.clone(), vec![0]].concat(), "its tensors end at byte"),
        ("empty", vec![], "it is an empty file"),
        ("a header beyond any file", huge, "is not a complete safetensors file"),
        ("a header beyond this file", long, "its header claims 1000 bytes, the file has 10"),
        ("overlapping", overlapping, "is not a complete safetensors file"),
        ("a gap", gap, "is not a complete safetensors file"),
        ("a wrong size", wrong_size, "is not a complete safetensors file"),
        ("not JSON", not_json, "is not"),
        ("a page", b"<!DOCTYPE html><html>".to_vec(), "is not safetensors: it is a web page"),
        ("a pointer", b"version https://git-lfs.github.com/spec/v1\noid".to_vec(), "it is a Git LFS pointer"),
    ];
    for (case, bytes, expected) in cases {
        let folder = place(&[("model.safetensors", bytes)]);
        let text = message(StoredTensors::open(&folder.path().join("model.safetensors")));
        assert!(text.contains(expected) && text.contains("model.safetensors"), "{case}: {text}");
    }
    let gguf = std::fs::read(formats("quant_vectors/sd35_tiny_q8_0.gguf")).unwrap();
    for length in (4..gguf.len()).step_by(997) {
        let folder = place(&[("model.gguf", gguf[..length].to_vec())]);
        assert!(
            message(StoredTensors::open(&folder.path().join("model.gguf"))).contains("is not a complete GGUF file")
        );
    }
    assert!(message(StoredTensors::open(&formats(""))).contains("it is a directory, but a file is needed"));
}

/// Whatever bytes change in a header, the result is a message or a set of tensors, never a panic.
#[test]
fn changed_bytes_are_harmless() {
    let folder = place(&[]);
    let path = folder.path().join("model");
    for whole in [small(&["a", "b"]), std::fs::read(formats("quant_vectors/sd35_tiny_q8_0.gguf")).unwrap()] {
        for at in 4..whole.len().min(400) {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                std::fs::write(&path, bytes).unwrap();
                if let Ok(tensors) = StoredTensors::open(&path) {
                    tensors.tensors().values().for_each(|tensor| drop(tensor.read()));
                    let _ = SingleFile::of(&tensors);
                }
            }
        }
    }
}

#[test]
fn an_index_and_its_shards_agree() {
    let index = |map: &str| format!("{{\"metadata\": {{}}, \"weight_map\": {{{map}}}}}").into_bytes();
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let map = format!("\"a\": \"{one}\", \"b\": \"{two}\"");
    let open = |files: &[(&str, Vec<u8>)]| open_weights(place(files).path(), None);
    let name = "model.safetensors.index.json";
    let good = open(&[(name, index(&map)), (one, small(&["a", "unmapped"])), (two, small(&["b"]))]).unwrap();
    assert_eq!(good.tensors().keys().collect::<Vec<_>>(), ["a", "b"]);
    let missing = message(open(&[(name, index(&map)), (one, small(&["a"]))]));
    assert!(missing.contains("names the shard model-00002-of-00002.safetensors, which is missing"), "{missing}");
    let twice = message(open(&[(name, index(&map)), (one, small(&["a", "b"])), (two, small(&["b"]))]));
    assert!(twice.contains("the tensor `b` is in two shards"), "{twice}");
    let elsewhere = message(open(&[(name, index(&map)), (one, small(&["a"])), (two, small(&["c"]))]));
    assert!(elsewhere.contains("the tensor `b` is in model-00002-of-00002.safetensors, but it is not"), "{elsewhere}");
    let outside = message(open(&[(name, index("\"a\": \"../a.safetensors\""))]));
    assert!(outside.contains("expected the name of a file next to it"), "{outside}");
    for (bytes, expected) in [
        (b"{".to_vec(), "it is not JSON"),
        (b"[]".to_vec(), "it has no `weight_map`"),
        (index(""), "it has no `weight_map`"),
        (b"<html>".to_vec(), "it is a web page"),
    ] {
        let text = message(open(&[(name, bytes)]));
        assert!(text.contains("is not the index of a sharded model") && text.contains(expected), "{text}");
    }
}

#[test]
fn scaled_fp8_is_not_read_without_its_scales() {
    let bytes = vec![0x38; 4];
    let scale = 2.0_f32.to_le_bytes();
    let views = BTreeMap::from([
        ("a.weight", TensorView::new(Dtype::F8_E4M3, vec![2, 2], &bytes).unwrap()),
        ("a.scale_weight", TensorView::new(Dtype::F32, vec![], &scale).unwrap()),
    ]);
    let folder = place(&[("model.safetensors", safetensors::serialize(views, None).unwrap())]);
    let stored = StoredTensors::open(&folder.path().join("model.safetensors")).unwrap();
    assert!(message(stored.read("a.weight")).contains("tensor `a.weight` is scaled fp8"));
    assert_eq!(stored.read("a.scale_weight").unwrap(), [2.0]);
    assert!(message(stored.read("a.weigth")).contains("is missing the tensor `a.weigth`; it has `a.weight`"));
}
