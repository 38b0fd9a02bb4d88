//! An encoder or a decoder on the device, bound to one size of pictures at a time.

use std::sync::Arc;

use super::Half;
use super::layers::Recorder;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::{DeviceProfile, Graph, Plan, Store, StoreMemory, Stores, Tensor, check_tensors, planned_bytes};
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
        let (graph, ..) = self.record(size);
        let profile = DeviceProfile::of(&self.gpu);
        check_tensors(&graph, &profile)?;
        // The currently bound plan is dropped first.
        let others = self.gpu.counters().bytes_held - self.bound.as_ref().map_or(0, |bound| bound.plan.planned_bytes());
        self.gpu.check_memory(others + planned_bytes(&graph, &profile).reused)
    }

    /// Computes samples `[N, C, rows, columns]`, one micro-batch at a time, and passes the results to `take` in order.
    ///
    /// # Errors
    /// If the device is lost or does not have enough memory, or from `take`.
    pub(super) fn run(
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
            bound.plan.run()?;
            let results: Vec<f32> = bound.plan.read(&[bound.output])?;
            let length = results.len() / micro_batch;
            for (index, result) in results.chunks(length).take(these.len() / dim).enumerate() {
                take(batch * micro_batch + index, result)?;
            }
        }
        Ok(())
    }

    fn record(&self, size: [usize; 2]) -> (Graph, Tensor, Tensor) {
        let mut graph = Graph::new();
        let input = graph.input("samples", &[self.micro_batch, self.half.input_channels(), size[0], size[1]]);
        let parameters = self.layout.declare(&mut graph, PARAMETERS, None);
        let output = self.half.record(&mut Recorder::new(&mut graph, parameters), input);
        graph.keep(output);
        (graph, input, output)
    }

    fn bind(&mut self, size: [usize; 2]) -> Result<&mut Bound> {
        let bound = match self.bound.take().filter(|bound| bound.size == size) {
            Some(bound) => bound,
            None => {
                let (graph, input, output) = self.record(size);
                let plan = Plan::new(&self.gpu, &graph, &Stores::from([(PARAMETERS, self.weights.clone())]))?;
                Bound { size, plan, input, output }
            }
        };
        Ok(self.bound.insert(bound))
    }
}
