//! What may be tried to learn something. A [`Ladder`] is one thing we want to know; its rungs are tried from the top
//! until all programs of one attach.

use std::collections::BTreeMap;

/// Where a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    BtfTracepoint(&'static str),
    Fexit(&'static str),
    Kprobe(&'static str),
    Tracepoints(&'static str, &'static [&'static str]),
}

impl Hook {
    /// As people write it.
    pub fn describe(&self) -> String {
        match self {
            Self::BtfTracepoint(name) => format!("tp_btf/{name}"),
            Self::Fexit(name) => format!("fexit/{name}"),
            Self::Kprobe(name) => format!("kprobe/{name}"),
            Self::Tracepoints(category, names) => format!("tracepoint/{category}:{}", names.join(",")),
        }
    }
}

/// A program of the object and its hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub program: &'static str,
    pub hook: Hook,
}

/// One way to learn something: all its programs, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rung {
    pub steps: Vec<Step>,
    pub refused: Option<String>,
}

/// Ways to learn one thing, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    pub feature: &'static str,
    pub rungs: Vec<Rung>,
}

/// Why programs that need these numbers cannot be loaded; `None`: all are there.
pub fn missing(globals: &BTreeMap<&'static str, u32>, needed: &[&str]) -> Option<String> {
    let lacking: Vec<&str> = needed.iter().copied().filter(|name| !globals.contains_key(name)).collect();
    (!lacking.is_empty()).then(|| format!("not found in this kernel's BTF or tracefs: {}", lacking.join(", ")))
}
