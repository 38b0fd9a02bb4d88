//! The command `dashboard`: it prints its address and answers there. tests/dashboard.rs tests the answers.

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
    let mut command = program(&here.path(""), "dashboard --listen 127.0.0.1:0");
    let mut serving = Serving(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(serving.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap_or_else(|| panic!("{line}"));
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("first"), "{page}");
}
