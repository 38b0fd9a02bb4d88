//! `doctor`: a report about a device that its owner can post.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Global, say};
use crate::config::Precision;
use crate::doctor::Report;
use crate::error::{Error, Result};
use crate::files;
use crate::run::Progress;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Write the report to NAME.json and NAME.md; without it, it is printed as Markdown
    #[arg(long, value_name = "NAME")]
    report: Option<PathBuf>,
    /// Less of everything, for a first look
    #[arg(long)]
    quick: bool,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let written = arguments.report.as_deref().map(names);
    let mut outputs = global.outputs();
    written.iter().flatten().try_for_each(|path| outputs.file(path))?;
    // With everything that the program may use.
    let (gpu, options) = global.open_with_options(Precision::F16, "")?;
    let mut progress = Progress::new("doctor", Report::SECTIONS, global.verbosity());
    let report = Report::new(gpu, &options, arguments.quick, &mut progress);
    let failed = report.failed();
    progress.finish(if failed.is_empty() { "everything passed" } else { "something failed" });
    match &written {
        Some([json, markdown]) => {
            files::write_atomically(json, report.to_json().as_bytes())?;
            files::write_atomically(markdown, report.to_markdown().as_bytes())?;
            global.announce(format_args!("the report is in {} and {}", json.display(), markdown.display()));
        }
        None => say(report.to_markdown().trim_end()),
    }
    match failed.len() {
        0 => Ok(()),
        count => Err(Error::failed(format!(
            "{count} of {} sections of the report failed: {}; it says why, so please post it",
            Report::SECTIONS,
            failed.join(", ")
        ))),
    }
}

/// The two files of a report, named with or without one of their endings.
fn names(report: &Path) -> [PathBuf; 2] {
    let is_ending = report.extension().is_some_and(|ending| ending == "json" || ending == "md");
    let stem = if is_ending { report.with_extension("") } else { report.to_owned() };
    ["json", "md"].map(|ending| {
        let mut name = stem.clone().into_os_string();
        name.push(format!(".{ending}"));
        name.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_have_the_same_stem() {
        for name in ["out/rtx-4090", "out/rtx-4090.json", "out/rtx-4090.md"] {
            assert_eq!(names(Path::new(name)), ["out/rtx-4090.json", "out/rtx-4090.md"].map(PathBuf::from));
        }
        // What comes after a point may be a part of the name.
        assert_eq!(names(Path::new("mesa-25.0"))[1], Path::new("mesa-25.0.md"));
    }
}
