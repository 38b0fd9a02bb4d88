//! `sample` for text-to-image models: pictures of prompts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::sample::{Arguments, MOST};
use super::{Global, Outputs, say};
use crate::config::WeightType;
use crate::error::{Error, Result};
use crate::model::folder::locate;
use crate::model::text::EncoderChoice;
use crate::model::{PictureDecoder, Prompt};
use crate::sampling::requests_for;
use crate::text_to_image::{
    Conditions, NamedModel, Order, TextToImage, check_count, counted, cut_warnings, picture_files, read_prompts,
    read_start,
};

/// The published small decoder.
const TAESD3: &str = "madebyollin/taesd3";

/// Options of text-to-image models.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of text-to-image models")]
pub(super) struct TextArguments {
    /// Prompt, repeatable; with --conditions one of the file's
    #[arg(long = "prompt", value_name = "TEXT")]
    prompts: Vec<String>,
    /// File of prompts: one a line, or JSON lines with `prompt`
    #[arg(long = "prompts", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Prompts that `encode` has encoded: text encoders are not needed
    #[arg(long, value_name = "FILE")]
    conditions: Option<PathBuf>,
    /// What guidance leads away from
    #[arg(long, value_name = "TEXT")]
    negative_prompt: Option<String>,
    /// Size of the images [default: that of the pipeline]
    #[arg(long, value_name = "WxH", value_parser = size)]
    size: Option<[usize; 2]>,
    /// Decoder of the latents [default: vae]
    #[arg(long, value_enum)]
    decoder: Option<DecoderName>,
    /// The small decoder: a folder, a file, or org/name in the hub's cache [default with --decoder taesd: madebyollin/taesd3]
    #[arg(long, value_name = "FILE|DIR|NAME")]
    taesd: Option<String>,
    /// Decode in tiles of so many pixels along a side [default: as large as the device takes]
    #[arg(long, value_name = "N")]
    tile: Option<usize>,
    /// How the transformer's weights are stored on the device [default: f16 if the files have 16 bits, else f32]
    #[arg(long, value_enum)]
    weights: Option<WeightType>,
    /// Weights of the transformer to read if there are several, such as fp16
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    #[command(flatten)]
    t5: T5Arguments,
    /// Images that are drawn together; none depends on it
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
}

/// How prompts are encoded.
#[derive(Debug, Args)]
pub(super) struct T5Arguments {
    /// Leave out the largest text encoder: less to read and to compute, and worse at long prompts and written words
    #[arg(long)]
    pub(super) no_t5: bool,
    /// Tokens of a prompt that T5 sees; padding changes the image, too [default: 256]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=512))]
    pub(super) t5_tokens: Option<u16>,
}

impl T5Arguments {
    pub(super) fn choice(&self) -> EncoderChoice {
        EncoderChoice { t5: !self.no_t5, t5_tokens: self.t5_tokens.map(usize::from) }
    }
}

/// A decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DecoderName {
    /// The pipeline's own
    Vae,
    /// A small one, some twenty times cheaper and smoother
    Taesd,
}

/// Width and height as `512x768`.
fn size(text: &str) -> Result<[usize; 2], String> {
    let parts = text.split_once(['x', 'X']).map(|(width, height)| [height, width].map(str::parse::<usize>));
    match parts {
        Some([Ok(height), Ok(width)]) => Ok([height, width]),
        _ => Err("expected width and height, such as 512x512".into()),
    }
}

impl TextArguments {
    /// Refuses the options here for another model.
    ///
    /// # Errors
    /// If one is given.
    pub(super) fn refuse(&self, model: &str) -> Result<()> {
        let given = [
            ("--prompt", !self.prompts.is_empty()),
            ("--prompts", self.file.is_some()),
            ("--conditions", self.conditions.is_some()),
            ("--negative-prompt", self.negative_prompt.is_some()),
            ("--size", self.size.is_some()),
            ("--decoder", self.decoder.is_some()),
            ("--taesd", self.taesd.is_some()),
            ("--tile", self.tile.is_some()),
            ("--weights", self.weights.is_some()),
            ("--variant", self.variant.is_some()),
            ("--no-t5", self.t5.no_t5),
            ("--t5-tokens", self.t5.t5_tokens.is_some()),
            ("--batch", self.batch.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some(_) if !model.starts_with("builtin:") && !Path::new(model).exists() => {
                Err(Error::unreadable(Path::new(model), "it does not exist; name the folder of a pipeline"))
            }
            Some((option, _)) => Err(Error::input(format!(
                "{option} is for text-to-image models, and {model} is none (a folder with a model_index.json or a transformer): leave it out, \
                 or name another model"
            ))),
        }
    }

    fn decoder(&self, model: &TextToImage) -> Result<PictureDecoder> {
        let given = [("--decoder", self.decoder.is_some()), ("--tile", self.tile.is_some())];
        if model.network().pixel_scale().is_some()
            && let Some((option, _)) = given.iter().find(|(_, is_given)| *is_given)
        {
            let folder = model.pipeline().folder.display();
            return Err(Error::input(format!("{folder} makes images without an autoencoder: leave out {option}")));
        }
        match (self.decoder, self.taesd.as_deref()) {
            (Some(DecoderName::Vae), Some(_)) => {
                Err(Error::input("--taesd is another decoder than --decoder vae: leave out one of the two"))
            }
            (_, Some(taesd)) => model.decoder(Some(&locate(taesd)?)),
            (Some(DecoderName::Taesd), None) => model.decoder(Some(&locate(TAESD3)?)),
            _ => model.decoder(None),
        }
    }

    /// Checks what the options say of each other.
    fn check(&self) -> Result<()> {
        let none_with_conditions = [
            ("--prompts", self.file.is_some()),
            ("--negative-prompt", self.negative_prompt.is_some()),
            ("--no-t5", self.t5.no_t5),
            ("--t5-tokens", self.t5.t5_tokens.is_some()),
        ];
        if self.conditions.is_some()
            && let Some((option, _)) = none_with_conditions.iter().find(|(_, is_given)| *is_given)
        {
            return Err(Error::input(format!(
                "{option} has no effect with --conditions, whose prompts are encoded already: leave it out, or give it to \
                 `flowdppo-wgpu encode`"
            )));
        }
        match self.batch.filter(|batch| !(1..=MOST).contains(batch)) {
            Some(batch) => Err(Error::input(format!("--batch is {batch}: it must be a number from 1 to {MOST}"))),
            None => Ok(()),
        }
    }

    /// The prompts that are to be encoded.
    fn prompts(&self) -> Result<Vec<Prompt>> {
        let mut prompts: Vec<Prompt> = self.prompts.iter().map(|text| text.as_str().into()).collect();
        if let Some(file) = &self.file {
            prompts.extend(read_prompts(file)?);
        }
        if prompts.is_empty() {
            return Err(Error::input(
                "there is nothing to draw: give a --prompt, or --prompts or --conditions with a file",
            ));
        }
        check_count(prompts.len(), "--conditions").map(|()| prompts)
    }
}

pub(super) fn run(global: &Global, arguments: &Arguments, named: &NamedModel) -> Result<()> {
    let text = &arguments.text;
    let mut order = prepare(global, arguments, named)?;
    let (kept, given) = match &text.conditions {
        Some(path) => (Some(Conditions::open(path, &text.prompts)?), Vec::new()),
        None => (None, text.prompts()?),
    };
    let prompts = kept.as_ref().map_or(given.len(), |kept| kept.prompts().len());
    let count = arguments.count.unwrap_or(1);
    let pictures = prompts.saturating_mul(count);
    if pictures > MOST {
        return Err(Error::input(format!(
            "{pictures} images are asked for: {MOST} are the most; lower --count, or name some of the prompts"
        )));
    }
    let places: Vec<u32> = (0..prompts as u32).collect();
    order.pictures = requests_for(&places, count, arguments.seed);
    // Nothing is encoded before it is known that there is room for the results.
    let files = check_outputs(global, arguments, &order)?;
    if let Some(kept) = &kept {
        kept.check(order.model.network(), order.guidance_scale != 1.0)?;
    }
    let encoders = kept.is_none().then(|| order.model.encoders(text.t5.choice())).transpose()?;

    let gpu = global.open("")?;
    let conditions = Arc::new(match (kept, encoders) {
        (None, Some(encoders)) => {
            global.announce(format_args!("encoding {}", counted(prompts, "prompt")));
            let negative = text.negative_prompt.as_deref().unwrap_or_default();
            let (conditions, cut) = Conditions::encode(&gpu, &encoders, &given, negative)?;
            cut_warnings(&cut).iter().for_each(|warning| log::warn!("{warning}"));
            conditions
        }
        (kept, _) => kept.expect("there are conditions or encoders"),
    });
    global.announce(format_args!("reading the transformer, with weights as {}", order.weights.name()));
    let mut drawn = order.draw(&gpu, &conditions, arguments.trajectory)?;
    let keep = arguments.save_tensors.is_some();
    order.write_pictures(&gpu, &mut drawn, &files, |index| texts(arguments, &order, &conditions, index), keep)?;
    if let Some(path) = &arguments.save_tensors {
        order.save_tensors(path, drawn)?;
    }
    let last = files.last().filter(|_| files.len() > 1).map(|last| format!(" to {}", last.display()));
    say(format_args!("{}: {}{}", counted(files.len(), "image"), files[0].display(), last.unwrap_or_default()));
    Ok(())
}

/// Reads everything that is small, and checks it. There are no images yet.
fn prepare(global: &Global, arguments: &Arguments, named: &NamedModel) -> Result<Order> {
    let text = &arguments.text;
    arguments.check()?;
    text.check()?;
    if !arguments.classes.is_empty() {
        return Err(Error::input(format!(
            "--class is for models with classes, and {} is a text-to-image model: leave it out",
            arguments.model
        )));
    }
    arguments.vae.refuse(&arguments.model, "leave it out, or name a small decoder with --taesd")?;
    let model = named.open(text.variant.as_deref())?;
    let decoder = text.decoder(&model)?;
    let start = arguments.noise.as_ref().map(|path| read_start(path, model.network().channels())).transpose()?;
    let factor = decoder.factor();
    let of_noise = start.as_ref().map(|(size, _)| size.map(|extent| extent * factor));
    let size = match (text.size, of_noise) {
        (Some(asked), Some([height, width])) if asked != [height, width] => {
            return Err(Error::input(format!(
                "--size is {}x{}, but the noise is of images of {width}x{height}: leave out --size",
                asked[1], asked[0]
            )));
        }
        (asked, of_noise) => model.latent_size("--size", asked.or(of_noise), factor)?,
    };
    let given = arguments.adapter.adapter.as_deref().map(|path| Ok::<_, Error>((path, arguments.adapter.scale()?)));
    let adapter = named.adapter(&model, given.transpose()?)?;
    let usual = model.network().usual_sampling();
    Ok(Order {
        size,
        tile: text.tile.map(|pixels| decoder.tile("--tile", pixels)).transpose()?,
        table: arguments.table(&model.schedule(arguments.shift), usual.steps)?,
        guidance_scale: arguments.guidance_scale.unwrap_or(usual.guidance_scale),
        adapter,
        solver: arguments.solver,
        weights: text.weights.unwrap_or_else(|| model.usual_weights()),
        start: start.map(|(_, values)| values),
        pictures: Vec::new(),
        batch: text.batch.unwrap_or(1),
        verbosity: global.verbosity(),
        model,
        decoder: Arc::new(decoder),
    })
}

/// The files that the images will be, which can be written.
fn check_outputs(global: &Global, arguments: &Arguments, order: &Order) -> Result<Vec<PathBuf>> {
    let (text, pictures) = (&arguments.text, order.pictures.len());
    order.check_start()?;
    let inputs = [&arguments.noise, &arguments.adapter.adapter, &text.file, &text.conditions].into_iter().flatten();
    let read = global.outputs().reads(&order.model.pipeline().folder).reads(&arguments.model);
    let outputs = inputs.fold(read, Outputs::reads);
    let mut outputs = text.taesd.iter().fold(outputs, Outputs::reads);
    let files = picture_files(&arguments.out, pictures);
    files.iter().try_for_each(|file| outputs.image(file))?;
    if let Some(path) = &arguments.save_tensors {
        order.check_tensors(arguments.trajectory)?;
        outputs.file(path)?;
    }
    Ok(files)
}

/// What an image's file says of it: the prompt, and how it was made, as JSON.
fn texts(arguments: &Arguments, order: &Order, conditions: &Conditions, index: usize) -> Vec<(&'static str, String)> {
    let given = arguments.text.negative_prompt.as_deref();
    let comment = json!({
        "program": format!("flowdppo-wgpu {}", env!("CARGO_PKG_VERSION")),
        "model": arguments.model,
        "adapter": arguments.adapter.adapter.as_ref().map(|path| path.display().to_string()),
        "adapter_scale": order.adapter.as_ref().map(|(_, scale)| scale),
        "negative_prompt": given.or(conditions.negative_prompt()).unwrap_or_default(),
        "seed": arguments.seed,
        "image": index,
        "steps": order.table.steps(),
        "sampler": arguments.sampler,
        "guidance_scale": order.guidance_scale,
        "weights": order.weights.name(),
    });
    let prompt = conditions.prompts()[order.pictures[index].condition as usize].text.clone();
    vec![("Description", prompt), ("Comment", comment.to_string())]
}
