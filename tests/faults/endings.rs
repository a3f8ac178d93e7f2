//! Loops that end with everything under way, and processes that fork in the middle of it.

use std::os::fd::AsRawFd;
use std::time::Duration;

use kolo::fs::OpenFlags;
use kolo::{
    Code, Command, ExitStatus, File, Hook, HookKind, Interest, ListenOptions, LocalListener,
    LocalStream, Loop, LoopOptions, Pipe, Poll, Signal, Stdio, Stream, TcpListener, TcpStream,
    Timer, Tty, UdpSocket, Waker, Watch, WatchOptions,
};

use crate::common::*;
use crate::own_process;
use crate::support::{faults, open_descriptors, terminal, Folder};

/// What a loop has under way, and what was told of it.
struct Busy {
    /// The streams' logs, each of which must end with its close.
    logs: Vec<Log>,
    /// The outcomes of requests and owned writes.
    outcomes: Shared<Vec<Result<(), Code>>>,
    /// How many of those there must be in the end.
    asked: usize,
    /// What peers hold open.
    _others: Vec<Box<dyn std::any::Any>>,
    _folder: Folder,
}

fn note(busy: &mut Busy) -> Shared<Vec<Result<(), Code>>> {
    busy.asked += 1;
    busy.outcomes.clone()
}

fn script(busy: &mut Busy) -> Script {
    let log = Log::default();
    busy.logs.push(log.clone());
    Script::new(&log)
}

/// A stream with more queued than its peer takes, and an owned write at the end.
fn overfill(lp: &Loop, busy: &mut Busy, stream: impl Into<Stream>) {
    let stream = stream.into();
    stream.write(lp, &vec![0; 1 << 20]).unwrap();
    let told = note(busy);
    let done =
        move |_: &Loop, _, outcome: kolo::Result<()>| told.push(outcome.map_err(kolo::Error::code));
    stream.write_owned(lp, vec![0; 1 << 20], done).unwrap();
}

/// Has one of everything under way.
fn everything_under_way(lp: &Loop) -> Busy {
    let folder = Folder::new();
    let mut busy = Busy {
        logs: Vec::new(),
        outcomes: Shared::default(),
        asked: 0,
        _others: Vec::new(),
        _folder: Folder::new(),
    };
    let any = "127.0.0.1:0".parse().unwrap();
    // TCP: a connect that hangs, a full connection, connections that wait to be accepted.
    let silent = Unresponsive::new(LOCALHOST);
    let connecting = TcpStream::connect(lp, silent.address, script(&mut busy)).unwrap();
    connecting.write(lp, b"queued").unwrap();
    busy._others.push(Box::new(silent));
    let (stream, peer) = connected(lp, script(&mut busy));
    overfill(lp, &mut busy, stream);
    busy._others.push(Box::new(peer));
    let nobody = |_: &Loop, _: TcpListener, _: TcpStream| ();
    let listener = TcpListener::listen_with(lp, any, &ListenOptions::default(), nobody).unwrap();
    let address = listener.address(lp).unwrap();
    busy._others
        .push(Box::new(std::net::TcpStream::connect(address).unwrap()));
    // UDP, with datagrams gathered and datagrams to be read.
    let udp =
        UdpSocket::bind(lp, any, |_: &Loop, _: UdpSocket, _: &kolo::Datagram<'_>| ()).unwrap();
    let to = udp.local_address(lp).unwrap();
    for _ in 0..50 {
        udp.send_to(lp, b"datagram", to).unwrap();
    }
    // Unix-domain sockets and pipes.
    let path = folder.at("socket");
    LocalListener::listen(lp, &path, |_: &Loop, _, _: LocalStream| ()).unwrap();
    LocalStream::connect(lp, &path, script(&mut busy)).unwrap();
    let (one, _) =
        LocalStream::pair(lp, script(&mut busy), script(&mut busy).not_reading()).unwrap();
    overfill(lp, &mut busy, one);
    let (_, writer) = Pipe::pair(lp, script(&mut busy).not_reading(), script(&mut busy)).unwrap();
    overfill(lp, &mut busy, writer);
    // A program that runs, and one that has ended.
    let cat = Command::new("cat")
        .stdin(Stdio::child_reads(script(&mut busy)))
        .stdout(Stdio::child_writes(script(&mut busy)))
        .kill_on_close(true);
    cat.spawn(lp, |_, _, _: ExitStatus| ()).unwrap();
    Command::new("true")
        .spawn(lp, |_, _, _: ExitStatus| ())
        .unwrap();
    // Files: reads under way, a file on its way through a stream.
    let bytes = folder.at("bytes");
    std::fs::write(&bytes, vec![7; 1 << 20]).unwrap();
    let file = File::open_sync(lp, &bytes, OpenFlags::READ).unwrap();
    for at in 0..20 {
        let told = note(&mut busy);
        let memory = Vec::with_capacity(1 << 16);
        file.read(lp, at << 16, memory, move |_, it| {
            told.push(it.outcome.map_err(kolo::Error::code))
        })
        .unwrap();
    }
    let told = note(&mut busy);
    stream
        .send_file(lp, file, 0, u64::MAX, move |_, _, it| {
            told.push(it.outcome.map_err(kolo::Error::code))
        })
        .unwrap();
    // Names, work that runs and work that waits.
    let told = note(&mut busy);
    lp.resolve("localhost", "80", move |_, it| {
        told.push(it.map(drop).map_err(kolo::Error::code))
    })
    .unwrap();
    for _ in 0..10 {
        let told = note(&mut busy);
        let work = || std::thread::sleep(Duration::from_millis(2));
        lp.work(work, move |_, it| told.push(it.map_err(kolo::Error::code)))
            .unwrap();
    }
    // A watch with events, a terminal with keys, a signal that came, a descriptor that is ready.
    Watch::open(lp, &folder.0, &WatchOptions::default(), |_, _, _| ()).unwrap();
    std::fs::write(folder.at("new"), "x").unwrap();
    let (emulator, terminal) = terminal().unwrap();
    std::io::Write::write_all(&mut &emulator, b"keys\n").unwrap();
    Tty::open(lp, &terminal, script(&mut busy)).unwrap();
    busy._others.push(Box::new((emulator, terminal)));
    let signal = Signal::open(lp, |_, _, _| ()).unwrap();
    signal.start(lp, libc::SIGUSR2).unwrap();
    unsafe { libc::raise(libc::SIGUSR2) };
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let poll = Poll::open(lp, ours.as_raw_fd(), |_, _, _| ()).unwrap();
    poll.start(lp, Interest::READABLE | Interest::WRITABLE)
        .unwrap();
    busy._others.push(Box::new((ours, theirs)));
    // Timers, hooks, wakes, posts, deferred functions.
    let timer = Timer::open(lp, |_, _| ()).unwrap();
    timer
        .start_repeating(lp, Duration::from_millis(1), Duration::from_millis(1))
        .unwrap();
    for kind in [HookKind::Idle, HookKind::Prepare, HookKind::Check] {
        Hook::open(lp, kind, |_, _| ()).unwrap().start(lp).unwrap();
    }
    let waker = Waker::open(lp, |_, _| ()).unwrap();
    waker.remote(lp).unwrap().wake().unwrap();
    let posted = std::sync::Arc::new(());
    let held = posted.clone();
    lp.remote().post(move |_: &Loop| drop(held)).unwrap();
    busy._others.push(Box::new(posted));
    lp.defer(|_: &Loop| ()).unwrap();
    busy._folder = folder;
    busy
}

impl Busy {
    /// Each heard its last, once.
    fn assert_over(&self, place: &str) {
        for log in &self.logs {
            assert_eq!(log.count(&Event::Close), 1, "{place}");
            assert_eq!(log.events().last(), Some(&Event::Close), "{place}");
        }
        assert_eq!(self.outcomes.len(), self.asked, "{place}");
    }
}

fn new_loop(driver: &str) -> Loop {
    let options = LoopOptions {
        driver: Some(driver.to_owned()),
        ..Default::default()
    };
    Loop::with_options(options).unwrap()
}

/// Children that the loop's end has left take a moment to die.
fn no_children_are_left() {
    loop {
        let ended = unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
        if ended < 0 {
            assert_eq!(
                std::io::Error::last_os_error().raw_os_error(),
                Some(libc::ECHILD)
            );
            return;
        }
    }
}

#[test]
fn a_loop_is_freed_with_everything_under_way_after_any_number_of_turns() {
    own_process!(|| {
        for driver in drivers() {
            for turns in [0, 1, 2, 5, 20] {
                let place = format!("{driver}, {turns} turns");
                let _limit = TimeLimit::start(place.clone());
                let open = open_descriptors();
                let lp = new_loop(driver);
                let busy = everything_under_way(&lp);
                for _ in 0..turns {
                    lp.run(kolo::RunMode::NoWait).unwrap();
                }
                drop(lp);
                busy.assert_over(&place);
                drop(busy);
                no_children_are_left();
                assert_eq!(open_descriptors(), open, "{place}");
                faults(1);
            }
        }
    });
}

/// Everything is closed in one callback, and the loop goes on.
#[test]
fn everything_under_way_is_closed_in_a_callback_and_the_loop_goes_on() {
    own_process!(|| {
        for driver in drivers() {
            let _limit = TimeLimit::start(driver.to_owned());
            let lp = new_loop(driver);
            let busy = everything_under_way(&lp);
            in_callback(&lp, |lp| {
                for id in lp.handles() {
                    lp.close(id).unwrap();
                }
            });
            run_until(&lp, || lp.handles().is_empty());
            run_until(&lp, || busy.outcomes.len() == busy.asked || !lp.is_alive());
            busy.assert_over(driver);
            let log = Log::default();
            let (_stream, mut peer) = connected(&lp, Script::new(&log));
            std::io::Write::write_all(&mut peer, b"on").unwrap();
            run_until(&lp, || log.data() == b"on");
            faults(1);
        }
    });
}

/// Runs the function in a forked child, whose end must be a good one.
fn fork(run: impl FnOnce()) {
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            unsafe { libc::alarm(50) };
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            unsafe { libc::_exit(i32::from(outcome.is_err())) }
        }
        child => {
            let mut status = 0;
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "the child failed");
        }
    }
}

#[test]
fn a_fork_in_a_callback_with_everything_under_way_leaves_the_parent_alone() {
    own_process!(|| {
        for driver in drivers() {
            let _limit = TimeLimit::start(driver.to_owned());
            let open = open_descriptors();
            let lp = new_loop(driver);
            let busy = everything_under_way(&lp);
            in_callback(&lp, |lp| {
                // A child that ends at once, and one that becomes another program.
                fork(|| ());
                fork(|| {
                    // Its calls are refused until the loop is the child's own.
                    assert_eq!(code(Timer::open(lp, |_, _| ())), Code::EFORKED);
                    let arguments = [c"/bin/true".as_ptr(), std::ptr::null()];
                    unsafe { libc::execv(arguments[0], arguments.as_ptr()) };
                    panic!("exec");
                });
                faults(2);
            });
            let (log, other) = (Log::default(), Log::default());
            let (_one, two) =
                LocalStream::pair(&lp, Script::new(&log), Script::new(&other)).unwrap();
            two.write(&lp, b"undisturbed").unwrap();
            run_until(&lp, || log.data() == b"undisturbed");
            drop(lp);
            busy.assert_over(driver);
            drop(busy);
            no_children_are_left();
            assert_eq!(open_descriptors(), open, "{driver}");
        }
    });
}

#[test]
fn a_forked_child_takes_over_or_frees_a_loop_with_everything_under_way() {
    own_process!(|| {
        for driver in drivers() {
            let _limit = TimeLimit::start(driver.to_owned());
            let lp = new_loop(driver);
            let busy = everything_under_way(&lp);
            some_turns(&lp);
            let lp = std::cell::Cell::new(Some(lp));
            // It frees what it did not take over.
            fork(|| drop(lp.take()));
            // It takes over, does something, and closes all.
            fork(|| {
                let lp = lp.take().unwrap();
                lp.forked().unwrap();
                let log = Log::default();
                let (_one, two) =
                    LocalStream::pair(&lp, Script::new(&log), Script::new(&Log::default()))
                        .unwrap();
                two.write(&lp, b"the child's").unwrap();
                run_until(&lp, || log.data() == b"the child's");
                drop(lp);
                busy.assert_over("in the child");
            });
            let lp = lp.take().unwrap();
            let log = Log::default();
            let (_one, two) =
                LocalStream::pair(&lp, Script::new(&log), Script::new(&Log::default())).unwrap();
            two.write(&lp, b"the parent's").unwrap();
            run_until(&lp, || log.data() == b"the parent's");
            drop(lp);
            busy.assert_over(driver);
            drop(busy);
            no_children_are_left();
            faults(2);
        }
    });
}
