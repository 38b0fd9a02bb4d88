//! Serves the trainer as a web page: the static files that `make web` makes.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path as Name, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{guarded, listen, serve};
use crate::error::{Error, Result};

/// What the page may do: run its own scripts and the compiled trainer, and load nothing from elsewhere.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' data:; \
                      connect-src 'self'; frame-src 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What a visitor's own reward may do: run, and nothing else.
const SANDBOX_POLICY: &str = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob:; \
                              worker-src blob:; frame-ancestors 'self'";

/// The file that runs a visitor's own reward.
const SANDBOX: &str = "sandbox.html";

/// A web page that is listening but does not answer yet.
#[derive(Debug)]
pub struct WebPage {
    listener: TcpListener,
    address: SocketAddr,
    site: Arc<Site>,
}

#[derive(Debug)]
struct Site {
    folder: PathBuf,
    /// Requests must name this machine.
    loopback: bool,
}

impl WebPage {
    /// Starts to listen, to serve the files of this folder.
    ///
    /// # Errors
    /// [`Error::Input`] if the folder is not that of the page, or the address is taken or not this machine's.
    pub fn open(folder: &Path, address: SocketAddr) -> Result<Self> {
        for file in ["index.html", "flowdppo_bg.wasm"] {
            if !folder.join(file).is_file() {
                return Err(Error::input(format!(
                    "{} has no {file}: make the page with `make web`, or name its folder with --folder",
                    folder.display()
                )));
            }
        }
        let (listener, address) = listen(address, "page")?;
        let site = Arc::new(Site { folder: folder.to_owned(), loopback: address.ip().is_loopback() });
        Ok(Self { listener, address, site })
    }

    /// The address on which it listens; for port 0, with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the process ends.
    ///
    /// # Errors
    /// [`Error::Failed`] if the operating system reports an error.
    pub fn serve(self) -> Result<()> {
        let router = Router::new()
            .route("/", get(async |State(site): State<Arc<Site>>| file(&site.folder, "index.html")))
            .route(
                "/{name}",
                get(async |State(site): State<Arc<Site>>, Name(name): Name<String>| file(&site.folder, &name)),
            )
            .fallback(async || StatusCode::NOT_FOUND)
            .layer(middleware::from_fn_with_state(self.site.clone(), guard))
            .with_state(self.site);
        serve(self.listener, router, "page")
    }
}

/// Rejects requests for other hosts, and says what a file may do.
async fn guard(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let policy = if request.uri().path().ends_with(SANDBOX) { SANDBOX_POLICY } else { POLICY };
    guarded("page", site.loopback, policy, request, next).await
}

/// A file of the folder itself, whose kinds are few.
fn file(folder: &Path, name: &str) -> Response {
    let kind = match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "wasm")) => "application/wasm",
        Some((_, "safetensors")) => "application/octet-stream",
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    // Only a name that is in the folder: nothing else that a system takes for a path.
    let is_there = |entry: std::fs::DirEntry| entry.file_name().to_str() == Some(name);
    let is_known = std::fs::read_dir(folder).is_ok_and(|all| all.flatten().any(is_there));
    if !is_known || name.starts_with('.') {
        return StatusCode::NOT_FOUND.into_response();
    }
    match std::fs::read(folder.join(name)) {
        Ok(bytes) => ([(header::CONTENT_TYPE, kind)], bytes).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}
