//! Maps shared with the agent, and the numbers it hands over before load.
//!
//! Every `O_*` is an offset read from the running kernel's BTF or tracefs. They are frozen read-only data,
//! so the verifier knows them and drops the branches that do not apply.

use aya_ebpf::{
    Global,
    macros::map,
    maps::{HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use kata_pulse_common::{BaseKey, BasePath, COMM_BYTES, COUNTERS as COUNTER_SLOTS, NONE, PATH_KEY_BYTES};

/// Events whose origin is the host.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);
/// Events from other mount namespaces: a flood of them fills only this ring.
#[map]
pub static FOREIGN: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);
/// Program name prefixes (of comm) → what they announce.
#[map]
pub static NAMES: LpmTrie<[u8; COMM_BYTES], u32> = LpmTrie::with_max_entries(64, 1);
/// Processes whose forks, execs and exit are reported → start time. Allocated beforehand: else kernels before 6.1 print a
/// warning when a plain tracepoint that uses it is loaded.
#[map]
pub static TRACKED: HashMap<u32, u64> = HashMap::with_max_entries(16_384, 0);
/// Processes that ended and that nobody waited for yet → start time. One that nobody ever waits for gives way.
#[map]
pub static ENDED: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);
/// Watched base directories → index.
#[map]
pub static BASES: HashMap<BaseKey, u32> = HashMap::with_max_entries(64, 0);
/// The same by path, for the per-syscall rung.
#[map]
pub static BASE_PATHS: LpmTrie<[u8; PATH_KEY_BYTES], BasePath> = LpmTrie::with_max_entries(64, 1);
/// Calls that are under way, by thread.
#[map]
pub static PENDING: LruHashMap<u64, Pending> = LruHashMap::with_max_entries(1024, 0);
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_SLOTS, 0);

/// What an entry hook remembers for the return hook. kprobe: a = dir, b = dentry. Syscall: a = path pointer,
/// b = directory descriptor.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pending {
    pub a: u64,
    pub b: u64,
    pub kind: u64,
}

macro_rules! offsets {
    ($($name:ident)*) => {
        $(#[unsafe(no_mangle)]
        pub static $name: Global<u32> = Global::new(NONE);)*
    };
}

offsets! {
    HOST_MNTNS
    O_TASK_NSPROXY O_NSPROXY_MNT O_MNTNS_INUM
    O_TASK_PID O_TASK_TGID O_TASK_PARENT O_TASK_LEADER O_TASK_START O_TASK_EXIT_CODE
    O_TASK_SIGNAL O_SIGNAL_LIVE
    O_TASK_MM O_MM_ARG_START O_MM_ARG_END
    O_TASK_FILES O_FILES_FDT O_FDT_FD O_FILE_INODE O_TASK_FS O_FS_PWD_DENTRY O_DENTRY_INODE
    O_BPRM_FILENAME
    O_INODE_INO O_INODE_SB O_SB_DEV O_DENTRY_NAME O_DENTRY_NAME_LEN
    O_EXEC_FILENAME O_EXIT_GROUP_DEAD O_FORK_CHILD
    O_MKDIR_PATH O_MKDIRAT_FD O_MKDIRAT_PATH O_RMDIR_PATH O_UNLINKAT_FD O_UNLINKAT_PATH O_UNLINKAT_FLAG
    O_SYSCALL_RET
    MKDIR_DIR_ARG MKDIR_ARGS RMDIR_DIR_ARG RMDIR_ARGS
    MKDIR_RETURNS_DENTRY
    HAS_ACCOUNT HAS_ACCOUNT_IO
    O_TASK_UTIME O_TASK_STIME O_TASK_GTIME O_TASK_RUNTIME O_TASK_MIN_FLT O_TASK_MAJ_FLT O_TASK_NVCSW O_TASK_NIVCSW
    O_TASK_SYSCR O_TASK_SYSCW O_TASK_READ O_TASK_WRITE O_TASK_THREAD_NODE
    O_SIGNAL_UTIME O_SIGNAL_STIME O_SIGNAL_GTIME O_SIGNAL_RUNTIME O_SIGNAL_MIN_FLT O_SIGNAL_MAJ_FLT O_SIGNAL_NVCSW
    O_SIGNAL_NIVCSW O_SIGNAL_SYSCR O_SIGNAL_SYSCW O_SIGNAL_READ O_SIGNAL_WRITE
    O_SIGNAL_MAXRSS O_SIGNAL_TOLD_UTIME O_SIGNAL_TOLD_STIME O_SIGNAL_THREADS O_SIGNAL_STATS_SEQ
}

/// The host's pid namespace, used where the mount namespace cannot be read. 0: unknown.
#[unsafe(no_mangle)]
pub static HOST_PIDNS_DEV: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub static HOST_PIDNS_INO: Global<u64> = Global::new(0);

/// `None` when the kernel did not give the number.
#[inline(always)]
pub fn known(offset: &Global<u32>) -> Option<u32> {
    match offset.load() {
        NONE => None,
        value => Some(value),
    }
}

#[inline(always)]
pub fn count(slot: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: a per-CPU slot that the map just gave out; nothing else runs on it at this moment.
        unsafe { *counter += 1 };
    }
}
