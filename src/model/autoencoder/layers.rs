//! The layers of an encoder or a decoder: their parameters in files and on the device, and how they are recorded.

use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::model::Tensors;
use crate::model::file::nearest_tensor;
use crate::model::layout::{Layout, Parameters};
use crate::ops::{Conv2d, GroupNorm, conv2d_weight};

/// The kind of a layer, as far as its parameters are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A convolution with a square kernel. Without a bias in the file its bias is zero.
    Convolution { inputs: usize, outputs: usize, kernel: usize, has_bias: bool },
    /// A scale and a bias per channel.
    Norm { channels: usize },
}

/// The layers of an encoder or a decoder, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layers(Vec<(String, Kind)>);

impl Layers {
    /// Adds a convolution.
    pub(super) fn convolution(&mut self, name: &str, inputs: usize, outputs: usize, kernel: usize) {
        self.0.push((name.to_owned(), Kind::Convolution { inputs, outputs, kernel, has_bias: true }));
    }

    /// Adds a 3x3 convolution that has no bias in files.
    pub(super) fn convolution_without_bias(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.0.push((name.to_owned(), Kind::Convolution { inputs, outputs, kernel: 3, has_bias: false }));
    }

    /// Adds a group norm.
    pub(super) fn norm(&mut self, name: &str, channels: usize) {
        self.0.push((name.to_owned(), Kind::Norm { channels }));
    }

    /// The layout of the parameters on the device: weights of convolutions in the order that [`Conv2d`] reads.
    pub(super) fn layout(&self) -> Layout {
        Layout::new(self.0.iter().flat_map(|(name, kind)| {
            let (weight, bias) = match *kind {
                Kind::Convolution { inputs, outputs, kernel, .. } => {
                    (vec![kernel * kernel * inputs, outputs.next_multiple_of(4)], vec![outputs])
                }
                Kind::Norm { channels } => (vec![channels], vec![channels]),
            };
            [(format!("{name}.weight"), weight, false), (format!("{name}.bias"), bias, false)]
        }))
    }

    /// Takes the parameters from a file's tensors, and arranges them by the layout. Messages call the file `file`.
    ///
    /// # Errors
    /// [`Error::Input`] if a tensor is missing, misshapen or not finite.
    pub(super) fn take(&self, file: &str, tensors: &mut Tensors) -> Result<Vec<f32>> {
        let layout = self.layout();
        // Everything is checked before memory is allocated, because the sizes are only the file's claims.
        for (name, shapes) in self.0.iter().flat_map(|(name, kind)| kind.expected(name)) {
            check(file, &name, &shapes, tensors)?;
        }
        let mut weights = vec![0.0; layout.elements()];
        let kinds = self.0.iter().flat_map(|(_, kind)| [(*kind, true), (*kind, false)]);
        for (entry, (kind, is_weight)) in layout.entries().iter().zip(kinds) {
            let Some((_, values)) = tensors.remove(&entry.name) else { continue };
            let values = match kind {
                Kind::Convolution { inputs, outputs, kernel, .. } if is_weight => {
                    conv2d_weight(&values, [outputs, inputs, kernel]).1
                }
                _ => values,
            };
            weights[entry.offset..entry.offset + values.len()].copy_from_slice(&values);
        }
        Ok(weights)
    }
}

impl Kind {
    /// The tensors that a file must have for a layer of this name, with the shapes that each may have: a 1x1 convolution
    /// may be written as a linear layer.
    fn expected(&self, name: &str) -> Vec<(String, Vec<Vec<usize>>)> {
        let (weights, bias) = match *self {
            Self::Convolution { inputs, outputs, kernel, has_bias } => {
                let mut shapes = vec![vec![outputs, inputs, kernel, kernel]];
                if kernel == 1 {
                    shapes.push(vec![outputs, inputs]);
                }
                (shapes, has_bias.then_some(outputs))
            }
            Self::Norm { channels } => (vec![vec![channels]], Some(channels)),
        };
        let bias = bias.map(|length| (format!("{name}.bias"), vec![vec![length]]));
        [(format!("{name}.weight"), weights)].into_iter().chain(bias).collect()
    }
}

fn check(file: &str, name: &str, shapes: &[Vec<usize>], tensors: &Tensors) -> Result<()> {
    let expected = shapes.iter().map(|shape| format!("{shape:?}")).collect::<Vec<_>>().join(" or ");
    let Some((shape, values)) = tensors.get(name) else {
        let hint = nearest_tensor(name, tensors.keys());
        return Err(Error::input(format!("{file} is missing the tensor `{name}` of shape {expected}{hint}")));
    };
    if !shapes.contains(shape) {
        return Err(Error::input(format!("{file}: tensor `{name}` has shape {shape:?}, but {expected} is expected")));
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(Error::input(format!(
            "{file}: tensor `{name}` is not finite at element {index} ({}): the file is damaged",
            values[index]
        ))),
        None => Ok(()),
    }
}

/// Layers being recorded into a graph.
#[derive(Debug)]
pub(super) struct Recorder<'a> {
    /// The graph.
    pub(super) graph: &'a mut Graph,
    parameters: Parameters,
}

impl<'a> Recorder<'a> {
    /// A recorder of layers whose parameters have been declared in the graph.
    pub(super) fn new(graph: &'a mut Graph, parameters: Parameters) -> Self {
        Self { graph, parameters }
    }

    fn parameters(&mut self, layer: &str) -> [Tensor; 2] {
        ["weight", "bias"].map(|part| self.parameters.get(&format!("{layer}.{part}")))
    }

    /// A convolution, plus a residual if there is one.
    pub(super) fn convolution(&mut self, layer: &str, op: Conv2d, x: Tensor, residual: Option<Tensor>) -> Tensor {
        let [weight, bias] = self.parameters(layer);
        let inputs: Vec<Tensor> = [x, weight, bias].into_iter().chain(residual).collect();
        self.graph.scope(layer, |graph| graph.apply(op, &inputs))
    }

    /// A group norm.
    pub(super) fn norm(&mut self, layer: &str, op: GroupNorm, x: Tensor) -> Tensor {
        let [scale, bias] = self.parameters(layer);
        self.graph.scope(layer, |graph| op.of(graph, x, scale, bias))
    }
}
