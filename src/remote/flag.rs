//! The flag by which the loop is told that it is to look. Why a raised one needs nothing more: see the head of
//! `remote.rs`.

use std::sync::atomic::Ordering;

use super::threads::{self, AtomicU8};

/// A flag that many threads raise and the loop's thread lowers, until it is struck for good.
pub(super) struct Flag {
    /// Of [`bits`].
    state: AtomicU8,
    /// What raising sets.
    raises: u8,
}

/// What a [`Flag`] is, all in one byte, so that finding it raised is one comparison.
mod bits {
    /// Raised. Where there is no heavy barrier, always together with [`EXCHANGE`].
    pub const RAISED: u8 = 1;
    /// There is no heavy barrier: who finds it raised must make an exchange nevertheless.
    pub const EXCHANGE: u8 = 2;
    /// Nobody waits for it any more.
    pub const STRUCK: u8 = 4;
}

/// What raising a flag has come upon.
#[derive(PartialEq, Eq)]
pub(super) enum Raised {
    /// It was down: the loop is to be told.
    Anew,
    Before,
    /// Nobody waits for it any more.
    Never,
}

impl Flag {
    pub fn new() -> Flag {
        Flag {
            state: AtomicU8::new(0),
            raises: match threads::has_heavy_barrier() {
                true => bits::RAISED,
                false => bits::RAISED | bits::EXCHANGE,
            },
        }
    }

    /// Whether it is up, and nothing is to be done: the loop's thread makes the barrier. What
    /// raisers ask first.
    #[inline]
    pub fn is_up(&self) -> bool {
        threads::light_barrier();
        self.state.load(Ordering::Relaxed) == bits::RAISED
    }

    /// Raises it, by an exchange.
    pub fn raise(&self) -> Raised {
        let former = self.state.fetch_or(self.raises, Ordering::AcqRel);
        match former {
            _ if former & bits::STRUCK != 0 => Raised::Never,
            _ if former & bits::RAISED != 0 => Raised::Before,
            _ => Raised::Anew,
        }
    }

    /// Whether it is up. By the loop's thread.
    pub fn is_raised(&self) -> bool {
        self.state.load(Ordering::Relaxed) & bits::RAISED != 0
    }

    /// Lowers it. By the loop's thread, which must pass [`Flag::barrier`] before it looks for
    /// what the flag announced.
    pub fn lower(&self) {
        self.state.fetch_and(bits::STRUCK, Ordering::AcqRel);
    }

    /// From now on raising it does nothing, and says so.
    pub fn strike(&self) {
        self.state.fetch_or(bits::STRUCK, Ordering::AcqRel);
    }

    pub fn barrier(&self) {
        if self.raises & bits::EXCHANGE == 0 {
            threads::heavy_barrier();
        }
    }
}
