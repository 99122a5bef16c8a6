//! Wall-clock times of the kernel as times since boot, which cannot be set.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Time since boot, suspends included: the clock of the eBPF events.
pub fn boot_now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// A file's time as time since boot. Exact to the kernel's coarse clock (a few ms), and only as long as nobody set
/// the wall clock in between.
pub fn to_boot(time: SystemTime) -> Option<Duration> {
    let age = SystemTime::now().duration_since(time).unwrap_or(Duration::ZERO);
    boot_now().checked_sub(age)
}

/// In the hundredths of a second in which the kernel tells when processes started.
pub fn to_ticks(at_boot: Duration) -> u64 {
    u64::try_from(at_boot.as_millis() / 10).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_now_is_the_boot_time_of_now() {
        let boot = to_boot(SystemTime::now()).unwrap();
        assert!(boot_now().abs_diff(boot) < Duration::from_secs(1));
    }
}
