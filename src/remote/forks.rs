//! A thread may fork while another one posts or wakes and holds a mailbox's locks, which then would never be let go in
//! the child. So a fork takes the locks of every mailbox, and both sides let them go: the child finds each one whole.

#[cfg(any(not(unix), all(loom, test)))]
pub(super) fn survive(_: &std::sync::Arc<super::Mailbox>) {}

#[cfg(all(unix, not(all(loom, test))))]
pub(super) use unix::survive;

#[cfg(all(unix, not(all(loom, test))))]
mod unix {
    use std::cell::UnsafeCell;
    use std::sync::atomic::AtomicBool;
    use std::sync::{Arc, Mutex, MutexGuard, RwLockWriteGuard, Weak};

    use super::super::mailbox::{Mailbox, Posts};
    use crate::driver::Wake;
    use crate::sys::fork::at_fork;

    type List = Vec<Weak<Mailbox>>;

    static MAILBOXES: Mutex<List> = Mutex::new(Vec::new());

    fn mailboxes() -> MutexGuard<'static, List> {
        MAILBOXES
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// From now on the mailbox survives forks.
    pub fn survive(mailbox: &Arc<Mailbox>) {
        static NOTICED: AtomicBool = AtomicBool::new(false);
        at_fork(&NOTICED, Some(prepare), Some(release), Some(release));
        let mut mailboxes = mailboxes();
        mailboxes.retain(|known| known.strong_count() > 0);
        mailboxes.push(Arc::downgrade(mailbox));
    }

    /// All locks of a mailbox. They are let go in this order, and then the mailbox.
    struct Locked {
        _posts: MutexGuard<'static, Posts>,
        /// Nobody is inside of [`Wake::wake`], whatever locks that has.
        _waker: RwLockWriteGuard<'static, Arc<dyn Wake>>,
        _mailbox: Arc<Mailbox>,
    }

    impl Locked {
        fn new(mailbox: Arc<Mailbox>) -> Locked {
            // SAFETY: the guards made with this reference go before the `Arc` beside them does.
            let at: &'static Mailbox = unsafe { &*Arc::as_ptr(&mailbox) };
            Locked {
                _posts: at.posts(),
                _waker: at
                    .waker
                    .write()
                    .unwrap_or_else(|poisoned| poisoned.into_inner()),
                _mailbox: mailbox,
            }
        }
    }

    struct Held {
        _locked: Vec<Locked>,
        // Last: who forks next waits for it first.
        _list: MutexGuard<'static, List>,
    }

    struct Holder(UnsafeCell<Option<Held>>);

    // SAFETY: only who holds the list's lock touches it.
    unsafe impl Sync for Holder {}

    static HOLDER: Holder = Holder(UnsafeCell::new(None));

    extern "C" fn prepare() {
        let list = mailboxes();
        let live = list.iter().filter_map(Weak::upgrade);
        let held = Held {
            _locked: live.map(Locked::new).collect(),
            _list: list,
        };
        // SAFETY: this thread holds the list's lock now.
        unsafe { *HOLDER.0.get() = Some(held) };
    }

    /// In the parent and in the child, by the thread that forked.
    extern "C" fn release() {
        // SAFETY: this thread has held the list's lock since `prepare`.
        let held = unsafe { (*HOLDER.0.get()).take() };
        drop(held);
    }
}
