//! The JSON schema of a configuration, derived from the section structs. Editors use it for completion; the reference,
//! commented configurations and checks of single values are derived from it, so none of them can drift from the code.

use std::sync::LazyLock;

use serde_json::Value as Json;

use super::decode::known_keys;
use super::{Command, Config, ranges};

/// The JSON schema (draft 2020-12) of a configuration file.
///
/// Beyond the standard, `x-commands` names the commands that read a section, `x-inf` marks a number that may be `inf`,
/// and `x-why` is the reason for a range.
pub fn schema() -> &'static Json {
    static SCHEMA: LazyLock<Json> = LazyLock::new(|| schemars::schema_for!(Config).to_value());
    &SCHEMA
}

/// A table of a configuration: `[train]`, `[[reward]]`, `[objective.reference]`.
#[derive(Debug)]
pub(super) struct Section {
    /// Its path, with dots.
    pub path: String,
    /// Whether there may be several.
    pub is_list: bool,
    /// The commands that read it.
    pub commands: Vec<&'static str>,
    /// What it is for: paragraphs.
    pub text: Vec<String>,
    /// Its keys, in order of declaration.
    pub keys: Vec<Key>,
}

/// A key of a section.
#[derive(Debug)]
pub(super) struct Key {
    pub name: &'static str,
    pub schema: &'static Json,
}

/// A named value of a key.
#[derive(Debug)]
pub(super) struct Choice {
    pub name: &'static str,
    pub text: String,
    /// The other keys of a table with this `kind`.
    pub keys: Vec<Key>,
}

/// Every section.
pub(super) fn sections() -> &'static [Section] {
    static SECTIONS: LazyLock<Vec<Section>> = LazyLock::new(collect_all);
    &SECTIONS
}

fn collect_all() -> Vec<Section> {
    let mut found = Vec::new();
    for name in known_keys::<Config>(&[]) {
        let property = &schema()["properties"][name];
        let commands = property["x-commands"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        let items = property.get("items");
        collect(name, items.is_some(), commands, resolve(items.unwrap_or(property)), &mut found);
    }
    found
}

/// The keys of this name in other sections that the commands of section `path` read; if there are none, in any section.
pub(super) fn elsewhere(path: &str, name: &str) -> Vec<String> {
    let sections = sections();
    let here = sections.iter().find(|section| section.path == path);
    if here.is_none() && !path.is_empty() {
        return Vec::new();
    }
    let is_near = |section: &&Section| {
        here.is_none_or(|here| here.commands.iter().any(|command| section.commands.contains(command)))
    };
    let has_it = |section: &&Section| section.keys.iter().any(|key| key.name == name);
    let near = sections.iter().filter(is_near).filter(has_it);
    near.map(|section| format!("{}{}.{name}", section.path, if section.is_list { ".0" } else { "" })).collect()
}

fn collect(path: &str, is_list: bool, commands: Vec<&'static str>, schema: &'static Json, found: &mut Vec<Section>) {
    let place: Vec<&str> = path.split('.').chain(is_list.then_some("0")).collect();
    let mut text = paragraphs(schema);
    // "`[train]`: what it is": the heading already has the name.
    if let Some((_, rest)) = text.first().and_then(|first| first.split_once("`: ")) {
        text[0] = capitalised(rest);
    }
    let at = found.len();
    found.push(Section { path: path.to_owned(), is_list, commands: commands.clone(), text, keys: Vec::new() });
    for name in known_keys::<Config>(&place) {
        let property = &schema["properties"][name];
        let target = resolve(property);
        if target.get("properties").is_some() {
            collect(&format!("{path}.{name}"), false, commands.clone(), target, found);
        } else {
            found[at].keys.push(Key { name, schema: property });
        }
    }
}

/// What a reference points to.
fn resolve(schema: &'static Json) -> &'static Json {
    let pointer = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    // An optional value is a reference or null.
    let optional = || schema["anyOf"].as_array()?.iter().find(|form| form.get("$ref").is_some());
    match pointer.and_then(|pointer| self::schema().pointer(pointer)) {
        Some(target) => target,
        None => optional().map_or(schema, resolve),
    }
}

impl Key {
    /// What it means: paragraphs.
    pub fn text(&self) -> Vec<String> {
        paragraphs(self.schema)
    }

    /// The description of its type, as paragraphs; only for choices.
    pub fn text_of_type(&self) -> Vec<String> {
        let target = resolve(self.schema);
        if std::ptr::eq(target, self.schema) { Vec::new() } else { paragraphs(target) }
    }

    /// Its named values, if any.
    pub fn choices(&self) -> Vec<Choice> {
        let target = resolve(self.schema);
        let forms = target["oneOf"].as_array().map_or(&[][..], Vec::as_slice);
        let mut found = Vec::new();
        for form in forms.iter().chain([target]) {
            let text = paragraphs(form).join(" ");
            let listed = form["enum"].as_array().into_iter().flatten().filter_map(Json::as_str);
            found.extend(listed.map(|name| Choice { name, text: String::new(), keys: Vec::new() }));
            if let Some(name) = form["const"].as_str() {
                found.push(Choice { name, text, keys: Vec::new() });
            } else if let Some(name) = form["properties"]["kind"]["const"].as_str() {
                let properties = form["properties"].as_object().into_iter().flatten();
                let keys = properties.filter(|(key, _)| *key != "kind").map(|(name, schema)| Key { name, schema });
                found.push(Choice { name, text, keys: keys.collect() });
            }
        }
        found
    }

    /// Its allowed values in words; empty if every value of its type is allowed.
    pub fn range(&self) -> String {
        let choices = self.choices();
        if choices.iter().any(|choice| !choice.keys.is_empty()) {
            return "a table with a `kind`".to_owned();
        }
        if !choices.is_empty() {
            let names: Vec<String> = choices.iter().map(|choice| format!("`{}`", choice.name)).collect();
            return names.join(", ");
        }
        let bound = |name: &str| self.schema[name].as_f64();
        match type_of(self.schema) {
            Some("boolean") => "`true`, `false`".to_owned(),
            Some("integer") => match (bound("minimum"), bound("maximum")) {
                (Some(low), Some(high)) => format!("{low} to {}", thousands(high as u64)),
                (low, _) => format!("{} or more", low.unwrap_or(0.0)),
            },
            Some("number") => {
                let (below, high) = (bound("exclusiveMaximum"), bound("maximum"));
                let range = match (bound("exclusiveMinimum"), bound("minimum"), below, high) {
                    (Some(low), ..) => format!("> {low}"),
                    (_, Some(low), Some(high), _) => format!("{low} to below {high}"),
                    (_, Some(low), None, Some(high)) => format!("{low} to {high}"),
                    (_, Some(low), None, None) => format!("≥ {low}"),
                    _ => "a number".to_owned(),
                };
                if self.schema["x-inf"] == true { format!("{range}, or `inf`") } else { range }
            }
            Some(_) => name_of_type(self.schema).to_owned(),
            None => {
                let forms = resolve(self.schema)["anyOf"].as_array().into_iter().flatten();
                forms.map(name_of_type).collect::<Vec<_>>().join(", or ")
            }
        }
    }
}

/// A type in words.
fn name_of_type(schema: &Json) -> &'static str {
    match type_of(schema) {
        Some("string") => "text",
        Some("array") => "a list",
        Some("object") => "a table",
        Some("integer") => "a whole number",
        _ => "a number",
    }
}

/// The type of a value that is not null.
fn type_of(schema: &Json) -> Option<&str> {
    match &schema["type"] {
        Json::Array(types) => types.iter().filter_map(Json::as_str).find(|name| *name != "null"),
        one => one.as_str(),
    }
}

/// A description as paragraphs of one line each; anything but prose (tables, lists) keeps its lines.
fn paragraphs(schema: &Json) -> Vec<String> {
    let text = schema["description"].as_str().unwrap_or_default();
    let one_line = |paragraph: &str| match paragraph.starts_with(['|', '-', '*']) {
        true => paragraph.to_owned(),
        false => paragraph.split_whitespace().collect::<Vec<_>>().join(" "),
    };
    text.split("\n\n").filter(|paragraph| !paragraph.is_empty()).map(one_line).collect()
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits are ASCII")).collect();
    groups.join(",")
}

/// Errors for values outside the ranges of the schema, in the sections that `command` reads.
pub(super) fn out_of_range(config: &Config, command: Command) -> Vec<crate::Error> {
    // Including keys that nothing reads: a value out of range is always a mistake.
    let values = super::foreign::complete(config);
    let mut errors = Vec::new();
    for section in sections().iter().filter(|section| section.commands.contains(&command.name())) {
        for (path, table) in section.tables(&values) {
            for key in &section.keys {
                if let Some(value) = table.get(key.name) {
                    errors.extend(ranges::check_by_schema(format!("{path}.{}", key.name), value, key.schema).err());
                }
            }
        }
    }
    errors
}

impl Section {
    /// The tables of this section in a configuration, with their paths: one, or as many as the list has.
    pub fn tables<'a>(&self, config: &'a toml::Table) -> Vec<(String, &'a toml::Table)> {
        let (parent, name) = self.path.rsplit_once('.').unwrap_or(("", &self.path));
        let parent = if parent.is_empty() { Some(config) } else { config.get(parent).and_then(toml::Value::as_table) };
        match parent.and_then(|parent| parent.get(name)) {
            Some(toml::Value::Table(table)) => vec![(self.path.clone(), table)],
            Some(toml::Value::Array(items)) => {
                let tables = items.iter().enumerate();
                tables.filter_map(|(at, item)| Some((format!("{}.{at}", self.path), item.as_table()?))).collect()
            }
            _ => Vec::new(),
        }
    }
}
