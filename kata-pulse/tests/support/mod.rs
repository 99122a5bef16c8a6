//! What the tests that run the agent share.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Generous: what is waited for is polled, this only ends a test that would wait for ever.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Socket paths are limited to 107 bytes and sandbox ids have 64: the root must be short.
pub fn root() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let root = PathBuf::from(format!("/tmp/kp{:x}{number}", std::process::id() & 0xffff));
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir_all(&root).unwrap();
    root
}

pub struct Agent {
    pub child: Child,
    pub address: String,
}

impl Agent {
    pub fn start(root: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kata-pulse"))
            .args(["--listen-address", "127.0.0.1:0", "--log-format", "json"])
            .args(["--sandbox-dir", &format!("go:{}", root.join("run/vc/sbs").display())])
            .args(["--sandbox-dir", &format!("rust:{}", root.join("run/kata").display())])
            .env("RUNTIME_ENDPOINT", root.join("cri.sock"))
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the agent ended without a word of its address");
            if let Some((_, rest)) = line.split_once("\"address\":\"") {
                break rest.split('"').next().unwrap().to_owned();
            }
        };
        // A log that nobody reads would stop the agent. `KATA_PULSE_SHOW_LOG=1` shows it.
        let is_shown = std::env::var_os("KATA_PULSE_SHOW_LOG").is_some();
        std::thread::spawn(move || match is_shown {
            true => std::io::copy(&mut log, &mut std::io::stderr()),
            false => std::io::copy(&mut log, &mut std::io::sink()),
        });
        Self { child, address }
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        get(&self.address, path)
    }

    pub fn page(&self) -> String {
        self.get("/metrics").1
    }

    pub async fn until(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let started = Instant::now();
        loop {
            let page = self.page();
            if fits(&page) {
                return page;
            }
            assert!(started.elapsed() < PATIENCE, "waited in vain: {what}; the page was\n{page}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Of whoever listens at the address.
pub fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
