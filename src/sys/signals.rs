//! Signal delivery to loops: any number of loops per signal, nothing but atomics in the handler.
//!
//! Each loop that watches signals has a [`Slot`] in a static table. The handler sets the
//! signal's bit in every slot that watches it and writes to the loop's own pipe; the loop
//! collects the bits in its next turn. A signal's former disposition is kept when its first
//! watcher comes and put back when its last one leaves.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::fork::ForkLock;
use crate::error::{Code, Error, Result};

/// Loops that can watch signals at once in a process.
const SLOTS: usize = 256;
/// Signal numbers are below this, so that one word holds a bit for each.
const SIGNALS: usize = 65;

struct State {
    /// Signals that the loop watches, bit `number - 1`.
    watched: AtomicU64,
    /// Signals that came and were not collected yet.
    pending: AtomicU64,
    /// What the handler writes to; -1: none.
    event: AtomicI32,
    /// The process whose slot this is: a forked child's handler must not wake its parent.
    process: AtomicI32,
}

#[allow(clippy::declare_interior_mutable_const)] // only to fill the table
const FREE: State = State {
    watched: AtomicU64::new(0),
    pending: AtomicU64::new(0),
    event: AtomicI32::new(-1),
    process: AtomicI32::new(0),
};
static TABLE: [State; SLOTS] = [FREE; SLOTS];

/// Slots from this on were never used: the handler need not look at them.
static USED: AtomicU32 = AtomicU32::new(0);
/// Handlers that are running now, in whatever thread.
static RUNNING: AtomicU32 = AtomicU32::new(0);

struct Registry {
    taken: [bool; SLOTS],
    watchers: [u32; SIGNALS],
    former: [Option<libc::sigaction>; SIGNALS],
}

static REGISTRY: ForkLock<Registry> = ForkLock::new(Registry {
    taken: [false; SLOTS],
    watchers: [0; SIGNALS],
    former: [None; SIGNALS],
});

fn registry() -> std::sync::MutexGuard<'static, Registry> {
    REGISTRY.lock()
}

extern "C" fn handler(number: libc::c_int) {
    #[cfg(feature = "tty")]
    if number == libc::SIGCONT {
        // In place of the handler that would do this.
        super::keep_errno(super::terminal::apply_again);
    }
    RUNNING.fetch_add(1, Ordering::SeqCst);
    let (bit, process) = (bit(number), this_process());
    for state in &TABLE[..USED.load(Ordering::SeqCst) as usize] {
        let watches = state.watched.load(Ordering::SeqCst) & bit != 0;
        if watches && state.process.load(Ordering::SeqCst) == process {
            state.pending.fetch_or(bit, Ordering::SeqCst);
            let event = state.event.load(Ordering::SeqCst);
            if event >= 0 {
                super::write_event(event);
            }
        }
    }
    // A child that was forked inside a handler starts from 0 (`after_fork`).
    let _ = RUNNING.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
}

/// In a forked child: the handlers that were running ran in threads that are not here.
pub(crate) fn after_fork() {
    RUNNING.store(0, Ordering::SeqCst);
}

fn bit(number: libc::c_int) -> u64 {
    1 << (number - 1)
}

/// Async-signal-safe.
fn this_process() -> libc::pid_t {
    // SAFETY: getpid(2) is async-signal-safe and cannot fail.
    unsafe { libc::getpid() }
}

/// A loop's place in the table.
pub(crate) struct Slot {
    at: usize,
    /// How many handles of this loop watch each signal.
    watchers: Vec<u32>,
}

impl Slot {
    /// Takes a place; signals will write to `event`, which must stay open as long as the slot.
    pub fn take(event: libc::c_int) -> Result<Slot> {
        let mut registry = registry();
        let at = registry
            .taken
            .iter()
            .position(|taken| !taken)
            .ok_or(Code::ENOBUFS)?;
        registry.taken[at] = true;
        TABLE[at].event.store(event, Ordering::SeqCst);
        TABLE[at].process.store(this_process(), Ordering::SeqCst);
        USED.fetch_max(at as u32 + 1, Ordering::SeqCst);
        Ok(Slot {
            at,
            watchers: vec![0; SIGNALS],
        })
    }

    /// One more handle of this loop watches the signal.
    pub fn watch(&mut self, number: libc::c_int) -> Result<()> {
        if !can_be_watched(number) {
            return Err(Code::EINVAL.into());
        }
        let index = number as usize;
        if self.watchers[index] == 0 {
            let mut registry = registry();
            if registry.watchers[index] == 0 {
                registry.former[index] = Some(install(number)?);
            }
            registry.watchers[index] += 1;
            TABLE[self.at]
                .watched
                .fetch_or(bit(number), Ordering::SeqCst);
        }
        self.watchers[index] += 1;
        Ok(())
    }

    /// One handle fewer of this loop watches the signal.
    pub fn unwatch(&mut self, number: libc::c_int) {
        let index = number as usize;
        self.watchers[index] -= 1;
        if self.watchers[index] > 0 {
            return;
        }
        let mut registry = registry();
        TABLE[self.at]
            .watched
            .fetch_and(!bit(number), Ordering::SeqCst);
        TABLE[self.at]
            .pending
            .fetch_and(!bit(number), Ordering::SeqCst);
        registry.watchers[index] -= 1;
        if registry.watchers[index] == 0 {
            if let Some(former) = registry.former[index].take() {
                // SAFETY: `former` is what sigaction gave for this signal.
                unsafe { libc::sigaction(number, &former, std::ptr::null_mut()) };
                #[cfg(feature = "tty")]
                {
                    drop(registry);
                    super::terminal::dispositions_changed();
                }
            }
        }
    }

    /// The signals that came since, as bits `number - 1`.
    pub fn collect(&self) -> u64 {
        TABLE[self.at].pending.swap(0, Ordering::SeqCst)
    }

    /// In a forked child: signals write to the child's own descriptor, and those that came for
    /// the parent are not the child's.
    pub fn forked(&self, event: libc::c_int) {
        TABLE[self.at].event.store(event, Ordering::SeqCst);
        TABLE[self.at].pending.store(0, Ordering::SeqCst);
        // Last: from here on the handler writes for this slot.
        TABLE[self.at]
            .process
            .store(this_process(), Ordering::SeqCst);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        for number in 1..SIGNALS {
            while self.watchers[number] > 0 {
                self.unwatch(number as libc::c_int);
            }
        }
        TABLE[self.at].event.store(-1, Ordering::SeqCst);
        // A handler in another thread may have read the descriptor already: it must have written
        // before the descriptor is closed and its number given to somebody else.
        while RUNNING.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        registry().taken[self.at] = false;
    }
}

/// Not the signals that cannot be caught, nor those that say that this thread's own instruction
/// failed: returning from their handler would run into the same instruction again.
fn can_be_watched(number: libc::c_int) -> bool {
    let never = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
    ];
    number >= 1 && (number as usize) < SIGNALS && !never.contains(&number)
}

/// Keeps signals away from this thread, which is kolo's own: they are for the program's. Those that say that the thread's
/// own instruction failed come all the same, or a debugger's and crash reporter's handlers would not run.
pub(crate) fn block_all() {
    // SAFETY: the set is made valid before it is used; a mask changes nothing but which signals come.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        for own in [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGTRAP,
            libc::SIGABRT,
            libc::SIGPROF,
        ] {
            libc::sigdelset(&mut set, own);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

fn install(number: libc::c_int) -> Result<libc::sigaction> {
    // SAFETY: a zeroed sigaction is a valid one (SIG_DFL, no flags, empty mask).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let mut former = action;
    action.sa_sigaction = handler as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // System calls of the program's other code go on; kolo's own wait ends by the descriptor.
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: both point to valid structs; the handler is async-signal-safe and lives for ever.
    let outcome = unsafe {
        libc::sigfillset(&mut action.sa_mask);
        libc::sigaction(number, &action, &mut former)
    };
    if outcome < 0 {
        return Err(Error::last());
    }
    Ok(former)
}
