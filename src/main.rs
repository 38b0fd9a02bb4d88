//! `flowdppo-wgpu`: parse, log, run, and turn errors into exit codes.

use std::io::{ErrorKind, IsTerminal};
use std::process::ExitCode;

use clap::Parser;
use env_logger::{Builder, Env, Target};
use flowdppo_wgpu::cli::Cli;
use flowdppo_wgpu::run::progress::AboveBar;

/// Prints help, the version, or what is wrong with the command line.
fn print(message: &clap::Error) -> ExitCode {
    match message.print() {
        Err(cause) if cause.kind() != ErrorKind::BrokenPipe => {
            eprintln!("error: cannot write to standard output: {cause}");
            ExitCode::FAILURE
        }
        _ => ExitCode::from(u8::try_from(message.exit_code()).unwrap_or(2)),
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => return print(&message),
    };
    // https://no-color.org; and where TERM says nothing, nobody promises that colours are understood.
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let style = if std::io::stderr().is_terminal() && !is_plain { "always" } else { "never" };
    Builder::from_env(Env::default().default_filter_or(cli.log_filter()).default_write_style_or(style))
        .format_timestamp(None)
        .format_target(false)
        .target(Target::Pipe(Box::new(AboveBar)))
        .init();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
