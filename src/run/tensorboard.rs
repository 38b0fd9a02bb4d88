//! The metrics and preview grids of a run as event files, which TensorBoard reads.
//!
//! An event file is a sequence of TFRecords (tensorflow/core/lib/io/record_writer.h): length, masked CRC-32C of the
//! length, bytes, masked CRC-32C of the bytes. Each contains a message `Event` (tensorflow/core/util/event.proto), of
//! which only the fields used here are declared. A record is appended by one write, so a crash truncates at most the
//! last one, and the next process starts its own file: TensorBoard reads all files of a folder in order of name.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use serde_json::Value;

use super::Record;
use crate::files::append_whole;
use crate::{Error, Result};

/// What happened at a time and a step.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    /// Iteration, or optimizer step.
    #[prost(int64, tag = "2")]
    pub step: i64,
    /// First event of a file: the version of the format.
    #[prost(string, optional, tag = "3")]
    pub file_version: Option<String>,
    /// Values at this step.
    #[prost(message, optional, tag = "5")]
    pub summary: Option<Summary>,
    /// Marks the start of a process.
    #[prost(message, optional, tag = "7")]
    pub session_log: Option<SessionLog>,
}

/// Some values of one step.
#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    /// The values.
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<SummaryValue>,
}

/// One value; exactly one of the last three fields is set.
#[derive(Clone, PartialEq, Message)]
pub struct SummaryValue {
    /// Its name; the part before a `/` is its group.
    #[prost(string, tag = "1")]
    pub tag: String,
    /// Which of TensorBoard's plugins shows it, if its type does not determine that.
    #[prost(message, optional, tag = "9")]
    pub metadata: Option<Metadata>,
    /// A number.
    #[prost(float, optional, tag = "2")]
    pub simple_value: Option<f32>,
    /// A picture.
    #[prost(message, optional, tag = "4")]
    pub image: Option<Image>,
    /// A text.
    #[prost(message, optional, tag = "8")]
    pub tensor: Option<TextTensor>,
}

/// A picture.
#[derive(Clone, PartialEq, Message)]
pub struct Image {
    /// Pixels.
    #[prost(int32, tag = "1")]
    pub height: i32,
    /// Pixels.
    #[prost(int32, tag = "2")]
    pub width: i32,
    /// 3: red, green and blue.
    #[prost(int32, tag = "3")]
    pub colorspace: i32,
    /// A PNG file.
    #[prost(bytes = "vec", tag = "4")]
    pub encoded_image_string: Vec<u8>,
}

/// A tensor of one string.
#[derive(Clone, PartialEq, Message)]
pub struct TextTensor {
    /// 7: strings.
    #[prost(int32, tag = "1")]
    pub dtype: i32,
    /// The string.
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub string_val: Vec<Vec<u8>>,
}

/// How a value is shown.
#[derive(Clone, PartialEq, Message)]
pub struct Metadata {
    /// The plugin that shows it.
    #[prost(message, optional, tag = "1")]
    pub plugin_data: Option<PluginData>,
}

/// A plugin of TensorBoard.
#[derive(Clone, PartialEq, Message)]
pub struct PluginData {
    /// Its name.
    #[prost(string, tag = "1")]
    pub plugin_name: String,
}

/// The start of a process. TensorBoard then discards what an earlier one wrote for this step and later ones.
#[derive(Clone, PartialEq, Message)]
pub struct SessionLog {
    /// 1: start.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// Lists in metrics that are not values over time.
const NO_SCALARS: [&str; 3] = ["iteration", "trained_steps", "z_fresh_histogram"];

/// An event file, open for appending.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Creates an event file in `folder` (created if missing) for a process that starts after `done` iterations;
    /// `config` is shown as text.
    ///
    /// # Errors
    /// [`Error::Failed`] if the file cannot be written.
    pub fn create(folder: &Path, done: u64, config: &str) -> Result<Self> {
        let (file, path) = create_file(folder).map_err(|cause| Error::unwritable(folder, cause))?;
        let mut events = Self { file, path };
        events.append(Event { file_version: Some("brain.Event:2".into()), ..event(0) })?;
        // A run that starts over writes iteration 0 again.
        let begin = if done == 0 { 0 } else { done + 1 };
        events.append(Event { session_log: Some(SessionLog { status: 1 }), ..event(begin) })?;
        let text = SummaryValue {
            tag: "config".into(),
            metadata: Some(Metadata { plugin_data: Some(PluginData { plugin_name: "text".into() }) }),
            // TensorBoard renders it as Markdown.
            tensor: Some(TextTensor { dtype: 7, string_val: vec![format!("```toml\n{config}\n```").into_bytes()] }),
            ..SummaryValue::default()
        };
        events.append_values(done, vec![text])?;
        Ok(events)
    }

    /// Appends every number of a record of metrics. Numbers in objects and lists get names such as
    /// `eval/drift/kl_mean` and `kl_by_update/3`; those by trained step have the number of their step.
    ///
    /// # Errors
    /// [`Error::Failed`] if the disk is full.
    pub fn append_metrics(&mut self, step: u64, record: &Record) -> Result<()> {
        let mut values = Vec::new();
        for (key, value) in record.iter().filter(|(key, _)| !NO_SCALARS.contains(&key.as_str())) {
            let steps = record.get("trained_steps").filter(|_| key.ends_with("_by_step")).and_then(Value::as_array);
            scalars(key, value, steps, &mut values);
        }
        self.append_values(step, values)
    }

    /// Appends a picture, a PNG file.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read, [`Error::Failed`] if the disk is full.
    pub fn append_picture(&mut self, step: u64, tag: &str, picture: &Path) -> Result<()> {
        let read = || -> image::ImageResult<Image> {
            let (width, height) = image::image_dimensions(picture)?;
            let encoded_image_string = std::fs::read(picture)?;
            Ok(Image { width: width as i32, height: height as i32, colorspace: 3, encoded_image_string })
        };
        let image = read().map_err(|cause| Error::unreadable(picture, cause))?;
        self.append_values(step, vec![SummaryValue { tag: tag.into(), image: Some(image), ..SummaryValue::default() }])
    }

    fn append_values(&mut self, step: u64, value: Vec<SummaryValue>) -> Result<()> {
        self.append(Event { summary: Some(Summary { value }), ..event(step) })
    }

    fn append(&mut self, event: Event) -> Result<()> {
        append_whole(&mut self.file, &tf_record(&event.encode_to_vec()))
            .map_err(|cause| Error::unwritable(&self.path, cause))
    }
}

/// An event at the current time without content.
fn event(step: u64) -> Event {
    let wall_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    Event { wall_time, step: step as i64, ..Event::default() }
}

/// Creates a file whose name sorts after those of the existing files.
fn create_file(folder: &Path) -> std::io::Result<(File, PathBuf)> {
    std::fs::create_dir_all(folder)?;
    let host = ["HOSTNAME", "COMPUTERNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
    let host: String = host.chars().filter(|letter| letter.is_ascii_alphanumeric() || "-.".contains(*letter)).collect();
    let host = if host.is_empty() { "localhost" } else { &host };
    let mut seconds = event(0).wall_time as u64;
    loop {
        // Two processes within a second: TensorBoard needs two names in order.
        let path = folder.join(format!("events.out.tfevents.{seconds:010}.{host}"));
        match File::options().append(true).create_new(true).open(&path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => seconds += 1,
            opened => return Ok((opened?, path)),
        }
    }
}

/// Every number within a value, with its name.
fn scalars(tag: &str, value: &Value, steps: Option<&Vec<Value>>, found: &mut Vec<SummaryValue>) {
    match value {
        Value::Number(number) => found.push(SummaryValue {
            tag: tag.to_owned(),
            simple_value: number.as_f64().map(|number| number as f32),
            ..SummaryValue::default()
        }),
        Value::Object(values) => {
            values.iter().for_each(|(key, value)| scalars(&format!("{tag}/{key}"), value, None, found));
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                let name = steps.and_then(|steps| steps.get(index)?.as_u64()).unwrap_or(index as u64);
                scalars(&format!("{tag}/{name}"), value, None, found);
            }
        }
        _ => {}
    }
}

/// A record as bytes of the file.
fn tf_record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), bytes, &masked_crc(bytes).to_le_bytes()].concat()
}

/// How many bytes at the beginning of an event file are complete records.
pub(super) fn complete_records(bytes: &[u8]) -> usize {
    let mut whole = 0;
    while let Some((length, rest)) = bytes[whole..].split_first_chunk::<8>() {
        let Some((check, rest)) = rest.split_first_chunk::<4>() else { break };
        let size = u64::from_le_bytes(*length) as usize;
        if *check != masked_crc(length).to_le_bytes() || size > rest.len() {
            break;
        }
        let (body, rest) = rest.split_at(size);
        if rest.first_chunk::<4>() != Some(&masked_crc(body).to_le_bytes()) {
            break;
        }
        whole += 16 + size;
    }
    whole
}

/// CRC-32C, rotated and offset, because a CRC of bytes that contain a CRC is a weak check.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The events of a file; the first truncated or damaged event ends it.
    fn events(path: &Path) -> Vec<Event> {
        let bytes = std::fs::read(path).unwrap();
        let (mut at, mut found) = (0, Vec::new());
        while let Some(head) = bytes.get(at..at + 12) {
            let length = u64::from_le_bytes(head[..8].try_into().unwrap()) as usize;
            assert_eq!(head[8..], masked_crc(&head[..8]).to_le_bytes());
            let Some(body) = bytes.get(at + 12..at + 16 + length) else { break };
            assert_eq!(body[length..], masked_crc(&body[..length]).to_le_bytes());
            found.push(Event::decode(&body[..length]).unwrap());
            at += 16 + length;
        }
        found
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    fn values(events: &[Event]) -> Vec<(i64, String, f32)> {
        let values = events.iter().flat_map(|event| {
            let values = event.summary.iter().flat_map(|summary| &summary.value);
            values.filter_map(|value| Some((event.step, value.tag.clone(), value.simple_value?)))
        });
        values.collect()
    }

    #[test]
    fn a_record_has_the_bytes_that_tensorflow_writes() {
        // The first record that tensorboard 2.21 writes for `Event(wall_time=1.5, file_version="brain.Event:2")`.
        let event = Event { wall_time: 1.5, file_version: Some("brain.Event:2".into()), ..Event::default() };
        let mut expected = vec![0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22];
        expected.extend([0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0x1a, 0x0d]);
        expected.extend(b"brain.Event:2");
        expected.extend([0x2a, 0x28, 0x64, 0x6c]);
        assert_eq!(tf_record(&event.encode_to_vec()), expected);
        // RFC 3720, B.4: 32 bytes of zeros have the CRC-32C 8a9136aa.
        assert_eq!(masked_crc(&[0; 32]), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn every_number_of_a_record_becomes_a_scalar_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(folder.path(), 0, "[run]").unwrap();
        let record = json!({
            "iteration": 3, "reward_mean": 0.5, "reward/ink_mean": 2, "lost": null, "trained_steps": [2, 5],
            "kl_by_step": [0.25, 0.125], "kl_by_update": [0.0, 1.5], "z_fresh_histogram": [1, 2],
            "eval/drift": {"kl_mean": 0.75, "kl_by_step": [4.0, null]},
        });
        file.append_metrics(3, record.as_object().unwrap()).unwrap();
        let events = events(&files(folder.path())[0]);
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        // Iteration 0 of a process that did not get further is discarded, too.
        assert_eq!((events[1].session_log.as_ref().unwrap().status, events[1].step), (1, 0));
        let text = &events[2].summary.as_ref().unwrap().value[0];
        assert_eq!(text.tensor.as_ref().unwrap().string_val, [b"```toml\n[run]\n```"]);
        let mut found = values(&events);
        found.sort_by(|a, b| a.1.cmp(&b.1));
        let expected = [
            ("eval/drift/kl_by_step/0", 4.0),
            ("eval/drift/kl_mean", 0.75),
            ("kl_by_step/2", 0.25),
            ("kl_by_step/5", 0.125),
            ("kl_by_update/0", 0.0),
            ("kl_by_update/1", 1.5),
            ("reward/ink_mean", 2.0),
            ("reward_mean", 0.5),
        ];
        assert_eq!(found, expected.map(|(tag, value)| (3, tag.to_owned(), value)));
    }

    #[test]
    fn a_picture_is_kept_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let picture = folder.path().join("grid.png");
        image::RgbImage::new(7, 5).save(&picture).unwrap();
        let mut file = EventFile::create(&folder.path().join("tensorboard"), 0, "").unwrap();
        file.append_picture(2, "samples", &picture).unwrap();
        let events = events(&files(&folder.path().join("tensorboard"))[0]);
        let image = events[3].summary.as_ref().unwrap().value[0].image.clone().unwrap();
        assert_eq!((image.width, image.height, events[3].step), (7, 5, 2));
        assert_eq!(image.encoded_image_string, std::fs::read(picture).unwrap());
        let missing = file.append_picture(2, "samples", Path::new("nowhere.png")).unwrap_err();
        assert!(missing.to_string().contains("nowhere.png"), "{missing}");
    }

    #[test]
    fn a_crash_truncates_only_the_last_record_and_the_next_process_starts_a_later_file() {
        let folder = tempfile::tempdir().unwrap();
        let record = |reward: f64| json!({"reward_mean": reward}).as_object().unwrap().clone();
        let mut file = EventFile::create(folder.path(), 0, "").unwrap();
        file.append_metrics(1, &record(0.25)).unwrap();
        file.append_metrics(2, &record(0.5)).unwrap();
        let first = files(folder.path())[0].clone();
        let whole = std::fs::read(&first).unwrap();
        for cut in 1..30 {
            std::fs::write(&first, &whole[..whole.len() - cut]).unwrap();
            assert_eq!(values(&events(&first)), [(1, "reward_mean".into(), 0.25)], "cut by {cut}");
            crate::run::repair::event_files(folder.path()).unwrap();
            let kept = std::fs::read(&first).unwrap();
            assert!(whole.starts_with(&kept) && kept.len() < whole.len() - cut, "cut by {cut}");
            assert_eq!(complete_records(&kept), kept.len(), "cut by {cut}");
            assert_eq!(values(&events(&first)), [(1, "reward_mean".into(), 0.25)], "cut by {cut}");
        }
        let mut file = EventFile::create(folder.path(), 1, "").unwrap();
        file.append_metrics(2, &record(0.75)).unwrap();
        let paths = files(folder.path());
        assert_eq!((paths.len(), &paths[0]), (2, &first));
        let resumed = events(&paths[1]);
        // What was written for iteration 2 and later is discarded.
        assert_eq!(resumed[1].step, 2);
        assert_eq!(values(&resumed), [(2, "reward_mean".into(), 0.75)]);
    }
}
