#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kolo_fuzz::address(data));
