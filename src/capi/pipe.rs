//! Pipes
//!
//! Pipes are streams: what reads, writes and closes them is above. Here is what makes them: anonymous
//! pipes, named ones, and descriptors from elsewhere, such as the standard input and output.
//!
//! Most pipes carry bytes in one direction. Reading an end that only writes is KOLO_ENOTCONN, as after
//! the peer's end; writing one that only reads is KOLO_EPIPE, as after kolo_stream_shutdown. A handler
//! with on_data may be given to either: it reads where there is something to read. An end that only
//! writes keeps the loop alive while writes are queued. A reader that goes away is KOLO_EPIPE to
//! on_error at the next write, and never the signal SIGPIPE. kolo_stream_shutdown of an end that only
//! writes closes its descriptor, which is how the reader hears of the end.
//!
//! Whether reading and writing wait is a property of the open file description, not of the descriptor
//! (open(2)): a shell's standard output that one process makes non-blocking is so for all that
//! inherited it. kolo_pipe_reopen leaves such descriptors alone where it can. Where it cannot, and with
//! kolo_pipe_adopt, the description is changed, and changed back when the handle closes or releases it.
//! A process that is killed does not get to that.
//!
//! Not to be had on Windows (KOLO_ENOTSUP).

#![cfg_attr(not(unix), allow(unused))]

use std::ffi::{c_char, c_int, c_void};

use super::boundary::{id, with_loop, Out};
use super::local::on_unix;
use super::stream::{adapter, kolo_stream_handler};
use super::types::{kolo_loop, kolo_pipe};
use crate::error::{Code, Error, Result};
#[cfg(unix)]
use crate::local::pipe::{Direction, Pipe};
use crate::sys;

/// Which way a pipe's end carries bytes, seen from this process.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum kolo_direction {
    /// To this process: it is read.
    KOLO_DIRECTION_READ = 1,
    /// From this process: it is written.
    KOLO_DIRECTION_WRITE = 2,
}

#[cfg(unix)]
fn direction(number: c_int) -> Result<Direction> {
    match number {
        1 => Ok(Direction::Read),
        2 => Ok(Direction::Write),
        _ => Err(Code::EINVAL.into()),
    }
}

#[cfg(unix)]
fn pipe(handle: kolo_pipe) -> Result<Pipe> {
    Ok(Pipe::from_id(id(handle)?))
}

/// A descriptor that could not be adopted stays the caller's.
#[cfg(unix)]
fn give_back((error, descriptor): (Error, Option<std::os::fd::OwnedFd>)) -> Error {
    use std::os::fd::IntoRawFd;
    if let Some(descriptor) = descriptor {
        // The caller knows its number.
        let _ = descriptor.into_raw_fd();
    }
    error
}

/// Makes an anonymous pipe (pipe(2)) with both ends in this loop.
///
/// Errors: KOLO_EINVAL if a handler or an `out` is NULL, and for a handler of a wrong size;
/// KOLO_EMFILE and KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop holds as many
/// handles as it can; KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_pipe_pair(
    r#loop: *mut kolo_loop,
    reader_handler: *const kolo_stream_handler,
    reader_user: *mut c_void,
    writer_handler: *const kolo_stream_handler,
    writer_user: *mut c_void,
    out_reader: *mut kolo_pipe,
    out_writer: *mut kolo_pipe,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (outs, reader, writer) = unsafe {
            (
                (Out::new(out_reader)?, Out::new(out_writer)?),
                adapter(lp, reader_handler, reader_user)?,
                adapter(lp, writer_handler, writer_user)?,
            )
        };
        let (reader, writer) = Pipe::pair_boxed(&lp.inner, reader, writer)?;
        outs.0.set(reader.id().to_raw());
        outs.1.set(writer.id().to_raw());
        Ok(())
    })
}

/// Makes an anonymous pipe with one end in this loop, which is read or written as `direction` (a
/// kolo_direction) says. The other end is the caller's to close, for a thread or another process: it
/// waits in reading and writing, as programs expect it, and is not inherited (FD_CLOEXEC) until that
/// is asked for.
///
/// Errors: KOLO_EINVAL for a direction that there is not, if `handler`, `out` or `out_other` is NULL,
/// and for a handler of a wrong size; the others as for kolo_pipe_pair.
#[no_mangle]
pub unsafe extern "C" fn kolo_pipe_half(
    r#loop: *mut kolo_loop,
    direction: c_int,
    handler: *const kolo_stream_handler,
    user: *mut c_void,
    out: *mut kolo_pipe,
    out_other: *mut c_int,
) -> c_int {
    on_unix!(r#loop, |lp| {
        use std::os::fd::IntoRawFd;
        let direction = self::direction(direction)?;
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, out_other, handler) = unsafe {
            (
                Out::new(out)?,
                Out::new(out_other)?,
                adapter(lp, handler, user)?,
            )
        };
        let (pipe, other) = Pipe::half_boxed(&lp.inner, direction, handler)?;
        out.set(pipe.id().to_raw());
        out_other.set(other.into_raw_fd());
        Ok(())
    })
}

/// Opens a named pipe (fifo(7)), which must exist; `direction` is a kolo_direction.
///
/// Reading, it opens at once, also before there is a writer; its on_end comes when the last writer
/// has gone. To serve writers that come and go, keep a writing end open too.
///
/// Errors: KOLO_EINVAL for what is no named pipe, for a direction that there is not, if `path`,
/// `handler` or `out` is NULL, and for a handler of a wrong size; KOLO_ENXIO for writing while there
/// is no reader; KOLO_ENOENT, KOLO_EACCES and their like for the path; the others as for
/// kolo_pipe_pair.
#[no_mangle]
pub unsafe extern "C" fn kolo_pipe_open(
    r#loop: *mut kolo_loop,
    path: *const c_char,
    direction: c_int,
    handler: *const kolo_stream_handler,
    user: *mut c_void,
    out: *mut kolo_pipe,
) -> c_int {
    on_unix!(r#loop, |lp| {
        use std::os::unix::ffi::OsStrExt;
        let direction = self::direction(direction)?;
        if path.is_null() {
            return Err(Code::EINVAL.into());
        }
        // SAFETY: the caller's pointers, as the header asks for them; the text ends with a zero.
        let (out, path, handler) = unsafe {
            (
                Out::new(out)?,
                std::ffi::CStr::from_ptr(path),
                adapter(lp, handler, user)?,
            )
        };
        let path = std::ffi::OsStr::from_bytes(path.to_bytes());
        let pipe = Pipe::open_boxed(&lp.inner, path.as_ref(), direction, handler)?;
        out.set(pipe.id().to_raw());
        Ok(())
    })
}

/// Takes over a descriptor from elsewhere: a pipe's end, a terminal, a stream socket. Which way it
/// carries bytes is what it was opened for. From success on it is kolo's, and kolo closes it; after
/// an error it is still the caller's. The open file description does not block from then on, for
/// whoever shares it, until the handle closes or releases it. (A socket stays so.)
///
/// Errors: KOLO_EPERM for what cannot be waited for, because it is always ready: regular files,
/// folders, disks, and, if it is to be read, devices such as /dev/null; KOLO_EPROTOTYPE for a socket
/// that keeps messages apart; KOLO_EBADF for a descriptor that is not open; KOLO_EEXIST for one that a
/// handle has already (see kolo_socket); KOLO_EINVAL if `handler` or `out` is NULL, and for a handler
/// of a wrong size; KOLO_ENOBUFS if the loop holds as many handles as it can; KOLO_ECANCELED while the
/// loop is being freed; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_pipe_adopt(
    r#loop: *mut kolo_loop,
    descriptor: c_int,
    handler: *const kolo_stream_handler,
    user: *mut c_void,
    out: *mut kolo_pipe,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, handler) = unsafe { (Out::new(out)?, adapter(lp, handler, user)?) };
        let descriptor = sys::Held::adopt(sys::take_descriptor(descriptor)?)?;
        let adopted = Pipe::adopt_boxed(&lp.inner, descriptor, handler);
        out.set(adopted.map_err(give_back)?.id().to_raw());
        Ok(())
    })
}

/// Opens what a descriptor of somebody else's refers to, such as 0 or 1, once more for kolo. The
/// descriptor stays its owner's.
///
/// On Linux an anonymous pipe or a terminal gets an open file description of kolo's own (through
/// /proc/self/fd), and nobody is disturbed. Otherwise, also where /proc is not mounted or the
/// permission is lacking, it is a duplicate, and what is said of kolo_pipe_adopt holds.
///
/// Errors: as for kolo_pipe_adopt but KOLO_EEXIST; KOLO_EMFILE if descriptors are short.
#[no_mangle]
pub unsafe extern "C" fn kolo_pipe_reopen(
    r#loop: *mut kolo_loop,
    descriptor: c_int,
    handler: *const kolo_stream_handler,
    user: *mut c_void,
    out: *mut kolo_pipe,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointers, as the header asks for them.
        let (out, handler) = unsafe { (Out::new(out)?, adapter(lp, handler, user)?) };
        if descriptor < 0 || !sys::is_open(descriptor) {
            return Err(Code::EBADF.into());
        }
        let reopened = Pipe::reopen_boxed(&lp.inner, sys::borrow(descriptor), handler);
        let pipe = reopened.map_err(|(error, _twin)| error)?;
        out.set(pipe.id().to_raw());
        Ok(())
    })
}

/// Hands the descriptor out: from now on it is the caller's to close. The handle closes, and its
/// on_close comes as ever. Bytes that were not read yet are still in it. It blocks if it did when it
/// came.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_EBUSY while writes are queued; KOLO_ENOTCONN after a
/// shutdown that closed it; KOLO_ENOTSUP on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_pipe_release(
    r#loop: *mut kolo_loop,
    pipe: kolo_pipe,
    out: *mut c_int,
) -> c_int {
    on_unix!(r#loop, |lp| {
        use std::os::fd::IntoRawFd;
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        let released = self::pipe(pipe)?.release(&lp.inner)?;
        out.set(released.into_raw_fd());
        Ok(())
    })
}

/// The descriptor, to look at, or to set options that kolo does not have. It is still kolo's: do not
/// close it, and leave it non-blocking.
///
/// Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTCONN after a shutdown that closed it; KOLO_ENOTSUP
/// on Windows.
#[no_mangle]
pub unsafe extern "C" fn kolo_pipe_descriptor(
    r#loop: *mut kolo_loop,
    pipe: kolo_pipe,
    out: *mut c_int,
) -> c_int {
    on_unix!(r#loop, |lp| {
        // SAFETY: the caller's pointer, as the header asks for it.
        let out = unsafe { Out::new(out)? };
        out.set(self::pipe(pipe)?.raw_descriptor(&lp.inner)?);
        Ok(())
    })
}
