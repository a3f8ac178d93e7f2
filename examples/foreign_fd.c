/* foreign_fd.c: a library with sockets of its own, driven by the loop.
 *
 * Build:  cc foreign_fd.c $(pkg-config --cflags --libs kolo) -o foreign_fd
 * Try:    ./foreign_fd 127.0.0.1 8080 / /README.md        (with ./http_server running)
 *
 * Many libraries (libpq, c-ares, libcurl, libssh2 ...) do not want to own the program's loop. They say which descriptor
 * they wait on and for what, and are called when it is ready. This file holds a small library of that kind, `fetch`,
 * and the few lines that marry such a library with kolo: watch, perform, watch for what it wants now. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <kolo.h>

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the foreign library: it knows nothing of kolo ------------------------------------------------------------------ */

enum fetch_want { FETCH_FAILED = -1, FETCH_DONE = 0, FETCH_WANTS_READ, FETCH_WANTS_WRITE };

struct fetch {
    int fd;
    enum { FETCH_CONNECTING, FETCH_SENDING, FETCH_RECEIVING } state;
    char request[512];
    size_t sent, length, received;
    char status_line[80];
    char error[80];
};

static enum fetch_want fetch_fail(struct fetch *fetch, int error)
{
    snprintf(fetch->error, sizeof fetch->error, "%s", strerror(error));
    return FETCH_FAILED;
}

/* Starts to fetch http://host:port/path. The name is looked up at once. */
static enum fetch_want fetch_start(struct fetch *fetch, const char *host, const char *port, const char *path)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *address;
    memset(fetch, 0, sizeof *fetch);
    fetch->fd = -1;
    int length = snprintf(fetch->request, sizeof fetch->request, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", path, host);
    if (length < 0 || (size_t)length >= sizeof fetch->request)
        return fetch_fail(fetch, ENAMETOOLONG);
    fetch->length = (size_t)length;
    int error = getaddrinfo(host, port, &hints, &address);
    if (error != 0) {
        snprintf(fetch->error, sizeof fetch->error, "%s", gai_strerror(error));
        return FETCH_FAILED;
    }
    fetch->fd = socket(address->ai_family, SOCK_STREAM, 0);
    if (fetch->fd < 0 || fcntl(fetch->fd, F_SETFL, O_NONBLOCK) < 0 || fcntl(fetch->fd, F_SETFD, FD_CLOEXEC) < 0
        || (connect(fetch->fd, address->ai_addr, address->ai_addrlen) != 0 && errno != EINPROGRESS))
        error = errno;
    freeaddrinfo(address);
    return error != 0 ? fetch_fail(fetch, error) : FETCH_WANTS_WRITE;
}

static int fetch_fd(const struct fetch *fetch)
{
    return fetch->fd;
}

/* Does what can be done without waiting, and says what to wait for. */
static enum fetch_want fetch_perform(struct fetch *fetch)
{
    char buffer[16 * 1024];
    if (fetch->state == FETCH_CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        if (getsockopt(fetch->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0)
            return fetch_fail(fetch, error != 0 ? error : errno);
        fetch->state = FETCH_SENDING;
    }
    while (fetch->state == FETCH_SENDING) {
        ssize_t sent = send(fetch->fd, fetch->request + fetch->sent, fetch->length - fetch->sent, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN ? FETCH_WANTS_WRITE : fetch_fail(fetch, errno);
        fetch->sent += (size_t)sent;
        if (fetch->sent == fetch->length)
            fetch->state = FETCH_RECEIVING;
    }
    ssize_t got = recv(fetch->fd, buffer, sizeof buffer, 0); /* one piece a call: whoever drives us stays responsive */
    if (got < 0)
        return errno == EAGAIN ? FETCH_WANTS_READ : fetch_fail(fetch, errno);
    if (got == 0)
        return FETCH_DONE;
    for (ssize_t i = 0; i < got && fetch->received + (size_t)i < sizeof fetch->status_line - 1; i++)
        fetch->status_line[fetch->received + (size_t)i] = buffer[i];
    fetch->received += (size_t)got;
    return FETCH_WANTS_READ;
}

static void fetch_end(struct fetch *fetch)
{
    if (fetch->fd >= 0)
        close(fetch->fd);
    fetch->fd = -1;
}

/* ---- the marriage --------------------------------------------------------------------------------------------------- */

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "foreign_fd: %s: %s\n", what, kolo_strerror(result));
        exit(1);
    }
    return result;
}

struct job {
    struct fetch fetch;
    const char *path;
    kolo_poll poll;
    kolo_timer limit;
    uint32_t watched; /* what the loop waits for now */
    bool failed;
};

static void finish(kolo_loop *loop, struct job *job, const char *error)
{
    if (error != NULL)
        printf("%s: failed: %s\n", job->path, error);
    else
        printf("%s: %.*s, %zu bytes\n", job->path, (int)strcspn(job->fetch.status_line, "\r\n"), job->fetch.status_line,
               job->fetch.received);
    job->failed = error != NULL;
    if (job->limit != 0)
        check(kolo_close(loop, job->limit), "close the timer");
    if (job->poll != 0)
        check(kolo_close(loop, job->poll), "close the poll handle");
    fetch_end(&job->fetch); /* closes the descriptor: only after kolo has let go of it */
}

/* Waits for what the library wants now, which is not always the same: first to write, then to read. */
static void follow(kolo_loop *loop, struct job *job, enum fetch_want want)
{
    uint32_t events = want == FETCH_WANTS_READ ? KOLO_POLL_READABLE : KOLO_POLL_WRITABLE;
    if (want == FETCH_FAILED) {
        finish(loop, job, job->fetch.error);
    } else if (want == FETCH_DONE) {
        finish(loop, job, NULL);
    } else if (events != job->watched) {
        check(kolo_poll_start(loop, job->poll, events), "watch the descriptor");
        job->watched = events;
    }
}

static void on_ready(kolo_loop *loop, kolo_poll poll, int status, uint32_t events, void *user)
{
    struct job *job = user;
    (void)poll, (void)events;
    if (status < 0)
        finish(loop, job, kolo_strerror(status));
    else
        follow(loop, job, fetch_perform(&job->fetch));
}

static void on_limit(kolo_loop *loop, kolo_timer timer, void *user)
{
    (void)timer;
    finish(loop, user, "no answer in 10 seconds");
}

int main(int count, char **arguments)
{
    enum { JOBS_MAX = 32 };
    static struct job jobs[JOBS_MAX];
    const uint64_t limit_ns = UINT64_C(10000000000);
    kolo_loop *loop;
    int status = 0;
    if (count < 4 || count - 3 > JOBS_MAX) {
        fprintf(stderr, "usage: foreign_fd HOST PORT PATH...     (at most %d paths, fetched all at once)\n", JOBS_MAX);
        return 2;
    }
    check(kolo_loop_new(NULL, &loop), "create the loop");
    for (int i = 0; i < count - 3; i++) {
        struct job *job = &jobs[i];
        job->path = arguments[i + 3];
        enum fetch_want want = fetch_start(&job->fetch, arguments[1], arguments[2], job->path);
        if (want != FETCH_FAILED) {
            check(kolo_poll_open(loop, fetch_fd(&job->fetch), on_ready, job, &job->poll), "open a poll handle");
            check(kolo_timer_open(loop, on_limit, job, &job->limit), "open a timer");
            check(kolo_timer_start(loop, job->limit, limit_ns, 0), "start the timer");
        }
        follow(loop, job, want);
    }
    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run");
    check(kolo_loop_free(loop), "free the loop");
    for (int i = 0; i < count - 3; i++)
        status |= jobs[i].failed;
    return status;
}
