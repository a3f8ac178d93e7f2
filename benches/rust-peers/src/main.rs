//! The benchmarks' programs on mio and tokio, all in one, since linking takes most of the time of a build: which of
//! them it is says the name that it was called by.

mod common;
mod mio_echo;
mod mio_requests;
mod mio_server;
mod mio_wakes;
mod requests;
mod tokio_echo;
mod tokio_requests;
mod tokio_server;
mod tokio_timers;
mod tokio_wakes;
mod wakes;

fn main() {
    let called = std::env::args().next().unwrap_or_default();
    match called.rsplit('/').next() {
        Some("mio_echo") => mio_echo::main(),
        Some("mio_requests") => mio_requests::main(),
        Some("mio_wakes") => mio_wakes::main(),
        Some("tokio_echo") => tokio_echo::main(),
        Some("tokio_requests") => tokio_requests::main(),
        Some("tokio_timers") => tokio_timers::main(),
        Some("tokio_wakes") => tokio_wakes::main(),
        _ => common::die(format_args!(
            "{called}: to be called by the name of one of its programs"
        )),
    }
}
