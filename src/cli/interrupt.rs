//! Ctrl-C, and the signals by which a launcher asks its processes to end.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ranks::Team;
use crate::run::progress::above_bar;

/// The flag, for a signal handler.
static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// A launcher that finds a rank dead ends the others by the same signal. What noticed the death says so first.
const GRACE: Duration = Duration::from_millis(500);

/// A flag that the first Ctrl-C sets: the work then ends after the current step or iteration and is saved. A second
/// Ctrl-C ends the program at once. Of several ranks, all end as soon as one is asked to, also by SIGUSR1, which launchers
/// pass on.
pub(super) fn stop_at_interrupt(team: &Team) -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let (is_many, leads) = (team.is_many(), team.leads());
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) && !is_many {
            crate::reward::end_programs();
            std::process::exit(130);
        }
        let text = match is_many {
            false => "\nfinishing the current work and saving it; press Ctrl-C again to stop immediately",
            true => "\nfinishing the current work and saving it, if the launcher waits for that",
        };
        if is_many {
            std::thread::sleep(GRACE);
        }
        if leads {
            let _ = above_bar(|| writeln!(std::io::stderr(), "{text}"));
        }
    })
    .map_err(|cause| Error::failed(format!("cannot listen for Ctrl-C: {cause}")))?;
    if is_many {
        listen_for_launcher(stop.clone());
    }
    Ok(stop)
}

/// Sets the flag at SIGUSR1.
fn listen_for_launcher(stop: Arc<AtomicBool>) {
    if STOP.set(stop).is_err() {
        return;
    }
    #[cfg(unix)]
    {
        use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

        extern "C" fn set(_: std::ffi::c_int) {
            if let Some(stop) = STOP.get() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        let action = SigAction::new(SigHandler::Handler(set), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler only stores into an atomic, which is safe at any moment.
        if let Err(cause) = unsafe { sigaction(Signal::SIGUSR1, &action) } {
            log::debug!("cannot handle SIGUSR1: {cause}");
        }
    }
}
