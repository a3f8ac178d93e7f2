"""http_server.c: what it serves, and how it speaks HTTP."""

import email.utils
import hashlib
import html.parser
import os
import random
import socket
import subprocess
import urllib.parse

from harness import (HttpServer, expect, expect_equal, get, pattern, temporary_folder, test, write_file)

# Around the limits of one copy (32 KiB) and of one piece (64 KiB), and names that need care in URLs and in HTML.
TREE = {
    "empty": 0, "one": 1, "small.txt": 11, "below-copy.bin": 32767, "copy.bin": 32768, "above-copy.bin": 32769,
    "below-piece.bin": 65535, "piece.bin": 65536, "above-piece.bin": 65537, "pieces.bin": 1000003,
    "with space.txt": 20, "percent%41.txt": 21, "question?mark": 22, "hash#tag": 23, "amp&lt;.html": 24,
    "<script>alert(1)<": 25, 'quote"s\'.txt': 26, "colon:name": 27, "javascript:alert(1)": 28, "umläut-日本語-🎡.txt": 29,
    "plus+plus": 30, "back\\slash": 31, "new\nline": 32, "...": 33, "..dots": 34, "~tilde": 35, "semi;colon=1,2": 36,
    ".hidden": 37, "folder/inside.txt": 38, "folder/deeper folder/ünter&/file": 39, "empty folder/.keep": 0,
    "index/not-index.html": 40, "n" * 255: 41,
}


def make_tree(root):
    contents = {}
    for number, (name, length) in enumerate(TREE.items()):
        contents[name] = pattern(length, number)
        write_file(root, name, contents[name])
    return contents


class Links(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.texts, self.inside = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        expect(tag in {"html", "meta", "title", "style", "h1", "table", "tr", "td", "a", "p"}, "tag in a listing:", tag)
        if tag == "a":
            self.found.append(dict(attributes)["href"])
            self.inside = True

    def handle_endtag(self, tag):
        if tag == "a":
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.texts.append(data)


def crawl(server, path="/"):
    """Follows the links of listings as a browser does. Gives every file's name and body."""
    with server.client() as client:
        def visit(url):
            client.send(get(url))
            reply = client.reply()
            expect_equal(reply.status, 200, url)
            if not url.endswith("/"):
                return {urllib.parse.unquote(url[1:]): reply.body}
            expect_equal(reply["content-type"], "text/html; charset=utf-8")
            links, files = Links(reply.body.decode("utf-8")), {}
            for link in links.found:
                target = urllib.parse.urljoin(f"http://localhost{url}", link)
                parts = urllib.parse.urlsplit(target)
                expect_equal((parts.scheme, parts.netloc, parts.query, parts.fragment), ("http", "localhost", "", ""), link)
                if link != "../":
                    files.update(visit(parts.path))
            expect_equal("../" in links.found, url != "/", "a link to the parent at", url)
            return files

        return visit(path)


@test
def every_file_of_a_tree_is_reached_through_listings_byte_for_byte():
    with temporary_folder() as root:
        contents = make_tree(root)
        with HttpServer(root) as server:
            expect_equal(crawl(server), contents)


@test
def without_openat2_every_file_is_reached_too():
    with temporary_folder() as root:
        contents = make_tree(root)
        with HttpServer(root, binary="http_server_walking") as server:
            expect_equal(crawl(server), contents)


@test(seconds=180)
def a_file_of_100_mb_arrives_byte_for_byte_in_flat_memory():
    with temporary_folder() as root:
        path, chance = os.path.join(root, "big"), random.Random(1)
        with open(path, "wb") as file:  # holes with random blocks between
            file.truncate(100_000_000)
            for _ in range(200):
                file.seek(chance.randrange(100_000_000 - 100_000))
                file.write(chance.randbytes(chance.randrange(100_000)))
        with open(path, "rb") as file:
            wanted = hashlib.sha256(file.read())
        with HttpServer(root) as server, server.client() as client:
            client.send(get("/"))
            client.reply()
            before = server.peak_memory_kib()
            seen = hashlib.sha256()
            client.send(get("/big"))
            reply = client.reply(body=seen.update)
            expect_equal((reply.status, reply["content-length"]), (200, "100000000"))
            expect_equal(seen.hexdigest(), wanted.hexdigest())
            expect(server.peak_memory_kib() - before < 4096, "memory grew from", before, "to", server.peak_memory_kib())
            client.send(get("/big", "Range: bytes=50000000-89999999"))
            seen = hashlib.sha256()
            expect_equal(client.reply(body=seen.update).status, 206)
            with open(path, "rb") as file:
                file.seek(50_000_000)
                expect_equal(seen.hexdigest(), hashlib.sha256(file.read(40_000_000)).hexdigest())


@test(seconds=180)
def slow_readers_of_a_big_file_cost_little_memory():
    with temporary_folder() as root:
        content = pattern(30_000_000)
        write_file(root, "big", content)
        with HttpServer(root) as server:
            before = server.peak_memory_kib()
            clients = [server.client(receive_buffer=4096) for _ in range(20)]
            for client in clients:
                client.send(get("/big"))
            for client in clients:
                expect_equal(client.reply().body == content, True, "the body is right")
                client.close()
            growth = server.peak_memory_kib() - before  # 20 x (64 KiB piece + 64 KiB queue) and the loop's own
            expect(growth < 8192, "KiB of growth:", growth)


@test
def ranges():
    content = pattern(100_000)
    cases = [
        ("bytes=0-0", 0, 1), ("bytes=0-9", 0, 10), ("bytes=10-19", 10, 20), ("bytes=99999-", 99999, 100_000),
        ("bytes=0-", 0, 100_000), ("bytes=0-99999", 0, 100_000), ("bytes=0-100000", 0, 100_000),
        ("bytes=5-99999999999999999999999999", 5, 100_000), ("bytes=-1", 99999, 100_000), ("bytes=-500", 99500, 100_000),
        ("bytes=-100000", 0, 100_000), ("bytes=-100001", 0, 100_000), ("BYTES=1-2", 1, 3), ("bytes= 1-2", 1, 3),
        ("bytes=1000-70000", 1000, 70001),
    ]
    not_satisfiable = ["bytes=100000-", "bytes=100000-100001", "bytes=-0", "bytes=99999999999999999999999999-"]
    whole = ["bytes=2-1", "bytes=", "bytes=-", "bytes=a-b", "bytes=1", "bytes=1-2x", "bytes=+1-2", "bytes 1-2", "lines=1-2",
             "bytes=1-2,4-5", "bytes=-1,-2", "bytes=0-0,", "bytes=1 -2", "bytes=0x1-0x2", ""]
    with temporary_folder() as root:
        write_file(root, "file", content)
        with HttpServer(root) as server, server.client() as client:
            for spec, first, end in cases:
                client.send(get("/file", f"Range: {spec}"))
                reply = client.reply()
                expect_equal((reply.status, reply["content-range"]), (206, f"bytes {first}-{end - 1}/100000"), spec)
                expect_equal(reply.body, content[first:end], spec)
            for spec in not_satisfiable:
                client.send(get("/file", f"Range: {spec}"))
                reply = client.reply()
                expect_equal((reply.status, reply["content-range"]), (416, "bytes */100000"), spec)
            for spec in whole:
                client.send(get("/file", f"Range: {spec}"))
                reply = client.reply()
                expect_equal((reply.status, reply["content-range"], reply.body), (200, None, content), spec)


@test
def ranges_of_an_empty_file():
    with temporary_folder() as root:
        write_file(root, "empty")
        with HttpServer(root) as server:
            expect_equal(server.get("/empty", "Range: bytes=0-").status, 416)
            expect_equal(server.get("/empty", "Range: bytes=0-0").status, 416)
            reply = server.get("/empty", "Range: bytes=-5")
            expect_equal((reply.status, reply.body), (200, b""))


@test
def a_range_is_sent_only_if_the_file_is_still_the_same():
    with temporary_folder() as root:
        write_file(root, "file", b"0123456789")
        with HttpServer(root) as server:
            whole = server.get("/file")
            for value, status in [(whole["etag"], 206), (whole["last-modified"], 206), ('"other"', 200),
                                  ("W/" + whole["etag"], 200), ("Thu, 01 Jan 1970 00:00:00 GMT", 200), ("nonsense", 200)]:
                reply = server.get("/file", "Range: bytes=2-4", f"If-Range: {value}")
                expect_equal((reply.status, reply.body), (status, b"234" if status == 206 else b"0123456789"), value)


@test
def a_file_that_the_client_has_is_not_sent_again():
    with temporary_folder() as root:
        path = write_file(root, "file", b"content")
        os.utime(path, (784111777, 784111777))  # Sun, 06 Nov 1994 08:49:37 GMT
        with HttpServer(root) as server, server.client() as client:
            client.send(get("/file"))
            first = client.reply()
            expect_equal(first["last-modified"], "Sun, 06 Nov 1994 08:49:37 GMT")
            etag = first["etag"]
            cases = [
                (304, f"If-None-Match: {etag}"), (304, f"If-None-Match: W/{etag}"), (304, "If-None-Match: *"),
                (304, f'If-None-Match: "a", {etag}, "b"'), (304, f"If-None-Match:{etag},"),
                (200, 'If-None-Match: "a"'), (200, f"If-None-Match: {etag[:-1]}"), (200, "If-None-Match:"),
                (304, "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"),
                (304, "If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT"),
                (304, "If-Modified-Since: Sun Nov  6 08:49:37 1994"),
                (304, "If-Modified-Since: Tue, 29 Feb 2028 23:59:59 GMT"),
                (200, "If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT"),
                (200, "If-Modified-Since: Sunday, 06-Nov-94 08:49:36 GMT"),
                (200, "If-Modified-Since: Sun Nov  6 08:49:36 1994"),
                (200, "If-Modified-Since: Sun, 06 Nov 1994 08:49:37"), (200, "If-Modified-Since: yesterday"),
                (200, "If-Modified-Since: Sun, 06 Now 1994 08:49:37 GMT"),
                (200, "If-Modified-Since: Sun, 06 Nov 1994 24:49:37 GMT"),
                (412, 'If-Match: "a"'), (200, f"If-Match: {etag}"), (200, "If-Match: *"), (412, f"If-Match: W/{etag}"),
                (412, "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT"),
                (200, "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT"),
            ]
            for status, field in cases:
                client.send(get("/file", field))
                reply = client.reply()
                expect_equal((reply.status, reply["etag"] in (etag, None)), (status, True), field)
                expect_equal(reply["etag"], None if status == 412 else etag, field)
            # An entity tag decides alone; a time beside it does not matter.
            client.send(get("/file", 'If-None-Match: "a"', "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"))
            expect_equal(client.reply().status, 200)
            write_file(root, "file", b"changed")
            os.utime(path, (784111777, 784111778))
            client.send(get("/file", f"If-None-Match: {etag}"))
            reply = client.reply()
            expect_equal((reply.status, reply.body), (200, b"changed"))


@test
def dates_are_right_through_the_centuries():
    with temporary_folder() as root:
        path = write_file(root, "file", b"content")
        with HttpServer(root) as server, server.client() as client:
            for when in [0, 68169599, 68169600, 951782399, 951782400, 951868800, 1078012800, 1234567890, 1709164800,
                         2147483648, 4107542399, 4107542400]:  # around leap days, 1970 to 2100
                os.utime(path, (when, when))
                text = email.utils.formatdate(when, usegmt=True)
                for offset, status in [(0, 304), (-1, 200)]:
                    date = email.utils.formatdate(when + offset, usegmt=True) if when + offset >= 0 else "-"
                    client.send(get("/file", f"If-Modified-Since: {date}"))
                    reply = client.reply()
                    expect_equal((reply.status, reply["last-modified"]), (status, text), date)


@test
def head_says_what_get_would_without_the_body():
    with temporary_folder() as root:
        write_file(root, "small.txt", b"small")
        write_file(root, "big.bin", pattern(300_000))
        write_file(root, "folder/file")
        with HttpServer(root) as server, server.client() as client:
            for path, status in [("/small.txt", 200), ("/big.bin", 200), ("/", 200), ("/folder", 301), ("/none", 404)]:
                client.send(get(path))
                wanted = client.reply()
                client.send(get(path, method="HEAD") + get("/small.txt"))
                seen = client.reply(head=True)
                expect_equal(seen.status, status, path)
                for reply in (wanted, seen):
                    del reply.fields["date"]
                expect_equal(seen.fields, wanted.fields, path)
                expect_equal(client.reply().body, b"small", "what follows the HEAD of", path)
            client.send(get("/big.bin", "Range: bytes=0-1", method="HEAD"))
            expect_equal(client.reply(head=True).status, 200, "ranges are for GET alone")


@test
def content_types():
    cases = {
        "a.html": "text/html; charset=utf-8", "a.HTM": "text/html; charset=utf-8", "a.css": "text/css; charset=utf-8",
        "a.js": "text/javascript; charset=utf-8", "a.mjs": "text/javascript; charset=utf-8", "a.json": "application/json",
        "a.svg": "image/svg+xml", "a.png": "image/png", "a.jpeg": "image/jpeg", "a.webp": "image/webp",
        "a.ico": "image/x-icon", "a.mp4": "video/mp4", "a.mp3": "audio/mpeg", "a.woff2": "font/woff2",
        "a.pdf": "application/pdf", "a.wasm": "application/wasm", "a.tar.gz": "application/gzip",
        "a.txt": "text/plain; charset=utf-8", "a.md": "text/plain; charset=utf-8", "a.rs": "text/plain; charset=utf-8",
        "Makefile": "text/plain; charset=utf-8", "README": "text/plain; charset=utf-8",
        "a.unknown": "application/octet-stream", "a": "application/octet-stream", "html": "text/html; charset=utf-8",
        "folder.html/file": "application/octet-stream", "trailing.": "application/octet-stream",
    }
    with temporary_folder() as root:
        for name in cases:
            write_file(root, name, b"x")
        with HttpServer(root) as server, server.client() as client:
            for name, wanted in cases.items():
                client.send(get("/" + name))
                reply = client.reply()
                expect_equal(reply["content-type"], wanted, name)
                expect_equal(reply["x-content-type-options"], "nosniff", name)


@test
def a_folder_shows_its_index():
    with temporary_folder() as root:
        write_file(root, "index.html", b"<p>the root</p>")
        write_file(root, "folder/index.html", b"<p>the folder</p>")
        write_file(root, "odd/index.html/inside", b"a folder of that name")
        with HttpServer(root) as server:
            for path, wanted in [("/", b"<p>the root</p>"), ("/folder/", b"<p>the folder</p>"),
                                 ("/folder/index.html", b"<p>the folder</p>"), ("/?query=1", b"<p>the root</p>")]:
                reply = server.get(path)
                expect_equal((reply.status, reply.body, reply["content-type"]), (200, wanted, "text/html; charset=utf-8"))
                expect(reply["etag"], "an index can be asked for again")
            expect(b"./index.html/" in server.get("/odd/").body, "a listing where index.html is a folder")


@test
def a_folder_without_its_slash_is_redirected_within_the_server():
    with temporary_folder() as root:
        for name in ["folder", "with space/deeper", "ü&<", "new\r\nline", "evil.example"]:
            write_file(root, name + "/file", b"x")
        cases = [("/folder", "/folder/"), ("/folder?a=b", "/folder/"), ("//folder", "/folder/"),
                 ("/with%20space/deeper", "/with%20space/deeper/"), ("/%C3%BC%26%3C", "/%C3%BC%26%3C/"),
                 ("/new%0d%0aline", "/new%0D%0Aline/"), ("//evil.example", "/evil.example/"),
                 ("http://localhost/folder", "/folder/"), ("/./folder", "/folder/")]
        with HttpServer(root) as server, server.client() as client:
            for path, location in cases:
                client.send(get(path))
                reply = client.reply()
                expect_equal((reply.status, reply["location"]), (301, location), path)
                client.send(get(location))
                expect_equal(client.reply().status, 200, location)


@test
def a_listing_sorts_folders_first_and_is_cut_when_long():
    with temporary_folder() as root:
        for name in ["b/x", "a/x", "C", "B", "z"]:
            write_file(root, "few/" + name)
        for i in range(10_050):
            write_file(root, f"many/file-{i:05}")
        with HttpServer(root) as server:
            expect_equal(Links(server.get("/few/").body.decode()).found, ["../", "./a/", "./b/", "./B", "./C", "./z"])
            reply = server.get("/many/")
            expect_equal(len(Links(reply.body.decode()).found), 10_001)
            expect(b"the listing is cut" in reply.body)
            expect(b"the listing is cut" not in server.get("/few/").body)
            expect_equal(server.get("/many/file-10049").status, 200)


@test
def long_names_cut_a_listing_before_it_grows_large():
    with temporary_folder() as root:
        for i in range(5000):
            write_file(root, f"{i:04}" + "&<" * 120)
        with HttpServer(root) as server:
            before = server.peak_memory_kib()
            body = server.get("/").body
            expect(len(body) <= 4 * 1024 * 1024, "bytes of listing:", len(body))
            expect(b"the listing is cut" in body)
            expect(server.peak_memory_kib() - before < 24 * 1024)


@test
def what_is_not_there_is_404():
    with temporary_folder() as root:
        write_file(root, "file", b"x")
        with HttpServer(root) as server, server.client() as client:
            for path in ["/none", "/none/", "/file/", "/file/more", "/file/.", "/a%2Fb", "/" + "n" * 256, "/" + "a/" * 2000]:
                client.send(get(path))
                expect_equal(client.reply().status, 404, path[:40])


@test
def methods():
    with temporary_folder() as root:
        write_file(root, "file", b"x")
        with HttpServer(root) as server, server.client() as client:
            for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE"]:
                client.send(get("/file", method=method))
                reply = client.reply()
                expect_equal((reply.status, reply["allow"]), (405, "GET, HEAD, OPTIONS"), method)
            client.send(get("localhost:80", method="CONNECT"))
            expect_equal(client.reply().status, 405)
            for method in ["BREW", "get", "M-SEARCH"]:
                client.send(get("/file", method=method))
                expect_equal(client.reply().status, 501, method)
            for target in ["/file", "*"]:
                client.send(get(target, method="OPTIONS"))
                reply = client.reply()
                expect_equal((reply.status, reply["allow"], reply["content-length"]), (204, "GET, HEAD, OPTIONS", None))
            client.send(get("/file"))
            expect_equal(client.reply().body, b"x", "the connection is still good")


@test
def two_hundred_requests_sent_at_once_are_answered_in_order():
    with temporary_folder() as root:
        contents = [pattern(length, length) for length in (0, 3, 500, 40_000, 130_000)]
        for i, content in enumerate(contents):
            write_file(root, f"file-{i}", content)
        order = [random.Random(2).randrange(len(contents)) for _ in range(200)]
        with HttpServer(root) as server, server.client() as client:
            client.send(b"".join(get(f"/file-{i}?{n}") for n, i in enumerate(order)))
            for n, i in enumerate(order):
                reply = client.reply()
                expect_equal((reply.status, reply.body == contents[i]), (200, True), "request", n, "for file", i)
            client.send(get("/file-1"))
            expect_equal(client.reply().body, contents[1])


@test
def requests_of_all_kinds_sent_at_once_are_answered_in_order():
    with temporary_folder() as root:
        write_file(root, "file", b"content")
        write_file(root, "folder/file")
        kinds = [(get("/file"), 200), (get("/file", method="HEAD"), 200), (get("/none"), 404), (get("/folder"), 301),
                 (get("/file", "If-None-Match: *"), 304), (get("/file", "Range: bytes=1-2"), 206),
                 (get("/file", "Range: bytes=9-"), 416), (get("*", method="OPTIONS"), 204), (get("/folder/"), 200),
                 (get("/file", "Content-Length: 5", method="POST") + b"GET /", 405), (b"\r\n" + get("/file"), 200),
                 (get("/file", "Content-Length: 3") + b"xyz", 200), (get("/..", "X: y"), 403)]
        with HttpServer(root) as server, server.client() as client:
            chance = random.Random(3)
            for _ in range(20):
                order = [chance.choice(kinds) for _ in range(50)]
                client.send(b"".join(request for request, _ in order))
                for request, status in order:
                    expect_equal(client.reply(head=request.startswith(b"HEAD")).status, status, request)


@test
def requests_cut_at_any_place_are_understood():
    with temporary_folder() as root:
        write_file(root, "file", b"content")
        text = (get("/file", "X-Long: " + "x" * 100) + b"\r\n" + get("/file", "Content-Length: 12", method="POST")
                + b"GET / nope\r\n" + get("/none"))
        with HttpServer(root) as server:
            for cut in range(1, len(text), 7):
                with server.client() as client:
                    client.send(text[:cut])
                    client.send(text[cut:])
                    expect_equal([client.reply().status for _ in range(3)], [200, 405, 404], "cut at", cut)
            with server.client() as client:
                for i in range(len(text)):
                    client.send(text[i:i + 1])
                expect_equal([client.reply().status for _ in range(3)], [200, 405, 404], "byte by byte")


@test
def http_1_0_closes_unless_asked_to_keep_alive():
    with temporary_folder() as root:
        write_file(root, "file", b"content")
        with HttpServer(root) as server:
            with server.client() as client:
                client.send(b"GET /file HTTP/1.0\r\n\r\n")
                reply = client.reply()
                expect_equal((reply.status, reply.body, reply["connection"]), (200, b"content", "close"))
                client.expect_end()
            with server.client() as client:
                for _ in range(3):
                    client.send(b"GET /file HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
                    reply = client.reply()
                    expect_equal((reply.status, reply.body, reply["connection"]), (200, b"content", "keep-alive"))
                client.send(b"GET /file HTTP/1.0\r\n\r\n")
                client.reply()
                client.expect_end()


@test
def connection_close_is_obeyed_and_what_follows_it_is_not_answered():
    with temporary_folder() as root:
        write_file(root, "file", b"content")
        write_file(root, "big", pattern(500_000))
        with HttpServer(root) as server:
            for path in ["/file", "/big", "/"]:
                for option in ["close", "Close", "foo, close", "keep-alive, close"]:
                    with server.client() as client:
                        client.send(get(path, f"Connection: {option}") + get("/file") * 3)
                        expect_equal(client.reply()["connection"], "close")
                        client.expect_end()


@test
def a_client_that_half_closes_gets_all_its_answers():
    with temporary_folder() as root:
        content = pattern(2_000_000)
        write_file(root, "big", content)
        with HttpServer(root) as server, server.client(receive_buffer=4096) as client:
            client.send(get("/big") + get("/none") + get("/big") + b"GET /half")
            client.end()
            expect_equal(client.reply().body == content, True)
            expect_equal(client.reply().status, 404)
            expect_equal(client.reply().body == content, True)
            client.expect_end()


@test
def curl_downloads_resumes_and_keeps_the_connection():
    with temporary_folder() as root, temporary_folder() as here:
        content = pattern(3_000_000)
        write_file(root, "big file.bin", content)
        write_file(root, "small", b"small")
        with HttpServer(root) as server:
            def curl(*arguments):
                done = subprocess.run(["curl", "-sS", "--fail", "--max-time", "50", *arguments], cwd=here,
                                      capture_output=True, check=False)
                expect_equal((done.returncode, done.stderr), (0, b""), arguments)
                return done.stdout

            url = server.url + "big%20file.bin"
            expect(curl(url) == content)
            expect(curl("--http1.0", url) == content)
            expect_equal(curl("-r", "100-199", url), content[100:200])
            write_file(here, "part", content[:1_234_567])
            curl("-C", "-", "-o", "part", url)
            with open(os.path.join(here, "part"), "rb") as file:
                expect(file.read() == content)
            expect(b"Content-Length: 3000000" in curl("-I", url))
            expect_equal(curl("-L", "-w", "%{num_connects}", "-o", "/dev/null", server.url + "small", "-o", "/dev/null",
                              server.url + "small"), b"10", "connections made for the first and the second file")
            curl("-z", "part", "-o", "new", url)  # not modified since: nothing is written
            expect(not os.path.exists(os.path.join(here, "new")))


@test
def many_clients_of_wrk_get_no_error():
    with temporary_folder() as root:
        write_file(root, "index.html", pattern(1000))
        with HttpServer(root) as server:
            done = subprocess.run(["wrk", "-t1", "-c450", "-d3", "--timeout", "20", server.url], capture_output=True,
                                  text=True, timeout=50, check=False)
            expect_equal(done.returncode, 0, done.stderr)
            expect("requests in" in done.stdout, done.stdout)
            expect(int(done.stdout.split("requests in")[0].split()[-1]) > 450, done.stdout)
            for bad in ["Socket errors", "Non-2xx"]:
                expect(bad not in done.stdout, done.stdout)


@test
def ipv6_is_served_and_the_url_says_so():
    if not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"):
        raise AssertionError("this machine has no IPv6; the test needs ::1")
    with temporary_folder() as root:
        write_file(root, "file", b"content")
        with HttpServer(root, "--bind", "::1") as server:
            expect_equal(server.host, "[::1]")
            done = subprocess.run(["curl", "-sSg", "--max-time", "50", server.url + "file"], capture_output=True, check=False)
            expect_equal(done.stdout, b"content")
