#!/usr/bin/env python3
"""An echo client on kolo: several connections, some megabytes each, every byte compared.

    echo_client.py PORT [--connections N] [--bytes N]

Prints "ok BYTES" and ends with status 0, or says what went wrong.
"""

import argparse
import ctypes
import hashlib
import sys
from ctypes import byref

import kolo

PIECE = 60_000


def pattern(seed, length):
    """Bytes that depend on the connection, with no short period."""
    out = bytearray()
    block = 0
    while len(out) < length:
        out += hashlib.sha512(b"%d.%d" % (seed, block)).digest()
        block += 1
    return bytes(out[:length])


class Connection:
    def __init__(self, client, seed, length):
        self.client = client
        self.expected = pattern(seed, length)
        self.sent = self.received = self.pieces = 0
        self.ended = self.closed = False
        self.stream = kolo.Handle()

    def send(self):
        loop = self.client.loop
        while self.sent < len(self.expected):
            piece = self.expected[self.sent:self.sent + PIECE]
            self.sent += len(piece)
            self.pieces += 1
            if self.pieces % 5 == 0:  # now and then without a copy: the memory stays ours until on_written
                memory = ctypes.create_string_buffer(piece, len(piece))
                self.client.written[self.client.writes] = memory
                buffer = kolo.Buffer(ctypes.addressof(memory), len(piece))
                full = kolo.kolo_stream_write_owned(loop, self.stream, byref(buffer), 1, self.client.write_callback,
                                                    self.client.writes, None)
                self.client.writes += 1
            else:
                full = kolo.kolo_stream_write(loop, self.stream, piece, len(piece))
            if full == 1:
                return  # on_drain goes on
        kolo.kolo_stream_shutdown(loop, self.stream, kolo.WriteCallback(), None)


class Client:
    def __init__(self, loop, port, count, length):
        self.loop = loop
        self.writes = 1  # numbers of owned writes
        self.written = {}  # number -> memory that kolo still reads
        guard = loop.guard
        self.handler = kolo.handler(
            kolo.StreamHandler, on_open=guard(self.on_open), on_data=guard(self.on_data), on_end=guard(self.on_end),
            on_drain=guard(self.on_drain), on_error=guard(self.on_error), on_close=guard(self.on_close))
        self.write_callback = kolo.WriteCallback(guard(self.on_written))
        self.timer_callback = kolo.TimerCallback(guard(self.on_deadline))
        self.connections = [Connection(self, seed, length) for seed in range(count)]
        address = kolo.parse_address("127.0.0.1", port)
        options = kolo.ConnectOptions(size=ctypes.sizeof(kolo.ConnectOptions), timeout_ns=60 * kolo.SECOND)
        for number, connection in enumerate(self.connections):
            kolo.kolo_tcp_connect(loop, byref(address), byref(options), byref(self.handler), number + 1,
                                  byref(connection.stream))
        self.deadline = kolo.Handle()
        kolo.kolo_timer_open(loop, self.timer_callback, None, byref(self.deadline))
        kolo.kolo_timer_start(loop, self.deadline, 120 * kolo.SECOND, 0)

    def of(self, user):
        return self.connections[user - 1]

    def on_open(self, _loop, _stream, user):
        self.of(user).send()

    def on_drain(self, _loop, _stream, user):
        connection = self.of(user)
        if connection.sent < len(connection.expected):
            connection.send()

    def on_data(self, _loop, _stream, data, length, user):
        connection = self.of(user)
        got = ctypes.string_at(data, length)
        want = connection.expected[connection.received:connection.received + length]
        if got != want:
            raise AssertionError("connection %d: other bytes after %d" % (user, connection.received))
        connection.received += length

    def on_end(self, _loop, stream, user):
        self.of(user).ended = True
        kolo.kolo_close(self.loop, stream)

    def on_error(self, _loop, _stream, error, user):
        raise kolo.Error(error, "connection %d" % user)

    def on_close(self, _loop, _stream, user):
        self.of(user).closed = True
        if all(connection.closed for connection in self.connections):
            kolo.kolo_close(self.loop, self.deadline)

    def on_written(self, _loop, _stream, status, user):
        del self.written[user]
        if status < 0:
            raise kolo.Error(status, "write %d" % user)

    def on_deadline(self, _loop, _timer, _user):
        raise AssertionError("the deadline has passed")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("port", type=int)
    arguments.add_argument("--connections", type=int, default=4)
    arguments.add_argument("--bytes", type=int, default=2_000_000)
    options = arguments.parse_args()
    loop = kolo.Loop()
    client = Client(loop, options.port, options.connections, options.bytes)
    try:
        loop.run()
    except (AssertionError, kolo.Error) as failure:
        sys.exit(str(failure))
    for number, connection in enumerate(client.connections):
        if not connection.ended or connection.received != options.bytes:
            sys.exit("connection %d: %d of %d bytes" % (number, connection.received, options.bytes))
    if client.written:
        sys.exit("%d owned writes never completed" % len(client.written))
    loop.close()
    print("ok", sum(connection.received for connection in client.connections))


if __name__ == "__main__":
    main()
