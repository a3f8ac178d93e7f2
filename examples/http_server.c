/* http_server.c: serves a folder over HTTP/1.1 (and 1.0), read-only.
 *
 * Build:  cc http_server.c http/text.c http/request.c http/files.c $(pkg-config --cflags --libs kolo) -o http_server
 * Try:    ./http_server --root ~/Documents      then open the printed URL, or: curl -O URL/some/file
 * Stop:   Ctrl-C finishes the replies under way, a second Ctrl-C does not wait for them.
 *
 * What it shows of kolo:
 *   - a listener, and one table of callbacks that says how every connection behaves (on_accept)
 *   - nothing that may wait for a disk on the loop's thread: a file is opened beneath the root by kolo_file_open, and
 *     folders are read by kolo_work_submit, both on the loop's pool of threads
 *   - replies of any size in flat memory: a file is sent by the system from its own memory (kolo_stream_send_file), a
 *     listing without copying it (kolo_stream_write_owned); small replies are copied, and the high watermark is obeyed
 *     (kolo_stream_write, on_drain)
 *   - timeouts: the stream itself keeps those for silence and stalls, a timer keeps the deadline of a whole request
 *   - closing in order: half-close, wait for the peer's end, close (kolo_stream_finish); and memory freed in on_close,
 *     the last callback
 *   - signals, and a stop that drains
 * All of kolo is in this file; http/ holds what it needs of HTTP, paths and folders (http/http.h tells).
 *
 * How a connection works. Bytes come in on_data, in the loop's own buffer. Whole requests are read right from there; one
 * that asks for a path is copied into a lookup, which lives until its reply is under way. What is left (a part of a
 * request, or requests behind a reply that is not sent yet) is held in memory of the connection until its turn comes. An
 * idle connection holds neither buffer nor file.
 *
 * Memory of one connection, at most: 16 KiB + one read (64 KiB) of held requests, a lookup (24 KiB), 128 KiB of a file that
 * comes from a disk or one folder listing (4 MiB), and 64 KiB + one small reply (1 KiB) in the stream's write queue.
 *
 * POSIX only. */
#include "http/http.h"
#include <kolo.h>

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    ACCEPT_QUIET_SECONDS = 3,           /* failures to accept are said once, until it went well for so long */
    LINGER_SECONDS = 2,                 /* for a client that still sends after our last word */
    STOP_SECONDS = 5                    /* what replies under way get to finish when the server is stopped */
};
static const uint64_t SECOND_NS = UINT64_C(1000000000);

/* ---- the server and its connections -------------------------------------------------------------------------------- */

struct connection {
    struct connection *next, *previous;
    kolo_tcp stream;
    kolo_timer deadline;   /* for a request that has begun; else 0 */
    unsigned char *held;   /* input whose turn has not come; NULL when there is none */
    size_t held_length, held_capacity;
    size_t scanned;        /* how much of an unfinished request has been looked at */
    size_t body_left;      /* of a request's body that is thrown away */
    char *page;            /* the listing that is being sent; the stream reads from it until on_page_sent */
    struct lookup *lookup; /* what is asked for is being looked for */
    bool sending;          /* a file or a listing */
    bool blocked;          /* small replies stand above the high watermark; on_drain will say when they have left */
    bool read_paused;
    bool idle_timeout_off;
    bool blank_seen;       /* the one empty line that may stand before a request */
    bool close_after;      /* no further request is answered */
    bool peer_ended;       /* no further byte will come */
    bool finishing;        /* our last word is said: closes once the queue has left and the client has ended */
};

static struct {
    kolo_loop *loop;
    kolo_listener listener;
    kolo_signal interrupt, terminate;
    kolo_timer grace; /* while stopping */
    struct connection *connections;
    struct builder reply; /* the reply being composed; its memory is used again */
    struct root root;
    kolo_file root_file;
    bool beneath;             /* the system keeps paths beneath the root (KOLO_OPEN_BENEATH) */
    bool quiet;
    bool stopping;
    uint64_t idle_ns, request_ns;
    uint64_t accept_failed_ns; /* when it did last; 0: never */
} server;

static void say(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

/* For calls that only fail when the program is wrong, or before it serves anybody. */
static int check(int result, const char *what)
{
    if (result < 0) {
        say("http_server: %s: %s (%s)", what, kolo_strerror(result), kolo_error_name(result));
        exit(1);
    }
    return result;
}

static bool is_busy(const struct connection *c)
{
    return c->lookup != NULL || c->sending || c->blocked;
}

static void on_deadline(kolo_loop *loop, kolo_timer timer, void *user);

static void arm_deadline(struct connection *c, uint64_t delay_ns)
{
    if (c->deadline == 0)
        check(kolo_timer_open(server.loop, on_deadline, c, &c->deadline), "open a timer");
    check(kolo_timer_start(server.loop, c->deadline, delay_ns, 0), "start a timer");
}

static void disarm_deadline(struct connection *c)
{
    if (c->deadline != 0)
        kolo_close(server.loop, c->deadline);
    c->deadline = 0;
}

static void release_held(struct connection *c)
{
    free(c->held);
    c->held = NULL;
    c->held_length = c->held_capacity = 0;
}

static void release_page(struct connection *c)
{
    free(c->page);
    c->page = NULL;
}

/* Ends a connection at once. Its memory lives on until on_close. */
static void drop(struct connection *c)
{
    c->finishing = true;
    kolo_close(server.loop, c->stream); /* KOLO_EBADF when an error has closed it already */
}

/* Ends a connection in order: what is queued leaves, then our end is closed, then the peer's end is awaited for a while.
 * (Closing while the client still sends would reset the connection, and our last reply could be lost with it.) */
static void finish(struct connection *c)
{
    if (c->finishing)
        return;
    c->finishing = true;
    disarm_deadline(c);
    release_held(c);
    if (kolo_stream_finish(server.loop, c->stream, server.stopping ? 0 : LINGER_SECONDS * SECOND_NS) < 0
        || kolo_stream_set_timeouts(server.loop, c->stream, 0, server.idle_ns) < 0)
        drop(c);
}

/* ---- replies ------------------------------------------------------------------------------------------------------- */

static void log_request(const struct connection *c, const struct request *request, int status)
{
    char method[32], target[200], peer[KOLO_ADDRESS_TEXT_MAX] = "-";
    kolo_address address;
    if (server.quiet)
        return;
    if (kolo_tcp_peer(server.loop, c->stream, &address) == 0 && kolo_address_format(&address, peer, sizeof peer) < 0)
        strcpy(peer, "-");
    format_printable(request->method, method, sizeof method);
    format_printable(request->target, target, sizeof target);
    say("%s %d %s %s", peer, status, method, target);
}

/* A reply is composed in server.reply: begin_reply, more fields by put_*, end_header, a body, send_reply. */
static void begin_reply(struct connection *c, const struct request *request, int status)
{
    static time_t date_time = -1;
    static char date[32];
    time_t now = time(NULL);
    struct builder *reply = &server.reply;
    if (now != date_time) {
        format_date(now, date);
        date_time = now;
    }
    log_request(c, request, status);
    reply->length = 0;
    reply->failed = false;
    put_format(reply, "HTTP/1.1 %d %s\r\nDate: %s\r\n", status, status_text(status), date);
    if (c->close_after)
        put(reply, "Connection: close\r\n");
    else if (request->says_keep_alive)
        put(reply, "Connection: keep-alive\r\n");
}

static void end_header(void)
{
    put(&server.reply, "\r\n");
}

static void send_reply(struct connection *c)
{
    int result = KOLO_ENOMEM;
    if (!server.reply.failed)
        result = kolo_stream_write(server.loop, c->stream, server.reply.text, server.reply.length);
    if (result < 0)
        drop(c);
    else if (result == 1)
        c->blocked = true;
}

/* A whole reply with the status as its text. `fields` are whole lines, or NULL. */
static void reply_status(struct connection *c, const struct request *request, int status, const char *fields)
{
    struct builder *reply = &server.reply;
    size_t body_length = 5 + strlen(status_text(status)); /* "404 Not Found\n" */
    if (status == 503)
        c->close_after = true; /* gives a descriptor back */
    begin_reply(c, request, status);
    if (fields != NULL)
        put(reply, fields);
    if (status != 204)
        put_format(reply, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: %zu\r\n", body_length);
    end_header();
    if (status != 204 && !request->head)
        put_format(reply, "%d %s\n", status, status_text(status));
    send_reply(c);
}

static void go_on(struct connection *c);

static void on_page_sent(kolo_loop *loop, kolo_stream stream, int status, void *user)
{
    struct connection *c = user;
    (void)loop;
    (void)stream;
    if (status < 0) {
        drop(c);
        return;
    }
    release_page(c);
    c->sending = false;
    go_on(c);
}

static void on_file_sent(kolo_loop *loop, kolo_stream stream, int status, uint64_t sent, void *user)
{
    struct connection *c = user;
    (void)loop;
    (void)stream;
    (void)sent;
    if (status == KOLO_ENODATA) /* kolo resets the connection: half a file must not look like a whole one */
        say("http_server: a file became shorter while it was sent; its connection is reset");
    if (status < 0) {
        drop(c);
        return;
    }
    c->sending = false;
    go_on(c);
}

static int status_of_error(int error)
{
    switch (error) {
    case KOLO_ENOENT: case KOLO_ENOTDIR: case KOLO_ENAMETOOLONG: return 404;
    case KOLO_EACCES: case KOLO_EPERM: case KOLO_EXDEV: case KOLO_ELOOP: case KOLO_ENXIO: return 403;
    case KOLO_EMFILE: case KOLO_ENFILE: case KOLO_ENOMEM: case KOLO_EAGAIN: case KOLO_ENOBUFS: return 503;
    default: return 500;
    }
}

/* Answers with a regular file. Closes it: what is being sent of it still is. */
static void reply_file(struct connection *c, const struct request *request, kolo_file file, const kolo_stat *info,
                       const char *path)
{
    struct builder *reply = &server.reply;
    char etag[80], modified_text[32], line[64];
    int64_t modified = info->modified_ns / 1000000000 - (info->modified_ns % 1000000000 < 0);
    uint64_t size = info->length, first = 0, length = size;
    format_etag(info->inode, size, info->modified_ns, etag);
    format_date((time_t)modified, modified_text);
    int status = evaluate_conditions(request, etag, modified);
    if (status == 200)
        status = evaluate_range(request, etag, modified, size, &first, &length);
    if (status == 412 || status == 416) {
        kolo_close(server.loop, file);
        snprintf(line, sizeof line, "Content-Range: bytes */%" PRIu64 "\r\n", size);
        reply_status(c, request, status, status == 416 ? line : NULL);
        return;
    }
    begin_reply(c, request, status);
    put_format(reply, "Last-Modified: %s\r\nETag: %s\r\nCache-Control: no-cache\r\n", modified_text, etag);
    if (status == 206)
        put_format(reply, "Content-Range: bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64 "\r\n", first, first + length - 1, size);
    if (status != 304)
        put_format(reply, "Content-Type: %s\r\nContent-Length: %" PRIu64 "\r\nAccept-Ranges: bytes\r\n"
                   "X-Content-Type-Options: nosniff\r\n", content_type(path), length);
    end_header();
    send_reply(c);
    if (status != 304 && !request->head && length > 0 && !c->finishing) {
        c->sending = true; /* the header leaves together with the file's first bytes */
        if (kolo_stream_send_file(server.loop, c->stream, file, first, length, on_file_sent, c, NULL) < 0)
            drop(c);
    }
    kolo_close(server.loop, file);
}

/* Answers with the listing of a folder, whose text it takes. */
static void reply_listing(struct connection *c, const struct request *request, struct builder *page)
{
    begin_reply(c, request, 200);
    put_format(&server.reply, "Content-Type: text/html; charset=utf-8\r\nContent-Length: %zu\r\n"
               "Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\n", page->length);
    end_header();
    send_reply(c);
    if (request->head || c->finishing)
        return;
    kolo_buffer whole = {page->text, page->length};
    c->page = page->text;
    page->text = NULL;
    c->sending = true;
    if (kolo_stream_write_owned(server.loop, c->stream, &whole, 1, on_page_sent, c, NULL) < 0)
        drop(c);
}

/* Answers a request for a folder whose path does not end in a slash: without it, relative links would lead astray. */
static void reply_redirect(struct connection *c, const struct request *request, const char *path)
{
    begin_reply(c, request, 301);
    put(&server.reply, "Location: /");
    put_url_path(&server.reply, path);
    put(&server.reply, "/\r\nContent-Length: 0\r\n");
    end_header();
    send_reply(c);
}

/* ---- what is asked for --------------------------------------------------------------------------------------------- */

/* A path that is being looked for, on the pool's threads: it may have to come from a disk. It outlives its connection, whose
 * place is empty then: what was found is closed, and nobody is answered. */
struct lookup {
    struct connection *c;
    char path[PATH_BYTES_MAX], index_path[PATH_BYTES_MAX + 16];
    bool folder;         /* the path ended in a slash */
    kolo_file directory; /* that the path names, while its index.html is looked for */
    int descriptor;      /* what a thread works with, or has opened; -1: none */
    int error;           /* what it met */
    struct builder page;
    size_t length;
    char header[]; /* the request, which the reply needs once more */
};

static int look_for(struct lookup *me, const char *path);

/* Whether somebody waits for it; then also the request. */
static bool is_wanted(const struct lookup *me, struct request *request)
{
    return me->c != NULL && !me->c->finishing && parse_request(me->header, me->length, request) == 0;
}

/* The reply is under way, or nobody wants it. */
static void end_lookup(struct lookup *me)
{
    struct connection *c = me->c;
    if (me->directory != 0)
        kolo_close(server.loop, me->directory);
    if (me->descriptor >= 0)
        close(me->descriptor);
    free(me->page.text);
    free(me);
    if (c != NULL) {
        c->lookup = NULL;
        go_on(c);
    }
}

static void fail_lookup(struct lookup *me, int status)
{
    struct request request;
    if (is_wanted(me, &request))
        reply_status(me->c, &request, status, NULL);
    end_lookup(me);
}

static void list(void *user) /* on a thread of the pool */
{
    struct lookup *me = user;
    me->error = put_listing(&me->page, me->descriptor, me->path) == 0 ? 0 : errno;
    me->descriptor = -1;
}

static void on_listed(kolo_loop *loop, kolo_request work, int status, void *user)
{
    struct lookup *me = user;
    struct request request;
    (void)loop;
    (void)work;
    if (status < 0 || me->error != 0) {
        fail_lookup(me, status_of_error(status < 0 ? status : kolo_error_from_system(me->error)));
        return;
    }
    if (is_wanted(me, &request))
        reply_listing(me->c, &request, &me->page);
    end_lookup(me);
}

static void look_into(struct lookup *me)
{
    kolo_socket descriptor;
    check(kolo_file_release(server.loop, me->directory, &descriptor), "take a descriptor back");
    me->directory = 0;
    me->descriptor = (int)descriptor;
    int result = kolo_work_submit(server.loop, KOLO_WORK_FILES, list, on_listed, me, NULL);
    if (result < 0)
        fail_lookup(me, status_of_error(result));
}

/* The path itself is open. */
static void on_found(struct lookup *me, kolo_file file, const kolo_stat *info)
{
    struct request request;
    bool is_folder = info->type == KOLO_FILE_TYPE_DIRECTORY;
    if (is_folder && me->folder) {
        me->directory = file;
        snprintf(me->index_path, sizeof me->index_path, "%s/index.html", me->path);
        int result = look_for(me, me->index_path);
        if (result < 0)
            fail_lookup(me, status_of_error(result));
        return;
    }
    if (!is_wanted(me, &request)) {
        kolo_close(server.loop, file);
    } else if (info->type == KOLO_FILE_TYPE_REGULAR && !me->folder) {
        reply_file(me->c, &request, file, info, me->path);
    } else {
        kolo_close(server.loop, file);
        if (is_folder)
            reply_redirect(me->c, &request, me->path);
        else /* a file asked for as a folder; or a device, a FIFO */
            reply_status(me->c, &request, me->folder ? 404 : 403, NULL);
    }
    end_lookup(me);
}

/* The index.html of a folder is open. */
static void on_index_found(struct lookup *me, kolo_file file, const kolo_stat *info)
{
    struct request request;
    if (info->type != KOLO_FILE_TYPE_REGULAR) {
        kolo_close(server.loop, file); /* a folder of that name */
        look_into(me);
        return;
    }
    if (is_wanted(me, &request))
        reply_file(me->c, &request, file, info, me->index_path);
    else
        kolo_close(server.loop, file);
    end_lookup(me);
}

static void on_opened(kolo_loop *loop, kolo_request opening, int status, kolo_file file, void *user)
{
    struct lookup *me = user;
    kolo_stat info = KOLO_STAT_INIT;
    (void)opening;
    if (status == 0) {
        status = kolo_file_stat_sync(loop, file, &info); /* of what is open: that is in memory */
        if (status < 0)
            kolo_close(loop, file);
    }
    if (status == 0)
        (me->directory == 0 ? on_found : on_index_found)(me, file, &info);
    else if (status == KOLO_ENOENT && me->directory != 0)
        look_into(me);
    else
        fail_lookup(me, status_of_error(status));
}

static void walk(void *user) /* on a thread of the pool */
{
    struct lookup *me = user;
    me->descriptor = open_walking(&server.root, me->directory == 0 ? me->path : me->index_path);
    me->error = me->descriptor < 0 ? errno : 0;
}

static void on_walked(kolo_loop *loop, kolo_request work, int status, void *user)
{
    struct lookup *me = user;
    kolo_file file = 0;
    if (status == 0 && me->error != 0)
        status = kolo_error_from_system(me->error);
    if (status == 0)
        status = kolo_file_adopt(loop, me->descriptor, &file);
    if (status == 0)
        me->descriptor = -1;
    on_opened(loop, work, status, file, me);
}

/* Has a path opened for reading, and nothing outside the root. */
static int look_for(struct lookup *me, const char *path)
{
    kolo_open_options options = KOLO_OPEN_OPTIONS_INIT;
    options.flags = KOLO_OPEN_BENEATH | KOLO_OPEN_NO_WAIT; /* opening a FIFO must not wait for its writer */
    options.directory = server.root_file;
    return server.beneath ? kolo_file_open(server.loop, path, &options, on_opened, me, NULL)
                          : kolo_work_submit(server.loop, KOLO_WORK_FILES, walk, on_walked, me, NULL);
}

static void reply_path(struct connection *c, const struct request *request, const char *header, size_t length)
{
    struct text rest = request->target, target = text_cut(&rest, '?');
    struct lookup *me = calloc(1, sizeof *me + length);
    int status = me == NULL ? 503 : decode_path(target, me->path, &me->folder);
    if (status != 0) {
        free(me);
        reply_status(c, request, status, NULL);
        return;
    }
    memcpy(me->header, header, length);
    me->length = length;
    me->descriptor = -1;
    me->c = c;
    int result = look_for(me, me->path);
    if (result < 0) {
        free(me);
        reply_status(c, request, status_of_error(result), NULL);
        return;
    }
    c->lookup = me;
}

/* Answers one whole request. */
static void answer(struct connection *c, const char *header, size_t length)
{
    static const char *const known_methods[] = {"POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT"};
    static const char allow[] = "Allow: GET, HEAD, OPTIONS\r\n";
    struct request request;
    int status = parse_request(header, length, &request);
    if (status != 0) {
        c->close_after = true; /* where the next request would begin is anybody's guess */
        reply_status(c, &request, status, NULL);
        return;
    }
    c->body_left = (size_t)request.body_length;
    /* A client that waits for "100 Continue" may send its body after our reply, or not: only the end is unambiguous. */
    c->close_after = !request.keep_alive || server.stopping || (request.expects_continue && request.body_length > 0);
    if (text_is(request.method, "GET") || request.head) {
        reply_path(c, &request, header, length);
        return;
    }
    if (text_is(request.method, "OPTIONS")) {
        reply_status(c, &request, 204, allow);
        return;
    }
    status = 501;
    for (size_t i = 0; i < sizeof known_methods / sizeof known_methods[0]; i++)
        if (text_is(request.method, known_methods[i]))
            status = 405;
    reply_status(c, &request, status, status == 405 ? allow : NULL);
}
/* ---- a connection's life ------------------------------------------------------------------------------------------- */

/* Answers the whole requests in `data`, as many as may be answered now, and gives how much of it is done with. */
static size_t consume(struct connection *c, const char *data, size_t length)
{
    size_t used = 0, header_length;
    while (used < length) {
        const char *rest = data + used;
        if (c->finishing)
            return length;
        if (c->body_left > 0) {
            size_t skipped = length - used < c->body_left ? length - used : c->body_left;
            c->body_left -= skipped;
            used += skipped;
            if (c->body_left == 0)
                disarm_deadline(c);
            continue;
        }
        if (is_busy(c))
            break;
        if (!c->blank_seen && length - used >= 2 && memcmp(rest, "\r\n", 2) == 0) {
            c->blank_seen = true; /* RFC 9112 §2.2: old clients send one after a body */
            c->scanned = 0;
            used += 2;
            continue;
        }
        int status = find_header(rest, length - used, &c->scanned, &header_length);
        if (status == 0 && header_length == 0)
            break;
        c->scanned = 0;
        c->blank_seen = false;
        disarm_deadline(c);
        if (status != 0) {
            struct request unknown;
            memset(&unknown, 0, sizeof unknown);
            c->close_after = true;
            reply_status(c, &unknown, status, NULL);
        } else {
            answer(c, rest, header_length);
            used += header_length;
        }
        if (c->close_after && !c->sending && c->lookup == NULL)
            finish(c);
    }
    return used;
}

static void consume_held(struct connection *c)
{
    size_t used = consume(c, (const char *)c->held, c->held_length);
    if (c->finishing) /* released already */
        return;
    c->held_length -= used;
    if (c->held_length == 0)
        release_held(c);
    else if (used > 0)
        memmove(c->held, c->held + used, c->held_length);
}

static bool hold(struct connection *c, const uint8_t *data, size_t length)
{
    if (c->held_capacity - c->held_length < length) {
        size_t capacity = c->held_length + length;
        if (capacity < 2 * c->held_capacity && capacity < HEADER_BYTES_MAX)
            capacity = 2 * c->held_capacity; /* a client that sends byte by byte */
        unsigned char *held = realloc(c->held, capacity);
        if (held == NULL) {
            drop(c);
            return false;
        }
        c->held = held;
        c->held_capacity = capacity;
    }
    memcpy(c->held + c->held_length, data, length);
    c->held_length += length;
    return true;
}

/* Brings timers and reading in line with what the connection waits for now. Called at the end of every event. */
static void settle(struct connection *c)
{
    bool busy = is_busy(c);
    int result = 0;
    if (c->finishing)
        return;
    if (c->peer_ended && !busy) {
        finish(c); /* what is held can never become a request */
        return;
    }
    bool pause = busy && c->held_length >= HEADER_BYTES_MAX;
    if (pause != c->read_paused) {
        c->read_paused = pause;
        result = pause ? kolo_stream_read_stop(server.loop, c->stream) : kolo_stream_read_start(server.loop, c->stream);
    }
    if (result >= 0 && busy != c->idle_timeout_off) { /* who waits for our reply is not idle */
        c->idle_timeout_off = busy;
        result = kolo_stream_set_timeouts(server.loop, c->stream, busy ? 0 : server.idle_ns, server.idle_ns);
    }
    if (result < 0) {
        drop(c);
        return;
    }
    bool begun = !busy && (c->held_length > 0 || c->body_left > 0);
    if (!begun)
        disarm_deadline(c);
    else if (c->deadline == 0)
        arm_deadline(c, server.request_ns);
}

/* A reply has left, or room for more: on with the requests behind it. */
static void go_on(struct connection *c)
{
    if (c->close_after && !is_busy(c))
        finish(c);
    if (!c->finishing)
        consume_held(c);
    settle(c);
}

static void on_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    struct connection *c = user;
    (void)loop;
    (void)stream;
    if (c->held_length == 0) { /* the usual case: answered right from the loop's buffer */
        size_t used = consume(c, (const char *)data, length);
        data += used;
        length -= used;
        if (!c->finishing && length > 0)
            hold(c, data, length);
    } else if (hold(c, data, length)) {
        consume_held(c);
    }
    settle(c);
}

static void on_end(kolo_loop *loop, kolo_stream stream, void *user)
{
    struct connection *c = user;
    (void)loop;
    (void)stream;
    c->peer_ended = true;
    settle(c); /* a client may half-close and wait for its replies */
}

static void on_drain(kolo_loop *loop, kolo_stream stream, void *user)
{
    struct connection *c = user;
    (void)loop;
    (void)stream;
    c->blocked = false;
    if (!is_busy(c))
        go_on(c);
}

static void on_timeout(kolo_loop *loop, kolo_stream stream, int which, void *user)
{
    struct connection *c = user;
    (void)loop;
    (void)stream;
    if (which == KOLO_TIMEOUT_WRITE)
        drop(c); /* takes nothing: nothing more can be said to it */
    else if (c->deadline == 0 && !is_busy(c)) /* a request that has begun has its deadline */
        finish(c);
}

/* A request did not come whole in its time. */
static void on_deadline(kolo_loop *loop, kolo_timer timer, void *user)
{
    struct connection *c = user;
    struct request unknown;
    (void)loop;
    (void)timer;
    c->close_after = true;
    memset(&unknown, 0, sizeof unknown);
    if (c->body_left == 0) /* else it has its reply already */
        reply_status(c, &unknown, 408, NULL);
    finish(c);
}

static void end_when_drained(void);

static void on_close(kolo_loop *loop, kolo_stream stream, void *user)
{
    struct connection *c = user;
    (void)loop;
    (void)stream;
    disarm_deadline(c);
    release_held(c);
    release_page(c);
    if (c->lookup != NULL)
        c->lookup->c = NULL;
    if (c->previous != NULL)
        c->previous->next = c->next;
    else
        server.connections = c->next;
    if (c->next != NULL)
        c->next->previous = c->previous;
    free(c);
    end_when_drained();
}

static void on_accept(kolo_loop *loop, kolo_listener listener, kolo_tcp stream, void *user)
{
    (void)listener;
    (void)user;
    kolo_stream_handler connection_handler = KOLO_STREAM_HANDLER_INIT; /* no on_error: on_close follows it anyway */
    connection_handler.on_data = on_data;
    connection_handler.on_end = on_end;
    connection_handler.on_drain = on_drain;
    connection_handler.on_timeout = on_timeout;
    connection_handler.on_close = on_close;
    struct connection *c = calloc(1, sizeof *c);
    if (c == NULL || kolo_stream_attach(loop, stream, &connection_handler, c) < 0) {
        free(c);
        return; /* a stream without a handler is closed now */
    }
    c->stream = stream;
    c->next = server.connections;
    if (c->next != NULL)
        c->next->previous = c;
    server.connections = c;
    if (kolo_stream_set_timeouts(loop, stream, server.idle_ns, server.idle_ns) < 0)
        drop(c);
}

/* Out of descriptors, most likely. The listener lives on and tries again by itself; clients wait in its backlog. Said
 * once, and again only after some time without. */
static void on_listener_error(kolo_loop *loop, kolo_listener listener, int error, void *user)
{
    uint64_t now_ns;
    (void)listener;
    (void)user;
    check(kolo_loop_now(loop, &now_ns), "ask for the time");
    if (server.accept_failed_ns == 0 || now_ns - server.accept_failed_ns > ACCEPT_QUIET_SECONDS * SECOND_NS)
        say("http_server: accept: %s (%s); serving those who are here", kolo_strerror(error), kolo_error_name(error));
    server.accept_failed_ns = now_ns;
}

/* ---- stopping ------------------------------------------------------------------------------------------------------ */

/* Nothing is left that could keep the loop alive: kolo_loop_run returns. */
static void end_when_drained(void)
{
    if (!server.stopping || server.connections != NULL)
        return;
    kolo_close(server.loop, server.grace);
    kolo_close(server.loop, server.interrupt);
    kolo_close(server.loop, server.terminate);
}

static void on_grace_over(kolo_loop *loop, kolo_timer timer, void *user)
{
    (void)timer;
    (void)user;
    say("http_server: connections cut off: their replies took too long");
    kolo_loop_stop(loop);
}

static void on_signal(kolo_loop *loop, kolo_signal signal_handle, int number, void *user)
{
    (void)signal_handle;
    (void)number;
    (void)user;
    if (server.stopping) {
        kolo_loop_stop(loop);
        return;
    }
    server.stopping = true;
    check(kolo_close(loop, server.listener), "close the listener");
    check(kolo_timer_open(loop, on_grace_over, NULL, &server.grace), "open a timer");
    check(kolo_timer_start(loop, server.grace, STOP_SECONDS * SECOND_NS, 0), "start a timer");
    size_t busy_count = 0;
    for (struct connection *c = server.connections; c != NULL; c = c->next) {
        c->close_after = true;
        if (c->finishing)
            kolo_stream_finish(loop, c->stream, 0); /* waits no longer than for what is queued */
        else if (!is_busy(c))
            finish(c);
        else
            busy_count++;
    }
    if (!server.quiet)
        say("Stopping: %zu replies under way (again to end at once)", busy_count);
    end_when_drained();
}

/* ---- starting ------------------------------------------------------------------------------------------------------ */

static int usage(void)
{
    fputs("usage: http_server [options]\n"
          "  --root FOLDER              what to serve, default: the current folder\n"
          "  --port NUMBER              default 8080, or a free one if it is taken; 0: a free one\n"
          "  --bind ADDRESS             numeric IPv4 or IPv6, default 127.0.0.1: this machine only\n"
          "  --idle SECONDS             closes connections that ask for nothing, or take nothing, default 60\n"
          "  --header-timeout SECONDS   what a request gets to arrive whole, default 10\n"
          "  --quiet                    does not print the requests\n",
          stderr);
    return 2;
}

static bool parse_seconds(const char *text, uint64_t *out_ns)
{
    char *end;
    double seconds = strtod(text, &end);
    if (end == text || *end != '\0' || !(seconds >= 0.001 && seconds <= 1e6))
        return false;
    *out_ns = (uint64_t)(seconds * 1e9);
    return true;
}

static void start_listening(const char *bind_text, uint16_t port)
{
    kolo_address address;
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    handler.on_accept = on_accept;
    handler.on_error = on_listener_error;
    check(kolo_address_parse(bind_text, port, &address), bind_text);
    int result = kolo_tcp_listen(server.loop, &address, NULL, &handler, NULL, &server.listener);
    if (result == KOLO_EADDRINUSE && port != 0) {
        say("http_server: port %u is taken, using a free one", (unsigned)port);
        address.port = 0;
        result = kolo_tcp_listen(server.loop, &address, NULL, &handler, NULL, &server.listener);
    }
    check(result, "listen");
}

/* Opens the root, and finds out whether the system keeps paths beneath it: Linux before 5.6, some sandboxes and other
 * systems do not. */
static void start_files(void)
{
    kolo_open_options options = KOLO_OPEN_OPTIONS_INIT;
    options.flags = KOLO_OPEN_DIRECTORY;
    check(kolo_file_open_sync(server.loop, server.root.path, &options, &server.root_file), server.root.path);
#ifndef HTTP_SERVER_NO_OPENAT2 /* as a system without it would have it, for the tests */
    kolo_file probe;
    options.flags |= KOLO_OPEN_BENEATH;
    options.directory = server.root_file;
    server.beneath = kolo_file_open_sync(server.loop, ".", &options, &probe) == KOLO_OK;
    if (server.beneath)
        kolo_close(server.loop, probe);
#endif
}

static void start_signal(int number, kolo_signal *out)
{
    check(kolo_signal_open(server.loop, on_signal, NULL, out), "open a signal handle");
    check(kolo_signal_start(server.loop, *out, number), "watch a signal");
}

int main(int count, char **arguments)
{
    const char *root = ".", *bind_text = "127.0.0.1";
    struct text number;
    uint64_t port = 8080;
    server.idle_ns = 60 * SECOND_NS;
    server.request_ns = 10 * SECOND_NS;
    for (int i = 1; i < count; i++) {
        const char *option = arguments[i], *value = i + 1 < count ? arguments[i + 1] : NULL;
        if (strcmp(option, "--quiet") == 0) {
            server.quiet = true;
            continue;
        }
        if (value == NULL)
            return usage();
        i++;
        number.at = value;
        number.length = strlen(value);
        if (strcmp(option, "--root") == 0)
            root = value;
        else if (strcmp(option, "--bind") == 0)
            bind_text = value;
        else if (strcmp(option, "--port") == 0 ? !text_number(number, &port) || port > 65535
                 : strcmp(option, "--idle") == 0 ? !parse_seconds(value, &server.idle_ns)
                 : strcmp(option, "--header-timeout") == 0 ? !parse_seconds(value, &server.request_ns) : true)
            return usage();
    }
    if (root_open(&server.root, root) != 0) {
        say("http_server: %s: %s", root, strerror(errno));
        return 1;
    }
    check(kolo_loop_new(NULL, &server.loop), "create the loop");
    start_files();
    start_listening(bind_text, (uint16_t)port);
    start_signal(SIGINT, &server.interrupt);
    start_signal(SIGTERM, &server.terminate);

    kolo_address bound;
    char text[KOLO_ADDRESS_TEXT_MAX];
    check(kolo_listener_address(server.loop, server.listener, &bound), "ask for the address");
    check(kolo_address_format(&bound, text, sizeof text), "format the address");
    printf("Serving %s at http://%s/\n", server.root.path, text);
    fflush(stdout);

    check(kolo_loop_run(server.loop, KOLO_RUN_DEFAULT), "run the loop");
    check(kolo_loop_free(server.loop), "free the loop"); /* closes what is still open, and runs its on_close */
    root_close(&server.root);
    free(server.reply.text);
    return 0;
}
