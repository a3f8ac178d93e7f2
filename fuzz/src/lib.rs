//! Functions that take any bytes, in `harness/`: in C, because they are about what C programs call and write. A broken
//! promise ends the process.
//!
//! `targets/` hands them to libFuzzer, `tests/corpus.rs` replays what it has found.

use kolo as _; // The harness calls its C functions.

mod harness {
    extern "C" {
        pub fn fuzz_address(data: *const u8, length: usize);
        pub fn fuzz_http_request(data: *const u8, length: usize);
        pub fn fuzz_calls(data: *const u8, length: usize);
        pub fn fuzz_calls_made() -> u64;
    }
}

/// Numeric addresses, as text and as structs.
pub fn address(data: &[u8]) {
    // SAFETY: it reads so many bytes at this address.
    unsafe { harness::fuzz_address(data.as_ptr(), data.len()) }
}

/// What a client sends to `examples/http_server.c`.
pub fn http_request(data: &[u8]) {
    // SAFETY: it reads so many bytes at this address.
    unsafe { harness::fuzz_http_request(data.as_ptr(), data.len()) }
}

/// A program, written as bytes, that calls the C API.
pub fn calls(data: &[u8]) {
    // SAFETY: it reads so many bytes at this address.
    unsafe { harness::fuzz_calls(data.as_ptr(), data.len()) }
}

/// How many calls [`calls`] has made since the process began.
pub fn calls_made() -> u64 {
    // SAFETY: it reads a number.
    unsafe { harness::fuzz_calls_made() }
}
