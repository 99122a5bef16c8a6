//! Totals by namespace since the agent began: they never fall, whatever ends. In: what each sandbox has used so far.

use std::collections::{BTreeMap, HashMap};

use crate::model::{NamespaceStats, NetworkReading};
use crate::sandbox::SandboxId;

/// More namespaces than a node has; what comes beyond them is counted under no name.
const MAX_NAMESPACES: usize = 4096;
/// As many as a pod may have; a machine that makes ever new ones is not followed.
const MAX_INTERFACES: usize = 64;

/// What one sandbox has used since it or the agent began, whichever was later; `None` is what was not read yet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Contribution {
    pub cpu_seconds: Option<f64>,
    pub memory_byte_seconds: Option<f64>,
    pub received_bytes: Option<f64>,
    pub transmitted_bytes: Option<f64>,
    pub read_bytes: Option<f64>,
    pub written_bytes: Option<f64>,
    /// 1, unless it was there before the agent.
    pub started: f64,
}

/// The totals, and how much of each living sandbox is in them.
#[derive(Debug, Default)]
pub struct NamespaceBook {
    totals: BTreeMap<String, NamespaceStats>,
    applied: HashMap<(SandboxId, u64), Contribution>,
}

impl NamespaceBook {
    /// Adds what the sandbox has used since it was added last. Until its namespace is known, nobody calls this.
    pub fn apply(&mut self, id: &SandboxId, inode: u64, namespace: &str, now: Contribution) {
        let before = self.applied.entry((id.clone(), inode)).or_default();
        let full = self.totals.len() >= MAX_NAMESPACES && !self.totals.contains_key(namespace);
        let namespace = if full { "" } else { namespace };
        let total = self.totals.entry(namespace.to_owned()).or_default();
        namespace.clone_into(&mut total.namespace);
        for (total, now, before) in [
            (&mut total.cpu_seconds, now.cpu_seconds, &mut before.cpu_seconds),
            (&mut total.memory_byte_seconds, now.memory_byte_seconds, &mut before.memory_byte_seconds),
            (&mut total.received_bytes, now.received_bytes, &mut before.received_bytes),
            (&mut total.transmitted_bytes, now.transmitted_bytes, &mut before.transmitted_bytes),
            (&mut total.read_bytes, now.read_bytes, &mut before.read_bytes),
            (&mut total.written_bytes, now.written_bytes, &mut before.written_bytes),
        ] {
            let Some(now) = now else { continue };
            let before = before.get_or_insert(0.0);
            *total.get_or_insert(0.0) += (now - *before).max(0.0);
            *before = before.max(now);
        }
        total.sandboxes_started += (now.started - before.started).max(0.0);
        before.started = before.started.max(now.started);
    }

    /// The sandbox is no more; what it has used stays.
    pub fn forget(&mut self, id: &SandboxId, inode: u64) {
        self.applied.remove(&(id.clone(), inode));
    }

    pub fn totals(&self) -> Vec<NamespaceStats> {
        self.totals.values().cloned().collect()
    }
}

/// Traffic of one sandbox's pod interfaces, whichever come and go.
#[derive(Debug, Default)]
pub struct TrafficBook {
    /// Received and transmitted bytes: what was there first, and last.
    interfaces: HashMap<String, [[f64; 2]; 2]>,
}

impl TrafficBook {
    /// Sums of what was received and transmitted. `from_zero`: the sandbox began after the agent, so that all that its
    /// interfaces count is to be counted. Taps mirror other interfaces, and the host's traffic is not the pod's. `None`: it
    /// never had an interface.
    pub fn update(&mut self, network: &NetworkReading, from_zero: bool) -> Option<[f64; 2]> {
        let own = network.interfaces.iter().filter(|interface| !interface.is_tap && !network.is_hosts);
        for interface in own {
            let now = [interface.receive.bytes, interface.transmit.bytes];
            if let Some([_, last]) = self.interfaces.get_mut(&interface.name) {
                *last = [last[0].max(now[0]), last[1].max(now[1])];
            } else if self.interfaces.len() < MAX_INTERFACES {
                let first = if from_zero { [0.0; 2] } else { now };
                self.interfaces.insert(interface.name.clone(), [first, now]);
            }
        }
        let sum = |at: usize| self.interfaces.values().map(|[first, last]| last[at] - first[at]).sum();
        (!self.interfaces.is_empty()).then(|| [sum(0), sum(1)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InterfaceReading, TrafficReading};
    use proptest::prelude::*;

    fn id(text: &str) -> SandboxId {
        SandboxId::parse(text).unwrap()
    }

    fn cpu(seconds: f64) -> Contribution {
        Contribution { cpu_seconds: Some(seconds), started: 1.0, ..Contribution::default() }
    }

    #[test]
    fn what_ended_sandboxes_used_stays() {
        let mut book = NamespaceBook::default();
        book.apply(&id("aa"), 1, "shop", cpu(5.0));
        book.apply(&id("aa"), 1, "shop", cpu(7.0));
        book.forget(&id("aa"), 1);
        book.apply(&id("aa"), 2, "shop", cpu(1.0));
        let [total] = <[_; 1]>::try_from(book.totals()).unwrap();
        assert_eq!((total.cpu_seconds, total.sandboxes_started, total.namespace.as_str()), (Some(8.0), 2.0, "shop"));
        assert_eq!((total.read_bytes, total.received_bytes), (None, None), "nobody read them");
    }

    #[test]
    fn namespaces_without_end_are_counted_together() {
        let mut book = NamespaceBook::default();
        for number in 0..MAX_NAMESPACES + 10 {
            book.apply(&id(&format!("a{number}")), 1, &format!("n{number}"), cpu(1.0));
        }
        assert_eq!(book.totals().len(), MAX_NAMESPACES + 1);
        assert_eq!(book.totals()[0].cpu_seconds, Some(10.0));
    }

    proptest! {
        #[test]
        fn totals_never_fall(steps in prop::collection::vec((0..3u64, 0..3usize, -10.0..10.0f64, any::<bool>()), 1..60)) {
            let mut book = NamespaceBook::default();
            let mut before: BTreeMap<String, f64> = BTreeMap::new();
            for (inode, namespace, seconds, ends) in steps {
                book.apply(&id("aa"), inode, ["x", "y", ""][namespace], cpu(seconds));
                if ends {
                    book.forget(&id("aa"), inode);
                }
                for total in book.totals() {
                    let now = total.cpu_seconds.unwrap_or(0.0);
                    let last = before.insert(total.namespace, now).unwrap_or(0.0);
                    prop_assert!(now >= last);
                }
            }
        }
    }

    fn network(bytes: f64) -> NetworkReading {
        let traffic = TrafficReading { bytes, ..TrafficReading::default() };
        let interface = |name: &str, is_tap| InterfaceReading {
            name: name.to_owned(),
            is_tap,
            receive: traffic,
            transmit: TrafficReading::default(),
            qdisc_drops: None,
        };
        NetworkReading { is_hosts: false, interfaces: vec![interface("eth0", false), interface("tap0_kata", true)] }
    }

    #[test]
    fn traffic_is_counted_once_and_what_was_before_the_agent_is_not() {
        let mut book = TrafficBook::default();
        assert_eq!(book.update(&network(100.0), false), Some([0.0, 0.0]));
        assert_eq!(book.update(&network(150.0), false), Some([50.0, 0.0]));
        assert_eq!(book.update(&NetworkReading::default(), false), Some([50.0, 0.0]), "gone, and not forgotten");
        assert_eq!(TrafficBook::default().update(&network(100.0), true), Some([100.0, 0.0]));
        let hosts = NetworkReading { is_hosts: true, ..network(9.0) };
        assert_eq!(TrafficBook::default().update(&hosts, true), None);
    }
}
