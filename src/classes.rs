//! Matches the classes of two files: they are the same if their names are, in any order.

use unicode_normalization::UnicodeNormalization;

use crate::error::{Error, Result};

/// A name in Unicode's normal form C: `é` is one character, as keyboards make it. Some file systems store two.
pub fn normal_name(name: &str) -> String {
    name.nfc().collect()
}

/// What a model can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionKind {
    /// Classes.
    Class,
    /// Prompts.
    Prompt,
}

impl ConditionKind {
    /// One of them, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Class => "class",
            Self::Prompt => "prompt",
        }
    }

    /// How many there are, in words.
    pub fn counted(self, count: usize) -> String {
        match self {
            Self::Class => format!("the model has {count} classes"),
            Self::Prompt => format!("there are {count} prompts"),
        }
    }

    /// Several of them, in words.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Class => "classes",
            Self::Prompt => "prompts",
        }
    }
}

/// The classes of a model or data set, and its name for messages.
#[derive(Clone, Copy, Debug)]
pub struct Classes<'a> {
    /// For messages, such as the name of a file.
    pub of: &'a str,
    /// How many there are.
    pub count: usize,
    /// Their names; empty if there are none.
    pub names: &'a [String],
}

impl Classes<'_> {
    /// The index in `self` of each class of `others`, by name. Where either has no names, such as an imported model,
    /// classes are the same if their numbers are.
    ///
    /// # Errors
    /// [`Error::Input`] with both lists if `self` lacks a class of `others`.
    pub fn indices_of(self, others: Classes<'_>) -> Result<Vec<usize>> {
        if self.names.is_empty() || others.names.is_empty() {
            if self.count < others.count {
                return Err(Error::input(format!(
                    "{} has {} classes, but {} has {}: both must have the same classes",
                    self.of, self.count, others.of, others.count
                )));
            }
            if self.names.is_empty() != others.names.is_empty() {
                let (unnamed, named) = if self.names.is_empty() { (self.of, others.of) } else { (others.of, self.of) };
                log::warn!(
                    "the classes of {unnamed} have no names, so they are matched by number with those of {named}"
                );
            }
            return Ok((0..others.count).collect());
        }
        let index = |name: &String| self.names.iter().position(|ours| normal_name(ours) == normal_name(name));
        others.names.iter().map(index).collect::<Option<_>>().ok_or_else(|| {
            Error::input(format!(
                "the classes of {} do not fit those of {}: {} and {}; both must have the same names, in any order",
                self.of,
                others.of,
                listed(self.names),
                listed(others.names)
            ))
        })
    }

    /// Checks that `others` are the same classes in the same order.
    ///
    /// # Errors
    /// [`Error::Input`] with both lists if they are not.
    pub fn check_same(self, others: Classes<'_>) -> Result<()> {
        let indices = self.indices_of(others)?;
        if indices.len() == self.count && indices.iter().copied().eq(0..self.count) {
            return Ok(());
        }
        Err(Error::input(format!(
            "{} and {} must have the same classes in the same order, but they are {} and {}",
            self.of,
            others.of,
            listed(self.names),
            listed(others.names)
        )))
    }
}

/// Names for a message: the first ones if there are many.
fn listed(names: &[String]) -> String {
    const MOST: usize = 12;
    let shown: Vec<String> = names.iter().take(MOST).map(|name| format!("{name:?}")).collect();
    let more = if names.len() > MOST { format!(" and {} more", names.len() - MOST) } else { String::new() };
    format!("[{}{more}]", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn classes<'a>(of: &'a str, names: &'a [String], count: usize) -> Classes<'a> {
        Classes { of, count, names }
    }

    #[test]
    fn classes_are_matched_by_name() {
        let (ours, theirs) = (names(&["red", "blue", "green"]), names(&["blue", "red"]));
        let (ours, theirs) = (classes("a", &ours, 3), classes("b", &theirs, 2));
        assert_eq!(ours.indices_of(theirs).unwrap(), [1, 0]);
        let message = theirs.indices_of(ours).unwrap_err().to_string();
        assert!(message.contains("[\"blue\", \"red\"] and [\"red\", \"blue\", \"green\"]"), "{message}");
        assert!(ours.check_same(theirs).is_err() && ours.check_same(ours).is_ok());
    }

    #[test]
    fn without_names_classes_are_matched_by_number() {
        let named = names(&["red", "blue"]);
        assert_eq!(classes("a", &[], 3).indices_of(classes("b", &named, 2)).unwrap(), [0, 1]);
        assert!(classes("a", &[], 1).indices_of(classes("b", &named, 2)).is_err());
    }

    #[test]
    fn both_encodings_of_an_accent_are_the_same_name() {
        let (composed, decomposed) = (names(&["caf\u{e9}"]), names(&["cafe\u{301}"]));
        assert_ne!(composed, decomposed);
        assert!(classes("a", &composed, 1).check_same(classes("b", &decomposed, 1)).is_ok());
        assert_eq!(normal_name(&decomposed[0]), composed[0]);
    }

    #[test]
    fn long_lists_are_cut() {
        let many: Vec<String> = (0..1000).map(|class| class.to_string()).collect();
        assert!(listed(&many).ends_with("\"11\" and 988 more]"), "{}", listed(&many));
    }
}
