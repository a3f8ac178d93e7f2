"""The scenarios without a network: timers, wakes and posts, the price of a turn. Their programs measure themselves."""

from .build import EPOLL, KOLO, KOLO_URING, LIBUV, LIBUV_AGAIN, MIO, POSIX, PREAD, TOKIO, URING
from .programs import run_to_end

# rows as the programs name them, and as they are printed
TIMERS = {
    "insert_ascending": "insert, ascending",
    "insert_random": "insert, random",
    "run_ascending": "run, ascending",
    "run_random": "run, random",
    "rearm": "re-arm, random",
    "cancel": "cancel, random",
    "open": "make ready (open)",
}
TIMER_PEERS_NOT = (KOLO_URING, MIO, EPOLL, URING)  # no driver has a part in timers; the others have none
WAKES = {
    "coalesced": "coalesced wake",
    "wake_round_trip": "wake and be woken, two threads on one processor",
    "post_round_trip": "post and be posted to, two threads on one processor",
    "flood": "flood of posts, on one processor",
    "flood_apart": "flood of posts, each thread on its own",
}
WAITS = {
    "nothing_ready": "turn that does not wait, nothing ready",
    "one_ready": "turn with one descriptor ready",
    "one_ready_timer": "the same with a timer running",
}
FILES = {
    "read": "a read of 4 KiB, on one processor: processor time, all threads",
    "read_by_the_clock": "by the clock on the wall",
    "read_apart": "on all processors: processor time, all threads",
    "read_by_the_clock_apart": "by the clock on the wall (all processors)",
}
FILES_DISK = {
    "cold": "a read of 4 KiB that the kernel has not in memory, 64 in flight: processor time, all threads",
    "cold_by_the_clock": "by the clock on the wall (not in memory)",
    "cold_one": "the same, one in flight",
    "direct": "a read with O_DIRECT, 64 in flight: processor time, all threads",
    "direct_by_the_clock": "by the clock on the wall (O_DIRECT)",
    "direct_one": "the same with O_DIRECT, one in flight",
    "write": "a write with O_DIRECT, 64 in flight: processor time, all threads",
    "write_by_the_clock": "by the clock on the wall (writes)",
}
FILES_OPEN = {
    "open": "opening and closing, 64 in flight: processor time, all threads",
    "open_by_the_clock": "by the clock on the wall",
    "open_one": "the same, one in flight",
}
SPAWN = {
    "one_total": "one after the other: processor time, parent and program",
    "one_parent": "the parent's alone",
    "one_time": "by the clock on the wall",
    "many_total": "16 at a time: processor time, parent and programs",
    "many_parent": "the parent's alone (16 at a time)",
    "many_time": "by the clock on the wall (16 at a time)",
}


def interleaved(context, peers, rounds, measure):
    """Values by peer and row, round by round, in random order within each."""
    found = {peer.label: {} for peer in peers}
    for _ in range(rounds):
        for peer in context.shuffled(peers):
            for key, value in measure(peer).items():
                found[peer.label].setdefault(key, []).append(value)
    return found


def measure_timers(context):
    count = 20000 if context.quick else 1000000
    rounds = context.rounds_of(5, quick=1)
    peers = [peer for peer in context.peers if peer not in TIMER_PEERS_NOT]
    values = interleaved(
        context, peers, rounds, lambda peer: run_to_end(context.machine, context.build, peer, "timers", count)
    )
    return {"count": count, "values": values}


def measure_wakes(context):
    scale = 20 if context.quick else 1
    rounds = context.rounds_of(5, quick=1)
    machine = context.machine

    def run(peer, scenario, count, cpus=None):
        return run_to_end(machine, context.build, peer, "wakes", scenario, count // scale, cpus=cpus)

    def measure(peer):
        values = run(peer, "coalesced", 2000000)
        values |= run(peer, "wake_round_trip", 40000)
        values |= run(peer, "post_round_trip", 40000)
        values |= run(peer, "flood", 2000000)
        if len(machine.all_cpus) > 1:
            values["flood_apart"] = run(peer, "flood", 2000000, machine.all_cpus)["flood"]
        return values

    return {"values": interleaved(context, [peer for peer in context.peers if peer is not URING], rounds, measure)}


def measure_waits(context):
    turns = 20000 if context.quick else 500000
    rounds = context.rounds_of(5, quick=1)
    peers = [peer for peer in context.peers if peer not in (MIO, TOKIO, URING)]
    values = interleaved(context, peers, rounds, lambda peer: run_to_end(context.machine, context.build, peer, "waits", turns))
    return {"values": values}


def measure_spawn(context, mebibytes, count):
    """Programs started and reaped, from a parent with so much memory resident."""
    count = min(count, 20) if context.quick else count
    rounds = context.rounds_of(5, quick=1)
    peers = [peer for peer in context.peers if peer in (KOLO, LIBUV, LIBUV_AGAIN)] + [POSIX]

    def measure(peer):
        values = run_to_end(context.machine, context.build, peer, "spawn", count, mebibytes)
        return {row: values[row] for row in SPAWN}

    return {"values": interleaved(context, peers, rounds, measure)}


def measure_files(context):
    """Random reads of 4 KiB of a file that the kernel has in memory, 64 in flight."""
    count = 2000 if context.quick else 200000
    rounds = context.rounds_of(9, quick=1)
    peers = [peer for peer in context.peers if peer in (KOLO, LIBUV, LIBUV_AGAIN)] + [PREAD]
    machine = context.machine

    def measure(peer):
        def run(cpus=None):
            return run_to_end(machine, context.build, peer, "files", "read", count, 64, cpus=cpus)

        values = run()
        if len(machine.all_cpus) > 1:
            values |= {f"{row}_apart": value for row, value in run(machine.all_cpus).items()}
        return values

    return {"values": interleaved(context, peers, rounds, measure)}


def measure_file_work(context, kinds):
    """Work on files of several kinds, each so often with 64 in flight, and with one where that is to be known, on all processors."""
    rounds = context.rounds_of(5, quick=1)
    peers = [peer for peer in context.peers if peer in (KOLO, KOLO_URING, LIBUV, LIBUV_AGAIN)] + [PREAD]
    machine = context.machine

    def measure(peer):
        values = {}
        for kind, many, one in kinds:
            for count, in_flight, suffix in ((many, 64, ""), (one, 1, "_one")):
                if count:
                    found = run_to_end(
                        machine, context.build, peer, "files", kind, count // (20 if context.quick else 1), in_flight, cpus=machine.all_cpus
                    )
                    values |= {row + suffix: value for row, value in found.items()}
        return values

    return {"values": interleaved(context, peers, rounds, measure)}


def measure_disk(context):
    """Reads and writes of 4 KiB that wait for a disk."""
    return measure_file_work(context, (("cold", 8000, 2000), ("direct", 20000, 2000), ("write", 10000, 0)))


def measure_opens(context):
    return measure_file_work(context, (("open", 50000, 5000),))
