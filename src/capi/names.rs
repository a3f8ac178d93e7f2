//! Names
//!
//! Names of hosts and services to addresses, and back: by the system's resolver, which asks what the
//! system is configured to ask (the hosts file, DNS). It blocks, so it runs on the threads of the
//! loop's pool, in the class KOLO_WORK_SLOW: as made, 4 names at a time, while more wait. What needs
//! no asking, a numeric address, goes to no thread.
//!
//! A name that is being looked up is a request. kolo_request_cancel, kolo_close and a timeout end it
//! also while the resolver is at work, and nobody waits for the resolver then, neither the loop nor
//! kolo_loop_free: what it says at last is dropped. (Until it does, it keeps its thread.)
//!
//! Names go to the resolver as they are. One that is not ASCII must be UTF-8, and is sent as that,
//! which few DNS servers know: convert it before (RFC 5891).

use std::ffi::{c_char, c_int, c_void, CString};
use std::mem::offset_of;
use std::ptr::null;
use std::time::Duration;

use super::address::{kolo_address, socket_address, text};
use super::attempts::watching;
use super::boundary::{c_bool, needed, number, pointer, with_loop, write_optional, Out};
use super::sized::{self, first_size, Versioned};
use super::stream::{adapter, kolo_stream_handler};
use super::tcp::{connect_options, family, kolo_connect_options};
use super::types::{kolo_loop, kolo_request, kolo_tcp};
use crate::error::{Code, Result};
use crate::event_loop::Loop;
use crate::names::{Named, ResolveOptions, Resolved, ReverseOptions, SocketType};
use crate::net::tcp::TcpStream;
use crate::request::Request;

/// What addresses are to be used for.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_socket_type {
    /// For streams: TCP.
    KOLO_SOCKET_STREAM = 1,
    /// For datagrams: UDP.
    KOLO_SOCKET_DATAGRAM = 2,
}

/// How a name is looked up. Begin with KOLO_RESOLVE_OPTIONS_INIT; a member that is zero means its
/// default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_resolve_options {
    /// sizeof(kolo_resolve_options), set by KOLO_RESOLVE_OPTIONS_INIT.
    pub size: usize,
    /// How long it may take, until KOLO_ETIMEDOUT. 0: as long as the resolver tries.
    pub timeout_ns: u64,
    /// A kolo_family: only addresses of it. KOLO_FAMILY_NONE: of both.
    pub family: c_int,
    /// A kolo_socket_type: it matters to the name of a service. Default KOLO_SOCKET_STREAM.
    pub socket_type: c_int,
    /// Ask for the canonical name, too (AI_CANONNAME).
    pub canonical_name: c_bool,
    /// Without a host: addresses to listen at, which stand for every interface (AI_PASSIVE). By
    /// default they are the loopback's.
    pub passive: c_bool,
    /// With KOLO_FAMILY_IPV6: IPv4 addresses as IPv6 ones that stand for them, if there are no
    /// others (AI_V4MAPPED, where the system has it).
    pub v4_mapped: c_bool,
    /// With v4_mapped: also if there are others (AI_ALL).
    pub all: c_bool,
    /// No addresses of a family that no interface has but the loopback (AI_ADDRCONFIG): saves
    /// questions to the name server.
    pub address_config: c_bool,
}

// SAFETY: whole numbers, the first of them the size.
unsafe impl Versioned for kolo_resolve_options {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, address_config) + 1);
}

/// How an address is looked up. Begin with KOLO_REVERSE_OPTIONS_INIT; a member that is zero means its
/// default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_reverse_options {
    /// sizeof(kolo_reverse_options), set by KOLO_REVERSE_OPTIONS_INIT.
    pub size: usize,
    /// How long it may take, until KOLO_ETIMEDOUT. 0: as long as the resolver tries.
    pub timeout_ns: u64,
    /// The address itself as the host's name, and nobody is asked (NI_NUMERICHOST).
    pub numeric_host: c_bool,
    /// The port itself as the service's name (NI_NUMERICSERV).
    pub numeric_service: c_bool,
    /// A host without a name is an error, KOLO_EAI_NONAME (NI_NAMEREQD). By default its address
    /// stands for it.
    pub name_required: c_bool,
    /// The service is one of datagrams (NI_DGRAM). By default it is one of streams.
    pub datagram: c_bool,
    /// Hosts of the own domain without its name (NI_NOFQDN).
    pub short_name: c_bool,
}

// SAFETY: whole numbers, the first of them the size.
unsafe impl Versioned for kolo_reverse_options {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, short_name) + 1);
}

/// A name was looked up. `status` is 0, and there are `count` addresses, at least one, each once, in
/// the order in which they should be tried (RFC 6724); `canonical_name` is NULL unless it was asked
/// for and is known. All of them are only there during the callback. Otherwise `status` is an error,
/// there are no addresses, and the pointers are NULL:
///
/// KOLO_EAI_NONAME and KOLO_EAI_NODATA when there is no such name, or no address for it;
/// KOLO_EAI_ADDRFAMILY for a numeric address of another family; KOLO_EAI_AGAIN when the name servers
/// do not answer; the other KOLO_EAI_ of the resolver, and errors of the system; KOLO_ETIMEDOUT;
/// KOLO_ECANCELED when the request was cancelled or closed, or the loop is freed.
pub type kolo_resolve_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        request: kolo_request,
        status: c_int,
        addresses: *const kolo_address,
        count: usize,
        canonical_name: *const c_char,
        user: *mut c_void,
    ),
>;

/// An address was looked up. `status` is 0; `host` and `service` are only there during the callback.
/// Otherwise it is an error as with kolo_resolve_cb, and they are NULL.
pub type kolo_reverse_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut kolo_loop,
        request: kolo_request,
        status: c_int,
        host: *const c_char,
        service: *const c_char,
        user: *mut c_void,
    ),
>;

fn timeout(nanoseconds: u64) -> Option<Duration> {
    (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds))
}

impl TryFrom<kolo_resolve_options> for ResolveOptions {
    type Error = crate::Error;

    fn try_from(given: kolo_resolve_options) -> Result<ResolveOptions> {
        const STREAM: c_int = kolo_socket_type::KOLO_SOCKET_STREAM as c_int;
        const DATAGRAM: c_int = kolo_socket_type::KOLO_SOCKET_DATAGRAM as c_int;
        Ok(ResolveOptions {
            family: family(given.family)?,
            socket_type: match given.socket_type {
                0 | STREAM => SocketType::Stream,
                DATAGRAM => SocketType::Datagram,
                _ => return Err(Code::EINVAL.into()),
            },
            canonical_name: given.canonical_name != 0,
            passive: given.passive != 0,
            v4_mapped: given.v4_mapped != 0,
            all: given.all != 0,
            address_config: given.address_config != 0,
            timeout: timeout(given.timeout_ns),
        })
    }
}

impl From<kolo_reverse_options> for ReverseOptions {
    fn from(given: kolo_reverse_options) -> ReverseOptions {
        ReverseOptions {
            numeric_host: given.numeric_host != 0,
            numeric_service: given.numeric_service != 0,
            name_required: given.name_required != 0,
            datagram: given.datagram != 0,
            short_name: given.short_name != 0,
            timeout: timeout(given.timeout_ns),
        }
    }
}

/// A text of the caller's; NULL is none.
///
/// # Safety
///
/// `at` is NULL, or a C string that stays as it is until the entry point returns.
unsafe fn optional_text<'a>(at: *const c_char) -> Result<Option<&'a str>> {
    match at.is_null() {
        true => Ok(None),
        // SAFETY: promised by the caller.
        false => Ok(Some(unsafe { text(at)? })),
    }
}

/// What comes from the resolver has no NUL in it: it is made of C strings.
fn c_text(text: String) -> CString {
    CString::new(text).unwrap_or_default()
}

/// Looks up the addresses of a host, and the port of a service (getaddrinfo(3)).
///
/// `host` is a name or a numeric address ("192.0.2.1", "fe80::1%eth0"); NULL for this machine: see
/// the options' `passive`. `service` is a name ("http") or a number ("80"); NULL for port 0. Not both
/// are NULL. `options` may be NULL for the defaults, and `out` if the request is not of interest.
///
/// `cb` is called exactly once, never inside this call.
///
/// Errors: KOLO_EINVAL if `cb` is NULL, or both `host` and `service` are; for a text that is empty or
/// not UTF-8, a number above 65535, options of a wrong size, and a family or socket type that there
/// is not; KOLO_ENAMETOOLONG for more than 253 bytes; and those of kolo_work_submit. Then `cb` is not
/// called.
#[no_mangle]
pub unsafe extern "C" fn kolo_resolve(
    r#loop: *mut kolo_loop,
    host: *const c_char,
    service: *const c_char,
    options: *const kolo_resolve_options,
    cb: kolo_resolve_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let cb = needed(cb)?;
        // SAFETY: the caller's pointers, as the header asks for them.
        let (host, service, options) = unsafe {
            (
                optional_text(host)?,
                optional_text(service)?,
                sized::read_or_default(options)?,
            )
        };
        let options = ResolveOptions::try_from(options)?;
        let done = move |lp: &Loop, request: Request, outcome: Result<Resolved>| {
            let (lp, request) = (pointer(lp), request.id().to_raw());
            match outcome {
                Ok(resolved) => {
                    let addresses = resolved.addresses.into_iter().map(kolo_address::from);
                    let addresses: Vec<_> = addresses.collect();
                    let name = resolved.canonical_name.map(c_text);
                    let name = name.as_ref().map_or(null(), |name| name.as_ptr());
                    let (first, count) = (addresses.as_ptr(), addresses.len());
                    // SAFETY: the user's function, with what it asked for.
                    unsafe { cb(lp, request, 0, first, count, name, user) }
                }
                // SAFETY: as above.
                Err(error) => unsafe { cb(lp, request, number(error), null(), 0, null(), user) },
            }
        };
        let request = lp.inner.resolve_request(host, service, &options, done)?;
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { write_optional(out, request.id().to_raw()) };
        Ok(())
    })
}

/// Looks up the names of an address and its port (getnameinfo(3)). `options` may be NULL for the
/// defaults, and `out` if the request is not of interest.
///
/// `cb` is called exactly once, never inside this call.
///
/// Errors: KOLO_EINVAL if `address` or `cb` is NULL, for an address of no family, and for options of a
/// wrong size; and those of kolo_work_submit. Then `cb` is not called.
#[no_mangle]
pub unsafe extern "C" fn kolo_reverse(
    r#loop: *mut kolo_loop,
    address: *const kolo_address,
    options: *const kolo_reverse_options,
    cb: kolo_reverse_cb,
    user: *mut c_void,
    out: *mut kolo_request,
) -> c_int {
    with_loop(r#loop, |lp| {
        let cb = needed(cb)?;
        // SAFETY: the caller's pointers, as the header asks for them.
        let (address, options) =
            unsafe { (socket_address(address)?, sized::read_or_default(options)?) };
        let done = move |lp: &Loop, request: Request, outcome: Result<Named>| {
            let (lp, request) = (pointer(lp), request.id().to_raw());
            match outcome {
                Ok(named) => {
                    let (host, service) = (c_text(named.host), c_text(named.service));
                    // SAFETY: the user's function, with what it asked for.
                    unsafe { cb(lp, request, 0, host.as_ptr(), service.as_ptr(), user) }
                }
                // SAFETY: as above.
                Err(error) => unsafe { cb(lp, request, number(error), null(), null(), user) },
            }
        };
        let request = lp.inner.reverse_request(address, &options.into(), done)?;
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { write_optional(out, request.id().to_raw()) };
        Ok(())
    })
}

/// Connects to a host by its name: looks its addresses up, as kolo_resolve does, and connects to them
/// as kolo_tcp_connect_any does. A numeric host is asked of nobody. `options` may be NULL for the
/// defaults.
///
/// The resolver is asked once, for both families, as the system is configured to: so the hosts file
/// and the system's order of preference hold. The stream is there from this call on: it may be
/// written to, closed, and limited in time by the options' timeout_ns, which counts the resolving
/// too. In a forked child it fails with KOLO_ECANCELED if the parent was resolving.
///
/// on_error of the handler hears what the resolver says against the name, KOLO_EAI_NONAME and its
/// like, and otherwise as with kolo_tcp_connect_any.
///
/// Errors, of which no callback tells: KOLO_EINVAL if `host`, `handler` or `out` is NULL, for a host
/// that is empty or not UTF-8, for structs of a wrong size, for a delay out of its range, and if the
/// options' family and that of the local address differ; KOLO_ENAMETOOLONG for more than 253 bytes;
/// and those of kolo_work_submit.
#[no_mangle]
pub unsafe extern "C" fn kolo_tcp_connect_name(
    r#loop: *mut kolo_loop,
    host: *const c_char,
    port: u16,
    options: *const kolo_connect_options,
    handler: *const kolo_stream_handler,
    user: *mut c_void,
    out: *mut kolo_tcp,
) -> c_int {
    with_loop(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, host, given, handler) = unsafe {
            (
                Out::new(out)?,
                text(host)?,
                sized::read_or_default(options)?,
                adapter(lp, handler, user)?,
            )
        };
        // SAFETY: as above.
        let options = unsafe { connect_options(&given)? };
        let handler = watching(handler, given.on_attempt);
        let tcp = TcpStream::connect_name_boxed(&lp.inner, host, port, &options, handler)?;
        out.set(tcp.id().to_raw());
        Ok(())
    })
}
