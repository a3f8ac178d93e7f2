//! What starting and stopping a timer must know of it, in four bytes.
//!
//! With a million timers each look at a handle's entry in the table of handles is a miss of the
//! cache, and it is two lines long. So what is needed for a one-shot timer stands here, where
//! sixteen timers share a line: its place in the wheel and a few bits. That the handle is alive is
//! seen at that place, which is looked at anyway: the wheel keeps there whose it is. The entry is
//! only looked at when the timer fires, or has a period.

use crate::error::{Code, Result};
use crate::handles::Id;
use crate::slots::INDEX_BITS;
use crate::timers::{TimerKey, Wheel};

/// What the table has of a handle; 0: it is no timer.
#[derive(Clone, Copy)]
pub(crate) struct Mark(u32);

/// The timer's place in the wheel, which has no more places than there are handles.
const PLACE: u32 = (1 << INDEX_BITS) - 1;
/// There is a timer.
const OPEN: u32 = 1 << INDEX_BITS;
/// While it runs it keeps the loop alive.
const REFERENCED: u32 = OPEN << 1;
/// Its entry has a period.
const REPEATS: u32 = OPEN << 2;

impl Mark {
    const NONE: Mark = Mark(0);

    fn is_timer(self) -> bool {
        self.0 != 0
    }

    #[inline]
    pub fn key(self) -> TimerKey {
        TimerKey::from_number(self.0 & PLACE)
    }

    #[inline]
    pub fn is_referenced(self) -> bool {
        self.0 & REFERENCED != 0
    }

    #[inline]
    pub fn repeats(self) -> bool {
        self.0 & REPEATS != 0
    }

    fn set(&mut self, bit: u32, on: bool) {
        match on {
            true => self.0 |= bit,
            false => self.0 &= !bit,
        }
    }
}

/// A table of this length is kept when the last timer is closed.
const KEPT: usize = 1024;

/// The open timers, by the index of their handles. Whether one runs, the wheel knows.
pub(crate) struct TimerTable {
    marks: Vec<Mark>,
    open: usize,
    /// Timers that run and are referenced.
    holding: usize,
}

impl TimerTable {
    pub const fn new() -> TimerTable {
        TimerTable {
            marks: Vec::new(),
            open: 0,
            holding: 0,
        }
    }

    /// A new timer, which does not run.
    pub fn add(&mut self, timer: Id, key: TimerKey) {
        let index = timer.index() as usize;
        if index >= self.marks.len() {
            self.marks.resize(index + 1, Mark::NONE);
        }
        debug_assert!(!self.marks[index].is_timer() && key.number() <= PLACE);
        self.marks[index] = Mark(key.number() | OPEN | REFERENCED);
        self.open += 1;
    }

    /// Forgets a timer, which still has its place in the wheel.
    pub fn remove(&mut self, timer: Id, wheel: &Wheel<Id>) {
        let Ok(mark) = self.find(timer, wheel) else {
            return;
        };
        self.count(mark.is_referenced() && wheel.is_armed(mark.key()), false);
        self.marks[timer.index() as usize] = Mark::NONE;
        self.open -= 1;
        if self.open == 0 && self.marks.len() > KEPT {
            self.marks = Vec::new();
        }
    }

    /// What there is of an open timer.
    #[inline]
    pub fn find(&self, timer: Id, wheel: &Wheel<Id>) -> Result<Mark> {
        match self.marks.get(timer.index() as usize) {
            Some(mark) if mark.is_timer() && wheel.is_of(mark.key(), timer) => Ok(*mark),
            _ => Err(Code::EBADF.into()),
        }
    }

    /// A referenced timer, if it is one, runs now and did not before, or the other way round.
    #[inline]
    pub fn count(&mut self, is_one: bool, runs: bool) {
        match runs {
            true => self.holding += usize::from(is_one),
            false => self.holding -= usize::from(is_one),
        }
    }

    /// Whether the open timer's entry has a period.
    pub fn set_repeats(&mut self, timer: Id, on: bool) {
        if let Some(mark) = self.marks.get_mut(timer.index() as usize) {
            mark.set(REPEATS, on);
        }
    }

    /// For any handle.
    pub fn set_referenced(&mut self, timer: Id, on: bool, wheel: &Wheel<Id>) {
        let Ok(mark) = self.find(timer, wheel) else {
            return;
        };
        let runs = wheel.is_armed(mark.key());
        self.count(runs && mark.is_referenced(), false);
        self.count(runs && on, true);
        self.marks[timer.index() as usize].set(REFERENCED, on);
    }

    /// Whether the handle is a timer that runs.
    pub fn is_active(&self, timer: Id, wheel: &Wheel<Id>) -> bool {
        let mark = self.find(timer, wheel);
        mark.is_ok_and(|mark| wheel.is_armed(mark.key()))
    }

    /// Whether there is anything of a handle: of one that is being removed there must not be.
    pub fn has_mark(&self, handle: Id) -> bool {
        let mark = self.marks.get(handle.index() as usize);
        mark.is_some_and(|mark| mark.is_timer())
    }

    /// How many timers keep the loop alive.
    #[inline]
    pub fn holding(&self) -> usize {
        self.holding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Timers with these indices.
    fn opened(indices: &[u64]) -> (TimerTable, Wheel<Id>, Vec<Id>) {
        let (mut table, mut wheel) = (TimerTable::new(), Wheel::new(0));
        let ids: Vec<Id> = indices.iter().map(|index| Id::in_slot(*index, 0)).collect();
        for id in &ids {
            table.add(*id, wheel.add(*id));
        }
        (table, wheel, ids)
    }

    #[test]
    fn only_timers_that_run_and_are_referenced_hold() {
        let (mut table, mut wheel, ids) = opened(&[7, 3]);
        let marks = [0, 1].map(|index| table.find(ids[index], &wheel).unwrap());
        table.set_referenced(ids[0], false, &wheel);
        assert_eq!(table.holding(), 0);
        for mark in marks {
            wheel.arm(mark.key(), 100);
        }
        table.count(true, true);
        assert_eq!(table.holding(), 1);
        for (on, holding) in [(true, 2), (true, 2), (false, 1), (false, 1)] {
            table.set_referenced(ids[0], on, &wheel);
            assert_eq!(table.holding(), holding);
            assert!(table.is_active(ids[0], &wheel));
        }
        table.remove(ids[0], &wheel);
        assert_eq!(table.holding(), 1);
        table.remove(ids[1], &wheel);
        assert_eq!(table.holding(), 0);
    }

    #[test]
    fn what_is_no_open_timer_is_not_found() {
        let (mut table, mut wheel, ids) = opened(&[5, 2000]);
        let next = Id::in_slot(5, 1);
        for stranger in [Id::in_slot(4, 0), Id::in_slot(2001, 0), Id::in_slot(5, 7)] {
            assert!(table.find(stranger, &wheel).is_err());
        }
        let key = table.find(ids[0], &wheel).unwrap().key();
        table.remove(ids[0], &wheel);
        wheel.remove(key);
        assert!(table.find(ids[0], &wheel).is_err());
        // The slot has another timer, and so has the place in the wheel.
        table.add(next, wheel.add(next));
        assert!(table.find(next, &wheel).unwrap().key() == key);
        assert!(table.find(ids[0], &wheel).is_err());
        table.remove(ids[0], &wheel);
        assert!(table.find(next, &wheel).is_ok());
    }

    #[test]
    fn a_long_table_is_given_back_with_the_last_timer() {
        let (mut table, wheel, ids) = opened(&[9, 5000]);
        table.remove(ids[1], &wheel);
        table.remove(ids[1], &wheel);
        assert!(table.marks.len() > KEPT);
        table.remove(ids[0], &wheel);
        assert_eq!(table.marks.capacity(), 0);
    }
}
