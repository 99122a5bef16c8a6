//! Through the real listener on a loopback port, with bytes written by hand.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::sandbox::{AgentAddress, Identity, Pid, Process, ProcessRole, Runtime, SandboxState, Vmm};

struct Node {
    sandboxes: Arc<BTreeMap<SandboxId, Arc<Sandbox>>>,
    scrapes: AtomicUsize,
    page: String,
}

impl PageSource for Node {
    fn metrics(&self, query: &MetricsQuery, format: Format, gzip: bool) -> Result<Bytes, UnknownSandbox> {
        if query.sandbox.as_ref().is_some_and(|id| !self.sandboxes.contains_key(id)) {
            return Err(UnknownSandbox);
        }
        let page = format!("{format:?} {:?}\n{}", query.families, self.page);
        if !gzip {
            return Ok(page.into());
        }
        let mut compressed = Vec::new();
        flate2::read::GzEncoder::new(page.as_bytes(), flate2::Compression::fast())
            .read_to_end(&mut compressed)
            .unwrap();
        Ok(compressed.into())
    }

    fn sandboxes(&self) -> Arc<BTreeMap<SandboxId, Arc<Sandbox>>> {
        Arc::clone(&self.sandboxes)
    }

    fn source_states(&self, _: &SandboxId) -> Vec<(Source, SourceState)> {
        vec![(Source::Shim, SourceState::Unsafe)]
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        Err("first scan not done".into())
    }

    fn note_scrape(&self, _: SocketAddr) {
        self.scrapes.fetch_add(1, Ordering::Relaxed);
    }
}

fn sandbox(id: &str, pod: Option<&str>) -> (SandboxId, Arc<Sandbox>) {
    let id = SandboxId::parse(id).unwrap();
    let identity = pod.map(|pod| Identity { pod_name: pod.into(), namespace: "ns".into(), ..Identity::default() });
    let sandbox = Sandbox {
        id: id.clone(),
        directory: "/run/vc/sbs/x".into(),
        directory_inode: 1,
        runtime: pod.map(|_| Runtime::Go),
        runtime_wrote_state: false,
        vmm: pod.map(|_| Vmm::Qemu),
        vmm_from_state: None,
        vmm_from_process: pod.map(|_| Vmm::Qemu),
        state: SandboxState::Running,
        is_stopped: false,
        has_socket: true,
        processes: vec![Process { role: ProcessRole::Vmm, pid: Pid(42), start_ticks: 7 }],
        shim_version: None,
        agent_address: pod.map(|_| AgentAddress("vsock://3:1024".into())),
        created_unix_ms: None,
        identity,
        containers: Vec::new(),
    };
    (id, Arc::new(sandbox))
}

struct Running {
    address: SocketAddr,
    node: Arc<Node>,
    own: Own,
    cancelled: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn start(limits: Limits, page_bytes: usize) -> Running {
    let node = Arc::new(Node {
        sandboxes: Arc::new([sandbox("aa", Some("<b>&pod")), sandbox("bb", None)].into()),
        scrapes: AtomicUsize::new(0),
        page: "x".repeat(page_bytes),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, own, cancelled) = (listener.local_addr().unwrap(), Own::new(), CancellationToken::new());
    let router = router(node.clone(), own.clone());
    let task = tokio::spawn(serve(listener, router, own.clone(), limits, cancelled.clone()));
    Running { address, node, own, cancelled, task }
}

impl Running {
    /// Sends bytes, reads until the server closes.
    async fn exchange(&self, request: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }

    async fn get(&self, target: &str, headers: &str) -> String {
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        String::from_utf8(self.exchange(&request).await).unwrap()
    }

    fn own_page(&self) -> String {
        self.own.families().into_iter().map(|family| family.text).collect()
    }
}

async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let _ =
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("closed in time");
    answer
}

fn quick() -> Limits {
    let short = Duration::from_millis(200);
    Limits { header: short, idle: short * 3, write: short, ..Limits::default() }
}

#[tokio::test]
async fn every_path_answers_as_promised() {
    let server = start(Limits::default(), 3).await;
    for (target, headers, status, part) in [
        ("/metrics", "", "200 OK", "Text []\nxxx"),
        ("/metrics", "Accept: application/openmetrics-text\r\n", "200 OK", "OpenMetrics []\nxxx"),
        ("/metrics?sandbox=aa", "", "200 OK", "Text"),
        ("/metrics?sandbox=zz", "", "404 Not Found", "unknown sandbox"),
        ("/metrics?sandbox=..%2f", "", "404 Not Found", "unknown sandbox"),
        ("/metrics?filter_family=b,a", "", "200 OK", "Text [\"a\", \"b\"]"),
        ("/metrics?%ff=%zz&&&", "", "200 OK", "Text []"),
        ("/agent-url?sandbox=aa", "", "200 OK", "vsock://3:1024"),
        ("/agent-url?sandbox=bb", "", "503 Service Unavailable", "not known yet"),
        ("/agent-url?sandbox=zz", "", "404 Not Found", "unknown sandbox"),
        ("/agent-url", "", "404 Not Found", "unknown sandbox"),
        ("/healthz", "", "200 OK", "ok\n"),
        ("/readyz", "", "503 Service Unavailable", "first scan not done\n"),
        ("/", "", "200 OK", "/agent-url"),
        ("/", "Accept: text/html\r\n", "200 OK", "<h1>kata-pulse</h1>"),
        ("/sandboxes", "Accept: text/plain\r\n", "200 OK", "\r\n\r\naa\nbb\n"),
        ("/sandboxes", "Accept: text/html\r\n", "200 OK", "<td>&lt;b&gt;&amp;pod</td>"),
        ("/nothing", "", "404 Not Found", "not found"),
        ("/metrics/", "", "404 Not Found", "not found"),
    ] {
        let answer = server.get(target, headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")) && answer.contains(part), "{target}: {answer}");
    }
    assert_eq!(server.node.scrapes.load(Ordering::Relaxed), 3);
    assert!(server.own_page().contains("kata_pulse_http_requests_total{code=\"404\",path=\"other\"} 2\n"));
}

#[tokio::test]
async fn the_list_is_the_json_of_the_contract() {
    let server = start(Limits::default(), 3).await;
    let answer = server.get("/sandboxes", "").await;
    let list: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let expected = serde_json::json!([
        {"sandbox_id": "aa", "pod_name": "<b>&pod", "namespace": "ns", "uid": "", "runtime": "go", "vmm": "qemu",
         "state": "running", "runtime_handler": "", "shim_version": "", "created_unix_ms": null,
         "processes": [{"role": "vmm", "pid": 42, "start_ticks": 7}], "sources": {"shim": "unsafe"}},
        {"sandbox_id": "bb", "pod_name": "", "namespace": "", "uid": "", "runtime": "", "vmm": "",
         "state": "running", "runtime_handler": "", "shim_version": "", "created_unix_ms": null,
         "processes": [{"role": "vmm", "pid": 42, "start_ticks": 7}], "sources": {"shim": "unsafe"}},
    ]);
    assert_eq!(list, expected);
}

#[tokio::test]
async fn a_page_survives_compression() {
    let server = start(Limits::default(), 100_000).await;
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept-Encoding: gzip\r\n\r\n";
    let answer = server.exchange(request).await;
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(String::from_utf8_lossy(&answer[..body]).contains("content-encoding: gzip\r\n"));
    let mut page = String::new();
    flate2::read::GzDecoder::new(&answer[body..]).read_to_string(&mut page).unwrap();
    assert_eq!(page.len(), "Text []\n".len() + 100_000);
    let plain = server.get("/metrics", "Accept-Encoding: gzip;q=0\r\n").await;
    assert!(!plain.contains("content-encoding") && plain.ends_with("xxx"));
}

#[tokio::test]
async fn other_methods_and_bodies_are_refused() {
    let server = start(Limits::default(), 3).await;
    let answer = server.exchange("DELETE /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 405 ") && answer.to_lowercase().contains("\r\nallow: get,head\r\n"),
        "{answer}"
    );
    for header in ["Content-Length: 100000000", "Transfer-Encoding: chunked"] {
        let answer = server.exchange(&format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n")).await;
        assert!(answer.starts_with(b"HTTP/1.1 413 "), "{header}: {}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let server = start(Limits::default(), 3).await;
    let answer = server.exchange("HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("content-length: 11\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn pipelined_requests_are_all_answered() {
    let server = start(Limits::default(), 3).await;
    let one = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = String::from_utf8(server.exchange(&(one.repeat(4) + last)).await).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 5, "{answer}");
}

#[tokio::test]
async fn garbage_and_long_headers_end_the_connection() {
    let server = start(Limits::default(), 3).await;
    assert!(server.exchange("\u{16}\u{3}\u{1} nonsense\r\n\r\n").await.starts_with(b"HTTP/1.1 400"));
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(60_000));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let _ = stream.write_all(long.as_bytes()).await;
    let answer = read_all(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    assert!(server.get("/healthz", "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_header_that_trickles_is_cut_off() {
    let server = start(quick(), 3).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let started = Instant::now();
    for byte in b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: y".iter().cycle() {
        if stream.write_all(&[*byte]).await.is_err() || started.elapsed() > Duration::from_secs(5) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let server = start(quick(), 3).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert!(read_all(&mut stream).await.is_empty());
}

#[tokio::test]
async fn a_slow_reader_is_cut_off_and_holds_nobody_up() {
    let server = start(quick(), 64 << 20).await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(server.get("/healthz", "").await.starts_with("HTTP/1.1 200"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(read_all(&mut slow).await.len() < 64 << 20);
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_and_counted() {
    let server = start(Limits { connections: 4, ..Limits::default() }, 3).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        held.push(stream);
    }
    let mut refused = TcpStream::connect(server.address).await.unwrap();
    assert!(read_all(&mut refused).await.is_empty());
    assert!(server.own_page().contains("kata_pulse_limited_total{limit=\"connections\"} 1\n"));
    drop(held);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(server.get("/healthz", "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn stopping_takes_less_than_a_second_with_connections_open() {
    let server = start(Limits::default(), 64 << 20).await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let _idle = TcpStream::connect(server.address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let started = Instant::now();
    server.cancelled.cancel();
    server.task.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}
