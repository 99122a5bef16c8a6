//! The kernel's programs: started, shown, and shown as gone when they tell nothing any more.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context;
use aya::sys::{Stats, enable_stats};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::rights::Rights;
use crate::config::{Config, EbpfDirectories, EbpfMode};
use crate::discover;
use crate::discover::ebpf::{self, EbpfOptions, EbpfWatch};
use crate::sandbox::SourceState;
use crate::telemetry::Own;

/// Loading takes a tenth of a second; a kernel that looks at the programs for so long may do so for minutes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kernel tells how long eBPF programs run, all of the host's, for as long as the result is held. `None`: it may not be
/// asked to, which takes CAP_SYS_ADMIN.
pub(super) fn count_run_time() -> Option<OwnedFd> {
    let counted = enable_stats(Stats::RunTime);
    counted.inspect_err(|error| debug!(error = error as &dyn std::error::Error, "run time of eBPF is not counted")).ok()
}

/// `None`: eBPF is off or cannot be had; everything works without it, later.
pub(super) async fn start_ebpf(config: &Config, rights: &Rights, own: &Own) -> anyhow::Result<Option<EbpfWatch>> {
    let options = EbpfOptions {
        mode: match config.ebpf {
            EbpfMode::Auto => ebpf::Mode::Auto,
            EbpfMode::Require => ebpf::Mode::Require,
            EbpfMode::Off => return Ok(None),
        },
        directories: match config.ebpf_directories {
            EbpfDirectories::Auto => ebpf::DirectoryMode::Auto,
            EbpfDirectories::Syscalls => ebpf::DirectoryMode::Syscalls,
            EbpfDirectories::Off => ebpf::DirectoryMode::Off,
        },
        host_mount_ns: discover::process::read_host_mount_namespace(&config.host),
        procfs: config.host.procfs.clone(),
        sysfs: config.host.sysfs.clone(),
        log: tracing::enabled!(target: "kata_pulse::discover::ebpf", tracing::Level::DEBUG),
        ..EbpfOptions::default()
    };
    let starting = tokio::task::spawn_blocking(move || ebpf::start(&options));
    let Ok(started) = tokio::time::timeout(PATIENCE, starting).await else {
        // What it still attaches is detached when it returns.
        anyhow::ensure!(config.ebpf != EbpfMode::Require, "eBPF is required and not there after {PATIENCE:?}");
        warn!("the kernel takes too long to load eBPF programs: inotify, pidfds and scans discover alone");
        return Ok(None);
    };
    match started.context("start eBPF")? {
        Ok(watch) => {
            for program in watch.programs() {
                own.ebpf_program(program.name, program.attached, &program.reason);
            }
            say_what_is_not_seen(&watch, rights);
            Ok(Some(watch))
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            let refusal = rights.explain_refusal(&format!("{error:#}"));
            if config.ebpf == EbpfMode::Require {
                let why = rights.missing_for_ebpf().or(refusal);
                let error = why.into_iter().fold(error, anyhow::Error::context);
                return Err(error.context("eBPF is required by --ebpf require"));
            }
            let error = refusal.into_iter().fold(error, anyhow::Error::context);
            warn!(error = &*error as &dyn std::error::Error, "no eBPF: inotify, pidfds and scans discover alone");
            Ok(None)
        }
    }
}

/// Programs that were refused, where that leaves execs or ends to others.
fn say_what_is_not_seen(watch: &EbpfWatch, rights: &Rights) {
    for feature in ["exec", "exit"].into_iter().filter(|feature| !watch.sees(feature)) {
        let of_feature = watch.programs().iter().filter(|program| program.feature == feature);
        let reasons: Vec<&str> = of_feature.map(|program| program.reason.as_str()).collect();
        let reasons = reasons.join("; ");
        let refusal = rights.explain_refusal(&reasons).unwrap_or_default();
        warn!(feature, reasons, refusal, "eBPF does not see this: pidfds and scans do, later");
    }
}

pub(super) fn ebpf_state(config: &Config, kernel: Option<&EbpfWatch>) -> SourceState {
    match kernel {
        Some(kernel) if kernel.sees("exec") && kernel.sees("exit") => SourceState::Ok,
        _ if config.ebpf == EbpfMode::Off => SourceState::Off,
        _ => SourceState::Unsupported,
    }
}

pub(super) fn attached_programs(kernel: Option<&EbpfWatch>) -> Vec<&'static str> {
    let programs = kernel.map(EbpfWatch::programs).unwrap_or_default();
    programs.iter().filter(|program| program.attached).map(|program| program.name).collect()
}

/// Programs that tell nothing any more are not shown as attached.
pub(super) async fn show_lost_kernel(
    mut lost: watch::Receiver<Option<String>>,
    programs: Vec<&'static str>,
    own: Own,
    shown: watch::Sender<SourceState>,
) {
    // The sender is gone only when the agent stops.
    let Ok(reason) = lost.wait_for(Option::is_some).await.map(|reason| reason.clone().unwrap_or_default()) else {
        return;
    };
    programs.into_iter().for_each(|program| own.ebpf_program(program, false, &reason));
    shown.send_replace(SourceState::Gone);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn programs_that_tell_nothing_any_more_are_not_attached_and_the_source_is_not_ok() {
        let (lose, lost) = watch::channel(None);
        let (shown, state) = watch::channel(SourceState::Ok);
        let own = Own::new();
        own.ebpf_program("exec_btf", true, "");
        let showing = tokio::spawn(show_lost_kernel(lost, vec!["exec_btf"], own.clone(), shown));
        lose.send_replace(Some("events ended: broken".into()));
        showing.await.unwrap();
        assert_eq!(*state.borrow(), SourceState::Gone);
        let page: String = own.families().into_iter().map(|family| family.text).collect();
        let line = r#"kata_pulse_ebpf_program_attached{program="exec_btf",reason="events ended: broken"} 0"#;
        assert!(page.contains(line), "{page}");
        assert_eq!(page.matches("kata_pulse_ebpf_program_attached{").count(), 1);
    }
}
