//! Finds the command lines of this program in documents.

/// How the program is called.
pub const PROGRAM: &str = "flowdppo-wgpu ";
const CARGO_RUN: &str = "cargo run --release -- ";

/// The arguments of every command line of this program in a text: lines of blocks and comments, and spans of code.
pub fn command_lines(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        // Outside of code spans a line may be a command as a whole; the odd pieces between backquotes are spans.
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

/// Without a comment behind it, and without the file that a shell writes it into.
fn words_of(arguments: &str) -> &str {
    let end = ["  #", " > "].iter().filter_map(|mark| arguments.find(mark)).min().unwrap_or(arguments.len());
    arguments[..end].trim()
}

/// The words that a shell makes of arguments. What it would take for a pattern or more must stand in quotes: zsh refuses
/// a pattern that matches no file.
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
