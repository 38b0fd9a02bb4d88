//! `sample` with prompts on pipelines with a mistake, and with options that make no sense; which files may be replaced.

use std::fs;
use std::path::Path;

use flowdppo_wgpu::model::{read_tensors, write_tensors};

use super::text_to_image::{Place, TRANSFORMER};
use super::workplace::{Ended, Workplace, copy_folder, formats, program};

/// A pipeline with a mistake, what is asked of it, and what the sentence must contain.
type Mistake<'a> = (&'a dyn Fn(&Path), &'a str, &'a [&'a str]);

#[test]
fn mistakes_get_one_sentence() {
    let edit = |file: &'static str, from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let path = folder.join(file);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{file} has no {from}");
            fs::write(path, text.replace(from, to)).unwrap();
        }
    };
    let remove = |part: &'static str| move |folder: &Path| fs::remove_dir_all(folder.join(part)).unwrap();
    let none = |_: &Path| ();
    let other_lora = |folder: &Path| {
        let path = formats("sd35_tiny_gradients/lora_diffusers/pytorch_lora_weights.safetensors");
        let tensors = read_tensors(&path).unwrap().into_iter();
        let tensors = tensors.map(|(name, tensor)| (name.replace("attn.to_q", "attn.qkv"), tensor)).collect();
        write_tensors(&folder.join("../lora.safetensors"), &tensors).unwrap();
    };
    let not_finite = |folder: &Path| {
        let path = folder.join(TRANSFORMER);
        let mut tensors = read_tensors(&path).unwrap();
        tensors.get_mut("proj_out.bias").unwrap().1[3] = f32::NAN;
        write_tensors(&path, &tensors).unwrap();
    };
    let large = |folder: &Path| {
        let path = folder.join(TRANSFORMER);
        let mut tensors = read_tensors(&path).unwrap();
        tensors.get_mut("proj_out.weight").unwrap().1[5] = 1e6;
        write_tensors(&path, &tensors).unwrap();
    };
    let cut = |folder: &Path| {
        let path = folder.join("vae/diffusion_pytorch_model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..1000]).unwrap();
    };
    let lines = |folder: &Path| fs::write(folder.join("../p.txt"), b"\xff\xfea\0").unwrap();
    let index = "model_index.json";
    let mistakes: [Mistake<'_>; 29] = [
        (&edit(index, "StableDiffusion3Pipeline", "FluxPipeline"), "", &["FluxPipeline, which is not supported"]),
        (
            &edit(index, "SD3Transformer2DModel", "UNet2DConditionModel"),
            "",
            &["`transformer` is a UNet2DConditionModel"],
        ),
        (&edit(index, "FlowMatchEuler", "DDIM"), "", &["`scheduler` is a DDIM"]),
        (&remove("transformer"), "", &["has no folder `transformer`", "download it as well"]),
        (&remove("vae"), "", &["has no folder `vae`"]),
        (&remove("scheduler"), "", &["has no folder `scheduler`"]),
        (&remove("text_encoder"), "", &["has no folder `text_encoder`"]),
        (&remove("tokenizer_2"), "", &["has no folder `tokenizer_2`"]),
        (&remove("text_encoder_3"), "", &["has no folder `text_encoder_3`", "--no-t5"]),
        (
            &edit(
                "scheduler/scheduler_config.json",
                "\"use_dynamic_shifting\": false",
                "\"use_dynamic_shifting\": true",
            ),
            "",
            &["`use_dynamic_shifting` = true"],
        ),
        (
            &edit("transformer/config.json", "\"pooled_projection_dim\": 32", "\"pooled_projection_dim\": 33"),
            "",
            &["pooled embeddings of 32 numbers", "33"],
        ),
        (
            &edit("transformer/config.json", "\"num_layers\": 3", "\"num_layers\": 4"),
            "",
            &["norm1_context.linear.weight` has shape [64, 32], but [192, 32] is expected"],
        ),
        (
            &edit("vae/config.json", "\"latent_channels\": 16", "\"latent_channels\": 4"),
            "",
            &["latents of 4 channels, but the transformer's have 16"],
        ),
        (&not_finite, "", &["`proj_out.bias` is not finite at element 3 (NaN)"]),
        (&large, "--weights f16", &["--weights f16 cannot keep proj_out.weight", "beyond 65504", "set --weights f32"]),
        (&cut, "", &["vae", "its header claims 18384 bytes"]),
        (&none, "--size 72x64", &["--size is 72x64", "multiples of 16 from 16 to 256"]),
        (&none, "--size 64x512", &["--size is 64x512", "multiples of 16 from 16 to 256"]),
        (&none, "--class 3", &["--class is for models with classes"]),
        (&none, "--solver dpm-solver++ --sampler flow-sde", &["--solver is for deterministic steps"]),
        (&none, "--steps 0", &["--steps is 0"]),
        (&none, "--guidance-scale 0", &["--guidance-scale is 0: it must be 1, which is no guidance, or more"]),
        (&none, "--tile 20", &["--tile is 20: it must be a multiple of 8 from 64 on"]),
        (&none, "--variant bf16", &["no weights of the variant \"bf16\""]),
        (&none, "--count 20000", &["--count is 20000: it must be a number from 1 to 10000"]),
        (&none, "--noise ../noise.safetensors", &["the noise has 2 rows for 1 prompts"]),
        (&none, "--conditions ../noise.safetensors", &["missing the tensor `prompt_embeds`"]),
        (&other_lora, "--lora ../lora.safetensors", &["attn.qkv\", which is not a layer of the model"]),
        (&lines, "--prompts ../p.txt", &["p.txt: it is text in UTF-16: save it as UTF-8"]),
    ];
    for (spoil, more, says) in mistakes {
        let here = Place::new();
        let model = here.pipeline_with("model", &[]);
        spoil(Path::new(&model));
        // From within the folder, so that nothing may be left there.
        let command = format!("-q sample --model . --prompt fox --out x.png {more}");
        let ended = Ended::of(&mut program(Path::new(&model), &command));
        assert_eq!(ended.code, Some(2), "{more}: {}", ended.err);
        assert!(ended.err.starts_with("error: ") && ended.err.lines().count() == 1, "{more}: {}", ended.err);
        assert!(says.iter().all(|words| ended.err.contains(words)), "{says:?}: {}", ended.err);
        assert!(!ended.err.trim_end().ends_with('.') && ended.out.is_empty(), "{}", ended.err);
        assert!(!Path::new(&model).join("x.png").exists());
    }
}

#[test]
fn an_autoencoder_is_not_replaced_but_what_is_not_read_is() {
    let here = Workplace::new();
    here.import_sit();
    copy_folder(&formats("vae_sd1_tiny"), &here.path("vae"));
    let train = "train --force --set model.file=sit.safetensors --set model.vae=vae --dump-update vae/config.json";
    let message = here.run(train).refused();
    assert!(message.contains("it is the input vae/config.json, which would be lost"), "{message}");

    // An adapter that nobody has named.
    fs::create_dir(here.path("adapter")).unwrap();
    for file in ["adapter_base.json", "adapter_model.safetensors"] {
        fs::write(here.path("adapter").join(file), "{}").unwrap();
    }
    let place = Place::new();
    let model = place.pipeline_with("model", &[]);
    let sample = "-q sample --force --count 1 --steps 1 --save-tensors adapter/adapter_model.safetensors --model";
    here.run(&format!("{sample} builtin:digits8-base")).succeeds();
    here.run_with(sample, &[&model, "--prompt", "fox", "--size", "32x32"]).succeeds();
}
