//! What the kernel's text about one process or thread says. Pure; any bytes are survived.
//!
//! `stat` and `status` are read for every thread, so they are parsed here without allocating, and whatever bytes a
//! process gave itself as a name. The rest is the procfs crate's.

use memchr::memmem;
use procfs::FromRead;

/// What is taken from `stat`, of a process (all its threads, ended ones too) or of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat<'a> {
    pub comm: &'a [u8],
    pub state: u8,
    pub parent: u32,
    pub minor_faults: u64,
    pub major_faults: u64,
    /// With the guest's.
    pub user_ticks: u64,
    pub system_ticks: u64,
    pub guest_ticks: u64,
    /// Of this thread alone, also in a process's file.
    pub io_blocked_ticks: u64,
    pub threads: u64,
    pub start_ticks: u64,
    pub rss_pages: u64,
}

impl Stat<'_> {
    /// Ended, and nobody asked how yet. A leader that ended before its threads looks dead too, and is not.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }
}

pub fn parse_stat(bytes: &[u8]) -> Option<Stat<'_>> {
    let open = memchr::memchr(b'(', bytes)?;
    // The name may hold any byte, parentheses too; what follows it does not.
    let close = memchr::memrchr(b')', bytes)?;
    let comm = bytes.get(open + 1..close)?;
    let mut fields = [&b""[..]; 41];
    let mut words = bytes[close + 1..].split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    for field in &mut fields {
        *field = words.next()?;
    }
    // Fields are numbered as in proc(5); the first after the name is the third.
    let number = |field: usize| parse_number(fields[field - 3]);
    Some(Stat {
        comm,
        state: *fields[0].first()?,
        parent: u32::try_from(number(4)?).ok()?,
        minor_faults: number(10)?,
        major_faults: number(12)?,
        user_ticks: number(14)?,
        system_ticks: number(15)?,
        threads: number(20)?,
        start_ticks: number(22)?,
        rss_pages: number(24)?,
        io_blocked_ticks: number(42)?,
        guest_ticks: number(43)?,
    })
}

/// The number at the start of a field of `status`, in the file's own unit.
pub fn status_number(bytes: &[u8], field: &str) -> Option<u64> {
    let at = memmem::find_iter(bytes, field.as_bytes())
        .find(|&at| (at == 0 || bytes[at - 1] == b'\n') && bytes.get(at + field.len()) == Some(&b':'))?;
    let line = bytes[at + field.len() + 1..].split(|&byte| byte == b'\n').next()?;
    parse_number(line.split(|byte| byte.is_ascii_whitespace()).find(|word| !word.is_empty())?)
}

/// Voluntary and involuntary context switches of one thread.
pub fn switches(status: &[u8]) -> Option<(u64, u64)> {
    // They are the last lines of a long file.
    let tail = &status[memmem::rfind(status, b"\nvoluntary_ctxt_switches:")?..];
    Some((status_number(tail, "voluntary_ctxt_switches")?, status_number(tail, "nonvoluntary_ctxt_switches")?))
}

/// The soft limit of open descriptors; `None` if there is none.
pub fn open_files_limit(limits: &[u8]) -> Option<u64> {
    let line = limits.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Max open files"))?;
    parse_number(line.split(|byte| byte.is_ascii_whitespace()).find(|word| !word.is_empty())?)
}

/// Nanoseconds for which a thread was runnable and did not run; `None` where the kernel does not count them.
pub fn run_delay_ns(schedstat: &[u8]) -> Option<u64> {
    let statistics = procfs::process::Schedstat::from_read(schedstat).ok()?;
    // A kernel without these statistics writes zeros; a thread that runs has been given time at least once.
    (statistics.pcount > 0).then_some(statistics.run_delay)
}

/// Whether a VMM gives this name to threads that run the guest. A hint: QEMU names them only when it debugs.
pub fn is_vcpu_name(comm: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 5] = [b"CPU ", b"vcpu", b"fc_vcpu", b"vp-", b"db_vcpu"];
    PREFIXES.iter().filter_map(|prefix| comm.strip_prefix(*prefix)).any(|rest| {
        let rest = rest.strip_prefix(b" ").unwrap_or(rest);
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        digits > 0 && matches!(&rest[digits..], b"" | b"/KVM" | b"/TCG")
    })
}

/// The thread for which the kernel moves a VM's packets: `vhost-<thread that asked for it>`.
pub fn vhost_owner(comm: &[u8]) -> Option<u32> {
    u32::try_from(parse_number(comm.strip_prefix(b"vhost-")?)?).ok()
}

/// Digits and nothing else.
pub(super) fn parse_number(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_may_hold_parentheses_and_any_byte() {
        let line = b"7 (q) R (\xff) S 1 7 7 0 -1 0 11 0 12 0 250 40 0 0 20 0 9 0 1234 5 77 \
            18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 3 0 0 6 180 0 0 0\n";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.comm, stat.state, stat.parent), (&b"q) R (\xff"[..], b'S', 1));
        assert_eq!((stat.minor_faults, stat.major_faults, stat.user_ticks, stat.system_ticks), (11, 12, 250, 40));
        assert_eq!((stat.threads, stat.start_ticks, stat.rss_pages), (9, 1234, 77));
        assert_eq!((stat.io_blocked_ticks, stat.guest_ticks), (6, 180));
        assert_eq!(parse_stat(b"7 (short) S 1 2"), None);
    }

    /// Every process and thread that runs here, against the procfs crate.
    #[test]
    fn what_runs_here_is_read_as_the_procfs_crate_reads_it() {
        let mut compared = 0;
        for entry in std::fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path().join("stat");
            let Ok(bytes) = std::fs::read(&path) else { continue };
            if bytes.first().is_none_or(|byte| !byte.is_ascii_digit()) || !bytes.contains(&b'(') {
                continue;
            }
            let theirs = procfs::process::Stat::from_read(bytes.as_slice()).unwrap();
            let ours = parse_stat(&bytes).unwrap();
            assert_eq!((ours.user_ticks, ours.system_ticks), (theirs.utime, theirs.stime));
            assert_eq!((ours.minor_faults, ours.major_faults), (theirs.minflt, theirs.majflt));
            assert_eq!((ours.start_ticks, ours.rss_pages), (theirs.starttime, theirs.rss));
            assert_eq!(Some(ours.io_blocked_ticks), theirs.delayacct_blkio_ticks);
            assert_eq!(ours.guest_ticks, theirs.guest_time.unwrap());
            assert_eq!(i64::try_from(ours.threads).unwrap(), theirs.num_threads);
            compared += 1;
        }
        assert!(compared > 1);
    }

    #[test]
    fn status_fields_are_whole_names_at_the_start_of_a_line() {
        let status = b"Name:\tVmSwap: 7\nVmSwapX:\t1 kB\nVmSwap:\t  204 kB\nThreads:\t3\n\
            voluntary_ctxt_switches:\t15\nnonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(status_number(status, "VmSwap"), Some(204));
        assert_eq!(status_number(status, "VmPTE"), None);
        assert_eq!(switches(status), Some((15, 2)));
    }

    #[test]
    fn no_limit_is_none() {
        let limits =
            b"Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096   files\n";
        assert_eq!(open_files_limit(limits), Some(1024));
        assert_eq!(open_files_limit(b"Max open files            unlimited            unlimited   files\n"), None);
    }

    #[test]
    fn zeros_are_no_statistics() {
        assert_eq!(run_delay_ns(b"10 20 3\n"), Some(20));
        assert_eq!(run_delay_ns(b"0 0 0\n"), None);
        assert_eq!(run_delay_ns(b""), None);
    }

    #[test]
    fn names_of_vcpus_are_those_of_the_vmms() {
        for name in ["CPU 0/KVM", "CPU 11/TCG", "vcpu0", "fc_vcpu 1", "vp-3", "db_vcpu12"] {
            assert!(is_vcpu_name(name.as_bytes()), "{name}");
        }
        for name in ["qemu-system-x86", "CPU /KVM", "vcpu", "vp-", "vcpu0x", "_disk0_q0", "fc_api"] {
            assert!(!is_vcpu_name(name.as_bytes()), "{name}");
        }
        assert_eq!(vhost_owner(b"vhost-4242"), Some(4242));
        assert_eq!(vhost_owner(b"vhost-"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = (parse_stat(&bytes), switches(&bytes), open_files_limit(&bytes), run_delay_ns(&bytes));
            let _ = (status_number(&bytes, "VmSwap"), is_vcpu_name(&bytes), vhost_owner(&bytes));
        }
    }
}
