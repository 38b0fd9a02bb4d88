//! CLIP scores as a reward, against transformers.

use std::fs;
use std::path::Path;

use flowdppo_wgpu::classes::Classes;
use flowdppo_wgpu::config::{self, Config, RewardKind};
use flowdppo_wgpu::model::text::{ClipScorer, PICKSCORE_DIVISOR};
use flowdppo_wgpu::model::{Pictures, Tensors, read_tensors, write_tensors};
use flowdppo_wgpu::reward::{Purpose, Rewards, ScoringContext};
use flowdppo_wgpu::rl::inputs;
use flowdppo_wgpu::shape::ImageShape;
use flowdppo_wgpu::shape::from_byte;

use super::text::pictures as rgb_pictures;
use crate::common::{Random, formats, gpu};

/// Of the largest score. It is the sum of 20 products of both signs, whose factors differ by up to 5e-6.
const TOLERANCE: f64 = 1e-4;

const CONTEXT: ScoringContext = ScoringContext { purpose: Purpose::Training, iteration: 0 };

/// The texts of the reference.
const TEXTS: [&str; 3] =
    ["a red apple on a wooden table", "two blue birds, one small & one big", "the word \"OPEN\" on a sign"];

fn io() -> Tensors {
    read_tensors(&formats("clip_score_tiny").join("io.safetensors")).expect("the file is complete")
}

fn reward(change: impl Fn(&mut config::Reward)) -> config::Reward {
    let file = formats("clip_score_tiny").display().to_string();
    let mut reward = config::Reward { kind: RewardKind::ClipScore, file, ..config::Reward::default() };
    change(&mut reward);
    reward
}

/// The pictures of the reference, `[3, 3, 48, 64]`.
fn pictures(io: &Tensors) -> (Vec<f32>, ImageShape) {
    let (shape, values) = &io["pictures"];
    let (height, width) = (shape[1], shape[2]);
    let channel = |picture: &[f32], channel: usize| -> Vec<f32> {
        picture.iter().skip(channel).step_by(3).map(|value| from_byte(*value as u8)).collect()
    };
    let planes = values.chunks(3 * height * width).flat_map(|picture| [0, 1, 2].map(|at| channel(picture, at)));
    (planes.flatten().collect(), ImageShape { channels: 3, height, width })
}

fn classes(names: &[String]) -> Classes<'_> {
    Classes { of: "the model", count: names.len(), names }
}

fn names() -> Vec<String> {
    TEXTS.map(str::to_owned).into()
}

/// The rewards of pictures whose classes have these names.
fn rewards(reward: config::Reward, names: &[String], shape: ImageShape) -> Rewards {
    Rewards::new(gpu(), &[reward], &Pictures { shape, classes: classes(names), prompts: &[] })
        .expect("the model is complete")
}

fn assert_scores(actual: &[f64], expected: &[f32], divisor: f64) {
    let largest = expected.iter().fold(0.0_f64, |largest, score| largest.max(f64::from(score.abs()))) / divisor;
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(expected) {
        let error = (actual - f64::from(*expected) / divisor).abs() / largest;
        assert!(error < TOLERANCE, "{actual} instead of {expected} / {divisor}: {error:.1e} of the largest");
    }
}

#[test]
fn scores_are_those_of_transformers() {
    let (io, names) = (io(), names());
    let (images, shape) = pictures(&io);
    let expected = &io["score"].1;
    let mut plain = rewards(reward(|_| {}), &names, shape);
    assert_eq!(plain.names(), ["clip-score"]);
    let scores = plain.score(&images, &[0, 1, 2], CONTEXT).expect("the device works");
    assert_scores(&scores.totals, expected, 1.0);
    let mut pick = rewards(reward(|reward| reward.divisor = PICKSCORE_DIVISOR), &names, shape);
    let scores = pick.score(&images, &[0, 1, 2], CONTEXT).expect("the device works");
    assert_scores(&scores.totals, expected, PICKSCORE_DIVISOR);

    // The prompt of a class is what describes it: by the template, or by the metadata.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let metadata = folder.path().join("meta.json");
    let said = serde_json::json!([{}, {"prompt": TEXTS[1]}]);
    fs::write(&metadata, said.to_string()).expect("the folder is writable");
    let described = reward(|reward| {
        reward.prompt = "a red {class} on a wooden table".into();
        reward.metadata = metadata.display().to_string();
    });
    let mut described = rewards(described, &["apple", "bird"].map(str::to_owned), shape);
    let scores = described.score(&images[..2 * shape.elements()], &[0, 1], CONTEXT).expect("the device works");
    assert_scores(&scores.totals, &expected[..2], 1.0);
}

/// Its layers one after the other, in f64, on embeddings of unit length. No words are needed, nor a tokenizer.
#[test]
fn a_head_scores_embeddings_without_words() {
    let (io, folder) = (io(), tempfile::tempdir().expect("a temporary folder"));
    let (images, shape) = pictures(&io);
    let model = folder.path().join("clip");
    fs::create_dir(&model).expect("the folder is writable");
    copy(&model);
    fs::remove_file(model.join("tokenizer.json")).expect("it is there");
    let mut scorer = ClipScorer::open(&model).expect("the model is complete");
    let width = scorer.config.projection_dim;

    let mut random = Random(4);
    let mut values = |count: usize| -> Vec<f32> { (0..count).map(|_| random.normal() as f32).collect() };
    let sizes = [width, 24, 9, 7, 5, 1];
    let mut layers = Tensors::new();
    for (layer, pair) in [0, 2, 4, 6, 7].into_iter().zip(sizes.windows(2)) {
        let (inputs, outputs) = (pair[0], pair[1]);
        layers.insert(format!("layers.{layer}.weight"), (vec![outputs, inputs], values(outputs * inputs)));
        layers.insert(format!("layers.{layer}.bias"), (vec![outputs], values(outputs)));
    }
    let file = folder.path().join("head.safetensors");
    write_tensors(&file, &layers).expect("the folder is writable");

    let scored = reward(|reward| {
        (reward.file, reward.head) = (model.display().to_string(), file.display().to_string());
        reward.divisor = 10.0;
    });
    Rewards::check(std::slice::from_ref(&scored), &Pictures { shape, classes: classes(&[]), prompts: &[] })
        .expect("it needs no words");
    let mut head = rewards(scored, &[], shape);
    let scores = head.score(&images, &[0, 0, 0], CONTEXT).expect("the device works").totals;
    let embedded = scorer.embed_pictures(gpu(), &rgb_pictures(&io, "pictures")).expect("the device works");
    for (score, embedding) in scores.iter().zip(embedded.chunks(width)) {
        let mut x: Vec<f64> = embedding.iter().map(|value| f64::from(*value)).collect();
        for layer in [0, 2, 4, 6, 7] {
            let [weights, biases] = ["weight", "bias"].map(|part| &layers[&format!("layers.{layer}.{part}")].1);
            let dot = |row: &[f32]| row.iter().zip(&x).map(|(weight, x)| f64::from(*weight) * x).sum::<f64>();
            x = weights.chunks(x.len()).zip(biases).map(|(row, bias)| dot(row) + f64::from(*bias)).collect();
        }
        // Sums of a few hundred products in another order, each rounded to f64.
        let size = x[0].abs().max(1.0);
        assert!((score - x[0] / 10.0).abs() < 1e-12 * size, "{score} is not {} / 10", x[0]);
    }
    assert!(scores[0] != scores[1], "images count: {scores:?}");
}

/// In whatever order and number pictures come, and however many other prompts there are.
#[test]
fn a_score_depends_on_its_picture_and_prompt_alone() {
    let (io, names) = (io(), names());
    let (images, shape) = pictures(&io);
    let each: Vec<&[f32]> = images.chunks(shape.elements()).collect();
    let mut all = rewards(reward(|_| {}), &names, shape);
    let score = |rewards: &mut Rewards, pairs: &[(usize, u32)]| -> Vec<f64> {
        let images: Vec<f32> = pairs.iter().flat_map(|(picture, _)| each[*picture]).copied().collect();
        let labels: Vec<u32> = pairs.iter().map(|(_, label)| *label).collect();
        rewards.score(&images, &labels, CONTEXT).expect("the device works").totals
    };
    // Nine are more than a micro-batch, 67 more than what is prepared at a time.
    let pairs: Vec<(usize, u32)> = (0..67).map(|at| (at % 3, (at / 3 % 3) as u32)).collect();
    let alone: Vec<f64> = pairs[..9].iter().map(|pair| score(&mut all, &[*pair])[0]).collect();
    assert!(alone[0] != alone[1] && alone[0] != alone[3], "images and prompts count");
    for count in [2, 8, 9, 67] {
        let scores = score(&mut all, &pairs[..count]);
        assert!(scores.iter().enumerate().all(|(at, score)| *score == alone[at % 9]), "{count}");
    }
    for (label, name) in names.iter().enumerate() {
        let mut only = rewards(reward(|_| {}), std::slice::from_ref(name), shape);
        assert_eq!(score(&mut only, &[(1, 0)]), score(&mut all, &[(1, label as u32)]), "{name}");
    }
}

#[test]
fn grey_pictures_become_colours() {
    let (io, names) = (io(), names());
    let (images, shape) = pictures(&io);
    let grey = &images[..shape.height * shape.width];
    let mut of_grey = rewards(reward(|_| {}), &names, ImageShape { channels: 1, ..shape });
    let mut of_colours = rewards(reward(|_| {}), &names, shape);
    let found = of_grey.score(grey, &[2], CONTEXT).expect("the device works");
    assert_eq!(found, of_colours.score(&grey.repeat(3), &[2], CONTEXT).expect("the device works"));
}

fn copy(folder: &Path) {
    for file in fs::read_dir(formats("clip_score_tiny")).expect("it ships") {
        let file = file.expect("it can be read");
        fs::copy(file.path(), folder.join(file.file_name())).expect("the folder is writable");
    }
}

#[test]
fn mistakes_get_one_sentence_without_a_device() {
    let remove = |file: &'static str| move |folder: &Path| fs::remove_file(folder.join(file)).expect("it is there");
    let edit = |file: &'static str, from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let text = fs::read_to_string(folder.join(file)).expect("it is there");
            assert!(text.contains(from), "{file} has no {from}");
            fs::write(folder.join(file), text.replace(from, to)).expect("the folder is writable");
        }
    };
    let all = |folder: &Path| fs::remove_dir_all(folder).expect("it is there");
    let cut = |folder: &Path| fs::write(folder.join("model.safetensors"), [9; 40]).expect("the folder is writable");
    type Mistake<'a> = (&'a dyn Fn(&Path), usize, &'a str);
    let mistakes: [Mistake<'_>; 9] = [
        (&all, 3, "clip/config.json: No such file or directory"),
        (&remove("config.json"), 3, "clip/config.json: No such file or directory"),
        (
            &edit("config.json", "\"model_type\": \"clip\"", "\"model_type\": \"siglip\""),
            3,
            "`model_type` is \"siglip\"",
        ),
        (&edit("config.json", "\"gelu\"", "\"swish\""), 3, "`hidden_act` is \"swish\""),
        (&remove("tokenizer.json"), 3, "has neither tokenizer.json nor both vocab.json and merges.txt"),
        (&edit("preprocessor_config.json", "\"resample\": 3", "\"resample\": 2"), 3, "`resample` is 2"),
        (&remove("model.safetensors"), 3, "has neither model.safetensors nor"),
        (&cut, 3, "is not a complete safetensors file"),
        (&|_: &Path| (), 2, "`reward.0.kind` = \"clip-score\" needs images with 1 or 3 channels, but the model makes"),
    ];
    for (spoil, channels, says) in mistakes {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let model = folder.path().join("clip");
        fs::create_dir(&model).expect("the folder is writable");
        copy(&model);
        spoil(&model);
        let reward = reward(|reward| reward.file = model.display().to_string());
        let (names, shape) = (names(), ImageShape::square(channels, 8));
        let refused = Rewards::check(&[reward], &Pictures { shape, classes: classes(&names), prompts: &[] });
        let message = refused.expect_err(says).to_string();
        assert!(message.contains(says) && !message.contains('\n') && !message.ends_with('.'), "{message}");
    }
}

/// What a run records of the folder: all that its scores depend on, and nothing else that lies there.
#[test]
fn inputs_are_the_files_that_scores_depend_on() {
    let config = Config { reward: vec![reward(|_| {})], ..Config::default() };
    let inputs = inputs(&config).expect("the model is complete").files.into_iter();
    let mut files: Vec<String> = inputs
        .filter(|input| input.key == "reward.0.file")
        .map(|input| input.path.file_name().expect("a file").to_string_lossy().into_owned())
        .collect();
    files.sort();
    let expected =
        ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(files, expected);
}
