//! UDP
//!
//! A UDP socket sends and receives datagrams: each arrives whole, once or not at all, in any order.
//!
//! Sending never blocks: what the system does not take at once is queued. What one callback sends goes
//! to the system together when it returns; what the datagrams that came together cause, when all of them
//! have been handed out. Datagrams of one size to one destination then travel through the system as one
//! message, where it can take them apart (Linux), which is several times cheaper; and those that come
//! are taken from it many at a time. The queue has a high watermark, at which sends return 1 (pause), a
//! low one, at which on_drain comes (go on), and a hard bound.
//!
//! What the system or the network has against a datagram is told by on_error, and the socket lives on.

use std::ffi::{c_int, c_void};
use std::io::IoSlice;
use std::mem::offset_of;
use std::net::IpAddr;
use std::rc::Rc;

use super::address::{kolo_address, kolo_family, socket_address};
use super::boundary::{c_bool, id, number, pointer, slice, status, with_loop, write_optional, Out};
use super::listener::{bytes, give_back};
use super::poll::{descriptor, socket};
use super::sized::{self, first_size, Versioned};
use super::stream::{kolo_buffer, payloads};
use super::tables::Table;
use super::types::{kolo_loop, kolo_socket, kolo_udp};
use crate::error::Result;
use crate::event_loop::Loop;
use crate::net::udp::{
    Datagram, DatagramError, SendCallback, SendId, Transmit, UdpHandler, UdpOptions, UdpSocket,
};
use crate::sys;

/// How a UDP socket is made. Begin with KOLO_UDP_OPTIONS_INIT; a member that is zero means its
/// default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_udp_options {
    /// sizeof(kolo_udp_options), set by KOLO_UDP_OPTIONS_INIT.
    pub size: usize,
    /// Let several sockets have the address (SO_REUSEADDR; on the BSDs and Darwin multicast also
    /// needs reuse_port): each of them gets what is sent to a group, one of them the rest.
    pub reuse_address: c_bool,
    /// Let several sockets have the address, among which the system spreads the senders
    /// (SO_REUSEPORT, Linux). KOLO_ENOTSUP where there is no such option.
    pub reuse_port: c_bool,
    /// An IPv6 address carries no IPv4. By default the unspecified IPv6 address ("::") carries both.
    pub ipv6_only: c_bool,
    /// Let datagrams be sent to broadcast addresses. Without it the system refuses (KOLO_EACCES).
    pub broadcast: c_bool,
    /// Ask for `to` and `interface` of what comes. Costs about 0.1 us a datagram. KOLO_ENOTSUP on
    /// other systems than Linux.
    pub receive_info: c_bool,
    /// Ask for `tos` of what comes. Likewise.
    pub receive_tos: c_bool,
    /// Ask for the network's errors also if the socket is not connected, with the address that each
    /// is about (IP_RECVERR). They are told while the socket receives. KOLO_ENOTSUP on other systems
    /// than Linux.
    pub report_errors: c_bool,
    /// Do not let the system put datagrams of the same sender together on their way in (UDP_GRO,
    /// Linux). They are handed out one by one in any case.
    pub no_receive_offload: c_bool,
    /// Do not give datagrams of the same size to the same destination to the system as one message
    /// (UDP_SEGMENT, Linux).
    pub no_send_offload: c_bool,
    /// The kernel's send buffer in bytes. 0: the system's choice.
    pub send_buffer: u32,
    /// The kernel's receive buffer in bytes. 0: the system's choice. What comes while it is full is
    /// lost.
    pub receive_buffer: u32,
}

// SAFETY: whole numbers, the first of them the size.
unsafe impl Versioned for kolo_udp_options {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, receive_buffer) + 4);
}

/// A datagram that came, as on_datagram gets it. It is kolo's, with its bytes, and there until the
/// callback returns. Members may be added.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_datagram {
    /// sizeof(kolo_datagram) as the library has it.
    pub size: usize,
    /// Its bytes. Not NULL, also if there are none.
    pub data: *const u8,
    /// How many. May be 0.
    pub length: usize,
    /// Who sent it.
    pub from: kolo_address,
    /// The address it was sent to, if receive_info is on: of this system, or a group. Its port is
    /// that of the socket's address and is not told here (0). Else of no family.
    pub to: kolo_address,
    /// The number of the interface it came by, if receive_info is on. Else 0.
    pub interface: u32,
    /// Its traffic class byte, if receive_tos is on: congestion notification (RFC 3168) in the lower
    /// two bits, the differentiated services code point (RFC 2474) above. Else -1.
    pub tos: i32,
    /// It was longer than the room for it, and the rest is lost.
    pub truncated: c_bool,
}

/// A datagram that met an error, as on_error gets it. Members may be added.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_datagram_error {
    /// sizeof(kolo_datagram_error) as the library has it.
    pub size: usize,
    /// What went wrong: a kolo_error.
    pub error: c_int,
    /// How many datagrams it stands for: those that were refused together for the same reason.
    pub count: u32,
    /// Where the datagram was to go, where that is known: always for what the system refuses to send;
    /// for what the network tells later, if the socket is connected or report_errors is on. Else of
    /// no family.
    pub to: kolo_address,
    /// Who told, if the network did and report_errors is on: a router on the way, or the host. Else
    /// of no family. Its port is 0.
    pub by: kolo_address,
    /// For KOLO_EMSGSIZE from the network: the largest packet that would have passed, headers
    /// included. Else 0.
    pub mtu: u32,
}

/// What a UDP socket does: a table of callbacks, copied during the call that takes it. Begin with
/// KOLO_UDP_HANDLER_INIT; any callback may be NULL. Each may call anything, and also close its own
/// socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_udp_handler {
    /// sizeof(kolo_udp_handler), set by KOLO_UDP_HANDLER_INIT.
    pub size: usize,
    /// A datagram came. A socket whose table has on_datagram receives from the start; without, what
    /// comes waits in the system's buffer until that is full.
    pub on_datagram: Option<
        unsafe extern "C" fn(
            r#loop: *mut kolo_loop,
            udp: kolo_udp,
            datagram: *const kolo_datagram,
            user: *mut c_void,
        ),
    >,
    /// The queue of datagrams to send, having stood at the high watermark or above, has fallen to
    /// the low one; or after kolo_udp_try_send found the socket full, there is room.
    pub on_drain:
        Option<unsafe extern "C" fn(r#loop: *mut kolo_loop, udp: kolo_udp, user: *mut c_void)>,
    /// A datagram met an error: the system refused to send it (KOLO_EMSGSIZE, KOLO_ENETUNREACH,
    /// KOLO_EPERM by a firewall), or the network said that it did not arrive (KOLO_ECONNREFUSED,
    /// KOLO_EHOSTUNREACH). The socket lives on.
    pub on_error: Option<
        unsafe extern "C" fn(
            r#loop: *mut kolo_loop,
            udp: kolo_udp,
            error: *const kolo_datagram_error,
            user: *mut c_void,
        ),
    >,
    /// The socket has closed: the last that is heard of it. What `user` points to may be freed.
    pub on_close:
        Option<unsafe extern "C" fn(r#loop: *mut kolo_loop, udp: kolo_udp, user: *mut c_void)>,
}

// SAFETY: a number and optional functions, the number being the size.
unsafe impl Versioned for kolo_udp_handler {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, on_close) + size_of::<usize>());
}

/// Where a datagram goes, and how. Begin with KOLO_TRANSMIT_INIT; a member that is zero means its
/// default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_transmit {
    /// sizeof(kolo_transmit), set by KOLO_TRANSMIT_INIT.
    pub size: usize,
    /// Where to. NULL: to the peer that the socket is connected to.
    pub to: *const kolo_address,
    /// The local address to send from, whose port does not matter: `to` of the datagram that is
    /// answered, on a machine with several addresses. NULL: the system's choice. Linux only.
    pub source: *const kolo_address,
    /// The number of the interface to send by. 0: as the system routes it. Linux only.
    pub interface: u32,
    /// Makes several datagrams of the bytes, each of this size but the last, which may be shorter: at
    /// most 64 of them, and 65,507 bytes in all (IPv6: 65,527). 0: one datagram. Where the system
    /// cannot take them apart, kolo does.
    pub segment_size: u16,
    /// `tos` counts. If not, the socket's traffic class does.
    pub has_tos: c_bool,
    /// The traffic class byte: see kolo_datagram. Linux only.
    pub tos: u8,
}

// SAFETY: numbers and pointers, the first of them the size.
unsafe impl Versioned for kolo_transmit {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, tos) + 1);
}

/// An owned datagram has ended: the memory is the program's again. `status` is 0 when the system has
/// taken it; its error if it did not (of which on_error is not told then); KOLO_ECANCELED if the
/// send was cancelled or the socket closed first.
pub type kolo_udp_sent_cb = Option<
    unsafe extern "C" fn(r#loop: *mut kolo_loop, udp: kolo_udp, status: c_int, user: *mut c_void),
>;

impl Table for kolo_udp_handler {
    type Key = [usize; 4];

    fn key(&self) -> [usize; 4] {
        [
            self.on_datagram.map_or(0, |call| call as usize),
            self.on_drain.map_or(0, |call| call as usize),
            self.on_error.map_or(0, |call| call as usize),
            self.on_close.map_or(0, |call| call as usize),
        ]
    }
}

struct Adapter {
    table: Rc<kolo_udp_handler>,
    user: *mut c_void,
}

const NO_ADDRESS: kolo_address = kolo_address {
    family: kolo_family::KOLO_FAMILY_NONE as u16,
    port: 0,
    flow: 0,
    scope: 0,
    ip: [0; 16],
};

fn ip(address: Option<IpAddr>) -> kolo_address {
    address.map_or(NO_ADDRESS, |ip| std::net::SocketAddr::new(ip, 0).into())
}

impl Adapter {
    /// The loop and the socket as callbacks get them. For as long as one runs, the handler is out of
    /// its socket, and the loop remembers the user pointer (`kolo_udp_user`).
    #[inline]
    fn tell(&self, lp: &Loop, udp: UdpSocket) -> (*mut kolo_loop, kolo_udp) {
        let (at, udp) = (pointer(lp), udp.id().to_raw());
        // SAFETY: the loop is running this, so it lives.
        unsafe { &*at }.told.set((udp, self.user));
        (at, udp)
    }
}

impl UdpHandler for Adapter {
    fn on_datagram(&mut self, lp: &Loop, udp: UdpSocket, datagram: &Datagram<'_>) {
        if let Some(call) = self.table.on_datagram {
            let given = kolo_datagram {
                size: size_of::<kolo_datagram>(),
                data: datagram.data.as_ptr(),
                length: datagram.data.len(),
                from: datagram.from.into(),
                to: ip(datagram.to),
                interface: datagram.interface,
                tos: datagram.tos.map_or(-1, i32::from),
                truncated: c_bool::from(datagram.truncated),
            };
            let (lp, udp) = self.tell(lp, udp);
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(lp, udp, &given, self.user) }
        }
    }

    fn on_drain(&mut self, lp: &Loop, udp: UdpSocket) {
        if let Some(call) = self.table.on_drain {
            let (lp, udp) = self.tell(lp, udp);
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(lp, udp, self.user) }
        }
    }

    fn on_error(&mut self, lp: &Loop, udp: UdpSocket, error: &DatagramError) {
        if let Some(call) = self.table.on_error {
            let given = kolo_datagram_error {
                size: size_of::<kolo_datagram_error>(),
                error: number(error.error),
                count: error.count,
                to: error.to.map_or(NO_ADDRESS, Into::into),
                by: ip(error.by),
                mtu: error.mtu.unwrap_or(0),
            };
            let (lp, udp) = self.tell(lp, udp);
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(lp, udp, &given, self.user) }
        }
    }

    fn on_close(&mut self, lp: &Loop, udp: UdpSocket) {
        if let Some(call) = self.table.on_close {
            let (lp, udp) = self.tell(lp, udp);
            // SAFETY: the user's function, with what it asked for.
            unsafe { call(lp, udp, self.user) }
        }
    }

    fn receives(&self) -> bool {
        self.table.on_datagram.is_some()
    }

    fn embedder(&self) -> *mut () {
        self.user.cast()
    }
}

/// # Safety
///
/// `handler` is NULL, or as many bytes as its `size` says can be read there.
unsafe fn adapter(
    lp: &kolo_loop,
    handler: *const kolo_udp_handler,
    user: *mut c_void,
) -> Result<Box<Adapter>> {
    // SAFETY: promised by the caller.
    let table = lp.udp.share(unsafe { sized::read(handler)? });
    Ok(Box::new(Adapter { table, user }))
}

fn udp_options(given: &kolo_udp_options) -> UdpOptions {
    UdpOptions {
        reuse_address: given.reuse_address != 0,
        reuse_port: given.reuse_port != 0,
        ipv6_only: given.ipv6_only != 0,
        broadcast: given.broadcast != 0,
        receive_info: given.receive_info != 0,
        receive_tos: given.receive_tos != 0,
        report_errors: given.report_errors != 0,
        receive_offload: given.no_receive_offload == 0,
        send_offload: given.no_send_offload == 0,
        send_buffer: bytes(given.send_buffer),
        receive_buffer: bytes(given.receive_buffer),
    }
}

/// # Safety
///
/// `given` is NULL, or as many bytes as its `size` says can be read there; its addresses are NULL or
/// readable.
unsafe fn transmit(given: *const kolo_transmit) -> Result<Transmit> {
    // SAFETY: promised by the caller.
    let given = unsafe { sized::read_or_default(given)? };
    let address = |at: *const kolo_address| match at.is_null() {
        true => Ok(None),
        // SAFETY: promised by the caller.
        false => unsafe { socket_address(at) }.map(Some),
    };
    Ok(Transmit {
        to: address(given.to)?,
        source: address(given.source)?.map(|source| source.ip()),
        interface: given.interface,
        tos: (given.has_tos != 0).then_some(given.tos),
        segment_size: (given.segment_size > 0).then_some(given.segment_size),
    })
}

/// For more pieces than that a list is made elsewhere.
const SLICES_IN_PLACE: usize = 8;

/// Hands the caller's memory to `send`.
///
/// # Safety
///
/// `buffers` is NULL or has `count` buffers, and their memory can be read.
unsafe fn with_slices<R>(
    buffers: *const kolo_buffer,
    count: usize,
    send: impl FnOnce(&[IoSlice<'_>]) -> Result<R>,
) -> Result<R> {
    let nothing = IoSlice::new(&[]);
    let mut in_place = [nothing; SLICES_IN_PLACE];
    let mut others = Vec::new();
    // SAFETY: promised by the caller.
    let buffers = unsafe { slice(buffers, count)? };
    let slices = match in_place.get_mut(..buffers.len()) {
        Some(slices) => slices,
        None => {
            others.resize(buffers.len(), nothing);
            &mut others[..]
        }
    };
    for (place, buffer) in slices.iter_mut().zip(buffers) {
        // SAFETY: promised by the caller.
        *place = IoSlice::new(unsafe { slice(buffer.base.cast::<u8>(), buffer.len)? });
    }
    send(slices)
}

fn completion(done: kolo_udp_sent_cb, user: *mut c_void) -> Option<SendCallback> {
    let done = done?;
    Some(Box::new(move |lp, udp, outcome| {
        // SAFETY: the user's function, with what it asked for.
        unsafe { done(pointer(lp), udp.id().to_raw(), status(outcome), user) }
    }))
}

pub(super) fn udp(handle: kolo_udp) -> Result<UdpSocket> {
    Ok(UdpSocket::from_id(id(handle)?))
}

/// Makes a UDP socket at a local address. With port 0 the system chooses one, which kolo_udp_local
/// tells; "0.0.0.0" or "::" with port 0 is what a client wants. `options` may be NULL for the
/// defaults. `user` is the last argument of the handler's callbacks.
///
/// Errors: KOLO_EINVAL if `address`, `handler` or `out` is NULL, for an address of no family and for
/// structs of a wrong size; KOLO_EADDRINUSE, KOLO_EADDRNOTAVAIL and KOLO_EACCES for the address;
/// KOLO_EAFNOSUPPORT for a family that the system lacks; KOLO_ENOTSUP for options that it lacks;
/// KOLO_EMFILE and KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop holds as many
/// handles as it can; KOLO_ECANCELED while the loop is being freed.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_bind(
    r#loop: *mut kolo_loop,
    address: *const kolo_address,
    options: *const kolo_udp_options,
    handler: *const kolo_udp_handler,
    user: *mut c_void,
    out: *mut kolo_udp,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, address, options, handler) = unsafe {
            (
                Out::new(out)?,
                socket_address(address)?,
                udp_options(&sized::read_or_default(options)?),
                adapter(lp, handler, user)?,
            )
        };
        let udp = UdpSocket::bind_boxed(&lp.inner, address, &options, handler)?;
        out.set(udp.id().to_raw());
        Ok(())
    })
}

/// Takes over a UDP socket from elsewhere, bound or connected or not. From success on it is kolo's,
/// and kolo closes it; after an error it is still the caller's. Of `options` (NULL for the defaults)
/// what concerns sending and receiving counts.
///
/// Errors: KOLO_EINVAL if `handler` or `out` is NULL, and for structs of a wrong size; KOLO_EBADF for a
/// descriptor that is not open; KOLO_EEXIST for one that a handle has already (see kolo_socket);
/// KOLO_ENOTSOCK for one that is no socket; KOLO_EPROTOTYPE for a socket of another type;
/// KOLO_EAFNOSUPPORT for one of another family than IPv4 and IPv6; KOLO_ENOTSUP for options that the
/// system lacks; KOLO_ENOBUFS if the loop holds as many handles as it can; KOLO_ECANCELED while the
/// loop is being freed.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_adopt(
    r#loop: *mut kolo_loop,
    socket: kolo_socket,
    options: *const kolo_udp_options,
    handler: *const kolo_udp_handler,
    user: *mut c_void,
    out: *mut kolo_udp,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, options, handler) = unsafe {
            (
                Out::new(out)?,
                udp_options(&sized::read_or_default(options)?),
                adapter(lp, handler, user)?,
            )
        };
        let socket = sys::Held::adopt(sys::take_socket(descriptor(socket)?)?)?;
        let adopted = UdpSocket::adopt_boxed(&lp.inner, socket, &options, handler);
        let udp = adopted.map_err(give_back)?;
        out.set(udp.id().to_raw());
        Ok(())
    })
}

/// Hands the socket out: from now on it is the caller's to close. The handle closes, and its on_close
/// comes as ever. The socket does not block. Datagrams that kolo has received and not handed out yet
/// are lost; those that are still in the socket may have been put together by the system already,
/// unless it was made with no_receive_offload.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_EBUSY while datagrams are queued.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_release(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    out: *mut kolo_socket,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        let released = self::udp(udp)?.release(&lp.inner)?;
        out.set(socket(sys::give_socket(released)));
        Ok(())
    })
}

/// Gives a socket another handler in place of its first, of which nothing more is heard. It receives
/// or does not, as before.
///
/// Errors: KOLO_EINVAL if `handler` is NULL or its size is wrong.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_attach(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    handler: *const kolo_udp_handler,
    user: *mut c_void,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let handler = unsafe { adapter(lp, handler, user)? };
        self::udp(udp)?.attach_boxed(&lp.inner, handler)
    })
}

/// The user pointer that was given with the socket's handler.
///
/// Errors: KOLO_EINVAL if `out` is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_user(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    out: *mut *mut c_void,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        let in_place = self::udp(udp)?.embedder(&lp.inner)?;
        out.set(lp.user_of(udp, in_place));
        Ok(())
    })
}

/// Connects the socket to a peer, or to another one: sends without an address go there, only what
/// comes from there is received, and the network's errors are told. Nothing is sent for it, so
/// success says nothing about whether there is a peer.
///
/// Errors: KOLO_EINVAL if `peer` is NULL or of no family; KOLO_EBUSY while datagrams are queued;
/// KOLO_EAFNOSUPPORT for an address of a family that the socket has not; KOLO_ENETUNREACH without a
/// route; KOLO_EACCES for a broadcast address that was not asked for.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_connect(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    peer: *const kolo_address,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let peer = unsafe { socket_address(peer)? };
        self::udp(udp)?.connect_to(&lp.inner, peer)
    })
}

/// Undoes kolo_udp_connect. Not connected: that is no error.
///
/// Errors: KOLO_EBUSY while datagrams are queued; KOLO_EADDRINUSE if somebody took the port meanwhile
/// (Linux gives up one that the system chose, and kolo takes it again); KOLO_ENOTSUP where the
/// system has no such thing.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_disconnect(r#loop: *mut kolo_loop, udp: kolo_udp) -> c_int {
    with_loop(r#loop, |lp| self::udp(udp)?.disconnect(&lp.inner))
}

/// Receives again, after kolo_udp_receive_stop; or from now on, for a handler that had no on_datagram
/// when the socket was made. Receiving already: that is no error.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_receive_start(r#loop: *mut kolo_loop, udp: kolo_udp) -> c_int {
    with_loop(r#loop, |lp| self::udp(udp)?.receive_start(&lp.inner))
}

/// Receives no more: no on_datagram comes after this returns, until kolo_udp_receive_start. What kolo
/// had received already is kept until then; beyond that the system's buffer fills, and what comes
/// when it is full is lost. Stopped already: that is no error.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_receive_stop(r#loop: *mut kolo_loop, udp: kolo_udp) -> c_int {
    with_loop(r#loop, |lp| self::udp(udp)?.receive_stop(&lp.inner))
}

/// Sends a datagram to `to`, or if that is NULL, to the peer that the socket is connected to. What the
/// system does not take at once is copied, so the memory may be used again when this returns.
///
/// Returns 0 when the queue is below the high watermark, and 1 when it is at it or above: the datagram
/// is taken, but better wait for on_drain before sending more.
///
/// Errors: KOLO_EINVAL if `data` is NULL and `length` is not 0, and for an address of no family;
/// KOLO_ENOBUFS if the queue would pass its bound; KOLO_EMSGSIZE for more than a datagram can hold;
/// KOLO_EDESTADDRREQ without an address on a socket that is not connected; KOLO_EAFNOSUPPORT for an
/// address of a family that the socket has not. Then nothing is taken. What the system or the network
/// says comes to on_error.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_send(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    data: *const c_void,
    length: usize,
    to: *const kolo_address,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's memory, as the header asks for it.
        let data = unsafe { slice(data.cast::<u8>(), length)? };
        let to = match to.is_null() {
            true => None,
            // SAFETY: the caller's pointer, as the header asks for it.
            false => Some(unsafe { socket_address(to)? }),
        };
        let transmit = Transmit {
            to,
            ..Transmit::default()
        };
        self::udp(udp)?.send_with(&lp.inner, data, &transmit)
    })
}

/// Sends a datagram whose bytes are in several pieces, or several datagrams (see segment_size), as
/// `transmit` says; NULL for the defaults. Otherwise as kolo_udp_send.
///
/// Errors: as kolo_udp_send; KOLO_EINVAL also if `buffers` is NULL and `count` is not 0, for a buffer
/// with a length and no base, for a struct of a wrong size, and for more than 64 segments;
/// KOLO_ENOTSUP for what only Linux has.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_send_with(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    buffers: *const kolo_buffer,
    count: usize,
    transmit: *const kolo_transmit,
) -> c_int {
    with_loop(r#loop, |lp| {
        let udp = self::udp(udp)?;
        // SAFETY: the caller's memory, as the header asks for it.
        unsafe {
            let transmit = self::transmit(transmit)?;
            with_slices(buffers, count, |slices| {
                udp.send_vectored(&lp.inner, slices, &transmit)
            })
        }
    })
}

/// Sends memory without copying it. The memory must stay as it is until `done`; without `done`, until
/// the socket has closed. The array of buffers may go when this returns.
///
/// `done` may be NULL; else it is called exactly once if this succeeds, never before it returns, and
/// counts for 64 bytes in the queue until then. `out_send` may be NULL; else it gets a name for the
/// send, which kolo_udp_send_cancel takes.
///
/// Returns 0 or 1 as kolo_udp_send does.
///
/// Errors: as kolo_udp_send_with. Then nothing is taken, and `done` is not called.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_send_owned(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    buffers: *const kolo_buffer,
    count: usize,
    transmit: *const kolo_transmit,
    done: kolo_udp_sent_cb,
    user: *mut c_void,
    out_send: *mut u64,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's memory, as the header asks for it.
        let (payloads, transmit) =
            unsafe { (payloads(slice(buffers, count)?)?, self::transmit(transmit)?) };
        let (udp, done) = (self::udp(udp)?, completion(done, user));
        let (flow, send) = udp.send_payloads(&lp.inner, payloads, &transmit, done)?;
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { write_optional(out_send, send.0) };
        Ok(flow)
    })
}

/// Takes an owned send back that waits in the queue: nothing of it goes, and its `done` comes with
/// KOLO_ECANCELED.
///
/// Errors: KOLO_EBUSY if some of its segments are sent already; KOLO_ENOENT if it has ended or never
/// was.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_send_cancel(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    send: u64,
) -> c_int {
    with_loop(r#loop, |lp| {
        self::udp(udp)?.cancel_send(&lp.inner, SendId(send))
    })
}

/// Sends now or not at all: nothing is queued, and what the system says is returned. (Of several
/// datagrams, see segment_size, some may go and others not: that is success. What was refused is told
/// to on_error, and what found no room is queued.)
///
/// Errors: KOLO_EAGAIN if the socket is full or datagrams are queued; then on_drain comes when there
/// is room. Else as kolo_udp_send_with, and the system's: KOLO_EMSGSIZE, KOLO_ENETUNREACH,
/// KOLO_EPERM...
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_try_send(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    buffers: *const kolo_buffer,
    count: usize,
    transmit: *const kolo_transmit,
) -> c_int {
    with_loop(r#loop, |lp| {
        let udp = self::udp(udp)?;
        // SAFETY: the caller's memory, as the header asks for it.
        unsafe {
            let transmit = self::transmit(transmit)?;
            with_slices(buffers, count, |slices| {
                udp.try_send_vectored(&lp.inner, slices, &transmit)
            })
        }
    })
}

/// Sets, in bytes, where the queue of datagrams to send counts as drained (`low`) and as full (`high`),
/// and what it holds at most (`limit`; SIZE_MAX for no bound). A datagram counts for its bytes and 64
/// more. At first: 64 KiB, 256 KiB, 1 MiB.
///
/// Errors: KOLO_EINVAL unless low <= high <= limit and high > 0.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_set_watermarks(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    low: usize,
    high: usize,
    limit: usize,
) -> c_int {
    with_loop(r#loop, |lp| {
        self::udp(udp)?.set_watermarks(&lp.inner, low, high, limit)
    })
}

/// How many bytes of datagrams were sent and not yet taken by the system, each datagram with 64 more.
///
/// Errors: KOLO_EINVAL if `out_bytes` is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_queued(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    out_bytes: *mut usize,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out_bytes)? };
        out.set(self::udp(udp)?.queued(&lp.inner)?);
        Ok(())
    })
}

/// The address of this end, with the port that the system chose.
///
/// Errors: KOLO_EINVAL if `out` is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_local(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    out: *mut kolo_address,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        out.set(self::udp(udp)?.local_address(&lp.inner)?.into());
        Ok(())
    })
}

/// The address that the socket is connected to.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTCONN if it is not connected.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_peer(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    out: *mut kolo_address,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        out.set(self::udp(udp)?.peer_address(&lp.inner)?.into());
        Ok(())
    })
}

/// The socket's descriptor, to look at, or to set options that kolo does not have. It is still kolo's:
/// do not close or connect it, and leave it non-blocking.
///
/// Errors: KOLO_EINVAL if `out` is NULL.
#[no_mangle]
pub unsafe extern "C" fn kolo_udp_socket(
    r#loop: *mut kolo_loop,
    udp: kolo_udp,
    out: *mut kolo_socket,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        out.set(socket(self::udp(udp)?.raw_socket(&lp.inner)?));
        Ok(())
    })
}
