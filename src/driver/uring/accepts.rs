//! Accepting.

use super::lines::Status;
use super::Uring;
use crate::driver::readiness::work::is_of_one_connection;
use crate::driver::{would_block, Completion, Source, Sources, State, GONE_MAX};
use crate::error::{Error, Result};
use crate::handles::Id;
use crate::sys;

/// The listener that is accepted from.
pub(super) struct Accepting {
    id: Id,
    accepted: u32,
}

impl Uring {
    pub(super) fn start_accepting(
        &mut self,
        id: Id,
        source: &mut Source,
        per_turn: u32,
    ) -> Result<()> {
        source.state.insert(State::ACCEPT);
        self.accept_limits.retain(|(listener, _)| *listener != id);
        self.accept_limits.push((id, per_turn.max(1)));
        let line = self.open(id, source)?;
        line.status.insert(Status::ACCEPTS);
        if line.status.contains(Status::READ_POLL) {
            // What came while it did not accept is not told again.
            self.carry(id);
        }
        self.arm_later(id);
        self.settle()
    }

    pub(super) fn begin_accepting(&mut self, id: Id) {
        self.accepting = Some(Accepting { id, accepted: 0 });
        // The poll may have ended.
        self.arm_later(id);
    }

    pub(super) fn accept_next<S: Sources>(
        &mut self,
        mut now: Accepting,
        sources: &mut S,
    ) -> Option<Completion> {
        let id = now.id;
        let source = sources.source(id)?;
        let mut limits = self.accept_limits.iter();
        let limit = limits.find(|(listener, _)| *listener == id)?.1;
        let mut gone = 0;
        while source.state.contains(State::ACCEPT) {
            if now.accepted >= limit {
                self.carry(id);
                return None;
            }
            let accepted = source.socket().map_err(std::io::Error::from);
            match accepted.and_then(sys::accept) {
                Ok(socket) => {
                    now.accepted += 1;
                    self.accepting = Some(now);
                    return Some(Completion::Accepted(id, socket));
                }
                Err(error) if would_block(&error) => return None,
                Err(error) => {
                    let error = Error::from(error);
                    if is_of_one_connection(error.code()) && gone < GONE_MAX {
                        gone += 1;
                        continue;
                    }
                    source.state.remove(State::ACCEPT);
                    self.lines.get(id)?.status.remove(Status::ACCEPTS);
                    return Some(Completion::AcceptFailed(id, error));
                }
            }
        }
        None
    }
}
