//! The Rust examples as their users run them: processes, with ordinary sockets as clients. (Those in C have their tests
//! in examples/tests.)

#![cfg(feature = "net")]

mod common;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{assert_pattern, drivers, pattern, TimeLimit};
use socket2::{Domain, Socket, Type};

/// Below the limit of a test, so that a server which does not answer is a failure that ends its process, too.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A running example.
struct Server {
    process: Child,
    /// Kept open: who prints to a closed one fails.
    #[cfg_attr(not(unix), allow(dead_code))]
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Server {
    fn start(example: &str, driver: &str, options: &[&str]) -> Server {
        let mut process = Command::new(example_path(example))
            .arg("127.0.0.1:0")
            .args(options)
            .env("KOLO_DRIVER", driver)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut first = String::new();
        output.read_line(&mut first).unwrap();
        let address = first.trim().rsplit(' ').next().unwrap();
        let address = address
            .parse()
            .unwrap_or_else(|_| panic!("no address in {first:?}"));
        Server {
            process,
            output,
            address,
        }
    }

    /// Ends it as its user would; it must say that all is well.
    #[cfg(unix)]
    fn end(mut self, signal: libc::c_int) {
        let process = libc::pid_t::try_from(self.process.id()).unwrap();
        assert_eq!(unsafe { libc::kill(process, signal) }, 0);
        // Its standard output ends when it does.
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}");
        assert_eq!(rest, "");
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(ANSWER_LIMIT)).unwrap();
        client.set_write_timeout(Some(ANSWER_LIMIT)).unwrap();
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where cargo has put an example: beside the folder of the tests.
fn example_path(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let profile = tests.parent().unwrap().parent().unwrap();
    let path = profile
        .join("examples")
        .join(name)
        .with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        path.exists(),
        "{path:?} is not built: run `cargo test`, or `cargo build --examples` first"
    );
    path
}

/// Runs the test with the example on each driver, under a time limit.
#[track_caller]
fn each_driver(example: &str, options: &[&str], test: impl Fn(Server)) {
    for driver in drivers() {
        let _limit = TimeLimit::start(format!("{example} with the driver {driver:?}"));
        eprintln!("{example} with the driver {driver:?}");
        test(Server::start(example, driver, options));
    }
}

/// That the connection has ended; however it did.
#[track_caller]
fn assert_ended(client: &mut impl Read) {
    match client.read(&mut [0; 1]) {
        Ok(length) => assert_eq!(length, 0),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

// ---- echo_server ----

#[test]
fn the_echo_server_sends_a_megabyte_back_and_ends_when_the_peer_has_ended() {
    each_driver("echo_server", &[], |server| {
        let clients: Vec<_> = (0..3)
            .map(|which| {
                let mut client = server.connect();
                thread::spawn(move || {
                    let total = 1024 * 1024 + which;
                    let mut writer = client.try_clone().unwrap();
                    let writing = thread::spawn(move || {
                        writer.write_all(&pattern(which, total)).unwrap();
                        writer.shutdown(Shutdown::Write).unwrap();
                    });
                    let mut all = Vec::new();
                    client.read_to_end(&mut all).unwrap();
                    writing.join().unwrap();
                    assert_eq!(all.len(), total);
                    assert_pattern(&all, which);
                })
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
    });
}

#[test]
fn the_echo_server_reads_no_faster_than_its_answers_are_taken() {
    each_driver("echo_server", &[], |server| {
        let mut client = server.connect();
        client
            .set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        // Nothing is read: the sockets of both sides fill, then the server stops taking.
        let most = 256 * 1024 * 1024;
        let piece = pattern(0, 64 * 1024);
        let mut written = 0;
        let stopped = loop {
            assert!(written < most, "the server takes without end");
            match client.write(&piece[written % piece.len()..]) {
                Ok(length) => written += length,
                Err(error) => break error.kind(),
            }
        };
        use io::ErrorKind::{TimedOut, WouldBlock};
        assert!([TimedOut, WouldBlock].contains(&stopped), "{stopped}");
        // Nothing is lost, and when answers are taken it goes on.
        client.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), written);
        for echoed in all.chunks(piece.len()) {
            assert!(*echoed == piece[..echoed.len()]);
        }
    });
}

#[cfg(unix)]
#[test]
fn the_echo_server_ends_on_a_signal_though_clients_are_connected() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        each_driver("echo_server", &[], |server| {
            let mut client = server.connect();
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0; 1]).unwrap();
            server.end(signal);
            assert_ended(&mut client);
        });
    }
}

#[test]
fn an_example_that_cannot_begin_says_so_by_its_status() {
    let _limit = TimeLimit::start("wrong arguments".to_owned());
    for example in ["echo_server", "chat_server"] {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().unwrap().to_string();
        for address in ["nowhere", &taken] {
            // On Windows two listeners may share an address.
            if cfg!(windows) && address != "nowhere" {
                continue;
            }
            let _taken = std::net::TcpListener::bind(&taken);
            let output = Command::new(example_path(example))
                .arg(address)
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(1));
            assert!(!output.stderr.is_empty());
        }
    }
}

// ---- chat_server ----

/// One in the chat.
struct Guest {
    reader: BufReader<TcpStream>,
}

impl Guest {
    /// Enters; the name that it was given.
    fn enter(server: &Server) -> (Guest, String) {
        let mut guest = Guest {
            reader: BufReader::new(server.connect()),
        };
        let welcome = guest.hear();
        let name = welcome.strip_prefix("* you are ").unwrap().to_owned();
        (guest, name)
    }

    /// Enters, and takes a name; those who are here already hear of it.
    fn enter_as(server: &Server, name: &str, here: &mut [&mut Guest]) -> Guest {
        let (mut guest, given) = Guest::enter(server);
        guest.say(&format!("/nick {name}"));
        assert_eq!(guest.hear(), format!("* you are {name}"));
        for other in here {
            assert_eq!(other.hear(), format!("* {given} joined"));
            assert_eq!(other.hear(), format!("* {given} is now {name}"));
        }
        guest
    }

    fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.reader.get_mut().write_all(line.as_bytes()).unwrap();
    }

    #[track_caller]
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        assert_eq!(line.pop(), Some('\n'), "the connection has ended");
        line
    }
}

#[test]
fn chat_lines_reach_all_others_in_their_order() {
    each_driver("chat_server", &[], |server| {
        let mut ann = Guest::enter_as(&server, "ann", &mut []);
        let mut bob = Guest::enter_as(&server, "bob", &mut [&mut ann]);
        let mut cy = Guest::enter_as(&server, "cy", &mut [&mut ann, &mut bob]);
        for number in 0..1000 {
            ann.say(&format!("line {number}"));
        }
        for number in 0..1000 {
            for other in [&mut bob, &mut cy] {
                assert_eq!(other.hear(), format!("<ann> line {number}"));
            }
        }
        // The talker hears nothing of it: the next to come is from another one.
        bob.say("enough");
        assert_eq!(ann.hear(), "<bob> enough");
        assert_eq!(cy.hear(), "<bob> enough");
    });
}

#[test]
fn chat_lines_may_come_in_pieces_and_several_at_once() {
    each_driver("chat_server", &[], |server| {
        let mut ann = Guest::enter_as(&server, "ann", &mut []);
        let mut bob = Guest::enter_as(&server, "bob", &mut [&mut ann]);
        let socket = bob.reader.get_mut();
        socket.set_nodelay(true).unwrap();
        let pieces: [&[u8]; 4] = [b"on", b"e\ntwo\r\n\n \nthr", b"ee", b"\n\x1b[2Jfour\n\xff"];
        for piece in pieces {
            socket.write_all(piece).unwrap();
        }
        socket.write_all(b"five, without an end").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(ann.hear(), "<bob> one");
        assert_eq!(ann.hear(), "<bob> two");
        assert_eq!(ann.hear(), "<bob> three");
        // Nothing that steers a terminal.
        assert_eq!(ann.hear(), "<bob> [2Jfour");
        assert_eq!(ann.hear(), "<bob> \u{fffd}five, without an end");
        assert_eq!(ann.hear(), "* bob left");
    });
}

#[test]
fn who_joins_and_who_leaves_the_chat_is_told() {
    each_driver("chat_server", &[], |server| {
        let (mut first, first_name) = Guest::enter(&server);
        let (second, second_name) = Guest::enter(&server);
        assert_ne!(first_name, second_name);
        assert_eq!(first.hear(), format!("* {second_name} joined"));
        drop(second);
        assert_eq!(first.hear(), format!("* {second_name} left"));

        // However it ends.
        let (third, third_name) = Guest::enter(&server);
        assert_eq!(first.hear(), format!("* {third_name} joined"));
        common::reset(third.reader.into_inner());
        let left = first.hear();
        assert!(
            left.starts_with(&format!("* {third_name} left (")),
            "{left}"
        );
        assert!(left.contains("ECONNRESET"), "{left}");
    });
}

#[test]
fn a_chat_name_can_be_chosen_if_it_is_a_name_and_free() {
    each_driver("chat_server", &[], |server| {
        let mut ann = Guest::enter_as(&server, "ann", &mut []);
        let mut bob = Guest::enter_as(&server, "bob", &mut [&mut ann]);
        for wrong in ["", "two words", "seventeen-letters", "<bob>", "na\u{ef}ve"] {
            bob.say(&format!("/nick {wrong}"));
            assert!(bob.hear().starts_with("! a name has"), "{wrong:?}");
        }
        bob.say("/nick ann");
        assert_eq!(bob.hear(), "! somebody has that name");
        bob.say("/nock rob");
        assert_eq!(bob.hear(), "! there is only /nick NAME");
        // The order of what is said and who says it is kept.
        bob.reader
            .get_mut()
            .write_all(b"one\n/nick rob\ntwo\n")
            .unwrap();
        assert_eq!(bob.hear(), "* you are rob");
        assert_eq!(ann.hear(), "<bob> one");
        assert_eq!(ann.hear(), "* bob is now rob");
        assert_eq!(ann.hear(), "<rob> two");
        // The former name is free.
        ann.say("/nick bob");
        assert_eq!(ann.hear(), "* you are bob");
        assert_eq!(bob.hear(), "* ann is now bob");
    });
}

#[test]
fn a_chat_line_has_a_bounded_length() {
    each_driver("chat_server", &[], |server| {
        let mut ann = Guest::enter_as(&server, "ann", &mut []);
        let mut bob = Guest::enter_as(&server, "bob", &mut [&mut ann]);
        let longest = "x".repeat(1023);
        bob.say(&longest);
        assert_eq!(ann.hear(), format!("<bob> {longest}"));
        bob.reader.get_mut().write_all(b"before\n").unwrap();
        bob.reader
            .get_mut()
            .write_all("x".repeat(1025).as_bytes())
            .unwrap();
        assert_eq!(bob.hear(), "! line too long");
        assert_ended(&mut bob.reader);
        assert_eq!(ann.hear(), "<bob> before");
        assert_eq!(ann.hear(), "* bob left (line too long)");
    });
}

/// Enters without ever reading, with a small window.
fn enter_deaf(server: &Server) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.connect(&server.address.into()).unwrap();
    socket.set_read_timeout(Some(ANSWER_LIMIT)).unwrap();
    socket.into()
}

#[test]
fn a_flood_in_the_chat_cuts_off_who_does_not_read_and_harms_nobody_else() {
    each_driver("chat_server", &[], |server| {
        let mut ann = Guest::enter_as(&server, "ann", &mut []);
        let mut deaf = enter_deaf(&server);
        let joined = ann.hear();
        let deaf_name = joined.strip_prefix("* ").unwrap();
        let deaf_name = deaf_name.strip_suffix(" joined").unwrap();
        let bob = Guest::enter_as(&server, "bob", &mut [&mut ann]);

        // Floods as fast as the server takes it, until it is told to end. What its own system holds then must still be
        // heard: not much.
        let socket = socket2::SockRef::from(bob.reader.get_ref());
        socket.set_send_buffer_size(64 * 1024).unwrap();
        let flooding = thread::spawn({
            let mut socket = bob.reader.get_ref().try_clone().unwrap();
            move || {
                let mut sent = 0;
                loop {
                    let lines: String = (sent..sent + 500)
                        .map(|number| format!("{number:0100}\n"))
                        .collect();
                    if socket.write_all(lines.as_bytes()).is_err() {
                        return;
                    }
                    sent += 500;
                }
            }
        });
        let cut_off = format!("* {deaf_name} left (too slow)");
        let mut heard = 0;
        loop {
            let line = ann.hear();
            if line == cut_off {
                break;
            }
            assert_eq!(line, format!("<bob> {heard:0100}"));
            heard += 1;
            let bytes = heard * 100;
            assert!(bytes < 64 * 1024 * 1024, "nobody is cut off");
        }
        // What waits for one who does not read is let go: about 64 KiB are left with the system.
        let mut all = Vec::new();
        let outcome = deaf.read_to_end(&mut all);
        assert_eq!(
            outcome.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset,
            "it was told to go, not left waiting"
        );
        assert!(all.len() < 512 * 1024, "{} bytes", all.len());
        // The others go on.
        for _ in 0..1000 {
            assert_eq!(ann.hear(), format!("<bob> {heard:0100}"));
            heard += 1;
        }
        bob.reader.get_ref().shutdown(Shutdown::Both).unwrap();
        flooding.join().unwrap();
        while ann.hear() != "* bob left" {}
        let _cy = Guest::enter_as(&server, "cy", &mut [&mut ann]);
    });
}

#[test]
fn who_says_nothing_for_too_long_leaves_the_chat() {
    each_driver("chat_server", &["--idle", "0.2"], |server| {
        let (mut guest, _) = Guest::enter(&server);
        assert_eq!(guest.hear(), "! idle for too long");
        assert_ended(&mut guest.reader);
    });
}

#[cfg(unix)]
#[test]
fn the_chat_server_tells_all_when_it_ends_on_a_signal() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        each_driver("chat_server", &[], |server| {
            let mut ann = Guest::enter_as(&server, "ann", &mut []);
            let bob = Guest::enter_as(&server, "bob", &mut [&mut ann]);
            server.end(signal);
            for mut guest in [ann, bob] {
                assert_eq!(guest.hear(), "! the server ends");
                assert_ended(&mut guest.reader);
            }
        });
    }
}
