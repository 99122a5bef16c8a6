//! What the kernel counts of a sandbox (`collect::kernel`), against what really happened: the scheduler's own account, a
//! guest whose exits are known, bytes written to a real disk, a process that the kernel kills.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod block;
mod groups;
mod kvm;
mod oom;
mod runqueue;

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use kata_pulse::collect::kernel::{KernelOptions, KernelView, ProgramGroup};
use kata_pulse::sandbox::Pid;

/// Only ends a test that would wait for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// `true` if it must not be skipped here.
fn required() -> bool {
    std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_some()
}

fn skip(why: &str) {
    assert!(!required(), "needed here: {why}");
    println!("SKIPPED: {why}");
}

/// A view with this group attached; `None`, after saying why: it cannot be had here.
fn view(group: ProgramGroup) -> Option<KernelView> {
    let view = KernelView::start(&KernelOptions { programs: [group].into(), ..KernelOptions::default() });
    if view.has(group) {
        return Some(view);
    }
    let reason = view.programs().iter().find(|program| program.feature == group.as_str()).unwrap().reason.clone();
    skip(&format!("the kernel's {} cannot be had: {reason}", group.as_str()));
    None
}

fn own_pid() -> Pid {
    Pid(std::process::id())
}

/// Field 22 of its stat.
fn start_ticks(process: Pid) -> u64 {
    let stat = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap()
}

/// Ends with the test, whatever becomes of it.
struct Background(Child);

impl Background {
    fn start(program: &str, arguments: &[&str]) -> Self {
        Self(Command::new(program).args(arguments).spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid(self.0.id())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
