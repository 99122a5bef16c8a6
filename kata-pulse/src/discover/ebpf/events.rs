//! Records of the kernel side → [`KernelEvent`]. Pure.

use kata_pulse_common as abi;
use kata_pulse_common::{DirectoryEvent, ExecEvent, ProcessEvent, Record};

use super::account::Account;

/// Something happened in the kernel. A hint: whoever acts on it looks for himself first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelEvent {
    /// A process of interest became another program.
    Exec {
        process: Process,
        program: Program,
        file: Vec<u8>,
        argv: Vec<Vec<u8>>,
    },
    /// A tracked process made another. With `may_be_thread`, it may be a thread of the same.
    Fork {
        process: Process,
        may_be_thread: bool,
    },
    /// The last thread of a tracked process ended. `None`: the status or what it had used could not be read.
    Exit {
        process: Process,
        status: Option<ExitStatus>,
        account: Option<Account>,
    },
    /// It was waited for and is gone. Of the process only its id and start are told.
    Released {
        process: Process,
        status: Option<ExitStatus>,
        account: Option<Account>,
    },
    DirectoryMade(Directory),
    DirectoryRemoved(Directory),
}

/// Who, as the kernel saw it at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub boot_ns: u64,
    pub origin: Origin,
    pub pid: u32,
    /// 0: unknown.
    pub parent: u32,
    /// Start since boot; 0: unknown.
    pub start_boot_ns: u64,
    pub uid: u32,
    /// Inode of its mount namespace; 0: unknown.
    pub mount_ns: u32,
    pub comm: Vec<u8>,
}

/// A directory directly below a watched base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    pub boot_ns: u64,
    pub origin: Origin,
    pub base_index: u32,
    pub name: Vec<u8>,
    /// Recognised by the text of a path only (the per-syscall rung).
    pub by_path: bool,
    /// Who did it.
    pub pid: u32,
    pub uid: u32,
}

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The host's mount namespace, or descent from a tracked process.
    Host,
    /// Another namespace: perhaps forged, and limited in number.
    Foreign,
    /// This kernel does not let us tell.
    Unknown,
}

/// What the executed program's name announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// None of ours: a tracked process became something else and is no longer tracked.
    Other,
    Shim,
    Hypervisor,
    FileServer,
    Jailer,
}

/// As wait(2) will tell the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    Code(u8),
    Signal(u8),
}

impl KernelEvent {
    /// The event in the bytes of a ring buffer record.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Some(match abi::decode(bytes)? {
            Record::Exec(event) => exec(&event),
            Record::Fork(event) => {
                Self::Fork { process: process(&event), may_be_thread: event.flags & abi::FLAG_MAYBE_THREAD != 0 }
            }
            Record::Exit(event) => Self::Exit {
                process: process(&event.process),
                status: exit_status(&event.process),
                account: Account::parse(event.process.flags, &event.account, false),
            },
            Record::Released(event) => Self::Released {
                process: process(&event.process),
                status: exit_status(&event.process),
                account: Account::parse(event.process.flags, &event.account, true),
            },
            Record::Made(event) => Self::DirectoryMade(directory(&event)?),
            Record::Removed(event) => Self::DirectoryRemoved(directory(&event)?),
        })
    }

    /// Nanoseconds since boot, suspended time included, when the kernel saw it.
    pub fn boot_ns(&self) -> u64 {
        match self {
            Self::Exec { process, .. }
            | Self::Fork { process, .. }
            | Self::Exit { process, .. }
            | Self::Released { process, .. } => process.boot_ns,
            Self::DirectoryMade(directory) | Self::DirectoryRemoved(directory) => directory.boot_ns,
        }
    }

    pub fn origin(&self) -> Origin {
        match self {
            Self::Exec { process, .. }
            | Self::Fork { process, .. }
            | Self::Exit { process, .. }
            | Self::Released { process, .. } => process.origin,
            Self::DirectoryMade(directory) | Self::DirectoryRemoved(directory) => directory.origin,
        }
    }
}

fn exec(event: &ExecEvent) -> KernelEvent {
    let argv = event.argv.get(..event.argv_len as usize).unwrap_or_default();
    KernelEvent::Exec {
        process: process(&event.process),
        program: program(event.process.program),
        file: event.file.get(..event.file_len as usize).unwrap_or_default().to_vec(),
        argv: arguments(argv),
    }
}

/// Arguments separated by NUL; the last one may be cut short. Empty arguments stay.
fn arguments(bytes: &[u8]) -> Vec<Vec<u8>> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    bytes.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect()
}

fn process(event: &ProcessEvent) -> Process {
    Process {
        boot_ns: event.boot_ns,
        origin: origin(event.flags),
        pid: event.pid,
        parent: event.parent,
        start_boot_ns: event.start_boot_ns,
        uid: event.uid,
        mount_ns: event.mount_ns,
        comm: event.comm.split(|&byte| byte == 0).next().unwrap_or_default().to_vec(),
    }
}

fn origin(flags: u32) -> Origin {
    match (flags & abi::FLAG_UNKNOWN_ORIGIN != 0, flags & abi::FLAG_HOST != 0) {
        (true, _) => Origin::Unknown,
        (false, true) => Origin::Host,
        (false, false) => Origin::Foreign,
    }
}

fn program(value: u32) -> Program {
    match value {
        abi::PROGRAM_SHIM => Program::Shim,
        abi::PROGRAM_HYPERVISOR => Program::Hypervisor,
        abi::PROGRAM_FILE_SERVER => Program::FileServer,
        abi::PROGRAM_JAILER => Program::Jailer,
        _ => Program::Other,
    }
}

fn exit_status(event: &ProcessEvent) -> Option<ExitStatus> {
    (event.flags & abi::FLAG_EXIT_CODE != 0).then(|| status(event.exit_code))
}

fn status(raw: u32) -> ExitStatus {
    match (raw & 0x7f) as u8 {
        0 => ExitStatus::Code((raw >> 8) as u8),
        signal => ExitStatus::Signal(signal),
    }
}

/// `None`: nothing of one path component, so below the base's children (only text gives such names).
fn directory(event: &DirectoryEvent) -> Option<Directory> {
    let raw = event.name.get(..event.name_len as usize)?;
    let end = raw.iter().rposition(|&byte| byte != b'/')?;
    let name = raw.get(..=end)?;
    let name = &name[name.iter().position(|&byte| byte != b'/')?..];
    if name.contains(&b'/') || name == b"." || name == b".." {
        return None;
    }
    Some(Directory {
        boot_ns: event.boot_ns,
        origin: origin(event.flags),
        base_index: event.base,
        name: name.to_vec(),
        by_path: event.flags & abi::FLAG_BY_PATH != 0,
        pid: event.pid,
        uid: event.uid,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(name: &[u8]) -> Option<Vec<u8>> {
        let mut event = DirectoryEvent {
            kind: abi::KIND_MKDIR,
            flags: abi::FLAG_HOST,
            boot_ns: 1,
            pid: 2,
            uid: 3,
            base: 0,
            name_len: name.len() as u32,
            name: [0; abi::NAME_BYTES],
        };
        event.name[..name.len()].copy_from_slice(name);
        directory(&event).map(|directory| directory.name)
    }

    #[test]
    fn only_direct_children_have_a_name() {
        for (raw, name) in [
            ("abc", Some("abc")),
            ("abc/", Some("abc")),
            ("//abc//", Some("abc")),
            ("abc/root", None),
            ("..", None),
            (".", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(named(raw.as_bytes()), name.map(|n| n.as_bytes().to_vec()), "{raw}");
        }
    }

    #[test]
    fn argv_keeps_empty_arguments_and_the_cut_one() {
        for (raw, list) in [(&b"a\0\0c\0"[..], vec!["a", "", "c"]), (b"a\0bc", vec!["a", "bc"]), (b"", vec![])] {
            let list: Vec<Vec<u8>> = list.into_iter().map(|s| s.as_bytes().to_vec()).collect();
            assert_eq!(arguments(raw), list);
        }
    }

    #[test]
    fn status_is_as_wait_has_it() {
        for (raw, expected) in [
            (0x300, ExitStatus::Code(3)),
            (0, ExitStatus::Code(0)),
            (0x9, ExitStatus::Signal(9)),
            (0x8b, ExitStatus::Signal(11)),
        ] {
            assert_eq!(status(raw), expected, "{raw:#x}");
        }
    }

    #[test]
    fn unknown_origin_is_neither_host_nor_foreign() {
        assert_eq!(origin(abi::FLAG_HOST), Origin::Host);
        assert_eq!(origin(0), Origin::Foreign);
        assert_eq!(origin(abi::FLAG_HOST | abi::FLAG_UNKNOWN_ORIGIN), Origin::Unknown);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(kind in 0u32..8, mut bytes in proptest::collection::vec(any::<u8>(), 0..1024)) {
            if let Some(head) = bytes.get_mut(..4) {
                head.copy_from_slice(&kind.to_ne_bytes());
            }
            if let Some(event) = KernelEvent::parse(&bytes) {
                let _ = (event.boot_ns(), event.origin());
            }
        }
    }
}
