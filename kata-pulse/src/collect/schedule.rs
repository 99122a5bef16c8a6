//! When which sandbox is asked: at once when it becomes ready, then once per period, spread over it.
//!
//! At most one request is in flight per sandbox, a bounded number in total, and those that did not answer last time
//! wait in a lane of their own, so that hung sandboxes delay nobody. Nothing is sent to a sandbox that is stopping.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::pace::{Pace, ScrapeClock};
use crate::sandbox::{Sandbox, SandboxId, Snapshot};

const LONGEST_BACKOFF: Duration = Duration::from_secs(600);
/// The second page comes soon: only two tell in which unit a guest counts its CPU time.
const SECOND_TURN: Duration = Duration::from_secs(3);
const SECOND_TURN_SPREAD: Duration = Duration::from_secs(5);
/// While a sandbox boots its socket is asked the harmless question, ever less often.
const FIRST_BOOT_RETRY: Duration = Duration::from_millis(200);
const LONGEST_BOOT_RETRY: Duration = Duration::from_secs(10);

/// How one source may be asked.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Requests under way to sandboxes that answered last time, or were never asked.
    pub healthy_lane: usize,
    /// Requests under way to sandboxes that did not.
    pub suspect_lane: usize,
    /// After the first time-out, doubled with each further one. A shim may work on a request long after nobody waits
    /// for it any more: until then a second one would pile up on it.
    pub first_backoff: Duration,
    /// Only two pages tell in which unit a guest counts its CPU time: the second is asked for soon.
    pub second_turn_soon: bool,
    /// A change of the key is a reason to ask at once also where there are numbers already.
    pub news_is_urgent: bool,
}

/// Asks one sandbox; every wait in it has a deadline.
pub trait Collect: Send + Sync + 'static {
    /// What a new look depends on: when it changes, a sandbox without numbers is asked at once.
    type Key: PartialEq + Send;

    /// `None`: there is nothing to ask of this sandbox, or it must be left alone.
    fn key(&self, sandbox: &Sandbox) -> Option<Self::Key>;

    fn collect(&self, sandbox: Arc<Sandbox>) -> impl Future<Output = Outcome> + Send;
}

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There are numbers.
    Collected,
    /// The virtual machine is not up yet.
    Booting,
    /// It must not be asked; another look is worth it only when more is known.
    Unsafe,
    /// It answered with something useless, or refused.
    Failed,
    /// It did not answer in time.
    TimedOut,
}

#[derive(Debug)]
struct Job<K> {
    /// Tells lives of one id apart.
    inode: u64,
    key: K,
    due: Instant,
    /// Spreads sandboxes over the period.
    phase: f64,
    asked: Option<Instant>,
    running: bool,
    /// The lane in which it was counted when it was asked.
    lane: usize,
    /// Something worth another look happened while it ran.
    again: bool,
    /// Successful collections so far.
    collected: u32,
    /// It was not asked for want of evidence: more of it is worth another look at once.
    wants_evidence: bool,
    timeouts: u32,
    boot_tries: u32,
}

/// Who is due when. Pure.
#[derive(Debug)]
pub(crate) struct Timetable<K> {
    rules: Rules,
    jobs: HashMap<SandboxId, Job<K>>,
    due: BTreeSet<(Instant, SandboxId)>,
    pace: Pace,
    in_flight: [usize; 2],
}

impl<K: PartialEq> Timetable<K> {
    fn new(rules: Rules, pace: Pace) -> Self {
        Self { rules, jobs: HashMap::new(), due: BTreeSet::new(), pace, in_flight: [0, 0] }
    }

    fn sync(&mut self, snapshot: &Snapshot, key: impl Fn(&Sandbox) -> Option<K>, now: Instant) {
        let mut wanted = HashSet::with_capacity(snapshot.len());
        for (id, sandbox) in snapshot.iter() {
            if let Some(key) = key(sandbox) {
                wanted.insert(id);
                self.sync_one(id, sandbox.directory_inode, key, now);
            }
        }
        let unwanted = |(id, job): &(&SandboxId, &Job<K>)| !job.running && !wanted.contains(*id);
        let gone: Vec<SandboxId> = self.jobs.iter().filter(unwanted).map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.remove(&id);
        }
    }

    fn sync_one(&mut self, id: &SandboxId, inode: u64, key: K, now: Instant) {
        let Some(job) = self.jobs.get_mut(id) else {
            let phase = phase(id);
            let job = Job {
                inode,
                key,
                due: now,
                phase,
                asked: None,
                running: false,
                lane: 0,
                again: false,
                collected: 0,
                wants_evidence: true,
                timeouts: 0,
                boot_tries: 0,
            };
            self.due.insert((now, id.clone()));
            self.jobs.insert(id.clone(), job);
            return;
        };
        let reborn = job.inode != inode;
        if job.key == key && !reborn {
            return;
        }
        (job.inode, job.key) = (inode, key);
        if reborn {
            job.collected = 0;
            job.timeouts = 0;
        }
        if job.running {
            job.again = true;
        } else if job.wants_evidence || reborn || (self.rules.news_is_urgent && job.timeouts == 0) {
            self.reschedule(id, now);
        }
    }

    fn set_pace(&mut self, pace: Pace, now: Instant) {
        if pace == self.pace {
            return;
        }
        self.pace = pace;
        let moved: Vec<(SandboxId, Instant)> = self
            .jobs
            .iter()
            // Who is due already found no room so far: a turn that moved on would never come.
            .filter(|(_, job)| !job.running && job.collected > 0 && job.timeouts == 0 && job.due > now)
            .filter_map(|(id, job)| Some((id.clone(), pace.next(job.asked?, job.phase, now))))
            .collect();
        for (id, due) in moved {
            self.reschedule(&id, due);
        }
    }

    fn reschedule(&mut self, id: &SandboxId, due: Instant) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        self.due.remove(&(job.due, id.clone()));
        job.due = due;
        self.due.insert((due, id.clone()));
    }

    fn remove(&mut self, id: &SandboxId) {
        if let Some(job) = self.jobs.remove(id) {
            self.due.remove(&(job.due, id.clone()));
        }
    }

    /// When the next one is due for which there is room.
    fn next_due(&self) -> Option<Instant> {
        let open = [self.in_flight[0] < self.rules.healthy_lane, self.in_flight[1] < self.rules.suspect_lane];
        if !open[0] && !open[1] {
            return None;
        }
        self.due.iter().find(|(_, id)| self.jobs.get(id).is_some_and(|job| open[job.lane_now()])).map(|(due, _)| *due)
    }

    /// The next one that is due now, marked as running.
    fn take_due(&mut self, now: Instant) -> Option<SandboxId> {
        let open = [self.in_flight[0] < self.rules.healthy_lane, self.in_flight[1] < self.rules.suspect_lane];
        let (due, id) = self
            .due
            .iter()
            .take_while(|(due, _)| *due <= now)
            .find(|(_, id)| self.jobs.get(id).is_some_and(|job| open[job.lane_now()]))?
            .clone();
        self.due.remove(&(due, id.clone()));
        let job = self.jobs.get_mut(&id)?;
        job.running = true;
        job.again = false;
        job.asked = Some(now);
        job.lane = job.lane_now();
        self.in_flight[job.lane] += 1;
        Some(id)
    }

    fn finished(&mut self, id: &SandboxId, outcome: Outcome, now: Instant) {
        let Some(job) = self.jobs.get_mut(id).filter(|job| job.running) else { return };
        self.in_flight[job.lane] -= 1;
        job.running = false;
        let asked = job.asked.unwrap_or(now);
        let due = match outcome {
            Outcome::Collected => {
                job.collected = job.collected.saturating_add(1);
                (job.timeouts, job.boot_tries) = (0, 0);
                match (self.pace, job.collected) {
                    (Pace::Interval(interval), 1) if self.rules.second_turn_soon => {
                        asked + interval.min(SECOND_TURN + SECOND_TURN_SPREAD.mul_f64(job.phase))
                    }
                    // From here on the sandboxes are spread over the interval.
                    (Pace::Interval(interval), 1 | 2) => asked + interval.mul_f64(0.5 + 0.5 * job.phase),
                    (pace, _) => pace.next(asked, job.phase, now),
                }
            }
            Outcome::TimedOut => {
                job.timeouts += 1;
                let backoff = self.rules.first_backoff * 2u32.saturating_pow((job.timeouts - 1).min(10));
                now + backoff.min(LONGEST_BACKOFF.max(self.rules.first_backoff)).max(self.pace.period())
            }
            Outcome::Booting => {
                job.boot_tries += 1;
                now + (FIRST_BOOT_RETRY * 2u32.saturating_pow((job.boot_tries - 1).min(10))).min(LONGEST_BOOT_RETRY)
            }
            Outcome::Unsafe | Outcome::Failed => {
                job.timeouts = 0;
                self.pace.next(asked, job.phase, now)
            }
        };
        job.wants_evidence = matches!(outcome, Outcome::Booting | Outcome::Unsafe);
        let urgent = self.rules.news_is_urgent && outcome != Outcome::TimedOut;
        let soon = job.again && (job.wants_evidence || urgent);
        job.due = due;
        self.due.insert((due, id.clone()));
        if soon {
            self.reschedule(id, now);
        }
    }
}

impl<K> Job<K> {
    fn lane_now(&self) -> usize {
        usize::from(self.timeouts > 0)
    }
}

/// Stable, so that a sandbox keeps its place in the period.
fn phase(id: &SandboxId) -> f64 {
    let hash = id
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

/// A scrape came in.
#[derive(Clone, Copy, Debug)]
pub struct Scraped {
    pub from: IpAddr,
    pub at: Instant,
}

/// Runs for as long as the agent does.
pub async fn run<C: Collect>(
    mut snapshots: watch::Receiver<Snapshot>,
    mut scrapes: mpsc::Receiver<Scraped>,
    interval: Duration,
    rules: Rules,
    collector: Arc<C>,
) {
    let mut clock = ScrapeClock::new(interval);
    let mut timetable = Timetable::new(rules, Pace::Interval(interval));
    let mut running: JoinSet<(SandboxId, Outcome)> = JoinSet::new();
    let mut tasks: HashMap<tokio::task::Id, SandboxId> = HashMap::new();
    let mut snapshot = snapshots.borrow_and_update().clone();
    timetable.sync(&snapshot, |sandbox| collector.key(sandbox), Instant::now());
    loop {
        while let Some(id) = timetable.take_due(Instant::now()) {
            let Some(sandbox) = snapshot.get(&id).cloned() else {
                timetable.finished(&id, Outcome::Failed, Instant::now());
                timetable.remove(&id);
                continue;
            };
            let collector = collector.clone();
            let task_id = id.clone();
            let handle = running.spawn(async move { (task_id, collector.collect(sandbox).await) });
            tasks.insert(handle.id(), id);
        }
        let next = timetable.next_due();
        tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() { return; }
                snapshot = snapshots.borrow_and_update().clone();
                timetable.sync(&snapshot, |sandbox| collector.key(sandbox), Instant::now());
            }
            Some(scraped) = scrapes.recv() => clock.arrived(scraped.from, scraped.at),
            Some(joined) = running.join_next_with_id() => {
                let (task, id, outcome) = match joined {
                    Ok((task, (id, outcome))) => (task, Some(id), outcome),
                    // A panic while one sandbox was asked: that sandbox's failure, nobody else's.
                    Err(error) => (error.id(), tasks.get(&error.id()).cloned(), Outcome::Failed),
                };
                tasks.remove(&task);
                if let Some(id) = id {
                    timetable.finished(&id, outcome, Instant::now());
                    if snapshot.get(&id).and_then(|sandbox| collector.key(sandbox)).is_none() { timetable.remove(&id); }
                }
            }
            () = sleep_until(next) => {}
        }
        timetable.set_pace(clock.pace(Instant::now()), Instant::now());
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Appeared;
    use crate::sandbox::SandboxState;
    use std::collections::BTreeMap;

    const INTERVAL: Duration = Duration::from_secs(60);
    const RULES: Rules = Rules {
        healthy_lane: 16,
        suspect_lane: 4,
        first_backoff: Duration::from_secs(15),
        second_turn_soon: true,
        news_is_urgent: false,
    };

    type Key = (SandboxState, Option<crate::sandbox::Vmm>);

    fn key(sandbox: &Sandbox) -> Option<Key> {
        let may_be_asked = sandbox.has_socket && sandbox.state != SandboxState::Stopping;
        may_be_asked.then_some((sandbox.state, sandbox.vmm_from_state))
    }

    fn sandbox(name: &str) -> Sandbox {
        let id = SandboxId::parse(name).unwrap();
        let directory = format!("/x/{name}").into();
        let appeared = Appeared { id, directory, inode: 1, runtime: None, created_unix_ms: None };
        Sandbox { state: SandboxState::Running, has_socket: true, ..Sandbox::new(&appeared) }
    }

    fn snapshot(sandboxes: impl IntoIterator<Item = Sandbox>) -> Snapshot {
        Arc::new(sandboxes.into_iter().map(|one| (one.id.clone(), Arc::new(one))).collect::<BTreeMap<_, _>>())
    }

    fn take_all(timetable: &mut Timetable<Key>, now: Instant) -> Vec<SandboxId> {
        std::iter::from_fn(|| timetable.take_due(now)).collect()
    }

    #[test]
    fn a_ready_sandbox_is_asked_at_once_and_only_once_at_a_time() {
        let now = Instant::now();
        let mut timetable = Timetable::new(RULES, Pace::Interval(INTERVAL));
        timetable.sync(&snapshot([sandbox("aa")]), key, now);
        assert_eq!(take_all(&mut timetable, now).len(), 1);
        timetable.sync(&snapshot([sandbox("aa")]), key, now + INTERVAL);
        assert!(take_all(&mut timetable, now + 10 * INTERVAL).is_empty());
    }

    #[test]
    fn stopping_sandboxes_and_those_without_socket_are_left_alone() {
        let now = Instant::now();
        let mut timetable = Timetable::new(RULES, Pace::Interval(INTERVAL));
        let stopping = Sandbox { state: SandboxState::Stopping, ..sandbox("aa") };
        let booting = Sandbox { has_socket: false, ..sandbox("bb") };
        timetable.sync(&snapshot([stopping, booting]), key, now);
        assert!(take_all(&mut timetable, now + INTERVAL).is_empty());
    }

    #[test]
    fn what_is_in_flight_is_bounded_and_hung_ones_have_their_own_lane() {
        let now = Instant::now();
        let mut timetable = Timetable::new(RULES, Pace::Interval(INTERVAL));
        let many = || snapshot((0..100).map(|n| sandbox(&format!("sandbox-{n}"))));
        timetable.sync(&many(), key, now);
        let mut hung = Vec::new();
        while hung.len() < 50 {
            let batch = take_all(&mut timetable, now);
            assert!(batch.len() <= RULES.healthy_lane);
            for id in &batch {
                timetable.finished(id, Outcome::TimedOut, now);
            }
            hung.extend(batch);
        }
        let rest = std::iter::from_fn(|| {
            let batch = take_all(&mut timetable, now);
            for id in &batch {
                timetable.finished(id, Outcome::Collected, now);
            }
            (!batch.is_empty()).then_some(batch)
        });
        assert_eq!(rest.flatten().count(), 100 - hung.len());
        let later = now + INTERVAL;
        let batch = take_all(&mut timetable, later);
        let suspects = batch.iter().filter(|id| hung.contains(id)).count();
        assert_eq!((suspects, batch.len() - suspects), (RULES.suspect_lane, RULES.healthy_lane));
    }

    #[test]
    fn back_off_from_a_shim_that_times_out_grows_to_minutes() {
        let mut now = Instant::now();
        let id = sandbox("aa").id;
        let mut timetable = Timetable::new(RULES, Pace::Interval(Duration::from_secs(10)));
        timetable.sync(&snapshot([sandbox("aa")]), key, now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert_eq!(timetable.take_due(now), Some(id.clone()));
            timetable.finished(&id, Outcome::TimedOut, now);
            let due = timetable.next_due().unwrap();
            waits.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(waits, [15, 30, 60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn new_evidence_brings_an_unsafe_sandbox_another_look() {
        let now = Instant::now();
        let mut timetable = Timetable::new(RULES, Pace::Interval(INTERVAL));
        timetable.sync(&snapshot([sandbox("aa")]), key, now);
        let id = timetable.take_due(now).unwrap();
        timetable.finished(&id, Outcome::Unsafe, now);
        timetable.sync(&snapshot([sandbox("aa")]), key, now);
        assert_eq!(timetable.take_due(now), None);
        let known = Sandbox { vmm_from_state: Some(crate::sandbox::Vmm::Dragonball), ..sandbox("aa") };
        timetable.sync(&snapshot([known]), key, now);
        assert_eq!(timetable.take_due(now), Some(id));
    }

    #[test]
    fn a_hung_sandbox_that_is_made_anew_while_it_is_asked_leaves_the_lanes_as_they_were() {
        let mut now = Instant::now();
        let mut timetable = Timetable::new(RULES, Pace::Interval(INTERVAL));
        timetable.sync(&snapshot([sandbox("aa")]), key, now);
        let id = timetable.take_due(now).unwrap();
        timetable.finished(&id, Outcome::TimedOut, now);
        now += 10 * INTERVAL;
        assert_eq!(timetable.take_due(now), Some(id.clone()));
        assert_eq!(timetable.in_flight, [0, 1], "a suspect's lane");
        timetable.sync(&snapshot([Sandbox { directory_inode: 2, ..sandbox("aa") }]), key, now);
        timetable.finished(&id, Outcome::Collected, now);
        assert_eq!(timetable.in_flight, [0, 0]);
    }

    #[test]
    fn urgent_news_is_asked_for_at_once_unless_the_last_answer_never_came() {
        let now = Instant::now();
        let mut timetable = Timetable::new(Rules { news_is_urgent: true, ..RULES }, Pace::Interval(INTERVAL));
        timetable.sync(&snapshot([sandbox("aa")]), key, now);
        let id = timetable.take_due(now).unwrap();
        timetable.finished(&id, Outcome::Collected, now);
        let changed = || Sandbox { vmm_from_state: Some(crate::sandbox::Vmm::Qemu), ..sandbox("aa") };
        timetable.sync(&snapshot([changed()]), key, now);
        assert_eq!(timetable.take_due(now), Some(id.clone()));
        timetable.finished(&id, Outcome::TimedOut, now);
        timetable.sync(&snapshot([sandbox("aa")]), key, now);
        assert_eq!(timetable.take_due(now), None);
    }

    #[test]
    fn the_second_page_comes_soon_and_later_ones_are_spread() {
        let mut now = Instant::now();
        let mut timetable = Timetable::new(RULES, Pace::Interval(INTERVAL));
        timetable.sync(&snapshot([sandbox("aa")]), key, now);
        let mut waits = Vec::new();
        for _ in 0..4 {
            let id = timetable.take_due(now).unwrap();
            timetable.finished(&id, Outcome::Collected, now);
            let due = timetable.next_due().unwrap();
            waits.push(due - now);
            now = due;
        }
        assert!(waits[0] >= SECOND_TURN && waits[0] <= SECOND_TURN + SECOND_TURN_SPREAD, "{waits:?}");
        assert!(waits[1] >= INTERVAL / 2 && waits[1] <= INTERVAL, "{waits:?}");
        assert_eq!(waits[2..], [INTERVAL, INTERVAL]);
    }

    #[test]
    fn a_turn_that_found_no_room_is_not_put_off_by_the_next_scrape() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timetable = Timetable::new(RULES, Pace::Following { last: start, period: Duration::from_secs(30) });
        timetable.sync(&snapshot([sandbox("aa")]), key, start);
        let id = timetable.take_due(start).unwrap();
        timetable.finished(&id, Outcome::Collected, start);
        let due = timetable.next_due().unwrap();
        assert!(due < at(60));
        timetable.set_pace(Pace::Following { last: at(60), period: Duration::from_secs(30) }, at(60));
        assert_eq!(timetable.next_due(), Some(due));
    }

    #[test]
    fn a_sandbox_that_ends_is_forgotten() {
        let now = Instant::now();
        let mut timetable = Timetable::new(RULES, Pace::Interval(INTERVAL));
        timetable.sync(&snapshot([sandbox("aa")]), key, now);
        timetable.sync(&snapshot([]), key, now);
        assert!(timetable.jobs.is_empty() && timetable.due.is_empty());
    }
}
