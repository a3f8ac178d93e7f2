"""How the cost of one thing grows with their number: connections from ten to 15,000, timers from a thousand to ten million."""

import contextlib
import time

from .build import EPOLL, KOLO, KOLO_URING, LIBEV, LIBEVENT, LIBUV, LIBUV_AGAIN, MIO, TOKIO, URING
from .local import TIMER_PEERS_NOT, interleaved
from .network import REST_SHARE, SPARE_DESCRIPTORS, WARM_UP_MS, measure_slice
from .plots import Chart, Line, Look, draw
from .programs import Load, Server, run_to_end
from .stats import summarize
from .text import labels_in, short, table

CONNECTIONS = [10, 100, 1000, 5000, 15000]
CONNECTIONS_QUICK = [10, 100]
CONNECTIONS_OF_PAGES = 100  # fewer fill too few pages of memory
SLICE_MS_MIN = 80
SLICE_NS_PER_CONNECTION = 25000  # long enough for each to have its turn
ECHO_ROUNDS = 10

TIMERS = {1000: 20, 10000: 15, 100000: 5, 1000000: 2, 10000000: 1}  # and the rounds
TIMERS_QUICK = {1000: 2, 10000: 1}
BYTES_PER_TIMER = 600  # of the greediest peer, with all around it
TIMERS_PER_MS = 1000

PHASES = {"insert_random": "insert", "rearm": "re-arm", "run_random": "run"}
LOOKS = {
    KOLO.label: Look("#d55e00", "circle", 2.6),
    KOLO_URING.label: Look("#e69f00", "ring", 2.6),
    LIBUV.label: Look("#0072b2", "square"),
    LIBEV.label: Look("#009e73", "up"),
    LIBEVENT.label: Look("#cc79a7", "down"),
    MIO.label: Look("#56b4e9", "diamond"),
    TOKIO.label: Look("#7b4a12", "square"),
    EPOLL.label: Look("#000000", "circle", 1.4, "6 4"),
    URING.label: Look("#777777", "ring", 1.4, "6 4"),
}


# ---- connections ----


def measure_connections(context):
    """Processor time of an echo of 64 B, and memory, by the number of connections. All servers of a size stay up."""
    peers = [peer for peer in context.peers if peer is not LIBUV_AGAIN]
    sizes = CONNECTIONS_QUICK if context.quick else CONNECTIONS
    sizes = [size for size in sizes if size <= context.machine.descriptors - SPARE_DESCRIPTORS]
    found = {"sizes": sizes, "costs": {}, "bytes": {}}
    for size in sizes:
        with contextlib.ExitStack() as stack:
            pairs = {}
            for peer in context.shuffled(peers):
                server, load, grown = open_pair(context, stack, peer, size)
                pairs[peer] = server, load
                found["bytes"].setdefault(peer.label, {})[size] = [grown]
            slice_ms = 20 if context.quick else max(SLICE_MS_MIN, size * SLICE_NS_PER_CONNECTION // 1000000)
            for _ in range(context.rounds_of(ECHO_ROUNDS, quick=1)):
                for peer in context.shuffled(peers):
                    time.sleep(slice_ms * REST_SHARE / 1000)
                    cost, _ = measure_slice(*pairs[peer], slice_ms, 1)
                    found["costs"].setdefault(peer.label, {}).setdefault(size, []).append(cost * 1e6)
    return found


def open_pair(context, stack, peer, size):
    """A server and its load, and the memory that it took for each connection, after one echo."""
    server = stack.enter_context(Server(context.machine, context.build, peer))
    with Load(context.machine, context.build, server, "echo", 1, 64, 1) as load:
        load.await_ready()
        load.ask("each 10")
    before = server.private_bytes()
    load = stack.enter_context(Load(context.machine, context.build, server, "echo", size, 64, 1))
    load.await_ready()
    load.ask("each 1")
    grown = (server.private_bytes() - before) / size
    measure_slice(server, load, WARM_UP_MS, 1)
    return server, load, grown


# ---- timers ----


def measure_timers(context):
    """Nanoseconds for a timer started, run, started anew, by their number."""
    peers = [peer for peer in context.peers if peer not in (*TIMER_PEERS_NOT, LIBUV_AGAIN)]
    found = {}
    for count, rounds in (TIMERS_QUICK if context.quick else TIMERS).items():
        if count * BYTES_PER_TIMER > context.machine.memory_bytes:
            continue
        within_ms = min(max(count // TIMERS_PER_MS, 10), 1000)

        def measure(peer, count=count, within_ms=within_ms):
            return run_to_end(context.machine, context.build, peer, "timers", count, within_ms, "random")

        values = interleaved(context, peers, context.rounds_of(rounds, quick=rounds), measure)
        for label, by_phase in values.items():
            for phase in PHASES:
                found.setdefault(phase, {}).setdefault(label, {})[count] = by_phase[phase]
    return found


# ---- charts and tables ----


def worth_a_line(memory):
    """Without the sizes at which a page more or less says it all."""
    fit = {label: {size: values for size, values in by_size.items() if size >= CONNECTIONS_OF_PAGES} for label, by_size in memory.items()}
    return {label: by_size for label, by_size in fit.items() if label != EPOLL.label}


def lines_of(by_label):
    lines = []
    for label in labels_in(by_label):
        points = []
        for size, values in sorted(by_label[label].items()):
            summary = summarize(values)
            points.append((size, summary.quartile_low, summary.median, summary.quartile_high))
        lines.append(Line(label, LOOKS[label], points))
    return lines


def charts(results):
    """File names and charts."""
    found = {}
    if "growth-connections" in results:
        growth = results["growth-connections"]
        found["connections-time.svg"] = Chart(
            "Processor time of an echo, by the number of connections",
            "Ping-pong of 64 B on all of them, client and server on one processor; median and quartiles",
            "connections",
            "µs of the server per message",
            lines_of(growth["costs"]),
        )
        found["connections-memory.svg"] = Chart(
            "Memory for a connection, by their number",
            "Growth of the server's own memory, after one echo on each. Plain epoll, left out, needs nothing but a table",
            "connections",
            "bytes per connection",
            lines_of(worth_a_line(growth["bytes"])),
            y_logarithmic=True,
        )
    titles = {
        "insert_random": ("Starting a timer", "Deadlines in random order"),
        "rearm": ("Starting a running timer anew", "A random one at a time, to a deadline that moves on with the clock"),
        "run_random": ("Running a timer", "From the last start to the last callback; deadlines in random order"),
    }
    for phase, (title, subtitle) in titles.items():
        if phase in results.get("growth-timers", {}):
            found[f"timers-{PHASES[phase]}.svg"] = Chart(
                f"{title}, by the number of timers",
                f"{subtitle}; median and quartiles",
                "timers",
                "ns of processor time per timer",
                lines_of(results["growth-timers"][phase]),
                y_logarithmic=True,
            )
    return found


def write_charts(results, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, chart in charts(results).items():
        (folder / name).write_text(draw(chart))


def size_table(by_label, unit):
    sizes = sorted({size for by_size in by_label.values() for size in by_size})
    rows = []
    for label in labels_in(by_label):
        medians = (summarize(by_label[label][size]).median if size in by_label[label] else None for size in sizes)
        rows.append([label, *("-" if median is None else short(median) if median > 0 else "0" for median in medians)])
    return table([unit, *(f"{size:,}" for size in sizes)], rows)


def growth_sections(results):
    lines = []
    if "growth-connections" in results:
        growth = results["growth-connections"]
        lines += ["## Growth with the number of connections", ""]
        lines += ["![Processor time by the number of connections](plots/connections-time.svg)", ""]
        lines += size_table(growth["costs"], "µs per message")
        lines += ["![Memory by the number of connections](plots/connections-memory.svg)", ""]
        lines += ["With ten connections, a page of memory more or less is 400 bytes for each.", ""]
        lines += size_table(growth["bytes"], "bytes per connection")
    if "growth-timers" in results:
        lines += ["## Growth with the number of timers", ""]
        lines += ["A thousand of them fall due in a millisecond, up to a million; more than these fall due within a second.", ""]
        for phase, name in PHASES.items():
            lines += [f"![{name.capitalize()}, by the number of timers](plots/timers-{name}.svg)", ""]
            lines += size_table(results["growth-timers"][phase], f"ns, {name}")
    return lines
