//! The submission and completion queues, and the memory that goes with them: what is unsafe about io_uring is in
//! here, in `buffers.rs`, and nowhere else.
//!
//! Why no operation of ours may outlive what it refers to:
//!
//! - Receives name no memory but the provided buffers, which live as long as the ring.
//! - Polls and cancellations name none.
//! - The wait in the epoll set beneath names the selector's memory, which goes after the ring (`Uring`'s fields), and
//!   which nobody else uses meanwhile ([`Epoll::lend`]).
//! - A request's job owns the memory of its call, and `jobs.rs` owns the job until the call has completed.
//! - A send is made with `MSG_DONTWAIT`, so that it is over when `io_uring_enter` has taken it: it never waits in the
//!   kernel, and its memory, a copy of the caller's, is only read during that call.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use bitflags::bitflags;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{cqueue, opcode, squeue, EnterFlags, IoUring};

use super::buffers::{Buffers, Piece};
use super::registered::Registered;
use super::token::{Operation, Token};
use crate::driver::epoll::Epoll;
use crate::error::{Code, Error, Result};
use crate::sys::{self, Descriptor};

/// Submissions that are made with one call, at most: when so many have gathered, they are handed over.
const SUBMISSIONS: u32 = 256;

/// Completions that the kernel has room for; when there are more it keeps them for later.
const COMPLETIONS: u32 = 4096;

/// Copies of bytes that are to be sent with one call. Sends are copied up to 16 KiB, see `sends.rs`.
const OUTGOING: usize = 256 * 1024;

/// The group under which the provided buffers are registered.
const GROUP: u16 = 0;

pub(super) struct Ring {
    /// Dropped by hand, since a forked child must not touch it.
    inner: ManuallyDrop<IoUring>,
    buffers: Rc<Buffers>,
    outgoing: Box<[u8]>,
    outgoing_used: usize,
    sends: Vec<Outgoing>,
    registered: Registered,
    /// The process that made it: in a forked child it is the parent's.
    fork_generation: u32,
}

/// A send that was pushed, and may not have been made yet.
struct Outgoing {
    token: Token,
    start: usize,
    length: usize,
}

bitflags! {
    /// How to receive, as io_uring_enter(2) has it for `IORING_OP_RECV`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct How: u16 {
        /// `IORING_RECVSEND_POLL_FIRST`: waits before it looks whether there is something, which saves the kernel the
        /// look at a socket that is empty. One that is not is received from all the same.
        const WAITS_FIRST = 1;
        /// `IORING_RECV_MULTISHOT`: until cancelled; otherwise once.
        const GOES_ON = 1 << 1;
    }
}

/// A completion.
pub(super) struct Completed {
    pub token: Token,
    /// The operation's own, or a negative error number.
    pub result: i32,
    /// The operation goes on.
    pub more: bool,
    /// For receives: what came.
    pub piece: Option<Piece>,
    /// For receives: the socket holds more.
    pub left_some: bool,
}

impl Ring {
    /// Errors: whatever the kernel has against it: too old (before 6.12), io_uring is disabled (kernel.io_uring_disabled),
    /// or a filter forbids it.
    pub fn new() -> Result<Ring> {
        Ring::sized(SUBMISSIONS, COMPLETIONS)
    }

    /// With room for so many.
    pub fn sized(submissions: u32, completions: u32) -> Result<Ring> {
        let inner = IoUring::builder()
            .dontfork()
            .setup_cqsize(completions)
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_no_sqarray()
            .build(submissions)?;
        let parameters = inner.params();
        let wanted = parameters.is_feature_nodrop()
            && parameters.is_feature_ext_arg()
            && parameters.is_feature_submit_stable()
            && parameters.is_feature_skip_cqe_on_success()
            // Linux 6.12: nothing older was tried.
            && parameters.is_feature_min_timeout();
        if !wanted {
            return Err(Code::ENOTSUP.into());
        }
        let buffers = Buffers::new();
        // SAFETY: the ring of buffers and what it names live as long as the reference in this `Ring`, which outlives
        // the registration (see `drop`).
        unsafe {
            inner.submitter().register_buf_ring_with_flags(
                buffers.address(),
                buffers.count(),
                GROUP,
                0,
            )?;
        }
        let registered = Registered::new(inner.as_raw_fd());
        Ok(Ring {
            inner: ManuallyDrop::new(inner),
            registered,
            buffers,
            outgoing: vec![0; OUTGOING].into_boxed_slice(),
            outgoing_used: 0,
            sends: Vec::new(),
            fork_generation: sys::fork::generation(),
        })
    }

    pub fn descriptor(&self) -> Descriptor {
        self.inner.as_raw_fd()
    }

    /// Has the kernel write to an event descriptor when there is something to do.
    pub fn announce_to(&self, event: Descriptor) -> Result<()> {
        Ok(self.inner.submitter().register_eventfd(event)?)
    }

    /// Whether there is something to do for the kernel, or to be taken from it.
    pub fn has_work(&self) -> bool {
        let mut ring = libc::pollfd {
            fd: self.descriptor(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: `ring` is one valid entry.
        unsafe { libc::poll(&mut ring, 1, 0) == 1 }
    }

    /// Whether it is the parent's, in a forked child.
    pub fn is_foreign(&self) -> bool {
        self.fork_generation != sys::fork::generation()
    }

    #[cfg(test)]
    pub fn is_registered(&self) -> bool {
        self.registered.is_in_table()
    }

    /// How many submissions wait to be handed over.
    pub fn pending(&mut self) -> usize {
        self.inner.submission().len()
    }

    pub fn is_full(&mut self) -> bool {
        self.inner.submission().is_full()
    }

    /// Whether a send of so many bytes finds room.
    pub fn has_room(&mut self, length: usize) -> bool {
        !self.is_full() && self.outgoing.len() - self.outgoing_used >= length
    }

    /// Whether the kernel keeps completions for which there is no room.
    #[cfg(test)]
    pub fn has_overflowed(&mut self) -> bool {
        self.inner.submission().cq_overflow()
    }

    /// Not when it is full.
    pub fn push(&mut self, entry: squeue::Entry, token: Token) -> Result<()> {
        let entry = entry.user_data(token.to_raw());
        // SAFETY: see the head of this file: what the entry names outlives the operation.
        unsafe { self.inner.submission().push(&entry) }.map_err(|_| Code::EAGAIN.into())
    }

    /// Receives into the provided buffers: see [`How`].
    pub fn receive(&mut self, token: Token, at: Descriptor, how: How) -> Result<()> {
        let entry = opcode::Recv::new(Fd(at), std::ptr::null_mut(), 0)
            .ioprio(how.bits())
            .buf_group(GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(entry, token)
    }

    /// Waits for readiness, as poll(2) has it: once, or at each change until cancelled.
    pub fn poll(&mut self, token: Token, at: Descriptor, events: i16, goes_on: bool) -> Result<()> {
        let entry = opcode::PollAdd::new(Fd(at), events as u16 as u32)
            .multi(goes_on)
            .build();
        self.push(entry, token)
    }

    /// Waits until something is ready in an epoll set, and writes it to its selector's memory (Linux 6.15). That lives
    /// longer than the ring, and nobody else looks at it before the operation is over.
    pub fn wait_in(&mut self, token: Token, epoll: &mut Epoll) -> Result<()> {
        let (events, room) = epoll.lend();
        let entry = opcode::EpollWait::new(Fd(epoll.descriptor()), events.cast(), room).build();
        let pushed = self.push(entry, token);
        if pushed.is_err() {
            epoll.told(0);
        }
        pushed
    }

    /// Ends an operation, which then completes with `ECANCELED` if it had not completed before.
    pub fn cancel(&mut self, token: Token) -> Result<()> {
        let entry = opcode::AsyncCancel::new(token.to_raw())
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.push(entry, Token::own(Operation::Cancel))
    }

    /// Sends a copy of the bytes with the next call. A completion comes only if not all could be sent, and then
    /// [`Ring::take_rest`] has the rest. Not without [`Ring::has_room`].
    pub fn send(&mut self, token: Token, at: Descriptor, slices: &[io::IoSlice<'_>]) -> Result<()> {
        let start = self.outgoing_used;
        let mut end = start;
        for slice in slices {
            let room = self.outgoing.get_mut(end..end + slice.len());
            room.ok_or(Error::new(Code::EAGAIN))?.copy_from_slice(slice);
            end += slice.len();
        }
        // WAITALL has the kernel say so when it could not send all, DONTWAIT not wait until it can.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL;
        let memory = self.outgoing[start..end].as_ptr();
        let entry = opcode::Send::new(Fd(at), memory, (end - start) as u32)
            .flags(flags)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.push(entry, token)?;
        self.outgoing_used = end;
        self.sends.push(Outgoing {
            token,
            start,
            length: end - start,
        });
        Ok(())
    }

    /// What a send that completed did not send, of which the kernel took the first `sent` bytes.
    pub fn take_rest(&mut self, token: Token, sent: usize) -> Option<Vec<u8>> {
        let of_token = self.sends.iter().find(|send| send.token == token)?;
        let sent = sent.min(of_token.length);
        let rest = of_token.start + sent..of_token.start + of_token.length;
        Some(self.outgoing[rest].to_vec())
    }

    /// After everything was handed over and every completion looked at: the sends are over, and their memory is free.
    pub fn sends_are_over(&mut self) {
        self.sends.clear();
        self.outgoing_used = 0;
    }

    /// Hands over what was pushed. With `runs`, the kernel also goes on with what has become possible, and completes
    /// it; with `wait_ns`, it waits so long (`None` in it: without limit) for a completion.
    pub fn enter(&mut self, runs: bool, wait: Option<Option<u64>>) -> io::Result<()> {
        let pending = self.pending() as u32;
        let mut flags = EnterFlags::empty();
        flags.set(EnterFlags::GETEVENTS, runs || wait.is_some());
        // Waiting for the network is no waiting for a disk: it is not to count as that (Linux 6.15).
        let quiet = wait.is_some() && self.inner.params().is_feature_no_iowait();
        flags.set(EnterFlags::NO_IOWAIT, quiet);
        let limit = wait.flatten();
        let time = Timespec::from(std::time::Duration::from_nanos(limit.unwrap_or(0)));
        let arguments = SubmitArgs::new().timespec(&time);
        let mut passed = (std::ptr::null(), 0);
        if limit.is_some() {
            flags |= EnterFlags::EXT_ARG;
            passed = (&raw const arguments, size_of_val(&arguments));
        }
        let want = u32::from(wait.is_some());
        let ring = self.registered.name(self.inner.as_raw_fd(), &mut flags);
        // SAFETY: `time` and `arguments` live through the call; the flags say what is passed.
        let outcome = unsafe {
            let (number, flags) = (libc::SYS_io_uring_enter, flags.bits());
            libc::syscall(number, ring, pending, want, flags, passed.0, passed.1)
        };
        match outcome {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Before another thread takes the ring's loop: what is registered is this thread's.
    #[cfg(feature = "capi")]
    pub fn leave_thread(&mut self) {
        self.registered.end(self.inner.as_raw_fd());
    }

    /// The next completion that the kernel has told.
    pub fn next(&mut self) -> Option<Completed> {
        let entry = self.inner.completion().next()?;
        let flags = entry.flags();
        let length = entry.result().max(0) as u32;
        let piece = cqueue::buffer_select(flags);
        let piece = piece.and_then(|buffer| self.buffers.take(buffer, length));
        Some(Completed {
            token: Token::from_raw(entry.user_data()),
            result: entry.result(),
            more: cqueue::more(flags),
            piece,
            left_some: cqueue::sock_nonempty(flags),
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.is_foreign() {
            // The mappings are not there (`dontfork`), and what is at their place now is not ours to unmap. Only the
            // descriptor is the child's own.
            // SAFETY: the descriptor is the ring's, whose owner is never dropped.
            unsafe { libc::close(self.inner.as_raw_fd()) };
            return;
        }
        // Whatever still receives is told to stop before the buffers go, which waits for it; a ring that is not this
        // thread's any more has nothing under way (see `Uring::detach`).
        self.registered.end(self.inner.as_raw_fd());
        let all = io_uring::types::CancelBuilder::any();
        let submitter = self.inner.submitter();
        let _ = submitter.register_sync_cancel(None, all);
        let _ = submitter.unregister_buf_ring(GROUP);
        // SAFETY: dropped once, and not used again.
        unsafe { ManuallyDrop::drop(&mut self.inner) };
    }
}
