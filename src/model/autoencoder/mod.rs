//! Autoencoders: pictures to the latents of a flow model and back. Weights are frozen, and there are no gradients.

mod bound;
mod config;
mod decoding;
mod kl;
mod layers;
mod names;
mod tiles;
mod tiny;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

pub use config::{AutoencoderConfig, KlConfig, TinyConfig};
pub use decoding::PictureDecoder;

use maybe_async::maybe_async;

use self::bound::BoundHalf;
use self::layers::{Layers, Recorder};
use self::tiles::{Canvas, Tiles, crop};
use super::file::{Tensors, read_tensors};
use crate::error::{Error, Result};
use crate::files::read_file;
use crate::gpu::Gpu;
use crate::graph::{DeviceProfile, PartMemory, Tensor};
use crate::ops::Scale;

/// An autoencoder with its weights, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Autoencoder {
    config: AutoencoderConfig,
    decoder: Vec<f32>,
    encoder: Vec<f32>,
}

/// The encoder or the decoder of a configuration.
#[derive(Clone, Debug)]
struct Half {
    config: AutoencoderConfig,
    decodes: bool,
}

impl Half {
    fn layers(&self) -> Layers {
        match (&self.config, self.decodes) {
            (AutoencoderConfig::Kl(config), true) => config.decoder_layers(),
            (AutoencoderConfig::Kl(config), false) => config.encoder_layers(),
            (AutoencoderConfig::Tiny(config), true) => config.decoder_layers(),
            (AutoencoderConfig::Tiny(config), false) => config.encoder_layers(),
            (AutoencoderConfig::Pixels(_), _) => Layers::default(),
        }
    }

    fn input_channels(&self) -> usize {
        if self.decodes { self.config.latent_channels() } else { self.config.picture_channels()[0] }
    }

    fn record(&self, recorder: &mut Recorder<'_>, x: Tensor) -> Tensor {
        match (&self.config, self.decodes) {
            (AutoencoderConfig::Kl(config), true) => config.decode(recorder, x),
            (AutoencoderConfig::Kl(config), false) => config.encode(recorder, x),
            (AutoencoderConfig::Tiny(config), true) => config.decode(recorder, x),
            (AutoencoderConfig::Tiny(config), false) => config.encode(recorder, x),
            (AutoencoderConfig::Pixels(scale), true) => recorder.graph.apply(Scale(scale.recip()), &[x]),
            (AutoencoderConfig::Pixels(scale), false) => recorder.graph.apply(Scale(*scale), &[x]),
        }
    }
}

/// Names of the weights in a folder of diffusers, in order of preference.
const WEIGHTS: [&str; 2] = ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"];

impl Autoencoder {
    /// Reads a folder of diffusers: `config.json` and `diffusion_pytorch_model.safetensors`, or its variant in 16 bits.
    ///
    /// # Errors
    /// [`Error::Input`] if a file cannot be read, or does not fit: see [`AutoencoderConfig::from_json`] and
    /// [`Autoencoder::from_tensors`].
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let bytes = read_file(&path)?;
        let config = AutoencoderConfig::from_json(&path.display().to_string(), &String::from_utf8_lossy(&bytes))?;
        let path = WEIGHTS.map(|name| folder.join(name)).into_iter().find(|path| path.exists());
        let path = path.unwrap_or_else(|| folder.join(WEIGHTS[0]));
        Self::from_tensors(&path.display().to_string(), config, read_tensors(&path)?)
    }

    /// An autoencoder from its tensors, with the current names of diffusers, older ones, or those of the original
    /// programs. Messages call their source `file`.
    ///
    /// # Errors
    /// [`Error::Input`] if a tensor is missing, misshapen, unknown or not finite.
    pub fn from_tensors(file: &str, config: AutoencoderConfig, tensors: Tensors) -> Result<Self> {
        let mut tensors = match &config {
            AutoencoderConfig::Kl(config) => names::of_kl(tensors, config.block_out_channels.len()),
            AutoencoderConfig::Tiny(_) => names::of_tiny(tensors),
            AutoencoderConfig::Pixels(_) => tensors,
        };
        let mut take = |decodes| Half { config: config.clone(), decodes }.layers().take(file, &mut tensors);
        let (decoder, encoder) = (take(true)?, take(false)?);
        match tensors.keys().next() {
            Some(extra) => {
                Err(Error::input(format!("{file} has a tensor `{extra}` that its autoencoder does not have")))
            }
            None => Ok(Self { config, decoder, encoder }),
        }
    }

    /// Its configuration.
    pub fn config(&self) -> &AutoencoderConfig {
        &self.config
    }

    /// The decoder on a device, for `micro_batch` latents at a time.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub fn decoder(&self, gpu: &Arc<Gpu>, micro_batch: usize) -> Result<Decoder> {
        Decoder::new(gpu, &self.config, &self.decoder, micro_batch)
    }

    /// The encoder on a device, for `micro_batch` pictures at a time.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub fn encoder(&self, gpu: &Arc<Gpu>, micro_batch: usize) -> Result<Encoder> {
        let half = Half { config: self.config.clone(), decodes: false };
        Ok(Encoder { config: self.config.clone(), half: BoundHalf::new(gpu, half, &self.encoder, micro_batch)? })
    }
}

/// Checks that `values` are complete samples with this number of channels and this size.
fn check_samples(what: &str, values: &[f32], channels: usize, size: [usize; 2]) -> Result<()> {
    let dim = channels * size[0] * size[1];
    if dim > 0 && values.len().is_multiple_of(dim) {
        return Ok(());
    }
    Err(Error::input(format!(
        "{} numbers are not complete {what} of {channels} channels, {} rows and {} columns: use a multiple of {dim}",
        values.len(),
        size[0],
        size[1]
    )))
}

/// Lengths of tiles, in latents, that are tried if a device has no room for a complete picture.
const TILES: [usize; 8] = [128, 96, 64, 48, 32, 24, 16, 8];

/// A decoder on the device: latents of a flow model to pictures.
#[derive(Debug)]
pub struct Decoder {
    config: AutoencoderConfig,
    half: BoundHalf,
    tile: Option<usize>,
}

impl Decoder {
    fn new(gpu: &Arc<Gpu>, config: &AutoencoderConfig, weights: &[f32], micro_batch: usize) -> Result<Self> {
        let half = Half { config: config.clone(), decodes: true };
        let half = BoundHalf::new(gpu, half, weights, micro_batch)?;
        Ok(Self { config: config.clone(), half, tile: None })
    }

    /// The same decoder, with tiles of at most `latents` latents along each side. By default, tiles are used if a
    /// picture does not fit on the device.
    ///
    /// Tiles overlap by a quarter and are blended linearly. The result is an approximation: group norm sees the means of a
    /// tile instead of those of the picture.
    pub fn with_tile(mut self, latents: usize) -> Self {
        self.tile = Some(latents.max(1));
        self
    }

    /// Pictures `[N, 3, H, W]`, about −1 to 1, of the latents `[N, C, h, w]` of a flow model; `size` is `[h, w]`.
    ///
    /// # Errors
    /// As [`Decoder::decode_each`].
    #[maybe_async]
    pub async fn decode(&mut self, latents: &[f32], size: [usize; 2]) -> Result<Vec<f32>> {
        let mut pictures = Vec::new();
        let mut take = |_: usize, picture: &[f32]| {
            pictures.extend_from_slice(picture);
            Ok(())
        };
        self.decode_each(latents, size, &mut take).await?;
        Ok(pictures)
    }

    /// The same, picture by picture in order, without keeping all of them in memory.
    ///
    /// # Errors
    /// [`Error::Input`] if the latents do not have this size; if the device is lost, or cannot fit even a small tile;
    /// whatever `take` returns.
    #[maybe_async]
    pub async fn decode_each(
        &mut self,
        latents: &[f32],
        size: [usize; 2],
        take: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        check_samples("latents", latents, self.config.latent_channels(), size)?;
        let mut latents = self.config.unscaled(latents);
        let is_tiny = matches!(self.config, AutoencoderConfig::Tiny(_));
        if is_tiny {
            tiny::limited(&mut latents);
        }
        let mut finish = |index: usize, picture: &[f32]| match is_tiny {
            // From 0 to 1.
            true => take(index, &picture.iter().map(|value| 2.0 * value - 1.0).collect::<Vec<_>>()),
            false => take(index, picture),
        };
        let tile = self.tile_of(size)?;
        if tile == size {
            return self.half.run(&latents, size, &mut finish).await;
        }
        let dim = self.config.latent_channels() * size[0] * size[1];
        for (index, sample) in latents.chunks(dim).enumerate() {
            let picture = self.decode_in_tiles(sample, size, tile).await?;
            finish(index, &picture)?;
        }
        Ok(())
    }

    /// The size of tiles for latents of a size, `[rows, columns]`: all of them if the device has room.
    ///
    /// # Errors
    /// If it does not have room for the smallest tiles.
    pub fn tile_of(&self, size: [usize; 2]) -> Result<[usize; 2]> {
        if let Some(tile) = self.tile {
            return Ok(size.map(|extent| extent.min(tile)));
        }
        fitting_tile(size, |part| self.half.check(part).map(|()| part))
    }

    /// One picture of one sample.
    #[maybe_async]
    async fn decode_in_tiles(&mut self, sample: &[f32], size: [usize; 2], tile: [usize; 2]) -> Result<Vec<f32>> {
        let factor = self.config.factor();
        let [rows, columns] = [0, 1].map(|axis| Tiles::new(size[axis], tile[axis]));
        let starts: Vec<[usize; 2]> =
            rows.starts().iter().flat_map(|row| columns.starts().iter().map(|column| [*row, *column])).collect();
        let part = [rows.tile(), columns.tile()];
        let parts: Vec<f32> = starts.iter().flat_map(|start| crop(sample, size, *start, part)).collect();
        let mut canvas = Canvas::new(self.config.picture_channels()[1], size.map(|extent| extent * factor));
        let mut join = |index: usize, picture: &[f32]| {
            let [row, column] = starts[index];
            let weights = [rows.weights(row, factor), columns.weights(column, factor)];
            canvas.add(picture, [row * factor, column * factor], [&weights[0], &weights[1]]);
            Ok(())
        };
        self.half.run(&parts, part, &mut join).await?;
        Ok(canvas.finish())
    }
}

/// What `check` returns for the largest tile that it accepts of latents of a size: all of them if possible.
fn fitting_tile<T>(size: [usize; 2], check: impl Fn([usize; 2]) -> Result<T>) -> Result<T> {
    let mut found = check(size);
    for tile in TILES.into_iter().filter(|tile| *tile < size[0].max(size[1])) {
        if found.is_ok() {
            break;
        }
        found = check(size.map(|extent| extent.min(tile)));
    }
    found
}

/// What a decoder takes on such a device for latents of a size, and the tile that it is for: the largest whose memory
/// `room` accepts, as [`Decoder::tile_of`] chooses.
///
/// # Errors
/// If there is no room for the smallest tiles.
pub fn planned_decoder(
    config: &AutoencoderConfig,
    size: [usize; 2],
    profile: &DeviceProfile,
    room: &dyn Fn(&PartMemory) -> Result<()>,
) -> Result<([usize; 2], PartMemory)> {
    let half = Half { config: config.clone(), decodes: true };
    fitting_tile(size, |part| {
        let memory = bound::planned(&half, 1, part, profile)?;
        room(&memory)?;
        Ok((part, memory))
    })
}

/// What an encoder takes on such a device for one picture of a size.
///
/// # Errors
/// If the device does not allow a tensor of this size.
pub fn planned_encoder(config: &AutoencoderConfig, size: [usize; 2], profile: &DeviceProfile) -> Result<PartMemory> {
    bound::planned(&Half { config: config.clone(), decodes: false }, 1, size, profile)
}

/// The result of an encoder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// Means of the latents `[N, C, h, w]`, not yet scaled: see [`AutoencoderConfig::scaled`].
    pub mean: Vec<f32>,
    /// Logarithms of their variances, from −30 to 20; empty unless it is an `AutoencoderKL`.
    pub logvar: Vec<f32>,
}

/// An encoder on the device: pictures to latents.
#[derive(Debug)]
pub struct Encoder {
    config: AutoencoderConfig,
    half: BoundHalf,
}

impl Encoder {
    /// Encodes pictures `[N, 3, H, W]`, −1 to 1; `size` is `[H, W]`.
    ///
    /// # Errors
    /// [`Error::Input`] if the pictures do not have this size, or it is not a multiple of [`AutoencoderConfig::factor`];
    /// if the device is lost, or does not have enough memory.
    #[maybe_async]
    pub async fn encode(&mut self, pictures: &[f32], size: [usize; 2]) -> Result<Encoded> {
        check_samples("images", pictures, self.config.picture_channels()[0], size)?;
        let factor = self.config.factor();
        if size.iter().any(|extent| !extent.is_multiple_of(factor)) {
            return Err(Error::input(format!(
                "images of {} rows and {} columns cannot be encoded: both must be multiples of {factor}",
                size[0], size[1]
            )));
        }
        let mut encoded = Encoded::default();
        let pictures: Cow<'_, [f32]> = match self.config {
            // From 0 to 1.
            AutoencoderConfig::Tiny(_) => pictures.iter().map(|value| 0.5 * (value + 1.0)).collect(),
            AutoencoderConfig::Kl(_) | AutoencoderConfig::Pixels(_) => Cow::Borrowed(pictures),
        };
        let has_variance = matches!(self.config, AutoencoderConfig::Kl(_));
        let mut take = |_: usize, moments: &[f32]| {
            let (mean, logvar) = moments.split_at(if has_variance { moments.len() / 2 } else { moments.len() });
            encoded.mean.extend_from_slice(mean);
            encoded.logvar.extend(logvar.iter().map(|value| value.clamp(-30.0, 20.0)));
            Ok(())
        };
        self.half.run(&pictures, size, &mut take).await?;
        Ok(encoded)
    }
}
