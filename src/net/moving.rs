//! Moving a live connection from one loop to another.

use socket2::Socket;

use super::tcp::TcpStream;
use crate::accept::Unclaimed;
use crate::driver::{Object, Source};
use crate::error::{Code, Result};
use crate::event_loop::{Loop, Task};
use crate::handles::{Body, Kind};
use crate::remote::Remote;
use crate::stream::{Stream, StreamSettings, StreamState};
use crate::sys::Held;

impl TcpStream {
    /// Moves the connection to the loop behind `to`, where it becomes a new stream: `arrived` is called there with it, and
    /// must attach a handler, or it is closed. Here the handle closes, and its `on_close` comes as ever.
    ///
    /// Nothing is lost: bytes that were not read here are read there. Timeouts, watermarks and the socket's options move
    /// with it. When the other loop is dropped before the connection arrives, `arrived` hears [`Code::ECANCELED`] there,
    /// and the connection is closed; and [`Code::ENOBUFS`] when that loop holds as many handles as it can.
    ///
    /// Errors, after which the stream is here as it was: [`Code::EBUSY`] while writes are queued (wait for their
    /// completion, or `on_drain` with a low watermark of 0), the connection is being made, or bytes have been received that
    /// `on_data` has still to hear of (see [`TcpStream::release`]); [`Code::EPIPE`] after [`Stream::shutdown`] or
    /// [`Stream::finish`]; [`Code::ENOTCONN`] when the connection broke; [`Code::ENOBUFS`] when as many posts wait there as
    /// may; [`Code::ECANCELED`] when that loop is gone; [`Code::EBADF`] for a closed stream.
    ///
    /// # Example
    ///
    /// ```
    /// # use std::net::TcpStream as StdStream;
    /// # let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    /// # let socket = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    /// use kolo::{Loop, RunMode, Stream, TcpStream};
    ///
    /// let (here, there) = (Loop::new()?, Loop::new()?);
    /// let nothing = |_: &Loop, _: Stream, _: &[u8]| ();
    /// let tcp = TcpStream::adopt(&here, socket, nothing)?;
    /// tcp.move_to(&here, &there.remote(), move |there, tcp| {
    ///     let tcp = tcp.unwrap();
    ///     tcp.attach(there, nothing).unwrap();
    ///     tcp.write(there, b"from the other loop").unwrap();
    ///     tcp.finish(there).unwrap();
    /// })?;
    /// here.run(RunMode::Default)?;
    /// there.run(RunMode::Default)?;
    /// # Ok::<(), kolo::Error>(())
    /// ```
    pub fn move_to(
        self,
        lp: &Loop,
        to: &Remote,
        arrived: impl FnOnce(&Loop, Result<TcpStream>) + Send + 'static,
    ) -> Result<()> {
        lp.needs_kernel()?;
        // The task is made, and the socket taken, only when the other loop will take it.
        to.post_made(|| {
            let settings = Stream::from(self).settings(lp)?;
            let object = Stream::from(self).release_object(lp, Kind::Tcp)?;
            let socket = object.into_held_socket().ok_or(Code::ENOTCONN)?;
            Ok(Arrival {
                socket,
                settings,
                arrived,
            })
        })
    }
}

/// A connection on its way.
struct Arrival<F> {
    socket: Held<Socket>,
    settings: StreamSettings,
    arrived: F,
}

impl<F: FnOnce(&Loop, Result<TcpStream>) + 'static> Task for Arrival<F> {
    fn run(self, lp: &Loop) {
        let source = Source::new(Object::Socket(self.socket));
        match lp.insert(Body::Stream(StreamState::new(source, Kind::Tcp))) {
            Ok(id) => {
                let _unclaimed = Unclaimed(lp, id);
                let tcp = TcpStream::from_id(id);
                let set = Stream::from(tcp).set_settings(lp, self.settings);
                (self.arrived)(lp, set.map(|()| tcp));
            }
            Err(error) => (self.arrived)(lp, Err(error)),
        }
    }

    fn cancel(self, lp: &Loop) {
        drop(self.socket);
        (self.arrived)(lp, Err(Code::ECANCELED.into()));
    }
}
