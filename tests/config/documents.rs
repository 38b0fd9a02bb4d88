//! Configurations that the program writes and explains: schema, commented files, presets, differences, checks.

use flowdppo_wgpu::config::{Checked, Command, Config, PRESETS, Preset, Style, reference, schema};

use crate::{METHODS, SHIPPED, parse, shipped};

/// Every shipped file that is a configuration.
fn shipped_files() -> Vec<(String, Config)> {
    let mut files = Vec::new();
    for set in SHIPPED {
        for file in ["pretrain", "fit-classifier", "fit-judge", "train"] {
            files.push((format!("{set}/{file}"), shipped(set, file, &[])));
        }
    }
    files.extend(METHODS.map(|method| (format!("digits8/{method}"), shipped("digits8", method, &[]))));
    files.push(("evidence/base-digits".into(), shipped("evidence", "base-digits", &[])));
    files
}

fn with_preset(preset: &Preset) -> Config {
    Config::parse("", "", &preset.overrides()).unwrap_or_else(|cause| panic!("{}: {cause}", preset.name))
}

/// Asserts that a value matches a schema: types, required, unknown and constant keys, bounds. Unknown keywords are
/// rejected, so that no part of the schema goes untested.
fn fits(value: &toml::Value, schema: &serde_json::Value, path: &str) -> Result<(), String> {
    let root = flowdppo_wgpu::config::schema();
    let known = [
        "$ref",
        "$schema",
        "$defs",
        "title",
        "description",
        "default",
        "format",
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "oneOf",
        "anyOf",
        "const",
        "enum",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "x-commands",
        "x-inf",
        "x-why",
    ];
    for keyword in schema.as_object().ok_or_else(|| format!("{path}: no schema"))?.keys() {
        assert!(known.contains(&keyword.as_str()), "{path}: this test does not know `{keyword}`");
    }
    if let Some(pointer) = schema["$ref"].as_str() {
        fits(value, root.pointer(&pointer[1..]).expect(pointer), path)?;
    }
    for forms in ["oneOf", "anyOf"].iter().filter_map(|name| schema[name].as_array()) {
        let fitting = forms.iter().filter(|form| fits(value, form, path).is_ok()).count();
        if fitting != 1 {
            return Err(format!("{path}: {value} fits {fitting} forms"));
        }
    }
    let fault = |what: &str| Err(format!("{path}: {value} {what}"));
    let types: Vec<&str> = match &schema["type"] {
        serde_json::Value::Array(types) => types.iter().filter_map(|name| name.as_str()).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let found: &[&str] = match value {
        toml::Value::String(_) => &["string"],
        toml::Value::Integer(_) => &["integer", "number"],
        toml::Value::Float(_) => &["number"],
        toml::Value::Boolean(_) => &["boolean"],
        toml::Value::Array(_) => &["array"],
        toml::Value::Table(_) => &["object"],
        toml::Value::Datetime(_) => &[],
    };
    if !types.is_empty() && !types.iter().any(|name| found.contains(name)) {
        return fault("has another type");
    }
    let number = value.as_float().or(value.as_integer().map(|number| number as f64));
    if let Some(number) = number {
        let bound = |name: &str| schema[name].as_f64();
        let ok = bound("minimum").is_none_or(|low| number >= low)
            && bound("maximum").is_none_or(|high| number <= high)
            && bound("exclusiveMinimum").is_none_or(|low| number > low)
            && bound("exclusiveMaximum").is_none_or(|high| number < high);
        if !ok {
            return fault("is out of range");
        }
    }
    let names = schema["enum"].as_array().map(|names| names.iter().any(|name| name.as_str() == value.as_str()));
    if names == Some(false) || schema["const"].as_str().is_some_and(|name| Some(name) != value.as_str()) {
        return fault("is another name");
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        if let Some(items) = schema.get("items") {
            fits(item, items, &format!("{path}.{index}"))?;
        }
    }
    if let Some(table) = value.as_table() {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(|name| name.as_str()) {
            if !table.contains_key(name) {
                return fault(&format!("lacks `{name}`"));
            }
        }
        for (name, value) in table {
            match (schema["properties"].get(name), &schema["additionalProperties"]) {
                (Some(property), _) => fits(value, property, &format!("{path}.{name}"))?,
                (None, serde_json::Value::Bool(false)) => return fault(&format!("has the unknown key `{name}`")),
                (None, other) if other.is_object() => fits(value, other, &format!("{path}.{name}"))?,
                (None, _) => {}
            }
        }
    }
    Ok(())
}

fn fit_of(text: &str) -> Result<(), String> {
    fits(&toml::Value::Table(text.parse().unwrap()), schema(), "")
}

#[test]
fn every_shipped_configuration_fits_the_schema() {
    for (name, config) in shipped_files() {
        fit_of(&config.to_toml()).unwrap_or_else(|cause| panic!("{name}: {cause}"));
        let path = format!("{}/configs/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        fit_of(&std::fs::read_to_string(path).unwrap()).unwrap_or_else(|cause| panic!("{name}: {cause}"));
    }
}

#[test]
fn the_schema_rejects_what_the_program_rejects() {
    for (text, reason) in [
        ("[trian]", "unknown key `trian`"),
        ("[train]\niteratons = 3", "unknown key `iteratons`"),
        ("[train]\niterations = 'many'", "another type"),
        ("[train]\niterations = 0", "out of range"),
        ("[train]\nbeta1 = 1.0", "out of range"),
        ("[train]\nlearning_rate = 0.0", "out of range"),
        ("[model]\nimage_size = 70000", "out of range"),
        ("[objective]\nmask = 'asymetric'", "fits 0 forms"),
        ("[objective.reference]\nbeta = -1.0", "out of range"),
        ("[rollout]\ntrained_steps = { kind = 'list' }", "fits 0 forms"),
        ("[rollout]\ntrained_steps = { kind = 'list', steps = [1], size = 2 }", "fits 0 forms"),
        ("[rollout]\nschedule = { shift = 1.0 }", "fits 0 forms"),
        ("[[reward]]\nwieght = 1.0", "unknown key `wieght`"),
    ] {
        let cause = fit_of(text).expect_err(text);
        assert!(cause.contains(reason), "{text}: {cause}");
        let refused =
            parse(text, &[]).is_err_and(|_| true) || parse(text, &[]).unwrap().validate(Command::Train).is_err();
        assert!(refused, "{text}");
    }
}

/// Bounds are written once, in the schema: the program accepts each bound and rejects values just beyond it.
/// The override that makes a key effective, from the message that nothing reads it.
fn reader_of(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("does nothing with `")?;
    let (selector, rest) = rest.split_once("` = ")?;
    let reader = rest.split_once("only \"")?.1.split('"').next()?;
    Some(format!("{selector}={reader}"))
}

#[test]
fn the_program_enforces_the_bounds_of_the_schema() {
    let mut count = 0;
    let commands = [Command::Train, Command::Pretrain, Command::FitClassifier];
    for (section, property) in schema()["properties"].as_object().unwrap() {
        let names: Vec<&str> =
            property["x-commands"].as_array().expect(section).iter().map(|command| command.as_str().unwrap()).collect();
        let command = commands.into_iter().find(|command| names.contains(&command.name())).expect(section);
        let Some(pointer) = property["$ref"].as_str() else { continue };
        for (key, schema) in schema().pointer(&pointer[1..]).unwrap()["properties"].as_object().unwrap() {
            // Sizes exclude the default file.
            if section == "model" || !schema["type"].is_string() {
                continue;
            }
            for (bound, step) in [("minimum", -1), ("maximum", 1), ("exclusiveMinimum", 0), ("exclusiveMaximum", 0)] {
                let Some(limit) = schema[bound].as_i64() else { continue };
                let value = limit + step;
                let set = format!("{section}.{key}={value}");
                // Keys of another objective need that objective.
                let reader = parse("", &[set.as_str()]).err().and_then(|cause| reader_of(&cause.to_string()));
                let overrides: Vec<&str> = reader.as_deref().into_iter().chain([set.as_str()]).collect();
                let message = match parse("", &overrides) {
                    Ok(config) => config.validate(command).expect_err(&set).to_string(),
                    // An unsigned type.
                    Err(cause) => cause.to_string(),
                };
                assert!(message.contains(&format!("`{section}.{key}` must be ")), "{set}: {message}");
                count += 1;
            }
        }
    }
    assert!(count > 50, "only {count} bounds were tried");
}

#[test]
fn a_range_in_the_reference_has_both_ends() {
    let line = |key: &str| reference().lines().find(|line| line.contains(&format!("| `{key}` |"))).map(str::to_owned);
    assert!(line("guard.max_masked_fraction").unwrap().contains("| 0 to 1 |"));
    assert!(line("guard.min_diversity").unwrap().contains("| 0 to below 1 |"));
}

#[test]
fn a_commented_configuration_round_trips() {
    let mut all = shipped_files();
    all.push(("the defaults".into(), Config::default()));
    all.extend(PRESETS.iter().map(|preset| (preset.name.to_owned(), with_preset(preset))));
    let mut none = Config::default();
    none.reward.clear();
    all.push(("no reward".into(), none));
    let mut several = Config::default();
    several.reward = vec![several.reward[0].clone(); 3];
    several.reward[1].weight = (-0.5).into();
    all.push(("three rewards".into(), several));
    for (name, config) in &all {
        let text = config.as_document(Style { comments: true, ..Style::default() });
        assert_eq!(&parse(&text, &[]).unwrap_or_else(|cause| panic!("{name}: {cause}")), config, "{name}");
        let too_wide = text.lines().find(|line| line.starts_with('#') && line.chars().count() > 120);
        assert_eq!(too_wide, None, "{name}");
    }
}

/// A commented configuration contains every key of the schema, set or not, with its comment.
#[test]
fn a_commented_configuration_has_every_key() {
    let text = Config::default().as_document(Style { comments: true, ..Style::default() });
    let lines: Vec<&str> = text.lines().collect();
    let sections = schema()["$defs"].as_object().unwrap();
    for (section, property) in schema()["properties"].as_object().unwrap() {
        let pointer = property["$ref"].as_str().or(property["items"]["$ref"].as_str()).unwrap();
        let definition = &sections[pointer.rsplit('/').next().unwrap()];
        for (key, schema) in definition["properties"].as_object().unwrap() {
            if text.contains(&format!("\n[{section}.{key}]\n")) {
                continue;
            }
            assert!(schema["description"].is_string(), "{section}.{key} has no description");
            let is_it = |line: &&str| {
                line.trim_start_matches("# ").strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with(" ="))
            };
            let at = lines.iter().position(is_it).unwrap_or_else(|| panic!("{section}.{key} is missing"));
            assert!(lines[at - 1].starts_with("# "), "{section}.{key}");
        }
    }
}

#[test]
fn for_a_command_only_the_keys_that_it_reads_are_written() {
    let style = Style { comments: true, command: Some(Command::FitClassifier), base: None };
    let text = Config::default().as_document(style);
    let headers: Vec<&str> = text.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(headers, ["[run]", "[data]", "[classifier]"]);
    let text = Config::default().as_document(Style { command: Some(Command::Eval), ..Style::default() });
    let headers: Vec<&str> = text.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(headers, ["[run]", "[model]", "[prompts]", "[rollout]", "[[reward]]", "[eval]"]);
}

#[test]
fn the_differences_from_the_defaults_are_sufficient() {
    let default = Config::default();
    let style = Style { base: Some(&default), ..Style::default() };
    assert_eq!(default.as_document(style).trim(), "");
    for (name, config) in shipped_files() {
        let text = config.as_document(style);
        assert_eq!(parse(&text, &[]).unwrap_or_else(|cause| panic!("{name}: {cause}")), config, "{name}\n{text}");
    }
    let config =
        parse("", &["train.beta1=0.8", "objective.reference.beta=0.1", "rollout.trained_steps.count=2"]).unwrap();
    assert_eq!(
        config.as_document(style),
        "[rollout]\ntrained_steps = { kind = \"sparse-early\", count = 2, from = 0.0, to = 0.5 }\n\n\
         [objective.reference]\nbeta = 0.1\n\n[train]\nbeta1 = 0.8\n"
    );
    let mut none = Config::default();
    none.reward.clear();
    assert_eq!(parse(&none.as_document(style), &[]).unwrap(), none);
}

#[test]
fn presets_can_be_combined_and_used_for_training() {
    for preset in PRESETS {
        let config = with_preset(preset);
        config.validate(Command::Train).unwrap_or_else(|cause| panic!("{}: {cause}", preset.name));
        assert_ne!(config, Config::default(), "{}", preset.name);
        assert!(preset.summary().ends_with('.'), "{}", preset.summary());
        for other in PRESETS {
            for set in SHIPPED {
                let overrides: Vec<String> = [preset.overrides(), other.overrides()].concat();
                let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
                let config = shipped(set, "train", &overrides);
                config.validate(Command::Train).unwrap_or_else(|cause| panic!("{} {set}: {cause}", preset.name));
            }
        }
    }
    assert_eq!(Preset::named("quik").unwrap_err().to_string(), "there is no preset `quik`; did you mean `quick`?");
    assert!(Preset::named("enormous").unwrap_err().to_string().contains("the presets are quick, careful"));
}

fn errors(text: &str, command: Option<Command>) -> Vec<String> {
    errors_with(text, &[], command)
}

/// All messages of a check.
fn errors_with(text: &str, set: &[&str], command: Option<Command>) -> Vec<String> {
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    let found = Checked::text(text, "my.toml", &set, command);
    found.errors.iter().chain(&found.missing).map(ToString::to_string).collect()
}

#[test]
fn a_check_reports_everything_at_once() {
    let text = "[train]\niteratons = 3\nbeta1 = 'x'\nbeta2 = 1.0\n[[reward]]\nwieght = 1\n[trian]\n\
                [rollout]\ntrained_steps = 3\ngroup_size = 1\n";
    assert_eq!(
        errors(text, None),
        [
            "my.toml:2:1: unknown key `train.iteratons`; did you mean `train.iterations`?",
            "my.toml:3:9: `train.beta1` must be a number, not the text \"x\"",
            "my.toml:6:1: unknown key `reward.0.wieght`; did you mean `reward.0.weight`?",
            "my.toml:7:2: unknown section [trian]; did you mean [train]?",
            "my.toml:9:17: `rollout.trained_steps` must be a table with a `kind`, not 3",
            "my.toml: `rollout.group_size` must be a whole number from 2 to 65535, because rewards are compared within a \
             group, not 1",
            "my.toml: `train.beta2` must be a number from 0 to below 1, not 1.0",
        ]
    );
    assert_eq!(errors("[train]\niterations = = 3", None).len(), 1);
    assert_eq!(errors("reward = [1, 2]\ntrain = 3\n", None).len(), 2);
}

#[test]
fn a_check_reports_missing_files() {
    let text = "[model]\nfile = 'no.safetensors'\n[train]\niterations = 1\n[eval]\njudge = ''\n[[reward]]\nfile = 'nor this'\n";
    let found = errors(text, None);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("my.toml: `model.file` names no.safetensors, which does not exist"), "{found:?}");
    assert!(found[1].starts_with("my.toml: `reward.0.file` names nor this"), "{found:?}");
    let data = "[data]\nkind = 'folder'\npath = 'no'\n[classifier]\nsteps = 3\n";
    assert!(errors(data, None)[0].starts_with("my.toml: `data.path` names no,"));
    let adapter = "[lora]\nadapter = 'no'\n";
    assert!(errors(adapter, None)[0].starts_with("my.toml: `lora.adapter` names no,"));
    let onnx = "[[reward]]\nkind = 'onnx'\nfile = 'Cargo.toml'\noutput = { kind = 'ctc', alphabet = 'no.txt' }\n";
    assert!(errors(onnx, None)[0].starts_with("my.toml: `reward.0.output.alphabet` names no.txt,"));
    let metadata = "[[reward]]\nkind = 'http'\nurl = 'http://127.0.0.1:1'\nrewards = ['x']\nmetadata = 'no.json'\n";
    assert!(errors(metadata, None)[0].starts_with("my.toml: `reward.0.metadata` names no.json,"));
    let head = "[[reward]]\nkind = 'clip-score'\nfile = 'src'\nhead = 'no.safetensors'\n";
    assert!(errors(head, None)[0].starts_with("my.toml: `reward.0.head` names no.safetensors,"));
    for command in [Command::Train, Command::Pretrain] {
        assert!(errors(adapter, Some(command))[0].starts_with("my.toml: `lora.adapter` names no,"), "{command}");
    }
    for command in [Command::Train, Command::Eval] {
        let vae = |vae: &str| errors(&format!("[model]\nfile = 'Cargo.toml'\nvae = '{vae}'\n"), Some(command));
        assert!(vae("./no")[0].starts_with("my.toml: `model.vae` names ./no,"), "{command}");
        // A name on the hub is looked up when the model is opened.
        assert_eq!(vae("stabilityai/sd-vae-ft-ema"), [""; 0], "{command}");
    }
    // Files that a run does not use do not count.
    assert!(Checked::text(adapter, "my.toml", &[], None).errors.is_empty());
}

#[test]
fn a_check_reports_unknown_built_in_models() {
    for (text, expected) in [
        (
            "[model]\nfile = 'builtin:digit8-base'\n",
            "`model.file`: there is no model `builtin:digit8-base`; did you mean `builtin:digits8-base`?",
        ),
        (
            "[eval]\njudge = 'builtin:digits8-jugde'\n",
            "`eval.judge`: there is no model `builtin:digits8-jugde`; did you mean `builtin:digits8-judge`?",
        ),
        (
            "[[reward]]\nfile = 'builtin:x'\n",
            "`reward.0.file`: there is no model `builtin:x`: use builtin:digits8-base, builtin:digits8-classifier, \
          builtin:digits8-judge, builtin:rings-base, builtin:rings-classifier, builtin:rings-judge, builtin:shapes-judge, or a file",
        ),
    ] {
        assert_eq!(errors(text, None), [format!("my.toml: {expected}")]);
    }
    assert!(errors("[[reward]]\n", Some(Command::Eval)).is_empty());
    assert_eq!(errors("[[reward]]\nfile = 'builtin:x'\n", Some(Command::Eval)).len(), 1);
    let sweep = "[grid]\neval.judge = ['', 'builtin:x', 'builtin:y']\n";
    assert_eq!(errors(sweep, None).len(), 2);
}

#[test]
fn a_check_reports_missing_programs() {
    let check = |program: &str| errors(&format!("[[reward]]\nkind = 'command'\nprogram = ['{program}', 'x']\n"), None);
    assert_eq!(
        check("no-such-program"),
        ["my.toml: `reward.0.program` names no-such-program, which cannot be found: install it, or correct its name; \
          for a file in the current directory, write ./NAME"]
    );
    assert_eq!(check("./Cargo").len(), 1);
    // A name is looked up in PATH, a path relative to the current directory.
    assert_eq!(check("Cargo.toml").len(), 1);
    for found in ["./.ci/run", "cargo", ".ci/dist"] {
        assert_eq!(check(found), [""; 0], "{found}");
    }
    #[cfg(unix)]
    for text in ["./Cargo.toml", "src/lib.rs"] {
        let says = format!("`reward.0.program` names {text}, which is not executable: allow it with chmod +x");
        assert!(check(text).iter().any(|said| said.contains(&says)), "{text}: {:?}", check(text));
    }
}

/// Removing a bad value to continue reading must not cause further errors.
#[test]
fn a_check_does_not_report_consequences_of_another_mistake() {
    for (text, expected) in [
        ("rollout.trained_steps.kind = 'sparse_early'\n", "did you mean \"sparse-early\"?"),
        ("rollout.schedule = { kind = 'static-shift', shfit = 1.0 }\n", "did you mean `rollout.schedule.shift`?"),
    ] {
        let found = errors(text, None);
        assert!(found.len() == 1 && found[0].ends_with(expected), "{found:?}");
    }
    let found = errors("rollout.schedule = { shift = 1.0 }\n", None);
    assert_eq!(found, ["my.toml:1:20: `rollout.schedule` needs the key `kind`"]);
    let found = errors_with("", &["rollout.trained_steps.kind=list"], None);
    assert!(found.len() == 1 && found[0].contains("set the whole table"), "{found:?}");
}

#[test]
fn a_check_infers_the_command_of_a_file() {
    let commands = |text: &str| Checked::text(text, "my.toml", &[], None).commands;
    assert_eq!(commands("[run]\n[rollout]\n[model]\n"), [Command::Train]);
    assert_eq!(commands("[train]\n[pretrain]\n"), [Command::Train, Command::Pretrain]);
    assert_eq!(commands("[run]\n[model]\n[data]\n"), [Command::Pretrain]);
    assert_eq!(commands("[rollout]\n[[reward]]\n[eval]\n"), [Command::Train]);
    // Sizes are for pretrain, a file for both.
    let sizes =
        "[model]\nimage_size=8\nchannels=1\npatch_size=2\nhidden_size=64\ndepth=3\nnum_heads=4\nnum_classes=10\n";
    assert_eq!(commands(sizes), [Command::Pretrain]);
    assert!(errors(sizes, None).is_empty());
    assert_eq!(commands("[model]\nfile='builtin:digits8-base'\n"), [Command::Train, Command::Pretrain]);
    assert_eq!(errors("[model]\ndepth=3\n", None).len(), 2);
    assert_eq!(commands("[data]\n[classifier]\n"), [Command::FitClassifier]);
    assert_eq!(commands("[nonsense]\n[train]\n"), [Command::Train]);
    let sweep = |text: &str| Checked::text(text, "my.toml", &[], None);
    assert_eq!(sweep("[grid]\ntrain.iterations = [1, 2, 3]\n").runs, Some(3));
    let wrong = sweep("[grid]\ntrain.iterations = [1, 0]\n").errors;
    assert!(wrong[0].to_string().contains("`train.iterations` must be a whole number"), "{wrong:?}");
    // Overrides are checked, and do not change the command of the file.
    let set = Checked::text(sizes, "my.toml", &["train.iterations=0".to_owned()], None);
    assert_eq!((set.commands.as_slice(), set.errors.len()), (&[Command::Pretrain][..], 0));
    assert_eq!(errors_with("[train]\n", &["train.iterations=0"], None).len(), 1);
    assert_eq!(errors("[[reward]]\nweight = 0\n", Some(Command::Eval)), [""; 0]);
    // Only ranges in the sections of the command.
    assert_eq!(errors("[train]\niterations = 0\n[pretrain]\nsteps = 0\n", Some(Command::Pretrain)).len(), 1);
}
