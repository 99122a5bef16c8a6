//! mkdir and rmdir directly below a watched base, for all three rungs.
//!
//! fexit and kprobe compare the parent's inode and device, which no spelling, descriptor, io_uring or mount
//! namespace can disguise. The per-syscall rung compares text where the path is absolute, and the same
//! inode where it is relative.

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{bpf_probe_read_kernel, bpf_probe_read_user_str},
    },
    maps::{RingBuf, lpm_trie::Key},
};
use aya_log_ebpf::debug;
use kata_pulse_common::{
    BaseKey, COUNT_EMITTED, COUNT_FAULTS, COUNT_FOREIGN_EMITTED, COUNT_FOREIGN_LOST, COUNT_LOST,
    COUNT_REJECTED_FOREIGN, DirectoryEvent, FLAG_BY_PATH, FLAG_HOST, NAME_BYTES, PATH_KEY_BYTES,
};

use crate::{
    maps::{
        BASE_PATHS, BASES, EVENTS, FOREIGN, O_DENTRY_INODE, O_DENTRY_NAME, O_DENTRY_NAME_LEN, O_FDT_FD, O_FILE_INODE,
        O_FILES_FDT, O_FS_PWD_DENTRY, O_INODE_INO, O_INODE_SB, O_SB_DEV, O_TASK_FILES, O_TASK_FS, PENDING, Pending,
        count,
    },
    process::now,
    task::{self, field},
};

/// Not in aya's bindings: the descriptor that means the working directory.
const AT_FDCWD: i32 = -100;

/// Where the new or removed name is to be copied from.
#[derive(Clone, Copy)]
enum Name {
    Dentry(u64),
    User(u64),
}

/// The watched base that this inode is.
#[inline(always)]
pub fn base_of(inode: u64) -> Option<u32> {
    let number: u64 = field(inode, &O_INODE_INO)?;
    let super_block: u64 = field(inode, &O_INODE_SB)?;
    let device: u32 = field(super_block, &O_SB_DEV)?;
    let key = BaseKey { inode: number, device: u64::from(device) };
    BASES.get_ptr(key).map(|index| {
        // SAFETY: a pointer that the map just gave out; values are never torn (4 bytes).
        unsafe { *index }
    })
}

/// fexit or kretprobe: the kernel function returned success.
#[inline(always)]
pub fn done<C: EbpfContext>(ctx: &C, kind: u32, dir: u64, dentry: u64) -> Option<()> {
    send(ctx, kind, base_of(dir)?, Name::Dentry(dentry), 0)
}

/// kprobe: remember the arguments if the parent is a watched base.
#[inline(always)]
pub fn enter_function(kind: u32, dir: u64, dentry: u64) -> Option<()> {
    base_of(dir)?;
    remember(Pending { a: dir, b: dentry, kind: u64::from(kind) })
}

#[inline(always)]
fn remember(pending: Pending) -> Option<()> {
    PENDING.insert(bpf_get_current_pid_tgid(), pending, 0).ok()
}

/// What the entry hook of this thread remembered, if it was of this kind; it is forgotten.
#[inline(always)]
pub fn recall() -> Option<Pending> {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: copied at once; the entry belongs to the current thread.
    let pending = unsafe { *PENDING.get_ptr(thread)? };
    let _ = PENDING.remove(thread);
    Some(pending)
}

/// The inode of a directory descriptor of the current process.
#[inline(always)]
fn inode_of(descriptor: i32) -> Option<u64> {
    let task = task::current();
    if descriptor == AT_FDCWD {
        let fs: u64 = field(task, &O_TASK_FS)?;
        let dentry: u64 = field(fs, &O_FS_PWD_DENTRY)?;
        return field(dentry, &O_DENTRY_INODE);
    }
    if descriptor < 0 {
        return None;
    }
    let files: u64 = field(task, &O_TASK_FILES)?;
    let table: u64 = field(files, &O_FILES_FDT)?;
    let array: u64 = field(table, &O_FDT_FD)?;
    let mut file = 0u64;
    // SAFETY: eight bytes into a u64; the helper checks the source.
    let result =
        unsafe { bpf_probe_read_kernel((&raw mut file).cast(), 8, (array + descriptor as u64 * 8) as *const _) };
    if result != 0 {
        return None;
    }
    field(file, &O_FILE_INODE)
}

/// A path that a system call was given, as far as it concerns us.
enum Place {
    /// Base, where its name is in user memory, and whether only the text says so.
    Ours {
        base: u32,
        name: u64,
        by_path: bool,
    },
    Elsewhere,
    /// The page is not mapped in yet: look again when the call returns.
    Unreadable,
}

#[inline(always)]
fn place(descriptor: i32, path: u64) -> Place {
    let mut head = [0u8; 8];
    // SAFETY: the size passed is the buffer's.
    let read = unsafe { bpf_probe_read_user_str(head.as_mut_ptr().cast(), 8, path as *const _) };
    if read < 0 {
        return Place::Unreadable;
    }
    let slashes = leading_slashes(&head);
    if slashes == 0 {
        return match inode_of(descriptor).and_then(base_of) {
            Some(base) => Place::Ours { base, name: path, by_path: false },
            None => Place::Elsewhere,
        };
    }
    let mut key = Key::new(8 * PATH_KEY_BYTES as u32, [0u8; PATH_KEY_BYTES]);
    let relative = path + slashes;
    // SAFETY: as above; what follows the NUL stays zero.
    let read =
        unsafe { bpf_probe_read_user_str((&raw mut key.data).cast(), PATH_KEY_BYTES as u32, relative as *const _) };
    if read < 0 {
        return Place::Unreadable;
    }
    match BASE_PATHS.get(&key) {
        Some(known) => Place::Ours { base: known.base, name: relative + u64::from(known.prefix_len), by_path: true },
        None => Place::Elsewhere,
    }
}

/// runtime-rs writes `///run/kata/<id>`.
#[inline(always)]
fn leading_slashes(head: &[u8; 8]) -> u64 {
    let mut slashes = 0;
    while slashes < 7 && head[slashes] == b'/' {
        slashes += 1;
    }
    slashes as u64
}

/// A system call begins.
#[inline(always)]
pub fn enter_syscall(kind: u32, descriptor: i32, path: u64) -> Option<()> {
    match place(descriptor, path) {
        Place::Elsewhere => None,
        Place::Ours { .. } | Place::Unreadable => {
            remember(Pending { a: path, b: descriptor as u32 as u64, kind: u64::from(kind) })
        }
    }
}

/// It returned. Everything is read again: the pages are there now.
#[inline(always)]
pub fn exit_syscall<C: EbpfContext>(ctx: &C, result: i64) -> Option<()> {
    let pending = recall()?;
    if result != 0 {
        return None;
    }
    match place(pending.b as u32 as i32, pending.a) {
        Place::Ours { base, name, by_path } => {
            let flags = if by_path { FLAG_BY_PATH } else { 0 };
            send(ctx, pending.kind as u32, base, Name::User(name), flags)
        }
        Place::Elsewhere => None,
        Place::Unreadable => {
            count(COUNT_FAULTS);
            None
        }
    }
}

#[inline(always)]
fn send<C: EbpfContext>(ctx: &C, kind: u32, base: u32, name: Name, flags: u32) -> Option<()> {
    let origin = task::origin(task::mount_namespace(task::current()));
    debug!(ctx, "directory: kind {} base {} origin {}", kind, base, origin);
    if origin & FLAG_HOST != 0 {
        return fill(&EVENTS, kind, base, name, flags | origin, COUNT_EMITTED, COUNT_LOST);
    }
    if flags & FLAG_BY_PATH != 0 {
        // The same text means another directory there.
        count(COUNT_REJECTED_FOREIGN);
        return None;
    }
    fill(&FOREIGN, kind, base, name, flags, COUNT_FOREIGN_EMITTED, COUNT_FOREIGN_LOST)
}

#[inline(always)]
fn fill(ring: &RingBuf, kind: u32, base: u32, name: Name, flags: u32, sent: u32, lost: u32) -> Option<()> {
    let Some(mut entry) = ring.reserve::<DirectoryEvent>(0) else {
        count(lost);
        return None;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the entry is as large as the record; all fields are written but the tail of `name`, whose
    // length says how far it is valid.
    unsafe {
        let len = copy_name(name, &raw mut (*record).name);
        if len == 0 {
            entry.discard(0);
            count(COUNT_FAULTS);
            return None;
        }
        (&raw mut (*record).kind).write(kind);
        (&raw mut (*record).flags).write(flags);
        (&raw mut (*record).boot_ns).write(now());
        (&raw mut (*record).pid).write((bpf_get_current_pid_tgid() >> 32) as u32);
        (&raw mut (*record).uid).write(bpf_get_current_uid_gid() as u32);
        (&raw mut (*record).base).write(base);
        (&raw mut (*record).name_len).write(len);
        entry.submit(0);
    }
    count(sent);
    Some(())
}

/// Copies the name; returns its length, 0 if it could not be read.
#[inline(always)]
unsafe fn copy_name(name: Name, to: *mut [u8; NAME_BYTES]) -> u32 {
    match name {
        Name::Dentry(dentry) => {
            let len = field::<u32>(dentry, &O_DENTRY_NAME_LEN).unwrap_or(0) & (NAME_BYTES as u32 - 1);
            let from: u64 = field(dentry, &O_DENTRY_NAME).unwrap_or(0);
            // SAFETY: the mask keeps the length below the buffer's; the helper checks the source.
            let result = unsafe { bpf_probe_read_kernel(to.cast(), len, from as *const _) };
            if result == 0 { len } else { 0 }
        }
        Name::User(from) => {
            // SAFETY: the size passed is the buffer's.
            let read = unsafe { bpf_probe_read_user_str(to.cast(), NAME_BYTES as u32, from as *const _) };
            if read > 0 { read as u32 - 1 } else { 0 }
        }
    }
}
