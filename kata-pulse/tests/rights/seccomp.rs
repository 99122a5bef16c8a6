//! A filter of system calls, as a container runtime installs one.

use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

/// Where the kernel puts the call's number and the lower half of its first argument (little endian).
const NUMBER: u32 = 0;
const FIRST_ARGUMENT: u32 = 16;

const fn step(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

const fn load(at: u32) -> sock_filter {
    step(BPF_LD | BPF_W | BPF_ABS, at, 0, 0)
}

/// So many steps further if it is not.
const fn is(value: u32, otherwise: u8) -> sock_filter {
    step(BPF_JMP | BPF_JEQ | BPF_K, value, 0, otherwise)
}

const fn answer(what: u32) -> sock_filter {
    step(BPF_RET | BPF_K, what, 0, 0)
}

const DENY: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

static FILTER: [sock_filter; 8] = [
    load(NUMBER),
    is(libc::SYS_bpf as u32, 1),
    answer(DENY),
    is(libc::SYS_socket as u32, 3),
    load(FIRST_ARGUMENT),
    is(libc::AF_VSOCK as u32, 1),
    answer(DENY),
    answer(libc::SECCOMP_RET_ALLOW),
];

/// Every program that `command` becomes answers `bpf` and sockets of AF_VSOCK with EPERM.
#[expect(unsafe_code, reason = "what a process does to itself between fork and exec")]
pub fn deny_vsock_and_bpf(command: &mut Command) {
    let install = || {
        let program = sock_fprog { len: FILTER.len() as u16, filter: (&raw const FILTER).cast_mut().cast() };
        // SAFETY: the program points to a constant of the length it names, which the kernel copies and never writes.
        let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(install) };
}
