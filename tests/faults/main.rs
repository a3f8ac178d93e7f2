//! Real faults, on the real kernel: what runs out, what interrupts, what breaks, what vanishes. Of each fault is
//! expected that the right callback gets a clear error, that nothing is lost and nothing spins, that the loop goes on
//! and everything works again when the fault is over, and that no descriptor is left behind.
//!
//! At the end stand two lines, `figure: faults N faults` and `figure: faults-skipped N faults`: how many faults were
//! made, and how many this machine does not permit. What is skipped is named.
//!
//! The long tests are ignored unless asked for: `make check-faults` runs everything.

#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

mod everything;
mod injected;
mod interrupts;
mod network;
mod peers;
mod shortage;
mod support;
