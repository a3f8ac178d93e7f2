//! Real faults, on the real kernel: what runs out, what interrupts, what breaks, what vanishes. Of each fault is
//! expected that the right callback gets a clear error, that nothing is lost and nothing spins, that the loop goes on
//! and everything works again when the fault is over, and that no descriptor is left behind.
//!
//! At the end stand two lines, `figure: faults N faults` and `figure: faults-skipped N faults`: how many faults were
//! made, and how many this machine does not permit. What is skipped is named.
//!
//! Which fault is made where (kinds: TCP, UDP, local sockets, pipes, processes, files, names, watches, terminals,
//! signals, work, groups):
//!
//! | fault | of what | tests |
//! |---|---|---|
//! | a system call fails, once, now and then, always | every kind, each call of its | `injected` |
//! | a signal ends a system call | every kind | `interrupts`, `injected` |
//! | descriptors run out | opening every kind; what is open goes on | `shortage`; accepting: `tests/listener.rs`, `tests/local.rs`; passing: `tests/passing.rs` |
//! | threads cannot be had | work, files, names, groups | `injected` (clone3) |
//! | memory is refused | the copy of a write; system calls | `shortage`, `injected` (mmap, brk, ENOMEM) |
//! | disks fill, are read-only, go | files, local sockets, watches | `disks`, `tests/fs.rs`; EIO: `injected` |
//! | folders are deleted, queues overflow, watches run out | watches | `tests/watch.rs`, `disks` |
//! | a peer resets, ends, trickles, never reads | TCP, local sockets, pipes | `peers`, `tests/stream.rs`, `tests/send_file.rs` |
//! | a peer vanishes or is switched off; half-open | TCP | `network` |
//! | loss, partition, links and addresses that go, small packets, no route, silence | TCP, UDP | `network`; names and happy eyeballs: `tests/names.rs` |
//! | thousands come and go at once | TCP; processes: `tests/process.rs` | `peers` |
//! | clocks jump | timers, every kind | `clocks` |
//! | a fork, in callbacks too | every kind | `endings`, `tests/fork.rs` |
//! | the loop is freed, everything is closed at once | every kind under way | `endings`, `peers` |
//! | descriptors are closed behind the loop's back | TCP, UDP, local sockets, pipes, listeners, foreign ones | `ffi-tests/c/faults.c` |
//!
//! The long tests are ignored unless asked for: `make check-faults` runs everything.

#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

mod clocks;
mod disks;
mod endings;
mod everything;
mod injected;
mod interrupts;
mod network;
mod peers;
mod shortage;
mod support;
