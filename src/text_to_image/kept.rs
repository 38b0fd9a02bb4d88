//! Prompts that a run encodes into a file beside it, which the run reads when it is resumed, and others with the same
//! prompts and encoders.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::conditions::Conditions;
use super::conditions_file::{FileOptions, encode_to_file};
use super::order::counted;
use super::pipeline::Encoders;
use super::prompts::{MOST_ENCODED, cut_warnings};
use crate::error::{Error, Result};
use crate::files::remove_abandoned;
use crate::gpu::Gpu;
use crate::model::Prompt;
use crate::ranks::Team;
use crate::run::inputs::measure;
use crate::run::{Progress, Verbosity};

/// A file beside a run, of things that have been encoded.
pub(super) struct KeptFile<'a> {
    /// Where it is or will be.
    pub path: PathBuf,
    /// How many things it has, and what they are.
    pub things: (usize, &'static str),
    pub verbosity: Verbosity,
    /// Is given why a file is not used that is there.
    pub warn: &'a dyn Fn(&str),
}

impl KeptFile<'_> {
    /// The file as `open` opens it, if it is there and `is_same`.
    pub fn found<T>(&self, open: impl Fn(&Path) -> Result<T>, is_same: impl Fn(&T) -> bool) -> Option<T> {
        let Self { path, things: (_, noun), warn, .. } = self;
        if path.is_file() {
            match open(path) {
                Ok(found) if is_same(&found) => return Some(found),
                Ok(_) => warn(&format!("{} has other {noun}s: they are encoded again", path.display())),
                Err(cause) => warn(&format!("{cause}; the {noun}s are encoded again")),
            }
        }
        None
    }

    /// A new file, which `write` writes.
    ///
    /// # Errors
    /// Those of `write`, and if the folder cannot be created.
    pub fn written(&self, write: impl FnOnce(&Path, &mut Progress) -> Result<()>) -> Result<()> {
        let Self { path, things: (count, noun), verbosity, .. } = self;
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|cause| Error::unwritable(folder, cause))?;
        // What a run left that was stopped while it encoded, which may be large.
        remove_abandoned(folder);
        let mut progress = Progress::new("encoding", *count as u64, *verbosity);
        write(path, &mut progress)?;
        progress.finish(&format!("{} encoded into {}", counted(*count, noun), path.display()));
        Ok(())
    }
}

/// Many prompts, and what encodes them.
#[derive(Debug)]
pub(super) struct ManyPrompts<'a> {
    pub encoders: &'a Encoders,
    pub prompts: &'a [Prompt],
    pub negative: &'a str,
}

impl ManyPrompts<'_> {
    /// The file in `folder` with the embeddings, whether it is there or not. `warn` is given what was cut off prompts that
    /// are too long, too.
    ///
    /// # Errors
    /// If an encoder cannot be read.
    pub fn file<'a>(&self, folder: &Path, verbosity: Verbosity, warn: &'a dyn Fn(&str)) -> Result<KeptFile<'a>> {
        let path = folder.join(self.file_name()?);
        Ok(KeptFile { path, things: (self.prompts.len(), "prompt"), verbosity, warn })
    }

    /// The embeddings in the file, if they are there.
    pub fn found(&self, file: &KeptFile<'_>) -> Option<Conditions> {
        file.found(|path| Conditions::open(path, &[]), |found| found.prompts() == self.prompts)
    }

    /// Checks that the device has room to encode the prompts.
    ///
    /// # Errors
    /// If it does not.
    pub fn check_room(&self, gpu: &Gpu) -> Result<()> {
        // The negative prompt is one more.
        self.encoders.prompts.check_room(gpu, self.prompts.len() + 1)
    }

    /// Encodes the prompts into the file.
    ///
    /// # Errors
    /// As [`encode_to_file`].
    pub fn written(&self, gpu: &Arc<Gpu>, file: &KeptFile<'_>) -> Result<Conditions> {
        let mut cut = Vec::new();
        file.written(|path, progress| {
            let options = FileOptions { path, half: true, group: MOST_ENCODED };
            let mut done = |done: usize| progress.update(done as u64, "");
            // The other ranks of a team wait for the file.
            let alone = Team::default();
            cut = encode_to_file(gpu, self.encoders, self.prompts, self.negative, options, &alone, &mut done)?;
            Ok(())
        })?;
        cut_warnings(&cut).iter().for_each(|warning| (file.warn)(warning));
        Conditions::open(&file.path, &[])
    }

    /// The name of the file, with a checksum of the prompts and one of all else that the embeddings depend on.
    fn file_name(&self) -> Result<PathBuf> {
        let mut prompts = 0;
        for prompt in self.prompts {
            prompts = crc32c::crc32c_append(prompts, (prompt.to_line() + "\n").as_bytes());
        }
        let mut encoders = crc32c::crc32c(env!("CARGO_PKG_VERSION").as_bytes());
        for path in self.encoders.folders.files()? {
            let (size, sum) = measure(&path).map_err(|cause| Error::unreadable(&path, cause))?;
            encoders = crc32c::crc32c_append(encoders, &size.to_le_bytes());
            encoders = crc32c::crc32c_append(encoders, &sum.to_le_bytes());
        }
        encoders = crc32c::crc32c_append(encoders, &self.encoders.prompts.tokens().to_le_bytes());
        encoders = crc32c::crc32c_append(encoders, self.negative.as_bytes());
        Ok(format!("prompts-{prompts:08x}-{encoders:08x}.safetensors").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::text::EncoderChoice;
    use crate::text_to_image::TextToImage;

    #[test]
    fn a_file_that_cannot_be_used_is_made_again_with_a_warning() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("runs/kept");
        let warnings = std::cell::RefCell::new(Vec::new());
        let warn = |warning: &str| warnings.borrow_mut().push(warning.to_owned());
        let things = (2, "image");
        let kept = KeptFile { path: path.clone(), things, verbosity: Verbosity::Quiet, warn: &warn };
        let opened = |expected: &str| {
            let write = |path: &Path, _: &mut Progress| {
                std::fs::write(path, expected).map_err(|cause| Error::unwritable(path, cause))
            };
            let found = || kept.found(crate::files::read_text, |text| text == expected);
            if found().is_none() {
                kept.written(write).unwrap();
            }
            let warned = warnings.take().concat();
            assert_eq!(found().unwrap(), expected);
            warned
        };
        assert_eq!([opened("a"), opened("a")], ["", ""]);
        assert!(opened("b").contains("kept has other images: they are encoded again"));
        std::fs::write(&path, b"\xff\xff").unwrap();
        let abandoned = root.path().join("runs/.writing-0");
        std::fs::write(&abandoned, "").unwrap();
        let warning = opened("b");
        assert!(warning.ends_with("; the images are encoded again") && warning.contains("kept"), "{warning}");
        assert!(!abandoned.exists());
    }

    #[test]
    fn whatever_changes_embeddings_changes_the_name() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/sd35_tiny_pipeline");
        let model = TextToImage::open(&folder, None).unwrap();
        let name = |with_t5: bool, t5_tokens: usize, prompts: &[&str], negative: &str| {
            let choice = EncoderChoice { t5: with_t5, t5_tokens: Some(t5_tokens) };
            let encoders = &model.encoders(choice).unwrap();
            let prompts = &prompts.iter().map(|text| Prompt::from(*text)).collect::<Vec<_>>();
            let many = ManyPrompts { encoders, prompts, negative };
            many.file_name().unwrap().into_os_string().into_string().unwrap()
        };
        let first = name(true, 256, &["a", "b"], "");
        assert_eq!(name(true, 256, &["a", "b"], ""), first);
        let (of_prompts, of_encoders) = first.split_at("prompts-00000000".len());
        let others = [
            name(false, 256, &["a", "b"], ""),
            name(true, 128, &["a", "b"], ""),
            name(true, 256, &["a", "b"], "blurry"),
            name(true, 256, &["b", "a"], ""),
        ];
        for (at, other) in others.iter().enumerate() {
            assert_eq!([other.starts_with(of_prompts), other.ends_with(of_encoders)], [at < 3, at == 3], "{other}");
        }
    }
}
