/* Descriptors that are adopted twice: a handle has its descriptor alone, whatever adopts it, in every loop. */
#include "harness.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

/* ---- the functions that take a descriptor over, and descriptors that suit them ---- */

static int adopt_tcp(kolo_loop *loop, int number, kolo_handle *out) {
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_tcp_adopt(loop, number, &handler, NULL, out);
}
static int adopt_listener(kolo_loop *loop, int number, kolo_handle *out) {
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    return kolo_listener_adopt(loop, number, NULL, &handler, NULL, out);
}
static int adopt_udp(kolo_loop *loop, int number, kolo_handle *out) {
    kolo_udp_handler handler = KOLO_UDP_HANDLER_INIT;
    return kolo_udp_adopt(loop, number, NULL, &handler, NULL, out);
}
static int adopt_local(kolo_loop *loop, int number, kolo_handle *out) {
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_local_adopt(loop, number, &handler, NULL, out);
}
static int adopt_local_listener(kolo_loop *loop, int number, kolo_handle *out) {
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    return kolo_local_listener_adopt(loop, number, NULL, &handler, NULL, out);
}
static int adopt_pipe(kolo_loop *loop, int number, kolo_handle *out) {
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_pipe_adopt(loop, number, &handler, NULL, out);
}
static int adopt_file(kolo_loop *loop, int number, kolo_handle *out) { return kolo_file_adopt(loop, number, out); }

/* Each makes one descriptor, and may put another one, of the other end, into `peer`. */
static int make_tcp(int *peer) {
    int sockets[2];
    raw_pair(sockets);
    *peer = sockets[1];
    return sockets[0];
}
static int make_listener(int *peer) {
    kolo_address address = loopback_v4(0), bound;
    *peer = -1;
    return raw_listen(&address, 1, &bound);
}
static int make_udp(int *peer) {
    *peer = -1;
    return SYSTEM(socket(AF_INET, SOCK_DGRAM, 0));
}
static int make_local(int *peer) {
    int sockets[2];
    SYSTEM(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
    *peer = sockets[1];
    return sockets[0];
}
static int make_local_listener(int *peer) {
    /* Linux gives it an abstract name. */
    sa_family_t nameless = AF_UNIX;
    int listener = SYSTEM(socket(AF_UNIX, SOCK_STREAM, 0));
    SYSTEM(bind(listener, (struct sockaddr *)&nameless, sizeof nameless));
    SYSTEM(listen(listener, 1));
    *peer = -1;
    return listener;
}
static int make_pipe(int *peer) {
    int ends[2];
    SYSTEM(pipe(ends));
    *peer = ends[1];
    return ends[0];
}
static int make_file(int *peer) {
    *peer = -1;
    return SYSTEM(open("/dev/null", O_RDONLY));
}

static int release_socket(kolo_loop *loop, kolo_handle handle,
                          int (*release)(kolo_loop *, kolo_handle, kolo_socket *)) {
    kolo_socket released = -1;
    CHECK_OK(release(loop, handle, &released));
    return (int)released;
}
static int release_tcp(kolo_loop *loop, kolo_handle handle) { return release_socket(loop, handle, kolo_tcp_release); }
static int release_udp(kolo_loop *loop, kolo_handle handle) { return release_socket(loop, handle, kolo_udp_release); }
static int release_local(kolo_loop *loop, kolo_handle handle) {
    return release_socket(loop, handle, kolo_local_release);
}
static int release_file(kolo_loop *loop, kolo_handle handle) { return release_socket(loop, handle, kolo_file_release); }
static int release_pipe(kolo_loop *loop, kolo_handle handle) {
    int released = -1;
    CHECK_OK(kolo_pipe_release(loop, handle, &released));
    return released;
}

static const struct way {
    const char *name;
    int (*adopt)(kolo_loop *loop, int number, kolo_handle *out);
    int (*make)(int *peer);
    int (*release)(kolo_loop *loop, kolo_handle handle);
} ways[] = {
    {"tcp", adopt_tcp, make_tcp, release_tcp},
    {"listener", adopt_listener, make_listener, NULL},
    {"udp", adopt_udp, make_udp, release_udp},
    {"local", adopt_local, make_local, release_local},
    {"local listener", adopt_local_listener, make_local_listener, NULL},
    {"pipe", adopt_pipe, make_pipe, release_pipe},
    {"file", adopt_file, make_file, release_file},
};
enum { WAYS = sizeof ways / sizeof *ways };

static void refused_by_all(kolo_loop *loop, int number) {
    for (int i = 0; i < WAYS; i++) {
        kolo_handle out = 42;
        CHECK_ERROR(ways[i].adopt(loop, number, &out), KOLO_EEXIST);
        CHECK_INT(out, 42);
        CHECK(descriptor_is_open(number));
    }
}

/* A thread of the pool may close a file's descriptor. */
static void close_and_wait(kolo_loop *loop, kolo_handle handle, int number) {
    CHECK_OK(kolo_close(loop, handle));
    run_some_turns(loop);
    while (descriptor_is_open(number)) usleep(100);
}

/* ---- tests ---- */

TEST(a_descriptor_is_adopted_once_by_whatever_function_until_its_handle_closes) {
    kolo_loop *other = NULL;
    CHECK_OK(kolo_loop_new(NULL, &other));
    for (int i = 0; i < WAYS; i++) {
        int peer, next_peer, number = ways[i].make(&peer), next = ways[i].make(&next_peer);
        kolo_handle first, second;
        CHECK_OK(ways[i].adopt(loop, number, &first));
        refused_by_all(loop, number);
        refused_by_all(other, number);
        CHECK(kolo_kind_of(loop, first) > 0);
        close_and_wait(loop, first, number);
        CHECK_INT(SYSTEM(dup2(next, number)), number);
        CHECK_OK(ways[i].adopt(other, number, &second));
        refused_by_all(loop, number);
        close_and_wait(other, second, number);
        raw_close(&next);
        if (peer >= 0) raw_close(&peer);
        if (next_peer >= 0) raw_close(&next_peer);
    }
    CHECK_OK(kolo_loop_free(other));
}

TEST(a_released_descriptor_is_adopted_again) {
    for (int i = 0; i < WAYS; i++) {
        if (ways[i].release == NULL) continue;
        int peer, number = ways[i].make(&peer);
        kolo_handle handle;
        CHECK_OK(ways[i].adopt(loop, number, &handle));
        CHECK_INT(ways[i].release(loop, handle), number);
        CHECK_OK(ways[i].adopt(loop, number, &handle));
        refused_by_all(loop, number);
        close_and_wait(loop, handle, number);
        if (peer >= 0) raw_close(&peer);
    }
}

TEST(closing_both_does_not_close_an_unrelated_file) {
    int peer, number = make_tcp(&peer), unrelated = SYSTEM(open("/dev/null", O_RDONLY));
    kolo_handle first = 0, second = 0;
    CHECK_OK(adopt_tcp(loop, number, &first));
    int status = adopt_tcp(loop, number, &second);
    CHECK_OK(kolo_close(loop, first));
    run_some_turns(loop);
    SYSTEM(dup2(unrelated, number)); /* as whoever opens something next may get it */
    if (status == KOLO_OK) CHECK_OK(kolo_close(loop, second));
    run_some_turns(loop);
    CHECK(descriptor_is_open(number));
    CHECK_ERROR(status, KOLO_EEXIST);
    raw_close(&number);
    raw_close(&unrelated);
    raw_close(&peer);
}

TEST(a_refused_adoption_leaves_the_first_handle_at_work) {
    half half;
    half_open(loop, &half);
    kolo_socket number = -1;
    CHECK_OK(kolo_tcp_socket(loop, half.peer.stream, &number));
    refused_by_all(loop, (int)number);
    raw_write_all(half.socket, "still here", 10);
    RUN_UNTIL(loop, half.peer.received == 10);
    CHECK_RECEIVED(&half.peer, "still here");
    half_close(loop, &half);
}

TEST(a_number_that_a_handle_was_asked_for_is_found_out) {
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    kolo_udp_handler udp_handler = KOLO_UDP_HANDLER_INIT;
    kolo_address any = loopback_v4(0);
    kolo_handle udp, locals[2], pipes[2], file;
    kolo_socket numbers[4];
    int pipe_number = -1;
    CHECK_OK(kolo_udp_bind(loop, &any, NULL, &udp_handler, NULL, &udp));
    CHECK_OK(kolo_udp_socket(loop, udp, &numbers[0]));
    CHECK_OK(kolo_local_pair(loop, &handler, NULL, &handler, NULL, &locals[0], &locals[1]));
    CHECK_OK(kolo_local_socket(loop, locals[0], &numbers[1]));
    CHECK_OK(kolo_pipe_pair(loop, &handler, NULL, &handler, NULL, &pipes[0], &pipes[1]));
    CHECK_OK(kolo_pipe_descriptor(loop, pipes[0], &pipe_number));
    numbers[2] = pipe_number;
    int device = SYSTEM(open("/dev/null", O_RDONLY));
    CHECK_OK(kolo_file_adopt(loop, device, &file));
    CHECK_OK(kolo_file_descriptor(loop, file, &numbers[3]));
    for (int i = 0; i < 4; i++) refused_by_all(loop, (int)numbers[i]);
    kolo_handle all[] = {udp, locals[0], pipes[0], file};
    int spares[4];
    for (int i = 0; i < 4; i++) spares[i] = SYSTEM(open("/dev/null", O_RDONLY));
    for (int i = 0; i < 4; i++) {
        close_and_wait(loop, all[i], (int)numbers[i]);
        kolo_handle again;
        SYSTEM(dup2(spares[i], (int)numbers[i]));
        CHECK_OK(kolo_file_adopt(loop, numbers[i], &again));
        close_and_wait(loop, again, (int)numbers[i]);
        raw_close(&spares[i]);
    }
    CHECK_OK(kolo_close(loop, locals[1]));
    CHECK_OK(kolo_close(loop, pipes[1]));
    run_to_end(loop);
}

TEST(an_adoption_that_fails_takes_nothing) {
    int peer, number = make_udp(&peer), twin;
    kolo_handle out = 0;
    kolo_stream_handler none = KOLO_STREAM_HANDLER_INIT;
    CHECK_ERROR(adopt_tcp(loop, number, &out), KOLO_ENOTCONN);
    CHECK_ERROR(adopt_listener(loop, number, &out), KOLO_EINVAL);
    CHECK_ERROR(adopt_local(loop, number, &out), KOLO_EAFNOSUPPORT);
    CHECK_ERROR(adopt_local_listener(loop, number, &out), KOLO_EAFNOSUPPORT);
    CHECK_ERROR(adopt_pipe(loop, number, &out), KOLO_EPROTOTYPE);
    CHECK_ERROR(kolo_tcp_adopt(loop, number, &none, NULL, NULL), KOLO_EINVAL);
    CHECK_OK(adopt_udp(loop, number, &out)); /* and it is still the caller's to give */
    twin = SYSTEM(dup(number));              /* another descriptor */
    kolo_handle second;
    CHECK_OK(adopt_udp(loop, twin, &second));
    close_and_wait(loop, second, twin);
    close_and_wait(loop, out, number);
    CHECK_ERROR(adopt_udp(loop, number, &out), KOLO_EBADF); /* it is closed */
}

TEST_WITHOUT_LOOP(a_loop_that_is_freed_leaves_its_numbers) {
    for (int i = 0; i < WAYS; i++) {
        kolo_loop *first = NULL, *second = NULL;
        int peer, number = ways[i].make(&peer), twin = SYSTEM(dup(number));
        kolo_handle handle;
        CHECK_OK(kolo_loop_new(NULL, &first));
        CHECK_OK(kolo_loop_new(NULL, &second));
        CHECK_OK(ways[i].adopt(first, number, &handle));
        CHECK_OK(kolo_loop_free(first));
        while (descriptor_is_open(number)) usleep(100);
        CHECK_INT(SYSTEM(dup2(twin, number)), number);
        raw_close(&twin);
        CHECK_OK(ways[i].adopt(second, number, &handle));
        close_and_wait(second, handle, number);
        CHECK_OK(kolo_loop_free(second));
        if (peer >= 0) raw_close(&peer);
    }
}

static void *adopt_elsewhere(void *number) {
    kolo_loop *loop = NULL;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    refused_by_all(loop, *(int *)number);
    CHECK_OK(kolo_loop_free(loop));
    return NULL;
}

TEST(loops_of_other_threads_refuse_it_too) {
    int peer, number = make_tcp(&peer);
    kolo_handle handle;
    CHECK_OK(adopt_tcp(loop, number, &handle));
    on_another_thread(adopt_elsewhere, &number);
    close_and_wait(loop, handle, number);
    raw_close(&peer);
}

TEST(a_forked_child_owns_its_copies) {
    int peer, number = make_tcp(&peer);
    kolo_handle handle;
    CHECK_OK(adopt_tcp(loop, number, &handle));
    pid_t child = SYSTEM(fork());
    if (child == 0) {
        int twin = SYSTEM(dup(number));
        CHECK_OK(kolo_loop_fork(loop));
        refused_by_all(loop, number);
        close_and_wait(loop, handle, number);
        SYSTEM(dup2(twin, number));
        CHECK_OK(adopt_tcp(loop, number, &handle));
        _exit(0);
    }
    int status = -1;
    SYSTEM(waitpid(child, &status, 0));
    CHECK_INT(status, 0);
    refused_by_all(loop, number);
    close_and_wait(loop, handle, number);
    raw_close(&peer);
}

static void no_poll(kolo_loop *loop, kolo_poll poll, int status, uint32_t events, void *user) {
    (void)loop, (void)poll, (void)status, (void)events, (void)user;
    test_fail(__FILE__, __LINE__, "nothing is ready");
}

TEST(what_a_handle_has_is_not_polled_but_a_duplicate_is) {
    int peer, number = make_tcp(&peer), twin = SYSTEM(dup(number));
    kolo_handle handle;
    kolo_poll poll = 0, second = 0;
    /* A poll owns nothing: as many as one likes, of which one is started. */
    CHECK_OK(kolo_poll_open(loop, twin, no_poll, NULL, &poll));
    CHECK_OK(kolo_poll_open(loop, twin, no_poll, NULL, &second));
    CHECK_OK(kolo_poll_start(loop, poll, KOLO_POLL_READABLE));
    CHECK_ERROR(kolo_poll_start(loop, second, KOLO_POLL_READABLE), KOLO_EEXIST);
    CHECK_OK(kolo_close(loop, second));
    CHECK_OK(adopt_tcp(loop, number, &handle));
    second = 42;
    CHECK_ERROR(kolo_poll_open(loop, number, no_poll, NULL, &second), KOLO_EEXIST);
    CHECK_INT(second, 42);
    run_some_turns(loop);
    CHECK_OK(kolo_close(loop, poll));
    close_and_wait(loop, handle, number);
    run_to_end(loop);
    raw_close(&twin);
    raw_close(&peer);
}
