//! Images as latents: encoded once into a file beside the run, which is used again.
//!
//! An encoding is the mean and the variance of the latents of an image. Each time an image is learned from, latents are
//! drawn from it (Rombach et al. 2022), by noise that is a function of the step.

use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::Dtype;
use serde_json::json;

use super::kept::KeptFile;
use super::order::counted;
use super::writer::Writer;
use crate::data::Captions;
use crate::error::{Error, Result};
use crate::files::fill_atomically;
use crate::flow::noise::{NoiseKey, Stream};
use crate::gpu::Gpu;
use crate::graph::DeviceProfile;
use crate::model::folder::StoredTensors;
use crate::model::{AutoencoderConfig, Encoded, Encoder, PictureDecoder};
use crate::pretrain::Examples;
use crate::run::inputs::measure;
use crate::run::{Progress, Verbosity};

/// The entry of the header that says what was encoded by what.
const KEY: &str = "flowdppo_wgpu_latents";
/// Means `[N, C, h, w]`, not yet scaled; with mirrored images, each follows its image.
const MEAN: &str = "mean";
/// Logarithms of variances of the same shape.
const LOGVAR: &str = "logvar";

/// Images with captions as latents in a file, which are read when they are needed.
#[derive(Debug)]
pub struct Latents {
    tensors: StoredTensors,
    config: AutoencoderConfig,
    /// The caption of each image, as a row of the table of conditions.
    labels: Vec<u32>,
    /// Whether mirrored images are there, too.
    flipped: bool,
}

impl Latents {
    /// A row of a tensor of the file.
    fn row(&self, tensor: &str, row: usize) -> Result<Vec<f32>> {
        let values = self.tensors.get(tensor)?.rows(row..row + 1)?.read()?;
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err(Error::input(format!(
                "{}: tensor `{tensor}` is not finite at row {row}: remove the file, and it is made again",
                self.tensors.name()
            ))),
        }
    }
}

impl Examples for Latents {
    fn count(&self) -> usize {
        self.labels.len()
    }

    fn condition(&self, index: usize) -> u32 {
        self.labels[index]
    }

    fn push_state(&self, states: &mut Vec<f32>, index: usize, flip: bool, key: NoiseKey) -> Result<()> {
        let row = if self.flipped { 2 * index + usize::from(flip) } else { index };
        let mut latents = self.row(MEAN, row)?;
        if self.tensors.tensors().contains_key(LOGVAR) {
            let mut noise = Stream::new(key);
            for (value, logvar) in latents.iter_mut().zip(self.row(LOGVAR, row)?) {
                *value += (0.5 * logvar).exp() * noise.normal() as f32;
            }
        }
        states.extend(self.config.scaled(&latents));
        Ok(())
    }
}

/// Images on their way into a file.
pub(super) struct ImagesToEncode<'a> {
    pub images: &'a Captions,
    /// What the encoder belongs to.
    pub decoder: &'a PictureDecoder,
    /// Whether mirrored images are encoded as well.
    pub flipped: bool,
    /// The conditions of the images.
    pub labels: &'a [u32],
}

/// Where images are kept as latents, and what these depend on.
pub(super) struct LatentsFile<'a> {
    file: KeptFile<'a>,
    key: String,
}

impl ImagesToEncode<'_> {
    /// The file in `folder` with the latents, whether it is there or not. `warn` is given why it is not used if it is there.
    ///
    /// # Errors
    /// [`Error::Input`] if an image or the autoencoder cannot be read.
    pub fn file<'b>(&self, folder: &Path, verbosity: Verbosity, warn: &'b dyn Fn(&str)) -> Result<LatentsFile<'b>> {
        let key = self.describe()?;
        let path = folder.join(format!("latents-{:08x}.safetensors", crc32c::crc32c(key.as_bytes())));
        Ok(LatentsFile { file: KeptFile { path, things: (self.images.files.len(), "image"), verbosity, warn }, key })
    }

    /// The latents in the file, if they are there.
    pub fn found(&self, LatentsFile { file, key }: &LatentsFile<'_>) -> Option<Latents> {
        let is_same = |found: &StoredTensors| found.metadata().get(KEY) == Some(key);
        file.found(StoredTensors::open, is_same).map(|tensors| self.latents(tensors))
    }

    /// Checks that the device has room to encode an image.
    ///
    /// # Errors
    /// If it does not.
    pub fn check_room(&self, gpu: &Gpu) -> Result<()> {
        let planned = self.decoder.planned_encoder(self.images.shape, &DeviceProfile::of(gpu))?;
        gpu.check_memory(gpu.counters().bytes_held + planned.alone()).map_err(|cause| match cause {
            Error::Memory { .. } => {
                cause.followed_by("; images are encoded as a whole, for which only `model.size` counts")
            }
            other => other,
        })
    }

    /// Encodes the images into the file.
    ///
    /// # Errors
    /// [`Error::Input`] if an image cannot be read, or the encoder does not fit; if the device does not have enough memory;
    /// if the file cannot be written.
    pub fn written(&self, gpu: &Arc<Gpu>, LatentsFile { file, key }: &LatentsFile<'_>) -> Result<Latents> {
        file.written(|path, progress| self.write(gpu, path, key, progress))?;
        StoredTensors::open(&file.path).map(|tensors| self.latents(tensors))
    }

    fn latents(&self, tensors: StoredTensors) -> Latents {
        let (config, labels) = (self.decoder.config().clone(), self.labels.to_vec());
        Latents { tensors, config, labels, flipped: self.flipped }
    }

    /// What the latents depend on: the bytes of the images, their size, and the encoder.
    fn describe(&self) -> Result<String> {
        let sum = |path: &Path| measure(path).map_err(|cause| Error::unreadable(path, cause));
        let of_images = self.images.files.iter().map(|path| sum(path)).collect::<Result<Vec<_>>>()?;
        let of_encoder = self.decoder.weight_files().map(sum).collect::<Result<Vec<_>>>()?;
        let described = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "size": [self.images.shape.height, self.images.shape.width],
            "flipped": self.flipped,
            "encoder": (format!("{:?}", self.decoder.config()), of_encoder),
            "images": of_images,
        });
        Ok(described.to_string())
    }

    fn write(&self, gpu: &Arc<Gpu>, path: &Path, key: &str, progress: &mut Progress) -> Result<()> {
        let (config, shape) = (self.decoder.config(), self.images.shape);
        let (count, size) = (self.images.files.len(), [shape.height, shape.width]);
        let copies = if self.flipped { 2 } else { 1 };
        let [height, width] = size.map(|extent| extent / config.factor());
        let latents = || vec![copies * count, config.latent_channels(), height, width];
        let has_variance = matches!(config, AutoencoderConfig::Kl(_));
        let names = [MEAN, LOGVAR].into_iter().take(if has_variance { 2 } else { 1 });
        let mut encoder = self.decoder.encoder(gpu)?;
        fill_atomically(path, |file| {
            let tensors = names.map(|name| (name, Dtype::F32, latents()));
            let mut writer = Writer::begin(path, file, tensors, (KEY, key.to_owned()))?;
            let found = self.images.read(&mut |index, image| {
                let mirrored = self.flipped.then(|| mirrored(image, shape.width));
                for (copy, image) in [image].into_iter().chain(mirrored.as_deref()).enumerate() {
                    let encoded = self.encode(&mut encoder, image, size, index)?;
                    let row = copies * index + copy;
                    writer.put(MEAN, row, bytemuck::cast_slice(&encoded.mean))?;
                    if has_variance {
                        writer.put(LOGVAR, row, bytemuck::cast_slice(&encoded.logvar))?;
                    }
                }
                progress.update(index as u64 + 1, "");
                Ok(())
            })?;
            if found.enlarged > 0 {
                let images = counted(found.enlarged, "image");
                log::warn!(
                    "{images} had to be enlarged to `model.size`, and will look blurred: take larger ones, or lower the size"
                );
            }
            Ok(())
        })
    }

    fn encode(&self, encoder: &mut Encoder, image: &[f32], size: [usize; 2], index: usize) -> Result<Encoded> {
        let encoded = encoder.encode(image, size)?;
        match encoded.mean.iter().chain(&encoded.logvar).all(|value| value.is_finite()) {
            true => Ok(encoded),
            false => Err(Error::NotFinite(format!(
                "the autoencoder gives numbers that are not finite for {}: its files are damaged, download them again",
                self.images.files[index].display()
            ))),
        }
    }
}

/// An image mirrored left to right.
fn mirrored(image: &[f32], width: usize) -> Vec<f32> {
    image.chunks(width).flat_map(|row| row.iter().rev()).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Tensors, write_tensors};

    /// Two images of one latent with two channels, each with its mirror image; a scale of 2 and a shift of 0.5.
    fn latents(folder: &Path, logvar: Option<f32>) -> Latents {
        let path = folder.join("latents.safetensors");
        let mean = (vec![4, 2, 1, 1], (0..8).map(|value| value as f32).collect());
        let mut tensors = Tensors::from([(MEAN.to_owned(), mean)]);
        tensors.extend(logvar.map(|logvar| (LOGVAR.to_owned(), (vec![4, 2, 1, 1], vec![logvar; 8]))));
        write_tensors(&path, &tensors).unwrap();
        let config = r#"{"_class_name": "AutoencoderKL", "latent_channels": 2, "block_out_channels": [32],
            "layers_per_block": 1, "down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"],
            "scaling_factor": 2.0, "shift_factor": 0.5}"#;
        let config = AutoencoderConfig::from_json("config.json", config).unwrap();
        Latents { tensors: StoredTensors::open(&path).unwrap(), config, labels: vec![0, 1], flipped: true }
    }

    fn drawn(latents: &Latents, flip: bool, sample: u32) -> Vec<f32> {
        let mut states = vec![-7.0];
        let key = NoiseKey { seed: 1, rollout: 2, sample, step: 3 };
        latents.push_state(&mut states, 1, flip, key).unwrap();
        assert_eq!(states.remove(0), -7.0, "states are appended");
        states
    }

    #[test]
    fn latents_are_drawn_around_their_mean_and_scaled() {
        let folder = tempfile::tempdir().unwrap();
        let exact = latents(folder.path(), None);
        assert_eq!((exact.count(), exact.condition(1)), (2, 1));
        assert_eq!([drawn(&exact, false, 0), drawn(&exact, true, 0)], [[7.0, 9.0], [11.0, 13.0]]);
        // A variance of 0.25, of which the scale makes a standard deviation of 1.
        let random = latents(folder.path(), Some(-4.0_f32.ln()));
        assert_eq!(drawn(&random, false, 5), drawn(&random, false, 5));
        let values: Vec<f64> = (0..2000)
            .flat_map(|sample| drawn(&random, false, sample))
            .zip([7.0, 9.0].iter().cycle())
            .map(|(value, mean)| f64::from(value) - mean)
            .collect();
        let mean = values.iter().sum::<f64>() / 4000.0;
        let variance = values.iter().map(|value| value * value).sum::<f64>() / 4000.0;
        // Four standard deviations of either estimate.
        assert!(mean.abs() < 0.064 && (variance - 1.0).abs() < 0.09, "{mean} {variance}");
    }

    #[test]
    fn images_are_mirrored_row_by_row() {
        assert_eq!(mirrored(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3), [3.0, 2.0, 1.0, 6.0, 5.0, 4.0]);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let damaged = latents(folder.path(), Some(f32::NAN));
        let refused =
            damaged.push_state(&mut Vec::new(), 0, false, NoiseKey { seed: 0, rollout: 0, sample: 0, step: 0 });
        assert!(refused.unwrap_err().to_string().contains("`logvar` is not finite at row 0"));
    }
}
