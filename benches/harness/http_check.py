"""Before anything is measured: does a server answer HTTP right, also when requests come in pieces, many at once, or broken?"""

import contextlib
import socket

from .machine import BenchError

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n"
LAST_REQUEST = b"GET /last HTTP/1.1\r\nHost: 127.0.0.1\r\nconnection: close\r\n\r\n"
BODY = b"Hello, world!\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n\r\n" + BODY
LAST_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 14\r\n\r\n" + BODY
BAD_ANSWER = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
SECONDS_MAX = 30
MANY = 100000  # their answers are more than the kernel's buffers hold
BROKEN = [b"\r\n\r\n", b"GET /\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\n\n", REQUEST[:-2] + b"Content-Length: 1\r\n\r\n", b"G" * 9000]


def check_http(server):
    def connect():
        return contextlib.closing(socket.create_connection(("127.0.0.1", int(server.port)), timeout=SECONDS_MAX))

    def expect(connection, wanted, what):
        came = b""
        while len(came) < len(wanted):
            some = connection.recv(1 << 20)
            if not some:
                break
            came += some
        if came != wanted:
            raise BenchError(f"{server.name}: {what}: {came[-200:]!r} instead of {wanted[-200:]!r}")

    def expect_end(connection, what):
        if connection.recv(1):
            raise BenchError(f"{server.name}: {what}: more than was asked for")

    try:
        with connect() as connection:
            connection.sendall(REQUEST)
            expect(connection, ANSWER, "one request")
            for byte in REQUEST:
                connection.sendall(bytes([byte]))
            expect(connection, ANSWER, "a request byte by byte")
            connection.sendall(REQUEST * 3 + REQUEST[:20])
            expect(connection, ANSWER * 3, "three requests at once")
            connection.sendall(REQUEST[20:] + REQUEST)
            connection.shutdown(socket.SHUT_WR)
            expect(connection, ANSWER * 2, "the rest of a request, and one more")
            expect_end(connection, "after the half-close")
        with connect() as connection:
            connection.sendall(REQUEST + LAST_REQUEST + REQUEST)
            expect(connection, ANSWER + LAST_ANSWER, "Connection: close")
            expect_end(connection, "after the last answer")
        for broken in BROKEN:
            with connect() as connection:
                connection.sendall(broken)
                expect(connection, BAD_ANSWER, f"the broken request {broken[:40]!r}")
                expect_end(connection, "after a broken request")
        with connect() as connection:
            connection.setblocking(False)
            unsent, came = memoryview(REQUEST * MANY), bytearray()
            with contextlib.suppress(BlockingIOError):
                while unsent:  # until the server holds back, since nobody reads its answers
                    unsent = unsent[connection.send(unsent) :]
            connection.settimeout(SECONDS_MAX)
            wanted = MANY * len(ANSWER)
            while len(came) < wanted:
                if unsent:
                    connection.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        unsent = unsent[connection.send(unsent[: 1 << 16]) :]
                    connection.settimeout(SECONDS_MAX)
                some = connection.recv(1 << 20)
                if not some:
                    break
                came += some
            if bytes(came) != ANSWER * MANY:
                raise BenchError(f"{server.name}: {MANY} requests at once: {len(came)} bytes instead of {wanted}, or wrong ones")
    except OSError as error:
        raise BenchError(f"{server.name}: {error}") from error
