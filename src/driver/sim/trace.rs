//! What happens in a simulation, folded into one number, and written as lines for whoever wants to read it.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

/// One thing that happens.
#[derive(Clone, Copy)]
pub(crate) struct Event<'a> {
    /// The loop; `None`: the network.
    pub by: Option<u32>,
    pub what: &'static str,
    pub from: Option<SocketAddr>,
    pub to: Option<SocketAddr>,
    pub number: u64,
    pub data: &'a [u8],
}

impl Event<'_> {
    pub fn new(what: &'static str) -> Event<'static> {
        Event {
            by: None,
            what,
            from: None,
            to: None,
            number: 0,
            data: &[],
        }
    }
}

pub(crate) struct Trace {
    digest: u64,
    /// Lines that were not handed out yet.
    lines: String,
    /// Somebody reads them.
    pub written: bool,
}

impl Trace {
    pub fn new(seed: u64) -> Trace {
        let mut trace = Trace {
            digest: 0,
            lines: String::new(),
            written: false,
        };
        trace.fold(seed);
        trace
    }

    /// A number for everything that has happened.
    pub fn digest(&self) -> u64 {
        // Spreads what came last over all bits.
        let word = self.digest;
        let word = (word ^ word >> 32).wrapping_mul(0x9fb2_1c65_1e98_df25);
        word ^ word >> 29
    }

    pub fn fold(&mut self, word: u64) {
        self.digest = mixed(self.digest, word);
    }

    pub fn record(&mut self, at: u64, event: Event<'_>) {
        self.fold(at);
        self.fold(event.by.map_or(0, |by| u64::from(by) + 1));
        self.fold(hash(event.what.as_bytes()));
        for address in [event.from, event.to] {
            let Some(address) = address else {
                self.fold(0);
                continue;
            };
            match address.ip() {
                IpAddr::V4(v4) => self.fold(u64::from(v4.to_bits())),
                IpAddr::V6(v6) => {
                    self.fold(v6.to_bits() as u64);
                    self.fold((v6.to_bits() >> 64) as u64);
                }
            }
            self.fold(u64::from(address.port()) + 1);
        }
        self.fold(event.number);
        let data = hash(event.data);
        self.fold(data);
        if self.written {
            self.write(at, event, data);
        }
    }

    #[cold]
    fn write(&mut self, at: u64, event: Event<'_>, data: u64) {
        let lines = &mut self.lines;
        let (seconds, rest) = (at / 1_000_000_000, at % 1_000_000_000);
        // Writing into a string does not fail.
        let _ = write!(lines, "{seconds}.{rest:09} ");
        let _ = match event.by {
            Some(by) => write!(lines, "loop {by}: {}", event.what),
            None => write!(lines, "network: {}", event.what),
        };
        if let Some(from) = event.from {
            let _ = write!(lines, " {from}");
        }
        if let Some(to) = event.to {
            let _ = write!(lines, " > {to}");
        }
        if event.number > 0 {
            let _ = write!(lines, " {}", event.number);
        }
        if !event.data.is_empty() {
            let _ = write!(lines, " ({} bytes, {data:016x})", event.data.len());
        }
        lines.push('\n');
    }

    /// Nobody reads lines any more.
    pub fn end(&mut self) {
        self.written = false;
        self.lines.clear();
    }

    /// The lines since it was last asked.
    pub fn take_lines(&mut self) -> String {
        std::mem::take(&mut self.lines)
    }
}

fn mixed(digest: u64, word: u64) -> u64 {
    (digest.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// A number for some bytes.
fn hash(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    let mut digest = bytes.len() as u64;
    for word in words {
        let word = word.try_into().map_or(0, u64::from_le_bytes);
        digest = mixed(digest, word);
    }
    for byte in rest {
        digest = mixed(digest, u64::from(*byte));
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_of_an_event_counts() {
        let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let plain = Event::new("sends");
        let events = [
            plain,
            Event {
                by: Some(0),
                ..plain
            },
            Event {
                what: "reads",
                ..plain
            },
            Event {
                from: Some(address),
                ..plain
            },
            Event {
                to: Some(address),
                ..plain
            },
            Event { number: 1, ..plain },
            Event {
                data: b"x",
                ..plain
            },
            Event {
                data: b"12345678",
                ..plain
            },
        ];
        let mut digests: Vec<_> = (0..2)
            .flat_map(|at| events.map(|event| (at, event)))
            .map(|(at, event)| {
                let mut trace = Trace::new(1);
                trace.record(at, event);
                trace.digest()
            })
            .collect();
        digests.push(Trace::new(1).digest());
        digests.push(Trace::new(2).digest());
        let count = digests.len();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), count);
    }

    #[test]
    fn lines_say_when_who_and_what() {
        let mut trace = Trace::new(1);
        trace.written = true;
        let mut event = Event::new("sends");
        event.by = Some(2);
        event.from = "10.0.0.1:80".parse().ok();
        event.to = "10.0.0.2:90".parse().ok();
        event.data = b"abc";
        trace.record(1_000_000_005, event);
        let line = trace.take_lines();
        assert!(
            line.starts_with("1.000000005 loop 2: sends 10.0.0.1:80 > 10.0.0.2:90 (3 bytes, "),
            "{line}"
        );
        assert_eq!(trace.take_lines(), "");
    }
}
