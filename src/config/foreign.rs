//! Keys that nothing reads, because another key selects an objective, a kind or a mode that does not use them.
//!
//! One list of rules serves three purposes: setting such a key is an error, a written configuration leaves such keys
//! out, and the keys of what a preset replaces are dropped.

use std::borrow::Cow;
use std::sync::LazyLock;

use toml::{Table, Value};

use super::Config;
use super::reward::KEYS;
use super::tree::{Node, Place, Sources, is_of_preset};
use crate::error::Error;

/// Keys of a section that are read only where `selector` has one of these values.
struct Rule {
    section: &'static str,
    keys: &'static [&'static str],
    /// The dotted key that decides.
    selector: &'static str,
    values: &'static [&'static str],
}

const RULES: [Rule; 11] = [
    rule("objective", &["log_prob"], "objective.name", &["flow-dppo", "flow-grpo"]),
    rule("objective", &["mask", "divergence", "kl_mask_threshold"], "objective.name", &["flow-dppo"]),
    rule("objective", &["clip_low", "clip_high", "clip_schedule"], "objective.name", &["flow-grpo", "grpo-guard"]),
    rule("objective", &["threshold_unit"], "objective.name", &["flow-dppo", "flow-grpo", "grpo-guard"]),
    rule("objective", &["step_weight"], "objective.name", &["grpo-guard"]),
    rule("objective", &["nft_beta"], "objective.name", &["nft"]),
    rule(
        "objective",
        &["divergence", "kl_mask_threshold", "threshold_unit"],
        "objective.mask",
        &["asymmetric", "symmetric"],
    ),
    rule("objective", &["threshold_unit"], "objective.divergence", &["kl", "kl-unnormalised", "velocity"]),
    rule("data", &["name"], "data.kind", &["builtin"]),
    rule("data", &["image_size", "channels"], "data.kind", &["builtin", "sheet", "folder"]),
    rule("pretrain", &["logit_mean", "logit_std"], "pretrain.time_sampling", &["logit-normal"]),
];

const fn rule(
    section: &'static str,
    keys: &'static [&'static str],
    selector: &'static str,
    values: &'static [&'static str],
) -> Rule {
    Rule { section, keys, selector, values }
}

/// A key that nothing reads.
struct Foreign {
    /// Its path, with dots.
    path: String,
    /// The key that decides this.
    selector: Cow<'static, str>,
    why: String,
    /// It is switched off by another key's value, so its default is allowed: only another value is an error.
    is_off: bool,
}

/// Finds the value of a dotted key.
fn find<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    let mut keys = path.split('.');
    let first = table.get(keys.next()?)?;
    keys.try_fold(first, |value, key| match value {
        Value::Table(table) => table.get(key),
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}

/// The keys that nothing reads in a configuration that has all of its keys.
fn foreign(table: &Table) -> Vec<Foreign> {
    let mut found: Vec<Foreign> = Vec::new();
    for Rule { section, keys, selector, values } in &RULES {
        let value = find(table, selector).and_then(Value::as_str).unwrap_or_default();
        // A selector that nothing reads decides nothing.
        if values.contains(&value) || found.iter().any(|other| other.path == *selector) {
            continue;
        }
        for key in *keys {
            let path = format!("{section}.{key}");
            if found.iter().any(|other| other.path == path) {
                continue;
            }
            let readers = values.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(" and ");
            let (verb, those) = if values.len() == 1 { ("reads", "it") } else { ("read", "one of them") };
            let why = format!(
                "`{path}` does nothing with `{selector}` = \"{value}\": only {readers} {verb} it; remove it, or choose \
                 {those}"
            );
            found.push(Foreign { path, selector: Cow::Borrowed(selector), why, is_off: false });
        }
    }
    found.extend(of_rewards(table));
    found.extend(switched_off(table));
    found.extend(of_given_models(table));
    found
}

fn of_rewards(table: &Table) -> Vec<Foreign> {
    let mut found = Vec::new();
    for (index, reward) in table.get("reward").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let kind = reward.get("kind").and_then(Value::as_str).unwrap_or_default();
        for (key, kinds) in KEYS.iter().filter(|(_, kinds)| !kinds.contains(&kind)) {
            let kinds = kinds.iter().map(|kind| format!("\"{kind}\"")).collect::<Vec<_>>().join(" or ");
            let path = format!("reward.{index}.{key}");
            let why =
                format!("`{path}` is for the kind {kinds}, not for \"{kind}\": remove it, or choose another kind");
            found.push(Foreign { path, selector: format!("reward.{index}.kind").into(), why, is_off: false });
        }
    }
    found
}

/// Keys that a number or another key switches off, rather than a name.
fn switched_off(table: &Table) -> Vec<Foreign> {
    let number = |path: &str| match find(table, path) {
        Some(Value::Float(number)) => *number,
        Some(Value::Integer(number)) => *number as f64,
        _ => f64::NAN,
    };
    let mut found = Vec::new();
    let mut push = |path: &str, selector: &'static str, why: String, is_off: bool| {
        found.push(Foreign { path: path.to_owned(), selector: Cow::Borrowed(selector), why, is_off });
    };
    if number("objective.reference.beta") == 0.0 {
        for path in ["objective.reference.kind", "objective.reference.guidance_scale"] {
            let why =
                format!("`{path}` does nothing because `objective.reference.beta` is 0: raise it, or remove `{path}`");
            push(path, "objective.reference.beta", why, true);
        }
    }
    if number("rollout.guidance_scale") == 1.0 {
        let path = "rollout.guidance_gradient";
        let why = format!(
            "`{path}` does nothing because `rollout.guidance_scale` is 1, no guidance: raise it, or remove `{path}`"
        );
        push(path, "rollout.guidance_scale", why, true);
    }
    if number("train.ema_decay") == 0.0 {
        let path = "train.ema_warm_up";
        let why =
            format!("`{path}` does nothing because `train.ema_decay` is 0, no averaging: raise it, or remove `{path}`");
        push(path, "train.ema_decay", why, true);
    }
    let adapter = find(table, "lora.adapter").is_some();
    if !adapter && number("lora.rank") == 0.0 {
        for path in ["lora.alpha", "lora.targets"] {
            let why = format!(
                "`lora.alpha` and `lora.targets` do nothing when all weights are trained: set `lora.rank` above 0, or \
                 remove `{path}`"
            );
            push(path, "lora.rank", why, false);
        }
    }
    if adapter {
        for path in ["lora.alpha", "lora.targets"] {
            let why = format!("`{path}` does nothing with `lora.adapter`, which has its own: remove one of the two");
            push(path, "lora.adapter", why, false);
        }
    }
    found
}

/// Keys of a new model where one is given.
fn of_given_models(table: &Table) -> Vec<Foreign> {
    let mut found = Vec::new();
    for selector in ["model.file", "model.folder"].into_iter().filter(|key| find(table, key).is_some()) {
        for path in ["model.time", "model.time_scale", "model.positions"] {
            let what = selector.trim_start_matches("model.");
            let why = format!(
                "`{path}` does nothing with `{selector}`, which has its own: remove it, or set the sizes of a new \
                 model instead of the {what}"
            );
            found.push(Foreign { path: path.to_owned(), selector: selector.into(), why, is_off: false });
        }
    }
    found
}

/// Every key with its value, including those that nothing reads.
pub(super) fn complete(config: &Config) -> Table {
    Table::try_from(config).expect("every value of a configuration has a TOML form")
}

/// The defaults of every key; for a reward, those of all kinds.
pub(super) fn defaults() -> &'static Table {
    static DEFAULTS: LazyLock<Table> = LazyLock::new(|| complete(&Config::default()));
    &DEFAULTS
}

/// The default of a key; every reward has the defaults of the built-in one.
fn default_of(path: &str) -> Option<&'static Value> {
    match path.strip_prefix("reward.").and_then(|rest| rest.split_once('.')) {
        Some((_, key)) => find(defaults(), &format!("reward.0.{key}")),
        None => find(defaults(), path),
    }
}

/// Removes keys that nothing reads and that have their default value.
pub(super) fn remove_silent(table: &mut Table) {
    remove_defaults(table, foreign(table));
}

/// The same, but only in rewards: this is how configurations are compared.
pub(super) fn remove_silent_of_rewards(table: &mut Table) {
    remove_defaults(table, of_rewards(table));
}

fn remove_defaults(table: &mut Table, foreign: Vec<Foreign>) {
    for Foreign { path, is_off, .. } in foreign {
        let value = find(table, &path);
        let is_default = value.is_some_and(|value| default_of(&path) == Some(value));
        if is_default && !is_off {
            remove(table, &path);
        }
    }
}

fn remove(table: &mut Table, path: &str) {
    match path.split_once('.') {
        None => drop(table.remove(path)),
        Some((key, rest)) => match table.get_mut(key) {
            Some(Value::Table(inner)) => remove(inner, rest),
            Some(Value::Array(items)) => {
                if let Some((index, rest)) = rest.split_once('.')
                    && let Some(Value::Table(inner)) = index.parse::<usize>().ok().and_then(|at| items.get_mut(at))
                {
                    remove(inner, rest);
                }
            }
            _ => {}
        },
    }
}

/// What [`check`] found: keys that nothing reads.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// One error for each key that was set to no effect.
    pub errors: Vec<Error>,
    /// Whether some were removed from the tree, so that it must be read again.
    pub has_removed: bool,
}

/// Finds keys in a tree, which was read as `config`, that were set and that nothing reads.
///
/// A preset applies to any file: if it selects the objective, the file's keys of another one are removed. In the record
/// of a run (`is_record`), which the program wrote itself, all keys that a change leaves unread are removed.
pub(super) fn check(root: &mut Node, config: &Config, sources: Sources, is_record: bool) -> Found {
    let table = complete(config);
    let mut found = Found::default();
    for Foreign { path, selector, why, is_off } in foreign(&table) {
        let keys: Vec<&str> = path.split('.').collect();
        let node = |root: &Node, keys: &[&str]| -> Option<Place> {
            keys.iter().try_fold(root, |node, key| node.get(key)).map(|node| node.place)
        };
        let Some(place) = node(root, &keys).filter(|place| *place != Place::Default) else { continue };
        if is_off && find(&table, &path) == default_of(&path) {
            continue;
        }
        let is_in_file = matches!(place, Place::File { .. });
        let by_preset = || match node(root, &selector.split('.').collect::<Vec<_>>()) {
            Some(Place::Override(index)) => is_of_preset(&sources.overrides[index]),
            _ => false,
        };
        if is_in_file && (is_record || by_preset()) {
            found.has_removed |= root.remove_path(&keys);
        } else {
            found.errors.push(sources.error(place, why));
        }
    }
    found
}
