//! Latents to pictures, by the autoencoder of a pipeline or by a small one in its place.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::pipeline::TextToImage;
use crate::error::{Error, Result};
use crate::files::read_file;
use crate::gpu::Gpu;
use crate::graph::{DeviceProfile, PartMemory};
use crate::model::folder::{StoredTensors, open_weights};
use crate::model::{Autoencoder, AutoencoderConfig, Tensors, planned_decoder};

/// The published TAESD3, whose file may stand alone.
const TAESD3: &str = r#"{"_class_name": "AutoencoderTiny", "latent_channels": 16,
    "encoder_block_out_channels": [64, 64, 64, 64], "decoder_block_out_channels": [64, 64, 64, 64],
    "num_encoder_blocks": [1, 3, 3, 3], "num_decoder_blocks": [3, 3, 3, 1]}"#;

/// The fewest latents along a side of a tile: fewer see too little of the picture.
const LEAST_TILE: usize = 8;

/// A decoder whose weights are still on disk.
#[derive(Debug)]
pub struct PictureDecoder {
    config: AutoencoderConfig,
    weights: StoredTensors,
    /// The side of tiles, chosen when first needed: tiles of another size would change the last bits of a picture.
    chosen: OnceLock<usize>,
}

impl PictureDecoder {
    /// The decoder of a pipeline.
    ///
    /// # Errors
    /// [`Error::Input`] if it is missing, damaged or not supported.
    pub fn of_pipeline(model: &TextToImage) -> Result<Self> {
        Self::open(&model.pipeline().component("vae")?, model)
    }

    /// Another autoencoder for the same latents, such as TAESD: a folder of diffusers, or a file of weights with
    /// `config.json` beside it; without that it is TAESD3.
    ///
    /// # Errors
    /// [`Error::Input`] if it is damaged, not supported, or of other latents.
    pub fn open(path: &Path, model: &TextToImage) -> Result<Self> {
        let (weights, config) = match path.is_dir() {
            true => (open_weights(path, None)?, path.join("config.json")),
            false => (StoredTensors::open(path)?, path.with_file_name("config.json")),
        };
        let name = config.display().to_string();
        let config = match path.is_dir() || config.exists() {
            true => AutoencoderConfig::from_json(&name, &String::from_utf8_lossy(&read_file(&config)?))?,
            false => AutoencoderConfig::from_json("TAESD3", TAESD3)?,
        };
        let (found, expected) = (config.latent_channels(), model.config().channels);
        if found != expected {
            return Err(Error::input(format!(
                "{} decodes latents of {found} channels, but the transformer's have {expected}: it belongs to another \
                 model",
                path.display()
            )));
        }
        if config.picture_channels()[1] != 3 {
            let found = config.picture_channels()[1];
            return Err(Error::input(format!("{} makes images of {found} channels: 3 are needed", path.display())));
        }
        Ok(Self { config, weights, chosen: OnceLock::new() })
    }

    /// Pixels along a side of a latent.
    pub fn factor(&self) -> usize {
        self.config.factor()
    }

    /// The side of a tile in latents, from that in pixels. `name` is where it is from, in messages.
    ///
    /// # Errors
    /// [`Error::Input`] if it is too small, or not a whole number of latents.
    pub fn tile(&self, name: &str, pixels: usize) -> Result<usize> {
        let (factor, least) = (self.factor(), LEAST_TILE * self.factor());
        if pixels >= least && pixels.is_multiple_of(factor) {
            return Ok(pixels / factor);
        }
        Err(Error::input(format!("{name} is {pixels}: it must be a multiple of {factor} from {least} on")))
    }

    /// What decoding latents `[height, width]` takes on such a device, and the tiles that it needs, in pixels, if `room` does
    /// not accept whole pictures.
    ///
    /// # Errors
    /// As [`planned_decoder`].
    pub fn planned(
        &self,
        size: [usize; 2],
        profile: &DeviceProfile,
        room: &dyn Fn(&PartMemory) -> Result<()>,
    ) -> Result<(Option<[usize; 2]>, PartMemory)> {
        let (tile, memory) = planned_decoder(&self.config, size, profile, room)?;
        Ok(((tile != size).then(|| tile.map(|extent| extent * self.factor())), memory))
    }

    /// Decodes latents `[N, C, height, width]`, one picture after the other: `take` is given the place of each and its
    /// values `[3, H, W]`, about −1 to 1. With `tile`, in tiles of so many latents along a side.
    ///
    /// # Errors
    /// [`Error::Input`] if the weights do not fit; if the device has not enough memory or is lost; whatever `take` returns.
    pub fn decode(
        &self,
        gpu: &Arc<Gpu>,
        latents: &[f32],
        size: [usize; 2],
        tile: Option<usize>,
        take: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let mut tensors = Tensors::new();
        for (name, stored) in self.weights.tensors() {
            tensors.insert(name.clone(), (stored.shape().to_vec(), stored.read()?));
        }
        let autoencoder = Autoencoder::from_tensors(self.weights.name(), self.config.clone(), tensors)?;
        let mut decoder = autoencoder.decoder(gpu, 1)?;
        let tile = match tile.or_else(|| self.chosen.get().copied()) {
            Some(tile) => tile,
            None => {
                let [rows, columns] = decoder.tile_of(size)?;
                *self.chosen.get_or_init(|| rows.max(columns))
            }
        };
        decoder = decoder.with_tile(tile);
        decoder.decode_each(latents, size, take)
    }
}
