//! Accepting connections, whatever listens, and what happens when descriptors run out.

use std::fs::File;
use std::time::Duration;

use socket2::Socket;

use crate::driver::{Driver, Object, Source};
use crate::error::{Code, Error, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::{Body, Handles, Id, Kind};
use crate::stream::StreamState;
use crate::sys;
use crate::timers::TimerKey;

/// What a listener does when a connection cannot be accepted because descriptors or memory are
/// short. In both cases `on_error` is told, accepting pauses, and is tried
/// again after `retry_min` of the listener's options, then twice that, up
/// to `retry_max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum AcceptPolicy {
    /// Those who wait stay in the backlog: they are served when descriptors are free again.
    #[default]
    Wait = 0,
    /// Those who wait are reset at once, by a descriptor held in reserve: they can go elsewhere.
    Reject = 1,
}

/// What every listener's options say of accepting.
#[derive(Clone)]
pub(crate) struct AcceptOptions {
    pub per_turn: u32,
    pub policy: AcceptPolicy,
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// Accepted sockets get `TCP_NODELAY` where they do not inherit it.
    #[cfg_attr(
        any(target_os = "linux", target_os = "android", target_os = "freebsd"),
        allow(dead_code)
    )]
    pub nodelay: bool,
}

/// A listener's handler, whatever the kind of its connections.
pub(crate) trait Acceptor {
    fn accepted(&mut self, lp: &Loop, listener: Id, stream: Id);
    fn failed(&mut self, lp: &Loop, listener: Id, error: Error);
    fn closed(&mut self, lp: &Loop, listener: Id);
}

pub(crate) type BoxedAcceptor = Box<dyn Acceptor>;

pub(crate) struct ListenerState {
    pub source: Source,
    handler: Option<BoxedAcceptor>,
    options: AcceptOptions,
    kind: Kind,
    paused: bool,
    /// The next pause, while descriptors are short.
    retry: Duration,
    /// Accepting has failed since the last connection: told already.
    short: bool,
    /// The descriptor in reserve.
    spare: Option<File>,
    /// What it listens at in the file system.
    #[cfg(all(unix, feature = "local"))]
    pub file: Option<crate::local::SocketFile>,
}

impl ListenerState {
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn into_handler(self) -> Option<BoxedAcceptor> {
        self.handler
    }
}

fn state(handles: &mut Handles, id: Id) -> Result<&mut ListenerState> {
    match &mut handles.get_mut(id)?.body {
        Body::Listener(listener) => Ok(listener),
        _ => Err(Code::EBADF.into()),
    }
}

/// The state of a listener of this kind.
pub(crate) fn state_of(handles: &mut Handles, id: Id, kind: Kind) -> Result<&mut ListenerState> {
    let listener = state(handles, id)?;
    match listener.kind == kind {
        true => Ok(listener),
        false => Err(Code::EBADF.into()),
    }
}

/// Accepts no more until [`resume`].
pub(crate) fn pause(lp: &Loop, id: Id) -> Result<()> {
    let mut core = lp.core()?;
    let core = &mut *core;
    let listener = state(&mut core.handles, id)?;
    listener.paused = true;
    core.driver.accept_stop(id, &mut listener.source);
    let timer = core.handles.get_mut(id)?.timer;
    if timer != TimerKey::NONE {
        core.wheel.disarm(timer);
    }
    core.handles.set_active(id, false);
    Ok(())
}

/// Accepts again.
pub(crate) fn resume(lp: &Loop, id: Id) -> Result<()> {
    let mut core = lp.core()?;
    state(&mut core.handles, id)?.paused = false;
    accept_on(&mut core, id)
}

fn slot(body: &mut Body) -> Option<&mut Option<BoxedAcceptor>> {
    match body {
        Body::Listener(listener) => Some(&mut listener.handler),
        _ => None,
    }
}

/// An error unless the socket listens.
pub(crate) fn listens(socket: &Socket) -> Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    if !socket.is_listener()? {
        return Err(Code::EINVAL.into());
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    socket.local_addr()?;
    Ok(())
}

/// A new listener over a socket that listens. The socket comes back with an error.
pub(crate) fn open(
    lp: &Loop,
    source: Source,
    kind: Kind,
    options: AcceptOptions,
    handler: BoxedAcceptor,
) -> std::result::Result<Id, (Error, Option<Socket>)> {
    if let Err(error) = lp.can_insert() {
        return Err((error, source.object.into_socket()));
    }
    let spare = match options.policy {
        AcceptPolicy::Wait => None,
        // A simulation can reset them without a descriptor.
        AcceptPolicy::Reject if lp.is_simulated() => None,
        AcceptPolicy::Reject => match reserve() {
            Ok(spare) => Some(spare),
            Err(error) => return Err((error, source.object.into_socket())),
        },
    };
    let state = ListenerState {
        source,
        handler: Some(handler),
        kind,
        paused: false,
        retry: options.retry_min,
        options,
        short: false,
        spare,
        #[cfg(all(unix, feature = "local"))]
        file: None,
    };
    let id = lp
        .insert(Body::Listener(Box::new(state)))
        .map_err(|error| (error, None))?;
    let begun = lp.core().and_then(|mut core| accept_on(&mut core, id));
    match begun {
        Ok(()) => Ok(id),
        Err(error) => {
            let mut core = lp.core.borrow_mut();
            let Core {
                handles, driver, ..
            } = &mut *core;
            let listener = self::state(handles, id).ok();
            let object = listener.map(|listener| driver.release(id, &mut listener.source));
            let socket = object.and_then(Object::into_socket);
            let entry = handles.remove(id);
            drop(core);
            drop(entry);
            Err((error, socket))
        }
    }
}

/// Something that holds a descriptor and can be had everywhere.
fn reserve() -> Result<File> {
    let name = if cfg!(windows) { "NUL" } else { "/dev/null" };
    Ok(File::open(name)?)
}

fn accept_on(core: &mut Core, id: Id) -> Result<()> {
    let listener = state(&mut core.handles, id)?;
    let per_turn = listener.options.per_turn;
    core.driver
        .accept_start(id, &mut listener.source, per_turn)?;
    core.handles.set_active(id, true);
    Ok(())
}

impl Loop {
    pub(crate) fn listener_accepted(&self, id: Id, object: Object) {
        let stream;
        let handler = {
            let mut core = self.core.borrow_mut();
            let Ok(listener) = state(&mut core.handles, id) else {
                return core.driver.discard(object);
            };
            listener.short = false;
            listener.retry = listener.options.retry_min;
            // Where accepted sockets do not inherit it (Linux and the BSDs do).
            #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
            if let (true, Object::Socket(socket)) = (listener.options.nodelay, &object) {
                // Only a connection that is broken already refuses; reading will tell.
                let _ = socket.set_tcp_nodelay(true);
            }
            stream = match (listener.kind, object) {
                (Kind::LocalListener, Object::Socket(socket)) => {
                    StreamState::new(Source::of_local(socket), Kind::Local)
                }
                (_, object) => StreamState::new(Source::new(object), Kind::Tcp),
            };
            listener.handler.take()
        };
        let stream = self.insert(Body::Stream(stream));
        match stream {
            Ok(stream) => {
                let unclaimed = Unclaimed(self, stream);
                self.call_lent(id, handler, slot, |lp, handler| {
                    handler.accepted(lp, id, stream);
                });
                drop(unclaimed);
            }
            // As many handles as a loop can have: this connection is closed, and it is told.
            Err(error) => {
                self.call_lent(id, handler, slot, |lp, handler| {
                    handler.failed(lp, id, error);
                });
            }
        }
    }

    /// Accepting failed; the driver has stopped it.
    pub(crate) fn listener_failed(&self, id: Id, error: Error) {
        let tells = {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            let Ok(listener) = state(&mut core.handles, id) else {
                return;
            };
            let tells = !std::mem::replace(&mut listener.short, true);
            let pause = listener.retry;
            listener.retry = (pause * 2).min(listener.options.retry_max);
            if listener.spare.is_some() {
                reject_waiting(listener);
            }
            #[cfg(feature = "sim")]
            if let (AcceptPolicy::Reject, Some(simulated)) =
                (listener.options.policy, core.driver.simulated())
            {
                simulated.reject_waiting(&listener.source, listener.options.per_turn);
            }
            retry_after(core, id, pause);
            tells
        };
        if tells {
            let handler = self.core.borrow_mut().handles.lend(id, slot);
            self.call_lent(id, handler, slot, |lp, handler| {
                handler.failed(lp, id, error);
            });
        }
    }

    /// The pause after a failure is over.
    pub(crate) fn listener_retry(&self, id: Id) {
        let mut core = self.core.borrow_mut();
        let Ok(listener) = state(&mut core.handles, id) else {
            return;
        };
        if listener.paused {
            return;
        }
        let real = !matches!(&listener.source.object, object if object.is_simulated());
        if real && listener.options.policy == AcceptPolicy::Reject && listener.spare.is_none() {
            listener.spare = reserve().ok();
        }
        let pause = listener.retry;
        if accept_on(&mut core, id).is_err() {
            // The selector is short of memory: as before, but later.
            retry_after(&mut core, id, pause);
        }
    }
}

fn retry_after(core: &mut Core, id: Id, pause: Duration) {
    let now = core.now;
    let Ok(entry) = core.handles.get_mut(id) else {
        return;
    };
    if entry.timer == TimerKey::NONE {
        entry.timer = core.wheel.add(id);
    }
    core.wheel.arm(
        entry.timer,
        now.saturating_add(crate::timer::nanoseconds(pause)),
    );
}

/// Accepts with the reserve descriptor, and resets, as many as one turn may accept.
fn reject_waiting(listener: &mut ListenerState) {
    for _ in 0..listener.options.per_turn {
        listener.spare = None;
        let accepted = listener.source.socket().map(sys::accept);
        let Ok(Ok(socket)) = accepted else { break };
        // A reset says more than an end: that the request was not served.
        let _ = socket.set_linger(Some(Duration::ZERO));
    }
    listener.spare = reserve().ok();
}

/// Closes an accepted stream that got no handler, also when `on_accept` unwinds.
pub(crate) struct Unclaimed<'a>(pub &'a Loop, pub Id);

impl Drop for Unclaimed<'_> {
    fn drop(&mut self) {
        let mut core = self.0.core.borrow_mut();
        let unclaimed = match core.handles.get_mut(self.1).map(|entry| &entry.body) {
            Ok(Body::Stream(stream)) => !stream.is_attached(),
            _ => false,
        };
        if unclaimed {
            // It exists: that was just seen.
            let _ = crate::event_loop::close(&mut core, self.1);
        }
    }
}
