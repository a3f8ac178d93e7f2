//! Where a request ends in the bytes that came, and what is answered to it: `../servers/requests.h`, once more in Rust.

use crate::common::die;

const FRAME_BYTES: usize = 64;
const HEAD_BYTES_MAX: usize = 8192;

const OK: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n\r\nHello, world!\n";
const OK_LAST: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 14\r\n\r\nHello, world!\n";
const BAD: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

#[derive(Clone, Copy)]
pub enum Protocol {
    Frames,
    Http,
}

impl Protocol {
    /// The one that the command line names.
    pub fn from_arguments() -> Self {
        let mut arguments = std::env::args().skip(1);
        match (arguments.next().as_deref(), arguments.next()) {
            (Some("frames"), None) => Self::Frames,
            (Some("http"), None) => Self::Http,
            _ => die("usage: frames|http"),
        }
    }
}

enum Verdict<'a> {
    Incomplete,
    /// So many bytes, and their answer.
    Complete(usize, &'a [u8]),
    Last(&'a [u8]),
}

fn line_begins(line: &[u8], with: &[u8]) -> bool {
    line.get(..with.len())
        .is_some_and(|begin| begin.eq_ignore_ascii_case(with))
}

fn is_request_line(line: &[u8]) -> bool {
    const VERSION: &[u8] = b" HTTP/1.1";
    line.len() > 4 + VERSION.len() && line.starts_with(b"GET ") && line.ends_with(VERSION)
}

/// memchr(3), since the standard library has it for itself alone.
fn find_feed(bytes: &[u8]) -> Option<usize> {
    // SAFETY: the pointer and the length are of one slice, and what is found lies in it.
    unsafe {
        let found = libc::memchr(bytes.as_ptr().cast(), i32::from(b'\n'), bytes.len());
        (!found.is_null()).then(|| found.cast::<u8>().offset_from(bytes.as_ptr()) as usize)
    }
}

fn next_http(bytes: &[u8]) -> Verdict<'_> {
    let mut at = 0;
    let mut last = false;
    loop {
        let Some(length) = find_feed(&bytes[at..]) else {
            return if bytes.len() < HEAD_BYTES_MAX {
                Verdict::Incomplete
            } else {
                Verdict::Last(BAD)
            };
        };
        let Some(line) = bytes[at..at + length].strip_suffix(b"\r") else {
            return Verdict::Last(BAD);
        };
        if at == 0 {
            if !is_request_line(line) {
                return Verdict::Last(BAD);
            }
        } else if line.is_empty() {
            break;
        } else if line_begins(line, b"Content-Length:") || line_begins(line, b"Transfer-Encoding:")
        {
            return Verdict::Last(BAD);
        } else if line_begins(line, b"Connection: close") {
            last = true;
        }
        at += length + 1;
    }
    if last {
        Verdict::Last(OK_LAST)
    } else {
        Verdict::Complete(at + 2, OK)
    }
}

fn next_request(protocol: Protocol, bytes: &[u8]) -> Verdict<'_> {
    match protocol {
        Protocol::Http => next_http(bytes),
        Protocol::Frames if bytes.len() < FRAME_BYTES => Verdict::Incomplete,
        Protocol::Frames => Verdict::Complete(FRAME_BYTES, &bytes[..FRAME_BYTES]),
    }
}

/// What a connection keeps: the beginning of a request whose rest is to come.
#[derive(Default)]
pub struct Requests {
    beginning: Vec<u8>,
}

impl Requests {
    /// Appends the answers to all requests that are whole now. False: that was the last one.
    pub fn take(&mut self, protocol: Protocol, bytes: &[u8], answers: &mut Vec<u8>) -> bool {
        if self.beginning.is_empty() {
            return Self::take_whole(protocol, bytes, answers).is_some_and(|taken| {
                self.beginning.extend_from_slice(&bytes[taken..]);
                true
            });
        }
        let mut joined = std::mem::take(&mut self.beginning);
        joined.extend_from_slice(bytes);
        Self::take_whole(protocol, &joined, answers).is_some_and(|taken| {
            self.beginning = joined[taken..].to_vec(); // no memory for it where nothing is left
            true
        })
    }

    /// How many bytes they were; `None` when one was the last.
    fn take_whole(protocol: Protocol, bytes: &[u8], answers: &mut Vec<u8>) -> Option<usize> {
        let mut taken = 0;
        while taken < bytes.len() {
            match next_request(protocol, &bytes[taken..]) {
                Verdict::Incomplete => break,
                Verdict::Complete(length, answer) => {
                    answers.extend_from_slice(answer);
                    taken += length;
                }
                Verdict::Last(answer) => {
                    answers.extend_from_slice(answer);
                    return None;
                }
            }
        }
        Some(taken)
    }
}
