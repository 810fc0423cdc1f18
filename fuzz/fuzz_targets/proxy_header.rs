#![no_main]

#[path = "../targets/preface.rs"]
mod preface;

libfuzzer_sys::fuzz_target!(|data: &[u8]| preface::proxy_header(data));
