"""The report: tables in Markdown, and each target with what was reached."""

from .build import KOLO, LIBUV, LIBUV_AGAIN, PEERS, POSIX, PREAD
from .datagrams import DATAGRAMS
from .local import FILES, SPAWN, TIMERS, WAITS, WAKES
from .network import ECHOES
from .stats import ratios, summarize

NOT_MEASURED = "not measured"


def table(header, rows):
    """Markdown that is also readable as text."""
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    return [line(header), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows), ""]


def short(value):
    """Three significant digits, no more: more would not be true."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(summary, digits=2):
    return f"{summary.median:.{digits}f} ({summary.quartile_low:.{digits}f}–{summary.quartile_high:.{digits}f})"


def labels_in(values):
    return [peer.label for peer in [*PEERS, POSIX, PREAD] if peer.label in values]


# ---- sections ----


def echo_sections(results):
    measured = [echo for echo in ECHOES if echo.name in results]
    if not measured:
        return []
    labels = labels_in(results[measured[0].name]["costs"])
    header = ["server", *(echo.title for echo in measured)]
    relative, absolute, rates = [], [], []
    for label in labels:
        relative_row, absolute_row, rate_row = [label], [label], [label]
        for echo in measured:
            costs = results[echo.name]["costs"]
            relative_row.append(spread(summarize(ratios(costs[label], costs[LIBUV.label]))))
            absolute_row.append(f"{short(summarize(costs[label]).median * 1e6)} µs")
            rate_row.append(f"{summarize(results[echo.name]['rates'][label]).median:,.0f}")
        relative.append(relative_row)
        absolute.append(absolute_row)
        rates.append(rate_row)
    units = ", ".join(f"{echo.title}: per {echo.unit}" for echo in measured if echo.unit != "message")
    note = "Per message" + (f"; {units}" if units else "") + "."
    return [
        "## Processor time of the server, relative to libuv",
        "",
        "Median (quartiles) of the ratio within each round; below 1 is cheaper than libuv. "
        f"Connections × message size. The row “{LIBUV_AGAIN.label}” is a second process of the same libuv program: "
        "how far it is from 1 is the error of this table.",
        "",
        *table(header, relative),
        f"Median processor time. {note}",
        "",
        *table(header, absolute),
        "Median rate a second, client and server sharing one processor. The same units.",
        "",
        *table(header, rates),
    ]


def call_section(results):
    if "syscalls" not in results:
        return []
    connections = results["syscalls"]["connections"]
    lines = [
        "## System calls per message",
        "",
        f"64 B ping-pong; the count by {results['syscalls']['counter']}, the names by strace (under which batches may differ a little).",
        "",
    ]
    rows = []
    for label in labels_in(connections[1]):
        row = [label]
        for count in (1, 50):
            row.append(f"{connections[count][label]['per_message']:.3f}")
        names = sorted(connections[1][label]["by_name"].items(), key=lambda item: -item[1])
        row.append(", ".join(f"{name} {calls:.2f}" for name, calls in names if calls >= 0.005))
        rows.append(row)
    return lines + table(["server", "1 connection", "50 connections", "by name, 1 connection"], rows)


def datagram_section(results):
    measured = [scenario for scenario in DATAGRAMS if scenario.name in results]
    if not measured:
        return []
    rows = []
    for scenario in measured:
        values = results[scenario.name]
        sides = [("cost", scenario.title + ("" if scenario.sockets else ", both sides"))]
        if not scenario.sockets:
            sides += [("sending", f"{scenario.title}, sending"), ("receiving", f"{scenario.title}, receiving")]
        for key, title in sides:
            row = [title]
            for label in labels_in(values):
                text = f"{short(summarize(values[label][key]).median * 1e9)} ns"
                if label in (KOLO.label, LIBUV_AGAIN.label):
                    text += f" (libuv ÷ it: {short(summarize(ratios(values[LIBUV.label][key], values[label][key])).median)})"
                if key == "cost":
                    lost = max(values[label]["lost"])
                    text += f", up to {lost * 100:.2g} % lost" if lost > 0 else ""
                row.append(text)
            rows.append(row)
    return [
        "## Datagrams",
        "",
        "Processor time for a datagram, median: of the echo's server, or of the flood's two sides. None of those that came was wrong.",
        "",
        *table(["", *labels_in(results[measured[0].name])], rows),
    ]


def memory_section(results):
    if "memory" not in results:
        return []
    memory = results["memory"]
    rows = []
    for label in [peer.label for peer in PEERS]:
        for timeouts in (False, True):
            if (label, timeouts) in memory["bytes"]:
                grown = summarize(memory["bytes"][label, timeouts])
                idle = summarize(memory["idle"][label, timeouts])
                armed = "read and write" if timeouts else "none"
                rows.append([label, armed, f"{grown.median:.0f}", f"{idle.median:.0f} µs"])
    return [
        "## Memory per idle connection",
        "",
        f"Growth of the server's private memory, in bytes, over {memory['connections']} connections that each echoed "
        "64 B once and rest. Kernel memory is not in it.",
        "",
        *table(["server", "timeouts armed", "bytes per connection", "processor time a second, all idle"], rows),
    ]


def local_section(results, name, title, note, names):
    if name not in results:
        return []
    values = results[name]["values"]
    labels = labels_in(values)
    rows = []
    for key, printed in names.items():
        if not any(key in values[label] for label in labels):
            continue
        row = [printed]
        for label in labels:
            summary = summarize(values[label][key])
            text = short(summary.median)
            if label == KOLO.label:
                ratio = summarize(ratios(values[LIBUV.label][key], values[label][key]))
                text += f" (libuv ÷ kolo: {short(ratio.median)})"
            row.append(text)
        rows.append(row)
    return [f"## {title}", "", note, "", *table(["nanoseconds", *labels], rows)]


def timer_section(results):
    if "timers" not in results:
        return []
    count = results["timers"]["count"]
    note = (
        f"{count:,} timers; processor time per timer, median. Deadlines within one second, in ascending or random order; "
        "run is from the last insertion to the last callback; cancel and re-arm take random timers among all that run."
    )
    values = results["timers"]["values"]
    walls = ", ".join(f"{label} {short(summarize(values[label]['wall_random']).median)} ms" for label in labels_in(values))
    lines = local_section(results, "timers", "Timers", note, TIMERS)
    return lines + [f"Elapsed time until all random timers, due within 999 ms, had fired: {walls}.", ""]


# ---- targets ----


def at_most(value, limit, unit=""):
    if value <= limit:
        return "yes"
    return f"no: {value - limit:.3g}{unit} ({(value / limit - 1) * 100:.1f} %) too much"


def targets(results):
    rows = []

    def add(what, goal, measured, verdict):
        rows.append([what, goal, measured, verdict])

    for name in ("echo-1", "echo-50"):
        echo = next(echo for echo in ECHOES if echo.name == name)
        what, goal = f"processor time per message, {echo.title}, of libuv's", "≤ 0.97"
        costs = results.get(name, {}).get("costs", {})
        if KOLO.label not in costs:
            add(what, goal, NOT_MEASURED, "-")
            continue
        summary = summarize(ratios(costs[KOLO.label], costs[LIBUV.label]))
        control = summarize(ratios(costs[LIBUV_AGAIN.label], costs[LIBUV.label]))
        measured = (
            f"{summary.median:.3f} (95 %: {summary.interval_low:.3f}–{summary.interval_high:.3f}; A/A {control.median:.3f})"
        )
        add(what, goal, measured, at_most(summary.median, 0.97))

    for key in ("insert_ascending", "insert_random", "run_ascending", "run_random", "rearm"):
        what, goal = f"timers, {TIMERS[key]}: libuv ÷ kolo", "≥ 10"
        values = results.get("timers", {}).get("values", {})
        if KOLO.label not in values:
            add(what, goal, NOT_MEASURED, "-")
            continue
        ratio = summarize(ratios(values[LIBUV.label][key], values[KOLO.label][key]))
        measured = f"{short(ratio.median)} ({short(ratio.quartile_low)}–{short(ratio.quartile_high)})"
        add(what, goal, measured, "yes" if ratio.median >= 10 else f"no: {short(10 - ratio.median)} short")

    what, goal = "bytes per idle connection, both timeouts armed", "≤ 160"
    grown = results.get("memory", {}).get("bytes", {}).get((KOLO.label, True))
    if grown:
        add(what, goal, f"{summarize(grown).median:.0f}", at_most(summarize(grown).median, 160, " B"))
    else:
        add(what, goal, NOT_MEASURED, "-")

    what, goal = "coalesced wake", "≤ 4 ns"
    wakes = results.get("wakes", {}).get("values", {}).get(KOLO.label)
    if wakes:
        summary = summarize(wakes["coalesced"])
        add(what, goal, f"{short(summary.median)} ns", at_most(summary.median, 4, " ns"))
    else:
        add(what, goal, NOT_MEASURED, "-")

    for name, of, factor in (("spawn", "", 1), ("spawn-2g", ", 2 GiB resident", 5)):
        what = f"libuv's time for a program started and reaped ÷ kolo's{of}"
        values = results.get(name, {}).get("values", {})
        if values.get(KOLO.label) and values.get(LIBUV.label):
            ratio = summarize(ratios(values[LIBUV.label]["one_time"], values[KOLO.label]["one_time"]))
            measured = f"{short(ratio.median)} ({short(ratio.quartile_low)}–{short(ratio.quartile_high)})"
            add(what, f"≥ {factor}", measured, "yes" if ratio.median >= factor else f"no: {short(factor - ratio.median)} short")
        else:
            add(what, f"≥ {factor}", NOT_MEASURED, "-")

    for scenario in DATAGRAMS:
        if scenario.name == "udp-echo-peers":
            continue  # the network stack alone: no goal
        what, goal = f"datagrams per processor second, {scenario.title}: of libuv's", "≥ 2"
        values = results.get(scenario.name, {})
        if KOLO.label not in values:
            add(what, goal, NOT_MEASURED, "-")
            continue
        ratio = summarize(ratios(values[LIBUV.label]["cost"], values[KOLO.label]["cost"]))
        measured = f"{short(ratio.median)} ({short(ratio.quartile_low)}–{short(ratio.quartile_high)})"
        add(what, goal, measured, "yes" if ratio.median >= 2 else f"no: {short(2 - ratio.median)} short")

    # A wait that was interrupted by the counter's coming and going may be counted twice.
    for count, goal, limit in ((1, "3", 3.005), (50, "about 2.0", 2.1)):
        what = f"system calls per message, {count} connection{'s' if count > 1 else ''}"
        row = results.get("syscalls", {}).get("connections", {}).get(count, {}).get(KOLO.label)
        if row:
            add(what, goal, f"{row['per_message']:.3f}", at_most(row["per_message"], limit))
        else:
            add(what, goal, NOT_MEASURED, "-")
    return rows


def size_line(results):
    size = results.get("stripped_bytes")
    return [f"Size of the stripped shared library: {f'{size:,} bytes' if size else NOT_MEASURED}.", ""]


def render(results, facts, versions, heading):
    lines = ["# Benchmark results", "", *heading, ""]
    lines += [f"* {name}: {value}" for name, value in facts.items()]
    lines += ["* " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "; all linked as shared libraries", ""]
    lines += ["## Targets", "", *table(["what", "goal", "measured", "reached"], targets(results)), *size_line(results)]
    lines += echo_sections(results) + datagram_section(results) + call_section(results) + memory_section(results) + timer_section(results)
    lines += local_section(
        results,
        "wakes",
        "Wakes and posts",
        "Processor time of the whole process, per wake, round trip or post, median. A coalesced wake finds one pending. "
        "Only kolo has a post; the others are given a bounded queue under a mutex and their own wake. "
        "Plain epoll writes an eventfd for each wake.",
        WAKES,
    )
    lines += local_section(results, "waits", "The price of a turn", "Processor time per turn of the loop, median.", WAITS)
    note = "Random reads of a file that the kernel has in memory, 64 in flight, median."
    lines += local_section(results, "files", "Files", note, FILES)
    note = (
        "/bin/true started, and its end told, median of one program. What the program itself takes, by far the most of it, is "
        "the same for all."
    )
    lines += local_section(results, "spawn", "Programs", note, SPAWN)
    lines += local_section(results, "spawn-2g", "Programs, from a parent with 2 GiB resident", note, SPAWN)
    return "\n".join(lines)
