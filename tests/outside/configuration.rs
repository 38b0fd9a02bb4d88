//! Configurations of programs and services.

use flowdppo_wgpu::config::{Command, Config, Reward, RewardKind};
use flowdppo_wgpu::model::{Pictures, Prompt};
use flowdppo_wgpu::reward::Description;
use serde_json::json;

use super::pictures::{assert_input, model_of};

#[test]
fn the_shipped_configurations_are_valid() {
    for (file, kind) in [("command", RewardKind::Command), ("http", RewardKind::Http)] {
        let path = format!("{}/configs/rewards/{file}.toml", env!("CARGO_MANIFEST_DIR"));
        let config = Config::load(Some(path.as_ref()), &[]).unwrap_or_else(|e| panic!("{e}"));
        config.validate(Command::Train).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!(config.reward.last().unwrap().kind, kind);
        let again = Config::parse(&config.to_toml(), "again", &[]).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!(again, config, "{file}");
    }
}

#[test]
fn missing_and_wrong_keys_are_explained() {
    let cases = [
        ("kind = \"command\"", "`reward.0.program` must be a list of a program and its arguments, such as"),
        ("kind = \"command\"\nprogram = [\"\"]", "`reward.0.program` must be a list of a program and its arguments"),
        ("kind = \"command\"\nprogram = [\"x\"]\nurl = \"y\"", "`reward.0.url` is for the kind \"http\""),
        ("kind = \"http\"\nrewards = [\"ocr\"]", "`reward.0.url` must be the address of a service, such as"),
        ("kind = \"http\"\nurl = \"x\"", "`reward.0.rewards` must be a list of rewards that the service has"),
        (
            "kind = \"http\"\nurl = \"x\"\nrewards = [\"ocr\", \"clip\", \"ocr\"]",
            "`reward.0.rewards` must be a list of different names, not \"ocr\"",
        ),
        (
            "kind = \"ink\"\nprompt = \"a {class}\"",
            "`reward.0.prompt` is for the kind \"command\" or \"http\" or \"clip-score\"",
        ),
        (
            "kind = \"ink\"\nmetadata = \"a.json\"",
            "`reward.0.metadata` is for the kind \"command\" or \"http\" or \"clip-score\"",
        ),
        (
            "kind = \"command\"\nprogram = [\"x\"]\nprompt = \"a {name}\"",
            "`reward.0.prompt` must be text in which {class} stands for the name of the class, not \"a {name}\"",
        ),
        ("kind = \"command\"\nprogram = [\"x\"]\nprompt = \" \"", "`reward.0.prompt` must be text in which {class}"),
        ("name = \"total\"", "`reward.0.name` must be a name that no other column of rewards.csv has, not \"total\""),
        ("kind = \"command\"\nprogram = [\"x\"]\nworkers = 0", "`reward.0.workers`"),
        ("kind = \"command\"\nprogram = [\"x\"]\nbatch = 0", "`reward.0.batch`"),
        ("kind = \"command\"\nprogram = [\"x\"]\ntimeout_seconds = 0", "`reward.0.timeout_seconds`"),
    ];
    for (text, needle) in cases {
        // A key of another kind is found when the file is read, other errors when it is checked.
        let config = Config::parse(&format!("[[reward]]\n{text}"), "my.toml", &[]);
        let message = config.and_then(|config| config.validate(Command::Train)).expect_err(needle).to_string();
        assert!(message.contains(needle), "{message:?} does not say {needle:?}");
    }
    let shell = Config::parse("[[reward]]\nkind = \"command\"\nprogram = \"python3 score.py\"", "my.toml", &[]);
    let message = shell.expect_err("a program is a list").to_string();
    assert!(message.contains("`reward.0.program` must be a list"), "{message}");
}

#[test]
fn metadata_that_does_not_match_is_explained() {
    let cases = [
        ("{", "EOF while parsing an object at line 1 column 1; it should be a JSON list with an object for each class"),
        ("3", "it should be a JSON list with an object for each class, or an object with one for each class name"),
        ("[{}]", "its list has 1 entries, but the model has 2 classes"),
        ("[{}, 3]", "the class \"dogs\" must have an object, not 3"),
        ("{\"cat\": {}}", "it is missing the class \"dogs\""),
        (
            "{\"cat\": {}, \"dogs\": {}, \"dgos\": {}}",
            "it has \"dgos\", but there is no such class; did you mean \"dogs\"?",
        ),
        ("[{}, {\"label\": 1}]", "`label` of the class \"dogs\" must be removed, because each request has its own"),
        ("[{}, {\"prompt\": 3}]", "the `prompt` of the class \"dogs\" must be text, not 3"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("classes.json");
    let reward = Reward { metadata: file.to_str().unwrap().into(), ..Reward::default() };
    let describe = || Description::of_classes(&reward, &model_of(&["cat".into(), "dogs".into()]));
    let explained = |needle: &str| {
        let error = describe().expect_err(needle);
        let message = error.to_string();
        assert!(message.starts_with(&format!("cannot read {}: ", file.display())), "{message}");
        assert!(message.contains(needle) && error.exit_code() == 2, "{message:?} does not say {needle:?}");
    };
    explained("");
    for (text, needle) in cases {
        std::fs::write(&file, text).unwrap();
        explained(needle);
    }
}

/// A name is the same in every way to write its accents: é is one character, or e with a mark.
#[test]
fn metadata_finds_a_class_however_its_accents_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("classes.json");
    let reward = Reward { metadata: file.to_str().unwrap().into(), ..Reward::default() };
    // A model has its names composed.
    let class = "caf\u{e9}";
    for key in ["cafe\u{301}", class] {
        std::fs::write(&file, format!("{{\"{key}\": {{\"prompt\": \"a room\"}}, \"dog\": {{}}}}")).unwrap();
        let described = Description::of_classes(&reward, &model_of(&[class.into(), "dog".into()]));
        let described = described.unwrap_or_else(|cause| panic!("{key:?}: {cause}"));
        assert_eq!(described[0].prompt, "a room", "{key:?}");
    }
}

/// The fields of a prompt's line go to programs and services, unless the metadata of the reward says something else.
#[test]
fn fields_of_prompts_are_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("classes.json");
    std::fs::write(&file, json!({"a fox": {"tag": "animal"}, "a STOP sign": {"prompt": "a sign"}}).to_string())
        .unwrap();
    let names = ["a fox", "a STOP sign"].map(str::to_owned);
    let prompt = |name: &String, fields: serde_json::Value| Prompt {
        fields: fields.as_object().unwrap().clone(),
        ..Prompt::from(name.as_str())
    };
    let prompts =
        [prompt(&names[0], json!({"tag": 3, "include": ["fox"]})), prompt(&names[1], json!({"text": "STOP"}))];
    let asked = Pictures { prompts: &prompts, ..model_of(&names) };
    let described = |kind, metadata: &str| {
        let reward = Reward { kind, metadata: metadata.into(), ..Reward::default() };
        let described = Description::of_classes(&reward, &asked).unwrap();
        described.into_iter().map(|it| (it.prompt, it.metadata.into())).collect::<Vec<(String, serde_json::Value)>>()
    };
    let (fox, sign) = ("a fox".to_owned(), "a STOP sign".to_owned());
    for kind in [RewardKind::Command, RewardKind::Http] {
        let expected = [(fox.clone(), json!({"tag": 3, "include": ["fox"]})), (sign.clone(), json!({"text": "STOP"}))];
        assert_eq!(described(kind, ""), expected);
        let expected = [
            (fox.clone(), json!({"tag": "animal", "include": ["fox"]})),
            ("a sign".to_owned(), json!({"text": "STOP"})),
        ];
        assert_eq!(described(kind, file.to_str().unwrap()), expected);
    }
    assert_eq!(described(RewardKind::ClipScore, ""), [(fox, json!({})), (sign, json!({}))]);

    let labelled = [prompt(&names[0], json!({"label": "fox"}))];
    let asked = Pictures { prompts: &labelled, ..model_of(&names[..1]) };
    let describe = |kind| Description::of_classes(&Reward { kind, ..Reward::default() }, &asked);
    assert_input(describe(RewardKind::Http), &["prompt 1 of `prompts.file` has a field `label`", "the reward `http`"]);
    describe(RewardKind::ClipScore).unwrap();
}
