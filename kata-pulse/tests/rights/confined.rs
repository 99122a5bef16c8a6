//! The real agent, started by programs that take rights away. In: those programs' words, the node's root. Out: what it
//! serves and what it logged.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Generous: what is waited for is polled, this only ends a test that would wait for ever.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Confined {
    child: Child,
    address: String,
    /// Messages, in their order.
    log: Arc<Mutex<Vec<String>>>,
}

/// The agent's own words of where it finds the node below `root`.
pub fn arguments(root: &Path) -> Vec<String> {
    let base = |runtime: &str, path: &str| format!("{runtime}:{}", root.join(path).display());
    let words = ["--listen-address", "127.0.0.1:0", "--log-format", "json", "--runtime-endpoint"];
    let mut words: Vec<String> = words.map(str::to_owned).into();
    words.push(root.join("cri.sock").display().to_string());
    for (runtime, path) in [("go", "run/vc/sbs"), ("rust", "run/kata")] {
        words.extend(["--sandbox-dir".to_owned(), base(runtime, path)]);
    }
    words
}

/// `wrapper` becomes the agent, or starts it.
pub fn command(root: &Path, wrapper: &[String]) -> Command {
    let agent = env!("CARGO_BIN_EXE_kata-pulse").to_owned();
    let words: Vec<String> = wrapper.iter().cloned().chain([agent]).chain(arguments(root)).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

impl Confined {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (said, address) = std::sync::mpsc::channel();
        let (stderr, kept) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || keep(stderr, &kept, &said));
        let address = address.recv_timeout(PATIENCE).expect("the agent says where it listens");
        let agent = Self { child, address, log };
        agent.until("ready", |agent| agent.get("/readyz").0 == 200);
        agent
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub fn sandboxes(&self) -> Value {
        serde_json::from_str(&self.get("/sandboxes").1).unwrap()
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub fn until(&self, what: &str, fits: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !fits(self) {
            let (now, log) = (self.sandboxes(), self.log());
            assert!(started.elapsed() < PATIENCE, "waited in vain: {what}; {now:#}\n{log:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Until the agent ends; a log that nobody reads would stop it.
fn keep(stderr: ChildStderr, log: &Mutex<Vec<String>>, said: &std::sync::mpsc::Sender<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let Ok(record) = serde_json::from_str::<Value>(&line) else {
            log.lock().unwrap().push(line);
            continue;
        };
        if let Some(address) = record["address"].as_str() {
            // Nobody waits for a second one.
            let _ = said.send(address.to_owned());
        }
        let error = record["error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
        log.lock().unwrap().push(format!("{}{error}", record["message"].as_str().unwrap_or_default()));
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
