//! `flowdppo-wgpu`: parses the command line, sets up the log, runs the command, and turns errors into exit codes.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use env_logger::{Builder, Env, Target};
use flowdppo_wgpu::Error;
use flowdppo_wgpu::cli::Cli;
use flowdppo_wgpu::run::progress::AboveBar;
use flowdppo_wgpu::text::printable;

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
    #[cfg(unix)]
    report_files_that_are_too_large();
    #[cfg(target_os = "linux")]
    explain_bus_errors();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => return print(&message),
    };
    // https://no-color.org; without TERM, colours may not be supported.
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let style = if std::io::stderr().is_terminal() && !is_plain { "always" } else { "never" };
    Builder::from_env(Env::default().default_filter_or(cli.log_filter()).default_write_style_or(style))
        .format(|buffer, record| {
            let style = buffer.default_level_style(record.level());
            // Messages may quote programs, services and files, which must not control the terminal.
            let text = record.args().to_string();
            writeln!(buffer, "[{style}{:<5}{style:#}] {}", record.level(), printable(&text))
        })
        .target(Target::Pipe(Box::new(AboveBar)))
        .init();
    // If standard error is closed or full, there is nowhere to report an error; that must not cause a panic.
    let tell = |error: &Error| drop(writeln!(AboveBar, "error: {}", printable(&error.to_string())));
    match cli.run(tell) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(error.exit_code()),
    }
}

/// Makes a write beyond the limit of `ulimit -f` an error like that of a full disk; otherwise SIGXFSZ would kill the
/// process silently. Unlike `SIG_IGN`, a handler is not inherited by reward programs.
#[cfg(unix)]
fn report_files_that_are_too_large() {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    extern "C" fn ignore(_: std::ffi::c_int) {}
    let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing, so it is safe at any moment.
    if let Err(cause) = unsafe { sigaction(Signal::SIGXFSZ, &action) } {
        log::debug!("cannot handle SIGXFSZ: {cause}");
    }
}

/// Makes the end by SIGBUS one with a sentence. Software drivers keep their memory in a file without a name, and where a
/// limit of `ulimit -f` lets that file not grow, they use memory that is not there.
#[cfg(target_os = "linux")]
fn explain_bus_errors() {
    use nix::libc::{_exit, STDERR_FILENO, c_int, write};
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    extern "C" fn explain(_: c_int) {
        const MESSAGE: &[u8] =
            b"error: memory that is part of a file is not there (SIGBUS): a limit on the size of files \
            (ulimit -f) is below what a software driver needs for its memory, or a file was cut off while it was read; \
            what was saved is intact\n";
        // SAFETY: both may be called in a handler, and the message is as long as it says. With standard error closed or
        // full there is nobody to tell.
        unsafe {
            let _ = write(STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
            _exit(1)
        }
    }
    let action = SigAction::new(SigHandler::Handler(explain), SaFlags::SA_RESETHAND, SigSet::empty());
    // SAFETY: the handler calls nothing that may not be called at any moment.
    if let Err(cause) = unsafe { sigaction(Signal::SIGBUS, &action) } {
        log::debug!("SIGBUS stays as it is: {cause}");
    }
}
