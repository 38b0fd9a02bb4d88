//! Everything that a command would refuse before it needs a device, a program or a service.
//!
//! The commands call [`check`] first, and so does `config check`: what it accepts, they accept.

use std::collections::HashSet;

use crate::config::{Command, Config, ModelSource};
use crate::data::{self, Dataset};
use crate::error::{Error, Result};
use crate::evaluate::classes_of;
use crate::model::{Adapter, ClassifierConfig, DitConfig, Lora, Model};
use crate::reward::{Rewards, check_classifier};
use crate::rl::{policy_objective, store_bytes};
use crate::{assets, pretrain};

/// What was read on the way, so that the command need not read it again.
#[derive(Debug)]
pub enum Read {
    /// `train`: the model that it starts from.
    Model(Box<Model>),
    /// `pretrain`, `fit-classifier`: the data set, and of `pretrain` the model that it goes on from, if it does.
    Data(Box<Dataset>, Option<Box<Model>>),
    /// `eval` is told its model on the command line.
    Nothing,
}
