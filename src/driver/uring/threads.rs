//! A loop that goes from one thread to another. A ring with deferred work belongs to the thread that made it, so what
//! is under way ends in the old thread and begins again in the new one, in a ring of its own.

use super::lines::Status;
use super::token::{id_of, Operation, Token};
use super::Uring;
use crate::error::Result;

impl Uring {
    /// Ends all that is under way, and keeps what came.
    pub(super) fn end_all(&mut self) -> Result<()> {
        let tag = self.tag;
        let under_way: Vec<Token> = self
            .lines
            .all()
            .flat_map(|(slot, generation, line)| {
                let id = id_of(slot, generation, tag);
                let status = line.status;
                let of = move |which: Status, operation| {
                    let id = id.filter(|_| status.contains(which))?;
                    Some(Token::new(operation, id))
                };
                [
                    of(Status::RECEIVING, Operation::Receive),
                    of(Status::READ_POLL, Operation::Read),
                    of(Status::WRITE_POLL, Operation::Write),
                ]
            })
            .flatten()
            .collect();
        for token in &under_way {
            self.cancel(*token)?;
        }
        self.cancel(Token::own(Operation::Inner))?;
        self.flush()?;
        // The kernel ends a few at a time.
        for _ in 0..under_way.len() + 2 {
            let left = self
                .lines
                .all()
                .any(|(_, _, line)| line.status.intersects(Status::UNDER_WAY));
            if !left && !self.watches_inner {
                break;
            }
            self.run_now()?;
        }
        self.keep_all();
        self.ring.leave_thread();
        Ok(())
    }

    /// Begins again, in a new ring, what [`Uring::end_all`] ended.
    pub(super) fn begin_all(&mut self) -> Result<()> {
        let tag = self.tag;
        let mut all = Vec::new();
        for (slot, generation, line) in self.lines.all() {
            line.status.remove(Status::UNDER_WAY | Status::CANCELLED);
            all.extend(id_of(slot, generation, tag));
        }
        for id in all {
            self.arm_later(id);
        }
        self.settle()
    }
}
