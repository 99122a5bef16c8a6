//! Every query on a real Prometheus. In: dashboards, rules, the busy node. Out: which of them found something.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::dashboards::{self, Query, bound};
use crate::driver::{self, Prometheus};
use crate::node::Busy;
use crate::{promql, rules, runbooks};

/// Instead of every window: longer than the test, so that what happened once is in it.
const WINDOW: &str = "5m";
const PATIENCE: Duration = Duration::from_secs(90);

/// Families that stay empty on the simulated node, by the beginning of their names, and why.
const NEVER_HERE: &[(&str, &str)] = &[
    ("kata_sandbox_cgroup_", "simulated processes sit in the cgroup of the test, which is no sandbox's own"),
    ("kata_sandbox_host_network_", "simulated VMMs live in the network of the host, which is not a pod's"),
    ("kata_sandbox_io_blocked_seconds_total", "the kernel accounts delays only where delayacct is on"),
    ("kata_sandbox_memory_reclaimable_bytes", "simulated VMMs hold less than half of what their guests say they use"),
    ("kata_sandbox_kvm_userspace_exits_total", "simulated VMMs do not run KVM"),
];

/// Where eBPF cannot be used, these families are not there.
const OF_EBPF: &[&str] = &[
    "kata_pulse_discovery_latency",
    "kata_pulse_ebpf_",
    "kata_sandbox_block_io_",
    "kata_sandbox_runqueue_latency_seconds",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_query_finds_something_on_the_simulated_node() {
    let Some(version) = driver::version() else { return };
    println!("{version}");
    let busy = Busy::start().await;
    let prometheus = start(&busy.agent.address);
    let has_ebpf = has_ebpf(&busy.agent.page());
    until_quiet(&prometheus, has_ebpf).await;
    busy.happen(1).await;
    until_scraped(&prometheus, 3).await;
    busy.happen(2).await;
    let queries = queries();
    let empty = until_found(&prometheus, &queries, has_ebpf).await;
    report(&queries, &empty, has_ebpf);
    rules_are_healthy(&prometheus);
    for query in runbooks::queries() {
        let found = prometheus.vector(&bound(&query.expr, "", WINDOW));
        assert!(found.is_ok(), "{}: {found:?}", query.place);
    }
    drop(prometheus);
    busy.stop().await;
}

fn start(agent: &str) -> Prometheus {
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\n\
         scrape_configs:\n- job_name: monitoring/kata-pulse\n  honor_labels: true\n  static_configs:\n  \
         - {{targets: ['{agent}'], labels: {{cluster: lab, node: worker-1, namespace: monitoring, pod: kata-pulse-x}}}}\n"
    );
    let rules = bound(&rules::text(), "", WINDOW);
    Prometheus::start("boards", &config, &[("rules.yml", &rules)])
}

/// Whether the kernel let a program in; where it must, the test ends otherwise.
fn has_ebpf(page: &str) -> bool {
    let attached = |line: &str| line.starts_with("kata_pulse_ebpf_program_attached{") && line.ends_with(" 1");
    let found = page.lines().any(attached);
    assert!(found || std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "eBPF is needed");
    found
}

/// All that panels, variables and recordings ask.
fn queries() -> Vec<Query> {
    let mut queries = Vec::new();
    for dashboard in dashboards::read() {
        queries.extend(dashboard.queries());
        queries.extend(dashboard.variable_queries().into_iter().map(|(_, query)| query));
    }
    for rule in rules::read().into_iter().filter(|rule| !rule.is_alert) {
        queries.push(Query { place: rule.name, expr: rule.expr, legend: String::new() });
    }
    queries
}

/// A healthy node makes no alert pending for long. What is true of this machine may be: vCPUs wait where it is busy, and
/// the agent is degraded where the kernel lets no program in.
async fn until_quiet(prometheus: &Prometheus, has_ebpf: bool) {
    until_scraped(prometheus, 3).await;
    let started = Instant::now();
    let of_machine = if has_ebpf { "KataVcpuDelayHigh" } else { "KataVcpuDelayHigh|KataPulseDegraded" };
    loop {
        match prometheus.vector(&format!("ALERTS{{alertname!~\"{of_machine}\"}}")) {
            Ok(alerts) if alerts.is_empty() => return,
            alerts => assert!(started.elapsed() < PATIENCE, "on a healthy node: {alerts:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// So many more scrapes than now.
async fn until_scraped(prometheus: &Prometheus, more: usize) {
    let scrapes = || match prometheus.vector("sum_over_time(up[1h])") {
        Ok(found) => found.first().map_or(0, |(_, times)| *times as usize),
        Err(_) => 0,
    };
    let (before, started) = (scrapes(), Instant::now());
    while scrapes() < before + more {
        assert!(started.elapsed() < PATIENCE, "not scraped: {:?}", prometheus.vector("up"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The queries that find nothing, when all that must have found something.
async fn until_found(prometheus: &Prometheus, queries: &[Query], has_ebpf: bool) -> BTreeSet<usize> {
    let started = Instant::now();
    let mut empty: BTreeSet<usize> = (0..queries.len()).collect();
    loop {
        until_scraped(prometheus, 2).await;
        empty.retain(|at| !finds(prometheus, &queries[*at]));
        let excused = empty.iter().all(|at| excuse(&queries[*at], has_ebpf).is_some());
        if excused || started.elapsed() > PATIENCE {
            return empty;
        }
    }
}

/// A sample that is a number: what is none is a gap in a panel. Not every VMM tells everything: one sandbox that has
/// something to show is enough.
fn finds(prometheus: &Prometheus, query: &Query) -> bool {
    // The one panel that is about the dead.
    let is_of_the_dead = query.place.ends_with(" / Ended by");
    let sandboxes = if is_of_the_dead { vec![Busy::ended()] } else { Busy::working().to_vec() };
    sandboxes.iter().any(|sandbox| {
        let found = prometheus.vector(&bound(&query.expr, sandbox, WINDOW));
        let found = found.unwrap_or_else(|error| panic!("{}: {error}", query.place));
        found.iter().any(|(_, value)| !value.is_nan())
    })
}

fn excuse(query: &Query, has_ebpf: bool) -> Option<String> {
    let mut metrics: Vec<String> =
        promql::reads(&bound(&query.expr, "", WINDOW)).selectors.into_iter().map(|read| read.metric).collect();
    // A recording finds what those before it recorded.
    for rule in rules::read().iter().filter(|rule| !rule.is_alert).rev() {
        if metrics.contains(&rule.name) {
            metrics.extend(promql::reads(&bound(&rule.expr, "", WINDOW)).selectors.into_iter().map(|read| read.metric));
        }
    }
    let never = |(prefix, _): &&(&str, &str)| metrics.iter().any(|metric| metric.starts_with(prefix));
    if let Some((_, why)) = NEVER_HERE.iter().find(never) {
        return Some((*why).to_owned());
    }
    let needs_ebpf = |metric: &&String| OF_EBPF.iter().any(|prefix| metric.starts_with(prefix));
    let of_ebpf = metrics.iter().find(needs_ebpf).filter(|_| !has_ebpf);
    of_ebpf.map(|metric| format!("{metric} needs eBPF, which is not here"))
}

fn report(queries: &[Query], empty: &BTreeSet<usize>, has_ebpf: bool) {
    let mut wrong = Vec::new();
    for (at, query) in queries.iter().enumerate() {
        match (empty.contains(&at), excuse(query, has_ebpf)) {
            (false, _) => println!("found  {}", query.place),
            (true, Some(why)) => println!("EMPTY  {}: {why}", query.place),
            (true, None) => wrong.push(format!("{}: {}", query.place, query.expr)),
        }
    }
    println!("{} queries, {} found something, {} are excused", queries.len(), queries.len() - empty.len(), empty.len());
    assert!(wrong.is_empty(), "empty without an excuse:\n{}", wrong.join("\n"));
}

/// No rule fails on real data, as one does whose vectors match more than once.
fn rules_are_healthy(prometheus: &Prometheus) {
    let data = prometheus.api("rules", "").unwrap().unwrap();
    let groups = data["groups"].as_array().unwrap();
    let all: Vec<_> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert_eq!(all.len(), rules::read().len());
    for rule in all {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}
