//! Progress for a user: a bar on a terminal, plain lines elsewhere, nothing with `-q`.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ranks::rank_log;
use crate::text::printable;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, WeakProgressBar};

/// How much to print (`-q`, nothing, `-v`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verbosity {
    /// Only errors.
    Quiet,
    /// A bar, or a line now and then.
    #[default]
    Normal,
    /// Without a terminal, a line for every update.
    Verbose,
}

/// Without a terminal: how long to be silent between two lines.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// The bar on the terminal, as long as there is one.
static BAR: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

/// Runs `write`, which writes to standard error, with the bar hidden, so that their output does not mix.
pub fn above_bar<T>(write: impl FnOnce() -> T) -> T {
    let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(WeakProgressBar::upgrade);
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Standard error above the bar, for the log; of a rank that does not talk to the user, its file.
#[derive(Debug)]
pub struct AboveBar;

impl Write for AboveBar {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if rank_log::take(bytes) {
            return Ok(bytes.len());
        }
        above_bar(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// The progress of one piece of work, shown on standard error.
pub struct Progress(Reporter);

enum Reporter {
    Silent,
    Bar(ProgressBar),
    Lines(Lines),
}

impl Progress {
    /// Starts work of `total` steps, named `label` ("training").
    pub fn new(label: impl Into<Cow<'static, str>>, total: u64, verbosity: Verbosity) -> Self {
        let label = label.into();
        Self(match verbosity {
            Verbosity::Quiet => Reporter::Silent,
            _ if rank_log::is_open() && std::io::stderr().is_terminal() => {
                Reporter::Bar(bar(label, total, ProgressDrawTarget::stderr()))
            }
            Verbosity::Normal => Reporter::Lines(Lines::new(label, total, LINE_INTERVAL)),
            Verbosity::Verbose => Reporter::Lines(Lines::new(label, total, Duration::ZERO)),
        })
    }

    /// Says that `position` steps were done before (a resumed run), so that the estimate of the time
    /// left counts only the work of this process.
    #[must_use]
    pub fn starting_at(mut self, position: u64) -> Self {
        match &mut self.0 {
            Reporter::Silent => {}
            Reporter::Bar(bar) => {
                bar.set_position(position);
                bar.reset_eta();
            }
            Reporter::Lines(lines) => lines.first = position,
        }
        self
    }

    /// Reports that `position` steps are done, with a message such as "reward 0.71  KL 0.0031".
    pub fn update(&mut self, position: u64, message: &str) {
        match &mut self.0 {
            Reporter::Silent => {}
            Reporter::Bar(bar) => {
                bar.set_position(position);
                bar.set_message(printable(message).into_owned());
            }
            Reporter::Lines(lines) => {
                let now = Instant::now();
                if let Some(line) = lines.update(position, message, now) {
                    report(&line);
                }
            }
        }
    }

    /// Prints a line above the bar.
    pub fn println(&self, line: &str) {
        match &self.0 {
            Reporter::Silent => {}
            Reporter::Bar(bar) => bar.println(printable(line)),
            Reporter::Lines(_) => report(line),
        }
    }

    /// Ends the work, and prints `message` and the time.
    pub fn finish(self, message: &str) {
        match self.0 {
            Reporter::Silent => {}
            Reporter::Bar(bar) => bar.abandon_with_message(with_time(&printable(message), bar.elapsed())),
            Reporter::Lines(lines) => {
                report(&format!("{}: {}", lines.label, with_time(message, lines.started.elapsed())))
            }
        }
    }
}

fn bar(label: Cow<'static, str>, total: u64, target: ProgressDrawTarget) -> ProgressBar {
    // Narrow enough that the message of an iteration fits in 80 columns.
    let style = ProgressStyle::with_template("{prefix:.bold} {bar:6.cyan/dim} {pos}/{len} {eta:.dim}  {wide_msg}")
        .expect("the template is a constant")
        .progress_chars("━╸─");
    let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style).with_prefix(label);
    // The estimate of the time left keeps counting while a long iteration works.
    bar.enable_steady_tick(Duration::from_secs(1));
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.downgrade());
    bar
}

fn with_time(message: &str, time: Duration) -> String {
    format!("{message} in {}", clock(time.as_secs_f64()))
}

/// A closed standard error (`2>&-`, a reader that went away) is not a reason to stop the work.
fn report(line: &str) {
    let _ = writeln!(AboveBar, "{}", printable(line));
}

/// Decides which updates get a line if there is no terminal: the first, the last, and between them at
/// most one per interval.
struct Lines {
    label: Cow<'static, str>,
    total: u64,
    first: u64,
    started: Instant,
    last: Option<Instant>,
    interval: Duration,
}

impl Lines {
    fn new(label: Cow<'static, str>, total: u64, interval: Duration) -> Self {
        Self { label, total, first: 0, started: Instant::now(), last: None, interval }
    }

    fn update(&mut self, position: u64, message: &str, now: Instant) -> Option<String> {
        let due = self.last.is_none_or(|last| now.duration_since(last) >= self.interval);
        if !due && position < self.total {
            return None;
        }
        self.last = Some(now);
        let done = position.saturating_sub(self.first);
        let left = self.total.saturating_sub(position);
        let eta = if done == 0 || left == 0 {
            String::new()
        } else {
            let seconds = now.duration_since(self.started).as_secs_f64() * left as f64 / done as f64;
            format!("  ETA {}", clock(seconds))
        };
        Some(format!("{} {position}/{}  {message}{eta}", self.label, self.total))
    }
}

/// Seconds as `h:mm:ss`.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::TermLike;
    use std::sync::Arc;

    /// A terminal of 80 columns that records what is done to it, one line per call.
    #[derive(Clone, Debug, Default)]
    struct Terminal(Arc<Mutex<Vec<String>>>);

    impl Terminal {
        fn remember(&self, what: &str) -> std::io::Result<()> {
            self.0.lock().unwrap().push(what.to_owned());
            Ok(())
        }
    }

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> std::io::Result<()> {
            self.remember(text)
        }

        fn write_str(&self, text: &str) -> std::io::Result<()> {
            self.remember(text)
        }

        fn clear_line(&self) -> std::io::Result<()> {
            self.remember("clear")
        }

        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_log_goes_above_a_bar_that_fits_80_columns() {
        let terminal = Terminal::default();
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let mut progress = Progress(Reporter::Bar(bar("training".into(), 30, target)));
        let message = "reward 0.812  kl 1.23e-4  masked 5.0 %  120 images/s";
        progress.update(12, message);
        above_bar(|| terminal.remember("warning").unwrap());
        let done = terminal.0.lock().unwrap().clone();
        let at = done.iter().position(|line| line == "warning").unwrap();
        let bars = |part: &[String]| part.iter().filter(|line| line.contains("12/30")).count();
        assert!(
            done[..at].iter().rev().take_while(|line| !line.contains("12/30")).any(|line| line == "clear"),
            "{done:?}"
        );
        assert!(bars(&done[at..]) > 0, "the bar comes back: {done:?}");
        assert!(done[at..].iter().any(|line| line.contains(message)), "{done:?}");
        // Nothing is cleared once the bar is gone.
        progress.finish("done");
        let before = terminal.0.lock().unwrap().len();
        above_bar(|| ());
        assert_eq!(terminal.0.lock().unwrap().len(), before);
    }

    fn lines(total: u64, interval: u64) -> Lines {
        Lines::new("training".into(), total, Duration::from_secs(interval))
    }

    #[test]
    fn lines_are_rate_limited_but_never_miss_the_first_and_the_last() {
        let mut lines = lines(100, 2);
        let start = lines.started;
        let reported: Vec<u64> =
            (1..=100).filter(|&i| lines.update(i, "", start + Duration::from_millis(i * 150)).is_some()).collect();
        assert_eq!(reported, [1, 15, 29, 43, 57, 71, 85, 99, 100]);
    }

    #[test]
    fn slow_work_and_verbose_work_get_every_line() {
        for (interval, pace) in [(2, 3), (0, 0)] {
            let mut lines = lines(10, interval);
            let start = lines.started;
            let reported = (1..=10).filter(|&i| lines.update(i, "", start + Duration::from_secs(i * pace)).is_some());
            assert_eq!(reported.count(), 10);
        }
    }

    #[test]
    fn the_time_left_counts_only_the_work_of_this_process() {
        let mut lines = lines(100, 2);
        lines.first = 90;
        let now = lines.started + Duration::from_secs(1_000);
        let line = lines.update(92, "reward 0.71", now).unwrap();
        assert_eq!(line, "training 92/100  reward 0.71  ETA 1:06:40");
        assert_eq!(lines.update(100, "done", now).unwrap(), "training 100/100  done");
    }

    #[test]
    fn every_reporter_accepts_every_call() {
        let bar = bar("training".into(), 3, ProgressDrawTarget::hidden());
        for teller in [Reporter::Silent, Reporter::Bar(bar), Reporter::Lines(lines(3, 0))] {
            let mut progress = Progress(teller).starting_at(1);
            progress.update(2, "reward 0.5");
            progress.println("a line");
            if let Reporter::Bar(bar) = &progress.0 {
                assert_eq!((bar.position(), bar.message().as_str()), (2, "reward 0.5"));
            }
            progress.finish("done");
        }
    }
}
