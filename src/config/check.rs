//! Everything that is wrong with a configuration at once, for who mends it.

use std::path::Path;

use super::decode::decode_all;
use super::schema::{out_of_range, sections};
use super::tree::{Node, Sources};
use super::{Command, Config, ModelSource, Sweep, parse_with_overrides};
use crate::error::{Error, Result};

/// What was found in a configuration file.
#[derive(Debug)]
pub struct Checked {
    /// The commands that it was checked for.
    pub commands: Vec<Command>,
    /// How many runs it makes, if it is a sweep.
    pub runs: Option<usize>,
    /// What is wrong with it, in words.
    pub errors: Vec<Error>,
}

impl Checked {
    /// Looks for everything that is wrong with a file, for `command` or, without one, for those that it is made for:
    /// they have a section in it that no other command reads, or else read all of its sections.
    ///
    /// What a misspelt key or a wrong type makes of the rest is not known, so ranges are looked at without them, and
    /// what values make of each other only when there is nothing else.
    ///
    /// # Errors
    /// [`Error::Input`] if the file cannot be read.
    pub fn file(path: &Path, overrides: &[String], command: Option<Command>) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|cause| Error::unreadable(path, cause))?;
        Ok(Self::text(&text, &path.display().to_string(), overrides, command))
    }

    /// [`Checked::file`] of a file's text; `name` stands for it in messages.
    pub fn text(text: &str, name: &str, overrides: &[String], command: Option<Command>) -> Self {
        let sources = Sources { file: name, overrides };
        let root = match parse_with_overrides(text, sources) {
            Ok(root) => root,
            Err(error) => return Self { commands: Vec::from_iter(command), runs: None, errors: vec![error] },
        };
        if root.keys().any(|key| ["sweep", "grid", "variant"].contains(&key)) {
            let runs = Sweep::parse(&root, sources).and_then(|sweep| sweep.runs(name, Path::new("runs")));
            let count = runs.as_ref().map(Vec::len).ok();
            return Self { commands: vec![Command::Train], runs: count, errors: Vec::from_iter(runs.err()) };
        }
        let commands = command.map_or_else(|| commands_of(&root), |command| vec![command]);
        let (config, mut errors) = decode_all::<Config>(root, sources);
        let in_file = |error: Error| Error::input(format!("{name}: {error}"));
        for command in &commands {
            let Some(config) = &config else { break };
            let mut found = out_of_range(config, *command);
            if found.is_empty() && errors.is_empty() {
                found.extend(config.validate_together(*command).err());
                found.extend(config.missing_files(*command));
            }
            errors.extend(found.into_iter().map(in_file));
        }
        errors.dedup_by_key(|error| error.to_string());
        Self { commands, runs: None, errors }
    }
}

fn commands_of(root: &Node) -> Vec<Command> {
    let all = [Command::Train, Command::Pretrain, Command::FitClassifier];
    let sections = sections();
    let readers = |name: &str| -> Vec<Command> {
        let section = sections.iter().find(|section| section.path == name);
        all.into_iter()
            .filter(|command| section.is_none_or(|section| section.commands.contains(&command.name())))
            .collect()
    };
    let given: Vec<Vec<Command>> = root.keys().map(readers).collect();
    let made_for = |command: &Command| given.iter().any(|readers| readers == &[*command]);
    let read_all = |command: &Command| given.iter().all(|readers| readers.contains(command));
    let mut found: Vec<Command> = all.into_iter().filter(made_for).collect();
    if found.is_empty() {
        found.extend(all.into_iter().filter(read_all));
    }
    found
}

impl Config {
    /// Files of a person's that `command` would read, and that are not there.
    fn missing_files(&self, command: Command) -> Vec<Error> {
        let mut named: Vec<(String, &Path)> = Vec::new();
        if let (Command::Train | Command::Pretrain, Ok(ModelSource::File(file))) = (command, self.model.source()) {
            named.push(("model.file".into(), file.as_ref()));
        }
        if command == Command::Train {
            let rewards = self.reward.iter().enumerate();
            named.extend(rewards.map(|(at, reward)| (format!("reward.{at}.file"), reward.file.as_ref())));
            named.push(("eval.judge".into(), self.eval.judge.as_ref()));
        } else {
            let paths = [("data.path", &self.data.path), ("data.labels", &self.data.labels)];
            named.extend(paths.into_iter().filter_map(|(key, path)| Some((key.to_owned(), path.as_deref()?))));
        }
        let is_file = |path: &Path| !path.as_os_str().is_empty() && !path.to_string_lossy().starts_with("builtin:");
        named.retain(|(_, path)| is_file(path) && !path.exists());
        let error = |(key, path): (String, &Path)| {
            Error::input(format!(
                "`{key}` names {}, which does not exist: make it first, or correct the path, which starts in the \
                 current directory",
                path.display()
            ))
        };
        named.into_iter().map(error).collect()
    }
}
