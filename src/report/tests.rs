use std::fs;

use serde_json::json;

use super::*;

/// A run of `train` with `iterations` done of 4, whose directory has a hostile name.
fn run(folder: &Path, iterations: u64) -> PathBuf {
    let path = folder.join("<img src=x onerror=alert(1)>");
    fs::create_dir_all(path.join("samples")).unwrap();
    fs::write(path.join("config.toml"), "[run]\nname = \"</pre><script>alert(2)</script>\"\n[train]\niterations = 4\n")
        .unwrap();
    let line = |iteration: u64| {
        let drift = (iteration > 0).then(|| json!({"kl_mean": 0.01, "velocity_msd": 0.1}));
        let mut line = json!({
            "iteration": iteration, "eval/reward_mean": 0.5 + 0.1 * iteration as f64, "eval/drift": drift,
        });
        if iteration > 0 {
            let train = json!({
                "reward_mean": 0.4, "reward/<b>ink_mean": 0.25, "reward/classifier_mean": 0.5,
                "trained_steps": [0, 3], "kl_by_step": [1e-4, 2e-3], "grad_norm": 1.5, "seconds_rollout": 1.0,
                "seconds_reward": 0.1, "seconds_update": 2.0,
            });
            line.as_object_mut().unwrap().append(&mut train.as_object().unwrap().clone());
        }
        format!("{line}\n")
    };
    fs::write(path.join("metrics.jsonl"), (0..=iterations).map(line).collect::<String>()).unwrap();
    for iteration in 0..=iterations {
        let shade = image::Rgb([40 * iteration as u8; 3]);
        image::RgbImage::from_pixel(4, 3, shade).save(path.join(format!("samples/{iteration:06}.png"))).unwrap();
    }
    path
}

fn html(path: &Path, in_progress: bool, form: Form) -> String {
    Page::of(&History::open(path).unwrap(), in_progress, form).unwrap().html().unwrap()
}

#[test]
fn a_report_contains_everything_and_requests_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = run(folder.path(), 4);
    let file = write(&path, false).unwrap();
    assert_eq!(file, path.join("report.html"));
    let page = fs::read_to_string(file).unwrap();
    for words in ["0.500 → 0.900", "finished", "iteration 4 of 4", "KL within an iteration, by step", "Gradient norm"]
    {
        assert!(page.contains(words), "{words} is missing");
    }
    assert_eq!(page.matches("src=\"data:image/png;base64,").count(), 5);
    // Without a script only the last grid is shown.
    let images: Vec<&str> = page.split("<img ").skip(1).map(|rest| rest.split('>').next().unwrap()).collect();
    let shown: Vec<&&str> = images.iter().filter(|image| !image.ends_with(" hidden")).collect();
    assert!(shown.len() == 1 && shown[0].contains("data-iteration=\"4\""), "{shown:?}");
    // No URL except XML namespaces, and the policy tells browsers so.
    assert_eq!(page.matches("://").count(), page.matches("http://www.w3.org/2000/svg").count());
    assert!(page.contains("content=\"default-src 'none'; img-src data:;"));
    assert!(page.matches("<svg role=\"img\"").count() >= 5);
    assert!(!page.contains("#22252B") && page.contains("fill=\"var(--faded)\""));
}

#[test]
fn the_report_of_a_running_run_costs_at_most_a_twentieth_of_it() {
    let (begin, took) = (Instant::now(), Duration::from_millis(50));
    let mut live = LiveReport::default();
    assert!(live.is_due(begin), "the first one immediately");
    live.last = Some((begin, took));
    assert!(!live.is_due(begin) && !live.is_due(begin + Duration::from_millis(999)));
    assert!(live.is_due(begin + Duration::from_millis(1000)));
}

#[test]
fn names_are_shown_and_never_interpreted() {
    let folder = tempfile::tempdir().unwrap();
    let path = run(folder.path(), 2);
    let warning = json!({"iteration": 1, "kind": "<em>", "message": "<script>alert(3)</script>"});
    fs::write(path.join("warnings.jsonl"), format!("{warning}\nnot json\n{{\"message\": \"cut")).unwrap();
    fs::write(path.join("failed.txt"), "<script>alert(4)</script>").unwrap();
    fs::write(path.join("device.json"), json!({"name": "<u>", "backend": "\"'", "driver": "&"}).to_string()).unwrap();
    for form in [Form::File, Form::Live] {
        let page = html(&path, false, form);
        for hostile in ["<img src=x", "<script>alert", "</pre><script", "<b>ink", "<em>", "<u>"] {
            assert!(!page.contains(hostile), "{hostile} in {page}");
        }
        for kept in ["&lt;script&gt;alert(3)", "&lt;script&gt;alert(4)", "&lt;b&gt;ink", "&lt;u&gt;"] {
            assert!(page.contains(kept), "{kept} is missing");
        }
        assert_eq!(page.matches("class=\"notice\"").count(), 1);
    }
}

#[test]
fn a_run_is_shown_in_every_state() {
    let folder = tempfile::tempdir().unwrap();
    let path = run(folder.path(), 2);
    assert!(html(&path, true, Form::Live).contains(">in progress<"));
    assert!(html(&path, true, Form::File).contains(">in progress when written<"));
    assert!(html(&path, false, Form::File).contains(">not finished<"));
    // A crash truncated the last line and the pictures.
    let metrics = fs::read(path.join("metrics.jsonl")).unwrap();
    fs::write(path.join("metrics.jsonl"), &metrics[..metrics.len() - 9]).unwrap();
    assert!(html(&path, false, Form::File).contains("iteration 1 of 4"));
    // Nothing has been done yet.
    fs::remove_file(path.join("metrics.jsonl")).unwrap();
    fs::remove_dir_all(path.join("samples")).unwrap();
    assert!(html(&path, true, Form::Live).contains("iteration 0 of 4"));
    // Pretraining has steps and a loss.
    fs::write(
        path.join("metrics.jsonl"),
        "{\"iteration\":5,\"loss\":1.5,\"lr\":0.1}\n{\"iteration\":9,\"loss\":0.5}\n",
    )
    .unwrap();
    let page = html(&path, false, Form::File);
    assert!(page.contains("1.50 → 0.500") && page.contains("step 9"), "{page}");
    assert!(write(&folder.path().join("nowhere"), false).unwrap_err().to_string().contains("no such directory"));
}

#[test]
fn the_report_of_a_long_run_is_a_small_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = run(folder.path(), 2);
    let line = |iteration: u64| {
        let value = json!({
            "iteration": iteration, "reward_mean": 0.5, "grad_norm": 1.0, "trained_steps": [0, 1, 2, 3, 4, 5, 6, 7],
            "kl_by_step": vec![1e-3; 8],
        });
        format!("{value}\n")
    };
    fs::write(path.join("metrics.jsonl"), (1..=3000).map(line).collect::<String>()).unwrap();
    for iteration in 3..=200 {
        fs::copy(path.join("samples/000001.png"), path.join(format!("samples/{iteration:06}.png"))).unwrap();
    }
    let page = html(&path, true, Form::File);
    assert_eq!(page.matches("data-iteration=").count(), 30);
    assert!(page.contains("30 of 201 grids are shown"));
    assert!(page.len() < 1 << 20, "{} bytes", page.len());
}

#[test]
fn only_files_that_a_page_links_to_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = run(folder.path(), 1);
    fs::write(path.join("model.safetensors"), b"large").unwrap();
    fs::write(path.join("private.txt"), b"no").unwrap();
    fs::write(path.join("rewards.csv"), b"iteration").unwrap();
    fs::write(path.join("rewards-2.csv"), b"iteration").unwrap();
    assert_eq!(files(&path), ["config.toml", "metrics.jsonl", "samples/000000.png", "samples/000001.png"]);
}

#[test]
fn the_training_data_and_every_table_of_scores_are_on_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = run(folder.path(), 1);
    fs::copy(path.join("samples/000001.png"), path.join("data.png")).unwrap();
    for name in ["rewards.csv", "rewards-2.csv", "rewards-3.csv"] {
        fs::write(path.join(name), b"iteration").unwrap();
    }
    let page = html(&path, false, Form::File);
    assert!(page.contains("alt=\"images of each class"));
    for name in ["data.png", "rewards.csv", "rewards-2.csv", "rewards-3.csv"] {
        assert!(page.contains(&format!("<a href=\"{name}\">")), "{name}");
    }
    let live = html(&path, false, Form::Live);
    assert!(live.contains("src=\"data.png\"") && live.contains("<code>rewards-3.csv</code>"));
}

#[test]
fn iterations_repeated_after_resuming_are_shown_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = run(folder.path(), 2);
    fs::copy(path.join("samples/000001.png"), path.join("samples/000500.png")).unwrap();
    let warning = |iteration: u64, message: &str| {
        format!("{}\n", json!({"iteration": iteration, "kind": "mask", "message": message}))
    };
    let lines = [(1, "idle"), (2, "tight"), (1, "idle"), (2, "idle"), (2, "tight")];
    let lines = lines.map(|(iteration, message)| warning(iteration, message));
    fs::write(path.join("warnings.jsonl"), lines.concat()).unwrap();
    let page = html(&path, true, Form::Live);
    assert_eq!(page.matches("data-iteration=").count(), 3);
    assert!(!page.contains("000500.png"));
    let told: Vec<&str> = page.split("<code>mask</code> ").skip(1).map(|rest| &rest[..5]).collect();
    assert_eq!(told, ["tight", "idle<", "idle<"]);
}

#[test]
fn components_are_shown_on_fixed_seeds() {
    let folder = tempfile::tempdir().unwrap();
    let path = run(folder.path(), 2);
    let line = |iteration: u64| json!({"iteration": iteration, "eval/reward_mean": 0.5, "eval/components": {"ink": 0.125, "judge.v2": 0.0625}});
    fs::write(path.join("metrics.jsonl"), format!("{}\n{}\n", line(0), line(1))).unwrap();
    let page = html(&path, false, Form::File);
    assert!(page.contains("Components on fixed seeds"));
    assert!(page.contains("judge.v2 <b>0.0625</b>") && page.contains("ink <b>0.125</b>"), "{page}");
    // A single reward is its own component.
    fs::write(path.join("metrics.jsonl"), json!({"iteration": 0, "eval/components": {"ink": 0.5}}).to_string())
        .unwrap();
    assert!(!html(&path, false, Form::File).contains("Components on fixed seeds"));
}

#[test]
fn numbers_of_any_size_are_short_and_not_rounded_to_zero() {
    let folder = tempfile::tempdir().unwrap();
    let path = run(folder.path(), 2);
    let write = |rewards: [f64; 2]| {
        let line = |(iteration, reward): (usize, &f64)| {
            format!("{}\n", json!({"iteration": iteration, "eval/reward_mean": reward}))
        };
        fs::write(path.join("metrics.jsonl"), rewards.iter().enumerate().map(line).collect::<String>()).unwrap();
        html(&path, false, Form::File)
    };
    assert!(write([-2.5e-7, 3.0e-7]).contains("−2.50e−7 <i>→</i> 3.00e−7"));
    let page = write([1.0, 1e300]);
    assert!(page.contains("1.00 <i>→</i> 1.00e300") && !page.contains("00000000"), "{page}");
}
