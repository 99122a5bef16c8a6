# The agent's image: built from Debian's packages and crates.io, in the end one static program and its licence.
#
#   docker build --tag kata-pulse --build-arg REVISION="$(git rev-parse --short=12 HEAD)" .
#
# `cargo xtask image` builds it without an engine and runs the result. Layers and cache mounts keep what was installed,
# fetched and compiled: a change of the agent's sources compiles the agent alone. Nothing here names an architecture,
# and Debian has every package for arm64 too. The agent was compiled for it once (docs/release.md), the image only for amd64.

# Debian 12 with its security updates, which hold the compiler.
ARG DEBIAN=debian:bookworm

FROM ${DEBIAN} AS rust
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        rustc-web cargo-web gcc libc6-dev ca-certificates \
    && rm -rf /var/lib/apt/lists/*
ENV CARGO_HOME=/cargo CARGO_TARGET_DIR=/target
WORKDIR /src

FROM rust AS ebpf
# What bpf-linker is linked with, and the library's sources, since no library is shipped for the target.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        rust-web-src llvm-22-dev libpolly-22-dev zlib1g-dev libzstd-dev libxml2-dev g++ \
    && rm -rf /var/lib/apt/lists/*
# A base may bring its own; version and features are those of xtask/src/setup.rs.
RUN --mount=type=cache,target=/cargo/registry --mount=type=cache,target=/target \
    command -v bpf-linker \
    || LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked --root /usr/local \
        --no-default-features --features llvm-22
COPY Cargo.toml .
COPY kata-pulse-common kata-pulse-common
COPY kata-pulse-ebpf kata-pulse-ebpf
# As xtask/src/build_ebpf.rs does it.
RUN --mount=type=cache,target=/cargo/registry --mount=type=cache,target=/target \
    cd kata-pulse-ebpf \
    && RUSTC_BOOTSTRAP=1 cargo build --release --locked --target bpfel-unknown-none -Z build-std=core \
    && mkdir /bpf \
    && for object in kata-pulse-ebpf kata-pulse-ebpf-plain kata-pulse-ebpf-account kata-pulse-ebpf-account-plain; do \
        /usr/lib/llvm-22/bin/llvm-strip -g /target/bpfel-unknown-none/release/$object -o /bpf/$object || exit 1; \
    done

FROM rust AS agent
COPY . .
COPY --from=ebpf /bpf /bpf
# Commit that --version and kata_pulse_build_info name; the context holds no .git.
ARG REVISION=
# The target is named so that the flags are those of the agent alone and not of what runs during the build.
RUN --mount=type=cache,target=/cargo/registry --mount=type=cache,target=/target \
    target="$(rustc -vV | sed -n 's/^host: //p')" \
    && KATA_PULSE_REVISION="$REVISION" KATA_PULSE_EBPF_OBJECT=/bpf/kata-pulse-ebpf \
        RUSTFLAGS="-C target-feature=+crt-static" CARGO_PROFILE_RELEASE_STRIP=debuginfo \
        cargo build --release --locked --package kata-pulse --target "$target" \
    && mkdir /image \
    && cp "/target/$target/release/kata-pulse" LICENSE /image/

FROM scratch
# Where the sources are published: the release says it.
ARG SOURCE=
ARG REVISION=
LABEL org.opencontainers.image.title="kata-pulse" \
      org.opencontainers.image.description="Metrics of Kata Containers sandboxes, from the host, for Prometheus" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=agent /image/ /
# Loopback is the program's default; in a pod nobody would reach that.
ENV KATA_PULSE_LISTEN=0.0.0.0:8090
EXPOSE 8090
ENTRYPOINT ["/kata-pulse"]
