//! Listening
//!
//! A listener is a socket that accepts connections: TCP's, made here, or those of the Unix domain,
//! further below. It is active, and so keeps the loop alive, until it is paused or closed.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

#[cfg(feature = "net")]
use super::address::{kolo_address, socket_address};
#[cfg(feature = "net")]
use super::boundary::Out;
use super::boundary::{c_bool, id, number, pointer, with_loop};
#[cfg(feature = "net")]
use super::poll::descriptor;
use super::sized::{self, first_size, Versioned};
use super::tables::Table;
#[cfg(feature = "net")]
use super::types::kolo_socket;
use super::types::{kolo_listener, kolo_loop, kolo_stream};
use crate::accept::{self, AcceptPolicy, Acceptor};
use crate::error::{Code, Error, Result};
use crate::event_loop::Loop;
use crate::handles::Id;
#[cfg(feature = "net")]
use crate::net::listener::{ListenOptions, TcpListener};
use crate::sys;

/// What a listener does when a connection cannot be accepted because descriptors or memory are
/// short. In both cases on_error is told, and accepting pauses and is tried again after
/// retry_min_ns, then after twice that, up to retry_max_ns.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_accept_policy {
    /// Those who wait stay in the backlog, and are served when descriptors are free again.
    KOLO_ACCEPT_WAIT = 0,
    /// Those who wait are accepted with a descriptor held in reserve, and reset at once: they can
    /// go elsewhere.
    KOLO_ACCEPT_REJECT = 1,
}

/// How a listener listens. Begin with KOLO_LISTEN_OPTIONS_INIT; a member that is zero means its
/// default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_listen_options {
    /// sizeof(kolo_listen_options), set by KOLO_LISTEN_OPTIONS_INIT.
    pub size: usize,
    /// Connections that may wait to be accepted. The system may allow fewer. Default 1024.
    pub backlog: u32,
    /// Do not let the address be one that former connections still hold (leave SO_REUSEADDR off).
    pub no_reuse_address: c_bool,
    /// Let several sockets listen at the same address, among which the system spreads connections
    /// (SO_REUSEPORT). KOLO_ENOTSUP where there is no such option.
    pub reuse_port: c_bool,
    /// An IPv6 address takes no IPv4 connections. By default the unspecified IPv6 address ("::")
    /// takes both.
    pub ipv6_only: c_bool,
    /// Leave Nagle's algorithm on for accepted connections: small writes wait for the peer's
    /// acknowledgement. By default it is off (TCP_NODELAY).
    pub delay: c_bool,
    /// Connections accepted in one turn, at most. Default 64.
    pub accepts_per_turn: u32,
    /// What to do when descriptors run out: a kolo_accept_policy.
    pub accept_policy: c_int,
    /// The first pause after descriptors ran out, in nanoseconds. Default 10 ms.
    pub retry_min_ns: u64,
    /// The longest pause after they ran out again and again. Default 1 s.
    pub retry_max_ns: u64,
    /// The kernel's send buffer of accepted connections in bytes. 0: the system's choice.
    pub send_buffer: u32,
    /// The kernel's receive buffer of accepted connections in bytes. 0: the system's choice.
    pub receive_buffer: u32,
}

// SAFETY: whole numbers, the first of them the size.
unsafe impl Versioned for kolo_listen_options {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, receive_buffer) + 4);
}

/// What a listener does: a table of callbacks, copied during the call that takes it. Begin with
/// KOLO_LISTENER_HANDLER_INIT; any callback may be NULL.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_listener_handler {
    /// sizeof(kolo_listener_handler), set by KOLO_LISTENER_HANDLER_INIT.
    pub size: usize,
    /// A connection came: a kolo_tcp or a kolo_local, as the listener. Give it a handler here, with
    /// kolo_stream_attach: a stream that has none when this returns is closed.
    pub on_accept: Option<
        unsafe extern "C" fn(
            r#loop: *mut kolo_loop,
            listener: kolo_listener,
            stream: kolo_stream,
            user: *mut c_void,
        ),
    >,
    /// A connection could not be accepted: KOLO_EMFILE, KOLO_ENFILE... The listener lives on, and
    /// tries again as its accept_policy says. Told once, until accepting succeeds again.
    pub on_error: Option<
        unsafe extern "C" fn(
            r#loop: *mut kolo_loop,
            listener: kolo_listener,
            error: c_int,
            user: *mut c_void,
        ),
    >,
    /// The listener has closed: the last that is heard of it.
    pub on_close: Option<
        unsafe extern "C" fn(r#loop: *mut kolo_loop, listener: kolo_listener, user: *mut c_void),
    >,
}

// SAFETY: a number and optional functions, the number being the size.
unsafe impl Versioned for kolo_listener_handler {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, on_close) + size_of::<usize>());
}

impl Table for kolo_listener_handler {
    type Key = [usize; 3];

    fn key(&self) -> [usize; 3] {
        [
            self.on_accept.map_or(0, |call| call as usize),
            self.on_error.map_or(0, |call| call as usize),
            self.on_close.map_or(0, |call| call as usize),
        ]
    }
}

pub(super) struct Adapter {
    table: Rc<kolo_listener_handler>,
    user: *mut c_void,
}

impl Acceptor for Adapter {
    fn accepted(&mut self, lp: &Loop, listener: Id, stream: Id) {
        if let Some(call) = self.table.on_accept {
            let (listener, stream) = (listener.to_raw(), stream.to_raw());
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(pointer(lp), listener, stream, self.user) }
        }
    }

    fn failed(&mut self, lp: &Loop, listener: Id, error: Error) {
        if let Some(call) = self.table.on_error {
            let error = number(error);
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(pointer(lp), listener.to_raw(), error, self.user) }
        }
    }

    fn closed(&mut self, lp: &Loop, listener: Id) {
        if let Some(call) = self.table.on_close {
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(pointer(lp), listener.to_raw(), self.user) }
        }
    }
}

/// # Safety
///
/// `handler` is NULL, or as many bytes as its `size` says can be read there.
pub(super) unsafe fn adapter(
    lp: &kolo_loop,
    handler: *const kolo_listener_handler,
    user: *mut c_void,
) -> Result<Box<Adapter>> {
    // SAFETY: promised by the caller.
    Ok(adapter_of(lp, unsafe { sized::read(handler)? }, user))
}

pub(super) fn adapter_of(
    lp: &kolo_loop,
    table: kolo_listener_handler,
    user: *mut c_void,
) -> Box<Adapter> {
    let table = lp.listeners.share(table);
    Box::new(Adapter { table, user })
}

/// A number of bytes, or the system's choice.
pub(super) fn bytes(number: u32) -> Option<u32> {
    NonZeroU32::new(number).map(NonZeroU32::get)
}

/// What there is for a kolo_accept_policy.
pub(super) fn accept_policy(number: c_int) -> Result<AcceptPolicy> {
    match number {
        0 => Ok(AcceptPolicy::Wait),
        1 => Ok(AcceptPolicy::Reject),
        _ => Err(Code::EINVAL.into()),
    }
}

/// The pauses that were asked for, or the defaults.
pub(super) fn pauses(
    min_ns: u64,
    max_ns: u64,
    defaults: (Duration, Duration),
) -> Result<(Duration, Duration)> {
    Ok(match (min_ns, max_ns) {
        (0, 0) => defaults,
        // A default gives way to what was asked for.
        (0, max) => {
            let max = Duration::from_nanos(max);
            (defaults.0.min(max), max)
        }
        (min, 0) => {
            let min = Duration::from_nanos(min);
            (min, defaults.1.max(min))
        }
        (min, max) if min <= max => (Duration::from_nanos(min), Duration::from_nanos(max)),
        _ => return Err(Code::EINVAL.into()),
    })
}

#[cfg(feature = "net")]
pub(super) fn listen_options(given: &kolo_listen_options) -> Result<ListenOptions> {
    let defaults = ListenOptions::default();
    let or = |number: u32, default: u32| bytes(number).unwrap_or(default);
    let (retry_min, retry_max) = pauses(
        given.retry_min_ns,
        given.retry_max_ns,
        (defaults.retry_min, defaults.retry_max),
    )?;
    Ok(ListenOptions {
        backlog: or(given.backlog, defaults.backlog),
        reuse_address: given.no_reuse_address == 0,
        reuse_port: given.reuse_port != 0,
        ipv6_only: given.ipv6_only != 0,
        delay: given.delay != 0,
        accepts_per_turn: or(given.accepts_per_turn, defaults.accepts_per_turn),
        accept_policy: accept_policy(given.accept_policy)?,
        retry_min,
        retry_max,
        send_buffer: bytes(given.send_buffer),
        receive_buffer: bytes(given.receive_buffer),
    })
}

#[cfg(feature = "net")]
fn listener(handle: kolo_listener) -> Result<TcpListener> {
    Ok(TcpListener::from_id(id(handle)?))
}

/// Listens at an address. With port 0 the system chooses one, which kolo_listener_address tells.
/// `options` may be NULL for the defaults.
///
/// Errors: KOLO_EINVAL if `address`, `handler` or `out` is NULL, for an address of no family, for
/// structs of a wrong size, for a policy that there is not, and if retry_min_ns exceeds
/// retry_max_ns; KOLO_EADDRINUSE, KOLO_EADDRNOTAVAIL and KOLO_EACCES for the address;
/// KOLO_EAFNOSUPPORT for a family that the system lacks; KOLO_ENOTSUP for reuse_port where there is
/// no such thing; KOLO_EMFILE and KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop
/// holds as many handles as it can; KOLO_ECANCELED while the loop is being freed.
#[cfg(feature = "net")]
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_listen(
    r#loop: *mut kolo_loop,
    address: *const kolo_address,
    options: *const kolo_listen_options,
    handler: *const kolo_listener_handler,
    user: *mut c_void,
    out: *mut kolo_listener,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, address, options, handler) = unsafe {
            (
                Out::new(out)?,
                socket_address(address)?,
                listen_options(&sized::read_or_default(options)?)?,
                adapter(lp, handler, user)?,
            )
        };
        let listener = TcpListener::listen_boxed(&lp.inner, address, &options, handler)?;
        out.set(listener.id().to_raw());
        Ok(())
    })
}

/// Takes over a listening socket from elsewhere, such as one that a service manager handed to the
/// process. From success on it is kolo's, and kolo closes it; after an error it is still the
/// caller's. Of `options` (NULL for the defaults) what concerns accepting counts.
///
/// Errors: KOLO_EINVAL if `handler` or `out` is NULL, for structs of a wrong size, and for a socket
/// that does not listen; KOLO_EBADF for a descriptor that is not open; KOLO_EEXIST for one that a
/// handle has already (see kolo_socket); KOLO_ENOTSOCK for one that is no socket; KOLO_ENOBUFS if the
/// loop holds as many handles as it can; KOLO_ECANCELED while the loop is being freed.
#[cfg(feature = "net")]
#[no_mangle]
pub unsafe extern "C" fn kolo_listener_adopt(
    r#loop: *mut kolo_loop,
    socket: kolo_socket,
    options: *const kolo_listen_options,
    handler: *const kolo_listener_handler,
    user: *mut c_void,
    out: *mut kolo_listener,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, options, handler) = unsafe {
            (
                Out::new(out)?,
                listen_options(&sized::read_or_default(options)?)?,
                adapter(lp, handler, user)?,
            )
        };
        let socket = sys::Held::adopt(sys::take_socket(descriptor(socket)?)?)?;
        let adopted = TcpListener::adopt_boxed(&lp.inner, socket, &options, handler);
        let listener = adopted.map_err(give_back)?;
        out.set(listener.id().to_raw());
        Ok(())
    })
}

/// A socket that could not be adopted stays the caller's.
pub(super) fn give_back((error, socket): (Error, Option<socket2::Socket>)) -> Error {
    if let Some(socket) = socket {
        // The caller knows its number.
        let _ = sys::give_socket(socket);
    }
    error
}

/// The address at which a listener listens, with the port that the system chose.
///
/// Errors: KOLO_EINVAL if `out` is NULL.
#[cfg(feature = "net")]
#[no_mangle]
pub unsafe extern "C" fn kolo_listener_address(
    r#loop: *mut kolo_loop,
    listener: kolo_listener,
    out: *mut kolo_address,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        out.set(self::listener(listener)?.address(&lp.inner)?.into());
        Ok(())
    })
}

/// Accepts no more until kolo_listener_resume, for a listener of either kind: those who connect wait in
/// the backlog. Paused already: that is no error.
#[no_mangle]
pub unsafe extern "C" fn kolo_listener_pause(
    r#loop: *mut kolo_loop,
    listener: kolo_listener,
) -> c_int {
    with_loop(r#loop, |lp| accept::pause(&lp.inner, id(listener)?))
}

/// Accepts again. Not paused: that is no error.
#[no_mangle]
pub unsafe extern "C" fn kolo_listener_resume(
    r#loop: *mut kolo_loop,
    listener: kolo_listener,
) -> c_int {
    with_loop(r#loop, |lp| accept::resume(&lp.inner, id(listener)?))
}
