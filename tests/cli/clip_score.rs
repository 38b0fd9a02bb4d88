//! Training a text-to-image model by CLIP scores.

use std::fs;
use std::path::Path;

use super::workplace::{Ended, lines, program};

const CONFIG: &str = r#"
[model]
folder = "FORMATS/sd35_tiny_pipeline"
[prompts]
file = "prompts.txt"
[rollout]
steps = 2
groups = 2
group_size = 2
trained_steps = { kind = "sparse-early", count = 1, from = 0.0, to = 0.5 }
[[reward]]
kind = "clip-score"
file = "FORMATS/clip_score_tiny"
[lora]
rank = 2
targets = ["attn.to_q"]
[train]
iterations = 1
inner_epochs = 1
[eval]
every = 0
count = 2
steps = 1
judge = ""
[preview]
every = 0
per_class = 1
steps = 1
"#;

#[test]
fn pictures_are_scored_with_their_prompts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let here = folder.path();
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").display().to_string();
    let config = CONFIG.replace("FORMATS", &formats.replace('\\', "/"));
    fs::write(here.join("prompts.txt"), "a red fox\na blue bird\n").expect("the folder is writable");
    fs::write(here.join("t.toml"), &config).expect("the folder is writable");
    let wrong = config.replace("clip_score_tiny", "clip_score_tiny/config.json");
    fs::write(here.join("wrong.toml"), wrong).expect("the folder is writable");
    let run = |arguments: &str| Ended::of(&mut program(here, arguments));

    let plan = run("train --config t.toml --dry-run").succeeds();
    assert!(plan.contains("the reward clip-score, on top"), "{plan}");
    run("train --config t.toml --out run").succeeds();
    let metrics = lines(&here.join("run/metrics.jsonl"));
    assert!(metrics.iter().any(|line| line.to_string().contains("clip-score")), "{metrics:?}");
    let scores = fs::read_to_string(here.join("run/rewards.csv")).expect("it was written");
    assert!(scores.starts_with("iteration,purpose,sample,class,clip-score,total\n1,training,0,0,"), "{scores}");

    let checked = run("config check wrong.toml");
    let says = "clip_score_tiny/config.json, which is a file: the folder of a CLIP model is needed";
    assert!(checked.code == Some(2) && format!("{}{}", checked.out, checked.err).contains(says), "{}", checked.err);
}
