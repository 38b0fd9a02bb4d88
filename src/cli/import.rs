//! `import`: converts checkpoints of other programs to native models.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Global, say};
use crate::error::Result;
use crate::model::{NullClass, import_stored_sit, open_foreign};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Program that wrote the input
    #[arg(long, value_enum)]
    format: Format,
    /// Attention heads, if the sizes are not those of a published model
    #[arg(long, value_name = "N")]
    num_heads: Option<usize>,
    /// Classes of the model; one more row of its class table means "no class"
    #[arg(long, value_name = "N")]
    num_classes: Option<usize>,
    /// The class table has no row for "no class": the model was trained without class dropout
    #[arg(long, conflicts_with = "num_classes")]
    no_null_class: bool,
    /// File to read (safetensors)
    input: PathBuf,
    /// Native model to write (safetensors)
    output: PathBuf,
}

/// Formats that can be imported.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// SiT or DiT from Facebook Research
    Sit,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let tensors = open_foreign(&arguments.input)?;
    let null_class = match (arguments.num_classes, arguments.no_null_class) {
        (Some(classes), _) => NullClass::Classes(classes),
        (None, true) => NullClass::Absent,
        (None, false) => NullClass::Assumed,
    };
    let model = match arguments.format {
        Format::Sit => import_stored_sit(tensors, arguments.num_heads, null_class)?,
    };
    global.outputs().reads(&arguments.input).file(&arguments.output)?;
    model.save(&arguments.output)?;
    let flow_model = model.flow_model("the new model")?;
    say(format_args!(
        "{}: {}, {} parameters",
        arguments.output.display(),
        flow_model.sizes(),
        flow_model.layout().parameter_count()
    ));
    if null_class == NullClass::Assumed {
        let has_null_class = flow_model.null_condition().is_some();
        let rows = flow_model.num_conditions() + usize::from(has_null_class);
        global.announce(match has_null_class {
            true => format!(
                "assumed: the last of the {rows} rows of its class table means \"no class\"; if it is a class, import \
                 it with --no-null-class"
            ),
            false => "assumed: its only class is a class, not \"no class\", so it cannot be guided".to_owned(),
        });
    }
    Ok(())
}
