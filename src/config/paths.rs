//! The files that a configuration names.

use std::path::{Path, PathBuf};

use super::tree::BACKSLASH;
use super::{Command, Config, Output, Reward, RewardKind, Target};
use crate::error::{Error, Result, character};

/// A key with a path, written as text or as a path.
enum Named<'a> {
    Text(&'a mut String),
    Path(&'a mut PathBuf),
}

impl Named<'_> {
    fn path(&self) -> &Path {
        match self {
            Self::Text(text) => Path::new(text.as_str()),
            Self::Path(path) => path,
        }
    }

    /// Makes it independent of the working directory. A path that TOML cannot represent stays unchanged.
    fn anchor(&mut self) {
        let Ok(absolute) = std::path::absolute(self.path()) else { return };
        match self {
            Self::Text(text) => {
                if let Some(absolute) = absolute.to_str() {
                    absolute.clone_into(text);
                }
            }
            Self::Path(path) => **path = absolute,
        }
    }
}

/// What a run writes at its end, unless it trained an adapter; also the model of a checkpoint or of the best.
pub const MODEL: &str = "model.safetensors";

/// The file beside an adapter of a run that names its base.
pub const ADAPTER_BASE: &str = "adapter_base.json";

/// The file beside the transformer of a run that names the pipeline it belongs to.
pub const TRANSFORMER_BASE: &str = "transformer_base.json";

/// The folder of the adapter that a directory stands for where a model is named: itself, such as that of a run's best
/// model, or the one in the directory of a run.
pub fn adapter_in(path: &Path) -> Option<PathBuf> {
    [path.to_owned(), path.join("adapter")].into_iter().find(|folder| folder.join(ADAPTER_BASE).is_file())
}

impl Config {
    /// The same configuration with absolute paths, so that it means the same in every working directory. Built-in models
    /// keep their names, and `run.out_dir` stays unchanged: a run knows its own directory.
    #[must_use]
    pub fn anchored(&self) -> Self {
        let mut config = self.clone();
        for command in [Command::Train, Command::Pretrain] {
            let paths = config.named(command).into_iter().filter(is_path);
            paths.for_each(|(_, mut named)| named.anchor());
        }
        config
    }

    /// The files and folders that `command` depends on, with the keys that name them, except what is in the folders of
    /// other programs' models: of those not every file counts.
    pub fn inputs(&self, command: Command) -> Vec<(String, PathBuf)> {
        let mut found = self.paths(command);
        let of_kind = |wanted: RewardKind| {
            let entries = self.reward.iter().zip(0..).filter(move |(reward, _)| reward.kind == wanted);
            entries.map(|(reward, at): (&Reward, usize)| (format!("reward.{at}.file"), &reward.file))
        };
        let folders: Vec<String> = of_kind(RewardKind::ClipScore).map(|(key, _)| key).collect();
        found.retain(|(key, _)| !["model.folder", "model.vae"].contains(&&**key) && !folders.contains(key));
        // PyTorch may write the weights beside the model.
        let weights = of_kind(RewardKind::Onnx).map(|(key, file)| (key, PathBuf::from(format!("{file}.data"))));
        found.extend(weights.filter(|(_, path)| path.is_file()));
        // The folder may be that of a run, which contains more than the adapter.
        if let Some(at) = found.iter().position(|(key, _)| key == "lora.adapter") {
            let (key, folder) = found.swap_remove(at);
            let files = ["adapter_config.json", "adapter_model.safetensors"];
            found.extend(files.map(|file| (key.clone(), folder.join(file))));
        }
        found
    }

    /// Rejects control characters in the paths that `command` uses: TOML reads the `\t` of `"C:\temp"` as a tab.
    pub(super) fn validate_paths(&self, command: Command) -> Result<()> {
        let mut paths = self.paths(command);
        paths.push(("run.out_dir".into(), self.run.out_dir.clone()));
        for (key, path) in paths {
            if let Some(c) = path.to_string_lossy().chars().find(|c| c.is_control()) {
                return Err(Error::input(format!(
                    "`{key}` must be a path, not {path:?}, which has {}{BACKSLASH}",
                    character(c)
                )));
            }
        }
        Ok(())
    }

    /// Every path that `command` uses, with its key.
    fn paths(&self, command: Command) -> Vec<(String, PathBuf)> {
        let mut config = self.clone();
        let paths = config.named(command).into_iter().filter(is_path);
        paths.map(|(key, named)| (key, named.path().to_owned())).collect()
    }

    /// The same with what is not a path: names of built-in models, and that of an autoencoder in the hub's cache.
    pub(super) fn names(&self, command: Command) -> Vec<(String, PathBuf)> {
        let mut config = self.clone();
        config.named(command).into_iter().map(|(key, named)| (key, named.path().to_owned())).collect()
    }

    /// Every key of `command` that names a file or a folder and is not empty.
    fn named(&mut self, command: Command) -> Vec<(String, Named<'_>)> {
        let mut found = Vec::new();
        if matches!(command, Command::Train | Command::Pretrain) {
            found.extend(self.model.file.as_mut().map(|file| ("model.file".to_owned(), Named::Text(file))));
        }
        if matches!(command, Command::Train | Command::Eval) {
            found.extend(self.model.vae.as_mut().map(|vae| ("model.vae".to_owned(), Named::Text(vae))));
        }
        // A name in the hub's cache is not a path.
        if matches!(command, Command::Train | Command::Pretrain) {
            let folder = self.model.folder.as_mut().filter(|folder| Path::new(folder.as_str()).is_dir());
            found.extend(folder.map(|folder| ("model.folder".to_owned(), Named::Text(folder))));
        }
        if matches!(command, Command::Train | Command::Eval) {
            found.extend(self.prompts.file.as_mut().map(|file| ("prompts.file".to_owned(), Named::Path(file))));
        }
        if matches!(command, Command::Train | Command::Eval) {
            let rewards = self.reward.iter_mut().enumerate();
            found.extend(rewards.flat_map(|(at, reward)| {
                reward.named().into_iter().map(move |(key, named)| (format!("reward.{at}.{key}"), named))
            }));
            found.push(("eval.judge".into(), Named::Text(&mut self.eval.judge)));
        }
        if matches!(command, Command::Train | Command::Pretrain) {
            found.extend(self.lora.adapter.as_mut().map(|folder| ("lora.adapter".to_owned(), Named::Path(folder))));
        }
        if matches!(command, Command::Pretrain | Command::FitClassifier) {
            found.extend(self.data.path.as_mut().map(|path| ("data.path".to_owned(), Named::Path(path))));
            found.extend(self.data.labels.as_mut().map(|path| ("data.labels".to_owned(), Named::Path(path))));
        }
        found.retain(|(_, named)| !named.path().as_os_str().is_empty());
        found
    }
}

/// Whether a key names a path, and not a built-in model or a model in the hub's cache.
fn is_path((key, named): &(String, Named<'_>)) -> bool {
    let path = named.path();
    !path.to_string_lossy().starts_with("builtin:") && (key != "model.vae" || path.exists())
}

impl Reward {
    fn named(&mut self) -> Vec<(&'static str, Named<'_>)> {
        let mut found = vec![("metadata", Named::Text(&mut self.metadata))];
        if matches!(self.kind, RewardKind::Classifier | RewardKind::Template | RewardKind::Onnx | RewardKind::ClipScore)
        {
            found.push(("file", Named::Text(&mut self.file)));
        }
        found.push(("head", Named::Text(&mut self.head)));
        match &mut self.output {
            Output::Cosine { target: Target::File(file) } => found.push(("output.target", Named::Text(file))),
            Output::Ctc { alphabet } => found.push(("output.alphabet", Named::Text(alphabet))),
            _ => {}
        }
        // A bare name is looked up in PATH. Arguments count if they are files, such as scripts.
        let is_file = |(at, word): &(usize, &mut String)| match at {
            0 => Path::new(word.as_str()).components().count() > 1,
            _ => Path::new(word.as_str()).is_file(),
        };
        let words = self.program.iter_mut().enumerate().filter(is_file);
        found.extend(words.map(|(_, word)| ("program", Named::Text(word))));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_becomes_absolute_and_nothing_else_changes() {
        let text = r#"
            [run]
            out_dir = "runs"
            [model]
            file = "m.safetensors"
            [data]
            kind = "folder"
            path = "images"
            [[reward]]
            file = "builtin:digits8-classifier"
            [[reward]]
            kind = "onnx"
            file = "o.onnx"
            output = { kind = "ctc", alphabet = "a.txt" }
            [[reward]]
            kind = "command"
            program = ["python3", "Cargo.toml", "src", "--count=5", "nowhere.py"]
            metadata = "meta.json"
            [[reward]]
            kind = "command"
            program = ["./score"]
            [eval]
            judge = "j.safetensors"
            [lora]
            adapter = "a"
        "#;
        let config = Config::parse(text, "x.toml", &[]).unwrap();
        let anchored = config.anchored();
        let here = |name: &str| std::path::absolute(name).unwrap();
        let text = |name: &str| here(name).to_str().unwrap().to_owned();
        assert_eq!(anchored.model.file, Some(text("m.safetensors")));
        assert_eq!(anchored.reward[0].file, "builtin:digits8-classifier");
        assert_eq!(anchored.reward[1].file, text("o.onnx"));
        assert_eq!(anchored.reward[1].output, Output::Ctc { alphabet: text("a.txt") });
        assert_eq!(anchored.reward[2].program, ["python3", &text("Cargo.toml"), "src", "--count=5", "nowhere.py"]);
        assert_eq!(anchored.reward[2].metadata, text("meta.json"));
        assert_eq!(anchored.reward[3].program, [text("./score")]);
        assert_eq!(
            (anchored.eval.judge.clone(), anchored.lora.adapter.clone()),
            (text("j.safetensors"), Some(here("a")))
        );
        assert_eq!((anchored.data.path.clone(), &anchored.run), (Some(here("images")), &config.run));
        assert_eq!(anchored.anchored(), anchored);

        let keys = |command| {
            let mut keys: Vec<String> = config.inputs(command).into_iter().map(|(key, _)| key).collect();
            keys.sort();
            keys
        };
        let of_train = [
            "eval.judge",
            "lora.adapter",
            "lora.adapter",
            "model.file",
            "reward.1.file",
            "reward.1.output.alphabet",
            "reward.2.metadata",
            "reward.2.program",
            "reward.3.program",
        ];
        assert_eq!(keys(Command::Train), of_train);
        assert_eq!(keys(Command::Pretrain), ["data.path", "lora.adapter", "lora.adapter", "model.file"]);
        assert_eq!(keys(Command::FitClassifier), ["data.path"]);
    }
}
