//! The table of handles: generational identifiers over [`Slots`].
//!
//! An [`Id`] is 64 bits: the slot's index (24 bits), one that is set in all, a tag of the loop it belongs to
//! (8 bits) and the slot's generation (31 bits). A handle that was closed, or that belongs to another
//! loop, is recognised by comparison. The table also keeps the two facts that decide whether a
//! loop is alive: how many handles are active and referenced, and which are closing.

use std::fmt;
use std::num::NonZeroU64;

use bitflags::bitflags;

#[cfg(any(feature = "net", all(unix, feature = "local")))]
use crate::accept::ListenerState;
#[cfg(feature = "sim")]
use crate::driver::Object;
use crate::driver::{Source, Sources};
use crate::error::{Code, Result};
#[cfg(feature = "fs")]
use crate::fs::{DirectoryState, FileState};
use crate::hook::HookState;
#[cfg(feature = "net")]
use crate::net::{connecting::Attempt, udp::UdpState};
use crate::poll::PollState;
#[cfg(all(unix, feature = "process"))]
use crate::process::ProcessState;
use crate::remote::WakerState;
use crate::request::RequestState;
use crate::signal::SignalState;
use crate::slots::{Slots, INDEX_MASK, LIVE, SLOTS_MAX};
use crate::stream::StreamState;
use crate::sys::fork::ForkLock;
use crate::timer::{TimerState, TimerTable};
use crate::timers::TimerKey;
#[cfg(feature = "watch")]
use crate::watch::WatchState;

/// The number that names a handle, on every side of every API.
///
/// An `Id` is never dangling: once its handle is closed, every use of it gives
/// [`Code::EBADF`], also after the slot is used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(NonZeroU64);

/// Handles that one loop can hold at once.
pub(crate) const HANDLES_MAX: usize = SLOTS_MAX;

impl Id {
    /// The number as the C ABI has it.
    pub const fn to_raw(self) -> u64 {
        self.0.get()
    }

    /// The identifier with this number; 0, and some others, were never one. Whether it names a
    /// live handle is only seen when it is used.
    pub const fn from_raw(raw: u64) -> Option<Id> {
        match NonZeroU64::new(raw) {
            Some(number) if raw & LIVE != 0 => Some(Id(number)),
            _ => None,
        }
    }

    /// One that a table could have given out.
    #[cfg(test)]
    pub(crate) fn in_slot(index: u64, generation: u32) -> Id {
        Id(NonZeroU64::new(crate::slots::name_of(index, generation, 0)).unwrap())
    }

    /// The slot's index, for tables beside this one.
    pub(crate) fn index(self) -> u32 {
        (self.0.get() & INDEX_MASK) as u32
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0.get())
    }
}

/// Gives a typed handle its conversions to and from [`Id`].
macro_rules! handle_type {
    ($type:ident) => {
        impl $type {
            /// The handle's number, whatever its kind.
            pub const fn id(self) -> $crate::Id {
                self.0
            }

            /// Names a handle by its number. Whether it is one of this kind is seen when it is
            /// used: every operation on another gives [`Code::EBADF`](crate::Code::EBADF).
            pub const fn from_id(id: $crate::Id) -> $type {
                $type(id)
            }
        }

        impl From<$type> for $crate::Id {
            fn from(handle: $type) -> $crate::Id {
                handle.0
            }
        }
    };
}
pub(crate) use handle_type;

/// What a handle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)] // a stream keeps its own
#[non_exhaustive]
pub enum Kind {
    /// A [`Timer`](crate::Timer).
    Timer = 1,
    /// A [`Hook`](crate::Hook).
    Hook = 2,
    /// A [`Waker`](crate::Waker).
    Waker = 3,
    /// A [`Signal`](crate::Signal).
    Signal = 4,
    /// A [`Poll`](crate::Poll).
    Poll = 5,
    /// A [`TcpListener`](crate::TcpListener).
    Listener = 6,
    /// A [`TcpStream`](crate::TcpStream).
    Tcp = 7,
    /// A [`UdpSocket`](crate::UdpSocket).
    Udp = 8,
    /// A Unix-domain stream: `LocalStream`.
    Local = 9,
    /// A listening Unix-domain socket: `LocalListener`.
    LocalListener = 10,
    /// A pipe, or another descriptor that is no socket and carries bytes: `Pipe`.
    Pipe = 11,
    /// A program that runs.
    Process = 12,
    /// A [`Request`](crate::Request).
    Request = 13,
    /// An open [`File`](crate::fs::File).
    File = 14,
    /// A [`Watch`](crate::Watch).
    Watch = 15,
    /// A terminal.
    Tty = 16,
    /// An open [`Directory`](crate::fs::Directory).
    Directory = 17,
}

bitflags! {
    /// What the table knows of every handle, whatever its kind.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Flags: u8 {
        /// Something can still happen on it by itself. Never set of timers, of which the wheel knows: see
        /// `Core::is_active`.
        const ACTIVE = 1;
        /// While active it keeps the loop alive.
        const REFERENCED = 2;
        /// `close` was called: dead for the user, still owed its closing callbacks.
        const CLOSING = 4;
        /// `on_close` stands in the table of closing callbacks.
        const CLOSE_CALLBACK = 8;
        /// The loop's own: not in listings.
        const INTERNAL = 16;
    }
}

pub(crate) enum Body {
    Timer(TimerState),
    Hook(HookState),
    Waker(WakerState),
    Signal(SignalState),
    Poll(Box<PollState>),
    #[cfg(any(feature = "net", all(unix, feature = "local")))]
    Listener(Box<ListenerState>),
    #[cfg_attr(not(feature = "net"), allow(dead_code))] // nothing carries streams
    Stream(StreamState),
    #[cfg(feature = "net")]
    Udp(Box<UdpState>),
    #[cfg(all(unix, feature = "process"))]
    Process(Box<ProcessState>),
    Request(Box<RequestState>),
    #[cfg(feature = "watch")]
    Watch(Box<WatchState>),
    /// The loop's own: see `net::connecting`.
    #[cfg(feature = "net")]
    Attempt(Box<Attempt>),
    #[cfg(feature = "fs")]
    File(FileState),
    #[cfg(feature = "fs")]
    Directory(DirectoryState),
}

pub(crate) struct Entry {
    pub flags: Flags,
    /// A handle has at most one timer in the wheel.
    pub timer: TimerKey,
    pub body: Body,
}

impl Entry {
    pub fn kind(&self) -> Kind {
        match &self.body {
            Body::Timer(_) => Kind::Timer,
            Body::Hook(_) => Kind::Hook,
            Body::Waker(_) => Kind::Waker,
            Body::Signal(_) => Kind::Signal,
            Body::Poll(_) => Kind::Poll,
            #[cfg(any(feature = "net", all(unix, feature = "local")))]
            Body::Listener(listener) => listener.kind(),
            Body::Stream(stream) => stream.kind(),
            #[cfg(feature = "net")]
            Body::Udp(_) => Kind::Udp,
            #[cfg(all(unix, feature = "process"))]
            Body::Process(_) => Kind::Process,
            Body::Request(_) => Kind::Request,
            #[cfg(feature = "watch")]
            Body::Watch(_) => Kind::Watch,
            #[cfg(feature = "net")]
            Body::Attempt(_) => Kind::Tcp,
            #[cfg(feature = "fs")]
            Body::File(_) => Kind::File,
            #[cfg(feature = "fs")]
            Body::Directory(_) => Kind::Directory,
        }
    }
}

/// Where a kind of handle keeps its callback; `None` for another kind.
pub(crate) type Slot<T> = fn(&mut Body) -> Option<&mut Option<T>>;

pub(crate) struct Handles {
    slots: Slots<Entry>,
    /// [`HANDLES_MAX`]; less in tests, which have not the memory for so many.
    capacity: usize,
    tag: u8,
    /// Handles that are active and referenced: what keeps the loop alive.
    holding: usize,
    /// Handles of the loop's own.
    hidden: usize,
    /// What there is beside the entries of timers, and how many of them keep the loop alive.
    pub timers: TimerTable,
    /// See [`Handles::note_clear`]; 0 for none.
    clear: u64,
}

impl Handles {
    pub fn new() -> Handles {
        let tag = tags::take();
        Handles {
            slots: Slots::new(tag),
            capacity: HANDLES_MAX,
            tag,
            holding: 0,
            hidden: 0,
            timers: TimerTable::new(),
            clear: 0,
        }
    }

    pub fn is_full(&self) -> bool {
        self.slots.len() >= self.capacity
    }

    /// How many more it can hold.
    #[cfg(all(unix, feature = "process"))]
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.slots.len())
    }

    pub fn insert(&mut self, body: Body) -> Result<Id> {
        if self.is_full() {
            return Err(Code::ENOBUFS.into());
        }
        let entry = Entry {
            flags: Flags::REFERENCED,
            timer: TimerKey::NONE,
            body,
        };
        match self.slots.insert(entry) {
            Ok(name) => Ok(Id(name)),
            Err(_) => Err(Code::ENOBUFS.into()),
        }
    }

    /// A handle of the loop's own.
    #[cfg(feature = "net")]
    pub fn insert_internal(&mut self, body: Body) -> Result<Id> {
        let id = self.insert(body)?;
        self.hide(id);
        Ok(id)
    }

    /// The entry of a live handle: not closed, of this loop.
    #[inline]
    pub fn get_mut(&mut self, id: Id) -> Result<&mut Entry> {
        self.clear = 0;
        self.slots.get_mut(id.to_raw()).ok_or(Code::EBADF.into())
    }

    /// The entry, also of a handle that is closing.
    #[inline]
    pub fn any_mut(&mut self, id: Id) -> Option<&mut Entry> {
        self.clear = 0;
        self.slots.any_mut(id.to_raw())
    }

    /// The callback of a stream is about to run, and nothing stands between what it writes and the kernel. That is
    /// remembered until somebody gets at an entry to change it, so that such a stream, which most are, need not be
    /// looked up for each write.
    #[inline]
    pub fn note_clear(&mut self, id: Id) {
        self.clear = id.to_raw();
    }

    /// Whether this was noted, and still holds.
    #[inline]
    pub fn is_clear(&self, id: Id) -> bool {
        self.clear == id.to_raw()
    }

    /// The handle is dead for the user: from now on only [`Handles::any_mut`] finds it.
    pub fn begin_closing(&mut self, id: Id) -> Result<&mut Entry> {
        self.clear = 0;
        let entry = self.slots.hide(id.to_raw()).ok_or(Code::EBADF)?;
        entry.flags.insert(Flags::CLOSING);
        Ok(entry)
    }

    pub fn get(&self, id: Id) -> Result<&Entry> {
        self.slots.get(id.to_raw()).ok_or(Code::EBADF.into())
    }

    /// Has the processor fetch the entry, which is soon to be used.
    #[inline]
    pub fn touch(&self, id: Id) {
        let flags = self.slots.get(id.to_raw()).map(|entry| entry.flags.bits());
        // The value is of no use; what counts is that nobody waits for it.
        std::hint::black_box(flags);
    }

    /// Takes the callback out of a live handle, for as long as it runs.
    pub fn lend<T>(&mut self, id: Id, slot: Slot<T>) -> Option<T> {
        slot(&mut self.get_mut(id).ok()?.body)?.take()
    }

    /// A timer must have left [`TimerTable`] and the wheel.
    pub fn remove(&mut self, id: Id) -> Option<Entry> {
        debug_assert!(!self.timers.has_mark(id));
        self.set_active(id, false);
        let entry = self.slots.remove(id.to_raw())?;
        self.hidden -= usize::from(entry.flags.contains(Flags::INTERNAL));
        Some(entry)
    }

    /// The handle is the loop's own: it is not counted, and not in listings.
    pub fn hide(&mut self, id: Id) {
        if let Some(entry) = self.any_mut(id) {
            let hidden = entry.flags.contains(Flags::INTERNAL);
            entry.flags.insert(Flags::INTERNAL);
            self.hidden += usize::from(!hidden);
        }
    }

    pub fn set_active(&mut self, id: Id, on: bool) {
        self.change(id, Flags::ACTIVE, on);
    }

    /// Not all that it takes if the handle is a timer: see `Core::set_referenced`.
    pub fn set_referenced(&mut self, id: Id, on: bool) {
        self.change(id, Flags::REFERENCED, on);
    }

    #[inline]
    fn change(&mut self, id: Id, flag: Flags, on: bool) {
        const HOLDING: Flags = Flags::ACTIVE.union(Flags::REFERENCED);
        let Some(entry) = self.any_mut(id) else {
            return;
        };
        let held = entry.flags.contains(HOLDING);
        entry.flags.set(flag, on);
        let holds = entry.flags.contains(HOLDING);
        self.holding = self.holding + usize::from(holds) - usize::from(held);
    }

    /// Whether an active, referenced handle exists.
    pub fn hold(&self) -> bool {
        self.holding + self.timers.holding() > 0
    }

    /// How many handles of the user's exist, closing ones included.
    pub fn len(&self) -> usize {
        self.slots.len() - self.hidden
    }

    /// The live handles that are the user's.
    pub fn ids(&self) -> Vec<Id> {
        let hidden = Flags::CLOSING | Flags::INTERNAL;
        let live = self
            .slots
            .iter()
            .filter(|(_, entry)| !entry.flags.intersects(hidden));
        live.map(|(name, _)| Id(name)).collect()
    }

    /// Every handle that is not closing, the loop's own too.
    pub fn all_ids(&self) -> Vec<Id> {
        let live = self
            .slots
            .iter()
            .filter(|(_, e)| !e.flags.contains(Flags::CLOSING));
        live.map(|(name, _)| Id(name)).collect()
    }

    /// Every handle, closing ones included.
    pub fn every_id(&self) -> Vec<Id> {
        self.slots.iter().map(|(name, _)| Id(name)).collect()
    }

    /// Everything that a driver may have registered.
    pub fn sources(&mut self) -> impl Iterator<Item = (Id, &mut Source)> {
        self.clear = 0;
        let live = self
            .slots
            .iter_mut()
            .filter(|(_, e)| !e.flags.contains(Flags::CLOSING));
        live.filter_map(|(name, entry)| Some((Id(name), entry.body.source()?)))
    }
}

#[cfg(feature = "sim")]
impl Body {
    /// Whether it is one of those that a simulation has not.
    pub fn needs_kernel(&self) -> bool {
        let source = match self {
            Body::Timer(_) | Body::Hook(_) | Body::Waker(_) | Body::Request(_) => return false,
            #[cfg(feature = "fs")]
            Body::File(_) | Body::Directory(_) => return false,
            Body::Listener(listener) => &listener.source,
            Body::Stream(stream) => &stream.source,
            Body::Udp(udp) => &udp.source,
            Body::Attempt(attempt) => &attempt.source,
            _ => return true,
        };
        !matches!(source.object, Object::None | Object::Simulated(_))
    }
}

impl Body {
    fn source(&mut self) -> Option<&mut Source> {
        match self {
            Body::Stream(stream) => Some(&mut stream.source),
            #[cfg(any(feature = "net", all(unix, feature = "local")))]
            Body::Listener(listener) => Some(&mut listener.source),
            Body::Poll(poll) => Some(&mut poll.source),
            #[cfg(feature = "net")]
            Body::Udp(udp) => Some(&mut udp.source),
            #[cfg(all(unix, feature = "process"))]
            Body::Process(process) => Some(&mut process.source),
            #[cfg(feature = "net")]
            Body::Attempt(attempt) => Some(&mut attempt.source),
            _ => None,
        }
    }
}

impl Sources for Handles {
    type Stream = StreamState;

    fn source(&mut self, id: Id) -> Option<&mut Source> {
        self.get_mut(id).ok()?.body.source()
    }

    #[inline]
    fn stream(&mut self, id: Id) -> Option<&mut StreamState> {
        match &mut self.get_mut(id).ok()?.body {
            Body::Stream(stream) => Some(stream),
            _ => None,
        }
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        tags::give_back(self.tag);
    }
}

/// Tags of loops: as long as no more than 256 loops live at once in a process, no two share one.
mod tags {
    use super::ForkLock;

    struct Tags {
        users: [u32; 256],
        next: u8,
    }

    static TAGS: ForkLock<Tags> = ForkLock::new(Tags {
        users: [0; 256],
        next: 0,
    });

    /// The least used tag, going round, so that a freed loop's tag comes back as late as can be.
    pub fn take() -> u8 {
        let mut tags = TAGS.lock();
        let start = tags.next;
        let order = (0..=255u8).map(|step| start.wrapping_add(step));
        let tag = order
            .min_by_key(|tag| tags.users[usize::from(*tag)])
            .unwrap_or(start);
        tags.users[usize::from(tag)] += 1;
        tags.next = tag.wrapping_add(1);
        tag
    }

    pub fn give_back(tag: u8) {
        let mut tags = TAGS.lock();
        tags.users[usize::from(tag)] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer() -> Body {
        Body::Timer(TimerState::new(smallbox::smallbox!(
            |_: &crate::Loop, _| ()
        )))
    }

    /// What an idle connection costs is mostly this.
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() <= 80, "{}", size_of::<Entry>());
    }

    #[test]
    fn a_removed_handle_stays_bad_when_its_slot_is_used_again() {
        let mut handles = Handles::new();
        let first = handles.insert(timer()).unwrap();
        handles.remove(first);
        let second = handles.insert(timer()).unwrap();
        assert_eq!(first.index(), second.index());
        assert!(handles.get(first).is_err());
        assert!(handles.get(second).is_ok());
    }

    #[test]
    fn a_full_table_refuses_and_takes_again_when_a_handle_has_gone() {
        let mut handles = Handles::new();
        assert_eq!(handles.capacity, HANDLES_MAX);
        handles.capacity = 3;
        let ids: Vec<Id> = (0..3).map(|_| handles.insert(timer()).unwrap()).collect();
        assert!(handles.is_full());
        assert_eq!(handles.insert(timer()), Err(Code::ENOBUFS.into()));
        assert!(ids.iter().all(|id| handles.get(*id).is_ok()));
        handles.remove(ids[1]);
        assert!(handles.insert(timer()).is_ok());
        assert!(handles.insert(timer()).is_err());
    }

    #[test]
    fn a_handle_of_another_table_is_bad() {
        let (mut one, mut two) = (Handles::new(), Handles::new());
        let (in_one, in_two) = (one.insert(timer()).unwrap(), two.insert(timer()).unwrap());
        assert_ne!(in_one, in_two);
        assert!(two.get_mut(in_one).is_err());
        assert!(one.get_mut(in_two).is_err());
        assert!(one.remove(in_two).is_none());
    }

    #[test]
    fn a_stream_stands_clear_until_somebody_gets_at_an_entry() {
        let ways: [fn(&mut Handles, Id); 6] = [
            |handles, id| assert!(handles.get_mut(id).is_ok()),
            |handles, id| assert!(handles.any_mut(id).is_some()),
            |handles, id| assert!(handles.begin_closing(id).is_ok()),
            |handles, id| assert!(handles.remove(id).is_some()),
            |handles, id| handles.set_active(id, true),
            |handles, _| assert_eq!(handles.sources().count(), 0),
        ];
        for way in ways {
            let mut handles = Handles::new();
            let [one, other] = [(); 2].map(|()| handles.insert(timer()).unwrap());
            handles.note_clear(one);
            assert!(handles.get(other).is_ok());
            assert!(handles.is_clear(one) && !handles.is_clear(other));
            way(&mut handles, other);
            assert!(!handles.is_clear(one) && !handles.is_clear(other));
        }
    }

    #[test]
    fn only_active_and_referenced_handles_hold_the_loop() {
        let mut handles = Handles::new();
        let id = handles.insert(timer()).unwrap();
        assert!(!handles.hold());
        handles.set_active(id, true);
        handles.set_active(id, true);
        assert!(handles.hold());
        handles.set_referenced(id, false);
        assert!(!handles.hold());
        handles.set_referenced(id, true);
        assert!(handles.hold());
        handles.remove(id);
        assert!(!handles.hold());
    }
}
