//! `merge`: adds an adapter to the weights of its model.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Global, say};
use crate::assets;
use crate::error::{Error, Result};
use crate::model::{Adapter, StoredModel};
use crate::text_to_image::{TextToImage, folder_of};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Model that the adapter was trained on: a file, or builtin:NAME; or a text-to-image pipeline: its folder, or org/name
    /// in the hub's cache
    #[arg(long, value_name = "FILE|DIR|NAME")]
    model: String,
    /// Adapter: a directory that PEFT or a run wrote; for a text-to-image pipeline also one that diffusers wrote
    #[arg(long, visible_alias = "lora", value_name = "DIR")]
    adapter: PathBuf,
    /// Factor of the adapter
    #[arg(long, value_name = "S", default_value_t = 1.0, allow_negative_numbers = true)]
    scale: f64,
    /// File to write; of a text-to-image pipeline the transformer alone
    output: PathBuf,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let mut outputs = global.outputs().reads(&arguments.model).reads(&arguments.adapter);
    if let Some(folder) = folder_of(&arguments.model)? {
        let model = TextToImage::open(&folder, None)?;
        let adapter = model.adapter(&arguments.adapter)?;
        outputs.reads(folder.join("transformer")).file(&arguments.output)?;
        model.merge(&adapter, checked_scale(arguments.scale)?, &arguments.output)?;
        return done(arguments);
    }
    let model = assets::load_model(&arguments.model)?;
    let merged = merged(&arguments.model, model, &arguments.adapter, arguments.scale)?;
    outputs.file(&arguments.output)?;
    merged.save(&arguments.output)?;
    done(arguments)
}

fn done(arguments: &Arguments) -> Result<()> {
    say(format_args!("{}: {} with {}", arguments.output.display(), arguments.model, arguments.adapter.display()));
    Ok(())
}

/// A model plus `scale` times the adapter in a folder; messages call the model `name`.
pub(super) fn merged(name: &str, model: StoredModel, folder: &Path, scale: f64) -> Result<StoredModel> {
    let adapter = Adapter::load(folder, &model.flow_model(name)?)?;
    model.with_adapter(name, adapter, checked_scale(scale)?)
}

/// The scale of an adapter, which must be finite.
pub(super) fn checked_scale(scale: f64) -> Result<f64> {
    match scale.is_finite() {
        true => Ok(scale),
        false => Err(Error::input(format!("the adapter's scale is {scale}: it must be a finite number"))),
    }
}
