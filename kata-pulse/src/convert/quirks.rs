//! Every known defect of the sources of container numbers, and its correction: one table (kata.md 7.3, cadvisor.md 8.3).
//!
//! A row says which shim, message, guest and release it is about. What a row cannot mend it takes away: absent is not
//! zero, and a wrong number is worse than none.

use super::task::Reported;
use crate::sandbox::{Runtime, Version};

/// In whose words the numbers came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    V1,
    V2,
    Cri,
}

/// Which cgroup version the guest itself uses: the host cannot see it, the numbers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GuestCgroup {
    V1,
    V2,
    Unknown,
}

/// What a correction depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub runtime: Option<Runtime>,
    /// Of the shim; the guest's agent usually is of the same release.
    pub version: Option<Version>,
    pub words: Words,
    pub guest: GuestCgroup,
    /// Block devices that the guest's own page shows.
    pub guest_disks: Option<usize>,
    /// Whether CPU times are microseconds that are taken for nanoseconds; `None`: not decided, or not any more.
    pub in_microseconds: Option<bool>,
}

/// One defect.
pub(super) struct Quirk {
    pub name: &'static str,
    /// `None`: of either runtime, also of one that is not known.
    pub runtime: Option<Runtime>,
    pub words: Option<Words>,
    pub guest: Option<GuestCgroup>,
    /// The release that mended it; `None`: none so far.
    pub fixed: Option<Version>,
    pub correct: fn(&mut Reported, &Facts),
}

/// The release since which agents give CPU times of cgroup v2 guests in nanoseconds.
pub(super) const IN_NANOSECONDS: Version = Version::new(3, 9, 0);

impl Quirk {
    fn applies(&self, facts: &Facts) -> bool {
        let fits = |wanted: Option<Words>| wanted.is_none_or(|words| words == facts.words);
        // Of a release that is not known only what no release has mended is certain.
        let unmended = self.fixed.is_none_or(|fixed| facts.version.is_some_and(|version| version < fixed));
        self.runtime.is_none_or(|runtime| facts.runtime == Some(runtime))
            && fits(self.words)
            && self.guest.is_none_or(|guest| guest == facts.guest)
            && unmended
    }
}

/// One row of the table as the documentation shows it.
#[derive(Clone, Debug)]
pub struct KnownDefect {
    pub defect: &'static str,
    pub shim: &'static str,
    pub message: &'static str,
    pub guest: &'static str,
    /// The release that mended it; empty: none so far.
    pub fixed: String,
}

/// The table, for readers.
pub fn known_defects() -> impl Iterator<Item = KnownDefect> {
    QUIRKS.iter().map(|quirk| KnownDefect {
        defect: quirk.name,
        shim: match (quirk.runtime, quirk.words) {
            (Some(runtime), _) => runtime.as_str(),
            (None, Some(Words::V2)) => Runtime::Go.as_str(),
            (None, _) => "any",
        },
        message: match quirk.words {
            Some(Words::V1) => "cgroups.v1",
            Some(Words::V2) => "cgroups.v2",
            Some(Words::Cri) => "CRI",
            None => "any",
        },
        guest: match quirk.guest {
            Some(GuestCgroup::V1) => "cgroup v1",
            Some(GuestCgroup::V2) => "cgroup v2",
            Some(GuestCgroup::Unknown) => "not told",
            None => "any",
        },
        fixed: quirk.fixed.map(|version| version.to_string()).unwrap_or_default(),
    })
}

pub(super) fn correct(reported: &mut Reported, facts: &Facts) {
    for quirk in QUIRKS.iter().filter(|quirk| quirk.applies(facts)) {
        (quirk.correct)(reported, facts);
    }
}

/// No memory of a machine is as large; cgroup v1 says "unlimited" by the first, v2 by the second.
pub(super) const UNLIMITED_V1: u64 = 9_223_372_036_854_771_712;
pub(super) const UNLIMITED_V2: u64 = u64::MAX;
const UNLIMITED_FROM: u64 = 1 << 62;
/// With less, no cache and no anonymous memory at all may be true.
const NOTHING_IS_IN_SO_MUCH: u64 = 1 << 20;

const ANY: Quirk = Quirk { name: "", runtime: None, words: None, guest: None, fixed: None, correct: |_, _| {} };
/// No other shim speaks these words, so they tell the shim where nothing else does.
const GO_V2: Quirk = Quirk { words: Some(Words::V2), ..ANY };
const GO_V1: Quirk = Quirk { runtime: Some(Runtime::Go), words: Some(Words::V1), ..ANY };
const RUST: Quirk = Quirk { runtime: Some(Runtime::Rust), ..ANY };

/// In the order in which they are applied.
pub(super) const QUIRKS: &[Quirk] = &[
    Quirk {
        name: "user and system time are swapped",
        correct: |reported, _| std::mem::swap(&mut reported.cpu_user_ns, &mut reported.cpu_system_ns),
        ..GO_V2
    },
    Quirk {
        name: "CPU time of a cgroup v2 guest is in microseconds and taken for nanoseconds",
        guest: Some(GuestCgroup::V2),
        fixed: Some(IN_NANOSECONDS),
        correct: |reported, facts| {
            let times = [&mut reported.cpu_total_ns, &mut reported.cpu_user_ns, &mut reported.cpu_system_ns];
            for time in times {
                *time = match facts.in_microseconds {
                    Some(true) => time.and_then(|value| value.checked_mul(1000)),
                    Some(false) => *time,
                    None => None,
                };
            }
        },
        ..ANY
    },
    Quirk {
        name: "a container that runs has used some CPU and has tasks: 0 is unknown",
        correct: |reported, _| {
            if reported.cpu_total_ns == Some(0) {
                (reported.cpu_total_ns, reported.cpu_user_ns, reported.cpu_system_ns) = (None, None, None);
            }
            reported.tasks = reported.tasks.filter(|&tasks| tasks > 0);
        },
        ..ANY
    },
    Quirk {
        name: "throttled time of a cgroup v2 guest is looked up under a key it does not have",
        guest: Some(GuestCgroup::V2),
        correct: |reported, _| reported.throttled_ns = None,
        ..ANY
    },
    Quirk {
        name: "throttled time is 0 while there are throttled periods",
        correct: |reported, _| {
            if reported.throttled_ns == Some(0) && reported.throttled_periods.is_some_and(|periods| periods > 0) {
                reported.throttled_ns = None;
            }
        },
        ..ANY
    },
    Quirk {
        name: "memory usage and limits are 0 on hosts with cgroup v2",
        fixed: Some(Version::new(3, 9, 0)),
        correct: |reported, _| {
            if reported.usage == Some(0) {
                (reported.usage, reported.max_usage, reported.swap) = (None, None, None);
                reported.limit = None;
            }
        },
        ..GO_V2
    },
    Quirk {
        name: "a container that runs uses some memory: 0 is unknown",
        correct: |reported, _| {
            reported.usage = reported.usage.filter(|&usage| usage > 0);
            reported.working_set = reported.working_set.filter(|_| reported.usage.is_some());
        },
        ..ANY
    },
    Quirk {
        name: "unlimited as a huge number",
        correct: |reported, _| {
            reported.limit = reported.limit.map(|limit| if limit >= UNLIMITED_FROM { 0 } else { limit })
        },
        ..ANY
    },
    Quirk {
        name: "cache, anonymous and mapped memory of a cgroup v2 guest have no place in the message",
        words: Some(Words::V1),
        guest: Some(GuestCgroup::V2),
        correct: |reported, _| {
            (reported.rss, reported.cache, reported.mapped_file) = (None, None, None);
            (reported.file_dirty, reported.file_writeback) = (None, None);
            // There is no kernel memory limit to be hit, and none of the counters.
            (reported.failcnt, reported.kernel_usage) = (None, None);
        },
        ..ANY
    },
    Quirk {
        name: "inactive page cache of a cgroup v2 guest is lost",
        guest: Some(GuestCgroup::V2),
        correct: |reported, _| {
            reported.inactive_file = reported.inactive_file.filter(|&bytes| bytes > 0);
            reported.active_file = reported.active_file.filter(|&bytes| bytes > 0);
        },
        ..GO_V1
    },
    Quirk {
        name: "only the inactive page cache of a cgroup v1 guest is passed on",
        guest: Some(GuestCgroup::V1),
        correct: |reported, _| {
            (reported.active_file, reported.file_dirty, reported.file_writeback) = (None, None, None);
        },
        ..GO_V1
    },
    Quirk {
        name: "anonymous memory and page cache of a cgroup v1 guest have no place in the message",
        guest: Some(GuestCgroup::V1),
        correct: |reported, _| {
            (reported.rss, reported.cache, reported.mapped_file) = (None, None, None);
            (reported.file_dirty, reported.file_writeback) = (None, None);
            (reported.pages_scanned, reported.pages_stolen) = (None, None);
        },
        ..GO_V2
    },
    Quirk {
        name: "neither cache nor anonymous memory where there is memory in use",
        correct: |reported, _| {
            let nothing = reported.rss.unwrap_or(0) == 0 && reported.cache.unwrap_or(0) == 0;
            if nothing && reported.usage.is_none_or(|usage| usage > NOTHING_IS_IN_SO_MUCH) {
                (reported.rss, reported.cache, reported.mapped_file) = (None, None, None);
            }
        },
        ..ANY
    },
    Quirk {
        name: "swap of a cgroup v1 guest is memory and swap together",
        guest: Some(GuestCgroup::V1),
        correct: |reported, _| {
            reported.swap = reported.swap.zip(reported.usage).map(|(both, usage)| both.saturating_sub(usage));
        },
        ..ANY
    },
    Quirk {
        name: "swap of a guest of unknown kind may be memory and swap together",
        guest: Some(GuestCgroup::Unknown),
        correct: |reported, _| reported.swap = None,
        ..ANY
    },
    Quirk {
        name: "the most memory in use is not passed on",
        correct: |reported, _| reported.max_usage = reported.max_usage.filter(|&most| most > 0),
        ..ANY
    },
    Quirk {
        name: "page faults are looked up under keys that no kernel has",
        correct: |reported, _| (reported.page_faults, reported.major_page_faults) = (None, None),
        ..RUST
    },
    Quirk {
        name: "memory that is being written back is not copied",
        correct: |reported, _| reported.file_writeback = None,
        ..RUST
    },
    Quirk {
        name: "one entry of block I/O for all devices: the last one wins",
        correct: |reported, facts| {
            // With one device it is that device's; with several each number may be another's.
            if facts.guest_disks != Some(1) {
                reported.disks.clear();
            }
        },
        ..GO_V2
    },
    Quirk {
        name: "block I/O without a device",
        correct: |reported, _| reported.disks.retain(|disk| (disk.major, disk.minor) != (0, 0)),
        ..ANY
    },
    Quirk {
        name: "operations of block I/O of a cgroup v1 guest are lost",
        guest: Some(GuestCgroup::V1),
        correct: |reported, _| {
            reported.disks.iter_mut().for_each(|disk| (disk.reads, disk.writes) = (None, None));
        },
        ..GO_V2
    },
    Quirk {
        name: "huge pages without their size",
        correct: |reported, _| reported.huge_pages.retain(|pages| !pages.page_size.is_empty()),
        ..ANY
    },
    Quirk {
        name: "CRI's anonymous memory is 0 where it was not passed on",
        words: Some(Words::Cri),
        correct: |reported, _| reported.rss = reported.rss.filter(|&rss| rss > 0),
        ..ANY
    },
    Quirk {
        name: "CRI's page faults are 0 where they were not passed on",
        words: Some(Words::Cri),
        correct: |reported, _| {
            if reported.page_faults == Some(0) {
                (reported.page_faults, reported.major_page_faults) = (None, None);
            }
        },
        ..ANY
    },
];
