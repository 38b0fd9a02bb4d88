//! `web`: the trainer as a page in the browser.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{Global, say};
use crate::dashboard::WebPage;
use crate::error::{Error, Result};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The folder of the page, which `make web` makes; any web server can serve it, too
    #[arg(long, value_name = "DIR", default_value = "target/page")]
    folder: PathBuf,
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8676")]
    listen: SocketAddr,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let page = WebPage::open(&arguments.folder, arguments.listen)?;
    if !arguments.listen.ip().is_loopback() {
        log::warn!("browsers offer WebGPU only to pages from https or from this computer, so others need https");
    }
    ctrlc::set_handler(|| std::process::exit(0))
        .map_err(|cause| Error::failed(format!("cannot listen for Ctrl-C: {cause}")))?;
    say(format_args!("http://{}", page.address()));
    global.announce("press Ctrl-C to stop");
    page.serve()
}
