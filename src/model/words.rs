//! Prompts as words, for small models that learn what words mean themselves.
//!
//! A row of a prompt is a word and its place, both one-hot, side by side: the transformer's embedding of the context is
//! then a table of word vectors and one of positions. The pooled embedding is the mean of the rows. Rows after the last
//! word are zeros, and so is the empty prompt.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::condition::Prompt;
use super::prompt_table::{PromptEmbeddings, PromptTable};
use crate::error::{Error, Result};
use crate::files::read_text;

/// The words that a model knows, in the folder of its tokenizer: one a line.
pub const VOCABULARY: &str = "vocab.txt";

/// Words and their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordPrompts {
    /// Where they are from, in messages.
    name: String,
    words: BTreeMap<String, usize>,
    /// Rows of each prompt.
    tokens: usize,
}

impl WordPrompts {
    /// Words for prompts of so many rows, from `name` in messages.
    ///
    /// # Errors
    /// [`Error::Input`] if there are none, or one is repeated or has a space.
    pub fn new(name: &str, words: &[&str], tokens: usize) -> Result<Self> {
        let mut numbers = BTreeMap::new();
        for (number, word) in words.iter().enumerate() {
            let is_one = !word.is_empty() && !word.contains(char::is_whitespace);
            if !is_one || numbers.insert((*word).to_owned(), number).is_some() {
                return Err(Error::input(format!("{name}: line {}: {word:?} is not a new word", number + 1)));
            }
        }
        match numbers.is_empty() {
            true => Err(Error::input(format!("{name} has no words: expected one a line"))),
            false => Ok(Self { name: name.to_owned(), words: numbers, tokens }),
        }
    }

    /// The words in the folder of a tokenizer, for a transformer that takes rows of this width.
    ///
    /// # Errors
    /// [`Error::Input`] if there are none, or no room for positions beside them.
    pub fn open(folder: &Path, width: usize) -> Result<Self> {
        let file = Self::file(folder);
        Self::of_text(&file.display().to_string(), &read_text(&file)?, width)
    }

    /// The words of such a file, which messages call `name`, for a transformer that takes rows of this width.
    ///
    /// # Errors
    /// As [`WordPrompts::open`].
    pub fn of_text(name: &str, text: &str, width: usize) -> Result<Self> {
        let words: Vec<&str> = text.lines().collect();
        match width.checked_sub(words.len()).filter(|tokens| *tokens > 0) {
            Some(tokens) => Self::new(name, &words, tokens),
            None => Err(Error::input(format!(
                "{name} has {} words, but the transformer takes rows of {width} numbers, one for each word and each \
                 place in a prompt: they are of different models",
                words.len()
            ))),
        }
    }

    /// The file with the words.
    pub(super) fn file(folder: &Path) -> PathBuf {
        folder.join(VOCABULARY)
    }

    /// Numbers of a row, and of the pooled embedding.
    pub fn width(&self) -> usize {
        self.words.len() + self.tokens
    }

    /// Appends the rows of a prompt, and their mean.
    fn push(&self, prompt: &str, rows: &mut Vec<f32>, pooled: &mut Vec<f32>) -> Result<()> {
        let words: Vec<&str> = prompt.split_whitespace().collect();
        if words.len() > self.tokens {
            return Err(Error::input(format!(
                "the prompt {prompt:?} has {} words, but this model takes {}: shorten it",
                words.len(),
                self.tokens
            )));
        }
        let (first, mean) = (rows.len(), pooled.len());
        rows.resize(first + self.tokens * self.width(), 0.0);
        pooled.resize(mean + self.width(), 0.0);
        for (place, word) in words.iter().enumerate() {
            let Some(number) = self.words.get(*word) else {
                let known = self.words.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(Error::input(format!(
                    "the prompt {prompt:?} has the word \"{word}\", which {} does not have: this model knows {known}",
                    self.name
                )));
            };
            for column in [*number, self.words.len() + place] {
                rows[first + place * self.width() + column] = 1.0;
                pooled[mean + column] += 1.0 / words.len() as f32;
            }
        }
        Ok(())
    }

    /// What a transformer is told of prompts.
    ///
    /// # Errors
    /// [`Error::Input`] if one has a word that is not known, or too many words.
    pub fn embeddings(&self, prompts: &[&str]) -> Result<PromptEmbeddings> {
        let (mut embeddings, mut pooled) = (Vec::new(), Vec::new());
        prompts.iter().try_for_each(|prompt| self.push(prompt, &mut embeddings, &mut pooled))?;
        let (prompts, tokens, width) = (prompts.len(), self.tokens, self.width());
        Ok(PromptEmbeddings { prompts, tokens, width, embeddings, pooled, pooled_width: width })
    }

    /// Prompts with what a transformer is told of them; the negative prompt is the empty one.
    ///
    /// # Errors
    /// As [`WordPrompts::embeddings`].
    pub fn table(&self, prompts: Vec<Prompt>) -> Result<PromptTable> {
        let all: Vec<&str> = [""].into_iter().chain(prompts.iter().map(|prompt| prompt.text.as_str())).collect();
        let embeddings = self.embeddings(&all)?;
        Ok(PromptTable { prompts, embeddings })
    }

    /// Rows of each prompt.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_places_are_one_hot() {
        let words = WordPrompts::new("vocab.txt", &["a", "disc", "red"], 4).unwrap();
        let found = words.embeddings(&["a red disc", "", "disc"]).unwrap();
        assert_eq!([found.prompts, found.tokens, found.width, found.pooled_width], [3, 4, 7, 7]);
        let rows: Vec<&[f32]> = found.embeddings.chunks(7).collect();
        assert_eq!(rows[0], [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(rows[1], [0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(rows[2], [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        assert!(rows[3..8].iter().all(|row| row.iter().all(|value| *value == 0.0)), "rows after the last word");
        assert_eq!(rows[8], [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        let third = 1.0 / 3.0;
        assert_eq!(found.pooled[..7], [third, third, third, third, third, third, 0.0]);
        assert_eq!(found.pooled[7..14], [0.0; 7]);
    }

    #[test]
    fn prompts_that_a_model_cannot_be_told_are_refused() {
        let words = WordPrompts::new("vocab.txt", &["a", "disc", "red"], 3).unwrap();
        let refused = |prompt: &str| words.embeddings(&["a", prompt]).unwrap_err().to_string();
        assert!(
            refused("a blue disc").contains("\"blue\", which vocab.txt does not have: this model knows a, disc, red")
        );
        assert!(refused("a red red disc").contains("has 4 words, but this model takes 3"));
    }

    #[test]
    fn files_that_are_no_vocabulary_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = |text: &str| {
            std::fs::write(folder.path().join(VOCABULARY), text).unwrap();
            WordPrompts::open(folder.path(), 5)
        };
        assert_eq!(open("a\nb\n").unwrap().tokens(), 3);
        for (text, reason) in [
            ("", "has no words"),
            ("a\nb\na\n", "line 3: \"a\" is not a new word"),
            ("a b\n", "line 1: \"a b\" is not a new word"),
            ("a\nb\nc\nd\ne\n", "has 5 words, but the transformer takes rows of 5 numbers"),
        ] {
            let message = open(text).unwrap_err().to_string();
            assert!(message.contains(reason), "{message}\nlacks: {reason}");
        }
    }
}
