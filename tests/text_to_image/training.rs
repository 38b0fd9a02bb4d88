//! Tuning a text-to-image model: the same trainer as for models with classes.

use std::path::PathBuf;
use std::sync::Arc;

use flowdppo_wgpu::Result;
use flowdppo_wgpu::config::{Config, GuidanceGradient, RewardKind, TrainedSteps, WeightType};
use flowdppo_wgpu::evaluate::{Evaluator, Reference};
use flowdppo_wgpu::files::Content;
use flowdppo_wgpu::flow::noise::NoiseKey;
use flowdppo_wgpu::flow::sampler::Transition;
use flowdppo_wgpu::flow::schedule::Schedule;
use flowdppo_wgpu::flow::solver::Solver;
use flowdppo_wgpu::graph::Stores;
use flowdppo_wgpu::model::{
    BASE, FlowModel, Model, Network, PictureDecoder, Prompt, PromptEmbedding, PromptSource, Shared, Tensors, TextModel,
    TextNetwork, read_tensors,
};
use flowdppo_wgpu::optimizer::PARAMETERS;
use flowdppo_wgpu::preview::Preview;
use flowdppo_wgpu::rl::Trainer;
use flowdppo_wgpu::run::checkpoint;
use flowdppo_wgpu::sampling::{ModelOnDevice, SampleRequest, SamplerTable, Sampling};
use flowdppo_wgpu::shape::ImageShape;

use super::mmdit::weights;
use crate::common::{formats, gpu};

fn pipeline() -> PathBuf {
    formats("sd35_tiny_pipeline")
}

fn io() -> Tensors {
    read_tensors(&pipeline().join("io.safetensors")).expect("the file is whole")
}

/// The two prompts of the pipeline's file.
#[derive(Debug)]
struct Encoded {
    prompts: Vec<Prompt>,
    io: Tensors,
}

impl PromptSource for Encoded {
    fn prompts(&self) -> &[Prompt] {
        &self.prompts
    }

    fn tokens(&self) -> usize {
        self.io["prompt_embeds"].0[1]
    }

    fn embedding(&self, prompt: Option<usize>) -> Result<PromptEmbedding> {
        let names = match prompt {
            Some(_) => ["prompt_embeds", "pooled"],
            None => ["negative_prompt_embeds", "negative_pooled"],
        };
        let [context, pooled] = names.map(|name| {
            let (shape, values) = &self.io[name];
            let row = shape[1..].iter().product::<usize>();
            values[prompt.unwrap_or(0) * row..][..row].to_vec()
        });
        Ok(PromptEmbedding { context, pooled })
    }
}

pub(super) fn model() -> Model {
    let folder = pipeline().join("transformer");
    let network = TextNetwork::open(&folder).expect("it describes a transformer");
    let weights = weights(&network, [8, 8], "sd35_tiny_pipeline/transformer");
    let prompts = ["a red square", "a blue disc"];
    let decoder = PictureDecoder::open(&pipeline().join("vae"), network.channels(), "those of it").expect("they fit");
    let schedule = Schedule::DiffusersStatic { shift: 3.0 };
    let encoded = Encoded { prompts: prompts.map(Prompt::from).into(), io: io() };
    let model = TextModel {
        network,
        size: [8, 8],
        schedule,
        prompts: Shared(Arc::new(encoded)),
        decoder: Shared(Arc::new(decoder)),
        published: None,
    };
    Model::of(&FlowModel::Text(model), &prompts.map(str::to_owned), weights)
}

/// Two groups of two samples, two trained steps of three; the reward is the brightness of the decoded picture.
fn config(change: impl Fn(&mut Config)) -> Config {
    let mut config = Config::default();
    config.rollout.steps = 3;
    config.rollout.groups = 2;
    config.rollout.group_size = 2;
    config.rollout.micro_batch = 4;
    config.rollout.guidance_scale = 2.0;
    config.rollout.guidance_gradient = GuidanceGradient::Both;
    config.rollout.schedule = Schedule::DiffusersStatic { shift: 3.0 };
    config.rollout.trained_steps = TrainedSteps::SparseEarly { count: 2, from: 0.0, to: 0.9 };
    config.reward[0].kind = RewardKind::Brightness;
    config.reward[0].file = String::new();
    config.train.updates_per_rollout = 2;
    config.train.inner_epochs = 1;
    config.train.micro_batch = 2;
    config.train.learning_rate = 1e-3;
    (config.lora.rank, config.lora.targets) =
        (4, ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj"].map(str::to_owned).into());
    config.model.weights = WeightType::F16;
    config.eval.judge = String::new();
    (config.eval.count, config.eval.steps, config.eval.guidance_scale) = (2, 3, 2.0);
    (config.preview.per_class, config.preview.steps) = (2, 3);
    change(&mut config);
    config
}

/// The general sampler takes prompts and decodes: the pictures are those of diffusers.
#[test]
fn sampled_pictures_are_those_of_diffusers() {
    let (model, io) = (model(), io());
    let flow_model = model.flow_model("tiny").expect("it is one");
    let network = Network::from(&flow_model);
    let memory = flow_model.layout().upload(gpu(), "model", &model.weights).expect("it is small");
    let stores = Stores::from([(PARAMETERS, memory)]);
    let mut sampling = Sampling::new(gpu(), &network, [2, 2], 4.5, &stores).expect("it is small");
    let sigmas = Schedule::DiffusersStatic { shift: 3.0 }.sigmas(4).expect("it is a schedule");
    let rows = sigmas.windows(2).map(|pair| Transition { a: 1.0, b: pair[1] - pair[0], s: 0.0 }).collect();
    let table = SamplerTable { sigmas, rows, history: Vec::new() };
    let key = NoiseKey { seed: 0, rollout: 0, sample: 0, step: 0 };
    let requests = [0, 1].map(|condition| SampleRequest { condition, key });
    let start = Some(io["latents_in"].1.as_slice());
    let latents = sampling.draw_visited(&table, &requests, start, |_| Ok(())).expect("the device works");
    let pictures = flow_model.decode(gpu(), &latents).expect("the device works");
    let (_, expected) = &io["image"];
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
    let worst = largest(&mut pictures.iter().zip(expected).map(|(actual, expected)| (actual - expected).abs()));
    let worst = worst / largest(&mut expected.iter().map(|value| value.abs()));
    // Of the largest value. The error of the latents grows with the guidance, see the test of the trajectory.
    assert!(worst < 2e-4, "{worst:.1e}");
    assert_eq!(flow_model.pictures(&[]).shape, ImageShape::square(3, 64));
}

#[test]
fn the_first_update_is_on_policy_and_the_second_is_not() {
    let model = model();
    for (micro_batch, guidance_scale, gradient) in
        [(1, 2.0, GuidanceGradient::Both), (2, 1.0, GuidanceGradient::Both), (2, 2.0, GuidanceGradient::Conditional)]
    {
        let config = config(|config| {
            config.train.micro_batch = micro_batch;
            config.rollout.micro_batch = 2;
            config.rollout.guidance_scale = guidance_scale;
            config.rollout.guidance_gradient = gradient;
            config.train.activation_checkpointing = micro_batch == 1;
            config.objective.reference.beta = 0.1;
            config.objective.reference.guidance_scale = guidance_scale;
        });
        let mut trainer = Trainer::new(gpu(), (&config).into(), &model).expect("it fits the model");
        let metrics = trainer.iteration(0).expect("the first update is on-policy");
        assert_eq!(metrics.on_policy, [0.0; 2], "{micro_batch} {guidance_scale}");
        // As the adapter's B is zero, the first update starts from the base.
        assert_eq!(metrics.updates[0].kl_ref_mean, Some(0.0));
        assert!(metrics.updates[1].kl_mean > 0.0 && metrics.updates[0].grad_norm > 0.0, "it learns nothing");
        let [mean, spread, ..] = metrics.reward;
        assert!((0.0..=1.0).contains(&mean) && spread > 0.0, "the brightness of an image: {mean} {spread}");
    }
}

fn files(trainer: &Trainer, iteration: u64) -> Vec<(&'static str, Vec<u8>)> {
    let files = trainer.checkpoint(iteration).expect("the device works").into_iter();
    files.map(|(name, content)| (name, content.bytes().expect("the device works"))).collect()
}

#[test]
fn a_resumed_run_ends_in_the_same_bytes() {
    let (model, config) = (model(), config(|_| {}));
    let trainer = || Trainer::new(gpu(), (&config).into(), &model).expect("it fits the model");
    let mut whole = trainer();
    (0..2).for_each(|iteration| drop(whole.iteration(iteration).expect("the device works")));

    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut first = trainer();
    first.iteration(0).expect("the device works");
    checkpoint::save(folder.path(), 1, &files(&first, 1), 1).expect("the folder is writable");
    let found = checkpoint::latest(folder.path()).expect("it is whole").expect("there is one");
    let mut second = trainer();
    assert_eq!(second.restore(&found).expect("it is the same run"), 1);
    second.iteration(1).expect("the device works");
    assert!(files(&second, 2) == files(&whole, 2), "other bytes");
}

#[test]
fn evaluation_and_previews_are_of_pictures() {
    let (model, config) = (model(), config(|_| {}));
    let flow_model = model.flow_model("tiny").expect("it is one");
    let mut trainer = Trainer::new(gpu(), (&config).into(), &model).expect("it fits the model");
    let mut stores = trainer.optimizer.average_stores();
    let base = trainer.base().expect("an adapter has a base").clone();
    stores.insert(BASE, base.clone());
    let network = trainer.network().clone();
    let reference =
        Reference { network: Network::base(&flow_model, config.model.weights), stores: Stores::from([(BASE, base)]) };
    let tuned = ModelOnDevice { network: &network, class_names: &model.class_names, stores: &stores };
    let mut evaluator =
        Evaluator::new(gpu(), &config.eval, &config.rollout, tuned, Some(&reference)).expect("it is small");
    let found = evaluator.evaluate(trainer.rewards(), 1).expect("the device works");
    assert_eq!(found.samples, 4);
    let drift = found.drift.expect("there is a base");
    assert_eq!((drift.velocity_msd, drift.image_msd), (0.0, 0.0), "nothing is trained yet");

    let mut preview = Preview::new(gpu(), &config.preview, &[], tuned, 4, 2.0).expect("it is small");
    let table = SamplerTable::solve(&config.rollout.schedule, 3, Solver::Euler).expect("it is a schedule");
    let pictures = preview.draw(&table).expect("the device works");
    assert_eq!(pictures.len(), 4 * 3 * 64 * 64);
    let panel = tempfile::tempdir().expect("a temporary folder");
    let path = panel.path().join("panel.png");
    preview.panel(&pictures, "a preview", &[]).write(&path).expect("the folder is writable");
    let shown = image::open(&path).expect("it is an image").to_rgb8();
    assert!(shown.width() > 2 * 64 && shown.height() > 2 * 64);
}
