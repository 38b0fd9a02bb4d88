//! `completions`: a script with which a shell completes commands and options.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Args, Command, CommandFactory};

use super::{Cli, say};
use crate::config::PRESETS;
use crate::error::Result;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Shell to write the script for
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// The name of a preset, which shells complete. The configuration reports unknown names.
#[derive(Clone, Debug)]
pub(super) struct PresetNames;

impl TypedValueParser for PresetNames {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> std::result::Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(PRESETS.iter().map(|preset| PossibleValue::new(preset.name))))
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "flowdppo-wgpu", &mut script);
    say(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}
