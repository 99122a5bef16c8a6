//! Prometheus text 0.0.4 and OpenMetrics 1.0: labels in alphabetical order, no timestamps.

use std::io::Write;

use super::ForeignFamily;
use super::families::{self, Family, Labels, Scope, Type};
use crate::model::SandboxPage;

/// The two text formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// About what a sandbox with one interface and one disk takes: more would be held for nothing.
const BYTES_PER_SANDBOX: usize = 6 * 1024;

/// Label text that all series of a sandbox share, made once per page.
struct Prepared {
    /// `id="…",image=""`
    id: String,
    /// `name="",namespace="…",pod="…"`
    name: String,
    namespace: String,
    pod: String,
    sandbox_id: String,
}

impl Prepared {
    fn of(sandbox: &SandboxPage) -> Self {
        let (namespace, pod) = (escape(&sandbox.namespace), escape(&sandbox.pod));
        Self {
            id: format!("id=\"{}\",image=\"\"", escape(&sandbox.pod_level_id)),
            name: format!("name=\"\",namespace=\"{namespace}\",pod=\"{pod}\""),
            sandbox_id: escape(&sandbox.sandbox_id),
            namespace,
            pod,
        }
    }
}

pub(super) struct Writer {
    out: Vec<u8>,
    format: Format,
    prepared: Vec<Prepared>,
}

/// Takes the samples of one family; writes its head before the first.
#[expect(missing_debug_implementations, reason = "it is half a page of bytes")]
pub struct Sink<'a> {
    writer: &'a mut Writer,
    family: &'a Family,
    at: usize,
    begun: &'a mut bool,
}

impl Writer {
    pub(super) fn new(format: Format, sandboxes: &[SandboxPage]) -> Self {
        let prepared = sandboxes.iter().map(Prepared::of).collect();
        Self { out: Vec::with_capacity(64 * 1024 + sandboxes.len() * BYTES_PER_SANDBOX), format, prepared }
    }

    pub(super) fn family(&mut self, family: &Family, sandboxes: &[SandboxPage]) {
        let mut begun = false;
        match family.write {
            families::Write::Each(write) => {
                for (at, sandbox) in sandboxes.iter().enumerate() {
                    write(sandbox, &mut Sink { writer: self, family, at, begun: &mut begun });
                }
            }
            families::Write::All(write) => {
                write(sandboxes, &mut Sink { writer: self, family, at: 0, begun: &mut begun });
            }
        }
    }

    pub(super) fn foreign(&mut self, family: &ForeignFamily) {
        let text = match self.format {
            Format::Text => &family.text,
            Format::OpenMetrics => &family.openmetrics,
        };
        self.out.extend_from_slice(text.as_bytes());
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.format == Format::OpenMetrics {
            self.put("# EOF\n");
        }
        self.out
    }

    fn put(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn head(&mut self, family: &Family) {
        // OpenMetrics names a counter without its suffix, and knows no counter whose name lacks it.
        let (name, kind) = match (self.format, family.of_type) {
            (Format::Text, kind) => (family.name, kind.as_str()),
            (Format::OpenMetrics, Type::Counter) => match family.name.strip_suffix("_total") {
                Some(base) => (base, "counter"),
                None => (family.name, "unknown"),
            },
            (Format::OpenMetrics, Type::Gauge) => (family.name, "gauge"),
        };
        self.put(&format!("# HELP {name} {}\n# TYPE {name} {kind}\n", family.help));
    }
}

impl Sink<'_> {
    /// One sample, unless there is no value. `labels` are the family's own.
    pub fn put(&mut self, labels: Labels<'_>, value: Option<f64>) {
        let Some(value) = value.filter(|value| value.is_finite()) else { return };
        if !std::mem::replace(self.begun, true) {
            self.writer.head(self.family);
        }
        self.writer.put(self.family.name);
        match self.family.scope {
            Scope::Pod => self.pod_labels(labels),
            Scope::Sandbox => self.sandbox_labels(labels),
            Scope::Agent => self.agent_labels(labels),
        }
        // Writing to a vector cannot fail.
        let _ = writeln!(self.writer.out, " {value}");
    }

    /// The six standard labels, empty ones too, and the family's own between them.
    fn pod_labels(&mut self, labels: Labels<'_>) {
        let prepared = &self.writer.prepared[self.at];
        let out = &mut self.writer.out;
        out.extend_from_slice(b"{container=\"\",");
        write_pairs(out, labels, |name| name < "id", |out| out.push(b','), false);
        out.extend_from_slice(prepared.id.as_bytes());
        out.push(b',');
        write_pairs(out, labels, |name| name > "id" && name < "name", |out| out.push(b','), false);
        out.extend_from_slice(prepared.name.as_bytes());
        write_pairs(out, labels, |name| name > "pod", |out| out.push(b','), true);
        out.push(b'}');
    }

    fn sandbox_labels(&mut self, labels: Labels<'_>) {
        let prepared = &self.writer.prepared[self.at];
        let standard = [
            ("namespace", prepared.namespace.as_str()),
            ("pod", prepared.pod.as_str()),
            ("sandbox_id", prepared.sandbox_id.as_str()),
        ];
        let escaped: Vec<(&str, String)> = labels.iter().map(|(name, value)| (*name, escape(value))).collect();
        let mut all: Vec<(&str, &str)> = standard.to_vec();
        all.extend(escaped.iter().map(|(name, value)| (*name, value.as_str())));
        write_sorted(&mut self.writer.out, all);
    }

    fn agent_labels(&mut self, labels: Labels<'_>) {
        let escaped: Vec<(&str, String)> = labels.iter().map(|(name, value)| (*name, escape(value))).collect();
        write_sorted(&mut self.writer.out, escaped.iter().map(|(name, value)| (*name, value.as_str())).collect());
    }
}

fn write_pairs(
    out: &mut Vec<u8>,
    labels: Labels<'_>,
    wanted: impl Fn(&str) -> bool,
    comma: impl Fn(&mut Vec<u8>),
    before: bool,
) {
    for (name, value) in labels.iter().filter(|(name, _)| wanted(name)) {
        if before {
            comma(out);
        }
        let _ = write!(out, "{name}=\"{}\"", escape(value));
        if !before {
            comma(out);
        }
    }
}

fn write_sorted(out: &mut Vec<u8>, mut labels: Vec<(&str, &str)>) {
    labels.sort_unstable();
    for (at, (name, value)) in labels.iter().enumerate() {
        let _ = write!(out, "{}{name}=\"{value}\"", if at == 0 { '{' } else { ',' });
    }
    if !labels.is_empty() {
        out.push(b'}');
    }
}

/// Backslash, quote and line feed, as both formats want them.
fn escape(value: &str) -> String {
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
