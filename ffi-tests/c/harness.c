#include "harness.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

static test_entry *first_test;
static const char *program;

void test_register(test_entry *entry) {
    test_entry **place = &first_test;
    while (*place != NULL) place = &(*place)->next;
    *place = entry;
}

/* ---- checks ---- */

void test_fail(const char *file, int line, const char *what) {
    printf("    %s:%d: not so: %s\n", file, line, what);
    fflush(stdout);
    _exit(1);
}

void test_check_int(const char *file, int line, const char *what, long long got, long long want) {
    if (got == want) return;
    printf("    %s:%d: %s is %lld, not %lld\n", file, line, what, got, want);
    fflush(stdout);
    _exit(1);
}

void test_check_string(const char *file, int line, const char *what, const char *got, const char *want) {
    if (got != NULL && strcmp(got, want) == 0) return;
    printf("    %s:%d: %s is \"%s\", not \"%s\"\n", file, line, what, got == NULL ? "(null)" : got, want);
    fflush(stdout);
    _exit(1);
}

void test_check_error(const char *file, int line, const char *what, int got, int want) {
    if (got == want) return;
    printf("    %s:%d: %s gave %d (%s), not %d (%s)\n", file, line, what, got, kolo_error_name(got), want,
           kolo_error_name(want));
    fflush(stdout);
    _exit(1);
}

int test_check_system(const char *file, int line, const char *what, long result) {
    if (result >= 0) return (int)result;
    printf("    %s:%d: %s: %s\n", file, line, what, strerror(errno));
    fflush(stdout);
    _exit(1);
}

/* ---- running the tests ---- */

static void run_body(const test_entry *entry) {
    int before = open_descriptors();
    if (entry->with_loop != NULL) {
        kolo_loop *loop = NULL;
        CHECK_OK(kolo_loop_new(NULL, &loop));
        entry->with_loop(loop);
        CHECK_OK(kolo_loop_free(loop));
    } else {
        entry->without_loop();
    }
    CHECK_INT(open_descriptors(), before);
}

static int test_seconds(void) {
    const char *text = getenv("KOLO_TEST_SECONDS");
    int seconds = text == NULL ? 0 : atoi(text);
    return seconds > 0 ? seconds : 60;
}

/* Runs one test in a child of its own process group, so that whatever it started ends with it. */
static bool run_test(const test_entry *entry) {
    sigset_t child_ended, before;
    sigemptyset(&child_ended);
    sigaddset(&child_ended, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_ended, &before);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* when this program is ended, its tests are */
        sigprocmask(SIG_SETMASK, &before, NULL);
        run_body(entry);
        exit(0);
    }
    SYSTEM(child);
    setpgid(child, child);

    char reason[80] = "";
    uint64_t deadline = clock_ns() + SECONDS(test_seconds());
    int status = 0;
    pid_t ended;
    while ((ended = waitpid(child, &status, WNOHANG)) == 0) {
        uint64_t now = clock_ns();
        if (now >= deadline) {
            kill(-child, SIGKILL);
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
            snprintf(reason, sizeof reason, " (no end after %d seconds)", test_seconds());
            break;
        }
        struct timespec left = {(time_t)((deadline - now) / 1000000000u), (long)((deadline - now) % 1000000000u)};
        sigtimedwait(&child_ended, NULL, &left);
    }
    kill(-child, SIGKILL); /* what it may have left behind */
    sigprocmask(SIG_SETMASK, &before, NULL);

    bool passed = reason[0] == '\0' && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!passed && reason[0] == '\0') {
        if (WIFSIGNALED(status))
            snprintf(reason, sizeof reason, " (killed by signal %d)", WTERMSIG(status));
        else if (WEXITSTATUS(status) != 1)
            snprintf(reason, sizeof reason, " (exit status %d)", WEXITSTATUS(status));
    }
    printf("%-6s %s/%s%s\n", passed ? "ok" : "FAILED", program, entry->name, reason);
    fflush(stdout);
    return passed;
}

static bool wanted(const test_entry *entry, int argc, char **argv) {
    if (argc < 2) return true;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], entry->name) == 0) return true;
    return false;
}

int main(int argc, char **argv) {
    const char *slash = strrchr(argv[0], '/');
    program = slash == NULL ? argv[0] : slash + 1;
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (test_entry *entry = first_test; entry != NULL; entry = entry->next) puts(entry->name);
        return 0;
    }
    int ran = 0, failed = 0;
    for (test_entry *entry = first_test; entry != NULL; entry = entry->next) {
        if (!wanted(entry, argc, argv)) continue;
        ran++;
        if (getenv("KOLO_TEST_NO_FORK") != NULL) {
            run_body(entry);
            printf("ok     %s/%s\n", program, entry->name);
        } else if (!run_test(entry)) {
            failed++;
        }
    }
    if (ran == 0) {
        fprintf(stderr, "%s: no such test\n", program);
        return 2;
    }
    return failed == 0 ? 0 : 1;
}

/* ---- running a loop ---- */

void run_some_turns(kolo_loop *loop) {
    for (int i = 0; i < 5; i++) CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) >= 0);
}

void run_to_end(kolo_loop *loop) { CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0); }

uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void busy_wait_ns(uint64_t ns) {
    uint64_t end = clock_ns() + ns;
    while (clock_ns() < end) {
    }
}

uint64_t loop_now(kolo_loop *loop) {
    uint64_t now = 0;
    CHECK_OK(kolo_loop_now(loop, &now));
    return now;
}

void on_another_thread(void *(*function)(void *), void *argument) {
    pthread_t thread;
    CHECK_INT(pthread_create(&thread, NULL, function, argument), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
}

/* ---- plain sockets ---- */

static socklen_t to_sockaddr(const kolo_address *address, struct sockaddr_storage *out) {
    int length = kolo_address_to_sockaddr(address, out, sizeof *out);
    CHECK(length > 0);
    return (socklen_t)length;
}

kolo_address loopback_v4(uint16_t port) {
    kolo_address address;
    CHECK_OK(kolo_address_parse("127.0.0.1", port, &address));
    return address;
}

kolo_address loopback_v6(uint16_t port) {
    kolo_address address;
    CHECK_OK(kolo_address_parse("::1", port, &address));
    return address;
}

int raw_socket_bound(const kolo_address *address, kolo_address *bound) {
    struct sockaddr_storage place;
    socklen_t length = to_sockaddr(address, &place);
    int descriptor = SYSTEM(socket(place.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    SYSTEM(bind(descriptor, (struct sockaddr *)&place, length));
    if (bound != NULL) {
        length = sizeof place;
        SYSTEM(getsockname(descriptor, (struct sockaddr *)&place, &length));
        CHECK_OK(kolo_address_from_sockaddr(&place, length, bound));
    }
    return descriptor;
}

int raw_listen(const kolo_address *address, int backlog, kolo_address *bound) {
    int descriptor = raw_socket_bound(address, bound);
    SYSTEM(listen(descriptor, backlog));
    return descriptor;
}

int raw_accept(int listener) { return SYSTEM(accept4(listener, NULL, NULL, SOCK_CLOEXEC)); }

int raw_connect(const kolo_address *address) {
    struct sockaddr_storage place;
    socklen_t length = to_sockaddr(address, &place);
    int descriptor = SYSTEM(socket(place.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    SYSTEM(connect(descriptor, (struct sockaddr *)&place, length));
    return descriptor;
}

void raw_pair(int sockets[2]) {
    kolo_address any = loopback_v4(0), bound;
    int listener = raw_listen(&any, 1, &bound);
    sockets[0] = raw_connect(&bound);
    sockets[1] = raw_accept(listener);
    SYSTEM(close(listener));
}

void raw_write_all(int socket, const void *data, size_t length) {
    const uint8_t *at = data;
    while (length > 0) {
        ssize_t sent = send(socket, at, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        SYSTEM(sent);
        at += sent;
        length -= (size_t)sent;
    }
}

void raw_read_exactly(int socket, void *data, size_t length) {
    uint8_t *at = data;
    while (length > 0) {
        ssize_t received = recv(socket, at, length, 0);
        if (received < 0 && errno == EINTR) continue;
        SYSTEM(received);
        CHECK(received > 0);
        at += received;
        length -= (size_t)received;
    }
}

void raw_nonblocking(int descriptor) {
    int flags = SYSTEM(fcntl(descriptor, F_GETFL));
    SYSTEM(fcntl(descriptor, F_SETFL, flags | O_NONBLOCK));
}

void raw_close(int *descriptor) {
    if (*descriptor >= 0) SYSTEM(close(*descriptor));
    *descriptor = -1;
}

int raw_option(int socket, int level, int name) {
    int value = 0;
    socklen_t length = sizeof value;
    SYSTEM(getsockopt(socket, level, name, &value, &length));
    return value;
}

uint16_t raw_local_port(int socket) {
    struct sockaddr_storage place;
    socklen_t length = sizeof place;
    kolo_address address;
    SYSTEM(getsockname(socket, (struct sockaddr *)&place, &length));
    CHECK_OK(kolo_address_from_sockaddr(&place, length, &address));
    return address.port;
}

int open_descriptors(void) {
    DIR *folder = opendir("/proc/self/fd");
    CHECK(folder != NULL);
    int count = 0;
    while (readdir(folder) != NULL) count++;
    closedir(folder);
    return count;
}

bool descriptor_is_open(int descriptor) { return fcntl(descriptor, F_GETFD) >= 0; }

uint8_t pattern_byte(uint64_t offset) { return (uint8_t)(offset % 251u ^ (offset / 251u) % 241u); }

void pattern_fill(void *data, size_t length, uint64_t offset) {
    uint8_t *at = data;
    for (size_t i = 0; i < length; i++) at[i] = pattern_byte(offset + i);
}

bool pattern_matches(const void *data, size_t length, uint64_t offset) {
    const uint8_t *at = data;
    for (size_t i = 0; i < length; i++)
        if (at[i] != pattern_byte(offset + i)) return false;
    return true;
}

/* ---- recorded streams ----
 * The record checks what holds for every stream: each callback names its loop and stream, and none comes after the
 * last one, on_close. */

static peer *heard(kolo_loop *loop, kolo_stream stream, void *user) {
    peer *me = user;
    if (me->stream == 0) { /* accepted or connecting: the first callback names it */
        me->stream = stream;
        me->loop = loop;
    }
    CHECK(me->stream == stream);
    CHECK(me->loop == NULL || me->loop == loop);
    CHECK_INT(me->closed, 0);
    return me;
}

static void peer_on_open(kolo_loop *loop, kolo_stream stream, void *user) {
    peer *me = heard(loop, stream, user);
    CHECK_INT(me->opened, 0);
    me->opened++;
}

static void peer_on_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
    peer *me = heard(loop, stream, user);
    CHECK_INT(me->ended, 0);
    CHECK(length > 0);
    me->data_calls++;
    if (me->discard) {
        CHECK(pattern_matches(data, length, me->received));
        me->received += length;
    } else {
        if (me->received + length > me->capacity) {
            me->capacity = (me->received + length) * 2;
            me->data = realloc(me->data, me->capacity);
            CHECK(me->data != NULL);
        }
        memcpy(me->data + me->received, data, length);
        me->received += length;
    }
    if (me->stop_in_data) CHECK_OK(kolo_stream_read_stop(loop, stream));
}

static void peer_on_end(kolo_loop *loop, kolo_stream stream, void *user) {
    peer *me = heard(loop, stream, user);
    CHECK_INT(me->ended, 0);
    me->ended++;
    if (me->shutdown_at_end) CHECK_OK(kolo_stream_shutdown(loop, stream, NULL, NULL));
    if (me->close_at_end) CHECK_OK(kolo_close(loop, stream));
}

static void peer_on_drain(kolo_loop *loop, kolo_stream stream, void *user) { heard(loop, stream, user)->drained++; }

static void peer_on_timeout(kolo_loop *loop, kolo_stream stream, int which, void *user) {
    peer *me = heard(loop, stream, user);
    me->timeouts++;
    me->last_timeout = which;
}

static void peer_on_error(kolo_loop *loop, kolo_stream stream, int error, void *user) {
    peer *me = heard(loop, stream, user);
    CHECK_INT(me->errors, 0); /* the stream is closed after it, so there is one at most */
    CHECK(error < 0);
    me->errors++;
    me->last_error = error;
}

static void peer_on_close(kolo_loop *loop, kolo_stream stream, void *user) { heard(loop, stream, user)->closed++; }

kolo_stream_handler peer_handler(void) {
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_open = peer_on_open;
    handler.on_data = peer_on_data;
    handler.on_end = peer_on_end;
    handler.on_drain = peer_on_drain;
    handler.on_timeout = peer_on_timeout;
    handler.on_error = peer_on_error;
    handler.on_close = peer_on_close;
    return handler;
}

void peer_free(peer *peer) {
    free(peer->data);
    peer->data = NULL;
    peer->capacity = 0;
}

static void pair_on_accept(kolo_loop *loop, kolo_listener listener, kolo_tcp stream, void *user) {
    (void)listener;
    pair *both = user;
    kolo_stream_handler handler = peer_handler();
    both->server.stream = stream;
    both->server.loop = loop;
    CHECK_OK(kolo_stream_attach(loop, stream, &handler, &both->server));
}

static void close_if_open(kolo_loop *loop, peer *peer) {
    if (peer->stream == 0 || peer->closed) return;
    int result = kolo_close(loop, peer->stream);
    CHECK(result == KOLO_OK || result == KOLO_EBADF);
    RUN_UNTIL(loop, peer->closed);
}

void pair_open(kolo_loop *loop, pair *both) {
    memset(both, 0, sizeof *both);
    kolo_address any = loopback_v4(0), bound;
    kolo_listener_handler accepting = KOLO_LISTENER_HANDLER_INIT;
    accepting.on_accept = pair_on_accept;
    kolo_listener listener = 0;
    CHECK_OK(kolo_tcp_listen(loop, &any, NULL, &accepting, both, &listener));
    CHECK_OK(kolo_listener_address(loop, listener, &bound));
    kolo_stream_handler handler = peer_handler();
    both->client.loop = loop;
    CHECK_OK(kolo_tcp_connect(loop, &bound, NULL, &handler, &both->client, &both->client.stream));
    RUN_UNTIL(loop, both->client.opened && both->server.stream != 0);
    CHECK_OK(kolo_close(loop, listener));
    run_some_turns(loop);
}

void pair_close(kolo_loop *loop, pair *both) {
    close_if_open(loop, &both->client);
    close_if_open(loop, &both->server);
    peer_free(&both->client);
    peer_free(&both->server);
}

void half_open(kolo_loop *loop, half *half) {
    memset(half, 0, sizeof *half);
    int sockets[2];
    raw_pair(sockets);
    kolo_stream_handler handler = peer_handler();
    half->peer.loop = loop;
    CHECK_OK(kolo_tcp_adopt(loop, sockets[0], &handler, &half->peer, &half->peer.stream));
    half->socket = sockets[1];
}

void half_close(kolo_loop *loop, half *half) {
    close_if_open(loop, &half->peer);
    raw_close(&half->socket);
    peer_free(&half->peer);
}
