"""The README's section on speed, written from a full run's results between its two marks."""

import re

from .build import EPOLL, KOLO, KOLO_URING, LIBEV, LIBEVENT, LIBUV, MIO, ROOT, TOKIO, URING
from .machine import BenchError
from .stats import ratios, summarize
from .text import short, table

COLUMNS = [KOLO, KOLO_URING, LIBUV, LIBEV, LIBEVENT, MIO, TOKIO, EPOLL, URING]
MARKS = re.compile(r"(<!-- speed: begin\b.*?-->\n).*?(<!-- speed: end -->)", re.DOTALL)
ECHO_ROWS = {
    "echo-1": "processor time of an echoed message, 1 connection, relative to libuv",
    "echo-50": "the same, 50 connections",
    "echo-1000": "1000 connections",
    "echo-5000": "5000 connections",
    "churn": "a new connection, one message, its end",
    "pipeline-50": "requests of 64 B, 16 in one write",
    "http": "HTTP requests",
}
TIMER_ROWS = {
    "insert_random": "a million timers in random order: start, ns each",
    "run_random": "run, ns each",
    "rearm": "start a running one anew, ns each",
}


def column_title(peer, versions):
    version = versions.get(peer.label, "")
    if peer in (KOLO, KOLO_URING) or not version:
        return {KOLO_URING: "kolo, io_uring", EPOLL: "plain epoll", URING: "plain io_uring"}.get(peer, peer.label)
    return f"{peer.label} {'.'.join(re.findall(r'[0-9]+', version)[:2])}"


def row(title, of_label):
    cells = ((of_label(peer.label), peer) for peer in COLUMNS)
    return [title, *("-" if cell is None else f"**{cell}**" if peer is KOLO else cell for cell, peer in cells)]


def relative(costs, label):
    if label not in costs:
        return None
    return f"{summarize(ratios(costs[label], costs[LIBUV.label])).median:.2f}"


def rows(results):
    for name, title in ECHO_ROWS.items():
        yield row(title, lambda label, costs=results[name]["costs"]: relative(costs, label))
    memory = results["memory"]["bytes"]

    def grown(label):
        values = memory.get((label, True))
        return f"{summarize(values).median:.0f}" if values else None

    yield row("memory for an idle connection with a read and a write timeout, bytes", grown)
    timers = results["timers"]["values"]
    for key, title in TIMER_ROWS.items():
        yield row(title, lambda label, key=key: short(summarize(timers[label][key]).median) if label in timers else None)


def section(results, versions):
    header = ["", *(column_title(peer, versions) for peer in COLUMNS)]
    return "\n".join(
        [
            "## How fast",
            "",
            "Measured by `make bench`, which runs kolo and the others in turns in one run, on the same processor; all of it, with the "
            "spread and a control, is in [benches/RESULTS.md](benches/RESULTS.md), and how it is done in "
            "[benches/README.md](benches/README.md).",
            "",
            *table(header, list(rows(results))),
            "Plain epoll and plain io_uring are programs without a library: what the kernel alone takes, which is nearly all of the time "
            "of a message. Where kolo is behind: see [what is not reached](benches/README.md#what-is-not-reached-and-why).",
            "",
            "![Processor time of an echo, by the number of connections](benches/plots/connections-time.svg)",
            "",
            "![Running a timer, by the number of timers](benches/plots/timers-run.svg)",
            "",
        ]
    )


def write_summary(results, versions):
    readme = ROOT / "README.md"
    text = readme.read_text()
    if not MARKS.search(text):
        raise BenchError("README.md has no section between `<!-- speed: begin` and `<!-- speed: end -->`")
    readme.write_text(MARKS.sub(lambda found: found[1] + section(results, versions) + found[2], text, count=1))
