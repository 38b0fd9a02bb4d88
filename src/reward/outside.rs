//! Scores from outside this program: what a program ([`super::command`]) and a service ([`super::http`]) share.
//!
//! A batch is split into requests, which several workers send in parallel; temporary failures are retried. A score is
//! stored by the number of its sample, so neither the size of requests nor the number of workers changes it. Nothing
//! here replaces a score that is missing or not finite.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use serde::Serialize;
use serde_json::{Map, Value};

use super::description::Description;
use super::{Batch, Purpose, Reward};
use crate::config;
use crate::error::{Error, Result};
use crate::model::Pictures;
use crate::shape::{ImageShape, to_byte};
use crate::text::is_deceptive;

/// Pause before the second attempt; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often a pause checks whether it is still needed.
const MOMENT: Duration = Duration::from_millis(50);

/// How requests are split, timed and retried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// How long an answer may take.
    pub timeout: Duration,
    /// Further attempts after a temporary failure.
    pub retries: usize,
    /// Samples per request, at least 1.
    pub batch: usize,
    /// Parallel requests, at least 1.
    pub workers: usize,
}

impl Limits {
    /// The limits of a configuration.
    pub fn of(reward: &config::Reward) -> Self {
        // A year is as good as unlimited, and fits the clocks of every system.
        const LONGEST: f64 = 365.0 * 24.0 * 3600.0;
        let &config::Reward { timeout_seconds, retries, batch, workers, .. } = reward;
        Self { timeout: Duration::from_secs_f64(timeout_seconds.min(LONGEST)), retries, batch, workers }
    }
}

/// What a scorer must know about a model before the first sample.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The names of the classes; empty if they have no names.
    pub class_names: &'a [String],
    /// The shape of a picture.
    pub shape: ImageShape,
    /// The description of each class.
    pub descriptions: &'a [Description],
}

impl<'a> Subject<'a> {
    /// Pictures, and what is said of each of their classes.
    pub fn new(pictures: &Pictures<'a>, descriptions: &'a [Description]) -> Self {
        Self { class_names: pictures.classes.names, shape: pictures.shape, descriptions }
    }
}

/// As docs/rewards.md documents it: `image_size` is there if pictures are square.
impl Serialize for Subject<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Said<'a> {
            class_names: &'a [String],
            channels: usize,
            height: usize,
            width: usize,
            #[serde(skip_serializing_if = "Option::is_none")]
            image_size: Option<usize>,
        }
        let ImageShape { channels, height, width } = self.shape;
        let image_size = (height == width).then_some(height);
        Said { class_names: self.class_names, channels, height, width, image_size }.serialize(serializer)
    }
}

/// What a request says about a sample.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// The requested class.
    pub label: u32,
    /// The prompt.
    pub prompt: String,
    /// Iterations done so far.
    pub iteration: u64,
    /// `"training"`, `"evaluation"` or `"preview"`; `"start"` if only the names of scores are needed.
    pub purpose: &'static str,
    /// Its number among all that are scored.
    pub sample: usize,
    /// Further metadata of its class or prompt.
    #[serde(flatten)]
    pub metadata: Map<String, Value>,
}

/// A sample, ready to be sent.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The picture as a PNG of 8 bits, grey or RGB, its rows without filters.
    pub png: Vec<u8>,
    /// What the request says about it.
    pub about: About,
}

/// Why a request has no scores.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// It may succeed if it is retried: a crash, a timeout, an overloaded service.
    Temporary(String),
    /// It would fail again: a wrong answer.
    Permanent(String),
}

impl Failure {
    /// The message for the user.
    pub fn message(self) -> String {
        match self {
            Self::Temporary(message) | Self::Permanent(message) => message,
        }
    }
}

/// Something that scores samples: a process, or a connection to a service.
pub trait Scorer: fmt::Debug + Send {
    /// Scores samples by every component, `[samples][components]`.
    ///
    /// # Errors
    /// If there is not exactly one finite score for each sample and component.
    fn ask(&mut self, samples: &[Sample]) -> Result<Vec<Vec<f64>>, Failure>;

    /// Called when no more requests will follow.
    fn close(&mut self) {}
}

/// A reward whose scores come from outside.
#[derive(Debug)]
pub struct Outside<S: Scorer> {
    components: Vec<String>,
    workers: Vec<S>,
    limits: Limits,
    descriptions: Vec<Description>,
    /// Set when the user wants to stop.
    stop: Arc<AtomicBool>,
}

impl<S: Scorer> Outside<S> {
    /// A reward with a worker for each of `workers`, which must not be empty, for the classes of `subject`.
    pub(super) fn new(components: Vec<String>, workers: Vec<S>, limits: Limits, subject: &Subject<'_>) -> Self {
        Self { components, workers, limits, descriptions: subject.descriptions.to_vec(), stop: Arc::default() }
    }
}

impl<S: Scorer> Drop for Outside<S> {
    fn drop(&mut self) {
        // Close all first, so that they end in parallel and not one after the other.
        self.workers.iter_mut().for_each(Scorer::close);
    }
}

impl<S: Scorer> Reward for Outside<S> {
    fn components(&self) -> &[String] {
        &self.components
    }

    fn score(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f64>>> {
        let Self { components, workers, limits, descriptions, stop } = self;
        let requests = batch.labels.len().div_ceil(limits.batch);
        // Report the first failure: it may have cut short the others.
        let (next, failure) = (AtomicUsize::new(0), OnceLock::new());
        let is_pointless = || failure.get().is_some() || stop.load(Ordering::Relaxed);
        let work = |worker: &mut S| {
            let mut answers = Vec::new();
            while failure.get().is_none() {
                let request = next.fetch_add(1, Ordering::Relaxed);
                if request >= requests {
                    break;
                }
                let first = request * limits.batch;
                let last = (first + limits.batch).min(batch.labels.len());
                let samples: Result<Vec<_>> = (first..last).map(|index| sample(batch, descriptions, index)).collect();
                let answer = samples.and_then(|samples| {
                    insist(limits.retries, is_pointless, || worker.ask(&samples)).map_err(Error::failed)
                });
                match answer {
                    Ok(rows) => answers.push((request, rows)),
                    Err(cause) => drop(failure.set(cause)),
                }
            }
            answers
        };
        let mut answers = thread::scope(|scope| {
            let threads: Vec<_> =
                workers.iter_mut().take(requests).map(|worker| scope.spawn(|| work(worker))).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().expect("a worker does not panic");
            threads.into_iter().flat_map(join).collect::<Vec<_>>()
        });
        if let Some(cause) = failure.into_inner() {
            return Err(cause);
        }
        answers.sort_by_key(|(request, _)| *request);
        let mut scores = vec![Vec::with_capacity(batch.labels.len()); components.len()];
        for row in answers.into_iter().flat_map(|(_, rows)| rows) {
            scores.iter_mut().zip(row).for_each(|(scores, score)| scores.push(score));
        }
        Ok(scores)
    }

    fn stop_at(&mut self, flag: &Arc<AtomicBool>) {
        self.stop = Arc::clone(flag);
    }
}

/// Repeats `attempt` until it succeeds, fails permanently, was the last one, or further ones are pointless.
pub(super) fn insist<T>(
    retries: usize,
    is_pointless: impl Fn() -> bool,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T, String> {
    let mut pause = FIRST_PAUSE;
    for number in 1.. {
        let message = match attempt() {
            Ok(answer) => return Ok(answer),
            Err(Failure::Permanent(message)) => return Err(message),
            Err(Failure::Temporary(message)) if retries == 0 => return Err(message),
            Err(Failure::Temporary(message)) => message,
        };
        let is_last = number > retries || is_pointless() || {
            log::warn!("{message}; the next attempt is in {} s", pause.as_secs_f64());
            !wait(pause, &is_pointless)
        };
        if is_last {
            return Err(format!("{message} (attempt {number} of {})", retries + 1));
        }
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
    unreachable!("there is a last attempt")
}

/// Waits; `false` if the wait was cut short because it became pointless.
fn wait(pause: Duration, is_pointless: impl Fn() -> bool) -> bool {
    let end = Instant::now() + pause;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::sleep(left.min(MOMENT));
        if is_pointless() {
            return false;
        }
    }
    true
}

/// Checks that a model's samples can be sent as pictures; `kind` is the reward's, for the message.
pub(super) fn check_subject(kind: &str, subject: &Subject<'_>) -> Result<()> {
    match subject.shape.channels {
        1 | 3 => Ok(()),
        channels => Err(Error::input(format!(
            "the reward `{kind}` scores images of 1 or 3 channels, but the model makes {channels}"
        ))),
    }
}

/// A mid-grey picture of a model's size, to find out what a service measures.
pub(super) fn grey(subject: &Subject<'_>) -> Result<Sample> {
    let images = vec![0.0; subject.shape.elements()];
    let Description { prompt, metadata } = subject.descriptions[0].clone();
    let about = About { label: 0, prompt, iteration: 0, purpose: "start", sample: 0, metadata };
    Ok(Sample { png: png(&images, subject.shape)?, about })
}

fn sample(batch: &Batch<'_>, descriptions: &[Description], index: usize) -> Result<Sample> {
    let elements = batch.shape.elements();
    let image = &batch.images[index * elements..][..elements];
    if !image.iter().all(|value| value.is_finite()) {
        let number = batch.numbers[index];
        return Err(Error::NotFinite(format!("sample {number} has values that are not finite: it has no reward")));
    }
    let label = batch.labels[index];
    let Description { prompt, metadata } = descriptions[label as usize].clone();
    let about = About {
        label,
        prompt,
        iteration: batch.context.iteration,
        purpose: match batch.context.purpose {
            Purpose::Training => "training",
            Purpose::Evaluation => "evaluation",
            Purpose::Preview => "preview",
        },
        sample: batch.numbers[index],
        metadata,
    };
    Ok(Sample { png: png(image, batch.shape)?, about })
}

/// The picture of an image `[C, H, W]`, C being 1 or 3. Without filters, a reader needs only zlib.
fn png(image: &[f32], shape: ImageShape) -> Result<Vec<u8>> {
    let (channels, area) = (shape.channels, shape.pixels());
    let bytes: Vec<u8> =
        (0..area).flat_map(|pixel| (0..channels).map(move |channel| to_byte(image[channel * area + pixel]))).collect();
    let color = if channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let mut png = Vec::new();
    PngEncoder::new_with_quality(&mut png, CompressionType::Default, FilterType::NoFilter)
        .write_image(&bytes, shape.width as u32, shape.height as u32, color)
        .map_err(|cause| Error::failed(format!("cannot encode a sample as PNG ({shape}): {cause}")))?;
    Ok(png)
}

/// Names for a message.
pub(super) fn listed(names: &[impl AsRef<str>]) -> String {
    excerpt(names.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ").as_bytes())
}

/// An answer quoted for a message; `empty` if it is empty.
pub(super) fn quoted(said: &[u8], empty: &str) -> String {
    match excerpt(said) {
        said if said.is_empty() => empty.to_owned(),
        said => format!("`{said}`"),
    }
}

/// A message followed by the text of an answer, if there is any.
pub(super) fn with_words(message: String, said: &[u8]) -> String {
    match excerpt(said) {
        said if said.is_empty() => message,
        said => format!("{message}: {said}"),
    }
}

/// The beginning of an answer, on one line, for a message.
pub(super) fn excerpt(said: &[u8]) -> String {
    const LONGEST: usize = 300;
    let text = String::from_utf8_lossy(said);
    let text = text.trim().replace(|c: char| c.is_control() || is_deceptive(c), " ");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Why bytes are not the expected JSON; the most common reason is NaN.
pub(super) fn why_no_json(said: &[u8], cause: &serde_json::Error) -> String {
    let text = String::from_utf8_lossy(said);
    if cause.is_syntax() && (text.contains("NaN") || text.contains("Infinity")) {
        return "JSON has no NaN and no Infinity, and a score must be a finite number".into();
    }
    cause.to_string()
}

/// A JSON value as a score.
pub(super) fn finite(value: &serde_json::Value) -> Result<f64, String> {
    value
        .as_f64()
        .filter(|score| score.is_finite())
        .ok_or_else(|| format!("{}, but a score must be a finite number", excerpt(value.to_string().as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::ScoringContext;

    /// Returns brightness and number of a sample, after a given number of failures.
    #[derive(Debug)]
    struct Echo {
        failures: usize,
    }

    impl Scorer for Echo {
        fn ask(&mut self, samples: &[Sample]) -> Result<Vec<Vec<f64>>, Failure> {
            if self.failures > 0 {
                self.failures -= 1;
                return Err(Failure::Temporary("not yet".into()));
            }
            let brightness = |sample: &Sample| {
                let picture = image::load_from_memory(&sample.png).unwrap().into_luma8();
                f64::from(picture.get_pixel(0, 0).0[0])
            };
            Ok(samples.iter().map(|sample| vec![brightness(sample), sample.about.sample as f64]).collect())
        }
    }

    fn limits(batch: usize, workers: usize, retries: usize) -> Limits {
        Limits { timeout: Duration::from_secs(1), retries, batch, workers }
    }

    fn score(limits: Limits, failures: usize, images: &[f32]) -> Result<Vec<Vec<f64>>> {
        let workers = (0..limits.workers).map(|_| Echo { failures }).collect();
        let descriptions = [Description::default()];
        let subject = Subject { class_names: &[], shape: ImageShape::square(1, 1), descriptions: &descriptions };
        let context = ScoringContext { purpose: Purpose::Training, iteration: 0 };
        let labels = vec![0; images.len()];
        let numbers: Vec<usize> = (0..labels.len()).collect();
        let shape = ImageShape::square(1, 1);
        let batch = Batch { images, labels: &labels, numbers: &numbers, class_names: &[], shape, context };
        Outside::new(vec!["brightness".into(), "number".into()], workers, limits, &subject).score(&batch)
    }

    #[test]
    fn scores_do_not_depend_on_batches_and_workers() {
        let bytes: Vec<u8> = (0..37).map(|index| index * 5).collect();
        let images: Vec<f32> = bytes.iter().map(|byte| crate::shape::from_byte(*byte)).collect();
        let expected =
            [bytes.iter().map(|byte| f64::from(*byte)).collect::<Vec<_>>(), (0..37).map(f64::from).collect()];
        for (batch, workers) in [(1, 1), (1, 8), (5, 3), (37, 2), (100, 4)] {
            assert_eq!(score(limits(batch, workers, 0), 0, &images).unwrap(), expected, "{batch} {workers}");
        }
    }

    #[test]
    fn a_temporary_failure_is_retried_as_often_as_allowed() {
        assert_eq!(score(limits(1, 1, 1), 1, &[1.0]).unwrap(), [[255.0], [0.0]]);
        let message = score(limits(1, 1, 1), 2, &[1.0]).unwrap_err().to_string();
        assert_eq!(message, "not yet (attempt 2 of 2)");
        let message = score(limits(1, 1, 0), 1, &[1.0]).unwrap_err().to_string();
        assert_eq!(message, "not yet");
    }

    #[test]
    fn a_pause_ends_when_it_becomes_pointless() {
        let (asked, looked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let attempt = || {
            asked.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>(Failure::Temporary("not yet".into()))
        };
        // Another worker fails for good, or the user stops, while this one waits.
        let is_pointless = || looked.fetch_add(1, Ordering::Relaxed) > 0;
        assert_eq!(insist(9, is_pointless, attempt).unwrap_err(), "not yet (attempt 1 of 10)");
        assert_eq!(asked.into_inner(), 1);
    }

    #[test]
    fn nothing_is_retried_for_a_user_who_wants_to_stop() {
        let descriptions = [Description::default()];
        let subject = Subject { class_names: &[], shape: ImageShape::square(1, 1), descriptions: &descriptions };
        let context = ScoringContext { purpose: Purpose::Training, iteration: 0 };
        let shape = subject.shape;
        let batch =
            Batch { images: &[1.0; 4], labels: &[0; 4], numbers: &[0, 1, 2, 3], class_names: &[], shape, context };
        let names = vec!["brightness".into(), "number".into()];
        let mut outside = Outside::new(names, vec![Echo { failures: 2 }], limits(2, 1, 9), &subject);
        let stop = Arc::new(AtomicBool::new(true));
        outside.stop_at(&stop);
        assert_eq!(outside.score(&batch).unwrap_err().to_string(), "not yet (attempt 1 of 10)");
        // But work that succeeds is finished.
        outside.workers[0].failures = 0;
        assert_eq!(outside.score(&batch).unwrap()[1], [0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_sample_that_is_not_finite_is_not_sent_as_a_black_picture() {
        let error = score(limits(1, 1, 0), 0, &[0.5, f32::NAN]).unwrap_err();
        assert!(matches!(&error, Error::NotFinite(_)), "{error:?}");
        assert!(error.to_string().contains("sample 1 has values that are not finite"), "{error}");
    }

    #[test]
    fn a_picture_keeps_its_colours_and_has_no_filter() {
        let image = [-1.0, 1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 1.5, -1.5, 0.0, 0.0];
        let bytes = png(&image, ImageShape::square(3, 2)).unwrap();
        let picture = image::load_from_memory(&bytes).unwrap().into_rgb8();
        assert_eq!(picture.into_raw(), [0, 255, 255, 255, 0, 0, 128, 128, 128, 128, 128, 128]);
    }

    #[test]
    fn an_excerpt_is_short_and_on_one_line() {
        assert_eq!(excerpt(b" a\nb\xff "), "a b\u{fffd}");
        assert_eq!(excerpt("ä".repeat(301).as_bytes()), format!("{}…", "ä".repeat(300)));
    }
}
