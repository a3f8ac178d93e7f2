//! Streams over descriptors that are there already.

use std::os::fd::{AsRawFd, OwnedFd};

use super::{Stream, StreamHandler, StreamState};
use crate::driver::{Driver, Interest, Object, Source, State};
use crate::error::{Code, Error};
use crate::event_loop::{Core, Loop};
use crate::handles::{Body, Id, Kind};
use crate::sys::{self, File, Held};

/// Why there is no stream, and the descriptor, which is still its owner's. (It is `None` only when
/// the loop has ended meanwhile.)
pub(crate) type Unopened = (Error, Option<OwnedFd>);

/// A stream over an open descriptor: a pipe's end, a terminal, a socket. From success on it is
/// kolo's to close.
///
/// `ways` says whether it carries bytes to us (`READABLE`), from us (`WRITABLE`) or both. A stream
/// of one way is one whose other way has ended: reading it is `ENOTCONN`, writing it `EPIPE`.
/// `sole`: nobody else uses the open file description, so that whether it blocks is kolo's alone;
/// otherwise that is put back when the stream closes.
///
/// Whatever the kind, a socket is received from and sent to as one, so that its peer's going is no
/// signal; everything else is read and written.
///
/// Errors: [`Code::EPERM`] for what is always ready and cannot be waited for (regular files,
/// folders, block devices; also for the few character devices of that
/// kind, such as `/dev/null`, if it is to be read); [`Code::EPROTOTYPE`] for a socket that keeps
/// messages apart; [`Code::ENOBUFS`], [`Code::ECANCELED`] as for every new handle.
pub(crate) fn open_descriptor(
    lp: &Loop,
    descriptor: impl Into<Held<OwnedFd>>,
    kind: Kind,
    ways: Interest,
    sole: bool,
    handler: Box<dyn StreamHandler>,
) -> std::result::Result<Stream, Unopened> {
    let descriptor = descriptor.into();
    if let Err(error) = lp.needs_kernel().and_then(|()| lp.can_insert()) {
        return Err((error, Some(descriptor.into_inner())));
    }
    let mut source = source_of(descriptor, sole)?;
    source.state.set(State::SHARED, !sole);
    let mut state = StreamState::new(source, kind);
    state.limit_to(
        ways.contains(Interest::READABLE),
        ways.contains(Interest::WRITABLE),
    );
    let stream = match lp.insert(Body::Stream(state)) {
        Ok(id) => Stream(id),
        Err(error) => return Err((error, None)),
    };
    match stream.attach_boxed(lp, handler) {
        Ok(()) => Ok(stream),
        Err(error) => Err((error, withdraw(lp, stream.0))),
    }
}

fn source_of(descriptor: Held<OwnedFd>, sole: bool) -> std::result::Result<Source, Unopened> {
    let what = match sys::descriptor_type(descriptor.as_raw_fd()) {
        Ok(what) => what,
        Err(error) => return Err((error.into(), Some(descriptor.into_inner()))),
    };
    match what {
        sys::DescriptorType::Unwaitable => Err((Code::EPERM.into(), Some(descriptor.into_inner()))),
        sys::DescriptorType::Socket => {
            let socket = descriptor.map(socket2::Socket::from);
            let ready = socket.r#type().map_err(Error::from).and_then(|kind| {
                if kind != socket2::Type::STREAM {
                    return Err(Code::EPROTOTYPE.into());
                }
                Ok(socket.set_nonblocking(true)?)
            });
            match ready {
                Ok(()) => Ok(Source::of_local(socket)),
                Err(error) => Err((error, Some(socket.into_inner().into()))),
            }
        }
        sys::DescriptorType::Pipe | sys::DescriptorType::Other => {
            Ok(Source::of_file(file(descriptor, sole)?))
        }
    }
}

fn file(descriptor: Held<OwnedFd>, sole: bool) -> std::result::Result<Held<File>, Unopened> {
    let opened = descriptor.try_map(if sole { File::sole } else { File::shared });
    opened.map_err(|(error, descriptor)| (error.into(), Some(descriptor)))
}

/// Takes back a stream that could not be opened after all: nobody hears of it.
pub(crate) fn withdraw(lp: &Loop, id: Id) -> Option<OwnedFd> {
    let (object, entry) = {
        let mut core = lp.core.borrow_mut();
        let Core {
            handles, driver, ..
        } = &mut *core;
        let object = match handles.get_mut(id).map(|entry| &mut entry.body) {
            Ok(Body::Stream(stream)) => driver.release(id, &mut stream.source),
            _ => Object::None,
        };
        (object, handles.remove(id))
    };
    // The handler's destructor may call the loop.
    drop(entry);
    object.into_descriptor()
}
