//! What the page calls: a [`Session`] is one model that is being tuned in a tab.
//!
//! All numbers, images and weights stay in the tab: nothing is sent anywhere.
#![cfg(target_arch = "wasm32")]

mod reward;
mod session;
mod settings;

use flowdppo_wgpu::Error;
use wasm_bindgen::prelude::*;

pub use session::{Samples, Session};

/// Logs panics and warnings to the browser's console.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
    // Fails only if another logger is set, and this is the only one.
    let _ = console_log::init_with_level(log::Level::Warn);
}

/// An error as JavaScript has it; its `name` says what the page can do about it.
fn thrown(error: &Error) -> JsValue {
    let name = match error {
        Error::DeviceLost(_) => "DeviceLost",
        Error::Reward(_) => "RewardFailed",
        Error::Device(_) => "NoDevice",
        _ => "Error",
    };
    let thrown = js_sys::Error::new(&error.to_string());
    thrown.set_name(name);
    thrown.into()
}
