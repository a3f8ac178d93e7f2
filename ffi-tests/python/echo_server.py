#!/usr/bin/env python3
"""An echo server on kolo: idle connections are closed after a while, and a timer writes statistics.

    echo_server.py [--idle-ms N] [--statistics-ms N]

Prints "listening PORT", then "statistics ..." lines; SIGTERM or SIGINT ends it after the connections have drained.
"""

import argparse
import ctypes
import itertools
import signal
from ctypes import byref

import kolo


class Connection:
    def __init__(self, server, stream):
        self.server = server
        self.stream = stream
        self.received = 0


class Server:
    def __init__(self, loop, idle_ms, statistics_ms):
        self.loop = loop
        self.idle_ns = idle_ms * kolo.MILLISECOND
        self.connections = {}  # number -> Connection; the number travels as `void *user`
        self.numbers = itertools.count(1)
        self.accepted = self.echoed = self.idled = self.reports = 0
        # One table of callbacks serves every connection: a ctypes callback object is not free.
        guard = loop.guard
        self.stream_handler = kolo.handler(
            kolo.StreamHandler, on_data=guard(self.on_data), on_drain=guard(self.on_drain),
            on_timeout=guard(self.on_timeout), on_error=guard(self.on_error), on_close=guard(self.on_close))
        self.listener_handler = kolo.handler(
            kolo.ListenerHandler, on_accept=guard(self.on_accept), on_error=guard(self.on_listener_error))
        self.statistics_callback = kolo.TimerCallback(guard(self.on_statistics))
        self.signal_callback = kolo.SignalCallback(guard(self.on_signal))

        self.listener = kolo.Handle()
        address = kolo.parse_address("127.0.0.1", 0)
        kolo.kolo_tcp_listen(loop, byref(address), None, byref(self.listener_handler), None, byref(self.listener))
        kolo.kolo_listener_address(loop, self.listener, byref(address))
        print("listening", address.port, flush=True)

        self.timer = kolo.Handle()
        kolo.kolo_timer_open(loop, self.statistics_callback, None, byref(self.timer))
        period = statistics_ms * kolo.MILLISECOND
        kolo.kolo_timer_start(loop, self.timer, period, period)
        kolo.kolo_unref(loop, self.timer)  # the statistics alone keep nothing alive

        for number in (signal.SIGINT, signal.SIGTERM):
            handle = kolo.Handle()
            kolo.kolo_signal_open(loop, self.signal_callback, None, byref(handle))
            kolo.kolo_signal_start(loop, handle, number)
            kolo.kolo_unref(loop, handle)

    def on_accept(self, _loop, _listener, stream, _user):
        number = next(self.numbers)
        self.connections[number] = Connection(self, stream)
        self.accepted += 1
        kolo.kolo_stream_attach(self.loop, stream, byref(self.stream_handler), number)
        kolo.kolo_stream_set_timeouts(self.loop, stream, self.idle_ns, 30 * kolo.SECOND)

    def on_data(self, _loop, stream, data, length, user):
        self.connections[user].received += length
        self.echoed += length
        if kolo.kolo_stream_write(self.loop, stream, ctypes.string_at(data, length), length) == 1:
            kolo.kolo_stream_read_stop(self.loop, stream)

    def on_drain(self, _loop, stream, _user):
        kolo.kolo_stream_read_start(self.loop, stream)

    def on_timeout(self, _loop, stream, which, _user):
        if which == kolo.TIMEOUT_READ:
            self.idled += 1
        kolo.kolo_close(self.loop, stream)

    def on_error(self, _loop, _stream, error, _user):
        print("error", kolo.kolo_error_name(error).decode(), flush=True)

    def on_close(self, _loop, _stream, user):
        del self.connections[user]

    def on_listener_error(self, _loop, _listener, error, _user):
        print("listener error", kolo.kolo_error_name(error).decode(), flush=True)

    def on_statistics(self, _loop, _timer, _user):
        self.reports += 1
        print("statistics", self.reports, "connections", len(self.connections), "bytes", self.echoed, flush=True)

    def on_signal(self, _loop, _signal, _number, _user):
        kolo.kolo_close(self.loop, self.listener)  # the loop ends when the last connection has


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--idle-ms", type=int, default=60000)
    arguments.add_argument("--statistics-ms", type=int, default=1000)
    options = arguments.parse_args()
    loop = kolo.Loop()
    server = Server(loop, options.idle_ms, options.statistics_ms)
    loop.run()
    print("ended accepted", server.accepted, "echoed", server.echoed, "idled", server.idled, "reports", server.reports,
          "left", len(server.connections), flush=True)
    loop.close()


if __name__ == "__main__":
    main()
