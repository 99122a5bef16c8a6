//! A real Prometheus scrapes the agent: the target is up, series are there, and stale once their sandbox ended.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kata_pulse_sim::{CriFlavour, CriServer, Node, SandboxSpec};
use support::{Agent, root};

const PATIENCE: Duration = Duration::from_secs(60);

struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    fn start(root: &Path, agent: &str) -> std::io::Result<Self> {
        // Free a moment ago; nobody else takes ports here.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n\
             - {{job_name: kata-pulse, honor_labels: true, static_configs: [{{targets: ['{agent}']}}]}}\n"
        );
        let file = root.join("prometheus.yml");
        std::fs::write(&file, config)?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", root.join("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, port })
    }

    /// How many series an instant query finds; `None`: no answer yet.
    fn count(&self, query: &str) -> Option<usize> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let path = format!("/api/v1/query?query={query}");
        write!(stream, "GET {path} HTTP/1.0\r\nhost: x\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let body = answer.split_once("\r\n\r\n")?.1;
        let json: serde_json::Value = serde_json::from_str(body).ok()?;
        Some(json["data"]["result"].as_array()?.len())
    }

    async fn until(&self, query: &str, count: usize) {
        let started = Instant::now();
        while self.count(query) != Some(count) {
            assert!(started.elapsed() < PATIENCE, "{query}: {:?} instead of {count}", self.count(query));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_stores_series_and_marks_them_stale() {
    let root = root();
    let node = Arc::new(Node::new(root.clone()));
    let cri = CriServer::start(node.clone(), &root.join("cri.sock"), CriFlavour::Containerd).unwrap();
    let agent = Agent::start(&root, &["--ebpf", "off"]);
    let prometheus = match Prometheus::start(&root, &agent.address) {
        Ok(prometheus) => prometheus,
        Err(error) => {
            assert!(std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "prometheus is needed: {error}");
            println!("SKIPPED: prometheus cannot be run: {error}");
            return;
        }
    };
    let spec = SandboxSpec::numbered(1, "go-qemu".parse().unwrap());
    let id = spec.id.clone();
    node.create(spec).await.unwrap();
    agent.until("the sandbox on the page", |page| page.contains("pod=\"pod-1\"")).await;
    prometheus.until("up==1", 1).await;
    prometheus.until("container_memory_working_set_bytes{container=%22%22,pod=%22pod-1%22}", 1).await;
    prometheus.until("kata_sandbox_info{pod=%22pod-1%22}", 1).await;
    node.remove(&id).await.unwrap();
    // Far sooner than the five minutes for which Prometheus shows a series that only stopped.
    prometheus.until("container_memory_working_set_bytes{container=%22%22,pod=%22pod-1%22}", 0).await;
    prometheus.until("up==1", 1).await;
    cri.stop().await;
    drop(prometheus);
    std::fs::remove_dir_all(&root).unwrap();
}
