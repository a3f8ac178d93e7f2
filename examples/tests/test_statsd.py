"""The statsd pair: the server with plain sockets and hostile datagrams, the client with it and with nobody."""

import re
import signal
import socket

from harness import Program, expect, expect_equal, run_program, test


class StatsdServer(Program):
    def __init__(self, seconds=3600, **more):
        super().__init__("statsd_server", "0", seconds, **more)
        self.port = int(self.wait_line(r"^statsd server on 127\.0\.0\.1:(\d+)$").group(1))

    def stop(self):
        """What it prints at its end, as a dictionary by name."""
        self.signal(signal.SIGTERM)
        expect_equal(self.wait(), 0, self.output("err"))
        self.totals = [int(number) for number in re.findall(r"\d+", self.output()[-len(self._metrics()) - 1])]
        return dict(self._metrics())

    def _metrics(self):
        lines = self.output()
        last = max(number for number, line in enumerate(lines) if " datagrams, " in line)
        return [tuple(line.strip().split(" ", 1)) for line in lines[last + 1:]]


def send(server, *datagrams):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in datagrams:
            sender.sendto(datagram, ("127.0.0.1", server.port))


def check_totals(valgrind=False):
    with StatsdServer(valgrind=valgrind) as server:
        send(server, b"visits:1|c\nvisits:2|c|@0.5\nload:0.5|g\nquery:10|ms", b"query:30|ms\n", b"load:+1.25|g\nload:-0.5|g")
        send(server, *[b"visits:1|c"] * 50)
        found = server.stop()
        expect_equal(found, {"visits": "counted 55", "load": "is 1.25", "query": "took 20 ms on average, 10 to 30, 2 times"})
        expect_equal(server.totals, [53, 0, 0])


@test
def statsd_server_adds_up_what_comes():
    check_totals()


@test
def statsd_server_survives_what_is_no_metric():
    bad = [b"nothing", b":1|c", b"a:|c", b"a:1|", b"a:1|x", b"a:1|cc", b"a:nan|g", b"a:inf|c", b"a:0x10|c", b"a:1 |c", b"a:1|c|",
           b"a:1|c|@", b"a:1|c|@0", b"a:1|c|@2", b"a:1|c|0.5", b"a\0b:1|c", b"a:1\0|c", b"x" * 64 + b":1|c", b"a:" + b"1" * 40 + b"|c",
           b"a:1e999|c", b"|", b":|", b"a:1", b"\0", b"\xff\xfe:|"]
    with StatsdServer() as server:
        send(server, *bad, b"", b"\n\n\n", b"x" * 65507, b"\x1b[31mred:1|c\nend:1|c")
        found = server.stop()
        expect_equal(server.totals, [len(bad) + 4, len(bad) + 1, 0])
        expect_equal(found, {"?[31mred": "counted 1", "end": "counted 1"})


@test
def statsd_server_has_room_for_so_many_names_and_no_more():
    with StatsdServer() as server:
        for start in range(0, 2000, 100):
            send(server, b"\n".join(b"name%d:1|c" % number for number in range(start, start + 100)))
        found = server.stop()
        expect_equal((len(found), server.totals), (1024, [20, 0, 976]))


@test
def statsd_server_prints_every_interval_and_begins_anew():
    with StatsdServer(0.05) as server:
        send(server, b"first:1|c\nlevel:3|g")
        server.wait_line("first counted 1")
        send(server, b"second:1|c")
        server.wait_line("second counted 1")
        found = server.stop()
        expect("first" not in found, found)
        expect_equal(found["level"], "is 3")


@test
def statsd_server_says_when_its_port_is_taken():
    with StatsdServer() as server:
        done = run_program("statsd_server", server.port)
        expect_equal((done.returncode, done.stdout), (1, b""))
        expect(b"bind" in done.stderr, done.stderr)
        server.stop()


@test
def statsd_client_packs_its_metrics_into_few_datagrams():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(30)
        done = run_program("statsd_client", receiver.getsockname()[1], "--times", 500, "visits:1|c", "query:12|ms")
        expect_equal(done.returncode, 0, done.stderr)
        count = int(re.match(rb"(\d+) datagrams sent, 0 refused", done.stdout).group(1))
        datagrams = [receiver.recv(65536) for _ in range(count)]
        expect(all(len(datagram) <= 1432 for datagram in datagrams))
        expect_equal(b"\n".join(datagrams).split(b"\n"), [b"visits:1|c", b"query:12|ms"] * 500)
        expect(count <= 9, count)


@test
def statsd_client_and_server_work_together():
    with StatsdServer() as server:
        done = run_program("statsd_client", server.port, "--times", 1000, "visits:1|c", "query:2|ms")
        expect_equal((done.returncode, done.stderr), (0, b""))
        expect_equal(server.stop(), {"visits": "counted 1000", "query": "took 2 ms on average, 2 to 2, 1000 times"})


@test
def statsd_client_hears_that_nobody_is_there():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    done = run_program("statsd_client", port, "visits:1|c")
    expect_equal((done.returncode, done.stdout), (1, b"1 datagrams sent, 1 refused\n"))
    expect(b"connection refused" in done.stderr, done.stderr)


@test
def statsd_client_refuses_what_it_cannot_send():
    for arguments in [(), ("8125",), ("0", "a:1|c"), ("8125", "--times", "3"), ("8125", "x" * 1433), ("8125", "")]:
        expect_equal(run_program("statsd_client", *arguments).returncode, 2, arguments)


@test(seconds=180)
def valgrind_finds_nothing_in_the_statsd_pair():
    check_totals(valgrind=True)
    with StatsdServer(valgrind=True) as server:
        done = run_program("statsd_client", server.port, "--times", 300, "visits:1|c", valgrind=True)
        expect_equal(done.returncode, 0, done.stderr)
        expect_equal(server.stop(), {"visits": "counted 300"})
