"""The scenarios with datagrams: processor time for each that came, of an echo and of a flood's two sides."""

import contextlib
import time
from dataclasses import dataclass

from . import machine as host
from .build import EPOLL, KOLO, LIBUV, LIBUV_AGAIN
from .machine import BenchError
from .network import REST_SHARE, WARM_UP_MS
from .programs import Program

DATAGRAM_PEERS = [KOLO, LIBUV, LIBUV_AGAIN, EPOLL]
EPOCHS = 4
SLICE_MS = 100
ROUNDS = 32


@dataclass(frozen=True)
class Datagrams:
    name: str
    title: str
    bytes: int
    sockets: int = 0  # of the load; 0: a flood
    window: int = 0  # datagrams on their way on each of them


DATAGRAMS = [
    Datagrams("udp-echo-64", "echo, 64 B, 64 from one peer", 64, 1, 64),
    Datagrams("udp-echo-1200", "echo, 1200 B, 64 from one peer", 1200, 1, 64),
    Datagrams("udp-echo-peers", "echo, 64 B, one from each of 64 peers", 64, 64, 1),
    Datagrams("udp-flood-64", "flood, 64 B", 64),
    Datagrams("udp-flood-1200", "flood, 1200 B", 1200),
]


class DatagramProgram(Program):
    """One of a peer's programs: its port comes first."""

    def __init__(self, context, peer, *arguments):
        command = [str(context.build.program(f"{peer.source}_udp")), *map(str, arguments)]
        super().__init__(context.machine, command)
        try:
            word, _, self.port = self.read_line().partition(" ")
            if word != "port":
                self.fail("tells no port")
        except BenchError:
            self.kill()
            raise

    def ask(self, command):
        self.write_line(command)
        return self.read_line().split()

    def cpu_ns(self):
        host.await_asleep(self.pid)
        return host.cpu_ns(self.pid)


class EchoPair:
    """An echo server and the load for it."""

    def __init__(self, context, stack, peer, scenario):
        self.server = stack.enter_context(DatagramProgram(context, peer, "echo"))
        command = [str(context.build.program("udp_load")), self.server.port, scenario.bytes, scenario.sockets, scenario.window]
        self.load = stack.enter_context(Program(context.machine, list(map(str, command))))
        if self.load.read_line() != "ready":
            self.load.fail("is not ready")

    def measure(self, slice_ms):
        before = self.server.cpu_ns()
        self.load.write_line(f"slice {slice_ms}")
        answer = self.load.read_line().split()
        if len(answer) != 4 or answer[0] != "done" or int(answer[1]) == 0:
            self.load.fail(f"answered {answer}")
        echoed, lost = int(answer[1]), int(answer[3])
        return {"cost": (self.server.cpu_ns() - before) / 1e9 / echoed, "lost": lost / (echoed + lost)}


class FloodPair:
    """The two sides of a flood, both the peer's."""

    def __init__(self, context, stack, peer, scenario):
        self.sink = stack.enter_context(DatagramProgram(context, peer, "sink", scenario.bytes))
        self.flood = stack.enter_context(DatagramProgram(context, peer, "flood", self.sink.port, scenario.bytes))

    def received(self):
        word, count, _, wrong = self.sink.ask("count")
        if word != "received" or wrong != "0":
            self.sink.fail(f"received {wrong} wrong datagrams")
        return int(count)

    def measure(self, slice_ms):
        came = self.received()
        before_sink, before_flood = self.sink.cpu_ns(), self.flood.cpu_ns()
        answer = self.flood.ask(f"slice {slice_ms}")
        if len(answer) != 3 or answer[0] != "done" or int(answer[1]) == 0:
            self.flood.fail(f"answered {answer}")
        sending, receiving = self.flood.cpu_ns() - before_flood, self.sink.cpu_ns() - before_sink
        sent, came = int(answer[1]), self.received() - came
        if came == 0:
            self.sink.fail("nothing came")
        costs = {"sending": sending / 1e9 / sent, "receiving": receiving / 1e9 / came, "cost": (sending + receiving) / 1e9 / came}
        return {**costs, "lost": 1 - came / sent}


def measure_datagrams(context, scenario):
    """All pairs stay up; in each round each gets a slice, in random order."""
    found = {}
    peers = [peer for peer in DATAGRAM_PEERS if peer in context.peers]
    epochs = 1 if context.quick else EPOCHS
    rounds = context.rounds_of(ROUNDS, quick=3)
    slice_ms = 20 if context.quick else SLICE_MS
    kind = EchoPair if scenario.sockets else FloodPair
    for epoch in range(epochs):
        with contextlib.ExitStack() as stack:
            pairs = {peer: kind(context, stack, peer, scenario) for peer in context.shuffled(peers)}
            for pair in pairs.values():
                pair.measure(WARM_UP_MS)
            for _ in range(rounds * epoch // epochs, rounds * (epoch + 1) // epochs):
                for peer in context.shuffled(peers):
                    time.sleep(slice_ms * REST_SHARE / 1000)
                    for key, value in pairs[peer].measure(slice_ms).items():
                        found.setdefault(peer.label, {}).setdefault(key, []).append(value)
    return found
