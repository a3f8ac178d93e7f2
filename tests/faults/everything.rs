//! A program that does everything once, kind by kind, and says how each part ended: well, or with an error that some
//! callback or call told. Whatever system call is made to fail under it, it must never hang, spin or crash.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use kolo::fs::{self, CopyFlags, OpenFlags};
use kolo::{
    Command, Datagram, DatagramError, Directory, Error, ExitStatus, File, Interest, LocalListener,
    LocalListenerHandler, LocalStream, Loop, LoopOptions, Pipe, Poll, RunMode, Signal, Stdio,
    Stream, StreamHandler, TcpListener, TcpStream, Timer, Tty, TtyMode, UdpHandler, UdpSocket,
    Waker, Watch, WatchOptions,
};

use crate::common::pattern;
use crate::support::{is_open, terminal, Folder};

/// What a part may take, in seconds: a part that is told of no error and does not come to its end either has lost
/// something. Where that is known it need not wait so long.
pub const PART_SECONDS: &str = "KOLO_FAULTS_PART_SECONDS";

fn part_limit() -> Duration {
    let seconds = std::env::var(PART_SECONDS).ok();
    Duration::from_secs(seconds.map_or(20, |seconds| seconds.parse().unwrap()))
}

/// How long a part that was told that a listener cannot accept still waits.
const ACCEPT_AGAIN: Duration = Duration::from_millis(400);

/// Turns that a part may make; it needs some hundred.
const TURNS_MAX: u64 = 20_000;

/// Errors of `run` itself that a part lives through.
const RUN_ERRORS_MAX: usize = 10;

/// Why a part ended early.
enum Stop {
    /// A call or a callback said so.
    Told(Error),
    /// An error that is not kolo's.
    Fixture(std::io::Error),
    /// Nothing came any more.
    Stalled(String),
    /// `told` has it.
    GaveUp,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Told(error)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Stop {
        Stop::Fixture(error)
    }
}

type Outcome = Result<(), Stop>;

/// What the callbacks of a part told of errors.
#[derive(Clone, Default)]
struct Told(Rc<RefCell<(Vec<String>, bool)>>);

impl Told {
    fn note(&self, place: &str, error: Error) {
        self.0
            .borrow_mut()
            .0
            .push(format!("{place}:{:?}", error.code()));
    }

    /// The part cannot come to its end any more.
    fn give_up(&self, place: &str, error: Error) {
        self.note(place, error);
        self.0.borrow_mut().1 = true;
    }

    fn gave_up(&self) -> bool {
        self.0.borrow().1
    }
}

struct Part<'a> {
    lp: &'a Loop,
    told: Told,
    began: Instant,
    limit: Duration,
    folder: &'a Path,
}

impl Part<'_> {
    /// Turns the loop until the condition holds.
    fn until(&self, what: &str, condition: impl Fn() -> bool) -> Outcome {
        let mut failed = 0;
        loop {
            if condition() {
                return Ok(());
            }
            if self.told.gave_up() {
                return Err(Stop::GaveUp);
            }
            if self.began.elapsed() > self.limit {
                return Err(Stop::Stalled(what.to_owned()));
            }
            if let Err(error) = self.lp.run(RunMode::Once) {
                self.told.note("run", error);
                failed += 1;
                if failed > RUN_ERRORS_MAX {
                    return Err(Stop::GaveUp);
                }
            }
        }
    }

    /// Waits for the outcome of a request.
    fn outcome<T: 'static>(
        &self,
        what: &str,
        start: impl FnOnce(&Loop, Slot<T>) -> kolo::Result<kolo::Request>,
    ) -> Result<T, Stop> {
        let slot = Slot::default();
        start(self.lp, slot.clone())?;
        self.until(what, || slot.0.borrow().is_some())?;
        let value = slot.0.borrow_mut().take();
        Ok(value.unwrap())
    }
}

struct Slot<T>(Rc<RefCell<Option<T>>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot(Rc::default())
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Slot(self.0.clone())
    }
}

impl<T> Slot<T> {
    fn set(&self, value: T) {
        assert!(self.0.borrow_mut().replace(value).is_none(), "told once");
    }
}

/// Collects, or sends back.
#[derive(Clone)]
struct End {
    told: Told,
    place: &'static str,
    echoes: bool,
    heard: Rc<RefCell<Heard>>,
}

#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    descriptors: usize,
    ended: bool,
    closed: bool,
}

impl End {
    fn new(part: &Part<'_>, place: &'static str, echoes: bool) -> End {
        End {
            told: part.told.clone(),
            place,
            echoes,
            heard: Rc::default(),
        }
    }

    fn ended(&self) -> bool {
        self.heard.borrow().ended
    }

    fn has(&self, length: usize) -> bool {
        self.heard.borrow().bytes.len() >= length
    }
}

impl StreamHandler for End {
    fn on_data(&mut self, lp: &Loop, stream: Stream, data: &[u8]) {
        if self.echoes {
            if let Err(error) = stream.write(lp, data) {
                self.told.give_up(self.place, error);
            }
        } else {
            self.heard.borrow_mut().bytes.extend_from_slice(data);
        }
    }

    fn on_end(&mut self, lp: &Loop, stream: Stream) {
        self.heard.borrow_mut().ended = true;
        let _ = stream.finish(lp);
    }

    fn on_error(&mut self, _: &Loop, _: Stream, error: Error) {
        self.told.give_up(self.place, error);
    }

    fn on_descriptors(&mut self, _: &Loop, _: Stream, waiting: usize, lost: bool) {
        self.heard.borrow_mut().descriptors += waiting;
        if lost {
            self.told.give_up(self.place, kolo::Code::EMFILE.into());
        }
    }

    fn on_close(&mut self, _: &Loop, _: Stream) {
        let twice = std::mem::replace(&mut self.heard.borrow_mut().closed, true);
        assert!(!twice, "closed once");
    }
}

/// Accepts whoever comes, and sends back what they say.
struct Acceptor(End);

impl Acceptor {
    /// It is tried again soon; when that brings nothing, the part gives up.
    fn failed(&self, lp: &Loop, error: Error) {
        self.0.told.note("accept", error);
        let told = self.0.told.clone();
        let _ = Timer::after(lp, ACCEPT_AGAIN, move |_| told.give_up("accept", error));
    }
}

impl kolo::ListenerHandler for Acceptor {
    fn on_accept(&mut self, lp: &Loop, _: TcpListener, stream: TcpStream) {
        if let Err(error) = stream.attach(lp, self.0.clone()) {
            self.0.told.give_up("attach", error);
        }
    }

    fn on_error(&mut self, lp: &Loop, _: TcpListener, error: Error) {
        self.failed(lp, error);
    }
}

impl LocalListenerHandler for Acceptor {
    fn on_accept(&mut self, lp: &Loop, _: LocalListener, stream: LocalStream) {
        if let Err(error) = stream.attach(lp, self.0.clone()) {
            self.0.told.give_up("attach", error);
        }
    }

    fn on_error(&mut self, lp: &Loop, _: LocalListener, error: Error) {
        self.failed(lp, error);
    }
}

/// More than the kernel takes at once.
const MUCH: usize = 3_000_000;

/// Sends much, and hears it again.
fn echo(part: &Part<'_>, client: Stream, heard: &End, length: usize) -> Outcome {
    let lp = part.lp;
    let bytes = pattern(0, length);
    client.write(lp, &bytes[..length / 2])?;
    client.write_owned(lp, bytes[length / 2..].to_vec(), |_, _, _| ())?;
    client.shutdown(lp, |_, _, _| ())?;
    part.until("echo", || heard.ended())?;
    assert!(heard.heard.borrow().bytes == bytes, "every byte, once");
    part.until("close", || heard.heard.borrow().closed)
}

fn tcp(part: &Part<'_>) -> Outcome {
    let server = End::new(part, "server", true);
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = TcpListener::listen(part.lp, any, Acceptor(server))?;
    let client = End::new(part, "client", false);
    let address = listener.address(part.lp)?;
    let stream = TcpStream::connect(part.lp, address, client.clone())?;
    echo(part, stream.into(), &client, MUCH)
}

fn tcp_by_name(part: &Part<'_>) -> Outcome {
    let server = End::new(part, "server", true);
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = TcpListener::listen(part.lp, any, Acceptor(server))?;
    let client = End::new(part, "client", false);
    let port = listener.address(part.lp)?.port();
    let stream = TcpStream::connect_name(part.lp, "localhost", port, client.clone())?;
    echo(part, stream.into(), &client, 1000)
}

struct Datagrams {
    told: Told,
    came: Rc<RefCell<(usize, usize)>>,
}

impl UdpHandler for Datagrams {
    fn on_datagram(&mut self, _: &Loop, _: UdpSocket, _: &Datagram<'_>) {
        self.came.borrow_mut().0 += 1;
    }

    fn on_error(&mut self, _: &Loop, _: UdpSocket, error: &DatagramError) {
        self.told.note("datagram", error.error);
        self.came.borrow_mut().1 += error.count as usize;
    }
}

fn udp(part: &Part<'_>) -> Outcome {
    let came = Rc::new(RefCell::new((0, 0)));
    let handler = || Datagrams {
        told: part.told.clone(),
        came: came.clone(),
    };
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let receiver = UdpSocket::bind(part.lp, any, handler())?;
    let sender = UdpSocket::bind(part.lp, any, handler())?;
    let to = receiver.local_address(part.lp)?;
    const SENT: usize = 40;
    let told = part.told.clone();
    // In a callback, so that they go together.
    part.lp.defer(move |lp: &Loop| {
        for number in 0..SENT {
            let datagram = vec![0; 1 + number * 10];
            if let Err(error) = sender.send_to(lp, &datagram, to) {
                told.give_up("send", error);
            }
        }
    })?;
    // Each arrives, or is told of.
    part.until("datagrams", || {
        let (came, failed) = *came.borrow();
        came + failed >= SENT
    })
}

fn local(part: &Part<'_>) -> Outcome {
    let server = End::new(part, "server", true);
    let path = part.folder.join("socket");
    let _ = std::fs::remove_file(&path);
    let _listener = LocalListener::listen(part.lp, &path, Acceptor(server))?;
    let client = End::new(part, "client", false);
    let stream = LocalStream::connect(part.lp, &path, client.clone())?;
    echo(part, stream.into(), &client, MUCH)
}

fn passing(part: &Part<'_>) -> Outcome {
    let (one, other) = (End::new(part, "one", false), End::new(part, "other", false));
    let (first, second) = LocalStream::pair(part.lp, one, other.clone())?;
    second.receive_descriptors(part.lp, true)?;
    let file = std::fs::File::open("/dev/null")?;
    let descriptors = [file.as_fd(), file.as_fd()];
    first.write_with_descriptors(part.lp, "two", &descriptors, |_, _, _| ())?;
    part.until("descriptors", || other.heard.borrow().descriptors == 2)?;
    part.until("bytes", || other.has(3))
}

fn pipe(part: &Part<'_>) -> Outcome {
    let (reads, writes) = (
        End::new(part, "reads", false),
        End::new(part, "writes", false),
    );
    let (_, writer) = Pipe::pair(part.lp, reads.clone(), writes)?;
    let bytes = pattern(0, MUCH);
    writer.write(part.lp, &bytes)?;
    writer.shutdown(part.lp, |_, _, _| ())?;
    part.until("end", || reads.ended())?;
    assert!(reads.heard.borrow().bytes == bytes, "every byte, once");
    Ok(())
}

fn process(part: &Part<'_>) -> Outcome {
    let (input, output) = (
        End::new(part, "stdin", false),
        End::new(part, "stdout", false),
    );
    let exit = Slot::default();
    let told = exit.clone();
    let child = Command::new("/bin/sh")
        .args(["-c", "cat; exit 3"])
        .stdin(Stdio::child_reads(input))
        .stdout(Stdio::child_writes(output.clone()))
        .kill_on_close(true)
        .spawn(part.lp, move |_, _, status| told.set(status))
        .map_err(|failed| failed.error)?;
    let bytes = pattern(0, 100_000);
    let stdin = child.stdin.unwrap();
    stdin.write(part.lp, &bytes)?;
    stdin.shutdown(part.lp, |_, _, _| ())?;
    part.until("output", || output.ended())?;
    part.until("exit", || exit.0.borrow().is_some())?;
    let status = *exit.0.borrow();
    match status {
        Some(ExitStatus::Code(3)) => assert!(output.heard.borrow().bytes == bytes),
        // Under a tracer that makes system calls fail, the program has its troubles too.
        Some(status) => part.told.0.borrow_mut().0.push(format!("{status:?}")),
        None => {}
    }
    Ok(())
}

fn files(part: &Part<'_>) -> Outcome {
    let at = |name: &str| part.folder.join(name);
    let done = |what: &str, call: fs::Call<()>| -> Outcome {
        part.outcome(what, |lp, slot| call.start(lp, move |_, it| slot.set(it)))??;
        Ok(())
    };
    for name in ["file", "copy", "moved"] {
        let _ = std::fs::remove_file(at(name));
    }
    let _ = std::fs::remove_dir(at("made"));
    done("mkdir", fs::mkdir(at("made"), 0o700))?;
    done("rmdir", fs::rmdir(at("made")))?;
    let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
    let file: File = part.outcome("open", |lp, slot| {
        File::open(lp, at("file"), flags, move |_, it| slot.set(it))
    })??;
    let bytes = pattern(0, 900_000);
    let written = part.outcome("write", |lp, slot| {
        file.write(lp, 0, bytes.clone(), move |_, it| slot.set(it))
    })?;
    written.outcome?;
    assert_eq!(written.length, bytes.len());
    done("fsync", file.fsync(part.lp))?;
    done("fdatasync", file.fdatasync(part.lp))?;
    let read = part.outcome("read", |lp, slot| {
        let memory = Vec::with_capacity(1_000_000);
        file.read(lp, 0, memory, move |_, it| slot.set(it))
    })?;
    read.outcome?;
    assert!(read.buffer[..read.length] == bytes, "every byte, once");
    part.outcome("stat", |lp, slot| {
        file.stat(lp).start(lp, move |_, it| slot.set(it))
    })??;
    done("truncate", file.truncate(part.lp, 800_000))?;
    done("chmod", fs::chmod(at("file"), 0o600))?;
    part.outcome("copy", |lp, slot| {
        fs::copy(at("file"), at("copy"), CopyFlags::empty()).start(lp, move |_, it| slot.set(it))
    })??;
    done("rename", fs::rename(at("copy"), at("moved")))?;
    part.outcome("realpath", |lp, slot| {
        fs::realpath(at("moved")).start(lp, move |_, it| slot.set(it))
    })??;
    let directory: Directory = part.outcome("opendir", |lp, slot| {
        Directory::open(lp, part.folder, move |_, it| slot.set(it))
    })??;
    loop {
        let entries = part.outcome("readdir", |lp, slot| {
            directory.read(lp, move |_, it| slot.set(it))
        })??;
        if entries.is_empty() {
            break;
        }
    }
    done("unlink", fs::unlink(at("moved")))?;
    // The file goes through a stream too.
    let (one, other) = (End::new(part, "from", false), End::new(part, "to", false));
    let (from, _) = LocalStream::pair(part.lp, one, other.clone())?;
    let sent = Slot::default();
    let slot = sent.clone();
    from.send_file(part.lp, file, 0, u64::MAX, move |_, _, it| {
        slot.set(it.outcome)
    })?;
    from.shutdown(part.lp, |_, _, _| ())?;
    part.until("sent", || sent.0.borrow().is_some())?;
    let outcome = sent.0.borrow_mut().take().unwrap();
    outcome?;
    part.until("came", || other.ended())?;
    assert!(other.heard.borrow().bytes == bytes[..800_000]);
    part.outcome("close", |lp, slot| {
        file.close(lp, move |_, it| slot.set(it))
    })??;
    done("unlink", fs::unlink(at("file")))
}

fn names(part: &Part<'_>) -> Outcome {
    let found = part.outcome("resolve", |lp, slot| {
        lp.resolve("localhost", "80", move |_, it| slot.set(it))
    })??;
    assert!(!found.addresses.is_empty());
    Ok(())
}

fn watch(part: &Part<'_>) -> Outcome {
    let folder = part.folder.join("watched");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder)?;
    let heard = Rc::new(RefCell::new(String::new()));
    let (list, told) = (heard.clone(), part.told.clone());
    let mut options = WatchOptions::default();
    options.recursive = true;
    let _watch = Watch::open(part.lp, &folder, &options, move |_, _, event| {
        if let Some(error) = event.error() {
            told.give_up("watch", error);
        }
        let name = event.path().file_name().unwrap_or_default();
        *list.borrow_mut() += &format!(" {:?} {name:?}", event.change());
    })?;
    part.until("ready", || heard.borrow().contains("READY"))?;
    std::fs::write(folder.join("new"), "x")?;
    part.until("event", || heard.borrow().contains("\"new\""))
}

fn signal(part: &Part<'_>) -> Outcome {
    let came = Slot::default();
    let slot = came.clone();
    let signal = Signal::open(part.lp, move |lp, signal, number| {
        let _ = signal.stop(lp);
        slot.set(number);
    })?;
    signal.start(part.lp, libc::SIGUSR2)?;
    unsafe { libc::raise(libc::SIGUSR2) };
    part.until("signal", || came.0.borrow().is_some())
}

fn tty(part: &Part<'_>) -> Outcome {
    use std::io::Write;
    let (mut emulator, terminal) = terminal()?;
    let heard = End::new(part, "tty", false);
    let tty = Tty::open(part.lp, &terminal, heard.clone())?;
    tty.set_mode(part.lp, TtyMode::Raw)?;
    tty.window_size(part.lp)?;
    tty.write(part.lp, b"shown")?;
    emulator.write_all(b"keys")?;
    part.until("keys", || heard.has(4))?;
    Ok(Tty::reset_modes()?)
}

fn work_and_posts(part: &Part<'_>) -> Outcome {
    let sum = part.outcome("work", |lp, slot| {
        lp.work(|| (1..=1000_u64).sum::<u64>(), move |_, it| slot.set(it))
    })??;
    assert_eq!(sum, 500_500);
    let woken = Rc::new(RefCell::new(0));
    let count = woken.clone();
    let waker = Waker::open(part.lp, move |_, _| *count.borrow_mut() += 1)?;
    let remote = waker.remote(part.lp)?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let posted = std::thread::Builder::new().spawn(move || {
        let outcome = remote.wake();
        let posted = remote.post(move |_: &Loop| sender.send(()).unwrap());
        outcome.and(posted)
    })?;
    part.until("wake", || *woken.borrow() > 0)?;
    part.until("post", || receiver.try_recv().is_ok())?;
    Ok(posted.join().unwrap()?)
}

fn poll(part: &Part<'_>) -> Outcome {
    use std::io::Write;
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let ready = Slot::default();
    let (slot, told) = (ready.clone(), part.told.clone());
    let poll = Poll::open(part.lp, theirs.as_raw_fd(), move |lp, poll, found| {
        let _ = poll.stop(lp);
        match found {
            Ok(found) => slot.set(found),
            Err(error) => told.give_up("poll", error),
        }
    })?;
    poll.start(part.lp, Interest::READABLE)?;
    ours.write_all(b"x")?;
    let outcome = part.until("readable", || ready.0.borrow().is_some());
    // Before its descriptor is closed.
    let _ = part.lp.close(poll);
    outcome
}

fn reset(part: &Part<'_>) -> Outcome {
    use std::io::Read;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let heard = End::new(part, "reset", false);
    let stream = TcpStream::connect(part.lp, listener.local_addr()?, heard.clone())?;
    stream.write(part.lp, b"hello")?;
    let (peer, _) = listener.accept()?;
    peer.set_nonblocking(true)?;
    let came = RefCell::new(Vec::new());
    let broken = RefCell::new(None);
    part.until("hello", || {
        match (&peer).read_to_end(&mut came.borrow_mut()) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => *broken.borrow_mut() = Some(error),
            Ok(_) => {}
        }
        came.borrow().len() == 5 || broken.borrow().is_some()
    })?;
    if let Some(error) = broken.take() {
        return Err(error.into());
    }
    part.lp.close(stream)?;
    part.until("close", || heard.heard.borrow().closed)
}

type Run = fn(&Part<'_>) -> Outcome;

const PARTS: &[(&str, Run)] = &[
    ("tcp", tcp),
    ("tcp-by-name", tcp_by_name),
    ("udp", udp),
    ("local", local),
    ("passing", passing),
    ("pipe", pipe),
    ("process", process),
    ("files", files),
    ("names", names),
    ("watch", watch),
    ("signal", signal),
    ("tty", tty),
    ("work", work_and_posts),
    ("poll", poll),
    ("reset", reset),
];

/// The parts' names.
pub fn names_of_parts() -> impl Iterator<Item = &'static str> {
    PARTS.iter().map(|(name, _)| *name)
}

/// A system call that nothing else makes: so a tracer knows where each part begins.
pub const MARK: &str = "getpgid";

fn mark() {
    unsafe { libc::getpgid(0) };
}

/// Says how a part ended. By a system call that kolo does not use, so that it can always be said.
fn say(line: &str) {
    LINES.with_borrow_mut(|lines| lines.push(line.to_owned()));
    let line = format!("part {line}\n");
    let slice = libc::iovec {
        iov_base: line.as_ptr() as *mut _,
        iov_len: line.len(),
    };
    unsafe { libc::writev(1, &slice, 1) };
}

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What `run` said on this thread: the parts that did not simply end well.
pub fn told() -> Vec<String> {
    let mut lines = LINES.take();
    lines.retain(|line| !line.contains(" ok ") && !line.starts_with("descriptors 0"));
    lines
}

/// Descriptors that are open, without a system call that needs one.
fn low_descriptors() -> Vec<i32> {
    (0..128).filter(|at| is_open(*at)).collect()
}

/// Does these parts of everything (all, if none is named), with the driver of the environment. `false`: something
/// hung, span or was left over.
pub fn run(parts: &str, folder: &Path, begin: impl FnOnce()) -> bool {
    let before = low_descriptors();
    let mut good = true;
    begin();
    match Loop::with_options(LoopOptions::default()) {
        Err(error) => say(&format!("loop told new:{:?}", error.code())),
        Ok(lp) => {
            let wanted = |name: &str| parts.is_empty() || parts.split(',').any(|part| part == name);
            for (name, part) in PARTS.iter().filter(|(name, _)| wanted(name)) {
                mark();
                good &= run_part(&lp, name, *part, folder);
            }
            drop(lp);
        }
    }
    let mut left = low_descriptors();
    left.retain(|at| !before.contains(at));
    let names = left.iter().map(|at| {
        let name = std::fs::read_link(format!("/proc/self/fd/{at}"));
        name.map_or_else(|error| error.to_string(), |name| name.display().to_string())
    });
    let names: Vec<_> = names.collect();
    say(&format!("descriptors {} left {names:?}", names.len()));
    good
}

fn run_part(lp: &Loop, name: &str, run: Run, folder: &Path) -> bool {
    let part = Part {
        lp,
        told: Told::default(),
        began: Instant::now(),
        limit: part_limit(),
        folder,
    };
    let turns = lp.metrics().turns;
    // Keeps `run` from waiting for ever.
    let tick = Timer::open(lp, |_, _| ()).unwrap();
    let often = Duration::from_millis(50);
    tick.start_repeating(lp, often, often).unwrap();
    let outcome = run(&part);
    let stalled = match &outcome {
        Err(Stop::Stalled(what)) => {
            let handles = lp.handles();
            let lines = handles.iter().filter_map(|id| lp.describe(*id).ok());
            format!("{what}; {:?}", lines.collect::<Vec<_>>())
        }
        _ => String::new(),
    };
    for id in lp.handles() {
        let _ = lp.close(id);
    }
    let mut errors = 0;
    while !lp.handles().is_empty() && errors <= RUN_ERRORS_MAX {
        if let Err(error) = lp.run(RunMode::NoWait) {
            part.told.note("run", error);
            errors += 1;
        }
    }
    let took = lp.metrics().turns - turns;
    let told = part.told.0.borrow().0.join(" ");
    let mut good = true;
    match outcome {
        Ok(()) if told.is_empty() => say(&format!("{name} ok {took} turns")),
        Ok(()) => say(&format!("{name} ok, told {told} {took} turns")),
        Err(Stop::GaveUp) => say(&format!("{name} told {told} {took} turns")),
        Err(Stop::Told(error)) => say(&format!("{name} told call:{:?} {told}", error.code())),
        Err(Stop::Fixture(error)) => say(&format!("{name} fixture {error}")),
        Err(Stop::Stalled(_)) => {
            good = false;
            say(&format!("{name} STALLED {stalled}; told {told}"));
        }
    }
    if took > TURNS_MAX {
        good = false;
        say(&format!("{name} SPAN {took} turns"));
    }
    if !lp.handles().is_empty() {
        good = false;
        say(&format!("{name} LEFT {} handles", lp.handles().len()));
    }
    good
}

#[test]
fn everything_is_done_and_nothing_is_left() {
    crate::own_process!(|| {
        for driver in crate::common::drivers() {
            std::env::set_var("KOLO_DRIVER", driver);
            let folder = Folder::new();
            assert!(run("", &folder.0, || ()));
            let told = told();
            assert!(told.is_empty(), "{told:?}");
        }
    });
}
