//! `config`: writes, shows, checks and explains configurations.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::completions::PresetNames;
use super::{Changes, ConfigArguments, Global, say};
use crate::config::{self, Checked, Command, Config, PRESETS, Preset, Style};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::preflight;

/// Where editors find the schema, and how to create it.
const HEADER: &str = "#:schema flowdppo-wgpu.schema.json\n\
# A configuration of flowdppo-wgpu: every key with its value. Omitted keys have their defaults, so you can delete\n\
# whatever you do not change. For completion and checks in an editor, put the schema next to this file:\n\
#   flowdppo-wgpu config schema --out flowdppo-wgpu.schema.json\n\n";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write a configuration with every key explained, to start your own from
    Init(Init),
    /// Show the configuration that results from a file, presets and --set
    Print(Print),
    /// Report everything that is wrong with configuration files (exit code 2 if anything is)
    Check(Check),
    /// List the presets, or show what one sets
    Presets(Presets),
    /// Print the JSON schema, with which editors complete keys and mark mistakes
    Schema(Out),
    /// Print the reference of every key as Markdown
    Reference,
}

#[derive(Debug, Args)]
struct Init {
    #[command(flatten)]
    config: ConfigArguments,
    /// Only the sections that this command reads
    #[arg(long = "for", value_name = "COMMAND", value_enum)]
    command: Option<Command>,
    #[command(flatten)]
    out: Out,
}

#[derive(Debug, Args)]
struct Print {
    #[command(flatten)]
    config: ConfigArguments,
    /// Only what differs from the defaults
    #[arg(long)]
    diff: bool,
}

#[derive(Debug, Args)]
struct Check {
    /// Configuration files (TOML)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    changes: Changes,
    /// Command that the files are for; by default the commands that their sections belong to
    #[arg(long = "for", value_name = "COMMAND", value_enum)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Presets {
    /// Preset to show
    #[arg(value_name = "NAME", value_parser = PresetNames)]
    name: Option<String>,
}

#[derive(Debug, Args)]
struct Out {
    /// File to write; by default the text is printed
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    match &arguments.action {
        Action::Init(init) => {
            if let Some(path) = &init.out.out {
                let inputs = init.config.config.iter();
                inputs.fold(global.outputs(), |outputs, input| outputs.reads(input)).file(path)?;
            }
            let config = init.config.read()?;
            // Files that it names may be missing: they can be created later.
            if let Some(error) = init.check()?.errors.into_iter().next() {
                return Err(error);
            }
            let style = Style { comments: true, command: init.command, base: None };
            init.out.write(global, &format!("{HEADER}{}", config.as_document(style)))
        }
        Action::Print(print) => {
            let config = print.config.read()?;
            let text = match print.diff {
                true => config.as_document(Style { base: Some(&Config::default()), ..Style::default() }),
                false => config.to_toml(),
            };
            say(text.trim_end());
            Ok(())
        }
        Action::Check(check) => check.run(),
        Action::Presets(Presets { name: Some(name) }) => {
            say(Preset::named(name)?.text().trim_end());
            Ok(())
        }
        Action::Presets(Presets { name: None }) => {
            let width = PRESETS.iter().map(|preset| preset.name.len()).max().unwrap_or(0);
            PRESETS.iter().for_each(|preset| say(format_args!("{:<width$}  {}", preset.name, preset.summary())));
            Ok(())
        }
        Action::Schema(out) => {
            let text = serde_json::to_string_pretty(config::schema()).expect("a schema is JSON");
            out.write(global, &(text + "\n"))
        }
        Action::Reference => {
            say(config::reference().trim_end());
            Ok(())
        }
    }
}

impl Init {
    fn check(&self) -> Result<Checked> {
        let overrides = self.config.overrides()?;
        match &self.config.config {
            Some(path) => Checked::file(path, &overrides, self.command),
            None => Ok(Checked::text("", "", &overrides, self.command)),
        }
    }
}

impl Out {
    fn write(&self, global: &Global, text: &str) -> Result<()> {
        match &self.out {
            Some(path) => {
                global.outputs().file(path)?;
                write_atomically(path, text.as_bytes())?;
                global.announce(format_args!("written: {}", path.display()));
            }
            None => say(text.trim_end()),
        }
        Ok(())
    }
}

impl Check {
    fn run(&self) -> Result<()> {
        let (mut problems, mut wrong) = (0, 0);
        for path in &self.files {
            let found = Checked::file(path, &self.changes.overrides()?, self.command)?;
            // Problems that appear only when files are read are reported once everything else is right.
            let refused = if found.missing.is_empty() { preflight::refusals(&found.configs) } else { Vec::new() };
            let refused: Vec<String> = refused.iter().map(|error| format!("{}: {error}", path.display())).collect();
            let count = found.errors.len() + found.missing.len() + found.more + refused.len();
            found.errors.iter().chain(&found.missing).for_each(say);
            refused.iter().for_each(say);
            if found.more > 0 {
                say(format_args!("{}: and {} more", path.display(), found.more));
            }
            if count == 0 {
                let commands: Vec<&str> = found.commands.iter().map(|command| command.name()).collect();
                say(match (found.runs, &commands[..]) {
                    (Some(runs), _) => format!("{}: OK, a sweep of {runs} runs", path.display()),
                    (None, []) => {
                        format!("{}: OK, but ranges are checked only with --for COMMAND", path.display())
                    }
                    (None, _) => format!("{}: OK for {}", path.display(), commands.join(" and ")),
                });
            }
            problems += count;
            wrong += usize::from(count > 0);
        }
        match problems {
            0 => Ok(()),
            count => Err(Error::input(format!("{count} problems in {wrong} of {} files", self.files.len()))),
        }
    }
}
