//! Bad input: one sentence, the right exit code, and nothing half-written.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use flowdppo_wgpu::model::{ClassifierConfig, ModelKind, Tensors, read_tensors, write_tensors};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::workplace::{Ended, Workplace, program};

/// Prepares the folder in which the program runs.
type Prepare = fn(&Workplace);

pub(super) struct Case {
    prepare: Prepare,
    arguments: &'static str,
    code: i32,
    /// Parts of the sentence: what is wrong, and what was expected.
    says: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

pub(super) const fn case(prepare: Prepare, arguments: &'static str, code: i32, says: &'static [&'static str]) -> Case {
    Case { prepare, arguments, code, says, environment: &[] }
}

impl Case {
    pub(super) const fn with(mut self, environment: &'static [(&'static str, &'static str)]) -> Self {
        self.environment = environment;
        self
    }

    pub(super) fn check(&self) {
        let here = Workplace::new();
        (self.prepare)(&here);
        let before = here.snapshot();
        let ended = Ended::of(program(&here.path(""), self.arguments).envs(self.environment.iter().copied()));
        let what = format!("{}\n{}", self.arguments, ended.err);
        assert_eq!(ended.code, Some(self.code), "{what}");
        // Damaged data is reported even with -q.
        let said: Vec<&str> = ended.err.lines().filter(|line| !line.starts_with("[WARN ] ")).collect();
        assert!(said.len() == 1 && said[0].starts_with("error: "), "one sentence: {what}");
        assert!(!ended.err.contains("panicked"), "{what}");
        for words in self.says {
            assert!(ended.err.contains(words), "{words} is missing: {what}");
        }
        assert_eq!(ended.out, "", "{what}");
        let after = here.snapshot();
        let changed: Vec<_> = after.iter().filter(|(path, content)| before.get(*path) != Some(content)).collect();
        assert!(changed.is_empty() && before.len() == after.len(), "{what}left behind: {changed:?}");
    }
}

pub(super) fn check(cases: &[Case]) {
    cases.iter().for_each(Case::check);
}

pub(super) fn nothing(_: &Workplace) {}

/// Writes `bad.safetensors`: the base model with its tensors and its description changed.
fn spoil(here: &Workplace, change: impl FnOnce(&mut Tensors, &mut String)) {
    let base = here.path("base.safetensors");
    let mut tensors = read_tensors(&base).unwrap();
    let (_, header) = SafeTensors::read_metadata(&fs::read(&base).unwrap()).unwrap();
    let (key, mut description) = header.metadata().clone().unwrap().into_iter().next().unwrap();
    change(&mut tensors, &mut description);
    let views = tensors.iter().map(|(name, (shape, values))| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).unwrap())
    });
    let bytes = safetensors::serialize(views, Some(HashMap::from([(key, description)]))).unwrap();
    fs::write(here.path("bad.safetensors"), bytes).unwrap();
}

/// Writes `noise.safetensors` with one sample.
fn noise(here: &Workplace, shape: [usize; 4], value: f32, label: f32) {
    let values = vec![value; shape.iter().product()];
    let tensors =
        Tensors::from([("x".to_owned(), (shape.to_vec(), values)), ("labels".to_owned(), (vec![1], vec![label]))]);
    write_tensors(&here.path("noise.safetensors"), &tensors).unwrap();
}

/// Writes `small.safetensors`: a classifier for other images or fewer classes.
fn classifier(here: &Workplace, image_size: usize, num_classes: usize) {
    let network = ClassifierConfig { image_size, channels: 1, hidden_size: 4, num_classes };
    let weights = network.initial_weights(0);
    let model = ModelKind::Classifier(network).with(Vec::new(), weights);
    model.save(&here.path("small.safetensors")).unwrap();
}

/// The first half of a file.
pub(super) fn halve(path: &Path, to: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(to, &bytes[..bytes.len() / 2]).unwrap();
}

/// A regular file in place of a folder, which nobody can write into.
pub(super) fn blocked(here: &Workplace) {
    fs::write(here.path("blocked"), "a file").unwrap();
}

#[test]
fn configuration() {
    check(&[
        case(
            |here| fs::write(here.path("my.toml"), "[train]\niteratons = 3\n").unwrap(),
            "train --config my.toml",
            2,
            &["my.toml:2:1", "`train.iteratons`", "did you mean `train.iterations`?"],
        ),
        case(nothing, "train --config train.toml --set trian.iterations=3", 2, &["[trian]", "did you mean [train]?"]),
        case(
            nothing,
            "train --config train.toml --set train.iterations=many",
            2,
            &["`train.iterations`", "a non-negative whole number", "\"many\""],
        ),
        case(nothing, "train --config train.toml --set train.learning_rate=nan", 2, &["`train.learning_rate`", "NaN"]),
        case(nothing, "train --config train.toml --set train.ema_decay=1.5", 2, &["`train.ema_decay`", "below 1"]),
        case(
            nothing,
            "train --config train.toml --set rollout.group_size=1",
            2,
            &["`rollout.group_size`", "from 2 to 65535", "not 1"],
        ),
        case(
            nothing,
            "train --config train.toml --set train.updates_per_rollout=3",
            2,
            &["`train.updates_per_rollout`", "must divide", "would"],
        ),
        case(|here| fs::write(here.path("my.toml"), "[train").unwrap(), "train --config my.toml", 2, &["my.toml:1"]),
        case(nothing, "train --config nowhere.toml", 2, &["nowhere.toml", "cannot read"]),
        case(nothing, "pretrain --config pretrain.toml --set model.patch_size=3", 2, &["`model.patch_size` = 3"]),
        case(nothing, "fit-classifier --set data.name=digits9", 2, &["`data.name`", "digits8"]),
    ]);
}

#[test]
fn models() {
    check(&[
        case(nothing, "sample --model nowhere.safetensors", 2, &["cannot read nowhere.safetensors"]),
        case(nothing, "sample --model builtin:nothing", 2, &["builtin:nothing"]),
        case(nothing, "train --config train.toml --set model.file=nowhere.safetensors", 2, &["nowhere.safetensors"]),
        case(
            |here| halve(&here.path("base.safetensors"), &here.path("bad.safetensors")),
            "sample --model bad.safetensors",
            2,
            &["bad.safetensors", "not a complete safetensors file"],
        ),
        case(
            |here| fs::write(here.path("bad.safetensors"), "").unwrap(),
            "train --config train.toml --set model.file=bad.safetensors",
            2,
            &["bad.safetensors", "not a complete safetensors file"],
        ),
        case(
            |here| spoil(here, |tensors, _| tensors.get_mut("pos_embed").unwrap().1[3] = f32::NAN),
            "train --config train.toml --set model.file=bad.safetensors",
            2,
            &["bad.safetensors", "`pos_embed`", "not finite at element 3"],
        ),
        case(
            |here| spoil(here, |tensors, _| tensors.get_mut("blocks.0.attn.qkv.bias").unwrap().1[0] = f32::INFINITY),
            "eval --config train.toml --model bad.safetensors",
            2,
            &["bad.safetensors", "`blocks.0.attn.qkv.bias`", "not finite"],
        ),
        case(
            |here| spoil(here, |tensors, _| tensors.get_mut("blocks.0.attn.qkv.weight").unwrap().0 = vec![8, 24]),
            "sample --model bad.safetensors",
            2,
            &["`blocks.0.attn.qkv.weight`", "[8, 24]", "[24, 8] is expected"],
        ),
        case(
            |here| {
                spoil(here, |tensors, _| {
                    let tensor = tensors.remove("final_layer.linear.bias").unwrap();
                    tensors.insert("final_layer.bias".into(), tensor);
                });
            },
            "sample --model bad.safetensors",
            2,
            &["is missing the tensor `final_layer.linear.bias` of shape [16]"],
        ),
        case(
            |here| spoil(here, |tensors, _| _ = tensors.insert("lora".into(), (vec![1], vec![0.0]))),
            "pretrain --set model.file=bad.safetensors",
            2,
            &["bad.safetensors", "`lora`"],
        ),
        case(
            |here| spoil(here, |_, text| *text = text.replace("\"hidden_size\":8", "\"hidden_size\":16000")),
            "sample --model bad.safetensors",
            2,
            &["bad.safetensors", "[16000, 1, 4, 4] is expected"],
        ),
        case(
            |here| spoil(here, |_, text| *text = text.replace("\"depth\":1", "\"depth\":18446744073709551615")),
            "sample --model bad.safetensors",
            2,
            &["bad.safetensors", "impossible network", "depth"],
        ),
        case(
            |here| spoil(here, |_, text| *text = "{}".into()),
            "sample --model bad.safetensors",
            2,
            &["bad.safetensors", "unknown way"],
        ),
        case(
            Workplace::import_sit,
            "sample --model foreign.safetensors",
            2,
            &["foreign.safetensors", "flowdppo-wgpu import --format sit"],
        ),
        case(nothing, "sample --model classifier.safetensors", 2, &["classifier.safetensors is a classifier"]),
        case(
            Workplace::import_sit,
            "eval --config train.toml --model base.safetensors --base sit.safetensors",
            2,
            &["sit.safetensors is a different kind of network from base.safetensors"],
        ),
        case(
            Workplace::import_sit,
            "import --format sit foreign.safetensors other.safetensors",
            2,
            &["foreign.safetensors", "hidden size 32", "--num-heads"],
        ),
        case(
            Workplace::import_sit,
            "import --format sit --num-heads 3 foreign.safetensors other.safetensors",
            2,
            &["num_heads 3 does not divide"],
        ),
        case(
            nothing,
            "import --format sit --num-heads 2 base.safetensors other.safetensors",
            2,
            &["base.safetensors is a native model already"],
        ),
        case(
            |here| spoil(here, |_, text| *text = "{\"kind\":\"mmdit\"}".into()),
            "import --format sit --num-heads 2 bad.safetensors other.safetensors",
            2,
            &["bad.safetensors is a native model already"],
        ),
        case(
            |here| fs::write(here.path("SiT.pt"), b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl").unwrap(),
            "import --format sit SiT.pt other.safetensors",
            2,
            &["SiT.pt is a PyTorch checkpoint", "docs/models.md"],
        ),
        case(
            |here| fs::write(here.path("old.pt"), b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M").unwrap(),
            "sample --model old.pt",
            2,
            &["old.pt is a PyTorch checkpoint", "docs/models.md"],
        ),
        // The length of its header begins with the first byte of a pickle.
        case(
            |here| fs::write(here.path("cut.safetensors"), b"\x80\x02\0\0\0\0\0\0{\"a\"").unwrap(),
            "sample --model cut.safetensors",
            2,
            &["cut.safetensors is not a complete safetensors file"],
        ),
        case(
            nothing,
            "export --format sit base.safetensors other.safetensors",
            2,
            &["base.safetensors cannot be a SiT checkpoint", "time runs from data to noise", "multiplied by 1000"],
        ),
        case(
            |here| noise(here, [1, 1, 8, 8], 0.0, 0.0),
            "import --format sit noise.safetensors other.safetensors",
            2,
            &["not a SiT checkpoint", "`x_embedder.proj.weight`"],
        ),
    ]);
}

#[test]
fn rewards_and_judges() {
    check(&[
        case(
            nothing,
            "train --config train.toml --set reward.0.file=base.safetensors",
            2,
            &["base.safetensors is a flow model"],
        ),
        case(
            nothing,
            "train --config train.toml --set reward.1.kind=ink --set reward.1.weight={hps=1}",
            2,
            &["`reward.1.weight` is for `hps`, which ink does not measure; it measures ink"],
        ),
        case(
            nothing,
            "train --config train.toml --set reward.0.kind=template --set reward.0.file=nowhere.png",
            2,
            &["cannot read nowhere.png"],
        ),
        case(nothing, "train --config train.toml --set eval.judge=nowhere.safetensors", 2, &["nowhere.safetensors"]),
        case(
            nothing,
            "train --config train.toml --dry-run --set eval.judge=nowhere.safetensors",
            2,
            &["nowhere.safetensors"],
        ),
        case(
            |here| classifier(here, 8, 9),
            "train --config train.toml --set reward.0.file=small.safetensors",
            2,
            &["small.safetensors has 9 classes", "has 10"],
        ),
        case(
            |here| classifier(here, 6, 10),
            "eval --config train.toml --model base.safetensors --set eval.judge=small.safetensors",
            2,
            &["small.safetensors takes 6x6 images", "8x8"],
        ),
    ]);
}

#[cfg(feature = "onnx")]
#[test]
fn onnx_models() {
    const ONNX: &str = "train --config train.toml --set reward.0.kind=onnx --set reward.0.file=model.onnx";
    const DRY: &str = "train --config train.toml --dry-run --set reward.0.kind=onnx --set reward.0.file=model.onnx";
    const NAMED: &str = "train --config train.toml --set reward.0.kind=onnx --set reward.0.file=model.onnx --set \
                         reward.0.output_name=logits";
    let copy: Prepare = |here| {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx/classifier.onnx");
        fs::copy(model, here.path("model.onnx")).unwrap();
    };
    for arguments in [ONNX, DRY] {
        check(&[
            case(nothing, arguments, 2, &["cannot read model.onnx"]),
            case(
                |here| fs::write(here.path("model.onnx"), "a text").unwrap(),
                arguments,
                2,
                &["model.onnx", "not an ONNX model"],
            ),
            case(
                |here| {
                    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n";
                    fs::write(here.path("model.onnx"), pointer).unwrap();
                },
                arguments,
                2,
                &["model.onnx: it is not an ONNX model but a Git LFS pointer", "git lfs pull"],
            ),
            case(copy, arguments, 2, &["model.onnx: it has 2 outputs: set `output_name`", "logits (float [N, 3])"]),
        ]);
    }
    check(&[case(copy, NAMED, 2, &["model.onnx", "3 numbers per image, but the model has 10 classes"])]);
}

#[test]
fn classes_noise_and_counts() {
    check(&[
        case(
            nothing,
            "train --config train.toml --set eval.classes=[10]",
            2,
            &["`eval.classes` names class 10", "0 to 9"],
        ),
        case(
            nothing,
            "train --config train.toml --set preview.classes=[3,3]",
            2,
            &["`preview.classes` names class 3 twice"],
        ),
        case(
            nothing,
            "train --config train.toml --set rollout.classes=[3,10]",
            2,
            &["`rollout.classes` names class 10", "0 to 9"],
        ),
        case(nothing, "sample --model base.safetensors --class 11", 2, &["--class 11", "classes 0 to 9"]),
        case(nothing, "sample --model base.safetensors --count 0", 2, &["--count is 0"]),
        case(nothing, "sample --model base.safetensors --count 99999999999999", 2, &["--count is 99999999999999"]),
        case(nothing, "sample --model base.safetensors --steps 0", 2, &["--steps is 0"]),
        case(nothing, "sample --model base.safetensors --sampler cps --eta 1.2", 2, &["--eta is 1.2", "0 to 1"]),
        case(nothing, "sample --model base.safetensors --guidance-scale nan", 2, &["--guidance-scale is NaN"]),
        case(nothing, "sample --model base.safetensors --shift 0", 2, &["--shift is 0"]),
        case(nothing, "sample --model base.safetensors --sampler cps --solver dpm-solver++", 2, &["--solver is for"]),
        case(
            nothing,
            "sample --model base.safetensors --noise base.safetensors",
            2,
            &["base.safetensors is missing the tensor `x`"],
        ),
        case(
            |here| noise(here, [1, 3, 8, 8], 0.0, 0.0),
            "sample --model base.safetensors --noise noise.safetensors",
            2,
            &["noise.safetensors", "`x` has shape [1, 3, 8, 8]", "[1, 1, 8, 8]"],
        ),
        case(
            |here| noise(here, [1, 1, 8, 8], f32::NAN, 0.0),
            "sample --model base.safetensors --noise noise.safetensors",
            2,
            &["noise.safetensors", "`x` is not finite at element 0"],
        ),
        case(
            |here| noise(here, [1, 1, 8, 8], 0.0, 11.0),
            "sample --model base.safetensors --noise noise.safetensors",
            2,
            &["noise.safetensors", "`labels` contains 11", "0 to 9"],
        ),
        case(
            |here| noise(here, [1, 1, 8, 8], 0.0, 1.5),
            "sample --model base.safetensors --noise noise.safetensors",
            2,
            &["`labels` contains 1.5", "whole numbers"],
        ),
    ]);
}

#[test]
fn places_that_cannot_be_written() {
    check(&[
        case(blocked, "train --config train.toml --out blocked/run", 2, &["blocked/run", "--out"]),
        case(blocked, "pretrain --config pretrain.toml --out blocked/run", 2, &["blocked/run", "--out"]),
        case(blocked, "fit-classifier --config fit.toml --set run.out_dir=blocked", 2, &["blocked", "run.out_dir"]),
        case(blocked, "sample --model base.safetensors --out blocked/grid.png", 2, &["blocked/grid.png"]),
        case(blocked, "sample --model base.safetensors --save-tensors blocked/x", 2, &["cannot write blocked/x"]),
        case(
            |here| {
                here.import_sit();
                blocked(here);
            },
            "import --format sit --num-heads 2 foreign.safetensors blocked/sit.safetensors",
            2,
            &["cannot write blocked/sit.safetensors"],
        ),
        case(
            |here| _ = here.run("train --config train.toml --out run").succeeds(),
            "train --config train.toml --out run",
            2,
            &["run already contains a run", "--resume"],
        ),
        case(nothing, "train --config train.toml --resume", 2, &["runs/tiny has no run to resume"]),
        case(
            |here| {
                here.run("train --config train.toml --out run").succeeds();
                fs::remove_dir_all(here.path("run/checkpoints")).unwrap();
                fs::write(here.path("run/checkpoints"), "a file").unwrap();
            },
            "train --resume --out run",
            2,
            &["cannot write into the run directory run"],
        ),
        case(
            |here| {
                here.run("train --config train.toml --out run").succeeds();
                for checkpoint in ["000001", "000002"] {
                    let file = here.path("run/checkpoints").join(checkpoint).join("ema.safetensors");
                    halve(&file.clone(), &file);
                }
            },
            "train -q --resume --out run",
            2,
            &["no checkpoint in run/checkpoints is intact"],
        ),
    ]);
}
