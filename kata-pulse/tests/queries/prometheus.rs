//! A real Prometheus on a port of its own. In: the jobs to scrape, rules. Out: answers of its query API. Dropping it ends it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::expect::Answer;
use crate::pace::Pace;

const SCRAPED: &str = "sum_over_time(up[60m])";

#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    port: u16,
    folder: PathBuf,
}

type Sample = (BTreeMap<String, String>, f64);

/// `None`: no such program here.
pub fn version() -> Option<String> {
    let output = Command::new("prometheus").arg("--version").output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().map(str::to_owned)
}

impl Prometheus {
    /// With the rules of testdata, checked by promtool before.
    pub fn start(name: &str, jobs: &str, pace: &Pace) -> Self {
        let folder = std::env::temp_dir().join(format!("kata-pulse-queries-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let rules = std::fs::read_to_string(crate::table::folder().join("rules.yml")).unwrap();
        std::fs::write(folder.join("rules.yml"), pace.of_query(&rules)).unwrap();
        let config = folder.join("prometheus.yml");
        let ms = pace.interval.as_millis();
        let global =
            format!("global: {{scrape_interval: {ms}ms, scrape_timeout: {ms}ms, evaluation_interval: {ms}ms}}\n");
        std::fs::write(&config, format!("{global}rule_files: [rules.yml]\nscrape_configs:\n{jobs}")).unwrap();
        check_config(&config);
        // Free a moment ago; nobody else takes ports here.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port, folder }
    }

    /// The result of an instant query, `None` while there is no answer yet.
    pub fn ask(&self, query: &str) -> Option<Result<Value, String>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let body = format!("query={}", percent_encoded(query));
        let head = "POST /api/v1/query HTTP/1.0\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded";
        write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let json: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        let result = || json["data"]["result"].clone();
        Some(if json["status"] == "success" { Ok(result()) } else { Err(json["error"].to_string()) })
    }

    /// The vector that an instant query finds, without names.
    pub fn vector(&self, query: &str) -> Result<Vec<Sample>, String> {
        let result = self.ask(query).ok_or("no answer")??;
        let samples = result.as_array().ok_or("no vector")?;
        Ok(samples.iter().map(sample).collect())
    }

    /// The answer by all labels, or by `only` these; two samples with equal labels are an error.
    pub fn answer(&self, query: &str, only: &[String]) -> Result<Answer, String> {
        let mut answer = Answer::new();
        for (mut labels, value) in self.vector(query)? {
            labels.retain(|label, _| only.is_empty() || only.contains(label));
            if answer.insert(labels.clone(), value).is_some() {
                return Err(format!("twice: {labels:?}"));
            }
        }
        Ok(answer)
    }

    /// Scrapes of the target that had most.
    pub fn scrapes(&self, pace: &Pace) -> usize {
        let found = self.vector(&pace.of_query(SCRAPED)).unwrap_or_default();
        found.iter().map(|(_, times)| *times as usize).max().unwrap_or(0)
    }

    /// Until each of so many targets was scraped so often.
    pub async fn until_scraped(&self, targets: usize, times: usize, pace: &Pace) {
        let started = Instant::now();
        let patience = pace.interval * u32::try_from(times).unwrap() + Duration::from_secs(60);
        let query = format!("{} >= {times}", pace.of_query(SCRAPED));
        while self.vector(&query).map_or(0, |found| found.len()) < targets {
            let seen = self.ask("up").map(|result| format!("{result:?}"));
            assert!(started.elapsed() < patience, "not {targets} targets that are up: {seen:?}");
            tokio::time::sleep(pace.interval / 20).await;
        }
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
