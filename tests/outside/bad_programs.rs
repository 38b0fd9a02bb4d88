//! Faulty programs: each leads to one clear message and never to a score.

use std::time::Duration;

use flowdppo_wgpu::config::ImageForm;
use flowdppo_wgpu::reward::{Limits, Subject, command};
use flowdppo_wgpu::shape::ImageShape;

use super::pictures::{assert_failed, assert_input, limits, pictures};
use super::programs::{argv, python, start};

#[test]
fn invalid_answers() {
    let cases: [(&str, &[&str]); 18] = [
        ("return {'id': 1, 'scores': [1, 2]}", &["returned 2 scores for 3 samples"]),
        ("return {'id': 1, 'scores': [1, 2, 3, 4]}", &["returned 4 scores for 3 samples"]),
        ("return {'id': 1}", &["returned 0 scores for 3 samples"]),
        ("return {'id': 1, 'scores': [1, float('nan'), 3]}", &["JSON has no NaN", "must be a finite number"]),
        ("return '{\"id\": 1, \"scores\": [1, 2, 1e999]}\\n'", &["1e999", "number out of range"]),
        ("return {'id': 1, 'scores': [1, None, 3]}", &["scored sample 1 with null, but a score must be a finite"]),
        ("return {'id': 1, 'scores': [1, 2, '0.5']}", &["scored sample 2 with \"0.5\", but a score must be a finite"]),
        ("return {'id': 1, 'scores': [True, 2, 3]}", &["scored sample 0 with true, but a score must be a finite"]),
        ("return {'id': 1, 'scores': [{'a': 1}] * 3}", &["sample 0 with {\"a\":1}", "\"components\": [their names]"]),
        ("return {'id': 7, 'scores': [1, 2, 3]}", &["answered request 7 instead of request 1"]),
        ("return 'Loading model\\n'", &["answered `Loading model`: expected value", "must go to standard error"]),
        ("return [1, 2, 3]", &["answered `[1, 2, 3]`", "a JSON object such as {\"id\": 1, \"scores\": [0.5]}"]),
        ("return 'x' * (9 << 20)", &["wrote 8 MiB to its standard output without a line break"]),
        ("return {'id': 1, 'error': ' '}", &["reports an error"]),
        ("return '\\n'", &["answered an empty line: EOF while parsing"]),
        ("return {'id': 1, 'error': 'the font is missing'}", &["reports an error: the font is missing"]),
        (
            "print('Traceback\\nValueError: no font', file=sys.stderr)\nos._exit(3)",
            &["ended with exit", "3 instead of answering", "ends with: Traceback | ValueError: no font"],
        ),
        (
            "sys.stdout.write('{\"id\": 1, \"scores\": [1, 2, 3')\nsys.stdout.flush()\nos._exit(0)",
            &["ended with exit", "0 instead of answering; it wrote nothing to standard error"],
        ),
    ];
    let pictures = pictures(3);
    for (body, needles) in cases {
        let mut reward = start(&python(body, &[]), ImageForm::Base64, limits(3, 1, 0), &pictures).unwrap();
        assert_failed(pictures.score(&mut reward), &[&["the program `python3 -c"], needles].concat());
    }
}

#[test]
fn named_components_need_all_their_scores() {
    let cases = [
        ("1", "scored sample 0 with 1, but its components are a, b"),
        ("{'a': 1}", "scored sample 0 with {\"a\":1}, but its components are a, b"),
        ("{'a': 1, 'b': 2, 'c': 3}", "but its components are a, b"),
        ("{'a': 1, 'b': None}", "scored sample 0 with `b`: null, but a score must be a finite number"),
    ];
    let pictures = pictures(1);
    for (score, needle) in cases {
        let script = format!(
            "import json, sys\nsys.stdin.readline()\n\
             print('{{\"id\": 0, \"components\": [\"a\", \"b\"]}}', flush=True)\nsys.stdin.readline()\n\
             print(json.dumps({{'id': 1, 'scores': [{score}]}}), flush=True)\nsys.stdin.read()"
        );
        let argv = argv(&["python3", "-c", &script]);
        let mut reward = start(&argv, ImageForm::Base64, limits(1, 1, 0), &pictures).unwrap();
        assert_failed(pictures.score(&mut reward), &[needle]);
    }
}

#[test]
fn a_hanging_program_is_given_up_after_the_last_attempt() {
    let pictures = pictures(1);
    let script = "echo thinking >&2; read -r line; echo '{\"id\": 0}'; exec sleep 600";
    let limits = Limits { timeout: Duration::from_secs(2), ..limits(1, 1, 1) };
    let mut reward = start(&argv(&["sh", "-c", script]), ImageForm::Base64, limits, &pictures).unwrap();
    let needles = ["did not answer within 2 s (`timeout_seconds`)", "ends with: thinking", "(attempt 2 of 2)"];
    assert_failed(pictures.score(&mut reward), &needles);
}

#[test]
fn a_program_that_always_crashes_is_abandoned() {
    let pictures = pictures(2);
    let argv = python("sys.exit('no such font')", &[]);
    let mut reward = start(&argv, ImageForm::Base64, limits(1, 2, 1), &pictures).unwrap();
    assert_failed(pictures.score(&mut reward), &["no such font", "(attempt "]);
}

#[test]
fn errors_before_the_first_sample_are_input_errors() {
    let pictures = pictures(1);
    let says = |line: &str| format!("read -r line; echo '{line}'; cat >/dev/null");
    let (duplicate, nameless) =
        (says("{\"id\": 0, \"components\": [\"a\", \"a\"]}"), says("{\"id\": 0, \"components\": [\"\"]}"));
    let scores = says("{\"id\": 0, \"scores\": [1]}");
    let cases: [(&[&str], &[&str]); 9] = [
        (&["no-such-program", "x"], &["cannot start the program `no-such-program x`", "a list of the program and"]),
        (&["./no-such-script"], &["cannot start the program `./no-such-script`", "relative to the current directory"]),
        (&["Cargo.toml"], &["cannot start the program `Cargo.toml`", "write `./Cargo.toml`"]),
        (&["./Cargo.toml"], &["cannot start the program `./Cargo.toml`", "[\"python3\", \"score.py\"]"]),
        (&["python3", "no-such.py"], &["`python3 no-such.py` ended with exit", "can't open file"]),
        (&["sh", "-c", "echo bad config >&2; exit 3"], &["ended with exit", "3 instead", "ends with: bad config"]),
        (&["sh", "-c", &duplicate], &["names its components \"a, a\": each needs its own name"]),
        (&["sh", "-c", &nameless], &["each needs its own name"]),
        (&["sh", "-c", &scores], &["returned 1 scores for 0 samples"]),
    ];
    for (words, needles) in cases {
        assert_input(start(&argv(words), ImageForm::Base64, limits(1, 1, 2), &pictures), needles);
    }
}

#[test]
fn points_are_not_pictures() {
    let subject = Subject { class_names: &[], shape: ImageShape::square(2, 1), descriptions: &[] };
    let reward = command("mine", &argv(&["sh"]), ImageForm::Base64, limits(1, 1, 0), &subject);
    assert_input(reward, &["`command` scores images of 1 or 3 channels, but the model makes 2"]);
}
