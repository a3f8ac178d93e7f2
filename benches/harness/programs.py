"""The C programs as running processes. Every wait has a bound: a program that hangs is a failure."""

import os
import select
import subprocess
import tempfile
import time

from . import machine as host
from .machine import BenchError

ANSWER_SECONDS = 120
EXIT_SECONDS = 300  # ten million timers in a heap take a minute or two


class Program:
    """A running program, spoken to by lines. Leaving the `with` block ends it, and its exit status must be 0."""

    def __init__(self, machine, command, cpus=None, driver=""):
        self.name = " ".join([os.path.basename(command[0]), *command[1:]])
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            preexec_fn=machine.place(cpus or {machine.bench_cpu}),
            env={**os.environ, "KOLO_DRIVER": driver} if driver else None,
        )
        self.pending = b""

    @property
    def pid(self):
        return self.process.pid

    def fail(self, what):
        self.errors.seek(0)
        said = self.errors.read().strip()
        raise BenchError(f"{self.name}: {what}" + (f": {said}" if said else ""))

    def read_line(self, seconds=ANSWER_SECONDS):
        deadline = time.monotonic() + seconds
        output = self.process.stdout.fileno()
        while b"\n" not in self.pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([output], [], [], left)[0]:
                self.fail(f"no answer within {seconds} s")
            some = os.read(output, 65536)
            if not some:
                self.fail(f"ended with status {self.process.wait(EXIT_SECONDS)}")
            self.pending += some
        line, _, self.pending = self.pending.partition(b"\n")
        return line.decode()

    def write_line(self, line):
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.fail(f"ended with status {self.process.wait(EXIT_SECONDS)}")

    def end(self):
        """Stdin's end is the programs' sign to stop."""
        try:
            rest, _ = self.process.communicate(timeout=EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            self.fail(f"does not end within {EXIT_SECONDS} s")
        if self.process.returncode != 0:
            self.fail(f"ended with status {self.process.returncode}")
        return (self.pending + rest).decode().splitlines()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        try:
            if failure is None:
                self.end()
        finally:
            if self.process.poll() is None:
                self.kill()
            for pipe in (self.process.stdin, self.process.stdout, self.errors):
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # what was not yet written is of no use to a program that is gone


class Server(Program):
    def __init__(self, machine, build, peer, flags=(), kind="echo", under=()):
        """`under`: a program, with its arguments, that runs the server."""
        super().__init__(machine, [*under, str(build.program(f"{peer.source}_{kind}")), *flags], driver=peer.driver)
        self.driver = None
        self.port = None
        try:
            while self.port is None:
                word, _, value = self.read_line().partition(" ")
                if word == "port":
                    self.port = value
                elif word == "driver":
                    self.driver = value
            if peer.driver and self.driver != peer.driver:
                self.fail(f"has the driver {self.driver}, not {peer.driver}")
        except BenchError:
            self.kill()
            raise

    def cpu_ns(self):
        host.await_asleep(self.pid)
        return host.cpu_ns(self.pid)

    def private_bytes(self):
        host.await_asleep(self.pid)
        return host.private_bytes(self.pid)


class Load(Program):
    def __init__(self, machine, build, server, *arguments, cpus=None):
        super().__init__(machine, [str(build.program("load")), server.port, *map(str, arguments)], cpus)

    def await_ready(self):
        if self.read_line() != "ready":
            self.fail("is not ready")

    def ask(self, command):
        """The messages echoed and the seconds it took."""
        self.write_line(command)
        answer = self.read_line().split()
        if len(answer) != 3 or answer[0] != "done" or int(answer[1]) == 0:
            self.fail(f"answered {command!r} with {answer}")
        return int(answer[1]), int(answer[2]) / 1e9


def run_to_end(machine, build, peer, suite, *arguments, cpus=None):
    """A program that measures itself: its "NAME VALUE" lines as a dictionary."""
    name = f"{peer.source}_{suite}"
    with Program(machine, [str(build.program(name)), *map(str, arguments)], cpus, peer.driver) as program:
        lines = program.end()
    values = {}
    for line in lines:
        key, _, value = line.partition(" ")
        values[key] = float(value)
    if not values:
        raise BenchError(f"{name} printed nothing")
    return values
