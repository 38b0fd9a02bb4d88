//! Bad input to the commands that read or make several runs, and to `bench`.

use std::fs;

use super::bad_input::{blocked, case, check, nothing};
use super::workplace::Workplace;

/// A run directory with one evaluation and a truncated second line.
fn one_run(here: &Workplace) {
    fs::create_dir(here.path("run")).unwrap();
    fs::write(here.path("run/config.toml"), "[run]\nseed = 3\n").unwrap();
    let log = "{\"iteration\":0,\"eval/reward_mean\":0.5}\n{\"iteration\":1,\"reward_me";
    fs::write(here.path("run/metrics.jsonl"), log).unwrap();
}

#[test]
fn runs_to_compare() {
    check(&[
        case(nothing, "compare nowhere --out c", 2, &["nowhere is not a run of train", "no such directory"]),
        case(nothing, "compare x=train.toml --out c", 2, &["train.toml is not a run of train", "it is a file"]),
        case(nothing, "compare . --out c", 2, &["is not a run of train", "it has no config.toml"]),
        case(
            |here| {
                one_run(here);
                fs::write(here.path("run/metrics.jsonl"), "{\"iter").unwrap();
            },
            "-q compare run --out c",
            2,
            &["run is not a run of train", "no iteration yet"],
        ),
        case(
            |here| {
                one_run(here);
                fs::write(here.path("run/metrics.jsonl"), "{\"iteration\":50,\"loss\":0.5}\n").unwrap();
            },
            "compare run --out c",
            2,
            &["have no reward", "pretrain or fit-classifier"],
        ),
        case(
            |here| {
                one_run(here);
                fs::write(here.path("run/config.toml"), "[run").unwrap();
            },
            "compare run --out c",
            2,
            &["cannot read run/config.toml"],
        ),
        case(one_run, "-q compare run a=./run --out c", 2, &["./run is given twice"]),
        case(
            |here| {
                one_run(here);
                blocked(here);
            },
            "-q compare run --out blocked",
            2,
            &["cannot write into blocked", "--out"],
        ),
    ]);
}

#[test]
fn runs_to_resume() {
    // Two iterations.
    let finished: fn(&Workplace) = |here| _ = here.run("-q train --config train.toml --out run").succeeds();
    const STAYS: &[&str] = &["`run.name` and `run.out_dir` cannot change", "stays in run"];
    check(&[
        case(
            finished,
            "train --resume --out run --set train.iterations=1",
            2,
            &["`train.iterations` must be at least 2, the number already done in run, not 1"],
        ),
        case(finished, "train --resume --out run --set run.name=other", 2, STAYS),
        case(finished, "train --resume --out run --set run.out_dir=elsewhere", 2, STAYS),
        case(finished, "train --resume --out run --set train.iterations=0", 2, &["`train.iterations` must be"]),
    ]);
}

/// Writes `sweep.toml`.
fn sweep(here: &Workplace, text: &str) {
    fs::write(here.path("sweep.toml"), text).unwrap();
}

#[test]
fn sweeps() {
    const SWEEP: &str = "sweep sweep.toml --out s";
    check(&[
        case(nothing, SWEEP, 2, &["cannot read sweep.toml"]),
        case(
            |here| sweep(here, "[grid]\ntrain.iterations = [1, 2]\n"),
            "train --config sweep.toml",
            2,
            &["sweep.toml is a sweep: flowdppo-wgpu sweep sweep.toml"],
        ),
        case(
            nothing,
            "sweep train.toml --out s",
            2,
            &["is the configuration of a run, not a sweep", "flowdppo-wgpu train --config train.toml", "`sweep.base`"],
        ),
        case(|here| sweep(here, ""), SWEEP, 2, &["sweep.toml has nothing to run", "[[variant]]", "[grid]"]),
        case(
            |here| sweep(here, "[sweep]\nseds = [1]\n"),
            SWEEP,
            2,
            &["sweep.toml:2:1", "`sweep.seds`", "did you mean `sweep.seeds`?"],
        ),
        case(
            |here| sweep(here, "[[variant]]\nlabel = \"x\"\nset = [\"train.iteratons=1\"]\n"),
            SWEEP,
            2,
            &["sweep.toml, `x`", "did you mean `train.iterations`?"],
        ),
        case(
            |here| sweep(here, "[sweep]\nbase = \"nowhere.toml\"\n[[variant]]\nlabel = \"x\"\n"),
            SWEEP,
            2,
            &["cannot read nowhere.toml"],
        ),
        case(
            |here| sweep(here, "[[variant]]\nlabel = \"x\"\nset = [\"model.file=nowhere.safetensors\"]\n"),
            SWEEP,
            2,
            &["nowhere.safetensors"],
        ),
        case(
            |here| {
                blocked(here);
                sweep(here, "[sweep]\nbase = \"train.toml\"\n[[variant]]\nlabel = \"x\"\n");
            },
            "sweep sweep.toml --out blocked",
            2,
            &["cannot write into blocked"],
        ),
        case(
            |here| {
                sweep(here, "[sweep]\nbase = \"train.toml\"\n[[variant]]\nlabel = \"x\"\n");
                here.run("-q sweep sweep.toml --out s").succeeds();
                sweep(
                    here,
                    "[sweep]\nbase = \"train.toml\"\nset = [\"train.iterations=9\"]\n[[variant]]\nlabel = \"x\"\n",
                );
            },
            SWEEP,
            2,
            &["s/runs/x-seed0 was started with another configuration", "train.iterations", "--out"],
        ),
    ]);
}

#[test]
fn benchmarks() {
    check(&[
        case(nothing, "bench matmull", 2, &["`matmull`", "did you mean `matmul`?"]),
        case(nothing, "bench fma everything", 2, &["`everything`", "dit-step"]),
        case(nothing, "bench fma --compare nowhere.json", 2, &["cannot read nowhere.json"]),
        case(
            |here| fs::write(here.path("old.json"), "{\"format\": ").unwrap(),
            "bench fma --compare old.json",
            2,
            &["old.json", "does not contain results", "EOF"],
        ),
        case(
            |here| fs::write(here.path("old.json"), "{\"seconds\": 3}").unwrap(),
            "bench fma --compare old.json",
            2,
            &["old.json", "does not contain results", "has no `format`"],
        ),
        case(
            |here| fs::write(here.path("old.json"), "{\"format\": \"flowdppo-wgpu bench 9\"}").unwrap(),
            "bench fma --compare old.json",
            2,
            &["old.json", "`flowdppo-wgpu bench 9`"],
        ),
        case(
            |here| fs::write(here.path("old.json"), "{\"format\": \"flowdppo-wgpu bench 1\"}").unwrap(),
            "bench fma --compare old.json",
            2,
            &["old.json", "missing field"],
        ),
        case(blocked, "bench fma --out blocked/new.json", 2, &["cannot write blocked/new.json"]),
        case(nothing, "bench --tune --model nowhere.safetensors", 2, &["cannot read nowhere.safetensors"]),
        case(nothing, "bench --tune --model classifier.safetensors", 2, &["classifier.safetensors is a classifier"]),
    ]);
}
