//! What must hold between any two calls, checked by looking at everything. For tests.

use std::collections::HashMap;

use super::entries::SPARE_CHUNKS_MIN;
use super::wheel::state::{ARMED, FREE, QUEUED};
use super::wheel::{Wheel, LEVELS, SLOTS_PER_LEVEL};

impl<P: Copy> Wheel<P> {
    /// How many entries there are, stale ones included.
    pub(super) fn entry_count(&self) -> usize {
        self.slots
            .iter()
            .map(|slot| slot.iter().count())
            .sum::<usize>()
            + self.held.iter().count()
    }

    pub(super) fn check_invariants(&self) {
        self.check_slots();
        self.check_nodes();
        let (used, spare) = self.pool.counts();
        let chunks: usize = self
            .slots
            .iter()
            .chain([&self.held])
            .map(|list| list.chunk_count())
            .sum();
        assert_eq!(used, chunks, "the pool's count of chunks in use");
        assert!(
            spare <= used + SPARE_CHUNKS_MIN,
            "{spare} spare chunks, {used} in use"
        );
    }

    fn check_slots(&self) {
        for (slot, list) in self.slots.iter().enumerate() {
            let (level, bit) = (slot / SLOTS_PER_LEVEL, slot % SLOTS_PER_LEVEL);
            assert_eq!(
                self.occupied[level] >> bit & 1 == 1,
                !list.is_empty(),
                "occupancy of slot {slot}"
            );
            for entry in list.iter() {
                assert_eq!(
                    self.slot_of(entry.deadline),
                    slot,
                    "slot of {}",
                    entry.deadline
                );
            }
        }
        for list in self.slots.iter().chain([&self.held]) {
            let earliest = list.iter().map(|entry| entry.deadline).min();
            assert_eq!(list.deadline_min(), earliest.unwrap_or(u64::MAX));
        }
        for level in 0..LEVELS {
            assert_eq!(
                self.occupied_levels >> level & 1 == 1,
                self.occupied[level] != 0,
                "occupancy of level {level}"
            );
        }
        assert!(self.held.iter().all(|entry| entry.deadline <= self.now));
    }

    fn check_nodes(&self) {
        let mut entries: HashMap<(u32, u64), usize> = HashMap::new();
        for entry in self
            .slots
            .iter()
            .chain([&self.held])
            .flat_map(|list| list.iter())
        {
            *entries.entry((entry.node, entry.deadline)).or_default() += 1;
        }
        let batch = &self.due[self.due_head..];
        assert!(batch.is_sorted_by_key(|due| (due.deadline, due.start)));
        assert_eq!(self.nodes.len(), self.states.len());
        let (mut armed, mut armed_and_queued, mut free) = (0, 0, 0);
        for (index, (node, &state)) in (0..).zip(self.nodes.iter().zip(&self.states)) {
            assert_eq!(
                state & !(ARMED | QUEUED | FREE),
                0,
                "state {state} of node {index}"
            );
            assert_ne!(
                state & (ARMED | FREE),
                ARMED | FREE,
                "node {index} is armed and free"
            );
            if state & QUEUED != 0 {
                assert!(
                    entries.contains_key(&(index, node.queued)),
                    "node {index} lost its entry"
                );
            }
            armed += usize::from(state & ARMED != 0);
            free += usize::from(state & FREE != 0);
            if state == ARMED | QUEUED {
                armed_and_queued += 1;
                assert!(
                    node.queued <= node.deadline,
                    "node {index} comes up too late"
                );
            }
            let in_batch = batch
                .iter()
                .filter(|due| due.node == index && due.start == node.start)
                .count();
            assert!(in_batch <= 1);
            assert!(
                state != ARMED || in_batch == 1,
                "node {index} lost its place in the batch"
            );
        }
        assert_eq!(self.armed, armed);
        assert_eq!(self.free.len(), free);
        assert_eq!(self.stale, self.entry_count() - armed_and_queued);
        assert!(self.superseded <= self.stale);
    }
}
