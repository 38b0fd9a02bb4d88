//! What the page lets a visitor choose.

use flowdppo_wgpu::config::{Colour, Config, Mask, ObjectiveName, Reward, RewardKind};
use flowdppo_wgpu::{Error, Result};
use serde::{Deserialize, Serialize};

/// The model and the configuration that `flowdppo-wgpu train --config` takes for it.
const MODELS: [(&str, &str); 3] = [
    ("rings", include_str!("../../configs/rings/train.toml")),
    ("digits", include_str!("../../configs/digits8/train.toml")),
    (SHAPES, include_str!("../../configs/shapes/train.toml")),
];

/// The text-to-image model.
pub const SHAPES: &str = "shapes";

/// The loss of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The mask on the exact KL.
    FlowDppo,
    /// The clip of the ratio.
    FlowGrpo,
    /// Neither.
    NoMask,
}

/// Everything that can be changed while a model is tuned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `rings`, `digits` or `shapes`.
    pub model: String,
    /// The loss.
    pub method: Method,
    /// Step size of AdamW.
    pub learning_rate: f64,
    /// KL beyond which Flow-DPPO drops terms, in nats per sample.
    pub kl_mask_threshold: f64,
    /// Range of the logarithm of the ratio that Flow-GRPO does not clip, as a sum over the elements.
    pub clip: f64,
    /// Passes over a rollout.
    pub inner_epochs: usize,
    /// A kind of the configuration's rewards, or `custom` for the visitor's own.
    pub reward: String,
    /// Seed of the noise and of the trained steps.
    pub seed: u64,
}

/// The name of the visitor's own reward.
pub const CUSTOM: &str = "custom";

impl Settings {
    /// The defaults of a model.
    ///
    /// # Errors
    /// If there is no model of this name.
    pub fn of(model: &str) -> Result<Self> {
        let config = configuration(model)?;
        Ok(Self {
            model: model.to_owned(),
            method: Method::FlowDppo,
            learning_rate: config.train.learning_rate,
            kl_mask_threshold: config.objective.kl_mask_threshold,
            // A tenth for each of two elements; the published mean of 1e-4 over 65,536.
            clip: if model == "rings" { 0.2 } else { 6.55 },
            inner_epochs: config.train.inner_epochs,
            reward: config.reward[0].kind.name().into(),
            seed: config.run.seed,
        })
    }

    /// The configuration of a run with these settings.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn config(&self) -> Result<Config> {
        let mut config = configuration(&self.model)?;
        config.run.seed = self.seed;
        config.train.learning_rate = self.learning_rate;
        config.train.inner_epochs = self.inner_epochs;
        let objective = &mut config.objective;
        objective.kl_mask_threshold = self.kl_mask_threshold;
        match self.method {
            Method::FlowDppo => objective.name = ObjectiveName::FlowDppo,
            Method::NoMask => objective.mask = Mask::None,
            Method::FlowGrpo => {
                objective.name = ObjectiveName::FlowGrpo;
                (objective.clip_low, objective.clip_high) = (self.clip, self.clip);
            }
        }
        let first = config.reward[0].clone();
        config.reward = vec![match self.reward.as_str() {
            name if name == first.kind.name() => first,
            // Stands in until the visitor's takes its place.
            CUSTOM => Reward { kind: RewardKind::Ink, file: String::new(), ..Reward::default() },
            other => {
                let kind = kind(other)?;
                let colour = (kind == RewardKind::Colour).then(|| Colour::Rgb([0.0, 0.0, 1.0]));
                Reward { kind, colour, file: String::new(), ..Reward::default() }
            }
        }];
        config.validate(flowdppo_wgpu::config::Command::Train)?;
        Ok(config)
    }
}

fn configuration(model: &str) -> Result<Config> {
    let found = MODELS.iter().find(|(name, _)| *name == model);
    let (name, text) = found.ok_or_else(|| {
        let names: Vec<&str> = MODELS.iter().map(|(name, _)| *name).collect();
        Error::Input(format!("there is no model {model:?} in this page: it has {}", names.join(", ")))
    })?;
    Config::parse(text, name, &[])
}

fn kind(name: &str) -> Result<RewardKind> {
    [RewardKind::Ink, RewardKind::Brightness, RewardKind::Colour, RewardKind::Symmetry, RewardKind::TotalVariation]
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| Error::Input(format!("there is no reward {name:?} in this page")))
}
