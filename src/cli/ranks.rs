//! What commands do as one of several ranks: which device they take, what must be the same, and how they end.

use std::io::Write;

use super::{Command, Global};
use crate::config::{Config, Reduction};
use crate::error::{Error, Result};
use crate::gpu::{AdapterDescription, Gpu, adapters};
use crate::ranks::{Team, rank_log};
use crate::run::LoadedCheckpoint;
use crate::run::inputs::Inputs;
use crate::run::progress::AboveBar;
use crate::text::printable;

/// Checks that a command can be started several times together.
///
/// # Errors
/// [`Error::Input`] if it would do the same work several times.
pub(super) fn check_command(team: &Team, command: &Command) -> Result<()> {
    let size = team.seat().size;
    let is_shared = match command {
        Command::Train(_)
        | Command::Pretrain(_)
        | Command::FitClassifier(_)
        | Command::Encode(_)
        | Command::Sweep(_) => true,
        Command::Bench(arguments) => arguments.is_shared(),
        _ => false,
    };
    if !team.is_many() || is_shared {
        return Ok(());
    }
    // Every rank says the same.
    Err(Error::input(format!(
        "only `train`, `pretrain`, `fit-classifier`, `encode` and `sweep` are shared by several processes, and this command was \
         started {size} times: start it once, without mpirun"
    )))
}

/// Chooses how a run that leaves it open sums gradients, `key`, once a launcher has started it; the run keeps that.
pub(super) fn settle_reduction(team: &Team, reduction: &mut Reduction, key: &str, is_resumed: bool) {
    if *reduction != Reduction::Auto || !team.is_launched() {
        return;
    }
    if team.leads() && is_resumed {
        log::warn!(
            "the run was started in one process, which sums gradients in another order (`{key}`): from here on its last bits \
             differ from those that it would have had"
        );
    }
    *reduction = Reduction::Tree;
}

/// The device of this rank: what the user has named, of a list of indices the one for its place on the machine, and without
/// a name one of the best adapters, in turn.
///
/// # Errors
/// [`Error::Input`] if a list has something else than indices.
pub(super) fn device(team: &Team, named: Option<String>) -> Result<Option<String>> {
    let seat = team.on_machine();
    let listed = named.as_deref().and_then(indices);
    if let (false, Some([_, _, ..])) = (team.is_many(), listed.as_deref()) {
        return Err(Error::input(format!(
            "the device {} is a list, one for each of several ranks, but there is one process: name one device, or start \
             several with mpirun",
            named.unwrap_or_default()
        )));
    }
    let choice = match (&listed, &named) {
        (Some(listed), _) => listed.clone(),
        (None, Some(_)) => return Ok(named),
        (None, None) if !team.is_many() || std::env::var_os("WGPU_ADAPTER_NAME").is_some() => return Ok(None),
        (None, None) => {
            let found = adapters();
            let best = found.iter().filter(|adapter| adapter.kind == found[0].kind);
            best.map(|adapter| adapter.index).collect()
        }
    };
    // Without an adapter, opening one says so.
    let Some(index) = choice.get(seat.rank % choice.len().max(1)) else { return Ok(None) };
    if seat.rank == 0 && seat.size > choice.len() {
        log::warn!(
            "{} ranks share {} device{} on this machine: they get in each other's way, and each needs its own memory there",
            seat.size,
            choice.len(),
            if choice.len() == 1 { "" } else { "s" }
        );
    }
    Ok(Some(index.to_string()))
}

/// The indices of a list such as `0,1,2,3`; names of adapters may have commas, too.
fn indices(named: &str) -> Option<Vec<usize>> {
    let listed = named.contains(',').then(|| named.split(',').map(|index| index.trim().parse().ok()).collect());
    listed.flatten()
}

/// Checks that all ranks run the same program with the same options, and would train the same run; `files` are those that
/// it depends on.
///
/// # Errors
/// [`Error::Input`] that names what differs.
pub(super) fn check_same(
    global: &Global,
    config: &Config,
    newest: Option<&LoadedCheckpoint>,
    files: impl FnOnce() -> Result<Inputs>,
) -> Result<()> {
    if !global.team.is_many() {
        return Ok(());
    }
    let files = global.team.agree(files())?;
    check_same_command(
        global,
        &[
            ("configuration", checksum(config.to_toml().as_bytes())),
            ("content of the files that it names", checksum(format!("{files:?}").as_bytes())),
            (
                "point to continue from",
                newest.map_or_else(|| "the beginning".to_owned(), |newest| format!("iteration {}", newest.iteration)),
            ),
        ],
    )
}

/// Checks that all ranks run the same program with the same options, and have the same of what else counts: names and
/// values.
///
/// # Errors
/// [`Error::Input`] that names what differs.
pub(super) fn check_same_command(global: &Global, more: &[(&str, String)]) -> Result<()> {
    if !global.team.is_many() {
        return Ok(());
    }
    let program = std::env::current_exe().and_then(std::fs::read);
    let values = [
        ("program", program.map_or_else(|_| "unknown".to_owned(), |bytes| checksum(&bytes))),
        ("`--limits` or `--checked`", format!("{:?}, {}", global.limits, global.checked)),
    ];
    let remedy = "start all of them with the same program, command line and files, on a shared file system";
    global.team.check_same(&[&values, more].concat(), remedy)
}

fn checksum(bytes: &[u8]) -> String {
    format!("CRC-32 {:08x}", crc32fast::hash(bytes))
}

/// Checks that all ranks have equal devices: in supervised training none follows another, and others round differently.
///
/// # Errors
/// [`Error::Input`] with two that differ.
pub(super) fn check_equal_devices(team: &Team, gpu: &Gpu) -> Result<()> {
    match team.differing(&device_of(gpu))? {
        None => Ok(()),
        Some([first, other]) => Err(Error::input(format!(
            "ranks have different devices ({first}; {other}), which round differently, and this command needs equal ones: \
             choose them with --device, or start ranks only where they are equal"
        ))),
    }
}

/// A device as ranks compare it.
pub(super) fn device_of(gpu: &Gpu) -> String {
    let AdapterDescription { name, driver, .. } = gpu.description();
    format!("{name}, {driver}")
}

/// Does work on rank 0 before the others: it may write files, which they then find.
///
/// # Errors
/// Those of the work, on any rank.
pub(super) fn leader_first<T>(team: &Team, work: impl Fn() -> Result<T>) -> Result<T> {
    let first = if team.leads() { work().map(Some) } else { Ok(None) };
    match team.agree(first)? {
        Some(done) => Ok(done),
        None => work(),
    }
}

/// The end of a command, which all ranks reach. If they do not reach each other any more, this one ends all.
///
/// # Errors
/// That of the command, on any rank.
pub(super) fn ended(team: &Team, outcome: Result<()>) -> Result<()> {
    match team.agree(outcome) {
        Err(error) if team.is_many() && !team.has_failed() => {
            tell_all(team, &error.to_string());
            team.abort(&error)
        }
        outcome => outcome,
    }
}

/// Tells the user, and the log of this rank, of an error here while the others go on.
pub(super) fn tell_all(team: &Team, error: &str) {
    let text = format!("error: rank {}: {}", team.seat().rank, printable(error));
    if !rank_log::is_open() {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
    let _ = writeln!(AboveBar, "{text}");
}

#[cfg(test)]
mod tests {
    use super::indices;

    #[test]
    fn lists_of_indices_are_not_names() {
        assert_eq!(indices("0,1, 3"), Some(vec![0, 1, 3]));
        for name in ["0", "llvmpipe (LLVM 15.0.6, 256 bits)", "4090", "0,x", ""] {
            assert_eq!(indices(name), None, "{name}");
        }
    }
}
