//! Loops and handles
//!
//! A loop and a remote are opaque: kolo makes them and frees them. A handle is a number. It can be
//! copied, kept, compared and hashed; it needs no memory of the program's. Every kind of handle has
//! a name for its number, for the reader's sake; to the compiler they are all uint64_t.

use std::cell::Cell;
use std::ffi::c_void;

use libc::intptr_t;

#[cfg(any(feature = "net", feature = "local"))]
use super::listener::kolo_listener_handler;
use super::registry;
use super::stream::kolo_stream_handler;
use super::tables::Tables;
#[cfg(feature = "net")]
use super::udp::kolo_udp_handler;
use crate::error::{Code, Result};
use crate::event_loop::Loop;

/// An event loop. Made by kolo_loop_new, freed by kolo_loop_free. It belongs to one thread.
pub struct kolo_loop {
    pub(super) inner: Loop,
    pub(super) user: Cell<*mut c_void>,
    pub(super) streams: Tables<kolo_stream_handler>,
    #[cfg(any(feature = "net", feature = "local"))]
    pub(super) listeners: Tables<kolo_listener_handler>,
    #[cfg(feature = "net")]
    pub(super) udp: Tables<kolo_udp_handler>,
    /// The stream or UDP socket whose handler was called last, and that handler's user pointer:
    /// while it runs, the handler is out of its handle.
    pub(super) told: Cell<(u64, *mut c_void)>,
    /// The memory that `on_buffer` gave last.
    pub(super) given: Cell<*mut u8>,
    /// Walks under way.
    walks: Cell<u32>,
    freeing: Cell<bool>,
    /// It is a group's: not the program's to free.
    pub(super) hosted: Cell<bool>,
}

/// What other threads hold of a loop: see kolo_remote_post and kolo_remote_wake. It is counted
/// how many hold it, and it may outlive its loop. There is nothing where the pointer points to: it
/// is a number, so that one that was released is found out (KOLO_EBADF).
pub struct kolo_remote(());

/// The number of a handle, whatever its kind. 0 is never a handle. Once a handle is closed its
/// number is dead: every call with it returns KOLO_EBADF, also after its place was taken by a
/// new handle, and also in another loop.
pub type kolo_handle = u64;
/// A timer.
pub type kolo_timer = kolo_handle;
/// A function called once in every turn.
pub type kolo_hook = kolo_handle;
/// A callback that other threads trigger.
pub type kolo_waker = kolo_handle;
/// A watched signal.
pub type kolo_signal = kolo_handle;
/// A watched descriptor that somebody else reads and writes.
pub type kolo_poll = kolo_handle;
/// A socket that listens for connections.
pub type kolo_listener = kolo_handle;
/// A stream of bytes in both directions, whatever carries it.
pub type kolo_stream = kolo_handle;
/// A TCP connection: a stream. All kolo_stream_ functions take it, and the kolo_tcp_ functions.
pub type kolo_tcp = kolo_stream;
/// A UDP socket.
pub type kolo_udp = kolo_handle;
/// A program that runs.
pub type kolo_process = kolo_handle;
/// Work under way on another thread: a handle that ends by itself.
pub type kolo_request = kolo_handle;
/// A watched file or folder.
pub type kolo_watch = kolo_handle;
/// An open file.
pub type kolo_file = kolo_handle;
/// An open directory.
pub type kolo_directory = kolo_handle;
/// The number of a pool of threads. It belongs to no loop; 0 is never one.
pub type kolo_pool = u64;
/// A Unix-domain stream. All kolo_stream_ functions take it, and the kolo_local_ functions.
pub type kolo_local = kolo_stream;
/// One end of a pipe: a stream. All kolo_stream_ functions take it, and the kolo_pipe_ functions.
pub type kolo_pipe = kolo_stream;
/// A terminal: a stream. All kolo_stream_ functions take it, and the kolo_tty_ functions.
pub type kolo_tty = kolo_stream;
/// The number of a group of loops. It belongs to no loop; 0 is never one.
pub type kolo_group = u64;
/// The number of a simulation. It belongs to one thread; 0 is never one.
pub type kolo_sim = u64;
/// A descriptor of the system's: a file descriptor, or a SOCKET on Windows.
///
/// A descriptor that was adopted (kolo_tcp_adopt and its like) has one handle, which closes it. So none
/// can be adopted that a handle of this process has already, in whatever loop, whether it was adopted or its
/// number was asked for (kolo_tcp_socket and its like): that is KOLO_EEXIST, and nothing else happens. A
/// duplicate (dup) can be. It is the number that counts, until its handle closes or releases it: who
/// closes kolo's descriptor behind its back finds that the number is still taken when another file has
/// it, rightly, since kolo will close it. A number that is kolo's and was neither adopted nor asked for
/// is not found out.
pub type kolo_socket = intptr_t;

impl kolo_loop {
    pub(super) fn create(inner: Loop) -> Result<*mut kolo_loop> {
        let driver = inner.driver_name();
        let at = Box::into_raw(Box::new(kolo_loop {
            inner,
            user: Cell::new(std::ptr::null_mut()),
            streams: Tables::new(),
            #[cfg(any(feature = "net", feature = "local"))]
            listeners: Tables::new(),
            #[cfg(feature = "net")]
            udp: Tables::new(),
            told: Cell::new((0, std::ptr::null_mut())),
            given: Cell::new(std::ptr::null_mut()),
            walks: Cell::new(0),
            freeing: Cell::new(false),
            hosted: Cell::new(false),
        }));
        // SAFETY: just made.
        unsafe { &*at }.inner.set_embedder(at.cast());
        if let Err(error) = registry::add(at, driver) {
            // SAFETY: nobody else has heard of it.
            drop(unsafe { Box::from_raw(at) });
            return Err(error);
        }
        Ok(at)
    }

    /// An error while one of the loop's functions is on the stack that must not be called from
    /// its own callbacks.
    pub(super) fn check_idle(&self) -> Result<()> {
        let busy = self.walks.get() > 0 || self.freeing.get() || self.hosted.get();
        if busy || self.inner.is_running() {
            return Err(Code::EBUSY.into());
        }
        Ok(())
    }

    /// The user pointer of a handle's handler: of the one in place, or of the one that is running.
    pub(super) fn user_of(&self, handle: kolo_handle, in_place: Option<*mut ()>) -> *mut c_void {
        match (in_place, self.told.get()) {
            (Some(user), _) => user.cast(),
            (None, (running, user)) if running == handle => user,
            _ => std::ptr::null_mut(),
        }
    }

    /// Closes everything and tells those concerned, who may still use the loop.
    pub(super) fn end(&self) {
        struct Freeing<'a>(&'a Cell<bool>);
        impl Drop for Freeing<'_> {
            fn drop(&mut self) {
                self.0.set(false);
            }
        }
        self.freeing.set(true);
        let _freeing = Freeing(&self.freeing);
        self.inner.end();
    }

    /// Keeps the loop from being run or freed while `walk` calls back.
    pub(super) fn while_walking<R>(&self, walk: impl FnOnce() -> R) -> R {
        self.walks.set(self.walks.get() + 1);
        // Nothing of this unwinds: the callbacks are C's, and the loop is only asked.
        let result = walk();
        self.walks.set(self.walks.get() - 1);
        result
    }
}
