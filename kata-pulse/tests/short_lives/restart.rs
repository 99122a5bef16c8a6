//! An agent that is killed and started again while sandboxes work: it counts from its own start, and the sum that
//! `increase()` makes of both agents' counters has no spike.

use std::time::{Duration, Instant};

use kata_pulse_sim::Burn;
use kata_pulse_sim::judge::{Findings, Page};

use crate::ONE_AT_A_TIME;
use crate::clock::CpuOf;
use crate::host::{Host, start_agent};

const SANDBOXES: u64 = 4;
const WORKED_FOR: Duration = Duration::from_secs(8);
const EVERY: Duration = Duration::from_millis(500);
const CPU: &str = "kata_namespace_cpu_seconds_total";
/// The interval of the host's readings, and what a busy machine adds.
const LATE_SECONDS: f64 = 4.0;

/// CPU seconds that living processes have used.
fn used(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| CpuOf::Itself.read(&pid.to_string())).sum()
}

/// As Prometheus adds up a counter that may have been reset.
#[derive(Debug, Default)]
struct Increase {
    last: Option<f64>,
    sum: f64,
    resets: usize,
}

impl Increase {
    fn take(&mut self, value: Option<f64>) {
        let Some(value) = value else { return };
        if let Some(last) = self.last {
            self.resets += usize::from(value < last);
            self.sum += if value < last { value } else { value - last };
        }
        self.last = Some(value);
    }
}

/// The first value since this was called, if any, and the time until it came.
async fn sample(host: &Host, increase: &mut Increase) -> (Option<f64>, Duration) {
    let (mut first, started) = ((None, Duration::ZERO), Instant::now());
    while started.elapsed() < WORKED_FOR {
        let value = cpu(&host.page());
        if first.0.is_none() {
            first = (value, started.elapsed());
        }
        increase.take(value);
        tokio::time::sleep(EVERY).await;
    }
    first
}

fn cpu(page: &Page) -> Option<f64> {
    page.sum(CPU, &[("namespace", "steady")])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_restarted_under_load_counts_from_its_start_and_makes_no_spike() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut host = Host::start(1, 60).await;
    let mut pids = Vec::new();
    for number in 1..=SANDBOXES {
        let mut spec = host.pod(number, "go-clh", "steady");
        let id = spec.id.clone();
        let burn = Burn { vcpu_user: 0.3, threads: 2, ..Burn::default() };
        spec.processes.as_mut().unwrap().burn = Some(burn);
        host.node.create(spec).await.unwrap();
        pids.extend(host.node.pids(&id).unwrap().into_values());
    }
    let mut increase = Increase::default();
    host.settle(|page| cpu(page).is_some()).await;
    let real_before = used(&pids);
    sample(&host, &mut increase).await;
    let (before, real_at_restart) = (increase.last, used(&pids));
    println!("before the restart the page says {before:?}, in truth {real_at_restart:.2} s");
    assert!(real_at_restart > 3.0, "they have worked");

    host.agent.child.kill().unwrap();
    host.agent.child.wait().unwrap();
    let real_at_start = used(&pids);
    host.agent = start_agent(&host.root, 1, 60).await;
    let (first, after) = sample(&host, &mut increase).await;
    let real = used(&pids);
    println!("the new agent begins with {first:?} after {after:?}; {} resets", increase.resets);

    let mut findings = Findings::default();
    let share = (real - real_at_start) / WORKED_FOR.as_secs_f64();
    // What happened between its start and that page, not what the processes have used in their lives.
    let most = share * (after.as_secs_f64() + LATE_SECONDS);
    findings.between("what a new agent begins with", first, 0.0, most.min(real_at_start * 0.8));
    findings.holds(increase.resets == 1, format!("{} resets by one restart", increase.resets));
    let counted = Some(increase.sum).filter(|_| increase.last.is_some());
    findings.between("increase over the restart", counted, (real - real_before) * 0.5, real - real_before + 0.3);
    let lives = page_of_lives(&host.page());
    findings.near("sandboxes started since the agent's start", lives, 0.0, 0.0);
    host.end().await;
    findings.end();
}

/// Sandboxes that were there before the agent did not start since.
fn page_of_lives(page: &Page) -> Option<f64> {
    Some(page.sum("kata_namespace_sandboxes_started_total", &[("namespace", "steady")]).unwrap_or(0.0))
}
