//! `sample`, and models that are imported and exported again.

use flowdppo_wgpu::graph::{Graph, Interpreter};
use flowdppo_wgpu::model::{ConditionInput, Model, Tensors, read_tensors, write_tensors};
use flowdppo_wgpu::optimizer::PARAMETERS;

use super::bad_input::{case, check, nothing};
use super::workplace::{Workplace, picture, sit_tiny};

#[test]
fn sample_draws_the_requested_classes_and_the_same_noise_gives_the_same_samples() {
    let here = Workplace::new();
    let sample = |arguments: &str| -> Tensors {
        here.run(&format!(
            "sample --model base.safetensors --steps 3 --save-tensors x.safetensors --force {arguments}"
        ))
        .succeeds();
        picture(&here.path("samples.png"));
        read_tensors(&here.path("x.safetensors")).unwrap()
    };
    let classes = "--class 3 --class 7 --count 2";
    let drawn = sample(&format!("{classes} --trajectory"));
    assert_eq!(drawn["labels"].1, [3.0, 3.0, 7.0, 7.0]);
    assert_eq!(drawn["x0"].0, [4, 1, 8, 8]);
    let (shape, trajectory) = &drawn["trajectory"];
    assert_eq!(*shape, [4, 4, 1, 8, 8]);
    let (noise, last) = (&trajectory[..256], &trajectory[3 * 256..]);
    assert_eq!(last, drawn["x0"].1);

    let file = Tensors::from([
        ("x".to_owned(), (vec![4, 1, 8, 8], noise.to_vec())),
        ("labels".to_owned(), drawn["labels"].clone()),
    ]);
    write_tensors(&here.path("noise.safetensors"), &file).unwrap();
    let from_noise = sample("--noise noise.safetensors");
    assert_eq!(from_noise["x0"], drawn["x0"]);
    assert!(!from_noise.contains_key("trajectory"));

    assert_eq!(sample(classes)["x0"], drawn["x0"], "the same seed");
    assert_ne!(sample(&format!("{classes} --seed 1"))["x0"], drawn["x0"]);
    assert_ne!(sample(&format!("{classes} --guidance-scale 3"))["x0"], drawn["x0"]);
    // With eta 0 a stochastic sampler is the deterministic one; otherwise its noise has the key of the seed.
    assert_eq!(sample(&format!("{classes} --sampler flow-sde --eta 0"))["x0"], drawn["x0"]);
    let stochastic = sample(&format!("{classes} --sampler flow-sde"));
    assert_ne!(stochastic["x0"], drawn["x0"]);
    assert_eq!(sample("--sampler flow-sde --noise noise.safetensors")["x0"], stochastic["x0"]);

    let all = sample("--count 1 --out all.png");
    assert_eq!(all["labels"].1, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    assert_eq!(sample("--class 10 --count 1")["labels"].1, [10.0], "no class");
    picture(&here.path("all.png"));
}

#[test]
fn an_exported_model_equals_the_imported_file() {
    let here = Workplace::new();
    here.import_sit();
    here.run("export --format sit sit.safetensors back.safetensors").succeeds();
    let [foreign, back] = ["foreign", "back"].map(|name| read_tensors(&here.path(&format!("{name}.safetensors"))));
    assert_eq!(foreign.unwrap(), back.unwrap());
    // It contains no metadata of this program.
    here.run("import --format sit --num-heads 2 back.safetensors again.safetensors").succeeds();
    let read = |name: &str| std::fs::read(here.path(name)).unwrap();
    assert!(read("again.safetensors") == read("sit.safetensors"));
}

/// An imported model through the complete program, against Euler steps by the f64 twins of the ops.
#[test]
fn an_imported_model_samples_by_plain_euler_steps() {
    const STEPS: usize = 7;
    let here = Workplace::new();
    here.import_sit();
    let io = read_tensors(&sit_tiny("io.safetensors")).unwrap();
    let labels = &io["y"].1;
    let noise = Tensors::from([("x".to_owned(), io["x"].clone()), ("labels".to_owned(), io["y"].clone())]);
    write_tensors(&here.path("noise.safetensors"), &noise).unwrap();
    here.run(
        "sample --model sit.safetensors --sampler ode --steps 7 --shift 1 --noise noise.safetensors --save-tensors \
         x.safetensors --trajectory",
    )
    .succeeds();
    let actual = read_tensors(&here.path("x.safetensors")).unwrap();

    let model = Model::load(&here.path("sit.safetensors")).unwrap();
    let flow_model = model.flow_model("it").unwrap();
    let mut graph = Graph::new();
    let x = graph.input("x", &flow_model.batch_shape(labels.len()));
    let (time, classes) = (graph.input("time", &[labels.len()]), graph.input_indices("labels", &[labels.len()]));
    let parameters = flow_model.layout().declare(&mut graph, PARAMETERS, None);
    let velocity = flow_model.network(parameters).velocity(&mut graph, x, time, ConditionInput::Classes(classes));
    let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>();
    let mut twin = Interpreter::new([(PARAMETERS, wide(&model.weights))].into());
    let mut state = wide(&io["x"].1);
    for step in 0..=STEPS {
        let at = &actual["trajectory"].1[step * state.len()..][..state.len()];
        let error: f64 = at.iter().zip(&state).map(|(a, e)| (f64::from(*a) - e).powi(2)).sum();
        let scale: f64 = state.iter().map(|value| value * value).sum();
        // A relative error of 1e-5: some roundings of f32 in each of a dozen layers, over seven steps.
        assert!(error <= 1e-10 * scale, "step {step}: {:.1e}", (error / scale).sqrt());
        // SiT's own time runs from 0 at noise to 1 at data.
        twin.write(x, &state);
        twin.write(time, &vec![step as f64 / STEPS as f64; labels.len()]);
        twin.write(classes, &wide(labels));
        twin.run(&graph);
        for (value, v) in state.iter_mut().zip(twin.value(&graph, velocity)) {
            *value -= v / STEPS as f64;
        }
    }
}

/// However many samples a class has, they make a picture that can be looked at.
#[test]
fn many_samples_of_a_class_make_several_lines() {
    let here = Workplace::new();
    here.run("-q sample --model base.safetensors --class 0 --count 2000 --steps 1").succeeds();
    let (width, height) = picture(&here.path("samples.png"));
    // 2000 tiles of 68 pixels, with the gaps: 44 lines of 45 or so, and not one of 136,000 pixels.
    assert!((2000..4000).contains(&width) && (2000..4000).contains(&height), "{width}x{height}");
    assert!(u64::from(width) * u64::from(height) > 2000 * 64 * 64, "{width}x{height}: all of them are shown");
}

#[test]
fn an_image_must_have_the_extension_png() {
    const NO_PNG: &[&str] = &["cannot write x.jpg", "a name that ends in .png"];
    check(&[
        case(nothing, "sample --model base.safetensors --out x.jpg", 2, NO_PNG),
        case(nothing, "sample --model base.safetensors --out x", 2, &["cannot write x:", ".png"]),
        case(nothing, "data --out x.jpg", 2, NO_PNG),
    ]);
    let here = Workplace::new();
    here.run("sample --model base.safetensors --count 1 --steps 1 --out X.PNG").succeeds();
    picture(&here.path("X.PNG"));
}

/// As in configurations, where TOML has the same limit.
#[test]
fn a_seed_has_the_same_range_as_in_a_configuration() {
    let here = Workplace::new();
    here.run("-q sample --model base.safetensors --count 1 --seed 9223372036854775807").succeeds();
    let ended = here.run("-q sample --model base.safetensors --count 1 --force --seed 9223372036854775808");
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(ended.err.contains("9223372036854775808 is not in 0..=9223372036854775807"), "{}", ended.err);
}
