//! Unix-domain sockets
//!
//! Unix-domain streams connect processes of one machine. What reads, writes and closes them is above,
//! with all streams; what pauses their listeners, with all listeners. Here is what makes them, and
//! what only they have: names in the file system, the peer's credentials, and descriptors, also
//! whole handles, that travel from process to process.
//!
//! A name is a path (and `length` its strlen), or on Linux an abstract name, which begins with a zero
//! byte, may have more of them, and is in no file system. A path may have 107 bytes on Linux, 103 on
//! macOS and the BSDs; a deeper place is reached by a relative path, or on Linux through a descriptor
//! of its folder: /proc/self/fd/N/name.
//!
//! Not to be had on Windows (KOLO_ENOTSUP).

#![cfg_attr(not(unix), allow(unused))]

use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;
use std::time::Duration;

use super::boundary::{c_bool, id, slice, with_loop, write_optional, Out};
use super::listener::kolo_listener_handler;
use super::listener::{accept_policy, adapter as listener_adapter, bytes, give_back, pauses};
use super::poll::{descriptor, socket};
use super::sized::{self, first_size, Versioned};
use super::stream::{adapter, completion, kolo_stream_handler, kolo_write_cb};
use super::types::{kolo_handle, kolo_listener, kolo_local, kolo_loop, kolo_socket, kolo_stream};
use crate::error::{Code, Result};
#[cfg(unix)]
use crate::local::listener::{LocalListenOptions, LocalListener};
#[cfg(unix)]
use crate::local::name::LocalName;
#[cfg(unix)]
use crate::local::stream::{LocalConnectOptions, LocalStream};
use crate::stream::Payload;
use crate::sys;

/// The body of a function that only Unix has; elsewhere it answers KOLO_ENOTSUP.
macro_rules! on_unix {
    ($loop:expr, |$lp:ident| $body:block) => {{
        #[cfg(unix)]
        {
            with_loop($loop, |$lp| $body)
        }
        #[cfg(not(unix))]
        {
            with_loop($loop, |_| Err::<(), _>(Code::ENOTSUP.into()))
        }
    }};
}
pub(super) use on_unix;

/// How a Unix-domain connection is made. Begin with KOLO_LOCAL_CONNECT_OPTIONS_INIT; a member that
/// is zero means its default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_local_connect_options {
    /// sizeof(kolo_local_connect_options), set by KOLO_LOCAL_CONNECT_OPTIONS_INIT.
    pub size: usize,
    /// How long the connection may take to be made, until KOLO_ETIMEDOUT: it only takes time while
    /// the listener's backlog is full. 0: for ever.
    pub timeout_ns: u64,
}

// SAFETY: whole numbers, the first of them the size.
unsafe impl Versioned for kolo_local_connect_options {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, timeout_ns) + 8);
}

/// How a Unix-domain listener listens. Begin with KOLO_LOCAL_LISTEN_OPTIONS_INIT; a member that is
/// zero means its default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kolo_local_listen_options {
    /// sizeof(kolo_local_listen_options), set by KOLO_LOCAL_LISTEN_OPTIONS_INIT.
    pub size: usize,
    /// Connections that may wait to be accepted. The system may allow fewer. Default 1024.
    pub backlog: u32,
    /// The mode of the socket file, such as 0600: who may write to it may connect (on Linux; a folder
    /// that others may not enter keeps them out everywhere). It holds before the first can connect.
    /// 0: 0777 less the process's umask. Not for abstract names, to which everybody may connect.
    pub mode: u32,
    /// Take the place of a socket file on which nobody listens, as a process leaves it that did not
    /// end in order. Never of one on which somebody does, nor of a file that is no socket: that stays
    /// KOLO_EADDRINUSE. Whether somebody listens is found out by connecting. Two processes that do
    /// this at the same time do not disturb each other, by a lock on the folder (flock(2)), for which
    /// this waits up to a tenth of a second; a program that does not heed it, and whose socket is
    /// bound but does not listen yet at that moment, loses its file.
    pub replace_stale: c_bool,
    /// Leave the socket file when the listener closes. By default it is removed then, if it is still
    /// the listener's own, and never by a forked child.
    pub keep_file: c_bool,
    /// Connections accepted in one turn, at most. Default 64.
    pub accepts_per_turn: u32,
    /// What to do when descriptors run out: a kolo_accept_policy. Those whom KOLO_ACCEPT_REJECT turns
    /// away see the connection end.
    pub accept_policy: c_int,
    /// The first pause after descriptors ran out, in nanoseconds. Default 10 ms.
    pub retry_min_ns: u64,
    /// The longest pause after they ran out again and again. Default 1 s.
    pub retry_max_ns: u64,
}

// SAFETY: whole numbers, the first of them the size.
unsafe impl Versioned for kolo_local_listen_options {
    const FIRST: usize = first_size::<Self>(offset_of!(Self, retry_max_ns) + 8);
}

#[cfg(unix)]
fn listen_options(given: &kolo_local_listen_options) -> Result<LocalListenOptions> {
    let defaults = LocalListenOptions::default();
    if given.mode > 0o7777 {
        return Err(Code::EINVAL.into());
    }
    let (retry_min, retry_max) = pauses(
        given.retry_min_ns,
        given.retry_max_ns,
        (defaults.retry_min, defaults.retry_max),
    )?;
    Ok(LocalListenOptions {
        backlog: bytes(given.backlog).unwrap_or(defaults.backlog),
        mode: bytes(given.mode),
        replace_stale: given.replace_stale != 0,
        keep_file: given.keep_file != 0,
        accepts_per_turn: bytes(given.accepts_per_turn).unwrap_or(defaults.accepts_per_turn),
        accept_policy: accept_policy(given.accept_policy)?,
        retry_min,
        retry_max,
    })
}

/// # Safety
///
/// `length` bytes at `name` can be read.
#[cfg(unix)]
unsafe fn local_name(name: *const c_char, length: usize) -> Result<LocalName> {
    // SAFETY: promised by the caller.
    let bytes = unsafe { slice(name.cast::<u8>(), length)? };
    if name.is_null() {
        return Err(Code::EINVAL.into());
    }
    Ok(LocalName::from(bytes))
}

#[cfg(unix)]
fn local(handle: kolo_local) -> Result<LocalStream> {
    Ok(LocalStream::from_id(id(handle)?))
}

/// Where a name is to be written.
#[cfg(unix)]
struct NameOut {
    buffer: *mut c_char,
    room: usize,
    length: Out<usize>,
}

#[cfg(unix)]
impl NameOut {
    /// # Safety
    ///
    /// `room` bytes at `buffer` can be written, and `length` is NULL or can hold a number, until the
    /// entry point returns.
    unsafe fn new(buffer: *mut c_char, room: usize, length: *mut usize) -> Result<NameOut> {
        if buffer.is_null() {
            return Err(Code::EINVAL.into());
        }
        // SAFETY: promised by the caller.
        let length = unsafe { Out::new(length)? };
        Ok(NameOut {
            buffer,
            room,
            length,
        })
    }

    fn set(self, name: &LocalName) -> Result<()> {
        let bytes = name.as_bytes();
        if bytes.len() >= self.room {
            return Err(Code::ENOBUFS.into());
        }
        // SAFETY: there is room for the bytes and a zero, as `new` was promised.
        unsafe {
            let place = self.buffer.cast::<u8>();
            place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            place.add(bytes.len()).write(0);
        }
        self.length.set(bytes.len());
        Ok(())
    }
}

/// Listens at a name: a path, where there must be nothing, or an abstract name. `options` may be
/// NULL for the defaults. Callbacks, and kolo_listener_pause and kolo_listener_resume, are those of
/// all listeners; on_accept gets a kolo_local.
///
/// Errors: KOLO_EINVAL if `name`, `handler` or `out` is NULL, for no bytes, for a path with a zero
/// byte in it, for structs of a wrong size, for a mode or a policy that there is not, and if
/// retry_min_ns exceeds retry_max_ns; KOLO_EADDRINUSE if there is something at the path, or somebody
/// listens at the name; KOLO_ENAMETOOLONG; KOLO_EACCES, KOLO_ENOENT, KOLO_ENOTDIR, KOLO_EROFS and
/// their like for the path's folder; KOLO_EAGAIN if another process keeps the folder locked, with
/// replace_stale; KOLO_EMFILE and KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop
/// holds as many handles as it can; KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on
/// Windows, and for an abstract name on other systems than Linux.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_listen(
    r#loop: *mut kolo_loop,
    name: *const c_char,
    length: usize,
    options: *const kolo_local_listen_options,
    handler: *const kolo_listener_handler,
    user: *mut c_void,
    out: *mut kolo_listener,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, name, options, handler) = unsafe {
            (
                Out::new(out)?,
                local_name(name, length)?,
                listen_options(&sized::read_or_default(options)?)?,
                listener_adapter(lp, handler, user)?,
            )
        };
        let listener = LocalListener::listen_boxed(&lp.inner, &name, &options, handler)?;
        out.set(listener.id().to_raw());
        Ok(())
    })
}

/// Takes over a listening Unix-domain socket from elsewhere, such as one that a service manager
/// handed to the process. From success on it is kolo's, and kolo closes it; after an error it is
/// still the caller's. Its file stays when it closes. Of `options` (NULL for the defaults) what
/// concerns accepting counts.
///
/// Errors: KOLO_EINVAL if `handler` or `out` is NULL, for structs of a wrong size, and for a socket
/// that does not listen; KOLO_EBADF for a descriptor that is not open; KOLO_EEXIST for one that a
/// handle has already (see kolo_socket); KOLO_ENOTSOCK for one that is no socket; KOLO_EAFNOSUPPORT for
/// one that is not of the Unix domain; KOLO_ENOBUFS if the loop holds as many handles as it can;
/// KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_listener_adopt(
    r#loop: *mut kolo_loop,
    socket: kolo_socket,
    options: *const kolo_local_listen_options,
    handler: *const kolo_listener_handler,
    user: *mut c_void,
    out: *mut kolo_listener,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, options, handler) = unsafe {
            (
                Out::new(out)?,
                listen_options(&sized::read_or_default(options)?)?,
                listener_adapter(lp, handler, user)?,
            )
        };
        let socket = sys::Held::adopt(sys::take_socket(descriptor(socket)?)?)?;
        let adopted = LocalListener::adopt_boxed(&lp.inner, socket, &options, handler);
        out.set(adopted.map_err(give_back)?.id().to_raw());
        Ok(())
    })
}

/// Connects to who listens at a name. on_open of the handler comes when the connection is made;
/// until then writes are queued. What the system says against it comes to on_error: KOLO_ENOENT if
/// there is no such name, KOLO_ECONNREFUSED if nobody listens there, KOLO_EACCES, KOLO_EPROTOTYPE for
/// a socket of another type. While the listener's backlog is full, it is tried again. `options` may
/// be NULL for the defaults.
///
/// Errors, of which no callback tells: KOLO_EINVAL if `name`, `handler` or `out` is NULL, for no
/// bytes, for a path with a zero byte in it, and for structs of a wrong size; KOLO_ENAMETOOLONG;
/// KOLO_EMFILE and KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop holds as many
/// handles as it can; KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on Windows, and for
/// an abstract name on other systems than Linux.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_connect(
    r#loop: *mut kolo_loop,
    name: *const c_char,
    length: usize,
    options: *const kolo_local_connect_options,
    handler: *const kolo_stream_handler,
    user: *mut c_void,
    out: *mut kolo_local,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, name, given, handler) = unsafe {
            (
                Out::new(out)?,
                local_name(name, length)?,
                sized::read_or_default(options)?,
                adapter(lp, handler, user)?,
            )
        };
        let timeout = (given.timeout_ns > 0).then(|| Duration::from_nanos(given.timeout_ns));
        let options = LocalConnectOptions { timeout };
        let local = LocalStream::connect_boxed(&lp.inner, &name, &options, handler)?;
        out.set(local.id().to_raw());
        Ok(())
    })
}

/// Makes two connected streams (socketpair(2)), which are open at once: on_open does not come.
///
/// Errors: KOLO_EINVAL if a handler or an `out` is NULL, and for a handler of a wrong size;
/// KOLO_EMFILE and KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop holds as many
/// handles as it can; KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_pair(
    r#loop: *mut kolo_loop,
    first_handler: *const kolo_stream_handler,
    first_user: *mut c_void,
    second_handler: *const kolo_stream_handler,
    second_user: *mut c_void,
    out_first: *mut kolo_local,
    out_second: *mut kolo_local,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (outs, first, second) = unsafe {
            (
                (Out::new(out_first)?, Out::new(out_second)?),
                adapter(lp, first_handler, first_user)?,
                adapter(lp, second_handler, second_user)?,
            )
        };
        let (first, second) = LocalStream::pair_boxed(&lp.inner, first, second)?;
        outs.0.set(first.id().to_raw());
        outs.1.set(second.id().to_raw());
        Ok(())
    })
}

/// Takes over a connected Unix-domain stream socket from elsewhere, which is open at once (on_open
/// does not come). From success on it is kolo's, and kolo closes it; after an error it is still the
/// caller's.
///
/// Errors: KOLO_EINVAL if `handler` or `out` is NULL, and for a handler of a wrong size; KOLO_EBADF
/// for a descriptor that is not open; KOLO_EEXIST for one that a handle has already (see kolo_socket);
/// KOLO_ENOTSOCK for one that is no socket; KOLO_EAFNOSUPPORT for one that is not of the Unix domain;
/// KOLO_EPROTOTYPE for one that keeps messages apart;
/// KOLO_ENOTCONN for one that is not connected; KOLO_ENOBUFS if the loop holds as many handles as it
/// can; KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_adopt(
    r#loop: *mut kolo_loop,
    socket: kolo_socket,
    handler: *const kolo_stream_handler,
    user: *mut c_void,
    out: *mut kolo_local,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, handler) = unsafe { (Out::new(out)?, adapter(lp, handler, user)?) };
        let socket = sys::Held::adopt(sys::take_socket(descriptor(socket)?)?)?;
        let adopted = LocalStream::adopt_boxed(&lp.inner, socket, handler);
        out.set(adopted.map_err(give_back)?.id().to_raw());
        Ok(())
    })
}

/// Hands the socket out: from now on it is the caller's to close. The handle closes, and its
/// on_close comes as ever. The socket does not block; bytes that were not read yet are still in it.
/// Received descriptors that were not taken are closed.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_EBUSY while writes are queued, while the connection is
/// being made, and in on_descriptors, since the bytes that the descriptors came with are still to be
/// told; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_release(
    r#loop: *mut kolo_loop,
    local: kolo_local,
    out: *mut kolo_socket,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        let released = self::local(local)?.release(&lp.inner)?;
        out.set(socket(sys::give_socket(released)));
        Ok(())
    })
}

/// Who is at the other end of a connection: the process that made it, or that listened, as they
/// were then; with a pair, who made it. `process` gets 0 where the system does not tell it (it does
/// on Linux and macOS), or if it is not visible from here; it may have ended since, and its number be
/// another's. `user` and `group` are the effective ones.
///
/// Errors: KOLO_EINVAL if a pointer is NULL; KOLO_ENOTCONN while the connection is being made;
/// KOLO_ENOTSUP where the system does not tell.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_peer_credentials(
    r#loop: *mut kolo_loop,
    local: kolo_local,
    process: *mut i64,
    user: *mut u32,
    group: *mut u32,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let outs = unsafe { (Out::new(process)?, Out::new(user)?, Out::new(group)?) };
        let peer = self::local(local)?.peer_credentials(&lp.inner)?;
        outs.0.set(peer.process.map_or(0, i64::from));
        outs.1.set(peer.user);
        outs.2.set(peer.group);
        Ok(())
    })
}

/// The name of a Unix-domain listener, or of this end of a stream: the listener's, if it was
/// accepted; usually none, and `out_length` 0, for others. A zero byte is put behind it; 128 bytes
/// of `room` are always enough.
///
/// Errors: KOLO_EINVAL if `buffer` or `out_length` is NULL; KOLO_ENOBUFS if there is not `room` for
/// it; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_name(
    r#loop: *mut kolo_loop,
    handle: kolo_handle,
    buffer: *mut c_char,
    room: usize,
    out_length: *mut usize,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's memory, as the header asks for it.
        let out = unsafe { NameOut::new(buffer, room, out_length)? };
        let id = id(handle)?;
        let name = match LocalListener::from_id(id).name(&lp.inner) {
            Err(error) if error.code() == Code::EBADF => {
                LocalStream::from_id(id).name(&lp.inner)?
            }
            name => name?,
        };
        out.set(&name)
    })
}

/// The name of the other end of a stream: the listener's, if this one connected; usually none, and
/// `out_length` 0, for others. A zero byte is put behind it; 128 bytes of `room` are always enough.
///
/// Errors: KOLO_EINVAL if `buffer` or `out_length` is NULL; KOLO_ENOBUFS if there is not `room` for
/// it; KOLO_ENOTCONN while the connection is being made; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_peer_name(
    r#loop: *mut kolo_loop,
    local: kolo_local,
    buffer: *mut c_char,
    room: usize,
    out_length: *mut usize,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's memory, as the header asks for it.
        let out = unsafe { NameOut::new(buffer, room, out_length)? };
        out.set(&self::local(local)?.peer_name(&lp.inner)?)
    })
}

/// Asks for sizes of the kernel's buffers in bytes; 0 leaves one as it is. The system may give more
/// or less. (On Linux what one end may have under way to the other is its send buffer.)
#[no_mangle]
pub unsafe extern "C" fn kolo_local_set_buffers(
    r#loop: *mut kolo_loop,
    local: kolo_local,
    send_bytes: u32,
    receive_bytes: u32,
) -> c_int {
    on_unix!(r#loop, |lp| {
        self::local(local)?.set_buffers(&lp.inner, bytes(send_bytes), bytes(receive_bytes))
    })
}

/// The socket's descriptor, to look at, or to set options that kolo does not have. It is still
/// kolo's: do not close it, and leave it non-blocking.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_socket(
    r#loop: *mut kolo_loop,
    local: kolo_local,
    out: *mut kolo_socket,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        out.set(socket(self::local(local)?.raw_socket(&lp.inner)?));
        Ok(())
    })
}

/// Writes bytes, which are copied, and with the first of them passes `count` descriptors to the
/// peer: at least one, at most 253. It takes its turn among the other writes. The descriptors are
/// duplicated by this call, so the caller's stay its own and may be closed.
///
/// `done` may be NULL; else it is called exactly once if this succeeds, never before it returns.
/// `out_write` may be NULL; else it gets a name for the write, which kolo_stream_write_cancel takes.
///
/// Returns 0 or 1 as kolo_stream_write does.
///
/// Errors: KOLO_EINVAL if `data` or `descriptors` is NULL, for no bytes, and for no descriptors or
/// too many; KOLO_EBADF also for a descriptor that is not open; KOLO_EMFILE if descriptors are short;
/// KOLO_ENOTSUP on Windows; the others as for kolo_stream_write. Then nothing is taken. (If too many
/// descriptors of this user's are on their way, on Linux, the connection breaks with
/// KOLO_ETOOMANYREFS.)
#[no_mangle]
pub unsafe extern "C" fn kolo_local_write_with_descriptors(
    r#loop: *mut kolo_loop,
    local: kolo_local,
    data: *const c_void,
    length: usize,
    descriptors: *const c_int,
    count: usize,
    done: kolo_write_cb,
    user: *mut c_void,
    out_write: *mut u64,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's memory, as the header asks for it.
        let (data, numbers) = unsafe {
            (
                slice(data.cast::<u8>(), length)?,
                slice(descriptors, count)?,
            )
        };
        let local = self::local(local)?;
        let duplicates = duplicates(numbers)?;
        let payload = Payload::from(data.to_vec());
        let done = completion(done, user);
        let (flow, write) = local.write_passing(&lp.inner, payload, duplicates, done)?;
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { write_optional(out_write, write.0) };
        Ok(flow)
    })
}

#[cfg(unix)]
fn duplicates(numbers: &[c_int]) -> Result<Vec<std::os::fd::OwnedFd>> {
    if numbers.len() > sys::DESCRIPTORS_MAX {
        return Err(Code::EINVAL.into());
    }
    let duplicate = |number: &c_int| match *number {
        0.. => Ok(sys::borrow(*number).try_clone_to_owned()?),
        _ => Err(Code::EBADF.into()),
    };
    numbers.iter().map(duplicate).collect()
}

/// Writes bytes, which are copied, and passes a handle's descriptor with them: a TCP connection or
/// listener, a UDP socket, a Unix-domain stream or listener, a pipe, of the same loop. The peer makes
/// a handle of it again: kolo_local_take_stream, kolo_local_take_listener.
///
/// The handle itself stays as it is, and shares its connection with the peer: usually the next call
/// is to close it, which the connection outlives. (Its shutdown and its reset it would not: they are
/// the connection's.) What this side has read of it is not passed; what it has written is sent first.
///
/// `done`, `out_write` and what is returned are as with kolo_local_write_with_descriptors.
///
/// Errors: KOLO_EINVAL for a handle without a descriptor of kolo's, for no bytes, and if `data` is
/// NULL; KOLO_EBUSY while the handle has writes queued; the others as there.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_send_handle(
    r#loop: *mut kolo_loop,
    local: kolo_local,
    handle: kolo_handle,
    data: *const c_void,
    length: usize,
    done: kolo_write_cb,
    user: *mut c_void,
    out_write: *mut u64,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's memory, as the header asks for it.
        let data = unsafe { slice(data.cast::<u8>(), length)? };
        let local = self::local(local)?;
        let payload = Payload::from(data.to_vec());
        let done = completion(done, user);
        let (flow, write) = local.send_handle_boxed(&lp.inner, id(handle)?, payload, done)?;
        // SAFETY: the caller's pointer, as the header asks for it.
        unsafe { write_optional(out_write, write.0) };
        Ok(flow)
    })
}

/// Takes descriptors that the peer passes, from now on, or no more. A stream that does not has them
/// dropped by the system. on_descriptors tells of them, before the bytes that they came with; then
/// they wait to be taken, at most 1012 on one stream (more are closed), and those that are not taken
/// are closed with the stream. Of a peer that is not trusted, mind that each counts against the limit
/// of this process.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_receive_descriptors(
    r#loop: *mut kolo_loop,
    local: kolo_local,
    on: c_bool,
) -> c_int {
    on_unix!(r#loop, |lp| {
        self::local(local)?.receive_descriptors(&lp.inner, on != 0)
    })
}

/// How many received descriptors wait to be taken.
///
/// Errors: KOLO_EINVAL if `out_count` is NULL; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_descriptors_waiting(
    r#loop: *mut kolo_loop,
    local: kolo_local,
    out_count: *mut usize,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out_count)? };
        out.set(self::local(local)?.descriptors_waiting(&lp.inner)?);
        Ok(())
    })
}

/// What kind of handle the first descriptor that waits would be: a kolo_kind, or 0 for one of which
/// kolo makes no handle, such as a file's.
///
/// Errors: KOLO_EINVAL if `out_kind` is NULL; KOLO_ENOENT if none waits; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_next_kind(
    r#loop: *mut kolo_loop,
    local: kolo_local,
    out_kind: *mut c_int,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out_kind)? };
        let kind = self::local(local)?.next_kind(&lp.inner)?;
        out.set(kind.map_or(0, |kind| kind as c_int));
        Ok(())
    })
}

/// Takes the first received descriptor that waits: it is the caller's to close, or to give to
/// kolo_udp_adopt and its like. Programs that the process starts do not inherit it.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOENT if none waits; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_take_descriptor(
    r#loop: *mut kolo_loop,
    local: kolo_local,
    out: *mut c_int,
) -> c_int {
    on_unix!(r#loop, |lp| {
        use std::os::fd::IntoRawFd;
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        let taken = self::local(local)?.take_descriptor(&lp.inner)?;
        out.set(taken.into_raw_fd());
        Ok(())
    })
}

/// Takes the first received descriptor that waits and opens it as the stream that it is: a kolo_tcp,
/// a kolo_local or a kolo_pipe, which kolo_kind_of tells. It is open at once: on_open does not
/// come.
///
/// Errors: KOLO_EINVAL if `handler` or `out` is NULL, for a handler of a wrong size, and if it is no
/// stream; KOLO_ENOENT if none waits; KOLO_ENOTCONN if it is not connected; KOLO_ENOBUFS if the loop
/// holds as many handles as it can; KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on
/// Windows. Then it still waits.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_take_stream(
    r#loop: *mut kolo_loop,
    local: kolo_local,
    handler: *const kolo_stream_handler,
    user: *mut c_void,
    out: *mut kolo_stream,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, handler) = unsafe { (Out::new(out)?, adapter(lp, handler, user)?) };
        let stream = self::local(local)?.take_stream_boxed(&lp.inner, handler)?;
        out.set(stream.id().to_raw());
        Ok(())
    })
}

/// Takes the first received descriptor that waits and opens it as the listener that it is, of TCP or
/// the Unix domain, with the default options.
///
/// Errors: as for kolo_local_take_stream; KOLO_EINVAL if it is no listener. Then it still waits.
#[no_mangle]
pub unsafe extern "C" fn kolo_local_take_listener(
    r#loop: *mut kolo_loop,
    local: kolo_local,
    handler: *const kolo_listener_handler,
    user: *mut c_void,
    out: *mut kolo_listener,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, handler) = unsafe { (Out::new(out)?, listener_adapter(lp, handler, user)?) };
        let listener = self::local(local)?.take_listener_boxed(&lp.inner, handler)?;
        out.set(listener.to_raw());
        Ok(())
    })
}
