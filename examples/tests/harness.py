"""What the tests share: their list, their bounds, the programs they start, and an HTTP client that hides nothing."""

import contextlib
import os
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import traceback

EXAMPLES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(os.path.dirname(EXAMPLES), "build", "examples")
DEADLINE = 60  # seconds that anything awaited may take on a slow, busy machine before it counts as a hang

prefix = None
tests = []


class TimeIsUp(BaseException):
    """Not an Exception, so that no handler in a test takes it for a failure of a client."""


def test(function=None, *, seconds=DEADLINE):
    """Registers a test: one behaviour, named by the function."""
    if function is None:
        return lambda inner: test(inner, seconds=seconds)
    tests.append((function.__name__, function, seconds))
    return function


def run(word):
    passed = failed = 0

    def time_is_up(*_):
        raise TimeIsUp

    signal.signal(signal.SIGALRM, time_is_up)
    for name, function, seconds in tests:
        if word not in name and not name.startswith("build_"):
            continue
        start = time.monotonic()
        signal.alarm(seconds)
        try:
            function()
            error = None
        except TimeIsUp:
            error = f"took longer than {seconds} seconds\n" + traceback.format_exc()
        except Exception:
            error = traceback.format_exc()
        finally:
            signal.alarm(0)
        took = time.monotonic() - start
        if error is None:
            passed += 1
            print(f"ok      {name} ({took:.1f} s)")
        else:
            failed += 1
            print(f"FAILED  {name} ({took:.1f} s)\n{error}")
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed > 0 else 1


def expect(condition, *what):
    """Like assert, but also under python -O, and with what was seen."""
    if not condition:
        raise AssertionError(" ".join(str(part) for part in what) or "not as expected")


def expect_equal(seen, wanted, *what):
    if seen != wanted:
        raise AssertionError(f"{' '.join(str(part) for part in what)}: {shorten(seen)} instead of {shorten(wanted)}")


def shorten(value):
    text = repr(value)
    return text if len(text) <= 600 else f"{text[:300]} ... {text[-200:]} ({len(text)} characters)"


def wait_until(condition, what, seconds=DEADLINE):
    """For what the system gives no event for: asks again until it is so."""
    end = time.monotonic() + seconds
    while not condition():
        expect(time.monotonic() < end, "waited in vain:", what)
        time.sleep(0.01)


@contextlib.contextmanager
def temporary_folder():
    path = tempfile.mkdtemp(prefix="kolo-examples-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def write_file(folder, name, content=b""):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return path


def pattern(length, seed=1):
    """Bytes of which no two places look alike."""
    return (b"".join(struct.pack("<IQ", seed, i) for i in range(length // 12 + 1)))[:length]


# ---- programs -------------------------------------------------------------------------------------------------------


def environment():
    return dict(os.environ, LD_LIBRARY_PATH=os.path.join(prefix, "lib"), LC_ALL="C.UTF-8")


def command(name, *arguments, valgrind=False):
    line = [os.path.join(BUILD, "gcc", name), *map(str, arguments)]
    if valgrind:
        line = ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full", "--track-fds=no",
                "--errors-for-leak-kinds=definite,indirect,possible", "--exit-on-first-error=no", *line]
    return line


def run_program(name, *arguments, stdin=None, valgrind=False, seconds=DEADLINE):
    """Runs an example to its end. stdin: bytes, or an open file."""
    given = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin or subprocess.DEVNULL}
    return subprocess.run(command(name, *arguments, valgrind=valgrind), capture_output=True, timeout=seconds,
                          env=environment(), check=False, **given)


class Program:
    """An example that runs until it is stopped. Its lines are read as they come."""

    def __init__(self, name, *arguments, valgrind=False, descriptors=None, stdin=subprocess.DEVNULL):
        def limit():
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        self.process = subprocess.Popen(command(name, *arguments, valgrind=valgrind), stdin=stdin,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
                                        preexec_fn=limit)
        self.changed = threading.Condition()
        self.lines = {"out": [], "err": []}
        self.readers = [threading.Thread(target=self._read, args=args, daemon=True)
                        for args in ((self.process.stdout, "out"), (self.process.stderr, "err"))]
        for reader in self.readers:
            reader.start()

    def _read(self, pipe, which):
        for line in pipe:
            with self.changed:
                self.lines[which].append(line.decode("utf-8", "replace").rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.lines[which].append(None)  # the end
            self.changed.notify_all()

    def wait_line(self, expression, which="out", seconds=DEADLINE):
        """Waits for a line in which the expression is found, among those already there too."""
        def find():
            for line in self.lines[which]:
                found = line is not None and re.search(expression, line)
                if found:
                    return found
            return None if None not in self.lines[which] else False

        with self.changed:
            self.changed.wait_for(lambda: find() is not None, seconds)
            found = find()
            expect(found, "no line like", expression, "in", self.lines)
            return found

    def output(self, which="out"):
        with self.changed:
            return [line for line in self.lines[which] if line is not None]

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds=DEADLINE):
        status = self.process.wait(seconds)
        for reader in self.readers:
            reader.join(seconds)
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def _proc(self, name):
        with open(f"/proc/{self.process.pid}/{name}", encoding="ascii") as file:
            return file.read()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu_ticks(self):
        fields = self._proc("stat").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])  # utime, stime

    def peak_memory_kib(self):
        return int(re.search(r"VmHWM:\s+(\d+) kB", self._proc("status")).group(1))


class HttpServer(Program):
    """examples/http_server on a free port. Leaving it with no error also checks that it ends in order."""

    def __init__(self, root, *options, binary="http_server", quiet=True, **more):
        options = list(options) + (["--quiet"] if quiet else [])
        super().__init__(binary, "--port", "0", "--root", root, *options, **more)
        try:
            found = self.wait_line(r"^Serving (.+) at (http://(.+):(\d+)/)$")
        except BaseException:
            self.process.kill()
            raise
        self.root, self.url, self.host, self.port = found.group(1), found.group(2), found.group(3), int(found.group(4))
        # What the server tried out at its start is closed by another thread; tests count descriptors from here.
        wait_until(lambda: self._folders() <= 2, "the root, and the root as a file")

    def _folders(self):
        folder = f"/proc/{self.process.pid}/fd"
        links = []
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(os.path.join(folder, name)))
        return links.count(os.path.realpath(self.root))

    def client(self, **options):
        return Client(self.port, **options)

    def ask(self, request, **options):
        """One request on a connection of its own."""
        with self.client() as client:
            client.send(request)
            return client.reply(**options)

    def get(self, path, *fields, method="GET"):
        return self.ask(get(path, *fields, method=method, close=True), head=method == "HEAD")

    def stop(self, number=signal.SIGINT):
        self.signal(number)
        expect_equal(self.wait(), 0, "exit status of the server", self.output("err")[-20:])

    def __exit__(self, kind, *_):
        try:
            if kind is None and self.process.poll() is None:
                self.stop()
        finally:
            super().__exit__(kind)


# ---- an HTTP client --------------------------------------------------------------------------------------------------


def get(path, *fields, method="GET", version="1.1", close=False):
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *fields]
    if close:
        lines.append("Connection: close")
    return "\r\n".join(lines + ["", ""]).encode("latin-1")


class Reply:
    def __init__(self, status, fields, body):
        self.status, self.fields, self.body = status, fields, body

    def __getitem__(self, name):
        return self.fields.get(name.lower())

    def __repr__(self):
        return f"<{self.status} {self.fields} {shorten(self.body)}>"


class Ended(Exception):
    """The server has closed the connection where a reply was expected to begin."""


class Client:
    def __init__(self, port, host="127.0.0.1", receive_buffer=None):
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.socket.settimeout(DEADLINE)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def close(self):
        self.socket.close()

    def reset(self):
        """Leaves without a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def end(self):
        self.socket.shutdown(socket.SHUT_WR)

    def send_what_fits(self, data, quiet_seconds=2):
        """Sends until the server has taken nothing for a while; gives how much went."""
        self.socket.setblocking(False)
        sent = 0
        while sent < len(data) and select.select([], [self.socket], [], quiet_seconds)[1]:
            sent += self.socket.send(data[sent:sent + 65536])
        self.socket.settimeout(DEADLINE)
        return sent

    def _more(self):
        data = self.socket.recv(1 << 20)
        self.unread += data
        return len(data) > 0

    def reply(self, head=False, body=None):
        """Reads one reply. The body goes to `body(piece)` where that is given."""
        while b"\r\n\r\n" not in self.unread:
            if not self._more():
                if self.unread:
                    raise AssertionError(f"half a header: {self.unread!r}")
                raise Ended
        header, self.unread = self.unread.split(b"\r\n\r\n", 1)
        lines = header.decode("latin-1").split("\r\n")
        found = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z ]+", lines[0])
        expect(found, "status line", lines[0])
        status, fields = int(found.group(1)), {}
        for line in lines[1:]:
            name, colon, value = line.partition(": ")
            expect(colon and re.fullmatch(r"[A-Za-z-]+", name), "field", line)
            expect(name.lower() not in fields, "field twice", line)
            fields[name.lower()] = value
        expect("date" in fields, "no Date in", fields)
        if status in (204, 304) or head:
            return Reply(status, fields, b"")
        left, pieces = int(fields["content-length"]), []
        while left > 0:
            if not self.unread and not self._more():
                raise AssertionError(f"{left} bytes are missing of a body of {fields['content-length']}")
            piece, self.unread = self.unread[:left], self.unread[left:]
            left -= len(piece)
            (body or pieces.append)(piece)
        return Reply(status, fields, b"".join(pieces))

    def expect_end(self):
        """The server must close, in order, and say nothing more."""
        while self._more():
            pass
        expect_equal(self.unread, b"", "said before closing")

    def replies_until_end(self):
        """All the replies until the server closes (a reset is as good: it may still have had input to read)."""
        replies = []
        while True:
            try:
                replies.append(self.reply())
            except (Ended, ConnectionResetError):
                return replies
