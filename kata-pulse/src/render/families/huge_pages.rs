//! `container_hugetlb_*`, of page sizes that were used.

use super::{Family, Sink, Type, Write, value};
use crate::model::MetricKind::Memory;
use crate::model::{HugePageStats, Stats};

const fn pages(
    name: &'static str,
    of_type: Type,
    unit: &'static str,
    help: &'static str,
    write: fn(&Stats, &mut Sink<'_>),
) -> Family {
    let family = value(name, of_type, unit, Memory, help, ["", "task: hugetlb, of sizes that were used"], |_| None);
    Family { labels: "pagesize", write: Write::Series(write), ..family }
}

fn each(stats: &Stats, sink: &mut Sink<'_>, value: fn(&HugePageStats) -> Option<f64>) {
    for pages in &stats.huge_pages {
        sink.put(&[("pagesize", &pages.page_size)], value(pages));
    }
}

pub(super) const USAGE: Family =
    pages("container_hugetlb_usage_bytes", Type::Gauge, "bytes", "Memory in huge pages.", |stats, sink| {
        each(stats, sink, |pages| pages.usage_bytes)
    });

pub(super) const MAX_USAGE: Family = pages(
    "container_hugetlb_max_usage_bytes",
    Type::Gauge,
    "bytes",
    "The most memory that was in huge pages so far.",
    |stats, sink| each(stats, sink, |pages| pages.max_usage_bytes),
);

pub(super) const FAILCNT: Family = pages(
    "container_hugetlb_failcnt",
    Type::Counter,
    "",
    "How often the limit of huge pages was hit.",
    |stats, sink| each(stats, sink, |pages| pages.limit_hits),
);
