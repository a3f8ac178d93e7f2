"""The server of several processes: connections handed to workers, and its control socket."""

import os
import re
import signal
import socket

from harness import Client, DEADLINE, Program, expect, expect_equal, run_program, temporary_folder, test, wait_until


class LocalServer(Program):
    def __init__(self, path, workers=2, **more):
        super().__init__("local_server", path, 0, workers, **more)
        self.path = path
        try:
            self.port = int(self.wait_line(r"workers serve 127\.0\.0\.1:(\d+), control at").group(1))
        except BaseException:
            self.process.kill()
            raise

    def ask(self, line):
        """One line asked, and all that is answered."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(DEADLINE)
            control.connect(self.path)
            control.sendall(line.encode() + b"\n")
            control.shutdown(socket.SHUT_WR)
            answer = b""
            while True:
                piece = control.recv(4096)
                if not piece:
                    return answer.decode()
                answer += piece

    def connections(self):
        return [int(number) for number in re.findall(r"connections: (\d+)", self.ask("status"))]


def who_serves(client):
    client.send(b"hello")
    text = b""
    while b"hello" not in text:
        piece = client.socket.recv(100)
        expect(piece, "ended after", text)
        text += piece
    return int(re.match(rb"worker (\d+): hello$", text).group(1))


@test
def local_server_hands_each_connection_to_the_worker_that_has_the_fewest():
    with temporary_folder() as folder, LocalServer(os.path.join(folder, "control"), workers=3) as server:
        clients = [Client(server.port) for _ in range(9)]
        served = [who_serves(client) for client in clients]
        expect_equal(sorted(served), [1, 1, 1, 2, 2, 2, 3, 3, 3])
        expect_equal(server.connections(), [3, 3, 3])
        # All of one worker's leave: it is the next one's turn, three times.
        for client, worker in zip(clients, served):
            if worker == 2:
                client.close()
        wait_until(lambda: server.connections() == [3, 0, 3], "the workers tell of those who left")
        more = [Client(server.port) for _ in range(3)]
        expect_equal([who_serves(client) for client in more], [2, 2, 2])
        for client in clients + more:
            client.close()
        wait_until(lambda: server.connections() == [0, 0, 0], "everybody has left")


@test
def local_server_tells_who_asks_and_stops_when_asked():
    with temporary_folder() as folder, LocalServer(os.path.join(folder, "control")) as server:
        expect_equal(os.stat(server.path).st_mode & 0o777, 0o600)
        expect_equal(server.ask("what"), "status or stop?\n")
        expect_equal(server.ask("x" * 1000), "status or stop?\n")
        server.wait_line(f"^asked by process {os.getpid()} of user {os.geteuid()}$")
        expect(re.match(r"(worker \d, process \d+: serving, connections: 0\n){2}$", server.ask("status")))
        with Client(server.port) as client:
            who_serves(client)
            expect_equal(server.ask("stop"), "stopping\n")
            expect_equal(client.socket.recv(1), b"")
        expect_equal(server.wait(), 0, server.output("err"))
        expect_equal(server.output()[-1], "stopped")
        expect(not os.path.exists(server.path))


@test
def local_server_replaces_only_a_control_socket_that_nobody_serves():
    with temporary_folder() as folder:
        path = os.path.join(folder, "control")
        with LocalServer(path) as server:
            second = run_program("local_server", path, 0, 1)
            expect_equal((second.returncode, b"in use" in second.stderr), (1, True), second.stderr)
            server.ask("status")
            server.signal(signal.SIGKILL)
            server.wait()
        expect(os.path.exists(path))
        with LocalServer(path) as server:
            server.ask("stop")
            expect_equal(server.wait(), 0)


@test
def local_server_goes_on_without_a_worker_that_was_killed():
    with temporary_folder() as folder, LocalServer(os.path.join(folder, "control")) as server:
        first = int(re.search(r"worker 1, process (\d+)", server.ask("status")).group(1))
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: "worker 1, process %d: ended" % first in server.ask("status"), "its end is noticed")
        with Client(server.port) as client, Client(server.port) as other:
            expect_equal([who_serves(client), who_serves(other)], [2, 2])
        server.signal(signal.SIGTERM)
        expect_equal(server.wait(), 0, server.output("err"))


@test(seconds=300)
def valgrind_finds_nothing_in_the_local_server():
    with temporary_folder() as folder, LocalServer(os.path.join(folder, "control"), valgrind=True) as server:
        clients = [Client(server.port) for _ in range(4)]
        expect_equal(sorted(who_serves(client) for client in clients), [1, 1, 2, 2])
        clients[0].close()
        clients[1].reset()
        wait_until(lambda: sum(server.connections()) == 2, "the workers tell of those who left")
        server.ask("stop")
        expect_equal(server.wait(120), 0, server.output("err"))
        expect(not any("==" in line for line in server.output("err")), server.output("err"))
        for client in clients[2:]:
            client.close()
