"""The terminal example, on a pseudo-terminal of its own."""

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time

from harness import DEADLINE, command, environment, expect, expect_equal, run_program, test


class Terminal:
    """A program that has a terminal for its own, seen from the emulator's side."""

    def __init__(self, columns=80, rows=25, valgrind=False):
        self.emulator, self.own = os.openpty()
        self.resize(columns, rows)
        self.found = termios.tcgetattr(self.own)
        self.shown = b""

        def take_for_own():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(command("terminal", valgrind=valgrind), stdin=self.own, stdout=self.own,
                                        stderr=self.own, env=environment(), preexec_fn=take_for_own)

    def resize(self, columns, rows):
        fcntl.ioctl(self.emulator, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, keys):
        os.write(self.emulator, keys)

    def wait_for(self, text):
        """Reads what is shown up to this text, which goes."""
        end = time.monotonic() + DEADLINE
        while text not in self.shown:
            ready, _, _ = select.select([self.emulator], [], [], max(0, end - time.monotonic()))
            expect(ready, "waited in vain for", text, "in", self.shown)
            self.shown += os.read(self.emulator, 4096)
        self.shown = self.shown.split(text, 1)[1]

    def is_as_found(self):
        return termios.tcgetattr(self.own) == self.found

    def wait(self):
        return self.process.wait(DEADLINE)

    def __enter__(self):
        self.wait_for(b"press keys; q ends\r\n")
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        os.close(self.emulator)
        os.close(self.own)


@test
def terminal_shows_keys_at_once_and_ends_by_q():
    with Terminal() as terminal:
        terminal.wait_for(b"window: 80 columns, 25 rows\r\n")
        expect(not terminal.is_as_found(), "the mode is still the normal one")
        terminal.type(b"a")
        terminal.wait_for(b"key: a\r\n")
        terminal.type(b"\x03\r")  # Ctrl-C ends nothing here
        terminal.wait_for(b"key: byte 3\r\nkey: byte 13\r\n")
        terminal.type(b"\x1b[A")
        terminal.wait_for(b"key: byte 27\r\nkey: [\r\nkey: A\r\n")
        terminal.type(b"qx")
        terminal.wait_for(b"bye\r\n")
        expect_equal(terminal.wait(), 0)
        expect(terminal.is_as_found(), "the mode was not put back")


@test
def terminal_tells_when_the_window_changes():
    with Terminal() as terminal:
        terminal.wait_for(b"window: 80 columns, 25 rows\r\n")
        terminal.type(b"a")  # by its answer, the size is watched
        terminal.wait_for(b"key: a\r\n")
        terminal.resize(132, 43)
        terminal.wait_for(b"window: 132 columns, 43 rows\r\n")
        terminal.type(b"q")
        expect_equal(terminal.wait(), 0)


@test
def terminal_is_as_it_was_when_a_signal_ends_the_example():
    for number in [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGSEGV]:
        with Terminal() as terminal:
            terminal.wait_for(b"window: ")
            expect(not terminal.is_as_found(), "the mode is still the normal one")
            terminal.process.send_signal(number)
            expect_equal(terminal.wait(), -number)
            expect(terminal.is_as_found(), "the mode was not put back")


@test
def terminal_needs_a_terminal():
    done = run_program("terminal")
    expect_equal((done.returncode, done.stdout, done.stderr), (2, b"", b"terminal: the standard input is no terminal\n"))


@test
def valgrind_finds_nothing_in_the_terminal_example():
    with Terminal(valgrind=True) as terminal:
        terminal.type(b"a")
        terminal.wait_for(b"key: a\r\n")
        terminal.resize(100, 30)
        terminal.wait_for(b"window: 100 columns, 30 rows\r\n")
        terminal.type(b"q")
        expect_equal(terminal.wait(), 0)
