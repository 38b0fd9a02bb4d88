//! The dashboard as a browser, or an attacker, would see it: a real server on a real socket.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flowdppo_wgpu::dashboard::Dashboard;
use tempfile::TempDir;

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Sends a request unchanged, so that no client normalises its path.
fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut stream = TcpStream::connect(address).expect("the dashboard listens");
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("an answer has a status");
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path, &[])
}

/// Serves a folder of runs until the test process ends.
fn serve(runs: &Path) -> SocketAddr {
    let dashboard = Dashboard::open(&[runs.to_owned()], "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = dashboard.address();
    assert_ne!(address.port(), 0);
    std::thread::spawn(move || dashboard.serve());
    address
}

fn line(iteration: u64) -> String {
    format!(
        "{{\"iteration\":{iteration},\"reward_mean\":0.5,\"eval/reward_mean\":0.{iteration},\"trained_steps\":[1],\
         \"kl_by_step\":[0.001],\"seconds_rollout\":1.0,\"seconds_reward\":0.1,\"seconds_update\":1.0}}\n"
    )
}

fn run(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.join("samples")).unwrap();
    fs::write(path.join("config.toml"), format!("[run]\nname = \"{name}\"\n[train]\niterations = 9\n")).unwrap();
    fs::write(path.join("metrics.jsonl"), line(1) + &line(2)).unwrap();
    image::RgbImage::new(3, 2).save(path.join("samples/000002.png")).unwrap();
    path
}

/// A folder with a run `first`, and a private file next to it.
fn runs() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let runs = root.path().join("runs");
    run(&runs, "first");
    fs::write(root.path().join("secret.txt"), "the secret").unwrap();
    fs::write(runs.join("first/private.txt"), "the secret").unwrap();
    (root, runs)
}

#[test]
fn the_index_links_to_runs_and_their_files() {
    let (_root, runs) = runs();
    let address = serve(&runs);
    let index = get(address, "/");
    assert_eq!((index.status, index.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(index.body.contains("href=\"/runs/first/\"") && index.body.contains("Reward on fixed seeds"));
    // A run that starts later is also found, and can be chosen for the comparison.
    run(&runs, "second");
    let both = get(address, "/?run=first&run=second");
    assert_eq!(both.body.matches(" checked").count(), 2);
    let one = get(address, "/?run=second");
    assert_eq!(one.body.matches(" checked").count(), 1);
    let page = get(address, "/runs/first/");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("iteration 2 of 9") && page.body.contains("src=\"samples/000002.png\""));
    for (path, kind, words) in [
        ("/runs/first/config.toml", "text/plain; charset=utf-8", "[run]"),
        ("/runs/first/samples/000002.png", "image/png", "PNG"),
        ("/style.css", "text/css; charset=utf-8", "--card"),
        ("/script.js", "text/javascript; charset=utf-8", "fetch"),
    ] {
        let answer = get(address, path);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{path}");
        assert!(answer.body.contains(words), "{path}");
    }
    let typed = get(address, "/runs/first");
    assert_eq!((typed.status, typed.header("location")), (308, Some("/runs/first/")));
    let head = ask(address, "HEAD", "/runs/first/", &[]);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[test]
fn a_page_is_sent_again_only_when_the_run_has_changed() {
    let (_root, runs) = runs();
    let address = serve(&runs);
    for path in ["/", "/runs/first/"] {
        let first = get(address, path);
        let tag = first.header("etag").expect("a page has a tag").to_owned();
        let again = ask(address, "GET", path, &[("If-None-Match", &tag)]);
        assert_eq!((again.status, again.body.as_str(), again.header("etag")), (304, "", Some(tag.as_str())), "{path}");
        let metrics = runs.join("first/metrics.jsonl");
        let grown = fs::read_to_string(&metrics).unwrap() + &line(3);
        // The coarse clocks of file systems must not hide the change.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&metrics, grown).unwrap();
        let moved = ask(address, "GET", path, &[("If-None-Match", &tag)]);
        assert_eq!(moved.status, 200, "{path}");
        assert!(moved.body.contains("3 of 9"), "{path}");
    }
}

#[test]
fn only_files_that_pages_link_to_are_served() {
    let (root, runs) = runs();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(root.path(), runs.join("out")).unwrap();
        std::os::unix::fs::symlink(root.path().join("secret.txt"), runs.join("first/samples/000003.png")).unwrap();
        std::os::unix::fs::symlink(root.path().join("secret.txt"), runs.join("first/failed.txt")).unwrap();
    }
    #[cfg(unix)]
    for name in ["metrics.jsonl", "warnings.jsonl", "device.json", "samples", "config.toml"] {
        // A run in which one entry is a link: lines that would be shown, and pictures.
        let (linked, outside) = (run(&runs, &format!("linked-{name}")), root.path().join(name));
        let text = match name {
            "device.json" => r#"{"name": "the secret", "backend": "", "driver": ""}"#,
            "config.toml" => "# the secret",
            _ => r#"{"iteration": 7, "message": "the secret"}"#,
        };
        if name == "samples" { fs::rename(linked.join(name), &outside) } else { fs::write(&outside, text) }.unwrap();
        fs::remove_file(linked.join(name)).ok();
        std::os::unix::fs::symlink(&outside, linked.join(name)).unwrap();
    }
    let address = serve(&runs);
    #[cfg(unix)]
    {
        assert_eq!(get(address, "/runs/linked-config.toml/").status, 404);
        assert_eq!(get(address, "/runs/linked-samples/samples/000002.png").status, 404);
        for name in ["metrics.jsonl", "warnings.jsonl", "device.json", "samples"] {
            let page = get(address, &format!("/runs/linked-{name}/"));
            assert_eq!(page.status, 200, "{name}");
            assert!(!page.body.contains("the secret") && !page.body.contains("iteration 7 of"), "{name}");
            assert_eq!(page.body.contains("000002.png"), name != "samples", "{name}");
        }
    }
    let secret = root.path().join("secret.txt").display().to_string();
    let encoded = secret.replace('/', "%2f");
    for path in [
        "/secret.txt",
        "/../secret.txt",
        "/runs/../secret.txt",
        "/runs/first/../../secret.txt",
        "/runs/first/%2e%2e/%2e%2e/secret.txt",
        "/runs/first/..%2f..%2fsecret.txt",
        "/runs/first/..\\..\\secret.txt",
        "/runs/..%2f/secret.txt",
        "/runs/%2e%2e/secret.txt",
        "/runs/../",
        "/runs/%2e/",
        "/runs/%00/",
        "/runs/%ff/",
        "/runs/out/secret.txt",
        "/runs/out/",
        "/runs/first/private.txt",
        "/runs/first/samples/",
        "/runs/first/samples/000003.png",
        "/runs/first/failed.txt",
        "/runs/first/samples/../config.toml",
        &format!("/runs/first/{secret}"),
        &format!("/runs/first/{encoded}"),
        &format!("/runs/{encoded}/"),
        "/nowhere",
    ] {
        let answer = get(address, path);
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
        assert!(!answer.body.contains("the secret"), "{path}");
    }
    let page = get(address, "/runs/first/");
    assert!(page.status == 200 && !page.body.contains("000003.png"), "{}", page.body);
}

#[test]
fn only_this_machine_may_connect_and_only_read() {
    let (_root, runs) = runs();
    let address = serve(&runs);
    let port = address.port();
    for (host, status) in [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        ("LOCALHOST".to_owned(), 200),
        (format!("[::1]:{port}"), 200),
        (format!("evil.example:{port}"), 403),
        ("localhost.evil.example".to_owned(), 403),
        ("127.0.0.1.evil.example".to_owned(), 403),
        ("192.168.0.1".to_owned(), 403),
        (String::new(), 403),
    ] {
        assert_eq!(ask(address, "GET", "/", &[("Host", &host)]).status, status, "{host:?}");
    }
    // A browser could be tricked into sending a second header.
    let (ours, theirs) = (address.to_string(), "evil.example");
    for hosts in [[ours.as_str(), theirs], [theirs, ours.as_str()]] {
        assert_ne!(ask(address, "GET", "/", &hosts.map(|host| ("Host", host))).status, 200, "{hosts:?}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        for path in ["/", "/runs/first/", "/nowhere"] {
            let answer = ask(address, method, path, &[]);
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method} {path}");
        }
    }
    for path in ["/", "/runs/first/samples/000002.png", "/nowhere"] {
        let answer = get(address, path);
        assert!(answer.header("content-security-policy").unwrap().starts_with("default-src 'none'"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
    }
}

#[test]
fn a_run_that_is_being_written_or_removed_never_breaks_a_page() {
    let (_root, runs) = runs();
    let address = serve(&runs);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let bytes = (line(1) + &line(2) + &line(3)).into_bytes();
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let path = run(&runs, "busy");
                for cut in (0..bytes.len()).step_by(17) {
                    fs::write(path.join("metrics.jsonl"), &bytes[..cut]).unwrap();
                }
                fs::write(path.join("config.toml"), "[run").unwrap();
                fs::write(path.join("samples/000004.png"), b"torn").unwrap();
                fs::remove_dir_all(&path).unwrap();
            }
            round
        }
    });
    let mut found = 0;
    for _ in 0..150 {
        let page = get(address, "/runs/busy/").status;
        assert!([200, 404].contains(&page), "{page}");
        found += u32::from(page == 200);
        assert_eq!(get(address, "/").status, 200);
        let picture = get(address, "/runs/busy/samples/000002.png").status;
        assert!([200, 404].contains(&picture), "{picture}");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writer.join().unwrap() > 0);
    assert!(found > 0, "the run was never there");
}

#[test]
fn a_port_in_use_and_a_missing_folder_are_explained() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let root = tempfile::tempdir().unwrap();
    let error = Dashboard::open(&[root.path().to_owned()], taken.local_addr().unwrap()).unwrap_err();
    assert!(error.to_string().contains("choose another port"), "{error}");
    assert_eq!(error.exit_code(), 2);
    let error = Dashboard::open(&[root.path().join("nowhere")], "127.0.0.1:0".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("nowhere does not exist"), "{error}");
}
