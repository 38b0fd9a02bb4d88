//! Files of adapters: as PEFT writes and reads them, and what is wrong with others.

use flowdppo_wgpu::model::{
    ADAPTER_CONFIG, ADAPTER_MODEL, Adapter, Tensors, parse_tensors, read_tensors, write_tensors,
};
use serde_json::{Value, json};

use crate::common::{Random, formats, tiny};
use crate::flow_model_of;

/// The configuration that PEFT wrote for another model, for the layers of ours.
fn peft_config() -> Value {
    let path = formats("sd3_lora_peft/adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(path).expect("it ships")).expect("it is JSON");
    config["target_modules"] = json!(["attn.qkv", "attn.proj"]);
    config
}

/// A folder as PEFT writes it, with an adapter of rank 4 on the attention of the tiny model.
fn peft_folder(change: impl Fn(&mut Value, &mut Tensors)) -> tempfile::TempDir {
    let mut config = peft_config();
    let mut tensors = Tensors::new();
    let mut random = Random(8);
    for block in 0..2 {
        for (layer, outputs) in [("qkv", 48), ("proj", 16)] {
            for (part, shape) in [("lora_A", vec![4, 16]), ("lora_B", vec![outputs, 4])] {
                let values = (0..shape.iter().product()).map(|_| 0.2 * random.normal() as f32).collect();
                let name = format!("base_model.model.blocks.{block}.attn.{layer}.{part}.weight");
                tensors.insert(name, (shape, values));
            }
        }
    }
    change(&mut config, &mut tensors);
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join(ADAPTER_CONFIG), config.to_string()).expect("it is writable");
    write_tensors(&folder.path().join(ADAPTER_MODEL), &tensors).expect("it is writable");
    folder
}

#[test]
fn an_adapter_of_peft_is_read_and_written_again() {
    let model = tiny::dit(2);
    let flow_model = &flow_model_of(&model);
    let folder = peft_folder(|_, _| {});
    let adapter = Adapter::load(folder.path(), flow_model).expect("it is plain LoRA");
    assert_eq!(adapter.lora.layers().len(), 4);
    assert!(adapter.lora.layers().iter().all(|layer| (layer.rank, layer.alpha, layer.factor()) == (4, 8.0, 2.0)));

    let [(config_name, config), (model_name, bytes)] = adapter.files(flow_model);
    assert_eq!([config_name, model_name], [ADAPTER_CONFIG, ADAPTER_MODEL]);
    let written = parse_tensors("it", &bytes).expect("it is complete");
    assert_eq!(written, read_tensors(&folder.path().join(ADAPTER_MODEL)).expect("it is complete"));
    assert!(Adapter::from_bytes("it", [&config, &bytes], flow_model).expect("it is ours") == adapter);
    // No key that PEFT does not know, and all values are what it takes them to be.
    let (ours, peft): (Value, Value) = (serde_json::from_slice(&config).expect("it is JSON"), peft_config());
    for (key, value) in ours.as_object().expect("it is a table") {
        let known = peft.get(key).unwrap_or_else(|| panic!("PEFT has no key {key}"));
        let differs = ["target_modules", "init_lora_weights", "auto_mapping"].contains(&key.as_str());
        assert!(differs || known == value, "{key} is {value}, PEFT wrote {known}");
    }

    // These initialisations do not change the base.
    for beginning in [json!(null), json!(true), json!(false), json!("gaussian"), json!("orthogonal"), json!("eva")] {
        let folder = peft_folder(|config, _| config["init_lora_weights"] = beginning.clone());
        assert!(Adapter::load(folder.path(), flow_model).expect("it is plain LoRA") == adapter);
    }

    // Ranks, alphas and factors of single layers.
    let folder = peft_folder(|config, tensors| {
        config["rank_pattern"] = json!({"blocks.1.attn.proj": 2});
        // Two keys give a layer the same value.
        config["alpha_pattern"] = json!({"attn.qkv": 3.5, "blocks.1.attn.qkv": 3.5});
        config["use_rslora"] = json!(true);
        tensors.insert("base_model.model.blocks.1.attn.proj.lora_A.weight".into(), (vec![2, 16], vec![0.5; 32]));
        tensors.insert("base_model.model.blocks.1.attn.proj.lora_B.weight".into(), (vec![16, 2], vec![0.5; 32]));
    });
    let adapter = Adapter::load(folder.path(), flow_model).expect("it is plain LoRA");
    let factors: Vec<f64> = adapter.lora.layers().iter().map(|it| it.factor()).collect();
    for (actual, expected) in factors.iter().zip([3.5 / 2.0, 4.0, 3.5 / 2.0, 8.0 / 2_f64.sqrt()]) {
        // Alpha is an f32.
        assert!((actual - expected).abs() < 1e-6, "{factors:?}");
    }
    let [(_, config), (_, bytes)] = adapter.files(flow_model);
    assert!(Adapter::from_bytes("it", [&config, &bytes], flow_model).expect("it is ours") == adapter);
}

#[test]
fn a_wrong_adapter_says_what_is_wrong() {
    let model = tiny::dit(2);
    fn set(key: &'static str, value: Value) -> impl Fn(&mut Value, &mut Tensors) {
        move |config, _| config[key] = value.clone()
    }
    const PROJ: &str = "base_model.model.blocks.1.attn.proj.lora_A.weight";
    type Change = Box<dyn Fn(&mut Value, &mut Tensors)>;
    let cases: Vec<(Change, &[&str])> = vec![
        (Box::new(set("use_dora", json!(true))), &["`use_dora` = true", "only plain LoRA can be read"]),
        (Box::new(set("bias", json!("all"))), &["`bias` = \"all\"", "which has \"none\""]),
        (Box::new(set("modules_to_save", json!(["y_embedder"]))), &["`modules_to_save`", "only plain LoRA"]),
        (Box::new(set("peft_type", json!("LOHA"))), &["`peft_type` = \"LOHA\"", "only \"LORA\""]),
        (Box::new(set("kasa_config", json!({}))), &["`kasa_config` = {}", "only plain LoRA"]),
        (Box::new(set("arrow_config", json!({"top_k": 3}))), &["`arrow_config` = {\"top_k\":3}", "only plain LoRA"]),
        (Box::new(set("use_bdlora", json!({"nblocks": 2}))), &["`use_bdlora`", "only plain LoRA"]),
        (
            Box::new(set("init_lora_weights", json!("pissa_niter_4"))),
            &["`init_lora_weights` = \"pissa_niter_4\"", "may have changed the weights of the base"],
        ),
        (
            Box::new(set("alpha_pattern", json!({"attn\\.(qkv|proj)": 16}))),
            &["`alpha_pattern` has the key \"attn\\.(qkv|proj)\"", "none of the adapter's layers"],
        ),
        (Box::new(set("alpha_pattern", json!({".*qkv": 16}))), &["`alpha_pattern` has the key \".*qkv\""]),
        (Box::new(set("rank_pattern", json!({"mlp.fc1": 8}))), &["`rank_pattern` has the key \"mlp.fc1\""]),
        (
            Box::new(set("alpha_pattern", json!({"qkv": 2, "blocks.1.attn.qkv": 16}))),
            &["`alpha_pattern` sets blocks.1.attn.qkv to 16 with \"blocks.1.attn.qkv\" and to 2 with \"qkv\""],
        ),
        (Box::new(set("target_modules", json!(".*qkv"))), &["the regular expression `target_modules` = \".*qkv\""]),
        (Box::new(set("target_modules", json!([]))), &["an empty list of `target_modules`"]),
        (
            Box::new(set("target_modules", json!(["attn.qvk"]))),
            &["\"attn.qvk\", which is not a layer of the model", "did you mean \"attn.qkv\"?", "blocks.*.mlp.fc1"],
        ),
        (Box::new(set("target_modules", json!(["attn.to_q"]))), &["\"attn.to_q\", which is not a layer of the model"]),
        (Box::new(set("r", json!(0))), &["rank 0 and alpha 8 at blocks.0.attn.qkv", "a rank from 1"]),
        (Box::new(set("r", json!("four"))), &["is not the configuration of an adapter"]),
        (Box::new(set("r", json!(8))), &["has shape [4, 16], but [8, 16] is expected"]),
        (
            Box::new(|_, tensors| drop(tensors.remove(PROJ))),
            &["is missing the tensor `base_model.model.blocks.1.attn.proj.lora_A.weight` of shape [4, 16]"],
        ),
        (
            Box::new(|_, tensors| {
                let tensor = tensors.remove(PROJ).expect("it is there");
                tensors.insert(PROJ.replace("proj", "prij"), tensor);
            }),
            &[
                "is missing the tensor `base_model.model.blocks.1.attn.proj.lora_A.weight`",
                "it has `base_model.model.blocks.1.attn.prij",
            ],
        ),
        (
            Box::new(|_, tensors| drop(tensors.insert("other".into(), (vec![1], vec![0.0])))),
            &["has a tensor `other` that its network does not have"],
        ),
        (
            Box::new(|_, tensors| tensors.get_mut(PROJ).expect("it is there").1[3] = f32::INFINITY),
            &["is not finite at element 3"],
        ),
    ];
    // Empty lists mean the same as null.
    for key in ["modules_to_save", "layers_to_transform", "exclude_modules", "trainable_token_indices"] {
        let folder = peft_folder(set(key, json!([])));
        Adapter::load(folder.path(), &flow_model_of(&model)).unwrap_or_else(|cause| panic!("{key}: {cause}"));
    }
    for (change, parts) in cases {
        let folder = peft_folder(change);
        let message = Adapter::load(folder.path(), &flow_model_of(&model)).expect_err("it is wrong").to_string();
        assert!(message.contains(&folder.path().display().to_string()), "{message}");
        for part in parts {
            assert!(message.contains(part), "{message}\nlacks: {part}");
        }
    }
}
