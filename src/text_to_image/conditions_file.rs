//! Files of encoded prompts: safetensors, written and read prompt by prompt.
//!
//! `prompt_embeds` `[P, tokens, width]`, `pooled_prompt_embeds` `[P, pooled]`, the same two of the negative prompt with
//! `negative_` in front, as diffusers calls them, and `prompts`: the lines of the file of prompts as JSON lines. The
//! header says what made them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};

use super::pipeline::Encoders;
use super::writer::Writer;
use crate::error::{Error, Result};
use crate::files::{fill_atomically, measure};
use crate::gpu::Gpu;
use crate::model::folder::StoredTensors;
use crate::model::text::{CutPrompt, Weights};
use crate::model::{Prompt, PromptEmbedding};
use crate::ranks::Team;

/// The entry of the header that says what made the file.
const KEY: &str = "flowdppo_wgpu_conditions";

const EMBEDDINGS: [&str; 2] = ["prompt_embeds", "pooled_prompt_embeds"];
const NEGATIVE: [&str; 2] = ["negative_prompt_embeds", "negative_pooled_prompt_embeds"];
const PROMPTS: &str = "prompts";

/// How prompts are encoded into a file.
#[derive(Clone, Copy, Debug)]
pub struct FileOptions<'a> {
    /// The file.
    pub path: &'a Path,
    /// Whether its numbers are rounded to 16 bits.
    pub half: bool,
    /// Prompts that are encoded together and kept in memory, 5.5 MB each for SD3.5. The weights of the encoders are read
    /// once for each such group.
    pub group: usize,
}

/// Encoded prompts in a file, which are read when they are needed.
#[derive(Debug)]
pub struct ConditionsFile {
    tensors: StoredTensors,
    lines: Vec<Prompt>,
    negative: Option<String>,
    /// The prompts that were chosen.
    rows: Vec<usize>,
}

impl ConditionsFile {
    /// Opens a file. One of another program needs the embeddings only.
    ///
    /// # Errors
    /// [`Error::Input`] if it is damaged or something else.
    pub fn open(path: &Path) -> Result<Self> {
        let tensors = StoredTensors::open(path)?;
        let name = tensors.name().to_owned();
        let shape = |tensor: &str| Ok::<_, Error>(tensors.get(tensor)?.shape().to_vec());
        let embeddings = shape(EMBEDDINGS[0])?;
        // A model without pooled embeddings has none in its file.
        let has_pooled = tensors.tensors().contains_key(EMBEDDINGS[1]);
        let pooled = if has_pooled { shape(EMBEDDINGS[1])? } else { vec![embeddings.first().copied().unwrap_or(0), 0] };
        let ([prompts, tokens, width], [_, pooled_width]) = (&embeddings[..], &pooled[..]) else {
            return Err(Error::input(format!(
                "{name}: `{}` and `{}` have the shapes {embeddings:?} and {pooled:?}, but [prompts, tokens, width] and \
                 [prompts, width] are expected",
                EMBEDDINGS[0], EMBEDDINGS[1]
            )));
        };
        let mut expected = vec![(EMBEDDINGS[1], vec![*prompts, *pooled_width])];
        if tensors.tensors().contains_key(NEGATIVE[0]) {
            expected.extend([(NEGATIVE[0], vec![1, *tokens, *width]), (NEGATIVE[1], vec![1, *pooled_width])]);
        }
        for (tensor, expected) in expected.into_iter().filter(|(_, shape)| shape[1] > 0) {
            let found = shape(tensor)?;
            if found != expected {
                return Err(Error::input(format!(
                    "{name}: tensor `{tensor}` has shape {found:?}, but {expected:?} is expected"
                )));
            }
        }
        if embeddings.contains(&0) || has_pooled && pooled.contains(&0) {
            return Err(Error::input(format!("{name} has no prompts: `{}` has shape {embeddings:?}", EMBEDDINGS[0])));
        }
        let lines = match tensors.tensors().get(PROMPTS) {
            Some(stored) => parse_lines(&name, &stored.read_bytes()?, *prompts)?,
            None => (1..=*prompts).map(|number| Prompt::from(format!("prompt {number}").as_str())).collect(),
        };
        let described = tensors.metadata().get(KEY).and_then(|text| serde_json::from_str::<Value>(text).ok());
        let negative = described.and_then(|it| Some(it.get("negative_prompt")?.as_str()?.to_owned()));
        let rows = (0..*prompts).collect();
        Ok(Self { tensors, lines, negative, rows })
    }

    /// Keeps only these prompts, in this order; all if there are none. Returns the prompts.
    ///
    /// # Errors
    /// [`Error::Input`] if one is not in the file.
    pub(super) fn choose(&mut self, chosen: &[String]) -> Result<Vec<Prompt>> {
        let place = |wanted: &String| {
            self.lines.iter().position(|line| line.text == *wanted).ok_or_else(|| {
                Error::input(format!(
                    "{} has no prompt \"{wanted}\": encode it, too, or leave out the prompt to have all of the file",
                    self.tensors.name()
                ))
            })
        };
        if !chosen.is_empty() {
            self.rows = chosen.iter().map(place).collect::<Result<_>>()?;
        }
        Ok(self.rows.iter().map(|row| self.lines[*row].clone()).collect())
    }

    /// The prompts as they were in their file.
    pub fn lines(&self) -> &[Prompt] {
        &self.lines
    }

    /// The negative prompt, if the file says what it is.
    pub fn negative_prompt(&self) -> Option<&str> {
        self.negative.as_deref()
    }

    fn shape(&self, tensor: &str) -> &[usize] {
        self.tensors.tensors().get(tensor).map_or(&[], |stored| stored.shape())
    }

    /// Rows of each prompt.
    pub fn tokens(&self) -> usize {
        self.shape(EMBEDDINGS[0])[1]
    }

    pub(super) fn check(&self, expected: [usize; 2], guided: bool) -> Result<()> {
        let name = self.tensors.name();
        let found = [self.shape(EMBEDDINGS[0])[2], self.shape(EMBEDDINGS[1]).get(1).copied().unwrap_or(0)];
        if found != expected {
            return Err(Error::input(format!(
                "{name} has embeddings of {} and {} numbers, but the transformer takes {} and {}: encode the prompts with \
                 this model",
                found[0], found[1], expected[0], expected[1]
            )));
        }
        if guided && self.shape(NEGATIVE[0]).is_empty() {
            return Err(Error::input(format!(
                "{name} has no negative prompt (`{}`), which guidance needs: set the guidance scale to 1, or encode the \
                 prompts again",
                NEGATIVE[0]
            )));
        }
        Ok(())
    }

    pub(super) fn of(&self, prompt: Option<usize>) -> Result<PromptEmbedding> {
        let (names, row) = prompt.map_or((NEGATIVE, 0), |prompt| (EMBEDDINGS, self.rows[prompt]));
        let read = |name: &str| {
            let values = self.tensors.get(name)?.rows(row..row + 1)?.read()?;
            match values.iter().all(|value| value.is_finite()) {
                true => Ok(values),
                false => Err(Error::input(format!(
                    "{}: tensor `{name}` is not finite at row {row}: encode the prompts again",
                    self.tensors.name()
                ))),
            }
        };
        let has_pooled = !self.shape(names[1]).is_empty();
        let pooled = if has_pooled { read(names[1])? } else { Vec::new() };
        Ok(PromptEmbedding { context: read(names[0])?, pooled })
    }
}

fn parse_lines(name: &str, bytes: &[u8], count: usize) -> Result<Vec<Prompt>> {
    let broken = |cause: String| Error::input(format!("{name}: tensor `{PROMPTS}` {cause}: encode the prompts again"));
    let text = std::str::from_utf8(bytes).map_err(|_| broken("is no text".into()))?;
    let lines = text.lines().map(|line| Prompt::of_json(line).map_err(&broken)).collect::<Result<Vec<_>>>()?;
    match lines.len() == count {
        true => Ok(lines),
        false => Err(broken(format!("has {} lines for {count} prompts", lines.len()))),
    }
}

/// Writes rows of numbers, in 32 or 16 bits.
fn put_numbers(writer: &mut Writer<'_>, tensor: &str, row: usize, values: &[f32], half: bool) -> Result<()> {
    if !half {
        return writer.put(tensor, row, bytemuck::cast_slice(values));
    }
    let halves: Vec<u16> = values.iter().map(|value| f16::from_f32(*value).to_bits()).collect();
    if let Some(at) = halves.iter().position(|bits| !f16::from_bits(*bits).is_finite()) {
        return Err(Error::input(format!(
            "the embeddings have a {}, which is too large for 16 bits: keep them in 32 bits with --precision f32",
            values[at]
        )));
    }
    writer.put(tensor, row, bytemuck::cast_slice(&halves))
}

/// Encodes prompts into a file, group by group; of several ranks each encodes every so many-th, and rank 0 writes the file.
/// `done` is told how many prompts are done; what was cut off is returned as by
/// [`Conditions::encode`](super::Conditions::encode), on rank 0.
///
/// # Errors
/// As there, and if the file cannot be written, or the connection fails.
pub fn encode_to_file(
    gpu: &Arc<Gpu>,
    encoders: &Encoders,
    prompts: &[Prompt],
    negative: &str,
    options: FileOptions<'_>,
    team: &Team,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<CutPrompt>> {
    let lines: String = prompts.iter().map(|prompt| prompt.to_line() + "\n").collect();
    let description = describe(encoders, &lines, negative)?.to_string();
    team.check_same(&[("model or prompts", description.clone())], "give all of them the same files")?;
    // The negative prompt goes first, with the first group.
    let texts: Vec<&str> = [negative].into_iter().chain(prompts.iter().map(|prompt| prompt.text.as_str())).collect();
    if !team.leads() {
        return encode_groups(gpu, encoders, &texts, options.group, team, |_| Ok(()));
    }
    let (count, tokens, [width, pooled]) = (prompts.len(), encoders.prompts.tokens(), encoders.widths);
    let (path, dtype) = (options.path, if options.half { Dtype::F16 } else { Dtype::F32 });
    let tensors = [
        (EMBEDDINGS[0], dtype, vec![count, tokens, width]),
        (EMBEDDINGS[1], dtype, vec![count, pooled]),
        (NEGATIVE[0], dtype, vec![1, tokens, width]),
        (NEGATIVE[1], dtype, vec![1, pooled]),
        (PROMPTS, Dtype::U8, vec![lines.len()]),
    ];
    let tensors = tensors.into_iter().filter(|(_, _, shape)| !shape.contains(&0));
    let mut cut = Vec::new();
    fill_atomically(path, |file| {
        let mut writer = Writer::begin(path, file, tensors, (KEY, description))?;
        writer.put(PROMPTS, 0, lines.as_bytes())?;
        cut = encode_groups(gpu, encoders, &texts, options.group, team, |group| {
            let first = group.first;
            for (place, values) in group.values.iter().enumerate().filter(|(_, values)| !values.is_empty()) {
                let (negative, these) = values.split_at(if first == 0 { values.len() / group.count } else { 0 });
                put_numbers(&mut writer, NEGATIVE[place], 0, negative, options.half)?;
                put_numbers(&mut writer, EMBEDDINGS[place], first.saturating_sub(1), these, options.half)?;
            }
            done((first + group.count).saturating_sub(1));
            Ok(())
        })?;
        Ok(())
    })?;
    Ok(cut)
}

/// Encoded texts in a row.
#[derive(Debug)]
struct EncodedGroup {
    /// The place of the first among all texts.
    first: usize,
    /// How many.
    count: usize,
    /// Their embeddings, and their pooled embeddings.
    values: [Vec<f32>; 2],
    /// What was cut off; the places are those in the group.
    cut: Vec<CutPrompt>,
}

impl EncodedGroup {
    /// As another rank receives it: the lengths of both values, the values, and the rest as JSON.
    fn packed(&self) -> Vec<u8> {
        let lengths = self.values.each_ref().map(|values| (values.len() as u64).to_le_bytes());
        let values = self.values.each_ref().map(|values| bytemuck::cast_slice::<f32, u8>(values));
        let rest = serde_json::to_vec(&(self.first, self.count, &self.cut)).expect("numbers and text are JSON");
        [lengths.as_flattened(), &values.concat(), &rest].concat()
    }

    /// The inverse; `None` of bytes that are something else.
    fn unpacked(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut part = |length: u64| rest.split_off(..usize::try_from(length).ok()?);
        let lengths = [part(8)?, part(8)?].map(|bytes| bytes.try_into().map(u64::from_le_bytes));
        let mut values = |length: u64| Some(bytemuck::pod_collect_to_vec(part(length.checked_mul(4)?)?));
        let values = [values(lengths[0].ok()?)?, values(lengths[1].ok()?)?];
        let (first, count, cut) = serde_json::from_slice(rest).ok()?;
        Some(Self { first, count, values, cut })
    }
}

/// Encodes groups of texts, each rank one at a time, and gives all of them to `put` on rank 0, in order; there it returns
/// what was cut off.
fn encode_groups(
    gpu: &Arc<Gpu>,
    encoders: &Encoders,
    texts: &[&str],
    group: usize,
    team: &Team,
    mut put: impl FnMut(&EncodedGroup) -> Result<()>,
) -> Result<Vec<CutPrompt>> {
    let (seat, group) = (team.seat(), group.max(1));
    let groups: Vec<(usize, &[&str])> =
        texts.chunks(group).enumerate().map(|(index, it)| (index * group, it)).collect();
    let mut cut = Vec::new();
    for round in groups.chunks(seat.size) {
        let own = round.get(seat.rank).map(|(first, texts)| {
            let (encoded, cut) = encoders.encode(gpu, texts)?;
            let values = [encoded.embeddings, encoded.pooled];
            Ok::<_, Error>(EncodedGroup { first: *first, count: texts.len(), values, cut })
        });
        let own = own.transpose()?;
        let encoded = if team.is_many() { sent_to_leader(team, own.as_ref())? } else { own.into_iter().collect() };
        for group in encoded {
            put(&group)?;
            cut.extend(group.cut.into_iter().map(|it| CutPrompt { prompt: it.prompt + group.first, ..it }));
        }
    }
    Ok(cut)
}

/// The groups of all ranks that have one, on rank 0.
fn sent_to_leader(team: &Team, own: Option<&EncodedGroup>) -> Result<Vec<EncodedGroup>> {
    let mut to = vec![Vec::new(); team.seat().size];
    to[0] = own.map(EncodedGroup::packed).unwrap_or_default();
    let received = team.exchange(to)?.into_iter().enumerate().filter(|(_, bytes)| team.leads() && !bytes.is_empty());
    let unpacked = |(rank, bytes): (usize, Vec<u8>)| {
        EncodedGroup::unpacked(&bytes)
            .ok_or_else(|| Error::failed(format!("rank {rank} sent embeddings that cannot be read")))
    };
    received.map(unpacked).collect()
}

/// What made the file: the encoders and the prompts, by checksums.
fn describe(encoders: &Encoders, lines: &str, negative: &str) -> Result<Value> {
    let mut sums = Map::new();
    for folder in encoders.folders.encoders() {
        let weights = Weights::open(folder, "")?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        sums.insert(name, checksum(weights.files().map(Path::to_owned))?.into());
    }
    let mut of_prompts = crc32fast::Hasher::new();
    of_prompts.update(lines.as_bytes());
    Ok(json!({
        "negative_prompt": negative,
        "t5": encoders.prompts.has_t5(),
        "tokens": encoders.prompts.tokens(),
        "encoders_crc32": sums,
        "prompts_crc32": format!("{:08x}", of_prompts.finalize()),
    }))
}

/// The CRC-32 of files, one after the other.
fn checksum(files: impl Iterator<Item = PathBuf>) -> Result<String> {
    let mut sum = crc32fast::Hasher::new();
    for path in files {
        sum.combine(&measure(&path).map_err(|cause| Error::unreadable(&path, cause))?.crc32);
    }
    Ok(format!("{:08x}", sum.finalize()))
}
