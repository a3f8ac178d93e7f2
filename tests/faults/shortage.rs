//! Descriptors, threads and memory that run out.

use std::cell::RefCell;
use std::fs::File as StdFile;
use std::rc::Rc;
use std::time::Duration;

use kolo::fs::OpenFlags;
use kolo::{
    Code, Command, Directory, File, LocalListener, LocalStream, Loop, LoopGroup, Pipe, Signal,
    Stream, TcpListener, TcpStream, UdpSocket, Watch, WatchOptions,
};

use crate::common::*;
use crate::everything;
use crate::own_process;
use crate::support::{faults, open_descriptors, Folder};

/// How many descriptors the process may have; what it was.
fn limit_descriptors(count: u64) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        let before = std::mem::replace(&mut limit.rlim_cur, count);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        before
    }
}

/// Everything is tried with so many descriptors to be had, then with enough.
fn with_few_descriptors(driver: &str, counts: &[u64]) {
    std::env::set_var("KOLO_DRIVER", driver);
    let folder = Folder::new();
    let open = open_descriptors();
    // There is no gap below the limit.
    assert_eq!(*open.last().unwrap() as usize, open.len() - 1);
    for count in counts {
        let before = limit_descriptors(open.len() as u64 + count);
        let good = everything::run("", &folder.0, || ());
        limit_descriptors(before);
        assert!(good, "{driver}, {count} descriptors");
        let told = everything::told();
        assert!(
            *count > 5 || !told.is_empty(),
            "{count} descriptors are enough?"
        );
        assert_eq!(open_descriptors(), open);
        faults(1);
    }
    assert!(everything::run("", &folder.0, || ()));
    let told = everything::told();
    assert!(told.is_empty(), "{driver}: {told:?}");
}

#[test]
fn with_few_descriptors_each_part_of_everything_is_done_or_told() {
    own_process!(|| {
        for driver in drivers() {
            let counts: &[u64] = match driver {
                "poller" => &[0, 4, 8],
                _ => &[6],
            };
            with_few_descriptors(driver, counts);
        }
    });
}

#[test]
#[ignore = "long: make check-faults"]
fn with_any_number_of_descriptors_each_part_of_everything_is_done_or_told() {
    own_process!(|| {
        for driver in drivers() {
            with_few_descriptors(driver, &(0..25).collect::<Vec<_>>());
        }
    });
}

/// Takes all the descriptors that may still be had.
fn take_all() -> Vec<StdFile> {
    std::iter::from_fn(|| StdFile::open("/dev/null").ok()).collect()
}

fn quiet(_: &Loop, _: Stream, _: &[u8]) {}

/// The outcome of a request.
fn told<T: 'static>(lp: &Loop, start: impl FnOnce(Box<dyn FnOnce(T)>)) -> T {
    let slot = Rc::new(RefCell::new(None));
    let set = slot.clone();
    start(Box::new(move |value| *set.borrow_mut() = Some(value)));
    run_until(lp, || slot.borrow().is_some());
    let value = slot.borrow_mut().take();
    value.unwrap()
}

/// Opens one of each kind; what each says. What is opened is closed again.
fn open_each_kind(lp: &Loop, folder: &Folder) -> Vec<(&'static str, Result<(), Code>)> {
    let mut outcomes = Vec::new();
    let mut note = |kind, outcome: Result<(), kolo::Error>| {
        outcomes.push((kind, outcome.map_err(|error| error.code())));
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let no_connections = |_: &Loop, _: TcpListener, _: TcpStream| ();
    let no_locals = |_: &Loop, _: LocalListener, _: LocalStream| ();
    note(
        "listener",
        TcpListener::listen(lp, any, no_connections).map(drop),
    );
    let log = Log::default();
    let connected = TcpStream::connect(lp, "127.0.0.1:9".parse().unwrap(), Script::new(&log));
    run_until(lp, || connected.is_err() || log.closed());
    let error = log.events().into_iter().find_map(|event| match event {
        // Nobody listens there, but that is found out with a descriptor.
        Event::Error(Code::ECONNREFUSED) => None,
        Event::Error(code) => Some(code.into()),
        _ => None,
    });
    note("tcp", connected.map(drop).and(error.map_or(Ok(()), Err)));
    let no_datagrams = |_: &Loop, _: UdpSocket, _: &kolo::Datagram<'_>| ();
    note("udp", UdpSocket::bind(lp, any, no_datagrams).map(drop));
    let path = folder.at("socket");
    note(
        "local listener",
        LocalListener::listen(lp, &path, no_locals).map(drop),
    );
    note("local pair", LocalStream::pair(lp, quiet, quiet).map(drop));
    note("pipe", Pipe::pair(lp, quiet, quiet).map(drop));
    let spawned = Command::new("true").spawn(lp, |_, _, _| ());
    note("process", spawned.map(drop).map_err(|failed| failed.error));
    let file: kolo::Result<File> = told(lp, |done| {
        File::open(lp, "/dev/null", OpenFlags::READ, |_, file| done(file)).unwrap();
    });
    note("file", file.map(drop));
    let directory: kolo::Result<Directory> = told(lp, |done| {
        Directory::open(lp, &folder.0, |_, directory| done(directory)).unwrap();
    });
    note("directory", directory.map(drop));
    std::fs::write(folder.at("from"), "x").unwrap_or_default();
    let copied: kolo::Result<u64> = told(lp, |done| {
        let copy = kolo::fs::copy("/etc/passwd", folder.at("to"), kolo::fs::CopyFlags::empty());
        copy.start(lp, |_, copied| done(copied)).unwrap();
    });
    note("copy", copied.map(drop));
    note(
        "watch",
        Watch::open(lp, &folder.0, &WatchOptions::default(), |_, _, _| ()).map(drop),
    );
    let signal = Signal::open(lp, |_, _, _| ()).unwrap();
    note("signal", signal.start(lp, libc::SIGUSR1));
    note("loop", Loop::new().map(drop));
    let group = LoopGroup::start(Default::default(), |_, _| Ok(()));
    let joined = group.and_then(|group| {
        group.stop(Duration::ZERO);
        group.join()
    });
    note("group", joined);
    for id in lp.handles() {
        lp.close(id).unwrap();
    }
    run_to_end(lp);
    outcomes
}

#[test]
fn without_descriptors_every_opening_says_so_and_afterwards_each_works() {
    own_process!(|| each_driver(|lp| {
        let folder = Folder::new();
        // The threads of the pool are there.
        let before = limit_descriptors(64);
        let taken = take_all();
        let open = open_descriptors();
        let outcomes = open_each_kind(&lp, &folder);
        for (kind, outcome) in &outcomes {
            // A program may be waited for without a descriptor, if this process has done so before.
            let well = *kind == "process" && outcome.is_ok();
            assert!(well || *outcome == Err(Code::EMFILE), "{kind}: {outcome:?}");
            faults(1);
        }
        assert_eq!(open_descriptors(), open);
        drop(taken);
        for (kind, outcome) in open_each_kind(&lp, &folder) {
            assert_eq!(outcome, Ok(()), "{kind}");
        }
        limit_descriptors(before);
    }));
}

#[test]
fn without_descriptors_what_is_open_goes_on() {
    own_process!(|| each_driver(|lp| {
        let log = Log::default();
        let echo = Script::new(&log).on_data(|lp, stream, data| {
            stream.write(lp, data).unwrap();
        });
        let (_stream, mut peer) = connected(&lp, echo);
        let before = limit_descriptors(64);
        let taken = take_all();
        std::io::Write::write_all(&mut peer, b"still there?").unwrap();
        assert_eq!(read_from_peer(&lp, &peer, 12), b"still there?");
        let remote = lp.remote();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || remote.post(move |_: &Loop| sender.send(()).unwrap()));
        run_until(&lp, || receiver.try_recv().is_ok());
        let sum: kolo::Result<u32> = told(&lp, |done| {
            lp.work(|| (1..=10).sum(), |_, sum| done(sum)).unwrap();
        });
        assert_eq!(sum, Ok(55));
        // Without a descriptor, but by path.
        let found: kolo::Result<_> = told(&lp, |done| {
            kolo::fs::stat("/")
                .start(&lp, |_, found| done(found))
                .unwrap();
        });
        assert!(found.is_ok());
        faults(1);
        drop(taken);
        limit_descriptors(before);
    }));
}

// ---- memory ----

/// How much memory the process may map; what it could.
fn limit_memory(bytes: u64) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &mut limit), 0);
        let before = std::mem::replace(&mut limit.rlim_cur, bytes);
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &limit), 0);
        before
    }
}

/// How much it has mapped.
fn mapped() -> u64 {
    let sizes = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = sizes.split(' ').next().unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn a_write_for_whose_copy_there_is_no_memory_is_refused_and_the_loop_goes_on() {
    own_process!(|| each_driver(|lp| {
        const MUCH: usize = 512 << 20;
        // Pages that are never touched until they are read, and then they are all the same.
        let much = vec![0; MUCH];
        let log = Log::default();
        let (stream, peer) = connected(&lp, Script::new(&log));
        stream
            .set_watermarks(&lp, 0, usize::MAX, usize::MAX)
            .unwrap();
        let length = fill(&lp, stream.into());
        let queued = stream.queued(&lp).unwrap();
        let idle = Log::default();
        let (second, _peer) = connected(&lp, Script::new(&idle));
        second
            .set_watermarks(&lp, 0, usize::MAX, usize::MAX)
            .unwrap();
        let before = limit_memory(mapped() + (64 << 20));

        // With a queue it is the call that says so, and nothing is taken.
        assert_eq!(code(stream.write(&lp, &much)), Code::ENOMEM);
        assert_eq!(stream.queued(&lp).unwrap(), queued);
        stream.write(&lp, &pattern(length, 1000)).unwrap();
        // Without, the kernel has a part of it, and the stream breaks.
        second.write(&lp, &much).unwrap();
        run_until(&lp, || idle.closed());
        assert_eq!(idle.events(), [Event::Error(Code::ENOMEM), Event::Close]);
        limit_memory(before);

        stream.shutdown(&lp, log.done(1)).unwrap();
        let all = read_peer_to_end(&lp, &peer);
        assert_eq!(all.len(), length + 1000);
        assert_pattern(&all, 0);
        faults(2);
    }));
}
