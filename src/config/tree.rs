//! The configuration as a tree of values that remember where they were written.
//!
//! A TOML file and any number of `key.path=value` overrides become one tree; each value keeps its
//! line and column, or the override that set it, so that an error can point to it.

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
            Place::Override(index) => match preset_of(&self.overrides[index]) {
                Some((preset, assignment)) => format!("{preset}, {assignment}: {message}"),
                None => format!("--set {}: {message}", self.overrides[index]),
            },
            Place::Default => message.to_string(),
        })
    }
}

/// The prefix of an override that comes from a preset: `--preset NAME: `.
pub(super) const PRESET: &str = "--preset ";

/// The preset that an override comes from, as `--preset NAME`, and what it sets.
fn preset_of(text: &str) -> Option<(&str, &str)> {
    if text.starts_with(PRESET) { text.split_once(": ") } else { None }
}

/// Whether an override comes from a preset.
pub(super) fn is_of_preset(text: &str) -> bool {
    preset_of(text).is_some()
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub value: Value,
    pub place: Place,
    /// The text after the `=` of an override: for a key that takes text, `run.name=2024` is text.
    pub written: Option<String>,
}

/// A TOML value. Dates are kept as their text: no key takes one, so they are always rejected.
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

/// Parses a file.
///
/// # Errors
/// Text that is not TOML, with line and column, and integers that do not fit in 64 bits.
pub(super) fn parse_file(text: &str, sources: Sources) -> Result<Node> {
    let table = DeTable::parse(text).map_err(|e| {
        let offset = e.span().map_or(0, |span| span.start);
        let key = e.span().filter(|_| e.message() == "duplicate key").and_then(|span| text.get(span));
        let key = key.map_or_else(String::new, |key| format!(" `{key}`"));
        let hint = if is_at_backslash(text, offset) { BACKSLASH } else { "" };
        sources.error(place_in_file(text, offset), format!("not valid TOML: {}{key}{hint}", e.message()))
    })?;
    let span = table.span();
    let root = Spanned::new(span, DeValue::Table(table.into_inner()));
    let places = Places::of(text);
    convert(&root, &|span| places.at(span.start), sources)
}

/// A hint for Windows paths.
pub(super) const BACKSLASH: &str =
    "; within double quotes a backslash begins an escape: write a path in single quotes, 'C:\\Users\\me', or with /";

/// Whether an error is in an escape sequence: there is a backslash at the offset, or a few characters before it on the
/// same line.
fn is_at_backslash(text: &str, offset: usize) -> bool {
    let line = text.get(..offset).map_or(0, |before| before.rfind('\n').map_or(0, |newline| newline + 1));
    let rest = text.get(line..).unwrap_or_default();
    let nearby = rest.char_indices().take_while(|(at, c)| *c != '\n' && line + at <= offset + 1);
    nearby.filter(|(_, c)| *c == '\\').last().is_some_and(|(at, _)| offset.saturating_sub(line + at) <= 10)
}

/// Applies override `index`, `key.path=value`, to the tree.
///
/// The value is read as TOML, and as plain text when it is not TOML. Whatever the path leads
/// through and the tree does not have yet is taken from `defaults`, so that one field of a default
/// list or table can be changed.
pub(super) fn apply_override(root: &mut Node, defaults: &Node, index: usize, sources: Sources) -> Result<()> {
    let place = Place::Override(index);
    let text = sources.overrides[index].as_str();
    let text = preset_of(text).map_or(text, |(_, assignment)| assignment);
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
        // Quotes mean that it should be TOML.
        Err(cause)
            if written.len() > 1 && written.starts_with('"') && written.ends_with('"') && written.contains('\\') =>
        {
            return Err(sources.error(place, format!("the value is not valid TOML: {}{BACKSLASH}", cause.message())));
        }
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
        // A change to a part of a default counts as written by the user, and so does the rest.
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

    /// The keys of a table that are in the file.
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

    /// Removes what a path leads to and returns whether it existed; for an entry of a list, the entire list is removed.
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

    /// Removes the keys of the table at `path` that are not `known`, except its tag; returns whether there were any.
    pub fn retain_keys(&mut self, path: &[&str], known: &[&str]) -> bool {
        let table = path.iter().try_fold(&mut *self, |node, key| node.get_mut(key));
        let Some(Value::Table(entries)) = table.map(|table| &mut table.value) else { return false };
        let before = entries.len();
        entries.retain(|entry| entry.key == "kind" || known.contains(&entry.key.as_str()));
        entries.len() < before
    }

    fn get_mut(&mut self, segment: &str) -> Option<&mut Self> {
        match &mut self.value {
            Value::Table(entries) => entries.iter_mut().find(|e| e.key == segment).map(|e| &mut e.node),
            Value::List(items) => items.get_mut(segment.parse::<usize>().ok()?),
            _ => None,
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
                let message = format!(
                    "the whole number {i} is too large or too small: TOML integers are from {} to {} (2^63 - 1)",
                    i64::MIN,
                    i64::MAX
                );
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
    Places::of(text).at(offset)
}

/// Bytes between the offsets whose character count is precomputed.
const STRIDE: usize = 256;

/// Finds lines and columns without scanning the file, because every value asks for its own.
struct Places<'a> {
    text: &'a str,
    /// Where the lines begin.
    lines: Vec<usize>,
    /// The characters before every [`STRIDE`]th byte.
    characters: Vec<usize>,
}

impl<'a> Places<'a> {
    fn of(text: &'a str) -> Self {
        let after = |(at, _): (usize, &str)| at + 1;
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(after)).collect();
        let mut characters = Vec::with_capacity(text.len() / STRIDE + 1);
        let mut count = 0;
        for block in text.as_bytes().chunks(STRIDE) {
            characters.push(count);
            count += starts(block);
        }
        characters.push(count);
        Self { text, lines, characters }
    }

    /// The place of a byte.
    fn at(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= offset);
        let column = self.characters_before(offset) - self.characters_before(self.lines[line - 1]) + 1;
        Place::File { line, column }
    }

    fn characters_before(&self, offset: usize) -> usize {
        let block = offset / STRIDE;
        self.characters[block] + starts(&self.text.as_bytes()[block * STRIDE..offset])
    }
}

/// Number of bytes that begin a character.
fn starts(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_lines_and_columns_of_characters() {
        let text = format!("é = 1\n\n# {}\nlast = 'ü'", "ö".repeat(1000));
        let places = Places::of(&text);
        for (offset, _) in text.char_indices().chain([(text.len(), ' ')]) {
            let before = &text[..offset];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
            assert_eq!(places.at(offset), Place::File { line, column }, "{offset}");
        }
    }
}
