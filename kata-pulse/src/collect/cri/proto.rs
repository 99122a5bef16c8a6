//! The messages that `build.rs` compiled from `proto/`.
#![expect(clippy::allow_attributes_without_reason, reason = "generated")]
#![expect(clippy::enum_variant_names, reason = "the interface's names")]

pub(in crate::collect) mod cri {
    tonic::include_proto!("runtime.v1");
}

pub(super) mod containers {
    tonic::include_proto!("containerd.services.containers.v1");
}

pub(super) mod events {
    tonic::include_proto!("containerd.services.events.v1");
}

pub(in crate::collect) mod tasks {
    tonic::include_proto!("containerd.services.tasks.v1");
}
