//! Connecting to whichever of several addresses answers first.
//!
//! The stream is there from the start, without a socket. Each attempt is a handle of the loop's own; the one that connects
//! first gives its socket to the stream, the others are closed. One timer, the stream's own, serves the limit on the whole
//! and the delay between attempts.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::race::Race;
use super::tcp::{source_for, ConnectOptions, TcpStream};
use crate::driver::{Driver, Object, Source};
use crate::error::{Code, Error, Result};
use crate::event_loop::{Core, Deferred, Loop};
use crate::handles::{Body, Id, Kind};
#[cfg(feature = "dns")]
use crate::names::{Lookup, ResolveOptions, Resolved};
#[cfg(feature = "dns")]
use crate::pool::WorkClass;
#[cfg(feature = "dns")]
use crate::request::{Hold, Request};
use crate::stream::{Stream, StreamHandler, StreamState};
use crate::timers::TimerKey;

/// An attempt to reach one of a stream's addresses.
pub(crate) struct Attempt {
    pub source: Source,
    stream: Id,
    address: SocketAddr,
}

/// What a stream is up to that has no socket yet.
pub(crate) struct Connecting {
    #[cfg(feature = "dns")]
    pub lookup: Option<Request>,
    race: Race<Id>,
    options: ConnectOptions,
    /// When the whole has taken too long.
    deadline: Option<u64>,
    /// The handler wants to hear of attempts.
    watched: bool,
}

/// An address that is tried, or why it could not be connected to.
pub(crate) struct AttemptNews {
    address: SocketAddr,
    failed: Option<Error>,
}

impl Connecting {
    pub fn describe(&self, line: &mut String) {
        use std::fmt::Write;
        #[cfg(feature = "dns")]
        if self.lookup.is_some() {
            line.push_str(" resolving");
        }
        let _ = write!(line, " attempts={}", self.race.running().len());
    }
}

/// A stream that is connecting to nowhere yet: [`race`] says where.
pub(super) fn begin(
    lp: &Loop,
    options: &ConnectOptions,
    handler: Box<dyn StreamHandler>,
) -> Result<TcpStream> {
    options.check()?;
    let watched = handler.watches_attempts();
    let delay = options.attempt_delay.map(crate::timer::nanoseconds);
    let mut state = StreamState::new(Source::new(Object::None), Kind::Tcp);
    state.begin_connecting();
    let tcp = TcpStream::from_id(lp.insert(Body::Stream(state))?);
    tcp.attach_boxed(lp, handler)?;
    let mut core = lp.core()?;
    let now = lp.fresh_clock(&mut core);
    core.handles.set_active(tcp.id(), true);
    let timeout = options.timeout.map(crate::timer::nanoseconds);
    let connecting = Connecting {
        #[cfg(feature = "dns")]
        lookup: None,
        race: Race::new(delay.unwrap_or(ATTEMPT_DELAY)),
        options: options.clone(),
        deadline: timeout.map(|timeout| now.saturating_add(timeout)),
        watched,
    };
    core.connecting.insert(tcp.id(), Box::new(connecting));
    arm(&mut core, tcp.id());
    Ok(tcp)
}

/// The delay before the next attempt that RFC 8305, 8 recommends.
const ATTEMPT_DELAY: u64 = 250_000_000;

/// These are its addresses: tries them.
pub(super) fn race(lp: &Loop, tcp: TcpStream, addresses: &[SocketAddr]) {
    let mut core = lp.core.borrow_mut();
    let now = lp.fresh_clock(&mut core);
    let Some(connecting) = core.connecting.get_mut(&tcp.id()) else {
        return; // closed meanwhile
    };
    #[cfg(feature = "dns")]
    {
        connecting.lookup = None;
    }
    let options = &connecting.options;
    let allowed = addresses.iter().filter(|address| options.allow(address));
    connecting.race.enter(allowed.copied());
    advance(&mut core, tcp.id(), now);
}

/// Begins the attempts that are due; fails the stream when none is left.
fn advance(core: &mut Core, stream: Id, now: u64) {
    loop {
        let Some(connecting) = core.connecting.get_mut(&stream) else {
            return;
        };
        let Some(address) = connecting.race.next(now) else {
            break;
        };
        let begun = attempt(core, stream, address);
        let Some(connecting) = core.connecting.get_mut(&stream) else {
            return;
        };
        let watched = connecting.watched;
        let race = &mut connecting.race;
        match begun {
            Ok(attempt) => {
                race.begun(attempt, now);
                report(&mut core.deferred, watched, stream, address, None);
            }
            Err(error) if is_shortage(error.code()) => {
                if race.running().is_empty() {
                    return crate::stream::fail(core, stream, error);
                }
                race.put_back(address, now);
            }
            Err(error) => {
                race.failed_to_begin(error);
                report(&mut core.deferred, watched, stream, address, None);
                report(&mut core.deferred, watched, stream, address, Some(error));
            }
        }
    }
    let lost = core
        .connecting
        .get(&stream)
        .and_then(|connecting| connecting.race.lost());
    match lost {
        Some(error) => crate::stream::fail(core, stream, error),
        None => arm(core, stream),
    }
}

/// Has the handler told, if it wants to be, in the next deferred phase.
fn report(
    deferred: &mut VecDeque<Deferred>,
    watched: bool,
    stream: Id,
    address: SocketAddr,
    failed: Option<Error>,
) {
    if watched {
        let news = AttemptNews { address, failed };
        deferred.push_back(Deferred::Attempt(stream, Box::new(news)));
    }
}

/// What does not speak against the address: the others, in whose way it is, may yet win.
fn is_shortage(code: Code) -> bool {
    use Code::*;
    // EADDRINUSE: a local port that another attempt holds.
    matches!(
        code,
        EMFILE | ENFILE | ENOBUFS | ENOMEM | EAGAIN | EADDRINUSE
    )
}

fn attempt(core: &mut Core, stream: Id, address: SocketAddr) -> Result<Id> {
    let connecting = core.connecting.get(&stream).ok_or(Code::EBADF)?;
    let source = source_for(&core.driver, &address, &connecting.options)?;
    let body = Body::Attempt(Box::new(Attempt {
        source,
        stream,
        address,
    }));
    let id = core.handles.insert_internal(body)?;
    let Core {
        handles, driver, ..
    } = core;
    let Body::Attempt(attempt) = &mut handles.get_mut(id)?.body else {
        return Err(Code::EBADF.into());
    };
    let begun = driver.connect(id, &mut attempt.source, &address.into());
    if let Err(error) = begun {
        end_attempt(core, id);
        return Err(error);
    }
    Ok(id)
}

/// Closes an attempt: nobody hears of it.
fn end_attempt(core: &mut Core, id: Id) {
    let Core {
        handles, driver, ..
    } = core;
    if let Some(Body::Attempt(attempt)) = handles.any_mut(id).map(|entry| &mut entry.body) {
        driver.close(id, &mut attempt.source);
        handles.remove(id);
    }
}

/// Sets the stream's timer to what comes first.
fn arm(core: &mut Core, stream: Id) {
    let (Some(connecting), Ok(entry)) =
        (core.connecting.get(&stream), core.handles.get_mut(stream))
    else {
        return;
    };
    let due = [connecting.deadline, connecting.race.due()];
    match due.into_iter().flatten().min() {
        Some(due) => {
            if entry.timer == TimerKey::NONE {
                entry.timer = core.wheel.add(stream);
            }
            core.wheel.arm(entry.timer, due);
        }
        None if entry.timer != TimerKey::NONE => core.wheel.disarm(entry.timer),
        None => {}
    }
}

/// The stream has failed, or was closed, before it was connected: ends what is under way for it.
pub(crate) fn abandon(core: &mut Core, stream: Id) {
    let Some(connecting) = core.connecting.remove(&stream) else {
        return; // it connects by itself, to its only address
    };
    for attempt in connecting.race.running() {
        end_attempt(core, *attempt);
    }
    #[cfg(feature = "dns")]
    if let Some(lookup) = connecting.lookup {
        // Told already is as good.
        let _ = crate::event_loop::close(core, lookup.id());
    }
}

impl Loop {
    /// The timer of a stream that is connecting; `false` if it is connecting by itself.
    pub(crate) fn connecting_timer(&self, stream: Id) -> bool {
        let core = &mut *self.core.borrow_mut();
        // Read anew: callbacks may have run for long since the turn's clock was read, and the next
        // attempt is to wait from now on.
        let now = self.fresh_clock(core);
        let Some(connecting) = core.connecting.get(&stream) else {
            return false;
        };
        if connecting.deadline.is_some_and(|deadline| deadline <= now) {
            crate::stream::fail(core, stream, Code::ETIMEDOUT.into());
        } else {
            advance(core, stream, now);
        }
        true
    }

    /// Tells of an attempt, unless the stream was closed meanwhile.
    pub(crate) fn stream_attempt(&self, stream: Id, news: AttemptNews) {
        let AttemptNews { address, failed } = news;
        self.tell(stream, |lp, handler| {
            handler.on_attempt(lp, Stream(stream), address, failed);
        });
    }

    /// A connect has ended: an attempt's, or a stream's own.
    pub(crate) fn connected(&self, id: Id, outcome: Result<()>) {
        let stream = {
            let core = &mut *self.core.borrow_mut();
            match core.handles.get(id).map(|entry| &entry.body) {
                Ok(Body::Attempt(attempt)) => {
                    let (stream, address) = (attempt.stream, attempt.address);
                    let now = self.fresh_clock(core);
                    if !attempt_ended(core, id, (stream, address), outcome, now) {
                        return;
                    }
                    stream
                }
                _ => id,
            }
        };
        let outcome = if stream == id { outcome } else { Ok(()) };
        self.stream_connected(stream, outcome);
    }
}

/// Whether the stream is connected by it.
fn attempt_ended(
    core: &mut Core,
    id: Id,
    (stream, address): (Id, SocketAddr),
    outcome: Result<()>,
    now: u64,
) -> bool {
    let Some(connecting) = core.connecting.get_mut(&stream) else {
        return false;
    };
    if let Err(error) = outcome {
        connecting.race.failed(id, error);
        let watched = connecting.watched;
        report(&mut core.deferred, watched, stream, address, Some(error));
        end_attempt(core, id);
        advance(core, stream, now);
        return false;
    }
    let losers = connecting.race.won(id);
    core.connecting.remove(&stream);
    for loser in losers {
        end_attempt(core, loser);
    }
    take_over(core, id, stream)
}

/// Gives the stream the socket of the attempt. What has come on it already shows when it is registered anew.
fn take_over(core: &mut Core, attempt: Id, stream: Id) -> bool {
    let Core {
        handles, driver, ..
    } = core;
    let object = match handles.get_mut(attempt).map(|entry| &mut entry.body) {
        Ok(Body::Attempt(it)) => driver.release(attempt, &mut it.source),
        _ => Object::None,
    };
    handles.remove(attempt);
    match handles.get_mut(stream).map(|entry| &mut entry.body) {
        Ok(Body::Stream(stream)) => {
            stream.source.object = object;
            true
        }
        _ => false,
    }
}

/// Has the addresses of a stream looked up.
#[cfg(feature = "dns")]
pub(super) fn look_up(
    lp: &Loop,
    tcp: TcpStream,
    host: &str,
    port: u16,
    options: ResolveOptions,
    done: impl FnOnce(&Loop, Result<Resolved>) + 'static,
) -> Result<()> {
    let lookup = Lookup::of_host(host, port, options);
    #[cfg(feature = "sim")]
    let lookup = lookup.in_world_of(lp);
    let done = |lp: &Loop, _, home| done(lp, Lookup::outcome(home));
    let request = lp.submit(WorkClass::Slow, lookup, Hold::MayAbandon, done)?;
    let mut core = lp.core()?;
    core.handles.hide(request.id());
    // It is the stream that keeps the loop alive.
    core.set_referenced(request.id(), false);
    if let Some(connecting) = core.connecting.get_mut(&tcp.id()) {
        connecting.lookup = Some(request);
    }
    Ok(())
}

/// The error of a stream that cannot begin: told later, like every other.
#[cfg(feature = "dns")]
pub(super) fn fail(lp: &Loop, tcp: TcpStream, error: Error) {
    crate::stream::fail(&mut lp.core.borrow_mut(), tcp.id(), error);
}

/// Takes back a stream that could not begin after all: nobody hears of it.
#[cfg(feature = "dns")]
pub(super) fn withdraw(lp: &Loop, tcp: TcpStream) {
    let entry = {
        let core = &mut *lp.core.borrow_mut();
        abandon(core, tcp.id());
        let entry = core.handles.remove(tcp.id());
        if let Some(entry) = entry.as_ref().filter(|entry| entry.timer != TimerKey::NONE) {
            core.wheel.remove(entry.timer);
        }
        entry
    };
    // The handler's destructor may call the loop.
    drop(entry);
}
