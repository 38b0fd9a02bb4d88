//! `bench`: what it measures, writes and compares. Speed is never asserted.

use std::fs;

use serde_json::Value;

use super::workplace::{Ended, Workplace, program};

fn results(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|cause| panic!("{cause}: {text}"))
}

#[test]
fn json_names_the_device_and_has_a_row_for_every_measurement() {
    let here = Workplace::new();
    let results = results(&here.run("-q bench dispatch fma --quick --json").succeeds());
    for key in ["format", "version", "date", "adapter", "driver", "backend", "limits"] {
        assert!(!results[key].as_str().unwrap().is_empty(), "{key}: {results}");
    }
    assert_eq!((&results["version"], &results["limits"]), (&env!("CARGO_PKG_VERSION").into(), &"adapter".into()));
    assert_eq!(results["checked"], false);
    let rows = results["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["fma", "dispatch in a submission", "dispatch, submit, wait"], "nothing else was asked for");
    for row in rows {
        let [lower, upper] = [0, 1].map(|index| row["quartiles"][index].as_f64().unwrap());
        let seconds = row["seconds"].as_f64().unwrap();
        assert!(0.0 < lower && lower <= seconds && seconds <= upper, "{row}");
        assert!(row["runs"].as_u64().unwrap() >= 1, "{row}");
    }
    assert!(rows[0]["gflop_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn kernels_are_shown_with_the_limits_and_results_can_be_compared() {
    let here = Workplace::new();
    let text = here.run("bench gelu philox --quick --out old.json").succeeds();
    let old = results(&fs::read_to_string(here.path("old.json")).unwrap());
    let rows = old["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["fma", "copy", "gelu 2048x512", "philox 3145728"], "limits are measured in the same run");
    for row in &rows[2..] {
        assert_eq!(row["limit"], "copy", "{row}");
        assert!(row["share_of_limit"].as_f64().unwrap() > 0.0, "{row}");
        assert!(text.contains(row["name"].as_str().unwrap()), "{text}");
    }
    assert!(text.contains("% of copy"), "{text}");

    // Measurements in only one of the two are omitted; differences of the environment are named.
    let mut other = old.clone();
    other["adapter"] = "another adapter".into();
    fs::write(here.path("other.json"), other.to_string()).unwrap();
    let text = here.run("bench gelu --quick --compare other.json").succeeds();
    let (_, comparison) = text.split_once("new/old").expect(&text);
    assert!(comparison.contains("adapter differs: another adapter then"), "{text}");
    assert!(!comparison.contains("driver differs") && !comparison.contains("philox"), "{text}");
    assert_eq!(comparison.lines().filter(|line| line.starts_with("gelu 2048x512")).count(), 1, "{text}");
}

#[test]
fn the_training_step_shows_its_losses_next_to_the_expected_ones() {
    let here = Workplace::new();
    let results = results(&here.run("-q bench dit-step --quick --json").succeeds());
    let row = results["rows"].as_array().unwrap().iter().find(|row| row["name"] == "dit-step").unwrap();
    let detail = |name: &str| row["details"][name].as_f64().unwrap_or_else(|| panic!("{name} is missing in {row}"));
    for step in 1..=4 {
        let (loss, expected) = (detail(&format!("loss {step}")), detail(&format!("loss {step} expected")));
        assert!((loss / expected - 1.0).abs() < 2e-5, "{loss} {expected}");
    }
    assert_eq!(detail("planned MiB"), detail("held MiB"), "memory is known before it is allocated");
    assert!(detail("planned MiB without reuse") > detail("planned MiB"));
    assert!(detail("dispatches") > 100.0 && detail("submissions") >= 2.0 && detail("images/s") > 0.0);
    if cfg!(target_os = "linux") {
        assert!(detail("peak RSS MiB") > 1.0);
    }
}

#[test]
fn a_table_of_kernels_is_used_and_a_damaged_one_is_ignored_with_a_log_line() {
    let here = Workplace::new();
    let of_device = results(&here.run("-q bench dispatch --quick --json").succeeds());
    let text = |key: &str| of_device[key].as_str().unwrap().to_owned();
    let key = format!("{} {} {}", text("adapter"), text("backend"), text("driver")).to_lowercase();
    let words: Vec<&str> = key.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let path = here.path("cache").join("tuning").join(format!("{}.json", words.join("-")));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let table = serde_json::json!({
        "version": text("version"), "adapter": text("adapter"), "driver": text("driver"), "backend": text("backend"),
        "kernels": {"matmul n=8 k=8": "matmul_register"},
    });
    let run = |content: &str| {
        fs::write(&path, content).unwrap();
        let mut command = program(&here.path(""), "-v bench dispatch --quick --json");
        let ended = Ended::of(command.env("FLOWDPPO_CACHE_DIR", here.path("cache")));
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended.err
    };
    let said = run(&table.to_string());
    assert!(said.contains("kernels are chosen according to") && !said.contains("is ignored"), "{said}");
    for damaged in [&table.to_string()[..40], &table.to_string().replace(&text("version"), "0.0.1"), ""] {
        let said = run(damaged);
        assert_eq!(said.matches("is ignored").count(), 1, "{said}");
        assert!(!said.contains("kernels are chosen according to"), "{said}");
    }
}
