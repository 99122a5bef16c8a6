//! Block I/O of processes on a real disk: bytes written past the page cache exactly, through it as far as they can be
//! attributed at all.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::process::{Command, Stdio};
use std::time::Instant;

use io_uring::{IoUring, opcode, types::Fd};
use kata_pulse::collect::kernel::{BlockReading, Hidden, KernelOptions, KernelReading, KernelView, ProgramGroup, Slot};
use kata_pulse::sandbox::{HostRole, Pid};

use crate::{own_pid, skip, start_ticks, until, view};

const SIZE: usize = 4 << 20;
const PIECE: usize = 4096;

#[repr(align(4096))]
struct Aligned([u8; PIECE]);

/// A file whose blocks are all allocated and written, on a disk; its name is gone with it.
fn file_on_disk() -> Option<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    if rustix::fs::major(file.as_file().metadata().unwrap().dev()) == 0 {
        skip("/var/tmp is on no disk");
        return None;
    }
    file.write_all(&vec![1; SIZE]).unwrap();
    file.as_file().sync_all().unwrap();
    Some(file)
}

/// dd with these words, watched from before it begins; what the kernel counted of it.
fn dd(view: &KernelView, file: &tempfile::NamedTempFile, words: &str) -> (Slot, KernelReading) {
    let command = format!("read go; exec dd if=/dev/zero of={} {words} status=none", file.path().display());
    let mut child = Command::new("sh").args(["-c", &command]).stdin(Stdio::piped()).spawn().unwrap();
    let (slot, pid) = (view.open(), Pid(child.id()));
    view.watch(slot, pid, start_ticks(pid), HostRole::Vmm).unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert!(child.wait().unwrap().success());
    view.forget_process(slot, pid);
    (slot, view.read(slot).unwrap())
}

fn written(reading: &KernelReading) -> Option<&BlockReading> {
    reading.block.iter().find(|block| block.operation == "write")
}

/// As the whole host names it, without a partition's number.
fn disk_of(file: &File) -> String {
    let device = file.metadata().unwrap().dev();
    let link = format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let place = std::fs::canonicalize(link).unwrap();
    let disk = if place.join("partition").exists() { place.parent().unwrap() } else { &place };
    disk.file_name().unwrap().to_string_lossy().into_owned()
}

/// Both ways of learning it: by requests, and by pieces as kernels before 6.5 tell them.
fn views() -> Option<Vec<(&'static str, KernelView)>> {
    let requests = view(ProgramGroup::Block)?;
    let hide = Hidden { tracepoints: vec!["block:block_io_start"], ..Hidden::default() };
    let pieces =
        KernelView::start(&KernelOptions { programs: [ProgramGroup::Block].into(), hide, ..Default::default() });
    assert!(pieces.has(ProgramGroup::Block), "{:?}", pieces.programs());
    Some(vec![("by requests", requests), ("by pieces", pieces)])
}

#[test]
fn bytes_are_attributed_exactly_past_the_page_cache_and_with_fsync_but_not_at_writeback() {
    let Some(views) = views() else { return };
    for (how, view) in views {
        let Some(file) = file_on_disk() else { return };
        let (slot, reading) = dd(&view, &file, "bs=64k count=64 oflag=direct conv=notrunc");
        let block = written(&reading).unwrap();
        assert_eq!((block.device.as_str(), block.bytes), (disk_of(file.as_file()).as_str(), SIZE as u64), "{how}");
        // Another program's interrupt may hide an end from a plain tracepoint.
        let timed = block.latency.count();
        assert!(
            block.requests >= 64 && timed > block.requests / 2 && block.latency.sum_seconds > 0.0,
            "{how}: {block:?}"
        );
        let mean = block.latency.sum_seconds / timed as f64 * 1e6;
        println!(
            "{how}: O_DIRECT: {} bytes of {SIZE}, {} requests, {timed} timed, mean {mean:.0} µs",
            block.bytes, block.requests
        );
        assert_eq!(view.free(slot), reading);

        let (_, reading) = dd(&view, &file, "bs=64k count=64 conv=notrunc,fsync");
        let block = written(&reading).unwrap();
        println!("{how}: page cache and fsync: {} bytes of {SIZE}: {:?}", block.bytes, operations(&reading));
        // The host's own writeback may have been first with some of them.
        assert!(block.bytes <= SIZE as u64 + (64 << 10)); // the inode's own block
        assert!(block.bytes >= SIZE as u64 / 2, "{how}: {block:?}");

        let (slot, reading) = dd(&view, &file, "bs=64k count=64 conv=notrunc");
        file.as_file().sync_all().unwrap();
        let after = view.read(slot).unwrap();
        println!(
            "{how}: page cache, written back by another: {:?}, then {:?}",
            operations(&reading),
            operations(&after)
        );
        assert_eq!(written(&after).map_or(0, |block| block.bytes), 0, "{how}");
    }
}

fn operations(reading: &KernelReading) -> Vec<(&str, u64, u64)> {
    reading.block.iter().map(|block| (block.operation, block.bytes, block.requests)).collect()
}

/// What the kernel merges into a request that has begun already is told apart from it.
#[test]
fn writes_that_are_merged_lose_no_bytes() {
    let Some(views) = views() else { return };
    for (how, view) in views {
        let Some(file) = file_on_disk() else { return };
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(file.path()).unwrap();
        let slot = view.open();
        view.watch(slot, own_pid(), start_ticks(own_pid()), HostRole::Vmm).unwrap();
        let mut ring = match IoUring::new(64) {
            Ok(ring) => ring,
            Err(error) => return skip(&format!("io_uring cannot be used: {error}")),
        };
        let data: &'static Aligned = Box::leak(Box::new(Aligned([7; PIECE])));
        for piece in 0..64 {
            let write = opcode::Write::new(Fd(direct.as_raw_fd()), data.0.as_ptr(), PIECE as u32);
            let entry = write.offset((piece * PIECE) as u64).build();
            #[expect(unsafe_code, reason = "the kernel reads the buffer later")]
            // SAFETY: the buffer is never freed, the file is open until all are done.
            unsafe {
                ring.submission().push(&entry).unwrap();
            }
        }
        ring.submit_and_wait(64).unwrap();
        assert!(ring.completion().all(|done| done.result() == PIECE as i32));
        let reading = view.read(slot).unwrap();
        let block = written(&reading).unwrap();
        println!("{how}: 64 adjacent writes in one batch: {} bytes, {} requests", block.bytes, block.requests);
        assert_eq!(block.bytes, 64 * PIECE as u64, "{how}");
    }
}

/// A node of a thousand sandboxes, three roles and one disk each.
#[test]
fn reading_a_thousand_slots_is_cheap() {
    let view = KernelView::start(&KernelOptions::default());
    if !ProgramGroup::ALL.iter().all(|group| view.has(*group)) {
        return skip(&format!("not all programs can be had: {:?}", view.programs()));
    }
    let Some(file) = file_on_disk() else { return };
    let mut direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(file.path()).unwrap();
    let data = Box::new(Aligned([7; PIECE]));
    let slots: Vec<Slot> = (0..1_000)
        .map(|_| {
            let slot = view.open();
            for role in [HostRole::Shim, HostRole::Virtiofsd, HostRole::Vmm] {
                view.watch(slot, own_pid(), start_ticks(own_pid()), role).unwrap();
            }
            direct.seek(SeekFrom::Start(0)).unwrap();
            direct.write_all(&data.0).unwrap();
            slot
        })
        .collect();
    until("the writes of all slots are seen", || view.read_all().values().all(|reading| written(reading).is_some()));
    let begun = Instant::now();
    let all = view.read_all();
    let took = begun.elapsed();
    assert_eq!(all.len(), slots.len());
    assert!(all.values().all(|reading| reading.runqueue.len() == 3));
    let begun = Instant::now();
    let last: u64 = slots.iter().take(100).map(|slot| written(&view.free(*slot)).unwrap().bytes).sum();
    let freed = begun.elapsed() / 100;
    println!("reading 1,000 slots of 3 roles and a disk: {took:?}; freeing one of them: {freed:?} (test build)");
    assert_eq!(last, 100 * PIECE as u64);
    assert_eq!(view.read_all().len(), 900);
    assert!(took.as_millis() < 1_000, "{took:?}");
}
