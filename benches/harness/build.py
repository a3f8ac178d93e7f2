"""The peers, and the building of their programs."""

import concurrent.futures
import os
import pathlib
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass

from .machine import BenchError

BENCHES = pathlib.Path(__file__).resolve().parent.parent
ROOT = BENCHES.parent
RUST_PEERS = BENCHES / "rust-peers"
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]


@dataclass(frozen=True)
class Peer:
    label: str  # as printed
    source: str  # as in the programs' names
    package: str  # the pkg-config name, "" where there is none
    libraries: tuple = ()
    driver: str = ""  # kolo's, where it is not the loop's own choice
    crate: str = ""  # of a Rust library: its programs are in rust-peers/
    timeouts: bool = True  # whether its server can arm some (--timeouts)
    flags: tuple = ()  # of its server of requests


KOLO = Peer("kolo", "kolo", "kolo", driver="poller")
KOLO_URING = Peer("kolo (uring)", "kolo", "kolo", driver="uring")
LIBUV = Peer("libuv", "libuv", "libuv")
LIBUV_AGAIN = Peer("libuv again (A/A)", "libuv", "libuv")
LIBUV_GATHERS = Peer("libuv, gathered by hand", "libuv", "libuv", flags=("gather",))
LIBEV = Peer("libev", "libev", "", ("-lev",))
LIBEVENT = Peer("libevent", "libevent", "libevent_pthreads")
MIO = Peer("mio", "mio", "", crate="mio", timeouts=False)
TOKIO = Peer("tokio", "tokio", "", crate="tokio")
EPOLL = Peer("epoll, no library", "epoll", "", timeouts=False)
URING = Peer("io_uring, no library", "uring", "liburing", timeouts=False)
RAW = [EPOLL, URING]  # what the system calls alone cost
PREAD = Peer("pread, no library", "posix", "")
POSIX = Peer("posix_spawn, no library", "posix", "")
PEERS = [KOLO, KOLO_URING, LIBUV, LIBUV_AGAIN, LIBEV, LIBEVENT, MIO, TOKIO, EPOLL, URING]

# The programs of a peer: the folder of the source, and what follows the peer's name in the program's.
PROGRAMS = [
    ("servers", "echo"),
    ("servers", "requests"),
    ("timers", "timers"),
    ("wakes", "wakes"),
    ("waits", "waits"),
    ("datagrams", "udp"),
    ("spawn", "spawn"),
    ("files", "files"),
]
NEEDED = {"pkg-config": "pkg-config", "strip": "binutils", "strace": "strace", "wrk": "wrk"}
HEADERS = {"uv.h": "libuv1-dev", "ev.h": "libev-dev", "event2/event.h": "libevent-dev", "liburing.h": "liburing-dev"}


def run(command, **options):
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if result.returncode != 0:
        raise BenchError(f"{' '.join(map(str, command))} failed:\n{result.stdout}{result.stderr}".rstrip())
    return result.stdout


class Build:
    def __init__(self, without_kolo):
        self.compiler = shlex.split(os.environ.get("CC") or "cc")
        self.folder = ROOT / "build" / "bench"
        self.check_tools()
        self.prefix = find_kolo(without_kolo)
        self.peers = [peer for peer in PEERS if peer.source != KOLO.source or self.prefix]
        if KOLO_URING in self.peers and not has_driver(self.prefix, KOLO_URING.driver):
            self.peers.remove(KOLO_URING)

    def program(self, name):
        return self.folder / name

    def check_tools(self):
        if shutil.which("cargo") is None:
            raise BenchError("mio and tokio need cargo: see https://rustup.rs")
        missing = {package for program, package in NEEDED.items() if shutil.which(program) is None}
        if shutil.which(self.compiler[0]) is None:
            missing.add("gcc")
        else:
            for header, package in HEADERS.items():
                if not self.has_header(header):
                    missing.add(package)
        if missing:
            names = " ".join(sorted(missing))
            raise BenchError(f"missing: {names}. On Debian: apt-get install {names} (make bench does so)")

    def has_header(self, header):
        command = [*self.compiler, "-E", "-x", "c", "-"]
        return subprocess.run(command, input=f"#include <{header}>\n", capture_output=True, text=True, check=False).returncode == 0

    def pkg_config(self, *arguments):
        environment = dict(os.environ)
        if self.prefix:
            own = str(self.prefix / "lib" / "pkgconfig")
            environment["PKG_CONFIG_PATH"] = os.pathsep.join(filter(None, [own, environment.get("PKG_CONFIG_PATH")]))
        return run(["pkg-config", *arguments], env=environment).split()

    def library_flags(self, peer):
        """All are linked as shared libraries, as their packages (and kolo's install) give them."""
        flags = list(peer.libraries)
        if peer.package:
            flags += self.pkg_config("--cflags", "--libs", peer.package)
        if peer.source == KOLO.source:
            flags.append(f"-Wl,-rpath,{self.prefix / 'lib'}")
        return flags

    def compile_all(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs = [("load", BENCHES / "load.c", []), ("udp_load", BENCHES / "datagrams" / "load.c", [])]
        for peer in [*self.peers, POSIX]:
            if peer in (LIBUV_AGAIN, KOLO_URING) or peer.crate:
                continue  # the same file, run once more; or cargo's
            flags = self.library_flags(peer)
            for folder, kind in PROGRAMS:
                name = f"{peer.source}_{kind}"
                source = BENCHES / folder / f"{name if folder == 'servers' else peer.source}.c"
                if source.exists():
                    jobs.append((name, source, flags))
        with concurrent.futures.ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            list(pool.map(lambda job: self.compile(*job), jobs))
        self.build_rust_peers()
        self.drop_uring_where_it_does_not_work()

    def compile(self, name, source, flags):
        run([*self.compiler, *FLAGS, "-o", self.program(name), source, *flags])

    def build_rust_peers(self):
        """Their own package, with its own lock file: nothing of it is kolo's."""
        target = self.folder / "rust"
        run(["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", RUST_PEERS / "Cargo.toml", "--target-dir", target])
        for peer in self.peers:
            for source in (RUST_PEERS / "src").glob(f"{peer.source}_*.rs") if peer.crate else []:
                self.program(source.stem).unlink(missing_ok=True)
                self.program(source.stem).symlink_to(target / "release" / "rust-peers")

    def drop_uring_where_it_does_not_work(self):
        """The server needs Linux 6.12; and some systems forbid io_uring."""
        command = [self.program(f"{URING.source}_echo")]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            print(f"WITHOUT {URING.label}: {result.stderr.strip()}")
            self.peers.remove(URING)

    def versions(self):
        found = {peer.label: locked_version(peer.crate) for peer in self.peers if peer.crate}
        for peer in self.peers:
            if peer.package and peer not in (LIBUV_AGAIN, KOLO_URING):
                found[peer.package if peer is URING else peer.label] = self.pkg_config("--modversion", peer.package)[0]
        macros = "#include <ev.h>\n@ EV_VERSION_MAJOR EV_VERSION_MINOR\n"
        text = run([*self.compiler, "-E", "-P", "-x", "c", "-"], input=macros)
        found[LIBEV.label] = ".".join(text.rpartition("@")[2].split())
        return {label: found[label] for label in sorted(found)}

    def stripped_bytes(self):
        """The size of kolo's shared library without its symbol table."""
        copy = self.folder / "libkolo.stripped.so"
        run(["strip", "--strip-unneeded", "-o", copy, (self.prefix / "lib" / "libkolo.so").resolve()])
        return copy.stat().st_size


def locked_version(crate):
    lock = (RUST_PEERS / "Cargo.lock").read_text()
    return re.search(rf'^name = "{crate}"\nversion = "(.+)"$', lock, re.MULTILINE).group(1)


def has_driver(prefix, name):
    """Whether this system lets kolo have the driver."""
    program = f"import ctypes; exit(ctypes.CDLL({str(prefix / 'lib' / 'libkolo.so')!r}).kolo_loop_new(None, ctypes.byref(ctypes.c_void_p())) != 0)"
    return subprocess.run(["python3", "-c", program], env={**os.environ, "KOLO_DRIVER": name}, check=False).returncode == 0


def find_kolo(without_kolo):
    """KOLO_PREFIX, or nothing when there is no kolo to be found and that was agreed to."""
    prefix = os.environ.get("KOLO_PREFIX")
    if prefix:
        library = pathlib.Path(prefix) / "lib" / "libkolo.so"
        if library.exists():
            return pathlib.Path(prefix).resolve()
        problem = f"no libkolo.so in KOLO_PREFIX ({prefix})"
    else:
        problem = "KOLO_PREFIX is not set"
    if not without_kolo:
        raise BenchError(f"{problem}. Run `make bench`, which installs kolo into a local prefix first")
    print(f"WITHOUT KOLO: {problem}; the peers alone are measured")
    return None
