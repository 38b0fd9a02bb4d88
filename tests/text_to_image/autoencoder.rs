//! Autoencoders against outputs of diffusers 0.42, for tiny models with random weights.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use flowdppo_wgpu::error::Result;
use flowdppo_wgpu::model::{Autoencoder, AutoencoderConfig, PictureDecoder, Tensors, read_tensors, write_tensors};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::common::{formats, gpu};

const SD3: &str = "sd35_tiny_pipeline/vae";
const SD1: &str = "vae_sd1_tiny";
const TAESD: &str = "taesd_tiny";
const TAESD3: &str = "taesd3_tiny";
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

fn load(folder: &str) -> Autoencoder {
    Autoencoder::load(&formats(folder)).expect("the folder is complete")
}

fn config(folder: &str) -> AutoencoderConfig {
    load(folder).config().clone()
}

fn weights(folder: &str) -> Tensors {
    read_tensors(&formats(folder).join(WEIGHTS)).expect("the file is complete")
}

/// Inputs and outputs of a model.
struct Io(Tensors);

impl Io {
    fn of(folder: &str) -> Self {
        Self(read_tensors(&formats(folder).join("io.safetensors")).expect("the file is complete"))
    }

    fn values(&self, name: &str) -> &[f32] {
        &self.0[name].1
    }

    /// Rows and columns.
    fn size(&self, name: &str) -> [usize; 2] {
        let shape = &self.0[name].0;
        [shape[2], shape[3]]
    }
}

/// The largest difference, relative to the largest expected value.
fn difference(actual: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(actual.len(), expected.len());
    assert!(actual.iter().all(|value| value.is_finite()), "a result is not finite");
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    actual.iter().zip(expected).fold(0.0_f32, |worst, (a, e)| worst.max((a - e).abs())) / largest
}

/// About thirty layers of f32 sums in another order than the reference: each is off by a few 1e-7 of its largest value,
/// and group norm preserves relative errors. The largest measured error was 2.3e-6, on lavapipe.
const TOLERANCE: f32 = 1e-5;

fn check(what: &str, actual: &[f32], expected: &[f32]) {
    let difference = difference(actual, expected);
    println!("{what}: {difference:.1e} of the largest value");
    assert!(difference <= TOLERANCE, "{what} differs by {difference:.1e} of its largest value");
}

#[test]
fn sd3_matches_its_reference_outputs() {
    let (autoencoder, io) = (load(SD3), Io::of(SD3));
    assert_eq!((autoencoder.config().factor(), autoencoder.config().latent_channels()), (8, 16));
    let mut decoder = autoencoder.decoder(gpu(), 1).expect("it is small");
    let pictures = decoder.decode(io.values("latents"), io.size("latents")).expect("the device works");
    check("image", &pictures, io.values("image"));
    let mut encoder = autoencoder.encoder(gpu(), 1).expect("it is small");
    let encoded = encoder.encode(io.values("vae.image_in"), io.size("vae.image_in")).expect("the device works");
    check("mean", &encoded.mean, io.values("vae.mean"));
    check("logvar", &encoded.logvar, io.values("vae.logvar"));
    check("scaled", &autoencoder.config().scaled(&encoded.mean), io.values("vae.mode_scaled"));
}

/// With quantisation layers, without a shift, and not square.
fn check_sd1(autoencoder: &Autoencoder) {
    let io = Io::of(SD1);
    let mut decoder = autoencoder.decoder(gpu(), 2).expect("it is small");
    let size = io.size("latents");
    let decoded = decoder.decode(io.values("latents"), size).expect("the device works");
    check("decoded", &decoded, io.values("decoded"));
    let mut encoder = autoencoder.encoder(gpu(), 2).expect("it is small");
    let encoded = encoder.encode(io.values("image_in"), io.size("image_in")).expect("the device works");
    check("mean", &encoded.mean, io.values("mean"));
    check("logvar", &encoded.logvar, io.values("logvar"));
    let scaled = autoencoder.config().scaled(&encoded.mean);
    check("scaled", &scaled, io.values("mode_scaled"));
    let again = decoder.decode(&scaled, size).expect("the device works");
    check("reconstruction", &again, io.values("reconstruction"));
}

#[test]
fn sd1_matches_its_reference_outputs() {
    check_sd1(&load(SD1));
}

#[test]
fn taesd_matches_its_reference_outputs() {
    let io = Io::of(TAESD);
    let mut decoder = load(TAESD).decoder(gpu(), 1).expect("it is small");
    let pictures = decoder.decode(io.values("latent"), io.size("latent")).expect("the device works");
    check("image", &pictures, io.values("output"));
    let (autoencoder, io) = (load(TAESD3), Io::of(TAESD3));
    let mut decoder = autoencoder.decoder(gpu(), 2).expect("it is small");
    let pictures = decoder.decode(io.values("latents"), io.size("latents")).expect("the device works");
    check("image", &pictures, io.values("decoded"));
    let mut encoder = autoencoder.encoder(gpu(), 2).expect("it is small");
    let encoded = encoder.encode(io.values("image_in"), io.size("image_in")).expect("the device works");
    check("latents", &encoded.mean, io.values("encoded"));
    assert!(encoded.logvar.is_empty(), "it has no variances");
}

/// The tensors of a model under the names of another format, which a text file lists with their shapes.
fn renamed(folder: &str, list: &str, prefix: &str) -> Tensors {
    let tensors = weights(folder);
    let list = fs::read_to_string(formats(folder).join(list)).expect("the file is there");
    list.lines()
        .map(|line| {
            let [name, ours, shape] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("three words, not {line}")
            };
            let shape = shape.split(',').map(|extent| extent.parse().expect("a number")).collect();
            (format!("{prefix}{name}"), (shape, tensors[ours].1.clone()))
        })
        .collect()
}

#[test]
fn models_with_other_names_are_the_same() {
    let of = |folder, list, prefix| {
        Autoencoder::from_tensors("file", config(folder), renamed(folder, list, prefix)).expect("the names are known")
    };
    for (folder, list) in [(SD1, "original_names.txt"), (SD1, "deprecated_names.txt"), (TAESD3, "original_names.txt")] {
        assert_eq!(of(folder, list, ""), load(folder), "{folder}/{list}");
    }
    // In a file with other networks, and with tensors that only training needs.
    let mut tensors = renamed(SD1, "original_names.txt", "first_stage_model.");
    tensors.insert("model.diffusion_model.x_embedder.proj.bias".into(), (vec![1], vec![0.0]));
    tensors.insert("first_stage_model.loss.logvar".into(), (vec![], vec![0.0]));
    let autoencoder = Autoencoder::from_tensors("file", config(SD1), tensors).expect("the names are known");
    assert_eq!(autoencoder, load(SD1));
    check_sd1(&autoencoder);
}

/// What is read of a single file of these tensors, as the autoencoder of a model whose latents have so many channels.
fn opened(place: &Path, tensors: &Tensors, channels: usize) -> Result<Autoencoder> {
    let file = place.join("vae.safetensors");
    write_tensors(&file, tensors).expect("it is writable");
    PictureDecoder::open(&file, channels, "those of it")?.read()
}

#[test]
fn single_files_are_opened_with_their_sizes_beside_them_or_as_a_published_model() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let refused = |folder: &str, channels: usize| {
        opened(place.path(), &weights(folder), channels).expect_err("it is none of the published ones").to_string()
    };
    // The published ones are larger than these.
    assert_says(
        &refused(SD1, 4),
        &["`decoder.conv_in.weight` has shape [32, 4, 3, 3], but [512, 4, 3, 3] is expected"],
    );
    assert_says(
        &refused(TAESD, 4),
        &["`decoder.layers.0.weight` has shape [16, 4, 3, 3], but [64, 4, 3, 3] is expected"],
    );
    assert_says(&refused(TAESD3, 4), &["decodes latents of 16 channels, but those of it have 4"]);
    assert_says(&refused(SD3, 16), &["has no config.json beside it"]);
    fs::copy(formats(SD1).join("config.json"), place.path().join("config.json")).expect("it is writable");
    let mut whole = renamed(SD1, "original_names.txt", "first_stage_model.");
    whole.insert("model.diffusion_model.out.2.bias".into(), (vec![1], vec![0.0]));
    for tensors in [weights(SD1), renamed(SD1, "original_names.txt", ""), whole] {
        assert_eq!(opened(place.path(), &tensors, 4).expect("it is complete"), load(SD1));
    }
}

/// A diffusers folder with these weights in 16 bits.
fn folder_in_16_bits(folder: &str, file: &str, dtype: Dtype, bits: fn(f32) -> u16) -> tempfile::TempDir {
    let bytes: HashMap<String, (Vec<usize>, Vec<u8>)> = weights(folder)
        .into_iter()
        .map(|(name, (shape, values))| (name, (shape, values.iter().flat_map(|v| bits(*v).to_le_bytes()).collect())))
        .collect();
    let views = bytes.iter().map(|(name, (shape, bytes))| {
        (name, TensorView::new(dtype, shape.clone(), bytes).expect("the shape fits the number of values"))
    });
    let made = tempfile::tempdir().expect("a temporary folder");
    let file = safetensors::serialize(views, None).map(|bytes| fs::write(made.path().join(file), bytes));
    file.expect("it is writable").expect("it is written");
    fs::copy(formats(folder).join("config.json"), made.path().join("config.json")).expect("it is written");
    made
}

#[test]
fn weights_of_16_bits_equal_rounded_ones_of_32() {
    let rounded = |round: fn(f32) -> f32| {
        let mut tensors = weights(SD3);
        tensors.values_mut().flat_map(|(_, values)| values).for_each(|value| *value = round(*value));
        Autoencoder::from_tensors("rounded", config(SD3), tensors).expect("it is complete")
    };
    let half = folder_in_16_bits(SD3, WEIGHTS, Dtype::F16, |value| f16::from_f32(value).to_bits());
    let loaded = Autoencoder::load(half.path()).expect("the folder is complete");
    assert_eq!(loaded, rounded(|value| f16::from_f32(value).to_f32()));
    let variant = "diffusion_pytorch_model.fp16.safetensors";
    let brain = folder_in_16_bits(SD3, variant, Dtype::BF16, |value| bf16::from_f32(value).to_bits());
    let loaded = Autoencoder::load(brain.path()).expect("the folder is complete");
    assert_eq!(loaded, rounded(|value| bf16::from_f32(value).to_f32()));
}

/// Latents that look random.
fn latents(elements: usize) -> Vec<f32> {
    (0..elements).map(|i| (i as f32 * 1.618).sin() * 1.5).collect()
}

#[test]
fn a_picture_does_not_depend_on_its_batch() {
    for folder in [SD3, SD1, TAESD3] {
        let autoencoder = load(folder);
        let size = [6, 5];
        let latents = latents(5 * autoencoder.config().latent_channels() * 30);
        let alone = autoencoder.decoder(gpu(), 1).and_then(|mut it| it.decode(&latents, size)).expect("it works");
        let pixels = size.map(|extent| extent * autoencoder.config().factor());
        let encoded = autoencoder.encoder(gpu(), 1).and_then(|mut it| it.encode(&alone, pixels)).expect("it works");
        for micro_batch in [2, 5, 7] {
            let mut decoder = autoencoder.decoder(gpu(), micro_batch).expect("it is small");
            assert!(decoder.decode(&latents, size).expect("it works") == alone, "{folder}: {micro_batch} at a time");
            let mut encoder = autoencoder.encoder(gpu(), micro_batch).expect("it is small");
            assert!(encoder.encode(&alone, pixels).expect("it works") == encoded, "{folder}: {micro_batch} at a time");
        }
    }
}

#[test]
fn sizes_may_change_between_calls() {
    let autoencoder = load(SD3);
    let mut decoder = autoencoder.decoder(gpu(), 1).expect("it is small");
    let mut decoded = |size: [usize; 2]| decoder.decode(&latents(16 * size[0] * size[1]), size).expect("it works");
    let first = decoded([4, 6]);
    assert_eq!((first.len(), decoded([3, 2]).len()), (3 * 32 * 48, 3 * 24 * 16));
    assert!(decoded([4, 6]) == first, "the same latents give the same image");
}

/// Two pictures, decoded at once and in tiles.
fn at_once_and_tiled(folder: &str, size: [usize; 2], tile: usize) -> [Vec<f32>; 2] {
    let autoencoder = load(folder);
    let decoder = || autoencoder.decoder(gpu(), 2).expect("it is small");
    let latents = latents(2 * autoencoder.config().latent_channels() * size[0] * size[1]);
    let whole = decoder().decode(&latents, size).expect("it works");
    [whole, decoder().with_tile(tile).decode(&latents, size).expect("it works")]
}

/// The largest and the mean difference, as shares of the largest value.
fn differences([whole, tiled]: &[Vec<f32>; 2]) -> [f32; 2] {
    let largest = whole.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let mean = whole.iter().zip(tiled).map(|(a, b)| (a - b).abs()).sum::<f32>() / whole.len() as f32;
    [difference(tiled, whole), mean / largest]
}

#[test]
fn tiles_are_close_to_the_untiled_picture() {
    // With a tile as large as the picture, nothing changes.
    let [whole, tiled] = at_once_and_tiled(SD3, [6, 5], 6);
    assert!(whole == tiled);
    // A pixel of TAESD depends on latents up to 11 away: 7 convolutions at their resolution, 4 at each of twice and four
    // times that, and 5 at that of pictures. So the corner of the first tile of 16 is as without tiles; where tiles
    // are blended, each lacks what lies beyond its edge.
    let both = at_once_and_tiled(TAESD3, [24, 20], 16);
    for row in 0..8 {
        let pixels = row * 160..row * 160 + 8;
        assert!(difference(&both[1][pixels.clone()], &both[0][pixels]) < 1e-6, "the corner differs in row {row}");
    }
    let [largest, mean] = differences(&both);
    println!("TAESD: at most {largest:.1e}, {mean:.1e} on average");
    assert!(largest < 0.2 && mean < 0.01, "TAESD: {largest:.1e}, {mean:.1e}");
    // Group norm and attention see only one tile, so everything differs a little. These random weights and latents are a
    // hard case: tile and picture have no structure in common.
    let [largest, mean] = differences(&at_once_and_tiled(SD3, [24, 20], 16));
    println!("AutoencoderKL: at most {largest:.1e}, {mean:.1e} on average");
    assert!(largest < 0.3 && mean < 0.03, "AutoencoderKL: {largest:.1e}, {mean:.1e}");
}

/// The error message after a change to the tensors of a model.
fn refused(folder: &str, change: impl FnOnce(&mut Tensors)) -> String {
    let mut tensors = weights(folder);
    change(&mut tensors);
    let outcome = Autoencoder::from_tensors("wrong.safetensors", config(folder), tensors);
    outcome.expect_err("it is wrong").to_string()
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message}\nlacks: {part}");
    }
    assert!(!message.contains(". ") && !message.ends_with('.'), "one sentence: {message}");
}

#[test]
fn wrong_tensors_are_named() {
    let missing = refused(SD1, |tensors| drop(tensors.remove("decoder.mid_block.attentions.0.to_q.bias")));
    assert_says(
        &missing,
        &["wrong.safetensors is missing the tensor `decoder.mid_block.attentions.0.to_q.bias` of shape [32]"],
    );
    let misspelt = refused(SD1, |tensors| {
        let tensor = tensors.remove("quant_conv.weight").expect("it is there");
        tensors.insert("quant_cnov.weight".into(), tensor);
    });
    assert_says(&misspelt, &["is missing the tensor `quant_conv.weight`", "it has `quant_cnov.weight`"]);
    let misshapen =
        refused(SD3, |tensors| tensors.get_mut("decoder.conv_in.weight").expect("it is there").0 = vec![16, 16, 9]);
    assert_says(&misshapen, &["tensor `decoder.conv_in.weight` has shape [16, 16, 9], but [16, 16, 3, 3] is expected"]);
    let linear = refused(SD3, |tensors| {
        tensors.get_mut("decoder.mid_block.attentions.0.to_k.weight").expect("it is there").0 = vec![256];
    });
    assert_says(&linear, &["has shape [256], but [16, 16, 1, 1] or [16, 16] is expected"]);
    let extra = refused(SD3, |tensors| drop(tensors.insert("decoder.up_blocks.4.x".into(), (vec![1], vec![0.0]))));
    assert_says(&extra, &["has a tensor `decoder.up_blocks.4.x` that its autoencoder does not have"]);
    // A level that does not exist.
    let level =
        refused(SD3, |tensors| drop(tensors.insert("decoder.up.9.block.0.conv1.weight".into(), (vec![1], vec![0.0]))));
    assert_says(&level, &["has a tensor `decoder.up.9.block.0.conv1.weight`"]);
    let infinite =
        refused(TAESD, |tensors| tensors.get_mut("decoder.layers.0.bias").expect("it is there").1[3] = f32::NAN);
    assert_says(&infinite, &["tensor `decoder.layers.0.bias` is not finite at element 3"]);
}

#[test]
fn wrong_configurations_name_their_key() {
    let said = |folder: &str, from: &str, to: &str| {
        let text = fs::read_to_string(formats(folder).join("config.json")).expect("the file is there");
        assert!(text.contains(from), "{text}\nlacks: {from}");
        let outcome = AutoencoderConfig::from_json("vae/config.json", &text.replacen(from, to, 1));
        outcome.expect_err("it is wrong").to_string()
    };
    let cases = [
        (SD3, "\"AutoencoderKL\"", "\"AutoencoderDC\"", "`_class_name` is `AutoencoderDC`, but only AutoencoderKL"),
        (SD3, "\"_class_name\"", "\"class\"", "`_class_name` is missing"),
        (
            SD3,
            "\"UpDecoderBlock2D\"",
            "\"AttnUpDecoderBlock2D\"",
            "`up_block_types[0]` is `AttnUpDecoderBlock2D`, but only `UpDecoderBlock2D` is supported",
        ),
        (SD3, "\"DownEncoderBlock2D\",", "", "`down_block_types` has 3 values, but `block_out_channels` has 4"),
        (SD3, "\"norm_num_groups\": 4", "\"norm_num_groups\": 3", "`norm_num_groups` 3 does not divide the 8"),
        (SD3, "\"norm_num_groups\": 4", "\"norm_num_groups\": 0", "`norm_num_groups` has a 0"),
        (SD3, "\"silu\"", "\"mish\"", "`act_fn` is `mish`, but only `silu` is supported"),
        (SD3, "\"latents_mean\": null", "\"latents_mean\": [0.5]", "`latents_mean` and `latents_std`"),
        (SD3, "\"scaling_factor\": 1.5305", "\"scaling_factor\": 0", "`scaling_factor` 0 must be a number above 0"),
        (SD3, "\"layers_per_block\"", "\"layers\"", "missing field `layers_per_block`"),
        (SD3, "\"layers_per_block\": 1", "\"layers_per_block\": -1", "invalid value"),
        (SD3, "{", "", "vae/config.json does not describe an autoencoder"),
        (TAESD, "\"upsampling_scaling_factor\": 2", "\"upsampling_scaling_factor\": 3", "only `2` is supported"),
        (TAESD, "\"relu\"", "\"gelu\"", "`act_fn` is `gelu`, but only `relu` is supported"),
    ];
    for (folder, from, to, expected) in cases {
        assert_says(&said(folder, from, to), &["vae/config.json", expected]);
    }
}

#[test]
fn wrong_files_and_sizes_are_rejected() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let said = |outcome: Result<Autoencoder>| outcome.expect_err("it is wrong").to_string();
    assert_says(&said(Autoencoder::load(folder.path())), &["config.json"]);
    fs::copy(formats(TAESD).join("config.json"), folder.path().join("config.json")).expect("it is written");
    assert_says(&said(Autoencoder::load(folder.path())), &["diffusion_pytorch_model.safetensors"]);
    write_tensors(&folder.path().join(WEIGHTS), &weights(TAESD3)).expect("it is written");
    assert_says(&said(Autoencoder::load(folder.path())), &["diffusion_pytorch_model.safetensors", "expected"]);

    let autoencoder = load(TAESD3);
    let mut decoder = autoencoder.decoder(gpu(), 1).expect("it is small");
    let short = decoder.decode(&[0.0; 100], [2, 3]).expect_err("they are no latents").to_string();
    assert_says(&short, &["100 numbers are not complete latents of 16 channels, 2 rows and 3 columns"]);
    let mut encoder = autoencoder.encoder(gpu(), 1).expect("it is small");
    let odd = encoder.encode(&[0.0; 3 * 8 * 12], [8, 12]).expect_err("12 is no multiple").to_string();
    assert_says(&odd, &["8 rows and 12 columns", "multiples of 8"]);
}

/// The file may change, or be gone, once it has been read.
#[test]
fn weights_are_read_once_for_all_pictures() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for file in ["config.json", WEIGHTS] {
        fs::copy(formats(SD3).join(file), folder.path().join(file)).expect("the file is there");
    }
    let opened = PictureDecoder::open(folder.path(), 16, "those of it").expect("it is complete");
    let decoded = || {
        let mut pictures = Vec::new();
        let mut take = |_: usize, picture: &[f32]| {
            pictures.extend_from_slice(picture);
            Ok(())
        };
        opened.decode(gpu(), &latents(2 * 16 * 4 * 6), [4, 6], None, &mut take).map(|()| pictures)
    };
    let first = decoded().expect("the weights fit");
    let length = fs::metadata(folder.path().join(WEIGHTS)).expect("it is there").len();
    fs::write(folder.path().join(WEIGHTS), vec![0; length as usize]).expect("it is ours");
    assert_eq!(decoded().expect("nothing is read"), first);
    assert!(PictureDecoder::open(folder.path(), 16, "those of it").is_err());
}

const MEMORY_LIMIT: &str = "FLOWDPPO_MEMORY_LIMIT_MIB";

/// In its own process, because the limit is read from the environment.
#[test]
fn tiles_are_used_where_memory_is_short() {
    if std::env::var_os(MEMORY_LIMIT).is_none() {
        let mut again = std::process::Command::new(std::env::current_exe().expect("this program"));
        again.args(["--exact", "text_to_image::autoencoder::tiles_are_used_where_memory_is_short"]);
        let output = again.env(MEMORY_LIMIT, "8").output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    // Without tiles it needs about twelve MiB.
    let size = [32, 32];
    let mut decoder = load(SD3).decoder(gpu(), 1).expect("the weights fit");
    let picture = decoder.decode(&latents(16 * 32 * 32), size).expect("there is room for tiles");
    assert!(picture.len() == 3 * 256 * 256 && picture.iter().all(|value| value.is_finite()));
    let held = gpu().counters().bytes_held;
    assert!(held <= 8 << 20, "{held} bytes");
    // Not even one tile: the device's own message.
    let mut encoder = load(SD3).encoder(gpu(), 1).expect("the weights fit");
    let error = encoder.encode(&vec![0.0; 3 * 512 * 512], [512, 512]).expect_err("there is no room").to_string();
    assert!(error.contains("MiB"), "{error}");
}
