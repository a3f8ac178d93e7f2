//! Signals, delivered as callbacks on the loop.

use crate::error::{Code, Result};
use crate::event_loop::{Core, Loop};
use crate::handles::{Body, Id};

pub(crate) type SignalCallback = Box<dyn FnMut(&Loop, Signal, i32)>;

pub(crate) struct SignalState {
    /// The signal that is watched; 0: none.
    pub number: i32,
    callback: Option<SignalCallback>,
}

/// Calls a function when the process gets a signal.
///
/// Any number of handles, in any number of loops and threads, may watch the same signal; each
/// hears of it. Signals are not counted: several of the same number that come close together may
/// be one callback, as with the system's own pending signals (signal(7)). The signal's former
/// disposition is put back when the last handle that watches it is stopped or closed.
///
/// Not to be had on Windows ([`Code::ENOTSUP`]).
///
/// # Example
///
/// ```
/// # #[cfg(unix)] {
/// use kolo::{Loop, RunMode, Signal};
///
/// let lp = Loop::new()?;
/// let end = Signal::open(&lp, |lp, signal, number| {
///     println!("signal {number}: ending");
///     lp.close(signal).unwrap();
/// })?;
/// end.start(&lp, libc::SIGTERM)?;
/// # // SAFETY: a signal to ourselves, which is watched.
/// # unsafe { libc::raise(libc::SIGTERM) };
/// lp.run(RunMode::Default)?;
/// # }
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signal(pub(crate) Id);

crate::handles::handle_type!(Signal);

impl Signal {
    /// Makes a handle that watches nothing yet.
    ///
    /// Errors: [`Code::ENOBUFS`] when the loop holds as many handles as it can.
    pub fn open(lp: &Loop, callback: impl FnMut(&Loop, Signal, i32) + 'static) -> Result<Signal> {
        lp.needs_kernel()?;
        let state = SignalState {
            number: 0,
            callback: Some(Box::new(callback)),
        };
        Ok(Signal(lp.insert(Body::Signal(state))?))
    }

    /// Watches for the signal with this number, instead of the one it watched before.
    ///
    /// Errors: [`Code::EINVAL`] for a number that is no signal, cannot be caught (`SIGKILL`,
    /// `SIGSTOP`) or says that the thread's own instruction failed (`SIGSEGV`, `SIGBUS`,
    /// `SIGFPE`, `SIGILL`); [`Code::ENOBUFS`] when more than 256 loops watch signals;
    /// [`Code::EMFILE`] when descriptors are short; [`Code::EBADF`] for a closed handle.
    pub fn start(self, lp: &Loop, number: i32) -> Result<()> {
        let watched = self.number(lp)?;
        if watched == number && number != 0 {
            return Ok(());
        }
        watch(lp, self.0, number)?;
        let mut core = lp.core()?;
        unwatch(&mut core, self.0, watched);
        self.set(&mut core, number)
    }

    /// Watches no more. One that came and was not told yet is not told any more.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle.
    pub fn stop(self, lp: &Loop) -> Result<()> {
        let watched = self.number(lp)?;
        let mut core = lp.core()?;
        unwatch(&mut core, self.0, watched);
        self.set(&mut core, 0)
    }

    fn number(self, lp: &Loop) -> Result<i32> {
        match &lp.core()?.handles.get(self.0)?.body {
            Body::Signal(state) => Ok(state.number),
            _ => Err(Code::EBADF.into()),
        }
    }

    fn set(self, core: &mut Core, number: i32) -> Result<()> {
        if let Body::Signal(state) = &mut core.handles.get_mut(self.0)?.body {
            state.number = number;
        }
        core.handles.set_active(self.0, number != 0);
        Ok(())
    }
}

impl Loop {
    pub(crate) fn signal_came(&self, id: Id, number: i32) {
        let callback = {
            let mut core = self.core.borrow_mut();
            match core.handles.get_mut(id).map(|entry| &mut entry.body) {
                Ok(Body::Signal(state)) if state.number == number => state.callback.take(),
                #[cfg(all(unix, feature = "tty"))]
                Ok(Body::Stream(_)) if number > 0 => {
                    drop(core);
                    return self.tty_signal(id);
                }
                _ => return,
            }
        };
        self.call_lent(id, callback, slot, |lp, callback| {
            callback(lp, Signal(id), number)
        });
    }
}

fn slot(body: &mut Body) -> Option<&mut Option<SignalCallback>> {
    match body {
        Body::Signal(state) => Some(&mut state.callback),
        _ => None,
    }
}

#[cfg(all(unix, feature = "tty"))]
pub(crate) use unix::watch;
#[cfg(all(unix, not(feature = "tty")))]
use unix::watch;
#[cfg(unix)]
pub(crate) use unix::SignalHub;
#[cfg(unix)]
pub(crate) use unix::{forked, unwatch};

#[cfg(unix)]
mod unix {
    use std::io::{ErrorKind, Read};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::driver::{Driver, Interest};
    use crate::event_loop::Deferred;
    use crate::poll::Poll;
    use crate::sys::signals::Slot;

    /// What a loop that watches signals has for all its handles: a place in the handler's table,
    /// and a pipe that the handler writes to, watched by a handle of the loop's own.
    pub(crate) struct SignalHub {
        // First, so that the handler lets go of the pipe before it is closed.
        slot: Slot,
        pipe: Pipe,
        poll: Poll,
        watchers: Vec<(i32, Id)>,
    }

    /// In place of the number of a signal that is not told any more; no handle watches it.
    const NOT_TOLD: i32 = -1;

    struct Pipe {
        reader: UnixStream,
        writer: UnixStream,
    }

    impl Pipe {
        fn open() -> Result<Pipe> {
            let (reader, writer) = UnixStream::pair()?;
            reader.set_nonblocking(true)?;
            writer.set_nonblocking(true)?;
            Ok(Pipe { reader, writer })
        }
    }

    impl SignalHub {
        fn open(lp: &Loop) -> Result<SignalHub> {
            let pipe = Pipe::open()?;
            let slot = Slot::take(pipe.writer.as_raw_fd())?;
            let heard = Box::new(|lp: &Loop, _, _| lp.signals_came());
            let poll = Poll::open_raw(lp, pipe.reader.as_raw_fd(), heard)?;
            lp.core()?.handles.hide(poll.id());
            lp.unref(poll)?;
            if let Err(error) = poll.start(lp, Interest::READABLE) {
                let _ = lp.close(poll);
                return Err(error);
            }
            Ok(SignalHub {
                slot,
                pipe,
                poll,
                watchers: Vec::new(),
            })
        }
    }

    impl Loop {
        fn signals_came(&self) {
            let mut core = self.core.borrow_mut();
            let Core {
                signals: Some(hub),
                deferred,
                ..
            } = &mut *core
            else {
                return;
            };
            let mut bytes = [0; 64];
            loop {
                match (&mut &hub.pipe.reader).read(&mut bytes) {
                    Ok(length) if length == bytes.len() => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    _ => break,
                }
            }
            // Only now: a signal that comes from here on writes again.
            let came = hub.slot.collect();
            for (number, id) in &hub.watchers {
                if came >> (number - 1) & 1 != 0 {
                    deferred.push_back(Deferred::Signal(*id, *number));
                }
            }
        }
    }

    pub(crate) fn watch(lp: &Loop, id: Id, number: i32) -> Result<()> {
        let has_hub = lp.core()?.signals.is_some();
        if !has_hub {
            let hub = SignalHub::open(lp)?;
            lp.core()?.signals = Some(hub);
        }
        // What came until now is for those who watched until now.
        lp.signals_came();
        let mut core = lp.core()?;
        let Some(hub) = &mut core.signals else {
            return Err(Code::ENOTSUP.into());
        };
        hub.slot.watch(number)?;
        hub.watchers.push((number, id));
        Ok(())
    }

    /// The handle `id` no longer watches `number`; 0 is watched by nobody.
    pub(crate) fn unwatch(core: &mut Core, id: Id, number: i32) {
        let Core {
            signals: Some(hub),
            deferred,
            ..
        } = core
        else {
            return;
        };
        let at = hub
            .watchers
            .iter()
            .position(|watcher| *watcher == (number, id));
        if let Some(at) = at {
            hub.watchers.remove(at);
            hub.slot.unwatch(number);
            // What came for it and was not told yet must not be, even if it watches again by
            // then. The entry keeps its place, since the deferred phase counts them.
            for event in deferred.iter_mut() {
                match event {
                    Deferred::Signal(watcher, number) if *watcher == id => *number = NOT_TOLD,
                    _ => {}
                }
            }
        }
    }

    /// In a forked child: a pipe that the parent does not share.
    pub(crate) fn forked(core: &mut Core) -> Result<()> {
        let Some(hub) = &mut core.signals else {
            return Ok(());
        };
        let pipe = Pipe::open()?;
        hub.slot.forked(pipe.writer.as_raw_fd());
        let entry = core.handles.get_mut(hub.poll.id())?;
        if let Body::Poll(state) = &mut entry.body {
            core.driver.poll_stop(hub.poll.id(), &mut state.source);
            state.source.object = crate::driver::Object::Foreign(pipe.reader.as_raw_fd());
            core.driver
                .poll_start(hub.poll.id(), &mut state.source, Interest::READABLE)?;
        }
        hub.pipe = pipe;
        Ok(())
    }
}

#[cfg(not(unix))]
use other::watch;
#[cfg(not(unix))]
pub(crate) use other::{forked, unwatch, SignalHub};

#[cfg(not(unix))]
mod other {
    use super::*;

    pub(crate) enum SignalHub {}

    pub(super) fn watch(_lp: &Loop, _id: Id, _number: i32) -> Result<()> {
        Err(Code::ENOTSUP.into())
    }

    pub(crate) fn unwatch(_core: &mut Core, _id: Id, _number: i32) {}

    pub(crate) fn forked(_core: &mut Core) -> Result<()> {
        Ok(())
    }
}
