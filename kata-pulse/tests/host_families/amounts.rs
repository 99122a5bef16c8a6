//! Known amounts of everything, in every role.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_pulse_sim::judge::{Findings, Page};
use kata_pulse_sim::{Burn, BurnTruth, Chores, IoUsage, ProcessUsage};

use crate::ONE_AT_A_TIME;
use crate::host::{Host, has_ebpf};
use crate::living::Living;

pub const CPU: &str = "kata_sandbox_cpu_seconds_total";
pub const MEMORY: &str = "kata_sandbox_memory_bytes";
const IO_BYTES: &str = "kata_sandbox_io_bytes_total";
const IO_CALLS: &str = "kata_sandbox_io_operations_total";
const SWITCHES: &str = "kata_sandbox_context_switches_total";
const FAULTS: &str = "kata_sandbox_page_faults_total";
const THREADS: &str = "kata_sandbox_threads";
const PEAK: &str = "kata_sandbox_memory_peak_bytes";
const OPEN: &str = "kata_sandbox_open_fds";
const MOST_OPEN: &str = "kata_sandbox_max_fds";

const MIB: u64 = 1 << 20;
const READ: u64 = 8 * MIB;
const RESIDENT: u64 = 64 * MIB;
const VCPUS: u32 = 2;
/// The kernel counts CPU of living threads in these.
const TICK: f64 = 0.01;
const WORKED_FOR: Duration = Duration::from_secs(3);

/// The samples of one sandbox.
pub struct Of<'a>(pub &'a str);

impl Of<'_> {
    pub fn sum(&self, page: &Page, family: &str, labels: &[(&str, &str)]) -> Option<f64> {
        page.sum(family, &[&[("sandbox_id", self.0)], labels].concat())
    }

    /// Of several roles: one without the family does not count.
    pub fn roles(&self, page: &Page, family: &str, roles: &[&str], labels: &[(&str, &str)]) -> Option<f64> {
        let each = roles.iter().filter_map(|role| self.sum(page, family, &[&[("role", *role)], labels].concat()));
        each.reduce(|left, right| left + right)
    }
}

/// A folder on storage, for what is read and written; /tmp may be memory.
struct Storage(PathBuf);

impl Storage {
    fn make() -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("families-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn filled(&self) -> PathBuf {
        let path = self.0.join("filled");
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![0x6b; READ as usize]).unwrap();
        file.sync_all().unwrap();
        path
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What each role is to do.
fn burns(storage: &Path, filled: PathBuf) -> [(&'static str, Burn); 3] {
    let vmm = Burn {
        vcpu_user: 0.4,
        threads: VCPUS,
        vmm_io_bytes_per_second: 4 * MIB,
        resident_bytes: RESIDENT,
        file: storage.join("written"),
        chores: Chores {
            user: 0.1,
            system: 0.15,
            read_bytes: READ,
            read_from: filled,
            switches: 500,
            idle_threads: 5,
            open_files: 20,
        },
    };
    let of = |chores| Burn { resident_bytes: 16 * MIB, chores, ..Burn::default() };
    let virtiofsd = of(Chores { user: 0.05, system: 0.05, open_files: 7, ..Chores::default() });
    let shim = of(Chores { system: 0.05, idle_threads: 3, switches: 100, ..Chores::default() });
    [("vmm", vmm), ("virtiofsd", virtiofsd), ("shim", shim)]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_agrees_with_what_was_used() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let host = Host::start(1, 60).await;
    let storage = Storage::make();
    // Its vCPU threads have names of their own.
    let spec = host.pod(1, "go-clh", "default");
    let id = spec.id.clone();
    host.node.create(spec).await.unwrap();
    let of = Of(&id);
    let before = host.settle(|page| of.sum(page, CPU, &[("role", "vmm")]).is_some()).await;
    let pids = host.node.pids(&id).unwrap();
    let io_before = IoUsage::of(pids["vmm"]).unwrap();
    let burns = burns(&storage.0, storage.filled());
    for (role, burn) in &burns {
        host.node.burn_role(&id, role, burn).unwrap();
    }
    tokio::time::sleep(WORKED_FOR).await;

    let mut findings = Findings::default();
    let resident = |page: &Page, role: &str| of.sum(page, MEMORY, &[("role", role), ("type", "pss")]);
    let has_all =
        |page: &Page| burns.iter().all(|(role, burn)| resident(page, role) >= Some(burn.resident_bytes as f64));
    let page = host.settle(has_all).await;
    for (role, _) in &burns {
        held(&mut findings, &of, &page, role, &Living::of(&pids, role));
    }
    let vcpus = of.sum(&page, THREADS, &[("role", "vcpu")]);
    findings.near("threads that are vCPUs", vcpus, f64::from(VCPUS), 0.0);

    let truths = burns.map(|(role, _)| (role, host.node.rest_role(&id, role).unwrap()));
    let io = IoUsage::of(pids["vmm"]).unwrap();
    println!("the VMM's truth: {:?}", truths[0].1);
    let wrote = io.written_bytes - io_before.written_bytes;
    assert!(wrote >= truths[0].1.written_bytes && truths[0].1.written_bytes > 0, "{wrote} bytes reached storage");
    // Pages of the program itself may have to come back from storage, too.
    let read = io.read_bytes - io_before.read_bytes;
    assert!((READ..READ + READ / 4).contains(&read), "{read} bytes were read, {READ} of them around the cache");
    let calls = |page: &Page| of.sum(page, IO_CALLS, &[("role", "vmm"), ("direction", "write")]);
    let after = host.settle(|page| calls(page) == Some(io.write_calls as f64)).await;
    used(&mut findings, &of, [&before, &after], &truths);
    for (direction, bytes, calls) in
        [("read", io.read_bytes, io.read_calls), ("write", io.written_bytes, io.write_calls)]
    {
        let labels = [("role", "vmm"), ("direction", direction)];
        findings.near(&format!("bytes of {direction}"), of.sum(&after, IO_BYTES, &labels), bytes as f64, 0.0);
        findings.near(&format!("calls of {direction}"), of.sum(&after, IO_CALLS, &labels), calls as f64, 1.0);
    }

    host.node.remove(&id).await.unwrap();
    let usages = host.node.usage(&id).unwrap();
    let page = host.settle(|page| of.sum(page, "kata_sandbox_ended", &[]).is_some()).await;
    findings.near("ended", of.sum(&page, "kata_sandbox_ended", &[]), 1.0, 0.0);
    final_account(&mut findings, &of, &page, &usages);
    host.end().await;
    findings.end();
}

/// Gauges, while the work goes on.
fn held(findings: &mut Findings, of: &Of<'_>, page: &Page, role: &str, living: &Living) {
    for (kind, truth) in living.memory() {
        let seen = of.sum(page, MEMORY, &[("role", role), ("type", kind)]);
        let slack = match kind {
            // Pages of the program are shared with whoever else runs it just then.
            "pss" | "private" => 0.03 * truth + 4.0 * MIB as f64,
            // Allocators move a little from one reading to the next.
            "rss" => 0.02 * truth + 256.0 * 1024.0,
            _ => 0.1 * truth + 16.0 * 1024.0,
        };
        findings.near(&format!("{kind} of {role}"), seen, truth, slack);
    }
    let (peak, truth) = (of.sum(page, PEAK, &[("role", role)]), living.peak());
    findings.near(&format!("peak of {role}"), peak, truth, 0.02 * truth + 256.0 * 1024.0);
    let roles: &[&str] = if role == "vmm" { &["vcpu", "vmm"] } else { &[role] };
    findings.near(&format!("threads of {role}"), of.roles(page, THREADS, roles, &[]), living.threads(), 0.0);
    findings.near(&format!("open files of {role}"), of.sum(page, OPEN, &[("role", role)]), living.open_fds(), 0.0);
    let most = of.sum(page, MOST_OPEN, &[("role", role)]);
    findings.near(&format!("limit of open files of {role}"), most, living.max_fds(), 0.0);
}

/// Counters, after the work and before anything ends.
fn used(findings: &mut Findings, of: &Of<'_>, pages: [&Page; 2], truths: &[(&str, BurnTruth)]) {
    let grown = |role: &str, mode: &[(&str, &str)]| {
        let labels = [&[("role", role)], mode].concat();
        let before = of.sum(pages[0], CPU, &labels).unwrap_or(0.0);
        of.sum(pages[1], CPU, &labels).map(|after| after - before)
    };
    let vcpus = truths[0].1.cpu_seconds();
    // Here they end with their work: what they used since they were read last, a second before, is the VMM's.
    let handed_over = vcpus / truths[0].1.seconds;
    for (role, truth) in truths {
        let (user, system) = (truth.chores.user_seconds, truth.chores.system_seconds);
        // The kernel divides what it counts exactly by where its ticks fell. Beside its chores a process writes, and the kernel clears the pages that it touches.
        let besides = if *role == "vmm" { handed_over } else { 0.0 };
        let most = |seconds: f64| seconds * 1.05 + 0.4 + besides;
        let seen = grown(role, &[("mode", "user")]);
        findings.between(&format!("user time of {role}"), seen, user * 0.9 - 3.0 * TICK, most(user));
        let seen = grown(role, &[("mode", "system")]);
        findings.between(&format!("system time of {role}"), seen, system * 0.9 - 3.0 * TICK, most(system));
    }
    let slack = 0.02 * vcpus + f64::from(VCPUS) * 2.0 * TICK;
    let least = vcpus - slack - handed_over;
    findings.between("time of the vCPUs", grown("vcpu", &[]), least, vcpus + slack);
    findings.between("user time of the vCPUs", grown("vcpu", &[("mode", "user")]), 0.9 * least, vcpus + slack);
    let guest = grown("vcpu", &[("mode", "guest")]);
    findings.holds(guest.is_none_or(|seconds| seconds == 0.0), format!("there is no guest, and it used {guest:?}"));
}

/// All that each role had used when it ended, by the kernel's own account.
fn final_account(findings: &mut Findings, of: &Of<'_>, page: &Page, usages: &[ProcessUsage]) {
    if !has_ebpf(page, "final accounts") {
        return;
    }
    let roles: [(&str, &[&str]); 3] = [("vmm", &["vcpu", "vmm"]), ("virtiofsd", &["virtiofsd"]), ("shim", &["shim"])];
    for (role, labels) in roles {
        let of_role = || usages.iter().filter(|usage| usage.role.starts_with(role));
        assert!(of_role().count() > 0, "the shim told nothing of {role}");
        let total = |value: &dyn Fn(&ProcessUsage) -> f64| of_role().map(value).sum::<f64>();
        let cpu = total(&ProcessUsage::cpu_seconds);
        let what = format!("CPU of {role} at its end");
        findings.near(&what, of.roles(page, CPU, labels, &[]), cpu, 0.01 * cpu + 2.0 * TICK);
        let written = total(&|usage| usage.io.map_or(0.0, |io| io.written_bytes as f64));
        let seen = of.roles(page, IO_BYTES, labels, &[("direction", "write")]);
        findings.near(&format!("bytes written by {role} at its end"), seen, written, 64.0 * 1024.0);
        let counts: [(&str, &str, f64); 4] = [
            (SWITCHES, "voluntary", total(&|usage| usage.voluntary_switches as f64)),
            (SWITCHES, "involuntary", total(&|usage| usage.involuntary_switches as f64)),
            (FAULTS, "minor", total(&|usage| usage.minor_faults as f64)),
            (FAULTS, "major", total(&|usage| usage.major_faults as f64)),
        ];
        for (family, kind, truth) in counts {
            let seen = of.roles(page, family, labels, &[("type", kind)]);
            // The last ones come while a process goes.
            findings.near(&format!("{family} {kind} of {role} at its end"), seen, truth, 0.02 * truth + 20.0);
        }
    }
}
