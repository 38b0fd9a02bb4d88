//! The check that gradients of whole losses pass: the twins' backward pass against central differences, the device's
//! against the twins'.

use std::collections::BTreeMap;

use flowdppo_wgpu::flow::noise::NoiseKey;
use flowdppo_wgpu::gpu::Region;
use flowdppo_wgpu::graph::{Graph, Interpreter, Plan, Store, Stores, Tensor};
use flowdppo_wgpu::model::{BASE, Layout};
use flowdppo_wgpu::ops::NoiseWords;
use flowdppo_wgpu::optimizer::{GRADIENTS, PARAMETERS};

use super::{Random, gpu, nmse};

/// Values of a graph's input.
pub enum Values {
    F32(Vec<f32>),
    U32(Vec<u32>),
}

pub fn noise_words(key: NoiseKey) -> Vec<u32> {
    bytemuck::cast_slice(&[NoiseWords::from(key)]).to_vec()
}

/// A loss whose graph adds the gradients of the parameters to [`GRADIENTS`].
pub struct Loss<'a> {
    pub graph: &'a Graph,
    pub inputs: Vec<(Tensor, Values)>,
    /// The stores, those of parameters among them, without gradients.
    pub stores: BTreeMap<Store, Vec<f32>>,
    pub layout: Layout,
    /// A [`BASE`] that is not in f32: its words, and as the twin has it.
    pub base: Option<(Vec<u32>, Vec<f64>)>,
    /// The scalar that is differentiated.
    pub scalar: &'a dyn Fn(&Interpreter) -> f64,
}

impl Loss<'_> {
    /// The whole graph in f64, at some parameters.
    pub fn twin(&self, parameters: &[f64]) -> Interpreter {
        let mut stores: BTreeMap<Store, Vec<f64>> = (self.stores.iter())
            .map(|(store, values)| (*store, values.iter().map(|value| f64::from(*value)).collect()))
            .collect();
        stores.insert(PARAMETERS, parameters.to_vec());
        stores.extend(self.base.iter().map(|(_, base)| (BASE, base.clone())));
        stores.insert(GRADIENTS, vec![0.0; self.layout.trainable_elements()]);
        let mut twin = Interpreter::new(stores);
        for (tensor, values) in &self.inputs {
            let values: Vec<f64> = match values {
                Values::F32(values) => values.iter().map(|value| f64::from(*value)).collect(),
                Values::U32(values) => values.iter().map(|value| f64::from(*value)).collect(),
            };
            twin.write(*tensor, &values);
        }
        twin.run(self.graph);
        twin
    }

    /// The gradients that the device makes.
    fn device(&self) -> Vec<f32> {
        let mut stores: Stores = (self.stores.iter())
            .map(|(store, values)| {
                let buffer = gpu().allocate(store.0, 4 * values.len() as u64).expect("it is small");
                gpu().write(&buffer, 0, values);
                (*store, buffer.into())
            })
            .collect();
        let bytes = 4 * self.layout.trainable_elements() as u64;
        let gradients = gpu().allocate(GRADIENTS.0, bytes).expect("it is small");
        stores.insert(GRADIENTS, gradients.clone().into());
        if let Some((words, _)) = &self.base {
            let buffer = gpu().allocate(BASE.0, 4 * words.len() as u64).expect("it is small");
            gpu().write(&buffer, 0, words);
            stores.insert(BASE, buffer.into());
        }
        let mut plan = Plan::new(gpu(), self.graph, &stores).expect("it is small");
        for (tensor, values) in &self.inputs {
            match values {
                Values::F32(values) => plan.write(*tensor, values),
                Values::U32(values) => plan.write(*tensor, values),
            }
        }
        plan.run().expect("the device works");
        gpu().read(&[&Region { buffer: gradients, offset: 0, bytes }]).expect("the device works")
    }

    /// The backward pass against central differences of the loss, both in f64, along two random directions of
    /// every parameter tensor; and the device's gradients against those, tensor by tensor.
    pub fn check(&self, name: &str, tolerance: f64) {
        let parameters: Vec<f64> = self.stores[&PARAMETERS].iter().map(|value| f64::from(*value)).collect();
        let gradients = self.twin(&parameters).stores.remove(&GRADIENTS).expect("it was given");
        let actual = self.device();
        let mut random = Random(11);
        for entry in self.layout.entries().iter().filter(|entry| entry.trainable) {
            let range = entry.offset..entry.offset + entry.elements();
            let size = gradients[range.clone()].iter().map(|gradient| gradient * gradient).sum::<f64>().sqrt();
            assert!(size > 1e-6, "{name}: no gradient reaches {}: its norm is {size:e}", entry.name);
            for _ in 0..2 {
                let mut direction: Vec<f64> = range.clone().map(|_| random.normal()).collect();
                let norm = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
                direction.iter_mut().for_each(|d| *d /= norm);
                let step = 1e-5;
                let at = |step: f64| {
                    let mut shifted = parameters.clone();
                    for (value, d) in shifted[range.clone()].iter_mut().zip(&direction) {
                        *value += step * d;
                    }
                    (self.scalar)(&self.twin(&shifted))
                };
                let difference = (at(step) - at(-step)) / (2.0 * step);
                let analytic: f64 = gradients[range.clone()].iter().zip(&direction).map(|(g, d)| g * d).sum();
                // Truncation is O(step^2) = 1e-10 and cancellation 1e-16 / step = 1e-11, of a loss near 1.
                assert!(
                    (difference - analytic).abs() <= 1e-7 * size + 1e-9,
                    "{name}: along {} the loss changes by {difference:.9}, the backward pass says {analytic:.9}",
                    entry.name
                );
            }
            let error = nmse(&actual[range.clone()], &gradients[range]);
            assert!(
                error <= tolerance,
                "{name}: the device's gradient of {} has NMSE {error:.1e}, allowed are {tolerance:.0e}",
                entry.name
            );
        }
    }
}
