//! Requests on tokio's current-thread runtime: a task for each connection; the answers to what one read brought leave
//! together. All read into one buffer, as in `tokio_echo.rs`.

use crate::common::*;
use crate::requests::{Protocol, Requests};
use crate::tokio_server::serve;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

struct Buffers {
    read: Vec<u8>,
    answers: Vec<u8>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers { read: vec![0; READ_BUFFER_BYTES], answers: Vec::new() });
}

struct Step {
    /// Answers that the kernel did not take yet: reading goes on once they are written.
    rest: Vec<u8>,
    goes_on: bool,
}

fn read_and_answer(
    stream: &mut TcpStream,
    requests: &mut Requests,
    protocol: Protocol,
    context: &mut Context,
) -> Poll<io::Result<Option<Step>>> {
    BUFFERS.with_borrow_mut(|Buffers { read, answers }| loop {
        let mut read = ReadBuf::new(read);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut read))?;
        let bytes = read.filled();
        if bytes.is_empty() {
            return Poll::Ready(Ok(None));
        }
        answers.clear();
        let goes_on = requests.take(protocol, bytes, answers);
        let written = match stream.try_write(answers) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            result => result?,
        };
        if written < answers.len() || !goes_on {
            return Poll::Ready(Ok(Some(Step {
                rest: answers[written..].to_vec(),
                goes_on,
            })));
        }
    })
}

/// Until the peer has ended its side, too.
async fn finish(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let read = |stream: &mut TcpStream, context: &mut Context| {
        BUFFERS.with_borrow_mut(|buffers| {
            let mut read = ReadBuf::new(&mut buffers.read);
            ready!(Pin::new(stream).poll_read(context, &mut read))?;
            Poll::Ready(io::Result::Ok(read.filled().len()))
        })
    };
    while poll_fn(|context| read(&mut stream, context)).await? > 0 {}
    Ok(())
}

async fn answer(mut stream: TcpStream, protocol: Protocol) -> io::Result<()> {
    let mut requests = Requests::default();
    while let Some(step) =
        poll_fn(|context| read_and_answer(&mut stream, &mut requests, protocol, context)).await?
    {
        stream.write_all(&step.rest).await?;
        if !step.goes_on {
            return finish(stream).await;
        }
    }
    Ok(())
}

pub fn main() {
    let protocol = Protocol::from_arguments();
    let runtime = check(
        tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build(),
        "runtime",
    );
    let served = runtime.block_on(serve(move |stream| answer(stream, protocol)));
    check(served, "tokio");
}
