//! A program that runs as long as its reward, and answers a line on standard input with a line on standard output.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::outside::excerpt;

/// The longest line that is read as an answer, in bytes.
pub(super) const LONGEST_LINE: usize = 8 << 20;

/// Lines of standard error that are quoted in a message.
const QUOTED_LINES: usize = 8;

/// How long a program may take to end after its standard input has ended.
const GRACE: Duration = Duration::from_secs(2);

/// How often a program that does not answer is looked at: what it has started may keep its standard output open.
const LOOK: Duration = Duration::from_millis(50);

/// The programs that run, by their process ids.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Kills all programs, for an exit that leaves no time for a clean end. Only on Unix; elsewhere they end by
/// themselves when their standard input does.
pub fn end_programs() {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().for_each(kill_group);
}

/// Kills a program that has not been waited for and everything that it started: the child of a wrapper may hang.
#[cfg(unix)]
fn kill_group(id: u32) {
    use nix::sys::signal::{Signal, killpg};
    // It fails if they have already ended.
    let _ = killpg(nix::unistd::Pid::from_raw(id as i32), Signal::SIGKILL);
}

#[cfg(not(unix))]
fn kill_group(_: u32) {}

/// A running program.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    /// To the thread that writes; none once standard input is closed.
    requests: Option<Sender<Vec<u8>>>,
    /// From the thread that reads.
    answers: Receiver<Line>,
    said: Arc<Mutex<VecDeque<String>>>,
    /// Ends when standard error does.
    said_all: Receiver<Infallible>,
    /// It has ended, and so has everything that it started.
    ended: bool,
}

/// What was read from standard output.
#[derive(Debug)]
enum Line {
    Complete(Vec<u8>),
    TooLong,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The time is up.
    TimedOut,
    /// More than [`LONGEST_LINE`] bytes without an end of line.
    TooLong,
    /// The program ended, or closed its standard output; how, in words.
    Ended(String),
}

impl Process {
    /// Starts a program, without a shell. `argv` must not be empty.
    ///
    /// It gets a process group of its own: an interrupt from the terminal is for the run, which then still needs
    /// its scores to finish the iteration.
    pub(super) fn start(argv: &[String]) -> std::io::Result<Self> {
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        #[cfg(windows)]
        {
            const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;
            std::os::windows::process::CommandExt::creation_flags(&mut command, CREATE_NEW_PROCESS_GROUP);
        }
        let mut child = command.spawn()?;
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).insert(child.id());
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let piped = "a pipe was requested";
        let (requests, to_write) = channel();
        let (to_read, answers) = sync_channel(1);
        let (still_open, said_all) = channel();
        let said = Arc::new(Mutex::new(VecDeque::new()));
        // None of these threads is joined: a grandchild may keep a pipe open indefinitely.
        thread::spawn(move || write_lines(stdin.expect(piped), &to_write));
        thread::spawn(move || read_lines(stdout.expect(piped), &to_read));
        let (name, kept) = (argv[0].clone(), Arc::clone(&said));
        thread::spawn(move || keep_last_lines(stderr.expect(piped), &name, &kept, still_open));
        Ok(Self { child, requests: Some(requests), answers, said, said_all, ended: false })
    }

    /// Sends a line, without its end, and waits for one.
    pub(super) fn ask(&mut self, mut line: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, NoAnswer> {
        line.push(b'\n');
        // A program that has closed its standard input may still have said why.
        let _ = self.requests.as_ref().is_some_and(|requests| requests.send(line).is_ok());
        match self.receive(timeout) {
            Ok(Line::Complete(line)) => Ok(line),
            Ok(Line::TooLong) => Err(NoAnswer::TooLong),
            Err(RecvTimeoutError::Timeout) => Err(NoAnswer::TimedOut),
            Err(RecvTimeoutError::Disconnected) => Err(NoAnswer::Ended(match self.wait(GRACE) {
                Some(status) => format!("ended with {status}"),
                None => "closed its standard output".into(),
            })),
        }
    }

    /// Waits for a line, as long as the program lives: disconnected if it ends without one, or closes its standard output.
    fn receive(&mut self, timeout: Duration) -> Result<Line, RecvTimeoutError> {
        let begin = Instant::now();
        loop {
            let left = timeout.saturating_sub(begin.elapsed());
            match self.answers.recv_timeout(left.min(LOOK)) {
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(RecvTimeoutError::Timeout),
                // What it wrote before it ended may still be on its way.
                Err(RecvTimeoutError::Timeout) if self.wait(Duration::ZERO).is_some() => {
                    return self.answers.recv_timeout(GRACE).map_err(|_| RecvTimeoutError::Disconnected);
                }
                Err(RecvTimeoutError::Timeout) => {}
                found => return found,
            }
        }
    }

    /// The last lines of its standard error; what it said before it ended, if it has.
    pub(super) fn last_words(&self) -> Vec<String> {
        let _ = self.said_all.recv_timeout(Duration::from_millis(300));
        self.said.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Closes its standard input: it should now end by itself.
    pub(super) fn close(&mut self) {
        self.requests = None;
    }

    /// Kills it and everything that it started.
    pub(super) fn kill(&mut self) {
        // The id of a process that was waited for earlier may belong to another one now.
        if !self.ended {
            kill_group(self.child.id());
        }
        // It fails if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn wait(&mut self, patience: Duration) -> Option<String> {
        let begin = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    // Everything that it started ends with it. The group keeps its id as long as one of them is alive.
                    if !std::mem::replace(&mut self.ended, true) {
                        kill_group(self.child.id());
                    }
                    return Some(status.to_string());
                }
                Ok(None) if begin.elapsed() < patience => thread::sleep(Duration::from_millis(5)),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.close();
        if self.wait(GRACE).is_none() {
            self.kill();
        }
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.child.id());
    }
}

/// A program that reads slowly, or never, stops only this thread.
fn write_lines(mut stdin: ChildStdin, lines: &Receiver<Vec<u8>>) {
    for line in lines {
        if stdin.write_all(&line).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

fn read_lines(stdout: ChildStdout, lines: &SyncSender<Line>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let found = match stdout.by_ref().take(LONGEST_LINE as u64).read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => Line::Complete(line),
            Ok(LONGEST_LINE) => Line::TooLong,
            // The end of the stream, perhaps after an incomplete line.
            Ok(_) | Err(_) => return,
        };
        if lines.send(found).is_err() {
            return;
        }
    }
}

fn keep_last_lines(stderr: ChildStderr, name: &str, said: &Mutex<VecDeque<String>>, _still_open: Sender<Infallible>) {
    const LONGEST: u64 = 16 << 10;
    let mut stderr = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match stderr.by_ref().take(LONGEST).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = excerpt(&line);
        if line.is_empty() {
            continue;
        }
        log::info!("{name}: {line}");
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_back(line);
        if said.len() > QUOTED_LINES {
            said.pop_front();
        }
    }
}
