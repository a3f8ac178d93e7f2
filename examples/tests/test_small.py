"""The smaller examples, each with real peers."""

import collections
import errno
import os
import re
import select
import shutil
import signal
import socket
import struct
import threading
import zlib

from harness import (Client, HttpServer, Program, expect, expect_equal, get, pattern, run_program, temporary_folder, test,
                     wait_until, write_file)


class EchoServer(Program):
    def __init__(self):
        super().__init__("echo_server", "0")
        self.port = int(self.wait_line(r"^echo server on 127\.0\.0\.1:(\d+)$").group(1))


class Listener:
    """A peer that does what a test says, for one connection at a time."""

    def __init__(self, serve=lambda connection: None, backlog=16):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.port = self.socket.getsockname()[1]
        self.serve, self.connections = serve, []
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        try:
            while True:
                connection, _ = self.socket.accept()
                self.connections.append(connection)
                self.serve(connection)
        except OSError:
            pass  # closed by the test

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.socket.shutdown(socket.SHUT_RDWR)
        for connection in self.connections:
            connection.close()
        self.socket.close()


def receive_all(connection):
    pieces = []
    while True:
        piece = connection.recv(1 << 20)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


# ---- echo_server ------------------------------------------------------------------------------------------------------


@test
def echo_server_sends_back_what_it_gets_to_many_at_once():
    with EchoServer() as server:
        clients = [Client(server.port) for _ in range(50)]
        for number, client in enumerate(clients):
            client.send(pattern(3000, number))
        for number, client in enumerate(clients):
            client.end()
            expect_equal(receive_all(client.socket), pattern(3000, number))
            client.close()


@test
def echo_server_echoes_megabytes_through_a_slow_reader():
    content = pattern(8_000_000)
    with EchoServer() as server, Client(server.port, receive_buffer=4096) as client:
        sender = threading.Thread(target=lambda: (client.send(content), client.end()), daemon=True)
        sender.start()
        expect(receive_all(client.socket) == content)
        sender.join()


@test
def echo_server_does_not_read_on_for_who_takes_nothing():
    with EchoServer() as server, Client(server.port, receive_buffer=4096) as client:
        before = server.peak_memory_kib()
        content = pattern(1_000_000) * 64
        sent = client.send_what_fits(content)
        expect(sent < len(content), "the server has taken all")
        expect(server.peak_memory_kib() - before < 2048, "KiB:", server.peak_memory_kib() - before)
        client.end()
        expect(receive_all(client.socket) == content[:sent], "nothing is lost")


@test
def echo_server_says_when_its_port_is_taken():
    with EchoServer() as server:
        done = run_program("echo_server", server.port)
        expect_equal((done.returncode, done.stdout), (1, b""))
        expect(b"listen" in done.stderr, done.stderr)


# ---- timers -----------------------------------------------------------------------------------------------------------


@test
def timers_fire_in_order_and_never_early():
    done = run_program("timers")
    expect_equal((done.returncode, done.stderr), (0, b""))
    lines = done.stdout.decode().splitlines()
    seen = [re.fullmatch(r" *(\d+) ms  (.*?)(?: \(late.*\))?", line) for line in lines if " ms  " in line]
    expect_equal([found.group(2) for found in seen],
                 ["once: fired", "tick 1", "tick 2", "tick 3", "tick 4", "ticks stopped", "watchdog: no tick for 250 ms",
                  "the loop has ended"])
    times = [int(found.group(1)) for found in seen]
    for time, least in zip(times, [50, 80, 160, 240, 320, 320, 570, 570]):
        expect(time >= least, lines)
    expect_equal(times, sorted(times))
    expect("most of its time left" in done.stdout.decode(), lines)


# ---- copy_tree --------------------------------------------------------------------------------------------------------


def tree_of(folder):
    """Every path in it, with what it holds."""
    found = {}
    for path, folders, files in os.walk(folder):
        for name in folders + files:
            whole = os.path.join(path, name)
            inside = os.path.relpath(whole, folder)
            if os.path.islink(whole):
                found[inside] = ("link", os.readlink(whole))
            elif os.path.isdir(whole):
                found[inside] = ("folder", os.stat(whole).st_mode)
            else:
                with open(whole, "rb") as file:
                    found[inside] = (file.read(), os.stat(whole).st_mode)
    return found


def make_tree(root):
    for number in range(700):  # more than one batch
        write_file(root, f"from/many/{number}", pattern(number, number))
    write_file(root, "from/deep/in/it/large", pattern(3_000_000))
    os.chmod(os.path.join(root, "from/deep/in/it/large"), 0o600)
    os.makedirs(os.path.join(root, "from/empty"))
    os.symlink("many/3", os.path.join(root, "from/link"))
    os.symlink("nowhere", os.path.join(root, "from/dangling"))


@test
def copy_tree_copies_all_that_is_in_a_folder():
    with temporary_folder() as root:
        make_tree(root)
        done = run_program("copy_tree", os.path.join(root, "from"), os.path.join(root, "to"))
        expect_equal(done.returncode, 0, done.stderr)
        expect_equal(tree_of(os.path.join(root, "to")), tree_of(os.path.join(root, "from")))
        expect(b"701 files" in done.stdout and b"2 links" in done.stdout, done.stdout)
        done = run_program("copy_tree", os.path.join(root, "from"), os.path.join(root, "to"))
        expect_equal(done.returncode, 1)
        done = run_program("copy_tree", os.path.join(root, "from"), os.path.join(root, "from/many/copy"))
        expect_equal(done.returncode, 0, done.stderr)
        expect(not os.path.exists(os.path.join(root, "from/many/copy/many/copy")))


@test
def copy_tree_names_what_it_leaves_out():
    with temporary_folder() as root:
        write_file(root, "from/file", b"x")
        os.mkfifo(os.path.join(root, "from/fifo"))
        done = run_program("copy_tree", os.path.join(root, "from"), os.path.join(root, "to"))
        expect_equal(done.returncode, 1)
        expect(b"from/fifo: neither" in done.stderr, done.stderr)
        expect_equal(os.listdir(os.path.join(root, "to")), ["file"])
        done = run_program("copy_tree", os.path.join(root, "none"), os.path.join(root, "to2"))
        expect_equal(done.returncode, 1)
        expect(b"no such file" in done.stderr, done.stderr)


@test
def copy_tree_leaves_no_half_copied_file_when_it_is_stopped():
    with temporary_folder() as root:
        write_file(root, "from/endless", b"")
        os.truncate(os.path.join(root, "from/endless"), 1 << 34)  # sparse
        part = os.path.join(root, "to/endless")
        with Program("copy_tree", os.path.join(root, "from"), os.path.join(root, "to")) as program:
            wait_until(lambda: os.path.exists(part) and os.path.getsize(part) > 0, "the copy has begun")
            program.signal(signal.SIGINT)
            expect_equal(program.wait(), 1, program.output("err"))
        expect(not os.path.exists(part))


# ---- post -------------------------------------------------------------------------------------------------------------


@test
def post_adds_up_what_all_threads_found():
    for _ in range(5):
        done = run_program("post")
        expect_equal((done.returncode, done.stderr), (0, b""))
        expect_equal(done.stdout.decode().splitlines()[-1], "100 results: 78498 primes below 1000000")


# ---- work -------------------------------------------------------------------------------------------------------------


@test
def work_tells_the_checksum_of_each_file():
    contents = {f"file {number}": pattern(number * 10_000, number) for number in range(20)}
    with temporary_folder() as folder:
        for name, content in contents.items():
            write_file(folder, name, content)
        paths = {os.path.join(folder, name): content for name, content in contents.items()}
        missing = os.path.join(folder, "missing")
        done = run_program("work", *paths, missing)
        expect_equal(done.returncode, 1)
        expect_equal(done.stderr.decode(), f"work: {missing}: No such file or directory\n")
        found = dict(reversed(line.split("  ", 1)) for line in done.stdout.decode().splitlines())
        expect_equal(found, {path: f"{zlib.crc32(content):08x}" for path, content in paths.items()})


@test
def work_gives_up_what_has_not_begun():
    with temporary_folder() as folder:
        # Nobody writes to them: the threads of the pool wait, and so do the files behind them.
        fifos = [os.path.join(folder, f"fifo {number}") for number in range(8)]
        for fifo in fifos:
            os.mkfifo(fifo)
        with Program("work", *fifos) as program:
            writers = {}

            def four_begun():
                for fifo in fifos:
                    if fifo not in writers:
                        try:
                            writers[fifo] = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
                        except OSError as error:
                            expect_equal(error.errno, errno.ENXIO, "nobody reads it yet")
                return len(writers) == 4

            wait_until(four_begun, "four threads have begun")
            program.signal(signal.SIGINT)
            for _ in range(4):
                program.wait_line("given up$", "err")
            for writer in writers.values():  # those that were begun run to their end
                os.close(writer)
            expect_equal(program.wait(), 1, program.output("err"))
            expect_equal(len(program.output("err")), 4, program.output("err"))
            expect_equal(len(program.output()), 4, program.output())


# ---- system -----------------------------------------------------------------------------------------------------------


@test
def system_tells_of_the_machine():
    done = run_program("system")
    expect_equal((done.returncode, done.stderr), (0, b""))
    told = dict(line.split(": ", 1) for line in done.stdout.decode().splitlines() if ": " in line)
    expect_equal(told["host"], socket.gethostname())
    expect_equal(int(told["threads at once"]) >= 1, True)
    with open("/proc/meminfo", encoding="ascii") as file:
        expect_equal(told["memory of the machine"] + "\n", file.readline().split()[1] + " KiB\n")
    expect(re.fullmatch(r"( [0-9a-f]{2}){8}", " " + told["random"]), told["random"])


# ---- many_loops -------------------------------------------------------------------------------------------------------


@test
def many_loops_share_the_connections_and_stop_in_order():
    with Program("many_loops", "0", "3") as program:
        port = int(program.wait_line(r"^3 loops on 127\.0\.0\.1:(\d+)$").group(1))
        clients = [Client(port) for _ in range(30)]
        loops = collections.Counter(client.socket.makefile("rb").readline().decode() for client in clients)
        expect_equal(set(loops), {"loop 0\n", "loop 1\n", "loop 2\n"})
        expect(all(count > 5 for count in loops.values()), loops)
        clients[7].send(b"hello")
        expect_equal(clients[7].socket.recv(5, socket.MSG_WAITALL), b"hello")
        program.signal(signal.SIGINT)
        for client in clients:
            expect_equal(receive_all(client.socket), b"", "the end, and nothing else")
            client.close()
        expect_equal(program.wait(), 0, program.output("err"))


# ---- signals ----------------------------------------------------------------------------------------------------------


@test
def signals_counts_what_it_gets_and_ends_on_sigterm():
    with Program("signals") as program:
        found = program.wait_line(r"^process (\d+) waits for signals")
        expect_equal(int(found.group(1)), program.process.pid)
        wanted = {"SIGINT": 0, "SIGHUP": 0, "SIGUSR1": 0, "SIGUSR2": 0}
        for name in ["SIGINT", "SIGUSR1", "SIGINT", "SIGHUP", "SIGINT", "SIGUSR1"]:
            program.signal(getattr(signal, name))
            wanted[name] += 1
            program.wait_line(f"^{name}: {wanted[name]} so far$")
        program.signal(signal.SIGTERM)
        expect_equal(program.wait(), 0)
        expect_equal(program.output()[-4:], [f"{name}: {count}" for name, count in wanted.items()])


# ---- supervisor -------------------------------------------------------------------------------------------------------


@test
def supervisor_passes_on_what_programs_print_and_ends_when_all_are_done():
    commands = ["one=echo first; echo second >&2; printf unended", "two=sleep 0.2; echo last", "long=printf %05000d 7"]
    done = run_program("supervisor", *commands)
    expect_equal((done.returncode, done.stderr), (0, b""))
    lines = done.stdout.decode().splitlines()
    expect_equal([line for line in lines if line.startswith("one |")], ["one | first", "one | unended"])
    expect("one ! second" in lines and "two | last" in lines, lines)
    expect_equal([len(line) for line in lines if line.startswith("long |")], [4096 + 7, 5000 - 4096 + 7])
    for name in ["one", "two", "long"]:
        expect(f"{name}: ended with status 0" in lines, lines)


@test
def supervisor_starts_again_what_failed_ever_later():
    with temporary_folder() as folder:
        count = os.path.join(folder, "count")
        command = f"flaky=echo x >> {count}; echo try $(wc -l < {count}); [ $(wc -l < {count}) -ge 5 ] && exit 0; exit 7"
        done = run_program("supervisor", "--retry-min", "0.02", "--retry-max", "0.1", command)
        expect_equal((done.returncode, done.stderr), (0, b""))
        lines = done.stdout.decode().splitlines()
        expect_equal([line for line in lines if "|" in line], [f"flaky | try {number}" for number in range(1, 6)])
        waits = [line for line in lines if "again" in line]
        expect_equal(waits, [f"flaky: again in {delay} s" for delay in ["0.02", "0.04", "0.08", "0.10"]])
        expect_equal(lines.count("flaky: ended with status 7"), 4)


@test
def supervisor_stops_all_in_order():
    commands = ["polite=trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done",
                "family=sleep 600 & echo ready; wait", "failing=exit 1"]
    with Program("supervisor", "--retry-min", "500", *commands) as program:
        program.wait_line("^polite . ready$")
        program.wait_line("^family . ready$")
        program.wait_line("^failing: again")
        program.signal(signal.SIGTERM)
        expect_equal(program.wait(), 0)
        expect("polite | bye" in program.output(), program.output())
        expect(f"family: ended by signal {int(signal.SIGTERM)}" in program.output(), program.output())


@test
def supervisor_kills_what_does_not_stop():
    for second in [False, True]:
        command = "stubborn=trap '' TERM; echo ready; while :; do sleep 0.05; done"
        with Program("supervisor", "--grace", "600" if second else "0.2", command) as program:
            program.wait_line("ready$")
            program.signal(signal.SIGINT)
            program.wait_line("^supervisor: stopping$")
            if second:
                program.signal(signal.SIGINT)
            expect_equal(program.wait(), 1)
            expect(f"stubborn: ended by signal {int(signal.SIGKILL)}" in program.output(), program.output())


@test
def supervisor_goes_on_when_descriptors_are_short():
    # Enough for itself, not for a program's pipes: so it tries again, and stops when it is told to.
    with Program("supervisor", "--retry-min", "0.05", "x=echo never", descriptors=9) as program:
        program.wait_line("too many open files", "err")
        program.wait_line("^x: again")
        program.signal(signal.SIGTERM)
        expect_equal(program.wait(), 0)


@test
def supervisor_explains_itself():
    for arguments in [[], ["x"], ["=x"], ["--grace", "x", "a=b"], ["--nonsense", "1", "a=b"], ["--grace", "1"]]:
        done = run_program("supervisor", *arguments)
        expect_equal((done.returncode, done.stderr.startswith(b"usage: ")), (2, True), arguments)


# ---- resolve ----------------------------------------------------------------------------------------------------------


@test
def resolve_prints_the_addresses_of_names_and_the_names_of_addresses():
    done = run_program("resolve", "localhost", "127.0.0.1")
    expect_equal((done.returncode, done.stderr), (0, b""))
    lines = sorted(done.stdout.decode().splitlines())
    expect_equal(len(lines), 2)
    expect(re.match(r"127\.0\.0\.1: \S+$", lines[0]), lines)
    expect(re.match(r"localhost( \(\S+\))?:( 127\.0\.0\.1| ::1)+$", lines[1]), lines)


@test
def resolve_tells_what_cannot_be_looked_up():
    done = run_program("resolve", "[::1]", "127.0.0.1%1")
    expect_equal((done.returncode, done.stdout), (1, b""))
    for name in ["[::1]", "127.0.0.1%1"]:
        expect(f"{name}: no such name or service (KOLO_EAI_NONAME)" in done.stderr.decode().splitlines(), done.stderr)
    for wrong in [(), ("--seconds", "1"), ("--seconds", "x", "localhost"), ("--seconds", "0", "localhost")]:
        expect_equal(run_program("resolve", *wrong).returncode, 2, wrong)
# ---- sim_counter ------------------------------------------------------------------------------------------------------


@test
def sim_counter_finds_its_bug_by_seed_and_shows_it_again():
    found = run_program("sim_counter")
    expect_equal(found.returncode, 1, found.stderr)
    first, second = found.stdout.decode().splitlines()
    seed = re.match(r"seed (\d+): client [123]: ", first).group(1)
    expect_equal(second, f"and again, the same run: ./sim_counter --seed {seed} --trace shows it")
    traces = [run_program("sim_counter", "--seed", seed, "--trace") for _ in range(2)]
    expect_equal(traces[0].stdout, traces[1].stdout)
    expect(len(traces[0].stdout.splitlines()) > 500 and first in traces[0].stdout.decode().splitlines())


@test
def sim_counter_without_the_bug_passes_every_seed():
    passed = run_program("sim_counter", "--fixed", "--seeds", "300")
    expect_equal((passed.returncode, passed.stdout), (0, b"300 seeds passed\n"), passed.stderr)


# ---- watch ------------------------------------------------------------------------------------------------------------


@test
def watch_prints_what_changes_below_a_folder():
    with temporary_folder() as folder:
        os.mkdir(os.path.join(folder, "old"))
        with Program("watch", folder) as program:
            program.wait_line("^watching$")
            os.makedirs(os.path.join(folder, "new/deep"))
            program.wait_line(r"^created   new/deep/$")
            write_file(folder, "old/file", b"x")
            program.wait_line(r"^modified  old/file$")
            os.rename(os.path.join(folder, "old/file"), os.path.join(folder, "new/deep/line\nbreak"))
            program.wait_line(r"^renamed   old/file -> new/deep/line\\x0abreak$")
            shutil.rmtree(folder)
            program.wait_line(r"^removed   \./$")
            os.mkdir(folder)
            program.wait_line(r"^created   \./$")
            program.signal(signal.SIGINT)
            expect_equal(program.wait(), 0)


@test
def watch_looks_again_and_again_when_asked_to():
    with temporary_folder() as folder:
        write_file(folder, "file", b"x")
        with Program("watch", "--poll", "5", folder) as program:
            program.wait_line("^watching$")
            write_file(folder, "file", b"longer")
            program.wait_line(r"^modified  file  \d+ -> 6 bytes$")
            program.signal(signal.SIGINT)
            expect_equal(program.wait(), 0)


@test
def watch_tells_what_it_cannot_watch():
    done = run_program("watch", "/nothing/here")
    expect_equal((done.returncode, done.stdout), (1, b""))
    expect_equal(done.stderr.decode(), "watch: /nothing/here: no such file, handle or request\n")


# ---- tcp_client -------------------------------------------------------------------------------------------------------


@test
def tcp_client_sends_a_text_and_prints_the_answer():
    with EchoServer() as server:
        done = run_program("tcp_client", "127.0.0.1", server.port, "hello there")
        expect_equal((done.returncode, done.stdout), (0, b"hello there\n"))
        expect_equal(done.stderr.decode(), f"connected to 127.0.0.1:{server.port}\n")
        done = run_program("tcp_client", "localhost", server.port, "by name")
        expect_equal((done.returncode, done.stdout), (0, b"by name\n"))


@test
def tcp_client_sends_its_standard_input_from_a_file_or_a_pipe():
    content = pattern(6_000_000)
    with temporary_folder() as folder, EchoServer() as server:
        with open(write_file(folder, "file", content), "rb") as file:
            done = run_program("tcp_client", "127.0.0.1", server.port, stdin=file)
        expect_equal((done.returncode, done.stdout == content), (0, True), "file", done.stderr)
        done = run_program("tcp_client", "127.0.0.1", server.port, stdin=content)
        expect_equal((done.returncode, done.stdout == content), (0, True), "pipe", done.stderr)
        done = run_program("tcp_client", "127.0.0.1", server.port)
        expect_equal((done.returncode, done.stdout), (0, b""), "nothing", done.stderr)


@test
def tcp_client_talks_line_by_line():
    reading, writing = os.pipe()
    with EchoServer() as server, open(writing, "wb", buffering=0) as pipe:
        with open(reading, "rb") as stdin:
            program = Program("tcp_client", "--read-timeout", "0.2", "127.0.0.1", server.port, stdin=stdin)
        with program:
            program.wait_line("connected", "err")
            for line in ["one", "two", "three"]:
                pipe.write(line.encode() + b"\n")
                program.wait_line(f"^{line}$")
            pipe.close()
            expect_equal(program.wait(), 0, program.output("err"))


@test
def tcp_client_tells_a_refused_connection():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = run_program("tcp_client", "127.0.0.1", port, "x")
    expect_equal((done.returncode, done.stdout), (1, b""))
    expect_equal(done.stderr.decode(), f"tcp_client: nobody listens on 127.0.0.1:{port}\n")


@test
def tcp_client_tells_names_and_ports_that_there_are_not():
    done = run_program("tcp_client", "[::1]", 80, "x")
    expect_equal((done.returncode, done.stderr.decode()), (1, "tcp_client: there is no host [::1]\n"))
    for port in ["65536", "-1", "http", ""]:
        done = run_program("tcp_client", "localhost", port, "x")
        expect_equal((done.returncode, done.stderr[:6]), (2, b"usage:"), port)
    done = run_program("tcp_client", "", 80, "x")
    expect_equal((done.returncode, b"KOLO_EINVAL" in done.stderr), (1, True), done.stderr)


@test
def tcp_client_gives_up_when_nobody_answers_the_connect():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = []
        try:
            while True:  # until the backlog is full, and the system drops who comes now
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(listener.getsockname())
                if not select.select([], [waiting[-1]], [], 1)[1]:
                    break
                expect(len(waiting) < 100, "the backlog never fills")
            port = listener.getsockname()[1]
            done = run_program("tcp_client", "--connect-timeout", "0.3", "127.0.0.1", port, "x")
            expect_equal((done.returncode, done.stdout), (1, b""))
            expect_equal(done.stderr.decode(), f"tcp_client: 127.0.0.1:{port} does not answer\n")
        finally:
            for connection in waiting:
                connection.close()


@test
def tcp_client_gives_up_on_a_silent_peer():
    with Listener() as peer:
        done = run_program("tcp_client", "--read-timeout", "0.3", "127.0.0.1", peer.port, "x")
        expect_equal(done.returncode, 1)
        expect(f"127.0.0.1:{peer.port} has sent nothing for 0.3 seconds" in done.stderr.decode(), done.stderr)


@test
def tcp_client_gives_up_on_a_peer_that_takes_nothing():
    with temporary_folder() as folder, Listener() as peer:
        with open(write_file(folder, "file", b"x" * 40_000_000), "rb") as file:
            done = run_program("tcp_client", "--write-timeout", "0.3", "127.0.0.1", peer.port, stdin=file)
        expect_equal(done.returncode, 1)
        expect(f"127.0.0.1:{peer.port} has taken nothing for 0.3 seconds" in done.stderr.decode(), done.stderr)


@test
def tcp_client_tells_a_lost_connection():
    def reset(connection):
        expect(connection.recv(100))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    with Listener(reset) as peer:
        done = run_program("tcp_client", "127.0.0.1", peer.port, "x")
        expect_equal(done.returncode, 1)
        expect(f"connection to 127.0.0.1:{peer.port} lost: " in done.stderr.decode(), done.stderr)
        expect("KOLO_ECONNRESET" in done.stderr.decode(), done.stderr)


@test
def tcp_client_explains_itself():
    for arguments in [[], ["127.0.0.1"], ["127.0.0.1", "1", "x", "y"], ["--nonsense", "1", "127.0.0.1", "1"],
                      ["--read-timeout", "x", "127.0.0.1", "1"], ["127.0.0.1", "no-such-port", "x"]]:
        done = run_program("tcp_client", *arguments)
        expect_equal((done.returncode, done.stderr.startswith(b"usage: ")), (2, True), arguments)


# ---- foreign_fd -------------------------------------------------------------------------------------------------------


@test
def foreign_fd_drives_many_fetches_of_a_foreign_library_at_once():
    with temporary_folder() as root:
        lengths = [0, 5, 40_000, 1_000_000]
        for length in lengths:
            write_file(root, str(length), pattern(length))
        with HttpServer(root) as server:
            paths = [f"/{length}" for length in lengths] * 7
            headers = {f"/{length}": len_of_header(server, f"/{length}") for length in lengths}
            done = run_program("foreign_fd", "127.0.0.1", server.port, *paths, "/none")
            expect_equal((done.returncode, done.stderr), (0, b""))
            lines = done.stdout.decode().splitlines()
            wanted = [f"{path}: HTTP/1.1 200 OK, {headers[path] + int(path[1:])} bytes" for path in paths]
            expect_equal(sorted(line for line in lines if "/none" not in line), sorted(wanted))
            expect(any(line.startswith("/none: HTTP/1.1 404 Not Found, ") for line in lines), lines)


def len_of_header(server, path):
    with server.client() as client:
        client.send(get(path, version="1.0"))
        return len(receive_all(client.socket).split(b"\r\n\r\n", 1)[0]) + 4


@test
def foreign_fd_tells_what_failed():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = run_program("foreign_fd", "127.0.0.1", port, "/a", "/b")
    expect_equal((done.returncode, sorted(done.stdout.decode().splitlines())),
                 (1, ["/a: failed: Connection refused", "/b: failed: Connection refused"]))
    expect_equal(run_program("foreign_fd").returncode, 2)


@test
def no_example_is_left_running_by_these_tests():
    """Each ends with its peers, or by a signal that the tests wait for: nothing of ours runs on."""
    def ours():
        found = []
        for entry in os.listdir("/proc"):
            try:
                with open(f"/proc/{entry}/stat", encoding="ascii") as file:
                    fields = file.read().rpartition(")")[2].split()
                if entry.isdigit() and int(fields[1]) == os.getpid():
                    found.append(entry)
            except OSError:
                pass
        return found

    wait_until(lambda: not ours(), "processes that still run")
