//! Foreign descriptors: watching what another library owns.

use crate::driver::{Driver, Interest, Object, Source};
use crate::error::{Code, Result};
use crate::event_loop::Loop;
use crate::handles::{Body, Entry, Id};
use crate::sys::{self, Descriptor};

pub(crate) type PollCallback = Box<dyn FnMut(&Loop, Poll, Result<Interest>)>;

pub(crate) struct PollState {
    pub source: Source,
    callback: Option<PollCallback>,
}

/// Watches a descriptor that somebody else reads and writes: libcurl's, libpq's, c-ares'.
///
/// Level-triggered: the callback comes in every turn as long as the descriptor is ready for
/// what is asked. It may come without reason now and then, so the owner's calls must not block.
/// The descriptor is never read, written or closed by kolo. Stop or close the handle before its
/// owner closes the descriptor.
///
/// On Windows only sockets can be watched.
///
/// Any number of handles may name one descriptor, of which one in each loop can be started. A descriptor that another
/// handle of kolo's has (one that was adopted, or told by `raw_socket` and its like) cannot be watched beside it: the
/// selector of the loop has one place for each. A duplicate of it can (dup(2)). Nor should what is being watched be
/// adopted before the poll is closed: the drivers `"poller"` and `"polling"` refuse the second registration, with
/// [`Code::EEXIST`].
///
/// # Example
///
/// ```
/// # #[cfg(unix)] {
/// use std::io::{Read, Write};
/// use std::os::fd::AsRawFd;
/// use std::os::unix::net::UnixStream;
/// use kolo::{Interest, Loop, Poll, RunMode};
///
/// let (mut ours, mut theirs) = UnixStream::pair().unwrap();
/// theirs.write_all(b"ready").unwrap();
///
/// let lp = Loop::new()?;
/// let poll = Poll::open(&lp, ours.as_raw_fd(), move |lp, poll, ready| {
///     assert!(ready.unwrap().contains(Interest::READABLE));
///     let mut bytes = [0; 5];
///     ours.read_exact(&mut bytes).unwrap();
///     lp.close(poll).unwrap();
/// })?;
/// poll.start(&lp, Interest::READABLE)?;
/// lp.run(RunMode::Default)?;
/// # }
/// # Ok::<(), kolo::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Poll(pub(crate) Id);

crate::handles::handle_type!(Poll);

impl Poll {
    /// Makes a handle for a descriptor; it watches nothing yet.
    ///
    /// Errors: [`Code::EBADF`] for a descriptor that is not open; [`Code::EEXIST`] for one that a
    /// handle of kolo's has, of whatever loop (see [`Poll`]); [`Code::ENOBUFS`] when the loop holds as
    /// many handles as it can.
    #[cfg(unix)]
    pub fn open(
        lp: &Loop,
        descriptor: std::os::fd::RawFd,
        callback: impl FnMut(&Loop, Poll, Result<Interest>) + 'static,
    ) -> Result<Poll> {
        if sys::is_held(descriptor) {
            return Err(Code::EEXIST.into());
        }
        Poll::open_raw(lp, descriptor, Box::new(callback))
    }

    /// Makes a handle for a socket; it watches nothing yet.
    ///
    /// Errors: [`Code::EBADF`] for an invalid socket; [`Code::EEXIST`] for one that a handle of
    /// kolo's has, of whatever loop (see [`Poll`]); [`Code::ENOBUFS`] when the loop holds as many
    /// handles as it can.
    #[cfg(windows)]
    pub fn open(
        lp: &Loop,
        socket: std::os::windows::io::RawSocket,
        callback: impl FnMut(&Loop, Poll, Result<Interest>) + 'static,
    ) -> Result<Poll> {
        if sys::is_held(socket) {
            return Err(Code::EEXIST.into());
        }
        Poll::open_raw(lp, socket, Box::new(callback))
    }

    /// As [`Poll::open`], for what the loop has of its own.
    pub(crate) fn open_raw(lp: &Loop, at: Descriptor, callback: PollCallback) -> Result<Poll> {
        if !sys::is_open(at) {
            return Err(Code::EBADF.into());
        }
        lp.needs_kernel()?;
        let source = Source::new(Object::Foreign(at));
        let state = PollState {
            source,
            callback: Some(callback),
        };
        Ok(Poll(lp.insert(Body::Poll(Box::new(state)))?))
    }

    /// Watches for `interest`, or changes what is watched for.
    ///
    /// Errors: [`Code::EINVAL`] for nothing; [`Code::EEXIST`] when another started handle of
    /// this loop watches the same descriptor; [`Code::EPERM`] for a kind of descriptor that
    /// cannot be watched, such as a regular file; [`Code::EBADF`] for a closed handle or
    /// descriptor.
    pub fn start(self, lp: &Loop, interest: Interest) -> Result<()> {
        if interest.is_empty() {
            return Err(Code::EINVAL.into());
        }
        let mut core = lp.core()?;
        let core = &mut *core;
        let state = state(core.handles.get_mut(self.0)?)?;
        core.driver
            .poll_start(self.0, &mut state.source, interest)?;
        core.handles.set_active(self.0, true);
        Ok(())
    }

    /// Watches no more, from now on: also what this turn found already is not told.
    ///
    /// Errors: [`Code::EBADF`] for a closed handle.
    pub fn stop(self, lp: &Loop) -> Result<()> {
        let mut core = lp.core()?;
        let core = &mut *core;
        let state = state(core.handles.get_mut(self.0)?)?;
        core.driver.poll_stop(self.0, &mut state.source);
        core.handles.set_active(self.0, false);
        Ok(())
    }
}

fn state(entry: &mut Entry) -> Result<&mut PollState> {
    match &mut entry.body {
        Body::Poll(state) => Ok(state),
        _ => Err(Code::EBADF.into()),
    }
}

impl Loop {
    pub(crate) fn polled(&self, id: Id, outcome: Result<Interest>) {
        let callback = self.core.borrow_mut().handles.lend(id, slot);
        #[cfg(all(unix, feature = "process"))]
        if callback.is_none() {
            // A child's descriptor is watched in the same way.
            return self.process_changed(id);
        }
        self.call_lent(id, callback, slot, |lp, callback| {
            callback(lp, Poll(id), outcome)
        });
    }
}

fn slot(body: &mut Body) -> Option<&mut Option<PollCallback>> {
    match body {
        Body::Poll(state) => Some(&mut state.callback),
        _ => None,
    }
}
