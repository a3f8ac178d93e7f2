//! Echo on tokio's current-thread runtime: a task for each connection. All read into one buffer, which works since a
//! poll that reads also writes: only what the kernel would not take is kept for an await.

use crate::common::*;
use crate::tokio_server::serve;
use std::cell::RefCell;
use std::future::{poll_fn, Future};
use std::io;
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, Instant, Sleep};

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BUFFER_BYTES]);
}

enum Step {
    Ended,
    /// Reading goes on once this is written.
    Rest(Vec<u8>),
}

fn read_and_echo(
    stream: &mut TcpStream,
    context: &mut Context,
    mut on_traffic: impl FnMut(),
) -> Poll<io::Result<Step>> {
    BUFFER.with_borrow_mut(|buffer| loop {
        let mut read = ReadBuf::new(buffer);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut read))?;
        let bytes = read.filled();
        if bytes.is_empty() {
            return Poll::Ready(Ok(Step::Ended));
        }
        on_traffic();
        let written = match stream.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            result => result?,
        };
        if written < bytes.len() {
            return Poll::Ready(Ok(Step::Rest(bytes[written..].to_vec())));
        }
    })
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    while let Step::Rest(rest) =
        poll_fn(|context| read_and_echo(&mut stream, context, || ())).await?
    {
        stream.write_all(&rest).await?;
    }
    Ok(())
}

/// A timeout for reading and one for writing, as the other peers have them.
struct Timeouts {
    read: Pin<Box<Sleep>>,
    write: Pin<Box<Sleep>>,
}

impl Timeouts {
    fn new() -> Self {
        Self {
            read: Box::pin(sleep(IDLE_TIMEOUT)),
            write: Box::pin(sleep(IDLE_TIMEOUT)),
        }
    }

    fn put_off(&mut self) {
        let deadline = Instant::now() + IDLE_TIMEOUT;
        self.read.as_mut().reset(deadline);
        self.write.as_mut().reset(deadline);
    }

    fn check(&mut self, context: &mut Context) -> io::Result<()> {
        let over = self.read.as_mut().poll(context).is_ready()
            || self.write.as_mut().poll(context).is_ready();
        if over {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(())
        }
    }
}

async fn echo_with_timeouts(mut stream: TcpStream) -> io::Result<()> {
    let mut timeouts = Timeouts::new();
    loop {
        let step = poll_fn(|context| {
            let step = read_and_echo(&mut stream, context, || timeouts.put_off());
            timeouts.check(context)?;
            step
        });
        let Step::Rest(rest) = step.await? else {
            return Ok(());
        };
        let mut left = rest.as_slice();
        while !left.is_empty() {
            let mut writing = std::pin::pin!(stream.write(left));
            let written = poll_fn(|context| {
                let written = writing.as_mut().poll(context);
                timeouts.check(context)?;
                written
            });
            left = &left[written.await?..];
            timeouts.put_off();
        }
    }
}

pub fn main() {
    let with_timeouts = !flags(&["--timeouts"]).is_empty();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_io();
    if with_timeouts {
        builder.enable_time();
    }
    let runtime = check(builder.build(), "runtime");
    let served = runtime.block_on(async {
        if with_timeouts {
            serve(echo_with_timeouts).await
        } else {
            serve(echo).await
        }
    });
    check(served, "tokio");
}
