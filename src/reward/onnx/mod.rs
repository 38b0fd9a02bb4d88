//! Scores from any ONNX model that takes pictures, run by tract on the CPU.

mod ctc;
mod network;
mod picture;

use super::{Batch, Reward};
use crate::config::{self, Output, PerChannel, Target};
use crate::error::{Error, Result};
use crate::files;
use crate::model::Pictures;
use network::{Network, Wanted};
use picture::Preparation;

/// An ONNX model, and what its output means.
#[derive(Debug)]
pub struct OnnxReward {
    components: [String; 1],
    network: Network,
    preparation: Preparation,
    measure: Measure,
}

/// How an output becomes a score.
#[derive(Debug)]
enum Measure {
    /// The probability of the class, with or without a softmax.
    ClassProbability { softmax: bool },
    /// The number at an index.
    Scalar(usize),
    /// The cosine with a vector.
    Cosine(Vec<f64>),
    /// The probability per character of the text of each class.
    Ctc { symbols: usize, texts: Vec<Vec<usize>> },
}

impl OnnxReward {
    /// Loads the model of a configuration for the pictures and classes of a flow model, and runs it once.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file if the model cannot be loaded or run, or its output does not fit.
    pub fn new(reward: &config::Reward, &Pictures { shape, classes, .. }: &Pictures<'_>) -> Result<Self> {
        if !matches!(shape.channels, 1 | 3) {
            return Err(Error::input(format!(
                "the reward \"onnx\" scores images, but the model makes {} channels: choose a reward without a model",
                shape.channels
            )));
        }
        let file = &reward.file;
        let wanted =
            Wanted { shape, input_size: reward.input_size, layout: reward.layout, output_name: &reward.output_name };
        let network = Network::load(file, &wanted)?;
        let preparation = Preparation {
            shape,
            channels: network.channels,
            size: network.size,
            layout: reward.layout,
            colour_order: reward.colour_order,
            range: reward.range.map(|value| value as f32),
            mean: per_channel("mean", &reward.mean, &network, file)?,
            std: per_channel("std", &reward.std, &network, file)?,
        };
        let measure = Measure::of(&reward.output, &network, classes.count, classes.names)
            .map_err(|cause| Error::input(format!("the output of {file} does not fit: {cause}")))?;
        let onnx = Self { components: ["onnx".into()], network, preparation, measure };
        // Score a grey picture, to find problems now and not after the first rollout.
        let grey = vec![0.0; shape.elements()];
        let output = onnx.network.run(&onnx.preparation.apply(&grey))?;
        match &onnx.measure {
            Measure::ClassProbability { softmax } => check_probabilities(file, *softmax, &output)?,
            Measure::Ctc { symbols, .. } => check_steps(file, *symbols, &output)?,
            Measure::Scalar(_) | Measure::Cosine(_) => {}
        }
        Ok(onnx)
    }

    fn score_one(&self, picture: &[f32], label: u32) -> Result<f64> {
        Ok(self.measure.score(&self.network.run(&self.preparation.apply(picture))?, label))
    }
}

impl Reward for OnnxReward {
    fn components(&self) -> &[String] {
        &self.components
    }

    /// Pictures go through the model one by one, on all cores: a score depends only on its picture.
    fn score(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f64>>> {
        let pictures: Vec<(&[f32], u32)> = batch.each().zip(batch.labels.iter().copied()).collect();
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let share = pictures.len().div_ceil(workers).max(1);
        let this = &*self;
        let score = |part: &[(&[f32], u32)]| -> Result<Vec<f64>> {
            part.iter().map(|(picture, label)| this.score_one(picture, *label)).collect()
        };
        let parts: Result<Vec<Vec<f64>>> = std::thread::scope(|scope| {
            let workers: Vec<_> = pictures.chunks(share).map(|part| scope.spawn(move || score(part))).collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, Result<Vec<f64>>>| {
                worker.join().unwrap_or_else(|_| Err(Error::failed("the ONNX model panicked on an image")))
            };
            workers.into_iter().map(join).collect()
        });
        Ok(vec![parts?.concat()])
    }
}

/// One number for each of red, green and blue; a grey input uses the first.
fn per_channel(key: &str, given: &PerChannel, network: &Network, file: &str) -> Result<[f32; 3]> {
    let values = given.values();
    match values.len() {
        1 => Ok([values[0] as f32; 3]),
        3 if network.channels == 3 => Ok([0, 1, 2].map(|channel| values[channel] as f32)),
        count => Err(Error::input(format!(
            "the input of {file} has {} channels, but `{key}` has {count} numbers: set one, or one per channel",
            network.channels
        ))),
    }
}

/// Whether numbers are from 0 to 1, up to rounding in 16 bits.
fn are_shares(numbers: &[f64]) -> bool {
    numbers.iter().all(|number| (-1e-3..=1.001).contains(number))
}

/// Checks that each step of a text recogniser has probabilities.
fn check_steps(file: &str, symbols: usize, output: &[f64]) -> Result<()> {
    // Thousands of symbols in 16 bits do not add up to 1 exactly.
    if output.chunks(symbols).all(|step| are_shares(step) && (step.iter().sum::<f64>() - 1.0).abs() < 1e-2) {
        return Ok(());
    }
    Err(Error::input(format!("the steps of the output of {file} are not probabilities: export it with a softmax")))
}

/// Checks that numbers are logits or probabilities as `output.softmax` says.
fn check_probabilities(file: &str, softmax: bool, output: &[f64]) -> Result<()> {
    let are_shares = are_shares(output);
    if !softmax && !are_shares {
        return Err(Error::input(format!(
            "the outputs of {file} are not probabilities, which are from 0 to 1: set `softmax = true` in `output`"
        )));
    }
    if softmax && are_shares && (output.iter().sum::<f64>() - 1.0).abs() < 1e-3 {
        log::warn!(
            "the output of {file} looks like probabilities, which another softmax would make nearly equal: set \
             `softmax = false` in `output`"
        );
    }
    Ok(())
}

impl Measure {
    fn of(
        output: &Output,
        network: &Network,
        classes: usize,
        class_names: &[String],
    ) -> std::result::Result<Self, String> {
        let shape = &network.output_shape;
        let count: usize = shape.iter().product();
        match output {
            Output::ClassProbability { .. } if count < classes => {
                Err(format!("it has {count} numbers per image, but the model has {classes} classes"))
            }
            Output::ClassProbability { softmax } => Ok(Self::ClassProbability { softmax: *softmax }),
            Output::Scalar { index } if *index >= count => Err(format!(
                "it has {count} numbers per image, so `index` = {index} is not one of 0 to {}",
                count.max(1) - 1
            )),
            Output::Scalar { index } => Ok(Self::Scalar(*index)),
            Output::Cosine { target } => {
                let target = read_target(target)?;
                if target.len() != count {
                    return Err(format!("it has {count} numbers per image, but `target` has {}", target.len()));
                }
                if target.iter().any(|value| !value.is_finite()) || norm(&target) == 0.0 {
                    return Err("`target` must be finite numbers that are not all 0".into());
                }
                Ok(Self::Cosine(target))
            }
            Output::Ctc { alphabet } => {
                let &[_, steps, symbols] = &shape[..] else {
                    return Err(format!("its shape is {shape:?}, but [1, steps, symbols] is expected for \"ctc\""));
                };
                let alphabet = read_alphabet(alphabet, network)?;
                let texts = texts(&alphabet, symbols, steps, classes, class_names)?;
                Ok(Self::Ctc { symbols, texts })
            }
        }
    }

    fn score(&self, output: &[f64], label: u32) -> f64 {
        match self {
            Self::ClassProbability { softmax: false } => output[label as usize],
            Self::ClassProbability { softmax: true } => {
                let largest = output.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weight = |logit: f64| (logit - largest).exp();
                weight(output[label as usize]) / output.iter().map(|logit| weight(*logit)).sum::<f64>()
            }
            Self::Scalar(index) => output[*index],
            Self::Cosine(target) => {
                let product: f64 = output.iter().zip(target).map(|(a, b)| a * b).sum();
                // An output of zeros is orthogonal to every target.
                product / (norm(output) * norm(target)).max(f64::MIN_POSITIVE)
            }
            Self::Ctc { symbols, texts } => {
                let text = &texts[label as usize];
                (ctc::log_probability(output, *symbols, text) / text.len() as f64).exp()
            }
        }
    }
}

fn norm(vector: &[f64]) -> f64 {
    vector.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn read_target(target: &Target) -> std::result::Result<Vec<f64>, String> {
    match target {
        Target::Vector(vector) => Ok(vector.clone()),
        Target::File(file) => {
            let unreadable = |cause: &dyn std::fmt::Display| format!("cannot read `target` {file}: {cause}");
            let bytes = files::read_ordinary(file.as_ref()).map_err(|cause| unreadable(&cause))?;
            serde_json::from_str(files::text(&bytes).map_err(|cause| unreadable(&cause))?)
                .map_err(|cause| format!("`target` {file} must be a JSON list of numbers: {cause}"))
        }
    }
}

/// The symbols of a text recogniser, without the blank.
fn read_alphabet(file: &str, network: &Network) -> std::result::Result<Vec<String>, String> {
    let text = match file {
        "" => network
            .alphabet
            .clone()
            .ok_or("the model contains no alphabet: set `alphabet` to a file with one symbol per line")?,
        file => {
            let unreadable = |cause: &dyn std::fmt::Display| format!("cannot read `alphabet` {file}: {cause}");
            let bytes = files::read_ordinary(file.as_ref()).map_err(|cause| unreadable(&cause))?;
            files::text(&bytes).map_err(|cause| unreadable(&cause))?.to_owned()
        }
    };
    // Not `lines`: an alphabet may contain unusual white space, and a trailing line end is not a symbol.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.split('\n').map(|symbol| symbol.strip_suffix('\r').unwrap_or(symbol).to_owned()).collect())
}

/// The name of each class in symbols, 0 being the blank.
fn texts(
    alphabet: &[String],
    symbols: usize,
    steps: usize,
    classes: usize,
    class_names: &[String],
) -> std::result::Result<Vec<Vec<usize>>, String> {
    // PaddleOCR's recognisers have the space as a last symbol, which their alphabets leave out.
    if ![alphabet.len() + 1, alphabet.len() + 2].contains(&symbols) {
        let lines = alphabet.len();
        return Err(format!(
            "it has {symbols} symbols, but the alphabet has {lines}: with the blank {} are expected, or with a space \
             at the end {}",
            lines + 1,
            lines + 2
        ));
    }
    let symbol_of = |character: char| {
        let found = alphabet.iter().position(|symbol| symbol.chars().eq([character]));
        let space = (character == ' ' && symbols == alphabet.len() + 2).then_some(alphabet.len());
        found.or(space).map(|index| index + 1)
    };
    let text_of = |class: usize| {
        let name = class_names.get(class).cloned().unwrap_or_else(|| class.to_string());
        let text = name.chars().map(|character| {
            symbol_of(character).ok_or_else(|| format!("the alphabet lacks {character:?} of the class {name:?}"))
        });
        let text: Vec<usize> = text.collect::<std::result::Result<_, _>>()?;
        let needed = ctc::steps_needed(&text);
        if text.is_empty() {
            return Err(format!("class {class} has no name to read"));
        }
        if needed > steps {
            return Err(format!(
                "it has {steps} steps, but the class {name:?} needs {needed}: make the input wider with `input_size`"
            ));
        }
        Ok(text)
    };
    (0..classes).map(text_of).collect()
}

#[cfg(test)]
mod tests;
