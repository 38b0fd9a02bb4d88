//! `dashboard`: runs in the browser, live.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{Global, say};
use crate::dashboard::Dashboard;
use crate::error::{Error, Result};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Directories of runs, or folders that contain them
    #[arg(value_name = "RUNS", default_value = "runs")]
    runs: Vec<PathBuf>,
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8675")]
    listen: SocketAddr,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let dashboard = Dashboard::open(&arguments.runs, arguments.listen)?;
    if !arguments.listen.ip().is_loopback() {
        log::warn!("{} is open to the network: anyone who can reach it sees these runs", arguments.listen);
    }
    // A browser keeps polling a run that is being written: do not warn each time that its last line is truncated.
    log::set_max_level(log::LevelFilter::Error);
    ctrlc::set_handler(|| std::process::exit(0))
        .map_err(|cause| Error::failed(format!("cannot listen for Ctrl-C: {cause}")))?;
    say(format_args!("http://{}", dashboard.address()));
    global.announce("press Ctrl-C to stop");
    dashboard.serve()
}
