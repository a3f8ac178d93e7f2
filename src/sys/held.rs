//! What kolo owns, and which of it has a number that the user knows.
//!
//! A number that the user knows can be handed to kolo a second time by mistake. Two handles would then own one
//! descriptor, and the second one to close would close whatever has the number by that time: a file of somebody who has
//! done nothing wrong. So the numbers that were adopted, and those that a handle was asked for, stand in a register of
//! the process, in which adopting looks. Numbers that nobody was told, such as those of accepted connections, never get
//! there: they cost a comparison when they are closed, and no lock.
//!
//! The register knows numbers, not what is behind them (a look at that would be a system call, and duplicates are
//! allowed). So it is right for as long as nobody but kolo closes what is kolo's. A child of a fork has a copy of it, as
//! it has copies of the descriptors.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;

use super::fork::ForkLock;
use super::{AtomicDescriptor, Descriptor};
use crate::error::{Code, Result};

static KNOWN: ForkLock<BTreeSet<Descriptor>> = ForkLock::new(BTreeSet::new());

/// Whether a handle of this process owns the descriptor, as far as its number is known.
pub(crate) fn is_held(number: Descriptor) -> bool {
    KNOWN.lock().contains(&number)
}

/// What is, or has, a descriptor.
pub(crate) trait Numbered {
    fn number(&self) -> Descriptor;
}

/// A descriptor that kolo owns: what closes it when it is dropped, and its place in the register if it has one.
#[derive(Debug)]
pub(crate) struct Held<T> {
    // Dropped before the descriptor is closed, after which the number may be another file's.
    place: Place,
    inner: T,
}

impl<T: Numbered> Held<T> {
    /// Takes a descriptor over from the user.
    ///
    /// Errors: [`Code::EEXIST`] when a handle owns it already. Then it is not closed: it is that handle's.
    pub fn adopt(inner: T) -> Result<Held<T>> {
        match Place::take(inner.number()) {
            Some(place) => Ok(Held { place, inner }),
            None => {
                std::mem::forget(inner);
                Err(Code::EEXIST.into())
            }
        }
    }

    /// The number, for the user.
    pub fn show(&self) -> Descriptor {
        let number = self.inner.number();
        self.place.show(number);
        number
    }
}

impl<T> Held<T> {
    /// What is inside, for whoever takes it out of kolo or closes it.
    pub fn into_inner(self) -> T {
        self.inner
    }

    /// The same descriptor as something else.
    #[cfg(unix)]
    #[cfg_attr(not(any(feature = "local", feature = "tty")), allow(dead_code))]
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Held<U> {
        Held {
            place: self.place,
            inner: change(self.inner),
        }
    }

    /// As [`Held::map`], for a change that may fail and gives the descriptor back then.
    #[cfg(unix)]
    #[cfg_attr(not(any(feature = "local", feature = "tty")), allow(dead_code))]
    pub fn try_map<U, E>(
        self,
        change: impl FnOnce(T) -> std::result::Result<U, E>,
    ) -> std::result::Result<Held<U>, E> {
        let inner = change(self.inner)?;
        Ok(Held {
            place: self.place,
            inner,
        })
    }
}

/// One whose number nobody was told.
impl<T> From<T> for Held<T> {
    #[inline]
    fn from(inner: T) -> Held<T> {
        Held {
            place: Place::NONE,
            inner,
        }
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Held<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A number's place in the register, which it leaves when this is dropped. (Atomic, since threads of the pool share
/// files with the loop, whose thread alone writes it.)
#[derive(Debug)]
struct Place(AtomicDescriptor);

/// No descriptor's number.
const NOBODY: Descriptor = !0;

impl Place {
    #[allow(clippy::declare_interior_mutable_const)] // each use is a new one
    const NONE: Place = Place(AtomicDescriptor::new(NOBODY));

    fn take(number: Descriptor) -> Option<Place> {
        let is_new = KNOWN.lock().insert(number);
        is_new.then(|| Place(AtomicDescriptor::new(number)))
    }

    fn show(&self, number: Descriptor) {
        // If it stands there already, somebody has closed another handle's descriptor, and the number stays that one's.
        if self.0.load(Ordering::Relaxed) == NOBODY && KNOWN.lock().insert(number) {
            self.0.store(number, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    #[inline]
    fn drop(&mut self) {
        #[cold]
        fn leave(number: Descriptor) {
            KNOWN.lock().remove(&number);
        }
        match *self.0.get_mut() {
            NOBODY => {}
            number => leave(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that no descriptor of the tests beside these has.
    struct Fake(Descriptor);

    impl Numbered for Fake {
        fn number(&self) -> Descriptor {
            self.0
        }
    }

    #[test]
    fn a_number_is_adopted_once_until_it_is_dropped_or_taken_out() {
        const NUMBER: Descriptor = 1_000_001;
        let first = Held::adopt(Fake(NUMBER)).unwrap();
        assert_eq!(Held::adopt(Fake(NUMBER)).err(), Some(Code::EEXIST.into()));
        assert!(is_held(NUMBER));
        drop(first);
        assert!(!is_held(NUMBER));
        let second = Held::adopt(Fake(NUMBER)).unwrap();
        assert!(is_held(NUMBER));
        second.into_inner();
        assert!(!is_held(NUMBER));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_made_of_a_known_descriptor_is_known() {
        const NUMBER: Descriptor = 1_000_005;
        let same = Held::adopt(Fake(NUMBER)).unwrap().map(|inner| inner);
        assert!(is_held(NUMBER));
        let other = same.try_map(Err::<Fake, _>);
        assert!(other.is_err_and(|inner| inner.0 == NUMBER) && !is_held(NUMBER));
    }

    #[test]
    fn a_number_is_known_once_it_is_shown() {
        const NUMBER: Descriptor = 1_000_002;
        let own = Held::from(Fake(NUMBER));
        assert!(!is_held(NUMBER));
        assert_eq!((own.show(), own.show()), (NUMBER, NUMBER));
        assert!(Held::adopt(Fake(NUMBER)).is_err());
        drop(own);
        assert!(Held::adopt(Fake(NUMBER)).is_ok());
    }

    #[test]
    fn a_number_whose_descriptor_others_closed_stays_the_first_handles() {
        const NUMBER: Descriptor = 1_000_003;
        let stale = Held::adopt(Fake(NUMBER)).unwrap();
        let fresh = Held::from(Fake(NUMBER));
        fresh.show();
        drop(fresh);
        assert!(is_held(NUMBER));
        drop(stale);
        assert!(!is_held(NUMBER));
    }

    #[test]
    fn what_closes_a_refused_descriptor_does_not_run() {
        struct Closes(Descriptor);
        impl Numbered for Closes {
            fn number(&self) -> Descriptor {
                self.0
            }
        }
        impl Drop for Closes {
            fn drop(&mut self) {
                assert!(!is_held(self.0), "closed while it stands in the register");
            }
        }
        const NUMBER: Descriptor = 1_000_004;
        let first = Held::adopt(Closes(NUMBER)).unwrap();
        assert!(Held::adopt(Closes(NUMBER)).is_err());
        drop(first);
    }
}
