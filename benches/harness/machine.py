"""The machine: which processor is used, what the kernel counts, and what this machine is."""

import ctypes
import os
import pathlib
import platform
import re
import resource
import signal
import subprocess
import time

SETTLE_SECONDS = 10
DESCRIPTORS_WANTED = 20000
PR_SET_PDEATHSIG = 1  # linux/prctl.h

C_LIBRARY = ctypes.CDLL(None)


class BenchError(Exception):
    """A program failed, or the machine lacks something. Ends the run with exit status 1."""


class Machine:
    def __init__(self):
        allowed = sorted(os.sched_getaffinity(0))
        self.bench_cpu = allowed[0]
        self.driver_cpus = set(allowed[1:]) or {self.bench_cpu}
        os.sched_setaffinity(0, self.driver_cpus)
        self.all_cpus = set(allowed)
        self.real_time = real_time_permitted()
        self.descriptors = raise_descriptor_limit()
        self.memory_bytes = int(first_match("/proc/meminfo", r"^MemAvailable:\s+(\d+)") or 0) * 1024
        if not pathlib.Path("/proc/self/schedstat").exists():
            raise BenchError("this kernel has no /proc/PID/schedstat, by which processor time is measured")

    def place(self, cpus):
        """What a measured program does before it starts: one processor, not preempted by the rest of the machine."""

        def in_child():
            # If the driver is killed, they must not go on: preferred to all others, they would starve a small machine.
            C_LIBRARY.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.sched_setaffinity(0, cpus)
            if self.real_time:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

        return in_child


def real_time_permitted():
    """Asked in a child, so that the driver itself stays an ordinary process."""
    child = os.fork()
    if child == 0:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def raise_descriptor_limit():
    """As high as this process may: root can also lift the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < DESCRIPTORS_WANTED:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS_WANTED, DESCRIPTORS_WANTED))
            return DESCRIPTORS_WANTED
        except (OSError, ValueError):
            pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def threads(pid):
    return list(pathlib.Path(f"/proc/{pid}/task").iterdir())


def cpu_ns(pid):
    """Processor time of all threads. Exact only while they sleep: call await_asleep first."""
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads(pid))


def is_asleep(thread):
    state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
    return state == "S"


def await_asleep(pid):
    deadline = time.monotonic() + SETTLE_SECONDS
    while not all(is_asleep(thread) for thread in threads(pid)):
        if time.monotonic() > deadline:
            raise BenchError(f"process {pid} does not come to rest although nothing is asked of it")
        time.sleep(0.0005)


def private_bytes(pid):
    """Memory that this process alone uses. smaps_rollup walks the pages, so the figure is exact."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(size) for size in re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", text, re.MULTILINE)) * 1024


def first_match(path, pattern):
    try:
        found = re.search(pattern, pathlib.Path(path).read_text(), re.MULTILINE)
    except OSError:
        return None
    return found.group(1) if found else None


def first_line(command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.splitlines()[0] if result.returncode == 0 and result.stdout else None


def describe(machine, compiler):
    guest = ", virtual machine" if first_match("/proc/cpuinfo", r"^flags\s*:.*\b(hypervisor)\b") else ""
    memory_kib = int(first_match("/proc/meminfo", r"^MemTotal:\s+(\d+)") or 0)
    return {
        "processor": (first_match("/proc/cpuinfo", r"^model name\s*: (.+)$") or platform.machine())
        + f", {os.cpu_count()} processors{guest}",
        "memory": f"{memory_kib / 1024 / 1024:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, "
        + (first_match("/etc/os-release", r'^PRETTY_NAME="(.+)"$') or "unknown distribution"),
        "compiler": f"{first_line([*compiler, '--version'])}, -O2",
        "scheduling": "SCHED_FIFO for the measured programs" if machine.real_time else "ordinary (SCHED_FIFO not permitted)",
        "load average at the start": "%.2f" % os.getloadavg()[0],
    }
