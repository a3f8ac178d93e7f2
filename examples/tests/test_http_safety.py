"""http_server.c: nothing outside the root is served, and no input can confuse it."""

import os
import random
import socket

from harness import HttpServer, expect, expect_equal, get, pattern, temporary_folder, test, wait_until, write_file

SECRET = b"the secret outside"


def make_places(folder):
    """root/ to be served, and what must stay hidden beside it."""
    root = os.path.join(folder, "root")
    write_file(root, "file", b"inside")
    write_file(root, "folder/file", b"inside")
    write_file(folder, "secret", SECRET)
    write_file(folder, "root-beside/secret", SECRET)
    return root


def both_ways_to_open(inner):
    """The same test with openat2 and, as on systems that have none, with links resolved first."""
    def with_openat2():
        inner("http_server")

    def without_openat2():
        inner("http_server_walking")

    with_openat2.__name__ = inner.__name__
    without_openat2.__name__ = inner.__name__ + "_without_openat2"
    test(with_openat2)
    test(without_openat2)


@both_ways_to_open
def no_path_leads_out_of_the_root(binary):
    with temporary_folder() as folder:
        root = make_places(folder)
        ups = ["..", "%2e%2e", "%2E%2e", ".%2e", "%2e.", "..%2f", "%2e%2e%2f", "..%5c", "..\\", "..;", "..%00", "%c0%ae%c0%ae",
               "%252e%252e", "..%20", "...", "..%c0%af", "%u002e%u002e", "\xc0\xae\xc0\xae"]
        targets = ["/secret", "//secret", "/root-beside/secret", "/-beside/secret", folder + "/secret", "/" + folder + "/secret",
                   "//" + folder + "/secret", "http://localhost/../secret", "http://localhost//../secret",
                   "http://localhost/%2e%2e/secret", "file://" + folder + "/secret", folder[1:] + "/secret", "../secret",
                   "..", "/..", "/../", "/folder/../../secret", "/folder/..", "/folder/../..", "/folder/../file/../../secret",
                   "/%2e%2e%2fsecret", "/%2f" + folder[1:] + "/secret", "/proc/self/root" + folder + "/secret",
                   "/.//../secret", "/./../secret", "/folder//..//..//secret", "\\..\\secret", "/\\..\\secret"]
        for up in ups:
            for depth in (1, 2, 3, 8):
                targets += [f"/{'/'.join([up] * depth)}/secret", f"/folder/{'/'.join([up] * depth)}/secret",
                            f"/{'/'.join([up] * depth)}{folder}/secret"]
        with HttpServer(root, binary=binary) as server:
            for target in targets:
                with server.client() as client:
                    client.send(get(target, close=True))
                    reply = client.reply()
                    expect(reply.status in (400, 403, 404), target, reply)
                    expect(SECRET not in reply.body, target)
                    client.expect_end()
            expect_equal(server.get("/../secret").status, 403)
            expect_equal(server.get("/file%00.html").status, 400)
            expect_equal(server.get("/file").body, b"inside")


@both_ways_to_open
def links_are_followed_inside_the_root_only(binary):
    with temporary_folder() as folder:
        root = make_places(folder)
        links = {"to-file": "file", "to-folder": "folder", "folder/up-and-in": "../file", "chain": "to-file",
                 "out": "../secret", "out-absolute": folder + "/secret", "out-folder": "..", "out-beside": "../root-beside",
                 "folder/out": "../../secret", "out-chain": "out", "dangling": "nothing", "loop": "loop", "loop-a": "loop-b",
                 "loop-b": "loop-a", "out-and-in": "../root/file", "index-out/index.html": "../../secret",
                 "proc": "/proc/self/root" + folder}
        os.mkdir(os.path.join(root, "index-out"))
        for name, target in links.items():
            os.symlink(target, os.path.join(root, name))
        cases = [("/to-file", 200), ("/to-folder/file", 200), ("/to-folder", 301), ("/folder/up-and-in", 200), ("/chain", 200),
                 ("/out", 403), ("/out-absolute", 403), ("/out-folder", 403), ("/out-folder/", 403),
                 ("/out-folder/secret", 403), ("/out-beside/secret", 403), ("/folder/out", 403), ("/out-chain", 403),
                 ("/dangling", 404), ("/loop", 403), ("/loop-a", 403), ("/index-out/", 403), ("/proc/secret", 403),
                 ("/to-folder/../secret", 403)]
        with HttpServer(root, binary=binary) as server, server.client() as client:
            for path, status in cases:
                client.send(get(path))
                reply = client.reply()
                expect_equal(reply.status, status, path)
                expect(SECRET not in reply.body, path)
                if status == 200:
                    expect_equal(reply.body, b"inside", path)
            # By a way through the outside, or by an absolute link, to what is inside: refused or served, as the system has it.
            os.symlink(root + "/file", os.path.join(root, "in-absolute"))
            for path in ["/out-and-in", "/in-absolute"]:
                client.send(get(path))
                reply = client.reply()
                expect((reply.status, reply.body) == (200, b"inside") or reply.status == 403, path, reply)
            client.send(get("/"))
            expect_equal(client.reply().status, 200, "a folder with such links can be listed")


@both_ways_to_open
def only_files_and_folders_are_served_and_a_fifo_does_not_block(binary):
    with temporary_folder() as root:
        os.mkfifo(os.path.join(root, "fifo"))
        os.mkfifo(os.path.join(root, "fifo.html"))
        write_file(root, "file", b"inside")
        with socket.socket(socket.AF_UNIX) as unix_socket:
            unix_socket.bind(os.path.join(root, "socket"))
            with HttpServer(root, binary=binary) as server, server.client() as client:
                for path in ["/fifo", "/fifo.html", "/socket"]:
                    client.send(get(path))
                    expect_equal(client.reply().status, 403, path)
                client.send(get("/fifo/"))
                expect_equal(client.reply().status, 404)
                client.send(get("/file"))
                expect_equal(client.reply().body, b"inside")


@test
def a_root_behind_a_link_is_served():
    with temporary_folder() as folder:
        root = make_places(folder)
        os.symlink(root, os.path.join(folder, "link"))
        with HttpServer(os.path.join(folder, "link")) as server:
            expect_equal(server.root, os.path.realpath(root))
            expect_equal(server.get("/file").body, b"inside")


def expect_refused(server, request, status, what):
    """One reply of that status, then the end: what the request hid behind it is not answered."""
    with server.client() as client:
        client.send(request + get("/file"))
        replies = client.replies_until_end()
        expect_equal([reply.status for reply in replies], [status], what)
        expect_equal(replies[0]["connection"], "close", what)


@test
def requests_that_break_the_rules_are_refused_and_end_the_connection():
    host = b"Host: localhost\r\n"
    cases = [
        (b"\r\n\r\n", 400), (b"GET\r\n\r\n", 400), (b"GET /file\r\n\r\n", 400), (b"GET  /file HTTP/1.1\r\n" + host + b"\r\n", 400),
        (b"GET /file  HTTP/1.1\r\n" + host + b"\r\n", 400), (b" GET /file HTTP/1.1\r\n" + host + b"\r\n", 400),
        (b"GET /file HTTP/1.1 \r\n" + host + b"\r\n", 400), (b"GET /file http/1.1\r\n" + host + b"\r\n", 400),
        (b"GET /file HTTP/11\r\n" + host + b"\r\n", 400), (b"GET /file HTTP/1.1x\r\n" + host + b"\r\n", 400),
        (b"G(T /file HTTP/1.1\r\n" + host + b"\r\n", 400), (b"GET /fi\tle HTTP/1.1\r\n" + host + b"\r\n", 400),
        (b"GET /file#part HTTP/1.1\r\n" + host + b"\r\n", 400), (b"GET file HTTP/1.1\r\n" + host + b"\r\n", 400),
        (b"GET * HTTP/1.1\r\n" + host + b"\r\n", 400), (b"GET http:///file HTTP/1.1\r\n" + host + b"\r\n", 400),
        (b"GET https://localhost/file HTTP/1.1\r\n" + host + b"\r\n", 400), (b"GET /file HTTP/2.0\r\n" + host + b"\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505), (b"GET /file HTTP/0.9\r\n" + host + b"\r\n", 505),
        (b"GET /file HTTP/1.1\r\n\r\n", 400), (b"GET /file HTTP/1.1\r\n" + host + host + b"\r\n", 400),
        (b"GET /file HTTP/1.1\r\nHost: a, b\r\n\r\n", 400), (b"GET /file HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET /file HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET /file HTTP/1.1\r\n" + host + b"NoColon\r\n\r\n", 400), (b"GET /file HTTP/1.1\r\n" + host + b": empty\r\n\r\n", 400),
        (b"GET /file HTTP/1.1\r\n" + host + b"Space : x\r\n\r\n", 400), (b"GET /file HTTP/1.1\r\n" + host + b"A: b\r\n folded\r\n\r\n", 400),
        (b"GET /file HTTP/1.1\r\n" + host + b"A: b\r\n\tfolded\r\n\r\n", 400), (b"GET /file HTTP/1.1\r\n " + host + b"\r\n", 400),
        (b"GET /file HTTP/1.1\r\n" + host + b"A: \x01\r\n\r\n", 400), (b"GET /file HTTP/1.1\r\n" + host + b"A: \x7f\r\n\r\n", 400),
        (b"GET /file HTTP/1.1\r\n" + host + b"\xc3\xa4: x\r\n\r\n", 400),
        (b"GET /file HTTP/1.1\n" + b"Host: localhost\n\n", 400), (b"GET /file HTTP/1.1\r\n" + host + b"A: b\n\r\n", 400),
        (b"GET /file HTTP/1.1\r\n" + host + b"A: b\rC: d\r\n\r\n", 400), (b"GET /file HTTP/1.1\r\n" + host + b"\n", 400),
        (b"GET /\x00file HTTP/1.1\r\n" + host + b"\r\n", 400), (b"GET /file HTTP/1.1\r\n" + host + b"A: \x00\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # the start of a TLS connection
        (b"GET /file HTTP/1.1\r\n" + host + b"Expect: a miracle\r\n\r\n", 417),
    ]
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        with HttpServer(root) as server:
            for request, status in cases:
                expect_refused(server, request, status, request)


@test
def a_body_whose_end_is_in_doubt_is_refused_and_ends_the_connection():
    fields = [
        ("Content-Length: 0\r\nContent-Length: 30", 400), ("Content-Length: 30\r\nContent-Length: 30", 400),
        ("Content-Length: 30, 30", 400), ("Content-Length: +30", 400), ("Content-Length: -30", 400), ("Content-Length: 0x30", 400),
        ("Content-Length: 30 0", 400), ("Content-Length:", 400), ("Content-Length: 3\x0b0", 400), ("Content-Length : 30", 400),
        ("Content_Length: 30\r\n Content-Length: 30", 400), ("Content-Length: 30\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 30", 400), ("Transfer-Encoding: chunked", 411),
        ("Transfer-Encoding: CHUNKED", 411), ("transfer-encoding:\tchunked", 411), ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: identity", 501), ("Transfer-Encoding: xchunked", 501), ("Transfer-Encoding: chunked, identity", 501),
        ("Transfer-Encoding:", 501), ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400),
        ("Transfer-Encoding : chunked", 400), ("Transfer-Encoding\t: chunked", 400), ("\x0bTransfer-Encoding: chunked", 400),
        ("Content-Length: 99999999999999999999999999999999", 413), ("Content-Length: 18446744073709551616", 413),
        ("Content-Length: 1048577", 413),
    ]
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        with HttpServer(root) as server:
            for text, status in fields:
                for method in ["GET", "POST"]:
                    expect_refused(server, get("/file", text, method=method) + b"0\r\n\r\n", status, text)
            # HTTP/1.0 has no transfer coding.
            expect_refused(server, b"GET /file HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "1.0")


@test
def bodies_are_skipped_and_never_taken_for_requests():
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        write_file(root, "big", pattern(400_000))
        hidden = get("/hidden") * 3
        with HttpServer(root) as server:
            for path, method, status in [("/file", "POST", 405), ("/file", "GET", 200), ("/big", "GET", 200), ("/none", "BREW", 501)]:
                for body in [b"", b"\r\n", hidden, hidden * 400, b"x" * 1024 * 1024]:
                    for cut in sorted({0, 1, len(body) // 2, len(body)}):
                        with server.client() as client:
                            request = get(path, f"Content-Length: {len(body)}", method=method)
                            client.send(request + body[:cut])
                            expect_equal(client.reply().status, status, path, method)
                            client.send(body[cut:] + get("/file"))
                            expect_equal(client.reply().body, b"inside", "after a body of", len(body))


@test
def a_client_that_waits_for_100_continue_is_answered_at_once_and_the_connection_ends():
    with temporary_folder() as root:
        with HttpServer(root) as server:
            for with_body in (False, True):
                with server.client() as client:
                    client.send(get("/x", "Content-Length: 40", "Expect: 100-continue", method="PUT"))
                    reply = client.reply()
                    expect_equal((reply.status, reply["connection"]), (405, "close"))
                    if with_body:
                        client.send(get("/hidden")[:40] * 2)
                    client.end()
                    client.expect_end()


@test
def limits_on_a_request_line_and_its_fields():
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        with HttpServer(root) as server:
            line = 8 * 1024 - len("GET /file? HTTP/1.1\r\n")
            expect_equal(server.get("/file?" + "q" * line).status, 200)
            expect_refused(server, get("/file?" + "q" * (line + 1)), 414, "one byte more")
            expect_refused(server, get("/" + "q" * 10_000), 414, "a long line")
            expect_refused(server, b"x" * 8192, 414, "a line without an end")
            expect_equal(server.get("/" + "q" * 4100).status, 414)

            room = 16 * 1024 - len(get("/file", "X: "))
            with server.client() as client:
                client.send(get("/file", "X: " + "x" * room) + get("/file"))
                expect_equal([client.reply().status for _ in range(2)], [200, 200], "a header of 16 KiB")
            expect_refused(server, get("/file", "X: " + "x" * (room + 1)), 431, "one byte more")
            expect_refused(server, get("/file", "X: " + "x" * 1_000_000), 431, "a megabyte")

            with server.client() as client:
                client.send(get("/file", *[f"X-{i}: x" for i in range(99)]))
                expect_equal(client.reply().status, 200, "a hundred fields")
            expect_refused(server, get("/file", *[f"X-{i}: x" for i in range(100)]), 431, "one more")
            with server.client() as client:
                client.send(b"\r\n" * 1000)
                expect_equal([reply.status for reply in client.replies_until_end()], [400], "empty lines without end")


@test
def the_last_reply_arrives_although_the_client_goes_on_sending():
    with temporary_folder() as root:
        with HttpServer(root) as server:
            for _ in range(20):
                with server.client() as client:
                    client.send(get("/x", "Content-Length: 900000000", method="POST") + b"x" * 200_000)
                    expect_equal(client.reply().status, 413)
                    client.send(b"x" * 200_000)
                    client.end()
                    client.expect_end()


@test
def a_client_that_never_stops_sending_after_the_last_reply_is_cut_off():
    with temporary_folder() as root:
        with HttpServer(root) as server, server.client() as client:
            client.send(get("/x", "Transfer-Encoding: chunked", method="POST"))
            try:
                while True:  # for LINGER_SECONDS the server listens and throws away; the test's own limit is far longer
                    client.send(b"x" * 65536)
            except (ConnectionResetError, BrokenPipeError):
                pass


@test
def the_log_shows_requests_and_no_control_characters():
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        with HttpServer(root, quiet=False) as server:
            server.get("/file?\x80\x9b31m")
            found = server.wait_line(r"^127\.0\.0\.1:\d+ 200 GET (.*)$", "err")
            expect_equal(found.group(1), r"/file?\x80\x9B31m")
            with server.client() as client:
                client.send(b"\x1b[31m /file\x1b]0; HTTP/1.1\r\n\r\n")
                expect_equal(client.reply().status, 400)
            server.wait_line(r" 400 \\x1B\[31m", "err")
            expect(all(character.isprintable() for line in server.output("err") for character in line))


@test(seconds=120)
def random_bytes_get_an_answer_or_an_end_and_never_break_the_server():
    chance = random.Random(4)
    words = [b"GET", b" ", b"/", b"file", b"HTTP/1.1", b"\r\n", b"\r", b"\n", b"Host: a", b":", b"Content-Length: 5",
             b"Transfer-Encoding: chunked", b"Range: bytes=1-2", b"%2e", b"..", b"\x00", b"\xff", b"If-None-Match: *", b",", b"\r\n\r\n"]
    with temporary_folder() as root:
        write_file(root, "file", b"inside")
        with HttpServer(root) as server:
            before = server.descriptors()
            for i in range(600):
                with server.client() as client:
                    if i % 2:
                        data = b"".join(chance.choice(words) for _ in range(chance.randrange(60)))
                    else:
                        data = bytearray(get("/file", "Content-Length: 3", "Range: bytes=0-1") + b"abc")
                        for _ in range(chance.randrange(1, 5)):
                            data[chance.randrange(len(data))] = chance.randrange(256)
                    client.send(bytes(data))
                    client.end()
                    for reply in client.replies_until_end():
                        expect(200 <= reply.status <= 505, reply)
            expect_equal(server.get("/file").body, b"inside")
            wait_until(lambda: server.descriptors() <= before, "descriptors as before")
