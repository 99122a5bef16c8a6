//! Dashboards, rules and runbooks: as files, against the table of families, by promtool, and on a real Prometheus that
//! scrapes a real agent on the simulated node.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod dashboards;
#[path = "../support/prometheus.rs"]
mod driver;
mod families;
mod live;
mod node;
mod promql;
mod rules;
mod runbooks;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use dashboards::{DATASOURCE, Dashboard, Query, bound, text};
use serde_json::Value;

/// Types that Grafana has not given up.
const PANELS: &[&str] = &["bargauge", "piechart", "row", "stat", "table", "timeseries"];
const RUNBOOKS: &str = "https://github.com/kata-pulse/kata-pulse/blob/main/docs/runbooks";

#[test]
fn dashboards_are_whole() {
    let all = dashboards::read();
    assert_eq!(all.iter().map(|one| one.file.as_str()).collect::<Vec<_>>(), ["kata-pulse-node", "kata-pulse-sandbox"]);
    for dashboard in &all {
        assert_eq!(text(&dashboard.json["uid"]), dashboard.file, "links and bookmarks depend on it");
        assert_eq!(dashboard.json["schemaVersion"], 39);
        assert!(dashboard.json["id"].is_null(), "an id is the database's");
        let ids: BTreeSet<u64> = dashboard.panels().iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), dashboard.panels().len(), "ids are unique");
        dashboard.panels().iter().for_each(|panel| whole(&dashboard.file, panel));
        overlaps(dashboard);
        variables(dashboard);
        println!("{}: {} panels, {} queries", dashboard.file, of_data(dashboard), dashboard.queries().len());
    }
}

fn of_data(dashboard: &Dashboard) -> usize {
    dashboard.panels().iter().filter(|panel| panel["type"] != "row").count()
}

fn whole(file: &str, panel: &Value) {
    let place = format!("{file} / {}", text(&panel["title"]));
    assert!(PANELS.contains(&text(&panel["type"])), "{place}: {}", panel["type"]);
    assert!(text(&panel["description"]).ends_with('.'), "{place}: a description is a sentence");
    if panel["type"] == "row" {
        return;
    }
    let targets = panel["targets"].as_array().unwrap();
    assert!(!targets.is_empty() && panel["fieldConfig"]["defaults"]["unit"].is_string(), "{place}");
    let refs: BTreeSet<&str> = targets.iter().map(|target| text(&target["refId"])).collect();
    assert_eq!(refs.len(), targets.len(), "{place}: references are unique");
    for asked in targets.iter().chain([panel]) {
        assert_eq!(asked["datasource"].to_string(), DATASOURCE, "{place}");
    }
    for target in targets {
        let is_table = target["format"] == "table";
        assert!(is_table || !text(&target["legendFormat"]).is_empty(), "{place}: every line has a legend");
    }
}

fn overlaps(dashboard: &Dashboard) {
    let mut taken = BTreeMap::new();
    for panel in dashboard.panels() {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(w > 0 && h > 0 && x + w <= 24, "{}: {x} + {w}", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            if let Some(other) = taken.insert(cell, text(&panel["title"])) {
                panic!("{}: {} lies over {other}", dashboard.file, panel["title"]);
            }
        }
    }
}

/// Every variable is asked of the data source, and every one that is used is there.
fn variables(dashboard: &Dashboard) {
    let names = dashboard.variable_names();
    assert!(names.contains("datasource"));
    for variable in dashboard.variables().iter().filter(|variable| variable["type"] == "query") {
        assert_eq!(variable["datasource"].to_string(), DATASOURCE);
    }
    let of_variables = dashboard.variable_queries().into_iter().map(|(_, query)| query);
    for Query { place, expr, .. } in dashboard.queries().into_iter().chain(of_variables) {
        let used = expr.match_indices('$').map(|(at, _)| {
            let rest = &expr[at + 1..];
            &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())]
        });
        for name in used.filter(|name| !["__rate_interval", "__range"].contains(name)) {
            assert!(names.contains(name), "{place}: ${name}");
        }
    }
}

#[test]
fn queries_name_families_and_labels_that_there_are() {
    let mut wrong = Vec::new();
    for dashboard in dashboards::read() {
        for query in dashboard.queries() {
            wrong.extend(unknown(&query, &BTreeMap::new()));
        }
        for (label, query) in dashboard.variable_queries() {
            wrong.extend(unknown(&query, &BTreeMap::new()));
            let reads = promql::reads(&query.expr);
            let has = families::labels(&reads.selectors[0].metric).is_some_and(|labels| labels.contains(&label));
            wrong.extend((!has).then(|| format!("{}: no label {label}", query.place)));
        }
    }
    let mut recorded = BTreeMap::new();
    for rule in rules::read() {
        let query = Query { place: rule.name.clone(), expr: rule.expr.clone(), legend: legend(&rule) };
        wrong.extend(unknown(&query, &recorded));
        if !rule.is_alert {
            recorded.insert(rule.name, promql::reads(&rule.expr).grouped);
        }
    }
    for query in runbooks::queries() {
        wrong.extend(unknown(&query, &recorded));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Labels that an alert's texts use, as a legend.
fn legend(rule: &rules::Rule) -> String {
    let used = rule.lines.iter().flat_map(|line| line.split("$labels.").skip(1));
    let name = |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    used.map(|rest| format!("{{{{{}}}}}", name(rest))).collect()
}

/// What a query names that there is not; `recorded` are the recordings before it, with their labels.
fn unknown(query: &Query, recorded: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let reads = promql::reads(&bound(&query.expr, "x", "5m"));
    let (mut wrong, mut all) = (Vec::new(), BTreeSet::from(["le".to_owned()]));
    for selector in &reads.selectors {
        let labels = recorded.get(&selector.metric).cloned().or_else(|| families::labels(&selector.metric));
        let Some(labels) = labels else {
            wrong.push(format!("{}: no family {}", query.place, selector.metric));
            continue;
        };
        let others = selector.labels.difference(&labels);
        wrong.extend(others.map(|label| format!("{}: {} has no label {label}", query.place, selector.metric)));
        all.extend(labels);
    }
    let shown = query.legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap().to_owned());
    let used = reads.grouped.iter().cloned().chain(shown);
    wrong.extend(used.filter(|label| !all.contains(label)).map(|label| format!("{}: {label}", query.place)));
    wrong
}

#[test]
fn a_wrong_family_label_or_legend_is_found() {
    let complaints = |expr: &str, legend: &str| {
        let query = Query { place: String::new(), expr: expr.to_owned(), legend: legend.to_owned() };
        unknown(&query, &BTreeMap::new()).len()
    };
    assert_eq!(complaints("sum by (state) (kata_pulse_sandboxes{vmm=\"qemu\"})", "{{state}}"), 0);
    assert_eq!(complaints("sum by (stat) (kata_pulse_sandboxes{vm=\"qemu\"})", "{{stake}}"), 3);
    assert_eq!(complaints("kata_pulse_sandboxs + kata_pulse_render_duration_seconds", ""), 2);
}

#[test]
fn alerts_are_whole_and_each_has_its_runbook() {
    let rules = rules::read();
    let alerts: Vec<_> = rules.iter().filter(|rule| rule.is_alert).collect();
    for alert in &alerts {
        for key in ["severity", "summary", "description"] {
            assert!(alert.has(key), "{} has no {key}", alert.name);
        }
        let page = format!("{RUNBOOKS}/{}.md", alert.name);
        assert_eq!(alert.value("runbook_url"), Some(page.as_str()));
    }
    let named: BTreeSet<String> = alerts.iter().map(|alert| format!("{}.md", alert.name)).collect();
    let pages = runbooks::read();
    assert_eq!(pages.keys().cloned().collect::<BTreeSet<_>>(), named);
    for (page, text) in &pages {
        for head in ["Meaning", "Impact", "Diagnosis", "Mitigation", "False alarms"] {
            assert!(text.contains(&format!("\n## {head}\n")), "{page}: {head}");
        }
    }
    for rule in rules.iter().filter(|rule| !rule.is_alert) {
        let parts: Vec<&str> = rule.name.split(':').collect();
        assert!(matches!(parts[..], ["sandbox" | "namespace" | "node", _, _]), "{}: level:metric:operation", rule.name);
    }
    println!("{} alerts by {} rules, {} recordings", named.len(), alerts.len(), rules.len() - alerts.len());
}

#[test]
fn promtool_finds_every_rule_right_and_every_alert_silent_and_firing_when_it_should() {
    let Some(version) = driver::version() else { return };
    println!("{version}");
    let rules = rules::read();
    let checked = promtool(&["check", "rules", "--lint-fatal", rules::file().to_str().unwrap()]);
    assert!(checked.contains(&format!("{} rules found", rules.len())), "{checked}");
    let files = rules::tests();
    let mut arguments = vec!["test", "rules"];
    arguments.extend(files.iter().map(|file| file.to_str().unwrap()));
    println!("{}", promtool(&arguments));
    let expectations = rules::expectations();
    for rule in rules.iter().filter(|rule| rule.is_alert) {
        let [silent, firing] = expectations.get(&rule.name).copied().unwrap_or_default();
        println!("{}: {firing} times firing, {silent} times silent", rule.name);
        assert!(silent > 0 && firing > 0, "{}", rule.name);
    }
    let tested: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    for rule in rules.iter().filter(|rule| !rule.is_alert) {
        assert!(tested.contains(&format!("expr: {}\n", rule.name)), "{} is not tested", rule.name);
    }
}

fn promtool(arguments: &[&str]) -> String {
    let output = Command::new("promtool").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    said
}
