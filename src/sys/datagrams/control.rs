//! Control messages: what travels beside a datagram's bytes (cmsg(3)).

use std::mem::{size_of, MaybeUninit};

/// Room for all that kolo asks for or sends with one datagram: at most three messages, the
/// largest an IPv6 `in6_pktinfo`. Twice of that, for what may come of a socket that was adopted.
pub(super) const ROOM: usize = 32;

/// Memory for control messages, aligned as they need it.
pub(super) type Memory = [MaybeUninit<u64>; ROOM];

pub(super) const MEMORY: Memory = [MaybeUninit::uninit(); ROOM];

/// Writes control messages one after the other.
pub(super) struct Writer<'a> {
    memory: &'a mut Memory,
    length: usize,
}

/// As large as `cmsghdr` and its padding.
const HEADER: usize = {
    // SAFETY: only computes.
    unsafe { libc::CMSG_LEN(0) as usize }
};

impl<'a> Writer<'a> {
    pub fn new(memory: &'a mut Memory) -> Writer<'a> {
        Writer { memory, length: 0 }
    }

    /// Adds one. `T` is the C struct or number that the kind has.
    pub fn push<T: Copy>(&mut self, level: i32, kind: i32, value: T) {
        // SAFETY: only computes.
        let (space, length) = unsafe {
            let size = size_of::<T>() as u32;
            (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size))
        };
        assert!(self.length + space <= size_of::<Memory>());
        // SAFETY: the space is within the memory and begins aligned, as every one before has
        // taken a whole number of aligned units; the value is written where cmsg(3) has it.
        unsafe {
            let at = self.memory.as_mut_ptr().cast::<u8>().add(self.length);
            at.write_bytes(0, space);
            let header = at.cast::<libc::cmsghdr>();
            (*header).cmsg_len = length as _;
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            at.add(HEADER).cast::<T>().write_unaligned(value);
        }
        self.length += space;
    }

    /// What was written, for a `msghdr`: where, and how many bytes.
    pub fn finish(self) -> (*mut libc::c_void, usize) {
        match self.length {
            0 => (std::ptr::null_mut(), 0),
            length => (self.memory.as_mut_ptr().cast(), length),
        }
    }
}

/// A control message that came.
pub(super) struct Message<'a> {
    pub level: i32,
    pub kind: i32,
    bytes: &'a [u8],
}

impl Message<'_> {
    /// Its content as the C struct or number that the kind has; `None` if it is shorter. Any
    /// bytes must be a valid `T`: it is a number or a C struct of numbers.
    pub fn value<T: Copy>(&self) -> Option<T> {
        if self.bytes.len() < size_of::<T>() {
            return None;
        }
        // SAFETY: so many bytes are there; only numbers and structs of numbers are asked for.
        Some(unsafe { self.bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    /// What follows after a `T`.
    pub fn after<T>(&self) -> &[u8] {
        self.bytes.get(size_of::<T>()..).unwrap_or(&[])
    }

    /// A traffic class, which is a byte for IPv4 and a number for IPv6.
    pub fn traffic_class(&self) -> Option<u8> {
        match self.value::<i32>() {
            Some(number) => u8::try_from(number).ok(),
            None => self.value::<u8>(),
        }
    }
}

/// The control messages that the system wrote behind a header.
///
/// # Safety
///
/// `header` is as a receiving call left it, and its control memory is still there.
pub(super) unsafe fn messages(header: &libc::msghdr) -> impl Iterator<Item = Message<'_>> {
    // SAFETY: promised by the caller; these only look within `msg_controllen`.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(header) };
    std::iter::from_fn(move || {
        if at.is_null() {
            return None;
        }
        // SAFETY: the system wrote a whole control message there.
        let (message, next) = unsafe {
            let length = ((*at).cmsg_len as usize).saturating_sub(HEADER);
            let bytes = std::slice::from_raw_parts(libc::CMSG_DATA(at), length);
            let message = Message {
                level: (*at).cmsg_level,
                kind: (*at).cmsg_type,
                bytes,
            };
            (message, libc::CMSG_NXTHDR(header, at))
        };
        at = next;
        Some(message)
    })
}
