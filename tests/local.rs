//! Unix-domain sockets: names, files, permissions, who is at the other end. What they share with TCP is in
//! tests/stream.rs and tests/listener.rs; what travels beside the bytes in tests/passing.rs.

#![cfg(all(unix, feature = "local"))]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::*;
use kolo::{
    AcceptPolicy, Code, Error, Kind, LocalConnectOptions, LocalListenOptions, LocalListener,
    LocalListenerHandler, LocalName, LocalStream, Loop, RunMode, Stream, TcpStream,
};

/// A folder of a test's own, removed with all that is in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kolo-local-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Gives every accepted stream a script, and notes it.
struct Accepting {
    log: Log,
    streams: Shared<Vec<LocalStream>>,
    errors: Shared<Vec<Code>>,
    closed: Shared<bool>,
}

impl Accepting {
    fn new() -> (Accepting, Log, Shared<Vec<LocalStream>>) {
        let accepting = Accepting {
            log: Log::default(),
            streams: Shared::default(),
            errors: Shared::default(),
            closed: Shared::new(false),
        };
        let (log, streams) = (accepting.log.clone(), accepting.streams.clone());
        (accepting, log, streams)
    }
}

impl LocalListenerHandler for Accepting {
    fn on_accept(&mut self, lp: &Loop, _: LocalListener, stream: LocalStream) {
        stream.attach(lp, Script::new(&self.log)).unwrap();
        self.streams.push(stream);
    }

    fn on_error(&mut self, _: &Loop, _: LocalListener, error: Error) {
        self.errors.push(error.code());
    }

    fn on_close(&mut self, _: &Loop, _: LocalListener) {
        self.closed.set(true);
    }
}

fn ignore(_: &Loop, _: LocalListener, _: LocalStream) {}

fn replacing() -> LocalListenOptions {
    LocalListenOptions {
        replace_stale: true,
        ..Default::default()
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// A socket file on which nobody listens.
fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    assert!(is_socket(path));
}

// ---- by path ----

#[test]
fn a_connection_by_path_carries_bytes_both_ways() {
    each_driver(|lp| {
        let folder = Folder::new();
        let (accepting, served, streams) = Accepting::new();
        let listener = LocalListener::listen(&lp, folder.socket(), accepting).unwrap();
        assert_eq!(lp.kind(listener).unwrap(), Kind::LocalListener);
        let log = Log::default();
        let client = LocalStream::connect(&lp, folder.socket(), Script::new(&log)).unwrap();
        // Until it is open, writes are queued.
        client.write(&lp, b"first ").unwrap();
        run_until(&lp, || log.has(&Event::Open) && streams.len() == 1);
        assert_eq!(lp.kind(client).unwrap(), Kind::Local);
        client.write(&lp, b"second").unwrap();
        run_until(&lp, || served.data() == b"first second");
        let server = streams.take()[0];
        server.write(&lp, b"answer").unwrap();
        server
            .shutdown(&lp, |_, _, outcome| outcome.unwrap())
            .unwrap();
        run_until(&lp, || log.has(&Event::End));
        assert_eq!(log.data(), b"answer");
        // The default at the end is to finish; what the script says instead is nothing.
        lp.close(client).unwrap();
        run_until(&lp, || served.has(&Event::End));
        lp.close(server).unwrap();
        lp.close(listener).unwrap();
        run_to_end(&lp);
        assert!(!folder.socket().exists());
    });
}

#[test]
fn an_open_stream_has_its_names() {
    each_driver(|lp| {
        let folder = Folder::new();
        let path = LocalName::from(&folder.socket());
        let (accepting, _, streams) = Accepting::new();
        let listener = LocalListener::listen(&lp, folder.socket(), accepting).unwrap();
        assert_eq!(listener.name(&lp).unwrap(), path);
        let log = Log::default();
        let client = LocalStream::connect(&lp, folder.socket(), Script::new(&log)).unwrap();
        run_until(&lp, || log.has(&Event::Open) && streams.len() == 1);
        let server = streams.take()[0];
        assert_eq!(client.peer_name(&lp).unwrap(), path);
        assert_eq!(server.name(&lp).unwrap(), path);
        assert!(client.name(&lp).unwrap().is_unnamed());
        assert!(server.peer_name(&lp).unwrap().is_unnamed());
    });
}

#[test]
fn what_the_system_says_against_a_connect_comes_to_on_error() {
    each_driver(|lp| {
        let folder = Folder::new();
        leave_stale(&folder.0.join("stale"));
        let _datagrams = UnixDatagram::bind(folder.0.join("datagrams")).unwrap();
        fs::write(folder.0.join("file"), "").unwrap();
        for (name, expected) in [
            ("absent", Code::ENOENT),
            ("stale", Code::ECONNREFUSED),
            ("datagrams", Code::EPROTOTYPE),
            ("file", Code::ECONNREFUSED),
        ] {
            let log = Log::default();
            let path = folder.0.join(name);
            let client = LocalStream::connect(&lp, &path, Script::new(&log)).unwrap();
            assert_eq!(log.events(), []);
            run_to_end(&lp);
            assert_eq!(
                log.events(),
                [Event::Error(expected), Event::Close],
                "{name}"
            );
            assert_eq!(code(client.write(&lp, b"x")), Code::EBADF);
        }
    });
}

#[test]
fn names_that_cannot_be_are_refused_at_once() {
    each_driver(|lp| {
        let long = "/".to_owned() + &"a".repeat(200);
        for (name, expected) in [
            (&b""[..], Code::EINVAL),
            (b"a\0b", Code::EINVAL),
            (long.as_bytes(), Code::ENAMETOOLONG),
        ] {
            let log = Log::default();
            let script = Script::new(&log);
            assert_eq!(code(LocalStream::connect(&lp, name, script)), expected);
            assert_eq!(code(LocalListener::listen(&lp, name, ignore)), expected);
        }
        assert_eq!(lp.handles(), []);
        let folder = Folder::new();
        let deep = folder.0.join("no/such/folder");
        assert_eq!(
            code(LocalListener::listen(&lp, &deep, ignore)),
            Code::ENOENT
        );
    });
}

#[test]
fn a_relative_path_is_found_again_when_its_file_is_removed() {
    in_own_process!(|| {
        let lp = Loop::new().unwrap();
        let folder = Folder::new();
        let here = std::env::current_dir().unwrap();
        std::env::set_current_dir(&folder.0).unwrap();
        let listener = LocalListener::listen(&lp, "socket", ignore).unwrap();
        std::env::set_current_dir(here).unwrap();
        assert!(is_socket(&folder.socket()));
        lp.close(listener).unwrap();
        assert!(!folder.socket().exists());
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_path_too_long_is_reached_through_a_descriptor_of_its_folder() {
    each_driver(|lp| {
        let folder = Folder::new();
        let deep = folder.0.join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let opened = fs::File::open(&deep).unwrap();
        let short = format!("/proc/self/fd/{}/socket", opened.as_raw_fd());
        let (accepting, _, _) = Accepting::new();
        let listener = LocalListener::listen(&lp, short.as_str(), accepting).unwrap();
        assert!(is_socket(&deep.join("socket")));
        let log = Log::default();
        LocalStream::connect(&lp, short.as_str(), Script::new(&log)).unwrap();
        run_until(&lp, || log.has(&Event::Open));
        lp.close(listener).unwrap();
        assert!(!deep.join("socket").exists());
    });
}

// ---- abstract names ----

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_is_in_no_file_system_and_goes_with_its_socket() {
    each_driver(|lp| {
        let bytes = format!("\0kolo test {}\0 with zeros\0", std::process::id());
        let name = LocalName::from(bytes.as_bytes());
        let (accepting, _, streams) = Accepting::new();
        let listener = LocalListener::listen(&lp, name.clone(), accepting).unwrap();
        assert_eq!(listener.name(&lp).unwrap(), name);
        assert!(name.is_abstract() && name.as_path().is_none());
        assert_eq!(
            code(LocalListener::listen(&lp, name.clone(), ignore)),
            Code::EADDRINUSE
        );
        // Nothing there can be stale.
        let options = replacing();
        assert_eq!(
            code(LocalListener::listen_with(
                &lp,
                name.clone(),
                &options,
                ignore
            )),
            Code::EADDRINUSE
        );
        let log = Log::default();
        let client = LocalStream::connect(&lp, name.clone(), Script::new(&log)).unwrap();
        run_until(&lp, || log.has(&Event::Open) && streams.len() == 1);
        assert_eq!(client.peer_name(&lp).unwrap(), name);
        lp.close(listener).unwrap();
        LocalListener::listen(&lp, name, ignore).unwrap();
    });
}

// ---- the socket file ----

#[test]
fn the_file_has_its_mode_before_anybody_can_connect() {
    in_own_process!(|| {
        // Whatever the umask.
        for umask in [0o022_u32, 0o077, 0o000] {
            unsafe { libc::umask(umask as libc::mode_t) };
            for mode in [0o600, 0o660, 0o666, 0o777, 0o000] {
                let lp = Loop::new().unwrap();
                let folder = Folder::new();
                let options = LocalListenOptions {
                    mode: Some(mode),
                    ..Default::default()
                };
                let path = folder.socket();
                let listener = LocalListener::listen_with(&lp, &path, &options, ignore).unwrap();
                let found = fs::symlink_metadata(&path).unwrap();
                assert_eq!(found.mode() & 0o7777, mode, "{mode:o} with {umask:o}");
                lp.close(listener).unwrap();
            }
            let lp = Loop::new().unwrap();
            let folder = Folder::new();
            LocalListener::listen(&lp, folder.socket(), ignore).unwrap();
            let found = fs::symlink_metadata(folder.socket()).unwrap();
            assert_eq!(found.mode() & 0o7777, 0o777 & !umask);
        }
    });
}

#[test]
fn a_file_that_is_there_is_left_alone_unless_asked_for() {
    each_driver(|lp| {
        let folder = Folder::new();
        leave_stale(&folder.socket());
        let before = fs::symlink_metadata(folder.socket()).unwrap().ino();
        assert_eq!(
            code(LocalListener::listen(&lp, folder.socket(), ignore)),
            Code::EADDRINUSE
        );
        assert_eq!(fs::symlink_metadata(folder.socket()).unwrap().ino(), before);
    });
}

#[test]
fn a_stale_socket_is_replaced_when_asked_for() {
    each_driver(|lp| {
        let folder = Folder::new();
        leave_stale(&folder.socket());
        let (accepting, _, streams) = Accepting::new();
        let path = folder.socket();
        let listener = LocalListener::listen_with(&lp, &path, &replacing(), accepting).unwrap();
        let log = Log::default();
        LocalStream::connect(&lp, &path, Script::new(&log)).unwrap();
        run_until(&lp, || log.has(&Event::Open) && streams.len() == 1);
        lp.close(listener).unwrap();
        assert!(!path.exists());
        // Nothing there is as good.
        LocalListener::listen_with(&lp, &path, &replacing(), ignore).unwrap();
    });
}

#[test]
fn what_is_alive_or_no_socket_is_never_replaced() {
    each_driver(|lp| {
        let folder = Folder::new();
        let path = folder.socket();
        let mine = |name: &str| folder.0.join(name);
        let live = UnixListener::bind(&path).unwrap();
        fs::write(mine("file"), "precious").unwrap();
        fs::create_dir(mine("folder")).unwrap();
        std::os::unix::fs::symlink(&path, mine("link")).unwrap();
        let _datagrams = UnixDatagram::bind(mine("datagrams")).unwrap();
        for name in ["socket", "file", "folder", "link", "datagrams"] {
            let there = mine(name);
            let before = fs::symlink_metadata(&there).unwrap().ino();
            let outcome = LocalListener::listen_with(&lp, &there, &replacing(), ignore);
            assert_eq!(code(outcome), Code::EADDRINUSE, "{name}");
            assert_eq!(fs::symlink_metadata(&there).unwrap().ino(), before);
        }
        assert_eq!(fs::read(mine("file")).unwrap(), b"precious");
        // The live one has seen the question, and goes on.
        let (mut asked, _) = live.accept().unwrap();
        assert_eq!(asked.read(&mut [0; 1]).unwrap(), 0);
        UnixStream::connect(&path).unwrap();
    });
}

#[test]
fn a_listener_with_a_full_backlog_is_alive() {
    each_driver(|lp| {
        let folder = Folder::new();
        let path = folder.socket();
        let options = LocalListenOptions {
            backlog: 1,
            ..Default::default()
        };
        let paused = LocalListener::listen_with(&lp, &path, &options, ignore).unwrap();
        paused.pause(&lp).unwrap();
        let _waiting: Vec<UnixStream> = (0..2)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        assert_eq!(
            code(LocalListener::listen_with(&lp, &path, &replacing(), ignore)),
            Code::EADDRINUSE
        );
    });
}

#[test]
fn of_many_who_replace_a_stale_socket_at_once_one_gets_it() {
    // A process that another test starts may hold the stale socket for a moment, which then is not stale.
    in_own_process!(replace_a_stale_socket_at_once);
}

fn replace_a_stale_socket_at_once() {
    let _limit = TimeLimit::start("many replace a stale socket".into());
    for _ in 0..20 {
        let folder = Folder::new();
        let path = folder.socket();
        leave_stale(&path);
        let start = std::sync::Barrier::new(4);
        let winners: usize = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let lp = Loop::new().unwrap();
                        start.wait();
                        let got = LocalListener::listen_with(&lp, &path, &replacing(), ignore);
                        let won = match &got {
                            Ok(_) => true,
                            Err(error) => {
                                // Or the folder was locked for too long, on a slow machine.
                                assert!(matches!(error.code(), Code::EADDRINUSE | Code::EAGAIN));
                                false
                            }
                        };
                        // All stay until everybody has tried; the winner is still reachable then.
                        start.wait();
                        if won {
                            UnixStream::connect(&path).unwrap();
                        }
                        usize::from(won)
                    })
                })
                .collect();
            tries.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert_eq!(winners, 1);
    }
}

#[test]
fn a_file_that_is_another_ones_by_then_stays() {
    each_driver(|lp| {
        let folder = Folder::new();
        let listener = LocalListener::listen(&lp, folder.socket(), ignore).unwrap();
        fs::remove_file(folder.socket()).unwrap();
        let _other = UnixListener::bind(folder.socket()).unwrap();
        lp.close(listener).unwrap();
        assert!(is_socket(&folder.socket()));
        // Gone altogether is no trouble either.
        let listener = LocalListener::listen(&lp, folder.0.join("b"), ignore).unwrap();
        fs::remove_file(folder.0.join("b")).unwrap();
        lp.close(listener).unwrap();
        run_to_end(&lp);
    });
}

#[test]
fn a_file_can_be_kept() {
    each_driver(|lp| {
        let folder = Folder::new();
        let options = LocalListenOptions {
            keep_file: true,
            ..Default::default()
        };
        let listener = LocalListener::listen_with(&lp, folder.socket(), &options, ignore).unwrap();
        lp.close(listener).unwrap();
        assert!(is_socket(&folder.socket()));
    });
}

#[test]
fn a_freed_loop_removes_its_files() {
    let folder = Folder::new();
    let lp = Loop::new().unwrap();
    LocalListener::listen(&lp, folder.socket(), ignore).unwrap();
    drop(lp);
    assert!(!folder.socket().exists());
}

#[test]
fn a_forked_child_leaves_the_parents_file() {
    in_own_process!(|| {
        let folder = Folder::new();
        let lp = Loop::new().unwrap();
        let (accepting, _, streams) = Accepting::new();
        LocalListener::listen(&lp, folder.socket(), accepting).unwrap();
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(lp);
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
        assert!(is_socket(&folder.socket()));
        let _client = UnixStream::connect(folder.socket()).unwrap();
        run_until(&lp, || streams.len() == 1);
    });
}

#[test]
fn a_listener_that_could_not_be_made_leaves_no_file() {
    in_own_process!(|| {
        let folder = Folder::new();
        let lp = Loop::new().unwrap();
        let options = LocalListenOptions {
            accept_policy: AcceptPolicy::Reject,
            ..Default::default()
        };
        // The descriptor in reserve is one too many.
        let limit = libc::rlimit {
            rlim_cur: 1024,
            rlim_max: 1024,
        };
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        let mut held = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            held.push(file);
        }
        held.pop();
        let outcome = LocalListener::listen_with(&lp, folder.socket(), &options, ignore);
        assert_eq!(code(outcome), Code::EMFILE);
        assert!(!folder.socket().exists());
        assert_eq!(lp.handles(), []);
        drop(held);
        LocalListener::listen_with(&lp, folder.socket(), &options, ignore).unwrap();
    });
}

// ---- connecting ----

#[test]
fn a_full_backlog_is_waited_for() {
    each_driver(|lp| {
        let folder = Folder::new();
        let path = folder.socket();
        let options = LocalListenOptions {
            backlog: 1,
            ..Default::default()
        };
        let (accepting, _, streams) = Accepting::new();
        let listener = LocalListener::listen_with(&lp, &path, &options, accepting).unwrap();
        listener.pause(&lp).unwrap();
        let _waiting: Vec<UnixStream> = (0..2)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        let log = Log::default();
        let client = LocalStream::connect(&lp, &path, Script::new(&log)).unwrap();
        client.write(&lp, b"late").unwrap();
        run_for(&lp, Duration::from_millis(20));
        assert_eq!(log.events(), []);
        assert!(lp.is_active(client).unwrap());
        listener.resume(&lp).unwrap();
        run_until(&lp, || log.has(&Event::Open) && streams.len() == 3);
        assert_eq!(client.queued(&lp).unwrap(), 0);
    });
}

#[test]
fn a_backlog_that_stays_full_is_waited_for_until_the_timeout() {
    each_driver(|lp| {
        let folder = Folder::new();
        let path = folder.socket();
        let full = UnixListener::bind(&path).unwrap();
        // As small as it can be.
        unsafe { libc::listen(full.as_raw_fd(), 0) };
        let _waiting = UnixStream::connect(&path).unwrap();
        let log = Log::default();
        let options = LocalConnectOptions {
            timeout: Some(Duration::from_millis(30)),
        };
        let began = lp.now();
        let client = LocalStream::connect_with(&lp, &path, &options, Script::new(&log)).unwrap();
        run_to_end(&lp);
        assert!(lp.now() - began >= Duration::from_millis(30));
        let expected = [Event::Error(Code::ETIMEDOUT), Event::Close];
        assert_eq!(log.events(), expected);
        // One that is closed meanwhile is not tried again.
        let client_two = LocalStream::connect(&lp, &path, Script::new(&log)).unwrap();
        lp.close(client_two).unwrap();
        run_to_end(&lp);
        assert_eq!(code(client.queued(&lp)), Code::EBADF);
    });
}

#[test]
fn a_listener_that_goes_while_its_backlog_is_waited_for_is_told() {
    each_driver(|lp| {
        let folder = Folder::new();
        let path = folder.socket();
        let full = UnixListener::bind(&path).unwrap();
        unsafe { libc::listen(full.as_raw_fd(), 0) };
        let _waiting = UnixStream::connect(&path).unwrap();
        let log = Log::default();
        LocalStream::connect(&lp, &path, Script::new(&log)).unwrap();
        some_turns(&lp);
        drop(full);
        run_to_end(&lp);
        let expected = [Event::Error(Code::ECONNREFUSED), Event::Close];
        assert_eq!(log.events(), expected);
    });
}

// ---- accepting ----

#[test]
fn a_paused_listener_lets_them_wait() {
    each_driver(|lp| {
        let folder = Folder::new();
        let (accepting, _, streams) = Accepting::new();
        let listener = LocalListener::listen(&lp, folder.socket(), accepting).unwrap();
        listener.pause(&lp).unwrap();
        let _client = UnixStream::connect(folder.socket()).unwrap();
        assert!(!lp.is_active(listener).unwrap());
        some_turns(&lp);
        assert!(streams.is_empty());
        listener.resume(&lp).unwrap();
        run_until(&lp, || streams.len() == 1);
    });
}

#[test]
fn a_stream_that_on_accept_gives_no_handler_is_closed() {
    each_driver(|lp| {
        let folder = Folder::new();
        LocalListener::listen(&lp, folder.socket(), ignore).unwrap();
        let mut client = UnixStream::connect(folder.socket()).unwrap();
        client.set_nonblocking(true).unwrap();
        run_until(&lp, || {
            client.read(&mut [0; 1]).is_ok_and(|length| length == 0)
        });
    });
}

#[test]
fn a_listener_closes_itself_in_its_own_callback() {
    each_driver(|lp| {
        let folder = Folder::new();
        let closing = |lp: &Loop, listener: LocalListener, _: LocalStream| {
            lp.close(listener).unwrap();
        };
        LocalListener::listen(&lp, folder.socket(), closing).unwrap();
        let _two = [0, 1].map(|_| UnixStream::connect(folder.socket()).unwrap());
        run_to_end(&lp);
        assert!(!folder.socket().exists());
    });
}

#[test]
fn when_descriptors_run_out_the_policy_counts_and_it_is_told_once() {
    in_own_process!(|| {
        for policy in [AcceptPolicy::Wait, AcceptPolicy::Reject] {
            let lp = Loop::new().unwrap();
            let folder = Folder::new();
            let (accepting, _, streams) = Accepting::new();
            let errors = accepting.errors.clone();
            let options = LocalListenOptions {
                accept_policy: policy,
                retry_min: Duration::from_millis(1),
                retry_max: Duration::from_millis(2),
                ..Default::default()
            };
            let path = folder.socket();
            let listener = LocalListener::listen_with(&lp, &path, &options, accepting).unwrap();
            let limit = libc::rlimit {
                rlim_cur: 1024,
                rlim_max: 1024,
            };
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
            let mut client = UnixStream::connect(&path).unwrap();
            let mut held = Vec::new();
            while let Ok(file) = fs::File::open("/dev/null") {
                held.push(file);
            }
            run_until(&lp, || !errors.is_empty());
            run_for(&lp, Duration::from_millis(20));
            assert_eq!(errors.take(), [Code::EMFILE]);
            assert!(streams.is_empty());
            client.set_nonblocking(true).unwrap();
            if policy == AcceptPolicy::Reject {
                assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
                held.pop();
                client = UnixStream::connect(&path).unwrap();
            }
            drop(held);
            run_until(&lp, || streams.len() == 1);
            client.write_all(b"x").unwrap();
            lp.close(listener).unwrap();
        }
    });
}

// ---- who is there ----

#[test]
fn both_ends_know_who_is_at_the_other() {
    each_driver(|lp| {
        let folder = Folder::new();
        let (accepting, _, streams) = Accepting::new();
        LocalListener::listen(&lp, folder.socket(), accepting).unwrap();
        let log = Log::default();
        let client = LocalStream::connect(&lp, folder.socket(), Script::new(&log)).unwrap();
        run_until(&lp, || log.has(&Event::Open) && streams.len() == 1);
        for end in [client, streams.take()[0]] {
            let peer = end.peer_credentials(&lp).unwrap();
            assert_eq!(peer.user, unsafe { libc::geteuid() });
            assert_eq!(peer.group, unsafe { libc::getegid() });
            #[cfg(target_os = "linux")]
            assert_eq!(peer.process, Some(std::process::id() as i32));
        }
    });
}

#[test]
fn before_the_connection_is_made_nobody_is_there() {
    each_driver(|lp| {
        let folder = Folder::new();
        let path = folder.socket();
        let full = UnixListener::bind(&path).unwrap();
        unsafe { libc::listen(full.as_raw_fd(), 0) };
        let _waiting = UnixStream::connect(&path).unwrap();
        let log = Log::default();
        let client = LocalStream::connect(&lp, &path, Script::new(&log)).unwrap();
        assert_eq!(code(client.peer_credentials(&lp)), Code::ENOTCONN);
        assert_eq!(code(client.peer_name(&lp)), Code::ENOTCONN);
        assert_eq!(code(client.release(&lp)), Code::EBUSY);
    });
}

// ---- pairs, adopting, releasing ----

#[test]
fn a_pair_is_two_connected_streams() {
    each_driver(|lp| {
        let (one, other) = (Log::default(), Log::default());
        let (first, second) =
            LocalStream::pair(&lp, Script::new(&one), Script::new(&other)).unwrap();
        first.write(&lp, b"to the second").unwrap();
        second.write(&lp, b"to the first").unwrap();
        run_until(&lp, || !one.data().is_empty() && !other.data().is_empty());
        assert_eq!(other.data(), b"to the second");
        assert_eq!(one.data(), b"to the first");
        lp.close(first).unwrap();
        run_until(&lp, || other.has(&Event::End));
    });
}

#[test]
fn a_socket_is_adopted_and_released_with_what_it_holds() {
    each_driver(|lp| {
        let log = Log::default();
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let stream = LocalStream::adopt(&lp, OwnedFd::from(ours), Script::new(&log)).unwrap();
        stream.read_stop(&lp).unwrap();
        stream.write(&lp, b"hello").unwrap();
        peer.write_all(b"unread").unwrap();
        let back = stream.release(&lp).unwrap();
        let mut back = UnixStream::from(OwnedFd::from(back));
        assert_eq!(code(stream.write(&lp, b"x")), Code::EBADF);
        run_to_end(&lp);
        assert_eq!(log.events(), [Event::Close]);
        let mut bytes = [0; 6];
        back.set_nonblocking(false).unwrap();
        back.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"unread");
        peer.read_exact(&mut bytes[..5]).unwrap();
        assert_eq!(&bytes[..5], b"hello");
    });
}

#[test]
fn only_what_is_a_unix_domain_stream_is_adopted() {
    each_driver(|lp| {
        let log = Log::default();
        let adopt =
            |descriptor: OwnedFd| code(LocalStream::adopt(&lp, descriptor, Script::new(&log)));
        let (tcp, _peer) = socket_pair();
        assert_eq!(adopt(tcp.into()), Code::EAFNOSUPPORT);
        let (datagrams, _other) = UnixDatagram::pair().unwrap();
        assert_eq!(adopt(datagrams.into()), Code::EPROTOTYPE);
        let file = fs::File::open("/dev/null").unwrap();
        assert_eq!(adopt(file.into()), Code::ENOTSOCK);
        let folder = Folder::new();
        let listening = UnixListener::bind(folder.socket()).unwrap();
        assert_eq!(adopt(listening.try_clone().unwrap().into()), Code::ENOTCONN);
        let (one, _other) = UnixStream::pair().unwrap();
        let options = LocalListenOptions::default();
        let connected = LocalListener::adopt(&lp, OwnedFd::from(one), &options, ignore);
        assert_eq!(code(connected), Code::EINVAL);
        assert_eq!(lp.handles(), []);

        let (accepting, _, streams) = Accepting::new();
        LocalListener::adopt(&lp, OwnedFd::from(listening), &options, accepting).unwrap();
        let _client = UnixStream::connect(folder.socket()).unwrap();
        run_until(&lp, || streams.len() == 1);
    });
}

#[test]
fn operations_of_another_kind_are_refused() {
    each_driver(|lp| {
        let log = Log::default();
        let (local, _other) = LocalStream::pair(&lp, Script::new(&log), Script::new(&log)).unwrap();
        assert_eq!(
            code(TcpStream::from_id(local.id()).set_nodelay(&lp, true)),
            Code::EBADF
        );
        let (tcp, _peer) = connected(&lp, Script::new(&log));
        let not_local = LocalStream::from_id(tcp.id());
        assert_eq!(code(not_local.peer_credentials(&lp)), Code::EBADF);
        assert_eq!(code(not_local.release(&lp)), Code::EBADF);
        assert_eq!(
            code(kolo::TcpListener::from_id(local.id()).pause(&lp)),
            Code::EBADF
        );
        let folder = Folder::new();
        let listener = LocalListener::listen(&lp, folder.socket(), ignore).unwrap();
        assert_eq!(
            code(kolo::TcpListener::from_id(listener.id()).address(&lp)),
            Code::EBADF
        );
    });
}

#[test]
fn a_listing_names_the_kinds() {
    each_driver(|lp| {
        let log = Log::default();
        let (local, _other) = LocalStream::pair(&lp, Script::new(&log), Script::new(&log)).unwrap();
        assert!(lp.describe(local).unwrap().starts_with("Local "));
        let folder = Folder::new();
        let listener = LocalListener::listen(&lp, folder.socket(), ignore).unwrap();
        assert!(lp.describe(listener).unwrap().starts_with("LocalListener "));
    });
}

#[test]
fn descriptors_that_nobody_takes_do_not_hold_up_the_bytes_behind_them() {
    // The kernel ends a read behind such bytes, and no edge tells of those that follow.
    each_driver(|lp| {
        let log = Log::default();
        let (ours, peer) = UnixStream::pair().unwrap();
        let stream = LocalStream::adopt(&lp, OwnedFd::from(ours), Script::new(&log)).unwrap();
        stream.read_stop(&lp).unwrap();
        for _ in 0..3 {
            send_descriptor(&peer, b"with ");
        }
        (&peer).write_all(b"without").unwrap();
        stream.read_start(&lp).unwrap();
        run_until(&lp, || log.data() == b"with with with without");
    });
}

/// Sends bytes with a descriptor.
fn send_descriptor(to: &UnixStream, bytes: &[u8]) {
    let null = fs::File::open("/dev/null").unwrap();
    let mut control = [0u64; 4];
    unsafe {
        let mut piece = libc::iovec {
            iov_base: bytes.as_ptr() as *mut _,
            iov_len: bytes.len(),
        };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut piece;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as _;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as _;
        libc::CMSG_DATA(header)
            .cast::<i32>()
            .write_unaligned(null.as_raw_fd());
        let sent = libc::sendmsg(to.as_raw_fd(), &message, 0);
        assert_eq!(sent, bytes.len() as isize);
    }
}

#[test]
fn urgent_bytes_do_not_hold_up_those_behind_them() {
    each_driver(|lp| {
        let log = Log::default();
        let (ours, peer) = UnixStream::pair().unwrap();
        let stream = LocalStream::adopt(&lp, OwnedFd::from(ours), Script::new(&log)).unwrap();
        stream.read_stop(&lp).unwrap();
        (&peer).write_all(b"before").unwrap();
        let urgent =
            unsafe { libc::send(peer.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
        if urgent < 0 {
            return; // a kernel without it
        }
        (&peer).write_all(b" after").unwrap();
        stream.read_start(&lp).unwrap();
        run_until(&lp, || log.data() == b"before after");
    });
}

#[test]
fn the_loop_can_be_freed_with_everything_under_way() {
    let folder = Folder::new();
    let log = Log::default();
    {
        let lp = Loop::new().unwrap();
        let (accepting, served, _) = Accepting::new();
        let closed = accepting.closed.clone();
        LocalListener::listen(&lp, folder.socket(), accepting).unwrap();
        let full = UnixListener::bind(folder.0.join("full")).unwrap();
        unsafe { libc::listen(full.as_raw_fd(), 0) };
        let _waiting = UnixStream::connect(folder.0.join("full")).unwrap();
        LocalStream::connect(&lp, folder.0.join("full"), Script::new(&log)).unwrap();
        let client = LocalStream::connect(&lp, folder.socket(), Script::new(&log)).unwrap();
        lp.run(RunMode::NoWait).unwrap();
        fill(&lp, Stream::from(client));
        client.write_owned(&lp, "never sent", log.done(1)).unwrap();
        drop(lp);
        assert!(closed.get());
        assert!(served
            .events()
            .iter()
            .all(|event| !matches!(event, Event::Error(_))));
        assert!(log.has(&Event::Done(1, Err(Code::ECANCELED))));
    }
    assert_eq!(log.count(&Event::Close), 2);
}
