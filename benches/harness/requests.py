"""The scenarios with small requests: many in one write, each answered by a call of its own; and HTTP, asked by wrk."""

import contextlib
import pathlib
import re
import signal
import subprocess
import time
from dataclasses import dataclass

from .build import LIBUV_AGAIN, LIBUV_GATHERS
from .http_check import check_http
from .machine import BenchError
from .network import EPOCHS, REST_SHARE, WARM_UP_MS, measure_slice
from .programs import Load, Server

FRAME_BYTES = 64
DEPTH = 16
PIPELINED = pathlib.Path(__file__).resolve().parent.parent / "servers" / "pipelined.lua"
WRK_SECONDS_MAX = 60


@dataclass(frozen=True)
class Requests:
    name: str
    title: str
    protocol: str  # as the servers call it
    connections: int
    depth: int
    rounds: int
    slice_ms: int
    unit: str = "request"


REQUESTS = [
    Requests("pipeline-1", "1 × 16 frames", "frames", 1, DEPTH, 32, 60),
    Requests("pipeline-50", "50 × 16 frames", "frames", 50, DEPTH, 32, 60),
    Requests("http", "HTTP, 50 × 1", "http", 50, 1, 8, 400),
    Requests("http-pipelined", "HTTP, 50 × 16", "http", 50, DEPTH, 8, 400),
]


def request_peers(context):
    """Beside libuv as it is, libuv with a program that gathers the answers itself."""
    peers = [*context.peers]
    peers.insert(peers.index(LIBUV_AGAIN) + 1, LIBUV_GATHERS)
    return peers


def check_servers(context):
    for peer in request_peers(context):
        if peer is LIBUV_AGAIN:
            continue
        with Server(context.machine, context.build, peer, ("frames", *peer.flags), "requests") as server:
            with Load(context.machine, context.build, server, "check", FRAME_BYTES) as load:
                if load.read_line() != "ok":
                    load.fail("the check did not end well")
        with Server(context.machine, context.build, peer, ("http", *peer.flags), "requests") as server:
            check_http(server)


class FrameLoad:
    def __init__(self, context, stack, server, scenario):
        self.server = server
        arguments = ("pipeline", scenario.connections, FRAME_BYTES, scenario.depth)
        self.load = stack.enter_context(Load(context.machine, context.build, server, *arguments))
        self.load.await_ready()

    def measure(self, slice_ms):
        return measure_slice(self.server, self.load, slice_ms, 1)


class HttpLoad:
    """wrk, for one slice at a time. It ends by a signal, so that a slice may be shorter than its shortest, a second."""

    def __init__(self, context, _, server, scenario):
        self.server = server
        self.place = context.machine.place({context.machine.bench_cpu})
        self.command = ["wrk", "-t1", f"-c{scenario.connections}", f"-d{WRK_SECONDS_MAX}s"]
        if scenario.depth > 1:
            self.command += ["-s", str(PIPELINED)]
        self.command.append(f"http://127.0.0.1:{server.port}/")

    def measure(self, slice_ms):
        before = self.server.cpu_ns()
        process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=self.place)
        try:
            time.sleep(slice_ms / 1000)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=WRK_SECONDS_MAX)
        finally:
            process.kill()
            process.wait()
        found = re.search(r"^\s*(\d+) requests in ([\d.]+)(ms|s)", said, re.MULTILINE)
        if not found or int(found[1]) == 0 or "Non-2xx" in said or "Socket errors" in said:
            raise BenchError(f"wrk and {self.server.name}: {said}")
        requests, seconds = int(found[1]), float(found[2]) / (1000 if found[3] == "ms" else 1)
        return (self.server.cpu_ns() - before) / 1e9 / requests, requests / seconds


def measure_requests(context, scenario):
    """All servers stay up; in each round each gets a slice, in random order."""
    peers = request_peers(context)
    costs = {peer.label: [] for peer in peers}
    rates = {peer.label: [] for peer in peers}
    epochs = 1 if context.quick else EPOCHS
    rounds = context.rounds_of(scenario.rounds, quick=1)
    slice_ms = min(scenario.slice_ms, 150) if context.quick else scenario.slice_ms
    kind = HttpLoad if scenario.protocol == "http" else FrameLoad
    for epoch in range(epochs):
        with contextlib.ExitStack() as stack:
            loads = {}
            for peer in context.shuffled(peers):
                flags = (scenario.protocol, *peer.flags)
                server = stack.enter_context(Server(context.machine, context.build, peer, flags, "requests"))
                loads[peer] = kind(context, stack, server, scenario)
                if kind is FrameLoad:
                    loads[peer].measure(WARM_UP_MS)
            for _ in range(rounds * epoch // epochs, rounds * (epoch + 1) // epochs):
                for peer in context.shuffled(peers):
                    time.sleep(slice_ms * REST_SHARE / 1000)
                    cost, rate = loads[peer].measure(slice_ms)
                    costs[peer.label].append(cost)
                    rates[peer.label].append(rate)
    return {"costs": costs, "rates": rates}
