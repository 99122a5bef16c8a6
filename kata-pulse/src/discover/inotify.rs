//! Watches base directories, also those that do not exist yet, and the files of each sandbox.
//!
//! Sees creation and removal by whatever spelling, descriptor or io_uring. A container cannot forge these notices:
//! the watch is on the host's own directory. An overflow is reported, and answered with a scan.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use super::descriptor;
use crate::sandbox::SandboxId;

/// What was noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Made {
        base: usize,
        name: Vec<u8>,
    },
    Removed {
        base: usize,
        name: Vec<u8>,
    },
    /// A socket or state file came or changed.
    Files(SandboxId),
    /// The base directory came into being, or went away and its watch with it: read it.
    BaseChanged(usize),
    /// The kernel dropped notices: read everything.
    Overflow,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Base(usize),
    /// The nearest existing directory above a base that does not exist yet.
    Above(usize),
    Sandbox(SandboxId),
}

/// The inotify instance and who is watched by it.
#[derive(Debug)]
pub struct Watcher {
    instance: AsyncFd<OwnedFd>,
    subjects: HashMap<i32, Vec<Subject>>,
    sandboxes: HashMap<SandboxId, i32>,
    bases: Vec<Base>,
}

#[derive(Debug)]
struct Base {
    path: PathBuf,
    watched: bool,
}

const BASE_EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::MASK_ADD);

/// Above a base only what comes into being counts: everybody makes directories in `/run`.
const ABOVE_EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::MASK_ADD);

const SANDBOX_EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::DONT_FOLLOW)
    .union(WatchFlags::MASK_ADD);

impl Watcher {
    /// Must be called inside the runtime. The bases are not watched yet: [`Watcher::arm`] does that.
    pub fn new(bases: impl IntoIterator<Item = PathBuf>) -> io::Result<Self> {
        let instance = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self {
            instance: descriptor::register(instance)?,
            subjects: HashMap::new(),
            sandboxes: HashMap::new(),
            bases: bases.into_iter().map(|path| Base { path, watched: false }).collect(),
        })
    }

    /// Watches every base that is not watched yet, or what is above it. Returns the bases that are watched from now
    /// on: what was made in them before is the caller's to read.
    pub fn arm(&mut self) -> Vec<usize> {
        (0..self.bases.len()).filter(|&index| !self.bases[index].watched && self.arm_base(index)).collect()
    }

    fn arm_base(&mut self, index: usize) -> bool {
        let path = self.bases[index].path.clone();
        // A component may come into being between looking and watching: so look again after each watch.
        for _ in 0..16 {
            if let Ok(watch) = inotify::add_watch(&self.instance, &path, BASE_EVENTS) {
                self.add_subject(watch, Subject::Base(index));
                self.bases[index].watched = true;
                self.leave_above(index, watch);
                return true;
            }
            let Some(above) = nearest_existing(&path) else { return false };
            let Ok(watch) = inotify::add_watch(&self.instance, &above, ABOVE_EVENTS) else { continue };
            self.add_subject(watch, Subject::Above(index));
            self.leave_above(index, watch);
            if nearest_existing(&path).as_deref() == Some(&above) && !path.is_dir() {
                return false;
            }
        }
        false
    }

    /// Ends the watches above a base but for `nearest`, which tells by itself when it goes: what others make up there
    /// could overflow the queue.
    fn leave_above(&mut self, base: usize, nearest: i32) {
        let instance = &self.instance;
        self.subjects.retain(|&watch, subjects| {
            if watch != nearest {
                subjects.retain(|subject| *subject != Subject::Above(base));
            }
            if subjects.is_empty() {
                // Fails when the directory is gone, which ended the watch by itself.
                let _ = inotify::remove_watch(instance, watch);
            }
            !subjects.is_empty()
        });
    }

    /// Watches the files of a sandbox. Best effort: the scan sees them too.
    pub fn watch_sandbox(&mut self, id: &SandboxId, directory: &Path) {
        if let Ok(watch) = inotify::add_watch(&self.instance, directory, SANDBOX_EVENTS) {
            self.add_subject(watch, Subject::Sandbox(id.clone()));
            self.sandboxes.insert(id.clone(), watch);
        }
    }

    pub fn forget_sandbox(&mut self, id: &SandboxId) {
        if let Some(watch) = self.sandboxes.remove(id) {
            self.subjects.remove(&watch);
            // Fails when the directory is gone, which ended the watch by itself.
            let _ = inotify::remove_watch(&self.instance, watch);
        }
    }

    fn add_subject(&mut self, watch: i32, subject: Subject) {
        let subjects = self.subjects.entry(watch).or_default();
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }

    /// Waits for notices and adds those that are there to `out`. Cancel safe.
    pub async fn next_batch(&mut self, out: &mut Vec<Notice>) -> io::Result<()> {
        loop {
            let mut ready = self.instance.readable().await?;
            let events = match read_events(self.instance.get_ref()) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    continue;
                }
                Err(error) => return Err(error),
            };
            drop(ready);
            for event in events {
                self.translate(event, out);
            }
            if !out.is_empty() {
                return Ok(());
            }
        }
    }

    fn translate(&mut self, event: Raw, out: &mut Vec<Notice>) {
        if event.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            out.push(Notice::Overflow);
            return;
        }
        let Some(subjects) = self.subjects.get(&event.watch).cloned() else { return };
        if event.flags.intersects(ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
            self.watch_ended(event.watch, &subjects, out);
            return;
        }
        let directory = event.flags.contains(ReadFlags::ISDIR);
        let made = event.flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
        for subject in subjects {
            match subject {
                Subject::Base(base) if directory && made => out.push(Notice::Made { base, name: event.name.clone() }),
                Subject::Base(base) if directory => out.push(Notice::Removed { base, name: event.name.clone() }),
                Subject::Above(base) if made && !self.bases[base].watched && self.arm_base(base) => {
                    out.push(Notice::BaseChanged(base));
                }
                Subject::Sandbox(id) if is_state(&event.name) => out.push(Notice::Files(id)),
                _ => {}
            }
        }
    }

    fn watch_ended(&mut self, watch: i32, subjects: &[Subject], out: &mut Vec<Notice>) {
        self.subjects.remove(&watch);
        // A moved directory would go on being watched under its old name.
        let _ = inotify::remove_watch(&self.instance, watch);
        for subject in subjects {
            match subject {
                Subject::Base(base) | Subject::Above(base) => {
                    self.bases[*base].watched = false;
                    self.arm_base(*base);
                    out.push(Notice::BaseChanged(*base));
                }
                Subject::Sandbox(id) => {
                    self.sandboxes.remove(id);
                }
            }
        }
    }
}

fn is_state(name: &[u8]) -> bool {
    matches!(name, b"shim-monitor.sock" | b"persist.json" | b"state.json")
}

fn nearest_existing(path: &Path) -> Option<PathBuf> {
    path.ancestors().skip(1).find(|above| above.is_dir()).map(Path::to_path_buf)
}

struct Raw {
    watch: i32,
    flags: ReadFlags,
    name: Vec<u8>,
}

fn read_events(instance: &OwnedFd) -> io::Result<Vec<Raw>> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 16 * 1024];
    let mut reader = inotify::Reader::new(instance, &mut buffer);
    let mut events = Vec::new();
    loop {
        let event = reader.next()?;
        let name = event.file_name().map(|name| name.to_bytes().to_vec()).unwrap_or_default();
        events.push(Raw { watch: event.wd(), flags: event.events(), name });
        if reader.is_buffer_empty() {
            return Ok(events);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(watcher: &mut Watcher) -> Vec<Notice> {
        let mut notices = Vec::new();
        watcher.next_batch(&mut notices).await.unwrap();
        notices
    }

    #[tokio::test]
    async fn a_base_that_appears_later_is_watched_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("run/vc/sbs");
        let mut watcher = Watcher::new([base.clone()]).unwrap();
        assert_eq!(watcher.arm(), Vec::<usize>::new());
        std::fs::create_dir_all(&base).unwrap();
        assert_eq!(next(&mut watcher).await, [Notice::BaseChanged(0)]);
        std::fs::create_dir(base.join("one")).unwrap();
        assert_eq!(next(&mut watcher).await, [Notice::Made { base: 0, name: b"one".to_vec() }]);
        std::fs::remove_dir(base.join("one")).unwrap();
        assert_eq!(next(&mut watcher).await, [Notice::Removed { base: 0, name: b"one".to_vec() }]);
    }

    #[tokio::test]
    async fn a_base_that_is_removed_and_made_anew_is_watched_again() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("kata");
        std::fs::create_dir(&base).unwrap();
        let mut watcher = Watcher::new([base.clone()]).unwrap();
        assert_eq!(watcher.arm(), [0]);
        std::fs::remove_dir(&base).unwrap();
        assert!(next(&mut watcher).await.contains(&Notice::BaseChanged(0)));
        std::fs::create_dir(&base).unwrap();
        while !next(&mut watcher).await.contains(&Notice::BaseChanged(0)) {}
        std::fs::create_dir(base.join("two")).unwrap();
        assert_eq!(next(&mut watcher).await, [Notice::Made { base: 0, name: b"two".to_vec() }]);
    }

    /// The base's own watch tells when it goes; nothing above it is watched any more.
    #[tokio::test]
    async fn what_others_make_above_a_base_that_exists_cannot_overflow_the_queue() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let base = folder.path().join("vc/sbs");
        let mut watcher = Watcher::new([base.clone()]).unwrap();
        assert_eq!(watcher.arm(), Vec::<usize>::new());
        std::fs::create_dir_all(&base).unwrap();
        assert_eq!(next(&mut watcher).await, [Notice::BaseChanged(0)]);
        let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let unrelated = folder.path().join("x");
        for _ in 0..limit.trim().parse::<usize>().unwrap().min(200_000) / 2 + 1 {
            std::fs::create_dir(&unrelated).unwrap();
            std::fs::remove_dir(&unrelated).unwrap();
        }
        std::fs::create_dir(base.join("one")).unwrap();
        assert_eq!(next(&mut watcher).await, [Notice::Made { base: 0, name: b"one".to_vec() }]);
        std::fs::remove_dir_all(folder.path().join("vc")).unwrap();
        while !next(&mut watcher).await.contains(&Notice::BaseChanged(0)) {}
        std::fs::create_dir_all(&base).unwrap();
        while !next(&mut watcher).await.contains(&Notice::BaseChanged(0)) {}
        std::fs::create_dir(base.join("two")).unwrap();
        assert_eq!(next(&mut watcher).await, [Notice::Made { base: 0, name: b"two".to_vec() }]);
    }

    #[tokio::test]
    async fn socket_and_state_files_are_noticed_and_files_in_the_base_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let id = SandboxId::parse("one").unwrap();
        let sandbox = folder.path().join("one");
        std::fs::create_dir(&sandbox).unwrap();
        let mut watcher = Watcher::new([folder.path().to_path_buf()]).unwrap();
        assert_eq!(watcher.arm(), [0]);
        watcher.watch_sandbox(&id, &sandbox);
        std::fs::write(folder.path().join("a-file"), "").unwrap();
        std::fs::write(sandbox.join("other"), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(sandbox.join("shim-monitor.sock")).unwrap();
        assert_eq!(next(&mut watcher).await, [Notice::Files(id)]);
    }
}
