//! mkdir and rmdir below a base, in every way that a runtime might do it, and forged.

use std::{
    fs::File,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use kata_pulse_probe::ebpf::{EbpfWatch, KernelEvent, base_key};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, Mode, mkdirat, unlinkat};

use crate::{
    child::FLAG,
    io_uring,
    report::{Report, arrivals},
};

/// A sandbox id as containerd makes it.
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const BASE: u32 = 5;

pub async fn check(watch: &mut EbpfWatch, place: &Path, by_text: bool, no_btf: bool, report: &mut Report) {
    let base = match watched_base(watch, place) {
        Ok(base) => base,
        Err(error) => return report.check("watch a base", Err(error)),
    };
    report.check("absolute path", both(watch, CWD, CWD, &base.join(ID), &base.join(ID)).await);
    let slashes = PathBuf::from(format!("//{}", base.join(ID).display()));
    report.check("three leading slashes", both(watch, CWD, CWD, &slashes, &base.join(ID)).await);
    if no_btf {
        let reason = "which directory a descriptor is, only BTF tells; inotify and the scan see it";
        report.skip("relative to a descriptor", reason);
        report.skip("removed as Go does", reason);
    } else {
        report.check("relative to a descriptor", relative(watch, &base).await);
        report.check("removed as Go does", go(watch, &base).await);
    }
    report.check("failures and files are not reported", failures(watch, &base).await);
    report.check("forged in another mount namespace", forged(watch, &base, by_text).await);
    if by_text {
        let text = "text of a path is all that a system call's arguments give";
        report.skip("inner slashes and dots", text);
        match by_io_uring(watch, &base).await {
            Ok(()) => report.check("io_uring: not by tracepoints, by inotify", Ok(())),
            Err(error) if io_uring::is_missing(&error) => report.skip("io_uring", &format!("{error:#}")),
            Err(error) => report.check("io_uring: not by tracepoints, by inotify", Err(error)),
        }
        return;
    }
    let odd = PathBuf::from(format!("/{}/.//{ID}", base.display()));
    report.check("inner slashes and dots", both(watch, CWD, CWD, &odd, &base.join(ID)).await);
    match io_uring::mkdir(&base.join(ID)).and_then(|()| io_uring::rmdir(&base.join(ID))) {
        Ok(()) => report.check("io_uring", expect_both(watch).await),
        Err(error) if io_uring::is_missing(&error) => report.skip("io_uring", &format!("{error:#}")),
        Err(error) => report.check("io_uring", Err(error)),
    }
    report.check("a base that is no longer watched", unwatched(watch, &base).await);
}

/// System call tracepoints see nothing of it; inotify, which runs beside every rung, does.
async fn by_io_uring(watch: &mut EbpfWatch, base: &Path) -> anyhow::Result<()> {
    let notices = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    inotify::add_watch(&notices, base, WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR)?;
    io_uring::mkdir(&base.join(ID))?;
    io_uring::rmdir(&base.join(ID))?;
    let events = arrivals(watch).await;
    ensure!(names(&events).is_empty(), "seen after all: {events:?}");
    let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
    let mut reader = inotify::Reader::new(&notices, &mut buffer);
    for expected in [ReadFlags::CREATE, ReadFlags::DELETE] {
        let notice = reader.next().context("inotify said nothing")?;
        let named = notice.file_name().is_some_and(|name| name.to_bytes() == ID.as_bytes());
        ensure!(named && notice.events().contains(expected), "{notice:?}");
    }
    Ok(())
}

fn watched_base(watch: &EbpfWatch, place: &Path) -> anyhow::Result<PathBuf> {
    let base = place.join("base");
    std::fs::create_dir(&base)?;
    let (device, inode) = base_key(&base)?;
    watch.watch_base(BASE, device, inode, &base)?;
    Ok(base)
}

fn names(events: &[KernelEvent]) -> Vec<(&'static str, String)> {
    let of = events.iter().filter_map(|event| match event {
        KernelEvent::DirectoryMade(found) => Some(("made", found)),
        KernelEvent::DirectoryRemoved(found) => Some(("removed", found)),
        _ => None,
    });
    let ours = of.filter(|(_, found)| found.base_index == BASE);
    ours.map(|(what, found)| (what, String::from_utf8_lossy(&found.name).into_owned())).collect()
}

async fn expect_both(watch: &mut EbpfWatch) -> anyhow::Result<()> {
    let events = arrivals(watch).await;
    let expected = [("made", ID.to_owned()), ("removed", ID.to_owned())];
    ensure!(names(&events) == expected, "{events:?}");
    Ok(())
}

async fn both(
    watch: &mut EbpfWatch,
    make_at: impl AsFd,
    remove_at: impl AsFd,
    make: &Path,
    remove: &Path,
) -> anyhow::Result<()> {
    mkdirat(make_at, make, Mode::RWXU)?;
    unlinkat(remove_at, remove, AtFlags::REMOVEDIR)?;
    expect_both(watch).await
}

async fn relative(watch: &mut EbpfWatch, base: &Path) -> anyhow::Result<()> {
    let directory = File::open(base)?;
    both(watch, &directory, &directory, Path::new(ID), Path::new(ID)).await
}

/// By mkdir(2) and, after a vain unlink, relative to the parent.
async fn go(watch: &mut EbpfWatch, base: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(base.join(ID))?;
    std::fs::create_dir(base.join(ID).join("inner"))?;
    let vain = unlinkat(CWD, base.join(ID), AtFlags::REMOVEDIR);
    ensure!(vain.is_err(), "a directory that is not empty was removed");
    std::fs::remove_dir(base.join(ID).join("inner"))?;
    let directory = File::open(base)?;
    unlinkat(&directory, ID, AtFlags::REMOVEDIR)?;
    expect_both(watch).await
}

async fn failures(watch: &mut EbpfWatch, base: &Path) -> anyhow::Result<()> {
    File::create(base.join("file"))?;
    ensure!(std::fs::create_dir(base.join("file")).is_err(), "made over a file");
    ensure!(std::fs::remove_dir(base.join("file")).is_err(), "a file removed as a directory");
    std::fs::remove_file(base.join("file"))?;
    let events = arrivals(watch).await;
    ensure!(names(&events).is_empty(), "{events:?}");
    Ok(())
}

async fn forged(watch: &mut EbpfWatch, base: &Path, by_text: bool) -> anyhow::Result<()> {
    let before = watch.counters().rejected_foreign;
    let path = base.to_str().context("the path is text")?;
    let mut command = Command::new(std::env::current_exe()?);
    let status = command.args([FLAG, "forge-mkdir", path, "victim"]).status()?;
    ensure!(status.success(), "the forger failed: {status}");
    let events = arrivals(watch).await;
    let rejected = watch.counters().rejected_foreign - before;
    if by_text && rejected == 0 {
        // Without BTF the origin is not known beyond the pid namespace: nothing to hold against it.
        ensure!(
            !watch.programs().iter().any(|program| program.attached && program.hook.starts_with("tp_btf")),
            "not counted"
        );
        return Ok(());
    }
    ensure!(names(&events).is_empty(), "believed: {events:?}");
    Ok(())
}

async fn unwatched(watch: &mut EbpfWatch, base: &Path) -> anyhow::Result<()> {
    let (device, inode) = base_key(base)?;
    watch.unwatch_base(device, inode, base)?;
    watch.unwatch_base(device, inode, base).context("twice is no error")?;
    std::fs::create_dir(base.join(ID))?;
    std::fs::remove_dir(base.join(ID))?;
    let events = arrivals(watch).await;
    ensure!(names(&events).is_empty(), "{events:?}");
    Ok(())
}
