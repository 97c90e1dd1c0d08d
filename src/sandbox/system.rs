//! The few system calls that no crate wraps safely. They are called in a helper process that has one thread.

use nix::{errno::Errno, libc, unistd::Pid};
use std::os::fd::{AsFd, AsRawFd};

/// Which side of a fork this is.
pub(super) enum Side {
    /// The new process.
    Child,
    /// The old one, with the new one's id.
    Parent(Pid),
}

/// `fork`, with the child in new namespaces of these `CLONE_NEW*` flags (0 for none).
#[expect(unsafe_code, reason = "clone without a stack of its own is fork; no crate offers fork into new namespaces")]
pub(super) fn fork_into(namespaces: libc::c_int) -> Result<Side, Errno> {
    let flags = libc::c_long::from(namespaces | libc::SIGCHLD);
    // SAFETY: no stack and no pointers are passed, so this is fork; the caller's process has a single thread, so the child may go on
    // with any code.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        -1 => Err(Errno::last()),
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(Pid::from_raw(i32::try_from(pid).expect("a process id is an int")))),
    }
}

/// What becomes of descriptors that are not meant for the next program.
#[derive(Clone, Copy)]
pub(super) enum Descriptors {
    /// Closed now.
    Close,
    /// Closed by `exec`.
    CloseOnExec,
}

/// Closes every descriptor from `first` on.
#[expect(unsafe_code, reason = "close_range is not wrapped by nix")]
pub(super) fn close_from(first: u32, how: Descriptors) -> Result<(), Errno> {
    let flags = match how {
        Descriptors::Close => 0,
        Descriptors::CloseOnExec => libc::CLOSE_RANGE_CLOEXEC,
    };
    // SAFETY: numbers only; the caller owns no descriptor from `first` on that it uses afterwards (Close), or none is closed now.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// Makes `number` a copy of `descriptor`, inherited by `exec`.
#[expect(unsafe_code, reason = "nix's dup2 wants to own the number it replaces; 3 and 4 are owned by nobody here")]
pub(super) fn place(descriptor: impl AsFd, number: i32) -> Result<(), Errno> {
    // SAFETY: two numbers. Called between fork and exec, where whatever had that number is not used again.
    Errno::result(unsafe { libc::dup2(descriptor.as_fd().as_raw_fd(), number) }).map(drop)
}

/// Ends a forked child at once, without running anything of the parent's it inherited.
#[expect(unsafe_code, reason = "_exit is not wrapped by nix")]
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing can be left inconsistent.
    unsafe { libc::_exit(code) }
}
