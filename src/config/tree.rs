//! The configuration as a tree of values that remember where they were written.
//!
//! A TOML file and any number of `key.path=value` overrides become one tree; each value keeps its
//! line and column, or the override that set it, so that a complaint can point at the culprit.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result};

/// Where a key or value was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// In the file: line and column, both counted from 1, the column in characters.
    File { line: usize, column: usize },
    /// In the override of this index.
    Override(usize),
    /// Nowhere: it is a built-in default.
    Default,
}

/// Names for the places: the file's name and the overrides' texts.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub file: &'a str,
    pub overrides: &'a [String],
}

impl Sources<'_> {
    /// An input error whose message starts with the place.
    pub fn error(&self, place: Place, message: impl std::fmt::Display) -> Error {
        Error::input(match place {
            Place::File { line, column } => format!("{}:{line}:{column}: {message}", self.file),
            Place::Override(index) => format!("--set {}: {message}", self.overrides[index]),
            Place::Default => message.to_string(),
        })
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub value: Value,
    pub place: Place,
    /// What stands after the `=` of an override: where text is wanted, `run.name=2024` is text.
    pub written: Option<String>,
}

/// A TOML value. Dates are kept as their text: no key takes one, so they are only ever refused.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Date(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table; its place is the key's own, the node's that of the value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub place: Place,
    pub node: Node,
}

/// Parses a whole file.
///
/// # Errors
/// What is not TOML, with line and column, and integers that do not fit in 64 bits.
pub(super) fn parse_file(text: &str, sources: Sources) -> Result<Node> {
    let place = |offset| place_in_file(text, offset);
    let table = DeTable::parse(text).map_err(|e| {
        let offset = e.span().map_or(0, |span| span.start);
        let key = e.span().filter(|_| e.message() == "duplicate key").and_then(|span| text.get(span));
        let key = key.map_or_else(String::new, |key| format!(" `{key}`"));
        sources.error(place(offset), format!("not valid TOML: {}{key}", e.message()))
    })?;
    let span = table.span();
    let root = Spanned::new(span, DeValue::Table(table.into_inner()));
    convert(&root, &|span| place(span.start), sources)
}

/// Applies override `index`, `key.path=value`, to the tree.
///
/// The value is read as TOML, and as plain text when it is not TOML. Whatever the path leads
/// through and the tree does not have yet is taken from `defaults`, so that one field of a default
/// list or table can be changed.
pub(super) fn apply_override(root: &mut Node, defaults: &Node, index: usize, sources: Sources) -> Result<()> {
    let place = Place::Override(index);
    let text = &sources.overrides[index];
    let (path, value) =
        text.split_once('=').ok_or_else(|| sources.error(place, "expected key=value, such as train.iterations=3"))?;
    let path = path.trim();
    if path.split('.').any(str::is_empty) {
        let message = "the key is empty; expected a path such as train.iterations";
        return Err(sources.error(place, message));
    }
    let written = value.trim();
    let value = match DeValue::parse(written) {
        Ok(parsed) => convert(&parsed, &|_| place, sources)?.value,
        Err(_) => Value::Text(written.to_owned()),
    };
    let value = Node { value, place, written: Some(written.to_owned()) };
    let mut node = root;
    let mut default = Some(defaults);
    let mut walked = String::new();
    for segment in path.split('.') {
        default = default.and_then(|d| d.get(segment));
        node = descend(node, segment, default, place)
            .map_err(|problem| sources.error(place, format!("`{walked}` {problem}")))?;
        // Who changes a part of a default answers for the whole.
        if node.place == Place::Default {
            node.place = place;
        }
        if !walked.is_empty() {
            walked.push('.');
        }
        walked.push_str(segment);
    }
    *node = value;
    Ok(())
}

/// The child of that key or index, made from `default` (or empty) if it is not there.
fn descend<'n>(
    node: &'n mut Node,
    segment: &str,
    default: Option<&Node>,
    place: Place,
) -> std::result::Result<&'n mut Node, String> {
    let empty = Node { value: Value::Table(Vec::new()), place, written: None };
    let fresh = || default.cloned().unwrap_or(empty);
    match &mut node.value {
        Value::Table(entries) => {
            let at = entries.iter().position(|e| e.key == segment).unwrap_or_else(|| {
                entries.push(Entry { key: segment.to_owned(), place, node: fresh() });
                entries.len() - 1
            });
            Ok(&mut entries[at].node)
        }
        Value::List(items) => {
            let count = items.len();
            let at = segment.parse().ok().filter(|&i: &usize| i <= count).ok_or_else(|| {
                format!(
                    "is a list of {count}; `{segment}` should be an index from 0 to {count} \
                     ({count} appends an entry)"
                )
            })?;
            if at == count {
                items.push(fresh());
            }
            Ok(&mut items[at])
        }
        _ => Err(format!("is a single value and has no `{segment}`")),
    }
}

impl Node {
    /// The keys of a table.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let entries = if let Value::Table(entries) = &self.value { &entries[..] } else { &[] };
        entries.iter().map(|e| e.key.as_str())
    }

    /// The keys of a table that stand in the file.
    pub fn keys_of_file(&self) -> impl Iterator<Item = &str> {
        let entries = if let Value::Table(entries) = &self.value { &entries[..] } else { &[] };
        entries.iter().filter(|e| matches!(e.place, Place::File { .. })).map(|e| e.key.as_str())
    }

    /// The child of that key or index.
    pub fn get(&self, segment: &str) -> Option<&Self> {
        match &self.value {
            Value::Table(entries) => entries.iter().find(|e| e.key == segment).map(|e| &e.node),
            Value::List(items) => items.get(segment.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// Removes what a path leads to, and says whether it was there; an entry of a list takes the whole list with it.
    pub fn remove_path(&mut self, path: &[&str]) -> bool {
        let Some((first, rest)) = path.split_first() else { return false };
        match &mut self.value {
            Value::Table(entries) => {
                let Some(at) = entries.iter().position(|e| e.key == *first) else { return false };
                if !entries[at].node.remove_path(rest) {
                    entries.remove(at);
                }
                true
            }
            Value::List(items) if !rest.is_empty() => {
                first.parse().ok().and_then(|at: usize| items.get_mut(at)).is_some_and(|item| item.remove_path(rest))
            }
            _ => false,
        }
    }

    /// Removes a key of a table.
    pub fn remove(&mut self, key: &str) {
        if let Value::Table(entries) = &mut self.value {
            entries.retain(|e| e.key != key);
        }
    }

    /// The same tree with every place set to [`Place::Default`].
    pub fn into_default(mut self) -> Self {
        self.place = Place::Default;
        self.value = match self.value {
            Value::List(items) => Value::List(items.into_iter().map(Self::into_default).collect()),
            Value::Table(entries) => Value::Table(
                entries
                    .into_iter()
                    .map(|e| Entry { place: Place::Default, node: e.node.into_default(), ..e })
                    .collect(),
            ),
            scalar => scalar,
        };
        self
    }
}

type PlaceOf<'a> = &'a dyn Fn(std::ops::Range<usize>) -> Place;

fn convert(value: &Spanned<DeValue>, place_of: PlaceOf, sources: Sources) -> Result<Node> {
    let place = place_of(value.span());
    let value = match value.get_ref() {
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Integer(i) => {
            let parsed = i64::from_str_radix(i.as_str(), i.radix());
            Value::Integer(parsed.map_err(|_| {
                let message = format!("the whole number {i} does not fit in 64 bits");
                sources.error(place, message)
            })?)
        }
        DeValue::Float(f) => {
            let parsed = f.as_str().parse();
            Value::Float(
                parsed.map_err(|e| sources.error(place, format!("cannot read the number {}: {e}", f.as_str())))?,
            )
        }
        DeValue::String(s) => Value::Text(s.to_string()),
        DeValue::Datetime(d) => Value::Date(d.to_string()),
        DeValue::Array(items) => {
            let nodes = items.iter().map(|item| convert(item, place_of, sources));
            Value::List(nodes.collect::<Result<_>>()?)
        }
        DeValue::Table(table) => {
            let entries = table.iter().map(|(key, value)| {
                Ok(Entry {
                    key: key.get_ref().to_string(),
                    place: place_of(key.span()),
                    node: convert(value, place_of, sources)?,
                })
            });
            Value::Table(entries.collect::<Result<_>>()?)
        }
    };
    Ok(Node { value, place, written: None })
}

fn place_in_file(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place::File { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
}
