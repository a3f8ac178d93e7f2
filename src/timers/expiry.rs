//! Expiry: turning the wheel to a later time and giving out what is due.

use std::mem;

use super::entries::Entry;
use super::wheel::state::{ARMED, QUEUED};
use super::wheel::{Due, Wheel, SLOTS_PER_LEVEL, TICK_BITS};

/// The batch keeps memory for this many timers while it is empty.
const BATCH_KEPT: usize = 1024;

/// A timer that has expired.
#[derive(Debug)]
pub(crate) struct Expired<P> {
    /// What [`Wheel::add`] was given.
    pub(crate) payload: P,
    /// What it was due at.
    pub(crate) deadline: u64,
}

impl Due {
    fn order(&self) -> u128 {
        u128::from(self.deadline) << 64 | u128::from(self.start)
    }
}

impl<P: Copy> Wheel<P> {
    /// Opens an expiry phase: what is armed now with a deadline of `now` or earlier is due in it.
    /// What is armed later is due in the next phase at the earliest. Time that goes back is taken
    /// as time that stands still.
    pub(crate) fn begin_expiry(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.in_phase = true;
        self.phase_start = self.last_start;
        if !self.held.is_empty() {
            let held = self.held.take();
            self.place_all(held);
        }
        if self.due_head < self.due.len() {
            // The batch is not used up: what has come to its tick since must be put in order with
            // it.
            let slot = self.position as usize % SLOTS_PER_LEVEL;
            if self.slots[slot].deadline_min() <= self.now {
                self.compact_batch();
                self.gather(slot);
            }
        }
    }

    /// Takes the next timer that is due in this phase, earliest deadline first, then in start
    /// order, and disarms it. `None` ends the phase. Until then any other method may be called; a
    /// timer that is disarmed, removed or re-armed before its turn has come is not taken.
    #[inline]
    pub(crate) fn pop_expired(&mut self) -> Option<Expired<P>> {
        if !self.in_phase {
            return None;
        }
        loop {
            while let Some(due) = self.due.get(self.due_head) {
                if self.is_due(due) {
                    if due.deadline > self.now {
                        self.end_phase();
                        return None;
                    }
                    let (index, deadline) = (due.node as usize, due.deadline);
                    self.due_head += 1;
                    self.states[index] = 0;
                    self.armed -= 1;
                    return Some(Expired {
                        payload: self.nodes[index].payload,
                        deadline,
                    });
                }
                self.due_head += 1;
            }
            if !self.advance() {
                self.end_phase();
                return None;
            }
        }
    }

    /// The timers that [`Wheel::pop_expired`] looks at next, as far as they are gathered already.
    pub(crate) fn upcoming(&self) -> impl Iterator<Item = P> + '_ {
        let gathered = self.due.get(self.due_head..).unwrap_or(&[]);
        gathered
            .iter()
            .map(|due| self.nodes[due.node as usize].payload)
    }

    fn end_phase(&mut self) {
        self.in_phase = false;
        self.bound_stale();
    }

    /// Turns the wheel to the next slot that has something due, and gathers that. False: nothing
    /// more is due.
    fn advance(&mut self) -> bool {
        self.clear_batch();
        let target = self.now >> TICK_BITS;
        while let Some(slot) = self.first_slot() {
            let first_tick = self.first_tick(slot);
            if first_tick > target {
                break;
            }
            let deadline_min = self.slots[slot].deadline_min();
            if slot < SLOTS_PER_LEVEL {
                self.position = first_tick;
                if deadline_min > self.now {
                    break;
                }
                self.gather(slot);
                if !self.due.is_empty() {
                    return true;
                }
            } else {
                // Straight to the first entry, not to the slot's beginning: a lone timer skips the
                // levels between.
                self.position = target.min(deadline_min >> TICK_BITS);
                let cascading = self.take_slot(slot);
                self.place_all(cascading);
            }
        }
        self.position = target;
        false
    }

    /// Moves the entries of the slot at the wheel's position to the batch, and puts it in order.
    fn gather(&mut self, slot: usize) {
        let tick_end = self.position << TICK_BITS | ((1 << TICK_BITS) - 1);
        let gathered_before = self.due.len();
        let mut list = self.take_slot(slot);
        while let Some(chunk) = list.pop_chunk() {
            for entry in chunk.entries() {
                let state = &mut self.states[entry.node as usize];
                let node = &mut self.nodes[entry.node as usize];
                if *state & QUEUED == 0 || node.queued != entry.deadline {
                    self.superseded -= 1;
                    self.stale -= 1;
                } else if *state & ARMED == 0 {
                    *state &= !QUEUED;
                    self.stale -= 1;
                } else if node.deadline > tick_end {
                    // Re-armed to a later deadline since it was queued.
                    let deadline = node.deadline;
                    node.queued = deadline;
                    self.place(Entry { deadline, ..entry });
                } else if node.start > self.phase_start && node.deadline <= self.now {
                    // Armed in this phase: due in the next.
                    self.held.push(entry, &mut self.pool);
                } else {
                    *state = ARMED;
                    self.due.push(Due {
                        deadline: node.deadline,
                        start: node.start,
                        node: entry.node,
                    });
                }
            }
            self.pool.put(chunk);
        }
        let (before, gathered) = self.due.split_at_mut(gathered_before);
        gathered.sort_unstable_by_key(Due::order);
        let in_order = match (before[self.due_head..].last(), gathered.first()) {
            (Some(last), Some(first)) => last.order() < first.order(),
            _ => true,
        };
        if !in_order {
            // Two ascending runs: the stable sort finds and merges them.
            self.due[self.due_head..].sort_by_key(Due::order);
        }
    }

    fn clear_batch(&mut self) {
        self.due.clear();
        self.due.shrink_to(BATCH_KEPT);
        self.due_head = 0;
        self.due_compacted = 0;
    }

    /// Drops what is used up or void, each time the batch has doubled.
    fn compact_batch(&mut self) {
        if self.due.len() < 2 * self.due_compacted + BATCH_KEPT {
            return;
        }
        let mut due = mem::take(&mut self.due);
        due.retain(|due| self.is_due(due));
        self.due_head = 0;
        self.due_compacted = due.len();
        self.due = due;
    }
}
