//! A real Prometheus scrapes the agent: the target is up, series are there, and stale once their sandbox ended.

#[path = "support/prometheus.rs"]
mod driver;
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use driver::{Prometheus, version};
use kata_pulse_sim::{CriFlavour, CriServer, Node, SandboxSpec};
use support::{Agent, root};

const PATIENCE: Duration = Duration::from_secs(60);

/// Until an instant query finds so many series.
async fn until(prometheus: &Prometheus, query: &str, count: usize) {
    let started = Instant::now();
    let found = || prometheus.vector(query).map(|found| found.len());
    while found() != Ok(count) {
        assert!(started.elapsed() < PATIENCE, "{query}: {:?} instead of {count}", found());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_stores_series_and_marks_them_stale() {
    let Some(version) = version() else { return };
    println!("{version}");
    let root = root();
    let node = Arc::new(Node::new(root.clone()));
    let cri = CriServer::start(node.clone(), &root.join("cri.sock"), CriFlavour::Containerd).unwrap();
    let agent = Agent::start(&root, &["--ebpf", "off"]);
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n\
         - {{job_name: kata-pulse, honor_labels: true, static_configs: [{{targets: ['{}']}}]}}\n",
        agent.address
    );
    let prometheus = Prometheus::start("stale", &config, &[]);
    let spec = SandboxSpec::numbered(1, "go-qemu".parse().unwrap());
    let id = spec.id.clone();
    node.create(spec).await.unwrap();
    agent.until("the sandbox on the page", |page| page.contains("pod=\"pod-1\"")).await;
    until(&prometheus, "up==1", 1).await;
    until(&prometheus, "container_memory_working_set_bytes{container=\"\",pod=\"pod-1\"}", 1).await;
    until(&prometheus, "kata_sandbox_info{pod=\"pod-1\"}", 1).await;
    node.remove(&id).await.unwrap();
    // Far sooner than the five minutes for which Prometheus shows a series that only stopped.
    until(&prometheus, "container_memory_working_set_bytes{container=\"\",pod=\"pod-1\"}", 0).await;
    until(&prometheus, "up==1", 1).await;
    cri.stop().await;
    drop(prometheus);
    std::fs::remove_dir_all(&root).unwrap();
}
