//! The processes below the helper: how much memory they hold, and killing them all where no namespace does it.

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::{
        signal::{Signal, kill},
        stat::Mode,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, SysconfVar, sysconf},
};
use std::{fs::File, io::Read, os::fd::OwnedFd, time::Duration};

/// A process as `/proc` tells it.
struct Process {
    pid: i32,
    parent: i32,
    pages: u64,
}

/// `/proc`, held open: a helper in a root of its own has none.
pub(super) struct Table(OwnedFd);

impl Table {
    pub(super) fn open() -> Result<Self, String> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        nix::fcntl::open("/proc", flags, Mode::empty()).map(Table).map_err(|e| format!("/proc: {e}"))
    }

    fn list(&self) -> Vec<Process> {
        let Ok(mut dir) = Dir::openat(&self.0, ".", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) else { return Vec::new() };
        let pids = dir.iter().filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse::<i32>().ok());
        pids.collect::<Vec<_>>().into_iter().filter_map(|pid| self.process(pid)).collect()
    }

    fn process(&self, pid: i32) -> Option<Process> {
        let file = openat(&self.0, format!("{pid}/stat").as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).ok()?;
        // The name stands in parentheses and may hold anything: what follows the last one counts. proc_pid_stat(5): 4 is ppid, 24 rss.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Process { pid, parent: fields.get(1)?.parse().ok()?, pages: fields.get(21)?.parse().unwrap_or(0) })
    }

    /// Everything below `root`, which is not among them.
    fn below(&self, root: Pid) -> Vec<Process> {
        let mut rest = self.list();
        let mut family = vec![root.as_raw()];
        let mut found = Vec::new();
        while let Some(parent) = family.pop() {
            let (children, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|p| p.parent == parent);
            family.extend(children.iter().map(|p| p.pid));
            found.extend(children);
            rest = others;
        }
        found
    }

    /// Bytes of memory that everything below `root` holds. Pages that several share count for each.
    pub(super) fn resident(&self, root: Pid) -> u64 {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|n| u64::try_from(n).ok()).unwrap_or(4096);
        self.below(root).iter().map(|p| p.pages).sum::<u64>() * page
    }

    /// Kills everything below this process until nothing is left. This process is a subreaper, so nothing gets away by losing its parent.
    pub(super) fn sweep(&self) -> Result<(), String> {
        loop {
            for process in self.below(Pid::this()) {
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            }
            loop {
                match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::StillAlive) => break,
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(Errno::ECHILD) => return Ok(()),
                    Err(e) => return Err(format!("wait: {e}")),
                }
            }
            // A killed process needs a moment to go; a new one may have come from one that was being killed.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Processes and threads of a user now.
    pub(super) fn of_user(&self, uid: u32) -> u64 {
        let owned = |pid: i32| {
            let status = openat(&self.0, format!("{pid}/status").as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
            let mut text = String::new();
            File::from(status).read_to_string(&mut text).ok()?;
            let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
            (field("Uid:")? == u64::from(uid)).then(|| field("Threads:"))?
        };
        self.list().iter().filter_map(|p| owned(p.pid)).sum()
    }
}
