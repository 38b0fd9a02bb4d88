//! Finds everything that is wrong with a configuration at once, not only the first problem.

use std::collections::HashSet;
use std::env;
use std::path::{Path, PathBuf};

use super::builtin::config_text;
use super::decode::{MAX_FAULTS, decode_all};
use super::schema::{out_of_range, sections};
use super::sweep::is_sweep;
use super::tree::{Node, Sources};
use super::{Command, Config, Reward, RewardKind, Sweep};
use super::{adapter_in, builtin, builtin_prompts, foreign, parse_with_overrides};
use crate::error::{Error, Result};
use crate::files::is_hub_name;

/// What was found in a configuration file.
#[derive(Debug, Default)]
pub struct Checked {
    /// The commands that it was checked for.
    pub commands: Vec<Command>,
    /// How many runs it describes, if it is a sweep.
    pub runs: Option<usize>,
    /// What is wrong with it, in words.
    pub errors: Vec<Error>,
    /// Files, built-in models and programs that it names but that do not exist, if nothing else is wrong.
    pub missing: Vec<Error>,
    /// How many problems are not listed: `errors` and `missing` are cut to a readable length.
    pub more: usize,
    /// The configurations that it describes, if nothing is wrong with it.
    pub configs: Vec<(Command, Config)>,
}

impl Checked {
    /// Finds everything that is wrong with a file, changed by `overrides`, for `command`. Without one, the file is
    /// for the commands whose own sections it has: those that no other command reads, except `eval`, which has none of
    /// its own. If there are none, it is for the commands that read all of its sections and accept it.
    ///
    /// Ranges are checked without misspelt keys and values of a wrong type. Whether values fit with each other is
    /// checked only if nothing else is wrong.
    ///
    /// # Errors
    /// [`Error::Input`] if the file cannot be read.
    pub fn file(path: &Path, overrides: &[String], command: Option<Command>) -> Result<Self> {
        let text = config_text(path)?;
        Ok(Self::text(&text, &path.display().to_string(), overrides, command))
    }

    /// [`Checked::file`] for the text of a file, which messages call `name`.
    pub fn text(text: &str, name: &str, overrides: &[String], command: Option<Command>) -> Self {
        let sources = Sources { file: name, overrides };
        let in_file = |error: Error| if name.is_empty() { error } else { Error::input(format!("{name}: {error}")) };
        let mut root = match parse_with_overrides(text, sources) {
            Ok(root) => root,
            Err(error) => {
                return Self { commands: Vec::from_iter(command), errors: vec![error], ..Self::default() };
            }
        };
        if is_sweep(&root) {
            let commands = vec![Command::Train];
            return match Sweep::parse(&root, sources).and_then(|sweep| sweep.runs(name, Path::new("runs"))) {
                Ok(runs) => {
                    let missing = distinct(runs.iter().flat_map(|run| run.config.missing(Command::Train)).map(in_file));
                    let count = Some(runs.len());
                    let configs = runs.into_iter().map(|run| (Command::Train, run.config)).collect();
                    Self { commands, runs: count, missing, configs, ..Self::default() }.cut()
                }
                Err(error) => Self { commands, errors: vec![error], ..Self::default() },
            };
        }
        let (mut commands, is_certain) = command.map_or_else(|| commands_of(&root), |command| (vec![command], true));
        let decoded = decode_all::<Config>(&mut root, sources);
        let (mut errors, more) = (decoded.errors, decoded.more);
        let Some(mut config) = decoded.value else {
            return Self { commands, errors, more, ..Self::default() }.cut();
        };
        let foreign = foreign::check(&mut root, &config, sources, false);
        errors.extend(foreign.errors);
        if foreign.has_removed
            && let Some(read_again) = decode_all(&mut root, sources).value
        {
            config = read_again;
        }
        let wrong_for = |command: Command| {
            let mut found = out_of_range(&config, command);
            if found.is_empty() && errors.is_empty() {
                found.extend(config.validate_together(command).err());
            }
            found
        };
        let mut wrong: Vec<(Command, Vec<Error>)> =
            commands.iter().map(|command| (*command, wrong_for(*command))).collect();
        if !is_certain && wrong.iter().any(|(_, wrong)| wrong.is_empty()) {
            wrong.retain(|(_, wrong)| wrong.is_empty());
            commands = wrong.iter().map(|(command, _)| *command).collect();
        }
        let errors = distinct(errors.into_iter().chain(wrong.into_iter().flat_map(|(_, wrong)| wrong).map(in_file)));
        if !errors.is_empty() {
            return Self { commands, errors, more, ..Self::default() }.cut();
        }
        let missing = distinct(commands.iter().flat_map(|command| config.missing(*command)).map(in_file));
        let configs = commands.iter().map(|command| (*command, config.clone())).collect();
        Self { commands, missing, more, configs, ..Self::default() }.cut()
    }

    /// Keeps a readable number of messages and counts the others.
    fn cut(mut self) -> Self {
        for messages in [&mut self.errors, &mut self.missing] {
            self.more += messages.len().saturating_sub(MAX_FAULTS);
            messages.truncate(MAX_FAULTS);
        }
        self
    }
}

/// Each message once.
fn distinct(errors: impl Iterator<Item = Error>) -> Vec<Error> {
    let mut seen = HashSet::new();
    errors.filter(|error| seen.insert(error.to_string())).collect()
}

/// The commands that a file may be for, and whether it must be valid for all of them or only for one.
fn commands_of(root: &Node) -> (Vec<Command>, bool) {
    let all = [Command::Train, Command::Pretrain, Command::FitClassifier];
    let sections = sections();
    let readers = |name: &str| -> Vec<Command> {
        let section = sections.iter().find(|section| section.path == name);
        all.into_iter()
            .filter(|command| section.is_none_or(|section| section.commands.contains(&command.name())))
            .collect()
    };
    // Overrides do not change which commands a file is for.
    let in_file: Vec<&str> = root.keys_of_file().collect();
    let keys = if in_file.is_empty() { root.keys().collect() } else { in_file };
    let given: Vec<Vec<Command>> = keys.into_iter().map(readers).collect();
    let made_for = |command: &Command| given.iter().any(|readers| readers == &[*command]);
    let read_all = |command: &Command| given.iter().all(|readers| readers.contains(command));
    let found: Vec<Command> = all.into_iter().filter(made_for).collect();
    if found.is_empty() { (all.into_iter().filter(read_all).collect(), false) } else { (found, true) }
}

impl Config {
    /// Files, built-in models and programs that `command` would use but that do not exist.
    fn missing(&self, command: Command) -> Vec<Error> {
        // Programs are looked up in other folders, too, and their arguments are not always files.
        let named = self.names(command).into_iter().filter(|(key, _)| !key.ends_with(".program"));
        let mut programs = Vec::new();
        if matches!(command, Command::Train | Command::Eval) {
            for (at, reward) in self.reward.iter().enumerate() {
                programs.extend(reward.program.first().map(|program| (format!("reward.{at}.program"), program)));
            }
        }
        let is_folder = |key: &str| {
            let is_clip = |(at, reward): (usize, &Reward)| {
                reward.kind == RewardKind::ClipScore && *key == format!("reward.{at}.file")
            };
            self.reward.iter().enumerate().any(is_clip)
        };
        let is_builtin = |key: &str, path: &Path| match key {
            "prompts.file" => builtin_prompts(path).map(|found| found.is_some()),
            _ => builtin(&path.to_string_lossy()).map(|found| found.is_some()),
        };
        let file = |(key, path): (String, PathBuf)| match is_builtin(&key, &path) {
            Err(cause) => Some(Error::input(format!("`{key}`: {cause}"))),
            Ok(true) => None,
            Ok(false) if key == "model.vae" && is_hub_name(&path.to_string_lossy()) => None,
            Ok(false) if !path.exists() => Some(Error::input(format!(
                "`{key}` names {}, which does not exist: create it first, or correct the path (relative to the \
                 current directory)",
                path.display()
            ))),
            Ok(false) if is_folder(&key) => (!path.is_dir()).then(|| {
                let found = path.display();
                Error::input(format!("`{key}` names {found}, which is a file: the folder of a CLIP model is needed"))
            }),
            Ok(false) if !may_be_directory(&key) => not_a_file(&key, &path),
            Ok(false) => None,
        };
        let program = |(key, name): (String, &String)| match found_programs(name) {
            found if found.is_empty() => Some(Error::input(format!(
                "`{key}` names {name}, which cannot be found: install it, or correct its name; for a file in the \
                 current directory, write ./NAME"
            ))),
            found if !found.iter().any(|file| is_executable(file)) => Some(Error::input(format!(
                "`{key}` names {name}, which is not executable: allow it with chmod +x, or name the program that runs \
                 it first, such as [\"python3\", \"score.py\"]"
            ))),
            _ => None,
        };
        let programs = programs.into_iter().filter_map(program);
        named.filter_map(file).chain(programs).collect()
    }
}

/// Whether a key may name a directory.
fn may_be_directory(key: &str) -> bool {
    ["model.folder", "model.vae", "data.path", "lora.adapter"].contains(&key)
}

/// The error if a path is neither an ordinary file nor, for models, the directory of a run.
fn not_a_file(key: &str, path: &Path) -> Option<Error> {
    let kind = path.metadata().ok()?;
    let is_model =
        ["model.file", "eval.judge"].contains(&key) || (key.starts_with("reward.") && key.ends_with(".file"));
    if kind.is_file() || (is_model && (path.join("model.safetensors").is_file() || adapter_in(path).is_some())) {
        return None;
    }
    let what = if kind.is_dir() { "a directory" } else { "a device or a pipe" };
    Some(Error::input(format!("`{key}` names {}, which is {what}: a file is needed", path.display())))
}

/// The files that the system would take for a program: at its path, or in the folders of `PATH`.
fn found_programs(name: &str) -> Vec<PathBuf> {
    let has_folder = Path::new(name).components().count() > 1;
    let folders = env::var_os("PATH").filter(|_| !has_folder).unwrap_or_default();
    let names = [name.to_owned(), format!("{name}{}", env::consts::EXE_SUFFIX)];
    let in_folder = |folder: PathBuf| names.each_ref().map(|name| folder.join(name));
    env::split_paths(&folders).flat_map(in_folder).filter(|file| file.is_file()).collect()
}

/// Whether a system would start a file: elsewhere than on Unix its name decides.
fn is_executable(file: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.metadata().is_ok_and(|found| found.permissions().mode() & 0o111 != 0)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        true
    }
}
