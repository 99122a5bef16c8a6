//! What of the chart is written by `cargo xtask docs`. In: its values.yaml and README.md, docs/prometheus.md. Out: the
//! README with a fresh table of values, and copies of the page's blocks, which templates read. Pure but for reading.

use std::fs;

use anyhow::{Context, bail};

use crate::steps;

const CHART: &str = "helm/kata-pulse";
/// The blocks of the page that the chart renders.
const BLOCKS: [&str; 4] = ["podmonitor-own", "podmonitor-kubelet", "kubelet-drop", "kubelet-drop-chart"];
const BEGIN: &str = "<!-- values: written by `cargo xtask docs` -->\n";
const END: &str = "<!-- end of values -->\n";

/// Path and content of each file.
pub fn files() -> anyhow::Result<Vec<(String, String)>> {
    let readme = format!("{CHART}/README.md");
    let values = parse_values(&read(&format!("{CHART}/values.yaml"))?).context("values.yaml of the chart")?;
    let fresh = with_table(&read(&readme)?, &table(&values))?;
    let page = read("docs/prometheus.md")?;
    let mut files = vec![(readme, fresh)];
    for name in BLOCKS {
        files.push((format!("{CHART}/files/{name}.yaml"), block(&page, name)?.to_owned()));
    }
    Ok(files)
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(steps::root().join(path)).with_context(|| format!("read {path}"))
}

#[derive(Debug, PartialEq, Eq)]
struct Value {
    key: String,
    default: String,
    about: String,
}

/// Every key with a value on its line, which must be described by the comment above it that begins with `# --`.
fn parse_values(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut values = Vec::new();
    let mut parents: Vec<(usize, &str)> = Vec::new();
    let mut about: Option<String> = None;
    for line in text.lines() {
        let content = line.trim_start();
        if let Some(begin) = content.strip_prefix("# -- ") {
            about = Some(begin.to_owned());
        } else if let Some(more) = content.strip_prefix('#') {
            about = about.map(|text| text + more);
        } else if content.is_empty() {
            about = None;
        } else {
            let depth = line.len() - content.len();
            let (key, default) = content.split_once(':').with_context(|| format!("no key: {line}"))?;
            parents.retain(|(above, _)| *above < depth);
            let path: Vec<&str> = parents.iter().map(|(_, name)| *name).chain([key]).collect();
            match (default.trim(), about.take()) {
                ("", None) => parents.push((depth, key)),
                ("", Some(_)) => bail!("{}: only keys with a value on their line are described", path.join(".")),
                (_, None) => bail!("{}: no comment `# -- …` above it", path.join(".")),
                (default, Some(about)) => values.push(Value { key: path.join("."), default: default.into(), about }),
            }
        }
    }
    Ok(values)
}

fn table(values: &[Value]) -> String {
    let row = |value: &Value| {
        let about = value.about.replace('|', "\\|");
        format!("| `{}` | `{}` | {about} |\n", value.key, value.default.replace('|', "\\|"))
    };
    format!("| value | default | |\n|---|---|---|\n{}", values.iter().map(row).collect::<String>())
}

fn with_table(readme: &str, table: &str) -> anyhow::Result<String> {
    let (before, rest) = readme.split_once(BEGIN).with_context(|| format!("README.md has no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("README.md has no line {END}"))?;
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

/// The block behind `<!-- run: NAME -->`.
fn block<'p>(page: &'p str, name: &str) -> anyhow::Result<&'p str> {
    let found = || {
        let (_, rest) = page.split_once(&format!("<!-- run: {name} -->\n```yaml\n"))?;
        Some(rest.split_once("```")?.0)
    };
    found().with_context(|| format!("docs/prometheus.md has no block {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String, String)> {
        let values = parse_values(text).unwrap();
        values.into_iter().map(|value| (value.key, value.default, value.about)).collect()
    }

    #[test]
    fn keys_have_their_parents_and_descriptions_may_be_long() {
        let text = "# Free words.\n# -- First,\n# and more.\na: [1]\n\nb:\n  c:\n    # -- Deep.\n    d: \"\"\n  # -- Up.\n  e: {x: 1}\n";
        let row = |key: &str, default: &str, about: &str| (key.to_owned(), default.to_owned(), about.to_owned());
        assert_eq!(
            parsed(text),
            [row("a", "[1]", "First, and more."), row("b.c.d", "\"\"", "Deep."), row("b.e", "{x: 1}", "Up.")]
        );
    }

    #[test]
    fn a_key_without_description_is_refused() {
        for text in ["a: 1\n", "# -- A.\na: 1\nb: 2\n", "# words\na: 1\n", "# -- A.\n\na: 1\n", "# -- A.\na:\n  b: 1\n"]
        {
            assert!(parse_values(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let readme = format!("top\n{BEGIN}old\n{END}bottom\n");
        assert_eq!(with_table(&readme, "new\n").unwrap(), format!("top\n{BEGIN}new\n{END}bottom\n"));
        assert!(with_table("top\n", "new\n").is_err());
    }

    #[test]
    fn pipes_do_not_break_the_table() {
        let value = Value { key: "a".into(), default: "x|y".into(), about: "either|or".into() };
        assert!(table(&[value]).ends_with("| `a` | `x\\|y` | either\\|or |\n"));
    }

    #[test]
    fn a_block_is_found_by_its_marker() {
        let page = "<!-- run: a-b -->\n```yaml\nno\n```\n<!-- run: a -->\n```yaml\nyes: 1\n```\n";
        assert_eq!(block(page, "a").unwrap(), "yes: 1\n");
        assert!(block(page, "c").is_err());
    }
}
