//! Converts checkpoints of SiT and DiT (Facebook Research) to native models, whose sizes are read from the shapes, and
//! back.

use std::collections::BTreeMap;

use super::dit::DitConfig;
use super::file::{Model, ModelKind, TensorSource, Tensors, check, gather, nearest_tensor};
use super::folder::StoredTensors;
use super::weights::{StoredModel, Weights};
use crate::config::{Positions, TimeConvention};
use crate::error::{Error, Result};

/// The number of attention heads, which no shape reveals, for the published sizes (S 384/6, B 768/12,
/// L 1024/16, XL 1152/16).
pub fn default_num_heads(hidden_size: usize) -> Option<usize> {
    match hidden_size {
        384 => Some(6),
        768 => Some(12),
        1024 | 1152 => Some(16),
        _ => None,
    }
}

/// The meaning of the last row of a checkpoint's class table, which no shape reveals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NullClass {
    /// "No class", as in the published models, which are trained with class dropout; if there is only one row, a class.
    #[default]
    Assumed,
    /// Another class: the model was trained without class dropout.
    Absent,
    /// The number of classes is given; one more row is "no class".
    Classes(usize),
}

impl NullClass {
    /// Number of classes among the rows of a table, and whether there is one more for "no class".
    fn split(self, name: &str, rows: usize) -> Result<(usize, bool)> {
        match self {
            Self::Assumed if rows > 1 => Ok((rows - 1, true)),
            Self::Assumed | Self::Absent => Ok((rows, false)),
            Self::Classes(classes) if classes == rows => Ok((classes, false)),
            Self::Classes(classes) if classes > 0 && classes + 1 == rows => Ok((classes, true)),
            Self::Classes(classes) if rows < 2 => Err(Error::input(format!(
                "--num-classes is {classes}, but the class table of {name} has a single row: it must be 1"
            ))),
            Self::Classes(classes) => Err(Error::input(format!(
                "--num-classes is {classes}, but the class table of {name} has {rows} rows: it must be {rows}, or {} if \
                 the last row means \"no class\"",
                rows - 1
            ))),
        }
    }
}

impl DitConfig {
    /// The network described by SiT tensors with these shapes. Messages call the file `name`.
    ///
    /// DiT's checkpoints have the same names and shapes, so the two cannot be told apart.
    ///
    /// # Errors
    /// [`Error::Input`] naming a tensor that the sizes are read from and that is missing or misshapen, or asking for
    /// `--num-heads` if the size is not a published one.
    pub fn of_sit(
        name: &str,
        shapes: &BTreeMap<String, Vec<usize>>,
        num_heads: Option<usize>,
        null_class: NullClass,
    ) -> Result<Self> {
        let shape = |tensor: &str, rank: usize| -> Result<&[usize]> {
            match shapes.get(tensor) {
                Some(shape) if shape.len() == rank => Ok(shape),
                Some(shape) => Err(Error::input(format!(
                    "{name}: tensor `{tensor}` has shape {shape:?}, but {rank} dimensions are expected"
                ))),
                None => {
                    let hint = nearest_tensor(tensor, shapes.keys());
                    Err(Error::input(format!(
                        "{name} is not a SiT checkpoint: it is missing the tensor `{tensor}`{hint}"
                    )))
                }
            }
        };
        let &[hidden_size, channels, patch_size, _] = shape("x_embedder.proj.weight", 4)? else {
            unreachable!("the rank is checked")
        };
        let tokens = shape("pos_embed", 3)?[1];
        let side = tokens.isqrt();
        if side * side != tokens {
            return Err(Error::input(format!("{name}: `pos_embed` has {tokens} tokens, which is not a square number")));
        }
        let rows = shape("y_embedder.embedding_table.weight", 2)?[0];
        let (num_classes, has_null_class) = null_class.split(name, rows)?;
        let outputs = shape("final_layer.linear.weight", 2)?[0];
        let mlp_hidden = shape("blocks.0.mlp.fc1.weight", 2)?[0];
        // The last block counts if any of its tensors exists, so that missing ones are reported as missing instead of
        // the others as unexpected.
        let block = |tensor: &String| tensor.strip_prefix("blocks.")?.split('.').next()?.parse::<usize>().ok();
        let depth = shapes.keys().filter_map(block).max().unwrap_or(0).saturating_add(1);
        let num_heads = num_heads.or_else(|| default_num_heads(hidden_size)).ok_or_else(|| {
            Error::input(format!(
                "{name} has hidden size {hidden_size}, which is not one of the published SiT sizes: set the number \
                of attention heads with --num-heads"
            ))
        })?;
        // An empty tensor's other sizes can be anything; checking the configuration rejects those that are too large.
        let plain = patch_size.saturating_mul(patch_size).saturating_mul(channels);
        let both = plain.saturating_mul(2);
        if outputs != plain && outputs != both {
            return Err(Error::input(format!(
                "{name}: `final_layer.linear.weight` has {outputs} outputs, but {plain} (velocity) or {both} \
                (velocity and variance) are expected"
            )));
        }
        let config = Self {
            image_size: side.saturating_mul(patch_size),
            channels,
            patch_size,
            hidden_size,
            depth,
            num_heads,
            mlp_ratio: mlp_hidden as f64 / hidden_size as f64,
            num_classes,
            has_null_class,
            learn_sigma: outputs == both,
            time: TimeConvention::Sit,
            time_scale: 1.0,
            positions: Positions::SinCos,
        };
        config.check().map_err(|cause| Error::input(format!("{name} describes an impossible network: {cause}")))?;
        Ok(config)
    }
}

/// Converts SiT's tensors to a native model. Messages call the file `name`.
///
/// # Errors
/// [`Error::Input`] as [`DitConfig::of_sit`], or naming a tensor that is missing, unknown, misshapen or not finite.
pub fn import_sit(name: &str, tensors: Tensors, num_heads: Option<usize>, null_class: NullClass) -> Result<Model> {
    let kind = kind_of_sit(name, &tensors, num_heads, null_class)?;
    let weights = gather(name, &kind.layout(), tensors)?;
    Ok(kind.with(Vec::new(), weights))
}

/// The same, of tensors that stay in their file.
///
/// # Errors
/// As [`import_sit`], and if the file cannot be read.
pub fn import_stored_sit(
    tensors: StoredTensors,
    num_heads: Option<usize>,
    null_class: NullClass,
) -> Result<StoredModel> {
    let name = tensors.name().to_owned();
    let kind = kind_of_sit(&name, &tensors, num_heads, null_class)?;
    check(&name, &kind.layout(), &tensors)?;
    Ok(kind.with(Vec::new(), Weights::Stored(tensors)))
}

fn kind_of_sit(
    name: &str,
    tensors: &impl TensorSource,
    num_heads: Option<usize>,
    null_class: NullClass,
) -> Result<ModelKind> {
    let shape = |tensor: &String| Some((tensor.clone(), tensors.shape(tensor)?.to_vec()));
    let shapes = tensors.names().into_iter().filter_map(shape).collect();
    DitConfig::of_sit(name, &shapes, num_heads, null_class).map(ModelKind::Dit)
}

/// Checks that a native model can be SiT's, whose tensors have the same names and values: the inverse of
/// [`import_sit`]. Messages call the model `name`.
///
/// # Errors
/// [`Error::Input`] if SiT's program could not run the network: it must have SiT's sign and direction of time, and an
/// unscaled time. A network with other conventions computes other time features, which no change of weights can
/// reproduce bit for bit.
pub fn check_export_sit<W>(name: &str, model: &Model<W>) -> Result<()> {
    let config = model.dit(name)?;
    if config.time == TimeConvention::Sit && config.time_scale == 1.0 {
        return Ok(());
    }
    let runs = if config.time == TimeConvention::Sit { "from noise to data" } else { "from data to noise" };
    Err(Error::input(format!(
        "{name} cannot be a SiT checkpoint: its time runs {runs} and is multiplied by {}, but SiT's runs from noise \
         to data and is multiplied by 1; pretrain it with `model.time` = \"sit\" and `model.time_scale` = 1, or use \
         the native file, whose tensors have the same names",
        config.time_scale
    )))
}
