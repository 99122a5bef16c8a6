//! Families that are passed through, each once for all sandboxes, with the labels that kata-monitor adds.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::text::escape;
use super::{ForeignFamily, Format};
use crate::model::{RawFamily, RawSample, SandboxPage};

/// In name order.
pub fn raw_families(sandboxes: &[SandboxPage], format: Format) -> Vec<ForeignFamily> {
    let mut families: BTreeMap<&str, String> = BTreeMap::new();
    for sandbox in sandboxes {
        let labels = Labels::of(sandbox);
        for family in sandbox.raw.iter() {
            let lines = families.entry(&family.name).or_insert_with(|| head(family, format));
            family.samples.iter().for_each(|sample| labels.write(lines, &family.name, sample));
        }
    }
    families.into_iter().map(|(name, lines)| ForeignFamily { name: name.to_owned(), lines }).collect()
}

fn head(family: &RawFamily, format: Format) -> String {
    let RawFamily { name, kind, .. } = family;
    let (name, kind) = match (format, *kind, name.strip_suffix("_total")) {
        (Format::OpenMetrics, "counter", Some(base)) => (base, "counter"),
        // Kata's own counters lack the suffix that a counter must have there.
        (Format::OpenMetrics, "counter", None) => (&**name, "unknown"),
        (_, kind, _) => (&**name, kind),
    };
    format!("# HELP {name} Passed through from the shim or the guest.\n# TYPE {name} {kind}\n")
}

/// What kata-monitor says of a sandbox.
struct Labels {
    cri: String,
    sandbox_id: String,
}

impl Labels {
    fn of(sandbox: &SandboxPage) -> Self {
        let (name, namespace, uid) = (escape(&sandbox.pod), escape(&sandbox.namespace), escape(&sandbox.uid));
        Self {
            cri: format!("cri_name=\"{name}\",cri_namespace=\"{namespace}\",cri_uid=\"{uid}\""),
            sandbox_id: format!("sandbox_id=\"{}\"", escape(&sandbox.sandbox_id)),
        }
    }

    fn write(&self, lines: &mut String, family: &str, sample: &RawSample) {
        let RawSample { suffix, labels: [before, between, behind], value } = sample;
        let parts = [&**before, &self.cri, between, &self.sandbox_id, behind];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{family}{suffix}{{{}}} {value}", parts.join(","));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn sandbox(id: &str, kind: &'static str) -> SandboxPage {
        let sample =
            |suffix, labels: [&str; 3]| RawSample { suffix, labels: labels.map(Into::into), value: "1".into() };
        let family = RawFamily {
            name: "kata_agent_scrape_count".into(),
            kind,
            samples: vec![sample("", ["action=\"x\"", "item=\"y\"", ""]), sample("", ["", "", "z=\"1\""])],
        };
        SandboxPage {
            sandbox_id: id.into(),
            pod: "p".into(),
            namespace: "n".into(),
            uid: "u".into(),
            raw: Arc::new(vec![family]),
            ..SandboxPage::default()
        }
    }

    #[test]
    fn families_come_once_with_kata_monitors_labels_in_order() {
        let sandboxes = [sandbox("aa", "counter"), sandbox("bb", "counter")];
        let families = raw_families(&sandboxes, Format::Text);
        let expected = "# HELP kata_agent_scrape_count Passed through from the shim or the guest.\n\
            # TYPE kata_agent_scrape_count counter\n\
            kata_agent_scrape_count{action=\"x\",cri_name=\"p\",cri_namespace=\"n\",cri_uid=\"u\",item=\"y\",sandbox_id=\"aa\"} 1\n\
            kata_agent_scrape_count{cri_name=\"p\",cri_namespace=\"n\",cri_uid=\"u\",sandbox_id=\"aa\",z=\"1\"} 1\n";
        assert_eq!(families.len(), 1);
        assert!(families[0].lines.starts_with(expected), "{}", families[0].lines);
        assert!(families[0].lines.contains("sandbox_id=\"bb\""));
        let openmetrics = raw_families(&sandboxes[..1], Format::OpenMetrics);
        assert!(openmetrics[0].lines.contains("# TYPE kata_agent_scrape_count unknown\n"));
    }
}
