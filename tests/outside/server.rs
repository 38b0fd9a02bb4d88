//! Services on this machine: a real one, and one that closes the connection during an answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

/// A running service, and the bodies that `/score` received.
pub struct Server {
    pub url: String,
    pub posted: Arc<Mutex<Vec<Value>>>,
}

impl Server {
    /// The number of requests for scores of samples, without the request for names at the start.
    pub fn scored(&self) -> usize {
        self.posted.lock().unwrap().iter().filter(|body| !is_start(body)).count()
    }
}

fn is_start(body: &Value) -> bool {
    body["requests"][0]["metadata"]["purpose"] == "start"
}

fn bind() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// An address where nothing answers.
pub fn nobody() -> String {
    bind().1
}

/// The answer of every service to `GET`.
fn get(path: &str) -> (u16, String) {
    match path {
        "/health" => (200, json!({"status": "ok", "rewards": {}}).to_string()),
        "/rewards" => (200, json!({"rewards": ["clip", "ocr", "unified"]}).to_string()),
        _ => (404, json!({"detail": "Not Found"}).to_string()),
    }
}

/// A service whose answers to `/score` come from a function, from the first sample on.
pub fn serve(score: impl Fn(&Value) -> (u16, String) + Send + Sync + 'static) -> Server {
    serve_under("", score)
}

/// The same under a path prefix.
pub fn serve_under(root: &'static str, score: impl Fn(&Value) -> (u16, String) + Send + Sync + 'static) -> Server {
    let (listener, url) = bind();
    listener.set_nonblocking(true).unwrap();
    let (posted, score) = (Arc::new(Mutex::new(Vec::new())), Arc::new(score));
    let kept = Arc::clone(&posted);
    let answer = move |uri: Uri, body: Bytes| {
        let (posted, score) = (Arc::clone(&kept), Arc::clone(&score));
        let work = move || {
            let Some(path) = uri.path().strip_prefix(root) else { return get("") };
            if path != "/score" {
                return get(path);
            }
            let body: Value = serde_json::from_slice(&body).unwrap();
            let answer = if is_start(&body) { (200, good(&body).to_string()) } else { score(&body) };
            posted.lock().unwrap().push(body);
            answer
        };
        async move {
            let (status, body) = tokio::task::spawn_blocking(work).await.unwrap();
            (StatusCode::from_u16(status).unwrap(), body)
        }
    };
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, Router::new().fallback(answer)).await.unwrap();
        });
    });
    Server { url: format!("{url}{root}"), posted }
}

/// The address of a service that has moved to another.
pub fn redirect(to: &'static str) -> String {
    let (listener, url) = bind();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            let path = request.split(' ').nth(1).unwrap();
            let head = format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}{path}\r\n");
            stream.write_all(format!("{head}Connection: close\r\nContent-Length: 0\r\n\r\n").as_bytes()).unwrap();
        }
    });
    url
}

/// A service that dies during its first answer to samples, and during every later one.
pub fn serve_halves() -> Server {
    let (listener, url) = bind();
    let posted = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&posted);
    thread::spawn(move || {
        for stream in listener.incoming() {
            answer_half(stream.unwrap(), &kept);
        }
    });
    Server { url, posted }
}

fn answer_half(stream: TcpStream, posted: &Mutex<Vec<Value>>) {
    let mut reader = BufReader::new(&stream);
    let (mut request, mut length) = (String::new(), 0);
    reader.read_line(&mut request).unwrap();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let header = header.trim().to_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let (answer, claimed) = if request.starts_with("POST") {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let answer = good(&body).to_string();
        let claimed = answer.len() + if is_start(&body) { 0 } else { 100 };
        posted.lock().unwrap().push(body);
        (answer, claimed)
    } else {
        let answer = get(request.split(' ').nth(1).unwrap()).1;
        (answer.clone(), answer.len())
    };
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {claimed}\r\n\r\n");
    (&stream).write_all(format!("{head}{answer}").as_bytes()).unwrap();
}

/// The correct answer: `ocr` and `clip` are the brightness of a picture, 0 to 1, and `unified` has two scores.
pub fn good(body: &Value) -> Value {
    let result = |request: &Value| {
        let png = BASE64.decode(request["history"][0]["image_b64"].as_str().unwrap()).unwrap();
        let bytes = image::load_from_memory(&png).unwrap().into_luma8().into_raw();
        let brightness = bytes.iter().map(|byte| f64::from(*byte)).sum::<f64>() / bytes.len() as f64 / 255.0;
        let label = request["metadata"]["label"].as_f64().unwrap();
        let scores = |reward: &Value| match reward.as_str().unwrap() {
            "unified" => json!({"style": label, "alignment": -label}),
            single => json!({single: brightness}),
        };
        let rewards = request["required_rewards"].as_array().unwrap();
        Value::Object(rewards.iter().map(|reward| (reward.as_str().unwrap().to_owned(), scores(reward))).collect())
    };
    let requests = body["requests"].as_array().unwrap();
    let errors = vec![json!({}); requests.len()];
    json!({"results": requests.iter().map(result).collect::<Vec<_>>(), "errors": errors})
}
