//! What is checked of a run before anything large is read or encoded.

use super::run::TrainingRun;
use super::trainer::Cost;
use crate::config::Config;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::DeviceProfile;
use crate::memory::OtherParts;
use crate::model::StoredModel;
use crate::ranks::Seat;
use crate::reward::{Judge, Rewards};

impl TrainingRun {
    /// Checks that the configuration of a run, its rewards and its judge suit a model as plans need it. Returns the cost of
    /// an iteration on such a device.
    ///
    /// # Errors
    /// The error that the run would report.
    pub fn check(config: &Config, planned: &StoredModel, profile: &DeviceProfile, seat: Seat) -> Result<Cost> {
        let flow_model = planned.flow_model("`model.file`")?;
        let cost = Self::cost(config, &flow_model, profile, seat)?;
        let pictures = flow_model.pictures(&planned.class_names);
        Rewards::check(&config.reward, &pictures)?;
        if !config.eval.judge.is_empty() {
            Judge::check(&config.eval.judge, &pictures)?;
        }
        Ok(cost)
    }

    /// The same on a device, which must have room for training, and for the decoder beside it. Rewards that are on the
    /// device are not counted: what they take is known when they have been loaded.
    ///
    /// # Errors
    /// The error that the run would report.
    pub fn check_on(gpu: &Gpu, config: &Config, planned: &StoredModel, seat: Seat) -> Result<()> {
        let profile = DeviceProfile::of(gpu);
        let training = Self::check(config, planned, &profile, seat)?.memory;
        let (model, room) = (planned.flow_model("`model.file`")?, |bytes| gpu.check_memory(bytes));
        let parts = OtherParts::of(&model, &training, Vec::new(), Vec::new(), &profile, room)?;
        gpu.check_memory(parts.most(&training))
    }
}
