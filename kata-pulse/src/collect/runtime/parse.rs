//! The runtime's answers → [`TaskSample`]s. Pure.

use prost::Message;
use prost_types::Any;

use super::types::{CriStats, TaskMetrics, TaskSample, v1, v2};
use crate::collect::cri::proto::{cri, tasks};
use crate::sandbox::ContainerId;

/// Larger than any real message of one container, which has a few hundred bytes.
const MESSAGE_BYTES: usize = 256 * 1024;

/// `None`: a type that nobody here knows, or no such message.
pub fn parse_metrics(any: &Any) -> Option<TaskMetrics> {
    if any.value.len() > MESSAGE_BYTES {
        return None;
    }
    // containerd writes the bare name, others a URL in front of it.
    match any.type_url.rsplit('/').next()? {
        "io.containerd.cgroups.v1.Metrics" => {
            v1::Metrics::decode(any.value.as_slice()).ok().map(|metrics| TaskMetrics::V1(Box::new(metrics)))
        }
        "io.containerd.cgroups.v2.Metrics" => {
            v2::Metrics::decode(any.value.as_slice()).ok().map(|metrics| TaskMetrics::V2(Box::new(metrics)))
        }
        _ => None,
    }
}

pub(super) fn task_sample(metric: &tasks::Metric) -> Option<TaskSample> {
    let container = ContainerId::parse(&metric.id)?;
    Some(TaskSample { container, metrics: parse_metrics(metric.data.as_ref()?)? })
}

/// An entry without CPU and memory is that of a container that does not run, or whose numbers could not be had.
pub(super) fn cri_sample(stats: cri::ContainerStats) -> Option<TaskSample> {
    let container = ContainerId::parse(&stats.attributes?.id)?;
    if stats.cpu.is_none() && stats.memory.is_none() {
        return None;
    }
    let value = |value: Option<cri::UInt64Value>| value.map(|value| value.value);
    let memory = stats.memory.unwrap_or_default();
    let metrics = CriStats {
        cpu_usage_ns: stats.cpu.and_then(|cpu| value(cpu.usage_core_nano_seconds)),
        usage_bytes: value(memory.usage_bytes),
        working_set_bytes: value(memory.working_set_bytes),
        rss_bytes: value(memory.rss_bytes),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        writable_layer_bytes: stats.writable_layer.and_then(|layer| value(layer.used_bytes)),
    };
    Some(TaskSample { container, metrics: TaskMetrics::Cri(metrics) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_types_name_decides_with_or_without_a_url() {
        let value = v1::Metrics { pids: Some(v1::PidsStat { current: 3, limit: 0 }), ..Default::default() };
        for type_url in ["io.containerd.cgroups.v1.Metrics", "type.googleapis.com/io.containerd.cgroups.v1.Metrics"] {
            let any = Any { type_url: type_url.into(), value: value.encode_to_vec() };
            let Some(TaskMetrics::V1(read)) = parse_metrics(&any) else { panic!("{type_url}") };
            assert_eq!(*read, value);
        }
        let other = Any { type_url: "io.containerd.cgroups.v3.Metrics".into(), value: Vec::new() };
        assert_eq!(parse_metrics(&other), None);
    }

    #[test]
    fn cri_entries_without_numbers_are_no_samples_and_absent_is_not_zero() {
        let attributes = Some(cri::ContainerAttributes { id: "c1".into() });
        assert_eq!(cri_sample(cri::ContainerStats { attributes: attributes.clone(), ..Default::default() }), None);
        let cpu = cri::CpuUsage { usage_core_nano_seconds: Some(cri::UInt64Value { value: 0 }) };
        let sample = cri_sample(cri::ContainerStats { attributes, cpu: Some(cpu), ..Default::default() }).unwrap();
        let expected = CriStats { cpu_usage_ns: Some(0), ..CriStats::default() };
        assert_eq!(sample.metrics, TaskMetrics::Cri(expected));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(value in prop::collection::vec(any::<u8>(), 0..300), second: bool) {
            let version = if second { 2 } else { 1 };
            parse_metrics(&Any { type_url: format!("io.containerd.cgroups.v{version}.Metrics"), value });
        }
    }
}
