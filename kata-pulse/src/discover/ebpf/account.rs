//! What a process had used, as the kernel's programs add it up → what `/proc` would have said. Pure.
//!
//! The kernel knows exactly how long threads ran, and by its clock tick what they did meanwhile. It divides the exact
//! time in the proportion of the ticks (`cputime_adjust`), never taking back what it told before; so do we, so that a
//! process of 3 ms is not one of 0, and a last reading continues those of `/proc`.

use kata_pulse_common as abi;
use kata_pulse_common::RawAccount;

/// All threads of a process together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Without the time in the guest.
    pub user_ns: u64,
    pub system_ns: u64,
    pub guest_ns: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
    /// `None` where the kernel does not account it.
    pub io: Option<AccountIo>,
    /// In pages.
    pub peak_rss: u64,
    /// Nothing is missing and nothing will be added: the process was released. Else the last thread's time since the
    /// last clock tick is missing, and what the end itself took.
    pub is_final: bool,
}

/// As `/proc/<pid>/io` has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AccountIo {
    pub read_calls: u64,
    pub write_calls: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
}

impl Account {
    /// `None`: the kernel did not let it be read, or not whole.
    pub(super) fn parse(flags: u32, raw: &RawAccount, is_final: bool) -> Option<Self> {
        if flags & abi::FLAG_ACCOUNT == 0 || flags & abi::FLAG_ACCOUNT_CUT != 0 {
            return None;
        }
        let (user_ns, system_ns) = adjust(raw);
        let guest_ns = share(user_ns, raw.guest_ns, raw.user_ns);
        Some(Self {
            user_ns: user_ns - guest_ns,
            system_ns,
            guest_ns,
            minor_faults: raw.minor_faults,
            major_faults: raw.major_faults,
            voluntary_switches: raw.voluntary_switches,
            involuntary_switches: raw.involuntary_switches,
            io: (flags & abi::FLAG_ACCOUNT_IO != 0).then_some(AccountIo {
                read_calls: raw.read_calls,
                write_calls: raw.write_calls,
                read_bytes: raw.read_bytes,
                written_bytes: raw.write_bytes,
            }),
            peak_rss: raw.peak_rss,
            is_final,
        })
    }
}

/// User (with guest) and system time, of which the sum is the time run.
fn adjust(raw: &RawAccount) -> (u64, u64) {
    let told = raw.told_user_ns.saturating_add(raw.told_system_ns);
    if told >= raw.run_ns {
        return (raw.told_user_ns, raw.told_system_ns);
    }
    // Without a tick in the kernel all of it counts as user time, as the kernel has it.
    let system = share(raw.run_ns, raw.system_ns, raw.user_ns.saturating_add(raw.system_ns));
    let system = system.max(raw.told_system_ns);
    let user = (raw.run_ns - system.min(raw.run_ns)).max(raw.told_user_ns);
    (user, raw.run_ns - user)
}

/// `whole * part / of`, at most `whole`; nothing of nothing.
fn share(whole: u64, part: u64, of: u64) -> u64 {
    if of == 0 {
        return 0;
    }
    let share = u128::from(whole) * u128::from(part) / u128::from(of);
    u64::try_from(share).map_or(whole, |share| share.min(whole))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(user: u64, system: u64, guest: u64, run: u64, told: (u64, u64)) -> (u64, u64, u64) {
        let raw = RawAccount {
            user_ns: user,
            system_ns: system,
            guest_ns: guest,
            run_ns: run,
            told_user_ns: told.0,
            told_system_ns: told.1,
            ..RawAccount::default()
        };
        let account = Account::parse(abi::FLAG_ACCOUNT, &raw, true).unwrap();
        (account.user_ns, account.system_ns, account.guest_ns)
    }

    #[test]
    fn exact_time_is_divided_as_the_ticks_were() {
        assert_eq!(times(0, 0, 0, 3, (0, 0)), (3, 0, 0), "no tick hit it");
        assert_eq!(times(30, 10, 0, 80, (0, 0)), (60, 20, 0));
        assert_eq!(times(0, 10, 0, 8, (0, 0)), (0, 8, 0));
        assert_eq!(times(30, 10, 15, 80, (0, 0)), (30, 20, 30), "guest time is part of user time");
    }

    #[test]
    fn what_was_told_before_is_never_taken_back() {
        assert_eq!(times(30, 10, 0, 80, (70, 0)), (70, 10, 0));
        assert_eq!(times(30, 10, 0, 80, (0, 50)), (30, 50, 0));
        assert_eq!(times(30, 10, 0, 80, (60, 30)), (60, 30, 0));
    }

    #[test]
    fn what_was_not_read_is_absent() {
        let raw = RawAccount { write_bytes: 6, ..RawAccount::default() };
        assert_eq!(Account::parse(0, &raw, true), None);
        assert_eq!(Account::parse(abi::FLAG_ACCOUNT | abi::FLAG_ACCOUNT_CUT, &raw, false), None);
        assert_eq!(Account::parse(abi::FLAG_ACCOUNT, &raw, true).unwrap().io, None);
        let flags = abi::FLAG_ACCOUNT | abi::FLAG_ACCOUNT_IO;
        assert_eq!(Account::parse(flags, &raw, true).unwrap().io.unwrap().written_bytes, 6);
    }

    proptest! {
        #[test]
        fn any_numbers_are_survived_and_the_sum_is_the_time_run(
            user: u64, system: u64, guest: u64, run: u64, told_user: u64, told_system: u64,
        ) {
            let (user, system, guest) = times(user, system, guest, run, (told_user, told_system));
            let sum = u128::from(user) + u128::from(system) + u128::from(guest);
            prop_assert!(sum == u128::from(run.max(told_user.saturating_add(told_system)))
                || sum == u128::from(told_user) + u128::from(told_system));
        }
    }
}
