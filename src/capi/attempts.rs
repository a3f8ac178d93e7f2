//! A handler that tells of attempts to connect, too: few streams have one, so others do not carry it.

use std::ffi::{c_int, c_void};
use std::net::SocketAddr;

use super::address::kolo_address;
use super::boundary::{number, pointer};
use super::types::{kolo_loop, kolo_stream};
use crate::error::Error;
use crate::event_loop::Loop;
use crate::stream::{Stream, StreamHandler, Timeout};

pub(super) type OnAttempt = unsafe extern "C" fn(
    r#loop: *mut kolo_loop,
    stream: kolo_stream,
    address: *const kolo_address,
    status: c_int,
    user: *mut c_void,
);

struct Watching {
    handler: Box<dyn StreamHandler>,
    call: OnAttempt,
}

/// The handler, and the callback with the handler's user pointer.
pub(super) fn watching(
    handler: Box<dyn StreamHandler>,
    call: Option<OnAttempt>,
) -> Box<dyn StreamHandler> {
    match call {
        None => handler,
        Some(call) => Box::new(Watching { handler, call }),
    }
}

impl StreamHandler for Watching {
    fn on_attempt(
        &mut self,
        lp: &Loop,
        stream: Stream,
        address: SocketAddr,
        failed: Option<Error>,
    ) {
        let (user, address) = (self.handler.embedder().cast(), address.into());
        let (at, stream) = (pointer(lp), stream.id().to_raw());
        // SAFETY: the loop is running this, so it lives.
        unsafe { &*at }.told.set((stream, user));
        let status = failed.map_or(0, number);
        // SAFETY: the user's function, with what it asked for.
        unsafe { (self.call)(at, stream, &address, status, user) }
    }

    fn watches_attempts(&self) -> bool {
        true
    }

    fn on_open(&mut self, lp: &Loop, stream: Stream) {
        self.handler.on_open(lp, stream);
    }

    fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
        self.handler.on_data(lp, stream, data);
    }

    fn on_end(&mut self, lp: &Loop, stream: Stream) {
        self.handler.on_end(lp, stream);
    }

    fn on_drain(&mut self, lp: &Loop, stream: Stream) {
        self.handler.on_drain(lp, stream);
    }

    fn on_timeout(&mut self, lp: &Loop, stream: Stream, which: Timeout) {
        self.handler.on_timeout(lp, stream, which);
    }

    fn on_error(&mut self, lp: &Loop, stream: Stream, error: Error) {
        self.handler.on_error(lp, stream, error);
    }

    fn on_descriptors(&mut self, lp: &Loop, stream: Stream, waiting: usize, lost: bool) {
        self.handler.on_descriptors(lp, stream, waiting, lost);
    }

    fn on_close(&mut self, lp: &Loop, stream: Stream) {
        self.handler.on_close(lp, stream);
    }

    fn reads(&self) -> bool {
        self.handler.reads()
    }

    fn has_memory(&self) -> bool {
        self.handler.has_memory()
    }

    fn memory(&mut self, lp: &Loop, stream: Stream, suggested: usize) -> Option<&mut [u8]> {
        self.handler.memory(lp, stream, suggested)
    }

    fn on_received(&mut self, lp: &Loop, stream: Stream, length: usize) {
        self.handler.on_received(lp, stream, length);
    }

    fn embedder(&self) -> *mut () {
        self.handler.embedder()
    }
}
