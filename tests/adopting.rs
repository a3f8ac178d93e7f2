//! A descriptor has one handle, which closes it: that it is adopted a second time is found out.

#![cfg(all(unix, feature = "fs", feature = "local", feature = "net"))]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener as StdListener, UdpSocket as StdUdp};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::rc::Rc;
use std::thread;

use common::*;
use kolo::{
    Code, Id, Interest, ListenOptions, LocalListenOptions, LocalListener, LocalStream, Loop, Pipe,
    Poll, Result, RunMode, Stream, TcpListener, TcpStream, UdpOptions, UdpSocket,
};

/// One of the functions that take a descriptor over, with what is behind the descriptors that suit it.
struct Way {
    name: &'static str,
    /// The descriptor, and what keeps its other end.
    make: fn() -> (OwnedFd, Box<dyn std::any::Any>),
    adopt: fn(&Loop, OwnedFd) -> Result<Id>,
    release: Option<fn(&Loop, Id) -> OwnedFd>,
}

fn nothing(_: &Loop, _: Stream, _: &[u8]) {}

fn ways() -> [Way; 7] {
    [
        Way {
            name: "TCP",
            make: || {
                let (ours, theirs) = socket_pair();
                (ours.into(), Box::new(theirs))
            },
            adopt: |lp, descriptor| Ok(TcpStream::adopt(lp, descriptor, nothing)?.id()),
            release: Some(|lp, id| TcpStream::from_id(id).release(lp).unwrap().into()),
        },
        Way {
            name: "TCP listener",
            make: || {
                let listener = StdListener::bind("127.0.0.1:0").unwrap();
                (listener.into(), Box::new(()))
            },
            adopt: |lp, descriptor| {
                let accept = |_: &Loop, _: TcpListener, _: TcpStream| ();
                let options = ListenOptions::default();
                Ok(TcpListener::adopt(lp, descriptor, &options, accept)?.id())
            },
            release: None,
        },
        Way {
            name: "UDP",
            make: || (StdUdp::bind("127.0.0.1:0").unwrap().into(), Box::new(())),
            adopt: |lp, descriptor| {
                let ignore = |_: &Loop, _: UdpSocket, _: &kolo::Datagram<'_>| ();
                let options = UdpOptions::default();
                Ok(UdpSocket::adopt(lp, descriptor, &options, ignore)?.id())
            },
            release: Some(|lp, id| UdpSocket::from_id(id).release(lp).unwrap().into()),
        },
        Way {
            name: "local",
            make: || {
                let (ours, theirs) = UnixStream::pair().unwrap();
                (ours.into(), Box::new(theirs))
            },
            adopt: |lp, descriptor| Ok(LocalStream::adopt(lp, descriptor, nothing)?.id()),
            release: Some(|lp, id| LocalStream::from_id(id).release(lp).unwrap().into()),
        },
        Way {
            name: "local listener",
            make: || {
                let path = std::env::temp_dir();
                let path = path.join(format!("kolo-adopting-{}", std::process::id()));
                let listener = UnixListener::bind(&path).unwrap();
                std::fs::remove_file(&path).unwrap();
                (listener.into(), Box::new(()))
            },
            adopt: |lp, descriptor| {
                let accept = |_: &Loop, _: LocalListener, _: LocalStream| ();
                let options = LocalListenOptions::default();
                Ok(LocalListener::adopt(lp, descriptor, &options, accept)?.id())
            },
            release: None,
        },
        Way {
            name: "pipe",
            make: || {
                let (reader, writer) = std::io::pipe().unwrap();
                (reader.into(), Box::new(writer))
            },
            adopt: |lp, descriptor| Ok(Pipe::adopt(lp, descriptor, nothing)?.id()),
            release: Some(|lp, id| Pipe::from_id(id).release(lp).unwrap()),
        },
        Way {
            name: "file",
            make: || {
                // Reads only, and is of this machine.
                let file = File::open(std::env::current_exe().unwrap()).unwrap();
                (file.into(), Box::new(()))
            },
            adopt: |lp, descriptor| Ok(kolo::fs::File::adopt(lp, descriptor)?.id()),
            release: Some(|lp, id| kolo::fs::File::from_id(id).release(lp).unwrap().into()),
        },
    ]
}

fn is_open(number: RawFd) -> bool {
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// An owner of a number that may have one: as code does that knows numbers alone.
fn owner_of(number: RawFd) -> OwnedFd {
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[track_caller]
fn assert_refused_by_all(lp: &Loop, number: RawFd, of: &str) {
    for way in ways() {
        let refused = (way.adopt)(lp, owner_of(number));
        assert_eq!(code(refused), Code::EEXIST, "{of} adopted as {}", way.name);
        assert!(is_open(number), "{of} was closed by {}", way.name);
    }
}

/// Closes the handle, and waits until its descriptor is closed, which a thread may do for a file.
fn close_and_wait(lp: &Loop, id: Id, number: RawFd) {
    lp.close(id).unwrap();
    some_turns(lp);
    while is_open(number) {
        thread::yield_now();
    }
}

/// Puts the descriptor where it has this number.
fn move_to_number(descriptor: OwnedFd, number: RawFd) -> RawFd {
    if descriptor.as_raw_fd() == number {
        return descriptor.into_raw_fd();
    }
    assert!(!is_open(number));
    assert_eq!(
        unsafe { libc::dup2(descriptor.as_raw_fd(), number) },
        number
    );
    number
}

#[test]
fn what_one_function_has_adopted_none_adopts_again_until_it_is_closed() {
    in_own_process!(|| each_driver(|lp| {
        let other = Loop::new().unwrap();
        for way in ways() {
            let (descriptor, _peer) = (way.make)();
            let number = descriptor.as_raw_fd();
            let (next, _peer_of_next) = (way.make)();
            let first = (way.adopt)(&lp, descriptor).unwrap();
            assert_refused_by_all(&lp, number, way.name);
            assert_refused_by_all(&other, number, way.name);
            assert!(lp.kind(first).is_ok());
            close_and_wait(&lp, first, number);
            // The number is free for the next, also in the other loop.
            let number = move_to_number(next, number);
            let second = (way.adopt)(&other, owner_of(number)).unwrap();
            assert_refused_by_all(&lp, number, way.name);
            close_and_wait(&other, second, number);
        }
    }));
}

#[test]
fn a_released_descriptor_can_be_adopted_again() {
    in_own_process!(|| each_driver(|lp| {
        for way in ways() {
            let Some(release) = way.release else { continue };
            let (descriptor, _peer) = (way.make)();
            let number = descriptor.as_raw_fd();
            let first = (way.adopt)(&lp, descriptor).unwrap();
            let released = release(&lp, first);
            assert_eq!(released.as_raw_fd(), number);
            some_turns(&lp);
            let second = (way.adopt)(&lp, released).unwrap();
            assert_refused_by_all(&lp, number, way.name);
            close_and_wait(&lp, second, number);
        }
    }));
}

/// What this is all about.
#[test]
fn the_second_handle_does_not_close_what_has_the_number_by_then() {
    in_own_process!(|| each_driver(|lp| {
        let (ours, _theirs) = socket_pair();
        let number = ours.as_raw_fd();
        let first = TcpStream::adopt(&lp, ours, nothing).unwrap();
        let second = TcpStream::adopt(&lp, owner_of(number), nothing);
        lp.close(first).unwrap();
        some_turns(&lp);
        let unrelated = File::open("/dev/null").unwrap();
        let number = move_to_number(unrelated.into(), number);
        if let Ok(second) = second {
            lp.close(second).unwrap();
        }
        some_turns(&lp);
        assert!(is_open(number));
        drop(owner_of(number));
    }));
}

#[test]
fn a_refused_descriptor_leaves_the_first_handle_at_work() {
    each_driver(|lp| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let number = ours.as_raw_fd();
        let log = Log::default();
        let local = LocalStream::adopt(&lp, ours, Script::new(&log)).unwrap();
        assert_refused_by_all(&lp, number, "local");
        theirs.write_all(b"to the first").unwrap();
        run_until(&lp, || log.data() == b"to the first");
        local.write(&lp, b"from it").unwrap();
        some_turns(&lp);
        let mut came = [0; 7];
        theirs.read_exact(&mut came).unwrap();
        assert_eq!(&came, b"from it");
    });
}

#[test]
fn an_adoption_that_fails_leaves_the_number_free() {
    in_own_process!(|| each_driver(|lp| {
        for way in ways() {
            let (descriptor, _peer) = (way.make)();
            let number = descriptor.as_raw_fd();
            let mut refusals = 0;
            for other in ways() {
                let twin = descriptor.try_clone().unwrap();
                let number = twin.as_raw_fd();
                match (other.adopt)(&lp, twin) {
                    // It suits this one too: a pipe's handle takes sockets, a file's everything.
                    Ok(adopted) => close_and_wait(&lp, adopted, number),
                    Err(error) => {
                        assert_ne!(error.code(), Code::EEXIST);
                        refusals += 1;
                        // It was dropped, and its number has no owner.
                        let twin = descriptor.try_clone().unwrap();
                        let number = move_to_number(twin, number);
                        let adopted = (way.adopt)(&lp, owner_of(number)).unwrap();
                        close_and_wait(&lp, adopted, number);
                    }
                }
            }
            assert!(refusals > 0, "{}", way.name);
            let adopted = (way.adopt)(&lp, descriptor).unwrap();
            close_and_wait(&lp, adopted, number);
        }
    }));
}

#[test]
fn a_number_that_a_handle_was_asked_for_is_known_too() {
    in_own_process!(|| each_driver(|lp| {
        let accept = |lp: &Loop, _: TcpListener, tcp: TcpStream| tcp.attach(lp, nothing).unwrap();
        let listener = TcpListener::listen(&lp, "127.0.0.1:0".parse().unwrap(), accept).unwrap();
        let address = listener.address(&lp).unwrap();
        let log = Log::default();
        let tcp = TcpStream::connect(&lp, address, Script::new(&log)).unwrap();
        run_until(&lp, || log.has(&Event::Open));
        let udp = UdpSocket::bind(
            &lp,
            "127.0.0.1:0".parse().unwrap(),
            |_: &Loop, _: UdpSocket, _: &kolo::Datagram<'_>| (),
        )
        .unwrap();
        let (local, _other) = LocalStream::pair(&lp, nothing, nothing).unwrap();
        let (pipe, _writer) = Pipe::pair(&lp, nothing, nothing).unwrap();
        let path = std::env::current_exe().unwrap();
        let file = kolo::fs::File::open_sync(&lp, path, kolo::fs::OpenFlags::READ).unwrap();
        let told: [(&str, Id, RawFd); 5] = [
            ("TCP", tcp.id(), tcp.raw_socket(&lp).unwrap()),
            ("UDP", udp.id(), udp.raw_socket(&lp).unwrap()),
            ("local", local.id(), local.raw_socket(&lp).unwrap()),
            ("pipe", pipe.id(), pipe.raw_descriptor(&lp).unwrap()),
            ("file", file.id(), file.descriptor(&lp).unwrap()),
        ];
        assert_eq!(tcp.raw_socket(&lp).unwrap(), told[0].2);
        for (of, id, number) in told {
            assert_refused_by_all(&lp, number, of);
            let next = ways().map(|way| (way.adopt, (way.make)()));
            close_and_wait(&lp, id, number);
            for (adopt, (descriptor, _peer)) in next {
                let number = move_to_number(descriptor, number);
                let adopted = adopt(&lp, owner_of(number)).unwrap();
                close_and_wait(&lp, adopted, number);
            }
        }
    }));
}

#[test]
fn a_loop_that_goes_leaves_its_numbers_free() {
    in_own_process!(|| each_driver(|lp| {
        for way in ways() {
            let other = Loop::new().unwrap();
            let (descriptor, _peer) = (way.make)();
            let twin = descriptor.try_clone().unwrap();
            let number = descriptor.as_raw_fd();
            (way.adopt)(&other, descriptor).unwrap();
            drop(other);
            while is_open(number) {
                thread::yield_now();
            }
            let number = move_to_number(twin, number);
            let adopted = (way.adopt)(&lp, owner_of(number)).unwrap();
            close_and_wait(&lp, adopted, number);
        }
    }));
}

#[test]
fn a_connection_is_not_adopted_on_its_way_to_another_loop_nor_there() {
    in_own_process!(|| each_driver(|lp| {
        let there = Loop::new().unwrap();
        let (ours, _theirs) = socket_pair();
        let number = ours.as_raw_fd();
        let tcp = TcpStream::adopt(&lp, ours, nothing).unwrap();
        let arrived = std::sync::Arc::new(std::sync::Mutex::new(None));
        let place = arrived.clone();
        tcp.move_to(&lp, &there.remote(), move |there, tcp| {
            let tcp = tcp.unwrap();
            tcp.attach(there, nothing).unwrap();
            *place.lock().unwrap() = Some(tcp);
        })
        .unwrap();
        some_turns(&lp);
        assert_refused_by_all(&lp, number, "on its way");
        run_until(&there, || arrived.lock().unwrap().is_some());
        assert_refused_by_all(&lp, number, "arrived");
        assert_refused_by_all(&there, number, "arrived");
        let tcp = arrived.lock().unwrap().unwrap();
        let released = tcp.release(&there).unwrap();
        assert_eq!(released.as_raw_fd(), number);
        let again = TcpStream::adopt(&lp, released, nothing).unwrap();
        close_and_wait(&lp, again.id(), number);
        // One whose loop has gone is closed, and its number free.
        let (ours, _theirs) = socket_pair();
        let (next, _theirs_of_next) = socket_pair();
        let number = ours.as_raw_fd();
        let tcp = TcpStream::adopt(&lp, ours, nothing).unwrap();
        tcp.move_to(&lp, &there.remote(), |_, tcp| {
            assert_eq!(code(tcp), Code::ECANCELED);
        })
        .unwrap();
        drop(there);
        assert!(!is_open(number));
        let number = move_to_number(next.into(), number);
        TcpStream::adopt(&lp, owner_of(number), nothing).unwrap();
    }));
}

#[test]
fn a_loop_of_another_thread_refuses_too() {
    each_driver(|lp| {
        let (ours, _theirs) = socket_pair();
        let number = ours.as_raw_fd();
        TcpStream::adopt(&lp, ours, nothing).unwrap();
        let other = thread::spawn(move || {
            let lp = Loop::new().unwrap();
            assert_refused_by_all(&lp, number, "TCP");
        });
        other.join().unwrap();
    });
}

#[test]
fn threads_that_adopt_one_descriptor_at_the_same_time_have_one_handle() {
    in_own_process!(|| each_driver(|_lp| {
        for _ in 0..50 {
            let (ours, theirs) = socket_pair();
            let number = ours.into_raw_fd();
            let start = std::sync::Barrier::new(3);
            let adopted = thread::scope(|scope| {
                let adopt = || {
                    let lp = Loop::new().unwrap();
                    start.wait();
                    let adopted = TcpStream::adopt(&lp, owner_of(number), nothing);
                    start.wait();
                    adopted.is_ok()
                };
                let threads = [scope.spawn(adopt), scope.spawn(adopt)];
                start.wait();
                start.wait();
                threads.map(|thread| usize::from(thread.join().unwrap()))
            });
            assert_eq!(adopted.iter().sum::<usize>(), 1);
            assert!(!is_open(number), "its loop has gone");
            drop(theirs);
        }
    }));
}

#[test]
fn a_forked_child_has_a_register_of_its_own() {
    in_own_process!(|| each_driver(|lp| {
        let (ours, _theirs) = socket_pair();
        let number = ours.as_raw_fd();
        let tcp = TcpStream::adopt(&lp, ours, nothing).unwrap();
        match unsafe { libc::fork() } {
            0 => {
                unsafe { libc::alarm(50) };
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    let own = Loop::new().unwrap();
                    let (next, _theirs) = socket_pair();
                    assert_refused_by_all(&own, number, "the parent's");
                    lp.forked().unwrap();
                    lp.close(tcp).unwrap();
                    lp.run(RunMode::NoWait).unwrap();
                    assert!(!is_open(number));
                    let number = move_to_number(next.into(), number);
                    TcpStream::adopt(&own, owner_of(number), nothing).unwrap();
                }));
                unsafe { libc::_exit(i32::from(outcome.is_err())) }
            }
            child => {
                assert!(child > 0);
                let mut status = 0;
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0, "the child failed");
            }
        }
        assert_refused_by_all(&lp, number, "the parent's");
        assert!(tcp.write(&lp, b"x").is_ok());
    }));
}

#[test]
fn a_number_that_others_closed_stays_its_handles() {
    in_own_process!(|| each_driver(|lp| {
        let (ours, _theirs) = socket_pair();
        let number = ours.as_raw_fd();
        let stale = TcpStream::adopt(&lp, ours, nothing).unwrap();
        // Closed behind kolo's back, and somebody else's.
        let (next, _peer) = socket_pair();
        assert_eq!(unsafe { libc::dup2(next.as_raw_fd(), number) }, number);
        assert_refused_by_all(&lp, number, "stale");
        close_and_wait(&lp, stale.id(), number);
        let number = move_to_number(next.into(), number);
        TcpStream::adopt(&lp, owner_of(number), nothing).unwrap();
    }));
}

#[test]
fn a_duplicate_is_another_descriptor() {
    each_driver(|lp| {
        for way in ways() {
            let (descriptor, _peer) = (way.make)();
            let twin = descriptor.try_clone().unwrap();
            let first = (way.adopt)(&lp, descriptor).unwrap();
            let second = (way.adopt)(&lp, twin).unwrap();
            lp.close(first).unwrap();
            lp.close(second).unwrap();
        }
    });
}

#[test]
fn what_a_handle_has_cannot_be_polled_but_its_duplicate_can() {
    each_driver(|lp| {
        let other = Loop::new().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (number, twin) = (ours.as_raw_fd(), ours.try_clone().unwrap());
        let log = Log::default();
        let local = LocalStream::adopt(&lp, ours, Script::new(&log).not_reading()).unwrap();
        for lp in [&lp, &other] {
            let refused = Poll::open(lp, number, |_, _, _| unreachable!());
            assert_eq!(code(refused), Code::EEXIST);
        }
        let told = Shared::<usize>::default();
        let count = told.clone();
        let poll = Poll::open(&lp, twin.as_raw_fd(), move |lp, poll, found| {
            assert!(found.unwrap().contains(Interest::READABLE));
            count.add();
            poll.stop(lp).unwrap();
        })
        .unwrap();
        poll.start(&lp, Interest::READABLE).unwrap();
        theirs.write_all(b"x").unwrap();
        run_until(&lp, || told.get() == 1);
        local.read_start(&lp).unwrap();
        run_until(&lp, || log.data() == b"x");
        lp.close(poll).unwrap();
    });
}

#[test]
fn two_polls_of_one_descriptor_may_exist_of_which_one_can_be_started() {
    each_driver(|lp| {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let open = || Poll::open(&lp, ours.as_raw_fd(), |_, _, _| ()).unwrap();
        let (first, second) = (open(), open());
        first.start(&lp, Interest::READABLE).unwrap();
        assert_eq!(code(second.start(&lp, Interest::READABLE)), Code::EEXIST);
        first.stop(&lp).unwrap();
        second.start(&lp, Interest::READABLE).unwrap();
        lp.close(first).unwrap();
        lp.close(second).unwrap();
    });
}

#[test]
fn a_file_is_closed_after_its_operations_and_its_number_stays_taken_until_then() {
    in_own_process!(|| each_driver(|lp| {
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let number = file.as_raw_fd();
        let adopted = kolo::fs::File::adopt(&lp, file).unwrap();
        let outcome = Rc::new(std::cell::Cell::new(false));
        let set = outcome.clone();
        adopted
            .read(&lp, 4096, Vec::with_capacity(64), move |_, _| set.set(true))
            .unwrap();
        let closed = Rc::new(std::cell::Cell::new(false));
        let set = closed.clone();
        adopted
            .close(&lp, move |_, outcome| set.set(outcome.is_ok()))
            .unwrap();
        run_until(&lp, || outcome.get() && closed.get());
        while is_open(number) {
            thread::yield_now();
        }
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let number = move_to_number(file.into(), number);
        let again = kolo::fs::File::adopt(&lp, owner_of(number)).unwrap();
        close_and_wait(&lp, again.id(), number);
    }));
}
