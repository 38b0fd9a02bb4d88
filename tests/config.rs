//! Configurations as people write them: the shipped files, and what is said about mistakes.

use flowdppo_wgpu::config::{Command, Config, ModelSource, Sampler, TrainedSteps, Weight, reward_names};

mod config {
    mod documents;
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
    for command in [Command::Train, Command::FitClassifier, Command::Pretrain] {
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

/// A file for each published method, which says only what makes it.
const METHODS: [&str; 9] =
    ["flow-dppo", "flow-dppo-cps", "flow-grpo", "flow-cps", "grpo-guard", "mix-grpo", "dance-grpo", "nft", "lora"];

#[test]
fn the_methods_differ_in_what_makes_them_alone() {
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
    for set in SHIPPED {
        let methods = METHODS.iter().filter(|_| set == "digits8");
        for file in FILES.iter().map(|(file, _)| file).chain(methods) {
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

/// The judge must be the same network as the reward's, with other random numbers.
#[test]
fn the_judge_differs_from_the_classifier_in_name_and_seed_alone() {
    for set in SHIPPED {
        let classifier = shipped(set, "fit-classifier", &[]);
        let mut judge = shipped(set, "fit-judge", &[]);
        assert_ne!(judge.run.name, classifier.run.name);
        assert_ne!(judge.run.seed, classifier.run.seed);
        judge.run = classifier.run.clone();
        assert_eq!(judge, classifier, "{set}");
    }
}

/// `train` finds its model, reward and judge where the other configurations of the folder put them.
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
fn overrides_change_what_they_name() {
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
    // The written form says of each reward what its kind knows, and gives the same back.
    let written = config.to_toml();
    assert_eq!(parse(&written, &[]).unwrap(), config);
    assert!(!written.contains("timeout_seconds") && !written.contains("quality"), "{written}");
    assert_eq!(written.matches("builtin:digits8-classifier").count(), 1, "{written}");
    let shipped = shipped("digits8", "rewards", &[]);
    shipped.validate(Command::Train).unwrap();
    assert_eq!(reward_names(&shipped.reward), ["classifier", "jpeg-size", "symmetry"]);
}

#[test]
fn the_last_override_wins() {
    let config = parse("", &["run.seed=1", "run.seed=2"]).unwrap();
    assert_eq!(config.run.seed, 2);
}

#[test]
fn sizes_take_the_place_of_the_default_file() {
    let config = shipped("digits8", "pretrain", &["model.hidden_size=96"]);
    let ModelSource::New(sizes) = config.model.source().unwrap() else { panic!("{:?}", config.model) };
    assert_eq!((sizes.hidden_size, sizes.image_size, sizes.mlp_ratio), (96, 8, 4.0));
    assert_eq!(config.model.file, None);
}

#[test]
fn a_micro_batch_is_never_more_than_there_is() {
    let config = parse("", &["rollout.group_size=4"]).unwrap();
    config.validate(Command::Train).unwrap();
    assert_eq!((config.samples_per_rollout(), config.rollout_micro_batch()), (40, 40));
    assert_eq!((config.samples_per_update(), config.update_micro_batch()), (20, 20));
}

/// A file's text, overrides, and the whole message.
#[rustfmt::skip]
const UNREADABLE: &[(&str, &[&str], &str)] = &[
    ("[train\niterations = 3", &[],
     "my.toml:1:7: not valid TOML: unclosed table, expected `]`"),
    ("[train]\niterations = 3\niterations = 4", &[],
     "my.toml:3:1: not valid TOML: duplicate key"),
    ("[trian]\niterations = 3", &[],
     "my.toml:1:2: unknown section [trian]; did you mean [train]?"),
    ("[optimizer]\nlr = 3", &[],
     "my.toml:1:2: unknown section [optimizer]; the sections are run, model, data, rollout, reward, advantage, \
      objective, train, lora, eval, preview, checkpoint, guard, pretrain, classifier"),
    ("[train]\n# é\nupdates_per_rolout = 3", &[],
     "my.toml:3:1: unknown key `train.updates_per_rolout`; did you mean `train.updates_per_rollout`?"),
    ("[checkpoint]\nfolder = 'x'", &[],
     "my.toml:2:1: unknown key `checkpoint.folder`; the keys of `checkpoint` are every, keep, keep_best"),
    ("[train]\niterations = \"many\"", &[],
     "my.toml:2:14: `train.iterations` must be a whole number of 0 or more, not the text \"many\""),
    ("[train]\niterations = -3", &[],
     "my.toml:2:14: `train.iterations` must be a whole number of 0 or more, not -3"),
    ("[train]\niterations = 2.5", &[],
     "my.toml:2:14: `train.iterations` must be a whole number of 0 or more, not 2.5"),
    ("run.seed = 99999999999999999999", &[],
     "my.toml:1:12: the whole number 99999999999999999999 does not fit in 64 bits"),
    ("[train]\nlearning_rate = true", &[],
     "my.toml:2:17: `train.learning_rate` must be a number, not true"),
    ("[run]\nname = 3", &[],
     "my.toml:2:8: `run.name` must be text in quotes, not 3"),
    ("[run]\nout_dir = 2026-01-01", &[],
     "my.toml:2:11: `run.out_dir` must be text in quotes, not the date 2026-01-01"),
    ("[data]\nhorizontal_flip = 'no'", &[],
     "my.toml:2:19: `data.horizontal_flip` must be true or false, not the text \"no\""),
    ("train = [3, 4]", &[],
     "my.toml:1:9: `train` must be a table, not a list"),
    ("[reward]\nweight = 1", &[],
     "my.toml:1:1: `reward` must be a list, not a table; write [[reward]] for an entry of it"),
    ("[[reward]]\n[[reward]]\nwieght = 1", &[],
     "my.toml:3:1: unknown key `reward.1.wieght`; did you mean `reward.1.weight`?"),
    ("[rollout]\nclasses = [0, 'one']", &[],
     "my.toml:2:15: `rollout.classes.1` must be a whole number of 0 or more, not the text \"one\""),
    ("[rollout]\nsampler = 'flow_sde'", &[],
     "my.toml:2:11: `rollout.sampler` must be \"ode\" or \"flow-sde\" or \"dance\" or \"cps\" or \"precise\" or \
      \"dance-precise\", not \"flow_sde\"; did you mean \"flow-sde\"?"),
    ("[rollout]\neta = 'much'", &[],
     "my.toml:2:7: `rollout.eta` must be a number, or a list with a number for each step, not the text \"much\""),
    ("[rollout]\nschedule = { kind = 'linear' }", &[],
     "my.toml:2:21: `rollout.schedule.kind` must be \"static-shift\" or \"diffusers-static\" or \"dynamic\" or \
      \"dynamic-tokens\" or \"explicit\", not \"linear\""),
    ("[objective]\nthreshold_unit = 1", &[],
     "my.toml:2:18: `objective.threshold_unit` must be \"mean\" or \"sum\", not 1"),
    ("[rollout]\ntrained_steps = { kind = 'sparse-early', cuont = 3 }", &[],
     "my.toml:2:17: unknown key `rollout.trained_steps.cuont`; did you mean `rollout.trained_steps.count`?"),
    ("[rollout]\ntrained_steps = { kind = 'sparse-early', count = 'three' }", &[],
     "my.toml:2:17: a value in `rollout.trained_steps` must be a whole number of 0 or more, not the text \"three\""),
    ("[rollout]\ntrained_steps = { count = 3 }", &[],
     "my.toml:2:17: `rollout.trained_steps` needs the key `kind`"),
    ("[rollout]\ntrained_steps = 3", &[],
     "my.toml:2:17: `rollout.trained_steps` must be a table with a `kind`, not 3"),
    ("", &["train.iteratons=3"],
     "--set train.iteratons=3: unknown key `train.iteratons`; did you mean `train.iterations`?"),
    ("", &["run.seed=1", "tran.iterations=3"],
     "--set tran.iterations=3: unknown section [tran]; did you mean [train]?"),
    ("", &["train.iterations=lots"],
     "--set train.iterations=lots: `train.iterations` must be a whole number of 0 or more, not the text \"lots\""),
    ("", &["train.iterations"],
     "--set train.iterations: expected key=value, such as train.iterations=3"),
    ("", &["=3"],
     "--set =3: the key is empty; expected a path such as train.iterations"),
    ("", &["reward.0.axis=diagonal"],
     "--set reward.0.axis=diagonal: `reward.0.axis` must be \"left-right\" or \"top-bottom\", not \"diagonal\""),
    ("", &["reward.0.weight=heavy"],
     "--set reward.0.weight=heavy: `reward.0.weight`: must be a number, or a table with a number for each component"),
    ("", &["reward.2.weight=3"],
     "--set reward.2.weight=3: `reward` is a list of 1; `2` should be an index from 0 to 1 (1 appends an entry)"),
    ("", &["run.seed.x=3"],
     "--set run.seed.x=3: `run.seed` is a single value and has no `x`"),
    ("[train]\niterations = 'x'", &["train.iterations=3", "train.beta1='y'"],
     "--set train.beta1='y': `train.beta1` must be a number, not the text \"y\""),
];

#[test]
fn what_cannot_be_read_is_explained() {
    for (text, overrides, expected) in UNREADABLE {
        let error = parse(text, overrides).expect_err(expected);
        assert_eq!(error.to_string(), *expected, "{text} {overrides:?}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some("no/such.toml".as_ref()), &[]).unwrap_err();
    assert!(error.to_string().starts_with("cannot read no/such.toml: "), "{error}");
    assert_eq!(error.exit_code(), 2);
}

/// A command, overrides over the defaults (of `pretrain`: over its shipped file), the whole message.
#[rustfmt::skip]
const OUT_OF_RANGE: &[(Command, &[&str], &str)] = &[
    (Command::Train, &["run.name=../x"],
     "`run.name` must be a plain directory name, without / or \\, not \"../x\""),
    (Command::Train, &["train.iterations=0"],
     "`train.iterations` must be a whole number from 1 to 100000000, not 0"),
    (Command::Train, &["train.updates_per_rollout=3"],
     "`train.updates_per_rollout` = 3 must divide `rollout.groups` x `rollout.group_size` = 10 x 16 (= 160); 2 or 4 \
      would"),
    (Command::Train, &["train.micro_batch=30"],
     "`train.micro_batch` = 30 must divide `rollout.groups` x `rollout.group_size` = 10 x 16, over \
      `train.updates_per_rollout` = 2 (= 80); 20 or 40 would"),
    (Command::Train, &["rollout.micro_batch=100"],
     "`rollout.micro_batch` = 100 must divide `rollout.groups` x `rollout.group_size` = 10 x 16 (= 160); 80 or 160 \
      would"),
    (Command::Train, &["rollout.groups=70000"],
     "`rollout.groups` must be a whole number from 1 to 65535, not 70000"),
    (Command::Train, &["rollout.group_size=1"],
     "`rollout.group_size` must be a whole number from 2 to 65535, as rewards are compared within a group, not 1"),
    (Command::Train, &["rollout.sampler=ode"],
     "`rollout.sampler` = \"ode\" is deterministic, so train has no density to learn from; choose \"flow-sde\" or \
      \"cps\""),
    (Command::Train, &["rollout.eta=0"],
     "`rollout.eta` must be a positive finite number, not 0.0"),
    (Command::Train, &["rollout.sampler=cps", "rollout.eta=1.2"],
     "`rollout.eta` must be at most 1 with the cps sampler, which replaces that share of the noise, not 1.2"),
    (Command::Train, &["rollout.schedule.shift=inf"],
     "`rollout.schedule`: the schedule's shift is inf, but must be a finite number above 0 (1 is a linear schedule; a \
      dynamic schedule's shift is exp(mu))"),
    (Command::Train, &["rollout.schedule={kind='explicit',sigmas=[1,0.5,0]}"],
     "`rollout.schedule`: the explicit schedule has 3 points, but 10 steps need 11: one more than steps, 1 and 0 \
      included"),
    (Command::Train, &["rollout.eta=[0.7, 0.7]"],
     "`rollout.eta` must be a number, or a list of `rollout.steps` = 10 numbers, not a list of 2"),
    (Command::Train, &["rollout.sampler=cps", "rollout.eta=[0.7,0.7,0.7,0.7,0.7,0.7,1.5,0,0,0]"],
     "`rollout.eta.6` must be at most 1 with the cps sampler, which replaces that share of the noise, not 1.5"),
    (Command::Train, &["rollout.eta=[0.7,0.7,0.7,0,0.7,0.7,0.7,0,0,0]"],
     "`rollout.trained_steps` may choose step 3, which has no density: from sigma 0.7000 to 0.6000 this sampler makes \
      no noise with eta 0; leave the step out, or choose another sampler or eta"),
    (Command::Train, &["rollout.sampler=cps", "rollout.trained_steps={kind='random-window',size=4}"],
     "`rollout.trained_steps` may choose step 9, which has no density: from sigma 0.1000 to 0.0000 this sampler makes \
      no noise with eta 0.7; leave the step out, or choose another sampler or eta"),
    (Command::Train, &["rollout.sampler=cps", "rollout.schedule={kind='diffusers-static',shift=3}",
                       "rollout.trained_steps={kind='all-but-last'}"],
     "`rollout.trained_steps` may choose step 8, from sigma 0.2780 to 0.0089, where this sampler's noise has a standard \
      deviation of only 8.0e-3: its KL is the squared change of the velocity times 587, where 100 is the most; leave \
      the step out, or raise `rollout.eta`"),
    (Command::Train, &["rollout.trained_steps={kind='progressive-window',size=2,overlap=2}"],
     "`rollout.trained_steps`: overlap = 2 must be below size = 2, or the window would not move"),
    (Command::Train, &["objective.name=nft"],
     "`objective.name` = \"nft\" learns from deterministic samples: set `rollout.sampler` = \"ode\""),
    (Command::Train, &["objective.name=nft", "rollout.sampler=ode", "objective.reference.beta=0.1"],
     "`objective.reference.beta` must be 0 with the objective \"nft\": its steps have no density to compare with a \
      reference's, not 0.1"),
    (Command::Train, &["objective.name=nft", "rollout.sampler=ode", "advantage.clip=inf"],
     "`advantage.clip` must be a number with the objective \"nft\", which takes advantages of ± the clip for certain, \
      not inf"),
    (Command::Train, &["objective.divergence=tv", "objective.kl_mask_threshold=1.5"],
     "`objective.kl_mask_threshold` must be a total variation distance, above 0 and at most 1, with \
      `objective.divergence` = \"tv\", not 1.5"),
    (Command::Train, &["objective.clip_low=0"],
     "`objective.clip_low` must be a positive finite number, not 0.0"),
    (Command::Train, &["objective.reference.beta=-1"],
     "`objective.reference.beta` must be a finite number of 0 or more, not -1.0"),
    (Command::Train, &["rollout.guidance_scale=-1"],
     "`rollout.guidance_scale` must be a finite number of 0 or more, not -1.0"),
    (Command::Train, &["rollout.steps=4"],
     "`rollout.trained_steps`: cannot draw 3 different steps, since from = 0 to 0.5 of a trajectory of 4 steps leaves \
      2 to choose from; lower count, or raise to or the number of steps"),
    (Command::Train, &["rollout.trained_steps.from=0.6"],
     "`rollout.trained_steps`: from = 0.6 and to = 0.5 must be shares of the trajectory with 0 <= from < to <= 1"),
    (Command::Train, &["rollout.trained_steps={kind='list',steps=[2,9]}"],
     "`rollout.trained_steps`: step 9 is the last of the 10 steps and cannot be trained, since it ends without noise \
      and so has no density; leave it out (with sparse-early: lower to; with fast-window: lower size)"),
    (Command::Train, &["rollout.trained_steps={kind='list',steps=[2,1,2]}"],
     "`rollout.trained_steps`: step 2 is listed twice; list each step once"),
    (Command::Train, &["train.learning_rate=nan"],
     "`train.learning_rate` must be a positive finite number, not NaN"),
    (Command::Train, &["train.learning_rate=1e-60"],
     "`train.learning_rate` must be a positive finite number, not 1e-60"),
    (Command::Train, &["train.beta2=1"],
     "`train.beta2` must be a number from 0 to below 1, not 1.0"),
    (Command::Train, &["objective.kl_mask_threshold=-0.1"],
     "`objective.kl_mask_threshold` must be a positive number, or inf, not -0.1"),
    (Command::Train, &["advantage.clip=0"],
     "`advantage.clip` must be a positive number, or inf, not 0.0"),
    (Command::Train, &["reward=[]"],
     "train has nothing to learn from: give at least one [[reward]] a `weight` other than 0"),
    (Command::Train, &["reward.0.file="],
     "`reward.0.file` must be a safetensors file or builtin:NAME, not empty"),
    (Command::Train, &["reward.0.kind=template"],
     "`reward.0.file` must be a picture, as `reward.kind` = \"template\" compares with one, not \
      \"builtin:digits8-classifier\""),
    (Command::Train, &["reward.0.kind=colour"],
     "a reward of the kind \"colour\" needs `reward.0.colour`: add [red, green, blue] from 0 to 1, or text such as \
      \"#ff8000\""),
    (Command::Train, &["reward.0.kind=colour", "reward.0.colour=red"],
     "`reward.0.colour` must be [red, green, blue] from 0 to 1, or text such as \"#ff8000\", not \"red\""),
    (Command::Train, &["reward.0.kind=colour", "reward.0.colour=[2, 0, 0]"],
     "`reward.0.colour` must be [red, green, blue] from 0 to 1, or text such as \"#ff8000\", not [2.0, 0.0, 0.0]"),
    (Command::Train, &["reward.0.kind=jpeg-size", "reward.0.quality=0"],
     "`reward.0.quality` must be a whole number from 1 to 100, not 0"),
    (Command::Train, &["reward.0.kind=ink", "reward.0.quality=50"],
     "`reward.0.quality` is for the kind \"jpeg-size\", not for \"ink\": remove it, or choose another kind"),
    (Command::Train, &["reward.0.retries=1"],
     "`reward.0.retries` is for the kind \"command\" or \"http\", not for \"classifier\": remove it, or choose another \
      kind"),
    (Command::Train, &["reward.0.name=a/b"],
     "`reward.0.name` must be letters, digits, _ and -, not \"a/b\""),
    (Command::Train, &["reward.0.name=a", "reward.1.name=a", "reward.2.name=a_1"],
     "`reward.2.name` must be a name that no other reward has, not \"a_1\""),
    (Command::Train, &["reward.0.weight={}"],
     "`reward.0.weight` must be a number, or a table that names at least one component, not empty"),
    (Command::Train, &["reward.0.weight={ocr=inf}"],
     "`reward.0.weight.ocr` must be a finite number, not inf"),
    (Command::Train, &["reward.0.weight={ocr=0}"],
     "train has nothing to learn from: give at least one [[reward]] a `weight` other than 0"),
    (Command::Train, &["reward.0.kind=onnx"],
     "`reward.0.file` must be an ONNX file with the kind \"onnx\", not \"builtin:digits8-classifier\""),
    (Command::Train, &["eval.count=1"],
     "`eval.count` must be a whole number from 2 to 10000, as diversity is a distance between samples, not 1"),
    (Command::Train, &["checkpoint.keep_best=judge", "eval.judge="],
     "`checkpoint.keep_best` names what is not measured, as there is no judge: give `eval.judge`, or set \"auto\""),
    (Command::Train, &["checkpoint.keep_best=holdout"],
     "`checkpoint.keep_best` names what is not measured, as there is no hold-out: give a [[reward]] the `weight` 0, \
      or set \"auto\""),
    (Command::Train, &["guard.max_masked_fraction=1.5"],
     "`guard.max_masked_fraction` must be a number from 0 to 1, not 1.5"),
    (Command::Train, &["guard.max_drift=0"],
     "`guard.max_drift` must be a positive number, or inf, not 0.0"),
    (Command::Train, &["model.image_size=8", "model.file=x.safetensors"],
     "`model.file` and `model.image_size` exclude each other: a file carries its own sizes; remove one of them"),
    (Command::Train, &["model.time=sit"],
     "[model] needs `file` (a safetensors file, or builtin:digits8-base) or the sizes of a new model (image_size, \
      channels, patch_size, hidden_size, depth, num_heads, num_classes)"),
    (Command::Train, &["model.image_size=8", "model.depth=3"],
     "the new model's sizes are incomplete: [model] lacks channels, patch_size, hidden_size, num_heads, num_classes"),
    (Command::Train, &["model={image_size=8,channels=1,patch_size=2,hidden_size=64,depth=3,num_heads=4,num_classes=10}"],
     "train starts from a trained model: give `model.file` in place of the sizes, and make the file with pretrain"),
    (Command::Pretrain, &["model.patch_size=3"],
     "`model.patch_size` = 3 must divide `model.image_size` (= 8); 2 or 4 would"),
    (Command::Pretrain, &["model.num_heads=5"],
     "`model.num_heads` = 5 must divide `model.hidden_size` (= 64); 4 or 8 would"),
    (Command::Pretrain, &["model.hidden_size=0"],
     "`model.hidden_size` must be a whole number from 1 to 65535, not 0"),
    (Command::Pretrain, &["model.mlp_ratio=0.33"],
     "`model.mlp_ratio` x `model.hidden_size` = 0.33 x 64 = 21.12 must be a whole number from 1 to 65535"),
    (Command::Pretrain, &["model.positions=sin-cos", "model.hidden_size=6", "model.num_heads=1"],
     "`model.hidden_size` must be a multiple of 4 for sin-cos positions (sine and cosine, two axes), not 6"),
    (Command::Pretrain, &["model.image_size=16"],
     "`model.image_size` is 16 but `data.image_size` is 8; give both the same value"),
    (Command::Pretrain, &["pretrain.micro_batch=50"],
     "`pretrain.micro_batch` = 50 must divide `pretrain.batch_size` (= 128); 32 or 64 would"),
    (Command::Pretrain, &["pretrain.warmup_steps=3000"],
     "`pretrain.warmup_steps` must be at most `pretrain.steps` = 1250, not 3000"),
    (Command::Pretrain, &["pretrain.class_dropout=1"],
     "`pretrain.class_dropout` must be a number from 0 to below 1, not 1.0"),
    (Command::FitClassifier, &["data.kind=folder"],
     "data of `data.kind` = \"folder\" needs `data.path`; add it"),
    (Command::FitClassifier, &["data.path=pictures"],
     "data of `data.kind` = \"builtin\" does not take `data.path`; remove it, or choose another kind"),
    (Command::FitClassifier, &["data.name=digits"],
     "`data.name` must be \"digits8\" or \"rings\", not \"digits\""),
    (Command::FitClassifier, &["data.image_size=28"],
     "`data.image_size` and `data.channels` must be 8 and 1 for the built-in digits8, not 28 and 1"),
    (Command::FitClassifier, &["data.name=rings"],
     "`data.image_size` and `data.channels` must be 1 and 2 for the built-in rings, not 8 and 1"),
    (Command::FitClassifier, &["data.kind=folder", "data.path=pictures", "data.channels=2"],
     "`data.channels` must be 1 (grey) or 3 (RGB), not 2"),
    (Command::FitClassifier, &["classifier.noise_std=-1"],
     "`classifier.noise_std` must be a finite number of 0 or more, not -1.0"),
];

#[test]
fn what_is_out_of_range_is_explained() {
    for (command, overrides, expected) in OUT_OF_RANGE {
        let config = match command {
            Command::Pretrain => shipped("digits8", "pretrain", overrides),
            _ => parse("", overrides).unwrap_or_else(|e| panic!("{e}")),
        };
        let error = config.validate(*command).expect_err(expected);
        assert_eq!(error.to_string(), *expected, "{overrides:?}");
        assert_eq!(error.exit_code(), 2);
    }
}

/// A command leaves the sections alone that it does not read.
#[test]
fn other_commands_sections_are_not_checked() {
    let config = parse("", &["pretrain.steps=0", "classifier.steps=0", "data.channels=2"]).unwrap();
    config.validate(Command::Train).unwrap();
    let config = parse("", &["train.iterations=0", "rollout.steps=0", "reward=[]"]).unwrap();
    config.validate(Command::FitClassifier).unwrap();
}
