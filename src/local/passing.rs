//! Descriptors, and whole handles, that travel between processes beside a stream's bytes (unix(7),
//! `SCM_RIGHTS`).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use socket2::Socket;

#[cfg(feature = "capi")]
use super::listener::{LocalListenOptions, LocalListener};
use super::stream::{state, LocalStream};
use crate::accept::listens;
#[cfg(feature = "capi")]
use crate::accept::BoxedAcceptor;
use crate::driver::{Buffer, Driver, Object, Received, Sources, State};
use crate::error::{Code, Error, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::{Handles, Id, Kind};
use crate::stream::{
    open_descriptor, Flow, Payload, Payloads, Stream, StreamHandler, WriteCallback, WriteId,
};
use crate::sys::{self, DescriptorType};

/// Received descriptors that may wait on one stream to be taken: four messages full. More are
/// closed, and the handler is told.
const WAITING_MAX: usize = 4 * sys::DESCRIPTORS_MAX;

impl LocalStream {
    /// Writes bytes and, with the first of them, passes descriptors to the peer: at least one, at
    /// most 253. It takes its turn among the other writes. The descriptors are duplicated by this
    /// call, so the caller's stay its own and may be closed; the duplicates are closed once they
    /// are sent, or the write is cancelled.
    ///
    /// `done` and the name of the write are as with [`Stream::write_owned`].
    ///
    /// Errors: [`Code::EINVAL`] for no bytes, no descriptors or too many; [`Code::EMFILE`] when
    /// descriptors are short; the others as for [`Stream::write`]. Then nothing is taken.
    /// [`Code::ETOOMANYREFS`] (too many descriptors of this user's are on their way, Linux) breaks
    /// the connection.
    pub fn write_with_descriptors(
        self,
        lp: &Loop,
        payload: impl Into<Payload>,
        descriptors: &[BorrowedFd<'_>],
        done: impl FnOnce(&Loop, Stream, Result<()>) + 'static,
    ) -> Result<(Flow, WriteId)> {
        if descriptors.len() > sys::DESCRIPTORS_MAX {
            return Err(Code::EINVAL.into());
        }
        let duplicates = descriptors.iter().map(|one| one.try_clone_to_owned());
        let duplicates = duplicates.collect::<std::io::Result<Vec<OwnedFd>>>()?;
        self.write_passing(lp, payload.into(), duplicates, Some(Box::new(done)))
    }

    pub(crate) fn write_passing(
        self,
        lp: &Loop,
        payload: Payload,
        descriptors: Vec<OwnedFd>,
        done: Option<WriteCallback>,
    ) -> Result<(Flow, WriteId)> {
        let payloads = Payloads::One(payload);
        let fits = (1..=sys::DESCRIPTORS_MAX).contains(&descriptors.len());
        if payloads.length() == 0 || !fits {
            return Err(Code::EINVAL.into());
        }
        state(&mut lp.core()?.handles, self)?;
        self.write_all(lp, payloads, Some(descriptors.into()), done)
    }

    /// Writes bytes and passes a handle's descriptor with them: a TCP connection or listener, a UDP
    /// socket, a Unix-domain stream or listener, a pipe, of the same loop. The peer makes a handle
    /// of it again, with [`LocalStream::take_stream`] if it is kolo.
    ///
    /// The handle itself stays as it is, and shares its connection with the peer: usually the next
    /// call is to close it, which the connection outlives. (Its shutdown and its reset it would
    /// not: they are the connection's.) What this side has read of it is not passed; what it has
    /// written is sent first, as far as the system takes it.
    ///
    /// Errors: [`Code::EINVAL`] for a handle without a descriptor of kolo's, and for no bytes;
    /// [`Code::EBUSY`] while it has writes queued; the others as for
    /// [`LocalStream::write_with_descriptors`].
    pub fn send_handle(
        self,
        lp: &Loop,
        handle: impl Into<Id>,
        payload: impl Into<Payload>,
        done: impl FnOnce(&Loop, Stream, Result<()>) + 'static,
    ) -> Result<(Flow, WriteId)> {
        self.send_handle_boxed(lp, handle.into(), payload.into(), Some(Box::new(done)))
    }

    pub(crate) fn send_handle_boxed(
        self,
        lp: &Loop,
        handle: Id,
        payload: Payload,
        done: Option<WriteCallback>,
    ) -> Result<(Flow, WriteId)> {
        let duplicate = {
            let mut core = lp.core()?;
            state(&mut core.handles, self)?;
            duplicate(&mut core, handle)?
        };
        self.write_passing(lp, payload, vec![duplicate], done)
    }

    /// Takes descriptors that the peer passes, from now on, or no more. A stream that does not has
    /// them dropped by the system. [`StreamHandler::on_descriptors`] tells of them, before the
    /// bytes that they came with; then they wait to be taken.
    ///
    /// Of a peer that is not trusted, mind that each descriptor counts against the limit of this
    /// process. At most 1012 wait on one stream; more are closed.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn receive_descriptors(self, lp: &Loop, on: bool) -> Result<()> {
        let mut core = lp.core()?;
        let stream = state(&mut core.handles, self)?;
        stream.source.state.set(State::CONTROL, on);
        Ok(())
    }

    /// How many received descriptors wait to be taken.
    ///
    /// Errors: [`Code::EBADF`] for a closed stream.
    pub fn descriptors_waiting(self, lp: &Loop) -> Result<usize> {
        let mut core = lp.core()?;
        state(&mut core.handles, self)?;
        let waiting = core.local.received.get(&self.id());
        Ok(waiting.map_or(0, |waiting| waiting.len()))
    }

    /// Takes the first received descriptor that waits; programs that the process starts do not
    /// inherit it. What is not taken is closed with the stream.
    ///
    /// Errors: [`Code::ENOENT`] when none waits, [`Code::EBADF`] for a closed stream.
    pub fn take_descriptor(self, lp: &Loop) -> Result<OwnedFd> {
        let mut core = lp.core()?;
        state(&mut core.handles, self)?;
        let received = &mut core.local.received;
        let waiting = received.get_mut(&self.id()).ok_or(Code::ENOENT)?;
        let first = waiting.pop_front();
        if waiting.is_empty() {
            received.remove(&self.id());
        }
        first.ok_or(Code::ENOENT.into())
    }

    /// What kind of handle the first descriptor that waits would be: [`Kind::Tcp`],
    /// [`Kind::Listener`], [`Kind::Udp`], [`Kind::Local`], [`Kind::LocalListener`], [`Kind::Pipe`];
    /// `None`: no handle of kolo's, such as a file's.
    ///
    /// Errors: [`Code::ENOENT`] when none waits, [`Code::EBADF`] for a closed stream.
    pub fn next_kind(self, lp: &Loop) -> Result<Option<Kind>> {
        let mut core = lp.core()?;
        state(&mut core.handles, self)?;
        let waiting = core.local.received.get(&self.id());
        let first = waiting.and_then(|waiting| waiting.front());
        Ok(kind_of(first.ok_or(Code::ENOENT)?))
    }

    /// Takes the first descriptor that waits and opens it as the stream that it is: a TCP
    /// connection, a Unix-domain stream, or a pipe. [`Loop::kind`] tells which.
    ///
    /// For listeners and datagrams take the descriptor and adopt it.
    ///
    /// Errors: [`Code::ENOENT`] when none waits; [`Code::EINVAL`] when it is no stream, and then it
    /// still waits; those of [`TcpStream::adopt`](crate::TcpStream::adopt).
    pub fn take_stream(self, lp: &Loop, handler: impl StreamHandler) -> Result<Stream> {
        self.take_stream_boxed(lp, Box::new(handler))
    }

    pub(crate) fn take_stream_boxed(
        self,
        lp: &Loop,
        handler: Box<dyn StreamHandler>,
    ) -> Result<Stream> {
        let kind = self.next_kind(lp)?;
        let first = || self.take_descriptor(lp);
        let opened = match kind {
            #[cfg(feature = "net")]
            Some(Kind::Tcp) => {
                let adopted =
                    crate::TcpStream::adopt_boxed(lp, Socket::from(first()?).into(), handler);
                match adopted {
                    Ok(tcp) => Ok(tcp.into()),
                    Err((error, socket)) => Err((error, socket.map(OwnedFd::from))),
                }
            }
            Some(Kind::Local) => {
                let adopted = LocalStream::adopt_boxed(lp, Socket::from(first()?).into(), handler);
                match adopted {
                    Ok(local) => Ok(local.into()),
                    Err((error, socket)) => Err((error, socket.map(OwnedFd::from))),
                }
            }
            Some(Kind::Pipe) => {
                let descriptor = first()?;
                match super::pipe::ways(descriptor.as_raw_fd()) {
                    Ok(ways) => open_descriptor(lp, descriptor, Kind::Pipe, ways, false, handler),
                    Err(error) => Err((error, Some(descriptor))),
                }
            }
            _ => return Err(Code::EINVAL.into()),
        };
        opened.map_err(|failed| self.put_back(lp, failed))
    }

    /// Takes the first descriptor that waits and opens it as the listener that it is.
    #[cfg(feature = "capi")]
    pub(crate) fn take_listener_boxed(self, lp: &Loop, handler: BoxedAcceptor) -> Result<Id> {
        let kind = self.next_kind(lp)?;
        let first = || Ok::<_, Error>(Socket::from(self.take_descriptor(lp)?));
        let opened = match kind {
            #[cfg(feature = "net")]
            Some(Kind::Listener) => {
                let options = crate::ListenOptions::default();
                let adopted =
                    crate::TcpListener::adopt_boxed(lp, first()?.into(), &options, handler);
                adopted.map(|listener| listener.id())
            }
            Some(Kind::LocalListener) => {
                let options = LocalListenOptions::default();
                let adopted = LocalListener::adopt_boxed(lp, first()?.into(), &options, handler);
                adopted.map(|listener| listener.id())
            }
            _ => return Err(Code::EINVAL.into()),
        };
        opened.map_err(|(error, socket)| self.put_back(lp, (error, socket.map(OwnedFd::from))))
    }

    /// A descriptor that could not be opened waits again.
    fn put_back(self, lp: &Loop, (error, descriptor): (Error, Option<OwnedFd>)) -> Error {
        if let (Some(descriptor), Ok(mut core)) = (descriptor, lp.core()) {
            if state(&mut core.handles, self).is_ok() {
                let waiting = core.local.received.entry(self.id()).or_default();
                waiting.push_front(descriptor);
            }
        }
        error
    }
}

/// A descriptor like that of a handle of this loop.
fn duplicate(core: &mut Core, handle: Id) -> Result<OwnedFd> {
    core.handles.get_mut(handle)?;
    if core.gathered.owner() == Some(handle) {
        crate::stream::flush(core, handle);
    }
    if queued(&mut core.handles, handle) > 0 {
        return Err(Code::EBUSY.into());
    }
    let source = core.handles.source(handle).ok_or(Code::EINVAL)?;
    let own = !matches!(source.object, Object::None | Object::Foreign(_));
    let at = source.descriptor().filter(|_| own).ok_or(Code::EINVAL)?;
    let duplicate = sys::borrow(at).try_clone_to_owned()?;
    source.state.insert(State::SHARED);
    Ok(duplicate)
}

fn queued(handles: &mut Handles, handle: Id) -> usize {
    match handles.get_mut(handle).map(|entry| &entry.body) {
        Ok(crate::handles::Body::Stream(stream)) => stream.queued(),
        _ => 0,
    }
}

/// What handle a descriptor would make.
fn kind_of(descriptor: &OwnedFd) -> Option<Kind> {
    match sys::descriptor_type(descriptor.as_raw_fd()).ok()? {
        DescriptorType::Pipe => return Some(Kind::Pipe),
        DescriptorType::Socket => {}
        DescriptorType::Other | DescriptorType::Unwaitable => return None,
    }
    let socket = socket2::SockRef::from(descriptor);
    let local = socket.local_addr().ok()?;
    let listening = listens(&socket).is_ok();
    let stream = match socket.r#type().ok()? {
        socket2::Type::STREAM => true,
        socket2::Type::DGRAM => false,
        _ => return None,
    };
    match (local.is_unix(), stream, listening) {
        (true, true, true) => Some(Kind::LocalListener),
        (true, true, false) => Some(Kind::Local),
        (false, true, true) if local.as_socket().is_some() => Some(Kind::Listener),
        (false, true, false) if local.as_socket().is_some() => Some(Kind::Tcp),
        (false, false, _) if local.as_socket().is_some() => Some(Kind::Udp),
        _ => None,
    }
}

/// Puts what came with the last bytes to what waits; how many wait then, and whether some were
/// lost. `None`: nothing came.
fn keep_received(core: &mut Core, id: Id) -> Option<(usize, bool)> {
    let passed = core.driver.take_passed();
    if passed.descriptors.is_empty() && !passed.lost {
        return None;
    }
    let waiting = core.local.received.entry(id).or_default();
    let room = WAITING_MAX.saturating_sub(waiting.len());
    let lost = passed.lost || passed.descriptors.len() > room;
    waiting.extend(passed.descriptors.into_iter().take(room));
    Some((waiting.len(), lost))
}

/// While a stream is told of descriptors: the bytes they came with are not in its socket any more.
struct Telling<'a>(&'a Loop);

impl Telling<'_> {
    fn of(lp: &Loop, id: Id) -> Telling<'_> {
        lp.core.borrow_mut().local.telling = Some(id);
        Telling(lp)
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.core.borrow_mut().local.telling = None;
    }
}

impl Loop {
    /// Bytes came to a stream that takes descriptors: these are told of first.
    pub(crate) fn stream_received_passed(&self, id: Id, received: Received, buffer: &Buffer) {
        /// If the callback unwinds, the bytes come in the next run.
        struct Bytes<'a>(&'a Loop, Id, Option<Received>);
        impl Drop for Bytes<'_> {
            fn drop(&mut self) {
                if let Some(received) = self.2.take() {
                    self.0.core.borrow_mut().driver.give_back(self.1, received);
                }
            }
        }
        let mut bytes = Bytes(self, id, Some(received));
        self.tell_descriptors(id);
        let Some(received) = bytes.2.take() else {
            return;
        };
        drop(bytes);
        if self.hears_bytes(id) {
            self.stream_bytes(id, received.bytes(buffer));
        }
    }

    /// Tells of the descriptors that came with the last bytes, if any did.
    pub(crate) fn tell_descriptors(&self, id: Id) {
        if let Some((waiting, lost)) = self.came_with_bytes(id) {
            let _telling = Telling::of(self, id);
            self.tell(id, |lp, handler| {
                handler.on_descriptors(lp, Stream(id), waiting, lost);
            });
        }
    }

    /// How many descriptors wait after the last bytes brought some, and whether some were lost.
    pub(crate) fn came_with_bytes(&self, id: Id) -> Option<(usize, bool)> {
        keep_received(&mut self.core.borrow_mut(), id)
    }

    /// As [`Loop::tell_descriptors`], for a handler that is out, since bytes came into its own memory.
    pub(crate) fn tell_passed(
        &self,
        id: Id,
        handler: &mut Box<dyn StreamHandler>,
        (waiting, lost): (usize, bool),
    ) {
        let _telling = Telling::of(self, id);
        handler.on_descriptors(self, Stream(id), waiting, lost);
    }
}
