//! Heads on the embeddings of pictures: LAION's aesthetic predictors.

use std::path::Path;

use crate::error::{Error, Result};
use crate::model::{Tensors, read_tensors};

/// The linear layers of the improved aesthetic predictor (`layers` of its `MLP`). Between them are only dropouts, which
/// do nothing once it is trained.
const MLP: [&str; 5] = ["layers.0.", "layers.2.", "layers.4.", "layers.6.", "layers.7."];

/// The only layer of the first aesthetic predictors.
const LINEAR: [&str; 1] = [""];

/// A score w·x + b of an embedding x. Linear layers with nothing between them are one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Head {
    weights: Vec<f64>,
    bias: f64,
}

impl Head {
    /// Reads a head for embeddings of `width` numbers from a safetensors file with the names of the published
    /// checkpoints: `layers.0.weight` to `layers.7.bias`, or `weight` and `bias`. The layers are multiplied in f64.
    ///
    /// # Errors
    /// [`Error::Input`] if it is something else, such as a PyTorch checkpoint, or is for embeddings of another width.
    pub(super) fn open(path: &Path, width: usize) -> Result<Self> {
        let name = path.display().to_string();
        let mut tensors = read_tensors(path)?;
        let layers: &[&str] = if tensors.contains_key("weight") { &LINEAR } else { &MLP };
        // From the last layer to the first.
        let (mut weights, mut bias) = (vec![1.0], 0.0);
        for layer in layers.iter().rev() {
            let biases = take(&name, &mut tensors, &format!("{layer}bias"), &[weights.len()])?.1;
            bias += weights.iter().zip(&biases).map(|(weight, bias)| weight * f64::from(*bias)).sum::<f64>();
            let (inputs, matrix) = take(&name, &mut tensors, &format!("{layer}weight"), &[weights.len(), 0])?;
            let mut product = vec![0.0; inputs];
            for (weight, row) in weights.iter().zip(matrix.chunks(inputs)) {
                product.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * f64::from(*value));
            }
            weights = product;
        }
        if let Some(extra) = tensors.keys().next() {
            return Err(Error::input(format!(
                "{name} has a tensor `{extra}`, which no aesthetic predictor has: expected the layers 0, 2, 4, 6 and 7 of \
                 the improved one, or `weight` and `bias` of a linear one"
            )));
        }
        if weights.len() != width {
            return Err(Error::input(format!(
                "{name} takes embeddings of {} numbers, but those of the CLIP model have {width}: it is for another model",
                weights.len()
            )));
        }
        Ok(Self { weights, bias })
    }

    /// The score of an embedding, in f64.
    pub(super) fn score(&self, embedding: &[f32]) -> f64 {
        self.weights.iter().zip(embedding).map(|(weight, x)| weight * f64::from(*x)).sum::<f64>() + self.bias
    }
}

/// Takes a tensor of this shape, where 0 is any size but 0; returns its last size and its values.
fn take(name: &str, tensors: &mut Tensors, tensor: &str, expected: &[usize]) -> Result<(usize, Vec<f32>)> {
    let Some((shape, values)) = tensors.remove(tensor) else {
        return Err(Error::input(format!(
            "{name} is missing the tensor `{tensor}` of an aesthetic predictor: expected the layers 0, 2, 4, 6 and 7 of \
             the improved one, or `weight` and `bias` of a linear one"
        )));
    };
    let fits = |(size, expected): (&usize, &usize)| *size > 0 && (*expected == 0 || size == expected);
    if shape.len() != expected.len() || !shape.iter().zip(expected).all(fits) {
        let expected: Vec<String> =
            expected.iter().map(|size| if *size == 0 { "N".into() } else { size.to_string() }).collect();
        let expected = expected.join(", ");
        return Err(Error::input(format!(
            "{name}: tensor `{tensor}` has shape {shape:?}, but [{expected}] is expected, as the next layer takes"
        )));
    }
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(Error::input(format!(
            "{name}: tensor `{tensor}` is not finite at element {index} ({}): download it again",
            values[index]
        )));
    }
    Ok((shape[shape.len() - 1], values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::write_tensors;

    fn tensor(shape: &[usize], values: &[f32]) -> (Vec<usize>, Vec<f32>) {
        (shape.to_vec(), values.to_vec())
    }

    /// 3 inputs, then 2, 2, 2, 2 and 1 numbers.
    fn mlp() -> Tensors {
        let identity = tensor(&[2, 2], &[1.0, 0.0, 0.0, 1.0]);
        Tensors::from([
            ("layers.0.weight".into(), tensor(&[2, 3], &[1.0, 2.0, 3.0, 0.0, -1.0, 4.0])),
            ("layers.0.bias".into(), tensor(&[2], &[0.5, -1.0])),
            ("layers.2.weight".into(), tensor(&[2, 2], &[0.0, 1.0, 1.0, 1.0])),
            ("layers.2.bias".into(), tensor(&[2], &[1.0, 2.0])),
            ("layers.4.weight".into(), identity.clone()),
            ("layers.4.bias".into(), tensor(&[2], &[0.0, 0.25])),
            ("layers.6.weight".into(), identity),
            ("layers.6.bias".into(), tensor(&[2], &[0.0, 0.0])),
            ("layers.7.weight".into(), tensor(&[1, 2], &[2.0, -1.0])),
            ("layers.7.bias".into(), tensor(&[1], &[10.0])),
        ])
    }

    fn open(tensors: &Tensors, width: usize) -> Result<Head> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head.safetensors");
        write_tensors(&path, tensors).unwrap();
        Head::open(&path, width)
    }

    #[test]
    fn a_score_is_that_of_one_layer_after_the_other() {
        // x = (1, 2, -1): layer 0 gives (1 + 4 - 3 + 0.5, -2 - 4 - 1) = (2.5, -7), layer 2 (-7 + 1, 2.5 - 7 + 2) =
        // (-6, -2.5), layer 4 (-6, -2.25), layer 7 -12 + 2.25 + 10.
        assert_eq!(open(&mlp(), 3).unwrap().score(&[1.0, 2.0, -1.0]), 0.25);
        let linear = [("weight".into(), tensor(&[1, 2], &[3.0, -1.0])), ("bias".into(), tensor(&[1], &[0.5]))].into();
        assert_eq!(open(&linear, 2).unwrap().score(&[2.0, 4.0]), 2.5);
    }

    #[test]
    fn what_is_no_head_of_this_model_says_so() {
        let with = |name: &str, given: (Vec<usize>, Vec<f32>)| {
            let mut tensors = mlp();
            tensors.insert(name.to_owned(), given);
            tensors
        };
        let without = |name: &str| {
            let mut tensors = mlp();
            tensors.remove(name);
            tensors
        };
        for (tensors, says) in [
            (without("layers.2.bias"), "is missing the tensor `layers.2.bias` of an aesthetic predictor"),
            (with("layers.9.weight", tensor(&[1], &[0.0])), "has a tensor `layers.9.weight`, which no aesthetic"),
            (with("layers.2.weight", tensor(&[3, 2], &[0.0; 6])), "`layers.2.weight` has shape [3, 2], but [2, N] is"),
            (with("layers.7.bias", tensor(&[2], &[0.0; 2])), "`layers.7.bias` has shape [2], but [1] is expected"),
            (with("layers.6.bias", tensor(&[2], &[0.0, f32::NAN])), "`layers.6.bias` is not finite at element 1 (NaN)"),
            (mlp(), "takes embeddings of 3 numbers, but those of the CLIP model have 4"),
        ] {
            let message = open(&tensors, 4).unwrap_err().to_string();
            assert!(message.contains(says) && message.contains("head.safetensors"), "{message}\nlacks: {says}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sac+logos+ava1-l14-linearMSE.pth");
        std::fs::write(&path, b"PK\x03\x04archive/data.pkl").unwrap();
        let message = Head::open(&path, 4).unwrap_err().to_string();
        assert!(message.contains("is a PyTorch checkpoint, not safetensors: convert it with the line"), "{message}");
    }
}
