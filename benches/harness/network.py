"""The scenarios with servers: correctness, processor time per message, system calls, memory."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass

from . import machine as host
from .build import KOLO, LIBUV_AGAIN
from .machine import BenchError
from .programs import Load, Server

WARM_UP_MS = 20
REST_SHARE = 0.1  # of a slice, before the next: the real-time processes must leave the kernel room


@dataclass(frozen=True)
class Echo:
    name: str
    title: str
    load: tuple  # the load's arguments
    unit: str  # what processor time is counted for
    messages_per_unit: float
    rounds: int
    slice_ms: int
    apart: bool = False  # the load on another processor than the server


MIB = 1024 * 1024
ECHOES = [
    Echo("echo-1", "1 × 64 B", ("echo", 1, 64, 1), "message", 1, 64, 60),
    Echo("echo-50", "50 × 64 B", ("echo", 50, 64, 1), "message", 1, 64, 60),
    Echo("echo-450", "450 × 64 B", ("echo", 450, 64, 1), "message", 1, 32, 100),
    Echo("echo-1000", "1000 × 64 B", ("echo", 1000, 64, 1), "message", 1, 32, 120),
    Echo("echo-5000", "5000 × 64 B", ("echo", 5000, 64, 1), "message", 1, 16, 250),
    Echo("echo-16k", "50 × 16 KiB", ("echo", 50, 16 * 1024, 1), "message", 1, 32, 100),
    Echo("stream", "streaming, 4", ("echo", 4, 64 * 1024, 4), "MiB", MIB / (64 * 1024), 32, 120),
    Echo("churn", "churn, 16", ("churn", 16, 64), "connection", 1, 32, 120),
]
APART = [
    Echo("apart-1", "1 × 64 B", ("echo", 1, 64, 1), "message", 1, 24, 60, apart=True),
    Echo("apart-50", "50 × 64 B", ("echo", 50, 64, 1), "message", 1, 24, 60, apart=True),
    Echo("apart-1000", "1000 × 64 B", ("echo", 1000, 64, 1), "message", 1, 24, 120, apart=True),
    Echo("apart-stream", "streaming, 4", ("echo", 4, 64 * 1024, 4), "MiB", MIB / (64 * 1024), 24, 120, apart=True),
]
CONNECTIONS_QUICK = 200
EPOCHS = 4  # each with new processes: where their memory happens to lie also counts


def check_servers(context):
    """Before anything is measured: is each of them a correct echo server, also under pressure?"""
    for peer in context.peers:
        if peer is LIBUV_AGAIN:
            continue
        for flags in [(), ("--timeouts",)] if peer.timeouts else [()]:
            with Server(context.machine, context.build, peer, flags) as server:
                with Load(context.machine, context.build, server, "check") as load:
                    if load.read_line() != "ok":
                        load.fail("the check did not end well")
                if peer is KOLO:
                    context.kolo_driver = server.driver


def measure_slice(server, load, slice_ms, messages_per_unit):
    """Processor seconds of the server for one unit, and units per second. All echoes are in when the load answers."""
    before = server.cpu_ns()
    messages, seconds = load.ask(f"slice {slice_ms}")
    used = server.cpu_ns() - before
    units = messages / messages_per_unit
    if used <= 0:
        raise BenchError(f"{server.name}: no processor time for {messages} messages: the kernel does not count it")
    return used / 1e9 / units, units / seconds


def measure_echo(context, scenario):
    """All servers stay up; in each round each gets a slice, in random order."""
    costs = {peer.label: [] for peer in context.peers}
    rates = {peer.label: [] for peer in context.peers}
    epochs = 1 if context.quick else EPOCHS
    rounds = context.rounds_of(scenario.rounds, quick=3)
    kind, connections, *sizes = scenario.load
    arguments = (kind, min(connections, CONNECTIONS_QUICK) if context.quick else connections, *sizes)
    cpus = context.machine.driver_cpus if scenario.apart else None
    slice_ms = 20 if context.quick else scenario.slice_ms
    for epoch in range(epochs):
        with contextlib.ExitStack() as stack:
            pairs = {}
            for peer in context.shuffled(context.peers):
                server = stack.enter_context(Server(context.machine, context.build, peer))
                load = stack.enter_context(Load(context.machine, context.build, server, *arguments, cpus=cpus))
                load.await_ready()
                measure_slice(server, load, WARM_UP_MS, scenario.messages_per_unit)
                pairs[peer] = server, load
            for _ in range(rounds * epoch // epochs, rounds * (epoch + 1) // epochs):
                for peer in context.shuffled(context.peers):
                    time.sleep(slice_ms * REST_SHARE / 1000)
                    cost, rate = measure_slice(*pairs[peer], slice_ms, scenario.messages_per_unit)
                    costs[peer.label].append(cost)
                    rates[peer.label].append(rate)
    return {"costs": costs, "rates": rates}


# ---- system calls ----


class Perf:
    """Counts system calls by the kernel's tracepoint, which hardly slows the server."""

    @staticmethod
    def works():
        if shutil.which("perf") is None:
            return False
        command = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "true"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        return result.returncode == 0 and re.search(r"^\d+,,raw_syscalls:sys_enter", result.stderr, re.MULTILINE) is not None

    def __init__(self, pid):
        control, self.commands = os.pipe()
        self.answers, acknowledge = os.pipe()
        command = ["perf", "stat", "-x,", "-D", "-1", "--control", f"fd:{control},{acknowledge}"]
        command += ["-e", "raw_syscalls:sys_enter", "-p", str(pid)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, pass_fds=(control, acknowledge))
        os.close(control)
        os.close(acknowledge)

    def say(self, command):
        os.write(self.commands, command.encode() + b"\n")
        if b"ack" not in os.read(self.answers, 64):
            raise BenchError(f"perf did not obey: {command}")

    def begin(self):
        self.say("enable")

    def end(self):
        self.say("disable")
        self.process.send_signal(signal.SIGINT)
        _, text = self.process.communicate(timeout=60)
        found = re.search(r"^(\d+),,raw_syscalls:sys_enter", text, re.MULTILINE)
        if not found:
            raise BenchError(f"perf counted nothing: {text}")
        return {"all": int(found.group(1))}

    def close(self):
        end_process(self.process)
        os.close(self.commands)
        os.close(self.answers)


class Strace:
    """Counts system calls by name. The server crawls meanwhile, so that its batches may differ."""

    def __init__(self, pid):
        self.summary = tempfile.NamedTemporaryFile("r")
        command = ["strace", "-f", "-c", "-U", "name,calls", "-o", self.summary.name, "-p", str(pid)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def begin(self):
        said = self.process.stderr.readline()
        if "attached" not in said:
            raise BenchError(f"strace cannot attach to a process: {said}")

    def end(self):
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)
        counts = {name: int(calls) for name, calls in re.findall(r"^(\w+) +(\d+)$", self.summary.read(), re.MULTILINE)}
        counts.pop("total", None)
        if not counts:
            raise BenchError("strace counted nothing")
        return counts

    def close(self):
        end_process(self.process)
        self.summary.close()


def end_process(process):
    if process.poll() is None:
        process.kill()
        process.wait()


CALL_SCENARIOS = {
    "1 connection": ((), "echo", ("echo", 1, 64, 1)),
    "50 connections": ((), "echo", ("echo", 50, 64, 1)),
    "50 connections, 16 requests at once": (("frames",), "requests", ("pipeline", 50, 64, 16)),
}


def count_calls(context, peer, scenario, counter_kind, slice_ms):
    """Calls by name and the messages they were made for: nothing but echoing goes on between begin and end."""
    flags, kind, arguments = CALL_SCENARIOS[scenario]
    with Server(context.machine, context.build, peer, flags, kind) as server:
        with Load(context.machine, context.build, server, *arguments) as load:
            load.await_ready()
            load.ask("each 10")
            host.await_asleep(server.pid)
            with contextlib.closing(counter_kind(server.pid)) as counter:
                counter.begin()
                messages, _ = load.ask(f"slice {slice_ms}")
                host.await_asleep(server.pid)
                return counter.end(), messages


def measure_calls(context):
    counters = [Perf, Strace] if Perf.works() else [Strace]
    slice_ms = 100 if context.quick else 500
    found = {}
    for peer in context.peers:
        if peer is LIBUV_AGAIN:
            continue
        for scenario in CALL_SCENARIOS:
            row = found.setdefault(scenario, {}).setdefault(peer.label, {})
            for counter in counters:
                counts, messages = count_calls(context, peer, scenario, counter, slice_ms)
                row["per_message"] = row.get("per_message", sum(counts.values()) / messages)
                row["by_name"] = {name: calls / messages for name, calls in counts.items()}
            row["messages"] = messages
    return {"counter": counters[0].__name__.lower(), "scenarios": found}


# ---- memory ----

IDLE_CONNECTIONS = 10000
SPARE_DESCRIPTORS = 100


def measure_memory(context):
    """Private memory of the server with N connections that each echoed 64 B once and rest, less that of a server
    that has served one connection: what a program's own memory grows by."""
    connections = min(1000 if context.quick else IDLE_CONNECTIONS, context.machine.descriptors - SPARE_DESCRIPTORS)
    rounds = context.rounds_of(2, quick=1)
    found = {"connections": connections, "bytes": {}, "idle": {}}
    for _ in range(rounds):
        for peer in context.shuffled(context.peers):
            for flags in [(), ("--timeouts",)] if peer.timeouts else [()]:
                if peer is LIBUV_AGAIN:
                    continue
                grown, idle = memory_of(context, peer, flags, connections)
                key = (peer.label, bool(flags))
                found["bytes"].setdefault(key, []).append(grown)
                found["idle"].setdefault(key, []).append(idle)
    return found


def memory_of(context, peer, flags, connections):
    with Server(context.machine, context.build, peer, flags) as server:
        with Load(context.machine, context.build, server, "echo", 1, 64, 1) as load:
            load.await_ready()
            load.ask("each 10")
        before = server.private_bytes()
        with Load(context.machine, context.build, server, "echo", connections, 64, 1) as load:
            load.await_ready()
            load.ask("each 1")
            grown = server.private_bytes() - before
            cpu_before, begin = server.cpu_ns(), time.monotonic()
            time.sleep(0.2 if context.quick else 1)
            idle = (server.cpu_ns() - cpu_before) / 1000 / (time.monotonic() - begin)
    return grown / connections, idle
