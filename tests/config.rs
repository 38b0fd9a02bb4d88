//! Configurations as users write them: the shipped files, overrides, mistakes.

use flowdppo_wgpu::config::{Command, Config, ModelSource, Sampler, TrainedSteps, Weight, reward_names};

mod config {
    mod documents;
    mod messages;
}

const SHIPPED: [&str; 4] = ["digits8", "mnist28", "emoji32", "rings"];
const FILES: [(&str, Command); 4] = [
    ("pretrain", Command::Pretrain),
    ("fit-classifier", Command::FitClassifier),
    ("fit-judge", Command::FitClassifier),
    ("train", Command::Train),
];

fn strings(overrides: &[&str]) -> Vec<String> {
    overrides.iter().map(|o| o.to_string()).collect()
}

fn parse(text: &str, overrides: &[&str]) -> flowdppo_wgpu::Result<Config> {
    Config::parse(text, "my.toml", &strings(overrides))
}

fn shipped(set: &str, file: &str, overrides: &[&str]) -> Config {
    let path = format!("{}/configs/{set}/{file}.toml", env!("CARGO_MANIFEST_DIR"));
    Config::load(Some(path.as_ref()), &strings(overrides)).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_defaults_validate_and_round_trip() {
    let config = Config::load(None, &[]).unwrap();
    assert_eq!(config, Config::default());
    for command in [Command::Train, Command::Eval, Command::FitClassifier, Command::Pretrain] {
        config.validate(command).unwrap();
    }
    assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config);
}

#[test]
fn the_shipped_configurations_load_validate_and_round_trip() {
    for set in SHIPPED {
        for (file, command) in FILES {
            let config = shipped(set, file, &[]);
            config.validate(command).unwrap_or_else(|e| panic!("{set}/{file}: {e}"));
            assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config, "{set}/{file}");
        }
    }
}

/// The recipes for published models: files of `train` without a model of their own.
const RECIPES: [(&str, &str); 7] = [
    ("sd35", "flow-dppo"),
    ("sd35", "flow-dppo-cps"),
    ("sd35", "flow-grpo"),
    ("sd35", "grpo-guard"),
    ("sd35", "laptop"),
    ("sd35", "nft"),
    ("sit", "latent"),
];

#[test]
fn the_recipes_for_published_models_load_validate_and_round_trip() {
    for (set, file) in RECIPES {
        let config = shipped(set, file, &[]);
        config.validate(Command::Train).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config, "{file}");
        assert_eq!((config.lora.rank, config.lora.alpha()), (32, 64.0));
    }
}

#[test]
fn the_recipe_for_the_users_own_images_loads_validates_and_round_trips() {
    let config = shipped("sd35", "fine-tune", &[]);
    config.validate(Command::Pretrain).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config);
    // The shift of the pipeline.
    assert!((config.pretrain.logit_mean - 3.0_f64.ln()).abs() < 0.01);
}

/// There is a file for each published method, which contains only what defines it.
const METHODS: [&str; 9] =
    ["flow-dppo", "flow-dppo-cps", "flow-grpo", "flow-cps", "grpo-guard", "mix-grpo", "dance-grpo", "nft", "lora"];

#[test]
fn the_files_of_the_methods_differ_only_in_what_defines_them() {
    let default = Config::default();
    for method in METHODS {
        let config = shipped("digits8", method, &[]);
        config.validate(Command::Train).unwrap_or_else(|e| panic!("{method}: {e}"));
        assert_eq!(config.run.name, format!("digits8-{method}"));
        let mut rest = config.clone();
        rest.run.name.clone_from(&default.run.name);
        rest.objective = default.objective.clone();
        rest.rollout.sampler = default.rollout.sampler;
        rest.rollout.shared_noise = default.rollout.shared_noise;
        rest.rollout.trained_steps = default.rollout.trained_steps.clone();
        rest.lora = default.lora.clone();
        if ["nft", "lora"].contains(&method) {
            rest.train = default.train.clone();
        }
        assert_eq!(rest, default, "{method}");
        assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config, "{method}");
    }
    let mut dppo = shipped("digits8", "flow-dppo", &[]);
    dppo.run.name.clone_from(&default.run.name);
    assert_eq!(dppo, default);
}

#[test]
fn every_line_of_a_shipped_configuration_is_explained() {
    for set in SHIPPED.into_iter().chain(["sd35", "sit"]) {
        let methods = METHODS.iter().filter(|_| set == "digits8");
        let recipes = RECIPES.iter().filter(|(of, _)| *of == set).map(|(_, file)| file);
        let files: Vec<&str> = match SHIPPED.contains(&set) {
            true => FILES.iter().map(|(file, _)| file).chain(methods).copied().collect(),
            false => recipes.copied().chain((set == "sd35").then_some("fine-tune")).collect(),
        };
        for file in files {
            let path = format!("{}/configs/{set}/{file}.toml", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&path).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            for (index, line) in lines.iter().enumerate() {
                let is_key = line.contains('=') && !line.starts_with('#');
                let explained = line.contains("  # ") || index > 0 && lines[index - 1].starts_with("# ");
                assert!(!is_key || explained, "{path}:{}: {line}", index + 1);
            }
        }
    }
}

#[test]
fn the_digits_configuration_states_the_defaults() {
    assert_eq!(shipped("digits8", "train", &[]), Config::default());
    let base = shipped("digits8", "pretrain", &[]);
    assert_eq!(base.pretrain, Config::default().pretrain);
    assert_eq!(base.data, Config::default().data);
    let classifier = shipped("digits8", "fit-classifier", &[]);
    assert_eq!(classifier.classifier, Config::default().classifier);
}

/// The judge must be the same network as the reward's, with different random numbers.
#[test]
fn the_judge_differs_from_the_classifier_only_in_name_and_seed() {
    for set in SHIPPED {
        let classifier = shipped(set, "fit-classifier", &[]);
        let mut judge = shipped(set, "fit-judge", &[]);
        assert_ne!(judge.run.name, classifier.run.name);
        assert_ne!(judge.run.seed, classifier.run.seed);
        judge.run = classifier.run.clone();
        assert_eq!(judge, classifier, "{set}");
    }
}

/// `train` finds its model, reward and judge where the other configurations of the folder write them.
#[test]
fn the_shipped_configurations_fit_together() {
    for set in ["mnist28", "emoji32"] {
        let file = |file| {
            let run = shipped(set, file, &[]).run;
            format!("{}/{}/model.safetensors", run.out_dir.display(), run.name)
        };
        let train = shipped(set, "train", &[]);
        assert_eq!(train.model.file.as_deref(), Some(&*file("pretrain")));
        assert_eq!(train.reward[0].file, file("fit-classifier"));
        assert_eq!(train.eval.judge, file("fit-judge"));
    }
}

#[test]
fn overrides_change_the_key_that_they_name() {
    let config = parse(
        "[train]\niterations = 1_000\nlearning_rate = 1\n",
        &[
            "train.iterations=3",
            "objective.kl_mask_threshold=0.1",
            "advantage.clip = inf",
            "rollout.sampler=cps",
            "rollout.trained_steps.count=2",
            "rollout.classes=[3, 1]",
            "reward.0.weight=2",
            "reward.1.weight=-1",
            "run.name=my run",
            "run.device=\"0\"",
            "eval.judge=",
        ],
    )
    .unwrap();
    assert_eq!(config.train.iterations, 3);
    assert_eq!(config.train.learning_rate, 1.0);
    assert_eq!(config.objective.kl_mask_threshold, 0.1);
    assert_eq!(config.advantage.clip, f64::INFINITY);
    assert_eq!(config.rollout.sampler, Sampler::Cps);
    assert_eq!(config.rollout.trained_steps, TrainedSteps::SparseEarly { count: 2, from: 0.0, to: 0.5 });
    assert_eq!(config.rollout.classes, [3, 1]);
    assert_eq!(config.reward.iter().map(|r| r.weight.clone()).collect::<Vec<_>>(), [2.0, -1.0].map(Weight::All));
    assert_eq!(config.reward[0].file, "builtin:digits8-classifier");
    assert_eq!(config.run.name, "my run");
    assert_eq!(config.run.device, "0");
    assert_eq!(config.eval.judge, "");
    config.validate(Command::Train).unwrap();
    assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config);
}

#[test]
fn rewards_have_names_weights_and_the_keys_of_their_kind() {
    let text = "[[reward]]\nkind = \"ink\"\n[[reward]]\nkind = \"colour\"\ncolour = \"#ff8000\"\nweight = { colour = 2 }\n\
                [[reward]]\nkind = \"ink\"\nweight = -1\n[[reward]]\nname = \"judge-2\"\n";
    let config = parse(text, &[]).unwrap();
    config.validate(Command::Train).unwrap();
    assert_eq!(reward_names(&config.reward), ["ink_0", "colour", "ink_2", "judge-2"]);
    assert_eq!(config.reward[1].colour.as_ref().unwrap().rgb(), Some([1.0, 128.0 / 255.0, 0.0]));
    let weight = &config.reward[1].weight;
    assert_eq!((weight.of("colour"), weight.of("other")), (2.0, 0.0));
    // The written form contains the keys of each reward's kind, and parses to the same rewards.
    let written = config.to_toml();
    assert_eq!(parse(&written, &[]).unwrap(), config);
    assert!(!written.contains("timeout_seconds") && !written.contains("quality"), "{written}");
    assert_eq!(written.matches("builtin:digits8-classifier").count(), 1, "{written}");
    let shipped = shipped("digits8", "rewards", &[]);
    shipped.validate(Command::Train).unwrap();
    assert_eq!(reward_names(&shipped.reward), ["classifier", "jpeg-size", "symmetry"]);
}

/// Users do not type TOML's quotes on the command line.
#[test]
fn an_override_of_a_text_key_needs_no_quotes() {
    let set = ["run.name=2024", "run.device=1", "run.out_dir=2026-01-01", "eval.judge=1e3", "model.file=true"];
    let config = parse("", &set).unwrap();
    assert_eq!((config.run.name.as_str(), config.run.device.as_str()), ("2024", "1"));
    assert_eq!(config.run.out_dir.to_str(), Some("2026-01-01"));
    assert_eq!((config.eval.judge.as_str(), config.model.file.as_deref()), ("1e3", Some("true")));
}

#[test]
fn changes_are_reported_with_both_values() {
    let base = parse("", &["reward.1.kind=ink"]).unwrap();
    let changed = parse("", &["reward.1.kind=ink", "run.seed=5", "reward.1.weight=-1", "rollout.classes=[3]"]).unwrap();
    assert_eq!(base.changes(&changed), ["reward.1.weight 1.0 → -1.0", "rollout.classes [] → [3]", "run.seed 0 → 5"]);
    assert_eq!(base.differences(&changed), ["reward.1.weight", "rollout.classes", "run.seed"]);
    let adapter = parse("", &["reward.1.kind=ink", "lora.adapter=a"]).unwrap();
    assert_eq!(base.changes(&adapter), ["lora.adapter not set → \"a\""]);
    assert_eq!(base.changes(&Config::default()).len(), 1, "lists of different lengths are reported completely");
}

#[test]
fn the_last_override_wins() {
    let config = parse("", &["run.seed=1", "run.seed=2"]).unwrap();
    assert_eq!(config.run.seed, 2);
}

#[test]
fn sizes_replace_the_default_file() {
    let config = shipped("digits8", "pretrain", &["model.hidden_size=96"]);
    let ModelSource::New(sizes) = config.model.source().unwrap() else { panic!("{:?}", config.model) };
    assert_eq!((sizes.hidden_size, sizes.image_size, sizes.mlp_ratio), (96, 8, 4.0));
    assert_eq!(config.model.file, None);
}

#[test]
fn a_micro_batch_is_at_most_the_batch() {
    let config = parse("", &["rollout.group_size=4"]).unwrap();
    config.validate(Command::Train).unwrap();
    assert_eq!((config.rollout.samples(), config.rollout.effective_micro_batch()), (40, 40));
    let Config { train, rollout, .. } = &config;
    assert_eq!((train.samples_per_update(rollout), train.effective_micro_batch(rollout)), (20, 20));
}

/// A command ignores the sections that it does not read.
#[test]
fn sections_of_other_commands_are_not_checked() {
    let config = parse("", &["pretrain.steps=0", "classifier.steps=0", "data.channels=2"]).unwrap();
    config.validate(Command::Train).unwrap();
    let config = parse("", &["train.iterations=0", "rollout.steps=0", "reward=[]"]).unwrap();
    config.validate(Command::FitClassifier).unwrap();
    // Only training needs something to learn from, steps with a density, batches that divide, and a model.
    let sets: [&[&str]; 6] = [
        &["reward.0.weight=0"],
        &["train.micro_batch=7"],
        &["rollout.steps=4"],
        &["rollout.sampler=ode"],
        &["objective.name=nft"],
        &["model.depth=3", "run.seed=1"],
    ];
    for set in sets {
        let config = parse("", set).unwrap();
        assert!(config.validate(Command::Train).is_err(), "{set:?}");
        config.validate(Command::Eval).unwrap_or_else(|cause| panic!("{set:?}: {cause}"));
    }
}
