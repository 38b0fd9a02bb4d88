//! Class-conditional models of latents, such as the published SiT, with an autoencoder that makes pictures of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowdppo_wgpu::gpu::{Gpu, Options};
use flowdppo_wgpu::model::{Autoencoder, Tensors, read_tensors, write_tensors};

use super::workplace::{Ended, Workplace, formats, lines, number, picture, program};

/// The weights in the folder of an autoencoder.
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// As small as a run can be; the model makes latents of 8x8, and the autoencoder pictures of twice that.
const CONFIGURATION: &str = r#"
    [model]
    file = "sit.safetensors"
    vae = "vae"
    [rollout]
    steps = 2
    groups = 2
    group_size = 2
    trained_steps = { kind = "sparse-early", count = 1, from = 0.0, to = 0.5 }
    [[reward]]
    kind = "brightness"
    [train]
    iterations = 2
    updates_per_rollout = 1
    inner_epochs = 1
    [eval]
    judge = ""
    classes = [1, 3]
    count = 2
    steps = 2
    seed = 7
    [preview]
    per_class = 1
    steps = 2
    [checkpoint]
    every = 1
"#;

/// A folder with a model of latents, `sit.safetensors`, the tiny autoencoder of Stable Diffusion 1, `vae`, and
/// `latent.toml`.
fn place() -> Workplace {
    let here = Workplace::new();
    here.import_sit();
    copy(&formats("vae_sd1_tiny"), &here.path("vae"));
    fs::write(here.path("latent.toml"), CONFIGURATION).unwrap();
    here
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in ["config.json", WEIGHTS] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

/// An autoencoder with four levels, as the published one has, so that pictures have eight times the size of latents: that
/// of the tiny pipeline, with the first 4 of its 16 latent channels.
fn write_deep_vae(folder: &Path) {
    copy(&formats("sd35_tiny_pipeline/vae"), folder);
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let changed = config.replace("\"latent_channels\": 16", "\"latent_channels\": 4");
    assert_ne!(config, changed);
    fs::write(folder.join("config.json"), changed).unwrap();
    let mut tensors = read_tensors(&folder.join(WEIGHTS)).unwrap();
    let mut cut = |name: &str, dimension: usize, length: usize| {
        let (shape, values) = tensors.get_mut(name).unwrap();
        let inner: usize = shape[dimension + 1..].iter().product();
        let old = shape[dimension];
        *values = values.chunks(old * inner).flat_map(|row| &row[..length * inner]).copied().collect();
        shape[dimension] = length;
    };
    cut("decoder.conv_in.weight", 1, 4);
    // Means and variances.
    cut("encoder.conv_out.weight", 0, 8);
    cut("encoder.conv_out.bias", 0, 8);
    write_tensors(&folder.join(WEIGHTS), &tensors).unwrap();
}

/// The samples that `sample` draws with these options.
fn drawn(here: &Workplace, options: &str) -> Tensors {
    here.run(&format!("-q sample --steps 2 {options} --save-tensors x.safetensors --out x.png --force")).succeeds();
    read_tensors(&here.path("x.safetensors")).unwrap()
}

/// Mean luma of a picture `[3, H, W]`, as the reward `brightness` defines it.
fn brightness(picture: &[f32]) -> f64 {
    let plane = picture.len() / 3;
    let share = |at: usize| ((f64::from(picture[at]) + 1.0) / 2.0).clamp(0.0, 1.0);
    let luma = |i: usize| 0.2126 * share(i) + 0.7152 * share(plane + i) + 0.0722 * share(2 * plane + i);
    (0..plane).map(luma).sum::<f64>() / plane as f64
}

#[test]
fn samples_are_decoded() {
    let here = place();
    let options = "--model sit.safetensors --class 1 --class 3 --count 2";
    let latents = drawn(&here, options);
    assert!(!latents.contains_key("images"));
    let both = drawn(&here, &format!("{options} --vae vae --trajectory"));
    assert_eq!((&both["x0"], &both["labels"]), (&latents["x0"], &latents["labels"]));
    assert_eq!(both["trajectory"].0, [3, 4, 4, 8, 8]);
    let (shape, images) = &both["images"];
    assert_eq!(*shape, [4, 3, 16, 16]);
    // tests/text_to_image/autoencoder.rs compares this decoder with diffusers.
    let gpu: Arc<Gpu> = Gpu::open(&Options::default().or_environment()).unwrap();
    let mut decoder = Autoencoder::load(&here.path("vae")).unwrap().decoder(&gpu, 1).unwrap();
    assert_eq!(*images, decoder.decode(&both["x0"].1, [8, 8]).unwrap());
    let grid = picture(&here.path("x.png"));
    assert!(grid.0 >= 2 * 16 && grid.1 >= 2 * 16, "{grid:?}");

    // The folder of a pipeline stands for its autoencoder, and a file with its sizes beside it is one, too.
    fs::create_dir(here.path("pipeline")).unwrap();
    copy(&here.path("vae"), &here.path("pipeline/vae"));
    for vae in ["pipeline", &format!("vae/{WEIGHTS}")] {
        assert_eq!(drawn(&here, &format!("{options} --vae {vae}"))["images"], both["images"], "{vae}");
    }
    write_deep_vae(&here.path("deep"));
    assert_eq!(drawn(&here, "--model sit.safetensors --class 2 --count 1 --vae deep")["images"].0, [1, 3, 64, 64]);
}

#[test]
fn a_run_learns_from_pictures_and_is_resumed_byte_for_byte() {
    let here = place();
    here.run("config check latent.toml").succeeds();
    let plan = here.run("train --config latent.toml --dry-run").succeeds();
    let has_part = plan.contains("the decoder, while it decodes whole images, on top");
    assert!(plan.contains("vae = \"vae\"") && plan.contains("planned device memory") && has_part, "{plan}");
    let ended = here.run("-q train --config latent.toml --out whole").succeeds();
    assert!(ended.contains("draw with: flowdppo-wgpu sample --model whole --vae vae --class N"), "{ended}");
    here.run("-q train --config latent.toml --out parts --set train.iterations=1").succeeds();
    here.run("-q train --out parts --resume --set train.iterations=2").succeeds();
    let [whole, parts] = ["whole", "parts"].map(|run| fs::read(here.path(run).join("model.safetensors")).unwrap());
    assert!(whole == parts, "a resumed run continues byte for byte");
    let metrics = lines(&here.path("whole/metrics.jsonl"));
    let last = &metrics[metrics.len() - 1];
    assert_eq!([number(last, "ratio_update0_maxdev"), number(last, "kl_update0_max")], [0.0; 2]);
    assert!(here.path("whole/report.html").is_file() && here.path("whole/before_after.png").is_file());

    // The evaluation scores pictures: those of the same samples. Without an autoencoder there are none.
    let pictures = drawn(&here, "--model whole --vae vae --class 1 --class 3 --count 2 --seed 7");
    let expected = pictures["images"].1.chunks(3 * 16 * 16).map(brightness).sum::<f64>() / 4.0;
    // The same pixels, averaged in f64 in another order.
    assert!((number(last, "eval/reward_mean") - expected).abs() < 1e-12, "{last} is not {expected}");
    let evaluation = here.run("eval --json --model whole --config whole/config.toml").succeeds();
    let evaluation = serde_json::from_str(&evaluation).unwrap();
    assert_eq!(number(&evaluation, "reward_mean"), number(last, "eval/reward_mean"));
    fs::write(here.path("eval.toml"), CONFIGURATION.replace("vae = \"vae\"", "")).unwrap();
    let again = here.run("eval --json --model whole --vae vae --config eval.toml").succeeds();
    assert_eq!(evaluation, serde_json::from_str::<serde_json::Value>(&again).unwrap());
    let raw = here.run("eval --model whole --config eval.toml");
    assert!(
        raw.err.contains("the model makes 4; choose another kind") && raw.err.contains("autoencoder"),
        "{}",
        raw.err
    );
}

/// What a run depends on, whether its path is given or a name in the hub's cache.
#[test]
fn a_run_is_not_resumed_with_another_autoencoder() {
    let here = place();
    let snapshot = here.path("hub/models--stabilityai--sd-vae-ft-ema/snapshots/abc");
    copy(&formats("vae_sd1_tiny"), &snapshot);
    let run = |arguments: &str| {
        Ended::of(program(&here.path("."), arguments).env("HF_HUB_CACHE", here.path("hub").canonicalize().unwrap()))
    };
    run("-q train --config latent.toml --set model.vae=stabilityai/sd-vae-ft-ema --set train.iterations=1 --out run")
        .succeeds();
    let recorded = fs::read_to_string(here.path("run/inputs.json")).unwrap();
    assert!(recorded.contains("stabilityai/sd-vae-ft-ema/config.json"), "{recorded}");
    let mut tensors = read_tensors(&snapshot.join(WEIGHTS)).unwrap();
    tensors.get_mut("decoder.conv_out.bias").unwrap().1[0] += 0.5;
    write_tensors(&snapshot.join(WEIGHTS), &tensors).unwrap();
    let resume = "-q train --resume --out run --set train.iterations=2";
    let refused = run(resume).refused();
    let says = ["`model.vae` names", WEIGHTS, "has changed since the run started", "--accept-changes"];
    assert!(says.iter().all(|part| refused.contains(part)), "{refused}");
    run(&format!("{resume} --accept-changes")).succeeds();
}

#[test]
fn sweeps_start_from_models_of_latents() {
    let here = place();
    fs::write(here.path("sweep.toml"), "sweep.base = \"latent.toml\"\ngrid.train.learning_rate = [1e-4, 1e-3]\n")
        .unwrap();
    let plan = here.run("sweep sweep.toml --out swept --dry-run").succeeds();
    assert!(plan.contains("2 runs"), "{plan}");
}

#[test]
fn mistakes_get_one_sentence() {
    let here = place();
    write_deep_vae(&here.path("deep"));
    copy(&formats("vae_sd1_tiny"), &here.path("cut"));
    let cut: PathBuf = here.path("cut").join(WEIGHTS);
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..1000]).unwrap();
    copy(&formats("vae_sd1_tiny"), &here.path("misshapen"));
    fs::copy(formats("taesd_tiny").join(WEIGHTS), here.path("misshapen").join(WEIGHTS)).unwrap();
    fs::create_dir(here.path("empty")).unwrap();
    fs::create_dir(here.path("pickle")).unwrap();
    fs::write(here.path("pickle/diffusion_pytorch_model.bin"), "PK").unwrap();
    let other = formats("sd35_tiny_pipeline/vae").display().to_string();
    let sample = "sample --class 1 --count 1 --steps 1 --model sit.safetensors --vae";
    let train = "train --config latent.toml --dry-run --set";
    let pipeline = formats("sd35_tiny_pipeline").display().to_string();
    let mistakes: [(String, &str); 16] = [
        (format!("{sample} nowhere"), "cannot read nowhere"),
        (format!("{sample} empty"), "empty has no weights: expected diffusion_pytorch_model.safetensors"),
        (format!("{sample} pickle"), "only safetensors can be read"),
        (format!("{sample} cut"), "cut/diffusion_pytorch_model.safetensors is not a complete safetensors file"),
        (format!("{sample} misshapen"), "is missing the tensor `post_quant_conv.weight` of shape [4, 4, 1, 1]"),
        (
            format!("{sample} {other}"),
            "decodes latents of 16 channels, but those of sit.safetensors have 4: it belongs",
        ),
        (format!("{sample} no-org/no-model"), "nothing is downloaded"),
        (format!("{sample} sit.safetensors"), "none of the tensors that identify a model"),
        (
            "sample --model base.safetensors --vae vae".into(),
            "--vae is vae, but base.safetensors makes images itself, of 1 channels",
        ),
        (format!("sample --model {pipeline} --prompt fox --vae vae"), "--vae is for models with classes"),
        (format!("{train} model.vae=nowhere"), "cannot read nowhere"),
        (
            format!("{train} model.file=base.safetensors"),
            "`model.vae` is vae, but base.safetensors makes images itself",
        ),
        (format!("{train} model.vae="), "`model.vae` must be the folder or file of an autoencoder, not empty"),
        (
            format!("{train} model.vae=deep --set eval.judge=builtin:digits8-judge"),
            "8x8 images of 1 channels, but the model makes 64x64 images of 3",
        ),
        ("eval --model base.safetensors --config latent.toml".into(), "`model.vae` is vae, but base.safetensors makes"),
        ("pretrain --config latent.toml".into(), "pretrain does not encode images"),
    ];
    for (command, says) in mistakes {
        let ended = here.run(&command);
        assert_eq!(ended.code, Some(2), "{command}: {}", ended.err);
        assert!(ended.err.contains(says), "{command}: {}\nlacks: {says}", ended.err);
        assert!(ended.err.starts_with("error: ") && ended.err.lines().count() == 1, "{command}: {}", ended.err);
        assert!(!ended.err.contains(". ") && !ended.err.trim_end().ends_with('.'), "one sentence: {}", ended.err);
    }
    let ended = here.run("config check latent.toml --set model.vae=nowhere");
    assert!(ended.out.contains("`model.vae` names nowhere, which does not exist"), "{}", ended.out);
    assert_eq!(ended.code, Some(2));
}
