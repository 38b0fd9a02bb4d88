//! Prompts that a run encodes into a file beside it, which the run reads when it is resumed, and others with the same
//! prompts and encoders.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::conditions::Conditions;
use super::conditions_file::{FileOptions, encode_to_file};
use super::order::counted;
use super::pipeline::{Encoders, encoder_files};
use super::prompts::cut_warnings;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::Prompt;
use crate::model::folder::Pipeline;
use crate::run::inputs::measure;
use crate::run::{Progress, Verbosity};

/// Prompts that are encoded together, as `encode` does.
const GROUP: usize = 64;

/// Many prompts, and what encodes them.
#[derive(Debug)]
pub(super) struct ManyPrompts<'a> {
    pub pipeline: &'a Pipeline,
    pub encoders: &'a Encoders,
    pub prompts: &'a [Prompt],
    pub negative: &'a str,
}

impl ManyPrompts<'_> {
    /// The embeddings, from a file in `folder`: one that is there, or else a new one. `warn` is given what was cut off
    /// prompts that are too long.
    ///
    /// # Errors
    /// As [`encode_to_file`], and if an encoder or the file cannot be read.
    pub fn encoded(
        &self,
        gpu: &Arc<Gpu>,
        folder: &Path,
        verbosity: Verbosity,
        warn: impl Fn(&str),
    ) -> Result<Conditions> {
        let path = folder.join(self.file_name()?);
        if path.is_file() {
            match Conditions::open(&path, &[]) {
                Ok(found) if found.prompts() == self.prompts => return Ok(found),
                Ok(_) => warn(&format!("{} has other prompts: they are encoded again", path.display())),
                Err(cause) => warn(&format!("{cause}; the prompts are encoded again")),
            }
        }
        std::fs::create_dir_all(folder).map_err(|cause| Error::unwritable(folder, cause))?;
        let options = FileOptions { path: &path, half: true, group: GROUP };
        let mut progress = Progress::new("encoding", self.prompts.len() as u64, verbosity);
        let mut done = |done: usize| progress.update(done as u64, "");
        let cut = encode_to_file(gpu, self.encoders, self.prompts, self.negative, options, &mut done)?;
        progress.finish(&format!("{} encoded into {}", counted(self.prompts.len(), "prompt"), path.display()));
        cut_warnings(&cut).iter().for_each(|warning| warn(warning));
        Conditions::open(&path, &[])
    }

    /// The name of the file, with a checksum of the prompts and one of all else that the embeddings depend on.
    fn file_name(&self) -> Result<PathBuf> {
        let mut prompts = 0;
        for prompt in self.prompts {
            prompts = crc32c::crc32c_append(prompts, (prompt.to_line() + "\n").as_bytes());
        }
        let mut encoders = crc32c::crc32c(env!("CARGO_PKG_VERSION").as_bytes());
        for path in encoder_files(self.pipeline, self.encoders.prompts.has_t5())? {
            let (size, sum) = measure(&path).map_err(|cause| Error::unreadable(&path, cause))?;
            encoders = crc32c::crc32c_append(encoders, &size.to_le_bytes());
            encoders = crc32c::crc32c_append(encoders, &sum.to_le_bytes());
        }
        encoders = crc32c::crc32c_append(encoders, &self.encoders.t5_tokens.to_le_bytes());
        encoders = crc32c::crc32c_append(encoders, self.negative.as_bytes());
        Ok(format!("prompts-{prompts:08x}-{encoders:08x}.safetensors").into())
    }
}
