//! The commands `dashboard` and `web`: they print their address and answer there. tests/dashboard.rs tests the answers of the
//! first.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use super::workplace::{Workplace, program};

/// Stops the server when the test ends, even if it fails.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_free_port_is_chosen_printed_and_answers() {
    let here = Workplace::new();
    here.run("train --config train.toml --out runs/first --set train.iterations=1").succeeds();
    let page = answer(&here.path(""), "dashboard --listen 127.0.0.1:0", "GET /");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("first"), "{page}");
}

/// A server that a command line starts, and the answer to a request.
fn answer(folder: &std::path::Path, arguments: &str, request: &str) -> String {
    let mut command = program(folder, arguments);
    let mut serving = Serving(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(serving.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap_or_else(|| panic!("{line}"));
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

#[test]
fn the_page_of_the_trainer_is_served_with_its_policies_and_nothing_else_is() {
    let here = Workplace::new();
    let folder = here.path("page");
    std::fs::create_dir(&folder).unwrap();
    let served = |request: &str| answer(&here.path(""), "web --folder page --listen 127.0.0.1:0", request);
    let message = here.run("web --folder page").refused();
    assert!(message.contains("page has no index.html: make the page with `make web`"), "{message}");
    for (name, text) in
        [("index.html", "<p>page"), ("flowdppo_bg.wasm", "wasm"), ("sandbox.html", "<p>sandbox"), (".env", "no")]
    {
        std::fs::write(folder.join(name), text).unwrap();
    }
    std::fs::write(here.path("secret.html"), "secret").unwrap();
    let page = served("GET /");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<p>page"), "{page}");
    assert!(page.contains("script-src 'self' 'wasm-unsafe-eval'"), "{page}");
    assert!(served("GET /flowdppo_bg.wasm").contains("application/wasm"));
    assert!(served("GET /sandbox.html").contains("sandbox allow-scripts; default-src 'none'"));
    for request in ["GET /.env", "GET /..%2Fsecret.html", "GET /../secret.html", "GET /none.html"] {
        let answer = served(request);
        assert!(answer.starts_with("HTTP/1.1 404"), "{request}: {answer}");
    }
    assert!(served("POST /").starts_with("HTTP/1.1 405"));
}
