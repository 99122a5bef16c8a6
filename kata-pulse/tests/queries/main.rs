//! The queries that people run on cAdvisor's families, run by a real Prometheus over a node with Kata and runc pods that
//! is scraped as docs/prometheus.md says; every answer is compared with the known truth of the workload.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod agent_page;
mod docs;
#[path = "../support/prometheus.rs"]
mod driver;
mod evaluate;
mod expect;
mod exposition;
mod facts;
mod kube_state;
mod kubelet;
mod node;
mod pace;
mod prometheus;
mod real;
mod setup;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod truth;

use std::collections::BTreeSet;

use agent_page::Shown;
use node::SimulatedNode;
use pace::Pace;
use prometheus::Prometheus;
use setup::Setup;
use truth::World;

/// Scrapes after the restart that make a full window of ten and a rule evaluation with such a window behind it.
const SCRAPES: usize = 12;
/// Each waits for one more scrape.
const ATTEMPTS: usize = 5;

fn must_be_real() -> bool {
    std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_finds_the_truth() {
    let Some(version) = prometheus::version() else { return };
    println!("{version}");
    let world = World::new();
    if must_be_real() {
        run(SimulatedNode::real(world).await, &Pace::REAL).await;
    } else {
        println!(
            "SKIPPED: the interval of 30 s, whose windows take six and a half minutes (set KATA_PULSE_REQUIRE_REAL); all is run at 2 s"
        );
        run(SimulatedNode::printed(world).await, &Pace::QUICK).await;
    }
}

async fn run(mut node: SimulatedNode, pace: &Pace) {
    let mut started = Vec::new();
    for setup in Setup::ALL {
        let jobs = setup.jobs(&mut node, pace).await;
        started.push((setup, Prometheus::start_with_rules(&format!("{setup:?}"), &jobs, pace)));
    }
    for (setup, prometheus) in &started {
        prometheus.until_scraped(setup.targets(), 1, pace).await;
    }
    node.restart();
    let before: Vec<usize> = started.iter().map(|(_, prometheus)| prometheus.scrapes(pace)).collect();
    for (waited, attempt) in (SCRAPES..).zip(1..=ATTEMPTS) {
        for ((setup, prometheus), before) in started.iter().zip(&before) {
            prometheus.until_scraped(setup.targets(), before + waited, pace).await;
        }
        let complaints = complaints(&started, &node, pace);
        if complaints.is_empty() {
            break;
        }
        // A scrape that came a second late makes the rates over it wrong, and those alone: they are asked again when
        // it has left their windows.
        println!("attempt {attempt} of {ATTEMPTS}: {}", complaints.join("\n"));
        assert!(attempt < ATTEMPTS, "{}", complaints.join("\n"));
    }
    assert_eq!(node.harm(), (0, 0), "shims killed, questions to every shim");
}

fn complaints(started: &[(Setup, Prometheus)], node: &SimulatedNode, pace: &Pace) -> Vec<String> {
    let mut complaints = Vec::new();
    for (setup, prometheus) in started {
        complaints.extend(queries(prometheus, *setup, node, pace));
        complaints.extend(checks(prometheus, *setup));
    }
    let (_, of_kubelets_job) = &started[0];
    complaints.extend(restarts(of_kubelets_job, pace));
    complaints
}

/// Which of the tables can be answered in a set-up, and whether they were.
fn queries(prometheus: &Prometheus, setup: Setup, node: &SimulatedNode, pace: &Pace) -> Vec<String> {
    let mut uses = table::uses();
    match setup {
        Setup::OwnJobByOperator => uses = table::read("own.tsv"),
        // CPU in whole seconds and devices without names are the kubelet's matter.
        Setup::FromCri | Setup::FromCriTwice => {
            uses.retain(|one| {
                ["working_set", "rss", "cache", "swap", "rx_", "tx_"].iter().any(|word| one.expect.contains(word))
            });
            uses.retain(|one| !one.expect.contains("each"));
        }
        _ => {}
    }
    let mut score = evaluate::evaluate(prometheus, setup, node, pace, &uses);
    if setup != Setup::OwnJobByOperator {
        score.leave_out(&table::not_run());
    }
    println!("{setup:?}: {}", score.head());
    let good = setup.warnings().is_empty() || setup == Setup::OwnJobByOperator;
    match (good, score.is_good()) {
        (true, false) => vec![format!("{setup:?}: {score}")],
        (false, true) => vec![format!("{setup:?}: nothing was wrong, so these queries cannot tell")],
        _ => Vec::new(),
    }
}

/// The page's checks find nothing, or just what the set-up does wrong.
fn checks(prometheus: &Prometheus, setup: Setup) -> Vec<String> {
    let names = docs::names_with("check-");
    let finds = |name: &&String| !prometheus.vector(docs::block(name).trim()).unwrap().is_empty();
    let found: BTreeSet<&str> = names.iter().filter(finds).map(String::as_str).collect();
    let right: BTreeSet<&str> = setup.warnings().iter().copied().collect();
    if found == right { Vec::new() } else { vec![format!("{setup:?}: checks found {found:?} instead of {right:?}")] }
}

/// A restarted container was seen under both its ids, and never under both at once.
fn restarts(prometheus: &Prometheus, pace: &Pace) -> Vec<String> {
    let series = "container_memory_working_set_bytes{container=\"backup\"}";
    let number = |query: &str| prometheus.vector(&pace.of_query(query)).unwrap().first().map(|(_, value)| *value);
    let ids = number(&format!("count(count_over_time({series}[10m]))"));
    let at_once = number(&format!("max_over_time(count({series})[10m:15s])"));
    if (ids, at_once) == (Some(2.0), Some(1.0)) {
        return Vec::new();
    }
    vec![format!("the restarted container had {ids:?} ids, {at_once:?} at once")]
}

#[test]
fn every_block_of_the_page_is_run() {
    assert_eq!(docs::unmarked(), 0, "docs/prometheus.md has blocks without a marker");
    let known =
        ["podmonitor-kubelet", "scrape-kubelet", "kubelet-drop", "kubelet-drop-chart", "podmonitor-own", "scrape-own"];
    let run: BTreeSet<String> = docs::names_with("check-").into_iter().chain(known.map(str::to_owned)).collect();
    assert_eq!(docs::names().into_iter().collect::<BTreeSet<_>>(), run);
    for shown in [Shown::FOR_KUBELETS_JOB, Shown::PODS] {
        assert!(docs::page().contains(&format!("`{}`", shown.flags().join(" "))), "{shown:?}");
    }
    // One list of rules in two spellings.
    let chart = docs::from_operator(&docs::below(&docs::block("kubelet-drop-chart"), "cAdvisorMetricRelabelings:"));
    assert_eq!(chart, docs::below(&docs::block("kubelet-drop"), "metric_relabel_configs:"));
}
