//! Runs the tables against a Prometheus and compares every answer with the truth. In: a set-up that has been scraped
//! long enough. Out: a [`Score`] by use.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::expect::{Answer, Binding, Expected, expected};
use crate::facts::things;
use crate::node::SimulatedNode;
use crate::pace::Pace;
use crate::prometheus::Prometheus;
use crate::setup::Setup;
use crate::table::{NotRun, Use};
use crate::truth::{CLUSTER, NODE, World};

const CADVISOR: &str = "job=\"kubelet\", metrics_path=\"/metrics/cadvisor\"";
const DISK: &str = "device=~\"(/dev/)?(mmcblk.p.+|nvme.+|rbd.+|sd.+|vd.+|xvd.+|dm-.+|md.+|dasd.+)\"";

/// What became of the uses.
#[derive(Debug, Default)]
pub struct Score {
    pub right: BTreeSet<u32>,
    /// Right, and nothing to see for any pod: with the query.
    pub empty: BTreeMap<u32, String>,
    pub wrong: BTreeMap<u32, String>,
    pub without_source: BTreeMap<u32, String>,
}

impl Score {
    pub fn head(&self) -> String {
        let Self { right, empty, wrong, without_source } = self;
        let counts = [right.len(), empty.len(), wrong.len(), without_source.len()];
        format!("{} right, {} empty, {} wrong, {} without a source", counts[0], counts[1], counts[2], counts[3])
    }

    pub fn leave_out(&mut self, reasons: &[NotRun]) {
        for one in reasons {
            self.without_source.extend(one.rows.iter().map(|row| (*row, one.reason.clone())));
        }
    }

    pub fn is_good(&self) -> bool {
        self.wrong.is_empty() && self.empty.is_empty()
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { empty, wrong, without_source, .. } = self;
        writeln!(f, "{}", self.head())?;
        for (what, rows) in [("empty", empty), ("wrong", wrong), ("without a source", without_source)] {
            let mut by_reason: BTreeMap<&String, Vec<u32>> = BTreeMap::new();
            rows.iter().for_each(|(row, reason)| by_reason.entry(reason).or_default().push(*row));
            for (reason, rows) in by_reason {
                writeln!(f, "  {what} {rows:?}: {reason}")?;
            }
        }
        Ok(())
    }
}

/// Every use of `uses`; one is right when all its queries are, for every pod, namespace or workload they can ask for.
pub fn evaluate(prometheus: &Prometheus, setup: Setup, node: &SimulatedNode, pace: &Pace, uses: &[Use]) -> Score {
    let mut score = Score::default();
    for one in uses {
        match compare(prometheus, setup, node, pace, one) {
            Ok(0) if one.expect != "nothing" => {
                score.empty.extend(one.rows.iter().map(|row| (*row, one.query.clone())));
            }
            Ok(_) => score.right.extend(&one.rows),
            Err(why) => score.wrong.extend(one.rows.iter().map(|row| (*row, why.clone()))),
        }
    }
    score.right.retain(|row| !score.wrong.contains_key(row) && !score.empty.contains_key(row));
    score
}

/// How many values were right, or what was wrong first.
fn compare(
    prometheus: &Prometheus,
    setup: Setup,
    node: &SimulatedNode,
    pace: &Pace,
    one: &Use,
) -> Result<usize, String> {
    let asks_for_job =
        ["$CADVISOR", "job=\"kubelet\"", "node_namespace_pod", "ALERTS"].iter().any(|word| one.query.contains(word));
    let mut right = 0;
    let world = node.world();
    let things = things(&world, setup.view(asks_for_job), node.now());
    for binding in bindings(&one.query, &world) {
        let expected = expected(&one.expect, &things, &binding, pace);
        let query = pace.of_query(&bound(&one.query, &binding));
        let found = prometheus.answer(&query, &expected.only).map_err(|error| format!("{error}\n    {query}"))?;
        differs(&expected, &found).map_or(Ok(()), |how| Err(format!("{how}\n    {query}")))?;
        right += found.len();
    }
    Ok(right)
}

fn differs(expected: &Expected, found: &Answer) -> Option<String> {
    let missing = expected.answer.iter().find(|(labels, _)| !found.contains_key(*labels));
    if let Some((labels, value)) = missing {
        return Some(format!("missing: {labels:?}, which is {value}; there are {} others", found.len()));
    }
    for (labels, value) in found {
        let Some(right) = expected.answer.get(labels) else {
            return Some(format!("too much: {labels:?} with {value}"));
        };
        let off = (value - right).abs();
        if off > right.abs() * expected.tolerance {
            return Some(format!("{labels:?} is {value}, right is {right}: {:+.1} %", 100.0 * (value / right - 1.0)));
        }
    }
    None
}

/// Every choice that a dashboard's variables allow, as far as the query has variables.
fn bindings(query: &str, world: &World) -> Vec<Binding> {
    let pods = world.pods.iter();
    let all = pods.map(|pod| Binding {
        namespace: pod.namespace.to_owned(),
        pod: pod.name.to_owned(),
        node: NODE.to_owned(),
        workload: pod.workload.to_owned(),
    });
    let mut seen = BTreeSet::new();
    all.filter(|binding| seen.insert(bound(query, binding))).collect()
}

fn bound(query: &str, binding: &Binding) -> String {
    query
        .replace("$CADVISOR", CADVISOR)
        .replace("$KSM", "job=\"kube-state-metrics\"")
        .replace("$DISK", DISK)
        .replace("$cluster", CLUSTER)
        .replace("$namespace", &binding.namespace)
        .replace("$pod", &binding.pod)
        .replace("$node", &binding.node)
        .replace("$workload", &binding.workload)
        .replace("$type", ".+")
}
