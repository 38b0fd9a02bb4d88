//! What is to be drawn, and drawing it: the latents of all pictures, then the pictures.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::conditions::Conditions;
use super::pictures::write_picture;
use super::pipeline::TextToImage;
use crate::config::WeightType;
use crate::error::{Error, Result};
use crate::flow::solver::Solver;
use crate::gpu::Gpu;
use crate::model::{Adapter, PictureDecoder, Shared, Tensors, read_tensors, write_tensors};
use crate::run::{Progress, Verbosity};
use crate::sampling::{SampleRequest, SamplerTable, Sampling};

/// Elements of tensors that are kept on the host for a file: 4 GiB.
const MOST_ELEMENTS: usize = 1 << 30;

/// Everything that pictures depend on but their prompts. Nothing large is in memory.
#[derive(Debug)]
pub struct Order {
    /// The pipeline.
    pub model: TextToImage,
    /// What turns latents into pictures.
    pub decoder: Arc<PictureDecoder>,
    /// Height and width of the latents.
    pub size: [usize; 2],
    /// The side of a tile that is decoded at once, in latents; `None` if the device decides.
    pub tile: Option<usize>,
    /// The steps.
    pub table: SamplerTable,
    /// The solver that the steps are of.
    pub solver: Solver,
    /// Classifier-free guidance; 1 is none.
    pub guidance_scale: f64,
    /// An adapter of the transformer, and how much of it is added.
    pub adapter: Option<(Adapter, f64)>,
    /// How the transformer is stored on the device.
    pub weights: WeightType,
    /// The latents to start from in place of noise, `[N, C, h, w]`.
    pub start: Option<Vec<f32>>,
    /// The pictures.
    pub pictures: Vec<SampleRequest>,
    /// Pictures that are drawn together.
    pub batch: usize,
    /// How much is said of the progress.
    pub verbosity: Verbosity,
}

/// Tensors that a file of samples will have.
#[derive(Clone, Debug, Default)]
pub struct Drawn {
    /// `[N, C, h, w]`.
    pub latents: Vec<f32>,
    /// The states before each step, `[steps, N, C, h, w]`, if they were asked for.
    pub trajectory: Vec<f32>,
    /// `[N, 3, H, W]`, about −1 to 1, if they were asked for.
    pub images: Vec<f32>,
}

impl Order {
    /// Elements of the latents of a picture.
    fn dim(&self) -> usize {
        self.model.network().channels() * self.size[0] * self.size[1]
    }

    /// Height and width of a picture.
    pub fn picture_size(&self) -> [usize; 2] {
        self.size.map(|extent| extent * self.decoder.factor())
    }

    /// Checks that there are states to start from for all pictures, if there are any.
    ///
    /// # Errors
    /// [`Error::Input`] if there are not.
    pub fn check_start(&self) -> Result<()> {
        let Some(start) = &self.start else { return Ok(()) };
        let (found, pictures) = (start.len() / self.dim(), self.pictures.len());
        match found == pictures {
            true => Ok(()),
            false => {
                Err(Error::input(format!("the noise has {found} rows for {pictures} prompts: it must have as many")))
            }
        }
    }

    /// Checks that there is room for all tensors of a file of samples.
    ///
    /// # Errors
    /// [`Error::Input`] if there is not.
    pub fn check_tensors(&self, trajectory: bool) -> Result<()> {
        let [height, width] = self.picture_size();
        let states = if trajectory { self.table.steps() + 1 } else { 1 };
        let elements = self.pictures.len() * (3 * height * width + states * self.dim());
        match elements <= MOST_ELEMENTS {
            true => Ok(()),
            false => Err(Error::input(format!(
                "--save-tensors would have {elements} elements: {MOST_ELEMENTS} are the most; lower --count or --size"
            ))),
        }
    }

    /// Draws the latents of all pictures.
    ///
    /// # Errors
    /// If the weights do not fit, the device has not enough memory or is lost, or a result is not finite.
    pub fn draw(&self, gpu: &Arc<Gpu>, conditions: &Arc<Conditions>, trajectory: bool) -> Result<Drawn> {
        let (count, steps, dim) = (self.pictures.len(), self.table.steps(), self.dim());
        let batch = self.batch.min(count);
        let adapter = self.adapter.as_ref().map(|(adapter, scale)| (adapter, *scale));
        let model = self.model.flow_model(self.size, Shared(conditions.clone()), Shared(self.decoder.clone()));
        let (network, stores) = self.model.upload(gpu, &model, self.weights, adapter)?;
        let mut sampling = Sampling::new_for(gpu, &network, [count, batch], self.guidance_scale, self.solver, &stores)?;
        let mut progress = Progress::new("sampling", (steps * count.div_ceil(batch)) as u64, self.verbosity);
        let mut states = vec![0.0_f32; if trajectory { steps * count * dim } else { 0 }];
        let latents = sampling.draw_visited(&self.table, &self.pictures, self.start.as_deref(), |moment| {
            if trajectory {
                let at = (moment.step * count + moment.first) * dim;
                states[at..at + moment.count * dim].copy_from_slice(&gpu.read::<f32>(&[moment.x])?);
            }
            let done = moment.first / batch * steps + moment.step;
            progress.update(done as u64, &format!("image {} of {count}", moment.first + 1));
            Ok(())
        })?;
        progress.finish(&format!("{} drawn", counted(count, "image")));
        Ok(Drawn { latents, trajectory: states, images: Vec::new() })
    }

    /// Decodes the latents, and writes every picture to its file with the texts that `texts` gives for its place. With
    /// `keep`, their values stay in `drawn`, too.
    ///
    /// # Errors
    /// As [`PictureDecoder::decode`], or if a file cannot be written.
    pub fn write_pictures(
        &self,
        gpu: &Arc<Gpu>,
        drawn: &mut Drawn,
        files: &[PathBuf],
        texts: impl Fn(usize) -> Vec<(&'static str, String)>,
        keep: bool,
    ) -> Result<()> {
        let mut progress = Progress::new("decoding", files.len() as u64, self.verbosity);
        let images = &mut drawn.images;
        let mut take = |index: usize, picture: &[f32]| {
            write_picture(&files[index], picture, self.picture_size(), &texts(index))?;
            if keep {
                images.extend_from_slice(picture);
            }
            progress.update(index as u64 + 1, "");
            Ok(())
        };
        self.decoder.decode(gpu, &drawn.latents, self.size, self.tile, &mut take)?;
        progress.finish(&format!("{} decoded", counted(files.len(), "image")));
        Ok(())
    }

    /// Writes latents as `x0`, values of pictures as `images`, and the trajectory if there is one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save_tensors(&self, path: &Path, drawn: Drawn) -> Result<()> {
        let ([h, w], [height, width]) = (self.size, self.picture_size());
        let shape = vec![self.pictures.len(), self.model.network().channels(), h, w];
        let mut tensors = Tensors::new();
        let mut trajectory = drawn.trajectory;
        if !trajectory.is_empty() {
            trajectory.extend_from_slice(&drawn.latents);
            tensors.insert("trajectory".into(), ([&[self.table.steps() + 1][..], &shape].concat(), trajectory));
        }
        tensors.insert("x0".into(), (shape, drawn.latents));
        tensors.insert("images".into(), (vec![self.pictures.len(), 3, height, width], drawn.images));
        write_tensors(path, &tensors)
    }
}

/// Latents to start from, `x` `[N, C, h, w]` in a file, with height and width.
///
/// # Errors
/// [`Error::Input`] if the file cannot be read, has other tensors, or a number is not finite.
pub fn read_start(path: &Path, channels: usize) -> Result<([usize; 2], Vec<f32>)> {
    let name = path.display();
    let Some((shape, x)) = read_tensors(path)?.remove("x") else {
        return Err(Error::input(format!("{name} is missing the tensor `x`")));
    };
    let size = match shape[..] {
        [rows, found, height, width] if found == channels && rows * height * width > 0 => [height, width],
        _ => {
            return Err(Error::input(format!(
                "{name}: `x` has shape {shape:?}, but [prompts, {channels}, height, width] is expected, in latents"
            )));
        }
    };
    match x.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(Error::input(format!("{name}: `x` is not finite at element {index}"))),
        None => Ok((size, x)),
    }
}

/// A number of things in words.
pub fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
