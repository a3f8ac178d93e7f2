"""http_server.c: timeouts, limits of the system, stopping, and what is left behind: nothing."""

import os
import select
import signal
import socket
import time

from harness import (Client, HttpServer, Program, expect, expect_equal, get, pattern, run_program, temporary_folder, test,
                     wait_until, write_file)

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@test
def a_header_that_trickles_in_is_cut_off_although_bytes_keep_coming():
    with temporary_folder() as root:
        with HttpServer(root, "--header-timeout", "0.5", "--idle", "50") as server, server.client() as client:
            client.send(b"GET / HTTP/1.1\r\nX: ")
            while not select.select([client.socket], [], [], 0.05)[0]:
                client.send(b"x")
            reply = client.reply()
            expect_equal((reply.status, reply["connection"]), (408, "close"))
            client.end()
            client.expect_end()


@test
def the_deadline_counts_anew_for_each_request():
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        with HttpServer(root, "--header-timeout", "3", "--idle", "50") as server, server.client() as client:
            text, start = get("/file"), time.monotonic()
            client.send(text[:10])
            while time.monotonic() < start + 5:  # always in the middle of a request, but never long of the same
                client.send(text[10:] + text[:10])
                expect_equal(client.reply().status, 200)
                time.sleep(0.05)
        with HttpServer(root, "--header-timeout", "0.5", "--idle", "50") as server, server.client() as client:
            client.send(get("/file") + b"GET")
            expect_equal(client.reply().status, 200)
            expect_equal(client.reply().status, 408)


@test
def a_body_that_trickles_in_is_cut_off():
    with temporary_folder() as root:
        with HttpServer(root, "--header-timeout", "0.5", "--idle", "50") as server, server.client() as client:
            client.send(get("/x", "Content-Length: 1000000", method="POST"))
            expect_equal(client.reply().status, 405)
            while not select.select([client.socket], [], [], 0.05)[0]:
                client.send(b"x")
            client.end()
            client.expect_end()


@test
def idle_connections_are_closed():
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        with HttpServer(root, "--idle", "0.5") as server:
            before = server.descriptors()
            with server.client() as silent, server.client() as served:
                served.send(get("/file"))
                expect_equal(served.reply().status, 200)
                silent.expect_end()
                served.expect_end()
                silent.end(), served.end()
                wait_until(lambda: server.descriptors() <= before, "descriptors as before")


@test
def a_long_download_is_not_idle():
    with temporary_folder() as root:
        content = pattern(12_000_000)
        write_file(root, "big", content)
        with HttpServer(root, "--idle", "4") as server, server.client(receive_buffer=65536) as client:
            def slowly(piece):
                pieces.append(piece)
                time.sleep(max(0, start + 6 * sum(map(len, pieces)) / len(content) - time.monotonic()))

            pieces, start = [], time.monotonic()
            client.send(get("/big"))
            expect_equal(client.reply(body=slowly).status, 200)
            expect(b"".join(pieces) == content)
            client.send(get("/big"))
            expect(client.reply().body == content, "the connection is still good")


@test
def a_client_that_takes_nothing_is_dropped():
    with temporary_folder() as root:
        write_file(root, "big", b"x" * 40_000_000)
        write_file(root, "small", b"x" * 20_000)
        with HttpServer(root, "--idle", "0.5") as server:
            before = server.descriptors()
            with server.client(receive_buffer=4096) as big, server.client(receive_buffer=4096) as many:
                big.send(get("/big"))
                many.send(get("/small") * 1000)
                wait_until(lambda: server.descriptors() > before, "the download begins")
                wait_until(lambda: server.descriptors() == before, "both are dropped")


@test
def a_client_that_asks_on_and_takes_nothing_is_not_read_any_more():
    with temporary_folder() as root:
        write_file(root, "file", b"x" * 1000)
        request = get("/file", "X: " + "x" * 1000)
        with HttpServer(root) as server, server.client(receive_buffer=4096) as client:
            before = server.peak_memory_kib()
            data = request * (64_000_000 // len(request))
            sent = client.send_what_fits(data)
            expect(sent < len(data), "the server has taken all of", len(data), "bytes")
            expect(server.peak_memory_kib() - before < 2048, "KiB:", server.peak_memory_kib() - before)
            client.end()
            expect_equal(len(client.replies_until_end()), sent // len(request), "answers to", sent, "bytes")


@test
def what_waits_behind_a_big_reply_is_held_within_bounds_and_answered_in_order():
    with temporary_folder() as root:
        content = pattern(10_000_000)
        write_file(root, "big", content)
        for i in range(10):
            write_file(root, f"file-{i}", b"%d" % i)
        with HttpServer(root) as server, server.client(receive_buffer=4096) as client:
            before = server.peak_memory_kib()
            data = get("/big") + b"".join(get(f"/file-{i % 10}", "X: " + "x" * 500) for i in range(40_000))
            sent = client.send_what_fits(data)
            expect(server.peak_memory_kib() - before < 2048, "KiB:", server.peak_memory_kib() - before)
            expect(client.reply().body == content)
            whole = data[:sent].count(b"\r\n\r\n") - 1
            for i in range(whole):
                expect_equal(client.reply().body, b"%d" % (i % 10))
            expect(whole > 100, whole)


@test
def a_file_that_becomes_shorter_ends_the_connection():
    with temporary_folder() as root:
        content = pattern(30_000_000)
        path = write_file(root, "big", content)
        with HttpServer(root) as server, server.client(receive_buffer=4096) as client:
            client.send(get("/big"))
            seen = b""
            while b"\r\n\r\n" not in seen:
                seen += client.socket.recv(4096)
            os.truncate(path, 15_000_000)
            seen = [seen.split(b"\r\n\r\n", 1)[1]]
            try:
                while seen[-1] or len(seen) == 1:
                    seen.append(client.socket.recv(1 << 20))
                raise AssertionError("the connection ended as if the file was whole")
            except ConnectionResetError:
                pass
            body = b"".join(seen)
            expect(len(body) <= 15_000_000 and content.startswith(body), "bytes that were never there, in", len(body))
            server.wait_line("became shorter", "err")
            expect_equal(server.get("/big").status, 200)


@test
def clients_that_vanish_leave_nothing_behind():
    with temporary_folder() as root:
        write_file(root, "big", b"x" * 5_000_000)
        write_file(root, "small", b"x" * 1000)
        with HttpServer(root) as server:
            before = server.descriptors()
            for round_number in range(5):
                clients = [server.client(receive_buffer=4096) for _ in range(40)]
                for i, client in enumerate(clients):
                    client.send([get("/big"), get("/small") * 300, b"GET /half", get("/big") + get("/small") * 100,
                                 get("/x", "Content-Length: 100", method="POST")][i % 5])
                for i, client in enumerate(clients[:20]):
                    if round_number % 2 and i % 5 != 2:
                        expect(client.socket.recv(1))  # in the middle of its replies
                    client.reset()
                for client in clients[20:]:
                    client.close()
            wait_until(lambda: server.descriptors() <= before, "descriptors as before")
            expect_equal(len(server.get("/big").body), 5_000_000)


@test
def idle_connections_cost_no_processor_time_and_leave_no_descriptor():
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        with HttpServer(root) as server:
            before = server.descriptors()
            clients = [server.client() for _ in range(450)]
            for client in clients:
                client.send(get("/file"))
                expect_equal(client.reply().status, 200)
            # A file, and at first a folder, is closed by another thread when it has served.
            wait_until(lambda: before + 449 <= server.descriptors() <= before + 450, "one descriptor a connection")
            ticks = server.cpu_ticks()
            time.sleep(3)  # the window that is measured
            expect(server.cpu_ticks() - ticks <= 1, "ticks in 3 seconds:", server.cpu_ticks() - ticks)
            for client in clients:
                client.close()
            wait_until(lambda: server.descriptors() <= before, "descriptors as before")


@test(seconds=120)
def running_out_of_descriptors_is_reported_once_and_survived():
    limit = 40
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        with HttpServer(root, descriptors=limit) as server:
            room = limit - server.descriptors()

            def reports():
                return sum("KOLO_EMFILE" in line for line in server.output("err"))

            for episode in (1, 2):
                earlier = reports()
                clients = [server.client() for _ in range(room + 20)]  # the last 20 wait in the backlog
                wait_until(lambda: reports() > earlier and server.descriptors() == limit, "the report")
                clients[0].send(get("*", method="OPTIONS"))
                expect_equal(clients[0].reply().status, 204, "who is connected is served")
                ticks = server.cpu_ticks()
                time.sleep(2)  # the window that is measured: it tries to accept now and then, and says nothing new
                expect(server.cpu_ticks() - ticks < TICKS_PER_SECOND // 4, "ticks:", server.cpu_ticks() - ticks)
                expect_equal(reports(), earlier + 1, "reports in episode", episode)
                clients[0].send(get("/file"))
                reply = clients[0].reply()
                expect_equal((reply.status, reply["connection"]), (503, "close"), "no descriptor for the file")
                for client in clients[:30]:
                    client.close()
                wait_until(lambda: server.descriptors() == limit - 10, "all who waited are accepted")
                for client in clients[30:]:
                    client.send(get("/file"))
                    expect_equal(client.reply().body, b"inside", "who waited is served")
                    client.close()
                wait_until(lambda: server.descriptors() == limit - room, "descriptors as before")
                if episode == 1:
                    time.sleep(4)  # after some time without, the next one is news again


@test
def ctrl_c_finishes_the_replies_under_way():
    with temporary_folder() as root:
        content = pattern(12_000_000)
        write_file(root, "big", content)
        write_file(root, "small", b"small")
        with HttpServer(root, quiet=False) as server:
            before = server.descriptors()
            with (server.client(receive_buffer=4096) as slow, server.client() as idle, server.client() as new,
                  server.client() as half):
                slow.send(get("/big") + get("/small"))
                expect(slow._more())
                idle.send(get("/small"))
                expect_equal(idle.reply().body, b"small")
                half.send(get("/small") + b"GET /small HTTP/1.1\r\n")
                expect_equal(half.reply().body, b"small")
                wait_until(lambda: server.descriptors() == before + 5, "four connections and a file")
                server.signal(signal.SIGINT)
                server.wait_line("Stopping: 1 replies", "err")
                for client in (idle, new, half):
                    client.expect_end()
                expect_refused_connection(server)
                expect_equal(server.process.poll(), None, "still at work")
                reply = slow.reply()
                expect(reply.body == content, "the body is whole")
                slow.expect_end()  # what was asked for behind it is not answered any more
                expect_equal(server.wait(), 0)
                expect(not any("cut off" in line for line in server.output("err")))


def expect_refused_connection(server):
    def refused():
        try:
            Client(server.port).close()
        except (ConnectionRefusedError, ConnectionResetError):
            return True
        return False

    wait_until(refused, "the server accepts no more")


@test
def sigterm_stops_like_ctrl_c_and_idle_clients_do_not_hold_it_up():
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        for number in (signal.SIGTERM, signal.SIGINT):
            with HttpServer(root) as server:
                clients = [server.client() for _ in range(50)]
                for client in clients:
                    client.send(get("/file"))
                    expect_equal(client.reply().status, 200)
                server.stop(number)
                for client in clients:
                    client.expect_end()
                    client.close()


@test
def a_stop_waits_only_so_long_for_who_takes_nothing():
    with temporary_folder() as root:
        write_file(root, "big", b"x" * 40_000_000)
        with HttpServer(root) as server, server.client(receive_buffer=4096) as client:
            client.send(get("/big"))
            expect(client._more())
            server.signal(signal.SIGINT)
            server.wait_line("cut off", "err")
            expect_equal(server.wait(), 0)


@test
def a_second_signal_ends_at_once():
    with temporary_folder() as root:
        write_file(root, "big", b"x" * 40_000_000)
        with HttpServer(root, quiet=False) as server, server.client(receive_buffer=4096) as client:
            client.send(get("/big"))
            expect(client._more())
            server.signal(signal.SIGINT)
            server.wait_line("Stopping: 1 replies", "err")
            server.signal(signal.SIGINT)
            expect_equal(server.wait(), 0)
            expect(not any("cut off" in line for line in server.output("err")), "it has waited")


@test
def a_taken_port_is_said_and_another_one_used():
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        with HttpServer(root) as first, HttpServer(root, "--port", first.port) as second:
            expect(first.port != second.port)
            second.wait_line(f"port {first.port} is taken, using a free one", "err")
            for server in (first, second):
                expect_equal(server.get("/file").body, b"inside")


@test
def a_port_is_free_again_right_after_the_server_has_ended():
    with temporary_folder() as root:
        with HttpServer(root) as first, first.client() as client:
            client.send(get("/"))
            expect_equal(client.reply().status, 200)
            first.stop()
            client.expect_end()
        with HttpServer(root, "--port", first.port) as second:
            expect_equal(second.port, first.port)


@test
def wrong_options_are_explained():
    with temporary_folder() as root:
        for options in [["--nonsense", "1"], ["--port"], ["--port", "65536"], ["--port", "x"], ["--port", "-1"],
                        ["--idle", "0"], ["--idle", "x"], ["--idle", "nan"], ["--header-timeout", "-1"], ["--help"]]:
            done = run_program("http_server", *options)
            expect_equal((done.returncode, done.stdout), (2, b""), options)
            expect(done.stderr.startswith(b"usage: "), done.stderr)
        for options, said in [(["--root", root + "/none"], b"No such file"), (["--root", __file__], b"Not a directory"),
                              (["--bind", "nowhere"], b"nowhere"), (["--bind", "192.0.2.1"], b"KOLO_EADDRNOTAVAIL")]:
            done = run_program("http_server", "--port", "0", "--root", root, *options)
            expect_equal((done.returncode, done.stdout), (1, b""), options)
            expect(said in done.stderr, done.stderr)


@test
def the_folder_served_is_the_current_one_unless_told():
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        here = os.getcwd()
        os.chdir(root)
        try:
            with Program("http_server", "--port", "0", "--quiet") as server:
                found = server.wait_line(r"^Serving (.+) at http://127\.0\.0\.1:(\d+)/$")
                expect_equal(found.group(1), os.path.realpath(root))
                with Client(int(found.group(2))) as client:
                    client.send(get("/file"))
                    expect_equal(client.reply().body, b"inside")
        finally:
            os.chdir(here)
