//! What a program may do, apart from what it can see: resource limits, Landlock, system calls. Used by both protected levels.

use super::{Level, Limits, Python};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, Scope,
};
use nix::{
    libc,
    sys::resource::{Resource, setrlimit},
};
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};
use std::{collections::BTreeMap, path::Path};

/// Newest Landlock ABI this program knows; older kernels get what they have.
const NEWEST: ABI = ABI::V6;

/// Sets the limits of one program. `processes` counts what the user already runs where the kernel counts so.
pub(super) fn limit_resources(limits: &Limits, processes: u64) -> nix::Result<()> {
    for (resource, value) in [
        (Resource::RLIMIT_AS, limits.address_space),
        (Resource::RLIMIT_CPU, limits.cpu_seconds),
        (Resource::RLIMIT_FSIZE, limits.file_size),
        (Resource::RLIMIT_NOFILE, limits.open_files),
        (Resource::RLIMIT_NPROC, processes),
        // Recursion depth before a crash depends on it: the same everywhere, whatever the caller's shell says.
        (Resource::RLIMIT_STACK, 8 << 20),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
        (Resource::RLIMIT_MSGQUEUE, 0),
    ] {
        setrlimit(resource, value, value)?;
    }
    Ok(())
}

/// Landlock rules: the interpreter may be read and executed, `scratch` and nothing else written, no TCP, no signal or abstract socket
/// beyond the sandbox. `required` refuses kernels without Landlock or too old to guard truncation (ABI 3).
pub(super) fn landlock(python: &Python, scratch: &Path, level: Level) -> Result<RulesetCreated, String> {
    let told = |e: &dyn std::fmt::Display| format!("Landlock: {e}");
    let ruleset = Ruleset::default();
    let ruleset = match level {
        Level::Landlock => ruleset.set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::from_all(ABI::V3)),
        _ => ruleset.handle_access(AccessFs::from_all(ABI::V3)),
    };
    let ruleset = ruleset
        .map(|r| r.set_compatibility(CompatLevel::BestEffort))
        .and_then(|r| r.handle_access(AccessFs::from_all(NEWEST)))
        .and_then(|r| r.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|r| r.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(|e| told(&e))?;
    let mut ruleset = ruleset.set_compatibility(CompatLevel::BestEffort);
    let run = AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir;
    for (path, access) in readable(python, run) {
        ruleset = allow(ruleset, &path, access)?;
    }
    for device in DEVICES {
        ruleset = allow(ruleset, Path::new(device), AccessFs::ReadFile | AccessFs::WriteFile)?;
    }
    allow(ruleset, scratch, AccessFs::from_all(NEWEST) & !BitFlags::from(AccessFs::Execute))
}

/// Devices a program may open.
pub(super) const DEVICES: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/urandom"];

/// The interpreter's files. Landlock can only add, so a standard library with packages inside is given entry by entry without them.
fn readable(python: &Python, run: BitFlags<AccessFs>) -> Vec<(std::path::PathBuf, BitFlags<AccessFs>)> {
    let packages: Vec<_> = python.packages().collect();
    let mut rules = Vec::new();
    for path in python.visible() {
        if !packages.iter().any(|package| package.starts_with(path)) {
            rules.push((path.to_owned(), run));
            continue;
        }
        rules.push((path.to_owned(), AccessFs::ReadDir.into()));
        let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok).map(|e| e.path());
        rules.extend(entries.filter(|entry| !packages.iter().any(|package| package.starts_with(entry))).map(|entry| (entry, run)));
    }
    rules
}

/// A rule for a path that is there; a file gets the rights that files have.
fn allow(ruleset: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, String> {
    let Ok(place) = PathFd::new(path) else { return Ok(ruleset) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
    ruleset.add_rule(PathBeneath::new(place, access)).map_err(|e| format!("Landlock rule for {}: {e}", path.display()))
}

/// System calls that no program of a benchmark needs and that reach beyond it: other processes, mounts, kernel objects that outlive it,
/// memory that no limit counts.
const DENIED: &[libc::c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_setup,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_fanotify_init,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_personality,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
];

/// Where no process namespace hides the others: signals to them, and leaving the process group that is killed at the end.
const DENIED_WITHOUT_NAMESPACES: &[libc::c_long] = &[
    libc::SYS_socket,
    libc::SYS_setsid,
    libc::SYS_setpgid,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_pidfd_send_signal,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
];

/// The two filters of a level, in the order they are applied.
pub(super) fn filters(level: Level) -> Result<Vec<BpfProgram>, String> {
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(|e| format!("seccomp: {e}"))?;
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    match level {
        Level::Landlock => denied.extend(DENIED_WITHOUT_NAMESPACES.iter().map(|call| (*call, Vec::new()))),
        // The empty network namespace holds these families; others (vsock, netlink, alg) do not stop at it or open kernel code.
        _ => drop(denied.insert(libc::SYS_socket, rule(0, &[differs(libc::AF_UNIX), differs(libc::AF_INET), differs(libc::AF_INET6)])?)),
    }
    let new_namespaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    let mut clone = Vec::new();
    for flag in new_namespaces {
        let flag = flag as u64;
        clone.extend(rule(0, &[(SeccompCmpOp::MaskedEq(flag), flag)])?);
    }
    denied.insert(libc::SYS_clone, clone);
    // Limits of other processes of the same user.
    denied.insert(libc::SYS_prlimit64, rule(0, &[(SeccompCmpOp::Ne, 0)])?);
    #[cfg(target_arch = "x86_64")]
    deny_x32(&mut denied);
    let filter = |rules, errno: i32| {
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)
            .and_then(BpfProgram::try_from)
            .map_err(|e| format!("seccomp: {e}"))
    };
    // A filter cannot look into clone3's structure; without the call the C library falls back to clone.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok(vec![filter(denied, libc::EPERM)?, filter(clone3, libc::ENOSYS)?])
}

/// The same calls through the x32 entry of x86-64 kernels, and those that have a number of their own there (512 to 547).
#[cfg(target_arch = "x86_64")]
fn deny_x32(denied: &mut BTreeMap<i64, Vec<SeccompRule>>) {
    const X32: i64 = 0x4000_0000;
    let calls: Vec<i64> = denied.keys().copied().chain(512..=547).chain([libc::SYS_clone3]).collect();
    denied.extend(calls.into_iter().map(|call| (call | X32, Vec::new())));
}

fn differs(value: i32) -> (SeccompCmpOp, u64) {
    (SeccompCmpOp::Ne, value as u64)
}

/// One rule: all comparisons of this argument hold.
fn rule(argument: u8, comparisons: &[(SeccompCmpOp, u64)]) -> Result<Vec<SeccompRule>, String> {
    let conditions: Result<Vec<_>, _> = comparisons
        .iter()
        .map(|(operator, value)| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator.clone(), *value))
        .collect();
    conditions.and_then(SeccompRule::new).map(|rule| vec![rule]).map_err(|e| format!("seccomp: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_compile_and_fit_the_kernels_limit() {
        for level in [Level::Namespaces, Level::Landlock] {
            for filter in filters(level).expect("compiles") {
                assert!(filter.len() < 4096, "{level:?}: {} instructions", filter.len());
            }
        }
    }
}
