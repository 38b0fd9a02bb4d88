//! A graph bound to a device: replayed, never rebuilt.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use maybe_async::maybe_async;

use super::{
    Binding, DType, DeviceProfile, Element, Graph, Initial, MemoryPlan, Node, Origin, Planned, Stores, Tensor,
    check_tensors, memory::share,
};
use crate::error::Result;
use crate::gpu::{BoundDispatch, Buffer, Command, Dispatch, Gpu, Region, SUBMISSION_BUDGET, ShaderStruct, Work};

/// A graph with its memory, pipelines and bind groups.
#[derive(Debug)]
pub struct Plan {
    gpu: Arc<Gpu>,
    dispatches: Vec<BoundDispatch>,
    regions: HashMap<Tensor, Region>,
    types: HashMap<Tensor, DType>,
    /// Dispatches that may be submitted together, and how long they take, once that has been measured.
    parts: Vec<(Range<usize>, Duration)>,
    /// What each dispatch does; empty unless the device is profiled.
    works: Vec<Arc<Work>>,
    /// Time in kernels of one replay, once measured.
    kernel_time: Duration,
    planned: Planned,
}

impl Plan {
    /// Plans and binds a graph. Computations allocate nowhere else.
    ///
    /// # Errors
    /// If a store is too large for the device, memory runs out, or the driver rejects a kernel.
    pub fn new(gpu: &Arc<Gpu>, graph: &Graph, stores: &Stores) -> Result<Self> {
        Self::with_profile(gpu, graph, stores, &DeviceProfile::of(gpu))
    }

    /// [`Plan::new`] with kernels chosen as on a device with this profile, for tests and measurements of variants
    /// that would not be chosen otherwise.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn with_profile(gpu: &Arc<Gpu>, graph: &Graph, stores: &Stores, profile: &DeviceProfile) -> Result<Self> {
        check_tensors(graph, profile)?;
        let nodes = graph.executed();
        let memory = MemoryPlan::new(graph, &nodes, profile);
        let planned = memory.planned(graph, profile);
        let slots = slots(gpu, &memory.slots, planned.reused)?;
        let mut regions = HashMap::new();
        let mut types = HashMap::new();
        for tensor in graph.tensors() {
            let bytes = graph.bytes(tensor);
            let region = match graph.origin(tensor) {
                Origin::Input => {
                    Region { buffer: gpu.allocate_for_batch(graph.name(tensor), bytes)?, offset: 0, bytes }
                }
                Origin::Stored(store, word) => {
                    let memory = stores.get(&store).unwrap_or_else(|| panic!("{store:?} was not passed to the plan"));
                    let region = memory.region(DType::U32.bytes(&[word]), bytes);
                    region.unwrap_or_else(|| panic!("{} reaches beyond a chunk of its store", graph.name(tensor)))
                }
                Origin::Computed if memory.kept.contains(&tensor) => {
                    Region { buffer: gpu.allocate_for_batch(graph.name(tensor), bytes)?, offset: 0, bytes }
                }
                Origin::Computed => match memory.slot_of.get(&tensor) {
                    Some(slot) => Region { buffer: slots[*slot].clone(), offset: 0, bytes },
                    // No kernel accesses it: fused kernels keep intermediate values in registers.
                    None => continue,
                },
            };
            match &graph.tensors[tensor.0].initial {
                Some(Initial::F32(data)) => gpu.write(&region.buffer, region.offset, data),
                Some(Initial::U32(data)) => gpu.write(&region.buffer, region.offset, data),
                None => {}
            }
            regions.insert(tensor, region);
            types.insert(tensor, graph.dtype(tensor));
        }
        let mut unbound: Vec<Dispatch<Region>> = Vec::new();
        let mut works = Vec::new();
        for node in &nodes {
            let first = unbound.len();
            for dispatch in node.op.dispatches(&graph.shapes(node), profile) {
                let region = |binding: &Binding| match node.bound(*binding) {
                    Some(tensor) => regions[&tensor].clone(),
                    None => gpu.unused().clone(),
                };
                unbound.push(Dispatch {
                    reads: dispatch.reads.iter().map(region).collect(),
                    writes: dispatch.writes.iter().map(region).collect(),
                    kernel: dispatch.kernel,
                    params: dispatch.params,
                    grid: dispatch.grid,
                });
            }
            if gpu.profiler().is_some() {
                works.extend(works_of(graph, node, &unbound[first..]));
            }
        }
        let dispatches = gpu.bind(&unbound)?;
        Ok(Self {
            gpu: gpu.clone(),
            dispatches,
            regions,
            types,
            parts: Vec::new(),
            works,
            kernel_time: Duration::ZERO,
            planned,
        })
    }

    /// What this plan would allocate alone on the device, as [`planned_bytes`](super::planned_bytes) predicted.
    pub fn planned(&self) -> &Planned {
        &self.planned
    }

    /// The dispatches of one replay, in order.
    pub fn dispatches(&self) -> &[BoundDispatch] {
        &self.dispatches
    }

    /// The region of a tensor, for copies and readbacks.
    pub fn region(&self, tensor: Tensor) -> &Region {
        &self.regions[&tensor]
    }

    /// Writes an input.
    ///
    /// # Panics
    /// If the type or number of the elements differs from the tensor's.
    pub fn write<T: Element>(&self, tensor: Tensor, data: &[T]) {
        assert_eq!(T::TYPE, self.types[&tensor], "an input must be written in its own type");
        self.write_words(tensor, bytemuck::cast_slice(data));
    }

    /// Writes an input whose rows are structs.
    ///
    /// # Panics
    /// If the number of words differs from the tensor's.
    pub fn write_structs<T: ShaderStruct>(&self, tensor: Tensor, rows: &[T]) {
        self.write_words(tensor, bytemuck::cast_slice(rows));
    }

    /// Writes an input of any type as the words that [`DType`] defines.
    ///
    /// # Panics
    /// If the number of words differs from the tensor's.
    pub fn write_words(&self, tensor: Tensor, words: &[u32]) {
        let region = self.region(tensor);
        assert_eq!(size_of_val(words) as u64, region.bytes, "an input is written completely");
        self.gpu.write(&region.buffer, region.offset, words);
    }

    /// Reads tensors back, in order.
    ///
    /// # Errors
    /// If the device is lost.
    #[maybe_async]
    pub async fn read<T: bytemuck::Pod>(&self, tensors: &[Tensor]) -> Result<Vec<T>> {
        let regions: Vec<&Region> = tensors.iter().map(|tensor| self.region(*tensor)).collect();
        self.gpu.read(&regions).await
    }

    /// Replays the graph with the current inputs. Does not wait for the result.
    ///
    /// The first replays run dispatch by dispatch: one lets the driver finish compiling, unless all kernels have
    /// already run elsewhere, and one is timed to decide how many dispatches go into a submission. While the
    /// device is profiled, every replay is timed and recorded. The results are the same.
    ///
    /// # Errors
    /// If the device is lost.
    #[maybe_async]
    pub async fn run(&mut self) -> Result<()> {
        let _replaying = self.gpu.workspace().replay();
        if let Some(profiler) = self.gpu.profiler() {
            profiler.record(&self.works, &self.gpu.time(&self.dispatches).await?);
        } else if !self.parts.is_empty() {
            for (part, took) in &self.parts {
                self.gpu.replay(&self.dispatches[part.clone()], *took)?;
            }
            self.gpu.add_kernel_time(self.kernel_time);
        } else if self.dispatches.iter().all(BoundDispatch::has_run) {
            let timings = self.gpu.time(&self.dispatches).await?;
            self.kernel_time = timings.iter().map(|timing| timing.took).sum();
            self.parts = cut(timings.iter().map(|timing| timing.took));
        } else {
            self.gpu.flush();
            for dispatch in &self.dispatches {
                self.gpu.submit([Command::Dispatch(dispatch)])?;
                self.gpu.wait().await?;
            }
        }
        Ok(())
    }
}

/// Allocates the slots of a plan before other plans are bound, so that they share them. The memory lives as long as the
/// result or a plan that uses it.
///
/// # Errors
/// If the device does not have enough memory.
pub fn reserve(gpu: &Gpu, slots: &[u64]) -> Result<Vec<Arc<Buffer>>> {
    self::slots(gpu, slots, slots.iter().sum())
}

/// Buffers for a plan's slots, from those of other plans of the device if they fit. The plan needs `planned_bytes` in
/// total.
fn slots(gpu: &Gpu, bytes: &[u64], planned_bytes: u64) -> Result<Vec<Arc<Buffer>>> {
    let pool = gpu.workspace().buffers();
    let sizes: Vec<u64> = pool.iter().map(|buffer| buffer.bytes()).collect();
    let fitting = share(&sizes, bytes);
    let shared: u64 = fitting.iter().zip(bytes).filter(|(found, _)| found.is_some()).map(|(_, bytes)| bytes).sum();
    gpu.check_memory(gpu.counters().bytes_held + planned_bytes - shared)?;
    let buffer = |(found, bytes): (Option<usize>, &u64)| match found {
        Some(index) => Ok(pool[index].clone()),
        None => gpu.allocate_for_batch("intermediate tensors", *bytes),
    };
    let slots: Vec<Arc<Buffer>> = fitting.into_iter().zip(bytes).map(buffer).collect::<Result<_>>()?;
    gpu.workspace().add(&slots);
    Ok(slots)
}

/// What the dispatches of a node do. They share its operations equally.
fn works_of<'a>(
    graph: &Graph,
    node: &'a Node,
    dispatches: &'a [Dispatch<Region>],
) -> impl Iterator<Item = Arc<Work>> + use<'a> {
    let flops = node.op.flops(&graph.shapes(node)) / dispatches.len().max(1) as u64;
    dispatches.iter().map(move |dispatch| {
        // A tensor that is bound twice is read once.
        let regions = dispatch.reads.iter().chain(&dispatch.writes);
        let distinct: HashMap<_, u64> =
            regions.map(|region| ((Arc::as_ptr(&region.buffer), region.offset), region.bytes)).collect();
        Arc::new(Work {
            label: node.label.clone(),
            op: node.op.name(),
            shader: dispatch.kernel.shader,
            flops,
            bytes: distinct.values().sum(),
        })
    })
}

/// Groups consecutive dispatches so that no group exceeds the budget, unless it is a single dispatch; each with its
/// time.
fn cut(times: impl IntoIterator<Item = Duration>) -> Vec<(Range<usize>, Duration)> {
    let mut parts: Vec<(Range<usize>, Duration)> = Vec::new();
    for (index, time) in times.into_iter().enumerate() {
        match parts.last_mut() {
            Some((range, spent)) if *spent + time <= SUBMISSION_BUDGET => {
                range.end = index + 1;
                *spent += time;
            }
            _ => parts.push((index..index + 1, time)),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submissions_are_cut_by_time_and_cover_everything() {
        let times = [60, 30, 20, 500, 1, 1].map(Duration::from_millis);
        let parts = [(0..2, 90), (2..3, 20), (3..4, 500), (4..6, 2)];
        assert_eq!(cut(times), parts.map(|(range, milliseconds)| (range, Duration::from_millis(milliseconds))));
        assert!(cut([]).is_empty());
    }
}
