//! Decodes the tree of located values into the typed sections, with serde and readable messages.
//!
//! Serde's own hooks say *what* is wrong (an unknown field and the known ones, a wrong type and the
//! expected one); this deserializer adds the key's full path and its location.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, Expected, MapAccess, SeqAccess, Unexpected, Visitor};

use super::schema::elsewhere;
use super::tree::{Entry, Node, Place, Sources, Value};
use crate::error::{Error, Result};

/// Reads a `T` from the tree.
///
/// # Errors
/// The first unknown key, unknown name or wrong type: place, key path, what was expected.
pub(super) fn decode<'de, T: Deserialize<'de>>(root: &Node, sources: Sources) -> Result<T> {
    T::deserialize(root).map_err(|fault| fault.explain(root, sources))
}

/// Largest number of faults that are reported for one file.
pub(super) const MAX_FAULTS: usize = 50;

/// What [`decode_all`] found.
pub(super) struct Decoded<T> {
    /// The value, read without what is wrong; none if the rest cannot be read at all.
    pub value: Option<T>,
    /// What is wrong, in the order of the file, at most [`MAX_FAULTS`].
    pub errors: Vec<Error>,
    /// How many more faults were seen.
    pub more: usize,
}

/// Reads a `T` from the tree and collects everything that is wrong with it: a faulty value is removed, and the rest is
/// read again. The unknown keys of a table are removed together. Reading stops after [`MAX_FAULTS`] passes, so that
/// the time is not quadratic in the size of the file.
pub(super) fn decode_all<'de, T: Deserialize<'de>>(root: &mut Node, sources: Sources) -> Decoded<T> {
    let mut faults: Vec<(Place, Vec<String>, Error)> = Vec::new();
    let mut more = 0;
    let value = loop {
        let fault = match T::deserialize(&*root) {
            Ok(value) => break Some(value),
            Err(fault) => fault,
        };
        if faults.len() >= MAX_FAULTS {
            more += 1;
            break None;
        }
        let others = fault.other_unknown_keys(root);
        for fault in std::iter::once(&fault).chain(&others) {
            if faults.len() >= MAX_FAULTS {
                more += 1;
                continue;
            }
            let path: Vec<String> = fault.path().into_iter().map(str::to_owned).collect();
            // The missing key may be one that was removed.
            let follows = |(_, earlier, _): &(Place, Vec<String>, Error)| earlier.starts_with(&path);
            if !(matches!(fault.what, What::MissingKey(_)) && faults.iter().any(follows)) {
                faults.push((fault.place.unwrap_or(root.place), path, fault.explain(root, sources)));
            }
        }
        let is_gone = match &fault.what {
            What::UnknownKey { key, known } if key != "kind" => root.retain_keys(&fault.table(), known),
            _ => root.remove_path(&fault.path()),
        };
        if !is_gone {
            break None;
        }
    };
    // Sort by position in the file: sections are read in another order.
    faults.sort_by_key(|(place, ..)| *place);
    Decoded { value, errors: faults.into_iter().map(|(.., error)| error).collect(), more }
}

/// The keys that the table at `path` may have, in order of declaration. The error for an unknown key names them.
pub(super) fn known_keys<'de, T: Deserialize<'de>>(path: &[&str]) -> Names {
    let node = |value| Node { value, place: Place::Default, written: None };
    let table =
        |key: &str, inner| node(Value::Table(vec![Entry { key: key.to_owned(), place: Place::Default, node: inner }]));
    let unknown = table("?", node(Value::Bool(true)));
    let root = path.iter().rev().fold(unknown, |inner, key| match *key {
        "0" => node(Value::List(vec![inner])),
        key => table(key, inner),
    });
    match T::deserialize(&root) {
        Err(Fault { what: What::UnknownKey { known, .. }, .. }) => known,
        _ => &[],
    }
}

/// What is wrong with a value, and on which key.
#[derive(Debug)]
pub(super) struct Fault {
    /// The keys that lead to it, the innermost first.
    keys: Vec<String>,
    place: Option<Place>,
    what: What,
}

pub(super) type Names = &'static [&'static str];

#[derive(Debug)]
enum What {
    UnknownKey {
        key: String,
        known: Names,
    },
    UnknownName {
        name: String,
        known: Names,
    },
    /// `inside` if the value is somewhere in the table that the path names.
    WrongType {
        found: String,
        expected: String,
        inside: bool,
    },
    MissingKey(&'static str),
    Other(String),
}

impl Fault {
    fn new(what: What) -> Self {
        Self { keys: Vec::new(), place: None, what }
    }

    fn at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }

    /// Puts the key (or index) of `node` before the path.
    fn under(mut self, key: impl Into<String>, node: &Node) -> Self {
        // An enum that is tagged by one of its keys loses the path of its other keys: do not accuse
        // the whole table.
        if let (What::WrongType { found, inside, .. }, Value::Table(_)) = (&mut self.what, &node.value) {
            *inside |= self.keys.is_empty() && found != A_TABLE;
        }
        self.keys.push(key.into());
        self.at(node.place)
    }

    /// The message; `root` is the tree that the fault was found in.
    fn explain(&self, root: &Node, sources: Sources) -> Error {
        let path = self.path();
        let find = |path: &[&str]| path.iter().try_fold(root, |node, key| node.get(key));
        let place = self.place.unwrap_or(root.place);
        let table = &path[..path.len().saturating_sub(1)];
        let kind = find(table).and_then(|table| table.get("kind"));
        match (&self.what, find(&path), kind.map(|kind| &kind.value)) {
            // The user did not write that key: it belongs to the default, whose kind an override has changed.
            (What::UnknownKey { known, .. }, Some(Node { place: Place::Default, .. }), Some(Value::Text(kind))) => {
                let (table, keys) = (table.join("."), known.iter().map(|key| format!(",{key}=...")));
                let whole = format!("{table}={{kind='{kind}'{}}}", keys.collect::<String>());
                let message = format!(
                    "the default `{table}` has the keys of another kind: set the whole table, --set \"{whole}\""
                );
                sources.error(place, message)
            }
            _ => sources.error(place, self),
        }
    }

    /// The keys that lead to the table that the fault is in.
    fn table(&self) -> Vec<&str> {
        self.keys.iter().rev().map(String::as_str).collect()
    }

    /// If this is an unknown key: the faults of the other unknown keys of its table.
    fn other_unknown_keys(&self, root: &Node) -> Vec<Self> {
        let What::UnknownKey { key, known } = &self.what else { return Vec::new() };
        let table = self.table().into_iter().try_fold(root, |node, key| node.get(key));
        let Some(Value::Table(entries)) = table.map(|table| &table.value) else { return Vec::new() };
        let others = entries.iter().filter(|entry| entry.key != *key && !known.contains(&entry.key.as_str()));
        // The tag of an enum is not one of the keys of its variants.
        let others = others.filter(|entry| entry.key != "kind");
        // The user did not write the defaults: one message says why they do not fit.
        let others = others.filter(|entry| entry.place != Place::Default);
        let fault = |entry: &Entry| Self {
            keys: self.keys.clone(),
            place: Some(entry.place),
            what: What::UnknownKey { key: entry.key.clone(), known },
        };
        others.map(fault).collect()
    }

    /// The keys that lead to what is wrong.
    fn path(&self) -> Vec<&str> {
        let unknown = match &self.what {
            What::UnknownKey { key, .. } => Some(key.as_str()),
            _ => None,
        };
        self.keys.iter().rev().map(String::as_str).chain(unknown).collect()
    }

    fn wrong_type(found: Unexpected, expected: &dyn Expected) -> Self {
        let expected = match expected.to_string().as_str() {
            "usize" | "u64" | "u32" => "a non-negative whole number".to_owned(),
            "f64" | "f32" => "a number".to_owned(),
            "a string" | "path string" | "string or map" => "text in quotes".to_owned(),
            "a boolean" => "true or false".to_owned(),
            "a sequence" => A_LIST.to_owned(),
            other if other.starts_with("struct ") => A_TABLE.to_owned(),
            other if other.contains("internally tagged enum") => "a table with a `kind`".to_owned(),
            other => other.to_owned(),
        };
        let found = match found {
            Unexpected::Bool(b) => b.to_string(),
            Unexpected::Unsigned(n) => n.to_string(),
            Unexpected::Signed(n) => n.to_string(),
            Unexpected::Float(x) => x.to_string(),
            Unexpected::Str(s) => format!("the text \"{s}\""),
            Unexpected::Seq => A_LIST.to_owned(),
            Unexpected::Map => A_TABLE.to_owned(),
            other => other.to_string(),
        };
        Self::new(What::WrongType { found, expected, inside: false })
    }
}

const A_TABLE: &str = "a table";
const A_LIST: &str = "a list";

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let keys: Vec<&str> = self.keys.iter().rev().map(String::as_str).collect();
        let path = keys.join(".");
        match &self.what {
            What::UnknownKey { key, .. } if path == "train" && key == "half_base" => f.write_str(
                "`train.half_base` is now `model.weights`: remove it, and if it was true set `model.weights` = \"f16\"",
            ),
            What::UnknownKey { key, known } => {
                let near = nearest(key, known);
                let section: Vec<&str> = keys.into_iter().filter(|key| key.parse::<usize>().is_err()).collect();
                // The files of sweeps have other sections.
                let is_config = !path.is_empty() || known.contains(&"train");
                let others = match near {
                    None if is_config => elsewhere(&section.join("."), key),
                    _ => Vec::new(),
                };
                let is_section = path.is_empty() && others.is_empty();
                let quoted = |key: &str| match path.as_str() {
                    "" if is_section => format!("[{key}]"),
                    "" => format!("`{key}`"),
                    path => format!("`{path}.{key}`"),
                };
                write!(f, "unknown {} {}; ", if is_section { "section" } else { "key" }, quoted(key))?;
                match near {
                    Some(name) => write!(f, "did you mean {}?", quoted(name)),
                    None if !others.is_empty() => write!(f, "did you mean `{}`?", others.join("` or `")),
                    None if is_section => write!(f, "the sections are {}", known.join(", ")),
                    None => write!(f, "the keys of `{path}` are {}", known.join(", ")),
                }
            }
            What::UnknownName { name, known } => {
                let quoted: Vec<_> = known.iter().map(|k| format!("\"{k}\"")).collect();
                write!(f, "`{path}` must be {}, not \"{name}\"", quoted.join(" or "))?;
                match nearest(name, known).filter(|_| known.len() > 1) {
                    Some(name) => write!(f, "; did you mean \"{name}\"?"),
                    None => Ok(()),
                }
            }
            What::WrongType { found, expected, inside } => {
                let what = if *inside { "a value in " } else { "" };
                write!(f, "{what}`{path}` must be {expected}, not {found}")?;
                if expected == A_LIST && found == A_TABLE {
                    write!(f, "; write [[{path}]] for an entry of it")?;
                }
                Ok(())
            }
            What::MissingKey(key) => write!(f, "`{path}` needs the key `{key}`"),
            What::Other(message) => write!(f, "`{path}`: {message}"),
        }
    }
}

/// Length in bytes of the longest name that is compared with known ones.
const LONGEST_NAME: usize = 200;

/// The known name that a misspelt one most likely means.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase().replace('_', "-");
    let distance = |k: &str| strsim::damerau_levenshtein(&name, &k.replace('_', "-"));
    // No known name is that long, and the cost grows with the length.
    if name.len() > LONGEST_NAME {
        return None;
    }
    let best = known.iter().min_by_key(|k| distance(k))?;
    (distance(best) <= 1.max(name.chars().count() / 3)).then_some(best)
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(What::Other(message.to_string()))
    }

    fn invalid_type(found: Unexpected, expected: &dyn Expected) -> Self {
        Self::wrong_type(found, expected)
    }

    fn invalid_value(found: Unexpected, expected: &dyn Expected) -> Self {
        Self::wrong_type(found, expected)
    }

    fn unknown_field(key: &str, known: Names) -> Self {
        Self::new(What::UnknownKey { key: key.to_owned(), known })
    }

    fn unknown_variant(name: &str, known: Names) -> Self {
        Self::new(What::UnknownName { name: name.to_owned(), known })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(What::MissingKey(key))
    }
}

impl<'de> de::Deserializer<'de> for &Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Fault> {
        match &self.value {
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Integer(n) => visitor.visit_i64(*n),
            Value::Float(x) => visitor.visit_f64(*x),
            Value::Text(s) => visitor.visit_str(s),
            Value::Date(d) => Err(de::Error::invalid_type(Unexpected::Other(&format!("the date {d}")), &visitor)),
            Value::List(items) => visitor.visit_seq(Items(items.iter().enumerate())),
            Value::Table(entries) => visitor.visit_map(Entries { rest: entries.iter(), current: None }),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Fault> {
        match (&self.value, &self.written) {
            (Value::Text(_) | Value::List(_) | Value::Table(_), _) | (_, None) => self.deserialize_any(visitor),
            (_, Some(written)) => visitor.visit_str(written),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: Names,
        visitor: V,
    ) -> std::result::Result<V::Value, Fault> {
        match &self.value {
            Value::Text(s) => visitor.visit_enum(StrDeserializer::new(s)),
            _ => {
                let quoted: Vec<_> = known.iter().map(|k| format!("\"{k}\"")).collect();
                self.deserialize_any(Refuse(quoted.join(" or "))).map(|never| match never {})
            }
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _known: Names,
        visitor: V,
    ) -> std::result::Result<V::Value, Fault> {
        match &self.value {
            // Serde would also fill the fields of a list by position; here every key has a name.
            Value::List(_) => Err(de::Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier ignored_any
    }
}

/// Accepts no value: every type becomes an error that names what was expected.
struct Refuse(String);

impl<'de> Visitor<'de> for Refuse {
    type Value = std::convert::Infallible;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The items of a list, which put their index into the path of a fault.
struct Items<'a>(std::iter::Enumerate<std::slice::Iter<'a, Node>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> std::result::Result<Option<S::Value>, Fault> {
        let item = |(index, node): (usize, &Node)| {
            seed.deserialize(node).map_err(|fault| fault.under(index.to_string(), node))
        };
        self.0.next().map(item).transpose()
    }
}

/// The entries of a table.
struct Entries<'a> {
    rest: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> std::result::Result<Option<K::Value>, Fault> {
        self.current = self.rest.next();
        let key = |entry: &Entry| {
            let key = StrDeserializer::<Fault>::new(&entry.key);
            seed.deserialize(key).map_err(|fault| fault.at(entry.place))
        };
        self.current.map(key).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> std::result::Result<S::Value, Fault> {
        let entry = self.current.take();
        let entry = entry.ok_or_else(|| <Fault as de::Error>::custom("a value without a key"))?;
        seed.deserialize(&entry.node).map_err(|fault| fault.under(&entry.key, &entry.node))
    }
}
