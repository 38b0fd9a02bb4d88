//! The parameters of one network in training: weights, gradients, AdamW's moments and the moving average. Each is one
//! flat store, updated by one dispatch per chunk.

#[cfg(not(target_arch = "wasm32"))]
mod micro_batches;

use std::sync::Arc;

use maybe_async::maybe_async;
use safetensors::tensor::Dtype;

use crate::error::{Error, Result};
use crate::files::Streamed;
use crate::gpu::{Command, Gpu, Region, ShaderStruct};
use crate::graph::{self, DType, DeviceProfile, Graph, Plan, Store, StoreMemory, Stores, Tensor};
use crate::model::folder::StoredTensors;
use crate::model::{Layout, OnDevice, WeightSource, header};
use crate::ops::{AdamW, AdamWSettings, AdamWStep, Optimized, Summed, sum_squares_of};

#[cfg(not(target_arch = "wasm32"))]
pub use micro_batches::{MicroBatches, STEPS_AT_ONCE, StepRecord, StepReport};

/// The weights that are trained.
pub const PARAMETERS: Store = Store("parameters");
/// Where backward passes accumulate gradients.
pub const GRADIENTS: Store = Store("gradients");
/// AdamW's running mean of gradients.
pub const FIRST_MOMENT: Store = Store("first moment");
/// AdamW's running mean of squared gradients.
pub const SECOND_MOMENT: Store = Store("second moment");
/// The averaged weights.
pub const AVERAGE: Store = Store("average");

/// AdamW's moments in a checkpoint.
const MOMENTS: [(&str, crate::graph::Store); 2] = [("first_moment", FIRST_MOMENT), ("second_moment", SECOND_MOMENT)];

/// Elements of the moments that are read from a file at once.
const AT_ONCE: usize = 1 << 22;

/// AdamW with global norm clipping over the trainable parameters of a network, and their moving average.
#[derive(Debug)]
pub struct Optimizer {
    gpu: Arc<Gpu>,
    layout: Layout,
    stores: Stores,
    update: Plan,
    settings: Tensor,
    sum_squares: Tensor,
    /// Updates so far, without the skipped ones that [`Optimizer::settle`] has seen.
    pub step: u64,
    /// Skipped ones among them that [`Optimizer::note`] has seen.
    pub uncounted: u64,
    /// Updates skipped in a row so far.
    pub skipped_in_a_row: usize,
}

/// The recorded update, its settings, and the sum of squares of the gradients.
fn record(layout: &Layout, chunk_bytes: Option<u64>) -> (Graph, Tensor, Tensor) {
    let mut graph = Graph::new();
    let settings = graph.input("optimizer settings", &[AdamWStep::WORDS]);
    let mut chunks = Vec::new();
    let mut summed = Vec::new();
    for chunk in layout.trainable_chunks(chunk_bytes) {
        let [parameters, gradients, first_moment, second_moment, average] =
            [PARAMETERS, GRADIENTS, FIRST_MOMENT, SECOND_MOMENT, AVERAGE]
                .map(|store| graph.stored(store.0, &[chunk.len()], store, chunk.start));
        chunks.push(Optimized { parameters, first_moment, second_moment, gradients, average });
        let entries = layout.entries().iter().filter(|entry| chunk.contains(&entry.offset));
        let ranges =
            entries.map(|entry| entry.offset - chunk.start..entry.offset - chunk.start + entry.stored_elements());
        summed.push(Summed { tensor: gradients, ranges: ranges.collect() });
    }
    let sum_squares = graph.scope("optimizer", |graph| {
        let sum_squares = sum_squares_of(graph, &summed);
        for optimized in chunks {
            AdamW.record(graph, optimized, settings, sum_squares);
        }
        sum_squares
    });
    graph.keep(sum_squares);
    (graph, settings, sum_squares)
}

/// Device bytes of all stores and plans of an optimizer.
pub fn planned_bytes(layout: &Layout, profile: &DeviceProfile) -> u64 {
    let stores = DType::F32.bytes(&[2 * layout.elements() + 3 * layout.trainable_elements()]);
    stores + graph::planned_bytes(&record(layout, profile.chunk_bytes).0, profile).reused
}

impl Optimizer {
    /// Uploads weights; moments and gradients start at zero, the averaged weights equal the weights.
    ///
    /// # Errors
    /// If the device does not have enough memory, or the weights cannot be read.
    pub fn new(gpu: &Arc<Gpu>, layout: Layout, weights: &(impl WeightSource + ?Sized)) -> Result<Self> {
        gpu.check_memory(gpu.counters().bytes_held + planned_bytes(&layout, &DeviceProfile::of(gpu)))?;
        let mut stores = Stores::new();
        let (most, trained) = (gpu.chunk_bytes(), layout.trainable_chunks(gpu.chunk_bytes()));
        let whole = layout.chunks(most);
        for store in [PARAMETERS, AVERAGE] {
            stores.insert(store, StoreMemory::allocate(gpu, store.0, &whole)?);
        }
        layout.write(gpu, &[&stores[&PARAMETERS], &stores[&AVERAGE]], weights)?;
        for store in [GRADIENTS, FIRST_MOMENT, SECOND_MOMENT] {
            stores.insert(store, StoreMemory::allocate(gpu, store.0, &trained)?);
        }
        let (update, settings, sum_squares) = record(&layout, most);
        Ok(Self {
            gpu: gpu.clone(),
            update: Plan::new(gpu, &update, &stores)?,
            settings,
            sum_squares,
            layout,
            stores,
            step: 0,
            uncounted: 0,
            skipped_in_a_row: 0,
        })
    }

    /// The stores, for plans that use them.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Stores whose parameters are the averaged weights, for plans that evaluate those.
    pub fn average_stores(&self) -> Stores {
        Stores::from([(PARAMETERS, self.stores[&AVERAGE].clone())])
    }

    /// Updates the parameters from the accumulated gradients, which it clears, and then the averaged weights. If a
    /// gradient is not finite, parameters and moments stay unchanged, as [`Optimizer::norm`] reports afterwards.
    ///
    /// # Errors
    /// If the device is lost.
    #[maybe_async]
    pub async fn update(&mut self, settings: &AdamWSettings) -> Result<()> {
        self.step += 1;
        self.update.write_structs(self.settings, &[settings.at_step(self.step)]);
        self.update.run().await
    }

    /// Elements of the gradients.
    pub fn gradient_elements(&self) -> usize {
        self.layout.trainable_elements()
    }

    /// Reads the accumulated gradients, and clears them.
    ///
    /// # Errors
    /// If the device is lost.
    #[maybe_async]
    pub async fn take_gradients(&self) -> Result<Vec<f32>> {
        let gradients = self.read(GRADIENTS).await?;
        let regions = self.stores[&GRADIENTS].regions();
        self.gpu.encode(regions.iter().map(Command::Clear))?;
        Ok(gradients)
    }

    /// Replaces the accumulated gradients.
    ///
    /// # Panics
    /// If there are not [`Optimizer::gradient_elements`].
    pub fn put_gradients(&self, gradients: &[f32]) {
        self.write(GRADIENTS, gradients);
    }

    /// The squared norm of the last update's gradients and the number of non-finite ones: two f32, see
    /// [`GradientNorm::from_sums`].
    pub fn sum_squares(&self) -> &Region {
        self.update.region(self.sum_squares)
    }

    /// The gradient norm of the last update. Waits for it.
    ///
    /// # Errors
    /// If the device is lost.
    #[maybe_async]
    pub async fn norm(&self) -> Result<GradientNorm> {
        let sums: Vec<f32> = self.gpu.read(&[self.sum_squares()]).await?;
        Ok(GradientNorm::from_sums([sums[0], sums[1]]))
    }

    /// Records the outcome of an update: a skipped one does not count as a step.
    ///
    /// # Errors
    /// If more than `most` in a row were skipped. For the message, `when` is the update and `key` the learning
    /// rate to lower.
    pub fn settle(&mut self, norm: GradientNorm, most: usize, when: &str, key: &str) -> Result<()> {
        let noted = self.note(norm, most, when, key);
        self.discount_skipped();
        noted
    }

    /// No longer counts the skipped updates that [`Optimizer::note`] has seen as steps.
    pub fn discount_skipped(&mut self) {
        self.step -= std::mem::take(&mut self.uncounted);
    }

    /// [`Optimizer::settle`], but a skipped update counts as a step until [`Optimizer::discount_skipped`].
    ///
    /// # Errors
    /// As [`Optimizer::settle`].
    pub fn note(&mut self, norm: GradientNorm, most: usize, when: &str, key: &str) -> Result<()> {
        if !norm.skipped {
            self.skipped_in_a_row = 0;
            return Ok(());
        }
        self.uncounted += 1;
        self.skipped_in_a_row += 1;
        if self.skipped_in_a_row <= most {
            return Ok(());
        }
        Err(Error::NotFinite(format!(
            "{} updates in a row were skipped because their gradients were not finite ({when}), but \
            `train.max_skipped_updates` is {most}: lower `{key}`, or start again from an earlier model",
            self.skipped_in_a_row
        )))
    }

    /// Reads a store back.
    ///
    /// # Errors
    /// If the device is lost.
    #[maybe_async]
    pub async fn read(&self, store: Store) -> Result<Vec<f32>> {
        self.stores[&store].read(&self.gpu).await
    }

    /// Overwrites a store.
    ///
    /// # Panics
    /// If the number of elements is not the store's.
    pub fn write(&self, store: Store, data: &[f32]) {
        self.stores[&store].write(&self.gpu, data);
    }

    /// A store, to be read tensor by tensor.
    pub fn source(&self, store: Store) -> OnDevice<'_> {
        OnDevice { gpu: &self.gpu, memory: &self.stores[&store] }
    }

    /// Overwrites a store of weights, tensor by tensor.
    ///
    /// # Errors
    /// If the weights cannot be read.
    pub fn load(&self, store: Store, weights: &(impl WeightSource + ?Sized)) -> Result<()> {
        self.layout.write(&self.gpu, &[&self.stores[&store]], weights)
    }

    /// AdamW's moments as a safetensors file, for a checkpoint.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn moments(&self) -> Streamed<'_> {
        Streamed::new(|sink| {
            let shape = vec![self.layout.trainable_elements()];
            let described = MOMENTS.iter().map(|(name, _)| ((*name).to_owned(), Dtype::F32, shape.clone()));
            sink.put(&header(described, None))?;
            MOMENTS.iter().try_for_each(|(_, store)| {
                self.stores[store].read_pieces::<f32>(&self.gpu, |values| sink.put(bytemuck::cast_slice(values)))
            })
        })
    }

    /// Takes the moments back from a file.
    ///
    /// # Errors
    /// [`Error::Input`] if they belong to another network, or cannot be read.
    pub fn restore_moments(&self, file: &StoredTensors) -> Result<()> {
        let expected = self.layout.trainable_elements();
        for (tensor, store) in MOMENTS {
            let stored = file.get(tensor).ok().filter(|stored| stored.elements() == expected).ok_or_else(|| {
                let name = file.name();
                Error::input(format!("{name}: the tensor `{tensor}` should have {expected} elements"))
            })?;
            for first in (0..expected).step_by(AT_ONCE) {
                let values = stored.range(first..expected.min(first + AT_ONCE))?.read()?;
                self.stores[&store].write_at(&self.gpu, first, &values);
            }
        }
        Ok(())
    }

    /// The layout of the parameters.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

/// Checks that all ranks have found the same norm of the same gradient, by its bits.
///
/// # Errors
/// [`Error::Failed`] that names the first rank with another one.
pub fn check_norms<T: PartialEq>(norms: &[T]) -> Result<()> {
    match norms.iter().position(|norm| *norm != norms[0]) {
        None => Ok(()),
        Some(rank) => Err(Error::failed(format!(
            "rank {rank} and rank 0 have computed different norms of the same gradient, so their weights no longer agree: \
             start ranks with the same device, driver and table of `bench --tune`"
        ))),
    }
}

/// The gradients of an update, and whether it was skipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientNorm {
    /// The global norm before clipping.
    pub norm: f32,
    /// Whether the update was skipped because the gradients were not finite.
    pub skipped: bool,
}

impl GradientNorm {
    /// From the sum of squares and the number of non-finite elements.
    pub fn from_sums([squares, not_finite]: [f32; 2]) -> Self {
        Self { norm: squares.sqrt(), skipped: not_finite > 0.0 || !squares.is_finite() }
    }

    /// That of the loss itself, if it was multiplied by this before it was differentiated.
    #[must_use]
    pub fn of_loss_times(self, loss_scale: f32) -> Self {
        Self { norm: self.norm / loss_scale, ..self }
    }
}
