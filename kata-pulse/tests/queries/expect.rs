//! The words of the tables' last column, and what they mean for a world.
//!
//! `sum rx_bytes by namespace of namespace,pod-network x bits`: how to join, what, grouped by which labels, of which
//! part (the binding's namespace, pod, node, workload; pods with a network of their own, Kata pods), times what. Two of them with
//! ` / ` between are a ratio, `a+b` is the sum of two measures of one thing, `each` keeps things apart.

use std::collections::BTreeMap;

use crate::facts::{Thing, is_gauge};
use crate::pace::Pace;

/// Values of the dashboard's variables.
#[derive(Debug, Clone, Default)]
pub struct Binding {
    pub namespace: String,
    pub pod: String,
    pub node: String,
    pub workload: String,
}

/// Labels to value, as Prometheus answers.
pub type Answer = BTreeMap<BTreeMap<String, String>, f64>;

/// A right answer and how far a measured one may be off.
#[derive(Debug)]
pub struct Expected {
    pub answer: Answer,
    /// Part of the value; 1e-6 for amounts, which are exact but for a float's last digits.
    pub tolerance: f64,
    /// Labels by which the answer is compared; others may be there too. Empty: all labels.
    pub only: Vec<String>,
}

#[derive(Debug)]
struct Term<'a> {
    join: &'a str,
    measures: Vec<&'a str>,
    by: Vec<(&'a str, &'a str)>,
    of: Vec<&'a str>,
    factor: Option<&'a str>,
}

pub fn expected(words: &str, things: &[Thing], binding: &Binding, pace: &Pace) -> Expected {
    if words == "nothing" {
        return Expected { answer: Answer::new(), tolerance: 0.0, only: Vec::new() };
    }
    let terms: Vec<Term<'_>> = words.split(" / ").map(parse).collect();
    let tolerance = terms.iter().map(|term| tolerance(term, pace)).fold(0.0, f64::max);
    let mut answers = terms.iter().map(|term| evaluate(term, things, binding, pace));
    let mut answer = answers.next().unwrap();
    if let Some(below) = answers.next() {
        answer = answer.into_iter().filter_map(|(key, value)| Some((key.clone(), value / below.get(&key)?))).collect();
    }
    let first = &terms[0];
    let only =
        if first.join == "each" { first.by.iter().map(|(label, _)| (*label).to_owned()).collect() } else { vec![] };
    Expected { answer, tolerance, only }
}

fn parse(words: &str) -> Term<'_> {
    let (words, factor) = match words.split_once(" x ") {
        Some((words, factor)) => (words, Some(factor)),
        None => (words, None),
    };
    let (words, of) = words.split_once(" of ").unwrap_or((words, ""));
    let (words, by) = words.split_once(" by ").unwrap_or((words, ""));
    let (join, what) = words.split_once(' ').unwrap_or_else(|| panic!("what of {words:?}"));
    let by =
        by.split(',').filter(|label| !label.is_empty()).map(|label| label.split_once('=').unwrap_or((label, label)));
    Term {
        join,
        measures: what.split('+').collect(),
        by: by.collect(),
        of: of.split(',').filter(|part| !part.is_empty()).collect(),
        factor,
    }
}

fn tolerance(term: &Term<'_>, pace: &Pace) -> f64 {
    if term.factor == Some("samples") {
        return pace.sample_tolerance;
    }
    if term.measures.iter().all(|measure| is_gauge(measure)) { 1e-6 } else { pace.rate_tolerance }
}

fn evaluate(term: &Term<'_>, things: &[Thing], binding: &Binding, pace: &Pace) -> Answer {
    let mut groups: BTreeMap<BTreeMap<String, String>, Vec<f64>> = BTreeMap::new();
    for thing in things.iter().filter(|thing| is_part(thing, &term.of, binding)) {
        let values: Option<Vec<f64>> =
            term.measures.iter().map(|measure| thing.measures.get(measure).copied()).collect();
        if let Some(values) = values {
            let key = term.by.iter().map(|(to, from)| ((*to).to_owned(), thing.labels[from].clone()));
            groups.entry(key.collect()).or_default().push(values.iter().sum());
        }
    }
    let factor = factor(term.factor, pace);
    groups.into_iter().map(|(key, values)| (key, joined(term.join, &values) * factor)).collect()
}

fn joined(how: &str, values: &[f64]) -> f64 {
    match how {
        "sum" => values.iter().sum(),
        "avg" => values.iter().sum::<f64>() / values.len() as f64,
        "max" => values.iter().copied().fold(f64::MIN, f64::max),
        "each" => {
            assert_eq!(values.len(), 1, "these labels do not keep things apart");
            values[0]
        }
        other => panic!("how to join by {other:?}?"),
    }
}

fn factor(word: Option<&str>, pace: &Pace) -> f64 {
    match word {
        None => 1.0,
        Some("bits") => 8.0,
        Some("window") => pace.window_seconds(),
        Some("samples") => pace.samples_per_window(),
        Some(other) => panic!("what is the factor {other:?}?"),
    }
}

fn is_part(thing: &Thing, of: &[&str], binding: &Binding) -> bool {
    let is = |label: &str, value: &str| thing.labels.get(label).is_some_and(|known| known == value);
    of.iter().all(|part| match *part {
        "namespace" => is("namespace", &binding.namespace),
        "pod" => is("namespace", &binding.namespace) && is("pod", &binding.pod),
        "workload" => is("namespace", &binding.namespace) && is("workload", &binding.workload),
        "node" => is("node", &binding.node),
        "pod-network" => !thing.host_network,
        "kata" => thing.kata,
        other => panic!("a part of {other:?}?"),
    })
}
