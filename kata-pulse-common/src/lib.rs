//! Types and constants both sides of the kernel share: plain integers, no dependency.
//!
//! The programs of `kata-pulse-ebpf` fill these records field by field in a ring buffer; the agent reads
//! them back with [`decode()`], the one function here that is not a constant.
#![cfg_attr(not(test), no_std)]

pub mod account;
mod decode;

pub use decode::{Record, decode};

/// Bytes of argv that one exec record carries, the first ones. The kernel writes one less than this.
pub const ARGV_BYTES: usize = 512;
/// Bytes of the executed file's path.
pub const FILE_BYTES: usize = 128;
/// One more than a file name may have on Linux.
pub const NAME_BYTES: usize = 256;
/// As the kernel has it.
pub const COMM_BYTES: usize = 16;
/// Bytes of a path that the per-syscall rung compares with the bases.
pub const PATH_KEY_BYTES: usize = 64;

/// An offset, index or number that this kernel did not give us. Never 0: a 0 would still read something.
pub const NONE: u32 = u32::MAX;

pub const KIND_EXEC: u32 = 1;
pub const KIND_FORK: u32 = 2;
pub const KIND_EXIT: u32 = 3;
pub const KIND_MKDIR: u32 = 4;
pub const KIND_RMDIR: u32 = 5;
/// An ended process that somebody waited for, so that nothing of it runs any more.
pub const KIND_RELEASED: u32 = 6;

/// Provenance was checked and is the host's: its mount namespace, or descent from a tracked process.
pub const FLAG_HOST: u32 = 1;
/// `exit_code` was read.
pub const FLAG_EXIT_CODE: u32 = 1 << 1;
/// The new task may be a thread: the hook gave thread ids only.
pub const FLAG_MAYBE_THREAD: u32 = 1 << 2;
/// The directory was recognised by the path's text, not by its parent's inode.
pub const FLAG_BY_PATH: u32 = 1 << 3;
/// The provenance could not be determined on this kernel.
pub const FLAG_UNKNOWN_ORIGIN: u32 = 1 << 4;
/// The account was read, but for what has a flag of its own.
pub const FLAG_ACCOUNT: u32 = 1 << 5;
/// The account's numbers of I/O were read.
pub const FLAG_ACCOUNT_IO: u32 = 1 << 6;
/// Not all threads are in the account: there were too many, or some were released while it was read.
pub const FLAG_ACCOUNT_CUT: u32 = 1 << 7;

/// What the name of an executed program announces; the value in the map of names. 0: none of ours,
/// reported because the process was tracked until then.
pub const PROGRAM_OTHER: u32 = 0;
pub const PROGRAM_SHIM: u32 = 1;
pub const PROGRAM_HYPERVISOR: u32 = 2;
pub const PROGRAM_FILE_SERVER: u32 = 3;
pub const PROGRAM_JAILER: u32 = 4;

/// Indices of the per-CPU counters.
pub const COUNT_EMITTED: u32 = 0;
pub const COUNT_LOST: u32 = 1;
pub const COUNT_FOREIGN_EMITTED: u32 = 2;
pub const COUNT_FOREIGN_LOST: u32 = 3;
pub const COUNT_MAP_FULL: u32 = 4;
pub const COUNT_REJECTED_FOREIGN: u32 = 5;
pub const COUNT_FAULTS: u32 = 6;
pub const COUNTERS: u32 = 8;

/// A process began, ended or became another program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessEvent {
    pub kind: u32,
    pub flags: u32,
    pub boot_ns: u64,
    /// Start of the process (its leader) since boot, 0 if unknown.
    pub start_boot_ns: u64,
    /// The process (thread group), in the initial pid namespace.
    pub pid: u32,
    /// The parent's process id, 0 if unknown.
    pub parent: u32,
    pub uid: u32,
    /// As wait(2) encodes it; see [`FLAG_EXIT_CODE`].
    pub exit_code: u32,
    /// Inode of the mount namespace, 0 if unknown.
    pub mount_ns: u32,
    pub program: u32,
    pub comm: [u8; COMM_BYTES],
}
const _: () = assert!(size_of::<ProcessEvent>() == 2 * 4 + 2 * 8 + 6 * 4 + COMM_BYTES);

/// A [`ProcessEvent`] of kind exec, with what was executed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecEvent {
    pub process: ProcessEvent,
    pub file_len: u32,
    pub argv_len: u32,
    pub file: [u8; FILE_BYTES],
    /// Arguments, each ended by a NUL, cut at the end.
    pub argv: [u8; ARGV_BYTES],
}
const _: () = assert!(size_of::<ExecEvent>() == size_of::<ProcessEvent>() + 2 * 4 + FILE_BYTES + ARGV_BYTES);

/// What all threads of a process used, as the kernel counts it. Which numbers were read, the flags say.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawAccount {
    /// By the clock tick, guest time included.
    pub user_ns: u64,
    pub system_ns: u64,
    pub guest_ns: u64,
    /// On a CPU, exact.
    pub run_ns: u64,
    /// What readers of `/proc` were last told, 0 if nobody asked: it never goes down.
    pub told_user_ns: u64,
    pub told_system_ns: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
    /// In pages.
    pub peak_rss: u64,
    pub read_calls: u64,
    pub write_calls: u64,
    pub read_bytes: u64,
    pub write_bytes: u64,
}
const _: () = assert!(size_of::<RawAccount>() == 15 * 8);

/// A [`ProcessEvent`] of kind exit or released, with what the process used. Of kind released, only the process's id,
/// start and exit code are told.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitEvent {
    pub process: ProcessEvent,
    pub account: RawAccount,
}
const _: () = assert!(size_of::<ExitEvent>() == size_of::<ProcessEvent>() + size_of::<RawAccount>());

/// A directory directly below a watched base was made or removed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryEvent {
    pub kind: u32,
    pub flags: u32,
    pub boot_ns: u64,
    /// Who did it.
    pub pid: u32,
    pub uid: u32,
    pub base: u32,
    pub name_len: u32,
    pub name: [u8; NAME_BYTES],
}
const _: () = assert!(size_of::<DirectoryEvent>() == 2 * 4 + 8 + 4 * 4 + NAME_BYTES);

/// Key of the map of watched base directories.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseKey {
    pub inode: u64,
    /// In the kernel's own encoding: major << 20 | minor.
    pub device: u64,
}
const _: () = assert!(size_of::<BaseKey>() == 16);

/// Value of the map of base paths: which base, and how many bytes of the path (without its leading
/// slashes, with the last one) name it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BasePath {
    pub base: u32,
    pub prefix_len: u32,
}
const _: () = assert!(size_of::<BasePath>() == 8);
