//! Pictures of prompts, on a tiny pipeline with random weights whose pictures diffusers has drawn, too.

use std::fs;
use std::path::{Path, PathBuf};

use flowdppo_wgpu::model::folder::{StoredTensor, StoredTensors};
use flowdppo_wgpu::model::{Tensors, read_tensors, write_tensors};
use tempfile::TempDir;

use super::workplace::{Ended, copy_folder, formats, picture, pipeline, program};

/// The transformer's weights in a pipeline.
pub(super) const TRANSFORMER: &str = "transformer/diffusion_pytorch_model.safetensors";

/// Of the largest value, after four guided steps: as in tests/text_to_image/mmdit.rs, whose velocities these are.
const TRAJECTORY: f64 = 2e-4;
/// The decoder's share of a latent's error is as large as itself or twice that.
const IMAGE: f64 = 5e-4;

fn reference() -> Tensors {
    read_tensors(&formats("sd35_tiny_pipeline/io.safetensors")).unwrap()
}

/// The prompts of the reference.
fn prompts() -> Vec<String> {
    texts("prompts")
}

fn texts(key: &str) -> Vec<String> {
    let text = fs::read_to_string(formats("sd35_tiny_pipeline/io_prompts.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json[key].as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect()
}

/// The largest difference, of the largest expected value.
fn error(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    assert!(actual.iter().all(|value| value.is_finite()));
    let largest = |values: &mut dyn Iterator<Item = f32>| f64::from(values.fold(0.0, f32::max));
    let difference = largest(&mut actual.iter().zip(expected).map(|(a, e)| (a - e).abs()));
    difference / largest(&mut expected.iter().map(|value| value.abs()))
}

/// A folder with the noise of the reference, in which the program runs.
pub(super) struct Place(TempDir);

impl Place {
    pub(super) fn new() -> Self {
        let here = Self(tempfile::tempdir().unwrap());
        let noise = Tensors::from([("x".to_owned(), reference()["latents_in"].clone())]);
        write_tensors(&here.path("noise.safetensors"), &noise).unwrap();
        here
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program with these arguments, then those of `more`, which have no blanks.
    fn run(&self, arguments: &[&str], more: &str) -> Ended {
        Ended::of(program(self.0.path(), "").args(arguments).args(more.split_whitespace()))
    }

    /// Draws the prompts of the reference from its noise, with a model and more arguments.
    fn draw(&self, model: &str, more: &str) -> Tensors {
        let prompts = prompts();
        let with_prompts = ["--prompt", &prompts[0], "--prompt", &prompts[1]];
        self.draw_from(model, if more.contains("--conditions") { &[] } else { &with_prompts }, more)
    }

    fn draw_from(&self, model: &str, prompts: &[&str], more: &str) -> Tensors {
        let steps = if more.contains("--steps") { "" } else { "--steps 4" };
        let more = format!("{steps} --force --out x.png --save-tensors x.safetensors {more}");
        let noise: &[&str] = if more.contains("--count") { &[] } else { &["--noise", "noise.safetensors"] };
        self.run(&[&["-q", "sample", "--model", model][..], noise, prompts].concat(), &more).succeeds();
        read_tensors(&self.path("x.safetensors")).unwrap()
    }

    /// The pipeline of the reference, with some of its folders, or files in them, replaced.
    pub(super) fn pipeline_with(&self, name: &str, changes: &[(&str, &Path)]) -> String {
        let folder = self.path(name);
        copy_folder(&formats("sd35_tiny_pipeline"), &folder);
        for (part, with) in changes {
            let part = folder.join(part);
            if part.is_dir() {
                fs::remove_dir_all(&part).unwrap();
                copy_folder(with, &part);
            } else {
                fs::copy(with, part).unwrap();
            }
        }
        folder.display().to_string()
    }
}

#[test]
fn pictures_are_those_of_diffusers() {
    let (here, io) = (Place::new(), reference());
    for (more, prefix) in [("--trajectory", ""), ("--trajectory --no-t5 --batch 2", "not5.")] {
        let drawn = here.draw(&pipeline(), more);
        for (name, of_reference, most) in [("trajectory", "traj.latents", TRAJECTORY), ("images", "image", IMAGE)] {
            let (shape, values) = &io[&format!("{prefix}{of_reference}")];
            assert_eq!(drawn[name].0, *shape);
            let found = error(&drawn[name].1, values);
            assert!(found < most, "{prefix}{name}: {found:.1e}");
        }
        assert!(drawn["x0"].1 == drawn["trajectory"].1[4 * 2048..]);
        // Bytes are those of the values, from −1 to 1, rows first.
        for (file, values) in ["x-1.png", "x-2.png"].iter().zip(drawn["images"].1.chunks(3 * 64 * 64)) {
            let picture = image::open(here.path(file)).unwrap().to_rgb8();
            for (x, y, pixel) in picture.enumerate_pixels() {
                let at = (y * 64 + x) as usize;
                let byte =
                    |channel: usize| ((values[channel * 4096 + at] + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
                assert_eq!(pixel.0, [0, 1, 2].map(byte), "{file} at {x}, {y}");
            }
        }
    }
}

#[test]
fn a_picture_depends_on_nothing_but_its_prompt_and_its_noise() {
    let here = Place::new();
    let alone = here.draw(&pipeline(), "");
    assert!(here.draw(&pipeline(), "--batch 2") == alone);
    // Three a prompt, of which the last batch has room left.
    let several = "--count 3 --seed 5 --size 48x32 --sampler flow-sde --steps 3";
    let [one, four] = ["", "--batch 4"].map(|batch| here.draw(&pipeline(), &format!("{several} {batch}")));
    assert!(one == four);
    assert_eq!((&one["x0"].0[..], &one["images"].0[..]), (&[6, 16, 4, 6][..], &[6, 3, 32, 48][..]));
    assert_eq!(picture(&here.path("x-6.png")), (48, 32));
    let pictures: Vec<&[f32]> = one["x0"].1.chunks(384).collect();
    assert!((1..6).all(|index| pictures[index] != pictures[0]), "each has its own noise");
    assert!(here.draw(&pipeline(), &several.replace("seed 5", "seed 6")) != one);
    assert!(here.draw(&pipeline(), &several.replace("flow-sde", "ode")) != one);
}

#[test]
fn a_picture_says_how_it_was_made() {
    let here = Place::new();
    let model = pipeline();
    let arguments = ["sample", "--model", &model, "--prompt", "größer fox", "--negative-prompt", "blurry"];
    let said = here.run(&arguments, "--steps 2 --seed 3 --out fox.png");
    assert_eq!(said.succeeds(), "encoding 1 prompt\nreading the transformer, with weights as f32\n1 image: fox.png\n");
    let bytes = fs::read(here.path("fox.png")).unwrap();
    let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("Description\0\0\0\0\0größer fox"));
    assert!(has("\"negative_prompt\":\"blurry\"") && has("\"seed\":3,\"steps\":2"));
    assert_eq!(picture(&here.path("fox.png")), (64, 64), "the size that the pipeline proposes");
}

#[test]
fn guidance_leads_away_from_the_negative_prompt() {
    let here = Place::new();
    let prompts = prompts();
    let of_one = |more: &str, negative: &str| {
        let both = ["--prompt", &prompts[0], "--prompt", &prompts[0], "--negative-prompt", negative];
        here.draw_from(&pipeline(), &both, more)
    };
    let plain = of_one("--guidance-scale 1", "");
    // Of a prompt against itself nothing is left but rounding.
    let found = error(&of_one("", &prompts[0])["x0"].1, &plain["x0"].1);
    assert!(found < TRAJECTORY, "{found:.1e}");
    assert!(error(&of_one("", "")["x0"].1, &plain["x0"].1) > 0.1);
}

#[test]
fn what_an_encoder_does_not_see_is_said() {
    let here = Place::new();
    let (model, long) = (pipeline(), texts("tokenizer_cases").swap_remove(6));
    let arguments = ["sample", "--model", &model, "--prompt", "a fox", "--prompt", &long];
    let ended = here.run(&arguments, "--steps 1 --out x.png");
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let warnings: Vec<&str> = ended.err.lines().filter(|line| line.starts_with("[WARN ]")).collect();
    assert_eq!(warnings.len(), 3, "{}", ended.err);
    for (warning, encoder) in warnings.iter().zip(["the first CLIP encoder", "the second CLIP encoder", "T5"]) {
        assert!(warning.contains(&format!("prompt 2 is too long for {encoder}")), "{warning}");
        assert!(warning.contains("highly detailed, \""), "{warning}");
    }
}

#[test]
fn weights_in_other_files_and_types_draw_the_same_pictures() {
    let here = Place::new();
    let plain = here.draw(&pipeline(), "");
    let of = |variant: &str, more: &str| {
        let folder = formats(&format!("sd35_tiny_variants/transformer_{variant}"));
        let model = here.pipeline_with(variant, &[("transformer", &folder)]);
        here.draw(&model, more)
    };
    assert!(of("sharded", "") == plain);
    let half = of("fp16", "");
    assert!(of("sharded_fp16", "") == half && of("fp16", "--variant fp16") == half);
    // 16 bits in the file are 16 bits on the device; in 32 they are the same numbers.
    assert!(of("fp16", "--weights f32") == half);
    let bf16 = of("bf16", "");
    // Weights are off by 2⁻¹² and 2⁻⁹ of themselves, a velocity by 1.6e-3 and 1.5e-2 of its largest value, which the
    // guidance multiplies by up to 4.5 + 3.5. With blocks of 8 bits each weight is off by 1/254 of the block's largest.
    // Measured: 5e-4, 5e-3 and 1.1e-2; the bounds are three to four times that.
    let q8_0 = here.draw(&pipeline(), "--weights q8_0");
    for (name, found, most) in [("fp16", &half, 2e-3), ("bf16", &bf16, 2e-2), ("q8_0", &q8_0, 3e-2)] {
        let found = error(&found["x0"].1, &plain["x0"].1);
        assert!(found > 0.0 && found < most, "{name}: {found:.1e}");
    }
    let asked = here.draw(&pipeline(), "--weights f16");
    assert!(asked["x0"] != plain["x0"] && error(&asked["x0"].1, &half["x0"].1) < 1e-2);
}

/// Adds the adapter of PEFT to the weights of a transformer, in f64.
fn merge(adapter: &Path, file: &Path) {
    let mut weights = read_tensors(file).unwrap();
    let matrices = read_tensors(&adapter.join("adapter_model.safetensors")).unwrap();
    let mut layers = 0;
    for (name, (shape, a)) in &matrices {
        let Some(layer) = name.strip_suffix(".lora_A.weight") else { continue };
        let (_, b) = &matrices[&format!("{layer}.lora_B.weight")];
        let [rank, inputs] = shape[..] else { panic!("{name} is a matrix") };
        let layer = layer.strip_prefix("base_model.model.").unwrap();
        let (_, weight) = weights.get_mut(&format!("{layer}.weight")).unwrap();
        for (at, value) in weight.iter_mut().enumerate() {
            let (row, column) = (at / inputs, at % inputs);
            let product = |r: usize| f64::from(b[row * rank + r]) * f64::from(a[r * inputs + column]);
            // Alpha is 8, the rank 4.
            *value = (f64::from(*value) + 2.0 * (0..rank).map(product).sum::<f64>()) as f32;
        }
        layers += 1;
    }
    assert_eq!(layers, 23);
    write_tensors(file, &weights).unwrap();
}

#[test]
fn an_adapter_draws_what_its_merged_weights_draw() {
    let here = Place::new();
    let plain = here.draw(&pipeline(), "");
    let peft = formats("sd35_tiny_gradients/lora_peft");
    let diffusers = formats("sd35_tiny_gradients/lora_diffusers");
    let with = |path: &Path, more: &str| here.draw(&pipeline(), &format!("--lora {} {more}", path.display()));
    let adapted = with(&peft, "");
    assert!(with(&diffusers, "") == adapted);
    assert!(with(&diffusers.join("pytorch_lora_weights.safetensors"), "") == adapted);
    assert!(with(&peft, "--adapter-scale 0") == plain);
    let half = with(&peft, "--adapter-scale 0.5");
    assert!(error(&half["x0"].1, &adapted["x0"].1) > 1e-2 && error(&half["x0"].1, &plain["x0"].1) > 1e-2);
    let model = here.pipeline_with("merged", &[]);
    merge(&peft, &Path::new(&model).join(TRANSFORMER));
    let merged = here.draw(&model, "");
    // The program's own merge, of which only the order of roundings may differ.
    let merge_of = |model: &str, out: &str| {
        let lora = peft.display().to_string();
        here.run(&["merge", "--model", model, "--lora", &lora, out], "").succeeds();
        StoredTensors::open(&here.path(out)).unwrap()
    };
    let ours = merge_of(&pipeline(), "ours.safetensors");
    for (name, (shape, values)) in read_tensors(&Path::new(&model).join(TRANSFORMER)).unwrap() {
        let tensor = ours.get(&name).unwrap();
        assert_eq!(tensor.shape(), shape);
        assert!(error(&tensor.read().unwrap(), &values) < 1e-6, "{name}");
    }
    // In 16 bits it stays in 16 bits, and what is not adapted keeps its bytes.
    let half = here.pipeline_with("half", &[("transformer", &formats("sd35_tiny_variants/transformer_fp16"))]);
    let before =
        StoredTensors::open(&Path::new(&half).join("transformer/diffusion_pytorch_model.fp16.safetensors")).unwrap();
    let after = merge_of(&half, "half.safetensors");
    assert_eq!(before.tensors().len(), after.tensors().len());
    for (name, tensor) in before.tensors() {
        let other = after.get(name).unwrap();
        assert_eq!(other.stored_as(), tensor.stored_as());
        let is_same = other.read_bytes().unwrap() == tensor.read_bytes().unwrap();
        assert!(is_same || name.contains(".attn."), "{name}");
        assert!(!is_same || !name.ends_with(".attn.to_q.weight"), "{name}");
    }
    for (name, most) in [("x0", TRAJECTORY), ("images", IMAGE)] {
        let found = error(&adapted[name].1, &merged[name].1);
        assert!(found < most, "{name}: {found:.1e}");
        assert!(error(&adapted[name].1, &plain[name].1) > 0.1);
    }
}

#[test]
fn encoded_prompts_draw_the_same_pictures() {
    let here = Place::new();
    let plain = here.draw(&pipeline(), "");
    let prompts = prompts();
    let lines = format!(
        "\u{feff}{}\n\n{}\r\n{}",
        serde_json::json!({"prompt": prompts[0], "tag": [3]}),
        serde_json::json!({"prompt": prompts[1]}),
        serde_json::json!({"prompt": "more"})
    );
    fs::write(here.path("prompts.jsonl"), lines).unwrap();
    let encode = |out: &str, more: &str| {
        let model = pipeline();
        let arguments = ["encode", "--model", &model, "--prompts", "prompts.jsonl", "--out", out];
        assert_eq!(here.run(&arguments, more).succeeds(), format!("3 prompts: {out}\n"));
        let stored = StoredTensors::open(&here.path(out)).unwrap();
        let read = |(name, tensor): (&String, &StoredTensor)| {
            (name.clone(), (tensor.shape().to_vec(), tensor.read().unwrap()))
        };
        stored.tensors().iter().map(read).collect::<Tensors>()
    };
    let whole = encode("whole.safetensors", "--precision f32");
    let io = reference();
    for (name, of_reference) in
        [("negative_prompt_embeds", "negative_prompt_embeds"), ("negative_pooled_prompt_embeds", "negative_pooled")]
    {
        assert!(error(&whole[name].1, &io[of_reference].1) < 5e-6);
    }
    assert!(error(&whole["prompt_embeds"].1[..2 * 333 * 48], &io["prompt_embeds"].1) < 5e-6);
    // In groups of two, of which the first holds the negative prompt and one more.
    assert!(encode("groups.safetensors", "--precision f32 --group 2") == whole);
    let half = encode("half.safetensors", "");
    assert!(half["prompts"] == whole["prompts"] && half["prompt_embeds"] != whole["prompt_embeds"]);
    let kept: Vec<u8> = whole["prompts"].1.iter().map(|byte| *byte as u8).collect();
    let kept = String::from_utf8(kept).unwrap();
    assert_eq!(kept.lines().count(), 3);
    assert!(kept.contains("\"tag\":[3]") && kept.ends_with("{\"prompt\":\"more\"}\n"), "{kept}");

    let chosen = ["--prompt", &prompts[0], "--prompt", &prompts[1]];
    assert!(here.draw_from(&pipeline(), &chosen, "--conditions whole.safetensors") == plain);
    let rounded = here.draw_from(&pipeline(), &chosen, "--conditions half.safetensors");
    // Embeddings are off by 2⁻¹² of themselves.
    assert!(error(&rounded["x0"].1, &plain["x0"].1) < 1e-2);
    let model = here.pipeline_with("without", &[]);
    for part in ["text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"] {
        fs::remove_dir_all(Path::new(&model).join(part)).unwrap();
    }
    let all = here.draw(&model, "--conditions whole.safetensors --count 1");
    assert_eq!(all["x0"].0, [3, 16, 8, 8]);
}

#[test]
fn the_hubs_cache_and_small_decoders_are_found() {
    let here = Place::new();
    let plain = here.draw(&pipeline(), "");
    let cache = |name: &str, from: &Path| {
        let folder = here.path("cache").join(format!("models--{}", name.replace('/', "--")));
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::write(folder.join("refs/main"), "abc").unwrap();
        copy_folder(from, &folder.join("snapshots/abc"));
    };
    cache("some/model", &formats("sd35_tiny_pipeline"));
    cache("madebyollin/taesd3", &formats("taesd3_tiny"));
    let prompts = prompts();
    let draw = |more: &str| {
        let mut command = program(here.0.path(), "-q sample --model some/model --noise noise.safetensors --steps 4");
        command.args(["--prompt", &prompts[0], "--prompt", &prompts[1]]).env("HF_HUB_CACHE", here.path("cache"));
        let more = format!("--out x.png --save-tensors x.safetensors --force {more}");
        Ended::of(command.args(more.split_whitespace())).succeeds();
        read_tensors(&here.path("x.safetensors")).unwrap()
    };
    assert!(draw("") == plain);
    let small = draw("--decoder taesd");
    assert!(small["x0"] == plain["x0"] && small["images"].1 != plain["images"].1);
    let file = formats("taesd3_tiny/diffusion_pytorch_model.safetensors");
    assert!(draw(&format!("--taesd {}", file.display())) == small, "config.json lies beside it");
    // One tile is the whole picture; four are not, but close to it.
    assert!(draw("--tile 64") == plain);
    let wide = "--size 128x64 --count 1 --seed 2";
    let [whole, tiles] = ["", "--tile 64"].map(|tile| here.draw(&pipeline(), &format!("{wide} {tile}")));
    assert!(whole["x0"] == tiles["x0"] && whole["images"] != tiles["images"]);
}

#[test]
fn inspect_prints_a_command_that_draws() {
    let here = Place::new();
    let said = here.run(&["inspect", &pipeline()], "").succeeds();
    let command = said.lines().find_map(|line| line.strip_prefix("draw with it           flowdppo-wgpu ")).unwrap();
    let words = shlex::split(command).unwrap();
    here.run(&words.iter().map(String::as_str).collect::<Vec<_>>(), "--steps 1").succeeds();
    picture(&here.path("fox.png"));
    let model = here.pipeline_with("without", &[]);
    fs::remove_dir_all(here.path("without/text_encoder_3")).unwrap();
    assert!(here.run(&["inspect", &model], "").succeeds().contains(" --no-t5 --prompt"));
    fs::remove_dir_all(here.path("without/vae")).unwrap();
    assert!(!here.run(&["inspect", &model], "").succeeds().contains("draw with it"));
}
