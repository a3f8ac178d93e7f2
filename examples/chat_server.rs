//! A chat room over TCP: what one says in a line, all the others get.
//!
//! What it shows: state that connections share, lines from a stream, and a server that nobody can harm. A line has a
//! bounded length; who says nothing for too long is sent away; who talks too fast is read more slowly; and who does not
//! read what the others say is cut off when the write queue reaches its bound, so that the server's memory is bounded
//! and nobody waits for the slowest. On Ctrl-C or SIGTERM everybody hears the end of it.
//!
//! Run:  cargo run --example chat_server -- [ADDRESS] [--idle SECONDS]
//! Try:  nc 127.0.0.1 7001        in two terminals; then `hello`, or `/nick ann`

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use kolo::{
    Code, Id, ListenOptions, ListenerHandler, Loop, RunMode, Stream, StreamHandler, TcpListener,
    TcpStream, Timeout, Timer,
};

/// The longest line, its end included. A longer one ends the connection.
const LINE_MAX: usize = 1024;
const NAME_MAX: usize = 16;

/// What may wait for one who does not read. More than the longest answer to 64 KiB read at once (two bytes, `a` and the
/// line's end, become at most 21), so that one talker alone never cuts off those who have read everything.
const QUEUE_MAX: usize = 1024 * 1024;

/// What the system may hold beside it, and of what is said and not read yet.
const SYSTEM_BUFFER: u32 = 64 * 1024;

/// How fast one may talk. The rest waits in the talker's own socket.
const TALK_BYTES_PER_SECOND: f64 = 1024.0 * 1024.0;

/// One who takes nothing for so long is gone, though the system does not know it yet.
const WRITE_STALL: Duration = Duration::from_secs(30);

struct Guest {
    stream: Stream,
    name: String,
    /// Why the guest is leaving: says no more, and hears no more.
    leaves: Option<String>,
}

/// Who is here. Callbacks never run inside one another, so each may borrow it.
#[derive(Default)]
struct Room {
    guests: BTreeMap<Id, Guest>,
    guests_ever: usize,
}

impl Room {
    fn tell_others(&mut self, lp: &Loop, from: Stream, text: &str) {
        for guest in self.guests.values_mut() {
            if guest.stream != from {
                guest.tell(lp, text);
            }
        }
    }

    /// Hears what a guest said: what the others are told, or `None` from one who is leaving.
    fn hear(&mut self, lp: &Loop, from: Stream, line: &str) -> Option<String> {
        if self.guests.get(&from.id())?.leaves.is_some() {
            return None;
        }
        let words = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let told = match words {
            ("", _) => String::new(),
            ("/nick", name) => self.rename(lp, from, name.trim()),
            (command, _) if command.starts_with('/') => {
                let guest = self.guests.get_mut(&from.id())?;
                guest.tell(lp, "! there is only /nick NAME\n");
                String::new()
            }
            _ => format!("<{}> {}\n", self.guests.get(&from.id())?.name, line.trim()),
        };
        Some(told)
    }

    fn rename(&mut self, lp: &Loop, stream: Stream, name: &str) -> String {
        let taken = self.guests.values().any(|guest| guest.name == name);
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let Some(guest) = self.guests.get_mut(&stream.id()) else {
            return String::new();
        };
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(allowed) {
            guest.tell(
                lp,
                "! a name has 1 to 16 letters, digits, hyphens and underscores\n",
            );
            return String::new();
        }
        if taken {
            guest.tell(lp, "! somebody has that name\n");
            return String::new();
        }
        let former = std::mem::replace(&mut guest.name, name.to_owned());
        guest.tell(lp, &format!("* you are {name}\n"));
        format!("* {former} is now {name}\n")
    }
}

impl Guest {
    fn tell(&mut self, lp: &Loop, text: &str) {
        if self.leaves.is_some() {
            return;
        }
        match self.stream.write(lp, text.as_bytes()) {
            Err(error) if error.code() == Code::ENOBUFS => self.cut_off(lp),
            // On any other error the connection broke, and `on_error` is about to come.
            _ => {}
        }
    }

    /// Ends the connection at once, and lets go of all that waits to be sent.
    fn cut_off(&mut self, lp: &Loop) {
        self.leaves = Some("too slow".to_owned());
        let _ = self.stream.reset(lp);
    }

    /// Says why, and ends the connection when that has been sent.
    fn send_away(&mut self, lp: &Loop, why: &str) {
        self.tell(lp, &format!("! {why}\n"));
        self.leaves.get_or_insert_with(|| why.to_owned());
        let _ = self.stream.finish(lp);
    }
}

/// A guest's connection.
struct Connection {
    room: Rc<RefCell<Room>>,
    /// A line whose end has not come yet.
    line: Vec<u8>,
}

impl Connection {
    fn send_away(&self, lp: &Loop, stream: Stream, why: &str) {
        if let Some(guest) = self.room.borrow_mut().guests.get_mut(&stream.id()) {
            guest.send_away(lp, why);
        }
    }
}

impl StreamHandler for Connection {
    fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
        // All that came at once is told at once: one write for each of the others, not one per line.
        let mut told = String::new();
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + piece.len() > LINE_MAX {
                self.send_away(lp, stream, "line too long");
                break;
            }
            self.line.extend_from_slice(piece);
            if self.line.ends_with(b"\n") {
                // No escape sequences for the others' terminals.
                let line = String::from_utf8_lossy(&self.line).replace(char::is_control, "");
                self.line.clear();
                match self.room.borrow_mut().hear(lp, stream, &line) {
                    Some(text) => told += &text,
                    None => break,
                }
            }
        }
        self.room.borrow_mut().tell_others(lp, stream, &told);

        let pause = Duration::from_secs_f64(told.len() as f64 / TALK_BYTES_PER_SECOND);
        if pause >= Duration::from_millis(1) {
            let _ = stream.read_stop(lp);
            let go_on = move |lp: &Loop| {
                // It may have been closed meanwhile: a handle is a number, and then this says no.
                let _ = stream.read_start(lp);
            };
            if Timer::after(lp, pause, go_on).is_err() {
                go_on(lp);
            }
        }
    }

    fn on_end(&mut self, lp: &Loop, stream: Stream) {
        // The last line may have no end.
        self.on_data(lp, stream, b"\n");
        let _ = stream.finish(lp);
    }

    fn on_timeout(&mut self, lp: &Loop, stream: Stream, which: Timeout) {
        match which {
            Timeout::Read => self.send_away(lp, stream, "idle for too long"),
            Timeout::Write => {
                if let Some(guest) = self.room.borrow_mut().guests.get_mut(&stream.id()) {
                    guest.cut_off(lp);
                }
            }
        }
    }

    fn on_error(&mut self, _: &Loop, stream: Stream, error: kolo::Error) {
        if let Some(guest) = self.room.borrow_mut().guests.get_mut(&stream.id()) {
            guest.leaves.get_or_insert(error.to_string());
        }
    }

    fn on_close(&mut self, lp: &Loop, stream: Stream) {
        // The last that is heard of a connection, however it ended: the one place where a guest leaves.
        let mut room = self.room.borrow_mut();
        if let Some(guest) = room.guests.remove(&stream.id()) {
            let why = guest
                .leaves
                .map_or(String::new(), |why| format!(" ({why})"));
            room.tell_others(lp, stream, &format!("* {} left{why}\n", guest.name));
        }
    }
}

/// Lets guests in.
struct Door {
    room: Rc<RefCell<Room>>,
    idle: Duration,
}

impl Door {
    fn let_in(&self, lp: &Loop, stream: Stream) -> kolo::Result<()> {
        stream.set_watermarks(lp, QUEUE_MAX / 2, QUEUE_MAX, QUEUE_MAX)?;
        stream.set_timeouts(lp, Some(self.idle), Some(WRITE_STALL))?;
        let connection = Connection {
            room: self.room.clone(),
            line: Vec::new(),
        };
        stream.attach(lp, connection)?;
        let mut room = self.room.borrow_mut();
        room.guests_ever += 1;
        let mut guest = Guest {
            stream,
            name: format!("guest{}", room.guests_ever),
            leaves: None,
        };
        room.tell_others(lp, stream, &format!("* {} joined\n", guest.name));
        guest.tell(lp, &format!("* you are {}\n", guest.name));
        room.guests.insert(stream.id(), guest);
        Ok(())
    }
}

impl ListenerHandler for Door {
    fn on_accept(&mut self, lp: &Loop, _: TcpListener, tcp: TcpStream) {
        if let Err(error) = self.let_in(lp, *tcp) {
            eprintln!("chat server: a guest could not be let in: {error}");
            let _ = lp.close(tcp);
        }
    }

    fn on_error(&mut self, _: &Loop, _: TcpListener, error: kolo::Error) {
        eprintln!("chat server: {error}; those who knock must wait");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut address: SocketAddr = "127.0.0.1:7001".parse()?;
    let mut idle = Duration::from_secs(600);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--idle" => {
                let seconds = arguments.next().ok_or("--idle takes seconds")?;
                idle = Duration::try_from_secs_f64(seconds.parse()?)?;
            }
            _ => address = argument.parse()?,
        }
    }

    let lp = Loop::new()?;
    let room = Rc::new(RefCell::new(Room::default()));
    let door = Door {
        room: room.clone(),
        idle,
    };
    let options = ListenOptions {
        send_buffer: Some(SYSTEM_BUFFER),
        receive_buffer: Some(SYSTEM_BUFFER),
        ..Default::default()
    };
    let listener = TcpListener::listen_with(&lp, address, &options, door)?;
    println!("chat server at {}", listener.address(&lp)?);

    // Elsewhere Ctrl-C ends the process as ever.
    #[cfg(unix)]
    for number in [libc::SIGINT, libc::SIGTERM] {
        let room = room.clone();
        let signal = kolo::Signal::open(&lp, move |lp, signal, _| {
            for guest in room.borrow_mut().guests.values_mut() {
                guest.send_away(lp, "the server ends");
            }
            // The loop ends when the last guest has left. A second signal does not wait for that: its former
            // disposition is back.
            let _ = lp.close(listener);
            let _ = lp.close(signal);
        })?;
        signal.start(&lp, number)?;
        lp.unref(signal)?;
    }

    lp.run(RunMode::Default)?;
    Ok(())
}
