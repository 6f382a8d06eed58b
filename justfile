# Recipes; `just` lists them.

# What CI runs.
check: fmt clippy doc test bench-check

fmt:
    cargo fmt --check

clippy:
    cargo clippy --all-targets -- -D warnings
    cargo clippy --no-default-features --lib -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

test:
    cargo test

# The whole suite once per instruction level of this CPU.
levels:
    for level in scalar avx2 avx512; do SORANK_SIMD=$level cargo test || exit 1; done

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

deny:
    cargo deny check
