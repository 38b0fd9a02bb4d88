//! Finds the command lines of this program in documents.

/// The name of the program.
pub const PROGRAM: &str = "flowdppo-wgpu ";
const CARGO_RUN: &str = "cargo run --release -- ";

/// The arguments of every command line of this program in a text, from code blocks, comments and code spans.
pub fn command_lines(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        // Outside code spans, a complete line may be a command; the odd pieces between backquotes are spans.
        let pieces: Vec<&str> = line.split('`').collect();
        let spans = pieces.iter().skip(1).step_by(2).copied();
        let whole = (pieces.len() == 1).then(|| line.trim_start_matches(['#', '/', '!', ' ']));
        for candidate in spans.chain(whole) {
            let words = candidate.split(' ').skip_while(|word| word.contains('=') && !word.starts_with('-'));
            let command = words.collect::<Vec<_>>().join(" ");
            let arguments = command.strip_prefix(PROGRAM).or_else(|| command.strip_prefix(CARGO_RUN));
            found.extend(arguments.map(|arguments| words_of(arguments).to_owned()));
        }
    }
    found
}

/// Removes a trailing comment and a redirection into a file.
fn words_of(arguments: &str) -> &str {
    let end = ["  #", " > "].iter().filter_map(|mark| arguments.find(mark)).min().unwrap_or(arguments.len());
    arguments[..end].trim()
}

/// Splits arguments into words as a shell does. Characters that a shell would interpret must be quoted: zsh rejects a
/// pattern that matches no file.
pub fn shell_words(arguments: &str) -> Vec<String> {
    let mut quote = None;
    for letter in arguments.chars() {
        match (quote, letter) {
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            (None, _) => assert!(!"[]{}()*?~$&;|<>!\\".contains(letter), "`{letter}` is not quoted: {arguments}"),
            _ => {}
        }
    }
    shlex::split(arguments).unwrap_or_else(|| panic!("a quote is not closed: {arguments}"))
}
