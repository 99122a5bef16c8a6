//! Counters that never fall, whatever the kernel's own do. Pure.
//!
//! The kernel scales user and system time of a process and of its threads each on its own, so that a difference of
//! them may fall. What is kept here grows by the growth of the sum, and each mode by what it is behind.

use crate::sandbox::{CpuTimes, ExitAccount, IoTotals};

const NS_PER_SECOND: f64 = 1e9;

/// Nanoseconds by mode; user does not have the guest's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuNs {
    pub user: u64,
    pub system: u64,
    pub guest: u64,
}

impl CpuNs {
    /// From the kernel's three numbers, where the guest's time is also the user's.
    pub(super) fn of_kernel(user: u64, system: u64, guest: u64) -> Self {
        Self { user: user.saturating_sub(guest), system, guest }
    }

    pub(super) fn total(&self) -> u64 {
        self.user.saturating_add(self.system).saturating_add(self.guest)
    }

    /// Goes on to `total`, if that is more, by the modes that are behind `target`.
    pub(super) fn advance(&mut self, total: u64, target: Self) {
        let mut grown = total.saturating_sub(self.total());
        let modes = [(&mut self.guest, target.guest), (&mut self.system, target.system), (&mut self.user, target.user)];
        for (mode, target) in modes {
            let behind = target.saturating_sub(*mode).min(grown);
            *mode += behind;
            grown -= behind;
        }
    }

    /// As [`Self::advance`], where the total is the sum of the modes.
    pub(super) fn advance_to(&mut self, target: Self) {
        self.advance(target.total(), target);
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            user: self.user.saturating_add(other.user),
            system: self.system.saturating_add(other.system),
            guest: self.guest.saturating_add(other.guest),
        }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self {
            user: self.user.saturating_sub(other.user),
            system: self.system.saturating_sub(other.system),
            guest: self.guest.saturating_sub(other.guest),
        }
    }

    pub(super) fn times(self) -> CpuTimes {
        CpuTimes { user: seconds(self.user), system: seconds(self.system), guest: seconds(self.guest) }
    }

    fn of_times(times: CpuTimes) -> Self {
        Self { user: nanoseconds(times.user), system: nanoseconds(times.system), guest: nanoseconds(times.guest) }
    }
}

pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / NS_PER_SECOND
}

fn nanoseconds(seconds: f64) -> u64 {
    // Saturates; what is no number or below zero is 0.
    (seconds * NS_PER_SECOND).round() as u64
}

/// Calls and bytes of `/proc/<pid>/io`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct IoCounts {
    pub read_calls: u64,
    pub write_calls: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
}

impl IoCounts {
    fn each(self, other: Self, join: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            read_calls: join(self.read_calls, other.read_calls),
            write_calls: join(self.write_calls, other.write_calls),
            read_bytes: join(self.read_bytes, other.read_bytes),
            written_bytes: join(self.written_bytes, other.written_bytes),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    pub(super) fn max(self, other: Self) -> Self {
        self.each(other, u64::max)
    }

    pub(super) fn totals(self) -> IoTotals {
        IoTotals {
            read_calls: self.read_calls as f64,
            write_calls: self.write_calls as f64,
            read_bytes: self.read_bytes as f64,
            written_bytes: self.written_bytes as f64,
        }
    }
}

/// What a whole process has used: all its threads, ended ones too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Whole {
    pub cpu: CpuNs,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub io: Option<IoCounts>,
}

impl Whole {
    pub(super) fn of_account(account: &ExitAccount) -> Self {
        let counts = |io: IoTotals| IoCounts {
            read_calls: io.read_calls as u64,
            write_calls: io.write_calls as u64,
            read_bytes: io.read_bytes as u64,
            written_bytes: io.written_bytes as u64,
        };
        Self {
            cpu: CpuNs::of_times(account.cpu),
            minor_faults: account.minor_faults as u64,
            major_faults: account.major_faults as u64,
            io: account.io.map(counts),
        }
    }

    /// Takes newer numbers; nothing falls.
    pub(super) fn advance(&mut self, total_ns: u64, newer: &Self) {
        self.cpu.advance(total_ns, newer.cpu);
        self.minor_faults = self.minor_faults.max(newer.minor_faults);
        self.major_faults = self.major_faults.max(newer.major_faults);
        self.io = match (self.io, newer.io) {
            (Some(old), Some(new)) => Some(old.max(new)),
            (old, new) => new.or(old),
        };
    }
}

/// Adds where both are known; what only one knows is that.
pub(super) fn add<T>(sum: &mut Option<T>, value: Option<T>, plus: impl FnOnce(T, T) -> T) {
    *sum = match (sum.take(), value) {
        (Some(sum), Some(value)) => Some(plus(sum, value)),
        (sum, value) => sum.or(value),
    };
}

/// Counters of one role: those of all its processes, or of a share of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RoleCounters {
    pub cpu: Option<CpuNs>,
    pub voluntary_switches: Option<u64>,
    pub involuntary_switches: Option<u64>,
    pub minor_faults: Option<u64>,
    pub major_faults: Option<u64>,
    pub io: Option<IoCounts>,
    pub io_blocked_ns: Option<u64>,
    pub run_delay_ns: Option<u64>,
}

impl RoleCounters {
    pub(super) fn add(&mut self, other: &Self) {
        let sum = u64::saturating_add;
        add(&mut self.cpu, other.cpu, CpuNs::plus);
        add(&mut self.voluntary_switches, other.voluntary_switches, sum);
        add(&mut self.involuntary_switches, other.involuntary_switches, sum);
        add(&mut self.minor_faults, other.minor_faults, sum);
        add(&mut self.major_faults, other.major_faults, sum);
        add(&mut self.io, other.io, IoCounts::plus);
        add(&mut self.io_blocked_ns, other.io_blocked_ns, sum);
        add(&mut self.run_delay_ns, other.run_delay_ns, sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn guest_time_that_runs_ahead_of_user_time_is_made_up_for_later() {
        let mut counted = CpuNs::default();
        // The kernel's user time has 10 of the 12 already.
        counted.advance(10, CpuNs::of_kernel(10, 0, 12));
        assert_eq!(counted, CpuNs { user: 0, system: 0, guest: 10 });
        counted.advance(15, CpuNs::of_kernel(15, 0, 12));
        assert_eq!(counted, CpuNs { user: 3, system: 0, guest: 12 });
    }

    fn any_cpu() -> impl Strategy<Value = CpuNs> {
        (0..1_000_000_u64, 0..1_000_000_u64, 0..1_000_000_u64).prop_map(|(user, system, guest)| CpuNs {
            user,
            system,
            guest,
        })
    }

    proptest! {
        /// Whatever the modes do: none falls, and the sum is the highest total so far.
        #[test]
        fn modes_never_fall_and_their_sum_is_the_total(targets in prop::collection::vec(any_cpu(), 1..20)) {
            let (mut counted, mut highest) = (CpuNs::default(), 0);
            for target in targets {
                let before = counted;
                counted.advance_to(target);
                highest = highest.max(target.total());
                prop_assert!(counted.user >= before.user && counted.system >= before.system);
                prop_assert!(counted.guest >= before.guest);
                prop_assert_eq!(counted.total(), highest);
            }
        }

        /// A share of a process is what the rest leaves, by mode where that is possible.
        #[test]
        fn what_the_rest_leaves_is_exact_in_total(whole in any_cpu(), part in any_cpu()) {
            prop_assume!(part.total() <= whole.total());
            let mut rest = CpuNs::default();
            rest.advance(whole.total() - part.total(), whole.minus(part));
            prop_assert_eq!(rest.total(), whole.total() - part.total());
        }
    }
}
