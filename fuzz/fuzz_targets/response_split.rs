#![no_main]

#[path = "../targets/http.rs"]
mod http;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http::response_split(data));
