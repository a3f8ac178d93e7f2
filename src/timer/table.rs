//! What starting and stopping a timer must know of it, in four bytes.
//!
//! With a million timers each look at a handle's entry in the table of handles is a miss of the
//! cache, and it is two lines long. So what is needed for a one-shot timer stands here, where
//! sixteen timers share a line: its place in the wheel and three bits. That the handle is alive is
//! seen at that place, which is looked at anyway: the wheel keeps there whose it is. The entry is
//! only looked at when the timer fires, or has a period.

use crate::error::{Code, Result};
use crate::handles::Id;
use crate::slots::INDEX_BITS;
use crate::timers::{TimerKey, Wheel};

/// The timer's place in the wheel, which has no more places than there are handles.
const PLACE: u32 = (1 << INDEX_BITS) - 1;
/// There is a timer.
const OPEN: u32 = 1 << INDEX_BITS;
/// It runs.
const ACTIVE: u32 = OPEN << 1;
/// While it runs it keeps the loop alive.
const REFERENCED: u32 = OPEN << 2;
/// Its entry has a period.
const REPEATS: u32 = OPEN << 3;

/// A table of this length is kept when the last timer is closed.
const KEPT: usize = 1024;

/// The open timers, by the index of their handles.
pub(crate) struct TimerTable {
    /// 0 where the handle is no timer.
    marks: Vec<u32>,
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
            self.marks.resize(index + 1, 0);
        }
        debug_assert!(self.marks[index] == 0 && key.number() <= PLACE);
        self.marks[index] = key.number() | OPEN | REFERENCED;
        self.open += 1;
    }

    /// Forgets a handle, if it is a timer.
    pub fn remove(&mut self, timer: Id) {
        self.stopped(timer);
        let Some(mark) = self.marks.get_mut(timer.index() as usize) else {
            return;
        };
        self.open -= usize::from(*mark != 0);
        *mark = 0;
        if self.open == 0 && self.marks.len() > KEPT {
            self.marks = Vec::new();
        }
    }

    /// Where the mark of an open timer is.
    #[inline]
    fn find(&mut self, timer: Id, wheel: &Wheel<Id>) -> Result<&mut u32> {
        match self.marks.get_mut(timer.index() as usize) {
            Some(mark) if *mark != 0 && wheel.is_of(place(*mark), timer) => Ok(mark),
            _ => Err(Code::EBADF.into()),
        }
    }

    /// The place in the wheel of an open timer.
    pub fn key(&mut self, timer: Id, wheel: &Wheel<Id>) -> Result<TimerKey> {
        self.find(timer, wheel).map(|mark| place(*mark))
    }

    /// The timer runs from now on. Its place in the wheel, where it is to be armed, and whether
    /// it has had a period until now.
    #[inline]
    pub fn start(&mut self, timer: Id, wheel: &Wheel<Id>) -> Result<(TimerKey, bool)> {
        let mark = self.find(timer, wheel)?;
        let was = *mark;
        *mark = was | ACTIVE;
        self.holding += usize::from(was & (ACTIVE | REFERENCED) == REFERENCED);
        Ok((place(was), was & REPEATS != 0))
    }

    /// Whether the open timer's entry has a period.
    pub fn set_repeats(&mut self, timer: Id, on: bool) {
        if let Some(mark) = self.marks.get_mut(timer.index() as usize) {
            *mark = match on {
                true => *mark | REPEATS,
                false => *mark & !REPEATS,
            };
        }
    }

    /// The timer no longer runs. Its place in the wheel, where it is to be disarmed.
    #[inline]
    pub fn stop(&mut self, timer: Id, wheel: &Wheel<Id>) -> Result<TimerKey> {
        let mark = self.find(timer, wheel)?;
        let was = *mark;
        *mark = was & !ACTIVE;
        self.holding -= usize::from(was & (ACTIVE | REFERENCED) == ACTIVE | REFERENCED);
        Ok(place(was))
    }

    /// The live handle, if it is a timer, is disarmed already.
    #[inline]
    pub fn stopped(&mut self, timer: Id) {
        if let Some(mark) = self.marks.get_mut(timer.index() as usize) {
            let held = *mark & (ACTIVE | REFERENCED) == ACTIVE | REFERENCED;
            *mark &= !ACTIVE;
            self.holding -= usize::from(held);
        }
    }

    /// For a live handle, if it is a timer.
    pub fn set_referenced(&mut self, timer: Id, on: bool) {
        let mark = self.marks.get_mut(timer.index() as usize);
        let Some(mark) = mark.filter(|mark| **mark != 0) else {
            return;
        };
        let active = *mark & ACTIVE != 0;
        self.holding -= usize::from(active && *mark & REFERENCED != 0);
        *mark = match on {
            true => *mark | REFERENCED,
            false => *mark & !REFERENCED,
        };
        self.holding += usize::from(active && on);
    }

    /// Whether a live handle is a timer that runs.
    #[inline]
    pub fn is_active(&self, timer: Id) -> bool {
        let mark = self.marks.get(timer.index() as usize);
        mark.is_some_and(|mark| mark & ACTIVE != 0)
    }

    /// How many timers keep the loop alive.
    #[inline]
    pub fn holding(&self) -> usize {
        self.holding
    }
}

#[inline]
fn place(mark: u32) -> TimerKey {
    TimerKey::from_number(mark & PLACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Timers with these indices.
    fn opened(indices: &[u64]) -> (TimerTable, Wheel<Id>, Vec<Id>) {
        let (mut table, mut wheel) = (TimerTable::new(), Wheel::new(0));
        let ids: Vec<Id> = indices
            .iter()
            .map(|index| Id::from_raw((1 << 32) | index).unwrap())
            .collect();
        for id in &ids {
            table.add(*id, wheel.add(*id));
        }
        (table, wheel, ids)
    }

    #[test]
    fn only_timers_that_run_and_are_referenced_hold() {
        let (mut table, wheel, ids) = opened(&[7, 3]);
        assert_eq!(table.holding(), 0);
        for _ in 0..2 {
            table.start(ids[0], &wheel).unwrap();
            assert_eq!(table.holding(), 1);
        }
        table.start(ids[1], &wheel).unwrap();
        assert_eq!(table.holding(), 2);
        for _ in 0..2 {
            table.set_referenced(ids[0], false);
            assert_eq!(table.holding(), 1);
        }
        table.stop(ids[0], &wheel).unwrap();
        table.set_referenced(ids[0], true);
        assert_eq!(table.holding(), 1);
        table.stopped(ids[1]);
        table.stopped(ids[1]);
        assert_eq!(table.holding(), 0);
        table.start(ids[0], &wheel).unwrap();
        assert_eq!(table.holding(), 1);
        table.remove(ids[0]);
        assert_eq!(table.holding(), 0);
    }

    #[test]
    fn what_is_no_open_timer_is_not_found() {
        let (mut table, mut wheel, ids) = opened(&[5, 2000]);
        let next = Id::from_raw((3 << 32) | 5).unwrap();
        for stranger in [(1 << 32) | 4, (1 << 32) | 2001, (1 << 32) | (1 << 24) | 5] {
            let stranger = Id::from_raw(stranger).unwrap();
            assert!(table.start(stranger, &wheel).is_err());
        }
        let key = table.key(ids[0], &wheel).unwrap();
        table.remove(ids[0]);
        wheel.remove(key);
        assert!(table.start(ids[0], &wheel).is_err());
        // The slot has another timer, and so has the place in the wheel.
        table.add(next, wheel.add(next));
        assert_eq!(table.key(next, &wheel).ok(), Some(key));
        assert!(table.stop(ids[0], &wheel).is_err());
        assert!(!table.is_active(next));
        assert_eq!(table.holding(), 0);
    }

    #[test]
    fn a_long_table_is_given_back_with_the_last_timer() {
        let (mut table, _, ids) = opened(&[9, 5000]);
        table.remove(ids[1]);
        table.remove(ids[1]);
        assert!(table.marks.len() > KEPT);
        table.remove(ids[0]);
        assert_eq!(table.marks.capacity(), 0);
    }
}
