//! kolo is an event loop: one thread waits for many things at once, and calls a function when
//! one of them happens. Timers, TCP, UDP, Unix-domain sockets, pipes, terminals, files, names,
//! child processes, watched folders, signals, work on a pool of threads, other threads' posts and
//! foreign descriptors; for Rust here, and for C and every language that can call C through
//! `kolo.h`.
//!
//! ```
//! # #[cfg(feature = "net")] {
//! use kolo::{Loop, RunMode, Stream, TcpListener, TcpStream};
//!
//! let lp = Loop::new()?;
//! // An echo server: what comes is sent back.
//! let listener = TcpListener::listen(&lp, "127.0.0.1:0".parse().unwrap(), |lp: &Loop, _, tcp: TcpStream| {
//!     let echo = |lp: &Loop, stream: Stream, data: &[u8]| {
//!         stream.write(lp, data).unwrap();
//!     };
//!     tcp.attach(lp, echo).unwrap();
//! })?;
//! println!("echo at {}", listener.address(&lp)?);
//! # lp.unref(listener)?;
//! lp.run(RunMode::Default)?;
//! # }
//! # Ok::<(), kolo::Error>(())
//! ```
//!
//! # What holds everywhere
//!
//! - **A handle is a number.** It can be copied and kept; after [`Loop::close`] every use of it
//!   gives [`Code::EBADF`].
//! - **Callbacks run inside [`Loop::run`]**, one at a time, on the loop's thread, and never
//!   inside the call that causes them. Each may call anything of the loop, also close its own
//!   handle or another.
//! - **Close is last.** No callback of a handle comes after its `on_close`.
//! - **A panic in a callback unwinds out of [`Loop::run`]**, and the loop can be run again.
//! - **Time is monotonic**, in nanoseconds; timers never fire early.
//! - **Threads**: a [`Loop`] and all that takes one belongs to the thread that made it; others
//!   use a [`Remote`].
//!
//! # Descriptors that are adopted twice
//!
//! A descriptor that was adopted ([`TcpStream::adopt`] and its like) has one handle, which closes it. None can be adopted
//! that a handle of this process has already, in whatever loop, whether it was adopted or its number was asked for
//! ([`TcpStream::raw_socket`] and its like): that is [`Code::EEXIST`]. What was handed in is then neither closed nor
//! touched, since it is the other handle's. A duplicate can be adopted (`try_clone`).
//!
//! Safe code does not meet that error, for a descriptor has one owner; code that makes one of a number
//! (`OwnedFd::from_raw_fd`) can. It is the number that counts, until its handle closes or releases it: who closes kolo's
//! descriptor behind its back finds that the number is still taken when another file has it, rightly, since kolo will
//! close it. A number that is kolo's and was neither adopted nor asked for is not found out.

#![deny(missing_docs, unsafe_op_in_unsafe_fn, rustdoc::broken_intra_doc_links)]
#![warn(clippy::undocumented_unsafe_blocks)]

#[cfg(any(feature = "net", all(unix, feature = "local")))]
mod accept;
#[cfg(any(feature = "capi", feature = "dns"))]
#[cfg_attr(not(feature = "capi"), allow(dead_code))]
mod address;
#[cfg(feature = "capi")]
pub mod capi;
mod driver;
mod error;
mod event_loop;
#[cfg(feature = "fs")]
pub mod fs;
#[cfg(feature = "net")]
mod group;
mod handles;
mod hook;
#[cfg(all(unix, feature = "local"))]
mod local;
mod metrics;
#[cfg(feature = "dns")]
mod names;
#[cfg(feature = "net")]
mod net;
mod options;
mod poll;
mod pool;
#[cfg(all(unix, feature = "process"))]
mod process;
mod remote;
mod request;
mod signal;
#[cfg(feature = "sim")]
pub mod sim;
mod slots;
mod stream;
mod sys;
pub mod system;
mod timer;
mod timers;
#[cfg(all(unix, feature = "tty"))]
mod tty;
#[cfg(feature = "watch")]
mod watch;
mod watchdog;

#[cfg(any(feature = "net", all(unix, feature = "local")))]
pub use accept::AcceptPolicy;
pub use driver::Interest;
pub use error::{Code, Error, Result};
pub use event_loop::{Loop, RunMode, Task};
#[cfg(feature = "fs")]
pub use fs::{Directory, File};
#[cfg(feature = "net")]
pub use group::{GroupOptions, LoopGroup};
pub use handles::{Id, Kind};
pub use hook::{Hook, HookKind};
#[cfg(all(unix, feature = "local"))]
pub use local::listener::{LocalListenOptions, LocalListener, LocalListenerHandler};
#[cfg(all(unix, feature = "local"))]
pub use local::name::LocalName;
#[cfg(all(unix, feature = "local"))]
pub use local::pipe::{Direction, Pipe};
#[cfg(all(unix, feature = "local"))]
pub use local::stream::{LocalConnectOptions, LocalStream, PeerCredentials};
pub use metrics::Metrics;
#[cfg(feature = "dns")]
pub use names::{Named, ResolveOptions, Resolved, ReverseOptions, SocketType};
#[cfg(feature = "net")]
pub use net::listener::{ListenOptions, ListenerHandler, TcpListener};
#[cfg(feature = "net")]
pub use net::tcp::{ConnectOptions, Family, Keepalive, TcpStream};
#[cfg(feature = "net")]
pub use net::udp::{Datagram, DatagramError, SendId, Transmit, UdpHandler, UdpOptions, UdpSocket};
pub use options::{LoopOptions, SlowCallback, StuckCallback};
pub use poll::Poll;
pub use pool::{Pool, PoolOptions, WorkClass};
#[cfg(all(unix, feature = "process"))]
pub use process::{
    kill, Child, Command, ExitStatus, Process, SpawnError, SpawnStep, Stdio, Usage, UNLIMITED,
};
pub use remote::{Remote, Waker};
pub use request::Request;
pub use signal::Signal;
pub use stream::{Flow, Payload, Stream, StreamHandler, Timeout, WriteId};
#[cfg(feature = "net")]
pub use sys::udp_options::Fragmentation;
pub use sys::RawSocket;
pub use timer::Timer;
#[cfg(all(unix, feature = "tty"))]
pub use tty::{Tty, TtyMode, WindowSize};
#[cfg(feature = "watch")]
pub use watch::{Change, FileState, Watch, WatchEvent, WatchOptions};
