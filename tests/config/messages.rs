//! The messages for mistakes in a configuration, word for word.

use flowdppo_wgpu::config::{Command, Config};

use crate::{parse, shipped};

/// A file's text, overrides, and the complete message.
#[rustfmt::skip]
const UNREADABLE: &[(&str, &[&str], &str)] = &[
    ("[train\niterations = 3", &[],
     "my.toml:1:7: not valid TOML: unclosed table, expected `]`"),
    ("[train]\niterations = 3\niterations = 4", &[],
     "my.toml:3:1: not valid TOML: duplicate key `iterations`"),
    ("[trian]\niterations = 3", &[],
     "my.toml:1:2: unknown section [trian]; did you mean [train]?"),
    ("[optimizer]\nlr = 3", &[],
     "my.toml:1:2: unknown section [optimizer]; the sections are run, model, prompts, data, rollout, reward, advantage, \
      objective, train, lora, eval, preview, checkpoint, guard, pretrain, classifier"),
    ("[train]\n# é\nupdates_per_rolout = 3", &[],
     "my.toml:3:1: unknown key `train.updates_per_rolout`; did you mean `train.updates_per_rollout`?"),
    ("[checkpoint]\ndirectory = 'x'", &[],
     "my.toml:2:1: unknown key `checkpoint.directory`; the keys of `checkpoint` are every, keep, keep_best"),
    ("[train]\niterations = \"many\"", &[],
     "my.toml:2:14: `train.iterations` must be a non-negative whole number, not the text \"many\""),
    ("[train]\niterations = -3", &[],
     "my.toml:2:14: `train.iterations` must be a non-negative whole number, not -3"),
    ("[train]\niterations = 2.5", &[],
     "my.toml:2:14: `train.iterations` must be a non-negative whole number, not 2.5"),
    ("run.seed = 99999999999999999999", &[],
     "my.toml:1:12: the whole number 99999999999999999999 is too large or too small: TOML integers are from \
      -9223372036854775808 to 9223372036854775807 (2^63 - 1)"),
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
     "my.toml:2:15: `rollout.classes.1` must be a non-negative whole number, not the text \"one\""),
    ("[rollout]\nsampler = 'flow_sde'", &[],
     "my.toml:2:11: `rollout.sampler` must be \"ode\" or \"flow-sde\" or \"dance\" or \"cps\" or \"precise\" or \
      \"dance-precise\", not \"flow_sde\"; did you mean \"flow-sde\"?"),
    ("[rollout]\neta = 'much'", &[],
     "my.toml:2:7: `rollout.eta` must be a number, or a list with one number per step, not the text \"much\""),
    ("[rollout]\nschedule = { kind = 'linear' }", &[],
     "my.toml:2:21: `rollout.schedule.kind` must be \"static-shift\" or \"diffusers-static\" or \"dynamic\" or \
      \"dynamic-tokens\" or \"explicit\", not \"linear\""),
    ("[objective]\nthreshold_unit = 1", &[],
     "my.toml:2:18: `objective.threshold_unit` must be \"mean\" or \"sum\", not 1"),
    ("[rollout]\ntrained_steps = { kind = 'sparse-early', cuont = 3 }", &[],
     "my.toml:2:17: unknown key `rollout.trained_steps.cuont`; did you mean `rollout.trained_steps.count`?"),
    ("[rollout]\ntrained_steps = { kind = 'sparse-early', count = 'three' }", &[],
     "my.toml:2:17: a value in `rollout.trained_steps` must be a non-negative whole number, not the text \"three\""),
    ("[rollout]\ntrained_steps = { count = 3 }", &[],
     "my.toml:2:17: `rollout.trained_steps` needs the key `kind`"),
    ("[rollout]\ntrained_steps = 3", &[],
     "my.toml:2:17: `rollout.trained_steps` must be a table with a `kind`, not 3"),
    ("", &["train.iteratons=3"],
     "--set train.iteratons=3: unknown key `train.iteratons`; did you mean `train.iterations`?"),
    ("", &["run.seed=1", "tran.iterations=3"],
     "--set tran.iterations=3: unknown section [tran]; did you mean [train]?"),
    ("", &["train.iterations=lots"],
     "--set train.iterations=lots: `train.iterations` must be a non-negative whole number, not the text \"lots\""),
    ("[rollout]\nlearning_rate = 1e-4", &[],
     "my.toml:2:1: unknown key `rollout.learning_rate`; did you mean `train.learning_rate`?"),
    ("", &["train.group_size=8"],
     "--set train.group_size=8: unknown key `train.group_size`; did you mean `rollout.group_size`?"),
    ("", &["learning_rate=1e-4"],
     "--set learning_rate=1e-4: unknown key `learning_rate`; did you mean `train.learning_rate` or \
      `pretrain.learning_rate` or `classifier.learning_rate`?"),
    ("", &["eval.weight=2"],
     "--set eval.weight=2: unknown key `eval.weight`; did you mean `reward.0.weight`?"),
    ("", &["objective.beta=0.1"],
     "--set objective.beta=0.1: unknown key `objective.beta`; did you mean `objective.reference.beta`?"),
    ("", &["rollout.trained_steps.kind=list"],
     "--set rollout.trained_steps.kind=list: the default `rollout.trained_steps` has the keys of another kind: \
      set the whole table, --set \"rollout.trained_steps={kind='list',steps=...}\""),
    ("", &["rollout.trained_steps.count=three"],
     "--set rollout.trained_steps.count=three: a value in `rollout.trained_steps` must be a non-negative whole number, \
      not the text \"three\""),
    // Keys that nothing reads are errors, with their default value too.
    ("[objective]\nclip_low = 6.55", &[],
     "my.toml:2:12: `objective.clip_low` does nothing with `objective.name` = \"flow-dppo\": only \"flow-grpo\" and \
      \"grpo-guard\" read it; remove it, or choose one of them"),
    ("[objective]\nkl_mask_threshold = 0.01", &["objective.name=flow-grpo"],
     "my.toml:2:21: `objective.kl_mask_threshold` does nothing with `objective.name` = \"flow-grpo\": only \
      \"flow-dppo\" reads it; remove it, or choose it"),
    ("[[reward]]\nkind = \"symmetry\"\nquality = 80", &[],
     "my.toml:3:11: `reward.0.quality` is for the kind \"jpeg-size\", not for \"symmetry\": remove it, or choose \
      another kind"),
    ("", &["model.file=a.safetensors", "model.time=sit"],
     "--set model.time=sit: `model.time` does nothing with `model.file`, which has its own: remove it, or set the \
      sizes of a new model instead of the file"),
    ("[model]\nfolder = \"sd3\"\ntime = \"sigma\"", &[],
     "my.toml:3:8: `model.time` does nothing with `model.folder`, which has its own: remove it, or set the sizes of a \
      new model instead of the folder"),
    ("", &["rollout.guidance_gradient=conditional"],
     "--set rollout.guidance_gradient=conditional: `rollout.guidance_gradient` does nothing because \
      `rollout.guidance_scale` is 1, no guidance: raise it, or remove `rollout.guidance_gradient`"),
    // A Windows path in a basic string.
    ("[model]\nfile = \"C:\\Users\\me\\model.safetensors\"", &[],
     "my.toml:2:13: not valid TOML: too few unicode value digits, expected unicode hexadecimal value; within double \
      quotes a backslash begins an escape: write a path in single quotes, 'C:\\Users\\me', or with /"),
    ("[sweep]\nseeds = [1]", &[],
     "my.toml is a sweep: flowdppo-wgpu sweep my.toml --out DIR"),
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
fn unreadable_configurations_are_explained() {
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

/// A command, overrides of the defaults (for `pretrain`: of its shipped file), and the complete message.
#[rustfmt::skip]
const OUT_OF_RANGE: &[(Command, &[&str], &str)] = &[
    (Command::Train, &["run.name=../x"],
     "`run.name` must be the name of a directory on any system, not \"../x\", which has `/`"),
    (Command::Train, &["model.file=\"C:\\temp\""],
     "`model.file` must be a path, not \"C:\\temp\", which has a tab (U+0009); within double quotes a \
      backslash begins an escape: write a path in single quotes, 'C:\\Users\\me', or with /"),
    (Command::Train, &["reward.0.file=\"C:\\new\""],
     "`reward.0.file` must be a path, not \"C:\\new\", which has a line break (U+000A); within double quotes a backslash \
      begins an escape: write a path in single quotes, 'C:\\Users\\me', or with /"),
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
     "`rollout.group_size` must be a whole number from 2 to 65535, because rewards are compared within a group, not 1"),
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
     "`rollout.trained_steps` may choose step 3, which has no density: from sigma 0.7000 to 0.6000 this sampler adds \
      no noise with eta 0; leave the step out, or choose another sampler or eta"),
    (Command::Train, &["rollout.sampler=cps", "rollout.trained_steps={kind='random-window',size=4}"],
     "`rollout.trained_steps` may choose step 9, which has no density: from sigma 0.1000 to 0.0000 this sampler adds \
      no noise with eta 0.7; leave the step out, or choose another sampler or eta"),
    (Command::Train, &["rollout.sampler=cps", "rollout.schedule={kind='diffusers-static',shift=3}",
                       "rollout.trained_steps={kind='all-but-last'}"],
     "`rollout.trained_steps` may choose step 8, from sigma 0.2780 to 0.0089, where this sampler's noise has a standard \
      deviation of only 8.0e-3: its KL is the squared change of the velocity times 587, and at most 100 is allowed; \
      leave the step out, or raise `rollout.eta`"),
    (Command::Train, &["rollout.trained_steps={kind='progressive-window',size=2,overlap=2}"],
     "`rollout.trained_steps`: overlap = 2 must be below size = 2, or the window would not move"),
    (Command::Train, &["objective.name=nft"],
     "`objective.name` = \"nft\" learns from deterministic samples: set `rollout.sampler` = \"ode\""),
    (Command::Train, &["objective.name=nft", "rollout.sampler=ode", "objective.reference.beta=0.1"],
     "`objective.reference.beta` must be 0 with the objective \"nft\": its steps have no density to compare with a \
      reference's, not 0.1"),
    (Command::Train, &["objective.name=nft", "rollout.sampler=ode", "advantage.clip=inf"],
     "`advantage.clip` must be finite with the objective \"nft\", which treats advantages of ± the clip as certain, \
      not inf"),
    (Command::Train, &["objective.divergence=tv", "objective.kl_mask_threshold=1.5"],
     "`objective.kl_mask_threshold` must be a total variation distance, above 0 and at most 1, with \
      `objective.divergence` = \"tv\", not 1.5"),
    (Command::Train, &["objective.name=flow-grpo", "objective.clip_low=0"],
     "`objective.clip_low` must be a positive finite number, not 0.0"),
    (Command::Train, &["objective.reference.beta=-1"],
     "`objective.reference.beta` must be a finite, non-negative number, not -1.0"),
    (Command::Train, &["rollout.guidance_scale=-1"],
     "`rollout.guidance_scale` must be a finite number from 1 on, because 1 is no guidance, not -1.0"),
    (Command::Train, &["objective.reference.beta=1", "objective.reference.guidance_scale=0.5"],
     "`objective.reference.guidance_scale` must be a finite number from 1 on, because 1 is no guidance, not 0.5"),
    (Command::Pretrain, &["pretrain.guidance_scale=0"],
     "`pretrain.guidance_scale` must be a finite number from 1 on, because 1 is no guidance, not 0.0"),
    (Command::Eval, &["eval.guidance_scale=inf"],
     "`eval.guidance_scale` must be a finite number from 1 on, because 1 is no guidance, not inf"),
    (Command::Train, &["rollout.steps=4"],
     "`rollout.trained_steps`: cannot draw 3 different steps, since from = 0 to 0.5 of a trajectory of 4 steps leaves \
      2 to choose from; lower count, or raise to or the number of steps"),
    (Command::Train, &["rollout.trained_steps.from=0.6"],
     "`rollout.trained_steps`: from = 0.6 and to = 0.5 must be shares of the trajectory with 0 <= from < to <= 1"),
    (Command::Train, &["rollout.trained_steps={kind='list',steps=[2,9]}"],
     "`rollout.trained_steps`: step 9 is the last of the 10 steps and cannot be trained, since it ends without noise \
      and therefore has no density; leave it out (with sparse-early: lower to; with fast-window: lower size)"),
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
     "train has nothing to learn from: set the `weight` of at least one [[reward]] to a value other than 0"),
    (Command::Train, &["reward.0.file="],
     "`reward.0.file` must be a safetensors file or builtin:NAME, not empty"),
    (Command::Train, &["reward.0.kind=template"],
     "a reward of kind \"template\" needs `reward.0.file`, the path of an image (none is built in)"),
    (Command::Train, &["reward.0.kind=colour"],
     "a reward of kind \"colour\" needs `reward.0.colour`: add [red, green, blue] from 0 to 1, or text such as \
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
     "`reward.0.name` must be made of the letters a to z, digits, _ and -, not \"a/b\", which has `/`"),
    (Command::Train, &["reward.0.name=a", "reward.1.name=a", "reward.2.name=a_1"],
     "`reward.2.name` must be a name that no other reward has, not \"a_1\""),
    (Command::Train, &["reward.0.weight={}"],
     "`reward.0.weight` must be a number, or a table that names at least one component, not empty"),
    (Command::Train, &["reward.0.weight={ocr=inf}"],
     "`reward.0.weight.ocr` must be a finite number, not inf"),
    (Command::Train, &["reward.0.weight={ocr=0}"],
     "train has nothing to learn from: set the `weight` of at least one [[reward]] to a value other than 0"),
    (Command::Train, &["reward.0.kind=onnx"],
     "a reward of kind \"onnx\" needs `reward.0.file`, the path of an ONNX model (none is built in)"),
    (Command::Train, &["reward.0.kind=template", "reward.0.file=builtin:digits8-judge"],
     "a reward of kind \"template\" needs `reward.0.file`, the path of an image (none is built in)"),
    (Command::Eval, &["reward.0.file="],
     "`reward.0.file` must be a safetensors file or builtin:NAME, not empty"),
    (Command::Eval, &["rollout.eta=[0.7, 0.7]"],
     "`rollout.eta` must be a number, or a list of `rollout.steps` = 10 numbers, not a list of 2"),
    (Command::Eval, &["eval.steps=0"],
     "`eval.steps` must be a whole number from 1 to 10000, not 0"),
    (Command::Train, &["eval.count=1"],
     "`eval.count` must be a whole number from 2 to 10000, because diversity is a distance between samples, not 1"),
    (Command::Train, &["checkpoint.keep_best=judge", "eval.judge="],
     "`checkpoint.keep_best` selects by a score that is not measured, because there is no judge: set `eval.judge`, or \
      set \"auto\""),
    (Command::Train, &["checkpoint.keep_best=holdout"],
     "`checkpoint.keep_best` selects by a score that is not measured, because there is no hold-out: set the `weight` \
      of a [[reward]] to 0, or set \"auto\""),
    (Command::Train, &["guard.max_masked_fraction=1.5"],
     "`guard.max_masked_fraction` must be a number from 0 to 1, not 1.5"),
    (Command::Train, &["guard.max_drift=0"],
     "`guard.max_drift` must be a positive number, or inf, not 0.0"),
    (Command::Train, &["model.image_size=8", "model.file=x.safetensors"],
     "`model.file` and `model.image_size` cannot both be set: a file has its own sizes; remove one of them"),
    (Command::Train, &["model.time=sit"],
     "train starts from a trained model: set `model.file` instead of sizes; create the file with pretrain"),
    (Command::Train, &["model.image_size=8", "model.depth=3"],
     "train starts from a trained model: set `model.file` instead of sizes; create the file with pretrain"),
    (Command::Train, &["model={image_size=8,channels=1,patch_size=2,hidden_size=64,depth=3,num_heads=4,num_classes=10}"],
     "train starts from a trained model: set `model.file` instead of sizes; create the file with pretrain"),
    (Command::Pretrain, &["model={image_size=8,depth=3}"],
     "the new model's sizes are incomplete: [model] is missing channels, patch_size, hidden_size, num_heads, num_classes"),
    (Command::Pretrain, &["model={time='sit'}"],
     "[model] needs `file` (a safetensors file, or builtin:digits8-base) or the sizes of a new model (image_size, \
      channels, patch_size, hidden_size, depth, num_heads, num_classes)"),
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
     "`model.image_size` is 16 but `data.image_size` is 8; set both to the same value"),
    (Command::Pretrain, &["pretrain.micro_batch=50"],
     "`pretrain.micro_batch` = 50 must divide `pretrain.batch_size` (= 128); 32 or 64 would"),
    (Command::Pretrain, &["pretrain.warmup_steps=3000"],
     "`pretrain.warmup_steps` must be at most `pretrain.steps` = 1250, not 3000"),
    (Command::Pretrain, &["pretrain.class_dropout=1"],
     "`pretrain.class_dropout` must be a number from 0 to below 1, not 1.0"),
    (Command::FitClassifier, &["classifier.micro_batch=50"],
     "`classifier.micro_batch` = 50 must divide `classifier.batch_size` (= 128); 32 or 64 would"),
    (Command::FitClassifier, &["data.kind=folder"],
     "data of `data.kind` = \"folder\" needs `data.path`; add it"),
    (Command::FitClassifier, &["data.path=images"],
     "data of `data.kind` = \"builtin\" does not take `data.path`; remove it, or choose another kind"),
    (Command::FitClassifier, &["data.name=digits"],
     "`data.name` must be \"digits8\" or \"rings\", not \"digits\""),
    (Command::FitClassifier, &["data.image_size=28"],
     "`data.image_size` and `data.channels` must be 8 and 1 for the built-in digits8, not 28 and 1"),
    (Command::FitClassifier, &["data.name=rings"],
     "`data.image_size` and `data.channels` must be 1 and 2 for the built-in rings, not 8 and 1"),
    (Command::FitClassifier, &["data.kind=folder", "data.path=images", "data.channels=2"],
     "`data.channels` must be 1 (grey) or 3 (RGB), not 2"),
    // What reads the keys of prompts depends on the command: `eval` takes its model from the command line.
    (Command::Train, &["prompts.t5=false"],
     "`prompts.t5` does nothing without `model.folder`, a text-to-image model: remove it, or set it to true"),
    (Command::Train, &["model={folder='sd3'}", "lora.rank=4", "prompts.file=p.safetensors", "prompts.negative=blurry"],
     "`prompts.negative` does nothing with prompts that are encoded already: remove it, or set it to \"\""),
    (Command::Eval, &["prompts.file=p.safetensors", "prompts.t5=false"],
     "`prompts.t5` does nothing with prompts that are encoded already: remove it, or set it to true"),
    (Command::Pretrain, &["prompts.t5=false"],
     "`prompts.t5` does nothing without `model.folder`, a text-to-image model: remove it, or set it to true"),
    (Command::Pretrain, &["prompts.file=p.txt"],
     "`prompts.file` does nothing in pretrain, which learns from the images and captions of `data`: remove it"),
    (Command::Pretrain, &["prompts.negative=blurry"],
     "`prompts.negative` does nothing in pretrain, whose samples are guided away from the empty caption: remove it"),
    (Command::Pretrain, &["lora.rank=4", "lora.reference=base"],
     "`lora.reference` does nothing in pretrain, which measures no distance from a model: remove it"),
    (Command::Train, &["model={folder='sd3'}", "lora.rank=4", "prompts.file=p.txt", "preview.classes=[1, 1]"],
     "`preview.classes` names prompt 1 twice: name each prompt once"),
    (Command::FitClassifier, &["classifier.noise_std=-1"],
     "`classifier.noise_std` must be a finite, non-negative number, not -1.0"),
];

#[test]
fn values_out_of_range_are_explained() {
    for (command, overrides, expected) in OUT_OF_RANGE {
        let config = match command {
            Command::Pretrain => Ok(shipped("digits8", "pretrain", overrides)),
            _ => parse("", overrides),
        };
        let error = config.and_then(|config| config.validate(*command)).expect_err(expected);
        // If nothing reads a key, the message starts with where it was set.
        let message = error.to_string();
        let message = overrides.iter().rev().find_map(|set| message.strip_prefix(&format!("--set {set}: ")));
        assert_eq!(message.unwrap_or(&error.to_string()), *expected, "{overrides:?}");
        assert_eq!(error.exit_code(), 2);
    }
}

/// `eval` reads what the model on its command line needs, and `pretrain` how captions are encoded.
#[test]
fn keys_of_prompts_are_accepted_where_they_are_read() {
    let texts = ["prompts.t5=false", "prompts.negative=blurry", "prompts.file=p.txt"];
    parse("", &texts).and_then(|config| config.validate(Command::Eval)).expect("eval reads them");
    // Each command leaves the sections of the others alone.
    parse("", &texts).and_then(|config| config.validate(Command::FitClassifier)).expect("it has no prompts");
    let captions = ["model={folder='sd3'}", "lora.rank=4", "data.kind=captions", "data.path=x", "prompts.t5=false"];
    parse("", &captions).and_then(|config| config.validate(Command::Pretrain)).expect("pretrain reads t5");
    let twice = [&captions[..], &["preview.classes=[0, 0]"]].concat();
    let error = parse("", &twice).and_then(|config| config.validate(Command::Pretrain)).expect_err("it is named twice");
    assert!(error.to_string().starts_with("`preview.classes` names prompt 0 twice"), "{error}");
}

#[test]
fn setting_only_the_weight_type_keeps_the_model() {
    let file = |text: &str| parse(text, &["model.weights=q8_0"]).expect("it is a configuration").model.file;
    assert_eq!(file("").as_deref(), Some("builtin:digits8-base"));
    assert_eq!(file("model.file = \"mine.safetensors\"").as_deref(), Some("mine.safetensors"));
    assert_eq!(file("model.image_size = 8"), None);
}
