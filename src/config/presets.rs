//! Presets: settings with a name. A preset is nothing but lines of `key = value`, each as after `--set`.

use super::decode::nearest;
use super::tree::PRESET;
use crate::error::{Error, Result};

/// Settings with a name.
#[derive(Debug)]
pub struct Preset {
    /// What `--preset` calls it.
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

/// All presets: what a run is for, then what the device's memory holds.
pub const PRESETS: &[Preset] = presets!["quick", "careful", "many-epochs", "low-memory", "whole-batch"];

impl Preset {
    /// The preset of that name.
    ///
    /// # Errors
    /// [`Error::Input`] with the names that there are.
    pub fn named(name: &str) -> Result<&'static Self> {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
            Error::input(match nearest(name, &names) {
                Some(known) => format!("there is no preset `{name}`; did you mean `{known}`?"),
                None => format!("there is no preset `{name}`: there are {}", names.join(", ")),
            })
        })
    }

    /// The file's first line: what it is for.
    pub fn summary(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches("# ")
    }

    /// The whole file.
    pub fn text(&self) -> &'static str {
        self.text
    }

    /// `--preset NAME: key=value` of each line, which is read as after `--set` and says where it comes from.
    pub fn overrides(&self) -> Vec<String> {
        let lines = self.text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| format!("{PRESET}{}: {}", self.name, line.replacen(" = ", "=", 1))).collect()
    }
}
