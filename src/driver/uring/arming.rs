//! What is to be under way in the kernel, and is not: it is submitted before the next wait, so that what a callback
//! starts and stops again costs nothing.

use super::lines::Status;
use super::token::{Operation, Token};
use super::{Event, Uring};
use crate::driver::{Source, State};
use crate::error::Result;
use crate::handles::Id;

/// Room to write, or a connection.
///
/// Asked for at each change (edge-triggered), and left so: the kernel always reports `POLLRDHUP` too, so that a poll
/// for once would be over at once when the peer has ended its side, and again, and again.
const WRITABLE: i16 = libc::POLLOUT;
/// Something to read or to accept, or the end of it.
const READABLE: i16 = libc::POLLIN | libc::POLLRDHUP;

impl Uring {
    pub(super) fn arm_later(&mut self, id: Id) {
        if let Some(line) = self.lines.get(id) {
            if !line.status.contains(Status::ARMING) {
                line.status.insert(Status::ARMING);
                self.arming.push(id);
            }
        }
    }

    /// Submits what is missing.
    pub(super) fn arm_all(&mut self) -> Result<()> {
        if !self.watches_wake {
            self.watches_wake = true;
            let at = self.inner.selector().wake_descriptor();
            self.make_room()?;
            // At each change: nobody reads it.
            self.ring
                .poll(Token::own(Operation::Wake), at, libc::POLLIN, true)?;
        }
        self.start_jobs()?;
        let told = self.inner.has_events() || self.inner.selector().has_told();
        if !self.watches_inner && !told {
            self.make_room()?;
            self.watch_inner()?;
        }
        if self.arming.is_empty() {
            return Ok(());
        }
        // Those that had nothing in the last turn come first: where buffers are short, one that takes all that there
        // are must not be the only one to get any.
        let arming = std::mem::take(&mut self.arming);
        for fed in [false, true] {
            for id in &arming {
                let Some(line) = self.lines.get(*id) else {
                    continue;
                };
                let is_due = line.status.contains(Status::ARMING)
                    && line.status.contains(Status::FED) == fed;
                if is_due {
                    line.status.remove(Status::ARMING | Status::FED);
                    self.arm(*id)?;
                }
            }
        }
        // The list's memory is kept for the next turn.
        let more = std::mem::replace(&mut self.arming, arming);
        self.arming.clear();
        self.arming.extend(more);
        Ok(())
    }

    fn arm(&mut self, id: Id) -> Result<()> {
        let Some(line) = self.lines.get(id) else {
            return Ok(());
        };
        let (at, had) = (line.at, line.status);
        let mut has = had;
        let receives = had.contains(Status::RECEIVES) && !had.contains(Status::KEPT);
        let itself = Status::OWN_MEMORY | Status::BULK;
        let takes = receives && !had.intersects(itself | Status::RECEIVING);
        // Not before all that its receive took is told.
        let in_bulk = had & (Status::BULK | Status::RECEIVING) == Status::BULK;
        let reads = receives && (had.contains(Status::OWN_MEMORY) || in_bulk);
        let reads = reads || had.contains(Status::ACCEPTS);
        has.set(Status::RECEIVING, takes || had.contains(Status::RECEIVING));
        let polls = reads && !had.contains(Status::READ_POLL);
        has.set(Status::READ_POLL, polls || had.contains(Status::READ_POLL));
        let waits = had.contains(Status::WRITES) && !had.contains(Status::WRITE_POLL);
        has.set(
            Status::WRITE_POLL,
            waits || had.contains(Status::WRITE_POLL),
        );
        if takes {
            has.remove(Status::EMPTIED);
        }
        line.status = has;
        if takes {
            self.make_room()?;
            let token = Token::new(Operation::Receive, id);
            self.ring.receive(token, at, had.how_to_receive())?;
        }
        if polls {
            self.make_room()?;
            let goes_on = had.contains(Status::ACCEPTS);
            self.ring
                .poll(Token::new(Operation::Read, id), at, READABLE, goes_on)?;
        }
        if waits {
            self.make_room()?;
            self.ring
                .poll(Token::new(Operation::Write, id), at, WRITABLE, true)?;
        }
        Ok(())
    }

    /// Has the ring wait in the epoll set beneath: what is ready then comes with its completion. That costs 0.5 µs a
    /// turn that brings something where a poll of the set and a call of epoll_wait(2) cost 0.9, and a poll of each
    /// descriptor by the ring itself, which level-triggered watching has to ask for anew each time, 0.27 for each.
    fn watch_inner(&mut self) -> Result<()> {
        let token = Token::own(Operation::Inner);
        let epoll = self.inner.selector();
        // Outside of turns nobody asks for what is ready before he has done something else.
        if self.can_wait_in_inner && self.in_turn {
            self.ring.wait_in(token, epoll)?;
        } else {
            self.ring
                .poll(token, epoll.descriptor(), libc::POLLIN, false)?;
        }
        self.watches_inner = true;
        Ok(())
    }

    /// Something is ready in the epoll set beneath, or the watching ended.
    pub(super) fn inner_came(&mut self, result: i32) {
        self.watches_inner = false;
        let epoll = self.inner.selector();
        if epoll.is_lent() {
            let count = usize::try_from(result).unwrap_or(0);
            epoll.told(count);
            self.inner_is_ready |= count > 0;
            // An older kernel does not know the operation.
            self.can_wait_in_inner = ![-libc::EINVAL, -libc::EOPNOTSUPP].contains(&result);
        } else {
            self.inner_is_ready = true;
        }
    }

    /// Room for one submission.
    pub(super) fn make_room(&mut self) -> Result<()> {
        if self.ring.is_full() {
            self.flush()?;
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, of: Token) -> Result<()> {
        self.make_room()?;
        self.cancels = true;
        self.ring.cancel(of)
    }

    /// Asks to be told when the source is writable.
    pub(super) fn want_writable(&mut self, id: Id, source: &Source) -> Result<()> {
        self.open(id, source)?.status.insert(Status::WRITES);
        self.arm_later(id);
        Ok(())
    }

    /// Lets a new ring have what a source waits for.
    pub(super) fn restore_native(&mut self, id: Id, source: &mut Source) -> Result<()> {
        let state = source.state;
        let has_kept = self.kept.contains_key(&id);
        let line = self.open(id, source)?;
        for (in_state, in_status) in [
            (State::RECEIVE, Status::RECEIVES),
            (State::OWN_MEMORY, Status::OWN_MEMORY),
            (State::ACCEPT, Status::ACCEPTS),
        ] {
            line.status.set(in_status, state.contains(in_state));
        }
        let waits = state.intersects(State::CONNECT | State::SEND);
        line.status.set(Status::WRITES, waits);
        line.status.set(Status::KEPT, has_kept);
        if has_kept {
            self.carry(id);
        }
        self.arm_later(id);
        self.settle()
    }

    /// What an operation that is not over yet brought, or what it ended with.
    pub(super) fn poll_came(&mut self, token: Token, more: bool, result: i32) {
        let Some(line) = self.lines.of(token) else {
            return;
        };
        let is_write = token.operation() == Some(Operation::Write);
        let which = if is_write {
            Status::WRITE_POLL
        } else {
            Status::READ_POLL
        };
        line.status.set(which, more);
        let (wanted, failed) = (line.status, result < 0);
        let Some(id) = token.id(self.tag) else { return };
        if result == -libc::ECANCELED {
            return self.arm_later(id);
        }
        let told = libc::POLLOUT | libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
        let event = if is_write && wanted.contains(Status::WRITES) {
            if !failed && result & i32::from(told) == 0 {
                return self.arm_later(id);
            }
            let outcome = match failed {
                true => Err(std::io::Error::from_raw_os_error(-result).into()),
                false => Ok(()),
            };
            Event::Writable(id, outcome)
        } else if !is_write && wanted.intersects(Status::RECEIVES | Status::ACCEPTS) {
            // Whatever is wrong with it, the call that follows finds out.
            Event::Readable(id)
        } else {
            return;
        };
        self.ready.push_back(event);
    }
}
