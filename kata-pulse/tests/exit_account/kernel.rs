//! What a process had used when it ended, as the kernel's programs add it up, against what `wait4` tells of the same.

use std::path::Path;
use std::time::Duration;

use kata_pulse::discover::ebpf::{self, Account, DirectoryMode, EbpfOptions, EbpfWatch, KernelEvent, Mode};

use crate::burner::{self, Burner, Ending, Truth};

const PATIENCE: Duration = Duration::from_secs(20);
/// What a process may use after its last thread's end was told: freeing its memory, on a machine with other work.
const TO_GO: Duration = Duration::from_millis(100);

/// `None`, after saying why: it cannot be had here.
async fn kernel() -> Option<EbpfWatch> {
    let options = EbpfOptions { mode: Mode::Require, directories: DirectoryMode::Off, ..EbpfOptions::default() };
    match tokio::task::spawn_blocking(move || ebpf::start(&options)).await.unwrap() {
        Ok(kernel) if kernel.sees("release") => Some(kernel),
        other => {
            let why = other.map_or_else(|error| error.to_string(), |kernel| format!("{:?}", kernel.programs()));
            assert!(std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "eBPF is needed: {why}");
            println!("SKIPPED: the release of processes cannot be seen here: {why}");
            None
        }
    }
}

/// The accounts of one process: at its exit, where no thread was being released at that moment, and at its release.
async fn accounts(kernel: &mut EbpfWatch, pid: u32) -> (Option<Account>, Account) {
    let (mut at_exit, mut events) = (None, Vec::new());
    let reading = async {
        loop {
            kernel.next_batch(&mut events).await.unwrap();
            for event in events.drain(..) {
                match event {
                    KernelEvent::Exit { process, account, .. } if process.pid == pid => at_exit = Some(account),
                    KernelEvent::Released { process, account, .. } if process.pid == pid => {
                        return (at_exit.expect("no exit before the release"), account);
                    }
                    _ => {}
                }
            }
        }
    };
    let (first, last) = tokio::time::timeout(PATIENCE, reading).await.expect("its release was not told");
    (first, last.expect("no account at its release"))
}

fn cpu(account: &Account) -> Duration {
    Duration::from_nanos(account.user_ns + account.system_ns + account.guest_ns)
}

fn io(account: &Account) -> Option<[u64; 4]> {
    account.io.map(|io| [io.read_calls, io.write_calls, io.read_bytes, io.written_bytes])
}

fn compare(name: &str, truth: &Truth, last: &Account) {
    println!("{name}: wait4 {truth:?}");
    println!("{name}: at its release, off by {:?}: {last:?}", truth.cpu().abs_diff(cpu(last)));
    // wait4 tells whole microseconds, of two numbers.
    assert!(truth.cpu().abs_diff(cpu(last)) <= Duration::from_micros(2), "{name}");
    assert!(truth.user.abs_diff(Duration::from_nanos(last.user_ns)) <= Duration::from_micros(1), "{name}");
    assert_eq!((last.minor_faults, last.major_faults), (truth.minor_faults, truth.major_faults), "{name}");
    let switches = (truth.voluntary_switches, truth.involuntary_switches);
    assert_eq!((last.voluntary_switches, last.involuntary_switches), switches, "{name}");
    assert_eq!(last.peak_rss * rustix::param::page_size() as u64, truth.peak_rss_bytes, "{name}");
    assert_eq!(io(last), Some(truth.io), "{name}");
    assert!(last.is_final, "{name}");
}

fn compare_first(name: &str, first: &Account, last: &Account) {
    println!("{name}: at its exit, less CPU {:?}: {first:?}", cpu(last).saturating_sub(cpu(first)));
    assert!(cpu(first) <= cpu(last) && cpu(last) - cpu(first) <= TO_GO, "{name}");
    let same = |account: &Account| (account.minor_faults, account.major_faults, account.peak_rss, io(account));
    assert_eq!(same(first), same(last), "{name}");
    assert!(!first.is_final, "{name}");
}

async fn run(kernel: &mut EbpfWatch, folder: &Path, name: &str, burner: Burner) -> (Truth, Account) {
    let burner = Burner { ready: folder.join(name.replace(' ', "-")), ..burner };
    let mut child = burner.start(&folder.join("qemu-system-x86_64"), "aa");
    let pid = child.id();
    if burner.ending == Ending::Killed {
        burner.until_ready();
        child.kill().unwrap();
    }
    let truth = tokio::task::spawn_blocking(move || burner::reap(child)).await.unwrap();
    let (first, last) = accounts(kernel, pid).await;
    compare(name, &truth, &last);
    match first {
        Some(first) => compare_first(name, &first, &last),
        None => println!("{name}: none at its exit, threads were being released"),
    }
    (truth, last)
}

#[tokio::test]
async fn the_kernels_account_of_a_process_is_what_wait4_tells() {
    let Some(mut kernel) = kernel().await else { return };
    let folder = burner::folder();
    burner::install(folder.path());
    let (burn, resident_bytes, written_bytes) = (Duration::from_millis(25), 48 << 20, 1 << 20);
    let work = Burner { threads: 8, burn, resident_bytes, written_bytes, ..Burner::idle(folder.path()) };
    let cases = [
        ("returns", Ending::Return),
        ("ends with eight threads", Ending::ExitGroup),
        ("is killed", Ending::Killed),
        ("ends its leader first", Ending::LeaderFirst),
    ];
    for (name, ending) in cases {
        let (truth, last) = run(&mut kernel, folder.path(), name, Burner { ending, ..work.clone() }).await;
        // What it was told to use, at least.
        assert!(cpu(&last) >= burn * 8, "{name}: {truth:?}");
        assert!(truth.peak_rss_bytes >= resident_bytes as u64, "{name}");
        assert!(truth.io[1] >= 16, "{name}: sixteen blocks");
        if truth.io[3] < written_bytes as u64 {
            println!("{name}: the file system here writes to no disk of its own: {:?}", truth.io);
        }
    }
    let (_, last) = run(&mut kernel, folder.path(), "does nothing", Burner::idle(folder.path())).await;
    assert!(cpu(&last) > Duration::ZERO, "no clock tick may have hit it");
    assert_eq!(kernel.counters().lost + kernel.counters().faults, 0);
    tokio::task::spawn_blocking(move || kernel.detach()).await.unwrap();
}
