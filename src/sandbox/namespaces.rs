//! Level A: a root of its own that holds the interpreter and nothing else, in namespaces of its own.
//!
//! The helper enters user, mount, network, IPC, UTS and cgroup namespaces once and builds the root, read-only; each program then gets a
//! mount, process and IPC namespace and a scratch file system of its own (`worker`). There is no `/proc`: nothing needs it, and what is
//! not there cannot be read.

use super::{Limits, confine::DEVICES, python::Python, system};
use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::{statvfs::FsFlags, wait::waitpid},
    unistd::{Gid, Uid, chdir, getegid, geteuid, pivot_root},
};
use std::{
    fs::{DirBuilder, File},
    io::{Read, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// Namespaces a program gets for itself.
pub(super) const OF_A_PROGRAM: libc::c_int = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;

/// Where a program lives.
pub(super) const SCRATCH: &str = "/w";

/// Where the new root may be put together: any folder that holds nothing of the interpreter.
const STAGES: [&str; 6] = ["/tmp", "/run", "/mnt", "/home", "/var/tmp", "/opt"];

/// Puts this process into its namespaces and its root. `outcast` is who programs run as where the caller is root.
pub(super) fn enter(python: &Python, outcast: Option<(Uid, Gid)>) -> Result<(), String> {
    own_user_namespace(outcast)?;
    let rest = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(rest).map_err(|e| format!("new namespaces: {e}"))?;
    plain_mount(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")?;
    let needed: Vec<PathBuf> = python.visible().filter_map(|path| path.canonicalize().ok()).collect();
    let stage = STAGES.into_iter().map(Path::new).find(|stage| stage.is_dir() && !needed.iter().any(|path| path.starts_with(stage)));
    let stage = stage.ok_or("no folder is free to put the new root on")?;
    plain_mount(Some("tmpfs"), stage, Some("tmpfs"), MsFlags::MS_NOSUID, "size=1m,mode=755")?;
    build(stage, python, needed)?;
    change_root(stage).map_err(|e| format!("new root: {e}"))
}

/// A user namespace in which the caller keeps its identity, so that a program is never root, not even there. Where the caller is root, the
/// outcast is mapped too, which takes a process outside.
fn own_user_namespace(outcast: Option<(Uid, Gid)>) -> Result<(), String> {
    let (uid, gid) = (geteuid(), getegid());
    let failed = |e: std::io::Error| format!("identity in the new user namespace: {e}");
    let Some((other, group)) = outcast else {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| format!("new user namespace: {e}"))?;
        put("/proc/self/setgroups", "deny").map_err(failed)?;
        put("/proc/self/uid_map", &format!("{uid} {uid} 1")).map_err(failed)?;
        return put("/proc/self/gid_map", &format!("{gid} {gid} 1")).map_err(failed);
    };
    let (mut here, mut there) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
    let me = std::process::id();
    match system::fork_into(0).map_err(|e| format!("fork: {e}"))? {
        system::Side::Child => {
            drop(here);
            let mapped = there.read_exact(&mut [0]).and_then(|()| {
                put(&format!("/proc/{me}/uid_map"), &format!("{uid} {uid} 1\n{other} {other} 1"))?;
                put(&format!("/proc/{me}/gid_map"), &format!("{gid} {gid} 1\n{group} {group} 1"))
            });
            let told = mapped.err().map(|e| e.to_string()).unwrap_or_default();
            system::exit_now(i32::from(there.write_all(told.as_bytes()).is_err()));
        }
        system::Side::Parent(mapper) => {
            drop(there);
            unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| format!("new user namespace: {e}"))?;
            let mut told = String::new();
            here.write_all(&[1]).and_then(|()| here.read_to_string(&mut told)).map_err(failed)?;
            waitpid(mapper, None).map_err(|e| format!("wait: {e}"))?;
            if told.is_empty() { Ok(()) } else { Err(format!("identity in the new user namespace: {told}")) }
        }
    }
}

/// Writes a kernel file.
fn put(path: &str, text: &str) -> std::io::Result<()> {
    File::options().write(true).open(path)?.write_all(text.as_bytes())
}

fn build(stage: &Path, python: &Python, mut needed: Vec<PathBuf>) -> Result<(), String> {
    let told = |path: &Path| {
        let path = path.display().to_string();
        move |e: std::io::Error| format!("{path} in the new root: {e}")
    };
    for name in ["lib", "lib32", "lib64", "bin"] {
        let link = Path::new("/").join(name);
        if let Ok(target) = std::fs::read_link(&link) {
            let inside = target.strip_prefix("/").unwrap_or(&target);
            symlink(inside, stage.join(name)).map_err(told(&link))?;
        }
    }
    needed.sort();
    let mut bound: Vec<PathBuf> = Vec::new();
    for path in needed {
        if !bound.iter().any(|above| path.starts_with(above)) {
            bind(&path, &place(stage, &path).map_err(told(&path))?, MsFlags::MS_RDONLY)?;
            bound.push(path);
        }
    }
    // Installed packages are the user's, not the interpreter's: an empty, read-only directory lies over them.
    for packages in python.packages().filter_map(|path| path.canonicalize().ok()) {
        plain_mount(Some("tmpfs"), &inside(stage, &packages), Some("tmpfs"), MsFlags::MS_RDONLY, "size=4k,mode=755")?;
    }
    for device in DEVICES.map(Path::new) {
        bind(device, &place(stage, device).map_err(told(device))?, MsFlags::MS_NOEXEC)?;
    }
    let scratch = inside(stage, Path::new(SCRATCH));
    std::fs::create_dir(&scratch).map_err(told(&scratch))?;
    let sealed = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
    plain_mount(None, stage, None, sealed, "")
}

fn inside(stage: &Path, path: &Path) -> PathBuf {
    stage.join(path.strip_prefix("/").unwrap_or(path))
}

/// A mount point in the new root: a directory for a directory, a file for anything else.
fn place(stage: &Path, path: &Path) -> std::io::Result<PathBuf> {
    let target = inside(stage, path);
    let folder = if path.is_dir() { Some(target.as_path()) } else { target.parent() };
    folder.map_or(Ok(()), |folder| DirBuilder::new().recursive(true).create(folder))?;
    if !path.is_dir() {
        File::options().create(true).append(true).open(&target)?;
    }
    Ok(target)
}

/// Shows `path` at `target`. The kernel wants flags that the path's own mount has to stay.
fn bind(path: &Path, target: &Path, flags: MsFlags) -> Result<(), String> {
    let told = |e| format!("{} in the new root: {e}", path.display());
    mount(Some(path), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).map_err(told)?;
    let has = nix::sys::statvfs::statvfs(target).map_err(told)?.flags();
    let mut keep = MsFlags::empty();
    for (flag, same) in [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        keep.set(same, has.contains(flag));
    }
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | keep | flags;
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(told)
}

fn plain_mount(source: Option<&str>, target: &Path, kind: Option<&str>, flags: MsFlags, data: &str) -> Result<(), String> {
    mount(source, target, kind, flags, Some(data)).map_err(|e| format!("mount on {}: {e}", target.display()))
}

fn change_root(stage: &Path) -> nix::Result<()> {
    chdir(stage)?;
    // The new root over the old one; the old one, uppermost at the same place, is then taken away.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

/// The scratch file system of one program, in that program's own mount namespace.
pub(super) fn mount_scratch(limits: &Limits, owner: (Uid, Gid)) -> Result<(), String> {
    let (uid, gid) = owner;
    let quota = format!("size={},nr_inodes={},mode=700,uid={uid},gid={gid}", limits.scratch, limits.scratch_files);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    plain_mount(Some("tmpfs"), Path::new(SCRATCH), Some("tmpfs"), flags, &quota)
}
