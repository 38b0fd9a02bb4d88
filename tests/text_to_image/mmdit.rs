//! The transformer of Stable Diffusion 3 and 3.5 against diffusers, on tiny models with random weights.

use std::sync::Arc;

use flowdppo_wgpu::Result;
use flowdppo_wgpu::autodiff::{Activations, backward_with};
use flowdppo_wgpu::config::WeightType;
use flowdppo_wgpu::flow::schedule::Schedule;
use flowdppo_wgpu::gpu::Gpu;
use flowdppo_wgpu::graph::{DeviceProfile, Graph, Interpreter, PartMemory, Plan, Store, StoreMemory, Stores, Tensor};
use flowdppo_wgpu::model::folder::{StoredTensors, to_diffusers};
use flowdppo_wgpu::model::{
    Adapter, BASE, ConditionInput, FlowModel, FlowNetwork, LatentDecoder, Layout, MmditConfig, Network, Prompt,
    PromptEmbedding, PromptSource, Prompts, Shared, StoredTransformer, Tensors, TextModel, TextNetwork, WeightSource,
    read_tensors,
};
use flowdppo_wgpu::shape::ImageShape;

use crate::common::{Input, Random, floats, formats, gpu};

pub(super) const PARAMETERS: Store = Store("parameters");
pub(super) const GRADIENTS: Store = Store("gradients");

/// Relative to the largest value. A few dozen layers of f32 sums on both sides: about 2e-6 each, times their growth
/// through three blocks.
const FORWARD: f64 = 1e-5;
/// Relative to the largest value of each tensor, against gradients in f64: twice as many layers.
const GRADIENT: f64 = 2e-5;

pub(super) fn file(name: &str) -> Tensors {
    read_tensors(&formats(name)).expect("the file is complete")
}

pub(super) fn config(folder: &str) -> TextNetwork {
    TextNetwork::open(&formats(folder)).expect("it describes a transformer")
}

/// The prompts and the decoder of a network that is given embeddings and not asked for pictures.
#[derive(Debug)]
struct Nothing;

impl PromptSource for Nothing {
    fn prompts(&self) -> &[Prompt] {
        &[]
    }

    fn tokens(&self) -> usize {
        0
    }

    fn embedding(&self, _: Option<usize>) -> Result<PromptEmbedding> {
        unreachable!("the embeddings are given")
    }
}

impl LatentDecoder for Nothing {
    fn picture_shape(&self, latents: ImageShape) -> ImageShape {
        latents
    }

    fn planned(
        &self,
        _: ImageShape,
        _: &DeviceProfile,
        _: &dyn Fn(&PartMemory) -> Result<()>,
    ) -> Result<(Option<[usize; 2]>, PartMemory)> {
        unreachable!("there are no pictures")
    }

    fn decode(&self, _: &Arc<Gpu>, _: &[f32], _: ImageShape) -> Result<Vec<f32>> {
        unreachable!("there are no images")
    }
}

/// A transformer with all of its weights in one store.
pub(super) fn network(network: TextNetwork, size: [usize; 2]) -> Network {
    let schedule = Schedule::default();
    let (prompts, decoder) = (Shared(Arc::new(Nothing) as _), Shared(Arc::new(Nothing) as _));
    let model = TextModel { network, size, schedule, prompts, decoder, published: None };
    (&FlowModel::Text(model)).into()
}

/// All weights of a transformer for latents of a size, from the file of its folder.
pub(super) fn weights(network: &TextNetwork, size: [usize; 2], folder: &str) -> Vec<f32> {
    let path = formats(folder).join("diffusion_pytorch_model.safetensors");
    let tensors = StoredTensors::open(&path).expect("the file is complete");
    let tensors = to_diffusers("transformer", &tensors).expect("the names are known");
    let stored = StoredTransformer::new(network, size, &tensors).expect("the weights fit");
    let layout = network.layout(size);
    let mut weights = vec![0.0; layout.elements()];
    for entry in layout.entries() {
        let values = stored.read(entry).expect("the file is complete");
        weights[entry.offset..entry.offset + values.len()].copy_from_slice(&values);
    }
    weights
}

/// The transformer of a folder for latents of a size, with all of its weights.
pub(super) fn model(folder: &str, size: [usize; 2]) -> (Network, Vec<f32>) {
    let config = config(folder);
    let weights = weights(&config, size, folder);
    (network(config, size), weights)
}

pub(super) const SD35: &str = "sd35_tiny_pipeline/transformer";

/// The largest difference, relative to the largest expected value.
pub(super) fn error(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let difference = largest(&mut actual.iter().zip(expected).map(|(a, e)| (f64::from(*a) - f64::from(*e)).abs()));
    let scale = largest(&mut expected.iter().map(|e| f64::from(e.abs())));
    assert!(actual.iter().all(|value| value.is_finite()), "a result is not finite");
    if difference == 0.0 { 0.0 } else { difference / scale }
}

pub(super) fn stores(layout: &Layout, weights: &[f32]) -> Stores {
    let memory = layout.upload(gpu(), "weights", weights).expect("it is small");
    Stores::from([(PARAMETERS, memory)])
}

/// The input of a batch: latents, times, and the prompts with their shapes.
#[derive(Clone)]
struct Request {
    shape: Vec<usize>,
    x: Vec<f32>,
    time: Vec<f32>,
    context: (Vec<usize>, Vec<f32>),
    pooled: (Vec<usize>, Vec<f32>),
}

impl Request {
    /// The request in a file, by the input names of diffusers.
    fn of(io: &Tensors) -> Self {
        let get = |name: &str| io[name].clone();
        let (shape, x) = get("hidden_states");
        let (context, pooled) = (get("encoder_hidden_states"), get("pooled_projections"));
        Self { shape, x, time: get("timestep").1, context, pooled }
    }

    /// The same from the pipeline's file, at these latents and times.
    fn of_pipeline(io: &Tensors, x: &[f32], time: &[f32]) -> Self {
        let [context, pooled] = ["prompt_embeds", "pooled"].map(|name| io[name].clone());
        Self { shape: io["latents_in"].0.clone(), x: x.to_vec(), time: time.to_vec(), context, pooled }
    }

    fn declare(&self, graph: &mut Graph) -> Declared {
        let x = graph.input("x", &self.shape);
        let time = graph.input("time", &[self.time.len()]);
        let [context, pooled] =
            [("context", &self.context), ("pooled", &self.pooled)].map(|(name, rows)| graph.input(name, &rows.0));
        Declared { x, time, prompts: Prompts { context, pooled: Some(pooled), padding: None } }
    }

    fn write(&self, plan: &Plan, to: &Declared) {
        plan.write(to.x, &self.x);
        plan.write(to.time, &self.time);
        plan.write(to.prompts.context, &self.context.1);
        plan.write(to.prompts.pooled.expect("it was declared"), &self.pooled.1);
    }

    fn first(&self, samples: usize) -> Self {
        let cut = |(shape, values): &(Vec<usize>, Vec<f32>)| {
            let shape = [&[samples], &shape[1..]].concat();
            let elements = shape.iter().product();
            (shape, values[..elements].to_vec())
        };
        let (shape, x) = cut(&(self.shape.clone(), self.x.clone()));
        let (context, pooled) = (cut(&self.context), cut(&self.pooled));
        Self { shape, x, time: self.time[..samples].to_vec(), context, pooled }
    }
}

struct Declared {
    x: Tensor,
    time: Tensor,
    prompts: Prompts,
}

fn record(network: &FlowNetwork<'_>, graph: &mut Graph, declared: &Declared) -> Tensor {
    let prompts = ConditionInput::Prompts { given: declared.prompts, negative: None };
    let v = network.velocity(graph, declared.x, declared.time, prompts);
    graph.keep(v)
}

/// The velocity on the device.
fn velocity((network, weights): &(Network, Vec<f32>), request: &Request) -> Vec<f32> {
    let mut graph = Graph::new();
    let declared = request.declare(&mut graph);
    let v = record(&network.declare(&mut graph, PARAMETERS, None), &mut graph, &declared);
    let mut plan = Plan::new(gpu(), &graph, &stores(&network.layout(), weights)).expect("it is small");
    request.write(&plan, &declared);
    plan.run().expect("the device works");
    plan.read(&[v]).expect("the device works")
}

#[test]
fn velocities_of_sd35_match_diffusers() {
    let model = model(SD35, [8, 8]);
    let io = file("sd35_tiny_pipeline/io.safetensors");
    for embeddings in ["", "not5."] {
        for k in 0..3 {
            let name = format!("{embeddings}velocity.{k}");
            let mut request = Request::of_pipeline(&io, &io["latents_in"].1, &io[&format!("{name}.timestep")].1);
            if embeddings == "not5." {
                // Without T5, its rows are zeros.
                let width = request.context.0[2];
                request.context.1.chunks_mut(333 * width).for_each(|prompt| prompt[77 * width..].fill(0.0));
            }
            let error = error(&velocity(&model, &request), &io[&name].1);
            assert!(error < FORWARD, "{name}: {error:.1e}");
        }
    }
}

/// Twelve by eight: positions come from the centre of the table, and rows are not mistaken for columns.
#[test]
fn velocities_of_latents_that_are_not_square_match_diffusers() {
    let io = file("sd35_tiny_variants/io.safetensors");
    let error = error(&velocity(&model(SD35, [12, 8]), &Request::of(&io)), &io["output.f32"].1);
    assert!(error < FORWARD, "{error:.1e}");
}

#[test]
fn velocities_of_sd3_tiny_match_diffusers() {
    let io = file("sd3_tiny/io.safetensors");
    let error = error(&velocity(&model("sd3_tiny", [16, 16]), &Request::of(&io)), &io["output"].1);
    assert!(error < FORWARD, "{error:.1e}");
}

/// SD3-medium has no norms of queries and keys, and no second attention: the device against the ops' twins.
#[test]
fn networks_without_norms_and_second_attention_run() {
    let TextNetwork::Mmdit(config) = config(SD35) else { panic!("it is of Stable Diffusion") };
    let config = MmditConfig { qk_norm: false, dual_attention: [].into(), depth: 2, ..config };
    let network = network(TextNetwork::Mmdit(config), [4, 6]);
    let layout = network.layout();
    assert!(!layout.entries().iter().any(|entry| entry.name.contains("norm_q") || entry.name.contains("attn2")));
    let mut random = Random(5);
    let mut normal = |shape: &[usize], factor: f32| -> Vec<f32> {
        floats(&random.words(&Input::normal(shape))).iter().map(|value| factor * value).collect()
    };
    let weights = normal(&[layout.elements()], 0.2);
    let request = Request {
        shape: vec![2, 16, 4, 6],
        x: normal(&[192 * 4], 1.0),
        // Early enough that the rounding of the features does not show.
        time: vec![9.0, 0.5],
        context: (vec![2, 5, 48], normal(&[480], 1.0)),
        pooled: (vec![2, 32], normal(&[64], 1.0)),
    };
    let mut graph = Graph::new();
    let declared = request.declare(&mut graph);
    let v = record(&network.declare(&mut graph, PARAMETERS, None), &mut graph, &declared);
    let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>();
    let mut twin = Interpreter::new([(PARAMETERS, wide(&weights))].into());
    for (tensor, values) in [
        (declared.x, &request.x),
        (declared.time, &request.time),
        (declared.prompts.context, &request.context.1),
        (declared.prompts.pooled.expect("it was declared"), &request.pooled.1),
    ] {
        twin.write(tensor, &wide(values));
    }
    twin.run(&graph);
    let expected: Vec<f32> = twin.value(&graph, v).iter().map(|value| *value as f32).collect();
    let error = error(&velocity(&(network, weights), &request), &expected);
    assert!(error < FORWARD, "{error:.1e}");
}

/// Guided Euler steps on the schedule of diffusers, as in its pipeline.
#[test]
fn a_guided_trajectory_matches_diffusers() {
    let (network, weights) = model(SD35, [8, 8]);
    let io = file("sd35_tiny_pipeline/io.safetensors");
    let sigmas = Schedule::DiffusersStatic { shift: 3.0 }.sigmas(4).expect("it is a schedule");
    for (ours, theirs) in sigmas.iter().zip(&io["traj.sigmas"].1) {
        assert!((ours - f64::from(*theirs)).abs() < 1e-6, "{sigmas:?}");
    }
    let request = Request::of_pipeline(&io, &io["latents_in"].1, &[1000.0; 2]);
    let twice = |name: &str| {
        let (shape, values) = &io[name];
        ([&[2], &shape[1..]].concat(), values.repeat(2))
    };
    let (context, pooled) = (twice("negative_prompt_embeds"), twice("negative_pooled"));
    let mut graph = Graph::new();
    let declared = request.declare(&mut graph);
    let [of_context, of_pooled] = [&context, &pooled].map(|(shape, _)| graph.input("negative", shape));
    let negative = Prompts { context: of_context, pooled: Some(of_pooled), padding: None };
    let transformer = network.declare(&mut graph, PARAMETERS, None);
    let prompts = ConditionInput::Prompts { given: declared.prompts, negative: Some(negative) };
    let v = transformer.guided_velocity(&mut graph, declared.x, declared.time, prompts, 4.5);
    graph.keep(v);
    let mut plan = Plan::new(gpu(), &graph, &stores(&network.layout(), &weights)).expect("it is small");
    request.write(&plan, &declared);
    plan.write(of_context, &context.1);
    plan.write(of_pooled, &pooled.1);
    let mut x = request.x;
    let latents: Vec<&[f32]> = io["traj.latents"].1.chunks(x.len()).collect();
    assert_eq!(latents.len(), 5);
    for (step, pair) in sigmas.windows(2).enumerate() {
        // The errors of earlier steps grow with the guidance: its scale is 4.5 + 3.5 for the difference of two terms.
        let found = error(&x, latents[step]);
        assert!(found < 2e-4, "before step {step}: {found:.1e}");
        let time = network.model.time_of(pair[0]);
        assert!((time - io["traj.timesteps"].1[step]).abs() < 1e-3);
        plan.write(declared.x, &x);
        plan.write(declared.time, &[time; 2]);
        plan.run().expect("the device works");
        let v: Vec<f32> = plan.read(&[v]).expect("the device works");
        let at = step * x.len()..(step + 1) * x.len();
        let [with, without] = ["traj.v_cond", "traj.v_uncond"].map(|name| &io[name].1[at.clone()]);
        let guided: Vec<f32> =
            with.iter().zip(without).map(|(with, without)| without + 4.5 * (with - without)).collect();
        let found = error(&v, &guided);
        assert!(found < 2e-4, "velocity of step {step}: {found:.1e}");
        x.iter_mut().zip(&v).for_each(|(x, v)| *x += (pair[1] - pair[0]) as f32 * v);
    }
    let found = error(&x, latents[4]);
    assert!(found < 2e-4, "{found:.1e}");
}

/// The velocity, the gradients of the trained store and that of the latents, of the sum of the velocity times a cotangent.
fn differentiate(
    (network, trained): &(Network, Vec<f32>),
    base: Option<StoreMemory>,
    io: &Tensors,
    cotangent: &[f32],
    activations: Activations,
) -> [Vec<f32>; 3] {
    let request = Request::of(io);
    let mut graph = Graph::new();
    let declared = request.declare(&mut graph);
    let v = record(&network.declare(&mut graph, PARAMETERS, Some(GRADIENTS)), &mut graph, &declared);
    let seed = graph.input("cotangent", &request.shape);
    let recorded = backward_with(&mut graph, &[(v, seed)], &[declared.x], activations);
    let d_x = recorded.gradients[0].expect("the velocity depends on the latents");
    graph.keep(d_x);
    let layout = network.layout();
    let mut stores = stores(&layout, trained);
    stores.extend(base.map(|base| (BASE, base)));
    let gradients = layout.upload(gpu(), "gradients", &vec![0.0_f32; layout.elements()]).expect("it is small");
    stores.insert(GRADIENTS, gradients.clone());
    let mut plan = Plan::new(gpu(), &graph, &stores).expect("it is small");
    request.write(&plan, &declared);
    plan.write(seed, cotangent);
    plan.run().expect("the device works");
    let [v, d_x] = [v, d_x].map(|tensor| plan.read(&[tensor]).expect("the device works"));
    [v, gradients.read(gpu()).expect("the device works"), d_x]
}

/// Compares each tensor of a store of gradients with `PREFIX NAME` of a file.
pub(super) fn check_gradients(layout: &Layout, gradients: &[f32], expected: &Tensors, prefix: &str) {
    let mut compared = 0;
    for entry in layout.entries().iter().filter(|entry| entry.trainable) {
        let ours = &gradients[entry.offset..][..entry.elements()];
        let (shape, theirs) = &expected[&format!("{prefix}{}", entry.name)];
        assert_eq!(*shape, entry.shape, "{}", entry.name);
        let error = error(ours, theirs);
        // Arguments of up to 1000 round to 3e-5 in f32, and so do the features that this gradient is a product with.
        let is_of_time = entry.name == "time_text_embed.timestep_embedder.linear_1.weight";
        let tolerance = if is_of_time { 1e-4 } else { GRADIENT };
        assert!(error < tolerance, "{}: {error:.1e}", entry.name);
        // The text queries of the last block have no effect.
        let is_unused =
            entry.name.contains("blocks.2.attn.add_q_proj") || entry.name.contains("blocks.2.attn.norm_added_q");
        assert_eq!(ours.iter().all(|value| *value == 0.0), is_unused, "{}", entry.name);
        compared += 1;
    }
    assert_eq!(compared, expected.keys().filter(|name| name.starts_with(prefix)).count(), "all of the file's");
}

#[test]
fn gradients_of_all_weights_match_pytorch() {
    let model = model(SD35, [12, 8]);
    let io = file("sd35_tiny_gradients/gradients.safetensors");
    let [v, gradients, d_x] = differentiate(&model, None, &io, &io["cotangent"].1, Activations::default());
    let found = [error(&v, &io["output"].1), error(&d_x, &io["grad_input.hidden_states"].1)];
    assert!(found[0] < FORWARD && found[1] < GRADIENT, "{found:?}");
    check_gradients(&model.0.layout(), &gradients, &io, "grad.");
}

#[test]
fn recomputed_blocks_have_the_same_bits() {
    let model = model(SD35, [12, 8]);
    let io = file("sd35_tiny_gradients/gradients.safetensors");
    let [kept, recomputed] = [false, true]
        .map(|recompute| differentiate(&model, None, &io, &io["cotangent"].1, Activations { recompute, half: false }));
    assert!(kept == recomputed);
}

/// A network with the reference adapter, the weights of the adapter, and those of the base.
pub(super) fn adapted() -> (Network, Adapter, Vec<f32>) {
    let (network, base) = model(SD35, [12, 8]);
    let adapter =
        Adapter::load(&formats("sd35_tiny_gradients/lora_peft"), &network.model.layout()).expect("it is LoRA");
    (Network { lora: Some(adapter.lora.clone()), ..network }, adapter, base)
}

#[test]
fn gradients_of_an_adapter_match_pytorch() {
    let (network, adapter, base) = adapted();
    let layers: Vec<&str> = adapter.lora.layers().iter().map(|layer| layer.layer.as_str()).collect();
    // Eight projections of three blocks, of which the last has no result for the text.
    assert_eq!(layers.len(), 23);
    assert!(
        layers.contains(&"transformer_blocks.1.attn.to_add_out") && !layers.iter().any(|layer| layer.contains("attn2"))
    );
    assert!(adapter.lora.layers().iter().all(|layer| layer.rank == 4 && layer.alpha == 8.0));
    let inputs = file("sd35_tiny_gradients/gradients.safetensors");
    let io = file("sd35_tiny_gradients/lora_gradients.safetensors");
    let layout = network.model.layout();
    let memory = layout.upload(gpu(), "base", &base).expect("it is small");
    let model = (network, adapter.weights);
    for recompute in [false, true] {
        let activations = Activations { recompute, half: false };
        let [v, gradients, d_x] = differentiate(&model, Some(memory.clone()), &io, &inputs["cotangent"].1, activations);
        let found = [error(&v, &io["output"].1), error(&d_x, &io["grad_input.hidden_states"].1)];
        assert!(found[0] < FORWARD && found[1] < GRADIENT, "{found:?}");
        check_gradients(&model.0.layout(), &gradients, &io, "grad.base_model.model.");
    }
    // A base in fewer bits computes the same bits as its rounded weights.
    for weights in [WeightType::F16, WeightType::Q8_0] {
        let stored = (Network { weights, ..model.0.clone() }, model.1.clone());
        let frozen = stored.0.frozen();
        let rounded = frozen.rounded(&base).expect("16 bits suffice");
        assert!(rounded != base);
        let run =
            |model, memory| differentiate(model, Some(memory), &io, &inputs["cotangent"].1, Activations::default());
        let expected = run(&model, layout.upload(gpu(), "base", &rounded).expect("it is small"));
        assert!(run(&stored, frozen.upload(gpu(), "base", &base).expect("it is small")) == expected, "{weights:?}");
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let model = model(SD35, [12, 8]);
    let io = file("sd35_tiny_variants/io.safetensors");
    let request = Request::of(&io);
    let both = velocity(&model, &request);
    let alone = velocity(&model, &request.first(1));
    assert!(both[..alone.len()] == alone);
    assert!(both.len() == 2 * alone.len() && alone.iter().any(|value| *value != 0.0));
}
