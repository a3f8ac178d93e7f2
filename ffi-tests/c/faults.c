/* What a C program can do to a loop by mistake: descriptors of kolo's closed behind its back. What is done next with them
 * is told KOLO_EBADF, nothing spins, and the loop goes on. */
#include "harness.h"

#include <sys/socket.h>

/* How many turns the loop makes in 60 ms in which nothing happens. */
static void on_timer(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)loop, (void)timer;
    *(bool *)user = true;
}

static uint64_t turns(kolo_loop *loop) {
    kolo_metrics metrics = KOLO_METRICS_INIT;
    CHECK_OK(kolo_loop_metrics(loop, &metrics));
    return metrics.turns;
}

static void rests(kolo_loop *loop) {
    bool fired = false;
    kolo_timer timer = 0;
    uint64_t before = turns(loop);
    CHECK_OK(kolo_timer_open(loop, on_timer, &fired, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, MILLISECONDS(60), 0));
    RUN_UNTIL(loop, fired);
    CHECK(turns(loop) - before < 50); /* it spins */
    CHECK_OK(kolo_close(loop, timer));
    run_some_turns(loop);
}

/* The descriptor is gone, and the number free for others. */
static void close_behind(int descriptor) {
    CHECK(descriptor >= 0);
    SYSTEM(close(descriptor));
}

/* Writing to it is told. */
static void check_told(kolo_loop *loop, kolo_stream stream, peer *peer) {
    rests(loop);
    if (peer->closed == 0) {
        int written = kolo_stream_write(loop, stream, "to nobody", 9);
        if (written >= 0) {
            RUN_UNTIL(loop, peer->closed == 1);
            CHECK_INT(peer->errors, 1);
            CHECK_ERROR(peer->last_error, KOLO_EBADF);
        } else {
            CHECK_ERROR(written, KOLO_EBADF);
            CHECK_OK(kolo_close(loop, stream));
            RUN_UNTIL(loop, peer->closed == 1);
        }
    }
    rests(loop);
    peer_free(peer);
}

TEST(a_tcp_socket_closed_behind_is_told) {
    half half;
    half_open(loop, &half);
    kolo_socket descriptor = -1;
    CHECK_OK(kolo_tcp_socket(loop, half.peer.stream, &descriptor));
    run_some_turns(loop);
    close_behind((int)descriptor);
    check_told(loop, half.peer.stream, &half.peer);
    raw_close(&half.socket);
}

TEST(a_tcp_socket_closed_behind_can_be_closed) {
    half half;
    half_open(loop, &half);
    kolo_socket descriptor = -1;
    CHECK_OK(kolo_tcp_socket(loop, half.peer.stream, &descriptor));
    run_some_turns(loop);
    close_behind((int)descriptor);
    CHECK_OK(kolo_close(loop, half.peer.stream));
    RUN_UNTIL(loop, half.peer.closed == 1);
    CHECK_INT(half.peer.errors, 0);
    rests(loop);
    raw_close(&half.socket);
    peer_free(&half.peer);
}

TEST(a_unix_domain_socket_closed_behind_is_told) {
    peer one = {.loop = loop}, other = {.loop = loop};
    kolo_stream_handler handler = peer_handler();
    CHECK_OK(kolo_local_pair(loop, &handler, &one, &handler, &other, &one.stream, &other.stream));
    kolo_socket descriptor = -1;
    CHECK_OK(kolo_local_socket(loop, one.stream, &descriptor));
    run_some_turns(loop);
    close_behind((int)descriptor);
    check_told(loop, one.stream, &one);
    if (other.closed == 0) CHECK_OK(kolo_close(loop, other.stream));
    RUN_UNTIL(loop, other.closed == 1);
    peer_free(&other);
}

TEST(a_pipe_closed_behind_is_told) {
    peer reader = {.loop = loop}, writer = {.loop = loop};
    kolo_stream_handler handler = peer_handler();
    CHECK_OK(kolo_pipe_pair(loop, &handler, &reader, &handler, &writer, &reader.stream, &writer.stream));
    int descriptor = -1;
    CHECK_OK(kolo_pipe_descriptor(loop, writer.stream, &descriptor));
    run_some_turns(loop);
    close_behind(descriptor);
    check_told(loop, writer.stream, &writer);
    RUN_UNTIL(loop, reader.ended == 1); /* the last writer is gone */
    CHECK_OK(kolo_close(loop, reader.stream));
    RUN_UNTIL(loop, reader.closed == 1);
    peer_free(&reader);
}

static void on_datagram_error(kolo_loop *loop, kolo_udp udp, const kolo_datagram_error *error, void *user) {
    (void)loop, (void)udp;
    *(int *)user = error->error;
}

static void on_datagram(kolo_loop *loop, kolo_udp udp, const kolo_datagram *datagram, void *user) {
    (void)loop, (void)udp, (void)datagram, (void)user;
}

TEST(a_udp_socket_closed_behind_is_told) {
    kolo_udp_handler handler = KOLO_UDP_HANDLER_INIT;
    handler.on_datagram = on_datagram;
    handler.on_error = on_datagram_error;
    kolo_address any = loopback_v4(0), to = loopback_v4(9);
    kolo_udp udp = 0;
    kolo_socket descriptor = -1;
    int error = 0;
    CHECK_OK(kolo_udp_bind(loop, &any, NULL, &handler, &error, &udp));
    CHECK_OK(kolo_udp_socket(loop, udp, &descriptor));
    run_some_turns(loop);
    close_behind((int)descriptor);
    rests(loop);
    CHECK(kolo_udp_send(loop, udp, "x", 1, &to) >= 0);
    RUN_UNTIL(loop, error != 0);
    CHECK_ERROR(error, KOLO_EBADF);
    rests(loop);
    CHECK_OK(kolo_close(loop, udp));
    run_to_end(loop);
}

static void on_poll(kolo_loop *loop, kolo_poll poll, int status, uint32_t events, void *user) {
    (void)loop, (void)poll, (void)status, (void)events;
    ++*(int *)user;
}

TEST(a_watched_descriptor_that_is_closed_is_silent) {
    int ends[2], called = 0;
    kolo_poll poll = 0;
    SYSTEM(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    CHECK_OK(kolo_poll_open(loop, ends[0], on_poll, &called, &poll));
    CHECK_OK(kolo_poll_start(loop, poll, KOLO_POLL_READABLE));
    run_some_turns(loop);
    raw_close(&ends[0]);
    raw_close(&ends[1]);
    rests(loop);
    CHECK_INT(called, 0);
    CHECK_ERROR(kolo_poll_start(loop, poll, KOLO_POLL_READABLE), KOLO_EBADF);
    CHECK_OK(kolo_close(loop, poll));
    run_to_end(loop);
}

typedef struct waiting {
    int calls;
    int error;
} waiting;

static void on_accept(kolo_loop *loop, kolo_listener listener, kolo_stream stream, void *user) {
    (void)loop, (void)listener, (void)stream;
    ((waiting *)user)->calls++;
}

/* A number that is free again may be somebody else's by the time that kolo closes its own: that is the program's doing,
 * and kolo can only do what it was told. Here nobody else has it. */
TEST(a_listener_closed_behind_neither_spins_nor_keeps_the_loop_from_ending) {
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    handler.on_accept = on_accept;
    kolo_address any = loopback_v4(0), bound;
    kolo_listener listener = 0;
    waiting waiting = {0, 0};
    int mine = raw_listen(&any, 4, &bound);
    CHECK_OK(kolo_listener_adopt(loop, mine, NULL, &handler, &waiting, &listener));
    run_some_turns(loop);
    close_behind(mine);
    rests(loop);
    CHECK_INT(waiting.calls, 0);
    CHECK_OK(kolo_close(loop, listener));
    run_to_end(loop);
}
