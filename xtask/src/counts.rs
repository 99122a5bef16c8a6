//! How many tests passed, failed and were skipped. In: the log of a step. Out: sums over all its runners.
//!
//! A test that cannot run prints a line `SKIPPED: why` and returns, which its runner takes for passed; with
//! `--show-output` that line is in the log, below the test's name.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

/// Sums cargo's `test result:` lines and plain `N passed, N failed[, N skipped]` lines, and moves the tests that said
/// that they were skipped from the passed ones to those.
pub fn parse_counts(log: &str) -> Counts {
    let mut counts = Counts::default();
    for line in log.lines().map(str::trim) {
        if let Some((passed, failed, skipped)) = parse_sum(line) {
            counts.passed += passed;
            counts.failed += failed;
            counts.skipped += skipped;
        }
    }
    let silent = skipped_tests(log);
    counts.passed = counts.passed.saturating_sub(silent);
    counts.skipped += silent;
    counts
}

fn parse_sum(line: &str) -> Option<(u64, u64, u64)> {
    let parts: Vec<_> = match line.strip_prefix("test result: ") {
        Some(rest) => rest.split_once(". ").map_or("", |(_, rest)| rest).split("; ").collect(),
        None => line.split(", ").collect(),
    };
    let number = |part: &&str| part.split_once(' ').and_then(|(n, w)| Some((n.parse().ok()?, w.to_owned())));
    let numbers: Vec<(u64, String)> = parts.iter().take(3).map(number).collect::<Option<_>>()?;
    let [(passed, first), (failed, second), rest @ ..] = numbers.as_slice() else { return None };
    let skipped = rest.first().filter(|(_, word)| word == "skipped" || word == "ignored").map_or(0, |(n, _)| *n);
    (first == "passed" && second == "failed").then_some((*passed, *failed, skipped))
}

/// Each test once, whatever else it prints; one that failed after such a line has failed.
fn skipped_tests(log: &str) -> u64 {
    let (mut count, mut counted, mut failures) = (0, false, false);
    for line in log.lines() {
        match line {
            "successes:" | "failures:" => failures = line == "failures:",
            _ if line.starts_with("---- ") && line.ends_with(" stdout ----") => counted = false,
            _ if line.starts_with("test result: ") => (counted, failures) = (false, false),
            _ if !failures && !counted && is_skip(line) => {
                count += 1;
                counted = true;
            }
            _ => {}
        }
    }
    count
}

/// What failed tests printed, of all runners: the lines between `failures:` and the sum.
pub fn failures(log: &str) -> Vec<&str> {
    let (mut lines, mut inside) = (Vec::new(), false);
    for line in log.lines() {
        match line {
            "failures:" => inside = true,
            "successes:" => inside = false,
            _ if line.starts_with("test result: ") => inside = false,
            _ if inside && !line.trim().is_empty() => lines.push(line),
            _ => {}
        }
    }
    lines
}

fn is_skip(line: &str) -> bool {
    line.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("skipped:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_runners_are_summed() {
        let log = "test a ... ok\ntest result: ok. 9 passed; 1 failed; 2 ignored; 0 measured; 7 filtered out; finished\n\
                   noise\n4 passed, 0 failed\n3 passed, 1 failed, 5 skipped\n1 passed, but not a line\n";
        assert_eq!(parse_counts(log), Counts { passed: 16, failed: 2, skipped: 7 });
    }

    #[test]
    fn a_test_that_says_that_it_is_skipped_has_not_passed() {
        let log = "running 3 tests\n\nsuccesses:\n\n---- one stdout ----\nSKIPPED: no kernel\nSKIPPED: at all\n\n\
                   ---- two stdout ----\nit was not SKIPPED: ran\n\n---- three stdout ----\nskipped: no promtool\n\n\
                   successes:\n    one\n    two\n    three\n\n\
                   test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(parse_counts(log), Counts { passed: 1, failed: 0, skipped: 3 });
    }

    #[test]
    fn a_test_that_failed_is_not_skipped_as_well() {
        let log = "failures:\n\n---- one stdout ----\nSKIPPED: half of it\npanicked\n\nfailures:\n    one\n\n\
                   test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(parse_counts(log), Counts { passed: 4, failed: 1, skipped: 0 });
    }

    #[test]
    fn what_failed_tests_said_is_found_among_what_others_said() {
        let log = "successes:\n\n---- fine stdout ----\nfine\n\nfailures:\n\n---- one stdout ----\npanicked\n\n\
                   failures:\n    one\n\ntest result: FAILED. 4 passed; 1 failed\n\nDoc-tests x\n";
        assert_eq!(failures(log), ["---- one stdout ----", "panicked", "    one"]);
        assert!(failures("error[E0425]: cannot find value\n").is_empty());
    }

    #[test]
    fn a_step_that_is_no_test_may_be_skipped() {
        assert_eq!(parse_counts("SKIPPED: no clippy\n"), Counts { passed: 0, failed: 0, skipped: 1 });
    }
}
