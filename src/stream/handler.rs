//! What a stream does: its handler.

use std::net::SocketAddr;

use super::Stream;
use crate::error::{Code, Error};
use crate::event_loop::Loop;

/// Which of a stream's timeouts ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Timeout {
    /// Nothing was received for so long, while reading.
    Read = 1,
    /// The peer took nothing for so long, while writes were queued.
    Write = 2,
}

/// How full a stream's write queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flow {
    /// Below the high watermark: go on.
    Ready,
    /// At the high watermark or above: better wait for [`StreamHandler::on_drain`].
    Full,
}

/// What a stream does: its behaviour, given once.
///
/// The callbacks run on the loop's thread, inside [`Loop::run`], one at a time, never inside the
/// call that causes them. Each may call anything, also close its own stream. A closure
/// `FnMut(&Loop, Stream, &[u8])` is a handler that only has `on_data`.
pub trait StreamHandler: 'static {
    /// The connection is made. Not for streams that were accepted or adopted, which are open.
    fn on_open(&mut self, _lp: &Loop, _stream: Stream) {}

    /// Bytes came. They are only there during the callback.
    fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]);

    /// One of several addresses is tried (`None`), or could not be connected to: for a log. Only where
    /// [`StreamHandler::watches_attempts`]. Of attempts that are given up since another one has won nothing is told.
    fn on_attempt(
        &mut self,
        _lp: &Loop,
        _stream: Stream,
        _address: SocketAddr,
        _failed: Option<Error>,
    ) {
    }

    /// The peer ended its side (half-close); nothing more will be received. Writing goes on.
    /// As provided: what is queued is still sent, then the stream closes ([`Stream::finish`]).
    fn on_end(&mut self, lp: &Loop, stream: Stream) {
        // Only a stream that was closed meanwhile says no, and that is what is wanted.
        let _ = stream.finish(lp);
    }

    /// The write queue, having stood at the high watermark, has fallen to the low one.
    fn on_drain(&mut self, _lp: &Loop, _stream: Stream) {}

    /// A timeout ran out; it counts anew from here. As provided: the stream fails with
    /// [`Code::ETIMEDOUT`].
    fn on_timeout(&mut self, lp: &Loop, stream: Stream, _which: Timeout) {
        let _ = stream.fail(lp, Code::ETIMEDOUT.into());
    }

    /// The connection could not be made, or broke. The stream closes when this returns.
    fn on_error(&mut self, _lp: &Loop, _stream: Stream, _error: Error) {}

    /// Descriptors came from the peer, for a Unix-domain stream that takes them
    /// ([`LocalStream::receive_descriptors`](crate::LocalStream::receive_descriptors)). So many
    /// wait now, with those that came before; `lost`: some did not come, because this process
    /// could hold no more. The bytes they came with follow at once, also when this stops reading. A
    /// handler that is attached here hears of those bytes in `on_data`, even if it names memory.
    fn on_descriptors(&mut self, _lp: &Loop, _stream: Stream, _waiting: usize, _lost: bool) {}

    /// The stream has closed: the last that is heard of it.
    fn on_close(&mut self, _lp: &Loop, _stream: Stream) {}

    /// Whether the stream reads from the start, without [`Stream::read_start`].
    fn reads(&self) -> bool {
        true
    }

    /// Whether [`StreamHandler::on_attempt`] is to be called. Asked once, when the stream is made.
    fn watches_attempts(&self) -> bool {
        false
    }

    /// Whether [`StreamHandler::memory`] says where received bytes go. Asked once, when the
    /// handler is attached.
    fn has_memory(&self) -> bool {
        false
    }

    /// Where the next bytes go; `suggested` is a size that serves well. With `None`, or no room,
    /// reading stops as by [`Stream::read_stop`].
    fn memory(&mut self, _lp: &Loop, _stream: Stream, _suggested: usize) -> Option<&mut [u8]> {
        None
    }

    /// So many bytes came into the memory given last. Instead of `on_data`.
    fn on_received(&mut self, _lp: &Loop, _stream: Stream, _length: usize) {}

    /// A word that the C ABI keeps with its handlers.
    #[doc(hidden)]
    fn embedder(&self) -> *mut () {
        std::ptr::null_mut()
    }
}

impl<F: FnMut(&Loop, Stream, &[u8]) + 'static> StreamHandler for F {
    fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
        self(lp, stream, data)
    }
}
