//! What the programs on mio and tokio share: `../common.h` and its kin, once more in Rust.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};
use std::process;

/// One read buffer for all connections, of the size that the other peers have.
pub const READ_BUFFER_BYTES: usize = 64 * 1024;
pub const LISTEN_BACKLOG: u32 = 1024;
/// Longer than any run: an armed timeout must cost what it costs, and never fire.
pub const IDLE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(600);

pub fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

pub fn die(what: impl Display) -> ! {
    eprintln!("{what}");
    process::exit(1)
}

/// For results that only a broken machine or program makes an error.
pub fn check<T>(result: io::Result<T>, what: &str) -> T {
    result.unwrap_or_else(|error| die(format_args!("{what}: {error}")))
}

pub fn announce_port(address: SocketAddr) {
    println!("port {}", address.port());
    check(io::stdout().flush(), "stdout");
}

/// True once the driver closed its end; what it might write is of no interest.
pub fn stdin_ended() -> bool {
    io::stdin().read(&mut [0; 64]).unwrap_or(0) == 0
}

/// The flags of the command line, each of which must be in `known`.
pub fn flags(known: &[&str]) -> Vec<String> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = given.iter().find(|flag| !known.contains(&flag.as_str())) {
        die(format_args!("no flag {unknown}; there are {known:?}"));
    }
    given
}

/// Whether an accept failed for the one connection's sake alone.
pub fn accept_error_passes(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNABORTED | libc::EPROTO)
    ) || error.kind() == io::ErrorKind::Interrupted
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the pointer is to memory of the right size, which the call fills unless it fails.
    let now = unsafe {
        if libc::clock_gettime(clock, now.as_mut_ptr()) != 0 {
            die("clock_gettime failed");
        }
        now.assume_init()
    };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

pub fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

pub fn process_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// xorshift64*: the same numbers as in the C programs.
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(2_685_821_657_736_338_717)
    }
}

/// Ends the program where it would wait for ever.
pub fn end_after_seconds(seconds: u32) {
    // SAFETY: alarm(2) takes any number and touches no memory.
    unsafe { libc::alarm(seconds) };
}
