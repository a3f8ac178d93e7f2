//! Terminals, on pseudo-terminals. The modes of a process' terminals are the process', so each test that sets one runs in a
//! process of its own.

#![cfg(all(unix, feature = "tty"))]

mod common;

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};

use common::*;
use kolo::{Code, Error, Kind, Loop, RunMode, Signal, Stream, Tty, TtyMode, WindowSize};

/// A terminal, and the side of it that an emulator has.
struct Terminal {
    emulator: std::fs::File,
    terminal: OwnedFd,
}

impl Terminal {
    fn open() -> Terminal {
        let (mut emulator, mut terminal) = (-1, -1);
        let nothing = std::ptr::null_mut();
        #[allow(clippy::unnecessary_cast)]
        let outcome = unsafe {
            libc::openpty(
                &mut emulator,
                &mut terminal,
                nothing,
                nothing as *mut _,
                nothing as *mut _,
            )
        };
        assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
        unsafe {
            libc::fcntl(emulator, libc::F_SETFD, libc::FD_CLOEXEC);
            Terminal {
                emulator: std::fs::File::from_raw_fd(emulator),
                terminal: OwnedFd::from_raw_fd(terminal),
            }
        }
    }

    fn attributes(&self) -> libc::termios {
        let mut attributes = unsafe { std::mem::zeroed() };
        let outcome = unsafe { libc::tcgetattr(self.terminal.as_raw_fd(), &mut attributes) };
        assert_eq!(outcome, 0);
        attributes
    }

    /// Whether keys are shown and lines can be edited.
    fn is_normal(&self) -> bool {
        let both = libc::ICANON | libc::ECHO;
        self.attributes().c_lflag & both == both
    }

    fn resize(&self, columns: u16, rows: u16) {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: columns * 8,
            ws_ypixel: rows * 16,
        };
        let outcome = unsafe { libc::ioctl(self.emulator.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        assert_eq!(outcome, 0);
    }

    fn type_keys(&self, keys: &[u8]) {
        (&self.emulator).write_all(keys).unwrap();
    }

    /// What has been shown: so many bytes.
    fn shown(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        (&self.emulator).read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Makes it the terminal of this process, in a session of its own, in the foreground.
    fn take_for_own(&self) {
        unsafe {
            assert!(libc::setsid() > 0, "{}", std::io::Error::last_os_error());
            let outcome = libc::ioctl(self.terminal.as_raw_fd(), libc::TIOCSCTTY as _, 0);
            assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
        }
    }
}

fn flags(descriptor: RawFd) -> i32 {
    unsafe { libc::fcntl(descriptor, libc::F_GETFL) }
}

/// A function in a forked child that has the terminal for its own.
struct Child(libc::pid_t);

impl Child {
    fn fork(terminal: &Terminal, run: impl FnOnce()) -> Child {
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                terminal.take_for_own();
                unsafe { libc::alarm(50) };
                let outcome = catch_unwind(AssertUnwindSafe(run));
                unsafe { libc::_exit(if outcome.is_err() { 99 } else { 0 }) }
            }
            child => Child(child),
        }
    }

    fn wait(&self, options: i32) -> i32 {
        let mut status = 0;
        let changed = unsafe { libc::waitpid(self.0, &mut status, options) };
        assert_eq!(changed, self.0);
        status
    }

    fn kill(&self, signal: i32) {
        assert_eq!(unsafe { libc::kill(self.0, signal) }, 0);
    }

    /// Waits for its end, which must be by this signal.
    fn ended_by(self, signal: i32) {
        let status = self.wait(0);
        assert!(
            libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == signal,
            "status {status:#x}"
        );
    }

    /// Waits for its end, which must be an exit with this status.
    fn exited(self, expected: i32) {
        let status = self.wait(0);
        assert!(
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == expected,
            "status {status:#x}"
        );
    }
}

/// In a child: sets the mode, says so on the terminal, and waits for its end.
fn in_mode(terminal: &Terminal, mode: TtyMode) -> ! {
    let lp = Loop::new().unwrap();
    let tty = Tty::open(&lp, &terminal.terminal, |_: &Loop, _: Stream, _: &[u8]| ()).unwrap();
    tty.set_mode(&lp, mode).unwrap();
    tty.write(&lp, b"!").unwrap();
    loop {
        lp.run(RunMode::Default).unwrap();
    }
}

fn nothing(_: &Loop, _: Stream, _: &[u8]) {}

#[test]
fn what_is_no_terminal_is_refused() {
    each_driver(|lp| {
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(code(Tty::open(&lp, &socket, nothing)), Code::ENOTTY);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(code(Tty::open(&lp, &file, nothing)), Code::ENOTTY);
    });
}

#[test]
fn lines_come_as_they_are_typed_and_text_is_shown() {
    each_driver(|lp| {
        let (log, terminal) = (Log::default(), Terminal::open());
        let tty = Tty::open(&lp, &terminal.terminal, Script::new(&log)).unwrap();
        assert_eq!(lp.kind(tty).unwrap(), Kind::Tty);
        terminal.type_keys(b"abc\rde\x7f\x7ff\r");
        run_until(&lp, || log.data() == b"abc\nf\n");
        // What was typed was shown.
        assert!(terminal.shown(5).starts_with(b"abc\r\n"));
        lp.close(tty).unwrap();
        run_until(&lp, || log.closed());
    });
}

#[test]
fn two_lines_that_wait_both_come() {
    // The system ends a read at the end of a line, though another one is there.
    each_driver(|lp| {
        let (log, terminal) = (Log::default(), Terminal::open());
        terminal.type_keys(b"one\rtwo\rthree\r");
        let tty = Tty::open(&lp, &terminal.terminal, Script::new(&log)).unwrap();
        run_until(&lp, || log.data() == b"one\ntwo\nthree\n");
        lp.close(tty).unwrap();
        run_to_end(&lp);
    });
}

#[test]
fn the_end_of_input_is_an_end() {
    each_driver(|lp| {
        let (log, terminal) = (Log::default(), Terminal::open());
        let tty = Tty::open(&lp, &terminal.terminal, Script::new(&log)).unwrap();
        terminal.type_keys(b"last\r\x04");
        run_until(&lp, || log.has(&Event::End));
        assert_eq!(log.data(), b"last\n");
        // Writing goes on.
        tty.write(&lp, b"bye").unwrap();
        tty.finish(&lp).unwrap();
        run_until(&lp, || log.closed());
    });
}

#[test]
fn much_text_waits_for_the_emulator() {
    each_driver(|lp| {
        let (log, terminal) = (Log::default(), Terminal::open());
        let tty = Tty::open(&lp, &terminal.terminal, Script::new(&log)).unwrap();
        let text = vec![b'x'; 300_000];
        tty.write(&lp, &text).unwrap();
        assert!(tty.queued(&lp).unwrap() > 0);
        let emulator = terminal.emulator.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; 300_000];
            (&emulator).read_exact(&mut bytes).map(|()| bytes)
        });
        run_until(&lp, || tty.queued(&lp).unwrap() == 0);
        assert!(reader.join().unwrap().unwrap() == text);
        lp.close(tty).unwrap();
        run_to_end(&lp);
    });
}

#[test]
fn the_descriptor_stays_its_owners_and_still_waits() {
    each_driver(|lp| {
        let (log, terminal) = (Log::default(), Terminal::open());
        let at = terminal.terminal.as_raw_fd();
        let before = flags(at);
        let tty = Tty::open(&lp, &terminal.terminal, Script::new(&log)).unwrap();
        tty.write(&lp, b"hello").unwrap();
        run_until(&lp, || tty.queued(&lp).unwrap() == 0);
        assert_eq!(flags(at), before);
        assert_eq!(before & libc::O_NONBLOCK, 0);
        lp.close(tty).unwrap();
        run_until(&lp, || log.closed());
        assert_eq!(flags(at), before);
    });
}

#[test]
fn the_emulators_side_is_shared_and_put_back() {
    each_driver(|lp| {
        let (log, terminal) = (Log::default(), Terminal::open());
        let at = terminal.emulator.as_raw_fd();
        let tty = Tty::open(&lp, &terminal.emulator, Script::new(&log)).unwrap();
        assert_ne!(flags(at) & libc::O_NONBLOCK, 0);
        let text = b"to the emulator";
        let mut program = std::fs::File::from(terminal.terminal.try_clone().unwrap());
        program.write_all(text).unwrap();
        run_until(&lp, || log.data() == text);
        lp.close(tty).unwrap();
        run_until(&lp, || log.closed());
        assert_eq!(flags(at) & libc::O_NONBLOCK, 0);
    });
}

#[test]
fn one_way_of_a_terminal() {
    each_driver(|lp| {
        let terminal = Terminal::open();
        let path = std::fs::read_link(format!("/proc/self/fd/{}", terminal.terminal.as_raw_fd()));
        let Ok(path) = path else { return };
        let reading = std::fs::File::open(&path).unwrap();
        let writing = std::fs::File::options().write(true).open(&path).unwrap();
        let (one, other) = (Log::default(), Log::default());
        let reader = Tty::open(&lp, &reading, Script::new(&one)).unwrap();
        let writer = Tty::open(&lp, &writing, Script::new(&other)).unwrap();
        assert_eq!(code(reader.write(&lp, b"x")), Code::EPIPE);
        assert_eq!(code(writer.read_start(&lp)), Code::ENOTCONN);
        writer.write(&lp, b"shown").unwrap();
        terminal.type_keys(b"typed\r");
        run_until(&lp, || one.data() == b"typed\n");
        assert_eq!(terminal.shown(5), b"shown");
        lp.close(reader).unwrap();
        lp.close(writer).unwrap();
        run_to_end(&lp);
        assert_eq!(other.events(), [Event::Close]);
    });
}

#[test]
fn a_mode_is_set_at_once_and_put_back_when_the_handle_closes() {
    in_own_process!(|| each_driver(|lp| {
        let (log, terminal) = (Log::default(), Terminal::open());
        let before = terminal.attributes();
        let tty = Tty::open(&lp, &terminal.terminal, Script::new(&log)).unwrap();
        tty.set_mode(&lp, TtyMode::Raw).unwrap();
        assert_eq!(terminal.attributes().c_lflag & libc::ISIG, 0);
        assert_eq!(terminal.attributes().c_oflag & libc::OPOST, 0);
        terminal.type_keys(b"\x03q");
        run_until(&lp, || log.data() == b"\x03q");
        tty.set_mode(&lp, TtyMode::RawInput).unwrap();
        assert_eq!(terminal.attributes().c_lflag & libc::ISIG, 0);
        assert_eq!(terminal.attributes().c_oflag, before.c_oflag);
        tty.set_mode(&lp, TtyMode::Cbreak).unwrap();
        assert!(!terminal.is_normal());
        assert_ne!(terminal.attributes().c_lflag & libc::ISIG, 0);
        assert_eq!(terminal.attributes().c_iflag, before.c_iflag);
        lp.close(tty).unwrap();
        let after = terminal.attributes();
        assert_eq!(after.c_lflag, before.c_lflag);
        assert_eq!(after.c_iflag, before.c_iflag);
        assert_eq!(after.c_oflag, before.c_oflag);
        assert_eq!(after.c_cc, before.c_cc);
        run_to_end(&lp);
    }));
}

#[test]
fn the_normal_mode_ends_that_of_every_handle() {
    in_own_process!(|| each_driver(|lp| {
        let terminal = Terminal::open();
        let one = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        let other = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        one.set_mode(&lp, TtyMode::Raw).unwrap();
        other.set_mode(&lp, TtyMode::Normal).unwrap();
        assert!(terminal.is_normal());
        other.set_mode(&lp, TtyMode::Raw).unwrap();
        // That one's wish is over.
        lp.close(one).unwrap();
        assert!(!terminal.is_normal());
        lp.close(other).unwrap();
        assert!(terminal.is_normal());
        run_to_end(&lp);
    }));
}

#[test]
fn the_last_handle_that_set_a_mode_puts_it_back() {
    in_own_process!(|| each_driver(|lp| {
        let terminal = Terminal::open();
        let one = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        let other = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        let third = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        one.set_mode(&lp, TtyMode::Raw).unwrap();
        other.set_mode(&lp, TtyMode::Cbreak).unwrap();
        lp.close(third).unwrap();
        lp.close(one).unwrap();
        assert!(!terminal.is_normal());
        lp.close(other).unwrap();
        assert!(terminal.is_normal());
        run_to_end(&lp);
    }));
}

#[test]
fn a_dropped_loop_puts_the_mode_back() {
    in_own_process!(|| each_driver(|lp| {
        let terminal = Terminal::open();
        let tty = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        tty.set_mode(&lp, TtyMode::Raw).unwrap();
        assert!(!terminal.is_normal());
        drop(lp);
        assert!(terminal.is_normal());
    }));
}

#[test]
fn modes_are_put_back_by_hand_and_can_be_set_again() {
    in_own_process!(|| each_driver(|lp| {
        let terminal = Terminal::open();
        Tty::reset_modes().unwrap();
        let tty = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        tty.set_mode(&lp, TtyMode::Raw).unwrap();
        Tty::reset_modes().unwrap();
        assert!(terminal.is_normal());
        // Nor does the end of a stop bring it back.
        unsafe { libc::raise(libc::SIGCONT) };
        assert!(terminal.is_normal());
        tty.set_mode(&lp, TtyMode::Raw).unwrap();
        assert!(!terminal.is_normal());
        unsafe { libc::raise(libc::SIGCONT) };
        assert!(!terminal.is_normal());
        lp.close(tty).unwrap();
        run_to_end(&lp);
    }));
}

#[test]
fn a_signal_that_ends_the_process_puts_the_mode_back_and_ends_it() {
    in_own_process!(|| {
        for signal in [
            libc::SIGINT,
            libc::SIGTERM,
            libc::SIGHUP,
            libc::SIGQUIT,
            libc::SIGABRT,
            libc::SIGUSR1,
        ] {
            let terminal = Terminal::open();
            let before = terminal.attributes();
            let child = Child::fork(&terminal, || in_mode(&terminal, TtyMode::Raw));
            assert_eq!(terminal.shown(1), b"!");
            assert!(!terminal.is_normal());
            child.kill(signal);
            child.ended_by(signal);
            assert_eq!(terminal.attributes().c_lflag, before.c_lflag);
            assert_eq!(terminal.attributes().c_oflag, before.c_oflag);
        }
    });
}

#[test]
fn a_signal_that_nobody_can_catch_leaves_the_mode() {
    in_own_process!(|| {
        let terminal = Terminal::open();
        let child = Child::fork(&terminal, || in_mode(&terminal, TtyMode::Raw));
        assert_eq!(terminal.shown(1), b"!");
        child.kill(libc::SIGKILL);
        child.ended_by(libc::SIGKILL);
        assert!(!terminal.is_normal());
    });
}

#[test]
fn a_key_that_makes_a_signal_puts_the_mode_back() {
    in_own_process!(|| {
        let terminal = Terminal::open();
        let child = Child::fork(&terminal, || in_mode(&terminal, TtyMode::Cbreak));
        assert_eq!(terminal.shown(1), b"!");
        assert!(!terminal.is_normal());
        terminal.type_keys(b"\x03");
        child.ended_by(libc::SIGINT);
        assert!(terminal.is_normal());
    });
}

#[test]
fn an_exit_puts_the_mode_back() {
    in_own_process!(|| {
        let terminal = Terminal::open();
        let child = Child::fork(&terminal, || {
            let lp = Loop::new().unwrap();
            let tty = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
            tty.set_mode(&lp, TtyMode::Raw).unwrap();
            assert!(!terminal.is_normal());
            std::process::exit(7)
        });
        child.exited(7);
        assert!(terminal.is_normal());
    });
}

#[test]
fn a_forked_child_leaves_its_parents_terminal_alone() {
    in_own_process!(|| {
        let terminal = Terminal::open();
        let lp = Loop::new().unwrap();
        let tty = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        tty.set_mode(&lp, TtyMode::Raw).unwrap();
        for end in 0..4 {
            match unsafe { libc::fork() } {
                0 => {
                    match end {
                        0 => std::process::exit(0),
                        1 => unsafe {
                            libc::kill(libc::getpid(), libc::SIGTERM);
                        },
                        2 => Tty::reset_modes().unwrap(),
                        _ => {
                            lp.forked().unwrap();
                            lp.close(tty).unwrap();
                            run_to_end(&lp);
                        }
                    }
                    unsafe { libc::_exit(0) }
                }
                child => {
                    let mut status = 0;
                    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                    let expected = if end == 1 { libc::SIGTERM } else { 0 };
                    assert_eq!(status, expected);
                    assert!(!terminal.is_normal());
                }
            }
        }
        lp.close(tty).unwrap();
        assert!(terminal.is_normal());
        run_to_end(&lp);
    });
}

#[test]
fn the_mode_is_put_back_while_the_process_is_stopped() {
    in_own_process!(|| {
        for signal in [libc::SIGTSTP, libc::SIGSTOP] {
            let terminal = Terminal::open();
            let child = Child::fork(&terminal, || {
                // Of a session's only process group the stop of job control is ignored: it would
                // never be continued. So what sets the mode is a group of its own.
                let inner = unsafe { libc::fork() };
                if inner == 0 {
                    unsafe { libc::alarm(50) };
                    while unsafe { libc::tcgetpgrp(terminal.terminal.as_raw_fd()) }
                        != unsafe { libc::getpid() }
                    {
                        std::thread::yield_now();
                    }
                    in_mode(&terminal, TtyMode::Raw)
                }
                unsafe {
                    libc::signal(libc::SIGTTOU, libc::SIG_IGN);
                    libc::setpgid(inner, inner);
                    libc::tcsetpgrp(terminal.terminal.as_raw_fd(), inner);
                }
                let inner = Child(inner);
                assert_eq!(terminal.shown(1), b"!");
                inner.kill(signal);
                let status = inner.wait(libc::WUNTRACED);
                assert!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == signal);
                let put_back = terminal.is_normal();
                assert_eq!(put_back, signal == libc::SIGTSTP);
                // As a shell would have it for itself.
                let mut attributes = terminal.attributes();
                attributes.c_lflag |= libc::ICANON | libc::ECHO;
                let at = terminal.terminal.as_raw_fd();
                unsafe { libc::tcsetattr(at, libc::TCSANOW, &attributes) };
                inner.kill(libc::SIGCONT);
                while terminal.is_normal() {
                    std::thread::yield_now();
                }
                inner.kill(libc::SIGTERM);
                inner.ended_by(libc::SIGTERM);
                assert!(terminal.is_normal());
            });
            child.exited(0);
        }
    });
}

#[test]
fn setting_a_mode_in_the_background_stops_the_process_until_it_is_in_front() {
    in_own_process!(|| {
        let terminal = Terminal::open();
        let child = Child::fork(&terminal, || {
            let inner = unsafe { libc::fork() };
            if inner == 0 {
                // A process group of its own, which is not the one in front.
                unsafe {
                    libc::alarm(50);
                    libc::setpgid(0, 0);
                }
                in_mode(&terminal, TtyMode::Raw)
            }
            let inner = Child(inner);
            let status = inner.wait(libc::WUNTRACED);
            assert!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTTOU);
            assert!(terminal.is_normal());
            unsafe {
                libc::signal(libc::SIGTTOU, libc::SIG_IGN);
                libc::tcsetpgrp(terminal.terminal.as_raw_fd(), inner.0);
            }
            inner.kill(libc::SIGCONT);
            assert_eq!(terminal.shown(1), b"!");
            assert!(!terminal.is_normal());
            // In the background again, the terminal is somebody else's, who has it as it is.
            unsafe { libc::tcsetpgrp(terminal.terminal.as_raw_fd(), libc::getpgrp()) };
            inner.kill(libc::SIGTERM);
            inner.ended_by(libc::SIGTERM);
            assert!(!terminal.is_normal());
        });
        child.exited(0);
    });
}

#[test]
fn all_names_of_a_terminal_are_one_terminal() {
    in_own_process!(|| with_own_terminal(|lp, terminal| {
        let by_other_name = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/tty")
            .unwrap();
        let one = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        let other = Tty::open(&lp, &by_other_name, nothing).unwrap();
        one.set_mode(&lp, TtyMode::Raw).unwrap();
        other.set_mode(&lp, TtyMode::Raw).unwrap();
        lp.close(one).unwrap();
        assert!(!terminal.is_normal());
        lp.close(other).unwrap();
        assert!(terminal.is_normal());
        run_to_end(&lp);
    }));
}

#[test]
fn more_terminals_than_there_is_room_for() {
    in_own_process!(|| each_driver(|lp| {
        let terminals: Vec<Terminal> = (0..65).map(|_| Terminal::open()).collect();
        let open = |one: &Terminal| Tty::open(&lp, &one.terminal, nothing).unwrap();
        let ttys: Vec<Tty> = terminals.iter().map(open).collect();
        for tty in &ttys[..64] {
            tty.set_mode(&lp, TtyMode::Raw).unwrap();
        }
        assert_eq!(code(ttys[64].set_mode(&lp, TtyMode::Raw)), Code::ENOBUFS);
        assert!(terminals[64].is_normal());
        lp.close(ttys[7]).unwrap();
        ttys[64].set_mode(&lp, TtyMode::Raw).unwrap();
        Tty::reset_modes().unwrap();
        assert!(terminals.iter().all(Terminal::is_normal));
        for tty in ttys {
            let _ = lp.close(tty);
        }
        run_to_end(&lp);
    }));
}

#[test]
fn handlers_of_other_threads_meet_a_whole_table() {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::Arc;

    in_own_process!(|| {
        let terminal = Terminal::open();
        let lp = Loop::new().unwrap();
        let tty = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let others = [0, 1].map(|which| {
            let over = over.clone();
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    match which {
                        0 => Tty::reset_modes().unwrap(),
                        _ => assert_eq!(unsafe { libc::raise(libc::SIGCONT) }, 0),
                    }
                }
            })
        });
        for mode in [TtyMode::Raw, TtyMode::Cbreak, TtyMode::Normal].repeat(700) {
            tty.set_mode(&lp, mode).unwrap();
        }
        assert!(terminal.is_normal());
        tty.set_mode(&lp, TtyMode::Raw).unwrap();
        over.store(true, Ordering::Relaxed);
        for thread in others {
            thread.join().unwrap();
        }
        lp.close(tty).unwrap();
        assert!(terminal.is_normal());
        run_to_end(&lp);
    });
}

#[test]
fn the_programs_own_handlers_are_left_alone() {
    in_own_process!(|| each_driver(|lp| {
        extern "C" fn own(_: libc::c_int) {}
        let own = own as extern "C" fn(libc::c_int) as libc::sighandler_t;
        let disposition = |signal| unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut action);
            action.sa_sigaction
        };
        unsafe {
            libc::signal(libc::SIGTERM, own);
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
        }
        let terminal = Terminal::open();
        let tty = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        tty.set_mode(&lp, TtyMode::Raw).unwrap();
        assert_eq!(disposition(libc::SIGTERM), own);
        assert_eq!(disposition(libc::SIGHUP), libc::SIG_IGN);
        assert_ne!(disposition(libc::SIGINT), libc::SIG_DFL);
        // One that comes later stays, too.
        unsafe { libc::signal(libc::SIGQUIT, own) };
        tty.set_mode(&lp, TtyMode::Normal).unwrap();
        assert_eq!(disposition(libc::SIGTERM), own);
        assert_eq!(disposition(libc::SIGHUP), libc::SIG_IGN);
        assert_eq!(disposition(libc::SIGQUIT), own);
        assert_eq!(disposition(libc::SIGINT), libc::SIG_DFL);
        assert_eq!(disposition(libc::SIGTSTP), libc::SIG_DFL);
        unsafe {
            for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        lp.close(tty).unwrap();
        run_to_end(&lp);
    }));
}

#[test]
fn a_signal_handle_and_a_mode_do_not_get_into_each_others_way() {
    in_own_process!(|| {
        let terminal = Terminal::open();
        let child = Child::fork(&terminal, || {
            let lp = Loop::new().unwrap();
            let came = Shared::new(0);
            let signal = Signal::open(&lp, {
                let came = came.clone();
                move |_, _, _| came.add()
            })
            .unwrap();
            signal.start(&lp, libc::SIGTERM).unwrap();
            let tty = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
            tty.set_mode(&lp, TtyMode::Raw).unwrap();
            unsafe { libc::raise(libc::SIGTERM) };
            run_until(&lp, || came.get() == 1);
            assert!(!terminal.is_normal());
            // From here on it ends the process again, and puts the mode back.
            lp.close(signal).unwrap();
            unsafe { libc::raise(libc::SIGTERM) };
        });
        child.ended_by(libc::SIGTERM);
        assert!(terminal.is_normal());
    });
}

#[test]
fn the_size_of_the_window() {
    each_driver(|lp| {
        let terminal = Terminal::open();
        let tty = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        terminal.resize(100, 30);
        let expected = WindowSize {
            columns: 100,
            rows: 30,
            width_px: 800,
            height_px: 480,
        };
        assert_eq!(tty.window_size(&lp).unwrap(), expected);
        lp.close(tty).unwrap();
        assert_eq!(code(tty.window_size(&lp)), Code::EBADF);
        run_to_end(&lp);
    });
}

/// In a child, on each driver, with the terminal for its own.
fn with_own_terminal(test: impl Fn(Loop, &Terminal)) {
    let terminal = Terminal::open();
    let child = Child::fork(&terminal, || each_driver(|lp| test(lp, &terminal)));
    child.exited(0);
}

fn sizes(lp: &Loop, tty: Tty) -> Shared<Vec<u16>> {
    let sizes = Shared::new(Vec::new());
    let told = sizes.clone();
    tty.on_resize(lp, move |_, _, size| told.push(size.columns))
        .unwrap();
    sizes
}

#[test]
fn another_size_is_told_and_the_same_is_not() {
    in_own_process!(|| with_own_terminal(|lp, terminal| {
        terminal.resize(80, 25);
        let tty = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        let sizes = sizes(&lp, tty);
        terminal.resize(81, 25);
        run_until(&lp, || sizes.with(|sizes| sizes.as_slice() == [81]));
        // The signal alone does not say that it is another one.
        unsafe { libc::raise(libc::SIGWINCH) };
        terminal.resize(81, 25);
        some_turns(&lp);
        terminal.resize(82, 25);
        run_until(&lp, || sizes.with(|sizes| sizes.as_slice() == [81, 82]));
        tty.stop_resize(&lp).unwrap();
        terminal.resize(83, 25);
        some_turns(&lp);
        assert_eq!(sizes.take(), [81, 82]);
        lp.close(tty).unwrap();
        run_to_end(&lp);
    }));
}

#[test]
fn a_size_that_changed_during_a_stop_is_told_after_it() {
    in_own_process!(|| with_own_terminal(|lp, terminal| {
        terminal.resize(80, 25);
        let tty = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        let sizes = sizes(&lp, tty);
        // The signal went to whoever was in the foreground.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGWINCH);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            terminal.resize(90, 25);
            libc::raise(libc::SIGCONT);
            run_until(&lp, || sizes.len() == 1);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        }
        some_turns(&lp);
        assert_eq!(sizes.take(), [90]);
        lp.close(tty).unwrap();
        run_to_end(&lp);
    }));
}

#[test]
fn a_resize_callback_closes_its_handle_or_takes_anothers_place() {
    in_own_process!(|| with_own_terminal(|lp, terminal| {
        terminal.resize(80, 25);
        let told = Shared::new(Vec::new());
        let one = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        let other = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        for tty in [one, other] {
            let told = told.clone();
            tty.on_resize(&lp, move |lp, tty, size| {
                let later = told.clone();
                let next = move |lp: &Loop, tty: Tty, size: WindowSize| {
                    later.push(("second", size.columns));
                    lp.close(tty).unwrap();
                };
                told.push(("first", size.columns));
                tty.on_resize(lp, next).unwrap();
            })
            .unwrap();
        }
        terminal.resize(81, 25);
        run_until(&lp, || told.len() == 2);
        lp.close(one).unwrap();
        terminal.resize(82, 25);
        run_until(&lp, || told.len() == 3);
        assert_eq!(told.take(), [("first", 81), ("first", 81), ("second", 82)]);
        assert_eq!(code(lp.close(other)), Code::EBADF);
        run_to_end(&lp);
    }));
}

#[test]
fn a_panic_in_a_resize_callback_loses_nothing() {
    in_own_process!(|| with_own_terminal(|lp, terminal| {
        terminal.resize(80, 25);
        let told = Shared::new(Vec::new());
        let one = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        let other = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        for (tty, panics) in [(one, true), (other, false)] {
            let told = told.clone();
            tty.on_resize(&lp, move |_, _, size| {
                told.push(size.columns);
                assert!(!panics, "on purpose");
            })
            .unwrap();
        }
        terminal.resize(81, 25);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        while told.len() < 2 {
            let _ = catch_unwind(AssertUnwindSafe(|| run_until(&lp, || told.len() == 2)));
        }
        terminal.resize(82, 25);
        while told.len() < 4 {
            let _ = catch_unwind(AssertUnwindSafe(|| run_until(&lp, || told.len() == 4)));
        }
        std::panic::set_hook(hook);
        assert_eq!(told.take(), [81, 81, 82, 82]);
        lp.close(one).unwrap();
        lp.close(other).unwrap();
        run_to_end(&lp);
    }));
}

#[test]
fn watching_the_size_does_not_keep_the_loop_alive() {
    each_driver(|lp| {
        let terminal = Terminal::open();
        let log = Log::default();
        let tty = Tty::open(&lp, &terminal.terminal, Script::new(&log).not_reading()).unwrap();
        sizes(&lp, tty);
        assert!(!lp.run(RunMode::Default).unwrap());
        // What the callback holds goes with the handle.
        let held = Shared::new(());
        let hold = held.clone();
        tty.on_resize(&lp, move |_, _, _| hold.set(())).unwrap();
        assert_eq!(held.holders(), 1);
        lp.close(tty).unwrap();
        run_to_end(&lp);
        assert_eq!(held.holders(), 0);
    });
}

#[test]
fn a_closed_handle_and_one_of_another_kind_are_refused() {
    each_driver(|lp| {
        let terminal = Terminal::open();
        let tty = Tty::open(&lp, &terminal.terminal, nothing).unwrap();
        let timer = kolo::Timer::open(&lp, |_, _| ()).unwrap();
        let other = Tty::from_id(timer.id());
        lp.close(tty).unwrap();
        for tty in [tty, other] {
            assert_eq!(code(tty.set_mode(&lp, TtyMode::Raw)), Code::EBADF);
            assert_eq!(code(tty.set_mode(&lp, TtyMode::Normal)), Code::EBADF);
            assert_eq!(code(tty.window_size(&lp)), Code::EBADF);
            assert_eq!(code(tty.on_resize(&lp, |_, _, _| ())), Code::EBADF);
            assert_eq!(code(tty.stop_resize(&lp)), Code::EBADF);
        }
        assert!(terminal.is_normal());
        lp.close(timer).unwrap();
        run_to_end(&lp);
    });
}

#[test]
fn a_terminal_that_is_hung_up_ends() {
    each_driver(|lp| {
        let (log, terminal) = (Log::default(), Terminal::open());
        let tty = Tty::open(&lp, &terminal.terminal, Script::new(&log)).unwrap();
        let Terminal { emulator, terminal } = terminal;
        drop(emulator);
        run_until(&lp, || {
            log.has(&Event::End) || log.has(&Event::Error(Code::EIO))
        });
        let hung_up: Error = tty.set_mode(&lp, TtyMode::Raw).unwrap_err();
        assert_eq!(hung_up.code(), Code::EIO);
        let _ = lp.close(tty);
        run_to_end(&lp);
        drop(terminal);
    });
}

#[test]
fn nothing_is_opened_when_descriptors_run_out() {
    in_own_process!(|| each_driver(|lp| {
        let terminal = Terminal::open();
        let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
        let few = libc::rlimit {
            rlim_cur: 3,
            ..limit
        };
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &few) };
        let refused = code(Tty::open(&lp, &terminal.terminal, nothing));
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        assert_eq!(refused, Code::EMFILE);
        assert!(lp.handles().is_empty());
        assert!(terminal.terminal.as_fd().try_clone_to_owned().is_ok());
        run_to_end(&lp);
    }));
}
