//! Connections that move, here from a loop to itself.

use kolo::{Code, Kind, Loop, TcpStream};

use super::connections::End;
use super::listeners::Accepted;
use super::streams::StreamModel;
use super::world::{called_then, nanoseconds, Callback, Stage, Token, World};

/// What moves with a stream.
#[derive(Clone, Copy)]
struct Settings {
    marks: (usize, usize, usize),
    read_idle: u64,
    write_stall: u64,
}

impl World {
    pub fn move_to(&mut self, lp: &Loop, at: usize) {
        if self.stream(at).kind != Kind::Tcp || self.sync(lp, at).is_none() {
            return;
        }
        let stream = self.stream(at);
        let (connection, side) = (stream.connection, stream.side);
        let settings = Settings {
            marks: (stream.low, stream.high, stream.limit),
            read_idle: stream.read_idle,
            write_stall: stream.write_stall,
        };
        let (connecting, failed, shutting) =
            (stream.connecting, stream.failed.is_some(), stream.shutting);
        let sends_files = stream.owned.iter().any(|owned| owned.file);
        let (serial, token) = (self.next_serial(), Token::new());
        let tcp = TcpStream::from_id(self.handles[at].id);
        let got = tcp.move_to(lp, &self.remote, move |lp, arrived| {
            let _token = &token;
            arrive(lp, connection, side, settings, serial, arrived);
        });
        let code = got.as_ref().err().map(|error| error.code());
        self.note(|| format!("#{at} moves -> {code:?}"));
        self.record.steps += 1;
        let queued = if code.is_some() {
            self.sync(lp, at)
        } else {
            None
        };
        let full = self.tasks.posted.len() >= self.post_capacity;
        // The driver "uring" may have received what cannot be put back.
        let may_be_ahead = lp.driver_name() == "uring";
        let breakable = self.is_breakable(lp, at);
        let fits = match code {
            None => !connecting && !failed && !shutting && !full,
            Some(Code::ENOBUFS) => full,
            Some(Code::ECANCELED) => self.stage == Stage::Ending,
            Some(Code::ENOTCONN) => failed || breakable,
            Some(Code::EPIPE) => shutting,
            Some(Code::EBUSY) => connecting || queued != Some(0) || sends_files || may_be_ahead,
            _ => false,
        };
        self.check(fits, || format!("#{at} moves with {code:?}"));
        if code.is_none() {
            self.count("stream moved");
            let during = self.callback == Some(Callback::Posted);
            let phase = during.then_some(self.phases);
            self.tasks.posted.push_back((serial, phase));
            self.closed(at);
            self.net.all[connection].ends[side] = End::Moving;
        }
    }

    fn arrived(
        &mut self,
        lp: &Loop,
        connection: usize,
        side: usize,
        settings: Settings,
        tcp: TcpStream,
    ) -> usize {
        let at = self.add_stream(tcp.id(), Kind::Tcp, connection, side);
        self.note(|| format!("#{at} is connection {connection}.{side}"));
        let connection = &mut self.net.all[connection];
        connection.ends[side] = End::Kolo(at);
        // An end that was told is told again.
        connection.directions[1 - side].ended = false;
        // Shut down under another handle: writing finds it broken.
        let end_shut = connection.directions[side].ending;
        let now = nanoseconds(lp);
        let stream: &mut StreamModel = self.stream(at);
        stream.end_shut = end_shut;
        (stream.low, stream.high, stream.limit) = settings.marks;
        (stream.read_idle, stream.write_stall) = (settings.read_idle, settings.write_stall);
        stream.read_at(now);
        stream.stall_since = now;
        self.current = Some(at);
        if self.random.percent(85) {
            self.attach(lp, at);
        }
        at
    }
}

/// A connection arrives on the loop, or never will.
fn arrive(
    lp: &Loop,
    connection: usize,
    side: usize,
    settings: Settings,
    serial: u64,
    arrived: kolo::Result<TcpStream>,
) {
    let callback = match arrived {
        Ok(_) => Callback::Posted,
        Err(_) => Callback::Canceled,
    };
    let mut stream = Accepted::default();
    let run = |world: &mut World| {
        world.job(serial, Callback::Posted, arrived.is_ok());
        match arrived {
            Ok(tcp) => stream.0 = Some(world.arrived(lp, connection, side, settings, tcp)),
            Err(error) => {
                let ends = world.stage == Stage::Ending && error.code() == Code::ECANCELED;
                world.check(ends, || format!("a stream does not arrive: {error}"));
                world.end_gone(connection, side, usize::MAX);
            }
        }
    };
    called_then(lp, callback, None, run, |_| ());
}
