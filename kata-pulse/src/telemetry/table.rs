//! The table of the agent's own families: what is registered, documented and checked is this.

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnKind {
    Gauge,
    Counter,
    Histogram,
}

impl OwnKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// One family as the page shows it. Help ends with a full stop.
#[derive(Clone, Copy, Debug)]
pub struct OwnRow {
    pub name: &'static str,
    pub kind: OwnKind,
    /// Comma separated, alphabetical, `le` left out.
    pub labels: &'static str,
    pub help: &'static str,
}

const fn row(name: &'static str, kind: OwnKind, labels: &'static str, help: &'static str) -> OwnRow {
    OwnRow { name, kind, labels, help }
}

use OwnKind::{Counter as C, Gauge as G, Histogram as H};

/// In name order.
pub const OWN_FAMILIES: &[OwnRow] = &[
    row("kata_pulse_build_info", G, "ebpf, revision, version", "What this build is; always 1."),
    row("kata_pulse_collect_duration_seconds", H, "source", "Time that one collection of one sandbox took."),
    row("kata_pulse_collect_failures_total", C, "reason, source", "Collections that gave nothing, by reason."),
    row("kata_pulse_discovery_events_total", C, "event, source", "What discovery learnt, by who told it."),
    row(
        "kata_pulse_discovery_latency_seconds",
        H,
        "event",
        "From the kernel's timestamp of an event to the registry knowing it.",
    ),
    row("kata_pulse_ebpf_program_attached", G, "program, reason", "Whether an eBPF program is attached, or why not."),
    row("kata_pulse_ebpf_program_events_total", C, "program", "Times an eBPF program ran or sent an event."),
    row("kata_pulse_ebpf_program_run_seconds_total", C, "program", "Time spent inside an eBPF program."),
    row("kata_pulse_events_foreign_total", C, "", "Events refused as forged or not ours."),
    row("kata_pulse_events_lost_total", C, "", "Events that the kernel side could not send."),
    row("kata_pulse_http_requests_total", C, "code, path", "Requests answered."),
    row("kata_pulse_http_response_bytes_total", C, "code, path", "Bytes of response bodies, as sent."),
    row("kata_pulse_leftovers", G, "kind", "Directory entries that look like sandboxes and are not."),
    row("kata_pulse_limited_total", C, "limit", "Samples, series, bytes or connections cut by a limit."),
    row("kata_pulse_orphans", G, "kind", "Processes that outlived their sandbox."),
    row("kata_pulse_process_cpu_seconds_total", C, "", "User and system CPU time of the agent."),
    row("kata_pulse_process_max_fds", G, "", "Limit of open file descriptors of the agent."),
    row("kata_pulse_process_open_fds", G, "", "Open file descriptors of the agent."),
    row("kata_pulse_process_resident_memory_bytes", G, "", "Resident memory of the agent."),
    row("kata_pulse_process_start_time_seconds", G, "", "Start of the agent since the Unix epoch."),
    row("kata_pulse_process_threads", G, "", "Threads of the agent."),
    row("kata_pulse_process_virtual_memory_bytes", G, "", "Virtual memory of the agent."),
    row("kata_pulse_render_duration_seconds", H, "", "Time that rendering one page took."),
    row(
        "kata_pulse_sandbox_startup_seconds",
        H,
        "runtime, stage, vmm",
        "From a sandbox's beginning, as the container runtime tells it, else its shim's, to a stage of its start.",
    ),
    row(
        "kata_pulse_sandboxes_ended_total",
        C,
        "cause, vmm",
        "Sandboxes that ended since the agent began, by what died first.",
    ),
];
