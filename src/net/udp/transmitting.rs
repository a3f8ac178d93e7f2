//! Messages to the kernel, and what may still be done for one that it refuses.

use std::io::IoSlice;

use super::handler::DatagramError;
use super::state::UdpState;
use crate::driver::{AnyDriver, Driver, State};
use crate::error::{Code, Error};
use crate::handles::Id;
use crate::sys::datagrams::Outgoing;

/// Something that was refused: of the message with this index so many datagrams.
pub(super) struct Refusal {
    pub message: usize,
    pub error: Error,
    pub count: u32,
}

/// How far a sending went: so many messages are dealt with (sent or refused), and so many bytes
/// of the next one. Fewer than there are: the socket is full.
#[derive(Default)]
pub(super) struct Progress {
    pub messages: usize,
    pub bytes: usize,
    /// Empty, and without memory, unless something went wrong.
    pub refused: Vec<Refusal>,
}

/// Sends all that the kernel takes, and goes on after what it refuses.
pub(super) fn transmit_all(
    driver: &mut AnyDriver,
    id: Id,
    udp: &mut UdpState,
    messages: &[Outgoing<'_>],
) -> Progress {
    let mut progress = Progress::default();
    while progress.messages < messages.len() {
        let left = &messages[progress.messages..];
        let apart = |message: &Outgoing<'_>| message.segment > udp.segment_limit;
        let until = left.iter().position(apart).unwrap_or(left.len());
        if until == 0 {
            // It is known that the system does not take it apart.
            let limit = udp.segment_limit;
            if !one_by_one(driver, id, udp, &left[0], limit, &mut progress) {
                return progress;
            }
            continue;
        }
        let left = &left[..until];
        let (taken, outcome) = driver.send_datagrams(id, &mut udp.source, left);
        progress.messages += taken;
        match outcome {
            Ok(()) if taken < left.len() => return progress,
            Ok(()) => {}
            Err(error) => {
                let message = &left[taken];
                if !go_round(driver, id, udp, message, error, &mut progress) {
                    return progress;
                }
            }
        }
    }
    progress
}

/// A message was refused: tries what may still be done for it. `false`: the socket is full.
fn go_round(
    driver: &mut AnyDriver,
    id: Id,
    udp: &mut UdpState,
    message: &Outgoing<'_>,
    error: Error,
    progress: &mut Progress,
) -> bool {
    let error = match again(driver, id, udp, message, error) {
        Again::Sent => {
            progress.messages += 1;
            return true;
        }
        Again::Full => return false,
        Again::Refused(error) => error,
    };
    if message.segment > 0 && may_be_of_segments(error.code()) {
        // What does not fit through the link in one piece is not to be asked for again; what the
        // kernel or the card cannot do at all is not, either.
        let limit = match error.code() {
            Code::EMSGSIZE => message.segment - 1,
            _ => 0,
        };
        return one_by_one(driver, id, udp, message, limit, progress);
    }
    let length: usize = message.slices.iter().map(|slice| slice.len()).sum();
    let count = match message.segment {
        0 => 1,
        segment => length.div_ceil(usize::from(segment)) as u32,
    };
    progress.refused.push(Refusal {
        message: progress.messages,
        error,
        count,
    });
    progress.messages += 1;
    true
}

enum Again {
    Sent,
    Full,
    Refused(Error),
}

/// On a socket that hears of the network's errors, a sending call gives the error of a datagram
/// that was sent *before*, and does not send. So it is asked once more.
fn again(
    driver: &mut AnyDriver,
    id: Id,
    udp: &mut UdpState,
    message: &Outgoing<'_>,
    error: Error,
) -> Again {
    let queue_tells = udp.source.state.contains(State::ERROR_QUEUE);
    if udp.peer.is_none() && !queue_tells || !may_be_of_the_network(error.code()) {
        return Again::Refused(error);
    }
    let messages = std::slice::from_ref(message);
    let (taken, outcome) = driver.send_datagrams(id, &mut udp.source, messages);
    if let Err(second) = outcome {
        if second.code() == error.code() {
            return Again::Refused(error);
        }
        stale(udp, error, queue_tells);
        return Again::Refused(second);
    }
    stale(udp, error, queue_tells);
    if taken == 0 {
        Again::Full
    } else {
        Again::Sent
    }
}

/// The error was an earlier datagram's.
fn stale(udp: &mut UdpState, error: Error, queue_tells: bool) {
    // The queue of errors will say more.
    if !queue_tells {
        let to = udp.peer;
        udp.note_error(DatagramError {
            error,
            to,
            by: None,
            mtu: None,
            count: 1,
        });
    }
}

/// Sends the datagrams of a message that the kernel would not take apart, each by itself. If that
/// works, segments of more than `limit` are not asked for again.
fn one_by_one(
    driver: &mut AnyDriver,
    id: Id,
    udp: &mut UdpState,
    message: &Outgoing<'_>,
    limit: u16,
    progress: &mut Progress,
) -> bool {
    let mut whole = Vec::new();
    for slice in message.slices {
        whole.extend_from_slice(slice);
    }
    let segment = usize::from(message.segment);
    let mut any_sent = false;
    for data in whole.chunks(segment) {
        let slices = [IoSlice::new(data)];
        let one = Outgoing {
            slices: &slices,
            segment: 0,
            ..*message
        };
        let (taken, outcome) = driver.send_datagrams(id, &mut udp.source, &[one]);
        let outcome = match outcome {
            Ok(()) if taken == 0 => Again::Full,
            Ok(()) => Again::Sent,
            Err(error) => again(driver, id, udp, &one, error),
        };
        match outcome {
            Again::Full => return false,
            Again::Sent => any_sent = true,
            Again::Refused(error) => progress.refused.push(Refusal {
                message: progress.messages,
                error,
                count: 1,
            }),
        }
        progress.bytes += data.len();
        if any_sent {
            udp.segment_limit = udp.segment_limit.min(limit);
        }
    }
    progress.bytes = 0;
    progress.messages += 1;
    true
}

/// Errors that sending in segments may meet where sending one by one does not: no checksums by
/// the card (EIO), no such option, segments that do not fit the link.
fn may_be_of_segments(code: Code) -> bool {
    matches!(
        code,
        Code::EIO
            | Code::EINVAL
            | Code::EMSGSIZE
            | Code::ENOTSUP
            | Code::ENOPROTOOPT
            | Code::ENOSYS
    )
}

/// Errors that the network tells of an earlier datagram (icmp(7)).
fn may_be_of_the_network(code: Code) -> bool {
    matches!(
        code,
        Code::ECONNREFUSED
            | Code::EHOSTUNREACH
            | Code::ENETUNREACH
            | Code::EHOSTDOWN
            | Code::ECONNRESET
            | Code::EMSGSIZE
            | Code::ENOTSUP
            | Code::EACCES
            | Code::EPROTO
            | Code::ENOPROTOOPT
            | Code::ETIMEDOUT
    )
}
