//! A table of entries under names that are not used again: the index of a slot, and how often that was used.
//!
//! This is on the way of every message, several times, so looking an entry up costs as little as can be: one index
//! that is checked, and one comparison, which tells a wrong loop, a stale handle and one that is closing at once.

use std::num::NonZeroU64;

pub(crate) const INDEX_BITS: u32 = 24;
pub(crate) const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;

/// Set in every name. Among the lower 32 bits, so that it fits into an instruction.
pub(crate) const LIVE: u64 = 1 << INDEX_BITS;

/// Where in a name the table's tag is, 8 bits.
pub(crate) const TAG_SHIFT: u32 = INDEX_BITS + 1;

/// Where a name counts the uses of its slot: what is left of the 64 bits.
pub(crate) const GENERATION_SHIFT: u32 = TAG_SHIFT + u8::BITS;

/// One use of a slot more.
const GENERATION: u64 = 1 << GENERATION_SHIFT;

/// What the index can count; slot 0 is never used.
pub(crate) const SLOTS_MAX: usize = (1 << INDEX_BITS) - 2;

/// The name that the entry of a slot has after so many uses of it, with the table's tag in its place.
#[cfg_attr(not(all(kolo_uring, feature = "capi")), allow(dead_code))] // loops that change threads
pub(crate) const fn name_of(index: u64, generation: u32, tag: u64) -> u64 {
    (generation as u64) << GENERATION_SHIFT | tag | LIVE | index & INDEX_MASK
}

pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    /// The slot that was emptied last; 0 for none.
    free: u64,
    used: usize,
    /// What all names of this table have, at its place in a name.
    tag: u64,
}

struct Slot<T> {
    /// The entry's name; without [`LIVE`] when that is to be found only by [`Slots::any_mut`]. Of an empty slot: the
    /// generation that is next, and in the place of the index the slot that was emptied before.
    name: u64,
    entry: Option<T>,
}

impl<T> Slots<T> {
    pub fn new(tag: u8) -> Slots<T> {
        let never_used = Slot {
            name: 0,
            entry: None,
        };
        Slots {
            slots: vec![never_used],
            free: 0,
            used: 0,
            tag: u64::from(tag) << TAG_SHIFT,
        }
    }

    pub fn len(&self) -> usize {
        self.used
    }

    /// The new entry's name; the entry itself when the table is full.
    pub fn insert(&mut self, entry: T) -> Result<NonZeroU64, T> {
        if self.used >= SLOTS_MAX {
            return Err(entry);
        }
        if self.free == 0 {
            self.free = self.slots.len() as u64;
            self.slots.push(Slot {
                name: 0,
                entry: None,
            });
        }
        let index = self.free;
        let slot = &mut self.slots[index as usize];
        self.free = slot.name & INDEX_MASK;
        slot.name = slot.name & !(GENERATION - 1) | LIVE | self.tag | index;
        slot.entry = Some(entry);
        self.used += 1;
        // `LIVE` is in it, so it is not 0.
        Ok(NonZeroU64::new(slot.name).unwrap_or(NonZeroU64::MIN))
    }

    #[inline]
    pub fn get(&self, name: u64) -> Option<&T> {
        let slot = self.slots.get((name & INDEX_MASK) as usize)?;
        match slot.name == name {
            true => slot.entry.as_ref(),
            false => None,
        }
    }

    #[inline]
    pub fn get_mut(&mut self, name: u64) -> Option<&mut T> {
        let slot = self.slots.get_mut((name & INDEX_MASK) as usize)?;
        match slot.name == name {
            true => slot.entry.as_mut(),
            false => None,
        }
    }

    /// As [`Slots::get_mut`], also after [`Slots::hide`].
    #[inline]
    pub fn any_mut(&mut self, name: u64) -> Option<&mut T> {
        let slot = self.slots.get_mut((name & INDEX_MASK) as usize)?;
        match slot.name | LIVE == name {
            true => slot.entry.as_mut(),
            false => None,
        }
    }

    /// The entry is from now on only found by [`Slots::any_mut`].
    pub fn hide(&mut self, name: u64) -> Option<&mut T> {
        self.get_mut(name)?;
        let slot = &mut self.slots[(name & INDEX_MASK) as usize];
        slot.name &= !LIVE;
        slot.entry.as_mut()
    }

    pub fn remove(&mut self, name: u64) -> Option<T> {
        self.any_mut(name)?;
        let index = name & INDEX_MASK;
        let slot = &mut self.slots[index as usize];
        slot.name = (slot.name & !(GENERATION - 1)).wrapping_add(GENERATION) | self.free;
        self.free = index;
        self.used -= 1;
        slot.entry.take()
    }

    /// All entries with their names, hidden ones too.
    pub fn iter(&self) -> impl Iterator<Item = (NonZeroU64, &T)> {
        self.slots.iter().filter_map(|slot| {
            let name = NonZeroU64::new(slot.name | LIVE)?;
            Some((name, slot.entry.as_ref()?))
        })
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (NonZeroU64, &mut T)> {
        self.slots.iter_mut().filter_map(|slot| {
            let name = NonZeroU64::new(slot.name | LIVE)?;
            Some((name, slot.entry.as_mut()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_name_is_not_used_again() {
        let mut slots = Slots::new(7);
        let first = slots.insert('a').unwrap().get();
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert('b').unwrap().get();
        assert_eq!(first & INDEX_MASK, second & INDEX_MASK);
        assert_ne!(first, second);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.any_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&'b'));
    }

    #[test]
    fn what_is_hidden_is_only_found_when_it_is_looked_for() {
        let mut slots = Slots::new(0);
        let name = slots.insert('a').unwrap().get();
        assert_eq!(slots.hide(name), Some(&mut 'a'));
        assert_eq!(slots.hide(name), None);
        assert_eq!(slots.get(name), None);
        assert_eq!(slots.get_mut(name), None);
        assert_eq!(slots.any_mut(name), Some(&mut 'a'));
        assert_eq!(slots.remove(name), Some('a'));
        assert_eq!(slots.any_mut(name), None);
    }

    #[test]
    fn guessed_names_find_nothing() {
        let mut slots = Slots::new(3);
        let name = slots.insert('a').unwrap().get();
        let next = (name & !INDEX_MASK) + GENERATION;
        slots.remove(name);
        for guess in [0, LIVE, name, next | 1, next, name & !LIVE, u64::MAX] {
            assert_eq!(slots.get(guess), None, "{guess:#x}");
            assert_eq!(slots.any_mut(guess), None, "{guess:#x}");
            assert_eq!(slots.remove(guess), None, "{guess:#x}");
        }
    }

    #[test]
    fn generations_begin_again_after_the_last() {
        let mut slots = Slots::new(1);
        slots.insert('a').unwrap();
        slots.slots[1].name |= !(GENERATION - 1);
        let last = slots.slots[1].name;
        slots.remove(last);
        let first = slots.insert('b').unwrap().get();
        assert_eq!(first, LIVE | 1 << TAG_SHIFT | 1);
        assert_eq!((slots.get(last), slots.get(first)), (None, Some(&'b')));
    }

    proptest! {
        /// Against a map: whatever is inserted, hidden and removed in which order.
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0..4u8, any::<prop::sample::Index>()), 1..200)) {
            let mut slots = Slots::new(200);
            let mut model: HashMap<u64, (usize, bool)> = HashMap::new();
            let mut names = Vec::new();
            for (at, (step, which)) in steps.into_iter().enumerate() {
                if step < 2 || names.is_empty() {
                    let name = slots.insert(at).unwrap().get();
                    prop_assert!(model.insert(name, (at, false)).is_none());
                    names.push(name);
                    continue;
                }
                let name = *which.get(&names);
                if step == 2 {
                    let live = model.get_mut(&name).filter(|(_, hidden)| !hidden);
                    prop_assert_eq!(slots.hide(name).is_some(), live.is_some());
                    if let Some((_, hidden)) = live {
                        *hidden = true;
                    }
                } else {
                    prop_assert_eq!(slots.remove(name), model.remove(&name).map(|(value, _)| value));
                }
                for name in &names {
                    let known = model.get(name);
                    prop_assert_eq!(slots.any_mut(*name).copied(), known.map(|(value, _)| *value));
                    let live = known.filter(|(_, hidden)| !hidden);
                    prop_assert_eq!(slots.get(*name), live.map(|(value, _)| value));
                }
                prop_assert_eq!(slots.len(), model.len());
                prop_assert_eq!(slots.iter().count(), model.len());
            }
        }
    }
}
