//! Kinds of metrics that can be switched off, and levels of series.

/// A level of `container_*` series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Level {
    Pod,
    Container,
}

/// A kind of metrics that can be switched off, by cAdvisor's names and our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum MetricKind {
    #[value(name = "cpu")]
    Cpu,
    #[value(name = "memory")]
    Memory,
    #[value(name = "disk")]
    Disk,
    #[value(name = "diskIO")]
    DiskIo,
    #[value(name = "network")]
    Network,
    #[value(name = "process")]
    Process,
    #[value(name = "oom_event")]
    OomEvent,
    #[value(name = "guest")]
    Guest,
    #[value(name = "host")]
    Host,
    #[value(name = "ebpf")]
    Ebpf,
}
