//! Files of the transformer of Stable Diffusion 3, and of its adapters as diffusers writes them.

use flowdppo_wgpu::model::folder::StoredTensors;
use flowdppo_wgpu::model::{Adapter, DIFFUSERS_ADAPTER, StoredTransformer, Tensors, read_tensors, serialize_tensors};

use super::mmdit::{SD35, adapted, config, file};
use crate::common::formats;

#[test]
fn weights_that_do_not_fit_are_reported_with_the_tensor() {
    let config = config(SD35);
    let said = |size: [usize; 2], change: &dyn Fn(&mut Tensors)| {
        let mut tensors = file(&format!("{SD35}/diffusion_pytorch_model.safetensors"));
        change(&mut tensors);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("wrong.safetensors");
        std::fs::write(&path, serialize_tensors(&tensors)).expect("the folder is writable");
        let tensors = StoredTensors::open(&path).expect("it is safetensors");
        StoredTransformer::new(&config, size, &tensors).expect_err("it is wrong").to_string()
    };
    let replace = |name: &'static str, shape: &'static [usize]| {
        move |tensors: &mut Tensors| {
            let values = vec![0.0; shape.iter().product()];
            assert!(tensors.insert(name.into(), (shape.to_vec(), values)).is_some());
        }
    };
    type Case<'a> = ([usize; 2], &'a dyn Fn(&mut Tensors), &'a str);
    let cases: [Case<'_>; 7] = [
        ([8, 8], &|tensors| drop(tensors.remove("pos_embed.pos_embed")), "missing the tensor `pos_embed.pos_embed`"),
        ([8, 8], &|tensors| drop(tensors.remove("proj_out.bias")), "missing the tensor `proj_out.bias` of shape [64]"),
        ([8, 8], &replace("pos_embed.pos_embed", &[1, 64, 32]), "[1, 64, 32], but [1, 256, 32] is expected"),
        ([8, 8], &replace("transformer_blocks.1.norm1.linear.bias", &[288]), "shape [288], but [192] is expected"),
        (
            [8, 8],
            &|tensors| {
                drop(tensors.insert("transformer_blocks.2.attn.to_add_out.bias".into(), (vec![32], vec![0.0; 32])))
            },
            "has a tensor `transformer_blocks.2.attn.to_add_out.bias` that its network does not have",
        ),
        ([8, 9], &|_| (), "has latents of 8 x 9: both sizes must be multiples of 2 from 2 to 32"),
        ([34, 8], &|_| (), "has latents of 34 x 8"),
    ];
    for (size, change, reason) in cases {
        let message = said(size, change);
        assert!(message.contains("wrong.safetensors") && message.contains(reason), "{message}\nlacks: {reason}");
    }
}

#[test]
fn the_diffusers_file_of_an_adapter_matches_that_of_peft() {
    let (network, adapter, _) = adapted();
    let base = network.model.layout();
    let path = formats("sd35_tiny_gradients/lora_diffusers").join(DIFFUSERS_ADAPTER);
    assert!(Adapter::load_diffusers(&path, &base).expect("it is LoRA") == adapter);
    // Written files can be read again, in both formats.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(DIFFUSERS_ADAPTER);
    adapter.save_diffusers(&path, &base).expect("the folder is writable");
    assert!(Adapter::load_diffusers(&path, &base).expect("it is ours") == adapter);
    adapter.save(folder.path(), &base).expect("the folder is writable");
    assert!(Adapter::load(folder.path(), &base).expect("it is ours") == adapter);
    let theirs = file("sd35_tiny_gradients/lora_peft/adapter_model.safetensors");
    assert_eq!(read_tensors(&folder.path().join("adapter_model.safetensors")).expect("it is complete"), theirs);
    // Without a configuration alpha is the rank.
    let tensors = read_tensors(&path).expect("it is complete");
    let plain = Adapter::from_diffusers("it", &serialize_tensors(&tensors), &base).expect("it is LoRA");
    assert_eq!(plain.weights, adapter.weights);
    assert!(plain.lora.layers().iter().all(|layer| layer.rank == 4 && layer.alpha == 4.0));
}

/// Adds alphas of layers.
fn alphas(tensors: &mut Tensors, of: &[(&str, f32)]) {
    let named = of.iter().map(|(layer, alpha)| (format!("transformer.transformer_blocks.{layer}.alpha"), *alpha));
    tensors.extend(named.map(|(name, alpha)| (name, (Vec::new(), vec![alpha]))));
}

/// Takes one from the rank of a layer.
fn narrow(tensors: &mut Tensors, layer: &str) {
    for (part, dimension) in [("lora_A", 0), ("lora_B", 1)] {
        let name = format!("transformer.transformer_blocks.{layer}.{part}.weight");
        let (shape, values) = tensors.get_mut(&name).expect("it is there");
        shape[dimension] -= 1;
        values.truncate(shape.iter().product());
    }
}

#[test]
fn ranks_and_alphas_may_differ_by_layer() {
    let base = adapted().0.model.layout();
    let mut tensors = file(&format!("sd35_tiny_gradients/lora_diffusers/{DIFFUSERS_ADAPTER}"));
    let layers: Vec<String> =
        tensors.keys().filter_map(|name| name.strip_suffix(".lora_A.weight")).map(str::to_owned).collect();
    narrow(&mut tensors, "1.attn.to_q");
    // As ComfyUI reads them.
    tensors
        .extend(layers.iter().zip(1..).map(|(layer, alpha)| (format!("{layer}.alpha"), (vec![], vec![alpha as f32]))));
    let adapter = Adapter::from_diffusers("it", &serialize_tensors(&tensors), &base).expect("it is LoRA");
    for layer in adapter.lora.layers() {
        let alpha = tensors[&format!("transformer.{}.alpha", layer.layer)].1[0];
        assert_eq!(
            (layer.alpha, layer.rank),
            (alpha, if layer.layer == "transformer_blocks.1.attn.to_q" { 3 } else { 4 })
        );
    }
    // Patterns say the same, in both formats.
    let written = adapter.to_diffusers(&base);
    assert!(Adapter::from_diffusers("it", &written, &base).expect("it is ours") == adapter);
    let [(_, config), (_, matrices)] = adapter.files(&base);
    assert!(Adapter::from_bytes("it", [&config, &matrices], &base).expect("it is ours") == adapter);
}

#[test]
fn bad_diffusers_files_are_explained() {
    let base = adapted().0.model.layout();
    let tensors = file(&format!("sd35_tiny_gradients/lora_diffusers/{DIFFUSERS_ADAPTER}"));
    let said = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = tensors.clone();
        change(&mut tensors);
        Adapter::from_diffusers("it", &serialize_tensors(&tensors), &base).expect_err("it is wrong").to_string()
    };
    let a = "transformer.transformer_blocks.1.attn.to_q.lora_A.weight";
    let b = a.replace("lora_A", "lora_B");
    let renamed = |tensors: &mut Tensors, to: &str| {
        let tensor = tensors.remove(a).expect("it is there");
        tensors.insert(to.into(), tensor);
    };
    type Case<'a> = (&'a dyn Fn(&mut Tensors), &'a str);
    let cases: [Case<'_>; 19] = [
        (
            &|tensors| drop(tensors.remove(&b)),
            "missing the tensor `transformer.transformer_blocks.1.attn.to_q.lora_B.weight`",
        ),
        (
            &|tensors| drop(tensors.remove(a)),
            "has a tensor `transformer.transformer_blocks.1.attn.to_q.lora_B.weight` that",
        ),
        (&|tensors| renamed(tensors, "text_encoder.q.lora_A.weight"), "of a text encoder, but only those named"),
        (&|tensors| renamed(tensors, "transformer.x.weight"), "`transformer.x.weight`, but only those named"),
        (&|tensors| renamed(tensors, "lora_unet_joint_blocks_0.alpha"), "with a name of kohya's scripts"),
        (&|tensors| renamed(tensors, "diffusion_model.x_block.lora_A.weight"), "with a name of ComfyUI"),
        (&|tensors| renamed(tensors, "unet.down_blocks.0.lora_A.weight"), "of a U-Net"),
        (&|tensors| renamed(tensors, "transformer.x.lora.down.weight"), "with a name of older programs"),
        (&|tensors| renamed(tensors, "transformer.x.lora_magnitude_vector"), "of DoRA, but"),
        (&|tensors| renamed(tensors, "transformer.x.lokr_w1"), "of another method than LoRA"),
        (&|tensors| renamed(tensors, "transformer.x.alpha"), "`transformer.x.alpha` has shape [4, 32], but a single"),
        (&|tensors| alphas(tensors, &[("1.attn.to_q", 8.0)]), "has no tensor `transformer.transformer_blocks.0."),
        (&|tensors| alphas(tensors, &[("9.attn.to_q", 8.0)]), "9.attn.to_q.alpha`, but no matrices of that layer"),
        (&|tensors| alphas(tensors, &[("1.attn.to_q", f32::NAN)]), "is NaN, which is not finite"),
        (&|tensors| narrow(tensors, "1.attn.to_q"), "has rank 4 at transformer_blocks.0.attn."),
        (
            &|tensors| drop(tensors.insert(a.into(), (vec![4, 48], vec![0.0; 192]))),
            "lora_A.weight` has shape [4, 48], but [4, 32] is expected",
        ),
        (
            &|tensors| renamed(tensors, "transformer.transformer_blocks.1.attn.to_p.lora_A.weight"),
            "contains \"transformer_blocks.1.attn.to_p\", which is not a layer of the model",
        ),
        (
            &|tensors| drop(tensors.insert(a.into(), (vec![128], vec![0.0; 128]))),
            "has shape [128], but a matrix is expected",
        ),
        (&|tensors| tensors.clear(), "has no tensors of an adapter"),
    ];
    for (change, reason) in cases {
        let message = said(change);
        assert!(message.starts_with("it") && message.contains(reason), "{message}\nlacks: {reason}");
    }
}
