//! Ring buffer bytes → records. Pure and total: any bytes give a record or `None`.

use core::ptr;

use crate::{
    ARGV_BYTES, DirectoryEvent, ExecEvent, ExitEvent, FILE_BYTES, KIND_EXEC, KIND_EXIT, KIND_FORK, KIND_MKDIR,
    KIND_RELEASED, KIND_RMDIR, NAME_BYTES, ProcessEvent,
};

/// One record of the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "decoded one at a time, on the stack")]
pub enum Record {
    Exec(ExecEvent),
    Fork(ProcessEvent),
    Exit(ExitEvent),
    Released(ExitEvent),
    Made(DirectoryEvent),
    Removed(DirectoryEvent),
}

/// Types that every bit pattern of their size is a valid value of.
///
/// # Safety
/// The type is `repr(C)`, of integers and integer arrays only, without padding.
#[expect(unsafe_code, reason = "the claim that makes `read` sound")]
unsafe trait Plain: Copy {}
// SAFETY: integers only; the sizes are asserted next to the definitions, so there is no padding.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Plain for ProcessEvent {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Plain for ExecEvent {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Plain for DirectoryEvent {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Plain for ExitEvent {}

#[expect(unsafe_code, reason = "ring buffer records arrive as bytes")]
fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: the length is checked above; `Plain` promises that every bit pattern is valid;
    // `read_unaligned` needs no alignment.
    Some(unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// The record in these bytes, with its lengths within their buffers. `None`: too short or of no known kind.
pub fn decode(bytes: &[u8]) -> Option<Record> {
    let kind = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    match kind {
        KIND_EXEC => {
            let mut exec: ExecEvent = read(bytes)?;
            exec.file_len = exec.file_len.min(FILE_BYTES as u32);
            exec.argv_len = exec.argv_len.min(ARGV_BYTES as u32);
            Some(Record::Exec(exec))
        }
        KIND_FORK => read(bytes).map(Record::Fork),
        KIND_EXIT => read(bytes).map(Record::Exit),
        KIND_RELEASED => read(bytes).map(Record::Released),
        KIND_MKDIR => directory(bytes).map(Record::Made),
        KIND_RMDIR => directory(bytes).map(Record::Removed),
        _ => None,
    }
}

fn directory(bytes: &[u8]) -> Option<DirectoryEvent> {
    let mut event: DirectoryEvent = read(bytes)?;
    event.name_len = event.name_len.min(NAME_BYTES as u32);
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xff; len];
        bytes[..4].copy_from_slice(&kind.to_ne_bytes());
        bytes
    }

    #[test]
    fn every_kind_needs_its_whole_record() {
        for (kind, size) in [
            (KIND_EXEC, size_of::<ExecEvent>()),
            (KIND_FORK, size_of::<ProcessEvent>()),
            (KIND_EXIT, size_of::<ExitEvent>()),
            (KIND_RELEASED, size_of::<ExitEvent>()),
            (KIND_MKDIR, size_of::<DirectoryEvent>()),
            (KIND_RMDIR, size_of::<DirectoryEvent>()),
        ] {
            for len in 4..size {
                assert_eq!(decode(&record(kind, len)), None, "kind {kind}, {len} bytes");
            }
            assert!(decode(&record(kind, size)).is_some(), "kind {kind}");
            assert!(decode(&record(kind, size + 8)).is_some(), "kind {kind}, longer");
        }
    }

    #[test]
    fn unknown_kinds_and_scraps_are_nothing() {
        for kind in [0, 7, u32::MAX] {
            assert_eq!(decode(&record(kind, 1024)), None);
        }
        for len in 0..4 {
            assert_eq!(decode(&vec![1; len]), None);
        }
    }

    #[test]
    fn lengths_are_cut_to_their_buffers() {
        let Some(Record::Exec(exec)) = decode(&record(KIND_EXEC, size_of::<ExecEvent>())) else {
            panic!("not an exec record");
        };
        assert_eq!((exec.file_len, exec.argv_len), (FILE_BYTES as u32, ARGV_BYTES as u32));
        let Some(Record::Made(made)) = decode(&record(KIND_MKDIR, size_of::<DirectoryEvent>())) else {
            panic!("not a directory record");
        };
        assert_eq!(made.name_len, NAME_BYTES as u32);
    }

    #[test]
    fn fields_come_back_from_any_alignment() {
        let mut bytes = vec![0u8; size_of::<ExitEvent>() + 1];
        bytes[1..5].copy_from_slice(&KIND_EXIT.to_ne_bytes());
        bytes[9..17].copy_from_slice(&7u64.to_ne_bytes());
        bytes[25..29].copy_from_slice(&42u32.to_ne_bytes());
        let peak = 1 + size_of::<ProcessEvent>() + 10 * 8;
        bytes[peak..peak + 8].copy_from_slice(&99u64.to_ne_bytes());
        let Some(Record::Exit(exit)) = decode(&bytes[1..]) else {
            panic!("not an exit record");
        };
        assert_eq!((exit.process.boot_ns, exit.process.pid, exit.account.peak_rss), (7, 42, 99));
    }
}
