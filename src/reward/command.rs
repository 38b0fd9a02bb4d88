//! A program as a reward: it keeps running, reads one JSON request per line and answers each with a line of JSON.
//!
//! The protocol is described in docs/rewards.md.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::TempDir;

use super::outside::{About, Failure, Limits, Outside, Sample, Scorer, Subject};
use super::outside::{check_subject, excerpt, finite, listed, quoted, why_no_json, with_words};
use super::process::{LONGEST_LINE, NoAnswer, Process};
use crate::config::ImageForm;
use crate::error::{Error, Result};
use crate::files::without_mark;

/// Version of the protocol.
const PROTOCOL: u32 = 1;

/// A program as a reward: starts `limits.workers` processes and asks each what it measures.
///
/// `argv` is the program and its arguments, without a shell. `name` is the component of a program that names none.
///
/// # Errors
/// [`Error::Input`] if the program does not start or does not answer, or the model does not make pictures.
pub fn command(
    name: &str,
    argv: &[String],
    image: ImageForm,
    limits: Limits,
    subject: &Subject<'_>,
) -> Result<Outside<Program>> {
    check_subject("command", subject)?;
    let hello = Hello { protocol: PROTOCOL, reward: name, image, subject: *subject };
    let launch = Arc::new(Launch {
        argv: argv.to_vec(),
        image,
        limits,
        hello: serde_json::to_value(hello).expect("plain data has a JSON form"),
    });
    let start = || launch.start();
    let started = thread::scope(|scope| {
        let threads: Vec<_> = (0..limits.workers).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().expect("starting does not panic")).collect::<Result<Vec<_>, _>>()
    });
    let started = started.map_err(|failure| Error::input(failure.message()))?;
    let named = started[0].1.clone();
    if let Some((_, other)) = started.iter().find(|(_, other)| *other != named) {
        let (program, [one, other]) = (launch.name(), [&named, other].map(|names| listed(names)));
        return Err(Error::input(format!(
            "{program} names different components in different processes: {one}; {other}"
        )));
    }
    let program = |(running, components)| Program { launch: Arc::clone(&launch), components, running: Some(running) };
    let programs = started.into_iter().map(program).collect();
    Ok(Outside::new(if named.is_empty() { vec![name.to_owned()] } else { named }, programs, limits, subject))
}

/// One process of a program, restarted after a failure.
#[derive(Debug)]
pub struct Program {
    launch: Arc<Launch>,
    /// As the program named them; empty if its scores are plain numbers.
    components: Vec<String>,
    running: Option<Running>,
}

/// Everything needed to start a process.
#[derive(Debug)]
struct Launch {
    argv: Vec<String>,
    image: ImageForm,
    limits: Limits,
    hello: Value,
}

/// A process, and how many requests it has had.
#[derive(Debug)]
struct Running {
    process: Process,
    requests: u64,
}

/// What the first line tells a program.
#[derive(Serialize)]
struct Hello<'a> {
    protocol: u32,
    reward: &'a str,
    image: ImageForm,
    #[serde(flatten)]
    subject: Subject<'a>,
}

/// A line to the program.
#[derive(Serialize)]
struct ScoreRequest<'a> {
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    hello: Option<&'a Value>,
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    #[serde(flatten)]
    content: Content,
    #[serde(flatten)]
    about: &'a About,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Content {
    Image(String),
    Path(String),
}

/// A line from the program.
#[derive(Deserialize)]
struct Answer {
    id: u64,
    #[serde(default)]
    scores: Vec<Value>,
    #[serde(default)]
    components: Vec<String>,
    error: Option<String>,
}

impl Scorer for Program {
    fn ask(&mut self, samples: &[Sample]) -> Result<Vec<Vec<f64>>, Failure> {
        let mut running = match self.running.take() {
            Some(running) => running,
            None => self.restart()?,
        };
        // Drop a process that failed, which ends it.
        let rows = self.launch.score(&mut running, &self.components, samples)?;
        self.running = Some(running);
        Ok(rows)
    }

    fn close(&mut self) {
        if let Some(running) = &mut self.running {
            running.process.close();
        }
    }
}

impl Program {
    fn restart(&self) -> Result<Running, Failure> {
        let (running, components) = self.launch.start()?;
        if components != self.components {
            let (program, [now, before]) =
                (self.launch.name(), [&components, &self.components].map(|names| listed(names)));
            let message = format!("{program} was restarted and now names other components: {now} instead of {before}");
            return Err(Failure::Permanent(message));
        }
        Ok(running)
    }
}

impl Launch {
    /// The program in messages.
    fn name(&self) -> String {
        format!("the program `{}`", self.argv.join(" "))
    }

    /// Starts a process; returns it with the components that it names.
    fn start(&self) -> Result<(Running, Vec<String>), Failure> {
        let process = Process::start(&self.argv).map_err(|cause| Failure::Permanent(self.why_not_started(&cause)))?;
        let mut running = Running { process, requests: 0 };
        let Answer { scores, components, .. } = self.exchange(&mut running, Some(&self.hello), Vec::new())?;
        let distinct: HashSet<_> = components.iter().collect();
        if distinct.len() < components.len() || components.iter().any(|name| name.trim().is_empty()) {
            let (program, named) = (self.name(), components.join(", "));
            return Err(Failure::Permanent(format!(
                "{program} names its components {named:?}: each needs its own name"
            )));
        }
        self.check_count(scores.len(), 0)?;
        Ok((running, components))
    }

    fn why_not_started(&self, cause: &std::io::Error) -> String {
        let file = &self.argv[0];
        let hint = if Path::new(file).components().count() > 1 || !Path::new(file).exists() {
            "`program` is a list of the program and its arguments, such as [\"python3\", \"score.py\"]; paths are \
             relative to the current directory"
                .to_owned()
        } else {
            format!("for a file in the current directory, write `./{file}`")
        };
        format!("cannot start {}: {cause}; {hint}", self.name())
    }

    /// Scores samples, `[samples][components]`.
    fn score(
        &self,
        running: &mut Running,
        components: &[String],
        samples: &[Sample],
    ) -> Result<Vec<Vec<f64>>, Failure> {
        // Kept until the answer arrives.
        let folder = match self.image {
            ImageForm::Base64 => None,
            ImageForm::Path => Some(tempfile::Builder::new().prefix("flowdppo-").tempdir().map_err(unwritable)?),
        };
        let item = |sample| Ok(Item { content: content(sample, folder.as_ref())?, about: &sample.about });
        let items = samples.iter().map(item).collect::<Result<Vec<_>, Failure>>()?;
        let answer = self.exchange(running, None, items)?;
        self.check_count(answer.scores.len(), samples.len())?;
        let rows = answer.scores.iter().zip(samples).map(|(score, sample)| {
            row(score, components).map_err(|why| {
                Failure::Permanent(format!("{} scored sample {} with {why}", self.name(), sample.about.sample))
            })
        });
        rows.collect()
    }

    fn check_count(&self, scores: usize, samples: usize) -> Result<(), Failure> {
        if scores == samples {
            return Ok(());
        }
        Err(Failure::Permanent(format!("{} returned {scores} scores for {samples} samples", self.name())))
    }

    /// One request and its answer.
    fn exchange(&self, running: &mut Running, hello: Option<&Value>, items: Vec<Item<'_>>) -> Result<Answer, Failure> {
        let id = running.requests;
        running.requests += 1;
        let request = serde_json::to_vec(&ScoreRequest { id, hello, items }).expect("plain data has a JSON form");
        let said = running
            .process
            .ask(request, self.limits.timeout)
            .map_err(|why| self.no_answer(&mut running.process, &why))?;
        let answer: Answer = serde_json::from_slice(without_mark(&said)).map_err(|cause| {
            let (program, said, why) = (self.name(), quoted(&said, "an empty line"), why_no_json(&said, &cause));
            Failure::Permanent(format!(
                "{program} answered {said}: {why}; its standard output must contain only answers, a JSON object such as \
                 {{\"id\": {id}, \"scores\": [0.5]}} on one line, and everything else must go to standard error"
            ))
        })?;
        if answer.id != id {
            return Err(Failure::Permanent(format!(
                "{} answered request {} instead of request {id}: every line needs one answer, with its id",
                self.name(),
                answer.id
            )));
        }
        match answer.error {
            Some(error) => {
                Err(Failure::Permanent(with_words(format!("{} reports an error", self.name()), error.as_bytes())))
            }
            None => Ok(answer),
        }
    }

    fn no_answer(&self, process: &mut Process, why: &NoAnswer) -> Failure {
        let what = match why {
            NoAnswer::TimedOut => {
                let seconds = self.limits.timeout.as_secs_f64();
                format!("did not answer within {seconds} s (`timeout_seconds`)")
            }
            NoAnswer::TooLong => {
                return Failure::Permanent(format!(
                    "{} wrote {} MiB to its standard output without a line break",
                    self.name(),
                    LONGEST_LINE >> 20
                ));
            }
            NoAnswer::Ended(how) => format!("{how} instead of answering"),
        };
        process.kill();
        let said = process.last_words();
        let said = if said.is_empty() {
            "it wrote nothing to standard error".to_owned()
        } else {
            format!("its standard error ends with: {}", said.join(" | "))
        };
        Failure::Temporary(format!("{} {what}; {said}", self.name()))
    }
}

fn unwritable(cause: std::io::Error) -> Failure {
    Failure::Permanent(format!("cannot write images into {}: {cause}", std::env::temp_dir().display()))
}

/// The picture of a sample, in the form that is sent.
fn content(sample: &Sample, folder: Option<&TempDir>) -> Result<Content, Failure> {
    let Some(folder) = folder else { return Ok(Content::Image(BASE64.encode(&sample.png))) };
    let path = folder.path().join(format!("{}.png", sample.about.sample));
    std::fs::write(&path, &sample.png).map_err(unwritable)?;
    Ok(Content::Path(path.to_string_lossy().into_owned()))
}

/// The scores of a sample, in the order of components; or what is wrong with them.
fn row(score: &Value, components: &[String]) -> Result<Vec<f64>, String> {
    let said = || excerpt(score.to_string().as_bytes());
    match (score, components) {
        (Value::Object(_), []) => Err(format!(
            "{}: to return several scores, answer the first line with \"components\": [their names]",
            said()
        )),
        (_, []) => Ok(vec![finite(score)?]),
        (Value::Object(scores), names)
            if scores.len() == names.len() && names.iter().all(|name| scores.contains_key(name)) =>
        {
            let named = |name: &String| finite(&scores[name]).map_err(|why| format!("`{name}`: {why}"));
            names.iter().map(named).collect()
        }
        (_, names) => {
            Err(format!("{}, but its components are {}: return all of them, by name", said(), names.join(", ")))
        }
    }
}
