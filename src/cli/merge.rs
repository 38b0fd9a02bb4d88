//! `merge`: adds an adapter to the weights of its model.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Global, say};
use crate::assets;
use crate::error::{Error, Result};
use crate::model::{Adapter, StoredModel};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Model that the adapter was trained on: a file, or builtin:NAME
    #[arg(long, value_name = "FILE")]
    model: String,
    /// Adapter: a directory that PEFT or a run wrote
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Factor of the adapter
    #[arg(long, value_name = "S", default_value_t = 1.0, allow_negative_numbers = true)]
    scale: f64,
    /// File to write
    output: PathBuf,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let model = assets::load_model(&arguments.model)?;
    let merged = merged(&arguments.model, model, &arguments.adapter, arguments.scale)?;
    global.outputs().reads(&arguments.model).reads(&arguments.adapter).file(&arguments.output)?;
    merged.save(&arguments.output)?;
    say(format_args!("{}: {} with {}", arguments.output.display(), arguments.model, arguments.adapter.display()));
    Ok(())
}

/// A model plus `scale` times the adapter in a folder; messages call the model `name`.
pub(super) fn merged(name: &str, model: StoredModel, folder: &Path, scale: f64) -> Result<StoredModel> {
    if !scale.is_finite() {
        return Err(Error::input(format!("the adapter's scale is {scale}: it must be a finite number")));
    }
    let adapter = Adapter::load(folder, &model.flow_model(name)?)?;
    model.with_adapter(name, adapter, scale)
}
