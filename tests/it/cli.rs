//! The command line as a person meets it: the built binary in an empty folder, its words and its exit codes.

use crate::support::desk::Desk;
use std::{fs, io::Read, net::TcpListener, process::Stdio};

#[test]
fn help_and_version_are_results() {
    let desk = Desk::new();
    desk.run("--version").works(&[concat!("swallow-eval ", env!("CARGO_PKG_VERSION"), "\n")]);
    desk.run("--help").works(&["run", "certify", "doctor", "swallow-eval.toml", "SWALLOW_EVAL_LIMIT", "130"]);
    desk.run("run --help").works(&["--num-fewshot", "--base-url", "--demo", "SWALLOW_EVAL_LIMIT", ".env"]);
}

#[test]
fn usage_errors_exit_with_2() {
    let desk = Desk::new();
    for (line, parts) in [
        ("frobnicate", &["frobnicate"][..]),
        ("certfy", &["'certfy'", "'certify'"]),
        ("run --limit 0", &["'0'", "--limit", "from 1 on"]),
        ("run --limit abc", &["'abc'", "--limit"]),
        ("run --limit -5", &["'-5'", "--limit"]),
        ("run --limit 1.5", &["'1.5'", "--limit"]),
        ("run --limti 3", &["--limti", "--limit"]),
        ("run --shard 0/4", &["'0/4'", "--shard"]),
        ("run --max-failures 2.0", &["'2.0'", "--max-failures"]),
        ("run --suite jp", &["no such suite"]),
        ("run --suite ja,en --tasks mgsm --demo", &["--tasks", "ja, en", "hint: "]),
        ("run --defects none", &["faithful, clean"]),
        ("run --demo --model m", &["--demo", "--model"]),
        ("run --suite ja", &["no model is named", "--demo", "--base-url"]),
        ("run --model m", &["--suite", "--tasks"]),
        ("run --suite ja --model m --apply_chat_template", &["--apply-chat-template", "off-protocol"]),
        ("run --suite ja --model m --gen-kwargs top_q=1", &["--gen-kwargs", "top_q"]),
        ("run --suite ja --model local-completions --model_args model=m", &["needs a server"]),
        ("--model hf --tasks niilc", &["a verb is missing", "swallow-eval run"]),
        ("completions tcsh", &["tcsh", "fish"]),
        ("report", &["<RUN>"]),
        ("doctor --base-url http://127.0.0.1:1/v1", &["--model"]),
    ] {
        desk.run(line).fails(2, parts);
    }
    assert_eq!(desk.run("").code, 2);
}

#[test]
fn underscores_are_the_same_flags() {
    let desk = Desk::new();
    for (line, parts) in [
        ("run --num_fewshot=x", &["'x'", "--num-fewshot"][..]),
        ("run --max_failures x", &["'x'", "--max-failures"]),
        ("run --suite ja --model m --apply_chat_template", &["--apply-chat-template"]),
    ] {
        desk.run(line).fails(2, parts);
    }
}

#[test]
fn a_wrong_setting_names_the_layer_it_stands_in() {
    let toml = "# settings\n[run]\nlimit = \"abc\"\n";
    Desk::new().file("swallow-eval.toml", toml).run("run --suite ja").fails(2, &["in swallow-eval.toml:3: limit = \"abc\""]);
    Desk::new().file(".env", "SWALLOW_EVAL_LIMIT=abc\n").run("run --suite ja").fails(2, &["in .env: SWALLOW_EVAL_LIMIT=abc"]);
    let desk = Desk::new().file("swallow-eval.toml", toml).file(".env", "SWALLOW_EVAL_LIMIT=0\n").env("SWALLOW_EVAL_LIMIT", "-3");
    desk.run("run --suite ja").fails(2, &["in the environment: SWALLOW_EVAL_LIMIT=-3"]);
    desk.run("run --limit 9x").fails(2, &["'9x' for '--limit"]);
    let overridden = desk.run("run --suite ja --limit 4");
    overridden.fails(2, &["no model is named"]);
    assert!(!overridden.err.contains("limit"), "{}", overridden.err);

    let json = Desk::new().file("mine.json", r#"{"limit": 0}"#).env("SWALLOW_EVAL_LIMIT", "5");
    json.run("run --config mine.json").fails(2, &["in mine.json: limit = 0"]);
    json.run("run --config other.json").fails(2, &["--config other.json: there is no such file"]);
    json.run("run --config mine.yaml").fails(2, &["YAML is not read"]);
}

#[test]
fn misspelt_keys_are_told_with_the_near_miss() {
    let desk = Desk::new().file("swallow-eval.toml", "[run]\nmax_conections = 4\n");
    for line in ["run --suite ja", "doctor", "completions bash"] {
        desk.run(line).fails(2, &["in swallow-eval.toml:2: max_conections = 4", "did you mean max_connections?"]);
    }
}

#[test]
fn a_settings_file_that_is_none_and_a_broken_dotenv() {
    Desk::new().file("swallow-eval.toml", "limit = \n").run("run").fails(2, &["swallow-eval.toml:1"]);
    let broken = Desk::new().file(".env", "A=1\nsk-secret-without-a-name\n").run("completions bash");
    broken.fails(2, &[".env:2"]);
    assert!(!broken.err.contains("sk-secret"), "{}", broken.err);
}

#[test]
fn a_misspelt_variable_is_a_note() {
    let said = Desk::new().env("SWALLOW_EVAL_LIMTI", "3").run("doctor");
    assert_eq!(said.code, 0);
    assert!(said.err.contains("note: SWALLOW_EVAL_LIMTI sets nothing; did you mean SWALLOW_EVAL_LIMIT?"), "{}", said.err);
}

#[test]
fn flags_without_effect_say_so() {
    let said = Desk::new().run("run --suite ja --batch_size auto --trust_remote_code --seed 0,1,2,3");
    for flag in ["--batch-size", "--trust-remote-code", "--seed"] {
        let note = format!("note: {flag} is accepted for compatibility and has no effect");
        assert!(said.err.contains(&note), "{note:?} is not in: {}", said.err);
    }
}

#[test]
fn keys_are_neither_taken_from_flags_nor_shown() {
    let desk = Desk::new().file(".env", "HF_TOKEN=hf_secret\n").env("OPENAI_API_KEY", "sk-secret");
    for line in ["run --api-key sk-secret", "run --api_key=sk-secret", "run --suite ja --model hf -a pretrained=m,api_key=sk-secret"] {
        let said = desk.run(line);
        said.fails(2, &["OPENAI_API_KEY"]);
        assert!(!said.err.contains("sk-secret"), "{line}: {}", said.err);
    }
    let found = desk.run("doctor");
    found.works(&["token in HF_TOKEN"]);
    assert!(!found.out.contains("hf_secret") && !found.out.contains("sk-secret"), "{}", found.out);
}

#[test]
fn completions_for_each_shell() {
    let desk = Desk::new();
    for (shell, part) in
        [("bash", "complete -F"), ("zsh", "#compdef swallow-eval"), ("fish", "complete -c swallow-eval"), ("elvish", "edit:")]
    {
        desk.run(&format!("completions {shell}")).works(&[part, "num-fewshot", "certify"]);
    }
}

#[test]
fn a_reader_who_leaves_is_no_error() {
    let mut child = Desk::new().command().args(["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

#[test]
fn a_full_disk_is_never_success() {
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else {
        eprintln!("skipped: this system has no /dev/full");
        return;
    };
    let output = Desk::new().command().args(["completions", "bash"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to standard output"));
}

#[test]
fn a_closed_port_is_5() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let said = Desk::new().run(&format!("doctor --base-url http://127.0.0.1:{port}/v1 --model m"));
    assert_eq!(said.code, 5, "{}", said.err);
    assert!(said.out.contains("endpoint"), "{}", said.out);
}
