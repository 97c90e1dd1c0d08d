//! The helper process: sets up its level once, then runs one program after the other and watches each.
//!
//! Speaks JSON lines: `SetUp` and programs in, `Reply`s out. It ends when its input does. It has one thread, so it may fork.

use super::{
    DRIVER, Execution, Level, Limits, Verdict, confine, namespaces,
    processes::Table,
    python::Python,
    system::{self, Descriptors, Side},
};
use landlock::RulesetCreated;
use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        memfd::{MFdFlags, memfd_create},
        prctl,
        signal::{Signal, kill, killpg},
        wait::{WaitStatus, wait, waitpid},
    },
    unistd::{self, Gid, Pid, Uid, chdir, execve, geteuid, pipe2, setgroups, setresgid, setresuid, setsid},
};
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};
use std::{
    ffi::CString,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::chown},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Who programs run as where the caller is root: nobody.
const OUTCAST: u32 = 65534;

/// How long an interpreter may take until it is ready. Beyond it the machine is broken, not the program.
const READY: Duration = Duration::from_secs(60);

/// How often memory and scratch directory are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes of the program's own output that are kept for error messages; the rest is read and dropped.
const OUTPUT: usize = 4096;

/// First line of the helper's input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SetUp {
    pub(super) level: Level,
    pub(super) python: Python,
    pub(super) limits: Limits,
    /// An empty directory of this helper's own, where the level has no file system for scratch.
    pub(super) scratch: PathBuf,
}

/// A line of the helper's output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// The level stands.
    Ready,
    /// A verdict.
    Done(Execution),
    /// The sandbox could not be set up: nothing is known about the program.
    Broken(String),
}

/// The helper's life. `input` and `output` are pipes to the harness.
///
/// # Errors
/// When the harness is gone.
pub fn serve(input: OwnedFd, output: OwnedFd) -> io::Result<()> {
    let (input, mut output) = (File::from(input), File::from(output));
    let mut lines = BufReader::new(input.try_clone()?).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(()) };
    let set_up: SetUp = serde_json::from_str(&first)?;
    let worker = match Worker::new(set_up, input) {
        Ok(worker) => worker,
        Err(why) => return say(&mut output, &Reply::Broken(why)),
    };
    say(&mut output, &Reply::Ready)?;
    for line in lines {
        let program: String = serde_json::from_str(&line?)?;
        match worker.run(&program) {
            Ok(Some(execution)) => say(&mut output, &Reply::Done(execution))?,
            Ok(None) => return Ok(()),
            Err(why) => return say(&mut output, &Reply::Broken(why)),
        }
    }
    Ok(())
}

fn say(output: &mut File, reply: &Reply) -> io::Result<()> {
    output.write_all(format!("{}\n", serde_json::to_string(reply)?).as_bytes())
}

struct Worker {
    level: Level,
    python: Python,
    limits: Limits,
    /// Where the program starts.
    scratch: PathBuf,
    outcast: Option<(Uid, Gid)>,
    ruleset: Option<RulesetCreated>,
    filters: Vec<BpfProgram>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    table: Table,
    random: File,
    harness: File,
    /// Holds the numbers below 10, so that 0 to 4 can be placed without overwriting what they are copied from.
    _low: Vec<File>,
}

/// The ends of a program's pipes that its side keeps.
struct Ends {
    program: File,
    report: OwnedFd,
    output: OwnedFd,
    status: OwnedFd,
}

impl Worker {
    fn new(set_up: SetUp, harness: File) -> Result<Self, String> {
        let told = |what: &str| {
            let what = what.to_owned();
            move |e: io::Error| format!("{what}: {e}")
        };
        let SetUp { level, python, limits, scratch } = set_up;
        let low = (0..10).map(|_| File::open("/dev/null")).collect::<Result<_, _>>().map_err(told("/dev/null"))?;
        let harness = harness.try_clone().map_err(told("input"))?;
        let (table, random) = (Table::open()?, File::open("/dev/urandom").map_err(told("/dev/urandom"))?);
        let root = geteuid().is_root() && level != Level::None;
        let outcast = root.then(|| (Uid::from_raw(OUTCAST), Gid::from_raw(OUTCAST)));
        prctl::set_child_subreaper(true).map_err(|e| format!("subreaper: {e}"))?;
        let (mut scratch, mut ruleset, mut filters) = (scratch.join("w"), None, Vec::new());
        match level {
            Level::Namespaces => {
                namespaces::enter(&python, outcast)?;
                scratch = namespaces::SCRATCH.into();
                filters = confine::filters(level)?;
            }
            Level::Landlock => {
                new_scratch(&scratch, outcast)?;
                ruleset = Some(confine::landlock(&python, &scratch, level)?);
                filters = confine::filters(level)?;
            }
            Level::None => new_scratch(&scratch, outcast)?,
        }
        // Nothing below may look into this process.
        prctl::set_dumpable(false).map_err(|e| format!("dumpable: {e}"))?;
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| "a path holds a null byte".to_owned());
        let soft = limits.soft_seconds.to_string();
        let arguments = [python.executable.as_os_str().as_bytes(), b"-I", b"-S", b"-B", b"-c", DRIVER.as_bytes(), soft.as_bytes()];
        let home = scratch.display();
        let environment = [
            "PATH=/usr/bin:/bin".into(),
            "LANG=C.UTF-8".into(),
            format!("HOME={home}"),
            format!("TMPDIR={home}"),
            "OMP_NUM_THREADS=1".into(),
        ];
        Ok(Worker {
            arguments: arguments.into_iter().map(text).collect::<Result<_, _>>()?,
            environment: environment.iter().map(|entry| text(entry.as_bytes())).collect::<Result<_, _>>()?,
            level,
            python,
            limits,
            scratch,
            outcast,
            ruleset,
            filters,
            table,
            random,
            harness,
            _low: low,
        })
    }

    /// One program, from set-up to the death of its last process. `None` when the harness is gone.
    fn run(&self, program: &str) -> Result<Option<Execution>, String> {
        let told = |e: nix::Error| format!("pipes: {e}");
        if self.level != Level::Namespaces {
            new_scratch(&self.scratch, self.outcast)?;
        }
        let nonce = self.nonce().map_err(|e| format!("/dev/urandom: {e}"))?;
        let (report, report_end) = pipe2(OFlag::O_CLOEXEC).map_err(told)?;
        let (output, output_end) = pipe2(OFlag::O_CLOEXEC).map_err(told)?;
        let (status, status_end) = pipe2(OFlag::O_CLOEXEC).map_err(told)?;
        let mut text = File::from(memfd_create(c"program", MFdFlags::MFD_CLOEXEC).map_err(told)?);
        let written = text.write_all(format!("{nonce}\n{program}").as_bytes()).and_then(|()| text.rewind());
        written.map_err(|e| format!("program: {e}"))?;
        let ends = Ends { program: text, report: report_end, output: output_end, status: status_end };
        let spaces = if self.level == Level::Namespaces { namespaces::OF_A_PROGRAM } else { 0 };
        match system::fork_into(spaces).map_err(|e| format!("fork: {e}"))? {
            Side::Child => self.child(ends),
            Side::Parent(pid) => {
                drop(ends);
                let mut watch = Watch { worker: self, nonce, born: Instant::now(), started: None, heard: Vec::new(), said: Vec::new() };
                let outcome = watch.until_verdict(pid, &File::from(report), &File::from(output), &File::from(status));
                self.end(pid)?;
                outcome
            }
        }
    }

    fn nonce(&self) -> io::Result<String> {
        let mut bytes = [0; 16];
        (&self.random).read_exact(&mut bytes)?;
        Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// Kills everything the program started and waits until it is gone.
    fn end(&self, pid: Pid) -> Result<(), String> {
        if self.level == Level::Namespaces {
            // The first process of a process namespace: the kernel kills the others with it, and it is gone only after them.
            let _ = kill(pid, Signal::SIGKILL);
            return waitpid(pid, None).map(drop).map_err(|e| format!("wait: {e}"));
        }
        let _ = killpg(pid, Signal::SIGKILL);
        self.table.sweep()
    }

    /// The forked process: becomes the program, or its parent where there is a process namespace. Never returns.
    fn child(&self, ends: Ends) -> ! {
        let status = match ends.status.try_clone() {
            Ok(status) => File::from(status),
            Err(_) => system::exit_now(1),
        };
        let made = if self.level == Level::Namespaces { self.first_of_namespace(ends) } else { self.become_program(ends) };
        let Err(why) = made;
        let _ = (&status).write_all(why.as_bytes());
        system::exit_now(1)
    }

    /// The first process of the program's process namespace: mounts scratch, starts the program, reaps what loses its parent, and goes when
    /// the program goes.
    fn first_of_namespace(&self, ends: Ends) -> Result<std::convert::Infallible, String> {
        let told = |e: nix::Error| format!("first process of the namespace: {e}");
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(told)?;
        namespaces::mount_scratch(&self.limits, self.outcast.unwrap_or((unistd::getuid(), unistd::getgid())))?;
        match system::fork_into(0).map_err(told)? {
            Side::Child => self.become_program(ends),
            Side::Parent(program) => {
                system::close_from(0, Descriptors::Close).map_err(told)?;
                loop {
                    match wait() {
                        Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) if pid == program => system::exit_now(0),
                        Ok(_) | Err(nix::Error::EINTR) => {}
                        Err(_) => system::exit_now(0),
                    }
                }
            }
        }
    }

    /// Descriptors, limits, identity, filters, then the interpreter.
    fn become_program(&self, ends: Ends) -> Result<std::convert::Infallible, String> {
        let told = |what: &'static str| move |e: nix::Error| format!("{what}: {e}");
        setsid().map_err(told("session"))?;
        let null = File::open("/dev/null").map_err(|e| format!("/dev/null: {e}"))?;
        system::place(&null, 0).map_err(told("descriptor 0"))?;
        system::place(&ends.output, 1).map_err(told("descriptor 1"))?;
        system::place(&ends.output, 2).map_err(told("descriptor 2"))?;
        system::place(&ends.program, 3).map_err(told("descriptor 3"))?;
        system::place(&ends.report, 4).map_err(told("descriptor 4"))?;
        system::close_from(5, Descriptors::CloseOnExec).map_err(told("descriptors"))?;
        chdir(&self.scratch).map_err(told("scratch directory"))?;
        confine::limit_resources(&self.limits, self.processes()).map_err(told("limits"))?;
        if let Some((uid, gid)) = self.outcast {
            setgroups(&[]).map_err(told("groups"))?;
            setresgid(gid, gid, gid).map_err(told("group"))?;
            setresuid(uid, uid, uid).map_err(told("user"))?;
        }
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(told("parent's death"))?;
        prctl::set_no_new_privs().map_err(told("no new privileges"))?;
        let ruleset = match (self.level, &self.ruleset) {
            (Level::Namespaces, _) => Some(confine::landlock(&self.python, &self.scratch, self.level)?),
            (_, Some(ruleset)) => Some(ruleset.try_clone().map_err(|e| format!("Landlock: {e}"))?),
            _ => None,
        };
        if let Some(ruleset) = ruleset {
            ruleset.restrict_self().map_err(|e| format!("Landlock: {e}"))?;
        }
        for filter in &self.filters {
            seccompiler::apply_filter(filter).map_err(|e| format!("seccomp: {e}"))?;
        }
        execve(&self.arguments_of_exec(), &self.arguments, &self.environment).map_err(told("interpreter"))
    }

    fn arguments_of_exec(&self) -> CString {
        self.arguments[0].clone()
    }

    /// The limit on processes as the kernel counts it: a user namespace counts its own (since Linux 5.14), elsewhere everything of the user
    /// counts. Not enforced for root, which no program is.
    fn processes(&self) -> u64 {
        if self.level == Level::Namespaces && kernel_at_least(5, 14) {
            return self.limits.processes;
        }
        let uid = self.outcast.map_or(unistd::getuid(), |(uid, _)| uid);
        self.limits.processes + self.table.of_user(uid.as_raw())
    }
}

fn kernel_at_least(major: u32, minor: u32) -> bool {
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// Empties the scratch directory by making it anew. Nothing runs in it at that time.
fn new_scratch(scratch: &Path, owner: Option<(Uid, Gid)>) -> Result<(), String> {
    let told = |e: io::Error| format!("scratch directory {}: {e}", scratch.display());
    if !scratch.is_dir() {
        std::fs::create_dir(scratch).map_err(told)?;
        if let Some((uid, gid)) = owner {
            chown(scratch, Some(uid.as_raw()), Some(gid.as_raw())).map_err(told)?;
        }
    }
    // The directory itself stays: Landlock's rules hold it, not its name.
    for entry in std::fs::read_dir(scratch).map_err(told)? {
        let entry = entry.map_err(told)?;
        let folder = entry.file_type().map_err(told)?.is_dir();
        if folder { std::fs::remove_dir_all(entry.path()) } else { std::fs::remove_file(entry.path()) }.map_err(told)?;
    }
    Ok(())
}

/// One program being watched.
struct Watch<'w> {
    worker: &'w Worker,
    nonce: String,
    born: Instant,
    started: Option<Instant>,
    /// Bytes of the report descriptor not understood yet.
    heard: Vec<u8>,
    /// Head of the program's output.
    said: Vec<u8>,
}

impl Watch<'_> {
    fn until_verdict(&mut self, pid: Pid, report: &File, output: &File, status: &File) -> Result<Option<Execution>, String> {
        let limits = &self.worker.limits;
        let (mut output_open, mut trouble, mut status_open) = (true, Vec::new(), true);
        let mut next_look = self.born + LOOK;
        loop {
            let deadline = self.started.map_or(self.born + READY, |at| at + Duration::from_secs_f64(limits.hard_seconds));
            let wait = deadline.min(next_look).saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            let ready = self.poll(wait, report, output_open.then_some(output), status_open.then_some(status))?;
            if ready.harness_gone {
                return Ok(None);
            }
            if ready.status && read_some(status, &mut trouble)? == 0 {
                status_open = false;
            }
            if !trouble.is_empty() && !status_open {
                return Err(String::from_utf8_lossy(&trouble).into_owned());
            }
            if ready.output {
                output_open = read_some(output, &mut self.said)? > 0;
                self.said.truncate(OUTPUT);
            }
            if ready.report {
                let closed = read_some(report, &mut self.heard)? == 0;
                if let Some(verdict) = self.understand() {
                    return Ok(Some(self.execution(verdict)));
                }
                if closed {
                    return self.without_report(status, trouble);
                }
            }
            let now = Instant::now();
            if now >= deadline {
                return match self.started {
                    Some(_) => Ok(Some(self.execution(Verdict::TimedOut))),
                    None => Err(format!("the interpreter was not ready after {} s", READY.as_secs())),
                };
            }
            if now >= next_look {
                next_look = now + LOOK;
                if let Some(why) = self.too_much(pid) {
                    return Ok(Some(self.execution(Verdict::Died { why })));
                }
            }
        }
    }

    fn execution(&self, verdict: Verdict) -> Execution {
        Execution { verdict, seconds: self.started.map_or(0.0, |at| at.elapsed().as_secs_f64()) }
    }

    /// Nobody can report any more.
    fn without_report(&self, status: &File, mut trouble: Vec<u8>) -> Result<Option<Execution>, String> {
        if self.started.is_some() {
            return Ok(Some(self.execution(Verdict::Died { why: "ended without a report".into() })));
        }
        while read_some(status, &mut trouble)? > 0 {}
        let text = if trouble.is_empty() { &self.said } else { &trouble };
        Err(format!("the interpreter did not start: {}", String::from_utf8_lossy(text).trim_end()))
    }

    /// Looks for tagged messages among what was written to the report descriptor; anything else there is the program's own noise.
    fn understand(&mut self) -> Option<Verdict> {
        let tag = self.nonce.as_bytes();
        let head = tag.len() + 5;
        while let Some(at) = self.heard.windows(tag.len()).position(|w| w == tag) {
            let rest = &self.heard[at..];
            let length = rest.get(tag.len() + 1..head).and_then(|hex| usize::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok())?;
            let message = String::from_utf8_lossy(rest.get(head..head + length)?).into_owned();
            let kind = rest[tag.len()];
            self.heard.drain(..at + head + length);
            match kind {
                b'S' => self.started = Some(Instant::now()),
                b'P' => return Some(Verdict::Passed),
                b'T' => return Some(Verdict::TimedOut),
                _ => return Some(Verdict::Failed { message: printable(&message) }),
            }
        }
        // Keep only what may be the beginning of a tag.
        let keep = self.heard.len().min(tag.len());
        self.heard.drain(..self.heard.len() - keep);
        None
    }

    /// Bounds that no single process's limit holds.
    fn too_much(&self, pid: Pid) -> Option<String> {
        let Worker { level, limits, table, .. } = self.worker;
        let root = if *level == Level::Namespaces { pid } else { Pid::this() };
        let resident = table.resident(root);
        if resident > limits.resident {
            return Some(format!("{} MiB of memory in all processes, limit {} MiB", resident >> 20, limits.resident >> 20));
        }
        if *level == Level::Namespaces {
            return None;
        }
        let (bytes, files) = size_of(&self.worker.scratch);
        (bytes > limits.scratch || files > limits.scratch_files).then(|| {
            format!("{} MiB in {files} files of scratch, limit {} MiB in {}", bytes >> 20, limits.scratch >> 20, limits.scratch_files)
        })
    }

    fn poll(&self, wait: Duration, report: &File, output: Option<&File>, status: Option<&File>) -> Result<Ready, String> {
        let harness = self.worker.harness.as_fd();
        let mut fds = vec![PollFd::new(harness, PollFlags::empty()), PollFd::new(report.as_fd(), PollFlags::POLLIN)];
        fds.extend([output, status].into_iter().flatten().map(|f| PollFd::new(f.as_fd(), PollFlags::POLLIN)));
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(format!("poll: {e}")),
        }
        let mut events = fds.iter().map(|fd| fd.revents().is_some_and(|e| !e.is_empty()));
        let mut next = || events.next().unwrap_or(false);
        let (harness_gone, report) = (next(), next());
        let (output, status) = (output.is_some() && next(), status.is_some() && next());
        Ok(Ready { harness_gone, report, output, status })
    }
}

/// Which descriptors have something to say.
struct Ready {
    harness_gone: bool,
    report: bool,
    output: bool,
    status: bool,
}

/// Reads once; 0 is the end.
fn read_some(mut from: &File, into: &mut Vec<u8>) -> Result<usize, String> {
    let mut buffer = [0; 1 << 16];
    let n = from.read(&mut buffer).map_err(|e| format!("read: {e}"))?;
    into.extend_from_slice(&buffer[..n]);
    Ok(n)
}

/// Bytes and entries below a directory. Links are not followed.
fn size_of(folder: &Path) -> (u64, u64) {
    let mut total = (0, 0);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let inside = if meta.is_dir() { size_of(&entry.path()) } else { (0, 0) };
        total = (total.0 + meta.len() + inside.0, total.1 + 1 + inside.1);
    }
    total
}

/// Control characters escaped, so that a message cannot act on a terminal.
fn printable(message: &str) -> String {
    message.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}
