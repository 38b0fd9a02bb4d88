//! Checks of a single value; each error names the key, what it must be, and what it is.
//!
//! The device computes in f32, so values are checked as rounded to f32.

use std::fmt::Display;

use serde_json::Value as Json;

use crate::error::{Error, Result};

/// Largest size: products of two fit in 32 bits, and no real model comes near it.
pub(super) const MAX_SIZE: usize = 65_535;
/// Largest number of training steps or samples: far beyond any run, and products of two stay exact.
pub(super) const MAX_COUNT: usize = 100_000_000;
/// Largest number of sampling steps or passes.
pub(super) const MAX_STEPS: usize = 10_000;
/// Largest number of samples drawn per class.
pub(super) const MAX_PER_CLASS: usize = 10_000;
/// Largest number of samples in a rollout.
pub(super) const MAX_SAMPLES: usize = 1_000_000;

pub(super) fn wrong<T>(key: impl Display, expected: impl Display, found: impl Display) -> Result<T> {
    Err(Error::input(format!("`{key}` must be {expected}, not {found}")))
}

fn check(ok: bool, key: impl Display, expected: &str, found: f64) -> Result<()> {
    if ok { Ok(()) } else { wrong(key, expected, format_args!("{found:?}")) }
}

pub(super) fn finite(key: impl Display, value: f64) -> Result<()> {
    check((value as f32).is_finite(), key, "a finite number", value)
}

pub(super) fn positive(key: impl Display, value: f64) -> Result<()> {
    let narrow = value as f32;
    check(narrow > 0.0 && narrow.is_finite(), key, "a positive finite number", value)
}

pub(super) fn positive_or_inf(key: impl Display, value: f64) -> Result<()> {
    check(value as f32 > 0.0, key, "a positive number, or inf", value)
}

pub(super) fn not_negative(key: impl Display, value: f64) -> Result<()> {
    let ok = value >= 0.0 && (value as f32).is_finite();
    check(ok, key, "a finite, non-negative number", value)
}

pub(super) fn share(key: impl Display, value: f64) -> Result<()> {
    check((0.0..1.0).contains(&(value as f32)), key, "a number from 0 to below 1", value)
}

pub(super) fn bounded(key: impl Display, value: usize, min: usize, max: usize) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    wrong(key, format_args!("a whole number from {min} to {max}"), value)
}

pub(super) fn count(key: impl Display, value: usize) -> Result<()> {
    bounded(key, value, 1, MAX_COUNT)
}

/// Checks a number against the bounds that its key has in the schema, as [`super::schema`] describes them.
pub(super) fn check_by_schema(key: String, value: &toml::Value, schema: &Json) -> Result<()> {
    let bound = |name: &str| schema[name].as_f64();
    let (above, low, below, high) =
        (bound("exclusiveMinimum"), bound("minimum"), bound("exclusiveMaximum"), bound("maximum"));
    match (value, above, low, below, high) {
        (toml::Value::Integer(value), _, Some(low), _, Some(high)) => {
            let ok = (low..=high).contains(&(*value as f64));
            if let Some(why) = schema["x-why"].as_str().filter(|_| !ok) {
                return wrong(key, format_args!("a whole number from {low} to {high}, because {why}"), value);
            }
            bounded(key, usize::try_from(*value).unwrap_or(usize::MAX), low as usize, high as usize)
        }
        (toml::Value::Float(value), Some(0.0), None, None, None) => match schema["x-inf"] == true {
            true => positive_or_inf(key, *value),
            false => positive(key, *value),
        },
        (toml::Value::Float(value), None, Some(0.0), Some(1.0), None) => share(key, *value),
        (toml::Value::Float(value), None, Some(0.0), None, None) => not_negative(key, *value),
        (toml::Value::Float(value), None, Some(low), None, None) => {
            let why = schema["x-why"].as_str().map_or_else(String::new, |why| format!(", because {why}"));
            let ok = *value >= low && (*value as f32).is_finite();
            check(ok, key, &format!("a finite number from {low} on{why}"), *value)
        }
        (toml::Value::Float(value), None, Some(low), None, Some(high)) => {
            let ok = (low..=high).contains(&f64::from(*value as f32));
            check(ok, key, &format!("a number from {low} to {high}"), *value)
        }
        (toml::Value::Float(value), ..) if schema["type"] == "number" => finite(key, *value),
        _ => Ok(()),
    }
}

/// Checks that `value` divides `total`, which `of` describes. The message suggests the nearest divisors.
pub(super) fn divides(key: &str, value: usize, of: &str, total: usize) -> Result<()> {
    if total.is_multiple_of(value) {
        return Ok(());
    }
    let below = (1..=value.min(total)).rev().find(|d| total.is_multiple_of(*d)).unwrap_or(1);
    let above = (value..=total).find(|d| total.is_multiple_of(*d));
    let above = above.map(|d| format!(" or {d}")).unwrap_or_default();
    Err(Error::input(format!("`{key}` = {value} must divide {of} (= {total}); {below}{above} would")))
}
