//! Layers of a large model at their real sizes, and one block of it with an adapter: what fine-tuning Stable Diffusion 3.5
//! medium consists of. Weights and inputs are random, so nothing has to be downloaded.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::Suite;
use super::cases::{self, Case, Types, filling};
use super::iteration::counts;
use super::measure::seconds;
use super::results::Measurement;
use super::shapes::{ATTENTION, LINEAR, SD35_MEDIUM, SD35_RANK, SD35_TEXT, measured_large};
use crate::autodiff::backward;
use crate::config::WeightType;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::{DType, DeviceProfile, Graph, Plan, Planned, StoreMemory, Stores, Tensor, planned_bytes};
use crate::model::{BASE, Entry, Frozen, Layout, Lora, MmditConfig, WeightSource, products_in};
use crate::optimizer::{GRADIENTS, PARAMETERS};
use crate::text::duration;

/// The side of pictures in pixels that `bench sd35-block` has in mind, and with `--quick`.
const SIDES: [usize; 2] = [512, 128];

/// Pixels on each side of a token: 8 of a latent times 2.
const TOKEN_SIDE: usize = 16;

/// With `--quick`, layers have no more rows, and attention no more heads.
const QUICK_ROWS: usize = 218;
const QUICK_HEADS: usize = 2;

/// Names of layers that the configurations of Stable Diffusion 3.5 adapt: all projections of the joint attention.
const TARGETS: [&str; 8] = [
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
];

/// The block that is measured: the first of those with a second attention over the image's tokens, as 13 of 24 have.
const BLOCK: usize = 0;

fn sd35_medium() -> MmditConfig {
    MmditConfig {
        patch_size: 2,
        channels: 16,
        depth: 24,
        num_heads: SD35_MEDIUM.heads,
        head_dim: SD35_MEDIUM.head_dim(),
        context_dim: 4096,
        pooled_dim: 2048,
        positions_side: 384,
        dual_attention: (0..13).collect(),
        qk_norm: true,
        usual_side: 128,
    }
}

/// Random weights of a size at which activations keep theirs.
struct Drawn;

impl WeightSource for Drawn {
    fn read(&self, entry: &Entry) -> Result<Cow<'_, [f32]>> {
        let mut values = filling(entry.offset, entry.elements());
        // Numbers from -0.5 to 0.5 have a variance of 1 / 12.
        let scale = (12.0 / entry.shape[1..].iter().product::<usize>() as f32).sqrt();
        match entry.shape.len() {
            1 => values.fill(if entry.name.contains("norm_") { 1.0 } else { 0.0 }),
            _ => values.iter_mut().for_each(|value| *value *= scale),
        }
        Ok(values.into())
    }
}

/// The forward and backward pass of a block: gradients of its adapter, which accumulate, and of its inputs.
struct BlockStep {
    graph: Graph,
    inputs: Vec<Tensor>,
    base: Frozen,
    adapter: Layout,
    /// Floating-point operations of the forward pass.
    forward: u64,
}

impl BlockStep {
    /// Of a block with this many tokens of an image.
    fn record(image_tokens: usize, precision: DType) -> Result<Self> {
        let config = sd35_medium();
        let layout = config.block_layout(BLOCK);
        let lora = Lora::new("the benchmark", &layout, &TARGETS.map(String::from), |_| (SD35_RANK, 64.0))?;
        let (base, adapter) = (Frozen::new(&layout, WeightType::F16), lora.layout(&layout));
        let mut graph = Graph::new();
        let trained = adapter.declare(&mut graph, PARAMETERS, Some(GRADIENTS)).in_precision(precision);
        let factors: BTreeMap<String, f32> =
            lora.layers().iter().map(|layer| (layer.layer.clone(), layer.factor() as f32)).collect();
        let parameters = base.declare(&mut graph, BASE).in_precision(precision).with_lora(trained, factors);
        let width = config.hidden();
        let shapes = [vec![1, image_tokens, width], vec![1, SD35_TEXT, width]];
        let [image, text] = [0, 1].map(|stream| graph.input("tokens", &shapes[stream]));
        let condition = graph.input("condition", &[1, width]);
        let outputs = config.record_block(&mut graph, parameters, BLOCK, [image, text], condition);
        let forward = graph.flops();
        let gradients = [0, 1].map(|stream| graph.input("gradient of tokens", &shapes[stream]));
        let seeds = [(outputs[0], gradients[0]), (outputs[1], gradients[1])];
        let gradients_of_inputs = backward(&mut graph, &seeds, &[image, text, condition]);
        for result in gradients_of_inputs.into_iter().flatten().chain(outputs) {
            graph.keep(result);
        }
        let inputs = [&[image, text, condition][..], &gradients].concat();
        Ok(Self { graph, inputs, base, adapter, forward })
    }

    /// Device bytes of everything.
    fn planned(&self, profile: &DeviceProfile) -> Planned {
        let mut planned = planned_bytes(&self.graph, profile);
        let stores = self.base.bytes() + 2 * DType::F32.bytes(&[self.adapter.elements()]);
        (planned.reused, planned.naive) = (planned.reused + stores, planned.naive + stores);
        planned
    }

    fn bind(&self, gpu: &Arc<Gpu>) -> Result<Plan> {
        gpu.check_memory(gpu.counters().bytes_held + self.planned(&DeviceProfile::of(gpu)).reused)?;
        let gradients = StoreMemory::allocate(gpu, GRADIENTS.0, &self.adapter.chunks(gpu.chunk_bytes()))?;
        let stores = Stores::from([
            (BASE, self.base.upload(gpu, BASE.0, &Drawn)?),
            (PARAMETERS, self.adapter.upload(gpu, PARAMETERS.0, &Drawn)?),
            (GRADIENTS, gradients),
        ]);
        let plan = Plan::new(gpu, &self.graph, &stores)?;
        for (seed, tensor) in self.inputs.iter().enumerate() {
            plan.write(*tensor, &filling(seed, self.graph.elements(*tensor)));
        }
        Ok(plan)
    }
}

impl Suite<'_> {
    /// One block of Stable Diffusion 3.5 medium with a frozen base in 16 bits and an adapter, forward and backward, for one
    /// sample.
    pub(super) fn sd35_block(&mut self) -> Result<()> {
        let side = SIDES[usize::from(self.is_quick)];
        let image_tokens = (side / TOKEN_SIDE).pow(2);
        let name = format!("sd35-block {side} px, {} tokens", image_tokens + SD35_TEXT);
        let step = BlockStep::record(image_tokens, products_in(self.precision))?;
        let flops = step.graph.flops();
        let least = flops as f64 / self.limits.flops_per_second;
        self.note(format!(
            "{name}: {:.1} GFLOP forward and {:.1} backward, at least {} a run here",
            step.forward as f64 / 1e9,
            (flops - step.forward) as f64 / 1e9,
            duration(least)
        ));
        let planned = step.planned(&DeviceProfile::of(&self.gpu));
        let bound = step.bind(&self.gpu);
        let Some(mut plan) = self.or_too_large(&name, bound)? else { return Ok(()) };
        let (gpu, mut sent) = (self.gpu.clone(), None);
        let mut run = || {
            let before = gpu.submitted();
            let seconds = seconds(|| {
                plan.run()?;
                gpu.wait()
            });
            sent = Some(gpu.submitted() - before);
            seconds
        };
        // The first replays compile and measure.
        run()?;
        run()?;
        let timing = self.pace.repeat(run)?;
        let row = Measurement::new(&name, timing, flops, 0).against(self.limits);
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let row = row.with([
            ("GFLOP forward", step.forward as f64 / 1e9),
            ("GFLOP", flops as f64 / 1e9),
            ("planned MiB", mebibytes(planned.reused)),
            ("planned MiB without reuse", mebibytes(planned.naive)),
        ]);
        self.add(row.with(sent.into_iter().flat_map(counts)));
        Ok(())
    }

    /// Products and attention at the sizes of Stable Diffusion 3.5 medium, one sample at 512 and 1024 px.
    pub(super) fn large(&mut self) -> Result<()> {
        for cases in large_cases(self.is_quick, products_in(self.precision)) {
            self.kernels(cases)?;
        }
        Ok(())
    }
}

/// The cases of `bench large`, each list by increasing cost of one kind of work.
fn large_cases(quick: bool, precision: DType) -> Vec<Vec<Case>> {
    let of = |weights: DType| Types { weights, precision };
    let rows = |m: usize| if quick { m.min(QUICK_ROWS) } else { m };
    // Says what is left out.
    let of_rows = |case: Case, m: usize| match rows(m) {
        few if few < m => Case { name: format!("{} of {m} rows", case.name), ..case },
        _ => case,
    };
    // With fewer rows, those of both sizes of pictures are the same.
    let sizes: Vec<[usize; 3]> = measured_large(LINEAR).filter(|[m, ..]| !quick || *m == SMALLEST).collect();
    let (adapters, layers): (Vec<_>, Vec<_>) = sizes.into_iter().partition(|[_, n, k]| (*n).min(*k) == SD35_RANK);
    let each = |sizes: &[[usize; 3]], case: &dyn Fn([usize; 3]) -> Case| -> Vec<Case> {
        sizes.iter().map(|[m, n, k]| of_rows(case([rows(*m), *n, *k]), *m)).collect()
    };
    let mut lists = vec![
        each(&layers, &|size| cases::matmul_of(of(DType::F32), size)),
        each(&layers, &|size| cases::matmul_of(of(DType::F16), size)),
        each(&layers, &|[m, n, k]| cases::matmul_d_x(of(DType::F16), [m, k, n])),
        each(&adapters, &|size| cases::matmul_of(of(DType::F32), size)),
        each(&adapters, &|[m, n, k]| cases::matmul_d_x(of(DType::F32), [m, k, n])),
        each(&adapters, &|[m, n, k]| cases::matmul_d_w(of(DType::F32), [n, k, m])),
    ];
    for backward in [false, true] {
        let case = |[batch, tokens, heads, head_dim]: [usize; 4]| {
            let few = if quick { heads.min(QUICK_HEADS) } else { heads };
            let case = cases::attention(backward, [batch, tokens, few, head_dim]);
            match few < heads {
                true => Case { name: format!("{} of {heads} heads", case.name), ..case },
                false => case,
            }
        };
        lists.push(
            measured_large(ATTENTION).filter(|[_, tokens, ..]| !quick || *tokens == SMALLEST).map(case).collect(),
        );
    }
    lists.iter_mut().for_each(|cases| cases.sort_by_key(|case| case.graph.flops()));
    lists
}

/// Tokens of the smallest of the large samples.
const SMALLEST: usize = (SIDES[0] / TOKEN_SIDE) * (SIDES[0] / TOKEN_SIDE) + SD35_TEXT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_costs_what_its_layers_cost() {
        let step = BlockStep::record(1024, DType::F32).expect("the targets are layers");
        // For each token of the image: four projections of 1536 x 1536 in each of two attentions, and the MLP; for each of
        // the text, those of one. Per sample: nine and six parts of the modulation. Then attention: twice for all pairs.
        let (d, image, text) = (1536_u64, 1024, 154);
        let layers = 2 * d * d * (image * (8 + 8) + text * (4 + 8) + 9 + 6);
        let adapters = 2 * 2 * 32 * d * 4 * (image + text);
        let attention = 4 * d * ((image + text).pow(2) + image.pow(2));
        assert_eq!(step.forward, layers + adapters + attention);
        assert!(step.graph.flops() > 2 * step.forward && step.graph.flops() < 4 * step.forward);
    }

    #[test]
    fn quick_cases_take_less_than_a_minute_and_say_what_they_leave_out() {
        let flops = |quick| large_cases(quick, DType::F32).iter().flatten().map(|case| case.graph.flops()).sum::<u64>();
        assert!(flops(true) < 60_000_000_000, "{}", flops(true));
        assert!(flops(false) > 20 * flops(true));
        for case in large_cases(true, DType::F32).iter().flatten() {
            assert!(case.name.ends_with(" rows") || case.name.ends_with(" heads"), "{}", case.name);
        }
    }
}
