//! Directories made and removed by io_uring, which no system call tracepoint sees. An error: this kernel offers none.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;
use io_uring::{IoUring, opcode, squeue, types::Fd};

const AT_REMOVEDIR: i32 = 0x200;
/// Paths are absolute.
const NO_DIRECTORY: Fd = Fd(libc::AT_FDCWD);

/// By IORING_OP_MKDIRAT.
pub fn mkdir(path: &Path) -> anyhow::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    run(opcode::MkDirAt::new(NO_DIRECTORY, path.as_ptr()).mode(0o750).build())
}

/// By IORING_OP_UNLINKAT.
pub fn rmdir(path: &Path) -> anyhow::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    run(opcode::UnlinkAt::new(NO_DIRECTORY, path.as_ptr()).flags(AT_REMOVEDIR).build())
}

/// This kernel, or its administrator, offers no io_uring.
pub fn is_missing(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    matches!(code, Some(libc::ENOSYS | libc::EPERM | libc::EINVAL))
}

/// Runs one operation and waits for it.
#[expect(unsafe_code, reason = "the kernel reads what the entry points to")]
fn run(entry: squeue::Entry) -> anyhow::Result<()> {
    let mut ring = IoUring::new(2).context("io_uring_setup")?;
    // SAFETY: the one pointer in the entry is to a string of the caller, who waits here until the kernel is done.
    unsafe { ring.submission().push(&entry) }.context("the ring is full")?;
    ring.submit_and_wait(1).context("io_uring_enter")?;
    let result = ring.completion().next().context("no completion")?.result();
    if result < 0 { Err(std::io::Error::from_raw_os_error(-result).into()) } else { Ok(()) }
}
