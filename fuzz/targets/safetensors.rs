#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sorank_fuzz::run("safetensors", data));
