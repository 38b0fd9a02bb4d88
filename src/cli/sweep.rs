//! `sweep`: a set of training runs, and their comparison.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::Args;

use super::{Global, compare, ranks, say, stop_at_interrupt};
use crate::config::{Precision, Sweep, SweepRun};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::gpu::Gpu;
use crate::graph::DeviceProfile;
use crate::ranks::{Team, rank_log};
use crate::sweep::{Ended, RunState, SweepPlan};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The sweep: base configuration, seeds, variants and grids (TOML)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Folder for the runs and their comparison; the same command continues where it was interrupted
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only list the runs and what training them will cost
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let (out, team) = (&arguments.out, &global.team);
    let runs = Sweep::load(&arguments.file)?.runs(&arguments.file.display().to_string(), &out.join("runs"))?;
    let device = runs[0].config.run.device.clone();
    // With 16 bits if any run wants them: the others do not use them.
    let precisions = runs.iter().map(|run| run.config.train.precision);
    let precision = precisions.max().expect("a sweep has runs");
    let plan = SweepPlan::new(runs)?;
    let open = plan.open();
    check_same(global, &plan, &open)?;
    if arguments.dry_run {
        return dry_run(global, &plan, precision, &device);
    }
    if !open.is_empty() {
        let gpu = global.open_in(precision, &device)?;
        plan.check(&gpu)?;
        warn_of_devices(team, &gpu)?;
        // The input is checked on all ranks; only now write to the disk.
        team.agree(Ok(()))?;
        team.agree(if team.leads() { prepare_folder(out, &arguments.file) } else { Ok(()) })?;
        rank_log::write_into(out, team.seat())?;
        let ranks = if team.is_many() { format!(", spread over {} ranks", team.seat().size) } else { String::new() };
        let count = format!("{} of {} runs", open.len(), plan.runs().len());
        global.announce(format_args!("{count} to do on {}{ranks}", gpu.description().name));
        if team.is_many() {
            let encoded = if team.leads() { plan.encode_prompts(&gpu, &open, global.verbosity()) } else { Ok(()) };
            team.agree(encoded)?;
        }
        execute(global, &plan, &gpu, &open)?;
    }
    if !team.leads() {
        return Ok(());
    }
    match plan.comparison()? {
        Some(comparison) => compare::write(global, &comparison, out),
        None => Ok(()),
    }
}

/// Checks that all ranks have the same sweep before them.
fn check_same(global: &Global, plan: &SweepPlan, open: &[usize]) -> Result<()> {
    if !global.team.is_many() {
        return Ok(());
    }
    let configs = plan.runs().iter().map(|run| run.config.to_toml()).collect::<Vec<_>>().join("\n");
    let (all, open) = (format!("CRC-32 {:08x}", crc32fast::hash(configs.as_bytes())), format!("{open:?}"));
    ranks::check_same_command(global, &[("set of runs", all), ("list of runs to do", open)])
}

/// Runs on different devices are not quite comparable.
fn warn_of_devices(team: &Team, gpu: &Gpu) -> Result<()> {
    if let Some([first, other]) = team.differing(&ranks::device_of(gpu))?
        && team.leads()
    {
        log::warn!(
            "ranks have different devices ({first}; {other}), which round differently: the results of a run depend on which \
             rank trains it"
        );
    }
    Ok(())
}

/// Does the open runs, of several ranks each its own: every so many-th. A rank that fails lets the others finish theirs.
fn execute(global: &Global, plan: &SweepPlan, gpu: &Arc<Gpu>, open: &[usize]) -> Result<()> {
    let (team, total) = (&global.team, plan.runs().len());
    let seat = team.seat();
    let own: Vec<usize> = open.iter().copied().skip(seat.rank).step_by(seat.size).collect();
    team.on_death("; finished runs are kept: start the same command again to continue".to_owned());
    let stop = stop_at_interrupt(team)?;
    let count = |index: usize| format!("[{}/{total}]", index + 1);
    let done = plan.execute_all(gpu, &own, global.verbosity(), &stop, |index, run, ended| match ended {
        None => global.announce(format_args!("{} {}", count(index), title(run))),
        Some(Ended::Trained(outcome)) => {
            if let Some(tuned) = &outcome.tuned {
                let (base, tuned) = (outcome.base.reward_mean, tuned.reward_mean);
                global.announce(format_args!("{} reward {base:.3} before, {tuned:.3} after", count(index)));
            }
        }
        Some(Ended::Failed(message)) => global.announce(format_args!("{} failed: {message}", count(index))),
    });
    if let (Err(error), true) = (&done, team.is_many()) {
        ranks::tell_all(team, &format!("{error}; the other ranks finish their runs"));
    } else if team.is_many() {
        global.announce(format_args!("waiting for the runs of the other ranks"));
    }
    team.agree(done)?;
    if team.any(stop.load(Ordering::Relaxed))? {
        let done = total - plan.open().len();
        say(format_args!("stopped with {done} of {total} runs done; run the same command again to continue"));
    }
    Ok(())
}

/// Creates the folder and copies the sweep file into it.
fn prepare_folder(out: &Path, file: &Path) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|cause| {
        Error::unusable(format!("cannot write into {}: {cause}; choose another --out", out.display()), &cause)
    })?;
    let text = std::fs::read(file).map_err(|cause| Error::unreadable(file, cause))?;
    write_atomically(&out.join("sweep.toml"), &text)
}

fn title(run: &SweepRun) -> String {
    format!("{}, seed {}", run.label, run.config.run.seed)
}

fn dry_run(global: &Global, plan: &SweepPlan, precision: Precision, device: &str) -> Result<()> {
    let gpu = global.open_in(precision, device)?;
    plan.check(&gpu)?;
    let profile = DeviceProfile::of(&gpu);
    let width = plan.runs().iter().map(|run| title(run).chars().count()).max().unwrap_or(0);
    let mut left = 0.0;
    for run in plan.runs() {
        let cost = plan.cost(run, &profile)?;
        let iterations = run.config.train.iterations;
        let gigaflops = (cost.rollout_flops + cost.update_flops) as f64 * iterations as f64 / 1e9;
        let state = match plan.progress(run) {
            RunState::Open => "",
            RunState::Finished => "  finished",
            RunState::Failed(_) => "  failed",
        };
        if state.is_empty() {
            left += gigaflops;
        }
        let title = title(run);
        say(format_args!("{title:<width$}  {iterations:>6} iterations  {gigaflops:>10.1} GFLOP{state}"));
    }
    say(format_args!(
        "{} runs, {left:.1} GFLOP of training left on {} (plus evaluations)",
        plan.runs().len(),
        gpu.description().name
    ));
    Ok(())
}
