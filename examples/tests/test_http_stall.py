"""http_server.c against those who connect and stall (slow-loris, and its kin): a thousand at a time, and others are served."""

import re
import resource
import socket
import time

from harness import HttpServer, expect, expect_equal, get, pattern, temporary_folder, test, wait_until, write_file

CLIENTS = 1000


def private_kib(server):
    """What the server's process has for itself alone."""
    with open(f"/proc/{server.process.pid}/smaps_rollup", encoding="ascii") as file:
        text = file.read()
    return sum(int(kib) for kib in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", text, re.MULTILINE))


def allow_descriptors(count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise AssertionError(f"the test needs {count} descriptors, and may have {hard}")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def is_closed(client):
    """Takes what came; whether the server has closed."""
    try:
        while True:
            data = client.socket.recv(1 << 16, socket.MSG_DONTWAIT)
            if not data:
                return True
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def stall(server, attackers, trickle=None):
    """Until the server has closed them all; others are served meanwhile."""
    open_ones = list(attackers)
    while open_ones:
        expect_equal(server.get("/file").body, b"inside")
        left = []
        for attacker in open_ones:
            try:
                if trickle is not None:
                    attacker.socket.send(trickle, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionError):
                pass
            if is_closed(attacker):
                attacker.close()
            else:
                left.append(attacker)
        open_ones = left
        time.sleep(0.05)


def a_thousand(first_words, trickle, each_kib_max, what):
    """They say their first words, one of those given, and then a byte now and then, or nothing."""
    allow_descriptors(CLIENTS + 200)
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        with HttpServer(root, "--header-timeout", "4", "--idle", "4") as server:
            expect_equal(server.get("/file").status, 200)
            descriptors, memory = server.descriptors(), private_kib(server)
            attackers = []
            for number in range(CLIENTS):
                attackers.append(server.client())
                attackers[-1].send(first_words[number % len(first_words)])
            # On a machine that is slow enough the first are closed before the last have come.
            wait_until(lambda: server.descriptors() >= descriptors + CLIENTS // 2 or is_closed(attackers[0]), "they are there")
            each = (private_kib(server) - memory) / CLIENTS
            expect(each <= each_kib_max, each, "KiB for each that", what)
            stall(server, attackers, trickle)
            wait_until(lambda: server.descriptors() <= descriptors, "descriptors as before")
            expect_equal(server.get("/file").body, b"inside")


@test
def a_thousand_who_say_nothing_are_closed_and_others_are_served():
    a_thousand([b""], None, 4, "says nothing")


@test
def a_thousand_requests_that_trickle_in_are_cut_off_and_others_are_served():
    header = b"GET /file HTTP/1.1\r\nX: "
    body = get("/x", "Content-Length: 1000000", method="POST")
    a_thousand([header, body], b"x", 8, "trickles")


@test
def those_who_never_read_hold_bounded_memory_until_their_timeout():
    clients, file_bytes = 200, 8 * 1024 * 1024
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        write_file(root, "big", pattern(file_bytes))
        with HttpServer(root, "--idle", "4") as server:
            expect_equal(server.get("/file").status, 200)
            descriptors, memory = server.descriptors(), private_kib(server)
            attackers = [server.client(receive_buffer=4096) for _ in range(clients)]
            for attacker in attackers:
                attacker.send(get("/big") * 50)
            wait_until(lambda: server.descriptors() >= descriptors + clients, "all are accepted")
            # As the program's first comment says: 16 + 64 KiB of held requests, 128 KiB of a file, 65 KiB queued.
            each = (private_kib(server) - memory) / clients
            expect(each <= 16 + 64 + 128 + 65, each, "KiB for each that never reads")
            for _ in range(20):
                expect_equal(server.get("/file").body, b"inside")
            wait_until(lambda: server.descriptors() <= descriptors, "all are closed")
            for attacker in attackers:
                attacker.close()


@test
def who_takes_all_descriptors_holds_them_for_one_timeout():
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        with HttpServer(root, "--header-timeout", "1", "--idle", "1", descriptors=64) as server:
            attackers = [server.client() for _ in range(120)]
            for attacker in attackers[::2]:
                attacker.send(b"GET /")
            # Waits in the backlog until those before it have been closed.
            expect_equal(server.get("/file").body, b"inside")
            wait_until(lambda: all(is_closed(attacker) for attacker in attackers), "all are closed")
            for attacker in attackers:
                attacker.close()
            expect_equal(server.get("/file").body, b"inside")
