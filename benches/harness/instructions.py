"""Instructions of user space per message, counted by valgrind: the same in every run, whatever else the machine does.

What is counted is the whole server process outside of the kernel: the program, its library, the C library. Each server runs
twice, with more and with fewer messages, and the difference is divided by the messages between; starting and stopping
drop out. Client and server share a processor, so that a turn of the loop brings what all connections sent meanwhile.
"""

import re
import shutil
from dataclasses import dataclass

from .build import EPOLL, KOLO, KOLO_URING, LIBEV, LIBEVENT, LIBUV
from .machine import BenchError
from .programs import Load, Server
from .text import labels_in, short, table

VALGRIND = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
COUNTED = [KOLO, KOLO_URING, LIBUV, LIBEV, LIBEVENT, EPOLL]


@dataclass(frozen=True)
class Traffic:
    title: str
    load: tuple  # the load's arguments
    messages: tuple  # echoes of each connection, in the short and in the long run


TRAFFIC = [
    Traffic("1 × 64 B", ("echo", 1, 64, 1), (500, 2500)),
    Traffic("50 × 64 B", ("echo", 50, 64, 1), (50, 250)),
    Traffic("50 × 16 KiB", ("echo", 50, 16 * 1024, 1), (50, 250)),
    Traffic("4 × 64 KiB, 4 on their way", ("echo", 4, 64 * 1024, 4), (100, 500)),
]


def measure_instructions(context):
    if shutil.which(VALGRIND[0]) is None:
        return {"skipped": "valgrind is not installed"}
    values = {peer.label: {} for peer in COUNTED if peer in context.peers}
    for traffic in TRAFFIC[:2] if context.quick else TRAFFIC:
        for peer in COUNTED:
            if peer in context.peers:
                few, many = (run(context, peer, traffic.load, each) for each in traffic.messages)
                messages = traffic.load[1] * (traffic.messages[1] - traffic.messages[0])
                values[peer.label][traffic.title] = (many - few) / messages
    return values


def run(context, peer, load_arguments, each):
    """The instructions of a server's whole life, in which each connection has so many echoes."""
    with Server(context.machine, context.build, peer, under=VALGRIND) as server:
        with Load(context.machine, context.build, server, *load_arguments) as load:
            load.await_ready()
            load.ask(f"each {each}")
        server.end()
        server.errors.seek(0)
        collected = re.search(r"Collected : (\d+)", server.errors.read())
    if collected is None:
        raise BenchError(f"{server.name}: valgrind did not say what it counted")
    return int(collected[1])


def instruction_section(results):
    values = results.get("instructions")
    if values is None:
        return []
    lines = ["## Instructions per message", ""]
    if "skipped" in values:
        return [*lines, f"Not counted: {values['skipped']}.", ""]
    titles = list(next(iter(values.values())))
    rows = []
    for label in labels_in(values):
        of_libuv = [values[label][title] / values[LIBUV.label][title] for title in titles]
        rows.append([label, *(f"{values[label][title]:.0f} ({short(ratio)})" for title, ratio in zip(titles, of_libuv, strict=True))])
    note = "User space alone (program, library, C library), counted by valgrind; connections × message size. Beside it the ratio to libuv."
    return [*lines, note, "", *table(["server", *titles], rows)]
