//! MiniT2I against its published program, on a tiny model with random weights.
//!
//! Its pictures are twice this program's states, and its time runs from noise, 0, to data, 1: its velocity is −2 times
//! this program's.

use flowdppo_wgpu::autodiff::{Activations, backward_with};
use flowdppo_wgpu::config::WeightType;
use flowdppo_wgpu::flow::sampler::Sampler;
use flowdppo_wgpu::flow::schedule::Schedule;
use flowdppo_wgpu::graph::{Graph, Op, Plan, Shapes, StoreMemory, Tensor};
use flowdppo_wgpu::model::{Adapter, BASE, ConditionInput, Lora, Network, Prompts, Tensors, TextNetwork};
use flowdppo_wgpu::ops::VelocityOfData;

use super::mmdit::{GRADIENTS, PARAMETERS, check_gradients, config, error, file, model, network, stores};
use crate::common::gpu;

const FOLDER: &str = "minit2i_tiny/transformer";

/// Relative to the largest value. Five blocks of f32 sums on both sides, some 1e-6 each at the end.
const FORWARD: f64 = 1e-5;
/// Relative to the largest value of each tensor, against gradients in f64: twice as many layers.
const GRADIENT: f64 = 2e-5;
/// The velocity divides by no smaller noise level.
const FLOOR: f32 = 0.05;

fn io() -> Tensors {
    file("minit2i_tiny/io.safetensors")
}

/// The states of pictures.
fn halved(pictures: &[f32]) -> Vec<f32> {
    pictures.iter().map(|value| 0.5 * value).collect()
}

/// The inputs of a batch of two.
#[derive(Clone)]
struct Request {
    x: Vec<f32>,
    sigma: Vec<f32>,
    context: Vec<f32>,
    padding: Vec<f32>,
}

impl Request {
    /// Pictures `x` at a time of the published program, with the prompts of the file.
    fn at(io: &Tensors, x: &[f32], time: f32) -> Self {
        let padding: Vec<f32> = io["attention_mask"].1.iter().map(|mask| 1.0 - mask).collect();
        let mut context = io["t5.last_hidden_state"].1.clone();
        let width = context.len() / padding.len();
        for (row, _) in context.chunks_mut(width).zip(&padding).filter(|(_, padding)| **padding == 1.0) {
            row.fill(0.0);
        }
        assert!(padding.contains(&0.0) && padding.contains(&1.0));
        Self { x: halved(x), sigma: vec![1.0 - time; 2], context, padding }
    }

    /// Without a prompt.
    fn unconditional(self) -> Self {
        Self { context: vec![0.0; self.context.len()], padding: vec![1.0; self.padding.len()], ..self }
    }

    fn first(&self, samples: usize) -> Self {
        let cut = |values: &[f32]| values[..values.len() / 2 * samples].to_vec();
        Self { x: cut(&self.x), sigma: cut(&self.sigma), context: cut(&self.context), padding: cut(&self.padding) }
    }

    fn declare(&self, graph: &mut Graph, network: &TextNetwork) -> Declared {
        let rows = self.sigma.len();
        let x = graph.input("x", &[rows, 3, 16, 16]);
        let sigma = graph.input("sigma", &[rows]);
        let mut prompts = |name: &str| Prompts::declare(graph, network, name, [rows, self.padding.len() / rows]);
        Declared { x, sigma, given: prompts("prompts"), negative: prompts("negative prompts") }
    }

    fn write(&self, plan: &Plan, to: &Declared) {
        plan.write(to.x, &self.x);
        plan.write(to.sigma, &self.sigma);
        let without = self.clone().unconditional();
        for (prompts, from) in [(to.given, self), (to.negative, &without)] {
            plan.write(prompts.context, &from.context);
            plan.write(prompts.padding.expect("the network is told"), &from.padding);
        }
    }
}

struct Declared {
    x: Tensor,
    sigma: Tensor,
    given: Prompts,
    negative: Prompts,
}

impl Declared {
    fn condition(&self) -> ConditionInput {
        ConditionInput::Prompts { given: self.given, negative: Some(self.negative) }
    }
}

fn tiny() -> (Network, Vec<f32>) {
    model(FOLDER, [16, 16])
}

/// The velocity on the device.
fn velocity((network, weights): &(Network, Vec<f32>), request: &Request, guidance_scale: f32) -> Vec<f32> {
    let mut graph = Graph::new();
    let declared = request.declare(&mut graph, &config(FOLDER));
    let recorded = network.declare(&mut graph, PARAMETERS, None);
    let (x, sigma) = (declared.x, declared.sigma);
    let v = recorded.guided_velocity(&mut graph, x, sigma, declared.condition(), guidance_scale);
    graph.keep(v);
    let mut plan = Plan::new(gpu(), &graph, &stores(&network.layout(), weights)).expect("it is small");
    request.write(&plan, &declared);
    plan.run().expect("the device works");
    plan.read(&[v]).expect("the device works")
}

/// The data that a velocity is of, as pictures.
fn data(request: &Request, v: &[f32]) -> Vec<f32> {
    let divisor = request.sigma[0].max(FLOOR);
    request.x.iter().zip(v).map(|(x, v)| 2.0 * (x - divisor * v)).collect()
}

/// The velocity of the published program.
fn published(v: &[f32]) -> Vec<f32> {
    v.iter().map(|v| -2.0 * v).collect()
}

#[test]
fn data_and_velocities_match_the_published_program() {
    let (model, io) = (tiny(), io());
    for k in 0..3 {
        let request = Request::at(&io, &io["x"].1, io[&format!("t.{k}")].1[0]);
        let v = velocity(&model, &request, 1.0);
        let without = request.clone().unconditional();
        let guided = velocity(&model, &request, 2.5);
        for (name, found) in [
            ("x0", data(&request, &v)),
            ("x0_uncond", data(&without, &velocity(&model, &without, 1.0))),
            ("v", published(&v)),
            ("v_cfg2.5", published(&guided)),
        ] {
            let error = error(&found, &io[&format!("{name}.{k}")].1);
            assert!(error < FORWARD, "{name}.{k}: {error:.1e}");
        }
    }
}

/// Guided Euler steps along the even noise levels of the published program.
#[test]
fn a_guided_trajectory_matches_the_published_program() {
    let (model, io) = (tiny(), io());
    let (shape, states) = &io["traj"];
    let expected: Vec<&[f32]> = states.chunks(shape[1..].iter().product()).collect();
    let sigmas = Schedule::default().sigmas(expected.len() - 1).expect("it is a schedule");
    let mut x = halved(expected[0]);
    for (step, pair) in sigmas.windows(2).enumerate() {
        let request = Request { x: x.clone(), ..Request::at(&io, expected[step], (1.0 - pair[0]) as f32) };
        let v = velocity(&model, &request, 2.5);
        x.iter_mut().zip(&v).for_each(|(x, v)| *x += (pair[1] - pair[0]) as f32 * v);
        // The errors of earlier steps grow with the guidance: its scale is 2.5 + 1.5 for the difference of two terms.
        let found = error(&x, &halved(expected[step + 1]));
        assert!(found < 5e-5, "after step {step}: {found:.1e}");
    }
}

/// The velocity, and the gradients of the trained store, of the states and of the text, for the sum of the predicted
/// pictures times the file's cotangent.
fn differentiate(
    (network, trained): &(Network, Vec<f32>),
    base: Option<StoreMemory>,
    activations: Activations,
) -> [Vec<f32>; 4] {
    let io = io();
    let request = Request::at(&io, &io["x"].1, io["t.1"].1[0]);
    let mut graph = Graph::new();
    let declared = request.declare(&mut graph, &config(FOLDER));
    let recorded = network.declare(&mut graph, PARAMETERS, Some(GRADIENTS));
    let v = recorded.velocity(&mut graph, declared.x, declared.sigma, declared.condition());
    graph.keep(v);
    let seed = graph.input("cotangent", &[2, 3, 16, 16]);
    let wanted = [declared.x, declared.given.context];
    let of_inputs = backward_with(&mut graph, &[(v, seed)], &wanted, activations).gradients;
    let [d_x, d_text] = [0, 1].map(|index| of_inputs[index].expect("the velocity depends on it"));
    for tensor in [d_x, d_text] {
        graph.keep(tensor);
    }
    let layout = network.layout();
    let mut stores = stores(&layout, trained);
    stores.extend(base.map(|base| (BASE, base)));
    let gradients = layout.upload(gpu(), "gradients", &vec![0.0_f32; layout.elements()]).expect("it is small");
    stores.insert(GRADIENTS, gradients.clone());
    let mut plan = Plan::new(gpu(), &graph, &stores).expect("it is small");
    request.write(&plan, &declared);
    // v = (x - picture / 2) / sigma: the gradient of a picture is -1 / (2 sigma) times that of v.
    let cotangent = &io["cotangent"].1;
    let scaled: Vec<f32> = cotangent.iter().map(|value| -2.0 * request.sigma[0] * value).collect();
    plan.write(seed, &scaled);
    plan.run().expect("the device works");
    let [v, mut d_x, d_text] = [v, d_x, d_text].map(|tensor| plan.read(&[tensor]).expect("the device works"));
    // Without the direct way from the states to v; and states are halves of pictures.
    d_x.iter_mut().zip(cotangent).for_each(|(d_x, value)| *d_x = 0.5 * (*d_x + 2.0 * value));
    [v, gradients.read(gpu()).expect("the device works"), d_x, d_text]
}

#[test]
fn gradients_of_all_weights_match_pytorch() {
    let (model, io) = (tiny(), io());
    let [_, gradients, d_x, mut d_text] = differentiate(&model, None, Activations::default());
    // Rows of padding are replaced, so that nothing depends on them.
    let mask = &io["attention_mask"].1;
    let width = d_text.len() / mask.len();
    for (row, _) in d_text.chunks_mut(width).zip(mask).filter(|(_, mask)| **mask == 0.0) {
        row.fill(0.0);
    }
    let found = [error(&d_x, &io["grad_input.x"].1), error(&d_text, &io["grad_input.text"].1)];
    assert!(found.iter().all(|error| *error < GRADIENT), "{found:?}");
    check_gradients(&model.0.layout(), &gradients, &io, "grad.");
}

#[test]
fn recomputed_blocks_have_the_same_bits() {
    let model = tiny();
    let [kept, recomputed] =
        [false, true].map(|recompute| differentiate(&model, None, Activations { recompute, half: false }));
    assert!(kept == recomputed);
}

/// Matrices without a bias are adapted and stored in fewer bits as others are.
#[test]
fn a_base_in_fewer_bits_computes_the_bits_of_its_rounded_weights() {
    let (network, base) = tiny();
    let targets = ["*qkv", "*attn_proj", "w1", "w2", "w3", "txt_embedder"].map(str::to_owned);
    let lora = Lora::new("targets", &network.model, &targets, |_| (3, 6.0)).expect("the model has such layers");
    let names: Vec<&str> = lora.layers().iter().map(|layer| layer.layer.as_str()).collect();
    // Five layers in each of two blocks of the text; ten in each of three blocks of both, but four less in the last.
    assert_eq!(names.len(), 1 + 2 * 5 + 3 * 10 - 4, "{names:?}");
    let mut weights = lora.initial_weights(&network.model, 4);
    weights
        .iter_mut()
        .zip((0..).map(|index| (index % 13) as f32 - 6.0))
        .for_each(|(weight, more)| *weight += 0.01 * more);
    let adapter = Adapter { lora, weights };
    let layout = network.layout();
    for weights in [WeightType::F16, WeightType::Q8_0] {
        let stored = (Network::new(&network.model, Some(&adapter), weights), adapter.weights.clone());
        let frozen = stored.0.frozen();
        let rounded = frozen.rounded(&base).expect("16 bits suffice");
        assert!(rounded != base);
        // Everything but norms, biases and the row of padding.
        let whole = frozen.bytes_by_type()[&flowdppo_wgpu::graph::DType::F32];
        assert!(4 * layout.elements() as u64 > 20 * whole, "{whole} bytes in 32 bits");
        let full = (Network { weights: WeightType::F32, ..stored.0.clone() }, stored.1.clone());
        let run = |model, memory| differentiate(model, Some(memory), Activations::default());
        let expected = run(&full, layout.upload(gpu(), "base", &rounded).expect("it is small"));
        assert!(run(&stored, frozen.upload(gpu(), "base", &base).expect("it is small")) == expected, "{weights:?}");
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let (model, io) = (tiny(), io());
    let request = Request::at(&io, &io["x"].1, 0.4);
    let both = velocity(&model, &request, 2.5);
    let alone = velocity(&model, &request.first(1), 2.5);
    assert!(both[..alone.len()] == alone);
    assert!(both.len() == 2 * alone.len() && alone.iter().any(|value| *value != 0.0));
}

/// Any size has positions: rows are not mistaken for columns.
#[test]
fn pictures_need_not_be_square() {
    let (_, weights) = tiny();
    let network = network(config(FOLDER), [8, 24]);
    let mut graph = Graph::new();
    let x = graph.input("x", &[1, 3, 8, 24]);
    let sigma = graph.input("sigma", &[1]);
    let prompts = Prompts::declare(&mut graph, &config(FOLDER), "prompts", [1, 12]);
    let condition = ConditionInput::Prompts { given: prompts, negative: None };
    let v = network.declare(&mut graph, PARAMETERS, None).velocity(&mut graph, x, sigma, condition);
    graph.keep(v);
    let mut twin = flowdppo_wgpu::graph::Interpreter::new(
        [(PARAMETERS, weights.iter().map(|value| f64::from(*value)).collect())].into(),
    );
    let values: Vec<f32> = (0..3 * 8 * 24).map(|index| ((index * 37 % 101) as f32 - 50.0) / 40.0).collect();
    let mut plan = Plan::new(gpu(), &graph, &stores(&network.layout(), &weights)).expect("it is small");
    let padding = prompts.padding.expect("the network is told");
    for (tensor, values) in
        [(x, values), (sigma, vec![0.5]), (prompts.context, vec![0.0; 12 * 24]), (padding, vec![1.0; 12])]
    {
        plan.write(tensor, &values);
        twin.write(tensor, &values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>());
    }
    plan.run().expect("the device works");
    twin.run(&graph);
    let expected: Vec<f32> = twin.value(&graph, v).iter().map(|value| *value as f32).collect();
    let found = error(&plan.read::<f32>(&[v]).expect("the device works"), &expected);
    assert!(found < FORWARD, "{found:.1e}");
}

/// The KL of two predictions of data, in f64: as the divergence of the two Gaussians, and as docs/method.md says it.
#[test]
fn the_kl_of_a_step_weighs_predicted_data_by_one_over_sigma_squared() {
    let sigmas = Schedule::default().sigmas(10).expect("it is a schedule");
    let op = VelocityOfData { floor: FLOOR };
    let (x, first, second) = ([0.3, -1.2, 0.7], [0.1, -0.9, 0.5], [0.12, -0.95, 0.4]);
    let velocity = |data: &[f64; 3], sigma: f64| {
        let shapes = Shapes { inputs: vec![&[1, 3], &[1, 3], &[1]], outputs: vec![&[1, 3]] };
        op.reference(&shapes, &[&x, data, &[sigma]]).remove(0)
    };
    let square = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    for (sampler, documented) in [
        (Sampler::Cps, [0.008, 0.025, 0.063, 0.140, 0.306, 0.689, 1.720, 5.446, 32.505]),
        (Sampler::FlowSde, [0.010, 0.022, 0.062, 0.138, 0.293, 0.633, 1.483, 4.101, 15.817]),
    ] {
        let rows = sampler.table(&sigmas, |_| 0.7).expect("they are steps");
        for (step, documented) in documented.into_iter().enumerate() {
            let (row, sigma) = (rows[step], sigmas[step]);
            let mean = |data: &[f64; 3]| -> Vec<f64> {
                x.iter().zip(velocity(data, sigma)).map(|(x, v)| row.a * x + row.b * v).collect()
            };
            let kl = square(&mean(&first), &mean(&second)) / (2.0 * row.s * row.s);
            let weight = row.kappa() / (sigma * sigma);
            assert!((kl / (weight * square(&first, &second)) - 1.0).abs() < 1e-9, "{sampler:?} {step}");
            assert!((weight - documented).abs() < 5.1e-4, "{sampler:?} {step}: {weight}");
        }
    }
    // Below the floor the data that samplers see in a velocity is no longer the network's.
    let sigma = 0.03;
    let seen: Vec<f64> = x.iter().zip(velocity(&first, sigma)).map(|(x, v)| x - sigma * v).collect();
    assert!(square(&seen, &first) > 0.1 * square(&x, &first), "{seen:?}");
}
