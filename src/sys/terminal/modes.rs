//! Modes of terminals that are put back when the process ends.
//!
//! A terminal that is in another mode than it was found in has a place in a static table, with all
//! that a signal handler needs to put it back. The table is changed under a lock, with signals
//! blocked, and handlers of other threads wait for that with nothing but atomics; so there is no
//! moment in which a terminal is in another mode and a fatal signal would leave it there.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::Once;

use super::{attributes, device, duplicate, signals};
use crate::error::{Code, Result};
use crate::sys::fork::ForkLock;
use crate::sys::Descriptor;

/// Terminals of a process that can be in another mode at once. A process has one, or serves a few.
const TERMINALS_MAX: usize = 64;

/// What a handler finds.
struct Place {
    /// The terminal is to be put back.
    armed: AtomicBool,
    /// The program has put it back by hand: not to be changed again behind its back.
    by_hand: AtomicBool,
    descriptor: AtomicI32,
    /// The process that set the mode: a forked child must leave its parent's terminal alone.
    process: AtomicI32,
    /// As it was found.
    former: Attributes,
    /// As it was set.
    wanted: Attributes,
}

/// Written while `UPDATING`, read while not.
struct Attributes(UnsafeCell<MaybeUninit<libc::termios>>);

// SAFETY: see above. It is plain data.
unsafe impl Sync for Attributes {}

impl Attributes {
    fn set(&self, value: libc::termios) {
        // SAFETY: this thread updates the table, and no handler is in it.
        unsafe { (*self.0.get()).write(value) };
    }

    /// Only in a place that is armed, or by who updates and has armed it before.
    fn get(&self) -> libc::termios {
        // SAFETY: written before the place was armed, and not while anybody is here.
        unsafe { (*self.0.get()).assume_init() }
    }
}

#[allow(clippy::declare_interior_mutable_const)] // only to fill the table
const FREE: Place = Place {
    armed: AtomicBool::new(false),
    by_hand: AtomicBool::new(false),
    descriptor: AtomicI32::new(-1),
    process: AtomicI32::new(0),
    former: Attributes(UnsafeCell::new(MaybeUninit::uninit())),
    wanted: Attributes(UnsafeCell::new(MaybeUninit::uninit())),
};
static TABLE: [Place; TERMINALS_MAX] = [FREE; TERMINALS_MAX];

/// A thread is changing the table.
static UPDATING: AtomicBool = AtomicBool::new(false);
/// Handlers that are in the table.
static READERS: AtomicU32 = AtomicU32::new(0);

/// Who has a place.
struct Owner {
    device: u64,
    /// A descriptor of the table's own, so that no handler meets a closed one.
    descriptor: OwnedFd,
    claims: Vec<u64>,
}

struct Owners {
    places: [Option<Owner>; TERMINALS_MAX],
    last_claim: u64,
}

static OWNERS: ForkLock<Owners> = ForkLock::new(Owners {
    places: [const { None }; TERMINALS_MAX],
    last_claim: 0,
});

/// Somebody's wish that a terminal be in another mode. When the last wish for one goes, it is put
/// back.
pub(crate) struct Claim(u64);

impl Claim {
    /// Has the terminal in the mode that `change` makes of the one it was found in.
    pub fn new(descriptor: Descriptor, change: impl FnOnce(&mut libc::termios)) -> Result<Claim> {
        let found = attributes(descriptor)?;
        come_to_front(descriptor, &found)?;
        put_back_at_exit();
        update(|owners| {
            let (at, is_new) = owners.place(descriptor, found)?;
            let place = &TABLE[at];
            let before = (!is_new).then(|| place.wanted.get());
            let mut wanted = place.former.get();
            change(&mut wanted);
            place.wanted.set(wanted);
            place.process.store(this_process(), Ordering::SeqCst);
            place.by_hand.store(false, Ordering::SeqCst);
            place.armed.store(true, Ordering::SeqCst);
            signals::install();
            if let Err(error) = apply(place.descriptor.load(Ordering::SeqCst), &wanted) {
                match before {
                    Some(before) => place.wanted.set(before),
                    None => owners.free(at),
                }
                return Err(error.into());
            }
            owners.last_claim += 1;
            let claim = owners.last_claim;
            if let Some(owner) = &mut owners.places[at] {
                owner.claims.push(claim);
            }
            Ok(Claim(claim))
        })
    }

    /// Puts a terminal back, whoever set its mode.
    pub fn end_all(descriptor: Descriptor) -> Result<()> {
        let found = attributes(descriptor)?;
        let device = device(descriptor)?;
        if update(|owners| owners.find(device)).is_none() {
            return Ok(());
        }
        come_to_front(descriptor, &found)?;
        update(|owners| {
            let Some(at) = owners.find(device) else {
                return Ok(());
            };
            let place = &TABLE[at];
            apply(place.descriptor.load(Ordering::SeqCst), &place.former.get())?;
            owners.free(at);
            Ok(())
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        update(|owners| {
            for (at, place) in TABLE.iter().enumerate() {
                let Some(owner) = &mut owners.places[at] else {
                    continue;
                };
                let before = owner.claims.len();
                owner.claims.retain(|claim| *claim != self.0);
                if before > 0 && owner.claims.is_empty() {
                    put_back(place);
                    owners.free(at);
                }
            }
        });
    }
}

impl Owners {
    fn find(&self, device: u64) -> Option<usize> {
        let is_it = |owner: &Option<Owner>| owner.as_ref().is_some_and(|o| o.device == device);
        self.places.iter().position(is_it)
    }

    /// The terminal's place, and whether it is a new one, not armed yet.
    fn place(&mut self, descriptor: Descriptor, found: libc::termios) -> Result<(usize, bool)> {
        let device = device(descriptor)?;
        if let Some(at) = self.find(device) {
            return Ok((at, false));
        }
        let free = self.places.iter().position(Option::is_none);
        let at = free.ok_or(Code::ENOBUFS)?;
        let descriptor = duplicate(descriptor)?;
        let place = &TABLE[at];
        place
            .descriptor
            .store(descriptor.as_raw_fd(), Ordering::SeqCst);
        place.former.set(found);
        self.places[at] = Some(Owner {
            device,
            descriptor,
            claims: Vec::new(),
        });
        Ok((at, true))
    }

    fn free(&mut self, at: usize) {
        TABLE[at].armed.store(false, Ordering::SeqCst);
        TABLE[at].descriptor.store(-1, Ordering::SeqCst);
        if let Some(owner) = self.places[at].take() {
            drop(owner.descriptor);
        }
        if self.places.iter().all(Option::is_none) {
            signals::remove();
        }
    }
}

/// Changes the table. No signal comes to this thread meanwhile, and handlers of other threads wait.
fn update<R>(change: impl FnOnce(&mut Owners) -> R) -> R {
    let _signals = signals::Blocked::all();
    let mut owners = OWNERS.lock();
    struct Updating;
    impl Drop for Updating {
        fn drop(&mut self) {
            UPDATING.store(false, Ordering::SeqCst);
        }
    }
    UPDATING.store(true, Ordering::SeqCst);
    let _updating = Updating;
    while READERS.load(Ordering::SeqCst) > 0 {
        std::thread::yield_now();
    }
    change(&mut owners)
}

/// Looks at every place that is this process' to put back. Async-signal-safe. `false`: the table is
/// being changed and does not come to rest, since this very thread was interrupted there by a fault of
/// its own.
fn look(mut each: impl FnMut(&Place)) -> bool {
    /// Far longer than any change takes, and far shorter than anybody would wait.
    const TRIES: u32 = 100_000_000;
    for _ in 0..TRIES {
        READERS.fetch_add(1, Ordering::SeqCst);
        let at_rest = !UPDATING.load(Ordering::SeqCst);
        if at_rest {
            let process = this_process();
            for place in &TABLE {
                let ours = place.process.load(Ordering::SeqCst) == process;
                if ours && place.armed.load(Ordering::SeqCst) {
                    each(place);
                }
            }
        }
        // A child that was forked inside a handler starts from 0 (`after_fork`).
        let _ = READERS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if at_rest {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}

/// Puts every terminal back. Async-signal-safe.
pub(super) fn put_back_all() {
    look(|place| {
        put_back(place);
    });
}

/// Puts every terminal back, until its mode is set again; the first error. Async-signal-safe.
pub(crate) fn put_back_by_hand() -> Result<()> {
    let mut outcome = Ok(());
    let at_rest = look(|place| {
        place.by_hand.store(true, Ordering::SeqCst);
        let at = place.descriptor.load(Ordering::SeqCst);
        if let (Err(error), Ok(())) = (apply(at, &place.former.get()), &outcome) {
            outcome = Err(error.into());
        }
    });
    match at_rest {
        true => outcome,
        false => Err(Code::EBUSY.into()),
    }
}

/// Sets the modes again, after the process was stopped: who has the terminal then sets it up to
/// his own liking. Async-signal-safe.
pub(crate) fn apply_again() {
    look(|place| {
        let at = place.descriptor.load(Ordering::SeqCst);
        if !place.by_hand.load(Ordering::SeqCst) && is_in_front(at) {
            let _ = apply(at, &place.wanted.get());
        }
    });
}

/// Async-signal-safe. Not from the background: then the terminal is already set up for somebody
/// else.
fn put_back(place: &Place) {
    let at = place.descriptor.load(Ordering::SeqCst);
    if place.process.load(Ordering::SeqCst) == this_process() && is_in_front(at) {
        // It may have been hung up: then there is nothing to put back.
        let _ = apply(at, &place.former.get());
    }
}

/// tcsetattr(3), at once: to wait until the output has gone could take for ever, when somebody
/// has stopped it. Async-signal-safe.
fn apply(descriptor: Descriptor, attributes: &libc::termios) -> io::Result<()> {
    // SAFETY: a valid struct; a bad descriptor is answered with an error.
    if unsafe { libc::tcsetattr(descriptor, libc::TCSANOW, attributes) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether the terminal is this process' to change: in the foreground, or no terminal that has a
/// foreground for it. Async-signal-safe.
fn is_in_front(descriptor: Descriptor) -> bool {
    // SAFETY: both take and give numbers.
    let (front, own) = unsafe { (libc::tcgetpgrp(descriptor), libc::getpgrp()) };
    front < 0 || front == own
}

/// From the background, does what every program does that changes the terminal: it is stopped by
/// `SIGTTOU` until it is in the foreground, unless it ignores that, or fails if nobody would
/// continue it. Not with signals blocked, where the change would just be made.
fn come_to_front(descriptor: Descriptor, found: &libc::termios) -> io::Result<()> {
    if is_in_front(descriptor) {
        return Ok(());
    }
    apply(descriptor, found)
}

fn put_back_at_exit() {
    extern "C" fn at_exit() {
        put_back_all();
        // The library may be on its way out of the process (dlclose(3)).
        signals::remove();
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the function takes no lock, and is there as long as the library. Out of memory
        // is the only error; then signals still put the terminal back, and closing does.
        unsafe { libc::atexit(at_exit) };
    });
}

/// Somebody has put the default disposition of a signal back, which may need ours instead.
pub(crate) fn dispositions_changed() {
    let any = TABLE.iter().any(|place| place.armed.load(Ordering::SeqCst));
    if any {
        update(|owners| {
            if owners.places.iter().any(Option::is_some) {
                signals::install();
            }
        });
    }
}

/// In a forked child: the handlers that were in the table ran in threads that are not here.
pub(crate) fn after_fork() {
    READERS.store(0, Ordering::SeqCst);
}

/// Async-signal-safe.
fn this_process() -> libc::pid_t {
    // SAFETY: getpid(2) is async-signal-safe and cannot fail.
    unsafe { libc::getpid() }
}
