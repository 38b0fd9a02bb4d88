//! Converts texts to tokens with the tokenizer folders of published models.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::utils::truncation::TruncationDirection;
use tokenizers::{AddedToken, PostProcessor};

use super::config::read_config;
use crate::error::{Error, Result};
use crate::files::read_file;

/// The number of tokens of CLIP's text models, start and end included.
pub const CLIP_TOKENS: usize = 77;

/// A tokenizer of a text encoder.
#[derive(Debug)]
pub struct Tokenizer {
    name: String,
    inner: tokenizers::Tokenizer,
    /// The token that pads short texts.
    pad: u32,
}

/// Texts as tokens, truncated or padded to one length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// `[texts, columns]`.
    pub ids: Vec<u32>,
    /// Tokens of each text before padding.
    pub lengths: Vec<usize>,
    /// The common length.
    pub columns: usize,
    /// The end of each text that did not fit and was cut off, for a warning.
    pub cut: Vec<Option<String>>,
}

impl Tokens {
    /// Tokens from another source, `[texts, columns]`, and the length of each text before padding.
    pub fn new(ids: Vec<u32>, lengths: Vec<usize>, columns: usize) -> Self {
        assert_eq!(ids.len(), lengths.len() * columns, "every text has {columns} tokens");
        let cut = vec![None; lengths.len()];
        Self { ids, lengths, columns, cut }
    }

    /// Number of texts.
    pub fn texts(&self) -> usize {
        self.lengths.len()
    }

    /// `[texts, columns]`: 1 for tokens of the text, 0 for padding.
    pub fn mask(&self) -> Vec<u32> {
        self.lengths
            .iter()
            .flat_map(|length| (0..self.columns).map(move |column| u32::from(column < *length)))
            .collect()
    }

    /// Checks that every token is below `vocab_size`; messages call the model `name`.
    pub(super) fn check(&self, name: &str, vocab_size: usize) -> Result<()> {
        match self.ids.iter().find(|id| **id as usize >= vocab_size) {
            Some(id) => Err(Error::input(format!(
                "{name} knows {vocab_size} tokens, but its tokenizer returned token {id}: they are of different models"
            ))),
            None => Ok(()),
        }
    }
}

impl Tokenizer {
    /// Opens a folder with `tokenizer.json`, or with CLIP's `vocab.json` and `merges.txt`. Special tokens are those of
    /// `special_tokens_map.json` and `tokenizer_config.json`: the second tokenizer of SD3 pads with `!`, so that it is
    /// a separate token anywhere in a text.
    ///
    /// # Errors
    /// [`Error::Input`] if the folder has neither, or a file is damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let name = folder.display().to_string();
        let special = special_tokens(folder)?;
        let description = folder.join("tokenizer.json");
        let bytes = if description.is_file() { read_file(&description)? } else { clip_description(folder)? };
        let broken = |cause: tokenizers::Error| {
            let cause = cause.to_string().replace(". ", ", ");
            Error::input(format!("{name} is not a supported tokenizer: {cause}: download it again"))
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(broken)?;
        inner.with_truncation(None).map_err(broken)?;
        inner.with_padding(None);
        let known = special.values().filter(|token| inner.token_to_id(token).is_some());
        let known: Vec<AddedToken> = known.map(|token| AddedToken::from(token.as_str(), true)).collect();
        inner.add_special_tokens(known).map_err(broken)?;
        let usual = ["<pad>", "<|endoftext|>"].map(str::to_owned);
        let mut fillers = special.get("pad_token").into_iter().chain(&usual);
        let Some(pad) = fillers.find_map(|token| inner.token_to_id(token)) else {
            return Err(Error::input(format!(
                "{name} has no token to pad short texts: its tokenizer_config.json needs a `pad_token` that the \
                 vocabulary has"
            )));
        };
        Ok(Self { name, inner, pad })
    }

    /// The files in a folder that a tokenizer may be made of.
    pub fn files(folder: &Path) -> Vec<PathBuf> {
        let names = ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];
        names.map(|name| folder.join(name)).into_iter().filter(|path| path.is_file()).collect()
    }

    /// Tokens of texts, with the special tokens around them, truncated or padded to `columns`.
    ///
    /// # Errors
    /// [`Error::Input`] if a text cannot be encoded, or `columns` leaves no room besides the special tokens.
    pub fn encode<T: AsRef<str>>(&self, texts: &[T], columns: usize) -> Result<Tokens> {
        let broken = |cause: tokenizers::Error| Error::input(format!("{} cannot encode a text: {cause}", self.name));
        let special = self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        if columns <= special {
            return Err(Error::input(format!(
                "{}: texts of {columns} tokens have no room for words, because {special} of them are special: use more",
                self.name
            )));
        }
        let mut tokens = Tokens::new(Vec::new(), Vec::new(), columns);
        for text in texts {
            let text = text.as_ref();
            let mut encoding = self.inner.encode(text, false).map_err(broken)?;
            let room = columns - special;
            let cut =
                encoding.get_offsets().get(room).map(|(start, _)| text.get(*start..).unwrap_or_default().to_owned());
            encoding.truncate(room, 0, TruncationDirection::Right);
            encoding.take_overflowing();
            let encoding = self.inner.post_process(encoding, None, true).map_err(broken)?;
            let ids = encoding.get_ids();
            tokens.ids.extend_from_slice(ids);
            tokens.ids.resize((tokens.lengths.len() + 1) * columns, self.pad);
            tokens.lengths.push(ids.len());
            tokens.cut.push(cut);
        }
        Ok(tokens)
    }
}

/// The special tokens of a folder by their role (`pad_token`).
fn special_tokens(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    // The map overrides the configuration.
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        let path = folder.join(file);
        if !path.is_file() {
            continue;
        }
        let keys: BTreeMap<String, Value> = read_config(&path)?;
        for role in ["bos_token", "eos_token", "unk_token", "pad_token"] {
            // Older files describe the token in more detail.
            let value = keys.get(role).map(|value| value.get("content").unwrap_or(value));
            if let Some(token) = value.and_then(Value::as_str) {
                found.insert(role.to_owned(), token.to_owned());
            }
        }
    }
    Ok(found)
}

/// CLIP's tokenizer as a `tokenizer.json`, which its folders do not have.
fn clip_description(folder: &Path) -> Result<Vec<u8>> {
    const START: &str = "<|startoftext|>";
    const END: &str = "<|endoftext|>";
    /// Special tokens, contractions, words, single digits, and runs of everything else.
    const PATTERN: &str =
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let [vocabulary, merges] = ["vocab.json", "merges.txt"].map(|file| folder.join(file));
    if !vocabulary.is_file() || !merges.is_file() {
        let hint = if folder.join("spiece.model").is_file() {
            ": its spiece.model is not read, so download tokenizer.json, which belongs to the same model"
        } else {
            ": download it again"
        };
        return Err(Error::input(format!(
            "{} has neither tokenizer.json nor both vocab.json and merges.txt{hint}",
            folder.display()
        )));
    }
    let ids: BTreeMap<String, u32> = read_config(&vocabulary)?;
    let text = String::from_utf8(read_file(&merges)?)
        .map_err(|cause| Error::input(format!("{} is not text: {cause}: download it again", merges.display())))?;
    let pairs: Vec<&str> =
        text.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty()).collect();
    let id = |token: &str| match ids.get(token) {
        Some(id) => Ok(*id),
        None => Err(Error::input(format!(
            "{} lacks the token `{token}`, so it is not the vocabulary of CLIP: download it again",
            vocabulary.display()
        ))),
    };
    let added = |token: &str| -> Result<Value> {
        Ok(json!({"id": id(token)?, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}))
    };
    let description = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [added(START)?, added(END)?],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": {"type": "RobertaProcessing", "sep": [END, id(END)?], "cls": [START, id(START)?],
            "trim_offsets": false, "add_prefix_space": false},
        "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": END, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "vocab": ids, "merges": pairs},
    });
    Ok(description.to_string().into_bytes())
}
