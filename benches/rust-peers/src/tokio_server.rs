//! A server on tokio's current-thread runtime: a task for each connection.

use crate::common::*;
use std::future::Future;
use std::io;
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

async fn accept_all<F>(listener: TcpListener, converse: impl Fn(TcpStream) -> F)
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    loop {
        match listener.accept().await {
            // A connection that the peer broke off ends its task, and nothing else.
            Ok((stream, _)) => drop(tokio::spawn(converse(stream))),
            Err(error) if accept_error_passes(&error) => {}
            Err(error) => die(format_args!("accept: {error}")),
        }
    }
}

/// TCP_NODELAY is set on the listener: Linux hands it down to accepted sockets.
fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_nodelay(true)?;
    socket.bind(any_port())?;
    socket.listen(LISTEN_BACKLOG)
}

/// Serves until the standard input ends.
pub async fn serve<F>(converse: impl Fn(TcpStream) -> F + Send + 'static) -> io::Result<()>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    let listener = listen()?;
    announce_port(listener.local_addr()?);
    tokio::spawn(accept_all(listener, converse));
    // SAFETY: the descriptor of stdin stays open, and the same, as long as the program runs.
    let stdin = unsafe { AsyncFd::register_with_interest(io::stdin(), Interest::READABLE) }?;
    loop {
        let _ready = stdin.readable().await?;
        if stdin_ended() {
            return Ok(());
        }
    }
}
