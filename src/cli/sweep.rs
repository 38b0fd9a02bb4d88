//! `sweep`: a set of training runs, and their comparison.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use clap::Args;

use super::{Global, compare, say, stop_at_interrupt};
use crate::config::{Sweep, SweepRun};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::graph::DeviceProfile;
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
    let out = &arguments.out;
    let runs = Sweep::load(&arguments.file)?.runs(&arguments.file.display().to_string(), &out.join("runs"))?;
    let device = runs[0].config.run.device.clone();
    let plan = SweepPlan::new(runs)?;
    if arguments.dry_run {
        return dry_run(global, &plan, &device);
    }
    let open = plan.runs().iter().filter(|run| plan.progress(run) == RunState::Open).count();
    let total = plan.runs().len();
    if open > 0 {
        let gpu = global.open(&device)?;
        plan.check(&gpu)?;
        prepare_folder(out, &arguments.file)?;
        global.announce(format_args!("{open} of {total} runs to do on {}", gpu.description().name));
        let stop = stop_at_interrupt(&global.team)?;
        let count = |index: usize| format!("[{}/{total}]", index + 1);
        plan.execute_all(&gpu, global.verbosity(), &stop, |index, run, ended| match ended {
            None => global.announce(format_args!("{} {}", count(index), title(run))),
            Some(Ended::Trained(outcome)) => {
                if let Some(tuned) = &outcome.tuned {
                    let (base, tuned) = (outcome.base.reward_mean, tuned.reward_mean);
                    global.announce(format_args!("{} reward {base:.3} before, {tuned:.3} after", count(index)));
                }
            }
            Some(Ended::Failed(message)) => global.announce(format_args!("{} failed: {message}", count(index))),
        })?;
        if stop.load(Ordering::Relaxed) {
            let done = plan.runs().iter().filter(|run| plan.progress(run) != RunState::Open).count();
            say(format_args!("stopped with {done} of {total} runs done; run the same command again to continue"));
        }
    }
    match plan.comparison()? {
        Some(comparison) => compare::write(global, &comparison, out),
        None => Ok(()),
    }
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

fn dry_run(global: &Global, plan: &SweepPlan, device: &str) -> Result<()> {
    let gpu = global.open(device)?;
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
