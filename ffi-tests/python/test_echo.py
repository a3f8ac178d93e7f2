#!/usr/bin/env python3
"""Runs the Python echo server and client as processes, and checks the declarations against the header."""

import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import kolo  # noqa: E402

SECONDS = 120  # for anything at all to happen


class Program:
    """A process whose lines are awaited, never slept for."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True, cwd=HERE)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.split())
        self.lines.put(None)

    def line(self, first_word):
        """The next line that begins with this word."""
        while True:
            words = self.lines.get(timeout=SECONDS)
            assert words is not None, "ended before it said %r: %s" % (first_word, self.process.stderr.read())
            if words[0] == first_word:
                return words

    def end(self):
        status = self.process.wait(timeout=SECONDS)
        errors = self.process.stderr.read()
        assert status == 0, "status %d: %s" % (status, errors)
        assert errors == "", errors

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()


def fields(words):
    """"ended accepted 4 echoed 8000" as a dict of numbers."""
    return {name: int(value) for name, value in zip(words[1::2], words[2::2])}


def test_megabytes_are_echoed_byte_for_byte():
    connections, length = 4, 2_000_000
    with Program("echo_server.py", "--statistics-ms", "20") as server:
        port = server.line("listening")[1]
        with Program("echo_client.py", port, "--connections", str(connections), "--bytes", str(length)) as client:
            assert client.line("ok")[1] == str(connections * length)
            client.end()
        server.line("statistics")
        server.process.send_signal(signal.SIGTERM)
        ended = fields(server.line("ended"))
        server.end()
    assert ended["accepted"] == connections and ended["echoed"] == connections * length, ended
    assert ended["left"] == 0 and ended["reports"] >= 1, ended


def test_the_statistics_timer_goes_on():
    with Program("echo_server.py", "--statistics-ms", "5") as server:
        server.line("listening")
        for number in range(1, 6):
            assert int(server.line("statistics")[1]) == number
        server.process.send_signal(signal.SIGINT)
        server.line("ended")
        server.end()


def test_idle_connections_are_closed():
    with Program("echo_server.py", "--idle-ms", "50") as server:
        port = int(server.line("listening")[1])
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as idle:
            idle.sendall(b"once")
            got = b""
            while len(got) < 4:
                got += idle.recv(10)
            assert got == b"once"
            assert idle.recv(10) == b""  # closed by the server, which heard nothing more
        server.process.send_signal(signal.SIGTERM)
        ended = fields(server.line("ended"))
        server.end()
    assert ended["idled"] == 1, ended


def test_the_server_drains_before_it_ends():
    with Program("echo_server.py") as server:
        port = int(server.line("listening")[1])
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as last:
            last.sendall(b"a")
            assert last.recv(1) == b"a"  # accepted
            server.process.send_signal(signal.SIGTERM)
            last.sendall(b"b")
            assert last.recv(1) == b"b"
            last.shutdown(socket.SHUT_WR)
            assert last.recv(1) == b""
        assert fields(server.line("ended"))["accepted"] == 1
        server.end()


def test_a_refused_connection_is_an_exception():
    holder = socket.socket()  # bound, not listening
    with holder:
        holder.bind(("127.0.0.1", 0))
        with Program("echo_client.py", str(holder.getsockname()[1]), "--connections", "1") as client:
            assert client.process.wait(timeout=SECONDS) == 1
            assert "connection 1: connection refused" in client.process.stderr.read()


def test_exceptions_in_callbacks_come_out_of_run():
    loop = kolo.Loop()

    def fail(*_):
        raise ValueError("from a callback")

    callback = kolo.TimerCallback(loop.guard(fail))
    timer = kolo.Handle()
    kolo.kolo_timer_open(loop, callback, None, kolo.byref(timer))
    kolo.kolo_timer_start(loop, timer, 0, 0)
    try:
        loop.run()
        raise AssertionError("no exception")
    except ValueError as failure:
        assert str(failure) == "from a callback"
    loop.close()


def test_errors_are_exceptions():
    loop = kolo.Loop()
    try:
        kolo.kolo_close(loop, 12345)
        raise AssertionError("no exception")
    except kolo.Error as failure:
        assert failure.code == kolo.EBADF
    loop.close()
    try:
        kolo.kolo_loop_run(loop, kolo.RUN_DEFAULT)
        raise AssertionError("no exception")
    except kolo.Error as failure:
        assert failure.code == kolo.EBADF


def test_posting_from_threads():
    loop = kolo.Loop()
    remote = kolo.c_void_p()
    kolo.kolo_loop_remote(loop, kolo.byref(remote))
    seen = []
    callback = kolo.PostCallback(loop.guard(lambda _loop, status, user: seen.append((status, user))))
    threads = [threading.Thread(target=lambda: [kolo.kolo_remote_post(remote, callback, i) for i in range(1, 101)])
               for _ in range(3)]
    timer = kolo.Handle()
    nothing = kolo.TimerCallback(lambda *_: None)
    kolo.kolo_timer_open(loop, nothing, None, kolo.byref(timer))
    kolo.kolo_timer_start(loop, timer, 3600 * kolo.SECOND, 0)
    for thread in threads:
        thread.start()
    while len(seen) < 300:
        loop.run(kolo.RUN_ONCE)
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted([(0, i) for i in range(1, 101)] * 3)
    kolo.kolo_remote_release(remote)
    loop.close()


def test_the_declarations_are_those_of_the_header():
    """A C program prints what the header says: sizes, places of members, constants."""
    structs = {"kolo_address": kolo.Address, "kolo_buffer": kolo.Buffer, "kolo_loop_options": kolo.LoopOptions,
               "kolo_metrics": kolo.Metrics, "kolo_stream_handler": kolo.StreamHandler,
               "kolo_listen_options": kolo.ListenOptions, "kolo_connect_options": kolo.ConnectOptions,
               "kolo_listener_handler": kolo.ListenerHandler}
    constants = ["OK", "EBADF", "EPIPE", "ECONNRESET", "ETIMEDOUT", "ECONNREFUSED", "ECANCELED", "RUN_DEFAULT",
                 "RUN_ONCE", "RUN_NOWAIT", "TIMEOUT_READ", "TIMEOUT_WRITE", "FAMILY_IPV4", "FAMILY_IPV6",
                 "ADDRESS_TEXT_MAX"]
    expected = {}
    lines = ["#include <kolo.h>", "#include <stdio.h>", "int main(void) {"]

    def line(name, expression, value):
        lines.append('    printf("%%s %%lld\\n", "%s", (long long)(%s));' % (name, expression))
        expected[name] = value

    for name, struct in structs.items():
        line(name, "sizeof(%s)" % name, kolo.sizeof(struct))
        for field, *_ in struct._fields_:
            line("%s.%s" % (name, field), "offsetof(%s, %s)" % (name, field), getattr(struct, field).offset)
            line("sizeof %s.%s" % (name, field), "sizeof(((%s *)0)->%s)" % (name, field), getattr(struct, field).size)
    for name in constants:
        line(name, "KOLO_" + name, getattr(kolo, name))
    lines += ["    return 0;", "}", ""]
    with tempfile.TemporaryDirectory() as folder:
        source, program = os.path.join(folder, "layout.c"), os.path.join(folder, "layout")
        with open(source, "w", encoding="ascii") as file:
            file.write("\n".join(lines))
        include = os.path.dirname(os.environ["KOLO_HEADER"])
        subprocess.run(["gcc", "-I", include, source, "-o", program], check=True, timeout=SECONDS)
        printed = subprocess.run([program], check=True, timeout=SECONDS, stdout=subprocess.PIPE, text=True).stdout
    found = {}
    for text in printed.splitlines():
        name, value = text.rsplit(" ", 1)
        found[name] = int(value)
    differing = {name: (found.get(name), value) for name, value in expected.items() if found.get(name) != value}
    assert not differing, "header, declared here: %s" % differing
    assert len(expected) > 60


def main():
    failed = 0
    for name, test in list(globals().items()):
        if not name.startswith("test_"):
            continue
        try:
            test()
            print("ok     python/%s" % name[5:], flush=True)
        except Exception:  # each test stands for itself
            traceback.print_exc(file=sys.stdout)
            print("FAILED python/%s" % name[5:], flush=True)
            failed += 1
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
