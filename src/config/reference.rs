//! The schema as readable text: the reference of all keys, and configurations with a comment for each key.

use toml::Value;

use super::schema::{Choice, Key, Section, sections};
use super::{Command, Config};

/// Columns of a comment.
const WIDTH: usize = 100;

/// The reference of every section and key, as Markdown: the content of docs/configuration.md.
pub fn reference() -> String {
    let defaults = super::foreign::defaults();
    let mut text = String::new();
    for section in sections() {
        let (header, commands) = (section.header(), section.commands.join(", "));
        text += &format!("## `{header}` ({commands})\n\n{}\n\n", section.text.join("\n\n"));
        text += "| key | default | range | meaning |\n|---|---|---|---|\n";
        let tables = section.tables(defaults);
        let default = |key: &Key| tables.first().and_then(|(_, table)| table.get(key.name));
        for key in &section.keys {
            let default = default(key).map_or("–".to_owned(), |value| format!("`{}`", toml_of(value)));
            let (path, meaning) = (&section.path, key.text().join(" "));
            let row = [format!("`{path}.{}`", key.name), default, key.range(), meaning];
            text += &format!("| {} |\n", row.map(|cell| cell.replace('|', "\\|")).join(" | "));
        }
        for key in &section.keys {
            text += &choices_as_markdown(&section.path, key);
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

fn choices_as_markdown(section: &str, key: &Key) -> String {
    let choices: Vec<Choice> = key.choices().into_iter().filter(|choice| !choice.text.is_empty()).collect();
    if choices.is_empty() {
        return String::new();
    }
    let mut text = format!("\n**`{section}.{}`**: {}\n\n", key.name, key.text_of_type().join("\n\n"));
    for choice in &choices {
        text += &format!("- `{}`: {}\n", choice.name, choice.text);
        for key in &choice.keys {
            let default = match key.schema["default"].is_null() {
                true => String::new(),
                false => format!(" ({})", key.schema["default"]),
            };
            text += &format!("  - `{}`{default}: {}\n", key.name, key.text().join(" "));
        }
    }
    text
}

/// How [`Config::as_document`] writes a configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style<'a> {
    /// Whether each section and key is explained, and keys that are not set are shown as comments.
    pub comments: bool,
    /// Only sections that this command reads.
    pub command: Option<Command>,
    /// Only what differs from this configuration.
    pub base: Option<&'a Config>,
}

impl Config {
    /// The configuration as TOML in the order of the reference. If nothing is left out for the command,
    /// [`Config::parse`] reads the same configuration back.
    pub fn as_document(&self, style: Style) -> String {
        let config = self.to_table();
        let base = style.base.map(Config::to_table);
        let mut text = String::new();
        if self.reward.is_empty() && base.as_ref().is_none_or(|base| base.get("reward") != config.get("reward")) {
            text += "reward = []\n\n";
        }
        for section in sections() {
            if style.command.is_some_and(|command| !section.commands.contains(&command.name())) {
                continue;
            }
            // Lists and models are written completely: a section that is present has no defaults for its other keys.
            let is_whole = section.is_list || section.path == "model";
            let before = base.as_ref().map(|base| section.tables(base));
            let tables = section.tables(&config);
            if before.as_ref() == Some(&tables) {
                continue;
            }
            for (index, (_, table)) in tables.iter().enumerate() {
                let before = before.as_ref().filter(|_| !is_whole).and_then(|tables| tables.first());
                let defaults = section.tables(super::foreign::defaults());
                let mut lines = Vec::new();
                for key in &section.keys {
                    let value = table.get(key.name);
                    if before.is_some_and(|(_, before)| before.get(key.name) == value) {
                        continue;
                    }
                    if style.comments && index == 0 {
                        lines.extend(comments(key));
                    }
                    match value {
                        Some(value) => lines.push(format!("{} = {}", key.name, toml_of(value))),
                        None if style.comments && index == 0 => {
                            // A key of another kind or objective.
                            let default = defaults.first().and_then(|(_, table)| table.get(key.name)).map(toml_of);
                            lines.push(
                                format!("# {} = {}", key.name, default.unwrap_or_default()).trim_end().to_owned(),
                            );
                        }
                        None => {}
                    }
                }
                if before.is_some() && lines.is_empty() {
                    continue;
                }
                if style.comments && index == 0 {
                    text += &format!("{}\n", "#".repeat(WIDTH));
                    section.text.iter().for_each(|text_of| text += &wrapped(text_of, "# ", "# "));
                    text += &format!("# Read by {}.\n", section.commands.join(", "));
                }
                text += &format!("{}\n{}\n\n", section.header(), lines.join("\n"));
            }
        }
        text.truncate(text.trim_end().len());
        text + "\n"
    }
}

fn comments(key: &Key) -> Vec<String> {
    let choices = key.choices();
    let mut text = key.text().join(" ");
    let range = key.range();
    let says_nothing =
        range.is_empty() || range.starts_with("a ") || ["text", "`true`, `false`"].contains(&range.as_str());
    if choices.is_empty() && !says_nothing {
        text += &format!(" ({})", range.replace('`', ""));
    }
    let mut lines = wrapped(&text, "# ", "# ");
    for choice in choices {
        lines += &wrapped(&format!("\"{}\": {}", choice.name, choice.text), "#   - ", "#     ");
        for key in &choice.keys {
            lines += &wrapped(&format!("{}: {}", key.name, key.text().join(" ")), "#       ", "#       ");
        }
    }
    // A blank line before each key keeps comment and key together.
    std::iter::once(String::new()).chain(lines.lines().map(str::to_owned)).collect()
}

/// Lines of at most [`WIDTH`] columns: the first after `first`, the others after `next`.
fn wrapped(text: &str, first: &str, next: &str) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in text.split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &format!("{line}\n");
            next.clone_into(&mut line);
        } else if !is_empty {
            line.push(' ');
        }
        line += word;
        is_empty = false;
    }
    lines + &format!("{}\n", line.trim_end())
}

impl Section {
    fn header(&self) -> String {
        if self.is_list { format!("[[{}]]", self.path) } else { format!("[{}]", self.path) }
    }
}

/// A value on one line, a table's `kind` first.
pub(super) fn toml_of(value: &Value) -> String {
    match value {
        // Shorter than TOML's own writer: 1e-8.
        Value::Float(value) => format!("{value:?}").replace("NaN", "nan"),
        Value::Array(items) => format!("[{}]", items.iter().map(toml_of).collect::<Vec<_>>().join(", ")),
        Value::Table(table) => {
            let mut entries: Vec<_> = table.iter().collect();
            entries.sort_by_key(|(key, _)| *key != "kind");
            let is_bare = |key: &str| key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
            let name = |key: &String| if is_bare(key) { key.clone() } else { Value::from(key.as_str()).to_string() };
            let entries: Vec<String> =
                entries.into_iter().map(|(key, value)| format!("{} = {}", name(key), toml_of(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        scalar => scalar.to_string(),
    }
}
