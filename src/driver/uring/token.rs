//! What a submission says of itself, so that its completions are known again: an operation of a handle.

use crate::handles::Id;
use crate::slots::{name_of, GENERATION_SHIFT, INDEX_MASK, TAG_SHIFT};

/// Which operation of a handle's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Operation {
    /// A receive into the shared buffers.
    Receive = 1,
    /// Waiting until the socket is readable: listeners, and streams whose owner has the memory.
    Read = 2,
    /// Waiting until the socket is writable, for a connect or a send.
    Write = 3,
    /// A send. Only those that did not send all complete.
    Send = 4,
    // The driver's own.
    /// Another thread woke the loop.
    Wake = 5,
    /// Something of the readiness driver's is ready.
    Inner = 6,
    /// A cancellation that found nothing to cancel.
    Cancel = 7,
    /// A call for a request's job.
    Job = 8,
}

const OPERATIONS: [Operation; 8] = [
    Operation::Receive,
    Operation::Read,
    Operation::Write,
    Operation::Send,
    Operation::Wake,
    Operation::Inner,
    Operation::Cancel,
    Operation::Job,
];

/// A handle's number with the operation in place of the loop's tag, which all handles of a driver share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token(u64);

const OPERATION_MASK: u64 = 0xff << TAG_SHIFT;

impl Token {
    pub fn new(operation: Operation, id: Id) -> Token {
        Token(id.to_raw() & !OPERATION_MASK | (operation as u64) << TAG_SHIFT)
    }

    /// Of the driver itself.
    pub fn own(operation: Operation) -> Token {
        Token((operation as u64) << TAG_SHIFT)
    }

    /// A call for the job with this number.
    pub fn of_job(number: u32) -> Token {
        Token(u64::from(number) & INDEX_MASK | (Operation::Job as u64) << TAG_SHIFT)
    }

    pub fn from_raw(raw: u64) -> Token {
        Token(raw)
    }

    pub fn to_raw(self) -> u64 {
        self.0
    }

    pub fn operation(self) -> Option<Operation> {
        let number = (self.0 & OPERATION_MASK) >> TAG_SHIFT;
        OPERATIONS
            .get(usize::try_from(number).ok()?.checked_sub(1)?)
            .copied()
    }

    pub fn index(self) -> usize {
        (self.0 & INDEX_MASK) as usize
    }

    pub fn generation(self) -> u32 {
        generation(self.0)
    }

    /// The handle, with the tag of the loop's.
    pub fn id(self, tag: u64) -> Option<Id> {
        Id::from_raw(self.0 & !OPERATION_MASK | tag)
    }
}

/// The tag of a handle's loop, in its place.
pub(super) fn tag_of(id: Id) -> u64 {
    id.to_raw() & OPERATION_MASK
}

/// The handle in this slot, of this generation, with the tag of the loop's.
#[cfg_attr(not(feature = "capi"), allow(dead_code))] // loops that change threads
pub(super) fn id_of(slot: usize, generation: u32, tag: u64) -> Option<Id> {
    Id::from_raw(name_of(slot as u64, generation - 1, tag))
}

/// The part of a handle's number that tells it from others in the same slot.
pub(super) fn generation_of(id: Id) -> u32 {
    generation(id.to_raw())
}

/// The same of a handle's number or a token. From 1: no handle has 0.
fn generation(raw: u64) -> u32 {
    (raw >> GENERATION_SHIFT) as u32 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_handle_and_operation() {
        let id = Id::from_raw(0x0000_000f_ab00_0012).unwrap();
        for operation in OPERATIONS {
            let token = Token::from_raw(Token::new(operation, id).to_raw());
            assert_eq!(token.operation(), Some(operation));
            assert_eq!(token.index(), id.index() as usize);
            assert_eq!(token.generation(), generation_of(id));
            assert_eq!(token.id(tag_of(id)), Some(id));
            let again = id_of(token.index(), token.generation(), tag_of(id));
            assert_eq!(again, Some(id));
            assert_eq!(Token::own(operation).operation(), Some(operation));
        }
        assert_eq!(Token::from_raw(0).operation(), None);
        assert_eq!(Token::from_raw(u64::MAX).operation(), None);
    }
}
