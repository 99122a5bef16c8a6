//! A shim's page: finding its newlines, which nothing can be cheaper than, and parsing it.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kata_pulse::collect::shim::parse::{ParseLimits, parse};

const GO: &[u8] = include_bytes!("../testdata/shim/go-remote-4.1.0.prom");
const RUST: &[u8] = include_bytes!("../testdata/shim/rust-remote-4.1.0.prom");

fn pages(criterion: &mut Criterion) {
    for (name, page) in [("go", GO), ("rust", RUST)] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(page.len() as u64));
        group.bench_function("newlines", |bencher| bencher.iter(|| memchr::memchr_iter(b'\n', page).count()));
        group.bench_function("parse", |bencher| bencher.iter(|| parse(page, true, ParseLimits::default())));
        group.finish();
    }
}

criterion_group!(benches, pages);
criterion_main!(benches);
