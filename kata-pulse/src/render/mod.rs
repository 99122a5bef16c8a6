//! Models → one exposition. The table in [`families`] says what there is; `text` knows the two formats.
//!
//! Costs memory of the page's size and no IO. A family without a sample does not appear.

pub mod families;
mod raw;
mod text;

pub use raw::raw_families;
pub use text::Format;
use text::Writer;

use crate::model::{Level, MetricKind, NamespaceStats, SandboxPage};
use families::Scope;

/// A family that is no row of the table (the agent's own, or passed through): its name and its lines in the page's format.
#[derive(Clone, Debug)]
pub struct ForeignFamily {
    pub name: String,
    pub lines: String,
}

/// Which families and levels are wanted.
#[derive(Clone, Debug)]
pub struct Selection {
    pub levels: std::collections::BTreeSet<Level>,
    pub disabled: std::collections::BTreeSet<MetricKind>,
}

impl Selection {
    fn wants(&self, family: &families::Family) -> bool {
        family.kind.is_none_or(|kind| !self.disabled.contains(&kind))
    }

    /// Whether series of a level are wanted; only cAdvisor's families have levels.
    fn has(&self, family: &families::Family, level: Level) -> bool {
        family.scope != Scope::Cadvisor || self.levels.contains(&level)
    }
}

/// Writes every wanted family once, in name order, in which `foreign` is too. `named` filters by name.
/// `expected`: the size of the last such page, or 0.
pub fn render(
    sandboxes: &[SandboxPage],
    namespaces: &[NamespaceStats],
    foreign: &[ForeignFamily],
    selection: &Selection,
    format: Format,
    expected: usize,
    named: impl Fn(&str) -> bool,
) -> Vec<u8> {
    let mut writer = Writer::new(format, selection, sandboxes, expected);
    let mut foreign = foreign.iter().filter(|family| named(&family.name)).peekable();
    for family in families::ALL.iter().filter(|family| selection.wants(family) && named(family.name)) {
        while let Some(earlier) = foreign.next_if(|other| other.name.as_str() < family.name) {
            writer.foreign(earlier);
        }
        writer.family(family, sandboxes, namespaces);
    }
    foreign.for_each(|later| writer.foreign(later));
    writer.finish()
}

#[cfg(test)]
mod tests;
