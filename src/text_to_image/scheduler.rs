//! What `scheduler_config.json` says of the noise levels.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files::{read_file, without_mark};

/// Its name in the folder of the scheduler.
pub(super) const FILE: &str = "scheduler_config.json";

/// The only scheduler.
const CLASS: &str = "FlowMatchEulerDiscreteScheduler";

/// Keys that change the noise levels or the steps, and the only value that is supported: that of Stable Diffusion 3.
fn plain_values() -> [(&'static str, Value); 9] {
    [
        ("_class_name", json!(CLASS)),
        ("num_train_timesteps", json!(1000)),
        ("use_dynamic_shifting", json!(false)),
        ("use_karras_sigmas", json!(false)),
        ("use_exponential_sigmas", json!(false)),
        ("use_beta_sigmas", json!(false)),
        ("invert_sigmas", json!(false)),
        ("stochastic_sampling", json!(false)),
        ("shift_terminal", Value::Null),
    ]
}

/// The shift in the folder of a scheduler.
///
/// # Errors
/// [`Error::Input`] with the key that is wrong or not supported.
pub(super) fn read_shift(folder: &Path) -> Result<f64> {
    let path = folder.join(FILE);
    shift_of(&path.display().to_string(), &read_file(&path)?)
}

fn shift_of(name: &str, bytes: &[u8]) -> Result<f64> {
    let keys: Map<String, Value> = serde_json::from_slice(without_mark(bytes))
        .map_err(|cause| Error::input(format!("{name} is not the configuration of a scheduler: {cause}")))?;
    for (key, plain) in plain_values() {
        let found = keys.get(key).unwrap_or(&Value::Null);
        if !found.is_null() && *found != plain {
            return Err(Error::input(format!("{name} has `{key}` = {found}, but only {plain} is supported")));
        }
    }
    let shift = keys.get("shift").unwrap_or(&json!(1.0)).as_f64();
    shift
        .filter(|shift| shift.is_finite() && *shift > 0.0)
        .ok_or_else(|| Error::input(format!("{name} has `shift` = {}: it must be a number above 0", keys["shift"])))
}

#[cfg(test)]
mod tests {
    use super::shift_of;

    #[test]
    fn only_the_plain_scheduler_is_read() {
        let of = |text: &str| shift_of("it", text.as_bytes());
        assert_eq!(of(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}"#).unwrap(), 3.0);
        assert_eq!(of("\u{feff}{\"use_dynamic_shifting\": false, \"shift_terminal\": null}").unwrap(), 1.0);
        for (text, reason) in [
            (r#"{"_class_name": "DDIMScheduler"}"#, "`_class_name` = \"DDIMScheduler\", but only"),
            (r#"{"use_dynamic_shifting": true}"#, "`use_dynamic_shifting` = true, but only false is supported"),
            (r#"{"shift_terminal": 0.1}"#, "`shift_terminal` = 0.1, but only null"),
            (r#"{"shift": 0}"#, "`shift` = 0: it must be a number above 0"),
            (r#"{"shift": "3"}"#, "`shift` = \"3\": it must be"),
            ("[]", "is not the configuration of a scheduler"),
        ] {
            let message = of(text).unwrap_err().to_string();
            assert!(message.contains(reason), "{message}\nlacks: {reason}");
        }
    }
}
