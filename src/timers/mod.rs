//! The timing wheel: a set of deadlines from which the earliest come out first. A pure data
//! structure: it reads no clock, and knows nothing of the loop.
//!
//! # What it guarantees
//!
//! - A timer is never popped before its deadline, to the nanosecond, over all of `u64`.
//! - Timers come out by deadline, and those of equal deadlines in the order in which they were
//!   armed.
//! - What is armed while a phase of expiry is open is not due in that phase, whatever its deadline:
//!   a timer that restarts itself without delay cannot keep the phase from ending.
//! - Any method may be called between two pops. A phase that is left half-drained loses nothing.
//!
//! # How it works
//!
//! It is a hierarchical timing wheel (G. Varghese, T. Lauck, "Hashed and Hierarchical Timing
//! Wheels", SOSP 1987, scheme 7) of 8 levels with 64 slots each. A slot of the lowest level is one
//! tick of 2^16 ns wide, one of the next level covers 64 ticks, and so on: 16 + 8 * 6 bits are all
//! of a `u64`. An entry lies on the level of the highest group of 6 bits in which its deadline
//! differs from the wheel's position (as in tokio's wheel). So all of a lower level comes before
//! all of a higher one, and the first occupied slot is found by counting zeros in two words. When
//! the position enters a slot of a higher level, the slot's entries cascade to lower ones. A slot
//! of the lowest level that is reached is sorted: ticks are fine enough that this is little work,
//! and coarse enough that the nodes of many timers are fetched from memory at once. That is where a
//! wheel, which alone is only exact to a tick, gets exact order.
//!
//! Three things differ from the textbook, each for the cache's sake. With a million timers every
//! access to a timer's node misses it, and that is most of the cost of everything.
//!
//! - **Slots hold copies, not nodes.** An entry is a deadline and a node's number, 12 bytes, in
//!   chunks of 1 KiB. A cascade reads and writes runs of memory, and never looks at a node. (Slots
//!   that link the nodes themselves wait for one miss after another: a million random timers took
//!   five times as long to expire.)
//! - **Disarming and postponing leave the entry where it is.** A timer has at most one *queued*
//!   deadline, never later than its deadline; one entry has that deadline. When the entry comes up
//!   and the timer has been postponed, the entry is queued anew. So a timeout that is pushed back
//!   by each piece of data costs a few stores. Only arming for earlier than the queued deadline
//!   makes a second entry, and supersedes the first. An entry outlives the removal of its timer in
//!   the same way: the next timer on the node may use it.
//! - **A byte of state per node lies apart**, so that disarming does not touch the node.
//!
//! Entries that are no armed timer's are *stale*: dead (the timer was disarmed) or superseded. They
//! are dropped where they are met, and swept when they outnumber armed timers two to one. Until
//! then a stale entry may make [`Wheel::next_deadline`] answer too early, once: a loop that then
//! finds nothing due has dropped it.
//!
//! # What must hold
//!
//! - No slot before the position has entries; each entry lies where its deadline belongs, seen from
//!   the position. A deadline that is over counts as the position's tick.
//! - A node that is `QUEUED` has an entry for its queued deadline. An armed node that is not
//!   `QUEUED` is in the batch of timers taken from the last slot reached.
//! - A superseded entry that happens to have its node's queued deadline is as good as the right
//!   one: whichever is met first serves, and makes the other stale.
//! - The batch is in order, and what a slot of its tick has due is merged with it before a phase
//!   begins. An entry that comes up in the phase in which its timer was armed is held apart until
//!   the next one.
//!
//! # What it costs
//!
//! | operation | time |
//! |---|---|
//! | add, remove, arm, disarm | O(1) amortised; the sweep is the amortised part |
//! | next deadline, phase without anything due | O(1) |
//! | expiry | per timer O(1), at most 8 cascades, and O(log n) for the n timers of its tick |
//!
//! In memory a timer takes 25 bytes and its payload, and 12 for each entry, of which there are at
//! most 3 per armed timer and 1024 more; a wheel as such takes 8.5 KB. Emptied chunks are kept for
//! reuse, at most as many as are in use, and 16. The nodes' slab keeps the size of the most timers
//! at once until the last one is removed.

mod entries;
mod expiry;
mod wheel;

pub(crate) use expiry::Expired;
pub(crate) use wheel::{TimerKey, Wheel};

#[cfg(test)]
mod invariants;
#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
