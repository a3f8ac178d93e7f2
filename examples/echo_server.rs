//! Sends back whatever it gets, over TCP: the smallest server that also minds slow readers.
//!
//! What it shows: a listener, a stream handler, not reading faster than the peer takes the answers, and ending on a
//! signal.
//!
//! Run:  cargo run --example echo_server -- 127.0.0.1:7000
//! Try:  nc 127.0.0.1 7000        Ctrl-C ends the server.

use std::error::Error;
use std::net::SocketAddr;

use kolo::{Flow, Loop, RunMode, Stream, StreamHandler, TcpListener, TcpStream};

/// What each connection does. When the peer ends its side, the rest is still sent and then the stream closes: that is
/// what `on_end` does unless told otherwise.
struct Echo;

impl StreamHandler for Echo {
    fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
        // A connection that broke closes by itself. The bound of the queue is never met, since nothing is read while
        // the queue is full.
        if let Ok(Flow::Full) = stream.write(lp, data) {
            let _ = stream.read_stop(lp);
        }
    }

    fn on_drain(&mut self, lp: &Loop, stream: Stream) {
        // Says no only when the peer's end has come already: then there is nothing more to read.
        let _ = stream.read_start(lp);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let address: SocketAddr = address.as_deref().unwrap_or("127.0.0.1:7000").parse()?;

    let lp = Loop::new()?;
    let accept = |lp: &Loop, _: TcpListener, tcp: TcpStream| {
        if let Err(error) = tcp.attach(lp, Echo) {
            eprintln!("echo server: {error}");
        }
    };
    let listener = TcpListener::listen(&lp, address, accept)?;
    println!("echo server at {}", listener.address(&lp)?);

    // Elsewhere Ctrl-C ends the process as ever.
    #[cfg(unix)]
    for number in [libc::SIGINT, libc::SIGTERM] {
        kolo::Signal::open(&lp, |lp, _, _| lp.stop())?.start(&lp, number)?;
    }

    lp.run(RunMode::Default)?;
    // Dropping the loop closes whatever is still open.
    Ok(())
}
