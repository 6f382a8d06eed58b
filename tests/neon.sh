#!/usr/bin/env bash
# The library's unit tests on AArch64, emulated: once on a CPU with the DotProd feature, once on one without (whose int8
# products go another way). Needs the target's standard library (`rustup target add aarch64-unknown-linux-gnu`, or
# Debian's libstd-rust-dev:arm64), aarch64-linux-gnu-gcc with its libc, and qemu-user. Words after it choose tests, as after
# `cargo test --`. Says nothing about speed.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER:-aarch64-linux-gnu-gcc}
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER:-qemu-aarch64}
export QEMU_LD_PREFIX=${QEMU_LD_PREFIX:-/usr/aarch64-linux-gnu}
export REQUIRE_LEVELS=scalar,neon

skip() { echo "skipped: $1; the NEON level was NOT tested"; exit 0; }
command -v cargo >/dev/null || skip "no cargo"
ls "$(rustc --print target-libdir --target $target)"/libstd-*.rlib >/dev/null 2>&1 || skip "rustc has no standard library for $target"
for tool in "$CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER" "${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER%% *}"; do
    command -v "$tool" >/dev/null || skip "no $tool"
done
test -e "$QEMU_LD_PREFIX/lib/ld-linux-aarch64.so.1" || skip "no libc for AArch64 under $QEMU_LD_PREFIX"

# Emulated: a limit of time is missed, and a test that starts itself would start a program of another CPU.
not=(--skip the_ceilings_bound_the_time --skip a_killed_builder_leaves --skip racing_processes_build)
for cpu in max cortex-a72; do
    echo "== $cpu"
    QEMU_CPU=$cpu cargo test --target $target --no-default-features --lib -- "${not[@]}" "$@"
done
