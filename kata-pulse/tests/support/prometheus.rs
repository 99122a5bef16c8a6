//! A real Prometheus on a port of its own. In: its configuration. Out: answers of its HTTP API. Dropping it ends it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    port: u16,
    folder: PathBuf,
}

pub type Sample = (BTreeMap<String, String>, f64);

/// `None`, after saying so: no such program here. Where it must be there, the test ends.
pub fn version() -> Option<String> {
    let Ok(output) = Command::new("prometheus").arg("--version").output() else {
        assert!(std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "prometheus is needed");
        println!("SKIPPED: prometheus cannot be run");
        return None;
    };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().map(str::to_owned)
}

impl Prometheus {
    /// `files` lie beside the configuration, which promtool checks before.
    pub fn start(name: &str, config: &str, files: &[(&str, &str)]) -> Self {
        let folder = std::env::temp_dir().join(format!("kata-pulse-prometheus-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let main = folder.join("prometheus.yml");
        for (file, text) in files {
            std::fs::write(folder.join(file), text).unwrap();
        }
        std::fs::write(&main, config).unwrap();
        check_config(&main);
        // Free a moment ago; nobody else takes ports here.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", main.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port, folder }
    }

    /// What the API has at `path`, to which `form` is posted; `None` while there is no answer yet.
    pub fn api(&self, path: &str, form: &str) -> Option<Result<Value, String>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let method = if form.is_empty() { "GET" } else { "POST" };
        let head =
            format!("{method} /api/v1/{path} HTTP/1.0\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded");
        write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{form}", form.len()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let json: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        Some(if json["status"] == "success" { Ok(json["data"].clone()) } else { Err(json["error"].to_string()) })
    }

    /// The vector that an instant query finds, without names.
    pub fn vector(&self, query: &str) -> Result<Vec<Sample>, String> {
        let data = self.api("query", &format!("query={}", percent_encoded(query))).ok_or("no answer")??;
        let samples = data["result"].as_array().ok_or("no vector")?;
        Ok(samples.iter().map(sample).collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn check_config(file: &Path) {
    let output = Command::new("promtool").args(["check", "config"]).arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", std::fs::read_to_string(file).unwrap());
}

fn sample(json: &Value) -> Sample {
    let labels = json["metric"].as_object().unwrap().iter();
    let labels = labels.filter(|(name, _)| *name != "__name__");
    let labels = labels.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
    (labels, json["value"][1].as_str().unwrap().parse().unwrap())
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        let _ = match byte {
            byte if byte.is_ascii_alphanumeric() => write!(encoded, "{}", char::from(byte)),
            byte => write!(encoded, "%{byte:02X}"),
        };
        encoded
    })
}
