//! `inspect`: what a file or folder is.

use std::collections::BTreeMap;

use clap::Args;

use super::say;
use crate::error::Result;
use crate::inspect::{ImageMemory, Part, Report, inspect};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// File or folder: a model, an adapter, a run or a checkpoint; builtin:NAME; or org/name in the cache of the Hugging
    /// Face hub (nothing is downloaded)
    #[arg(value_name = "FILE|DIR|NAME")]
    path: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let report = inspect(&arguments.path)?;
    match arguments.json {
        true => say(serde_json::to_string_pretty(&report).expect("text and numbers are JSON")),
        false => print(&report),
    }
    Ok(())
}

/// A number of bytes in a readable unit.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

/// The number types, with the share of each if there are several.
fn types(stored_as: &BTreeMap<String, u64>) -> String {
    let all: u64 = stored_as.values().sum();
    let shown = stored_as.iter().map(|(name, count)| match stored_as.len() {
        1 => name.clone(),
        _ => format!("{name} {:.1} %", 100.0 * *count as f64 / all.max(1) as f64),
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn print(report: &Report) {
    say(format_args!("{}: {}", report.path, report.what));
    say(format_args!("parameters             {} ({})", report.parameters, types(&report.stored_as)));
    say(format_args!("on disk                {}", size(report.bytes_on_disk)));
    report.components.iter().for_each(print_part);
    if let Some(memory) = report.weights_memory {
        let (full, half, eight) = (size(memory.f32), size(memory.f16), size(memory.q8_0));
        say(format_args!("weights in memory      {full} as f32, {half} as f16, {eight} as q8_0"));
        if memory.position_table > 0 {
            let table = memory.position_table;
            say(format_args!(
                "                       without the position table ({table} numbers), of which only a part is used"
            ));
        }
    }
    if let Some(memory) = report.device_memory {
        let (bytes, batch) = (size(memory.sampling), memory.sampling_batch);
        say(format_args!("device memory          {bytes} to draw {batch} images at a time"));
        if let Some(bytes) = memory.training {
            let bytes = size(bytes);
            say(format_args!(
                "                       {bytes} to train with the default configuration; see train --dry-run"
            ));
        }
    }
    print_image_memory(&report.image_memory);
    if let Some(command) = &report.sample_command {
        say(format_args!("draw with it           {command}"));
    }
    if let Some(command) = &report.train_command {
        say(format_args!("train it with          {command}"));
    }
    report.notes.iter().for_each(|note| say(format_args!("note                   {note}")));
}

/// Two lines for each size: to draw, and to train.
fn print_image_memory(memory: &[ImageMemory]) {
    let mut title = "device memory";
    for of_size in memory.chunk_by(|a, b| a.size == b.size) {
        let [width, height] = of_size[0].size;
        let listed = |bytes: fn(&ImageMemory) -> u64| {
            let each = of_size.iter().map(|it| format!("{} as {}", size(bytes(it)), it.weights));
            each.collect::<Vec<_>>().join(", ")
        };
        say(format_args!("{title:<23}to draw {width}x{height}: {}", listed(|it| it.sampling)));
        say(format_args!("{:<23}to train at {width}x{height}: {}", "", listed(|it| it.training)));
        title = "";
    }
    if !memory.is_empty() {
        let said = [
            "(the most that is there at a time: an encoder's layer, the transformer, the decoder if it has one;",
            "one image at a time, with guidance; training as the command below, see train --dry-run)",
        ];
        said.iter().for_each(|line| say(format_args!("{:<23}{line}", "")));
    }
}

fn print_part(part: &Part) {
    let known = [part.class.as_deref().unwrap_or_default(), &part.sizes];
    let known: String = known.iter().filter(|text| !text.is_empty()).map(|text| format!(", {text}")).collect();
    let text = match (part.state, part.parameters) {
        ("present", 0) => size(part.bytes_on_disk),
        ("present", parameters) => {
            format!("{parameters} parameters ({}), {}", types(&part.stored_as), size(part.bytes_on_disk))
        }
        (state, _) => state.to_owned(),
    };
    say(format_args!("  {:<20} {text}{known}", part.name));
}
