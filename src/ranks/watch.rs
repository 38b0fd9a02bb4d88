//! Ends this process if another rank on the same machine has died. Launchers do so, too, but not all of them, and none says
//! how to continue.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often the other processes are looked for.
const PERIOD: Duration = Duration::from_millis(200);

/// The watch over the other ranks of this machine; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    is_over: Arc<AtomicBool>,
    remedy: Arc<Mutex<String>>,
}

impl Watch {
    /// Watches ranks, given with their processes. The first of the living tells the user of a death.
    pub fn over(others: Vec<(usize, u32)>, own_rank: usize) -> Self {
        let watch = Self { is_over: Arc::default(), remedy: Arc::default() };
        // Where processes do not see each other, as in separate containers, nothing can be said.
        if others.is_empty() || !others.iter().all(|(_, process)| is_alive(*process)) {
            return watch;
        }
        let (is_over, remedy) = (watch.is_over.clone(), watch.remedy.clone());
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(PERIOD);
                let dead = others.iter().find(|(_, process)| !is_alive(*process));
                if let Some((rank, process)) = dead.filter(|_| !is_over.load(Ordering::Relaxed)) {
                    let living = others.iter().filter(|(_, process)| is_alive(*process)).map(|(rank, _)| *rank);
                    if living.min().is_none_or(|rank| rank > own_rank) {
                        let remedy = remedy.lock().unwrap_or_else(PoisonError::into_inner);
                        // Whoever reads standard error may have gone, too.
                        let message =
                            format!("error: rank {rank} (process {process}) has died, so the others end, too{remedy}");
                        let _ = writeln!(std::io::stderr(), "{message}");
                    }
                    end();
                }
            }
        });
        watch
    }

    pub fn set_remedy(&self, remedy: String) {
        *self.remedy.lock().unwrap_or_else(PoisonError::into_inner) = remedy;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Ends this process at once: whatever waits for the dead would never return.
fn end() -> ! {
    #[cfg(unix)]
    // SAFETY: it may be called at any moment; what is written is complete or under a temporary name.
    unsafe {
        nix::libc::_exit(1)
    }
    #[cfg(not(unix))]
    std::process::exit(1)
}

/// Whether there is such a process.
fn is_alive(process: u32) -> bool {
    #[cfg(unix)]
    {
        let process = nix::unistd::Pid::from_raw(process.cast_signed());
        nix::sys::signal::kill(process, None) != Err(nix::errno::Errno::ESRCH)
    }
    #[cfg(not(unix))]
    {
        let _ = process;
        true
    }
}
