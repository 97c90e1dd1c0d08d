//! The harness's side: helpers, one a thread, and the rule that a verdict never depends on how busy we make the machine.

use super::{
    Executed, Execution, Level, Limits, Sandbox, SandboxError, Verdict,
    python::Python,
    worker::{Reply, SetUp},
};
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};
use tempfile::TempDir;

/// A program that used this part of its time, or all of it, while others ran is run again alone.
const NEAR: f64 = 0.5;

impl Sandbox {
    /// Runs every program and hands each verdict to `done` with the program's position, in the order they become final.
    ///
    /// # Errors
    /// When the sandbox breaks or `cancel` is set: what was handed over stays valid.
    pub fn execute(&self, programs: &[&str], cancel: &AtomicBool, done: &mut dyn FnMut(usize, Executed)) -> Result<(), SandboxError> {
        let jobs = self.jobs.min(programs.len());
        let mut again = Vec::new();
        self.side_by_side(programs, jobs, cancel, &mut |index, execution| {
            if jobs > 1 && self.near_its_limit(&execution) {
                again.push((index, execution));
            } else {
                done(index, Executed { last: execution, crowded: None });
            }
        })?;
        if again.is_empty() {
            return Ok(());
        }
        again.sort_by_key(|(index, _)| *index);
        let mut helper = self.helper()?;
        for (index, crowded) in again {
            if cancel.load(Ordering::Relaxed) {
                return Err(SandboxError::Cancelled);
            }
            let last = helper.run(programs[index])?;
            done(index, Executed { last, crowded: Some(crowded) });
        }
        Ok(())
    }

    /// One program, with nothing of ours beside it.
    ///
    /// # Errors
    /// When the sandbox breaks.
    pub fn execute_alone(&self, program: &str) -> Result<Execution, SandboxError> {
        self.helper()?.run(program)
    }

    fn near_its_limit(&self, execution: &Execution) -> bool {
        execution.verdict == Verdict::TimedOut || execution.seconds > NEAR * self.identity.limits.soft_seconds
    }

    fn side_by_side(
        &self,
        programs: &[&str],
        jobs: usize,
        cancel: &AtomicBool,
        done: &mut dyn FnMut(usize, Execution),
    ) -> Result<(), SandboxError> {
        let next = AtomicUsize::new(0);
        let broken = AtomicBool::new(false);
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..jobs {
                let (sender, next, broken) = (sender.clone(), &next, &broken);
                scope.spawn(move || {
                    let result = self.take_turns(programs, next, &[cancel, broken], &sender);
                    if let Err(e) = result {
                        broken.store(true, Ordering::Relaxed);
                        let _ = sender.send(Err(e));
                    }
                });
            }
            drop(sender);
            let mut first_error = None;
            for message in receiver {
                match message {
                    Ok((index, execution)) => done(index, execution),
                    Err(e) => first_error = first_error.or(Some(e)),
                }
            }
            match first_error {
                Some(e) => Err(e),
                None if cancel.load(Ordering::Relaxed) => Err(SandboxError::Cancelled),
                None => Ok(()),
            }
        })
    }

    fn take_turns(
        &self,
        programs: &[&str],
        next: &AtomicUsize,
        stops: &[&AtomicBool],
        sender: &mpsc::Sender<Result<(usize, Execution), SandboxError>>,
    ) -> Result<(), SandboxError> {
        let mut helper = self.helper()?;
        while !stops.iter().any(|stop| stop.load(Ordering::Relaxed)) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(program) = programs.get(index) else { break };
            let execution = helper.run(program)?;
            if sender.send(Ok((index, execution))).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn helper(&self) -> Result<Helper, SandboxError> {
        Helper::start(&self.helper, self.identity.level, &self.python, &self.identity.limits)
    }
}

/// A helper process that stands ready.
pub(super) struct Helper {
    program: std::path::PathBuf,
    level: Level,
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    scratch: TempDir,
}

impl Helper {
    #[expect(clippy::disallowed_methods, reason = "the sandbox starts processes: here its own helper, without any environment")]
    pub(super) fn start(program: &Path, level: Level, python: &Python, limits: &Limits) -> Result<Self, SandboxError> {
        let failed = |e: std::io::Error| SandboxError::Helper { helper: program.to_owned(), why: e.to_string() };
        // Others may pass through, so that an unprivileged program reaches its own directory inside; only the helper's user may list.
        let passable = std::fs::Permissions::from_mode(0o711);
        let scratch = tempfile::Builder::new().prefix("swallow-eval-").permissions(passable).tempdir().map_err(failed)?;
        let mut command = Command::new(program);
        command.arg(HELPER_VERB).env_clear().current_dir("/").process_group(0);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(failed)?;
        let (input, output) = (process.stdin.take(), process.stdout.take().expect("standard output is a pipe"));
        let mut helper = Helper { program: program.to_owned(), level, process, input, output: BufReader::new(output), scratch };
        let set_up = SetUp { level, python: python.clone(), limits: limits.clone(), scratch: helper.scratch.path().to_owned() };
        match helper.ask(&serde_json::to_string(&set_up).expect("plain data"))? {
            Reply::Ready => Ok(helper),
            other => Err(helper.unexpected(other)),
        }
    }

    /// One program.
    pub(super) fn run(&mut self, program: &str) -> Result<Execution, SandboxError> {
        match self.ask(&serde_json::to_string(program).expect("text"))? {
            Reply::Done(execution) => Ok(execution),
            other => Err(self.unexpected(other)),
        }
    }

    fn ask(&mut self, line: &str) -> Result<Reply, SandboxError> {
        let asked = match &mut self.input {
            Some(input) => input.write_all(format!("{line}\n").as_bytes()),
            None => Ok(()),
        };
        let mut answer = String::new();
        let read = asked.and_then(|()| self.output.read_line(&mut answer));
        match read {
            Ok(n) if n > 0 => serde_json::from_str(&answer).map_err(|e| self.gone(&e.to_string())),
            Ok(_) => {
                let status = self.process.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
                Err(self.gone(&format!("ended unexpectedly ({status})")))
            }
            Err(e) => Err(self.gone(&e.to_string())),
        }
    }

    fn gone(&self, why: &str) -> SandboxError {
        SandboxError::Helper { helper: self.program.clone(), why: why.to_owned() }
    }

    fn unexpected(&self, reply: Reply) -> SandboxError {
        let why = match reply {
            Reply::Broken(why) => why,
            Reply::Ready | Reply::Done(_) => "an answer that does not belong to the question".into(),
        };
        SandboxError::SetUp { level: self.level, why }
    }
}

impl Drop for Helper {
    /// The end of its input ends the helper, which first ends what it runs.
    fn drop(&mut self) {
        self.input = None;
        let _ = self.process.wait();
    }
}

/// The hidden verb under which the program is its own helper.
pub const HELPER_VERB: &str = "__sandbox";

/// Physical cores: time limits are wall-clock, so two programs never share one.
pub(super) fn physical_cores() -> usize {
    let allowed = thread::available_parallelism().map_or(1, usize::from);
    let id = |cpu: &Path, file: &str| std::fs::read_to_string(cpu.join("topology").join(file)).ok();
    let cpus = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten().map(|e| e.path());
    let cores: std::collections::BTreeSet<(String, String)> =
        cpus.filter_map(|cpu| Some((id(&cpu, "physical_package_id")?, id(&cpu, "core_id")?))).collect();
    if cores.is_empty() { allowed } else { cores.len().min(allowed) }
}
