//! Handler tables, each kept once: ten thousand connections share one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A table of callbacks.
pub(super) trait Table {
    /// The addresses of its callbacks.
    type Key: Ord;

    fn key(&self) -> Self::Key;
}

/// The tables that a loop's handles use.
pub(super) struct Tables<T: Table>(RefCell<Kept<T>>);

struct Kept<T: Table> {
    /// The one that was asked for last: nearly always the one that is asked for next.
    last: Option<Rc<T>>,
    all: BTreeMap<T::Key, Rc<T>>,
    /// With so many, those that no handle uses any more are dropped.
    sweep_at: usize,
}

/// A program that makes a table per connection must not make the loop grow for ever; one with a
/// few tables should never sweep.
const SWEEP_FROM: usize = 16;

impl<T: Table> Tables<T> {
    pub fn new() -> Tables<T> {
        Tables(RefCell::new(Kept {
            last: None,
            all: BTreeMap::new(),
            sweep_at: SWEEP_FROM,
        }))
    }

    /// The kept table with the same callbacks.
    #[inline]
    pub fn share(&self, table: T) -> Rc<T> {
        let kept = &mut *self.0.borrow_mut();
        let key = table.key();
        match &kept.last {
            Some(last) if last.key() == key => last.clone(),
            _ => kept.find(key, table),
        }
    }
}

impl<T: Table> Kept<T> {
    fn find(&mut self, key: T::Key, table: T) -> Rc<T> {
        if self.all.len() >= self.sweep_at {
            self.last = None;
            self.all.retain(|_, table| Rc::strong_count(table) > 1);
            self.sweep_at = (self.all.len() * 2).max(SWEEP_FROM);
        }
        let found = self
            .all
            .entry(key)
            .or_insert_with(|| Rc::new(table))
            .clone();
        self.last = Some(found.clone());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Number(usize);

    impl Table for Number {
        type Key = usize;

        fn key(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn equal_tables_are_one() {
        let tables = Tables::new();
        let (one, two) = (tables.share(Number(1)), tables.share(Number(2)));
        assert!(Rc::ptr_eq(&one, &tables.share(Number(1))));
        assert!(Rc::ptr_eq(&one, &tables.share(Number(1))));
        assert!(Rc::ptr_eq(&two, &tables.share(Number(2))));
        assert!(!Rc::ptr_eq(&one, &two));
    }

    #[test]
    fn tables_that_nobody_uses_do_not_pile_up() {
        let tables = Tables::new();
        let used: Vec<_> = (0..40).map(|n| tables.share(Number(n))).collect();
        for n in 100..10_000 {
            tables.share(Number(n));
        }
        let kept = tables.0.borrow().all.len();
        assert!((40..=2 * 41).contains(&kept), "{kept}");
        assert!(Rc::ptr_eq(&used[3], &tables.share(Number(3))));
    }
}
