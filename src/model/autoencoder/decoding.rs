//! Latents to pictures, by an autoencoder on disk.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use maybe_async::maybe_async;

use super::{Autoencoder, AutoencoderConfig, Decoder, Encoder, planned_decoder, planned_encoder};
use crate::error::{Error, Result};
use crate::files::read_file;
use crate::gpu::Gpu;
use crate::graph::{DeviceProfile, PartMemory};
use crate::model::condition::LatentDecoder;
use crate::model::file::Tensors;
use crate::model::folder::{SingleFile, StoredTensors, open_weights};
use crate::shape::ImageShape;

/// The published TAESD and TAESD3, whose file may stand alone, but for the number of latent channels.
const TAESD: &str = r#"{"_class_name": "AutoencoderTiny", "latent_channels": CHANNELS,
    "encoder_block_out_channels": [64, 64, 64, 64], "decoder_block_out_channels": [64, 64, 64, 64],
    "num_encoder_blocks": [1, 3, 3, 3], "num_decoder_blocks": [3, 3, 3, 1]}"#;

/// The autoencoder of Stable Diffusion 1, whose file may stand alone.
const SD1: &str = r#"{"_class_name": "AutoencoderKL", "latent_channels": 4, "scaling_factor": 0.18215,
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}"#;

/// The file with the sizes of an autoencoder, in its folder or beside its file.
const SIZES: &str = "config.json";

/// The fewest latents along a side of a tile: fewer see too little of the picture.
const LEAST_TILE: usize = 8;

/// Bytes of a decoder's weights that are kept on the host between decodes. Those of Stable Diffusion 1 to 3.5 have 198 MB
/// (49.5 million numbers). To read them with the encoder's and convert them took 2 s on two busy cores without much
/// optimisation, and a run decodes once per rollout, preview and evaluation. Kept, they are less than what reading both
/// halves takes for a moment, 335 MB and more. A larger decoder is read again each time.
const KEPT_BYTES: usize = 256 << 20;

/// A decoder whose weights are on disk until they are needed.
#[derive(Debug)]
pub struct PictureDecoder {
    config: AutoencoderConfig,
    weights: StoredTensors,
    /// The decoder's weights from its first use on, if they are no more than [`KEPT_BYTES`].
    kept: OnceLock<Vec<f32>>,
    /// The side of tiles, chosen when first needed: tiles of another size would change the last bits of a picture.
    chosen: OnceLock<usize>,
}

/// The configuration of a published autoencoder whose file stands alone, from its tensors under the names of diffusers.
fn configuration_of(weights: &StoredTensors) -> Result<AutoencoderConfig> {
    let channels = |tensor: &str| weights.tensors().get(tensor).and_then(|stored| stored.shape().get(1)).copied();
    match (channels("decoder.layers.0.weight"), channels("decoder.conv_in.weight")) {
        (Some(channels), _) => AutoencoderConfig::from_json("TAESD", &TAESD.replace("CHANNELS", &channels.to_string())),
        (None, Some(4)) => AutoencoderConfig::from_json("Stable Diffusion 1", SD1),
        _ => Err(Error::input(format!(
            "{} has no config.json beside it, which only TAESD and the autoencoder of Stable Diffusion 1 do not need: \
             download it as well",
            weights.name()
        ))),
    }
}

/// The weights of an autoencoder in a single file, which may have other networks as well.
fn open_file(path: &Path) -> Result<StoredTensors> {
    SingleFile::open(path)?
        .components
        .remove("vae")
        .ok_or_else(|| Error::input(format!("{} has no autoencoder: name a file or folder of one", path.display())))
}

/// The weights of an autoencoder, and where its sizes are, if they are there.
fn open(path: &Path) -> Result<(StoredTensors, PathBuf)> {
    Ok(match path.is_dir() {
        true => (open_weights(path, None)?, path.join(SIZES)),
        false => (open_file(path)?, path.with_file_name(SIZES)),
    })
}

impl PictureDecoder {
    /// The files of an autoencoder, see [`PictureDecoder::open`].
    ///
    /// # Errors
    /// [`Error::Input`] if its weights are missing or damaged.
    pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
        let (weights, sizes) = open(path)?;
        let weights = weights.files().map(|(file, _)| file.to_owned());
        Ok(weights.chain(Some(sizes).filter(|file| file.exists())).collect())
    }

    /// Opens an autoencoder: a folder of diffusers, or a file of weights, which may have `config.json` beside it; without
    /// that it is TAESD or the autoencoder of Stable Diffusion 1. Its latents must have so many channels, those of `whose`
    /// model in messages.
    ///
    /// # Errors
    /// [`Error::Input`] if it is damaged, not supported, or of other latents.
    pub fn open(path: &Path, channels: usize, whose: &str) -> Result<Self> {
        let (weights, config) = open(path)?;
        let name = config.display().to_string();
        let config = match path.is_dir() || config.exists() {
            true => AutoencoderConfig::from_json(&name, &String::from_utf8_lossy(&read_file(&config)?))?,
            false => configuration_of(&weights)?,
        };
        let found = config.latent_channels();
        if found != channels {
            return Err(Error::input(format!(
                "{} decodes latents of {found} channels, but {whose} have {channels}: it belongs to another model",
                path.display()
            )));
        }
        if config.picture_channels()[1] != 3 {
            let found = config.picture_channels()[1];
            return Err(Error::input(format!("{} makes images of {found} channels: 3 are needed", path.display())));
        }
        Ok(Self { config, weights, kept: OnceLock::new(), chosen: OnceLock::new() })
    }

    /// What makes pictures of a flow model whose states are pictures times a scale: no network, and no files.
    pub fn of_pixels(scale: f64) -> Self {
        let weights = StoredTensors::none("images without an autoencoder");
        Self {
            config: AutoencoderConfig::Pixels(scale as f32),
            weights,
            kept: OnceLock::new(),
            chosen: OnceLock::new(),
        }
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

    /// Its configuration.
    pub fn config(&self) -> &AutoencoderConfig {
        &self.config
    }

    /// The files of its weights.
    pub fn weight_files(&self) -> impl Iterator<Item = &Path> {
        self.weights.files().map(|(path, _)| path)
    }

    /// The encoder for the same latents on a device, for one picture at a time.
    ///
    /// # Errors
    /// [`Error::Input`] if the weights do not fit, or it takes other pictures; if the device has not enough memory.
    pub fn encoder(&self, gpu: &Arc<Gpu>) -> Result<Encoder> {
        let channels = self.config.picture_channels()[0];
        if channels != 3 {
            let name = self.weights.name();
            return Err(Error::input(format!("{name} encodes images of {channels} channels: 3 are needed")));
        }
        self.read()?.encoder(gpu, 1)
    }

    /// What the encoder takes on such a device for one picture of a shape.
    ///
    /// # Errors
    /// If the device does not allow a tensor of this size.
    pub fn planned_encoder(&self, picture: ImageShape, profile: &DeviceProfile) -> Result<PartMemory> {
        planned_encoder(&self.config, [picture.height, picture.width], profile)
    }

    /// Reads the weights.
    ///
    /// # Errors
    /// [`Error::Input`] if they cannot be read, or do not fit the configuration.
    pub fn read(&self) -> Result<Autoencoder> {
        let mut tensors = Tensors::new();
        for (name, stored) in self.weights.tensors() {
            tensors.insert(name.clone(), (stored.shape().to_vec(), stored.read()?));
        }
        Autoencoder::from_tensors(self.weights.name(), self.config.clone(), tensors)
    }

    /// Reads the weights to check them.
    ///
    /// # Errors
    /// As [`PictureDecoder::read`].
    pub fn check(&self) -> Result<()> {
        self.decoder_weights().map(drop)
    }

    /// The decoder's weights, read the first time.
    fn decoder_weights(&self) -> Result<Cow<'_, [f32]>> {
        if let Some(kept) = self.kept.get() {
            return Ok(Cow::Borrowed(kept));
        }
        let weights = self.read()?.decoder;
        Ok(match size_of_val(&*weights) > KEPT_BYTES {
            true => Cow::Owned(weights),
            false => Cow::Borrowed(self.kept.get_or_init(|| weights)),
        })
    }

    /// Decodes latents `[N, C, height, width]`, one picture after the other: `take` is given the place of each and its
    /// values `[3, H, W]`, about −1 to 1. With `tile`, in tiles of so many latents along a side.
    ///
    /// # Errors
    /// [`Error::Input`] if the weights do not fit; if the device has not enough memory or is lost; whatever `take` returns.
    #[maybe_async]
    pub async fn decode(
        &self,
        gpu: &Arc<Gpu>,
        latents: &[f32],
        size: [usize; 2],
        tile: Option<usize>,
        take: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let mut decoder = Decoder::new(gpu, &self.config, &self.decoder_weights()?, 1)?;
        let tile = match tile.or_else(|| self.chosen.get().copied()) {
            Some(tile) => tile,
            None => {
                let [rows, columns] = decoder.tile_of(size)?;
                *self.chosen.get_or_init(|| rows.max(columns))
            }
        };
        decoder = decoder.with_tile(tile);
        decoder.decode_each(latents, size, take).await
    }
}

#[maybe_async(?Send)]
impl LatentDecoder for PictureDecoder {
    fn picture_shape(&self, latents: ImageShape) -> ImageShape {
        let factor = self.factor();
        ImageShape { channels: 3, height: latents.height * factor, width: latents.width * factor }
    }

    fn planned(
        &self,
        latents: ImageShape,
        profile: &DeviceProfile,
        room: &dyn Fn(&PartMemory) -> Result<()>,
    ) -> Result<(Option<[usize; 2]>, PartMemory)> {
        let size = [latents.height, latents.width];
        let (tile, memory) = planned_decoder(&self.config, size, profile, room)?;
        Ok(((tile != size).then(|| tile.map(|extent| extent * self.factor())), memory))
    }

    async fn decode(&self, gpu: &Arc<Gpu>, latents: &[f32], shape: ImageShape) -> Result<Vec<f32>> {
        let mut pictures = Vec::new();
        let mut take = |_: usize, picture: &[f32]| {
            pictures.extend_from_slice(picture);
            Ok(())
        };
        PictureDecoder::decode(self, gpu, latents, [shape.height, shape.width], None, &mut take).await?;
        Ok(pictures)
    }
}
