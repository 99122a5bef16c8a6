//! Prometheus text 0.0.4 and OpenMetrics 1.0: labels in alphabetical order, no timestamps.

use std::io::Write as _;

use super::families::{Family, Labels, Scope, Type, Write};
use super::{ForeignFamily, Selection};
use crate::model::{ContainerPage, Histogram, Level, NamespaceStats, SandboxPage};

/// The two text formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// About what a sandbox with one interface, one disk and one file system takes, and what a container takes more: memory
/// beyond that would be held for nothing.
const BYTES_PER_SANDBOX: usize = 18 * 1024;
const BYTES_PER_CONTAINER: usize = 12 * 1024;

/// Label text that all series of a pod or of a container share, made once per page.
#[derive(Debug)]
struct Standard {
    /// `{container="…",`
    container: String,
    /// `id="…",image="…"`
    id: String,
    /// `name="…",namespace="…"`
    name: String,
    /// `pod="…"`
    pod: String,
}

impl Standard {
    fn new(container: &str, id: &str, image: &str, name: &str, sandbox: &SandboxPage) -> Self {
        let (namespace, pod) = (escape(&sandbox.namespace), escape(&sandbox.pod));
        Self {
            container: format!("{{container=\"{}\",", escape(container)),
            id: format!("id=\"{}\",image=\"{}\"", escape(id), escape(image)),
            name: format!("name=\"{}\",namespace=\"{namespace}\"", escape(name)),
            pod: format!("pod=\"{pod}\""),
        }
    }

    fn of_container(container: &ContainerPage, sandbox: &SandboxPage) -> Self {
        Self::new(&container.container, &container.cgroup, &container.image, &container.name, sandbox)
    }
}

/// What is written before the samples of one sandbox.
#[derive(Debug)]
struct Prepared {
    pod: Standard,
    containers: Vec<Standard>,
    /// Escaped.
    sandbox: [(&'static str, String); 3],
}

impl Prepared {
    fn of(sandbox: &SandboxPage) -> Self {
        let containers = sandbox.containers.iter();
        Self {
            pod: Standard::new("", &sandbox.pod_level_id, "", "", sandbox),
            containers: containers.map(|container| Standard::of_container(container, sandbox)).collect(),
            sandbox: [
                ("namespace", escape(&sandbox.namespace)),
                ("pod", escape(&sandbox.pod)),
                ("sandbox_id", escape(&sandbox.sandbox_id)),
            ],
        }
    }
}

pub(super) struct Writer<'a> {
    out: Vec<u8>,
    format: Format,
    selection: &'a Selection,
    prepared: Vec<Prepared>,
}

/// Whose sample is written.
#[derive(Clone, Copy)]
enum Subject<'a> {
    Standard(&'a Standard),
    Sandbox(&'a Prepared),
    Agent,
}

/// Takes the samples of one family; writes its head before the first.
#[expect(missing_debug_implementations, reason = "it is half a page of bytes")]
pub struct Sink<'a> {
    out: &'a mut Vec<u8>,
    format: Format,
    family: &'a Family,
    subject: Subject<'a>,
    begun: bool,
}

impl<'a> Writer<'a> {
    /// `expected`: about how many bytes the page will have, or 0 if nobody knows; a buffer that has to grow is held twice.
    pub(super) fn new(format: Format, selection: &'a Selection, sandboxes: &[SandboxPage], expected: usize) -> Self {
        let containers: usize = sandboxes.iter().map(|sandbox| sandbox.containers.len()).sum();
        let estimate = sandboxes.len() * BYTES_PER_SANDBOX + containers * BYTES_PER_CONTAINER;
        let bytes = 64 * 1024 + if expected > 0 { expected + expected / 64 } else { estimate };
        let prepared = sandboxes.iter().map(Prepared::of).collect();
        Self { out: Vec::with_capacity(bytes), format, selection, prepared }
    }

    pub(super) fn family(&mut self, family: &Family, sandboxes: &[SandboxPage], namespaces: &[NamespaceStats]) {
        let Self { out, format, selection, prepared } = self;
        let mut sink = Sink { out, format: *format, family, subject: Subject::Agent, begun: false };
        let pods = selection.has(family, Level::Pod) && !family.of_pod.is_empty();
        let containers = selection.has(family, Level::Container) && !family.of_container.is_empty();
        match family.write {
            Write::All(write) => return write(sandboxes, &mut sink),
            Write::Namespace(write) => return namespaces.iter().for_each(|namespace| write(namespace, &mut sink)),
            _ => {}
        }
        for (sandbox, prepared) in sandboxes.iter().zip(prepared.iter()) {
            if sandbox.end.is_some() && !family.outlives_its_sandbox() {
                continue;
            }
            if pods {
                sink.subject = match family.scope {
                    Scope::Cadvisor => Subject::Standard(&prepared.pod),
                    Scope::Sandbox | Scope::Agent => Subject::Sandbox(prepared),
                };
                write_pod(family.write, sandbox, &mut sink);
            }
            if containers {
                for (container, standard) in sandbox.containers.iter().zip(&prepared.containers) {
                    sink.subject = Subject::Standard(standard);
                    write_container(family.write, container, &mut sink);
                }
            }
        }
    }

    pub(super) fn foreign(&mut self, family: &ForeignFamily) {
        self.out.extend_from_slice(family.lines.as_bytes());
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.format == Format::OpenMetrics {
            self.out.extend_from_slice(b"# EOF\n");
        }
        self.out
    }
}

fn write_pod(write: Write, sandbox: &SandboxPage, sink: &mut Sink<'_>) {
    match (write, &sandbox.stats, &sandbox.guest) {
        (Write::Value(value), Some(stats), _) => sink.put(&[], value(stats)),
        (Write::Series(series), Some(stats), _) => series(stats, sink),
        (Write::Guest(series), _, Some(guest)) => series(guest, sink),
        (Write::Host(series), ..) => sandbox.host.iter().for_each(|host| series(host, sink)),
        (Write::Sandbox(series), ..) => series(sandbox, sink),
        _ => {}
    }
}

fn write_container(write: Write, container: &ContainerPage, sink: &mut Sink<'_>) {
    match (write, &container.stats) {
        (Write::Value(value), Some(stats)) => sink.put(&[], value(stats)),
        (Write::Series(series), Some(stats)) => series(stats, sink),
        (Write::Container(series), _) => series(container, sink),
        _ => {}
    }
}

impl Sink<'_> {
    /// One sample, unless there is no value. `labels` are the family's own.
    pub fn put(&mut self, labels: Labels<'_>, value: Option<f64>) {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            self.sample("", labels, value);
        }
    }

    /// A bucket for each bound and one above, sum and count, unless nothing was ever counted.
    pub fn put_histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) {
        let count = histogram.count();
        if count == 0 {
            return;
        }
        let mut below = 0;
        for (at, counted) in histogram.counts.iter().enumerate() {
            below += counted;
            let bound = histogram.bounds.get(at).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.sample("_bucket", &labels, below as f64);
        }
        self.sample("_sum", labels, histogram.sum_seconds);
        self.sample("_count", labels, count as f64);
    }

    fn sample(&mut self, suffix: &str, labels: Labels<'_>, value: f64) {
        if !std::mem::replace(&mut self.begun, true) {
            self.head();
        }
        self.out.extend_from_slice(self.family.name.as_bytes());
        self.out.extend_from_slice(suffix.as_bytes());
        match self.subject {
            Subject::Standard(standard) => standard_labels(self.out, standard, labels),
            Subject::Sandbox(prepared) => {
                let standard = prepared.sandbox.iter().map(|(name, value)| (*name, value.clone()));
                write_sorted(self.out, standard.chain(escaped(labels)).collect());
            }
            Subject::Agent => write_sorted(self.out, escaped(labels).collect()),
        }
        // Writing to a vector cannot fail.
        let _ = writeln!(self.out, " {value}");
    }

    fn head(&mut self) {
        let family = self.family;
        // OpenMetrics names a counter without its suffix, and knows no counter whose name lacks it.
        let (name, kind) = match (self.format, family.of_type) {
            (Format::Text, kind) => (family.name, kind.as_str()),
            (Format::OpenMetrics, Type::Counter) => match family.name.strip_suffix("_total") {
                Some(base) => (base, "counter"),
                None => (family.name, "unknown"),
            },
            (Format::OpenMetrics, kind) => (family.name, kind.as_str()),
        };
        let _ = writeln!(self.out, "# HELP {name} {}\n# TYPE {name} {kind}", family.help);
    }
}

/// The six standard labels, empty ones too, and the family's own between them.
fn standard_labels(out: &mut Vec<u8>, standard: &Standard, labels: Labels<'_>) {
    let Standard { container, id, name, pod } = standard;
    out.extend_from_slice(container.as_bytes());
    let mut own = labels.iter().peekable();
    for (part, last) in [(id, "id"), (name, "name"), (pod, "pod")] {
        while let Some((label, value)) = own.next_if(|(label, _)| *label < last) {
            let _ = write!(out, "{label}=\"{}\",", escape(value));
        }
        out.extend_from_slice(part.as_bytes());
        out.push(if last == "pod" { b'}' } else { b',' });
    }
    if let Some(end) = out.last_mut().filter(|_| own.peek().is_some()) {
        *end = b',';
        for (label, value) in own {
            let _ = write!(out, "{label}=\"{}\",", escape(value));
        }
        let _ = out.pop();
        out.push(b'}');
    }
}

fn escaped<'a>(labels: Labels<'a>) -> impl Iterator<Item = (&'static str, String)> + use<'a> {
    labels.iter().map(|(name, value)| (*name, escape(value)))
}

fn write_sorted(out: &mut Vec<u8>, mut labels: Vec<(&'static str, String)>) {
    labels.sort_unstable();
    for (at, (name, value)) in labels.iter().enumerate() {
        let _ = write!(out, "{}{name}=\"{value}\"", if at == 0 { '{' } else { ',' });
    }
    if !labels.is_empty() {
        out.push(b'}');
    }
}

/// Backslash, quote and line feed, as both formats want them.
pub(super) fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            other => escaped.push(other),
        }
    }
    escaped
}
