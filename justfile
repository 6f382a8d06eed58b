# Recipes; `just` lists them.

# What CI runs.
check: fmt clippy doc test bench-check

fmt:
    cargo fmt --check

clippy:
    cargo clippy --all-targets -- -D warnings
    cargo clippy --lib --bins --features object-store,otlp -- -D warnings
    cargo clippy --no-default-features --lib -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

test:
    cargo test
    cargo test --features object-store,otlp --lib --test it -- store:: stores:: traces::

# The whole suite once per instruction level of this CPU.
levels:
    case $(uname -m) in aarch64|arm64) levels="scalar neon";; *) levels="scalar avx2 avx512";; esac; \
    for level in $levels; do SORANK_SIMD=$level cargo test || exit 1; done

# The NEON level on a machine that has none: the library's tests for AArch64 under qemu-user.
neon:
    tests/neon.sh

# Long tests: everything marked #[ignore].
test-long:
    cargo test --release -- --ignored

bench-check:
    cargo bench -- --check

bench:
    cargo bench

# Makes the golden fixtures and the built-in model again (Python with torch, transformers, peft).
golden:
    python models/golden/make.py
    python models/tiny/make.py

# Trains the adapters of the built-in model again with this project's own training, on ../shared/data (about an hour on one
# core; the golden answers after it need Python with torch, transformers and peft).
demo-adapters:
    cargo build --release
    python models/tiny/demo.py target/release/sorank

deny:
    cargo deny check

# Checks deploy/; packages from PyPI go under target/.
deploy-lint:
    test -d target/lint || python3 -m venv target/lint
    target/lint/bin/pip -q install -r deploy/lint.txt
    target/lint/bin/pip -q install --no-deps kserve==0.21.0
    SORANK_BIN=${SORANK_BIN:-target/debug/sorank} target/lint/bin/python deploy/lint.py

# A minute of traffic while adapters are swapped, evicted and unloaded.
swap:
    cargo test --test it -- --ignored --nocapture for_a_minute

# 10,000 mutated adapters against the server and the library.
hostile:
    cargo test --test it -- --ignored --nocapture ten_thousand_mutated

# 100,000 mutated requests over all routes.
bad-input:
    cargo test --test it -- --ignored --nocapture hundred_thousand

# kill -9 at hundreds of moments of changes and of packing.
crash:
    cargo test --test it -- --ignored --nocapture kill_9_at_hundreds

# schemathesis (PyPI) against the server's own description, on the built-in model.
schema:
    test -d target/schema || python3 -m venv target/schema
    target/schema/bin/pip -q install schemathesis
    target/schema/bin/python tests/reference/schema.py target/debug/sorank

# Fuzzes one door (`just fuzz tokenizer`) for as many seconds; needs cargo-fuzz. Its findings go to fuzz/artifacts.
fuzz target seconds="600":
    python3 fuzz/seeds.py
    cd fuzz && RUSTC_BOOTSTRAP=1 RAYON_NUM_THREADS=1 cargo fuzz run {{target}} -- \
        -max_total_time={{seconds}} -timeout=20 -rss_limit_mb=2048 -max_len=32768
