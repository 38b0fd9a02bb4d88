//! Files of prompts, and what is said of prompts that are too long.

use std::path::Path;

use serde_json::{Map, Value};

use crate::config::builtin_prompts;
use crate::error::{Error, Result};
use crate::files::{read_file, text};
use crate::model::Prompt;
use crate::model::text::CutPrompt;
use crate::shapes::listed;

impl Prompt {
    /// The line of a file in JSON lines.
    pub(super) fn to_line(&self) -> String {
        let mut fields = self.fields.clone();
        fields.insert("prompt".to_owned(), self.text.clone().into());
        Value::Object(fields).to_string()
    }

    pub(super) fn of_json(line: &str) -> Result<Self, String> {
        let mut fields: Map<String, Value> =
            serde_json::from_str(line).map_err(|cause| format!("is not an object in JSON ({cause})"))?;
        match fields.remove("prompt") {
            Some(Value::String(text)) => Ok(Self { text, fields }),
            Some(other) => Err(format!("has `prompt` = {other}, which is not text")),
            None => Err("has no `prompt`".to_owned()),
        }
    }
}

/// Reads a file of prompts in UTF-8: one a line, or JSON lines with a `prompt` in each. Empty lines are skipped. A file
/// whose first line begins with `{` is of JSON lines, unless its name ends in `.txt`. `builtin:NAME` is a built-in list.
///
/// # Errors
/// [`Error::Input`] if it cannot be read, is in another encoding, has a line that is no prompt, or has no prompts.
pub fn read_prompts(path: &Path) -> Result<Vec<Prompt>> {
    if let Some(splits) = builtin_prompts(path)? {
        return Ok(splits.iter().flat_map(|split| listed(*split)).map(Prompt::from).collect());
    }
    let bytes = read_file(path)?;
    let name = path.display();
    let text = text(&bytes).map_err(|cause| Error::unreadable(path, cause))?;
    let is_plain = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("txt"));
    let lines = || text.lines().map(str::trim).zip(1..).filter(|(line, _)| !line.is_empty());
    let is_json = !is_plain && lines().next().is_some_and(|(line, _)| line.starts_with('{'));
    let prompts = lines().map(|(line, number)| match is_json {
        true => Prompt::of_json(line).map_err(|cause| {
            Error::input(format!(
                "{name}: line {number} {cause}: every line must be like the first, an object with a `prompt`"
            ))
        }),
        false => Ok(Prompt::from(line)),
    });
    let prompts: Vec<Prompt> = prompts.collect::<Result<_>>()?;
    match prompts.is_empty() {
        true => Err(Error::input(format!("{name} has no prompts: write one a line"))),
        false => Ok(prompts),
    }
}

/// Prompts whose embeddings are kept in memory, 5.5 MB each for SD3.5.
pub(super) const MOST_ENCODED: usize = 256;

/// Checks that so many prompts can be encoded in memory; `source` is what names them, and takes a file of embeddings.
///
/// # Errors
/// [`Error::Input`] if there are too many.
pub fn check_count(count: usize, source: &str) -> Result<()> {
    if count <= MOST_ENCODED {
        return Ok(());
    }
    Err(Error::input(format!(
        "{count} prompts are too many to be encoded in memory, {MOST_ENCODED} are the most: write them to a file with \
         `flowdppo-wgpu encode`, and give it as {source}"
    )))
}

/// Prompts that a list of warnings names.
const MOST_WARNINGS: usize = 10;

/// What to tell a user of prompts that were cut. Place 0 is that of the negative prompt, and prompts follow.
pub fn cut_warnings(cut: &[CutPrompt]) -> Vec<String> {
    let mut warnings: Vec<String> = (cut.iter().take(MOST_WARNINGS))
        .map(|CutPrompt { prompt, encoder, lost }| {
            let which = if *prompt == 0 { "the negative prompt".to_owned() } else { format!("prompt {prompt}") };
            format!("{which} is too long for {encoder}, which does not see its end: \"{lost}\"")
        })
        .collect();
    if cut.len() > MOST_WARNINGS {
        warnings.push(format!("{} more prompts are too long for an encoder", cut.len() - MOST_WARNINGS));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, bytes: &[u8]) -> Result<Vec<Prompt>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        read_prompts(&path)
    }

    #[test]
    fn lines_and_json_lines_are_read() {
        let plain = read("p.txt", "\u{feff}a fox\r\n\n  größer \n{x\n".as_bytes()).unwrap();
        assert_eq!(plain, ["a fox", "größer", "{x"].map(Prompt::from));
        let lines = read("p.jsonl", b"\n{\"tag\": 3, \"prompt\": \" a fox\"}\n\n{\"prompt\": \"\"}\n").unwrap();
        assert_eq!(lines[0].text, " a fox");
        assert_eq!(lines[0].fields["tag"], 3);
        assert_eq!(lines[1], Prompt::default());
        assert_eq!(lines[0].to_line(), r#"{"prompt":" a fox","tag":3}"#);
    }

    #[test]
    fn what_is_no_file_of_prompts_says_so() {
        for (name, bytes, reason) in [
            ("p.txt", &b"\xff\xfea\0"[..], "it is text in UTF-16: save it as UTF-8"),
            ("p.txt", b"a\nf\xf6x\n", "line 2 is not UTF-8"),
            ("p.txt", b" \n\r\n", "has no prompts"),
            ("p.jsonl", b"{\"prompt\": \"a\"}\na fox\n", "line 2 is not an object in JSON"),
            ("p.jsonl", b"{\"caption\": \"a\"}\n", "line 1 has no `prompt`"),
            ("p.jsonl", b"{\"prompt\": [1]}\n", "line 1 has `prompt` = [1], which is not text"),
        ] {
            let message = read(name, bytes).unwrap_err().to_string();
            assert!(message.contains(reason) && message.contains(name), "{message}\nlacks: {reason}");
        }
    }

    #[test]
    fn warnings_end() {
        let cut = |prompt| CutPrompt { prompt, encoder: "T5".into(), lost: "end".into() };
        let warnings = cut_warnings(&(0..12).map(cut).collect::<Vec<_>>());
        assert_eq!(warnings.len(), 11);
        assert!(warnings[0].starts_with("the negative prompt") && warnings[1].starts_with("prompt 1 is too long"));
        assert_eq!(warnings[10], "2 more prompts are too long for an encoder");
    }
}
