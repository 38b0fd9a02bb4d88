//! Runs that end early: a lost device, and Ctrl-C.

use flowdppo_wgpu::Error;
use flowdppo_wgpu::config::Config;
use flowdppo_wgpu::files::Content;
use flowdppo_wgpu::gpu::{Gpu, Options};
use flowdppo_wgpu::graph::{Plan, Stores};
use flowdppo_wgpu::model::Model;
use flowdppo_wgpu::rl::Trainer;
use flowdppo_wgpu::run::checkpoint;
use flowdppo_wgpu::sampling::noise_graph;

use super::workplace::Workplace;

#[test]
fn a_lost_device_is_exit_code_4_and_the_run_can_be_resumed() {
    let here = Workplace::new();
    let file = |name: &str| here.path(name).to_str().unwrap().to_owned();
    let overrides = [
        format!("model.file={}", file("base.safetensors")),
        format!("reward.0.file={}", file("classifier.safetensors")),
    ];
    let config = Config::load(Some(&here.path("train.toml")), &overrides).unwrap();
    let model = Model::load(&here.path("base.safetensors")).unwrap();
    let open = || Gpu::open(&Options::default().or_environment()).unwrap();

    let gpu = open();
    let (graph, keys, noise) = noise_graph(&model.flow_model("it").unwrap(), 1);
    let mut plan = Plan::new(&gpu, &graph, &Stores::new()).unwrap();
    plan.write(keys, &[0_u32; 5]);
    plan.run().unwrap();
    let mut trainer = Trainer::new(&gpu, (&config).into(), &model).unwrap();
    trainer.iteration(0).unwrap();
    let checkpoints = here.path("checkpoints");
    checkpoint::save(&checkpoints, 1, &trainer.checkpoint(1).unwrap(), 3).unwrap();

    gpu.lose();
    let errors = [
        plan.run().unwrap_err(),
        plan.read::<f32>(&[noise]).unwrap_err(),
        gpu.allocate("more", 4).unwrap_err(),
        trainer.iteration(1).unwrap_err(),
        trainer.checkpoint(2).unwrap()[0].1.bytes().unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::DeviceLost(_)), "{error}");
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("--resume"), "{error}");
    }
    drop((plan, trainer, gpu));

    let gpu = open();
    let mut again = Trainer::new(&gpu, (&config).into(), &model).unwrap();
    let found = checkpoint::latest(&checkpoints).unwrap().unwrap();
    assert_eq!(again.restore(&found).unwrap(), 1);
    again.iteration(1).unwrap();
}

#[cfg(unix)]
pub mod ctrl_c {
    use std::io::Read;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use flowdppo_wgpu::model::Model;

    use super::super::workplace::{Workplace, program};

    /// Waits at most a minute, which is generous because other tests run at the same time.
    pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts the program, interrupts it when it has written two lines of metrics, and returns what it printed.
    fn interrupt(here: &Workplace, arguments: &str, metrics: &Path) -> String {
        let mut child: Child =
            program(&here.path(""), arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        wait_for("the second line of metrics", || {
            let text = std::fs::read_to_string(metrics).unwrap_or_default();
            (text.lines().count() >= 2).then_some(())
        });
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let status = wait_for("the end of the program", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
        let mut out = String::new();
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        out
    }

    #[test]
    fn train_finishes_the_iteration_and_saves_it() {
        let here = Workplace::new();
        let out = interrupt(
            &here,
            "train --config train.toml --out run --set train.iterations=1000000 --set checkpoint.every=0 --set \
             preview.every=0",
            &here.path("run/metrics.jsonl"),
        );
        let (_, rest) = out.split_once("stopped after iteration ").unwrap_or_else(|| panic!("{out}"));
        let iteration: u64 = rest.split(';').next().unwrap().parse().unwrap();
        let checkpoint = here.path(&format!("run/checkpoints/{iteration:06}"));
        Model::load(&checkpoint.join("ema.safetensors")).unwrap();
        assert!(!here.path("run/model.safetensors").exists(), "the run is not over");
        // The recommended command works.
        let (_, command) = rest.split_once("with: flowdppo-wgpu ").unwrap();
        let more = format!("{} --set train.iterations={}", command.trim(), iteration + 1);
        assert!(here.run(&more).succeeds().contains("tuned model: run"));
    }

    #[test]
    fn pretrain_saves_the_model_that_it_has() {
        let here = Workplace::new();
        let out = interrupt(
            &here,
            "pretrain --config pretrain.toml --out run --set pretrain.steps=1000000 --set pretrain.sample_every=0",
            &here.path("run/metrics.jsonl"),
        );
        let (_, rest) = out.split_once("stopped after step ").unwrap_or_else(|| panic!("{out}"));
        let step: u64 = rest.split(';').next().unwrap().parse().unwrap();
        Model::load(&here.path("run/model.safetensors")).unwrap();
        assert!(here.path(&format!("run/checkpoints/{step:06}/manifest.json")).exists());
        // The recommended command works.
        let (_, command) = rest.split_once("with: flowdppo-wgpu ").unwrap();
        let more = format!("{} --set pretrain.steps={}", command.trim(), step + 1);
        assert!(here.run(&more).succeeds().contains("model: run/model.safetensors"));
    }
}
