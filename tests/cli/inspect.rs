//! `inspect`: its description of models of every kind, and its errors about other files.

use std::path::Path;

use serde_json::Value;

use super::workplace::{Ended, MADE, Workplace, formats, program, sit_tiny};

fn inspect(here: &Path, arguments: &[&str], path: &Path) -> Ended {
    Ended::of(program(here, "inspect").args(arguments).arg(path))
}

fn report(path: &Path) -> Value {
    let text = inspect(Path::new("."), &["--json"], path).succeeds();
    serde_json::from_str(&text).unwrap_or_else(|cause| panic!("{cause}: {text}"))
}

/// The message about a mistake: one sentence, and the exit code of bad input.
fn message(here: &Path, path: &Path) -> String {
    let ended = inspect(here, &[], path);
    assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{}", ended.err);
    let sentence = ended.err.strip_prefix("error: ").unwrap_or_else(|| panic!("{}", ended.err)).trim_end().to_owned();
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
    sentence
}

fn part<'a>(report: &'a Value, name: &str) -> &'a Value {
    let parts = report["components"].as_array().unwrap();
    parts.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[test]
fn a_pipeline_is_described_part_by_part() {
    let report = report(&formats("sd35_tiny_pipeline"));
    assert_eq!(report["kind"], "pipeline");
    let what = report["what"].as_str().unwrap();
    assert!(what.contains("Stable Diffusion 3.5 Medium (StableDiffusion3Pipeline)"), "{what}");
    let transformer = part(&report, "transformer");
    let expected =
        "3 blocks (1 with a second attention), width 32, 4 heads, 16 channels, patch 2, text width 48, positions 16x16";
    assert_eq!(transformer["sizes"], expected);
    assert_eq!(part(&report, "vae")["sizes"], "16 latent channels, scaling 1.5305, shift 0.0609");
    assert_eq!(part(&report, "text_encoder_2")["sizes"], "3 layers, width 24, vocabulary 610, projection 20");
    assert_eq!(part(&report, "text_encoder_3")["sizes"], "2 layers, width 48, vocabulary 120");
    assert!(part(&report, "tokenizer_3")["bytes_on_disk"].as_u64() > Some(0));
    let all: u64 =
        report["components"].as_array().unwrap().iter().map(|part| part["parameters"].as_u64().unwrap()).sum();
    assert_eq!(report["parameters"], all);
    let memory = &report["weights_memory"];
    let counted = all - memory["position_table"].as_u64().unwrap();
    assert_eq!(memory["position_table"], 16 * 16 * 32);
    assert_eq!((memory["f32"].as_u64(), memory["f16"].as_u64()), (Some(4 * counted), Some(2 * counted)));
    let eight = memory["q8_0"].as_u64().unwrap();
    assert!(eight < 4 * counted && eight > counted, "{memory}");
    // As text: one line per part.
    let text = inspect(Path::new("."), &[], &formats("sd35_tiny_pipeline")).succeeds();
    for name in ["transformer", "vae", "text_encoder", "tokenizer_2", "scheduler", "weights in memory"] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(name)), "{text}");
    }
}

/// The command that it prints works, and needs the memory that it states, up to differences between kernels. The tiny model
/// has positions for 256 pixels.
#[test]
fn a_pipeline_can_be_trained_with_the_printed_command() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prompts.txt"), "a\nb\nc\nd\n").unwrap();
    let report = report(&formats("sd35_tiny_pipeline"));
    let memory = report["image_memory"].as_array().unwrap();
    let said = |weights: &str, key: &str| {
        let found = memory.iter().find(|it| it["weights"] == weights && it["size"] == serde_json::json!([256, 256]));
        found.unwrap_or_else(|| panic!("no {weights} in {report}"))[key].as_u64().unwrap() as f64 / f64::from(1 << 20)
    };
    assert_eq!(memory.len(), 3, "{report}");
    assert!(said("f32", "training") > said("f16", "training") && said("f16", "sampling") > 0.0, "{report}");
    let command = report["train_command"].as_str().unwrap().replace("PROMPTS.txt", "prompts.txt");
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/sd35/laptop.toml").display().to_string();
    let words = shlex::split(command.strip_prefix("flowdppo-wgpu ").unwrap()).unwrap().into_iter();
    let words = words.map(|word| if word == "configs/sd35/laptop.toml" { config.clone() } else { word });
    let plan = Ended::of(program(folder.path(), "").args(words).arg("--dry-run")).succeeds();
    let line = plan.lines().find(|line| line.starts_with("planned device memory")).unwrap();
    let planned: f64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    // Sliced weight gradients need scratch memory, and the number of slices depends on the device: 0.2 % on the software
    // driver.
    let training = said("q8_0", "training");
    assert!((training / planned - 1.0).abs() < 0.1, "{training} MiB for {planned} MiB");
}

/// Every form of the transformer has the parameters of the folder, stored in another way.
#[test]
fn every_form_of_a_model_has_the_same_description() {
    let whole = report(&formats("sd35_tiny_pipeline/transformer"));
    assert_eq!((&whole["kind"], &whole["stored_as"]["F32"]), (&"component".into(), &whole["parameters"]));
    let forms = [
        ("sd35_tiny_variants/transformer_fp16", "F16"),
        ("sd35_tiny_variants/transformer_bf16", "BF16"),
        ("sd35_tiny_variants/transformer_sharded", "F32"),
        ("sd35_tiny_variants/transformer_sharded_fp16", "F16"),
        ("sd35_tiny_variants/transformer_sharded/diffusion_pytorch_model.safetensors.index.json", "F32"),
        ("sd35_tiny_variants/sd35_tiny_single_file.safetensors", "F32"),
        ("sd35_tiny_variants/sd35_tiny_single_file_fp8_e4m3.safetensors", "F8_E4M3"),
        ("quant_vectors/sd35_tiny_q8_0.gguf", "Q8_0"),
    ];
    let expected = part(&whole, "transformer");
    for (form, stored_as) in forms {
        let report = report(&formats(form));
        let found = part(&report, "transformer");
        assert_eq!((&found["parameters"], &found["sizes"]), (&expected["parameters"], &expected["sizes"]), "{form}");
        assert!(found["stored_as"][stored_as].as_u64() > Some(0), "{form}: {found}");
    }
    let single = report(&formats("sd35_tiny_variants/sd35_tiny_single_file.safetensors"));
    assert_eq!(
        (&part(&single, "vae")["state"], &part(&single, "text_encoder_3")["state"]),
        (&"present".into(), &"missing".into())
    );
}

#[test]
fn adapters_are_described() {
    let diffusers = report(&formats("sd3_lora_diffusers/pytorch_lora_weights.safetensors"));
    let what = diffusers["what"].as_str().unwrap();
    assert!(
        what.contains("in the format of diffusers on a transformer of Stable Diffusion 3: rank 4, alpha"),
        "{what}"
    );
    assert!(what.ends_with("15 layers"), "{what}");
    assert_eq!(report(&formats("sd3_lora_diffusers"))["what"], diffusers["what"]);
    assert!(diffusers["notes"].to_string().contains("attn.to_add_out"));

    let here = Workplace::new();
    here.run("train --config train.toml --set lora.rank=2 --set lora.alpha=6 --out runs/lora").succeeds();
    let ours = report(&here.path("runs/lora/adapter"));
    let what = ours["what"].as_str().unwrap();
    assert!(
        what.contains("in the format of PEFT on a class-conditional flow model (DiT or SiT): rank 2, alpha 6"),
        "{what}"
    );
    let run = report(&here.path("runs/lora"));
    assert_eq!(run["kind"], "run");
    let what = run["what"].as_str().unwrap();
    assert!(what.contains("the directory of a run (its newest checkpoint is 2) with an adapter (LoRA)"), "{what}");
    assert!(run["notes"].to_string().contains("its base is") && run["notes"].to_string().contains("base.safetensors"));
    let checkpoint = here.path("runs/lora/checkpoints/000002");
    let what = report(&checkpoint)["what"].to_string();
    assert!(what.contains("a complete checkpoint of iteration 2 with an adapter (LoRA)"), "{what}");
    std::fs::write(checkpoint.join("adapter_training.safetensors"), "cut").unwrap();
    let text = message(&here.path("."), &checkpoint);
    assert!(text.contains("is not a complete checkpoint: adapter_training.safetensors has 3 bytes"), "{text}");
    // An adapter without one of its matrices.
    let tensors =
        flowdppo_wgpu::model::Tensors::from([("blocks.0.attn.qkv.lora_A.weight".into(), (vec![2, 8], vec![0.0; 16]))]);
    std::fs::write(here.path("half.safetensors"), flowdppo_wgpu::model::serialize_tensors(&tensors)).unwrap();
    let text = message(&here.path("."), Path::new("half.safetensors"));
    assert!(text.contains("half.safetensors has no pair of matrices A [rank, inputs] and B"), "{text}");
}

/// The command that it prints works, and needs the memory that it states, up to differences between kernels.
#[test]
fn a_flow_model_can_be_trained_with_the_printed_command() {
    let here = Workplace::new();
    here.import_sit();
    for name in ["builtin:digits8-base", "builtin:rings-base", "sit.safetensors", "base.safetensors"] {
        let text = inspect(&here.path("."), &["--json"], Path::new(name)).succeeds();
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["kind"], "flow-model", "{name}");
        let (sampling, training) = (&report["device_memory"]["sampling"], &report["device_memory"]["training"]);
        assert!(sampling.as_u64() > report["parameters"].as_u64().map(|count| 4 * count), "{name}: {report}");
        let command = report["train_command"].as_str().unwrap();
        let words = shlex::split(command.strip_prefix("flowdppo-wgpu ").unwrap()).unwrap();
        let plan = Ended::of(program(&here.path("."), "").args(words).arg("--dry-run")).succeeds();
        let line = plan.lines().find(|line| line.starts_with("planned device memory")).unwrap();
        let planned: f64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
        let said = training.as_u64().unwrap() as f64 / f64::from(1 << 20);
        // Sliced weight gradients need scratch memory, and the number of slices depends on the device.
        assert!((said / planned - 1.0).abs() < 0.25, "{name}: {said} MiB for {planned} MiB");
    }
}

#[test]
fn models_of_this_program_and_of_sit_are_distinguished() {
    let here = MADE.as_path();
    let base = report(&here.join("runs/base"));
    assert_eq!((&base["kind"], base["parameters"].as_u64() > Some(0)), (&"run".into(), true));
    assert!(base["notes"].to_string().contains("its classes are"), "{base}");
    let classifier = report(&here.join("runs/classifier/model.safetensors"));
    assert_eq!(classifier["kind"], "classifier");
    assert!(classifier["what"].as_str().unwrap().ends_with("8x8 images of 1 channels, hidden size 8, 10 classes"));
    let sit = report(&sit_tiny("model.safetensors"));
    assert_eq!(sit["kind"], "sit-checkpoint");
    assert!(sit["train_command"].as_str().unwrap().contains("import --format sit --num-heads N"), "{sit}");
    let notes = sit["notes"].to_string();
    assert!(notes.contains("the number of its attention heads is not in the file"), "{sit}");
    assert!(
        notes.contains("latents of 4 channels, and images with an autoencoder") && notes.contains("--vae"),
        "{sit}"
    );
    assert!(sit["device_memory"].is_null());
}

#[test]
fn names_on_the_hub_are_looked_up_on_this_machine() {
    let here = tempfile::tempdir().unwrap();
    let model = "stabilityai/stable-diffusion-3.5-medium";
    let run = || Ended::of(program(here.path(), "inspect").arg(model).env("HF_HUB_CACHE", here.path().join("hub")));
    let ended = run();
    assert_eq!(ended.code, Some(2));
    for part in [
        "nothing is downloaded here",
        "huggingface-cli download",
        "git clone",
        &format!("https://huggingface.co/{model},"),
    ] {
        assert!(ended.err.contains(part), "{}", ended.err);
    }
    let folder = here.path().join("hub/models--stabilityai--stable-diffusion-3.5-medium");
    let snapshot = folder.join("snapshots/abc/transformer");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(folder.join("refs")).unwrap();
    std::fs::write(folder.join("refs/main"), "abc").unwrap();
    std::fs::copy(formats("sd35_tiny_pipeline/model_index.json"), folder.join("snapshots/abc/model_index.json"))
        .unwrap();
    for file in ["config.json", "diffusion_pytorch_model.safetensors"] {
        std::fs::copy(formats("sd35_tiny_pipeline/transformer").join(file), snapshot.join(file)).unwrap();
    }
    let text = run().succeeds();
    assert!(text.contains("3 blocks") && text.contains("missing, CLIPTextModelWithProjection"), "{text}");
}

#[test]
fn files_that_are_not_models_get_one_sentence() {
    let here = tempfile::tempdir().unwrap();
    let whole = std::fs::read(formats("sd35_tiny_variants/sd35_tiny_single_file.safetensors")).unwrap();
    let native = std::fs::read(MADE.join("runs/base/model.safetensors")).unwrap();
    let other = flowdppo_wgpu::model::Tensors::from([("x".into(), (vec![1], vec![0.0]))]);
    let files: [(&str, Vec<u8>, &str); 10] = [
        ("cut.safetensors", whole[..whole.len() / 2].to_vec(), "its tensors end at byte"),
        ("native.safetensors", native[..native.len() - 4].to_vec(), "its tensors end at byte"),
        ("header.safetensors", [&[255, 255, 0, 0, 0, 0, 0, 0][..], b"{}"].concat(), "its header claims 65535 bytes"),
        ("model.pt", b"PK\x03\x04 archive/data.pkl".to_vec(), "is not safetensors: it is"),
        ("page.safetensors", b"<html><body>".to_vec(), "it is a web page"),
        (
            "other.safetensors",
            flowdppo_wgpu::model::serialize_tensors(&other),
            "none of the tensors that identify a model",
        ),
        (
            "shards.safetensors.index.json",
            b"{\"weight_map\": {\"a\": \"b.safetensors\"}}".to_vec(),
            "names the shard b.safetensors, which is missing",
        ),
        (
            "flux/model_index.json",
            b"{\"_class_name\": \"FluxPipeline\"}".to_vec(),
            "is of a FluxPipeline, which is not supported",
        ),
        (
            "unet/config.json",
            b"{\"_class_name\": \"UNet2DConditionModel\"}".to_vec(),
            "UNet2DConditionModel, which is not supported: only",
        ),
        ("broken/config.json", b"{".to_vec(), "is not an object in JSON"),
    ];
    for (name, bytes, expected) in files {
        let path = here.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let text = message(here.path(), Path::new(name));
        assert!(text.contains(expected), "{name}: {text}");
    }
    let text = message(here.path(), Path::new("."));
    assert!(text.contains("is a directory of something else: expected a pipeline"), "{text}");
    assert!(text.contains("name the file in it, such as"), "{text}");
    assert!(message(here.path(), Path::new("nowhere")).contains("cannot read nowhere"));
    assert!(message(here.path(), Path::new("builtin:digit8-base")).contains("did you mean `builtin:digits8-base`?"));
}
