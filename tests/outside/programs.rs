//! Programs that score correctly.

use std::fs;
use std::path::Path;

use flowdppo_wgpu::Result;
use flowdppo_wgpu::config::ImageForm;
use flowdppo_wgpu::reward::{Limits, Outside, Program, Reward, command};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use serde_json::{Value, json};

use super::pictures::{Pictures, assert_close, assert_failed, limits, pictures};

pub fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A Python program that answers requests with a function body, after the first line. The body sees `request`, `items`,
/// and the arguments as `sys.argv[1:]`.
pub fn python(body: &str, arguments: &[&str]) -> Vec<String> {
    let script = format!(
        "import json, os, sys, time\n\
         def answer(request, items):\n    {}\n\
         for line in sys.stdin:\n    \
             request = json.loads(line)\n    \
             said = json.dumps({{'id': 0}}) + '\\n' if 'hello' in request else answer(request, request['items'])\n    \
             sys.stdout.write(said if isinstance(said, str) else json.dumps(said) + '\\n')\n    \
             sys.stdout.flush()\n",
        body.replace('\n', "\n    ")
    );
    [&["python3", "-c", &script], arguments].concat().into_iter().map(String::from).collect()
}

pub fn start(argv: &[String], picture: ImageForm, limits: Limits, pictures: &Pictures) -> Result<Outside<Program>> {
    command("mine", argv, picture, limits, &pictures.subject())
}

#[test]
fn the_python_example_scores_the_same_with_any_batch_and_workers() {
    let pictures = pictures(23);
    let symmetry: Vec<f64> = (pictures.bytes.iter())
        .map(|bytes| {
            let distance = |pixel: usize| f64::from(bytes[pixel].abs_diff(bytes[pixel / 4 * 4 + 3 - pixel % 4]));
            1.0 - (0..16).map(distance).sum::<f64>() / 16.0 / 255.0
        })
        .collect();
    let mut seen = Vec::new();
    for (batch, workers) in [(23, 1), (1, 3), (4, 2), (100, 2)] {
        let argv = argv(&["python3", "docs/rewards/score.py"]);
        let mut reward = start(&argv, ImageForm::Base64, limits(batch, workers, 0), &pictures).unwrap();
        assert_eq!(reward.components(), ["mine"]);
        let scores = pictures.score(&mut reward).unwrap();
        assert_close(&scores[0], &symmetry);
        assert_eq!(pictures.score(&mut reward).unwrap(), scores, "the second batch, from the same processes");
        seen.push(scores);
    }
    assert!(seen.iter().all(|scores| *scores == seen[0]), "scores depend on batch or workers: {seen:?}");
}

/// The first Python block in docs/rewards.md.
#[test]
fn the_program_of_the_document_scores() {
    let document = include_str!("../../docs/rewards.md");
    let (_, rest) = document.split_once("```python\n").unwrap();
    let argv = argv(&["python3", "-c", rest.split("```").next().unwrap()]);
    let pictures = pictures(3);
    let mut reward = start(&argv, ImageForm::Base64, limits(2, 1, 0), &pictures).unwrap();
    assert_eq!(reward.components(), ["mine"]);
    // Each of the 4 rows begins with the number of its filter, 0.
    let mean = |bytes: &[u8; 16]| bytes.iter().map(|byte| f64::from(*byte)).sum::<f64>() / 20.0 / 255.0;
    for (score, bytes) in pictures.score(&mut reward).unwrap()[0].iter().zip(&pictures.bytes) {
        assert!((score - mean(bytes)).abs() < 1e-12, "{score} is not {}", mean(bytes));
    }
}

#[test]
fn a_program_may_give_several_scores() {
    let script = "\
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    scores = [{'twice': 2 * item['sample'], 'label': item['label']} for item in request['items']]
    print(json.dumps({'id': request['id'], 'components': ['label', 'twice'], 'scores': scores}), flush=True)
";
    let pictures = pictures(5);
    let argv = argv(&["python3", "-c", script]);
    let mut reward = start(&argv, ImageForm::Base64, limits(2, 2, 0), &pictures).unwrap();
    assert_eq!(reward.components(), ["label", "twice"]);
    assert_eq!(pictures.score(&mut reward).unwrap(), [[0.0, 1.0, 2.0, 0.0, 1.0], [0.0, 2.0, 4.0, 6.0, 8.0]]);
}

/// A picture as it is sent to the program.
fn png(picture: &[u8; 16]) -> Vec<u8> {
    let mut png = Vec::new();
    PngEncoder::new_with_quality(&mut png, CompressionType::Default, FilterType::NoFilter)
        .write_image(picture, 4, 4, ExtendedColorType::L8)
        .unwrap();
    png
}

#[test]
fn the_shell_example_reads_files_that_are_then_removed() {
    let pictures = pictures(7);
    let expected: Vec<f64> = pictures.bytes.iter().map(|bytes| -(png(bytes).len() as f64)).collect();
    for (batch, workers) in [(7, 1), (2, 3)] {
        let argv = argv(&["sh", "docs/rewards/score.sh"]);
        let mut reward = start(&argv, ImageForm::Path, limits(batch, workers, 0), &pictures).unwrap();
        assert_eq!(reward.components(), ["mine"]);
        assert_eq!(pictures.score(&mut reward).unwrap(), std::slice::from_ref(&expected));
    }
}

/// The requests that a program received, with the files that it found.
fn sent(picture: ImageForm) -> Vec<Value> {
    let (folder, pictures) = (tempfile::tempdir().unwrap(), pictures(3));
    let log = folder.path().join("requests");
    let script = "\
import json, os, sys
for line in sys.stdin:
    request = json.loads(line)
    request['found'] = [os.path.getsize(item['path']) > 60 for item in request['items'] if 'path' in item]
    print(json.dumps(request), file=open(sys.argv[1], 'a'))
    print(json.dumps({'id': request['id'], 'scores': [1] * len(request['items'])}), flush=True)
";
    let argv = argv(&["python3", "-c", script, log.to_str().unwrap()]);
    let mut reward = start(&argv, picture, limits(2, 1, 0), &pictures).unwrap();
    assert_eq!(pictures.score(&mut reward).unwrap(), [[1.0; 3]]);
    drop(reward);
    fs::read_to_string(log).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn requests_are_as_documented() {
    let lines = sent(ImageForm::Base64);
    let names = ["zero", "one", "two \"{2}\""];
    let hello = json!({
        "protocol": 1, "reward": "mine", "image": "base64", "class_names": names, "channels": 1,
        "height": 4, "width": 4, "image_size": 4
    });
    assert_eq!(lines[0], json!({"id": 0, "hello": hello, "items": [], "found": []}));
    let item = |index: usize| {
        json!({
            "image": lines[1 + index / 2]["items"][index % 2]["image"], "label": index, "prompt": names[index],
            "iteration": 5, "purpose": "training", "sample": index
        })
    };
    assert_eq!(lines[1], json!({"id": 1, "items": [item(0), item(1)], "found": []}));
    assert_eq!(lines[2], json!({"id": 2, "items": [item(2)], "found": []}));
    assert_eq!(lines.len(), 3);
    assert!(lines[1]["items"][0]["image"].as_str().unwrap().starts_with("iVBORw0KGgo"), "no PNG: {}", lines[1]);

    let lines = sent(ImageForm::Path);
    assert_eq!(lines[0]["hello"]["image"], "path");
    assert_eq!(lines[1]["found"], json!([true, true]));
    assert_eq!(lines[2]["found"], json!([true]));
    for item in lines.iter().flat_map(|line| line["items"].as_array().unwrap()) {
        let path = Path::new(item["path"].as_str().unwrap());
        assert!(!path.exists() && !path.parent().unwrap().exists(), "{} was left behind", path.display());
        assert!(item.get("image").is_none());
    }
}

#[test]
fn a_program_that_crashes_once_is_started_again() {
    let (folder, pictures) = (tempfile::tempdir().unwrap(), pictures(5));
    let marker = folder.path().join("crashed");
    let body = "\
if not os.path.exists(sys.argv[1]):
    open(sys.argv[1], 'w')
    sys.exit(1)
return {'id': request['id'], 'scores': [item['sample'] for item in items]}";
    let argv = python(body, &[marker.to_str().unwrap()]);
    let mut reward = start(&argv, ImageForm::Base64, limits(2, 1, 1), &pictures).unwrap();
    assert_eq!(pictures.score(&mut reward).unwrap(), [[0.0, 1.0, 2.0, 3.0, 4.0]]);
    assert!(marker.exists());
}

#[test]
fn a_program_ends_with_its_reward() {
    let (folder, pictures) = (tempfile::tempdir().unwrap(), pictures(1));
    let marker = folder.path().join("ended");
    let script = "\
import sys
sys.stdin.readline()
print('{\"id\": 0}', flush=True)
sys.stdin.read()
open(sys.argv[1], 'w')
";
    let argv = argv(&["python3", "-c", script, marker.to_str().unwrap()]);
    drop(start(&argv, ImageForm::Base64, limits(1, 2, 0), &pictures).unwrap());
    assert!(marker.exists(), "it did not end with its input, or nobody waited for it");
}

/// A wrapper that waits for a hung program, such as a shell script without `exec`.
#[cfg(unix)]
#[test]
fn child_processes_are_killed_with_the_program() {
    let (folder, pictures) = (tempfile::tempdir().unwrap(), pictures(1));
    let marker = folder.path().join("pid");
    let script = "read -r line; echo '{\"id\": 0}'; sleep 600 & printf $! >\"$1\"; wait";
    let argv = argv(&["sh", "-c", script, "sh", marker.to_str().unwrap()]);
    let limits = Limits { timeout: std::time::Duration::from_secs(5), ..limits(1, 1, 0) };
    let mut reward = start(&argv, ImageForm::Base64, limits, &pictures).unwrap();
    assert_failed(pictures.score(&mut reward), &["did not answer within 5 s"]);
    assert_dead(&fs::read_to_string(marker).unwrap());
}

/// When a program exits on its own, its child processes are killed.
#[cfg(unix)]
#[test]
fn child_processes_end_with_the_program() {
    for redirect in [">/dev/null 2>&1", ""] {
        let (folder, pictures) = (tempfile::tempdir().unwrap(), pictures(1));
        let marker = folder.path().join("pid");
        let script = format!(
            "read -r line; echo '{{\"id\": 0}}'; read -r line; sleep 77 {redirect} & printf $! >\"$1\"; exit 1"
        );
        let argv = argv(&["sh", "-c", &script, "sh", marker.to_str().unwrap()]);
        let limits = Limits { timeout: std::time::Duration::from_secs(5), ..limits(1, 1, 0) };
        let mut reward = start(&argv, ImageForm::Base64, limits, &pictures).unwrap();
        // At once: that what it has started keeps its standard output open makes no difference.
        assert_failed(pictures.score(&mut reward), &["ended with exit status: 1 instead of answering"]);
        assert_dead(&fs::read_to_string(marker).unwrap());
    }
}

/// Waits for the end of a killed process whose exit status another process collects.
#[cfg(unix)]
fn assert_dead(pid: &str) {
    // A zombie, which may never be collected here, is also dead.
    let script = format!("case $(ps -o stat= -p {pid}) in ''|Z*) ;; *) exit 1;; esac");
    let is_dead = || std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success();
    let is_soon_dead =
        (0..250).any(|_| is_dead() || (std::thread::sleep(std::time::Duration::from_millis(20)), false).1);
    assert!(is_soon_dead, "process {pid} is still alive");
}

#[cfg(unix)]
#[test]
fn a_program_that_ignores_the_end_of_its_input_is_killed() {
    let (folder, pictures) = (tempfile::tempdir().unwrap(), pictures(1));
    let marker = folder.path().join("pid");
    let script = "printf $$ >\"$1\"; read -r line; echo '{\"id\": 0}'; exec sleep 600";
    let argv = argv(&["sh", "-c", script, "sh", marker.to_str().unwrap()]);
    drop(start(&argv, ImageForm::Base64, limits(1, 1, 0), &pictures).unwrap());
    let pid = fs::read_to_string(marker).unwrap();
    let alive = std::process::Command::new("sh").args(["-c", &format!("kill -0 {pid}")]).output().unwrap();
    assert!(!alive.status.success(), "process {pid} is still alive, or was left as a zombie");
}
