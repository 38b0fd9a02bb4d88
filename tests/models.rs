//! Complete networks against reference outputs of other programs.

mod common;

use common::{formats, gpu};
use flowdppo_wgpu::bench::BenchmarkStep;
use flowdppo_wgpu::config::{Positions, Precision, TimeConvention};
use flowdppo_wgpu::files::Content;
use flowdppo_wgpu::graph::{Graph, Plan, Stores};
use flowdppo_wgpu::model::{
    ConditionInput, DitConfig, Model, ModelKind, NullClass, OnDevice, StoredModel, Tensors, check_export_sit,
    import_sit, read_tensors, serialize_tensors,
};
use flowdppo_wgpu::optimizer::PARAMETERS;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

fn sit_tiny() -> Tensors {
    read_tensors(&formats("sit_tiny/model.safetensors")).expect("the file is complete")
}

/// The guided velocity of a model at given states, on the device.
fn velocity(model: &Model, x: &[f32], sigma: &[f64], labels: &[u32], guidance_scale: f32) -> Vec<f32> {
    let flow_model = model.flow_model("model").expect("it is one");
    let batch = labels.len();
    let mut graph = Graph::new();
    let tensors = [
        graph.input("x", &flow_model.batch_shape(batch)),
        graph.input("time", &[batch]),
        graph.input_indices("labels", &[batch]),
    ];
    let parameters = flow_model.layout().declare(&mut graph, PARAMETERS, None);
    let [x_in, time, classes] = tensors;
    let v = flow_model.network(parameters).guided_velocity(
        &mut graph,
        x_in,
        time,
        ConditionInput::Classes(classes),
        guidance_scale,
    );
    graph.keep(v);
    let weights = gpu().allocate("weights", 4 * model.weights.len() as u64).expect("it is small");
    gpu().write(&weights, 0, &model.weights);
    let mut plan = Plan::new(gpu(), &graph, &Stores::from([(PARAMETERS, weights.into())])).expect("it is small");
    plan.write(tensors[0], x);
    let time: Vec<f32> = sigma.iter().map(|sigma| flow_model.time_of(*sigma)).collect();
    plan.write(tensors[1], &time);
    plan.write(tensors[2], labels);
    plan.run().expect("the device works");
    plan.read(&[v]).expect("the device works")
}

#[test]
fn sit_tiny_matches_its_reference_output() {
    let model = import_sit("sit_tiny", sit_tiny(), Some(2), NullClass::Assumed).expect("it is a SiT checkpoint");
    let config = model.dit("sit_tiny").expect("it is a flow model");
    assert!(config.learn_sigma && config.num_classes == 10 && config.depth == 2 && config.image_size == 8);
    let io = read_tensors(&formats("sit_tiny/io.safetensors")).expect("the file is complete");
    let labels: Vec<u32> = io["y"].1.iter().map(|label| *label as u32).collect();
    // SiT's time is 1 - sigma, its velocity data - noise; ours is noise - data.
    let sigma: Vec<f64> = io["t"].1.iter().map(|time| 1.0 - f64::from(*time)).collect();
    let actual = velocity(&model, &io["x"].1, &sigma, &labels, 1.0);
    let expected: Vec<f64> = io["out"].1.iter().map(|value| -f64::from(*value)).collect();
    // 1e-5 relative: a dozen layers of f32 sums of up to 128 terms on either side.
    let error = common::nmse(&actual, &expected).sqrt();
    assert!(error < 1e-5, "relative error {error:.1e}");
}

#[test]
fn native_files_contain_the_same_model() {
    let tensors = sit_tiny();
    let model = import_sit("sit_tiny", tensors.clone(), Some(2), NullClass::Assumed).expect("it is a SiT checkpoint");
    let bytes = model.to_bytes();
    assert_eq!(Model::from_bytes("copy", &bytes).expect("it is native"), model);
    assert_eq!(model.to_bytes(), bytes, "the same model gives the same bytes");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    model.save(&path).expect("the folder is writable");
    assert_eq!(read_tensors(&path).expect("the file is complete"), tensors, "names, shapes and values are SiT's");
}

/// Weights stay in their file, in whatever type it has them, and are widened tensor by tensor.
#[test]
fn a_native_file_may_be_of_any_type() {
    let model = import_sit("sit_tiny", sit_tiny(), Some(2), NullClass::Assumed).expect("it is a SiT checkpoint");
    let (_, header) = SafeTensors::read_metadata(&model.to_bytes()).expect("it is whole");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |dtype: Dtype, encode: &dyn Fn(f32) -> Vec<u8>| {
        let tensors = model.tensors().into_iter();
        let bytes: Vec<_> = tensors
            .map(|(name, (shape, values))| (name, shape, values.into_iter().flat_map(encode).collect::<Vec<u8>>()))
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            (name, TensorView::new(dtype, shape.clone(), bytes).expect("it fits its shape"))
        });
        let bytes = safetensors::serialize(views, header.metadata().clone()).expect("it can be written");
        let path = folder.path().join(format!("{dtype:?}.safetensors"));
        std::fs::write(&path, bytes).expect("the folder is writable");
        StoredModel::open(&path).expect("it is a native model")
    };
    let rounded = |round: &dyn Fn(f32) -> f32| model.weights.iter().map(|value| round(*value)).collect::<Vec<f32>>();
    let cases = [
        (
            write(Dtype::F16, &|value| f16::from_f32(value).to_le_bytes().into()),
            rounded(&|it| f16::from_f32(it).to_f32()),
        ),
        (
            write(Dtype::BF16, &|value| bf16::from_f32(value).to_le_bytes().into()),
            rounded(&|it| bf16::from_f32(it).to_f32()),
        ),
        (write(Dtype::F32, &|value| value.to_le_bytes().into()), model.weights.clone()),
    ];
    for (stored, expected) in cases {
        let read = stored.in_memory().expect("it is still there");
        assert_eq!((&read.kind, &read.weights), (&model.kind, &expected));
        let layout = model.kind.layout();
        let memory = layout.upload(gpu(), "model", &stored.weights).expect("it is small");
        assert_eq!(memory.read::<f32>(gpu()).expect("the device works"), expected);
        let device = OnDevice { gpu: gpu(), memory: &memory };
        let device = model.kind.clone().with(Vec::new(), device);
        assert_eq!(device.crc32().expect("the device works"), stored.crc32().expect("it is still there"));
        assert_eq!(read.crc32().expect("it is in memory"), crc32fast::hash(bytemuck::cast_slice(&expected)));
    }
}

/// SiT's `forward_with_cfg` at a scale of 4, which guides the first three channels and leaves the others unguided;
/// ours guides all of them.
#[test]
fn sit_tiny_matches_its_guided_reference_output() {
    let model = import_sit("sit_tiny", sit_tiny(), Some(2), NullClass::Assumed).expect("it is a SiT checkpoint");
    let io = read_tensors(&formats("sit_tiny/io.safetensors")).expect("the file is complete");
    let (x, expected) = (&io["x"].1, &io["out_cfg4"].1);
    let sigma: Vec<f64> = io["t"].1.iter().map(|time| 1.0 - f64::from(*time)).collect();
    let classes = [3, 7];
    let [guided, conditional, unconditional] = [(classes, 4.0), (classes, 1.0), ([10, 10], 1.0)]
        .map(|(classes, scale)| velocity(&model, x, &sigma, &classes, scale));
    // Its batch is that of the classes, followed by the same without classes.
    for (index, expected) in expected.chunks(64).enumerate() {
        let (sample, channel) = (index / 4, index % 4);
        let ours = match (channel, sample) {
            (0..3, _) => &guided,
            (_, 0..2) => &conditional,
            _ => &unconditional,
        };
        let expected: Vec<f64> = expected.iter().map(|value| -f64::from(*value)).collect();
        let at = (sample % 2 * 4 + channel) * 64;
        // As without guidance, times 4 + 3 for the difference of two velocities.
        let error = common::nmse(&ours[at..at + 64], &expected).sqrt();
        assert!(error < 7e-5, "sample {sample}, channel {channel}: relative error {error:.1e}");
    }
}

#[test]
fn an_exported_model_equals_the_imported_one() {
    let tensors = sit_tiny();
    let model = import_sit("sit_tiny", tensors.clone(), Some(2), NullClass::Assumed).expect("it is a SiT checkpoint");
    check_export_sit("it", &model).expect("it is SiT's convention");
    let file = model.plain_file().bytes().expect("memory can be written");
    assert!(file == serialize_tensors(&tensors), "a file of the same tensors");
    let refusal = |change: &dyn Fn(&mut DitConfig)| {
        let mut config = model.dit("it").expect("it is a flow model").clone();
        change(&mut config);
        let model = Model { kind: ModelKind::Dit(config), ..model.clone() };
        check_export_sit("other.safetensors", &model).expect_err("it is another convention").to_string()
    };
    let turned = refusal(&|config| config.time = TimeConvention::Sigma);
    assert!(turned.contains("other.safetensors") && turned.contains("from data to noise"), "{turned}");
    let scaled = refusal(&|config| config.time_scale = 1000.0);
    assert!(scaled.contains("multiplied by 1000") && scaled.contains("`model.time_scale` = 1"), "{scaled}");
}

/// Sizes of Peebles & Xie 2022, table 1, by the shapes alone: 1000 classes, latents of 32x32x4, 256x256 pictures.
#[test]
fn every_published_size_is_read_from_its_shapes() {
    for (hidden_size, depth, num_heads, millions) in
        [(384, 12, 6, 33.0), (768, 12, 12, 130.0), (1024, 24, 16, 458.0), (1152, 28, 16, 675.0)]
    {
        for patch_size in [2, 4, 8] {
            let published = DitConfig {
                image_size: 32,
                channels: 4,
                patch_size,
                hidden_size,
                depth,
                num_heads,
                mlp_ratio: 4.0,
                num_classes: 1000,
                has_null_class: true,
                learn_sigma: true,
                time: TimeConvention::Sit,
                time_scale: 1.0,
                positions: Positions::SinCos,
            };
            let layout = published.layout();
            let shapes = layout.entries().iter().map(|entry| (entry.name.clone(), entry.shape.clone())).collect();
            assert_eq!(
                DitConfig::of_sit("it", &shapes, None, NullClass::Assumed).expect("it is a published size"),
                published
            );
            let count = layout.parameter_count() as f64 / 1e6;
            assert!((count - millions).abs() < 1.0 + patch_size as f64 / 4.0, "{hidden_size}: {count} million");
            if (hidden_size, patch_size) == (1152, 2) {
                assert_eq!(layout.parameter_count(), 675_129_632, "what DiT's program says of XL/2");
            }
        }
    }
}

/// DiT trained without class dropout has no row for "no class"; nothing in the file says so.
#[test]
fn the_last_row_of_the_class_table_is_what_the_user_says() {
    let import = |rows: usize, null_class| {
        let mut tensors = sit_tiny();
        let table = tensors.get_mut("y_embedder.embedding_table.weight").expect("it is there");
        let width = table.0[1];
        table.1.truncate(rows * width);
        table.0[0] = rows;
        import_sit("file", tensors, Some(2), null_class).map(|model| {
            let config = model.dit("file").expect("it is a flow model").clone();
            // It survives the native file.
            assert_eq!(Model::from_bytes("file", &model.to_bytes()).expect("it is complete"), model);
            (config.num_classes, config.has_null_class, config.null_class())
        })
    };
    let cases = [
        (11, NullClass::Assumed, (10, true, Some(10))),
        (10, NullClass::Assumed, (9, true, Some(9))),
        (10, NullClass::Absent, (10, false, None)),
        (10, NullClass::Classes(10), (10, false, None)),
        (11, NullClass::Classes(10), (10, true, Some(10))),
        (1, NullClass::Assumed, (1, false, None)),
        (1, NullClass::Absent, (1, false, None)),
    ];
    for (rows, null_class, expected) in cases {
        assert_eq!(import(rows, null_class).expect("it fits"), expected, "{rows} rows, {null_class:?}");
    }
    let message = import(10, NullClass::Classes(7)).expect_err("it has 10 rows").to_string();
    assert!(message.contains("--num-classes is 7") && message.contains("10 rows"), "{message}");
}

#[test]
fn a_wrong_checkpoint_says_which_tensor_is_at_fault() {
    let said = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = sit_tiny();
        change(&mut tensors);
        import_sit("wrong.safetensors", tensors, Some(2), NullClass::Assumed).expect_err("it is wrong").to_string()
    };
    fn renamed(tensors: &mut Tensors, from: &str, to: &str) {
        let tensor = tensors.remove(from).expect("it is there");
        tensors.insert(to.into(), tensor);
    }
    type Case<'a> = (&'a dyn Fn(&mut Tensors), &'a [&'a str]);
    let cases: [Case<'_>; 9] = [
        (
            &|it| drop(it.remove("blocks.1.attn.proj.bias")),
            &["is missing the tensor `blocks.1.attn.proj.bias` of shape [32]"],
        ),
        (
            &|it| renamed(it, "blocks.1.attn.proj.bias", "blocks.1.attn.proj.bais"),
            &["is missing the tensor `blocks.1.attn.proj.bias`", "it has `blocks.1.attn.proj.bais`"],
        ),
        // The message is not that later tensors are unknown, or that there is none.
        (
            &|it| drop(it.remove("blocks.1.attn.qkv.weight")),
            &["is missing the tensor `blocks.1.attn.qkv.weight` of shape [96, 32]"],
        ),
        (
            &|it| renamed(it, "blocks.0.attn.qkv.weight", "blocks.0.attn.qvk.weight"),
            &["is missing the tensor `blocks.0.attn.qkv.weight`", "it has `blocks.0.attn.qvk.weight`"],
        ),
        (
            &|it| renamed(it, "x_embedder.proj.weight", "x_embeder.proj.weight"),
            &["not a SiT checkpoint", "`x_embedder.proj.weight`", "it has `x_embeder.proj.weight`"],
        ),
        (
            &|it| drop(it.insert("blocks.0.attn.scale".into(), (vec![1], vec![1.0]))),
            &["has a tensor `blocks.0.attn.scale` that its network does not have"],
        ),
        (
            &|it| it.get_mut("blocks.1.mlp.fc2.weight").expect("it is there").0 = vec![128, 32],
            &["tensor `blocks.1.mlp.fc2.weight` has shape [128, 32], but [32, 128] is expected"],
        ),
        (
            &|it| it.get_mut("x_embedder.proj.weight").expect("it is there").0 = vec![32, 16],
            &["tensor `x_embedder.proj.weight` has shape [32, 16], but 4 dimensions are expected"],
        ),
        (
            &|it| it.get_mut("final_layer.linear.bias").expect("it is there").1[5] = f32::NAN,
            &["tensor `final_layer.linear.bias` is not finite at element 5"],
        ),
    ];
    for (change, parts) in cases {
        let message = said(change);
        for part in ["wrong.safetensors"].iter().chain(parts) {
            assert!(
                message.contains(part),
                "{message}
lacks: {part}"
            );
        }
    }
}

/// The benchmark network: every peer implements it exactly, with the same deterministic weights and data, and
/// sees the same losses in its first four steps (PyTorch, f32).
#[test]
fn benchmark_network_has_the_expected_losses() {
    let mut step = BenchmarkStep::new(gpu(), 32, 32, Precision::F32).expect("it is small");
    assert_eq!(step.parameters(), 1_283_632);
    // 10.68 GFLOP of matrix products in linear layers and attention.
    assert!((10.0e9..11.5e9).contains(&(step.flops() as f64)), "{} FLOP", step.flops());
    let losses = step.first_losses().expect("the device works");
    let expected = [1.467_740, 1.149_926, 1.089_689, 1.056_275];
    assert_eq!(losses.len(), expected.len());
    for ((loss, compared), expected) in losses.into_iter().zip(expected) {
        assert_eq!(compared, Some(expected), "the program compares with it too");
        // Six digits are given; Adam's first steps divide by the gradient's size, which amplifies the
        // rounding of small gradients.
        assert!((loss - expected).abs() < 2e-5, "loss {loss:.6}, expected {expected:.6}");
    }
}
