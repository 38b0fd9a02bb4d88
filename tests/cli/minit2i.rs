//! MiniT2I, a model of pixels with T5 alone: drawn, tuned by adapter and as a whole, fine-tuned, described, and with mistakes.

use std::fs;
use std::path::Path;

use flowdppo_wgpu::model::{Tensors, read_tensors};
use serde_json::Value;

use super::workplace::{Workplace, copy_folder, formats, lines, minit2i, number};

/// The file of the transformer in its folder.
const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";

/// What is drawn with a model.
fn drawn(here: &Workplace, model: &str, options: &str) -> Tensors {
    let options = format!("-q sample --steps 2 {options} --save-tensors drawn.safetensors --out drawn.png --force");
    here.run_with(&options, &["--model", model, "--prompt", "a blue disc"]).succeeds();
    read_tensors(&here.path("drawn.safetensors")).unwrap()
}

/// The files of two runs are the same.
fn check_same(here: &Workplace, runs: [&str; 2], files: &[&str]) {
    for file in files {
        let [a, b] = runs.map(|run| fs::read(here.path(&format!("{run}/{file}"))).unwrap());
        assert!(a == b, "{file}");
    }
}

fn check_on_policy(here: &Workplace, run: &str) {
    let metrics = lines(&here.path(&format!("{run}/metrics.jsonl")));
    let last = &metrics[metrics.len() - 1];
    assert_eq!([number(last, "ratio_update0_maxdev"), number(last, "kl_update0_max")], [0.0; 2]);
}

/// Pictures are twice the states, of the size that the model proposes, along even noise levels with its own guidance.
#[test]
fn pictures_are_drawn_with_the_settings_of_the_model() {
    let here = Workplace::empty();
    let usual = drawn(&here, &minit2i(), "");
    let (shape, images) = &usual["images"];
    assert_eq!((shape.as_slice(), &usual["x0"].0), (&[1, 3, 16, 16][..], shape));
    assert!(images.iter().zip(&usual["x0"].1).all(|(image, state)| *image == 2.0 * state));
    assert!(drawn(&here, &minit2i(), "--size 16x16 --guidance-scale 2.5 --weights f32") == usual);
    // The scheduler of diffusers ends at sigma 0.001 before it reaches 0.
    assert_ne!(drawn(&here, &minit2i(), "--shift 1")["x0"], usual["x0"]);
    // A hundred steps are usual.
    let steps = |steps: &str| {
        let options = format!("-q sample {steps} --save-tensors s.safetensors --out s.png --force");
        here.run_with(&options, &["--model", &minit2i(), "--prompt", "a blue disc"]).succeeds();
        read_tensors(&here.path("s.safetensors")).unwrap()
    };
    assert!(steps("") == steps("--steps 100"));
    let picture = image::open(here.path("drawn.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (16, 16));
    assert_eq!(drawn(&here, &minit2i(), "--size 24x8")["images"].0, [1, 3, 8, 24]);

    // The empty prompt is no prompt: guidance away from it changes nothing.
    let empty = |scale: &str| {
        let options =
            format!("-q sample --steps 2 --guidance-scale {scale} --save-tensors e.safetensors --out e.png --force");
        here.run_with(&options, &["--model", &minit2i(), "--prompt", ""]).succeeds();
        read_tensors(&here.path("e.safetensors")).unwrap()["x0"].clone()
    };
    let [one, two] = [empty("1"), empty("2")];
    let largest = one.1.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    assert!(one.1.iter().zip(&two.1).all(|(a, b)| (a - b).abs() < 1e-5 * largest), "up to rounding");
    // Prompts that were encoded before draw the same bits.
    fs::write(here.path("p.txt"), "a blue disc\n").unwrap();
    here.run_with("-q encode --prompts p.txt --precision f32 --out c.safetensors", &["--model", &minit2i()]).succeeds();
    here.run_with(
        "-q sample --steps 2 --conditions c.safetensors --save-tensors k.safetensors --out k.png",
        &["--model", &minit2i()],
    )
    .succeeds();
    assert!(read_tensors(&here.path("k.safetensors")).unwrap()["x0"] == usual["x0"]);
}

#[test]
fn a_run_with_an_adapter_is_resumed_byte_for_byte_and_drawn_with() {
    let here = Workplace::of_minit2i();
    here.run("config check train.toml").succeeds();
    let plan = here.run("train --config train.toml --dry-run").succeeds();
    assert!(plan.contains("the largest layer of text_encoder") && plan.contains("in f16"), "{plan}");
    here.run("-q train --config train.toml --out whole").succeeds();
    here.run("-q train --config train.toml --out parts --set train.iterations=1").succeeds();
    here.run("-q train --out parts --resume --set train.iterations=2").succeeds();
    let files = ["adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"];
    check_same(&here, ["whole", "parts"], &files.map(|file| format!("adapter/{file}")).each_ref().map(String::as_str));
    check_on_policy(&here, "whole");
    assert!(here.path("whole/report.html").is_file() && here.path("whole/before_after.png").is_file());

    // Names are those of the published modules, for PEFT and for diffusers.
    let names = |file: &str| read_tensors(&here.path(&format!("whole/adapter/{file}"))).unwrap();
    let layer = "model.net.double_blocks.2.txt_qkv.lora_A.weight";
    assert!(names("adapter_model.safetensors").contains_key(&format!("base_model.model.{layer}")));
    assert!(names("pytorch_lora_weights.safetensors").contains_key(&format!("transformer.{layer}")));
    // The run, its adapter in either form, and the transformer with the adapter in it draw the same.
    let tuned = drawn(&here, "whole", "");
    for adapter in ["whole/adapter", "whole/adapter/pytorch_lora_weights.safetensors"] {
        assert!(drawn(&here, &minit2i(), &format!("--lora {adapter}")) == tuned, "{adapter}");
    }
    assert_ne!(drawn(&here, &minit2i(), ""), tuned, "the adapter changes nothing");
    copy_folder(Path::new(&minit2i()), &here.path("merged"));
    let merge = format!("merge --adapter whole/adapter merged/{WEIGHTS} --force");
    here.run_with(&merge, &["--model", &minit2i()]).succeeds();
    let [merged, largest] = [drawn(&here, "merged", ""), tuned.clone()].map(|tensors| tensors["x0"].1.clone());
    let scale = largest.iter().fold(0.0_f32, |scale, value| scale.max(value.abs()));
    assert!(merged.iter().zip(&largest).all(|(a, b)| (a - b).abs() < 1e-4 * scale), "W + BA and W, then BA");
    let names = |file: &Path| read_tensors(file).unwrap().into_keys().collect::<Vec<_>>();
    assert_eq!(names(&here.path("merged").join(WEIGHTS)), names(&formats("minit2i_tiny").join(WEIGHTS)));
    let message = here.run("sample --model whole --lora whole/adapter --prompt fox").refused();
    assert!(message.contains("whole has an adapter already"), "{message}");
}

/// All weights: the result is the published file with other values, and what has no effect is as it was.
#[test]
fn a_run_of_all_weights_is_resumed_byte_for_byte_and_is_a_published_file() {
    let here = Workplace::of_minit2i();
    here.without_lora();
    let train = "-q train --config train.toml --set model.weights=f32 --set train.learning_rate=1e-3";
    here.run(&format!("{train} --out whole")).succeeds();
    here.run(&format!("{train} --out parts --set train.iterations=1")).succeeds();
    here.run("-q train --out parts --resume --set train.iterations=2").succeeds();
    check_same(&here, ["whole", "parts"], &["model.safetensors", "transformer_base.json"]);
    check_on_policy(&here, "whole");
    let [before, after] = [formats("minit2i_tiny").join(WEIGHTS), here.path("whole/model.safetensors")]
        .map(|path| read_tensors(&path).unwrap());
    assert!(before.keys().eq(after.keys()));
    let same = |name: &str| before[name] == after[name];
    for unused in ["t_embedder.mlp.0.weight", "pooled_embedder.weight", "double_blocks.2.txt_mlp.w1.weight"] {
        assert!(same(&format!("model.net.{unused}")), "{unused}");
    }
    for trained in ["double_blocks.2.txt_qkv.weight", "mask_token", "img_embedder.proj1.weight"] {
        assert!(!same(&format!("model.net.{trained}")), "{trained}");
    }

    // The run draws, and so does the pipeline with its file.
    let tuned = drawn(&here, "whole", "");
    assert_ne!(drawn(&here, &minit2i(), ""), tuned);
    copy_folder(Path::new(&minit2i()), &here.path("copied"));
    fs::copy(here.path("whole/model.safetensors"), here.path("copied").join(WEIGHTS)).unwrap();
    assert!(drawn(&here, "copied", "") == tuned);
    // It is evaluated as the run did, and drift is measured from the original weights.
    let eval = |model: &str| -> Value {
        let said = here.run_with(&format!("eval --json --model {model}"), &["--base", &minit2i()]).succeeds();
        serde_json::from_str(&said).unwrap()
    };
    let metrics = lines(&here.path("whole/metrics.jsonl"));
    let (last, found) = (&metrics[metrics.len() - 1], eval("whole"));
    for key in ["samples", "reward_mean", "diversity", "drift"] {
        assert_eq!(found[key], last[format!("eval/{key}")], "{key}");
    }
    assert!(number(&found["drift"], "kl_mean") > 0.0);
    let checkpoint = fs::read_dir(here.path("whole/checkpoints")).unwrap().next().unwrap().unwrap().path();
    let checkpoint = format!("whole/checkpoints/{}", checkpoint.file_name().unwrap().to_str().unwrap());
    eval(&checkpoint);
    for place in ["whole", &checkpoint] {
        let said = here.run(&format!("inspect {place}")).succeeds();
        assert!(
            said.contains("all weights of a transformer, trained from ") && said.contains("sample --model"),
            "{said}"
        );
    }
    let message = here.run("eval --model whole --lora whole").refused();
    assert!(message.contains("whole has no adapter"), "{message}");

    // The original weights are needed for the distance to them only.
    fs::copy(here.path("whole/model.safetensors"), here.path("copied").join(WEIGHTS)).unwrap();
    let record = here.path("whole/transformer_base.json");
    let mut base: Value = serde_json::from_str(&fs::read_to_string(&record).unwrap()).unwrap();
    base["model"] = here.path("copied").display().to_string().into();
    fs::write(&record, base.to_string()).unwrap();
    let message = here.run("eval --model whole --base copied").refused();
    assert!(message.contains("the run started from weights with the CRC-32"), "{message}");
    here.run("-q eval --model whole").succeeds();
    base["model"] = "gone".into();
    fs::write(&record, base.to_string()).unwrap();
    let message = here.run("sample --model whole --prompt fox").refused();
    assert!(message.contains("transformer_base.json names the model gone, which is not there"), "{message}");
}

#[test]
fn captioned_images_are_learned_from_by_an_adapter_or_by_all_weights() {
    let here = Workplace::empty();
    fs::create_dir(here.path("images")).unwrap();
    for (name, caption, shade) in [("a", "a red square", [200, 30, 30]), ("b", "a blue disc", [30, 30, 200])] {
        image::RgbImage::from_pixel(16, 16, image::Rgb(shade)).save(here.path(&format!("images/{name}.png"))).unwrap();
        fs::write(here.path(&format!("images/{name}.txt")), caption).unwrap();
    }
    let folder = minit2i().replace('\\', "/");
    let config = format!(
        "[model]\nfolder = \"{folder}\"\n[data]\nkind = \"captions\"\npath = \"images\"\n[pretrain]\nsteps = 60\nbatch_size = 4\n\
         warmup_steps = 1\nlearning_rate = 1e-2\nlog_every = 20\ntime_sampling = \"logit-normal\"\nlogit_mean = 2.0\nsample_every = 0\nsave_every = 60\n\
         [preview]\nclasses = [0, 1]\nper_class = 1\nsteps = 2\n"
    );
    fs::write(here.path("tune.toml"), config).unwrap();
    let loss = |run: &str| {
        let metrics = lines(&here.path(&format!("{run}/metrics.jsonl")));
        [0, metrics.len() - 1].map(|at| number(&metrics[at], "loss"))
    };
    for (run, options) in
        [("lora", "--set lora.rank=4 --set lora.targets=[\"*qkv\",\"w2\",\"final_layer.linear\"]"), ("full", "")]
    {
        here.run(&format!("-q pretrain --config tune.toml --out {run} {options}")).succeeds();
        let [first, last] = loss(run);
        assert!(last < 0.8 * first, "{run}: {first} to {last}");
    }
    assert_ne!(drawn(&here, "full", ""), drawn(&here, &minit2i(), ""));
    assert_ne!(drawn(&here, "lora", ""), drawn(&here, &minit2i(), ""));
}

#[test]
fn the_model_is_described() {
    let here = Workplace::empty();
    let report: Value = serde_json::from_str(&here.run_with("inspect --json", &[&minit2i()]).succeeds()).unwrap();
    assert!(report["what"].as_str().unwrap().contains("a text-to-image pipeline of MiniT2I"), "{report}");
    let sizes = |name: &str| {
        let parts = report["components"].as_array().unwrap();
        parts.iter().find(|part| part["name"] == name).unwrap()["sizes"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        sizes("transformer"),
        "3 blocks and 2 of the text, width 32, 4 heads, 3 channels, patch 4, text width 24"
    );
    assert_eq!(sizes("text_encoder"), "2 layers, width 24, vocabulary 64");
    assert!(report["train_command"].as_str().unwrap().contains("configs/minit2i/laptop.toml"), "{report}");
    // It has no positions for the usual sizes.
    assert_eq!(report["image_memory"][0]["size"], serde_json::json!([16, 16]), "{report}");
    let inspected = |path: &str| here.run_with("inspect", &[path]).succeeds();
    let said = inspected(&minit2i());
    for line in [
        "a text-to-image pipeline of MiniT2I, without a model_index.json",
        "460.6 KiB, MiniT2IMMJiTModel, 3 blocks",
        "  tokenizer            2.0 KiB\n",
        "  scheduler            none\n",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let transformer = inspected(&format!("{}/transformer", minit2i()));
    assert!(transformer.contains("a transformer of MiniT2I"), "{transformer}");
    let file = inspected(&format!("{}/{WEIGHTS}", minit2i()));
    assert!(file.contains("a single file with a transformer of MiniT2I") && !file.contains("missing"), "{file}");
    let encoder = inspected(&format!("{}/text_encoder", minit2i()));
    assert!(encoder.contains("a T5 text encoder") && encoder.contains("  text_encoder         1"), "{encoder}");
}

#[test]
fn mistakes_get_one_sentence() {
    let here = Workplace::of_minit2i();
    let refused = |command: &str, models: &[&str], says: &str| {
        let message = here.run_with(command, models).refused();
        assert!(message.contains(says), "{command}: {message}\nlacks: {says}");
    };
    let sample = "sample --prompt fox --steps 1";
    refused(&format!("{sample} --no-t5"), &["--model", &minit2i()], "T5 is the only text encoder of this model");
    refused(&format!("{sample} --t5-tokens 20"), &["--model", &minit2i()], "have 12 tokens, not 20");
    refused(
        &format!("{sample} --size 18x16"),
        &["--model", &minit2i()],
        "--size is 18x16: width and height must be multiples of 4",
    );
    refused(&format!("{sample} --taesd vae"), &["--model", &minit2i()], "makes images without an autoencoder");
    refused(&format!("{sample} --decoder vae"), &["--model", &minit2i()], "an autoencoder: leave out --decoder");
    refused(&format!("{sample} --tile 64"), &["--model", &minit2i()], "an autoencoder: leave out --tile");
    refused(&format!("{sample} --variant fp16"), &["--model", &minit2i()], "has no weights of the variant");
    refused("train --config train.toml --dry-run --set prompts.t5=false", &[], "T5 is the only text encoder");
    // Fifty even steps: the last but one begins at 0.04. Of forty it begins at 0.05, the first that may be trained on.
    let last = "--set rollout.steps=50 --set rollout.trained_steps={kind=\"list\",steps=[48]}";
    refused(
        &format!("train --config train.toml --dry-run {last}"),
        &[],
        "may choose step 48, from sigma 0.0400 on: below 0.05",
    );
    let first = last.replace("=50", "=40").replace("[48]", "[38]");
    here.run(&format!("train --config train.toml --dry-run {first}")).succeeds();
    let nft = "--set objective={name=\"nft\"} --set rollout.sampler=ode";
    refused(&format!("train --config train.toml --dry-run {last} {nft}"), &[], "may choose step 48");

    copy_folder(Path::new(&minit2i()), &here.path("model"));
    let changed = |file: &str, from: &str, to: &str, says: &str| {
        let path = here.path("model").join(file);
        let whole = fs::read_to_string(&path).unwrap();
        assert!(whole.contains(from), "{file} has no {from}");
        fs::write(&path, whole.replace(from, to)).unwrap();
        refused(sample, &["--model", "model"], says);
        fs::write(&path, whole).unwrap();
    };
    let config = "transformer/config.json";
    changed(config, "MiniT2IMMJiTModel", "FluxTransformer2DModel", "FluxTransformer2DModel, which is not supported");
    changed(config, "{", "", "transformer/config.json is not");
    changed(
        config,
        "\"prediction\": \"x\"",
        "\"prediction\": \"v\"",
        "`prediction` = \"v\", but only \"x\" is supported",
    );
    changed(
        config,
        "\"depth_double\": 3",
        "\"depth_double\": 4",
        "missing the tensor `double_blocks.3.q_norm.weight` of shape [8]",
    );
    changed("text_encoder/config.json", "\"d_model\": 24", "\"d_model\": 32", "the transformer takes 24");
    changed(
        "tokenizer/tokenizer.json",
        "\"fox\": 26",
        "\"fox\": 99",
        "knows 64 tokens, but its tokenizer returned token 99",
    );
    fs::remove_dir_all(here.path("model/tokenizer")).unwrap();
    refused(sample, &["--model", "model"], "has no folder `tokenizer`");
    fs::remove_dir_all(here.path("model/text_encoder")).unwrap();
    let hub = here.path("hub");
    let ended = super::workplace::Ended::of(
        super::workplace::program(&here.path(""), sample).args(["--model", "model"]).env("HF_HUB_CACHE", &hub),
    );
    let message = ended.refused();
    assert!(
        message.contains("google/flan-t5-large") && message.contains("it is the text encoder of model"),
        "{message}"
    );

    // The text encoder in the cache of the hub is found by its name.
    let snapshot = hub.join("models--google--flan-t5-large/snapshots/abc");
    fs::create_dir_all(&snapshot).unwrap();
    for file in ["text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/tokenizer.json"] {
        fs::copy(formats("minit2i_tiny").join(file), snapshot.join(Path::new(file).file_name().unwrap())).unwrap();
    }
    let found = super::workplace::Ended::of(
        super::workplace::program(&here.path(""), "-q sample --steps 2 --save-tensors f.safetensors --out f.png")
            .args(["--model", "model", "--prompt", "a blue disc"])
            .env("HF_HUB_CACHE", &hub),
    );
    found.succeeds();
    let inspected =
        super::workplace::program(&here.path(""), "inspect model").env("HF_HUB_CACHE", &hub).output().unwrap();
    let inspected = super::workplace::Ended::with(inspected).succeeds();
    assert!(inspected.contains("text_encoder         missing") && inspected.contains("device memory"), "{inspected}");
    assert!(inspected.contains("its text encoder is in another folder, "), "{inspected}");
    assert!(read_tensors(&here.path("f.safetensors")).unwrap() == drawn(&here, &minit2i(), ""));
}
