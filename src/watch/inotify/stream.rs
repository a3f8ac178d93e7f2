//! What was read of the kernel's stream and not decoded yet.
//!
//! Mostly that is one buffer. Where the present is looked at it is everything that waits, up to a
//! bound, so that it can be asked whether events that are to come mention a name.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;

use super::{FATE, NAMES};
use crate::sys::inotify::{parse, Inotify, Raw, EVENT_MAX};

/// What one read can bring: two thousand events with short names.
const BUFFER: usize = 64 * 1024;

/// What can be read ahead: as much as the kernel's queue holds, as it is set up everywhere
/// (16 384 events).
const AHEAD_MAX: usize = 4 * 1024 * 1024;

pub(super) struct Stream {
    memory: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes decoded since the beginning.
    decoded: u64,
    /// There may be something to read.
    pub readable: bool,
    /// Names that what was read mentions, by the numbers of their folders, and how often.
    mentioned: BTreeMap<i32, BTreeMap<OsString, u32>>,
    /// Second halves of renames that were told with the first.
    paired: Vec<u32>,
}

/// An event that was taken out of the stream.
pub(super) struct Event {
    pub watched: i32,
    pub mask: u32,
    pub cookie: u32,
    pub name: OsString,
    length: usize,
}

impl From<Raw<'_>> for Event {
    fn from(raw: Raw<'_>) -> Event {
        Event {
            watched: raw.watched,
            mask: raw.mask,
            cookie: raw.cookie,
            name: raw.name.to_owned(),
            length: raw.length,
        }
    }
}

impl Event {
    pub fn has(&self, mask: u32) -> bool {
        self.mask & mask != 0
    }

    pub fn is_directory(&self) -> bool {
        self.has(libc::IN_ISDIR)
    }
}

impl Stream {
    pub fn new() -> Stream {
        Stream {
            memory: vec![0; BUFFER],
            start: 0,
            end: 0,
            decoded: 0,
            readable: true,
            mentioned: BTreeMap::new(),
            paired: Vec::new(),
        }
    }

    pub fn decoded(&self) -> u64 {
        self.decoded
    }

    /// Where in the stream stands what is read next.
    pub fn position(&self) -> u64 {
        self.decoded + (self.end - self.start) as u64
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The next event that was not told with an earlier one.
    pub fn next(&mut self) -> Option<Event> {
        loop {
            let event = Event::from(parse(&self.memory[self.start..self.end])?);
            let paired = self
                .paired
                .iter()
                .position(|cookie| *cookie == event.cookie);
            match paired.filter(|_| event.has(libc::IN_MOVED_TO)) {
                None => return Some(event),
                Some(at) => {
                    self.paired.swap_remove(at);
                    self.advance(&event);
                }
            }
        }
    }

    /// The event that [`Stream::next`] gave is done with.
    pub fn skip(&mut self, event: &Event) {
        self.advance(event);
        self.unmention(event);
    }

    fn advance(&mut self, event: &Event) {
        self.start += event.length;
        self.decoded += event.length as u64;
    }

    /// The second half of a rename, if it was read: then it will not be given again.
    pub fn take_partner(&mut self, from: &Event) -> Option<Event> {
        let mut at = self.start + from.length;
        while let Some(event) = parse(&self.memory[at..self.end]) {
            if event.cookie == from.cookie && event.mask & libc::IN_MOVED_TO != 0 {
                let event = Event::from(event);
                self.paired.push(event.cookie);
                self.unmention(&event);
                return Some(event);
            }
            at += event.length;
        }
        None
    }

    /// Reads one buffer; whether something came.
    pub fn fill(&mut self, inotify: &Inotify) -> io::Result<bool> {
        self.readable = false;
        if self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end < BUFFER / 2 && self.memory.len() > BUFFER {
            self.memory = self.memory[..BUFFER].to_vec();
        }
        if !self.has_room() {
            return Ok(false);
        }
        let length = inotify.read(&mut self.memory[self.end..])?;
        let mut at = self.end;
        self.end += length;
        while let Some(event) = parse(&self.memory[at..self.end]).map(Event::from) {
            self.mention(&event);
            at += event.length;
        }
        Ok(length > 0)
    }

    /// Whether one more event can be read without more memory.
    pub fn has_room(&self) -> bool {
        self.memory.len() - (self.end - self.start) >= EVENT_MAX
    }

    /// Reads everything that waits; `false`: it is more than may be.
    pub fn read_ahead(&mut self, inotify: &Inotify) -> io::Result<bool> {
        loop {
            if self.memory.len() - (self.end - self.start) < BUFFER / 2 {
                if self.memory.len() >= AHEAD_MAX {
                    return Ok(false);
                }
                self.memory.resize(self.memory.len() * 2, 0);
            }
            let room = self.memory.len() - (self.end - self.start);
            let before = self.end - self.start;
            if !self.fill(inotify)? {
                return Ok(true);
            }
            let came = self.end - self.start - before;
            if came + EVENT_MAX <= room {
                return Ok(true); // a read that does not fill the memory has emptied the queue
            }
        }
    }

    /// Throws away what waits. What an error leaves there is read when the next watch is opened.
    pub fn drain(&mut self, inotify: &Inotify) {
        let mut drain = || inotify.read(&mut self.memory);
        while drain().is_ok_and(|length| length > 0) {}
    }

    /// Gives up all that was read.
    pub fn clear(&mut self) {
        self.decoded = self.position();
        (self.start, self.end) = (0, 0);
        self.mentioned.clear();
        self.paired.clear();
    }

    /// Whether an event that was read says that a name in a folder is made, removed or moved;
    /// without a name: that the folder itself is.
    pub fn mentions(&self, folder: i32, name: &OsStr) -> bool {
        let names = self.mentioned.get(&folder);
        names.is_some_and(|names| names.contains_key(name))
    }

    fn mention(&mut self, event: &Event) {
        if event.has(NAMES | FATE) {
            let names = self.mentioned.entry(event.watched).or_default();
            *names.entry(event.name.clone()).or_default() += 1;
        }
    }

    fn unmention(&mut self, event: &Event) {
        if !event.has(NAMES | FATE) {
            return;
        }
        let Some(names) = self.mentioned.get_mut(&event.watched) else {
            return;
        };
        if let Some(times) = names.get_mut(&event.name) {
            *times -= 1;
            if *times == 0 {
                names.remove(&event.name);
            }
        }
        if names.is_empty() {
            self.mentioned.remove(&event.watched);
        }
    }
}
