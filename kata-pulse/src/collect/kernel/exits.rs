//! Names of KVM's reasons to leave the guest for the VMM.

use kata_pulse_common::account::{EXIT_CLASSES, EXIT_ERROR, EXIT_INTERRUPTED};

/// `KVM_EXIT_*` of linux/kvm.h, in order, in lower case.
const REASONS: [&str; 42] = [
    "unknown",
    "exception",
    "io",
    "hypercall",
    "debug",
    "hlt",
    "mmio",
    "irq_window_open",
    "shutdown",
    "fail_entry",
    "intr",
    "set_tpr",
    "tpr_access",
    "s390_sieic",
    "s390_reset",
    "dcr",
    "nmi",
    "internal_error",
    "osi",
    "papr_hcall",
    "s390_ucontrol",
    "watchdog",
    "s390_tsch",
    "epr",
    "system_event",
    "s390_stsi",
    "ioapic_eoi",
    "hyperv",
    "arm_nisv",
    "x86_rdmsr",
    "x86_wrmsr",
    "dirty_ring_full",
    "ap_reset_hold",
    "x86_bus_lock",
    "xen",
    "riscv_sbi",
    "riscv_csr",
    "notify",
    "loongarch_iocsr",
    "memory_fault",
    "tdx",
    "arm_sea",
];

/// What happened, by name; reasons that are newer than this table are one.
pub(super) fn named(classes: &[u64; EXIT_CLASSES]) -> Vec<(&'static str, u64)> {
    let mut exits: Vec<_> = REASONS.iter().zip(classes).map(|(&name, &count)| (name, count)).collect();
    exits.push(("other", classes[REASONS.len()..EXIT_INTERRUPTED as usize].iter().sum()));
    exits.push(("interrupted", classes[EXIT_INTERRUPTED as usize]));
    exits.push(("error", classes[EXIT_ERROR as usize]));
    exits.retain(|(_, count)| *count > 0);
    exits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_name_and_none_is_lost() {
        let mut classes = [0; EXIT_CLASSES];
        for (index, count) in [(2, 5), (6, 7), (REASONS.len(), 1), (61, 2), (62, 3), (63, 4)] {
            classes[index] = count;
        }
        assert_eq!(named(&classes), [("io", 5), ("mmio", 7), ("other", 3), ("interrupted", 3), ("error", 4)]);
        assert_eq!(named(&[1; EXIT_CLASSES]).iter().map(|(_, count)| count).sum::<u64>(), EXIT_CLASSES as u64);
    }
}
