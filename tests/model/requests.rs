//! Work on other threads, and files.
//!
//! How far a thread is with its work is not in the seed. So the model does not say whether a piece of work can be taken
//! back, only what must come of either answer.

use std::fs::File as SystemFile;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kolo::fs::{self, OpenFlags, Transferred};
use kolo::{Code, File, Loop, Request, WorkClass};

use super::connections::{pattern, PATTERN};
use super::world::{called, Body, Callback, SharedToken, Token, World};

/// A file of a sequence has so many places, and of each is known what stands there.
const PLACES: usize = 12;
const PLACE: usize = 3000;

pub struct RequestModel {
    /// Taken back: it must hear so.
    canceled: bool,
    /// What came of it was told.
    pub told: bool,
    /// How far a thread is with it, for the test's own work.
    progress: Option<Arc<AtomicU8>>,
    /// The file and the place in it that it writes.
    writes: Option<(usize, usize)>,
    /// It can be taken back also when a thread is at it.
    pub given_up: bool,
}

const WAITS: u8 = 0;
const RUNS: u8 = 1;
const HAS_RUN: u8 = 2;

/// While work runs, also when it panics.
struct Runs<'a>(&'a AtomicU8);

impl Runs<'_> {
    fn begin(progress: &AtomicU8) -> Runs<'_> {
        progress.store(RUNS, Ordering::SeqCst);
        Runs(progress)
    }
}

impl Drop for Runs<'_> {
    fn drop(&mut self) {
        self.0.store(HAS_RUN, Ordering::SeqCst);
    }
}

/// What stands at a place of a file.
#[derive(Clone, Copy, PartialEq)]
enum Content {
    /// So many bytes of the pattern, from there.
    Known(usize, usize),
    /// A write may have come there, or not.
    Unknown,
    /// A write is under way.
    Busy,
}

pub struct FileModel {
    /// The file that holds the pattern, and is only read.
    pub is_pattern: bool,
    places: [Content; PLACES],
    under_way: usize,
    /// Something was done with it that a thread, or a stream, may still be at.
    pub used: bool,
}

/// A file that holds the pattern. It has no name.
pub fn pattern_file() -> &'static SystemFile {
    static FILE: OnceLock<SystemFile> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = scratch("pattern");
        let options = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
        let mut file = SystemFile::options();
        let opened = file.read(true).write(true).create_new(true).open(&path);
        let mut file = opened.unwrap_or_else(|error| panic!("{options:?} {path:?}: {error}"));
        let written = file.write_all(pattern());
        let _ = std::fs::remove_file(&path);
        written.expect("room for a mebibyte");
        file
    })
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("kolo-model-{}-{name}", std::process::id()))
}

impl World {
    pub fn request(&mut self, at: usize) -> &mut RequestModel {
        match &mut self.handles[at].body {
            Body::Request(request) => request,
            _ => unreachable!("#{at} is a request"),
        }
    }

    pub fn file(&mut self, at: usize) -> &mut FileModel {
        match &mut self.handles[at].body {
            Body::File(file) => file,
            _ => unreachable!("#{at} is a file"),
        }
    }

    /// A request was made, or refused for want of room.
    pub fn requested(
        &mut self,
        call: &str,
        got: kolo::Result<Request>,
        writes: Option<(usize, usize)>,
    ) -> Option<usize> {
        let refused = got.as_ref().err().map(|error| error.code());
        let expected = match refused {
            Some(Code::ENOBUFS) if self.small_pool => Some(Code::ENOBUFS),
            _ => self.expected_of_opening(),
        };
        let request = self.outcome(call, got, expected)?;
        let model = RequestModel {
            canceled: false,
            told: false,
            progress: None,
            writes,
            given_up: false,
        };
        if let Some((file, place)) = writes {
            self.file(file).places[place] = Content::Busy;
        }
        Some(self.add(request.id(), Body::Request(model)))
    }

    pub fn work(&mut self, lp: &Loop, number: u32) {
        let (at, token, there) = (self.handles.len(), Token::new(), SharedToken::new());
        let class = WorkClass::ALL[number as usize % 3];
        let panics = number.is_multiple_of(11);
        let progress = Arc::new(AtomicU8::new(WAITS));
        let known = progress.clone();
        let work = move || {
            let _there = &there;
            let _runs = Runs::begin(&progress);
            match number / 3 % 8 {
                0 => std::thread::sleep(Duration::from_micros(300)),
                1 => std::thread::sleep(Duration::from_micros(30)),
                _ => {}
            }
            if panics {
                // Not by `panic!`, which would say so.
                std::panic::resume_unwind(Box::new(()));
            }
            number
        };
        let done = move |lp: &Loop, outcome: kolo::Result<u32>| {
            let _token = &token;
            called(lp, Callback::Done, Some(at), |world| {
                let expected = if panics {
                    Err(Code::EPANIC)
                } else {
                    Ok(number)
                };
                let got = outcome.map_err(|error| error.code());
                let fits = got == expected;
                world.request_done(at, got.err(), fits);
            });
        };
        let got = lp.work_in(class, work, done);
        if let Some(at) = self.requested("Loop::work_in", got, None) {
            self.request(at).progress = Some(known);
        }
    }

    /// What came of a request is told. `fits`: it is what must come, if it was not taken back.
    pub fn request_done(&mut self, at: usize, code: Option<Code>, fits: bool) {
        let open = self.is_open(at);
        let small_pool = self.small_pool;
        let request = self.request(at);
        let again = std::mem::replace(&mut request.told, true);
        let canceled = request.canceled;
        let progress = request.progress.as_ref();
        let progress = progress.map(|progress| progress.load(Ordering::SeqCst));
        let settled = match progress {
            Some(WAITS) => code == Some(Code::ECANCELED),
            Some(RUNS) => false,
            _ => !canceled || progress.is_none(),
        };
        self.check(settled, || {
            format!("request #{at} ends with {code:?}, and its work stands at {progress:?}")
        });
        self.note(|| format!("request #{at} -> {code:?}"));
        let fits = match code {
            Some(Code::ECANCELED) => canceled || !open,
            Some(Code::ENOBUFS) => small_pool && !canceled,
            _ => fits && !canceled && open,
        };
        self.check(fits && !again, || {
            format!("request #{at} ends with {code:?}: taken back {canceled}, open {open}, told before {again}")
        });
        if let Some((file, place)) = self.request(at).writes {
            if code.is_some() {
                self.file(file).places[place] = Content::Unknown;
            }
        }
        // The number is dead; what was asked for with `Loop::on_close` comes.
        self.closed(at);
        self.settle_closing(at);
    }

    pub fn request_cancel(&mut self, lp: &Loop, at: usize) {
        let request = Request::from_id(self.handles[at].id);
        let begun = request.has_begun(lp);
        self.outcome("Request::has_begun", begun, None);
        let got = request.cancel(lp);
        let code = got.as_ref().err().map(|error| error.code());
        let busy = code == Some(Code::EBUSY);
        self.outcome("Request::cancel", got, busy.then_some(Code::EBUSY));
        let may = begun == Ok(false) || self.request(at).given_up;
        let untouched = may && !self.request(at).canceled;
        let model = self.request(at);
        model.canceled |= code.is_none();
        // A thread may have begun it between the two calls.
        self.check(busy || untouched, || {
            format!("request #{at} was taken back, and was begun {begun:?}")
        });
        self.count(if busy {
            "request too late to cancel"
        } else {
            "request canceled"
        });
    }

    pub fn file_open(&mut self, lp: &Loop, number: u32) {
        let is_pattern = !number.is_multiple_of(3);
        let opened = if is_pattern {
            let Ok(twin) = pattern_file().try_clone() else {
                return;
            };
            File::adopt(lp, twin)
        } else {
            let path = scratch("file");
            let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
            let opened = File::open_sync(lp, &path, flags);
            let _ = fs::unlink(&path).wait();
            opened
        };
        if let Some(file) = self.opened("File", opened) {
            let model = FileModel {
                is_pattern,
                places: [Content::Known(0, 0); PLACES],
                under_way: 0,
                used: false,
            };
            self.add(file.id(), Body::File(Box::new(model)));
        }
    }

    fn file_used(&mut self, file: usize) {
        let file = self.file(file);
        file.under_way += 1;
        file.used = true;
    }

    fn transfer_ended(&mut self, file: usize) {
        self.file(file).under_way -= 1;
    }

    pub fn file_read(&mut self, lp: &Loop, file: usize, number: u32) {
        let place = number as usize % PLACES;
        let (offset, room, start, length) = if self.file(file).is_pattern {
            let offset = self.net.place() + number as usize % 1000;
            let room = number as usize % 40_000;
            (offset, room, offset, room.min(PATTERN - offset))
        } else {
            match self.file(file).places[place] {
                // What is longer is what was there before, or a hole.
                Content::Known(start, length) => (place * PLACE, length, start, length),
                _ => return,
            }
        };
        let (at, token) = (self.handles.len(), Token::new());
        let handle = File::from_id(self.handles[file].id);
        let done = move |lp: &Loop, read: Transferred<Vec<u8>>| {
            let _token = &token;
            called(lp, Callback::Done, Some(at), |world| {
                world.transfer_ended(file);
                let code = read.outcome.err().map(|error| error.code());
                let fits = read.length == length
                    && read.buffer == pattern()[start..start + length]
                    && code.is_none();
                world.request_done(at, code, fits);
            });
        };
        let got = handle.read(lp, offset as u64, Vec::with_capacity(room), done);
        if self.requested("File::read", got, None).is_some() {
            self.file_used(file);
        }
    }

    pub fn file_write(&mut self, lp: &Loop, file: usize, number: u32) {
        let place = number as usize % PLACES;
        let model = self.file(file);
        let idle = model.under_way == 0 || number.is_multiple_of(2);
        if model.is_pattern || model.places[place] == Content::Busy || !idle {
            return;
        }
        // A read under way of this place would see one or the other.
        if model.under_way > 0 && model.places[place] != Content::Known(0, 0) {
            return;
        }
        let (start, length) = (self.net.place(), 1 + number as usize / 16 % PLACE.min(2999));
        let (at, token) = (self.handles.len(), Token::new());
        let handle = File::from_id(self.handles[file].id);
        let bytes = pattern()[start..start + length].to_vec();
        let done = move |lp: &Loop, written: Transferred<Vec<u8>>| {
            let _token = &token;
            called(lp, Callback::Done, Some(at), |world| {
                world.transfer_ended(file);
                let code = written.outcome.err().map(|error| error.code());
                if code.is_none() {
                    world.file(file).places[place] = Content::Known(start, length);
                }
                world.request_done(at, code, written.length == length);
            });
        };
        let got = handle.write(lp, (place * PLACE) as u64, bytes, done);
        if self
            .requested("File::write", got, Some((file, place)))
            .is_some()
        {
            self.file_used(file);
        }
    }

    pub fn file_stat(&mut self, lp: &Loop, file: usize) {
        let (at, token) = (self.handles.len(), Token::new());
        let is_pattern = self.file(file).is_pattern;
        let handle = File::from_id(self.handles[file].id);
        let done = move |lp: &Loop, known: kolo::Result<std::fs::Metadata>| {
            let _token = &token;
            called(lp, Callback::Done, Some(at), |world| {
                world.transfer_ended(file);
                let code = known.as_ref().err().map(|error| error.code());
                let most = if is_pattern { PATTERN } else { PLACES * PLACE };
                let fits = known.is_ok_and(|known| {
                    known.len() <= most as u64 && (!is_pattern || known.len() == most as u64)
                });
                world.request_done(at, code, fits);
            });
        };
        let got = handle.stat(lp).start(lp, done);
        if self.requested("File::stat", got, None).is_some() {
            self.file_used(file);
        }
    }

    /// A path at which there is nothing.
    pub fn path_stat(&mut self, lp: &Loop) {
        let (at, token) = (self.handles.len(), Token::new());
        let done = move |lp: &Loop, known: kolo::Result<std::fs::Metadata>| {
            let _token = &token;
            called(lp, Callback::Done, Some(at), |world| {
                let code = known.err().map(|error| error.code());
                world.request_done(at, code, code == Some(Code::ENOENT));
            });
        };
        let got = fs::stat(scratch("nothing")).start(lp, done);
        self.requested("fs::stat", got, None);
    }

    pub fn file_release(&mut self, lp: &Loop, file: usize) {
        let got = File::from_id(self.handles[file].id).release(lp);
        let code = got.as_ref().err().map(|error| error.code());
        // What is under way may be over, and not told; a thread may be at what was told as canceled.
        let busy = code == Some(Code::EBUSY);
        self.outcome("File::release", got, busy.then_some(Code::EBUSY));
        let used = self.file(file).used;
        self.check(!busy || used, || {
            format!("file #{file} is busy and was never used")
        });
        if !busy {
            self.closed(file);
        }
    }
}
