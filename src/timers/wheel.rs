//! The wheel itself: its nodes, its slots, and every operation but expiry (see `expiry.rs`).

use super::entries::{ChunkPool, Entry, EntryList};

/// The lowest level's slots are 2^16 ns (65.5 µs) wide.
pub(super) const TICK_BITS: u32 = 16;
const LEVEL_BITS: u32 = 6;
pub(super) const SLOTS_PER_LEVEL: usize = 1 << LEVEL_BITS;
/// 16 + 8 * 6 bits: all of u64.
pub(super) const LEVELS: usize = ((u64::BITS - TICK_BITS) / LEVEL_BITS) as usize;

/// Stale entries that are left alone: this many, and [`STALE_PER_ARMED`] per armed timer.
pub(super) const STALE_MIN: usize = 1024;
pub(super) const STALE_PER_ARMED: usize = 2;

/// A slab no longer than this is kept when its last timer is removed.
pub(super) const NODES_KEPT: usize = 1024;

/// Names a timer of a wheel, from [`Wheel::add`] to [`Wheel::remove`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TimerKey(pub(super) u32);

impl TimerKey {
    /// Never the key of a timer.
    pub(crate) const NONE: TimerKey = TimerKey(u32::MAX);

    /// Counted from 0 on: never more than the most timers that there were at once.
    #[inline]
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    #[inline]
    pub(crate) fn from_number(number: u32) -> TimerKey {
        TimerKey(number)
    }
}

/// What a node is, as bits of its byte in `Wheel::states`. These bytes are apart from the nodes so
/// that disarming a timer, and dropping its entry, need not touch its node: of a million timers
/// they fit the cache, the nodes do not.
pub(super) mod state {
    /// Due at the node's deadline. Without `QUEUED`: it is in the batch of due timers.
    pub(crate) const ARMED: u8 = 1;
    /// The node has an entry, at `Node::queued`. Without `ARMED` the entry is dead, but arming
    /// again can revive it.
    pub(crate) const QUEUED: u8 = 2;
    /// No timer's: waits for the next `add`.
    pub(crate) const FREE: u8 = 4;
    /// Only during a sweep: its entry has been met.
    pub(crate) const SWEPT: u8 = 8;
}
use state::{ARMED, FREE, QUEUED, SWEPT};

/// A timer. With a payload of 8 bytes two of them fill a cache line.
pub(super) struct Node<P> {
    /// When it is due, while armed.
    pub(super) deadline: u64,
    /// The deadline of its entry, while it has one; never later than `deadline` while armed.
    pub(super) queued: u64,
    /// Its place in start order, unique to each arming.
    pub(super) start: u64,
    pub(super) payload: P,
}

/// A timer that is due, as it was when its slot was reached.
pub(super) struct Due {
    pub(super) deadline: u64,
    pub(super) start: u64,
    pub(super) node: u32,
}

/// A set of timers, each with a `P` of the user's. See the module's description.
pub(crate) struct Wheel<P> {
    pub(super) nodes: Vec<Node<P>>,
    /// A byte of [`state`] bits per node.
    pub(super) states: Vec<u8>,
    /// The free nodes; the last freed is the first reused, for it may have an entry that the next
    /// timer can use.
    pub(super) free: Vec<u32>,
    pub(super) slots: Box<[EntryList; LEVELS * SLOTS_PER_LEVEL]>,
    /// A bit per slot that is not empty.
    pub(super) occupied: [u64; LEVELS],
    /// A bit per level that is not empty.
    pub(super) occupied_levels: u32,
    /// The tick that the wheel has turned to. No slot before it holds an entry.
    pub(super) position: u64,
    /// The latest time seen.
    pub(super) now: u64,
    pub(super) in_phase: bool,
    /// The last place in start order that can be due in the current phase.
    pub(super) phase_start: u64,
    /// Entries of timers that were armed in the current phase, with a deadline in it: due in the
    /// next one.
    pub(super) held: EntryList,
    /// What was due in the slot reached last, in order from `due_head` on.
    pub(super) due: Vec<Due>,
    pub(super) due_head: usize,
    /// How long the batch was after it was last compacted.
    pub(super) due_compacted: usize,
    pub(super) pool: ChunkPool,
    pub(super) armed: usize,
    /// Entries that are not an armed timer's: dead and superseded ones.
    pub(super) stale: usize,
    /// Entries that are no longer their node's, for it was queued anew for an earlier deadline.
    pub(super) superseded: usize,
    pub(super) last_start: u64,
}

impl<P: Copy> Wheel<P> {
    /// A wheel without timers, standing at `now`.
    pub(crate) fn new(now: u64) -> Wheel<P> {
        Wheel {
            nodes: Vec::new(),
            states: Vec::new(),
            free: Vec::new(),
            slots: Box::new([const { EntryList::EMPTY }; LEVELS * SLOTS_PER_LEVEL]),
            occupied: [0; LEVELS],
            occupied_levels: 0,
            position: now >> TICK_BITS,
            now,
            in_phase: false,
            phase_start: 0,
            held: EntryList::EMPTY,
            due: Vec::new(),
            due_head: 0,
            due_compacted: 0,
            pool: ChunkPool::new(),
            armed: 0,
            stale: 0,
            superseded: 0,
            last_start: 0,
        }
    }

    /// A new, disarmed timer. `payload` is given back when it expires.
    pub(crate) fn add(&mut self, payload: P) -> TimerKey {
        if let Some(index) = self.free.pop() {
            self.states[index as usize] &= !FREE;
            self.nodes[index as usize].payload = payload;
            return TimerKey(index);
        }
        let index = self.nodes.len();
        assert!(
            index < TimerKey::NONE.0 as usize,
            "a timing wheel holds at most 2^32 - 1 timers"
        );
        if index == self.nodes.capacity() {
            self.grow();
        }
        self.nodes.push(Node {
            deadline: 0,
            queued: 0,
            start: 0,
            payload,
        });
        self.states.push(0);
        TimerKey(index as u32)
    }

    /// By half, where `Vec` would double: the slab is most of the wheel's memory.
    #[cold]
    fn grow(&mut self) {
        let more = (self.nodes.len() / 2).max(32);
        self.nodes.reserve_exact(more);
        self.states.reserve_exact(more);
    }

    /// Disarms a timer and forgets it; `key` is no longer its name.
    pub(crate) fn remove(&mut self, key: TimerKey) {
        self.disarm(key);
        let state = &mut self.states[key.0 as usize];
        debug_assert_eq!(*state & FREE, 0, "removed twice");
        *state |= FREE;
        self.free.push(key.0);
        if self.free.len() == self.nodes.len() && self.nodes.len() > NODES_KEPT {
            self.clear();
        }
    }

    /// Makes a timer due at `deadline`, whether or not it was armed, and the last in start order. A
    /// `deadline` that is over makes it due in the next phase to begin.
    #[inline(never)]
    pub(crate) fn arm(&mut self, key: TimerKey, deadline: u64) {
        self.arm_inline(key, deadline);
    }

    /// As [`Wheel::arm`], for the caller that does it a million times. Whether it was armed.
    #[inline(always)]
    pub(crate) fn arm_inline(&mut self, key: TimerKey, deadline: u64) -> bool {
        // Both, before anything is written: so the compiler knows that they stay where they are.
        let state = &mut self.states[key.0 as usize];
        let node = &mut self.nodes[key.0 as usize];
        let was = *state;
        debug_assert_eq!(was & FREE, 0, "armed after its removal");
        *state = ARMED | QUEUED;
        self.armed += usize::from(was & ARMED == 0);
        self.last_start += 1;
        node.start = self.last_start;
        node.deadline = deadline;
        if was & QUEUED != 0 {
            if node.queued <= deadline {
                self.stale -= usize::from(was & ARMED == 0);
                return was & ARMED != 0;
            }
            self.stale += usize::from(was & ARMED != 0);
            self.superseded += 1;
        }
        node.queued = deadline;
        self.place(Entry {
            deadline,
            node: key.0,
        });
        if was & QUEUED != 0 {
            self.bound_stale();
        }
        was & ARMED != 0
    }

    /// Makes a timer due never.
    #[inline]
    pub(crate) fn disarm(&mut self, key: TimerKey) {
        let state = &mut self.states[key.0 as usize];
        if *state & ARMED == 0 {
            return;
        }
        *state &= !ARMED;
        self.armed -= 1;
        if *state & QUEUED != 0 {
            self.stale += 1;
            self.bound_stale();
        }
    }

    /// Whether the timer is armed.
    #[inline]
    pub(crate) fn is_armed(&self, key: TimerKey) -> bool {
        self.states[key.0 as usize] & ARMED != 0
    }

    /// Whether this is the payload of the timer, or of the one that was there last.
    #[inline]
    pub(crate) fn is_of(&self, key: TimerKey, payload: P) -> bool
    where
        P: PartialEq,
    {
        let node = self.nodes.get(key.0 as usize);
        node.is_some_and(|node| node.payload == payload)
    }

    /// When a timer is due; `None` if it is not armed.
    pub(crate) fn deadline(&self, key: TimerKey) -> Option<u64> {
        self.is_armed(key)
            .then(|| self.nodes[key.0 as usize].deadline)
    }

    /// How many timers there are, armed or not.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// How many timers are armed.
    pub(crate) fn len(&self) -> usize {
        self.armed
    }

    /// The earliest deadline of an armed timer; `None` if none is armed.
    ///
    /// Exact as long as no timer was disarmed, removed or re-armed while it waited. What such a
    /// timer left behind can make the answer earlier than that, but only until a phase with that
    /// time has been drained.
    #[inline]
    pub(crate) fn next_deadline(&mut self) -> Option<u64> {
        if self.armed == 0 {
            return None;
        }
        let mut earliest = self.held.deadline_min();
        if let Some(slot) = self.first_slot() {
            earliest = earliest.min(self.slots[slot].deadline_min());
        }
        while let Some(due) = self.due.get(self.due_head) {
            if self.is_due(due) {
                earliest = earliest.min(due.deadline);
                break;
            }
            self.due_head += 1;
        }
        Some(earliest)
    }

    /// Whether a timer of the batch is still as it was when it came there.
    #[inline]
    pub(super) fn is_due(&self, due: &Due) -> bool {
        self.states[due.node as usize] == ARMED && self.nodes[due.node as usize].start == due.start
    }

    /// The slot that comes first in time.
    #[inline]
    pub(super) fn first_slot(&self) -> Option<usize> {
        let level = self.occupied_levels.trailing_zeros() as usize;
        let occupied = self.occupied.get(level)?;
        Some(level * SLOTS_PER_LEVEL + occupied.trailing_zeros() as usize)
    }

    /// The first tick of a slot, seen from the wheel's position.
    #[inline]
    pub(super) fn first_tick(&self, slot: usize) -> u64 {
        let shift = (slot / SLOTS_PER_LEVEL) as u32 * LEVEL_BITS;
        let index = (slot % SLOTS_PER_LEVEL) as u64;
        (((self.position >> shift) & !(SLOTS_PER_LEVEL as u64 - 1)) | index) << shift
    }

    /// The slot where a deadline belongs, seen from the wheel's position: on the level of the
    /// highest group of bits in which the two differ.
    #[inline]
    pub(super) fn slot_of(&self, deadline: u64) -> usize {
        let tick = (deadline >> TICK_BITS).max(self.position);
        let differing = (tick ^ self.position) | 1;
        let level = differing.ilog2() / LEVEL_BITS;
        let index = (tick >> (level * LEVEL_BITS)) as usize % SLOTS_PER_LEVEL;
        level as usize * SLOTS_PER_LEVEL + index
    }

    #[inline]
    pub(super) fn place(&mut self, entry: Entry) {
        let slot = self.slot_of(entry.deadline);
        if !self.slots[slot].push_within(entry) {
            self.place_in_new_chunk(slot, entry);
        }
    }

    #[inline(never)]
    fn place_in_new_chunk(&mut self, slot: usize, entry: Entry) {
        let level = slot / SLOTS_PER_LEVEL;
        self.occupied_levels |= 1 << level;
        self.occupied[level] |= 1 << (slot % SLOTS_PER_LEVEL);
        self.slots[slot].push(entry, &mut self.pool);
    }

    /// Puts all entries of a list where they belong.
    pub(super) fn place_all(&mut self, mut list: EntryList) {
        while let Some(chunk) = list.pop_chunk() {
            for entry in chunk.entries() {
                self.place(entry);
            }
            self.pool.put(chunk);
        }
    }

    /// Empties a slot.
    pub(super) fn take_slot(&mut self, slot: usize) -> EntryList {
        let level = slot / SLOTS_PER_LEVEL;
        self.occupied[level] &= !(1 << (slot % SLOTS_PER_LEVEL));
        if self.occupied[level] == 0 {
            self.occupied_levels &= !(1 << level);
        }
        self.slots[slot].take()
    }

    /// Keeps the entries' number in proportion to the armed timers'.
    #[inline]
    pub(super) fn bound_stale(&mut self) {
        if self.stale > STALE_MIN + STALE_PER_ARMED * self.armed {
            self.sweep();
        }
    }

    /// Drops all stale entries.
    #[cold]
    #[inline(never)]
    fn sweep(&mut self) {
        for slot in 0..self.slots.len() {
            let mut list = self.take_slot(slot);
            while let Some(chunk) = list.pop_chunk() {
                for entry in chunk.entries() {
                    if self.survives_sweep(entry) {
                        self.place(entry);
                    }
                }
                self.pool.put(chunk);
            }
        }
        let mut list = self.held.take();
        while let Some(chunk) = list.pop_chunk() {
            for entry in chunk.entries() {
                if self.survives_sweep(entry) {
                    self.held.push(entry, &mut self.pool);
                }
            }
            self.pool.put(chunk);
        }
        for state in &mut self.states {
            *state &= !SWEPT;
        }
        self.stale = 0;
        self.superseded = 0;
    }

    /// A disarmed node loses all its entries in a sweep; an armed one keeps one that is at the
    /// deadline it is queued for (superseded ones may be there too). The node itself is only looked
    /// at where there are superseded entries.
    #[inline]
    fn survives_sweep(&mut self, entry: Entry) -> bool {
        let state = &mut self.states[entry.node as usize];
        if *state & ARMED == 0 {
            *state &= !QUEUED;
            return false;
        }
        if self.superseded == 0 {
            return true;
        }
        if *state != ARMED | QUEUED || self.nodes[entry.node as usize].queued != entry.deadline {
            return false;
        }
        *state |= SWEPT;
        true
    }

    /// Gives all memory back; for when no node is in use.
    #[cold]
    fn clear(&mut self) {
        *self = Wheel::new(self.now);
    }
}
