//! The page of 1, 100 and 1,000 sandboxes.

use std::collections::BTreeSet;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use kata_pulse::collect::shim::parse::{ParseLimits, parse};
use kata_pulse::convert::{GuestHistory, Moment, convert};
use kata_pulse::model::{Level, SandboxPage};
use kata_pulse::render::{Format, Selection, render};

const GO: &[u8] = include_bytes!("../testdata/shim/go-remote-4.1.0.prom");

fn pages(criterion: &mut Criterion) {
    let sample = parse(GO, true, ParseLimits::default());
    let moment = Moment { now_seconds: 1.0, vmm_age_seconds: Some(60.0) };
    let stats = Arc::new(convert(&sample, &mut GuestHistory::default(), moment).pod);
    let selection = Selection { levels: BTreeSet::from([Level::Pod]), disabled: BTreeSet::new() };
    let mut group = criterion.benchmark_group("render");
    for count in [1, 100, 1000] {
        let sandboxes: Vec<SandboxPage> = (0..count)
            .map(|number| SandboxPage {
                sandbox_id: format!("{number:064x}"),
                namespace: "default".into(),
                pod: format!("pod-{number}"),
                pod_level_id: format!("/kubepods/burstable/pod{number:032x}/kata-pulse"),
                stats: Some(stats.clone()),
                ..SandboxPage::default()
            })
            .collect();
        group.bench_with_input(BenchmarkId::from_parameter(count), &sandboxes, |bencher, sandboxes| {
            bencher.iter(|| render(sandboxes, &[], &[], &selection, Format::Text, 0, |_| true));
        });
    }
    group.finish();
}

criterion_group!(benches, pages);
criterion_main!(benches);
