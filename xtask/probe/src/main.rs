//! Runs every rung of the eBPF ladder that this kernel offers and checks what arrives. Prints one line per
//! check, `ok`, `FAIL` or `skip` with the reason, and how many; exits with 1 if one failed.
//!
//! As root, with tracefs mounted. `kata-pulse-probe bench` measures instead.

mod bench;
mod child;
mod directories;
mod io_uring;
mod processes;
mod report;

use std::path::PathBuf;

use kata_pulse_probe::ebpf::{DirectoryMode, EbpfOptions, EbpfWatch, Hidden, start};
use report::Report;

/// A way to run: what to hide so that the wanted rung serves.
struct Rung {
    name: &'static str,
    /// Part of the hook that must serve directories.
    hook: &'static str,
    hide: Hidden,
}

const RUNGS: [Rung; 5] = [
    Rung {
        name: "fexit",
        hook: "fexit/",
        hide: Hidden { btf: false, fexit: false, kprobes: true, last_thread: false, releases: false },
    },
    Rung {
        name: "kprobe",
        hook: "kprobe/",
        hide: Hidden { btf: false, fexit: true, kprobes: false, last_thread: false, releases: false },
    },
    Rung {
        name: "syscalls",
        hook: "tracepoint/",
        hide: Hidden { btf: false, fexit: true, kprobes: true, last_thread: false, releases: false },
    },
    Rung {
        name: "plain",
        hook: "tracepoint/",
        hide: Hidden { btf: true, fexit: true, kprobes: true, last_thread: false, releases: false },
    },
    // As on a kernel whose exit tracepoint does not know the last thread (6.1), without BTF.
    Rung {
        name: "plain without exits",
        hook: "tracepoint/",
        hide: Hidden { btf: true, fexit: true, kprobes: true, last_thread: true, releases: false },
    },
];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == child::FLAG) {
        return child::run(&arguments[at + 1..]);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if arguments.get(1).is_some_and(|argument| argument == "bench") {
        return runtime.block_on(bench::run());
    }
    let mut report = Report::default();
    for rung in &RUNGS {
        runtime.block_on(check(rung, &mut report))?;
    }
    println!("{report}");
    if report.failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

async fn check(rung: &Rung, report: &mut Report) -> anyhow::Result<()> {
    let options = EbpfOptions { directories: DirectoryMode::Syscalls, hide: rung.hide, ..EbpfOptions::default() };
    report.rung = rung.name;
    let mut watch = match start(&options) {
        Ok(watch) => watch,
        Err(error) => {
            report.check("start", Err(anyhow::Error::new(error)));
            return Ok(());
        }
    };
    for program in watch.programs() {
        let state = if program.attached { "attached" } else { program.reason.as_str() };
        println!("     {}: {} on {}: {state}", rung.name, program.name, program.hook);
    }
    let place = scratch()?;
    processes::check(&mut watch, &place, rung.hide.btf, report).await;
    match directory_rung(&watch, rung.hook) {
        Ok(()) => directories::check(&mut watch, &place, rung.hook == "tracepoint/", rung.hide.btf, report).await,
        Err(reason) => report.skip("directories", &reason),
    }
    let lost = watch.counters();
    let none_lost = lost.lost == 0 && lost.undecoded == 0 && lost.map_full == 0;
    report.require("nothing lost", none_lost, &format!("{lost:?}"));
    watch.detach();
    std::fs::remove_dir_all(&place)?;
    Ok(())
}

/// `Err`: why this rung does not serve here.
fn directory_rung(watch: &EbpfWatch, hook: &str) -> Result<(), String> {
    let mut of =
        watch.programs().iter().filter(|program| program.feature == "directories" && program.hook.starts_with(hook));
    match of.next() {
        Some(program) if program.attached => Ok(()),
        Some(program) => Err(program.reason.clone()),
        None => Err("not planned".to_owned()),
    }
}

fn scratch() -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(format!("/run/kata-pulse-probe-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path)?;
    Ok(path)
}
