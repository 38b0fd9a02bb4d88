//! `doctor`: what its report has, what it must not have, and that a section that fails does not end it.

use std::fs;

use serde_json::Value;

use super::bad_input::{case, check, nothing};
use super::workplace::{Ended, Workplace, program};

const SECTIONS: [&str; 5] = ["self-tests", "ops against f64", "rows on their own", "benchmarks", "training"];

fn report(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|cause| panic!("{cause}: {text}"))
}

fn sections(report: &Value) -> Vec<&Value> {
    let sections: Vec<&Value> = report["sections"].as_array().unwrap().iter().collect();
    let names: Vec<&str> = sections.iter().map(|section| section["name"].as_str().unwrap()).collect();
    assert_eq!(names, SECTIONS);
    sections
}

#[test]
fn a_quick_report_has_every_section_and_nothing_personal() {
    let here = Workplace::empty();
    let home = here.path("somebody-s-home");
    fs::create_dir(&home).unwrap();
    let mut command = program(&here.path(""), "doctor --quick --report report.json");
    command.env("HOME", &home).env("USER", "somebody").env("LOGNAME", "somebody").env("HOSTNAME", "somebody-s-laptop");
    let out = Ended::of(&mut command).succeeds();
    assert!(out.contains("report.json") && out.contains("report.md"), "{out}");
    let [json, markdown] = ["report.json", "report.md"].map(|name| fs::read_to_string(here.path(name)).unwrap());
    for personal in ["somebody", &here.path("").display().to_string()] {
        assert!(!json.contains(personal) && !markdown.contains(personal), "{personal}");
    }
    let report = report(&json);
    assert_eq!((&report["passed"], &report["quick"]), (&true.into(), &true.into()));
    for key in ["format", "version", "date"] {
        assert!(!report[key].as_str().unwrap().is_empty(), "{key}");
    }
    let device = &report["device"];
    for key in ["name", "driver", "backend", "kind"] {
        assert!(markdown.contains("## Device") && !device[key].as_str().unwrap().is_empty(), "{key}: {device}");
    }
    assert!(device["vendor_id"].is_u64() && device["cooperative_matrices"].is_array(), "{device}");
    assert!(markdown.starts_with(&format!("# {}", device["name"].as_str().unwrap())), "{markdown}");
    for section in sections(&report) {
        assert!(section["failure"].is_null() && section["seconds"].is_number(), "{section}");
        let rows = section["rows"].as_array().unwrap();
        assert!(!rows.is_empty() && markdown.contains(section["name"].as_str().unwrap()), "{section}");
        match section["name"].as_str().unwrap() {
            "benchmarks" => assert_eq!([&rows[0]["name"], &rows[1]["name"]], ["fma", "copy"]),
            "training" => assert!((rows[0]["reward"].as_f64().unwrap() - 0.749).abs() < 1e-3, "{section}"),
            "ops against f64" => assert!(rows.iter().all(|row| row["error"].is_number()), "{section}"),
            _ => {}
        }
    }
    // Every variant that can be forced.
    let variants = report["sections"][2]["rows"].as_array().unwrap();
    assert!(variants.iter().any(|row| row["name"] == "matmul_tiled" && row["cases"] != 0), "{variants:?}");

    let again = here.run("doctor --quick --report report.md").refused();
    assert!(again.contains("report.json: it exists already") && again.contains("--force"), "{again}");
}

#[test]
fn sections_that_fail_are_reported_and_the_others_go_on() {
    let here = Workplace::empty();
    let mut command = program(&here.path(""), "doctor --quick");
    let ended = Ended::of(command.env("FLOWDPPO_MEMORY_LIMIT_MIB", "1"));
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.contains("error: ") && ended.err.contains("self-tests, ops against f64, "), "{}", ended.err);
    assert!(ended.out.contains("**FAILED**") && ended.out.contains("MiB of device memory"), "{}", ended.out);
    // Benchmarks leave out what a device is too small for.
    for section in SECTIONS {
        let result = if section == "benchmarks" { "passed" } else { "FAILED" };
        assert!(ended.out.contains(&format!("| {section} | {result} |")), "{section}: {}", ended.out);
    }

    // The files are written as well.
    let mut command = program(&here.path(""), "-q doctor --quick --report failed");
    let ended = Ended::of(command.env("FLOWDPPO_MEMORY_LIMIT_MIB", "1"));
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{}", ended.err);
    let report = report(&fs::read_to_string(here.path("failed.json")).unwrap());
    assert_eq!(report["passed"], false);
    for section in sections(&report) {
        let is_benchmarks = section["name"] == "benchmarks";
        assert_eq!(section["failure"].is_null(), is_benchmarks, "{section}");
        assert!(!is_benchmarks || !section["notes"].as_array().unwrap().is_empty(), "{section}");
    }
}

#[test]
fn what_cannot_begin_is_one_sentence() {
    check(&[
        case(nothing, "doctor --quick --report no/such/folder/gpu", 2, &["cannot write no/such/folder/gpu.json"]),
        case(nothing, "doctor --quick --device no-such-device", 3, &["`no-such-device`", "0 = "]),
        case(
            |here| fs::write(here.path("gpu.md"), "mine").unwrap(),
            "doctor --quick --report gpu",
            2,
            &["gpu.md: it exists already", "--force"],
        ),
    ]);
}

/// Every report that ships is named where they are listed.
#[test]
fn shipped_reports_are_listed() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gpu-reports");
    let list = fs::read_to_string(folder.join("README.md")).unwrap();
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "json") {
            let name = path.with_extension("md").file_name().unwrap().to_string_lossy().into_owned();
            assert!(folder.join(&name).exists() && list.contains(&format!("({name})")), "{name}");
            sections(&report(&fs::read_to_string(&path).unwrap()));
            count += 1;
        }
    }
    assert!(count > 0);
}
