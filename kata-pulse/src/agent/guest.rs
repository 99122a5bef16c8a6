//! One collection of one guest's numbers: may its shim be asked, else by the guest's agent; ask, understand, convert,
//! store.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tracing::{debug, info, warn};

use super::suspects::Suspects;
use crate::collect::agent::{self, AgentError, Door};
use crate::collect::schedule::{Collect, Outcome, Rules};
use crate::collect::shim::client::{Cut, Limits, Page, Question, ShimError, ask};
use crate::collect::shim::parse::{ParseLimits, parse};
use crate::collect::shim::safety::{Verdict, decide, is_address};
use crate::collect::shim::types::{Dropped, ShimSample};
use crate::config::ShimMetrics;
use crate::convert::{ConvertDropped, GuestHistory, Moment, RawPage, convert, parse_raw};
use crate::discover::boot_now;
use crate::registry::{AgentReply, Registry};
use crate::sandbox::{AgentAddress, Evidence, ProcessRole, Runtime, Sandbox, SandboxState, Source, SourceState};
use crate::store::{Store, index};
use crate::telemetry::Own;

/// A page without the guest's part that came sooner than this was not waited for: the guest's policy denies it.
const DENIED_WITHIN: Duration = Duration::from_secs(1);
/// `/agent-url` is a line; a longer one is none.
const ADDRESS_BYTES: usize = 1024;

/// A shim works on a request long after nobody waits for the answer any more: a Go shim for half a minute, runtime-rs for
/// a whole one. The first pause is longer than that.
pub(super) const RULES: Rules = Rules {
    healthy_lane: 16,
    suspect_lane: 4,
    first_backoff: Duration::from_secs(75),
    second_turn_soon: true,
    news_is_urgent: false,
};

pub(super) struct GuestCollector {
    pub registry: Registry,
    pub store: Store,
    pub own: Own,
    pub policy: ShimMetrics,
    pub limits: Limits,
    /// Kernel ticks per second, in which start times of processes are told.
    pub ticks_per_second: f64,
    pub started: Instant,
    /// Of families that are passed through.
    pub passthrough: Vec<String>,
    pub suspects: Suspects,
}

impl Collect for GuestCollector {
    type Key = (Evidence, SandboxState);

    fn key(&self, sandbox: &Sandbox) -> Option<Self::Key> {
        let ends = sandbox.identity.as_ref().is_some_and(|identity| !identity.ready);
        let may_be_asked = sandbox.has_socket && sandbox.state != SandboxState::Stopping && !ends;
        may_be_asked.then(|| (sandbox.evidence(), sandbox.state))
    }

    async fn collect(&self, sandbox: Arc<Sandbox>) -> Outcome {
        let evidence = match self.evidence(&sandbox).await {
            Ok(evidence) => evidence,
            Err(error) => return self.failed(&sandbox, &error),
        };
        match decide(&evidence, self.policy) {
            Verdict::Ask if self.suspects.is_held(&sandbox, Source::Shim) => {
                self.count_failure(&sandbox, SourceState::Timeout);
                Outcome::TimedOut
            }
            Verdict::Ask => self.ask_metrics(&sandbox).await,
            Verdict::AskForced(reason) => {
                warn!(sandbox_id = %sandbox.id, reason, "asking a shim that may die of it, as --shim-metrics force says");
                self.ask_metrics(&sandbox).await
            }
            Verdict::Unsafe(reason) => {
                if self.state(&sandbox, SourceState::Unsafe) {
                    info!(sandbox_id = %sandbox.id, reason, "shim is not asked for metrics");
                }
                self.ask_agent(&sandbox, evidence.agent_address.as_ref()).await
            }
            Verdict::Booting => {
                self.state(&sandbox, SourceState::Booting);
                Outcome::Booting
            }
            Verdict::Off => {
                self.state(&sandbox, SourceState::Off);
                Outcome::Unsafe
            }
        }
    }
}

impl GuestCollector {
    /// With the agent's address: the one question that never reaches the hypervisor. A Go shim is asked for it until it
    /// is known. Any other is asked right before each look at what may be sent to it, since the same id may be another
    /// sandbox by now.
    async fn evidence(&self, sandbox: &Sandbox) -> Result<Evidence, ShimError> {
        let mut evidence = sandbox.evidence();
        let is_go = evidence.runtime == Some(Runtime::Go);
        if is_go && evidence.agent_address.is_some() {
            return Ok(evidence);
        }
        let socket = sandbox.socket_path();
        if !is_go && !self.is_still(sandbox).await {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(ShimError::Connect { path: socket, source });
        }
        let limits = Limits { body_bytes: ADDRESS_BYTES, ..self.limits };
        let reply = match ask(&socket, Question::AgentUrl, limits).await {
            Ok(Page { body, cut: None }) => String::from_utf8(body).ok().map(|body| body.trim().to_owned()),
            Ok(_) => None,
            // A Go shim's page can be had without it.
            Err(error) if is_go && !matches!(error.state(), SourceState::Gone | SourceState::Refused) => {
                debug!(sandbox_id = %sandbox.id, error = &error as &dyn std::error::Error, "no agent address");
                None
            }
            // While it connects to its agent, runtime-rs lets this question wait.
            Err(error) if error.state() == SourceState::Timeout && evidence.agent_address.is_none() => None,
            Err(error) => return Err(error),
        };
        match reply.filter(|body| is_address(body) && body.chars().all(|character| !character.is_control())) {
            Some(address) => {
                let address = AgentAddress(address);
                if evidence.agent_address.as_ref() != Some(&address) {
                    self.reply(sandbox, AgentReply::Address(address.0.clone()));
                }
                evidence.agent_address = Some(address);
            }
            None => {
                evidence.agent_address = None;
                self.reply(sandbox, AgentReply::NotYet);
            }
        }
        Ok(evidence)
    }

    /// The directory is the one that the evidence is about.
    async fn is_still(&self, sandbox: &Sandbox) -> bool {
        let metadata = tokio::fs::symlink_metadata(&sandbox.directory).await;
        metadata.is_ok_and(|metadata| metadata.ino() == sandbox.directory_inode)
    }

    /// What was collected of an earlier life of the id is of no interest to the present one.
    fn lives(&self, sandbox: &Sandbox) -> bool {
        let snapshot = self.registry.snapshot();
        snapshot.get(&sandbox.id).is_some_and(|now| now.directory_inode == sandbox.directory_inode)
    }

    /// The guest itself, which no request of ours can kill.
    async fn ask_agent(&self, sandbox: &Sandbox, address: Option<&AgentAddress>) -> Outcome {
        let Some(door) = address.and_then(|address| Door::of(address, &sandbox.id)) else {
            self.put_state(sandbox, Source::Agent, SourceState::Unsupported);
            return Outcome::Unsafe;
        };
        let started = Instant::now();
        let answer = agent::ask(&door, self.limits.deadline).await;
        self.own.collected(Source::Agent, started.elapsed());
        match answer {
            Ok(body) => {
                let sample = parse(&body, true, ParseLimits::default());
                self.count_dropped(&sample.dropped);
                self.pass_through(sandbox, &body, None);
                if sample.guest_answered {
                    self.store_guest(sandbox, Source::Agent, &sample);
                    return Outcome::Collected;
                }
                self.agent_failed(sandbox, SourceState::BadPage, None)
            }
            Err(error) => self.agent_failed(sandbox, error.state(), Some(&error)),
        }
    }

    fn agent_failed(&self, sandbox: &Sandbox, state: SourceState, error: Option<&AgentError>) -> Outcome {
        self.own.collect_failed(Source::Agent, state);
        if error.is_some() {
            self.pass_through(sandbox, &[], None);
        }
        let error = error.map(|error| error as &dyn std::error::Error);
        if self.put_state(sandbox, Source::Agent, state) {
            info!(sandbox_id = %sandbox.id, source = "agent", state = state.as_str(), error, "no numbers from the guest");
        }
        // One that boots does not answer either.
        let has_answered = || {
            self.store
                .reading(&sandbox.id)
                .is_some_and(|reading| reading.sources[index(Source::Agent)].collected.is_some())
        };
        if state == SourceState::Timeout && has_answered() {
            self.suspects.hold(sandbox, Source::Agent);
        }
        // More evidence may yet show that the shim can be asked: it is waited for.
        if state == SourceState::Timeout { Outcome::TimedOut } else { Outcome::Unsafe }
    }

    async fn ask_metrics(&self, sandbox: &Sandbox) -> Outcome {
        let started = Instant::now();
        let result = ask(&sandbox.socket_path(), Question::Metrics, self.limits).await;
        let took = started.elapsed();
        self.own.collected(Source::Shim, took);
        let page = match result {
            Ok(page) => page,
            Err(error) => {
                if matches!(error, ShimError::TooLarge { .. }) {
                    self.own.limited("body_bytes", 1);
                }
                return self.failed(sandbox, &error);
            }
        };
        self.take_page(sandbox, &page, took)
    }

    fn take_page(&self, sandbox: &Sandbox, page: &Page, took: Duration) -> Outcome {
        let sample = parse(&page.body, page.cut.is_none(), ParseLimits::default());
        self.count_dropped(&sample.dropped);
        self.pass_through(sandbox, &page.body, sandbox.runtime);
        if sample.guest_answered {
            self.store_guest(sandbox, Source::Shim, &sample);
            return if page.cut == Some(Cut::Deadline) { Outcome::TimedOut } else { Outcome::Collected };
        }
        let state = match page.cut {
            Some(Cut::Deadline) => {
                self.suspects.hold(sandbox, Source::Shim);
                SourceState::Timeout
            }
            Some(Cut::Peer) => SourceState::BadPage,
            None if !is_exposition(&page.body) => SourceState::BadPage,
            None if took < DENIED_WITHIN => SourceState::Denied,
            None => SourceState::Timeout,
        };
        self.count_failure(sandbox, state);
        if state == SourceState::Timeout { Outcome::TimedOut } else { Outcome::Failed }
    }

    fn count_dropped(&self, dropped: &Dropped) {
        for (limit, count) in [
            ("malformed_lines", dropped.malformed_lines),
            ("non_finite", dropped.non_finite),
            ("duplicates", dropped.duplicates),
            ("samples", dropped.samples),
            ("names", dropped.names),
        ] {
            self.limited(limit, count);
        }
    }

    /// What a collection that brought nothing passes through is nothing.
    fn pass_through(&self, sandbox: &Sandbox, body: &[u8], runtime: Option<Runtime>) {
        if self.passthrough.is_empty() || !self.lives(sandbox) {
            return;
        }
        let RawPage { families, cut } = parse_raw(body, runtime, &self.passthrough);
        self.limited("passthrough_samples", cut);
        self.store.put_raw(&sandbox.id, sandbox.directory_inode, families);
    }

    fn store_guest(&self, sandbox: &Sandbox, source: Source, sample: &ShimSample) {
        if !self.lives(sandbox) {
            return;
        }
        let moment = Moment {
            now_seconds: self.started.elapsed().as_secs_f64(),
            vmm_age_seconds: self.vmm_age_seconds(sandbox),
        };
        let convert = |history: &mut GuestHistory| convert(sample, history, moment);
        let ConvertDropped { fallen, devices } =
            self.store.put_guest(&sandbox.id, sandbox.directory_inode, source, SystemTime::now(), convert);
        self.limited("fallen_counters", fallen);
        self.limited("devices", devices);
    }

    fn vmm_age_seconds(&self, sandbox: &Sandbox) -> Option<f64> {
        let role = if sandbox.vmm.is_some_and(|vmm| !vmm.has_process()) { ProcessRole::Shim } else { ProcessRole::Vmm };
        let start_ticks = sandbox.process(role)?.start_ticks;
        Some(boot_now().as_secs_f64() - start_ticks as f64 / self.ticks_per_second)
    }

    fn failed(&self, sandbox: &Sandbox, error: &ShimError) -> Outcome {
        let state = error.state();
        self.pass_through(sandbox, &[], None);
        if state == SourceState::Refused {
            self.reply(sandbox, AgentReply::Refused);
        }
        let passing = matches!(state, SourceState::Refused | SourceState::Gone);
        if self.count_failure(sandbox, state) && !passing {
            warn!(
                sandbox_id = %sandbox.id,
                source = "shim",
                state = state.as_str(),
                error = error as &dyn std::error::Error,
                "no numbers from the shim"
            );
        }
        match state {
            SourceState::Timeout => {
                self.suspects.hold(sandbox, Source::Shim);
                Outcome::TimedOut
            }
            // Between bind and listen nobody answers on a new socket, and a dead one costs nothing to try.
            SourceState::Refused | SourceState::Gone => Outcome::Booting,
            _ => Outcome::Failed,
        }
    }

    fn count_failure(&self, sandbox: &Sandbox, state: SourceState) -> bool {
        self.own.collect_failed(Source::Shim, state);
        self.state(sandbox, state)
    }

    fn state(&self, sandbox: &Sandbox, state: SourceState) -> bool {
        self.put_state(sandbox, Source::Shim, state)
    }

    fn put_state(&self, sandbox: &Sandbox, source: Source, state: SourceState) -> bool {
        self.lives(sandbox) && self.store.put_state(&sandbox.id, sandbox.directory_inode, source, state)
    }

    fn reply(&self, sandbox: &Sandbox, reply: AgentReply) {
        self.registry.agent_replied(&sandbox.id, sandbox.directory_inode, reply, Instant::now());
    }

    fn limited(&self, limit: &'static str, count: u64) {
        if count > 0 {
            self.own.limited(limit, count);
        }
    }
}

/// Every real page has a family of the shim itself.
fn is_exposition(body: &[u8]) -> bool {
    memchr::memmem::find(body, b"kata_shim_").is_some()
}
