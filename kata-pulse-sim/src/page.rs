//! The text of `GET /metrics`: real captured pages, with a few numbers patched as time passes.
//! Cost of a page: one copy of the template and a dozen formatted numbers.

use std::{borrow::Cow, sync::LazyLock, time::Duration};

use crate::kind::Runtime;

const GO_PAGE: &str = include_str!("../testdata/shim-go-guest-cgroup2.prom");
const RS_PAGE: &str = include_str!("../testdata/shim-rs-guest-cgroup2.prom");

/// Unit of `kata_guest_cpu_time`, by age of the guest's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CpuUnit {
    Seconds,
    Ticks,
    #[default]
    Milliseconds,
}

/// What the guest does while time passes; at time zero a page with milliseconds is the captured one.
#[derive(Debug, Clone, Copy, Default)]
pub struct GuestLoad {
    /// CPUs kept busy in user mode, e.g. 0.5.
    pub cpus: f64,
    /// `eth0` receives and sends this much.
    pub network_bytes_per_second: f64,
    /// `vda` writes this many 512-byte sectors.
    pub sectors_per_second: f64,
    pub unit: CpuUnit,
}

#[derive(Debug, Clone, Copy)]
enum Grows {
    /// The busy vCPU's, which is number 0, and the total's.
    User,
    /// What the guest does not use, of so many vCPUs.
    Idle {
        cpus: u8,
        busy: bool,
    },
    OtherCpu,
    Network,
    Sectors,
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Number { base: f64, grows: Grows },
}

/// A page cut into fixed text and moving numbers.
#[derive(Debug)]
pub(crate) struct Template {
    host: Vec<Piece>,
    guest: Vec<Piece>,
}

pub(crate) static GO: LazyLock<Template> = LazyLock::new(|| Template::cut(&with_help(GO_PAGE)));
pub(crate) static RS: LazyLock<Template> = LazyLock::new(|| Template::cut(&with_help(RS_PAGE)));

/// The captured pages came without their HELP texts; real ones are about as long as this.
const HELP: &str = "What a real shim says here is about as long as this text is.\n";

fn with_help(page: &str) -> String {
    let lines = page.split_inclusive('\n');
    lines
        .map(|line| if line.starts_with("# HELP ") { line.replacen(".\n", HELP, 1) } else { line.to_owned() })
        .collect()
}

pub(crate) fn template(runtime: Runtime) -> &'static Template {
    match runtime {
        Runtime::Go => &GO,
        Runtime::Rs => &RS,
    }
}

/// What the guest's agent says when it is asked itself: numbers as Rust prints them, which Go's shim rewrites.
pub(crate) fn agent_text(runtime: Runtime, load: GuestLoad, age: Duration) -> String {
    let text = template(runtime).guest(load, age);
    match runtime {
        Runtime::Rs => text,
        Runtime::Go => text.split_inclusive('\n').map(without_exponent).collect(),
    }
}

fn without_exponent(line: &str) -> Cow<'_, str> {
    let number = line.trim_end().rsplit_once(' ').filter(|(_, value)| !line.starts_with('#') && value.contains('e'));
    match number.and_then(|(head, value)| Some((head, value.parse::<f64>().ok()?))) {
        Some((head, value)) => Cow::Owned(format!("{head} {value}\n")),
        None => Cow::Borrowed(line),
    }
}

fn family(line: &str) -> &str {
    let name = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")).unwrap_or(line);
    name.split(['{', ' ']).next().unwrap_or(name)
}

fn grows(line: &str) -> Option<Grows> {
    let cpu = line.strip_prefix("kata_guest_cpu_time{");
    match cpu {
        Some(rest) if rest.contains("item=\"user\"") && !rest.contains("cpu=\"1\"") => Some(Grows::User),
        Some(rest) if rest.contains("item=\"idle\"") => Some(match rest {
            _ if rest.contains("cpu=\"0\"") => Grows::Idle { cpus: 1, busy: true },
            _ if rest.contains("cpu=\"1\"") => Grows::Idle { cpus: 1, busy: false },
            _ => Grows::Idle { cpus: 2, busy: true },
        }),
        Some(_) => Some(Grows::OtherCpu),
        None if line.starts_with("kata_guest_netdev_stat{interface=\"eth0\"") => {
            (line.contains("item=\"recv_bytes\"") || line.contains("item=\"sent_bytes\"")).then_some(Grows::Network)
        }
        None if line.starts_with("kata_guest_diskstat{disk=\"vda\"") => {
            line.contains("item=\"sectors_written\"").then_some(Grows::Sectors)
        }
        None => None,
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        Some(Piece::Text(last)) => last.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

impl Template {
    fn cut(page: &str) -> Self {
        let mut template = Self { host: Vec::new(), guest: Vec::new() };
        for line in page.split_inclusive('\n') {
            let name = family(line);
            let guest = name.starts_with("kata_guest_") || name.starts_with("kata_agent_");
            let pieces = if guest { &mut template.guest } else { &mut template.host };
            let value = line.trim_end().rsplit_once(' ').and_then(|(head, value)| Some((head, value.parse().ok()?)));
            match (grows(line), value) {
                (Some(grows), Some((head, base))) => {
                    push_text(pieces, head);
                    push_text(pieces, " ");
                    pieces.push(Piece::Number { base, grows });
                    push_text(pieces, "\n");
                }
                _ => push_text(pieces, line),
            }
        }
        template
    }

    pub(crate) fn host(&self) -> String {
        render(&self.host, GuestLoad::default(), Duration::ZERO)
    }

    pub(crate) fn guest(&self, load: GuestLoad, age: Duration) -> String {
        render(&self.guest, load, age)
    }
}

fn render(pieces: &[Piece], load: GuestLoad, age: Duration) -> String {
    let mut text = String::with_capacity(60_000);
    for piece in pieces {
        match piece {
            Piece::Text(fixed) => text.push_str(fixed),
            Piece::Number { base, grows } => text.push_str(&number(*base, *grows, load, age).to_string()),
        }
    }
    text
}

fn number(base: f64, grows: Grows, load: GuestLoad, age: Duration) -> f64 {
    let seconds = age.as_secs_f64();
    let cpu = |milliseconds: f64| match load.unit {
        CpuUnit::Milliseconds => (milliseconds / 10.0).floor() * 10.0,
        CpuUnit::Ticks => (milliseconds / 10.0).floor(),
        CpuUnit::Seconds => (milliseconds / 10.0).floor() / 100.0,
    };
    match grows {
        Grows::User => cpu(base + seconds * load.cpus * 1000.0),
        Grows::Idle { cpus, busy } => {
            let used = if busy { load.cpus } else { 0.0 };
            cpu(base + seconds * (f64::from(cpus) - used).max(0.0) * 1000.0)
        }
        Grows::OtherCpu => cpu(base),
        Grows::Network => base + (seconds * load.network_bytes_per_second).floor(),
        Grows::Sectors => base + (seconds * load.sectors_per_second).floor(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Go writes large numbers with exponents; a page at time zero must differ in nothing else.
    fn same(template: &Template, page: &str, guest_first: bool) {
        let (host, guest) = (template.host(), template.guest(GuestLoad::default(), Duration::ZERO));
        let whole = if guest_first { guest + &host } else { host + &guest };
        let page = with_help(page);
        for (ours, theirs) in whole.lines().zip(page.lines()) {
            if ours != theirs {
                let value = |line: &str| line.rsplit_once(' ').map(|(h, v)| (h.to_owned(), v.parse::<f64>().ok()));
                assert_eq!(value(ours), value(theirs));
            }
        }
        assert_eq!(whole.lines().count(), page.lines().count());
    }

    #[test]
    fn a_go_page_at_time_zero_is_the_captured_one() {
        same(&GO, GO_PAGE, false);
    }

    #[test]
    fn a_runtime_rs_page_at_time_zero_is_the_captured_one() {
        same(&RS, RS_PAGE, true);
    }

    #[test]
    fn a_go_page_is_as_long_as_a_real_one() {
        let bytes = GO.host().len() + GO.guest(GuestLoad::default(), Duration::ZERO).len();
        assert!((58_000..60_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn the_agent_says_what_go_repeats_in_its_own_words() {
        let told = agent_text(Runtime::Go, GuestLoad::default(), Duration::ZERO);
        let page = GO.guest(GuestLoad::default(), Duration::ZERO);
        assert!(page.contains("e+06\n") && !told.contains("e+06\n"));
        let value = |line: &str| line.rsplit_once(' ').map(|(h, v)| (h.to_owned(), v.parse::<f64>().ok()));
        assert!(told.lines().map(value).eq(page.lines().map(value)));
    }

    #[test]
    fn every_vcpu_counts_all_its_time() {
        let load = GuestLoad { cpus: 0.25, ..GuestLoad::default() };
        let sum = |seconds: u64, cpu: &str| -> f64 {
            let page = RS.guest(load, Duration::from_secs(seconds));
            let of = format!("kata_guest_cpu_time{{cpu=\"{cpu}\"");
            let values = page.lines().filter(|line| line.starts_with(&of));
            values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
        };
        for (cpu, count) in [("0", 1.0), ("1", 1.0), ("total", 2.0)] {
            assert_eq!(sum(10, cpu) - sum(0, cpu), count * 10_000.0, "{cpu}");
        }
    }

    #[test]
    fn a_busy_guest_moves_its_user_time_in_its_own_unit() {
        let load = GuestLoad { cpus: 0.5, unit: CpuUnit::Ticks, ..GuestLoad::default() };
        let page = RS.guest(load, Duration::from_secs(10));
        assert!(page.contains("kata_guest_cpu_time{cpu=\"total\",item=\"user\"} 561\n"), "{page}");
    }
}
