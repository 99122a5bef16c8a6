//! One sandbox's sample into cAdvisor's words, with a history as it is in steady state.

use criterion::{Criterion, criterion_group, criterion_main};
use kata_pulse::collect::shim::parse::{ParseLimits, parse};
use kata_pulse::convert::{GuestHistory, Moment, convert};

const GO: &[u8] = include_bytes!("../testdata/shim/go-remote-4.1.0.prom");

fn sample(criterion: &mut Criterion) {
    let sample = parse(GO, true, ParseLimits::default());
    let mut history = GuestHistory::default();
    let moment = Moment { now_seconds: 1.0, vmm_age_seconds: Some(60.0) };
    criterion.bench_function("convert", |bencher| bencher.iter(|| convert(&sample, &mut history, moment)));
}

criterion_group!(benches, sample);
criterion_main!(benches);
