//! Reads one process and takes what it says into its book. In: its directory below `/proc`. Cost: three small files
//! often, two more for each thread that divides its use; the rest by tier, see [`super::Tiers`].

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use procfs::process::{Io, SmapsRollup};
use procfs::{FromBufRead, FromRead};
use rustix::io::Errno;

use super::counters::{CpuNs, IoCounts, Whole};
use super::files::{self, Scratch};
use super::guarded::Guarded;
use super::process_book::ProcessBook;
use super::{Tiers, nominal, parse, threads};

/// Descriptors that are counted or looked at.
const MAX_FDS: usize = 65_536;
/// Arguments beyond this are not looked at.
const ARGUMENT_BYTES: u64 = 16 * 1024;
const ROLLUP_BYTES: u64 = 16 * 1024;
const LONGEST_MEMORY_PAUSE: Duration = Duration::from_secs(3600);

/// What all processes of this host have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    pub tick_ns: u64,
    pub page_bytes: u64,
    /// The size of `/proc/<pid>/fd` is the number of descriptors: since 6.2.
    pub fd_directory_has_size: bool,
    /// Moving packets is done by threads of the VMM: since 6.4. Before, by the kernel's own.
    pub vhost_is_a_thread: bool,
    /// Waiting for block devices is accounted.
    pub has_io_delay: bool,
}

/// How a process is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub tiers: Tiers,
    /// Its threads divide its use: a VMM, or a shim with one inside.
    pub split: bool,
    /// Also what each of its threads uses.
    pub thread_detail: bool,
    /// Its arguments tell the VM's memory.
    pub tells_memory: bool,
    /// One that it may have waited for is gone, and nobody told yet what it had used: its I/O may be in this one's.
    pub skips_io: bool,
}

/// One process's directory, and what it is read with.
pub(super) struct Reading<'a> {
    pub kernel: &'a Kernel,
    pub guarded: &'a Guarded,
    pub directory: BorrowedFd<'a>,
    pub scratch: &'a mut Scratch,
    /// After counting a process's pages, so many times as long they are not counted.
    pub memory_pause: u32,
}

impl Reading<'_> {
    /// `Errno::SRCH` when it has ended, or is another one by now. Whatever else cannot be read is left out.
    pub(super) fn take(&mut self, book: &mut ProcessBook, plan: Plan) -> Result<(), Errno> {
        let plan = if book.was_read() { plan } else { Plan { tiers: Tiers::ALL, ..plan } };
        let tick_ns = self.kernel.tick_ns;
        let stat = self.scratch.read(self.directory, "stat")?;
        let stat = parse::parse_stat(stat).filter(|stat| stat.start_ticks == book.start_ticks).ok_or(Errno::SRCH)?;
        let [user, system, guest] =
            [stat.user_ticks, stat.system_ticks, stat.guest_ticks].map(|ticks| ticks.saturating_mul(tick_ns));
        let (minor_faults, major_faults) = (stat.minor_faults, stat.major_faults);
        let is_dead = stat.is_dead();
        book.parent = Some(stat.parent);
        book.gauges.rss_bytes = Some(stat.rss_pages.saturating_mul(self.kernel.page_bytes));
        book.gauges.threads = Some(stat.threads);
        if !is_dead && (plan.split || plan.tiers.sometimes) {
            threads::take(self, book, plan);
        }
        let whole = Whole {
            cpu: CpuNs::of_kernel(user, system, guest),
            minor_faults,
            major_faults,
            io: if plan.skips_io { None } else { self.read_io() },
        };
        book.advance(user.saturating_add(system), &whole);
        if is_dead {
            book.stop();
            return Ok(());
        }
        book.is_running = true;
        if plan.tiers.sometimes {
            self.take_status(book);
        }
        if plan.tiers.rarely {
            self.take_limits(book);
            self.take_memory(book, plan);
            self.take_descriptors(book, plan);
        }
        Ok(())
    }

    fn read_io(&mut self) -> Option<IoCounts> {
        let io = Io::from_buf_read(self.scratch.read(self.directory, "io").ok()?).ok()?;
        Some(IoCounts {
            read_calls: io.syscr,
            write_calls: io.syscw,
            read_bytes: io.read_bytes,
            written_bytes: io.write_bytes,
        })
    }

    fn take_status(&mut self, book: &mut ProcessBook) {
        if let Ok(status) = self.scratch.read(self.directory, "status") {
            let kib = |field| parse::status_number(status, field).map(|kib| kib.saturating_mul(1024));
            book.gauges.swap_bytes = kib("VmSwap");
            book.gauges.page_tables_bytes = kib("VmPTE");
            book.gauges.peak_rss_bytes = kib("VmHWM");
        }
        let count = if self.kernel.fd_directory_has_size {
            files::fd_directory_size(self.directory)
        } else {
            self.scratch.count_fds(self.directory, MAX_FDS)
        };
        book.gauges.open_fds = count.ok();
    }

    fn take_limits(&mut self, book: &mut ProcessBook) {
        let limits = self.scratch.read(self.directory, "limits").ok();
        book.gauges.max_fds = limits.and_then(parse::open_files_limit);
    }

    /// What its descriptors show: virtual CPUs, and how the guest's network is attached.
    fn take_descriptors(&mut self, book: &mut ProcessBook, plan: Plan) {
        if !plan.split {
            return;
        }
        let (mut vcpus, mut has_macvtap) = (0, false);
        let looked = self.scratch.for_each_fd(self.directory, MAX_FDS, |target| {
            vcpus += u64::from(target.starts_with(b"anon_inode:kvm-vcpu:"));
            has_macvtap |= is_macvtap(target);
        });
        book.gauges.vcpu_fds = looked.is_ok().then_some(vcpus).filter(|&count| count > 0);
        book.gauges.has_macvtap = has_macvtap;
    }

    /// What waits for the process's memory.
    fn take_memory(&mut self, book: &mut ProcessBook, plan: Plan) {
        if book.memory_after.is_none_or(|after| Instant::now() >= after) {
            let file = files::open_file(self.directory, "smaps_rollup").ok();
            let read = file.and_then(|file| self.guarded.read(move || Some(read_rollup(File::from(file)))));
            let (pss, private, took) = read.unwrap_or((None, None, LONGEST_MEMORY_PAUSE));
            (book.gauges.pss_bytes, book.gauges.private_bytes) = (pss, private);
            book.gauges.rss_at_pss_bytes = book.gauges.rss_bytes;
            let pause = took.saturating_mul(self.memory_pause).min(LONGEST_MEMORY_PAUSE);
            book.memory_after = Instant::now().checked_add(pause);
        }
        if plan.tells_memory && !book.arguments_read {
            book.arguments_read = true;
            let file = files::open_file(self.directory, "cmdline").ok();
            let read = |file: File| nominal::parse(&read_capped(file, ARGUMENT_BYTES)?);
            book.gauges.memory_nominal_bytes = file.and_then(|file| self.guarded.read(move || read(File::from(file))));
        }
    }
}

/// `/dev/tap<number>`: a macvtap's own device. Other taps are `/dev/net/tun`.
fn is_macvtap(target: &[u8]) -> bool {
    target.strip_prefix(b"/dev/tap").is_some_and(|rest| parse::parse_number(rest).is_some())
}

fn read_capped(file: File, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1024);
    file.take(limit).read_to_end(&mut bytes).ok().map(|_| bytes)
}

/// Proportional and private bytes, and how long the kernel took to count them.
fn read_rollup(file: File) -> (Option<u64>, Option<u64>, Duration) {
    let started = Instant::now();
    let bytes = read_capped(file, ROLLUP_BYTES).unwrap_or_default();
    let took = started.elapsed();
    let maps = SmapsRollup::from_read(bytes.as_slice()).map(|rollup| rollup.memory_map_rollup.0).unwrap_or_default();
    let sum = |names: &[&str]| {
        let map = &maps.first()?.extension.map;
        names.iter().map(|&name| map.get(name).copied()).sum::<Option<u64>>()
    };
    (sum(&["Pss"]), sum(&["Private_Clean", "Private_Dirty"]), took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_counted_where_there_are_any() {
        let (pss, private, _) = read_rollup(File::open("/proc/self/smaps_rollup").unwrap());
        assert!(pss >= private && private.unwrap() > 100_000);
        let (pss, private, _) = read_rollup(File::open("/dev/null").unwrap());
        assert_eq!((pss, private), (None, None));
    }

    #[test]
    fn only_a_macvtap_has_a_device_of_its_own() {
        assert!(is_macvtap(b"/dev/tap17"));
        assert!(!is_macvtap(b"/dev/net/tun") && !is_macvtap(b"/dev/tap") && !is_macvtap(b"/dev/tapes/1"));
    }
}
