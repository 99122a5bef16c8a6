//! Opens a program that only root can have put where it is.
//!
//! Every directory on the way, every link and the file itself must be root's and writable by nobody else. Each name
//! is opened once, by the descriptor of its directory, so that nothing can be exchanged between look and use.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, Stat};

/// As the kernel itself follows.
const MAX_LINKS: usize = 40;
const MAX_NAMES: usize = 256;

const FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// `path` as a process sees it whose root is `root`; the descriptor can be executed, and nothing else.
pub fn open(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    // The root itself is a link of procfs that may be followed.
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut walk = Walk { folders: vec![root], names: VecDeque::new(), links: 0 };
    walk.check(&rustix::fs::fstat(walk.here())?)?;
    walk.ahead(path)?;
    while let Some(name) = walk.names.pop_front() {
        if let Some(file) = walk.step(&name)? {
            return Ok(file);
        }
    }
    Err(refused("it is a directory"))
}

struct Walk {
    /// From the root to where we are.
    folders: Vec<OwnedFd>,
    names: VecDeque<OsString>,
    links: usize,
}

impl Walk {
    fn here(&self) -> std::os::fd::BorrowedFd<'_> {
        self.folders[self.folders.len() - 1].as_fd()
    }

    /// Puts the names of `path` before those that remain; an absolute path begins at the root again.
    fn ahead(&mut self, path: &Path) -> io::Result<()> {
        for part in path.components().rev() {
            match part {
                Component::Normal(name) => self.names.push_front(name.to_owned()),
                Component::ParentDir => self.names.push_front("..".into()),
                Component::RootDir => self.folders.truncate(1),
                Component::CurDir | Component::Prefix(_) => {}
            }
        }
        if self.names.len() > MAX_NAMES { Err(refused("the path is too long")) } else { Ok(()) }
    }

    /// `Some`: the end of the path.
    fn step(&mut self, name: &OsStr) -> io::Result<Option<OwnedFd>> {
        if name == ".." {
            self.folders.truncate((self.folders.len() - 1).max(1));
            return Ok(None);
        }
        let entry = rustix::fs::openat(self.here(), name, FLAGS, Mode::empty())?;
        let stat = rustix::fs::fstat(&entry)?;
        self.check(&stat)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.folders.push(entry),
            FileType::Symlink if self.links < MAX_LINKS => {
                self.links += 1;
                let target = rustix::fs::readlinkat(&entry, "", Vec::new())?;
                self.ahead(Path::new(&OsString::from_vec(target.into_bytes())))?;
            }
            FileType::RegularFile if self.names.is_empty() => return Ok(Some(entry)),
            _ => return Err(refused("it is no regular file")),
        }
        Ok(None)
    }

    fn check(&self, stat: &Stat) -> io::Result<()> {
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        if stat.st_uid != 0 {
            return Err(refused("not only root's on the way to it"));
        }
        // The mode of a link means nothing.
        if !is_link && stat.st_mode & 0o022 != 0 {
            return Err(refused("others than root can write on the way to it"));
        }
        Ok(())
    }
}

fn refused(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    /// A root of its own: a temporary directory lies below one that everybody can write to.
    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("opt/kata/bin")).unwrap();
        fs::write(root.path().join("opt/kata/bin/shim"), "").unwrap();
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        root
    }

    fn inode(root: &Path, path: &str) -> io::Result<u64> {
        Ok(rustix::fs::fstat(open(root, Path::new(path))?)?.st_ino)
    }

    #[test]
    fn links_are_followed_within_the_root_only() {
        let root = root();
        let expected = fs::metadata(root.path().join("opt/kata/bin/shim")).unwrap().ino();
        symlink("/opt/kata/bin/shim", root.path().join("usr/bin/absolute")).unwrap();
        symlink("../../../../../opt/kata/bin/shim", root.path().join("usr/bin/relative")).unwrap();
        symlink("usr/bin", root.path().join("bin")).unwrap();
        for path in ["/opt/kata/bin/shim", "/usr/bin/absolute", "/bin/relative", "/opt/../bin/absolute"] {
            assert_eq!(inode(root.path(), path).unwrap(), expected, "{path}");
        }
        symlink("loop", root.path().join("usr/bin/loop")).unwrap();
        for path in ["/usr/bin/loop", "/opt/kata", "/nothing", "/opt/kata/bin/shim/x", "/"] {
            assert!(inode(root.path(), path).is_err(), "{path}");
        }
    }

    #[test]
    fn whoever_else_could_write_or_owns_is_not_trusted() {
        let (root, path) = (root(), "/opt/kata/bin/shim");
        let mode = |what: &str, mode| {
            fs::set_permissions(root.path().join(what), fs::Permissions::from_mode(mode)).unwrap();
        };
        for what in ["opt/kata/bin/shim", "opt/kata", "opt"] {
            mode(what, 0o777);
            assert!(inode(root.path(), path).is_err(), "{what} can be written to");
            mode(what, 0o755);
            chown(root.path().join(what), Some(1000), None).unwrap();
            assert!(inode(root.path(), path).is_err(), "{what} is a user's");
            chown(root.path().join(what), Some(0), None).unwrap();
            assert!(inode(root.path(), path).is_ok());
        }
        symlink(path, root.path().join("usr/bin/link")).unwrap();
        std::os::unix::fs::lchown(root.path().join("usr/bin/link"), Some(1000), None).unwrap();
        assert!(inode(root.path(), "/usr/bin/link").is_err());
        assert!(open(Path::new("/"), Path::new("/tmp/x")).is_err(), "everybody can write to /tmp");
    }
}
