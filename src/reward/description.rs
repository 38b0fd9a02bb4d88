//! What a program or a service is told about each class or prompt: what it should show in words, and further metadata.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value};

use crate::classes::{ConditionKind, normal_name};
use crate::config::{self, RewardKind, nearest};
use crate::error::{Error, Result};
use crate::files;
use crate::model::{Pictures, Prompt};

/// What a metadata file should be.
const EXPECTED: &str =
    "it should be a JSON list with an object for each class, or an object with one for each class name";

/// Keys that every request already has.
const RESERVED: [&str; 6] = ["image", "path", "label", "iteration", "purpose", "sample"];

/// The description of a class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// What its pictures should show, in words.
    pub prompt: String,
    /// Further metadata.
    pub metadata: Map<String, Value>,
}

impl Description {
    /// The description of each class, from `prompt` and `metadata` of the reward; a `prompt` in the metadata of a class
    /// takes precedence. If the model has prompts, those take the place of classes, and for a program or a service the
    /// fields of a prompt's line are metadata, too; the reward's own `metadata` takes precedence.
    ///
    /// # Errors
    /// [`Error::Input`] if the file of `metadata` is bad, or does not fit the classes, or a prompt has a field that each
    /// request has of its own.
    pub fn of_classes(reward: &config::Reward, pictures: &Pictures<'_>) -> Result<Vec<Self>> {
        let classes = &pictures.classes;
        let name = |class: usize| classes.names.get(class).cloned().unwrap_or_else(|| class.to_string());
        let names: Vec<String> = (0..classes.count).map(name).collect();
        let kind = if pictures.prompts.is_empty() { ConditionKind::Class } else { ConditionKind::Prompt };
        let metadata = match &*reward.metadata {
            "" => vec![Map::new(); classes.count],
            file => read(file, &names, kind).map_err(|cause| Error::unreadable(Path::new(file), cause))?,
        };
        let description = |(mut metadata, name): (Map<String, Value>, &String)| match metadata.remove("prompt") {
            Some(Value::String(prompt)) => Ok(Self { prompt, metadata }),
            None => Ok(Self { prompt: reward.prompt.replace("{class}", name), metadata }),
            Some(other) => {
                let cause = format!("the `prompt` of the {} {name:?} must be text, not {other}", kind.name());
                Err(Error::unreadable(Path::new(&reward.metadata), cause))
            }
        };
        let mut found = metadata.into_iter().zip(&names).map(description).collect::<Result<Vec<Self>>>()?;
        if matches!(reward.kind, RewardKind::Command | RewardKind::Http) {
            for ((description, prompt), number) in found.iter_mut().zip(pictures.prompts).zip(1..) {
                description.extend(prompt, number, reward.kind)?;
            }
        }
        Ok(found)
    }

    /// Adds the fields of prompt `number`, from 1, that it does not have.
    fn extend(&mut self, prompt: &Prompt, number: usize, kind: RewardKind) -> Result<()> {
        if let Some(key) = RESERVED.into_iter().find(|key| prompt.fields.contains_key(*key)) {
            return Err(Error::input(format!(
                "prompt {number} of `prompts.file` has a field `{key}`, which each request to the reward `{}` has of its \
                 own: rename the field",
                kind.name()
            )));
        }
        for (key, value) in &prompt.fields {
            self.metadata.entry(key).or_insert_with(|| value.clone());
        }
        Ok(())
    }
}

/// The object of each class or prompt in a file.
fn read(file: &str, names: &[String], kind: ConditionKind) -> Result<Vec<Map<String, Value>>, String> {
    let bytes = files::read_ordinary(file.as_ref()).map_err(|cause| cause.to_string())?;
    let entries = match serde_json::from_str(files::text(&bytes)?).map_err(|cause| format!("{cause}; {EXPECTED}"))? {
        Value::Array(entries) if entries.len() != names.len() => {
            return Err(format!("its list has {} entries, but {}", entries.len(), kind.counted(names.len())));
        }
        Value::Array(entries) => entries,
        Value::Object(entries) => {
            let entries: Map<String, Value> =
                entries.into_iter().map(|(key, value)| (normal_name(&key), value)).collect();
            // There may be as many as there are prompts.
            let names: Vec<String> = names.iter().map(|name| normal_name(name)).collect();
            let all: HashSet<&String> = names.iter().collect();
            if let Some(unknown) = entries.keys().find(|key| !all.contains(key)) {
                let known: Vec<&str> = names.iter().map(String::as_str).collect();
                let hint = nearest(unknown, &known).map_or(String::new(), |name| format!("; did you mean {name:?}?"));
                return Err(format!("it has {unknown:?}, but there is no such {}{hint}", kind.name()));
            }
            let missing = |name: &String| format!("it is missing the {} {name:?}", kind.name());
            let entry = |name| entries.get(name).cloned().ok_or_else(|| missing(name));
            names.iter().map(entry).collect::<Result<_, _>>()?
        }
        _ => return Err(EXPECTED.into()),
    };
    let object = |(entry, name): (Value, &String)| match entry {
        Value::Object(entry) => match RESERVED.into_iter().find(|key| entry.contains_key(*key)) {
            Some(key) => Err(format!(
                "`{key}` of the {} {name:?} must be removed, because each request has its own",
                kind.name()
            )),
            None => Ok(entry),
        },
        other => Err(format!("the {} {name:?} must have an object, not {other}", kind.name())),
    };
    entries.into_iter().zip(names).map(object).collect()
}
