//! Compared with numpy, PIL and onnxruntime (`tests/onnx/make.py`).

use super::*;
use crate::classes::Classes;
use crate::config::{ColourOrder, RewardKind, TensorLayout};
use crate::reward::{Purpose, ScoringContext};
use crate::shape::ImageShape;

/// Two roundings of f32 in every layer and in the resizing, on numbers of about 1.
const TOLERANCE: f64 = 1e-5;

fn file(name: &str) -> String {
    format!("{}/tests/onnx/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn expected() -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(file("expected.json")).unwrap()).unwrap()
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A reward with a model of the tests; if it has several outputs, the first is used.
fn onnx(name: &str) -> config::Reward {
    let output_name = match name {
        "classifier.onnx" => "logits",
        "reader.onnx" => "probabilities",
        _ => "",
    };
    config::Reward {
        kind: RewardKind::Onnx,
        file: file(name),
        output_name: output_name.into(),
        ..config::Reward::default()
    }
}

/// If a model returns a label and a score, one of them must be selected.
#[test]
fn one_of_several_outputs_must_be_named() {
    let scalar = config::Reward { output: Output::Scalar { index: 0 }, ..onnx("two_out.onnx") };
    let message = OnnxReward::new(&scalar, &pictures(1, 1, &names(&["a"]))).unwrap_err().to_string();
    let expected = "it has 2 outputs: set `output_name` to the one that contains the score, out of label (int64 [1]), \
                    score (float [1])";
    assert!(message.contains("two_out.onnx") && message.contains(expected), "{message}");
    let score = config::Reward { output_name: "score".into(), ..scalar };
    let images: Vec<f32> = [vec![0.0; 64], vec![1.0; 64]].concat();
    let means = &scores(&score, &images, 1, &names(&["a"]))[0];
    assert!((means[0] - 0.5).abs() < TOLERANCE && (means[1] - 1.0).abs() < TOLERANCE, "{means:?}");
}

/// Pictures of 8x8, of classes with these names, or of `count` without.
fn pictures(channels: usize, count: usize, names: &[String]) -> Pictures<'_> {
    let classes = Classes { of: "the model", count, names };
    Pictures { shape: ImageShape::square(channels, 8), classes, prompts: &[] }
}

/// The score of each of the two pictures for each label: `[label][picture]`.
fn scores(reward: &config::Reward, images: &[f32], channels: usize, class_names: &[String]) -> Vec<Vec<f64>> {
    let mut onnx = OnnxReward::new(reward, &pictures(channels, class_names.len(), class_names)).unwrap();
    let context = ScoringContext { purpose: Purpose::Training, iteration: 0 };
    let score = |label: u32| {
        let labels = [label; 2];
        let numbers: Vec<usize> = (0..labels.len()).collect();
        let batch = Batch {
            images,
            labels: &labels,
            numbers: &numbers,
            class_names,
            shape: ImageShape::square(channels, 8),
            context,
        };
        onnx.score(&batch).unwrap().remove(0)
    };
    (0..class_names.len() as u32).map(score).collect()
}

#[test]
fn scores_are_those_of_another_program() {
    let expected = expected();
    let images: Vec<f32> = numbers(&expected["pictures"]).iter().map(|value| *value as f32).collect();
    let classes = names(&["a", "b", "c"]);
    let image_net = config::Reward {
        mean: PerChannel::Each(vec![0.485, 0.456, 0.406]),
        std: PerChannel::Each(vec![0.229, 0.224, 0.225]),
        ..onnx("classifier.onnx")
    };
    let larger = config::Reward { input_size: Some([13, 11]), ..image_net.clone() };
    let bgr = |index: usize| config::Reward {
        colour_order: ColourOrder::Bgr,
        output: Output::Scalar { index },
        ..larger.clone()
    };
    let features =
        |output: Output| config::Reward { output_name: "features".into(), output, ..onnx("classifier.onnx") };
    let target = folder_with_target(&expected["target"]);
    let last = config::Reward {
        layout: TensorLayout::Nhwc,
        range: [-1.0, 1.0],
        output: Output::ClassProbability { softmax: false },
        ..onnx("channels_last.onnx")
    };
    let cosine = Target::File(target.path().join("target.json").to_string_lossy().into_owned());
    let same = |label: usize, case: &serde_json::Value| -> Vec<f64> {
        case.as_array().unwrap().iter().map(|row| numbers(row)[label]).collect()
    };
    for label in 0..3 {
        let cases = [
            ("plain", onnx("classifier.onnx")),
            ("larger", larger.clone()),
            ("smaller", config::Reward { input_size: Some([3, 5]), ..image_net.clone() }),
            ("bgr", bgr(label)),
            ("features", features(Output::Scalar { index: label })),
            ("channels_last", last.clone()),
        ];
        for (case, reward) in cases {
            let found = &scores(&reward, &images, 3, &classes)[label];
            assert_near(found, &same(label, &expected[case]), case);
        }
    }
    let found = &scores(&features(Output::Cosine { target: cosine }), &images, 3, &classes)[0];
    assert_near(found, &numbers(&expected["cosine"]), "cosine");

    // A colour picture for a grey model, and the reverse.
    let grey: Vec<f32> = images
        .chunks(3 * 64)
        .flat_map(|picture| {
            let unit = |value: f32| (value.clamp(-1.0, 1.0) + 1.0) / 2.0;
            (0..64).map(move |at| [0, 1, 2].map(|c| picture::LUMA[c] * unit(picture[c * 64 + at])).iter().sum::<f32>())
        })
        .map(|unit| 2.0 * unit - 1.0)
        .collect();
    let found = scores(&onnx("classifier.onnx"), &grey, 1, &classes);
    (0..3).for_each(|label| assert_near(&found[label], &same(label, &expected["grey"]), "grey"));
    let ctc = config::Reward { output: Output::Ctc { alphabet: String::new() }, ..onnx("reader.onnx") };
    let texts = names(&["a", "abba", "b b"]);
    let symbols: [&[usize]; 3] = [&[1], &[1, 2, 2, 1], &[2, 3, 2]];
    let found = scores(&ctc, &images, 3, &texts);
    for (found, text) in found.iter().zip(symbols) {
        let rows = expected["steps"].as_array().unwrap().iter().map(numbers);
        let wanted: Vec<f64> =
            rows.map(|rows| (ctc::log_probability(&rows, 4, text) / text.len() as f64).exp()).collect();
        assert_near(found, &wanted, "ctc");
    }
}

fn assert_near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    let near = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < TOLERANCE);
    assert!(near, "{what}: {found:?} is not {expected:?}");
}

fn folder_with_target(target: &serde_json::Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("target.json"), target.to_string()).unwrap();
    folder
}

#[test]
fn everything_that_does_not_fit_is_reported_at_the_start() {
    type Change = fn(&mut config::Reward);
    let cases: [(&str, Change, &[&str]); 24] = [
        ("missing.onnx", |_| (), &["cannot read", "missing.onnx"]),
        ("make.py", |_| (), &["make.py", "it is not an ONNX model"]),
        ("two_inputs.onnx", |_| (), &["2 inputs (x, y)", "one is expected"]),
        ("unsupported.onnx", |_| (), &["operator Guess (node \"guess\")", "not supported"]),
        ("not_finite.onnx", |_| (), &["not_finite.onnx", "NaN", "check `mean`"]),
        ("mixed_pictures.onnx", |_| (), &["[3, 1, 8, 8]", "first dimension"]),
        ("no_such_output.onnx", |_| (), &["no_such_output.onnx", "damaged"]),
        ("vector.onnx", |_| (), &["N,192", "[images, channels, height, width]"]),
        ("channels_last.onnx", |_| (), &["5 channels", "check `layout`"]),
        (
            "channels_last.onnx",
            |reward| (reward.layout, reward.input_size) = (TensorLayout::Nhwc, Some([5, 7])),
            &["has the width 6", "`input_size` says 7"],
        ),
        (
            "classifier.onnx",
            |reward| reward.output_name = "logit".into(),
            &["no output \"logit\"", "logits (float [N, 3]), features (float [N, 4])"],
        ),
        (
            "classifier.onnx",
            |reward| reward.mean = PerChannel::Each(vec![0.5; 2]),
            &["3 channels", "`mean` has 2 numbers"],
        ),
        ("reader.onnx", |reward| reward.std = PerChannel::Each(vec![0.5; 3]), &["1 channels", "`std` has 3 numbers"]),
        (
            "classifier.onnx",
            |reward| reward.output = Output::ClassProbability { softmax: false },
            &["are not probabilities", "`softmax = true`"],
        ),
        (
            "classifier.onnx",
            |reward| reward.output = Output::Scalar { index: 3 },
            &["3 numbers", "`index` = 3", "0 to 2"],
        ),
        (
            "classifier.onnx",
            |reward| reward.output = Output::Cosine { target: Target::Vector(vec![1.0; 4]) },
            &["3 numbers per image, but `target` has 4"],
        ),
        (
            "classifier.onnx",
            |reward| reward.output = Output::Cosine { target: Target::Vector(vec![0.0; 3]) },
            &["`target` must be finite numbers that are not all 0"],
        ),
        (
            "classifier.onnx",
            |reward| reward.output = Output::Cosine { target: Target::File("nowhere.json".into()) },
            &["cannot read `target` nowhere.json"],
        ),
        (
            "classifier.onnx",
            |reward| reward.output = Output::Cosine { target: Target::File(file("make.py")) },
            &["make.py", "JSON list of numbers"],
        ),
        ("classifier.onnx", |reward| reward.output = ctc(""), &["[1, 3]", "[1, steps, symbols]"]),
        ("reader.onnx", |reward| reward.output = ctc("nowhere.txt"), &["cannot read `alphabet` nowhere.txt"]),
        ("reader.onnx", |reward| reward.output = ctc(&file("make.py")), &["4 symbols, but the alphabet has"]),
        ("reader.onnx", |reward| reward.output = ctc(""), &["lacks 'd' of the class \"dog\""]),
        ("mixed_pictures.onnx", |reward| reward.output = ctc(""), &["[3, 1, 8, 8]"]),
    ];
    for (name, change, parts) in cases {
        let mut reward = onnx(name);
        change(&mut reward);
        let error = OnnxReward::new(&reward, &pictures(3, 3, &names(&["a", "dog", "b"]))).unwrap_err();
        let message = error.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{name}: {message}");
        assert!(error.exit_code() == 2 && message.lines().count() == 1, "{name}: {message}");
    }
    let message = |channels: usize, count: usize, reward: &config::Reward, class_names: &[String]| {
        OnnxReward::new(reward, &pictures(channels, count, class_names)).unwrap_err().to_string()
    };
    let message_of_classes = message(3, 4, &onnx("classifier.onnx"), &[]);
    assert!(message_of_classes.contains("3 numbers per image, but the model has 4 classes"), "{message_of_classes}");
    let points = message(2, 3, &onnx("classifier.onnx"), &[]);
    assert!(points.contains("2 channels"), "{points}");
    let long = config::Reward { output: ctc(""), ..onnx("reader.onnx") };
    let long = message(3, 1, &long, &names(&["aabababa"]));
    assert!(long.contains("8 steps") && long.contains("needs 9"), "{long}");
    let logits = config::Reward { output_name: "logits".into(), output: ctc(""), ..onnx("reader.onnx") };
    let logits = message(3, 1, &logits, &names(&["ab"]));
    assert!(logits.contains("reader.onnx are not probabilities: export it with a softmax"), "{logits}");
}

fn ctc(alphabet: &str) -> Output {
    Output::Ctc { alphabet: alphabet.into() }
}
