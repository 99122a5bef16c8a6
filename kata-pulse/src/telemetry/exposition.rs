//! prometheus-client's OpenMetrics text, cut into families and put into the page's two formats. Pure.
//!
//! What is changed: text 0.0.4 names counters with `_total` in HELP and TYPE; labels are alphabetical; series are in
//! a fixed order (prometheus-client's is that of a hash map), buckets before sum and count.

use std::fmt::Write;

/// One family, ready to be written between others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnFamily {
    /// The name that text 0.0.4 shows: counters end in `_total`.
    pub name: String,
    /// HELP, TYPE and samples in text 0.0.4.
    pub text: String,
    /// The same in OpenMetrics 1.0, without `# EOF`.
    pub openmetrics: String,
}

/// Families with at least one sample, in name order.
pub fn parse_families(exposition: &str) -> Vec<OwnFamily> {
    let mut families = Vec::new();
    let mut lines = exposition.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((base, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else { continue };
        let mut kind = "unknown";
        let mut samples = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with("# HELP ")) {
            match line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                Some((_, word)) => kind = word,
                None if line.starts_with('#') => {}
                None => samples.push(sorted_labels(line)),
            }
        }
        if !samples.is_empty() {
            families.push(family(base, help, kind, samples));
        }
    }
    families.sort_by(|a, b| a.name.cmp(&b.name));
    families
}

fn family(base: &str, help: &str, kind: &str, samples: Vec<String>) -> OwnFamily {
    let name = if kind == "counter" { format!("{base}_total") } else { base.to_owned() };
    let samples = in_order(samples, kind).into_iter().fold(String::new(), |text, line| text + &line + "\n");
    let block = |name: &str| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
    OwnFamily { text: block(&name), openmetrics: block(base), name }
}

/// Counters and gauges by line; histograms series by series, as `_sum` (the first line of each) sorts them.
fn in_order(mut samples: Vec<String>, kind: &str) -> Vec<String> {
    if kind != "histogram" {
        samples.sort();
        return samples;
    }
    let is_sum = |line: &str| line.split(['{', ' ']).next().is_some_and(|name| name.ends_with("_sum"));
    let mut series: Vec<Vec<String>> = Vec::new();
    for line in samples {
        match series.last_mut() {
            Some(last) if !is_sum(&line) => last.push(line),
            _ => series.push(vec![line]),
        }
    }
    series.sort();
    for lines in &mut series {
        let head = lines.len().min(2);
        lines.rotate_left(head);
    }
    series.concat()
}

/// `name{b="2",a="1"} 3` → `name{a="1",b="2"} 3`.
fn sorted_labels(line: &str) -> String {
    let Some((name, rest)) = line.split_once('{') else { return line.to_owned() };
    let (mut labels, value) = split_labels(rest);
    if labels.is_empty() {
        return format!("{name}{value}");
    }
    labels.sort_unstable();
    let mut sorted = String::with_capacity(line.len());
    let _ = write!(sorted, "{name}{{{}}}{value}", labels.join(","));
    sorted
}

/// The labels up to the closing brace, and what follows it. Quotes may hold anything.
fn split_labels(rest: &str) -> (Vec<&str>, &str) {
    let (mut labels, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b'}' if !quoted => {
                if at > start {
                    labels.push(&rest[start..at]);
                }
                start = at + 1;
                if byte == b'}' {
                    break;
                }
            }
            _ => {}
        }
    }
    (labels, &rest[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_with_total_in_text_only() {
        let families = parse_families("# HELP a_b Things.\n# TYPE a_b counter\na_b_total{y=\"2\",x=\"1\"} 3\n# EOF\n");
        assert_eq!(families[0].name, "a_b_total");
        assert_eq!(
            families[0].text,
            "# HELP a_b_total Things.\n# TYPE a_b_total counter\na_b_total{x=\"1\",y=\"2\"} 3\n"
        );
        assert_eq!(families[0].openmetrics, "# HELP a_b Things.\n# TYPE a_b counter\na_b_total{x=\"1\",y=\"2\"} 3\n");
    }

    #[test]
    fn label_values_may_hold_anything() {
        assert_eq!(sorted_labels(r#"m{b="x,}\"y",a="\\"} 1"#), r#"m{a="\\",b="x,}\"y"} 1"#);
        assert_eq!(sorted_labels("m{} 1"), "m 1");
        assert_eq!(sorted_labels("m 1"), "m 1");
    }

    #[test]
    fn families_without_samples_are_left_out() {
        assert_eq!(parse_families("# HELP a A.\n# TYPE a gauge\n# HELP b B.\n# TYPE b gauge\nb 1\n").len(), 1);
    }
}
