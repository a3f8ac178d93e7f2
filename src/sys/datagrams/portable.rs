//! Other systems: a call for each datagram, and no control messages.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{MaybeUninitSlice, Socket};

use super::{Batch, Item, Outgoing, Told, BATCH, DATAGRAM_MAX, STRIDE};

/// As on Linux; there is never control.
pub(crate) fn receive(
    socket: &Socket,
    batch: &mut Batch,
    most: usize,
    _control: bool,
) -> io::Result<usize> {
    assert!(batch.is_whole());
    batch.clear();
    for number in 0..most.clamp(1, BATCH) {
        let at = number * STRIDE;
        match receive_one(socket, &mut batch.memory[at..at + DATAGRAM_MAX]) {
            Ok((length, truncated, from)) => {
                let mut item = Item::new(at, length, from);
                item.truncated = truncated;
                batch.items.push(item);
            }
            // What failed is told by the next call, if it lasts; what came before it counts.
            Err(_) if number > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(batch.items.len())
}

fn receive_one(socket: &Socket, memory: &mut [u8]) -> io::Result<(usize, bool, SocketAddr)> {
    // SAFETY: initialised bytes, to which only initialised bytes are written: the same layout.
    let memory = unsafe { &mut *(std::ptr::from_mut(memory) as *mut [MaybeUninit<u8>]) };
    loop {
        let mut pieces = [MaybeUninitSlice::new(&mut *memory)];
        match socket.recv_from_vectored(&mut pieces) {
            Ok((length, flags, from)) => {
                let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                let from = from.as_socket().unwrap_or(nowhere);
                return Ok((length.min(DATAGRAM_MAX), flags.is_truncated(), from));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Messages with segments, or with anything in `how`, are refused.
pub(super) fn send(socket: &Socket, messages: &[Outgoing<'_>]) -> (usize, io::Result<()>) {
    for (at, message) in messages.iter().enumerate() {
        match send_one(socket, message) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (at, Ok(())),
            Err(error) => return (at, Err(error)),
        }
    }
    (messages.len(), Ok(()))
}

fn send_one(socket: &Socket, message: &Outgoing<'_>) -> io::Result<usize> {
    let how = &message.how;
    if message.segment > 0 || how.source.is_some() || how.interface != 0 || how.tos.is_some() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    loop {
        let outcome = match &message.to {
            Some(to) => socket.send_to_vectored(message.slices, &(*to).into()),
            None => socket.send_vectored(message.slices),
        };
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// There is no such queue here.
#[cfg_attr(any(target_os = "linux", target_os = "android"), allow(dead_code))] // tested there
pub(crate) fn next_error(_socket: &Socket) -> Option<Told> {
    None
}

#[cfg(all(test, feature = "net"))]
mod tests {
    use super::*;

    #[test]
    fn the_loop_of_calls_does_what_the_batches_do() {
        let bound = || {
            let socket = crate::sys::udp_socket(socket2::Domain::IPV4).unwrap();
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            socket.bind(&any.into()).unwrap();
            socket
        };
        let (from, to) = (bound(), bound());
        let address = |socket: &Socket| socket.local_addr().unwrap().as_socket();
        let pieces = [io::IoSlice::new(b"several "), io::IoSlice::new(b"pieces")];
        let one = Outgoing {
            to: address(&to),
            slices: &pieces,
            segment: 0,
            how: Default::default(),
        };
        let empty = Outgoing { slices: &[], ..one };
        let (taken, outcome) = send(&from, &[one, empty, one, one]);
        assert_eq!((taken, outcome.is_ok()), (4, true));
        let segments = Outgoing { segment: 3, ..one };
        let (taken, outcome) = send(&from, &[segments]);
        assert_eq!(taken, 0);
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::Unsupported);

        let mut batch = Batch::new();
        let mut found = Vec::new();
        for count in [3, 1] {
            assert_eq!(receive(&to, &mut batch, 3, true).unwrap(), count);
            while let Some((item, range)) = batch.advance() {
                assert_eq!(Some(item.from), address(&from));
                assert!(!item.truncated);
                found.push(batch.bytes(range).to_vec());
            }
        }
        let text = b"several pieces".to_vec();
        assert_eq!(found, [text.clone(), Vec::new(), text.clone(), text]);
        let nothing = receive(&to, &mut batch, 3, true).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }
}
