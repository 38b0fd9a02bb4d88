//! The visitor's own reward: a function of JavaScript, which the page runs elsewhere and limits in time.

use async_trait::async_trait;
use flowdppo_wgpu::reward::{Batch, Reward};
use flowdppo_wgpu::{Error, Result};
use js_sys::{Array, Float32Array, Float64Array, Function, Promise, Uint32Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

/// Calls a function with all images of a batch: `(images, labels, [channels, height, width])`, a `Float32Array`, a
/// `Uint32Array` and an array. It returns a promise of as many numbers as there are labels.
#[derive(Debug)]
pub struct Custom {
    name: [String; 1],
    score: Function,
}

impl Custom {
    pub fn new(score: Function) -> Self {
        Self { name: [super::settings::CUSTOM.to_owned()], score }
    }
}

#[async_trait(?Send)]
impl Reward for Custom {
    fn components(&self) -> &[String] {
        &self.name
    }

    async fn score(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f64>>> {
        let shape = [batch.shape.channels, batch.shape.height, batch.shape.width];
        let shape: Array = shape.iter().map(|extent| JsValue::from_f64(*extent as f64)).collect();
        let (images, labels) = (Float32Array::from(batch.images), Uint32Array::from(batch.labels));
        let called = self.score.call3(&JsValue::NULL, &images, &labels, &shape).map_err(|cause| failed(&cause))?;
        let scores = JsFuture::from(Promise::resolve(&called)).await.map_err(|cause| failed(&cause))?;
        Ok(vec![Float64Array::new(&scores).to_vec()])
    }
}

fn failed(cause: &JsValue) -> Error {
    let message = cause.dyn_ref::<js_sys::Error>().map(|error| String::from(error.message()));
    Error::Reward(message.or_else(|| cause.as_string()).unwrap_or_else(|| "your reward failed".into()))
}
