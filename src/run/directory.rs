//! The directory of a run.
//!
//! ```text
//! <out_dir>/<name>/
//!   config.toml            the resolved configuration
//!   metrics.jsonl          one JSON object per iteration, append-only
//!   data.png               pictures of each class, of pretraining and of fitting a classifier
//!   rewards.csv            one line per scored image, append-only
//!   warnings.jsonl         what looked wrong, if anything did: one JSON object per warning, append-only
//!   inputs.json            the files that the run depends on, with their checksums
//!   device.json            the adapter and its limits
//!   report.html            the run as one page
//!   tensorboard/           the metrics and the preview grids as event files
//!   samples/NNNNNN.png     preview grids
//!   checkpoints/NNNNNN/    complete checkpoints
//!   best/                  the best of the evaluated models, or its adapter if one is trained, and its numbers
//!   model.safetensors      the tuned model, unless an adapter is trained
//!   adapter/               the adapter, as PEFT writes it, and which model is its base
//!   before_after.png       base and tuned model, written last: the run is finished
//!   failed.txt             why the run ended early, if it ended on its own; removed when it is resumed
//!   rank-N.log             what rank N had to say, of several that train together; rank 0 talks to the user
//!   trace.json, profile.json   where the time went, with --profile
//!   .lock                  held by the process that works here
//! ```

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::inputs::Inputs;
use super::{checkpoint, metrics, repair};
use crate::config::{self, Command, Config, MODEL};
use crate::files::{remove_abandoned, write_atomically};
use crate::ranks::Team;
use crate::text::quoted;
use crate::{Error, Result};

/// The directory of a run; it exists, is writable, and has its sub-folders.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    /// Locked as long as this process works in the directory.
    lock: Option<File>,
    /// Whether the lock shows that no other process works here.
    exclusive: bool,
}

impl RunDirectory {
    /// Creates the directory `<out_dir>/<name>` of a new run.
    ///
    /// # Errors
    /// [`Error::Input`] if `name` is not a plain directory name, if a run is already there, or if the
    /// location is not writable.
    pub fn create(out_dir: &Path, name: &str) -> Result<Self> {
        if !is_plain_name(name) {
            return Err(Error::input(format!(
                "run.name = {name:?} cannot name a directory: use a name without separators, such as \"digits8\""
            )));
        }
        Self::begin(out_dir.join(name))
    }

    fn at(path: PathBuf) -> Self {
        Self { path, lock: None, exclusive: false }
    }

    fn begin(path: PathBuf) -> Result<Self> {
        Self::check_free(&path)?;
        let mut run = Self::at(path);
        run.prepare()?;
        Ok(run)
    }

    /// Checks that there is no run at a path, without touching it. Called before the work for a new run begins.
    ///
    /// # Errors
    /// [`Error::Input`] if there is one.
    pub fn check_free(path: &Path) -> Result<()> {
        match Self::at(path.to_owned()).held() {
            Some(what) => Err(Error::input(format!(
                "{} already contains a run ({what}): choose another --out or run.name, or continue it with --resume",
                path.display()
            ))),
            None => Ok(()),
        }
    }

    /// Creates the directory of a new run: exactly `out` if it is given, else `out_dir/name` or, if that contains a
    /// run, `out_dir/name-2`, `-3` and so on. A user who trains twice loses nothing.
    ///
    /// # Errors
    /// As [`RunDirectory::create`].
    pub fn create_for(run: &config::Run, out: Option<&Path>) -> Result<Self> {
        if let Some(out) = out {
            return Self::begin(out.to_owned());
        }
        // A run that another process has just started has no files yet, but it holds the lock.
        let taken = |name: &str| {
            let path = run.out_dir.join(name);
            lock_held(&path.join(LOCK)) || Self::at(path).held().is_some()
        };
        let numbered = (2..).map(|number| format!("{}-{number}", run.name));
        let free = std::iter::once(run.name.clone()).chain(numbered).find(|name| !taken(name));
        Self::create(&run.out_dir, &free.unwrap_or_else(|| run.name.clone()))
    }

    /// Opens the directory of an existing run, to resume it.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no run at `path`, or it is not writable.
    pub fn open(path: &Path) -> Result<Self> {
        let mut run = Self::at(path.to_owned());
        if !run.config().is_file() {
            return Err(Error::input(format!(
                "{} has no run to resume (config.toml is missing): check --out and run.name, or leave out --resume",
                path.display()
            )));
        }
        run.prepare()?;
        Ok(run)
    }

    /// The directory of a run in which rank 0 of a team works; the other ranks only read there.
    pub fn seen(path: &Path) -> Self {
        Self::at(path.to_owned())
    }

    /// The directory that rank 0 of a team creates, on every rank.
    ///
    /// # Errors
    /// As `create`.
    pub fn of_team(team: &Team, create: impl FnOnce() -> Result<Self>) -> Result<Self> {
        let created = if team.leads() { create().map(Some) } else { Ok(None) };
        let created = team.agree(created)?;
        let path = created.as_ref().map(|directory| directory.path.as_os_str().as_encoded_bytes().to_vec());
        let path = team.from_leader(&path.unwrap_or_default())?;
        Ok(created.unwrap_or_else(|| Self::at(decoded(path))))
    }

    /// The directory of the run that a path is, or is a part of: its adapter, its best model, or a checkpoint.
    pub fn around(path: &Path) -> Option<Self> {
        // The working directory may be within the run.
        let path = std::path::absolute(path).ok()?;
        let holds = |run: &Self| {
            let parts = [run.adapter(), run.best(), run.checkpoints()];
            run.config().is_file() && (run.path == path || parts.iter().any(|part| path.starts_with(part)))
        };
        path.ancestors().map(|path| Self::at(path.to_owned())).find(holds)
    }

    /// The command line that resumes this run of `command`, to be pasted into a shell.
    pub fn resume_command(&self, command: Command) -> String {
        format!("flowdppo-wgpu {command} --resume --out {}", quoted(&self.path))
    }

    /// Removes what a killed process left half-written, and repairs every append-only file. Reports what was cut off.
    ///
    /// # Errors
    /// [`Error::Failed`] if a file cannot be repaired.
    pub fn recover(&self) -> Result<()> {
        for log in [self.metrics(), self.warnings()] {
            repair::lines(&log, metrics::is_record)?;
        }
        repair::event_files(&self.tensorboard())?;
        if self.exclusive {
            // The last two are of a new text-to-image model.
            let parts = ["transformer", "tokenizer"].map(|part| self.path.join(part));
            let folders = [self.path.clone(), self.samples(), self.best(), self.adapter()].into_iter().chain(parts);
            folders.for_each(|folder| remove_abandoned(&folder));
            checkpoint::recover(&self.checkpoints());
        }
        Ok(())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved configuration, `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The metrics, `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The contact sheet of the training data, `data.png`.
    pub fn data(&self) -> PathBuf {
        self.path.join("data.png")
    }

    /// The warnings, `warnings.jsonl`.
    pub fn warnings(&self) -> PathBuf {
        self.path.join("warnings.jsonl")
    }

    /// The folder of the best model, `best`, for [`BestKeeper`](super::best::BestKeeper).
    pub fn best(&self) -> PathBuf {
        self.path.join("best")
    }

    /// The event files for TensorBoard, `tensorboard/`.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    /// Records what a command does here (`config.toml`), with which files (`inputs.json`) and on which device
    /// (`device.json`), and removes the record of how the run ended before. Paths become absolute, so that the run can
    /// be resumed from any working directory.
    ///
    /// # Errors
    /// [`Error::Failed`] if a file cannot be written or removed.
    pub fn record_start(&self, config: &Config, inputs: &Inputs, device: &impl Serialize) -> Result<()> {
        let config = config.anchored();
        let path = self.path.join("device.json");
        let text = serde_json::to_vec_pretty(device).map_err(|cause| Error::unwritable(&path, cause))?;
        write_atomically(&self.config(), config.to_toml().as_bytes())?;
        write_atomically(&path, &text)?;
        inputs.write(&self.inputs())?;
        match fs::remove_file(self.failure()) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::unwritable(&self.failure(), cause))
            }
            _ => Ok(()),
        }
    }

    /// Records why the run ended early, `failed.txt`.
    ///
    /// # Errors
    /// [`Error::Failed`] if the file cannot be written.
    pub fn record_failure(&self, message: &str) -> Result<()> {
        write_atomically(&self.failure(), format!("{message}\n").as_bytes())
    }

    /// The checksums of what the run was started with, `inputs.json`.
    pub fn inputs(&self) -> PathBuf {
        self.path.join("inputs.json")
    }

    fn failure(&self) -> PathBuf {
        self.path.join(FAILURE)
    }

    /// The trace of a profiled run, `trace.json`.
    pub fn trace(&self) -> PathBuf {
        self.path.join("trace.json")
    }

    /// The aggregate of a profiled run, `profile.json`.
    pub fn profile(&self) -> PathBuf {
        self.path.join("profile.json")
    }

    /// The folder of a finished run's adapter, `adapter/`.
    pub fn adapter(&self) -> PathBuf {
        self.path.join("adapter")
    }

    /// The model of a run, `model.safetensors`.
    pub fn model(&self) -> PathBuf {
        self.path.join(MODEL)
    }

    /// The last file of a finished run, `before_after.png`.
    pub fn before_after(&self) -> PathBuf {
        self.path.join(BEFORE_AFTER)
    }

    /// The preview grid of an iteration, `samples/NNNNNN.png`.
    pub fn sample(&self, iteration: u64) -> PathBuf {
        self.samples().join(format!("{iteration:06}.png"))
    }

    /// The folder of the checkpoints, for [`checkpoint::save`](super::checkpoint::save) and
    /// [`checkpoint::latest`](super::checkpoint::latest).
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    fn samples(&self) -> PathBuf {
        self.path.join("samples")
    }

    /// What shows that there is a run here, with work that a new run would mix with its own.
    fn held(&self) -> Option<&'static str> {
        if fs::metadata(self.metrics()).is_ok_and(|file| file.len() > 0) {
            return Some("metrics.jsonl");
        }
        let mut checkpoints = fs::read_dir(self.checkpoints()).ok()?;
        checkpoints.next().map(|_| "checkpoints")
    }

    /// Creates missing folders, tries to write (better now than after an hour), and locks the directory.
    fn prepare(&mut self) -> Result<()> {
        let prepare = || -> std::io::Result<File> {
            fs::create_dir_all(self.samples())?;
            fs::create_dir_all(self.checkpoints())?;
            for folder in [self.path.clone(), self.samples(), self.checkpoints()] {
                tempfile::tempfile_in(folder)?;
            }
            File::create(self.path.join(LOCK))
        };
        let lock = prepare().map_err(|cause| {
            let message = format!(
                "cannot write into the run directory {}: {cause}; choose another --out or run.out_dir",
                self.path.display()
            );
            Error::unusable(message, &cause)
        })?;
        // `in_progress` also holds the lock for a moment.
        let mut held = true;
        for _ in 0..5 {
            let locked = lock.try_lock();
            held = matches!(locked, Err(TryLockError::WouldBlock));
            // A file system without locks lets every process in.
            self.exclusive = locked.is_ok();
            if !held {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if held {
            return Err(Error::input(format!(
                "another process is working in {}: wait for it, or choose another --out or run.name",
                self.path.display()
            )));
        }
        self.lock = Some(lock);
        Ok(())
    }
}

/// What a run writes last.
pub const BEFORE_AFTER: &str = "before_after.png";

/// A run as one page.
pub const REPORT: &str = "report.html";

/// File in the directory of a run that ended on its own, by numbers that are not finite or a guard rail; it contains
/// the message. A run that ended because something was missing (a reward, a device, space on the disk) has none: it
/// can continue once that is fixed.
pub const FAILURE: &str = "failed.txt";

/// File whose lock means that a process works in the directory; the system releases it when the process ends.
const LOCK: &str = ".lock";

/// Whether a process works in the directory of a run.
pub fn in_progress(path: &Path) -> bool {
    lock_held(&path.join(LOCK))
}

/// Whether another process holds a lock. On a file system without locks, none does.
fn lock_held(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Exactly one ordinary path component.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let first = components.next();
    first == Some(Component::Normal(OsStr::new(name))) && components.next().is_none()
}

/// A path from the bytes that another process has of it.
fn decoded(bytes: Vec<u8>) -> PathBuf {
    #[cfg(unix)]
    return PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes));
    #[cfg(not(unix))]
    return String::from_utf8_lossy(&bytes).into_owned().into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_run_gets_its_folders_and_paths() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(&root.path().join("runs/deep"), "digits8").unwrap();
        assert_eq!(run.path(), root.path().join("runs/deep/digits8"));
        assert_eq!(run.sample(42), run.path().join("samples/000042.png"));
        assert!(run.checkpoints().is_dir());
        assert!(run.sample(0).parent().unwrap().is_dir());
    }

    #[test]
    fn a_run_that_has_begun_is_not_overwritten_but_can_be_opened() {
        let begin: [fn(&RunDirectory); 2] = [
            |run| fs::write(run.metrics(), "{\"iteration\":0}\n").unwrap(),
            |run| fs::create_dir(run.checkpoints().join("000001")).unwrap(),
        ];
        for begin in begin {
            let root = tempfile::tempdir().unwrap();
            let run = RunDirectory::create(root.path(), "digits8").unwrap();
            fs::write(run.config(), "[run]\n").unwrap();
            drop(run);
            // Nothing has been computed yet, so nothing can be lost.
            let run = RunDirectory::create(root.path(), "digits8").unwrap();
            begin(&run);
            let path = run.path().to_owned();
            drop(run);
            let error = RunDirectory::create(root.path(), "digits8").unwrap_err();
            assert!(error.to_string().contains("--resume"), "{error}");
            assert_eq!(error.exit_code(), 2);
            RunDirectory::open(&path).unwrap();
        }
    }

    #[test]
    fn two_runs_never_share_a_directory() {
        let root = tempfile::tempdir().unwrap();
        let settings = config::Run { out_dir: root.path().to_owned(), ..config::Run::default() };
        let first = RunDirectory::create_for(&settings, None).unwrap();
        fs::write(first.config(), "[run]\n").unwrap();
        let second = RunDirectory::create_for(&settings, None).unwrap();
        assert_eq!(second.path(), root.path().join("digits8-2"));
        let error = RunDirectory::open(first.path()).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        let path = first.path().to_owned();
        drop(first);
        RunDirectory::open(&path).unwrap();
    }

    #[test]
    fn there_must_be_a_run_to_resume() {
        let root = tempfile::tempdir().unwrap();
        let error = RunDirectory::open(&root.path().join("missing")).unwrap_err();
        assert!(error.to_string().contains("no run to resume"), "{error}");
        assert!(!root.path().join("missing").exists());
    }

    #[test]
    fn a_run_name_stays_inside_the_output_folder() {
        let root = tempfile::tempdir().unwrap();
        for name in ["", ".", "..", "a/b", "../up", "/abs", "a/"] {
            let error = RunDirectory::create(root.path(), name).unwrap_err();
            assert!(error.to_string().contains("run.name"), "{name:?}: {error}");
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_output_folder_that_cannot_be_written_is_bad_input() {
        // A file where a folder is needed fails for every user, including root.
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("runs");
        fs::write(&file, b"").unwrap();
        let error = RunDirectory::create(&file, "digits8").unwrap_err();
        assert!(error.to_string().contains("cannot write into"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
