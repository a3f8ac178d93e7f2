//! TCP
//!
//! TCP connections are streams: what reads, writes and closes them is above. Here is what makes
//! them, and what only they have.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::time::Duration;

use super::address::{kolo_address, kolo_family, socket_address};
use super::attempts::watching;
use super::boundary::{c_bool, id, needed, number, pointer, slice, with_loop, Callback, Out};
use super::listener::{bytes, give_back};
use super::poll::{descriptor, socket};
use super::remotes;
use super::sized::{self, first_size, Versioned};
use super::stream::{adapter, kolo_stream_handler};
use super::types::{kolo_loop, kolo_remote, kolo_socket, kolo_stream, kolo_tcp};
use crate::error::{Code, Result};
use crate::event_loop::Loop;
use crate::net::tcp::{ConnectOptions, Family, Keepalive, TcpStream};
use crate::sys;

/// How a connection is made. Begin with KOLO_CONNECT_OPTIONS_INIT; a member that is zero means its
/// default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_connect_options {
    /// sizeof(kolo_connect_options), set by KOLO_CONNECT_OPTIONS_INIT.
    pub size: usize,
    /// How long the connection may take to be made, until KOLO_ETIMEDOUT. 0: as long as the system
    /// tries.
    pub timeout_ns: u64,
    /// The local address to connect from; port 0 for any. NULL: the system's choice. Read during
    /// the call.
    pub local: *const kolo_address,
    /// Leave Nagle's algorithm on: small writes wait for the peer's acknowledgement. By default it
    /// is off (TCP_NODELAY).
    pub delay: c_bool,
    /// Let the local address be one that a former connection still holds (SO_REUSEADDR).
    pub reuse_address: c_bool,
    /// The kernel's send buffer in bytes. 0: the system's choice.
    pub send_buffer: u32,
    /// The kernel's receive buffer in bytes. 0: the system's choice.
    pub receive_buffer: u32,
    /// With several addresses: how long the next one waits for the one before it, from 10 ms to 2 s.
    /// Default 250 ms (RFC 8305).
    pub attempt_delay_ns: u64,
    /// A kolo_family: only addresses of it. KOLO_FAMILY_NONE: of both, or of that of the local
    /// address.
    pub family: c_int,
    /// With several addresses: called for each attempt, for a log. NULL: not called. `user` is the
    /// handler's.
    pub on_attempt: kolo_attempt_cb,
}

/// One of several addresses is tried (`status` is 0), or could not be connected to (the error).
/// `address` is only there during the callback. Of attempts that are given up since another one has
/// won nothing is told; nor is it when the handler was replaced by another one.
pub type kolo_attempt_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        stream: kolo_stream,
        address: *const kolo_address,
        status: c_int,
        user: *mut c_void,
    ),
>;

// SAFETY: numbers and a pointer, the first of them the size.
unsafe impl Versioned for kolo_connect_options {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, receive_buffer) + 4);
}

/// # Safety
///
/// `local` is NULL or readable.
pub(super) unsafe fn connect_options(given: &kolo_connect_options) -> Result<ConnectOptions> {
    let local = match given.local.is_null() {
        true => None,
        // SAFETY: promised by the caller.
        false => Some(unsafe { socket_address(given.local)? }),
    };
    Ok(ConnectOptions {
        timeout: (given.timeout_ns > 0).then(|| Duration::from_nanos(given.timeout_ns)),
        local,
        reuse_address: given.reuse_address != 0,
        delay: given.delay != 0,
        send_buffer: bytes(given.send_buffer),
        receive_buffer: bytes(given.receive_buffer),
        family: family(given.family)?,
        attempt_delay: match given.attempt_delay_ns {
            0 => None,
            delay => Some(Duration::from_nanos(delay)),
        },
    })
}

pub(super) fn family(number: c_int) -> Result<Option<Family>> {
    const NONE: c_int = kolo_family::KOLO_FAMILY_NONE as c_int;
    const IPV4: c_int = kolo_family::KOLO_FAMILY_IPV4 as c_int;
    const IPV6: c_int = kolo_family::KOLO_FAMILY_IPV6 as c_int;
    match number {
        NONE => Ok(None),
        IPV4 => Ok(Some(Family::V4)),
        IPV6 => Ok(Some(Family::V6)),
        _ => Err(Code::EINVAL.into()),
    }
}

fn tcp(handle: kolo_tcp) -> Result<TcpStream> {
    Ok(TcpStream::from_id(id(handle)?))
}

/// Connects to an address. on_open of the handler comes when the connection is made; until then
/// writes are queued. What the network says against it comes to on_error, also if it says so at
/// once: KOLO_ECONNREFUSED, KOLO_ETIMEDOUT, KOLO_ENETUNREACH, KOLO_EHOSTUNREACH and their like.
/// `options` may be NULL for the defaults.
///
/// Errors, of which no callback tells: KOLO_EINVAL if `address`, `handler` or `out` is NULL, for an
/// address of no family, for structs of a wrong size, for a delay out of its range, and if the local
/// address, or the family that the options name, is another one;
/// KOLO_EADDRINUSE and KOLO_EADDRNOTAVAIL for the local address; KOLO_EAFNOSUPPORT for a family that
/// the system lacks; KOLO_EMFILE and KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop
/// holds as many handles as it can; KOLO_ECANCELED while the loop is being freed.
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_connect(
    r#loop: *mut kolo_loop,
    address: *const kolo_address,
    options: *const kolo_connect_options,
    handler: *const kolo_stream_handler,
    user: *mut c_void,
    out: *mut kolo_tcp,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, address, options, handler) = unsafe {
            (
                Out::new(out)?,
                socket_address(address)?,
                connect_options(&sized::read_or_default(options)?)?,
                adapter(lp, handler, user)?,
            )
        };
        let tcp = TcpStream::connect_boxed(&lp.inner, address, &options, handler)?;
        out.set(tcp.id().to_raw());
        Ok(())
    })
}

/// Connects to whichever of several addresses answers first ("happy eyeballs", RFC 8305). They stand
/// in the order of preference. They are tried in that order, but IPv4 and IPv6 take turns; the next
/// one when the last has failed, or has not answered within the options' attempt_delay_ns. The first
/// that connects is the stream's, and the others are closed: kolo_tcp_peer says which it was. An
/// address that stands there twice is tried once.
///
/// on_open of the handler comes when one is connected; until then writes are queued, and functions
/// that need the socket get KOLO_ENOTCONN. on_error comes when all have failed, with the error of the
/// one that came furthest, the first of equals: a peer that refused before one that was silent,
/// before a network that could not reach it, before one that is not there. The options' timeout_ns
/// counts for the whole. Descriptors that run out (KOLO_EMFILE, KOLO_ENFILE) keep attempts from being
/// begun: they wait for those under way, and if there are none, on_error comes with that.
///
/// Errors, of which no callback tells: KOLO_EINVAL if `addresses`, `handler` or `out` is NULL, if
/// `count` is 0, for an address of no family, for structs of a wrong size, for a delay out of its
/// range, if the options' family and that of the local address differ, and if no address is of it;
/// KOLO_ENOBUFS if the loop holds as many handles as it can; KOLO_ECANCELED while the loop is being
/// freed.
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_connect_any(
    r#loop: *mut kolo_loop,
    addresses: *const kolo_address,
    count: usize,
    options: *const kolo_connect_options,
    handler: *const kolo_stream_handler,
    user: *mut c_void,
    out: *mut kolo_tcp,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, addresses, given, handler) = unsafe {
            (
                Out::new(out)?,
                slice(addresses, count)?,
                sized::read_or_default(options)?,
                adapter(lp, handler, user)?,
            )
        };
        // SAFETY: as above.
        let options = unsafe { connect_options(&given)? };
        let handler = watching(handler, given.on_attempt);
        let addresses = addresses.iter().map(|address| (*address).try_into());
        let addresses = addresses.collect::<Result<Vec<_>>>()?;
        let tcp = TcpStream::connect_any_boxed(&lp.inner, &addresses, &options, handler)?;
        out.set(tcp.id().to_raw());
        Ok(())
    })
}

/// Takes over a connected socket from elsewhere, which is open at once (on_open does not come).
/// From success on it is kolo's, and kolo closes it; after an error it is still the caller's.
///
/// Errors: KOLO_EINVAL if `handler` or `out` is NULL, and for a handler of a wrong size; KOLO_EBADF
/// for a descriptor that is not open; KOLO_EEXIST for one that a handle has already (see kolo_socket);
/// KOLO_ENOTSOCK for one that is no socket; KOLO_ENOTCONN for a socket that is not connected;
/// KOLO_ENOBUFS if the loop holds as many handles as it can; KOLO_ECANCELED while the loop is being
/// freed.
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_adopt(
    r#loop: *mut kolo_loop,
    socket: kolo_socket,
    handler: *const kolo_stream_handler,
    user: *mut c_void,
    out: *mut kolo_tcp,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, handler) = unsafe { (Out::new(out)?, adapter(lp, handler, user)?) };
        let socket = sys::Held::adopt(sys::take_socket(descriptor(socket)?)?)?;
        let adopted = TcpStream::adopt_boxed(&lp.inner, socket, handler);
        let tcp = adopted.map_err(give_back)?;
        out.set(tcp.id().to_raw());
        Ok(())
    })
}

/// Hands the socket out: from now on it is the caller's to close. The handle closes, and its
/// on_close comes as ever. The socket does not block; bytes that were not read yet are still in it.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_EBUSY while writes are queued, while the connection is
/// being made, and while bytes have been received that on_data has still to hear of, which cannot
/// be put back into the socket: try again in the next on_data. (Only the driver "uring" receives
/// ahead, and not before the first on_data has returned.)
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_release(
    r#loop: *mut kolo_loop,
    tcp: kolo_tcp,
    out: *mut kolo_socket,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        let released = self::tcp(tcp)?.release(&lp.inner)?;
        out.set(socket(sys::give_socket(released)));
        Ok(())
    })
}

/// A connection has moved to this loop, and is a new stream here: attach a handler, or it is closed.
/// `status` is 0; or, with `tcp` 0, KOLO_ECANCELED if the loop is being freed, and KOLO_ENOBUFS if
/// it holds as many handles as it can: then the connection is closed.
pub type kolo_move_cb = Option<
    unsafe extern "C" fn(r#loop: *mut kolo_loop, tcp: kolo_tcp, status: c_int, user: *mut c_void),
>;

/// A callback that goes to another loop's thread.
struct Moved(Callback<unsafe extern "C" fn(*mut kolo_loop, kolo_tcp, c_int, *mut c_void)>);

// SAFETY: whoever moves a connection says so: what `user` points to is used on the other thread.
unsafe impl Send for Moved {}

impl Moved {
    fn tell(self, lp: &Loop, outcome: Result<TcpStream>) {
        let (tcp, status) = match outcome {
            Ok(tcp) => (tcp.id().to_raw(), 0),
            Err(error) => (0, number(error)),
        };
        // SAFETY: the user's function, with what it asked for.
        unsafe { (self.0.call)(pointer(lp), tcp, status, self.0.user) }
    }
}

/// Moves a connection to another loop, that of `remote`, on whose thread `arrived` is then called,
/// once. Here the handle closes, and its on_close comes as ever. Nothing is lost: bytes that were
/// not read here are read there. Timeouts, watermarks and the socket's options move with it.
///
/// Errors, after which the stream is here as it was: KOLO_EINVAL if `remote` or `arrived` is NULL;
/// KOLO_EBUSY while writes are queued, while the connection is being made, and, as with
/// kolo_tcp_release, while bytes have been received that on_data has still to hear of; KOLO_EPIPE after
/// kolo_stream_shutdown; KOLO_ENOTCONN if the connection broke; KOLO_ENOBUFS if as many posts wait
/// there as may; KOLO_ECANCELED if that loop is gone.
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_move(
    r#loop: *mut kolo_loop,
    tcp: kolo_tcp,
    remote: *mut kolo_remote,
    arrived: kolo_move_cb,
    user: *mut c_void,
) -> c_int {
    with_loop(r#loop, |lp| {
        let call = needed(arrived)?;
        let to = remotes::remote(remote)?;
        let moved = Moved(Callback { call, user });
        self::tcp(tcp)?.move_to(&lp.inner, to, move |lp, outcome| moved.tell(lp, outcome))
    })
}

/// Sends small writes at once (true, as at first), or lets Nagle's algorithm hold them back until
/// the peer has acknowledged those before.
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_set_nodelay(
    r#loop: *mut kolo_loop,
    tcp: kolo_tcp,
    on: c_bool,
) -> c_int {
    with_loop(r#loop, |lp| self::tcp(tcp)?.set_nodelay(&lp.inner, on != 0))
}

/// Probes a peer that was silent for `idle_s` seconds, every `interval_s` seconds, and takes the
/// connection for broken after `count` probes without an answer. `idle_s` 0: no probes, as at first;
/// `interval_s` or `count` 0: the system's.
///
/// Errors: KOLO_EINVAL for numbers that the system refuses.
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_set_keepalive(
    r#loop: *mut kolo_loop,
    tcp: kolo_tcp,
    idle_s: u32,
    interval_s: u32,
    count: u32,
) -> c_int {
    with_loop(r#loop, |lp| {
        let seconds = |number: u32| Duration::from_secs(number.into());
        let keepalive = (idle_s > 0).then(|| Keepalive {
            idle: seconds(idle_s),
            interval: bytes(interval_s).map(seconds),
            count: bytes(count),
        });
        self::tcp(tcp)?.set_keepalive(&lp.inner, keepalive)
    })
}

/// Whether closing resets the connection, also when it is kolo that closes it: what the peer has not
/// acknowledged is thrown away, and it hears of a reset. Off, as at first, the system sends the rest in the
/// background. It is SO_LINGER with no time (socket(7)). There is no longer time to be had: close(2) would
/// wait for it, on Linux also where the socket does not block, and the loop with it. Who wants the peer
/// heard out uses kolo_stream_finish with a linger time; who wants to break off now, kolo_stream_reset.
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_set_reset_on_close(
    r#loop: *mut kolo_loop,
    tcp: kolo_tcp,
    on: c_bool,
) -> c_int {
    with_loop(r#loop, |lp| {
        self::tcp(tcp)?.set_reset_on_close(&lp.inner, on != 0)
    })
}

/// Sets the sizes of the kernel's buffers in bytes; 0 leaves one as it is. The system may give more
/// or less.
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_set_buffers(
    r#loop: *mut kolo_loop,
    tcp: kolo_tcp,
    send_bytes: u32,
    receive_bytes: u32,
) -> c_int {
    with_loop(r#loop, |lp| {
        self::tcp(tcp)?.set_buffers(&lp.inner, bytes(send_bytes), bytes(receive_bytes))
    })
}

/// The sizes of the kernel's buffers in bytes, as the system counts them.
///
/// Errors: KOLO_EINVAL if either pointer is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_buffers(
    r#loop: *mut kolo_loop,
    tcp: kolo_tcp,
    send_bytes: *mut u32,
    receive_bytes: *mut u32,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (send, receive) = unsafe { (Out::new(send_bytes)?, Out::new(receive_bytes)?) };
        let sizes = self::tcp(tcp)?.buffers(&lp.inner)?;
        send.set(u32::try_from(sizes.0).unwrap_or(u32::MAX));
        receive.set(u32::try_from(sizes.1).unwrap_or(u32::MAX));
        Ok(())
    })
}

/// The address of this end.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_EAFNOSUPPORT for an adopted socket without an internet
/// address.
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_local(
    r#loop: *mut kolo_loop,
    tcp: kolo_tcp,
    out: *mut kolo_address,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        out.set(self::tcp(tcp)?.local_address(&lp.inner)?.into());
        Ok(())
    })
}

/// The address of the other end.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTCONN before the connection is made, and when it is
/// broken; KOLO_EAFNOSUPPORT for an adopted socket without an internet address.
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_peer(
    r#loop: *mut kolo_loop,
    tcp: kolo_tcp,
    out: *mut kolo_address,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        out.set(self::tcp(tcp)?.peer_address(&lp.inner)?.into());
        Ok(())
    })
}

/// The socket's descriptor, to look at, or to set options that kolo does not have. It is still
/// kolo's: do not close it, and leave it non-blocking.
///
/// Errors: KOLO_EINVAL if `out` is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_socket(
    r#loop: *mut kolo_loop,
    tcp: kolo_tcp,
    out: *mut kolo_socket,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        out.set(socket(self::tcp(tcp)?.raw_socket(&lp.inner)?));
        Ok(())
    })
}
