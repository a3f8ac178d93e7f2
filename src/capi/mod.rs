//! The C ABI: what `include/kolo.h` declares.
//!
//! Only translation: checks, conversion, the panic boundary (`boundary.rs`). One file per part of
//! the header, whose text is written here: the documentation of an item is its manual in the
//! header, and the first lines of a file introduce its part. `make header` writes the header
//! anew; `tests/header.rs` says how it is put together, and compares.
//!
//! Ownership, once for all: a `kolo_loop` is a box that C holds by its pointer and that Rust only ever
//! borrows shared, since callbacks call back into it; a `kolo_remote` is a place in a table, which
//! counts its holders; everything else is a number or is copied during the call.

// The names are C's, and the documentation is a C manual: its words are not Rust links. What makes
// a call safe is stated once, at the top of the header.
#![allow(
    non_camel_case_types,
    clippy::missing_safety_doc,
    rustdoc::broken_intra_doc_links,
    rustdoc::bare_urls
)]

#[cfg(feature = "net")]
mod attempts;
mod boundary;
mod registry;
mod remotes;
#[cfg(feature = "fs")]
mod requests;
mod sized;
#[cfg(feature = "process")]
mod spawn;
mod tables;

pub mod address;
#[cfg(feature = "fs")]
pub mod directory;
pub mod error;
pub mod event_loop;
#[cfg(feature = "fs")]
pub mod file;
#[cfg(feature = "fs")]
pub mod fs;
#[cfg(feature = "net")]
pub mod group;
pub mod handle;
pub mod hook;
#[cfg(any(feature = "net", feature = "local"))]
pub mod listener;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "dns")]
pub mod names;
#[cfg(feature = "local")]
pub mod pipe;
pub mod poll;
#[cfg(feature = "process")]
pub mod process;
pub mod remote;
pub mod signal;
#[cfg(feature = "sim")]
pub mod sim;
pub mod stream;
pub mod system;
#[cfg(feature = "net")]
pub mod tcp;
pub mod timer;
#[cfg(feature = "tty")]
pub mod tty;
pub mod types;
#[cfg(feature = "net")]
pub mod udp;
#[cfg(feature = "net")]
pub mod udp_options;
#[cfg(feature = "watch")]
pub mod watch;
pub mod work;
