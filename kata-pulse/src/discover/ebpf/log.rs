//! The programs' own words (aya-log), at debug level and only when asked for.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tracing::{debug, warn};

/// Reads what the programs log.
pub(super) struct KernelLog {
    logger: EbpfLogger<Forward>,
}

/// aya-log hands records to the `log` facade; this passes them on to ours.
struct Forward;

impl log::Log for Forward {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        debug!(target: "kata_pulse_ebpf", message = %record.args());
    }

    fn flush(&self) {}
}

impl KernelLog {
    pub(super) fn attach(ebpf: &mut Ebpf) -> Option<Self> {
        match EbpfLogger::init_with_logger(ebpf, Forward) {
            Ok(logger) => Some(Self { logger }),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "the eBPF programs' log cannot be read");
                None
            }
        }
    }

    pub(super) fn flush(&mut self) {
        self.logger.flush();
    }
}
