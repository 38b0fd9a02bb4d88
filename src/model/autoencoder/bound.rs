//! An encoder or a decoder on the device, bound to one size of pictures at a time.

use std::sync::Arc;

use maybe_async::maybe_async;

use super::Half;
use super::layers::Recorder;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::{
    DType, DeviceProfile, Graph, PartMemory, Plan, Store, StoreMemory, Stores, Tensor, check_tensors, planned_bytes,
};
use crate::model::layout::Layout;

/// The weights of an encoder or a decoder.
const PARAMETERS: Store = Store("autoencoder parameters");

/// A plan for one size.
#[derive(Debug)]
struct Bound {
    size: [usize; 2],
    plan: Plan,
    input: Tensor,
    output: Tensor,
}

/// An encoder or a decoder on the device.
#[derive(Debug)]
pub(super) struct BoundHalf {
    gpu: Arc<Gpu>,
    half: Half,
    layout: Layout,
    weights: StoreMemory,
    micro_batch: usize,
    bound: Option<Bound>,
}

impl BoundHalf {
    /// Uploads the weights. `micro_batch` samples are computed at a time.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub(super) fn new(gpu: &Arc<Gpu>, half: Half, weights: &[f32], micro_batch: usize) -> Result<Self> {
        let layout = half.layers().layout();
        let weights = layout.upload(gpu, "autoencoder", weights)?;
        Ok(Self { gpu: gpu.clone(), half, layout, weights, micro_batch: micro_batch.max(1), bound: None })
    }

    /// Checks that the device has room for samples of this size.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(super) fn check(&self, size: [usize; 2]) -> Result<()> {
        if self.bound.as_ref().is_some_and(|bound| bound.size == size) {
            return Ok(());
        }
        let plan = planned(&self.half, self.micro_batch, size, &DeviceProfile::of(&self.gpu))?.plan;
        // The currently bound plan is dropped first.
        let others =
            self.gpu.counters().bytes_held - self.bound.as_ref().map_or(0, |bound| bound.plan.planned().reused);
        self.gpu.check_memory(others + plan.reused)
    }

    /// Computes samples `[N, C, rows, columns]`, one micro-batch at a time, and passes the results to `take` in order.
    ///
    /// # Errors
    /// If the device is lost or does not have enough memory, or from `take`.
    #[maybe_async]
    pub(super) async fn run(
        &mut self,
        samples: &[f32],
        size: [usize; 2],
        take: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let (micro_batch, dim) = (self.micro_batch, self.half.input_channels() * size[0] * size[1]);
        let bound = self.bind(size)?;
        for (batch, these) in samples.chunks(micro_batch * dim).enumerate() {
            // The last batch may be incomplete: fill it with zeros.
            let mut padded = these.to_vec();
            padded.resize(micro_batch * dim, 0.0);
            bound.plan.write(bound.input, &padded);
            bound.plan.run().await?;
            let results: Vec<f32> = bound.plan.read(&[bound.output]).await?;
            let length = results.len() / micro_batch;
            for (index, result) in results.chunks(length).take(these.len() / dim).enumerate() {
                take(batch * micro_batch + index, result)?;
            }
        }
        Ok(())
    }

    fn bind(&mut self, size: [usize; 2]) -> Result<&mut Bound> {
        let bound = match self.bound.take().filter(|bound| bound.size == size) {
            Some(bound) => bound,
            None => {
                let (graph, input, output) = record(&self.half, &self.layout, self.micro_batch, size);
                let plan = Plan::new(&self.gpu, &graph, &Stores::from([(PARAMETERS, self.weights.clone())]))?;
                Bound { size, plan, input, output }
            }
        };
        Ok(self.bound.insert(bound))
    }
}

/// Records an encoder or a decoder for samples of a size, with its input and its output.
fn record(half: &Half, layout: &Layout, micro_batch: usize, size: [usize; 2]) -> (Graph, Tensor, Tensor) {
    let mut graph = Graph::new();
    let input = graph.input("samples", &[micro_batch, half.input_channels(), size[0], size[1]]);
    let parameters = layout.declare(&mut graph, PARAMETERS, None);
    let output = half.record(&mut Recorder::new(&mut graph, parameters), input);
    graph.keep(output);
    (graph, input, output)
}

/// What an encoder or a decoder takes on such a device for samples of a size.
///
/// # Errors
/// If the device does not allow a tensor of this size.
pub(super) fn planned(
    half: &Half,
    micro_batch: usize,
    size: [usize; 2],
    profile: &DeviceProfile,
) -> Result<PartMemory> {
    let layout = half.layers().layout();
    let (graph, ..) = record(half, &layout, micro_batch, size);
    check_tensors(&graph, profile)?;
    Ok(PartMemory { weights: DType::F32.bytes(&[layout.elements()]), plan: planned_bytes(&graph, profile) })
}
