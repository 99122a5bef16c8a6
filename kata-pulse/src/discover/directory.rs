//! Base directories and what lies below them. Which entry is a sandbox is decided by name and type alone.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{BaseDirectory, HostPaths};
use crate::sandbox::{Appeared, Runtime, SandboxId};

/// Entries of one base directory are not read without end.
const MAX_ENTRIES: usize = 20_000;

/// The id, if a directory of this name below this base can be a sandbox.
pub fn sandbox_name(base: &BaseDirectory, raw: &[u8]) -> Option<SandboxId> {
    let id = SandboxId::parse(std::str::from_utf8(raw).ok()?).ok()?;
    // runtime-rs keeps the jails of Firecracker beside the sandboxes.
    if base.runtime != Some(Runtime::Go) && id.as_str() == "firecracker" {
        return None;
    }
    // The Go runtime's VM factory keeps virtual machines that are nobody's yet, named by UUID.
    if base.runtime != Some(Runtime::Rust) && is_uuid(id.as_str()) {
        return None;
    }
    Some(id)
}

fn is_uuid(name: &str) -> bool {
    name.len() == 36
        && name.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Looks at one entry, and when the file system says it was made: `None` if it is gone or no directory of its own.
pub fn look(base: &BaseDirectory, id: SandboxId) -> Option<(Appeared, Option<SystemTime>)> {
    let directory = HostPaths::sandbox_directory(base, &id);
    let metadata = std::fs::symlink_metadata(&directory).ok().filter(std::fs::Metadata::is_dir)?;
    let created = metadata.created().ok();
    let created_unix_ms = created
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .and_then(|age| u64::try_from(age.as_millis()).ok());
    let appeared = Appeared { id, directory, inode: metadata.ino(), runtime: base.runtime, created_unix_ms };
    Some((appeared, created))
}

/// All sandboxes below a base; a base that does not exist has none.
pub fn read_base(base: &BaseDirectory) -> io::Result<Vec<Appeared>> {
    let entries = match std::fs::read_dir(&base.path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries.take(MAX_ENTRIES) {
        if let Some(id) = sandbox_name(base, entry?.file_name().as_bytes()) {
            found.extend(look(base, id).map(|(appeared, _)| appeared));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(runtime: Option<Runtime>) -> BaseDirectory {
        BaseDirectory { runtime, path: "/nowhere".into() }
    }

    #[test]
    fn entries_that_are_no_sandboxes_are_told_by_name() {
        let uuid = b"12345678-1234-1234-1234-123456789abc";
        assert_eq!(sandbox_name(&base(Some(Runtime::Rust)), b"firecracker"), None);
        assert_eq!(sandbox_name(&base(Some(Runtime::Go)), uuid), None);
        assert_eq!(sandbox_name(&base(None), uuid), None);
        assert_eq!(sandbox_name(&base(None), b"firecracker"), None);
        assert!(sandbox_name(&base(Some(Runtime::Rust)), uuid).is_some(), "ctr run --name takes any id");
        assert!(sandbox_name(&base(Some(Runtime::Go)), b"my-sandbox").is_some());
        assert_eq!(sandbox_name(&base(Some(Runtime::Go)), b".hidden"), None);
        assert_eq!(sandbox_name(&base(Some(Runtime::Go)), b"\xff\xfe"), None);
    }

    #[test]
    fn files_and_links_are_no_sandboxes_and_a_missing_base_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let base = BaseDirectory { runtime: Some(Runtime::Go), path: folder.path().join("sbs") };
        assert_eq!(read_base(&base).unwrap(), []);
        std::fs::create_dir_all(base.path.join("real-one")).unwrap();
        std::fs::write(base.path.join("a-file"), "").unwrap();
        std::os::unix::fs::symlink("/tmp", base.path.join("a-link")).unwrap();
        let found = read_base(&base).unwrap();
        assert_eq!(found.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["real-one"]);
        assert!(found[0].inode > 0);
    }
}
