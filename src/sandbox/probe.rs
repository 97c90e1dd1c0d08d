//! The self-test: which level holds here.
//!
//! A level is accepted only when a program that must pass passes, one that must fail fails, and two that try to get out (network, a file of
//! the host) find everything closed. [`Level::None`] has nothing to close and answers the first two.

use super::{Identity, Level, Options, ProbeAnswer, Sandbox, SandboxError, driver_digest, pool, pool::Helper, python::Python};
use std::{io::Write, path::Path};

const PASS: &str = "def f(n):\n    return n * 2\nassert f(21) == 42\n";
const FAIL: &str = "def f(n):\n    return n * 2\nassert f(21) == 41\n";

/// Passes where no address can be spoken to: a refusal by the other side would show that there is a way to it.
const NETWORK: &str = "
import socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    for address in (('127.0.0.1', 1), ('192.0.2.1', 80)):
        try:
            s = socket.socket(socket.AF_INET, kind)
            s.settimeout(0.2)
            s.connect(address)
            s.send(b'x')
        except ConnectionRefusedError:
            raise AssertionError('REACHED')
        except socket.timeout:
            raise AssertionError('SENT')
        except OSError:
            continue
        raise AssertionError('CONNECTED')
";

impl Sandbox {
    /// Takes the first level, with the first interpreter, that answers the self-test right.
    ///
    /// # Errors
    /// [`SandboxError::NoLevel`] with the reason for each, or what is wrong with a named interpreter.
    pub fn choose(options: &Options) -> Result<Sandbox, SandboxError> {
        let candidates = Python::candidates(options.python.as_deref());
        let mut pythons = Vec::new();
        let mut useless = None;
        for path in &candidates {
            match Python::at(path) {
                Ok(python) if !pythons.contains(&python) => pythons.push(python),
                Ok(_) => {}
                Err(e) => useless = useless.or(Some(e)),
            }
        }
        if pythons.is_empty() {
            return Err(useless.unwrap_or(SandboxError::NoPython));
        }
        let mut refused = Vec::new();
        for &level in &options.levels {
            for python in &pythons {
                match answers(options, level, python) {
                    Ok(probes) => return Ok(sandbox(options, level, python, probes, refused)),
                    Err(why) => refused.push(format!("{level} with {}: {why}", python.executable.display())),
                }
            }
        }
        Err(SandboxError::NoLevel(refused))
    }
}

fn sandbox(options: &Options, level: Level, python: &Python, probes: Vec<ProbeAnswer>, refused: Vec<String>) -> Sandbox {
    let kernel = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let limits = options.limits.clone();
    let identity = Identity { level, python: python.version.clone(), driver: driver_digest(), limits, kernel, probes, refused };
    let jobs = if options.jobs == 0 { pool::physical_cores() } else { options.jobs };
    Sandbox { helper: options.helper.clone(), python: python.clone(), jobs, identity }
}

/// The answers, all right; or the first that is wrong.
fn answers(options: &Options, level: Level, python: &Python) -> Result<Vec<ProbeAnswer>, String> {
    let mut canary = tempfile::NamedTempFile::new().map_err(|e| format!("self-test file: {e}"))?;
    canary.write_all(b"canary").map_err(|e| format!("self-test file: {e}"))?;
    readable_by_all(canary.path()).map_err(|e| format!("self-test file: {e}"))?;
    let file = file_attempt(canary.path());
    let mut helper = Helper::start(&options.helper, level, python, &options.limits).map_err(|e| e.to_string())?;
    let mut answers = Vec::new();
    for (name, program, right) in
        [("pass", PASS, "passed"), ("fail", FAIL, "failed"), ("network", NETWORK, "passed"), ("file", &file, "passed")]
    {
        if level == Level::None && matches!(name, "network" | "file") {
            continue;
        }
        let execution = helper.run(program).map_err(|e| e.to_string())?;
        let answer = execution.verdict.class();
        if answer != right {
            return Err(format!("self-test '{name}' must say '{right}' and said '{answer}' ({:?})", execution.verdict));
        }
        answers.push(ProbeAnswer { name: name.to_owned(), answer: answer.to_owned() });
    }
    Ok(answers)
}

fn readable_by_all(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

/// Passes where neither a file that everybody may read nor the host's list of users can be opened.
fn file_attempt(canary: &Path) -> String {
    let path = serde_json::to_string(&canary.to_string_lossy()).expect("text");
    format!(
        "for path in ({path}, '/etc/passwd', '/proc/1/cmdline'):\n    try:\n        open(path, 'rb').read(1)\n    except OSError:\n        continue\n    raise AssertionError('READ ' + path)\n"
    )
}
