//! The numbers of one cgroup, v1 or v2. A controller that is missing leaves `None`; so does a limit that is none.
//!
//! The guest's time is within user time: cgroups do not tell it apart.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use super::cgroup::Place;
use super::files::{Scratch, open_directory};
use super::parse::parse_number;
use crate::model::CgroupReading;
use crate::sandbox::CpuTimes;

/// v1 writes the largest number of pages it can hold.
const UNLIMITED: u64 = 1 << 62;
const NS_PER_SECOND: f64 = 1e9;
const US_PER_SECOND: f64 = 1e6;
const PRESSURES: [(&str, &str); 3] = [("cpu", "cpu.pressure"), ("memory", "memory.pressure"), ("io", "io.pressure")];

/// `None`: it is gone.
pub(super) fn read_v2(scratch: &mut Scratch, root: &Path, place: &Place) -> Option<CgroupReading> {
    let directory = open_directory(&root.join(place.path.trim_start_matches('/'))).ok()?;
    let directory = directory.as_fd();
    let mut reading = empty(place);
    if let Ok(bytes) = scratch.read(directory, "cpu.stat") {
        let count = |key| keyed(bytes, key).map(|count| count as f64);
        let seconds = |key| count(key).map(|us| us / US_PER_SECOND);
        reading.cpu = cpu(seconds("user_usec"), seconds("system_usec"));
        reading.throttled_seconds = seconds("throttled_usec");
        reading.throttled_periods = count("nr_throttled");
        reading.periods = count("nr_periods");
    }
    reading.memory_bytes = single(scratch, directory, "memory.current");
    reading.memory_peak_bytes = single(scratch, directory, "memory.peak");
    // The word for no limit is no number.
    reading.memory_limit_bytes = single(scratch, directory, "memory.max");
    let events = scratch.read(directory, "memory.events").ok();
    reading.oom_kills = events.and_then(|bytes| keyed(bytes, "oom_kill")).map(|count| count as f64);
    for (resource, file) in PRESSURES {
        let Ok(bytes) = scratch.read(directory, file) else { continue };
        for share in ["some", "full"] {
            let seconds = pressure_us(bytes, share).map(|us| us as f64 / US_PER_SECOND);
            reading.pressure.extend(seconds.map(|seconds| (resource, share, seconds)));
        }
    }
    Some(reading)
}

/// Directories of the controllers cpuacct, cpu and memory. `None`: it is gone from all.
pub(super) fn read_v1(
    scratch: &mut Scratch,
    tick_ns: u64,
    directories: [Option<PathBuf>; 3],
    place: &Place,
) -> Option<CgroupReading> {
    let [cpuacct, cpu_controller, memory] = directories.map(|path| open_directory(&path?).ok());
    if cpuacct.is_none() && cpu_controller.is_none() && memory.is_none() {
        return None;
    }
    let mut reading = empty(place);
    if let Some(bytes) = cpuacct.as_ref().and_then(|directory| scratch.read(directory.as_fd(), "cpuacct.stat").ok()) {
        let seconds = |key| keyed(bytes, key).map(|ticks| ticks as f64 * tick_ns as f64 / NS_PER_SECOND);
        reading.cpu = cpu(seconds("user"), seconds("system"));
    }
    if let Some(bytes) = cpu_controller.as_ref().and_then(|directory| scratch.read(directory.as_fd(), "cpu.stat").ok())
    {
        let count = |key| keyed(bytes, key).map(|count| count as f64);
        reading.throttled_seconds = count("throttled_time").map(|ns| ns / NS_PER_SECOND);
        reading.throttled_periods = count("nr_throttled");
        reading.periods = count("nr_periods");
    }
    if let Some(directory) = &memory {
        let directory = directory.as_fd();
        reading.memory_bytes = single(scratch, directory, "memory.usage_in_bytes");
        reading.memory_peak_bytes = single(scratch, directory, "memory.max_usage_in_bytes");
        let limit = single(scratch, directory, "memory.limit_in_bytes");
        reading.memory_limit_bytes = limit.filter(|&bytes| bytes < UNLIMITED as f64);
        let control = scratch.read(directory, "memory.oom_control").ok();
        reading.oom_kills = control.and_then(|bytes| keyed(bytes, "oom_kill")).map(|count| count as f64);
    }
    Some(reading)
}

fn empty(place: &Place) -> CgroupReading {
    CgroupReading {
        kind: place.kind,
        path: place.path.clone(),
        cpu: None,
        throttled_seconds: None,
        throttled_periods: None,
        periods: None,
        memory_bytes: None,
        memory_peak_bytes: None,
        memory_limit_bytes: None,
        oom_kills: None,
        pressure: Vec::new(),
    }
}

fn cpu(user: Option<f64>, system: Option<f64>) -> Option<CpuTimes> {
    Some(CpuTimes { user: user?, system: system?, guest: 0.0 })
}

fn single(scratch: &mut Scratch, directory: BorrowedFd<'_>, file: &str) -> Option<f64> {
    let bytes = scratch.read(directory, file).ok()?;
    parse_number(bytes.trim_ascii()).map(|number| number as f64)
}

/// The number of a line `key number`.
pub fn keyed(bytes: &[u8], key: &str) -> Option<u64> {
    let line =
        bytes.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b" "))?;
    parse_number(line.trim_ascii())
}

/// Microseconds of a line `some avg10=… avg60=… avg300=… total=…`.
pub fn pressure_us(bytes: &[u8], share: &str) -> Option<u64> {
    let line = bytes.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(share.as_bytes()))?;
    let mut words = line.split(|&byte| byte == b' ');
    parse_number(words.find_map(|word| word.strip_prefix(b"total="))?)
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::Tree;
    use super::*;
    use proptest::prelude::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sid")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join("sid").join(name), text).unwrap();
        }
        folder
    }

    fn place() -> Place {
        Place { kind: "sandbox", path: "/sid".to_owned(), tree: Tree::Unified }
    }

    #[test]
    fn v2_is_read_and_no_limit_is_none() {
        let folder = folder(&[
            (
                "cpu.stat",
                "usage_usec 3500000\nuser_usec 2500000\nsystem_usec 1000000\nnr_periods 7\nnr_throttled 2\nthrottled_usec 500000\n",
            ),
            ("memory.current", "4096\n"),
            ("memory.peak", "8192\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\nhigh 0\nmax 0\noom 4\noom_kill 3\noom_group_kill 0\n"),
            (
                "cpu.pressure",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            ),
        ]);
        let reading = read_v2(&mut Scratch::default(), folder.path(), &place()).unwrap();
        assert_eq!(reading.cpu, Some(CpuTimes { user: 2.5, system: 1.0, guest: 0.0 }));
        assert_eq!(
            (reading.periods, reading.throttled_periods, reading.throttled_seconds),
            (Some(7.0), Some(2.0), Some(0.5))
        );
        assert_eq!((reading.memory_bytes, reading.memory_peak_bytes), (Some(4096.0), Some(8192.0)));
        assert_eq!((reading.memory_limit_bytes, reading.oom_kills), (None, Some(3.0)));
        assert_eq!(reading.pressure, [("cpu", "some", 1.5), ("cpu", "full", 0.0)]);
        std::fs::remove_dir_all(folder.path().join("sid")).unwrap();
        assert_eq!(read_v2(&mut Scratch::default(), folder.path(), &place()), None);
    }

    #[test]
    fn v2_without_controllers_has_its_cpu_time_and_nothing_else() {
        let folder = folder(&[("cpu.stat", "usage_usec 3\nuser_usec 2\nsystem_usec 1\n")]);
        let reading = read_v2(&mut Scratch::default(), folder.path(), &place()).unwrap();
        assert!(reading.cpu.is_some() && reading.pressure.is_empty());
        assert_eq!((reading.throttled_seconds, reading.memory_bytes, reading.oom_kills), (None, None, None));
    }

    #[test]
    fn v1_is_read_and_its_largest_number_is_no_limit() {
        let folder = folder(&[
            ("cpuacct.stat", "user 250\nsystem 100\n"),
            ("cpu.stat", "nr_periods 7\nnr_throttled 2\nthrottled_time 500000000\n"),
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.max_usage_in_bytes", "8192\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
        ]);
        let sid = || Some(folder.path().join("sid"));
        let reading = read_v1(&mut Scratch::default(), 10_000_000, [sid(), sid(), sid()], &place()).unwrap();
        assert_eq!(reading.cpu, Some(CpuTimes { user: 2.5, system: 1.0, guest: 0.0 }));
        assert_eq!((reading.throttled_seconds, reading.periods), (Some(0.5), Some(7.0)));
        assert_eq!((reading.memory_bytes, reading.memory_peak_bytes), (Some(4096.0), Some(8192.0)));
        assert_eq!((reading.memory_limit_bytes, reading.oom_kills), (None, Some(3.0)));
        let memory = read_v1(&mut Scratch::default(), 10_000_000, [None, None, sid()], &place()).unwrap();
        assert_eq!((memory.cpu, memory.periods, memory.memory_bytes), (None, None, Some(4096.0)));
        assert_eq!(read_v1(&mut Scratch::default(), 10_000_000, [None, None, None], &place()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (keyed(&bytes, "user"), pressure_us(&bytes, "some"));
        }
    }
}
