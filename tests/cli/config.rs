//! `config` and `completions`, as used on the command line.

use super::workplace::Workplace;

#[test]
fn a_new_configuration_is_written_once_checked_and_used_for_training() {
    let here = Workplace::new();
    let told = here.run("config init --for train --preset quick --out my.toml").succeeds();
    assert!(told.contains("written: my.toml"), "{told}");
    let text = std::fs::read_to_string(here.path("my.toml")).unwrap();
    assert!(text.starts_with("#:schema flowdppo-wgpu.schema.json\n"), "{text}");
    assert!(text.contains("\niterations = 3\n"), "{text}");

    let before = here.snapshot();
    let again = here.run("config init --out my.toml");
    assert_eq!(again.code, Some(2));
    assert_eq!(
        again.err,
        "error: cannot write my.toml: it exists already; choose another name, or replace it with --force\n"
    );
    assert_eq!(here.snapshot(), before);

    assert_eq!(here.run("config check my.toml").succeeds(), "my.toml: OK for train\n");
    let diff = here.run("config print --config my.toml --set train.beta1=0.8 --diff").succeeds();
    assert_eq!(diff, "[train]\niterations = 3\nbeta1 = 0.8\n\n[eval]\nevery = 0\n\n[preview]\nevery = 0\n");
    let schema = here.run("config schema").succeeds();
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn a_check_shows_everything_and_ends_with_two() {
    let here = Workplace::new();
    std::fs::write(here.path("bad.toml"), "[train]\niteratons = 3\nbeta1 = 'x'\n").unwrap();
    let ended = here.run("config check train.toml bad.toml");
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert_eq!(
        ended.out,
        "train.toml: OK for train\n\
         bad.toml:2:1: unknown key `train.iteratons`; did you mean `train.iterations`?\n\
         bad.toml:3:9: `train.beta1` must be a number, not the text \"x\"\n"
    );
    assert_eq!(ended.err, "error: 2 problems in 1 of 2 files\n");
    assert_eq!(here.run("config check no.toml").code, Some(2));
}

#[test]
fn a_check_accepts_the_options_of_a_run() {
    let here = Workplace::new();
    let check = |arguments: &str| here.run(&format!("config check {arguments}"));
    assert_eq!(check("--preset quick train.toml").succeeds(), "train.toml: OK for train\n");
    assert_eq!(check("train.toml --set train.micro_batch=3 --for eval").succeeds(), "train.toml: OK for eval\n");
    assert_eq!(check("pretrain.toml --for eval").succeeds(), "pretrain.toml: OK for eval\n");
    for (arguments, said) in [
        ("train.toml --set train.micro_batch=3", "train.toml: `train.micro_batch` = 3 must divide"),
        ("train.toml --set train.iteratons=3", "--set train.iteratons=3: unknown key"),
        ("train.toml --set lora.adapter=nowhere", "train.toml: `lora.adapter` names nowhere, which does not exist"),
    ] {
        let ended = check(arguments);
        assert_eq!((ended.code, ended.err.as_str()), (Some(2), "error: 1 problems in 1 of 1 files\n"), "{arguments}");
        assert!(ended.out.starts_with(said), "{}", ended.out);
    }
    assert!(check("train.toml --preset quik").err.contains("did you mean `quick`?"));
}

#[test]
fn an_invalid_configuration_is_not_written() {
    let here = Workplace::new();
    let before = here.snapshot();
    for arguments in ["--set train.iterations=0", "--config train.toml --set train.micro_batch=3 --for train"] {
        let ended = here.run(&format!("config init {arguments} --out my.toml"));
        assert_eq!(ended.code, Some(2), "{arguments}");
        assert!(ended.err.starts_with("error: ") && ended.err.contains("`train."), "{}", ended.err);
    }
    assert_eq!(here.snapshot(), before);
    // It is not used for training, and the files that it names may be created later.
    here.run("config init --for eval --set train.iterations=0 --out eval.toml").succeeds();
    here.run("config init --set model.file=later.safetensors --out later.toml").succeeds();
    here.run("config init --config pretrain.toml --out sizes.toml").succeeds();
}

#[test]
fn presets_override_the_file_and_set_overrides_presets() {
    let here = Workplace::new();
    let print = |arguments: &str| here.run(&format!("config print --config train.toml {arguments}")).succeeds();
    assert!(print("").contains("iterations = 2\n"));
    assert!(print("--preset quick").contains("iterations = 3\n"));
    assert!(print("--preset quick --set train.iterations=7").contains("iterations = 7\n"));
    let both = print("--preset many-epochs --preset careful");
    assert!(both.contains("inner_epochs = 2\n") && both.contains("learning_rate = 5e-5\n"), "{both}");
    let ended = here.run("train --preset quik");
    assert_eq!(ended.err, "error: there is no preset `quik`; did you mean `quick`?\n");
    assert_eq!(ended.code, Some(2));
    let listed = here.run("config presets").succeeds();
    assert!(listed.lines().any(|line| line.starts_with("low-memory  ")), "{listed}");
    assert!(here.run("config presets quick").succeeds().contains("train.iterations = 3"));
}

#[test]
fn every_shell_gets_completions() {
    let here = Workplace::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = here.run(&format!("completions {shell}")).succeeds();
        for word in ["fit-classifier", "preset", "completions"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
        // The other shells complete no values.
        assert!(script.contains("whole-batch") || ["powershell", "elvish"].contains(&shell), "{shell}");
    }
}

/// The time of a check is linear in the size of the file, and its answer stays readable.
#[test]
fn a_check_of_an_enormous_file_is_quick_and_short() {
    let here = Workplace::new();
    let unknown: String = (0..20_000).map(|key| format!("unknown_{key} = 1\n")).collect();
    let classes: Vec<String> = (0..200_000).map(|class| class.to_string()).collect();
    let files = [
        format!("[train]\n{unknown}"),
        format!("[rollout]\nclasses = [{}]\n", classes.join(", ")),
        format!("[rollout]\nclasses = [{}]\n", vec!["-1"; 200_000].join(", ")),
    ];
    for text in files {
        std::fs::write(here.path("huge.toml"), text).unwrap();
        let begin = std::time::Instant::now();
        let ended = here.run("config check huge.toml");
        // A fraction of a second on an idle machine; in quadratic time it took over half a minute.
        assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
        assert_eq!(ended.code, Some(2), "{}", ended.out.chars().take(500).collect::<String>());
        assert!(ended.out.lines().count() < 100, "{} lines", ended.out.lines().count());
    }
    std::fs::write(here.path("huge.toml"), format!("[train]\n{unknown}")).unwrap();
    assert!(here.run("config check huge.toml").out.contains("more"), "the rest is counted");
}

/// `config check` rejects everything that `train` rejects before it opens a device.
#[test]
fn a_check_rejects_what_training_would() {
    let here = Workplace::new();
    let reward = "\n[[reward]]\nkind = \"http\"\nrewards = [\"ocr\"]\n";
    let text = std::fs::read_to_string(here.path("train.toml")).unwrap();
    for (url, says) in [
        ("https://127.0.0.1:8080", "no TLS"),
        ("127.0.0.1:8080", "http://"),
        ("http://user:secret@127.0.0.1:8080", "password"),
        ("http://127.0.0.1:99999", "port"),
    ] {
        std::fs::write(here.path("http.toml"), format!("{text}{reward}url = \"{url}\"\n")).unwrap();
        let ended = here.run("config check http.toml");
        assert_eq!(ended.code, Some(2), "{url}: {}", ended.out);
        assert!(ended.out.contains(says), "{url}: {}", ended.out);
        assert!(!ended.out.contains("secret"), "{}", ended.out);
        // The model of `eval` is given on the command line; what does not depend on it is also checked.
        let ended = here.run("config check http.toml --for eval");
        assert_eq!(ended.code, Some(2), "{url}: {}", ended.out);
        assert!(ended.out.contains(says), "{url}: {}", ended.out);
        let trained = here.run("-q train --config http.toml --out run");
        assert_eq!(trained.code, Some(2), "{url}: {}", trained.err);
    }
    #[cfg(unix)]
    {
        std::fs::write(here.path("score.py"), "print(1)\n").unwrap();
        let program = "train.toml --set reward.0={kind='command',program=['./score.py']}";
        let ended = here.run(&format!("config check {program}"));
        assert!(ended.out.contains("`reward.0.program` names ./score.py, which is not executable"), "{}", ended.out);
        let ended = here.run(&format!("-q train --out run --config {program}"));
        assert!(ended.code == Some(2) && ended.err.contains("Permission denied"), "{}", ended.err);
    }
    let ended = here.run("config check train.toml --set rollout.classes=[12]");
    assert!(ended.out.contains("`rollout.classes` names class 12"), "{}", ended.out);
    let ended = here.run("eval --config train.toml --model base.safetensors --set rollout.classes=[12]");
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("`rollout.classes` names class 12"), "{}", ended.err);
}
