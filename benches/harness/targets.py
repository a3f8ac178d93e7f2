"""Each target, with what was reached."""

from .build import KOLO, KOLO_URING, LIBUV, LIBUV_AGAIN, RAW
from .datagrams import DATAGRAMS
from .local import TIMERS
from .network import ECHOES
from .requests import REQUESTS
from .stats import ratios, summarize
from .text import NOT_MEASURED, short

KOLO_LABELS = (KOLO.label, KOLO_URING.label)
RAW_LIMIT_MAX = 1.05
PIPELINED_MAX = 0.6  # of libuv


def raw_limit(costs):
    """The raw peer that took less processor time."""
    measured = [peer.label for peer in RAW if costs.get(peer.label)]
    return min(measured, key=lambda label: summarize(costs[label]).median, default=None)


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
        scenario = f"{count} connection{'s' if count > 1 else ''}"
        row = results.get("syscalls", {}).get("scenarios", {}).get(scenario, {}).get(KOLO.label)
        if row:
            add(f"system calls per message, {scenario}", goal, f"{row['per_message']:.3f}", at_most(row["per_message"], limit))
        else:
            add(f"system calls per message, {scenario}", goal, NOT_MEASURED, "-")

    for scenario in REQUESTS:
        if scenario.depth > 1:
            add_ratio(add, results, scenario, LIBUV.label, f"processor time per request, {scenario.title}, of libuv's", PIPELINED_MAX)
    for scenario in [*ECHOES, *REQUESTS]:
        limit = raw_limit(results.get(scenario.name, {}).get("costs", {}))
        what = f"processor time, {scenario.title}, of the better of plain epoll and plain io_uring"
        add_ratio(add, results, scenario, limit, what, RAW_LIMIT_MAX)
    return rows


def add_ratio(add, results, scenario, reference, what, limit):
    """Of both of kolo's drivers. The verdict is the first one's."""
    costs = results.get(scenario.name, {}).get("costs", {})
    if KOLO.label not in costs or reference not in costs:
        add(what, f"≤ {limit}", NOT_MEASURED, "-")
        return
    values = [summarize(ratios(costs[label], costs[reference])) for label in KOLO_LABELS if label in costs]
    drivers = [peer.driver for peer in (KOLO, KOLO_URING) if peer.label in costs]
    measured = ", ".join(f"{driver} {value.median:.3f} ({value.quartile_low:.2f}–{value.quartile_high:.2f})" for driver, value in zip(drivers, values, strict=True))
    add(what, f"≤ {limit}", measured, at_most(values[0].median, limit))
