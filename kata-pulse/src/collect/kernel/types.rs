//! Histograms as the programs sum them, in the model's words.

use kata_pulse_common::account::{BUCKETS, HISTOGRAM_WORDS, SUM};

use crate::model::Histogram;

/// Upper bounds in seconds: powers of two from 1 µs to 8.4 s.
pub static BOUNDS: [f64; BUCKETS - 1] = bounds();

const fn bounds() -> [f64; BUCKETS - 1] {
    let mut bounds = [0.0; BUCKETS - 1];
    let mut index = 0;
    while index < bounds.len() {
        bounds[index] = (1_u64 << index) as f64 / 1e6;
        index += 1;
    }
    bounds
}

pub(super) fn histogram(words: &[u64; HISTOGRAM_WORDS]) -> Histogram {
    Histogram { bounds: &BOUNDS, counts: words[..BUCKETS].to_vec(), sum_seconds: words[SUM] as f64 / 1e9 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_powers_of_two_in_microseconds() {
        assert_eq!(&BOUNDS[..3], &[0.000001, 0.000002, 0.000004]);
        assert_eq!(BOUNDS.last(), Some(&8.388608));
    }

    #[test]
    fn counts_add_up() {
        let mut words = [0; HISTOGRAM_WORDS];
        (words[0], words[3], words[BUCKETS - 1], words[SUM]) = (2, 5, 1, 1_500_000_000);
        let mut sum = histogram(&words);
        assert_eq!(sum.counts.len(), sum.bounds.len() + 1);
        sum.add(&histogram(&words));
        assert_eq!((sum.count(), sum.sum_seconds, sum.counts[3]), (16, 3.0, 10));
    }
}
