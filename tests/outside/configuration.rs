//! What a configuration may say of programs and services.

use flowdppo_wgpu::config::{Command, Config, RewardKind};

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
fn what_is_missing_or_wrong_is_explained() {
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
        ("kind = \"command\"\nprogram = [\"x\"]\nworkers = 0", "`reward.0.workers`"),
        ("kind = \"command\"\nprogram = [\"x\"]\nbatch = 0", "`reward.0.batch`"),
        ("kind = \"command\"\nprogram = [\"x\"]\ntimeout_seconds = 0", "`reward.0.timeout_seconds`"),
    ];
    for (text, needle) in cases {
        let config = Config::parse(&format!("[[reward]]\n{text}"), "my.toml", &[]).unwrap_or_else(|e| panic!("{e}"));
        let message = config.validate(Command::Train).expect_err(needle).to_string();
        assert!(message.contains(needle), "{message:?} does not say {needle:?}");
    }
    let shell = Config::parse("[[reward]]\nkind = \"command\"\nprogram = \"python3 score.py\"", "my.toml", &[]);
    let message = shell.expect_err("a program is a list").to_string();
    assert!(message.contains("`reward.0.program` must be a list"), "{message}");
}
