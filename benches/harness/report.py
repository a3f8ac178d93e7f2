"""The report: tables in Markdown, and each target with what was reached."""

from .build import KOLO, LIBUV, LIBUV_AGAIN, LIBUV_GATHERS, PEERS
from .datagrams import DATAGRAMS
from .growth import growth_sections
from .instructions import instruction_section
from .local import FILES, FILES_DISK, FILES_OPEN, SPAWN, TIMERS, WAITS, WAKES
from .network import APART, ECHOES
from .requests import REQUESTS
from .stats import ratios, summarize
from .targets import KOLO_LABELS, RAW_LIMIT_MAX, raw_limit, targets
from .text import NOT_MEASURED, labels_in, short, spread, table

# ---- sections ----


def cost_tables(results, scenarios):
    """For scenarios that have processor time of a server: relative to libuv, relative to the raw limit, absolute, rate."""
    labels = labels_in(results[scenarios[0].name]["costs"])
    header = ["server", *(scenario.title for scenario in scenarios)]
    to_libuv, to_raw, absolute, rates = ([[label] for label in labels] for _ in range(4))
    for scenario in scenarios:
        costs = results[scenario.name]["costs"]
        limit = raw_limit(costs)
        for row, label in enumerate(labels):
            to_libuv[row].append(spread(summarize(ratios(costs[label], costs[LIBUV.label]))))
            to_raw[row].append(beside_raw(label, summarize(ratios(costs[label], costs[limit]))) if limit else "-")
            absolute[row].append(f"{short(summarize(costs[label]).median * 1e6)} µs")
            rates[row].append(f"{summarize(results[scenario.name]['rates'][label]).median:,.0f}")
    usual = scenarios[0].unit
    units = ", ".join(f"{scenario.title}: per {scenario.unit}" for scenario in scenarios if scenario.unit != usual)
    return [
        f"Relative to libuv: median (quartiles) of the ratio within each round; below 1 is cheaper. “{LIBUV_AGAIN.label}” is a "
        "second process of the same libuv program: how far it is from 1 is the error of the table.",
        "",
        *table(header, to_libuv),
        "Relative to the better of plain epoll and plain io_uring, in the same way. What of kolo's is above "
        f"{RAW_LIMIT_MAX} is printed **so**.",
        "",
        *table(header, to_raw),
        f"Median processor time. Per {usual}" + (f"; {units}" if units else "") + ".",
        "",
        *table(header, absolute),
        "Median rate a second. The same units.",
        "",
        *table(header, rates),
    ]


def beside_raw(label, summary):
    text = spread(summary)
    too_much = label in KOLO_LABELS and summary.median > RAW_LIMIT_MAX
    return f"**{text}**" if too_much else text


def echo_sections(results):
    lines = []
    measured = [echo for echo in ECHOES if echo.name in results]
    if measured:
        lines += ["## Processor time of the server", "", "Client and server on one processor; connections × message size.", ""]
        lines += cost_tables(results, measured)
    measured = [scenario for scenario in REQUESTS if scenario.name in results]
    if measured:
        lines += ["## Small requests, several in one write", ""]
        lines += [
            "Connections × requests in one write. A frame is 64 B, answered by as many; HTTP is asked by wrk. The programs on kolo, "
            f"libuv and libevent write each answer by a call of its own; kolo and libevent gather these, libuv does not. “{LIBUV_GATHERS.label}” "
            "is a program that puts the answers together itself before it calls libuv, as those on the others do.",
            "",
        ]
        lines += cost_tables(results, measured)
    measured = [echo for echo in APART if echo.name in results]
    if measured:
        lines += ["## The same, client and server each on a processor of its own", ""]
        lines += ["The wake-ups between the processors are in these figures, and they spread much wider.", ""]
        lines += cost_tables(results, measured)
    return lines


def call_section(results):
    if "syscalls" not in results:
        return []
    counter, scenarios = results["syscalls"]["counter"], results["syscalls"]["scenarios"]
    one = next(iter(scenarios.values()))
    rows = []
    for label in labels_in(one):
        names = sorted(one[label]["by_name"].items(), key=lambda item: -item[1])
        by_name = ", ".join(f"{name} {calls:.2f}" for name, calls in names if calls >= 0.005)
        rows.append([label, *(f"{values[label]['per_message']:.3f}" for values in scenarios.values()), by_name])
    return [
        "## System calls per message",
        "",
        f"64 B; the count by {counter}, the names by strace (under which batches may differ a little).",
        "",
        *table(["server", *scenarios, "by name, 1 connection"], rows),
    ]


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
            if key not in values[label]:
                row.append("-")
                continue
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


def size_line(results):
    size = results.get("stripped_bytes")
    return [f"Size of the stripped shared library: {f'{size:,} bytes' if size else NOT_MEASURED}.", ""]


def render(results, facts, versions, heading):
    lines = ["# Benchmark results", "", *heading, ""]
    lines += [f"* {name}: {value}" for name, value in facts.items()]
    lines += ["* " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "; those in C linked as shared libraries", ""]
    lines += ["## Targets", "", *table(["what", "goal", "measured", "reached"], targets(results)), *size_line(results)]
    lines += echo_sections(results) + datagram_section(results) + call_section(results)
    lines += instruction_section(results) + memory_section(results) + timer_section(results)
    lines += growth_sections(results)
    lines += local_section(
        results,
        "wakes",
        "Wakes and posts",
        "Processor time of the whole process, per wake, round trip or post, median. A coalesced wake finds one pending. "
        "Only kolo has a post, and tokio a channel; the others are given a bounded queue under a mutex and their own wake. "
        "Plain epoll writes an eventfd for each wake.",
        WAKES,
    )
    lines += local_section(results, "waits", "The price of a turn", "Processor time per turn of the loop, median.", WAITS)
    note = "Random reads of a file that the kernel has in memory, 64 in flight, median."
    lines += local_section(results, "files", "Files", note, FILES)
    note = "Random reads and writes of 4 KiB that wait for a disk, median. What the disk's driver takes, and the kernel outside of the process, is not in it."
    lines += local_section(results, "files-disk", "Files that wait for a disk", note, FILES_DISK)
    lines += local_section(results, "files-open", "Opening files", "The same file opened for reading, and closed, median.", FILES_OPEN)
    note = (
        "/bin/true started, and its end told, median of one program. What the program itself takes, by far the most of it, is "
        "the same for all."
    )
    lines += local_section(results, "spawn", "Programs", note, SPAWN)
    lines += local_section(results, "spawn-2g", "Programs, from a parent with 2 GiB resident", note, SPAWN)
    return "\n".join(lines)
