//! The command line, as interface.md fixes it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser};

use super::{
    BaseDirectory, Config, EbpfDirectories, EbpfMode, EbpfPrograms, HostPaths, Level, LogFormat, MetricKind,
    ShimMetrics,
};
use crate::sandbox::Runtime;

/// Metrics of Kata Containers sandboxes, from the host, for Prometheus.
///
/// Discovers sandboxes as they appear, collects their guests' and hosts' numbers without harming them, and serves
/// them as one page. A scrape reads memory only.
#[derive(Clone, Debug, Parser)]
#[command(name = "kata-pulse", version = crate::version::LONG, max_term_width = 110)]
pub struct Args {
    /// Address and port to serve HTTP on.
    #[arg(short = 'l', long, value_name = "ADDR", env = "KATA_PULSE_LISTEN", default_value = "127.0.0.1:8090")]
    listen_address: SocketAddr,

    /// Socket of the container runtime, a path or unix:// URL. Not given: the well-known places are tried in turn.
    #[arg(short = 'r', long, value_name = "SOCKET", env = "RUNTIME_ENDPOINT", value_parser = parse_endpoint)]
    runtime_endpoint: Option<PathBuf>,

    /// Seconds between collections while nobody scrapes.
    #[arg(short = 'm', long, value_name = "N", env = "KATA_PULSE_METRICS_INTERVAL", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    metrics_interval_secs: u64,

    /// Seconds between readings of the host's own numbers.
    #[arg(long, value_name = "N", env = "KATA_PULSE_HOST_INTERVAL", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    host_interval_secs: u64,

    /// trace, debug, info, warn, error, or tracing directives such as info,kata_pulse::discover=debug.
    #[arg(long, value_name = "DIRECTIVES", env = "RUST_LOG", default_value = "info", value_parser = parse_directives)]
    log_level: String,

    /// Form of the log lines.
    #[arg(long, value_enum, value_name = "FORMAT", env = "KATA_PULSE_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,

    /// Directory below which sandboxes appear, with go: or rust: in front. Without prefix the runtime is told from
    /// evidence. May be repeated.
    #[arg(long, value_name = "[go:|rust:]PATH", env = "KATA_PULSE_SANDBOX_DIRS", value_delimiter = ',',
          default_values = ["go:/run/vc/sbs", "rust:/run/kata"], value_parser = parse_base)]
    sandbox_dir: Vec<BaseDirectory>,

    /// Where the host's procfs is mounted.
    #[arg(long, value_name = "PATH", env = "KATA_PULSE_PROCFS", default_value = "/proc")]
    procfs: PathBuf,

    /// Where the host's sysfs is mounted.
    #[arg(long, value_name = "PATH", env = "KATA_PULSE_SYSFS", default_value = "/sys")]
    sysfs: PathBuf,

    /// Use eBPF where the kernel allows (auto), refuse to start without (require), or never (off).
    #[arg(long, value_enum, value_name = "MODE", env = "KATA_PULSE_EBPF", default_value = "auto")]
    ebpf: EbpfMode,

    /// Watch directories by fexit or kprobe (auto), also by syscall tracepoints, which tax every syscall of the host
    /// (syscalls), or by inotify alone (off).
    #[arg(long, value_enum, value_name = "MODE", env = "KATA_PULSE_EBPF_DIRECTORIES", default_value = "auto")]
    ebpf_directories: EbpfDirectories,

    /// Ask shims for /metrics when that is known to be harmless (safe), never, or always (force): force can kill pods.
    #[arg(long, value_enum, value_name = "MODE", env = "KATA_PULSE_SHIM_METRICS", default_value = "safe")]
    shim_metrics: ShimMetrics,

    /// Levels of container_* series: pod, container.
    #[arg(long, value_enum, value_name = "LEVEL,…", env = "KATA_PULSE_LEVELS", value_delimiter = ',',
          default_values = ["pod", "container"])]
    levels: Vec<Level>,

    /// Kinds of metrics to leave out.
    #[arg(long, value_enum, value_name = "KIND,…", env = "KATA_PULSE_DISABLE_METRICS", value_delimiter = ',')]
    disable_metrics: Vec<MetricKind>,

    /// Prefixes of raw kata_* families to pass through as kata-monitor does.
    #[arg(long, value_name = "PREFIX,…", env = "KATA_PULSE_PASSTHROUGH", value_delimiter = ',')]
    passthrough: Vec<String>,

    /// Seconds for which the final numbers of an ended sandbox stay.
    #[arg(long, value_name = "N", env = "KATA_PULSE_ENDED_RETENTION", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(0..=86_400))]
    ended_retention_secs: u64,

    /// What programs in the kernel count for each sandbox: runqueue, kvm, block, oom; or none.
    #[arg(long, value_enum, value_name = "PROGRAM,…", env = "KATA_PULSE_EBPF_PROGRAMS", value_delimiter = ',',
          default_values = ["runqueue", "kvm", "block", "oom"])]
    ebpf_programs: Vec<EbpfPrograms>,

    /// Also show what each thread of a VMM uses.
    #[arg(long, env = "KATA_PULSE_THREAD_DETAIL")]
    thread_detail: bool,

    /// Also show what queueing disciplines in the pods' networks drop; enters their namespaces, for which CAP_SYS_ADMIN is
    /// needed.
    #[arg(long, env = "KATA_PULSE_QDISC")]
    qdisc: bool,
}

impl Args {
    /// From the command line and the environment, in which an empty variable is one that is not set, as charts write it.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let is_empty = |arg: &clap::Arg| {
            let name = arg.get_env().map(OsStr::to_owned);
            name.and_then(std::env::var_os).is_some_and(|value| value.is_empty())
        };
        let without = |arg: clap::Arg| if is_empty(&arg) { arg.env(UNSET).hide_env(true) } else { arg };
        let matches = Self::command().mut_args(without).try_get_matches_from(arguments)?;
        Self::from_arg_matches(&matches)
    }
}

/// No variable has a name that cannot be set.
const UNSET: &str = "KATA_PULSE=";

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        Self {
            listen: args.listen_address,
            runtime_endpoint: args.runtime_endpoint,
            metrics_interval: Duration::from_secs(args.metrics_interval_secs),
            host_interval: Duration::from_secs(args.host_interval_secs),
            log_level: args.log_level,
            log_format: args.log_format,
            host: HostPaths { bases: args.sandbox_dir, procfs: args.procfs, sysfs: args.sysfs, ..HostPaths::default() },
            ebpf: args.ebpf,
            ebpf_directories: args.ebpf_directories,
            shim_metrics: args.shim_metrics,
            levels: BTreeSet::from_iter(args.levels),
            disabled: BTreeSet::from_iter(args.disable_metrics),
            passthrough: args.passthrough.into_iter().filter(|prefix| !prefix.is_empty()).collect(),
            ended_retention: Duration::from_secs(args.ended_retention_secs),
            ebpf_programs: args.ebpf_programs.into_iter().filter(|program| *program != EbpfPrograms::None).collect(),
            thread_detail: args.thread_detail,
            qdisc: args.qdisc,
        }
    }
}

fn parse_endpoint(raw: &str) -> Result<PathBuf, String> {
    let path = raw.strip_prefix("unix://").unwrap_or(raw);
    if path.starts_with('/') { Ok(path.into()) } else { Err("an absolute path or unix:///path is needed".into()) }
}

fn parse_base(raw: &str) -> Result<BaseDirectory, String> {
    let (runtime, path) = match raw.split_once(':') {
        Some(("go", path)) => (Some(Runtime::Go), path),
        Some(("rust", path)) => (Some(Runtime::Rust), path),
        _ => (None, raw),
    };
    if path.starts_with('/') {
        Ok(BaseDirectory { runtime, path: path.into() })
    } else {
        Err("an absolute path is needed, with go: or rust: in front if the runtime is known".into())
    }
}

fn parse_directives(raw: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(raw)
        .map(|_| raw.to_owned())
        .map_err(|error| format!("{error}; trace, debug, info, warn, error or tracing directives are needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, clap::Error> {
        Args::try_parse_from(std::iter::once("kata-pulse").chain(args.iter().copied())).map(Config::from)
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = config(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8090");
        assert_eq!(config.runtime_endpoint, None);
        assert_eq!(config.metrics_interval, Duration::from_secs(60));
        assert_eq!(config.host, HostPaths::default());
        assert_eq!(config.levels, BTreeSet::from([Level::Pod, Level::Container]));
        assert!(config.disabled.is_empty() && config.passthrough.is_empty());
    }

    #[test]
    fn lists_and_prefixes_are_understood() {
        let config = config(&[
            "--sandbox-dir",
            "go:/a",
            "--sandbox-dir",
            "/b",
            "--disable-metrics",
            "diskIO,oom_event",
            "-r",
            "unix:///run/x.sock",
            "--levels",
            "container",
        ])
        .unwrap();
        assert_eq!(config.host.bases[0], BaseDirectory { runtime: Some(Runtime::Go), path: "/a".into() });
        assert_eq!(config.host.bases[1], BaseDirectory { runtime: None, path: "/b".into() });
        assert_eq!(config.disabled, BTreeSet::from([MetricKind::DiskIo, MetricKind::OomEvent]));
        assert_eq!(config.runtime_endpoint, Some("/run/x.sock".into()));
        assert_eq!(config.levels, BTreeSet::from([Level::Container]));
    }

    #[test]
    fn a_bad_value_names_flag_and_value() {
        for args in [
            ["--metrics-interval-secs", "0"],
            ["--listen-address", "nowhere"],
            ["--sandbox-dir", "relative"],
            ["--runtime-endpoint", "tcp://x"],
            ["--ebpf", "maybe"],
        ] {
            let text = config(&args).unwrap_err().to_string();
            assert!(text.contains(args[0]) && text.contains(args[1]), "{text}");
        }
    }
}
