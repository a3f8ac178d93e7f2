"""The examples under valgrind: no wrong access to memory, and nothing lost at the end."""

import os
import signal

from harness import (HttpServer, Program, expect, expect_equal, get, pattern, run_program, temporary_folder, test, write_file)


@test(seconds=300)
def valgrind_finds_nothing_in_the_http_server():
    with temporary_folder() as folder:
        root, content = os.path.join(folder, "root"), pattern(3_000_000)
        write_file(root, "big", content)
        write_file(root, "small", b"small")
        write_file(root, "folder/<file>", b"x")
        write_file(folder, "outside", b"secret")
        os.symlink("../outside", os.path.join(root, "out"))
        with HttpServer(root, "--header-timeout", "1", "--idle", "20", quiet=False, valgrind=True) as server:
            with server.client() as client:
                client.send(b"\r\n" + get("/small") * 50 + get("/big") + get("/folder/") + get("/folder") + get("/none")
                            + get("/out") + get("/../x") + get("/small", "If-None-Match: *", "If-Modified-Since: yesterday")
                            + get("/big", "Range: bytes=5-100000", "If-Range: x") + get("/big", "Range: bytes=-50000")
                            + get("/small", "Content-Length: 5", method="POST") + b"12345" + get("*", method="OPTIONS"))
                statuses = [client.reply().status for _ in range(61)]
                expect_equal(statuses, [200] * 52 + [301, 404, 403, 403, 304, 200, 206, 405, 204])
                for byte in get("/small"):
                    client.send(bytes([byte]))
                expect_equal(client.reply().body, b"small")
            for bad, status in [(b"GET\r\n\r\n", 400), (get("/" + "x" * 9000), 414), (get("/", "X: " + "x" * 20000), 431),
                                (get("/", "Transfer-Encoding: chunked"), 411)]:
                with server.client() as client:
                    client.send(bad)
                    expect_equal([reply.status for reply in client.replies_until_end()], [status])
            with server.client() as trickle, server.client() as body, server.client() as half:
                trickle.send(b"GET / HT")
                body.send(get("/x", "Content-Length: 10", method="PUT"))
                half.send(get("/big") + b"GET /x")
                half.end()
                expect_equal(trickle.reply().status, 408)
                expect_equal(body.reply().status, 405)
                body.expect_end()
                expect(half.reply().body == content)
                half.expect_end()
            gone = [server.client(receive_buffer=4096) for _ in range(10)]
            for client in gone:
                client.send(get("/big") + get("/small"))
                expect(client._more())
            for client in gone:
                client.reset()
            slow = server.client(receive_buffer=4096)
            slow.send(get("/big"))
            expect(slow._more())
            with server.client() as idle, server.client() as partial:
                idle.send(get("/small"))
                idle.reply()
                partial.send(b"GET /sm")
                server.signal(signal.SIGINT)
                server.wait_line("Stopping: ", "err")
                idle.expect_end()
                expect(slow.reply().body == content)
                slow.expect_end()
                slow.close()
            expect_equal(server.wait(120), 0, "exit status; valgrind said", server.output("err")[-60:])


@test(seconds=300)
def valgrind_finds_nothing_in_an_http_server_that_is_ended_at_once():
    with temporary_folder() as root:
        write_file(root, "big", b"x" * 30_000_000)
        write_file(root, "small", b"x" * 30_000)
        with HttpServer(root, quiet=False, valgrind=True) as server:
            clients = [server.client(receive_buffer=4096) for _ in range(8)]
            for number, client in enumerate(clients):
                client.send([get("/big") + get("/small"), get("/small") * 400, get("/big") + b"GET /x", get("/")][number % 4])
                expect(client._more())
            server.signal(signal.SIGINT)
            server.wait_line("Stopping: ", "err")
            server.signal(signal.SIGTERM)
            expect_equal(server.wait(120), 0, "exit status; valgrind said", server.output("err")[-60:])
            for client in clients:
                client.close()


@test(seconds=300)
def valgrind_finds_nothing_in_the_supervisor():
    commands = ["flaky=echo tried; exit 1", "once=echo once", "on=echo ready; exec sleep 600"]
    with Program("supervisor", "--retry-min", "0.05", "--retry-max", "0.1", *commands, valgrind=True) as program:
        program.wait_line("^on . ready$")
        program.wait_line("^once: ended with status 0$")
        for _ in range(3):
            program.wait_line("^flaky . tried$")
        program.signal(signal.SIGTERM)
        expect_equal(program.wait(), 0, program.output("err"))


@test(seconds=300)
def valgrind_finds_nothing_in_the_smaller_examples():
    def expect_clean(done, status=0):
        expect_equal(done.returncode, status, done.args, done.stderr.decode())
        expect(b"==" not in done.stderr, done.stderr.decode())

    with temporary_folder() as root:
        write_file(root, "big", pattern(300_000))
        with HttpServer(root) as server:
            expect_clean(run_program("timers", valgrind=True))
            expect_clean(run_program("copy_tree", root, os.path.join(root, "copy"), valgrind=True))
            expect_clean(run_program("post", valgrind=True, seconds=200))
            expect_clean(run_program("work", os.path.join(root, "big"), valgrind=True))
            expect_clean(run_program("foreign_fd", "127.0.0.1", server.port, "/big", "/", "/none", valgrind=True))
            expect_clean(run_program("tcp_client", "127.0.0.1", server.port, stdin=get("/big", version="1.0"), valgrind=True))
            port = server.port
        expect_clean(run_program("resolve", "localhost", "127.0.0.1", valgrind=True))
        expect_clean(run_program("sim_counter", "--fixed", "--seeds", "3", valgrind=True))
        expect_clean(run_program("tcp_client", "localhost", port, "x", valgrind=True), 1)
        expect_clean(run_program("foreign_fd", "127.0.0.1", port, "/", valgrind=True), 1)
    with temporary_folder() as folder, Program("watch", folder, valgrind=True) as program:
        program.wait_line("^watching$")
        write_file(folder, "new/file", b"x")
        program.wait_line("^created   new/file$")
        program.signal(signal.SIGINT)
        expect_equal(program.wait(), 0, program.output("err"))
    with Program("signals", valgrind=True) as program:
        program.wait_line("waits for signals")
        program.signal(signal.SIGUSR1)
        program.wait_line("^SIGUSR1: 1 so far$")
        program.signal(signal.SIGTERM)
        expect_equal(program.wait(), 0, program.output("err"))
