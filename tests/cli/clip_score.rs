//! Training a text-to-image model by CLIP scores.

use std::fs;

use super::workplace::{Workplace, formats, lines};

#[test]
fn pictures_are_scored_with_their_prompts() {
    let here = Workplace::of_prompts();
    let folder = formats("clip_score_tiny").display().to_string().replace('\\', "/");
    let reward = format!("kind = \"clip-score\"\nfile = \"{folder}\"");
    here.rewrite("train.toml", "t.toml", ["kind = \"brightness\"", &reward]);
    here.rewrite("t.toml", "wrong.toml", ["clip_score_tiny", "clip_score_tiny/config.json"]);

    let plan = here.run("train --config t.toml --dry-run").succeeds();
    assert!(plan.contains("the reward clip-score, on top"), "{plan}");
    here.run("train --config t.toml --out run --set train.iterations=1").succeeds();
    let metrics = lines(&here.path("run/metrics.jsonl"));
    assert!(metrics.iter().any(|line| line.to_string().contains("clip-score")), "{metrics:?}");
    let scores = fs::read_to_string(here.path("run/rewards.csv")).expect("it was written");
    assert!(scores.starts_with("iteration,purpose,sample,class,clip-score,total\n1,training,0,0,"), "{scores}");

    let checked = here.run("config check wrong.toml");
    let says = "clip_score_tiny/config.json, which is a file: the folder of a CLIP model is needed";
    assert!(checked.code == Some(2) && format!("{}{}", checked.out, checked.err).contains(says), "{}", checked.err);
}
