//! ! The first updates of a run, written out with all their inputs and outputs, so that anyone can recompute them with
//! another program.

use std::collections::HashMap;

use maybe_async::maybe_async;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::rollout::Rollout;
use super::settings::UpdateSettings;
use super::update::UpdateRecord;
use super::update_graph::UpdateGraph;
use crate::error::Result;
use crate::graph::Plan;
use crate::model::{FlowModel, Layout};
use crate::ops::{Outcome, SamplerRow};
use crate::optimizer::{GRADIENTS, Optimizer, PARAMETERS};
use crate::reward::Scores;

/// Updates that are written out: in the first nothing has moved yet, in the second the ratio is no longer 1.
const UPDATES: usize = 2;

/// What is read from the device while updates run.
#[derive(Debug, Default)]
pub(super) struct UpdateDump {
    updates: Vec<Observed>,
}

/// One update. Terms are concatenated, `[R, C, H, W]`, in the order of [`UpdateRecord::rows`].
#[derive(Debug)]
struct Observed {
    before: Vec<f32>,
    x: Vec<f32>,
    noise: Vec<f32>,
    v_old: Vec<f32>,
    v_new: Vec<f32>,
    gradients: Vec<f32>,
    after: Vec<f32>,
}

impl UpdateDump {
    /// To be called before the first term of each update.
    #[maybe_async]
    pub(super) async fn begin(&mut self, optimizer: &Optimizer) -> Result<()> {
        let [x, noise, v_old, v_new, gradients, after] = [const { Vec::new() }; 6];
        let before = optimizer.read(PARAMETERS).await?;
        self.updates.push(Observed { before, x, noise, v_old, v_new, gradients, after });
        Ok(())
    }

    /// After each micro-batch.
    #[maybe_async]
    pub(super) async fn terms(&mut self, plan: &Plan, tensors: &UpdateGraph) -> Result<()> {
        if let Some(it) = self.open() {
            let terms = &tensors.terms;
            for (values, tensor) in [
                (&mut it.x, terms.x),
                (&mut it.noise, terms.epsilon),
                (&mut it.v_old, terms.v_old),
                (&mut it.v_new, terms.v_new),
            ] {
                values.extend(plan.read::<f32>(&[tensor]).await?);
            }
        }
        Ok(())
    }

    /// Between the last backward pass and the optimizer's step, which clears the gradients.
    #[maybe_async]
    pub(super) async fn gradients(&mut self, optimizer: &Optimizer) -> Result<()> {
        if let Some(it) = self.open() {
            it.gradients = optimizer.read(GRADIENTS).await?;
        }
        Ok(())
    }

    /// After the optimizer's step.
    #[maybe_async]
    pub(super) async fn end(&mut self, optimizer: &Optimizer) -> Result<()> {
        if let Some(it) = self.open() {
            it.after = optimizer.read(PARAMETERS).await?;
        }
        Ok(())
    }

    /// The update that is being observed, if any.
    fn open(&mut self) -> Option<&mut Observed> {
        self.updates.last_mut().filter(|it| it.after.is_empty())
    }

    /// Whether the next update will be written out.
    pub(super) fn wants_more(&self) -> bool {
        self.updates.len() < UPDATES
    }

    /// The tensors of the file; docs/method.md says what every one is.
    pub(super) fn to_file(&self, context: &Context<'_>, records: &[UpdateRecord]) -> DumpFile {
        let mut file = DumpFile::default();
        let samples = context.advantages.len();
        for (component, scores) in context.scores.components.iter().enumerate() {
            let scores = scores.iter().map(|score| *score as f32).collect();
            file.floats(format!("rollout.rewards.{component}"), &[samples], scores);
        }
        let advantages = context.advantages.iter().map(|advantage| *advantage as f32).collect();
        file.floats("rollout.advantages".into(), &[samples], advantages);
        let labels = context.rollout.requests.iter().map(|request| request.condition).collect();
        file.integers("rollout.labels".into(), &[samples], labels);
        file.floats(
            "rollout.sigmas".into(),
            &[context.rollout.table.sigmas.len()],
            context.rollout.table.sigmas.iter().map(|sigma| *sigma as f32).collect(),
        );
        for (index, (observed, record)) in self.updates.iter().zip(records).enumerate() {
            file.update(&format!("update{index}"), context, observed, record);
        }
        file
    }
}

/// The parts of the file that do not come from the device.
pub(super) struct Context<'a> {
    pub settings: &'a UpdateSettings,
    pub model: &'a FlowModel,
    pub layout: &'a Layout,
    pub rollout: &'a Rollout,
    pub scores: &'a Scores,
    pub advantages: &'a [f64],
    /// What the gradients on the device have to be divided by.
    pub loss_scale: f32,
}

/// A safetensors file under construction.
#[derive(Debug, Default)]
pub(super) struct DumpFile {
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl DumpFile {
    fn floats(&mut self, name: String, shape: &[usize], values: Vec<f32>) {
        self.tensors.push((name, Dtype::F32, shape.to_vec(), bytemuck::cast_slice(&values).to_vec()));
    }

    fn integers(&mut self, name: String, shape: &[usize], values: Vec<u32>) {
        // Indices are small: as I32, which every framework reads, they are the same bits.
        self.tensors.push((name, Dtype::I32, shape.to_vec(), bytemuck::cast_slice(&values).to_vec()));
    }

    fn update(&mut self, prefix: &str, context: &Context<'_>, observed: &Observed, record: &UpdateRecord) {
        let name = |part: &str| format!("{prefix}.{part}");
        let rows = record.rows.len();
        let images = context.model.batch_shape(rows);
        for (part, values) in
            [("x", &observed.x), ("noise", &observed.noise), ("v_old", &observed.v_old), ("v_new", &observed.v_new)]
        {
            self.floats(name(part), &images, values.clone());
        }

        let table = &context.rollout.table;
        let of_row = |value: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
            record.rows.iter().map(|(sample, step)| value(*sample, *step)).collect()
        };
        let whole = |value: &dyn Fn(usize, usize) -> usize| -> Vec<u32> {
            record.rows.iter().map(|(sample, step)| value(*sample, *step) as u32).collect()
        };
        self.integers(name("sample"), &[rows], whole(&|sample, _| sample));
        self.integers(name("step"), &[rows], whole(&|_, step| step));
        let label = |sample: usize, _| context.rollout.requests[sample].condition as usize;
        self.integers(name("labels"), &[rows], whole(&label));
        self.floats(name("sigma"), &[rows], of_row(&|_, step| table.sigmas[step] as f32));
        self.floats(name("sigma_next"), &[rows], of_row(&|_, step| table.sigmas[step + 1] as f32));
        self.floats(name("time"), &[rows], of_row(&|_, step| context.model.time_of(table.sigmas[step])));
        let method = context.settings.method();
        let transitions = record.rows.iter().flat_map(|(_, step)| {
            let row = SamplerRow::from(method.transition(context.rollout, *step));
            [row.a, row.b, row.s]
        });
        self.floats(name("rows"), &[rows, 3], transitions.collect());
        self.floats(name("rewards"), &[rows], of_row(&|sample, _| context.scores.totals[sample] as f32));
        self.floats(name("advantages"), &[rows], of_row(&|sample, _| context.advantages[sample] as f32));

        let outcomes = |of: fn(&Outcome) -> f32| record.outcomes.iter().map(of).collect::<Vec<f32>>();
        self.floats(name("row_losses"), &[rows], outcomes(|it| it.loss));
        if method.stores_samples() {
            let dim = context.model.dim();
            let image =
                |(sample, _): &(usize, usize)| context.rollout.images[sample * dim..(sample + 1) * dim].to_vec();
            self.floats(name("samples"), &images, record.rows.iter().flat_map(image).collect());
        }
        for (part, of) in method.dumped_outcomes() {
            self.floats(name(part), &[rows], outcomes(*of));
        }
        let mut losses: Vec<f64> = record.outcomes.iter().map(|outcome| f64::from(outcome.loss)).collect();
        if !record.penalties.is_empty() {
            self.floats(name("penalties"), &[rows], record.penalties.clone());
            for (loss, penalty) in losses.iter_mut().zip(&record.penalties) {
                *loss += context.settings.objective.reference.beta * f64::from(*penalty);
            }
        }
        self.floats(name("loss"), &[1], vec![(losses.iter().sum::<f64>() / rows as f64) as f32]);
        self.floats(name("gradient_norm"), &[1], vec![record.norm.norm]);

        for entry in context.layout.entries() {
            let range = entry.offset..entry.offset + entry.elements();
            let mut part = |part: &str, values: &[f32]| {
                self.floats(name(&format!("{part}.{}", entry.name)), &entry.shape, values[range.clone()].to_vec());
            };
            part("parameters_before", &observed.before);
            part("parameters_after", &observed.after);
            if entry.trainable {
                let of_loss = observed.gradients.iter().map(|gradient| gradient / context.loss_scale);
                part("gradients", &of_loss.collect::<Vec<_>>());
            }
        }
    }

    /// The bytes, with the resolved configuration, as TOML, in the metadata.
    pub(super) fn into_bytes(self, config: &str) -> Vec<u8> {
        let metadata = HashMap::from([("config".to_owned(), config.to_owned())]);
        let views = self.tensors.iter().map(|(name, dtype, shape, bytes)| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor has one element per index"))
        });
        safetensors::serialize(views, Some(metadata)).expect("f32 and i32 tensors are always writable")
    }
}
