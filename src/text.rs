//! Text for terminals and shells.

use std::borrow::Cow;
use std::path::Path;

/// Whether a character could make a terminal show something other than the text: control characters except line ends
/// and tabs, and marks that change the direction of text.
pub fn is_deceptive(letter: char) -> bool {
    let marks =
        matches!(letter, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    marks || (letter.is_control() && !matches!(letter, '\n' | '\t'))
}

/// Text for a terminal: deceptive characters are escaped as `\u001b`, which means the same in JSON.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_deceptive) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match is_deceptive(letter) {
            true => shown.push_str(&format!("\\u{:04x}", u32::from(letter))),
            false => shown.push(letter),
        }
    }
    Cow::Owned(shown)
}

/// A number with three significant digits.
pub fn significant(value: f64) -> String {
    let digits = if value == 0.0 { 0 } else { (2 - value.abs().log10().floor() as i32).clamp(0, 6) };
    let digits = if value.fract() == 0.0 { 0 } else { digits as usize };
    format!("{value:.digits$}")
}

/// A measured time in its unit.
pub fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        seconds if seconds < 1e-3 => (1e6 * seconds, "us"),
        seconds if seconds < 1.0 => (1e3 * seconds, "ms"),
        seconds => (seconds, "s"),
    };
    format!("{} {unit}", significant(value))
}

/// A path as an argument of a command that can be pasted into a shell.
pub fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c) || (cfg!(windows) && c == '\\');
    // A path that begins with a minus sign would be an option.
    let path = if path.starts_with('-') { format!("./{path}") } else { path };
    match !path.is_empty() && path.chars().all(is_plain) {
        true => path,
        // File names on Windows contain no double quotes, and its two shells treat other quotes differently.
        false if cfg!(windows) => format!("\"{path}\""),
        false => format!("'{}'", path.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_control_characters_are_escaped() {
        assert_eq!(printable("a\tb\nçé 漢"), "a\tb\nçé 漢");
        let hostile = "\u{1b}[2J\r\u{202e}gnp\u{2066}\u{9b}1m\u{200f}\0";
        assert_eq!(printable(hostile), r"\u001b[2J\u000d\u202egnp\u2066\u009b1m\u200f\u0000");
        // JSON keeps its meaning.
        let read: String = serde_json::from_str(&printable("\"a\u{202e}b\"")).unwrap();
        assert_eq!(read, "a\u{202e}b");
    }

    #[cfg(unix)]
    #[test]
    fn a_quoted_path_is_one_word_of_a_shell() {
        for path in ["runs/first", "d e", "it's", "-x", "$HOME/*", "", "a\\b", "çé"] {
            let words = shlex::split(&quoted(Path::new(path))).unwrap();
            assert!(words == [path] || words == [format!("./{path}")], "{path}: {words:?}");
        }
        assert_eq!(quoted(Path::new("runs/first")), "runs/first");
    }
}
