//! An agent's page held against the truth. In: the text of the page, as its reader gets it. Out: [`Page`], which finds
//! samples by their labels, and [`Findings`], which gathers all that is wrong before the test ends, so that one missing
//! family hides no other.

use std::collections::BTreeMap;
use std::fmt::Write;

/// One line of a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let (head, value) = line.rsplit_once(' ')?;
        let (name, labels) = match head.split_once('{') {
            Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}')?)?),
            None => (head, BTreeMap::new()),
        };
        let value = if value == "+Inf" { f64::INFINITY } else { value.parse().ok()? };
        Some(Self { name: name.to_owned(), labels, value })
    }

    fn fits(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        let has = |(label, value): &(&str, &str)| self.labels.get(*label).is_some_and(|found| found == value);
        self.name == name && labels.iter().all(has)
    }
}

/// `a="b",c="d"` with the escapes of the text format.
fn parse_labels(text: &str) -> Option<BTreeMap<String, String>> {
    let (mut labels, mut rest) = (BTreeMap::new(), text);
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut letters = after.char_indices();
        let end = loop {
            match letters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match letters.next()?.1 {
                    'n' => '\n',
                    letter => letter,
                }),
                (_, letter) => value.push(letter),
            }
        };
        labels.insert(name.to_owned(), value);
        rest = after[end + 1..].trim_start_matches(',');
    }
    Some(labels)
}

/// What one GET gave.
#[derive(Debug, Clone, Default)]
pub struct Page {
    samples: Vec<Sample>,
    /// Families that the page says are counters.
    counters: Vec<String>,
}

impl Page {
    /// Panics on a line that is none.
    pub fn parse(text: &str) -> Self {
        let mut page = Self::default();
        for line in text.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(rest) => page.counters.extend(rest.strip_suffix(" counter").map(str::to_owned)),
                None if line.is_empty() || line.starts_with('#') => {}
                None => page.samples.push(Sample::parse(line).unwrap_or_else(|| panic!("not a sample: {line}"))),
            }
        }
        page
    }

    /// Samples that have these labels, whatever else they have.
    pub fn all(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| sample.fits(name, labels)).collect()
    }

    /// Their sum; `None` without any.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.all(name, labels).iter().map(|sample| sample.value).reduce(|left, right| left + right)
    }

    /// Samples of families whose names start so.
    pub fn starting<'a>(&'a self, start: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name.starts_with(start))
    }

    fn is_counter(&self, name: &str) -> bool {
        self.counters.iter().any(|counter| counter == name)
    }

    /// Counters that stand in both pages and are lower in the later one.
    pub fn fallen(&self, later: &Self) -> Vec<String> {
        let key = |sample: &Sample| (sample.name.clone(), sample.labels.clone());
        let before: BTreeMap<_, f64> = self.samples.iter().map(|sample| (key(sample), sample.value)).collect();
        let counters = later.samples.iter().filter(|sample| later.is_counter(&sample.name));
        let fell = counters.filter_map(|now| {
            let then = *before.get(&key(now))?;
            (now.value < then).then(|| format!("{}{:?} fell from {then} to {}", now.name, now.labels, now.value))
        });
        fell.collect()
    }
}

/// What was found wrong, and what was measured.
#[derive(Debug, Default)]
pub struct Findings {
    wrong: Vec<String>,
    checked: usize,
}

impl Findings {
    pub fn holds(&mut self, fits: bool, what: impl Into<String>) {
        self.checked += 1;
        if !fits {
            self.wrong.push(what.into());
        }
    }

    /// The truth plus or minus a tolerance; prints the difference.
    pub fn near(&mut self, what: &str, seen: Option<f64>, truth: f64, tolerance: f64) {
        self.between(what, seen, truth - tolerance, truth + tolerance);
        if let Some(seen) = seen {
            let share = if truth == 0.0 { String::new() } else { format!(" ({:+.2} %)", (seen / truth - 1.0) * 100.0) };
            println!("{what}: the page says {seen}, in truth {truth}{share}");
        }
    }

    pub fn between(&mut self, what: &str, seen: Option<f64>, least: f64, most: f64) {
        let range = format!("expected {least} to {most}");
        match seen {
            Some(seen) => self.holds((least..=most).contains(&seen), format!("{what}: {seen}, {range}")),
            None => self.holds(false, format!("{what}: missing, {range}")),
        }
    }

    /// Fails with everything that was wrong.
    pub fn end(self) {
        let mut text = String::new();
        for wrong in &self.wrong {
            let _ = write!(text, "\n  {wrong}");
        }
        assert!(self.wrong.is_empty(), "{} of {} checks of the page failed:{text}", self.wrong.len(), self.checked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_any_of_their_labels() {
        let page =
            Page::parse("# TYPE a_total counter\na_total{x=\"1\",y=\"b\\\"},\"} 2\na_total{x=\"1\",y=\"c\"} 3\nb 7\n");
        assert_eq!(page.sum("a_total", &[("x", "1")]), Some(5.0));
        assert_eq!(page.sum("a_total", &[("y", "b\"},")]), Some(2.0));
        assert_eq!((page.sum("b", &[]), page.sum("b", &[("x", "1")])), (Some(7.0), None));
    }

    #[test]
    fn only_counters_must_not_fall() {
        let page = |counter, gauge| Page::parse(&format!("# TYPE c counter\nc {counter}\n# TYPE g gauge\ng {gauge}\n"));
        assert_eq!(page(2, 2).fallen(&page(2, 1)), Vec::<String>::new());
        assert_eq!(page(2, 2).fallen(&page(1, 2)).len(), 1);
    }

    #[test]
    #[should_panic(expected = "1 of 2 checks")]
    fn what_is_missing_is_wrong() {
        let mut findings = Findings::default();
        findings.near("there", Some(1.0), 1.0, 0.1);
        findings.between("not there", None, 0.0, 1.0);
        findings.end();
    }
}
