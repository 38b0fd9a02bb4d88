//! A transformer with an adapter in its weights, as a file.

use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::Dtype;

use super::pipeline::TextToImage;
use super::writer::Writer;
use crate::error::{Error, Result};
use crate::files::fill_atomically;
use crate::model::folder::{StoredAs, StoredTensor};
use crate::model::{Adapter, StoredTransformer};

impl TextToImage {
    /// Writes the transformer with `scale` times an adapter in its weights: W + scale · (alpha / rank) · B·A, summed in f64
    /// and rounded once, to the type that the weight has in its file. All other tensors keep their bytes. The names are
    /// those of published files, and one tensor is in memory at a time.
    ///
    /// # Errors
    /// [`Error::Input`] if a tensor is missing or has another shape, a sum is too large for its type, or the type has
    /// fewer than 16 bits; else if the file cannot be written.
    pub fn merge(&self, adapter: &Adapter, scale: f64, path: &Path) -> Result<()> {
        StoredTransformer::new(self.network(), self.network().smallest_size(), self.transformer())?;
        let base = self.any_layout();
        let ours = adapter.lora.layout(&base);
        let layers: Vec<String> = adapter.lora.layers().iter().map(|it| format!("{}.weight", it.layer)).collect();
        let published = |name: &str| format!("{}{name}", base.prefix());
        let mut described = Vec::new();
        for (name, stored) in self.transformer().tensors() {
            described.push((published(name), self.plain(name, stored)?, stored.shape().to_vec()));
        }
        let described = described.iter().map(|(name, dtype, shape)| (name.as_str(), *dtype, shape.clone()));
        fill_atomically(path, |file| {
            let mut writer = Writer::begin(path, file, described, ("format", "pt".to_owned()))?;
            for (name, stored) in self.transformer().tensors() {
                let bytes = match layers.iter().position(|layer| layer == name) {
                    None => stored.read_bytes()?,
                    Some(index) => {
                        let mut values = stored.read()?;
                        adapter.add_to(self.transformer().name(), (&ours, index), scale, &mut values)?;
                        self.rounded(name, self.plain(name, stored)?, &values)?
                    }
                };
                writer.put(&published(name), 0, &bytes)?;
            }
            Ok(())
        })
    }

    /// The type of a tensor, if it can be written.
    fn plain(&self, name: &str, stored: &StoredTensor) -> Result<Dtype> {
        match stored.stored_as() {
            StoredAs::Plain(dtype @ (Dtype::F32 | Dtype::F16 | Dtype::BF16)) => Ok(dtype),
            other => Err(Error::input(format!(
                "{}: tensor `{name}` is stored as {}, but an adapter can be merged into F32, F16 and BF16 only",
                self.transformer().name(),
                other.name()
            ))),
        }
    }

    fn rounded(&self, name: &str, dtype: Dtype, values: &[f32]) -> Result<Vec<u8>> {
        let largest = match dtype {
            Dtype::F16 => f16::MAX.to_f32(),
            _ => f32::MAX,
        };
        if let Some(value) = values.iter().find(|value| value.abs() > largest) {
            return Err(Error::input(format!(
                "{}: tensor `{name}` would have a {value}, which is too large for {dtype}: choose a smaller scale",
                self.transformer().name()
            )));
        }
        Ok(match dtype {
            Dtype::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        })
    }
}
