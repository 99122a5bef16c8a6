//! What all programs together cost others: execs, and threads that wake each other on one CPU, in turn without any
//! program, with all attached, and with all attached while the threads are a sandbox's. Prints a line of nanoseconds for
//! each round, which `cargo xtask bench` reads. They are of CPU time, in which a switch is part of one of its threads, so
//! that what else runs on the machine disturbs less.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aya::sys::{Stats, enable_stats};
use kata_pulse_probe::account::{KernelOptions, KernelView, ProgramGroup};
use kata_pulse_probe::ebpf::{EbpfOptions, EbpfWatch, start};
use kata_pulse_probe::sandbox::{HostRole, Pid};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::account::start_ticks;

const EXECS: u32 = 1_000;
const ROUND_TRIPS: u32 = 50_000;
/// After attaching and detaching.
const REST: Duration = Duration::from_millis(500);

pub fn run(rounds: u32) -> anyhow::Result<()> {
    for round in 0..rounds {
        let (mut execs, mut switches) = ([0; 2], [0; 3]);
        // Whichever comes second must not always be the same.
        let order = if round % 2 == 0 { [false, true] } else { [true, false] };
        for with in order {
            let programs = if with { Some(attach()?) } else { None };
            std::thread::sleep(REST);
            execs[usize::from(with)] = exec_storm()?;
            switches[usize::from(with)] = ping_pong()?;
            if let Some((_, view, _)) = &programs {
                view.watch(view.open(), Pid(std::process::id()), start_ticks()?, HostRole::Vmm)?;
                switches[2] = ping_pong()?;
            }
        }
        println!("bench exec {} {} switch {} {} {}", execs[0], execs[1], switches[0], switches[1], switches[2]);
    }
    reading()
}

/// With the kernel counting how long programs run, as it does for an agent that may ask it to.
fn attach() -> anyhow::Result<(EbpfWatch, KernelView, OwnedFd)> {
    let counted = enable_stats(Stats::RunTime).context("have the kernel count the time of programs")?;
    let watch = start(&EbpfOptions::default())?;
    let view = KernelView::start(&KernelOptions::default());
    ensure!(ProgramGroup::ALL.iter().all(|group| view.has(*group)), "not all attached: {:#?}", view.programs());
    Ok((watch, view, counted))
}

/// Nanoseconds for each process.
fn exec_storm() -> anyhow::Result<u128> {
    let before = with_children()?;
    for _ in 0..EXECS {
        Command::new("/bin/true").status()?;
    }
    Ok((with_children()? - before).as_nanos() / u128::from(EXECS))
}

/// CPU time of this process and of its children that have ended, from `/proc/self/stat`: in hundredths of a second.
fn with_children() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks = rest.split_ascii_whitespace().skip(11).take(4).map(str::parse::<u64>);
    Ok(Duration::from_millis(10 * ticks.sum::<Result<u64, _>>()?))
}

/// CPU time of this thread.
fn of_thread() -> anyhow::Result<u128> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split_ascii_whitespace().next().context("empty schedstat")?.parse()?)
}

/// Nanoseconds for each switch with its wake-up: two threads on one CPU hand a byte to and fro.
fn ping_pong() -> anyhow::Result<u128> {
    let affinity = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    one.set(0);
    sched_setaffinity(None, &one)?;
    let (mut mine, mut theirs) = (std::io::pipe()?, std::io::pipe()?);
    let other = std::thread::spawn(move || -> anyhow::Result<u128> {
        let (mut byte, before) = ([0], of_thread()?);
        for _ in 0..ROUND_TRIPS {
            mine.0.read_exact(&mut byte)?;
            theirs.1.write_all(&byte)?;
        }
        Ok(of_thread()? - before)
    });
    let (mut byte, before) = ([1], of_thread()?);
    for _ in 0..ROUND_TRIPS {
        mine.1.write_all(&byte)?;
        theirs.0.read_exact(&mut byte)?;
    }
    let took = of_thread()? - before + other.join().ok().context("the other thread panicked")??;
    sched_setaffinity(None, &affinity)?;
    Ok(took / u128::from(2 * ROUND_TRIPS))
}

/// Time to read a thousand sandboxes of three roles, and to free one.
fn reading() -> anyhow::Result<()> {
    let view = KernelView::start(&KernelOptions::default());
    let slots: Vec<_> = (0..1_000).map(|_| view.open()).collect();
    for slot in &slots {
        for role in [HostRole::Shim, HostRole::Virtiofsd, HostRole::Vmm] {
            view.watch(*slot, Pid(std::process::id()), start_ticks()?, role)?;
        }
    }
    let begun = Instant::now();
    let readings = view.read_all();
    println!("bench read {}", begun.elapsed().as_nanos());
    ensure!(readings.len() == slots.len(), "{} readings", readings.len());
    let begun = Instant::now();
    slots.iter().for_each(|slot| drop(view.free(*slot)));
    println!("bench free {}", begun.elapsed().as_nanos() / slots.len() as u128);
    Ok(())
}
