//! Web servers: the trainer as a page ([`WebPage`]), and runs in the browser: an index with their curves side by side,
//! and a page for each run, which updates live.
//!
//! The server of runs is read-only, answers only GET and HEAD, and serves only runs that it has found itself ([`library`]).
//! By default it listens only on the loopback interface. There it also rejects requests under any other name than
//! this machine's, so that no other web site can read along (DNS rebinding).

mod library;
mod pages;
mod web_page;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;

use crate::error::{Error, Result};
use crate::report::{SCRIPT, STYLE};

pub use web_page::WebPage;

/// A dashboard that is listening but does not answer yet.
#[derive(Debug)]
pub struct Dashboard {
    listener: TcpListener,
    address: SocketAddr,
    site: Arc<Site>,
}

#[derive(Debug)]
struct Site {
    /// Runs, or folders of runs.
    places: Vec<PathBuf>,
    /// Requests must name this machine.
    loopback: bool,
}

impl Dashboard {
    /// Starts to listen. Runs are searched in `places` at each request.
    ///
    /// # Errors
    /// [`Error::Input`] if the address is taken or not this machine's, or a place does not exist.
    pub fn open(places: &[PathBuf], address: SocketAddr) -> Result<Self> {
        // The default folder is created by the first run.
        if let Some(missing) = places.iter().find(|place| !place.exists() && **place != *std::path::Path::new("runs")) {
            return Err(Error::input(format!(
                "{} does not exist: give the directories of runs, or one that contains them",
                missing.display()
            )));
        }
        let (listener, address) = listen(address, "dashboard")?;
        let site = Arc::new(Site { places: places.to_vec(), loopback: address.ip().is_loopback() });
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
        serve(self.listener, router(self.site), "dashboard")
    }
}

/// Listens on an address; returns it with the port that was chosen for port 0.
fn listen(address: SocketAddr, what: &str) -> Result<(TcpListener, SocketAddr)> {
    let listen = || -> std::io::Result<(TcpListener, SocketAddr)> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    listen().map_err(|cause| {
        Error::input(format!(
            "cannot listen on {address}: {cause}; another {what} may be running there, so choose another port, as with \
             --listen 127.0.0.1:0"
        ))
    })
}

/// Answers until the process ends.
fn serve(listener: TcpListener, router: Router, what: &str) -> Result<()> {
    let failed = |cause: std::io::Error| Error::failed(format!("the {what} cannot continue: {cause}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        axum::serve(listener, router).await.map_err(failed)
    })
}

fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/style.css", get(async || text("text/css; charset=utf-8", STYLE)))
        .route("/script.js", get(async || text("text/javascript; charset=utf-8", SCRIPT)))
        .route("/runs/{run}", get(async |uri: Uri| Redirect::permanent(&format!("{}/", uri.path()))))
        .route("/runs/{run}/", get(run))
        .route("/runs/{run}/{*file}", get(file))
        .fallback(async || StatusCode::NOT_FOUND)
        .layer(middleware::from_fn_with_state(site.clone(), guard))
        .with_state(site)
}

/// Rejects requests for other hosts, and tells browsers not to load anything from elsewhere.
async fn guard(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; \
                  form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    guarded("dashboard", site.loopback, policy, request, next).await
}

/// Rejects what does more than read, and with `loopback` requests for other hosts than this machine; `policy` says what the
/// answer, of the server that messages call `what`, may do.
async fn guarded(what: &str, loopback: bool, policy: &'static str, request: Request, next: Next) -> Response {
    let mut response = if ![Method::GET, Method::HEAD].contains(request.method()) {
        (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")]).into_response()
    } else if loopback && !is_for_this_machine(&request) {
        (StatusCode::FORBIDDEN, format!("open the {what} as localhost or 127.0.0.1")).into_response()
    } else {
        next.run(request).await
    };
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether a request names the loopback interface and nothing else: by exactly one header `Host`, and by the host of its
/// target if it has one.
fn is_for_this_machine(request: &Request) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let target = request.uri().authority().is_none_or(|target| names_this_machine(target.as_str()));
    target && host.to_str().is_ok_and(names_this_machine)
}

/// Whether a host is a name of the loopback interface, with any port.
fn names_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn text(kind: &'static str, content: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], content)
}

async fn index(State(site): State<Arc<Site>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    answer(headers, move || pages::index(&site.places, query.as_deref().unwrap_or_default())).await
}

async fn run(State(site): State<Arc<Site>>, Path(run): Path<String>, headers: HeaderMap) -> Response {
    answer(headers, move || pages::run(&site.places, &run)).await
}

async fn file(
    State(site): State<Arc<Site>>,
    Path((run, file)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    answer(headers, move || pages::file(&site.places, &run, &file)).await
}

/// Reads and draws outside the server's event loop, and sends only what the browser does not have.
async fn answer(headers: HeaderMap, make: impl FnOnce() -> Option<pages::Prepared> + Send + 'static) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    let made = tokio::task::spawn_blocking(move || {
        let prepared = make()?;
        let tag = prepared.tag();
        // Only changed content is drawn.
        let content = (known.as_deref() != Some(&tag)).then(|| prepared.content());
        Some((prepared.kind, tag, content))
    });
    match made.await {
        Ok(Some((kind, tag, Some(Some(content))))) => {
            ([(header::CONTENT_TYPE, kind), (header::ETAG, &tag)], content).into_response()
        }
        Ok(Some((_, tag, None))) => (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response(),
        // A run may be removed at any moment.
        Ok(None | Some((_, _, Some(None)))) => StatusCode::NOT_FOUND.into_response(),
        Err(cause) => {
            log::error!("cannot make a page: {cause}");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}
