//! Tokenizers, text and vision encoders, prompt embeddings and CLIP scores against transformers and diffusers.

use std::fs;
use std::sync::Arc;

use flowdppo_wgpu::gpu::Gpu;
use flowdppo_wgpu::model::text::{
    CLIP_TOKENS, ClipScorer, ClipTextConfig, PICKSCORE_DIVISOR, PromptEncoder, Sd3Prompts, T5Config, Tokenizer, Tokens,
    Weights, encode_clip_text, encode_t5, read_config, relative_bucket,
};
use flowdppo_wgpu::model::{Tensors, read_tensors};

use crate::common::{cutting_stores, formats, gpu};

/// Tokens of T5 in the pipeline's reference.
const T5_TOKENS: usize = 256;

/// Relative to the largest value: a few layers of f32 sums of up to 96 terms on both sides, a few hundred roundings of
/// 6e-8.
pub const TOLERANCE: f64 = 5e-6;

fn io(folder: &str) -> Tensors {
    read_tensors(&formats(folder).join("io.safetensors")).expect("the file is complete")
}

fn ids(tensors: &Tensors, name: &str) -> Vec<u32> {
    tensors[name].1.iter().map(|id| *id as u32).collect()
}

/// Prompts and cases of the pipeline: the negative prompt and the prompts, and the cases of tokenizers.
fn texts() -> [Vec<String>; 2] {
    let text = fs::read_to_string(formats("sd35_tiny_pipeline/io_prompts.json")).expect("it is there");
    let json: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let list = |key: &str| -> Vec<String> {
        json[key].as_array().expect("a list").iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
    };
    let negative = json["negative_prompt"].as_str().expect("a text").to_owned();
    [[vec![negative], list("prompts")].concat(), list("tokenizer_cases")]
}

/// Fails if a value differs from the reference by more than `tolerance` of the largest.
pub fn assert_close(name: &str, actual: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let error = actual.iter().zip(expected).map(|(a, e)| if a.is_finite() { (a - e).abs() } else { f32::INFINITY });
    let error = f64::from(error.fold(0.0, f32::max) / largest);
    println!("{name}: {error:.1e} of the largest value");
    assert!(error <= tolerance, "{name} is off by {error:.1e} of its largest value, allowed are {tolerance:.0e}");
}

/// Tokens in the form of the reference, if padding does not matter.
fn reference_tokens(tensors: &Tensors, name: &str) -> Tokens {
    let (shape, _) = &tensors[name];
    Tokens::new(ids(tensors, name), vec![shape[1]; shape[0]], shape[1])
}

#[test]
fn tokens_match_the_python_tokenizers() {
    let tensors = io("sd35_tiny_pipeline");
    let [prompts, cases] = texts();
    for (folder, key, columns) in
        [("tokenizer", "clip_l", CLIP_TOKENS), ("tokenizer_2", "clip_g", CLIP_TOKENS), ("tokenizer_3", "t5", T5_TOKENS)]
    {
        let tokenizer = Tokenizer::open(&formats("sd35_tiny_pipeline").join(folder)).expect("it is complete");
        for (set, texts) in [("tokens", &prompts), ("tokcases", &cases)] {
            let tokens = tokenizer.encode(texts, columns).expect("they are texts");
            let expected = ids(&tensors, &format!("{set}.{key}"));
            for (index, (actual, expected)) in tokens.ids.chunks(columns).zip(expected.chunks(columns)).enumerate() {
                assert_eq!(actual, expected, "{folder}: {:?}", texts[index]);
            }
            assert_eq!(tokens.ids.len(), expected.len());
        }
    }
}

#[test]
fn truncated_text_is_returned() {
    let [_, cases] = texts();
    let tokenizer = Tokenizer::open(&formats("sd35_tiny_pipeline/tokenizer")).expect("it is complete");
    let tokens = tokenizer.encode(&cases, CLIP_TOKENS).expect("they are texts");
    for (text, (cut, length)) in cases.iter().zip(tokens.cut.iter().zip(&tokens.lengths)) {
        match cut {
            Some(cut) => assert!(*length == CLIP_TOKENS && text.ends_with(cut.as_str()) && cut.len() < text.len()),
            None => assert!(*length <= CLIP_TOKENS, "{text}"),
        }
    }
    assert!(tokens.cut[6].is_some() && tokens.cut[1].is_none());
    // Start, "a", end: the rest begins with the space before the second word, which belongs to no token.
    let tokens = tokenizer.encode(&["a a"], 3).expect("there is room for a word");
    assert_eq!((tokens.cut[0].as_deref(), tokens.mask()), (Some("a"), vec![1, 1, 1]));
    let message = tokenizer.encode(&["a"], 2).expect_err("there is no room").to_string();
    assert!(message.contains("no room") && message.contains('2'), "{message}");
}

#[test]
fn clip_text_models_match_their_reference() {
    let tensors = io("sd35_tiny_pipeline");
    for (folder, key) in [("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")] {
        let folder = formats("sd35_tiny_pipeline").join(folder);
        let config: ClipTextConfig = read_config(&folder.join("config.json")).expect("it is complete");
        let weights = Weights::open(&folder, "").expect("it is complete");
        let tokens = reference_tokens(&tensors, &format!("tokens.{key}"));
        let encoded = encode_clip_text(gpu(), &config, &weights, &tokens).expect("they fit");
        for (part, actual) in [
            ("penultimate", &encoded.penultimate),
            ("last_hidden_state", &encoded.last_hidden_state),
            ("pooled", &encoded.pooled),
        ] {
            let name = format!("{key}.{part}");
            assert_close(&name, actual, &tensors[&name].1, TOLERANCE);
        }
        // A text has the same bits alone and in a batch whose last group is not full.
        let alone = Tokens::new(tokens.ids[CLIP_TOKENS..][..CLIP_TOKENS].to_vec(), vec![CLIP_TOKENS], CLIP_TOKENS);
        let alone = encode_clip_text(gpu(), &config, &weights, &alone).expect("they fit");
        let many = Tokens::new(tokens.ids.repeat(4), vec![CLIP_TOKENS; 12], CLIP_TOKENS);
        let many = encode_clip_text(gpu(), &config, &weights, &many).expect("they fit");
        let elements = alone.penultimate.len();
        for text in [1, 10] {
            assert_eq!(many.penultimate[text * elements..][..elements], alone.penultimate, "text {text}");
            assert_eq!(many.pooled[text * alone.pooled.len()..][..alone.pooled.len()], alone.pooled, "text {text}");
        }
    }
}

/// The states of the pipeline's T5 for the tokens of its reference.
fn t5_states(gpu: &Arc<Gpu>, tensors: &Tensors) -> Vec<f32> {
    let folder = formats("sd35_tiny_pipeline/text_encoder_3");
    let config: T5Config = read_config(&folder.join("config.json")).expect("it is complete");
    let weights = Weights::open(&folder, "").expect("it is complete");
    encode_t5(gpu, &config, &weights, &reference_tokens(tensors, "tokens.t5"), false).expect("they fit")
}

#[test]
fn t5_matches_its_reference() {
    let tensors = io("sd35_tiny_pipeline");
    let states = t5_states(gpu(), &tensors);
    assert_close("t5.last_hidden_state", &states, &tensors["t5.last_hidden_state"].1, TOLERANCE);
    let relative = &tensors["t5.relative_position"].1;
    for (relative, bucket) in relative.iter().zip(&tensors["t5.bucket"].1) {
        assert_eq!(relative_bucket(*relative as i64, 32, 128), *bucket as usize, "{relative}");
    }
}

/// Where the device cannot be given the feed-forward matrices in 32 bits, they are rounded to 16: each weight by at most
/// 2⁻¹¹ of its size, which is 5e-4, and on average by less than half of that, in three matrices per block.
#[test]
fn t5_with_matrices_in_16_bits_is_near_its_reference() {
    let tensors = io("sd35_tiny_pipeline");
    // A matrix of the feed-forward layers has 12 KiB in 32 bits, one of attention 4.5 KiB.
    let states = t5_states(&cutting_stores(8 << 10), &tensors);
    assert_close("t5 in 16 bits", &states, &tensors["t5.last_hidden_state"].1, 1e-3);
    assert_ne!(states, t5_states(gpu(), &tensors), "the weights are rounded");
    assert_eq!(t5_states(&cutting_stores(12 << 10), &tensors), t5_states(gpu(), &tensors), "12 KiB are enough");
}

/// MiniT2I hides padding from T5.
#[test]
fn t5_matches_its_reference_with_a_mask() {
    let tensors = io("minit2i_tiny");
    let folder = formats("minit2i_tiny/text_encoder");
    let config: T5Config = read_config(&folder.join("config.json")).expect("it is complete");
    let (shape, mask) = &tensors["attention_mask"];
    let lengths = mask.chunks(shape[1]).map(|row| row.iter().sum::<f32>() as usize).collect();
    let tokens = Tokens::new(ids(&tensors, "input_ids"), lengths, shape[1]);
    assert_eq!(tokens.mask(), ids(&tensors, "attention_mask"), "padding is at the end");
    let weights = Weights::open(&folder, "").expect("it is complete");
    let states = encode_t5(gpu(), &config, &weights, &tokens, true).expect("they fit");
    assert_close("masked t5.last_hidden_state", &states, &tensors["t5.last_hidden_state"].1, TOLERANCE);
}

#[test]
fn prompt_embeddings_are_joined_as_in_diffusers() {
    let tensors = io("sd35_tiny_pipeline");
    let [prompts, cases] = texts();
    let encoders = Sd3Prompts::open(&formats("sd35_tiny_pipeline"), true, T5_TOKENS, 48).expect("it is complete");
    assert!(encoders.has_t5());
    let texts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let (joined, cut) = encoders.encode(gpu(), &texts).expect("they fit");
    assert_eq!((joined.prompts, joined.tokens, joined.width, joined.pooled_width), (3, 77 + T5_TOKENS, 48, 32));
    assert!(cut.is_empty());
    let row = joined.tokens * joined.width;
    assert_close("negative", &joined.embeddings[..row], &tensors["negative_prompt_embeds"].1, TOLERANCE);
    assert_close("prompts", &joined.embeddings[row..], &tensors["prompt_embeds"].1, TOLERANCE);
    assert_close("negative pooled", &joined.pooled[..32], &tensors["negative_pooled"].1, TOLERANCE);
    assert_close("pooled", &joined.pooled[32..], &tensors["pooled"].1, TOLERANCE);

    let without = Sd3Prompts::open(&formats("sd35_tiny_pipeline"), false, T5_TOKENS, 48).expect("it is complete");
    let (zeros, cut) = without.encode(gpu(), &[texts[1], cases[6].as_str()]).expect("they fit");
    let clip = CLIP_TOKENS * 48;
    assert_eq!(zeros.embeddings[..clip], joined.embeddings[row..][..clip]);
    assert!(zeros.embeddings[clip..row].iter().all(|value| *value == 0.0));
    let found: Vec<(usize, &str)> = cut.iter().map(|cut| (cut.prompt, &*cut.encoder)).collect();
    assert_eq!(found, [(1, "the first CLIP encoder"), (1, "the second CLIP encoder")]);
}

/// Pictures `[P, H, W, 3]` of a reference.
pub fn pictures(tensors: &Tensors, name: &str) -> Vec<image::RgbImage> {
    let (shape, values) = &tensors[name];
    let picture = |values: &[f32]| {
        let bytes = values.iter().map(|value| *value as u8).collect();
        image::RgbImage::from_raw(shape[2] as u32, shape[1] as u32, bytes).expect("all pixels are there")
    };
    values.chunks(shape[1..].iter().product()).map(picture).collect()
}

#[test]
fn clip_scores_match_transformers() {
    let tensors = io("clip_score_tiny");
    let mut scorer = ClipScorer::open(&formats("clip_score_tiny")).expect("it is complete");
    let pictures = pictures(&tensors, "pictures");
    // Resized by Pillow: the same bytes, so only the normalisation is rounded.
    assert_close("pixel_values", &scorer.prepare(&pictures), &tensors["pixel_values"].1, 1e-6);
    let tokens = reference_tokens(&tensors, "ids");
    let embedded = scorer.embed_pictures(gpu(), &pictures).expect("they fit");
    assert_close("image_embeds", &embedded, &tensors["image_embeds"].1, TOLERANCE);
    let embedded = scorer.embed_texts(gpu(), &tokens).expect("they fit");
    assert_close("text_embeds", &embedded, &tensors["text_embeds"].1, TOLERANCE);
    let cosines = scorer.cosines(gpu(), &pictures, &tokens).expect("they fit");
    let scores: Vec<f32> = cosines.iter().map(|cosine| (cosine * scorer.factor()) as f32).collect();
    let cosines: Vec<f32> = cosines.iter().map(|cosine| *cosine as f32).collect();
    // A cosine is a sum of products of both signs.
    assert_close("cosine", &cosines, &tensors["cosine"].1, 1e-4);
    assert_close("score", &scores, &tensors["score"].1, 1e-4);
    let words = scorer.tokens(&["a cat", ""]).expect("it has a tokenizer");
    assert_eq!(words.ids[words.columns..][..3], [609, 610, 610]);
}

#[test]
fn pickscore_matches_transformers() {
    let tensors = io("clip_reward_tiny");
    let folder = formats("clip_reward_tiny");
    let mut scorer = ClipScorer::open(&folder).expect("it is complete");
    let pictures = pictures(&tensors, "images_u8");
    let prepared = scorer.prepare(&pictures);
    assert_close("pixel_values", &prepared, &tensors["pixel_values"].1, 1e-6);
    let encoded = scorer.vision(gpu()).and_then(|vision| vision.encode(&prepared)).expect("they fit");
    let states = &tensors["vision.last_hidden_state"].1;
    assert_close("vision.last_hidden_state", &encoded.last_hidden_state, states, TOLERANCE);
    assert_close("vision.pooled", &encoded.pooled, &tensors["vision.pooled"].1, TOLERANCE);
    let tokens = reference_tokens(&tensors, "input_ids");
    let embedded = scorer.embed_pictures(gpu(), &pictures).expect("they fit");
    assert_close("image_embeds_unit", &embedded, &tensors["image_embeds_unit"].1, TOLERANCE);
    let embedded = scorer.embed_texts(gpu(), &tokens).expect("they fit");
    assert_close("text_embeds_unit", &embedded, &tensors["text_embeds_unit"].1, TOLERANCE);
    let cosines = scorer.cosines(gpu(), &pictures, &tokens).expect("they fit");
    let scores: Vec<f32> = cosines.iter().map(|cosine| (cosine * scorer.factor() / PICKSCORE_DIVISOR) as f32).collect();
    assert_close("pickscore_div26", &scores, &tensors["pickscore_div26"].1, 1e-4);
    let message = scorer.cosines(gpu(), &pictures[..1], &tokens).expect_err("an image is missing").to_string();
    assert!(message.contains("1 images and 2 texts"), "{message}");
}
