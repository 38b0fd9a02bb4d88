//! Presets: named settings. A preset consists of lines `key = value`, each read like `--set`.

use super::decode::nearest;
use super::tree::PRESET;
use crate::error::{Error, Result};

/// Named settings.
#[derive(Debug)]
pub struct Preset {
    /// Its name after `--preset`.
    pub name: &'static str,
    text: &'static str,
}

macro_rules! presets {
    ($($name:literal),*) => {
        &[$(Preset {
            name: $name,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/presets/", $name, ".toml")),
        }),*]
    };
}

/// All presets: first by the purpose of a run, then by the memory of the device.
pub const PRESETS: &[Preset] = presets!["quick", "careful", "many-epochs", "low-memory", "whole-batch"];

impl Preset {
    /// The preset of that name.
    ///
    /// # Errors
    /// [`Error::Input`] with the known names.
    pub fn named(name: &str) -> Result<&'static Self> {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
            Error::input(match nearest(name, &names) {
                Some(known) => format!("there is no preset `{name}`; did you mean `{known}`?"),
                None => format!("there is no preset `{name}`; the presets are {}", names.join(", ")),
            })
        })
    }

    /// The file's first line: what it is for.
    pub fn summary(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches("# ")
    }

    /// The text of the file.
    pub fn text(&self) -> &'static str {
        self.text
    }

    /// `--preset NAME: key=value` for each line: read like `--set`, with a prefix that says where it comes from.
    pub fn overrides(&self) -> Vec<String> {
        let lines = self.text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| format!("{PRESET}{}: {}", self.name, line.replacen(" = ", "=", 1))).collect()
    }
}
