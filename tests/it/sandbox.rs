//! Programs of strangers: what the sandbox says of them, what they cannot do, and what is left of them.

#![expect(clippy::print_stdout, reason = "what is skipped, and what held, belongs into the log of the run")]
#![expect(clippy::disallowed_methods, reason = "a test starts the program as each of its users would")]

use crate::support::folder_of;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener},
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};
use swallow_eval::sandbox::{Executed, Level, Options, Sandbox, Verdict};

const BINARY: &str = env!("CARGO_BIN_EXE_swallow-eval");
/// A user that owns nothing, and is not the one (nobody) that programs run as where root executes them: an attack that kills all it can reach
/// would end the programs of tests that run at the same time.
const ORDINARY: u32 = 65_533;
const LEVELS: [&str; 2] = ["namespaces", "landlock"];

/// Attacks use fixed ports and files of the host: one test at a time.
static HOST: Mutex<()> = Mutex::new(());

fn host() -> MutexGuard<'static, ()> {
    HOST.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sandbox(level: Level) -> Option<Sandbox> {
    let mut options = Options::new(BINARY.into());
    options.levels = vec![level];
    options.python = std::env::var_os("SWALLOW_EVAL_PYTHON").map(Into::into);
    Sandbox::choose(&options).map_err(|e| println!("skipped: {level}: {e}")).ok()
}

fn run(sandbox: &Sandbox, programs: &[&str]) -> Vec<Executed> {
    let mut found = vec![None; programs.len()];
    sandbox.execute(programs, &AtomicBool::new(false), &mut |i, e| found[i] = Some(e)).unwrap();
    found.into_iter().map(|e| e.expect("every program has a verdict")).collect()
}

#[test]
fn verdicts_are_those_of_the_original() {
    let cases = [
        ("x = 1", "passed"),
        ("assert False, 'no'", "failed"),
        ("import os; os._exit(0)", "timed out"),
        ("raise SystemExit(0)", "failed"),
        ("while True: pass", "timed out"),
        // Catches the timeout, and ends within the second that is left.
        ("import time\ntry:\n    time.sleep(10)\nexcept Exception:\n    pass", "passed"),
        ("input()", "failed"),
        ("exit()", "failed"),
        ("import shutil; shutil.rmtree('x')", "failed"),
        ("import subprocess; subprocess.run(['true'])", "failed"),
        ("import resource", "failed"),
        ("import os; os.getcwd()", "failed"),
        ("assert __name__ == 'builtins'", "passed"),
        ("open('note', 'w').write('x'); assert open('note').read() == 'x'", "passed"),
        ("import sys; sys.stdout.write('x' * 100000); print('passed')", "passed"),
        ("import atexit, os; atexit.register(lambda: os._exit(1))", "passed"),
        ("x = '\\udcff'", "passed"),
        ("def f(:", "failed"),
    ];
    for level in [Level::Namespaces, Level::Landlock] {
        let Some(sandbox) = sandbox(level) else { continue };
        let programs: Vec<&str> = cases.iter().map(|(program, _)| *program).collect();
        for ((program, expected), executed) in cases.iter().zip(run(&sandbox, &programs)) {
            assert_eq!(executed.last.verdict.class(), *expected, "{level}: {program}: {executed:?}");
        }
    }
}

#[test]
fn a_verdict_near_its_limit_is_taken_again_alone() {
    let Some(sandbox) = sandbox(Level::Namespaces).or_else(|| sandbox(Level::Landlock)) else { return };
    if sandbox.jobs() < 2 {
        println!("skipped: one processor: nothing ever runs beside another program");
        return;
    }
    let found = run(&sandbox, &["import time; time.sleep(1.8)", "x = 1"]);
    assert!(found[0].crowded.is_some() && found[0].last.verdict.passed(), "{:?}", found[0]);
    assert!(found[1].crowded.is_none());
}

#[test]
fn messages_are_short_and_plain() {
    let Some(sandbox) = sandbox(Level::Namespaces).or_else(|| sandbox(Level::Landlock)) else { return };
    let found = run(&sandbox, &["raise ValueError('\\x1b[2J\\n' + 'x' * 1000000 + '\\udcff')"]);
    let Verdict::Failed { message } = &found[0].last.verdict else { panic!("{found:?}") };
    assert!(message.len() < 5000 && !message.chars().any(char::is_control), "{message}");
}

/// Folders of attacks: ours, and the recorded ones.
fn attacks() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sandbox");
    [Some(own), folder_of("SWALLOW_EVAL_GOLDEN").map(|golden| golden.join("sandbox"))].into_iter().flatten().collect()
}

/// What attacks look for on the host, there while this lives.
struct Bait {
    _tcp: Option<TcpListener>,
    _file: Option<UnixListener>,
    _name: Option<UnixListener>,
}

const SOCKET: &str = "/tmp/swallow_attack_socket";
const KEPT: &str = "/tmp/swallow_canary_keep";

impl Bait {
    fn lay() -> Self {
        let _ = fs::remove_file(SOCKET);
        let name = SocketAddr::from_abstract_name("swallow_attack_abstract").unwrap();
        let bait = Bait {
            _tcp: TcpListener::bind("127.0.0.1:45987").ok(),
            _file: UnixListener::bind(SOCKET).ok(),
            _name: UnixListener::bind_addr(&name).ok(),
        };
        let everybody = fs::Permissions::from_mode(0o777);
        let _ = fs::set_permissions(SOCKET, everybody.clone());
        fs::write(KEPT, "keep").unwrap();
        let _ = fs::set_permissions(KEPT, everybody);
        bait
    }
}

impl Drop for Bait {
    fn drop(&mut self) {
        let _ = fs::remove_file(SOCKET);
        let _ = fs::remove_file(KEPT);
    }
}

fn certify(folder: &Path, flags: &[&str], ordinary: bool) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("certify").arg(folder).args(flags).env("SWALLOW_CANARY_SECRET", "SWALLOW_CANARY_SECRET").current_dir("/");
    if let Some(python) = std::env::var_os("SWALLOW_EVAL_PYTHON") {
        command.arg("--python").arg(python);
    }
    if ordinary {
        command.uid(ORDINARY).gid(ORDINARY).env("HOME", "/nonexistent").env("PATH", "/usr/local/bin:/usr/bin:/bin");
    }
    command.stdin(Stdio::null()).output().unwrap()
}

/// Interpreters that run the driver, whoever started them.
fn interpreters() -> BTreeSet<u32> {
    let drives =
        |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(19).any(|w| w == b"class TimeoutExcept"));
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(drives).collect()
}

/// What another test runs at the same time goes within seconds; what was left behind stays.
fn nobody_is_left() {
    let mut seen = interpreters();
    let patience = Instant::now() + Duration::from_secs(20);
    while !seen.is_empty() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(100));
        seen = &seen & &interpreters();
    }
    assert!(seen.is_empty(), "still there: {seen:?}");
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn attacks_get_an_accepted_verdict_and_leave_nothing() {
    let _host = host();
    let _bait = Bait::lay();
    let users = if is_root() { vec![false, true] } else { vec![false] };
    for ordinary in users {
        for level in LEVELS {
            for folder in attacks() {
                let output = certify(&folder, &["--sandbox", level], ordinary);
                let (text, who) = (said(&output), if ordinary { "ordinary user" } else { "own user" });
                if output.status.code() == Some(5) {
                    println!("skipped: {level} as {who}: {}", text.lines().next().unwrap_or_default());
                    continue;
                }
                assert!(text.contains("rows, 0 mismatches") && output.status.success(), "{level} as {who}: {text}");
                assert_eq!(fs::read_to_string(KEPT).unwrap(), "keep", "{level} as {who}");
                println!("{level} as {who}: {}", text.lines().next().unwrap_or_default());
            }
        }
    }
    nobody_is_left();
}

/// Some attacks where nothing protects, as a user that owns nothing; and whatever they leave is taken away.
fn unprotected(names: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let folder = dir.path().join("sandbox");
    fs::create_dir(&folder).unwrap();
    let texts: Vec<String> = attacks().iter().map(|folder| fs::read_to_string(folder.join("attacks.jsonl")).unwrap()).collect();
    let named = |line: &&str| names.contains(&serde_json::from_str::<Value>(line).unwrap()["name"].as_str().unwrap());
    let rows: Vec<&str> = texts.iter().flat_map(|text| text.lines()).filter(named).collect();
    fs::write(folder.join("attacks.jsonl"), rows.join("\n") + "\n").unwrap();
    let output = certify(&folder, &["--sandbox", "none", "--i-understand-untrusted-code"], true);
    for left in
        ["/tmp/swallow_attack_write_v", "/var/tmp/swallow_attack_write_v", "/dev/shm/swallow_attack_write_v", "/tmp/swallow_attack_link_v"]
    {
        let _ = fs::remove_file(left);
    }
    output
}

/// They do what they are there for. Left out are those that a limit without any sandbox ends too, those that only try to fool the driver, and
/// those whose effect the host must allow (namespaces).
#[test]
fn attacks_succeed_without_protection() {
    let _host = host();
    if !is_root() {
        println!("skipped: only root can give the attacks to a user that owns nothing");
        return;
    }
    let _bait = Bait::lay();
    let reach = ["write_home", "symlink_escape", "proc_scan", "limits_of_others", "uncounted_memory", "other_socket_families"];
    // The recorded attacks among them are there only with the recorded goldens.
    let recorded = folder_of("SWALLOW_EVAL_GOLDEN").is_some();
    let ours = |name: &&str| recorded || !["write_home", "symlink_escape", "proc_scan", "tcp_connect_localhost"].contains(name);
    for names in [&reach[..], &["tcp_connect_localhost", "unix_socket_of_the_host", "abstract_socket_of_the_host"]] {
        let names: Vec<&str> = names.iter().copied().filter(ours).collect();
        let output = unprotected(&names);
        let text = said(&output);
        for name in names {
            assert!(text.contains(name), "{name} did nothing: {text}");
        }
        assert_eq!(output.status.code(), Some(1), "{text}");
    }
    if recorded {
        let output = unprotected(&["kill_parent_and_all"]);
        // Whom it meets first: the harness itself, or the helper, whose end is an error of the run.
        let killed = output.status.signal() == Some(9) || said(&output).contains("ended unexpectedly (signal: 9");
        assert!(killed, "nobody was killed: {}", said(&output));
    }
}

#[test]
fn no_protection_needs_a_second_word() {
    let output = certify(&attacks()[0], &["--sandbox", "none"], false);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--i-understand-untrusted-code"), "{}", said(&output));
}

/// Runs the attacks in a user namespace in which no further one can be made; `ids` are the users it knows.
fn without_user_namespaces(ids: u32) -> Option<Output> {
    let script = r#"read go; exec sh -c 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$0" certify "$1"' "$0" "$1""#;
    let mut child = Command::new("unshare")
        .args(["--user", "sh", "-c", script, BINARY])
        .arg(&attacks()[0])
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let patience = Instant::now() + Duration::from_secs(10);
    let own = fs::read_link("/proc/self/ns/user").ok()?;
    while fs::read_link(format!("/proc/{}/ns/user", child.id())).ok()? == own && Instant::now() < patience {
        std::thread::yield_now();
    }
    let mapped = ["uid_map", "gid_map"].iter().all(|map| fs::write(format!("/proc/{}/{map}", child.id()), format!("0 0 {ids}")).is_ok());
    std::io::Write::write_all(child.stdin.as_mut()?, b"\n").ok()?;
    let output = child.wait_with_output().ok()?;
    let made = !said(&output).contains("max_user_namespaces") && !said(&output).contains("unshare:");
    (mapped && made).then_some(output)
}

#[test]
fn without_user_namespaces_landlock_is_chosen_and_without_both_the_run_ends() {
    let _host = host();
    if !is_root() {
        println!("skipped: only root can map the users of such a namespace");
        return;
    }
    match without_user_namespaces(65535) {
        Some(output) => {
            let text = said(&output);
            assert!(text.contains("0 mismatches") && output.status.success(), "{text}");
            assert!(text.contains("landlock"), "the level in use is said: {text}");
        }
        None => println!("skipped: this machine gives no user namespace to take others away in"),
    }
    match without_user_namespaces(1) {
        Some(output) => {
            let text = said(&output);
            assert_eq!(output.status.code(), Some(5), "{text}");
            assert!(text.contains("no sandbox works here") && text.contains("--i-understand-untrusted-code"), "{text}");
        }
        None => println!("skipped: this machine gives no user namespace to take others away in"),
    }
}

/// Everything that opens, as its first three folders; what docs/sandbox.md lists. The root itself cannot be listed, so the walk begins at
/// every name that a program may know or guess.
const WALK: &str = "
import os, sys
seen = set()
guessed = 'bin boot dev etc home lib lib32 lib64 media mnt opt proc root run sbin srv sys tmp usr var w'.split()
for top in ['/', *('/' + name for name in guessed), *sys.path, sys.prefix, os.path.dirname(sys.executable), '/usr/lib', '/usr/lib64']:
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            try:
                open(path, 'rb').close()
            except OSError:
                continue
            seen.add('/'.join(path.split('/')[:4]))
for path in ['/dev/null', '/dev/zero', '/dev/urandom', '/etc/ld.so.cache', '/etc/passwd', '/etc/hostname', '/proc/self/environ', sys.executable]:
    try:
        open(path, 'rb').close()
        seen.add(path)
    except OSError:
        pass
folders = sorted({path if path.count('/') < 3 or 'python' in path else path.rsplit('/', 1)[0] + '/*' for path in seen})
raise AssertionError(' '.join(folders))
";

#[test]
fn a_program_sees_its_interpreter_and_nothing_else() {
    for level in [Level::Namespaces, Level::Landlock] {
        let Some(sandbox) = sandbox(level) else { continue };
        let found = run(&sandbox, &[WALK]);
        let Verdict::Failed { message } = &found[0].last.verdict else { panic!("{found:?}") };
        println!("{level}: {message}");
        assert!(message.contains("/dev/null"), "{level}: the walk found nothing");
        for path in message.split(' ') {
            let allowed = ["/usr/lib", "/lib", "/usr/local/lib", "/opt", "/dev/null", "/dev/urandom", "/dev/zero", "/etc/ld.so.cache"];
            let of_python = path.contains("python") || path.contains("pyenv");
            assert!(of_python || allowed.iter().any(|a| path.starts_with(a)), "{level}: {path} can be opened");
        }
    }
}

#[test]
fn canonical_solutions_pass() {
    let Some(data) = folder_of("SWALLOW_EVAL_DATA") else { return };
    let store = swallow_eval::dataset::store::Store::mirror_only(&data);
    let Some(sandbox) = sandbox(Level::Namespaces).or_else(|| sandbox(Level::Landlock)) else { return };
    for (name, never) in [("humaneval", &[][..]), ("jhumaneval", &["JHumanEval/64"][..])] {
        let manifest = swallow_eval::dataset::manifest::Manifest::builtin(name).unwrap();
        let records: Vec<Value> = store.records(&manifest, "test").unwrap().into_iter().map(|r| Value::Object(r.0)).collect();
        let text = |record: &Value, key: &str| record[key].as_str().unwrap().to_owned();
        let program = |r: &Value| {
            format!("{}{}\n\n{}\ncheck({})", text(r, "prompt"), text(r, "canonical_solution"), text(r, "test"), text(r, "entry_point"))
        };
        let programs: Vec<String> = records.iter().map(program).collect();
        let found = run(&sandbox, &programs.iter().map(String::as_str).collect::<Vec<_>>());
        let wrong: Vec<String> =
            records.iter().zip(&found).filter(|(_, e)| !e.last.verdict.passed()).map(|(r, _)| text(r, "task_id")).collect();
        assert_eq!(json!(wrong), json!(never), "{name}");
        assert_eq!(found.len(), 164);
    }
}
