//! Faulty services: each leads to one clear message and never to a score.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use flowdppo_wgpu::reward::{Limits, Subject, http};
use flowdppo_wgpu::shape::ImageShape;
use serde_json::{Value, json};

use super::pictures::{assert_close, assert_failed, assert_input, limits, pictures};
use super::server::{good, nobody, redirect, serve, serve_halves};
use super::services::start;

/// The correct answer with a change.
fn changed(change: fn(&mut Value)) -> impl Fn(&Value) -> (u16, String) {
    move |body| {
        let mut answer = good(body);
        change(&mut answer);
        (200, answer.to_string())
    }
}

#[test]
fn invalid_answers() {
    type Case = (fn(&mut Value), &'static [&'static str]);
    let cases: [Case; 8] = [
        (|it| *it = json!({"results": [{}]}), &["/score returned 1 results for 3 samples"]),
        (|it| it["errors"] = json!([{}]), &["/score returned 1 errors for 3 samples"]),
        (|it| *it = json!({"detail": "x"}), &["/score answered `{\"detail\":\"x\"}`: missing field `results`"]),
        (|it| it["results"][1] = json!({}), &["returned a bad score for sample 1: `ocr` is missing"]),
        (|it| it["results"][2]["ocr"] = json!(0.5), &["bad score for sample 2: `ocr` is 0.5, not an object of scores"]),
        (
            |it| it["results"][0]["ocr"]["ocr"] = Value::Null,
            &["bad score for sample 0: `ocr` is null, but a score must be"],
        ),
        (
            |it| it["results"][0]["ocr"]["ocr"] = json!("0.5"),
            &["`ocr` is \"0.5\", but a score must be a finite number"],
        ),
        (
            |it| it["results"][0]["ocr"]["more"] = json!(1),
            &["the scores are ocr.more, ocr.ocr, but at the start they were ocr"],
        ),
    ];
    let pictures = pictures(3);
    for (change, needles) in cases {
        let server = serve(changed(change));
        let mut reward = start(&server.url, &["ocr"], limits(3, 1, 2), &pictures).unwrap();
        assert_failed(pictures.score(&mut reward), needles);
        assert_eq!(server.scored(), 1, "retrying does not help with {needles:?}");
    }
}

#[test]
fn an_error_of_the_service_may_be_temporary() {
    let pictures = pictures(3);
    for failures in [1, 2] {
        let asked = AtomicUsize::new(0);
        let server = serve(move |body| {
            let mut answer = good(body);
            if asked.fetch_add(1, Ordering::SeqCst) < failures {
                answer["results"][1] = json!({});
                answer["errors"][1] = json!({"ocr": "RayActorError('the actor died')"});
            }
            (200, answer.to_string())
        });
        let mut reward = start(&server.url, &["ocr"], limits(3, 1, 1), &pictures).unwrap();
        match failures {
            1 => assert_close(&pictures.score(&mut reward).unwrap()[0], &pictures.brightness()),
            _ => assert_failed(
                pictures.score(&mut reward),
                &["could not score sample 1 with `ocr`: RayActorError('the actor died') (attempt 2 of 2)"],
            ),
        }
        assert_eq!(server.scored(), 2);
    }
}

#[test]
fn invalid_bodies_and_status_codes() {
    let cases: [(u16, &'static str, usize, &[&str]); 7] = [
        (200, "{\"results\": [{\"ocr\": {\"ocr\": NaN}}]}", 1, &["JSON has no NaN and no Infinity"]),
        (200, "<html>Welcome</html>", 1, &["/score answered `<html>Welcome</html>`: expected value"]),
        (200, "", 1, &["/score answered an empty body: EOF while parsing"]),
        (302, "elsewhere", 1, &["/score answered 302 Found: elsewhere"]),
        (404, " ", 1, &["/score answered 404 Not Found"]),
        (400, "{\"detail\":\"no such reward\"}", 1, &["answered 400 Bad Request: {\"detail\":\"no such reward\"}"]),
        (500, "out of memory", 2, &["answered 500 Internal Server Error: out of memory (attempt 2 of 2)"]),
    ];
    let pictures = pictures(1);
    for (status, body, attempts, needles) in cases {
        let server = serve(move |_| (status, body.to_owned()));
        let mut reward = start(&server.url, &["ocr"], limits(1, 1, 1), &pictures).unwrap();
        assert_failed(pictures.score(&mut reward), needles);
        assert_eq!(server.scored(), attempts, "{needles:?}");
    }
}

#[test]
fn a_slow_service_is_abandoned() {
    let pictures = pictures(1);
    let server = serve(|body| {
        thread::sleep(Duration::from_secs(12));
        (200, good(body).to_string())
    });
    let limits = Limits { timeout: Duration::from_secs(4), ..limits(1, 1, 0) };
    let mut reward = start(&server.url, &["ocr"], limits, &pictures).unwrap();
    assert_failed(pictures.score(&mut reward), &["/score did not answer within 4 s (`timeout_seconds`)"]);
}

#[test]
fn a_service_that_dies_during_an_answer() {
    let (pictures, server) = (pictures(2), serve_halves());
    let mut reward = start(&server.url, &["ocr"], limits(2, 1, 1), &pictures).unwrap();
    assert_failed(pictures.score(&mut reward), &["/score did not answer: ", "(attempt 2 of 2)"]);
    assert_eq!(server.scored(), 2);
}

#[test]
fn a_fault_before_the_first_sample_is_bad_input() {
    let pictures = pictures(1);
    let start = |url: &str, rewards: &[&str], retries| start(url, rewards, limits(1, 1, retries), &pictures);
    let gone = nobody();
    assert_input(start(&gone, &["ocr"], 0), &[&gone, "/health did not answer: ", "is the service running?"]);
    assert_input(start(&gone, &["ocr"], 1), &["(attempt 2 of 2)"]);
    let server = serve(|body| (200, good(body).to_string()));
    assert_input(start(&server.url, &["orc"], 0), &[&server.url, "has no reward `orc`; did you mean `ocr`?"]);
    assert_input(start(&server.url, &["aesthetics"], 0), &["no reward `aesthetics`; it has clip, ocr, unified"]);
    assert_input(start(&format!("{}/v2", server.url), &["ocr"], 0), &["/v2/health answered 404 Not Found"]);
    let cases = [
        ("https://127.0.0.1:1", "this program has no TLS; use http://, and across networks a tunnel"),
        ("127.0.0.1:8080", "it should look like \"http://127.0.0.1:8080\""),
        ("localhost", "it should look like \"http://127.0.0.1:8080\""),
        ("ftp://localhost", "it should look like \"http://127.0.0.1:8080\""),
        ("http://a b", "it should look like \"http://127.0.0.1:8080\""),
        ("http://localhost/?x=1", "it has a query or a fragment"),
        ("http://localhost/#x", "it has a query or a fragment"),
        ("http://localhost:99999", "its port must be a number from 1 to 65535"),
        ("http://localhost:0/v1", "its port must be a number from 1 to 65535"),
        ("http://[::1]:70000", "its port must be a number from 1 to 65535"),
        ("", "it should look like"),
    ];
    for (url, needle) in cases {
        assert_input(start(url, &["ocr"], 0), &["the reward `http` cannot use `url` = ", needle]);
    }
    for url in ["http://me:secret@localhost", "https://me:secret@localhost", "http://me:se cret@localhost"] {
        let message = start(url, &["ocr"], 0).unwrap_err().to_string();
        assert!(message.contains("`url`: it has an @") && !message.contains("cret"), "{message}");
    }
    let moved = redirect("http://127.0.0.1:9/v2");
    assert_input(start(&moved, &["ocr"], 0), &["/health redirects to http://127.0.0.1:9/v2: set `url` to that"]);
    let subject = Subject { class_names: &[], shape: ImageShape::square(2, 1), descriptions: &[] };
    let reward = http(&server.url, &["ocr".to_owned()], limits(1, 1, 0), &subject);
    assert_input(reward, &["`http` scores images of 1 or 3 channels, but the model makes 2"]);
}
